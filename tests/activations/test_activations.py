"""Streams, moments and costs of activations, beside hooks of the tests' own and what transformers itself gives."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from bilens import activations, sae
from bilens.errors import BilensError, ShapeError
from bilens.models import gated
from bilens.sae._processes import Processes
from tiny_models import made, texts

pytestmark = pytest.mark.filterwarnings("ignore")  # of a library that is not ours
TEXTS = texts(9)


def hooked(model: nn.Module, layer: int, text: Tensor = TEXTS) -> dict[str, Tensor]:
    """Every site (n, t, d) by hooks on the modules that a Llama names."""
    found: dict[str, Tensor] = {}
    block: Any = model.model.layers[layer]
    hooks = [
        block.post_attention_layernorm.register_forward_pre_hook(lambda _, x: found.update(residual_before=x[0])),
        block.post_attention_layernorm.register_forward_hook(lambda _, __, y: found.update(mlp_in=y)),
        block.mlp.register_forward_hook(lambda _, __, y: found.update(mlp_out=y)),
    ]
    with torch.no_grad():
        states = model(text, output_hidden_states=True).hidden_states
    for hook in hooks:
        hook.remove()
    # transformers gives what each block gives, but for the last, whose norm it has applied by then
    found["residual_after"] = found["residual_before"] + found["mlp_out"]
    if layer + 2 < len(states):
        assert_close(found["residual_after"], states[layer + 1])
    return found


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("site", activations.SITES)
def test_vectors_are_those_of_hooks_in_the_order_of_the_text(layer: int, site: str) -> None:
    model = made()
    expected = hooked(model, layer)[site]
    assert_close(activations.collect(model, layer, site, TEXTS, at_once=4), expected[:, 1:].reshape(-1, 16))
    assert_close(activations.collect(model, layer, site, TEXTS, prefix=0), expected.reshape(-1, 16))


@pytest.mark.parametrize("family", ["gemma2", "olmo2", "qwen3"])
def test_families_with_other_norms(family: str) -> None:
    model = made(family)
    with torch.no_grad():
        states = model(TEXTS, output_hidden_states=True).hidden_states
    assert_close(activations.collect(model, 1, "residual_after", TEXTS, prefix=0), states[2].reshape(-1, 16))
    mlp = gated.load(model).mlp(1)
    x, n, y = (
        activations.collect(model, 1, site, TEXTS, prefix=0) for site in ("residual_before", "mlp_in", "mlp_out")
    )
    assert_close(mlp.norm(x), n)
    assert_close(mlp(x), y, rtol=1e-4, atol=1e-5)


def test_sites_side_by_side() -> None:
    model = made()
    found = activations.collect(model, 1, ("mlp_out", "mlp_in"), TEXTS)
    both = [activations.collect(model, 1, site, TEXTS) for site in ("mlp_out", "mlp_in")]
    assert_close(found, torch.cat(both, dim=1))


def rows_of(vectors: Tensor) -> Counter[tuple[float, ...]]:
    return Counter(tuple(row) for row in (vectors.double().numpy().round(3) + 0.0).tolist())


@pytest.mark.parametrize(("lanes", "buffer"), [(1, 10**6), (3, 10**6), (4, 44), (2, 1)])
def test_an_epoch_has_each_token_once_in_another_order(lanes: int, buffer: int) -> None:
    model = made()
    stream = activations.stream(model, 1, "mlp_out", TEXTS, batch_size=12, lanes=lanes, buffer=buffer)
    assert stream.rows == 9 // lanes * lanes * 11
    assert (stream.width, sum(stream.size(n) for n in range(len(stream)))) == (16, stream.rows)
    everything = rows_of(activations.collect(model, 1, "mlp_out", TEXTS))
    epochs = []
    for epoch in range(2):
        batches = [stream.batch(epoch * len(stream) + n) for n in range(len(stream))]
        assert [len(batch) for batch in batches] == [stream.size(n) for n in range(len(stream))]
        epochs.append(torch.cat(batches))
        assert len(epochs[-1]) == stream.rows
        assert rows_of(epochs[-1]) <= everything  # none more often than the text has it
    assert not torch.equal(*epochs)
    again = activations.stream(model, 1, "mlp_out", TEXTS, batch_size=12, lanes=lanes, buffer=buffer)
    assert torch.equal(again.batch(len(again) + 2), stream.batch(len(again) + 2))  # asked for alone, out of order
    other = activations.stream(model, 1, "mlp_out", TEXTS, batch_size=12, lanes=lanes, buffer=buffer, seed=1)
    assert not torch.equal(other.batch(0), stream.batch(0))


def test_the_buffer_mixes_texts() -> None:
    model = made()
    stream = activations.stream(model, 1, "mlp_out", TEXTS, batch_size=9, lanes=1)
    ordered = activations.collect(model, 1, "mlp_out", TEXTS)
    places = [int((ordered - row).abs().sum(dim=1).argmin()) // 11 for row in stream.batch(0)]
    assert len(set(places)) >= 4


def counted(model: nn.Module) -> list[int]:
    """How many texts each run of the model was of."""
    runs: list[int] = []
    model.model.embed_tokens.register_forward_hook(lambda _, given, __: runs.append(len(given[0])))
    return runs


@pytest.mark.parametrize("size", [1, 2, 4])
def test_processes_make_their_own_part_of_a_batch_from_their_own_texts(size: int) -> None:
    model = made()
    runs = counted(model)
    whole = activations.stream(model, 1, "mlp_out", TEXTS, batch_size=8, lanes=4)
    expected = [whole.batch(n) for n in range(2 * len(whole))]
    assert sum(runs) == 8  # of nine texts, two for each of four lanes, once for both epochs
    for rank in range(size):
        runs.clear()
        mine = activations.stream(model, 1, "mlp_out", TEXTS, batch_size=8, lanes=4)
        share = Processes(rank, size)
        for n, batch in enumerate(expected):
            part, b = share.share(mine, n)
            assert b == len(batch)
            assert torch.equal(part, batch[rank * b // size : (rank + 1) * b // size])
        assert sum(runs) == 8 // size


def test_the_model_is_not_run_past_the_site() -> None:
    model = made()
    reached: list[int] = []
    for place, block in enumerate(model.model.layers):
        block.register_forward_pre_hook(lambda *_, place=place: reached.append(place))
    activations.collect(model, 1, "mlp_in", TEXTS)
    assert set(reached) == {0, 1}


def test_a_coder_trained_on_a_stream_after_a_kill_is_that_of_a_straight_run(tmp_path: Path) -> None:
    def trained(kill: int | None, file: Path) -> sae.TopKSAE:
        stream = activations.stream(made(), 1, "mlp_out", TEXTS, batch_size=12, lanes=3, buffer=50)
        count = itertools.count()

        class Killed:
            width, rows = stream.width, stream.rows

            def __len__(self) -> int:
                return len(stream)

            def batch(self, n: int) -> Tensor:
                if n and next(count) == kill:
                    raise KeyboardInterrupt
                return stream.batch(n)

        coder = sae.TopKSAE(16, 24, k=3)
        sae.train(coder, Killed(), steps=20, checkpoint=file, progress=False, device="cpu")
        return coder

    straight = trained(None, tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        trained(11, tmp_path / "killed")
    resumed = trained(None, tmp_path / "killed")
    for ours, theirs in zip(resumed.parameters(), straight.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_moments_are_numpys_of_all_layers_in_one_pass() -> None:
    model = made()
    found = activations.moments(model, TEXTS, progress=False)
    assert len(found.sites) == 12
    for layer, site in itertools.product((0, 2), activations.SITES):
        x = hooked(model, layer)[site][:, 1:].reshape(-1, 16).double().numpy()
        one = found.at(layer, site)
        assert one.tokens == 99
        np.testing.assert_allclose(one.mean.numpy(), x.mean(axis=0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(one.second_moment.numpy(), x.T @ x / 99, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(one.covariance.numpy(), np.cov(x.T, bias=True), rtol=1e-3, atol=1e-4)
        lifted = np.concatenate([x, np.ones((99, 1))], axis=1)
        np.testing.assert_allclose(one.folded.numpy(), lifted.T @ lifted / 99, rtol=1e-4, atol=1e-4)


def test_moments_that_were_stopped_go_on_bit_for_bit() -> None:
    model, kept = made(), list[activations.Moments]()
    whole = activations.moments(model, TEXTS, layers=[1], sites="mlp_out", keep=kept.append, every=2, progress=False)
    assert [part.texts for part in kept] == [2, 4, 6, 8]
    runs = counted(model)
    again = activations.moments(model, TEXTS, layers=[1], sites="mlp_out", known=kept[1], progress=False)
    assert torch.equal(again.at(1, "mlp_out").sums, whole.at(1, "mlp_out").sums)
    assert sum(runs) == 5


def losses(model: nn.Module, text: Tensor = TEXTS) -> Tensor:
    with torch.no_grad():
        logits = model(text).logits[:, :-1]
    return nn.functional.cross_entropy(logits.transpose(1, 2), text[:, 1:], reduction="none").mean(dim=1).double()


@pytest.mark.parametrize("site", activations.SITES)
def test_the_original_costs_nothing_and_the_mean_what_a_hook_says(site: str) -> None:
    model = made()
    own, costs = losses(model), activations.replaced(model, 1, site, TEXTS, {"itself": lambda x: x})
    assert [cost.by for cost in costs] == ["itself", "mean"]
    assert abs(costs[0].delta_ce) < 1e-6
    assert costs[0].fvu == 0
    assert costs[0].recovered == pytest.approx(1, abs=1e-4)
    assert (costs[1].fvu, costs[1].recovered) == (pytest.approx(1), 0)
    assert (costs[1].texts, costs[1].tokens) == (9, 99)
    mean = hooked(model, 1)[site][:, 1:].reshape(-1, 16).mean(dim=0)
    block: Any = model.model.layers[1]

    def instead(value: Tensor) -> Tensor:
        return torch.cat([value[:, :1], mean.expand_as(value[:, 1:])], dim=1)

    if site == "residual_before":  # what the block makes of it: its own norm and MLP, and what passes these by
        x = mean.repeat(9, 12, 1)
        x[:, 0] = hooked(model, 1)["residual_before"][:, 0]
        with torch.no_grad():
            made_of_it = x + block.mlp(block.post_attention_layernorm(x))
        hook = block.register_forward_hook(lambda *_: made_of_it)
    elif site == "mlp_in":
        hook = block.mlp.register_forward_pre_hook(lambda _, x: (instead(x[0]),))
    else:
        module = block.mlp if site == "mlp_out" else block
        hook = module.register_forward_hook(lambda _, __, y: instead(y))
    more = losses(model) - own
    hook.remove()
    assert costs[1].delta_ce == pytest.approx(float(more.mean()), abs=1e-5)
    assert costs[1].error == pytest.approx(float(more.std()) / 3, rel=1e-3)
    assert_close(losses(model), own)  # all hooks are out again


def test_a_stand_in_reads_another_site() -> None:
    model = made()
    mlp = gated.load(model).mlp(1)
    half = {"the layer": lambda n: mlp.down.new_tensor(0.5) * _gated(mlp, n)}
    costs = activations.replaced(model, 1, "mlp_out", TEXTS, half, reads="mlp_in")
    block: Any = model.model.layers[1]
    hook = block.mlp.register_forward_hook(lambda _, __, y: torch.cat([y[:, :1], y[:, 1:] / 2], dim=1))
    expected = float((losses(model)).mean())
    hook.remove()
    assert costs[0].delta_ce == pytest.approx(expected - float(losses(model).mean()), abs=1e-5)
    assert 0 < costs[0].fvu < 1


def _gated(mlp: gated.GatedMLP, n: Tensor) -> Tensor:
    return (nn.functional.silu(n @ mlp.gate.T) * (n @ mlp.up.T)) @ mlp.down.T


@pytest.mark.bad_input
def test_bad_input_is_refused() -> None:
    model = made()
    cases: list[tuple[Any, type[Exception], str]] = [
        (lambda: activations.stream(model, 1, "mlp", TEXTS), BilensError, "got site = 'mlp'; expected one of mlp_in"),
        (lambda: activations.stream(model, 3, "mlp_in", TEXTS), BilensError, "got layer = 3; expected a whole number"),
        (lambda: activations.stream(model, 1, (), TEXTS), BilensError, "got sites of no name"),
        (lambda: activations.stream(model, 1, "mlp_in", TEXTS[:7]), BilensError, "got 7 texts for 8 lanes"),
        (lambda: activations.stream(model, 1, "mlp_in", TEXTS, batch_size=9), BilensError, "a multiple of lanes = 8"),
        (lambda: activations.collect(model, 1, "mlp_in", TEXTS.float()), ShapeError, "type torch.float32"),
        (lambda: activations.collect(model, 1, "mlp_in", TEXTS, prefix=12), ShapeError, "more than 12 whole numbers"),
        (lambda: activations.replaced(model, 1, "mlp_in", TEXTS, {"mean": abs}), BilensError, "named 'mean'"),
        (lambda: activations.replaced(model, 1, "mlp_in", TEXTS[:1], {}), ShapeError, "two texts at least"),
        (
            lambda: activations.replaced(model, 1, "mlp_in", TEXTS, {"short": lambda x: x[:3]}),
            BilensError,
            r"got \(3, 16\) from short; expected \(99, 16\), a row for each token",
        ),
        (
            lambda: activations.replaced(model, 1, "mlp_in", TEXTS, {"late": lambda x: x}, reads="mlp_out"),
            BilensError,
            "mlp_out, which comes after mlp_in",
        ),
        (
            lambda: activations.moments(
                model, TEXTS, layers=[0], known=activations.moments(model, TEXTS, layers=[1], progress=False)
            ),
            BilensError,
            "to go on from; expected those of the same 4 sites",
        ),
        (
            lambda: activations.moments(model, TEXTS, layers=[0], progress=False).at(1, "mlp_in"),
            BilensError,
            "got mlp_in of layer 1; expected one of mlp_in of layer 0",
        ),
    ]
    for make, kind, message in cases:
        with pytest.raises(kind, match=message):
            make()
