"""The full decompile: the layer as interactions of input features and output features, and what a transcoder does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from matplotlib.figure import Figure

from bilens import decompose, faithfulness, plots, sae
from bilens.data import Split
from bilens.decompose import Interactions
from bilens.errors import BilensError
from bilens.faithfulness import Curve
from bilens.space import Space
from bilens.statistics import interval
from reproduction import charts
from reproduction.lab import Claim, Lab, Recipe
from reproduction.measurement import Measurement
from reproduction.methods import transcoder
from reproduction.methods.transcoder import Transcoder
from reproduction.recipes.decompile_features import (
    BASIS,
    CLASSES,
    CODES,
    CODES_ROTATED,
    COMPONENT,
    COMPONENTS,
    ENERGY,
    INPUTS,
    OUTPUTS,
    PIXELS,
    ROTATED,
    SCORED,
    SVD,
    TURNED,
    Inputs,
    K,
    Outputs,
    inputs_of,
    outputs_of,
)

COUNTS = tuple(int(base * 10**power) for power in range(1, 8) for base in (1, 3))[:-1]
"""Interactions kept, 10 to 10,000,000; beyond the number that there are, all of them."""

SHARES = (0.95, 0.99)
"""Parts of the cross-entropy that all interactions of a pair of dictionaries recover."""

SIZES = (0.1, 0.2, 1.0)
"""Numbers stored by the transcoders, as parts of the layer's 2·h·d."""

IMPORTANCE, MAGNITUDE = "importance", "magnitude"

BOTH_ORDERS = (PIXELS, BASIS, CODES)
"""Input features whose interactions are kept by magnitude too."""

TRANSCODERS = {f"transcoder, {K} codes": K, "MLP with ReLU": None}
"""Codes kept per sample by the layers that are fitted to data; None for all."""


def holding(scores: torch.Tensor, share: float) -> int:
    """How many of the largest scores hold this share of Σ s²."""
    squares = np.sort(scores.double().square().flatten().numpy())[::-1].cumsum()
    return int((squares < share * squares[-1]).sum()) + 1


def measure(lab: Lab, seed: int) -> Measurement:
    """Curves of every pair of dictionaries and of the transcoders, and how many interactions are needed."""
    dataset = lab.dataset()
    model = lab.classifier(seed, hidden=lab.size(300, 40), epochs=lab.size(10, 6))
    size = lab.size(SCORED, 500)
    test = Split(dataset.test.images[:size], dataset.test.labels[:size])
    with torch.no_grad():
        read = torch.cat([model.hidden_outputs(part) for part in torch.split(dataset.train.images, 4096)])
        logits = model(test.images)
    own = faithfulness.cross_entropy(logits, test.labels)
    layer = model.hidden_tensor()
    numbers: dict[str, float] = {
        "accuracy": faithfulness.accuracy(logits, test.labels),
        "numbers of the layer": float(layer.left.numel() + layer.right.numel() + model.readout.weight.numel()),
    }
    curves: list[Curve] = []
    d, h = layer.input.size, layer.output.size
    outputs = {output.name: output for output in outputs_of(lab, seed, model, read)}
    for inputs in inputs_of(lab, seed, layer, numbers):
        for output in outputs.values() if inputs.name == BASIS else (outputs[SVD],):
            by = (IMPORTANCE, MAGNITUDE) if inputs.name in BOTH_ORDERS and output.name == SVD else (IMPORTANCE,)
            measured, drawn = decompiled(inputs, output, test, own=own, orders=by)
            numbers |= {f"{name}, {inputs.name} × {output.name}": value for name, value in measured.items()}
            curves += drawn
    with torch.no_grad():
        target = model.hidden_outputs(test.images)
    for name, kept in TRANSCODERS.items():
        scores, stored = [], []
        for share in SIZES:
            made = Transcoder(d, h, *transcoder_size(share, kept, d, h), seed=seed)
            title = f"{name}, {share:g} of the layer, seed {seed}"
            transcoder.transcode(
                made, dataset.train.images, read, steps=lab.size(1000, 60), batch_size=256, lr=1e-2,
                seed=seed, title=title,
            )  # fmt: skip
            with torch.no_grad():
                guess, codes = made(test.images), made.encode(test.images)
                scores.append(faithfulness.score(model.readout(guess), test.labels, own))
            stored.append(made.numel + model.readout.weight.numel())
            found = {
                "accuracy": scores[-1].accuracy,
                "recovered": _recovered(scores[-1]),
                "NMSE": float(sae.nmse(target, guess)),
                "L0": float(sae.l0(codes)),
                "numbers": float(stored[-1]),
            }
            numbers |= {f"{what}, {name}, {share:g} of the layer": value for what, value in found.items()}
        curves.append(Curve.of(f"stored, {name}", stored, scores))
    return Measurement.of(numbers, curves)


def transcoder_size(share: float, kept: int | None, d: int, h: int) -> tuple[int, int]:
    """Features and codes kept of a transcoder d → h that stores this share of the layer's 2·h·d numbers."""
    features = max(1, round(share * 2 * h * d / (d + h + 1)))
    return features, min(features, kept or features)


def decompiled(
    inputs: Inputs, outputs: Outputs, test: Split, *, own: float, orders: Sequence[str]
) -> tuple[dict[str, float], list[Curve]]:
    """Scores of the layer with some of its interactions, in each order: named numbers and curves.

    The curve of an order has the largest error of a (centred) logit against all interactions in the same coordinates,
    and the residual-mass bound on it. A second curve has the same scores against the numbers that are stored.
    """
    tensor = outputs.tensor if inputs.dictionary is None else outputs.tensor.pullback(inputs.dictionary)
    whole = decompose.interactions(tensor)
    classes = Space("classes", len(outputs.shift))
    logits = whole.then(outputs.effects.T, classes)
    answers = logits(inputs.test)
    ceiling = faithfulness.score(answers + outputs.shift, test.labels, own)
    top, total = _recovered(ceiling), whole.coefficients.numel()
    longest = float(whole.input.fold(inputs.test).norm(dim=1).max())
    numbers = {"interactions": float(total), "ceiling accuracy": ceiling.accuracy, "ceiling": top}
    curves = []
    for order in orders:
        sizes = outputs.effects.norm(dim=1)
        scores = whole.magnitude(sizes) if order == MAGNITUDE else whole.importance(sizes, inputs.train)
        curve_name = f"{inputs.name} × {outputs.name}, by {order}"
        numbers[f"effective number by {order}"] = decompose.participation_ratio(scores)
        numbers[f"holding 90 % by {order}"] = float(holding(scores, 0.9))
        found, errors, bounds, stored = [], [], [], []
        counts = [k for k in COUNTS if k < total]
        for kept in whole.truncations(counts, scores):
            part = kept.then(outputs.effects.T, classes)
            reached = part(inputs.test)
            found.append(faithfulness.score(reached + outputs.shift, test.labels, own))
            errors.append(float((reached - answers).abs().max()))
            bounds.append(float(logits.without(part).bound(longest).max()))
            stored.append(numbers_stored(kept, inputs, outputs))
        rest = len(COUNTS) - len(counts)
        found += [ceiling] * rest
        stored += [numbers_stored(whole, inputs, outputs)] * rest
        curves.append(
            Curve.of(curve_name, list(COUNTS), found, error=errors + [0.0] * rest, bound=bounds + [0.0] * rest)
        )
        curves.append(Curve.of(f"stored, {curve_name}", stored, found))
        for share in SHARES:
            enough = min(total, needed(COUNTS, [_recovered(score) for score in found], share * top))
            at = f"{100 * share:g} % by {order}"
            numbers[f"needed for {at}"] = float(enough)
            if order == IMPORTANCE:
                kept = whole.keep(enough, scores)
                numbers[f"numbers stored for {at}"] = float(numbers_stored(kept, inputs, outputs))
                numbers[f"at work on an image for {at}"] = kept.active(inputs.test)
    return numbers, curves


def needed(counts: Sequence[int], recovered: Sequence[float], target: float) -> int:
    """How many interactions bring the score to the target for good: straight in log K between two that were scored."""
    below = [place for place, value in enumerate(recovered) if value < target]
    if not below:
        return counts[0]
    last = below[-1]
    if last + 1 == len(counts):
        return counts[-1]
    part = (target - recovered[last]) / (recovered[last + 1] - recovered[last])
    return round(math.exp((1 - part) * math.log(counts[last]) + part * math.log(counts[last + 1])))


def numbers_stored(kept: Interactions, inputs: Inputs, outputs: Outputs) -> int:
    """What a machine needs to run them: the interactions, and the atoms that they name; places are not counted."""
    named, written = kept.used()
    atoms = inputs.each * int(named[: kept.input.size].sum()) + outputs.each * int(written.sum())
    return len(kept) + atoms + inputs.all + outputs.all


def _recovered(score: faithfulness.Score) -> float:
    if score.recovered is None:
        raise BilensError("a model no better than a guess", "one that has cross-entropy to recover", "train it longer")
    return score.recovered


def claims(measured: Measurement) -> Sequence[Claim]:
    """Interactions that are needed in each pair of dictionaries, and the transcoders."""
    table = [
        Claim(f"test accuracy of the model, {SCORED:,} images", "accuracy", "–", ".2f", 100, " %"),
        Claim("numbers in the layer and its read-out", "numbers of the layer", "–", ",.0f"),
        Claim(
            f"first directions of the HOSVD basis with {100 * ENERGY:g} % of ‖B‖²",
            "directions with 99 % of the energy",
            "–",
            ",.0f",
        ),
        Claim("SAE on images: L0", "L0 of the SAE on images", "–", ".1f"),
        Claim("SAE on images: MSE/‖·‖²", "NMSE of the SAE on images", "–", ".3f"),
    ]
    for pair in _pairs():
        table += [
            Claim(f"{pair}: interactions", f"interactions, {pair}", "–", ",.0f"),
            Claim(f"{pair}: accuracy with all", f"ceiling accuracy, {pair}", "–", ".2f", 100, " %"),
            Claim(f"{pair}: cross-entropy recovered with all", f"ceiling, {pair}", "–", ".1f", 100, " %"),
        ]
        for order in (IMPORTANCE, MAGNITUDE):
            for share in SHARES:
                at = f"{100 * share:g} % by {order}"
                table.append(
                    Claim(
                        f"{pair}: needed for {100 * share:g} % of that, by {order}",
                        f"needed for {at}, {pair}",
                        "–",
                        ",.0f",
                    )
                )
                if order == IMPORTANCE:
                    table += [
                        Claim(f"{pair}: … at work on an image, {100 * share:g} %",
                              f"at work on an image for {at}, {pair}", "–", ",.0f"),
                        Claim(f"{pair}: … numbers stored, {100 * share:g} %", f"numbers stored for {at}, {pair}",
                              "–", ",.0f"),
                    ]  # fmt: skip
            table += [
                Claim(f"{pair}: effective number by {order}", f"effective number by {order}, {pair}", "–", ",.0f"),
                Claim(f"{pair}: holding 90 % of the squared {order}", f"holding 90 % by {order}, {pair}", "–", ",.0f"),
            ]
    for name in TRANSCODERS:
        for share in SIZES:
            at = f"{name}, {share:g} of the layer"
            table += [
                Claim(f"{at}: numbers stored", f"numbers, {at}", "–", ",.0f"),
                Claim(f"{at}: accuracy", f"accuracy, {at}", "–", ".2f", 100, " %"),
                Claim(f"{at}: cross-entropy recovered", f"recovered, {at}", "–", ".1f", 100, " %"),
                Claim(f"{at}: MSE/‖·‖² of the outputs", f"NMSE, {at}", "–", ".3f"),
                Claim(f"{at}: L0", f"L0, {at}", "–", ".1f"),
            ]
    return [claim for claim in table if claim.number in measured.names]


def figures(seeds: Sequence[Measurement]) -> Mapping[str, tuple[Figure, str]]:
    """Recovered against interactions by input and output features and by order; the bound; against numbers stored."""
    band = "mean and 95 % interval over seeds"
    kept = "interactions kept"

    def group(pair: str, order: str = IMPORTANCE) -> list[Curve]:
        return [seed.curve(f"{pair}, by {order}") for seed in seeds]

    orthonormal = {name: group(f"{name} × {SVD}") for name in (PIXELS, BASIS, TURNED, ROTATED, COMPONENT)}
    learned = {name: group(f"{name} × {SVD}") for name in (CODES, CODES_ROTATED, BASIS)}
    by_output = {name: group(f"{BASIS} × {name}") for name in OUTPUTS}
    orders = {
        f"{name}, by {order}": group(f"{name} × {SVD}", order)
        for name in BOTH_ORDERS
        for order in (IMPORTANCE, MAGNITUDE)
    }
    stored = {
        f"{BASIS} × {CLASSES}": _alike([seed.curve(f"stored, {BASIS} × {CLASSES}, by {IMPORTANCE}") for seed in seeds]),
        **{
            f"{name} × {SVD}": _alike([seed.curve(f"stored, {name} × {SVD}, by {IMPORTANCE}") for seed in seeds])
            for name in (BASIS, PIXELS, CODES)
        },
        **{name: _alike([seed.curve(f"stored, {name}") for seed in seeds]) for name in TRANSCODERS},
    }
    return {
        "decompile-inputs": (
            charts.bands(orthonormal, "recovered", kept),
            f"Cross-entropy recovered with the interactions of largest importance, by the features of the input; "
            f"outputs in {COMPONENTS} SVD components: {band}.",
        ),
        "decompile-codes": (
            charts.bands(learned, "recovered", kept),
            f"The same with the features of an SAE on the images, with its codes rotated, and in the HOSVD basis: "
            f"{band}.",
        ),
        "decompile-outputs": (
            charts.bands(by_output, "recovered", kept),
            f"The same by the features of the output; inputs in the HOSVD basis: {band}.",
        ),
        "decompile-orders": (
            charts.bands(orders, "recovered", kept),
            f"The interactions kept by data-weighted importance and by magnitude, outputs in SVD components: {band}.",
        ),
        "decompile-bound": (
            plots.certificate(group(f"{BASIS} × {SVD}", MAGNITUDE)[0]),
            "Largest error of a logit over the test images when the interactions of largest magnitude are kept, and "
            "the residual-mass bound on it; HOSVD basis and SVD components, first seed.",
        ),
        "decompile-stored": (
            charts.bands(stored, "recovered", "numbers stored"),
            f"Cross-entropy recovered against the numbers that are stored, interactions and the atoms they name, "
            f"beside transcoders that are fitted to the layer's inputs and outputs: {band}, at the mean size.",
        ),
    }


def contest(seeds: Sequence[Measurement]) -> list[str]:
    """What is recovered with as many numbers as the transcoders of each size have, as a Markdown table."""
    ways = (*(f"{BASIS} × {output}" for output in (SVD, CLASSES)), *TRANSCODERS)
    lines = [f"| numbers stored | {' | '.join(f'{way}, %' for way in ways)} |", f"|---|{'---|' * len(ways)}"]
    for share in SIZES:
        size = int(seeds[0][f"numbers, {next(iter(TRANSCODERS))}, {share:g} of the layer"])
        cells = [
            interval(
                [
                    seed[f"recovered, {way}, {share:g} of the layer"]
                    if way in TRANSCODERS
                    else _within(seed.curve(f"stored, {way}, by {IMPORTANCE}"), size)
                    for seed in seeds
                ]
            ).text(".1f", 100)
            for way in ways
        ]
        lines.append(f"| {size:,} | {' | '.join(cells)} |")
    return lines


def tables(seeds: Sequence[Measurement]) -> Mapping[str, str]:
    """Interactions beside networks that were fitted to the layer, at equal numbers stored."""
    return {"contest": "\n".join(contest(seeds))}


def _within(curve: Curve, size: int) -> float:
    """The most that is recovered with so many numbers stored, straight in log size between two that were scored."""
    stored, recovered = curve.kept.double(), curve.recovered
    if recovered is None or size <= float(stored[0]):
        return 0.0
    return float(np.interp(math.log(size), stored.log().numpy(), recovered.numpy()))


def _pairs() -> list[str]:
    return [f"{name} × {SVD}" for name in INPUTS] + [f"{BASIS} × {name}" for name in OUTPUTS if name != SVD]


def _alike(curves: Sequence[Curve]) -> list[Curve]:
    """Curves of one kind whose sizes differ a little from seed to seed, at their mean sizes."""
    sizes = torch.stack([curve.kept for curve in curves]).double().mean(dim=0).round().to(torch.int64)
    return [replace(curve, kept=sizes) for curve in curves]


RECIPE = Recipe(
    "decompile",
    "The full decompile",
    lambda lab: (
        f"h = {lab.size(300, 40)}, {lab.size(10, 6)} epochs, AdamW, lr 1e-3, weight decay 1, no noise, "
        f"{len(lab.dataset().train.labels):,} training images; SAE of {lab.size(500, 100)} features on the images "
        f"({K} codes), of {lab.size(600, 80)} on the outputs; transcoders trained on 1,000 batches of 256; scored on "
        f"{lab.size(SCORED, 500):,} test images."
    ),
    measure,
    claims,
    figures,
    tables,
)
