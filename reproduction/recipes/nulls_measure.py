"""Nulls and rivals of single results: drawn outputs, principal components, class means, hidden units, small layers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens import data, decompose, faithfulness, models, sae
from bilens.data import Split
from bilens.dictionary import Dictionary
from bilens.faithfulness import Curve
from bilens.models import ImageClassifier
from bilens.tensor import BilinearTensor
from reproduction.lab import Lab
from reproduction.measurement import Measurement
from reproduction.recipes import front_measure, masks, one_sample, output_sae, training
from reproduction.recipes.decompile_features import SCORED, Outputs, bases_of, by_class
from reproduction.recipes.front_measure import among, recovered
from reproduction.recipes.front_read import SHARED, Read, components_stored
from reproduction.recipes.full_decompile import IMPORTANCE, SHARES, decompiled
from reproduction.recipes.masks import Attack
from reproduction.recipes.rivals_measure import PRINCIPAL, principal

SPANS = SPAN_SAE, SPAN_DRAWN, SPAN_AXES = (
    "active atoms of the SAE on outputs",
    "as many outputs drawn at random",
    "as many principal components of the outputs",
)
"""What the layer's outputs are projected on, all with an offset and as many atoms."""

AXES = "principal components of the outputs"

KEPT_AXES = (10, 20, 30, 50)

EIGENVECTORS, UNITS = WAYS = ("eigenvectors", "hidden units")
"""What the terms of a margin belong to."""

WHOLE, FITTED, LARGEST, DRAWN, SCRATCH, EIGEN = SMALL = (
    "128 hidden units",
    "16 terms of CP",
    "its 16 largest hidden units",
    "16 products of random directions",
    "16 hidden units from scratch",
    "3 eigenvectors of each class",
)
"""Layers of digits that stand beside a sum of few terms."""


@torch.no_grad()
def measure(lab: Lab, seed: int) -> Measurement:
    """Every null of one seed; the model has 1,000 hidden units where no other is named."""
    read = Read.of(lab, seed)
    numbers: dict[str, float] = {
        "accuracy": read.own.accuracy,
        "cross-entropy": read.own.cross_entropy,
        "numbers of the layer": float(read.numbers),
    }
    spans, curve = through_spans(lab, read, seed)
    numbers |= spans | _terms(lab, read) | _by_class(lab, seed) | _masks(lab, seed)
    return Measurement.of(numbers | few_terms(lab, seed), [*_between(read, lab), curve])


def through_spans(lab: Lab, read: Read, seed: int) -> tuple[dict[str, float], Curve]:
    """The model through projections of its outputs on each of `SPANS`, and on ever more principal components."""
    _, train, test = output_sae.outputs(lab, seed)
    space, mean = read.hidden.output, train.double().mean(dim=0).to(train)
    axes = output_axes(train, mean)
    with torch.enable_grad():
        coder = output_sae.coder(lab, seed, output_sae.MAIN, train)
    active = sae.evaluate(coder, train).frequency > output_sae.ACTIVE
    count = int(active.sum())
    numbers = {"active atoms": float(count)}
    if count:  # in a quick run there may be none
        generator = torch.Generator().manual_seed(seed)
        drawn = train[torch.randperm(len(train), generator=generator)[:count]]
        spans = {
            SPAN_SAE: coder.dictionary(space, active),
            SPAN_DRAWN: Dictionary.from_atoms(drawn - mean, space, offset=mean),
            SPAN_AXES: Dictionary.from_atoms(axes[:count], space, offset=mean),
        }
        for name, dictionary in spans.items():
            score = read.score(dictionary.project(test) @ read.readout.T)
            numbers |= {
                f"rank, {name}": float(dictionary.rank),
                f"accuracy lost, {name}": read.own.accuracy - score.accuracy,
                f"recovered, {name}": recovered(score),
                f"numbers stored, {name}": float(components_stored(read, count) + read.classes),
            }
    kept = [k for k in KEPT_AXES if k <= len(axes)]
    scores = [read.score(((test - mean) @ axes[:k].T @ axes[:k] + mean) @ read.readout.T) for k in kept]
    stored = [components_stored(read, k) + read.classes for k in kept]
    return numbers, Curve.of(AXES, kept, scores, numbers=stored)


def output_axes(outputs: Float[Tensor, "n h"], mean: Float[Tensor, " h"]) -> Float[Tensor, "h h"]:
    """Principal components of outputs, largest variance first, by float64."""
    moment = torch.zeros(outputs.shape[1], outputs.shape[1], dtype=torch.float64)
    for part in torch.split(outputs, 4096):
        centred = (part - mean).double()
        moment += centred.T @ centred
    rows: Tensor = torch.linalg.eigh(moment).eigenvectors.T.flip(0).to(outputs).contiguous()
    return rows


def _between(read: Read, lab: Lab) -> list[Curve]:
    """The layer between the directions that its outputs share, and between the images' principal components."""
    kept = [k for k in front_measure.DIRECTIONS if k <= read.logits.input.dim]
    basis = decompose.input_basis(read.logits, kept[-1]).vectors
    return [among(read, SHARED, basis, kept), among(read, PRINCIPAL, principal(lab, kept[-1]), kept, SHARED)]


def _terms(lab: Lab, read: Read) -> dict[str, float]:
    """How many terms cover a margin, by eigenvectors of the difference kernel and by hidden units, in medians."""
    images, labels = read.images.double(), lab.dataset().test.labels
    chosen = read.answers.topk(2, dim=1).indices
    right = chosen[:, 0] == labels
    margins, counts, weights = one_sample.margin_terms(read.logits.to(torch.float64), images, chosen)
    found = {EIGENVECTORS: (counts, weights), UNITS: unit_terms(read.logits.to(torch.float64), images, chosen)}
    numbers = {}
    for group, members in zip(one_sample.GROUPS, (right, one_sample.alike(margins, right), ~right), strict=True):
        for way, (terms, sizes) in found.items():
            numbers[f"terms, {way}, {group}"] = float(terms[members].double().median())
            numbers[f"terms over margin, {way}, {group}"] = float((sizes / margins)[members].median())
    return numbers


def unit_terms(
    tensor: BilinearTensor, images: Float[Tensor, "n d"], chosen: Int[Tensor, "n 2"]
) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """How many hidden units cover the margin of each image, largest |term| first, and Σ|term|.

    The term of unit h is (D_ah − D_bh)(L_h·x)(R_h·x).
    """
    counts, weights = [], []
    for part, pair in zip(torch.split(images, 1000), torch.split(chosen, 1000), strict=True):
        x, down = tensor.input.fold(part), tensor.down[pair[:, 0]] - tensor.down[pair[:, 1]]
        terms = (x @ tensor.left.T) * (x @ tensor.right.T) * down
        counts.append(one_sample.covering(terms))
        weights.append(terms.abs().sum(dim=1))
    return torch.cat(counts), torch.cat(weights)


def _by_class(lab: Lab, seed: int) -> dict[str, float]:
    """Interactions read by class in the HOSVD basis, in its rotations and in principal components, h = 300."""
    model = lab.classifier(seed, hidden=lab.size(300, 40), epochs=lab.size(10, 6))
    size = lab.size(SCORED, 500)
    test = Split(lab.dataset().test.images[:size], lab.dataset().test.labels[:size])
    own = faithfulness.cross_entropy(model(test.images), test.labels)
    outputs: Outputs = by_class(model)
    numbers: dict[str, float] = {}
    for inputs in bases_of(lab, seed, model.hidden_tensor(), {}):
        found, _ = decompiled(inputs, outputs, test, own=own, orders=(IMPORTANCE,))
        for share in SHARES:
            at = f"{100 * share:g} % by {IMPORTANCE}"
            for what in ("needed for", "numbers stored for"):
                numbers[f"{what} {at}, {inputs.name} × {outputs.name}"] = found[f"{what} {at}"]
    return numbers


def _masks(lab: Lab, seed: int) -> dict[str, float]:
    """Differences of class means as masks beside masks from weights, with an embedding and without."""
    images, epochs, hidden = lab.dataset(), lab.size(10, 6), lab.size(*training.WIDTH)
    embedded = lab.classifier(seed, hidden=hidden, epochs=epochs, embedding=lab.size(*training.EMBEDDING))
    attack = Attack.on(embedded)
    plain = lab.classifier(seed, hidden=hidden, epochs=epochs).tensor().centered()
    weights = masks.misled(plain, masks.spectra_of(plain), images, seed)
    name = f"left, {masks.MASKS[0]}, {masks.STRENGTH} %, {masks.PAIRS[1]}"
    made, _ = masks.attacked(attack, images, seed)
    return {name: made[name], **masks.by_means(attack, images), **weights,
            f"misled, {masks.MEANS}": masks.misled_by_means(plain, images)}  # fmt: skip


def few_terms(lab: Lab, seed: int) -> dict[str, float]:
    """Test accuracy of layers of few terms beside the sum of few terms nearest to a layer of digits, 8 by 8 pixels."""
    digits = data.digits()

    def trained(hidden: int) -> BilinearTensor:
        model = ImageClassifier(digits.input, digits.output, hidden, bias=True, seed=seed)
        with torch.enable_grad():
            models.train(
                model, digits.train.images, digits.train.labels, epochs=lab.size(10, 6), lr=3e-3, weight_decay=0.1,
                seed=seed, device="cpu", progress=False,
            )  # fmt: skip
        return model.requires_grad_(False).tensor()

    whole = trained(128)
    fitted = decompose.cp(whole, rank=16, starts=0, steps=100, progress=False).tensor()
    norms = whole.left.norm(dim=1) * whole.right.norm(dim=1) * whole.down.norm(dim=0)
    largest = norms.argsort(descending=True)[:16]
    cut = BilinearTensor(whole.left[largest], whole.right[largest], whole.down[:, largest], whole.input, whole.output)
    layers: Mapping[str, BilinearTensor] = {
        WHOLE: whole, FITTED: fitted, LARGEST: cut, DRAWN: random_terms(whole, 16, seed), SCRATCH: trained(16),
    }  # fmt: skip
    images, labels = digits.test.images, digits.test.labels
    numbers = {
        f"accuracy of digits, {name}": faithfulness.accuracy(layer(images), labels) for name, layer in layers.items()
    }
    centred = whole.centered()
    spectra = [decompose.eigh(centred.kernel(o), 3) for o in range(centred.output.size)]
    logits = torch.stack([spectrum.reconstruct(images) for spectrum in spectra], dim=1)
    return numbers | {f"accuracy of digits, {EIGEN}": faithfulness.accuracy(logits, labels)}


def random_terms(tensor: BilinearTensor, count: int, seed: int) -> BilinearTensor:
    """Products of random directions of the input, sent where least squares on the tensor sends them.

    min_D ‖B − Σ_r d_r ⊗ sym(a_r ⊗ b_r)‖: G D = C with G_rs = ½((a_r·a_s)(b_r·b_s) + (a_r·b_s)(b_r·a_s)) and C_ro =
    B_o(a_r, b_r).
    """
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, count, tensor.input.dim, generator=generator).double()
    gram = ((a @ a.T) * (b @ b.T) + (a @ b.T) * (b @ a.T)) / 2
    left, right, down = (part.double() for part in (tensor.left, tensor.right, tensor.down))
    values = ((a @ left.T) * (b @ right.T) + (a @ right.T) * (b @ left.T)) / 2 @ down.T
    rows = torch.linalg.solve(gram, values)
    a, b, down = a.to(tensor.left), b.to(tensor.left), rows.T.to(tensor.left)
    return BilinearTensor(a, b, down, tensor.input, tensor.output)
