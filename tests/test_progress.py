"""What a long job says of its steps."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable

import pytest
import torch

from bilens.analyses.subject import Subject, Unsaved
from bilens.analyses.table import ANALYSES
from bilens.progress import Steps, bar, duration
from bilens.space import Space
from bilens.tensor import BilinearTensor


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


class Terminal(io.StringIO):
    """A file that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> str:
    """What some work writes on standard error where that is a terminal."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "stderr", Terminal())
    work()
    return sys.stderr.getvalue()


def test_work_that_has_no_pieces_shows_that_it_goes_on_and_leaves_nothing(monkeypatch) -> None:
    @bar("finding [them]")
    def work() -> None:
        """Nothing."""

    shown = on_a_terminal(monkeypatch, work)
    assert "finding [them]" in shown
    assert "0:00:00" in shown
    assert "left" not in shown
    assert shown.rindex("\x1b[2K") > shown.rindex("finding")  # the line is erased
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    work()
    assert sys.stderr.getvalue() == ""  # a log of lines has no use for it


def test_in_a_file_progress_is_a_line_a_minute_with_the_time_left(monkeypatch, capsys) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with bar("training [it]", 50, done=10) as step:
        for seconds in (30.0, 61.0, 100.0, 125.0):
            clock[0] = seconds
            step(5, loss=seconds)
        clock[0] = 200.0
        step(20)
        clock[0] = 201.0
    assert capsys.readouterr().err.splitlines() == [
        "training [it]: 20 of 50, loss 61; 1 min 1 s, 3 min 3 s left",
        "training [it]: 30 of 50, loss 125; 2 min 5 s, 2 min 5 s left",
        "training [it]: 50 of 50, loss 125; 3 min 21 s",
    ]

    def stopped() -> None:
        with bar("stopped", 9) as step:
            step(2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert capsys.readouterr().err == ""  # whoever stopped it says so


@pytest.mark.parametrize("name", ["digits", "svd"])
def test_an_analysis_that_trains_nothing_shows_that_it_goes_on(name: str, monkeypatch) -> None:
    left, right, down = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0))
    subject = Subject(
        BilinearTensor.from_layer(left, right, down, input=Space("inputs", 4), output=Space("outputs", 4))
    )
    assert "the model on them" in on_a_terminal(monkeypatch, lambda: ANALYSES[name].read(subject, Unsaved()))
