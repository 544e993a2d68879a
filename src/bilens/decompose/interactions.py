"""A layer as a sum of interactions: one number for two input features and an output feature."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bilens import pairs
from bilens.checks import instance, number, whole
from bilens.errors import BilensError, ShapeError
from bilens.space import Space
from bilens.tensor import DENSE_LIMIT, BilinearTensor

_PAIRS = 2**15
"""Pairs at a time where a row is computed for each."""


@dataclass(frozen=True, eq=False)
class Interactions:
    """y_o = Σ_{a≤b} c_abo z_a z_b over the codes z of the input features: each c is one interaction.

    Unordered pairs stand once, so that off the diagonal c_abo is twice the entry of the symmetric matrix C_o with
    y_o = zᵀ C_o z. Make one with `interactions`.

    Args:
        coefficients: (p, o), one pair a row in the order of `bilens.pairs`; p = m(m+1)/2 with m = `input.dim`.
        input: space of the codes; output: space of y.

    Raises:
        ShapeError: the coefficients do not fit the spaces. BilensError: NaN or infinity.
    """

    coefficients: Float[Tensor, "p o"]
    input: Space
    output: Space

    def __post_init__(self) -> None:
        expected = (pairs.count(self.input.dim), self.output.dim)
        if tuple(self.coefficients.shape) != expected:
            raise ShapeError(
                f"coefficients of shape {tuple(self.coefficients.shape)}",
                f"{expected}: pairs of {self.input.title} × {self.output.title}",
            )
        if not bool(torch.isfinite(torch.stack(self.coefficients.aminmax())).all()):
            raise BilensError("coefficients with NaN or infinity", "finite numbers")

    def __len__(self) -> int:
        """How many interactions are not 0."""
        return int(self.coefficients.count_nonzero())

    def __call__(self, codes: Float[Tensor, "n size"]) -> Float[Tensor, "n o"]:
        """y for each row of codes; the constant coordinate is added here.

        Cost: one product of (n, m) and (m, m) for each output, m the features that occur; apply `then` first where
        that leaves fewer outputs.

        Raises:
            ShapeError: the last axis is not `input.size`.
        """
        instance("codes", codes, Tensor)
        z = self.input.lift(codes.to(self.coefficients))
        i, j = self._pairs()
        live, _ = self.used()
        y, upper = z.new_empty(len(z), self.output.dim), z.new_zeros(self.input.dim, self.input.dim)
        z = z[:, live]
        for o in range(self.output.dim):
            upper[i, j] = self.coefficients[:, o]
            y[:, o] = torch.linalg.vecdot(z @ upper[live][:, live], z)
        return y

    def dense(self) -> Float[Tensor, "o m m"]:
        """The symmetric matrices C_o, for small ones and for tests."""
        i, j = self._pairs()
        upper = self.coefficients.new_zeros(self.output.dim, self.input.dim, self.input.dim)
        upper[:, i, j] = self.coefficients.T
        return (upper + upper.mT) / 2

    def then(self, matrix: Float[Tensor, "q o"], output: Space) -> Interactions:
        """The interactions of M y: what the output features do to another space, for example to the classes.

        Raises:
            ShapeError: the matrix is not (`output.dim` of the result, `output.dim` of these).
        """
        instance("matrix", matrix, Tensor)
        instance("output", output, Space)
        if tuple(matrix.shape) != (output.dim, self.output.dim):
            raise ShapeError(
                f"matrix of shape {tuple(matrix.shape)}",
                f"({output.dim}, {self.output.dim}): {output.title} × {self.output.title}",
            )
        return replace(self, coefficients=self.coefficients @ matrix.to(self.coefficients).T, output=output)

    def magnitude(self, effects: Float[Tensor, " o"]) -> Float[Tensor, "p o"]:
        """‖e_o‖ √w_ab |C_abo|, w = 2 off the diagonal: its part of the Frobenius norms, which a rotation keeps in sum.

        To keep the largest of these is to leave the least squared mass behind.

        Args:
            effects: ‖e_o‖, the size of what one unit of each output feature does, for example to the logits.
        """
        weight = self._multiplicity().rsqrt()[:, None] * self._effects(effects)
        return self.coefficients.abs() * weight

    def importance(self, effects: Float[Tensor, " o"], codes: Float[Tensor, "n size"]) -> Float[Tensor, "p o"]:
        """‖e_o‖ w_ab |C_abo| √E[z_a² z_b²]: the root mean square of what each interaction adds over these samples.

        Args:
            effects: as in `magnitude`; codes: of the samples, one a row.
        """
        z = self.input.lift(codes).double().square()
        i, j = self._pairs()
        roots = (z.T @ z / len(z)).sqrt()[i, j].to(self.coefficients)
        return self.coefficients.abs() * (roots[:, None] * self._effects(effects))

    def keep(self, k: int, by: Float[Tensor, "p o"]) -> Interactions:
        """The k interactions that are largest by a score, for example `magnitude` or `importance`; the others are 0.

        Raises:
            BilensError: k outside 0 … the number of interactions. ShapeError: scores of another shape.
        """
        return next(self.truncations([k], by))

    def truncations(self, counts: Sequence[int], by: Float[Tensor, "p o"]) -> Iterator[Interactions]:
        """`keep` for each of several numbers, one after the other, with the scores put in order once.

        Args and Raises: as `keep`. Of equal scores any may be kept, the same ones for every number.
        """
        instance("scores", by, Tensor)
        if by.shape != self.coefficients.shape:
            raise ShapeError(f"scores of shape {tuple(by.shape)}", f"{tuple(self.coefficients.shape)}")
        counts = [whole("k", k, 0, by.numel()) for k in counts]
        cuts = sorted({k for k in counts if 0 < k < by.numel()})
        scores = -by.flatten().cpu().numpy()
        order = np.argpartition(scores, [k - 1 for k in cuts]) if cuts else np.arange(by.numel())
        places = torch.from_numpy(order).to(by.device)
        for k in counts:
            kept = torch.zeros_like(self.coefficients)
            kept.view(-1)[places[:k]] = self.coefficients.reshape(-1)[places[:k]]
            yield replace(self, coefficients=kept)

    def without(self, kept: Interactions) -> Interactions:
        """What is left when some of them are taken away: the difference of the coefficients.

        Raises:
            SpaceError: interactions of other spaces.
        """
        instance("interactions", kept, Interactions)
        self.input.require(kept.input, "interactions")
        self.output.require(kept.output, "interactions to output")
        return replace(self, coefficients=self.coefficients - kept.coefficients.to(self.coefficients))

    def bound(self, norm: Float[Tensor, "*n"] | float) -> Float[Tensor, "*n o"]:
        """The residual-mass bound |y_o| ≤ ‖C_o‖_F · ‖z'‖², the norm that of the symmetric matrix.

        Of the interactions that were dropped (`without`), this bounds the error of dropping them. Apply `then` first
        to bound the logits: what cancels between output features then counts for nothing. It is attained when C_o is
        of rank one and z' lies along it.

        Args:
            norm: ‖z'‖, the norm of the codes with their constant coordinate.
        """
        mass = (self.coefficients.double().square() / self._multiplicity()[:, None]).sum(dim=0).sqrt()
        squares = torch.as_tensor(norm, dtype=mass.dtype, device=mass.device).square()
        return (squares[..., None] * mass).to(self.coefficients)

    def used(self) -> tuple[Bool[Tensor, " m"], Bool[Tensor, " o"]]:
        """Which input features, the constant included, and which output features an interaction that is not 0 names."""
        sizes = self.coefficients.abs()
        named = sizes @ sizes.new_ones(self.output.dim) > 0
        i, j = self._pairs()
        inputs = torch.zeros(self.input.dim, dtype=torch.bool, device=sizes.device)
        inputs[i[named]] = True
        inputs[j[named]] = True
        return inputs, sizes.new_ones(len(sizes)) @ sizes > 0

    def lit(self, codes: Float[Tensor, "n size"]) -> float:
        """How many interactions are at work on a sample, the mean over samples: those whose two codes are not 0."""
        z = (self.input.lift(codes) != 0).to(torch.float32)
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
        instance("effects", effects, Tensor)
        if tuple(effects.shape) != (self.output.dim,):
            raise ShapeError(f"effects of shape {tuple(effects.shape)}", f"({self.output.dim},)")
        return effects.to(self.coefficients)


def interactions(tensor: BilinearTensor, limit: int = DENSE_LIMIT) -> Interactions:
    """Every interaction of a tensor: c_abo = B_o(e_a, e_b), times 2 where a < b.

    In other coordinates, give the tensor those first: `tensor.pullback(inputs).read(outputs)`.

    Args:
        tensor: the layer as a function of the codes; limit: bytes of the largest record that is made.

    Cost: O(m² h o / 2), and m(m+1)/2 · o numbers of memory.

    Raises:
        BilensError: it would be larger than `limit` bytes.
    """
    instance("tensor", tensor, BilinearTensor)
    m, o = tensor.input.dim, tensor.output.dim
    size = pairs.count(m) * o * tensor.left.element_size()
    if size > limit:
        raise BilensError(
            f"{pairs.count(m):,} pairs × {o} outputs = {size:,} bytes",
            f"at most {limit:,} bytes",
            "use fewer features, or pass a larger limit",
        )
    stream = pairs.stream(tensor, batch_size=_PAIRS, shuffle=False)
    coefficients = tensor.left.new_empty(stream.rows, o)
    for n in range(len(stream)):
        rows = stream.batch(n, out=coefficients[n * _PAIRS :])
        rows.mul_(pairs.multiplicity(*stream.pairs(n))[:, None])
    return Interactions(coefficients, tensor.input, tensor.output)


def effective_number(scores: Float[Tensor, "*n"]) -> float:
    """The participation ratio (Σ s²)² / Σ s⁴: n for n equal scores, 1 for a single one that is not 0.

    Raises:
        BilensError: every score is 0.
    """
    instance("scores", scores, Tensor)
    squares = scores.flatten().double().square()
    top = squares.max() if squares.numel() else squares.new_zeros(())
    if not bool(top > 0):
        raise BilensError("scores that are all 0", "one that is not")
    squares = squares / top
    return float(squares.sum().square() / squares.square().sum())


def holding(scores: Float[Tensor, "*n"], share: float) -> int:
    """How many of the largest scores hold this share of Σ s².

    Raises:
        BilensError: a share outside 0 … 1, or scores that are all 0.
    """
    instance("scores", scores, Tensor)
    share = number("share", share, above=0, most=1)
    ordered = np.sort(scores.abs().flatten().cpu().numpy())[::-1].astype(np.float64)
    squares = (ordered**2).cumsum()
    if not len(squares) or not squares[-1] > 0:
        raise BilensError("scores that are all 0", "one that is not")
    return int((squares < share * squares[-1]).sum()) + 1
