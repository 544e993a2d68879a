"""Streams of vectors to train on: in memory, computed, or from anything that can be iterated again."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from bilens._internal import checks
from bilens._internal.checks import flag, instance, whole
from bilens._internal.seeds import derived
from bilens._internal.shown import line
from bilens.errors import BilensError, ShapeError


@runtime_checkable
class Stream(Protocol):
    """Batches of vectors that can be asked for by number, so that a run continues exactly where it stopped."""

    @property
    def width(self) -> int:
        """Size of a vector."""

    @property
    def rows(self) -> int:
        """Vectors per epoch."""

    def __len__(self) -> int:
        """Batches per epoch."""

    def batch(self, n: int) -> Float[Tensor, "b width"]:
        """The n-th batch, counted from the first epoch on."""


@runtime_checkable
class Divisible(Stream, Protocol):
    """A stream that makes some rows of a batch without the others, so that processes can share a batch."""

    def size(self, n: int) -> int:
        """Rows of the n-th batch."""

    def part(self, n: int, start: int, stop: int) -> Float[Tensor, "b width"]:
        """Rows start … stop − 1 of the n-th batch."""


@dataclass(frozen=True, eq=False, repr=False)
class TensorStream:
    """Vectors in memory, each once per epoch, in an order drawn from a generator seeded with (seed, epoch).

    Args:
        vectors: (rows, width), one vector per row. Not copied; their graph is left behind.
        batch_size: vectors per batch; the last batch of an epoch has what is left.
        seed: of the order; every epoch has its own.
        shuffle: False keeps the order of the rows.

    Raises:
        ShapeError: not a matrix with at least one row. BilensError: vectors that are not a dense floating-point tensor
            in memory, a batch size below 1, or a seed that is not a whole number.
    """

    vectors: Float[Tensor, "rows width"]
    batch_size: int = 4096
    seed: int = 0
    shuffle: bool = True

    __repr__ = line

    def __post_init__(self) -> None:
        checks.floating("vectors", self.vectors)
        checks.in_memory("vectors", self.vectors)
        if self.vectors.ndim != 2 or 0 in self.vectors.shape:
            raise ShapeError(
                f"vectors of shape {tuple(self.vectors.shape)}",
                "(rows, width), both at least 1",
                "pass one vector per row",
            )
        object.__setattr__(self, "vectors", self.vectors.detach())
        size = whole("batch_size", self.batch_size, 1)
        object.__setattr__(self, "batch_size", size)
        object.__setattr__(self, "seed", whole("seed", self.seed))
        object.__setattr__(self, "shuffle", flag("shuffle", self.shuffle))

    @property
    def width(self) -> int:
        """Size of a vector."""
        return self.vectors.shape[1]

    @property
    def rows(self) -> int:
        """Vectors per epoch."""
        return len(self.vectors)

    def __len__(self) -> int:
        """Batches per epoch."""
        return math.ceil(self.rows / self.batch_size)

    def batch(self, n: int) -> Float[Tensor, "b width"]:
        """The n-th batch, counted from the first epoch on."""
        return self.part(n, 0, self.batch_size)

    def size(self, n: int) -> int:
        """Rows of the n-th batch: `batch_size`, or what is left at the end of an epoch."""
        return min(self.batch_size, self.rows - _number(n) % len(self) * self.batch_size)

    def part(self, n: int, start: int, stop: int) -> Float[Tensor, "b width"]:
        """Rows start … stop − 1 of the n-th batch, as far as it has them."""
        start, stop = whole("start", start, 0), whole("stop", stop, 0)
        epoch, position = divmod(_number(n), len(self))
        begin = position * self.batch_size
        place = slice(begin + start, begin + min(stop, self.batch_size))
        return self.vectors[self._order(epoch)[place]] if self.shuffle else self.vectors[place]

    def _order(self, epoch: int) -> Tensor:
        """The order of one epoch; the last one asked for is kept."""
        if epoch not in self._orders:
            self._orders.clear()
            generator = torch.Generator().manual_seed(derived(self.seed, epoch))
            order = torch.randperm(self.rows, generator=generator)
            self._orders[epoch] = order.to(self.vectors.device)
        return self._orders[epoch]

    @cached_property
    def _orders(self) -> dict[int, Tensor]:
        return {}


class IterableStream:
    """Any re-iterable of batches as a stream: started again when it is exhausted.

    A batch may be the tensor itself or a sequence that begins with it, as a DataLoader over a TensorDataset gives.
    Batches come in order; asking for another one runs through those between. A resumed run is exact when the
    iterable gives the same batches each time.

    Args:
        batches: an iterable that can be started again: a list or a DataLoader, not a generator.

    Raises:
        BilensError: it can be iterated only once, or is empty; a batch is not a dense floating-point tensor in memory.
            ShapeError: a batch is not a matrix.
    """

    def __init__(self, batches: Iterable[Any]) -> None:
        if isinstance(batches, Tensor) and batches.ndim == 2:
            raise ShapeError(
                f"a tensor of shape {tuple(batches.shape)} as the stream",
                "a stream, or batches (b, width)",
                "pass sae.TensorStream(vectors)",
            )
        iterable = hasattr(batches, "__iter__") or hasattr(batches, "__getitem__")
        if not iterable or getattr(batches, "ndim", 1) == 0:  # a number of NumPy or torch has both
            instance(
                "the stream", batches, Stream, "batches that can be iterated", "pass a list, a DataLoader or a stream"
            )
        if isinstance(batches, Iterator):
            raise BilensError(
                f"a {type(batches).__name__}, which can be read once",
                "batches that can be read again",
                "pass a list, a DataLoader or a stream with batch(n)",
            )
        self._batches = batches
        self._iterator: Iterator[Any] | None = None
        self._next = 0
        self._last: Tensor | None = None

    @cached_property
    def width(self) -> int:
        """Size of a vector, read from the first batch."""
        return self.batch(0).shape[1]

    @cached_property
    def rows(self) -> int:
        """Vectors per epoch, counted by reading one."""
        return sum(len(_vectors(item)) for item in self._batches)

    def __len__(self) -> int:
        """Batches per epoch, counted by reading one where the iterable has no length."""
        return self._length

    @cached_property
    def _length(self) -> int:
        try:
            return len(self._batches)  # type: ignore[arg-type]
        except TypeError:
            return sum(1 for _ in self._batches)

    def batch(self, n: int) -> Float[Tensor, "b width"]:
        """The n-th batch, counted from the first epoch on."""
        n = _number(n)
        if n < self._next - 1:
            self._iterator, self._next, self._last = None, 0, None
        while self._last is None or self._next <= n:
            self._last = self._read()
            self._next += 1
        return self._last

    def _read(self) -> Tensor:
        if self._iterator is not None:
            for item in self._iterator:
                return _vectors(item)
        self._iterator = iter(self._batches)
        for item in self._iterator:
            return _vectors(item)
        raise BilensError("no batch", "at least one")


def as_stream(source: Stream | Iterable[Any]) -> Stream:
    """The source itself when it is a stream, else an `IterableStream` over it."""
    return source if isinstance(source, Stream) else IterableStream(source)


def _number(n: int) -> int:
    return whole("batch", n, 0)


def _vectors(item: Any) -> Tensor:
    vectors = item[0] if isinstance(item, (tuple, list)) and item else item
    if not isinstance(vectors, Tensor) or vectors.ndim != 2:
        shape = f"a tensor of shape {tuple(vectors.shape)}" if isinstance(vectors, Tensor) else type(item).__name__
        raise ShapeError(f"a batch that is {shape}", "a tensor (b, width)", "pass one vector per row")
    return plain(vectors)


def plain(vectors: Tensor) -> Tensor:
    """A batch without its graph.

    Raises:
        BilensError: not a dense floating-point tensor in memory.
    """
    checks.floating("a batch", vectors)
    checks.in_memory("a batch", vectors)
    return vectors.detach()
