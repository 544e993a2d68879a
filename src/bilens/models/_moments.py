"""Mean and covariance of the units of a gated layer, and passes over rows of the residual stream in small parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bilens._internal import checks, shown
from bilens._internal.checks import instance
from bilens.errors import BilensError, ShapeError
from bilens.models.gated import GatedMLP

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
            plus(w @ mean, mlp.gate_bias),
            plus(v @ mean, mlp.up_bias),
            (spread * w).sum(dim=1).clamp(min=0),
            (spread * v).sum(dim=1),
        )

    @classmethod
    def of_samples(cls, mlp: GatedMLP, x: Float[Tensor, "n d"], weights: Float[Tensor, " n"] | None = None) -> Moments:
        """From rows x of the residual stream, with a weight for each where some count for more.

        Raises:
            ShapeError, BilensError: as `GatedMLP.units`; fewer than two rows; weights below 0.
        """
        weights = shares(mlp, x, weights)
        mean_z, mean_v = means(mlp, x, weights)
        var, cov = torch.zeros_like(mean_z), torch.zeros_like(mean_z)
        for z, v, share in batches(mlp, x, weights):
            off = z - mean_z
            var += (share * off.square()).sum(dim=0)
            cov += (share * off * (v - mean_v)).sum(dim=0)
        return cls(mean_z, mean_v, var, cov)


def shares(mlp: GatedMLP, x: Tensor, weights: Tensor | None) -> Tensor:
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


def batches(mlp: GatedMLP, x: Tensor, weights: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(z, v, share) of some rows at a time, in float64; share is a column."""
    rows = max(1, NUMBERS // len(mlp.gate))
    for start in range(0, len(x), rows):
        z, v = mlp.units(x[start : start + rows])
        yield z.double(), v.double(), weights[start : start + rows, None]


def means(mlp: GatedMLP, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The means of z and of v, in float64."""
    mean_z = torch.zeros(len(mlp.gate), dtype=torch.float64, device=mlp.gate.device)
    mean_v = torch.zeros_like(mean_z)
    for z, v, share in batches(mlp, x, weights):
        mean_z += (share * z).sum(dim=0)
        mean_v += (share * v).sum(dim=0)
    return mean_z, mean_v


def plus(value: Tensor, bias: Tensor | None) -> Tensor:
    """A value and a bias in float64, where there is one."""
    return value if bias is None else value + bias.double()


__all__ = ["NUMBERS", "Moments", "batches", "means", "plus", "shares"]
