"""From records to the plain data of the page, ready for JSON: `docs/explorer-format.md` and `schema.json` describe it.

The typed dictionaries here are that schema in Python. Texts are plain text, never markup; the page alone decides how
numbers and texts are shown, and it knows nothing of records.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from bilens import plots
from bilens.decompose import Spectrum
from bilens.errors import BilensError
from bilens.explorer.encoding import Array, finite, floats, listed, pixels, shorts
from bilens.explorer.exploration import Exploration, singular
from bilens.faithfulness import Curve, Kind, Row
from bilens.space import Space
from bilens.statistics import interval
from bilens.views import CodeComparison, Detail, Samples, View

FORMAT = 2
"""Version of the layout; the page refuses another one."""

_BINS = 48


class Axis(TypedDict):
    """A space: its name, what `one` coordinate is called, its size, a label for each coordinate, the image's height and
    width, and whether 1 is appended.
    """

    name: str
    one: str
    size: int
    labels: list[str] | None
    image: list[int] | None
    constant: bool


class Model(TypedDict):
    """Input → outputs as factors: y_o = Σ_h down_oh (left_h·x')(right_h·x')."""

    left: Array
    right: Array
    down: Array


class SampleSet(TypedDict):
    """Inputs, their numbers in the set that they come from, the library's outputs, true classes where known."""

    inputs: Array
    numbers: list[int]
    outputs: Array
    labels: list[int] | None


class Pair(TypedDict):
    """An input pair i ≤ j and what it adds to the feature where both are 1."""

    i: int
    j: int
    strength: float


class Seen(TypedDict):
    """A sample, by its place in the sample set, −1 where it is not there, its number, and the feature's value on it."""

    sample: int
    number: int
    value: float


class Feature(TypedDict):
    """One feature: xᵀQx = Σ λ (v·x')².

    `eigenvalues` has all λ, or the first ones and then `discarded` > 0, the largest |λ| of the others; `vectors` the
    first eigenvectors, one a row; `energy` is ‖Q‖², `residual` the largest ‖Qv − λv‖ / |λ₁| of the vectors. `errors`
    has the largest error of the first k = 1 … pairs over the `examined` samples, whose largest norm is `norm`.
    """

    label: str
    importance: float
    effects: list[float]
    speaks: str
    raises: list[str]
    lowers: list[str]
    eigenvalues: Array
    vectors: Array
    energy: float
    discarded: float
    residual: float
    pairs: list[Pair]
    largest: list[Seen]
    smallest: list[Seen]
    errors: Array | None


class Section(TypedDict):
    """One way of reading features, most important first; `total` is of how many `among`, where known.

    `feature` is what one of them is called, before its label.
    """

    name: str
    title: str
    tab: str
    feature: str
    among: str
    text: str
    measure: str
    norm: float | None
    examined: int
    total: int | None
    input: Axis
    features: list[Feature]


class Line(TypedDict):
    """Scores against components kept: means over seeds with half-widths of 95 % intervals, None for one seed.

    `samples` is how many samples each point was measured on, and `numbers` how many numbers it stores, None where that
    is not known; `beside` names the line that this one, a null or a rival, is to be compared with.
    """

    name: str
    beside: str | None
    seeds: int
    samples: int | None
    kept: list[int]
    numbers: list[int] | None
    accuracy: list[float]
    cross_entropy: list[float]
    recovered: list[float] | None
    accuracy_half: list[float] | None
    cross_entropy_half: list[float] | None
    recovered_half: list[float] | None
    error: list[float] | None
    bound: list[float] | None


class ScoreRow(TypedDict):
    """A line of the table of faithfulness: shares from 0 to 1, cross-entropy in nats.

    A null or a rival comes after the line that it is `beside`.
    """

    name: str
    kind: Kind
    beside: str | None
    samples: int | None
    numbers: int | None
    accuracy: float
    cross_entropy: float
    recovered: float | None


class Codes(TypedDict):
    """Codes as trained (x) and through the pseudoinverse (y), counted in bins × bins cells, x first."""

    correlation: float
    features: int
    rank: int
    threshold: float
    samples: int | None
    low: list[float]
    high: list[float]
    bins: int
    counts: list[list[int]]


class Table(TypedDict):
    """Columns by name against a first one."""

    columns: list[str]
    rows: list[list[float]]


class Fact(TypedDict):
    """A line of the summary."""

    name: str
    value: str | float


class Run(TypedDict):
    """Everything about one run; `outputs_view` names the view whose features are the model's outputs."""

    name: str
    title: str
    facts: list[Fact]
    input: Axis | None
    output: Axis | None
    model: Model | None
    samples: SampleSet | None
    outputs_view: str | None
    views: list[Section]
    scores: list[ScoreRow]
    curves: list[Line]
    singular_values: list[float] | None
    singular_energy: float | None
    codes: Codes | None
    training: Table | None
    notes: list[str]


class Document(TypedDict):
    """The whole page: one run, or two to compare; `palette` is the diverging scale, from −1 to 1, of "#rrggbb"."""

    format: int
    palette: list[str]
    runs: list[Run]


def document(runs: Sequence[Exploration]) -> Document:
    """The plain data of a page: `json.dumps(document(runs), allow_nan=False)` works.

    Raises:
        BilensError: NaN or infinity anywhere, no run or more than two.
    """
    if not 1 <= len(runs) <= 2:
        raise BilensError(f"{len(runs)} runs", "one, or two to compare")
    return {"format": FORMAT, "palette": list(plots.PATTERN), "runs": [_run(run) for run in runs]}


def _run(run: Exploration) -> Run:
    view = run.views[0] if run.views else None
    space = run.model.input if run.model is not None else view.spectra[0].input if view and len(view) else None
    output = run.model.output if run.model is not None else view.output if view else None
    logits = run.outputs_view
    places = {} if run.samples is None else {n: place for place, n in enumerate(run.samples.numbers.tolist())}
    svd = run.svd
    return {
        "name": _text(run.run),
        "title": _text(run.title),
        "facts": [
            {"name": _text(name), "value": _text(value) if isinstance(value, str) else finite(name, value)}
            for name, value in run.facts.items()
        ],
        "input": None if space is None else _axis(space),
        "output": None if output is None else _axis(output),
        "model": None
        if run.model is None
        else {
            "left": floats("the model", run.model.left),
            "right": floats("the model", run.model.right),
            "down": floats("the model", run.model.down),
        },
        "samples": None if run.samples is None else _samples(run.samples),
        "outputs_view": None if logits is None else _text(logits.name),
        "views": [_section(run, view, places, whole=view is logits) for view in run.views],
        "scores": [_score(row) for row in _in_order(run.scores)],
        "curves": [_line(curve, run.repeats) for curve in run.curves],
        "singular_values": None if svd is None else listed("singular values", svd.values),
        "singular_energy": None if svd is None else finite("energy", float(svd.energy)),
        "codes": None if run.codes is None else _codes(run.codes),
        "training": None
        if run.history is None
        else {
            "columns": ["step", *(_text(name) for name in run.history.names)],
            "rows": [
                [step, *listed(", ".join(run.history.names), row)]
                for step, row in zip(run.history.steps.tolist(), run.history.values, strict=True)
            ],
        },
        "notes": [_text(note) for note in run.notes],
    }


def _score(row: Row) -> ScoreRow:
    score = row.score
    return {
        "name": _text(row.name),
        "kind": row.kind,
        "beside": None if row.beside is None else _text(row.beside),
        "samples": score.samples,
        "numbers": row.numbers,
        "accuracy": finite(row.name, score.accuracy),
        "cross_entropy": finite(row.name, score.cross_entropy),
        "recovered": None if score.recovered is None else finite(row.name, score.recovered),
    }


def _in_order(rows: Sequence[Row]) -> list[Row]:
    """The rows in their order, but each null and rival after the row that it is beside."""
    ordered: list[Row] = []

    def add(row: Row) -> None:
        ordered.append(row)
        for other in rows:
            if other.beside == row.name and other not in ordered:
                add(other)

    for row in rows:
        if row.beside is None:
            add(row)
    return ordered + [row for row in rows if row not in ordered]


def _section(run: Exploration, view: View, places: dict[int, int], *, whole: bool) -> Section:
    words = run.words(view)
    detail = run.details.get(view.name)
    count = max((len(spectrum) for spectrum in view.spectra), default=1) if whole else run.eigenvectors
    return {
        "name": _text(view.name),
        "title": _text(words.title),
        "tab": _text(words.tab or words.title),
        "feature": _text(words.feature),
        "among": _text(words.among),
        "text": _text(words.text),
        "measure": _text(view.measure),
        "norm": None if detail is None or detail.norm is None else finite("norm", detail.norm),
        "examined": 0 if detail is None else detail.examined,
        "total": run.totals.get(view.name),
        "input": _axis(view.spectra[0].input if len(view) else Space("input", 1)),
        "features": [_feature(view, place, detail, places, count) for place in range(len(view))],
    }


def _feature(view: View, place: int, detail: Detail | None, places: dict[int, int], count: int) -> Feature:
    spectrum = view.spectra[place]
    kept = spectrum.keep(min(count, len(spectrum)))
    values = spectrum.values if detail is None else detail.eigenvalues[place]
    seen: list[Seen] = []
    pairs: list[Pair] = []
    errors = None
    if detail is not None:
        strengths = listed("pair strengths", detail.strengths[place])
        pairs = [
            {"i": i, "j": j, "strength": strength}
            for (i, j), strength in zip(detail.pairs[place].tolist(), strengths, strict=True)
        ]
        if detail.samples is not None and detail.responses is not None:
            responses = listed("responses", detail.responses[place])
            numbers = detail.samples[place].tolist()
            seen = [
                {"sample": places.get(number, -1), "number": number, "value": value}
                for number, value in zip(numbers, responses, strict=True)
            ]
        errors = None if detail.errors is None else floats("errors", detail.errors[place])
    half = len(seen) // 2
    return {
        "label": _text(spectrum.label or str(place)),
        "importance": finite("importance", float(view.importance[place])),
        "effects": listed("effects", view.effects[place]),
        "speaks": _text(view.speaks(place)),
        "raises": [_text(label) for label in view.raises(place)],
        "lowers": [_text(label) for label in view.lowers(place)],
        "eigenvalues": floats("eigenvalues", values),
        "vectors": shorts("eigenvectors", kept.vectors),
        "energy": finite("energy", float(spectrum.energy)),
        "discarded": finite("discarded", float(spectrum.discarded)) if detail is None else 0.0,
        "residual": _residual(spectrum),
        "pairs": pairs,
        "largest": seen[:half],
        "smallest": seen[half:],
        "errors": errors,
    }


def _residual(spectrum: Spectrum) -> float:
    if not len(spectrum) or not float(spectrum.values.abs().max()) > 0:
        return 0.0
    return finite("residuals", float(spectrum.residuals.max() / spectrum.values.abs().max()))


def _samples(samples: Samples) -> SampleSet:
    return {
        "inputs": pixels("samples", samples.inputs),
        "numbers": samples.numbers.tolist(),
        "outputs": floats("outputs of samples", samples.outputs),
        "labels": None if samples.labels is None else samples.labels.tolist(),
    }


def _line(curve: Curve, repeats: Sequence[tuple[Curve, ...]]) -> Line:
    """A curve, or the mean of it and its repeats, at the numbers of components that all of them measured."""
    kept, same = curve.kept.tolist(), list[Curve]()
    for other in (other for seed in repeats for other in seed if other.name == curve.name):
        if other.samples != curve.samples:
            raise BilensError(
                f"curve {curve.name!r} on {_counted(curve.samples)} samples, and of another seed on "
                f"{_counted(other.samples)}",
                "one number of samples for all seeds",
                "leave that seed out, or run it again",
            )
        common = [count for count in kept if count in other.kept.tolist()]
        if common:
            kept = common
            same.append(other)

    def at(column: Tensor, of: Curve) -> Tensor:
        return column[[of.kept.tolist().index(count) for count in kept]].double()

    columns: dict[str, list[float] | None] = {}
    for name in ("accuracy", "cross_entropy", "recovered"):
        found = [(getattr(each, name), each) for each in (curve, *same)]
        columns[name], columns[f"{name}_half"] = None, None
        if all(column is not None for column, _ in found):
            rows = torch.stack([at(column, of) for column, of in found])
            columns[name] = listed(name, rows.mean(dim=0))
            if same:
                columns[f"{name}_half"] = [finite(name, interval(row.tolist()).half) for row in rows.T]
    return {
        "name": _text(curve.name),
        "beside": None if curve.beside is None else _text(curve.beside),
        "seeds": 1 + len(same),
        "samples": curve.samples,
        "kept": kept,
        "numbers": None if curve.numbers is None else [int(value) for value in at(curve.numbers, curve).tolist()],
        "accuracy": columns["accuracy"] or [],
        "cross_entropy": columns["cross_entropy"] or [],
        "recovered": columns["recovered"],
        "accuracy_half": columns["accuracy_half"],
        "cross_entropy_half": columns["cross_entropy_half"],
        "recovered_half": columns["recovered_half"],
        "error": None if curve.error is None else listed("error", at(curve.error, curve)),
        "bound": None if curve.bound is None else listed("bound", at(curve.bound, curve)),
    }


def _codes(codes: CodeComparison) -> Codes:
    x, y = (values.detach().cpu().double().numpy() for values in (codes.trained, codes.pseudoinverse))
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise BilensError("codes with NaN or infinity", "finite numbers")
    low = [min(0.0, float(values.min(initial=0.0))) for values in (x, y)]
    high = [max(float(values.max(initial=0.0)), start + 1e-9) for values, start in zip((x, y), low, strict=True)]
    ranges = [[start, end] for start, end in zip(low, high, strict=True)]
    counts = np.histogram2d(x, y, bins=_BINS, range=ranges)[0].astype(int)
    return {
        "correlation": finite("correlation", codes.correlation),
        "features": codes.features,
        "rank": codes.rank,
        "threshold": codes.threshold,
        "samples": codes.samples,
        "low": [finite("codes", value) for value in low],
        "high": [finite("codes", value) for value in high],
        "bins": _BINS,
        "counts": counts.tolist(),
    }


def _axis(space: Space) -> Axis:
    return {
        "name": _text(space.name),
        "one": _text(singular(space.name)),
        "size": space.size,
        "labels": None if space.labels is None else [_text(label) for label in space.labels],
        "image": None if space.image is None else list(space.image),
        "constant": space.constant,
    }


def _counted(samples: int | None) -> str:
    return "an unknown number of" if samples is None else f"{samples:,}"


def _text(value: str) -> str:
    """Text without control characters."""
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) == "Cc" else c for c in value)
