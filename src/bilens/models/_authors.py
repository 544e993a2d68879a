"""The image classifiers that the authors of arXiv 2410.08417 publish: their layout, as ours."""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from typing import Any

from torch import Tensor

from bilens.errors import StoreError
from bilens.space import Space

_SIZES = {"d_input": "input", "d_hidden": "hidden", "n_layer": "layers", "d_output": "output"}


def recognised(tensors: Mapping[str, Tensor]) -> bool:
    """Whether tensors with these names are in the authors' layout."""
    return "embed.weight" in tensors or any(name.startswith("blocks.") for name in tensors)


def convert(
    path: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Our arguments and our tensors for a model in the authors' layout.

    Theirs: `embed.weight` (h, d); `blocks.N.weight` (2h, h), left rows over right rows, and `blocks.N.bias` (2h);
    `head.weight` (o, h); x = x + layer(x) where `residual` is true, else x = layer(x). Shapes are checked by the
    caller, against a model built with the arguments.

    Args:
        path: of the config, for messages; config: its content.

    Returns:
        (arguments of the image classifier, tensors by our names).

    Raises:
        StoreError: the config lacks a size or a switch, or has one of another type.
    """
    for name in (*_SIZES, "bias", "residual"):
        value = config.get(name)
        good = isinstance(value, bool) if name in ("bias", "residual") else type(value) is int and 1 <= value < 2**31
        if not good:
            raise StoreError(
                f"{path} with {name} = {value!r}" if name in config else f"{path} without {name}",
                "true or false" if name in ("bias", "residual") else "a number of at least 1",
                "copy or download it again",
            )
    hidden, width = config["d_hidden"], config["d_input"]
    side = isqrt(width)
    settings = {
        "input": Space("pixels", width, image=(side, side) if side * side == width and side > 1 else None),
        "output": Space("classes", config["d_output"]),
        "hidden": hidden,
        "layers": config["n_layer"],
        "embedding": hidden,
        "bias": config["bias"],
        "residual": config["residual"],
    }
    names = {"embed.weight": "embedding.weight", "head.weight": "readout.weight"}
    ours: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if name in names:
            ours[names[name]] = value
        elif name.startswith("blocks.") and name.count(".") == 2 and value.ndim > 0 and len(value) == 2 * hidden:
            _, number, kind = name.split(".")
            ours[f"layers.{number}.left.{kind}"] = value[:hidden]
            ours[f"layers.{number}.right.{kind}"] = value[hidden:]
        else:
            ours[name] = value
    return settings, ours
