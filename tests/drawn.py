"""Records to draw, and what stands in a figure that was drawn."""

from __future__ import annotations

import matplotlib.image
import torch

from bilens import plots
from bilens.decompose import Spectrum
from bilens.faithfulness import Curve
from bilens.features import FeatureSet
from bilens.space import Space

PIXELS = Space("pixels", 6, image=(2, 3))
CLASSES = Space("classes", 3, ("cat", "dog", "cow"))

T2 = 0.95 * (2 / (1 - 0.95**2)) ** 0.5
"""Student's t of a 95 % interval with two degrees of freedom, in closed form."""


def make_spectrum(values: list[float], space: Space = PIXELS, label: str = "cat", discarded: float = 0.0) -> Spectrum:
    vectors = torch.eye(space.dim, dtype=torch.float64)[: len(values)]
    numbers = torch.tensor(values, dtype=torch.float64)
    return Spectrum(
        numbers, vectors, torch.zeros_like(numbers), torch.tensor(discarded), numbers.square().sum(), space, label
    )


def make_view(n: int, space: Space = PIXELS) -> FeatureSet:
    effects = torch.arange(3.0 * n, dtype=torch.float64).reshape(n, 3) - 1
    spectra = tuple(make_spectrum([4.0, -1.0], space, f"f{i}") for i in range(n))
    return FeatureSet("svd", spectra, torch.arange(n, 0, -1, dtype=torch.float64), "σ", effects, CLASSES)


def make_curve(**columns: torch.Tensor) -> Curve:
    share = torch.tensor([0.2, 0.7, 0.95])
    return Curve("SVD", torch.tensor([1, 10, 100]), share, 1 - share, share / 2, **columns)


def texts(figure: plots.Figure) -> list[str]:
    found = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        found += [text.get_text() for text in axes.texts]
        found += [axes.get_title(loc=loc) for loc in ("left", "center")]
        found += [label.get_text() for label in (*axes.get_xticklabels(), *axes.get_yticklabels())]
        found += [axes.get_xlabel(), axes.get_ylabel()]
    return found


def images(figure: plots.Figure) -> list[matplotlib.image.AxesImage]:
    return [image for axes in figure.axes for image in axes.get_images()]
