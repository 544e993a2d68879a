"""Numbers of runs: scores against components kept, intervals over seeds, certificates, codes, training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter
from torch import Tensor

from bilens.decompose import TensorSVD
from bilens.errors import BilensError
from bilens.faithfulness import Curve
from bilens.features import CodeComparison
from bilens.history import History
from bilens.plots.style import (
    COUNTS_MAP,
    LINES,
    MARKERS,
    MUTED,
    NEGATIVE,
    check_count,
    log_axis,
    numbers,
    reach,
    short,
    styled,
)
from bilens.statistics import interval

_MANY = 3000


@styled
def curves(
    curves: Sequence[Curve],
    which: Literal["accuracy", "recovered", "cross_entropy"] = "accuracy",
    *,
    against: Literal["kept", "numbers"] = "kept",
) -> Figure:
    """Accuracy, cross-entropy recovered, or cross-entropy (nats) against components kept or numbers stored.

    Nulls and rivals are dashed, in the colour of the curve that they stand beside.

    Raises:
        BilensError: no curve, curves on different numbers of samples, one whose numbers stored are not known where they
            are asked for, NaN or infinity, or another quantity.
    """
    names = {
        "accuracy": "accuracy",
        "recovered": "cross-entropy recovered",
        "cross_entropy": "cross-entropy, nats",
    }
    if which not in names:
        raise BilensError(f"which = {which!r}", f"one of {', '.join(names)}")
    if not curves:
        raise BilensError("no curve", "at least one")
    if any(getattr(curve, which) is None for curve in curves):
        raise BilensError(f"a curve without {names[which]}", "a model better than its baseline", "draw the accuracy")
    if against not in _AGAINST:
        raise BilensError(f"against = {against!r}", f"one of {', '.join(_AGAINST)}")
    unknown = [curve.name for curve in curves if getattr(curve, against) is None]
    if unknown:
        raise BilensError(f"a curve {unknown[0]!r} without numbers stored", "one that has them", "leave it out")
    samples = _on_samples(curves)
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    views = [curve.name for curve in curves if curve.beside is None]
    for place, curve in enumerate(curves):
        at, values = numbers(against, getattr(curve, against)), numbers(which, getattr(curve, which))
        color = views.index(curve.beside) if curve.beside in views else place
        style: dict[str, Any] = {"color": LINES[color % len(LINES)], "marker": MARKERS[place % len(MARKERS)]}
        if curve.beside is not None:
            style["linestyle"] = (0, (4, 3))
        axes.plot(at, values, label=short(curve.name, 40), clip_on=False, zorder=3, **style)
    _count_axis(axes, [getattr(curve, against) for curve in curves], _AGAINST[against])
    axes.grid(axis="y")
    if which != "cross_entropy":
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        low = min(float(getattr(curve, which).min()) for curve in curves)
        axes.set_ylim(min(0.0, low), 1.0)
    else:
        axes.set_ylim(bottom=0)
    axes.set_title(names[which].capitalize() + samples)
    if len(curves) > 1:
        axes.legend(loc="lower right" if which != "cross_entropy" else "upper right")
    return figure


_AGAINST = {"kept": "components kept", "numbers": "numbers stored"}


def _on_samples(curves: Sequence[Curve]) -> str:
    """The end of a title: on how many samples all the curves of one axis were measured.

    Raises:
        BilensError: on different numbers of samples.
    """
    counts = {curve.samples for curve in curves}
    if len(counts) > 1:
        listed = ", ".join(f"{curve.name!r} on {curve.samples or 'an unknown number'}" for curve in curves)
        raise BilensError(
            f"curves on different numbers of samples ({listed})", "one number of samples", "draw them apart"
        )
    known = counts.pop() if counts else None
    return "" if known is None else f" on {known:,} samples"


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
    on = _on_samples([curve for curves in groups.values() for curve in curves])
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
    _count_axis(axes, [curves[0].kept for curves in groups.values()], x)
    axes.grid(axis="y")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    low = min(float(getattr(curve, which).min()) for curves in groups.values() for curve in curves)
    axes.set_ylim(min(0.0, low), 1.0)
    axes.set_title({"accuracy": "Accuracy", "recovered": "Cross-entropy recovered"}[which] + on)
    if len(groups) > 1:
        columns = 3 if max(map(len, groups)) <= _SHORT_NAME else 2
        axes.legend(loc="lower right") if len(groups) < 5 else figure.legend(loc="outside lower center", ncols=columns)
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
    check_count("size", sizes[0])
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
def certificate(curve: Curve) -> Figure:
    """The proven bound on the truncation error beside the largest error measured, on a logarithmic scale.

    Points where a quantity is 0 have no place on that scale and are left out.

    Raises:
        BilensError: the curve has no error or no bound, or NaN or infinity.
    """
    if curve.error is None or curve.bound is None:
        raise BilensError(f"curve {curve.name!r} without a certificate", "one with error and bound")
    kept, error, bound = numbers("kept", curve.kept), numbers("error", curve.error), numbers("bound", curve.bound)
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for values, name, color, marker in (
        (bound, "proven bound", MUTED, "v"),
        (error, f"largest error{_on_samples([curve]) or ' measured'}", LINES[1], "o"),
    ):
        there = values > 0
        axes.plot(kept[there], values[there], label=name, color=color, marker=marker, zorder=3, clip_on=False)
    both = (error > 0) & (bound > 0)
    axes.fill_between(kept[both], error[both], bound[both], color=MUTED, alpha=0.12, linewidth=0)
    positive = np.concatenate([error[error > 0], bound[bound > 0]])
    if len(positive):
        axes.set_yscale("log")
        log_axis(axes.yaxis, positive)
    axes.grid(axis="y")
    _count_axis(axes, [curve.kept], "components kept")
    axes.set_title(f"{short(curve.name, 40)}: |logit − its reconstruction|")
    axes.set_ylabel("logits, log scale")
    axes.legend(loc="best")
    return figure


@styled
def codes(comparison: CodeComparison) -> Figure:
    """Codes as trained (ReLU) against codes through the pseudoinverse, with the line where they are equal.

    Few points are drawn one by one; more than 3,000 are counted in hexagons.

    Raises:
        BilensError: no points, or NaN or infinity.
    """
    x, y = numbers("codes", comparison.trained), numbers("codes", comparison.pseudoinverse)
    if not len(x):
        raise BilensError("no codes", "at least one", "compare features that are active")
    figure = Figure(figsize=(4.8, 4.6), layout="constrained")
    axes = figure.add_subplot()
    box = (*reach(x), *reach(y))
    if len(x) > _MANY:
        counts = axes.hexbin(
            x, y, gridsize=52, cmap=COUNTS_MAP, norm=LogNorm(vmin=1), mincnt=1, linewidths=0.1, extent=box
        )  # fmt: skip
        bar = figure.colorbar(counts, ax=axes, shrink=0.55, aspect=24, pad=0.02)
        bar.outline.set_visible(False)
        bar.set_label("points in a hexagon")
        log_axis(bar.ax.yaxis, np.asarray(counts.get_array(), dtype=np.float64))
    else:
        axes.scatter(x, y, s=8, color=LINES[0], alpha=0.35, linewidths=0)
    low, high = max(box[0], box[2]), min(box[1], box[3])
    axes.plot([low, high], [low, high], color=NEGATIVE, linewidth=1.2, linestyle=(0, (4, 3)), label="equal codes")
    axes.set(xlim=box[:2], ylim=box[2:])
    axes.set_xlabel("code as trained (ReLU)")
    axes.set_ylabel("code through the pseudoinverse")
    on = "" if comparison.samples is None else f"  ·  {comparison.samples:,} samples"
    axes.set_title(f"r = {comparison.correlation:.3f}  ·  {comparison.features} features of rank {comparison.rank}{on}")
    axes.legend(loc="upper left")
    return figure


@styled
def history(history: History) -> Figure:
    """What a training run logged: one panel per number, against optimiser steps.

    Raises:
        BilensError: nothing was logged, or NaN or infinity.
    """
    if not history.names or not len(history.steps):
        raise BilensError("an empty history", "at least one number at one step")
    steps, values = numbers("steps", history.steps), numbers("values", history.values)
    columns = min(3, len(history.names))
    rows = -(-len(history.names) // columns)
    figure = Figure(figsize=(0.4 + 3.2 * columns, 0.4 + 2.1 * rows), layout="constrained")
    for place, name in enumerate(history.names):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.plot(steps, values[:, place], color=LINES[0], marker="" if len(steps) > 25 else "o", linewidth=1.2)
        axes.set_title(short(name, 34))
        axes.grid(axis="y")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.locator_params(axis="x", nbins=4)
        axes.set_xlabel("optimiser steps")
    return figure


@styled
def singular_values(svd: TensorSVD) -> Figure:
    """Singular values by rank on a logarithmic scale, and the share of ‖B‖² that the first ones hold.

    Raises:
        BilensError: NaN or infinity.
    """
    values = numbers("singular values", svd.values)
    energy, floor = float(numbers("energy", svd.energy)), float(numbers("floor", svd.floor))
    ranks = np.arange(1, len(values) + 1)
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    axes, share = figure.subplots(1, 2)
    there = values > 0
    style = {"marker": "o", "markersize": 3 if len(values) > 30 else 4, "linewidth": 1.0}
    axes.plot(ranks[there], values[there], color=LINES[0], **style)
    if there.any():
        axes.set_yscale("log")
        log_axis(axes.yaxis, values[there])
        if floor >= values[there].min() / 10:
            axes.axhline(floor, color=NEGATIVE, linewidth=1, linestyle=(0, (4, 3)))
            axes.text(ranks[-1], floor, "noise below", color=NEGATIVE, size=8, ha="right", va="bottom")
    axes.set_title("Singular values σ")
    axes.set_ylabel("σ, log scale")
    held = np.cumsum(values**2) / energy if energy > 0 else np.ones(len(values))
    share.plot(ranks, held, color=LINES[0], **style, clip_on=False)
    share.set_ylim(0, 1)
    share.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    share.set_title("Share of ‖B‖² in the first components")
    for panel in (axes, share):
        panel.grid(axis="y")
        panel.set_xlabel("component")
        panel.xaxis.get_major_locator().set_params(integer=True)
    return figure


def _count_axis(axes: Any, columns: Sequence[Tensor], label: str) -> None:
    """The axis of a count, of components or of numbers: linear up to 60, logarithmic beyond, with plain numbers."""
    kept = sorted({int(value) for column in columns for value in column.tolist()})
    if not kept:
        raise BilensError("a curve without points", "at least one")
    axes.set_xlabel(label)
    if kept[-1] <= 60:
        axes.locator_params(axis="x", integer=True)
        return
    axes.set_xscale("symlog", linthresh=1, linscale=0.4)
    axes.set_xlim(kept[0] * 0.85, kept[-1] * 1.02)
    short_ticks = kept[-1] <= 10**3 * max(1, kept[0]) and kept[-1] < 10**5
    bases = (1, 2, 5) if short_ticks else (1,)
    steps = [0, *(base * 10**power for power in range(len(str(kept[-1]))) for base in bases)]
    ticks = [step for step in steps if kept[0] <= step <= kept[-1]]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
