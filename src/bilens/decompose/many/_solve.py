"""How many kernels of one layer are solved: by Lanczos on the factors or in full; steps 1 and 4 of README.md."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from bilens.decompose import linalg
from bilens.decompose.many import _lanczos

Which = Literal["magnitude", "positive", "negative", "both"]
"""The k largest |λ|; the k largest λ; the k smallest; the k largest and then the k smallest."""

Method = Literal["full", "factors"]
"""Every eigenpair of the formed kernels; Lanczos on the factors, nothing formed."""

# The choice of a method counts operations of products of large matrices. What is not one counts as so many of them as
# would take the same time. The numbers are fixed, not measured when it runs: the same call takes the same way on every
# machine, and resumed batches fit the others. benchmarks/methods.py holds the choice against the clock.

EIGH = {"cpu": 13.0, "cuda": 600.0}
"""All eigenpairs of an i × i matrix, in i³ operations, by device: on a core with AVX2, 16 at i = 256, 11 at 1,024."""

READ = {"cpu": 8.0, "cuda": 15.0}
"""Operations in the time in which one byte is read from memory, by device: 5 to 8 on a core with AVX2. It counts where
directions are few."""

LONGER = 0.4
"""With b start vectors a Krylov space converges at b^0.4 times the dimensions, measured on random weights."""

BYTES = {"cpu": 2**28, "cuda": 2**32}
"""Of Krylov vectors or formed kernels to hold at a time, by device: more gain nothing."""

MOST = 1024
"""Kernels at a time at most: products with the factors are at their full rate with far fewer rows."""

PACKED = 2**24
"""Bytes of a factor from which on its products are oneDNN's: 1.3 to 2 times as fast with 8 to 64 vectors and a factor
of 64 MiB, no faster with one of 3.5 MiB (benchmarks/eigh_many.py, d = 2,048 and d = 576)."""

CONVERTED = 2**24
"""Bytes of each factor, or of hidden units, to hold in float64 at a time, few enough to stay in a cache."""


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


class Answer(NamedTuple):
    """Eigenpairs of n kernels in float64: the fields of `Spectra`."""

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    bounds: Tensor
    exact: Tensor


def solve(left: Tensor, right: Tensor, weights: Tensor, ask: Question) -> Answer:
    """The wanted eigenpairs of ½ Σ_h w_h (L_h R_hᵀ + R_h L_hᵀ) for every row w, some kernels at a time.

    Those that Lanczos leaves open, and those that float32 does, are solved in full in float64.

    Args:
        left: L, (h, i); right: R, (h, i); weights: (n, h).
    """
    used = (weights != 0).any(dim=0)
    used[0] |= ~used.any()
    if not bool(used.all()):
        return solve(left[used], right[used], weights[:, used], ask)
    layer, size, given = Layer(left, right), BYTES[left.device.type], ask.work.itemsize
    by_factors = ask.method == "factors" or (ask.method is None and cheaper_by_factors(len(weights), layer, ask))
    most = size // (4 * layer.dim**2 * given)
    if by_factors:
        most = min(max(size // int(1.3 * steps(ask.wanted, layer.dim) * layer.dim * given), 16), MOST)
    product = Factored(layer, ask.work) if by_factors else None
    parts = []
    for w in torch.split(weights, max(1, most)):
        found = _by_lanczos(product, layer, w, ask) if product else _full(layer, w, ask, ask.work)
        open_ = (~found.exact).nonzero()[:, 0]
        if by_factors or ask.work != torch.float64:
            for rows in torch.split(open_, max(1, size // (32 * layer.dim**2))) if len(open_) else ():
                for field, again in zip(found, _full(layer, w[rows], ask, torch.float64), strict=True):
                    field[rows] = again
        parts.append(found)
    return Answer(*map(torch.cat, zip(*parts, strict=True)))


def cheaper_by_factors(n: int, layer: Layer, ask: Question) -> bool:
    """Whether n kernels of a layer (h, i) take fewer operations of a product of large matrices by the factors.

    With m vectors of each kernel that is m · 8hi, both factors read twice for all kernels in every step, and each
    vector made orthogonal to those before it: less than 2hi² to form a kernel and 13 i³ to solve it?
    """
    hidden, dim, read, block = layer.hidden, layer.dim, READ[layer.device.type] * ask.work.itemsize, start_vectors(n)
    m = steps(ask.wanted, dim) * block**LONGER
    products, reading = n * m * 8.0 * hidden * dim, m / block * 4.0 * hidden * dim * read
    return bool(products + reading + n * m**2 * dim * read / 2 < n * in_full(layer))


def in_full(layer: Layer) -> float:
    """Operations to form one kernel and to solve it."""
    return 2.0 * layer.hidden * layer.dim**2 + EIGH[layer.device.type] * layer.dim**3


def steps(wanted: int, dim: int) -> float:
    """Lanczos steps that the ends of a spectrum without gaps take, measured on random weights; others take fewer."""
    return min(float(dim), 4.0 * wanted + 6.0 * math.log2(dim) + 8.0)


def start_vectors(n: int) -> int:
    """Start vectors per kernel: with few kernels, reading the factors costs as much for some vectors as for one."""
    return min(8, 1 << int(math.log2(max(32 / n, 1))))


class Layer:
    """L and R, (h, i) each, and what is made of them and of the weights (n, h) of some kernels."""

    def __init__(self, left: Tensor, right: Tensor) -> None:
        self.left, self.right = left, right
        self.hidden, self.dim = left.shape
        self.device = left.device

    def formed(self, weights: Tensor, work: torch.dtype) -> Tensor:
        """The kernels (n, i, i), symmetric."""
        left, right = self.left.to(work), self.right.to(work)
        return _symmetric(torch.stack([(left * w[:, None]).T @ right for w in weights.to(work)]))

    def most(self, weights: Tensor) -> Tensor:
        """Σ_h |w_h| ‖L_h‖ ‖R_h‖, which no |λ| of the kernels is above, (n,)."""
        sizes = torch.linalg.vector_norm(self.left, dim=1).double() * torch.linalg.vector_norm(self.right, dim=1)
        rounded: Tensor = weights.double().abs() @ sizes
        return rounded * (1 + self.dim * torch.finfo(self.left.dtype).eps)

    def images(self, weights: Tensor, rows: Tensor) -> Tensor:
        """Q v for rows (n, w, i), in float64, some hidden units at a time."""
        n, w, dim = rows.shape
        half, images = weights.double()[:, None] / 2, torch.zeros_like(rows)
        some = max(1, CONVERTED // (8 * max(n * w, dim)))
        for start in range(0, self.hidden, some):
            units = slice(start, start + some)
            left, right = self.left[units].double(), self.right[units].double()
            images += torch.matmul(rows @ right.T * half[:, :, units], left)
            images += torch.matmul(rows @ left.T * half[:, :, units], right)
        return images


def _by_lanczos(product: Factored, layer: Layer, weights: Tensor, ask: Question) -> Answer:
    n, dim = len(weights), layer.dim
    block, work = start_vectors(n), weights.to(ask.work)
    most_steps = int(in_full(layer) / (8 * layer.hidden * dim))  # which cost what a full solution costs
    found = _lanczos.ends(
        lambda rows: product.of(work[rows]),
        ask.choose,
        n=n,
        dim=dim,
        block=block,
        tol=0.9 * ask.tol,  # the residual in float64 is a little another
        expected=int(steps(ask.wanted, dim) * block**LONGER),
        limit=dim if ask.method is not None else min(dim, max(2 * ask.wanted + 16, most_steps)),
        dtype=ask.work,
        device=layer.device,
        seed=ask.seed,
    )
    most = layer.most(weights)  # where the Krylov space bounds nothing
    found = found._replace(lower=found.lower.maximum(-most), upper=found.upper.minimum(most))
    answer = _refined(layer, weights, ask, found)
    # A second witness: the search and the refinement must agree.
    apart = (answer.values - found.values).abs().amax(dim=1)
    least = 16 * torch.finfo(ask.work).eps
    return answer._replace(exact=answer.exact & (apart <= max(ask.tol, least) * found.scale))


def _full(layer: Layer, weights: Tensor, ask: Question, work: torch.dtype) -> Answer:
    """From every eigenpair of the formed kernels."""
    levels, columns = linalg.eigh(layer.formed(weights, work))
    chosen = ask.choose(levels)
    vectors = columns.gather(2, chosen[:, None].expand(-1, columns.shape[1], -1)).mT
    levels = levels.double()
    scale = levels.abs().amax(dim=1)
    slack = 8 * layer.dim**0.5 * torch.finfo(work).eps * scale  # of LAPACK, far above what it is seen to be off by
    others = torch.ones_like(levels, dtype=torch.bool).scatter_(1, chosen, False)
    some = others.any(dim=1)
    lower = torch.where(some, levels.masked_fill(~others, torch.inf).amin(dim=1) - slack, 0)
    upper = torch.where(some, levels.masked_fill(~others, -torch.inf).amax(dim=1) + slack, 0)
    found = _lanczos.Ends(levels.gather(1, chosen), vectors, lower, upper, torch.ones_like(some), scale)
    return _refined(layer, weights, ask, found)


def _refined(layer: Layer, weights: Tensor, ask: Question, found: _lanczos.Ends) -> Answer:
    """Rayleigh and Ritz once more in float64 on the vectors found, and their residuals by the factors."""
    rows = torch.linalg.qr(found.vectors.double().mT)[0].mT
    images = layer.images(weights, rows)
    values, turn = linalg.eigh(_symmetric(rows @ images.mT))
    order = ask.choose(values)
    turn, values = turn.gather(2, order[:, None].expand(-1, turn.shape[1], -1)).mT, values.gather(1, order)
    rows, images = turn @ rows, turn @ images
    residuals = torch.linalg.vector_norm(images - values[:, :, None] * rows, dim=2)
    complete, scale = found.complete, found.scale
    exact = complete & (residuals.amax(dim=1) <= ask.tol * scale)
    return Answer(values, rows, residuals, torch.stack([found.lower, found.upper], dim=1), exact)


class Factored:
    """Q v of many kernels from the factors: four products of large matrices for all of them."""

    def __init__(self, layer: Layer, work: torch.dtype) -> None:
        left, right = layer.left.to(work), layer.right.to(work)
        self._left, self._right = Packed(left), Packed(right)
        self._from_left, self._from_right = Packed(left.T), Packed(right.T)

    def of(self, weights: Tensor) -> _lanczos.Product:
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


class Packed:
    """x ↦ x Mᵀ for rows x (m, i) and a fixed matrix M (j, i), again and again.

    In float32 on a CPU a matrix that no cache holds is kept in the layout of oneDNN, the second library of products
    that torch has. Everywhere else this is a plain product.
    """

    def __init__(self, matrix: Tensor) -> None:
        single = matrix.dtype == torch.float32 and matrix.device.type == "cpu" and matrix.nbytes >= PACKED
        onednn = single and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        self.matrix = matrix.contiguous().to_mkldnn() if onednn else matrix

    def __call__(self, x: Tensor) -> Tensor:
        """x Mᵀ, (m, j)."""
        if self.matrix.is_mkldnn:
            return functional.linear(x.to_mkldnn(), self.matrix).to_dense()
        return x @ self.matrix.T


def _symmetric(matrices: Tensor) -> Tensor:
    return (matrices + matrices.mT) / 2
