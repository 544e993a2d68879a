"""What the page shows of one run: a frozen record of records and a few words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bilens.checks import whole
from bilens.decompose import TensorSVD
from bilens.errors import BilensError
from bilens.faithfulness import Curve, Score
from bilens.history import History
from bilens.tensor import BilinearTensor
from bilens.views import CodeComparison, Detail, Samples, View

WAYS: Mapping[str, tuple[str, str]] = {
    "digits": (
        "Output directions",
        "Each output of the model is a quadratic form xᵀQx of its input, and these are the eigenvectors of its Q:"
        " nothing but the weights was used. The output is the sum of the input's squared overlaps with them, each"
        " times its eigenvalue, so those with λ > 0 speak for the output and those with λ < 0 against it.",
    ),
    "sae": (
        "Features of the layer's outputs",
        "A sparse autoencoder learned, from data, a dictionary of directions in which each output of the layer "
        "can be written with few entries. Reading its codes with the pseudoinverse, in place of the trained "
        "encoder, keeps each code a quadratic form of the input, so that every feature has an exact kernel and "
        "eigenvectors of its own.",
    ),
    "svd": (
        "SVD of the tensor",
        "The layer is a tensor with one output axis and two input axes, and as a matrix of outputs × input pairs "
        "it has a singular value decomposition, found from the weights alone. Each component is a direction of "
        "the outputs with one kernel over the inputs, and the first K of them are the best summary of the weights"
        " of rank K.",
    ),
    "pairs": (
        "Features of input pairs",
        "The layer answers every two inputs i and j with a vector r_ij, which is what the pair brings about "
        "together, and a sparse autoencoder over all these vectors, again from the weights alone, finds "
        "directions that few pairs share. How strongly each pair takes part in a feature is itself a kernel over "
        "the inputs, drawn here.",
    ),
}
"""Titles and explanations of the four ways of reading features, by the name of their view."""


@dataclass(frozen=True, eq=False)
class Exploration:
    """Everything that the page shows of one run; every part but the title may be left out.

    Args:
        title: of the page; run: a short name of the run, for example its folder's.
        facts: about the model, text or numbers, in the order shown, for example {"accuracy": "97.8 %"}.
        model: input → centred logits as factors, which the page computes with.
        views: the ways of reading features. A view named as in `WAYS` is explained with the words there, and the view
            "digits" has the kernels of the model's outputs.
        details: more of each feature, by the name of its view.
        samples: inputs to look at the model with.
        scores: how faithful the model is when it runs through a view, by the name of what was run.
        curves: scores against how many components are kept; those with a certificate show it too.
        repeats: curves of the same names from further seeds, one tuple a seed, for intervals.
        codes: of the sparse coder, as trained and through the pseudoinverse.
        svd: for its singular values; history: of the training.
        notes: paragraphs to close with: settings, caveats, where the numbers come from.
        texts: (title, explanation) of further views by name, in place of `WAYS`.
        totals: of how many features those of a view are the most important, by the name of the view.
        eigenvectors: how many a feature keeps on the page; the features of the view "digits" keep all they have.

    Raises:
        BilensError: two views of one name, details of no view or of other features, a model over other outputs than
            the view "digits", or a count below 1.
    """

    title: str
    run: str = ""
    facts: Mapping[str, str | int | float] = field(default_factory=dict)
    model: BilinearTensor | None = None
    views: tuple[View, ...] = ()
    details: Mapping[str, Detail] = field(default_factory=dict)
    samples: Samples | None = None
    scores: Mapping[str, Score] = field(default_factory=dict)
    curves: tuple[Curve, ...] = ()
    repeats: Sequence[tuple[Curve, ...]] = ()
    codes: CodeComparison | None = None
    svd: TensorSVD | None = None
    history: History | None = None
    notes: tuple[str, ...] = ()
    texts: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    totals: Mapping[str, int] = field(default_factory=dict)
    eigenvectors: int = 16

    def __post_init__(self) -> None:
        names = [view.name for view in self.views]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise BilensError(f"two views named {twice[0]!r}", "views with different names", "rename one of them")
        eigenvectors = whole("eigenvectors", self.eigenvectors, 1)
        object.__setattr__(self, "eigenvectors", eigenvectors)
        lengths = {view.name: len(view) for view in self.views}
        for name, detail in self.details.items():
            if lengths.get(name) != len(detail):
                raise BilensError(
                    f"details of {len(detail)} features for the view {name!r}",
                    f"one for each of its {lengths.get(name, 0)}",
                    "pass the details of the same view",
                )
        for name, total in self.totals.items():
            if total < lengths.get(name, 0):
                raise BilensError(
                    f"a total of {total} for the {lengths[name]} features of the view {name!r}",
                    "at least as many as it shows",
                    "pass how many features there are in all",
                )
        if self.model is not None:
            for view in self.views:
                view.output.require(self.model.output, f"the view {view.name!r}")
            if self.samples is not None:
                self.samples.input.require(self.model.input.without_constant(), "a set of samples")
                self.samples.output.require(self.model.output, "a set of samples")
