"""The page of a network of two layers: its data against the schema, and in a browser its trees and a sample's votes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch

from bilens import explorer
from bilens.errors import BilensError, SpaceError
from bilens.explorer import Exploration
from bilens.features import OutputTree, TreeSet
from bilens.space import Space
from explorations import CLASSES, EVIL, deep, whole
from messages import refuses

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "explorer-schema.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def run() -> Exploration:
    return deep()


def test_its_data_are_what_the_schema_says_and_its_scores_are_in_the_table(run: Exploration) -> None:
    document = explorer.document([run])
    jsonschema.validate(document, SCHEMA)
    shown = document["runs"][0]
    assert shown["model"] is None
    assert [tuple(level["left"]["shape"]) for level in shown["levels"]] == [(6, 37), (5, 7)]
    assert [(row["name"], row["beside"]) for row in shown["scores"]] == [("trees", None), (EVIL, "trees")]
    assert [line["name"] for line in shown["curves"]] == ["roots"]
    assert shown["notes"] == [EVIL]
    trees = shown["trees"]
    assert trees is not None
    assert run.trees is not None
    for tree, record in zip(trees["trees"], run.trees.trees, strict=True):
        shares = [root["share"] for root in tree["roots"]]
        np.testing.assert_allclose(shares, record.values.square() / record.energy, rtol=1e-5)
        assert tree["roots"][0]["held"] == pytest.approx(1 - float(record.leaf_discarded[0]))
    assert "<img" not in explorer.render(document)


def test_trees_that_do_not_fit_are_refused(run: Exploration) -> None:
    found = run.trees
    assert found is not None
    with refuses(BilensError, "3 trees", "one for each of the 4 outputs"):
        TreeSet(found.trees[:3], found.input, found.output, "I")
    with refuses(SpaceError, "trees"):
        Exploration(title="x", model=whole(Space("words", 12)).model, trees=found)
    short = torch.zeros(3, 3, dtype=torch.int64)[:, 0]
    with refuses(BilensError, "a class without a sample", "all 4 classes"):
        tree = found.trees[0].whole(run.model, None)  # type: ignore[arg-type]
        OutputTree.of(tree, "x", x=torch.rand(3, 36), labels=short, classes=4)


def test_a_tree_is_put_back_whole(run: Exploration) -> None:
    assert run.trees is not None
    x = torch.rand(5, 36, generator=torch.Generator().manual_seed(9))
    for place, tree in enumerate(run.trees.trees):
        one = tree.whole(run.model, None)  # type: ignore[arg-type]
        told = run.model(x)[:, place]  # type: ignore[misc, operator]
        torch.testing.assert_close((one(x) + one.rest(x)).float(), told, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def page(browser: Any, run: Exploration, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    path = tmp_path_factory.mktemp("deep") / "deep.html"
    explorer.write([run], path)
    opened = browser.new_page(offline=True)
    told: list[str] = []
    opened.on("console", lambda message: told.append(message.text))
    opened.on("pageerror", lambda error: told.append(str(error)))
    opened.goto(path.as_uri())
    yield opened
    opened.close()
    assert told == []


def number(text: str) -> float:
    return float(text.replace("−", "-").replace(",", "").replace("+", ""))


@pytest.mark.slow
def test_each_root_is_a_row_and_each_tile_a_link(page: Any, run: Exploration) -> None:
    page.evaluate("location.hash = 'overview'")
    page.wait_for_selector("a.tile")
    assert page.locator("a.tile").count() == 4
    page.locator("a.tile").first.click()
    page.wait_for_selector("text=Roots and their leaves")
    assert page.locator("nav a[aria-current=page]").inner_text() == "Trees"
    page.get_by_role("button", name="Table").first.click()
    rows = page.locator("figure tbody tr")
    assert run.trees is not None
    assert rows.count() == len(run.trees.trees[0])
    told = number(rows.first.locator("td").first.inner_text())
    assert told == pytest.approx(float(run.trees.trees[0].values[0]), rel=0.01)
    page.evaluate("location.hash = 'tree=99'")
    page.wait_for_selector("text=No such tree")


@pytest.mark.slow
def test_the_whole_menu_fits_on_a_phone(page: Any) -> None:
    before = page.viewport_size
    page.set_viewport_size({"width": 390, "height": 844})
    menu = page.locator(".masthead nav")
    assert menu.locator("a").count() == 6
    assert menu.evaluate("each => each.scrollWidth - each.clientWidth") <= 0
    page.set_viewport_size(before)


@pytest.mark.slow
def test_a_samples_logit_is_the_sum_of_the_votes_of_its_roots(page: Any, run: Exploration) -> None:
    assert run.samples is not None
    assert run.trees is not None
    page.evaluate("location.hash = 'sample=3&logit=1'")
    page.wait_for_selector("text=as votes and vetoes")
    figure = page.locator("figure", has_text="as votes and vetoes")
    figure.get_by_role("button", name="Table").click()
    adds = [number(text) for text in figure.locator("tbody tr td:nth-child(2)").all_inner_texts()]
    *votes, rest, total = adds
    assert total == pytest.approx(float(run.samples.outputs[3, 1]), rel=0.01, abs=0.01)
    assert sum(votes) + rest == pytest.approx(total, rel=0.02, abs=0.02 * max(map(abs, adds)))
    tree = run.trees.trees[1].whole(run.model, None)  # type: ignore[arg-type]
    own = sorted(tree.contributions(run.samples.inputs[3:4])[0].tolist(), key=abs, reverse=True)
    np.testing.assert_allclose(votes, own, rtol=0.02, atol=0.02 * max(map(abs, own)))
    assert not re.search("eigenvector", figure.inner_text())
    assert CLASSES.label(0) in page.locator("#which").inner_text()
