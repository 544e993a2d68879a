"""The main job: trains a bilinear classifier of images and reads its features from its weights in four ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bilens import data as datasets
from bilens import models
from bilens.checkpoint import discard
from bilens.errors import BilensError
from bilens.history import History
from bilens.models import ImageClassifier
from bilens.recipes.decompile import DataName, derive, fingerprint, settings
from bilens.recipes.ways.subject import Budget
from bilens.store import Folder


def mnist(
    out: Path = Path("runs/mnist"),
    *,
    model: Path | None = None,
    data: DataName = "mnist",
    small: bool = False,
    hidden: int | None = None,
    epochs: int | None = None,
    weight_decay: float | None = None,
    noise: float | None = None,
    count: int = Budget.count,
    sae_steps: int | None = None,
    sae_l1: float = Budget.sae_l1,
    pair_features: int | None = None,
    pair_steps: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Train a bilinear digit classifier, then read its features from its weights in four ways.

    Example: bilens mnist --out runs/mnist

    Args:
        out: folder for the results; the same command run again continues there.
        model: folder of a trained model to read in place of training one.
        data: images to train and to measure with.
        small: the 5,000 digits and less work, about a minute, for a first look or a test.
        hidden: hidden units of the layer, 300 unless told; 1000 is the founding draft's size.
        epochs: passes over the training images; 10, or 40 over a small set, unless told.
        weight_decay: AdamW's, 1 unless told.
        noise: standard deviation of the Gaussian noise added to training images, in raw pixel units (black 0, white 1);
            0.3 unless told.
        count: features of each view to draw.
        sae_steps: updates of the SAE on the layer's outputs; 500, or 250 in the small setting.
        sae_l1: its L1 penalty.
        pair_features: features of the SAE on input pairs; 5000, or 2000 in the small setting.
        pair_steps: its updates; 1000, or 250 in the small setting.
        seed: of the weights, the batches and the sparse coders.
    """
    budget = Budget(
        count=count,
        sae_steps=_or(sae_steps, 250 if small else Budget.sae_steps),
        sae_l1=sae_l1,
        pair_features=_or(pair_features, 2000 if small else Budget.pair_features),
        pair_steps=_or(pair_steps, 250 if small else Budget.pair_steps),
    )
    dataset = datasets.load("small_mnist" if small and data == "mnist" else data)
    training = {"hidden": hidden, "epochs": epochs, "weight_decay": weight_decay, "noise": noise}
    if model is not None:
        asked_too = [name for name, value in training.items() if value is not None]
        if asked_too:
            raise BilensError(
                f"--model with --{asked_too[0].replace('_', '-')}",
                "one of them: a given model is not trained",
                "leave one of them out",
            )
        given = ImageClassifier.from_pretrained(model).float().over(dataset.input, dataset.output)
        given.tensor()  # a model that is not bilinear is refused before anything is written
        asked = settings("mnist", given, dataset, budget, seed) | {"weights": fingerprint(given)}
        run = Folder(out, asked)
        given.save_pretrained(run.path / "model")
        return derive(given, dataset, run, budget, seed=seed)
    classifier = ImageClassifier(dataset.input, dataset.output, _or(hidden, 300), seed=seed)
    rounds = _or(epochs, 40 if len(dataset.train.labels) < 20000 else 10)
    decay, sigma = 1.0 if weight_decay is None else weight_decay, 0.3 if noise is None else noise
    models.check_settings(epochs=rounds, weight_decay=decay, noise=sigma, seed=seed)
    training = {"epochs": rounds, "weight_decay": decay, "noise": sigma}
    run = Folder(out, settings("mnist", classifier, dataset, budget, seed) | {"training": training})

    def train() -> History:
        history = models.train(
            classifier,
            dataset.train.images,
            dataset.train.labels,
            test_images=dataset.test.images,
            test_labels=dataset.test.labels,
            epochs=rounds,
            weight_decay=decay,
            noise=sigma,
            seed=seed,
            checkpoint=run.path / "training.part",
        )
        classifier.save_pretrained(run.path / "model")
        return history

    history = run.record("training", History, train)
    discard(run.path / "training.part")
    return derive(
        ImageClassifier.from_pretrained(run.path / "model"), dataset, run, budget, seed=seed, training=history
    )


def _or(asked: int | None, usual: int) -> int:
    return usual if asked is None else asked
