"""What a run of the main job found: numbers, figures and the page, from the sets of features of its analyses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from bilens import explorer, plots
from bilens.analyses.page import PAGE, exploration
from bilens.analyses.subject import Subject
from bilens.faithfulness import Curve, Row
from bilens.features import FeatureSet, Samples, table
from bilens.history import History
from bilens.progress import bar
from bilens.store import Folder
from bilens.tensor import BilinearTensor


def columns(curve: Curve) -> dict[str, Any]:
    """The number of samples and the columns that a curve has, as JSON."""
    return {"samples": curve.samples} | {
        column: getattr(curve, column).tolist()
        for column in ("kept", "numbers", "accuracy", "cross_entropy", "recovered", "error", "bound")
        if getattr(curve, column) is not None
    }


def entry(row: Row) -> dict[str, Any]:
    """A row as JSON, but for its name."""
    about = {"kind": row.kind, "beside": row.beside, "numbers": row.numbers}
    return vars(row.score) | {name: value for name, value in about.items() if value is not None}


def numbers(subject: Subject, sets: Sequence[FeatureSet], about: Mapping[str, Any]) -> dict[str, Any]:
    """Every number of a run, as JSON: what is said about the model and its data, and each set under the set's name.

    Args:
        subject: what was read; sets: what was found; about: the model, under "model", and its data, under "data".
    """
    summary = dict(about)
    for found in sets:
        summary[found.name] = dict(found.numbers)
        if found.curves:
            summary[found.name]["curve"] = columns(found.curves[0])
    if subject.row is not None:
        summary["faithfulness"] = {row.name: entry(row) for row in table(sets, subject.row)}
        summary["faithfulness_baseline"] = f"ln {subject.outputs.output.size}: a uniform guess"
    return summary


def write(
    subject: Subject,
    sets: Sequence[FeatureSet],
    run: Folder,
    *,
    about: Mapping[str, Any],
    factors: BilinearTensor,
    samples: Samples | None,
    training: History | None,
) -> dict[str, Any]:
    """Write `summary.json`, `figures/` and `report.html`, print the summary, and return it.

    Args:
        subject: what was read; sets: what was found; run: the folder; about: the model and its data, as JSON.
        factors: input → outputs, and samples, for the page; training: how the model was trained, where that is known.
    """
    summary = numbers(subject, sets, about) | {"seconds": run.timings}
    run.write("summary.json", summary)
    figures = list(plots.report(sets, training))
    with bar("figures and the page", len(figures) + 1) as step:
        for name, figure in figures:
            plots.save(figure(), run.path / "figures" / f"{name}.svg")
            step()
        page = exploration(run.path, summary, sets, factors=factors, samples=samples, training=training)
        explorer.write([page], run.path / PAGE)
        step()
    _print(subject, sets, summary, run)
    return summary


def _print(subject: Subject, sets: Sequence[FeatureSet], summary: dict[str, Any], run: Folder) -> None:
    console = Console(markup=False, highlight=False, soft_wrap=True)
    if subject.row is not None:
        data = summary["data"]
        sizes = f"{data['train']:,} training and {data['test']:,} test images"
        console.print(f"{data['name']}: {sizes}, from {data['source']}")
        console.print(f"On {data['test']:,} test images, the model replaced by:")
        console.print(f"{'accuracy':>9} {'CE recovered':>13}  {'numbers stored':>14}")
        for row in table(sets, subject.row):
            recovered = "–" if row.score.recovered is None else f"{row.score.recovered:.2%}"
            stored = "–" if row.numbers is None else f"{row.numbers:,}"
            mark = "" if row.beside is None else f"  ({row.kind})"
            console.print(f"{row.score.accuracy:>9.2%} {recovered:>13}  {stored:>14}  {row.name}{mark}")
    for found in sets:
        for note in found.notes:
            console.print(note)
    console.print(f"numbers: {run.path / 'summary.json'}")
    console.print(f"page:    {run.path / PAGE}")
