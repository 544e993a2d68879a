"""Checks of arguments that all public functions share: numbers, seeds, flags, choices, paths, lists and types."""

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


def whole(
    name: str,
    value: SupportsIndex,
    least: int | None = None,
    most: int | None = None,
    *,
    hint: str = "",
) -> int:
    """A whole number within bounds as a Python int, from any type that can be an index, NumPy's too; no True or False.

    Args:
        name: of the argument, for the message; value: what was passed.
        least, most: the bounds, both allowed; hint: appended to the message.

    Raises:
        BilensError: it is no whole number, or out of bounds.
    """
    try:
        number = None if _truth(value) else operator.index(value)
    except TypeError:
        number = None
    if number is None or (least is not None and number < least) or (most is not None and number > most):
        raise BilensError(_got(name, value), f"a whole number{_bounds(name, least, most)}", hint)
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
    """A finite real number within bounds as a Python float, from any real type, NumPy's too; no True, False or tensor.

    Args:
        name: of the argument, for the message; value: what was passed.
        least, most: bounds that are allowed; above, below: bounds that are not; hint: appended to the message.

    Raises:
        BilensError: it is no number, NaN, infinite, or out of bounds.
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
        raise BilensError(_got(name, value), f"a finite number{_bounds(name, least, most, above, below)}", hint)
    return real


def seed(value: SupportsIndex, least: int = -(2**63)) -> int:
    """A seed as torch's generators take it: a whole number of at most 2⁶³ − 1.

    Raises:
        BilensError: it is none.
    """
    try:
        return whole("seed", value, least, 2**63 - 1)
    except BilensError:
        lowest = "−2⁶³" if least < 0 else str(least)
        raise BilensError(_got("seed", value), f"a whole number from {lowest} to 2⁶³ − 1") from None


def flag(name: str, value: bool) -> bool:
    """A flag as Python's own True or False, from NumPy's too; a text or a number is none.

    Raises:
        BilensError: it is something else.
    """
    if not isinstance(value, bool | np.bool_):
        raise BilensError(_got(name, value), "True or False")
    return bool(value)


def choice(name: str, value: str, options: Sequence[str], expected: str = "", hint: str = "") -> None:
    """Refuse what is none of some names.

    Args:
        name: of the argument, for the message; value: what was passed; options: the names.
        expected: in words, where the names do not say enough; hint: appended to the message.

    Raises:
        BilensError: it is no text, or another one.
    """
    if not isinstance(value, str) or value not in options:
        raise BilensError(_got(name, value), expected or f"one of {', '.join(options)}", hint)


def path(name: str, value: str | os.PathLike[str]) -> Path:
    """The path of a file or folder.

    Raises:
        BilensError: it is no path, or one that no system takes.
    """
    if not isinstance(value, str | os.PathLike) or "\0" in str(value):
        raise BilensError(_got(name, value), "a path, as a text or a pathlib.Path")
    return Path(value)


def several(name: str, value: Iterable[T], expected: str, hint: str) -> list[T]:
    """What can be iterated, as a list.

    Raises:
        BilensError: it cannot, or is a single number of NumPy or torch.
    """
    if not isinstance(value, Iterable) or getattr(value, "ndim", 1) == 0:
        raise BilensError(f"{name} of type {type(value).__name__}", expected, hint)
    return list(value)


def reals(name: str, value: Tensor | float, like: Tensor) -> Tensor:
    """A number, or several, as a tensor of the type and on the device of another.

    Raises:
        BilensError: it is neither a real number nor a tensor of them.
    """
    try:
        if value.is_complex() if isinstance(value, Tensor) else np.iscomplexobj(value):
            raise TypeError
        return torch.as_tensor(value, dtype=like.dtype, device=like.device)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise BilensError(_got(name, value), "a number, or a tensor of numbers") from error


def target(value: torch.dtype | torch.device | str) -> torch.dtype | torch.device:
    """A type, or a device of this machine.

    Raises:
        BilensError: it is neither.
    """
    if isinstance(value, torch.dtype):
        return value
    try:
        if not isinstance(value, str | torch.device):
            raise TypeError
        return torch.empty(0, device=value).device
    except (TypeError, RuntimeError, AssertionError) as error:
        raise BilensError(
            _got("target", value),
            "a torch.dtype or a device of this machine",
            "pass torch.float64, or 'cpu' for example",
        ) from error


def instance(name: str, value: object, kind: type, expected: str = "", hint: str = "") -> None:
    """Refuse what is not of a type.

    Args:
        name: of the argument, for the message; value: what was passed; kind: the type.
        expected: in words, where its name does not say enough; hint: how to get one.

    Raises:
        BilensError: it is of another type.
    """
    if not isinstance(value, kind):
        own = kind.__name__
        raise BilensError(
            f"{name} of type {type(value).__name__}",
            expected or ("a torch.Tensor" if kind is Tensor else f"{'an' if own[0] in 'AEIOU' else 'a'} {own}"),
            hint or _HINTS.get(own, ""),
        )


def _truth(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, Tensor) and value.dtype == torch.bool)


def _got(name: str, value: Any) -> str:
    if isinstance(value, Number):
        try:
            return f"{name} = {value!s:.40}"  # without the name of NumPy's type
        except ValueError:  # more digits than Python writes
            return f"{name} of more than a thousand digits"
    if value is None or isinstance(value, str | bytes):
        return f"{name} = {value!r:.40}"
    return f"{name} of type {type(value).__name__}"


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
