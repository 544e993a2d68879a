"""The page of a layer of a language model in a real browser, every token of which is hostile."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import tiny_models
from bilens import explorer
from bilens.analyses import _language_compare as language_compare
from hostile import HOSTILE, TOKENS

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

sys.path.insert(0, str(Path(__file__).parents[1] / "analyses"))
import reading_job  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page  # half a second, which the default tests can do without

FOUND = importlib.util.find_spec("axe_playwright_python")
if FOUND is None or FOUND.origin is None:
    pytest.skip("needs Playwright: pip install 'bilens[dev]'", allow_module_level=True)

AXE = Path(FOUND.origin).parent / "axe.min.js"
VIEWS = ("overview", "feature=tokens:1", "sentence", "compare=tokens:1,tokens:2", "about")
BESIDE = ("beside", "compare", "compare=tokens:3,tokens:7@1", "compare=tokens:3@1,tokens:7@1", "overview")
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
LAYER = 1

Open = Callable[..., "Page"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page whose every token is hostile, and each of them a feature; and one of weights alone."""
    pytest.importorskip("duckdb", reason="pip install 'bilens[tables]'")
    assert len(set(TOKENS)) == len(TOKENS) >= 200
    model = tiny_models.made("llama", vocab_size=len(TOKENS))
    tokens = torch.cat([torch.randperm(len(TOKENS), generator=torch.Generator().manual_seed(n)) for n in range(5)])
    rows = tokens[: len(tokens) // 24 * 24].view(-1, 24)
    out = tmp_path_factory.mktemp("reading")
    other = tiny_models.made("llama", vocab_size=len(TOKENS), seed=1)
    for name, one in (("run", model), ("other", other)):
        one.save_pretrained(out / "models" / f"{name} __DATA__")
        found = reading_job.subject(one, pieces=TOKENS, rows=rows, fit=len(rows) - 14)
        found = replace(found, named=str(out / "models" / f"{name} __DATA__"))
        reading_job.read(out / name, found, (LAYER,), tokens=len(TOKENS), input_tokens=len(TOKENS), controls=20)
    language_compare.compare(out / "run", out / "other", out / "beside", layers=None, open=False)
    weights = reading_job.subject(model, pieces=TOKENS, text=False)
    reading_job.read(out / "weights", weights, (LAYER,), tokens=30)
    bilinear = tiny_models.made("llama", vocab_size=len(TOKENS), hidden_act="linear")
    exact = reading_job.subject(bilinear, pieces=TOKENS, rows=rows, fit=len(rows) - 14)
    reading_job.read(out / "exact", exact, (LAYER,), tokens=30)
    reading_job.read(out / "exact weights", reading_job.subject(bilinear, pieces=TOKENS, text=False), (LAYER,))
    return out


@pytest.fixture
def visit(browser: Browser, run: Path) -> Iterator[Open]:
    """Opens the page from the disk with the network off; fails on any console message, error, dialog or request."""
    contexts, told = [], []

    def visit(hash: str = "", name: str = "run", *, size: str = "desktop", theme: str = "light", **more: Any) -> Page:
        width, height = SIZES[size]
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=theme, offline=True, **more
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(90000)
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("dialog", lambda dialog: told.append(dialog.message))
        page.on("request", lambda request: request.url.startswith(("file:", "data:")) or told.append(request.url))
        file = "report.html" if name == "beside" else f"layer-{LAYER:03d}.html"
        page.goto(f"{(run / name / file).as_uri()}#{hash}")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert told == []


def go(page: Page, view: str) -> None:
    page.evaluate("hash => { location.hash = hash; }", view)
    page.wait_for_timeout(60)


CLEAN = """() => {
  const strange = document.querySelectorAll("body script:not(#data):not(:last-of-type), img, iframe, object, embed, " +
    "base, link, form, body style, [onerror], [onload], [style]");
  const unseen = /[\\p{Cc}\\p{Cf}\\p{Zl}\\p{Zp}\\p{Cs}]/u;
  const seen = [...document.querySelectorAll(".tok, .running bdi, .word, option, h1, th, td")]
    .map((each) => each.textContent).filter((text) => unseen.test(text));
  return { strange: [...strange].map((each) => each.outerHTML.slice(0, 80)), seen, scripts: document.scripts.length,
    title: document.title };
}"""


CUT = """() => {
  const sides = (each) => each.getBoundingClientRect();
  const narrow = [...document.querySelectorAll(".lm-costs .table, .side-by-side .table, .masthead nav")]
    .filter((each) => each.scrollWidth > each.clientWidth).map((each) => each.getAttribute("aria-label"));
  const cut = [...document.querySelectorAll("figure svg text")].filter((each) => {
    const text = sides(each), frame = sides(each.ownerSVGElement);
    return text.left < frame.left - 1 || text.right > frame.right + 1;
  });
  return [...narrow, ...cut.map((each) => each.textContent)];
}"""


def test_no_hostile_token_gets_anywhere_in_any_view(visit: Open) -> None:
    page = visit("overview")
    assert page.locator("#features tbody tr").count() == len(TOKENS)
    views = [
        *VIEWS,
        *(f"feature=tokens:{place}" for place in range(len(TOKENS))),
        *(f"sentence={n}" for n in range(12)),
    ]
    for view in views:
        go(page, view)
        found = page.evaluate(CLEAN)
        assert found["strange"] == [], view
        assert found["seen"] == [], view
        assert found["scripts"] == 2, view
        assert found["title"].endswith("Layer 1 of run __DATA__"), view
        assert page.locator("h1").count() == 1, view
    page = visit("beside", "beside")
    assert page.locator("table").first.locator("tbody tr").count() == len(TOKENS)
    for view in (*BESIDE, *(f"compare=tokens:{place},tokens:{place}@1" for place in range(0, len(TOKENS), 3))):
        go(page, view)
        found = page.evaluate(CLEAN)
        assert found["strange"] == [], view
        assert found["seen"] == [], view
        assert found["scripts"] == 2, view
        assert page.locator("h1").count() == 1, view


def test_every_token_is_found_and_shown_visibly(visit: Open) -> None:
    page = visit("overview")
    shown = page.locator("#features tbody th bdi").all_inner_texts()
    assert len(shown) == len(TOKENS)
    assert all(text for text in shown)
    expected = {" ": "␣", "\n": "⏎", "\t": "⇥", " the": "␣the", "\u202eevil": "⟨U+202E⟩evil", "\u2028": "⟨U+2028⟩",
                "</script>": "</script>", "\u0301": "◌\u0301", "\x00": "⟨U+0000⟩", "__DATA__": "__DATA__"}  # fmt: skip
    for token, text in expected.items():
        assert token in HOSTILE
        assert any(one == text or one.startswith(f"{text}␣#") for one in shown), text
    page.get_by_label("in", exact=True).select_option("label")
    for token in ("</script>", "__DATA__", "⟨U+202E⟩evil", "${data}"):
        page.get_by_label("Find a token").fill(token)
        assert page.locator("#features tbody tr").count() >= 1, token
    page.get_by_label("Find a token").fill("nothing has this in it")
    assert page.locator("#features tbody tr").count() == 0
    assert page.get_by_text("No feature here has that").is_visible()


@pytest.mark.parametrize("where", ["reads", "writes", "any"])
def test_features_are_found_by_what_they_read_and_what_they_write(visit: Open, run: Path, where: str) -> None:
    content = explorer.reading_of(run / "run" / f"layer-{LAYER:03d}.html")
    features = content["sets"][0]["features"]

    def has(feature: Any, asked: str, text: str) -> bool:
        named = [feature["label"]] if asked == "label" else [
            content["tokens"][token] for side in feature[asked] for token in side["tokens"]
        ]  # fmt: skip
        return any(text.lower() in one.lower() for one in named)

    def wanted(text: str, how: str) -> list[str]:
        asked = ("label", "reads", "writes") if how == "any" else (how,)
        return [f"#feature=tokens:{one['number']}" for one in features if any(has(one, each, text) for each in asked)]

    page = visit("overview")
    page.get_by_label("in", exact=True).select_option(where)
    other = {"reads": "writes", "writes": "reads", "any": "label"}[where]
    shown_as = {"\u202e": "⟨U+202E⟩"}
    for text in ("</script>", "__DATA__", "constructor", "${data}", "\u202e"):
        expected = wanted(text, where)
        assert expected != wanted(text, other), text  # else it says nothing of where was looked
        assert 0 < len(expected) < len(features), text
        page.get_by_label("Find a token").fill(shown_as.get(text, text.upper()))
        shown = [each.get_attribute("href") for each in page.locator("#features tbody th a").all()]
        assert shown == expected, text
        assert page.locator("#features").get_by_role("status").inner_text().startswith(f"{len(expected)} feature")
    page.reload()  # the link keeps what was asked
    assert page.get_by_label("in", exact=True).input_value() == where
    assert page.locator("#features tbody tr").count() == len(expected)


@pytest.mark.parametrize("size", SIZES)
def test_what_is_found_stands_in_the_row_that_it_was_found_by(visit: Open, run: Path, size: str) -> None:
    content = explorer.reading_of(run / "run" / f"layer-{LAYER:03d}.html")
    page = visit("overview", size=size)
    for column, where in enumerate(("reads", "writes")):
        page.get_by_label("in", exact=True).select_option(where)
        for text in ("__DATA__", "constructor"):
            page.get_by_label("Find a token").fill(text)
            rows = page.locator("#features tbody tr").all()
            assert rows, (where, text)
            for row in rows:
                place = int(str(row.locator("th a").get_attribute("href")).rpartition(":")[2])
                (feature,) = (one for one in content["sets"][0]["features"] if one["number"] == place)
                upper, _ = ([content["tokens"][token] for token in side["tokens"]] for side in feature[where])
                cell = row.locator("td").nth(column)
                assert cell.is_visible()
                low = "" if any(text in token for token in upper) else "↓"
                assert cell.inner_text().replace("\n", "").startswith(low)
                assert text in cell.locator(".tok").first.inner_text(), (where, text)
    page.get_by_label("Find a token").fill("nothing has this in it")
    assert page.locator("p.empty:visible").inner_text() == "No feature here has that in the tokens that it writes."


def drawn(page: Page, place: int = 0) -> dict[str, Any]:
    """The bars and marks of a spectrum, upwards from its axis, in pixels."""
    figure = page.locator("figure", has=page.get_by_role("heading", name="Pairs, in the order of")).nth(place)
    return figure.locator(".drawing svg").evaluate("""(svg) => {
      const all = (selector) => [...svg.querySelectorAll(selector)];
      const at = (each, name) => Number(each.getAttribute(name));
      const zero = at(svg.querySelector("line.axis"), "y1"), middle = (each) => at(each, "x") + at(each, "width") / 2;
      return {
        zero,
        bars: all("rect.positive, rect.negative").map((each) => ({ kind: each.getAttribute("class"), x: middle(each),
          height: at(each, "height"), foot: zero - at(each, "y") - at(each, "height") })),
        marks: all("rect.total").map((each) => ({ x: middle(each),
          up: zero - at(each, "y") - at(each, "height") / 2 })),
        ticks: all("line.grid, line.axis").map((each) => zero - at(each, "y1")),
        told: all(".tick[text-anchor=end]").map((each) => each.textContent),
      };
    }""")


@pytest.mark.parametrize("name", ["run", "weights", "exact"])
def test_bars_and_null_marks_of_a_spectrum_are_where_the_data_say(visit: Open, run: Path, name: str) -> None:
    content = explorer.reading_of(run / name / f"layer-{LAYER:03d}.html")
    (null,) = (found for found in content["sets"] if found["control"])
    medians = np.median([feature["shares"] for feature in null["features"]], axis=0)
    page = visit("overview", name)
    for feature in content["sets"][0]["features"][:20:6]:
        go(page, f"feature=tokens:{feature['number']}")
        found = drawn(page)
        shares = np.array(feature["shares"])
        scale = found["bars"][0]["height"] / shares[0]  # pixels of the whole
        assert [bar["kind"] for bar in found["bars"]] == [
            "negative" if value < 0 else "positive" for value in feature["values"]
        ]
        assert [bar["height"] for bar in found["bars"]] == pytest.approx(np.maximum(0.5, shares * scale), abs=0.02)
        assert [bar["foot"] for bar in found["bars"]] == pytest.approx(np.minimum(0, shares * scale - 0.5), abs=0.02)
        assert [mark["up"] for mark in found["marks"]] == pytest.approx(medians * scale, abs=0.02)
        assert [mark["x"] for mark in found["marks"]] == pytest.approx([bar["x"] for bar in found["bars"]], abs=0.02)
        assert found["told"] == [f"{100 * tick / scale:.0f}\u202f%" for tick in found["ticks"]]
        page.locator("figure", has=page.get_by_role("heading", name="Pairs, in the order of")).get_by_role(
            "button", name="Table"
        ).click()
        cells = page.locator("figure tbody").first.locator("td:nth-child(4)").all_inner_texts()
        assert [number(cell) for cell in cells] == pytest.approx(medians, rel=6e-3)
        note = page.locator("figcaption .note").first.inner_text()
        assert f"{len(null['features'])} random directions" in note


def test_null_marks_of_two_features_stay_in_their_charts(visit: Open, run: Path) -> None:
    content = explorer.reading_of(run / "run" / f"layer-{LAYER:03d}.html")
    (null,) = (found for found in content["sets"] if found["control"])
    random = max(np.median([feature["shares"] for feature in null["features"]], axis=0))
    flat = sorted(content["sets"][0]["features"], key=lambda feature: max(feature["shares"]))[:2]
    assert random > max(flat[1]["shares"])  # else no mark is above all bars
    page = visit(f"compare=tokens:{flat[0]['number']},tokens:{flat[1]['number']}")
    for side in (0, 1):
        found = drawn(page, side)
        assert max(mark["up"] for mark in found["marks"]) < found["zero"] - 12  # below the name of the axis
    first, second = (drawn(page, side)["bars"][0]["height"] for side in (0, 1))
    assert first / second == pytest.approx(flat[0]["shares"][0] / flat[1]["shares"][0], rel=1e-3)  # one scale


SAYS = {
    "run": ("surrogate: saw {fit} tokens", "order of pairs: saw {fit} tokens",
            "contexts and correlations: {held} held-out tokens"),
    "exact": ("from the weights, exact (to", "order of pairs: saw {fit} tokens",
              "contexts and correlations: {held} held-out tokens"),
    "weights": ("surrogate: weights only", "order of pairs: |λ|, weights only", "no text was read: no contexts"),
    "exact weights": ("from the weights, exact", "order of pairs: |λ|, weights only", "no text was read: no contexts"),
}  # fmt: skip


@pytest.mark.parametrize("name", SAYS)
def test_what_saw_text_and_how_much_is_said_on_every_view(visit: Open, name: str) -> None:
    rows, length = 5 * len(TOKENS) // 24, 24 - 1  # the first token of each row is left out
    fit, held = (f"{count * length:,}" for count in (rows - 14, 14))
    page = visit("overview", name)
    seen = "weights" not in name
    for view in ("overview", "feature=tokens:1", "about"):
        go(page, view)
        said = page.locator("ul.labels li").all_inner_texts()
        assert len(said) == 3
        for text, expected in zip(said, SAYS[name], strict=True):
            assert text.startswith(expected.format(fit=fit, held=held)), view
        words = page.locator("main").inner_text()
        assert ("saw" in words) is seen
        assert (f"{held} held-out tokens" in words) is seen
        if view.startswith("feature"):
            assert page.get_by_role("heading", name="Contexts").count() == seen
            assert page.get_by_role("heading", name="Predicted against true").count() == seen
            assert page.get_by_role("heading", name=f"Pairs, in the order of {'the data' if seen else '|λ|'}").count()
            reads = page.locator("section.sides", has=page.get_by_role("heading", name="What it reads"))
            assert (f"over {fit} tokens of text" in reads.inner_text()) is seen
            assert ("weights only" in reads.inner_text()) is not seen
            assert "weights only" in page.locator("section.sides", has_text="What it writes").inner_text()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["run", "weights", "beside"])
def test_every_view_is_drawn_in_both_themes_and_widths(visit: Open, name: str, size: str, theme: str) -> None:
    page = visit("overview", name, size=size, theme=theme)
    for view in BESIDE if name == "beside" else VIEWS:
        go(page, view)
        page.wait_for_function("document.querySelector('main h1')")
        assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0, view
        assert page.evaluate(CUT) == [], view
        for drawing in page.locator("figure .drawing").all():
            assert drawing.locator("svg").count() == 1, view
        if folder := os.environ.get("BILENS_SCREENSHOTS"):
            picture = f"lm-{name}-{re.sub(r'[^a-z0-9]+', '-', view)}-{theme}-{size}.png"
            page.screenshot(path=Path(folder) / picture, full_page=True)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", ["run", "beside"])
def test_no_serious_violation_of_accessibility(visit: Open, name: str, theme: str) -> None:
    page = visit("overview", name, theme=theme, bypass_csp=True)
    page.add_script_tag(path=AXE)
    for view in BESIDE if name == "beside" else VIEWS:
        go(page, view)
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        serious = [
            f"{each['id']}: {each['nodes'][0]['html'][:160]}"
            for each in found
            if each["impact"] in ("serious", "critical")
        ]
        assert serious == [], view


def number(text: str) -> float:
    text = text.replace("−", "-").replace(",", "")
    if "·10" in text or re.match(r"-?10[⁻⁰¹²³⁴-⁹]", text):
        mantissa, _, power = text.rpartition("10")
        signs = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
        return float(mantissa.rstrip("·") or 1) * 10 ** int(power.translate(signs))
    return float(text)


def test_a_sentence_is_chosen_by_keys_and_its_terms_add_up(visit: Open) -> None:
    page = visit("sentence=2&f=tokens:5&at=0")
    page.locator("button.word").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.locator("button.word").nth(1).get_attribute("aria-pressed") == "true"
    assert "at=1" in str(page.evaluate("location.hash"))
    page.locator("figure").get_by_role("button", name="Table").click()
    for place in (1, 4, 9):
        page.locator("button.word").nth(place).click()
        cells = [number(text) for text in page.locator("figure tbody td").all_inner_texts()]
        assert cells[-1] == pytest.approx(sum(cells[:-1]), abs=0.01 * sum(map(abs, cells)))
        told = page.locator(".verdict strong").inner_text()
        assert number(told) == pytest.approx(cells[-1], rel=1e-2)


def test_the_number_of_pairs_changes_what_is_predicted(visit: Open) -> None:
    page = visit("feature=tokens:5")
    figure = page.locator("figure", has=page.get_by_role("heading", name="Predicted against true"))
    figure.get_by_role("button", name="Table").click()
    before = figure.locator("tbody td:nth-child(3)").all_inner_texts()
    figure.get_by_role("radio", name="4", exact=True).check()
    after = figure.locator("tbody td:nth-child(3)").all_inner_texts()
    assert before != after
    assert "4 pairs: r =" in figure.get_by_role("status").inner_text()


def test_interactions_that_were_seen_and_features_that_were_left_out_are_told(visit: Open, run: Path) -> None:
    """Of a page whose data are altered: a coder takes too long to train here, and so do features of 10 MB."""
    path = run / "altered" / f"layer-{LAYER:03d}.html"
    path.parent.mkdir()
    text = (run / "run" / path.name).read_text("utf-8")
    for name, values in (("together", "1234,null,"), ("expected", "56.7,null,"), ("change", "-0.125,null,")):
        text, count = re.subn(rf'"{name}":\[null,null,', f'"{name}":[{values}', text)
        assert count >= len(TOKENS)
    text = text.replace('"limit":null', '"limit":10000000').replace(f'"total":{len(TOKENS)}', '"total":5000')
    path.write_text(text, "utf-8")
    page = visit("feature=tokens:1", "altered")
    columns = explorer.reading_of(path)["sets"][0]["features"][1]["interactions"]
    rows = [row.locator("td").all_inner_texts() for row in page.locator(".interactions .table tbody tr").all()]
    assert len(rows) == len(columns["first"]) == reading_job.PLAN.interactions
    assert [number(cells[0]) for cells in rows] == pytest.approx(columns["coefficient"], rel=6e-3)
    assert [float(cells[1].removesuffix("%")) for cells in rows] == pytest.approx(
        [100 * share for share in columns["share"]], abs=0.051
    )
    assert [cells[2:] for cells in rows[:3]] == [["1,234", "56.7", "−0.125"], ["–"] * 3, ["–"] * 3]
    go(page, "overview")
    assert f"{len(TOKENS)} of 5,000 are on this page, which is kept below 10 MB;" in page.locator(".among").inner_text()
    go(page, "sentence")
    assert "this page, which is kept below 10 MB, does not carry them" in page.locator("main").inner_text()


def decoded(array: dict[str, Any]) -> np.ndarray:
    values = np.frombuffer(base64.b64decode(array["data"]), {"f4": "<f4", "i2": "<i2"}[array["type"]])
    values = values.reshape(array["shape"]).astype(float)
    return values * np.array(array.get("scale", [1.0] * len(values)))[:, None]


@pytest.mark.parametrize(
    ("first", "second"),
    [("tokens:3", "tokens:7"), ("tokens:3", "tokens:7@1"), ("tokens:7@1", "tokens:3"), ("tokens:3@1", "random:2@1"),
     ("random:1", "random:1@1"), ("tokens:5", "tokens:5")],
)  # fmt: skip
def test_two_features_have_the_cosine_of_their_kernels_and_what_random_pairs_have(
    visit: Open, run: Path, first: str, second: str
) -> None:
    page = visit(f"compare={first},{second}", "beside")
    content = explorer.reading_of(run / "beside" / "report.html")
    beside = content["beside"]
    assert beside is not None
    sides = []
    for name in (first, second):
        set_, place = name.removesuffix("@1").split(":")
        sides.append((name.endswith("@1"), set_ == "random", int(place)))
    across = sides[0][0] != sides[1][0]
    alike = beside["alike"] if across else (beside["reading"] if sides[0][0] else content)["alike"]
    ordered = sorted(sides) if across else sides
    places = [len(TOKENS) * control + place for _, control, place in ordered]
    matrix = decoded(alike["cosines"])
    cosine = 1.0 if not across and places[0] == places[1] else matrix[tuple(places)]
    norms = [alike["first"][places[0]], alike["second"][places[1]]]
    of_first, of_second = norms if ordered == sides else norms[::-1]
    distance = np.sqrt(max(0, of_first**2 + of_second**2 - 2 * of_first * of_second * cosine)) / of_first
    blocks = [slice(len(TOKENS), None) if control else slice(0, len(TOKENS)) for _, control, _ in ordered]
    block = np.abs(matrix[tuple(blocks)])
    null = np.sort(block[~np.eye(len(block), dtype=bool)] if blocks[0] == blocks[1] else block.flatten())
    told = page.locator("dl.facts > div").first.inner_text()
    assert number(told.splitlines()[1].lstrip("+")) == pytest.approx(cosine, abs=6e-3 * max(abs(cosine), 0.01))
    assert f"{len(null):,} pairs" in told
    says = re.search(r"\|cosine\| ([^,]+), 95 % below ([^;]+);", told)
    assert says is not None
    assert number(says[1]) == pytest.approx(null[int(0.5 * len(null))], rel=6e-3)
    assert number(says[2]) == pytest.approx(null[int(0.95 * len(null))], rel=6e-3)
    said = page.locator("dl.facts > div").nth(1).locator("dd").first.inner_text()
    assert number(said) == pytest.approx(distance, rel=1e-2, abs=1e-3)


def test_two_layers_side_by_side_list_every_feature_and_lead_to_each(visit: Open, run: Path) -> None:
    page = visit("", "beside")
    assert page.locator("h1").inner_text() == "Side by side"
    rows = page.locator("main section table").first.locator("tbody tr")
    content = explorer.reading_of(run / "beside" / "report.html")
    labels = [
        [feature["label"] for feature in side["sets"][0]["features"]]
        for side in (content, content["beside"]["reading"])
    ]  # type: ignore[index]
    matrix = decoded(content["beside"]["alike"]["cosines"])  # type: ignore[index]
    own = sorted(matrix[i, labels[1].index(label)] for i, label in enumerate(labels[0]))
    cells = [number(text.lstrip("+")) for text in rows.locator("td:nth-child(2)").all_inner_texts()]
    assert cells == pytest.approx(own, abs=6e-3)
    summary = json.loads((run / "beside" / "summary.json").read_text("utf-8"))["sets"]
    told = page.locator("dl.facts dd:not(.small)").all_inner_texts()
    for text, name in zip(told, ("tokens", "random"), strict=True):
        assert number(text.lstrip("+")) == pytest.approx(summary[name]["cosine"]["value"], abs=6e-3)
    page.get_by_label("Sort by").first.select_option("near")
    assert number(rows.first.locator("td").first.inner_text().lstrip("+")) == pytest.approx(own[-1], abs=6e-3)
    page.locator("main section table").first.locator("tbody a").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_timeout(60)
    assert page.locator("h1").inner_text() == "Compare"
    assert page.locator("select").nth(1).input_value().endswith("@1")


def test_a_feature_of_the_layer_beside_has_no_view_of_its_own(visit: Open) -> None:
    page = visit("feature=tokens:1@1", "beside")
    assert page.locator("h1").inner_text() == "No such feature"
    go(page, "compare=tokens:1,tokens:2@1")
    assert page.locator("h2 a").count() == 1


def test_links_keep_what_is_looked_at_and_strange_ones_lead_home(visit: Open) -> None:
    page = visit("overview=random&find=1")
    assert page.get_by_role("tab", selected=True).inner_text().startswith("Random")
    for strange in (
        "feature=tokens:99999",
        "feature=%3Cscript%3E",
        "sentence=-1",
        "sentence=9999&at=9999&f=x",
        "compare=a,b",
        "compare=tokens:1@1",
        "beside",
    ):
        go(page, strange)
        assert page.locator("h1").count() == 1
    go(page, "feature=tokens:99999")
    assert page.locator("h1").inner_text() == "No such feature"
