"""How alike the kernels of features are: exact inner products, within a layer and between two, in the data's metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens import store
from bilens._internal.encoding import Array, floats, listed, shorts
from bilens._internal.factors import hidden_gram
from bilens._internal.shown import line
from bilens.analyses.language.layer import Layer
from bilens.analyses.language.seen import Seen
from bilens.analyses.language.sets import Outputs
from bilens.explorer.lm_layout import Alike
from bilens.space import Space
from bilens.tensor import BilinearTensor

METRIC = "the metric of the text’s second moment"
"""What kernels are compared in where there is text, in words."""

BLOCK = 1024
"""Hidden units of the first tensor whose products with all of the second's are in memory at a time."""


@store.register
@dataclass(frozen=True, eq=False, repr=False)
class Shown:
    """The features on a layer's page, all sets in order, and how alike their kernels are.

    Args:
        features: their numbers in their sets, (n,); counts: how many there are of each set.
        directions: as they read what the layer's MLP gives, (n, o).
        inner: ⟨Q_a, Q_b⟩ of their kernels, (n, n), in the metric that the layer was read in.
    """

    features: Int[Tensor, " n"]
    counts: tuple[int, ...]
    directions: Float[Tensor, "n o"]
    inner: Float[Tensor, "n n"]

    __repr__ = line


@torch.no_grad()
def inner_products(
    first: BilinearTensor, second: BilinearTensor, root: Float[Tensor, "i r"] | None = None
) -> Float[Tensor, "n m"]:
    """⟨Q_a, Q_b⟩ = tr(Q_a Σ Q_b Σ) of every output a of one tensor and b of the other, Σ = A Aᵀ, in float64.

    Without a root, Σ is the identity. Exact, from the factors; O(h h' (i + m)) for h and h' hidden units.

    Args:
        first, second: over inputs of one size; root: A.
    """
    sides = []
    for tensor in (first, second):
        factors = (tensor.left.double(), tensor.right.double())
        sides.append(factors if root is None else tuple(factor @ root.double() for factor in factors))
    (left, right), (other_left, other_right) = sides
    down, other = first.down.double(), second.down.double().T
    found = down.new_zeros(len(down), other.shape[1])
    for start in range(0, len(left), BLOCK):
        rows = slice(start, start + BLOCK)
        found += down[:, rows] @ (hidden_gram(left[rows], right[rows], other_left, other_right) @ other)
    return found


def cosines(inner: Float[Tensor, "n m"], own: Float[Tensor, " n"], other: Float[Tensor, " m"]) -> Float[Tensor, "n m"]:
    """⟨Q_a, Q_b⟩ / ‖Q_a‖ ‖Q_b‖ from inner products and squared norms; 0 where a kernel is 0."""
    sizes = own.clamp(min=0).sqrt()[:, None] * other.clamp(min=0).sqrt()
    return torch.where(sizes > 0, inner / torch.where(sizes > 0, sizes, 1), 0).clamp(-1, 1)


def shown_of(found: Outputs, seen: Seen | None, count: int) -> list[int]:
    """The features of a set that the page has: of a coder those that move the residual stream most."""
    if found.control or found.tokens is not None or seen is None or len(found) <= count:
        return list(range(min(count, len(found))))
    size = seen.deviation * found.writes.norm(dim=1)
    return torch.argsort(size, descending=True, stable=True)[:count].tolist()


@torch.no_grad()
def shown(layer: Layer, sets: Sequence[Outputs], chosen: Sequence[Sequence[int]]) -> Shown:
    """These features of each set, as another layer is compared with them."""
    directions = torch.cat([found.of(layer)[list(some)] for found, some in zip(sets, chosen, strict=True)]).float()
    features = [feature for some in chosen for feature in some]
    named = layer.tensor.then(directions.to(layer.tensor.down), Space("shown", len(features)))
    inner = inner_products(named, named, None if layer.metric is None else layer.metric.root)
    return Shown(torch.tensor(features, dtype=torch.int64), tuple(map(len, chosen)), directions, inner)


def shown_name(layer: int) -> str:
    """The name of the record of what a layer's page has."""
    return f"layer-{layer:03d}/shown"


def within(shown: Shown, metric: str) -> Alike:
    """What a page says of its own features; `metric` in words."""
    squares = shown.inner.diagonal()
    return of(shown.inner, squares, squares, metric, exact=False)


def of(
    inner: Float[Tensor, "n m"],
    own: Float[Tensor, " n"],
    other: Float[Tensor, " m"],
    metric: str,
    *,
    exact: bool = True,
) -> Alike:
    """What a page says of inner products, for features with these squared norms.

    Args:
        inner, own, other: as of `cosines`; metric: in words; exact: in float32 instead of 16 bits.
    """
    found = cosines(inner, own, other)
    encoded: Array = floats("cosines", found) if exact else shorts("cosines", found)
    norms = [listed("norms of kernels", squares.clamp(min=0).sqrt()) for squares in (own, other)]
    return {"metric": metric, "cosines": encoded, "first": norms[0], "second": norms[1]}


__all__ = ["METRIC", "Shown", "cosines", "inner_products", "of", "shown", "shown_name", "shown_of", "within"]
