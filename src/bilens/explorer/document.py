"""From records to the plain data of a page: numbers, texts and pictures as data URIs, ready for JSON.

The typed dictionaries here are its schema. Numbers are numbers, so that whoever reads the JSON can compute with them;
the page alone decides how they are written. Texts are plain text, never markup.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Sequence
from typing import TypedDict

from torch import Tensor

from bilens import plots
from bilens.decompose import Spectrum
from bilens.errors import BilensError
from bilens.explorer.report import WAYS, Report
from bilens.views import View

ENTRIES = 8
"""How many coordinates of an eigenvector are listed where the input is no image."""
OUTPUTS = 16
"""More outputs than this, and only those that a feature moves most are listed."""


class Entry(TypedDict):
    """A named number: `value`, and `share`, the value over the largest |value| it is shown with, −1 … 1."""

    label: str
    value: float
    share: float


class Kernel(TypedDict):
    """One eigenvector, as √|λ| v: `rank` from 1, λ, a picture or its largest entries, the constant's weight if any."""

    rank: int
    value: float
    image: str | None
    width: int
    height: int
    entries: list[Entry]
    constant: float | None
    alt: str


class Feature(TypedDict):
    """One feature: its eigenvectors with λ > 0 and λ < 0, the outputs it moves, and what the pictures leave out.

    `energy` is the share of ‖Q‖² in the eigenvectors shown, `discarded` the largest |λ| of the others, so that leaving
    these out changes the feature by at most discarded · ‖x'‖²; `residual` is the largest ‖Qv − λv‖ / |λ₁| of those
    shown, `scale` the |entry| of the end colours.
    """

    label: str
    importance: float
    share: float
    speaks_for: list[str]
    effects: list[Entry]
    positive: list[Kernel]
    negative: list[Kernel]
    scale: float
    energy: float | None
    discarded: float
    residual: float | None


class Chart(TypedDict):
    """A figure, once for light and once for dark pages, and the numbers behind it."""

    light: str
    dark: str
    alt: str
    caption: str
    columns: list[str]
    rows: list[list[float | None]]


class Section(TypedDict):
    """One way of reading features: `left_out` counts features that are not listed, `outputs` what effects are on."""

    anchor: str
    title: str
    text: str
    measure: str
    outputs: str
    features: list[Feature]
    left_out: int
    images: bool
    charts: list[Chart]


class Fact(TypedDict):
    """A line of the summary."""

    name: str
    value: str | float


class ScoreRow(TypedDict):
    """A line of the table of faithfulness: shares from 0 to 1, cross-entropy in nats."""

    name: str
    accuracy: float
    cross_entropy: float
    recovered: float | None


class Document(TypedDict):
    """The whole page."""

    title: str
    summary: list[Fact]
    scores: list[ScoreRow]
    faithfulness: list[Chart]
    sections: list[Section]
    training: list[Chart]
    notes: list[str]


def document(report: Report) -> Document:
    """The plain data of a page: `json.dumps(document(report), allow_nan=False)` works.

    Raises:
        BilensError: NaN or infinity anywhere.
    """
    return {
        "title": report.title,
        "summary": [
            {"name": name, "value": value if isinstance(value, str) else _finite(name, value)}
            for name, value in report.summary.items()
        ],
        "scores": [
            {
                "name": name,
                "accuracy": _finite(name, score.accuracy),
                "cross_entropy": _finite(name, score.cross_entropy),
                "recovered": None if score.recovered is None else _finite(name, score.recovered),
            }
            for name, score in report.scores.items()
        ],
        "faithfulness": _faithfulness(report),
        "sections": [_section(report, view, place) for place, view in enumerate(report.views)]
        + ([] if any(view.name == "svd" for view in report.views) else _orphans(report, "svd"))
        + ([] if any(view.name == "sae" for view in report.views) else _orphans(report, "sae")),
        "training": _training(report),
        "notes": list(report.notes),
    }


def _section(report: Report, view: View, place: int) -> Section:
    title, text = report.texts.get(view.name, WAYS.get(view.name, (view.name, "")))
    count = min(report.features, len(view))
    largest = max((abs(value) for value in _floats("importance", view.importance)), default=0.0)
    return {
        "anchor": f"view-{view.name}" if re.fullmatch(r"[a-z][a-z0-9-]*", view.name) else f"part-{place + 1}",
        "title": title,
        "text": text,
        "measure": view.measure,
        "outputs": view.output.name,
        "features": [_feature(report, view, feature, largest) for feature in range(count)],
        "left_out": len(view) - count,
        "images": all(spectrum.input.image is not None for spectrum in view.spectra),
        "charts": _charts_of(report, view.name),
    }


def _orphans(report: Report, name: str) -> list[Section]:
    """A section for charts whose view is not there."""
    charts = _charts_of(report, name)
    if not charts:
        return []
    title, text = report.texts.get(name, WAYS[name])
    return [
        {
            "anchor": f"view-{name}",
            "title": title,
            "text": text,
            "measure": "",
            "outputs": "",
            "features": [],
            "left_out": 0,
            "images": False,
            "charts": charts,
        }
    ]


def _feature(report: Report, view: View, feature: int, largest: float) -> Feature:
    spectrum = view.spectra[feature]
    shown = plots.linear_kernels(spectrum, report.eigenvectors)
    scale = plots.shared_scale(shown)
    importance = float(view.importance[feature])
    kernels = [_kernel(kernel, scale, spectrum.label) for kernel in shown]
    energy, discarded, residual = _left_out(spectrum, [kernel.rank for kernel in shown])
    return {
        "label": spectrum.label or f"feature {feature + 1}",
        "importance": importance,
        "share": importance / largest if largest > 0 else 0.0,
        "speaks_for": list(view.speaks_for(feature)),
        "effects": _effects(view, feature),
        "positive": [kernel for kernel in kernels if kernel["value"] > 0],
        "negative": [kernel for kernel in kernels if kernel["value"] < 0],
        "scale": scale,
        "energy": energy,
        "discarded": discarded,
        "residual": residual,
    }


def _kernel(kernel: plots.LinearKernel, scale: float, label: str) -> Kernel:
    space, weights = kernel.input, kernel.image
    sign = "positive" if kernel.value > 0 else "negative"
    entries: list[Entry] = []
    if space.image is None:
        for i in weights.abs().argsort(descending=True, stable=True)[:ENTRIES].tolist():
            value = float(weights[i])
            entries.append({"label": space.label(i), "value": value, "share": value / scale})
    return {
        "rank": kernel.rank + 1,
        "value": kernel.value,
        "image": None if space.image is None else _uri("png", plots.thumbnail(kernel.weights, space, scale)),
        "width": 0 if space.image is None else space.image[1],
        "height": 0 if space.image is None else space.image[0],
        "entries": entries,
        "constant": kernel.bias,
        "alt": f"{sign} eigenvector of {label or 'the feature'}, eigenvalue {plots.signed(kernel.value)}",
    }


def _left_out(spectrum: Spectrum, ranks: Sequence[int]) -> tuple[float | None, float, float | None]:
    values = _floats("eigenvalues", spectrum.values)
    residuals = _floats("residuals", spectrum.residuals)
    total, discarded = _finite("energy", float(spectrum.energy)), _finite("discarded", float(spectrum.discarded))
    largest = max((abs(value) for value in values), default=0.0)
    energy = min(1.0, sum(values[i] ** 2 for i in ranks) / total) if total > 0 else None
    rest = max([discarded, *(abs(value) for i, value in enumerate(values) if i not in ranks)])
    return energy, rest, max(residuals[i] for i in ranks) / largest if ranks and largest > 0 else None


def _effects(view: View, feature: int) -> list[Entry]:
    """What the feature adds to each output; of many outputs the eight that it raises and lowers most."""
    values = _floats("effects", view.effects[feature])
    largest = max((abs(value) for value in values), default=0.0)
    places = list(range(len(values)))
    if len(values) > OUTPUTS:
        ordered = sorted(places, key=lambda o: -values[o])
        places = [*ordered[: OUTPUTS // 2], *ordered[-OUTPUTS // 2 :]]
    return [
        {"label": view.output.label(o), "value": values[o], "share": values[o] / largest if largest > 0 else 0.0}
        for o in places
    ]


def _faithfulness(report: Report) -> list[Chart]:
    if not report.curves:
        return []
    charts = []
    names = [curve.name for curve in report.curves]
    kept = sorted({int(k) for curve in report.curves for k in curve.kept.tolist()})
    for which, words in (("accuracy", "Share of samples classified right"), ("recovered", "Cross-entropy recovered")):
        if any(getattr(curve, which) is None for curve in report.curves):
            continue
        rows: list[list[float | None]] = []
        for k in kept:
            row: list[float | None] = [k]
            for curve in report.curves:
                at = (curve.kept == k).nonzero()
                row.append(float(getattr(curve, which)[int(at[0, 0])]) if len(at) else None)
            rows.append(row)
        figure = plots.curves(report.curves, "accuracy" if which == "accuracy" else "recovered")
        scale = "" if which == "accuracy" else ": 1 for the whole model, 0 for a guess that knows nothing"
        charts.append(
            _chart(
                figure,
                f"Line chart of {words.lower()} against the number of components kept, for {', '.join(names)}",
                f"{words} when the model runs on the first components alone{scale}.",
                ["kept", *names],
                rows,
            )
        )
    for curve in report.curves:
        if curve.error is None or curve.bound is None:
            continue
        charts.append(
            _chart(
                plots.certificate(curve),
                f"Line chart of the proven bound and the largest measured error of {curve.name}",
                f"The error of {curve.name} cannot exceed the bound, which follows from the weights and ‖x‖ alone, "
                "but for rounding; the largest error measured on the samples lies below it.",
                ["kept", "largest error measured", "proven bound"],
                [
                    [float(k), error, bound]
                    for k, error, bound in zip(
                        curve.kept.tolist(), curve.error.tolist(), curve.bound.tolist(), strict=True
                    )
                ],
            )
        )
    return charts


def _charts_of(report: Report, name: str) -> list[Chart]:
    if name == "svd" and report.svd is not None:
        svd = report.svd
        values, energy = _floats("singular values", svd.values), float(svd.energy)
        held = [sum(value**2 for value in values[: i + 1]) / energy if energy > 0 else 1.0 for i in range(len(values))]
        return [
            _chart(
                plots.singular_values(svd),
                "Two line charts: singular values by component, and the share of the squared norm they hold together",
                "Left, the singular values; right, the share of the tensor's squared norm that the first ones hold.",
                ["component", "σ", "share of ‖B‖² so far"],
                [[i + 1, value, share] for i, (value, share) in enumerate(zip(values, held, strict=True))],
            )
        ]
    if name == "sae" and report.codes is not None:
        codes = report.codes
        return [
            _chart(
                plots.codes(codes),
                f"Scatter of pseudoinverse codes against codes as trained, correlation {codes.correlation:.3f}",
                "Each point is one feature on one sample: its code as trained, never below 0, and through the "
                "pseudoinverse. On the dashed line the two agree.",
                ["correlation", "features compared", "rank of their atoms", "share of samples to count as active"],
                [[codes.correlation, codes.features, codes.rank, codes.threshold]],
            )
        ]
    return []


def _training(report: Report) -> list[Chart]:
    history = report.history
    if history is None:
        return []
    return [
        _chart(
            plots.history(history),
            f"Line charts of {', '.join(history.names)} against optimiser steps",
            "What the training run logged.",
            ["step", *history.names],
            [
                [float(step), *row]
                for step, row in zip(history.steps.tolist(), history.values.double().tolist(), strict=True)
            ],
        )
    ]


def _chart(
    figure: plots.Figure, alt: str, caption: str, columns: list[str], rows: Sequence[Sequence[float | int | None]]
) -> Chart:
    light = plots.svg(figure, background=False)
    return {
        "light": _uri("svg+xml", light),
        "dark": _uri("svg+xml", plots.on_dark(light)),
        "alt": alt,
        "caption": caption,
        "columns": columns,
        "rows": [list(row) for row in rows],
    }


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _floats(what: str, values: Tensor) -> list[float]:
    return [_finite(what, value) for value in values.double().tolist()]


def _finite(what: str, value: float | int) -> float:
    if not math.isfinite(value):
        raise BilensError(f"{what} with NaN or infinity", "finite numbers", "check how they were computed")
    return float(value)
