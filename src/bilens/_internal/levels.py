"""Levels: the layers of a network as factors between bonds that carry the constant coordinate themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens._internal.scale import times_two_to, units


class Level(NamedTuple):
    """y_l = D[(L y_{l−1}) ⊙ (R y_{l−1})] between two bonds, both with their constant coordinate where they carry one.

    Args:
        left: L, (h, m) with m the size of the bond below; right: R, (h, m); down: D, (n, h), n that of the bond above.
    """

    left: Float[Tensor, "h m"]
    right: Float[Tensor, "h m"]
    down: Float[Tensor, "n h"]


class Balanced(NamedTuple):
    """Levels in float64 with every unit and every bond coordinate near 1, by powers of two, which is exact.

    Args:
        levels: of ỹ; bonds: for every bond from the input on the exponents e, (m_l,), with y_l = 2^e ỹ_l; those of the
            output are all equal.
    """

    levels: tuple[Level, ...]
    bonds: tuple[Int[Tensor, " _"], ...]

    @property
    def power(self) -> int:
        """The exponent of the outputs: y = 2^power ỹ."""
        return int(self.bonds[-1][0])


def closed(
    left: Float[Tensor, "h i"],
    right: Float[Tensor, "h i"],
    down: Float[Tensor, "o h"],
    skip: Float[Tensor, "o i"] | None,
    *,
    below: bool,
    above: bool,
) -> Level:
    """One layer with what runs around it as units of its own.

    A skip y + S y' is one unit per output, (e_const · y')(S_o · y'). The constant is carried by one more,
    (e_const · y')² = 1.

    Args:
        left, right, down: the layer's factors, skip: S, over the bond below *with* its constant where `below` is true.
        below: whether the bond below has the constant; above: whether the bond above is to have it.
    """
    lefts, rights, blocks = [left], [right], [down]
    if below and skip is not None:
        constant = torch.zeros_like(skip)
        constant[:, -1] = 1
        lefts.append(constant)
        rights.append(skip)
        blocks.append(torch.eye(len(skip), dtype=down.dtype, device=down.device))
    rows = torch.cat(blocks, dim=1)
    if above:
        constant = left.new_zeros(1, left.shape[1])
        constant[0, -1] = 1
        lefts.append(constant)
        rights.append(constant)
        rows = diagonal(rows, rows.new_ones(1, 1))
    return Level(torch.cat(lefts), torch.cat(rights), rows)


def balanced(levels: Sequence[Level]) -> Balanced:
    """The levels near 1: powers of two are taken out of units and bond coordinates and handed up to the next level.

    y_l = 2^e ỹ_l with one exponent per coordinate; the next level reads them relative to the largest of them, which it
    squares. So neither a large layer below a small one nor a small coordinate beside the constant is lost.
    """
    exponents = torch.zeros(levels[0].left.shape[1], dtype=torch.int64, device=levels[0].left.device)
    bonds, found = [exponents], []
    for number, level in enumerate(levels):
        top = exponents.max()
        left, right = (times_two_to(factor.double(), exponents - top) for factor in (level.left, level.right))
        near = units(left, right, level.down)
        alive = (near.down != 0).any(dim=1)
        rows = near.exponents.to(torch.int64) + 2 * top
        highest = rows[alive].max() if bool(alive.any()) else torch.zeros_like(top)
        exponents, down = torch.where(alive, rows, highest), near.down
        if number == len(levels) - 1:  # one exponent for all outputs
            down = times_two_to(down, (exponents - highest)[:, None])
            exponents = highest.expand(len(down)).clone()
        found.append(Level(near.left, near.right, down))
        bonds.append(exponents)
    return Balanced(tuple(found), tuple(bonds))


def difference(ours: Sequence[Level], theirs: Sequence[Level]) -> list[Level]:
    """Levels of y − z for two networks over one input, which cancel exactly where the networks are equal.

    With u = L y, v = R y of one network and ū, v̄ of the other, u v − ū v̄ = (u − ū) v + ū (v − v̄), so that

        y_l − z_l = ΔD (u v) + D̄ [δu · v + ū · δv],    δu = ΔL y + L̄ (y − z),    ū = L̄ [y − (y − z)],

    over the bond [y − z, y]: every term holds a difference of weights, and none is a difference of large numbers.
    Networks of other widths are padded with zeros. Hidden units: three times those of the wider one. For networks whose
    weights have nothing in common, `beside` has smaller terms.
    """
    levels: list[Level] = []
    for number, (one, two) in enumerate(zip(ours, theirs, strict=True)):
        hidden = max(one.left.shape[0], two.left.shape[0])
        below = max(one.left.shape[1], two.left.shape[1])
        above = max(len(one.down), len(two.down))
        left, right, down = (
            padded(one.left, hidden, below),
            padded(one.right, hidden, below),
            padded(one.down, above, hidden),
        )
        other, beside, out = (
            padded(two.left, hidden, below),
            padded(two.right, hidden, below),
            padded(two.down, above, hidden),
        )
        u, v, du, dv, bar = left, right, left - other, right - beside, other
        if number:
            u, v = torch.cat([torch.zeros_like(u), u], dim=1), torch.cat([torch.zeros_like(v), v], dim=1)
            du, dv = torch.cat([other, du], dim=1), torch.cat([beside, dv], dim=1)
            bar = torch.cat([-other, other], dim=1)
        rows = torch.cat([down - out, out, out], dim=1)
        if number < len(ours) - 1:
            rows = torch.cat([rows, torch.cat([down, torch.zeros_like(down), torch.zeros_like(down)], dim=1)])
        levels.append(Level(torch.cat([u, du, bar]), torch.cat([v, v, dv]), rows))
    return levels


def beside(ours: Sequence[Level], theirs: Sequence[Level]) -> list[Level]:
    """Levels of y − z for two networks side by side: their bonds and hidden units together, the last D with a sign."""
    levels: list[Level] = []
    for number, (one, two) in enumerate(zip(ours, theirs, strict=True)):
        first, last = number == 0, number == len(ours) - 1
        left, right = (
            torch.cat(pair) if first else diagonal(*pair) for pair in ((one.left, two.left), (one.right, two.right))
        )
        down = torch.cat([one.down, -two.down], dim=1) if last else diagonal(one.down, two.down)
        levels.append(Level(left, right, down))
    return levels


def aligned(ours: Sequence[Level], theirs: Sequence[Level]) -> bool:
    """Whether all factors of two networks are closer to each other than half of their own size."""
    return all(
        a.shape == b.shape and bool((a - b).norm() <= a.norm() / 2)
        for one, two in zip(ours, theirs, strict=True)
        for a, b in zip(one, two, strict=True)
    )


def padded(matrix: Float[Tensor, "r c"], rows: int, columns: int) -> Float[Tensor, "R C"]:
    """The matrix with rows and columns of zeros added at its ends."""
    return torch.nn.functional.pad(matrix, (0, columns - matrix.shape[1], 0, rows - matrix.shape[0]))


def diagonal(*matrices: Float[Tensor, "..."]) -> Float[Tensor, "r c"]:
    """The matrices along a diagonal, zeros elsewhere."""
    whole: Tensor = torch.block_diag(*matrices)  # type: ignore[no-untyped-call]
    return whole
