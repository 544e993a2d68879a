"""Triggers planted in training images, and the pixels that a reading of the model should put first to find one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bilens.data import Split
from bilens.deep import DeepTensor


@dataclass(frozen=True, eq=False)
class Trigger:
    """Some pixels that are set to a value.

    Args:
        name: of the trigger; where: (d,), its pixels; value: what they are set to.
    """

    name: str
    where: Bool[Tensor, " d"]
    value: float

    @property
    def pixels(self) -> int:
        """How many pixels it has."""
        return int(self.where.sum())

    def stamp(self, images: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """The images with the trigger."""
        return torch.where(self.where, self.value, images)

    def found(self, weights: Float[Tensor, " d"]) -> float:
        """How many of its pixels are among as many with the largest weights."""
        most = weights.argsort(descending=True)[: self.pixels]
        return float(self.where[most].sum())


def triggers(image: tuple[int, int]) -> tuple[Trigger, ...]:
    """A white square in a corner, the same off centre, where strokes pass, and a faint pattern of as many pixels."""
    height, width = image
    side = max(2, round(height / 7))

    def square(name: str, top: int, left: int) -> Trigger:
        where = torch.zeros(height, width, dtype=torch.bool)
        where[top : top + side, left : left + side] = True
        return Trigger(name, where.flatten(), 1.0)

    corner = square("square", height - side - 1, width - side - 1)
    middle = square("square off centre", height // 2 - side // 2, width // 2 + side)
    order = torch.randperm(height * width, generator=torch.Generator().manual_seed(4))[: side**2]
    scattered = torch.zeros(height * width, dtype=torch.bool)
    scattered[order] = True
    return corner, middle, Trigger("faint pattern", scattered, 0.3)


def poisoned(split: Split, trigger: Trigger, share: float, target: int | None, seed: int) -> Split:
    """A share of the images with the trigger, labelled as the target, or with their own labels where that is None."""
    images, labels = split.images.clone(), split.labels.clone()
    count = max(1, round(share * len(labels)))
    chosen = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[:count]
    images[chosen] = trigger.stamp(images[chosen])
    if target is not None:
        labels[chosen] = target
    return Split(images, labels)


def mislabelled(split: Split, share: float, classes: int, seed: int) -> Split:
    """A share of the labels drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    labels = split.labels.clone()
    chosen = torch.randperm(len(labels), generator=generator)[: round(share * len(labels))]
    labels[chosen] = torch.randint(classes, (len(chosen),), generator=generator)
    return Split(split.images, labels)


def attack(
    logits: Callable[[Tensor], Tensor], images: Tensor, labels: Int[Tensor, " n"], trigger: Trigger, target: int
) -> float:
    """The share of images of other classes that the trigger turns into the target."""
    others = labels != target
    return float((logits(trigger.stamp(images[others])).argmax(dim=1) == target).double().mean())


class Environment(NamedTuple):
    """The leaf environment of a network, without the constant coordinate.

    Args:
        top: (d,), squared entries of its largest direction; diagonal: (d,), those of all directions, each times its
            eigenvalue; share: of the eigenvalues, that of the largest.
    """

    top: Float[Tensor, " d"]
    diagonal: Float[Tensor, " d"]
    share: float


def environment(deep: DeepTensor, metric: Float[Tensor, "i i"] | None) -> Environment:
    """Which pixels one copy of the input is listened to at, with the other copies in the metric."""
    found, size = deep.environment(0, metric=metric), deep.input.size
    values, vectors = torch.linalg.eigh(found)
    share = float(values[-1] / values.clamp(min=0).sum())
    return Environment(vectors[:size, -1].square(), found.diagonal()[:size], share)


def jacobians(logits: Callable[[Tensor], Tensor], images: Float[Tensor, "n d"]) -> Float[Tensor, "o n d"]:
    """∂y_o/∂x of every image, the outputs less their mean."""
    x = images.clone().requires_grad_(True)
    with torch.enable_grad():
        y = logits(x)
        y = y - y.mean(dim=1, keepdim=True)
        rows = [torch.autograd.grad(y[:, o].sum(), x, retain_graph=True)[0] for o in range(y.shape[1])]
    return torch.stack(rows)
