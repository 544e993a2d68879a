"""Training an image classifier: AdamW, a schedule, input noise, checkpoints, and exact resume."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bilens import faithfulness, schedules
from bilens._internal import checkpoint as checkpoints
from bilens._internal import checks
from bilens._internal import device as devices
from bilens._internal.checks import choice, flag, instance, whole
from bilens._internal.seeds import named
from bilens.errors import BilensError, ShapeError
from bilens.history import History
from bilens.models.classifier import ImageClassifier
from bilens.progress import bar

_SCHEDULES = {"step": schedules.drops, "cosine": schedules.cosine}

_AT_ONCE = 5000
"""Test images that go through the model at a time."""

_REPORT = 25
"""Steps between two updates of the progress bar; each waits for the device."""


@runtime_checkable
class Augmentation(Protocol):
    """Random changes of training images, for example small rotations: a callable that says what it does."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What is done, as JSON values: a training is continued with the same settings only."""
        ...

    def __call__(
        self, images: Float[Tensor, "n d"], image: tuple[int, int], generator: torch.Generator
    ) -> Float[Tensor, "n d"]:
        """Images changed at random; those that are given stay as they are.

        Args:
            images: (n, d), flattened; image: (height, width); generator: of the CPU, the only source of randomness.
        """
        ...


def train(
    model: ImageClassifier,
    images: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    *,
    test_images: Float[Tensor, "t d"] | None = None,
    test_labels: Int[Tensor, " t"] | None = None,
    epochs: int = 10,
    batch_size: int = 100,
    lr: float = 1e-3,
    weight_decay: float = 1.0,
    schedule: Literal["step", "cosine"] = "step",
    noise: float = 0.0,
    augmentation: Augmentation | None = None,
    seed: int = 0,
    device: str | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> History:
    """Train a classifier in place by AdamW on the cross-entropy, and leave it on the device.

    Examples:
        >>> from bilens import data
        >>> digits = data.digits()
        >>> model = ImageClassifier(digits.input, digits.output, hidden=32)
        >>> images, labels = digits.train.images, digits.train.labels
        >>> history = train(model, images, labels, epochs=3, lr=1e-2, progress=False, device="cpu")
        >>> len(history.steps), bool(history["train accuracy"][-1] > 0.8)
        (3, True)

    Batch order depends on (seed, epoch) alone, noise and augmentation on (seed, step) alone, so that a run that was
    killed and started again with the same arguments ends with the same weights as one that was not: bit for bit on a
    CPU, with as many threads.

    Args:
        model: the classifier, with its own seed for the first weights.
        images: (n, d), one image per row, usually in [0, 1]; labels: (n,), numbers of the classes.
        test_images, test_labels: measured at the end of each epoch; both or neither.
        epochs, batch_size: passes over the images, and images per update; the last batch of an epoch may be smaller.
        lr: learning rate; weight_decay: AdamW's, a step takes lr · weight_decay of each weight, biases included.
        schedule: "cosine": lr · ½(1 + cos(π t/T)) at step t of T; "step": lr, a tenth of it from 60 % of
            the steps on, a hundredth from 85 %.
        noise: standard deviation of the Gaussian noise added to each training image, in raw pixel units, those of
            `images`: 0.3 is 0.3 of the way from black to white for images in [0, 1], whatever their own deviation.
        augmentation: how each training image is changed at random before the noise, anew in each epoch; None for not.
        seed: of batch order, noise and augmentation.
        device: a torch device, or None for CUDA, then MPS, then the CPU.
        checkpoint: a file to continue from when it exists and to write to: every few seconds, after each epoch, and on
            Ctrl-C. It stays when training is done, and then gives the trained weights and the history at once;
            delete it when they are saved. A checkpoint of other arguments or images is refused.
        progress: whether to show a bar with loss, accuracy and time left.

    Returns:
        One row per epoch: "loss" and "train accuracy" are means over the epoch, as the model saw the (noisy) images
        while it learned; "test accuracy" is there when test images are given.

    Raises:
        ShapeError: images, labels and model do not fit together. StoreError: a checkpoint of another run, or damaged.
        BilensError: NaN or infinity, labels out of range, a number out of range, augmentation without an image shape,
            or a loss that is no longer finite.
    """
    check_settings(
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        weight_decay=weight_decay,
        schedule=schedule,
        noise=noise,
        seed=seed,
    )
    epochs, batch_size, seed = int(epochs), int(batch_size), int(seed)  # Python's own, for the checkpoint
    progress = flag("progress", progress)
    lr, weight_decay, noise = float(lr), float(weight_decay), float(noise)
    checkpoint = None if checkpoint is None else checks.path("checkpoint", checkpoint)
    if augmentation is not None:
        instance("augmentation", augmentation, Augmentation)
    if (test_images is None) != (test_labels is None):
        raise BilensError("test images or test labels alone", "both or neither")
    _check_data(model, images, labels, "images", "labels")
    if test_images is not None and test_labels is not None:
        _check_data(model, test_images, test_labels, "test images", "test labels")
    shape = model.input.image
    if augmentation is not None and shape is None:
        raise BilensError(
            f"augmentation for a model of {model.input.title}",
            "an input space with an image shape",
            "give it one: Space(..., image=(28, 28))",
        )
    where = devices.choose(device)
    model.to(where)
    dtype = model.readout.weight.dtype
    names = ("loss", "train accuracy") + (() if test_images is None else ("test accuracy",))
    settings: dict[str, Any] = {}
    if checkpoint is not None:
        settings = {
            "model": model.config,
            "data": _fingerprint(images, labels),
            "columns": list(names),
            "epochs": epochs,
            "batch_size": batch_size,
            "lr": lr,
            "weight_decay": weight_decay,
            "schedule": schedule,
            "noise": noise,
            "seed": seed,
        }
    if augmentation is not None:
        settings["augmentation"] = dict(augmentation.settings)
    images, labels = images.to(where, dtype), labels.to(where, torch.int64)
    if test_images is not None and test_labels is not None:
        test_images, test_labels = test_images.to(where, dtype), test_labels.to(where, torch.int64)

    fused = where.type in ("cpu", "cuda")
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay, fused=fused)
    epoch_steps = math.ceil(len(images) / batch_size)
    total, share = epochs * epoch_steps, _SCHEDULES[schedule]
    done = 0
    extra: dict[str, Tensor] = {}
    if checkpoint is not None:
        done, extra = checkpoints.load(checkpoint, model, optimizer, settings=settings)
    rows = extra.get("rows", torch.zeros(0, len(names), dtype=torch.float64)).tolist()
    sums = extra.get("sums", torch.zeros(2)).to(where)  # of loss × images, and of right answers, since the epoch began
    noise_generator = torch.Generator(device=where)

    def save() -> None:
        if checkpoint is not None and math.isfinite(float(sums[0])):
            logged = torch.tensor(rows, dtype=torch.float64).reshape(-1, len(names))
            checkpoints.save(
                checkpoint, model, optimizer, done=done, settings=settings, extra={"rows": logged, "sums": sums}
            )

    between_updates = True
    try:
        with torch.enable_grad(), bar("training", total, done=done, show=progress) as step:
            pace = checkpoints.Pace()
            for epoch in range(done // epoch_steps, epochs):
                order = torch.randperm(len(images), generator=_generator(seed, "order", epoch)).to(where)
                reported = done
                for number in range(done - epoch * epoch_steps, epoch_steps):
                    index = order[number * batch_size : (number + 1) * batch_size]
                    x, y = images.index_select(0, index), labels.index_select(0, index)
                    if augmentation is not None and shape is not None:
                        x = augmentation(x, shape, _generator(seed, "augmentation", done))
                    if noise > 0:
                        noise_generator.manual_seed(named(seed, "noise", done))
                        x += noise * torch.randn(x.shape, generator=noise_generator, device=where, dtype=dtype)
                    for group in optimizer.param_groups:
                        group["lr"] = lr * share(done, total)
                    logits = model(x)
                    loss = nn.functional.cross_entropy(logits, y)
                    optimizer.zero_grad(set_to_none=True)
                    torch.autograd.backward(loss)
                    right = (logits.detach().argmax(dim=1) == y).sum()
                    between_updates = False
                    optimizer.step()
                    sums += torch.stack([loss.detach() * len(x), right]).to(sums.dtype)
                    done += 1
                    between_updates = True
                    if done - reported == _REPORT or number == epoch_steps - 1:
                        seen = min((number + 1) * batch_size, len(images))
                        mean_loss, mean_right = (sums / seen).tolist()
                        if not math.isfinite(mean_loss):
                            raise BilensError(
                                f"a loss of {mean_loss} in epoch {epoch + 1} of {epochs}",
                                "a finite loss",
                                f"use a learning rate below {lr:g}, or check the scale of the images",
                            )
                        step(done - reported, loss=mean_loss, accuracy=mean_right)
                        reported = done
                    if number < epoch_steps - 1 and pace.due(checkpoints.SECONDS_BETWEEN_CHECKPOINTS):
                        pace.write(save)
                between_updates = False
                row = [mean_loss, mean_right]
                if test_images is not None and test_labels is not None:
                    row.append(faithfulness.accuracy(_logits(model, test_images), test_labels))
                rows.append(row)
                sums.zero_()
                between_updates = True
                pace.write(save)
    except KeyboardInterrupt:
        if between_updates:
            save()
        raise
    values = torch.tensor(rows, dtype=torch.float64).reshape(-1, len(names))
    return History(names, torch.arange(1, len(rows) + 1) * epoch_steps, values)


@torch.no_grad()
def _logits(model: ImageClassifier, images: Tensor) -> Tensor:
    return torch.cat([model(some) for some in torch.split(images, _AT_ONCE)])


def _generator(seed: int, purpose: str, number: int) -> torch.Generator:
    return torch.Generator(device="cpu").manual_seed(named(seed, purpose, number))


def _fingerprint(images: Tensor, labels: Tensor) -> int:
    """A checksum of the data, so that a run is not continued on other images."""
    return zlib.crc32(
        labels.detach().cpu().to(torch.int64).contiguous().numpy().data,
        zlib.crc32(images.detach().cpu().float().contiguous().numpy().data),
    )


def check_settings(
    *,
    epochs: int,
    weight_decay: float,
    noise: float,
    seed: int,
    batch_size: int = 100,
    lr: float = 1e-3,
    schedule: str = "step",
) -> None:
    """Refuse settings that `train` would refuse, before anything else is done. Raises BilensError."""
    whole("epochs", epochs, 1)
    whole("batch_size", batch_size, 1)
    checks.seed(seed, 0)
    checks.number("lr", lr, above=0)
    checks.number("weight_decay", weight_decay, 0)
    checks.number("noise", noise, 0)
    choice("schedule", schedule, tuple(_SCHEDULES), "'step' or 'cosine'")


def _check_data(model: ImageClassifier, images: Tensor, labels: Tensor, name: str, labels_name: str) -> None:
    instance("model", model, ImageClassifier)
    if isinstance(images, Tensor) and images.dtype in (torch.uint8, torch.int32, torch.int64):
        raise BilensError(f"{name} of type {images.dtype}", "floating-point numbers", "divide them by 255")
    checks.floating(name, images)
    checks.in_memory(name, images)
    instance(labels_name, labels, Tensor)
    width, classes = model.input.size, model.output.size
    if images.ndim != 2 or images.shape[1] != width or len(images) < 1:
        raise ShapeError(
            f"{name} of shape {tuple(images.shape)}",
            f"(n, {width}) with n ≥ 1, for a model of {model.input.title}",
            "pass one flattened image per row",
        )
    if not bool(torch.isfinite(images).all()):
        raise BilensError(f"{name} with NaN or infinity", "finite numbers", "remove the broken images")
    if tuple(labels.shape) != (len(images),):
        raise ShapeError(
            f"{labels_name} of shape {tuple(labels.shape)}",
            f"({len(images)},), one per image",
        )
    checks.integers(labels_name, labels)
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise BilensError(
            f"{labels_name} from {low} to {high}",
            f"numbers from 0 to {classes - 1} for a model of {model.output.title}",
            "correct the labels or build the model with more classes",
        )
