"""Linear algebra that decompositions share, also those of your own: eigenvalues, scales, signs, bounds on rounding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import scipy.linalg
import torch
from jaxtyping import Float
from torch import Tensor

from bilens._internal import checks
from bilens._internal.checks import holds, on_device, reals, trusted, whole
from bilens._internal.scale import times_two_to, units
from bilens.errors import BilensError, ShapeError
from bilens.kernel import Kernel
from bilens.space import Space
from bilens.tensor import BilinearTensor

__all__ = [
    "at_least_single",
    "detach",
    "eigh",
    "eigvalsh",
    "fitting",
    "folded",
    "kernel_near_one",
    "signed",
    "symmetric",
    "tensor_near_one",
]

EPSILON = torch.finfo(torch.float64).eps
"""The distance from 1 to the next number in float64."""

UNIT = 2.0**-53
"""The relative error of one operation in float64."""

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


def symmetric(matrices: Float[Tensor, "*n i i"]) -> Float[Tensor, "*n i i"]:
    """½(M + Mᵀ)."""
    return (matrices + matrices.mT) / 2


def signed(vectors: Float[Tensor, "*n i"]) -> Float[Tensor, "*n i"]:
    """Each vector with its largest entry positive, so that pictures do not depend on the solver."""
    if not vectors.numel():
        return vectors
    peak = vectors.gather(-1, vectors.abs().argmax(dim=-1, keepdim=True))
    return torch.where(peak < 0, -vectors, vectors)


def kernel_near_one(kernel: Kernel) -> tuple[Kernel, int]:
    """The kernel in float64 over a power of two, each unit's rows and the largest weight between 1 and 2; its exponent.

    Each hidden unit is rescaled by itself, so that a large row beside a small one loses nothing. Units that add nothing
    are left out; a kernel without any other keeps one unit of zeros. Detached.
    """
    checks.in_memory("a kernel", kernel.left)
    left, right, weights = (factor.detach().double() for factor in (kernel.left, kernel.right, kernel.weights))
    used = (weights != 0) & (left != 0).any(dim=1) & (right != 0).any(dim=1)
    if not bool(used.any()):
        left, right, weights = left.new_zeros(1, left.shape[1]), left.new_zeros(1, left.shape[1]), weights.new_zeros(1)
    elif not bool(used.all()):
        left, right, weights = left[used], right[used], weights[used]
    near = units(left, right, weights[None])
    return trusted(Kernel, near.left, near.right, near.down[0], kernel.input, kernel.label), int(near.exponents)


def tensor_near_one(tensor: BilinearTensor) -> tuple[BilinearTensor, int]:
    """The tensor in float64 over a power of two, as `kernel_near_one`; all of its units are kept."""
    checks.in_memory("a tensor", tensor.left)
    near = units(tensor.left.detach(), tensor.right.detach(), tensor.down.detach())
    some = (near.down != 0).any(dim=1)
    top = near.exponents[some].max() if bool(some.any()) else near.exponents.new_zeros(())
    down = times_two_to(near.down, (near.exponents - top)[:, None])
    return trusted(BilinearTensor, near.left, near.right, down, tensor.input, tensor.output), int(top)


def fitting(
    values: Float[Tensor, "*n"], exponent: int, dtype: torch.dtype, what: str = "eigenvalues", noise: float = 0.0
) -> Float[Tensor, "*n"]:
    """values · 2^exponent in a type that holds them.

    Args:
        values: in float64; what: they are, for the message.
        noise: the size up to which they may all be rounding of 0, and may become 0.

    Raises:
        BilensError: the largest leaves the type's range, at either end.
    """
    fitted = times_two_to(values, exponent).to(dtype)
    name, limits = str(dtype).removeprefix("torch."), torch.finfo(dtype)
    hint = "scale the layer" if dtype == torch.float64 else "call .to(torch.float64)"
    if not bool(torch.isfinite(fitted).all()):
        raise BilensError(f"{what} beyond {limits.max:.2g} in {name}", "numbers that fit", hint)
    if values.numel() and bool(values.abs().max() > noise) and bool(fitted.abs().max() < limits.tiny):
        raise BilensError(f"{what} that are not 0 but below {limits.tiny:.2g} in {name}", "numbers that fit", hint)
    return fitted


def gamma(steps: int) -> float:
    """At least γ_n = n u / (1 − n u), the relative error of n operations in float64, with 1 % for its own rounding.

    A sum of n products is off by at most γ_n times the sum of their sizes, in whatever order they are added.

    Source: Higham, "Accuracy and Stability of Numerical Algorithms", section 3.1.
    """
    return 1.01 * steps * UNIT


def at_least_single(dtype: torch.dtype) -> torch.dtype:
    """The type of a result: that of the weights, float32 for bfloat16 and float16."""
    return torch.promote_types(dtype, torch.float32)


def upward(values: Float[Tensor, "*n"], dtype: torch.dtype) -> Float[Tensor, "*n"]:
    """Numbers of at least 0 in another type, never smaller than they were; 0 stays 0."""
    rounded = values.to(dtype)
    above = torch.nextafter(rounded, torch.full_like(rounded, torch.inf))
    return torch.where(values > 0, above, rounded)


def largest_square(x_norm: Tensor | float, dim: int, like: Tensor, name: str = "x_norm") -> Float[Tensor, "*n"]:
    """‖x'‖² in float64 from a norm that was computed in its own type: its largest possible value.

    Args:
        x_norm: the norm; dim: of x', over which it was summed; like: a tensor on the device.
        name: of the argument, for the message.

    Raises:
        BilensError: neither a real number nor a tensor of them, a number below 0, NaN or infinity.
    """
    norm = reals(name, x_norm, torch.empty(0, dtype=torch.float64, device=like.device))
    if not holds(((norm >= 0) & torch.isfinite(norm)).all(), True):
        wrong = float(norm[~((norm >= 0) & torch.isfinite(norm))].flatten()[0])
        raise BilensError(f"{name} = {wrong:.4g}", "a norm: finite numbers of at least 0")
    dtype = x_norm.dtype if isinstance(x_norm, Tensor) and x_norm.is_floating_point() else torch.float64
    slack = torch.finfo(dtype).eps + (dim + 4) * torch.finfo(at_least_single(dtype)).eps
    return (norm * (1 + slack)).square()


def folded(input: Space, x: Float[Tensor, "*n d"], like: Tensor) -> Float[Tensor, "*n i"]:
    """x' in float64, from x of any floating type, exactly.

    Args:
        input: the space; x: vectors, one per row; like: a tensor on the device that x must be on.

    Raises:
        BilensError: x is no tensor of floating-point numbers, or on another device. ShapeError: its last axis is not
            `input.size`.
    """
    lifted = input.fold(x)
    on_device("vectors", lifted, like)
    return lifted.double()


def folded_rows(input: Space, x: Float[Tensor, "n d"], like: Tensor, least: int = 0) -> Float[Tensor, "n i"]:
    """`folded` for vectors in a matrix, one per row.

    Raises:
        As `folded`. ShapeError: another number of axes, or fewer rows than `least`.
    """
    lifted = folded(input, x, like)
    if lifted.ndim != 2 or len(lifted) < least:
        raise ShapeError(
            f"vectors of shape {tuple(x.shape)}", f"(n, {input.size})" + (f" with n ≥ {least}" if least else "")
        )
    return lifted


def misfit(matrix: Tensor, values: Tensor, vectors: Tensor, hidden: int, size: Tensor) -> Tensor:
    """‖Q − Σ_k λ_k v_k v_kᵀ‖, at most, with all pairs of a matrix that was formed from `hidden` units of total size."""
    off = (matrix - (vectors.T * values) @ vectors).norm()
    measured = gamma(len(matrix) + 5) * (matrix.norm() + 1.01 * values.abs().sum())
    total: Tensor = off + measured + (gamma(hidden + 5) * size if hidden else 0)
    return total


def size(kernel: Kernel) -> Tensor:
    """Σ_h |w_h| ‖L_h‖ ‖R_h‖: at least the norm of Q with every term replaced by its absolute value."""
    size: Tensor = (kernel.weights.abs() * kernel.left.norm(dim=1) * kernel.right.norm(dim=1)).sum()
    return size


def fitting_upward(values: Tensor, power: int, dtype: torch.dtype) -> Tensor:
    """values · 2^power, at least 0, in a type, rounded up."""
    return upward(times_two_to(values * (1 + 16 * UNIT), power), dtype)


def some(k: int | None, most: int) -> int | None:
    """How many of the largest are asked for, 1 … most; None for all.

    Raises:
        BilensError: k out of range.
    """
    return None if k is None else whole("k", k, 1, most, hint="choose k in that range, or leave it out for all")


def detach(record: Any) -> None:
    """Replace each tensor of a frozen record that requires a gradient by its values; for `__post_init__`.

    Records of decompositions carry no graph, whatever factors they were computed from: the functions run under
    `torch.no_grad`. What evaluates a record at inputs, such as `Spectrum.terms`, can be differentiated with respect to
    the inputs.
    """
    for field in fields(record):
        value = getattr(record, field.name)
        if isinstance(value, Tensor) and value.requires_grad:
            object.__setattr__(record, field.name, value.detach())
