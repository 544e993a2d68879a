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
from bilens.progress import Steps
from bilens.recipes import given, summary
from bilens.recipes.given import Standardization
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
    mean: float | None = None,
    std: float | None = None,
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
        mean: of the images that the model was trained on, when they were standardised, (x - mean) / std; folded into
            the weights (default: image_mean of the checkpoint's config, else 0).
        std: goes with it (default: image_std of the checkpoint's config, else 1).
        count: features of each view to draw.
        sae_steps: updates of the SAE on the layer's outputs.
        sae_l1: its L1 penalty.
        pair_features: features of the SAE on input pairs.
        pair_steps: its updates.
        seed: of the sparse coders.
    """
    budget = Budget(count=count, sae_steps=sae_steps, sae_l1=sae_l1, pair_features=pair_features, pair_steps=pair_steps)
    dataset = None if data is None else datasets.load(data)
    model, images = given.read(checkpoint, dataset, mean=mean, std=std)
    run = Folder(out, settings("decompile", model, dataset, budget, seed) | read_from(model, images))
    if dataset is not None:
        given.look(model, checkpoint, dataset, images)
    return derive(model, dataset, run, budget, seed=seed)


def read_from(model: ImageClassifier, images: Standardization | None) -> dict[str, Any]:
    """What the settings of a run say of a model that was given: its weights, and what its images were."""
    return {"weights": fingerprint(model)} | ({} if images is None else {"images": asdict(images)})


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
    steps: Steps | None = None,
) -> dict[str, Any]:
    """Features in four ways, their figures, `summary.json` and `report.html` in the run's folder.

    The model's spaces are the data's, see `ImageClassifier.over`. The steps are those of the whole job, when it began
    before this.
    """
    subject = Subject(model.eval().requires_grad_(False).cpu(), dataset, budget, seed)
    details.factors(subject, run)  # first, so that the page of a run that was stopped can compute with them
    steps = steps or Steps(count_steps(dataset))
    steps.begin("kernels of the outputs and their eigenvectors")
    digits = digit_directions(subject, run)
    steps.begin("singular value decomposition of the layer")
    components = singular_values(subject, run)
    found_outputs = None
    if dataset is not None:
        steps.begin("sparse autoencoder on the layer's outputs")
        found_outputs = outputs.output_features(subject, run)
    steps.begin("sparse autoencoder on input pairs")
    pairs = inputs.pair_features(subject, run)
    found = summary.Findings(
        subject=subject, digits=digits, components=components, outputs=found_outputs, pairs=pairs, training=training
    )
    steps.begin("figures and the page")
    if dataset is not None:
        details.samples(subject, run, found.details)
    return summary.write(found, run)


def count_steps(dataset: Dataset | None) -> int:
    """How many steps `derive` has."""
    return 4 if dataset is None else 5
