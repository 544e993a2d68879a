"""The main job for a classifier of several layers: its hidden directions, and at two layers its trees of templates."""

from __future__ import annotations

from typing import Any

from bilens.analyses import _samples as samples
from bilens.analyses import _summary as summary
from bilens.analyses._deep_subject import DeepSubject
from bilens.analyses.hidden_directions import hidden_directions
from bilens.analyses.settings import Budget
from bilens.analyses.trees import templates
from bilens.data import Dataset
from bilens.deep import DeepTensor
from bilens.features import FeatureSet, Samples, TreeSet
from bilens.history import History
from bilens.models import ImageClassifier
from bilens.progress import Steps
from bilens.store import Folder

DEEPER = (
    "Trees of templates are for two layers: an output of {depth} layers is a sum of squares of squares of squares, and "
    "its roots are no quadratic forms of the input."
)


def count_steps(layers: int) -> int:
    """How many steps `derive` has."""
    return 3 if layers == 2 else 2


def derive(
    model: ImageClassifier,
    dataset: Dataset | None,
    run: Folder,
    budget: Budget,
    *,
    training: History | None = None,
    steps: Steps | None = None,
) -> dict[str, Any]:
    """Trees, hidden directions, figures, `summary.json` and `report.html` in the run's folder.

    The model's spaces are the data's, see `ImageClassifier.over`. The steps are those of the whole job, when it began
    before this.
    """
    model = model.eval().requires_grad_(False).cpu()
    subject = DeepSubject.of(model, dataset, budget)
    network = run.record("network", DeepTensor, lambda: subject.outputs)
    steps = steps or Steps(count_steps(network.depth))
    found = None
    if network.depth == 2:
        steps.begin("trees of templates")
        found = run.record("trees", TreeSet, lambda: templates(subject))
    steps.begin("hidden directions")
    sets = (run.record("features/directions", FeatureSet, lambda: hidden_directions(subject)),)
    steps.begin("figures and the page")
    shown = None if dataset is None else run.record("samples", Samples, lambda: samples.shown(subject, sets))
    return summary.write(
        subject,
        sets,
        run,
        about=about(model, subject),
        factors=network,
        samples=shown,
        training=training,
        trees=found,
    )


def about(model: ImageClassifier, subject: DeepSubject) -> dict[str, Any]:
    """What the summary says of the model and its data, as JSON."""
    network, dataset = subject.outputs, subject.dataset
    numbers = sum(factor.numel() for level in subject.levels for factor in level)
    facts: dict[str, Any] = {
        "model": {
            "inputs": network.input.size,
            "hidden": model.config["hidden"],
            "layers": network.depth,
            "outputs": network.output.size,
            "parameters": subject.numbers,
            "tensor_numbers_factored": numbers,
            "tensor_numbers_dense": network.output.size * network.input.dim ** (2**network.depth),
        },
    }
    if network.depth != 2:
        facts["model"]["trees"] = DEEPER.format(depth=network.depth)
    if dataset is not None and subject.original is not None:
        facts["model"] |= {
            "test_accuracy": subject.original.accuracy,
            "test_cross_entropy": subject.original.cross_entropy,
        }
        facts["data"] = {
            "name": dataset.name,
            "source": dataset.source,
            "train": len(dataset.train.labels),
            "test": len(dataset.test.labels),
        }
    return facts
