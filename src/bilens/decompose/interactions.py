"""A layer as a sum of interactions: one number for two input features and an output feature."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bilens import pairs
from bilens._internal import checks, shown
from bilens._internal.checks import instance, whole
from bilens._internal.scale import times_two_to
from bilens._internal.shown import line
from bilens.decompose.linalg import (
    UNIT,
    at_least_single,
    detach,
    fitting,
    folded_rows,
    gamma,
    largest_square,
    tensor_near_one,
    upward,
)
from bilens.errors import BilensError, ShapeError
from bilens.space import Space
from bilens.tensor import DENSE_LIMIT, BilinearTensor

_PAIRS = 2**15
"""Pairs per batch where a row is computed for each."""


class Interaction(NamedTuple):
    """One interaction: its output gains coefficient · z_first · z_second.

    The constant coordinate, which is always 1, is called "constant": with it an interaction is a linear term.
    `coefficient` is c_abo, twice the entry of the symmetric matrix C_o where first and second differ; `share` is what
    the pair holds of ‖C_o‖², the squared Frobenius norm of its output's matrix.
    """

    first: str
    second: str
    output: str
    coefficient: float
    share: float


class TopInteractions(tuple[Interaction, ...]):
    """Some interactions, most important first; printed, a table."""

    __slots__ = ()

    def __str__(self) -> str:
        head = ("", "first", "second", "output", "coefficient", "share")
        cells = [
            (str(n), each.first, each.second, each.output, f"{each.coefficient:+.4g}", f"{each.share:.2%}")
            for n, each in enumerate(self, 1)
        ]
        widths = [max(len(row[column]) for row in (head, *cells)) for column in range(len(head))]
        return "\n".join(
            "  ".join(
                text.ljust(width) if 0 < column < 4 else text.rjust(width)
                for column, (text, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in (head, *cells)
        )

    __repr__ = __str__


@dataclass(frozen=True, eq=False, repr=False)
class Interactions:
    """y_o = Σ_{a≤b} c_abo z_a z_b over the codes z of the input features: each c is one interaction.

    Unordered pairs stand once, so that off the diagonal c_abo is twice the entry of the symmetric matrix C_o with
    y_o = zᵀ C_o z. Make one with `interactions`.

    Args:
        coefficients: (p, o), one pair per row in the order of `bilens.pairs`; p = m(m+1)/2 with m = `input.dim`.
        input: space of the codes; output: space of y.

    Raises:
        ShapeError: the coefficients do not fit the spaces. BilensError: NaN or infinity.
    """

    coefficients: Float[Tensor, "p o"]
    input: Space
    output: Space

    __repr__ = line

    def __post_init__(self) -> None:
        checks.fields(self)
        detach(self)
        checks.shapes(self, p=pairs.count(self.input.dim), o=self.output.dim)
        checks.finite("coefficients", self.coefficients)

    def __len__(self) -> int:
        """How many interactions are not 0."""
        return int(self.coefficients.count_nonzero())

    def _repr_html_(self) -> str:
        """The largest by `magnitude` as bars, for a notebook."""
        found = [
            (f"{each.first} · {each.second} → {each.output}", each.coefficient, f"{each.coefficient:+.4g}")
            for each in self.top(shown.ROWS)
        ]
        title = f"Interactions of {self.input.title} in {self.output.title}"
        return shown.bars(title, found, len(self), "coefficient × first × second is what the output gains")

    def __call__(self, codes: Float[Tensor, "n size"]) -> Float[Tensor, "n o"]:
        """y for each row of codes; the constant coordinate is added here.

        In the type of the coefficients, to which codes of another floating type are converted. Differentiable in them.

        Cost: one product of (n, m) and (m, m) for each output, m the features that occur; apply `then` first where
        that leaves fewer outputs.

        Raises:
            ShapeError: the last axis is not `input.size`. BilensError: codes that are not floating-point numbers.
        """
        instance("codes", codes, Tensor)
        z = folded_rows(self.input, codes, self.coefficients).to(self.coefficients.dtype)
        i, j = self._pairs()
        live, _ = self.used()
        y, upper = z.new_empty(len(z), self.output.dim), z.new_zeros(self.input.dim, self.input.dim)
        z = z[:, live]
        for o in range(self.output.dim):
            upper[i, j] = self.coefficients[:, o]
            y[:, o] = torch.linalg.vecdot(z @ upper[live][:, live], z)
        return y

    @torch.no_grad()
    def dense(self) -> Float[Tensor, "o m m"]:
        """The symmetric matrices C_o, for small ones and for tests."""
        i, j = self._pairs()
        upper = self.coefficients.new_zeros(self.output.dim, self.input.dim, self.input.dim)
        upper[:, i, j] = self.coefficients.T
        return (upper + upper.mT) / 2

    @torch.no_grad()
    def then(self, matrix: Float[Tensor, "q o"], output: Space) -> Interactions:
        """The interactions of M y: what the output features do to another space, for example to the classes.

        Raises:
            ShapeError: the matrix is not (`output.dim` of the result, `output.dim` of these).
        """
        checks.weights("matrix", matrix)
        instance("output", output, Space)
        if tuple(matrix.shape) != (output.dim, self.output.dim):
            raise ShapeError(
                f"matrix of shape {tuple(matrix.shape)}",
                f"({output.dim}, {self.output.dim}): {output.title} × {self.output.title}",
            )
        mixed = self.coefficients.double() @ matrix.to(self.coefficients.device, torch.float64).T
        return replace(self, coefficients=mixed.to(self.coefficients.dtype), output=output)

    @torch.no_grad()
    def magnitude(self, effects: Float[Tensor, " o"]) -> Float[Tensor, "p o"]:
        """‖e_o‖ √w_ab |C_abo|, w = 2 off the diagonal: its part of the Frobenius norms, which a rotation keeps in sum.

        Keeping the largest of these leaves the least squared mass behind.

        Args:
            effects: ‖e_o‖, the size of what one unit of each output feature does, for example to the logits.
        """
        weight = self._multiplicity().rsqrt()[:, None] * self._effects(effects)
        return self.coefficients.abs() * weight

    @torch.no_grad()
    def importance(self, effects: Float[Tensor, " o"], codes: Float[Tensor, "n size"]) -> Float[Tensor, "p o"]:
        """‖e_o‖ w_ab |C_abo| √E[z_a² z_b²]: the root mean square of what each interaction adds over these samples.

        Args:
            effects: as in `magnitude`; codes: of the samples, one per row.
        """
        z = folded_rows(self.input, codes, self.coefficients, 1)
        top = z.abs().amax() if z.numel() else z.new_ones(())
        z = (z / torch.where(top > 0, top, 1)).square()  # so that no fourth power leaves the range
        i, j = self._pairs()
        roots = ((z.T @ z / len(z)).sqrt()[i, j] * top.square()).to(self.coefficients)
        return self.coefficients.abs() * (roots[:, None] * self._effects(effects))

    @torch.no_grad()
    def top(self, k: int = 10, by: Float[Tensor, "p o"] | None = None) -> TopInteractions:
        """The k interactions that are largest by a score, with their labels: print it for a table.

        Args:
            by: the score, for example `importance`; `magnitude` with effects of 1 by default. Those that are 0 are left
                out, so that there may be fewer than k.

        Raises:
            BilensError: k below 1. ShapeError: scores of another shape.
        """
        k = whole("k", k, 1)
        own = self.magnitude(self.coefficients.new_ones(self.output.dim))
        scores = own if by is None else self._scores(by)
        best = scores.flatten().argsort(descending=True, stable=True)[: min(k, scores.numel())]
        mass, (i, j), found = own.double().square(), self._pairs(), []
        whole_mass = mass.sum(dim=0)
        for row, o in (divmod(place, self.output.dim) for place in best.tolist()):
            if self.coefficients[row, o] != 0:
                first, second = (self._name(int(place)) for place in (i[row], j[row]))
                share = float(mass[row, o] / whole_mass[o])
                found.append(Interaction(first, second, self.output.label(o), float(self.coefficients[row, o]), share))
        return TopInteractions(found)

    def _name(self, place: int) -> str:
        # The constant's own label, "1", is also the number of a coordinate.
        return "constant" if self.input.constant and place == self.input.size else self.input.label(place)

    def _scores(self, by: Tensor) -> Tensor:
        checks.weights("scores", by)
        if by.shape != self.coefficients.shape:
            raise ShapeError(f"scores of shape {tuple(by.shape)}", f"{tuple(self.coefficients.shape)}")
        return by.detach()

    @torch.no_grad()
    def keep(self, k: int, by: Float[Tensor, "p o"]) -> Interactions:
        """The k interactions that are largest by a score, for example `magnitude` or `importance`; the others are 0.

        Raises:
            BilensError: k outside 0 … the number of interactions. ShapeError: scores of another shape.
        """
        return next(self.truncations([k], by))

    @torch.no_grad()
    def truncations(self, counts: Sequence[int], by: Float[Tensor, "p o"]) -> Iterator[Interactions]:
        """`keep` for each of several numbers, one after the other, with the scores put in order once.

        Args and Raises: as `keep`. Of equal scores any may be kept, the same ones for every number.
        """
        by = self._scores(by)
        counts = [whole("k", k, 0, by.numel()) for k in counts]
        cuts = sorted({k for k in counts if 0 < k < by.numel()})
        scores = -by.flatten().to(at_least_single(by.dtype)).cpu().numpy()
        order = np.argpartition(scores, [k - 1 for k in cuts]) if cuts else np.arange(by.numel())
        places = torch.from_numpy(order).to(by.device)
        for k in counts:
            kept = torch.zeros_like(self.coefficients)
            kept.view(-1)[places[:k]] = self.coefficients.reshape(-1)[places[:k]]
            yield replace(self, coefficients=kept)

    @torch.no_grad()
    def without(self, kept: Interactions) -> Interactions:
        """What is left when some of them are taken away: the difference of the coefficients.

        Raises:
            SpaceError: interactions of other spaces.
        """
        instance("interactions", kept, Interactions)
        self.input.require(kept.input, "interactions")
        self.output.require(kept.output, "interactions to output")
        return replace(self, coefficients=self.coefficients - kept.coefficients.to(self.coefficients))

    @torch.no_grad()
    def bound(self, norm: Float[Tensor, "*n"] | float) -> Float[Tensor, "*n o"]:
        """The residual-mass bound |y_o| ≤ ‖C_o‖_F · ‖z'‖², the norm that of the symmetric matrix; rounded up.

        It holds for y evaluated exactly on the coefficients as they stand. Of the interactions that were dropped
        (`without`) it bounds the error of dropping them, to which evaluating both sides in their type adds its own
        rounding, at most (m² + m) units of the type times Σ|c_ab z_a z_b|. Apply `then` first to bound the logits: what
        cancels between output features then counts for nothing. It is attained when C_o is of rank one and z' lies
        along it.

        Args:
            norm: ‖z'‖, the norm of the codes with their constant coordinate.
        """
        sizes = self.coefficients.double()
        top = sizes.abs().amax(dim=0)
        sizes = sizes / torch.where(top > 0, top, 1)  # so that no square leaves the range
        mass = (sizes.square() / self._multiplicity().double()[:, None]).sum(dim=0).sqrt() * top
        mass = mass * (1 + gamma(len(sizes) + 8) + 8 * UNIT)
        return upward(largest_square(norm, self.input.dim, mass, "norm")[..., None] * mass, self.coefficients.dtype)

    @torch.no_grad()
    def used(self) -> tuple[Bool[Tensor, " m"], Bool[Tensor, " o"]]:
        """Which input features, the constant included, and which output features an interaction that is not 0 names."""
        sizes = self.coefficients.abs()
        named = sizes @ sizes.new_ones(self.output.dim) > 0
        i, j = self._pairs()
        inputs = torch.zeros(self.input.dim, dtype=torch.bool, device=sizes.device)
        inputs[i[named]] = True
        inputs[j[named]] = True
        return inputs, sizes.new_ones(len(sizes)) @ sizes > 0

    @torch.no_grad()
    def active(self, codes: Float[Tensor, "n size"]) -> float:
        """How many interactions are active on a sample, the mean over samples: those whose two codes are not 0."""
        z = (folded_rows(self.input, codes, self.coefficients, 1) != 0).to(torch.float32)
        i, j = self._pairs()
        together = (z.T @ z).double()[i, j] / len(z)
        return float((self.coefficients != 0).sum(dim=1).double() @ together)

    def _pairs(self) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"]]:
        m = self.input.dim
        i, j = torch.triu_indices(m, m, device=self.coefficients.device)
        return i, j

    def _multiplicity(self) -> Float[Tensor, " p"]:
        return pairs.multiplicity(*self._pairs()).to(self.coefficients)

    def _effects(self, effects: Tensor) -> Tensor:
        checks.weights("effects", effects)
        if tuple(effects.shape) != (self.output.dim,):
            raise ShapeError(f"effects of shape {tuple(effects.shape)}", f"({self.output.dim},)")
        return effects.detach().to(self.coefficients)


@torch.no_grad()
def interactions(tensor: BilinearTensor, limit: int = DENSE_LIMIT) -> Interactions:
    """Every interaction of a tensor: c_abo = B_o(e_a, e_b), times 2 where a < b.

    Examples:
        >>> W, V = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]])
        >>> B = BilinearTensor.from_layer(W, V, input=Space("x", 2, ("age", "dose")), output=Space("y", 1, ("risk",)))
        >>> interactions(B).top()
           first  second  output  coefficient    share
        1  age    dose    risk             +3  100.00%

    In other coordinates, give the tensor those first: `tensor.pullback(inputs).read(outputs)`.

    Args:
        tensor: the layer as a function of the codes; limit: bytes of the largest record that is made.

    Returns:
        `Interactions` in the tensor's type, in float32 for bfloat16 and float16; float64 inside. No gradients.

    Cost: O(m² h o / 2), and m(m+1)/2 · o numbers of memory.

    Raises:
        BilensError: it would be larger than `limit` bytes, or coefficients outside the range of the type.
    """
    instance("tensor", tensor, BilinearTensor)
    m, o = tensor.input.dim, tensor.output.dim
    dtype = at_least_single(tensor.left.dtype)
    size = pairs.count(m) * o * dtype.itemsize
    if size > whole("limit", limit, 0):
        raise BilensError(
            f"{pairs.count(m):,} pairs × {o} outputs = {size:,} bytes",
            f"at most {limit:,} bytes",
            "use fewer features, or pass a larger limit",
        )
    near, power = tensor_near_one(tensor)
    stream = pairs.stream(near, batch_size=_PAIRS, shuffle=False)
    coefficients = tensor.left.new_empty(stream.rows, o, dtype=dtype)
    peak = 0.0
    for n in range(len(stream)):
        rows = stream.batch(n) * pairs.multiplicity(*stream.pairs(n))[:, None]
        peak = max(peak, float(rows.abs().amax()))
        coefficients[n * _PAIRS : n * _PAIRS + len(rows)] = times_two_to(rows, power)
    fitting(near.left.new_tensor(peak), power, dtype, "coefficients", 1e-10)
    return Interactions(coefficients, tensor.input, tensor.output)


@torch.no_grad()
def participation_ratio(scores: Float[Tensor, "*n"]) -> float:
    """The participation ratio (Σ s²)² / Σ s⁴: n for n equal scores, 1 for a single one that is not 0.

    Examples:
        >>> participation_ratio(torch.tensor([2.0, -2.0, 2.0, 0.0]))
        3.0

    Raises:
        BilensError: every score is 0, or as `weights` of dense floating-point numbers.
    """
    checks.weights("scores", scores)
    sizes = scores.flatten().double().abs()
    top = sizes.max() if sizes.numel() else sizes.new_zeros(())
    if not bool(top > 0):
        raise BilensError("scores that are all 0", "one that is not")
    squares = (sizes / top).square()
    return float(squares.sum().square() / squares.square().sum())
