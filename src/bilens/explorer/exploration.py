"""What the page shows of one run: a frozen record of records and a few words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bilens._internal.checks import whole
from bilens._internal.shown import line
from bilens.deep import DeepTensor
from bilens.errors import BilensError
from bilens.faithfulness import Curve, Row
from bilens.features import FeatureSet, Samples, TreeSet, table
from bilens.history import History
from bilens.tensor import BilinearTensor

_SAME = 1e-3
"""Eigenvalues and the model's own are the same when they differ by less than this share of ‖Q‖: stored in float32."""


@dataclass(frozen=True, eq=False, repr=False)
class Exploration:
    """Everything that the page shows of one run; every part but the title may be left out.

    Args:
        title: of the page; run: a short name of the run, for example its folder's.
        facts: about the model, text or numbers, in the order shown, for example {"accuracy": "97.8 %"}.
        model: input → outputs as factors, one layer or several, centred where they are logits, which the page computes
            with.
        logits: whether the outputs are the logits of classes, so that the page may speak of probabilities.
        features: the sets of features, in the order shown, each with its names, texts, details, scores and curves.
        trees: the outputs of a network of two layers as trees of templates.
        samples: inputs to look at the model with.
        scores: rows of the table of faithfulness besides those of the sets, for example the model itself. Where a set
            has a row of the same name, this one is shown.
        curves: scores against how many components are kept, besides those of the sets.
        repeats: curves of the same names from further seeds, one tuple per seed, for intervals.
        history: of the training.
        notes: paragraphs to close with, before those of the sets: settings, caveats, where the numbers come from.
        eigenvectors: how many a feature keeps on the page; features that are the model's outputs keep all they have.

    Raises:
        BilensError: two sets or two scores of one name, a null or a rival beside a score that is not there, a set that
            says it has the outputs and has other kernels than the model, or a count below 1.
    """

    title: str
    run: str = ""
    facts: Mapping[str, str | int | float] = field(default_factory=dict)
    model: BilinearTensor | DeepTensor | None = None
    logits: bool = False
    features: tuple[FeatureSet, ...] = ()
    trees: TreeSet | None = None
    samples: Samples | None = None
    scores: tuple[Row, ...] = ()
    curves: tuple[Curve, ...] = ()
    repeats: Sequence[tuple[Curve, ...]] = ()
    history: History | None = None
    notes: tuple[str, ...] = ()
    eigenvectors: int = 16

    __repr__ = line

    def __post_init__(self) -> None:
        for what, names in (
            ("sets", [found.name for found in self.features]),
            ("scores", [row.name for row in self.scores]),
            ("scores", [row.name for found in self.features for row in found.scores]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise BilensError(f"two {what} named {twice[0]!r}", "different names", "rename one of them")
        known = [row.name for row in self.all_scores]
        for row in self.all_scores:
            if row.beside is not None and row.beside not in known:
                raise BilensError(f"{row.name!r} beside {row.beside!r}", f"a score beside one of {', '.join(known)}")
        object.__setattr__(self, "eigenvectors", whole("eigenvectors", self.eigenvectors, 1))
        if self.model is None:
            return
        for found in self.features:
            found.output.require(self.model.output, f"the set {found.name!r}")
            if found.are_outputs and not (isinstance(self.model, BilinearTensor) and _of_outputs(found, self.model)):
                raise BilensError(
                    f"a set {found.name!r} with other kernels than the model's outputs",
                    "the eigenpairs of model.kernel(o), one for each output o, in their order",
                    "leave are_outputs= out if it holds other features",
                )
        if self.trees is not None:
            self.trees.output.require(self.model.output, "trees")
            self.trees.input.require(self.model.input, "trees")
        if self.samples is not None:
            self.samples.input.require(self.model.input.without_constant(), "a set of samples")
            self.samples.output.require(self.model.output, "a set of samples")

    @property
    def all_scores(self) -> tuple[Row, ...]:
        """The table of faithfulness: the rows of the page, then those of the sets and their rivals."""
        own = {row.name for row in self.scores}
        found = (*(() if self.trees is None else self.trees.scores), *table(self.features, None))
        return (*self.scores, *(row for row in found if row.name not in own))

    @property
    def all_curves(self) -> tuple[Curve, ...]:
        """The curves of the trees and the sets, then those of the page."""
        sets = (*(() if self.trees is None else (self.trees,)), *self.features)
        return (*(curve for found in sets for curve in found.curves), *self.curves)

    @property
    def outputs(self) -> FeatureSet | None:
        """The set that holds the model's outputs, in their order: it says so, or its kernels are the model's."""
        stated = next((found for found in self.features if found.are_outputs), None)
        if stated is not None or not isinstance(self.model, BilinearTensor):
            return stated
        return next((found for found in self.features if _of_outputs(found, self.model)), None)


def _of_outputs(found: FeatureSet, model: BilinearTensor) -> bool:
    """Whether the features of a set are the model's outputs: vᵀQ_o v = λ for every eigenpair of its o-th feature."""
    if len(found) != model.output.dim or any(spectrum.input != model.input for spectrum in found.spectra):
        return False
    for o, spectrum in enumerate(found.spectra):
        v, factors = spectrum.vectors.double(), (model.left.double(), model.right.double())
        values = ((v @ factors[0].T) * (v @ factors[1].T)) @ model.down[o].double()
        off = float((values - spectrum.values.double()).abs().max()) if len(spectrum) else 0.0
        if off > _SAME * float(spectrum.energy) ** 0.5:
            return False
    return True
