"""Canonical polyadic decomposition: a tensor as the best sum of R terms, fitted from inner products of its factors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bilens._internal import checks
from bilens._internal.checks import flag, instance, number, whole
from bilens._internal.factors import hidden_gram
from bilens._internal.scale import near_one
from bilens._internal.shown import line
from bilens.decompose.linalg import at_least_single, detach, largest_square, upward
from bilens.errors import BilensError, ShapeError
from bilens.progress import Step, bar
from bilens.space import Space
from bilens.tensor import BilinearTensor

EPSILON = torch.finfo(torch.float64).eps

MOST = 2**16
"""Terms that may be asked for of any tensor, however small."""

RIDGES = tuple(0.1 * 0.5**n for n in range(7))
"""Ridges that a random start is led down, in units of (‖B‖²/R)^⅔, before the one that was asked for."""

STAGE = 30
"""Steps at each of them."""

MEMORY = 20
"""Steps that L-BFGS remembers."""

CHUNK = 10
"""Steps between two looks at the error; they cost one evaluation more."""

ROUGH = 2e-3
"""Steps are in float32 until the error is at most this, where its square begins to drown in rounding, or settles."""

WORK = (torch.float32, torch.float64)
"""In which steps are taken, one after the other."""

SETTLED = 1e-5
"""Fall of the error in a chunk below which float32 is no longer enough."""


@dataclass(frozen=True, eq=False, repr=False)
class CP:
    """B̂ = Σ_r w_r · s_r ⊗ sym(a_r ⊗ b_r), so that ŷ = Σ_r w_r (a_r·x')(b_r·x') s_r, and how far it is from B.

    Each term is one product of two directions of the input that is sent along one direction of the output. Terms stand
    in the order of their norms, largest first; the largest entries of a_r and b_r are positive, and a_r has the larger
    one. A term that is 0 has w_r = 0 and factors 0.

    Args:
        values: w, (R,), not negative.
        outputs: s, (R, o), unit rows; left: a, (R, i), unit rows; right: b, (R, i), unit rows, equal to `left` from
            `cp_symmetric`.
        error: ‖B − B̂‖ / ‖B‖ of the factors before they were rounded to their type; 0 for a tensor that is 0.
        floor: an error at or below it is rounding.
        energy: ‖B‖².
        gradient: ‖∇f‖ ‖θ‖ / ‖B‖² of what was minimised, over factors at equal norms: 0 where no small change helps.
        history: the error of the best start at its beginning and after every few steps, in float64.
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

    __repr__ = line

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
        folded = self.input.fold(x)
        return (folded @ self.left.T.to(x)) * (folded @ self.right.T.to(x)) * self.values.to(x)

    def norms(self) -> Float[Tensor, " r"]:
        """‖w_r s_r ⊗ sym(a_r ⊗ b_r)‖ = w_r √(½(1 + (a_r·b_r)²)) for each term."""
        return self.values * ((1 + (self.left * self.right).sum(dim=1).square()) / 2).sqrt()

    def cancellation(self) -> float:
        """Σ_r ‖term‖² / ‖B̂‖²: 1 for orthogonal terms; large where terms cancel, which no term alone explains."""
        whole = float(self.tensor().norm().double() ** 2)
        return float(self.norms().double().square().sum()) / whole if whole > 0 else 1.0

    @torch.no_grad()
    def bound(self, x_norm: Float[Tensor, "*n"] | float) -> Float[Tensor, "*n"]:
        """The truncation certificate: ‖y − ŷ‖ ≤ ‖B − B̂‖ · ‖x'‖², the floor counted in, rounded up.

        Args:
            x_norm: ‖x'‖, the norm of the folded input.
        """
        rest = (self.error.double() + self.floor.double()) * self.energy.double().sqrt()
        rest = rest * (1 + 4 * torch.finfo(self.values.dtype).eps)
        return upward(rest * largest_square(x_norm, self.input.dim, self.values), self.values.dtype)


def cp(
    tensor: BilinearTensor,
    rank: int,
    *,
    starts: int = 1,
    seed: int = 0,
    steps: int = 500,
    tol: float = 1e-6,
    ridge: float = 0.0,
    resume: CP | None = None,
    progress: bool = True,
) -> CP:
    """The nearest sum of R terms c_r ⊗ sym(a_r ⊗ b_r) to B that is found: R hidden units instead of h.

    Minimises ½‖B − B̂‖² + ½ρ Σ_r (‖a_r‖² + ‖b_r‖² + ‖c_r‖²) by L-BFGS on inner products of the factors; nothing of size
    o·i² is made. A random start is led down a ladder of ridges first, which keeps terms from growing against one
    another. The minimum found is a local one: compare starts. With R ≥ h the layer's own hidden units are the answer.

    Args:
        tensor: B; rank: R, at least 1.
        starts: number of random starts after the one from the weights (R hidden units, each chosen so that it lowers
            the error most); none is tried once one has met the tolerance.
        seed: of the random starts; steps: at most so many for each start.
        tol: stop when the error ‖B − B̂‖/‖B‖ is at most this, or falls by less than this over ten steps.
        ridge: ρ in units of (‖B‖²/R)^⅔; above 0 the minimum exists, and the error it costs is part of `error`.
        resume: an earlier result to continue from, instead of all starts; its history is continued.
        progress: whether to show a bar with the error and the time left. Ctrl-C ends the fit with the best so far,
            `converged` False.

    Returns:
        A `CP` in float32, or in float64 where the tensor is. It carries no gradient.

    Cost: O(h² (i + o)) once; a step takes 24·h·i·R + 6·o·h·R + O(R² (i + o)) operations for value and derivatives;
    memory O((h + R)(i + o) + h²), and `MEMORY` copies of the terms. In float32 until the error settles or is near 2e-3,
    then in float64. Floor: as a difference of Grams an error below about 1e-8 is rounding, so that the fit ends there;
    `error` itself is then computed once more, one kernel of i² numbers at a time, and is right to about 1e-15
    (`floor`). A tensor whose norm is below about 1e-8 of the sum of its hidden units' norms counts as 0, with `floor`
    1.

    Raises:
        BilensError: a number out of range, or terms beyond the type. ShapeError, SpaceError: `resume` is of another
            rank or over other spaces.

    Source: Acar, Dunlavy and Kolda, "A scalable optimization approach for fitting canonical tensor decompositions"
    (2011), for all factors at once; Liu and Nocedal (1989) for L-BFGS.
    """
    return _fit(
        tensor,
        rank,
        symmetric=False,
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
    steps: int = 500,
    tol: float = 1e-6,
    ridge: float = 0.0,
    resume: CP | None = None,
    progress: bool = True,
) -> CP:
    """The nearest sum of R terms c_r ⊗ a_r ⊗ a_r to B that is found: linear kernels that all outputs share (INDSCAL).

    y_o ≈ Σ_r c_ro (a_r·x')², so that each output is a weighted sum of the same R squares; eigenvectors give each output
    its own. One term of `cp` takes two of these, sym(a ⊗ b) = ¼[(a+b)(a+b)ᵀ − (a−b)(a−b)ᵀ], hence R ≥ 2h is exact.

    Args, Returns, Cost and Raises: as `cp`; the start from the weights chooses among the 2h squares of the hidden
    units, at 8h²i operations. `resume` must have left = right.

    Source: Carroll and Chang, "Analysis of individual differences in multidimensional scaling" (1970).
    """
    return _fit(
        tensor,
        rank,
        symmetric=True,
        starts=starts,
        seed=seed,
        steps=steps,
        tol=tol,
        ridge=ridge,
        resume=resume,
        progress=progress,
    )


class _Terms(NamedTuple):
    """Σ_r c_r ⊗ sym(a_r ⊗ b_r); of squares, b is a itself."""

    a: Tensor
    b: Tensor
    c: Tensor

    @property
    def free(self) -> list[Tensor]:
        """What is fitted."""
        return [self.a, self.c] if self.a is self.b else list(self)

    @classmethod
    def of(cls, free: list[Tensor]) -> _Terms:
        """Terms of the factors that are fitted."""
        return cls(free[0], free[-2], free[-1])

    def scaled(self, by_a: Tensor, by_b: Tensor, by_c: Tensor) -> _Terms:
        """Each factor's rows times their numbers."""
        a = self.a * by_a[:, None]
        return _Terms(a, a if self.a is self.b else self.b * by_b[:, None], self.c * by_c[:, None])


@torch.no_grad()
def _fit(
    tensor: BilinearTensor,
    rank: int,
    *,
    symmetric: bool,
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
    _check_resumed(tensor, rank, symmetric=symmetric, resume=resume)
    target, generator = _Target(tensor), torch.Generator().manual_seed(seed)
    own = target.own(symmetric=symmetric)
    if not len(own.c) or (resume is None and len(own.c) <= rank):
        return _record(tensor, target, _padded(own, rank), [0.0], ridge=0.0, tol=tol, settled=True)
    scale = (1 / rank) ** (2 / 3)  # ‖B‖ = 1 here
    attempts = 1 if resume is not None else 1 + starts
    tried: list[_Attempt] = []
    with bar(f"fitting {rank} terms", attempts * steps, show=progress) as step:
        try:
            for attempt in range(attempts):
                if resume is not None:
                    start = target.terms(resume, symmetric=symmetric)
                else:
                    start = _random(own, rank, generator) if attempt else _pursued(target, own, rank)
                tried.append(_Attempt(target, start, steps))
                one = tried[-1]
                for rung in RIDGES if attempt else ():
                    if rung > ridge:
                        one.run(step, torch.float32, rung * scale, steps=STAGE, least=ROUGH, slow=ROUGH)
                if attempt:
                    one.revive(own, generator)
                one.run(step, torch.float32, ridge * scale, steps=steps, least=max(tol, ROUGH), slow=max(tol, SETTLED))
                one.run(step, torch.float64, ridge * scale, steps=steps, least=tol, slow=tol)
                one.settled = one.settled or one.error <= tol
                step(one.left)  # those that were not needed
                if one.error <= tol:
                    break
        except KeyboardInterrupt:
            if not tried:
                raise
            tried[-1].settled = False
    best = min(tried, key=lambda one: one.error)
    history = ([] if resume is None else resume.history.tolist()[:-1]) + best.errors
    return _record(tensor, target, best.terms, history, ridge=ridge * scale, tol=tol, settled=best.settled)


class _Target:
    """B in float64 with norm 1, or 0, without hidden units that are 0; the factors of each unit at one norm."""

    def __init__(self, tensor: BilinearTensor) -> None:
        # Powers of two out of the way: the Gram has the sixth power of the factors.
        (left, x), (right, y), (down, z) = (near_one(f.double()) for f in (tensor.left, tensor.right, tensor.down))
        self.power = float(x * y * z)
        sizes = torch.stack([left.norm(dim=1), right.norm(dim=1), down.norm(dim=0)])
        used = (sizes > 0).all(dim=0).nonzero()[:, 0]
        level = sizes[:, used].log().mean(dim=0).exp() / sizes[:, used]
        self.left, self.right = left[used] * level[0, :, None], right[used] * level[1, :, None]
        self.down = down[:, used] * level[2]
        self.gram = hidden_gram(self.left, self.right, self.left, self.right)
        energy = float(((self.down.T @ self.down) * self.gram).sum())
        spread = float((self.down.norm(dim=0) * self.gram.diagonal().clamp(min=0).sqrt()).sum())
        self.vanishes = not energy > 16 * EPSILON * spread**2  # 0, or all of it cancels
        # The norm of B over the power; Σ_h ‖D_h‖ ‖sym(L_h R_h)‖ over the norm, to which rounding is proportional.
        self.norm = math.sqrt(16 * EPSILON) * spread if self.vanishes else math.sqrt(energy)
        self.spread = spread / self.norm if self.norm > 0 else 0.0
        self.down = self.down / (self.norm or 1.0)
        self.energy = 0.0 if self.vanishes else 1.0
        self._in = {kind: [f.to(kind) for f in (self.left, self.right, self.down)] for kind in WORK}

    def own(self, *, symmetric: bool) -> _Terms:
        """The layer itself as terms: its hidden units, or the two squares of each; none of a tensor that is 0."""
        left, right, down = self.left, self.right, self.down.T
        if self.vanishes:
            left, right, down = left[:0], right[:0], down[:0]
        if not symmetric:
            return _Terms(left, right, down)
        rows = torch.cat([left + right, left - right])
        some = (rows.norm(dim=1) > 4 * EPSILON * torch.cat([left, left]).norm(dim=1)).nonzero()[:, 0]
        rows = rows[some]
        return _Terms(rows, rows, torch.cat([down, -down])[some] / 4)

    def terms(self, record: CP, *, symmetric: bool) -> _Terms:
        """Those of an earlier result."""
        left = record.left.double()
        # Two divisions: the product of the scales may be beyond the type.
        values = record.values.double() / self.power / (self.norm or 1.0)
        return _Terms(left, left if symmetric else record.right.double(), record.outputs.double() * values[:, None])

    def objective(self, terms: _Terms, ridge: float) -> Tensor:
        """½‖B − B̂‖² + ½ρ(‖a‖² + ‖b‖² + ‖c‖²), in the type of the terms: ⟨B, B̂⟩ = Σ c ∘ (D K)ᵀ, ‖B̂‖² = Σ ccᵀ ∘ S."""
        a, b, c = terms
        left, right, down = self._in[c.dtype]
        inner = ((down @ _inner(left, right, a, b)).T * c).sum()
        fitted = ((c @ c.T) * _inner(a, b, a, b)).sum()
        size = sum(factor.square().sum() for factor in terms.free)
        return (self.energy + fitted + ridge * size) / 2 - inner


def _inner(a1: Tensor, b1: Tensor, a2: Tensor, b2: Tensor) -> Tensor:
    """⟨sym(a₁ ⊗ b₁), sym(a₂ ⊗ b₂)⟩ = ½[(a₁a₂ᵀ)∘(b₁b₂ᵀ) + (a₁b₂ᵀ)∘(b₁a₂ᵀ)] for all pairs of rows."""
    if a2 is b2:
        return (a1 @ a2.T) * (b1 @ b2.T)
    return ((a1 @ a2.T) * (b1 @ b2.T) + (a1 @ b2.T) * (b1 @ a2.T)) / 2


class _Attempt:
    """One start and the terms that it has led to; `errors` has ‖B − B̂‖/‖B‖ at the start and after each chunk."""

    def __init__(self, target: _Target, terms: _Terms, steps: int) -> None:
        self.target, self.terms, self.left, self.settled = target, _balanced(terms), steps, False
        self.errors = [_error(target, self.terms)]

    @property
    def error(self) -> float:
        """The last of the errors."""
        return self.errors[-1]

    def run(self, step: Step, work: torch.dtype, ridge: float, *, steps: int, least: float, slow: float) -> None:
        """Descend until the error is at most `least`, falls by less than `slow` in a chunk, or the steps are done.

        With a ridge what must fall is the root of twice the objective, of which the error is a part.
        """
        self.settled, end = False, max(self.left - steps, 0)
        free = [factor.to(work, copy=True).requires_grad_() for factor in self.terms.free]
        optimizer = torch.optim.LBFGS(
            free, history_size=MEMORY, tolerance_grad=0, tolerance_change=0, line_search_fn="strong_wolfe"
        )

        @torch.enable_grad()
        def closure() -> Tensor:
            optimizer.zero_grad()
            value = self.target.objective(_Terms.of(free), ridge)
            value.backward()  # type: ignore[no-untyped-call]
            return value

        before = _error(self.target, self.terms, ridge)
        while self.left > end and not self.settled and not self.error <= least:
            count = min(CHUNK, self.left - end)
            optimizer.param_groups[0]["max_iter"] = count
            optimizer.step(closure)  # type: ignore[no-untyped-call]
            found = _balanced(_Terms.of([factor.detach().double() for factor in free]))
            after = _error(self.target, found, ridge)
            self.settled = not before - after >= slow
            if after <= before:
                self.terms, before = found, after
                self.errors.append(_error(self.target, found))
            self.left -= count
            step(count, error=self.error)

    def revive(self, own: _Terms, generator: torch.Generator) -> None:
        """Give terms that a ridge has brought to 0 new random factors, so small that the tensor changes little."""
        norms = self.terms.c.norm(dim=1)
        dead = norms < 1e-3 * norms.max()
        if bool(dead.any()):
            fresh = _random(own, len(norms), generator)
            size = 0.1 * norms.median() / fresh.c.norm(dim=1).clamp(min=torch.finfo(torch.float64).tiny)
            fresh = fresh.scaled(size, size, size)
            self.terms = _Terms.of(
                [torch.where(dead[:, None], new, old) for new, old in zip(fresh.free, self.terms.free, strict=True)]
            )
            self.errors.append(_error(self.target, self.terms))


def _error(target: _Target, terms: _Terms, ridge: float = 0.0) -> float:
    """‖B − B̂‖ / ‖B‖ with no ridge, rounding below about 1e-8."""
    square = 2 * float(target.objective(terms, ridge))
    return math.nan if math.isnan(square) else math.sqrt(max(square, 0.0))


def _balanced(terms: _Terms) -> _Terms:
    """The same tensor with the factors of each term at one norm; a term with a factor 0 has all of them 0."""
    sizes = torch.stack([rows.norm(dim=1) for rows in terms])
    level = sizes.prod(dim=0) ** (1 / 3)
    by_a, by_b, by_c = torch.where(level > 0, level / torch.where(level > 0, sizes, 1), 0)
    return terms.scaled(by_a, by_b, by_c)


def _padded(terms: _Terms, rank: int) -> _Terms:
    """The terms, and others that are 0."""
    return _Terms.of([torch.cat([rows, rows.new_zeros(rank - len(rows), rows.shape[1])]) for rows in terms.free])


def _pursued(target: _Target, own: _Terms, rank: int) -> _Terms:
    """R of the layer's own terms, each chosen so that it lowers the error most, with the best coefficients.

    A Cholesky factorisation of the Gram of their kernels with the gain as pivot: O(n R (R + o)) after the Gram.
    """
    squares = own.a is own.b
    gram = _inner(own.a, own.b, own.a, own.b) if squares else target.gram
    met = target.down @ (_inner(target.left, target.right, own.a, own.b) if squares else gram)
    left, columns = gram.diagonal().clone(), gram.new_zeros(len(gram), rank)
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
    free = [rows[chosen] for rows in own.free]
    slope = (target.down @ _inner(target.left, target.right, free[0], free[-2])).T
    free[-1] = torch.linalg.lstsq(gram[chosen][:, chosen], slope).solution
    return _padded(_Terms.of(free), rank)


def _random(own: _Terms, rank: int, generator: torch.Generator) -> _Terms:
    """Random sums of the layer's own factors, scaled to the norm of B, which is 1."""

    def drawn(rows: Tensor) -> Tensor:
        return torch.randn(rank, len(rows), generator=generator, dtype=torch.float64).to(rows.device) @ rows

    terms = _balanced(_Terms.of([drawn(rows) for rows in own.free]))
    energy = float(((terms.c @ terms.c.T) * _inner(terms.a, terms.b, terms.a, terms.b)).sum())
    size = terms.c.new_tensor(energy ** (-1 / 6) if energy > 0 else 1.0).expand(rank)
    return terms.scaled(size, size, size)


def _residual(target: _Target, terms: _Terms) -> float:
    """‖B − B̂‖, its kernels made one by one from both sides' units, so that nothing cancels but entries."""
    left, right = torch.cat([target.left, terms.a]), torch.cat([target.right, terms.b])
    total = 0.0
    for weights in torch.cat([target.down, -terms.c.T], dim=1):
        half = (left * weights[:, None]).T @ right
        total += float((half + half.T).square().sum()) / 4
    return math.sqrt(total)


def _steepness(target: _Target, terms: _Terms, ridge: float) -> float:
    """‖∇f‖ ‖θ‖ / ‖B‖²."""
    free = [factor.clone().requires_grad_() for factor in terms.free]
    with torch.enable_grad():
        slopes = torch.autograd.grad(target.objective(_Terms.of(free), ridge), free)
    size, slope = (sum(float(part.square().sum()) for part in parts) for parts in (terms.free, slopes))
    return math.sqrt(size * slope)


def _record(
    tensor: BilinearTensor,
    target: _Target,
    terms: _Terms,
    history: list[float],
    *,
    ridge: float,
    tol: float,
    settled: bool,
) -> CP:
    like = at_least_single(tensor.left.dtype)
    steep = _steepness(target, terms, ridge) if len(history) > 1 or not settled else 0.0
    weights = terms.c.norm(dim=1) * _inner(terms.a, terms.b, terms.a, terms.b).diagonal().clamp(min=0).sqrt()
    spread = target.spread + float(weights.sum())
    floor, error = 4 * torch.finfo(like).eps * spread, 0.0
    if target.vanishes:
        floor = 1.0 if target.norm > 0 else 0.0
    else:
        error = _error(target, terms)
        if error**2 < 1e4 * EPSILON * spread**2:  # a difference of Grams is no longer enough
            error = _residual(target, terms)
    order = weights.argsort(descending=True, stable=True)
    (a, one), (b, two), (c, size) = (_unit(rows[order]) for rows in terms)
    values = one * two * size * target.norm * target.power
    energy = torch.tensor(target.norm * target.power, dtype=torch.float64).square()
    if not bool(torch.isfinite(energy.to(like)) and torch.isfinite(values.to(like)).all()):
        raise BilensError(
            f"a tensor of norm {target.norm * target.power:.2g} in {str(like).removeprefix('torch.')}",
            "one whose square fits",
            "scale it, or call .to(torch.float64)",
        )
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
        error=values.new_tensor(error).to(like),
        floor=values.new_tensor(floor).to(like),
        energy=energy.to(values.device, like),
        gradient=values.new_tensor(steep).to(like),
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


def _check_resumed(tensor: BilinearTensor, rank: int, *, symmetric: bool, resume: CP | None) -> None:
    if resume is None:
        return
    instance("resume", resume, CP, hint="pass an earlier result, or leave it out")
    tensor.input.require(resume.input, "an earlier result")
    tensor.output.require(resume.output, "an earlier result to output")
    if len(resume) != rank:
        raise ShapeError(f"an earlier result with {len(resume)} terms", f"{rank}", "continue with as many terms")
    if symmetric and not torch.equal(resume.left, resume.right):
        raise BilensError("an earlier result with left ≠ right", "one of cp_symmetric", "continue with cp")
