"""Nulls and rivals of single results, each on the axis of the result that it stands beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from reproduction.lab import Claim, Recipe
from reproduction.measurement import Measurement
from reproduction.recipes import masks, one_sample
from reproduction.recipes.front_figure import Point, draw, points
from reproduction.recipes.front_read import SHARED
from reproduction.recipes.nulls_measure import SMALL, SPANS, WAYS, measure
from reproduction.recipes.rivals_measure import PRINCIPAL


def claims(measured: Measurement) -> Sequence[Claim]:
    """Every null as a line of its own."""
    table = [
        Claim("test accuracy of the model", "accuracy", "–", ".2f", 100, " %"),
        Claim("active atoms of the SAE on outputs", "active atoms", "–", ".1f"),
    ]
    for name in SPANS:
        table += [
            Claim(f"outputs projected on {name}: rank", f"rank, {name}", "–", ".1f"),
            Claim(f"outputs projected on {name}: numbers stored", f"numbers stored, {name}", "–", ",.0f"),
            Claim(f"outputs projected on {name}: accuracy lost", f"accuracy lost, {name}", "–", ".2f", 100, " pts"),
            Claim(f"outputs projected on {name}: cross-entropy recovered", f"recovered, {name}", "–", ".2f", 100, " %"),
        ]
    for group in one_sample.GROUPS:
        for way in WAYS:
            text = f"terms that cover {100 * one_sample.SHARE:g} % of the margin, median, {way}, {group}"
            table.append(Claim(text, f"terms, {way}, {group}", "–", ".1f"))
            table.append(
                Claim(
                    f"Σ|term| over the margin, median, {way}, {group}", f"terms over margin, {way}, {group}", "–", ".1f"
                )
            )
    for number in (name for name in measured.names if name.startswith(("needed for ", "numbers stored for "))):
        table.append(Claim(f"interactions {number}", number, "–", ",.0f"))
    for name in (masks.MASKS[0], masks.MEANS):
        number = f"left, {name}, {masks.STRENGTH} %, {masks.PAIRS[1]}"
        text = f"images misled by a mask of {masks.STRENGTH} % of their norm, {name}, {masks.PAIRS[1]}"
        table.append(Claim(text, number, "–", ".1f", 100, " %"))
    for name, number in (
        ("another digit's top eigenvector", "misled"),
        ("its pixels permuted", "misled, permuted"),
        (masks.MEANS, f"misled, {masks.MEANS}"),
    ):
        text = f"images misled by a mask of that norm in a model without an embedding, {name}"
        table.append(Claim(text, number, "–", ".1f", 100, " %"))
    table += [
        Claim(
            f"test accuracy on the 355 digits of 8×8 pixels, {name}",
            f"accuracy of digits, {name}",
            "–",
            ".1f",
            100,
            " %",
        )
        for name in SMALL
    ]
    return [claim for claim in table if claim.number in measured.names]


def figures(seeds: Sequence[Measurement]) -> Mapping[str, tuple[Figure, str]]:
    """Directions of the layer beside those of the images, in one layer."""
    ways: dict[str, tuple[list[Point], list[Point]]] = {name: (points(seeds, name), []) for name in (SHARED, PRINCIPAL)}
    return {
        "nulls-principal": (
            draw({"Directions in the same layer": ways}, seeds[0]["numbers of the layer"], {}),
            "Cross-entropy recovered on the 10,000 test images against numbers stored, the model with 1,000 hidden "
            "units between directions that its kernels share, and between principal components of the images: mean "
            "over seeds, its 95 % interval as a band.",
        )
    }


RECIPE = Recipe(
    "nulls",
    "Nulls of single results",
    lambda lab: (
        f"h = {lab.size(1000, 40)}; for interactions and masks h = {lab.size(300, 30)}; {lab.size(10, 6)} epochs, "
        "AdamW, lr 1e-3, weight decay 1, no noise; sums of few terms: the 8×8 digits, 128 hidden units."
    ),
    measure,
    claims,
    figures,
)
