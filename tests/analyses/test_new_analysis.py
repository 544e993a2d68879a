"""A new way of reading is one file and one line in the table: folder, summary, figures and page have it then."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from small_job import undrawn

from bilens import decompose, store
from bilens.analyses import explore, table
from bilens.analyses._given import AccuracyWarning
from bilens.analyses.subject import Run, Subject
from bilens.analyses.table import ANALYSES, Analysis
from bilens.cli import main
from bilens.errors import BilensError
from bilens.faithfulness import Curve, Row
from bilens.features import Chart, FeatureSet, detail, stored
from bilens.models import ImageClassifier
from bilens.space import Space
from messages import refuses

TEXT = "Kernels of single hidden units, those with the largest weights in the read-out."


def hidden_units(subject: Subject, run: Run) -> FeatureSet:
    """The toy: the file that somebody would add."""
    sizes = subject.readout.norm(dim=0)
    order = sizes.argsort(descending=True)
    best = order[: subject.budget.count]
    kernels = [subject.hidden.kernel(int(h)) for h in best]
    spectra = [decompose.eigh(kernel) for kernel in kernels]
    counts = [1, 4, len(order)]
    scores = []
    for k in counts:
        outputs = torch.zeros_like(subject.test_outputs)
        outputs[:, order[:k]] = subject.test_outputs[:, order[:k]]
        scores.append(subject.score(subject.read(outputs)))
    curve = Curve.of("hidden units kept", counts, scores)
    null = Row("no hidden unit", subject.score(subject.read(torch.zeros_like(outputs))), 0, "null", "hidden units")
    ranks = torch.arange(1.0, len(sizes) + 1)
    return FeatureSet(
        "units",
        tuple(stored(spectrum) for spectrum in spectra),
        sizes[best],
        "norm of the read-out",
        subject.readout.T[best],
        subject.outputs.output,
        title="Hidden units",
        text=TEXT,
        tab="Units",
        feature="Unit",
        among="units",
        total=len(order),
        detail=detail(zip(kernels, spectra, strict=True), subject.examined),
        curves=(curve,),
        scores=(Row("hidden units", scores[-1]), null),
        numbers={"largest": float(sizes.max()), "norms": sizes.tolist()},
        notes=(f"Hidden units: {len(order)}.",),
        charts={"norms": Chart("Norms of hidden units", "unit", ranks, ("norm",), sizes[order][:, None])},
        words={"Hidden unit": "One product of the layer."},
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("toy")
    ImageClassifier(Space("pixels", 64, image=(8, 8)), Space("digits", 10), 6, seed=0).save_pretrained(out / "model")
    with pytest.MonkeyPatch.context() as patch:
        line = {"units": Analysis(hidden_units, "hidden units", needs_inputs=True)}
        patch.setattr(table, "ANALYSES", {"digits": ANALYSES["digits"]} | line)
        flags = ["--data", "digits", "--count", "3", "--out", str(out / "run")]
        with warnings.catch_warnings(), undrawn(but=lambda name: name.startswith("units")):
            warnings.simplefilter("default", AccuracyWarning)  # it was never trained
            assert main(["read", str(out / "model"), *flags]) == 0
    return out / "run"


def shown(page: Path) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text("utf-8"), re.DOTALL)
    assert found
    return json.loads(found[1])["runs"][0]


def test_it_is_in_the_folder_and_in_the_summary(run: Path) -> None:
    kept = store.load(run / "records" / "features" / "units", FeatureSet)
    assert (kept.title, kept.order, len(kept)) == ("Hidden units", 1, 3)
    summary = json.loads((run / "summary.json").read_text("utf-8"))
    assert summary["units"]["largest"] == max(summary["units"]["norms"])
    assert summary["units"]["curve"]["kept"] == [1, 4, 6]
    assert summary["units"]["curve"]["samples"] == summary["data"]["test"]
    assert summary["faithfulness"]["hidden units"]["accuracy"] == summary["model"]["test_accuracy"]
    assert summary["faithfulness"]["no hidden unit"]["beside"] == "hidden units"


def test_it_is_in_the_figures(run: Path) -> None:
    names = {path.stem for path in (run / "figures").iterdir()}
    assert {"units", "units-effects", "units-norms", "digits", "digits-gallery", "units-accuracy"} <= names
    assert "hidden units kept" in (run / "figures" / "units-accuracy.svg").read_text("utf-8")


def test_it_is_on_the_page_and_there_after_its_line_is_gone(run: Path, tmp_path: Path) -> None:
    assert "units" not in ANALYSES
    assert main(["explore", str(run), "--out", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").read_bytes() == (run / "report.html").read_bytes()
    page = shown(tmp_path / "page.html")
    view = page["sets"][1]
    assert [view[name] for name in ("name", "title", "tab", "feature", "text", "total")] == [
        "units", "Hidden units", "Units", "Unit", TEXT, 6,
    ]  # fmt: skip
    assert [figure["title"] for figure in view["figures"]] == ["Norms of hidden units"]
    assert view["words"] == [{"name": "Hidden unit", "value": "One product of the layer."}]
    assert "Hidden units: 6." in page["notes"]
    assert [line["name"] for line in page["curves"] if line["beside"] is None][1] == "hidden units kept"
    rows = [(row["name"], row["kind"]) for row in page["scores"]]
    assert rows[-2:] == [("hidden units", "view"), ("no hidden unit", "null")]


@pytest.mark.slow
def test_a_browser_shows_it_as_any_other(run: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs a browser: apt-get install -y chromium")
    with playwright.sync_playwright() as launcher:
        browser = launcher.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--headless"])
        page = browser.new_page(offline=True)
        page.goto((run / "report.html").as_uri() + "#overview=units")
        assert page.locator("[role=tab][aria-selected=true]").inner_text().startswith("Units")
        assert TEXT in page.locator("main").inner_text()
        assert page.locator("a.tile").count() == 3
        page.evaluate("location.hash = 'faithfulness'")
        page.wait_for_selector("text=Norms of hidden units")
        page.evaluate("location.hash = 'about'")
        page.wait_for_selector("text=One product of the layer.")
        browser.close()


def test_curves_for_seeds_are_those_of_the_sets_in_their_order(run: Path) -> None:
    assert [curve.name for curve in explore.curves(run) if curve.beside is None] == [
        "eigenvectors kept for each output",
        "hidden units kept",
    ]


def test_an_analysis_that_is_not_in_the_table_is_refused() -> None:
    with refuses(BilensError, "analysis 'units'", "one of digits, svd, sae, pairs"):
        table.chosen(["svd", "units"])
    assert list(table.chosen(["pairs", "digits"])) == ["digits", "pairs"]  # in the order of the table
    assert "sae" not in table.possible(inputs=False)
