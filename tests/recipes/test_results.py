"""The page of results says what was measured, and nothing else."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from bilens.faithfulness import Curve, Score
from bilens.measurement import Measurement
from bilens.recipes import reproduce
from bilens.recipes.programme import headline, results, tensor_svd
from bilens.recipes.programme.lab import Claim, Recipe
from bilens.recipes.programme.results import Result
from bilens.statistics import interval

DOCS = Path(__file__).parents[2] / "docs"


def curve(accuracy: float, name: str = "kept") -> Curve:
    scores = [Score(accuracy / 2, 1.5, 0.5), Score(accuracy, 0.123456789012, None)]
    return Curve.of(name, [1, 20], scores, error=[1.0, 0.5], bound=[2.0, 1.0])


def recipe(*claims: Claim, reasons: dict[str, str] | None = None) -> Recipe:
    return Recipe(
        "toy",
        "A toy, or two",
        lambda lab: "Settings of it.",
        lambda lab, seed: Measurement.of({}),
        lambda measured: claims,
        lambda seeds: {"toy-figure": (Figure(), "What it shows.")},
        lambda seeds: f"Found {sum(seed['accuracy'] for seed in seeds) / len(seeds):.3f}.",
        lambda seeds: reasons or {},
    )


def result(made: Recipe, *values: float) -> Result:
    seeds = tuple(Measurement.of({"accuracy": value, "loss": 1 / 3}, [curve(value)]) for value in values)
    return Result(made, "Settings of it.", 75.4, seeds)


def write(made: Recipe, *values: float, quick: bool = False) -> str:
    captions = {"toy": {"toy-figure": "What it shows."}}
    return results.page([result(made, *values)], quick=quick, figures=captions, folder="results")


def test_the_table_has_the_draft_ours_the_difference_settings_and_seconds() -> None:
    claim = Claim("share of |λ| (N1)", "accuracy", "97.8", ".2f", 100, " %")
    said = interval([0.975, 0.985, 0.980])
    text = write(recipe(claim), 0.975, 0.985, 0.980)
    row = (
        f"| share of \\|λ\\| (N1) | 97.8 | 98.00 ± {100 * said.half:.2f} % | +0.20 % | 3 | [toy](#a-toy-or-two) | 75 |"
    )
    assert row in text.splitlines()
    assert "## A toy, or two" in text
    assert "| its penalty (N8) | – | " in write(recipe(Claim("its penalty (N8)", "loss")), 0.1)
    assert "Settings of it. 3 seeds, 75 s." in text
    assert "Found 0.980." in text
    assert "![toy figure](results/toy-figure.svg)\n\n*What it shows.*" in text
    assert "Where ours differs" not in text  # the interval holds the draft's value
    assert "Quick setting" not in text
    assert "Quick setting" in write(recipe(claim), 0.9, quick=True)


def test_where_ours_differs_it_says_by_how_much_and_why() -> None:
    claims = (
        Claim("accuracy", "accuracy", "97.8", ".1f", 100, " %"),
        Claim("loss", "loss", "≤ 0.4", ".2f"),
        Claim("loss again", "loss", "–", ".2f"),
    )
    text = write(recipe(*claims, reasons={"accuracy": "It trained longer."}), 0.985, 0.9851)
    lines = text[text.index("## Where ours differs") : text.index("## A toy")].splitlines()
    assert "- It trained longer. This concerns:" in lines
    (said,) = [line for line in lines if line.startswith("    - ")]
    assert said.startswith("    - accuracy: 98.5 ± ")
    assert said.endswith(" % for 97.8 (+0.7 %)")
    without = write(recipe(*claims), 0.985, 0.9851)
    assert "- No experiment here says why. This concerns:" in without
    assert "Where ours differs" not in write(recipe(*claims), 0.985)  # one seed has no interval


@pytest.mark.parametrize(
    ("draft", "low", "high"),
    [
        ("97.8", 97.8, 97.8),
        (".93", 0.93, 0.93),
        ("98.3 %", 98.3, 98.3),
        ("≈ 13", 13, 13),
        ("≤ 0.1", -math.inf, 0.1),
        ("3–5", 3, 5),
        ("–", None, None),
        ("the same", 0, 0),
        ("87 of 2,000", None, None),
    ],
)
def test_what_the_draft_says_is_read(draft: str, low: float | None, high: float | None) -> None:
    assert results.reference(draft) == (low, high)


@pytest.mark.parametrize(
    ("draft", "value", "away", "outside"),
    [
        ("3–5", 0.04, "0.0", False),
        ("3–5", 0.07, "+2.0", True),
        ("3–5", 0.01, "-2.0", True),
        ("≤ 0.1", -0.5, "0.0", False),
        ("≤ 0.1", 0.011, "+1.0", True),
        ("≈ 13", 0.12, "-1.0", True),
        ("–", 0.12, None, False),
    ],
)
def test_a_difference_is_nothing_inside_a_range(draft: str, value: float, away: str | None, outside: bool) -> None:
    claim = Claim("x", "x", draft, ".1f", 100)
    found = interval([value - 1e-4, value + 1e-4])
    assert results.difference(claim, found) == away
    assert results.differs(claim, found) is outside
    wide = interval([value - 1, value + 1])
    assert not results.differs(claim, wide)


def test_numbers_are_kept_to_seven_digits_and_the_page_follows_from_them_alone() -> None:
    made = recipe(Claim("accuracy", "accuracy", "97.8", ".3f"))
    content = json.loads(json.dumps(results.encode([result(made, 0.123456789, 0.2)], False)))
    (read,) = results.decode(content, {"other": recipe(), "toy": made})
    assert read.settings == "Settings of it."
    assert read.seconds == 75
    assert [seed["accuracy"] for seed in read.seeds] == [0.1234568, 0.2]
    assert read.seeds[0].names == ("accuracy", "loss")
    one = read.seeds[1].curve("kept")
    assert one.kept.tolist() == [1, 20]
    assert one.accuracy.tolist() == [0.1, 0.2]
    assert one.cross_entropy.tolist() == [1.5, 0.1234568]
    assert one.recovered is None
    assert one.bound is not None
    assert one.bound.tolist() == [2.0, 1.0]
    again = results.encode([read], False)
    assert again == content


def test_the_headline_is_each_way_at_its_number() -> None:
    def svd(drop: float) -> Measurement:
        scores = [Score(0.9, 1.0, 0.5), Score(0.97, 0.2, 0.975), Score(0.98, 0.1, 0.999)]
        points = Curve.of(tensor_svd.FOUNDING, [10, 20, 50], scores)
        return Measurement.of({f"drop at {k}, {tensor_svd.FOUNDING}": drop / k for k in (20, 50)}, [points])

    found = headline.rows({"svd": [svd(0.2), svd(0.4)]})
    assert found == {
        "20 SVD components": ([0.01, 0.02], [0.975, 0.975]),
        "50 SVD components": ([0.004, 0.008], [0.999, 0.999]),
    }
    lines = headline.table({"svd": [svd(0.2)]})
    assert lines[2:] == ["| 20 SVD components | 1.00 | 97.50 % |", "| 50 SVD components | 0.40 | 99.90 % |"]
    assert isinstance(headline.figure({"svd": [svd(0.2)]}), Figure)
    assert headline.table({}) == []
    assert headline.figure({}) is None


@pytest.fixture(scope="module")
def published() -> dict[str, object]:
    return json.loads((DOCS / "results" / "results.json").read_text("utf-8"))


def test_no_number_of_the_published_page_is_typed_by_hand(published) -> None:
    assert (DOCS / "results.md").read_text("utf-8") == reproduce.page(published)


def test_the_published_page_has_every_recipe_five_seeds_and_its_figures(published) -> None:
    assert published["quick"] is False
    found = results.decode(published, reproduce.RECIPES)
    assert [one.recipe.name for one in found] == list(reproduce.RECIPES)
    assert all(len(one.seeds) == 5 for one in found)
    for figures in published["captions"].values():
        for name in figures:
            assert (DOCS / "results" / f"{name}.svg").stat().st_size > 1000
    assert all(published["captions"][name] for name in reproduce.RECIPES)


def test_the_readme_shows_the_headline_of_the_published_page(published) -> None:
    found = {one.recipe.name: one.seeds for one in results.decode(published, reproduce.RECIPES)}
    readme = (DOCS.parent / "README.md").read_text("utf-8").splitlines()
    for line in headline.table(found):
        assert line in readme


def test_stored_values_are_finite(published) -> None:
    for one in published["recipes"].values():
        values = torch.tensor([value for row in one["numbers"].values() for value in row])
        assert bool(torch.isfinite(values).all())
