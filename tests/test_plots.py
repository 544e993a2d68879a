from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from bilens import decompose, plots
from bilens.errors import BilensError, ShapeError, StoreError
from bilens.features import Chart, CodeComparison, Explanation
from bilens.history import History
from bilens.space import Space
from bilens.tensor import BilinearTensor
from drawn import CLASSES, PIXELS, images, make_curve, make_spectrum, make_view, texts

WORDS = Space("words", 3, ("red", "$x$ & <b>", "blue"))


def test_the_colours_of_eigenvectors_are_green_above_zero_purple_below_and_neutral_at_zero():
    colours = [[int(colour[start : start + 2], 16) for start in (1, 3, 5)] for colour in plots.PATTERN]
    middle = len(colours) // 2
    for plus, minus in ((colours[-1], colours[0]), (colours[middle + middle // 2], colours[middle // 2])):
        assert plus[1] > max(plus[0], plus[2]) + 20
        assert minus[1] < min(minus[0], minus[2]) - 20
    assert colours[middle] == [247, 247, 247]
    assert sum(colours[middle + middle // 2]) > sum(colours[-1])  # paler, nearer to the neutral colour
    figure = plots.spectrum(make_spectrum([4.0, -1.0]), k=1)
    assert [image.cmap(1.0)[:3] for image in images(figure)] == [tuple(c / 255 for c in colours[-1])] * 2


def test_linear_kernels_rebuild_the_output():
    generator = torch.Generator().manual_seed(0)
    left, right, down = (torch.randn(size, generator=generator).double() for size in ((4, 6), (4, 6), (3, 4)))
    tensor = BilinearTensor.from_layer(left, right, down, left_bias=left[:, 0], input=PIXELS, output=CLASSES)
    x = torch.randn(5, 6, generator=generator).double()
    shown = plots.linear_kernels(decompose.eigh(tensor.kernel("dog")), 7)
    lifted = torch.cat([x, torch.ones(5, 1)], dim=1).double()
    rebuilt = sum((lifted @ kernel.weights).square() * (1 if kernel.value > 0 else -1) for kernel in shown)
    torch.testing.assert_close(rebuilt, tensor(x)[:, 1])
    assert [kernel.bias for kernel in shown] == [float(kernel.weights[6]) for kernel in shown]
    signs = [kernel.value > 0 for kernel in shown]
    assert signs == sorted(signs, reverse=True)


def test_linear_kernels_take_the_largest_of_each_sign_and_no_zero():
    shown = plots.linear_kernels(make_spectrum([5.0, -4.0, 3.0, 2.0, -1.0, 0.0]), 2)
    assert [(kernel.rank, kernel.value) for kernel in shown] == [(0, 5.0), (2, 3.0), (1, -4.0), (4, -1.0)]
    assert plots.linear_kernels(make_spectrum([0.0]), 2) == ()


def test_a_spectrum_shows_eigenvalues_and_images_on_one_scale():
    spectrum = make_spectrum([4.0, -1.0, 0.25], discarded=0.1)
    figure = plots.spectrum(spectrum, k=2)
    heights = [patch.get_height() for patch in figure.axes[0].patches if patch.get_height() in (4.0, -1.0, 0.25)]
    assert heights == [4.0, -1.0, 0.25]
    colors = [patch.get_facecolor() for patch in figure.axes[0].patches[:2]]
    assert colors[0][2] > colors[0][0]
    assert colors[1][0] > colors[1][2]
    shown = images(figure)
    assert [float(image.get_array().max()) for image in shown] == [2.0, 0.5, 1.0]  # √|λ| of an indicator vector
    assert {image.get_clim() for image in shown} == {(-2.0, 2.0)}
    assert {"λ = +4.00", "λ = −1.00", "λ = +0.250"} <= set(texts(figure))
    red, _, blue = to_rgb(next(axes.title.get_color() for axes in figure.axes if axes.get_title() == "λ = +4.00"))
    assert blue > red
    red, _, blue = to_rgb(next(axes.title.get_color() for axes in figure.axes if axes.get_title() == "λ = −1.00"))
    assert red > blue
    assert any("no other negative" in text for text in texts(figure))


def test_a_spectrum_states_the_weight_of_the_constant_and_keeps_it_out_of_the_image():
    space = PIXELS.with_constant()
    vector = torch.tensor([[0.6, 0.0, 0.0, 0.0, 0.0, 0.0, -0.8]], dtype=torch.float64)
    spectrum = replace(make_spectrum([4.0], space), vectors=vector)
    figure = plots.spectrum(spectrum, k=1)
    (image,) = images(figure)
    np.testing.assert_allclose(image.get_array(), [[1.2, 0, 0], [0, 0, 0]])
    assert image.get_clim() == (-1.2, 1.2)
    assert "constant −1.60" in texts(figure)


def test_an_input_that_is_no_image_is_drawn_as_labelled_bars():
    figure = plots.spectrum(make_spectrum([4.0, -1.0], WORDS), k=1)
    assert not images(figure)
    labels = [label.get_text() for label in figure.axes[1].get_yticklabels()]
    assert sorted(labels) == sorted(WORDS.labels)
    assert [patch.get_width() for patch in figure.axes[1].patches] == [2.0, 0.0, 0.0]
    svg = re.sub(r"<!--.*?-->", "", plots.svg(figure).decode(), flags=re.DOTALL)
    assert "$x$ &amp; &lt;b&gt;" in svg  # text as it is: neither mathematics nor markup


@pytest.mark.parametrize("n", [1, 3])
def test_a_view_has_one_row_per_feature(n: int):
    figure = plots.view(make_view(n), count=5, k=1)
    assert len(images(figure)) == 2 * n
    assert {f"f{i}" for i in range(n)} <= set(texts(figure))
    assert {make_view(n).speaks(f) for f in range(n)} <= set(texts(figure))
    assert make_view(1).speaks(0) == "for cow; against cat"  # effects −1, 0, 1
    bars = figure.axes[-1].patches
    assert [bar.get_height() for bar in bars] == make_view(n).effects[n - 1].tolist()
    assert not images(plots.view(make_view(n, WORDS), k=1))


def blue(color) -> bool:
    return color[2] > color[0] + 0.2 and color[2] > color[1]


def red(color) -> bool:
    return color[0] > color[2] + 0.2 and color[0] > color[1]


def green(color) -> bool:
    return color[1] > max(color[0], color[2]) + 0.1


def purple(color) -> bool:
    return color[1] < min(color[0], color[2]) - 0.1


def test_what_is_added_is_blue_and_the_sides_of_an_eigenvector_are_not():
    words = Space("words", 4)
    spectrum = make_spectrum([4.0, -1.0], words)
    spectrum = replace(spectrum, vectors=torch.tensor([[0.5, -0.5, 0.5, -0.5], [0.5, 0.5, -0.5, -0.5]]).double())
    eigenvalues, *weights = plots.spectrum(spectrum, k=1).axes
    up, down = (patch.get_facecolor() for patch in eigenvalues.patches[:2])
    assert blue(up)
    assert red(down)
    assert len(weights) == 2
    for axes in weights:
        assert len(axes.patches) == 4
        for bar in axes.patches:
            assert (green if bar.get_width() > 0 else purple)(bar.get_facecolor())
            assert not blue(bar.get_facecolor())
            assert not red(bar.get_facecolor())
    effects = plots.view(make_view(1), count=1, k=1).axes[-1].patches
    assert [bar.get_height() for bar in effects] == [-1.0, 0.0, 1.0]
    assert red(effects[0].get_facecolor())
    assert blue(effects[2].get_facecolor())
    (image, *_) = images(plots.spectrum(make_spectrum([4.0]), k=1))
    assert green(image.cmap(1.0))
    assert purple(image.cmap(0.0))


def test_bars_say_how_many_entries_there_are_where_some_are_not_drawn():
    for size, words in ((8, None), (12, "8 of 12")):
        found = texts(plots.spectrum(make_spectrum([4.0], Space("words", size)), k=1))
        assert [text for text in found if re.fullmatch(r"\d+ of \d+", text)] == ([words] if words else [])


def test_a_chart_says_on_how_many_samples_and_never_mixes_them():
    curve = replace(make_curve(), samples=10_000)
    for which, title in (("accuracy", "Accuracy"), ("recovered", "Cross-entropy recovered")):
        for figure in (plots.curves([curve, curve], which),):
            assert figure.axes[0].get_title(loc="left") == f"{title} on 10,000 samples"
    for mixed in (replace(curve, name="pairs", samples=2000), replace(curve, name="pairs", samples=None)):
        for draw in (lambda mixed=mixed: plots.curves([curve, mixed]),):
            with pytest.raises(BilensError, match=r"on different numbers of samples \('SVD' on 10000, 'pairs' on"):
                draw()
    labels = [
        line.get_label()
        for line in plots.certificate(replace(curve, error=curve.accuracy, bound=curve.accuracy)).axes[0].get_lines()
    ]
    assert "largest error on 10,000 samples" in labels


def test_curves_against_the_numbers_stored_and_nulls_dashed_in_the_colour_of_their_view():
    curve = replace(make_curve(), numbers=torch.tensor([70, 700, 7000]))
    null = replace(curve, name="never trained", numbers=torch.tensor([35, 350, 3500]), beside="SVD")
    axes = plots.curves([curve, null], against="numbers").axes[0]
    view, beside = axes.get_lines()
    assert [list(line.get_xdata()) for line in (view, beside)] == [[70, 700, 7000], [35, 350, 3500]]
    assert axes.get_xlabel() == "numbers stored"
    assert view.get_color() == beside.get_color()
    assert (view.get_linestyle(), beside.get_linestyle()) == ("-", "--")
    with pytest.raises(BilensError, match="got a curve 'SVD' without numbers stored"):
        plots.curves([make_curve()], against="numbers")
    with pytest.raises(BilensError, match="got against = 'size'; expected one of kept, numbers"):
        plots.curves([curve], against="size")


def test_each_of_several_views_has_a_colour_that_only_its_nulls_share():
    views = [replace(make_curve(), name=name) for name in ("SVD", "SAE", "pairs")]
    nulls = [replace(view, name=f"null of {view.name}", beside=view.name) for view in views]
    figure = plots.curves([views[0], nulls[0], views[1], nulls[1], views[2], nulls[2]])
    colors = [line.get_color() for line in figure.axes[0].get_lines()]
    assert colors[::2] == colors[1::2]
    assert len(set(colors)) == 3
    (legend,) = figure.legends  # so many find no room within the axes
    assert [text.get_text() for text in legend.get_texts()][:2] == ["SVD", "null of SVD"]


def test_curves_go_through_their_points():
    curve = make_curve()
    for which in ("accuracy", "recovered", "cross_entropy"):
        axes = plots.curves([curve, replace(curve, name="other")], which).axes[0]
        assert len(axes.get_lines()) == 2
        np.testing.assert_allclose(axes.get_lines()[0].get_xdata(), [1, 10, 100])
        np.testing.assert_allclose(axes.get_lines()[0].get_ydata(), getattr(curve, which).double())
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["SVD", "other"]
        assert axes.get_xlabel() == "components kept"


def test_a_long_axis_has_a_tick_for_each_power_of_ten_alone():
    for kept, ticks in (
        ([1, 200, 1000], ["1", "2", "5", "10", "20", "50", "100", "200", "500", "1,000"]),
        ([7850, 80_000, 600_000], ["10,000", "100,000"]),
        ([10, 3000, 30_000_000], ["10", "100", "1,000", "10,000", "100,000", "1,000,000", "10,000,000"]),
    ):
        axes = plots.curves([replace(make_curve(), kept=torch.tensor(kept))]).axes[0]
        assert [tick.get_text() for tick in axes.get_xticklabels()] == ticks


def test_a_certificate_shows_bound_and_error_and_leaves_out_zeros():
    curve = make_curve(error=torch.tensor([1.0, 0.1, 0.0]), bound=torch.tensor([9.0, 2.0, 0.0]))
    axes = plots.certificate(curve).axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    np.testing.assert_allclose(lines["proven bound"].get_ydata(), [9, 2])
    np.testing.assert_allclose(lines["largest error measured"].get_ydata(), [1, 0.1], rtol=1e-6)
    assert axes.get_yscale() == "log"
    with pytest.raises(BilensError, match="without a certificate"):
        plots.certificate(make_curve())


def test_terms_are_bars_that_end_at_the_total():
    spectrum = make_spectrum([4.0, -3.0, 0.5])
    x = torch.tensor([0.5, 1.0, 1.0, 0.0, 0.0, 0.0], dtype=torch.float64)  # terms 1, −3, 0.5
    figure = plots.terms(Explanation("cat less dog", x, spectrum, 2.25))
    axes = next(axes for axes in figure.axes if axes.get_ylabel() == "sum of the terms so far")
    bars = axes.patches
    assert [bar.get_height() for bar in bars] == [-3.0, 1.0, 0.5, 3.75, 2.25]
    ends = np.cumsum([-3.0, 1.0, 0.5, 3.75])
    assert [bar.get_y() for bar in bars] == [0.0, *ends[:-1], 0.0]
    assert bars[0].get_facecolor()[0] > bars[0].get_facecolor()[2]
    assert bars[1].get_facecolor()[2] > bars[1].get_facecolor()[0]
    assert {"cat less dog", "all others", "sum", "+2.25", "−3.00", "λ +4.00", "λ −3.00"} <= set(texts(figure))
    sample, *shown = images(figure)
    np.testing.assert_allclose(sample.get_array(), x.reshape(2, 3))
    peaks = [np.flatnonzero(image.get_array()).tolist() for image in shown]
    assert peaks == [[1], [0], [2]]  # largest |term| first: √|λ| of indicator vectors, on one scale
    np.testing.assert_allclose([image.get_array().max() for image in shown], np.sqrt([3, 4, 0.5]))
    assert len({image.get_clim() for image in shown}) == 1


def test_terms_of_an_input_that_is_no_image_are_drawn_and_what_is_none_is_refused():
    spectrum = make_spectrum([4.0, -1.0], WORDS.with_constant())
    assert not images(plots.terms(Explanation("sum", torch.ones(3).double(), spectrum, 3.0)))
    none = Explanation("sum", torch.ones(3).double(), spectrum.keep(0), 3.0)
    with pytest.raises(BilensError, match="without terms"):
        plots.terms(none)
    with pytest.raises(BilensError, match="total with NaN"):
        plots.terms(replace(none, spectrum=spectrum, total=torch.nan))


@pytest.mark.bad_input
def test_an_explanation_refuses_a_sample_of_another_size():
    with pytest.raises(ShapeError, match=r"\(5,\); expected \(6,\)"):
        Explanation("sum", torch.ones(5), make_spectrum([1.0]), 1.0)


@pytest.mark.parametrize("n", [5, 4000])
def test_codes_are_points_or_counts_with_the_line_of_equal_codes(n: int):
    trained = torch.linspace(0, 3, n)
    axes = plots.codes(CodeComparison(trained, 2 * trained - 1, 0.5, 7, 0.1, 6)).axes[0]
    collection = axes.collections[0]
    if n == 5:
        np.testing.assert_allclose(collection.get_offsets(), torch.stack([trained, 2 * trained - 1], 1), atol=1e-6)
    else:
        assert collection.get_array().sum() == n
    (line,) = axes.get_lines()
    assert list(line.get_xdata()) == list(line.get_ydata())
    assert "r = 0.500" in axes.get_title(loc="left")


def test_history_has_a_panel_a_number():
    figure = plots.history(History(("loss", "accuracy"), torch.tensor([0, 5]), torch.tensor([[2.0, 0.1], [1.0, 0.9]])))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["loss", "accuracy"]
    assert list(figure.axes[0].get_lines()[0].get_ydata()) == [2.0, 1.0]
    assert list(figure.axes[0].get_lines()[0].get_xdata()) == [0, 5]


def test_singular_values_and_the_share_they_hold():
    eye = torch.eye(3, dtype=torch.float64)
    tensor = BilinearTensor.from_layer(eye, eye, torch.diag(torch.tensor([4.0, 3.0, 0.0]).double()),
                                       input=WORDS, output=CLASSES)  # fmt: skip
    values, share = plots.singular_values(decompose.svd(tensor)).axes
    np.testing.assert_allclose(values.get_lines()[0].get_ydata()[:2], [4, 3])
    np.testing.assert_allclose(share.get_lines()[0].get_ydata(), [16 / 25, 1, 1])


def test_effects_are_a_map_centred_on_zero():
    view = make_view(2)
    figure = plots.effects(view)
    (image,) = figure.axes[0].get_images()
    np.testing.assert_allclose(image.get_array(), view.effects)
    assert image.get_clim() == (-4.0, 4.0)
    assert {"cat", "dog", "cow", "f0", "f1"} <= set(texts(figure))


def test_a_gallery_has_positive_above_negative_and_no_background():
    figure = plots.gallery(make_view(3), columns=2)
    tops, bottoms = figure.axes[0::2], figure.axes[1::2]
    assert len(tops) == len(bottoms) == 3
    assert all(a.get_position().y0 > b.get_position().y1 for a, b in zip(tops, bottoms, strict=True))
    assert tops[2].get_position().y1 < bottoms[0].get_position().y0  # the third starts a new block
    png = imread(io.BytesIO(plots.png(figure)), format="png")
    assert png[0, 0, 3] == 0
    assert "f2" in texts(figure)


def test_files_are_the_same_bytes_each_time_and_of_the_kind_their_name_says(tmp_path: Path):
    contents = []
    for name in ("a", "b"):
        figure = plots.spectrum(make_spectrum([4.0, -1.0]), k=1)
        for ending in ("svg", "png"):
            plots.save(figure, tmp_path / f"{name}.{ending}")
        plots.save(figure, tmp_path / f"{name}.svg")  # a second time from the same figure
        contents.append([(tmp_path / f"{name}.{ending}").read_bytes() for ending in ("svg", "png")])
    assert contents[0] == contents[1]
    svg, png = contents[0]
    assert svg.startswith(b"<?xml")
    assert b"<dc:date>" not in svg
    assert png.startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.svg", "b.png", "b.svg"]


def test_a_figure_for_a_dark_page_has_light_text_and_no_background():
    figure = plots.curves([make_curve()])
    light = plots.svg(figure, background=False).decode()
    dark = plots.on_dark(light.encode()).decode()
    assert plots.INK in light
    assert plots.INK not in dark
    assert "#ffffff" not in light + dark
    assert "#ffffff" in plots.svg(figure).decode()


def test_a_file_that_cannot_be_written_is_one_clear_line(tmp_path: Path):
    figure = plots.curves([make_curve()])
    with pytest.raises(StoreError, match=r"'x\.gif'; expected a name that ends in \.svg, \.png or \.html"):
        plots.save(figure, tmp_path / "x.gif")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="which is a file"):
        plots.save(figure, tmp_path / "file" / "x.svg")


def test_nothing_global_changes():
    before = dict(matplotlib.rcParams)
    plots.svg(plots.curves([make_curve()]))
    with pytest.raises(BilensError):
        plots.curves([])
    assert dict(matplotlib.rcParams) == before


def test_what_cannot_be_drawn_is_refused():
    nan = make_spectrum([torch.nan, 1.0])
    with pytest.raises(BilensError, match="eigenvalues with NaN"):
        plots.spectrum(nan)
    with pytest.raises(BilensError, match="eigenvectors with NaN"):
        plots.spectrum(replace(nan, values=torch.ones(2), vectors=torch.full((2, 6), torch.inf)))
    with pytest.raises(BilensError, match="effects with NaN"):
        plots.effects(replace(make_view(1), effects=torch.full((1, 3), torch.nan)))
    with pytest.raises(BilensError, match="accuracy with NaN"):
        plots.curves([replace(make_curve(), accuracy=torch.full((3,), torch.nan))])
    with pytest.raises(BilensError, match="k = 0"):
        plots.spectrum(make_spectrum([1.0]), k=0)
    with pytest.raises(BilensError, match="no curve"):
        plots.curves([])
    with pytest.raises(BilensError, match="without features"):
        plots.gallery(make_view(0))
    with pytest.raises(BilensError, match="count = 0"):
        plots.view(make_view(1), count=0)
    with pytest.raises(BilensError, match="empty history"):
        plots.history(History((), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 0)))
    with pytest.raises(BilensError, match="no codes"):
        plots.codes(CodeComparison(torch.zeros(0), torch.zeros(0), 0.0, 1, 0.1, 1))


@pytest.mark.bad_input
def test_another_quantity_is_refused():
    with pytest.raises(BilensError, match="'loss'; expected one of accuracy, recovered"):
        plots.curves([make_curve()], "loss")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (1.0, "1.00"), (-0.33, "−0.330"), (12.345, "12.3"), (123456.0, "123,456"), (0.00123, "0.00123"),
        (1e-8, "10⁻⁸"), (-2.5e-7, "−2.5·10⁻⁷"), (3e9, "3.0·10⁹"),
    ],
)  # fmt: skip
def test_numbers_read_well(value: float, text: str):
    assert plots.number(value) == text
    assert plots.signed(value) == ("+" if value > 0 else "") + text


def make_chart(**more: object) -> Chart:
    values = torch.tensor([[4.0, 4.0], [2.0, 6.0], [0.5, 6.5]])
    return Chart("Norms", "unit", torch.tensor([1.0, 2.0, 3.0]), ("norm", "so far"), values, **more)


def test_a_chart_draws_the_lines_that_it_says_and_its_level() -> None:
    axes = plots.chart(make_chart(level=0.25, level_name="rounding")).axes[0]
    norm, level = axes.get_lines()
    np.testing.assert_allclose(norm.get_ydata(), [4, 2, 0.5])
    assert level.get_ydata()[0] == 0.25
    assert [text.get_text() for text in axes.texts] == ["rounding"]
    assert (axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel()) == ("Norms", "unit", "norm")
    both = plots.chart(make_chart(drawn=2, log=True, level=1e-9)).axes[0]
    assert len(both.get_lines()) == 2  # a level far below the lines would hide them on a logarithmic scale
    assert both.get_yscale() == "log"


def test_the_report_draws_what_sets_hold() -> None:
    plain = replace(make_view(3), charts={"norms": make_chart()})
    names = [name for name, _ in plots.report([plain])]
    assert names == ["svd", "svd-effects", "svd-norms"]
    curve = replace(make_curve(error=torch.ones(3), bound=torch.ones(3)), name="mine")
    outputs = replace(make_view(3), name="kinds", are_outputs=True, curves=(curve,))
    names = [name for name, figure in plots.report([outputs, make_view(0)]) if figure()]
    assert names == [
        "kinds",
        "kinds-gallery",
        "kinds-0",
        "kinds-1",
        "kinds-2",
        "kinds-accuracy",
        "kinds-recovered",
        "kinds-certificate",
    ]
    other = replace(curve, name="other", numbers=torch.tensor([9, 90, 900]))
    sets = [replace(outputs, curves=(replace(curve, numbers=other.numbers),)), replace(plain, curves=(other,))]
    drawn = {name: figure() for name, figure in plots.report(sets) if name.endswith(("accuracy", "recovered"))}
    axes = {name: figure.axes[0] for name, figure in drawn.items()}
    assert {name: (shown.get_xlabel(), len(shown.get_lines())) for name, shown in axes.items()} == {
        "kinds-accuracy": ("mine", 1),  # unlike components never share an axis
        "kinds-recovered": ("mine", 1),
        "svd-accuracy": ("other", 1),
        "svd-recovered": ("other", 1),
        "accuracy": ("numbers stored", 2),
        "recovered": ("numbers stored", 2),
    }
