"""A residual network as a sum over paths: its share of the logits, and what is right without it or alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure

from bilens import models
from bilens.deep import Paths, gaussian_like, paths
from bilens.models import ImageClassifier
from reproduction import charts
from reproduction.lab import Claim, Lab, Recipe
from reproduction.measurement import Measurement

NAMES = ("x", "B1(x, x)", "B2(x, x)", "B2(x, B1(x, x))", "B2(B1(x, x), B1(x, x))")
"""Paths of two blocks."""

DATA, GAUSSIAN, UNTRAINED = "test images", "Gaussian of their moments", "before training"


def untrained(lab: Lab, seed: int) -> ImageClassifier:
    """An embedding, two residual blocks and a read-out, as drawn."""
    data, size = lab.dataset(), lab.size(128, 16)
    return ImageClassifier(data.input, data.output, size, layers=2, embedding=size, residual=True, seed=seed)


def trained(lab: Lab, seed: int) -> ImageClassifier:
    """The same after training: read from the folder, or trained and kept there."""
    data, epochs = lab.dataset(), lab.size(10, 4)
    model = untrained(lab, seed)
    name = f"{data.name}-{len(data.train)}-residual-{model.config['hidden']}-{epochs}-{seed}"
    folder = lab.run.path / "models" / name
    if not (folder / "config.json").exists():
        models.train(model, data.train.images, data.train.labels, epochs=epochs, weight_decay=0.1, noise=0.3, seed=seed)
        model.cpu().save_pretrained(folder)
    return ImageClassifier.from_pretrained(folder).eval().requires_grad_(False)


def measure(lab: Lab, seed: int) -> Measurement:
    """Shares on images and on a Gaussian, before and after training, and accuracies without paths and blocks."""
    data = lab.dataset()
    test, labels = data.test.images.double(), data.test.labels
    deep = trained(lab, seed).deep().to(torch.float64).centered()
    found = paths(deep, test)
    logits = deep(test)
    drawn = paths(deep, gaussian_like(test, len(test), seed=seed))
    before = paths(untrained(lab, seed).deep().to(torch.float64).centered(), test)
    right = found.accuracies(labels)
    numbers = {
        "accuracy": right.whole,
        "error of the sum": float(
            (found.total() - logits).abs().max() / logits.abs().max()
        ),
    }  # fmt: skip
    for name, shares in ((DATA, found.shares()), (GAUSSIAN, drawn.shares()), (UNTRAINED, before.shares())):
        numbers |= {f"share, {name}, {path}": float(shares.values[shares.names.index(path)]) for path in NAMES}
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(test), generator=generator)
    for place, path in enumerate(right.names):
        swapped = found.without(path) + found.alone(path)[order]
        numbers |= {
            f"accuracy without {path}": float(right.without[place]),
            f"accuracy with {path} of another image": float((swapped.argmax(dim=1) == labels).double().mean()),
            f"accuracy of {path} alone": float(right.alone[place]),
        }
    for block in (1, 2):
        kept = without_block(found, block)
        numbers[f"accuracy without block {block}"] = float((kept.argmax(dim=1) == labels).double().mean())
    return Measurement.of(numbers)


def without_block(found: Paths, block: int) -> torch.Tensor:
    """The outputs of the network with a block left out, as the sum of the paths that do not go through it: (n, o)."""
    kept = [found.alone(path) for path in found.names if f"B{block}" not in path]
    return torch.stack(kept).sum(dim=0)


def claims(measured: Measurement) -> Sequence[Claim]:
    """Exactness, shares and accuracies."""
    table = [
        Claim("accuracy, %", "accuracy", scale=100),
        Claim(
            "largest difference of the sum of paths and a logit, relative to the largest logit",
            "error of the sum",
            "≤ 1e-12",
            ".0e",
        ),
    ]
    for path in NAMES:
        table += [Claim(f"share of {path}, %: {name}", f"share, {name}, {path}", form=".1f", scale=100)
                  for name in (DATA, GAUSSIAN, UNTRAINED)]  # fmt: skip
        table += [
            Claim(f"accuracy without {path}, %", f"accuracy without {path}", scale=100),
            Claim(f"accuracy with {path} taken from another image, %", f"accuracy with {path} of another image",
                  scale=100),
            Claim(f"accuracy of {path} alone, %", f"accuracy of {path} alone", scale=100),
        ]  # fmt: skip
    table += [
        Claim(f"accuracy without block {block}, %", f"accuracy without block {block}", scale=100) for block in (1, 2)
    ]
    return table


def figures(seeds: Sequence[Measurement]) -> Mapping[str, tuple[Figure, str]]:
    """Shares of the paths, and the accuracy without each and with each alone."""
    shares = {
        name: {path: [100 * seed[f"share, {name}, {path}"] for seed in seeds] for path in NAMES}
        for name in (DATA, GAUSSIAN, UNTRAINED)
    }
    kinds = {"without it": "accuracy without {}", "another image's": "accuracy with {} of another image",
             "it alone": "accuracy of {} alone"}  # fmt: skip
    right = {
        title: {path: [100 * seed[key.format(path)] for seed in seeds] for path in NAMES}
        for title, key in kinds.items()
    }
    return {
        "paths-shares": (
            charts.dots(shares, "share of the logits, E[p·y] / E[y·y], %", line=0),
            "What each path is of the centred logits of a residual network of two blocks: on test images, on samples "
            "of a Gaussian with their mean and covariance, and before training. Mean and 95 % interval over seeds.",
        ),
        "paths-accuracy": (
            charts.dots(right, "accuracy on the test images, %"),
            "Accuracy without a path, with the path of another image in its place, and of the path alone. Mean and "
            "95 % interval over seeds.",
        ),
    }


RECIPE = Recipe(
    "paths",
    "A residual network as a sum over paths",
    lambda lab: (
        f"an embedding of {lab.size(128, 16)} numbers, two residual blocks of {lab.size(128, 16)} hidden units, a "
        f"linear read-out; {lab.size(10, 4)} epochs, AdamW, lr 1e-3, weight decay 0.1, Gaussian noise 0.3; shares and "
        f"accuracy on {len(lab.dataset().test.labels):,} test images and on as many samples of the Gaussian."
    ),
    measure,
    claims,
    figures,
)
