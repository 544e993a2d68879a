"""From records to the plain data of the page, ready for JSON, as the typed dictionaries of `layout` describe it.

Texts are plain text, never markup; the page alone decides
how numbers and texts are shown, and it knows nothing of records.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bilens import plots
from bilens._internal.encoding import finite, floats, listed, pixels, shorts
from bilens._internal.levels import Level
from bilens.decompose import Spectrum
from bilens.deep import DeepTensor
from bilens.errors import BilensError
from bilens.explorer.exploration import Exploration
from bilens.explorer.layout import (
    FORMAT,
    Axis,
    Cells,
    Document,
    Fact,
    Feature,
    Features,
    Line,
    Lines,
    Model,
    Pair,
    Root,
    Run,
    SampleSet,
    ScoreRow,
    Seen,
    Tree,
    Trees,
)
from bilens.faithfulness import Curve, Row
from bilens.features import PERCENTILES, Chart, CodeComparison, FeatureSet, OutputTree, Samples, TreeSet, singular
from bilens.space import Space
from bilens.statistics import interval
from bilens.tensor import BilinearTensor

_BINS = 48


def document(runs: Sequence[Exploration]) -> Document:
    """The plain data of a page: `json.dumps(document(runs), allow_nan=False)` works.

    Raises:
        BilensError: NaN or infinity anywhere, no run or more than two.
    """
    if not 1 <= len(runs) <= 2:
        raise BilensError(f"{len(runs)} runs", "one, or two to compare")
    return {"format": FORMAT, "palette": list(plots.PATTERN), "runs": [_run(run) for run in runs]}


def _run(run: Exploration) -> Run:
    first, logits = run.features[0] if run.features else None, run.outputs
    space = run.model.input if run.model is not None else first.spectra[0].input if first and len(first) else None
    output = run.model.output if run.model is not None else first.output if first else None
    places = {} if run.samples is None else {n: place for place, n in enumerate(run.samples.numbers.tolist())}
    return {
        "name": _text(run.run),
        "title": _text(run.title),
        "facts": [_fact(name, value) for name, value in run.facts.items()],
        "input": None if space is None else _axis(space),
        "output": None if output is None else _axis(output),
        "logits": run.logits,
        "model": _factors(run.model) if isinstance(run.model, BilinearTensor) else None,
        "levels": [_factors(level) for level in run.model.levels()] if isinstance(run.model, DeepTensor) else [],
        "trees": None if run.trees is None else _trees(run.trees),
        "samples": None if run.samples is None else _samples(run.samples),
        "outputs_set": None if logits is None else _text(logits.name),
        "sets": [_set(run, found, places, whole=found is logits) for found in run.features],
        "scores": [_score(row) for row in _in_order(run.all_scores)],
        "curves": [_line(curve, run.repeats) for curve in run.all_curves],
        "training": None
        if run.history is None
        else {
            "columns": ["step", *(_text(name) for name in run.history.names)],
            "rows": [
                [step, *listed(", ".join(run.history.names), row)]
                for step, row in zip(run.history.steps.tolist(), run.history.values, strict=True)
            ],
        },
        "notes": [
            _text(note)
            for note in (
                *run.notes,
                *(() if run.trees is None else run.trees.notes),
                *(note for found in run.features for note in found.notes),
            )
        ],
    }


def _factors(model: BilinearTensor | Level) -> Model:
    return {
        "left": floats("the model", model.left),
        "right": floats("the model", model.right),
        "down": floats("the model", model.down),
    }


def _trees(found: TreeSet) -> Trees:
    return {
        "title": _text(found.title),
        "text": _text(found.text),
        "metric": _text(found.metric),
        "samples": found.samples,
        "percentiles": list(PERCENTILES),
        "trees": [_tree(tree) for tree in found.trees],
        "words": [_fact(word, meaning) for word, meaning in found.words.items()],
    }


def _tree(tree: OutputTree) -> Tree:
    energy = float(tree.energy) or 1.0
    roots: list[Root] = [
        {
            "value": finite("a root", float(value)),
            "share": finite("a root", float(value**2) / energy),
            "held": finite("a root", 1 - float(tree.leaf_discarded[place])),
            "leaves": listed("leaves", tree.leaf_values[place]),
            "quantiles": None if tree.quantiles is None else [listed("q", row) for row in tree.quantiles[place]],
            "means": None if tree.means is None else listed("means", tree.means[place]),
        }
        for place, value in enumerate(tree.values)
    ]
    return {
        "label": _text(tree.label),
        "error": finite("an error", tree.error),
        "roots": roots,
        "readers": shorts("templates", tree.readers.flatten(0, 1)),
        "patterns": shorts("templates", tree.patterns.flatten(0, 1)),
    }


def _fact(name: str, value: str | float) -> Fact:
    return {"name": _text(name), "value": _text(value) if isinstance(value, str) else finite(name, value)}


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


def _set(run: Exploration, found: FeatureSet, places: dict[int, int], *, whole: bool) -> Features:
    detail = found.detail
    count = max((len(spectrum) for spectrum in found.spectra), default=1) if whole else run.eigenvectors
    figures: list[Lines | Cells] = [_chart(name, chart) for name, chart in found.charts.items()]
    return {
        "name": _text(found.name),
        "title": _text(found.heading),
        "tab": _text(found.tab or found.heading),
        "feature": _text(found.feature),
        "among": _text(found.among),
        "text": _text(found.text),
        "measure": _text(found.measure),
        "norm": None if detail is None or detail.norm is None else finite("norm", detail.norm),
        "examined": 0 if detail is None else detail.examined,
        "total": found.total,
        "input": _axis(found.spectra[0].input if len(found) else Space("input", 1)),
        "features": [_feature(found, place, places, count) for place in range(len(found))],
        "figures": [*figures, *(_codes(name, codes) for name, codes in found.codes.items())],
        "words": [_fact(word, meaning) for word, meaning in found.words.items()],
    }


def _feature(found: FeatureSet, place: int, places: dict[int, int], count: int) -> Feature:
    spectrum, detail = found.spectra[place], found.detail
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
        "importance": finite("importance", float(found.importance[place])),
        "effects": listed("effects", found.effects[place]),
        "speaks": _text(found.speaks(place)),
        "raises": [_text(label) for label in found.raises(place)],
        "lowers": [_text(label) for label in found.lowers(place)],
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


def _chart(name: str, chart: Chart) -> Lines:
    rows = torch.cat([chart.at[:, None].double(), chart.values.double()], dim=1)
    return {
        "kind": "lines",
        "name": _text(name),
        "title": _text(chart.title),
        "note": _text(chart.note),
        "drawn": chart.drawn,
        "log": chart.log,
        "level": None if chart.level is None else finite(name, chart.level),
        "level_name": _text(chart.level_name),
        "columns": [_text(chart.x), *(_text(column) for column in chart.columns)],
        "rows": [listed(name, row) for row in rows],
    }


def _codes(name: str, codes: CodeComparison) -> Cells:
    x, y = (values.detach().cpu().double().numpy() for values in (codes.trained, codes.pseudoinverse))
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise BilensError("codes with NaN or infinity", "finite numbers")
    low = [min(0.0, float(values.min(initial=0.0))) for values in (x, y)]
    high = [max(float(values.max(initial=0.0)), start + 1e-9) for values, start in zip((x, y), low, strict=True)]
    ranges = [[start, end] for start, end in zip(low, high, strict=True)]
    counts = np.histogram2d(x, y, bins=_BINS, range=ranges)[0].astype(int)
    return {
        "kind": "cells",
        "name": _text(name),
        "title": f"Codes as trained and through the pseudoinverse: r = {finite('correlation', codes.correlation):.3f}",
        "note": f"Of {codes.features} features (rank {codes.rank}) active on more than {codes.threshold:.1%} of the "
        f"training samples, compared on {_counted(codes.samples)} samples; darker cells hold more of them, on a "
        "logarithmic scale. On the dashed line the two agree.",
        "x": "code as trained (ReLU)",
        "y": "code through the pseudoinverse",
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
