"""Numbers of runs: scores against components kept, intervals over seeds, certificates, codes, training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter
from torch import Tensor

from bilens._internal.checks import instance, several
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
    log_axis,
    numbers,
    reach,
    short,
    styled,
)

_MANY = 3000

FEW = 4
"""Curves whose legend finds room within the axes."""


@styled
def curves(
    curves: Sequence[Curve],
    which: Literal["accuracy", "recovered", "cross_entropy"] = "accuracy",
    *,
    against: Literal["kept", "numbers"] = "kept",
) -> Figure:
    """Accuracy, cross-entropy recovered, or cross-entropy (nats) against components kept or numbers stored.

    Nulls and rivals are dashed, in the colour of the curve that they stand beside; a curve alone names its axis.

    Raises:
        BilensError: no curve, curves on different numbers of samples, one whose numbers stored are not known where they
            are asked for, NaN or infinity, or another quantity.
    """
    curves = several("curves", curves, "a list of curves", "pass [curve]")
    for curve in curves:
        instance("a curve", curve, Curve)
    for what, asked in (("which", which), ("against", against)):
        instance(what, asked, str, "a text")
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
    samples = on_samples(curves)
    many = len(curves) > FEW
    figure = Figure(figsize=(6, 3.6 + (0.12 * len(curves) if many else 0)), layout="constrained")
    axes = figure.add_subplot()
    views = [curve.name for curve in curves if curve.beside is None]
    for place, curve in enumerate(curves):
        at, values = numbers(against, getattr(curve, against)), numbers(which, getattr(curve, which))
        own = curve.name if curve.beside is None else curve.beside
        color = views.index(own) if own in views else place
        style: dict[str, Any] = {"color": LINES[color % len(LINES)], "marker": MARKERS[place % len(MARKERS)]}
        if curve.beside is not None:
            style["linestyle"] = (0, (4, 3))
        axes.plot(at, values, label=short(curve.name, 60 if many else 40), clip_on=False, zorder=3, **style)
    alone = against == "kept" and len(curves) == 1
    label = short(curves[0].name, 60) if alone else _AGAINST[against]
    count_axis(axes, [getattr(curve, against) for curve in curves], label)
    axes.grid(axis="y")
    if which != "cross_entropy":
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        low = min(float(getattr(curve, which).min()) for curve in curves)
        axes.set_ylim(min(0.0, low), 1.0)
    else:
        axes.set_ylim(bottom=0)
    axes.set_title(names[which].capitalize() + samples)
    if many:
        figure.legend(loc="outside lower left", ncols=2, handlelength=3, fontsize=7)
    elif len(curves) > 1:
        axes.legend(loc="lower right" if which != "cross_entropy" else "upper right", handlelength=3)
    return figure


_AGAINST = {"kept": "components kept", "numbers": "numbers stored"}


def on_samples(curves: Sequence[Curve]) -> str:
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


@styled
def certificate(curve: Curve) -> Figure:
    """The proven bound on the truncation error beside the largest error measured, on a logarithmic scale.

    Points where a quantity is 0 have no place on that scale and are left out.

    Raises:
        BilensError: the curve has no error or no bound, or NaN or infinity.
    """
    instance("curve", curve, Curve)
    if curve.error is None or curve.bound is None:
        raise BilensError(f"curve {curve.name!r} without a certificate", "one with error and bound")
    kept, error, bound = numbers("kept", curve.kept), numbers("error", curve.error), numbers("bound", curve.bound)
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for values, name, color, marker in (
        (bound, "proven bound", MUTED, "v"),
        (error, f"largest error{on_samples([curve]) or ' measured'}", LINES[1], "o"),
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
    count_axis(axes, [curve.kept], "components kept")
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
    instance("comparison", comparison, CodeComparison)
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
    instance("history", history, History)
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
    instance("svd", svd, TensorSVD)
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


def count_axis(axes: Any, columns: Sequence[Tensor], label: str) -> None:
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
