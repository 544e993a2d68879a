"""What a page is made of: a frozen record of records and a few words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bilens.decompose import TensorSVD
from bilens.errors import BilensError
from bilens.faithfulness import Curve, Score
from bilens.history import History
from bilens.views import CodeComparison, View

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
class Report:
    """Everything a page shows; every part but the title may be left out.

    Args:
        title: of the page.
        summary: facts about the model, text or numbers, in the order shown, for example {"accuracy": "97.8 %"}.
        views: the ways of reading features. A view named as in `WAYS` is explained with the words there.
        scores: how faithful the model is when it runs through a view, by the name of what was run.
        curves: scores against how many components are kept; those with a certificate show it too.
        codes: of the sparse coder, as trained and through the pseudoinverse; shown with the view "sae".
        svd: shown with the view "svd"; history: of the training, shown last.
        notes: paragraphs to close with: settings, caveats, where the numbers come from.
        texts: (title, explanation) of further views by name, in place of `WAYS`.
        features: how many features of each view to show; the others are left out and counted.
        eigenvectors: how many of each sign a feature shows.

    Raises:
        BilensError: two views of one name, or a count below 1.
    """

    title: str
    summary: Mapping[str, str | int | float] = field(default_factory=dict)
    views: tuple[View, ...] = ()
    scores: Mapping[str, Score] = field(default_factory=dict)
    curves: tuple[Curve, ...] = ()
    codes: CodeComparison | None = None
    svd: TensorSVD | None = None
    history: History | None = None
    notes: tuple[str, ...] = ()
    texts: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    features: int = 24
    eigenvectors: int = 4

    def __post_init__(self) -> None:
        names = [view.name for view in self.views]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise BilensError(f"two views named {twice[0]!r}", "views with different names", "rename one of them")
        for name in ("features", "eigenvectors"):
            if getattr(self, name) < 1:
                raise BilensError(f"{name} = {getattr(self, name)}", f"{name} ≥ 1", "show at least one")
