"""Block Lanczos on many symmetric matrices at once: the ends of their spectra, step 2 of README.md."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from bilens.decompose import linalg
from bilens.decompose.many import _bounds

Product = Callable[[Tensor], Tensor]
"""From vectors (n, b, i) to Q v for each of them, the n matrices in their order."""

Choice = Callable[[Tensor], Tensor]
"""From values (n, m) to the places (n, w) of those that are wanted, in the order in which they are wanted."""

Random = Callable[[int, int], Tensor]
"""Random vectors (n, b, i), from n and b."""

CHECKS = (24, 48, 96)
"""Products of the search for copies: first so many, then more for the matrices that these do not resolve. What 96 leave
open is not complete: it is solved in full, for which 96 steps more would pay half."""

SAMPLE = 16
"""Matrices that are looked at to see whether half of all are done: T of every one would cost a tenth of the search."""

LOOKS = 12
"""A look at T comes with every twelfth more of steps, so that at most a twelfth is too many, a twenty-fourth mostly."""

LITTLE = 0.1
"""Part of a vector that is left when it is made orthogonal to others, below which this is done once more: rounding is
as much larger beside what is left. Textbooks take 1/√2, for rows orthonormal to ε; here √ε is enough."""

CACHE = 2**22
"""Bytes of rows that are read twice in a row, the second time from the cache: of a core's share of the last level."""


class Ends(NamedTuple):
    """Ritz pairs at the ends of n spectra.

    values: θ, (n, w), in the order in which they were wanted; vectors: (n, w, i), rows. lower, upper: (n,), every
    eigenvalue that is not listed is estimated to lie between them. complete: (n,), whether every wanted pair met the
    tolerance and no further copy of one was found. scale: (n,), the largest |θ|.
    """

    values: Tensor
    vectors: Tensor
    lower: Tensor
    upper: Tensor
    complete: Tensor
    scale: Tensor


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
    is done when the residual of every wanted pair is at most tol · max|θ|, or when K has `limit` dimensions.

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
    if limit < max(8 * block, wanted + 2 * block):  # a few large blocks have no room to converge
        block = 1
    space = Krylov(random(n, block), min(limit, expected), random)
    active = torch.arange(n, device=device)
    multiply, look = product(active), max(wanted + block, min(expected // 2, limit))
    places, starts, found = [], [], []
    while len(active):
        space.step(multiply)
        last = space.size + block > limit
        if space.size < look and not last:
            continue
        look = space.size + max(block, space.size // LOOKS)
        if not last:  # taking matrices out copies the rows of all others: half of them at a time, not one by one
            levels, _, residuals = space.ritz(slice(None, None, max(1, len(active) // SAMPLE)))
            if float(_met(levels, residuals, choose(levels), tol).double().mean()) < 0.5:
                continue
        levels, columns, residuals = space.ritz()
        met = _met(levels, residuals, choose(levels), tol)
        done = (met | last).nonzero()[:, 0]
        going = (~(met | last)).nonzero()[:, 0]
        if not len(done):
            continue
        rows, levels, columns = space.rows[done, : space.size], levels[done], columns[done]
        chosen = choose(levels)
        lower, upper = _bounds.beyond(space.coupling[done], levels, columns, chosen, dim=dim, dtype=dtype)
        vectors = columns.gather(2, chosen[:, None].expand(-1, space.size, -1)).mT.to(dtype) @ rows
        complete, scale = met[done] & _orthonormal(rows), levels.abs().amax(dim=1)
        found.append(Ends(levels.gather(1, chosen), vectors, lower, upper, complete, scale))
        places.append(active[done])
        start = random(len(done), block)
        for _ in range(2):  # the first pass leaves its rounding along the rows, the second takes that away
            start = space.split(start, rows)[1]
        starts.append(start)
        active = active[going]
        if len(active):
            multiply = product(active)
            space.keep(going)
    order = torch.cat(places).argsort()
    answer = Ends(*(torch.cat(column)[order] for column in zip(*found, strict=True)))
    least = 16 * torch.finfo(dtype).eps  # values nearer than this differ by rounding, whether or not there is a copy
    return _checked(answer, torch.cat(starts)[order], product, choose, random=random, tol=max(tol, least))


def _met(levels: Tensor, residuals: Tensor, chosen: Tensor, tol: float) -> Tensor:
    return residuals.gather(1, chosen).amax(dim=1) <= tol * levels.abs().amax(dim=1)


def _orthonormal(rows: Tensor) -> Tensor:
    """Whether the rows of (n, m, i) are orthonormal to √ε, for which the values of T are right to rounding, (n,).

    Source: Simon (1984), "semiorthogonality".
    """
    products = torch.bmm(rows, rows.mT)
    products.diagonal(dim1=1, dim2=2).sub_(1)
    return products.abs().amax(dim=(1, 2)) <= math.sqrt(torch.finfo(rows.dtype).eps)


def _checked(
    answer: Ends, starts: Tensor, product: Callable[[Tensor], Product], choose: Choice, *, random: Random, tol: float
) -> Ends:
    """The answer, complete only where no further copy of an eigenvalue shows that would have been wanted.

    One start vector finds one copy of an eigenvalue. So some steps from another, which begins orthogonal to all of K
    and stays so to the pairs found, look for what is left: of the ends of the spectrum, these are the further copies
    alone. Where copies of the pairs found would change the answer by less than the residuals of the Ritz values that
    show none, more steps are taken. A matrix that shows a wanted one, or one beyond its bounds, is not complete.
    """
    complete, lower, upper = answer.complete.clone(), answer.lower.clone(), answer.upper.clone()

    def change(listed: Tensor, more: Tensor) -> Tensor:
        """By how much the wanted values would be others if these were there too, (n,)."""
        both = torch.cat([listed, more], dim=1)
        return (both.gather(1, choose(both)) - listed).abs().amax(dim=1)

    room = answer.vectors.shape[2] - answer.vectors.shape[1]
    block = min(starts.shape[1], room)
    open_ = complete.nonzero()[:, 0]
    for products in CHECKS if room else ():
        if not len(open_):
            break
        multiply, steps = product(open_), min(products // block, room // block)
        space = Krylov(starts[open_, :block], steps * block, random, besides=answer.vectors[open_])
        for _ in range(steps):
            space.step(multiply)
        found, _, residuals = space.ritz()
        listed, slack = answer.values[open_], tol * answer.scale[open_]
        (low, lowest), (high, highest) = found.min(dim=1), found.max(dim=1)
        off = residuals.gather(1, torch.stack([lowest, highest], dim=1))
        none = (change(listed, found) <= slack) & (low >= lower[open_] - slack) & (high <= upper[open_] + slack)
        copies = change(listed, listed)  # as if each listed value were there twice: what must be told from residuals
        beyond = change(listed, torch.cat([found - residuals, found + residuals], dim=1))
        resolved = (copies <= slack) | (off.amax(dim=1) <= copies) | (beyond <= slack)
        complete[open_] = none & (resolved | (products < CHECKS[-1]))
        # A value that the bounds leave out shows that something is there, as near as its residual says.
        lower[open_] = torch.where(low < lower[open_], low - off[:, 0], lower[open_])
        upper[open_] = torch.where(high > upper[open_], high + off[:, 1], upper[open_])
        open_ = open_[none & ~resolved]
    return answer._replace(complete=complete, lower=lower, upper=upper)


class Krylov:
    """Orthonormal rows of n spaces span{X, QX, …} that grow side by side, and T = V Q Vᵀ on them in float64.

    Args:
        start: X, (n, b, i); room: dimensions to make room for at first; random: vectors to go on with where a space is
            exhausted; besides: orthonormal rows (n, w, i) that all of it stays orthogonal to, and T leaves out.
    """

    def __init__(self, start: Tensor, room: int, random: Random, besides: Tensor | None = None) -> None:
        n, self.block, dim = start.shape
        self.besides = 0 if besides is None else besides.shape[1]
        self.rows = start.new_empty(n, self.besides + room + self.block, dim)
        self.small = torch.zeros(n, room, room, dtype=torch.float64, device=start.device)
        self.size = -self.block  # of T; the rows are a block ahead
        self._held, self._random = self.besides, random
        self._scale = start.new_zeros(n)  # largest ‖Q v‖ so far
        if besides is not None:
            self.rows[:, : self.besides] = besides
            start = self._cleared(start)[1]
        self.coupling = self._append(start)

    def keep(self, matrices: Tensor) -> None:
        """Go on with some of the matrices alone."""
        self.rows, self.small = self.rows[matrices], self.small[matrices]
        self.coupling, self._scale = self.coupling[matrices], self._scale[matrices]

    def step(self, multiply: Product) -> None:
        """Q times the last block: its part along the rows is the next of T, what is left the next block."""
        b, held = self.block, self._held
        if self.size + b > self.small.shape[1]:
            more = self.small.shape[1] // 4 + b  # a quarter: rows far apart are slow to read and write
            self.rows = functional.pad(self.rows, (0, 0, 0, more))
            self.small = functional.pad(self.small, (0, more, 0, more))
        along, rest = self._cleared(multiply(self.rows[:, held - b : held]))
        along, new = along[:, self.besides :].double(), slice(held - b - self.besides, held - self.besides)
        # The whole column and not its band alone: what rounding puts outside the band is part of V Q Vᵀ as well.
        self.small[:, : new.stop, new], self.small[:, new, : new.stop] = along, along.mT
        self.coupling = self._append(rest)

    def ritz(self, some: slice = slice(None)) -> tuple[Tensor, Tensor, Tensor]:
        """Eigenvalues (n, m) of T, eigenvectors (n, m, m) as columns, and the residuals (n, m) of the Ritz pairs."""
        levels, columns = linalg.eigh(self.small[some, : self.size, : self.size])
        # Q V s − θ V s lies along the next block alone, so that its norm takes no product with Q.
        residuals = torch.linalg.vector_norm(self.coupling[some] @ columns[:, -self.block :], dim=1)
        return levels, columns, residuals

    def _cleared(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The part of each vector along the rows, (n, held, b), and what is left of it, (n, b, i).

        In exact arithmetic all of that part lies along the last two blocks. It goes first, so that what one pass over
        all rows then takes away is rounding, and a second pass is the exception.
        """
        held = self._held
        last = min(2 * y.shape[1], held)
        near, y = self.split(y, self.rows[:, held - last : held])
        before = torch.linalg.vector_norm(y, dim=2)
        self._scale = torch.maximum(self._scale, (near.square().sum(dim=1) + before.square()).sqrt().amax(dim=1))
        along, rest = self.split(y, self.rows[:, :held])
        along[:, held - last :] += near
        if _shrunk(rest, before):
            more, rest = self.split(rest, self.rows[:, :held])
            along += more
        return along, rest

    def _append(self, y: Tensor) -> Tensor:
        """Add b vectors as rows, orthonormal among themselves too; the triangle (n, b, b) that makes them of the rows.

        A vector of which nothing is left but rounding is replaced by a random one, with zeros in the triangle.
        """
        triangle = torch.zeros(len(y), self.block, self.block, dtype=torch.float64, device=y.device)
        none = 10 * torch.finfo(y.dtype).eps * self._scale
        for c in range(self.block):
            vector = y[:, c : c + 1]
            if c:
                before = torch.linalg.vector_norm(vector, dim=2)
                along, vector = self.split(vector, self.rows[:, self._held - c : self._held])
                triangle[:, :c, c] = along[:, :, 0]
                if _shrunk(vector, before):  # what is left may lie along any row
                    for _ in range(2):
                        along, vector = self.split(vector, self.rows[:, : self._held])
                        triangle[:, :c, c] += along[:, self._held - c :, 0]
            length = torch.linalg.vector_norm(vector, dim=2)[:, 0]
            gone = length <= none
            triangle[:, c, c] = torch.where(gone, 0, length)
            if bool(gone.any()):
                vector = torch.where(gone[:, None, None], self._fresh(), vector)
                length = torch.where(gone, 1, length)
            self.rows[:, self._held] = vector[:, 0] / length[:, None]
            self._held += 1
        self.size += self.block
        return triangle

    def _fresh(self) -> Tensor:
        """A random unit vector (n, 1, i) for each matrix, orthogonal to its rows."""
        vector = self._random(len(self.rows), 1)
        for _ in range(2):
            vector = self.split(vector, self.rows[:, : self._held])[1] if self._held else vector
            vector = functional.normalize(vector, dim=2)
        return vector

    @staticmethod
    def split(y: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The part of vectors (n, b, i) along orthonormal rows (n, r, i), as (n, r, b), and what is left of them."""
        n, b, dim = y.shape
        along, rest = y.new_empty(n, rows.shape[1], b), torch.empty_like(y)
        # A product with one vector is slow in batches, one with two is not.
        twice = y.expand(-1, 2, -1).contiguous() if b == 1 else y
        some = n if y.is_cuda else max(1, CACHE // (rows.shape[1] * dim * rows.itemsize))
        for start in range(0, n, some):
            part = slice(start, start + some)
            along[part] = torch.bmm(rows[part], twice[part].mT)[:, :, :b]
            torch.baddbmm(y[part], along[part].mT, rows[part], alpha=-1, out=rest[part])
        return along, rest


def _shrunk(rest: Tensor, before: Tensor) -> bool:
    """Whether little is left of a vector; on a GPU always, where to look at a number is to wait for it."""
    return rest.is_cuda or bool((torch.linalg.vector_norm(rest, dim=2) < LITTLE * before).any())
