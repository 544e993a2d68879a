"""Figures of the rules of a language: tables of pairs, what distance does, and what training brings when."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from bilens.plots.style import LINES, MARKERS, MUTED, styled
from reproduction.measurement import Measurement
from reproduction.recipes.rules_measure import FAR, NEAR


def figures(measured: Measurement) -> Mapping[str, tuple[Figure, str]]:
    """Three figures, each with its caption."""
    return {
        "rules-pairs": (
            pairs(measured),
            f"Every pair of a loc and an adj {NEAR} tokens behind it, from the weights: what the loc adds to the "
            "strongest conn, above the mean of the conns, and how much the last block's attention reads it. Pairs that "
            "are rules are framed.",
        ),
        "rules-distance": (
            distance(measured),
            "The same against the distance between loc and adj: the weakest rule, the mean of the rules, and the "
            "strongest of all other pairs. The language looks for a loc among the 12 tokens before the adj, which are "
            "distances 1 to 12.",
        ),
        "rules-training": (
            training(measured),
            "Rules that are visible in the weights of each checkpoint (with the right conn, above every other pair) "
            "and rules that the model follows on text (probability above one half), and the copying of what followed "
            "before.",
        ),
    }


@styled
def pairs(measured: Measurement) -> Figure:
    """Strengths and scores of all pairs as two images, the rules framed."""
    labels = [name.split(", ")[1:] for name in measured.names if name.startswith("strength, loc")]
    locs, adjs = sorted({loc for loc, _ in labels}), sorted({adj for _, adj in labels})
    rules = {tuple(name.removeprefix("path of ").split()[:2]) for name in measured.names if name.startswith("path of ")}
    figure = Figure(figsize=(7.6, 3.6), layout="constrained")
    for axes, (name, title) in zip(
        figure.subplots(1, 2), (("strength", "added to the strongest conn"), ("score", "attention score")), strict=True
    ):
        values = np.array([[measured[f"{name}, {loc}, {adj}"] for adj in adjs] for loc in locs])
        limit = np.abs(values).max() or 1.0
        image = axes.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit)
        figure.colorbar(image, ax=axes, shrink=0.8)
        axes.set_xticks(range(len(adjs)), adjs, rotation=45, ha="right")
        axes.set_yticks(range(len(locs)), locs)
        axes.set_title(title)
        for row, loc in enumerate(locs):
            for column, adj in enumerate(adjs):
                if (loc, adj) in rules:
                    axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, linewidth=1.2))
    return figure


@styled
def distance(measured: Measurement) -> Figure:
    """The weakest rule and the strongest other pair against the distance."""
    figure = Figure(figsize=(7.6, 3.2), layout="constrained")
    places = list(range(1, FAR + 1))
    for axes, title, lines in zip(
        figure.subplots(1, 2),
        ("added to the conn", "attention score"),
        (
            {"mean of the rules": "mean strength", "weakest rule": "weakest rule", "other pairs": "strongest other"},
            {"weakest rule": "weakest score", "other pairs, largest size": "strongest other score"},
        ),
        strict=True,
    ):
        for place, (label, name) in enumerate(lines.items()):
            axes.plot(places, [measured[f"{name}, {at}"] for at in places], label=label, color=LINES[place],
                      marker=MARKERS[place])  # fmt: skip
        axes.axhline(0, color=MUTED, linewidth=0.8)
        axes.axvline(12.5, color=MUTED, linewidth=0.8, linestyle=":")
        axes.set_xlabel("distance")
        axes.set_title(title)
        axes.legend()
    return figure


@styled
def training(measured: Measurement) -> Figure:
    """Rules visible and followed, and copying, against the step."""
    steps = [int(name.removeprefix("visible, ")) for name in measured.names if name.startswith("visible, ")]
    figure = Figure(figsize=(7.6, 3.2), layout="constrained")
    for axes, title, lines in zip(
        figure.subplots(1, 2),
        ("rules", "probability of what followed before"),
        (
            {"visible in the weights": "visible", "followed on text": "followed"},
            {"A B … A by itself": "copied by weights", "on text": "copied on text"},
        ),
        strict=True,
    ):
        for place, (label, name) in enumerate(lines.items()):
            axes.plot(range(len(steps)), [measured[f"{name}, {step}"] for step in steps], label=label,
                      color=LINES[place], marker=MARKERS[place])  # fmt: skip
        axes.set_xticks(range(len(steps)), [f"{step:,}" for step in steps], rotation=45, ha="right")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("training step")
        axes.set_title(title)
        axes.legend()
    return figure
