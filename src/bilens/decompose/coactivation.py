"""What the codes of data say of interactions: how often both features of a pair are active, and their mean product."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens._internal import checks
from bilens._internal.checks import instance
from bilens._internal.shown import line
from bilens.decompose.linalg import detach, folded
from bilens.decompose.strongest import StrongestInteractions
from bilens.errors import BilensError, ShapeError

SAMPLES, ROWS = 4096, 1024
"""Samples at a time, and rows of their matrix of products."""


@dataclass(frozen=True, eq=False, repr=False)
class Coactivation:
    """Of each listed pair (a, b) over samples of codes z: how often both are active, and what their product is.

    Args:
        together: in how many samples neither z_a nor z_b is 0, (n, k).
        expected: the same if the two were independent, (n, k): its null, samples · P(z_a ≠ 0) · P(z_b ≠ 0), for a pair
            of one feature the samples where it is active.
        product: E[z_a z_b] over all samples, (n, k); square: E[z_a² z_b²], (n, k).
        samples: how many.

    Raises:
        ShapeError: the shapes do not fit together.
    """

    together: Int[Tensor, "n k"]
    expected: Float[Tensor, "n k"]
    product: Float[Tensor, "n k"]
    square: Float[Tensor, "n k"]
    samples: int

    __repr__ = line

    def __post_init__(self) -> None:
        detach(self)
        checks.shapes(self)

    def ablated(self, found: StrongestInteractions) -> tuple[Float[Tensor, "n k"], Float[Tensor, "n k"]]:
        """By how much each pair, taken away, changes its output: −c E[z_a z_b] in the mean, |c| √E[z_a² z_b²] in size.

        Raises:
            ShapeError: interactions of other pairs.
        """
        instance("interactions", found, StrongestInteractions)
        if found.first.shape != self.together.shape:
            raise ShapeError(f"interactions of shape {tuple(found.first.shape)}", f"{tuple(self.together.shape)}")
        c = found.coefficients
        return -c * self.product.to(c), c.abs() * self.square.sqrt().to(c)


@torch.no_grad()
def coactivation(
    found: StrongestInteractions, codes: Float[Tensor, "_ size"] | Iterable[Float[Tensor, "_ size"]]
) -> Coactivation:
    """How often the features of each listed pair are active together, and their mean product, over codes of data.

    Examples:
        >>> from bilens import BilinearTensor
        >>> from bilens.decompose import strongest
        >>> W, V = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]])
        >>> B = BilinearTensor.from_layer(W, V, input=Space("x", 2), output=Space("y", 1))
        >>> seen = coactivation(strongest(B, top=1), torch.tensor([[1.0, 2.0], [0.0, 5.0], [3.0, 0.0], [0.0, 0.0]]))
        >>> seen.together, seen.expected, seen.product  # of x₁ and x₂: together once in four, as chance has it
        (tensor([[1]]), tensor([[1.]]), tensor([[0.5000]]))

    The constant coordinate is always active. Sums are in float64.

    Args:
        found: the pairs; codes: one sample per row, without the constant coordinate, or an iterable of such batches.

    Cost: per sample 3 m² products, m the features that the pairs name; memory 1,024 m numbers.

    Raises:
        ShapeError: codes of another size. BilensError: no samples, or codes that are not floating-point numbers.
    """
    instance("interactions", found, StrongestInteractions)
    both = torch.cat([found.first.flatten(), found.second.flatten()])
    named, compact = both.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    first, second = compact.view(2, -1)
    spans = [
        (start, ((first >= start) & (first < start + ROWS)).nonzero()[:, 0]) for start in range(0, len(named), ROWS)
    ]
    together, product, square = (first.new_zeros(len(first), dtype=torch.float64) for _ in range(3))
    active, samples = together.new_zeros(len(named)), 0
    batches = [codes] if isinstance(codes, Tensor) else codes
    instance("codes", batches, Iterable, "a tensor, or batches of them")
    for batch in batches:
        checks.samples("codes", batch, found.input.size)
        for part in batch.split(SAMPLES) if len(batch) else ():
            z = folded(found.input, part, found.coefficients)[:, named]
            on = (z != 0).double()
            active += on.sum(dim=0)
            samples += len(z)
            for values, total in ((on, together), (z, product), (z.square(), square)):
                for start, places in spans:
                    products = values[:, start : start + ROWS].T @ values
                    total[places] += products[first[places] - start, second[places]]
    if samples == 0:
        raise BilensError("codes of no samples", "at least one")
    share = active / samples
    expected = torch.where(first == second, share[first], share[first] * share[second]) * samples
    shape, dtype = found.first.shape, found.coefficients.dtype
    return Coactivation(
        together.round().long().view(shape),
        expected.view(shape).to(dtype),
        (product / samples).view(shape).to(dtype),
        (square / samples).view(shape).to(dtype),
        samples,
    )


__all__ = ["Coactivation", "coactivation"]
