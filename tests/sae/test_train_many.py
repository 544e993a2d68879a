"""What training can be asked for beside the draft's: other losses, many SAEs at once, fewer bits, and no waiting."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_sae_train import build, run, same, sparse_vectors
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from bilens import sae
from bilens._internal.device import product_type
from bilens.errors import BilensError, ShapeError, StoreError
from messages import refuses

training = importlib.import_module("bilens.sae.train")  # the module, which the function of that name hides


class Counted:
    """A stream that counts its batches, and stops a run at one of them."""

    def __init__(self, stream: sae.TensorStream, stop_at: int | None = None) -> None:
        self.stream, self.width, self.rows, self.stop_at = stream, stream.width, stream.rows, stop_at
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.stream)

    def batch(self, n: int) -> Tensor:
        self.asked.append(n)
        if n == self.stop_at:
            raise KeyboardInterrupt
        return self.stream.batch(n)


def several() -> list[sae.SAE]:
    return [
        sae.StandardSAE(12, 24),
        sae.StandardSAE(12, 24, seed=5),
        sae.TopKSAE(12, 90, 2),
        sae.TopKSAE(12, 7, 7, rectify=False, apply_b_dec_to_input=False),
    ]


SETTINGS = {"lr": [0.01, 0.003, 0.01, 0.02], "l1": [0.1, 0.4, 0.0, 0.0], "similarity": [0.0, 0.3, 0.0, 0.0]}


@pytest.mark.parametrize("clip", [None, 0.5])
def test_many_coders_are_trained_exactly_as_each_alone(clip: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_POINTS", 5)  # three steps a row of the history
    x = sparse_vectors(300)[0] + 1
    together = several()
    stream = Counted(sae.TensorStream(x, 64))
    arguments: dict[str, Any] = {"steps": 16, "clip": clip, "progress": False, "device": "cpu"}
    histories = sae.train_many(together, stream, **arguments, **SETTINGS)
    assert stream.asked == [0, *range(16)]
    for number, coder in enumerate(several()):
        own = {name: values[number] for name, values in SETTINGS.items()}
        alone = sae.train(coder, sae.TensorStream(x, 64), **arguments, **own)
        assert same(coder, together[number])
        assert torch.equal(alone.values, histories[number].values)
        assert torch.equal(alone.steps, histories[number].steps)


def test_many_coders_go_on_from_one_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_POINTS", 5)
    x = sparse_vectors(300)[0] + 1
    arguments: dict[str, Any] = {"steps": 16, "progress": False, "device": "cpu", "checkpoint": tmp_path / "c"}
    with pytest.raises(KeyboardInterrupt):
        sae.train_many(several(), Counted(sae.TensorStream(x, 64), 11), **arguments, **SETTINGS)
    resumed, straight = several(), several()
    stream = Counted(sae.TensorStream(x, 64))
    histories = sae.train_many(resumed, stream, **arguments, **SETTINGS)
    assert stream.asked == [0, *range(11, 16)]
    whole = sae.train_many(straight, sae.TensorStream(x, 64), **arguments | {"checkpoint": None}, **SETTINGS)
    for a, b, one, other in zip(resumed, straight, histories, whole, strict=True):
        assert same(a, b)
        assert torch.equal(one.values, other.values)
    with pytest.raises(StoreError, match="l1 = "):
        sae.train_many(several(), stream, **arguments, **SETTINGS | {"l1": 0.1})


def test_what_many_coders_cannot_be_is_refused() -> None:
    x = sparse_vectors(100)[0]
    coders = several()

    def many(coders: list[sae.SAE], **arguments: Any) -> None:
        sae.train_many(coders, sae.TensorStream(x), **{"steps": 2, "progress": False, "device": "cpu"} | arguments)

    with refuses(BilensError, "no SAE"):
        many([])
    with refuses(BilensError, "2 SAEs, one of them twice"):
        many([coders[0], coders[0]])
    with refuses(BilensError, "types float32 and float64"):
        many([coders[0], sae.StandardSAE(12, 3).double()])
    with refuses(ShapeError, "a stream of vectors of 12 coordinates; expected 11"):
        many([coders[0], sae.StandardSAE(11, 3)])
    for name in ("lr", "l1", "similarity"):
        with refuses(BilensError, f"3 values of {name}; expected one, or 4: one per SAE"):
            many(coders, **{name: [0.1, 0.1, 0.1]})
    with refuses(BilensError, "l1 = -1"):
        many(coders, l1=[0.1, 0.1, 0.1, -1.0])
    for clip in (0.0, float("nan")):
        with refuses(BilensError, f"clip = {clip:g}"):
            many(coders, clip=clip)


@pytest.mark.parametrize("kind", ["standard", "topk"])
@pytest.mark.parametrize("clip", [None, 2.0])
def test_free_rows_and_clipped_gradients_are_adams_on_the_formula(kind: str, clip: float | None) -> None:
    """Ten steps of torch's own Adam, clipping and autograd, on ‖x − x̂‖² + l1 Σ a_k ‖w_k‖."""
    x = sparse_vectors(50)[0].double()
    coder = build(kind).double()
    with torch.no_grad():
        coder.b_dec.copy_(x.mean(dim=0))
        coder.W_dec.mul_(1.5)  # kept as it is, where rows are free
    w = {name: value.detach().clone().requires_grad_() for name, value in coder.named_parameters()}
    adam = torch.optim.Adam(w.values(), lr=0.01)
    losses = []
    for _ in range(10):
        pre = (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
        kept = pre if kind == "standard" else pre * (pre >= pre.detach().sort(dim=1, descending=True).values[:, 2:3])
        acts = torch.relu(kept)
        loss = ((x - acts @ w["W_dec"] - w["b_dec"]) ** 2).sum(dim=1).mean()
        loss = loss + 0.3 * (acts * w["W_dec"].norm(dim=1)).sum(dim=1).mean()
        losses.append(float(loss.detach()))
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if clip is not None:
            nn.utils.clip_grad_norm_(w.values(), clip)
        adam.step()
    history = run(
        coder,
        sae.TensorStream(x, 50, shuffle=False),
        steps=10,
        lr=0.01,
        l1=0.3,
        warmup=0.0,
        decay=0.0,
        clip=clip,
        normalize=False,
        unit_rows=False,
    )
    assert_close(history["loss"], torch.tensor(losses).double())
    for name, value in coder.named_parameters():
        assert_close(value.detach(), w[name].detach(), rtol=1e-6, atol=1e-8)
    assert float((coder.W_dec.detach().norm(dim=1) - 1).abs().min()) > 0.01


@pytest.mark.parametrize("kind", ["standard", "topk"])
def test_bfloat16_products_train_as_well_and_go_on_exactly(kind: str, tmp_path: Path) -> None:
    x = sparse_vectors()[0]
    arguments: dict[str, Any] = {"steps": 60, "lr": 0.01, "l1": 0.2 if kind == "standard" else 0.0}
    coders = {name: build(kind) for name in ("whole", "rounded", "resumed")}
    run(coders["whole"], sae.TensorStream(x, 200), **arguments)
    arguments["precision"] = "bfloat16"
    run(coders["rounded"], sae.TensorStream(x, 200), **arguments)
    assert coders["rounded"].W_dec.dtype == torch.float32
    assert not same(coders["whole"], coders["rounded"])
    errors = {name: sae.evaluate(coders[name], x).nmse for name in ("whole", "rounded")}
    assert errors["rounded"] < 1.1 * errors["whole"] + 0.005
    arguments["checkpoint"] = tmp_path / "c"
    with pytest.raises(KeyboardInterrupt):
        run(coders["resumed"], Counted(sae.TensorStream(x, 200), 31), **arguments)
    coders["resumed"] = build(kind)
    run(coders["resumed"], sae.TensorStream(x, 200), **arguments)
    assert same(coders["rounded"], coders["resumed"])
    with pytest.raises(StoreError, match="precision = 'bfloat16' and not None"):
        run(build(kind), sae.TensorStream(x, 200), **arguments | {"precision": None})


def test_a_precision_that_there_is_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with refuses(BilensError, "precision = 'float8'"):
        run(build("topk"), sae.TensorStream(sparse_vectors(100)[0]), precision="float8")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    for device in ("cuda", "mps"):
        with refuses(BilensError, "precision = 'bfloat16' on a device without it"):
            product_type("bfloat16", torch.device(device))


class Looks(TorchDispatchMode):
    """Names the operations that wait for a device, because a number or a size depends on what it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "equal", "_unique2", "bincount"):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def test_no_step_looks_at_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two reports: the optimiser, the penalties, what is logged, and a top-k SAE's gradients."""
    monkeypatch.setattr(training, "_SECONDS_BETWEEN_REPORTS", 1e9)
    looks = Looks()

    class Watched(Counted):
        def batch(self, n: int) -> Tensor:
            if len(self.asked) > 1 and n == 16:  # reports double their distance: after steps 1, 3, 7, 15 and 31
                looks.__enter__()
            if n == 30:
                looks.__exit__(None, None, None)
            return super().batch(n)

    stream = Watched(sae.TensorStream(sparse_vectors(2000)[0], 32))
    coders = [sae.TopKSAE(12, 90, 2), sae.TopKSAE(12, 24, 20)]
    sae.train_many(coders, stream, steps=40, l1=0.1, similarity=0.1, clip=1.0, progress=False, device="cpu")
    assert stream.asked[-1] == 39
    assert looks.seen == []


@pytest.fixture
def waiting_is_an_error() -> Iterator[Any]:
    mode = torch.cuda.get_sync_debug_mode()
    yield torch.cuda.set_sync_debug_mode
    torch.cuda.set_sync_debug_mode(mode)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["standard", "topk"])
@pytest.mark.parametrize("precision", [None, "bfloat16"])
def test_no_step_waits_for_a_gpu(
    kind: str, precision: Any, waiting_is_an_error: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_SECONDS_BETWEEN_REPORTS", 1e9)

    class Watched(Counted):
        def batch(self, n: int) -> Tensor:
            waiting_is_an_error("error" if 16 <= n < 30 else "default")
            return super().batch(n)

    stream = Watched(sae.TensorStream(sparse_vectors(2000)[0].cuda(), 32))
    coder = build(kind)
    sae.train(coder, stream, steps=500, l1=0.1, clip=1.0, precision=precision, progress=False, device="cuda")
    assert sae.evaluate(coder, sparse_vectors(2000)[0]).nmse < 0.5
