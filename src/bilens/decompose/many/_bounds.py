"""Where eigenvalues may lie that a Krylov space does not show: an estimate, with the chance that it is wrong."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bilens.decompose import linalg

POINTS = 24
"""Places within a gap between two Ritz values at which it is asked whether an eigenvalue may lie there: with more of
them the bound is tighter by less than a twelfth of a gap."""


def failure(dtype: torch.dtype) -> float:
    """The chance, over the random start, that bounds are wrong: as small as the rounding of the type lets it be."""
    return 1e-6 if dtype == torch.float64 else 1e-3


def beyond(
    small: Tensor, coupling: Tensor, levels: Tensor, columns: Tensor, chosen: Tensor, *, dim: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Between which numbers, (n,) each, the eigenvalues lie that are not listed.

    Let T s_l = θ_l s_l on the Krylov space of one start vector, with residuals β s_ml. An eigenvector of eigenvalue t
    whose part along the start is γ has γ = |v_{m+1} Σ_l s_1l β s_ml / (θ_l − t)|, v_{m+1} ≤ 1 its part along the next
    vector. So where the sum is below δ, there is no eigenvalue but one with γ < δ, and the chance of that is at most
    δ √(2 i/π) for a random start in i dimensions. Of the eigenvalues from each end on, only the first w + 1 need it.

    Args:
        small: T, (n, m, m); coupling: what makes the next block of the last, (n, b, b); levels, columns: θ and s;
            chosen: places of the listed among them, (n, w); dim: i; dtype: of the search, whose rounding is added.

    Source: van Dorsselaer, Hochstenbach and van der Vorst, "Computing probabilistic bounds for extreme eigenvalues of
    symmetric matrices with the Lanczos method" (2000), there for the extreme eigenvalue.
    """
    wanted = chosen.shape[1]
    delta = failure(dtype) / (2 * (wanted + 1) * math.sqrt(2 * dim / math.pi))
    if coupling.shape[1] == 1:
        poles, parts = levels, columns[:, 0] * columns[:, -1] * coupling[:, 0]
    else:
        poles, parts = _first_chain(small, coupling)
    free = torch.ones_like(levels, dtype=torch.bool).scatter_(1, chosen, False)
    slack = 64 * torch.finfo(dtype).eps * levels.abs().amax(dim=1)
    lower = -_above(-levels.flip(1), free.flip(1), -poles, parts, count=wanted + 1, delta=delta)
    return lower - slack, _above(levels, free, poles, parts, count=wanted + 1, delta=delta) + slack


def _above(levels: Tensor, free: Tensor, poles: Tensor, parts: Tensor, *, count: int, delta: float) -> Tensor:
    """The lowest point above the highest free level where |Σ parts / (poles − t)| is below δ, of some in each gap."""
    size = levels.shape[1]
    first = size - 1 - free.flip(1).int().argmax(dim=1)  # where none is free, the highest of all
    gaps = first[:, None] + torch.arange(min(count, size), device=first.device)
    low, high = (levels.gather(1, (gaps + side).clamp(max=size - 1))[:, :, None] for side in (0, 1))
    steps = torch.arange(POINTS, device=low.device, dtype=torch.float64)
    inside = low + (high - low) * ((steps + 0.5) / POINTS).square()  # closer together at the low side
    width = (levels[:, -1:] - levels[:, :1]).clamp(min=torch.finfo(torch.float64).tiny)
    outside = levels[:, -1:] + width * 1e-9 * 10 ** (steps * 12 / (POINTS - 1))  # up to 1,000 widths away
    points = torch.where((gaps < size - 1)[:, :, None], inside, outside[:, None]).flatten(1)
    sums = (parts[:, None] / (poles[:, None] - points[:, :, None])).sum(dim=2)  # at a pole not a number: not below
    return points.masked_fill(~(sums.abs() < delta), torch.inf).amin(dim=1)


def _first_chain(small: Tensor, coupling: Tensor) -> tuple[Tensor, Tensor]:
    """θ and s_1 β s_m of the Krylov space of the first start vector, which lies in the block's.

    Lanczos on T from its first coordinate vector is Lanczos on Q from the first start vector, for as long as the
    products stay within the space.
    """
    size, block = small.shape[1], coupling.shape[1]
    rows = small.new_zeros(len(small), size // block + 1, size)
    rows[:, 0, 0], length = 1, small.new_zeros(len(small), 1)
    for step in range(size // block):
        image = rows[:, step : step + 1] @ small
        for _ in range(2):
            image = image - image @ rows[:, : step + 1].mT @ rows[:, : step + 1]
        length = torch.linalg.vector_norm(image, dim=2)
        rows[:, step + 1] = image[:, 0] / length.clamp(min=torch.finfo(length.dtype).tiny)
    rows = rows[:, :-1]
    left = torch.linalg.vector_norm(coupling @ rows[:, -1, -block:, None], dim=1)  # what leaves the block's space
    levels, columns = linalg.eigh(rows @ small @ rows.mT)
    return levels, columns[:, 0] * columns[:, -1] * torch.hypot(length, left)
