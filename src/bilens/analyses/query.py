"""The command that asks the tables of a run in SQL."""

from __future__ import annotations

import csv as comma
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bilens import tables
from bilens._internal.checks import whole


def query(run: Path, sql: str, /, *, rows: int = 40, csv: bool = False) -> None:
    """Ask the tables of a run one question in SQL; nothing is changed, and nothing else can be read.

    The tables are features, eigenpairs, interactions, examples and audit.
    Example: bilens query runs/smol "SELECT label, held FROM features ORDER BY held DESC LIMIT 5"

    Args:
        run: the run's folder.
        sql: one SELECT.
        rows: how many rows to show at most; all of them with --csv.
        csv: write the answer as CSV instead of as a table.
    """
    rows = whole("--rows", rows, 1)
    answer = tables.open(run).query(sql)
    if csv:
        writer = comma.writer(sys.stdout)
        writer.writerow(answer.column_names)
        for batch in answer.to_batches():
            writer.writerows(zip(*(column.to_pylist() for column in batch.columns), strict=True))
        return
    wide = None if sys.stdout.isatty() else 200
    console = Console(markup=False, highlight=False, emoji=False, width=wide)
    console.print(table(answer, rows))
    if answer.num_rows > rows:
        console.print(f"{rows:,} of {answer.num_rows:,} rows; --rows shows more")


def table(answer: Any, rows: int) -> Table:
    """An answer's first rows, its texts with everything that a terminal would obey shown instead."""
    shown = Table(box=None, pad_edge=False)
    for field in answer.schema:
        numeric = str(field.type).startswith(("int", "float", "double", "decimal", "uint"))
        shown.add_column(Text(visible(field.name)), justify="right" if numeric else "left")
    for row in zip(*(column.to_pylist() for column in answer.slice(0, rows).columns), strict=True):
        shown.add_row(*(Text(visible(value)) for value in row))
    return shown


def visible(value: Any) -> str:
    """A value in one line, control characters and marks of direction as escapes: a label may hold anything."""
    if value is None:
        return ""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


__all__ = ["query", "table", "visible"]
