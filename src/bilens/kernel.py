"""Kernels, also called interaction matrices: the quadratic forms that a bilinear tensor is made of, as factors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bilens._internal import checks, factors, shown
from bilens._internal.checks import instance, number, trusted
from bilens._internal.scale import Units, tracked, units
from bilens.space import Space


class KernelParts(NamedTuple):
    """A folded kernel taken apart: u·y = xᵀ quadratic x + linear·x + constant."""

    quadratic: Float[Tensor, "d d"]
    linear: Float[Tensor, " d"]
    constant: Float[Tensor, ""]


@dataclass(frozen=True, eq=False, repr=False)
class Kernel(factors.Factored):
    """Q = ½ Σ_h w_h (L_h R_hᵀ + R_h L_hᵀ), the symmetric matrix with u·y = x'ᵀ Q x', held as factors.

    Its rank is at most twice the number of weights that are not zero. The factors are copied and detached, and those of
    half precision become float32. Kernels of a tensor that keeps its graph have one too, as does
    `from_matrix(…, detach=False)`; gradients then flow through every method that returns numbers.

    Args:
        left: L, (h, i), with i = `input.dim`; right: R, (h, i).
        weights: w = Dᵀu, (h,).
        input: space of x.
        label: what the direction u stands for, for titles; may be empty.

    Raises:
        ShapeError: the factors do not fit together. BilensError: NaN or infinity, types or devices that differ, or
            factors that are not dense floating-point tensors in memory.

    Source: founding draft, "quadratic kernel"; later papers call it the interaction matrix.
    """

    left: Float[Tensor, "h i"]
    right: Float[Tensor, "h i"]
    weights: Float[Tensor, " h"]
    input: Space
    label: str = ""

    def __post_init__(self) -> None:
        factors.check_factors(self.left, self.right, self.input)
        factors.check_factor("weights", self.weights, (len(self.left),), "hidden")
        factors.check_alike(left=self.left, right=self.right, weights=self.weights)
        instance("label", self.label, str, "a string", "write it as one, str(label)")
        factors.own(self, "left", "right", "weights")

    @classmethod
    def from_matrix(cls, matrix: Float[Tensor, "i i"], input: Space, label: str = "", *, detach: bool = True) -> Kernel:
        """The kernel of the form x'ᵀ M x': M's symmetric part, ½(M + Mᵀ).

        Examples:
            >>> Kernel.from_matrix(torch.tensor([[0.0, 2.0], [0.0, 0.0]]), Space("x", 2)).dense()
            tensor([[0., 1.],
                    [1., 0.]])

        Held as L = I, R = M, which symmetrises M, so that a matrix that is not symmetric cannot slip through.

        Args:
            matrix: M; input: space of x; label: as the class; detach: False keeps the graph of M.
        """
        instance("input", input, Space)
        instance("label", label, str, "a string", "write it as one, str(label)")
        detach = checks.flag("detach", detach)
        factors.check_factor("matrix", matrix, (input.dim, input.dim), f"{input.title} twice")
        matrix = checks.owned(matrix, detach=detach)
        eye = torch.eye(input.dim, dtype=matrix.dtype, device=matrix.device)
        return trusted(cls, eye, matrix, matrix.new_ones(input.dim), input, label)

    def __repr__(self) -> str:
        """For example "Kernel('3' over 'pixels' (784+1), 300 hidden units, float32)"."""
        label = f"{self.label!r} over " if self.label else "over "
        return f"Kernel({label}{self.input.title}, {factors.counted(len(self.left))}, {shown.numbers(self.left)})"

    def __call__(self, x: Float[Tensor, "*n d"], y: Float[Tensor, "*n d"] | None = None) -> Float[Tensor, "*n"]:
        """x'ᵀ Q x', or x'ᵀ Q y'; the constant coordinate is added here.

        Args:
            x: vectors of the input space without the constant coordinate, one per row, of any floating-point type;
                they are converted to the kernel's. y: the same.
        """
        x = self.input.fold(x, self.left)
        if y is None:
            return (self.matvec(x) * x).sum(dim=-1)
        y = self.input.fold(y, self.left)
        factors.check_together(x, y)
        return (self.matvec(x) * y).sum(dim=-1)

    def matvec(self, v: Float[Tensor, "*n i"]) -> Float[Tensor, "*n i"]:
        """Q v for each row v of the folded space, from the factors: O(h i) per row.

        Examples:
            >>> Kernel.from_matrix(torch.diag(torch.tensor([3.0, -5.0])), Space("x", 2)).matvec(torch.ones(2))
            tensor([ 3., -5.])
        """
        v = checks.vectors("vectors", v, self.left, self.input.dim, hint="fold them first, space.fold(x)")
        one = ((v @ self.right.T) * self.weights) @ self.left
        two = ((v @ self.left.T) * self.weights) @ self.right
        return (one + two) / 2

    def dense(self) -> Float[Tensor, "i i"]:
        """Q as a symmetric matrix; one product of (i, h) and (h, i), h the units whose weight is not 0.

        Examples:
            >>> Kernel(torch.ones(1, 2), torch.eye(2)[:1], torch.ones(1), Space("x", 2)).dense()  # (x₀ + x₁) x₀
            tensor([[1.0000, 0.5000],
                    [0.5000, 0.0000]])

        Raises:
            BilensError: entries beyond the range of the type.
        """
        left, right, weights = self.left, self.right, self.weights
        if not tracked(weights) and checks.holds((weights == 0).any(), False):  # the gradient in a weight of 0 is not 0
            used = (weights != 0).nonzero()[:, 0]
            left, right, weights = left[used], right[used], weights[used]
        half = (left * weights[:, None]).T @ right
        dense = (half + half.T) / 2
        factors.check_range("a dense kernel", dense)
        return dense

    def parts(self) -> KernelParts:
        """The quadratic, linear and constant part: Q[:d,:d], 2·Q[:d,d] and Q[d,d] of the folded kernel.

        Examples:
            >>> Q = torch.tensor([[2.0, 0.5], [0.5, -1.0]])  # 2x² + x − 1
            >>> [float(part) for part in Kernel.from_matrix(Q, Space("x", 1, constant=True)).parts()]
            [2.0, 1.0, -1.0]
        """
        q = self.dense()
        if not self.input.constant:
            return KernelParts(q, q.new_zeros(len(q)), q.new_zeros(()))
        return KernelParts(q[:-1, :-1], 2 * q[:-1, -1], q[-1, -1])

    @property
    def rank_bound(self) -> int:
        """min(i, 2 · number of weights that are not zero), an upper bound on the rank of Q."""
        if self.weights.is_meta:
            return min(self.input.dim, 2 * len(self.weights))
        return min(self.input.dim, 2 * int((self.weights != 0).sum()))

    def __add__(self, other: Kernel) -> Kernel:
        """The sum of two kernels, (Q + P)(x) = Q(x) + P(x), with the factors of both, in the wider of the two types.

        Raises:
            SpaceError: kernels over other spaces. BilensError: another type of thing.
        """
        return self._beside(other, "+")

    def __neg__(self) -> Kernel:
        """−Q."""
        label = f"−{self.label}" if self.label else ""
        return trusted(Kernel, self.left, self.right, -self.weights, self.input, label)

    def __sub__(self, other: Kernel) -> Kernel:
        """Q − P, for example what speaks for one class and not for another. Raises as the sum."""
        return self._beside(other, "−")

    def __mul__(self, factor: float) -> Kernel:
        """s·Q for a number s.

        Raises:
            BilensError: no number, NaN or infinity, or a product beyond the range of the type.
        """
        weights = self.weights * number("a factor", factor)
        factors.check_range("a kernel times a number", weights)
        return trusted(Kernel, self.left, self.right, weights, self.input, self.label)

    __rmul__ = __mul__

    def _beside(self, other: Kernel, sign: str) -> Kernel:
        self._require(other)
        work = torch.promote_types(self.left.dtype, other.left.dtype)
        a, b = self.to(work), other.to(self.left.device).to(work)
        weights = torch.cat([a.weights, b.weights if sign == "+" else -b.weights])
        label = f"{a.label} {sign} {b.label}" if a.label and b.label else ""
        return trusted(Kernel, torch.cat([a.left, b.left]), torch.cat([a.right, b.right]), weights, self.input, label)

    @property
    def _units(self) -> Units:
        return units(self.left, self.right, self.weights[None])

    def _require(self, other: Kernel) -> None:
        instance("the other one", other, Kernel)
        self.input.require(other.input, "a kernel")

    def to(self, target: torch.dtype | torch.device | str) -> Kernel:
        """The same kernel in float32 or float64, or on another device.

        Raises:
            BilensError: another target, or numbers beyond the range of the type.
        """
        left, right, weights = factors.moved("a kernel", target, self.left, self.right, self.weights)
        return trusted(Kernel, left, right, weights, self.input, self.label)
