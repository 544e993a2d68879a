"""What was claimed beside what was measured: the lines of the tables, and where the two differ."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bilens.statistics import Interval, interval
from reproduction.lab import Claim
from reproduction.measurement import Measurement
from reproduction.results import Result


def table(result: Result) -> list[str]:
    """Every claim of a recipe, what the draft says and what was measured, as a Markdown table."""
    rows = [
        f"| {_cell(claim.text)} | {claim.draft} | {ours(claim, result.seeds)} |"
        for claim in result.recipe.claims(result.seeds[0])
    ]
    return ["| claim | draft | ours |", "|---|---|---|", *rows]


def claimed(results: Sequence[Result]) -> list[str]:
    """The table of what the draft claims, N1 to N8, and of all else that it, or a later paper, gives a number for."""
    rows = [
        f"| {_cell(claim.text)} | {claim.draft} | {ours(claim, result.seeds)} "
        f"| {difference(claim, found(claim, result.seeds)) or '–'} | {len(result.seeds)} "
        f"| [{result.recipe.name}](#{anchor(result.recipe.title)}) | {result.seconds:,.0f} |"
        for result in results
        for claim in result.recipe.claims(result.seeds[0])
        if claim.draft != "–" or re.search(r"\(N\d", claim.text)
    ]
    head = ["| claim | claimed | ours | difference | seeds | settings | seconds |", "|---|---|---|---|---|---|---|"]
    return [*head, *rows] if rows else []


def differences(results: Sequence[Result]) -> list[str]:
    """The claims whose interval leaves out what was claimed, as a Markdown table; empty where there is none."""
    rows = [
        f"| {_cell(claim.text)} | {claim.draft} | {ours(claim, result.seeds)} | {difference(claim, measured)} |"
        for result in results
        for claim in result.recipe.claims(result.seeds[0])
        if len(result.seeds) > 1 and differs(claim, measured := found(claim, result.seeds))
    ]
    return ["| claim | claimed | ours | difference |", "|---|---|---|---|", *rows] if rows else []


def found(claim: Claim, seeds: Sequence[Measurement]) -> Interval:
    """The measured mean of a claim with its interval."""
    return interval([seed[claim.number] for seed in seeds])


def ours(claim: Claim, seeds: Sequence[Measurement]) -> str:
    """The measured mean with its interval, in the unit of the claim."""
    return f"{found(claim, seeds).text(claim.form, claim.scale)}{claim.unit}"


def difference(claim: Claim, measured: Interval) -> str | None:
    """How far the mean is from what the draft says, in the unit of the claim; None where the draft names no number.

    A range, and a bound with ≤, are met by what lies inside: the difference is then 0.
    """
    low, high = reference(claim.draft)
    if low is None or high is None:
        return None
    mean = measured.mean * claim.scale
    away = mean - high if mean > high else mean - low if mean < low else 0.0
    said = f"{away:+{claim.form}}"
    return f"{said if re.search('[1-9]', said) else said[1:]}{claim.unit}"


def differs(claim: Claim, measured: Interval) -> bool:
    """Whether the whole interval lies outside what the draft says."""
    low, high = reference(claim.draft)
    if low is None or high is None:
        return False
    mean, half = measured.mean * claim.scale, measured.half * abs(claim.scale)
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


def anchor(title: str) -> str:
    """What a heading of this title is linked by."""
    return re.sub(r"[^\w\s-]", "", title.lower()).replace(" ", "-")


def _cell(text: str) -> str:
    """Text in a cell of a table: a bar would end it."""
    return text.replace("|", "\\|")
