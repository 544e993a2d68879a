"""The page of results and the headline of the README, from what `results.json` holds and the prose of `text`."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from reproduction import claims, headline, text
from reproduction.results import Result
from reproduction.text import Template

HEAD, README = "head", "readme"
"""Templates that are of no recipe: the top of the page, and the headline of the README."""


def written(
    results: Sequence[Result], figures: Mapping[str, Mapping[str, str]], folder: str, prose: Mapping[str, Template]
) -> str:
    """The page with its prose, in Markdown.

    Args:
        results: of every recipe; figures: captions by the name of the figure, by recipe, "headline" among them.
        folder: where their SVG files lie, from the page; prose: a template for each recipe, and `HEAD`.

    Raises:
        BilensError: prose that the measurements do not bear out, a slot that nothing fills, or a figure or table that
            no template has a place for.
    """
    measured = {result.recipe.name: result.seeds for result in results}
    for name, seeds in measured.items():
        text.check(prose[name], seeds)
    hours = f"{sum(result.seconds for result in results) / 3600:.1f}"
    blocks = {
        "headline": _joined(headline.table(measured)),
        "contest": _joined(headline.contest(measured)),
        "claimed": _joined(claims.claimed(results)),
        "differences": _joined(claims.differences(results)),
        "hours": hours,
        **_figures(figures.get("headline", {}), folder),
    }
    parts = [text.fill(prose[HEAD], measured, blocks, prose, _elsewhere(results))]
    for result in results:
        name = result.recipe.name
        own = {
            "settings": _settings(result),
            "table": _joined(claims.table(result)),
            **result.recipe.tables(result.seeds),
            **_figures(figures.get(name, {}), folder),
        }
        elsewhere = headline.said(measured)
        parts.append(f"## {result.recipe.title}\n\n{text.fill(prose[name], measured, own, prose, elsewhere)}")
    return "\n\n".join(parts) + "\n"


def bare(results: Sequence[Result], figures: Mapping[str, Mapping[str, str]], folder: str, *, quick: bool) -> str:
    """The page without prose, which is about the published run: settings, figures and tables alone.

    Args:
        results: of the recipes that were measured; quick: whether in the quick setting.
        figures: captions by the name of the figure, by recipe; folder: where their SVG files lie, from the page.
    """
    measured = {result.recipe.name: result.seeds for result in results}
    parts = ["# Results"]
    if quick:
        parts.append("*Quick setting: small data and small models. The numbers say nothing about the claims.*")
    parts += [
        _joined(headline.table(measured)),
        _joined(headline.contest(measured)),
        *_figures(figures.get("headline", {}), folder).values(),
    ]
    if rows := claims.claimed(results):
        parts += ["## What the draft claims", _joined(rows)]
    if rows := claims.differences(results):
        parts += ["## Where ours differs", _joined(rows)]
    for result in results:
        shown = figures.get(result.recipe.name, {})
        parts += [f"## {result.recipe.title}", _settings(result), *result.recipe.tables(result.seeds).values()]
        parts += [*_figures(shown, folder).values(), _joined(claims.table(result))]
    return "\n\n".join(part for part in parts if part) + "\n"


def readme(results: Sequence[Result], figure: str, prose: Mapping[str, Template]) -> list[str]:
    """The lines of the headline in the README, wrapped at 120 characters.

    Args:
        results: of every recipe; figure: where the headline's figure lies, from the README; prose: with `README`.

    Raises:
        BilensError: a slot that nothing fills.
    """
    measured = {result.recipe.name: result.seeds for result in results}
    picture = f"![Cross-entropy recovered against numbers stored, for every way of reading and its null]({figure})"
    blocks = {
        "picture": picture,
        "headline": _joined(headline.table(measured)),
        "contest": _joined(headline.contest(measured)),
    }
    filled = text.fill(prose[README], measured, blocks, prose, _elsewhere(results))
    return [
        part
        for line in filled.splitlines()
        for part in (
            [line]
            if line.startswith(("|", "!"))
            else textwrap.wrap(line, 120, break_long_words=False, break_on_hyphens=False) or [""]
        )
    ]


def _elsewhere(results: Sequence[Result]) -> dict[str, str]:
    """What recipes generate, by slots such as front.best, and the numbers of rivals."""
    return {
        f"{result.recipe.name}.{name}": block
        for result in results
        for name, block in result.recipe.tables(result.seeds).items()
    } | headline.said({result.recipe.name: result.seeds for result in results})


def _settings(result: Result) -> str:
    return f"{result.settings} {len(result.seeds)} seeds, {result.seconds:,.0f} s."


def _figures(captions: Mapping[str, str], folder: str) -> dict[str, str]:
    """Each figure with its caption, by the slot that it fills."""
    return {
        f"figure:{name}": f"![{name.replace('-', ' ')}]({folder}/{name}.svg)\n\n*{caption}*"
        for name, caption in captions.items()
    }


def _joined(lines: Sequence[str]) -> str:
    return "\n".join(lines)


__all__ = ["HEAD", "README", "bare", "readme", "written"]
