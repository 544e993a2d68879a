"""Statistics of all layers in one pass: numpy's on all activations, resumed bit for bit, enough for surrogates."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from bilens import store
from bilens.analyses import text_statistics as kept
from bilens.analyses.text_statistics import text_statistics
from bilens.errors import BilensError, ShapeError, StoreError
from bilens.models import gated
from bilens.models.surrogate import Moments, least_squares, weights_only, with_bypass
from bilens.models.token_statistics import TokenStatistics, token_statistics
from tiny_models import made, texts

pytestmark = pytest.mark.filterwarnings("ignore")  # of a library that is not ours
JOB = Path(__file__).with_name("statistics_job.py")
TEXTS = texts(7)


def rows(model: nn.Module, layer: int, prefix: int = 1) -> tuple[Tensor, Tensor]:
    """(residual stream before the norm, MLP's output) of every token, by hooks of this test's own."""
    inputs, outputs = [], []
    block: Any = model.model.layers[layer]
    hooks = [
        block.post_attention_layernorm.register_forward_pre_hook(lambda _, given: inputs.append(given[0])),
        block.mlp.register_forward_hook(lambda _, __, output: outputs.append(output)),
    ]
    with torch.no_grad():
        model(TEXTS)
    for hook in hooks:
        hook.remove()
    return tuple(torch.cat(part)[:, prefix:].flatten(0, 1) for part in (inputs, outputs))  # type: ignore[return-value]


def equal(one: TokenStatistics, other: TokenStatistics) -> None:
    assert (one.texts, one.prefix, len(one.layers)) == (other.texts, other.prefix, len(other.layers))
    for a, b in zip(one.layers, other.layers, strict=True):
        for name in ("inputs", "outputs", "products", "squares", "units"):
            assert torch.equal(getattr(a, name), getattr(b, name)), name


@pytest.mark.parametrize("bias", [False, True])
def test_sums_are_numpys_on_all_activations(bias: bool) -> None:
    model = made(mlp_bias=bias)
    found = token_statistics(model, TEXTS, layers=[0, 2], progress=False)
    assert found.texts == 7
    assert [one.layer for one in found.layers] == [0, 2]
    for one in found.layers:
        mlp = gated.load(model).mlp(one.layer)
        x, y = rows(model, one.layer)
        assert one.tokens == len(x) == 7 * 11
        n = mlp.norm(x)
        z, v = (part.double().numpy() for part in mlp.units(x))
        lifted = np.concatenate([n.double().numpy(), np.ones((len(x), 1))], axis=1)
        for ours, theirs in (
            (one.inputs, lifted.T @ lifted),
            (one.outputs, lifted.T @ y.double().numpy()),
            (one.products, lifted.T @ (z * v)),
            (one.squares, lifted.T @ z**2),
            (one.units[0], (z**2 * v**2).sum(axis=0)),
            (one.units[5], (z**4).sum(axis=0)),
            (one.mean(), n.double().numpy().mean(axis=0)),
            (one.covariance(), np.cov(n.double().numpy().T, bias=True)),
        ):
            np.testing.assert_allclose(ours.numpy(), theirs, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("bias", [False, True])
def test_surrogates_from_sums_are_those_of_the_rows(bias: bool) -> None:
    model = made(mlp_bias=bias)
    statistics = token_statistics(model, TEXTS, progress=False).layer(1)
    mlp = gated.load(model).mlp(1)
    x, _ = rows(model, 1)
    ours, theirs = statistics.moments(mlp), Moments.of_samples(mlp, x)
    for name in ("mean_z", "mean_v", "var_z", "cov"):
        assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-4, atol=1e-5)
    plain = least_squares(mlp, x)
    assert_close(statistics.least_squares(mlp)(x), plain(x), rtol=1e-3, atol=1e-4)
    for surrogate in (plain, weights_only(mlp)):
        expected = with_bypass(surrogate, x, ridge=0.2)
        assert_close(statistics.with_bypass(surrogate, ridge=0.2)(x), expected(x), rtol=1e-3, atol=2e-4)


def test_a_pass_that_was_killed_goes_on_bit_for_bit(tmp_path: Path) -> None:
    model = made()
    whole = token_statistics(model, TEXTS, progress=False)
    count = itertools.count(1)

    def keep(statistics: TokenStatistics) -> None:
        store.save(statistics, tmp_path / "sums")
        if next(count) == 2:
            raise MemoryError("killed")

    with pytest.raises(MemoryError):
        token_statistics(model, TEXTS, keep=keep, every=2, progress=False)
    known = store.load(tmp_path / "sums", TokenStatistics)
    assert known.texts == 4
    asked: list[int] = []
    hook = model.model.embed_tokens.register_forward_hook(lambda _, given, __: asked.append(len(given[0])))
    equal(token_statistics(model, TEXTS, known=known, progress=False), whole)
    hook.remove()
    assert asked == [1, 1, 1]


def test_statistics_are_kept_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "EVERY", 2)
    model, whole = made(), token_statistics(made(), TEXTS, progress=False)
    saved, count = store.save, itertools.count(1)

    def save(*arguments: Any) -> None:
        saved(*arguments)
        if next(count) == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "save", save)
        with pytest.raises(KeyboardInterrupt):
            text_statistics(model, TEXTS, tmp_path / "kept", progress=False)
    asked: list[int] = []
    hook = model.model.embed_tokens.register_forward_hook(lambda _, given, __: asked.append(len(given[0])))
    for _ in range(2):  # the second time all is there
        equal(text_statistics(model, TEXTS, tmp_path / "kept", progress=False), whole)
        assert asked == [1, 1, 1]
    hook.remove()
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {"settings.json", "timings.json", "records"}
    with pytest.raises(StoreError, match="a run with other settings"):
        text_statistics(model, TEXTS + 1, tmp_path / "kept", progress=False)
    with torch.no_grad():
        model.model.layers[1].self_attn.q_proj.weight[0, 0] += 1  # far from the MLPs
    with pytest.raises(StoreError, match="a run with other settings"):
        text_statistics(model, TEXTS, tmp_path / "kept", progress=False)


@pytest.mark.bad_input
def test_bad_input_is_refused() -> None:
    model = made()
    found = token_statistics(model, TEXTS, layers=[1], progress=False)
    mlp = gated.load(model).mlp(1)
    cases: list[tuple[Any, type[Exception], str]] = [
        (lambda: token_statistics(model, TEXTS.float()), ShapeError, "type torch.float32"),
        (lambda: token_statistics(model, TEXTS, prefix=12), ShapeError, "more than 12 whole numbers"),
        (
            lambda: token_statistics(model, TEXTS, known=found),
            BilensError,
            "to go on from; expected one of layers 0, 1",
        ),
        (lambda: token_statistics(model, TEXTS[:3], layers=[1], known=found), BilensError, "to go on from"),
        (lambda: found.layer(0), BilensError, "got layer 0; expected one of 1"),
        (lambda: found.layer(1).moments(gated.load(model).mlp(0)), BilensError, "statistics of layer 1 for layer 0"),
        (
            lambda: found.layer(1).moments(gated.load(made(intermediate_size=8)).mlp(1)),
            ShapeError,
            r"\(16, 24\) inputs",
        ),
        (
            lambda: found.layer(1).with_bypass(found.layer(1).with_bypass(weights_only(mlp))),
            BilensError,
            "a surrogate with a bypass",
        ),
        (lambda: TokenStatistics((), 1, 1), BilensError, "statistics of no layer"),
    ]
    for make, kind, message in cases:
        with pytest.raises(kind, match=message):
            make()


@pytest.mark.slow
@pytest.mark.timeout(1200)  # two processes that each import transformers
def test_two_processes_sum_what_one_does(tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(JOB), str(tmp_path)]
    children = [subprocess.Popen([*command, str(rank)], env=environment, stderr=subprocess.PIPE) for rank in (0, 1)]
    said = [child.communicate(timeout=1100)[1].decode() for child in children]
    assert [child.returncode for child in children] == [0, 0], said
    one = token_statistics(made(), TEXTS, progress=False)
    first, second = (store.load(tmp_path / f"sums-{rank}", TokenStatistics) for rank in (0, 1))
    equal(first, second)
    assert first.texts == 7
    for ours, theirs in zip(first.layers, one.layers, strict=True):
        for name in ("inputs", "outputs", "products", "squares", "units"):
            assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-12, atol=1e-12)
