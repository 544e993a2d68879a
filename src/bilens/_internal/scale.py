"""Rescale factors by powers of two, which is exact, so that their products neither overflow nor underflow."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens._internal.checks import holds
from bilens.errors import BilensError

NEAR = 8
"""Powers of two within which entries are as good as near 1: squares of products of three of them stay in range."""

_ALONE = {torch.float64: 1000, torch.float32: 120}
"""Exponents below which a power of two is a number of the type by itself."""

CALM = 256
"""Exponents of hidden units up to which two powers of two may be multiplied with one after the other."""

NONE = -(2**20)
"""The exponent of 0, below that of every other number and of every product of a few."""


def near_one(factor: Tensor, *, by_row: bool = False) -> tuple[Tensor, Tensor]:
    """The factor over a power of two that brings its largest entry, or each row's, between 1 and 2; and that power.

    The power is 1 for a factor whose largest entry is near enough to 1 as it is.
    """
    low, high = factor.aminmax(dim=1) if by_row else factor.aminmax()
    largest = torch.maximum(-low, high)
    exponent = torch.where(largest > 0, torch.frexp(largest).exponent - 1, 0)
    if not by_row and abs(int(exponent)) <= NEAR:
        return factor, torch.ones_like(largest, dtype=torch.float64)
    scaled = times_two_to(factor, -(exponent[:, None] if by_row else exponent))
    return scaled, torch.ldexp(torch.ones_like(largest, dtype=torch.float64), exponent)


class Units(NamedTuple):
    """Factors in float64, each near 1: B_o = 2^{e_o} Σ_h D_oh sym(L_h R_hᵀ).

    Args:
        left, right: (h, i), the largest entry of each row between 1 and 2; down: (o, h), likewise.
        exponents: (o,), e; 0 for an output that is 0.
    """

    left: Float[Tensor, "h i"]
    right: Float[Tensor, "h i"]
    down: Float[Tensor, "o h"]
    exponents: Int[Tensor, " o"]


def units(left: Float[Tensor, "h i"], right: Float[Tensor, "h i"], down: Float[Tensor, "o h"]) -> Units:
    """Take powers of two out of each hidden unit and each output, whatever their scales. Gradients flow through.

    One power for a whole factor would not do: where L is large and R small in one unit, and the other way round in
    another, both units count.
    """
    # What is 0 must not decide how the others are scaled, but its gradient is not 0.
    nothing = 0 if tracked(left, right, down) else NONE
    scaled, sums = [], torch.zeros(len(left), dtype=torch.int32, device=left.device)
    for factor in (left, right):
        exponent = _exponents(factor.detach().abs().amax(dim=1))
        zero = exponent <= NONE
        scaled.append(times_two_to(factor.double(), -exponent.masked_fill(zero, 0)[:, None]))
        sums = sums + exponent.masked_fill(zero, nothing)
    rows = (_exponents(down) + sums).amax(dim=1)
    rows = rows.masked_fill(rows <= NONE // 2, 0)
    if _far(sums) <= CALM and _far(rows) <= 2 * CALM:  # by columns and then by rows: nothing between leaves the range
        near = times_two_to(times_two_to(down.double(), sums), -rows[:, None])
    else:
        near = times_two_to(down.double(), sums - rows[:, None])
    return Units(scaled[0], scaled[1], near, rows)


def _far(exponents: Tensor) -> int:
    """The largest exponent in size; more than any where there are no numbers to look at."""
    most = exponents.abs().amax() if exponents.numel() else exponents.new_zeros(())
    return int(most) if holds(most >= 0, False) else -NONE


def times_two_to(value: Float[Tensor, "..."], exponent: Int[Tensor, "..."] | int) -> Float[Tensor, "..."]:
    """2^exponent · value, broadcast, with the right gradient; `torch.ldexp` has a wrong one at exponents below 0."""
    if isinstance(exponent, int) and abs(exponent) < _ALONE.get(value.dtype, 0):
        return value * 2.0**exponent  # exact in one product, where the power itself is in range
    exponent = torch.as_tensor(exponent, device=value.device)
    half = exponent // 2  # a power of two alone may be out of range where the product is not
    for part in (half, exponent - half):
        value = value * torch.exp2(part.double()).to(value.dtype)
    return value


def tracked(*factors: Tensor) -> bool:
    """Whether a gradient of one of them may be asked for."""
    return torch.is_grad_enabled() and any(factor.requires_grad for factor in factors)


def _exponents(factor: Tensor) -> Tensor:
    """⌊log₂|·|⌋ of every entry."""
    factor = factor.detach()
    return (torch.frexp(factor).exponent - 1).masked_fill(factor == 0, NONE)


def fitted(value: Float[Tensor, "..."], exponent: Int[Tensor, "..."], dtype: torch.dtype, what: str) -> Tensor:
    """2^exponent · value in a type, for values near 1.

    Raises:
        BilensError: a number that the type does not hold, with its order of magnitude.
    """
    found = times_two_to(value, exponent).to(dtype)
    limits = torch.finfo(dtype)
    wrong = ~torch.isfinite(found) | ((found.abs() < limits.tiny) & (value != 0))
    if holds(wrong.any(), False):
        worst = int(wrong.flatten().nonzero()[0, 0])
        one, power = float(value.detach().flatten()[worst]), int(exponent.expand_as(value).flatten()[worst])
        size = f"about 1e{math.log10(abs(one)) + power * math.log10(2):+.0f}" if math.isfinite(one) else str(one)
        raise BilensError(
            f"{what} of {size}",
            f"a number that {str(dtype).removeprefix('torch.')} holds, {limits.tiny:.2g} to {limits.max:.2g}",
            "call .to(torch.float64)" if dtype != torch.float64 else "scale the weights",
        )
    return found
