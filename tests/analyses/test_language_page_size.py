"""How large the page of a layer is: what it carries of many pairs, and what it leaves out to stay small."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reading_job
from reading_job import LAYER, decoded, page
from torch import nn

import tiny_models
from bilens import store, tables
from bilens.analyses.language import _budget as budget
from bilens.analyses.language._alike import Shown, shown_name
from bilens.analyses.language.seen import Seen

pytest.importorskip("duckdb", reason="pip install 'bilens[tables]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # of a library that is not ours
FILE, WHERE = f"layer-{LAYER:03d}.html", "/home/me/secret/essays.txt"


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return tiny_models.made("llama")


@pytest.fixture(scope="module")
def run(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With as many pairs as the layer's input has coordinates: more than are shown one by one."""
    out = tmp_path_factory.mktemp("size") / "run"
    found = reading_job.subject(model)
    assert found.split is not None
    split = replace(found.split, described=f"8 rows; {WHERE}", paths=(WHERE,))
    reading_job.read(out, replace(found, split=split), (0, LAYER), pairs=17)
    return out


def test_terms_are_there_one_by_one_and_the_others_as_sums_at_the_numbers_of_pairs(run: Path) -> None:
    document = page(run / FILE)
    assert document["at"] == [1, 2, 4, 8, 16]
    found = document["sets"][0]
    seen = store.read_record(run, f"layer-{LAYER:03d}/tokens/seen", Seen)
    assert seen is not None
    expected = seen.terms.double().numpy()
    assert expected.shape[1] > 16
    rows = decoded(found["terms"]).reshape(len(found["features"]), -1, expected.shape[2])
    assert rows.shape[1] == 9
    size = 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(rows[:, :8], expected[:, :8], atol=size)
    np.testing.assert_allclose(rows.sum(axis=1), expected[:, :16].sum(axis=1), atol=9 * size)


def test_pages_say_what_a_text_is_called_and_not_where_it_was(run: Path) -> None:
    assert page(run / FILE)["text"]["described"] == "8 rows; essays.txt"
    for name in (FILE, "index.html"):
        text = (run / name).read_text("utf-8")
        assert "essays.txt" in text
        assert "secret" not in text


def test_a_page_that_would_be_too_large_has_fewer_features_and_says_so(
    model: nn.Module, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, most = run / FILE, 270_000
    assert page(whole)["limit"] is None
    assert whole.stat().st_size > most
    monkeypatch.setattr(budget, "MOST", most)
    monkeypatch.setattr(budget, "FEATURES", 10)
    (path,) = reading_job.read(tmp_path / "run", reading_job.subject(model), pairs=17)
    assert path.stat().st_size <= most
    document = page(path)
    assert document["limit"] == most
    shown, control = document["sets"]
    assert 1 <= len(shown["features"]) < shown["total"] == 10
    assert len(control["features"]) == min(4, len(shown["features"]))
    assert shown["features"] == page(whole)["sets"][0]["features"][: len(shown["features"])]
    assert tables.open(tmp_path / "run").features(layer=LAYER, set="tokens").num_rows == 10
    compared = store.read_record(tmp_path / "run", shown_name(LAYER), Shown)  # which `bilens compare` holds the page to
    assert compared is not None
    assert compared.counts == tuple(len(found["features"]) for found in document["sets"])


@pytest.mark.parametrize(
    ("most", "carried", "count", "runs"),
    [(30_000, 0, 256, True), (20_000, 5_000, 140, True), (20_000, 14_000, 190, False), (900, 0, 1, False)],
)
def test_a_page_has_as_many_features_as_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch, most: int, carried: int, count: int, runs: bool
) -> None:
    """Of pages of 1,000 bytes, 100 for each feature, and so many for the model that they run."""
    made: list[tuple[int, bool]] = []

    class Sized:
        def __init__(self, *_: Any, count: int, runs: bool) -> None:
            made.append((count, runs))
            self.size = 1000 + 100 * count + runs * carried

        def reading(self) -> dict[str, Any]:
            return {"size": self.size}

    monkeypatch.setattr(budget, "Page", Sized)
    monkeypatch.setattr(budget.explorer, "reading", lambda content: "x" * content["size"])
    monkeypatch.setattr(budget, "MOST", most)
    found, content = budget.fitting(*[None] * 4)  # type: ignore[arg-type]
    assert made[-1][1] == runs
    assert 0.9 * count <= made[-1][0] <= count
    assert content["limit"] == (most if len(made) > 1 else None)
    assert found.size <= most or made[-1] == (1, False)
