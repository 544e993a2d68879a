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
from reproduction.recipes.front_read import COMPONENTS, SHARED, Read, components_stored, shared_stored, units_stored
from reproduction.recipes.full_decompile import SCORED

SCRATCH = "layers trained from scratch"
PRINCIPAL = "principal components of the images"
FITTED = "layers trained on principal components"

DECAYS = (1.0, 0.0)
"""Weight decays of what is trained anew: the model's own, and the one with which layers of the programme do best."""

DIRECTIONS = (10, 20, 30, 50, 80, 150, 239)
"""Shared directions that a layer from scratch stands beside, the widest that stores no more."""

TRAINED_ON = (20, 50)
"""Principal components that a layer is trained on."""

EVERY = 100
"""SVD components are scored at every number up to this one: as many as an SAE has active atoms."""

SMALL = 300
"""Hidden units of the models whose active eigenvectors are counted."""

SHUFFLED, UNTRAINED = "trained on shuffled labels", "untrained"

SUBJECTS = ("trained", SHUFFLED, UNTRAINED)
"""Models of one size whose active eigenvectors are counted."""

BESIDE = (50, 80)
"""Places in `DIRECTIONS` whose layers from scratch stand beside the interactions of the smaller model."""


def scratch(decay: float) -> str:
    """The name of the curve of layers that are trained from scratch."""
    return f"{SCRATCH}, weight decay {decay:g}"


@torch.no_grad()
def measure(lab: Lab, seed: int) -> Measurement:
    """One seed's model with its layer replaced by every rival, and what models without training or sense give."""
    read = Read.of(lab, seed)
    numbers: dict[str, float] = {
        "accuracy": read.own.accuracy,
        "cross-entropy": read.own.cross_entropy,
        "numbers of the layer": float(read.numbers),
        "hidden units": float(read.hidden.output.size),
    }
    curves = [*_directions(lab, read), _components(read)]
    for part, drawn in (_from_scratch(lab, read, seed), _on_principal(lab, read, seed)):
        numbers |= part
        curves += drawn
    numbers |= (
        _beside_small(lab, seed) | _active(lab, seed) | _untrained_terms(lab, seed) | _untrained_tables(lab, seed)
    )
    return Measurement.of(numbers, curves)


def sizes(lab: Lab, read: Read) -> dict[int, int]:
    """Hidden units of the layers that are trained from scratch, by the directions that they stand beside."""
    width = units_stored(read, 1)
    kept = (k for k in DIRECTIONS if k <= lab.size(DIRECTIONS[-1], 20) and k <= read.logits.input.dim)
    return {k: shared_stored(read, k) // width for k in kept}


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


def _components(read: Read) -> Curve:
    """SVD components, whole, at every number up to `EVERY`."""
    kept = list(range(1, min(EVERY, read.hidden.output.size) + 1))
    rows = decompose.svd(read.hidden, kept[-1]).outputs
    effects, codes = rows @ read.readout.T, read.hidden(read.images) @ rows.T
    scores = [read.score(codes[:, :k] @ effects[:k]) for k in kept]
    return Curve.of(COMPONENTS, kept, scores, numbers=[components_stored(read, k) for k in kept])


def _from_scratch(lab: Lab, read: Read, seed: int) -> tuple[dict[str, float], list[Curve]]:
    """Smaller layers trained on the same images in the same order."""
    numbers: dict[str, float] = {}
    curves = []
    widths = sizes(lab, read)
    for decay in DECAYS:
        scores = []
        for k, h in widths.items():
            model = lab.classifier(seed, hidden=h, epochs=lab.size(10, 6), weight_decay=decay)
            scores.append(read.score(model(read.images)))
            at = f"{h} hidden units from scratch, weight decay {decay:g}"
            numbers[f"accuracy lost, {at}"] = read.own.accuracy - scores[-1].accuracy
            numbers[f"recovered, {at}"] = recovered(scores[-1])
            numbers[f"directions beside {h}"] = float(k)
        kept = list(widths.values())
        stored = [units_stored(read, h) for h in kept]
        curves.append(Curve.of(scratch(decay), kept, scores, numbers=stored, beside=SHARED))
    return numbers, curves


def _on_principal(lab: Lab, read: Read, seed: int) -> tuple[dict[str, float], list[Curve]]:
    """Layers as wide as the model's on principal components alone; stored, once read, as shared directions are."""
    kept = [k for k in TRAINED_ON if k in sizes(lab, read)]
    rows = principal(lab, kept[-1])
    train = lab.dataset().train
    curves = []
    for decay in DECAYS:
        scores = []
        for k in kept:
            model = ImageClassifier(
                Space("principal components", k), read.logits.output, read.hidden.output.size, seed=seed
            )
            name = f"principal-{k}-{decay:g}-{seed}"
            trained = fitted(lab, name, model, train.images @ rows[:k].T, train.labels, seed, decay)
            scores.append(read.score(trained(read.images @ rows[:k].T)))
        stored = [shared_stored(read, k) for k in kept]
        curves.append(Curve.of(f"{FITTED}, weight decay {decay:g}", kept, scores, numbers=stored, beside=SHARED))
    return {}, curves


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


def _beside_small(lab: Lab, seed: int) -> dict[str, float]:
    """Layers from scratch beside the model whose interactions are counted, on as many test images."""
    hidden, epochs = lab.size(SMALL, 30), lab.size(10, 6)
    size = lab.size(SCORED, 500)
    test = lab.dataset().test
    images, labels = test.images[:size], test.labels[:size]
    whole = lab.classifier(seed, hidden=hidden, epochs=epochs)
    own = faithfulness.cross_entropy(whole(images), labels)
    big = Read.of(lab, seed)
    numbers = {}
    for k, h in sizes(lab, big).items():
        if k in BESIDE:
            scores = [
                faithfulness.score(
                    lab.classifier(seed, hidden=h, epochs=epochs, weight_decay=decay)(images), labels, own
                )
                for decay in DECAYS
            ]
            best = max(recovered(score) for score in scores)
            numbers[f"recovered of a model of {hidden} hidden units by {h} from scratch"] = best
            numbers[f"numbers stored by {h} hidden units"] = float(units_stored(big, h))
    return numbers


def _active(lab: Lab, seed: int) -> dict[str, float]:
    """Active eigenvectors and the effective rank of a trained model, of one of shuffled labels, and untrained."""
    hidden = lab.size(SMALL, 30)
    data = lab.dataset()
    order = torch.randperm(len(data.train.labels), generator=torch.Generator().manual_seed(seed))
    new = ImageClassifier(data.input, data.output, hidden, seed=seed).eval().requires_grad_(False)
    shuffled = fitted(
        lab, f"shuffled-{hidden}-{seed}", ImageClassifier(data.input, data.output, hidden, seed=seed),
        data.train.images, data.train.labels[order], seed, 1.0,
    )  # fmt: skip
    found: Mapping[str, ImageClassifier] = dict(
        zip(SUBJECTS, (lab.classifier(seed, hidden=hidden, epochs=lab.size(10, 6)), shuffled, new), strict=True)
    )
    numbers = {}
    for subject, model in found.items():
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
