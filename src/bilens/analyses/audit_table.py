"""Audits as a table: a row for each set of directions, in each order, over all tokens and over active ones."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from bilens.decompose import Audit

LEVEL = 0.75
"""The correlation that a feature is said to need to be explained."""

HEAD = ("directions", "order", "features", "active on", "all pairs")
"""The first columns of the table; then one for each number of pairs, and one of shares."""


def columns(audits: tuple[Audit, ...]) -> tuple[str, ...]:
    """The heads of all columns."""
    return (*HEAD, *(f"k = {k}" for k in audits[0].ks), f"above {LEVEL} at 2")


def cells(audits: tuple[Audit, ...]) -> Iterator[tuple[str, ...]]:
    """The rows: all sets over all tokens, then those that are active on some over these."""
    for active in (False, True):
        for one in audits:
            count = one.known(active=active)
            if not count or (active and bool((one.firings == one.tokens).all())):
                continue
            medians = [f"{one.median(k, active=active).value:.2f}" for k in (0, *one.ks)]
            share = one.share(2, above=LEVEL, active=active).text(".0%") if 2 in one.ks else "–"
            name = f"{one.name}, active tokens" if active else one.name
            fewest, middle, most = firings(one)
            on = "all" if fewest == one.tokens else f"{middle:,} ({fewest:,} … {most:,})"
            yield (name, "by |λ|" if one.order == "magnitude" else "weighted", str(count), on, *medians, share)


def table(title: str, audits: tuple[Audit, ...]) -> Table:
    """For the terminal."""
    shown = Table(box=None, pad_edge=False, title=f"{title}; medians of |correlation|", title_justify="left")
    for column in columns(audits):
        shown.add_column(column, justify="left" if column in HEAD[:2] else "right")
    for row in cells(audits):
        shown.add_row(*row)
    return shown


def markdown(audits: tuple[Audit, ...]) -> str:
    """In Markdown."""
    heads = columns(audits)
    return "\n".join(_row(row) for row in (heads, ("---",) * len(heads), *cells(audits)))


def _row(row: tuple[str, ...]) -> str:
    """A row in Markdown, where a bar would end a cell."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def firings(one: Audit) -> tuple[int, int, int]:
    """On how many tokens features are active: the fewest, the middle, the most."""
    ordered = one.firings.sort().values
    return int(ordered[0]), int(ordered[len(ordered) // 2]), int(ordered[-1])


__all__ = ["HEAD", "LEVEL", "cells", "columns", "firings", "markdown", "table"]
