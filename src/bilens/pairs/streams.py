"""Streams of pair vectors: every pair once per epoch, shuffled or in order, and pairs drawn by weight."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens._internal import checks
from bilens._internal.checks import flag, instance, whole
from bilens._internal.seeds import derived
from bilens._internal.shown import line
from bilens.dictionary import Dictionary
from bilens.errors import BilensError, ShapeError
from bilens.pairs.order import count, permuted, unranked
from bilens.pairs.vectors import Kind, PairResponses, check_kind
from bilens.tensor import BilinearTensor

_SPAN = 2**16
"""Places whose pairs are worked out together: integer work on many numbers costs a tenth of that on few."""


@dataclass(frozen=True, eq=False, repr=False)
class Batches(ABC):
    """Batches of pair vectors that can be asked for by number.

    Args:
        features: the prepared layer; kind: which pair vector the rows are.
        batch_size: pairs per batch; seed: of the order or the draws.

    Raises:
        BilensError: a batch size below 1, a seed that is not a whole number, or an unknown kind.
    """

    features: PairResponses
    kind: Kind
    batch_size: int
    seed: int

    __repr__ = line

    def __post_init__(self) -> None:
        instance("features", self.features, PairResponses, hint="make them with pairs.PairResponses.of(tensor)")
        check_kind(self.kind)
        size = whole("batch_size", self.batch_size, 1)
        object.__setattr__(self, "batch_size", size)
        object.__setattr__(self, "seed", whole("seed", self.seed))

    @property
    def width(self) -> int:
        """Size of a pair vector."""
        return self.features.width

    @property
    def rows(self) -> int:
        """Pairs per epoch: as many as there are, m(m+1)/2."""
        return count(len(self.features))

    def __len__(self) -> int:
        """Batches per epoch."""
        return math.ceil(self.rows / self.batch_size)

    @abstractmethod
    def pairs(self, n: int) -> tuple[Int[Tensor, " b"], Int[Tensor, " b"]]:
        """Feature numbers (i, j) of the n-th batch, counted from the first epoch on."""

    def batch(self, n: int, *, out: Float[Tensor, "rows o"] | None = None) -> Float[Tensor, "b o"]:
        """Pair vectors of the n-th batch, one per row.

        Args:
            out: a tensor of at least as many rows to write into; its first rows are returned. It saves the cost of new
                memory where one batch is no longer needed when the next is asked for.

        Raises:
            BilensError: an `out` that does not fit.
        """
        return self.features._at(self.kind, *self.pairs(n), out)

    @abstractmethod
    def size(self, n: int) -> int:
        """Pairs of the n-th batch."""

    def part(self, n: int, start: int, stop: int) -> Float[Tensor, "b o"]:
        """Rows start … stop − 1 of the n-th batch, as far as it has them, made without the others."""
        start, stop = whole("start", start, 0), whole("stop", stop, 0)
        i, j = self.pairs(n)
        return self.features._at(self.kind, i[start:stop], j[start:stop])


@dataclass(frozen=True, eq=False, repr=False)
class PairStream(Batches):
    """Every pair i ≤ j once per epoch, in a seeded order, one batch at a time; any batch can be asked for directly.

    The order is a keyed permutation computed for some batches at a time, so that memory is one batch and 1 MB whatever
    the number of pairs, and a run that was interrupted continues at its batch.

    Args:
        features: the prepared layer.
        kind: which pair vector the rows are.
        batch_size: pairs per batch; the last batch of an epoch has what is left.
        seed: order of the pairs; every epoch has its own.
        shuffle: False keeps the pairs row by row, in the order of `unrank`, which costs less.

    Raises:
        BilensError: a batch size below 1, or an unknown kind.
    """

    shuffle: bool = True

    __repr__ = line

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "shuffle", flag("shuffle", self.shuffle))

    def pairs(self, n: int) -> tuple[Int[Tensor, " b"], Int[Tensor, " b"]]:
        """Feature numbers (i, j) of the n-th batch, counted from the first epoch on."""
        epoch, position = divmod(_number(n), len(self))
        if not self.shuffle:
            start, stop = self._ends(position)
            return unranked(torch.arange(start, stop, device=self.features.left.device), len(self.features))
        together = max(1, _SPAN // self.batch_size)
        i, j = self._span(epoch, position // together, together * self.batch_size)
        inside = slice(position % together * self.batch_size, (position % together + 1) * self.batch_size)
        return i[inside], j[inside]

    def batch(self, n: int, *, out: Float[Tensor, "rows o"] | None = None) -> Float[Tensor, "b o"]:
        """Pair vectors of the n-th batch, one per row; `out` as in `Batches.batch`."""
        if self.shuffle:
            return super().batch(n, out=out)
        return self.features.span(self.kind, *self._ends(_number(n) % len(self)), out=out)

    def size(self, n: int) -> int:
        """Pairs of the n-th batch: `batch_size`, or what is left at the end of an epoch."""
        start, stop = self._ends(_number(n) % len(self))
        return stop - start

    def _ends(self, position: int) -> tuple[int, int]:
        start = position * self.batch_size
        return start, min(start + self.batch_size, self.rows)

    def _span(self, epoch: int, number: int, size: int) -> tuple[Tensor, Tensor]:
        """Pairs of `size` places on, computed on the CPU, so that no batch waits for an accelerator."""
        found = self._spans.get((epoch, number))
        if found is None:
            places = torch.arange(number * size, min((number + 1) * size, self.rows))
            order = permuted(places, self.rows, derived(epoch, self.seed))
            i, j = unranked(order, len(self.features))
            device = self.features.left.device
            found = i.to(device, non_blocking=True), j.to(device, non_blocking=True)
            self._spans.clear()
            self._spans[epoch, number] = found
        return found

    @cached_property
    def _spans(self) -> dict[tuple[int, int], tuple[Tensor, Tensor]]:
        """The last span asked for."""
        return {}


def stream(
    tensor: BilinearTensor,
    dictionary: Dictionary | None = None,
    *,
    kind: Kind = "polarized",
    batch_size: int = 4096,
    seed: int = 0,
    shuffle: bool = True,
) -> PairStream:
    """A stream of every pair vector of a layer: r_ij, for which Σ_ij a_i a_j r_ij = g(Σ a_i v_i), or of another kind.

    Examples:
        >>> B = BilinearTensor.from_layer(torch.eye(2), torch.eye(2), input=Space("x", 2), output=Space("y", 2))
        >>> rows = stream(B, batch_size=3, shuffle=False)
        >>> rows.pairs(0), rows.batch(0).shape
        ((tensor([0, 0, 1]), tensor([0, 1, 1])), torch.Size([3, 2]))

    The vectors have a graph only if the tensor or the dictionary was built with `detach=False`.

    Args:
        tensor: the layer. dictionary: the features; the input's coordinates (the constant included) when None.
        kind: which pair vector: "two_hot" u_ij or "symmetric" s_ij, as the functions of these names say.
        batch_size: pairs per batch, at least 1. seed: order of the pairs. shuffle: False takes them row by row.

    Raises:
        BilensError: a batch size below 1, or an unknown kind. SpaceError: a dictionary of another space.
    """
    return PairStream(PairResponses.of(tensor, dictionary), kind, batch_size, seed, shuffle)


@dataclass(frozen=True, eq=False, repr=False)
class SampledStream(Batches):
    """Pairs i ≤ j drawn with replacement, pair t with the chance p_t ∝ its weight; any batch can be asked for directly.

    Training on the stream minimises Σ_t p_t ‖r_t − r̂_t‖². For a mean over all N pairs alike, weigh pair t by
    1/(N p_t), which `weighted` and `importance` give: the weighted mean over a batch is unbiased for Σ_t f(r_t)/N
    where f is 0 wherever p is 0.

    Args:
        features: the prepared layer; kind: which pair vector the rows are.
        batch_size: pairs per batch; seed: batch n depends on (seed, n) alone, not on the device.
        ends: (pairs,), running sums of the chances in the order of `unrank`, the last one 1; float64. Copied.

    Raises:
        BilensError: a batch size below 1, or an unknown kind. ShapeError: not one chance per pair.

    Memory: one number per pair beside a batch.
    """

    ends: Float[Tensor, " pairs"]

    __repr__ = line

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_one_per_pair("chances", self.ends, len(self.features))
        object.__setattr__(self, "ends", checks.owned(self.ends))

    def pairs(self, n: int) -> tuple[Int[Tensor, " b"], Int[Tensor, " b"]]:
        """Feature numbers (i, j) of the n-th batch."""
        return unranked(self._places(n), len(self.features))

    def size(self, n: int) -> int:
        """Pairs of the n-th batch, `batch_size`."""
        _number(n)
        return self.batch_size

    def importance(self, n: int) -> Float[Tensor, " b"]:
        """1/(N p_t) of each pair of the n-th batch, N the number of pairs: 1 where all are alike; float64."""
        return self._importance(self._places(n))

    def weighted(
        self, n: int, *, out: Float[Tensor, "rows o"] | None = None
    ) -> tuple[Float[Tensor, "b o"], Float[Tensor, " b"]]:
        """The vectors and the importance of the n-th batch, from one draw; `out` as in `batch`."""
        places = self._places(n)
        vectors = self.features._at(self.kind, *unranked(places, len(self.features)), out)
        return vectors, self._importance(places)

    def _importance(self, places: Tensor) -> Tensor:
        before = torch.where(places > 0, self.ends[places - 1], 0)
        return 1 / (self.rows * (self.ends[places] - before))

    def _places(self, n: int) -> Tensor:
        generator = torch.Generator().manual_seed(derived(self.seed, _number(n)))
        drawn = torch.rand(self.batch_size, generator=generator, dtype=torch.float64).to(self.ends.device)
        # The first end beyond the number drawn: a pair of chance 0 ends where the pair before it does.
        return torch.searchsorted(self.ends, drawn, right=True).clamp(max=self.rows - 1)


def sampled(
    tensor: BilinearTensor,
    weights: Float[Tensor, " pairs"],
    dictionary: Dictionary | None = None,
    *,
    kind: Kind = "polarized",
    batch_size: int = 4096,
    seed: int = 0,
) -> SampledStream:
    """A stream of pair vectors drawn with chances in proportion to weights, with replacement.

    A weight below about 1e-16 of the sum of all may count as 0.

    Args:
        tensor: the layer. dictionary: the features; the input's coordinates (the constant included) when None.
        weights: (m(m+1)/2,), one per pair in the order of `unrank`, for example from `norms`, `second_moments` or
            `moment_weights`.
        kind: which pair vector; batch_size: pairs per batch, at least 1; seed: of the draws.

    Raises:
        ShapeError: not one weight per pair. BilensError: a weight below 0 or not finite, or all of them 0; a batch size
            below 1; an unknown kind. SpaceError: a dictionary of another space.
    """
    features = PairResponses.of(tensor, dictionary)
    _check_one_per_pair("weights", weights, len(features))
    if not bool(torch.isfinite(weights).all() and (weights >= 0).all() and (weights > 0).any()):
        raise BilensError(
            "weights of pairs that are negative, not finite or all 0", "finite weights of 0 or more, not all 0"
        )
    # Summed on the CPU, whose sums never fall and are the same for every device the layer may be on.
    chances = weights.detach().cpu().double()
    ends = (chances / chances.max()).cumsum(0)
    # The last pair of a chance, and those behind it, end at 1 exactly, so that no draw falls to one without.
    return SampledStream(features, kind, batch_size, seed, (ends / ends[-1]).to(features.left.device))


def _number(n: int) -> int:
    return whole("batch", n, 0)


def _check_one_per_pair(name: str, value: Tensor, m: int) -> None:
    checks.floating(name, value)
    if value.shape != (count(m),):
        raise ShapeError(f"{name} of shape {tuple(value.shape)}", f"a tensor ({count(m)},)")
