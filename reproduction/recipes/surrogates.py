"""Every layer of a language model read as a bilinear one, each in the model's place alone, beside its nulls."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

from matplotlib.figure import Figure
from torch import nn

from bilens import store
from bilens.models import gated, language
from bilens.models.gated.original import original
from bilens.models.replaced import Replaced, replaced
from bilens.models.surrogate import gaussian, weights_only
from bilens.models.token_statistics import LayerStatistics, token_statistics
from bilens.progress import bar
from bilens.statistics import interval
from bilens.text import Split, english, tokenizer
from reproduction.lab import Claim, Lab, Recipe
from reproduction.measurement import Measurement

store.register(Replaced)

WAYS = {
    "weights_only": "the weights alone",
    "gaussian": "the best for Gaussian inputs",
    "least_squares": "least squares",
    "least_squares + bypass": "least squares and a linear map",
    "mean": "null: the layer's mean output",
    "random layer": "null: a random layer",
}
"""What stands in a layer's place, and how it is written."""

FITTED = "fitted text: "
"""What the name of a number begins with that is of text that was fitted to, as many tokens as are held out."""

ENOUGH = 0.05
"""Nats per token that a layer may cost."""


def _model(lab: Lab) -> str:
    return str(language.TINY) if lab.quick else language.found()


def _read(lab: Lab, seed: int) -> Split:
    """Rows of text in the order of a seed. Which documents are held out is fixed."""
    corpus = english(seed=seed, characters=lab.size(4_000_000, 60_000))
    split = corpus.tokens(tokenizer(_model(lab)), length=lab.size(256, 32))
    return Split(split.fit[: lab.size(160, 8)], split.held_out[: lab.size(8, 3)], split.described)


def measure(lab: Lab, seed: int) -> Measurement:
    """Of every layer what each way loses of its variance and adds to the cross-entropy, held out and on fitted text."""
    split, checkpoint = _read(lab, seed), gated.load(_model(lab))
    live = original(checkpoint)
    numbers: dict[str, float] = {"tokens fitted": split.fit.numel(), "tokens held out": split.held_out.numel()}
    statistics = token_statistics(live, split.fit)
    with bar("layers", len(checkpoint)) as step:
        for layer in range(len(checkpoint)):
            measured = partial(_replaced, checkpoint, live, statistics.layer(layer), split, seed)
            both = lab.run.record(f"surrogates-{seed}-{layer}", tuple, measured)
            for found, part in zip(both, [""] * (len(both) // 2) + [FITTED] * (len(both) // 2), strict=True):
                numbers[f"{part}variance lost, {found.by}, layer {layer}"] = found.fvu
                numbers[f"{part}cross-entropy more, {found.by}, layer {layer}"] = found.delta_ce
                numbers[f"{part}standard error, {found.by}, layer {layer}"] = found.error
            step(1)
    for by in WAYS:
        for part in ("", FITTED):
            costs = [numbers[f"{part}cross-entropy more, {by}, layer {layer}"] for layer in range(len(checkpoint))]
            numbers[f"{part}mean, {by}"], numbers[f"{part}most, {by}"] = fmean(costs), max(costs)
            numbers[f"{part}layers within, {by}"] = sum(cost <= ENOUGH for cost in costs)
    return Measurement.of(numbers)


def _replaced(
    checkpoint: gated.Checkpoint, live: nn.Module, statistics: LayerStatistics, split: Split, seed: int
) -> tuple[Replaced, ...]:
    mlp = checkpoint.mlp(statistics.layer)
    fitted = statistics.least_squares(mlp)
    surrogates = (weights_only(mlp), gaussian(mlp, statistics.moments(mlp)), fitted, statistics.with_bypass(fitted))
    some = split.fit[: len(split.held_out)]
    return (*replaced(surrogates, live, split.held_out, seed=seed), *replaced(surrogates, live, some, seed=seed))


def claims(measured: Measurement) -> Sequence[Claim]:
    """Mean and largest cost over layers, and how many cost little."""
    table = []
    for by, written in WAYS.items():
        table.append(
            Claim(f"cross-entropy more, {written}, mean over layers, nats per token", f"mean, {by}", form=".4f")
        )
        table.append(Claim(f"the same on fitted text, {written}", f"{FITTED}mean, {by}", form=".4f"))
        table.append(Claim(f"held out, of the layer that costs most, {written}", f"most, {by}", form=".4f"))
        table.append(Claim(f"layers that cost at most {ENOUGH}, {written}", f"layers within, {by}", form=".1f"))
    return table


def figures(seeds: Sequence[Measurement]) -> Mapping[str, tuple[Figure, str]]:
    """Both costs of every layer."""
    caption = (
        "Each layer of the model replaced alone by a bilinear one, on held-out text: mean over seeds of the text and "
        "95 % interval, beside two nulls."
    )
    return {
        "surrogates-cross-entropy": (_drawn(seeds, "cross-entropy more", "nats per token", 1e-3), caption),
        "surrogates-variance": (_drawn(seeds, "variance lost", "share of the layer's variance", 1e-2), caption),
    }


def _drawn(seeds: Sequence[Measurement], name: str, unit: str, linear: float) -> Figure:
    """One cost against the layer, a line for each way; linear within a small number of 0, logarithmic beyond."""
    layers = range(sum(each.startswith("variance lost, mean, layer ") for each in seeds[0].names))
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for by, written in WAYS.items():
        found = [interval([seed[f"{name}, {by}, layer {layer}"] for seed in seeds]) for layer in layers]
        half = [0.0 if math.isinf(value.half) else value.half for value in found]
        style = ":" if by in ("mean", "random layer") else "-"
        means = [value.mean for value in found]
        axes.errorbar(layers, means, half, label=written, linestyle=style, marker=".", capsize=2, elinewidth=0.8)
    axes.set_yscale("symlog", linthresh=linear)
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set(xlabel="layer", ylabel=f"{name}, {unit}")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def settings(lab: Lab) -> str:
    """The model, the text and how much of it."""
    split = _read(lab, 0)
    fit, held_out = split.fit.numel(), split.held_out.numel()
    return (
        f"{Path(_model(lab)).stem}; text: {split.described}; {fit:,} tokens to fit on, {held_out:,} of other documents "
        "to measure on, the first of each row left out."
    )


RECIPE = Recipe(
    "surrogates",
    "Every layer of a language model read as a bilinear one",
    settings,
    measure,
    claims,
    figures,
)
