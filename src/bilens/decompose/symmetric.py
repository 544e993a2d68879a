"""Eigenvalues and eigenvectors of dense symmetric matrices, even where LAPACK fails."""

from __future__ import annotations

from collections.abc import Callable

import scipy.linalg
import torch
from jaxtyping import Float
from torch import Tensor

from bilens.errors import BilensError

PARTIAL = 128
"""Size of a matrix from which on a few of its pairs are solved for alone; below it the full solver is as fast."""


def eigh(matrices: Float[Tensor, "*n i i"]) -> tuple[Float[Tensor, "*n i"], Float[Tensor, "*n i i"]]:
    """All eigenvalues, ascending, and eigenvectors, as columns, as `torch.linalg.eigh` gives them.

    LAPACK's solvers can fail, or answer with NaN, on matrices whose entries span more powers of ten than their type
    squared has: noise beside zeros. Entries below ε² of the largest are then set to 0, which is far less than rounding
    changes, and where that does not help the matrices are solved in float64.

    Raises:
        BilensError: entries that are not finite, or no solution.
    """
    values, vectors = _solved(_eigh, matrices)
    return values, vectors


def eigvalsh(matrices: Float[Tensor, "*n i i"]) -> Float[Tensor, "*n i"]:
    """The eigenvalues of `eigh` alone."""
    return _solved(_eigvalsh, matrices)[0]


def largest(matrix: Float[Tensor, "i i"], k: int) -> tuple[Float[Tensor, " k"], Float[Tensor, "i k"]]:
    """The k largest eigenvalues, descending, and their eigenvectors, as columns.

    On a CPU at most i/8 of them are solved for alone: the same tridiagonal form, but only its wanted vectors are made
    and turned back. They are returned only where residuals and products of vectors are those of a full solution.

    Raises:
        BilensError: as `eigh`.
    """
    n = len(matrix)
    if matrix.device.type == "cpu" and n >= PARTIAL and 8 * k <= n and bool(torch.isfinite(matrix.sum())):
        try:
            found = scipy.linalg.eigh(matrix.numpy(), subset_by_index=(n - k, n - 1), driver="evr", check_finite=False)
        except scipy.linalg.LinAlgError:
            pass
        else:
            values, vectors = (torch.from_numpy(part).flip(-1) for part in found)
            rest = torch.linalg.vector_norm(matrix @ vectors - values * vectors, dim=0)
            products = vectors.T @ vectors - torch.eye(k, dtype=matrix.dtype)
            slack = 8 * n * torch.finfo(matrix.dtype).eps
            if bool((rest <= slack * matrix.norm()).all()) and bool((products.abs() <= slack).all()):
                return values, vectors
    values, vectors = eigh(matrix)
    return values.flip(0)[:k], vectors.flip(1)[:, :k]


def _solved(solve: Callable[[Tensor], tuple[Tensor, ...]], matrices: Tensor) -> tuple[Tensor, ...]:
    cleared = matrices
    for attempt in range(3):
        if attempt == 1:
            largest = matrices.detach().abs().amax(dim=(-2, -1), keepdim=True)
            if not bool(torch.isfinite(largest).all()):
                raise BilensError(
                    "a matrix with NaN or infinity", "finite numbers", "look at the weights it is made of"
                )
            cleared = torch.where(matrices.abs() > torch.finfo(matrices.dtype).eps ** 2 * largest, matrices, 0)
        if attempt == 2:
            cleared = cleared.double()
        try:
            found = solve(cleared)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            continue
        if all(bool(torch.isfinite(part.detach().sum())) for part in found):
            return tuple(part.to(matrices.dtype) for part in found)
    raise BilensError(
        f"a symmetric matrix of shape {tuple(matrices.shape)} whose eigenvalues LAPACK does not find",
        "one with a solution",
    )


def _eigh(matrices: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.linalg.eigh(matrices))


def _eigvalsh(matrices: Tensor) -> tuple[Tensor, ...]:
    return (torch.linalg.eigvalsh(matrices),)
