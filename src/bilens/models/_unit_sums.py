"""Sums over tokens from which least squares finds the five numbers of each gated unit: they add up over any parts."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

TERMS = 5
"""zv, z², z, v and 1, in this order."""

SUMS = 17
"""Weighted sums per unit: z²v², z³v, z²v, zv², zv, z⁴, z³, z², z, v², v, 1; then y zv, y z², y z, y v and y."""

_GRAM = ((0, 1, 2, 3, 4), (1, 5, 6, 2, 7), (2, 6, 7, 4, 8), (3, 2, 4, 9, 10), (4, 7, 8, 10, 11))
"""Which of the sums each entry of the Gram matrix of the terms is."""

LEAST = 1e-12
"""Variance, as a share of the squared mean, below which z or v counts as a constant."""


def unit_sums(
    z: Float[Tensor, "n h"], v: Float[Tensor, "n h"], y: Float[Tensor, "n h"], weights: Float[Tensor, " n"]
) -> Float[Tensor, "s h"]:
    """The sums over some tokens, in float64.

    Args:
        z, v: of the units; y: what they give, σ(z)·v; weights: of the tokens.
    """
    z, v, y, w = z.double(), v.double(), y.double(), weights.double()
    zv, zz = z * v, z * z
    parts = (zv * zv, zz * zv, zz * v, zv * v, zv, zz * zz, zz * z, zz, z, v * v, v)
    sums = [w @ part for part in parts]
    return torch.stack([*sums, w.sum().expand_as(sums[0]), w @ (y * zv), w @ (y * zz), w @ (y * z), w @ (y * v), w @ y])


def fitted(sums: Float[Tensor, "s h"]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """A, B, C, E and F of A zv + B z² + C z + E v + F nearest to y, each (h,): least squares, of least norm.

    The equations are turned into those of z and v less their means, over their deviations, before they are solved: the
    sums lose digits where a mean is thousands of deviations, and there alone.
    """
    total = sums[11]
    mean_z, mean_v = sums[8] / total, sums[10] / total
    scale_z, scale_v = _deviation(sums[7] / total, mean_z), _deviation(sums[9] / total, mean_v)
    gram = torch.stack([torch.stack([sums[place] for place in row], dim=-1) for row in _GRAM], dim=-2)  # (h, 5, 5)
    aims = sums[12:].T
    turn = torch.zeros_like(gram)
    both = scale_z * scale_v
    turn[:, 0, 0], turn[:, 0, 2], turn[:, 0, 3], turn[:, 0, 4] = (
        1 / both,
        -mean_v / both,
        -mean_z / both,
        mean_z * mean_v / both,
    )
    turn[:, 1, 1], turn[:, 1, 2], turn[:, 1, 4] = (
        part / scale_z.square() for part in (1, -2 * mean_z, mean_z.square())
    )
    turn[:, 2, 2], turn[:, 2, 4] = 1 / scale_z, -mean_z / scale_z
    turn[:, 3, 3], turn[:, 3, 4] = 1 / scale_v, -mean_v / scale_v
    turn[:, 4, 4] = 1
    level = total[:, None, None]
    centred, aimed = turn @ gram @ turn.mT / level, (turn @ aims[..., None]) / level
    found = turn.mT @ (torch.linalg.pinv(centred, hermitian=True, rtol=1e-12) @ aimed)
    a, b, c, e, f = found[..., 0].unbind(dim=1)
    return a, b, c, e, f


def _deviation(square: Tensor, mean: Tensor) -> Tensor:
    variance = square - mean.square()
    return torch.where(variance > LEAST * mean.square(), variance.clamp(min=0).sqrt(), 1.0)


__all__ = ["LEAST", "SUMS", "TERMS", "fitted", "unit_sums"]
