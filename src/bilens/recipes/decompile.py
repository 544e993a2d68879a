"""Reads the features of an image classifier from its weights in four ways, and measures how faithful each view is."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from bilens import data as datasets
from bilens.data import Dataset
from bilens.history import History
from bilens.models import ImageClassifier
from bilens.recipes import summary
from bilens.recipes.ways import details, inputs, outputs
from bilens.recipes.ways.components import singular_values
from bilens.recipes.ways.digits import digit_directions
from bilens.recipes.ways.subject import Budget, Subject
from bilens.store import Folder

DataName = Literal["mnist", "small_mnist", "fashion_mnist", "digits"]


def decompile(
    checkpoint: Path,
    /,
    out: Path = Path("runs/decompile"),
    *,
    data: DataName | None = None,
    count: int = Budget.count,
    sae_steps: int = Budget.sae_steps,
    sae_l1: float = Budget.sae_l1,
    pair_features: int = Budget.pair_features,
    pair_steps: int = Budget.pair_steps,
    seed: int = 0,
) -> dict[str, Any]:
    """Read the features of a trained classifier from its weights.

    Example: bilens decompile runs/mnist/model --data mnist --out runs/again

    Args:
        checkpoint: folder with config.json and model.safetensors, from bilens or in the layout that the authors of
            bilinear MLPs publish; weights of other types are read in single precision.
        out: folder for the results; the same command run again continues there.
        data: images to train the SAE on outputs with and to measure faithfulness on; without them, only what the
            weights alone give.
        count: features of each view to draw.
        sae_steps: updates of the SAE on the layer's outputs.
        sae_l1: its L1 penalty.
        pair_features: features of the SAE on input pairs.
        pair_steps: its updates.
        seed: of the sparse coders.
    """
    model = ImageClassifier.from_pretrained(checkpoint).float()
    model.tensor()  # a model that is not bilinear is refused before anything is written
    budget = Budget(count=count, sae_steps=sae_steps, sae_l1=sae_l1, pair_features=pair_features, pair_steps=pair_steps)
    dataset = None if data is None else datasets.load(data)
    if dataset is not None:
        model = model.over(dataset.input, dataset.output)
    run = Folder(out, settings("decompile", model, dataset, budget, seed) | {"weights": fingerprint(model)})
    return derive(model, dataset, run, budget, seed=seed)


def settings(
    command: str, model: ImageClassifier, dataset: Dataset | None, budget: Budget, seed: int
) -> dict[str, Any]:
    """What a run of the main job was asked for, as JSON: the folder of a run belongs to these."""
    source = None if dataset is None else f"{dataset.name}: {len(dataset.train.labels)} + {len(dataset.test.labels)}"
    return {"command": command, "model": model.config, "data": source, "budget": asdict(budget), "seed": seed}


def fingerprint(model: ImageClassifier) -> str:
    """SHA-256 of a model's weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def derive(
    model: ImageClassifier,
    dataset: Dataset | None,
    run: Folder,
    budget: Budget,
    *,
    seed: int,
    training: History | None = None,
) -> dict[str, Any]:
    """Features in four ways, their figures, `summary.json` and `report.html` in the run's folder.

    The model's spaces are the data's, see `ImageClassifier.over`.
    """
    subject = Subject(model.eval().requires_grad_(False).cpu(), dataset, budget, seed)
    details.factors(subject, run)  # first, so that the page of a run that was stopped can compute with them
    found = summary.Findings(
        subject=subject,
        digits=digit_directions(subject, run),
        components=singular_values(subject, run),
        outputs=None if dataset is None else outputs.output_features(subject, run),
        pairs=inputs.pair_features(subject, run),
        training=training,
    )
    if dataset is not None:
        details.samples(subject, run, found.details)
    return summary.write(found, run)
