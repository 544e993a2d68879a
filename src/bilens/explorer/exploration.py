"""What the page shows of one run: a frozen record of records and a few words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from bilens.checks import instance, whole
from bilens.decompose import TensorSVD
from bilens.errors import BilensError
from bilens.faithfulness import Curve, Row
from bilens.history import History
from bilens.tensor import BilinearTensor
from bilens.views import CodeComparison, Detail, Samples, View

_SAME = 1e-3
"""Eigenvalues and the model's own are the same when they differ by less than this share of ‖Q‖: stored in float32."""


@dataclass(frozen=True)
class Words:
    """What the page calls a view.

    Args:
        title: of the view; text: what its features are, in a paragraph.
        feature: what one of them is called, before its label: "Component" for "Component 3".
        tab: a shorter title; the title itself when empty.
        among: what they were chosen from, for "the 24 most important of 300 components".
    """

    title: str
    text: str
    feature: str = "Feature"
    tab: str = ""
    among: str = "features"


WAYS: Mapping[str, Words] = {
    "sae": Words(
        "Features of the layer's outputs",
        "A sparse autoencoder learned, from data, a dictionary of directions in which each output of the layer "
        "can be written with few entries. Its codes are read with the pseudoinverse instead of the trained "
        "encoder, which keeps each code a quadratic form of the input, so that every feature has an exact kernel and "
        "eigenvectors of its own.",
        "SAE feature",
        "SAE on outputs",
        "active features",
    ),
    "svd": Words(
        "SVD of the tensor",
        "The layer is a tensor with one output axis and two input axes, and as a matrix of outputs × input pairs "
        "it has a singular value decomposition, found from the weights alone. Each component is a direction of "
        "the outputs with one kernel over the inputs, and the first K of them are the best summary of the weights"
        " of rank K.",
        "Component",
        "SVD",
        "components",
    ),
    "pairs": Words(
        "Features of input pairs",
        "The layer answers every two inputs i and j with a vector r_ij, which is what the pair brings about "
        "together, and a sparse autoencoder over all these vectors, again from the weights alone, finds "
        "directions that few pairs share. How strongly each pair takes part in a feature is itself a kernel over "
        "the inputs, drawn here.",
        "Pair feature",
        "SAE on pairs",
    ),
}
"""What the main job's views are called, by name. The view of the outputs is called after its output space."""

_OUTPUTS = (
    "Each {one} is a quadratic form xᵀQx of the input, and these are the eigenvectors of its Q: nothing but the "
    "weights was used. The output is the sum of the input's squared overlaps with them, each times its eigenvalue, so "
    "those with λ > 0 speak for the {one} and those with λ < 0 against it."
)


@dataclass(frozen=True, eq=False)
class Exploration:
    """Everything that the page shows of one run; every part but the title may be left out.

    Args:
        title: of the page; run: a short name of the run, for example its folder's.
        facts: about the model, text or numbers, in the order shown, for example {"accuracy": "97.8 %"}.
        model: input → centred logits as factors, which the page computes with.
        views: the ways of reading features. A view named as in `WAYS` is explained with the words there.
        outputs: the name of the view whose features are the kernels of the model's outputs, in their order, so that
            the page can take outputs apart. When None it is looked for: a model's own kernels are recognised.
        details: more of each feature, by the name of its view.
        samples: inputs to look at the model with.
        scores: how faithful the model is when it is replaced by a view, and by the nulls and rivals beside it.
        curves: scores against how many components are kept; those with a certificate show it too.
        repeats: curves of the same names from further seeds, one tuple per seed, for intervals.
        codes: of the sparse coder, as trained and through the pseudoinverse.
        svd: for its singular values; history: of the training.
        notes: paragraphs to close with: settings, caveats, where the numbers come from.
        texts: what views are called, by name, instead of `WAYS`.
        totals: of how many features those of a view are the most important, by the name of the view.
        eigenvectors: how many a feature keeps on the page; the features of the outputs' view keep all they have.

    Raises:
        BilensError: two views or two scores of one name, details of no view or of other features, a null or a rival
            beside a score that is not there, an outputs' view that is not there or has other kernels than the model,
            or a count below 1.
    """

    title: str
    run: str = ""
    facts: Mapping[str, str | int | float] = field(default_factory=dict)
    model: BilinearTensor | None = None
    views: tuple[View, ...] = ()
    details: Mapping[str, Detail] = field(default_factory=dict)
    samples: Samples | None = None
    scores: tuple[Row, ...] = ()
    curves: tuple[Curve, ...] = ()
    repeats: Sequence[tuple[Curve, ...]] = ()
    codes: CodeComparison | None = None
    svd: TensorSVD | None = None
    history: History | None = None
    notes: tuple[str, ...] = ()
    texts: Mapping[str, Words] = field(default_factory=dict)
    totals: Mapping[str, int] = field(default_factory=dict)
    eigenvectors: int = 16
    outputs: str | None = None

    def __post_init__(self) -> None:
        for what, names in (
            ("views", [view.name for view in self.views]),
            ("scores", [row.name for row in self.scores]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise BilensError(f"two {what} named {twice[0]!r}", "different names", "rename one of them")
        for row in self.scores:
            if row.beside is not None and row.beside not in names:
                raise BilensError(f"{row.name!r} beside {row.beside!r}", f"a score beside one of {', '.join(names)}")
        for name, words in self.texts.items():
            instance(f"the text of {name!r}", words, Words)
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
        if self.outputs is not None:
            self._check_outputs(self.outputs)

    @property
    def outputs_view(self) -> View | None:
        """The view whose features are the kernels of the model's outputs, in their order: named, or recognised."""
        if self.outputs is not None:
            return next(view for view in self.views if view.name == self.outputs)
        model = self.model
        return None if model is None else next((view for view in self.views if _of_outputs(view, model)), None)

    def words(self, view: View) -> Words:
        """What a view is called: as told, as in `WAYS`, after its output space where it has the outputs' kernels."""
        known = self.texts.get(view.name) or WAYS.get(view.name)
        if view is self.outputs_view:
            one = singular(view.output.name)
            name = one[:1].upper() + one[1:]
            if known is None:
                many = view.output.name
                return Words(f"{name} directions", _OUTPUTS.format(one=one), name, many[:1].upper() + many[1:], many)
            return replace(known, feature=name) if known.feature == Words.feature else known
        return known or Words(view.name, "")

    def _check_outputs(self, name: str) -> None:
        found = next((view for view in self.views if view.name == name), None)
        if found is None:
            listed = ", ".join(view.name for view in self.views) or "none"
            raise BilensError(f"an outputs' view {name!r}", f"one of the views ({listed})")
        if len(found) != found.output.dim or (self.model is not None and not _of_outputs(found, self.model)):
            raise BilensError(
                f"an outputs' view {name!r} with other kernels than the model's outputs",
                "the eigenpairs of model.kernel(o), one for each output o, in their order",
                "leave outputs= out if it is another view",
            )


_UNCHANGED = re.compile(r"(ss|species|series)$", re.IGNORECASE)


def singular(name: str) -> str:
    """What one coordinate of a space is called: "digit" for digits, "class" for classes."""
    if re.search(r"(ss|x|ch|sh)es$", name, re.IGNORECASE):
        return name[:-2]
    return name[:-1] if name.endswith("s") and not _UNCHANGED.search(name) else name


def _of_outputs(view: View, model: BilinearTensor) -> bool:
    """Whether the features of a view are the model's outputs: vᵀQ_o v = λ for every eigenpair of its o-th feature."""
    if len(view) != model.output.dim or any(spectrum.input != model.input for spectrum in view.spectra):
        return False
    for o, spectrum in enumerate(view.spectra):
        v, factors = spectrum.vectors.double(), (model.left.double(), model.right.double())
        values = ((v @ factors[0].T) * (v @ factors[1].T)) @ model.down[o].double()
        off = float((values - spectrum.values.double()).abs().max()) if len(spectrum) else 0.0
        if off > _SAME * float(spectrum.energy) ** 0.5:
            return False
    return True
