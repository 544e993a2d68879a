"""Run the examples of a page of the documentation: what it says is what they print."""

from __future__ import annotations

import doctest
import re
from pathlib import Path


def run(page: Path) -> tuple[int, str]:
    """How many examples its `pycon` blocks have, and what those that fail print; "" where all are right.

    They run in the current folder, one after another, with the names of those before them.
    """
    blocks = re.findall(r"^```pycon\n(.*?)^```", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    examples = doctest.DocTestParser().get_doctest("\n\n".join(blocks), {}, page.name, str(page), 0)
    report: list[str] = []
    result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(examples, out=report.append)
    return result.attempted, "".join(report) if result.failed else ""
