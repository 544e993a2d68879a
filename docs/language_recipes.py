"""The recipes of language models: their tables and figures in results-lm.md, from finished runs.

python -m reproduction surrogates --seeds 1 --out runs/surrogates
python -m reproduction language --seeds 3 --out runs/language
python docs/language_recipes.py runs/surrogates runs/language

keeps their numbers in docs/results/recipes-lm.json; without a run the page is written again from that file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bilens import files, plots
from bilens.statistics import interval

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent))  # the recipes are beside the library, not in it

from reproduction.measurement import Measurement  # noqa: E402
from reproduction.recipes import language, surrogates  # noqa: E402

KEPT, FIGURES = FOLDER / "results" / "recipes-lm.json", FOLDER / "assets" / "figures"
PAGE = FOLDER / "results-lm.md"
MARKS = {
    name: (f"<!-- {name}: written by docs/language_recipes.py -->", f"<!-- end of {name} -->")
    for name in ("surrogates", "language")
}
WAYS = {
    "weights_only": "weights alone",
    "gaussian": "best for Gaussian inputs",
    "least_squares": "least squares",
    "least_squares + bypass": "with a linear map",
    "affine": "*rival: affine map*",
    "mean": "*null: mean*",
    "random layer": "*null: random layer*",
}
"""What stands in a layer's place, and the head of its column."""

GATES = {"bilinear": "bilinear", "swiglu": "SwiGLU", "reglu": "ReGLU"}
ENOUGH = 0.05
"""Nats per token that a layer may cost."""

DRAWN = ("surrogates-cross-entropy", "language-difference")
"""The figures of the recipes that the page shows."""

Numbers = Mapping[str, Sequence[float]]
"""Of every seed, by name."""


def text(values: Sequence[float], form: str) -> str:
    """The mean over seeds with its 95 % interval, or the one number there is."""
    found = interval(list(values))
    return f"{found.mean:{form}}" if len(values) == 1 else f"{found.mean:{form}} ± {found.half:{form.strip('+')}}"


def mean(values: Sequence[float]) -> float:
    """Over seeds."""
    return sum(values) / len(values)


def surrogate_lines(found: Numbers, settings: str) -> list[str]:
    """One row per layer, and what the rows say."""
    layers = range(sum(name.startswith("variance lost, mean, layer ") for name in found))
    head = ["layer", *(f"variance lost, {written}" for by, written in WAYS.items() if "null" not in written)]
    head += [f"ΔCE, {written}" for written in WAYS.values()] + ["ΔCE on fitted text, with a linear map"]
    rows = []
    for layer in layers:
        cells = [str(layer)]
        for by, written in WAYS.items():
            if "null" not in written:
                cells.append(text(found[f"variance lost, {by}, layer {layer}"], ".3f"))
        for by in WAYS:
            error = mean(found[f"standard error, {by}, layer {layer}"])
            cells.append(f"{mean(found[f'cross-entropy more, {by}, layer {layer}']):+.3f} ± {error:.3f}")
        by = "least_squares + bypass"
        cells.append(f"{mean(found[f'fitted text: cross-entropy more, {by}, layer {layer}']):+.3f}")
        rows.append(f"| {' | '.join(cells)} |")
    said = [
        f"| {written} | {sum(mean(found[f'cross-entropy more, {by}, layer {k}']) <= ENOUGH for k in layers)} "
        f"| {mean(found[f'mean, {by}']):+.3f} | {mean(found[f'most, {by}']):+.3f} "
        f"| {mean(found[f'fitted text: mean, {by}']):+.3f} | {mean(found[f'fitted text: most, {by}']):+.3f} |"
        for by, written in WAYS.items()
    ]
    return [
        settings,
        "",
        f"| in the layer's place | layers, of {len(layers)}, that cost at most {ENOUGH} nats | mean | most "
        "| fitted text: mean | most |",
        "|---|---|---|---|---|---|",
        *said,
        "",
        f"| {' | '.join(head)} |",
        "|---" * len(head) + "|",
        *rows,
        "",
        "± is one standard error over held-out texts.",
        "",
        "![What each layer costs when it alone is replaced](assets/figures/surrogates-cross-entropy.svg)",
        "",
    ]


def language_lines(found: Numbers, settings: str) -> list[str]:
    """Cross-entropies of each kind, and their differences."""
    seeds = len(found["token frequencies"])
    rows = [
        f"| {written} | {mean(found[f'parameters, {gate}']):,.0f} | {text(found[f'steps, {gate}'], '.3f')} "
        f"| {text(found[f'milliseconds, {gate}'], '.0f')} | {text(found[f'steps in equal time, {gate}'], '.0f')} "
        f"| {text(found[f'time, {gate}'], '.3f')} |"
        for gate, written in GATES.items()
    ]
    differences = [
        f"| bilinear less {GATES[other]} | {text(found[f'steps, bilinear less {other}'], '+.4f')} "
        f"| {text(found[f'time, bilinear less {other}'], '+.4f')} |"
        for other in ("swiglu", "reglu")
    ]
    return [
        settings,
        "",
        "| MLP | parameters | held out, equal steps | ms per step | steps in SwiGLU's time | held out, equal time |",
        "|---|---|---|---|---|---|",
        *rows,
        f"| *null: token frequencies* | – | {text(found['token frequencies'], '.3f')} | – | – | – |",
        "",
        "| nats per token | at equal steps | at equal time |",
        "|---|---|---|",
        *differences,
        "| published, on TinyStories: less SwiGLU | +0.016 | about 0 |",
        "| published, on TinyStories: less ReGLU | +0.005 | about 0 |",
        "",
        f"± is a 95 % interval over {seeds} seeds; milliseconds are of processor time. Published: arXiv 2410.08417.",
        "",
        "![The differences, each seed, their mean and interval](assets/figures/language-difference.svg)",
        "",
    ]


def lines(kept: dict[str, Any], name: str) -> list[str]:
    """What stands between the marks of a recipe."""
    written = surrogate_lines if name == "surrogates" else language_lines
    return written(kept[name]["numbers"], kept[name]["settings"]) if name in kept else []


def main() -> None:
    """Take in the run that is named, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="*", help="folders of python -m reproduction")
    kept: dict[str, Any] = files.read_json(KEPT) if KEPT.exists() else {}
    for run in parser.parse_args().runs:
        for name, recipe in files.read_json(run / "results" / "results.json")["recipes"].items():
            if name in MARKS:
                kept[name] = {part: recipe[part] for part in ("settings", "numbers")}
    files.write_json(KEPT, kept)
    for name, recipe in {"surrogates": surrogates.RECIPE, "language": language.RECIPE}.items():
        if name in kept:
            seeds = [
                Measurement.of(dict(zip(kept[name]["numbers"], seed, strict=True)))
                for seed in zip(*kept[name]["numbers"].values(), strict=True)
            ]
            for title, (figure, _) in recipe.figures(seeds).items():
                if title in DRAWN:
                    plots.save(figure, FIGURES / f"{title}.svg")
    page = PAGE.read_text(encoding="utf-8")
    for name, (start, end) in MARKS.items():
        before, rest = page.split(start)
        page = "\n".join([before + start, "", *lines(kept, name), end + rest.split(end)[1]])
    files.write_text(PAGE, page)


if __name__ == "__main__":
    main()
