"""The page of results says what was measured, and nothing else."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from bilens.errors import BilensError
from bilens.faithfulness import Curve, Score
from bilens.statistics import interval
from bilens.store import Folder
from reproduction import claims, headline, page, reproduce, results, text
from reproduction.lab import Claim, Lab, Recipe
from reproduction.measurement import Measurement
from reproduction.recipes import front_read, output_sae
from reproduction.results import Result

DOCS = Path(__file__).parents[2] / "docs"


def curve(accuracy: float, name: str = "kept") -> Curve:
    scores = [Score(accuracy / 2, 1.5, 0.5, 40), Score(accuracy, 0.123456789012, None, 40)]
    return Curve.of(name, [1, 20], scores, error=[1.0, 0.5], bound=[2.0, 1.0], numbers=[30, 600], beside="other")


def recipe(*claims: Claim) -> Recipe:
    return Recipe(
        "toy",
        "A toy, or two",
        lambda lab: "Settings of it.",
        lambda lab, seed: Measurement.of({}),
        lambda measured: claims,
        lambda seeds: {"toy-figure": (Figure(), "What it shows.")},
        lambda seeds: {"sum": f"Found {sum(seed['accuracy'] for seed in seeds) / len(seeds):.3f}."},
    )


def result(made: Recipe, *values: float) -> Result:
    seeds = tuple(Measurement.of({"accuracy": value, "loss": 1 / 3}, [curve(value)]) for value in values)
    return Result(made, "Settings of it.", 75.4, seeds)


def write(made: Recipe, *values: float, quick: bool = False) -> str:
    captions = {"toy": {"toy-figure": "What it shows."}}
    return page.bare([result(made, *values)], captions, "results", quick=quick)


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


def test_where_ours_differs_there_is_a_row_with_the_difference() -> None:
    listed = (
        Claim("accuracy", "accuracy", "97.8", ".1f", 100, " %"),
        Claim("loss", "loss", "≤ 0.4", ".2f"),
        Claim("loss again", "loss", "–", ".2f"),
    )
    rows = claims.differences([result(recipe(*listed), 0.985, 0.9851)])
    assert len(rows) == 3
    assert rows[2].startswith("| accuracy | 97.8 | 98.5 ± ")
    assert rows[2].endswith(" % | +0.7 % |")
    assert "## Where ours differs" in write(recipe(*listed), 0.985, 0.9851)
    assert claims.differences([result(recipe(*listed), 0.985)]) == []  # one seed has no interval


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
    assert claims.reference(draft) == (low, high)


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
    assert claims.difference(claim, found) == away
    assert claims.differs(claim, found) is outside
    wide = interval([value - 1, value + 1])
    assert not claims.differs(claim, wide)


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
    assert one.numbers is not None
    assert (one.samples, one.numbers.tolist(), one.beside) == (40, [30, 600], "other")
    again = results.encode([read], False)
    assert again == content


def measured_front(lost: float) -> Measurement:
    """As little of the front as the headline needs, with pair features that lose so much."""
    layer = front_read.config(front_read.OUTPUTS, front_read.TRAINED, 5, 2)
    curves = [
        Curve.of(name, [10, 20, 30, 50], [Score(0.9, 0.3, 0.9, 7)] * 4, numbers=[100, 200, 300, 500])
        for name in (
            front_read.EIGENVECTORS,
            front_read.NEXT_DIGIT,
            front_read.RANDOM_VECTORS,
            front_read.SHARED,
            front_read.SHARED_NULL,
            front_read.COMPONENTS,
            front_read.COMPONENTS_NULL,
            front_read.TRUNCATED,
            front_read.TRUNCATED_NULL,
            front_read.UNITS,
            front_read.UNITS_NULL,
            front_read.ENTRIES,
            front_read.ENTRIES_NULL,
            layer,
        )
    ]
    numbers = {"accuracy": 0.98, "cross-entropy": 0.1, "numbers of the layer": 3000.0, "hidden units": 20.0}
    for place, row in enumerate(front_read.PAIR_ROWS):
        numbers |= {f"accuracy lost, {row}": lost + place / 100, f"recovered, {row}": 0.99 - place / 100}
        numbers |= {f"numbers stored, {row}": 9000.0, f"NMSE on pairs, {row}": 0.1, f"L0, {row}": 2.0}
        numbers |= {f"NMSE on outputs, {row}": 0.1 + place / 10, f"NMSE on logits, {row}": 0.1}
    return Measurement.of(numbers, curves)


def test_the_headline_is_each_way_at_its_number_with_its_nulls() -> None:
    found = {entry.name: entry for entry in headline.entries({"front": [measured_front(0.01), measured_front(0.03)]})}
    ten = found["10 eigenvectors for each digit"]
    assert ten.stored == (100, 100)
    assert ten.lost == pytest.approx((0.08, 0.08))
    assert ten.recovered == (0.9, 0.9)
    assert [name for name, entry in found.items() if entry.kind == "null"] == [
        "20 of the next digit's instead, refitted",
        "50 random directions",
        "50 random output directions",
        *front_read.PAIR_ROWS[2:],
    ]
    assert found[front_read.OWN].lost == (0.01, 0.03)
    lines = headline.table({"front": [measured_front(0.01)]})
    assert "| 30 SVD components | 300 | 8.00 | 90.00 % |" in lines
    assert f"| *null: {front_read.NULL_PAIRS}* | 9,000 | 3.00 | 97.00 % |" in lines
    assert isinstance(headline.figure({"front": [measured_front(0.01)]}), Figure)
    assert headline.table({}) == []
    assert headline.figure({}) is None


def test_saes_on_outputs_store_the_layer_and_each_active_feature() -> None:
    main = output_sae.MAIN
    numbers = {"accuracy of the model": 0.98, f"ever active, {main}": 8.0, f"active, {main}": 6.0}
    for code in ("ReLU", "pseudoinverse"):
        numbers |= {f"{code} accuracy, {main}": 0.97, f"{code} recovered from ln 10, {main}": 0.95}
    found = headline.entries({"front": [measured_front(0.01)], "outputs": [Measurement.of(numbers)]})
    stored = {entry.name: entry.stored[0] for entry in found}
    assert stored["SAE on outputs, ReLU codes"] == (3000 - 200) + 8 * (20 + 1 + 10) + 10
    assert stored["SAE on outputs, pseudoinverse"] == (3000 - 200) + 6 * (20 + 10) + 10


def test_the_headline_is_written_between_its_lines_in_a_readme() -> None:
    page = f"# Title\n{headline.OPEN}\nold\n{headline.CLOSE}\nrest\n"
    assert headline.between(page, ["", "new", ""]) == f"# Title\n{headline.OPEN}\n\nnew\n\n{headline.CLOSE}\nrest\n"
    assert headline.between("# Title\n", ["new"]) == "# Title\n"


def test_recipes_that_a_run_has_not_measured_are_kept() -> None:
    made = recipe(Claim("accuracy", "accuracy"))
    mine = {**results.encode([result(made, 0.5)], False), "captions": {"toy": {"new": "New."}}}
    old = {
        "quick": False,
        "recipes": {"toy": {"numbers": {}}, "other": {"numbers": {"a": [1.0]}}},
        "captions": {"toy": {"old": "Old."}, "other": {"kept": "Kept."}, "headline": {"headline": "Old."}},
    }
    whole = results.merge(mine, old)
    assert whole["recipes"] == {"toy": mine["recipes"]["toy"], "other": old["recipes"]["other"]}
    assert whole["captions"] == {"toy": {"new": "New."}, "other": {"kept": "Kept."}}
    assert whole["kept"] == ["other"]
    assert results.merge(mine, {**old, "quick": True}) == mine


def test_a_report_keeps_what_the_documentation_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toys = {name: replace(recipe(Claim("accuracy", "accuracy")), name=name) for name in ("toy", "other", "never")}
    monkeypatch.setattr(reproduce, "RECIPES", toys)
    docs = tmp_path / "docs"
    docs.mkdir()
    (tmp_path / "README.md").write_text("# Title\n", "utf-8")
    for name, value in (("toy", 0.5), ("other", 0.25)):
        lab = Lab(Folder(tmp_path / name, {}), False)
        lab.run.record(f"{name}/0", Measurement, lambda value=value: Measurement.of({"accuracy": value}))
        reproduce.report(lab, docs)
    content = json.loads((docs / "results" / "results.json").read_text("utf-8"))
    assert {name: found["numbers"]["accuracy"] for name, found in content["recipes"].items()} == {
        "toy": [0.5],
        "other": [0.25],
    }
    assert content["kept"] == ["toy"]
    assert (docs / "results.md").read_text("utf-8") == reproduce.bare(content)
    assert (tmp_path / "README.md").read_text("utf-8") == "# Title\n"
    own = json.loads((tmp_path / "other" / "results" / "results.json").read_text("utf-8"))
    assert list(own["recipes"]) == ["other"]


@pytest.fixture(scope="module")
def published() -> dict[str, object]:
    return json.loads((DOCS / "results" / "results.json").read_text("utf-8"))


def test_no_number_of_the_published_page_is_typed_by_hand(published) -> None:
    assert (DOCS / "results.md").read_text("utf-8") == reproduce.prosaic(published)


def test_the_published_page_has_every_recipe_five_seeds_and_its_figures(published) -> None:
    assert published["quick"] is False
    found = results.decode(published, reproduce.RECIPES)
    assert [one.recipe.name for one in found] == list(reproduce.RECIPES)
    assert all(len(one.seeds) == 5 for one in found)
    shown = [name for figures in published["captions"].values() for name in figures]
    for name in ("headline", *shown):
        assert (DOCS / "results" / f"{name}.svg").stat().st_size > 1000
    assert all(published["captions"][name] for name in reproduce.RECIPES if name not in ("front", "atoms"))


def test_the_readme_shows_the_headline_of_the_published_page(published) -> None:
    shown = page.readme(results.decode(published, reproduce.RECIPES), "docs/results/headline.svg", text.templates())
    readme = (DOCS.parent / "README.md").read_text("utf-8")
    assert headline.between(readme, ["", *shown, ""]) == readme
    assert "| 10 eigenvectors for each digit |" in readme
    assert all(len(line) <= 120 for line in shown if not line.startswith(("|", "!")))


def test_page_and_readme_are_written_again_without_measuring(published, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    (docs / "results").mkdir(parents=True)
    (docs / "results" / "results.json").write_text(json.dumps(published), "utf-8")
    (tmp_path / "README.md").write_text(f"# Title\n{headline.OPEN}\n{headline.CLOSE}\n", "utf-8")
    reproduce.reproduce(docs=docs, only_text=True, out=tmp_path / "out")
    assert (docs / "results.md").read_text("utf-8") == (DOCS / "results.md").read_text("utf-8")
    assert "Training the pair SAE" in (tmp_path / "README.md").read_text("utf-8")
    assert not (tmp_path / "out").exists()
    with pytest.raises(BilensError, match="--only-text without --docs"):
        reproduce.reproduce(only_text=True)


def test_every_recipe_has_its_prose_and_stands_beside_its_nulls() -> None:
    found = text.templates()
    assert set(found) == {*reproduce.RECIPES, page.HEAD, page.README}
    head = found[page.HEAD].body
    beside = head[head.index("## What stands beside each result") :]
    for name, made in reproduce.RECIPES.items():
        assert f"| [{name}](#{claims.anchor(made.title)}) |" in beside


def test_no_measured_number_stands_in_the_prose_itself() -> None:
    """Numbers with a decimal point are settings; what was measured is in slots."""
    settings = {"0.1", "0.3", "0.001", "0.005", "6.4"}
    for template in text.templates().values():
        body = re.sub(r"\{\{.*?\}\}", "", template.body)
        assert "±" not in body.replace("±15°", "").replace("±2 pixels", "")
        assert set(re.findall(r"\d+\.\d+", body)) <= settings, template.name


def test_stored_values_are_finite(published) -> None:
    for one in published["recipes"].values():
        values = torch.tensor([value for row in one["numbers"].values() for value in row])
        assert bool(torch.isfinite(values).all())
