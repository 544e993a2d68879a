"""A small count of the kills: a run that was killed at any moment ends as a straight one, and loses nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("duckdb", reason="pip install 'bilens[tables]'")
pytest.importorskip("transformers", reason="pip install 'bilens[lm]'")

import kills

pytestmark = pytest.mark.filterwarnings("ignore")  # of a library that is not ours


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_that_is_killed_goes_on_and_ends_as_a_straight_one() -> None:
    told: list[str] = []
    found = kills.kills(4, 1, say=told.append)
    assert told == []
    assert sum(count for name, count in found.items() if name.startswith("killed: ")) == 4


def test_moments_are_drawn_the_same_way_every_time_and_lie_within_the_run() -> None:
    drawn = [kills.draw(number, 3, 20, 1.5) for number in range(40)]
    assert drawn == [kills.draw(number, 3, 20, 1.5) for number in range(40)]
    assert {kind for kind, _ in drawn} == {"time", "before", "after"}
    assert all(0 < at <= 1.5 for kind, at in drawn if kind == "time")
    assert all(at in range(1, 21) for kind, at in drawn if kind != "time")


def test_a_batch_that_is_written_again_is_noticed(tmp_path: Path) -> None:
    for name in ("tables/features/a", "tables/eigenpairs/a", "tables/eigenpairs/b", "tables/interactions/b"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.parquet").write_text("x")
    before = kills.finished(tmp_path)
    assert sorted(before) == [f"tables/{name}.parquet" for name in ("eigenpairs/a", "features/a", "interactions/b")]
    path = tmp_path / "tables" / "interactions" / "b.parquet"
    os.replace(_copy(path), path)
    assert kills.finished(tmp_path) != before


def _copy(path: Path) -> Path:
    other = path.with_suffix(".new")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(0, 0))
    return other
