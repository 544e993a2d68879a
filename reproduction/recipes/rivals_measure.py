"""Layers trained from scratch, principal components and untrained models, scored as the front scores its ways."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from bilens import decompose, faithfulness, models, pairs, sae
from bilens.data import Split
from bilens.faithfulness import Curve
from bilens.models import ImageClassifier
from bilens.space import Space
from reproduction.lab import Lab
from reproduction.measurement import Measurement
from reproduction.recipes import boolean, digit_directions, front_measure, one_sample, pair_sae
from reproduction.recipes.boolean import Task
from reproduction.recipes.decompile_features import SCORED
from reproduction.recipes.front_measure import among, recovered
from reproduction.recipes.front_read import SHARED, Read, shared_stored, units_stored

SCRATCH = "layers trained from scratch"
PRINCIPAL = "principal components of the images"
FITTED = "layers trained on principal components"

DECAY = 0.0
"""Weight decay of what is trained anew: without it small layers do far better than with the model's own."""

HIDDEN = 300
"""Hidden units of the model that is read between principal components, and whose active eigenvectors are counted."""

DIRECTIONS = (20, 30, 50, 80)
"""Shared directions that a layer from scratch stands beside, the widest that stores no more."""

TRAINED_ON = 50
"""Principal components that a layer is trained on."""

TRAINED, NEXT, PERMUTED, UNTRAINED = SUBJECTS = (
    "trained",
    "trained, the next digit's images",
    "trained, pixels permuted",
    "untrained",
)
"""Models, and images that they are shown, whose active eigenvectors are counted."""

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
    numbers |= shared_by_pairs(lab, read)
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
    rows: Tensor = torch.linalg.eigh(moment).eigenvectors.T.flip(0)[:count].float().contiguous()
    return rows


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


def _active(lab: Lab, read: Read, seed: int) -> dict[str, float]:
    """Active eigenvectors of the model, on its digits' images and on others, and of a model that was not trained."""
    data = lab.dataset()
    images, labels = data.test.images, data.test.labels
    order = torch.randperm(images.shape[1], generator=torch.Generator().manual_seed(seed))
    new = ImageClassifier(data.input, data.output, read.hidden.output.size, seed=seed)
    own = digit_directions.spectra_of(read.logits)
    others = digit_directions.spectra_of(new.tensor().centered())
    numbers: dict[str, float] = {}
    for subject, spectra, shown in (
        (TRAINED, own, data.test),
        (NEXT, own, Split(images, (labels - 1) % read.classes)),
        (PERMUTED, own, Split(images[:, order], labels)),
        (UNTRAINED, others, data.test),
    ):
        counts = digit_directions.activations(spectra, shown)
        rank = sum(spectrum.participation_ratio() for spectrum in spectra) / len(spectra)
        numbers |= {f"{name}, {subject}": value for name, value in (counts | {"effective rank": rank}).items()}
    return numbers


def shared_by_pairs(lab: Lab, read: Read) -> dict[str, float]:
    """Errors of as many directions that all pairs share as an SAE on pairs has codes for each, by least squares.

    min Σ_t p_t ‖v_t − P v_t‖² over projections P of this rank, for each pair vector v and each weight p that the pair
    SAE has: the first eigenvectors of Σ_t p_t v_t v_tᵀ. Errors are on all pairs alike, and on the layer's outputs g,
    which become P g.
    """
    tensor, k = read.hidden, lab.size(pair_sae.K, 5)
    outputs = tensor(read.images[: pair_sae.OUTPUT_SAMPLES])
    weights = {
        "uniform": torch.ones(pairs.count(tensor.input.dim)),
        "norm": pairs.norms(tensor),
        "second moment": pairs.second_moments(tensor.input.fold(lab.dataset().train.images)),
    }
    numbers = {}
    kinds: Mapping[str, pairs.Kind] = {"r_ij": "polarized", "u_ij": "two_hot"}
    for vector, kind in kinds.items():
        stream = pairs.stream(tensor, kind=kind, batch_size=8192, shuffle=False)
        moments = {name: torch.zeros(stream.width, stream.width, dtype=torch.float64) for name in weights}
        for n in range(len(stream)):
            vectors, start = stream.batch(n), n * stream.batch_size
            for name, values in weights.items():
                chances = (values[start : start + len(vectors)] / values.max()).to(vectors)
                moments[name] += (vectors.T @ (chances[:, None] * vectors)).double()
        alike = moments["uniform"]
        for name, moment in moments.items():
            rows = torch.linalg.eigh(moment).eigenvectors.T.flip(0)[:k]
            kept = ((rows @ alike) * rows).sum() / alike.diagonal().sum()
            numbers[f"NMSE on pairs, {vector}, {name}"] = 1 - float(kept)
            projected = outputs.double() @ rows.T @ rows
            numbers[f"NMSE on outputs, {vector}, {name}"] = float(sae.nmse(outputs.double(), projected))
    return numbers


def _untrained_terms(lab: Lab, seed: int) -> dict[str, float]:
    """How many eigenvector terms cover the margin of an untrained model's own predictions, median over test images."""
    data = lab.dataset()
    model = ImageClassifier(data.input, data.output, lab.size(1000, 60), seed=seed).requires_grad_(False)
    tensor, images = model.tensor().centered(), data.test.images
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
