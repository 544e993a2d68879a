"""Pairs of features by number: how they are counted, row by row, and the seeded order in which a stream takes them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from bilens._internal import checks
from bilens._internal.checks import whole
from bilens.errors import ShapeError

_FEATURES = 2**30
"""The most features whose pairs 64-bit numbers can count in the formula of `unranked`: 4m² stays below 2⁶³."""


def count(m: int) -> int:
    """How many pairs i ≤ j there are of m features: m(m+1)/2.

    Examples:
        >>> count(4)
        10
    """
    m = whole("m", m, 0)
    return m * (m + 1) // 2


def multiplicity(i: Int[Tensor, "*b"], j: Int[Tensor, "*b"]) -> Int[Tensor, "*b"]:
    """How often an unordered pair occurs in Σ_ij: 1 when i = j, else 2; its root weighs rows for singular values."""
    i, j = checks.integers("i", i), checks.integers("j", j)
    if i.shape != j.shape:
        raise ShapeError(f"i of shape {tuple(i.shape)} and j of {tuple(j.shape)}", "as many of both")
    return 2 - (i == j).to(i.dtype)


def first(i: int, m: int) -> int:
    """Where row i of the pairs starts, the number of (i, i): i·m − i(i−1)/2; that of row m is `count`."""
    return i * m - i * (i - 1) // 2


def unrank(t: Int[Tensor, " b"], m: int) -> tuple[Int[Tensor, " b"], Int[Tensor, " b"]]:
    """The t-th pair (i, j), i ≤ j, of m features, counted row by row: (0,0), (0,1) … (0,m−1), (1,1) …

    Examples:
        >>> unrank(torch.arange(6), 3)
        (tensor([0, 0, 0, 1, 1, 2]), tensor([0, 1, 2, 1, 2, 2]))

    Row i starts at i·m − i(i−1)/2; its inverse is a root, corrected by one where rounding moved it.

    Raises:
        BilensError: not whole numbers, or one outside 0 … m(m+1)/2 − 1.
    """
    m = whole("m", m, 1, _FEATURES)
    return unranked(_places(t, count(m)), m)


def unranked(t: Int[Tensor, " b"], m: int) -> tuple[Int[Tensor, " b"], Int[Tensor, " b"]]:
    """As `unrank`, for int64 places that are known to be valid: nothing waits for a device."""
    # Row i starts at i(b − i)/2 with b = 2m + 1, and so t is in the row ⌊(b − √(b² − 8t))/2⌋. The root is rounded, in
    # float64, and may land just beside a whole number: one step down or up mends it, without a branch.
    b = 2 * m + 1
    i = ((b - torch.sqrt((b * b - 8 * t).double())) / 2).floor().to(torch.int64)
    i = i - (i * m - i * (i - 1) // 2 > t).to(torch.int64)
    i = i + ((i + 1) * m - (i + 1) * i // 2 <= t).to(torch.int64)
    return i, i + t - (i * m - i * (i - 1) // 2)


def segments(start: int, stop: int, m: int) -> Iterator[tuple[int, int, int]]:
    """The pairs start … stop−1 in the order of `unrank`, as (i, j, end): row i from j to end−1, row by row."""
    if start >= stop:
        return
    # Counted from the end, row m−1−k has k+1 pairs, and so the root of a triangular number is the row, exactly.
    i = m - 1 - (math.isqrt(8 * (count(m) - 1 - start) + 1) - 1) // 2
    while start < stop:
        j = i + start - first(i, m)
        end = min(m, j + stop - start)
        yield i, j, end
        start += end - j
        i += 1


def permuted(place: Int[Tensor, " b"], size: int, seed: int) -> Int[Tensor, " b"]:
    """Where a seeded permutation of 0 … size−1 puts these places: four Feistel rounds, walked until inside the range.

    Examples:
        >>> permuted(torch.arange(5), 5, seed=0).sort().values
        tensor([0, 1, 2, 3, 4])

    Each value is computed on its own, so that no list of `size` numbers is ever held. It is computed on the CPU, in
    32-bit arithmetic, and given back where `place` is.

    Cost: up to four walks per place on average, about 50 ns in spans of 10⁵ places; more per place in short calls.

    Raises:
        BilensError: not whole numbers, or one outside 0 … size−1. ShapeError: not a one-dimensional tensor.

    Source: Black and Rogaway, "Ciphers with arbitrary finite domains" (2002), cycle walking.
    """
    size, seed = whole("size", size, 1, 2**62), whole("seed", seed)
    place = _places(place, size)
    if place.ndim != 1:
        raise ShapeError(f"places of shape {tuple(place.shape)}", "a one-dimensional tensor")
    # The places are numbers of 2·half bits, the smallest even number of bits that holds them all. A Feistel network
    # permutes those whatever its round function is: each round adds a hash of one half to the other, which the same
    # hash takes away again. What it sends outside 0 … size−1 it is given again, until it comes back inside; as the
    # network is a permutation that walk ends, and no two walks meet. At most 4 · size numbers have that many bits,
    # so that it takes up to four steps on average.
    half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    mask = np.uint32((1 << half) - 1)
    todo = place.detach().cpu().numpy()
    value = todo.copy()
    where = np.arange(len(value))
    while len(where):
        high, low = (todo >> half).astype(np.uint32), (todo & int(mask)).astype(np.uint32)
        for turn in range(4):
            mixed = _mixed(low, seed * 4 + turn)
            mixed &= mask
            mixed ^= high
            high, low = low, mixed
        todo = (high.astype(np.int64) << half) | low
        value[where] = todo
        outside = np.flatnonzero(todo >= size)
        todo, where = todo[outside], where[outside]
    return torch.from_numpy(value).to(place.device, non_blocking=True)


def _places(t: Tensor, size: int) -> Tensor:
    return checks.integers("places", t, 0, size - 1)


def _mixed(value: NDArray[np.uint32], key: int) -> NDArray[np.uint32]:
    """A hash of 32-bit numbers: multiply, add a key, fold the high bits down; its low 31 bits are what is kept."""
    # uint32 wraps, and the low 31 bits of a wrapped product are those of the true one. The constants are odd, so that
    # no multiplication loses anything; NumPy scalars of the same type keep the arrays from being widened.
    key = (key * 0x9E3779B97F4A7C15 + 0x7F4A7C15) & 0x7FFFFFFF
    low = np.uint32(0x7FFFFFFF)
    value = value ^ np.uint32(key)
    value *= np.uint32(0x45D9F3B)
    value &= low
    value ^= value >> np.uint32(15)
    value *= np.uint32(0x2C1B3C6D)
    value += np.uint32(key)
    value &= low
    value ^= value >> np.uint32(13)
    return value
