"""What each way of reading features recovers against the numbers that it must store, each beside its null."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from bilens.statistics import interval
from reproduction.lab import Claim, Recipe
from reproduction.measurement import Measurement
from reproduction.recipes.front_coders import MAIN
from reproduction.recipes.front_figure import Point, draw, front, points
from reproduction.recipes.front_measure import measure
from reproduction.recipes.front_read import (
    BRIEF,
    DRAWN,
    EIGENVECTORS,
    ENTRIES,
    ENTRIES_NULL,
    LOGITS,
    NEXT_DIGIT,
    OUTPUT_SAMPLES,
    OUTPUTS,
    PAIR_ROWS,
    RANDOM,
    RANDOM_VECTORS,
    SHARED,
    SHARED_NULL,
    TRAINED,
    TRUNCATED,
    TRUNCATED_NULL,
    UNITS,
    UNITS_NULL,
)


def _features(space: str, *sources: str) -> tuple[str, ...]:
    return tuple(f"pair features of {space}, {source}," for source in sources)


WAYS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    SHARED: ((SHARED,), (SHARED_NULL,)),
    EIGENVECTORS: ((EIGENVECTORS,), (NEXT_DIGIT, RANDOM_VECTORS)),
    TRUNCATED: ((TRUNCATED,), (TRUNCATED_NULL,)),
    UNITS: ((UNITS,), (UNITS_NULL,)),
    ENTRIES: ((ENTRIES,), (ENTRIES_NULL,)),
    "pair features": (
        (*_features(OUTPUTS, TRAINED), *_features(LOGITS, TRAINED, BRIEF)),
        (*_features(OUTPUTS, DRAWN, RANDOM), *_features(LOGITS, DRAWN, RANDOM)),
    ),
}
"""Ways of reading: the curves that belong to each, and those of its null, by how their names begin."""

PAIR_WAYS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "of outputs, trained": (_features(OUTPUTS, TRAINED), ()),
    "of outputs, pairs drawn": (_features(OUTPUTS, DRAWN), ()),
    "of outputs, random directions": (_features(OUTPUTS, RANDOM), ()),
    "of logits, trained": (_features(LOGITS, TRAINED, BRIEF), ()),
    "of logits, pairs drawn": (_features(LOGITS, DRAWN), ()),
    "of logits, random directions": (_features(LOGITS, RANDOM), ()),
}

TARGETS = (0.9, 0.99, 0.999)
"""Shares of the cross-entropy that sizes are compared at."""

BUDGETS = (30_000, 100_000, 300_000, 1_000_000)
"""Numbers stored that ways are compared at; the layer's own besides."""


def fronts(
    seeds: Sequence[Measurement], ways: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]
) -> dict[str, tuple[list[Point], list[Point]]]:
    """The front of each way and of its null."""

    def best(prefixes: Sequence[str]) -> list[Point]:
        return front([point for prefix in prefixes for point in points(seeds, prefix)])

    return {name: (best(curves), best(nulls)) for name, (curves, nulls) in ways.items()}


def needed(found: Sequence[Point], target: float) -> float | None:
    """The fewest numbers with which the mean over seeds reaches a share; None where no point does."""
    return next((point.numbers for point in found if point.mean >= target), None)


def within(found: Sequence[Point], budget: float) -> Point | None:
    """The best point that stores no more than a budget."""
    return next((point for point in reversed(found) if point.numbers <= budget), None)


def claims(measured: Measurement) -> Sequence[Claim]:
    """The pair SAE beside its nulls, all at the same number of atoms and codes."""
    table = [
        Claim("test accuracy of the model", "accuracy", "–", ".2f", 100, " %"),
        Claim("numbers of the layer and its read-out", "numbers of the layer", "–", ",.0f"),
    ]
    for row in PAIR_ROWS:
        table += [
            Claim(f"{row}: numbers stored", f"numbers stored, {row}", "–", ",.0f"),
            Claim(f"{row}: accuracy lost", f"accuracy lost, {row}", "–", ".2f", 100, " pts"),
            Claim(f"{row}: cross-entropy recovered", f"recovered, {row}", "–", ".2f", 100, " %"),
            Claim(f"{row}: NMSE on pairs", f"NMSE on pairs, {row}", "–", ".3f"),
            Claim(
                f"{row}: NMSE on the layer's outputs, {OUTPUT_SAMPLES:,} test images",
                f"NMSE on outputs, {row}", "–", ".4f",
            ),
            Claim(f"{row}: NMSE on the logits", f"NMSE on logits, {row}", "–", ".4f"),
        ]  # fmt: skip
    return table


def figure(
    seeds: Sequence[Measurement], marks: Mapping[str, Point], rivals: Mapping[str, Sequence[Point]] | None = None
) -> Figure:
    """Every way of reading with its null and its rivals, and pair features by where their atoms come from."""
    panels = {
        "Ways of reading; their nulls dashed": fronts(seeds, WAYS),
        "Pair features, by their atoms": fronts(seeds, PAIR_WAYS),
    }
    return draw(panels, seeds[0]["numbers of the layer"], marks, rivals)


CAPTION = (
    "Cross-entropy recovered on the 10,000 test images against the numbers that each way of reading stores, 1,000 "
    "hidden units: mean over five seeds, its 95 % interval as a band, the best setting of each way at each size; each "
    "nine of the vertical axis has equal room. Dashed: the null of the same colour. Grey, dash-dotted: rivals, at "
    "the size they store: layers trained anew on the images without weight decay, and the layer between principal "
    "components of the images. Upright: the layer itself."
)


def figures(seeds: Sequence[Measurement]) -> Mapping[str, tuple[Figure, str]]:
    """None of its own: the headline is this recipe's figure."""
    return {}


def budgets(seeds: Sequence[Measurement]) -> list[str]:
    """What the best way, pair features and their null recover at each budget, as a Markdown table."""
    lines = [
        "| numbers stored | best way | it recovers, % | pair features, % | never trained, % | trained more by, points "
        "| pair features recover more than |",
        "|---|---|---|---|---|---|---|",
    ]
    for budget, best, reached in _reached(seeds):
        mine, null = reached.get("pair features"), within(fronts(seeds, WAYS)["pair features"][1], budget)
        cells = ["–" if point is None else _said(point.recovered) for point in (reached[best], mine, null)]
        cells.append("–" if mine is None or null is None else _said(_less(mine, null)))
        below = [] if mine is None else [name for name, point in reached.items() if _more(mine, point)]
        lines.append(f"| {budget:,.0f} | {best} | {' | '.join(cells)} | {', '.join(below) or 'none'} |")
    return lines


def _reached(seeds: Sequence[Measurement]) -> list[tuple[float, str, dict[str, Point]]]:
    """For each budget the best way, and where every way comes to."""
    found, said = fronts(seeds, WAYS), []
    for budget in (*BUDGETS, seeds[0]["numbers of the layer"]):
        reached = {name: point for name, (way, _) in found.items() if (point := within(way, budget)) is not None}
        said.append((budget, max(reached, key=lambda name: reached[name].mean), reached))
    return said


def _more(mine: Point, other: Point) -> bool:
    """Whether one recovers more than another, by an interval over seeds that leaves out 0."""
    more = interval(_less(mine, other))
    return more.mean > (more.half if more.count > 1 else 0)


def _less(one: Point, other: Point) -> list[float]:
    return [a - b for a, b in zip(one.recovered, other.recovered, strict=True)]


def _said(values: Sequence[float]) -> str:
    return interval(values).text(".2f", 100)


def best(seeds: Sequence[Measurement]) -> str:
    """The way that recovers most at the budgets, up to the layer's own size; several where no one does at all."""
    return ", ".join(sorted({name for _, name, _ in _reached(seeds)}))


def reach(seeds: Sequence[Measurement]) -> list[str]:
    """The fewest numbers with which each way, and its null, reaches a share, as a Markdown table."""
    lines = [
        f"| way of reading | {' | '.join(f'{100 * target:g} %' for target in TARGETS)} |",
        f"|---|{'---|' * len(TARGETS)}",
    ]

    def cell(found: Sequence[Point], target: float) -> str:
        count = needed(found, target)
        return "–" if count is None else f"{count:,.0f}"

    for name, (way, null) in (fronts(seeds, WAYS) | fronts(seeds, PAIR_WAYS)).items():
        title = name if name in WAYS else f"pair features {name}"
        lines.append(f"| {title} | {' | '.join(cell(way, target) for target in TARGETS)} |")
        if null:
            lines.append(f"| … its null | {' | '.join(cell(null, target) for target in TARGETS)} |")
    return lines


def tables(seeds: Sequence[Measurement]) -> Mapping[str, str]:
    """The best way, what it, pair features and their null recover at each budget, and what each way needs."""
    return {"best": best(seeds), "budgets": "\n".join(budgets(seeds)), "needed": "\n".join(reach(seeds))}


RECIPE = Recipe(
    "front",
    "What is recovered, and what must be stored",
    lambda lab: (
        f"h = {lab.size(1000, 40)}, {lab.size(10, 6)} epochs, AdamW, lr 1e-3, weight decay 1, no noise; pair SAE: "
        f"{MAIN.size(lab).atoms:,} atoms, TopK {MAIN.size(lab).k}, {MAIN.size(lab).steps:,} updates of 1,024 pairs; "
        f"{len(lab.dataset().test.labels):,} test images."
    ),
    measure,
    claims,
    figures,
    tables,
)
