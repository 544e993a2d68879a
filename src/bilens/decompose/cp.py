"""Canonical polyadic decomposition: a tensor as the best sum of R terms, fitted from inner products of its factors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bilens._internal import checks
from bilens._internal.checks import flag, instance, number, whole
from bilens._internal.shown import line
from bilens.decompose._cp_fit import Factors, Target, balanced, fit, norms_of
from bilens.decompose.linalg import EPSILON, at_least_single, detach, largest_square, signed, upward
from bilens.errors import BilensError
from bilens.space import Space
from bilens.tensor import BilinearTensor

MOST = 2**16
"""Terms that may be asked for of any tensor, however small."""


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
    history: Float[Tensor, " n"]
    converged: bool
    input: Space
    output: Space

    __repr__ = line

    def __post_init__(self) -> None:
        checks.fields(self)
        detach(self)
        checks.shapes(self, o=self.output.dim, i=self.input.dim)

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
    progress: bool = True,
) -> CP:
    """The nearest sum of R terms c_r ⊗ sym(a_r ⊗ b_r) to B that is found: R hidden units instead of h.

    Examples:
        >>> rows = torch.tensor([[1.0, 1.0], [1.0, -1.0]])  # x₁x₂ = ¼(x₁ + x₂)² − ¼(x₁ − x₂)², in two hidden units
        >>> layer = BilinearTensor(rows, rows, torch.tensor([[0.25, -0.25]]), Space("x", 2), Space("y", 1))
        >>> term = cp(layer, rank=1, progress=False)
        >>> bool(term.error < 1e-3), sorted([term.left.argmax().item(), term.right.argmax().item()])
        (True, [0, 1])

    Minimises ½‖B − B̂‖² + ½ρ Σ_r (‖a_r‖² + ‖b_r‖² + ‖c_r‖²) by L-BFGS on inner products of the factors; nothing of size
    o·i² is made. The minimum found is a local one: compare starts. With R ≥ h the layer's own hidden units are the
    answer.

    Args:
        tensor: B; rank: R, at least 1.
        starts: number of random starts after the one from the R largest hidden units; none is tried once one has met
            the tolerance.
        seed: of the random starts; steps: at most so many for each start.
        tol: stop when the error ‖B − B̂‖/‖B‖ is at most this, or falls by less than this over ten steps.
        ridge: ρ in units of (‖B‖²/R)^⅔; above 0 the minimum exists, and the error it costs is part of `error`.
        progress: whether to show a bar with the error and the time left. Ctrl-C ends the fit with the best so far,
            `converged` False.

    Returns:
        A `CP` in float32, or in float64 where the tensor is. It carries no gradient.

    Cost: O(h² (i + o)) once; a step takes 24·h·i·R + 6·o·h·R + O(R² (i + o)) operations; memory O((h + R)(i + o) + h²).
    The fit sees the error as a difference of Grams and stops at about 1e-8; `error` is then computed once more, one
    kernel of i² numbers at a time, and is right to `floor`, about 1e-15. A tensor whose norm is below about 1e-8 of the
    sum of its hidden units' norms counts as 0, with `floor` 1.

    Raises:
        BilensError: a number out of range, or terms beyond the type.

    Source: Acar, Dunlavy and Kolda, "A scalable optimization approach for fitting canonical tensor decompositions"
    (2011), for all factors at once; Liu and Nocedal (1989) for L-BFGS.
    """
    return _fit(tensor, rank, False, starts=starts, seed=seed, steps=steps, tol=tol, ridge=ridge, progress=progress)


def cp_symmetric(
    tensor: BilinearTensor,
    rank: int,
    *,
    starts: int = 1,
    seed: int = 0,
    steps: int = 500,
    tol: float = 1e-6,
    ridge: float = 0.0,
    progress: bool = True,
) -> CP:
    """The nearest sum of R terms c_r ⊗ a_r ⊗ a_r to B that is found: linear kernels that all outputs share (INDSCAL).

    y_o ≈ Σ_r c_ro (a_r·x')², so that each output is a weighted sum of the same R squares; eigenvectors give each output
    its own. One term of `cp` takes two of these, sym(a ⊗ b) = ¼[(a+b)(a+b)ᵀ − (a−b)(a−b)ᵀ], hence R ≥ 2h is exact.

    Args, Returns, Cost and Raises: as `cp`; the first start is from the R largest of the hidden units' 2h squares.

    Source: Carroll and Chang, "Analysis of individual differences in multidimensional scaling" (1970).
    """
    return _fit(tensor, rank, True, starts=starts, seed=seed, steps=steps, tol=tol, ridge=ridge, progress=progress)


@torch.no_grad()
def _fit(
    tensor: BilinearTensor,
    rank: int,
    symmetric: bool,
    *,
    starts: int,
    seed: int,
    steps: int,
    tol: float,
    ridge: float,
    progress: bool,
) -> CP:
    instance("tensor", tensor, BilinearTensor)
    checks.in_memory("a tensor", tensor.left)
    # o·i terms are enough for every tensor, and 2h for this one; more of them are 0.
    rank = whole("rank", rank, 1, max(MOST, tensor.output.dim * tensor.input.dim, 2 * tensor.hidden))
    starts, steps, progress = whole("starts", starts, 0), whole("steps", steps, 0), flag("progress", progress)
    tol, ridge, seed = number("tol", tol, 0), number("ridge", ridge, 0), checks.seed(seed)
    target, generator = Target(tensor), torch.Generator().manual_seed(seed)
    own = target.own(symmetric)
    if len(own[0]) <= rank:
        padded = [torch.cat([rows, rows.new_zeros(rank - len(rows), rows.shape[1])]) for rows in own]
        return _record(tensor, target, padded, [0.0], converged=True)
    best = fit(target, own, rank, starts=starts, generator=generator, steps=steps, tol=tol, ridge=ridge, show=progress)
    return _record(tensor, target, best.factors, best.errors, converged=best.settled or best.errors[-1] <= tol)


def _record(tensor: BilinearTensor, target: Target, factors: Factors, history: list[float], *, converged: bool) -> CP:
    like = at_least_single(tensor.left.dtype)
    factors = balanced(factors)
    norms = norms_of(factors)
    spread = target.spread + float(norms.sum())
    floor, error = 4 * torch.finfo(like).eps * spread, 0.0
    if target.vanishes:
        floor = 1.0 if target.norm > 0 else 0.0
    else:
        error = target.error(factors)
        if error**2 < 1e4 * EPSILON * spread**2:  # a difference of Grams is no longer enough
            error = target.residual(factors)
    order = norms.argsort(descending=True, stable=True)
    rows = [factors[at][order] for at in (0, -2, -1)]
    sizes = [part.norm(dim=1) for part in rows]
    a, b, c = (part / torch.where(size > 0, size, 1)[:, None] for part, size in zip(rows, sizes, strict=True))
    values = sizes[0] * sizes[1] * sizes[2] * target.norm
    energy = torch.tensor(target.norm, dtype=torch.float64).square()
    if not bool(torch.isfinite(energy.to(like)) and torch.isfinite(values.to(like)).all()):
        raise BilensError(
            f"a tensor of norm {target.norm:.2g} in {str(like).removeprefix('torch.')}",
            "one whose square fits",
            "scale it, or call .to(torch.float64)",
        )
    for part in (a, b):
        c = c * (part * signed(part)).sum(dim=1, keepdim=True).sign()
    a, b = signed(a), signed(b)
    swap = b.amax(dim=1, keepdim=True) > a.amax(dim=1, keepdim=True)
    a, b = torch.where(swap, b, a), torch.where(swap, a, b)
    return CP(
        values=values.to(like),
        outputs=c.to(like),
        left=a.to(like),
        right=b.to(like),
        error=values.new_tensor(error).to(like),
        floor=values.new_tensor(floor).to(like),
        energy=energy.to(values.device, like),
        history=torch.tensor(history, dtype=torch.float64),
        converged=converged,
        input=tensor.input,
        output=tensor.output,
    )
