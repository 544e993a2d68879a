"""Damped Gauss–Newton steps for a sum of terms c_r ⊗ sym(a_r ⊗ b_r), or c_r ⊗ a_r ⊗ a_r, from inner products alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

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


class Pairs:
    """Terms c_r ⊗ sym(a_r ⊗ b_r). The rows are a_1 … a_R, b_1 … b_R.

    With P = ccᵀ: ‖B̂‖² = Σ P ∘ S, S = ½[aaᵀ∘bbᵀ + abᵀ∘baᵀ]; the derivative of ½‖B̂‖² is N u by the rows and S c by the
    coefficients, N = ½[[P∘bbᵀ, P∘baᵀ], [P∘abᵀ, P∘aaᵀ]].

    Args:
        rows: (2R, d); coefficients: (R, o).
    """

    def __init__(self, rows: Float[Tensor, "2r d"], coefficients: Float[Tensor, "r o"]) -> None:
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
        x = target.stack @ self.rows.T
        met = (x[:h, :r] * x[h:, r:]).addcmul_(x[:h, r:], x[h:, :r]).div_(2)
        slope = (target.down @ met).T
        return float((slope * self.coefficients).sum()), slope, x

    def pull(self, target: Target, products: Tensor) -> Tensor:
        """½[(V∘Rbᵀ)ᵀL + (V∘Lbᵀ)ᵀR] by a, V = Dᵀcᵀ, and the same with a and b exchanged by b: as many operations."""
        r, h, x = len(self.coefficients), len(target.left), products
        v = (target.down.T @ self.coefficients.T).div_(2)
        y = torch.empty_like(x)
        torch.mul(v, x[h:, r:], out=y[:h, :r])
        torch.mul(v, x[:h, r:], out=y[h:, :r])
        torch.mul(v, x[h:, :r], out=y[:h, r:])
        torch.mul(v, x[:h, :r], out=y[h:, r:])
        return y.T @ target.stack

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
        x = target.stack @ self.rows.T
        slope = (target.down @ (x[:h] * x[h:])).T
        return float((slope * self.coefficients).sum()), slope, x

    def pull(self, target: Target, products: Tensor) -> Tensor:
        """(V∘Raᵀ)ᵀL + (V∘Laᵀ)ᵀR, V = Dᵀcᵀ: as many operations."""
        h = len(target.left)
        v = target.down.T @ self.coefficients.T
        return torch.cat([v * products[h:], v * products[:h]]).T @ target.stack

    def curve(self, rows: Tensor, coefficients: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """JᵀJ (x, y), J the derivative of B̂: 6R²p + 4R²q operations."""
        t, pc = rows @ x.T, coefficients @ y.T
        mixed = (pc * self._aa + self._p * t).mul_(2)
        return mixed @ rows + self.block @ x, self.gram @ y + (2 * t * self._aa) @ coefficients


def gradient(target: Target, terms: Pairs | Squares, ridge: float = 0.0) -> tuple[float, Tensor, Tensor]:
    """½‖B − B̂‖² + ½ρ(‖u‖² + ‖c‖²), and its derivatives by the rows and by the coefficients.

    Args:
        target: B; terms: B̂; ridge: ρ.

    Cost: 16hdR + 4ohR operations (half of that for `Squares`), and O(R² (d + o)).
    """
    inner, slope, products = terms.meet(target)
    return (
        _value(target, terms, inner, ridge),
        terms.block @ terms.rows - terms.pull(target, products) + ridge * terms.rows,
        terms.gram @ terms.coefficients - slope + ridge * terms.coefficients,
    )


class Descent:
    """Levenberg–Marquardt steps from one start; after each one, `terms` is the best so far.

    Args:
        target: B; terms: the start; `errors` has ‖B − B̂‖/‖B‖ of the start and of each accepted step.
    """

    def __init__(self, target: Target, terms: Pairs | Squares) -> None:
        self.target = target
        self.terms = balanced(terms)
        self.taken = 0
        self.settled = False
        self.stationary = float("inf")
        self.errors: list[float] = []
        self.error = self._error(_value(target, self.terms, self.terms.meet(target)[0], 0.0))

    def run(self, ridge: float, steps: int, tol: float, step: Callable[[float], None]) -> None:
        """Descend until the error is at most `tol`, falls by less than that over some steps, or `steps` are done.

        Each step solves (JᵀJ + ρ + μ) δ = −g. The part of δ outside the span of the rows (and of the coefficients) is
        solved for directly; inside, where there are 2R directions and not d, by conjugate gradients with the diagonal
        blocks of JᵀJ as preconditioner. μ follows the ratio of what was gained to what the model promised.

        Args:
            ridge: ρ; steps: at most so many, the rejected ones included; tol: on the error.
            step: called after each step with the error.
        """
        target, damping, growth = self.target, 0.0, 2.0
        fresh, start = True, len(self.errors)
        self.settled = False
        for _ in range(steps):
            terms = self.terms
            if fresh:
                value, by_rows, by_coefficients = gradient(target, terms, ridge)
                steep = self._steepness(by_rows, by_coefficients)
                self.stationary, self.error = steep, self._error(_value_of(terms, value, ridge))
                self.errors.append(self.error)
                noise = 4 * EPSILON * (target.spread**2 + terms.energy)
                if self._done(start, tol, noise):
                    self.settled = True
                    return
                damping = damping or 1e-2 * float(terms.block.diagonal().mean())
            if self.error**2 * target.energy <= 100 * noise:  # all but exact: undamped
                damping = min(damping, 1e-10 * float(terms.block.diagonal().mean()))
            x, y = _solve(terms, by_rows, by_coefficients, damping + ridge)
            promised = (
                damping * (x.square().sum() + y.square().sum()) - (by_rows * x).sum() - (by_coefficients * y).sum()
            ) / 2
            trial = balanced(type(terms)(terms.rows + x, terms.coefficients + y))
            self.taken += 1
            if float(promised) <= noise:  # the value is rounding now; its derivatives are not yet
                steeper = self._steepness(*gradient(target, trial, ridge)[1:])
                if not steeper < steep / 2:
                    self.settled = True
                    return
                self.terms, fresh = trial, True
            else:
                gained = (value - _value(target, trial, trial.meet(target)[0], ridge)) / float(promised)
                fresh = gained > 1e-4
                if fresh:
                    self.terms, growth = trial, 2.0
                    damping *= max(1 / 3, 1 - (2 * gained - 1) ** 3)
                else:
                    damping, growth = damping * growth, growth * 2
            step(self.error)

    def revive(self, generator: torch.Generator) -> None:
        """Give terms that a ridge has brought to 0 new random rows, with coefficients that change little."""
        terms = self.terms
        norms = terms.coefficients.norm(dim=1)
        dead = (norms < 1e-3 * norms.max()).nonzero()[:, 0]
        if not len(dead):
            return
        rows, coefficients = terms.rows.clone().reshape(-1, len(norms), terms.rows.shape[1]), terms.coefficients.clone()
        mixed = torch.randn(len(rows), len(dead), len(self.target.stack), generator=generator, dtype=torch.float64)
        fresh = mixed.to(rows.device) @ self.target.stack
        rows[:, dead] = fresh * (norms.median() / fresh.norm(dim=2, keepdim=True))
        tiny = torch.randn(len(dead), coefficients.shape[1], generator=generator, dtype=torch.float64).to(rows.device)
        coefficients[dead] = tiny * (1e-2 * norms.median() / tiny.norm(dim=1, keepdim=True))
        self.terms = balanced(type(terms)(rows.reshape(terms.rows.shape), coefficients))

    def _done(self, start: int, tol: float, noise: float) -> bool:
        if self.error <= tol and tol**2 * self.target.energy > noise:  # below that, the error is rounding
            return True
        if self.error**2 * self.target.energy <= 100 * noise or self.stationary > tol**0.5:
            return False
        recent = self.errors[max(start, len(self.errors) - 1 - WINDOW) :]
        return len(recent) > WINDOW and recent[0] - recent[-1] < tol

    def _error(self, value: float) -> float:
        return float((max(2 * value, 0.0) / self.target.energy) ** 0.5)

    def _steepness(self, by_rows: Tensor, by_coefficients: Tensor) -> float:
        size = self.terms.rows.square().sum() + self.terms.coefficients.square().sum()
        slope = by_rows.square().sum() + by_coefficients.square().sum()
        return float((size * slope).sqrt()) / self.target.energy


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


def _value(target: Target, terms: Pairs | Squares, inner: float, ridge: float) -> float:
    size = float(terms.rows.square().sum() + terms.coefficients.square().sum()) if ridge else 0.0
    return (target.energy + terms.energy + ridge * size) / 2 - inner


def _value_of(terms: Pairs | Squares, value: float, ridge: float) -> float:
    """The value less its ridge."""
    return value - ridge * float(terms.rows.square().sum() + terms.coefficients.square().sum()) / 2


def _solve(terms: Pairs | Squares, by_rows: Tensor, by_coefficients: Tensor, damping: float) -> tuple[Tensor, Tensor]:
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
    shift = max(damping, 1e3 * EPSILON * float(matrix.diagonal().max()), torch.finfo(torch.float64).tiny)
    factor: Tensor = torch.linalg.cholesky(matrix + shift * torch.eye(len(matrix)).to(matrix))
    return factor


def _square(aa: Tensor, ab: Tensor, ba: Tensor, bb: Tensor) -> Tensor:
    return torch.cat([torch.cat([aa, ab], dim=1), torch.cat([ba, bb], dim=1)])
