"""The founding programme again: each claim measured over seeds, with its interval, in one table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from bilens import files, plots
from bilens.errors import BilensError
from bilens.progress import bar
from bilens.store import Folder
from reproduction import claims, headline, page, results, text
from reproduction.checking import whole
from reproduction.lab import Lab, Recipe
from reproduction.measurement import Measurement
from reproduction.recipes import (
    alternatives,
    atoms,
    backdoor,
    boolean,
    convolution,
    depth,
    digit_directions,
    equal_parameters,
    front,
    full_decompile,
    grokking,
    language,
    nulls,
    one_sample,
    output_sae,
    pair_sae,
    paths,
    rivals,
    rules,
    surrogates,
    tensor_svd,
    training,
    transcoder,
)
from reproduction.results import Result

RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        front.RECIPE,
        rivals.RECIPE,
        atoms.RECIPE,
        nulls.RECIPE,
        equal_parameters.RECIPE,
        digit_directions.RECIPE,
        tensor_svd.RECIPE,
        output_sae.RECIPE,
        pair_sae.RECIPE,
        full_decompile.RECIPE,
        boolean.RECIPE,
        alternatives.RECIPE,
        training.RECIPE,
        one_sample.RECIPE,
        rules.RECIPE,
    )
}
"""Every recipe: what all ways and their rivals recover at what size, then in the order of the founding draft."""

APART: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        language.RECIPE,
        surrogates.RECIPE,
        convolution.RECIPE,
        depth.RECIPE,
        backdoor.RECIPE,
        transcoder.RECIPE,
        grokking.RECIPE,
        paths.RECIPE,
    )
}
"""Recipes that run only when they are named, and are no part of the programme's page; `language` needs `bilens[lm]`."""


def reproduce(
    names: tuple[str, ...] = (),
    /,
    *,
    seeds: int = 5,
    out: Path = Path("runs/reproduce"),
    quick: bool = False,
    docs: Path | None = None,
    only_text: bool = False,
) -> dict[str, Any]:
    """Measure the claims of the founding programme again, over seeds, with 95 % intervals.

    Example: python -m reproduction svd --seeds 5 --out runs/reproduce

    Args:
        names: recipes to run; when none is named, all but `language` and `surrogates`, which need bilens[lm],
            `convolution`, `depth`, `backdoor`, `transcoder`, `grokking` and `paths`, and `rules`, which needs its model
            and truth.
        seeds: how many; a folder with fewer continues.
        out: folder for models, records, figures, results.md and results.json; the same command run again continues.
        quick: the 5,000 digits and small models, to see that everything works.
        docs: a folder of documentation where results.md goes too, with its prose, its figures and numbers in results/;
            recipes that its results.json has and this folder has not stay as they are.
        only_text: measure nothing; write results.md in the folder of --docs, and the README beside it, from its
            results.json.
    """
    if only_text:
        if docs is None:
            raise BilensError("--only-text without --docs", "a folder of documentation", "add --docs docs")
        return rewritten(docs)
    unknown = [name for name in names if name not in _known()]
    if unknown:
        raise BilensError(f"recipe {unknown[0]!r}", f"one of {', '.join(_known())}", "choose some of these, or none")
    seeds = whole("seeds", seeds, 1)
    if docs is not None and not docs.is_dir():
        raise BilensError(f"--docs {docs}", "a folder", "make it first")
    chosen = [_known()[name] for name in names] if names else [one for one in RECIPES.values() if one.complete]
    lab = Lab(Folder(out, {"command": "reproduce", "quick": quick}), quick)
    with bar("recipes × seeds", len(chosen) * seeds) as step:
        for seed in range(seeds):
            for recipe in chosen:
                measured(lab, recipe, seed)
                step(1)
    return report(lab, docs)


def _known() -> dict[str, Recipe]:
    return {**RECIPES, **APART}


def measured(lab: Lab, recipe: Recipe, seed: int) -> Measurement:
    """One seed of a recipe, from the folder or measured now."""
    return lab.run.record(f"{recipe.name}/{seed}", Measurement, lambda: recipe.measure(lab, seed))


def finished(lab: Lab, recipe: Recipe) -> list[Measurement]:
    """The seeds of a recipe that are in the folder, from 0 on."""
    found: list[Measurement] = []
    while lab.run.has(f"{recipe.name}/{len(found)}"):
        found.append(measured(lab, recipe, len(found)))
    return found


def report(lab: Lab, docs: Path | None = None) -> dict[str, Any]:
    """Write `results.md`, `results.json` and the figures from every record in the folder, and print the table."""
    found = []
    for recipe in _known().values():
        seeds = finished(lab, recipe)
        seconds = sum(lab.run.timings.get(f"{recipe.name}/{seed}", 0.0) for seed in range(len(seeds)))
        if seeds:
            found.append(Result(recipe, recipe.settings(lab), seconds, tuple(seeds)))
    if not found:
        raise BilensError(f"folder {lab.run.path} without a measured recipe", "one seed of a recipe at least")
    drawn = {result.recipe.name: result.recipe.figures(result.seeds) for result in found}
    captions = {name: {key: caption for key, (_, caption) in figures.items()} for name, figures in drawn.items()}
    content = {**results.encode(found, lab.quick), "captions": captions}
    _write(lab.run.path, content, drawn)
    files.write_text(lab.run.path / "results.md", bare(content))
    if docs is not None:
        published = docs / "results" / "results.json"
        whole = results.merge(content, files.read_json(published)) if published.exists() else content
        _write(docs, whole, drawn)
        rewritten(docs)
    for result in results.decode(content, _known()):
        for claim in result.recipe.claims(result.seeds[0]):
            print(f"{claims.ours(claim, result.seeds):>24}  {claim.text}")
    print(f"table: {lab.run.path / 'results.md'}")
    return content


def rewritten(docs: Path) -> dict[str, Any]:
    """Write results.md and the headline of the README from the results.json of a folder of documentation.

    The prose is about full runs of every recipe; without these the page has tables and figures alone.

    Raises:
        StoreError: there is no results.json. BilensError: prose that its numbers do not bear out.
    """
    content = files.read_json(docs / "results" / "results.json")
    whole = not content["quick"] and set(RECIPES) <= set(content["recipes"])
    files.write_text(docs / "results.md", prosaic(content) if whole else bare(content))
    readme = docs.parent / "README.md"
    if whole and readme.is_file():
        shown = page.readme(results.decode(content, RECIPES), f"{docs.name}/results/headline.svg", text.templates())
        files.write_text(readme, headline.between(readme.read_text("utf-8"), ["", *shown, ""]))
    return content


def prosaic(content: Mapping[str, Any]) -> str:
    """The results page with its prose, of what `results.json` holds, its figures in the folder results/ beside it.

    Recipes that run only when they are named come last, where they were measured.

    Raises:
        BilensError: prose that the numbers do not bear out.
    """
    shown = {**RECIPES, **{name: recipe for name, recipe in APART.items() if name in content["recipes"]}}
    prose = text.templates() | text.templates(text.FOLDER / "apart")
    captions = {name: found for name, found in _captions(content).items() if name == "headline" or name in shown}
    return page.written(results.decode(content, shown), captions, "results", prose)


def bare(content: Mapping[str, Any]) -> str:
    """The results page without prose, of what `results.json` holds, its figures in the folder results/ beside it."""
    return page.bare(results.decode(content, _known()), _captions(content), "results", quick=content["quick"])


def _captions(content: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Captions of the figures, with that of all recipes together where what it shows was measured."""
    shown = {} if "front" not in content["recipes"] else {"headline": {"headline": headline.CAPTION}}
    return {**content["captions"], **shown}


def _write(folder: Path, content: Mapping[str, Any], drawn: Mapping[str, Mapping[str, tuple[Figure, str]]]) -> None:
    """The figures and numbers of a page, in results/ beside it."""
    figures = {name: figure for each in drawn.values() for name, (figure, _) in each.items()}
    whole = headline.figure({result.recipe.name: result.seeds for result in results.decode(content, RECIPES)})
    for name, figure in (figures if whole is None else {"headline": whole, **figures}).items():
        plots.save(figure, folder / "results" / f"{name}.svg")
    files.write_json(folder / "results" / "results.json", content)


__all__ = ["APART", "RECIPES", "bare", "finished", "measured", "prosaic", "report", "reproduce", "rewritten"]
