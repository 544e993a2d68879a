"""Products of float32 matrices on a CPU by oneDNN, which is faster there than torch's own; elsewhere torch's own.

torch's own are MKL's, which on some processors that are not Intel's reach less than half of what the machine can.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.autograd import forward_ad

LEAST = 2**21
"""Multiplications from which on a product is worth the few microseconds more that oneDNN takes to begin."""


def product(x: Tensor, matrix: Tensor) -> Tensor:
    """x Mᵀ, (…, j), for x (…, i) and a matrix M (j, i).

    By oneDNN only where that changes nothing but the time: large, in float32 on a CPU, with no derivative to follow,
    outside of autocast and of whatever traces or compiles. Everywhere else by torch's own `@`.
    """
    if torch.compiler.is_compiling() or not _suits(x, matrix):
        return x @ matrix.T
    return _by_onednn(x, matrix)


class Packed:
    """x ↦ x Mᵀ for rows x (m, i) and a fixed matrix M (j, i), in its type, again and again.

    In float32 on a CPU M is held in oneDNN's layout, which torch's own compiler uses for the weights of linear layers:
    with 8 to 32 rows x that is much faster than a plain product. Everywhere else, and where this torch has no such
    layout, M is held as it is. No gradients.

    Args:
        matrix: M; rows: how many rows x are likely.
    """

    def __init__(self, matrix: Tensor, rows: int) -> None:
        single = matrix.dtype == torch.float32 and matrix.device.type == "cpu" and matrix.numel() > 0
        self._packed = single and _has_onednn()
        self._matrix = (
            torch.ops.mkldnn._reorder_linear_weight(matrix.contiguous(), rows)
            if self._packed
            else matrix.T.contiguous()
        )

    def __call__(self, x: Tensor) -> Tensor:
        """x Mᵀ, (m, j)."""
        return _by_onednn(x, self._matrix) if self._packed else x @ self._matrix


def _suits(x: Tensor, matrix: Tensor) -> bool:
    """Whether a product is one for oneDNN."""
    if torch.jit.is_tracing() or torch.is_autocast_enabled("cpu"):  # type: ignore[attr-defined, no-untyped-call]
        return False
    fits = matrix.ndim == 2 and x.ndim > 0 and x.shape[-1] == matrix.shape[1]
    if not fits or x.numel() * len(matrix) < LEAST:
        return False
    for each in (x, matrix):
        if (
            type(each) not in {Tensor, torch.nn.Parameter}  # others have products of their own
            or (each.dtype, each.device.type, each.layout) != (torch.float32, "cpu", torch.strided)
            or (each.requires_grad and torch.is_grad_enabled())
            or forward_ad.unpack_dual(each).tangent is not None  # type: ignore[no-untyped-call]
            or not _in_memory(each)
        ):
            return False
    return _has_onednn()


def _in_memory(tensor: Tensor) -> bool:
    """Whether there are numbers behind it, and not those of many tensors at once, as in `torch.vmap`."""
    try:
        tensor.data_ptr()
    except RuntimeError:
        return False
    return True


def _by_onednn(x: Tensor, matrix: Tensor) -> Tensor:
    if not (matrix.is_mkldnn or matrix.is_contiguous() or matrix.T.is_contiguous()):
        matrix = matrix.contiguous()  # for memory with gaps oneDNN has slow code only
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, matrix, None, "none", [], "")
    return found


@functools.cache
def _has_onednn() -> bool:
    """Whether this torch has the two operations, which are not part of its documented interface, and they are right."""
    numbers = torch.arange(18, dtype=torch.float32, device="cpu")
    matrix, x = numbers[:12].view(4, 3), numbers[12:].view(2, 3)
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(matrix, 2)
        found = [torch.ops.mkldnn._linear_pointwise(x, m, None, "none", [], "") for m in (packed, matrix)]
    except (AttributeError, RuntimeError, TypeError):  # NotImplementedError is a RuntimeError
        return False
    return all(torch.equal(each, x @ matrix.T) for each in found)
