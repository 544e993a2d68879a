"""Figures of the programme, read back from what was drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from bilens import plots
from bilens.errors import BilensError
from drawn import PIXELS, T2, images, make_curve, make_spectrum, make_view, texts
from reproduction import charts
from reproduction.methods.squares import Squares


def test_bands_go_through_the_means_and_reach_as_far_as_the_intervals():
    values = torch.tensor([[0.2, 0.7, 0.95], [0.3, 0.5, 0.95], [0.1, 0.6, 0.95]], dtype=torch.float64)
    seeds = [replace(make_curve(), accuracy=row) for row in values]
    axes = charts.bands({"three seeds": seeds, "one seed": [make_curve()]}).axes[0]
    three, one = axes.get_lines()
    np.testing.assert_allclose(three.get_xdata(), [1, 10, 100])
    np.testing.assert_allclose(three.get_ydata(), [0.2, 0.6, 0.95])
    np.testing.assert_allclose(one.get_ydata(), [0.2, 0.7, 0.95])
    (band,) = axes.collections  # none for a single seed
    corners = band.get_paths()[0].vertices
    for kept, mean, half in ((1, 0.2, T2 * 0.1 / 3**0.5), (10, 0.6, T2 * 0.1 / 3**0.5), (100, 0.95, 0)):
        here = corners[np.isclose(corners[:, 0], kept), 1]
        np.testing.assert_allclose([here.min(), here.max()], [mean - half, mean + half], atol=1e-9)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["three seeds", "one seed"]
    recovered = charts.bands({"": seeds}, "recovered").axes[0]
    np.testing.assert_allclose(recovered.get_lines()[0].get_ydata(), make_curve().recovered)
    assert recovered.get_title(loc="left") == "Cross-entropy recovered"
    assert [axes.get_xlabel(), charts.bands({"": seeds}, x="numbers stored").axes[0].get_xlabel()] == [
        "components kept",
        "numbers stored",
    ]


def test_bands_of_curves_that_do_not_fit_are_refused():
    for groups in ({}, {"empty": []}, {"full": [make_curve()], "empty": []}):
        with pytest.raises(BilensError, match="no curves"):
            charts.bands(groups)
    other = replace(make_curve(), kept=torch.tensor([1, 10, 50]))
    with pytest.raises(BilensError, match="'mixed' measured at different points"):
        charts.bands({"mixed": [make_curve(), other]})
    with pytest.raises(BilensError, match="accuracy with NaN"):
        charts.bands({"nan": [replace(make_curve(), accuracy=torch.full((3,), torch.nan))]})


def test_dots_show_every_sample_the_mean_and_the_interval():
    groups = {"left": {"a": [1.0, 3.0, 2.0], "b": [5.0]}, "right": {"a": [0.0, 0.0], "b": [-1.0, 1.0]}}
    figure = charts.dots(groups, "points, %", line=0)
    left, right = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["left", "right"]
    assert [label.get_text() for label in left.get_yticklabels()] == ["a", "b"]
    assert left.get_ylim()[0] > left.get_ylim()[1]  # the first row on top
    samples, bar, mean, alone, middle, _ = left.get_lines()
    assert list(samples.get_xdata()) == [1, 3, 2]
    np.testing.assert_allclose(bar.get_xdata(), [2 - T2 / 3**0.5, 2 + T2 / 3**0.5])
    assert list(bar.get_ydata()) == [0, 0]
    assert [list(data) for data in mean.get_data()] == [[2], [0]]
    assert list(alone.get_xdata()) == list(middle.get_xdata()) == [5]  # one sample: no bar between them
    assert list(middle.get_ydata()) == [1]
    np.testing.assert_allclose(right.get_lines()[4].get_xdata(), [-12.7062, 12.7062], rtol=1e-5)  # t of one degree
    assert all(list(axes.get_lines()[-1].get_xdata()) == [0, 0] for axes in figure.axes)
    assert left.get_xlim() == right.get_xlim()
    assert "points, %" in plots.svg(figure).decode()
    apart = charts.dots(groups, "points", shared=False).axes
    assert apart[0].get_xlim() != apart[1].get_xlim()
    assert len(apart[0].get_lines()) == 5  # and no line at 0


def test_dots_in_panels_that_do_not_fit_are_refused():
    for groups in ({}, {"empty": {}}, {"a": {"x": [1.0]}, "b": {"y": [1.0]}}):
        with pytest.raises(BilensError, match="panels without rows"):
            charts.dots(groups, "")
    with pytest.raises(BilensError, match="samples"):
        charts.dots({"a": {"x": []}}, "")
    with pytest.raises(BilensError, match="samples"):
        charts.dots({"a": {"x": [1.0, float("nan")]}}, "")


def test_intervals_are_means_with_student_intervals():
    figure = charts.intervals(
        {"ours": {30: [1.0, 2.0, 3.0], 1000: [5.0]}, "theirs": {30: [4.0]}}, "Needed", "h", "count"
    )
    axes = figure.axes[0]
    lines, _, (bars,) = axes.containers[0]
    np.testing.assert_allclose(lines.get_xdata(orig=False), [30, 1000])
    np.testing.assert_allclose(lines.get_ydata(orig=False), [2, 5])
    low, high = bars.get_segments()[0][:, 1]
    np.testing.assert_allclose([low, high], [2 - 2.48414, 2 + 2.48414], rtol=1e-5)  # t = 4.30265, s = 1, n = 3
    np.testing.assert_allclose(np.diff(bars.get_segments()[1][:, 1]), 0)  # one sample has no interval
    assert [label.get_text() for label in axes.get_xticklabels()] == ["30", "1,000"]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title(loc="left")) == ("h", "count", "Needed")
    with pytest.raises(BilensError, match="no samples"):
        charts.intervals({"ours": {}}, "Needed", "h", "count")


def test_directions_have_a_row_a_method_and_their_weights_above():
    vectors = torch.eye(6, dtype=torch.float64)
    one = Squares(torch.tensor([4.0, -1.0]), vectors[:2], torch.tensor(0.5), PIXELS)
    two = Squares(torch.tensor([0.0, 9.0, 1.0]), -vectors[3:], torch.tensor(0.5), PIXELS)
    figure = charts.directions({"eigenvectors": one, "others": two}, 2)
    assert len(figure.axes) == 4
    for axes, (sign, at) in zip(figure.axes, ((2, 0), (1, 1), (0, 3), (-3, 4)), strict=True):
        expected = np.zeros(6)
        expected[at] = sign
        np.testing.assert_allclose(axes.get_images()[0].get_array().ravel(), expected)
    assert {"eigenvectors", "others", "c = +4.00", "c = −1.00", "c = +9.00"} <= set(texts(figure))
    assert figure.axes[0].get_position().y0 > figure.axes[2].get_position().y1
    assert plots.svg(figure)
    with pytest.raises(BilensError, match="no directions"):
        charts.directions({"none": Squares(torch.ones(0), vectors[:0], torch.tensor(1.0), PIXELS)})
    with pytest.raises(BilensError, match="count"):
        charts.directions({"one": one}, 0)


def test_an_atlas_has_a_row_a_view_and_each_image_a_scale_of_its_own():
    large = make_view(2)
    small = replace(make_view(2), name="SAE", spectra=tuple(make_spectrum([v], label="f0") for v in (0.01, -4.0)))
    figure = charts.atlas([large, small])
    shown = images(figure)
    assert len(shown) == 4
    for image, size in zip(shown, (2, 2, 0.1, 2), strict=True):  # √|λ| of the first pair, whatever its sign
        assert image.get_clim() == pytest.approx((-size, size))
        assert image.get_array()[0, 0] == pytest.approx(size)
    assert {"svd", "SAE", "f0", "f1"} <= set(texts(figure))
    rows = [axes.get_position().y0 for axes in figure.axes]
    assert rows[:2] == pytest.approx([max(rows)] * 2)
    assert rows[2:] == pytest.approx([min(rows)] * 2)
    assert max(rows) > figure.axes[2].get_position().y1
    for views in ([], [make_view(2), make_view(3)]):
        with pytest.raises(BilensError, match="views of different sizes"):
            charts.atlas(views)


def test_bands_say_on_how_many_samples_and_never_mix_them():
    curve = replace(make_curve(), samples=40)
    for which in ("accuracy", "recovered"):
        assert "on 40 samples" in charts.bands({"a": [curve, curve]}, which).axes[0].get_title(loc="left")
    with pytest.raises(BilensError, match="different numbers of samples"):
        charts.bands({"a": [curve], "b": [make_curve()]})
