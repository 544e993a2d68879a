"""What a folder of a coder holds, in SAELens' names, and the checks that every reader makes of settings and weights."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bilens._internal.shown import line
from bilens.errors import StoreError
from bilens.sae.site import Site

DTYPES = {"float32": torch.float32, "float64": torch.float64, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""Types that weights may be stored in."""

VECTORS = {
    "standard": ("b_enc",),
    "topk": ("b_enc",),
    "abstopk": ("b_enc",),
    "groupmax": ("b_enc",),
    "jumprelu": ("b_enc", "threshold"),
    "gated": ("b_gate", "b_mag", "r_mag"),
    "matching_pursuit": (),
}
"""Every rule for codes that is read, and its weights of size d_sae."""

NORMALIZATIONS = ("none", "layer_norm", "constant_norm_rescale")
"""What may be done to a vector before it is encoded, by SAELens' names."""


@dataclass(frozen=True, eq=False, repr=False)
class Content:
    """What a folder holds, checked.

    Args:
        architecture: the rule for codes, one of `VECTORS`.
        settings: what the rule needs beside the sizes, for example k, and `apply_b_dec_to_input`.
        weights: W_enc (d_in, d_sae), W_dec (d_sae, d_out), b_dec (d_out,), those of the rule, and W_skip (d_out, d_in)
            where there is a skip connection; of one type and of shapes that fit.
        normalization: one of `NORMALIZATIONS`.
        transcodes: whether the vectors that it predicts are others than those it encodes.
        site: what it was made for; None where nobody can say, because it was trained on vectors from anywhere.
    """

    architecture: str
    settings: dict[str, Any]
    weights: dict[str, Tensor]
    normalization: str = "none"
    transcodes: bool = False
    site: Site | None = field(default_factory=Site)

    __repr__ = line

    @property
    def plain(self) -> bool:
        """Whether it is an autoencoder of vectors as they are: no other output, no skip, no normalisation."""
        return self.normalization == "none" and not self.transcodes and "W_skip" not in self.weights


@dataclass(frozen=True)
class Format:
    """A format of folders: one of them is one file of this package, and one row of the table.

    Args:
        title: whose it is and what its files are, for messages.
        found: whether a folder is of this format, by its files. Raises StoreError where they are damaged.
        read: what a folder of this format holds; the number is the factor of the vectors, see `sae.load`.
    """

    title: str
    found: Callable[[Path], bool]
    read: Callable[[Path, float | None], Content]


def setting(path: Path, config: Mapping[str, Any], name: str, kind: type, default: Any = ...) -> Any:
    """A setting: a text, a whole number of at least 1, true or false, or an object.

    Args:
        path: of the file, for the message; default: where the setting is missing or null; `...` demands it.

    Raises:
        StoreError: it is missing, or of another kind.
    """
    value = config.get(name)
    if value is None and default is not ...:
        return default
    if type(value) is not kind or (type(value) is int and value < 1):
        kinds = {str: "a text", int: "a number of at least 1", bool: "true or false", dict: "an object"}
        raise StoreError(
            f"{path} with {name} = {value!r:.60}" if name in config else f"{path} without {name}",
            f"{name} as {kinds[kind]}",
            "write it again",
        )
    return value


def k_of(path: Path, config: Mapping[str, Any], d_sae: int) -> int:
    """The setting k, from 1 to d_sae."""
    k: int = setting(path, config, "k", int)
    if k > d_sae:
        raise StoreError(f"{path} with k = {k}", f"at most {d_sae}, the number of features", "write it again")
    return k


def place(path: Path, config: Mapping[str, Any], name: str) -> int | None:
    """A setting that numbers a layer or a head, from 0; None where it is missing or null."""
    value = config.get(name)
    if value is None:
        return None
    if type(value) is not int or value < 0:
        raise StoreError(f"{path} with {name} = {value!r:.60}", f"{name} as a whole number of at least 0, or null")
    return value


def refuse_unknown(path: Path, config: Mapping[str, Any], known: set[str]) -> None:
    """Refuse settings that nobody here understands: each may change the codes."""
    unknown = sorted(config.keys() - known - {"sha256"})  # the checksum that `write_pair` adds
    if unknown:
        raise StoreError(
            f"{path} with the unknown setting{'s' if len(unknown) > 1 else ''} {', '.join(unknown)}",
            f"only {', '.join(sorted(known))}",
            "a setting that does not change the codes can be removed; another is not supported",
        )


def weights(
    path: Path, tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """The weights of a file in one type, checked against their names and shapes.

    Args:
        path: of the file, for the message; shapes: of all weights by their names.
        dtype: that of the file when None, the widest where it has several.

    Raises:
        StoreError: weights are missing, unknown, of another shape, no numbers, or not finite.
    """
    if tensors.keys() != shapes.keys():
        missing, unknown = sorted(shapes.keys() - tensors.keys()), sorted(tensors.keys() - shapes.keys())
        parts = [f"{word} {', '.join(names)}" for word, names in (("without", missing), ("with", unknown)) if names]
        raise StoreError(f"{path} {' and '.join(parts)}", f"exactly {', '.join(sorted(shapes))}", "write it again")
    for name, shape in shapes.items():
        value = tensors[name]
        sparse = value.layout != torch.strided
        if tuple(value.shape) != shape or value.dtype not in DTYPES.values() or sparse:
            raise StoreError(
                f"{path} with {name} of shape {tuple(value.shape)} and {value.dtype}{', sparse' * sparse}",
                f"{shape} of floating-point numbers, as the settings say",
                "use the weights and the settings of one SAE",
            )
    if dtype is None:
        dtype = functools.reduce(torch.promote_types, (tensors[name].dtype for name in shapes))
    found = {name: tensors[name].to(dtype) for name in shapes}
    check_finite(path, found)
    return found


def wide(held: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in float32 at least, before something is folded into them that half precision would round away."""
    return {name: value.to(torch.promote_types(value.dtype, torch.float32)) for name, value in held.items()}


def check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights with NaN or infinity."""
    for name, value in tensors.items():
        if not bool(torch.isfinite(value).all()):
            raise StoreError(f"{path} with NaN or infinity in {name}", "finite weights", "train the SAE again")


def matrix(path: Path, tensors: Mapping[str, Tensor], name: str) -> tuple[int, int]:
    """The sizes of a matrix among the weights, for formats whose settings do not state them.

    Raises:
        StoreError: it is missing, no matrix, or empty.
    """
    value = tensors.get(name)
    if value is None or value.ndim != 2 or 0 in value.shape:
        raise StoreError(
            f"{path} without {name}" if value is None else f"{path} with {name} of shape {tuple(value.shape)}",
            f"{name} as a matrix",
            "copy it again",
        )
    return value.shape[0], value.shape[1]


def only_without_factor(path: Path, scale: float | None) -> None:
    """Refuse a factor for vectors that a folder does not ask for."""
    if scale is not None:
        raise StoreError(
            f"scale = {scale:g} for {path}, whose vectors are not scaled by a factor",
            "no scale",
            "leave it out: this folder says all that is done to its vectors",
        )
