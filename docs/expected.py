"""What to expect of a run: the table in command-line.md, from the summaries of runs, and a part of it in README.

Run: python docs/expected.py "HEADING=runs/FOLDER" …, one column per run, in this order; without any, README alone.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from bilens import files

PAGE = Path(__file__).with_name("command-line.md")
README = PAGE.parents[1] / "README.md"
FEW = ("`bilens demo`, 60,000 images", "`bilens demo --small`")
"""The columns that stand in README."""
START, END = "<!-- expected: written by docs/expected.py -->", "<!-- end of expected -->"
COUNTS = re.compile(r" of \d+ active features? \(rank \d+\)")
CODES = re.compile(r"^the (\d+ )?largest codes? (of each output )?in (?P<directions>.*)$")
"""Rows whose number is the SAE's own in each run."""


def table(runs: dict[str, Path]) -> list[str]:
    """Test images, then accuracy and cross-entropy recovered of every row of every run, as Markdown."""
    columns: list[dict[str, str]] = []
    measured: list[str] = []
    for folder in runs.values():
        scores = files.read_json(folder / "summary.json")["faithfulness"]
        measured.append(", ".join(f"{count:,}" for count in sorted({score["samples"] for score in scores.values()})))
        columns.append({named(name, score): said(score) for name, score in scores.items()})
    names = list(dict.fromkeys(name for column in columns for name in column))
    lines = [f"| the layer is replaced by | {' | '.join(runs)} |", "|---" * (len(runs) + 1) + "|"]
    lines.append(f"| *test images that it is measured on* | {' | '.join(measured)} |")
    return lines + [f"| {name} | {' | '.join(column.get(name, '–') for column in columns)} |" for name in names]


def named(name: str, score: dict[str, Any]) -> str:
    """A row's name, the same in all runs, in italics where it stands beside another one."""
    name = CODES.sub(r"as many of each output's codes, the largest in \g<directions>", COUNTS.sub("", name))
    return name if score.get("beside") is None else f"*{score['kind']}: {name}*"


def said(score: dict[str, Any]) -> str:
    """Accuracy, and cross-entropy recovered, in percent."""
    recovered = score["recovered"]
    return f"{score['accuracy']:.2%}" + ("" if recovered is None else f", {recovered:.2%}")


def few(lines: list[str]) -> list[str]:
    """The columns `FEW` of a table, without the rows in italics but the first, which counts the images."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    places = [0, *(rows[0].index(heading) for heading in FEW)]
    kept = [*rows[:3], *(row for row in rows[3:] if not row[0].startswith("*"))]
    return [
        f"|{'---|' * len(places)}" if row is rows[1] else f"| {' | '.join(row[k] for k in places)} |" for row in kept
    ]


def held(page: str) -> list[str]:
    """The lines between the marks of a page."""
    return page.split(START)[1].split(END, maxsplit=1)[0].strip().splitlines()


def replaced(page: str, lines: list[str]) -> str:
    """The page with these lines between its marks."""
    before, rest = page.split(START)
    return "\n".join([before + START, *lines, END + rest.split(END)[1]])


def main() -> None:
    """Write the tables into both pages."""
    runs = dict(argument.split("=", 1) for argument in sys.argv[1:])
    page, readme = PAGE.read_text(encoding="utf-8"), README.read_text(encoding="utf-8")
    lines = table({name: Path(folder) for name, folder in runs.items()}) if runs else held(page)
    files.write_text(PAGE, replaced(page, lines))
    files.write_text(README, replaced(readme, few(lines)))


if __name__ == "__main__":
    main()
