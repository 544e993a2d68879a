"""What is read of a classifier of several layers, each thing computed once: its tree of tensors, images, bonds."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens import decompose, faithfulness
from bilens._internal.levels import Level
from bilens._internal.shown import line
from bilens.analyses.settings import Budget
from bilens.analyses.subject import EXAMINED
from bilens.data import Dataset
from bilens.deep import DeepTensor
from bilens.errors import BilensError
from bilens.faithfulness import Row, Score
from bilens.models import ImageClassifier
from bilens.space import Space


@dataclass(frozen=True, eq=False, repr=False)
class DeepSubject:
    """A classifier of several bilinear layers as one tree of tensors, with images to measure with.

    Args:
        outputs: input → logits, less what no prediction depends on.
        dataset: images to measure with and whose second moment is the metric, or None to use the weights alone.
        numbers: how many numbers the model stores; budget: how much is drawn.
    """

    outputs: DeepTensor
    dataset: Dataset | None
    numbers: int
    budget: Budget

    __repr__ = line

    @classmethod
    def of(cls, model: ImageClassifier, dataset: Dataset | None, budget: Budget) -> DeepSubject:
        """A classifier, whose layers must be bilinear."""
        return cls(model.deep().centered(), dataset, sum(value.numel() for value in model.parameters()), budget)

    @property
    def output(self) -> Space:
        """The space of the logits."""
        return self.outputs.output

    @functools.cached_property
    def metric(self) -> Float[Tensor, "i i"] | None:
        """E[x'x'ᵀ] of the training images; None without images."""
        if self.dataset is None:
            return None
        return decompose.second_moment(self.dataset.train.images, self.outputs.input)

    @property
    def measured_in(self) -> str:
        """The metric in words."""
        if self.dataset is None:
            return "the identity: weights alone"
        return f"the second moment of the training images of {self.dataset.name}"

    @property
    def given(self) -> Float[Tensor, "m d"]:
        """The test images; none without a data set."""
        return torch.zeros(0, self.outputs.input.size) if self.dataset is None else self.dataset.test.images

    @property
    def labels(self) -> Int[Tensor, " m"] | None:
        """The classes of the test images."""
        return None if self.dataset is None else self.dataset.test.labels

    @property
    def examined(self) -> Float[Tensor, "m d"] | None:
        """The images on which single features are looked at; None without images."""
        return None if self.dataset is None else self.given[:EXAMINED]

    @functools.cached_property
    def levels(self) -> list[Level]:
        """The layers between bonds that carry the constant coordinate themselves."""
        return self.outputs.levels()

    @functools.cached_property
    def original(self) -> Score | None:
        """The score of the model itself; None without images."""
        labels = self.labels
        return None if labels is None else faithfulness.whole(self.outputs(self.given), labels)

    @property
    def row(self) -> Row | None:
        """The model itself in a table of faithfulness."""
        return None if self.original is None else Row("the model itself", self.original, self.numbers, "model")

    def score(self, outputs: Float[Tensor, "m o"]) -> Score:
        """How well the model does on the test images when its logits there are these.

        Raises:
            BilensError: there are no images.
        """
        if self.labels is None or self.original is None:
            raise BilensError("no labels", "the class of each image", "name a data set")
        return faithfulness.score(outputs, self.labels, self.original)

    def bonds(self, x: Float[Tensor, "n d"]) -> list[Float[Tensor, "n _"]]:
        """What every bond from the input on says on samples, with the constant coordinate where it carries one."""
        found = [self.outputs.input.fold(x, self.levels[0].left)]
        for level in self.levels:
            found.append(after(level, found[-1]))
        return found


def after(level: Level, below: Float[Tensor, "n m"]) -> Float[Tensor, "n o"]:
    """D[(L y) ⊙ (R y)] of each row y."""
    above: Tensor = ((below @ level.left.T) * (below @ level.right.T)) @ level.down.T
    return above
