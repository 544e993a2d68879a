"""What a long job says of its steps."""

from __future__ import annotations

import time

import pytest

from bilens.progress import Steps, duration


def test_steps_are_plain_lines_with_the_time_of_the_one_before(monkeypatch, capsys) -> None:
    clock = iter([0.0, 1.0, 73.0, 73.26])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    steps = Steps(3)
    for title in ("train", "[red]read[/red]", "draw"):
        steps.begin(title)
    assert capsys.readouterr().err.splitlines() == [
        "step 1 of 3 · train",
        "step 2 of 3 · [red]read[/red] (step 1 took 1 min 12 s)",
        "step 3 of 3 · draw (step 2 took 0.3 s)",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3790, "1 h 3 min")],
)
def test_a_duration_reads_as_a_person_writes_it(seconds: float, text: str) -> None:
    assert duration(seconds) == text
