"""Many kernels as a stream of batches, each of which can be asked for directly; and all of them at once."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from bilens._internal import checks
from bilens._internal.checks import choice, flag, instance, number, whole
from bilens._internal.factors import checksum, hidden_gram
from bilens._internal.scale import near_one
from bilens._internal.seeds import derived
from bilens._internal.shown import line
from bilens.decompose.linalg import signed
from bilens.decompose.many._solve import Method, Question, Which, solve
from bilens.decompose.many._spectra import Spectra
from bilens.decompose.metric import Metric
from bilens.dictionary import Dictionary
from bilens.errors import BilensError, ShapeError
from bilens.progress import bar
from bilens.space import Space
from bilens.tensor import BilinearTensor

LEAST_SINGLE = 3e-6
"""Tolerances from here on are met by a search in float32, whose rounding in some hundred steps stays below a third."""


@dataclass(frozen=True, eq=False, repr=False)
class SpectraStream:
    """The spectra of many kernels, a batch of kernels at a time; any batch can be asked for directly.

    Made by `spectra_stream`. `store.save_batches` writes the batches to a folder, and continues where it stopped.

    Args:
        tensor: the layer, whose outputs are the kernels; k, which, tol, method, batch_size, seed, metric: as
            `spectra_stream`.
    """

    tensor: BilinearTensor
    k: int
    which: Which
    tol: float
    method: Method | None
    batch_size: int
    seed: int
    metric: Metric | None = None

    __repr__ = line

    def __len__(self) -> int:
        """Batches."""
        return math.ceil(self.tensor.output.dim / self.batch_size)

    @functools.cached_property
    def _factors(self) -> tuple[Tensor, Tensor]:
        """L and R; in a metric L A and R A in float64, once for all batches."""
        return in_metric(self.tensor, self.metric)

    @torch.no_grad()
    def batch(self, n: int) -> Spectra:
        """The n-th batch; it depends on the arguments of the stream and on n alone, and carries no gradient.

        Raises:
            BilensError: no such batch, or eigenvalues that do not fit the type.
        """
        n = whole("batch", n, 0, len(self) - 1)
        tensor, output = self.tensor, self.tensor.output
        rows = range(n * self.batch_size, min((n + 1) * self.batch_size, output.dim))
        given = tensor.left.dtype
        work = torch.float64 if given == torch.float64 or self.tol < LEAST_SINGLE else torch.float32
        ask = Question(self.k, self.which, self.tol, self.method, work, derived(self.seed, n))
        # Rescale by powers of two: products of large or small factors leave the range of float32. What the search
        # rounds to float32 is measured with these.
        left, right = (factor.to(torch.promote_types(factor.dtype, work)) for factor in self._factors)
        (left, a), (right, b) = near_one(left), near_one(right)
        down, c = near_one(tensor.down[rows.start : rows.stop].to(work), by_row=True)
        found = solve(left, right, down, ask)
        size = (a * b * c)[:, None]
        values, bounds = (found.values * size).to(work), found.bounds * size
        if not bool(torch.isfinite(values).all()):
            raise BilensError(
                f"kernels with eigenvalues beyond {torch.finfo(work).max:.2g}",
                "numbers that fit",
                "call .to(torch.float64)",
            )
        scale = values.double().abs().amax(dim=1, keepdim=True) + bounds.abs().amax(1, True)
        vectors, off = returned(found.vectors, self.metric, work)
        rounding = (scale * (torch.finfo(work).eps + 2 * off)).nan_to_num(posinf=0)
        lower, upper = bounds.to(work).unbind(dim=1)
        infinity = torch.full_like(lower, torch.inf)
        return Spectra(
            values,
            vectors,
            (found.residuals * size + rounding).to(work),
            torch.stack([torch.nextafter(lower, -infinity), torch.nextafter(upper, infinity)], dim=1),
            found.exact,
            self.tol,
            self.which,
            tensor.input,
            Space(output.name, len(rows), tuple(output.label(row) for row in rows)),
            "" if self.metric is None else self.metric.checksum,
        )

    @property
    def settings(self) -> dict[str, Any]:
        """What the batches depend on, as JSON values; the weights by the checksum of their bytes."""
        metric = {} if self.metric is None else {"metric": self.metric.checksum}
        return {
            "stream": "spectra",
            "batches": len(self),
            "kernels": self.tensor.output.dim,
            "k": self.k,
            "which": self.which,
            "tol": self.tol,
            "method": self.method,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "weights": checksum(self.tensor.left, self.tensor.right, self.tensor.down),
            "input": [self.tensor.input.name, self.tensor.input.size, self.tensor.input.constant],
            "output": [self.tensor.output.name, list(self.tensor.output.labels or ())],
            **metric,  # nothing where there is none, as in folders of earlier versions
        }

    def __iter__(self) -> Iterator[Spectra]:
        return (self.batch(n) for n in range(len(self)))


def in_metric(tensor: BilinearTensor, metric: Metric | None) -> tuple[Tensor, Tensor]:
    """L A and R A in float64, whose kernels are Aᵀ Q A; without a metric L and R as they are."""
    if metric is None:
        return tensor.left, tensor.right
    root = metric.root.to(tensor.left.device)
    return tensor.left.double() @ root, tensor.right.double() @ root


def returned(found: Tensor, metric: Metric | None, dtype: torch.dtype) -> tuple[Tensor, Tensor | float]:
    """Eigenvectors as they are returned, and how far rounding moved each of them where a metric magnifies it.

    Args:
        found: w, (n, k, r), in float64.

    Returns:
        The vectors (n, k, i): in a metric the readers A⁺ᵀ w; and ‖Aᵀv − w‖, (n, k), for these as rounded to the type.
    """
    if metric is None:
        return signed(found).to(dtype), 0.0
    inverse, root = metric.inverse.to(found.device), metric.root.to(found.device)
    vectors = signed(found @ inverse).to(dtype)
    if not bool(torch.isfinite(vectors).all()):
        raise BilensError(f"readers beyond {torch.finfo(dtype).max:.2g}", "numbers that fit", "call .to(torch.float64)")
    back = vectors.double() @ root
    sign = torch.where(torch.linalg.vecdot(back, found) < 0, -1.0, 1.0)[:, :, None]
    return vectors, torch.linalg.vector_norm(back * sign - found, dim=2)


def eigh_many(
    tensor: BilinearTensor,
    directions: Float[Tensor, "n o"] | Dictionary | None = None,
    k: int = 8,
    which: Which = "magnitude",
    tol: float | None = None,
    *,
    metric: Metric | Float[Tensor, "i i"] | None = None,
    method: Method | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Spectra:
    """The top k eigenpairs of the kernels of many directions: Q_u for every row u, or for every feature.

    Examples:
        >>> down = torch.tensor([[3.0, -2.0, 1.0]])
        >>> tensor = BilinearTensor(torch.eye(3), torch.eye(3), down, Space("x", 3), Space("y", 1))
        >>> eigh_many(tensor, k=2).values  # of 3x₁² − 2x₂² + x₃²
        tensor([[ 3., -2.]])

    All kernels share the factors, so that one product with L and R serves every direction: block Lanczos on all of
    them at once, Q v = ½ [Lᵀ(w∘Rv) + Rᵀ(w∘Lv)] with w = Dᵀu, and no kernel is formed. The pairs found are then refined,
    and their residuals measured, in float64. Where 2h < i everything happens in the 2h dimensions that the rows of L
    and R span; kernels of few hidden units are solved in the span of theirs. Where it costs less (small i, large k),
    and for each kernel that does not meet the tolerance, kernels are formed and solved in full.

    Bounds of what was left out are exact where a kernel was solved in full. After Lanczos they are an estimate: wrong
    with a chance, over the random start, of 1e-6 (float64) or 1e-3 (float32), and for multiple eigenvalues whose copies
    a second search of 24 to 96 products did not show. `method="full"` leaves no doubt, and `Spectra.certified` bounds
    what was left out with certainty.

    By |λ| alone pairs are in the order of what an input of norm 1 can add. With `metric` they are the pairs of
    Σ^½ Q Σ^½, in the order of what they add on average over the data, as `eigh_weighted` has them for one kernel; Σ^½
    is folded into the factors once. Where Σ is singular, all of this happens in the range of Σ, where the data lies: k
    is at most its rank, and the part of an input outside is ignored.

    Args:
        tensor: the layer.
        directions: (n, o), one direction per row; or a dictionary of the output space, whose duals are the directions
            (an offset adds its constant); or None for every output.
        k: pairs per kernel (twice as many for "both").
        which: the k of largest |λ| ("magnitude"), the k largest λ ("positive"; some are below 0 where fewer than k
            are above), the k smallest ("negative"), or the k largest and the k smallest ("both").
        tol: ‖Qv − λv‖ at most, relative to the largest |λ| of the kernel; 1e-5 when None, 1e-10 for float64.
            Eigenvalues are right to its square over the gap to the next. Below 3e-6 all work is in float64.
        metric: a `Metric`, or a second moment Σ over the folded input, as of `decompose.second_moment`; None for none.
        method: None for the one that costs least; "full" or "factors" to choose.
        seed: of the random start; progress: whether to show a bar.

    Returns:
        `Spectra`, in float32, or in float64 where the tensor is or the tolerance is below 3e-6. `exact` says which
        kernels met the tolerance. No gradients.

    Cost: m·8hi operations per kernel, with m ≈ 30 to 120 steps for k = 8, against 2hi² + 13i³ for forming and solving
    it; memory a fixed number of vectors per kernel, batch by batch: what is returned decides. For results larger than
    memory: `spectra_stream`.

    Raises:
        BilensError: k, which, tol, method or seed out of range, or an argument of another type. ShapeError: directions
            or a second moment of another size. SpaceError: a dictionary or a metric of another space.

    Source: `docs/decompositions.md`, "Many kernels at once"; Golub and Underwood (1977) for the method.
    """
    progress = flag("progress", progress)
    stream = spectra_stream(tensor, directions, k, which, tol, metric=metric, method=method, seed=seed)
    parts = []
    with bar("eigenvectors", len(stream), show=progress) as step:
        for n in range(len(stream)):
            parts.append(stream.batch(n))
            step(1)
    return Spectra.join(parts, stream.tensor.output)


@torch.no_grad()
def spectra_stream(
    tensor: BilinearTensor,
    directions: Float[Tensor, "n o"] | Dictionary | None = None,
    k: int = 8,
    which: Which = "magnitude",
    tol: float | None = None,
    *,
    metric: Metric | Float[Tensor, "i i"] | None = None,
    method: Method | None = None,
    batch_size: int = 256,
    seed: int = 0,
) -> SpectraStream:
    """As `eigh_many`, a batch of kernels at a time, for results larger than memory.

    Args:
        batch_size: kernels per batch; the others as `eigh_many`.

    Raises:
        As `eigh_many`. BilensError: a batch size below 1.
    """
    instance("tensor", tensor, BilinearTensor)
    checks.in_memory("a tensor", tensor.left)
    if directions is None:
        pass
    elif isinstance(directions, Dictionary):
        tensor = tensor.read(directions)
    else:
        instance("directions", directions, Tensor, "a tensor (n, o), a Dictionary or None")
        if directions.ndim != 2 or directions.shape[1] != tensor.output.dim or len(directions) < 1:
            raise ShapeError(
                f"directions of shape {tuple(directions.shape)}",
                f"(n, {tensor.output.dim}) for output {tensor.output.title}",
            )
        tensor = tensor.then(directions, Space("directions", len(directions)))
    metric = _metric(metric, tensor)
    double, dim = tensor.left.dtype == torch.float64, tensor.input.dim if metric is None else metric.rank
    tol = (1e-10 if double else 1e-5) if tol is None else number("tol", tol, above=0)
    choice("which", which, get_args(Which))
    if method is not None:
        choice("method", method, get_args(Method), hint="choose one, or leave it out")
    most = dim // 2 if which == "both" else dim
    if dim == 0:
        raise BilensError("a second moment that is 0", "one of data that are not")
    if most == 0:
        raise BilensError('which = "both" for one input', "at least two inputs", 'ask for "magnitude"')
    k = whole("k", k, 1, most)
    batch_size = whole("batch_size", batch_size, 1)
    return SpectraStream(tensor, k, which, tol, method, batch_size, checks.seed(seed, 0), metric)


def _metric(given: Metric | Tensor | None, tensor: BilinearTensor) -> Metric | None:
    if given is None or isinstance(given, Metric):
        if given is not None:
            tensor.input.require(given.input, "a metric")
        return given
    instance("metric", given, Tensor, "a Metric, a second moment or None", "compute one with decompose.second_moment")
    return Metric.from_moment(given, tensor.input)


@torch.no_grad()
def squared_norms(
    tensor: BilinearTensor,
    directions: Float[Tensor, "n o"] | Dictionary | None = None,
    *,
    metric: Metric | Float[Tensor, "i i"] | None = None,
    block: int = 1024,
) -> Float[Tensor, " n"]:
    """‖Q_u‖² = Σ λ² of the kernel of every direction, wᵀGw with the hidden Gram G, in float64 inside.

    In a metric ‖Σ^½ Q_u Σ^½‖². In float32, or in float64 where the tensor is.

    Args:
        tensor, directions, metric: as `eigh_many`; block: rows of G held at a time.

    Cost: O(h²(i + n)); memory block · h numbers.

    Raises:
        As `eigh_many`. BilensError: a block below 1, or numbers that do not fit the type.
    """
    block = whole("block", block, 1)
    stream = spectra_stream(tensor, directions, 1, metric=metric)
    tensor = stream.tensor
    (left, a), (right, b) = (near_one(factor.double()) for factor in in_metric(tensor, stream.metric))
    down, c = near_one(tensor.down.double(), by_row=True)
    total = torch.zeros(tensor.output.dim, dtype=torch.float64, device=down.device)
    for start in range(0, tensor.hidden, block):
        rows = slice(start, start + block)
        total += ((down[:, rows] @ hidden_gram(left[rows], right[rows], left, right)) * down).sum(dim=1)
    found = (total.clamp(min=0) * (a * b * c).square()).to(torch.promote_types(tensor.left.dtype, torch.float32))
    if not bool(torch.isfinite(found).all()):
        raise BilensError(
            f"kernels of a squared norm beyond {torch.finfo(found.dtype).max:.2g}",
            "numbers that fit",
            "call .to(torch.float64), or scale the layer",
        )
    return found
