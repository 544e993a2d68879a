"""What a sceptic would try instead, at equal numbers stored: layers trained from scratch, and the images' own axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from bilens.faithfulness import Curve
from bilens.statistics import interval
from reproduction.lab import Claim, Recipe
from reproduction.measurement import Measurement
from reproduction.recipes import boolean
from reproduction.recipes.front_figure import Point, draw, points
from reproduction.recipes.front_read import SHARED
from reproduction.recipes.rivals_measure import (
    DECAYS,
    FITTED,
    PRINCIPAL,
    SCRATCH,
    SHUFFLED,
    SMALL,
    SUBJECTS,
    measure,
    scratch,
)

RIVALS: Mapping[str, str] = {
    "layers trained from scratch": SCRATCH,
    "layers trained on principal components": FITTED,
    "principal components, same layer": PRINCIPAL,
}
"""What is drawn beside the directions that all digits share: names in legends, and how the names of curves begin."""


def claims(measured: Measurement) -> Sequence[Claim]:
    """The model, whose like the front reads; every rival at every size; and what untrained models give."""
    table = [
        Claim("test accuracy of the model, h = 1000", "accuracy", "–", ".2f", 100, " %"),
        Claim("its cross-entropy", "cross-entropy", "–", ".4f"),
    ]
    for decay in DECAYS:
        for h in measured.curve(scratch(decay)).kept.tolist():
            at = f"{h} hidden units from scratch, weight decay {decay:g}"
            table += [
                Claim(f"{at}: accuracy lost", f"accuracy lost, {at}", "–", ".2f", 100, " pts"),
                Claim(f"{at}: cross-entropy recovered", f"recovered, {at}", "–", ".2f", 100, " %"),
            ]
    for name in measured.names:
        if name.startswith("recovered of a model of"):
            table.append(Claim(name.replace("recovered", "cross-entropy recovered", 1), name, "–", ".1f", 100, " %"))
    for subject in SUBJECTS:
        table += [
            Claim(f"effective rank (Σ|λ| / ‖λ‖)², {SMALL} hidden units, {subject}", f"effective rank, {subject}",
                  "–", ".1f"),
            Claim(f"eigenvectors per digit whose mean term is above 0.1, {subject}", f"active, raising, {subject}",
                  "–", ".1f"),
            Claim(f"the same, above 0.1 of the digit's largest, {subject}", f"active, relative, {subject}",
                  "–", ".1f"),
        ]  # fmt: skip
    table += [
        Claim("terms that cover 90 % of the margin, median, untrained model", "terms, untrained", "–", ".1f"),
        Claim("Σ|term| over the margin, median, untrained model", "terms over margin, untrained", "–", ".1f"),
    ]
    for name in boolean.SHARES:
        table += [
            Claim(f"functions read right from an untrained layer, {d} dimensions, {name}",
                  f"recovered, {d}, {name}, untrained", "–", ".1f", 100, " %")
            for d in range(2, 13) if f"recovered, {d}, {name}, untrained" in measured.names
        ]  # fmt: skip
    return table


def compared(seeds: Sequence[Measurement]) -> dict[str, list[Point]]:
    """The points of every rival, by its name in legends."""
    return {name: points(seeds, prefix) for name, prefix in RIVALS.items()}


def figures(seeds: Sequence[Measurement]) -> Mapping[str, tuple[Figure, str]]:
    """Directions that all digits share beside every rival."""
    ways = {
        SHARED: (points(seeds, SHARED), []),
        **{name: (found, []) for name, found in compared(seeds).items()},
    }
    return {
        "rivals-numbers": (
            draw({"Directions shared by all digits, and rivals": ways}, seeds[0]["numbers of the layer"], {}),
            "Cross-entropy recovered on the 10,000 test images against numbers stored, 100 for the model with 1,000 "
            "hidden units of the same seed: mean over seeds, its 95 % interval as a band. Of the two weight decays of "
            "what was trained anew, the better is shown at each size.",
        )
    }


def contest(seeds: Sequence[Measurement]) -> list[str]:
    """Shared directions and every rival that stores no more, as a Markdown table: % of the cross-entropy recovered."""
    lines = [
        "| directions | numbers stored | shared directions | principal components | layer trained on these "
        "| hidden units from scratch | that layer |",
        "|---|---|---|---|---|---|---|",
    ]
    layers = seeds[0].curve(scratch(DECAYS[0])).kept.tolist()
    sizes = seeds[0].curve(SHARED)
    for h, k in zip(layers, _directions(seeds), strict=True):
        stored = 0 if sizes.numbers is None else int(sizes.numbers[sizes.kept.tolist().index(k)])
        trained = [
            _cell(seeds, name, k)
            for name in (f"{FITTED}, weight decay {decay:g}" for decay in DECAYS)
            if k in seeds[0].curve(name).kept.tolist()
        ]
        cells = [_cell(seeds, SHARED, k), _cell(seeds, PRINCIPAL, k), _best(trained)]
        alone = _best([_cell(seeds, scratch(decay), h) for decay in DECAYS])
        shown = " | ".join("–" if cell is None else cell[1] for cell in cells)
        lines.append(f"| {k} | {stored:,} | {shown} | {h} | {'–' if alone is None else alone[1]} |")
    return lines


def _directions(seeds: Sequence[Measurement]) -> list[int]:
    """How many directions each layer that is trained from scratch stands beside."""
    return [int(seeds[0][f"directions beside {h}"]) for h in seeds[0].curve(scratch(DECAYS[0])).kept.tolist()]


def _cell(seeds: Sequence[Measurement], name: str, k: int) -> tuple[float, str]:
    """The mean of a curve at a point, and how it is written."""
    found = interval([_recovered(seed.curve(name), k) for seed in seeds])
    return found.mean, found.text(".2f", 100)


def _best(cells: Sequence[tuple[float, str]]) -> tuple[float, str] | None:
    return max(cells, default=None)


def _recovered(curve: Curve, k: int) -> float:
    return 0.0 if curve.recovered is None else float(curve.recovered[curve.kept.tolist().index(k)])


def tables(seeds: Sequence[Measurement]) -> Mapping[str, str]:
    """Shared directions beside their rivals."""
    return {"contest": "\n".join(contest(seeds))}


RECIPE = Recipe(
    "rivals",
    "What a sceptic would try instead",
    lambda lab: (
        f"Models as in the first section, h = {lab.size(1000, 40)}, {lab.size(10, 6)} epochs, AdamW, lr 1e-3, no "
        f"noise; smaller layers, and layers on principal components, with weight decay "
        f"{' and '.join(f'{decay:g}' for decay in DECAYS)}; untrained and {SHUFFLED}: h = {lab.size(SMALL, 30)}."
    ),
    measure,
    claims,
    figures,
    tables,
)

__all__ = ["RECIPE", "RIVALS", "compared", "contest"]
