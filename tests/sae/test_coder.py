"""The four architectures: their codes by their formulas, gradients, dictionaries, and the scale of the vectors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from bilens import sae
from bilens._internal.sums import top_k
from bilens.errors import BilensError, ShapeError, SpaceError
from bilens.space import Space

KINDS = ("standard", "topk", "topk without ReLU", "jumprelu", "gated")


def build(kind: str, d_in: int = 5, d_sae: int = 9, k: int = 3, *, seed: int = 0, subtract: bool = True) -> sae.SAE:
    """An SAE in float64 with random weights, biases included."""
    coder: sae.SAE
    if kind.startswith("topk"):
        coder = sae.TopKSAE(d_in, d_sae, k, rectify=kind == "topk", apply_b_dec_to_input=subtract)
    else:
        classes = {"standard": sae.StandardSAE, "jumprelu": sae.JumpReLUSAE, "gated": sae.GatedSAE}
        coder = classes[kind](d_in, d_sae, apply_b_dec_to_input=subtract)
    coder.double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in coder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return coder


def formula(coder: sae.SAE, x: Tensor) -> Tensor:
    """The codes of single vectors, one after the other, by loops over features."""
    w = {name: value.detach() for name, value in coder.named_parameters()}
    rows = []
    for vector in x:
        z = (vector - w["b_dec"] if coder.apply_b_dec_to_input else vector) @ w["W_enc"]
        acts = torch.zeros(coder.d_sae, dtype=torch.float64)
        for f in range(coder.d_sae):
            if isinstance(coder, sae.GatedSAE):
                if z[f] + w["b_gate"][f] > 0:
                    acts[f] = max(0.0, float(z[f] * torch.exp(w["r_mag"][f]) + w["b_mag"][f]))
            elif isinstance(coder, sae.JumpReLUSAE):
                pre = float(z[f] + w["b_enc"][f])
                acts[f] = pre if pre > 0 and pre > float(w["threshold"][f]) else 0.0
            elif isinstance(coder, sae.StandardSAE):
                acts[f] = max(0.0, float(z[f] + w["b_enc"][f]))
        if isinstance(coder, sae.TopKSAE):
            pre_all = (z + w["b_enc"]).tolist()
            for f in sorted(range(coder.d_sae), key=lambda g: -pre_all[g])[: coder.k]:
                acts[f] = max(0.0, pre_all[f]) if coder.rectify else pre_all[f]
        rows.append(acts)
    return torch.stack(rows)


@given(
    st.sampled_from(KINDS),
    st.integers(1, 6),
    st.integers(1, 12),
    st.integers(1, 12),
    st.booleans(),
    st.integers(0, 999),
)
def test_codes_and_reconstructions_are_those_of_the_formulas(
    kind: str, d_in: int, d_sae: int, k: int, subtract: bool, seed: int
) -> None:
    coder = build(kind, d_in, d_sae, min(k, d_sae), seed=seed, subtract=subtract)
    x = torch.randn(4, d_in, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    acts = formula(coder, x)
    x_hat = acts @ coder.W_dec.detach() + coder.b_dec.detach()
    assert_close(coder.encode(x).detach(), acts)
    assert_close(coder.decode(acts).detach(), x_hat)
    assert_close(coder(x).detach(), x_hat)
    codes = coder.sparse(x)
    assert_close(codes.x_hat.detach(), x_hat)
    if codes.values.ndim == 1:
        assert_close(codes.values.detach(), acts[acts != 0])
        assert torch.equal(codes.features, acts.nonzero()[:, 1])
    else:
        dense = torch.zeros_like(acts).scatter(1, codes.features.expand_as(codes.values), codes.values)
        assert_close(dense.detach(), acts)
    features, uses = codes.uses()
    assert_close(torch.zeros(d_sae).double().index_add_(0, features, uses), (acts != 0).sum(dim=0).double())


@pytest.mark.parametrize("kind", KINDS)
def test_any_leading_axes(kind: str) -> None:
    coder = build(kind)
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    assert_close(coder.encode(x)[1, 2], coder.encode(x[1, 2]))
    assert_close(coder(x)[1], coder(x[1]))
    assert coder.encode(x[:0]).shape == (0, 3, 9)


@pytest.mark.parametrize("few", [False, True])
def test_gradients_of_the_lit_features_are_those_of_all(few: bool) -> None:
    coder = build("standard", 4, 30)
    with torch.no_grad():
        coder.b_enc -= 2  # some features are lit by no vector
        if few:
            coder.b_enc[3:] -= 1000
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 4, generator=generator, dtype=torch.float64).requires_grad_()
    if few:
        with torch.no_grad():
            x[2] = coder.b_dec + 20 * coder.W_enc[:, 1]  # one vector with a code, five without
    weight = torch.randn(6, 4, dtype=torch.float64)
    inputs = [x, *coder.parameters()]
    codes = coder.sparse(x)
    assert 0 < len(codes.features) < 30
    assert codes.values.ndim == (1 if few else 2)
    ours = torch.autograd.grad((codes.x_hat * weight).sum() + codes.values.pow(3).sum(), inputs)
    acts = coder.encode(x)
    dense = torch.autograd.grad((coder.decode(acts) * weight).sum() + acts.pow(3).sum(), inputs)
    for a, b in zip(ours, dense, strict=True):
        assert_close(a, b)
    with torch.no_grad():
        coder.b_enc -= 1000
    assert_close(coder.sparse(x).x_hat, coder.b_dec.expand(6, 4))


@pytest.mark.parametrize("rectify", [True, False])
@pytest.mark.parametrize("d_sae", [7, 90])
def test_sparse_gradients_are_those_of_the_dense_formula(rectify: bool, d_sae: int) -> None:
    coder = build("topk" if rectify else "topk without ReLU", 4, d_sae, 3)
    x = torch.randn(20, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(20, 4, dtype=torch.float64)
    inputs = [x, *coder.parameters()]

    codes = coder.sparse(x)
    ours = torch.autograd.grad((codes.x_hat * weight).sum() + codes.values.pow(3).sum(), inputs)

    pre = (x - coder.b_dec) @ coder.W_enc + coder.b_enc
    kept = pre * (pre >= pre.detach().sort(dim=1, descending=True).values[:, 2:3])
    acts = torch.relu(kept) if rectify else kept
    dense = torch.autograd.grad(((acts @ coder.W_dec + coder.b_dec) * weight).sum() + acts.pow(3).sum(), inputs)
    for a, b in zip(ours, dense, strict=True):
        assert_close(a, b)


@given(st.integers(1, 8), st.integers(1, 300), st.integers(1, 40), st.sampled_from(["normal", "ties", "equal"]))
def test_top_k_finds_the_k_largest(rows: int, columns: int, k: int, fill: str) -> None:
    generator = torch.Generator().manual_seed(rows * 1000 + columns)
    pre = torch.randn(rows, columns, generator=generator)
    pre = {"normal": pre, "ties": pre.round(), "equal": torch.zeros_like(pre)}[fill]
    k = min(k, columns)
    values, places = top_k(pre, k)
    assert_close(values.sort(dim=1).values, pre.sort(dim=1).values[:, columns - k :], rtol=0, atol=0)
    assert_close(pre.gather(1, places), values, rtol=0, atol=0)
    assert all(len(set(row)) == k for row in places.tolist())


@pytest.mark.parametrize("kind", KINDS)
def test_rescale_makes_the_coder_homogeneous(kind: str) -> None:
    coder, x = build(kind), torch.randn(30, 5, dtype=torch.float64)
    acts, x_hat = coder.encode(x).detach(), coder(x).detach()
    coder.rescale(250.0)
    assert_close(coder.encode(250 * x).detach(), 250 * acts)
    assert_close(coder(250 * x).detach(), 250 * x_hat)


def test_new_coders_have_unit_rows_a_tied_encoder_and_no_bias() -> None:
    a, b, other = (sae.StandardSAE(6, 10, seed=seed) for seed in (3, 3, 4))
    assert_close(a.W_dec.norm(dim=1), torch.ones(10))
    assert torch.equal(a.W_enc, a.W_dec.T)
    assert not a.b_enc.any()
    assert not a.b_dec.any()
    assert torch.equal(a.W_dec, b.W_dec)
    assert not torch.equal(a.W_dec, other.W_dec)
    assert (a.d_in, a.d_sae) == (6, 10)


def test_the_dictionary_has_the_decoder_and_its_pseudoinverse() -> None:
    coder = build("standard", 5, 3)
    space = Space("hidden", 5)
    dictionary = coder.dictionary(space)
    atoms = coder.W_dec.detach()
    assert_close(dictionary.atoms, atoms)
    assert_close(dictionary.duals, torch.linalg.pinv(atoms.T))
    assert dictionary.offset is not None
    assert_close(dictionary.offset, coder.b_dec.detach())
    codes = torch.randn(4, 3, dtype=torch.float64)
    assert_close(dictionary.encode(coder.decode(codes)), codes)


@pytest.mark.parametrize("active", [[7, 2], torch.tensor([7, 2]), [f in (2, 7) for f in range(9)]])
def test_the_dictionary_of_active_features_keeps_their_numbers(active: list[int] | Tensor) -> None:
    coder = build("topk", 5, 9)
    dictionary = coder.dictionary(Space("hidden", 5), active)
    labels = dictionary.features.labels
    assert labels is not None
    assert sorted(labels) == ["2", "7"]
    for row, label in enumerate(labels):
        assert_close(dictionary.atoms[row], coder.W_dec[int(label)].detach())
    assert_close(dictionary.duals, torch.linalg.pinv(dictionary.atoms.T))
    y = torch.randn(6, 5, generator=torch.Generator().manual_seed(1)).double()
    residual = y - dictionary.project(y)
    assert_close(residual @ dictionary.atoms.T, torch.zeros(6, 2, dtype=torch.float64), rtol=0, atol=1e-9)


def test_training_later_does_not_change_a_dictionary() -> None:
    coder = build("standard")
    dictionary = coder.dictionary(Space("hidden", 5))
    before = dictionary.atoms.clone()
    with torch.no_grad():
        coder.W_dec.zero_()
    assert torch.equal(dictionary.atoms, before)
    assert not dictionary.atoms.requires_grad


def test_double_vectors_are_read_in_the_type_of_the_weights() -> None:
    coder = sae.TopKSAE(4, 6, 2)
    assert coder(torch.randn(3, 4, dtype=torch.float64)).dtype == torch.float32


@pytest.mark.bad_input
@pytest.mark.parametrize("kind", KINDS)
def test_wrong_widths_are_refused(kind: str) -> None:
    coder = build(kind)
    for wrong in (torch.zeros(3, 4), torch.zeros(())):
        with pytest.raises(ShapeError, match=r"vectors of shape .* 5 coordinates"):
            coder.encode(wrong.double())
        with pytest.raises(ShapeError, match="vectors of shape"):
            coder(wrong.double())
    with pytest.raises(ShapeError, match=r"codes of shape .* 9 features"):
        coder.decode(torch.zeros(3, 5).double())


def test_sizes_out_of_range_are_refused() -> None:
    with pytest.raises(BilensError, match="d_in = 0"):
        sae.StandardSAE(0, 3)
    with pytest.raises(BilensError, match="d_sae = 0"):
        sae.GatedSAE(3, 0)
    with pytest.raises(BilensError, match=r"d_in = 2\.5; expected a whole number"):
        sae.StandardSAE(2.5, 3)  # type: ignore[arg-type]
    for k in (0, 7, 2.0):
        with pytest.raises(BilensError, match=f"k = {k}; expected a whole number, 1 ≤ k ≤ 6"):
            sae.TopKSAE(3, 6, k)  # type: ignore[arg-type]


def test_wrong_choices_of_features_are_refused() -> None:
    coder, space = build("standard"), Space("hidden", 5)
    for active in ([], [9], [-1], torch.zeros(9, dtype=torch.bool), torch.full((20,), 9)):
        with pytest.raises(BilensError, match="expected at least one whole number from 0 to 8"):
            coder.dictionary(space, active)
    with pytest.raises(ShapeError, match=r"a mask of shape \(4,\)"):
        coder.dictionary(space, [True] * 4)
    with pytest.raises(SpaceError, match="more than once"):
        coder.dictionary(space, [2, 2])
    with pytest.raises(ShapeError, match="atoms of shape"):
        coder.dictionary(Space("hidden", 6))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # of torch, within itself
def test_a_coder_goes_through_vmap_export_and_forward_derivatives() -> None:
    coder, x = (
        build("standard").requires_grad_(False),
        torch.randn(6, 5, generator=torch.Generator().manual_seed(1)).double(),
    )
    expected, along = coder(x), torch.ones_like(x)
    assert_close(torch.vmap(coder)(x.view(2, 3, 5)).view(6, 5), expected)
    assert_close(torch.export.export(coder, (x,)).module()(x), expected)
    slope = (coder(x + 1e-6 * along) - coder(x - 1e-6 * along)) / 2e-6
    assert_close(torch.func.jvp(coder, (x,), (along,))[1], slope, rtol=1e-6, atol=1e-7)
