"""The documentation is right: its examples print what it says, and it covers every module and decision."""

import doctest
import importlib
import re
import sys
from pathlib import Path

import pytest
import torch

import bilens
from bilens import Kernel, Space
from bilens.files import read_json

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))
EXAMPLES = [page for page in [*PAGES, ROOT / "README.md"] if "```pycon" in page.read_text("utf-8")]


@pytest.mark.parametrize("page", EXAMPLES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_of_a_page_print_what_it_says(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT / ".ci"))
    attempted, report = importlib.import_module("pages").run(page)
    assert attempted > 0
    assert not report, report


def test_an_example_that_prints_something_else_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / ".ci"))
    page = tmp_path / "page.md"
    page.write_text("```pycon\n>>> x = 2\n```\n\nand\n\n```pycon\n>>> x + 1\n4\n```\n")
    attempted, report = importlib.import_module("pages").run(page)
    assert attempted == 2
    assert re.search(r"Expected:\s+4\s+Got:\s+3", report)


SOURCES = [path for path in sorted((ROOT / "src").rglob("*.py")) if ">>> " in path.read_text("utf-8")]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_examples_in_docstrings_print_what_they_say(path: Path) -> None:
    """With the names of their module; they are the first thing that a docstring shows."""
    name = ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
    module = importlib.import_module(name)
    found = [test for test in doctest.DocTestFinder().find(module) if test.examples]
    assert found
    runner, report = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE), list[str]()
    for test in found:
        test.globs |= {"Space": Space, "torch": torch, "Kernel": Kernel}
        runner.run(test, out=report.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(report)


def test_the_names_of_the_package_are_in_the_index_of_the_reference() -> None:
    index = (ROOT / "docs" / "reference" / "index.md").read_text("utf-8")
    assert [name for name in bilens.__all__ if f"`{name}`" not in index] == []


def test_decisions_are_numbered_listed_and_whole() -> None:
    folder = ROOT / "docs" / "decisions"
    pages = sorted(folder.glob("[0-9]*.md"))
    assert [page.name[:5] for page in pages] == [f"{number:04}-" for number in range(1, len(pages) + 1)]
    index = (folder / "index.md").read_text("utf-8")
    for page in pages:
        text = page.read_text("utf-8")
        assert f"({page.name})" in index
        headings = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
        assert headings == ["Context", "Choice", "Rejected", "What would change our mind"], page.name
        assert all(len(line) <= 100 or line.startswith("|") for line in text.splitlines()), page.name


def test_pages_load_nothing_from_another_host() -> None:
    for page in PAGES:
        assert not re.search(r"!\[[^\]]*\]\(https?:|<(script|img|link|iframe)\b", page.read_text("utf-8")), page.name


def test_the_list_of_files_in_the_architecture_is_whole() -> None:
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import architecture
    finally:
        sys.path.pop(0)
    page = architecture.PAGE.read_text("utf-8")
    assert architecture.written(page) == page, "run python docs/architecture.py"
    listed = re.findall(r"^\| `(\w+\.py)` \| (.+) \|$", page, flags=re.MULTILINE)
    assert len(listed) == len([path for path in (ROOT / "src").rglob("*.py") if path.name != "__init__.py"]) + 1
    for paths in re.findall(r"`((?:\w+/)+[\w.]+)`", page):  # what "where do I add" names
        assert any((ROOT / below / paths).exists() for below in (".", "src/bilens")), paths


def test_formulas_are_closed() -> None:
    for page in PAGES:
        lines = page.read_text("utf-8").splitlines()
        assert sum(line == "$$" for line in lines) % 2 == 0, page.name


def test_conversions_of_language_models_are_shown_as_they_were_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    conversions = importlib.import_module("conversions")
    page = (ROOT / "docs" / "language-models.md").read_text("utf-8")
    shown = page.split(conversions.START)[1].split(conversions.END)[0].strip()
    runs = read_json(conversions.KEPT)
    assert shown == "\n".join(conversions.lines(runs))
    best = min(runs.values(), key=lambda run: run["whole"]["held_out"]["delta_ce"])
    held, readme = best["whole"]["held_out"], (ROOT / "README.md").read_text("utf-8").replace(" %", "%")
    for said in (
        f"{best['tokens']['fit']:,} tokens of {best['documents']} documents, in {best['seconds'] / 60:.0f} minutes",
        f"{held['delta_ce']:+.3f} ± {held['delta_ce_error']:.3f} nats per token",
        f"{held['agreement']:.1%} ± {held['agreement_error']:.1%} of the likeliest",
    ):
        assert said in readme


def test_the_readme_has_the_numbers_of_the_demo_that_its_page_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    expected = importlib.import_module("expected")
    page = expected.held(expected.PAGE.read_text("utf-8"))
    shown = expected.held(expected.README.read_text("utf-8"))
    assert shown == expected.few(page)
    assert len(shown) == 3 + 8  # the model, and each of what it is replaced by
    full = {line.split(" | ")[0]: line for line in page}
    for line in shown[2:]:
        name, demo, small = line.removesuffix(" |").split(" | ")
        assert full[name].split(" | ")[1] == demo
        assert full[name].removesuffix(" |").endswith(f" | {small}")


def test_results_of_language_models_are_shown_as_they_were_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    page = (ROOT / "docs" / "results-lm.md").read_text("utf-8")
    results, tokens = importlib.import_module("language_results"), importlib.import_module("next_tokens")
    recipes = importlib.import_module("language_recipes")
    kept = read_json(results.KEPT)
    for kind, (start, end) in results.MARKS.items():
        assert page.split(start)[1].split(end)[0].strip() == "\n".join(results.lines(kept, kind)).strip(), kind
    recorded = read_json(recipes.KEPT)
    for name, (start, end) in recipes.MARKS.items():
        assert page.split(start)[1].split(end)[0].strip() == "\n".join(recipes.lines(recorded, name)).strip(), name
    assert page.split(tokens.START)[1].split(tokens.END)[0].strip() == "\n".join(tokens.lines(read_json(tokens.KEPT)))


def test_the_feature_that_is_walked_through_is_shown_as_it_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    walked = importlib.import_module("walked_feature")
    page, kept = (ROOT / "docs" / "language-models.md").read_text("utf-8"), read_json(walked.KEPT)
    for kind, (start, end) in walked.MARKS.items():
        assert page.split(start)[1].split(end)[0].strip() == "\n".join(walked.lines(kept, kind)), kind


def test_a_set_is_said_to_need_fewer_pairs_only_where_intervals_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    results = importlib.import_module("language_results")

    def one(name: str, low: float, high: float) -> dict[str, object]:
        median = {"value": (low + high) / 2, "low": low, "high": high, "count": 9, "level": 0.95}
        return {"surrogate": "exact", "set": name, "order": "weighted", "all": {"medians": {"2": median, "16": median}}}

    sets = [one("tokens", 0.7, 0.8), one("coder-5", 0.5, 0.65), one("worse", 0.1, 0.2), one("random", 0.6, 0.69)]
    said = results.verdicts({"fvu": {"exact": 0.0}, "audits": sets})
    assert len(said) == 3
    for text, verdict in zip(said, ("more is explained", "no difference is shown", "less is explained"), strict=True):
        assert text.count(verdict) == 2, text


def test_what_the_readme_says_of_a_trigger_is_what_results_say() -> None:
    readme, page = ((ROOT / name).read_text("utf-8") for name in ("README.md", "docs/results.md"))
    said = readme.split("Over five seeds, all 16 pixels")[1].split("([results]")[0]
    section = page.split("## A trigger seen in the difference")[1]
    numbers = re.findall(r"\d+\.\d ± \d+\.\d", said)
    assert len(numbers) == 2
    assert all(number in section.split("**The class.**")[0] for number in numbers)
    assert "16.0 ± 0.0" in section
