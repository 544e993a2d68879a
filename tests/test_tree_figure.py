"""The figure of a tree of templates: what is drawn is what the record says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bilens import BilensError, BilinearTensor, ShapeError, Space, decompose, plots
from bilens.deep import DeepTensor
from drawn import CLASSES, PIXELS, images, texts
from messages import refuses
from oracle import array, near
from strategies import filled

HIDDEN = Space("hidden", 4)
NETWORK = DeepTensor.chain(
    BilinearTensor(*(filled("normal", *shape, n) for n, shape in enumerate(((5, 6), (5, 6), (4, 5)))), PIXELS, HIDDEN),
    BilinearTensor(*(filled("normal", *shape, n) for n, shape in enumerate(((5, 4), (5, 4), (3, 5)))), HIDDEN, CLASSES),
)
X, LABELS = filled("normal", 60, 6, 9), torch.arange(60) % 3


def test_a_row_has_the_leaves_of_a_root_and_its_terms_by_class() -> None:
    tree = decompose.kernel_tree(NETWORK, "dog", roots=2, leaves=4)
    figure = plots.kernel_tree(tree, X, LABELS, CLASSES, roots=2, leaves=2)
    shown = iter(images(figure))
    for root in range(2):
        values = array(tree.leaf_values[root])
        pictures = []
        for sign in (1, -1):
            for place in [n for n in range(4) if values[n] * sign > 0][:2]:
                picture = next(shown)
                pictures.append(np.sqrt(abs(values[place])) * array(tree.patterns[root, place]))
                near(picture.get_array(), pictures[-1].reshape(2, 3))
                near(picture.get_clim()[1], -picture.get_clim()[0])
        near(picture.get_clim()[1], np.abs(pictures).max())
        terms = array(tree.contributions(X)[:, root])
        means = [terms[array(LABELS) == one].mean() for one in range(3)]
        bars = next(
            axes
            for axes in figure.axes
            if len(axes.patches) == 3 and np.isclose(axes.patches[0].get_height(), means[0])
        )
        near([patch.get_height() for patch in bars.patches], means)
    assert next(shown, None) is None
    said = " ".join(texts(figure))
    assert "60 samples" in said
    assert plots.signed(float(means[int(np.abs(means).argmax())])) in said
    assert "dog = Σ λ q²" in said
    assert all(name in said for name in ("cat", "dog", "cow"))


@pytest.mark.bad_input
def test_what_is_refused() -> None:
    tree = decompose.kernel_tree(NETWORK, 0, roots=1, leaves=1)
    with refuses(BilensError, "tree of type int"):
        plots.kernel_tree(3, X, LABELS, CLASSES)
    with refuses(ShapeError, "labels of shape (2,); expected (60,)"):
        plots.kernel_tree(tree, X, LABELS[:2], CLASSES)
    with refuses(BilensError, "labels of 1 classes; expected all of 'classes' (3), and no others"):
        plots.kernel_tree(tree, X, 0 * LABELS, CLASSES)
    with refuses(BilensError, "and no others"):
        plots.kernel_tree(tree, X, LABELS + 1, CLASSES)
    with refuses(BilensError, "roots = 0"):
        plots.kernel_tree(tree, X, LABELS, CLASSES, roots=0)
    with refuses(BilensError, "leaves = 0"):
        plots.kernel_tree(tree, X, LABELS, CLASSES, leaves=0)
