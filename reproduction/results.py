"""One JSON file of every number and curve that was measured; of it alone the page of results is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bilens.faithfulness import Curve
from reproduction.lab import Recipe
from reproduction.measurement import Measurement

DIGITS = 7
"""Significant digits of a stored number."""

_COLUMNS = ("accuracy", "cross_entropy", "recovered", "error", "bound")


@dataclass(frozen=True, eq=False)
class Result:
    """What a recipe measured over its seeds.

    Args:
        recipe: which; settings: what was done, in one line.
        seconds: of all seeds together, training of models included where the recipe was the first to ask for them.
        seeds: one measurement per seed; those that were read from a results file have no records to draw.
    """

    recipe: Recipe
    settings: str
    seconds: float
    seeds: tuple[Measurement, ...]


def encode(results: Sequence[Result], quick: bool) -> dict[str, Any]:
    """JSON of every number and curve; of it alone the page is written."""
    return {"quick": quick, "recipes": {result.recipe.name: _encode(result) for result in results}}


def decode(content: Mapping[str, Any], recipes: Mapping[str, Recipe]) -> list[Result]:
    """The results in a JSON that `encode` made, in the order of the recipes."""
    found = content["recipes"]
    return [_decode(recipe, found[name]) for name, recipe in recipes.items() if name in found]


def merge(content: Mapping[str, Any], earlier: Mapping[str, Any]) -> dict[str, Any]:
    """Results of a run with those of an earlier one for the recipes that it did not measure, which are named as kept.

    Nothing is kept of an earlier run in another setting, quick or full.
    """
    if earlier.get("quick") != content["quick"]:
        return dict(content)
    mine = content["recipes"]
    kept = {name: found for name, found in earlier["recipes"].items() if name not in mine}
    captions = {name: found for name, found in earlier.get("captions", {}).items() if name in kept}
    return {
        **content,
        "recipes": {**kept, **mine},
        "captions": {**captions, **content["captions"]},
        "kept": sorted(kept),
    }


def _encode(result: Result) -> dict[str, Any]:
    names = result.seeds[0].names
    return {
        "settings": result.settings,
        "seconds": round(result.seconds),
        "numbers": {name: [_rounded(seed[name]) for seed in result.seeds] for name in names},
        "curves": [
            {
                "name": curve.name,
                "kept": curve.kept.tolist(),
                **{
                    column: None
                    if (values := getattr(curve, column)) is None
                    else [_rounded(v) for v in values.tolist()]
                    for column in _COLUMNS
                },
                **{name: value for name, value in _about(curve).items() if value is not None},
                "seed": seed,
            }
            for seed, measured in enumerate(result.seeds)
            for curve in measured.curves
        ],
    }


def _decode(recipe: Recipe, content: Mapping[str, Any]) -> Result:
    numbers: Mapping[str, Sequence[float]] = content["numbers"]
    count = len(next(iter(numbers.values())))
    curves: list[list[Curve]] = [[] for _ in range(count)]
    for curve in content["curves"]:
        accuracy, cross_entropy, recovered, error, bound = (_column(curve[name]) for name in _COLUMNS)
        stored = curve.get("numbers")
        curves[curve["seed"]].append(
            Curve(
                curve["name"],
                torch.tensor(curve["kept"]),
                accuracy,
                cross_entropy,
                recovered,
                error,
                bound,
                curve.get("samples"),
                None if stored is None else torch.tensor(stored, dtype=torch.int64),
                curve.get("beside"),
            )
        )
    seeds = tuple(
        Measurement.of({name: values[seed] for name, values in numbers.items()}, curves[seed]) for seed in range(count)
    )
    return Result(recipe, content["settings"], content["seconds"], seeds)


def _about(curve: Curve) -> dict[str, Any]:
    """What a curve says of its points, where it is known."""
    stored = None if curve.numbers is None else curve.numbers.tolist()
    return {"samples": curve.samples, "numbers": stored, "beside": curve.beside}


def _column(values: Sequence[float] | None) -> Any:
    return None if values is None else torch.tensor(values, dtype=torch.float64)


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
