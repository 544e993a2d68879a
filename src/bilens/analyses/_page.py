"""What the page of a run shows besides its sets of features, made from the numbers of its summary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bilens.deep import DeepTensor
from bilens.explorer import Exploration
from bilens.faithfulness import Row, Score
from bilens.features import FeatureSet, Samples, TreeSet
from bilens.history import History
from bilens.tensor import BilinearTensor

PAGE = "report.html"
"""The page's name in a run's folder."""


def exploration(
    run: Path,
    summary: dict[str, Any],
    sets: Sequence[FeatureSet],
    *,
    factors: BilinearTensor | DeepTensor | None,
    samples: Samples | None,
    training: History | None,
    trees: TreeSet | None = None,
) -> Exploration:
    """The page of a run of the main job.

    Args:
        run: its folder, for its name; summary: its numbers, empty where it is not finished; sets: what was found.
        factors: input → outputs; samples: to look at it with; training: how it was trained.
        trees: the outputs of a network of two layers as trees of templates.
    """
    return Exploration(
        title="A bilinear network, read from its weights",
        run=run.resolve().name,
        facts=_facts(summary),
        model=factors,
        logits=True,
        features=tuple(sorted(sets, key=lambda found: found.order)),
        trees=trees,
        samples=samples,
        scores=tuple(_row(name, entry) for name, entry in summary.get("faithfulness", {}).items()),
        history=training,
        notes=_notes(summary),
    )


def _row(name: str, entry: dict[str, Any]) -> Row:
    """A row of the table of scores, from its JSON."""
    score = Score(entry["accuracy"], entry["cross_entropy"], entry["recovered"], entry.get("samples"))
    return Row(name, score, entry.get("numbers"), entry.get("kind", "view"), entry.get("beside"))


def _facts(summary: dict[str, Any]) -> dict[str, str | int | float]:
    facts: dict[str, str | int | float] = {}
    if "model" in summary:
        model = summary["model"]
        factored, dense = model["tensor_numbers_factored"], model["tensor_numbers_dense"]
        layers = model.get("layers", 1)
        hidden = f"{model['hidden']:,} hidden" if layers == 1 else f"{layers} layers of {model['hidden']:,} hidden"
        name = "layer" if layers == 1 else "layers"
        facts[name] = f"{model['inputs']:,} inputs → {hidden} → {model['outputs']:,} outputs"
        facts["parameters"] = f"{model['parameters']:,}"
        times = f"{dense / factored:,.0f}" if dense < 1e9 * factored else f"{dense / factored:.0e}"
        facts["tensor"] = f"{factored:,} numbers as factors; dense {times} × as many, never built"
        if "test_accuracy" in model:
            facts["test accuracy"] = f"{model['test_accuracy']:.2%} of {summary['data']['test']:,} images"
    if "data" in summary:
        data = summary["data"]
        facts["data"] = f"{data['name']}: {data['train']:,} to train with, {data['test']:,} to test with"
    return facts


def _notes(summary: dict[str, Any]) -> tuple[str, ...]:
    notes = []
    if not summary:
        notes.append("This run is not finished: run the same command again to add what is missing.")
    if "trees" in summary.get("model", {}):
        notes.append(summary["model"]["trees"])
    if "data" in summary:
        stated = all("samples" in entry for entry in summary.get("faithfulness", {}).values())
        notes.append(
            (f"Scores and curves are measured on all {summary['data']['test']:,} test images. " if stated else "")
            + "Cross-entropy recovered is 1 for the model itself and 0 for a uniform guess over the "
            + f"{summary['model']['outputs']} outputs."
        )
    return tuple(notes)
