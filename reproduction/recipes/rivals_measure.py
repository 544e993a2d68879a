"""Layers trained from scratch, and on principal components, scored as the front scores its ways."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from bilens import decompose, faithfulness, models
from bilens.faithfulness import Curve
from bilens.models import ImageClassifier
from bilens.space import Space
from reproduction.lab import Lab
from reproduction.measurement import Measurement
from reproduction.recipes.decompile_features import SCORED
from reproduction.recipes.front_measure import recovered
from reproduction.recipes.front_read import SHARED, Read, shared_stored, units_stored

SCRATCH = "layers trained from scratch"
FITTED = "layers trained on principal components"

DECAY = 0.0
"""Weight decay of what is trained anew: without it small layers do far better than with the model's own."""

HIDDEN = 300
"""Hidden units of the model that they stand beside here; the headline sets them beside the front's."""

DIRECTIONS = (20, 30, 50, 80)
"""Shared directions that a layer from scratch stands beside, the widest that stores no more."""

TRAINED_ON = 50
"""Principal components that a layer is trained on."""

BESIDE = (50, 80)
"""Places in `DIRECTIONS` whose layers from scratch stand beside the interactions of the model."""


@torch.no_grad()
def measure(lab: Lab, seed: int) -> Measurement:
    """What was trained anew with the seed of one model, beside it."""
    read = Read.of(lab, seed, lab.size(HIDDEN, 30))
    numbers: dict[str, float] = {
        "accuracy": read.own.accuracy,
        "cross-entropy": read.own.cross_entropy,
        "numbers of the layer": float(read.numbers),
    }
    layers = {h: lab.classifier(seed, hidden=h, epochs=lab.size(10, 6), weight_decay=DECAY) for h in sizes(lab, read)}
    curves = [_from_scratch(read, layers), _on_principal(lab, read, seed)]
    numbers |= {f"directions beside {h}": float(k) for h, k in sizes(lab, read).items()}
    return Measurement.of(numbers | _beside_interactions(lab, read, layers), curves)


def sizes(lab: Lab, read: Read) -> dict[int, int]:
    """The directions that a layer from scratch stands beside, by its hidden units."""
    width = units_stored(read, 1)
    kept = (k for k in DIRECTIONS if k <= lab.size(DIRECTIONS[-1], 20) and k <= read.logits.input.dim)
    return {shared_stored(read, k) // width: k for k in kept}


def principal(lab: Lab, count: int) -> Float[Tensor, "k d"]:
    """The first principal components of the training images, about 0 as the layer is: eigenvectors of E(x xᵀ)."""
    images = lab.dataset()
    moment = decompose.second_moment(images.train.images, images.input)
    rows: Tensor = torch.linalg.eigh(moment).eigenvectors.T.flip(0)[:count].float().contiguous()
    return rows


def _from_scratch(read: Read, layers: Mapping[int, ImageClassifier]) -> Curve:
    """Smaller layers trained on the same images in the same order."""
    scores = [read.score(model(read.images)) for model in layers.values()]
    stored = [units_stored(read, h) for h in layers]
    return Curve.of(SCRATCH, list(layers), scores, numbers=stored, beside=SHARED)


def _on_principal(lab: Lab, read: Read, seed: int) -> Curve:
    """A layer as wide as the model's on principal components alone; stored, once read, as shared directions are."""
    k = lab.size(TRAINED_ON, 20)
    rows = principal(lab, k)
    train = lab.dataset().train
    folder = lab.run.path / "models" / f"principal-{k}-{DECAY:g}-{seed}"
    if not (folder / "config.json").exists():
        space = Space("principal components", k)
        made = ImageClassifier(space, read.logits.output, read.hidden.output.size, seed=seed)
        checkpoint = folder.with_suffix(".part")
        models.train(
            made, train.images @ rows.T, train.labels, epochs=lab.size(10, 6), weight_decay=DECAY, seed=seed,
            checkpoint=checkpoint,
        )  # fmt: skip
        made.cpu().save_pretrained(folder)
        checkpoint.unlink(missing_ok=True)
    trained = ImageClassifier.from_pretrained(folder).eval().requires_grad_(False)
    score = read.score(trained(read.images @ rows.T))
    return Curve.of(FITTED, [k], [score], numbers=[shared_stored(read, k)], beside=SHARED)


def _beside_interactions(lab: Lab, read: Read, layers: Mapping[int, ImageClassifier]) -> dict[str, float]:
    """Layers from scratch beside the interactions of the same model, on as many test images."""
    images, labels = read.images[: lab.size(SCORED, 500)], read.labels[: lab.size(SCORED, 500)]
    own = faithfulness.cross_entropy(read.model(images), labels)
    places = sizes(lab, read)
    return {
        f"recovered beside interactions, {h} hidden units": recovered(faithfulness.score(model(images), labels, own))
        for h, model in layers.items()
        if places[h] in BESIDE
    }
