"""The comparison of pair vectors and weights without training: pair vectors drawn at random as atoms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional

from bilens import pairs
from bilens.pair_coding import nearest, refit
from bilens.pairs import PairCodes, PairStream
from bilens.sae import TopKSAE
from bilens.tensor import BilinearTensor
from reproduction import charts
from reproduction.lab import Claim, Lab, Recipe
from reproduction.measurement import Measurement
from reproduction.recipes import pair_sae


@dataclass(frozen=True)
class Null:
    """Which pair vectors are drawn as atoms, and how often each."""

    two_hot: bool
    weights: Literal["uniform", "second moment"]


NULLS: Mapping[str, Null] = {
    "r_ij, uniform": Null(False, "uniform"),
    "r_ij, second moment": Null(False, "second moment"),
    "u_ij, uniform": Null(True, "uniform"),
}
"""The choices that the variants of the pair SAE differ in most, without training."""

MEASURES = ("NMSE on pairs", "NMSE on outputs", "accuracy lost", "recovered")


@torch.no_grad()
def measure(lab: Lab, seed: int) -> Measurement:
    """Atoms never trained, where the variants of the pair SAE are compared."""
    model = lab.classifier(seed, hidden=lab.size(300, 40), epochs=lab.size(10, 6))
    tensor = model.hidden_tensor()
    numbers: dict[str, float] = {}
    for name, null in NULLS.items():
        coder, codes = untrained(lab, tensor, null, seed)
        found = pair_sae.scores(lab, model, tensor, coder, codes, null.two_hot)
        numbers |= {f"{what}, {name}": found[what] for what in MEASURES}
    return Measurement.of(numbers)


def untrained(lab: Lab, tensor: BilinearTensor, null: Null, seed: int) -> tuple[TopKSAE, PairCodes]:
    """A coder whose atoms are pair vectors drawn at random, and its codes of all pairs, by least squares."""
    make = pairs.two_hot_stream if null.two_hot else pairs.stream
    stream = make(tensor, batch_size=4096, shuffle=False)
    weights = torch.ones(stream.rows)
    if null.weights == "second moment":
        weights = pairs.second_moments(tensor.input.lift(lab.dataset().train.images)).float()
    atoms, offset = drawn(stream, weights, lab.size(5000, 100), seed)
    k = min(lab.size(pair_sae.K, 5), len(atoms))
    gram = atoms.double() @ atoms.double().T

    def encode(vectors: Tensor) -> tuple[Tensor, Tensor]:
        chosen, products = nearest(vectors - offset, atoms, k)
        return refit(gram, chosen, products)[0], chosen

    coder = TopKSAE(tensor.output.size, len(atoms), k, seed=seed)
    coder.W_dec.copy_(atoms)
    coder.b_dec.copy_(offset)
    return coder, PairCodes.of(stream, encode, width=len(atoms))


def drawn(
    stream: PairStream, weights: Float[Tensor, " pairs"], count: int, seed: int
) -> tuple[Float[Tensor, "m o"], Float[Tensor, " o"]]:
    """Pair vectors drawn with chances in proportion to weights, all different, less their mean by these weights.

    Returns:
        Unit rows, at most as many as there are weights above 0; the mean.
    """
    chances = weights.double() / weights.double().sum()
    mean = torch.zeros(stream.width, dtype=torch.float64)
    for n in range(len(stream)):
        start = n * stream.batch_size
        mean += chances[start : start + stream.size(n)] @ stream.batch(n).double()
    count = min(count, int((weights > 0).sum()))
    places = torch.multinomial(chances, count, generator=torch.Generator().manual_seed(seed))
    vectors = stream.features.at(stream.kind, *pairs.unrank(places, len(stream.features)))
    offset = mean.to(vectors)
    return functional.normalize(vectors - offset, dim=1), offset


def claims(measured: Measurement) -> Sequence[Claim]:
    """Every null, by vector and weights."""
    table = []
    for name in NULLS:
        table += [
            Claim(f"pair vectors drawn, {name}: NMSE on pairs", f"NMSE on pairs, {name}", "–", ".3f"),
            Claim(f"pair vectors drawn, {name}: NMSE on outputs", f"NMSE on outputs, {name}", "–", ".4f"),
            Claim(f"pair vectors drawn, {name}: accuracy lost", f"accuracy lost, {name}", "–", ".2f", 100, " pts"),
            Claim(f"pair vectors drawn, {name}: cross-entropy recovered", f"recovered, {name}", "–", ".2f", 100, " %"),
        ]
    return table


def figures(seeds: Sequence[Measurement]) -> Mapping[str, tuple[Figure, str]]:
    """Errors of the nulls, and what they recover."""
    panels = {
        "NMSE on pairs": ("NMSE on pairs", 1.0),
        "NMSE on outputs": ("NMSE on outputs", 1.0),
        "cross-entropy recovered, %": ("recovered", 100.0),
    }
    shown = {
        title: {name: [scale * seed[f"{what}, {name}"] for seed in seeds] for name in NULLS}
        for title, (what, scale) in panels.items()
    }
    return {
        "pairs-untrained": (
            charts.dots(shown, "", shared=False),
            "Pair vectors drawn at random as atoms, by vector and by how often a pair is drawn, codes by least "
            "squares, h = 300: error on all pairs alike, error on the layer's real outputs, and the model replaced by "
            "the codes: each seed, mean and 95 % interval.",
        )
    }


RECIPE = Recipe(
    "untrained",
    "Pair features that were never trained",
    lambda lab: (
        f"{lab.size(5000, 100):,} pair vectors drawn without replacement, {lab.size(pair_sae.K, 5)} codes per pair by "
        f"least squares, h = {lab.size(300, 40)}."
    ),
    measure,
    claims,
    figures,
)
