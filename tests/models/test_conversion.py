"""Converting a model layer by layer: the stack against transformers, each step against numpy, what must be exact."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from bilens.errors import BilensError, ShapeError
from bilens.faithfulness import TextScore
from bilens.models import gated
from bilens.models._unit_sums import unit_sums
from bilens.models.conversion import (
    ConvertedLayer,
    ConvertedMLP,
    ConvertedModule,
    Sequence,
    Stack,
    Streams,
    compared,
    measured,
)
from bilens.models.conversion import _closed_form as closed_forms
from bilens.models.conversion import _descent as descent
from bilens.models.conversion._closed_form import RIDGES, closed_form
from bilens.models.conversion._descent import descended
from bilens.models.conversion.layer import MATRICES
from bilens.models.conversion.streams import relative_error, weight
from tiny_models import SIZES, VOCABULARY, made, texts

pytestmark = pytest.mark.filterwarnings("ignore")  # of a library that is not ours

KINDS = ["llama", "mistral", "qwen2", "qwen3", "smollm3", "olmo", "olmo2", "phi3", "gemma", "gemma2"]


def entered(model: nn.Module, layer: int = 0, *, fit: int = 40, first: int | None = 1) -> Streams:
    """Streams that have come to the MLP of a layer, the ones before it as they were."""
    stack = Stack(model)
    streams = Streams(stack, texts(fit, first=first), texts(4, first=first, seed=2))
    streams.begin()
    for before in range(layer):
        streams.enter(before)
        streams.leave(stack.mlp(before), None)
    streams.enter(layer)
    return streams


# The stack


@pytest.mark.parametrize("kind", KINDS)
def test_a_stack_is_the_model_layer_by_layer(kind: str) -> None:
    model = made(kind)
    stack, tokens = Stack(model), texts(2)
    with torch.no_grad():
        whole = model(tokens, output_hidden_states=True)
    stack.check(tokens)
    x = stack.embedded(tokens)
    for layer in range(3):
        assert_close(x, whole.hidden_states[layer])
        middle = stack.before_mlp(tokens, x, layer)
        mlp = gated.load(model).mlp(layer)
        y = mlp(middle)
        x = stack.through(tokens, x, layer)
        assert_close(middle + (y if mlp.post_norm is None else mlp.post_norm(y)), x, rtol=1e-4, atol=1e-4)
        assert_close(stack.logits(tokens, x, layer + 1), whole.logits, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert_close(model(tokens).logits, whole.logits, rtol=0, atol=0)  # the model is as it was


def test_other_mlps_for_a_while() -> None:
    model, tokens = made(), texts(2)
    stack = Stack(model)
    with torch.no_grad():
        before = model(tokens).logits
        with stack.with_mlps({1: nn.Identity()}):
            other = model(tokens).logits
        assert not torch.allclose(before, other, atol=1e-3)
        assert_close(model(tokens).logits, before, rtol=0, atol=0)


# A layer


def drawn_layer(seed: int = 0, h: int = 5, d: int = 4, o: int = 3) -> ConvertedMLP:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((h, d), (h,), (h, d), (h,), (o, h), (o, d), (o,))
    return ConvertedMLP(2, *(torch.randn(shape, generator=generator) for shape in shapes))


def test_the_units_for_the_linear_map_are_exact() -> None:
    one = drawn_layer()
    n = torch.randn(20, 4, generator=torch.Generator().manual_seed(1))
    parts = {name: value.double().numpy() for name, value in zip(MATRICES, one.tensors, strict=True)}
    m = n.double().numpy()
    units = (m @ parts["left"].T + parts["left_bias"]) * (m @ parts["right"].T + parts["right_bias"])
    expected = units @ parts["down"].T + m @ parts["bypass"].T + parts["down_bias"]
    np.testing.assert_allclose(one(n).numpy(), expected, rtol=1e-5, atol=1e-5)
    w, b, v, c, down, e = one.gated()
    assert (w.shape, down.shape) == ((8, 4), (3, 8))
    again = ((n @ w.T + b) * (n @ v.T + c)) @ down.T + e
    np.testing.assert_allclose(again.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_the_units_of_a_layer_are_least_squares() -> None:
    model = made(mlp_bias=True)
    mlp = gated.load(model).mlp(0)
    x = torch.randn(300, 16, generator=torch.Generator().manual_seed(3))
    z, v = mlp.units(x)
    y = mlp.activation(z, v)
    one = ConvertedMLP.of_sums(mlp, unit_sums(z, v, y, torch.ones(300)))
    fits = []
    for unit in range(24):
        p, q = z[:, unit].double().numpy(), v[:, unit].double().numpy()
        terms = np.stack([p * q, p * p, p, q, np.ones_like(p)], axis=1)
        fits.append(terms @ np.linalg.lstsq(terms, y[:, unit].double().numpy(), rcond=None)[0])
    expected = np.stack(fits, axis=1) @ mlp.down.double().numpy().T + mlp.down_bias.double().numpy()
    np.testing.assert_allclose(one(mlp.norm(x)).numpy(), expected, rtol=1e-3, atol=1e-3)


# The closed form


@pytest.mark.parametrize(("tokens", "seed", "best_ridge"), [(10**9, 3, 0.1), (100, 4, 0.3)])
def test_ridge_is_numpys_for_the_best_ridge_on_other_tokens(
    tokens: int, seed: int, best_ridge: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With D among what is fitted, or not; the best ridge is none of the two ends; no constraint of a first token."""
    monkeypatch.setattr(closed_forms, "ROWS_FOR_DOWN", tokens)
    streams = entered(made(mlp_bias=True, seed=seed), 1, fit=80, first=None)
    mlp = streams.stack.mlp(1)
    found = closed_form(mlp, streams)
    assert not streams.prefix
    sums = torch.zeros(17, 24, dtype=torch.float64)
    for x, t in streams.rows("fit"):
        z, v = mlp.units(x)
        sums += unit_sums(z, v, mlp.activation(z, v), weight(t))
    start = ConvertedMLP.of_sums(mlp, sums)
    h = 24

    def features(name: Any) -> tuple[Any, Any, Any]:
        x, t = (torch.cat(part) for part in zip(*streams.rows(name), strict=True))
        n = mlp.norm(x)
        phi = torch.cat([start.units(n), n, torch.ones(len(n), 1)], dim=1).double().numpy()
        return phi, (t - x - start(n)).double().numpy(), weight(t).double().numpy()

    phi, rest, w = features("fit")
    seen_phi, seen_rest, seen_w = features("check")
    best = (np.inf, 0.0, np.zeros(0), False)
    for begin in (0, h) if tokens == 100 else (h,):
        part = phi[:, begin:]
        scale = np.sqrt((w[:, None] * part**2).mean(axis=0))
        damping = np.ones(part.shape[1])
        damping[-1] = 1e-6
        for ridge in RIDGES:
            scaled = part / scale
            gram = (w[:, None] * scaled).T @ scaled / len(part) + np.diag(ridge * damping)
            change = np.linalg.solve(gram, (w[:, None] * scaled).T @ rest / len(part)) / scale[:, None]
            error = (seen_w[:, None] * (seen_rest - seen_phi[:, begin:] @ change) ** 2).sum()
            if error < best[0]:
                best = (error, ridge, change, begin == 0)
    assert found.ridge == best[1] == best_ridge
    assert found.refitted == best[3] == (tokens == 100)
    begin = 0 if best[3] else h
    ours = torch.cat([found.mlp.down - start.down, found.mlp.bypass - start.bypass], dim=1)
    np.testing.assert_allclose(ours[:, begin:].T.numpy(), best[2][:-1], rtol=2e-3, atol=2e-4)


def test_a_layer_that_is_bilinear_already_is_kept() -> None:
    streams = entered(made(hidden_act="linear", mlp_bias=True), 1)
    mlp = streams.stack.mlp(1)
    found = closed_form(mlp, streams)
    for name in ("fit", "check", "held_out"):
        assert relative_error(streams, mlp, found.mlp, name) < 1e-8


def test_least_squares_beats_the_mean_and_mends_earlier_errors() -> None:
    model = made()
    streams = entered(model, 0)
    mlp = streams.stack.mlp(0)
    found = closed_form(mlp, streams)
    mean = ConvertedMLP(0, *(torch.zeros_like(value) for value in found.mlp.tensors[:-1]), found.mean)
    assert relative_error(streams, mlp, found.mlp, "held_out") < 0.5 * relative_error(streams, mlp, mean, "held_out")
    x, _ = (torch.cat(part) for part in zip(*streams.rows("fit"), strict=True))
    y, w = mlp(x), weight(torch.cat([t for _, t in streams.rows("fit")]))
    assert_close(found.mean, (w[:, None] * y).sum(dim=0) / w.sum(), rtol=1e-4, atol=1e-4)


def test_what_earlier_layers_got_wrong_is_mended() -> None:
    streams = entered(made(hidden_act="linear"), 1, first=None)
    mlp = streams.stack.mlp(1)
    error = torch.randn(16, generator=torch.Generator().manual_seed(4))
    for part in streams.parts.values():
        part.ours = part.ours + 0.3 * error
    mended = closed_form(mlp, streams)
    assert relative_error(streams, mlp, mended.mlp, "fit") < 0.1 * relative_error(streams, mlp, None, "fit")


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_the_first_token_of_every_text_is_exact(kind: str) -> None:
    model = made(kind)
    with torch.no_grad():
        model.get_input_embeddings().weight[1] *= 40.0  # far from all others, as in large models
    streams = entered(model, 1)
    mlp = streams.stack.mlp(1)
    found = closed_form(mlp, streams)
    x, t = streams.first() or pytest.fail("no constant first token")
    assert torch.equal(x, streams.parts["fit"].ours[0, 0])
    y, n = mlp(x[None]), mlp.norm(x[None])
    assert_close(found.mlp(n), y if kind == "gemma2" else (t - x)[None], rtol=1e-4, atol=1e-4)
    others = {name: relative_error(streams, mlp, found.mlp, name) for name in ("fit", "held_out")}
    assert max(others.values()) < 0.2
    streams.leave(mlp, found.mlp)
    assert {name: streams.error(name) for name in ("fit", "held_out")} == pytest.approx(others, rel=1e-4)


# Gradient steps


def loss_of(streams: Streams, mlp: gated.GatedMLP, converted: ConvertedMLP) -> float:
    """The mean of log(1 + ‖error‖² / ‖t‖²) on the texts that are set aside, all but their first tokens."""
    part = streams.parts["check"]
    x, t = (value[:, 1:].flatten(0, 1).double() for value in (part.ours, part.theirs))
    error = x + converted(mlp.norm(x.float())) - t
    return float((1 + error.square().sum(dim=1) / t.square().sum(dim=1)).log().mean())


def test_a_few_tokens_that_are_lost_do_not_stop_the_others() -> None:
    streams = entered(made(), 1, fit=400)
    mlp = streams.stack.mlp(1)
    closed = closed_form(mlp, streams)
    streams.parts["fit"].theirs[::9, 5] *= 0.003  # nothing that this layer could give
    _, after, before, kept = descended(closed, mlp, streams, steps=60, seed=0)
    assert kept == 60
    assert after < 0.92 * before


def test_steps_lower_the_error_on_other_tokens_and_keep_the_first_exact() -> None:
    streams = entered(made(), 1, fit=400)
    mlp = streams.stack.mlp(1)
    closed = closed_form(mlp, streams)
    found, after, before, kept = descended(closed, mlp, streams, steps=60, seed=0)
    assert kept == 60
    assert after < 0.9 * before
    assert before == pytest.approx(loss_of(streams, mlp, closed.mlp), rel=1e-5)
    assert after == pytest.approx(loss_of(streams, mlp, found), rel=1e-5)
    x, t = streams.first() or pytest.fail("no constant first token")
    assert_close(x + found(mlp.norm(x[None]))[0], t, rtol=1e-4, atol=1e-4)
    again, *_ = descended(closed, mlp, streams, steps=60, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(found.tensors, again.tensors, strict=True))


def test_a_coordinate_of_nearly_nothing_does_not_set_the_rate() -> None:
    """What reads it has weights thousands of times the others: a share of their mean square would be far too much."""
    model = made()
    with torch.no_grad():
        model.model.layers[1].post_attention_layernorm.weight[3] = 1e-5
    streams = entered(model, 1, fit=400)
    mlp = streams.stack.mlp(1)
    closed = closed_form(mlp, streams)
    sizes = closed.mlp.bypass.square().mean(dim=0).sqrt()
    assert float(sizes.max()) > 1000 * float(sizes.median())
    _, after, before, kept = descended(closed, mlp, streams, steps=60, seed=0)
    assert kept == 60
    assert after < 0.95 * before


def test_steps_with_rounded_products_end_beside_the_exact_ones() -> None:
    streams = entered(made(), 1, fit=400)
    mlp = streams.stack.mlp(1)
    closed = closed_form(mlp, streams)
    exact, rounded = (
        descended(closed, mlp, streams, steps=60, seed=0, precision=precision) for precision in (None, "bfloat16")
    )
    assert rounded[1] == pytest.approx(loss_of(streams, mlp, rounded[0]), rel=1e-5)
    assert rounded[2] == exact[2]
    assert rounded[1] - exact[1] < 0.05 * (exact[2] - exact[1])
    apart = float((rounded[0].left - exact[0].left).norm() / (exact[0].left - closed.mlp.left).norm())
    assert 1e-4 < apart < 0.3
    assert {value.dtype for value in rounded[0].tensors} == {torch.float32}
    assert not torch.equal(rounded[0].left, rounded[0].left.bfloat16().float())


def test_an_unknown_precision_is_refused_before_the_work() -> None:
    with pytest.raises(BilensError, match=r"^got precision = 'float16'; expected 'bfloat16' or None"):
        Sequence(Stack(made()), texts(30), texts(4, seed=2), precision="float16")  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [50.0, 1e30])
def test_steps_that_do_not_help_are_dropped(rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descent, "RATE", rate)
    streams = entered(made(), 1)
    mlp = streams.stack.mlp(1)
    closed = closed_form(mlp, streams)
    found, after, before, kept = descended(closed, mlp, streams, steps=5, seed=0)
    assert (kept, after) == (0, before)
    assert found is closed.mlp


def test_steps_that_begin_to_harm_are_dropped() -> None:
    """On few tokens a layer is soon fitted to them alone: the best of some points on the way is kept."""
    streams = entered(made(), 1, fit=30)
    mlp = streams.stack.mlp(1)
    closed = closed_form(mlp, streams)
    errors = {}
    for done, weights in descent._steps(
        closed.mlp, mlp, streams, steps=200, seed=descent.derived(0, 1), precision=None, step=None
    ):
        one = closed_forms.exact_at_first(ConvertedMLP(1, *weights), mlp, streams, closed.damped)
        errors[done] = relative_error(streams, mlp, one, "check", torch.log1p)
    assert list(errors) == [50, 100, 150, 200]
    _, after, before, kept = descended(closed, mlp, streams, steps=200, seed=0)
    assert after == min(before, *errors.values())
    assert kept == min({0: before, **errors}, key=lambda done: {0: before, **errors}[done])


# The whole sequence


def test_a_sequence_that_was_stopped_goes_on_bit_for_bit() -> None:
    fit, held_out = texts(30), texts(4, seed=2)
    whole = Sequence(Stack(made()), fit, held_out, steps=4, texts=3)
    records = [whole.convert() for _ in range(3)]
    again = Sequence(Stack(made()), fit, held_out, steps=4, texts=3)
    again.skip(records[0].mlp)
    for record in records[1:]:
        other = again.convert()
        assert all(torch.equal(a, b) for a, b in zip(record.mlp.tensors, other.mlp.tensors, strict=True))
        assert record.score == other.score
        assert record.null == other.null
    mixed = Sequence(Stack(made()), fit, held_out, texts=3)
    mixed.skip(None)
    with pytest.raises(BilensError, match="got the conversion of layer 0; expected that of layer 1"):
        mixed.skip(records[0].mlp)


def test_scores_are_those_of_the_hybrid_model() -> None:
    model, fit, held_out = made(), texts(30), texts(5, seed=2)
    sequence = Sequence(Stack(model), fit, held_out, texts=4)
    sequence.skip(None)
    record = sequence.convert()
    mlp = gated.load(model).mlp(1)
    caught: list[Tensor] = []
    hook = model.model.layers[1].mlp.register_forward_hook(lambda _, given, output: caught.append(given[0]))
    with torch.no_grad():
        before = model(held_out[:4]).logits
        hook.remove()
        with sequence.stack.with_mlps({1: ConvertedModule(record.mlp)}):
            after = model(held_out[:4]).logits
            loss = torch.stack([model(text[None], labels=text[None]).loss for text in held_out[:4]])
        original = torch.stack([model(text[None], labels=text[None]).loss for text in held_out[:4]])
    more = (loss - original).double()
    assert record.score.delta_ce == pytest.approx(float(more.mean()), abs=1e-5)
    assert record.score.delta_ce_error == pytest.approx(float(more.std() / 2), abs=1e-5)
    assert record.score.original == pytest.approx(float(original.mean()), abs=1e-5)
    p, q = (torch.distributions.Categorical(logits=part[:, :-1].double()) for part in (before, after))
    kl = torch.distributions.kl_divergence(p, q).mean()
    assert record.score.kl == pytest.approx(float(kl), abs=1e-6)
    same = (before[:, :-1].argmax(dim=-1) == after[:, :-1].argmax(dim=-1)).float().mean()
    assert record.score.agreement == pytest.approx(float(same))
    assert (record.score.texts, record.score.tokens) == (4, 44)
    # The null: the mean of the output everywhere but at the first token.
    found = closed_form(mlp, _entered_like(model, fit, held_out))
    n = caught[0]
    instead = found.mean.expand(n.shape).clone()
    instead[:, 0] = model.model.layers[1].mlp(n[:, 0]).detach()
    stand_in = nn.Module()
    stand_in.forward = lambda _: instead  # type: ignore[method-assign]
    with torch.no_grad(), sequence.stack.with_mlps({1: stand_in}):
        nulls = model(held_out[:4]).logits
    expected = compared(before, nulls, held_out[:4])
    assert record.null.delta_ce == pytest.approx(float((expected[:, 1] - expected[:, 0]).mean()), abs=1e-4)


def _entered_like(model: nn.Module, fit: Tensor, held_out: Tensor) -> Streams:
    stack = Stack(model)
    streams = Streams(stack, fit, held_out)
    streams.begin()
    streams.enter(0)
    streams.leave(stack.mlp(0), None)
    streams.enter(1)
    return streams


def test_parts_share_no_text() -> None:
    fit = torch.arange(25)[:, None].expand(25, 4)
    fitted, checked = Streams.divided(fit)
    assert sorted([*fitted[:, 0].tolist(), *checked[:, 0].tolist()]) == list(range(25))
    assert checked[:, 0].tolist() == [9, 19]
    assert [len(part) for part in Streams.divided(fit[:3])] == [2, 1]


# Bad input


@pytest.mark.bad_input
def test_bad_input_is_refused() -> None:
    model = made()
    stack = Stack(model)
    fit, held_out = texts(6), texts(2)
    scaled = made()
    block: Any = scaled.model.layers[1]
    block.mlp.register_forward_hook(lambda _, __, output: 2 * output)
    one = drawn_layer()
    score = TextScore(3.0, 0.1, 0.01, 0.1, 0.01, 0.9, 0.01, 2, 24)
    layer = ConvertedLayer(one, 0.1, False, 0, 0.1, 0.1, 0.1, 0.1, score, score, score, (0.0, 0.2))
    cases: list[tuple[Any, type[Exception], str]] = [
        (lambda: Stack(made("mixtral", num_local_experts=2)), BilensError, "with experts; expected a model with one"),
        (lambda: Sequence(stack, fit[:2], held_out), ShapeError, r"fit of shape \(2, 12\)"),
        (lambda: Sequence(stack, fit, held_out[:, :5]), ShapeError, "texts of 12 and of 5 tokens"),
        (lambda: Sequence(stack, fit, held_out.float()), ShapeError, "held_out of shape"),
        (lambda: Sequence(stack, fit, held_out, steps=-1), BilensError, "steps = -1"),
        (lambda: Sequence(Stack(scaled), fit, held_out), BilensError, "a layer 1 that differs from x"),
        (lambda: ConvertedMLP(0, *one.tensors[:-1], one.down_bias[:2]), ShapeError, "down_bias of shape"),
        (lambda: replace(layer, deltas=(0.1,)), ShapeError, "1 deltas of 2 texts; expected one for each text"),
        (lambda: replace(layer, deltas=(0.1, torch.nan)), BilensError, "one of the deltas = nan"),
        (lambda: ConvertedMLP(0, one.left * torch.nan, *one.tensors[1:]), BilensError, "left"),
        (
            lambda: measured(lambda _: fit, lambda _: fit, fit[:1], total=1, places=torch.arange(1)),
            BilensError,
            "1 texts to measure on",
        ),
    ]
    for make, kind, message in cases:
        with pytest.raises(kind, match=message):
            make()
    assert SIZES["vocab_size"] == VOCABULARY
