"""Layers trained from scratch, principal components and untrained models, scored as the front scores its ways."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens import decompose, faithfulness, models
from bilens.checkpoint import discard
from bilens.faithfulness import Curve
from bilens.models import ImageClassifier
from bilens.space import Space
from reproduction.lab import Lab
from reproduction.measurement import Measurement
from reproduction.recipes import boolean, digit_directions, front_measure, one_sample
from reproduction.recipes.boolean import Task
from reproduction.recipes.front_measure import among, recovered
from reproduction.recipes.front_read import SHARED, Read, shared_stored, units_stored
from reproduction.recipes.full_decompile import SCORED

SCRATCH = "layers trained from scratch"
PRINCIPAL = "principal components of the images"
FITTED = "layers trained on principal components"

DECAY = 0.0
"""Weight decay of what is trained anew: without it small layers do far better than with the model's own."""

HIDDEN = 300
"""Hidden units of the model that is read between principal components, and whose active eigenvectors are counted."""

DIRECTIONS = (10, 20, 30, 50, 80, 150, 239)
"""Shared directions that a layer from scratch stands beside, the widest that stores no more."""

TRAINED_ON = 50
"""Principal components that a layer is trained on."""

SHUFFLED, UNTRAINED = "trained on shuffled labels", "untrained"

SUBJECTS = ("trained", SHUFFLED, UNTRAINED)
"""Models of one size whose active eigenvectors are counted."""

BESIDE = (50, 80)
"""Places in `DIRECTIONS` whose layers from scratch stand beside the interactions of the model."""


@torch.no_grad()
def measure(lab: Lab, seed: int) -> Measurement:
    """One seed's model between directions, what was trained anew, and models without training or sense."""
    read = Read.of(lab, seed, lab.size(HIDDEN, 30))
    numbers: dict[str, float] = {
        "accuracy": read.own.accuracy,
        "cross-entropy": read.own.cross_entropy,
        "numbers of the layer": float(read.numbers),
    }
    layers = {h: lab.classifier(seed, hidden=h, epochs=lab.size(10, 6), weight_decay=DECAY) for h in sizes(lab, read)}
    curves = [*_directions(lab, read), _from_scratch(read, layers), _on_principal(lab, read, seed)]
    numbers |= {f"directions beside {h}": float(k) for h, k in sizes(lab, read).items()}
    numbers |= _beside_interactions(lab, read, layers) | _active(lab, read, seed)
    return Measurement.of(numbers | _untrained_terms(lab, seed) | _untrained_tables(lab, seed), curves)


def sizes(lab: Lab, read: Read) -> dict[int, int]:
    """The directions that a layer from scratch stands beside, by its hidden units."""
    width = units_stored(read, 1)
    kept = (k for k in DIRECTIONS if k <= lab.size(DIRECTIONS[-1], 20) and k <= read.logits.input.dim)
    return {shared_stored(read, k) // width: k for k in kept}


def principal(lab: Lab, count: int) -> Float[Tensor, "k d"]:
    """The first principal components of the training images, about 0 as the layer is: eigenvectors of E(x xᵀ)."""
    images = lab.dataset()
    moment = decompose.second_moment(images.train.images, images.input)
    return torch.linalg.eigh(moment).eigenvectors.T.flip(0)[:count].float().contiguous()


def _directions(lab: Lab, read: Read) -> list[Curve]:
    """The layer between the directions that its outputs share, and between the images' principal components."""
    kept = sorted(k for k in {*front_measure.DIRECTIONS, *DIRECTIONS} if k <= read.logits.input.dim)
    basis = decompose.input_basis(read.logits, kept[-1]).vectors
    return [among(read, SHARED, basis, kept), among(read, PRINCIPAL, principal(lab, kept[-1]), kept, SHARED)]


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
    model = ImageClassifier(Space("principal components", k), read.logits.output, read.hidden.output.size, seed=seed)
    trained = fitted(lab, f"principal-{k}-{DECAY:g}-{seed}", model, train.images @ rows.T, train.labels, seed, DECAY)
    score = read.score(trained(read.images @ rows.T))
    return Curve.of(FITTED, [k], [score], numbers=[shared_stored(read, k)], beside=SHARED)


def fitted(  # noqa: PLR0917 (what one model is made from)
    lab: Lab, name: str, model: ImageClassifier, images: Float[Tensor, "n d"], labels: Int[Tensor, " n"], seed: int,
    weight_decay: float,
) -> ImageClassifier:  # fmt: skip
    """A model trained on images, or labels, that no data set has: read from the folder, or trained and kept there."""
    folder = lab.run.path / "models" / name
    if not (folder / "config.json").exists():
        checkpoint = lab.run.path / "models" / f"{name}.part"
        models.train(
            model, images, labels, epochs=lab.size(10, 6), weight_decay=weight_decay, seed=seed, checkpoint=checkpoint
        )
        model.cpu().save_pretrained(folder)
        discard(checkpoint)
    return ImageClassifier.from_pretrained(folder).eval().requires_grad_(False)


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


def _active(lab: Lab, read: Read, seed: int) -> dict[str, float]:
    """Active eigenvectors and the effective rank of a trained model, of one of shuffled labels, and untrained."""
    data, hidden = lab.dataset(), read.hidden.output.size
    order = torch.randperm(len(data.train.labels), generator=torch.Generator().manual_seed(seed))
    new, other = (ImageClassifier(data.input, data.output, hidden, seed=seed) for _ in range(2))
    name = f"shuffled-{hidden}-{seed}"
    shuffled = fitted(lab, name, other, data.train.images, data.train.labels[order], seed, 1.0)
    numbers = {}
    for subject, model in zip(SUBJECTS, (read.model, shuffled, new), strict=True):
        spectra = digit_directions.spectra_of(model.tensor().centered())
        counts = digit_directions.activations(spectra, data.test)
        rank = sum(spectrum.effective_rank() for spectrum in spectra) / len(spectra)
        numbers |= {f"{name}, {subject}": value for name, value in (counts | {"effective rank": rank}).items()}
    return numbers


def _untrained_terms(lab: Lab, seed: int) -> dict[str, float]:
    """How many eigenvector terms cover the margin of an untrained model's own predictions, median over test images."""
    data = lab.dataset()
    model = ImageClassifier(data.input, data.output, lab.size(1000, 60), seed=seed).requires_grad_(False)
    tensor = model.tensor().to(torch.float64).centered()
    images = data.test.images.double()
    chosen = tensor(images).topk(2, dim=1).indices
    margins, terms, weights = one_sample.margin_terms(tensor, images, chosen)
    return {
        "terms, untrained": float(terms.double().median()),
        "terms over margin, untrained": float((weights / margins).median()),
    }


def _untrained_tables(lab: Lab, seed: int) -> dict[str, float]:
    """Functions read right from the weights of a layer that nothing was trained on, by chance."""
    task = Task.of(lab.size(8, 5))
    n = task.inputs.shape[1]
    numbers = {}
    for d in boolean.dimensions(n):
        embedding = boolean.superposed(n, d, seed)
        for name, share in boolean.SHARES.items():
            tensor = boolean.train(task, embedding, share, hidden=lab.size(64, 24), steps=0, seed=seed)
            parts = [boolean.multilinear(split) for split in boolean.splits(tensor)]
            numbers[f"recovered, {d}, {name}, {UNTRAINED}"] = boolean.recovered(task, parts, share)[0]
    return numbers
