"""Masks made from the weights of a model that mislead it, in pixel space and, wrongly, in embedding space."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bilens import decompose, faithfulness
from bilens.data import Dataset, Split
from bilens.decompose import Spectrum
from bilens.dictionary import pseudoinverse_duals
from bilens.errors import BilensError
from bilens.features import FeatureSet
from bilens.kernel import Kernel
from bilens.models import ImageClassifier
from bilens.space import Space
from bilens.tensor import BilinearTensor
from reproduction.methods import patterns

TUNED, HELD_OUT = (3, 5), (4, 9)
"""Class pairs, source and target: the one on which masks are chosen, on training images, and one never looked at."""

STRENGTHS = (5, 10, 15, 20, 30, 50)
"""Norms of a mask, in % of the mean norm of the test images."""

STRENGTH = 30
"""The norm that stands in the table."""

TRIED = 2000
"""Test images on which the masks of every model are tried."""

ATTACKED = 400
"""Images of each class, rightly read, that masks are chosen and tried on."""

PERMUTATIONS = 5
"""Permuted masks for each class pair."""

MASKS = (
    "pixel space",
    "embedding space",
    "permuted pixels",
    "isolating, pixel space",
    "isolating, embedding space",
    "embedding space, same choice",
)
"""Chosen in pixel space and, wrongly, in embedding space; the first with its pixels permuted; chosen among those that
are to leave alone all other classes' eigenvectors; and made in embedding space as the first was in pixel space."""

PAIRS = ("held-out pair", "all held-out pairs")

MEANS = "difference of class means"
"""A mask made from images alone."""


READERS = {
    "target": "the target's kernel",
    "difference": "the difference of target and source",
    "pair": "both kernels of the pair",
    "all": "all kernels",
}
"""Whose top eigenvectors a mask is made of."""


@dataclass(frozen=True)
class Choice:
    """How a mask is made, besides the space that it is made in.

    Args:
        readers: a name of `READERS`; the mask is to activate the target's first eigenvector and no other of them.
        kept: eigenvectors with λ > 0 of each kernel.
        ink: 1 for the sign with which the mask adds ink in total, −1 for the other one.
    """

    readers: str
    kept: int
    ink: int


CHOICES = tuple(
    Choice(readers, kept, ink)
    for readers, kept in (("target", 1), ("difference", 1), *itertools.product(("pair", "all"), (1, 2, 4)))
    for ink in (1, -1)
)


@dataclass(frozen=True, eq=False)
class Attack:
    """Masks from the weights of a model with an embedding, made in pixel space, or wrongly in embedding space.

    Args:
        tensor: pixels to centred logits; inner: embedding to centred logits.
        embedding: E, (e, d).
        spectra, inner_spectra: of all classes' kernels, in the two spaces.
    """

    tensor: BilinearTensor
    inner: BilinearTensor
    embedding: Float[Tensor, "e d"]
    spectra: Sequence[Spectrum]
    inner_spectra: Sequence[Spectrum]

    @classmethod
    def on(cls, model: ImageClassifier) -> Attack:
        """The attack on a model with an embedding and one bilinear layer, no biases."""
        embedding = torch.eye(model.input.size) if model.embedding is None else model.embedding.weight
        tensor = model.tensor().centered()
        inner = model.layer.tensor().then(model.readout.weight, model.output).centered()
        return cls(tensor, inner, embedding, spectra_of(tensor), spectra_of(inner))

    def mask(self, name: str, pair: tuple[int, int], choice: Choice) -> Float[Tensor, " d"]:
        """The mask of norm 1 that is to turn images of one class into another.

        In pixel space: rows v of eigenvectors of the kernels EᵀQE, and the first row of their pseudoinverse's
        transpose, which is the smallest pattern m with v₁·m = 1 and v_j·m = 0. In embedding space: the same with the
        eigenvectors of Q, and then Eᵀ, which undoes neither: rows of E are not orthonormal.
        """
        source, target = pair
        here = "pixel space" in name
        tensor, spectra = (self.tensor, self.spectra) if here else (self.inner, self.inner_spectra)
        if choice.readers == "difference":
            direction = torch.zeros(tensor.output.size).to(tensor.down)
            direction[target], direction[source] = 1, -1
            rows = positive(_spectrum(tensor, tensor.kernel(direction)), choice.kept)
        else:
            classes = {"target": [], "pair": [source], "all": [c for c in range(len(spectra)) if c != target]}
            rows = torch.cat([positive(spectra[c], choice.kept) for c in [target, *classes[choice.readers]]])
        dual = pseudoinverse_duals(rows)[0][0]
        mask = dual if here else dual @ self.embedding
        return _inked(mask / mask.norm()) * choice.ink

    def left(self, x: Float[Tensor, "n d"], mask: Tensor, pair: tuple[int, int], norms: Tensor) -> Float[Tensor, "s 2"]:
        """Shares of images of the source class that are no longer read as it, and read as the target, at each norm.

        Args:
            x: images of the source class that the model reads rightly; mask: of norm 1; norms: of the added mask.
        """
        read = patterns.masked(self.tensor, x, mask, norms).argmax(dim=2)
        return torch.stack([(read != pair[0]).double().mean(dim=1), (read == pair[1]).double().mean(dim=1)], dim=1)

    def purity(self, mask: Float[Tensor, " d"], target: int) -> float:
        """|v_target·m| / (Σ_c (v_c·m)²)^½ over the top eigenvector in pixel space of each class; 1 isolates it."""
        responses = torch.cat([positive(spectrum, 1) for spectrum in self.spectra]) @ mask
        return float(responses[target].abs() / responses.norm())


def positive(spectrum: Spectrum, k: int) -> Float[Tensor, "k i"]:
    """The k eigenvectors of largest λ > 0, or as many as there are."""
    return spectrum.vectors[spectrum.values > 0][:k]


def spectra_of(tensor: BilinearTensor) -> list[Spectrum]:
    """All eigenpairs of every output's kernel that can have λ ≠ 0."""
    return [_spectrum(tensor, tensor.kernel(o)) for o in range(tensor.output.size)]


def attacked(attack: Attack, images: Dataset, seed: int) -> tuple[dict[str, float], list[FeatureSet]]:
    """Shares of images misled at each norm by each mask, on the held-out pair and on all that share no tuned class."""
    train, test = _right(attack, images.train), _right(attack, images.test)
    norm = float(images.test.images.norm(dim=1).mean())
    norms = norm * torch.tensor(STRENGTHS) / 100
    chosen = {name: choose(attack, name, train[TUNED[0]], norms) for name in (*MASKS[:2], *MASKS[3:5])}
    chosen[MASKS[5]] = chosen[MASKS[0]]
    lit = (images.train.images > 0).any(dim=0)
    generator = torch.Generator().manual_seed(seed)
    classes = [c for c in range(attack.tensor.output.size) if c not in TUNED]
    pairs = list(itertools.permutations(classes, 2))
    shares = torch.zeros(len(pairs), len(MASKS), len(STRENGTHS), 2, dtype=torch.float64)
    purities = torch.zeros(len(pairs), len(MASKS), dtype=torch.float64)
    shown: list[Tensor] = []
    for place, pair in enumerate(pairs):
        own = {name: attack.mask(name, pair, choice) for name, choice in chosen.items()}
        mixed = [patterns.permuted(own[MASKS[0]], lit, generator) for _ in range(PERMUTATIONS)]
        for number, name in enumerate(MASKS):
            made = mixed if name == MASKS[2] else [own[name]]
            found = [attack.left(test[pair[0]], mask, pair, norms) for mask in made]
            shares[place, number] = torch.stack(found).mean(dim=0)
            purities[place, number] = torch.tensor([attack.purity(mask, pair[1]) for mask in made]).mean()
            if pair == HELD_OUT:
                shown.append(made[0])
    numbers: dict[str, float] = {
        "mean norm": norm,
        "accuracy, embedding": faithfulness.accuracy(attack.tensor(images.test.images), images.test.labels),
        "effective rank, embedding": sum(spectrum.participation_ratio() for spectrum in attack.spectra)
        / len(attack.spectra),
    }
    for where, rates in zip(PAIRS, (shares[pairs.index(HELD_OUT)], shares.mean(dim=0)), strict=True):
        for (number, name), (at, strength) in itertools.product(enumerate(MASKS), enumerate(STRENGTHS)):
            numbers[f"left, {name}, {strength} %, {where}"] = float(rates[number, at, 0])
            numbers[f"reached, {name}, {strength} %, {where}"] = float(rates[number, at, 1])
    numbers |= {f"purity, {name}": value for name, value in zip(MASKS, purities.mean(dim=0).tolist(), strict=True)}
    for name, choice in chosen.items():
        numbers[f"choice, {name}"] = float(CHOICES.index(choice))
    added = [test[HELD_OUT[0]][0] + STRENGTH / 100 * norm * mask for mask in shown]
    views = []
    for title, rows in (("the mask", shown), (f"a {HELD_OUT[0]} with it", added)):
        drawn = [_drawn(row, attack.tensor.input, name) for name, row in zip(MASKS, rows, strict=True)]
        views.append(view(title, drawn, attack.tensor))
    return numbers, views


def by_means(attack: Attack, images: Dataset) -> dict[str, float]:
    """Shares of the images of held-out pairs that a mask made from images takes from their class, at each norm.

    The mask is the difference of two class means over the training images, target less source: no weight is read.
    """
    test, means = _right(attack, images.test), class_means(images.train)
    norms = float(images.test.images.norm(dim=1).mean()) * torch.tensor(STRENGTHS) / 100
    classes = [c for c in range(attack.tensor.output.size) if c not in TUNED]
    shares = {
        (source, target): attack.left(test[source], _unit(means[target] - means[source]), (source, target), norms)
        for source, target in itertools.permutations(classes, 2)
    }
    found = {}
    for where, rates in zip(PAIRS, (shares[HELD_OUT], torch.stack(list(shares.values())).mean(dim=0)), strict=True):
        for strength, (left, reached) in zip(STRENGTHS, rates.tolist(), strict=True):
            found[f"left, {MEANS}, {strength} %, {where}"] = left
            found[f"reached, {MEANS}, {strength} %, {where}"] = reached
    return found


def class_means(images: Split) -> Float[Tensor, "classes d"]:
    """The mean image of each class."""
    return torch.stack([images.images[images.labels == c].mean(dim=0) for c in range(int(images.labels.max()) + 1)])


def _unit(pattern: Tensor) -> Tensor:
    made: Tensor = pattern / pattern.norm()
    return made


def choose(attack: Attack, name: str, x: Float[Tensor, "n d"], norms: Float[Tensor, " s"]) -> Choice:
    """The choice whose mask takes most images of the tuned pair from their class, mean over norms; the first of equals.

    A mean over norms, because at a large norm several choices take every image.

    Args:
        name: of the mask; the isolating ones are chosen among those made of all classes' eigenvectors.
        x: training images of the source class; norms: of the mask.
    """
    tried = [choice for choice in CHOICES if choice.readers == "all" or "isolating" not in name]
    taken = [float(attack.left(x, attack.mask(name, TUNED, choice), TUNED, norms)[:, 0].mean()) for choice in tried]
    return tried[taken.index(max(taken))]


def misled(tensor: BilinearTensor, spectra: Sequence[Spectrum], images: Dataset, seed: int) -> dict[str, float]:
    """Share of test images that a digit's top eigenvector, added with more ink at `STRENGTH`, takes from their class.

    Over the first test images that are read rightly, and all digits but the image's own. No choice is made for it.
    """
    x, labels = images.test.images[:TRIED], images.test.labels[:TRIED]
    right = tensor(x).argmax(dim=1) == labels
    x, labels = x[right], labels[right]
    norms = images.test.images.norm(dim=1).mean()[None] * STRENGTH / 100
    lit = (images.train.images > 0).any(dim=0)
    generator = torch.Generator().manual_seed(seed)
    lost, count = [0, 0], 0
    for target, spectrum in enumerate(spectra):
        mask = _inked(positive(spectrum, 1)[0])
        others = labels != target
        for place, added in enumerate((mask, patterns.permuted(mask, lit, generator))):
            lost[place] += int(
                (patterns.masked(tensor, x[others], added, norms)[0].argmax(dim=1) != labels[others]).sum()
            )
        count += int(others.sum())
    return {"misled": lost[0] / count, "misled, permuted": lost[1] / count}


def misled_by_means(tensor: BilinearTensor, images: Dataset) -> float:
    """What `misled` measures with differences of class means as masks, at the same norm and on the same images."""
    x, labels = images.test.images[:TRIED], images.test.labels[:TRIED]
    right = tensor(x).argmax(dim=1) == labels
    x, labels, means = x[right], labels[right], class_means(images.train)
    norms = images.test.images.norm(dim=1).mean()[None] * STRENGTH / 100
    lost = count = 0
    for source, target in itertools.permutations(range(len(means)), 2):
        some = x[labels == source]
        mask = _unit(means[target] - means[source])
        lost += int((patterns.masked(tensor, some, mask, norms)[0].argmax(dim=1) != source).sum())
        count += len(some)
    return lost / count


def _inked(pattern: Tensor) -> Tensor:
    """A pattern with the sign that adds ink in total."""
    return -pattern if float(pattern.sum()) < 0 else pattern


def _spectrum(tensor: BilinearTensor, kernel: Kernel) -> Spectrum:
    return decompose.eigh(kernel, min(tensor.input.dim, 2 * tensor.hidden))


def _right(attack: Attack, images: Split) -> list[Tensor]:
    """The first images of each class that the model reads rightly. Raises BilensError when there are none of one."""
    right = attack.tensor(images.images).argmax(dim=1) == images.labels
    found = [images.images[right & (images.labels == c)][:ATTACKED] for c in range(attack.tensor.output.size)]
    for label, there in enumerate(found):
        if not len(there):
            raise BilensError(
                f"a model that reads no {attack.tensor.output.label(label)} rightly",
                "one that reads some of each class, to be misled",
                "train it longer",
            )
    return found


def _drawn(pattern: Tensor, space: Space, label: str) -> Spectrum:
    """A pattern as the eigenvector of the kernel m mᵀ, ‖m‖ = 1."""
    m = pattern / pattern.norm()
    zero = m.new_zeros(())
    return Spectrum(m.new_ones(1), m[None], m.new_zeros(1), zero, zero + 1, space, label)


def view(name: str, spectra: Sequence[Spectrum], tensor: BilinearTensor) -> FeatureSet:
    """Features to draw side by side, by the size of their first eigenvalue."""
    sizes = torch.stack([spectrum.values.abs().max() for spectrum in spectra])
    return FeatureSet(name, tuple(spectra), sizes, "|λ|", torch.zeros(len(spectra), tensor.output.dim), tensor.output)
