"""How many kernels of one layer are solved: by the method that costs least, and where that fails by the sure one."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from bilens.decompose import krylov, symmetric
from bilens.products import Packed, product

Which = Literal["magnitude", "positive", "negative", "both"]
"""The k largest |λ|; the k largest λ; the k smallest; the k largest and then the k smallest."""

Method = Literal["full", "formed", "factors"]
"""Every eigenpair of the formed kernels; Lanczos on the formed kernels; Lanczos on the factors, nothing formed."""

EIGH = {"cpu": 13.0, "cuda": 600.0}
"""What all eigenpairs of an i × i matrix cost, in i³ operations of a product of large matrices, by device."""

READ = {"cpu": 8.0, "cuda": 15.0}
"""Operations of a product of large matrices in the time in which one byte is read from memory, by device."""

REDUCE = 16.0
"""What a basis of the span of all factors costs, in i·(2h + w)² operations of a product of large matrices."""

LONGER = 0.4
"""With b start vectors a Krylov space converges at b^0.4 times the dimensions, measured on random weights."""

KRYLOV = {"cpu": 2**28, "cuda": 2**32}
"""Bytes of Krylov vectors to hold at a time."""

HIDDEN = 2**27
"""Bytes of hidden units to hold at a time when residuals are measured."""

CONVERTED = 2**24
"""Bytes of each factor to hold in float64 at a time, few enough to stay in a cache."""

FORMED = {"cpu": 2**28, "cuda": 2**32}
"""Bytes of formed kernels to hold at a time."""


@dataclass(frozen=True)
class Question:
    """What is asked of every kernel: k, which, tol and method as in `eigh_many`; work: the type to search in."""

    k: int
    which: Which
    tol: float
    method: Method | None
    work: torch.dtype
    seed: int

    @property
    def wanted(self) -> int:
        """Pairs of each kernel."""
        return 2 * self.k if self.which == "both" else self.k

    def choose(self, values: Tensor) -> Tensor:
        """Places (n, w) of the wanted among values (n, m), in the order in which they are wanted."""
        if self.which == "magnitude":
            return values.abs().argsort(dim=1, descending=True, stable=True)[:, : self.k]
        falling = values.argsort(dim=1, descending=True, stable=True)
        if self.which == "positive":
            return falling[:, : self.k]
        rising = falling.flip(1)[:, : self.k]
        return rising if self.which == "negative" else torch.cat([falling[:, : self.k], rising], dim=1)


@dataclass(frozen=True, eq=False)
class Answer:
    """Eigenpairs of n kernels in float64: the fields of `Spectra`."""

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    bounds: Tensor
    exact: Tensor

    @classmethod
    def empty(cls, n: int, wanted: int, dim: int, device: torch.device) -> Answer:
        """Room for n kernels, to be filled row by row."""
        values = torch.zeros(n, wanted, dtype=torch.float64, device=device)
        exact = torch.zeros(n, dtype=torch.bool, device=device)
        return cls(values, values.new_zeros(n, wanted, dim), values.clone(), values.new_zeros(n, 2), exact)

    def fill(self, rows: Tensor | slice, other: Answer) -> None:
        """Write the kernels of another answer into these rows."""
        self.values[rows], self.vectors[rows] = other.values, other.vectors
        self.residuals[rows], self.bounds[rows], self.exact[rows] = other.residuals, other.bounds, other.exact


def solve(left: Tensor, right: Tensor, weights: Tensor, ask: Question) -> Answer:
    """The wanted eigenpairs of ½ Σ_h w_h (L_h R_hᵀ + R_h L_hᵀ) for every row w.

    Args:
        left: L, (h, i); right: R, (h, i); weights: (n, h).
    """
    used = (weights != 0).any(dim=0)
    used[0] |= ~used.any()
    if not bool(used.all()):
        return solve(left[used], right[used], weights[:, used], ask)
    n, (hidden, dim), device = len(weights), left.shape, left.device.type
    span = 2 * hidden + ask.wanted
    given = costs(n, hidden, dim, ask, device)
    if span < dim:
        within = costs(n, hidden, span, ask, device)
        if ask.method is not None or REDUCE * dim * span**2 + min(within.values()) < min(given.values()):
            return _within_span(left, right, weights, ask, ask.method or cheapest(within))
    answer = Answer.empty(n, ask.wanted, dim, left.device)
    alone = torch.zeros(n, dtype=torch.bool, device=left.device)
    if ask.method is None:
        spans = 2 * (weights != 0).sum(dim=1).clamp(min=1) + ask.wanted
        alone = (spans < dim) & (EIGH[device] * spans.double() ** 3 < min(given.values()) / n) & (spans < span)
    for row in alone.nonzero()[:, 0].tolist():  # kernels of few hidden units
        answer.fill(slice(row, row + 1), solve(left, right, weights[row : row + 1], ask))
    rest = (~alone).nonzero()[:, 0]
    if len(rest):
        method = ask.method or cheapest(costs(len(rest), hidden, dim, ask, device))
        answer.fill(rest, _solve_by(method, _Layer(left, right), weights[rest], ask))
    return answer


def costs(n: int, hidden: int, dim: int, ask: Question, device: str) -> dict[Method, float]:
    """What each method would take for n kernels of a layer (h, i), in operations of a product of large matrices."""
    read = READ[device] * torch.finfo(ask.work).bits / 8
    form, passes = 2.0 * hidden * dim**2, steps(ask.wanted, dim)
    block = start_vectors(n)
    longer = block**LONGER
    along = 2.0 * (passes * longer) ** 2 * dim * read / 4  # every vector against those before it
    factors = passes * longer / block * 4.0 * hidden * dim * (2.0 * n * block + read)
    return {
        "full": n * (form + EIGH[device] * dim**3),
        "formed": n * (form + passes * longer * dim**2 * max(2.0, read) + along),
        "factors": factors + n * along,
    }


def cheapest(given: dict[Method, float]) -> Method:
    """The method of the lowest cost."""
    return min(given, key=lambda name: given[name])


def steps(wanted: int, dim: int) -> float:
    """Lanczos steps that the ends of a spectrum without gaps take, measured on random weights; others take fewer."""
    return min(float(dim), 4.0 * wanted + 6.0 * math.log2(dim) + 8.0)


def start_vectors(n: int) -> int:
    """Start vectors a kernel: with few kernels, reading the factors costs as much for some vectors as for one."""
    return min(8, 1 << int(math.log2(max(32 / n, 1))))


def _within_span(left: Tensor, right: Tensor, weights: Tensor, ask: Question, method: Method) -> Answer:
    """Kernels of few hidden units, in a basis of the rows of L and R and of as many null vectors as can be wanted."""
    generator = torch.Generator().manual_seed(ask.seed % 2**63)
    null = torch.randn(ask.wanted, left.shape[1], generator=generator, dtype=torch.float64).to(left.device)
    basis = torch.linalg.qr(torch.cat([left.double(), right.double(), null]).T)[0].T
    layer = _Layer(left.double() @ basis.T, right.double() @ basis.T)
    found = _solve_by(method, layer, weights, ask)
    zero = found.bounds.new_zeros(1)  # of the null vectors that are left out
    bounds = torch.stack([found.bounds[:, 0].minimum(zero), found.bounds[:, 1].maximum(zero)], dim=1)
    return replace(found, vectors=found.vectors @ basis, bounds=bounds)


class _Layer:
    """L and R, and what the products take of them, each made when it is asked for."""

    def __init__(self, left: Tensor, right: Tensor) -> None:
        self.left, self.right = left, right
        self.hidden, self.dim = left.shape
        self.device = left.device

    def formed(self, weights: Tensor, work: torch.dtype) -> Tensor:
        """The kernels (n, i, i), symmetric."""
        left, right = self.left.to(work), self.right.to(work)
        return _symmetric(torch.stack([product((left * w[:, None]).T, right.T) for w in weights.to(work)]))

    def most(self, weights: Tensor) -> Tensor:
        """Σ_h |w_h| ‖L_h‖ ‖R_h‖, which no |λ| of the kernels is above, (n,)."""
        sizes = torch.linalg.vector_norm(self.left, dim=1).double() * torch.linalg.vector_norm(self.right, dim=1)
        rounded: Tensor = weights.double().abs() @ sizes
        return rounded * (1 + self.dim * torch.finfo(self.left.dtype).eps)

    def images(self, weights: Tensor, rows: Tensor) -> Tensor:
        """Q v for rows (n, w, i), in float64, some hidden units at a time."""
        n, w, dim = rows.shape
        half, images = weights.double()[:, None] / 2, torch.zeros_like(rows)
        some = max(1, min(HIDDEN // (8 * n * w), CONVERTED // (8 * dim)))
        for start in range(0, self.hidden, some):
            units = slice(start, start + some)
            left, right = self.left[units].double(), self.right[units].double()
            images += torch.matmul(rows @ right.T * half[:, :, units], left)
            images += torch.matmul(rows @ left.T * half[:, :, units], right)
        return images


def _solve_by(method: Method, layer: _Layer, weights: Tensor, ask: Question) -> Answer:
    """By one method, some kernels at a time; those that it leaves open are solved in full in float64."""
    n, dim, device = len(weights), layer.dim, layer.device
    size = torch.finfo(ask.work).bits // 8
    most = FORMED[device.type] // (4 * dim**2 * size)
    if method == "factors":
        most = min(max(KRYLOV[device.type] // int(1.3 * steps(ask.wanted, dim) * dim * size), 16), 1024)
    factored = _Factored(layer, ask.work, min(n, most) * start_vectors(min(n, most))) if method == "factors" else None
    answer = Answer.empty(n, ask.wanted, dim, device)
    for part in torch.split(torch.arange(n, device=device), max(1, most)):
        w = weights[part]
        if method == "full":
            found = _full(layer, w, ask, ask.work)
        elif factored is not None:
            found = _by_krylov(functools.partial(_factored, factored, w.to(ask.work)), layer, w, ask)
        else:
            found = _by_krylov(functools.partial(_formed, layer.formed(w, ask.work)), layer, w, ask)
        unsolved = (~found.exact).nonzero()[:, 0]
        if len(unsolved) and (method, ask.work) != ("full", torch.float64):
            for rows in torch.split(unsolved, max(1, FORMED[device.type] // (32 * dim**2))):
                found.fill(rows, _full(layer, w[rows], ask, torch.float64))
        answer.fill(part, found)
    return answer


def _by_krylov(product: Callable[[Tensor], krylov.Product], layer: _Layer, weights: Tensor, ask: Question) -> Answer:
    n, hidden, dim = len(weights), layer.hidden, layer.dim
    block = start_vectors(n)
    full = 2.0 * hidden * dim**2 + EIGH[layer.device.type] * dim**3
    found = krylov.ends(
        product,
        ask.choose,
        n=n,
        dim=dim,
        block=block,
        tol=0.9 * ask.tol,
        expected=int(steps(ask.wanted, dim) * block**LONGER),
        limit=dim if ask.method is not None else int(min(dim, max(2 * ask.wanted + 16, full / (8 * hidden * dim)))),
        dtype=ask.work,
        device=layer.device,
        seed=ask.seed,
    )
    most = layer.most(weights)  # where the Krylov space bounds nothing
    bounds = torch.stack([found.lower.maximum(-most), found.upper.minimum(most)], dim=1)
    answer = _refined(
        layer, weights, ask, vectors=found.vectors, bounds=bounds, complete=found.complete, scale=found.scale
    )
    # A second witness: the search and the refinement must agree.
    apart = (answer.values - found.values).abs().amax(dim=1)
    least = 16 * torch.finfo(ask.work).eps
    return replace(answer, exact=answer.exact & (apart <= max(ask.tol, least) * found.scale))


def _full(layer: _Layer, weights: Tensor, ask: Question, work: torch.dtype) -> Answer:
    """From every eigenpair of the formed kernels."""
    levels, columns = symmetric.eigh(layer.formed(weights, work))
    chosen = ask.choose(levels)
    vectors = columns.gather(2, chosen[:, None].expand(-1, columns.shape[1], -1)).mT
    levels = levels.double()
    scale = levels.abs().amax(dim=1)
    slack = 8 * layer.dim**0.5 * torch.finfo(work).eps * scale
    others = torch.ones_like(levels, dtype=torch.bool).scatter_(1, chosen, False)
    none = ~others.any(dim=1)
    lower = torch.where(none, 0, levels.masked_fill(~others, torch.inf).amin(dim=1) - slack)
    upper = torch.where(none, 0, levels.masked_fill(~others, -torch.inf).amax(dim=1) + slack)
    bounds = torch.stack([lower, upper], dim=1)
    return _refined(layer, weights, ask, vectors=vectors, bounds=bounds, complete=torch.ones_like(none), scale=scale)


def _refined(
    layer: _Layer,
    weights: Tensor,
    ask: Question,
    *,
    vectors: Tensor,
    bounds: Tensor,
    complete: Tensor,
    scale: Tensor,
) -> Answer:
    """Rayleigh and Ritz once more in float64 on the vectors found, and their residuals by the factors."""
    rows = torch.linalg.qr(vectors.double().mT)[0].mT
    images = layer.images(weights, rows)
    values, turn = symmetric.eigh(_symmetric(rows @ images.mT))
    order = ask.choose(values)
    turn, values = turn.gather(2, order[:, None].expand(-1, turn.shape[1], -1)).mT, values.gather(1, order)
    rows, images = turn @ rows, turn @ images
    residuals = torch.linalg.vector_norm(images - values[:, :, None] * rows, dim=2)
    exact = complete & (residuals.amax(dim=1) <= ask.tol * scale)
    return Answer(values, rows, residuals, bounds, exact)


def _formed(kernels: Tensor, rows: Tensor) -> krylov.Product:
    kernels = kernels[rows]

    def multiply(x: Tensor) -> Tensor:
        # A product with one vector is slow in batches, one with two is not.
        b = x.shape[1]
        return torch.bmm(x.expand(-1, 2, -1) if b == 1 else x, kernels)[:, :b]

    return multiply


def _factored(factored: _Factored, weights: Tensor, rows: Tensor) -> krylov.Product:
    return factored.of(weights[rows])


class _Factored:
    """Q v of many kernels from the factors: four products of large matrices for all of them."""

    def __init__(self, layer: _Layer, work: torch.dtype, rows: int) -> None:
        left, right = layer.left.to(work), layer.right.to(work)
        self._left, self._right = Packed(left, rows), Packed(right, rows)
        self._from_left, self._from_right = Packed(left.T, rows), Packed(right.T, rows)

    def of(self, weights: Tensor) -> krylov.Product:
        """Q_w v = ½ [Lᵀ(w∘Rv) + Rᵀ(w∘Lv)] for each row w of the weights (n, h)."""
        half = weights[:, None] / 2

        def multiply(x: Tensor) -> Tensor:
            n, b, dim = x.shape
            flat = x.reshape(n * b, dim)

            def weighted(hidden: Tensor) -> Tensor:
                hidden.view(n, b, -1).mul_(half)
                return hidden

            image = self._from_left(weighted(self._right(flat)))
            image += self._from_right(weighted(self._left(flat)))
            return image.view(n, b, dim)

        return multiply


def _symmetric(matrices: Tensor) -> Tensor:
    return (matrices + matrices.mT) / 2
