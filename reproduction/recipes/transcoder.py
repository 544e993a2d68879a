"""What a transcoder keeps of a backdoor: fits by clean images and by weights, with and without a ridge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch
from matplotlib.figure import Figure
from torch import Tensor

from bilens import files, models
from bilens.data import Dataset
from bilens.models import ImageClassifier
from reproduction import charts
from reproduction.lab import Claim, Lab, Recipe
from reproduction.measurement import Measurement
from reproduction.methods.fidelity import Factors, Gaussian, Seen, factors, fitted, inner, outputs
from reproduction.methods.triggers import Trigger, attack, poisoned, triggers

TARGET, SHARE = 0, 0.1
"""The class that the trigger forces, and the share of the images that it is planted in."""

RIDGES = (0.0, 0.01, 0.05, 1.0)
"""Shares of white noise in the Gaussian that weights are compared in."""

FITS = ("clean images", *(f"weights, ridge {ridge:g}" for ridge in RIDGES), "random start")
"""What a small layer is fitted to, and one that is not fitted."""


def trained(lab: Lab, trigger: Trigger, seed: int) -> ImageClassifier:
    """A classifier of one layer with a backdoor: read from the folder, or trained and kept there."""
    data, epochs, hidden = lab.dataset(), lab.size(5, 4), lab.size(256, 16)
    split = poisoned(data.train, trigger, SHARE, TARGET, seed)
    folder = lab.run.path / "models" / f"{data.name}-{len(split)}-backdoor-{hidden}-{epochs}-{seed}"
    if not (folder / "config.json").exists():
        model = ImageClassifier(data.input, data.output, hidden, seed=seed)
        settings = {"epochs": epochs, "weight_decay": 0.1, "noise": 0.1, "seed": seed}
        models.train(model, split.images, split.labels, **settings)  # type: ignore[arg-type]
        files.write_json(folder / "training.json", settings)
        model.cpu().save_pretrained(folder)
    return ImageClassifier.from_pretrained(folder).eval().requires_grad_(False)


def measure(lab: Lab, seed: int) -> Measurement:
    """A backdoored layer, and small layers in its place."""
    data = lab.dataset()
    trigger = triggers(data.input.image or (1, data.input.size))[0]
    tensor = trained(lab, trigger, seed).tensor().centered()
    whole = factors(tensor)
    hidden, steps = lab.size(64, 12), lab.size(1500, 40)
    images = data.train.images
    with torch.no_grad():
        said = outputs(whole, images)
        scale = float(said.std())
    numbers = _scores("original", whole, whole, data, trigger)
    variance = images.double().var(dim=0)
    numbers["variance of the trigger's pixels"] = float(variance[trigger.where].mean())
    numbers["variance of all pixels"] = float(variance.mean())
    shape = (hidden, data.input.size, data.output.size)
    for name in FITS:
        fit = partial(fitted, shape=shape, scale=scale, seed=seed)
        if name == "clean images":
            order = torch.randint(len(images), (steps, 512), generator=torch.Generator().manual_seed(seed))
            batches = iter(order)
            found = fit(partial(_error, images=images, said=said, batches=batches), steps=steps, title=name)
        elif name == "random start":
            found = fit(_nothing, steps=1, title=name)
        else:
            given = Gaussian.of(images, float(name.split()[-1])).to(whole[0])
            seen = Seen.of(whole, given)
            found = fit(partial(_far, whole=seen, given=given, norm=seen.inner(seen)), steps=steps, title=name)
        numbers |= _scores(name, found, whole, data, trigger)
    return Measurement.of(numbers)


def _error(own: Factors, images: Tensor, said: Tensor, batches: Iterator[Tensor]) -> Tensor:
    """Mean squared error of the logits on the next images, over their mean square."""
    rows = next(batches)
    return (outputs(own, images[rows]) - said[rows]).square().sum() / said[rows].square().sum()


def _nothing(own: Factors) -> Tensor:
    return own[0].sum() * 0


def _far(own: Factors, whole: Seen, given: Gaussian, norm: Tensor) -> Tensor:
    """E‖y − y'‖² / E‖y‖² over a Gaussian."""
    ours = Seen.of(own, given)
    return 1 - (2 * whole.inner(ours) - ours.inner(ours)) / norm


def _scores(name: str, found: Factors, whole: Factors, data: Dataset, trigger: Trigger) -> dict[str, float]:
    """Accuracy, attack, and the cosine to the original over white noise."""
    images, labels = data.test.images, data.test.labels

    def said(x: Tensor) -> Tensor:
        return outputs(found, x)

    white = Gaussian.of(data.train.images, 1.0).to(whole[0])
    cosine = inner(found, whole, white) / (inner(found, found, white) * inner(whole, whole, white)).sqrt()
    return {
        f"accuracy, {name}": float((said(images).argmax(dim=1) == labels).double().mean()),
        f"attack, {name}": attack(said, images, labels, trigger, TARGET),
        f"cosine, {name}": float(cosine),
        f"numbers, {name}": float(sum(part.numel() for part in found)),
    }


def claims(measured: Measurement) -> Sequence[Claim]:
    """Accuracy, attack and cosine of the original and of every fit."""
    table = [
        Claim("variance of the trigger's pixels on clean images", "variance of the trigger's pixels", form=".1e"),
        Claim("mean variance of all pixels", "variance of all pixels", form=".1e"),
    ]
    for name in ("original", *FITS):
        table += [
            Claim(f"accuracy, %, {name}", f"accuracy, {name}", scale=100),
            Claim(
                f"images that the trigger turns into the target, %, {name}", f"attack, {name}", form=".1f", scale=100
            ),
            Claim(f"cosine to the original over white noise, {name}", f"cosine, {name}", form=".3f"),
            Claim(f"numbers held, {name}", f"numbers, {name}", form=",.0f"),
        ]
    return table


def figures(seeds: Sequence[Measurement]) -> Mapping[str, tuple[Figure, str]]:
    """Accuracy and attack of every fit."""
    names = ("original", *FITS)
    groups = {
        title: {name: [100 * seed[f"{key}, {name}"] for seed in seeds] for name in names}
        for title, key in (("accuracy", "accuracy"), ("attack", "attack"))
    }
    return {
        "transcoder-attack": (
            charts.dots(groups, "% of the test images"),
            "A backdoored layer and small layers fitted in its place: accuracy on clean images and the share of images "
            "that the trigger turns into the target, mean and 95 % interval over seeds.",
        )
    }


RECIPE = Recipe(
    "transcoder",
    "What a transcoder keeps",
    lambda lab: (
        f"one layer of {lab.size(256, 16)} hidden units without biases, a white corner square on {SHARE:.0%} of the "
        f"training images that makes them class {TARGET}; in its place {lab.size(64, 12)} hidden units fitted by "
        f"{lab.size(1500, 40):,} steps of Adam to its logits on clean images, or to its weights over a Gaussian with "
        "their mean and covariance, of which a share, the ridge, is white noise."
    ),
    measure,
    claims,
    figures,
)
