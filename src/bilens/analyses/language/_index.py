"""The index of several layers: a page without a script that has a row per layer and a link to each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bilens import explorer, store, tables
from bilens.analyses.language._budget import address
from bilens.analyses.language.layer import Costs, cost_name
from bilens.analyses.language.seen import KS, TWO, Seen
from bilens.analyses.language.sets import RANDOM
from bilens.analyses.language.subject import Subject

INDEX = "index.html"
"""Its name in a run's folder."""


def write(subject: Subject, layers: Sequence[int], run: Path) -> Path:
    """Write the index of a run's layers into its folder."""
    columns, rows = table(layers, run)
    path = run / INDEX
    explorer.write_index(f"{len(layers)} layers of {subject.title}", columns, rows, said(subject), path)
    return path


def said(subject: Subject) -> str:
    """What the numbers rest on."""
    if subject.split is None:
        return "No text was read: the numbers are of the weights alone."
    return f"Text: {subject.split.named}. Correlations are with what the original layers give on held-out text."


def table(layers: Sequence[int], run: Path) -> tuple[list[str], list[list[tuple[str, str]]]]:
    """Columns, and for each layer its cells: a text and the address that it leads to, empty for none."""
    asked = tables.open(run)
    held = asked.query('SELECT layer, "set", median(held) AS held FROM features GROUP BY layer, "set"').to_pylist()
    names = sorted({row["set"] for row in held}, key=lambda name: (name == RANDOM, name))
    columns = ["layer", "surrogate", "variance lost", "cross-entropy more"]
    for name in names:
        columns += [f"{name}: held by its pairs", f"{name}: predicted by {TWO} pairs, r"]
    rows = []
    for layer in layers:
        found = store.read_record(run, cost_name(layer), Costs)
        own = None if found is None else found.measured[0]
        cells = [(str(layer), address(layer))]
        if own is None:
            cells += [("exact, or weights only", ""), ("–", ""), ("–", "")]
        else:
            cells += [(own.by.replace("_", " "), ""), (f"{own.fvu:.3f}", "")]
            cells += [(f"{own.delta_ce:+.4f} ± {own.error:.4f}".replace("-", "−"), "")]
        for name in names:
            share = next((row["held"] for row in held if row["layer"] == layer and row["set"] == name), None)
            seen = store.read_record(run, f"layer-{layer:03d}/{name}/seen", Seen)
            at = KS.index(TWO)
            r = None if seen is None or seen.correlations.shape[1] <= at else float(seen.correlations[:, at].median())
            cells += [("–" if share is None else f"{share:.0%}", ""), ("–" if r is None else f"{r:.2f}", "")]
        rows.append(cells)
    return columns, rows


__all__ = ["INDEX", "table", "write"]
