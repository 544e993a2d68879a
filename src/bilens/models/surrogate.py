"""Gated layers as bilinear ones: of each unit σ(z)·v the best quadratic function of (z, v), in closed form.

Every surrogate replaces the unit by A zv + B z² + C z + E v + F. The quadratic part is one bilinear unit, with left = z
and right = A v + B z; the linear rest goes around it through the constant coordinate, because a single unit that holds
it too, (z + E/A)(A v + B z + C − B E/A), loses its digits by cancellation where A is small.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bilens._internal import checks, shown
from bilens._internal.checks import choice, instance, number
from bilens.errors import BilensError, ShapeError
from bilens.models.gated import Gate, GatedMLP
from bilens.space import Space
from bilens.tensor import BilinearTensor

NODES = 128
"""Nodes of the quadrature on either side of z = 0."""

REACH = 12.0
"""Standard deviations to either side of the mean at which the quadrature ends: what is beyond weighs 10⁻³²."""

LEAST = 1e-12
"""Variance of z, as a share of its squared mean, below which z counts as a constant."""

NUMBERS = 2**20
"""Values of z that are worked on at a time."""


@dataclass(frozen=True, eq=False, repr=False)
class Moments:
    """Mean and covariance of (z, v) = (W n + b, V n + c) for each unit: all that `gaussian` needs to know of the data.

    Args:
        mean_z, mean_v: means; var_z: variance of z; cov: covariance of z and v; each (h,), in float64.

    Raises:
        ShapeError: different numbers of units. BilensError: NaN or infinity, or a variance below 0.
    """

    mean_z: Float[Tensor, " h"]
    mean_v: Float[Tensor, " h"]
    var_z: Float[Tensor, " h"]
    cov: Float[Tensor, " h"]

    def __post_init__(self) -> None:
        checks.shapes(self)
        for name in ("mean_z", "mean_v", "var_z", "cov"):
            value = getattr(self, name)
            checks.weights(name, value)
            object.__setattr__(self, name, checks.owned(value).double())
        if bool((self.var_z < 0).any()):
            raise BilensError(f"a variance of {float(self.var_z.min()):.3g}", "variances of at least 0")

    def __repr__(self) -> str:
        """For example "Moments(mean_z (1536,), mean_v (1536,), var_z (1536,), cov (1536,), float64)"."""
        return shown.line(self)

    @classmethod
    def of_inputs(cls, mlp: GatedMLP, mean: Float[Tensor, " d"], covariance: Float[Tensor, "d d"]) -> Moments:
        """From the mean m and covariance Σ of n: W m + b, V m + c, diag(W Σ Wᵀ) and diag(W Σ Vᵀ).

        Args:
            mlp: the layer; mean, covariance: of n = norm(x), the gain included.

        Raises:
            ShapeError: of another size than the layer's input.
        """
        instance("mlp", mlp, GatedMLP)
        d = mlp.input.size
        for name, value, shape in (("mean", mean, (d,)), ("covariance", covariance, (d, d))):
            checks.floating(name, value)
            if tuple(value.shape) != shape:
                raise ShapeError(f"{name} of shape {tuple(value.shape)}", f"{shape}, for {mlp.title}")
        w, v = mlp.gate.double(), mlp.up.double()
        mean, covariance = mean.double(), covariance.double()
        spread = w @ covariance
        return cls(
            _with(w @ mean, mlp.gate_bias),
            _with(v @ mean, mlp.up_bias),
            (spread * w).sum(dim=1).clamp(min=0),
            (spread * v).sum(dim=1),
        )

    @classmethod
    def of_samples(cls, mlp: GatedMLP, x: Float[Tensor, "n d"], weights: Float[Tensor, " n"] | None = None) -> Moments:
        """From rows x of the residual stream, with a weight for each where some count for more.

        Raises:
            ShapeError, BilensError: as `GatedMLP.units`; fewer than two rows; weights below 0.
        """
        weights = _weights(mlp, x, weights)
        mean_z, mean_v = _means(mlp, x, weights)
        var, cov = torch.zeros_like(mean_z), torch.zeros_like(mean_z)
        for z, v, share in _batches(mlp, x, weights):
            off = z - mean_z
            var += (share * off.square()).sum(dim=0)
            cov += (share * off * (v - mean_v)).sum(dim=0)
        return cls(mean_z, mean_v, var, cov)


@dataclass(frozen=True, eq=False, repr=False)
class Surrogate:
    """A gated layer whose units are A zv + B z² + C z + E v + F instead of σ(z)·v.

    Args:
        mlp: the layer; method: how the numbers were found.
        product, square, gate, value, constant: A, B, C, E and F, (h,), in float64.
        bypass, offset: M, (o, d), and f, (o,), of a linear map M n + f that is added to the output; None for none.

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

    def __post_init__(self) -> None:
        instance("mlp", self.mlp, GatedMLP)
        choice("method", self.method, METHODS)
        checks.shapes(self, h=len(self.mlp.gate), o=self.mlp.output.size, d=self.mlp.input.size)
        for name in ("product", "square", "gate", "value", "constant", "bypass", "offset"):
            value = getattr(self, name)
            if value is not None:
                checks.weights(name, value)
                object.__setattr__(self, name, checks.owned(value).double())

    def __repr__(self) -> str:
        """For example "Surrogate(gaussian of layer 3, 1536 units)"."""
        return f"Surrogate({self.method} of {self.mlp.title}, {len(self.product)} units)"

    def __call__(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n o"]:
        """y for each x of the residual stream. Raises as `GatedMLP.units`."""
        z, v = self.mlp.units(x)
        a, b, c, e, f = (part.to(z) for part in (self.product, self.square, self.gate, self.value, self.constant))
        y = torch.nn.functional.linear(z * (a * v + b * z + c) + e * v + f, self.mlp.down, self.mlp.down_bias)
        if self.bypass is not None:
            y = y + self.mlp.norm(x.to(z)) @ self.bypass.to(z).T
        return y if self.offset is None else y + self.offset.to(z)

    def tensor(self, *, input: Space | None = None, output: Space | None = None) -> BilinearTensor:
        """The tensor of y as a function of x̂ = `mlp.norm.normalize(x)`, gains and biases folded.

        It has h units for the products, one for each output for the linear rest, and one for the constant.

        Args:
            input: space of x̂; output: space of y; by default the layer's.
        """
        mlp = self.mlp
        input, output = input or mlp.input, output or mlp.output
        w, v, down = mlp.gate.double(), mlp.up.double(), mlp.down.double()
        zeros = torch.zeros(len(w), dtype=torch.float64, device=w.device)
        b, c = _with(zeros, mlp.gate_bias), _with(zeros, mlp.up_bias)
        if mlp.norm.bias is not None:
            b, c = b + w @ mlp.norm.bias.double(), c + v @ mlp.norm.bias.double()
        if mlp.norm.gain is not None:
            w, v = w * mlp.norm.gain.double(), v * mlp.norm.gain.double()
        right = self.product[:, None] * v + self.square[:, None] * w
        linear = down @ (self.gate[:, None] * w + self.value[:, None] * v)
        constant = _with(down @ (self.gate * b + self.value * c + self.constant), self.offset)
        if self.bypass is not None:
            linear = linear + (self.bypass if mlp.norm.gain is None else self.bypass * mlp.norm.gain.double())
            constant = _with(constant, None if mlp.norm.bias is None else self.bypass @ mlp.norm.bias.double())
        layer = BilinearTensor.from_layer(
            w,
            right,
            down,
            left_bias=b,
            right_bias=self.product * c + self.square * b,
            down_bias=_with(constant, mlp.down_bias),
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
        weights = _weights(self.mlp, x, weights)
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
        _with(w @ mean, mlp.gate_bias),
        _with(v @ mean, mlp.up_bias),
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
    weights = _weights(mlp, x, weights)
    mean_z, mean_v = _means(mlp, x, weights)
    scale_z, scale_v = torch.zeros_like(mean_z), torch.zeros_like(mean_v)
    for z, v, share in _batches(mlp, x, weights):
        scale_z += (share * (z - mean_z).square()).sum(dim=0)
        scale_v += (share * (v - mean_v).square()).sum(dim=0)
    scale_z = torch.where(scale_z > LEAST * mean_z.square(), scale_z.sqrt(), 1.0)
    scale_v = torch.where(scale_v > LEAST * mean_v.square(), scale_v.sqrt(), 1.0)
    h = len(mlp.gate)
    gram = torch.zeros(h, 5, 5, dtype=torch.float64, device=mlp.gate.device)
    aims = torch.zeros(h, 5, dtype=torch.float64, device=mlp.gate.device)
    for z, v, share in _batches(mlp, x, weights):
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
    share = _weights(mlp, x, weights)[:, None]
    n, rest = mlp.norm(x.to(mlp.gate)).double(), (mlp(x) - surrogate(x)).double()
    mean_n, mean = (share * n).sum(dim=0), (share * rest).sum(dim=0)
    off = n - mean_n
    spread = (share * off).T @ off
    level = spread.diagonal().mean()
    damped = spread + (ridge * level if level > 0 else 1.0) * torch.eye(len(spread)).to(spread)
    bypass = torch.linalg.solve(damped, (share * off).T @ (rest - mean)).T
    return replace(surrogate, bypass=bypass, offset=mean - bypass @ mean_n)


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


def _weights(mlp: GatedMLP, x: Tensor, weights: Tensor | None) -> Tensor:
    """A share for each row; they add up to 1."""
    instance("mlp", mlp, GatedMLP)
    checks.vectors("vectors", x, mlp.gate, mlp.input.size, hint="pass the residual stream")
    if x.ndim != 2 or len(x) < 2:
        raise ShapeError(f"vectors of shape {tuple(x.shape)}", f"(rows, {mlp.input.size}), at least two")
    if weights is None:
        return torch.full((len(x),), 1 / len(x), dtype=torch.float64, device=x.device)
    checks.weights("weights", weights)
    if tuple(weights.shape) != (len(x),):
        raise ShapeError(f"weights of shape {tuple(weights.shape)}", f"({len(x)},), one for each row")
    total = weights.double().sum()
    if bool((weights < 0).any()) or not total > 0:
        raise BilensError("weights below 0, or all 0", "weights of at least 0")
    return weights.double() / total


def _batches(mlp: GatedMLP, x: Tensor, weights: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(z, v, share) of some rows at a time, in float64; share is a column."""
    rows = max(1, NUMBERS // len(mlp.gate))
    for start in range(0, len(x), rows):
        z, v = mlp.units(x[start : start + rows])
        yield z.double(), v.double(), weights[start : start + rows, None]


def _means(mlp: GatedMLP, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    mean_z = torch.zeros(len(mlp.gate), dtype=torch.float64, device=mlp.gate.device)
    mean_v = torch.zeros_like(mean_z)
    for z, v, share in _batches(mlp, x, weights):
        mean_z += (share * z).sum(dim=0)
        mean_v += (share * v).sum(dim=0)
    return mean_z, mean_v


def _with(value: Tensor, bias: Tensor | None) -> Tensor:
    return value if bias is None else value + bias.double()


__all__ = ["METHODS", "Moments", "Surrogate", "gaussian", "hermite", "least_squares", "weights_only", "with_bypass"]
