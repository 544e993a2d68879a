"""Training transcoders: against plain autograd, resumed bit for bit, and as folders that others read."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

from bilens import sae
from bilens.errors import BilensError, ShapeError, StoreError
from bilens.schedules import trapezoid
from messages import refuses


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


X = drawn(200, 6) * 3 + 1
Y = torch.cat([X[:, :2] * X[:, 2:4], X[:, :2].relu()], dim=1) * 0.1
ROWS = torch.cat([X, Y], dim=1)
KINDS: dict[str, dict[str, Any]] = {"standard": {}, "topk": {"k": 4}}


def coder(kind: str, d_out: int = 4) -> sae.Coder:
    return sae.Coder(6, 20, kind, d_out=d_out, transcodes=True, seed=1, **KINDS[kind])


def stream() -> sae.TensorStream:
    return sae.TensorStream(ROWS, 30)


def train(one: sae.Coder, **more: Any) -> Any:
    settings = {"steps": 40, "lr": 0.01, "progress": False, "device": "cpu", "l1": 0.1}
    return sae.train_transcoder(one, more.pop("stream", stream()), **{**settings, **more})


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_those_of_a_few_lines_of_torch(kind: str) -> None:
    ours, theirs = coder(kind), coder(kind)
    train(ours, steps=25)
    first = stream().batch(0)
    s = (6 / first[:, :6].square().sum(dim=1).mean()) ** 0.5
    t = (4 / first[:, 6:].square().sum(dim=1).mean()) ** 0.5
    with torch.no_grad():
        theirs.b_dec.copy_((first[:, 6:] * t).mean(dim=0))
    optimizer = torch.optim.Adam(theirs.parameters())
    for n in range(25):
        batch = stream().batch(n)
        optimizer.param_groups[0]["lr"] = 0.01 * trapezoid(n, 25, 0.05, 0.5)
        optimizer.zero_grad()
        before = (batch[:, :6] * s) @ theirs.W_enc + theirs.b_enc
        if kind == "topk":
            kept = before.topk(4, dim=1)
            before = torch.zeros_like(before).scatter(1, kept.indices, kept.values)
        acts = before.relu()
        error = (batch[:, 6:] * t - acts @ theirs.W_dec - theirs.b_dec).square().sum(dim=1)
        (error + 0.1 * (acts * theirs.W_dec.norm(dim=1)).sum(dim=1)).mean().backward()
        with torch.no_grad():
            rows = theirs.W_dec
            assert rows.grad is not None
            rows.grad -= (rows.grad * rows).sum(dim=1, keepdim=True) * rows
            optimizer.step()
            rows /= rows.norm(dim=1, keepdim=True)
    with torch.no_grad():
        assert_close(ours(X), theirs(X * s) / t, rtol=1e-3, atol=1e-4)
        assert_close(ours.encode(X), theirs.encode(X * s) / t, rtol=1e-3, atol=1e-3)
        assert_close(ours.W_dec.norm(dim=1), torch.ones(20))


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_and_says_how_far(kind: str) -> None:
    one = coder(kind)
    history = train(one, steps=150, lr=0.03, l1=0.0)
    assert history.names == ("loss", "nmse", "l0", "dead")
    assert 0 < float(history.values[-1, 1]) < 0.3
    found = sae.evaluate(one, X, Y)
    assert found.explained_variance > 0.7
    assert float(history.values[-1, 2]) == pytest.approx(found.l0, abs=0.5)


def test_a_run_that_was_killed_goes_on_bit_for_bit(tmp_path: Path) -> None:
    straight = coder("topk")
    history = train(straight, checkpoint=tmp_path / "straight")
    count = itertools.count()

    class Killed:
        width, rows = 10, 200

        def __len__(self) -> int:
            return len(stream())

        def batch(self, n: int) -> Tensor:
            if n and next(count) == 17:
                raise KeyboardInterrupt
            return stream().batch(n)

    with pytest.raises(KeyboardInterrupt):
        train(coder("topk"), checkpoint=tmp_path / "killed", stream=Killed())
    resumed = coder("topk")
    again = train(resumed, checkpoint=tmp_path / "killed")
    assert torch.equal(again.values, history.values)
    for ours, theirs in zip(resumed.parameters(), straight.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    with refuses(StoreError, "lr"):
        train(coder("topk"), checkpoint=tmp_path / "killed", lr=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_is_read_again_and_has_the_formats_names(kind: str, tmp_path: Path) -> None:
    d_out = 4 if kind == "standard" else 6  # sparsify has one size
    one = coder(kind, d_out)
    with torch.no_grad():
        one.b_enc.copy_(drawn(20, seed=3))
    one.site = sae.Site("mlp_in", 3, output="mlp_out")
    one.save_pretrained(tmp_path / "layers.3.mlp")
    again = sae.load(tmp_path / "layers.3.mlp")
    assert again.transcodes
    assert again.site is not None
    assert again.site.layer == 3
    with torch.no_grad():
        assert torch.equal(again(X), one(X))
    config = json.loads((tmp_path / "layers.3.mlp" / "cfg.json").read_text())
    if kind == "standard":
        assert (config["architecture"], config["d_in"], config["d_out"], config["d_sae"]) == ("transcoder", 6, 4, 20)
        assert str(again.site) == "mlp_in → mlp_out of layer 3"
    else:
        assert (config["transcode"], config["k"], config["num_latents"], config["activation"]) == (True, 4, 20, "topk")
        held = load_file(tmp_path / "layers.3.mlp" / "sae.safetensors")
        assert {name: tuple(value.shape) for name, value in held.items()} == {
            "encoder.weight": (20, 6),
            "encoder.bias": (20,),
            "W_dec": (20, 6),
            "b_dec": (6,),
        }


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "kind", "line"),
    [
        (lambda: train(sae.TopKSAE(6, 9, 2)), BilensError, "coder of type TopKSAE"),
        (lambda: train(sae.Coder(10, 9, "standard")), BilensError, "'standard' that does not transcode"),
        (lambda: train(sae.Coder(6, 9, "abstopk", k=2, d_out=4)), BilensError, "a coder of the kind 'abstopk'"),
        (lambda: train(sae.Coder(6, 9, "standard", d_out=5)), ShapeError, "rows of 10 numbers"),
        (lambda: train(coder("standard"), steps=0), BilensError, "steps = 0"),
        (
            lambda: train(coder("standard"), stream=sae.TensorStream(ROWS * torch.tensor([1.0] * 6 + [0.0] * 4))),
            BilensError,
            "a first batch with mean squared norms",
        ),
        (lambda: train(coder("standard"), lr=1e30), BilensError, "a loss of"),
    ],
)
def test_bad_input_is_refused(call: Callable[[], Any], kind: type[Exception], line: str) -> None:
    with refuses(kind, line):
        call()


def test_a_transcoder_of_two_sizes_by_the_k_largest_has_no_format(tmp_path: Path) -> None:
    with refuses(StoreError, "a coder of the kind 'topk'"):
        coder("topk").save_pretrained(tmp_path / "folder")
