"""Coders of every kind by their formulas; two dictionaries of a transcoder; a warning at another site."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from bilens import sae
from bilens.errors import BilensError, ShapeError, StoreError
from bilens.sae import Coder, Site, SiteWarning
from bilens.sae._formats.content import NORMALIZATIONS, VECTORS
from bilens.space import Space
from goldens import GOLDEN

COUNTED = ("topk", "abstopk", "groupmax")


def build(rule: str, d_in: int = 5, d_sae: int = 12, *, seed: int = 0, scale: float = 1.0, **how: Any) -> Coder:
    """A coder in float64 with random weights."""
    k = 3 if rule in COUNTED else None
    coder = Coder(d_in, d_sae, rule, k=k, **how).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in coder.parameters():
            value.copy_(scale * torch.randn(value.shape, generator=generator, dtype=torch.float64))
        if rule == "matching_pursuit":
            coder.W_enc.copy_(coder.W_dec.T)
    return coder


def arrays(coder: Coder) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in coder.named_parameters()}


def normalised(coder: Coder, x: np.ndarray) -> tuple[np.ndarray, float, float]:
    """One vector as it is encoded, and the scale and shift that bring it back."""
    if coder.normalization == "layer_norm":
        shift, scale = x.mean(), x.std(ddof=1)
        return (x - shift) / (scale + 1e-5), scale, shift
    if coder.normalization == "constant_norm_rescale":
        scale = np.linalg.norm(x) / np.sqrt(len(x))
        return (x / scale if scale else x), scale, 0.0
    return x, 1.0, 0.0


def codes_of(coder: Coder, z: np.ndarray) -> np.ndarray:
    """The codes of one vector, feature by feature."""
    w = arrays(coder)
    z = z - w["b_dec"] if coder.apply_b_dec_to_input else z
    acts = np.zeros(coder.d_sae)
    if coder.architecture == "matching_pursuit":
        return pursued(coder, z, w["W_dec"])
    lines = z @ w["W_enc"]
    if coder.architecture == "gated":
        for f in range(coder.d_sae):
            if lines[f] + w["b_gate"][f] > 0:
                acts[f] = max(0.0, lines[f] * np.exp(w["r_mag"][f]) + w["b_mag"][f])
        return acts
    pre = lines + w["b_enc"]
    if coder.architecture == "standard":
        acts = np.maximum(pre, 0)
    elif coder.architecture == "jumprelu":
        acts = np.where((pre > 0) & (pre > w["threshold"]), pre, 0)
    elif coder.architecture == "topk":
        for f in np.argsort(-pre)[: coder.k]:
            acts[f] = max(0.0, pre[f])
    elif coder.architecture == "abstopk":
        for f in np.argsort(-np.abs(pre))[: coder.k]:
            acts[f] = pre[f]
    else:
        size = coder.d_sae // coder.k
        for group in range(coder.k):
            f = group * size + int(np.argmax(pre[group * size : (group + 1) * size]))
            acts[f] = max(0.0, pre[f])
    return acts


def pursued(coder: Coder, residual: np.ndarray, atoms: np.ndarray) -> np.ndarray:
    acts, support = np.zeros(coder.d_sae), set()
    for _ in range(coder.max_iterations):
        best = int(np.argmax(atoms @ residual))
        step = max(0.0, float(atoms[best] @ residual))
        acts[best] += step
        residual = residual - step * atoms[best]
        now = set(np.nonzero(acts)[0].tolist())
        if (coder.stop_on_duplicate_support and now == support) or (
            0 < coder.residual_threshold > np.linalg.norm(residual)
        ):
            break
        support = now
    return acts


@given(
    rule=st.sampled_from(tuple(VECTORS)),
    normalization=st.sampled_from(NORMALIZATIONS),
    subtract=st.booleans(),
    skip=st.booleans(),
    transcodes=st.booleans(),
    d_in=st.integers(2, 6),
    d_out=st.integers(1, 6),
    seed=st.integers(0, 2**16),
)
def test_codes_and_reconstructions_follow_their_formulas(
    rule: str, normalization: str, subtract: bool, skip: bool, transcodes: bool, d_in: int, d_out: int, seed: int
) -> None:
    transcodes = transcodes and rule != "matching_pursuit"
    d_out = d_out if transcodes else d_in
    coder = build(
        rule,
        d_in,
        seed=seed,
        scale=0.6,
        d_out=d_out,
        normalization=normalization,
        skip=skip,
        transcodes=transcodes,
        apply_b_dec_to_input=subtract and d_out == d_in,
    )
    x = torch.randn(4, d_in, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    w = arrays(coder)
    acts, found = [], []
    for row in x.numpy():
        z, scale, shift = normalised(coder, row)
        a = codes_of(coder, z)
        y = a @ w["W_dec"] + w["b_dec"]
        y = y if transcodes else y * scale + shift
        acts.append(a)
        found.append(y + w["W_skip"] @ row if skip else y)
    with torch.no_grad():
        assert_close(coder.encode(x), torch.from_numpy(np.stack(acts)), rtol=1e-9, atol=1e-9)
        assert_close(coder(x), torch.from_numpy(np.stack(found)), rtol=1e-9, atol=1e-9)


def test_pursuit_stops_by_each_of_its_settings() -> None:
    x = torch.randn(50, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for how in (
        {"stop_on_duplicate_support": False, "residual_threshold": 0.0, "max_iterations": 9},
        {"stop_on_duplicate_support": False, "residual_threshold": 0.8, "max_iterations": 9},
        {"stop_on_duplicate_support": True, "residual_threshold": 0.0, "max_iterations": 9},
        {"max_iterations": 1},
    ):
        coder = build("matching_pursuit", scale=0.4, **how)
        expected = np.stack([codes_of(coder, row) for row in x.numpy()])
        with torch.no_grad():
            assert_close(coder.encode(x), torch.from_numpy(expected), rtol=1e-9, atol=1e-9)
    counts = (expected != 0).sum(axis=1)
    assert counts.max() == 1


def test_a_vector_of_zeros_has_finite_codes_under_every_normalisation() -> None:
    for normalization in NORMALIZATIONS:
        coder = build("standard", normalization=normalization)
        with torch.no_grad():
            assert bool(coder(torch.zeros(2, 5)).isfinite().all())


@pytest.mark.parametrize("rule", list(VECTORS))
def test_gradients_flow_through_every_rule(rule: str) -> None:
    coder = build(rule, scale=0.5)
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    coder(x).square().sum().backward()
    assert x.grad is not None
    numeric = torch.zeros_like(x)
    with torch.no_grad():
        for i in range(6):
            for j in range(5):
                step = torch.zeros_like(x)
                step[i, j] = 1e-6
                numeric[i, j] = (coder(x + step).square().sum() - coder(x - step).square().sum()) / 2e-6
    assert_close(x.grad, numeric, rtol=1e-4, atol=1e-4)


def test_codes_of_normalised_vectors_are_not_decoded_without_them() -> None:
    coder = build("standard", normalization="layer_norm")
    x = torch.randn(3, 5, dtype=torch.float64)
    with pytest.raises(BilensError, match=r"codes alone .* under layer_norm.*Call restore\(codes, x\)"):
        coder.decode(coder.encode(x))
    assert_close(coder.restore(coder.encode(x), x), coder(x))


def test_edited_codes_keep_the_scale_and_the_skip_of_their_vectors() -> None:
    coder = build("standard", normalization="constant_norm_rescale", skip=True)
    x = torch.randn(3, 5, dtype=torch.float64)
    acts = coder.encode(x).detach()
    assert coder.W_skip is not None
    scale = x.norm(dim=1, keepdim=True) / 5**0.5
    edited = torch.zeros_like(acts)
    assert_close(coder.restore(edited, x), coder.b_dec * scale + x @ coder.W_skip.T)


@given(factor=st.floats(0.1, 10), rule=st.sampled_from([rule for rule in VECTORS if rule != "matching_pursuit"]))
def test_a_coder_can_be_rescaled_where_codes_grow_with_vectors(factor: float, rule: str) -> None:
    coder = build(rule, skip=True)
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        before, codes = coder(x), coder.encode(x)
        coder.rescale(factor)
        assert_close(coder.encode(factor * x), factor * codes)
        assert_close(coder(factor * x), factor * before)


def test_a_coder_whose_codes_do_not_grow_with_vectors_is_not_rescaled() -> None:
    with pytest.raises(BilensError, match="a scale for a coder under layer_norm"):
        build("standard", normalization="layer_norm").rescale(2)
    with pytest.raises(BilensError, match="a scale for a coder under matching pursuit"):
        build("matching_pursuit").rescale(2)


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ({"architecture": "softplus"}, "architecture"),
        ({"normalization": "batch"}, "normalization"),
        ({"architecture": "topk"}, "k = None with architecture 'topk'"),
        ({"k": 3}, "k = 3 with architecture 'standard'"),
        ({"architecture": "topk", "k": 13}, "k = 13"),
        ({"architecture": "groupmax", "k": 5}, "12 features in k = 5 groups"),
        ({"d_out": 4, "apply_b_dec_to_input": True}, "a b_dec of size 4 subtracted from vectors of size 5"),
        ({"architecture": "matching_pursuit", "transcodes": True}, "a transcoder by matching pursuit"),
        ({"d_in": 1, "normalization": "layer_norm"}, "layer_norm of vectors of one coordinate"),
        ({"residual_threshold": -1}, "residual_threshold"),
        ({"max_iterations": 0}, "max_iterations"),
        ({"skip": 1}, "skip"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(how: dict[str, Any], line: str) -> None:
    with pytest.raises(BilensError, match=line):
        Coder(**{"d_in": 5, "d_sae": 12, **how})


def test_a_foreign_coder_is_neither_written_nor_trained(tmp_path: Path) -> None:
    coder = sae.load(GOLDEN / "saelens_abstopk")
    with pytest.raises(StoreError, match=r"a coder of the kind 'abstopk'.*Keep the folder that it was read from"):
        coder.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(BilensError, match="expected a StandardSAE or a TopKSAE"):
        sae.train(coder, sae.TensorStream(torch.randn(8, 6), 4), steps=1, progress=False, device="cpu")


# Dictionaries


def test_a_transcoder_gives_two_dictionaries() -> None:
    coder = sae.load(GOLDEN / "saelens_transcoder")
    inputs, outputs = Space("MLP inputs", 6), Space("MLP outputs", 7)
    read, written = coder.encoder_dictionary(inputs), coder.dictionary(outputs)
    assert torch.equal(read.atoms, coder.W_enc.detach().T)
    assert torch.equal(written.atoms, coder.W_dec.detach())
    assert read.offset is None
    assert written.offset is not None
    assert torch.equal(written.offset, coder.b_dec.detach())
    assert_close(written.duals, torch.linalg.pinv(coder.W_dec.detach().T), rtol=1e-3, atol=1e-4)
    assert (read.space, written.space) == (inputs, outputs)
    few = coder.encoder_dictionary(inputs, active=[3, 0])
    assert few.features.labels == ("3", "0")
    assert torch.equal(few.atoms, coder.W_enc.detach().T[[3, 0]])
    for wrong in (coder.dictionary, coder.encoder_dictionary):
        with pytest.raises(ShapeError):
            wrong(Space("other", 5))


def test_an_autoencoders_encoder_has_the_offset_that_it_subtracts() -> None:
    space = Space("x", 16)
    coder = sae.load(GOLDEN / "saelens_standard")
    offset = coder.encoder_dictionary(space).offset
    assert offset is not None
    assert torch.equal(offset, coder.b_dec.detach())


# Sites


def measured(coder: sae.SAE, x: Tensor, *targets: Tensor) -> tuple[sae.Evaluation, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = sae.evaluate(coder, x, *targets)
    assert all(issubclass(one.category, SiteWarning) for one in caught)
    return found, [str(one.message) for one in caught]


def good(site: Site | None) -> sae.StandardSAE:
    """A coder that rebuilds vectors around its own mean exactly: ReLU pairs of both signs of every coordinate."""
    coder = sae.StandardSAE(4, 8)
    with torch.no_grad():
        coder.W_enc.copy_(torch.cat([torch.eye(4), -torch.eye(4)], dim=1))
        coder.W_dec.copy_(coder.W_enc.T)
    coder.site = site
    return coder


@pytest.mark.parametrize(("factor", "warns"), [(0.2, True), (-0.2, False)])
def test_a_little_worse_than_the_mean_is_told_and_a_little_better_is_not(factor: float, warns: bool) -> None:
    x = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    x = x - x.mean(dim=0)
    coder = good(Site("blocks.3.hook_mlp_out"))
    with torch.no_grad():
        coder.W_dec.mul_(-factor)  # x̂ = −x / 5 has an FVU of 1.44, and x / 5 one of 0.64
    found, said = measured(coder, x)
    assert 1 - found.explained_variance == pytest.approx((1 + factor) ** 2)
    assert bool(said) is warns


def test_an_fvu_above_1_warns_and_names_the_site() -> None:
    x = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    site = Site("blocks.3.hook_mlp_out", 3, "gelu-2l")
    coder = good(site)
    found, said = measured(coder, x)
    assert found.explained_variance == pytest.approx(1)
    assert not said
    with torch.no_grad():
        coder.W_dec.mul_(-1)  # x̂ = −x
    expected = 1 - float((4 * x.double().square()).sum() / (x.double() - x.double().mean(dim=0)).square().sum())
    found, said = measured(coder, x)
    assert found.explained_variance == pytest.approx(expected)
    assert len(said) == 1
    assert said[0].startswith(
        f"the coder explains less of these 100 vectors than their mean does: FVU {1 - expected:.3g}, where the mean "
        "has 1. It was made for blocks.3.hook_mlp_out of gelu-2l"
    )
    coder.site = Site()
    assert "It was made for a site that its folder does not name" in measured(coder, x)[1][0]


def test_a_coder_of_ours_does_not_warn_and_neither_do_vectors_without_variance() -> None:
    x = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    coder = good(None)
    with torch.no_grad():
        coder.W_dec.mul_(-1)
    assert not measured(coder, x)[1]
    coder.site = Site("anywhere")
    assert not measured(coder, torch.ones(5, 4))[1]


def test_a_transcoder_is_measured_against_its_targets() -> None:
    coder = sae.load(GOLDEN / "saelens_skip_transcoder")
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y = coder(x) + 0.1 * torch.randn(200, 7, generator=torch.Generator().manual_seed(1))
    found, said = measured(coder, x, y)
    with torch.no_grad():
        error = (y - coder(x)).double().square().sum()
    assert found.nmse == pytest.approx(float(error / y.double().square().sum()))
    spread = (y - y.double().mean(dim=0)).square().sum()
    assert found.explained_variance == pytest.approx(float(1 - error / spread))
    assert not said
    batches = sae.TensorStream(x, 64, shuffle=False), sae.TensorStream(y, 64, shuffle=False)
    assert sae.evaluate(coder, *batches).nmse == pytest.approx(found.nmse)


@pytest.mark.bad_input
def test_targets_that_do_not_belong_to_the_vectors_are_refused() -> None:
    coder = sae.load(GOLDEN / "saelens_skip_transcoder")
    x, y = torch.randn(200, 6), torch.randn(200, 7)
    with pytest.raises(BilensError, match=r"a transcoder without targets.*Pass them as targets"):
        sae.evaluate(coder, x)
    with pytest.raises(BilensError, match="an autoencoder with targets"):
        sae.evaluate(good(None), x[:, :4], x[:, :4])
    with pytest.raises(ShapeError, match=r"targets of shape \(199, 7\)"):
        sae.evaluate(coder, x, y[1:])
    with pytest.raises(ShapeError, match=r"targets of shape \(200, 6\)"):
        sae.evaluate(coder, x, x)
    with pytest.raises(ShapeError, match="targets in 1 batches; expected 4, as the vectors"):
        sae.evaluate(coder, sae.TensorStream(x, 64, shuffle=False), y)


@pytest.mark.parametrize(
    ("site", "said"),
    [
        (Site("blocks.8.hook_resid_pre", 8, "gpt2"), "blocks.8.hook_resid_pre of gpt2"),
        (Site("mlp_out", 3, "example/model"), "mlp_out of layer 3 of example/model"),
        (Site("a", 1, "", "b"), "a → b of layer 1"),
        (Site(layer=2), "layer 2"),
        (Site(), "a site that its folder does not name"),
    ],
)
def test_a_site_says_where_it_is(site: Site, said: str) -> None:
    assert str(site) == said


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("blocks.8.hook_resid_pre", 8),
        ("layers.5.mlp", 5),
        ("transformer.h.0", 0),
        ("layers_7", 7),
        ("model.layers.3.mlp.experts.4", None),
        ("mlp_out", None),
        ("fc1", None),
        ("h.999999999", None),
    ],
)
def test_the_layer_is_the_one_number_in_a_name(name: str, layer: int | None) -> None:
    assert sae.site.layer_of(name) == layer
