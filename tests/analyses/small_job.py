"""The main job on the 8×8 digits, small enough to run in a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from matplotlib.figure import Figure

from bilens import plots

BUDGET = ["--count", "3", "--sae-steps", "25", "--pair-features", "64", "--pair-steps", "15"]
FLAGS = ["--data", "digits", "--hidden", "24", "--epochs", "12", "--noise", "0.1", *BUDGET]


@contextmanager
def undrawn(but: Callable[[str], bool] = lambda name: False) -> Iterator[None]:
    """Every figure is written by its name and is blank, but for some: drawing takes far longer than all the rest."""
    report = plots.report

    def blank(*arguments: Any) -> Iterator[tuple[str, Callable[[], Figure]]]:
        for name, figure in report(*arguments):
            yield name, figure if but(name) else Figure

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "report", blank)
        yield
