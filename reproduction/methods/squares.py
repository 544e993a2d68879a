"""Least-squares fit of a kernel by squares of given directions, to compare methods."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bilens import store
from bilens.decompose.linalg import at_least_single, detach, fitting, folded, kernel_near_one
from bilens.errors import BilensError, ShapeError
from bilens.kernel import Kernel
from bilens.space import Space
from reproduction.checking import instance, whole

DEPENDENT = 1e-10
"""A direction is left out when all but this share of the squared norm of v vᵀ lies in the span of those before it."""


@store.register
@dataclass(frozen=True, eq=False)
class Squares:
    """Directions with their least-squares weights: u·y ≈ Σ_k c_k (v_k·x')², exact when the residual is 0.

    Args:
        values: c, (k,); vectors: v, (k, i), rows of norm 1 over the folded input, not orthogonal in general.
        residual: ‖Q − Σ_k c_k v_k v_kᵀ‖ / ‖Q‖, a number; 0 for a kernel that is 0.
        input: the space of x; label: what the kernel's direction stands for.

    Raises:
        ShapeError: the shapes do not fit together.
    """

    values: Float[Tensor, " k"]
    vectors: Float[Tensor, "k i"]
    residual: Float[Tensor, ""]
    input: Space
    label: str = ""

    def __post_init__(self) -> None:
        detach(self)
        k = len(self.values)
        for name, value, shape in (
            ("values", self.values, (k,)),
            ("vectors", self.vectors, (k, self.input.dim)),
            ("residual", self.residual, ()),
        ):
            if tuple(value.shape) != shape:
                raise ShapeError(f"{name} of shape {tuple(value.shape)}", f"{shape}")

    def __len__(self) -> int:
        return len(self.values)

    def terms(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n k"]:
        """c_k (v_k·x')² for each sample and direction; the constant coordinate is added here.

        Computed in float64, whatever floating type x has, and returned in the type of the values. Differentiable in x.

        Raises:
            BilensError: x is no tensor of floating-point numbers. ShapeError: its last axis is not `input.size`.
        """
        return self._terms(x).to(self.values.dtype)

    def reconstruct(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n"]:
        """Σ_k c_k (v_k·x')², summed in float64. Types and errors: as `terms`."""
        return self._terms(x).sum(dim=-1).to(self.values.dtype)

    def _terms(self, x: Tensor) -> Tensor:
        return (folded(self.input, x, self.vectors) @ self.vectors.double().T).square() * self.values.double()


@torch.no_grad()
def squares(kernel: Kernel, vectors: Float[Tensor, "k i"]) -> Squares:
    """The weights that bring Σ_k c_k v_k v_kᵀ nearest to Q in Frobenius norm, for given directions.

    With unit rows v: Γ c = b, Γ_kl = (v_k·v_l)² and b_k = v_kᵀ Q v_k; c of least norm where Γ is singular. Directions
    that are eigenvectors get their eigenvalues.

    Args:
        kernel: Q; vectors: directions, one per row, of any length but 0; none at all leaves the residual at 1.

    Returns:
        `Squares` in the kernel's type, in float32 for bfloat16 and float16. No gradients.

    Floor: residuals below about 1e-8 are rounding, because their square is a difference of squares.

    Raises:
        ShapeError: vectors of another size. BilensError: a vector that is 0, NaN or infinity, or weights outside the
            range of the type.
    """
    rows = _unit(kernel, vectors)
    double, power = kernel_near_one(kernel)
    gram, reached = (rows @ rows.T).square(), _values(double, rows)
    energy = double.inner(double).clamp(min=0)
    weights = torch.linalg.pinv(gram, rtol=DEPENDENT, hermitian=True) @ reached
    left = energy - 2 * weights @ reached + weights @ gram @ weights
    residual = (left.clamp(min=0) / energy).sqrt() if bool(energy > 0) else energy
    dtype = at_least_single(kernel.left.dtype)
    fitted = fitting(weights, power, dtype, "weights", 1e-10 * float(energy.sqrt()))
    return Squares(fitted, rows.to(dtype), residual.to(dtype), kernel.input, kernel.label)


@torch.no_grad()
def pursuit(kernel: Kernel, candidates: Float[Tensor, "n i"], k: int) -> Squares:
    """At most k of the candidates, chosen one by one so that each lowers the residual of `squares` the most.

    Eigenvectors are chosen in the order of |λ|. Fewer than k come back when the others add nothing.

    Args:
        kernel: Q; candidates: directions, one per row; k: how many to choose.

    Raises:
        ShapeError: candidates of another size. BilensError: k below 1, a candidate that is 0, NaN or infinity.

    Source: Chen, Billings and Luo, "Orthogonal least squares methods and their application to non-linear system
    identification" (1989), on the matrices v vᵀ.
    """
    k = whole("k", k, 1)
    rows = _unit(kernel, candidates)
    gram, reached = (rows @ rows.T).square(), _values(kernel_near_one(kernel)[0], rows)
    chosen: list[int] = []
    while len(chosen) < min(k, len(rows)):
        left = gram.diagonal()
        gain = torch.where(left > DEPENDENT, reached.square() / left.clamp(min=DEPENDENT), 0)
        gain[chosen] = 0
        best = int(gain.argmax())
        if not bool(gain[best] > 0):
            break
        chosen.append(best)
        column = gram[:, best] / gram[best, best]  # what the others share with it is taken out of them
        reached = reached - column * reached[best]
        gram = gram - column[:, None] * gram[best]
    return squares(kernel, rows[chosen])


@torch.no_grad()
def span_residual(kernel: Kernel, vectors: Float[Tensor, "k i"]) -> float:
    """‖Q − P Q P‖ / ‖Q‖ with P the projector on the span: what no quadratic form in these directions can hold.

    Never above the residual of `squares`, which is a form in the same span; the difference is what products of two
    directions add.

    Raises:
        ShapeError: vectors of another size. BilensError: a vector that is 0, NaN or infinity.
    """
    rows = _unit(kernel, vectors)
    double, _ = kernel_near_one(kernel)
    _, values, basis = torch.linalg.svd(rows, full_matrices=False)
    basis = basis[values > max(basis.shape) * torch.finfo(torch.float64).eps * values[:1]]
    energy = float(double.inner(double))
    held = float((double.matvec(basis) @ basis.T).square().sum())
    return (max(energy - held, 0.0) / energy) ** 0.5 if energy > 0 else 0.0


def _values(kernel: Kernel, rows: Tensor) -> Tensor:
    return (kernel.matvec(rows) * rows).sum(dim=1)


def _unit(kernel: Kernel, vectors: Tensor) -> Tensor:
    """The rows at norm 1, in float64."""
    instance("kernel", kernel, Kernel)
    instance("directions", vectors, Tensor)
    if vectors.ndim != 2 or vectors.shape[1] != kernel.input.dim:
        raise ShapeError(f"directions of shape {tuple(vectors.shape)}", f"(k, {kernel.input.dim})", "fold them first")
    rows = vectors.detach().double()
    rows = rows / rows.abs().amax(dim=1, keepdim=True)  # so that no square leaves the range
    norms: Tensor = rows.norm(dim=1, keepdim=True)
    if not bool((torch.isfinite(norms) & (norms > 0)).all()):
        raise BilensError("directions that are 0, NaN or infinite", "finite ones with a norm", "leave them out")
    return rows / norms
