"""What rounding can change, bounded: so that a certificate holds for the numbers that are returned."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.checks import reals
from bilens.space import Space

UNIT = 2.0**-53
"""The relative error of one operation in float64."""


def gamma(steps: int) -> float:
    """At least γ_n = n u / (1 − n u), the relative error of n operations in float64, with 1 % for its own rounding.

    A sum of n products is off by at most γ_n times the sum of their sizes, in whatever order they are added.

    Source: Higham, "Accuracy and Stability of Numerical Algorithms", section 3.1.
    """
    return 1.01 * steps * UNIT


def at_least_single(dtype: torch.dtype) -> torch.dtype:
    """The type of a result: that of the weights, float32 for bfloat16 and float16."""
    return torch.promote_types(dtype, torch.float32)


def upward(values: Float[Tensor, "*n"], dtype: torch.dtype) -> Float[Tensor, "*n"]:
    """Numbers of at least 0 in another type, never smaller than they were; 0 stays 0."""
    rounded = values.to(dtype)
    above = torch.nextafter(rounded, torch.full_like(rounded, torch.inf))
    return torch.where(values > 0, above, rounded)


def largest_square(x_norm: Tensor | float, dim: int, like: Tensor) -> Float[Tensor, "*n"]:
    """‖x'‖² in float64 from a norm that was computed in its own type: its largest possible value.

    Args:
        x_norm: the norm; dim: of x', over which it was summed; like: a tensor on the device.

    Raises:
        BilensError: neither a real number nor a tensor of them.
    """
    norm = reals("x_norm", x_norm, torch.empty(0, dtype=torch.float64, device=like.device))
    dtype = x_norm.dtype if isinstance(x_norm, Tensor) and x_norm.is_floating_point() else torch.float64
    slack = torch.finfo(dtype).eps + (dim + 4) * torch.finfo(at_least_single(dtype)).eps
    return (norm * (1 + slack)).square()


def lifted(input: Space, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n i"]:
    """x' in float64, from x of any floating type, exactly.

    Raises:
        BilensError: x is no tensor of floating-point numbers. ShapeError: its last axis is not `input.size`.
    """
    return input.lift(x).double()
