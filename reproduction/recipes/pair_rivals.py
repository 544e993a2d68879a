"""What training adds to pair features: atoms that were never trained, and coders that were trained for longer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional

from bilens import pairs
from bilens.faithfulness import Curve
from bilens.pair_coding import coded, nearest, refit
from bilens.pairs import PairCodes, PairStream
from bilens.sae import TopKSAE
from bilens.tensor import BilinearTensor
from reproduction import charts
from reproduction.lab import Claim, Lab, Recipe
from reproduction.measurement import Measurement
from reproduction.recipes import front_coders, pair_sae
from reproduction.recipes.front_coders import Plan
from reproduction.recipes.front_measure import swept
from reproduction.recipes.front_read import LOGITS, LONG, OUTPUTS, Read, config


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

SWEPT: Mapping[str, tuple[Plan, ...]] = {
    OUTPUTS: tuple(plan for plan in front_coders.OUTPUTS if plan != front_coders.MAIN),
    LOGITS: tuple(plan for plan in front_coders.LOGITS if plan.atoms == 1000),
}
"""Coders of the front that are trained for longer; the largest is, in the recipe of the pair SAE."""

MEASURES = ("NMSE on pairs", "NMSE on outputs", "accuracy lost", "recovered")


@torch.no_grad()
def measure(lab: Lab, seed: int) -> Measurement:
    """Atoms never trained at the pair SAE's smaller size, and the front's coders trained for longer."""
    model = lab.classifier(seed, hidden=lab.size(300, 40), epochs=lab.size(10, 6))
    tensor = model.hidden_tensor()
    numbers: dict[str, float] = {}
    for name, null in NULLS.items():
        coder, codes = untrained(lab, tensor, null, seed)
        found = pair_sae.scores(lab, model, tensor, coder, codes, null.two_hot)
        numbers |= {f"{what}, {name}": found[what] for what in MEASURES}
    return Measurement.of(numbers, list(_longer(lab, seed)))


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


def _longer(lab: Lab, seed: int) -> Iterator[Curve]:
    """The model replaced by the codes of coders that were trained for longer, as in the front."""
    read = Read.of(lab, seed)
    for space, tensor, readout in (
        (OUTPUTS, read.hidden, read.readout),
        (LOGITS, read.logits, torch.eye(read.classes)),
    ):
        with torch.enable_grad():
            coders = front_coders.longer(lab, tensor, SWEPT[space], seed)
        atoms = [(functional.normalize(coder.W_dec, dim=1), coder.b_dec) for coder in coders.values()]
        plans = [plan.size(lab) for plan in coders]
        found, _ = coded(tensor, atoms, [[plan.k] for plan in plans])
        for plan, (part,) in zip(plans, found, strict=True):
            yield swept(read, config(space, LONG, plan.atoms, plan.k), part, readout, None)


def claims(measured: Measurement) -> Sequence[Claim]:
    """Every null, and all codes of each coder that was trained for longer."""
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
    """Errors of the nulls, and what coders that were trained for longer recover."""
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
    "Pair features never trained, and trained for longer",
    lambda lab: (
        f"{lab.size(5000, 100):,} atoms, {lab.size(pair_sae.K, 5)} codes per pair at h = {lab.size(300, 40)}; coders "
        f"of the first section at h = {lab.size(1000, 40)} with {front_coders.LONGER} times the updates."
    ),
    measure,
    claims,
    figures,
)
