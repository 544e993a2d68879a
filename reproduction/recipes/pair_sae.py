"""An SAE over the pair vectors of the layer, and the model replaced by its features (N7)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from bilens import decompose, faithfulness, matching, pairs, plots, sae
from bilens.features import FeatureSet
from bilens.models import ImageClassifier
from bilens.pair_coding import evaluate_pairs
from bilens.pairs import PairCodes
from bilens.sae import SAE, StandardSAE, Stream, TopKSAE
from bilens.space import Space
from bilens.tensor import BilinearTensor
from reproduction import charts
from reproduction.lab import Claim, Lab, Recipe
from reproduction.measurement import Measurement
from reproduction.recipes import output_sae


@dataclass(frozen=True)
class Variant:
    """Which pairs an SAE is trained on, and which SAE.

    Args:
        hidden: h of the layer; steps: updates of 1,024 pairs; both for full MNIST.
        two_hot: the draft's u_ij instead of r_ij; weights: how often a pair is drawn.
        relu: ReLU with an L1 penalty instead of TopK.
    """

    hidden: int = 300
    steps: int = 400
    two_hot: bool = False
    weights: Literal["uniform", "norm", "second moment"] = "uniform"
    relu: bool = False


MAIN = "r_ij, TopK, uniform, h = 1000"

RELU = "r_ij, ReLU, uniform"

VARIANTS: Mapping[str, Variant] = {
    MAIN: Variant(1000, 1600),
    **{
        f"{vector}, TopK, {weights}": Variant(two_hot=vector == "u_ij", weights=weights)
        for vector in ("r_ij", "u_ij")
        for weights in ("uniform", "norm", "second moment")
    },
    RELU: Variant(steps=1200, relu=True),
}
"""N7's size first; then every other choice side by side at h = 300, where no size is named."""

K = 30
"""Features kept for a pair by TopK."""

L1 = 2.5
"""L1 penalty of the ReLU SAE, for vectors scaled to a mean squared norm of d_in."""

OUTPUT_SAMPLES = 2000
"""Test images on which whole layer outputs are compared; logits are compared on all of them."""

PICTURED = 10
"""Features whose kernels are kept for pictures."""

COMPARED = {"SVD components": 20, "digit directions": 10, "SAE features on outputs": None}
"""Other features that the pair features are matched with, and how many of them, None for all that are active."""


def measure(lab: Lab, seed: int) -> Measurement:
    """Sparsity and error on pairs, and the model replaced by the features, for every variant."""
    numbers: dict[str, float] = {}
    views: list[FeatureSet] = []
    for name, variant in VARIANTS.items():
        model, tensor, coder, codes = trained(lab, seed, name)
        found = scores(lab, model, tensor, coder, codes, variant.two_hot)
        if name == MAIN:
            views = [_view(lab, model, codes, coder)]
            found |= matches(lab, seed, model, coder.W_dec.detach()[torch.unique(codes.features.long())])
        numbers |= {f"{key}, {name}": value for key, value in found.items()}
    return Measurement.of(numbers, (), views)


def trained(lab: Lab, seed: int, name: str) -> tuple[ImageClassifier, BilinearTensor, SAE, PairCodes]:
    """The model, its layer, the SAE of a variant trained on the layer's pairs, and its codes of all of them."""
    variant = VARIANTS[name]
    model = lab.classifier(seed, hidden=lab.size(variant.hidden, 40), epochs=lab.size(10, 6))
    tensor = model.hidden_tensor()
    features = lab.size(5000, 100)
    coder = StandardSAE if variant.relu else partial(TopKSAE, k=lab.size(K, 5))
    made: StandardSAE | TopKSAE = coder(tensor.output.size, features, seed=seed)
    checkpoint = lab.run.path / "models" / f"pair-sae-{seed}-{list(VARIANTS).index(name)}.part"
    sae.train(
        made,
        _stream(lab, tensor, variant, seed),
        steps=lab.size(variant.steps, 60),
        l1=L1 if variant.relu else 0.0,
        checkpoint=checkpoint,
        title=f"SAE on pairs, seed {seed}, {name}",
    )
    made.cpu()
    with torch.no_grad():
        encode = made.encode if variant.relu else lambda vectors: made.sparse(vectors)[1:]
        kind: pairs.Kind = "two_hot" if variant.two_hot else "polarized"
        codes = PairCodes.of(pairs.stream(tensor, kind=kind, shuffle=False), encode, width=features)
    checkpoint.unlink(missing_ok=True)
    return model, tensor, made, codes


def _stream(lab: Lab, tensor: BilinearTensor, variant: Variant, seed: int) -> Stream:
    if variant.weights == "uniform":
        return pairs.stream(tensor, kind="two_hot" if variant.two_hot else "polarized", batch_size=1024, seed=seed)
    if variant.weights == "norm":
        weights = pairs.norms(tensor)
    else:
        weights = pairs.second_moments(tensor.input.fold(lab.dataset().train.images))
    kind: Literal["polarized", "two_hot"] = "two_hot" if variant.two_hot else "polarized"
    return pairs.sampled(tensor, weights, kind=kind, batch_size=1024, seed=seed)


def scores(  # noqa: PLR0917 (what was made for one variant)
    lab: Lab, model: ImageClassifier, tensor: BilinearTensor, coder: SAE, codes: PairCodes, two_hot: bool
) -> dict[str, float]:
    """L0, error and dead fraction over all pairs alike; the layer's outputs and the logits by the features."""
    test, weight = lab.dataset().test, model.readout.weight
    evaluation = evaluate_pairs(tensor, codes, coder, two_hot=two_hot)
    atoms, bias = coder.W_dec.detach(), coder.b_dec.detach()
    rebuild: Callable[..., Tensor] = codes.rebuild_two_hot if two_hot else codes.rebuild
    with torch.no_grad():
        inputs = tensor.input.fold(test.images)
        logits = rebuild(inputs, atoms @ weight.T, bias=bias @ weight.T)
        own = model.readout(model.hidden_outputs(test.images))
        some = inputs[:OUTPUT_SAMPLES]
        outputs, rebuilt = model.hidden_outputs(test.images[:OUTPUT_SAMPLES]), rebuild(some, atoms, bias=bias)
    accuracy, kept = (faithfulness.accuracy(value, test.labels) for value in (own, logits))
    loss, through = (faithfulness.cross_entropy(value, test.labels) for value in (own, logits))
    found = {
        "L0": evaluation.l0,
        "NMSE on pairs": evaluation.nmse,
        "explained variance on pairs": evaluation.explained_variance,
        "dead": evaluation.dead_fraction,
        "NMSE on outputs": float(sae.nmse(outputs, rebuilt)),
        "accuracy of the model": accuracy,
        "accuracy": kept,
        "accuracy lost": accuracy - kept,
        "recovered": faithfulness.ce_loss_score(through, loss, math.log(model.output.size)),
    }
    if not two_hot:
        without = rebuilt - some.sum(dim=1, keepdim=True).square() * bias
        found["NMSE on outputs without the bias term"] = float(sae.nmse(outputs, without))
    return found


def _view(lab: Lab, model: ImageClassifier, codes: PairCodes, coder: SAE) -> FeatureSet:
    """The features that matter most on training images, by mean code times the size of what they do to the logits."""
    weight = model.readout.weight
    effects = coder.W_dec.detach() @ (weight - weight.mean(dim=0)).T
    moment = decompose.second_moment(lab.dataset().train.images, codes.space)
    importance = codes.expectation(moment.to(codes.values)) * effects.norm(dim=1)
    best = importance.argsort(descending=True)[:PICTURED]
    spectra = tuple(decompose.eigh(codes.kernel(int(k), str(int(k))), 4) for k in best)
    return FeatureSet("pairs", spectra, importance[best], "mean code × ‖effect‖", effects[best], model.output)


def matches(lab: Lab, seed: int, model: ImageClassifier, atoms: Float[Tensor, "n h"]) -> dict[str, float]:
    """Mean |cosine| of other features' kernels with those of the pair features assigned to them, and a null.

    Features are compared as directions u of the layer's output, by the Frobenius cosine of kernels Q_u = Σ u_o B_o.
    The null is as many directions as there are pair features, drawn from a Gaussian with the second moment of all pair
    vectors: what features that only follow the strength of the layer would reach.
    """
    tensor = model.hidden_tensor()
    svd = decompose.svd(tensor, min(COMPARED["SVD components"] or 0, tensor.output.size))
    _, train, _ = output_sae.outputs(lab, seed)
    other = output_sae.coder(lab, seed, output_sae.MAIN, train)
    active = sae.evaluate(other, train).frequency > output_sae.ACTIVE
    weight = model.readout.weight
    sets = (svd.outputs, weight - weight.mean(dim=0), other.W_dec.detach()[active])
    null = matching.random_directions(tensor.gram(), len(atoms), seed)
    found = {}
    for name, theirs in zip(COMPARED, sets, strict=True):
        for what, ours in (("matched", atoms), ("null", null)):
            value = 0.0
            if 0 < len(theirs) <= len(ours):
                cosines = matching.kernel_cosines(_read(tensor, theirs), _read(tensor, ours)).abs()
                value = float(matching.assign(cosines).similarity.mean())
            found[f"{what} with {name}"] = value
    return found


def _read(tensor: BilinearTensor, directions: Float[Tensor, "n h"]) -> BilinearTensor:
    return tensor.then(directions.to(tensor.down), Space("features", len(directions)))


def claims(measured: Measurement) -> Sequence[Claim]:
    """N7 at the draft's size, then every variant side by side."""
    table = [
        Claim("SAE over pairs: L0 (N7)", f"L0, {MAIN}", "30.4", ".1f"),
        Claim("SAE over pairs: MSE/‖·‖² on pairs (N7)", f"NMSE on pairs, {MAIN}", "0.29", ".3f"),
        Claim("SAE over pairs: features that are 0 on every pair (N7)", f"dead, {MAIN}", "29", ".1f", 100, " %"),
        Claim(
            "the model replaced by the pair features: accuracy lost", f"accuracy lost, {MAIN}", "–", ".2f", 100, " pts"
        ),
        Claim(
            "the model replaced by the pair features: cross-entropy recovered, baseline ln 10",
            f"recovered, {MAIN}",
            "–",
            ".2f",
            100,
            " %",
        ),
        Claim(
            "the model replaced by the pair features: NMSE on the layer's outputs",
            f"NMSE on outputs, {MAIN}",
            "–",
            ".4f",
        ),
        Claim("the same without (Σx)² b_dec", f"NMSE on outputs without the bias term, {MAIN}", "–", ".2f"),
    ]
    for name in COMPARED:
        table.append(
            Claim(f"{name}: mean |cosine| with the pair features assigned to them", f"matched with {name}, {MAIN}")
        )
        table.append(Claim(f"… random directions instead, {name}", f"null with {name}, {MAIN}"))
    for variant in list(VARIANTS)[1:]:
        table += [
            Claim(f"L0, {variant}", f"L0, {variant}", "–", ".1f"),
            Claim(f"NMSE on pairs, {variant}", f"NMSE on pairs, {variant}", "–", ".3f"),
            Claim(f"features that are 0 on every pair, {variant}", f"dead, {variant}", "–", ".1f", 100, " %"),
            Claim(f"NMSE on outputs, {variant}", f"NMSE on outputs, {variant}", "–", ".4f"),
            Claim(f"accuracy lost, {variant}", f"accuracy lost, {variant}", "–", ".2f", 100, " pts"),
            Claim(f"cross-entropy recovered, {variant}", f"recovered, {variant}", "–", ".2f", 100, " %"),
        ]
    return table


def figures(seeds: Sequence[Measurement]) -> Mapping[str, tuple[Figure, str]]:
    """Every variant on pairs and through the model, what the features match, and the first of them."""
    panels = {
        "NMSE on pairs": ("NMSE on pairs", 1.0),
        "NMSE on outputs": ("NMSE on outputs", 1.0),
        "accuracy lost, points": ("accuracy lost", 100.0),
        "cross-entropy recovered, %": ("recovered", 100.0),
    }
    variants = {
        title: {name: [scale * seed[f"{number}, {name}"] for seed in seeds] for name in VARIANTS}
        for title, (number, scale) in panels.items()
    }
    matched = {
        title: {name: [seed[f"{what} with {name}, {MAIN}"] for seed in seeds] for name in COMPARED}
        for title, what in (("pair features", "matched"), ("random directions", "null"))
    }
    return {
        "pairs-variants": (
            charts.dots(variants, "", shared=False),
            "SAEs over pair vectors, by vector, SAE and how often a pair is drawn, h = 300 where no other is named: "
            "error on all pairs alike, error on the layer's real outputs, and the model replaced by the features: each "
            "seed, mean and 95 % interval.",
        ),
        "pairs-matches": (
            charts.dots(matched, "mean |cosine| of matched kernels"),
            "How well pair features match features from elsewhere, one to one, and how well as many random directions "
            "do: each seed, mean and 95 % interval.",
        ),
        "pairs-features": (
            plots.gallery(seeds[0].records[0]),
            "The features of the SAE over pairs that matter most on training images: top positive and top negative "
            "eigenvector of each feature's kernel, h = 1000, first seed.",
        ),
    }


RECIPE = Recipe(
    "pairs",
    "SAE over input pairs, and the model replaced by it",
    lambda lab: (
        f"{lab.size(5000, 100):,} features, TopK {lab.size(K, 5)} or ReLU with L1 {L1:g}; updates of 1,024 pairs: "
        f"{lab.size(1600, 60):,} at h = {lab.size(1000, 40)}, else {lab.size(400, 60):,}, ReLU {lab.size(1200, 60):,}."
    ),
    measure,
    claims,
    figures,
)
