"""Sparse directions of a kernel, and how sparse a direction is."""

from __future__ import annotations

import numpy as np
import scipy.sparse.linalg
import torch
from jaxtyping import Float
from torch import Tensor

from bilens.decompose import linalg
from bilens.decompose.linalg import at_least_single, kernel_near_one
from bilens.errors import BilensError, ShapeError
from bilens.kernel import Kernel
from reproduction.checking import instance, whole
from reproduction.methods.squares import Squares, squares

SMALL = 64
"""Size up to which all eigenvectors of a matrix cost less than its two outer ones."""


@torch.no_grad()
def hoyer(vectors: Float[Tensor, "*k n"]) -> Float[Tensor, "*k"]:
    """Hoyer's sparsity (√n − ‖v‖₁/‖v‖₂) / (√n − 1) of each row: 1 for a single entry, 0 for entries of one size.

    Raises:
        ShapeError: rows of fewer than two entries. BilensError: a row that is 0, NaN or infinity.

    Source: Hoyer, "Non-negative matrix factorization with sparseness constraints" (2004).
    """
    rows = _rows(vectors)
    root = rows.shape[-1] ** 0.5
    found: Tensor = (root - rows.abs().sum(dim=-1) / rows.norm(dim=-1)) / (root - 1)
    return found.to(at_least_single(vectors.dtype))


@torch.no_grad()
def sparse_eigh(kernel: Kernel, k: int, nonzero: int, *, steps: int = 100) -> Squares:
    """At most k directions of `nonzero` coordinates each, one after another: sparse PCA of a kernel of either sign.

    Each maximises |xᵀEx| over ‖x‖ = 1, ‖x‖₀ ≤ `nonzero`, with E = Q − Σ c_j v_j v_jᵀ what the directions before it
    leave, all weights fitted anew each time. By the truncated power method, from the top eigenvector of each sign: the
    largest entries of |±Ex + αx| say which coordinates come next, and x is the top eigenvector of ±E on these. With α
    so that ±E + αI is positive semidefinite no step goes down. A local maximum, not a certified one. Fewer than k come
    back when nothing is left.

    Args:
        kernel: Q; k: how many; nonzero: coordinates of each; steps: of one ascent, at most.

    Cost: the two outer eigenvectors of E per direction, and O(i² + nonzero³) per step. No gradients.

    Raises:
        BilensError: k or steps below 1, or `nonzero` outside 1 … `input.dim`.

    Source: Yuan and Zhang, "Truncated power method for sparse eigenvalue problems" (2013); Moghaddam, Weiss and Avidan,
    "Spectral bounds for sparse PCA: exact and greedy algorithms" (2006), on the top eigenvector of a support.
    """
    instance("kernel", kernel, Kernel)
    k, steps = whole("k", k, 1), whole("steps", steps, 1)
    nonzero = whole("nonzero", nonzero, 1, kernel.input.dim)
    double, _ = kernel_near_one(kernel)
    dense = double.dense()
    floor, rest = 1e-12 * float(dense.norm()), dense
    found = squares(double, dense[:0])
    for _ in range(k):
        (least, most), (lowest, highest) = _ends(rest)
        plus = _ascend(rest, highest, -least, nonzero, steps)
        minus = _ascend(-rest, lowest, most, nonzero, steps)
        best = max((plus, minus), key=lambda x: abs(float(x @ rest @ x)))
        if abs(float(best @ rest @ best)) <= floor:
            break
        found = squares(double, torch.cat([found.vectors, best[None]]))
        rest = dense - (found.vectors.T * found.values) @ found.vectors
        rest = (rest + rest.T) / 2
    return squares(kernel, found.vectors)


def _ends(matrix: Tensor) -> tuple[tuple[float, float], tuple[Tensor, Tensor]]:
    """Lowest and highest eigenvalue, each a little further out than it is, and their eigenvectors."""
    if len(matrix) <= SMALL:
        values, columns = linalg.eigh(matrix)
    else:
        start = np.random.default_rng(0).standard_normal(len(matrix))
        found = scipy.sparse.linalg.eigsh(matrix.cpu().numpy(), 2, which="BE", v0=start, tol=1e-3)
        values, columns = (torch.as_tensor(part).to(matrix) for part in found)
    room = 0.01 * float(values.abs().max())
    return (float(values[0]) - room, float(values[-1]) + room), (columns[:, 0], columns[:, -1])


def _ascend(matrix: Tensor, start: Tensor, shift: float, nonzero: int, steps: int) -> Tensor:
    """The truncated power method, exact on each support; the largest entry of its end is positive."""
    places = start.abs().topk(nonzero).indices.sort().values
    value = torch.tensor(-torch.inf)
    for _ in range(steps):
        levels, columns = linalg.eigh(matrix[places][:, places])
        if not bool(levels[-1] > value):
            break
        value, x = levels[-1], torch.zeros_like(start)
        x[places] = columns[:, -1]
        moved = (matrix @ x + max(shift, 0.0) * x).abs().topk(nonzero).indices.sort().values
        if bool((moved == places).all()):
            break
        places = moved
    return -x if bool(x[x.abs().argmax()] < 0) else x


def _rows(vectors: Tensor) -> Tensor:
    instance("vectors", vectors, Tensor)
    if vectors.ndim < 1 or vectors.shape[-1] < 2:
        raise ShapeError(f"vectors of shape {tuple(vectors.shape)}", "rows of at least 2 entries")
    if not vectors.is_floating_point():
        raise BilensError(f"vectors of type {vectors.dtype}", "floating-point numbers", "convert them with .float()")
    rows = vectors.detach().double()
    rows = rows / rows.abs().amax(dim=-1, keepdim=True)  # so that no square leaves the range
    norms: Tensor = rows.norm(dim=-1)
    if not bool((torch.isfinite(norms) & (norms > 0)).all()):
        raise BilensError("vectors that are 0, NaN or infinite", "finite ones with a norm", "leave them out")
    return rows
