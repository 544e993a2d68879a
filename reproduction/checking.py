"""Checks of arguments, in the words that bilens uses."""

from __future__ import annotations

import math
import operator
from numbers import Real

from torch import Tensor

from bilens.errors import BilensError, ShapeError


def instance(name: str, value: object, kind: type) -> None:
    """Check the type of an argument; raises BilensError."""
    if not isinstance(value, kind):
        own = "torch.Tensor" if kind is Tensor else kind.__name__
        raise BilensError(f"{name} of type {type(value).__name__}", f"a {own}")


def whole(name: str, value: object, least: int, most: float = math.inf, *, hint: str = "") -> int:
    """A whole number from `least` to `most`; raises BilensError."""
    try:
        found = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        found = None
    if found is None or isinstance(value, bool) or not least <= found <= most:
        limits = f" of at least {least}" if most == math.inf else f", {least} ≤ {name} ≤ {most}"
        raise BilensError(f"{name} = {value!r:.40}", f"a whole number{limits}", hint)
    return found


def number(
    name: str,
    value: object,
    least: float = -math.inf,
    most: float = math.inf,
    *,
    above: float = -math.inf,
    hint: str = "",
) -> float:
    """A finite number from `least` to `most`, above a third one; raises BilensError."""
    known = isinstance(value, Real) and not isinstance(value, bool)
    found = float(value) if known else math.nan  # type: ignore[arg-type]
    if not math.isfinite(found) or not least <= found <= most or found <= above:
        low = f" of at least {least:g}" if math.isfinite(least) else f" above {above:g}" if math.isfinite(above) else ""
        high = f" and at most {most:g}" if math.isfinite(most) else ""
        raise BilensError(f"{name} = {value!r:.40}", f"a finite number{low}{high}", hint)
    return found


def seed(value: object) -> int:
    """A seed as torch's generators take it; raises BilensError."""
    return whole("seed", value, -(2**63), 2**63 - 1)


def rows(name: str, value: Tensor, like: Tensor, size: int) -> Tensor:
    """Vectors of a size, one per row, in the type of a tensor; raises BilensError or ShapeError."""
    instance(name, value, Tensor)
    if not value.is_floating_point():
        raise BilensError(f"{name} of type {value.dtype}", "floating-point numbers", "convert with .float()")
    if value.ndim == 0 or value.shape[-1] != size:
        raise ShapeError(f"{name} of shape {tuple(value.shape)}", f"{size} coordinates on the last axis")
    return value.to(like.dtype)
