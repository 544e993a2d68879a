"""Training: what the draft asks of it, what it finds, and resuming a run that was killed."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from bilens import pairs, sae
from bilens.errors import BilensError, ShapeError, StoreError
from bilens.history import History
from bilens.space import Space
from bilens.tensor import BilinearTensor
from oracle import near

training = importlib.import_module("bilens.sae.train")  # the module, which the function of that name hides

CHILD = """
import os, signal, sys
sys.path[:0] = [sys.argv[1], os.path.dirname(sys.argv[1])]
from test_sae_train import job, training

class Killed:
    def __init__(self, stream):
        self.stream, self.width, self.rows = stream, stream.width, stream.rows
    def __len__(self):
        return len(self.stream)
    def batch(self, n):
        training.checkpoints.SECONDS_BETWEEN_CHECKPOINTS = 0.0 if n == 10 else 1e9
        training._SECONDS_BETWEEN_REPORTS = 0.0
        if n == 13:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.stream.batch(n)

job(sys.argv[3], sys.argv[2], wrap=Killed)
"""


def sparse_vectors(n: int = 4000, d: int = 12, m: int = 16, k: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Vectors that are sums of k of m unit atoms, and the atoms."""
    generator = torch.Generator().manual_seed(seed)
    atoms = functional.normalize(torch.randn(m, d, generator=generator), dim=1)
    chosen = torch.rand(n, m, generator=generator).topk(k, dim=1).indices
    codes = torch.zeros(n, m).scatter(1, chosen, 0.5 + torch.rand(n, k, generator=generator))
    return codes @ atoms, atoms


def build(kind: str, d_in: int = 12, d_sae: int = 24) -> sae.SAE:
    return sae.StandardSAE(d_in, d_sae) if kind == "standard" else sae.TopKSAE(d_in, d_sae, 3, rectify=kind == "topk")


def run(coder: sae.SAE, stream: Any, **arguments: Any) -> History:
    return sae.train(coder, stream, **({"steps": 20, "progress": False, "device": "cpu"} | arguments))


def job(kind: str, checkpoint: str | None, wrap: Any = lambda stream: stream) -> tuple[sae.SAE, History]:
    """The run that is killed and resumed, on a stream whose epochs end in between."""
    coder = build(kind)
    stream = wrap(sae.TensorStream(sparse_vectors(100)[0] * 1e-3, batch_size=8))
    return coder, run(coder, stream, steps=250, l1=0.1, similarity=0.1, checkpoint=checkpoint)  # two steps a row


def same(a: sae.SAE, b: sae.SAE) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.slow
def test_a_run_killed_and_resumed_ends_like_one_that_was_not(tmp_path: Path) -> None:
    kind = "topk"
    path = tmp_path / "run.safetensors"
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(path), kind],
        capture_output=True,
        check=False,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    assert path.exists()
    seen: list[int] = []

    class Watched(sae.IterableStream):
        def batch(self, n: int) -> Tensor:
            seen.append(n)
            return stream.batch(n)

    stream = sae.TensorStream(sparse_vectors(100)[0] * 1e-3, batch_size=8)
    straight, history = job(kind, None)
    resumed, resumed_history = job(kind, str(path), wrap=lambda s: Watched([s.batch(n) for n in range(len(s))]))
    assert seen[:3] == [0, 0, 11]  # the width, the scale, and the first step that is left
    assert same(straight, resumed)
    assert torch.equal(history.values, resumed_history.values)
    assert torch.equal(history.steps, resumed_history.steps)

    finished = path.read_bytes()
    again, _ = job(kind, str(path))
    assert same(straight, again)
    assert path.read_bytes() == finished


@pytest.mark.parametrize("kind", ["standard", "topk"])
def test_ctrl_c_saves_and_goes_on_up_and_leaves_a_coder_for_raw_vectors(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    stopped = build(kind)

    class Stopping:
        def __init__(self, stream: sae.TensorStream) -> None:
            self.stream, self.width, self.rows = stream, stream.width, stream.rows

        def __len__(self) -> int:
            return len(self.stream)

        def batch(self, n: int) -> Tensor:
            if n == 13:
                raise KeyboardInterrupt
            return self.stream.batch(n)

    x = sparse_vectors(300)[0] * 1e-3
    stream = sae.TensorStream(x, batch_size=64)
    arguments = {"steps": 25, "checkpoint": path}
    with pytest.raises(KeyboardInterrupt):
        run(stopped, Stopping(stream), **arguments)
    # b_dec begins as the mean of the vectors: it is back in their units.
    assert_close(stopped.b_dec.detach(), x.mean(dim=0), rtol=0, atol=0.3 * float(x.mean(dim=0).norm()))
    resumed, straight = build(kind), build(kind)
    run(resumed, stream, **arguments)
    run(straight, stream, steps=25)
    assert same(resumed, straight)


@pytest.mark.parametrize(
    "change", [{"lr": 2e-3}, {"l1": 0.2}, {"steps": 21}, {"normalize": False}, {"k": 4}, {"x": 2.0}, {"seed": 7}]
)
def test_a_checkpoint_of_another_run_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    x = sparse_vectors(300)[0]
    path = tmp_path / "run.safetensors"
    run(build("topk"), sae.TensorStream(x, 64), checkpoint=path)
    k, scale, seed = change.pop("k", 3), change.pop("x", 1.0), change.pop("seed", 0)
    with pytest.raises(StoreError, match="a run with other settings"):
        run(sae.TopKSAE(12, 24, k, seed=seed), sae.TensorStream(x * scale, 64), checkpoint=path, **change)


@pytest.mark.parametrize("kind", ["standard", "topk", "topk without ReLU"])
@pytest.mark.parametrize("normalize", [True, False])
def test_decoder_rows_have_norm_1_after_training(kind: str, normalize: bool) -> None:
    coder = build(kind)
    with torch.no_grad():
        coder.W_dec.mul_(3)  # an SAE from elsewhere
    before = coder.W_dec.detach().clone()
    run(coder, sae.TensorStream(sparse_vectors(500)[0], 100), l1=0.1, normalize=normalize, lr=0.01)
    assert_close(coder.W_dec.detach().norm(dim=1), torch.ones(24))
    assert float((coder.W_dec.detach() - before / 3).abs().max()) > 0.01


def test_one_step_is_adams_on_the_formula_with_the_radial_part_removed() -> None:
    x = sparse_vectors(50)[0].double() * 7
    coder = sae.StandardSAE(12, 24).double()
    scale = (12 / x.square().sum(dim=1).mean()).sqrt()
    W_enc, W_dec = (w.detach().clone().requires_grad_() for w in (coder.W_enc, coder.W_dec))
    b_enc, b_dec = torch.zeros(24).double().requires_grad_(), (scale * x.mean(dim=0)).requires_grad_()
    acts = torch.relu((scale * x - b_dec) @ W_enc + b_enc)
    cosines = functional.normalize(W_dec, dim=1) @ functional.normalize(W_dec, dim=1).T
    off = cosines - torch.diag(cosines.diagonal())
    loss = ((scale * x - acts @ W_dec - b_dec) ** 2).sum(1).mean() + 0.3 * acts.sum(1).mean()
    loss = loss + 0.2 * (off**10).sum() ** 0.1
    loss.backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        assert W_dec.grad is not None
        W_dec.grad -= (W_dec.grad * W_dec).sum(1, keepdim=True) * W_dec
        # The first step of Adam is the sign of the gradient.
        for w in (W_enc, W_dec, b_enc, b_dec):
            assert w.grad is not None
            w.sub_(0.01 * w.grad / (w.grad.abs() + 1e-8))
        W_dec /= W_dec.norm(dim=1, keepdim=True)

    history = run(
        coder, sae.TensorStream(x, 50, shuffle=False), steps=1, lr=0.01, l1=0.3, similarity=0.2, warmup=0.0, decay=0.0
    )
    assert_close(coder.W_enc.detach(), W_enc.detach())
    assert_close(coder.W_dec.detach(), W_dec.detach())
    assert_close(coder.b_enc.detach(), (b_enc / scale).detach())
    assert_close(coder.b_dec.detach(), (b_dec / scale).detach())
    assert_close(float(history["loss"][0]), float(loss.detach()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("warmup", "decay"), [(0.0, 0.0), (0.0, 0.5), (0.0, 1.0), (0.3, 0.0), (0.25, 0.5)])
def test_the_learning_rate_rises_and_falls_as_stated(warmup: float, decay: float) -> None:
    """Ten steps beside Adam written out in NumPy, at a learning rate that rises and falls linearly."""
    x = sparse_vectors(50)[0].double()
    coder = sae.StandardSAE(12, 24).double()
    w = {name: value.detach().numpy().copy() for name, value in coder.named_parameters()}
    data, steps, lr = x.numpy(), 10, 0.01
    w["b_dec"] = data.mean(axis=0)
    first, second = ({name: np.zeros_like(value) for name, value in w.items()} for _ in range(2))
    for step in range(steps):
        z = data - w["b_dec"]
        codes = np.maximum(z @ w["W_enc"] + w["b_enc"], 0)
        r = 2 * (codes @ w["W_dec"] + w["b_dec"] - data) / len(data)
        back = (r @ w["W_dec"].T) * (codes > 0)
        gradient = {
            "W_enc": z.T @ back,
            "b_enc": back.sum(axis=0),
            "W_dec": codes.T @ r,
            "b_dec": r.sum(axis=0) - back.sum(axis=0) @ w["W_enc"].T,
        }
        rise = (step + 1) / (warmup * steps) if warmup else 1.0
        fall = (steps - step) / (decay * steps) if decay else 1.0
        for name, g in gradient.items():
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.999 * second[name] + 0.001 * g**2
            mean, square = first[name] / (1 - 0.9 ** (step + 1)), second[name] / (1 - 0.999 ** (step + 1))
            w[name] = w[name] - lr * min(rise, fall, 1.0) * mean / (np.sqrt(square) + 1e-8)
    run(
        coder, sae.TensorStream(x, 50, shuffle=False), steps=steps, lr=lr, warmup=warmup, decay=decay,
        normalize=False, unit_rows=False,
    )  # fmt: skip
    for name, value in coder.named_parameters():
        near(value.detach(), w[name], rtol=1e-6)


def test_normalised_training_does_not_depend_on_the_units() -> None:
    x = sparse_vectors(500)[0].double()
    coders = []
    for unit in (1.0, 2.0**-20):
        coder = build("standard").double()
        run(coder, sae.TensorStream(x * unit, 100), l1=0.1)
        coders.append(coder)
    assert_close(coders[1](x * 2.0**-20).detach() * 2.0**20, coders[0](x).detach())
    assert_close(coders[1].W_enc, coders[0].W_enc)


def test_norms_of_decoder_rows_are_moved_into_the_encoder_and_its_bias() -> None:
    x = sparse_vectors(60)[0]
    coder = build("standard")
    with torch.no_grad():
        coder.W_dec.mul_(torch.linspace(0.5, 3, len(coder.W_dec))[:, None])
        coder.b_enc.copy_(torch.linspace(-0.2, 0.3, len(coder.b_enc)))
        coder.b_dec.fill_(0.1)
    expected = coder(x).detach()
    run(coder, sae.TensorStream(x, 60), steps=1, lr=1e-12)
    assert_close(coder.W_dec.detach().norm(dim=1), torch.ones(len(coder.W_dec)))
    assert_close(coder(x).detach(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["standard", "topk"])
def test_training_finds_the_atoms_that_built_the_vectors(kind: str) -> None:
    x, atoms = sparse_vectors()
    coder = sae.StandardSAE(12, 24) if kind == "standard" else sae.TopKSAE(12, 24, 2)
    run(coder, sae.TensorStream(x + 0.5, 200), steps=300, lr=0.03, l1=0.0 if kind == "topk" else 0.4)
    best = (atoms @ coder.W_dec.detach().T).amax(dim=1)
    assert float((best > 0.9).float().mean()) > 0.8
    measured = sae.evaluate(coder, x + 0.5)
    assert measured.explained_variance > 0.85
    assert measured.l0 < 4


def test_more_l1_gives_fewer_features_and_similarity_spreads_the_decoder() -> None:
    x = sparse_vectors()[0]
    results = {}
    for l1, similarity in ((0.1, 0.0), (1.0, 0.0), (0.1, 3.0)):
        coder = build("standard")
        run(coder, sae.TensorStream(x, 200), steps=80, lr=0.03, l1=l1, similarity=similarity)
        results[l1, similarity] = (sae.evaluate(coder, x).l0, float(sae.decoder_similarity(coder.W_dec.detach())))
    assert results[1.0, 0.0][0] < 0.8 * results[0.1, 0.0][0]
    assert results[0.1, 3.0][1] < 0.9 * results[0.1, 0.0][1]


def test_pair_vectors_and_iterables_are_trained_on_alike() -> None:
    tensor = BilinearTensor.from_layer(
        torch.randn(6, 9, generator=torch.Generator().manual_seed(0)) * 1e-3,
        torch.randn(6, 9, generator=torch.Generator().manual_seed(1)) * 1e-3,
        input=Space("pixels", 9),
        output=Space("hidden", 6),
    )
    stream = pairs.stream(tensor, batch_size=16)
    a, b = sae.TopKSAE(6, 20, 3), sae.TopKSAE(6, 20, 3)
    history = run(a, stream, steps=40, lr=0.03)
    run(b, [stream.batch(n) for n in range(40)], steps=40, lr=0.03)
    assert same(a, b)
    assert float(history["nmse"][-1]) < 0.5 * float(history["nmse"][0])
    assert sae.evaluate(a, stream).rows == 45


def test_a_batch_of_zeros_leaves_the_error_of_the_run_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_POINTS", 10)  # two steps a row of the history
    x, _ = sparse_vectors(200)
    coder = build("topk")
    history = run(coder, [x, torch.zeros_like(x)], steps=20, lr=1e-12)
    x_hat, of_zeros = coder(x).detach(), coder(torch.zeros_like(x)).detach()
    expected = ((x - x_hat).square().sum() + of_zeros.square().sum()) / x.square().sum()
    assert_close(history["nmse"][-1], expected.double(), rtol=1e-5, atol=0)


def test_history_has_a_row_for_each_hundredth_of_the_run() -> None:
    coder = build("topk")
    history = run(coder, sae.TensorStream(sparse_vectors(300)[0], 100), steps=250)
    assert history.names == ("loss", "nmse", "l0", "dead")
    assert history.steps.tolist() == list(range(2, 251, 2))
    assert bool(((history["l0"] > 0) & (history["l0"] <= 3)).all())
    assert bool(((history["dead"] >= 0) & (history["dead"] <= 1)).all())


def test_training_depends_on_the_seeds_alone() -> None:
    a, b, other = build("topk"), build("topk"), build("topk")
    x = sparse_vectors(300)[0]
    torch.manual_seed(0)
    run(a, sae.TensorStream(x, 64))
    torch.manual_seed(1)
    run(b, sae.TensorStream(x, 64))
    run(other, sae.TensorStream(x, 64, seed=1))
    assert same(a, b)
    assert not same(a, other)


def test_a_trained_coder_goes_on_from_its_own_bias() -> None:
    x = sparse_vectors(500)[0] + 2
    coder = build("topk")
    run(coder, sae.TensorStream(x, 100), steps=60, lr=0.01)
    before = float(sae.nmse(x, coder(x).detach()))
    run(coder, sae.TensorStream(x, 100), steps=1, lr=1e-6)
    assert abs(float(sae.nmse(x, coder(x).detach())) - before) < 1e-4


def test_the_bar_shows_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    run(build("topk"), sae.TensorStream(sparse_vectors(300)[0], 100), progress=True)
    assert "nmse" in capsys.readouterr().err


def test_what_cannot_be_trained_is_refused() -> None:
    x = sparse_vectors(100)[0]
    for coder in (sae.GatedSAE(12, 24), sae.JumpReLUSAE(12, 24)):
        with pytest.raises(BilensError, match=f"a {type(coder).__name__}; expected a StandardSAE or a TopKSAE"):
            run(coder, sae.TensorStream(x))
    with pytest.raises(ShapeError, match="a stream of vectors of 11 coordinates; expected 12"):
        run(build("topk"), sae.TensorStream(x[:, 1:]))
    for bad in (torch.zeros(5, 12), torch.full((5, 12), torch.nan)):
        with pytest.raises(BilensError, match="a first batch with a mean squared norm of"):
            run(build("topk"), sae.TensorStream(bad))
    with pytest.raises(BilensError, match=r"a loss of nan at step \d+ of 20"):
        run(build("topk"), [x, x * torch.nan])
    for bad in (x[:0], x[:, 1:]):
        with pytest.raises(ShapeError, match=r"batch 1, of which this process has .*; expected \(vectors, 12\)"):
            run(build("topk"), [x, bad])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("steps", 2.5),
        ("lr", 0.0),
        ("lr", float("inf")),
        ("l1", -1.0),
        ("similarity", float("nan")),
        ("warmup", 1.5),
        ("decay", -0.1),
    ],
)
def test_numbers_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(BilensError, match=f"{name} = "):
        run(build("topk"), sae.TensorStream(sparse_vectors(100)[0]), **{name: value})
