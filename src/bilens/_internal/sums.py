"""Codes of which few are not 0: sums of named rows, and the k largest of many, both fast on a CPU."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

FEW = 0.07
"""Share of codes that are not 0 below which sums of named rows beat dense products on a CPU."""


_GROUP = 10
"""Columns of a group in `top_k`."""


def sum_rows(rows: Tensor, features: Tensor, values: Tensor, first: Tensor | None = None) -> Tensor:
    """Σ_k values_bk rows[features_bk], (b, d_in); with `first`, of lists where vector follows vector from there on."""
    return functional.embedding_bag(features, rows, first, per_sample_weights=values, mode="sum")


def starts(ordered: Tensor, count: int) -> Tensor:
    """Where each number from 0 to count − 1 begins in an ascending list; nothing waits for a device."""
    return torch.searchsorted(ordered, torch.arange(count, device=ordered.device))


def top_k(pre: Float[Tensor, "b m"], k: int) -> tuple[Float[Tensor, "b k"], Int[Tensor, "b k"]]:
    """The k largest entries of each row and their places, in no order: `torch.topk`, from fewer candidates.

    The columns are dealt into groups of ten. The k groups with the largest maxima hold the k largest entries: every
    other group has its maximum, and so all of its entries, below k others.
    """
    b, m = pre.shape
    groups = m // _GROUP
    if pre.device.type != "cpu" or groups * _GROUP != m or groups < 2 * k:
        values, places = pre.topk(k, dim=1, sorted=False)
        return values, places
    chosen = pre.view(b, _GROUP, groups).amax(dim=1).topk(k, dim=1, sorted=False).indices
    columns = (chosen[:, None, :] + torch.arange(0, m, groups)[:, None]).view(b, _GROUP * k)
    values, places = pre.gather(1, columns).topk(k, dim=1, sorted=False)
    return values, columns.gather(1, places)
