"""Products of one matrix with few vectors, again and again: packed once where oneDNN can, which reads it fastest."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


class Packed:
    """x ↦ x Mᵀ for rows x (m, i) and a fixed matrix M (j, i), in its type.

    In float32 on a CPU M is held in oneDNN's layout, which torch's own compiler uses for the weights of linear layers:
    with 8 to 32 rows x that is much faster than a plain product, with hundreds a little. Everywhere else,
    and where this torch has no such layout, M is held as it is.

    Args:
        matrix: M; rows: how many rows x are likely.
    """

    def __init__(self, matrix: Tensor, rows: int) -> None:
        self._packed = matrix.dtype == torch.float32 and matrix.device.type == "cpu" and _has_packed_products()
        self._matrix = (
            torch.ops.mkldnn._reorder_linear_weight(matrix.contiguous(), rows)
            if self._packed
            else matrix.T.contiguous()
        )

    def __call__(self, x: Tensor) -> Tensor:
        """x Mᵀ, (m, j)."""
        if self._packed:
            product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._matrix, None, "none", [], "")
            return product
        return x @ self._matrix


@functools.cache
def _has_packed_products() -> bool:
    """Whether this torch has the two operations, which are not part of its documented interface, and they are right."""
    matrix, x = torch.arange(12.0).view(4, 3), torch.arange(6.0).view(2, 3)
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(matrix, 2)
        found = torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
    except (AttributeError, RuntimeError, TypeError):  # NotImplementedError is a RuntimeError
        return False
    return bool(torch.equal(found, x @ matrix.T))
