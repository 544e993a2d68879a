"""What the report of every recipe must be."""

from __future__ import annotations

import math
from collections.abc import Mapping

from matplotlib.figure import Figure

from reproduction.lab import Recipe
from reproduction.measurement import Measurement


def check_report(recipe: Recipe, seeds: list[Measurement]) -> None:
    """Every claim has its number; figures are drawn and captioned and tables are whole, also of one seed."""
    for claim in recipe.claims(seeds[0]):
        for seed in seeds:
            assert math.isfinite(seed[claim.number])
            format(claim.scale * seed[claim.number], claim.form)
    texts = [claim.text for claim in recipe.claims(seeds[0])]
    assert len(set(texts)) == len(texts)
    for measured in (seeds, seeds[:1]):
        drawn: Mapping[str, tuple[Figure, str]] = recipe.figures(measured)
        assert all(isinstance(figure, Figure) and caption.endswith(".") for figure, caption in drawn.values())
        for table in recipe.tables(measured).values():
            assert len({line.count("|") for line in table.splitlines()}) == 1
