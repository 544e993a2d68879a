from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from bilens import decompose, explorer, plots
from bilens.decompose import Spectrum
from bilens.errors import BilensError, StoreError
from bilens.explorer import Report
from bilens.faithfulness import Curve, Score
from bilens.history import History
from bilens.space import Space
from bilens.tensor import BilinearTensor
from bilens.views import CodeComparison, View

EVIL = "</script><img src=x onerror=alert(1)>\"'&{{ 7*7 }}"
PIXELS = Space("pixels", 6, image=(2, 3), constant=True)
WORDS = Space("words", 3, ("red", EVIL, "blue"))
VOID = {"meta", "img", "source", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Elements with their attributes, and text; fails on an element that is not closed where it should be."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.headings: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("h1", "h2", "h3"):
            self.headings.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data
        if self.open and self.open[-1] in ("h1", "h2", "h3"):
            self.headings[-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def make_view(name: str, n: int, space: Space = PIXELS, label: str = "feature") -> View:
    generator = torch.Generator().manual_seed(n)
    output = Space("classes", 3, ("cat", "dog", EVIL))
    tensor = BilinearTensor.from_layer(
        torch.randn(4, space.size, generator=generator).double(),
        torch.randn(4, space.size, generator=generator).double(),
        torch.randn(n, 4, generator=generator).double(),
        input=space,
        output=Space("codes", n),
    )
    spectra = tuple(replace(decompose.eigh(tensor.kernel(i), 3), label=f"{label} {i}") for i in range(n))
    importance = torch.arange(n, 0, -1, dtype=torch.float64)
    return View(name, spectra, importance, "norm", torch.randn(n, 3, generator=generator).double(), output)


@pytest.fixture(scope="module")
def report() -> Report:
    eye = torch.eye(3, dtype=torch.float64)
    share = torch.tensor([0.25, 0.9375], dtype=torch.float64)
    return Report(
        title="A small model",
        summary={"Hidden units": 4, "Accuracy": "97.8 %", EVIL: EVIL},
        views=(make_view("digits", 2), make_view("sae", 12), make_view("svd", 3), make_view("pairs", 1, label=EVIL)),
        scores={"the model itself": Score(0.9781, 0.0712, 1.0), "SVD, K = 2": Score(0.5, 1.2, 0.4321)},
        curves=(
            Curve("SVD", torch.tensor([1, 2]), share, 1 - share, share, error=share, bound=1 + share),
            Curve(EVIL, torch.tensor([2, 4]), share, 1 - share, share),
        ),
        codes=CodeComparison(torch.tensor([0.0, 1.0]), torch.tensor([0.1, 0.9]), 0.99, 12, 0.01, 9),
        svd=decompose.svd(BilinearTensor.from_layer(eye, eye, input=WORDS, output=Space("hidden", 3))),
        history=History(("loss", EVIL), torch.tensor([0, 10]), torch.tensor([[2.0, 0.5], [1.0, 0.25]])),
        notes=("Trained on nothing.", EVIL),
        features=11,
        eigenvectors=2,
    )


@pytest.fixture(scope="module")
def html(report: Report) -> str:
    return explorer.page(report)


def test_every_part_has_its_section(html: str):
    page = Page(html)
    titles = [explorer.WAYS[name][0] for name in ("digits", "sae", "svd", "pairs")]
    for heading in ("A small model", "How faithful is each view?", *titles, "Training", "Notes"):
        assert heading in page.headings
    for way in explorer.WAYS.values():
        assert way[1] in page.text
    ids = {attributes.get("id") for _, attributes in page.elements}
    anchors = [str(link["href"]) for link in page.all("a")]
    assert {"#faithfulness", "#view-svd", "#view-pairs", "#training", "#notes"} <= set(anchors)
    assert all(anchor.removeprefix("#") in ids for anchor in anchors)
    assert "Trained on nothing." in page.text
    assert "One more feature" in page.text  # 11 of the SAE's, 10 before the fold
    assert "One further feature" in page.text


def test_the_page_holds_the_numbers(html: str, report: Report):
    text = Page(html).text
    assert "97.81\u202f%" in text
    assert "43.2\u202f%" in text
    assert "0.0712" in text
    spectrum = report.views[0].spectra[0]
    for kernel in plots.linear_kernels(spectrum, 2):
        assert f"λ {plots.signed(kernel.value)}" in text
        assert f"constant {plots.signed(float(kernel.bias or 0.0))}" in text
    assert "0.938" in text  # a point of the curve, in the table behind its chart


def test_nothing_is_loaded_from_outside_and_no_script_runs(html: str):
    page = Page(html)
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "srcset", "href", "poster", "data"):
                assert str(value).startswith(("data:image/", "#"))
    assert not re.search(r"https?:|url\(|@import|src=[\"']?//", re.sub(r"base64,[A-Za-z0-9+/=]*", "", html))
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in str(policy)
    assert "script-src" not in str(policy)


def test_embedded_charts_load_nothing_either(html: str):
    charts = re.findall(r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]*)", html)
    assert len(charts) >= 2 * 6  # accuracy, recovered, certificate, codes, singular values, history: light and dark
    for chart in charts:
        svg = base64.b64decode(chart).decode()
        assert "<script" not in svg
        assert "<img" not in svg
        for reference in re.findall(r"href=\"([^\"]*)\"", svg):
            assert reference.startswith(("#", "data:"))


def test_text_from_data_is_never_markup(html: str):
    page = Page(html)
    assert not page.all("script")
    assert all(str(image["src"]).startswith("data:image/") for image in page.all("img"))
    assert "<img src=x" not in html
    assert page.text.count(EVIL) >= 5  # summary, note, feature, curve, history: shown as they are
    assert any("{{ 7*7 }}" in heading for heading in page.headings)


def test_images_have_an_alternative_text_and_one_scale_a_kernel(html: str, report: Report):
    page = Page(html)
    assert all(image.get("alt") for image in page.all("img"))
    pngs = [str(image["src"]) for image in page.all("img") if str(image["src"]).startswith("data:image/png")]
    first = plots.linear_kernels(report.views[0].spectra[0], 2)
    scale = max(float(kernel.weights[:6].abs().max()) for kernel in first)
    for kernel, png in zip(first, pngs, strict=False):
        expected = plots.thumbnail(kernel.weights, PIXELS, scale)
        assert base64.b64decode(png.split(",")[1]) == expected


def test_the_document_is_json_that_says_what_pictures_leave_out(report: Report, html: str):
    document = explorer.document(report)
    assert explorer.render(json.loads(json.dumps(document, allow_nan=False))) == html
    spectrum = report.views[0].spectra[0]
    feature = document["sections"][0]["features"][0]
    shown = [kernel["rank"] - 1 for kernel in (*feature["positive"], *feature["negative"])]
    values = spectrum.values.tolist()
    assert feature["energy"] == pytest.approx(sum(values[i] ** 2 for i in shown) / float(spectrum.energy))
    rest = [abs(values[i]) for i in range(3) if i not in shown]
    assert feature["discarded"] == pytest.approx(max([float(spectrum.discarded), *rest]))
    assert [entry["value"] for entry in feature["effects"]] == report.views[0].effects[0].tolist()
    assert max(abs(entry["share"]) for entry in feature["effects"]) == 1.0


def test_an_empty_report_is_still_a_page():
    page = Page(explorer.page(Report(title="Nothing yet")))
    assert "Nothing yet" in page.headings
    assert "How faithful is each view?" not in page.headings
    assert not page.all("img")


def test_a_view_of_words_lists_the_largest_entries():
    report = Report(title="Words", views=(make_view("my way", 1, WORDS),), texts={"my way": ("Mine", "Of my own.")})
    page = Page(explorer.page(report))
    assert {"Mine", "feature 0"} <= set(page.headings)
    assert not page.all("img")
    kernel = plots.linear_kernels(report.views[0].spectra[0], 1)[0]
    largest = int(kernel.weights.abs().argmax())
    assert plots.signed(float(kernel.weights[largest])) in page.text
    assert EVIL in page.text
    assert "constant" not in page.text
    assert "#part-1" in [link["href"] for link in page.all("a")]


def test_many_outputs_are_listed_by_size():
    view = make_view("svd", 1)
    output = Space("words", 40)
    effects = torch.zeros(1, 40, dtype=torch.float64)
    effects[0, 33], effects[0, 7] = 2.0, -4.0
    document = explorer.document(Report(title="Many", views=(replace(view, output=output, effects=effects),)))
    listed = document["sections"][0]["features"][0]["effects"]
    assert len(listed) == 16
    assert (listed[0]["label"], listed[0]["share"]) == ("33", 0.5)
    assert (listed[-1]["label"], listed[-1]["share"]) == ("7", -1.0)


def test_a_zero_kernel_and_a_view_without_features_are_told():
    zero = torch.zeros(1, dtype=torch.float64)
    spectrum = Spectrum(zero, torch.eye(7)[:1].double(), zero, zero[0], zero[0], PIXELS, "dead")
    dead = replace(make_view("svd", 1), spectra=(spectrum,), importance=zero, effects=torch.zeros(1, 3).double())
    none = replace(dead, name="sae", spectra=(), importance=zero[:0], effects=torch.zeros(0, 3).double())
    text = Page(explorer.page(Report(title="Dead", views=(dead, none)))).text
    assert "No positive eigenvalue" in text
    assert "No feature of this kind" in text


def test_charts_without_their_view_are_shown(report: Report):
    page = Page(explorer.page(Report(title="Charts", codes=report.codes)))
    assert explorer.WAYS["sae"][0] in page.headings
    assert len(page.all("img")) == 1


def test_a_page_is_written_whole_and_small(report: Report, html: str, tmp_path: Path):
    explorer.write(report, tmp_path / "out" / "report.html")
    written = (tmp_path / "out" / "report.html").read_bytes()
    assert written.decode() == html  # the same each time
    assert len(written) < 1_000_000
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="on writing"):
        explorer.write(Report(title="Small"), tmp_path / "file" / "report.html")


def test_what_is_not_finite_is_refused():
    view = make_view("svd", 1)
    for broken, what in (
        (replace(view, importance=torch.full((1,), torch.nan)), "importance"),
        (replace(view, effects=torch.full((1, 3), torch.inf)), "effects"),
    ):
        with pytest.raises(BilensError, match=f"{what} with NaN or infinity"):
            explorer.page(Report(title="Broken", views=(broken,)))
    with pytest.raises(BilensError, match="loss with NaN"):
        explorer.page(Report(title="Broken", summary={"loss": float("nan")}))
    with pytest.raises(BilensError, match="K with NaN"):
        explorer.page(Report(title="Broken", scores={"K": Score(0.5, float("inf"), 0.5)}))


def test_a_report_that_cannot_be_shown_is_refused():
    view = make_view("svd", 1)
    with pytest.raises(BilensError, match="two views named 'svd'"):
        Report(title="Twice", views=(view, view))
    with pytest.raises(BilensError, match="features = 0"):
        Report(title="None", features=0)
