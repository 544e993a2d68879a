"""Inner products of bilinear convolutions, from autocorrelations of their filters."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.convolution.geometry import Geometry, Overlap


class Filters(NamedTuple):
    """L and R of one convolution in float64, (h, taps), their biases in the last column where there are any."""

    left: Float[Tensor, "h t"]
    right: Float[Tensor, "h t"]


def hidden_gram(geometry: Geometry, one: Filters, two: Filters, down: Overlap, right: Overlap) -> Tensor:
    """⟨sym(l_p r_pᵀ), sym(l'_q r'_qᵀ)⟩ for each pair of units, at positions p and q that overlap in this way.

    H = ½[(W⋆W')(V⋆V') + (W⋆V')(V⋆W')], where ⋆ is the correlation of two filters at the offset q − p, of the pixels
    that both see in the image, and with the product of their biases.
    """
    a = [_window(geometry, filters, down, right, 0) for filters in one]
    b = [_window(geometry, filters, down, right, 1) for filters in two]
    return ((a[0] @ b[0].T) * (a[1] @ b[1].T) + (a[0] @ b[1].T) * (a[1] @ b[0].T)) / 2


def apart(geometry: Geometry, one: Filters, two: Filters) -> Float[Tensor, "h g"] | None:
    """The same for positions that share no pixel: what the biases make. None where there are none."""
    if one.left.shape[1] == geometry.taps:
        return None
    biases = [filters[:, -1] for pair in (one, two) for filters in pair]
    return torch.outer(biases[0] * biases[1], biases[2] * biases[3])


def summed(
    geometry: Geometry,
    one: Filters,
    two: Filters,
    weights: Float[Tensor, "r h *p"],
    others: Float[Tensor, "s g *p"],
) -> Float[Tensor, "r s"]:
    """Σ_pq Σ_hg u_rhp u'_sgq H_hg(p, q): the inner products of kernels with these weights, (r, s).

    Positions that share no pixel are never paired: the constant part of H, all that they have, is summed in one step.
    """
    far = apart(geometry, one, two)
    gram = weights.new_zeros(len(weights), len(others))
    if far is not None:
        gram = gram + weights.sum(dim=(2, 3)) @ far @ others.sum(dim=(2, 3)).T
    for down, right in geometry.overlaps():
        here = hidden_gram(geometry, one, two, down, right)
        if far is not None:
            here = here - far
        first = weights[:, :, down.places, right.places].flatten(2)
        second = others[:, :, down.others, right.others].flatten(2)
        gram = gram + first.flatten(1) @ torch.einsum("hg,sgp->shp", here, second).flatten(1).T
    return gram


def square(geometry: Geometry, one: Filters, two: Filters, weights: Float[Tensor, "h g"]) -> Tensor:
    """Σ_p Σ_hg w_hg H_hg(p, p): the inner product of two layers whose outputs are the positions themselves."""
    total = weights.new_zeros(())
    for down, right in geometry.overlaps():
        if down.offset == right.offset == 0:
            count = (down.places.stop - down.places.start) * (right.places.stop - right.places.start)
            total = total + count * (weights * hidden_gram(geometry, one, two, down, right)).sum()
    far = apart(geometry, one, two)
    if far is not None:  # positions whose filters lie on the padding alone
        missing = geometry.positions - sum(
            (down.places.stop - down.places.start) * (right.places.stop - right.places.start)
            for down, right in geometry.overlaps()
            if down.offset == right.offset == 0
        )
        total = total + missing * (weights * far).sum()
    return total


def _window(geometry: Geometry, filters: Tensor, down: Overlap, right: Overlap, which: int) -> Tensor:
    """The taps that take part, and the bias, of the first filter (0) or of the one further on (1)."""
    image = filters[:, : geometry.taps].reshape(len(filters), geometry.channels, *geometry.filter)
    rows, columns = (slice(axis.low - which * axis.shift, axis.high - which * axis.shift) for axis in (down, right))
    return torch.cat([image[:, :, rows, columns].flatten(1), filters[:, geometry.taps :]], dim=1)
