"""Conversions of language models side by side: the table and the figures in language-models.md, from finished runs.

bilens convert MODEL --tokens 20000 --curve --out runs/closed
bilens convert MODEL --tokens 100000 --distill 300 --end-to-end 100 --curve --out runs/distilled
python docs/conversions.py runs/closed runs/distilled --machine "one thread, AMD EPYC"

keeps what it shows of each run in docs/results/conversions.json, by its name, beside what is there; without a run the
page is written again from that file. The minutes of a run that was stopped and went on are those of its layers. A run
with end-to-end distillation has two rows: before it, and after it.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from bilens import files, plots
from bilens.faithfulness import TextScore
from bilens.plots.style import LINES, MUTED, styled

FOLDER = Path(__file__).parent
KEPT, FIGURES = FOLDER / "results" / "conversions.json", FOLDER / "assets" / "figures"
PAGE = FOLDER / "language-models.md"
DOCUMENTS = re.compile(r"to fit on, from ([\d]+) document")
START, END = "<!-- conversions: written by docs/conversions.py -->", "<!-- end of conversions -->"


def read(folder: Path, machine: str) -> dict[str, dict[str, Any]]:
    """What is shown of a run, by its name; of end-to-end distillation by the name with "-end-to-end"."""
    made, asked = files.read_json(folder / "conversion.json"), files.read_json(folder / "settings.json")
    layers = sum(taken for name, taken in files.read_json(folder / "timings.json").items() if name != "sha256")
    whole, distilled = made["whole"], made["end_to_end"] or {}
    seconds = max(made["seconds"], layers)
    if distilled and made["seconds"] < layers:
        seconds = layers + made["seconds"]  # the layers were there already
    by_layers = {
        "model": Path(made["model"]).name,
        "tokens": made["tokens"],
        "documents": int(DOCUMENTS.search(made["text"])[1]),  # type: ignore[index]
        "steps": asked["distill"],
        "end_to_end": 0,
        "seconds": seconds - distilled.get("seconds", 0.0),
        "machine": machine,
        "whole": distilled.get("before", whole),
        "null": made["layers"][-1]["mean_instead"],
        "left_gated": made["left_gated"],
        "logits": made["logits"],
    }
    found = {folder.resolve().name: by_layers} if not distilled or "before" in distilled else {}
    if distilled:
        logits = made["logits"] | {"layers": None}  # the layers are no longer what stood in the original
        after = {"end_to_end": distilled["steps"], "whole": whole, "seconds": seconds, "logits": logits}
        found[f"{folder.resolve().name}-end-to-end"] = by_layers | after
    return found


def lines(runs: dict[str, dict[str, Any]]) -> list[str]:
    """The table, one run per row, in order of tokens, documents and steps."""
    found = [
        "| fitted to | steps per layer | end to end | measured on | ΔCE held out | ΔCE fitted | KL held out "
        "| same likeliest token | minutes | on |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for run in ordered(runs):
        held, fit = (TextScore(**run["whole"][part]) for part in ("held_out", "fit"))
        found.append(
            f"| {run['tokens']['fit']:,} tokens of {run['documents']} documents | {run['steps'] or 'closed form'} "
            f"| {steps_of(run)} | {held.texts} texts, {held.tokens:,} tokens "
            f"| {held.delta_ce:+.3f} ± {held.delta_ce_error:.3f} | {fit.delta_ce:+.3f} ± {fit.delta_ce_error:.3f} "
            f"| {held.kl:.3f} ± {held.kl_error:.3f} | {held.agreement:.1%} ± {held.agreement_error:.1%} "
            f"| {run['seconds'] / 60:.0f} | {run['machine']} |"
        )
    apart = max(value for run in runs.values() for value in run["logits"].values() if value is not None)
    found += ["", "± is a standard error over texts. Logits of the written model, as transformers"]
    return [
        *found,
        f"opens it, and of the model with its layers replaced differ by at most {apart:.0e} of the largest.",
    ]


def steps_of(run: dict[str, Any]) -> str:
    """Steps of end-to-end distillation, in a cell."""
    return f"{run['end_to_end']} steps" if run["end_to_end"] else "–"


def ordered(runs: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The runs by tokens, documents and steps."""
    return sorted(
        runs.values(), key=lambda run: (run["tokens"]["fit"], run["documents"], run["steps"], run["end_to_end"])
    )


@styled
def against_tokens(runs: dict[str, dict[str, Any]]) -> Figure:
    """ΔCE against the tokens that were fitted to: held out and fitted, for each number of steps."""
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes: Any = figure.add_subplot()
    kinds = sorted({(run["steps"], run["end_to_end"]) for run in runs.values()})
    for place, (steps, last) in enumerate(kinds):
        some = [run for run in ordered(runs) if (run["steps"], run["end_to_end"]) == (steps, last)]
        tokens = [run["tokens"]["fit"] for run in some]
        for part, shape in (("held_out", "o"), ("fit", "s")):
            scores = [TextScore(**run["whole"][part]) for run in some]
            name = f"{f'{steps} steps per layer' if steps else 'closed form'}{f' + {last}' if last else ''}"
            name += ", held out" if shape == "o" else ", fitted"
            axes.errorbar(
                tokens,
                [one.delta_ce for one in scores],
                [one.delta_ce_error for one in scores],
                fmt=shape,
                color=LINES[place],
                markerfacecolor=LINES[place] if shape == "o" else "none",
                capsize=2,
                label=name,
            )
            for run, at, one in zip(some, tokens, scores, strict=True):
                if part == "held_out":
                    axes.annotate(
                        f"{run['documents']} documents",
                        (at, one.delta_ce),
                        (-6, -3),
                        textcoords="offset points",
                        size="x-small",
                        ha="right",
                    )
    axes.set_xscale("log")
    ticks = [1000 * base * power for power in (1, 10, 100) for base in (5, 10, 20)]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks], minor=False)
    axes.set_xticks([], minor=True)
    most = [run["tokens"]["fit"] for run in runs.values()]
    axes.set_xlim(min(most) / 2.5, max(most) * 1.3)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.set_xlabel("tokens fitted to")
    axes.set_ylabel("nats per token more")
    axes.set_title("All layers bilinear: what the conversion costs")
    figure.legend(loc="outside lower left", ncols=2, fontsize="small")
    return figure


def write(runs: dict[str, dict[str, Any]]) -> None:
    """The figures and the table."""
    plots.save(against_tokens(runs), FIGURES / "conversions.svg")
    curves = [run for run in runs.values() if run["left_gated"]["measured"]]
    best = min(curves, key=lambda run: run["whole"]["held_out"]["delta_ce"])["left_gated"]
    estimated = [(one["converted"], one["delta_ce"]) for one in best["estimated"]]
    measured = [(one.pop("converted"), TextScore(**one)) for one in (dict(one) for one in best["measured"])]
    plots.save(plots.left_gated(estimated, measured), FIGURES / "left-gated.svg")
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(START)
    files.write_text(PAGE, "\n".join([before + START, "", *lines(runs), "", END + rest.split(END)[1]]))


def main() -> None:
    """Take in the runs that are named, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="*", help="folders of bilens convert")
    parser.add_argument("--machine", default="one thread, AMD EPYC", help="what they ran on")
    runs, asked = files.read_json(KEPT) if KEPT.exists() else {}, parser.parse_args()
    for folder in asked.runs:
        runs |= read(folder, asked.machine)
    files.write_json(KEPT, runs)
    write(runs)


if __name__ == "__main__":
    main()
