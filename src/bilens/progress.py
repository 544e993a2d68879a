"""What a long job is doing: its steps with the time they took, and a progress bar inside a long step."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

EVERY = 60.0
"""Seconds between two lines of progress in a file."""


@runtime_checkable
class Step(Protocol):
    """Call it after each piece of work: `step(1, loss=0.31)`; the numbers are shown beside the bar."""

    def __call__(self, count: int = 1, /, **numbers: float) -> None:
        """Advance by `count` and show the numbers."""


@contextlib.contextmanager
def bar(title: str, total: int | None = None, *, done: int = 0, show: bool = True) -> Iterator[Step]:
    """A progress bar on standard error, for as long as the block runs. One at a time: a bar inside a bar garbles both.

    Where that is a file or a pipe, a plain line at most once a minute and one at the end take its place.

    Args:
        title: what is being done; shown as it is, never as markup.
        total: how many pieces there are; None for work that has none to count: the bar then shows that it goes on, for
            how long already, and leaves nothing behind; in a file or a pipe it is left out.
        done: how many an earlier run finished.
        show: False shows nothing and costs nothing.
    """
    console = Console(stderr=True)
    if not show or (total is None and not console.is_terminal):
        yield lambda count=1, /, **numbers: None
        return
    if not console.is_terminal:
        lines = _Lines(title, total or 0, done)
        yield lines.step
        lines.write()
        return
    columns: list[ProgressColumn] = [TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn()]
    if total is not None:
        counted: list[ProgressColumn] = [MofNCompleteColumn(), TextColumn("{task.fields[numbers]}", markup=False)]
        columns = [*columns[:2], *counted, columns[2], TextColumn("left", markup=False), TimeRemainingColumn()]
    with Progress(*columns, console=console, transient=total is None) as progress:
        task = progress.add_task(title, total=total, completed=done, numbers="")

        def step(count: int = 1, /, **numbers: float) -> None:
            if numbers:
                progress.update(task, advance=count, numbers=_shown(numbers))
            else:
                progress.update(task, advance=count)

        yield step


def _plain() -> Console:
    """Standard error for lines of text."""
    return Console(stderr=True, markup=False, highlight=False, soft_wrap=True, color_system=None)


def _shown(numbers: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in numbers.items())


class _Lines:
    """A progress bar for a file: "training: 120 of 400, loss 3.1; 2 min 5 s, 4 min 51 s left"."""

    def __init__(self, title: str, total: int, done: int) -> None:
        self.title, self.total, self.earlier, self.done = title, total, done, done
        self.numbers = ""
        self._console = _plain()
        self._started = self._written = time.monotonic()

    def step(self, count: int = 1, /, **numbers: float) -> None:
        self.done += count
        if numbers:
            self.numbers = _shown(numbers)
        now = time.monotonic()
        if now - self._written >= EVERY and self.done < self.total:
            self._written = now
            self.write()

    def write(self) -> None:
        taken = time.monotonic() - self._started
        here, rest = self.done - self.earlier, self.total - self.done
        left = f", {duration(taken / here * rest)} left" if here > 0 and rest > 0 else ""
        numbers = f", {self.numbers}" if self.numbers else ""
        self._console.print(f"{self.title}: {self.done} of {self.total}{numbers}; {duration(taken)}{left}")


class Steps:
    """The steps of a job, numbered: each begins with a plain line on standard error, with the time of the one before.

    Args:
        total: how many steps there will be.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.number = 0
        self._console = _plain()
        self._started = time.monotonic()

    def begin(self, title: str) -> None:
        """Announce the next step.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed before and some library swallowed it. A handler of SIGINT that was
                called says so by an attribute `asked`.
        """
        if getattr(signal.getsignal(signal.SIGINT), "asked", False):
            raise KeyboardInterrupt
        now = time.monotonic()
        before = f" (step {self.number} took {duration(now - self._started)})" if self.number else ""
        self.number, self._started = self.number + 1, now
        self._console.print(f"step {self.number} of {self.total} · {title}{before}")


def duration(seconds: float) -> str:
    """Seconds as a person writes them: "0.3 s", "12 s", "2 min 5 s", "1 h 3 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
