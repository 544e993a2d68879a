"""Features: their spectra, their eigenvectors side by side, their effects, and a number as the sum of its terms."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from bilens._internal.checks import instance
from bilens.decompose import Spectrum
from bilens.errors import BilensError
from bilens.features import Explanation, FeatureSet
from bilens.plots._checks import check_count, check_view
from bilens.plots.kernels import (
    LinearKernel,
    draw_effects,
    draw_kernel,
    draw_sample,
    draw_weights,
    linear_kernels,
    shared_scale,
)
from bilens.plots.style import (
    BOTH,
    DIVERGING_MAP,
    INK,
    MUTED,
    NEGATIVE,
    POSITIVE,
    empty,
    number,
    numbers,
    reach,
    short,
    signed,
    styled,
)


@styled
def spectrum(spectrum: Spectrum, k: int = 4) -> Figure:
    """Eigenvalues by rank, beside the top k positive and the top k negative eigenvectors as √|λ| v.

    Examples:
        >>> from bilens import decompose, plots
        >>> found = decompose.eigh(Kernel.from_matrix(torch.diag(torch.tensor([3.0, -5.0])), Space("x", 2)))
        >>> figure = plots.spectrum(found, k=1)
        >>> len(figure.axes)  # the eigenvalues, an eigenvector of each sign
        3

    Images share one scale, centred on 0; other inputs are drawn as their largest entries with labels. The
    weight of the constant coordinate is stated under each eigenvector.

    Raises:
        BilensError: NaN or infinity, or k below 1.
    """
    shown = linear_kernels(spectrum, k)
    k = min(k, len(spectrum))
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
                draw_kernel(axes, mine[column], scale)
            else:
                empty(axes, f"no {'other ' if mine else ''}{name}\neigenvalue" if column == len(mine) else "")
    title = f"Kernel of {short(spectrum.label, 60)}" if spectrum.label else "Kernel"
    figure.text(0.02, 0.955, title, size=12, weight="bold", va="center")
    figure.text(0.985, 0.955, "√|λ| · eigenvector, one colour scale:  blue +  red −", size=8, color=MUTED, ha="right",
                va="center")  # fmt: skip
    return figure


@styled
def view(view: FeatureSet, count: int = 8, k: int = 3) -> Figure:
    """One row per feature: its label, what it moves, its top k positive and negative eigenvectors, its effects.

    Args:
        view: the features, most important first; count: how many of them; k: eigenvectors of each sign.

    Raises:
        BilensError: NaN or infinity, or a count or k below 1.
    """
    check_count("count", count)
    check_count("k", k)
    check_view(view)
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
        empty(words, "")
        words.text(0, 0.86, short(view.spectra[row].label or f"feature {row}", 20), size=11, weight="bold", va="top")
        importance = numbers("importance", view.importance)[row]
        words.text(0, 0.58, f"{short(view.measure, 24)} {number(importance)}", size=7.5, color=MUTED, va="top")
        words.text(0, 0.36, short(view.speaks(row), 30), size=7.5, color=INK, va="top")
        for offset, sign in ((1, 1), (k + 2, -1)):
            mine = [kernel for kernel in shown if kernel.value * sign > 0]
            for column in range(k):
                axes = figure.add_subplot(grid[row, offset + column])
                draw_kernel(axes, mine[column], scale) if column < len(mine) else empty(axes, "–")
        effects = figure.add_subplot(grid[row, 2 * k + 2])
        draw_effects(effects, numbers("effects", view.effects[row]), view.output, largest, last=row == rows - 1)
    x = grid.get_grid_positions(figure)
    for column, words_above in ((1, "positive eigenvectors"), (k + 2, "negative eigenvectors"), (2 * k + 2, "effect")):
        figure.text(x[2][column], 1 - 0.42 / height, words_above, size=8.5, color=MUTED, va="center")
    figure.text(0.15 / width, 1 - 0.42 / height, short(view.name, 24), size=12, weight="bold", va="center")
    return figure


@styled
def terms(explanation: Explanation) -> Figure:
    """Waterfall chart of eigenvector terms beside the sample they explain: one bar per term, largest |term| first, then
    what all other terms add, then the total; the eigenvector √|λ| v of each term above its bar.

    Raises:
        BilensError: no term, NaN or infinity.
    """
    instance("explanation", explanation, Explanation)
    values = numbers("terms", explanation.terms)
    if not len(values):
        raise BilensError("an explanation without terms", "at least one")
    total = float(numbers("total", torch.tensor(explanation.total)))
    spectrum, count = explanation.spectrum, len(values)
    order = np.argsort(-np.abs(values), kind="stable")
    steps = [*values[order].tolist(), total - float(values.sum())]
    ends = np.cumsum(steps)
    cell = 0.72 if spectrum.input.image is not None else 1.5
    sample, chart, height = 1.9, (count + 2) * cell, 3.7
    width = sample + chart + 1.1
    figure = Figure(figsize=(width, height))
    picture = figure.add_axes((0.15 / width, (height - 2.35) / height, 1.6 / width, 1.6 / height))
    draw_sample(picture, explanation.x, spectrum.input)
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
    low, high = reach(np.array([0.0, *ends.tolist(), total]))
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
        draw_weights(figure.add_axes(box), kernel, scale, entries=4)
    figure.text(0.15 / width, 1 - 0.28 / height, short(explanation.title, 110), size=11, weight="bold", va="center")
    note = "a term is λ(v·x)²; above it √|λ| · eigenvector, on one colour scale; blue adds, red takes off"
    figure.text(0.15 / width, 0.16 / height, note, size=8, color=MUTED, va="center")
    return figure


@styled
def effects(view: FeatureSet, count: int = 30) -> Figure:
    """A map of what one unit of each feature adds to each output: features down, outputs across, 0 in the middle.

    Args:
        view: the features, most important first; count: how many of them.

    Raises:
        BilensError: NaN or infinity, a view without features, or a count below 1.
    """
    check_count("count", count)
    check_view(view)
    values = numbers("effects", view.effects)[:count]
    rows, outputs = values.shape
    figure = Figure(figsize=(1.9 + max(0.34 * outputs, 2.0), 0.95 + max(0.24 * rows, 1.0)), layout="constrained")
    axes = figure.add_subplot()
    scale = float(np.abs(values).max()) or 1.0
    picture = axes.imshow(values, cmap=DIVERGING_MAP, vmin=-scale, vmax=scale, aspect="auto", interpolation="none")
    axes.set_xticks(range(outputs), [short(view.output.label(o), 12) for o in range(outputs)],
                    rotation=0 if outputs <= 12 else 90)  # fmt: skip
    axes.set_yticks(range(rows), [short(view.spectra[f].label or f"feature {f}", 18) for f in range(rows)])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlabel(short(view.output.name, 30))
    axes.set_title("Effect of one unit on each output")
    bar = figure.colorbar(picture, ax=axes, shrink=0.5, aspect=24, pad=0.02)
    bar.outline.set_visible(False)
    return figure


@styled
def gallery(view: FeatureSet, columns: int = 10, count: int | None = None) -> Figure:
    """The top positive eigenvector of each feature above its top negative one: a picture for a front page.

    The two images of a feature share a scale. The background is transparent and the text grey, so that the picture
    suits light and dark pages.

    Args:
        view: the features, most important first; columns: features side by side; count: how many, all when None.

    Raises:
        BilensError: NaN or infinity, a view without features, or a number below 1.
    """
    check_count("columns", columns)
    check_view(view)
    count = len(view) if count is None else min(count, len(view))
    check_count("count", count)
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
        figure.text((x + cell / 2) / width, (y + 0.13) / height, short(view.spectra[feature].label, 12), size=12,
                    color=BOTH, weight="bold", ha="center", va="center")  # fmt: skip
        for row, sign in enumerate((1, -1)):
            box = (x / width, (y - (row + 1) * cell - row * gap) / height, cell / width, cell / height)
            axes = figure.add_axes(box)
            mine = next((kernel for kernel in shown if kernel.value * sign > 0), None)
            if mine is None:
                empty(axes, "–")
            else:
                draw_weights(axes, mine, scale, color=BOTH)
            if column == 0:
                figure.text((margin - 0.14) / width, box[1] + box[3] / 2, "λ > 0" if sign > 0 else "λ < 0", size=10,
                            color=BOTH, ha="right", va="center")  # fmt: skip
    return figure


def _eigenvalues(axes: Any, spectrum: Spectrum, shown: set[int]) -> None:
    """Bars of λ by rank; the pairs shown as pictures in full colour."""
    values = numbers("eigenvalues", spectrum.values)
    discarded = float(numbers("discarded", spectrum.discarded))
    count = min(len(values), 40)
    for i in range(count):
        color = POSITIVE if values[i] > 0 else NEGATIVE
        axes.bar(i + 1, values[i], width=0.72, color=color, alpha=1 if i in shown else 0.4, linewidth=0)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    if discarded > 1e-9 * max(abs(values), default=0) and count == len(values):  # more than rounding
        axes.axhspan(-discarded, discarded, color=MUTED, alpha=0.14, linewidth=0, zorder=0)
        axes.text(0.99, 0.985, "grey: |λ| of the others", transform=axes.transAxes, size=7.5, color=MUTED, ha="right",
                  va="top")  # fmt: skip
    axes.set_xlim(0.3, max(count, 4) + 0.7)
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("rank by |λ|" + (f", first {count} of {len(values)}" if count < len(values) else ""))
    axes.set_title("Eigenvalues λ", pad=6)
    axes.spines["bottom"].set_visible(False)
    axes.grid(axis="y")
