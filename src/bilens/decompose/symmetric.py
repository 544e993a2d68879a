"""Eigenvalues and eigenvectors of dense symmetric matrices, even where LAPACK fails."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.errors import BilensError


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
