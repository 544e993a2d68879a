"""Records that the page and the figures show: features, more of each, and samples to see them on."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from bilens.decompose import Spectrum
from bilens.errors import ShapeError
from bilens.space import Space


@dataclass(frozen=True, eq=False)
class View:
    """Some features of one kind, most important first.

    Args:
        name: of the kind, for file names and links, for example "svd".
        spectra: the top eigenpairs of each feature's kernel; a spectrum's label is the feature's.
        importance: (n,), by which the features are ordered; measure: what that number is, with its unit.
        effects: (n, o), what one unit of the feature adds to each (centred) output.
        output: the space of the outputs, for example the digits.

    Raises:
        ShapeError: the shapes do not fit together.
    """

    name: str
    spectra: tuple[Spectrum, ...]
    importance: Float[Tensor, " n"]
    measure: str
    effects: Float[Tensor, "n o"]
    output: Space

    def __post_init__(self) -> None:
        n = len(self.spectra)
        for name, value, shape in (
            ("importance", self.importance, (n,)),
            ("effects", self.effects, (n, self.output.dim)),
        ):
            if tuple(value.shape) != shape:
                raise ShapeError(f"{name} of shape {tuple(value.shape)}", f"{shape}")

    def __len__(self) -> int:
        return len(self.spectra)

    def raises(self, feature: int, count: int = 2) -> tuple[str, ...]:
        """Labels of the outputs that a feature raises most, largest first, at most `count`.

        Named are those that it raises by at least half of what it raises most and a quarter of its largest |effect|.
        Of more than two outputs, moving all but one alike is moving that one.
        """
        return self._named(self.effects[feature], count)

    def lowers(self, feature: int, count: int = 2) -> tuple[str, ...]:
        """Labels of the outputs that a feature lowers most, chosen like those of `raises`."""
        return self._named(-self.effects[feature], count)

    def speaks(self, feature: int, count: int = 2) -> str:
        """What a feature does to the outputs, its largest |effect| first: "against 4; for 7, 5"."""
        effect = self.effects[feature]
        parts = [
            f"{word} {', '.join(labels)}"
            for word, labels in (("for", self.raises(feature, count)), ("against", self.lowers(feature, count)))
            if labels
        ]
        if float(effect.max()) < -float(effect.min()):
            parts.reverse()
        return "; ".join(parts) or "moves no output"

    def _named(self, effect: Tensor, count: int) -> tuple[str, ...]:
        best = effect.argsort(descending=True)[:count].tolist()
        alike = effect > effect.max() - 1e-5 * effect.abs().max()
        if len(effect) > 2 and int(alike.sum()) == len(effect) - 1:
            return ()
        least = max(float(effect.max()) / 2, float(effect.abs().max()) / 4)
        return tuple(self.output.label(o) for o in best if float(effect[o]) >= least > 0)


@dataclass(frozen=True, eq=False)
class Detail:
    """What a page shows of each feature of a view beyond its first eigenvectors, measured while all are at hand.

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

    def __post_init__(self) -> None:
        n, dim = self.eigenvalues.shape
        wanted: list[tuple[str, Tensor | None, tuple[int, ...]]] = [
            ("pairs", self.pairs, (n, self.strengths.shape[-1], 2)),
            ("strengths", self.strengths, (n, self.strengths.shape[-1])),
            ("errors", self.errors, (n, dim)),
        ]
        if self.samples is not None:
            wanted += [("samples", self.samples, (n, self.samples.shape[-1]))]
            wanted += [("responses", self.responses, (n, self.samples.shape[-1]))]
        for name, value, shape in wanted:
            if value is not None and tuple(value.shape) != shape:
                raise ShapeError(f"{name} of shape {tuple(value.shape)}", f"{shape}")

    def __len__(self) -> int:
        return len(self.eigenvalues)


@dataclass(frozen=True, eq=False)
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

    def __post_init__(self) -> None:
        m = len(self.inputs)
        for name, value, shape in (
            ("inputs", self.inputs, (m, self.input.size)),
            ("numbers", self.numbers, (m,)),
            ("outputs", self.outputs, (m, self.output.dim)),
            ("labels", self.labels, (m,)),
        ):
            if value is not None and tuple(value.shape) != shape:
                raise ShapeError(f"{name} of shape {tuple(value.shape)}", f"{shape}", "pass one sample per row")

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True, eq=False)
class CodeComparison:
    """Codes of the same features on the same samples, once as trained (ReLU) and once through the pseudoinverse.

    Args:
        trained: (n,), codes of the sparse coder; pseudoinverse: (n,), the codes (Aᵀ)⁺(y − b) beside them.
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

    def __post_init__(self) -> None:
        if self.trained.shape != self.pseudoinverse.shape or self.trained.ndim != 1:
            raise ShapeError(
                f"codes of shape {tuple(self.trained.shape)} and {tuple(self.pseudoinverse.shape)}",
                "two lists of one length",
            )


@dataclass(frozen=True, eq=False)
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

    def __post_init__(self) -> None:
        if tuple(self.x.shape) != (self.spectrum.input.size,):
            raise ShapeError(f"a sample of shape {tuple(self.x.shape)}", f"({self.spectrum.input.size},)")

    @property
    def terms(self) -> Float[Tensor, " k"]:
        """λ_k (v_k·x')² of the pairs shown."""
        return self.spectrum.terms(self.x)

    @property
    def rest(self) -> float:
        """The sum of the terms that are not shown."""
        return self.total - float(self.terms.sum())
