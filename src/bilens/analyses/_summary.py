"""What a run of the main job found: numbers, figures and the page, from the sets of features of its analyses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor

from bilens import explorer, plots
from bilens.analyses._deep_subject import DeepSubject
from bilens.analyses._page import PAGE, exploration
from bilens.analyses.subject import Subject
from bilens.decompose import KernelTree
from bilens.deep import DeepTensor
from bilens.faithfulness import Curve, Row
from bilens.features import FeatureSet, Samples, TreeSet, table
from bilens.history import History
from bilens.progress import bar
from bilens.space import Space
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


def numbers(
    subject: Subject | DeepSubject,
    sets: Sequence[FeatureSet],
    about: Mapping[str, Any],
    trees: TreeSet | None = None,
) -> dict[str, Any]:
    """Every number of a run, as JSON: what is said about the model and its data, and each set under the set's name.

    Args:
        subject: what was read; sets: what was found; about: the model, under "model", and its data, under "data";
            trees: those of a network of two layers, under "trees".
    """
    summary = dict(about)
    if trees is not None:
        summary["trees"] = dict(trees.numbers) | ({"curve": columns(trees.curves[0])} if trees.curves else {})
    for found in sets:
        summary[found.name] = dict(found.numbers)
        if found.curves:
            summary[found.name]["curve"] = columns(found.curves[0])
    if subject.row is not None:
        summary["faithfulness"] = {row.name: entry(row) for row in _table(subject, sets, trees)}
        summary["faithfulness_baseline"] = f"ln {subject.outputs.output.size}: a uniform guess"
    return summary


def _table(subject: Subject | DeepSubject, sets: Sequence[FeatureSet], trees: TreeSet | None) -> tuple[Row, ...]:
    """The model, its trees, and the sets."""
    first, *rest = table(sets, subject.row)
    return (first, *(() if trees is None else trees.scores), *rest)


def write(
    subject: Subject | DeepSubject,
    sets: Sequence[FeatureSet],
    run: Folder,
    *,
    about: Mapping[str, Any],
    factors: BilinearTensor | DeepTensor,
    samples: Samples | None,
    training: History | None,
    trees: TreeSet | None = None,
) -> dict[str, Any]:
    """Write `summary.json`, `figures/` and `report.html`, print the summary, and return it.

    Args:
        subject: what was read; sets: what was found; run: the folder; about: the model and its data, as JSON.
        factors: input → outputs, and samples, for the page; training: how the model was trained, where that is known.
        trees: those of a network of two layers.
    """
    summary = numbers(subject, sets, about, trees) | {"seconds": run.timings}
    run.write("summary.json", summary)
    figures = [*_trees(subject, trees), *plots.report(sets, training)]
    with bar("figures and the page", len(figures) + 1) as step:
        for name, figure in figures:
            plots.save(figure(), run.path / "figures" / f"{name}.svg")
            step()
        page = exploration(run.path, summary, sets, factors=factors, samples=samples, training=training, trees=trees)
        explorer.write([page], run.path / PAGE)
        step()
    _print(subject, sets, summary, run, trees)
    return summary


def _trees(subject: Subject | DeepSubject, trees: TreeSet | None) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """A figure of each tree, where there are labelled images to draw it on."""
    if trees is None or isinstance(subject, Subject) or subject.labels is None:
        return
    for place, tree in enumerate(trees.trees):
        whole = partial(tree.whole, subject.outputs, subject.metric)
        yield f"trees-{place}", partial(_tree, whole, subject.given, subject.labels, subject.output)


def _tree(whole: Callable[[], KernelTree], x: Tensor, labels: Tensor, classes: Space) -> Figure:
    return plots.kernel_tree(whole(), x, labels, classes)


def _print(
    subject: Subject | DeepSubject,
    sets: Sequence[FeatureSet],
    summary: dict[str, Any],
    run: Folder,
    trees: TreeSet | None,
) -> None:
    console = Console(markup=False, highlight=False, soft_wrap=True)
    if subject.row is not None:
        data = summary["data"]
        sizes = f"{data['train']:,} training and {data['test']:,} test images"
        console.print(f"{data['name']}: {sizes}, from {data['source']}")
        console.print(f"On {data['test']:,} test images, the model replaced by:")
        console.print(f"{'accuracy':>9} {'CE recovered':>13}  {'numbers stored':>14}")
        for row in _table(subject, sets, trees):
            recovered = "–" if row.score.recovered is None else f"{row.score.recovered:.2%}"
            stored = "–" if row.numbers is None else f"{row.numbers:,}"
            mark = "" if row.beside is None else f"  ({row.kind})"
            console.print(f"{row.score.accuracy:>9.2%} {recovered:>13}  {stored:>14}  {row.name}{mark}")
    for found in sets:
        for note in found.notes:
            console.print(note)
    console.print(f"numbers: {run.path / 'summary.json'}")
    console.print(f"page:    {run.path / PAGE}")
