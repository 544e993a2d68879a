"""The config of an image classifier's folder: what is written, and what of it is refused when it is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bilens.errors import BilensError, StoreError
from bilens.space import Space

FORMAT = "bilens image classifier 1"

_ABOUT = ("image_mean", "image_std", "test_accuracy")
"""Entries that a config may have and that no model is built from: what its images were, and how often it is right."""

_ENTRIES = (
    "input",
    "output",
    "hidden",
    "layers",
    "embedding",
    "bias",
    "readout_bias",
    "residual",
    "activation",
    "seed",
)
"""Entries that a config has, beside its format: the arguments of the model."""

_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Types of weights that are read."""


def settings(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments in a config that `save_pretrained` wrote; their values are checked when the model is built."""
    if config.get("format") != FORMAT:
        raise StoreError(f"{path} of format {config.get('format')!r}", f"{FORMAT!r}, or the authors' layout")
    differ = sorted(set(_ENTRIES).symmetric_difference(config.keys() - {"format", *_ABOUT}))
    if differ:
        raise StoreError(
            f"{path}, which lacks or adds {', '.join(differ)}", f"the entries {', '.join(_ENTRIES)}", "write it again"
        )
    settings = {name: config[name] for name in _ENTRIES}
    for name in ("input", "output"):
        try:
            settings[name] = Space.from_json(config[name])
        except BilensError as error:
            known = "its name, size, labels and image shape"
            raise StoreError(f"{path} with the {name} space {config[name]!s:.80}", known, "write it again") from error
    return settings


def check(path: Path, tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a file unless it holds just these tensors, of one floating-point type and finite."""
    for name in sorted(shapes.keys() | tensors.keys()):
        if name not in tensors:
            raise StoreError(f"{path} without {name}", f"{name} of shape {shapes[name]}", "copy or download it again")
        value = tensors[name]
        if name not in shapes:
            raise StoreError(
                f"{path} with {name} of shape {tuple(value.shape)}",
                "only the tensors of its config",
                "check the config",
            )
        if tuple(value.shape) != shapes[name]:
            raise StoreError(
                f"{path} with {name} of shape {tuple(value.shape)}", f"{shapes[name]}", "check the config beside it"
            )
        first = next(iter(tensors.values())).dtype
        if value.dtype not in _TYPES or value.dtype != first:
            raise StoreError(
                f"{path} with {name} of type {value.dtype}",
                "one floating-point type, 16 to 64 bits, for all weights",
            )
        if not bool(torch.isfinite(value).all()):
            raise StoreError(f"{path} with NaN or infinity in {name}", "finite numbers", "train or download it again")
