"""A tree of templates: the distribution of each root over classes, its leaves, and what it adds to the output."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from torch import Tensor

from bilens._internal.checks import instance
from bilens.decompose import KernelTree
from bilens.errors import BilensError, ShapeError
from bilens.plots._checks import check_count
from bilens.plots.kernels import LinearKernel, draw_effects, draw_weights
from bilens.plots.style import (
    INK,
    MUTED,
    NEGATIVE,
    POSITIVE,
    Numbers,
    empty,
    numbers,
    short,
    signed,
    styled,
)
from bilens.space import Space


@styled
def kernel_tree(
    tree: KernelTree,
    x: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    classes: Space,
    *,
    roots: int = 4,
    leaves: int = 3,
) -> Figure:
    """One row per root: q on the samples of each class, its largest leaves of each sign, and the mean λ q² by class.

    A root is a square and does not see the sign of q, which is why the distribution of q is drawn: boxes from quartile
    to quartile with the median, and lines from the 1st to the 99th percentile. The leaves of a root, √|μ| times their
    patterns, share one scale, so that a pale picture counts for little.

    Args:
        tree: `decompose.kernel_tree`; x: samples, (n, d); labels: (n,), the number of the class of each.
        classes: names of the classes.
        roots: rows, at most those of the tree; leaves: of each sign.

    Raises:
        BilensError: labels outside the classes, a class without a sample, NaN or infinity, or a count below 1.
        ShapeError: another number of labels than of samples.
    """
    instance("tree", tree, KernelTree)
    check_count("roots", roots)
    check_count("leaves", leaves)
    instance("labels", labels, Tensor)
    if tuple(labels.shape) != tuple(x.shape[:1]):
        raise ShapeError(f"labels of shape {tuple(labels.shape)}", f"({len(x)},)")
    counts = torch.bincount(labels.clamp(min=0), minlength=classes.size)
    if len(counts) > classes.size or bool((labels < 0).any()) or not bool((counts > 0).all()):
        raise BilensError(f"labels of {int((counts > 0).sum())} classes", f"all of {classes.title}, and no others")
    rows = min(roots, len(tree))
    forms, terms = numbers("forms", tree.forms(x)), numbers("terms", tree.contributions(x))
    owner = labels.cpu().numpy()
    means = np.stack([terms[owner == one].mean(axis=0) for one in range(classes.size)])
    width, height = 2.4 + 2.1 * leaves + 2.6, 1.35 * rows + 0.9
    figure = Figure(figsize=(width, height))
    grid = figure.add_gridspec(
        rows, 2 * leaves + 2, width_ratios=[2.0, *[1.0] * (2 * leaves), 1.9],
        left=0.3 / width, right=1 - 0.2 / width, top=1 - 0.85 / height, bottom=0.3 / height, hspace=0.45, wspace=0.14,
    )  # fmt: skip
    for row in range(rows):
        share = float(tree.values[row] ** 2 / tree.energy)
        left = figure.add_subplot(grid[row, 0])
        color = POSITIVE if float(tree.values[row]) > 0 else NEGATIVE
        left.set_title(f"λ = {signed(float(tree.values[row]))}, {share:.0%} of ‖T‖²", size=8, pad=3, color=color)
        _boxes(left, [forms[owner == one, row] for one in range(classes.size)], classes, last=row == rows - 1)
        _leaves(figure, grid, tree, row, leaves)
        right, most = figure.add_subplot(grid[row, 2 * leaves + 1]), int(np.abs(means[:, row]).argmax())
        largest = float(means[most, row])
        draw_effects(right, means[:, row], classes, abs(largest) or 1.0, last=row == rows - 1)
        right.set_title(f"{short(classes.label(most), 12)}: {signed(largest)}", size=8, pad=3, color=MUTED)
    kept = float(tree.values[:rows].square().sum() / tree.energy)
    figure.text(0.02, 1 - 0.25 / height, f"{short(tree.deep.output.name, 40)} = Σ λ q²,  q = Σ μ (w·x)²", size=12,
                weight="bold", va="center", color=INK)  # fmt: skip
    said = f"q by class · leaves for q, then against it · mean λ q² by class, {len(x):,} samples; {kept:.1%} of ‖T‖²"
    figure.text(0.02, 1 - 0.52 / height, said, size=8, color=MUTED, va="center")
    return figure


def _boxes(axes: Any, values: list[Numbers], classes: Space, *, last: bool) -> None:
    """Boxes of each class without the points beyond, and the line of q = 0."""
    axes.boxplot(
        values, whis=(1, 99), showfliers=False, widths=0.6,
        boxprops={"linewidth": 0.7, "color": INK}, whiskerprops={"linewidth": 0.7, "color": INK},
        capprops={"linewidth": 0.7, "color": INK}, medianprops={"linewidth": 1.0, "color": INK},
    )  # fmt: skip
    axes.axhline(0, color=MUTED, linewidth=0.6)
    axes.set_yticks([])
    shown = last and classes.size <= 16
    axes.set_xticks(range(1, classes.size + 1) if shown else [])
    if shown:
        axes.set_xticklabels([short(classes.label(one), 5) for one in range(classes.size)], size=7)
    axes.tick_params(length=0)


def _leaves(figure: Figure, grid: Any, tree: KernelTree, row: int, leaves: int) -> None:
    """The largest leaves with μ > 0, then those with μ < 0."""
    values, patterns = numbers("leaves", tree.leaf_values[row]), numbers("patterns", tree.patterns[row])
    scaled = np.sqrt(np.abs(values))[:, None] * patterns
    chosen = [np.flatnonzero(values > 0)[:leaves], np.flatnonzero(values < 0)[:leaves]]
    drawn = np.concatenate(chosen)
    input = tree.deep.input
    scale = float(np.abs(scaled[drawn][:, : input.size]).max()) or 1.0
    for side, places in enumerate(chosen):
        for column in range(leaves):
            axes = figure.add_subplot(grid[row, 1 + side * leaves + column])
            if column >= len(places):
                empty(axes, "–")
                continue
            place = int(places[column])
            leaf = LinearKernel(place, float(values[place]), torch.from_numpy(scaled[place]), input)
            draw_weights(axes, leaf, scale)
            color = POSITIVE if leaf.value > 0 else NEGATIVE
            axes.set_title(f"μ = {signed(leaf.value)}", size=7.5, pad=2, color=color, loc="center")
