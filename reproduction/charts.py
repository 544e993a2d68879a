"""Figures of the programme: means over seeds with their intervals, and features of several settings side by side."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter

from bilens.errors import BilensError
from bilens.faithfulness import Curve
from bilens.features import FeatureSet
from bilens.plots import LINES, MUTED, NEGATIVE, POSITIVE, LinearKernel, linear_kernels, shared_scale, signed
from bilens.plots.kernels import draw_weights
from bilens.plots.scores import count_axis, on_samples
from bilens.plots.style import MARKERS, empty, numbers, short, styled
from bilens.statistics import interval
from reproduction import checking
from reproduction.methods.squares import Squares

_SHORT_NAME = 24
"""Characters of a name, three of which fit below a figure side by side."""


@styled
def bands(
    groups: Mapping[str, Sequence[Curve]],
    which: Literal["accuracy", "recovered"] = "accuracy",
    x: str = "components kept",
) -> Figure:
    """Mean of several curves of one kind, for example one per seed, with its 95 % interval as a band.

    Args:
        groups: curves measured at the same numbers of components, by the name that the legend shows.
        which: accuracy or cross-entropy recovered; x: what the numbers that are kept count.

    Raises:
        BilensError: no group, an empty one, curves measured at different points or on different numbers of samples, NaN
            or infinity.
    """
    if not groups or not all(groups.values()):
        raise BilensError("no curves", "at least one in each group")
    on = on_samples([curve for curves in groups.values() for curve in curves])
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for place, (name, curves) in enumerate(groups.items()):
        kept = numbers("kept", curves[0].kept)
        if any(curve.kept.tolist() != curves[0].kept.tolist() for curve in curves):
            raise BilensError(f"curves of {name!r} measured at different points", "the same points")
        rows = np.stack([numbers(which, getattr(curve, which)) for curve in curves])
        means = [interval(column.tolist()) for column in rows.T]
        middle = np.array([value.mean for value in means])
        style: dict[str, Any] = {"color": LINES[place % len(LINES)], "marker": MARKERS[place % len(MARKERS)]}
        axes.plot(kept, middle, label=short(name, 40), clip_on=False, zorder=3, **style)
        if len(curves) > 1:
            half = np.array([value.half for value in means])
            axes.fill_between(kept, middle - half, middle + half, color=style["color"], alpha=0.2, linewidth=0)
    count_axis(axes, [curves[0].kept for curves in groups.values()], x)
    axes.grid(axis="y")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    low = min(float(getattr(curve, which).min()) for curves in groups.values() for curve in curves)
    axes.set_ylim(min(0.0, low), 1.0)
    axes.set_title({"accuracy": "Accuracy", "recovered": "Cross-entropy recovered"}[which] + on)
    if len(groups) > 1:
        columns = 3 if max(map(len, groups)) <= _SHORT_NAME else 2
        axes.legend(loc="best") if len(groups) < 5 else figure.legend(loc="outside lower center", ncols=columns)
    return figure


@styled
def dots(
    groups: Mapping[str, Mapping[str, Sequence[float]]],
    label: str,
    *,
    line: float | None = None,
    shared: bool = True,
) -> Figure:
    """Means with their 95 % intervals as bars, one panel per group, one row per name; each sample is a small dot below.

    A single sample has no interval, and then the mean stands alone.

    Args:
        groups: samples, for example one per seed, by row, by panel; each panel has the same rows.
        label: of the horizontal axis, with its unit.
        line: where to draw a vertical line, for example 0 for a difference.
        shared: whether the panels have one scale.

    Raises:
        BilensError: no panel, panels with different rows or none, a row without samples, NaN or infinity.
    """
    rows = list(next(iter(groups.values()), ()))
    if not rows or any(list(panel) != rows for panel in groups.values()):
        raise BilensError("panels without rows, or with different ones", "the same rows in each")
    longest = min(40, max(map(len, rows)))
    size = (0.5 + 0.075 * longest + 2.6 * len(groups), 0.95 + 0.27 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    for axes, (title, panel) in zip(
        np.ravel(figure.subplots(1, len(groups), sharex=shared, sharey=True, squeeze=False)),
        groups.items(),
        strict=True,
    ):
        for place, samples in enumerate(panel.values()):
            found = interval(samples)
            axes.plot(samples, [place + 0.3] * len(samples), "o", color=MUTED, markersize=2, zorder=2)
            if math.isfinite(found.half):
                ends = (found.mean - found.half, found.mean + found.half)
                axes.plot(ends, (place, place), color=LINES[0], solid_capstyle="butt", zorder=3)
            axes.plot([found.mean], [place], "o", color=LINES[0], markersize=5, zorder=4)
        if line is not None:
            axes.axvline(line, color=MUTED, linewidth=0.8, zorder=1)
        axes.grid(axis="x")
        axes.set_title(short(title, 40))
        axes.tick_params(axis="y", length=0)
    axes.set_yticks(range(len(rows)), [short(row, 40) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    figure.supxlabel(label, size=9, color=MUTED)
    return figure


@styled
def intervals(groups: Mapping[str, Mapping[int, Sequence[float]]], title: str, x: str, y: str) -> Figure:
    """Mean of samples, for example one per seed, with its 95 % interval as a bar, against a size on a logarithmic axis.

    Args:
        groups: the samples at each size, by the name that the legend shows.
        title: of the figure; x: what the sizes are; y: what the samples are, with its unit.

    Raises:
        BilensError: no group, an empty one, a size below 1, NaN or infinity.
    """
    if not groups or not all(groups.values()):
        raise BilensError("no samples", "at least one size in each group")
    sizes = sorted({size for samples in groups.values() for size in samples})
    checking.whole("size", sizes[0], 1)
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for place, (name, samples) in enumerate(groups.items()):
        means = [interval(list(values)) for values in samples.values()]
        half = [0.0 if math.isinf(value.half) else value.half for value in means]
        axes.errorbar(
            list(samples), [value.mean for value in means], half, label=short(name, 40), capsize=3, elinewidth=1,
            color=LINES[place % len(LINES)], marker=MARKERS[place % len(MARKERS)], zorder=3,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(bottom=0)
    axes.grid(axis="y")
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if len(groups) > 1:
        figure.legend(loc="outside lower center", ncols=2)
    return figure


@styled
def atlas(views: Sequence[FeatureSet]) -> Figure:
    """A map of features under several settings: one row per view, one column per feature, its first eigenvector.

    Columns have the labels of the first view's features. Each image has a scale of its own: the map shows shapes, and
    says nothing of sizes.

    Args:
        views: each with as many features.

    Raises:
        BilensError: no view, views of different sizes or without features, NaN or infinity.
    """
    if not views or len({len(view) for view in views}) > 1:
        raise BilensError("no views, or views of different sizes", "as many features in each")
    if not len(views[0]):
        raise BilensError("views without features", "at least one", "keep more features")
    cell = 0.8 if views[0].spectra[0].input.image is not None else 1.9
    names = [textwrap.wrap(short(item.label, 40), 13 if cell < 1 else 28) for item in views[0].spectra]
    gap, top = 0.07, 0.2 + 0.13 * max(1, *map(len, names))
    margin = 0.25 + 0.075 * min(40, max(len(view.name) for view in views))
    width, height = margin + len(views[0]) * (cell + gap) + 0.1, top + len(views) * (cell + gap) + 0.05
    figure = Figure(figsize=(width, height))
    for row, view in enumerate(views):
        y = height - top - row * (cell + gap) - cell
        figure.text((margin - 0.12) / width, (y + cell / 2) / height, short(view.name, 40), size=8.5, ha="right",
                    va="center")  # fmt: skip
        for column, item in enumerate(view.spectra):
            x = margin + column * (cell + gap)
            if row == 0:
                figure.text((x + cell / 2) / width, 1 - (top - 0.07) / height, "\n".join(names[column]), size=8.5,
                            color=MUTED, ha="center", va="bottom")  # fmt: skip
            axes = figure.add_axes((x / width, y / height, cell / width, cell / height))
            shown = linear_kernels(item.keep(min(1, len(item))), 1)
            draw_weights(axes, shown[0], shared_scale(shown)) if shown else empty(axes, "–")
    return figure


@styled
def directions(rows: Mapping[str, Squares], count: int = 6) -> Figure:
    """Directions of one kernel as several methods find them: one row per method, its first directions side by side.

    Each image shows √|c| v on a scale of its own, with its weight c above.

    Args:
        rows: the directions of each method, by the name that stands beside them; count: how many of each.

    Raises:
        BilensError: no row, rows without a direction, NaN or infinity, or a count below 1.
    """
    checking.whole("count", count, 1)
    if not rows or not all(len(row) for row in rows.values()):
        raise BilensError("no directions", "at least one in each row")
    columns = min(count, max(map(len, rows.values())))
    cell = 1.1 if next(iter(rows.values())).input.image is not None else 2.0
    margin, gap, top = 0.25 + 0.08 * min(32, max(map(len, rows))), 0.08, 0.24
    width, height = margin + columns * (cell + gap), len(rows) * (cell + top) + 0.05
    figure = Figure(figsize=(width, height))
    for place, (name, row) in enumerate(rows.items()):
        values, vectors = numbers("weights", row.values), numbers("directions", row.vectors)
        y = height - (place + 1) * (cell + top)
        figure.text((margin - 0.12) / width, (y + cell / 2) / height, short(name, 32), size=8.5, ha="right",
                    va="center")  # fmt: skip
        for column in range(min(columns, len(row))):
            x = margin + column * (cell + gap)
            axes = figure.add_axes((x / width, y / height, cell / width, cell / height))
            weights = torch.from_numpy(np.sqrt(abs(values[column])) * vectors[column])
            shown = LinearKernel(column, float(values[column]), weights, row.input)
            draw_weights(axes, shown, shared_scale([shown]))
            axes.set_title(f"c = {signed(shown.value)}", size=7.5, pad=3, loc="center",
                           color=POSITIVE if shown.value > 0 else NEGATIVE)  # fmt: skip
    return figure
