"""Checks of single arguments: numbers, seeds, flags, texts, paths, lists and types."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterable, Sequence
from numbers import Number, Real
from pathlib import Path
from typing import Any, SupportsFloat, SupportsIndex, TypeVar

import numpy as np
import torch
from torch import Tensor

from bilens.errors import BilensError

T = TypeVar("T")

_HINTS = {
    "BilinearTensor": "take one with model.tensor(), or make it with BilinearTensor.from_layer",
    "Dictionary": "make one with Dictionary.from_atoms",
    "Kernel": "take one with tensor.kernel(output)",
    "Space": "make one with Space(name, size)",
    "Tensor": "convert it with torch.as_tensor",
}
"""How to get a value of each type, for the message."""


_MOST = 2**64
"""No count, place or seed is larger."""


def whole(
    name: str,
    value: SupportsIndex,
    least: int | None = None,
    most: int | None = None,
    *,
    hint: str = "",
) -> int:
    """A whole number within bounds as a Python int, from any integer type, NumPy's included, but not from a bool.

    Args:
        name: of the argument, for the message; value: what was passed.
        least, most: the bounds, both allowed; hint: appended to the message.

    Raises:
        BilensError: not a whole number, or out of bounds.
    """
    try:
        number = None if _truth(value) else operator.index(value)
    except TypeError:
        number = None
    if number is not None and abs(number) > _MOST and (most is None or most > _MOST):
        raise BilensError(got(name, value), "a whole number that 64 bits hold", hint)
    if number is None or (least is not None and number < least) or (most is not None and number > most):
        raise BilensError(got(name, value), f"a whole number{_bounds(name, least, most)}", hint)
    return number


def number(
    name: str,
    value: SupportsFloat,
    least: float | None = None,
    most: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
    hint: str = "",
) -> float:
    """A finite real number within bounds as a Python float, from any real type but bool, NumPy's included; no tensor.

    Args:
        name: of the argument, for the message; value: what was passed.
        least, most: bounds that are allowed; above, below: bounds that are not; hint: appended to the message.

    Raises:
        BilensError: not a number, NaN, infinite, or out of bounds.
    """
    real = math.nan
    if isinstance(value, Real) and not _truth(value):
        try:
            real = float(value)
        except OverflowError:
            real = math.inf
    if (
        not math.isfinite(real)
        or (least is not None and real < least)
        or (most is not None and real > most)
        or (above is not None and real <= above)
        or (below is not None and real >= below)
    ):
        raise BilensError(got(name, value), f"a finite number{_bounds(name, least, most, above, below)}", hint)
    return real


def seed(value: SupportsIndex, least: int = -(2**63)) -> int:
    """A seed as torch's generators take it: a whole number of at most 2⁶³ − 1.

    Raises:
        BilensError: not a valid seed.
    """
    try:
        return whole("seed", value, least, 2**63 - 1)
    except BilensError:
        lowest = "−2⁶³" if least < 0 else str(least)
        raise BilensError(got("seed", value), f"a whole number from {lowest} to 2⁶³ − 1") from None


def flag(name: str, value: bool) -> bool:
    """A flag as Python's own True or False, from NumPy's too; strings and numbers are refused.

    Raises:
        BilensError: not a flag.
    """
    if not isinstance(value, bool | np.bool_):
        raise BilensError(got(name, value), "True or False")
    return bool(value)


def choice(name: str, value: str, options: Sequence[str], expected: str = "", hint: str = "") -> None:
    """Check that a string is one of the options.

    Args:
        name: of the argument, for the message; value: what was passed; options: the valid strings.
        expected: in words, where the options do not say enough; hint: appended to the message.

    Raises:
        BilensError: not a string, or not one of the options.
    """
    if not isinstance(value, str) or value not in options:
        raise BilensError(got(name, value), expected or f"one of {', '.join(options)}", hint)


def path(name: str, value: str | os.PathLike[str]) -> Path:
    """The path of a file or folder.

    Raises:
        BilensError: not a path, or one with a null character.
    """
    if not isinstance(value, str | os.PathLike) or "\0" in str(value):
        raise BilensError(got(name, value), "a path, as a text or a pathlib.Path")
    return Path(value)


def several(name: str, value: Iterable[T], expected: str, hint: str) -> list[T]:
    """The items of an iterable as a list.

    Raises:
        BilensError: not iterable, or a single number of NumPy or torch.
    """
    if not isinstance(value, Iterable) or getattr(value, "ndim", 1) == 0:
        raise BilensError(f"{name} of type {type(value).__name__}", expected, hint)
    return list(value)


def instance(name: str, value: object, kind: type, expected: str = "", hint: str = "") -> None:
    """Check the type of an argument.

    Args:
        name: of the argument, for the message; value: what was passed; kind: the type.
        expected: in words, where the type's name does not say enough; hint: how to get one.

    Raises:
        BilensError: a value of another type.
    """
    if not isinstance(value, kind):
        own = kind.__name__
        raise BilensError(
            f"{name} of type {type(value).__name__}",
            expected or ("a torch.Tensor" if kind is Tensor else f"{'an' if own[0] in 'AEIOU' else 'a'} {own}"),
            hint or _HINTS.get(own, ""),
        )


def got(name: str, value: Any) -> str:
    """How a message names a value: a number or a short text as it is, anything else by its type."""
    if isinstance(value, Number):
        try:
            return f"{name} = {value!s:.40}"  # without the name of NumPy's type
        except ValueError:  # more digits than Python writes
            return f"{name} of more than a thousand digits"
    if value is None or isinstance(value, str | bytes):
        return f"{name} = {value!r:.40}"
    return f"{name} of type {type(value).__name__}"


def _truth(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, Tensor) and value.dtype == torch.bool)


def _bounds(
    name: str, least: float | None, most: float | None, above: float | None = None, below: float | None = None
) -> str:
    low = f"{least:,} ≤ " if least is not None else f"{above:,} < " if above is not None else ""
    high = f" ≤ {most:,}" if most is not None else f" < {below:,}" if below is not None else ""
    if low and high:
        return f", {low}{name}{high}"
    if least is not None:
        return f" of at least {least:,}"
    if most is not None:
        return f" of at most {most:,}"
    return f" above {above:,}" if low else f" below {below:,}" if high else ""
