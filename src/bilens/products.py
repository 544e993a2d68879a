"""Products of float32 matrices on a CPU by oneDNN, which is faster there than torch's own; elsewhere torch's own.

torch's own are MKL's, which on some processors that are not Intel's reach less than half of what the machine can.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def product(x: Tensor, matrix: Tensor) -> Tensor:
    """x Mᵀ, (…, j), for x (…, i) and a matrix M (j, i) of its type; where a gradient is to follow, torch's own."""
    follows = torch.is_grad_enabled() and (x.requires_grad or matrix.requires_grad)
    fits = x.dtype == matrix.dtype == torch.float32 and x.device.type == "cpu" and x.shape[-1] > 0
    if follows or not fits or not _has_onednn():
        return x @ matrix.T
    if not (matrix.is_mkldnn or matrix.is_contiguous() or matrix.T.is_contiguous()):
        matrix = matrix.contiguous()  # for memory with gaps oneDNN has slow code only
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, matrix, None, "none", [], "")
    return found


class Packed:
    """x ↦ x Mᵀ for rows x (m, i) and a fixed matrix M (j, i), in its type, again and again.

    In float32 on a CPU M is held in oneDNN's layout, which torch's own compiler uses for the weights of linear layers:
    with 8 to 32 rows x that is much faster than a plain product. Everywhere else, and where this torch has no such
    layout, M is held as it is. No gradients.

    Args:
        matrix: M; rows: how many rows x are likely.
    """

    def __init__(self, matrix: Tensor, rows: int) -> None:
        self._packed = matrix.dtype == torch.float32 and matrix.device.type == "cpu" and _has_onednn()
        self._matrix = (
            torch.ops.mkldnn._reorder_linear_weight(matrix.contiguous(), rows)
            if self._packed
            else matrix.T.contiguous()
        )

    def __call__(self, x: Tensor) -> Tensor:
        """x Mᵀ, (m, j)."""
        return product(x, self._matrix) if self._packed else x @ self._matrix


@functools.cache
def _has_onednn() -> bool:
    """Whether this torch has the two operations, which are not part of its documented interface, and they are right."""
    matrix, x = torch.arange(12.0).view(4, 3), torch.arange(6.0).view(2, 3)
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(matrix, 2)
        found = [torch.ops.mkldnn._linear_pointwise(x, m, None, "none", [], "") for m in (packed, matrix)]
    except (AttributeError, RuntimeError, TypeError):  # NotImplementedError is a RuntimeError
        return False
    return all(torch.equal(each, x @ matrix.T) for each in found)
