"""Checks of tensors: dense, of a floating-point type or of whole numbers, in memory, finite, of the right size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bilens._internal.checks.arguments import got, instance
from bilens.errors import BilensError, ShapeError

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Types that weights and vectors may have."""

_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
"""Types of whole numbers with which torch computes."""


def reals(name: str, value: Tensor | float, like: Tensor) -> Tensor:
    """A number, or several, as a tensor of the type and on the device of another.

    Raises:
        BilensError: neither a real number nor a dense tensor of real numbers in memory.
    """
    if isinstance(value, Tensor):
        dense(name, value)
        if value.dtype not in (*_FLOATS, *_WHOLE):
            raise BilensError(f"{name} of type {value.dtype}", "a number, or a tensor of numbers")
        in_memory(name, value)
        return value.to(like)
    try:
        if isinstance(value, bool) or np.iscomplexobj(value):
            raise TypeError
        return torch.as_tensor(value, dtype=like.dtype, device=like.device)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise BilensError(got(name, value), "a number, or a tensor of numbers") from error


def float_type(name: str, value: torch.dtype) -> None:
    """Check that a type is one of torch's floating-point types from 16 bits on. Raises BilensError."""
    if not isinstance(value, torch.dtype) or value not in _FLOATS:
        said = f"{name} = {value}" if isinstance(value, torch.dtype) else got(name, value)
        raise BilensError(said, "a floating-point type of torch, of 16 bits or more", "pass torch.float32")


def dense(name: str, value: Tensor) -> None:
    """Check that a tensor is one, and has a place for each of its numbers.

    Raises:
        BilensError: not a tensor; a sparse, nested or quantised one.
    """
    instance(name, value, Tensor)
    if value.is_nested:
        raise BilensError(f"{name} as a nested tensor", "a dense tensor", "pad it, or pass one part at a time")
    if value.is_quantized:
        raise BilensError(f"{name} of type {value.dtype}", "floating-point numbers", "call .dequantize()")
    if value.layout != torch.strided:
        raise BilensError(f"{name} with layout {value.layout}", "a dense tensor", "call .to_dense()")


def integers(name: str, value: Tensor, least: int | None = None, most: int | None = None, *, hint: str = "") -> Tensor:
    """A dense tensor of whole numbers within bounds, as int64.

    Args:
        name: of the argument, for the message; value: what was passed; least, most: the bounds, both allowed.
        hint: appended to the message about bounds.

    Raises:
        BilensError: not a tensor, another type, no numbers in memory, or a number out of bounds.
    """
    dense(name, value)
    if value.dtype not in _WHOLE:
        raise BilensError(f"{name} of type {value.dtype}", "whole numbers", "convert it with .long()")
    in_memory(name, value)
    value = value.to(torch.int64)
    if value.numel() and (least is not None or most is not None):
        low, high = int(value.min()), int(value.max())
        if (least is not None and low < least) or (most is not None and high > most):
            bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
            raise BilensError(f"{name} from {low} to {high}", f"whole numbers {bounds}", hint)
    return value


def floating(name: str, value: Tensor) -> None:
    """Check that a tensor is dense and of one of torch's floating-point types from 16 bits on.

    Raises:
        BilensError: not a tensor; whole, complex, quantised or 8-bit numbers; a sparse or nested tensor.
    """
    dense(name, value)
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
    on_device(name, value, like)
    return value.to(like.dtype)


def on_device(name: str, value: Tensor, like: Tensor) -> None:
    """Check that a tensor lies where another one does. Raises BilensError."""
    if value.device != like.device:
        raise BilensError(f"{name} on {value.device}", f"{name} on {like.device}", f"call .to('{like.device}')")


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
    if isinstance(value, Tensor):
        dense(name, value)
        in_memory(name, value)
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
