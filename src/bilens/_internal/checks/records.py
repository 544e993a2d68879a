"""What frozen records check when they are built, and how they own their tensors."""

from __future__ import annotations

import dataclasses
import functools
import re
import sys
from typing import Any, TypeVar

import torch
from torch import Tensor

from bilens._internal.checks.arguments import instance
from bilens.errors import ShapeError

T = TypeVar("T")

_SHAPE = re.compile(r"\[Tensor, ['\"]([^'\"*]*)['\"]\]")
"""The axes in an annotation like `Float[Tensor, "k i"]`."""


def fields(record: Any) -> None:
    """Check that the fields of a frozen record that are records themselves are of the annotated class.

    Args:
        record: of a dataclass with fields annotated by the plain name of a class of bilens, like `input: Space`.

    Raises:
        BilensError: a value of another type.
    """
    for name, kind in _records(record.__class__):
        instance(name, getattr(record, name), kind)


def shapes(record: Any, **sizes: int) -> None:
    """Check the shapes of a frozen record's tensors against its annotations; one name is one size in all of them.

    Args:
        record: of a dataclass whose fields are annotated like `Float[Tensor, "k i"]`; those that may be None and are
            None are left out.
        sizes: of axes that something else fixes, by the name that they have in the annotations.

    Raises:
        BilensError: not a tensor. ShapeError: another number of axes, or an axis of another size.
    """
    for name, axes, optional in _axes(record.__class__):
        value = getattr(record, name)
        if optional and value is None:
            continue
        instance(name, value, Tensor)
        shape = tuple(value.shape)
        expected = [int(axis) if axis.isdigit() else sizes.get(axis, axis) for axis in axes]
        if len(shape) != len(axes) or any(isinstance(e, int) and e != n for e, n in zip(expected, shape, strict=True)):
            comma = "," if len(axes) == 1 else ""
            raise ShapeError(f"{name} of shape {shape}", f"({', '.join(map(str, expected))}{comma})")
        sizes.update(zip(axes, shape, strict=True))


@functools.cache
def _records(kind: type) -> tuple[tuple[str, type], ...]:
    """The fields of a dataclass that are annotated by the name of a class of bilens, and these classes."""
    names = vars(sys.modules[kind.__module__])
    found = ((field.name, names.get(str(field.type))) for field in dataclasses.fields(kind))
    return tuple((name, own) for name, own in found if isinstance(own, type) and own.__module__.startswith("bilens."))


@functools.cache
def _axes(kind: type) -> tuple[tuple[str, tuple[str, ...], bool], ...]:
    """The fields of a dataclass that are tensors, the names of their axes, and whether they may be None."""
    found = ((field.name, str(field.type), _SHAPE.search(str(field.type))) for field in dataclasses.fields(kind))
    return tuple(
        (name, tuple(match[1].split()), "None" in said)
        for name, said, match in found
        if match and not said.startswith("tuple")
    )


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
