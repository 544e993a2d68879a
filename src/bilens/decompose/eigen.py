"""Eigenvectors of a kernel: the linear kernels that a feature's quadratic kernel is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens._internal import checks
from bilens._internal.checks import instance, whole
from bilens._internal.scale import times_two_to
from bilens.decompose import linalg
from bilens.decompose.linalg import (
    UNIT,
    at_least_single,
    detach,
    fitting,
    folded,
    gamma,
    kernel_near_one,
    largest_square,
    signed,
    symmetric,
    upward,
)
from bilens.errors import BilensError, ShapeError
from bilens.kernel import Kernel
from bilens.space import Space

NEGLIGIBLE = 1e-6
"""Share of Σ|λ| that pairs left out may have for the effective rank to be that of all pairs."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenpairs of a kernel, largest |λ| first: u·y = Σ_k λ_k (v_k·x')² when all are kept, up to rounding (`bound`).

    Args:
        values: λ, (k,); vectors: v, (k, i), orthonormal rows over the folded input.
        residuals: at least ‖Q v_k − λ_k v_k‖ of the values and vectors as they stand here, rounded, (k,).
        discarded: at least max |λ| of the pairs that were not kept, more precisely the norm of Q on the complement of
            the vectors, a number; 0 when all are kept.
        energy: ‖Q‖² = Σ λ² over all pairs, a number, in float64 (a square may leave the range of float32).
        input: the space of x; label: what the kernel's direction stands for.

    Raises:
        ShapeError: the shapes do not fit together.

    Source: founding draft, "Eigenvectors of the quadratic kernel"; arXiv 2410.08417, section 3.2.
    """

    values: Float[Tensor, " k"]
    vectors: Float[Tensor, "k i"]
    residuals: Float[Tensor, " k"]
    discarded: Float[Tensor, ""]
    energy: Float[Tensor, ""]
    input: Space
    label: str = ""

    def __post_init__(self) -> None:
        detach(self)
        checks.shapes(self, i=self.input.dim)

    def __len__(self) -> int:
        return len(self.values)

    @torch.no_grad()
    def keep(self, k: int) -> Spectrum:
        """The first k pairs; `discarded` accounts for the ones left out.

        Raises:
            BilensError: k outside 0 … the number of pairs.
        """
        return self._selected(list(range(whole("k", k, 0, len(self), hint="choose fewer pairs, or compute more"))))

    @torch.no_grad()
    def select(self, places: Sequence[int] | Int[Tensor, " n"]) -> Spectrum:
        """The pairs at these places, in this order, for example those of the largest terms of a sample.

        `discarded` accounts for the ones left out, so that `bound` holds.

        Raises:
            BilensError: a place outside 0 … the number of pairs less one, or named twice.
        """
        given = places.tolist() if isinstance(places, Tensor) else places
        listed = checks.several("places", given, "a list of places", "pass [place]")
        chosen = [whole("a place", place, 0, len(self) - 1) for place in listed]
        if len(set(chosen)) < len(chosen):
            raise BilensError(f"places {chosen}", "each once")
        return self._selected(chosen)

    def _selected(self, places: list[int]) -> Spectrum:
        others = torch.ones(len(self), dtype=torch.bool, device=self.values.device)
        others[places] = False
        discarded = self.discarded
        if bool(others.any()):
            # On the complement of the vectors kept, Q has a block over those dropped, one over those never there, and a
            # block between the two of at most the residuals' norm.
            coupling, skew = self._coupling, self._skew
            dropped = (self.values[others].abs().amax().double() * (1 + skew) + coupling * (1 + skew)) / (1 - skew)
            discarded = upward(dropped.maximum(self.discarded.double()) + coupling, self.discarded.dtype)
        return replace(
            self,
            values=self.values[places],
            vectors=self.vectors[places],
            residuals=self.residuals[places],
            discarded=discarded,
        )

    def terms(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n k"]:
        """λ_k (v_k·x')² for each sample and pair: an output taken apart; the constant coordinate is added here.

        Computed in float64, whatever floating type x has, and returned in the type of the values. Differentiable in x.

        Raises:
            BilensError: x is no tensor of floating-point numbers. ShapeError: its last axis is not `input.size`.
        """
        return self._terms(x).to(self.values.dtype)

    def reconstruct(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n"]:
        """Σ_k λ_k (v_k·x')² over the kept pairs, summed in float64. Types and errors: as `terms`."""
        return self._terms(x).sum(dim=-1).to(self.values.dtype)

    @torch.no_grad()
    def bound(self, x_norm: Float[Tensor, "*n"] | float) -> Float[Tensor, "*n"]:
        """The truncation certificate: |u·y − reconstruct(x)| ≤ (max |λ discarded| + rounding) · ‖x'‖².

        u·y is x'ᵀQx' evaluated exactly on the weights as stored, `reconstruct(x)` is what that returns, for every x;
        the bound is rounded up. Rounding counts the residuals and the lack of orthogonality of the vectors as they
        stand, and the arithmetic of `reconstruct`: about 1e-7 · ‖Q‖ in float32 and, being a worst case,
        up to 1e-10 · ‖Q‖ in float64 for a thousand inputs. What a norm loses in its own type is allowed for, too.

        Args:
            x_norm: ‖x'‖, the norm of the folded input, `input.fold(x).norm(dim=-1)`.

        Raises:
            BilensError: a norm that is no number, or vectors that are not orthonormal.

        Source: `docs/theory.md`, "The truncation certificate".
        """
        square = largest_square(x_norm, self.input.dim, self.values)
        return upward(self._off * square * (1 + 8 * UNIT), self.values.dtype)

    @torch.no_grad()
    def participation_ratio(self) -> float:
        """(Σ|λ| / ‖λ‖₂)²: how many eigenvalues of equal size would spread as widely; 0 for a kernel that is 0.

        Raises:
            BilensError: pairs were left out that could hold more than a millionth of Σ|λ|.
        """
        sizes = self.values.abs().double()
        left_out = (self.input.dim - len(self)) * self.discarded.double()
        if bool(left_out > NEGLIGIBLE * sizes.sum()):
            raise BilensError(f"{len(self)} pairs, not all", "every eigenpair", "call eigh without k")
        top = sizes.max() if len(self) else left_out
        if not bool(top > 0):
            return 0.0
        sizes = sizes / top
        return float(sizes.sum() ** 2 / sizes.square().sum())

    def _terms(self, x: Tensor) -> Tensor:
        return (folded(self.input, x) @ self.vectors.double().T).square() * self.values.double()

    @cached_property
    def _grams(self) -> tuple[Tensor, Tensor]:
        """‖V Vᵀ − I‖ and ‖(V Vᵀ − I) Λ‖, at most, of the vectors as they stand."""
        vectors, values = self.vectors.detach().double(), self.values.detach().double()
        gram = vectors @ vectors.T
        gram.diagonal().sub_(1)
        lost = gamma(self.input.dim + 3)
        skew = gram.norm() + lost * len(values)
        if not bool(skew < 0.25):
            raise BilensError("vectors that are not orthonormal", "eigenvectors, for a certificate")
        scale = values.abs().amax() if bool((values != 0).any()) else values.new_ones(())
        sizes = values / scale
        return skew, ((gram * sizes).norm() + lost * len(values) ** 0.5 * sizes.norm()) * scale

    @property
    def _skew(self) -> Tensor:
        return self._grams[0]

    @property
    def _coupling(self) -> Tensor:
        """Norm of Q between the span of the vectors and its complement, at most."""
        return _norm(self.residuals) / (1 - self._skew).sqrt()

    @cached_property
    def _off(self) -> Tensor:
        """‖Q − Σ_k λ_k v_k v_kᵀ‖ and the rounding of `reconstruct`, at most, per ‖x'‖²."""
        discarded = self.discarded.detach().double()
        if not len(self):
            return discarded
        skew, tilted = self._grams
        values = self.values.detach().double()
        within = (_norm(self.residuals) * (1 + skew).sqrt() + tilted * (1 + skew)) / (1 - skew)
        off = within if len(self) == self.input.dim else within.maximum(discarded) + self._coupling
        squares = 2 * gamma(self.input.dim + 2) * _norm(values)
        sums = (gamma(len(self) + 3) + torch.finfo(self.values.dtype).eps) * values.abs().max()
        return off + (squares + sums) * (1 + skew)


@torch.no_grad()
def eigh(kernel: Kernel, k: int | None = None) -> Spectrum:
    """The k eigenpairs of Q largest in |λ|, or all of them.

    A kernel of few hidden units is reduced to their span first: with r weights that are not zero, Q lives in the 2r
    dimensions spanned by their rows of L and R.

    Args:
        kernel: Q; k: how many pairs, from 1 to `input.dim`; all when None.

    Returns:
        A `Spectrum` in the kernel's type, in float32 for bfloat16 and float16; float64 inside, at any scale of the
        factors. Each vector's largest entry is positive. No gradients.

    Cost: O(i²·(h + i)) when formed, O(i·r² + r³) when reduced. Floor: |λ| is exact to about 2e-16 · max |λ| · i.

    Raises:
        BilensError: k out of range, or eigenvalues or their squares outside the range of the type.

    Source: founding draft; arXiv 2410.08417, section 3.2.
    """
    k = _check_k(kernel, k)
    dim = kernel.input.dim
    double, power = kernel_near_one(kernel)
    hidden, size = len(double.left), _size(double)
    reduced = 2 * hidden < dim and k is not None and k <= 2 * hidden
    if reduced:
        basis = torch.linalg.qr(torch.cat([double.left, double.right]).T)[0].T
        values, coefficients = linalg.eigh(symmetric(double.matvec(basis) @ basis.T))
        vectors = coefficients.T @ basis
    else:
        matrix = double.dense()
        values, columns = linalg.eigh(matrix)
        vectors = columns.T
    order = values.abs().argsort(descending=True, stable=True)
    values, vectors = values[order], signed(vectors[order])
    kept = len(order[:k])
    dtype, noise = at_least_single(kernel.left.dtype), gamma(hidden + dim) * float(size)
    rounded = fitting(values[:kept], power, dtype, noise=noise), vectors[:kept].to(dtype)
    energy = fitting(values.square().sum(), 2 * power, torch.float64, "squares of eigenvalues", noise**2)
    discarded = values.new_zeros(())
    if kept < dim:
        misfit = (
            _misfit_of_factors(double, values, vectors) if reduced else _misfit(matrix, values, vectors, hidden, size)
        )
        discarded = _complement(values, vectors, rounded[1].double(), misfit)
    found, v = times_two_to(rounded[0].double(), -power), rounded[1].double()
    residuals = (double.matvec(v) - found[:, None] * v).norm(dim=1) + gamma(hidden + dim + 6) * size * v.norm(dim=1)
    return Spectrum(
        *rounded,
        _fitting_upward(residuals, power, dtype),
        _fitting_upward(discarded, power, dtype),
        energy,
        kernel.input,
        kernel.label,
    )


@dataclass(frozen=True, eq=False)
class WeightedSpectrum:
    """Eigenpairs in the metric of the data: u·y = Σ_k μ_k (p_k·x')², each (p_k·x')² of mean 1 over the data.

    The mean error of keeping some pairs is at most the sum of the other |μ|, because E(p_k·x')² = 1.

    Args:
        values: μ, (k,), largest |μ| first; readers: p, (k, i), with P Σ Pᵀ = I.
        discarded: the bound on E|u·y − reconstruct(x)| over data of that Σ, a number: Σ|μ| of the pairs left out, and
            what rounding of the values and readers as they stand, of Σ's roots and of `reconstruct` adds, rounded up.
        input: the space of x; label: what the kernel's direction stands for.

    Raises:
        ShapeError: the shapes do not fit together.
    """

    values: Float[Tensor, " k"]
    readers: Float[Tensor, "k i"]
    discarded: Float[Tensor, ""]
    input: Space
    label: str = ""

    def __post_init__(self) -> None:
        detach(self)
        checks.shapes(self, i=self.input.dim)

    def __len__(self) -> int:
        return len(self.values)

    def terms(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n k"]:
        """μ_k (p_k·x')² for each sample and pair. Types, gradient and errors: as `Spectrum.terms`."""
        return self._terms(x).to(self.values.dtype)

    def reconstruct(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n"]:
        """Σ_k μ_k (p_k·x')² over the kept pairs, summed in float64. Types and errors: as `terms`."""
        return self._terms(x).sum(dim=-1).to(self.values.dtype)

    def _terms(self, x: Tensor) -> Tensor:
        return (folded(self.input, x) @ self.readers.double().T).square() * self.values.double()


@torch.no_grad()
def second_moment(x: Float[Tensor, "n d"], input: Space) -> Float[Tensor, "i i"]:
    """Σ = E[x' x'ᵀ] of samples, one per row, over the folded input, in float64; batch by batch. No gradients.

    Raises:
        BilensError: x is no tensor of floating-point numbers. ShapeError: its last axis is not `input.size`.
    """
    instance("x", x, Tensor)
    instance("input", input, Space)
    total = torch.zeros(input.dim, input.dim, dtype=torch.float64, device=x.device)
    for start in range(0, max(len(x), 1), 8192):
        rows = folded(input, x[start : start + 8192])
        total += rows.T @ rows
    return total / max(len(x), 1)


@torch.no_grad()
def eigh_weighted(kernel: Kernel, second_moment: Float[Tensor, "i i"], k: int | None = None) -> WeightedSpectrum:
    """The k pairs that matter most on average: eigenpairs of Σ^½ Q Σ^½, read back into the input space.

    With x' = Σ^½ z and E[z zᵀ] = I, u·y = zᵀ(Σ^½ Q Σ^½)z = Σ μ_k (w_k·z)²; the readers are p_k = (Σ^½)⁺ w_k, exact for
    every x' in the range of Σ, where all of the data lies.

    The bound on the mean error, `discarded`, is measured on what is returned: E|x'ᵀΔx'| is at most the sum of
    |eigenvalues| of Σ^½ Δ Σ^½ with Δ = Q − Σ_k μ_k p_k p_kᵀ. What rounding adds is about 1e-7 of ‖Q‖ tr Σ in float32,
    1e-11 in float64, and 1e-7 where Σ is singular: from Σ in float64, whether data lie in its range
    is known to √1e-16 only. Coordinates that are 0 in all of Σ are exempt.

    Args:
        kernel: Q; second_moment: Σ = E[x' x'ᵀ] over the folded input, (i, i); k: how many pairs, all when None.

    Returns:
        A `WeightedSpectrum` in the kernel's type, in float32 for bfloat16 and float16; float64 inside. No gradients.

    Raises:
        BilensError: k out of range, Σ has a clearly negative eigenvalue, or numbers outside the range of the type.
        ShapeError: Σ of another size.

    Source: `docs/theory.md`, "The truncation certificate".
    """
    k = _check_k(kernel, k)
    dim = kernel.input.dim
    instance("second moment", second_moment, Tensor, hint="compute it with decompose.second_moment")
    if tuple(second_moment.shape) != (dim, dim):
        raise ShapeError(
            f"a second moment of shape {tuple(second_moment.shape)}", f"({dim}, {dim})", "compute it on folded inputs"
        )
    if not bool(torch.isfinite(second_moment).all()):
        raise BilensError("a second moment with NaN or infinity", "finite numbers")
    moment = symmetric(second_moment.double())
    # An even power of two out of the way, whose root is one too; and coordinates that are 0 on all of the data.
    half = int(torch.frexp(moment.abs().max()).exponent) // 2
    alive = (moment != 0).any(dim=1)
    moment = times_two_to(moment, -2 * half)[alive][:, alive]
    variances, axes = linalg.eigh(moment) if len(moment) else (moment.new_zeros(0), moment)
    top = variances.abs().amax() if len(variances) else variances.new_zeros(())
    if len(variances) and bool(variances.min() < -1e-9 * top):
        least = float(times_two_to(variances.min(), 2 * half))
        raise BilensError(f"a second moment with eigenvalue {least:.3g}", "none below 0", "pass E[x x']")
    double, power = kernel_near_one(kernel)
    held = variances > dim * torch.finfo(torch.float64).eps * top
    roots, columns = variances[held].sqrt(), axes[:, held]
    scaled = columns * roots  # Σ^½ up to a rotation, which the eigenvectors of the product absorb
    matrix = double.dense()[alive][:, alive]
    values, turn = linalg.eigh(symmetric(scaled.T @ (matrix @ scaled))) if len(roots) else (roots, scaled[:0])
    order = values.abs().argsort(descending=True, stable=True)[:k]
    count = dim if k is None else k
    mu, readers = values.new_zeros(count), values.new_zeros(count, dim)
    mu[: len(order)] = values[order]
    readers[: len(order), alive] = signed(((columns / roots) @ turn[:, order]).T)
    dtype, noise = at_least_single(kernel.left.dtype), 1e-12 * float(_size(double))
    mu = fitting(mu, power + 2 * half, dtype, noise=noise)
    readers = fitting(readers, -half, dtype, "readers")
    mean = _mean_error(
        double,
        matrix,
        (times_two_to(mu.double(), -power - 2 * half), times_two_to(readers.double(), half)[:, alive]),
        torch.finfo(dtype).eps,
        (moment, variances, axes),
    )
    discarded = _fitting_upward(mean, power + 2 * half, dtype)
    return WeightedSpectrum(mu, readers, discarded, kernel.input, kernel.label)


def _mean_error(
    kernel: Kernel, matrix: Tensor, returned: tuple[Tensor, Tensor], unit: float, data: tuple[Tensor, Tensor, Tensor]
) -> Tensor:
    """E|x'ᵀQx' − Σ_k μ_k (p_k·x')²|, at most, over data of a second moment Σ, with all rounding.

    −Σ ≤ E[s x'x'ᵀ] ≤ Σ for the sign s of the error, so that it is at most Σ|eigenvalues of Aᵀ Δ A| for any A with
    A Aᵀ ≥ Σ.

    Args:
        kernel: near 1; matrix: Q as formed from it, over the coordinates that count.
        returned: μ and the readers as they are returned; unit: the rounding of their type.
        data: Σ, its eigenvalues and its eigenvectors, one per column.
    """
    (mu, readers), (moment, variances, axes) = returned, data
    n, size = len(matrix), _size(kernel)
    if not n:
        return size.new_zeros(())
    off = _misfit(moment, variances, axes.T, 0, size)  # by which Σ may exceed what its eigenpairs make
    above = axes * (variances.clamp(min=0) + 1.01 * off).sqrt()
    trace = above.square().sum()
    delta = matrix - (readers.T * mu) @ readers
    sizes, lengths = mu.abs(), readers.norm(dim=1)
    formed = gamma(len(kernel.left) + 4) * size + gamma(len(mu) + 4) * (sizes * lengths.square()).sum()
    product = symmetric(above.T @ (delta @ above))
    # The eigenvalues are right to n roundings of the norm, as LAPACK's are.
    wrong = gamma(2 * n + 6) * n**0.5 * trace * delta.norm() + gamma(n) * n * product.norm()
    squares = (readers @ above).norm(dim=1).square().amax() * (1 + gamma(n + 4)) if len(mu) else trace * 0
    evaluated = 2 * gamma(n + 2) * (trace * squares).sqrt() * (sizes * lengths).sum()
    summed = (gamma(len(mu) + 3) + unit) * sizes.sum() * squares
    mean: Tensor = linalg.eigvalsh(product).abs().sum() + formed * trace + wrong + evaluated + summed
    return mean


def _misfit(matrix: Tensor, values: Tensor, vectors: Tensor, hidden: int, size: Tensor) -> Tensor:
    """‖Q − Σ_k λ_k v_k v_kᵀ‖, at most, with all pairs of a matrix that was formed from `hidden` units of total size."""
    off = (matrix - (vectors.T * values) @ vectors).norm()
    measured = gamma(len(matrix) + 5) * (matrix.norm() + 1.01 * values.abs().sum())
    total: Tensor = off + measured + (gamma(hidden + 5) * size if hidden else 0)
    return total


def _misfit_of_factors(kernel: Kernel, values: Tensor, vectors: Tensor) -> Tensor:
    """The same from the factors, with all pairs in their span: (Q Vᵀ − VᵀΛ) V + Q (I − VᵀV), i × i never made."""
    left, right, sizes = kernel.left, kernel.right, kernel.weights.abs()
    count, (hidden, dim), size = len(values), left.shape, _size(kernel)
    along = (kernel.matvec(vectors) - values[:, None] * vectors).norm() + gamma(hidden + dim + 6) * count**0.5 * size
    outside = [(factor - (factor @ vectors.T) @ vectors).norm(dim=1) for factor in (left, right)]
    across = (sizes * (outside[0] * right.norm(dim=1) + outside[1] * left.norm(dim=1))).sum() / 2
    total: Tensor = 1.01 * along + across + gamma(dim + count + 5) * count * size
    return total


def _complement(values: Tensor, vectors: Tensor, kept: Tensor, misfit: Tensor) -> Tensor:
    """The norm of Q on the complement of the vectors kept, at most.

    Args:
        values, vectors: all pairs, largest first; kept: the first vectors as they are returned, rounded.
        misfit: of all pairs to Q.
    """
    k = len(kept)
    gram = vectors @ vectors.T
    gram.diagonal().sub_(1)
    skew = gram.norm() + gamma(vectors.shape[1] + 3) * len(vectors)
    rest = values[k].abs() if k < len(values) else values.new_zeros(())
    moved = (values[:k].abs() * (vectors[:k] - kept).square().sum(dim=1)).sum()
    norm: Tensor = rest * (1 + skew) + 1.01 * moved + misfit
    return norm


def _size(kernel: Kernel) -> Tensor:
    """Σ_h |w_h| ‖L_h‖ ‖R_h‖: at least the norm of Q with every term replaced by its absolute value."""
    size: Tensor = (kernel.weights.abs() * kernel.left.norm(dim=1) * kernel.right.norm(dim=1)).sum()
    return size


def _fitting_upward(values: Tensor, power: int, dtype: torch.dtype) -> Tensor:
    """values · 2^power, at least 0, in a type, rounded up."""
    return upward(times_two_to(values * (1 + 16 * UNIT), power), dtype)


def _norm(values: Tensor) -> Tensor:
    """The norm in float64, also of numbers whose squares leave its range."""
    double = values.detach().double()
    top = double.abs().amax() if len(double) else double.new_zeros(())
    return (double / top).norm() * top if bool(top > 0) else top


def _check_k(kernel: Kernel, k: int | None) -> int | None:
    instance("kernel", kernel, Kernel)
    if k is None:
        return None
    return whole("k", k, 1, kernel.input.dim, hint="choose k in that range, or leave it out for all")
