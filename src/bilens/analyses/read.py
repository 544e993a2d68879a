"""Reads a model's features from its weights: an image classifier's by every analysis, a language model's by layer."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from bilens import data as datasets
from bilens.analyses import _given as given
from bilens.analyses import _language_read as language
from bilens.analyses import _samples as samples
from bilens.analyses import _several as several
from bilens.analyses import _summary as summary
from bilens.analyses import table
from bilens.analyses._given import Standardization
from bilens.analyses.settings import Budget
from bilens.analyses.subject import Subject, of_classifier
from bilens.data import Dataset
from bilens.errors import BilensError
from bilens.features import Samples
from bilens.history import History
from bilens.models import ImageClassifier
from bilens.progress import Steps, bar
from bilens.store import Folder
from bilens.tensor import BilinearTensor

DataName = Literal["mnist", "small_mnist", "fashion_mnist", "digits"]


DEFAULTS = {"layers": "the middle one", "inputs": "token embeddings"}
"""What an option is when it is not given, in words."""


def read(
    checkpoint: Path,
    /,
    out: Path = Path("runs/read"),
    *,
    layers: str | None = None,
    directions: tuple[str, ...] = (),
    inputs: str | None = None,
    text: tuple[Path, ...] = (),
    tokens: int | None = None,
    data: DataName | None = None,
    mean: float | None = None,
    std: float | None = None,
    count: int = Budget.count,
    sae_features: int = Budget.sae_features,
    sae_steps: int = Budget.sae_steps,
    sae_l1: float = Budget.sae_l1,
    pair_features: int = Budget.pair_features,
    pair_steps: int = Budget.pair_steps,
    seed: int = 0,
) -> dict[str, Any]:
    """Read the features of an image classifier, or of layers of a language model, from the weights.

    Example: bilens read runs/mnist/model --data mnist --out runs/again
    Example: bilens read runs/smollm2 --layers 12 --text essays --out runs/smol

    Args:
        checkpoint: of a classifier, the folder with config.json and model.safetensors, from bilens or in the layout
            that the authors of bilinear MLPs publish; of a language model, a folder, a GGUF file or a name on the hub.
        out: folder for the results; the same command run again continues there.
        layers: of a language model: 12, or 3,5 or 3-8, or all.
        directions: of a language model: what is read of what a layer writes, tokens or folders of coders (default:
            tokens); random directions are always read beside them.
        inputs: of a language model: what its input is made of, the folder of an SAE of what the MLP takes, or train
            to train a small one on the text.
        text: of a language model: files and folders of text to fit, measure and show it on; without any, only what the
            weights alone give.
        tokens: of a language model: of text, at most (default: 20,000).
        data: of a classifier: images to train the SAE on outputs with and to measure faithfulness on; without them,
            only what the weights alone give.
        mean: of the images that the model was trained on, when they were standardised, (x - mean) / std; folded into
            the weights (default: image_mean of the checkpoint's config, else 0).
        std: goes with it (default: image_std of the checkpoint's config, else 1).
        count: features of each set to draw.
        sae_features: features of the SAE on the layer's outputs.
        sae_steps: its updates.
        sae_l1: its L1 penalty.
        pair_features: features of the SAE on input pairs.
        pair_steps: its updates.
        seed: of the SAEs.
    """
    budget = Budget(
        count=count,
        sae_features=sae_features,
        sae_steps=sae_steps,
        sae_l1=sae_l1,
        pair_features=pair_features,
        pair_steps=pair_steps,
    )
    if language.is_language(checkpoint):
        given_too = {"--data": data, "--mean": mean, "--std": std, "the analyses of a classifier": budget != Budget()}
        refuse({name: value for name, value in given_too.items() if value not in (None, False)}, "an image classifier")
        return language.read(
            str(checkpoint),
            out,
            layers=layers,
            directions=directions,
            inputs=inputs,
            text=text,
            tokens=tokens,
            seed=seed,
        )
    own = {"--layers": layers, "--directions": directions, "--inputs": inputs, "--text": text, "--tokens": tokens}
    refuse({name: value for name, value in own.items() if value not in (None, ())}, "a language model")
    dataset = None if data is None else loaded(data)
    model, images = given.read(checkpoint, dataset, mean=mean, std=std)
    run = Folder(out, settings("read", model, dataset, budget, seed) | read_from(model, images))
    if dataset is not None:
        given.look(model, checkpoint, dataset, images)
    return derive(model, dataset, run, budget, seed=seed)


def refuse(strange: dict[str, Any], kind: str) -> None:
    """Refuse options of the other kind of model."""
    if strange:
        raise BilensError(f"{next(iter(strange))} for another kind of model", f"that option with {kind} alone")


@bar("reading the images")
def loaded(name: str) -> Dataset:
    """The data set of this name."""
    return datasets.load(name)


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
    """Features by every analysis, their figures, `summary.json` and `report.html` in the run's folder.

    The model's spaces are the data's, see `ImageClassifier.over`. The steps are those of the whole job, when it began
    before this.
    """
    if model.config["layers"] > 1:
        return several.derive(model, dataset, run, budget, training=training, steps=steps)
    model = model.eval().requires_grad_(False).cpu()
    subject = of_classifier(model, dataset, budget, seed)
    # First, so that the page of a run that was stopped can compute with them.
    factors = run.record("logits", BilinearTensor, lambda: subject.outputs)
    steps = steps or Steps(count_steps(dataset))
    sets = table.read(subject, run, table.possible(inputs=dataset is not None), steps)
    steps.begin("figures and the page")
    shown = None if dataset is None else run.record("samples", Samples, lambda: samples.shown(subject, sets))
    facts = about(model, dataset, subject)
    return summary.write(subject, sets, run, about=facts, factors=factors, samples=shown, training=training)


def about(model: ImageClassifier, dataset: Dataset | None, subject: Subject) -> dict[str, Any]:
    """What the summary says of the model and its data, as JSON."""
    tensor, original = subject.hidden, subject.original
    facts: dict[str, Any] = {
        "model": {
            "inputs": tensor.input.size,
            "hidden": model.config["hidden"],
            "outputs": model.output.size,
            "parameters": subject.numbers,
            "tensor_numbers_factored": tensor.numel,
            "tensor_numbers_dense": tensor.dense_numel,
        },
    }
    if dataset is not None and original is not None:
        facts["model"] |= {"test_accuracy": original.accuracy, "test_cross_entropy": original.cross_entropy}
        facts["data"] = {
            "name": dataset.name,
            "source": dataset.source,
            "train": len(dataset.train.labels),
            "test": len(dataset.test.labels),
        }
    return facts


def count_steps(dataset: Dataset | None, layers: int = 1) -> int:
    """How many steps `derive` has."""
    if layers > 1:
        return several.count_steps(layers)
    return 1 + len(table.possible(inputs=dataset is not None))
