"""The explorer's figures of one feature, on paper: what eigenvectors hold, logit weights, pairs, samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from bilens.decompose import Spectrum
from bilens.errors import BilensError
from bilens.features import Detail, FeatureSet, Samples
from bilens.plots.kernels import draw_sample, draw_weights, linear_kernels, shared_scale
from bilens.plots.style import (
    COUNTS_MAP,
    INK,
    LINES,
    MUTED,
    NEGATIVE,
    POSITIVE,
    check_count,
    log_axis,
    numbers,
    short,
    signed,
    styled,
)


@styled
def truncation(found: FeatureSet, feature: int) -> Figure:
    """The share of ‖Q‖² that a feature's first k eigenvectors hold; the bound on the error beside the error measured.

    The bound is |λ_{k+1}| · max ‖x'‖²; without samples it is drawn for ‖x'‖ = 1, and nothing was measured.

    Args:
        found: the features, with details; feature: which, from 0.

    Raises:
        BilensError: no such feature, features without details, or NaN or infinity.
    """
    detail = _detail(found, feature)
    values = numbers("eigenvalues", detail.eigenvalues[feature])
    kept = np.arange(1, len(values) + 1)
    energy = float(np.square(values).sum())
    held = np.cumsum(np.square(values)) / energy if energy > 0 else np.ones(len(values))
    bound = np.append(np.abs(values[1:]), 0.0) * (detail.norm or 1.0) ** 2
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    share, error = figure.subplots(1, 2)
    share.plot(kept, held, color=LINES[0])
    share.set_ylim(0, 1.02)
    share.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    share.set_title("Share of ‖Q‖² in the first eigenvectors")
    floor = 1e-6 * max(float(np.abs(values).max(initial=0.0)) * (detail.norm or 1.0) ** 2, 1e-300)
    drawn = bound[bound > floor]
    error.plot(kept[bound > floor], drawn, color=MUTED, label="proven bound")
    if detail.errors is not None:
        measured = numbers("errors", detail.errors[feature])
        name = f"largest error on {detail.examined:,} samples"
        error.plot(kept[measured > floor], measured[measured > floor], color=LINES[1], label=name)
        drawn = np.concatenate([drawn, measured[measured > floor]])
    if len(drawn):
        error.set_yscale("log")
        log_axis(error.yaxis, drawn)
        error.legend(loc="lower left")
    error.set_title("Error of leaving out the others" if detail.norm else "Bound on the error, for ‖x‖ = 1")
    for axes in (share, error):
        axes.set_xscale("log" if len(values) > 40 else "linear")
        axes.grid(axis="y")
        axes.set_xlabel("eigenvectors kept")
        log_axis(axes.xaxis, kept.astype(np.float64)) if len(values) > 40 else None
    return figure


@styled
def logit_weights(found: FeatureSet, feature: int, count: int = 24) -> Figure:
    """What one unit of a feature adds to each output; of many outputs those that it raises and lowers most.

    Args:
        found: the features; feature: which, from 0; count: of outputs shown.

    Raises:
        BilensError: no such feature, a count below 1, or NaN or infinity.
    """
    _check(found, feature)
    check_count("count", count)
    values = numbers("effects", found.effects[feature])
    order = np.arange(len(values))
    if len(values) > count:
        ranked = np.argsort(-values, kind="stable")
        order = np.concatenate([ranked[: count - count // 2], ranked[len(ranked) - count // 2 :]])
    figure = Figure(figsize=(5, 0.6 + 0.24 * len(order)), layout="constrained")
    axes = figure.add_subplot()
    shown = values[order]
    axes.barh(range(len(order)), shown, height=0.7, linewidth=0, color=[POSITIVE if v > 0 else NEGATIVE for v in shown])
    axes.set_yticks(range(len(order)), [short(found.output.label(int(o)), 20) for o in order])
    axes.set_ylim(len(order) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.grid(axis="x")
    axes.set_title(f"Logit weights of {short(found.spectra[feature].label or str(feature), 40)}")
    return figure


@styled
def input_pairs(found: FeatureSet, feature: int) -> Figure:
    """A feature's strongest input pairs as lines over its first eigenvector, or as bars where the input is no image.

    A pair i < j adds 2 Q_ij where both inputs are 1, and an input with itself, drawn as a ring, Q_ii.

    Args:
        found: the features, with details; feature: which, from 0.

    Raises:
        BilensError: no such feature, features without details, or NaN or infinity.
    """
    detail = _detail(found, feature)
    strengths = numbers("pair strengths", detail.strengths[feature])
    pairs = detail.pairs[feature].tolist()
    space = found.spectra[feature].input
    largest = float(np.abs(strengths).max(initial=0.0)) or 1.0
    if space.image is None:
        count = min(16, len(pairs))
        figure = Figure(figsize=(6, 0.6 + 0.24 * count), layout="constrained")
        axes = figure.add_subplot()
        shown = strengths[:count]
        axes.barh(range(count), shown, height=0.7, linewidth=0, color=[POSITIVE if v > 0 else NEGATIVE for v in shown])
        names = [f"{short(space.label(i), 24)} × {short(space.label(j), 24)}" for i, j in pairs[:count]]
        axes.set_yticks(range(count), names)
        axes.set_ylim(count - 0.5, -0.5)
        axes.axvline(0, color=MUTED, linewidth=0.8)
        axes.set_title("Strongest input pairs")
        return figure
    figure = Figure(figsize=(4.4, 4.7), layout="constrained")
    axes = figure.add_subplot()
    kernels = sorted(linear_kernels(found.spectra[feature], 1), key=lambda kernel: kernel.rank)
    if kernels:
        draw_weights(axes, kernels[0], shared_scale(kernels[:1]))
        axes.images[0].set_alpha(0.25)
    width = space.image[1]
    for (i, j), strength in reversed(list(zip(pairs, strengths.tolist(), strict=True))):
        style: dict[str, Any] = {
            "color": POSITIVE if strength > 0 else NEGATIVE,
            "linewidth": 0.8 + 1.8 * abs(strength) / largest,
        }
        (row, column), (other, across) = divmod(i, width), divmod(j, width)
        if i == j:
            axes.plot([column], [row], "o", fillstyle="none", markersize=7, color=style["color"])
        else:
            axes.plot([column, across], [row, other], marker="o", markersize=2, **style)
    axes.set_title(f"Strongest pixel pairs of {short(found.spectra[feature].label or str(feature), 30)}")
    return figure


@styled
def extremes(found: FeatureSet, samples: Samples, feature: int, k: int = 6) -> Figure:
    """The samples on which a feature is largest and smallest, each value split into what the eigenvectors add.

    Args:
        found: the features, with details on samples; samples: the samples; feature: which, from 0.
        k: eigenvectors shown apart; all others are one pale bar.

    Raises:
        BilensError: no such feature, details without samples, k below 1, or NaN or infinity.
    """
    detail = _detail(found, feature)
    check_count("k", k)
    if detail.samples is None or detail.responses is None:
        raise BilensError("details without samples", "those of a run with images", "name a data set")
    spectrum = found.spectra[feature].keep(min(k, len(found.spectra[feature])))
    places = {number: place for place, number in enumerate(samples.numbers.tolist())}
    values = numbers("responses", detail.responses[feature])
    seen, half = detail.samples[feature].tolist(), len(values) // 2
    columns = [
        [(places[n], v) for n, v in zip(seen[part], values[part], strict=True) if n in places]
        for part in (slice(0, half), slice(half, None))
    ]
    rows = max(1, *map(len, columns))
    height = 0.55 + 0.72 * rows
    figure = Figure(figsize=(8.6, height))
    for side, (title, column) in enumerate(zip(("largest", "smallest"), columns, strict=True)):
        left, names = 0.02 + 0.5 * side, 0.0 if samples.input.image is not None else 0.085
        there, of = len(column), half if side == 0 else len(values) - half
        rest = "" if there == of else f" ({there} of {of}: other samples are not here)"
        figure.text(
            left,
            1 - 0.22 / height,
            f"Where it is {title}{rest}",
            size=10 if not rest else 9,
            weight="bold",
            va="center",
        )
        axes = figure.add_axes((left + names + 0.1, 0.06 / height, 0.36 - names, 0.72 * rows / height))
        for place, (sample, value) in enumerate(column):
            low = (height - 0.5 - 0.72 * (place + 1)) / height
            box = (left + names, low + (0.1 / height if names else 0), 0.62 / 8.6, (0.52 if names else 0.66) / height)
            x = samples.inputs[sample]
            draw_sample(figure.add_axes(box), x, samples.input, entries=3)
            terms = numbers("terms", spectrum.terms(x.to(spectrum.vectors)))
            up, down = 0.0, 0.0
            for term in [*terms.tolist(), float(value - terms.sum())]:
                start = up if term > 0 else down
                axes.barh(place, term, left=start, height=0.36, color=POSITIVE if term > 0 else NEGATIVE,
                          alpha=1 if term in terms else 0.4, edgecolor="white", linewidth=0.5)  # fmt: skip
                up, down = (up + term, down) if term > 0 else (up, down + term)
            axes.plot([value], [place + 0.3], "^", color=INK, markersize=4, clip_on=False)
            axes.text(0, place - 0.32, signed(float(value)), size=8, color=INK, va="center", weight="bold")
        axes.axvline(0, color=MUTED, linewidth=0.8)
        axes.set_ylim(rows - 0.5, -0.5)
        axes.set_axis_off()
    return figure


@styled
def overlaps(first: Spectrum, second: Spectrum, count: int = 12) -> Figure:
    """|v·w| of two features' first eigenvectors: 1 is the same direction, 0 a right angle.

    Args:
        first, second: over one space; count: how many of each.

    Raises:
        SpaceError: other spaces. BilensError: a count below 1, no eigenvector, or NaN or infinity.
    """
    check_count("count", count)
    first.input.require(second.input, "a spectrum")
    if not len(first) or not len(second):
        raise BilensError("a spectrum without eigenvectors", "at least one")
    vectors = [torch.from_numpy(numbers("eigenvectors", each.vectors[:count])) for each in (first, second)]
    cosines = (vectors[0] @ vectors[1].T).abs().clamp(max=1).numpy()
    figure = Figure(figsize=(5.4, 4.6), layout="constrained")
    axes = figure.add_subplot()
    picture = axes.imshow(cosines, cmap=COUNTS_MAP, vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(cosines.shape[1]), [str(rank + 1) for rank in range(cosines.shape[1])])
    axes.set_yticks(range(cosines.shape[0]), [str(rank + 1) for rank in range(cosines.shape[0])])
    axes.tick_params(length=0)
    axes.set_xlabel(f"rank in {short(second.label or 'the second', 30)}")
    axes.set_ylabel(f"rank in {short(first.label or 'the first', 30)}")
    axes.set_title("Overlaps of eigenvectors, |v·w|")
    bar = figure.colorbar(picture, ax=axes, shrink=0.5, aspect=24, pad=0.02)
    bar.outline.set_visible(False)
    return figure


def _check(found: FeatureSet, feature: int) -> None:
    if not 0 <= feature < len(found):
        raise BilensError(f"feature {feature}", f"0 … {len(found) - 1}")


def _detail(found: FeatureSet, feature: int) -> Detail:
    _check(found, feature)
    if found.detail is None:
        raise BilensError(f"features {found.name!r} without details", "those that features.detail gives")
    return found.detail
