"""The front of every way of reading: cross-entropy recovered against numbers stored, with nulls in dashes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from bilens.plots.style import LINES, MARKERS, MUTED, log_axis, styled
from bilens.statistics import interval
from reproduction.measurement import Measurement

TICKS = (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999)
"""Shares of the cross-entropy that are named on the axis, on which each nine takes as much room as the one before."""


@dataclass(frozen=True)
class Point:
    """A size and what is recovered there, one sample per seed."""

    numbers: float
    recovered: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return sum(self.recovered) / len(self.recovered)


def points(seeds: Sequence[Measurement], prefix: str) -> list[Point]:
    """Every point of the curves whose names begin so, in all seeds; sizes are means over seeds."""
    found = []
    for curve in seeds[0].curves:
        if not curve.name.startswith(prefix):
            continue
        same = [seed.curve(curve.name) for seed in seeds]
        for place in range(len(curve.kept)):
            values = [0.0 if one.recovered is None else float(one.recovered[place]) for one in same]
            sizes = [int(one.kept[place] if one.numbers is None else one.numbers[place]) for one in same]
            found.append(Point(sum(sizes) / len(sizes), tuple(values)))
    return found


def front(found: Sequence[Point]) -> list[Point]:
    """The points that no other beats with as few numbers, by the mean over seeds, smallest first."""
    kept: list[Point] = []
    for point in sorted(found, key=lambda point: (point.numbers, -point.mean)):
        if not kept or point.mean > kept[-1].mean:
            kept.append(point)
    return kept


def nines(recovered: NDArray[np.float64]) -> NDArray[np.float64]:
    """The axis: −log₁₀(1 − r), from 0 for nothing recovered to the last of `TICKS`."""
    bounded: NDArray[np.float64] = -np.log10(1 - np.clip(recovered, 0, TICKS[-1]))
    return bounded


@styled
def draw(
    panels: Mapping[str, Mapping[str, tuple[Sequence[Point], Sequence[Point]]]],
    layer: float,
    marks: Mapping[str, Point],
    rivals: Mapping[str, Sequence[Point]] | None = None,
) -> Figure:
    """A panel of fronts: each a line with its 95 % interval as a band, and its null, if it has one, in dashes.

    Args:
        panels: by title, ways by name, each with its points and those of its null.
        layer: numbers of the layer itself, drawn as an upright; marks: single points by name, in the first panel.
        rivals: other ways to spend as many numbers, in the first panel, grey and dash-dotted.
    """
    figure = Figure(figsize=(5.2 * len(panels), 5.2), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for panel, (title, ways) in zip(axes, panels.items(), strict=True):
        handles = []
        sizes = [layer]
        for place, (name, both) in enumerate(ways.items()):
            color, marker = LINES[place % len(LINES)], MARKERS[place % len(MARKERS)]
            for null, found in enumerate(both):
                best = front(found)
                if not best:
                    continue
                x = np.array([point.numbers for point in best])
                means = [interval(list(point.recovered)) for point in best]
                middle = np.array([value.mean for value in means])
                style = {"linestyle": (0, (3, 2)), "linewidth": 1.1} if null else {"marker": marker}
                (line,) = panel.plot(x, nines(middle), color=color, label=name, zorder=2 if null else 3, **style)
                if not null:
                    handles.append(line)
                if means[0].count > 1:
                    half = np.array([value.half for value in means])
                    panel.fill_between(x, nines(middle - half), nines(middle + half), color=color, alpha=0.15, lw=0)
                sizes += x.tolist()
        if panel is axes[0]:
            for place, (name, found) in enumerate((rivals or {}).items()):
                best = front(found)
                x = np.array([point.numbers for point in best])
                middle = np.array([point.mean for point in best])
                (line,) = panel.plot(
                    x, nines(middle), "-.", color=MUTED, marker="xdh"[place % 3], linewidth=1.4, markersize=5,
                    label=name, zorder=3,
                )  # fmt: skip
                handles.append(line)
                means = [interval(list(point.recovered)) for point in best]
                if means[0].count > 1:
                    half = np.array([value.half for value in means])
                    panel.fill_between(x, nines(middle - half), nines(middle + half), color=MUTED, alpha=0.15, lw=0)
                sizes += x.tolist()
            for place, (name, point) in enumerate(marks.items()):
                (line,) = panel.plot(
                    [point.numbers], nines(np.array([point.mean])), "*x+"[place % 3], color=MUTED, markersize=8,
                    linestyle="none", label=name, zorder=4,
                )  # fmt: skip
                handles.append(line)
        panel.axvline(layer, color=MUTED, linewidth=0.9, zorder=1)
        panel.text(layer, nines(np.array([TICKS[-1]]))[0], " the layer", color=MUTED, size=8, va="top")
        panel.set_xscale("log")
        log_axis(panel.xaxis, np.array(sizes))
        panel.grid(axis="y")
        panel.set_title(title)
        panel.set_xlabel("numbers stored")
        panel.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, fontsize=8)
    ticks = np.array(TICKS)
    axes[0].set_yticks(nines(ticks), [f"{100 * tick:g} %" for tick in TICKS])
    axes[0].yaxis.set_minor_locator(NullLocator())
    axes[0].set_ylim(0, nines(ticks)[-1])
    axes[0].set_ylabel("cross-entropy recovered")
    return figure
