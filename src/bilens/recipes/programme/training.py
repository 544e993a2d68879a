"""What training does to features: weight decay, noise, augmentation and few images, and masks that mislead a model."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from bilens import decompose, faithfulness, patterns, plots
from bilens.data import Dataset, Split
from bilens.decompose import Spectrum
from bilens.dictionary import pseudoinverse_duals
from bilens.errors import BilensError
from bilens.features import FeatureSet
from bilens.measurement import Measurement
from bilens.models import Augmentation, ImageClassifier
from bilens.recipes.programme.lab import Claim, Lab, Recipe
from bilens.space import Space
from bilens.statistics import Interval, interval
from bilens.tensor import BilinearTensor, Kernel

DECAYS = (0.0, 1.0)
NOISES = (0.0, 0.3, 1.0)
"""Standard deviations of the input noise, in raw pixel units, images from 0 to 1."""

CORNERS = tuple(itertools.product(DECAYS, NOISES[:2]))
"""Weight decay and noise of the published comparison, and of the trainings on few images."""

PUBLISHED = {(0.0, 0.0): ("97.5 %", "38.5"), (0.0, 0.3): ("98.3 %", "82"), (1.0, 0.0): ("97.5 %", "15.5"),
             (1.0, 0.3): ("98.0 %", "26")}  # fmt: skip
"""Accuracy and effective rank of later papers, which do not state their noise in this unit."""

AUGMENTATIONS = {
    "no augmentation": None,
    "rotation ±15°": Augmentation(rotation=15.0),
    "shift ±2 pixels": Augmentation(shift=2),
    "blur, σ up to 1 pixel": Augmentation(blur=1.0),
}

WIDTH, THIN, EMBEDDING = (300, 30), (100, 20), (128, 24)
"""Hidden units of the grid, of the augmented models, and embedding units of the attacked one: full and quick."""

FEW, FEW_EPOCHS = (1000, 300), (100, 20)
"""How many training images are few, and how long a model sees them: full and quick."""

LEADING = 20
"""Eigenvectors of each digit, largest |λ|, whose roughness and likeness to images are measured."""

RANKS = (1, 2, 3, 5, 8, 10, 15, 20)
"""Places in the spectrum of one digit that are pictured."""

PICTURED = 3
"""The digit whose eigenvectors are pictured by rank."""

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


def models(lab: Lab, seed: int) -> Iterator[tuple[str, ImageClassifier]]:
    """Every model that is read, by its name in the measurement: the grid, the augmented ones, those on few images."""
    hidden, epochs, few = lab.size(*WIDTH), lab.size(10, 6), lab.size(*FEW)
    for decay, noise in itertools.product(DECAYS, NOISES):
        yield (
            _cell(decay, noise),
            lab.classifier(seed, hidden=hidden, epochs=epochs, weight_decay=decay, noise=noise),
        )
    for name, augmentation in AUGMENTATIONS.items():
        yield name, lab.classifier(seed, hidden=lab.size(*THIN), epochs=epochs, augmentation=augmentation)
    for decay, noise in CORNERS:
        longer = lab.size(*FEW_EPOCHS)
        yield (
            _few(decay, noise),
            lab.classifier(seed, hidden=hidden, epochs=longer, weight_decay=decay, noise=noise, few=few),
        )


def measure(lab: Lab, seed: int) -> Measurement:
    """Numbers and pictures of every model, and the masks against the one with an embedding."""
    images, few = lab.dataset(), lab.size(*FEW)
    numbers = {"pixel deviation": float(images.train.images.std())}
    tops, ranks = [], []
    for name, model in models(lab, seed):
        tensor = model.tensor().centered()
        spectra = spectra_of(tensor)
        found = read(tensor, spectra, images, few) | misled(tensor, spectra, images, seed)
        numbers |= {f"{what}, {name}": value for what, value in found.items()}
        if not name.startswith("few"):
            tops.append(_view(name, [_pair(s, int((s.values > 0).int().argmax()), s.label) for s in spectra], tensor))
        if name in {*itertools.starmap(_cell, CORNERS), *itertools.starmap(_few, CORNERS)}:
            spectrum = spectra[PICTURED]
            pairs = [_pair(spectrum, rank - 1, str(rank)) for rank in RANKS if rank <= len(spectrum)]
            ranks.append(_view(name, pairs, tensor))
    model = lab.classifier(seed, hidden=lab.size(*WIDTH), epochs=lab.size(10, 6), embedding=lab.size(*EMBEDDING))
    attack, masks = attacked(Attack.on(model), images, seed)
    return Measurement.of(numbers | attack, records=[*tops, *ranks, *masks])


def read(tensor: BilinearTensor, spectra: Sequence[Spectrum], images: Dataset, few: int) -> dict[str, float]:
    """Accuracies, effective rank, and of the leading eigenvectors: roughness, and the share nearer to the first images.

    "Nearer" compares the most similar of the first `few` training images with the most similar of the next `few`, which
    a model that was trained on the first alone has not seen: by chance 50 % of eigenvectors are nearer to the first.
    """
    known = Split(images.train.images[:few], images.train.labels[:few])
    leading = torch.cat([spectrum.vectors[:LEADING] for spectrum in spectra])
    nearer = patterns.likeness(leading, known.images) > patterns.likeness(leading, images.train.images[few : 2 * few])
    found = {
        "accuracy": faithfulness.accuracy(tensor(images.test.images), images.test.labels),
        "accuracy on few": faithfulness.accuracy(tensor(known.images), known.labels),
        "effective rank": sum(spectrum.effective_rank() for spectrum in spectra) / len(spectra),
        "nearer": float(nearer.double().mean()),
    }
    shape = tensor.input.image
    if shape is not None:
        found["roughness"] = float(patterns.roughness(leading, shape).mean())
    return found


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
        "effective rank, embedding": sum(spectrum.effective_rank() for spectrum in attack.spectra)
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
        views.append(_view(title, drawn, attack.tensor))
    return numbers, views


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


def claims(measured: Measurement) -> Sequence[Claim]:
    """The published comparison, noise and augmentation beyond it, few images, and the masks."""
    table = []
    for decay, noise in itertools.product(DECAYS, NOISES):
        said = PUBLISHED.get((decay, noise), ("–", "–"))
        cell = _cell(decay, noise)
        table += [
            Claim(f"test accuracy, {cell}", f"accuracy, {cell}", said[0], ".2f", 100, " %"),
            Claim(f"effective rank (Σ|λ| / ‖λ‖)², {cell}", f"effective rank, {cell}", said[1], ".1f"),
        ]
    table += [
        Claim(
            "test accuracy, with an embedding, weight decay 1, noise 0", "accuracy, embedding", "–", ".2f", 100, " %"
        ),
        Claim("effective rank, with an embedding, weight decay 1, noise 0", "effective rank, embedding", "–", ".1f"),
    ]
    for name in AUGMENTATIONS:
        table += [
            Claim(f"test accuracy, {name}, thinner model", f"accuracy, {name}", "–", ".2f", 100, " %"),
            Claim(f"effective rank, {name}, thinner model", f"effective rank, {name}", "–", ".1f"),
            Claim(f"roughness of the leading eigenvectors, {name}", f"roughness, {name}"),
        ]
    for decay, noise in CORNERS:
        for name, who in ((_few(decay, noise), "few images"), (_cell(decay, noise), "all images")):
            cell = f"{who}, {_cell(decay, noise)}"
            if who == "few images":
                table.append(Claim(f"test accuracy, {cell}", f"accuracy, {name}", "–", ".2f", 100, " %"))
                table.append(Claim(f"effective rank, {cell}", f"effective rank, {name}", "–", ".1f"))
            table.append(Claim(f"roughness of the leading eigenvectors (white noise: 1), {cell}", f"roughness, {name}"))
            nearer = "eigenvectors nearer to the few images than to others (chance: 50 %)"
            table.append(Claim(f"{nearer}, {cell}", f"nearer, {name}", "–", ".1f", 100, " %"))
    for where, name in itertools.product(PAIRS, MASKS):
        text = f"images misled by a mask of {STRENGTH} % of their norm, {name}, {where}"
        table.append(Claim(text, f"left, {name}, {STRENGTH} %, {where}", "–", ".1f", 100, " %"))
    text = f"images read as the target with a mask of {STRENGTH} % of their norm, {MASKS[0]}, {PAIRS[1]}"
    table.append(Claim(text, f"reached, {MASKS[0]}, {STRENGTH} %, {PAIRS[1]}", "–", ".1f", 100, " %"))
    for name in MASKS:
        text = f"share of the classes' responses that the target's top eigenvector has, {name}"
        table.append(Claim(text, f"purity, {name}"))
    return [claim for claim in table if claim.number in measured.names]


def figures(seeds: Sequence[Measurement]) -> Mapping[str, tuple[Figure, str]]:
    """The map of top eigenvectors, the numbers beside it, few images against all, and the masks."""
    cells = [_cell(decay, noise) for decay, noise in itertools.product(DECAYS, NOISES)]
    kept = len(cells) + len(AUGMENTATIONS)
    tops, ranks, masks = seeds[0].records[:kept], seeds[0].records[kept:-2], seeds[0].records[-2:]

    def panels(rows: Mapping[str, str], quantities: Mapping[str, tuple[str, float]]) -> Figure:
        return plots.dots(
            {
                title: {row: [scale * seed[f"{what}, {name}"] for seed in seeds] for row, name in rows.items()}
                for title, (what, scale) in quantities.items()
            },
            "",
            shared=False,
        )

    corners = {
        f"{who}: {_cell(decay, noise)}": name
        for decay, noise in CORNERS
        for name, who in ((_few(decay, noise), "few"), (_cell(decay, noise), "all"))
    }
    shares = {
        name: {
            strength: [100 * seed[f"left, {name}, {strength} %, {PAIRS[1]}"] for seed in seeds]
            for strength in STRENGTHS
        }
        for name in MASKS
    }
    band = "mean and 95 % interval over seeds"
    source, target = HELD_OUT
    return {
        "training-map": (
            plots.atlas(tops),
            "Eigenvector of the largest λ > 0 of each digit's kernel in pixel space under each training, first seed; "
            "every image on a scale of its own. The lower rows are of thinner models, without noise.",
        ),
        "training-numbers": (
            panels(
                {name: name for name in (*cells, *AUGMENTATIONS)},
                {
                    "Test accuracy, %": ("accuracy", 100),
                    "Effective rank": ("effective rank", 1),
                    "Roughness": ("roughness", 1),
                    "Misled by a mask, %": ("misled", 100),
                },
            ),
            f"Accuracy, effective rank, roughness of the {LEADING} leading eigenvectors of each digit (white noise: 1) "
            f"and the share of images that another digit's top eigenvector of {STRENGTH} % of their norm takes from "
            f"their class: {band}. The lower rows are of thinner models.",
        ),
        "training-few-map": (
            plots.atlas(ranks),
            f"Eigenvectors of the kernel of {PICTURED} by their place in |λ|, trained on few images and on all, first "
            "seed; every image on a scale of its own.",
        ),
        "training-few": (
            panels(
                corners,
                {
                    "Test accuracy, %": ("accuracy", 100),
                    "Accuracy on the few, %": ("accuracy on few", 100),
                    "Effective rank": ("effective rank", 1),
                    "Roughness": ("roughness", 1),
                    "Nearer to the few, %": ("nearer", 100),
                },
            ),
            f"Models trained on few images and on all: accuracies, effective rank, and of the {LEADING} leading "
            f"eigenvectors of each digit the roughness and the share that is nearer to one of the few training images "
            f"than to as many unseen ones: {band}.",
        ),
        "training-masks": (
            plots.intervals(
                shares, "Images no longer read as their class", "norm of the mask, % of the mean norm of an image", "%"
            ),
            f"Images that a mask takes from their class, over all class pairs that share no class with the one on "
            f"which masks were chosen: {band}.",
        ),
        "training-mask-images": (
            plots.atlas(masks),
            f"Masks that are to turn a {source} into a {target}, and a {source} with {STRENGTH} % of each added, first "
            "seed; every image on a scale of its own.",
        ),
    }  # fmt: skip


def findings(seeds: Sequence[Measurement]) -> str:
    """What each training does, what marks an overfitted model, and which masks mislead."""
    return f"{_said_of_training(seeds)}{_said_of_few(seeds)}{_said_of_masks(seeds)}"


def _said_of_training(seeds: Sequence[Measurement]) -> str:
    deviation = seeds[0]["pixel deviation"]
    units = " and ".join(f"{noise:g} is {noise / deviation:.1f}" for noise in NOISES[1:])
    low, middle, high = NOISES

    def all_noises(what: str, decay: float, form: str = ".1f", scale: float = 1) -> str:
        return ", ".join(_mean(seeds, f"{what}, {_cell(decay, noise)}", form, scale) for noise in NOISES)

    def decayed(noise: float) -> str:
        return " to ".join(_mean(seeds, f"effective rank, {_cell(decay, noise)}") for decay in DECAYS)

    changed = "; ".join(
        f"{name}: {_mean(seeds, f'accuracy, {name}', '.2f', 100)} %, {_mean(seeds, f'effective rank, {name}')}, "
        f"{_mean(seeds, f'roughness, {name}', '.2f')}"
        for name in AUGMENTATIONS
    )
    embedded = _mean(seeds, "effective rank, embedding")
    return (
        f"Noise is in raw pixel units, images from 0 to 1; in standard deviations of a pixel {units}. Weight decay "
        f"{DECAYS[1]:g} takes the effective rank from {decayed(low)} without noise, from {decayed(middle)} at noise "
        f"{middle:g}; a model with an embedding, weight decay 1 and no noise has {embedded} (none was trained without "
        f"decay). At noise "
        f"{low:g}, {middle:g} and {high:g} the test accuracy is {all_noises('accuracy', 1, '.2f', 100)} % with and "
        f"{all_noises('accuracy', 0, '.2f', 100)} % without weight decay, and the roughness of the leading "
        f"eigenvectors (1 for white noise) {all_noises('roughness', 1, '.2f')} and "
        f"{all_noises('roughness', 0, '.2f')}.\n\nAccuracy, effective rank and roughness of thinner models by "
        f"augmentation: {changed}."
    )


def _said_of_few(seeds: Sequence[Measurement]) -> str:
    few, every = [_few(*corner) for corner in CORNERS], [_cell(*corner) for corner in CORNERS]

    def gaps(what: str) -> list[Interval]:
        return [_gap(seeds, f"{what}, {a}", f"{what}, {b}") for a, b in zip(few, every, strict=True)]

    def texts(what: str, form: str, scale: float = 1) -> str:
        return ", ".join(value.text(form, scale) for value in gaps(what))

    def listed(what: str) -> str:
        return ", ".join(_mean(seeds, f"{what}, {name}", ".1f", 100) for name in few)

    return (
        f"\n\nTrained on few images, in the order {'; '.join(every)}, test accuracy is {listed('accuracy')} %, with "
        f"{listed('accuracy on few')} % on the few. Against models trained on all images, which take six times as "
        f"many updates in their epochs, the roughness of the leading eigenvectors differs by "
        f"{texts('roughness', '.2f')} "
        f"({_verdict('they are rougher', gaps('roughness'))}), the share of them that is nearer to one of the few than "
        f"to unseen images by {texts('nearer', '.1f', 100)} points "
        f"({_verdict('memory of single images is seen', gaps('nearer'))}), and the effective rank by "
        f"{texts('effective rank', '.1f')} ({_verdict('it is larger', gaps('effective rank'))}). Roughness and rank "
        f"may "
        f"show the shorter training as well; likeness to single training images does not depend on it."
    )


def _said_of_masks(seeds: Sequence[Measurement]) -> str:
    right, wrong, mixed, alone, also_wrong, same = MASKS

    def left(name: str, where: str = PAIRS[1]) -> str:
        return f"left, {name}, {STRENGTH} %, {where}"

    def compared(where: str) -> str:
        first, second, third, fourth = (
            _mean(seeds, left(name, where), ".1f", 100) for name in (right, wrong, same, mixed)
        )
        return (
            f"{first} % made in pixel space, {second} % in embedding space, {third} % in embedding space by the choice "
            f"made for pixel space, {fourth} % with permuted pixels"
        )

    chosen = [CHOICES[round(seed[f"choice, {right}"])].readers for seed in seeds]
    makers = ", ".join(f"{READERS[name]} ({chosen.count(name)})" for name in READERS if name in chosen)
    every = [_cell(*corner) for corner in CORNERS]
    taken, permuted = (
        ", ".join(_mean(seeds, f"{what}, {name}", ".1f", 100) for name in every)
        for what in ("misled", "misled, permuted")
    )
    by_space = [_gap(seeds, left(right, where), left(same, where)) for where in PAIRS]
    still = _verdict("pixel space misleads more by the same choice", by_space)
    isolating = _gap(seeds, left(alone), left(also_wrong))
    costs = _verdict("at equal norm isolating costs strength", [_gap(seeds, left(right), left(alone))])
    purer = _verdict("pixel space isolates better", [_gap(seeds, f"purity, {alone}", f"purity, {also_wrong}")])
    return (
        f"\n\nMasks of {STRENGTH} % of an image's norm, chosen on training images of the pair {TUNED[0]} → {TUNED[1]}, "
        f"take from their class, of the test images of {HELD_OUT[0]} → {HELD_OUT[1]}: {compared(PAIRS[0])}; of all "
        f"held-out pairs: {compared(PAIRS[1])}. By the same choice of eigenvectors the space is worth "
        f"{by_space[0].text('.1f', 100)} points on {HELD_OUT[0]} → {HELD_OUT[1]} and {by_space[1].text('.1f', 100)} "
        f"over "
        f"all held-out pairs ({still}); the rest of the difference is that embedding space, tuned on {TUNED[0]} → "
        f"{TUNED[1]}, chooses what carries over worse. Chosen in pixel space, with the number of seeds, "
        f"were eigenvectors of {makers}; those of one kernel are orthonormal and their own pseudoinverse. The "
        f"pseudoinverse of all classes' eigenvectors makes a mask that moves the target's and no other: the target has "
        f"{_mean(seeds, f'purity, {alone}', '.2f')} of the response, in embedding space "
        f"{_mean(seeds, f'purity, {also_wrong}', '.2f')} ({purer}); such masks take "
        f"{_mean(seeds, left(alone), '.1f', 100)} % and {_mean(seeds, left(also_wrong), '.1f', 100)} % ({costs}), a "
        f"difference of {isolating.text('.1f', 100)} points: to isolate a class is not to mislead, and the mask that "
        f"misleads most is a single eigenvector, where the pseudoinverse changes nothing. In "
        f"models without embedding another digit's top eigenvector of that norm takes {taken} % of the images from "
        f"their class, with permuted pixels {permuted} % ({'; '.join(every)})."
    )


def _mean(seeds: Sequence[Measurement], name: str, form: str = ".1f", scale: float = 1) -> str:
    return interval([seed[name] for seed in seeds]).text(form, scale)


def _gap(seeds: Sequence[Measurement], first: str, second: str) -> Interval:
    """Of the differences seed by seed."""
    return interval([seed[first] - seed[second] for seed in seeds])


def _verdict(claim: str, gaps: Sequence[Interval]) -> str:
    """Whether a claim that says "above 0" of each difference is borne out."""
    if gaps[0].count == 1:
        return f"{claim}: in {sum(value.mean > 0 for value in gaps)} of {len(gaps)}, one seed"
    shown, against = (sum(sign * value.mean > value.half for value in gaps) for sign in (1, -1))
    if len(gaps) in (shown, against):
        every = f" in all {len(gaps)}" if len(gaps) > 1 else ""
        return f"{claim}: shown{every}" if shown else f"{claim}: no, the opposite is shown{every}"
    return f"{claim}: shown in {shown} of {len(gaps)}, the opposite in {against}"


def _inked(pattern: Tensor) -> Tensor:
    """A pattern with the sign that adds ink in total."""
    return -pattern if float(pattern.sum()) < 0 else pattern


def _cell(decay: float, noise: float) -> str:
    return f"weight decay {decay:g}, noise {noise:g}"


def _few(decay: float, noise: float) -> str:
    return f"few images, weight decay {decay:g}, noise {noise:g}"


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


def _pair(spectrum: Spectrum, place: int, label: str) -> Spectrum:
    """One pair of a spectrum by itself."""
    others = spectrum.values.abs().clone()
    others[place] = 0
    here = slice(place, place + 1)
    return replace(
        spectrum,
        values=spectrum.values[here],
        vectors=spectrum.vectors[here],
        residuals=spectrum.residuals[here],
        discarded=torch.maximum(others.max(), spectrum.discarded),
        label=label,
    )


def _drawn(pattern: Tensor, space: Space, label: str) -> Spectrum:
    """A pattern as the eigenvector of the kernel m mᵀ, ‖m‖ = 1."""
    m = pattern / pattern.norm()
    zero = m.new_zeros(())
    return Spectrum(m.new_ones(1), m[None], m.new_zeros(1), zero, zero + 1, space, label)


def _view(name: str, spectra: Sequence[Spectrum], tensor: BilinearTensor) -> FeatureSet:
    sizes = torch.stack([spectrum.values.abs().max() for spectrum in spectra])
    return FeatureSet(name, tuple(spectra), sizes, "|λ|", torch.zeros(len(spectra), tensor.output.dim), tensor.output)


def reasons(seeds: Sequence[Measurement]) -> Mapping[str, str]:
    """Why accuracy and effective rank are others than the published ones: a model with an embedding has others too."""

    def said(name: str, form: str, scale: float = 1.0) -> str:
        return interval([seed[name] for seed in seeds]).text(form, scale)

    why = (
        "The published models differ in more than these two settings; an embedding in front of the layer alone makes "
        f"it {said('accuracy, embedding', '.2f', 100)} % and an effective rank of "
        f"{said('effective rank, embedding', '.1f')} with weight decay 1 and no noise."
    )
    return {f"{name}, {_cell(DECAYS[1], NOISES[0])}": why for name in ("accuracy", "effective rank")}


RECIPE = Recipe(
    "training",
    "What training does to features",
    lambda lab: (
        f"h = {lab.size(*WIDTH)}, {lab.size(10, 6)} epochs, AdamW, lr 1e-3; augmented models: h = {lab.size(*THIN)}, "
        f"weight decay 1, no noise; few images: the first {lab.size(*FEW):,}, {lab.size(*FEW_EPOCHS)} epochs; masks: a "
        f"model with {lab.size(*EMBEDDING)} embedding units, h = {lab.size(*WIDTH)}, weight decay 1, no noise; pixels "
        f"with a mask are not clipped."
    ),
    measure,
    claims,
    figures,
    findings,
    reasons,
)
