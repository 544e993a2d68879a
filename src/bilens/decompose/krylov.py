"""Block Lanczos on many symmetric matrices at once: the ends of their spectra, and what may lie beyond them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bilens.decompose import symmetric

Product = Callable[[Tensor], Tensor]
"""From vectors (n, b, i) to Q v for each of them, the n matrices in their order."""

Choice = Callable[[Tensor], Tensor]
"""From values (n, m) to the places (n, w) of those that are wanted, in the order in which they are wanted."""

CHECKS = 24
"""Products for further copies of an eigenvalue, from a random vector orthogonal to the whole Krylov space."""

MOST_CHECKS = 4 * CHECKS
"""As many where fewer do not resolve them; a matrix that they leave open is not complete."""

LEAST_CHECKS = 4
"""Steps of that check at least, where a step takes several vectors."""

_LOOKED_AT = 16
"""Matrices whose convergence is looked at to see whether it is time to look at all."""

_SHARE = 0.5
"""Part of the matrices that must be done before they are taken out and the others go on."""

_CAUTION = 0.6
"""Part of the steps that a line through the last two errors asks for: convergence only gets faster."""

_AGREE = 1.05
"""How far an error may be above the tolerance in float64 that met it in the type of the vectors."""

_STEEP = 0.05
"""Part of the largest ‖Q v‖ below which what is left of a vector is mostly rounding if it is not cleared at once."""

_SEMI = 1.0
"""How far from orthonormal a Krylov space may be, in √ε."""

_MOST = 0.71
"""Part of a vector that must be left after it is made orthogonal to others, or rounding asks for it once more."""

_AT_A_TIME = 2**22
"""Bytes of rows that are read twice in a row, from memory and then from the cache."""

_POINTS = 24
"""Places within a gap between two Ritz values at which it is asked whether an eigenvalue may lie there."""


@dataclass(frozen=True, eq=False)
class Ends:
    """Ritz pairs at the ends of n spectra.

    Args:
        values: θ, (n, w), in the order in which they were wanted; vectors: (n, w, i), rows.
        lower, upper: (n,), every eigenvalue that is not listed lies between them, or so close to a listed one that the
            Krylov space does not tell them apart; but for a chance of `failure`.
        complete: (n,), whether every wanted pair met the tolerance and no further copy of one was found.
        scale: (n,), the largest |θ|.
    """

    values: Float[Tensor, "n w"]
    vectors: Float[Tensor, "n w i"]
    lower: Float[Tensor, " n"]
    upper: Float[Tensor, " n"]
    complete: Bool[Tensor, " n"]
    scale: Float[Tensor, " n"]


def failure(dtype: torch.dtype) -> float:
    """The chance, over the random start, that bounds are wrong: as small as the rounding of the type lets it be."""
    return 1e-6 if dtype == torch.float64 else 1e-3


def ends(
    product: Callable[[Tensor], Product],
    choose: Choice,
    *,
    n: int,
    dim: int,
    block: int,
    tol: float,
    expected: int,
    limit: int,
    dtype: torch.dtype,
    device: torch.device,
    seed: int,
) -> Ends:
    """The wanted Ritz pairs of n symmetric i × i matrices by block Lanczos with full orthogonalisation.

    On K = span{X, QX, Q²X, …} of random X, T = V Q Vᵀ with V orthonormal, and the Ritz pairs are those of T. A matrix
    is done when the residual of every wanted pair is at most tol · max|θ|, or when K has `limit` dimensions. Where K is
    exhausted before, it continues from a new random vector. One start vector finds one copy of an eigenvalue. So some
    steps from another one, which begins orthogonal to all of K and stays so to the pairs found, look for what is left:
    of the ends of the spectrum these are the further copies alone. A matrix of which they show one that was wanted, or
    one beyond the bounds, is not complete.

    Args:
        product: the products with the matrices of these numbers; choose: which values are wanted; n: how many
            matrices; dim: i.
        block: vectors of X; tol: relative tolerance; expected: dimensions of K that make room at first; limit: at most;
        seed: of all random vectors.

    Source: Golub and Underwood, "The block Lanczos method for computing eigenvalues" (1977).
    """
    generator = torch.Generator().manual_seed(seed % 2**63)

    def random(matrices: int, rows: int) -> Tensor:
        return torch.randn(matrices, rows, dim, generator=generator, dtype=torch.float64).to(device, dtype)

    limit = min(limit, dim)
    wanted = choose(torch.zeros(1, dim, device=device)).shape[1]
    block = block if min(dim, limit) >= max(8 * block, wanted + 2 * block) else 1
    if block > 1:  # a whole block more must fit in
        limit = min(limit, dim - block) // block * block
    # Room that is never used would still cost: rows far apart are slow to write and to read.
    room = min(limit, max(expected // block * block, 2 * block))
    basis = _Basis(torch.empty(n, min(room + block, dim), dim, dtype=dtype, device=device), random, lazy=True)
    basis.append(random(n, block))
    projected = torch.zeros(n, room, room, dtype=torch.float64, device=device)
    starts = torch.zeros(n, block, dim, dtype=dtype, device=device)
    look, before = max(wanted + block, min(expected // 2, limit)), (0, math.inf)
    active = torch.arange(n, device=device)
    multiply = product(active)
    values = torch.zeros(n, wanted, dtype=torch.float64, device=device)
    answer = Ends(
        values,
        torch.zeros(n, wanted, dim, dtype=dtype, device=device),
        torch.zeros_like(values[:, 0]),
        torch.zeros_like(values[:, 0]),
        torch.zeros(n, dtype=torch.bool, device=device),
        torch.zeros_like(values[:, 0]),
    )
    while True:
        size = basis.size
        if size > room:
            room = min(limit, room + max(room // 4 // block, 1) * block)
            projected = _with_room(projected, room, room)
            basis.rows = _with_room(basis.rows, min(room + block, dim), dim)
        columns, rest = basis.project(multiply(basis.rows[:, size - block : size]))
        projected[:, :size, size - block : size] = columns
        projected[:, size - block : size, :size] = columns.mT
        full = size + block > limit
        coupling = basis.append(rest) if size < dim else torch.zeros_like(projected[:, :block, :block])
        if size < look and not full:
            continue
        if not full:
            some = slice(None, None, max(1, len(active) // _LOOKED_AT))
            errors = _ritz(projected[some, :size, :size].to(dtype), coupling[some].to(dtype), choose).error
            middle = float(errors.quantile(_SHARE))
            if middle > tol:
                look, before = _next_look(size, middle, before, tol, block), (size, middle)
                continue
        near = _ritz(projected[:, :size, :size].to(dtype), coupling.to(dtype), choose)
        done = (near.error <= tol) | full
        rows, going = done.nonzero()[:, 0], (~done).nonzero()[:, 0]
        look, before = size + max(block, size // 24), (0, math.inf)
        if not len(rows):
            continue
        found = _ritz(projected[rows, :size, :size], coupling[rows], choose)
        space = basis.rows[rows, :size]
        vectors = torch.bmm(found.rows.to(dtype), space)
        complete = (found.error <= _AGREE * tol) & _orthonormal(space)
        lower, upper = _beyond(projected[rows, :size, :size], coupling[rows], found, block=block, dim=dim, dtype=dtype)
        place = active[rows]
        answer.values[place], answer.vectors[place] = found.values, vectors
        answer.complete[place], answer.scale[place] = complete, found.scale
        answer.lower[place], answer.upper[place] = lower, upper
        start = random(len(rows), block)
        for _ in range(2):
            start = basis.split(start, space)[1]
        starts[place] = start
        if not len(going):
            break
        active, multiply = active[going], product(active[going])
        basis.keep(going)
        projected = projected[going]
    least = 16 * torch.finfo(dtype).eps
    return _checked(answer, starts, product, choose, random=random, tol=max(tol, least))


def _checked(
    answer: Ends,
    starts: Tensor,
    product: Callable[[Tensor], Product],
    choose: Choice,
    *,
    random: Callable[[int, int], Tensor],
    tol: float,
) -> Ends:
    """The answer, complete only where no further copy of an eigenvalue shows that would have been wanted.

    What a few products do not resolve is asked with twice as many: where copies of the pairs found would change the
    answer by less than the residuals of the Ritz values that show none.
    """
    complete, lower, upper = answer.complete.clone(), answer.lower.clone(), answer.upper.clone()

    def change(listed: Tensor, more: Tensor) -> Tensor:
        """By how much the wanted values would be others if these were there too, (n,)."""
        both = torch.cat([listed, more], dim=1)
        return (both.gather(1, choose(both)) - listed).abs().amax(dim=1)

    open_, products = complete.nonzero()[:, 0], CHECKS
    while len(open_):
        found, residuals = _check(answer.vectors[open_], starts[open_], product(open_), random, products)
        if not found.shape[1]:
            break
        listed, slack = answer.values[open_], tol * answer.scale[open_]
        low, lowest = found.min(dim=1)
        high, highest = found.max(dim=1)
        none = (change(listed, found) <= slack) & (low >= lower[open_] - slack) & (high <= upper[open_] + slack)
        copies = change(listed, listed)
        at_ends = residuals.gather(1, torch.stack([lowest, highest], dim=1))
        coarse = at_ends.amax(dim=1)
        beyond = change(listed, torch.cat([found - residuals, found + residuals], dim=1))
        resolved = (copies <= slack) | (coarse <= copies) | (beyond <= slack)
        products *= 2
        complete[open_] = none & (resolved | (products <= MOST_CHECKS))
        # A value that the bounds leave out shows that something is there, as near as its residual says.
        lower[open_] = torch.where(low < lower[open_], low - at_ends[:, 0], lower[open_])
        upper[open_] = torch.where(high > upper[open_], high + at_ends[:, 1], upper[open_])
        open_ = open_[none & ~resolved]
        if products > MOST_CHECKS:
            break
    return replace(answer, complete=complete, lower=lower, upper=upper)


def _orthonormal(rows: Tensor) -> Tensor:
    """Whether the rows of (n, m, i) are orthonormal to √ε, for which the values of T are right to rounding, (n,).

    Source: Simon (1984), "semiorthogonality".
    """
    products = torch.bmm(rows, rows.mT)
    products.diagonal(dim1=1, dim2=2).sub_(1)
    return products.abs().amax(dim=(1, 2)) <= _SEMI * math.sqrt(torch.finfo(rows.dtype).eps)


def _with_room(old: Tensor, rows: int, columns: int) -> Tensor:
    new = old.new_zeros(len(old), rows, columns)
    new[:, : old.shape[1], : old.shape[2]] = old
    return new


class _Basis:
    """Orthonormal rows of n Krylov spaces, which grow side by side.

    Args:
        rows: room for them; random: vectors to go on with, by matrices and how many of each.
        lazy: whether every second block may wait for the next to be made orthogonal to all.
    """

    def __init__(self, rows: Tensor, random: Callable[[int, int], Tensor], *, lazy: bool) -> None:
        self.rows = rows
        self._lazy = lazy and not rows.is_cuda  # where looking at a number means waiting for it
        self.size = 0
        self._random = random
        self._scale = rows.new_zeros(len(rows))  # largest ‖Q v‖ so far
        self._owed = False  # whether the last block is orthogonal to the two before it alone

    def keep(self, matrices: Tensor) -> None:
        """Go on with some of the matrices alone."""
        self.rows, self._scale = self.rows[matrices], self._scale[matrices]

    def project(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The part of each vector along the rows, (n, size, b), and what is left of it, (n, b, i).

        In exact arithmetic all of that part lies along the last two blocks, and it goes first. What rounding leaves
        along the others grows from block to block; one pass over all rows for every second block, with the block before
        it, takes it away before it matters (Simon, "The Lanczos algorithm with partial reorthogonalization", 1984).
        """
        b, size = y.shape[1], self.size
        last = min(2 * b, size)
        near, y = self.split(y, self.rows[:, size - last : size])
        before = torch.linalg.vector_norm(y, dim=2)
        self._scale = torch.maximum(self._scale, (near.square().sum(dim=1) + before.square()).sqrt().amax(dim=1))
        along = y.new_zeros(len(y), size, b)
        along[:, size - last :] = near
        steep = y.is_cuda or bool((before < _STEEP * self._scale[:, None]).any())
        if self._lazy and not self._owed and not steep:
            self._owed = True
            return along.to(torch.float64), y
        if self._owed:
            more, both = self.split(torch.cat([self.rows[:, size - b : size], y], dim=1), self.rows[:, : size - b])
            self.rows[:, size - b : size], rest = both[:, :b], both[:, b:]
            along[:, : size - b] += more[:, :, b:]
        else:
            more, rest = self.split(y, self.rows[:, :size])
            along += more
        again = steep and self._owed  # what little is left has not been cleared of the last block
        self._owed = False
        if again or y.is_cuda or bool((torch.linalg.vector_norm(rest, dim=2) < _MOST * before).any()):
            more, rest = self.split(rest, self.rows[:, :size])
            along += more
        return along.to(torch.float64), rest

    def append(self, y: Tensor) -> Tensor:
        """Add b vectors as rows, orthonormal among themselves too; the triangle (n, b, b) that makes them of the rows.

        A vector of which nothing is left but rounding is replaced by a random one, with zeros in the triangle.
        """
        b = y.shape[1]
        triangle = torch.zeros(len(y), b, b, dtype=torch.float64, device=y.device)
        none = 10 * torch.finfo(y.dtype).eps * self._scale
        for c in range(b):
            vector = y[:, c]
            if c:
                was = torch.linalg.vector_norm(vector, dim=1)
                vector = self._clear(vector, triangle[:, :c, c], self.rows[:, self.size - c : self.size])
                if y.is_cuda or bool((torch.linalg.vector_norm(vector, dim=1) < _STEEP * was).any()):
                    # What it shares with the block is gone, and what is left may lie along any row.
                    for _ in range(2):
                        vector = self._clear(vector, triangle[:, :c, c], self.rows[:, : self.size])
            length = torch.linalg.vector_norm(vector, dim=1)
            gone = length <= none
            triangle[:, c, c] = torch.where(gone, 0, length)
            if bool(gone.any()):
                vector = torch.where(gone[:, None], self._fresh(), vector)
                length = torch.where(gone, 1, length)
            self.rows[:, self.size] = vector / length[:, None]
            self.size += 1
        return triangle

    def _clear(self, vector: Tensor, along: Tensor, rows: Tensor) -> Tensor:
        """What is left of a vector (n, i) without its part along rows, whose last coefficients are added to `along`."""
        more, rest = self.split(vector[:, None], rows)
        along += more[:, len(more[0]) - along.shape[1] :, 0]
        return rest[:, 0]

    @staticmethod
    def split(y: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The part of vectors (n, b, i) along orthonormal rows (n, r, i), as (n, r, b), and what is left of them."""
        n, b, dim = y.shape
        some = max(1, _AT_A_TIME // (rows.shape[1] * dim * rows.itemsize))
        along, rest = y.new_empty(n, rows.shape[1], b), torch.empty_like(y)
        # A product with one vector is slow in batches, one with two is not.
        twice = y.expand(-1, 2, -1).contiguous() if b == 1 else y
        for part in [slice(None)] if y.is_cuda else [slice(start, start + some) for start in range(0, n, some)]:
            along[part] = torch.bmm(rows[part], twice[part].mT)[:, :, :b]
            torch.baddbmm(y[part], along[part].mT, rows[part], alpha=-1, out=rest[part])
        return along, rest

    def _fresh(self) -> Tensor:
        """A random unit vector for each matrix, orthogonal to its rows."""
        vector = self._random(len(self.rows), 1)
        for _ in range(2):
            vector = self.split(vector, self.rows[:, : self.size])[1]
            vector = vector / torch.linalg.vector_norm(vector, dim=2, keepdim=True)
        return vector[:, 0]


@dataclass(frozen=True, eq=False)
class _Ritz:
    """All eigenpairs of T, and of those that are wanted their values, rows and relative residual."""

    levels: Tensor
    columns: Tensor
    chosen: Tensor
    values: Tensor
    rows: Tensor
    error: Tensor
    scale: Tensor


def _ritz(projected: Tensor, coupling: Tensor, choose: Choice) -> _Ritz:
    levels, columns = symmetric.eigh(projected)
    chosen = choose(levels)
    rows = columns.gather(2, chosen[:, None].expand(-1, columns.shape[1], -1)).mT
    residual = torch.linalg.vector_norm(rows[:, :, -coupling.shape[1] :] @ coupling.mT, dim=2).amax(dim=1)
    scale = levels.abs().amax(dim=1)
    error = torch.where(scale > 0, residual / scale.clamp(min=torch.finfo(scale.dtype).tiny), 0)
    return _Ritz(levels, columns, chosen, levels.gather(1, chosen), rows, error, scale)


def _next_look(size: int, error: float, before: tuple[int, float], tol: float, block: int) -> int:
    """The size at which to look again: most of the way to where a line through the logarithms meets the tolerance."""
    earlier, was = before
    if not (0 < error < was < math.inf):
        return size + max(block, size // 8)
    steps = (size - earlier) * math.log(error / tol) / math.log(was / error)
    return size + max(block, min(math.ceil(_CAUTION * steps), size // 4))


def _check(
    vectors: Tensor, starts: Tensor, multiply: Product, random: Callable[[int, int], Tensor], products: int
) -> tuple[Tensor, Tensor]:
    """Ritz values and their residuals, on Krylov spaces orthogonal to vectors (n, w, i), from starts (n, b, i)."""
    n, listed, dim = vectors.shape
    block = min(starts.shape[1], dim - listed)
    if block == 0:
        return (vectors.new_zeros(n, 0, dtype=torch.float64),) * 2
    steps = min(max(products // block, LEAST_CHECKS), (dim - listed) // block)
    basis = _Basis(vectors.new_empty(n, listed + steps * block, dim), random, lazy=False)
    basis.rows[:, :listed], basis.size = vectors, listed
    basis.append(basis.project(starts[:, :block])[1])
    small = torch.zeros(n, steps * block, steps * block, dtype=torch.float64, device=vectors.device)
    rest = starts
    for step in range(steps):
        size = basis.size - listed
        along, rest = basis.project(multiply(basis.rows[:, basis.size - block : basis.size]))
        small[:, :size, size - block : size] = along[:, listed:]
        small[:, size - block : size, :size] = along[:, listed:].mT
        if step + 1 < steps:
            basis.append(rest)
    values, columns = symmetric.eigh(small)
    gram = torch.bmm(rest, rest.mT).to(torch.float64)
    last = columns[:, -block:]
    return values, (last * torch.bmm(gram, last)).sum(dim=1).clamp(min=0).sqrt()


def _beyond(
    projected: Tensor, coupling: Tensor, found: _Ritz, *, block: int, dim: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Between which numbers, (n,) each, the eigenvalues lie that are not listed.

    Let T s_l = θ_l s_l on the Krylov space of one start vector, with residuals β s_ml. An eigenvector of eigenvalue t
    whose part along the start is γ has γ = |v_{m+1} Σ_l s_1l β s_ml / (θ_l − t)|, v_{m+1} ≤ 1 its part along the next
    vector. So where the sum is below δ, there is no eigenvalue but one with γ < δ, and the chance of that is at most
    δ √(2 i/π) for a random start in i dimensions. Of the eigenvalues from each end on, only the first w + 1 need it.

    Source: van Dorsselaer, Hochstenbach and van der Vorst, "Computing probabilistic bounds for extreme eigenvalues of
    symmetric matrices with the Lanczos method" (2000), there for the extreme eigenvalue.
    """
    size, wanted = found.levels.shape[1], found.values.shape[1]
    delta = failure(dtype) / (2 * (wanted + 1) * math.sqrt(2 * dim / math.pi))
    if block == 1:
        poles, columns, last = found.levels, found.columns, coupling[:, 0, 0]
    else:
        poles, columns, last = _first_chain(projected, coupling, block)
    weights = columns[:, 0] * columns[:, -1] * last[:, None]

    listed = torch.zeros_like(found.levels, dtype=torch.bool).scatter_(1, found.chosen, True)
    width = (found.levels[:, -1] - found.levels[:, 0]).clamp(min=torch.finfo(torch.float64).tiny)
    slack = 64 * torch.finfo(dtype).eps * found.scale
    bounds = []
    for sign in (-1.0, 1.0):
        levels = found.levels if sign > 0 else -found.levels.flip(1)  # the end looked at is the upper one
        free = ~(listed if sign > 0 else listed.flip(1))
        first = size - 1 - free.flip(1).int().argmax(dim=1)  # the highest that is not listed
        nothing = ~free.any(dim=1)
        first = torch.where(nothing, size - 1, first)
        gaps = first[:, None] + torch.arange(min(wanted + 1, size), device=first.device)
        low = levels.gather(1, gaps.clamp(max=size - 1))
        high = levels.gather(1, (gaps + 1).clamp(max=size - 1))
        inside = (torch.arange(_POINTS, device=low.device, dtype=torch.float64) + 0.5) / _POINTS
        inside = inside.square()  # closer together at the low side
        points = low[:, :, None] + (high - low)[:, :, None] * inside
        beyond = 1e-9 * 10 ** torch.linspace(0, 12, _POINTS, device=low.device, dtype=torch.float64)
        outside = levels[:, -1:] + width[:, None] * beyond
        points = torch.where((gaps < size - 1)[:, :, None], points, outside[:, None]).flatten(1)
        ours = poles if sign > 0 else -poles.flip(1)
        parts = weights if sign > 0 else -weights.flip(1)
        distance = ours[:, None] - points[:, :, None]
        sums = (parts[:, None] / torch.where(distance == 0, torch.finfo(torch.float64).tiny, distance)).sum(dim=2)
        allowed = sums.abs() < delta
        place = allowed.int().argmax(dim=1, keepdim=True)  # the lowest
        bound = torch.where(allowed.any(dim=1), points.gather(1, place)[:, 0], torch.inf)
        bounds.append(sign * (bound + slack))
    return bounds[0], bounds[1]


def _first_chain(projected: Tensor, coupling: Tensor, block: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ritz values, vectors and last coupling of the Krylov space of the first start vector, which lies in the block's.

    Lanczos on T from its first coordinate vector is Lanczos on Q from the first start vector, for as long as the
    products stay within the space.
    """
    n, size = len(projected), projected.shape[1]
    steps = size // block
    rows = projected.new_zeros(n, steps + 1, size)
    rows[:, 0, 0] = 1
    small = projected.new_zeros(n, steps, steps)
    last = projected.new_zeros(n)
    for step in range(steps):
        vector = torch.bmm(rows[:, step : step + 1], projected)[:, 0]
        square = torch.zeros_like(last)
        if step + 1 == steps:  # what leaves the space
            square = (rows[:, step, None, -block:] @ coupling.mT).square().sum(dim=(1, 2))
        for turn in range(2):
            along = torch.linalg.vecdot(rows[:, : step + 1], vector[:, None])
            vector = vector - torch.bmm(along[:, None], rows[:, : step + 1])[:, 0]
            if turn == 0:
                small[:, : step + 1, step] = along
                small[:, step, : step + 1] = along
        last = (vector.square().sum(dim=1) + square).sqrt()
        rows[:, step + 1] = vector / last.clamp(min=torch.finfo(last.dtype).tiny)[:, None]
    levels, columns = symmetric.eigh(small)
    return levels, columns, last
