"""Gated layers as bilinear ones: of each unit σ(z)·v the best quadratic function of (z, v), in closed form.

Every surrogate replaces the unit by A zv + B z² + C z + E v + F. The quadratic part is one bilinear unit, with left = z
and right = A v + B z; the linear rest goes around it through the constant coordinate, because a single unit that holds
it too, (z + E/A)(A v + B z + C − B E/A), loses its digits by cancellation where A is small.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bilens._internal import checks
from bilens._internal.checks import choice, instance, number
from bilens.errors import BilensError, ShapeError
from bilens.models._moments import NUMBERS, Moments, batches, means, plus, shares
from bilens.models.gated import Gate, GatedMLP
from bilens.space import Space
from bilens.tensor import BilinearTensor

NODES = 128
"""Nodes of the quadrature on either side of z = 0."""

REACH = 12.0
"""Standard deviations to either side of the mean at which the quadrature ends: what is beyond weighs 10⁻³²."""

ROWS_FOR_DOWN = 20_000
"""Rows below which D is not fitted anew."""

LEAST = 1e-12
"""Variance of z, as a share of its squared mean, below which z counts as a constant."""


@dataclass(frozen=True, eq=False, repr=False)
class Surrogate:
    """A gated layer whose units are A zv + B z² + C z + E v + F instead of σ(z)·v.

    Args:
        mlp: the layer; method: how the numbers were found.
        product, square, gate, value, constant: A, B, C, E and F, (h,), in float64.
        bypass, offset: M, (o, d), and f, (o,), of a linear map M n + f that is added to the output; None for none.
        down: what stands for D, (o, h); None for D itself.

    Raises:
        ShapeError: another number of units than the layer's. BilensError: NaN or infinity.
    """

    mlp: GatedMLP
    method: str
    product: Float[Tensor, " h"]
    square: Float[Tensor, " h"]
    gate: Float[Tensor, " h"]
    value: Float[Tensor, " h"]
    constant: Float[Tensor, " h"]
    bypass: Float[Tensor, "o d"] | None = None
    offset: Float[Tensor, " o"] | None = None
    down: Float[Tensor, "o h"] | None = None

    def __post_init__(self) -> None:
        checks.fields(self)
        instance("mlp", self.mlp, GatedMLP)
        choice("method", self.method, METHODS)
        checks.shapes(self, h=len(self.mlp.gate), o=self.mlp.output.size, d=self.mlp.input.size)
        for name in ("product", "square", "gate", "value", "constant", "bypass", "offset", "down"):
            value = getattr(self, name)
            if value is not None:
                checks.weights(name, value)
                object.__setattr__(self, name, checks.owned(value).double())

    def __repr__(self) -> str:
        """For example "Surrogate(gaussian of layer 3, 1536 units)"."""
        return f"Surrogate({self.method} of {self.mlp.title}, {len(self.product)} units)"

    def __call__(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n o"]:
        """y for each x of the residual stream. Raises as `GatedMLP.units`."""
        down = self.mlp.down if self.down is None else self.down.to(self.mlp.down)
        y = torch.nn.functional.linear(self.units(x), down, self.mlp.down_bias)
        if self.bypass is not None:
            y = y + self.mlp.norm(x.to(y)) @ self.bypass.to(y).T
        return y if self.offset is None else y + self.offset.to(y)

    def units(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n h"]:
        """A zv + B z² + C z + E v + F of each unit. Raises as `GatedMLP.units`."""
        z, v = self.mlp.units(x)
        a, b, c, e, f = (part.to(z) for part in (self.product, self.square, self.gate, self.value, self.constant))
        return z * (a * v + b * z + c) + e * v + f

    def tensor(self, *, input: Space | None = None, output: Space | None = None) -> BilinearTensor:
        """The tensor of y as a function of x̂ = `mlp.norm.normalize(x)`, gains and biases folded.

        It has h units for the products, one for each output for the linear rest, and one for the constant.

        Args:
            input: space of x̂; output: space of y; by default the layer's.
        """
        mlp = self.mlp
        input, output = input or mlp.input, output or mlp.output
        w, v, down = mlp.gate.double(), mlp.up.double(), (mlp.down if self.down is None else self.down).double()
        zeros = torch.zeros(len(w), dtype=torch.float64, device=w.device)
        b, c = plus(zeros, mlp.gate_bias), plus(zeros, mlp.up_bias)
        if mlp.norm.bias is not None:
            b, c = b + w @ mlp.norm.bias.double(), c + v @ mlp.norm.bias.double()
        if mlp.norm.gain is not None:
            w, v = w * mlp.norm.gain.double(), v * mlp.norm.gain.double()
        right = self.product[:, None] * v + self.square[:, None] * w
        linear = down @ (self.gate[:, None] * w + self.value[:, None] * v)
        constant = plus(down @ (self.gate * b + self.value * c + self.constant), self.offset)
        if self.bypass is not None:
            linear = linear + (self.bypass if mlp.norm.gain is None else self.bypass * mlp.norm.gain.double())
            constant = plus(constant, None if mlp.norm.bias is None else self.bypass @ mlp.norm.bias.double())
        layer = BilinearTensor.from_layer(
            w,
            right,
            down,
            left_bias=b,
            right_bias=self.product * c + self.square * b,
            down_bias=plus(constant, mlp.down_bias),
            input=input,
            output=output,
        )
        return (layer + BilinearTensor.from_linear(linear, input=input, output=output)).to(mlp.gate.dtype)

    def fvu(self, x: Float[Tensor, "n d"], weights: Float[Tensor, " n"] | None = None) -> float:
        """The share of the layer's variance that is lost, Σ ‖y − ŷ‖² / Σ ‖y − ȳ‖², on rows of the residual stream.

        1 is what the mean alone gives. Rows that the surrogate was fitted on say too little: hold some out.

        Args:
            x: rows; weights: one for each, where some count for more.

        Raises:
            ShapeError, BilensError: as `GatedMLP.units`; fewer than two rows; outputs that do not vary.
        """
        weights = shares(self.mlp, x, weights)
        y = self.mlp(x).double()
        mean = (weights[:, None] * y).sum(dim=0)
        whole = float((weights[:, None] * (y - mean).square()).sum())
        if whole <= LEAST**2 * float((weights[:, None] * y.square()).sum()):
            raise BilensError(f"outputs of {self.mlp.title} that do not vary", "rows that differ")
        return float((weights[:, None] * (y - self(x).double()).square()).sum()) / whole


METHODS = ("gaussian", "weights_only", "least_squares")
"""How a surrogate can be found."""


def gaussian(mlp: GatedMLP, moments: Moments) -> Surrogate:
    """The best of all quadratic functions of n in mean square, for Gaussian n: a theorem, with one unit for each unit.

    With z̃ = (z − μ)/s and v = μ_v + β(z − μ) + r, r independent of z, β = cov/s²: σ(z)·v has the projection
    f₀ r + f₁ z̃ r + g₀ + g₁ z̃ + g₂(z̃² − 1), with f_k = E[σ(z) He_k(z̃)]/k! and g_k the same of σ(z)(μ_v + β s z̃). Each
    unit depends on n through (z, v) alone, so that the best for each unit is the best for their sum, whatever D is.

    Args:
        mlp: the layer; moments: of its units.

    Raises:
        BilensError: a gate with a limit, which is not linear in v. ShapeError: moments of another number of units.
    """
    return _projected(mlp, moments, "gaussian")


def weights_only(mlp: GatedMLP) -> Surrogate:
    """`gaussian` for a normalised x̂ with mean 0 and covariance I, which needs no data.

    n = γ ⊙ x̂ + β then has mean β and covariance diag(γ²). Real layers have a mean: measure what is lost with `fvu`.

    Raises: as `gaussian`.
    """
    instance("mlp", mlp, GatedMLP)
    d, norm = mlp.input.size, mlp.norm
    ones = torch.ones(d, dtype=torch.float64, device=mlp.gate.device)
    gain = ones if norm.gain is None else norm.gain.double()
    mean = torch.zeros_like(ones) if norm.bias is None else norm.bias.double()
    w, v = mlp.gate.double(), mlp.up.double()
    moments = Moments(
        plus(w @ mean, mlp.gate_bias),
        plus(v @ mean, mlp.up_bias),
        (w * gain).square().sum(dim=1),
        (w * gain * v * gain).sum(dim=1),
    )
    return _projected(mlp, moments, "weights_only")


def least_squares(mlp: GatedMLP, x: Float[Tensor, "n d"], weights: Float[Tensor, " n"] | None = None) -> Surrogate:
    """The five numbers of each unit that fit σ(z)·v best on rows of the residual stream.

    The equations are of z and v less their means, over their deviations, in float64; where they do not say all five
    numbers (a unit whose gate never varies), the solution of least norm is taken.

    Args:
        mlp: the layer; x: rows, some thousands; weights: one for each, where some count for more.

    Raises:
        ShapeError, BilensError: as `GatedMLP.units`; fewer than two rows; a gate with a limit.
    """
    _no_limit(mlp)
    weights = shares(mlp, x, weights)
    mean_z, mean_v = means(mlp, x, weights)
    scale_z, scale_v = torch.zeros_like(mean_z), torch.zeros_like(mean_v)
    for z, v, share in batches(mlp, x, weights):
        scale_z += (share * (z - mean_z).square()).sum(dim=0)
        scale_v += (share * (v - mean_v).square()).sum(dim=0)
    scale_z = torch.where(scale_z > LEAST * mean_z.square(), scale_z.sqrt(), 1.0)
    scale_v = torch.where(scale_v > LEAST * mean_v.square(), scale_v.sqrt(), 1.0)
    h = len(mlp.gate)
    gram = torch.zeros(h, 5, 5, dtype=torch.float64, device=mlp.gate.device)
    aims = torch.zeros(h, 5, dtype=torch.float64, device=mlp.gate.device)
    for z, v, share in batches(mlp, x, weights):
        p, q = (z - mean_z) / scale_z, (v - mean_v) / scale_v
        terms = torch.stack([p * q, p * p, p, q, torch.ones_like(p)], dim=-1)  # (n, h, 5)
        weighed = terms * share[..., None]
        gram += torch.einsum("nhi,nhj->hij", weighed, terms)
        aims += torch.einsum("nhi,nh->hi", weighed, mlp.activation(z, v))
    found = (torch.linalg.pinv(gram, hermitian=True, rtol=1e-12) @ aims[..., None])[..., 0]
    a, b, c, e, f = found.unbind(dim=1)
    a, b, c, e = a / (scale_z * scale_v), b / scale_z.square(), c / scale_z, e / scale_v
    return Surrogate(
        mlp,
        "least_squares",
        a,
        b,
        c - 2 * b * mean_z - a * mean_v,
        e - a * mean_z,
        f + (a * mean_v + b * mean_z - c) * mean_z - e * mean_v,
    )


def with_bypass(
    surrogate: Surrogate, x: Float[Tensor, "n d"], weights: Float[Tensor, " n"] | None = None, *, ridge: float = 0.3
) -> Surrogate:
    """The surrogate with a linear map M n + f around it, fitted by ridge to what it leaves of the layer's output.

    M solves (S + ρ s̄ I) Mᵀ = T, with S the covariance of n, T that of n and y − ŷ, and s̄ the mean of S's diagonal; f
    is what then remains of the mean. It has d·o numbers, so that it wants many more rows than d: look at `fvu` on rows
    that were held out.

    Args:
        surrogate: without a bypass; x: rows of the residual stream; weights: one for each, where some count for more.
        ridge: ρ.

    Raises:
        ShapeError, BilensError: as `least_squares`; a surrogate that has a bypass already, or a ridge below 0.
    """
    instance("surrogate", surrogate, Surrogate)
    if surrogate.bypass is not None or surrogate.offset is not None:
        raise BilensError("a surrogate with a bypass", "one without")
    mlp, ridge = surrogate.mlp, number("ridge", ridge, above=0)
    share = shares(mlp, x, weights)[:, None]
    n, rest = mlp.norm(x.to(mlp.gate)).double(), (mlp(x) - surrogate(x)).double()
    mean_n, mean = (share * n).sum(dim=0), (share * rest).sum(dim=0)
    off = n - mean_n
    spread = (share * off).T @ off
    level = spread.diagonal().mean()
    damped = spread + (ridge * level if level > 0 else 1.0) * torch.eye(len(spread)).to(spread)
    bypass = torch.linalg.solve(damped, (share * off).T @ (rest - mean)).T
    return replace(surrogate, bypass=bypass, offset=mean - bypass @ mean_n)


def with_down(
    surrogate: Surrogate, x: Float[Tensor, "n d"], weights: Float[Tensor, " n"] | None = None, *, ridge: float = 0.4
) -> Surrogate:
    """The surrogate with another D, fitted by ridge towards the one it has to what it leaves of the layer's output.

    ΔD solves (S + ρ diag S) ΔDᵀ = T, with S the covariance of the units and T that of units and y − ŷ; the offset takes
    what then remains of the mean. With fewer rows the result is worse on held-out text than D itself: fewer than
    `ROWS_FOR_DOWN` are refused.

    Args:
        surrogate: with the D of its layer; x: rows of the residual stream; weights: one for each, where some count for
            more.
        ridge: ρ, a share of each unit's variance.

    Raises:
        ShapeError, BilensError: as `least_squares`; too few rows; a surrogate with a D of its own, or a ridge below 0.
    """
    instance("surrogate", surrogate, Surrogate)
    if surrogate.down is not None:
        raise BilensError("a surrogate with a D of its own", "one with the layer's")
    mlp, ridge = surrogate.mlp, number("ridge", ridge, above=0)
    share = shares(mlp, x, weights)[:, None]
    if len(x) < ROWS_FOR_DOWN:
        raise BilensError(f"{len(x):,} rows to fit D to", f"at least {ROWS_FOR_DOWN:,}", "keep the layer's D")
    h, o = len(mlp.gate), mlp.output.size
    zeros = torch.zeros(h + o, dtype=torch.float64, device=mlp.gate.device)
    gram, mean, rows = torch.outer(zeros[:h], zeros), zeros, max(1, NUMBERS // h)
    for part, given in zip(torch.split(x, rows), torch.split(share, rows), strict=True):
        both = torch.cat([surrogate.units(part), mlp(part) - surrogate(part)], dim=1).double()
        gram += (given * both[:, :h]).T @ both
        mean = mean + (given * both).sum(dim=0)
    gram -= torch.outer(mean[:h], mean)
    spread, cross = gram[:, :h], gram[:, h:]
    damping = ridge * spread.diagonal()
    change = torch.linalg.solve(spread + torch.diag(torch.where(damping > 0, damping, 1.0)), cross).T
    offset = mean[h:] - change @ mean[:h]
    old = torch.zeros_like(offset) if surrogate.offset is None else surrogate.offset
    return replace(surrogate, down=mlp.down.double() + change, offset=old + offset)


def _projected(mlp: GatedMLP, moments: Moments, method: str) -> Surrogate:
    _no_limit(mlp)
    instance("moments", moments, Moments)
    if len(moments.mean_z) != len(mlp.gate):
        raise ShapeError(f"moments of {len(moments.mean_z)} units for {mlp.title}", f"{len(mlp.gate)} units")
    mean, var = moments.mean_z, moments.var_z
    shifted = moments.mean_v + mlp.activation.shift  # of v + shift, which stands for v until the end
    constant = var <= LEAST * mean.square()
    s = torch.where(constant, 1.0, var.sqrt())
    beta = moments.cov / s.square()
    f0, f1, f2, f3 = (hermite(mlp.activation, mean, torch.where(constant, 0.0, s), order) for order in range(4))
    # E[σ z̃ He_k] = f_{k−1} + (k + 1) f_{k+1}, so that g_k follows from f_{k−1} … f_{k+1}
    slope = beta * s
    g0 = shifted * f0 + slope * f1
    g1 = shifted * f1 + slope * (f0 + 2 * f2)
    g2 = shifted * f2 + slope * (f1 + 3 * f3)
    a = f1 / s
    b = g2 / s.square() - a * beta
    c = g1 / s - 2 * g2 * mean / s.square() - f0 * beta + a * (2 * beta * mean - shifted)
    e = f0 - a * mean
    f = g0 - g1 * mean / s + g2 * (mean.square() / s.square() - 1) + (a * mean - f0) * (shifted - beta * mean)
    nothing = torch.zeros_like(a)
    a, b, c, f = (torch.where(constant, nothing, part) for part in (a, b, c, f))
    e = torch.where(constant, f0, e)
    c, f = c + a * mlp.activation.shift, f + e * mlp.activation.shift
    return Surrogate(mlp, method, a, b, c, e, f)


def hermite(gate: Gate, mean: Float[Tensor, " h"], deviation: Float[Tensor, " h"], order: int) -> Float[Tensor, " h"]:
    """f_k = E[σ(μ + s z̃) He_k(z̃)]/k! for standard normal z̃, order k from 0 to 3, in float64.

    By Gauss–Legendre on either side of z = 0, where σ may have a kink and, for large s, bends sharply; the nodes lie
    densest there. Error, as a share of the largest f: below 10⁻¹¹ for s up to 30, below 10⁻⁶ at s = 1,000.

    Args:
        gate: σ, without limit; mean, deviation: μ and s ≥ 0 of each unit.
    """
    instance("gate", gate, Gate)
    mean, deviation = mean.double(), deviation.double()
    nodes, shares = (torch.from_numpy(part).to(mean) for part in np.polynomial.legendre.leggauss(NODES))
    split = torch.where(deviation > 0, -mean / torch.where(deviation > 0, deviation, 1), 0).clamp(-REACH, REACH)
    total = torch.zeros_like(mean)
    for low, high in ((torch.full_like(split, -REACH), split), (split, torch.full_like(split, REACH))):
        half = (high - low)[:, None] / 2
        t = low[:, None] + half * (1 + nodes)
        weights = half * shares * torch.exp(-t.square() / 2) / (2 * torch.pi) ** 0.5
        polynomial = (torch.ones_like(t), t, (t.square() - 1) / 2, (t.square() - 3) * t / 6)[order]
        total += (weights * polynomial * gate.activate(mean[:, None] + deviation[:, None] * t)).sum(dim=1)
    return total


def _no_limit(mlp: GatedMLP) -> None:
    instance("mlp", mlp, GatedMLP)
    if mlp.activation.limit is not None:
        raise BilensError(
            f"a surrogate of {mlp.title}, whose gate is {mlp.activation.title}",
            "a gate without a limit: beyond it the unit is not linear in its value",
        )


__all__ = [
    "METHODS",
    "ROWS_FOR_DOWN",
    "Moments",
    "Surrogate",
    "gaussian",
    "hermite",
    "least_squares",
    "weights_only",
    "with_bypass",
    "with_down",
]
