"""The explorer's figures on paper: what is drawn is compared with numbers computed from the dense kernel."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bilens import plots
from bilens.errors import BilensError, ShapeError, SpaceError
from bilens.explorer import Exploration
from bilens.space import Space
from explorations import PIXELS, WORDS, whole
from messages import refuses


@pytest.fixture(scope="module")
def run() -> Exploration:
    return whole()


def kernel(run: Exploration, o: int) -> np.ndarray:
    assert run.model is not None
    return run.model.to_dense().double().numpy()[o]


def lifted(run: Exploration) -> np.ndarray:
    assert run.samples is not None
    return np.concatenate([run.samples.inputs.double().numpy(), np.ones((40, 1))], axis=1)


def test_truncation_shows_the_energy_the_bound_and_the_measured_error(run: Exploration) -> None:
    figure = plots.truncation(run.features[0], 1)
    share, error = figure.axes
    values, vectors = np.linalg.eigh(kernel(run, 1))
    order = np.argsort(-np.abs(values))
    values, vectors = values[order], vectors[:, order]
    held = np.cumsum(values**2) / np.sum(values**2)
    np.testing.assert_allclose(share.get_lines()[0].get_ydata(), held, atol=1e-5)
    x = lifted(run)
    bound = np.abs(values[1:]) * np.linalg.norm(x, axis=1).max() ** 2
    drawn = error.get_lines()[0].get_ydata()
    np.testing.assert_allclose(drawn, bound[: len(drawn)], rtol=1e-3)
    terms = (x @ vectors) ** 2 * values
    measured = np.abs(terms.cumsum(axis=1) - terms.sum(axis=1, keepdims=True)).max(axis=0)
    found = error.get_lines()[1].get_ydata()
    np.testing.assert_allclose(found, measured[: len(found)], rtol=1e-2)
    assert (found[: len(drawn)] <= drawn[: len(found)] * (1 + 1e-4)).all()


def test_truncation_without_samples_bounds_alone(run: Exploration) -> None:
    alone = replace(run.features[1].detail, samples=None, responses=None, errors=None, norm=None, examined=0)
    figure = plots.truncation(replace(run.features[1], detail=alone), 0)
    values = run.features[1].detail.eigenvalues[0].abs().numpy()
    (line,) = figure.axes[1].get_lines()
    np.testing.assert_allclose(line.get_ydata(), values[1 : 1 + len(line.get_ydata())])
    assert "‖x‖ = 1" in figure.axes[1].get_title(loc="left")


def test_logit_weights_are_the_effects(run: Exploration) -> None:
    figure = plots.logit_weights(run.features[1], 2)
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    np.testing.assert_allclose(widths, run.features[1].effects[2].numpy())
    many = replace(
        run.features[1], detail=None, effects=torch.arange(7.0 * 50).reshape(7, 50) - 25, output=Space("words", 50)
    )
    widths = [bar.get_width() for bar in plots.logit_weights(many, 0, 5).axes[0].patches]
    assert widths == [24, 23, 22, -24, -25]


def test_pairs_are_lines_between_their_pixels(run: Exploration) -> None:
    detail = run.features[0].detail
    figure = plots.input_pairs(run.features[0], 0)
    dense = kernel(run, 0)[:36, :36]
    drawn = figure.axes[0].get_lines()
    assert len(drawn) == 24
    for line, (i, j), strength in zip(
        reversed(drawn), detail.pairs[0].tolist(), detail.strengths[0].tolist(), strict=True
    ):
        assert strength == pytest.approx(dense[i, j] * (1 if i == j else 2), rel=1e-4)
        ends = sorted(zip(line.get_xdata(), line.get_ydata(), strict=True))
        assert ends == sorted({(i % 6, i // 6), (j % 6, j // 6)})
        assert line.get_color() == (plots.POSITIVE if strength > 0 else plots.NEGATIVE)


def test_pairs_of_words_are_bars() -> None:
    run = whole(WORDS)
    figure = plots.input_pairs(run.features[0], 0)
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    np.testing.assert_allclose(widths, run.features[0].detail.strengths[0][:16].numpy())


def test_extremes_split_values_into_terms(run: Exploration) -> None:
    assert run.samples is not None
    figure = plots.extremes(run.features[0], run.samples, 1, k=3)
    response = np.einsum("ni,ij,nj->n", lifted(run), kernel(run, 1), lifted(run))
    charts = [axes for axes in figure.axes if axes.patches]
    for axes, expected in zip(charts, (np.sort(response)[::-1][:6], np.sort(response)[:6]), strict=True):
        sums = [sum(bar.get_width() for bar in axes.patches[4 * row : 4 * row + 4]) for row in range(6)]
        np.testing.assert_allclose(sums, expected, rtol=1e-3, atol=1e-3)


def test_extremes_say_how_many_have_their_samples_here(run: Exploration) -> None:
    assert run.samples is not None
    few = replace(
        run.samples, labels=None, **{name: getattr(run.samples, name)[:15] for name in ("inputs", "numbers", "outputs")}
    )
    numbers = run.features[0].detail.samples[1].tolist()
    expected = [sum(number < 15 for number in part) for part in (numbers[:6], numbers[6:])]
    assert 0 < sum(expected) < 12
    found = [text.get_text() for text in plots.extremes(run.features[0], few, 1).texts]
    assert found == [
        f"Where it is {word}" + ("" if there == 6 else f" ({there} of 6: other samples are not here)")
        for word, there in zip(("largest", "smallest"), expected, strict=True)
    ]


def test_overlaps_are_the_cosines_of_eigenvectors(run: Exploration) -> None:
    first, second = run.features[0].spectra[:2]
    (picture,) = plots.overlaps(first, second, 4).axes[0].get_images()
    expected = np.abs(first.vectors[:4].numpy() @ second.vectors[:4].numpy().T)
    np.testing.assert_allclose(picture.get_array(), expected, atol=1e-6)
    (same,) = plots.overlaps(first, first, 5).axes[0].get_images()
    np.testing.assert_allclose(same.get_array(), np.eye(5), atol=1e-5)


def test_every_figure_becomes_svg_png_and_html(run: Exploration, tmp_path: Path) -> None:
    assert run.samples is not None
    found = run.features[0]
    figures = {
        "truncation": plots.truncation(found, 0),
        "weights": plots.logit_weights(found, 2),
        "pairs": plots.input_pairs(found, 0),
        "extremes": plots.extremes(found, run.samples, 0),
        "overlaps": plots.overlaps(found.spectra[0], found.spectra[1]),
    }
    for name, figure in figures.items():
        for ending in ("svg", "png", "html"):
            plots.save(figure, tmp_path / f"{name}.{ending}")
        ElementTree.parse(tmp_path / f"{name}.svg")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        page = (tmp_path / f"{name}.html").read_text("utf-8")
        assert page.count("data:image/svg+xml;base64,") == 2  # light and dark
        assert "<script" not in page
        assert "http:" not in page.replace("http-equiv", "")
    assert "&lt;b&gt;" in plots.html(figures["weights"], "<b>").decode()


def test_what_cannot_be_drawn_is_refused(run: Exploration) -> None:
    assert run.samples is not None
    found = run.features[0]
    for feature in (-1, 4):
        with refuses(BilensError, f"feature {feature}"):
            plots.logit_weights(found, feature)
        with refuses(BilensError, f"feature {feature}"):
            plots.truncation(found, feature)
    with refuses(BilensError, "features 'digits' without details"):
        plots.input_pairs(replace(found, detail=None), 0)
    with refuses(BilensError, "count = 0"):
        plots.logit_weights(found, 0, 0)
    with refuses(BilensError, "k = 0"):
        plots.extremes(found, run.samples, 0, k=0)
    with refuses(BilensError, "details without samples"):
        bare = replace(found.detail, samples=None, responses=None, errors=None, norm=None)
        plots.extremes(replace(found, detail=bare), run.samples, 0)
    with refuses(SpaceError, "a spectrum"):
        plots.overlaps(found.spectra[0], replace(found.spectra[0], input=replace(PIXELS, name="other")))
    with refuses(BilensError, "without eigenvectors"):
        plots.overlaps(found.spectra[0], found.spectra[0].keep(0))


def test_details_and_samples_that_do_not_fit_are_refused(run: Exploration) -> None:
    detail, samples = run.features[0].detail, run.samples
    assert samples is not None
    for change in (
        {"pairs": detail.pairs[:, :3]},
        {"errors": detail.eigenvalues[:, :3]},
        {"responses": detail.strengths},
    ):
        with refuses(ShapeError, next(iter(change))):
            replace(detail, **change)
    for change in (
        {"numbers": samples.numbers[:3]},
        {"outputs": samples.outputs[:, :2]},
        {"inputs": samples.inputs[:, :5]},
    ):
        with refuses(ShapeError, next(iter(change))):
            replace(samples, **change)
