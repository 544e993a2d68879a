"""The founding programme again: each claim measured over seeds, with its interval, in one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bilens import files, plots
from bilens.errors import BilensError
from bilens.measurement import Measurement
from bilens.progress import bar
from bilens.recipes.programme import (
    boolean,
    digit_directions,
    equal_parameters,
    one_sample,
    output_sae,
    pair_sae,
    tensor_svd,
)
from bilens.recipes.programme.lab import Claim, Lab, Recipe
from bilens.statistics import interval
from bilens.store import Folder

RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        equal_parameters.RECIPE,
        digit_directions.RECIPE,
        tensor_svd.RECIPE,
        output_sae.RECIPE,
        pair_sae.RECIPE,
        boolean.RECIPE,
        one_sample.RECIPE,
    )
}
"""Every recipe, in the order of the founding draft."""


def reproduce(
    names: tuple[str, ...] = (),
    /,
    *,
    seeds: int = 5,
    out: Path = Path("runs/reproduce"),
    quick: bool = False,
) -> dict[str, Any]:
    """Measure the claims of the founding programme again, over seeds, with 95 % intervals.

    Example: bilens reproduce svd --seeds 5 --out runs/reproduce

    Args:
        names: recipes to run; all when none is named.
        seeds: how many; a folder with fewer continues.
        out: folder for models, records, figures, results.md and results.json; the same command run again continues.
        quick: the 5,000 digits and small models, to see that everything works.
    """
    unknown = [name for name in names if name not in RECIPES]
    if unknown:
        raise BilensError(f"recipe {unknown[0]!r}", f"one of {', '.join(RECIPES)}", "choose some of these, or none")
    if seeds < 1:
        raise BilensError(f"seeds = {seeds}", "at least 1", "use 5")
    chosen = [RECIPES[name] for name in names or RECIPES]
    lab = Lab(Folder(out, {"command": "reproduce", "quick": quick}), quick)
    with bar("recipes × seeds", len(chosen) * seeds) as step:
        for seed in range(seeds):
            for recipe in chosen:
                measured(lab, recipe, seed)
                step(1)
    return report(lab)


def measured(lab: Lab, recipe: Recipe, seed: int) -> Measurement:
    """One seed of a recipe, from the folder or measured now."""
    return lab.run.record(f"{recipe.name}/{seed}", Measurement, lambda: recipe.measure(lab, seed))


def finished(lab: Lab, recipe: Recipe) -> list[Measurement]:
    """The seeds of a recipe that are in the folder, from 0 on."""
    found: list[Measurement] = []
    while lab.run.has(f"{recipe.name}/{len(found)}"):
        found.append(measured(lab, recipe, len(found)))
    return found


def report(lab: Lab) -> dict[str, Any]:
    """Write `results.md`, `results.json` and the figures from every record in the folder, and print the table."""
    out, sections, table = lab.run.path, [], []
    lines = ["| claim | draft | ours | seeds |", "|---|---|---|---|"]
    for recipe in RECIPES.values():
        seeds = finished(lab, recipe)
        if not seeds:
            continue
        for claim in recipe.claims(seeds[0]):
            row = row_of(claim, seeds)
            table.append({"recipe": recipe.name, **row})
            lines.append(f"| {claim.text} | {claim.draft} | {row['ours']} | {len(seeds)} |")
        seconds = sum(lab.run.timings.get(f"{recipe.name}/{seed}", 0.0) for seed in range(len(seeds)))
        sections += [f"## {recipe.title}", "", f"{recipe.settings(lab)} {len(seeds)} seeds, {seconds:.0f} s.", ""]
        sections += [recipe.findings(seeds), ""]
        for name, (figure, caption) in recipe.figures(seeds).items():
            plots.save(figure, out / "figures" / f"{name}.svg")
            sections += [f"![{caption}](figures/{name}.svg)", "", f"*{caption}*", ""]
    quick = ["*Quick setting: small data and small models. The numbers say nothing about the claims.*", ""]
    head = ["# Results", "", *(quick if lab.quick else []), _HEAD, "", *lines, ""]
    files.write_text(out / "results.md", "\n".join(head + sections))
    results = {"quick": lab.quick, "claims": table}
    files.write_json(out / "results.json", results)
    for row in table:
        print(f"{row['ours']:>24}  {row['claim']}")
    print(f"table: {out / 'results.md'}")
    return results


def row_of(claim: Claim, seeds: Sequence[Measurement]) -> dict[str, Any]:
    """A claim's line: mean, half of the interval, every seed's value, and the text of the table."""
    values = [seed[claim.number] for seed in seeds]
    found = interval(values)
    ours = f"{found.text(claim.form, claim.scale)}{claim.unit}"
    return {"claim": claim.text, "draft": claim.draft, "ours": ours, "mean": found.mean, "values": values}


_HEAD = (
    "Each line is measured again by `bilens reproduce`; ours is the mean over seeds with its 95 % interval "
    "(Student's t). Seeds differ in the weights that training starts from, in the order of the batches, and in the "
    "sparse coders."
)


__all__ = ["RECIPES", "finished", "measured", "report", "reproduce", "row_of"]
