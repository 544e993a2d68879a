"""The page of a layer as a file of at most so many bytes: with fewer features where all would be too many."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bilens import explorer
from bilens.analyses.language._alike import Shown, shown_name
from bilens.analyses.language._pages import FEATURES, Page, Read
from bilens.analyses.language.subject import Subject
from bilens.explorer.lm_layout import Reading
from bilens.store import Folder

MOST = 10_000_000
"""Bytes of a layer's page."""

FEW = 64
"""Features for which a page gives up the model that it runs on sentences that are typed."""


def write(subject: Subject, read: Read, run: Folder, others: Sequence[int]) -> Path:
    """Write the page of a layer into the run's folder, with all features that there is room for.

    Args:
        subject: the model; read: the layer, as it was read; run: the folder; others: all layers that have a page there.
    """
    page, content = fitting(subject, read, run, others)
    run.record(shown_name(read.layer.number), Shown, lambda: page.shown)
    path = run.path / address(read.layer.number)
    explorer.write_reading(content, path)
    return path


def fitting(subject: Subject, read: Read, run: Folder, others: Sequence[int]) -> tuple[Page, Reading]:
    """The page with as many features as `MOST` has room for, one of each set at least; arguments as of `write`."""
    count, runs, limit = FEATURES, True, None
    while True:
        page = Page(subject, read, run, others, count=count, runs=runs)
        content: Reading = {**page.reading(), "limit": limit}
        size = len(explorer.reading(content).encode())
        if size <= MOST or (count == 1 and not runs):
            return page, content
        limit = MOST
        fewer = min(count - 1, int(count * MOST / size))
        if runs and fewer < FEW:
            count, runs = FEATURES, False
        else:
            count = max(1, fewer)


def address(layer: int) -> str:
    """The name of a layer's page."""
    return f"layer-{layer:03d}.html"


__all__ = ["MOST", "address", "fitting", "write"]
