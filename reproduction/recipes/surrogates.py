"""Every layer of a language model read as a bilinear one, each in the model's place alone, beside its nulls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from torch import nn

from bilens import store
from bilens.models import gated, language
from bilens.models.gated.original import original
from bilens.models.replaced import Replaced, replaced
from bilens.models.surrogate import Surrogate, gaussian, weights_only
from bilens.models.token_statistics import LayerStatistics, token_statistics
from bilens.plots import LINES, MUTED
from bilens.plots.style import MARKERS, styled
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
    "affine": "rival: an affine map",
    "mean": "null: the layer's mean output",
    "random layer": "null: a random layer",
}
"""What stands in a layer's place, and how it is written."""

FITTED = "fitted text: "
"""What the name of a number begins with that is of text that was fitted to, as many tokens as are held out."""

ENOUGH = 0.05
"""Nats per token that a layer may cost."""

RIDGE = 0.01
"""Of the affine map, as a share of the mean variance of n."""


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
            rival = partial(_affine, checkpoint, live, statistics.layer(layer), split, seed)
            both = lab.run.record(f"surrogates-{seed}-{layer}", tuple, measured)
            own, fitted = lab.run.record(f"affine-{seed}-{layer}", tuple, rival)
            half = len(both) // 2
            both = (*both[:half], own, *both[half:], fitted)
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


def _affine(
    checkpoint: gated.Checkpoint, live: nn.Module, statistics: LayerStatistics, split: Split, seed: int
) -> tuple[Replaced, Replaced]:
    """The affine map of n that is nearest to the layer: what a bilinear layer has to be worth more than."""
    mlp = checkpoint.mlp(statistics.layer)
    nothing = torch.zeros(len(mlp.gate), dtype=torch.float64)
    blank = Surrogate(mlp, "least_squares", nothing, nothing, nothing, nothing, nothing)
    affine = statistics.with_bypass(blank, ridge=RIDGE)
    parts = (split.held_out, split.fit[: len(split.held_out)])
    own, fitted = (replace(replaced(affine, live, part, seed=seed)[0], by="affine") for part in parts)
    return own, fitted


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
    over = "± one standard error over texts" if len(seeds) == 1 else "mean over seeds of the text and 95 % interval"
    caption = f"Each layer of the model replaced alone by a bilinear one, on held-out text: {over}, beside two nulls."
    ticks = (-0.01, 0, 0.01, ENOUGH, 0.1, 0.3, 1, 5)
    cost = _drawn(seeds, "cross-entropy more", "cross-entropy more, nats per token", ticks, ENOUGH)
    lost = _drawn(seeds, "variance lost", "share of the layer's variance lost", (0, 0.01, 0.1, 0.3, 1, 4), None)
    return {"surrogates-cross-entropy": (cost, caption), "surrogates-variance": (lost, caption)}


@styled
def _drawn(seeds: Sequence[Measurement], name: str, unit: str, ticks: Sequence[float], line: float | None) -> Figure:
    """One cost against the layer, a line for each way; linear within 0.01 of 0, logarithmic beyond."""
    layers = range(sum(each.startswith("variance lost, mean, layer ") for each in seeds[0].names))
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.add_subplot()
    for place, (by, written) in enumerate(WAYS.items()):
        found = [interval([seed[f"{name}, {by}, layer {layer}"] for seed in seeds]) for layer in layers]
        if len(seeds) > 1:
            half = [value.half for value in found]
        elif name == "cross-entropy more":
            half = [seeds[0][f"standard error, {by}, layer {layer}"] for layer in layers]
        else:
            half = [0.0 for _ in layers]
        null = by in ("mean", "random layer")
        axes.errorbar(
            layers,
            [value.mean for value in found],
            half,
            label=written,
            linestyle={"mean": "--", "random layer": ":", "affine": "-."}.get(by, "-"),
            color=MUTED if null else LINES[place % len(LINES)],
            marker=MARKERS[place % len(MARKERS)],
            markersize=3.5,
            linewidth=1.2,
            capsize=2,
            elinewidth=0.8,
        )
    axes.set_yscale("symlog", linthresh=0.01, linscale=0.5)
    axes.set_yticks(ticks, [f"{tick:g}".replace("-", "−") for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.axhline(0, color=MUTED, linewidth=0.8)
    if line is not None:
        axes.axhline(line, color=MUTED, linewidth=0.8, linestyle=(0, (1, 3)))
    axes.set(xlabel="layer", ylabel=unit)
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
