"""The main job: trains a bilinear classifier of images and reads its features from its weights."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from bilens import models
from bilens._internal.checkpoint import discard
from bilens._internal.checks import whole
from bilens.analyses import _given as given
from bilens.analyses.read import DataName, count_steps, derive, loaded, read_from, settings
from bilens.analyses.settings import SMALL, Budget, Training, shown
from bilens.data import Dataset
from bilens.errors import BilensError
from bilens.history import History
from bilens.models import ImageClassifier
from bilens.models.train import check_settings
from bilens.progress import Steps, duration
from bilens.store import Folder

DEFAULTS = shown()
"""The defaults of options that depend on other options, as the help shows them."""


def demo(
    out: Path = Path("runs/mnist"),
    *,
    model: Path | None = None,
    mean: float | None = None,
    std: float | None = None,
    data: DataName = "mnist",
    small: bool = False,
    layers: int = 1,
    hidden: int | None = None,
    epochs: int | None = None,
    weight_decay: float | None = None,
    noise: float | None = None,
    count: int = Budget.count,
    sae_features: int | None = None,
    sae_steps: int | None = None,
    sae_l1: float = Budget.sae_l1,
    pair_features: int | None = None,
    pair_steps: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Train a bilinear digit classifier, then read its features from its weights in four ways.

    Example: bilens demo --out runs/mnist

    Args:
        out: folder for the results; the same command run again continues there.
        model: folder of a trained model to read instead of training one.
        mean: of the images that this model was trained on, when they were standardised, (x - mean) / std; folded into
            its weights (default: image_mean of its config, else 0).
        std: goes with it (default: image_std of the model's config, else 1).
        data: images to train and to measure with.
        small: the 5,000 digits and less work, under three minutes, for a first look or a test.
        layers: bilinear layers one behind the other; two are shown as trees of templates.
        hidden: hidden units of each layer; the table in the README has 1000.
        epochs: passes over the training images.
        weight_decay: AdamW's.
        noise: standard deviation of the Gaussian noise added to training images, in raw pixel units, black 0 and
            white 1.
        count: features of each set to draw.
        sae_features: features of the SAE on the layer's outputs.
        sae_steps: its updates.
        sae_l1: its L1 penalty.
        pair_features: features of the SAE on input pairs.
        pair_steps: its updates.
        seed: of the weights, the batches and the SAEs.
    """
    steps_asked = {"sae_features": sae_features, "sae_steps": sae_steps}
    steps_asked |= {"pair_features": pair_features, "pair_steps": pair_steps}
    budget = replace(SMALL if small else Budget(), count=count, sae_l1=sae_l1, **_named(steps_asked))
    dataset = loaded("small_mnist" if small and data == "mnist" else data)
    asked = _named({"hidden": hidden, "epochs": epochs, "weight_decay": weight_decay, "noise": noise})
    layers = whole("layers", layers, 1)
    if layers > 1 and (unused := _named(steps_asked)):
        option = next(iter(unused)).replace("_", "-")
        raise BilensError(f"--layers {layers} with --{option}", "one layer: no SAE is trained on more", "leave it out")
    if model is not None:
        if layers > 1:
            raise BilensError(f"--model with --layers {layers}", "one of them: a model has its layers", "leave it out")
        if asked:
            option = next(iter(asked)).replace("_", "-")
            do = "leave one of them out"
            raise BilensError(f"--model with --{option}", "one of them: a given model is not trained", do)
        return _given(model, dataset, out, budget, mean=mean, std=std, seed=seed)
    if mean is not None or std is not None:
        raise BilensError(
            f"--{'std' if mean is None else 'mean'} without --model",
            "a model that was trained on standardised images",
            "leave it out: a model that is trained here sees raw images",
        )
    started = time.monotonic()
    training = replace(Training.usual(len(dataset.train.labels), layers), **asked)
    classifier = ImageClassifier(dataset.input, dataset.output, training.hidden, layers=layers, seed=seed)
    rounds, decay, noise = training.epochs, training.weight_decay, training.noise
    check_settings(epochs=rounds, weight_decay=decay, noise=noise, seed=seed)
    trained = {"epochs": rounds, "weight_decay": decay, "noise": noise}
    run = Folder(out, settings("demo", classifier, dataset, budget, seed) | {"training": trained})
    steps = Steps(1 + count_steps(dataset, layers))
    steps.begin("training the classifier")

    def train() -> History:
        history = models.train(
            classifier,
            dataset.train.images,
            dataset.train.labels,
            test_images=dataset.test.images,
            test_labels=dataset.test.labels,
            epochs=rounds,
            weight_decay=decay,
            noise=noise,
            seed=seed,
            checkpoint=run.path / "training.part",
        )
        classifier.save_pretrained(run.path / "model")
        return history

    known = run.has("training")
    history = run.record("training", History, train)
    discard(run.path / "training.part")
    read = ImageClassifier.from_pretrained(run.path / "model") if known else classifier
    summary = derive(read, dataset, run, budget, seed=seed, training=history, steps=steps)
    shape = {name: classifier.config[name] for name in ("hidden", "layers")}
    _compare(dataset, trained | shape | {"seed": seed}, time.monotonic() - started)
    return summary


def _given(
    model: Path,
    dataset: Dataset,
    out: Path,
    budget: Budget,
    *,
    mean: float | None,
    std: float | None,
    seed: int,
) -> dict[str, Any]:
    """Read a model that was trained elsewhere, and keep it in the folder as a function of raw images."""
    classifier, images = given.read(model, dataset, mean=mean, std=std)
    run = Folder(out, settings("demo", classifier, dataset, budget, seed) | read_from(classifier, images))
    given.look(classifier, model, dataset, images)
    classifier.save_pretrained(run.path / "model")
    return derive(classifier, dataset, run, budget, seed=seed)


def _compare(dataset: Dataset, settings: dict[str, Any], seconds: float) -> None:
    """Say which settings the numbers above belong to, and which numbers they can be compared with."""
    count = len(dataset.train.labels)
    console = Console(markup=False, highlight=False, soft_wrap=True)
    layers = "" if settings["layers"] == 1 else f"{settings['layers']} layers of "
    console.print(
        f"settings: {layers}{settings['hidden']:,} hidden units, noise {settings['noise']:g}, "
        f"{settings['epochs']} epochs over {count:,} training images of {dataset.name}, seed {settings['seed']}; "
        f"took {duration(seconds)}"
    )
    if settings["layers"] > 1:
        return
    console.print(
        "compare:  the table in the README is for 1,000 hidden units, no noise, all 60,000 training images of MNIST, "
        "and means over five seeds; what other settings give is in the documentation (Command line, What to expect)"
    )


def _named(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were named."""
    return {name: value for name, value in options.items() if value is not None}
