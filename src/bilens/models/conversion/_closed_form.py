"""A layer's conversion in closed form: least squares for its units, then ridge for D and a linear map around them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bilens._internal import ranks
from bilens._internal.shown import line
from bilens.models._unit_sums import SUMS, unit_sums
from bilens.models.conversion.layer import ConvertedMLP
from bilens.models.conversion.streams import Part, Streams, weight
from bilens.models.gated import GatedMLP
from bilens.models.surrogate import ROWS_FOR_DOWN

RIDGES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""What is tried, as a share of each feature's second moment."""

FIRST = 0.01
"""What the first token of every text counts in the units' least squares, as a share of all other tokens."""

_BLOCKS = 4
"""Blocks of features in a Gram matrix, of which only those on and below the diagonal are computed."""


@dataclass(frozen=True, eq=False, repr=False)
class Closed:
    """A conversion in closed form, and what is needed to adjust it later.

    Args:
        mlp: the conversion; ridge: what was chosen; refitted: whether D was fitted anew.
        mean: of the gated layer's output, (o,), which is the null.
        damped: for the first token's constraint.
    """

    mlp: ConvertedMLP
    ridge: float
    refitted: bool
    mean: Float[Tensor, " o"]
    damped: DampedGram

    __repr__ = line


class DampedGram:
    """How a change of (D, M, e) is measured: by what it does to the output on all tokens but the first of a text.

    Args:
        gram: Σ w φ φᵀ of the features φ = (units, n, 1), damped; it is the leader's that counts.
    """

    def __init__(self, gram: Float[Tensor, "f f"]) -> None:
        self.scale = gram.diagonal().clamp(min=torch.finfo(gram.dtype).tiny).sqrt()
        self._factor: Tensor | None = None
        if ranks.lead():
            self._factor = torch.linalg.cholesky(gram / self.scale / self.scale[:, None])

    def towards(self, feature: Float[Tensor, " f"]) -> Float[Tensor, " f"]:
        """G⁻¹ φ: the direction in which the features' weights change the output at φ most, and elsewhere least."""
        found = torch.zeros_like(feature)
        if self._factor is not None:
            scaled = (feature / self.scale)[:, None]
            found = torch.cholesky_solve(scaled, self._factor)[:, 0] / self.scale
        ranks.equal([found])
        return found


def closed_form(mlp: GatedMLP, streams: Streams) -> Closed:
    """The conversion of a layer that the streams have entered.

    1. Of each unit the five numbers A … F by weighted least squares on what its own z and v are in the conversion.
    2. With features φ = (units, n, 1), a change of (M, e), and of D where at least `ROWS_FOR_DOWN` tokens are there, by
       ridge towards 0, so that x + y comes close to what the model has after the layer: earlier layers' errors are
       mended where they can be. Of several ridges the one is taken that does best on tokens that are set aside.
    3. The least further change that makes the first token exact, where all texts begin with the same one.

    A token's squared error counts by 1 / mean t². A layer with a norm after its MLP is fitted to its own MLP's output
    instead, because what it adds is no linear function of y.

    Sums are of float64 over products of float32, and over all processes; the leader solves.
    """
    first = streams.first()
    sums = _unit_sums(mlp, streams)
    if first is not None:
        z, v = mlp.units(first[0][None])
        share = FIRST * float(sums[11, 0])
        with_first = sums + unit_sums(z, v, mlp.activation(z, v), z.new_full((1,), share))
    else:
        with_first = sums
    converted = ConvertedMLP.of_sums(mlp, with_first)
    mean = mlp.down.double() @ (sums[16] / sums[11])
    if mlp.down_bias is not None:
        mean = mean + mlp.down_bias.double()
    gram, cross, _, total = _normal(mlp, converted, streams, "fit")
    checks = _normal(mlp, converted, streams, "check")
    change, ridge, refitted = _chosen(gram, cross, total, checks, h=len(mlp.gate), tokens=streams.tokens)
    converted = _changed(converted, change)
    damped = DampedGram(gram + torch.diag(max(ridge, RIDGES[2]) * gram.diagonal()))
    return Closed(exact_at_first(converted, mlp, streams, damped), ridge, refitted, mean.float(), damped)


def exact_at_first(converted: ConvertedMLP, mlp: GatedMLP, streams: Streams, damped: DampedGram) -> ConvertedMLP:
    """The conversion with the least change of D, M and e that makes the first token of every text exact.

    Solved twice, because what float32 rounds off the first time is as large as other tokens where the first is large.
    """
    first = streams.first()
    if first is None:
        return converted
    x, t = first[0][None], first[1][None]
    for _ in range(2):
        feature, rest, _ = _features(mlp, converted, x, t)
        phi, missing = feature[0].double(), rest[0].double()
        along = damped.towards(phi)
        reach = phi @ along
        if not reach > 0:
            return converted
        converted = _changed(converted, torch.outer(missing, along / reach))
    return converted


def _unit_sums(mlp: GatedMLP, streams: Streams) -> Tensor:
    sums = torch.zeros(SUMS, len(mlp.gate), dtype=torch.float64, device=mlp.gate.device)
    with torch.no_grad():
        for x, t in streams.rows("fit"):
            for part, aim in zip(torch.split(x, 1024), torch.split(t, 1024), strict=True):
                z, v = mlp.units(part)
                sums += unit_sums(z, v, mlp.activation(z, v), weight(aim if mlp.post_norm is None else mlp(part)))
    ranks.add([sums])
    return sums


def _features(mlp: GatedMLP, converted: ConvertedMLP, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(φ, what the conversion lacks of its aim, weights) of some tokens."""
    n = mlp.norm(x)
    units = converted.units(n)
    y = mlp(x) if mlp.post_norm is not None else None
    aim = t - x if y is None else y
    rest = aim - units @ converted.down.T - n @ converted.bypass.T - converted.down_bias
    return torch.cat([units, n, torch.ones_like(n[:, :1])], dim=1), rest, weight(t if y is None else y)


def _normal(
    mlp: GatedMLP, converted: ConvertedMLP, streams: Streams, name: Part
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(Σ w φ φᵀ, Σ w φ rᵀ, Σ w |r|², number of tokens), r what the conversion lacks."""
    d, h, o = mlp.input.size, len(mlp.gate), mlp.output.size
    f = h + d + 1
    gram = torch.zeros(f, f, dtype=torch.float64, device=mlp.gate.device)
    cross = torch.zeros(f, o, dtype=torch.float64, device=mlp.gate.device)
    whole = torch.zeros(2, dtype=torch.float64, device=mlp.gate.device)
    ends = [f * block // _BLOCKS for block in range(_BLOCKS + 1)]
    blocks = [slice(*pair) for pair in itertools.pairwise(ends)]
    with torch.no_grad():
        for x, t in streams.rows(name):
            feature, rest, weights = _features(mlp, converted, x, t)
            weighed = (feature * weights[:, None]).T
            cross += weighed @ rest
            for place, rows in enumerate(blocks):
                gram[rows, : ends[place + 1]] += weighed[rows] @ feature[:, : ends[place + 1]]
            whole[0] += (weights[:, None] * rest.square()).sum()
            whole[1] += len(x)
    gram = gram.tril()
    gram = gram + gram.tril(-1).T
    ranks.add([gram, cross, whole])
    return gram, cross, whole[0], whole[1]


def _chosen(
    gram: Tensor,
    cross: Tensor,
    total: Tensor,
    checks: tuple[Tensor, Tensor, Tensor, Tensor],
    *,
    h: int,
    tokens: int,
) -> tuple[Tensor, float, bool]:
    """(change of (D, M, e), its ridge, whether D is among it): the best of all on the tokens that are set aside."""
    best, ridge, refitted = torch.zeros_like(cross.T), 0.0, False
    if ranks.lead():
        scale = (gram.diagonal() / total).clamp(min=torch.finfo(gram.dtype).tiny).sqrt()
        scaled, aims = gram / total / scale / scale[:, None], cross / total / scale[:, None]
        seen = torch.inf
        for refit in (False, True) if tokens >= ROWS_FOR_DOWN else (False,):
            begin = 0 if refit else h
            damping = torch.ones_like(scale[begin:])
            damping[-1] = 1e-6  # the constant is free
            for candidate in RIDGES:
                factor, failed = torch.linalg.cholesky_ex(scaled[begin:, begin:] + torch.diag(candidate * damping))
                if int(failed):
                    continue
                part = torch.cholesky_solve(aims[begin:], factor) / scale[begin:, None]
                error = float(
                    checks[2] - 2 * (part * checks[1][begin:]).sum() + (part * (checks[0][begin:, begin:] @ part)).sum()
                )
                if error < seen:
                    best = torch.zeros_like(cross.T)
                    best[:, begin:] = part.T
                    seen, ridge, refitted = error, candidate, refit
    best = best.contiguous()
    ranks.equal([best])
    return best, ranks.agreed(ridge), bool(ranks.agreed(refitted))


def _changed(converted: ConvertedMLP, change: Float[Tensor, "o f"]) -> ConvertedMLP:
    """The conversion with (D, M, e) changed."""
    h = len(converted.left)
    left, left_bias, right, right_bias, down, bypass, bias = converted.tensors
    return ConvertedMLP(
        converted.layer,
        left,
        left_bias,
        right,
        right_bias,
        down.double() + change[:, :h],
        bypass.double() + change[:, h:-1],
        bias.double() + change[:, -1],
    )


__all__ = ["FIRST", "RIDGES", "Closed", "DampedGram", "closed_form", "exact_at_first"]
