"""Eigenvectors of a kernel: the linear kernels that a feature's quadratic kernel is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens._internal import checks, shown
from bilens._internal.checks import instance, whole
from bilens._internal.scale import times_two_to
from bilens._internal.shown import line
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
from bilens.errors import BilensError
from bilens.kernel import Kernel
from bilens.space import Space

NEGLIGIBLE = 1e-6
"""Share of Σ|λ| that pairs left out may have for the effective rank to be that of all pairs."""


@dataclass(frozen=True, eq=False, repr=False)
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

    __repr__ = line

    def __post_init__(self) -> None:
        checks.fields(self)
        detach(self)
        checks.shapes(self, i=self.input.dim)

    def __len__(self) -> int:
        return len(self.values)

    def _repr_html_(self) -> str:
        """The eigenvalues as bars, for a notebook."""
        named = f"{self.label!r} over" if self.label else "a kernel over"
        values, energy = self.values.tolist(), float(self.energy)
        held = float(self.values.double().square().sum()) / energy if energy > 0 else 0.0
        return shown.bars(
            f"Eigenvalues of {named} {self.input.title}",
            [(str(n), value, "") for n, value in enumerate(values[: shown.ROWS])],
            len(self),
            f"these {len(self)} hold {held:.1%} of ‖Q‖²" if energy > 0 else "",
        )

    @torch.no_grad()
    def keep(self, k: int) -> Spectrum:
        """The first k pairs; `discarded` accounts for the ones left out.

        Examples:
            >>> whole = eigh(Kernel.from_matrix(torch.diag(torch.tensor([3.0, -5.0])), Space("x", 2)))
            >>> whole.keep(1).reconstruct(torch.tensor([1.0, 1.0]))  # of 3 − 5
            tensor(-5.)

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
        given = checks.integers("places", places).tolist() if isinstance(places, Tensor) else places
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

        Examples:
            >>> found = eigh(Kernel.from_matrix(torch.diag(torch.tensor([3.0, -5.0])), Space("x", 2)))
            >>> found.terms(torch.tensor([2.0, 1.0]))
            tensor([-5., 12.])

        Computed in float64, whatever floating type x has, and returned in the type of the values. Differentiable in x.

        Raises:
            BilensError: x is no tensor of floating-point numbers. ShapeError: its last axis is not `input.size`.
        """
        return self._terms(x).to(self.values.dtype)

    def reconstruct(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n"]:
        """Σ_k λ_k (v_k·x')² over the kept pairs, summed in float64. Types and errors: as `terms`.

        Examples:
            >>> found = eigh(Kernel.from_matrix(torch.diag(torch.tensor([3.0, -5.0])), Space("x", 2)))
            >>> found.reconstruct(torch.tensor([[2.0, 1.0], [0.0, 1.0]]))  # 3 · 4 − 5 and −5
            tensor([ 7., -5.])
        """
        return self._terms(x).sum(dim=-1).to(self.values.dtype)

    @torch.no_grad()
    def bound(self, x_norm: Float[Tensor, "*n"] | float) -> Float[Tensor, "*n"]:
        """The truncation certificate: |u·y − reconstruct(x)| ≤ (max |λ discarded| + rounding) · ‖x'‖².

        Examples:
            >>> whole = eigh(Kernel.from_matrix(torch.diag(torch.tensor([3.0, -5.0])), Space("x", 2)))
            >>> x, part = torch.tensor([2.0, 1.0]), whole.keep(1)
            >>> part.bound(x.norm()).round(decimals=3)  # 3 · 5, beside an error of 3 · 4
            tensor(15.)

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
        return (folded(self.input, x, self.vectors) @ self.vectors.double().T).square() * self.values.double()

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

    Examples:
        >>> eigh(Kernel.from_matrix(torch.diag(torch.tensor([3.0, -5.0])), Space("x", 2))).values
        tensor([-5.,  3.])

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
    instance("kernel", kernel, Kernel)
    k = linalg.some(k, kernel.input.dim)
    dim = kernel.input.dim
    double, power = kernel_near_one(kernel)
    hidden, size = len(double.left), linalg.size(double)
    reduced = 2 * hidden < dim and k is not None and k <= 2 * hidden
    if reduced:
        # Q = ½ Σ w (l rᵀ + r lᵀ) maps everything into the span of the rows l and r, and the complement to 0: its pairs
        # other than 0 are those of Q on an orthonormal basis of the span, of 2h directions at most.
        basis = torch.linalg.qr(torch.cat([double.left, double.right]).T)[0].T
        values, coefficients = linalg.eigh(symmetric(double.matvec(basis) @ basis.T))
        vectors = coefficients.T @ basis
    else:
        matrix = double.dense()
        values, columns = linalg.eigh(matrix)
        vectors = columns.T
    # Largest |λ| first. A stable sort keeps LAPACK's ascending order among equals, so that of λ and −λ the negative one
    # comes first whatever the machine.
    order = values.abs().argsort(descending=True, stable=True)
    values, vectors = values[order], signed(vectors[order])
    kept = len(order[:k])
    dtype, noise = at_least_single(kernel.left.dtype), gamma(hidden + dim) * float(size)
    rounded = fitting(values[:kept], power, dtype, noise=noise), vectors[:kept].to(dtype)
    energy = fitting(values.square().sum(), 2 * power, torch.float64, "squares of eigenvalues", noise**2)
    discarded = values.new_zeros(())
    if kept < dim:
        misfit = (
            _misfit_of_factors(double, values, vectors)
            if reduced
            else linalg.misfit(matrix, values, vectors, hidden, size)
        )
        discarded = _complement(values, vectors, rounded[1].double(), misfit)
    # Residuals are those of the numbers returned, which rounding to the kernel's type has moved: measured in float64 on
    # the kernel near 1, with γ for what that measurement itself may hide.
    found, v = times_two_to(rounded[0].double(), -power), rounded[1].double()
    residuals = (double.matvec(v) - found[:, None] * v).norm(dim=1) + gamma(hidden + dim + 6) * size * v.norm(dim=1)
    return Spectrum(
        *rounded,
        linalg.fitting_upward(residuals, power, dtype),
        linalg.fitting_upward(discarded, power, dtype),
        energy,
        kernel.input,
        kernel.label,
    )


def _misfit_of_factors(kernel: Kernel, values: Tensor, vectors: Tensor) -> Tensor:
    """The same from the factors, with all pairs in their span: (Q Vᵀ − VᵀΛ) V + Q (I − VᵀV), i × i never made."""
    left, right, sizes = kernel.left, kernel.right, kernel.weights.abs()
    count, (hidden, dim), size = len(values), left.shape, linalg.size(kernel)
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


def _norm(values: Tensor) -> Tensor:
    """The norm in float64, also of numbers whose squares leave its range."""
    double = values.detach().double()
    top = double.abs().amax() if len(double) else double.new_zeros(())
    return (double / top).norm() * top if bool(top > 0) else top
