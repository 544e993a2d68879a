"""A model that somebody else trained, made ready to be read: its folder, its images, its scale, and a second look."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bilens import faithfulness
from bilens._internal import files
from bilens._internal.checks import number
from bilens.data import Dataset
from bilens.deep import DeepTensor
from bilens.errors import BilensError, StoreError
from bilens.models import ImageClassifier
from bilens.statistics import share
from bilens.tensor import BilinearTensor

SCALES = (1e-12, 1e12)
"""Norms that the tensor of a model may have: what is read from it has products and squares in single precision."""


class AccuracyWarning(UserWarning):
    """A model is right about images much less often than it should be."""


@dataclass(frozen=True)
class Standardization:
    """What the images of a model were before it saw them: (x − mean) / std of the raw ones.

    Args:
        mean, std: in the units of raw images.
    """

    mean: float
    std: float


def read(
    checkpoint: Path, dataset: Dataset | None, *, mean: float | None, std: float | None
) -> tuple[ImageClassifier, Standardization | None]:
    """The model in a folder, in single precision and as a function of raw images, over the spaces of a data set.

    Args:
        checkpoint: the folder; dataset: whose spaces to take, or None.
        mean, std: of the images that the model was trained on; None reads them from the checkpoint, where it has them.

    Returns:
        (the model, the standardisation that was folded into it).

    Raises:
        BilensError: mean without std; a model that is not bilinear, or whose outputs vanish, overflow or never vary.
        StoreError: the folder cannot be read.
    """
    if checkpoint.is_file():
        raise StoreError(
            f"{checkpoint}, which is a file",
            "a folder with config.json and model.safetensors",
            "load the file in your own code and save its weights as the documentation shows (Data, Your own model)"
            if checkpoint.suffix in (".pt", ".pth", ".bin", ".ckpt", ".pkl")
            else "name the folder that it is in",
        )
    if (mean is None) != (std is None):
        raise BilensError("--mean or --std alone", "both of them, or neither")
    model = ImageClassifier.from_pretrained(checkpoint)
    if dataset is not None:
        model = model.over(dataset.input, dataset.output)
    _network(model)  # a model that is not bilinear is refused before anything is written
    if mean is not None and std is not None:
        images = Standardization(number("--mean", mean), number("--std", std, above=0))
    else:
        stated = _stated(checkpoint)
        images = Standardization(0.0, 1.0) if stated is None else stated
    folded = images != Standardization(0.0, 1.0)
    if folded:
        # In double precision: the weights are rounded once, and not before.
        model = model.double().standardized(images.mean, images.std)
    model = model.float()
    _check_scale(model)
    if dataset is not None:
        with torch.no_grad():
            outputs = model.hidden_outputs(dataset.train.images[:4096])
        if bool((outputs == outputs[0]).all()):
            raise BilensError(
                f"a model whose layer gives the same outputs for each image of {dataset.name}", "a trained model"
            )
    return model, images if folded else None


def look(model: ImageClassifier, checkpoint: Path, dataset: Dataset, images: Standardization | None) -> None:
    """Warn, in one line, of a model that is near chance on the test images, or far below what its config states.

    Near chance is a 95 % interval (Wilson's) of the accuracy that begins below a tenth of the way from the share of the
    most frequent class to 1; far below is an interval that ends more than 2 points below what is stated.
    """
    labels = dataset.test.labels
    with torch.no_grad():
        logits = torch.cat([model(part) for part in torch.split(dataset.test.images, 4096)])
    right = round(faithfulness.accuracy(logits, labels) * len(labels))
    accuracy = share(right, len(labels))
    low, high = accuracy.low, accuracy.high
    chance = float(labels.bincount().max()) / len(labels)
    stated = _accuracy(checkpoint)
    if stated is not None and high < stated - 0.02:
        compared = f"its config states {stated:.2%}"
    elif low < chance + 0.1 * (1 - chance):
        compared = f"always naming the most frequent class gives {chance:.2%}"
    else:
        return
    hint = (
        "if it was trained on standardised images, (x - mean) / std, name both with --mean and --std"
        if images is None
        else f"its images were taken as standardised, mean {images.mean:g} and std {images.std:g}"
    )
    warnings.warn(
        f"the model is right about {right / len(labels):.2%} of {len(labels):,} test images of {dataset.name} (95 % "
        f"interval {low:.2%} to {high:.2%}), where {compared}: {hint}",
        AccuracyWarning,
        stacklevel=2,
    )


def _network(model: ImageClassifier) -> BilinearTensor | DeepTensor:
    """The model's tensor, or that of all of its layers."""
    return model.tensor() if model.config["layers"] == 1 else model.deep()


def _check_scale(model: ImageClassifier) -> None:
    """Refuse a model of whose outputs nothing would be left in single precision."""
    _network(model)  # weights that overflow are refused
    exact = copy.deepcopy(model).double()
    several = model.config["layers"] > 1
    for tensor in (exact.deep(),) if several else (exact.hidden_tensor(), exact.tensor()):
        norm = float(tensor.norm())
        if not SCALES[0] <= norm <= SCALES[1]:
            raise BilensError(
                f"a model whose {tensor.output.name} are 0 for every input"
                if norm == 0
                else f"a model whose tensor has norm {norm:.3g}",
                f"a trained model, its tensor's norm from {SCALES[0]:g} to {SCALES[1]:g}",
                "" if norm == 0 else "scale its weights: one factor for all logits changes no prediction",
            )


def _stated(checkpoint: Path) -> Standardization | None:
    """What a checkpoint says of its images: in config.json or, as transformers does, in preprocessor_config.json.

    Raises:
        StoreError: one of the two numbers without the other, several of them (coloured images), or what is no number.
    """
    for name in ("config.json", "preprocessor_config.json"):
        path = checkpoint / name
        config = files.read_json(path) if path.exists() else {}
        if config.get("do_normalize") is False:
            continue
        found = {key: config[key] for key in ("image_mean", "image_std") if key in config}
        if not found:
            continue
        numbers = [value[0] if isinstance(value, list) and len(value) == 1 else value for value in found.values()]
        good = [type(value) in (int, float) and math.isfinite(value) for value in numbers]
        if len(found) != 2 or not all(good) or numbers[1] <= 0:
            raise StoreError(
                f"{path} with {', '.join(f'{key} = {str(value)[:40]}' for key, value in found.items())}",
                "image_mean and image_std, one number each, the second above 0",
                "give --mean and --std, which come before the config's",
            )
        return Standardization(float(numbers[0]), float(numbers[1]))
    return None


def _accuracy(checkpoint: Path) -> float | None:
    """The test accuracy that a checkpoint's config states as a share or in per cent; None where it states none."""
    config: Mapping[str, Any] = files.read_json(checkpoint / "config.json")
    value = config.get("test_accuracy", config.get("accuracy"))
    if type(value) not in (int, float) or not 0 < value <= 100:
        return None
    return float(value) if value <= 1 else float(value) / 100
