"""Training: the update rule, the schedules, the noise, and resuming a run that was killed."""

from __future__ import annotations

import importlib
import math
import os
import signal
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from bilens.errors import BilensError, ShapeError, StoreError
from bilens.models import ImageClassifier, train
from bilens.space import Space

training = importlib.import_module("bilens.models.train")  # the module, which the function of that name hides

CHILD = """
import importlib, os, signal, sys
import torch
sys.path.insert(0, sys.argv[1])
from test_train_classifier import job, training

plain, calls = torch.nn.functional.cross_entropy, 0

def counted(*arguments):
    global calls
    calls += 1
    if calls == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(*arguments)

torch.nn.functional.cross_entropy = counted
training.checkpoints.Pace.due = lambda pace, seconds: calls == 10
job(sys.argv[2])
"""


def data(n: int = 60, d: int = 12, classes: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, d, generator=generator), torch.randint(0, classes, (n,), generator=generator)


def build(**arguments: Any) -> ImageClassifier:
    return ImageClassifier(Space("pixels", 12), Space("classes", 4), **({"hidden": 6} | arguments))


def run(model: ImageClassifier, images: torch.Tensor, labels: torch.Tensor, **arguments: Any) -> Any:
    return train(
        model, images, labels, **({"device": "cpu", "progress": False, "epochs": 2, "batch_size": 8} | arguments)
    )


def same(a: ImageClassifier, b: ImageClassifier) -> bool:
    return all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())


def job(path: str) -> tuple[ImageClassifier, Any]:
    """A run of 28 steps, 7 an epoch."""
    images, labels = data(50)
    model = build(bias=True, readout_bias=True)
    settings = {"epochs": 4, "lr": 0.01, "noise": 0.2, "schedule": "cosine", "seed": 3, "checkpoint": path}
    return model, run(model, images, labels, test_images=images, test_labels=labels, **settings)


@pytest.mark.slow
def test_a_killed_run_that_is_resumed_ends_as_a_straight_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight, expected = job(str(tmp_path / "straight.safetensors"))
    killed = subprocess.run(
        [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(tmp_path / "killed.safetensors")],
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
        check=False,
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    plain, calls = torch.nn.functional.cross_entropy, []
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", lambda *given: (calls.append(0), plain(*given))[1])
    resumed, history = job(str(tmp_path / "killed.safetensors"))
    assert len(calls) == 28 - 10  # from the checkpoint inside the second epoch; two steps after it were lost
    assert same(resumed, straight)
    assert torch.equal(history.values, expected.values)


def reference(images: torch.Tensor, labels: torch.Tensor, rates: list[float], decay: float, order: list[Any]) -> Any:
    """AdamW as it is written (arXiv 1711.05101), with hand-written gradients of the bilinear model, in float64."""
    model = build().double()
    parameters = [model.layer.left.weight, model.layer.right.weight, model.readout.weight]
    w, v, d = (value.detach().clone() for value in parameters)
    m, s = [torch.zeros_like(x) for x in (w, v, d)], [torch.zeros_like(x) for x in (w, v, d)]
    for t, (rate, index) in enumerate(zip(rates, order, strict=True), start=1):
        x, y = images[index], labels[index]
        a, b = x @ w.T, x @ v.T
        logits = (a * b) @ d.T
        error = (torch.softmax(logits, 1) - torch.nn.functional.one_hot(y, 4)) / len(x)
        back = error @ d
        gradients = [(back * b).T @ x, (back * a).T @ x, error.T @ (a * b)]
        for k, (weights, g) in enumerate(zip((w, v, d), gradients, strict=True)):
            weights.mul_(1 - rate * decay)
            m[k] = 0.9 * m[k] + 0.1 * g
            s[k] = 0.999 * s[k] + 0.001 * g * g
            weights.sub_(rate * (m[k] / (1 - 0.9**t)) / ((s[k] / (1 - 0.999**t)).sqrt() + 1e-8))
    return w, v, d


@pytest.mark.parametrize("schedule", ["step", "cosine"])
def test_the_update_is_adamw_with_the_documented_schedule(schedule: str) -> None:
    images, labels = data(20)
    images = images.double()
    model = build().double()
    history = run(model, images, labels, epochs=20, batch_size=20, lr=0.01, weight_decay=0.5, schedule=schedule)
    if schedule == "step":
        rates = [0.01] * 12 + [0.001] * 5 + [0.0001] * 3
    else:
        rates = [0.01 * (1 + math.cos(math.pi * t / 20)) / 2 for t in range(20)]
    w, v, d = reference(images, labels, rates, 0.5, [torch.arange(20)] * 20)
    for value, expected in ((model.layer.left, w), (model.layer.right, v), (model.readout, d)):
        torch.testing.assert_close(value.weight.detach(), expected, rtol=1e-7, atol=1e-9)
    assert history.steps.tolist() == list(range(1, 21))


def test_every_image_is_seen_once_an_epoch_in_an_order_of_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = data(21)
    images[:, 0] = torch.arange(21) / 21
    plain, seen = ImageClassifier.forward, []

    def spy(self: ImageClassifier, x: torch.Tensor) -> torch.Tensor:
        seen.append((x[:, 0] * 21).round().long().tolist())
        return plain(self, x)

    monkeypatch.setattr(ImageClassifier, "forward", spy)
    run(build(), images, labels, epochs=2)
    assert [len(batch) for batch in seen] == [8, 8, 5] * 2
    first, second = (list(chain(*seen[:3])), list(chain(*seen[3:])))
    assert sorted(first) == sorted(second) == list(range(21))
    assert first != second != list(range(21))
    seen.clear()
    run(build(), images, labels, epochs=1, seed=1)
    assert list(chain(*seen)) != first
    seen.clear()
    run(build(), images, labels, epochs=1)
    assert list(chain(*seen)) == first


def test_noise_is_in_raw_pixel_units_and_new_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = torch.full((4000, 12), 0.5), torch.arange(4000) % 4
    images[:, :6] = 0.01  # the deviation of the data must not matter
    plain, seen = ImageClassifier.forward, []

    def spy(self: ImageClassifier, x: torch.Tensor) -> torch.Tensor:
        seen.append(x.clone())
        return plain(self, x)

    monkeypatch.setattr(ImageClassifier, "forward", spy)
    before = images.clone()
    run(build(), images, labels, noise=0.3, epochs=2, batch_size=4000, lr=1e-6)
    assert torch.equal(images, before)
    added = seen[0] - images
    torch.testing.assert_close(added.std(dim=0), torch.full((12,), 0.3), rtol=0.06, atol=0)
    torch.testing.assert_close(added.mean(dim=0), torch.zeros(12), rtol=0, atol=0.03)
    assert float(((seen[0] - images) - (seen[1] - images)).abs().mean()) > 0.1


def test_history_is_of_the_epoch_and_of_the_test_images() -> None:
    images, labels = data(40)
    model, start = build(), build()
    history = run(model, images, labels, epochs=1, batch_size=40, test_images=images[:7], test_labels=labels[:7])
    assert history.names == ("loss", "train accuracy", "test accuracy")
    loss = torch.nn.functional.cross_entropy(start(images), labels)
    right = (start(images).argmax(1) == labels).double().mean()
    tested = (model(images[:7]).argmax(1) == labels[:7]).double().mean()
    expected = torch.stack([loss.detach().double(), right, tested])
    torch.testing.assert_close(history.values[0], expected, rtol=1e-6, atol=0)
    assert run(model, images, labels, epochs=1).names == ("loss", "train accuracy")


@pytest.mark.parametrize("activation", ["bilinear", "relu", "gelu", "reglu", "swiglu"])
def test_every_model_learns(activation: str) -> None:
    images, _ = data(200)
    labels = 2 * (images[:, 0] > images[:, 1]).long() + (images[:, 2] > 0.5).long()
    model = build(hidden=16, activation=activation, bias=True, readout_bias=True)
    history = run(model, images, labels, epochs=60, batch_size=50, lr=0.02, weight_decay=0.01)
    assert float(history["train accuracy"][-1]) > 0.9
    assert float((model(images).argmax(dim=1) == labels).double().mean()) > 0.9


def test_test_images_are_counted_over_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_AT_ONCE", 5)
    images, labels = data(23)
    model = build()
    history = run(model, images, labels, epochs=1, test_images=images, test_labels=labels)
    expected = sum(int(model(x[None]).argmax() == y) for x, y in zip(images, labels, strict=True)) / 23
    assert float(history["test accuracy"][-1]) == pytest.approx(expected)


def test_nothing_global_is_touched() -> None:
    images, labels = data()
    before = torch.get_rng_state()
    one = build()
    run(one, images, labels, noise=0.1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    two = build()
    with torch.no_grad():
        run(two, images, labels, noise=0.1)
    assert same(one, two)


def test_ctrl_c_leaves_a_checkpoint_of_all_steps_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = data()
    straight = build()
    expected = run(straight, images, labels, noise=0.1)
    plain, calls = torch.nn.functional.cross_entropy, []

    def interrupted(*arguments: Any) -> torch.Tensor:
        calls.append(0)
        if len(calls) == 11:
            raise KeyboardInterrupt
        return plain(*arguments)

    path = tmp_path / "run.safetensors"
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(build(), images, labels, noise=0.1, checkpoint=path)
    again = build()
    history = run(again, images, labels, noise=0.1, checkpoint=path)
    assert len(calls) == 11 + 16 - 10  # the ten steps that were done were not done again
    assert same(again, straight)
    torch.testing.assert_close(history.values, expected.values, rtol=0, atol=0)


def test_ctrl_c_inside_an_update_keeps_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = data()
    straight = build()
    run(straight, images, labels)
    plain, calls = torch.optim.AdamW.step, []

    def interrupted(self: torch.optim.AdamW) -> None:
        calls.append(0)
        plain(self)
        if len(calls) == 11:
            raise KeyboardInterrupt

    path = tmp_path / "run.safetensors"
    monkeypatch.setattr(torch.optim.AdamW, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(build(), images, labels, checkpoint=path)
    again = build()
    run(again, images, labels, checkpoint=path)
    assert len(calls) == 11 + 16 - 8  # from the end of the first epoch on
    assert same(again, straight)


def test_a_finished_checkpoint_gives_the_weights_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = data()
    one, two, path = build(), build(), tmp_path / "run.safetensors"
    history = run(one, images, labels, checkpoint=path)
    monkeypatch.delattr(torch.nn.functional, "cross_entropy")
    again = run(two, images, labels, checkpoint=path)
    assert same(one, two)
    assert torch.equal(again.values, history.values)
    assert torch.equal(again.steps, history.steps)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    images, labels = data()
    path = tmp_path / "run.safetensors"
    run(build(), images, labels, checkpoint=path)
    for change in ({"lr": 0.5}, {"seed": 1}, {"noise": 0.1}, {"epochs": 3}, {"schedule": "cosine"}):
        with pytest.raises(StoreError, match=f"of a run with other settings .*{next(iter(change))}.*; expected .*"):
            run(build(), images, labels, checkpoint=path, **change)
    for model, x, y in (
        (build(hidden=7), images, labels),
        (build(), images.flip(0), labels),
        (build(), images, labels.flip(0)),
    ):
        with pytest.raises(StoreError, match=r"of a run with other settings .*; expected one of this run"):
            run(model, x, y, checkpoint=path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StoreError, match=r"got .*run\.safetensors, which cannot be read .*; expected .*"):
        run(build(), images, labels, checkpoint=path)


def test_a_loss_that_leaves_the_numbers_is_named_and_not_kept(tmp_path: Path) -> None:
    images, labels = data()
    with pytest.raises(BilensError, match=r"got a loss of (nan|inf) in epoch \d of 2; expected a finite loss. Use"):
        run(build(), images, labels, lr=1e30, weight_decay=0.0, checkpoint=tmp_path / "run.safetensors")
    assert not list(tmp_path.iterdir())


def test_progress_shows_loss_and_accuracy(capsys: pytest.CaptureFixture[str]) -> None:
    images, labels = data()
    run(build(), images, labels, progress=True)
    shown = capsys.readouterr().err
    for word in ("training: 16 of 16", "loss", "accuracy"):
        assert word in shown
    run(build(), images, labels)
    assert capsys.readouterr().err == ""


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": torch.rand(60, 11)}, ShapeError, r"got images of shape \(60, 11\); expected \(n, 12\) .*"),
        ({"images": torch.rand(60)}, ShapeError, r"got images of shape \(60,\); expected \(n, 12\) .*"),
        ({"images": torch.rand(0, 12)}, ShapeError, r"got images of shape \(0, 12\); expected \(n, 12\) .*"),
        (
            {"images": torch.ones(60, 12).long()},
            BilensError,
            r"got images of type torch\.int64; expected .*. Divide",
        ),
        ({"images": torch.full((60, 12), math.nan)}, BilensError, r"got images with NaN or infinity; expected .*"),
        ({"images": torch.full((60, 12), math.inf)}, BilensError, r"got images with NaN or infinity; expected .*"),
        ({"labels": torch.zeros(59).long()}, ShapeError, r"got labels of shape \(59,\); expected \(60,\).*"),
        ({"labels": torch.zeros(60)}, BilensError, r"got labels of type torch\.float32; expected whole numbers"),
        (
            {"labels": torch.full((60,), 4)},
            BilensError,
            r"got labels from 4 to 4; expected numbers from 0 to 3 .*",
        ),
        ({"labels": torch.full((60,), -1)}, BilensError, r"got labels from -1 to -1; expected numbers from 0 to 3"),
        (
            {"test_images": torch.rand(5, 12)},
            BilensError,
            r"got test images or test labels alone; expected both .*",
        ),
        (
            {"test_images": torch.rand(5, 9), "test_labels": torch.zeros(5).long()},
            ShapeError,
            r"got test images of shape \(5, 9\); expected \(n, 12\) .*",
        ),
        ({"epochs": 0}, BilensError, r"got epochs = 0; expected a whole number of at least 1"),
        ({"batch_size": 0}, BilensError, r"got batch_size = 0; expected a whole number of at least 1"),
        ({"seed": -1}, BilensError, r"got seed = -1; expected a whole number from 0 to .*"),
        ({"lr": 0.0}, BilensError, r"got lr = 0\.0; expected a finite number above 0"),
        ({"lr": math.nan}, BilensError, r"got lr = nan; expected a finite number above 0"),
        ({"weight_decay": -1.0}, BilensError, r"got weight_decay = -1\.0; expected a finite number of at least 0"),
        ({"noise": -0.1}, BilensError, r"got noise = -0\.1; expected a finite number of at least 0"),
        ({"schedule": "linear"}, BilensError, r"got schedule = 'linear'; expected 'step' or 'cosine'"),
        ({"device": "toaster"}, BilensError, r"got device 'toaster'; expected .*"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], error: type[BilensError], message: str) -> None:
    images, labels = data()
    with pytest.raises(error, match=message):
        run(build(), **({"images": images, "labels": labels} | change))


@pytest.mark.gpu
def test_on_a_gpu_it_learns_and_stays_there() -> None:
    images, labels = data(200)
    model = build(hidden=32)
    history = run(model, images, labels, device="cuda", epochs=5, noise=0.1)
    assert model.readout.weight.is_cuda
    assert bool(torch.isfinite(history.values).all())
    assert model.tensor().left.is_cuda
