"""The records: features with all that the summary, the figures and the page show of them, and samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from bilens._internal import checks, shown
from bilens._internal.checks import instance, whole
from bilens._internal.shown import line
from bilens.decompose import Spectrum
from bilens.errors import BilensError
from bilens.faithfulness import Curve, Row
from bilens.space import Space


@dataclass(frozen=True, eq=False, repr=False)
class Detail:
    """What is shown of each feature of a set beyond its first eigenvectors, measured while all are at hand.

    Args:
        eigenvalues: (n, i), all of each kernel's, largest |λ| first.
        pairs: (n, p, 2), the two coordinates of the strongest input pairs, i ≤ j, the constant left out; strengths:
            (n, p), what each adds to the feature where both are 1: Q_ii, and 2 Q_ij for i < j.
        samples: (n, s), numbers of the samples on which the feature is largest and then, from the middle of the row
            on, smallest; responses: (n, s), xᵀQx on them. None without samples, like the next two.
        errors: (n, i), the largest |xᵀQx − Σ_{first k} λ(v·x)²| over the samples, at k = 1 … i.
        norm: the largest ‖x'‖ over the samples, so that |λ_{k+1}| · norm² bounds the errors.
        examined: how many samples were looked at.

    Raises:
        ShapeError: the shapes do not fit together.
    """

    eigenvalues: Float[Tensor, "n i"]
    pairs: Int[Tensor, "n p 2"]
    strengths: Float[Tensor, "n p"]
    samples: Int[Tensor, "n s"] | None = None
    responses: Float[Tensor, "n s"] | None = None
    errors: Float[Tensor, "n i"] | None = None
    norm: float | None = None
    examined: int = 0

    __repr__ = line

    def __post_init__(self) -> None:
        checks.shapes(self)

    def __len__(self) -> int:
        return len(self.eigenvalues)


@dataclass(frozen=True, eq=False, repr=False)
class Chart:
    """Lines that belong to a set of features and to no feature alone, for example singular values by rank.

    Args:
        title: of the figure; note: a sentence below it.
        x: what the lines are against; at: (n,), where they were measured.
        columns: a name for each line; values: (n, c), with their numbers.
        drawn: how many of the lines are drawn, the first ones; the table of the figure has them all.
        log: whether the vertical axis is logarithmic.
        level: a horizontal line, for example where rounding begins; None for none. It is called `level_name`.

    Raises:
        ShapeError: the shapes do not fit together. BilensError: no column, or none that is drawn.
    """

    title: str
    x: str
    at: Float[Tensor, " n"]
    columns: tuple[str, ...]
    values: Float[Tensor, "n c"]
    note: str = ""
    drawn: int = 1
    log: bool = False
    level: float | None = None
    level_name: str = ""

    __repr__ = line

    def __post_init__(self) -> None:
        columns = checks.several("columns", self.columns, "a name for each line", "pass (name,)")
        checks.shapes(self, c=len(columns))
        if whole("drawn", self.drawn, 1) > len(self.columns):
            raise BilensError(f"{self.drawn} lines drawn of {len(self.columns)}", "at most as many as there are")


@dataclass(frozen=True, eq=False, repr=False)
class CodeComparison:
    """Codes of the same features on the same samples, once as trained (ReLU) and once through the pseudoinverse.

    Args:
        trained: (n,), codes of the SAE; pseudoinverse: (n,), the codes (Aᵀ)⁺(y − b) beside them.
        correlation: Pearson's, over all samples and features, not only the points kept here.
        features: how many features were compared; threshold: a feature counts as active when it is not 0 on more than
            this share of the samples.
        rank: of those atoms.
        samples: on how many samples they were compared; None where that is not known.

    Raises:
        ShapeError: columns of different lengths.
    """

    trained: Float[Tensor, " n"]
    pseudoinverse: Float[Tensor, " n"]
    correlation: float
    features: int
    threshold: float
    rank: int
    samples: int | None = None

    __repr__ = line

    def __post_init__(self) -> None:
        checks.shapes(self)


@dataclass(frozen=True, eq=False, repr=False)
class Samples:
    """Some inputs to look at a model with, and what the model says of them.

    Args:
        inputs: (m, d), one per row; numbers: (m,), their places in the set that they come from.
        outputs: (m, o), the (centred) logits of the model; labels: (m,), true classes, or None.
        input, output: the spaces of both.

    Raises:
        ShapeError: the shapes do not fit together.
    """

    inputs: Float[Tensor, "m d"]
    numbers: Int[Tensor, " m"]
    outputs: Float[Tensor, "m o"]
    labels: Int[Tensor, " m"] | None
    input: Space
    output: Space

    __repr__ = line

    def __post_init__(self) -> None:
        checks.fields(self)
        checks.shapes(self, d=self.input.size, o=self.output.dim)

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """A number of one sample as a sum of eigenvector terms: total = Σ_k λ_k (v_k·x')² + the terms left out.

    Args:
        title: what the number is and for which sample.
        x: (d,), the sample; spectrum: the pairs whose terms are shown, whatever their order.
        total: the sum over all pairs, for example a logit or the margin between two.

    Raises:
        ShapeError: the sample is not one of the spectrum's input space.
    """

    title: str
    x: Float[Tensor, " d"]
    spectrum: Spectrum
    total: float

    __repr__ = line

    def __post_init__(self) -> None:
        checks.fields(self)
        checks.shapes(self, d=self.spectrum.input.size)

    @property
    def terms(self) -> Float[Tensor, " k"]:
        """λ_k (v_k·x')² of the pairs shown."""
        return self.spectrum.terms(self.x)

    @property
    def rest(self) -> float:
        """The sum of the terms that are not shown."""
        return self.total - float(self.terms.sum())


@dataclass(frozen=True, eq=False, repr=False)
class FeatureSet:
    """What one analysis found: some features of one kind, most important first, and all that is said of them.

    The run's folder, its summary, the figures and the page take names, titles, explanations and order from here and
    from nowhere else, so that a new analysis needs no line in any of them.

    Args:
        name: of the set, in file names, links and the summary, for example "svd".
        spectra: the top eigenpairs of each feature's kernel; a spectrum's label is the feature's.
        importance: (n,), by which the features are ordered; measure: what that number is, with its unit.
        effects: (n, o), what one unit of the feature adds to each (centred) output.
        output: the space of the outputs, for example the digits.
        title: the set's title, its name when empty; tab: a shorter one, the title when empty; text: what the features
            are, in a paragraph.
        feature: what one of them is called, before its label: "Component" for "Component 3".
        among: what they were chosen from, for "the 24 most important of 300 components"; total: how many of these
            there are, None where that is not known.
        are_outputs: whether the features are the kernels of the model's outputs, in their order, so that an output can
            be taken apart with them.
        detail: more of each feature.
        curves: scores against how many of the features are kept, and nulls beside them.
        scores: the model replaced by what the features keep, and nulls beside it. Each score has its number of samples.
        rivals: other sets by name, with how many of their components are compared with the first of `scores`.
        numbers: for the summary, by name: numbers, texts, lists of these, and mappings of them.
        notes: paragraphs on how the features were found and how far they can be trusted.
        charts, codes: more to draw, each by the name of its file.
        words: what a reader may not know, by word, for the page's glossary.
        order: the place among the sets of a run, smallest first.

    Raises:
        ShapeError: the shapes do not fit together. BilensError: no name, two scores of one name, or a total below the
            number of features.
    """

    name: str
    spectra: tuple[Spectrum, ...]
    importance: Float[Tensor, " n"]
    measure: str
    effects: Float[Tensor, "n o"]
    output: Space
    title: str = ""
    text: str = ""
    tab: str = ""
    feature: str = "Feature"
    among: str = "features"
    total: int | None = None
    are_outputs: bool = False
    detail: Detail | None = None
    curves: tuple[Curve, ...] = ()
    scores: tuple[Row, ...] = ()
    rivals: Mapping[str, int] = field(default_factory=dict)
    numbers: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    charts: Mapping[str, Chart] = field(default_factory=dict)
    codes: Mapping[str, CodeComparison] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    order: int = 0

    __repr__ = line

    def __post_init__(self) -> None:
        checks.fields(self)
        instance("name", self.name, str, "a text")
        if not self.name:
            raise BilensError("a set of features without a name", "one for file names and links")
        n = len(checks.several("spectra", self.spectra, "a list of spectra", "pass (spectrum,)"))
        checks.shapes(self, n=n, o=self.output.dim)
        if self.detail is not None:
            instance("detail", self.detail, Detail)
        object.__setattr__(self, "are_outputs", checks.flag("are_outputs", self.are_outputs))
        if self.detail is not None and len(self.detail) != n:
            raise BilensError(
                f"details of {len(self.detail)} features for {self.name!r}",
                f"one for each of its {n}",
                "pass the details of the same features",
            )
        if self.total is not None and self.total < n:
            raise BilensError(
                f"a total of {self.total} for the {n} features of {self.name!r}",
                "at least as many as it holds",
                "pass how many features there are in all",
            )
        if self.are_outputs and n != self.output.dim:
            raise BilensError(f"{n} features that are the {self.output.dim} outputs", "one for each output")

    def __len__(self) -> int:
        return len(self.spectra)

    def _repr_html_(self) -> str:
        """The features by importance, with what each does to the outputs, for a notebook."""
        rows = [
            (self.spectra[n].label or str(n), float(self.importance[n]), self.speaks(n))
            for n in range(min(len(self), shown.ROWS))
        ]
        return shown.bars(self.heading, rows, len(self), self.measure)

    @property
    def heading(self) -> str:
        """The title, or the name where there is none."""
        return self.title or self.name

    def raises(self, feature: int, count: int = 2) -> tuple[str, ...]:
        """Labels of the outputs that a feature raises most, largest first, at most `count`.

        Named are those that it raises by at least half of what it raises most and a quarter of its largest |effect|.
        Of more than two outputs, moving all but one alike is moving that one.
        """
        return self._named(self._effect(feature), count)

    def lowers(self, feature: int, count: int = 2) -> tuple[str, ...]:
        """Labels of the outputs that a feature lowers most, chosen like those of `raises`."""
        return self._named(-self._effect(feature), count)

    def speaks(self, feature: int, count: int = 2) -> str:
        """What a feature does to the outputs, its largest |effect| first: "against 4; for 7, 5"."""
        effect = self._effect(feature)
        parts = [
            f"{word} {', '.join(labels)}"
            for word, labels in (("for", self.raises(feature, count)), ("against", self.lowers(feature, count)))
            if labels
        ]
        if float(effect.max()) < -float(effect.min()):
            parts.reverse()
        return "; ".join(parts) or "moves no output"

    def _effect(self, feature: int) -> Tensor:
        return self.effects[whole("feature", feature, 0, len(self) - 1)]

    def _named(self, effect: Tensor, count: int) -> tuple[str, ...]:
        count = whole("count", count, 1)
        best = effect.argsort(descending=True)[:count].tolist()
        alike = effect > effect.max() - 1e-5 * effect.abs().max()
        if len(effect) > 2 and int(alike.sum()) == len(effect) - 1:
            return ()
        least = max(float(effect.max()) / 2, float(effect.abs().max()) / 4)
        return tuple(self.output.label(o) for o in best if float(effect[o]) >= least > 0)
