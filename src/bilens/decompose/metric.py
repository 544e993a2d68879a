"""The metric of data: their second moment as a factor, which orders pairs by what they add on average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bilens._internal import checks
from bilens._internal.checks import instance
from bilens._internal.factors import checksum
from bilens._internal.scale import near_one, times_two_to
from bilens._internal.shown import line
from bilens.decompose import linalg
from bilens.decompose.linalg import detach, folded, symmetric
from bilens.errors import BilensError, ShapeError
from bilens.space import Space


@dataclass(frozen=True, eq=False, repr=False)
class Metric:
    """The second moment of data as a factor, Σ = E[x' x'ᵀ] = A Aᵀ, so that x' = A z with E[z zᵀ] = 1.

    Examples:
        >>> x = torch.tensor([[2.0, 0.0], [-2.0, 0.0]])
        >>> metric = Metric.from_factor(x / 2**0.5, Space("x", 2))
        >>> metric.rank, metric.norm(torch.tensor([2.0, 5.0])), metric.outside(torch.tensor([2.0, 5.0]))
        (1, tensor(1.), tensor(5.))

    Where Σ is singular, z has as many coordinates as Σ has rank. All of the data lies in the range of Σ, and what is
    said in this metric holds there: the part of an input outside of it is ignored, and `outside` measures it.

    Args:
        root: A, (i, r), with orthogonal columns; inverse: A⁺, (r, i). Both in float64.
        checksum: of the numbers that it was made of.
        input: the space of x.

    Raises:
        ShapeError: the factors do not fit the space or one another.
    """

    root: Float[Tensor, "i r"]
    inverse: Float[Tensor, "r i"]
    checksum: str
    input: Space

    __repr__ = line

    def __post_init__(self) -> None:
        checks.fields(self)
        detach(self)
        checks.shapes(self, i=self.input.dim)

    @property
    def rank(self) -> int:
        """Of Σ: how many coordinates z has."""
        return self.root.shape[1]

    @classmethod
    @torch.no_grad()
    def from_moment(cls, second_moment: Float[Tensor, "i i"], input: Space) -> Metric:
        """The metric of a second moment Σ over the folded input, from `decompose.second_moment`.

        Variances below i · 2⁻⁵² of the largest count as 0, and so do coordinates that are 0 in all of Σ.

        Raises:
            BilensError: Σ has a clearly negative eigenvalue, NaN or infinity. ShapeError: it is of another size.
        """
        instance("input", input, Space)
        found = roots(second_moment, input.dim)
        columns = found.axes[:, found.held]
        sizes = found.variances[found.held].sqrt()
        root = columns.new_zeros(input.dim, len(sizes))
        inverse = columns.new_zeros(len(sizes), input.dim)
        root[found.alive] = times_two_to(columns * sizes, found.half)
        inverse[:, found.alive] = times_two_to((columns / sizes).T, -found.half)
        return cls(root, inverse, f"moment {checksum(second_moment)}", input)

    @classmethod
    @torch.no_grad()
    def from_factor(cls, factor: Float[Tensor, "m i"], input: Space) -> Metric:
        """The metric of Σ = FᵀF, for example of samples over √n, one per row of the folded input.

        Singular values of F are not squared, so that the range of Σ is known to 2⁻⁵² instead of its root: those below
        that times max(m, i) of the largest count as 0.

        Raises:
            BilensError: NaN, infinity or no tensor of floating-point numbers. ShapeError: rows of another size.
        """
        instance("input", input, Space)
        checks.weights("a factor of a second moment", factor)
        if factor.ndim != 2 or factor.shape[1] != input.dim or not len(factor):
            raise ShapeError(f"a factor of shape {tuple(factor.shape)}", f"(m, {input.dim}), folded inputs as rows")
        scaled, size = near_one(factor.detach().double())
        _, sizes, axes = torch.linalg.svd(scaled, full_matrices=False)
        held = sizes > max(factor.shape) * torch.finfo(torch.float64).eps * sizes[0]
        sizes, axes = sizes[held], axes[held]
        root, inverse = (axes.T * sizes) * size, axes / sizes[:, None] / size
        return cls(root, inverse, f"factor {checksum(factor)}", input)

    def norm(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n"]:
        """‖z‖ = √(x'ᵀ Σ⁺ x') of inputs, one per row, in their type; the mean of its square over the data is the rank.

        Raises:
            BilensError: as `Space.fold`.
        """
        found = folded(self.input, x, x) @ self.inverse.T.to(x.device)
        norms: Tensor = torch.linalg.vector_norm(found, dim=-1)
        return norms.to(x.dtype)

    def outside(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n"]:
        """‖x' − A A⁺ x'‖: the part of inputs that lies outside the range of Σ, which the metric does not see."""
        lifted = folded(self.input, x, x)
        inside = lifted @ self.inverse.T.to(x.device) @ self.root.T.to(x.device)
        norms: Tensor = torch.linalg.vector_norm(lifted - inside, dim=-1)
        return norms.to(x.dtype)


class Roots(NamedTuple):
    """The eigenpairs of a second moment over 2^(2 half), of the coordinates that are not 0 in all of it.

    moment: what was solved, (c, c); variances: (c,); axes: (c, c), one eigenvector per column; held: (c,), which
    variances count as more than rounding; alive: (i,), the coordinates; half: the exponent.
    """

    moment: Float[Tensor, "c c"]
    variances: Float[Tensor, " c"]
    axes: Float[Tensor, "c c"]
    held: Bool[Tensor, " c"]
    alive: Bool[Tensor, " i"]
    half: int


def roots(second_moment: Tensor, dim: int) -> Roots:
    """Check a second moment over `dim` coordinates and take it apart.

    Raises:
        BilensError: a clearly negative eigenvalue, NaN, infinity, or no tensor. ShapeError: another size.
    """
    instance("second moment", second_moment, Tensor, hint="compute it with decompose.second_moment")
    checks.floating("a second moment", second_moment)
    checks.in_memory("a second moment", second_moment)
    if tuple(second_moment.shape) != (dim, dim):
        raise ShapeError(
            f"a second moment of shape {tuple(second_moment.shape)}", f"({dim}, {dim})", "compute it on folded inputs"
        )
    if not bool(torch.isfinite(second_moment).all()):
        raise BilensError("a second moment with NaN or infinity", "finite numbers")
    moment = symmetric(second_moment.detach().double())
    # An even power of two out of the way, whose root is one too; and coordinates that are 0 on all of the data.
    half = int(torch.frexp(moment.abs().max()).exponent) // 2
    alive = (moment != 0).any(dim=1)
    moment = times_two_to(moment, -2 * half)[alive][:, alive]
    variances, axes = linalg.eigh(moment) if len(moment) else (moment.new_zeros(0), moment)
    top = variances.abs().amax() if len(variances) else variances.new_zeros(())
    if len(variances) and bool(variances.min() < -1e-9 * top):
        least = float(times_two_to(variances.min(), 2 * half))
        raise BilensError(f"a second moment with eigenvalue {least:.3g}", "none below 0", "pass E[x x']")
    held = variances > dim * torch.finfo(torch.float64).eps * top
    return Roots(moment, variances, axes, held, alive, half)
