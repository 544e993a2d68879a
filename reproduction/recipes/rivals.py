"""What a sceptic would try instead, at equal numbers stored: layers trained from scratch, and the images' own axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from bilens.statistics import interval
from reproduction.lab import Claim, Recipe
from reproduction.measurement import Measurement
from reproduction.recipes import boolean
from reproduction.recipes.front_figure import Point, draw, points
from reproduction.recipes.front_read import CLASSES, SHARED
from reproduction.recipes.rivals_measure import DECAY, FITTED, HIDDEN, PRINCIPAL, SCRATCH, SUBJECTS, measure

ANEW: Mapping[str, str] = {SCRATCH: "trained from scratch", FITTED: "trained on principal components"}
"""What was trained anew, and so can stand beside any model: curves, and their names in the headline's figure."""


def claims(measured: Measurement) -> Sequence[Claim]:
    """The model, every layer from scratch, and what untrained models give."""
    table = [
        Claim(f"test accuracy of the model, h = {HIDDEN}", "accuracy", "–", ".2f", 100, " %"),
        Claim("numbers of the layer and its read-out", "numbers of the layer", "–", ",.0f"),
    ]
    for name in measured.names:
        if name.startswith("recovered beside interactions"):
            hidden = name.split(", ")[1]
            text = f"{hidden} trained from scratch: cross-entropy recovered beside interactions"
            table.append(Claim(text, name, "–", ".1f", 100, " %"))
    for subject in SUBJECTS:
        for text, number in (
            ("effective rank (Σ|λ| / ‖λ‖)², mean over digits", "effective rank"),
            ("eigenvectors per digit whose mean term is above 0.1", "active, raising"),
            ("the same, above 0.1 of the digit's largest", "active, relative"),
        ):
            table.append(Claim(f"{text}, {subject}", f"{number}, {subject}", "–", ".1f"))
    for number in (name for name in measured.names if name.startswith("NMSE on ")):
        what, variant = number.split(", ", 1)
        table.append(Claim(f"{what}, as many directions as codes, shared by all pairs, {variant}", number, "–", ".4f"))
    table += [
        Claim("terms that cover 90 % of the margin, median, untrained model", "terms, untrained", "–", ".1f"),
        Claim("Σ|term| over the margin, median, untrained model", "terms over margin, untrained", "–", ".1f"),
    ]
    for share in boolean.SHARES:
        for d in range(2, 13):
            if (number := f"recovered, {d}, {share}, untrained") in measured.names:
                text = f"functions read right from an untrained layer, {d} dimensions, {share}"
                table.append(Claim(text, number, "–", ".1f", 100, " %"))
    return table


def figures(seeds: Sequence[Measurement]) -> Mapping[str, tuple[Figure, str]]:
    """Directions that all digits share beside every rival."""
    names = (SHARED, PRINCIPAL, SCRATCH, FITTED)
    ways: dict[str, tuple[list[Point], list[Point]]] = {name: (points(seeds, name), []) for name in names}
    return {
        "rivals-numbers": (
            draw({"Shared directions and their rivals": ways}, seeds[0]["numbers of the layer"], {}),
            "Cross-entropy recovered on the 10,000 test images against numbers stored, 100 for the model with "
            f"{HIDDEN} hidden units of the same seed: mean over seeds, its 95 % interval as a band. What recovers more "
            "than the model stands at the upper edge, and what recovers less than a uniform guess at the lower one.",
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


def tables(seeds: Sequence[Measurement]) -> Mapping[str, str]:
    """Shared directions beside every rival that stores no more, in % of the cross-entropy."""
    lines = [
        "| directions | they store | shared by all digits | principal components | hidden units from scratch | they |",
        "|---|---|---|---|---|---|",
    ]
    shared, principal, layers = (_by_kept(seeds, name) for name in (SHARED, PRINCIPAL, SCRATCH))
    for h, layer in layers.items():
        k = int(seeds[0][f"directions beside {h}"])
        cells = [interval(point.recovered).text(".2f", 100) for point in (shared[k], principal[k], layer)]
        lines.append(f"| {k} | {shared[k].numbers:,.0f} | {cells[0]} | {cells[1]} | {h} | {cells[2]} |")
    return {"contest": "\n".join(lines)}


def _by_kept(seeds: Sequence[Measurement], name: str) -> dict[int, Point]:
    return dict(zip(seeds[0].curve(name).kept.tolist(), points(seeds, name), strict=True))


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
    tables,
)
