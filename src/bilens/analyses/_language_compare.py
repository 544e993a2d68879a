"""`bilens compare` of layers of language models that were read: how far apart their kernels are, on one page."""

from __future__ import annotations

import math
import webbrowser
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from bilens import explorer
from bilens.analyses._page import PAGE
from bilens.analyses.language import apart
from bilens.analyses.language.apart import Apart, Apartness, languages
from bilens.errors import BilensError
from bilens.progress import bar
from bilens.store import Folder


def compare(a: Path, b: Path, out: Path, *, layers: str | None, open: bool) -> dict[str, Any]:
    """Compare a layer of one run with a layer of another, or of the same; see `bilens compare`.

    Returns:
        What `summary.json` has.
    """
    numbers = apart.numbers(layers, (a, b))
    if (a.resolve(), numbers[0]) == (b.resolve(), numbers[1]):
        raise BilensError(f"layer {numbers[0]} of {a} twice", "two layers, or two runs", "name both: --layers 5:12")
    asked = apart.settings((a, numbers[0]), (b, numbers[1]))
    with bar("comparing"):
        sides = [apart.opened(run, number) for run, number in zip((a, b), numbers, strict=True)]
        found = apart.apart(*sides)
        said = apart.apartness(found, sides[0].content, sides[1].content)
        if not said:
            raise BilensError(f"{a} and {b} without a feature of one name", "runs that read the same directions")
        content = apart.page(found, *sides)
        run = Folder(out, asked)
        summary = {"metric": found.metric, "sets": {each.name: _plain(asdict(each)) for each in said}}
        run.write("summary.json", summary)
        explorer.write_reading(content, run.path / PAGE)
    _print(content["title"], found, said, run)
    if open:
        webbrowser.open((run.path / PAGE).resolve().as_uri())
    return summary


def _plain(content: Any) -> Any:
    """JSON has no infinity: null instead of the ends of an interval that a few samples do not have."""
    if isinstance(content, dict):
        return {name: _plain(part) for name, part in content.items()}
    return None if isinstance(content, float) and math.isinf(content) else content


def _print(title: str, found: Apart, said: list[Apartness], run: Folder) -> None:
    console = Console(markup=False, highlight=False, soft_wrap=True)
    console.print(title)
    console.print(f"kernels of features of one name, in {found.metric}; medians with 95 % intervals")
    console.print(
        f"{'':>16} {'features':>8}  {'cosine':<20} {'‖Q − Q′‖ / ‖Q‖':<20} {'nearest':<18} random pair, |cosine|"
    )
    for each in said:
        random = "–" if each.random is None else f"{each.random:.2f}, 95 % below {each.most:.2f}"
        console.print(
            f"{each.name:>16.16} {each.cosine.count:>8}  {each.cosine.text():<20} {each.distance.text():<20} "
            f"{each.nearest.text():<18} {random}"
        )
    console.print(f"numbers: {run.path / 'summary.json'}")
    console.print(f"page:    {run.path / PAGE}")


__all__ = ["compare", "languages"]
