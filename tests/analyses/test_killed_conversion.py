"""bilens convert, killed at random moments and run again: the files of a straight run, and no layer computed twice."""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import pytest
import torch

pytest.importorskip("duckdb", reason="pip install 'bilens[tables]'")
pytest.importorskip("transformers", reason="pip install 'bilens[lm]'")

import kills
import tiny_models
from bilens.analyses.convert import convert
from bilens.models.conversion import distil

pytestmark = pytest.mark.filterwarnings("ignore")  # of a library that is not ours

COUNT, SEED = 6, 3


def content(run: Path) -> dict[str, bytes]:
    """Every file but for how long things took."""
    found = kills.content(run)
    numbers = json.loads(found["conversion.json"])
    assert min(numbers.pop("seconds"), numbers["end_to_end"].pop("seconds")) > 0
    return found | {"conversion.json": json.dumps(numbers, sort_keys=True).encode()}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_conversion_that_is_killed_ends_as_a_straight_one(tmp_path: Path) -> None:
    """Records are looked at by their times and numbers: one that is written again would have others."""
    torch.set_num_threads(1)
    given = tiny_models.folder(tmp_path / "given", num_hidden_layers=3)

    def converting(out: Path, kill: tuple[str, float] | None = None) -> tuple[int, str]:
        def work() -> None:
            with mock.patch.object(distil, "SECONDS", 0.0):
                convert(
                    str(given / "model"),
                    out=out,
                    text=(str(given / "text"),),
                    tokens=1200,
                    length=16,
                    distill=20,
                    end_to_end=6,
                    device="cpu",
                )

        out.parent.mkdir(exist_ok=True)
        return kills.run(work, out, kill)

    straight = tmp_path / "straight" / "run"
    status, said = converting(straight)
    assert status == 0, said
    files, seconds = json.loads(straight.with_name("cost").read_text())
    expected, kept = content(straight), []
    assert {f"records/layers/00{layer}.{ending}" for layer in range(3) for ending in ("json", "safetensors")} < set(
        expected
    )
    for number in range(COUNT):
        out = tmp_path / f"killed{number}" / "run"
        kill = kills.draw(number, SEED, files, seconds)
        status, said = converting(out, kill)
        assert -status in kills.STOPPED or (status == 0 and kill[0] == "time"), said
        before = kills.finished(out)
        status, said = converting(out)
        assert status == 0, said
        assert before.items() <= kills.finished(out).items(), kill
        found = content(out)
        assert [name for name in {*found, *expected} if found.get(name) != expected.get(name)] == [], kill
        kept.append(len(before))
    assert max(kept) > 0
    assert min(kept) < 6  # some layers were there, some were not
