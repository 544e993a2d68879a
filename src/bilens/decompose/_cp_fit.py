"""Fitting a sum of terms to a tensor by L-BFGS on inner products of the factors; for `decompose.cp`."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from bilens._internal.factors import hidden_gram
from bilens._internal.scale import near_one
from bilens.decompose.linalg import EPSILON
from bilens.progress import Step, bar
from bilens.tensor import BilinearTensor

RIDGES = tuple(0.1 * 0.5**n for n in range(7))
"""Ridges that a random start is led down, `STAGE` steps at each, in units of (‖B‖²/R)^⅔: terms that start at random
otherwise grow against one another before they have found their places."""

STAGE = 30
"""Steps at each of them."""

CHUNK = 10
"""Steps between two looks at the error; they cost one evaluation more."""

ROUGH = 2e-3
"""Steps are in float32 until the error is at most this, where its square begins to drown in rounding, or settles."""

SETTLED = 1e-5
"""Fall of the error in a chunk below which float32 is no longer enough."""

Factors = list[Tensor]
"""a, b and c of Σ_r c_r ⊗ sym(a_r ⊗ b_r), rows; of squares, a and c alone. So a, b, c = f[0], f[-2], f[-1]."""


class Target:
    """B in float64 with norm 1, or 0, without hidden units that are 0; the factors of each unit at one norm."""

    def __init__(self, tensor: BilinearTensor) -> None:
        # Rescale by powers of two: the Gram has the sixth power of the factors.
        (left, x), (right, y), (down, z) = (near_one(f.double()) for f in (tensor.left, tensor.right, tensor.down))
        sizes = torch.stack([left.norm(dim=1), right.norm(dim=1), down.norm(dim=0)])
        used = (sizes > 0).all(dim=0).nonzero()[:, 0]
        level = sizes[:, used].log().mean(dim=0).exp() / sizes[:, used]
        self.left, self.right = left[used] * level[0, :, None], right[used] * level[1, :, None]
        self.down = down[:, used] * level[2]
        gram = hidden_gram(self.left, self.right, self.left, self.right)
        energy = float(((self.down.T @ self.down) * gram).sum())
        spread = float((self.down.norm(dim=0) * gram.diagonal().clamp(min=0).sqrt()).sum())
        self.vanishes = not energy > 16 * EPSILON * spread**2  # 0, or all of it cancels
        norm = math.sqrt(16 * EPSILON) * spread if self.vanishes else math.sqrt(energy)
        self.norm = norm * float(x * y * z)  # of B itself
        # Σ_h ‖D_h‖ ‖sym(L_h R_h)‖ over the norm, to which rounding is proportional.
        self.spread = spread / norm if norm > 0 else 0.0
        self.down = self.down / (norm or 1.0)
        self._single = [f.float() for f in (self.left, self.right, self.down)]

    def own(self, symmetric: bool) -> Factors:
        """The layer itself as terms: its hidden units, or the two squares of each; none of a tensor that is 0."""
        left, right, down = self.left, self.right, self.down.T
        if self.vanishes:
            left, right, down = left[:0], right[:0], down[:0]
        if not symmetric:
            return [left, right, down]
        rows = torch.cat([left + right, left - right])
        some = (rows.norm(dim=1) > 4 * EPSILON * torch.cat([left, left]).norm(dim=1)).nonzero()[:, 0]
        return [rows[some], torch.cat([down, -down])[some] / 4]

    def loss(self, factors: Factors, ridge: float = 0.0) -> Tensor:
        """½‖B − B̂‖² + ½ρ(‖a‖² + ‖b‖² + ‖c‖²), in the type of the factors: ⟨B, B̂⟩ = Σ c ∘ (D K)ᵀ, ‖B̂‖² = Σ ccᵀ ∘ S."""
        a, b, c = factors[0], factors[-2], factors[-1]
        left, right, down = self._single if c.dtype == torch.float32 else (self.left, self.right, self.down)
        inner = ((down @ _inner(left, right, a, b)).T * c).sum()
        fitted = ((c @ c.T) * _inner(a, b, a, b)).sum()
        size = sum(factor.square().sum() for factor in factors)
        return ((not self.vanishes) + fitted + ridge * size) / 2 - inner

    def error(self, factors: Factors, ridge: float = 0.0) -> float:
        """‖B − B̂‖ / ‖B‖ with no ridge, rounding below about 1e-8."""
        square = 2 * float(self.loss(factors, ridge))
        return math.nan if math.isnan(square) else math.sqrt(max(square, 0.0))

    def residual(self, factors: Factors) -> float:
        """The same, its kernels made one by one from both sides' units, so that nothing cancels but entries."""
        left, right = torch.cat([self.left, factors[0]]), torch.cat([self.right, factors[-2]])
        total = 0.0
        for weights in torch.cat([self.down, -factors[-1].T], dim=1):
            half = (left * weights[:, None]).T @ right
            total += float((half + half.T).square().sum()) / 4
        return math.sqrt(total)


class Attempt:
    """One start and the factors that it has led to; `errors` has ‖B − B̂‖/‖B‖ at the start and after each chunk."""

    def __init__(self, target: Target, factors: Factors, steps: int, step: Step) -> None:
        self.target, self.factors, self.left, self.step, self.settled = target, balanced(factors), steps, step, False
        self.errors = [target.error(self.factors)]

    def run(self, work: torch.dtype, ridge: float, *, steps: int, least: float, slow: float) -> None:
        """Descend until the error is at most `least`, falls by less than `slow` in a chunk, or the steps are done.

        With a ridge what must fall is the root of twice the loss, of which the error is a part.
        """
        self.settled, end = False, max(self.left - steps, 0)
        free = [factor.to(work, copy=True).requires_grad_() for factor in self.factors]
        optimizer = torch.optim.LBFGS(
            free, history_size=20, tolerance_grad=0, tolerance_change=0, line_search_fn="strong_wolfe"
        )

        @torch.enable_grad()
        def closure() -> Tensor:
            optimizer.zero_grad()
            value = self.target.loss(free, ridge)
            value.backward()  # type: ignore[no-untyped-call]
            return value

        before = self.target.error(self.factors, ridge)
        while self.left > end and not self.settled and not self.errors[-1] <= least:
            count = min(CHUNK, self.left - end)
            optimizer.param_groups[0]["max_iter"] = count
            optimizer.step(closure)  # type: ignore[no-untyped-call]
            found = balanced([factor.detach().double() for factor in free])
            after = self.target.error(found, ridge)
            self.settled = not before - after >= slow
            if after <= before:
                self.factors, before = found, after
                self.errors.append(self.target.error(found))
            self.left -= count
            self.step(count, error=self.errors[-1])


def fit(
    target: Target,
    own: Factors,
    rank: int,
    *,
    starts: int,
    generator: torch.Generator,
    steps: int,
    tol: float,
    ridge: float,
    show: bool,
) -> Attempt:
    """The best of one start from the layer's own terms, more of them than `rank`, and of some random ones."""
    scale = (1 / rank) ** (2 / 3)  # ‖B‖ = 1 here
    tried: list[Attempt] = []
    with bar(f"fitting {rank} terms", (1 + starts) * steps, show=show) as step:
        try:
            for attempt in range(1 + starts):
                start = _random(own, rank, generator) if attempt else _largest(own, rank)
                one = Attempt(target, start, steps, step)
                tried.append(one)
                for rung in RIDGES if attempt else ():
                    if rung > ridge:
                        one.run(torch.float32, rung * scale, steps=STAGE, least=ROUGH, slow=ROUGH)
                if attempt:
                    one.factors = _revived(one.factors, _random(own, rank, generator))
                one.run(torch.float32, ridge * scale, steps=steps, least=max(tol, ROUGH), slow=max(tol, SETTLED))
                one.run(torch.float64, ridge * scale, steps=steps, least=tol, slow=tol)
                step(one.left)  # those that were not needed
                if one.errors[-1] <= tol:
                    break
        except KeyboardInterrupt:
            if not tried:
                raise
            tried[-1].settled = False
    return min(tried, key=lambda one: one.errors[-1])


def _inner(a1: Tensor, b1: Tensor, a2: Tensor, b2: Tensor) -> Tensor:
    """⟨sym(a₁ ⊗ b₁), sym(a₂ ⊗ b₂)⟩ = ½[(a₁a₂ᵀ)∘(b₁b₂ᵀ) + (a₁b₂ᵀ)∘(b₁a₂ᵀ)] for all pairs of rows."""
    if a2 is b2:
        return (a1 @ a2.T) * (b1 @ b2.T)
    return ((a1 @ a2.T) * (b1 @ b2.T) + (a1 @ b2.T) * (b1 @ a2.T)) / 2


def norms_of(factors: Factors) -> Tensor:
    """‖c_r ⊗ sym(a_r ⊗ b_r)‖, (R,)."""
    a, b, c = factors[0], factors[-2], factors[-1]
    products = (a.square().sum(dim=1) * b.square().sum(dim=1) + (a * b).sum(dim=1).square()) / 2
    norms: Tensor = c.norm(dim=1) * products.sqrt()
    return norms


def balanced(factors: Factors) -> Factors:
    """The same tensor with the factors of each term at one norm; a term with a factor 0 has all of them 0."""
    sizes = [factors[at].norm(dim=1, keepdim=True) for at in (0, -2, -1)]
    level = (sizes[0] * sizes[1] * sizes[2]) ** (1 / 3)
    return [torch.where(level > 0, rows * (level / rows.norm(dim=1, keepdim=True)), 0) for rows in factors]


def _largest(own: Factors, rank: int) -> Factors:
    """R of the layer's own terms, those of the largest norms."""
    chosen = norms_of(own).argsort(descending=True, stable=True)[:rank]
    return [rows[chosen] for rows in own]


def _random(own: Factors, rank: int, generator: torch.Generator) -> Factors:
    """Random sums of the layer's own factors, scaled to the norm of B, which is 1."""
    draws = [torch.randn(rank, len(rows), generator=generator, dtype=torch.float64) for rows in own]
    factors = balanced([draw.to(rows.device) @ rows for draw, rows in zip(draws, own, strict=True)])
    a, b, c = factors[0], factors[-2], factors[-1]
    energy = float(((c @ c.T) * _inner(a, b, a, b)).sum())
    return [rows * (energy ** (-1 / 6) if energy > 0 else 1.0) for rows in factors]


def _revived(factors: Factors, fresh: Factors) -> Factors:
    """Terms that a ridge has brought to 0 with fresh factors, so small that the tensor changes little."""
    norms = factors[-1].norm(dim=1, keepdim=True)
    dead, size = norms < 1e-3 * norms.max(), 0.1 * norms.median()
    pairs = zip(fresh, factors, strict=True)
    return [torch.where(dead, size * functional.normalize(new, dim=1), old) for new, old in pairs]
