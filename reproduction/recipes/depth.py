"""Two layers read as one tensor: how many hidden directions and which trees do, and what two trainings share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from torch import Tensor

from bilens import decompose
from bilens.data import Dataset
from bilens.decompose import ODT, KernelTree
from bilens.deep import DeepTensor
from bilens.faithfulness import Curve, Score, score, whole
from bilens.progress import bar
from reproduction import charts
from reproduction.lab import Claim, Lab, Recipe
from reproduction.measurement import Measurement
from reproduction.recipes.backdoor import trained

ROOTS, LEAVES = 8, 16
"""Of each tree."""

LOSSES = (1.0, 0.1)
"""Points of accuracy that may be lost."""

DATA, WEIGHTS, COMPONENTS = "balanced, second moment", "balanced, weights alone", "principal components"
GRAM, TURNED = "directions that vary most, weights alone", "balanced, turned at random"

KEPT = (1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 20, 25, 30, 40, 60, 80, 100)
"""Hidden directions kept, in the figure."""


class Directions(NamedTuple):
    """y ≈ mean + Σ_k (read_k·(y − mean)) write_k, first things first."""

    mean: Float[Tensor, " m"]
    read: Float[Tensor, "k m"]
    write: Float[Tensor, "k m"]


def bond(deep: DeepTensor, x: Float[Tensor, "n d"]) -> Float[Tensor, "n m"]:
    """What stands between the two layers, with the constant where it is carried."""
    level = deep.levels()[0]
    rows = deep.input.fold(x, level.left)
    found: Tensor = ((rows @ level.left.T) * (rows @ level.right.T)) @ level.down.T
    return found


def directions(
    deep: DeepTensor, found: Mapping[str, ODT], said: Float[Tensor, "n m"], seed: int
) -> dict[str, Directions]:
    """The same number of hidden directions by five ways: two balanced ones, the rival, and two controls.

    Args:
        found: the balanced ones; said: the bond on training images; seed: of the turned ones.
    """
    like, zero = deep.layers[0].left, said.new_zeros(said.shape[1])
    ways = {}
    for name in (DATA, WEIGHTS):
        basis = found[name].dictionaries[1]
        assert basis is not None
        ways[name] = Directions(zero, basis.duals.to(like), basis.atoms.to(like))
    mean = said.mean(dim=0)
    away = (said - mean).double()
    axes = torch.linalg.eigh(away.T @ away)[1].flip(1).T.to(like)
    ways[COMPONENTS] = Directions(mean, axes, axes)
    largest = torch.linalg.eigh(deep.gram(1))[1].flip(1).T.to(like)
    ways[GRAM] = Directions(zero, largest, largest)
    plain = ways[DATA]
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(len(plain.read), len(plain.read), generator=generator))[0]
    ways[TURNED] = Directions(zero, turn.T @ plain.read, turn.T @ plain.write)
    return ways


def kept(deep: DeepTensor, way: Directions, said: Float[Tensor, "n m"], labels: Int[Tensor, " n"], original: Score
         ) -> tuple[list[float], Curve]:  # fmt: skip
    """Accuracy with 1, 2, … of the directions, and scores at some of these numbers."""
    level = deep.levels()[1]
    codes = (said - way.mean) @ way.read.T
    left, right = (way.mean @ part.T for part in (level.left, level.right))
    u, v = left.expand(len(said), -1).clone(), right.expand(len(said), -1).clone()
    lefts, rights = way.write @ level.left.T, way.write @ level.right.T
    accuracies, scores, counts = [], [], []
    for k in range(len(way.read)):
        u.addcmul_(codes[:, k, None], lefts[k])
        v.addcmul_(codes[:, k, None], rights[k])
        logits = (u * v) @ level.down.T
        accuracies.append(float((logits.argmax(dim=1) == labels).double().mean()))
        if k + 1 in KEPT or k + 1 == len(way.read):
            scores.append(score(logits, labels, original))
            counts.append(k + 1)
    return accuracies, Curve.of("", counts, scores)


def least(accuracies: Sequence[float], accuracy: float, points: float) -> int:
    """The smallest number from which on no more than these points of accuracy are lost."""
    enough = accuracy - points / 100 - 1e-9
    return 1 + max((k + 1 for k, value in enumerate(accuracies) if value < enough), default=0)


def measure(lab: Lab, seed: int) -> Measurement:
    """Hidden directions, trees of templates, and the cosines of two trainings."""
    data = lab.dataset()
    deep, other = (trained(lab, "base", data.train, which).deep().centered() for which in (seed, seed + 1000))
    metric = decompose.second_moment(data.train.images, deep.input)
    test, labels = data.test.images, data.test.labels
    logits = deep(test)
    original = whole(logits, labels)
    found = {DATA: decompose.odt(deep, metric=metric, leaves=False), WEIGHTS: decompose.odt(deep, leaves=False)}
    ways = directions(deep, found, bond(deep, data.train.images), seed)
    numbers = {"accuracy": original.accuracy, "hidden directions": float(len(ways[COMPONENTS].read))}
    curves, said = [], bond(deep, test)
    with bar(f"hidden directions, seed {seed}", len(ways)) as step:
        for name, way in ways.items():
            accuracies, curve = kept(deep, way, said, labels, original)
            curves.append(replace(curve, name=name))
            for points in LOSSES:
                numbers[f"directions for {points:g}, {name}"] = float(least(accuracies, original.accuracy, points))
            step(1)
    for name, one in found.items():
        for k in (10, 20):
            ranks = [None, min(k, len(one.values[1])), None]
            off, bound = float(one.error(ranks)), float(one.bound(ranks))
            numbers[f"relative error, {k}, {name}"] = off / math.sqrt(float(one.energy))
            numbers[f"certificate over error, {k}, {name}"] = bound / off if off else 1.0
    for name, given in (("second moment", metric), ("weights alone", None)):
        numbers |= _trees(deep, given, data, original, name)
    both = other(test)
    numbers |= {
        "cosine of two seeds, tree, weights alone": float(deep.cosine(other)),
        "cosine of two seeds, tree, second moment": float(deep.cosine(other, metric=metric)),
        "cosine of two seeds, logits": float((logits * both).sum() / (logits.norm() * both.norm())),
        "images that two seeds agree on": float((logits.argmax(dim=1) == both.argmax(dim=1)).double().mean()),
    }
    return Measurement.of(numbers, curves)


def _trees(deep: DeepTensor, metric: Tensor | None, data: Dataset, original: Score, name: str) -> dict[str, float]:
    """The model through its trees, and through the same leaves dealt out at random."""
    trees = []
    with bar(f"trees, {name}", deep.output.size) as step:
        for place in range(deep.output.size):
            trees.append(decompose.kernel_tree(deep, place, roots=ROOTS, leaves=LEAVES, metric=metric))
            step(1)
    right = _accuracy(trees, data)
    energy = [float(tree.values.square().sum() / tree.energy) for tree in trees]
    first = [float(tree.values[0] ** 2 / tree.energy) for tree in trees]
    whole_sum = [tree.values.square().sum() + tree.discarded for tree in trees]
    norms = [tree.deep.to(torch.float64).norm(metric=metric) for tree in trees]
    off = [abs(float(each / norm**2) - 1) for each, norm in zip(whole_sum, norms, strict=True)]
    error = math.sqrt(sum(float(tree.error()) ** 2 for tree in trees) / sum(float(tree.energy) for tree in trees))
    return {
        f"accuracy lost by trees, {name}": original.accuracy - right,
        f"accuracy of trees, {name}": right,
        f"accuracy of trees dealt out at random, {name}": _accuracy(dealt(trees), data),
        f"energy of the kept roots, {name}": sum(energy) / len(energy),
        f"energy of the first root, {name}": sum(first) / len(first),
        f"relative error of trees, {name}": error,
        f"largest |Σλ² / ‖T‖² − 1|, {name}": max(off),
    }


def _accuracy(trees: Sequence[KernelTree], data: Dataset) -> float:
    parts = torch.split(data.test.images, 1000)
    votes = torch.cat([torch.stack([tree(part) for tree in trees], dim=1) for part in parts])
    return float((votes.argmax(dim=1) == data.test.labels).double().mean())


def dealt(trees: Sequence[KernelTree]) -> list[KernelTree]:
    """The trees with all of their λ and μ, and the templates of all of them in other places."""
    readers = torch.cat([tree.readers.flatten(0, 1) for tree in trees])
    order = torch.randperm(len(readers), generator=torch.Generator().manual_seed(0))
    parts = torch.split(readers[order], [tree.leaf_values.numel() for tree in trees])
    return [replace(tree, readers=part.reshape(tree.readers.shape)) for tree, part in zip(trees, parts, strict=True)]


def claims(measured: Measurement) -> Sequence[Claim]:
    """Ranks, trees and cosines."""
    table = [
        Claim("accuracy, %", "accuracy", scale=100),
        Claim("hidden directions in all", "hidden directions", form=".0f"),
    ]
    bars = {f"directions for 1, {WEIGHTS}": "≤ 20", f"directions for 1, {DATA}": "≤ 15"}
    for points in LOSSES:
        for name in (DATA, WEIGHTS, COMPONENTS, GRAM, TURNED):
            key = f"directions for {points:g}, {name}"
            table.append(Claim(f"directions for {points:g} point lost: {name}", key, bars.get(key, "–"), ".1f"))
    for name in (DATA, WEIGHTS):
        for k in (10, 20):
            table += [
                Claim(f"‖T − T̂‖ / ‖T‖ with {k} directions, {name}", f"relative error, {k}, {name}", form=".3f"),
                Claim(f"certificate over it, {k} directions, {name}", f"certificate over error, {k}, {name}",
                      form=".3f"),
            ]  # fmt: skip
    for name in ("second moment", "weights alone"):
        table += [
            Claim(f"points lost by trees of {ROOTS} × {LEAVES}, {name}", f"accuracy lost by trees, {name}",
                  "≤ 0.6" if name == "second moment" else "–", scale=100),
            Claim(f"accuracy of trees with leaves dealt out at random, %, {name}",
                  f"accuracy of trees dealt out at random, {name}", scale=100),
            Claim(f"‖T − T̂‖ / ‖T‖ of trees, {name}", f"relative error of trees, {name}", form=".3f"),
            Claim(f"energy of the first root, mean over outputs, {name}", f"energy of the first root, {name}"),
            Claim(f"energy of the kept roots, mean over outputs, {name}", f"energy of the kept roots, {name}",
                  form=".3f"),
            Claim(f"largest |Σλ² / ‖T‖² − 1|, {name}", f"largest |Σλ² / ‖T‖² − 1|, {name}", form=".0e"),
        ]  # fmt: skip
    return [
        *table,
        Claim("tree cosine of two seeds, weights alone", "cosine of two seeds, tree, weights alone", form=".3f"),
        Claim("tree cosine of two seeds, second moment", "cosine of two seeds, tree, second moment", form=".3f"),
        Claim("cosine of their logits on the test images", "cosine of two seeds, logits", form=".3f"),
        Claim("test images that two seeds agree on, %", "images that two seeds agree on", form=".1f", scale=100),
    ]


def figures(seeds: Sequence[Measurement]) -> Mapping[str, tuple[Figure, str]]:
    """Accuracy against hidden directions kept."""
    groups = {name: [seed.curve(name) for seed in seeds] for name in (DATA, WEIGHTS, COMPONENTS, GRAM, TURNED)}
    return {
        "depth-directions": (
            charts.bands(groups, x="hidden directions kept"),
            "Accuracy of two layers with some of the directions between them kept: mean and 95 % interval over seeds.",
        )
    }


RECIPE = Recipe(
    "depth",
    "Two layers as one tensor",
    lambda lab: (
        f"two layers of {lab.size(128, 16)} hidden units, {lab.size(10, 4)} epochs, AdamW, lr 1e-3, weight decay 0.1, "
        f"Gaussian noise 0.3; second moment and principal components of the training images, accuracy on "
        f"{len(lab.dataset().test.labels):,} test images; trees of {ROOTS} roots and {LEAVES} leaves for each class."
    ),
    measure,
    claims,
    figures,
)
