"""Canonical polyadic decomposition: a tensor as the best sum of R terms, fitted from inner products of its factors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bilens import checks
from bilens.checks import flag, instance, number, whole
from bilens.decompose.gauss_newton import Descent, Pairs, Squares, Target, balanced
from bilens.decompose.graphs import detach
from bilens.errors import BilensError, ShapeError
from bilens.progress import bar
from bilens.space import Space
from bilens.tensor import BilinearTensor

EPSILON = torch.finfo(torch.float64).eps

MOST = 2**16
"""Terms that may be asked for of any tensor, however small."""

RIDGES = tuple(0.1 * 0.5**n for n in range(7))
"""Ridges that a random start is led down, in units of (‖B‖²/R)^⅔, before the one that was asked for."""

STAGE, ROUGH = 10, 1e-3
"""Steps at each of them, and the fall of the error over some steps below which the next one begins."""

NEAR = 1e-4
"""A step takes its products in float32 until the error is at most this, or falls by less over some steps."""


@dataclass(frozen=True, eq=False)
class CP:
    """B̂ = Σ_r w_r · s_r ⊗ sym(a_r ⊗ b_r), so that ŷ = Σ_r w_r (a_r·x')(b_r·x') s_r, and how far it is from B.

    Each term is one product of two directions of the input that is sent along one direction of the output. Terms stand
    in the order of their norms, largest first; the largest entries of a_r and b_r are positive, and a_r has the larger
    one. A term that is 0 has w_r = 0 and factors 0.

    Args:
        values: w, (R,), not negative.
        outputs: s, (R, o), unit rows; left: a, (R, i), unit rows; right: b, (R, i), unit rows, equal to `left` from
            `cp_symmetric`.
        error: ‖B − B̂‖ / ‖B‖ of the factors before they were rounded to the tensor's type; 0 for a tensor that is 0.
        floor: an error at or below it is rounding.
        energy: ‖B‖².
        gradient: ‖∇f‖ ‖θ‖ / ‖B‖² of what was minimised, over factors at equal norms: 0 where no small change helps.
        history: the error of the best start after each step that was taken, in float64.
        converged: whether the error was at most the tolerance, or no longer falling by as much.
        input: space of x; output: space of y.

    Raises:
        ShapeError: the shapes do not fit together.

    Source: Hitchcock, "The expression of a tensor or a polyadic as a sum of products" (1927).
    """

    values: Float[Tensor, " r"]
    outputs: Float[Tensor, "r o"]
    left: Float[Tensor, "r i"]
    right: Float[Tensor, "r i"]
    error: Float[Tensor, ""]
    floor: Float[Tensor, ""]
    energy: Float[Tensor, ""]
    gradient: Float[Tensor, ""]
    history: Float[Tensor, " n"]
    converged: bool
    input: Space
    output: Space

    def __post_init__(self) -> None:
        detach(self)
        r = len(self.values)
        for name, shape in (
            ("outputs", (r, self.output.dim)),
            ("left", (r, self.input.dim)),
            ("right", (r, self.input.dim)),
        ):
            if tuple(getattr(self, name).shape) != shape:
                raise ShapeError(f"{name} of shape {tuple(getattr(self, name).shape)}", f"{shape}")

    def __len__(self) -> int:
        return len(self.values)

    def tensor(self) -> BilinearTensor:
        """B̂ as a tensor with R hidden units: left a, right b, down (w s)ᵀ."""
        down = (self.values[:, None] * self.outputs).T
        return BilinearTensor(self.left, self.right, down, self.input, self.output)

    def codes(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n r"]:
        """w_r (a_r·x')(b_r·x') for each sample and term; times `outputs` they give ŷ."""
        lifted = self.input.lift(x)
        return (lifted @ self.left.T.to(x)) * (lifted @ self.right.T.to(x)) * self.values.to(x)

    def norms(self) -> Float[Tensor, " r"]:
        """‖w_r s_r ⊗ sym(a_r ⊗ b_r)‖ = w_r √(½(1 + (a_r·b_r)²)) for each term."""
        return self.values * ((1 + (self.left * self.right).sum(dim=1).square()) / 2).sqrt()

    def cancellation(self) -> float:
        """Σ_r ‖term‖² / ‖B̂‖²: 1 for orthogonal terms; large where terms cancel, which no term alone explains."""
        whole = float(self.tensor().norm().double() ** 2)
        return float(self.norms().double().square().sum()) / whole if whole > 0 else 1.0

    @torch.no_grad()
    def bound(self, x_norm: Float[Tensor, "*n"] | float) -> Float[Tensor, "*n"]:
        """The truncation certificate: ‖y − ŷ‖ ≤ ‖B − B̂‖ · ‖x'‖², the floor counted in.

        Args:
            x_norm: ‖x'‖, the norm of the folded input.
        """
        rest = (self.error.double() + self.floor.double()) * self.energy.double().sqrt()
        norm = torch.as_tensor(x_norm, dtype=rest.dtype, device=rest.device)
        return (rest * norm.square() * (1 + 4 * torch.finfo(self.values.dtype).eps)).to(self.values)


def cp(
    tensor: BilinearTensor,
    rank: int,
    *,
    starts: int = 1,
    seed: int = 0,
    steps: int = 300,
    tol: float = 1e-6,
    ridge: float = 0.0,
    resume: CP | None = None,
    progress: bool = True,
) -> CP:
    """The nearest sum of R terms c_r ⊗ sym(a_r ⊗ b_r) to B that is found: R hidden units in the place of h.

    Minimises ½‖B − B̂‖² + ½ρ Σ_r (‖a_r‖² + ‖b_r‖² + ‖c_r‖²) by damped Gauss–Newton steps; nothing of size o·i² is made.
    A random start is led down a ladder of ridges first, which keeps terms from growing against one another. The minimum
    found is a local one: compare starts. With R ≥ h the layer's own hidden units are the answer.

    Args:
        tensor: B; rank: R, at least 1.
        starts: how many random starts after the one from the weights (R hidden units, each chosen so that it lowers the
            error most); none is tried once one has met the tolerance.
        seed: of the random starts; steps: at most so many for each start.
        tol: stop when the error ‖B − B̂‖/‖B‖ is at most this, or falls by less than this over five steps while
            `gradient` is below its root.
        ridge: ρ in units of (‖B‖²/R)^⅔; above 0 the minimum exists, and the error it costs is part of `error`.
        resume: an earlier result to go on from, in the place of all starts; its history is continued.
        progress: whether to show a bar with the error and the time left. Ctrl-C ends the fit with the best so far,
            `converged` False.

    Cost: O(h² (i + o)) once; a step takes 16·h·i·R + 4·o·h·R operations for value and derivatives, O(R² (i + o)) and
    at most 60·O(R³) for its direction; memory O((h + R)(i + o) + h² + i²). In float64, but for the products of the
    first steps, which are in float32 until the error no longer falls by 1e-4. Floor: as a difference of Grams an error
    below about 1e-8 is rounding; there it is computed once more, at the end, one kernel of i² numbers at a time, in
    2·min(o, h)·(h + R)·i² operations, and is right to about 1e-15 (`floor`). A tensor whose norm is below about 1e-8 of
    the sum of its hidden units' norms counts as 0, with `floor` 1.

    Raises:
        BilensError: a number out of range. ShapeError, SpaceError: `resume` is of another rank or over other spaces.

    Source: Sorber, Van Barel and De Lathauwer, "Optimization-based algorithms for tensor decompositions" (2013), the
    damped Gauss–Newton step with a block preconditioner.
    """
    return _fit(
        tensor,
        rank,
        Pairs,
        starts=starts,
        seed=seed,
        steps=steps,
        tol=tol,
        ridge=ridge,
        resume=resume,
        progress=progress,
    )


def cp_symmetric(
    tensor: BilinearTensor,
    rank: int,
    *,
    starts: int = 1,
    seed: int = 0,
    steps: int = 300,
    tol: float = 1e-6,
    ridge: float = 0.0,
    resume: CP | None = None,
    progress: bool = True,
) -> CP:
    """The nearest sum of R terms c_r ⊗ a_r ⊗ a_r to B that is found: linear kernels that all outputs share (INDSCAL).

    y_o ≈ Σ_r c_ro (a_r·x')², so that each output is a weighted sum of the same R squares; eigenvectors give each output
    its own. One term of `cp` takes two of these, sym(a ⊗ b) = ¼[(a+b)(a+b)ᵀ − (a−b)(a−b)ᵀ], hence R ≥ 2h is exact.

    Args, cost and Raises: as `cp`, with half the operations for the derivatives; the start from the weights chooses
    among the 2h squares of the hidden units, at 8h²i operations. `resume` must have left = right.

    Source: Carroll and Chang, "Analysis of individual differences in multidimensional scaling" (1970).
    """
    return _fit(
        tensor,
        rank,
        Squares,
        starts=starts,
        seed=seed,
        steps=steps,
        tol=tol,
        ridge=ridge,
        resume=resume,
        progress=progress,
    )


@torch.no_grad()
def _fit(
    tensor: BilinearTensor,
    rank: int,
    kind: type[Pairs] | type[Squares],
    *,
    starts: int,
    seed: int,
    steps: int,
    tol: float,
    ridge: float,
    resume: CP | None,
    progress: bool,
) -> CP:
    instance("tensor", tensor, BilinearTensor)
    # o·i terms are enough for every tensor, and 2h for this one; more of them are 0.
    most = max(MOST, tensor.output.dim * tensor.input.dim, 2 * tensor.hidden)
    rank = whole("rank", rank, 1, most)
    starts, steps, progress = whole("starts", starts, 0), whole("steps", steps, 0), flag("progress", progress)
    tol, ridge, seed = number("tol", tol, 0), number("ridge", ridge, 0), checks.seed(seed)
    _check_resumed(tensor, rank, kind, resume)
    layer = _Reduced(tensor)
    target, generator = layer.target, torch.Generator().manual_seed(seed)
    own = layer.own(kind)
    if not target.energy > 16 * EPSILON * target.spread**2:  # 0, or all of it cancels
        own = (own[0][:0], own[1][:0])
    if not len(own[1]) or (resume is None and len(own[1]) <= rank):
        return _record(tensor, layer, _padded(kind, own, rank), 0.0, [0.0], tol=tol, settled=True)
    scale = (target.energy / rank) ** (2 / 3)
    attempts = 1 if resume is not None else 1 + starts
    tried: list[Descent] = []
    rough = target.rough()
    with bar(f"fitting {rank} terms", attempts * steps, show=progress) as step:
        try:
            for attempt in range(attempts):
                if resume is not None:
                    tried.append(Descent(rough, layer.terms(kind, resume)))
                elif attempt == 0:
                    tried.append(Descent(rough, _pursued(target, kind, own, rank)))
                else:
                    tried.append(Descent(rough, _random(target, kind, own, rank, generator)))
                ladder = [rung * scale for rung in RIDGES if rung > ridge] if attempt else []
                for rung in ladder:
                    tried[-1].run(rung, min(STAGE, steps - tried[-1].taken), ROUGH, step)
                if ladder:
                    tried[-1].revive(generator)
                tried[-1].run(ridge * scale, steps - tried[-1].taken, max(tol, NEAR), step)
                tried[-1].sharpen(target)
                tried[-1].run(ridge * scale, steps - tried[-1].taken, tol, step)
                step(steps - tried[-1].taken)  # those that were not needed
                if tried[-1].error <= tol:
                    break
        except KeyboardInterrupt:
            if not tried:
                raise
            tried[-1].sharpen(target)
            tried[-1].settled = False
    best = min(tried, key=lambda one: one.error)
    history = ([] if resume is None else resume.history.tolist()[:-1]) + best.errors
    return _record(tensor, layer, best.point.terms, best.stationary, history, tol=tol, settled=best.settled)


class _Reduced:
    """A layer in float64 without hidden units that are 0, over the span of its factors where that is smaller.

    With 2h < i, and with h < o, an orthonormal basis of the factors' span is enough: all terms of a best fit lie in it.
    """

    def __init__(self, tensor: BilinearTensor) -> None:
        left, right, down = tensor.left.double(), tensor.right.double(), tensor.down.double()
        sizes = torch.stack([left.norm(dim=1), right.norm(dim=1), down.norm(dim=0)])
        used = (sizes > 0).all(dim=0).nonzero()[:, 0]
        level = sizes[:, used].log().mean(dim=0).exp()  # each unit's factors at one norm
        left, right, down = (
            left[used] * (level / sizes[0, used])[:, None],
            right[used] * (level / sizes[1, used])[:, None],
            down[:, used] * (level / sizes[2, used]),
        )
        self.input: Tensor | None = None
        self.output: Tensor | None = None
        if 2 * len(used) < left.shape[1]:
            self.input, triangle = torch.linalg.qr(torch.cat([left, right]).T)
            left, right = triangle.T[: len(used)], triangle.T[len(used) :]
        if len(used) < len(down):
            self.output, down = torch.linalg.qr(down)
        self.target = Target(left.contiguous(), right.contiguous(), down.contiguous())

    def own(self, kind: type[Pairs] | type[Squares]) -> tuple[Tensor, Tensor]:
        """The layer itself as terms: its hidden units, or the two squares of each; rows and coefficients."""
        left, right, down = self.target.left, self.target.right, self.target.down.T
        if kind is Pairs:
            return torch.cat([left, right]), down
        rows = torch.cat([left + right, left - right])
        some = (rows.norm(dim=1) > 4 * EPSILON * torch.cat([left, left]).norm(dim=1)).nonzero()[:, 0]
        return rows[some], torch.cat([down, -down])[some] / 4

    def terms(self, kind: type[Pairs] | type[Squares], record: CP) -> Pairs | Squares:
        """Those of an earlier result, in the reduced spaces."""
        rows = (torch.cat([record.left, record.right]) if kind is Pairs else record.left).double()
        coefficients = record.outputs.double() * record.values.double()[:, None]
        if self.input is not None:
            rows = rows @ self.input
        if self.output is not None:
            coefficients = coefficients @ self.output
        return kind(rows, coefficients)

    def factors(self, terms: Pairs | Squares) -> tuple[Tensor, Tensor, Tensor]:
        """a, b and c in the full spaces."""
        rows, c = terms.rows, terms.coefficients
        rows = rows if self.input is None else rows @ self.input.T
        c = c if self.output is None else c @ self.output.T
        return (rows[: len(c)], rows[len(c) :], c) if isinstance(terms, Pairs) else (rows, rows, c)


def _padded(kind: type[Pairs] | type[Squares], own: tuple[Tensor, Tensor], rank: int) -> Pairs | Squares:
    """The layer's own terms, and terms that are 0."""
    rows, coefficients = own
    n, groups = len(coefficients), 2 if kind is Pairs else 1
    padded = rows.new_zeros(groups, rank, rows.shape[1])
    padded[:, :n] = rows.reshape(groups, n, rows.shape[1])
    return kind(
        padded.flatten(0, 1), torch.cat([coefficients, coefficients.new_zeros(rank - n, coefficients.shape[1])])
    )


def _pursued(
    target: Target, kind: type[Pairs] | type[Squares], own: tuple[Tensor, Tensor], rank: int
) -> Pairs | Squares:
    """R of the layer's own terms, each chosen so that it lowers the error most, with the best coefficients.

    A Cholesky factorisation of the Gram of their kernels with the gain as pivot: O(n R (R + o)) after the Gram.
    """
    rows, coefficients = own
    n = len(coefficients)
    if kind is Pairs:
        gram = target.gram
        met = target.down @ gram
    else:
        gram = (rows @ rows.T).square()
        met = target.down @ ((target.left @ rows.T) * (target.right @ rows.T))
    left, columns = gram.diagonal().clone(), gram.new_zeros(n, rank)
    least = 1e-10 * left
    chosen: list[int] = []
    for place in range(rank):
        gain = torch.where(left > least, met.square().sum(dim=0) / left.clamp(min=torch.finfo(left.dtype).tiny), 0)
        gain[chosen] = 0
        pivot = int(gain.argmax())
        if not bool(gain[pivot] > 0):
            break
        root = left[pivot].sqrt()
        column = (gram[:, pivot] - columns @ columns[pivot]) / root
        met = met - (met[:, pivot] / root)[:, None] * column
        left = left - column.square()
        columns[:, place] = column
        chosen.append(pivot)
    groups = 2 if kind is Pairs else 1
    some = rows.reshape(groups, n, rows.shape[1])[:, chosen].flatten(0, 1)
    terms = kind(some, coefficients[chosen])
    best = torch.linalg.lstsq(terms.gram, terms.meet(target)[1]).solution
    return _padded(kind, (some, best), rank)


def _random(
    target: Target,
    kind: type[Pairs] | type[Squares],
    own: tuple[Tensor, Tensor],
    rank: int,
    generator: torch.Generator,
) -> Pairs | Squares:
    """Random sums of the layer's own factors, scaled to the norm of B."""
    groups = 2 if kind is Pairs else 1

    def drawn(count: int, rows: Tensor) -> Tensor:
        return torch.randn(count, len(rows), generator=generator, dtype=torch.float64).to(rows.device) @ rows

    terms = balanced(kind(drawn(groups * rank, own[0]), drawn(rank, own[1])))
    size = (target.energy / terms.energy) ** (1 / 6) if terms.energy > 0 else 1.0
    return kind(terms.rows * size, terms.coefficients * size)


def _residual(target: Target, a: Tensor, b: Tensor, c: Tensor) -> float:
    """‖B − B̂‖, its kernels made one by one from both sides' units, so that nothing cancels but entries."""
    left, right, down = torch.cat([target.left, a]), torch.cat([target.right, b]), torch.cat([target.down, -c.T], dim=1)
    total = 0.0
    for weights in down:
        half = (left * weights[:, None]).T @ right
        total += float((half + half.T).square().sum()) / 4
    return math.sqrt(total)


def _record(
    tensor: BilinearTensor,
    layer: _Reduced,
    terms: Pairs | Squares,
    stationary: float,
    history: list[float],
    *,
    tol: float,
    settled: bool,
) -> CP:
    target, like = layer.target, tensor.left
    inner = terms.meet(target)[0]
    least = 16 * EPSILON * target.spread**2
    energy = max(target.energy, least)
    norm = math.sqrt(energy)
    weights = terms.coefficients.norm(dim=1) * terms.gram.diagonal().clamp(min=0).sqrt()
    spread = target.spread + float(weights.sum())
    floor, error = 4 * torch.finfo(like.dtype).eps * spread / norm if norm > 0 else 0.0, 0.0
    if energy > target.energy:
        floor = 1.0
    elif norm > 0:
        square = energy - 2 * inner + terms.energy
        if square < 1e4 * EPSILON * spread**2:  # a difference of Grams is no longer enough
            rows, r = terms.rows, len(terms.coefficients)
            square = _residual(target, rows[:r], rows[-r:], terms.coefficients) ** 2
        error = math.sqrt(square) / norm
    a, b, c = layer.factors(terms)
    order = weights.argsort(descending=True, stable=True)
    (a, one), (b, two), (c, size) = (_unit(rows[order]) for rows in (a, b, c))
    values = one * two * size
    peaks = [rows.gather(1, rows.abs().argmax(dim=1, keepdim=True)) for rows in (a, b)]
    a, b, c = a * _sign(peaks[0]), b * _sign(peaks[1]), c * _sign(peaks[0]) * _sign(peaks[1])
    swap = peaks[1].abs() > peaks[0].abs()
    a, b = torch.where(swap, b, a), torch.where(swap, a, b)
    some = (values > 0)[:, None]
    return CP(
        values=values.to(like),
        outputs=(c * some).to(like),
        left=(a * some).to(like),
        right=(b * some).to(like),
        error=torch.tensor(error, dtype=torch.float64).to(like),
        floor=torch.tensor(floor, dtype=torch.float64).to(like),
        energy=torch.tensor(energy, dtype=torch.float64).to(like),
        gradient=torch.tensor(stationary, dtype=torch.float64).to(like),
        history=torch.tensor(history, dtype=torch.float64),
        converged=settled or error <= tol,
        input=tensor.input,
        output=tensor.output,
    )


def _unit(rows: Tensor) -> tuple[Tensor, Tensor]:
    norms: Tensor = rows.norm(dim=1)
    return rows / torch.where(norms > 0, norms, 1)[:, None], norms


def _sign(peak: Tensor) -> Tensor:
    return torch.where(peak < 0, -1.0, 1.0).to(peak)


def _check_resumed(tensor: BilinearTensor, rank: int, kind: type[Pairs] | type[Squares], resume: CP | None) -> None:
    if resume is None:
        return
    instance("resume", resume, CP, hint="pass an earlier result, or leave it out")
    tensor.input.require(resume.input, "an earlier result")
    tensor.output.require(resume.output, "an earlier result to output")
    if len(resume) != rank:
        raise ShapeError(f"an earlier result with {len(resume)} terms", f"{rank}", "go on with as many terms")
    if kind is Squares and not torch.equal(resume.left, resume.right):
        raise BilensError("an earlier result with left ≠ right", "one of cp_symmetric", "go on with cp")
