"""Virtual paths of a residual network: its outputs as a sum over which blocks an input went through, or by degree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens._internal import checks
from bilens._internal.checks import instance, whole
from bilens._internal.shown import line
from bilens.deep.network import DeepTensor
from bilens.errors import BilensError, ShapeError

ENUMERATED = 3
"""Blocks up to which paths are listed: 2, 5 and 20 of them at one, two and three blocks, 230 at four."""


class Shares(NamedTuple):
    """Covariance shares E[p·y] / E[y·y] of paths: they sum to 1 and may be negative.

    Args:
        names: of the paths; values: (p,); errors: (p,), standard errors over the samples; samples: how many.
    """

    names: tuple[str, ...]
    values: Float[Tensor, " p"]
    errors: Float[Tensor, " p"]
    samples: int


class PathAccuracies(NamedTuple):
    """How often the largest output is the label, for the network, without each path, and with each path alone.

    Args:
        names: of the paths; whole: of the network; without, alone: (p,); samples: how many. The standard error of an
            accuracy a is √(a(1 − a)/samples).
    """

    names: tuple[str, ...]
    whole: float
    without: Float[Tensor, " p"]
    alone: Float[Tensor, " p"]
    samples: int


@dataclass(frozen=True, eq=False, repr=False)
class Paths:
    """What each virtual path adds to the outputs of a network: y = Σ_p outputs_p.

    Args:
        names: of the paths, for example "x", "B1(x, x)" and "B2(x, B1(x, x))", or "degree 3"; outputs: (p, n, o).

    Raises:
        ShapeError: names and outputs that are not as many.
    """

    names: tuple[str, ...]
    outputs: Float[Tensor, "p n o"]

    __repr__ = line

    def __post_init__(self) -> None:
        checks.shapes(self, p=len(checks.several("names", self.names, "the names of the paths", "pass (name,)")))
        object.__setattr__(self, "outputs", self.outputs.detach())

    def __len__(self) -> int:
        return len(self.names)

    def total(self) -> Float[Tensor, "n o"]:
        """Σ_p outputs_p: the network's outputs."""
        return self.outputs.sum(dim=0)

    def alone(self, name: str) -> Float[Tensor, "n o"]:
        """The outputs with one path alone.

        Raises:
            BilensError: no path of this name.
        """
        checks.choice("path", name, self.names)
        return self.outputs[self.names.index(name)]

    def without(self, name: str) -> Float[Tensor, "n o"]:
        """The outputs without one path. Raises as `alone`."""
        return self.total() - self.alone(name)

    def shares(self) -> Shares:
        """How much of the outputs each path is: E[p·y] / E[y·y] over the samples, with standard errors.

        The squares |p|² alone do not sum to |y|²; these do to 1. Take the network's `centered()` first, or what all
        logits share counts. Of samples of `gaussian_like` they are shares by weights and two moments of the data.

        Raises:
            BilensError: fewer than two samples, or outputs that are all 0.
        """
        outputs = self.outputs.double()
        whole_outputs, count = outputs.sum(dim=0), outputs.shape[1]
        if count < 2:
            raise BilensError(f"{count} sample", "at least two, for standard errors")
        products = (outputs * whole_outputs).sum(dim=-1)  # (p, n)
        mean = whole_outputs.square().sum(dim=-1).mean()
        if not bool(mean > 0):
            raise BilensError("outputs that are all 0", "outputs of which paths can be a share")
        values = products.mean(dim=1) / mean
        rest = products - values[:, None] * whole_outputs.square().sum(dim=-1)
        return Shares(self.names, values, rest.std(dim=1) / (count**0.5 * mean), count)

    def accuracies(self, labels: Int[Tensor, " n"]) -> PathAccuracies:
        """The share of samples whose largest output is their label, without each path and with it alone.

        Raises:
            BilensError: labels that are no numbers of outputs. ShapeError: another number of them than of samples.
        """
        instance("labels", labels, Tensor)
        count, outputs = self.outputs.shape[1:]
        if tuple(labels.shape) != (count,):
            raise ShapeError(f"labels of shape {tuple(labels.shape)}", f"({count},)")
        labels = checks.integers("labels", labels, 0, outputs - 1)
        full = self.total()

        def right(logits: Tensor) -> Tensor:
            return (logits.argmax(dim=-1) == labels).double().mean(dim=-1)

        return PathAccuracies(self.names, float(right(full)), right(full - self.outputs), right(self.outputs), count)


@torch.no_grad()
def paths(deep: DeepTensor, x: Float[Tensor, "n d"]) -> Paths:
    """The outputs as a sum over virtual paths: by path for up to three blocks, by degree (`degrees`) beyond.

    Examples:
        >>> from bilens import BilinearTensor
        >>> x, e = Space("x", 1), torch.ones(1, 1)
        >>> square = BilinearTensor(e, e, e, x, x)
        >>> found = paths(DeepTensor.chain(square, square, residual=True), torch.tensor([[2.0]]))  # x + x², then again
        >>> found.names
        ('x', 'B1(x, x)', 'B2(x, x)', 'B2(x, B1(x, x))', 'B2(B1(x, x), B1(x, x))')
        >>> found.outputs.flatten().tolist()
        [2.0, 4.0, 4.0, 16.0, 16.0]

    With z' = [z; 1] and S what runs around a block, block l adds to Σ_p z_p the terms B_l(z_p, z_p) and
    2 B_l(z_p, z_q), p < q, exactly. The constant runs with the path "x", so that a bias is part of it; where nothing
    else runs around a block, "x" is the constant alone.

    Args:
        deep: the network, usually `centered()`; x: (n, d), one input per row.

    Returns:
        `Paths`, in the network's type. No gradients.

    Raises:
        BilensError, ShapeError: x is not over the input.
    """
    instance("deep", deep, DeepTensor, hint="make one with DeepTensor.chain")
    if deep.depth > ENUMERATED:
        return degrees(deep, x)
    rows = _rows(deep, x)
    levels = deep.levels()
    start = deep.bond(0).fold(rows, deep.layers[0].left)
    terms: list[tuple[str, Tensor]] = [("x", start)]
    for place, layer in enumerate(deep.layers):
        level, skip, above = levels[place], deep.skips[place], deep.bond(place + 1)
        own = slice(0, layer.hidden)  # the first units of a level are the layer's own
        left, right, down = level.left[own], level.right[own], level.down[:, own]
        after: list[tuple[str, Tensor]] = []
        around = start.new_zeros(above.dim, left.shape[1])
        if skip is not None:
            around[: len(skip), : skip.shape[1]] = skip
        if above.constant:
            around[-1, -1] = 1
        if bool(around.any()):
            after += [(name, value @ around.T) for name, value in terms]
        ends = [(value @ left.T, value @ right.T) for _, value in terms]
        for p, (name, _) in enumerate(terms):
            for q in range(p, len(terms)):
                (lp, rp), (lq, rq) = ends[p], ends[q]
                hidden = lp * rp if p == q else lp * rq + lq * rp
                after.append((f"B{place + 1}({name}, {terms[q][0]})", hidden @ down.T))
        terms = after
    return Paths(tuple(name for name, _ in terms), torch.stack([value for _, value in terms]))


@torch.no_grad()
def degrees(deep: DeepTensor, x: Float[Tensor, "n d"]) -> Paths:
    """The outputs by degree in x, biases being degree 0: f_d(x) = (1/K) Σ_j ω^(−jd) f(ω^j x), ω = exp(2πi/K).

    f is a polynomial of degree N = 2ⁿ, so that K = N + 1 evaluations at complex inputs take it apart, exactly; those at
    ω^j and ω^(K−j) are conjugates, which leaves N/2 + 1. Degrees that are 0 for all x are left out.

    Args and Returns: as `paths`, in float64 inside.
    """
    instance("deep", deep, DeepTensor, hint="make one with DeepTensor.chain")
    rows = _rows(deep, x).double()
    count = 2**deep.depth + 1
    found = torch.zeros(count, len(rows), deep.output.size, dtype=torch.float64, device=rows.device)
    for j in range(count // 2 + 1):
        angle = 2 * math.pi * j / count
        values = _evaluated(deep, rows * complex(math.cos(angle), math.sin(angle)))
        turns = torch.exp(-1j * angle * torch.arange(count, device=rows.device, dtype=torch.float64))
        found += (turns[:, None, None] * values).real * ((1 if j == 0 else 2) / count)
    floor = 1e-12 * found.abs().max()
    kept = [d for d in range(count) if bool(found[d].abs().max() > floor)] or [0]
    return Paths(tuple(f"degree {d}" for d in kept), found[kept].to(deep.layers[0].left.dtype))


def gaussian_like(x: Float[Tensor, "n d"], count: int, *, seed: int = 0) -> Float[Tensor, "m d"]:
    """Samples of the Gaussian with the mean and the covariance of the data, (count, d): what two moments know of it.

    Args:
        x: data, (n, d); count: how many samples; seed: of the random numbers.

    Raises:
        BilensError: fewer than two rows of data, or a count below 1.
    """
    checks.weights("x", x)
    if x.ndim != 2 or len(x) < 2:
        raise ShapeError(f"x of shape {tuple(x.shape)}", "(n, d) with at least two rows")
    count, seed = whole("count", count, 1), checks.seed(seed)
    rows = x.detach().double()
    mean = rows.mean(dim=0)
    values, vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(count, len(values), generator=generator, dtype=torch.float64).to(rows.device)
    samples: Tensor = (mean + (draws * values.clamp(min=0).sqrt()) @ vectors.T).to(x.dtype)
    return samples


def _rows(deep: DeepTensor, x: Tensor) -> Tensor:
    rows = deep.layers[0].input.without_constant().fold(x, deep.layers[0].left)
    if rows.ndim != 2 or not len(rows):
        raise ShapeError(f"x of shape {tuple(x.shape)}", f"(n, {rows.shape[-1]}) with at least one row")
    return rows


def _evaluated(deep: DeepTensor, rows: Tensor) -> Tensor:
    """y at complex inputs, whose constant coordinate is 1."""
    y = rows
    for layer, skip in zip(deep.layers, deep.skips, strict=True):
        ones: Sequence[Tensor] = [y.new_ones(len(y), 1)] if layer.input.constant else []
        folded = torch.cat([y, *ones], dim=1)
        left, right, down = (factor.to(folded) for factor in (layer.left, layer.right, layer.down))
        y = ((folded @ left.T) * (folded @ right.T)) @ down.T
        if skip is not None:
            y = y + folded @ skip.to(folded).T
    return y
