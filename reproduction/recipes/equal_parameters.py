"""Bilinear layers beside gated and ungated ones of equal parameter counts (N1's "comparable")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure

from bilens import faithfulness
from bilens.data import Dataset
from bilens.errors import StoreError
from reproduction import charts
from reproduction.lab import Claim, Lab, Recipe
from reproduction.measurement import Measurement

ACTIVATIONS = {"bilinear": "bilinear", "relu": "ReLU", "gelu": "GELU", "reglu": "ReGLU", "swiglu": "SwiGLU"}
"""Activations and how they are written."""

DATASETS = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST", "digits": "the 8×8 digits"}
"""Data sets and how they are written; the 8×8 digits stand for Fashion-MNIST in a quick programme."""


def _datasets(lab: Lab) -> list[tuple[str, Dataset]]:
    """MNIST, and Fashion-MNIST where it is found."""
    found = [("mnist", lab.dataset())]
    try:
        found.append(("fashion_mnist", lab.dataset("fashion_mnist")))
    except StoreError:
        return found
    return found


def _hidden(lab: Lab) -> int:
    return lab.size(300, 32)


def measure(lab: Lab, seed: int) -> Measurement:
    """Test accuracy and number of parameters of each kind of layer, and its difference from the bilinear one's."""
    numbers: dict[str, float] = {}
    for asked, images in _datasets(lab):
        name = images.name
        for activation in ACTIVATIONS:
            model = lab.classifier(
                seed, hidden=_hidden(lab), dataset=asked, activation=activation, epochs=lab.size(10, 4)
            )
            with torch.no_grad():
                accuracy = faithfulness.accuracy(model(images.test.images), images.test.labels)
            numbers[f"accuracy, {activation}, {name}"] = accuracy
            numbers[f"parameters, {activation}, {name}"] = sum(value.numel() for value in model.parameters())
            if activation != "bilinear":
                for what in ("accuracy", "parameters"):
                    ours, theirs = (numbers[f"{what}, {kind}, {name}"] for kind in ("bilinear", activation))
                    numbers[f"{what} less bilinear, {activation}, {name}"] = theirs - ours
    return Measurement.of(numbers)


def _measured(*seeds: Measurement) -> list[str]:
    """The data sets that all seeds have."""
    return [name for name in DATASETS if all(f"accuracy, bilinear, {name}" in seed.names for seed in seeds)]


def claims(measured: Measurement) -> Sequence[Claim]:
    """Accuracy of each kind of layer, and its difference from the bilinear one's."""
    table = []
    for name in _measured(measured):
        for activation, written in ACTIVATIONS.items():
            count = measured[f"parameters, {activation}, {name}"]
            text = f"test accuracy on {DATASETS[name]}, {written}, {count:,.0f} parameters"
            table.append(Claim(text, f"accuracy, {activation}, {name}", "–", ".2f", 100, " %"))
        for activation, written in list(ACTIVATIONS.items())[1:]:
            draft = "the same" if (activation, name) == ("relu", "mnist") else "–"
            text = f"{written} less bilinear at equal parameters, {DATASETS[name]}"
            table.append(Claim(text, f"accuracy less bilinear, {activation}, {name}", draft, ".2f", 100, " pts"))
    return table


def figures(seeds: Sequence[Measurement]) -> Mapping[str, tuple[Figure, str]]:
    """Accuracies, and differences from the bilinear layer."""
    names = _measured(*seeds)
    accuracies = {
        DATASETS[name]: {
            written: [100 * seed[f"accuracy, {activation}, {name}"] for seed in seeds]
            for activation, written in ACTIVATIONS.items()
        }
        for name in names
    }
    differences = {
        DATASETS[name]: {
            written: [100 * seed[f"accuracy less bilinear, {activation}, {name}"] for seed in seeds]
            for activation, written in list(ACTIVATIONS.items())[1:]
        }
        for name in names
    }
    return {
        "parameters-accuracy": (
            charts.dots(accuracies, "test accuracy, %", shared=False),
            "Test accuracy at equal parameter counts: each seed, mean and 95 % interval.",
        ),
        "parameters-difference": (
            charts.dots(differences, "test accuracy less the bilinear layer's, points", line=0),
            "Difference from the bilinear layer of the same seed: each seed, mean and 95 % interval.",
        ),
    }


RECIPE = Recipe(
    "parameters",
    "Bilinear, gated and ungated layers at equal parameter counts",
    lambda lab: (
        f"h = {_hidden(lab)} for bilinear, ReGLU and SwiGLU, and the width with as many parameters for ReLU and GELU; "
        f"{lab.size(10, 4)} epochs, batch 100, AdamW, lr 1e-3, step schedule, weight decay 1, no noise, no biases, "
        f"{len(lab.dataset().train.labels):,} training images of MNIST."
    ),
    measure,
    claims,
    figures,
)
