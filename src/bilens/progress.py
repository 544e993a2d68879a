"""One progress bar for every long step: what is done, the latest numbers and the time left."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@runtime_checkable
class Step(Protocol):
    """Call it after each piece of work: `step(1, loss=0.31)`; the numbers are shown beside the bar."""

    def __call__(self, count: int = 1, /, **numbers: float) -> None:
        """Advance by `count` and show the numbers."""


@contextlib.contextmanager
def bar(title: str, total: int, *, done: int = 0, show: bool = True) -> Iterator[Step]:
    """A progress bar on standard error, for as long as the block runs.

    Args:
        title: what is being done; shown as it is, never as markup.
        total: how many pieces there are; `done`: how many an earlier run finished.
        show: False shows nothing and costs nothing.
    """
    if not show:
        yield lambda count=1, /, **numbers: None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[numbers]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total, completed=done, numbers="")

        def step(count: int = 1, /, **numbers: float) -> None:
            if numbers:
                text = " ".join(f"{name} {value:.4g}" for name, value in numbers.items())
                progress.update(task, advance=count, numbers=text)
            else:
                progress.update(task, advance=count)

        yield step
