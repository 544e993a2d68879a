"""The published numbers of speed are those of the committed records, and say what saves the time."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks"


@pytest.fixture(scope="module")
def run():
    """benchmarks/run.py as a module, and benchmarks/measuring.py beside it."""
    before = list(sys.path)
    sys.path.insert(0, str(FOLDER))
    try:
        spec = importlib.util.spec_from_file_location("benchmarks_run", FOLDER / "run.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path[:] = before


@pytest.fixture(scope="module")
def held():
    return json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))


def test_readme_has_the_table_of_the_records(run, held):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert run.with_table(readme, held) == readme
    assert run.table(held) in readme


def test_many_kernels_readme_has_the_ratios_of_the_records(run, held):
    readme = run.MANY.read_text(encoding="utf-8")
    assert run.with_saved(readme, held) == readme
    shown = [float(number) for number in re.findall(r"\| ([\d.]+)×", readme)]
    lines = held["results"]["eigh_many"]["lines"]
    assert len(lines) == 5
    assert shown == [float(f"{line['plain']['seconds'] / line['ours']:.3g}") for line in lines]


def test_the_decision_on_cp_has_the_errors_of_the_records(held):
    page = (ROOT / "docs" / "decisions" / "0011-cp.md").read_text(encoding="utf-8")
    for line in held["results"]["cp"]["lines"]:
        row = next(row for row in page.splitlines() if row.startswith(f"| {line['work']} |"))
        ours, plain = re.findall(r"\b0\.\d+", line["plain"]["agreement"])
        (start,) = re.findall(r"start (0\.\d+)", line["published"]["agreement"])
        assert row == f"| {line['work']} | {start} | {ours} | {plain} |"


def test_the_page_has_the_numbers_of_the_records(run, held):
    assert (FOLDER / "results.md").read_text(encoding="utf-8") == run.page(held)


def test_every_benchmark_has_a_record_and_most_stand_in_readme(run, held):
    assert held["setting"] == "full"
    assert set(run.NAMES) == set(held["results"])
    assert set(held["results"]) <= set(run.NAMES)
    assert all(result["lines"] for result in held["results"].values())
    named = [line["brief"] for result in held["results"].values() for line in result["lines"] if line["brief"]]
    assert len(named) > len(run.NAMES)
    assert len(named) == len(set(named))


def test_every_line_has_the_peer_in_few_lines_with_a_comparison(held):
    for result in held["results"].values():
        for line in result["lines"]:
            assert line["plain"]["name"]
            assert line["plain"]["seconds"] > 0
            assert line["plain"]["agreement"]


@pytest.mark.parametrize(
    ("ours", "plain", "published", "expected"),
    [
        (1.0, 1.1, 500.0, "identity"),
        (1.0, 0.9, 500.0, "identity"),
        (1.0, 1.04, None, "neither"),
        (1.0, 4.0, 5.0, "engineering"),
        (1.0, 1.2, None, "engineering"),
        (1.0, 0.9, None, "neither"),
        (1.0, 0.9, 0.8, "neither"),
    ],
)
def test_what_saves_the_time_is_the_larger_of_two_ratios(run, ours, plain, published, expected):
    peer = {"seconds": plain}
    line = {"ours": ours, "plain": peer, "published": None if published is None else {"seconds": published}}
    assert run.saves(line) == expected


def test_a_range_that_includes_one_saves_nothing(run):
    line = {"ours": 1.0, "plain": {"seconds": 1.2}, "published": None, "spread": (0.9, 1.5)}
    assert run.saves(line) == "neither"
    assert run.saves(line | {"spread": (1.1, 1.5)}) == "engineering"


def test_a_row_of_one_turn_says_so(run):
    assert run.spread({"runs": 1, "spread": None}) == ", once"
    assert run.spread({"runs": 5, "spread": (0.5, 2.0)}) == " (0.5–2)"


def test_a_table_shows_every_line_those_below_one_too(run):
    peer = {"name": "a | b", "seconds": 0.5, "memory": None, "agreement": "equal"}
    line = {"work": "w", "ours": 1.0, "memory": 1, "plain": peer, "published": None, "brief": "work", "reach": 2.0}
    line |= {"limit": 0.1, "limited_by": "memory", "runs": 5}
    machine = {"processor": "p", "threads": 2, "python": "3"}
    result = {"lines": [line, line | {"brief": ""}], "points": [], "machine": machine, "date": "d", "packages": "t 1"}
    held = {"setting": "full", "results": {"svd": result}}
    rows = run.table(held).splitlines()
    assert sum("0.5×" in row for row in rows) == 2
    assert "a \\| b" in run.table(held)
    assert "| work | 0.5× a \\| b |  | neither |" in rows
    assert "| w | 0.5× a \\| b |  | neither |" in rows
    assert run.page(held).count("**0.5×**") == 2
    assert "Asked 2×, reached 0.5×; the limit allows 5×, which does not forbid it. Limit 0.1 s: memory." in run.page(
        held
    )
    forbidden = {"setting": "full", "results": {"svd": result | {"lines": [line | {"limit": 0.4}]}}}
    assert "the limit allows 1.2×, which forbids it." in run.page(forbidden)
