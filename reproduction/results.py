"""The results page of the programme: one JSON file of every measured number, and the text that follows from it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bilens.faithfulness import Curve
from bilens.statistics import Interval, interval
from reproduction import beside, headline
from reproduction.lab import Claim, Recipe
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


def page(
    results: Sequence[Result],
    *,
    quick: bool,
    figures: Mapping[str, Mapping[str, str]],
    folder: str,
    kept: Sequence[str] = (),
) -> str:
    """The results page, in Markdown.

    Args:
        results: of the recipes that were measured; quick: whether in the quick setting.
        figures: captions by the name of the figure, by recipe; folder: where their SVG files lie, from the page.
        kept: recipes that an earlier run measured and the last one did not.
    """
    lines = ["# Results", ""]
    if quick:
        lines += ["*Quick setting: small data and small models. The numbers say nothing about the claims.*", ""]
    hours = sum(result.seconds for result in results) / 3600
    again = [result.recipe.name for result in results if result.recipe.name not in kept]
    apart = f" The last run measured {', '.join(again)}; the other recipes are those of earlier runs." if kept else ""
    lines += [
        f"{_HEAD} All recipes on this page took {hours:.1f} hours by this count.{apart}",
        "",
        *_headline(results, figures, folder),
        *_claimed(results),
        *_differences(results),
        *_beside(results),
    ]
    for result in results:
        lines += [
            f"## {result.recipe.title}",
            "",
            f"{result.settings} {len(result.seeds)} seeds, {result.seconds:,.0f} s.",
            "",
        ]
        lines += [result.recipe.findings(result.seeds), ""]
        lines += _figures(figures.get(result.recipe.name, {}), folder)
        lines += ["| claim | draft | ours |", "|---|---|---|"]
        lines += [
            f"| {_cell(claim.text)} | {claim.draft} | {ours(claim, result.seeds)} |"
            for claim in result.recipe.claims(result.seeds[0])
        ]
        lines.append("")
    return "\n".join(lines)


def ours(claim: Claim, seeds: Sequence[Measurement]) -> str:
    """The measured mean with its interval, in the unit of the claim."""
    return f"{_found(claim, seeds).text(claim.form, claim.scale)}{claim.unit}"


def difference(claim: Claim, found: Interval) -> str | None:
    """How far the mean is from what the draft says, in the unit of the claim; None where the draft names no number.

    A range, and a bound with ≤, are met by what lies inside: the difference is then 0.
    """
    low, high = reference(claim.draft)
    if low is None or high is None:
        return None
    mean = found.mean * claim.scale
    away = mean - high if mean > high else mean - low if mean < low else 0.0
    said = f"{away:+{claim.form}}"
    return f"{said if re.search('[1-9]', said) else said[1:]}{claim.unit}"


def differs(claim: Claim, found: Interval) -> bool:
    """Whether the whole interval lies outside what the draft says."""
    low, high = reference(claim.draft)
    if low is None or high is None:
        return False
    mean, half = found.mean * claim.scale, found.half * abs(claim.scale)
    return mean - half > high or mean + half < low


def reference(draft: str) -> tuple[float | None, float | None]:
    """The lowest and the highest value that the draft's text allows: "97.8", "98.3 %", "≈ 13", "≤ 0.1", "3–5"."""
    number = r"(\d*\.?\d+)"
    if match := re.fullmatch(rf"(≈ )?{number}( %)?", draft):
        return float(match[2]), float(match[2])
    if draft == "the same":
        return 0.0, 0.0
    if match := re.fullmatch(rf"≤ {number}", draft):
        return float("-inf"), float(match[1])
    if match := re.fullmatch(rf"{number}–{number}", draft):
        return float(match[1]), float(match[2])
    return None, None


def _cell(text: str) -> str:
    """Text in a cell of a table: a bar would end it."""
    return text.replace("|", "\\|")


def _anchor(title: str) -> str:
    """What a heading of this title is linked by."""
    return re.sub(r"[^\w\s-]", "", title.lower()).replace(" ", "-")


def _found(claim: Claim, seeds: Sequence[Measurement]) -> Interval:
    return interval([seed[claim.number] for seed in seeds])


def _claimed(results: Sequence[Result]) -> list[str]:
    """The table of what the draft claims, N1 to N8, and of all else that it, or a later paper, gives a number for."""
    rows = [
        (claim, result)
        for result in results
        for claim in result.recipe.claims(result.seeds[0])
        if claim.draft != "–" or re.search(r"\(N\d", claim.text)
    ]
    if not rows:
        return []
    lines = [
        "## What the draft claims",
        "",
        "The difference is 0 inside a range or a bound. Claims of the founding draft are numbered N1 to N8; the "
        "others are of later work on the same task. Links lead to "
        "the settings.",
        "",
        "| claim | claimed | ours | difference | seeds | settings | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for claim, result in rows:
        away = difference(claim, _found(claim, result.seeds)) or "–"
        lines.append(
            f"| {_cell(claim.text)} | {claim.draft} | {ours(claim, result.seeds)} | {away} "
            f"| {len(result.seeds)} | [{result.recipe.name}](#{_anchor(result.recipe.title)}) | {result.seconds:,.0f} |"
        )
    return [*lines, ""]


def _differences(results: Sequence[Result]) -> list[str]:
    """Claims whose interval leaves out the value that was claimed, under the reason that the recipe gives for them."""
    found: dict[str, list[str]] = {}
    for result in results:
        reasons = result.recipe.reasons(result.seeds)
        for claim in result.recipe.claims(result.seeds[0]):
            measured = _found(claim, result.seeds)
            if len(result.seeds) > 1 and differs(claim, measured):
                said = f"{claim.text}: {ours(claim, result.seeds)} for {claim.draft} ({difference(claim, measured)})"
                found.setdefault(reasons.get(claim.number, "No experiment here says why."), []).append(said)
    if not found:
        return []
    lines = [
        f"- {why} This concerns:\n" + "\n".join(f"    - {said}" for said in claims) for why, claims in found.items()
    ]
    head = "Ours, what was claimed, and the difference, where the interval over seeds leaves out the claim."
    return ["## Where ours differs, and why", "", head, "", *lines, ""]


def _beside(results: Sequence[Result]) -> list[str]:
    """What the results of each recipe are compared with, and where nothing stands beside them."""
    rows = [(result, *beside.BESIDE[result.recipe.name]) for result in results if result.recipe.name in beside.BESIDE]
    if not rows:
        return []
    return [
        "## What stands beside each result",
        "",
        "A null is the same procedure without its content; a rival is another way to the same end.",
        "",
        "| results | null or rival | without one |",
        "|---|---|---|",
        *(
            f"| [{result.recipe.name}](#{_anchor(result.recipe.title)}) | {compared} | {missing} |"
            for result, compared, missing in rows
        ),
        "",
    ]


def _headline(results: Sequence[Result], figures: Mapping[str, Mapping[str, str]], folder: str) -> list[str]:
    measured = {result.recipe.name: result.seeds for result in results}
    rows = headline.table(measured)
    if not rows:
        return []
    return [*rows, "", *headline.text(measured), "", *_figures(figures.get("headline", {}), folder)]


def _figures(captions: Mapping[str, str], folder: str) -> list[str]:
    lines: list[str] = []
    for name, caption in captions.items():
        lines += [f"![{name.replace('-', ' ')}]({folder}/{name}.svg)", "", f"*{caption}*", ""]
    return lines


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


_HEAD = (
    "Every number on this page was measured by `bilens reproduce` and is in [results.json](results/results.json), from "
    "which this page is written. Ours is the mean over seeds with its 95 % interval (Student's t). Seeds differ in the "
    "weights that training starts from, in the order of the batches, and in the sparse coders. Seconds are those of "
    "all seeds of a recipe together; a model that several recipes use is trained by the first of them, and recipes "
    "that run side by side on one machine slow each other."
)
