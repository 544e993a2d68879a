"""Pair vectors of a layer, from its factors: of pairs picked by number, and of pairs one after another.

They are made a few hundred rows at a time, so that the rows that several passes go over stay in the cache and only the
finished ones go to memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens._internal import checks, factors
from bilens._internal.checks import choice, instance, trusted, whole
from bilens._internal.scale import tracked
from bilens._internal.shown import line
from bilens.dictionary import Dictionary
from bilens.errors import BilensError, ShapeError
from bilens.pairs.order import count, multiplicity, segments, unranked
from bilens.space import Space
from bilens.tensor import BilinearTensor

Kind = Literal["polarized", "two_hot", "symmetric"]
"""Which pair vector is meant: r_ij, u_ij or s_ij, as `polarized`, `two_hot` and `symmetric` say."""

_CACHED = 2**20
"""Bytes of pair vectors at a time on a CPU: three such blocks fit into the cache that its cores share."""

_ROW = 2**22
"""The same for pairs in order, where fewer passes go over them and every block begins the row of L and R anew."""

_LAUNCHED = 2**26
"""Bytes at a time on an accelerator, where starting an operation costs more than memory."""


@dataclass(frozen=True, eq=False, repr=False)
class PairResponses:
    """Precomputed responses L v_i and R v_i of the hidden units to every input feature.

    The numbers are copied and detached. `of` keeps the graph of a tensor or dictionary that has one, and gradients then
    flow through every method that returns vectors.

    Args:
        left: (m, h), row i is L v_i; right: (m, h), row i is R v_i.
        down: (o, h), or None before any read-out (D = I).
        space: the (folded) space of the features, m = `space.dim`.

    Raises:
        ShapeError: the shapes do not fit together. BilensError: numbers that are not finite or not in a dense
            floating-point tensor in memory, or types that differ.

    Memory: half of `right` is kept once more; beside what is returned, a call takes two or three blocks of 1 MB or 4 MB
    (CPU) or 64 MB (accelerator), never the hidden rows of all pairs.
    """

    left: Float[Tensor, "m h"]
    right: Float[Tensor, "m h"]
    down: Float[Tensor, "o h"] | None
    space: Space

    __repr__ = line

    def __post_init__(self) -> None:
        instance("space", self.space, Space)
        factors.settle(self, "left", "right", "down", m=self.space.dim)

    @classmethod
    def of(cls, tensor: BilinearTensor, dictionary: Dictionary | None = None) -> PairResponses:
        """Prepare a tensor; without a dictionary the features are the coordinates of its (folded) input space."""
        instance("tensor", tensor, BilinearTensor)
        if dictionary is not None:
            tensor = tensor.pullback(dictionary)
        read_out = None if tensor.reads_hidden and not tensor.down.requires_grad else tensor.down
        return trusted(cls, tensor.left.T.contiguous(), tensor.right.T.contiguous(), read_out, tensor.input)

    def __len__(self) -> int:
        """Features, m."""
        return len(self.left)

    @property
    def width(self) -> int:
        """Size of a pair vector, o."""
        return self.left.shape[1] if self.down is None else len(self.down)

    def polarized(self, i: Int[Tensor, " b"], j: Int[Tensor, " b"]) -> Float[Tensor, "b o"]:
        """r_ij = ½ D[(L v_i ⊙ R v_j) + (R v_i ⊙ L v_j)], one pair per row."""
        return self.at("polarized", i, j)

    def two_hot(self, i: Int[Tensor, " b"], j: Int[Tensor, " b"]) -> Float[Tensor, "b o"]:
        """u_ij = D[L(v_i + v_j) ⊙ R(v_i + v_j)], one pair per row."""
        return self.at("two_hot", i, j)

    def symmetric(self, i: Int[Tensor, " b"], j: Int[Tensor, " b"]) -> Float[Tensor, "b o"]:
        """s_ij = √c_ij r_ij with c = 1 on i = j and 2 off it, one pair per row."""
        return self.at("symmetric", i, j)

    def at(
        self, kind: Kind, i: Int[Tensor, " b"], j: Int[Tensor, " b"], *, out: Float[Tensor, "rows o"] | None = None
    ) -> Float[Tensor, "b o"]:
        """Vectors of the pairs (i, j), one per row, the numbers given as int64 tensors from 0 to m−1.

        Args:
            out: at least b rows, into whose first b the vectors are written and which are then returned; new memory
                when None.

        Raises:
            BilensError: another kind; a number outside 0 … m−1; an `out` that does not fit. ShapeError: i and j of
                different lengths.
        """
        check_kind(kind)
        return self._at(kind, *_checked(i, j, self), out)

    def _at(self, kind: Kind, i: Tensor, j: Tensor, out: Tensor | None = None) -> Tensor:
        """As `at`, for numbers that are known to be valid: nothing waits for a device."""
        if self._differentiated:
            return self._followed(kind, i, j, out)
        gather, left = torch.index_select, self.left
        right = self.right if kind == "two_hot" else self._half

        def fill(start: int, stop: int, rows: Tensor, x: Tensor, y: Tensor) -> None:
            a, b = i[start:stop], j[start:stop]
            gather(left, 0, a, out=rows)
            if kind == "two_hot":
                rows.add_(gather(left, 0, b, out=x))
                rows.mul_(gather(right, 0, a, out=x).add_(gather(right, 0, b, out=y)))
                return
            rows.mul_(gather(right, 0, b, out=x))
            rows.addcmul_(gather(right, 0, a, out=x), gather(left, 0, b, out=y))
            if kind == "symmetric":
                rows.mul_(multiplicity(a, b).to(rows.dtype).sqrt_()[:, None])

        return self._filled(len(i), fill, out)

    def span(
        self, kind: Kind, start: int, stop: int, *, out: Float[Tensor, "rows o"] | None = None
    ) -> Float[Tensor, "b o"]:
        """Vectors of the pairs start … stop−1 in the order of `unrank`, one per row: as `at`, in less time.

        A row of pairs (i, j), (i, j+1), … needs no picking: one row of L and R against a block of them.

        Args and Raises: as `at`.
        """
        check_kind(kind)
        stop = whole("stop", stop, 0, count(len(self)))
        start = whole("start", start, 0, stop)
        if self._differentiated:
            return self._followed(kind, *unranked(torch.arange(start, stop, device=self.left.device), len(self)), out)
        left, right = self.left, self.right if kind == "two_hot" else self._half

        def fill(first: int, last: int, rows: Tensor, x: Tensor, y: Tensor) -> None:
            place = 0
            for i, j, end in segments(start + first, start + last, len(self)):
                part = rows[place : place + end - j]
                one, other = left[i], right[i]
                if kind == "two_hot":
                    torch.add(left[j:end], one, out=part)
                    part.mul_(torch.add(right[j:end], other, out=x[: end - j]))
                else:
                    if kind == "symmetric":
                        one, other = one * math.sqrt(2), other * math.sqrt(2)
                    torch.mul(right[j:end], one, out=part)
                    part.addcmul_(left[j:end], other)
                if kind == "symmetric" and i == j:
                    torch.mul(left[i], self.right[i], out=part[0])
                place += end - j

        return self._filled(stop - start, fill, out, in_order=True)

    @cached_property
    def _half(self) -> Tensor:
        """½ R v_i: each term of r_ij has one factor of R, so that the ½ costs nothing per pair."""
        return self.right.detach() / 2

    @property
    def _differentiated(self) -> bool:
        return tracked(self.left, self.right, *(() if self.down is None else (self.down,)))

    def _followed(self, kind: Kind, i: Tensor, j: Tensor, out: Tensor | None) -> Tensor:
        """The formulas as they are written, for gradients with respect to the factors."""
        left, right = self.left, self.right
        if kind == "two_hot":
            rows = (left[i] + left[j]) * (right[i] + right[j])
        else:
            rows = (left[i] * right[j] + right[i] * left[j]) / 2
        if kind == "symmetric":
            rows = rows * multiplicity(i, j).to(rows.dtype).sqrt()[:, None]
        rows = rows if self.down is None else rows @ self.down.T
        return rows if out is None else self._room(len(rows), out).copy_(rows)

    def _filled(
        self,
        total: int,
        fill: Callable[[int, int, Tensor, Tensor, Tensor], None],
        out: Tensor | None,
        *,
        in_order: bool = False,
    ) -> Tensor:
        """All rows, a block at a time: `fill(start, stop, rows, x, y)` writes D = I's, with x and y to work in."""
        out, h = self._room(total, out), self.left.shape[1]
        cached = _ROW if in_order else _CACHED
        limit = cached if out.device.type == "cpu" else _LAUNCHED
        block = max(1, min(total, limit // max(1, h * self.left.element_size())))
        x, y, hidden = (self.left.new_empty(size, h) for size in (block, block, 0 if self.down is None else block))
        for start in range(0, total, block):
            stop = min(start + block, total)
            rows = out[start:stop] if self.down is None else hidden[: stop - start]
            fill(start, stop, rows, x[: stop - start], y[: stop - start])
            if self.down is not None:
                torch.mm(rows, self.down.T, out=out[start:stop])
        return out

    def _room(self, total: int, out: Tensor | None) -> Tensor:
        if out is None:
            return self.left.new_empty(total, self.width)
        instance("out", out, Tensor, hint="pass a batch of this stream, or leave it out")
        if (
            out.ndim != 2
            or len(out) < total
            or (out.shape[1], out.dtype, out.device) != (self.width, self.left.dtype, self.left.device)
        ):
            raise BilensError(
                f"out of shape {tuple(out.shape)}, {out.dtype} on {out.device}",
                f"at least {total} rows of {self.width}, {self.left.dtype} on {self.left.device}",
                "pass a batch of this stream, or leave it out",
            )
        return out[:total]


def polarized(
    tensor: BilinearTensor, i: Int[Tensor, " b"], j: Int[Tensor, " b"], dictionary: Dictionary | None = None
) -> Float[Tensor, "b o"]:
    """Polarised pair vectors r_ij = B(v_i, v_j) = ½[g(v_i+v_j) − g(v_i) − g(v_j)] (+ ½g(0) with unfolded biases).

    Examples:
        >>> B = BilinearTensor.from_layer(torch.eye(2), torch.eye(2), input=Space("x", 2), output=Space("y", 2))
        >>> polarized(B, torch.tensor([0, 0]), torch.tensor([0, 1]))
        tensor([[1., 0.],
                [0., 0.]])

    They satisfy Σ_ij a_i a_j r_ij = g(Σ a_i v_i) exactly, the sum over all i and j. Gradients flow to the factors of a
    tensor, and to the atoms of a dictionary, that were built with `detach=False`.

    Args:
        tensor: the layer; its pairs are those of its folded input, the constant coordinate being the last feature.
        i, j: feature numbers, (b,).
        dictionary: the features v_i; the coordinates of the input when None.

    Raises:
        BilensError: a number outside 0 … m−1. ShapeError: i and j of different lengths.

    Source: arXiv 2410.08417; the founding draft's "input pairs as a basis", corrected.
    """
    features = PairResponses.of(tensor, dictionary)
    return features.polarized(i, j)


def two_hot(
    tensor: BilinearTensor, i: Int[Tensor, " b"], j: Int[Tensor, " b"], dictionary: Dictionary | None = None
) -> Float[Tensor, "b o"]:
    """The draft's pair vectors u_ij = g(v_i + v_j) = r_ii + r_jj + 2 r_ij: the output when the input is v_i + v_j.

    They do not rebuild g: Σ_ij a_i a_j u_ij = 2 g(x) + 2 (Σ a) Σ_i a_i g(v_i) with x = Σ a_i v_i. With i = j this is
    g(2 v_i) = 4 r_ii. In a folded tensor v_i + v_j adds the constant coordinates of the atoms like any other.

    Args and Raises: as `polarized`.

    Source: founding draft, "Input pairs can act as a basis for bilinear outputs".
    """
    features = PairResponses.of(tensor, dictionary)
    return features.two_hot(i, j)


def symmetric(
    tensor: BilinearTensor, i: Int[Tensor, " b"], j: Int[Tensor, " b"], dictionary: Dictionary | None = None
) -> Float[Tensor, "b o"]:
    """Symmetric pair vectors s_ij: r_ii on i = j and √2 r_ij off it, B in an orthonormal basis of symmetric matrices.

    The basis is E_ii and (E_ij + E_ji)/√2. So the rows s_ij over i ≤ j have the singular values of the matrix of all
    r_ij, i and j, and Σ_{i≤j} ‖s_ij‖² = Σ_ij ‖r_ij‖²: those of B, and ‖B‖², over the coordinates of the input.

    Args and Raises: as `polarized`.
    """
    features = PairResponses.of(tensor, dictionary)
    return features.symmetric(i, j)


def check_kind(kind: str) -> None:
    """Check that a string names a kind of pair vector; raises BilensError."""
    choice("kind", kind, get_args(Kind), " or ".join(map(repr, get_args(Kind))))


def _checked(i: Tensor, j: Tensor, features: PairResponses) -> tuple[Tensor, Tensor]:
    for name, value in (("i", i), ("j", j)):
        instance(name, value, Tensor)
    if not (features.left.is_meta and i.is_meta and j.is_meta):  # there are no numbers to look at
        i, j = (checks.integers(name, value, 0, len(features) - 1) for name, value in (("i", i), ("j", j)))
    if i.shape != j.shape or i.ndim != 1:
        raise ShapeError(f"i of shape {tuple(i.shape)} and j of {tuple(j.shape)}", "(pairs,) twice")
    return i, j
