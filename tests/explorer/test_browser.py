"""The page in a real browser: offline, without an error, exact, by mouse, touch and keys, in both themes and widths.

Set BILENS_SCREENSHOTS to a folder to keep a picture of every view.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from bilens import explorer
from bilens.explorer import Exploration
from bilens.explorer.page import source
from bilens.space import Space
from explorations import (
    CLASSES,
    EVIL,
    PIXELS,
    make_curve,
    make_set,
    make_tensor,
    named,
    parts_missing,
    speaking,
    unbiased,
    whole,
)

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page  # half a second, which the default tests can do without

FOUND = importlib.util.find_spec("axe_playwright_python")
if FOUND is None or FOUND.origin is None:
    pytest.skip("needs Playwright: pip install 'bilens[dev]'", allow_module_level=True)

AXE = Path(FOUND.origin).parent / "axe.min.js"
VIEWS = ("overview", "feature=digits:0", "sample", "faithfulness", "compare=svd:1,svd:2", "about")
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}

Open = Callable[..., "Page"]


@pytest.fixture(scope="module")
def run() -> Exploration:
    return whole()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, run: Exploration) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    explorer.write([run], folder / "whole.html")
    seeds = replace(run, repeats=[(make_curve("eigenvectors", 0.02),), (make_curve("eigenvectors", 0.04),)])
    explorer.write([seeds, replace(whole(seed=5), run="another")], folder / "two.html")
    explorer.write(
        [whole(Space("words", 80, tuple(f"word {i}" for i in range(80))), samples=100)], folder / "wide.html"
    )
    explorer.write([unbiased()], folder / "unbiased.html")
    bare = make_tensor(PIXELS.without_constant(), CLASSES)
    mixed = [
        make_set(name, [t.kernel(o) for o in range(4)], CLASSES) for name, t in (("svd", run.model), ("sae", bare)) if t
    ]
    explorer.write([Exploration(title="Mixed", features=tuple(mixed))], folder / "mixed.html")
    broad = make_tensor(Space("words", 1100), Space("codes", 2))
    found = make_set("svd", [broad.kernel(o) for o in range(2)], Space("codes", 2))
    explorer.write([Exploration(title="Broad", features=(found,))], folder / "broad.html")
    explorer.write([speaking(run)], folder / "speaking.html")
    explorer.write([named()], folder / "named.html")
    curves = (make_curve("a"), replace(make_curve("b"), samples=7), replace(make_curve("c"), samples=None))
    unmeasured = tuple(replace(found, curves=()) for found in run.features)
    explorer.write([replace(run, features=unmeasured, curves=curves)], folder / "mixed samples.html")
    stored = torch.tensor([40, 160, 480])
    counted = [replace(make_curve(name), numbers=stored, beside=beside) for name, beside in (
        ("eigenvectors", None), ("components", None), ("drawn at random", "components"))]  # fmt: skip
    explorer.write([replace(run, features=unmeasured, curves=tuple(counted))], folder / "counted.html")
    small = 0.004 * make_tensor(PIXELS, CLASSES)
    found = make_set("svd", [small.kernel(o) for o in range(4)], CLASSES)
    explorer.write([Exploration(title="Small numbers", features=(found,))], folder / "small numbers.html")
    first = run.features[0]
    one = torch.nn.functional.one_hot(torch.arange(37), 37).float()  # eigenvectors of one pixel: pale everywhere else
    pale = [replace(spectrum, vectors=one[: len(spectrum)]) for spectrum in first.spectra]
    faint = replace(first, spectra=tuple(pale), name="digits", detail=None, are_outputs=False)
    explorer.write([replace(run, features=(faint,), scores=run.scores[:1])], folder / "faint.html")
    assert run.samples is not None
    columns = {name: getattr(run.samples, name)[:15] for name in ("inputs", "numbers", "outputs", "labels")}
    explorer.write([replace(run, samples=replace(run.samples, **columns))], folder / "few samples.html")
    for name, exploration in parts_missing().items():
        explorer.write([exploration], folder / f"{name}.html")
    return folder


@pytest.fixture
def visit(browser: Browser, pages: Path) -> Iterator[Open]:
    """Opens a page from the disk with the network off; fails on any console message, error or request."""
    contexts, told = [], []

    def visit(hash: str = "", name: str = "whole", *, size: str = "desktop", theme: str = "light", **more: Any) -> Page:
        width, height = SIZES[size]
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=theme, offline=True, accept_downloads=True, **more
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(5000)
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("dialog", lambda dialog: told.append(dialog.message))
        page.on("request", lambda request: _local(request.url) or told.append(request.url))
        page.goto(f"{(pages / f'{name}.html').as_uri()}#{hash}")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert [text for text in told if "TrustedHTML" not in text] == []  # the one that a test provokes


def _local(url: str) -> bool:
    return url.startswith(("file:", "data:", "blob:"))


def _column(figure: Any, place: int) -> np.ndarray:
    texts = figure.locator(f"tbody tr td:nth-child({place + 1})").all_inner_texts()
    return np.array([_number(text) for text in texts])


def _number(text: str) -> float:
    text = text.replace("−", "-").replace(",", "")
    if "10" in text and any(c in text for c in "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"):
        mantissa, _, power = text.rpartition("10")
        return float(mantissa.rstrip("·") or 1) * 10 ** int(
            power.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
        )
    return float(text)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_every_view_is_drawn_in_both_themes_and_widths(visit: Open, size: str, theme: str) -> None:
    page = visit("overview", size=size, theme=theme)
    backgrounds = {"light": "rgb(255, 255, 255)", "dark": "rgb(18, 21, 25)"}
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == backgrounds[theme]
    for view in VIEWS:
        page.evaluate("hash => { location.hash = hash; }", view)
        page.wait_for_function(
            "document.querySelector('main h1') && document.querySelector('main svg, main canvas, main p')"
        )
        page.wait_for_timeout(60)
        assert page.locator("h1").count() == 1
        assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0, view
        if folder := os.environ.get("BILENS_SCREENSHOTS"):
            name = re.sub(r"\W+", "-", view)
            page.screenshot(path=Path(folder) / f"{name}-{theme}-{size}.png", full_page=True)
        for drawing in page.locator("figure .drawing").all():
            assert drawing.locator("svg").count() == 1, view


@pytest.mark.parametrize("size", SIZES)
def test_no_number_is_cut_off_at_the_edge_of_a_spectrum(visit: Open, size: str) -> None:
    page = visit("overview", "small numbers", size=size)
    cut = """() => {
      const left = (each) => each.getBoundingClientRect().left;
      const ticks = [...document.querySelectorAll("figure svg .tick")];
      return ticks.filter((each) => left(each) < left(each.ownerSVGElement) - 1).map((each) => each.textContent);
    }"""
    long = 0
    for place in range(4):
        page.evaluate("hash => { location.hash = hash; }", f"feature=svd:{place}")
        page.wait_for_timeout(60)
        assert page.evaluate(cut) == []
        ticks = page.locator("figure", has=page.get_by_role("heading", name="Eigenvalues")).locator("svg .tick")
        long += sum(re.fullmatch(r"−0\.0\d{3,}", text or "") is not None for text in ticks.all_text_contents())
    assert long  # else no number was as long as that


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_serious_violation_of_accessibility(visit: Open, theme: str) -> None:
    page = visit("overview", name="two", theme=theme, bypass_csp=True)
    page.add_script_tag(path=AXE)
    for view in VIEWS:
        page.evaluate("hash => { location.hash = hash; }", view)
        page.wait_for_timeout(80)
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        serious = [
            f"{each['id']}: {each['nodes'][0]['html'][:160]}"
            for each in found
            if each["impact"] in ("serious", "critical")
        ]
        assert serious == [], view


def test_the_logits_are_the_librarys(visit: Open, run: Exploration) -> None:
    assert run.samples is not None
    # the page keeps its functions to itself: the same script, run again in a scope that can be asked
    functions = source().rpartition("\nshowPage(runPage, ")[0]
    assert functions
    probe = visit("sample", bypass_csp=True)
    found = probe.evaluate(
        """(text) => { const run = new Function(text + `
             ;const content = readDocument().runs[0];
             return content.samples.numbers.map((_, place) => {
               const x = row(content.samples.inputs, place);
               const y = Array.from(outputsOf(content, x));
               const section = content.sets[0];
               return { y, terms: section.features.map((feature) => Array.from(terms(feature, section.input, x))) };
             });`); return run(); }""",
        functions,
    )
    computed = np.array([each["y"] for each in found])
    np.testing.assert_allclose(computed, run.samples.outputs.numpy(), atol=1e-3)
    x = run.samples.inputs
    for o, spectrum in enumerate(run.features[0].spectra):
        mine = np.array([each["terms"][o] for each in found])
        expected = spectrum.terms(x).numpy()
        np.testing.assert_allclose(mine, expected, atol=2e-4 * np.abs(expected).max())


def test_the_waterfall_adds_up_to_the_logit(visit: Open, run: Exploration) -> None:
    assert run.samples is not None
    page = visit("sample=7&logit=2")
    figure = page.locator("figure", has=page.get_by_role("heading", name="The logit as an exact sum"))
    figure.get_by_role("button", name="Table").click()
    adds, so_far = _column(figure, 1), _column(figure, 2)
    assert adds[-1] == so_far[-1] == pytest.approx(float(run.samples.outputs[7, 2]), rel=6e-3, abs=1e-3)
    assert so_far[-2] == pytest.approx(adds[-1], rel=6e-3)
    assert adds[:-1].sum() == pytest.approx(adds[-1], abs=0.006 * np.abs(adds).sum())
    assert "remainder" in figure.locator("tbody tr:nth-last-child(2) th").inner_text()
    np.testing.assert_allclose(_logits(page), run.samples.outputs[7].numpy(), rtol=6e-3, atol=1e-3)


def _hash(page: Page) -> str:
    """The link of what is shown, now: `page.url` may be a little behind."""
    return str(page.evaluate("location.hash"))[1:]


def _logits(page: Page) -> np.ndarray:
    figure = page.locator("figure", has=page.get_by_role("heading", name="Logits", exact=True))
    if figure.locator("table").count() == 0:
        figure.get_by_role("button", name="Table").click()
    return _column(figure, 1)


def test_a_stroke_of_the_mouse_changes_the_logits_and_the_link_keeps_it(visit: Open, run: Exploration) -> None:
    page = visit("sample")
    before = _logits(page)
    box = page.locator("canvas.pad").bounding_box()
    assert box
    page.mouse.move(box["x"] + 60, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 160, box["y"] + 180, steps=4)
    page.mouse.up()
    page.wait_for_timeout(50)
    after = _logits(page)
    assert np.abs(after - before).max() > 0.01
    assert "sample=drawn" in _hash(page)
    assert page.evaluate("performance.getEntriesByName('bilens:stroke').length") >= 1
    again = visit(_hash(page))
    np.testing.assert_array_equal(_logits(again), after)  # as drawn, to the last digit shown
    assert page.locator(".picker [aria-pressed=true]").count() == 0  # what is drawn is no sample any more
    page.locator(".picker button").nth(3).click()
    assert page.locator(".picker [aria-pressed=true]").count() == 1
    page.get_by_role("button", name="Clear").click()
    assert page.locator(".picker [aria-pressed=true]").count() == 0
    blank = torch.zeros(1, 36)
    assert run.model is not None
    np.testing.assert_allclose(_logits(page), run.model(blank)[0].numpy(), rtol=6e-3, atol=1e-3)


def test_one_pointer_draws_at_a_time(visit: Open) -> None:
    page = visit("sample=drawn")
    _logits(page)  # opens the table
    box = page.locator("canvas.pad").bounding_box()
    assert box
    page.mouse.move(box["x"] + 60, box["y"] + 60)
    page.mouse.down(button="right")
    page.mouse.up(button="right")
    assert "ink=" not in _hash(page)
    page.mouse.down()
    page.wait_for_timeout(50)
    drawn = _logits(page)
    move = """([x, y, pointerId, isPrimary]) => document.querySelector("canvas.pad").dispatchEvent(
        new PointerEvent("pointermove", { clientX: x, clientY: y, pointerId, isPrimary, bubbles: true }))"""
    page.evaluate(move, [box["x"] + 250, box["y"] + 250, 99, False])  # a second finger
    page.wait_for_timeout(50)
    np.testing.assert_array_equal(_logits(page), drawn)
    page.evaluate(move, [box["x"] + 250, box["y"] + 250, 1, True])  # the mouse, in an event that merges no others
    page.wait_for_timeout(50)
    assert np.abs(_logits(page) - drawn).max() > 0.01
    page.mouse.up()
    assert "ink=" in _hash(page)


def test_a_finger_draws_and_so_do_keys(visit: Open) -> None:
    page = visit("sample", size="phone", has_touch=True)
    before = _logits(page)
    box = page.locator("canvas.pad").bounding_box()
    assert box
    page.locator("canvas.pad").scroll_into_view_if_needed()
    box = page.locator("canvas.pad").bounding_box() or box
    page.touchscreen.tap(box["x"] + 100, box["y"] + 100)
    touched = _logits(page)
    assert np.abs(touched - before).max() > 0.01
    page.locator("canvas.pad").focus()
    page.keyboard.press("Delete")
    blank = _logits(page)
    page.keyboard.press("ArrowUp")
    np.testing.assert_array_equal(_logits(page), blank)  # the pen is up
    for key in ("Space", "ArrowLeft", "ArrowLeft", "ArrowDown"):
        page.keyboard.press(key)
    drawn = _logits(page)
    assert np.abs(drawn - blank).max() > 0.01
    assert "pen down" in page.locator(".pad-holder [role=status]").inner_text()
    for key in ("e", "ArrowUp", "ArrowRight", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    assert "eraser down" in page.locator(".pad-holder [role=status]").inner_text()
    assert np.abs(_logits(page) - drawn).max() > 0.01


def test_keys_lead_through_tabs_grid_and_feature(visit: Open) -> None:
    page = visit("overview")
    page.get_by_role("tab", selected=True).focus()
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("tab", selected=True).inner_text().startswith("SVD")
    assert "overview=svd" in _hash(page)
    page.locator("a.tile").first.focus()
    assert page.locator("a.tile[tabindex='0']").count() == 1
    for key, place in (("ArrowRight", 1), ("End", 6), ("Home", 0), ("ArrowDown", 5)):
        page.keyboard.press(key)
        assert page.evaluate("[...document.querySelectorAll('a.tile')].indexOf(document.activeElement)") == place, key
    page.keyboard.press("Enter")
    page.wait_for_function("location.hash.startsWith('#feature=svd:')")
    slider = page.get_by_role("slider", name="Eigenvalue")
    slider.focus()
    first = slider.get_attribute("aria-valuetext")
    page.keyboard.press("ArrowRight" if slider.get_attribute("aria-valuenow") == "1" else "ArrowLeft")
    assert slider.get_attribute("aria-valuetext") != first
    assert re.search(r"&k=\d+$", _hash(page))
    keep = page.get_by_label("Keep")
    keep.focus()
    page.keyboard.press("ArrowRight")
    assert "9 eigenvectors" in page.locator(".readout").inner_text()


def test_the_grid_is_searched_and_sorted(visit: Open) -> None:
    page = visit("overview=svd")
    tiles = page.locator("a.tile")
    assert tiles.count() == 7
    page.get_by_label("Sort by").select_option("label")
    names = page.locator(".tile-name").all_inner_texts()
    assert names[1:] == [f"Component {n}" for n in range(1, 7)]
    assert f"Component {EVIL}".startswith(names[0].rstrip("…"))
    page.get_by_label("Find").fill("5")
    assert tiles.count() == 1
    assert "1 feature of 7" in page.locator("#features [role=status]").inner_text()
    assert _hash(page) == "overview=svd&find=5&sort=label"
    again = visit(_hash(page))
    assert again.locator("a.tile").count() == 1
    text = again.locator(".tile-for").inner_text().rstrip("…")
    assert re.match(r"(for|against) ", text)
    again.get_by_label("Find").fill(text)  # what a tile says finds it
    assert again.locator("a.tile").filter(has_text=text).count() >= 1
    again.get_by_label("Find").fill("nothing of this kind")
    assert again.locator("a.tile").count() == 0
    assert "No feature here has “nothing of this kind”" in again.locator("#features").inner_text()
    again.get_by_label("Find").fill("")
    assert again.locator("a.tile").count() == 7


def test_a_view_says_how_many_features_it_was_chosen_from(visit: Open) -> None:
    page = visit("overview=sae")
    assert "The 2 most important of 1,234 active features are here." in page.locator("#features").inner_text()
    page.get_by_role("tab", name="SVD").click()
    assert "most important of" not in page.locator("#features").inner_text()


def test_the_tile_and_the_page_it_opens_show_the_same_eigenvector(visit: Open, run: Exploration) -> None:
    for place, spectrum in enumerate(run.features[0].spectra):
        values = spectrum.values.tolist()
        first = next(rank for rank, value in enumerate(values, 1) if value > 0)  # of the largest that raise it
        page = visit(f"overview=digits&find={CLASSES.label(place)}" if place < 2 else "overview=digits")
        tile = page.locator("a.tile").nth(0 if place < 2 else place)
        picture = tile.locator("svg image").get_attribute("href")
        tile.click()
        page.wait_for_selector("text=The chosen eigenvector")
        told = page.get_by_role("slider", name="Eigenvalue").get_attribute("aria-valuetext") or ""
        assert told.startswith(f"λ{first} = ")
        chosen = page.locator("figure", has=page.get_by_role("heading", name="The chosen eigenvector"))
        shown = chosen.locator("svg image").get_attribute("href")
        assert (shown == picture) or first > 1  # on one scale with the others, which is its own where it is the largest
        assert "&k=" not in _hash(page)


def test_what_a_feature_lowers_is_said_everywhere(visit: Open) -> None:
    page = visit("overview=speaking", name="speaking")
    assert page.locator(".tile-for").all_inner_texts() == ["against 4; for 7, 5", "for 3"]
    page.get_by_label("Find").fill("against 4")
    assert page.locator("a.tile").count() == 1
    page.get_by_label("Find").fill("")
    page.get_by_label("Sort by").select_option("outputs")
    assert page.locator(".tile-for").all_inner_texts() == ["for 3", "against 4; for 7, 5"]  # by output: 3, then 4
    page.locator("a.tile").last.click()
    page.wait_for_selector("text=Effects: against 4; for 7, 5.")
    weights = page.locator("figure", has=page.get_by_role("heading", name="Logit weights"))
    assert weights.locator("text.name.strong").all_text_contents() == ["4", "5", "7"]
    page.get_by_role("link", name="compare", exact=True).click()
    page.wait_for_selector(".side")
    assert "Effects: against 4; for 7, 5." in page.locator(".side").first.inner_text()
    assert "(against 4; for 7, 5)" in page.get_by_label("Compare", exact=True).inner_text()


def test_every_score_and_chart_says_on_how_many_samples(visit: Open) -> None:
    page = visit("faithfulness")
    charts = page.locator("figure", has=page.locator("h3", has_text="Accuracy on"))
    assert charts.locator("h3").all_inner_texts() == [
        "Accuracy on 40 samples: eigenvectors",  # not on one axis with another kind of component
        f"Accuracy on 40 samples: {EVIL}",
    ]
    table = page.locator("table.scores")
    assert table.locator("thead th").all_inner_texts()[-2:] == ["Numbers stored", "Samples"]
    assert table.locator("tbody tr td:last-child").all_inner_texts() == ["40", "40", "40"]
    null = table.locator("tr.beside")
    assert null.inner_text().split("\n")[0].startswith("null")
    assert "never trained" in null.inner_text()
    assert table.locator("tbody tr").nth(2).get_attribute("class") == "beside"  # after its row
    page.get_by_role("radio", name="numbers stored").check()
    assert "axis=numbers" in _hash(page)
    assert charts.locator("h3").all_inner_texts() == ["Accuracy on 40 samples"]
    assert "numbers stored" in (charts.locator("svg").text_content() or "")
    assert charts.locator("svg polyline").count() == 1  # the other curve's numbers are not known
    assert "It is not known for" in charts.locator(".note").inner_text()
    again = visit(_hash(page))
    assert again.get_by_role("radio", name="numbers stored").is_checked()


def test_curves_share_an_axis_of_numbers_stored_and_none_of_components(visit: Open) -> None:
    page = visit("faithfulness", name="counted")
    charts = page.locator("figure", has=page.locator("h3", has_text="Accuracy on"))
    titles = charts.locator("h3").all_inner_texts()
    assert titles == ["Accuracy on 40 samples: eigenvectors", "Accuracy on 40 samples: components"]
    assert [charts.nth(place).locator("svg polyline").count() for place in range(2)] == [1, 2]  # a null with its own
    page.get_by_role("radio", name="numbers stored").check()
    assert "axis=numbers" in _hash(page)
    assert charts.count() == 1
    assert charts.locator("svg polyline").count() == 3


def test_curves_on_other_samples_have_a_chart_of_their_own(visit: Open) -> None:
    page = visit("faithfulness", name="mixed samples")
    charts = page.locator("figure", has=page.locator("h3", has_text="Accuracy on"))
    assert charts.locator("h3").all_inner_texts() == [
        "Accuracy on 40 samples: a",
        "Accuracy on 7 samples: b",
        "Accuracy on a number of samples that is not recorded: c",
    ]
    assert [charts.nth(place).locator("svg polyline").count() for place in range(3)] == [1, 1, 1]


def test_outputs_that_are_no_logits_get_no_words_of_logits(visit: Open) -> None:
    page = visit("sample", name="named")
    text = page.locator("main").inner_text()
    assert re.search(r"The largest output is (oak|elm|ash), [+−][\d.]+\.", text)
    assert not re.search("logit|probability|The model says|Cross-entropy", text, re.IGNORECASE)
    outputs = page.locator("figure", has=page.get_by_role("heading", name="Outputs", exact=True))
    outputs.get_by_role("button", name="Table").click()
    assert outputs.locator("thead th").all_inner_texts() == ["kinds", "output", "the library’s output"]
    page = visit("feature=more:1", name="named")
    assert page.get_by_role("heading", name="Effects on the outputs").count() == 1
    assert "logit" not in page.locator("main").inner_text().lower()
    for view in ("compare=more:0,more:1", "faithfulness"):
        page.evaluate("hash => { location.hash = hash; }", view)
        page.wait_for_timeout(60)
        assert not re.search("logit|entropy", page.locator("main").inner_text(), re.IGNORECASE)


def test_pictures_follow_the_theme_and_so_do_saved_ones(visit: Open, tmp_path: Path) -> None:
    def brightness(page: Page, what: str) -> float:
        page.locator(what).first.screenshot(path=tmp_path / "picture.png")
        return float(imread(tmp_path / "picture.png")[:, :, :3].mean())

    for theme, low, high in (("light", 0.6, 1.0), ("dark", 0.0, 0.4)):
        page = visit("overview", theme=theme, name="faint")
        assert low < brightness(page, "a.tile svg image") < high
        page.evaluate("location.hash = 'sample'")
        page.wait_for_selector("canvas.pad")
        page.get_by_role("button", name="Clear").click()
        assert low < brightness(page, "canvas.pad") < high
        page.evaluate("location.hash = 'feature=digits:0'")
        chosen = page.locator("figure", has=page.get_by_role("heading", name="The chosen eigenvector"))
        with page.expect_download() as download:
            chosen.get_by_role("button", name="as PNG").click()
        download.value.save_as(tmp_path / "saved.png")
        picture = imread(tmp_path / "saved.png")[:, :, :3]
        middle = picture[picture.shape[0] // 3 : picture.shape[0] // 2, picture.shape[1] // 4 : picture.shape[1] // 2]
        assert low < float(middle.mean()) < high


def test_a_sample_that_is_no_image_has_one_colour(visit: Open) -> None:
    page = visit("feature=kinds:0", name="named")
    bars = page.locator("figure", has=page.get_by_role("heading", name="Largest", exact=True)).locator("svg a rect")
    classes = {bar.get_attribute("class") for bar in bars.all()}
    assert classes == {"frame", "neutral"}


def test_pixels_are_counted_from_0_everywhere(visit: Open) -> None:
    page = visit("sample")
    page.get_by_role("button", name="Use keys").click()
    for _ in range(10):
        page.keyboard.press("ArrowUp")
    assert page.locator(".pad-holder [role=status]").inner_text().startswith("row 0, column 3")


def test_extremes_that_are_not_here_and_lists_that_are_cut_are_announced(visit: Open, run: Exploration) -> None:
    page = visit("feature=svd:0", name="few samples")
    largest = page.locator("figure", has=page.get_by_role("heading", name="Largest", exact=True))
    drawn = largest.locator("svg a").count()
    assert 0 < drawn < 6
    assert f"{6 - drawn} of 6 are not drawn, because this page does not hold their samples: sample" in (
        largest.locator(".note").inner_text()
    )
    largest.get_by_role("button", name="Table").click()
    assert largest.locator("tbody tr").count() == 6
    page = visit("sample", name="wide")
    assert page.locator(".picker button").count() == 60
    assert "The first 60 of 100 samples." in page.locator(".samples").inner_text()
    page.get_by_role("button", name="Show all").click()
    assert page.locator(".picker button").count() == 100
    assert "The first 60" not in page.locator(".samples").inner_text()


def test_inputs_that_are_no_image_have_whole_names_and_say_how_many_are_drawn(visit: Open) -> None:
    page = visit("overview=kinds", name="named")
    tile = page.locator("a.tile").first
    texts = tile.locator("svg text").all_text_contents()
    assert len(texts) == 8
    assert re.fullmatch(r"7 of 12 measurements", texts[-1])
    page = visit("feature=kinds:0", name="named")
    pairs = page.locator("figure", has=page.get_by_role("heading", name="Strongest input pairs"))
    names = pairs.locator("svg text.name").all_text_contents()
    assert names
    assert all(re.fullmatch(r"[a-z ]+ \d+ × [a-z ]+ \d+", name) for name in names)  # none is cut
    assert page.locator("h1").inner_text() == "Kind oak"
    assert page.get_by_role("heading", name="Effects on the outputs").count() == 0  # of an output they say nothing
    page.evaluate("location.hash = 'sample'")
    page.wait_for_selector("text=Take apart the kind")
    assert "no eigenvectors of its outputs" not in page.locator("main").inner_text()
    fall = page.locator("figure", has=page.get_by_role("heading", name="The output as an exact sum"))
    assert "remainder" not in (fall.locator("svg").text_content() or "")  # all eigenvectors are here
    fall.get_by_role("button", name="Table").click()
    assert fall.locator("tbody tr:nth-last-child(2) th").inner_text() == "rounding"


def test_blue_and_red_are_what_is_added_and_never_an_eigenvectors_sides(visit: Open) -> None:
    page = visit("feature=kinds:0", name="named")
    fills = """([name, selector]) => [...document.querySelectorAll("figure")].filter((each) =>
        each.querySelector("h3, h4").textContent === name).flatMap((each) => [...each.querySelectorAll(selector)]
        .map((rect) => getComputedStyle(rect).fill))"""
    sides = set(page.evaluate(fills, ["What raises it, and what lowers it", "rect.one, rect.other"]))
    added = set(page.evaluate(fills, ["Eigenvalues", "rect.positive, rect.negative"]))
    assert added == {"rgb(33, 102, 172)", "rgb(178, 24, 43)"}
    assert sides == {"rgb(27, 120, 55)", "rgb(118, 42, 131)"}


def test_a_constant_that_has_no_part_is_left_out(visit: Open) -> None:
    page = visit("feature=svd:1", name="whole")
    vectors = page.locator("figure", has=page.get_by_role("heading", name="What raises it"))
    assert "constant" in (vectors.locator("svg").text_content() or "")
    page = visit("feature=svd:1", name="unbiased")
    vectors = page.locator("figure", has=page.get_by_role("heading", name="What raises it"))
    assert "constant" not in (vectors.locator("svg").text_content() or "")


def test_a_link_opens_what_was_seen(visit: Open) -> None:
    page = visit("feature=svd:3&k=2")
    assert page.locator("h1").inner_text() == "Component 3"
    assert page.title().startswith("Component 3")
    assert (page.get_by_role("slider", name="Eigenvalue").get_attribute("aria-valuetext") or "").startswith("λ2 = ")
    for wrong in (
        "feature=svd:99",
        "feature=no",
        "feature=%E0%A4%A",
        "nowhere",
        "compare=x,y",
        "sample=99999",
        "feature=svd:3&k=x",
        "faithfulness=toString",
        "overview=svd&sort=constructor",
    ):
        page.evaluate("hash => { location.hash = hash; }", wrong)
        page.wait_for_timeout(30)
        assert page.locator("h1").count() == 1, wrong
        assert "undefined" not in page.title(), wrong


def test_every_figure_has_a_table_and_can_be_saved(visit: Open, tmp_path: Path) -> None:
    page = visit("feature=digits:0")
    for figure in page.locator("figure").all():
        figure.get_by_role("button", name="Table").click()
        assert figure.locator("tbody tr").count() > 0
        for kind in ("SVG", "PNG"):
            assert figure.get_by_role("button", name=f"as {kind}").count() == 1
    figure = page.locator("figure").nth(2)
    for kind, start in (("SVG", b"<svg"), ("PNG", b"\x89PNG")):
        with page.expect_download() as download:
            figure.get_by_role("button", name=f"as {kind}").click()
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        assert path.suffix == f".{kind.lower()}"
        content = path.read_bytes()
        assert content.startswith(start)
        assert len(content) > 2000
    text = next(tmp_path.glob("*.svg")).read_text()
    assert 'class="' not in text
    assert "data:image/png;base64," in text
    assert "rgb(33, 102, 172)" in text  # the plots' blue, written into it
    assert ">Class cat: What raises it, and what lowers it<" in text  # wide enough for one line
    extremes = page.locator("figure", has=page.get_by_role("heading", name="Largest", exact=True))
    assert extremes.locator("svg a").count() > 0
    with page.expect_download() as download:
        extremes.get_by_role("button", name="as SVG").click()
    download.value.save_as(tmp_path / "largest.svg")
    text = (tmp_path / "largest.svg").read_text()
    assert "<a " not in text
    assert 'viewBox="-14 ' in text


def test_the_largest_and_smallest_samples_share_a_scale(visit: Open) -> None:
    page = visit("feature=svd:1")
    zeros = [
        page.locator("figure", has=page.get_by_role("heading", name=name, exact=True))
        .locator("svg line.axis")
        .first.get_attribute("x1")
        for name in ("Largest", "Smallest")
    ]
    assert zeros[0] == zeros[1]


def test_texts_are_cut_between_characters(visit: Open) -> None:
    functions = source().rpartition("\nshowPage(runPage, ")[0]
    found = visit("about", bypass_csp=True).evaluate(
        """(text) => new Function(text + `;return [
             short("ab\\u{1F600}cd", 4)];`)()""",
        functions,
    )
    assert found == ["ab\U0001f600…"]


def test_a_table_has_every_row_or_says_how_many(visit: Open) -> None:
    page = visit("feature=svd:1", name="broad")
    figure = page.locator("figure", has=page.get_by_role("heading", name="The chosen eigenvector"))
    figure.get_by_role("button", name="Table").click()
    assert figure.locator("tbody tr").count() == 1000
    assert "The first 1,000 of 1,100 rows." in figure.inner_text()
    figure = page.locator("figure", has=page.get_by_role("heading", name="Eigenvalues", exact=True))
    assert "These are the first 32 of 1,100; no other is larger" in figure.inner_text()


def test_hostile_texts_are_shown_and_run_nothing(visit: Open) -> None:
    page = visit("about")
    for view in (*VIEWS, "feature=svd:0", "compare=svd:0,sae:0"):
        page.evaluate("hash => { location.hash = hash; }", view)
        page.wait_for_timeout(40)
        assert page.locator("img").count() == 0
        assert page.evaluate("document.scripts.length") == 2
        assert page.title() != "run"
    page.evaluate("location.hash = 'about'")
    assert EVIL in page.locator("main").inner_text()
    assert page.evaluate("document.querySelectorAll('[onerror], [onload]').length") == 0
    refused = page.evaluate(
        """() => { try { document.body.innerHTML = '<img src=x>'; return 'ran'; }
             catch (error) { return error.name; } }"""
    )
    assert refused == "TypeError"  # trusted types: no text becomes markup, whatever the script does


def test_the_theme_can_be_chosen(visit: Open) -> None:
    page = visit("overview")
    page.get_by_role("button", name="Dark").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 21, 25)"
    page.get_by_role("button", name="Light").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_two_runs_stand_side_by_side_and_seeds_give_intervals(visit: Open) -> None:
    page = visit("compare=svd:3", name="two")
    assert page.locator(".side").count() == 2
    assert "another" in page.locator(".side").nth(1).inner_text()
    cosine = abs(_number(page.locator(".facts dd").first.inner_text()))
    for place in range(7):  # no feature of the other run is more like it than the one that was chosen
        other = visit(f"compare=svd:3,svd:{place}@1", name="two")
        assert abs(_number(other.locator(".facts dd").first.inner_text())) <= cosine
    assert "largest |cosine|" in page.locator("main").inner_text()
    assert "another" in page.get_by_label("with").locator("option:checked").inner_text()
    assert "another" in page.locator(".facts dt").last.inner_text()
    overlaps = page.locator("figure", has=page.get_by_role("heading", name="How far their eigenvectors"))
    assert "another (columns)" in overlaps.locator(".note").first.inner_text()
    ends = page.locator(".side").evaluate_all(
        "sides => sides.map((side) => side.querySelector('figure svg > g > g:last-child').textContent)"
    )
    assert ends[0] == ends[1]  # one scale for the pictures of both
    page.get_by_label("with").select_option("svd:2@1")
    page.wait_for_function("location.hash === '#compare=svd:3,svd:2@1'")
    page.get_by_label("Compare", exact=True).select_option("svd:2@1")
    page.wait_for_function("location.hash === '#compare=svd:2@1,svd:2@1'")
    assert page.locator(".facts dd").first.inner_text().startswith(("+1.00", "+0.99"))
    page.evaluate("location.hash = 'faithfulness'")
    page.wait_for_selector(".whisker")
    assert "3 seeds" in page.locator("figure .note").first.inner_text()


def test_features_with_and_without_the_constant_are_compared(visit: Open) -> None:
    for pair in ("svd:1,sae:1", "sae:1,svd:1"):
        page = visit(f"compare={pair}", name="mixed")
        assert abs(_number(page.locator(".facts dd").first.inner_text())) <= 1
        assert "NaN" not in page.locator("main").inner_text()


@pytest.mark.parametrize("name", list(parts_missing()))
def test_a_run_with_parts_missing_is_still_a_page(visit: Open, name: str) -> None:
    page = visit("overview", name=name)
    for view in (*VIEWS, "feature=svd:0", "feature=sae:0"):
        page.evaluate("hash => { location.hash = hash; }", view)
        page.wait_for_timeout(30)
        assert page.locator("h1").count() == 1, view
        assert page.locator("main").inner_text().strip()
        assert "NaN" not in page.locator("main").inner_text()
        assert "undefined" not in page.locator("main").inner_text()
    expected = {
        "nothing": ("overview", "no features yet"),
        "no samples": ("sample", "holds no samples"),
        "no model": ("sample", "does not hold the factors"),
        "no outputs' view": ("sample", "no eigenvectors of its outputs"),
        "no details": ("feature=digits:0", "does not say on which samples"),
        "dead and empty": ("feature=svd:0", "This feature is 0"),
        "no sae": ("overview", "Classes"),
        "no labels": ("sample=3", "The model says"),
        "words": ("sample", "word 3"),
    }[name]
    page.evaluate("hash => { location.hash = hash; }", expected[0])
    page.wait_for_timeout(30)
    assert expected[1] in page.locator("main").inner_text()
    if name == "no samples":
        page.evaluate("location.hash = 'faithfulness'")
        page.wait_for_selector("text=they need labelled samples, and it has none")
    if name == "words":  # bars have lengths, and no scale of colours
        page.evaluate("location.hash = 'feature=svd:1'")
        page.wait_for_selector("text=What raises it")
        assert page.locator("svg rect[fill^=rgb]").count() == 0


def test_an_input_that_is_no_image_is_set_by_numbers(visit: Open) -> None:
    page = visit("sample", name="words")
    before = _logits(page)
    page.get_by_label("word 3").fill("2.5")
    assert np.abs(_logits(page) - before).max() > 0.01
    assert "ink=" in _hash(page)
    page.get_by_label("word 3").fill("0.123456")
    again = visit(_hash(page), name="words")
    assert _hash(again) == _hash(page)
    np.testing.assert_array_equal(_logits(again), _logits(page))


def test_a_link_keeps_inputs_of_any_number(visit: Open) -> None:
    page = visit("sample=3", name="wide")
    page.get_by_label("word 3", exact=True).fill("2.5")
    again = visit(_hash(page), name="wide")
    np.testing.assert_array_equal(_logits(again), _logits(page))


def test_data_of_another_format_are_told(browser: Browser, run: Exploration, tmp_path: Path) -> None:
    content = explorer.document([run])
    content["format"] = 1
    (tmp_path / "page.html").write_text(explorer.render(content), "utf-8")
    page = browser.new_page(offline=True)
    page.goto((tmp_path / "page.html").as_uri())
    assert page.locator("h1").inner_text() == "This page cannot be shown"
    assert "format 1" in page.locator("main").inner_text()
    page.close()
