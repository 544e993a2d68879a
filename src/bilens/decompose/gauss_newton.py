"""Damped Gauss–Newton steps for a sum of terms c_r ⊗ sym(a_r ⊗ b_r), or c_r ⊗ a_r ⊗ a_r, from inner products alone."""

from __future__ import annotations

import copy
import math

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.products import product
from bilens.progress import Step
from bilens.tensor import hidden_gram

EPSILON = torch.finfo(torch.float64).eps

INNER, SOLVED = 60, 0.1
"""Of the conjugate gradients inside a step: at most this many, until the residual has fallen to this share."""

WINDOW = 5
"""Over how many accepted steps the error must fall by less than the tolerance."""


class Target:
    """The tensor that is fitted, in float64: B_oij = ½ Σ_h D_oh (L_hi R_hj + R_hi L_hj), with what all steps share.

    Args:
        left: L, (h, d); right: R, (h, d); down: D, (o, h).

    Cost: one hidden Gram, O(h² (d + o)), for ‖B‖².
    """

    def __init__(self, left: Float[Tensor, "h d"], right: Float[Tensor, "h d"], down: Float[Tensor, "o h"]) -> None:
        self.left, self.right, self.down = left, right, down
        self.stack = torch.cat([left, right])
        self.gram = hidden_gram(left, right, left, right)
        self.energy = float(((down.T @ down) * self.gram).sum())
        norms = down.norm(dim=0) * self.gram.diagonal().clamp(min=0).sqrt()
        self.spread = float(norms.sum())
        """Σ_h ‖D_h‖ ‖sym(L_h R_h)‖, at least ‖B‖: the size that rounding is proportional to."""

    def rough(self) -> Target:
        """The same tensor for products in float32, at twice the rate: derivatives right to about 1e-7 of their norm."""
        other = copy.copy(self)
        other.left, other.right, other.down = self.left.float(), self.right.float(), self.down.float()
        other.stack = self.stack.float()
        return other

    def noise(self, terms: Pairs | Squares) -> float:
        """What rounding may make of the objective: the worst case in float64, the usual one in float32."""
        size = self.energy if self.stack.dtype == torch.float32 else self.spread**2
        return 4 * torch.finfo(self.stack.dtype).eps * (size + terms.energy)


class Pairs:
    """Terms c_r ⊗ sym(a_r ⊗ b_r). The rows are a_1 … a_R, b_1 … b_R.

    With P = ccᵀ: ‖B̂‖² = Σ P ∘ S, S = ½[aaᵀ∘bbᵀ + abᵀ∘baᵀ]; the derivative of ½‖B̂‖² is N u by the rows and S c by the
    coefficients, N = ½[[P∘bbᵀ, P∘baᵀ], [P∘abᵀ, P∘aaᵀ]].

    Args:
        rows: (2R, d); coefficients: (R, o).
    """

    def __init__(self, rows: Float[Tensor, "rows d"], coefficients: Float[Tensor, "r o"]) -> None:
        self.rows, self.coefficients = rows, coefficients
        r = len(coefficients)
        g = rows @ rows.T
        self._aa, self._ab, self._ba, self._bb = g[:r, :r], g[:r, r:], g[r:, :r], g[r:, r:]
        self._p = coefficients @ coefficients.T
        self.gram = (self._aa * self._bb + self._ab * self._ba) / 2
        self.block = _square(self._p * self._bb, self._p * self._ba, self._p * self._ab, self._p * self._aa) / 2

    @property
    def energy(self) -> float:
        """‖B̂‖²."""
        return float((self._p * self.gram).sum())

    def meet(self, target: Target) -> tuple[float, Tensor, Tensor]:
        """⟨B, B̂⟩ = Σ c ∘ (D K)ᵀ with K = ½[(Laᵀ)∘(Rbᵀ) + (Lbᵀ)∘(Raᵀ)]: 8hdR + 2ohR operations."""
        r, h = len(self.coefficients), len(target.left)
        x = product(target.stack, self.rows.to(target.stack))
        met = (x[:h, :r] * x[h:, r:]).addcmul_(x[:h, r:], x[h:, :r]).div_(2)
        slope = product(target.down, met.T).T.double()
        return float((slope * self.coefficients).sum()), slope, x

    def pull(self, target: Target, x: Tensor) -> Tensor:
        """½[(V∘Rbᵀ)ᵀL + (V∘Lbᵀ)ᵀR] by a, V = Dᵀcᵀ, and the same with a and b exchanged by b: as many operations."""
        r, h = len(self.coefficients), len(target.left)
        v = (target.down.T @ self.coefficients.to(x).T).div_(2)
        y = torch.empty_like(x)
        torch.mul(v, x[h:, r:], out=y[:h, :r])
        torch.mul(v, x[:h, r:], out=y[h:, :r])
        torch.mul(v, x[h:, :r], out=y[:h, r:])
        torch.mul(v, x[:h, :r], out=y[h:, r:])
        return product(y.T, target.stack.T).double()

    def curve(self, rows: Tensor, coefficients: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """JᵀJ (x, y), J the derivative of B̂: 24R²p + 4R²q operations, (p, q) the sizes of the bases."""
        r = len(coefficients)
        t, pc = rows @ x.T, coefficients @ y.T
        aa, ab, ba, bb = t[:r, :r], t[:r, r:], t[r:, :r], t[r:, r:]
        turned = (aa * self._bb + self._ab * ba + self._aa * bb + ab * self._ba) / 2
        mixed = _square(
            pc * self._bb + self._p * bb,
            pc * self._ba + self._p * ba,
            pc * self._ab + self._p * ab,
            pc * self._aa + self._p * aa,
        )
        return mixed.div_(2) @ rows + self.block @ x, self.gram @ y + turned @ coefficients


class Squares:
    """Terms c_r ⊗ a_r ⊗ a_r. With P = ccᵀ: S = (aaᵀ)∘(aaᵀ) and N = 2 P∘aaᵀ in the place of those of `Pairs`.

    Args:
        rows: a, (R, d); coefficients: (R, o).
    """

    def __init__(self, rows: Float[Tensor, "r d"], coefficients: Float[Tensor, "r o"]) -> None:
        self.rows, self.coefficients = rows, coefficients
        self._aa, self._p = rows @ rows.T, coefficients @ coefficients.T
        self.gram, self.block = self._aa.square(), 2 * self._p * self._aa

    @property
    def energy(self) -> float:
        """‖B̂‖²."""
        return float((self._p * self.gram).sum())

    def meet(self, target: Target) -> tuple[float, Tensor, Tensor]:
        """⟨B, B̂⟩ = Σ c ∘ (D K)ᵀ with K = (Laᵀ)∘(Raᵀ): 4hdR + 2ohR operations."""
        h = len(target.left)
        x = product(target.stack, self.rows.to(target.stack))
        slope = product(target.down, (x[:h] * x[h:]).T).T.double()
        return float((slope * self.coefficients).sum()), slope, x

    def pull(self, target: Target, x: Tensor) -> Tensor:
        """(V∘Raᵀ)ᵀL + (V∘Laᵀ)ᵀR, V = Dᵀcᵀ: as many operations."""
        h = len(target.left)
        v = target.down.T @ self.coefficients.to(x).T
        return product(torch.cat([v * x[h:], v * x[:h]]).T, target.stack.T).double()

    def curve(self, rows: Tensor, coefficients: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """JᵀJ (x, y), J the derivative of B̂: 6R²p + 4R²q operations."""
        t, pc = rows @ x.T, coefficients @ y.T
        mixed = (pc * self._aa + self._p * t).mul_(2)
        return mixed @ rows + self.block @ x, self.gram @ y + (2 * t * self._aa) @ coefficients


class Point:
    """The objective ½‖B − B̂‖² + ½ρ(‖u‖² + ‖c‖²) at one place, u the rows and c the coefficients of B̂.

    Args:
        target: B; terms: B̂. What the value needs is computed here: 8hdR + 2ohR operations, half for `Squares`.
    """

    def __init__(self, target: Target, terms: Pairs | Squares) -> None:
        self.target, self.terms = target, terms
        self._inner, self._slope, self._products = terms.meet(target)
        self.size = float(terms.rows.square().sum() + terms.coefficients.square().sum())

    def value(self, ridge: float = 0.0) -> float:
        """The objective."""
        return (self.target.energy + self.terms.energy + ridge * self.size) / 2 - self._inner

    def error(self) -> float:
        """‖B − B̂‖ / ‖B‖, rounding below about 1e-8."""
        return math.sqrt(max(2 * self.value(), 0.0) / self.target.energy)

    def gradient(self, ridge: float = 0.0) -> tuple[Tensor, Tensor]:
        """Its derivatives by the rows and by the coefficients, for as many operations again and O(R² (d + o))."""
        terms = self.terms
        return (
            terms.block @ terms.rows - terms.pull(self.target, self._products) + ridge * terms.rows,
            terms.gram @ terms.coefficients - self._slope + ridge * terms.coefficients,
        )


class Descent:
    """Levenberg–Marquardt steps from one start; after each one, `point` is the best so far.

    Args:
        target: B; terms: the start; `errors` has ‖B − B̂‖/‖B‖ of the start and of each accepted step.
    """

    def __init__(self, target: Target, terms: Pairs | Squares) -> None:
        self.point = Point(target, balanced(terms))
        self.taken = 0
        self.settled = False
        self.stationary = float("inf")
        self.errors = [self.point.error()]

    @property
    def error(self) -> float:
        """The last of the errors."""
        return self.errors[-1]

    def run(self, ridge: float, steps: int, tol: float, step: Step) -> None:
        """Descend until the error is at most `tol`, falls by less than that over some steps, or `steps` are done.

        Each step solves (JᵀJ + ρ + μ) δ = −g. The part of δ outside the span of the rows (and of the coefficients) is
        solved for directly; inside, where there are 2R directions and not d, by conjugate gradients with the diagonal
        blocks of JᵀJ as preconditioner. μ follows the ratio of what was gained to what the model promised.

        Args:
            ridge: ρ; steps: at most so many, the rejected ones included; tol: on the error.
            step: told of each step and the error.

        With products in float32 it ends where these are no longer enough; `sharpen` and run again.
        """
        target, damping, growth = self.point.target, 0.0, 2.0
        fresh, start = True, len(self.errors) - 1
        self.settled, rough = False, target.stack.dtype == torch.float32
        for _ in range(steps):
            point, terms = self.point, self.point.terms
            if fresh:
                by_rows, by_coefficients = point.gradient(ridge)
                self.stationary = steep = _steepness(point, by_rows, by_coefficients)
                noise = target.noise(terms)
                if self._done(start, tol, noise):
                    self.settled = True
                    return
                damping = damping or 1e-2 * float(terms.block.diagonal().mean())
            near = self.error**2 * target.energy <= 100 * noise
            if near and rough:
                return
            if near:  # all but exact: undamped
                damping = min(damping, 1e-10 * float(terms.block.diagonal().mean()))
            x, y = direction(terms, by_rows, by_coefficients, damping + ridge)
            fall = -float((by_rows * x).sum() + (by_coefficients * y).sum())
            promised = (fall + damping * float(x.square().sum() + y.square().sum())) / 2
            trial = Point(target, balanced(type(terms)(terms.rows + x, terms.coefficients + y)))
            self.taken += 1
            if promised <= noise and rough:
                return
            if promised <= noise:  # the value is rounding now; its derivatives are not yet
                fresh = _steepness(trial, *trial.gradient(ridge)) < steep / 2
                if not fresh:
                    self.settled = True
                    return
            else:
                gained = (point.value(ridge) - trial.value(ridge)) / promised
                fresh = gained > 1e-4
                if fresh:
                    growth = 2.0
                    damping *= max(1 / 3, 1 - (2 * gained - 1) ** 3)
                else:
                    damping, growth = damping * growth, growth * 2
            if fresh:
                self.point = trial
                self.errors.append(trial.error())
            step(1, error=self.error)

    def sharpen(self, target: Target) -> None:
        """Go on with the same tensor in float64."""
        self.point = Point(target, self.point.terms)
        self.errors[-1] = self.point.error()

    def revive(self, generator: torch.Generator) -> None:
        """Give terms that a ridge has brought to 0 new random rows, with coefficients that change little."""
        terms = self.point.terms
        norms = terms.coefficients.norm(dim=1)
        dead = (norms < 1e-3 * norms.max()).nonzero()[:, 0]
        if not len(dead):
            return
        rows, coefficients = terms.rows.clone().reshape(-1, len(norms), terms.rows.shape[1]), terms.coefficients.clone()
        mixed = torch.randn(
            len(rows), len(dead), len(self.point.target.stack), generator=generator, dtype=torch.float64
        )
        fresh = mixed.to(rows.device) @ self.point.target.stack.double()
        rows[:, dead] = fresh * (norms.median() / fresh.norm(dim=2, keepdim=True))
        tiny = torch.randn(len(dead), coefficients.shape[1], generator=generator, dtype=torch.float64).to(rows.device)
        coefficients[dead] = tiny * (1e-2 * norms.median() / tiny.norm(dim=1, keepdim=True))
        revived = balanced(type(terms)(rows.reshape(terms.rows.shape), coefficients))
        self.point = Point(self.point.target, revived)
        self.errors.append(self.point.error())

    def _done(self, start: int, tol: float, noise: float) -> bool:
        if self.error <= tol and tol**2 * self.point.target.energy > noise:  # below that, the error is rounding
            return True
        if self.error**2 * self.point.target.energy <= 100 * noise or self.stationary > tol**0.5:
            return False
        recent = self.errors[max(start, len(self.errors) - 1 - WINDOW) :]
        return len(recent) > WINDOW and recent[0] - recent[-1] < tol


def balanced(terms: Pairs | Squares) -> Pairs | Squares:
    """The same tensor with the factors of each term at one norm; a term with a factor 0 has all of them 0."""
    r = len(terms.coefficients)
    rows = terms.rows.reshape(-1, r, terms.rows.shape[1])
    norms, size = rows.norm(dim=2), terms.coefficients.norm(dim=1)
    product = norms.prod(dim=0) if len(rows) == 2 else norms[0] ** 2
    level = (product * size) ** (1 / 3)
    some = level > 0
    by_rows = torch.where(some, level / torch.where(some, norms, 1), 0)
    by_size = torch.where(some, level / torch.where(some, size, 1), 0)
    scaled = (rows * by_rows[..., None]).reshape(terms.rows.shape)
    return type(terms)(scaled, terms.coefficients * by_size[:, None])


def _steepness(point: Point, by_rows: Tensor, by_coefficients: Tensor) -> float:
    slope = float(by_rows.square().sum() + by_coefficients.square().sum())
    return math.sqrt(point.size * slope) / point.target.energy


def direction(
    terms: Pairs | Squares, by_rows: Tensor, by_coefficients: Tensor, damping: float
) -> tuple[Tensor, Tensor]:
    """δ with (JᵀJ + μ) δ = −g: directly outside the spans, by preconditioned conjugate gradients inside."""
    first, second = _factored(terms.block, damping), _factored(terms.gram, damping)
    (rows, gx, outer_x, basis_x), (coefficients, gy, outer_y, basis_y) = (
        _inside(terms.rows, -by_rows, first),
        _inside(terms.coefficients, -by_coefficients, second),
    )
    x, y = torch.zeros_like(gx), torch.zeros_like(gy)
    zx, zy = torch.cholesky_solve(gx, first), torch.cholesky_solve(gy, second)
    px, py = zx, zy
    left = start = float((gx * zx).sum() + (gy * zy).sum())
    for _ in range(INNER):
        if not left > SOLVED**2 * start:
            break
        ax, ay = terms.curve(rows, coefficients, px, py)
        ax, ay = ax.add_(px, alpha=damping), ay.add_(py, alpha=damping)
        length = left / float((px * ax).sum() + (py * ay).sum())
        x, y = x.add_(px, alpha=length), y.add_(py, alpha=length)
        gx, gy = gx.sub_(ax, alpha=length), gy.sub_(ay, alpha=length)
        zx, zy = torch.cholesky_solve(gx, first), torch.cholesky_solve(gy, second)
        before, left = left, float((gx * zx).sum() + (gy * zy).sum())
        px, py = zx.add(px, alpha=left / before), zy.add(py, alpha=left / before)
    return _outside(x, outer_x, basis_x), _outside(y, outer_y, basis_y)


def _inside(rows: Tensor, right: Tensor, factor: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Rows and right side in an orthonormal basis of the rows' span, the solution outside it, and the basis."""
    if len(rows) >= rows.shape[1]:
        return rows, right.clone(), None, None
    basis = torch.linalg.qr(rows.T)[0]
    inside = right @ basis
    return rows @ basis, inside, torch.cholesky_solve(right - inside @ basis.T, factor), basis


def _outside(x: Tensor, outer: Tensor | None, basis: Tensor | None) -> Tensor:
    return x if outer is None or basis is None else outer + x @ basis.T


def _factored(matrix: Tensor, damping: float) -> Tensor:
    shift = max(
        damping, max(1e3, 10 * len(matrix)) * EPSILON * float(matrix.diagonal().max()), torch.finfo(torch.float64).tiny
    )
    factor: Tensor = torch.linalg.cholesky(matrix + shift * torch.eye(len(matrix)).to(matrix))
    return factor


def _square(aa: Tensor, ab: Tensor, ba: Tensor, bb: Tensor) -> Tensor:
    return torch.cat([torch.cat([aa, ab], dim=1), torch.cat([ba, bb], dim=1)])
