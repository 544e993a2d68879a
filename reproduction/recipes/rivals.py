"""What a sceptic would try instead, at equal numbers stored: layers trained from scratch, and the images' own axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from reproduction.lab import Claim, Recipe
from reproduction.measurement import Measurement
from reproduction.recipes.front_figure import Point, draw, points
from reproduction.recipes.front_read import CLASSES
from reproduction.recipes.rivals_measure import DECAY, FITTED, HIDDEN, SCRATCH, measure

ANEW: Mapping[str, str] = {SCRATCH: "trained from scratch", FITTED: "trained on principal components"}
"""What was trained anew, and so can stand beside any model: curves, and their names in the headline's figure."""


def claims(measured: Measurement) -> Sequence[Claim]:
    """The model, and layers from scratch beside its interactions."""
    table = [
        Claim(f"test accuracy of the model, h = {HIDDEN}", "accuracy", "–", ".2f", 100, " %"),
        Claim("numbers of the layer and its read-out", "numbers of the layer", "–", ",.0f"),
    ]
    for name in measured.names:
        if name.startswith("recovered beside interactions"):
            hidden = name.split(", ")[1]
            text = f"{hidden} trained from scratch: cross-entropy recovered beside interactions"
            table.append(Claim(text, name, "–", ".1f", 100, " %"))
    return table


def figures(seeds: Sequence[Measurement]) -> Mapping[str, tuple[Figure, str]]:
    """What was trained anew, by the numbers that it stores."""
    ways: dict[str, tuple[list[Point], list[Point]]] = {name: (points(seeds, name), []) for name in (SCRATCH, FITTED)}
    return {
        "rivals-numbers": (
            draw({"Trained anew": ways}, seeds[0]["numbers of the layer"], {}),
            "Cross-entropy recovered on the 10,000 test images against numbers stored, 100 for the model with "
            f"{HIDDEN} hidden units of the same seed: mean over seeds, its 95 % interval as a band. What recovers more "
            "than the model stands at the upper edge.",
        )
    }


def against(seeds: Sequence[Measurement], name: str, models: Sequence[Measurement]) -> dict[int, Point]:
    """What was trained anew beside other models, by how much of it is kept: 1 for the model of the same seed.

    Args:
        seeds: of this recipe; name: of the curve, which needs no model; models: with their own "cross-entropy".
    """
    found: dict[int, Point] = {}
    for place, k in enumerate(seeds[0].curve(name).kept.tolist()):
        values = [
            (math.log(CLASSES) - float(seed.curve(name).cross_entropy[place]))
            / (math.log(CLASSES) - model["cross-entropy"])
            for seed, model in zip(seeds, models, strict=True)
        ]
        numbers = seeds[0].curve(name).numbers
        found[k] = Point(0.0 if numbers is None else float(numbers[place]), tuple(values))
    return found


RECIPE = Recipe(
    "rivals",
    "What a sceptic would try instead",
    lambda lab: (
        f"h = {lab.size(HIDDEN, 30)}, {lab.size(10, 6)} epochs, AdamW, lr 1e-3, weight decay 1, no noise; what is "
        f"trained anew with weight decay {DECAY:g}."
    ),
    measure,
    claims,
    figures,
)
