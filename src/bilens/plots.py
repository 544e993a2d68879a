"""Pictures of records: every function takes a record and gives a matplotlib `Figure`; `save` writes it as SVG or PNG.

One house style, colours that colour-blind readers can tell apart, and nothing global: no pyplot, and matplotlib's
settings are put back after each call. Blue is positive and red is negative, everywhere. Labels come from data and are
drawn as they are: a dollar sign starts no formula.
"""

from __future__ import annotations

import functools
import io
import math
import re
import struct
import textwrap
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

import matplotlib
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap, LogNorm, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, PercentFormatter
from numpy.typing import NDArray
from torch import Tensor

from bilens.decompose import Spectrum, Squares, TensorSVD
from bilens.errors import BilensError, ShapeError, SpaceError, StoreError
from bilens.faithfulness import Curve
from bilens.files import write_bytes
from bilens.history import History
from bilens.space import Space
from bilens.statistics import interval
from bilens.views import CodeComparison, Explanation, View

INK = "#1b1f24"
"""Colour of text."""
MUTED = "#667080"
"""Colour of what stands back: axes, ticks, captions."""
RULE = "#d5d9df"
"""Colour of grid lines and frames."""
POSITIVE = "#2166ac"
"""Colour of a positive number."""
NEGATIVE = "#b2182b"
"""Colour of a negative number."""
BOTH = "#757d88"
"""Colour of text that is read on white and on dark paper."""
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Colours of lines, in order (Okabe and Ito's palette)."""

_BLUES = [to_hex(color) for color in matplotlib.colormaps["Blues"](np.linspace(0.25, 1, 12))]
_ON_DARK = {
    INK: "#e8eaed",
    MUTED: "#9aa4b1",
    RULE: "#3a414b",
    POSITIVE: "#5aa2e6",
    NEGATIVE: "#f0776b",
    LINES[0]: "#4aa8e0",
    **dict(zip(_BLUES, reversed(_BLUES), strict=True)),
}
_LEVELS = 127
_TABLE = matplotlib.colormaps["RdBu"].resampled(_LEVELS)(np.arange(_LEVELS), bytes=True)[:, :3]
DIVERGING = tuple(f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in _TABLE.tolist())
"""The colours of every image of signed numbers, from −scale to +scale in 127 steps, pale at 0; the explorer's too."""
_DIVERGING = ListedColormap(_TABLE / 255.0)
_COUNTS = ListedColormap(_BLUES)
_MARKERS = "osD^vP"
_MANY = 3000
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_FONTS = ["system-ui", "Segoe UI", "Helvetica Neue", "Arial"]

_STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", *_FONTS],
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,
    "axes.facecolor": "none",
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9,
    "axes.titlesize": 10,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.formatter.use_mathtext": False,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": RULE,
    "xtick.labelcolor": MUTED,
    "xtick.labelsize": 8,
    "ytick.color": RULE,
    "ytick.labelcolor": MUTED,
    "ytick.labelsize": 8,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "white",
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "svg.fonttype": "none",
    "svg.hashsalt": "bilens",
}

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Numbers = NDArray[np.float64]


def _styled(draw: Callable[_P, _T]) -> Callable[_P, _T]:
    """The function under the house style; matplotlib's own settings are put back when it ends."""

    @functools.wraps(draw)
    def styled(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        with matplotlib.rc_context(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the reader's own font is used
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(_STYLE)
            return draw(*args, **kwargs)

    return styled


@dataclass(frozen=True, eq=False)
class LinearKernel:
    """√|λ| v of one eigenpair, whose squared response is what the pair adds to the feature: ±(weights·x')².

    Args:
        rank: place in the spectrum, 0 for the largest |λ|; value: λ.
        weights: √|λ| v, (i,), over the folded input, in float64.
        input: the space of x.
    """

    rank: int
    value: float
    weights: Float[Tensor, " i"]
    input: Space

    @property
    def image(self) -> Float[Tensor, " size"]:
        """The weights without the constant coordinate's."""
        return self.weights[: self.input.size]

    @property
    def bias(self) -> float | None:
        """The weight of the constant coordinate, None where the space has none."""
        return float(self.weights[-1]) if self.input.constant else None


def linear_kernels(spectrum: Spectrum, k: int) -> tuple[LinearKernel, ...]:
    """The linear kernels of a spectrum: at most k with λ > 0, then at most k with λ < 0, largest |λ| first.

    λ (v·x')² = ±(√|λ| v·x')², so entries of √|λ| v have the unit of √output in every eigenvector of a kernel, and one
    colour scale for all of them means something.

    Raises:
        BilensError: NaN or infinity, or k below 1.
    """
    _check_count("k", k)
    values = _numbers("eigenvalues", spectrum.values)
    vectors = _numbers("eigenvectors", spectrum.vectors)
    chosen = [*np.flatnonzero(values > 0)[:k], *np.flatnonzero(values < 0)[:k]]
    return tuple(
        LinearKernel(int(i), float(values[i]), torch.from_numpy(np.sqrt(abs(values[i])) * vectors[i]), spectrum.input)
        for i in chosen
    )


def shared_scale(kernels: Sequence[LinearKernel]) -> float:
    """The largest |entry| over the linear kernels shown together, the constant coordinate aside; 1 when all are 0."""
    largest = max((float(kernel.image.abs().max()) for kernel in kernels), default=0.0)
    return largest if largest > 0 else 1.0


def thumbnail(vector: Float[Tensor, " i"], space: Space, scale: float | None = None) -> bytes:
    """A PNG with one pixel a coordinate: blue where the entry is positive, red where it is negative, pale at 0.

    An entry v has the colour `round(63 · v / scale)` steps from the middle, so that 0 is always the same neutral one;
    entries beyond ±scale take the end colours. The constant coordinate is left out.

    Args:
        vector: (i,), with i = `space.dim`; space: with an image shape; scale: |entry| of the end colours, the largest
            one when not given. Pass one scale for all images that are to be compared.

    Raises:
        SpaceError: the space has no image shape. ShapeError: a vector of another size. BilensError: NaN or infinity, or
            a scale that is not above 0.
    """
    if space.image is None:
        raise SpaceError(f"space {space.title}", "one with an image shape", "give it one: Space(..., image=(28, 28))")
    if tuple(vector.shape) != (space.dim,):
        raise ShapeError(f"a vector of shape {tuple(vector.shape)}", f"({space.dim},)", "pass one eigenvector")
    values = _numbers("a vector", vector)[: space.size]
    if scale is None:
        scale = float(np.abs(values).max()) or 1.0
    if not (np.isfinite(scale) and scale > 0):
        raise BilensError(f"scale {scale}", "a number above 0", "pass the largest |entry| of the images shown together")
    half = _LEVELS // 2
    levels = (np.rint(np.clip(values / scale, -1, 1) * half) + half).astype(np.uint8).reshape(space.image)
    rows = b"".join(b"\0" + row.tobytes() for row in levels)
    header = struct.pack(">IIBBBBB", space.image[1], space.image[0], 8, 3, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"PLTE", _TABLE.tobytes()), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


@_styled
def spectrum(spectrum: Spectrum, k: int = 4) -> Figure:
    """Eigenvalues by rank, beside the top k positive and the top k negative eigenvectors as √|λ| v.

    Images share one scale, centred on 0; inputs that are no images are drawn as their largest entries with labels. The
    weight of the constant coordinate is stated under each eigenvector.

    Raises:
        BilensError: NaN or infinity, or k below 1.
    """
    shown = linear_kernels(spectrum, k)
    scale = shared_scale(shown)
    is_image = spectrum.input.image is not None
    width = 1.25 if is_image else 2.3
    figure = Figure(figsize=(3.6 + k * width + 0.3, 3.9))
    left = 3.1 / (3.6 + k * width + 0.3)
    bars = figure.add_axes((0.55 / (3.6 + k * width + 0.3), 0.15, left - 0.55 / (3.6 + k * width + 0.3), 0.66))
    _eigenvalues(bars, spectrum, {kernel.rank for kernel in shown})
    grid = figure.add_gridspec(
        2, k, left=left + (0.06 if is_image else 0.12), right=0.985, top=0.81, bottom=0.1, hspace=0.5,
        wspace=0.12 if is_image else 0.9,
    )  # fmt: skip
    for row, (sign, name) in enumerate(((1, "positive"), (-1, "negative"))):
        mine = [kernel for kernel in shown if kernel.value * sign > 0]
        for column in range(k):
            axes = figure.add_subplot(grid[row, column])
            if column < len(mine):
                _kernel(axes, mine[column], scale)
            else:
                _empty(axes, f"no {'other ' if mine else ''}{name}\neigenvalue" if column == len(mine) else "")
    title = f"Kernel of {_short(spectrum.label, 60)}" if spectrum.label else "Kernel"
    figure.text(0.02, 0.955, title, size=12, weight="bold", va="center")
    figure.text(0.985, 0.955, "√|λ| · eigenvector, one colour scale:  blue +  red −", size=8, color=MUTED, ha="right",
                va="center")  # fmt: skip
    return figure


@_styled
def view(view: View, count: int = 8, k: int = 3) -> Figure:
    """One row a feature: its label, what it speaks for, its top k positive and negative eigenvectors, its effects.

    Args:
        view: the features, most important first; count: how many of them; k: eigenvectors of each sign.

    Raises:
        BilensError: NaN or infinity, or a count or k below 1.
    """
    _check_count("count", count)
    _check_view(view)
    rows = min(count, len(view))
    outputs = view.output.dim
    is_image = all(item.input.image is not None for item in view.spectra)
    cell = 1.0 if is_image else 1.9
    text, bars = 1.75 if is_image else 2.5, min(2.6, 0.5 + 0.16 * outputs)
    width, height = text + 2 * k * cell + 0.35 + bars + 0.2, rows * 1.28 + 0.75
    figure = Figure(figsize=(width, height))
    grid = figure.add_gridspec(
        rows, 2 * k + 3, width_ratios=[text, *[cell] * k, 0.12, *[cell] * k, bars],
        left=0.15 / width, right=1 - 0.2 / width, top=1 - 0.72 / height, bottom=0.3 / height,
        hspace=0.34, wspace=0.1 if is_image else 0.75,
    )  # fmt: skip
    largest = max(float(view.effects[:rows].abs().max()), 1e-300)
    for row in range(rows):
        shown = linear_kernels(view.spectra[row], k)
        scale = shared_scale(shown)
        words = figure.add_subplot(grid[row, 0])
        _empty(words, "")
        words.text(0, 0.86, _short(view.spectra[row].label or f"feature {row}", 20), size=11, weight="bold", va="top")
        importance = _numbers("importance", view.importance)[row]
        words.text(0, 0.58, f"{_short(view.measure, 24)} {number(importance)}", size=7.5, color=MUTED, va="top")
        speaks = view.speaks_for(row)
        words.text(0, 0.36, f"speaks for {', '.join(_short(s, 12) for s in speaks)}" if speaks else "speaks for none",
                   size=7.5, color=INK, va="top")  # fmt: skip
        for offset, sign in ((1, 1), (k + 2, -1)):
            mine = [kernel for kernel in shown if kernel.value * sign > 0]
            for column in range(k):
                axes = figure.add_subplot(grid[row, offset + column])
                _kernel(axes, mine[column], scale) if column < len(mine) else _empty(axes, "–")
        effects = figure.add_subplot(grid[row, 2 * k + 2])
        _effect_bars(effects, _numbers("effects", view.effects[row]), view.output, largest, last=row == rows - 1)
    x = grid.get_grid_positions(figure)
    for column, words_above in ((1, "positive eigenvectors"), (k + 2, "negative eigenvectors"), (2 * k + 2, "effect")):
        figure.text(x[2][column], 1 - 0.42 / height, words_above, size=8.5, color=MUTED, va="center")
    figure.text(0.15 / width, 1 - 0.42 / height, _short(view.name, 24), size=12, weight="bold", va="center")
    return figure


@_styled
def curves(curves: Sequence[Curve], which: Literal["accuracy", "recovered", "cross_entropy"] = "accuracy") -> Figure:
    """Accuracy, cross-entropy recovered, or cross-entropy (nats) against the number of components kept.

    Raises:
        BilensError: no curve, NaN or infinity, or another quantity.
    """
    names = {
        "accuracy": "accuracy",
        "recovered": "cross-entropy recovered",
        "cross_entropy": "cross-entropy, nats",
    }
    if which not in names:
        raise BilensError(f"which = {which!r}", f"one of {', '.join(names)}", "choose one of these")
    if not curves:
        raise BilensError("no curve", "at least one", "pass the curves to draw")
    if any(getattr(curve, which) is None for curve in curves):
        raise BilensError(f"a curve without {names[which]}", "a model better than its baseline", "draw the accuracy")
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for place, curve in enumerate(curves):
        kept, values = _numbers("kept", curve.kept), _numbers(which, getattr(curve, which))
        style: dict[str, Any] = {"color": LINES[place % len(LINES)], "marker": _MARKERS[place % len(_MARKERS)]}
        axes.plot(kept, values, label=_short(curve.name, 40), clip_on=False, zorder=3, **style)
    _kept_axis(axes, curves)
    axes.grid(axis="y")
    if which != "cross_entropy":
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        low = min(float(getattr(curve, which).min()) for curve in curves)
        axes.set_ylim(min(0.0, low), 1.0)
    else:
        axes.set_ylim(bottom=0)
    axes.set_title(names[which].capitalize())
    if len(curves) > 1:
        axes.legend(loc="lower right" if which != "cross_entropy" else "upper right")
    return figure


_SHORT_NAME = 24
"""Characters of a name, three of which fit below a figure side by side."""


@_styled
def bands(
    groups: Mapping[str, Sequence[Curve]],
    which: Literal["accuracy", "recovered"] = "accuracy",
    x: str = "components kept",
) -> Figure:
    """Mean of several curves of one kind, for example one a seed, with its 95 % interval as a band.

    Args:
        groups: curves measured at the same numbers of components, by the name that the legend shows.
        which: accuracy or cross-entropy recovered; x: what the numbers that are kept count.

    Raises:
        BilensError: no group, an empty one, curves measured at different points, NaN or infinity.
    """
    if not groups or not all(groups.values()):
        raise BilensError("no curves", "at least one in each group", "pass the curves to draw")
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for place, (name, curves) in enumerate(groups.items()):
        kept = _numbers("kept", curves[0].kept)
        if any(curve.kept.tolist() != curves[0].kept.tolist() for curve in curves):
            raise BilensError(
                f"curves of {name!r} measured at different points", "the same points", "measure them again"
            )
        rows = np.stack([_numbers(which, getattr(curve, which)) for curve in curves])
        means = [interval(column.tolist()) for column in rows.T]
        middle = np.array([value.mean for value in means])
        style: dict[str, Any] = {"color": LINES[place % len(LINES)], "marker": _MARKERS[place % len(_MARKERS)]}
        axes.plot(kept, middle, label=_short(name, 40), clip_on=False, zorder=3, **style)
        if len(curves) > 1:
            half = np.array([value.half for value in means])
            axes.fill_between(kept, middle - half, middle + half, color=style["color"], alpha=0.2, linewidth=0)
    _kept_axis(axes, [curves[0] for curves in groups.values()])
    axes.set_xlabel(x)
    axes.grid(axis="y")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    low = min(float(getattr(curve, which).min()) for curves in groups.values() for curve in curves)
    axes.set_ylim(min(0.0, low), 1.0)
    axes.set_title({"accuracy": "Accuracy", "recovered": "Cross-entropy recovered"}[which])
    if len(groups) > 1:
        columns = 3 if max(map(len, groups)) <= _SHORT_NAME else 2
        axes.legend(loc="lower right") if len(groups) < 5 else figure.legend(loc="outside lower center", ncols=columns)
    return figure


@_styled
def dots(
    groups: Mapping[str, Mapping[str, Sequence[float]]],
    label: str,
    *,
    line: float | None = None,
    shared: bool = True,
) -> Figure:
    """Means with their 95 % intervals as bars: a panel a group, a row a name, and every sample as a small dot below.

    A single sample has no interval, and then the mean stands alone.

    Args:
        groups: samples, for example one a seed, by row, by panel; each panel has the same rows.
        label: of the horizontal axis, with its unit.
        line: where to draw a vertical line, for example 0 for a difference.
        shared: whether the panels have one scale.

    Raises:
        BilensError: no panel, panels with different rows or none, a row without samples, NaN or infinity.
    """
    rows = list(next(iter(groups.values()), ()))
    if not rows or any(list(panel) != rows for panel in groups.values()):
        raise BilensError("panels without rows, or with different ones", "the same rows in each", "name them alike")
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
        axes.set_title(_short(title, 40))
        axes.tick_params(axis="y", length=0)
    axes.set_yticks(range(len(rows)), [_short(row, 40) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    figure.supxlabel(label, size=9, color=MUTED)
    return figure


@_styled
def intervals(groups: Mapping[str, Mapping[int, Sequence[float]]], title: str, x: str, y: str) -> Figure:
    """Mean of samples, for example one a seed, with its 95 % interval as a bar, against a size on a logarithmic axis.

    Args:
        groups: the samples at each size, by the name that the legend shows.
        title: of the figure; x: what the sizes are; y: what the samples are, with its unit.

    Raises:
        BilensError: no group, an empty one, a size below 1, NaN or infinity.
    """
    if not groups or not all(groups.values()):
        raise BilensError("no samples", "at least one size in each group", "pass the samples to draw")
    sizes = sorted({size for samples in groups.values() for size in samples})
    _check_count("size", sizes[0])
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for place, (name, samples) in enumerate(groups.items()):
        means = [interval(list(values)) for values in samples.values()]
        half = [0.0 if math.isinf(value.half) else value.half for value in means]
        axes.errorbar(
            list(samples), [value.mean for value in means], half, label=_short(name, 40), capsize=3, elinewidth=1,
            color=LINES[place % len(LINES)], marker=_MARKERS[place % len(_MARKERS)], zorder=3,
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


@_styled
def terms(explanation: Explanation) -> Figure:
    """A sample beside the sum that makes its number: a bar a term from where the last one ended, largest |term| first,
    then what all other terms add, then the total; the eigenvector √|λ| v of each term above its bar.

    Raises:
        BilensError: no term, NaN or infinity.
    """
    values = _numbers("terms", explanation.terms)
    if not len(values):
        raise BilensError("an explanation without terms", "at least one", "keep an eigenpair")
    total = float(_numbers("total", torch.tensor(explanation.total)))
    spectrum, count = explanation.spectrum, len(values)
    order = np.argsort(-np.abs(values), kind="stable")
    steps = [*values[order].tolist(), total - float(values.sum())]
    ends = np.cumsum(steps)
    cell = 0.72 if spectrum.input.image is not None else 1.5
    sample, chart, height = 1.9, (count + 2) * cell, 3.7
    width = sample + chart + 1.1
    figure = Figure(figsize=(width, height))
    picture = figure.add_axes((0.15 / width, (height - 2.35) / height, 1.6 / width, 1.6 / height))
    lifted = spectrum.input.lift(explanation.x.detach().cpu().double())
    shown = LinearKernel(0, 1.0, lifted, spectrum.input)
    _weights(picture, shown, shared_scale([shown]))
    picture.set_title("the sample", size=8.5, color=MUTED)
    left, bottom, top = (sample + 0.75) / width, 0.62 / height, (height - 0.55 - cell) / height
    axes = figure.add_axes((left, bottom, chart / width, top - bottom))
    for place, (step, end) in enumerate(zip(steps, ends.tolist(), strict=True)):
        axes.bar(place, step, bottom=end - step, width=0.72, color=POSITIVE if step > 0 else NEGATIVE, linewidth=0,
                 alpha=1 if place < count else 0.45)  # fmt: skip
        axes.plot((place - 0.36, place + 1.36), (end, end), color=MUTED, linewidth=0.6, marker="", zorder=1)
        axes.text(place, max(end, end - step), signed(step), size=7, color=MUTED, ha="center", va="bottom")
    axes.bar(count + 1, total, width=0.72, color=INK, linewidth=0)
    axes.text(count + 1, max(total, 0.0), signed(total), size=7.5, color=INK, ha="center", va="bottom", weight="bold")
    low, high = _reach(np.array([0.0, *ends.tolist(), total]))
    axes.set_ylim(low, high + 0.06 * (high - low))
    axes.set_xlim(-0.5, count + 1.5)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    names = [f"λ {signed(float(spectrum.values[int(place)]))}" for place in order]
    axes.set_xticks(range(count + 2), [*names, "all others", "sum"], size=7)
    axes.tick_params(length=0)
    axes.spines["bottom"].set_visible(False)
    axes.grid(axis="y")
    axes.set_ylabel("sum of the terms so far")
    root = spectrum.values.detach().double().abs().sqrt()[:, None] * spectrum.vectors.detach().double()
    kernels = [
        LinearKernel(int(place), float(spectrum.values[int(place)]), root[int(place)].cpu(), spectrum.input)
        for place in order
    ]
    scale = shared_scale(kernels)
    for place, kernel in enumerate(kernels):
        box = (left + (place + 0.06) * cell / width, top + 0.08 / height, 0.88 * cell / width, 0.88 * cell / height)
        _weights(figure.add_axes(box), kernel, scale, entries=4)
    figure.text(0.15 / width, 1 - 0.28 / height, _short(explanation.title, 110), size=11, weight="bold", va="center")
    note = "a term is λ(v·x)²; above it √|λ| · eigenvector, one colour scale:  blue +  red −"
    figure.text(0.15 / width, 0.16 / height, note, size=8, color=MUTED, va="center")
    return figure


@_styled
def certificate(curve: Curve) -> Figure:
    """The proven bound on the truncation error beside the largest error measured, on a logarithmic scale.

    Points where a quantity is 0 have no place on that scale and are left out.

    Raises:
        BilensError: the curve has no error or no bound, or NaN or infinity.
    """
    if curve.error is None or curve.bound is None:
        raise BilensError(f"curve {curve.name!r} without a certificate", "one with error and bound", "compute both")
    kept, error, bound = _numbers("kept", curve.kept), _numbers("error", curve.error), _numbers("bound", curve.bound)
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for values, name, color, marker in (
        (bound, "proven bound", MUTED, "v"),
        (error, "largest error measured", LINES[1], "o"),
    ):
        there = values > 0
        axes.plot(kept[there], values[there], label=name, color=color, marker=marker, zorder=3, clip_on=False)
    both = (error > 0) & (bound > 0)
    axes.fill_between(kept[both], error[both], bound[both], color=MUTED, alpha=0.12, linewidth=0)
    positive = np.concatenate([error[error > 0], bound[bound > 0]])
    if len(positive):
        axes.set_yscale("log")
        _log_axis(axes.yaxis, positive)
    axes.grid(axis="y")
    _kept_axis(axes, [curve])
    axes.set_title(f"{_short(curve.name, 40)}: |logit − its reconstruction|")
    axes.set_ylabel("logits, log scale")
    axes.legend(loc="best")
    return figure


@_styled
def codes(comparison: CodeComparison) -> Figure:
    """Codes as trained (ReLU) against codes through the pseudoinverse, with the line where they are equal.

    Few points are drawn one by one; more than 3,000 are counted in hexagons.

    Raises:
        BilensError: no points, or NaN or infinity.
    """
    x, y = _numbers("codes", comparison.trained), _numbers("codes", comparison.pseudoinverse)
    if not len(x):
        raise BilensError("no codes", "at least one", "compare features that are active")
    figure = Figure(figsize=(4.8, 4.6), layout="constrained")
    axes = figure.add_subplot()
    box = (*_reach(x), *_reach(y))
    if len(x) > _MANY:
        counts = axes.hexbin(
            x, y, gridsize=52, cmap=_COUNTS, norm=LogNorm(vmin=1), mincnt=1, linewidths=0.1, extent=box
        )  # fmt: skip
        bar = figure.colorbar(counts, ax=axes, shrink=0.55, aspect=24, pad=0.02)
        bar.outline.set_visible(False)
        bar.set_label("points in a hexagon")
        _log_axis(bar.ax.yaxis, np.asarray(counts.get_array(), dtype=np.float64))
    else:
        axes.scatter(x, y, s=8, color=LINES[0], alpha=0.35, linewidths=0)
    low, high = max(box[0], box[2]), min(box[1], box[3])
    axes.plot([low, high], [low, high], color=NEGATIVE, linewidth=1.2, linestyle=(0, (4, 3)), label="equal codes")
    axes.set(xlim=box[:2], ylim=box[2:])
    axes.set_xlabel("code as trained (ReLU)")
    axes.set_ylabel("code through the pseudoinverse")
    axes.set_title(f"r = {comparison.correlation:.3f}  ·  {comparison.features} features of rank {comparison.rank}")
    axes.legend(loc="upper left")
    return figure


@_styled
def history(history: History) -> Figure:
    """What a training run logged: one panel a number, against optimiser steps.

    Raises:
        BilensError: nothing was logged, or NaN or infinity.
    """
    if not history.names or not len(history.steps):
        raise BilensError("an empty history", "at least one number at one step", "log while training")
    steps, values = _numbers("steps", history.steps), _numbers("values", history.values)
    columns = min(3, len(history.names))
    rows = -(-len(history.names) // columns)
    figure = Figure(figsize=(0.4 + 3.2 * columns, 0.4 + 2.1 * rows), layout="constrained")
    for place, name in enumerate(history.names):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.plot(steps, values[:, place], color=LINES[0], marker="" if len(steps) > 25 else "o", linewidth=1.2)
        axes.set_title(_short(name, 34))
        axes.grid(axis="y")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.locator_params(axis="x", nbins=4)
        axes.set_xlabel("optimiser steps")
    return figure


@_styled
def singular_values(svd: TensorSVD) -> Figure:
    """Singular values by rank on a logarithmic scale, and the share of ‖B‖² that the first ones hold.

    Raises:
        BilensError: NaN or infinity.
    """
    values = _numbers("singular values", svd.values)
    energy, floor = float(_numbers("energy", svd.energy)), float(_numbers("floor", svd.floor))
    ranks = np.arange(1, len(values) + 1)
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    axes, share = figure.subplots(1, 2)
    there = values > 0
    style = {"marker": "o", "markersize": 3 if len(values) > 30 else 4, "linewidth": 1.0}
    axes.plot(ranks[there], values[there], color=LINES[0], **style)
    if there.any():
        axes.set_yscale("log")
        _log_axis(axes.yaxis, values[there])
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


@_styled
def effects(view: View, count: int = 30) -> Figure:
    """A map of what one unit of each feature adds to each output: features down, outputs across, 0 in the middle.

    Args:
        view: the features, most important first; count: how many of them.

    Raises:
        BilensError: NaN or infinity, a view without features, or a count below 1.
    """
    _check_count("count", count)
    _check_view(view)
    values = _numbers("effects", view.effects)[:count]
    rows, outputs = values.shape
    figure = Figure(figsize=(1.9 + max(0.34 * outputs, 2.0), 0.95 + max(0.24 * rows, 1.0)), layout="constrained")
    axes = figure.add_subplot()
    scale = float(np.abs(values).max()) or 1.0
    picture = axes.imshow(values, cmap=_DIVERGING, vmin=-scale, vmax=scale, aspect="auto", interpolation="none")
    axes.set_xticks(range(outputs), [_short(view.output.label(o), 12) for o in range(outputs)],
                    rotation=0 if outputs <= 12 else 90)  # fmt: skip
    axes.set_yticks(range(rows), [_short(view.spectra[f].label or f"feature {f}", 18) for f in range(rows)])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlabel(_short(view.output.name, 30))
    axes.set_title("Effect of one unit on each output")
    bar = figure.colorbar(picture, ax=axes, shrink=0.5, aspect=24, pad=0.02)
    bar.outline.set_visible(False)
    return figure


@_styled
def gallery(view: View, columns: int = 10, count: int | None = None) -> Figure:
    """The top positive eigenvector of each feature above its top negative one: a picture for a front page.

    The two images of a feature share a scale. The background is transparent and the text grey, so that the picture
    suits light and dark pages.

    Args:
        view: the features, most important first; columns: features side by side; count: how many, all when None.

    Raises:
        BilensError: NaN or infinity, a view without features, or a number below 1.
    """
    _check_count("columns", columns)
    _check_view(view)
    count = len(view) if count is None else min(count, len(view))
    _check_count("count", count)
    columns = min(columns, count)
    blocks = -(-count // columns)
    cell = 1.0 if view.spectra[0].input.image is not None else 2.0
    margin, top, gap = 0.62, 0.34, 0.1
    width, height = margin + columns * (cell + gap), blocks * (top + 2 * (cell + gap)) + 0.1
    figure = Figure(figsize=(width, height), facecolor="none")
    for feature in range(count):
        block, column = divmod(feature, columns)
        shown = linear_kernels(view.spectra[feature], 1)
        scale = shared_scale(shown)
        x = margin + column * (cell + gap)
        y = height - block * (top + 2 * (cell + gap)) - top
        figure.text((x + cell / 2) / width, (y + 0.13) / height, _short(view.spectra[feature].label, 12), size=12,
                    color=BOTH, weight="bold", ha="center", va="center")  # fmt: skip
        for row, sign in enumerate((1, -1)):
            box = (x / width, (y - (row + 1) * cell - row * gap) / height, cell / width, cell / height)
            axes = figure.add_axes(box)
            mine = next((kernel for kernel in shown if kernel.value * sign > 0), None)
            if mine is None:
                _empty(axes, "–")
            else:
                _weights(axes, mine, scale, color=BOTH)
            if column == 0:
                figure.text((margin - 0.14) / width, box[1] + box[3] / 2, "λ > 0" if sign > 0 else "λ < 0", size=10,
                            color=BOTH, ha="right", va="center")  # fmt: skip
    return figure


@_styled
def atlas(views: Sequence[View]) -> Figure:
    """A map of features under several settings: a row a view, a column a feature, its first eigenvector in each.

    Columns have the labels of the first view's features. Each image has a scale of its own: the map shows shapes, and
    says nothing of sizes.

    Args:
        views: each with as many features.

    Raises:
        BilensError: no view, views of different sizes or without features, NaN or infinity.
    """
    if not views or len({len(view) for view in views}) > 1:
        raise BilensError("no views, or views of different sizes", "as many features in each", "show the same features")
    for view in views:
        _check_view(view)
    cell = 0.8 if views[0].spectra[0].input.image is not None else 1.9
    names = [textwrap.wrap(_short(item.label, 40), 13 if cell < 1 else 28) for item in views[0].spectra]
    gap, top = 0.07, 0.2 + 0.13 * max(1, *map(len, names))
    margin = 0.25 + 0.075 * min(40, max(len(view.name) for view in views))
    width, height = margin + len(views[0]) * (cell + gap) + 0.1, top + len(views) * (cell + gap) + 0.05
    figure = Figure(figsize=(width, height))
    for row, view in enumerate(views):
        y = height - top - row * (cell + gap) - cell
        figure.text((margin - 0.12) / width, (y + cell / 2) / height, _short(view.name, 40), size=8.5, ha="right",
                    va="center")  # fmt: skip
        for column, item in enumerate(view.spectra):
            x = margin + column * (cell + gap)
            if row == 0:
                figure.text((x + cell / 2) / width, 1 - (top - 0.07) / height, "\n".join(names[column]), size=8.5,
                            color=MUTED, ha="center", va="bottom")  # fmt: skip
            axes = figure.add_axes((x / width, y / height, cell / width, cell / height))
            shown = linear_kernels(item.keep(min(1, len(item))), 1)
            _weights(axes, shown[0], shared_scale(shown)) if shown else _empty(axes, "–")
    return figure


@_styled
def directions(rows: Mapping[str, Squares], count: int = 6) -> Figure:
    """Directions of one kernel as several methods find them: a row a method, its first directions side by side.

    Each image shows √|c| v on a scale of its own, with its weight c above.

    Args:
        rows: the directions of each method, by the name that stands beside them; count: how many of each.

    Raises:
        BilensError: no row, rows without a direction, NaN or infinity, or a count below 1.
    """
    _check_count("count", count)
    if not rows or not all(len(row) for row in rows.values()):
        raise BilensError("no directions", "at least one in each row", "leave empty rows out")
    columns = min(count, max(map(len, rows.values())))
    cell = 1.1 if next(iter(rows.values())).input.image is not None else 2.0
    margin, gap, top = 0.25 + 0.08 * min(32, max(map(len, rows))), 0.08, 0.24
    width, height = margin + columns * (cell + gap), len(rows) * (cell + top) + 0.05
    figure = Figure(figsize=(width, height))
    for place, (name, row) in enumerate(rows.items()):
        values, vectors = _numbers("weights", row.values), _numbers("directions", row.vectors)
        y = height - (place + 1) * (cell + top)
        figure.text((margin - 0.12) / width, (y + cell / 2) / height, _short(name, 32), size=8.5, ha="right",
                    va="center")  # fmt: skip
        for column in range(min(columns, len(row))):
            x = margin + column * (cell + gap)
            axes = figure.add_axes((x / width, y / height, cell / width, cell / height))
            weights = torch.from_numpy(np.sqrt(abs(values[column])) * vectors[column])
            shown = LinearKernel(column, float(values[column]), weights, row.input)
            _weights(axes, shown, shared_scale([shown]))
            axes.set_title(f"c = {signed(shown.value)}", size=7.5, pad=3, loc="center",
                           color=POSITIVE if shown.value > 0 else NEGATIVE)  # fmt: skip
    return figure


def number(value: float) -> str:
    """A number as figures and pages write it: three digits, a true minus, powers of ten far from 1."""
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e6:
        mantissa, exponent = f"{value:.1e}".split("e")
        power = str(int(exponent)).translate(_SUPERSCRIPTS)
        return (f"10{power}" if mantissa == "1.0" else f"{mantissa}·10{power}").replace("-", "−")
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}".replace("-", "−")


def signed(value: float) -> str:
    """The same with its sign in front, plus included."""
    return ("+" if value > 0 else "") + number(value)


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as SVG or PNG, by the path's ending; whole or not at all, and the same bytes each time.

    Raises:
        StoreError: another ending, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix == ".svg":
        write_bytes(path, svg(figure))
    elif path.suffix == ".png":
        write_bytes(path, png(figure))
    else:
        raise StoreError(f"a figure to be written as {path.name!r}", "a name that ends in .svg or .png", "rename it")


@_styled
def png(figure: Figure) -> bytes:
    """A figure as PNG, 200 pixels an inch; the same bytes each time."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(buffer, format="png", dpi=200, facecolor="auto", metadata={"Software": None})
    return buffer.getvalue()


@_styled
def svg(figure: Figure, *, background: bool = True) -> bytes:
    """A figure as SVG; the same bytes each time.

    Text stays text: it is measured with the font that matplotlib carries, and shown in the reader's own.

    Args:
        figure: as the functions here draw it; background: whether it has its own, or shows the page behind it.
    """
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(
        buffer, format="svg", facecolor="auto" if background else "none", metadata={"Date": None, "Creator": None}
    )
    return buffer.getvalue().replace(b"'DejaVu Sans', ", b"")


def on_dark(svg: bytes) -> bytes:
    """An SVG without background, as `svg` writes it, in colours for a dark page behind it."""
    return re.sub("|".join(_ON_DARK), lambda match: _ON_DARK[match[0]], svg.decode()).encode()


def _eigenvalues(axes: Any, spectrum: Spectrum, shown: set[int]) -> None:
    """Bars of λ by rank; the pairs shown as pictures in full colour."""
    values = _numbers("eigenvalues", spectrum.values)
    discarded = float(_numbers("discarded", spectrum.discarded))
    count = min(len(values), 40)
    for i in range(count):
        color = POSITIVE if values[i] > 0 else NEGATIVE
        axes.bar(i + 1, values[i], width=0.72, color=color, alpha=1 if i in shown else 0.4, linewidth=0)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    if discarded > 0 and count == len(values):
        axes.axhspan(-discarded, discarded, color=MUTED, alpha=0.14, linewidth=0, zorder=0)
        axes.text(0.99, 0.985, "grey: |λ| of the others", transform=axes.transAxes, size=7.5, color=MUTED, ha="right",
                  va="top")  # fmt: skip
    axes.set_xlim(0.3, max(count, 4) + 0.7)
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("rank by |λ|" + (f", first {count} of {len(values)}" if count < len(values) else ""))
    axes.set_title("Eigenvalues λ", pad=6)
    axes.spines["bottom"].set_visible(False)
    axes.grid(axis="y")


def _kernel(axes: Any, kernel: LinearKernel, scale: float) -> None:
    """One eigenvector with its eigenvalue above and the weight of the constant coordinate below."""
    _weights(axes, kernel, scale)
    color = POSITIVE if kernel.value > 0 else NEGATIVE
    axes.set_title(f"λ = {signed(kernel.value)}", size=8, pad=3, color=color, loc="center")
    if kernel.bias is not None:
        axes.text(0.5, -0.03, f"constant {signed(kernel.bias)}", transform=axes.transAxes, size=6.5, color=MUTED,
                  ha="center", va="top")  # fmt: skip


def _weights(axes: Any, kernel: LinearKernel, scale: float, *, color: str = MUTED, entries: int = 8) -> None:
    """√|λ| v as an image, or as bars of its largest entries when the input is no image."""
    weights = _numbers("weights", kernel.image)
    if kernel.input.image is not None:
        axes.imshow(weights.reshape(kernel.input.image), cmap=_DIVERGING, vmin=-scale, vmax=scale, interpolation="none")
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set(visible=True, color=RULE, linewidth=0.6)
        return
    largest = np.argsort(-np.abs(weights), kind="stable")[:entries]
    axes.barh(
        range(len(largest)), weights[largest], height=0.7, linewidth=0,
        color=[POSITIVE if value > 0 else NEGATIVE for value in weights[largest]],
    )  # fmt: skip
    axes.set_yticks(range(len(largest)), [_short(kernel.input.label(int(i)), 12) for i in largest], size=7, color=color)
    axes.set_ylim(len(largest) - 0.4, -0.6)
    axes.set_xlim(-1.05 * scale, 1.05 * scale)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.axvline(0, color=color, linewidth=0.6)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _effect_bars(axes: Any, values: _Numbers, output: Space, largest: float, *, last: bool) -> None:
    axes.bar(
        range(len(values)), values, width=0.7, linewidth=0,
        color=[POSITIVE if value > 0 else NEGATIVE for value in values],
    )  # fmt: skip
    axes.axhline(0, color=MUTED, linewidth=0.6)
    axes.set_ylim(-1.05 * largest, 1.05 * largest)
    axes.set_yticks([])
    labelled = last and len(values) <= 16
    axes.set_xticks(range(len(values)) if labelled else [])
    if labelled:
        axes.set_xticklabels([_short(output.label(o), 5) for o in range(len(values))], size=7)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _kept_axis(axes: Any, curves: Sequence[Curve]) -> None:
    """The axis of how many components are kept: linear up to 60, logarithmic beyond, with plain numbers."""
    kept = sorted({int(value) for curve in curves for value in curve.kept.tolist()})
    if not kept:
        raise BilensError("a curve without points", "at least one", "score at least one number of components")
    axes.set_xlabel("components kept")
    if kept[-1] <= 60:
        axes.locator_params(axis="x", integer=True)
        return
    axes.set_xscale("symlog", linthresh=1, linscale=0.4)
    axes.set_xlim(kept[0] * 0.85, kept[-1] * 1.02)
    bases = (1, 2, 5) if kept[-1] <= 10**3 * max(1, kept[0]) else (1,)
    steps = [0, *(base * 10**power for power in range(len(str(kept[-1]))) for base in bases)]
    ticks = [step for step in steps if kept[0] <= step <= kept[-1]]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


def _reach(values: _Numbers) -> tuple[float, float]:
    """From the least to the largest value, 0 included, with a little room on both sides."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    room = 0.03 * (high - low) if high > low else 1.0
    return low - room, high + room


def _empty(axes: Any, text: str) -> None:
    axes.set_axis_off()
    if text:
        axes.text(0.5, 0.5, text, transform=axes.transAxes, size=7.5, color=MUTED, ha="center", va="center")


def _numbers(what: str, value: Tensor) -> _Numbers:
    """A tensor as float64 numbers.

    Raises:
        BilensError: NaN or infinity.
    """
    numbers: _Numbers = value.detach().cpu().double().numpy()
    if not np.isfinite(numbers).all():
        raise BilensError(f"{what} with NaN or infinity", "finite numbers", "check how they were computed")
    return numbers


def _check_count(name: str, value: int) -> None:
    if value < 1:
        raise BilensError(f"{name} = {value}", f"{name} ≥ 1", "show at least one")


def _check_view(view: View) -> None:
    if not len(view):
        raise BilensError(f"view {view.name!r} without features", "at least one", "keep more features")
    _numbers("effects", view.effects)


def _short(text: str, limit: int) -> str:
    """Text on one line, at most `limit` characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _log_axis(axis: Any, values: _Numbers) -> None:
    """Ticks of a logarithmic axis as plain numbers: 1, 2 and 5 of each decade over few decades, else whole decades."""
    low, high = float(values.min()), float(values.max())
    subs = (1.0,) if high / low > 50 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=subs, numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if 1e-3 <= value < 1e4 else number(value)))
    axis.set_minor_locator(NullLocator())
