"""Local extrema by ascent from many starts: of a kernel on the sphere and in a box, and of the output's square norm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bilens import store
from bilens.decompose import linalg
from bilens.decompose.linalg import at_least_single, detach, fitting, kernel_near_one, signed, tensor_near_one
from bilens.decompose.svd import svd
from bilens.errors import BilensError, ShapeError
from bilens.kernel import Kernel
from bilens.space import Space
from bilens.tensor import BilinearTensor
from reproduction import checking
from reproduction.checking import instance, number, whole

SAME = 1e-3
"""Ends no further apart than this are one extremum: ‖x − y‖ up to sign on the sphere, max|x − y| / width in a box."""

FREE, OFTEN = 100, 25
"""In a box: how many coordinates between the bounds are solved for at once, at most, and after how many steps."""

SINGULAR = 1e-12
"""Part of the largest |eigenvalue| below which a block is taken for singular, and has no maximum to go to."""


@store.register
@dataclass(frozen=True, eq=False)
class Extrema:
    """Where ascents from many random starts ended, each place once, the highest value first.

    In the kernel's type, in float32 for bfloat16 and float16. No gradients.

    Args:
        values: of the function, (k,); vectors: (k, n), unit vectors over the folded input on the sphere, points
            without the constant coordinate in a box.
        residuals: the largest first-order residual of the starts that ended there, (k,); each function defines its own.
        counts: how many starts ended there, (k,).
        converged: whether all of these met the tolerance, (k,).
        input: the space of x; label: of the kernel, may be empty.

    Raises:
        ShapeError: the shapes do not fit together.
    """

    values: Float[Tensor, " k"]
    vectors: Float[Tensor, "k n"]
    residuals: Float[Tensor, " k"]
    counts: Int[Tensor, " k"]
    converged: Bool[Tensor, " k"]
    input: Space
    label: str = ""

    def __post_init__(self) -> None:
        detach(self)
        k = len(self.values)
        for name in ("values", "residuals", "counts", "converged"):
            if tuple(getattr(self, name).shape) != (k,):
                raise ShapeError(f"{name} of shape {tuple(getattr(self, name).shape)}", f"({k},)")
        if tuple(self.vectors.shape) not in ((k, self.input.dim), (k, self.input.size)):
            raise ShapeError(f"vectors of shape {tuple(self.vectors.shape)}", f"({k}, {self.input.dim})")

    def __len__(self) -> int:
        return len(self.values)

    @property
    def starts(self) -> int:
        """How many ascents there were."""
        return int(self.counts.sum())

    @property
    def seen(self) -> float:
        """Estimated chance that one more start would end in a place already seen: 1 − (places seen once) / starts.

        Source: Good, "The population frequencies of species and the estimation of population parameters" (1953).
        """
        return 1 - int((self.counts == 1).sum()) / self.starts


@torch.no_grad()
def sphere(kernel: Kernel, starts: int = 64, *, seed: int = 0, steps: int = 20_000, tolerance: float = 1e-8) -> Extrema:
    """Local maxima of x'ᵀQx' over ‖x'‖ = 1, by gradient ascent x ← (Qx + αx) / ‖Qx + αx‖ from random starts.

    α = max(0, −λ_min) makes Q + αI positive semidefinite, so that no step lowers the value. All critical points are
    eigenvectors and all local maxima are global: a correct ascent finds λ_max from every start, and nothing else.

    Args:
        kernel: Q; starts: how many; seed: of the starts.
        steps: at most this many; tolerance: on the residual ‖Qx − (xᵀQx)x‖ / max|λ|.

    Raises:
        BilensError: starts, steps or tolerance not above 0, or values outside the range of the type.
    """
    instance("kernel", kernel, Kernel)
    starts, steps, tolerance, seed = _checked(starts, steps, tolerance, seed)
    near, power = kernel_near_one(kernel)
    dense = near.dense()
    levels = linalg.eigvalsh(dense)
    scale = float(levels.abs().max()) or 1.0
    shift = float((-levels[0]).clamp(min=0))

    def step(x: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        pushed = x @ dense
        values = (x * pushed).sum(dim=1, keepdim=True)
        return _normal(pushed + shift * x), (pushed - values * x).norm(dim=1) / scale

    x = _normal(_random(starts, len(dense), seed).to(dense))
    x, residuals = _ascend(step, x, steps, tolerance)
    return _record(kernel, x, (x @ dense * x).sum(dim=1), residuals, power, tolerance=tolerance, width=None)


@torch.no_grad()
def box(
    kernel: Kernel,
    low: float = 0.0,
    high: float = 1.0,
    starts: int = 64,
    *,
    seed: int = 0,
    steps: int = 20_000,
    tolerance: float = 1e-6,
) -> Extrema:
    """Local maxima of u·y = x'ᵀQx' over low ≤ x ≤ high, by projected gradient ascent from uniform random starts.

    x ← P(x + t∇f), P the clamp to the box; t < 1/max(−λ_min, …), of the quadratic part, so that no step lowers f: the
    projection gives ∇f·δ ≥ ‖δ‖²/t, and f(x + δ) − f(x) = ∇f·δ + δᵀQδ. Every `OFTEN` steps the coordinates between the
    bounds go straight to their maximum given the others, or towards it up to the first bound: gradient steps alone
    would creep. An end is a point of Karush, Kuhn and Tucker: f cannot rise to first order. Minima are the maxima
    of −Q.

    Args:
        kernel: Q, whose constant coordinate stays 1; low, high: the box; starts: how many; seed: of the starts.
        steps: at most this many; tolerance: on the residual max|x − P(x + t∇f)| / (high − low).

    Raises:
        BilensError: an empty box; starts, steps or tolerance not above 0, or values outside the range of the type.
    """
    instance("kernel", kernel, Kernel)
    starts, steps, tolerance, seed = _checked(starts, steps, tolerance, seed)
    low, high = number("low", low), number("high", high)
    if not low < high:
        raise BilensError(f"a box from {low} to {high}", "low < high", "use 0 and 1 for pixels")
    near, power = kernel_near_one(kernel)
    quadratic, linear, constant = near.parts()
    levels, width = linalg.eigvalsh(quadratic), high - low
    bend = max(float(-levels[0]), float(levels[-1]) / 10) or float(linear.abs().max()) / width or 1.0
    length = 0.9 / bend

    def step(x: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        moved = (x + length * (2 * x @ quadratic + linear)).clamp(low, high)
        return moved, (moved - x).abs().amax(dim=1) / width

    def leap(x: Tensor) -> Tensor:
        return torch.stack([_leap(row, quadratic, linear, low, high) for row in x])

    x = low + width * _random(starts, len(quadratic), seed, uniform=True).to(quadratic)
    x, residuals = _ascend(step, x, steps, tolerance, leap)
    values = (x @ quadratic * x).sum(dim=1) + x @ linear + constant
    return _record(kernel, x, values, residuals, power, tolerance=tolerance, width=width)


@torch.no_grad()
def sufficient_shift(tensor: BilinearTensor) -> float:
    """A shift with which `sshopm` never goes down: σ₁², the largest eigenvalue of the outputs' Gram.

    f(x) + α‖x‖⁴ is convex as soon as α ≥ max ‖Q_{g(x)}‖₂ over the sphere, and ‖Q_g‖₂ ≤ ‖g‖ max_u ‖Q_u‖₂ ≤ σ₁².

    Raises:
        BilensError: σ₁² outside the range of float64.
    """
    instance("tensor", tensor, BilinearTensor)
    near, power = tensor_near_one(tensor)
    return float(fitting(svd(near, 1).values.square(), 2 * power, torch.float64, "shifts"))


@torch.no_grad()
def sshopm(
    tensor: BilinearTensor,
    starts: int = 64,
    *,
    shift: float | None = None,
    seed: int = 0,
    steps: int = 20_000,
    tolerance: float = 1e-8,
) -> Extrema:
    """Local maxima of the order-4 form f(x') = ‖B(x', x')‖² over ‖x'‖ = 1: the shifted symmetric power method.

    x ← (∇f(x)/4 + αx) / ‖…‖ with ∇f(x)/4 = Q_{g(x)} x, from the factors. A fixed point has Q_{g(x)} x = f x: it is an
    eigenvector, with eigenvalue √f, of the kernel of its own output direction g(x)/‖g(x)‖.

    Args:
        tensor: B; starts: how many; seed: of the starts.
        shift: α; None starts at 0 and raises it, for one start alone, whenever a step would lower f, up to
            `sufficient_shift`, so that f never falls. The fixed sufficient shift is as safe and much slower.
        steps: at most this many; tolerance: on the residual ‖Q_{g(x)} x − f x‖ / σ₁².

    Raises:
        BilensError: starts, steps or tolerance not above 0, a negative shift, or values outside the range of the type.

    Source: Kolda and Mayo, "Shifted power method for computing tensor eigenpairs" (2011); with a shift that adapts,
    "An adaptive shifted power method for computing generalized tensor eigenpairs" (2014).
    """
    instance("tensor", tensor, BilinearTensor)
    starts, steps, tolerance, seed = _checked(starts, steps, tolerance, seed)
    shift = None if shift is None else number("shift", shift, 0, hint="leave it out, or use sufficient_shift(tensor)")
    double, power = tensor_near_one(tensor)
    most = sufficient_shift(double)
    scale = most or 1.0
    fixed = torch.full((starts,), 0.0 if shift is None else shift, dtype=torch.float64, device=double.left.device)
    shifts = torch.ldexp(fixed, torch.tensor(-2 * power, device=fixed.device))

    def gradient(x: Tensor) -> tuple[Tensor, Tensor]:
        left, right = x @ double.left.T, x @ double.right.T
        outputs = (left * right) @ double.down.T
        weights = outputs @ double.down
        quarter = ((right * weights) @ double.left + (left * weights) @ double.right) / 2
        return outputs.square().sum(dim=1), quarter

    def step(x: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
        values, quarter = gradient(x)
        moved = _normal(quarter + shifts[which, None] * x)
        if shift is None:
            fell = (gradient(moved)[0] < values - 1e-14 * scale) & (shifts[which] < most)
            moved = torch.where(fell[:, None], x, moved)
            raised = (2 * shifts[which]).clamp(min=most / 64, max=most)
            shifts[which] = torch.where(fell, raised, shifts[which])
        return moved, (quarter - values[:, None] * x).norm(dim=1) / scale

    x = _normal(_random(starts, double.input.dim, seed).to(double.left))
    x, residuals = _ascend(step, x, steps, tolerance)
    return _record(tensor, x, gradient(x)[0], residuals, 2 * power, tolerance=tolerance, width=None)


def _leap(x: Tensor, quadratic: Tensor, linear: Tensor, low: float, high: float) -> Tensor:
    """The free coordinates moved to their maximum, or towards it up to the first bound; unmoved if there is none."""
    free = ((x > low) & (x < high)).nonzero()[:, 0]
    if not 0 < len(free) <= FREE:
        return x
    slope = 2 * quadratic[free] @ x + linear[free]
    block = quadratic[free][:, free]
    levels = linalg.eigvalsh(block)
    if bool(levels[-1] >= -SINGULAR * levels.abs().max()):
        return x
    move = torch.linalg.solve(block, -slope / 2)
    bound = torch.where(move > 0, x.new_tensor(high), x.new_tensor(low))
    shares = torch.where(move == 0, torch.inf, (bound - x[free]) / move)
    first = shares.argmin()
    there = x[free] + shares[first].clamp(max=1) * move
    if bool(shares[first] <= 1):  # it lies exactly on its bound, despite rounding
        there[first] = bound[first]
    moved = x.clone()
    moved[free] = there.clamp(low, high)
    return moved


def _ascend(
    step: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    x: Tensor,
    steps: int,
    tolerance: float,
    leap: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """All starts at once; one that meets the tolerance stays where it is.

    Args:
        step: from points and their numbers to the next points and the residuals of the ones given.
        leap: every `OFTEN` steps, from points to better ones.
    """
    x, going = x.clone(), torch.arange(len(x), device=x.device)
    residuals = x.new_zeros(len(x))
    for count in range(1, steps + 1):
        moved, residuals[going] = step(x[going], going)
        on = residuals[going] > tolerance
        going = going[on]
        if not len(going):
            return x, residuals
        x[going] = moved[on]
        if leap is not None and count % OFTEN == 0:
            x[going] = leap(x[going])
    residuals[going] = step(x[going], going)[1]
    return x, residuals


def _places(x: Tensor, values: Tensor, width: float | None) -> list[Tensor]:
    """Numbers of the ends at each place, highest value first; on the sphere (no width) x and −x are one place."""
    if width is None:
        apart = torch.minimum(torch.cdist(x, x), torch.cdist(x, -x))
    else:
        apart = torch.cdist(x, x, p=float("inf")) / width
    left, places = torch.ones(len(x), dtype=torch.bool, device=x.device), []
    for first in values.argsort(descending=True, stable=True).tolist():
        if left[first]:
            group = left & (apart[first] <= SAME)
            group[first] = False
            places.append(torch.cat([torch.tensor([first], device=x.device), group.nonzero()[:, 0]]))
            left &= ~group
            left[first] = False
    return places


def _record(
    kernel: Kernel | BilinearTensor,
    x: Tensor,
    values: Tensor,
    residuals: Tensor,
    power: int,
    *,
    tolerance: float,
    width: float | None,
) -> Extrema:
    """The places where starts ended, in the kernel's type; unit vectors with their largest entry positive.

    Args:
        power: the exponent of the power of two by which the values are too small.
    """
    places = _places(x, values, width)
    firsts = torch.stack([place[0] for place in places])
    x, dtype = x[firsts], at_least_single(kernel.left.dtype)
    if width is None:
        x = signed(x)
    return Extrema(
        fitting(values[firsts], power, dtype, "values", 1e-10),
        x.to(dtype),
        torch.stack([residuals[place].max() for place in places]).to(dtype),
        torch.tensor([len(place) for place in places], device=x.device),
        torch.stack([(residuals[place] <= tolerance).all() for place in places]),
        kernel.input,
        kernel.label if isinstance(kernel, Kernel) else "",
    )


def _random(rows: int, columns: int, seed: int, *, uniform: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand if uniform else torch.randn
    return draw(rows, columns, generator=generator, dtype=torch.float64)


def _normal(rows: Tensor) -> Tensor:
    norms: Tensor = rows.norm(dim=1, keepdim=True)
    return rows / norms.clamp(min=torch.finfo(rows.dtype).tiny)


def _checked(starts: int, steps: int, tolerance: float, seed: int) -> tuple[int, int, float, int]:
    usual = "leave it out for the usual value"
    return (
        whole("starts", starts, 1, hint=usual),
        whole("steps", steps, 1, hint=usual),
        number("tolerance", tolerance, above=0, hint=usual),
        checking.seed(seed),
    )
