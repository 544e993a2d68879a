"""Checks of arguments that all public functions share: numbers, seeds, flags, paths, lists, types, weights, vectors."""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import os
import re
from collections.abc import Iterable, Sequence
from numbers import Number, Real
from pathlib import Path
from typing import Any, SupportsFloat, SupportsIndex, TypeVar

import numpy as np
import torch
from torch import Tensor

from bilens.errors import BilensError, ShapeError

T = TypeVar("T")

_HINTS = {
    "BilinearTensor": "take one with model.tensor(), or make it with BilinearTensor.from_layer",
    "Dictionary": "make one with Dictionary.from_atoms",
    "Kernel": "take one with tensor.kernel(output)",
    "Space": "make one with Space(name, size)",
    "Tensor": "convert it with torch.as_tensor",
}
"""How to get a value of each type, for the message."""

_SHAPE = re.compile(r"\[Tensor, ['\"]([^'\"*]*)['\"]\]")
"""The axes in an annotation like `Float[Tensor, "k i"]`."""

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Types that weights and vectors may have."""


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


def reals(name: str, value: Tensor | float, like: Tensor) -> Tensor:
    """A number, or several, as a tensor of the type and on the device of another.

    Raises:
        BilensError: neither a real number nor a tensor of real numbers.
    """
    try:
        if value.is_complex() if isinstance(value, Tensor) else np.iscomplexobj(value):
            raise TypeError
        return torch.as_tensor(value, dtype=like.dtype, device=like.device)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise BilensError(got(name, value), "a number, or a tensor of numbers") from error


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


def floating(name: str, value: Tensor) -> None:
    """Check that a tensor is dense and of one of torch's floating-point types from 16 bits on.

    Raises:
        BilensError: not a tensor; whole, complex, quantised or 8-bit numbers; a sparse or nested tensor.
    """
    instance(name, value, Tensor)
    if value.is_nested:
        raise BilensError(f"{name} as a nested tensor", "a dense tensor", "pad it, or pass one part at a time")
    if value.is_quantized:
        raise BilensError(f"{name} of type {value.dtype}", "floating-point numbers", "call .dequantize()")
    if value.layout != torch.strided:
        raise BilensError(f"{name} with layout {value.layout}", "a dense tensor", "call .to_dense()")
    if value.dtype not in _FLOATS:
        raise BilensError(
            f"{name} of type {value.dtype}",
            "floating-point numbers of 16 bits or more",
            "" if value.is_complex() else "convert with .float()",
        )


def weights(name: str, value: Tensor) -> None:
    """Check that a tensor is dense, of a floating-point type, in memory and finite.

    Raises:
        BilensError: as `floating`; a tensor on the meta device; NaN or infinity.
    """
    floating(name, value)
    in_memory(name, value)
    finite(name, value)


def in_memory(name: str, *values: Tensor) -> None:
    """Check that tensors have numbers, and not a shape and a type alone.

    Raises:
        BilensError: a tensor on the meta device.
    """
    if any(value.is_meta for value in values):
        raise BilensError(f"{name} on the meta device", "numbers in memory", "load the weights first")


def holds(condition: Tensor, otherwise: bool) -> bool:
    """Whether a condition on numbers holds; `otherwise` where there are no numbers to look at.

    There are none on the meta device, under `torch.func.vmap`, and while `torch.compile` or a fake tensor traces.
    """
    if condition.is_meta or torch.compiler.is_compiling():
        return otherwise
    try:
        return bool(condition)
    except RuntimeError:  # what vmap and fake tensors raise when a program asks for a number
        return otherwise


def finite(name: str, value: Tensor) -> None:
    """Check that no number is NaN or infinite, where there are numbers to look at.

    Cost: one sum; every number is looked at on its own only where the sum is not finite, as that of large ones may be.

    Raises:
        BilensError: NaN or infinity.
    """
    if not holds(torch.isfinite(value.detach().sum()), True) and not bool(torch.isfinite(value).all()):
        raise BilensError(f"{name} with NaN or infinity", "finite numbers", "check how the model was trained or saved")


def vectors(name: str, value: Tensor, like: Tensor, size: int, *, expected: str = "", hint: str = "") -> Tensor:
    """Vectors for a record, one per row, in the record's type: another floating-point type is converted.

    Args:
        name: of the argument, for the message; value: (…, size), what was passed; like: a tensor of the record.
        expected: the size in words, where the number does not say enough; hint: appended to the message.

    Raises:
        BilensError: as `floating`; a tensor on another device. ShapeError: the last axis is not of this size.
    """
    floating(name, value)
    if value.ndim == 0 or value.shape[-1] != size:
        raise ShapeError(
            f"{name} of shape {tuple(value.shape)}",
            expected or f"{size} coordinates on the last axis",
            hint or "pass one vector per row",
        )
    if value.device != like.device:
        raise BilensError(f"{name} on {value.device}", f"{name} on {like.device}", f"call .to('{like.device}')")
    return value.to(like.dtype)


def samples(name: str, value: Tensor, size: int) -> None:
    """Check that a tensor holds samples, (n, size), whose sums are numbers.

    Raises:
        BilensError: as `floating`; without numbers; NaN or infinity. ShapeError: another shape.
    """
    floating(name, value)
    in_memory(name, value)
    if value.ndim != 2 or value.shape[1] != size:
        raise ShapeError(f"{name} of shape {tuple(value.shape)}", f"(n, {size}): {size} coordinates per sample")
    if value.numel():
        finite(name, value)


def places(name: str, value: Sequence[int] | Sequence[bool] | Tensor, count: int, device: torch.device) -> Tensor:
    """Some of several things, from their numbers or from a mask, as an int64 tensor of numbers.

    Args:
        name: of the things, for the message; value: what was passed; count: how many there are; device: of the result.

    Raises:
        BilensError: none is named, one outside 0 … count − 1, or something else than numbers or a mask. ShapeError: a
            mask of another length.
    """
    try:
        index = torch.as_tensor(value, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BilensError(f"{name} {value!r:.40}", "whole numbers, or a mask") from error
    if index.dtype == torch.bool:
        if tuple(index.shape) != (count,):
            raise ShapeError(f"a mask of shape {tuple(index.shape)}", f"({count},)")
        index = index.nonzero()[:, 0]
    wrong = index.is_floating_point() or index.is_complex() or index.ndim != 1 or len(index) == 0
    if wrong or int(index.min()) < 0 or int(index.max()) >= count:
        raise BilensError(
            f"{name} {index.tolist()}" if index.numel() < 8 else f"{index.numel()} {name}",
            f"at least one whole number from 0 to {count - 1}",
        )
    return index.to(torch.int64)


def shapes(record: Any, **sizes: int) -> None:
    """Check the shapes of a frozen record's tensors against its annotations; one name is one size in all of them.

    Args:
        record: of a dataclass whose fields are annotated like `Float[Tensor, "k i"]`; those that are None are left out.
        sizes: of axes that something else fixes, by the name that they have in the annotations.

    Raises:
        BilensError: not a tensor. ShapeError: another number of axes, or an axis of another size.
    """
    for name, axes in _axes(record.__class__):
        value = getattr(record, name)
        if value is None:
            continue
        instance(name, value, Tensor)
        shape = tuple(value.shape)
        expected = [int(axis) if axis.isdigit() else sizes.get(axis, axis) for axis in axes]
        if len(shape) != len(axes) or any(isinstance(e, int) and e != n for e, n in zip(expected, shape, strict=True)):
            comma = "," if len(axes) == 1 else ""
            raise ShapeError(f"{name} of shape {shape}", f"({', '.join(map(str, expected))}{comma})")
        sizes.update(zip(axes, shape, strict=True))


@functools.cache
def _axes(kind: type) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The fields of a dataclass that are tensors, and the names of their axes."""
    found = ((field.name, _SHAPE.search(str(field.type))) for field in dataclasses.fields(kind))
    return tuple((name, tuple(match[1].split())) for name, match in found if match)


def owned(value: Tensor, *, detach: bool = True) -> Tensor:
    """A copy that shares no memory with the value, without its graph unless `detach` is false, in float32 at least.

    Every half-precision number is one of float32, so that nothing is rounded.
    """
    value = value.detach() if detach else value
    work = torch.promote_types(value.dtype, torch.float32) if value.is_floating_point() else value.dtype
    return value.clone() if work == value.dtype else value.to(work)


def trusted(kind: type[T], *values: object) -> T:
    """A frozen record made of values that are valid and its own already: nothing is checked, copied or detached.

    Args:
        kind: its class; values: of all of its fields, in their order.
    """
    record = object.__new__(kind)
    for name, value in zip(kind.__match_args__, values, strict=True):  # type: ignore[attr-defined]
        object.__setattr__(record, name, value)  # not by dataclasses.fields, which torch.compile does not follow
    return record


def _truth(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, Tensor) and value.dtype == torch.bool)


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
