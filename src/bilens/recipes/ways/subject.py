"""The model that is read, the images to measure with, and what all analyses need of them, each computed once."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bilens import decompose, faithfulness
from bilens.checks import number, whole
from bilens.data import Dataset
from bilens.decompose import Spectrum
from bilens.errors import BilensError
from bilens.faithfulness import Score
from bilens.models import ImageClassifier
from bilens.tensor import BilinearTensor

STORED = 32
"""Eigenpairs stored for each feature of a view."""

EXAMINED = 2000
"""Test images on which single features are looked at. Scores and curves are measured on all test images."""

MEASURE = "mean code × ‖effect‖"
"""How much a feature moves the centred logits on average."""

_KEPT = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 75, 100, 150, 200, 300, 500)


@dataclass(frozen=True)
class Budget:
    """How much work the sparse coders get, and how much is drawn.

    Args:
        count: features of each view to draw.
        sae_features: features of the coder on the layer's outputs; sae_steps: its updates, of 1,024 vectors; sae_l1 and
            sae_similarity: its penalties, for vectors scaled to a mean squared norm of d_in.
        pair_features: features of the coder on pair vectors; pair_k: how many of them a pair may use; pair_steps: its
            updates, of 1,024 pairs.

    Raises:
        BilensError: a count below 1, or a penalty below 0.
    """

    count: int = 24
    sae_features: int = 2000
    sae_steps: int = 500
    sae_l1: float = 4.0
    sae_similarity: float = 10.0
    pair_features: int = 5000
    pair_k: int = 30
    pair_steps: int = 1000

    def __post_init__(self) -> None:
        for name in ("count", "sae_features", "sae_steps", "pair_features", "pair_k", "pair_steps"):
            object.__setattr__(self, name, whole(name, getattr(self, name), 1))
        for name in ("sae_l1", "sae_similarity"):
            object.__setattr__(self, name, number(name, getattr(self, name), 0))


@dataclass(frozen=True, eq=False)
class Subject:
    """The model that is read, and the images to measure with.

    Args:
        model: an image classifier with one bilinear layer.
        dataset: its images, or None to use the weights alone.
        budget: of the sparse coders; seed: of everything random.
    """

    model: ImageClassifier
    dataset: Dataset | None
    budget: Budget
    seed: int = 0

    @functools.cached_property
    def logits(self) -> BilinearTensor:
        """Input → centred logits."""
        return self.model.tensor().centered()

    @functools.cached_property
    def hidden(self) -> BilinearTensor:
        """Input → what the read-out reads."""
        return self.model.hidden_tensor()

    @functools.cached_property
    def readout(self) -> Float[Tensor, "o h"]:
        """The read-out less its mean over outputs, which no prediction depends on."""
        weight = self.model.readout.weight.detach()
        return weight - weight.mean(dim=0)

    @functools.cached_property
    def test_outputs(self) -> Float[Tensor, "n h"]:
        """What the read-out reads on the test images."""
        return self._outputs(self.data.test.images)

    @functools.cached_property
    def train_outputs(self) -> Float[Tensor, "n h"]:
        """What the read-out reads on the training images."""
        return self._outputs(self.data.train.images)

    @functools.cached_property
    def second_moment(self) -> Float[Tensor, "i i"]:
        """E[x'x'ᵀ] of the training images."""
        return decompose.second_moment(self.data.train.images, self.hidden.input)

    @functools.cached_property
    def original(self) -> Score:
        """The model itself on the test images."""
        return faithfulness.whole(self.read(self.test_outputs), self.data.test.labels)

    @property
    def numbers(self) -> int:
        """How many numbers the layer and the read-out store: left, right and read-out, with their biases."""
        return sum(value.numel() for value in self.model.parameters())

    def read(self, outputs: Float[Tensor, "n h"]) -> Float[Tensor, "n o"]:
        """Logits of layer outputs, or of what a view makes of them."""
        with torch.no_grad():
            logits: Tensor = self.model.readout(outputs)
            return logits

    def score(self, logits: Float[Tensor, "n o"]) -> Score:
        """Accuracy and cross-entropy recovered of logits on the test images."""
        return faithfulness.score(logits, self.data.test.labels, self.original)

    @property
    def data(self) -> Dataset:
        """The images. Raises BilensError when the subject has none."""
        if self.dataset is None:
            raise BilensError("no images", "a data set", "name one with --data")
        return self.dataset

    @property
    def examined(self) -> Float[Tensor, "n d"] | None:
        """The test images on which single features are looked at; None without images."""
        return None if self.dataset is None else self.data.test.images[:EXAMINED]

    def _outputs(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([self.model.hidden_outputs(part) for part in torch.split(images, 4096)])

    def spectrum(self, spectrum: Spectrum) -> Spectrum:
        """A spectrum as it is stored: the first `STORED` pairs."""
        return spectrum.keep(min(STORED, len(spectrum)))


def kept(most: int) -> list[int]:
    """The points of a curve: the usual numbers of components below `most`, and `most` itself."""
    return [k for k in _KEPT if k < most] + [most]
