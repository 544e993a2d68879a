"""A model that is read, the names of the ways of reading it, and how many numbers each of them stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens import faithfulness, pair_coding, pairs
from bilens.faithfulness import Score
from bilens.models import ImageClassifier
from bilens.pair_coding import through
from bilens.tensor import BilinearTensor
from reproduction.lab import Lab

EIGENVECTORS = "eigenvectors of each digit"
NEXT_DIGIT = "eigenvectors of the next digit, refitted"
RANDOM_VECTORS = "random directions, refitted"
SHARED = "directions shared by all digits"
SHARED_NULL = "shared directions, random"
COMPONENTS = "SVD components, whole"
TRUNCATED = "SVD components, truncated"
COMPONENTS_NULL = "random output directions, whole"
TRUNCATED_NULL = "random output directions, truncated"
ENTRIES = "largest entries of the tensor"
ENTRIES_NULL = "random entries of the tensor"
UNITS = "hidden units of largest norm"
UNITS_NULL = "random hidden units"

CLASSES = 10
"""Logits of every data set of the programme."""

TRAINED, BRIEF, DRAWN, RANDOM = SOURCES = ("trained", "trained briefly", "pairs drawn at random", "random directions")
"""Where the atoms of pair features come from; the last two are never trained."""

OUTPUTS, LOGITS = SPACES = ("outputs", "logits")
"""The pair vectors that are coded: of the layer's hidden outputs, as the draft does, or of the centred logits."""

OUTPUT_SAMPLES = 2000
"""Test images on which the layer's hidden outputs are compared; logits are compared on all of them."""

OWN, REFIT, NULL_PAIRS, NULL_RANDOM, NULL_MEAN = PAIR_ROWS = (
    "SAE on input pairs, no data seen",
    "its atoms, codes by least squares",
    "pair vectors drawn at random, never trained",
    "random unit vectors",
    "the mean pair vector alone",
)
"""The pair SAE and what a sceptic would compare it with, all with as many atoms and codes."""


def config(space: str, source: str, atoms: int, k: int) -> str:
    """The name of a curve of the sweep over pair features."""
    return f"pair features of {space}, {source}, {atoms:,} atoms, {k} per pair"


@dataclass(frozen=True, eq=False)
class Read:
    """A trained model, its layer, and the images that every reading of it is scored on.

    Args:
        model: the classifier; hidden: its layer before the read-out; logits: its layer with the centred read-out.
        images, labels: the test set; own: the model's score on it; answers: its centred logits.
    """

    model: ImageClassifier
    hidden: BilinearTensor
    logits: BilinearTensor
    images: Float[Tensor, "n d"]
    labels: Int[Tensor, " n"]
    own: Score
    answers: Float[Tensor, "n classes"]

    @classmethod
    def of(cls, lab: Lab, seed: int, hidden: int | None = None) -> Read:
        """The model of a seed, with 1,000 hidden units or as many as are named, trained or read from the folder."""
        model = lab.classifier(seed, hidden=hidden or lab.size(1000, 40), epochs=lab.size(10, 6))
        test = lab.dataset().test
        logits = model.tensor().centered()
        answers = logits(test.images)
        own = faithfulness.whole(answers, test.labels)
        return cls(model, model.hidden_tensor(), logits, test.images, test.labels, own, answers)

    @property
    def classes(self) -> int:
        """How many logits there are."""
        return self.logits.output.size

    @property
    def readout(self) -> Float[Tensor, "classes h"]:
        """The centred read-out."""
        weight = self.model.readout.weight
        return weight - weight.mean(dim=0)

    @property
    def numbers(self) -> int:
        """Numbers that the layer itself stores: 2·h·d, and o·h of the read-out."""
        return self.hidden.left.numel() + self.hidden.right.numel() + self.model.readout.weight.numel()

    def score(self, logits: Float[Tensor, "n classes"]) -> Score:
        """How well these logits do on all test images."""
        return faithfulness.score(logits, self.labels, self.own)

    def score_pairs(self, readings: Sequence[Float[Tensor, "pairs classes"]]) -> list[Score]:
        """Scores of several readings, each given as what a pair of inputs adds to the logits."""
        found: list[Score] = []
        for start in range(0, len(readings), 16):
            some = readings[start : start + 16]
            logits = through(self.images, torch.cat(list(some), dim=1))
            found += map(self.score, torch.split(logits, self.classes, dim=1))
        return found


# What must be stored. One rule: a number kept is one, and the place of a number that is kept among many is one more.


def vectors_stored(read: Read, k: int) -> int:
    """k eigenvectors of each digit with their eigenvalues."""
    return read.classes * k * (read.logits.input.dim + 1)


def shared_stored(read: Read, k: int) -> int:
    """k directions, and what each of their pairs adds to each logit."""
    return k * read.logits.input.dim + read.classes * pairs.count(k)


def components_stored(read: Read, k: int, eigenpairs: int | None = None) -> int:
    """k components with their effects and some eigenpairs of each; whole ones are read off the layer, which stays."""
    effects = k * read.classes
    if eigenpairs is None:
        return read.hidden.left.numel() + read.hidden.right.numel() + k * read.hidden.output.size + effects
    return k * eigenpairs * (read.logits.input.dim + 1) + effects


def codes_stored(read: Read, atoms: int, codes: int) -> int:
    """Effects of the atoms and of the offset on the logits, and each code with its place."""
    return pair_coding.codes_stored(read.classes, atoms, codes)


def entries_stored(read: Read, entries: int) -> int:
    """Each entry with its place; or, where that is less, all of them in order."""
    return min(2 * entries, read.classes * pairs.count(read.logits.input.dim))


def units_stored(read: Read, units: int) -> int:
    """Both vectors and the effects of each hidden unit."""
    return units * (2 * read.hidden.input.dim + read.classes)
