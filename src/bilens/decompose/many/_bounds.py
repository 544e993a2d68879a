"""Where eigenvalues may lie that a Krylov space does not show: an estimate, with the chance that it is wrong."""

from __future__ import annotations

import math

import torch
from torch import Tensor

POINTS = 24
"""Places within a gap between two Ritz values at which it is asked whether an eigenvalue may lie there: with more of
them the bound is tighter by less than a twelfth of a gap."""


def failure(dtype: torch.dtype) -> float:
    """The chance, over the random start, that bounds are wrong: as small as the rounding of the type lets it be."""
    return 1e-6 if dtype == torch.float64 else 1e-3


def beyond(
    coupling: Tensor, levels: Tensor, columns: Tensor, chosen: Tensor, *, dim: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Between which numbers, (n,) each, the eigenvalues lie that are not listed.

    Let T s_l = θ_l s_l on the Krylov space, and β the triangle that couples it to the next block. An eigenvector of
    eigenvalue t with the part y in the space and z along the next block has (T − t) y = −E βᵀ z, E the last block of
    the space, so that its part along the first start vector is γ ≤ ‖Σ_l s_1l β s_l,last / (θ_l − t)‖, since ‖z‖ ≤ 1. So
    where that norm is below δ, there is no eigenvalue but one with γ < δ, and the chance of that is at most δ √(2 i/π)
    for a random start in i dimensions. Of the eigenvalues from each end on, only the first w + 1 need it.

    Args:
        coupling: β, (n, b, b); levels, columns: θ, (n, m), and s, (n, m, m); chosen: places of the listed among them,
            (n, w); dim: i; dtype: of the search, whose rounding is added.

    Source: van Dorsselaer, Hochstenbach and van der Vorst, "Computing probabilistic bounds for extreme eigenvalues of
    symmetric matrices with the Lanczos method" (2000), there for the extreme eigenvalue and one start vector.
    """
    wanted = chosen.shape[1]
    delta = failure(dtype) / (2 * (wanted + 1) * math.sqrt(2 * dim / math.pi))
    parts = columns[:, :1] * (coupling @ columns[:, -coupling.shape[1] :])  # (n, b, m)
    free = torch.ones_like(levels, dtype=torch.bool).scatter_(1, chosen, False)
    slack = 64 * torch.finfo(dtype).eps * levels.abs().amax(dim=1)
    lower = -_above(-levels.flip(1), free.flip(1), parts.flip(2), count=wanted + 1, delta=delta)
    return lower - slack, _above(levels, free, parts, count=wanted + 1, delta=delta) + slack


def _above(levels: Tensor, free: Tensor, parts: Tensor, *, count: int, delta: float) -> Tensor:
    """The lowest point above the highest free level where ‖Σ_l parts_l / (θ_l − t)‖ is below δ, of some in each gap."""
    size = levels.shape[1]
    first = size - 1 - free.flip(1).int().argmax(dim=1)  # where none is free, the highest of all
    gaps = first[:, None] + torch.arange(min(count, size), device=first.device)
    low, high = (levels.gather(1, (gaps + side).clamp(max=size - 1))[:, :, None] for side in (0, 1))
    steps = torch.arange(POINTS, device=low.device, dtype=torch.float64)
    inside = low + (high - low) * ((steps + 0.5) / POINTS).square()  # closer together at the low side
    width = (levels[:, -1:] - levels[:, :1]).clamp(min=torch.finfo(torch.float64).tiny)
    outside = levels[:, -1:] + width * 1e-9 * 10 ** (steps * 12 / (POINTS - 1))  # up to 1,000 widths away
    points = torch.where((gaps < size - 1)[:, :, None], inside, outside[:, None]).flatten(1)
    norms = torch.linalg.vector_norm((1 / (levels[:, None] - points[:, :, None])) @ parts.mT, dim=2)
    return points.masked_fill(~(norms < delta), torch.inf).amin(dim=1)  # at a level not a number: not below
