"""Charts that analyses make besides features: lines, drawn as their record says."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from bilens._internal.checks import instance
from bilens.features import Chart
from bilens.plots.style import LINES, MARKERS, NEGATIVE, log_axis, numbers, short, styled


@styled
def chart(chart: Chart) -> Figure:
    """The lines of a chart that are drawn, against what they were measured at.

    Raises:
        BilensError: NaN or infinity.
    """
    instance("chart", chart, Chart)
    at, values = numbers(chart.x, chart.at), numbers(chart.title, chart.values)
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    drawn = values[:, : chart.drawn]
    for place, name in enumerate(chart.columns[: chart.drawn]):
        there = drawn[:, place] > 0 if chart.log else np.full(len(at), True)
        marker = MARKERS[place % len(MARKERS)] if len(at) <= 30 else ""
        style: dict[str, Any] = {"color": LINES[place % len(LINES)], "marker": marker, "linewidth": 1.0}
        axes.plot(at[there], drawn[there, place], label=short(name, 40), **style)
    positive = drawn[drawn > 0]
    if chart.log and len(positive):
        axes.set_yscale("log")
        log_axis(axes.yaxis, positive)
    if chart.level is not None and (not chart.log or (len(positive) and chart.level >= positive.min() / 10)):
        axes.axhline(chart.level, color=NEGATIVE, linewidth=1, linestyle=(0, (4, 3)))
        axes.text(at[-1], chart.level, short(chart.level_name, 40), color=NEGATIVE, size=8, ha="right", va="bottom")
    axes.grid(axis="y")
    axes.set_title(short(chart.title, 60))
    axes.set_xlabel(short(chart.x, 40))
    axes.set_ylabel(short(chart.columns[0], 40) + (", log scale" if chart.log else ""))
    if chart.drawn > 1:
        axes.legend(loc="best")
    return figure
