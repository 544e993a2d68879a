"""What training does to features: weight decay, noise, augmentation and few images, and masks that mislead a model."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from matplotlib.figure import Figure

from bilens import faithfulness
from bilens.data import Dataset, Split
from bilens.decompose import Spectrum
from bilens.models import ImageClassifier
from bilens.tensor import BilinearTensor
from reproduction import charts
from reproduction.lab import Claim, Lab, Recipe
from reproduction.measurement import Measurement
from reproduction.methods import patterns
from reproduction.methods.distortion import Distortion
from reproduction.recipes.masks import (
    HELD_OUT,
    MASKS,
    PAIRS,
    STRENGTH,
    STRENGTHS,
    Attack,
    attacked,
    misled,
    spectra_of,
    view,
)

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
    "rotation ±15°": Distortion(rotation=15.0),
    "shift ±2 pixels": Distortion(shift=2),
    "blur, σ up to 1 pixel": Distortion(blur=1.0),
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
            tops.append(view(name, [_pair(s, int((s.values > 0).int().argmax()), s.label) for s in spectra], tensor))
        if name in {*itertools.starmap(_cell, CORNERS), *itertools.starmap(_few, CORNERS)}:
            spectrum = spectra[PICTURED]
            pairs = [_pair(spectrum, rank - 1, str(rank)) for rank in RANKS if rank <= len(spectrum)]
            ranks.append(view(name, pairs, tensor))
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
        "effective rank": sum(spectrum.participation_ratio() for spectrum in spectra) / len(spectra),
        "nearer": float(nearer.double().mean()),
    }
    shape = tensor.input.image
    if shape is not None:
        found["roughness"] = float(patterns.roughness(leading, shape).mean())
    return found


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
        return charts.dots(
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
            charts.atlas(tops),
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
            charts.atlas(ranks),
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
            charts.intervals(
                shares, "Images no longer read as their class", "norm of the mask, % of the mean norm of an image", "%"
            ),
            f"Images that a mask takes from their class, over all class pairs that share no class with the one on "
            f"which masks were chosen: {band}.",
        ),
        "training-mask-images": (
            charts.atlas(masks),
            f"Masks that are to turn a {source} into a {target}, and a {source} with {STRENGTH} % of each added, first "
            "seed; every image on a scale of its own.",
        ),
    }  # fmt: skip


def _cell(decay: float, noise: float) -> str:
    return f"weight decay {decay:g}, noise {noise:g}"


def _few(decay: float, noise: float) -> str:
    return f"few images, weight decay {decay:g}, noise {noise:g}"


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
)
