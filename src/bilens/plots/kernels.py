"""Eigenvectors as pictures: √|λ| v on one diverging scale, as an image or as bars of its largest entries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bilens._internal.checks import instance, several
from bilens._internal.shown import line
from bilens.decompose import Spectrum
from bilens.plots._checks import check_count
from bilens.plots.style import (
    MUTED,
    NEGATIVE,
    ONE,
    OTHER,
    PATTERN_MAP,
    POSITIVE,
    RULE,
    Numbers,
    numbers,
    short,
    signed,
)
from bilens.space import Space


@dataclass(frozen=True, eq=False, repr=False)
class LinearKernel:
    """√|λ| v of one eigenpair. The pair adds (weights·x')² to the feature where λ > 0, and −(weights·x')² where λ < 0.

    Args:
        rank: place in the spectrum, 0 for the largest |λ|; value: λ.
        weights: √|λ| v, (i,), over the folded input, in float64.
        input: the space of x.
    """

    rank: int
    value: float
    weights: Float[Tensor, " i"]
    input: Space

    __repr__ = line

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

    λ (v·x')² = sign(λ) (√|λ| v·x')², so entries of √|λ| v have the unit of √output in every eigenvector of a kernel,
    and one colour scale for all of them means something.

    Raises:
        BilensError: NaN or infinity, or k below 1.
    """
    check_count("k", k)
    instance("spectrum", spectrum, Spectrum)
    values = numbers("eigenvalues", spectrum.values)
    vectors = numbers("eigenvectors", spectrum.vectors)
    chosen = [*np.flatnonzero(values > 0)[:k], *np.flatnonzero(values < 0)[:k]]
    return tuple(
        LinearKernel(int(i), float(values[i]), torch.from_numpy(np.sqrt(abs(values[i])) * vectors[i]), spectrum.input)
        for i in chosen
    )


def shared_scale(kernels: Sequence[LinearKernel]) -> float:
    """The largest |entry| over the linear kernels shown together, the constant coordinate aside; 1 when all are 0."""
    kernels = several("kernels", kernels, "a list of linear kernels", "take them with linear_kernels")
    for kernel in kernels:
        instance("a kernel", kernel, LinearKernel)
    largest = max((float(kernel.image.abs().max()) for kernel in kernels), default=0.0)
    return largest if largest > 0 else 1.0


def draw_kernel(axes: Any, kernel: LinearKernel, scale: float) -> None:
    """One eigenvector with its eigenvalue above and, where it is not 0, the weight of the constant below."""
    draw_weights(axes, kernel, scale)
    color = POSITIVE if kernel.value > 0 else NEGATIVE
    axes.set_title(f"λ = {signed(kernel.value)}", size=8, pad=3, color=color, loc="center")
    if kernel.bias is not None and abs(kernel.bias) > 1e-6 * scale:
        axes.text(0.5, -0.03, f"constant {signed(kernel.bias)}", transform=axes.transAxes, size=6.5, color=MUTED,
                  ha="center", va="top")  # fmt: skip


def draw_weights(axes: Any, kernel: LinearKernel, scale: float, *, color: str = MUTED, entries: int = 8) -> None:
    """√|λ| v as an image, or bars of its largest entries when the input is not one: green above 0, purple below."""
    weights = numbers("weights", kernel.image)
    if kernel.input.image is not None:
        picture = weights.reshape(kernel.input.image)
        axes.imshow(picture, cmap=PATTERN_MAP, vmin=-scale, vmax=scale, interpolation="none")
        _frame(axes)
    else:
        _bars(axes, weights, kernel.input, scale=scale, colors=(ONE, OTHER), color=color, entries=entries)


def draw_sample(axes: Any, x: Float[Tensor, " d"], space: Space) -> None:
    """A sample: ink on paper, or bars of its largest entries when it is not an image, positive ones to the right."""
    values = numbers("a sample", x)
    if space.image is not None:
        axes.imshow(values.reshape(space.image), cmap="gray_r", vmin=min(0.0, float(values.min())),
                    vmax=max(1.0, float(values.max())), interpolation="none")  # fmt: skip
        _frame(axes)
    else:
        scale = float(np.abs(values).max()) or 1.0
        _bars(axes, values, space, scale=scale, colors=(MUTED, MUTED), color=MUTED, entries=8)


def _frame(axes: Any) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=True, color=RULE, linewidth=0.6)


def _bars(
    axes: Any, values: Numbers, space: Space, *, scale: float, colors: tuple[str, str], color: str, entries: int
) -> None:
    """Bars of the largest entries, and how many there are where not all are drawn."""
    largest = np.argsort(-np.abs(values), kind="stable")[:entries]
    axes.barh(
        range(len(largest)), values[largest], height=0.7, linewidth=0,
        color=[colors[0] if value > 0 else colors[1] for value in values[largest]],
    )  # fmt: skip
    axes.set_yticks(range(len(largest)), [short(space.label(int(i)), 14) for i in largest], size=7, color=color)
    axes.set_ylim(len(largest) - 0.4, -0.6)
    axes.set_xlim(-1.05 * scale, 1.05 * scale)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.axvline(0, color=color, linewidth=0.6)
    if len(largest) < len(values):
        axes.text(1, -0.02, f"{len(largest)} of {len(values)}", transform=axes.transAxes, size=6.5, color=color,
                  ha="right", va="top")  # fmt: skip
    for spine in axes.spines.values():
        spine.set_visible(False)


def draw_effects(axes: Any, values: Numbers, output: Space, largest: float, *, last: bool) -> None:
    """Bars of what a feature adds to each output, with their names below the last row."""
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
        axes.set_xticklabels([short(output.label(o), 5) for o in range(len(values))], size=7)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
