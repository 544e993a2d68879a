"""Powers of two out of the way, so that products of large or small factors stay in the range of their type."""

from __future__ import annotations

import torch
from torch import Tensor

NEAR = 8
"""Powers of two within which entries are as good as near 1: squares of products of three of them stay in range."""


def near_one(factor: Tensor, *, by_row: bool = False) -> tuple[Tensor, Tensor]:
    """The factor over a power of two that brings its largest entry, or each row's, between 1 and 2; and that power.

    The power is 1 for a factor whose largest entry is near enough to 1 as it is.
    """
    low, high = factor.aminmax(dim=1) if by_row else factor.aminmax()
    largest = torch.maximum(-low, high)
    exponent = torch.where(largest > 0, torch.frexp(largest).exponent - 1, 0)
    if not by_row and abs(int(exponent)) <= NEAR:
        return factor, torch.ones_like(largest, dtype=torch.float64)
    scaled = torch.ldexp(factor, -(exponent[:, None] if by_row else exponent))
    return scaled, torch.ldexp(torch.ones_like(largest, dtype=torch.float64), exponent)
