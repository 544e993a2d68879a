"""Trees of templates with what the page shows of them: how each root is distributed over classes, and what it adds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens._internal import checks
from bilens._internal.shown import line
from bilens.decompose import KernelTree
from bilens.deep import DeepTensor
from bilens.errors import BilensError
from bilens.faithfulness import Curve, Row
from bilens.space import Space

PERCENTILES = (1, 25, 50, 75, 99)
"""Of q on the samples of each class."""


@dataclass(frozen=True, eq=False, repr=False)
class OutputTree:
    """One output of a two-layer network as roots and their leaves, and how these behave on samples of each class.

    Args:
        label: the output's; values … next_leaves: those of the `KernelTree`.
        error: ‖T_u − T̂‖ / ‖T_u‖ of the cut roots and leaves, in the metric that the tree was found in.
        quantiles: (k, c, 5), `PERCENTILES` of q_k on the samples of each class; means: (k, c), the mean of λ_k q_k²
            on them. None where there were no labelled samples.

    Raises:
        ShapeError: the shapes do not fit together.
    """

    label: str
    values: Float[Tensor, " k"]
    leaf_values: Float[Tensor, "k j"]
    readers: Float[Tensor, "k j i"]
    patterns: Float[Tensor, "k j i"]
    energy: Float[Tensor, ""]
    discarded: Float[Tensor, ""]
    leaf_discarded: Float[Tensor, " k"]
    next_root: Float[Tensor, ""]
    next_leaves: Float[Tensor, " k"]
    error: float
    quantiles: Float[Tensor, "k c 5"] | None = None
    means: Float[Tensor, "k c"] | None = None

    __repr__ = line

    def __post_init__(self) -> None:
        checks.shapes(self)

    def __len__(self) -> int:
        return len(self.values)

    @classmethod
    def of(
        cls,
        tree: KernelTree,
        label: str,
        *,
        x: Float[Tensor, "n d"] | None = None,
        labels: Int[Tensor, " n"] | None = None,
        classes: int = 0,
    ) -> OutputTree:
        """A tree with what it does on samples.

        Args:
            tree: of one output; label: the output's.
            x: samples, (n, d); labels: (n,), their classes, from 0 to `classes` − 1, each of which has a sample.
        """
        checks.instance("tree", tree, KernelTree)
        own = {each.name: getattr(tree, each.name) for each in fields(tree) if each.name not in ("deep", "metric")}
        norm = float(tree.energy.sqrt())
        error = float(tree.error()) / norm if norm > 0 else 0.0
        if x is None or labels is None:
            return cls(label, **own, error=error)
        forms = tree.forms(x)
        levels = torch.tensor(PERCENTILES, dtype=forms.dtype, device=forms.device) / 100
        rows = [forms[labels == one] for one in range(classes)]
        if not all(len(row) for row in rows):
            raise BilensError("a class without a sample", f"samples of all {classes} classes")
        quantiles = torch.stack([row.quantile(levels, dim=0).T for row in rows], dim=1)
        means = torch.stack([(row.square() * tree.values).mean(dim=0) for row in rows], dim=1)
        return cls(label, **own, error=error, quantiles=quantiles, means=means)

    def whole(self, deep: DeepTensor, metric: Float[Tensor, "i i"] | None) -> KernelTree:
        """The `KernelTree`: its output's network and its metric put back.

        Args:
            deep: the network that the tree was found in, with all of its outputs; metric: what it was found in.
        """
        row = torch.zeros_like(deep.layers[-1].down[:, 0])
        row[deep.output.index(self.label)] = 1
        one = deep.then(row[None], Space(self.label, 1))
        own = {
            each.name: getattr(self, each.name) for each in fields(KernelTree) if each.name not in ("deep", "metric")
        }
        return KernelTree(**own, deep=one, metric=metric)


@dataclass(frozen=True, eq=False, repr=False)
class TreeSet:
    """The outputs of a network of two layers as trees of templates, in their order, and all that is said of them.

    Args:
        trees: one for each output; input: the space of the leaves, with its constant coordinate where it has one;
            output: the space of the outputs.
        metric: in which second moment the trees were found, in words; samples: on how many samples q was looked at.
        title, text, notes, curves, scores, numbers, words: as those of a `FeatureSet`.

    Raises:
        BilensError: not one tree for each output. ShapeError: leaves over another space.
    """

    trees: tuple[OutputTree, ...]
    input: Space
    output: Space
    metric: str
    samples: int = 0
    title: str = "Trees of templates"
    text: str = ""
    notes: tuple[str, ...] = ()
    curves: tuple[Curve, ...] = ()
    scores: tuple[Row, ...] = ()
    numbers: Mapping[str, Any] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)

    __repr__ = line

    def __post_init__(self) -> None:
        checks.fields(self)
        checks.several("trees", self.trees, "a tuple of trees", "pass (tree,)")
        if len(self.trees) != self.output.dim:
            raise BilensError(f"{len(self.trees)} trees", f"one for each of the {self.output.dim} outputs")
        for tree in self.trees:
            checks.instance("a tree", tree, OutputTree)
            checks.shapes(tree, i=self.input.dim, **({} if tree.means is None else {"c": self.output.dim}))

    def __len__(self) -> int:
        return len(self.trees)
