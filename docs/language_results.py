"""Layers of language models read, audited and rewritten: their tables in results-lm.md, from finished runs.

bilens demo-lm --layer 12 --out runs/lm
bilens audit MODEL --layer 12 --steps 150 600 2400 --out runs/audit
bilens rewrite MODEL --layer 12 --out runs/rewritten
python docs/language_results.py runs/lm runs/audit runs/rewritten

keeps what it shows of each run in docs/results/language.json, by model and layer, beside what is there; without a run
the page is written again from that file.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bilens import files, store
from bilens.analyses import demo_lm
from bilens.analyses.audit import EXACT
from bilens.analyses.audit_table import LEVEL
from bilens.analyses.language.layer import Costs
from bilens.analyses.language.seen import KS, Seen
from bilens.analyses.rewrite import COLUMNS
from bilens.decompose import Audit
from bilens.errors import BilensError
from bilens.statistics import Estimate, median, share

FOLDER = Path(__file__).parent
KEPT = FOLDER / "results" / "language.json"
PAGE = FOLDER / "results-lm.md"
MARKS = {
    kind: (f"<!-- {kind}: written by docs/language_results.py -->", f"<!-- end of {kind} -->")
    for kind in ("readings", "audits", "rewritings")
}
SHOWN = (0, 1, 2, 4, 8, 16, 32, 64)
"""Numbers of pairs in the table; 0 for the whole form."""

ORDERS = {"weighted": "weighted", "magnitude": "by abs(λ)"}
RANDOM = "random"
OURS = "model"
"""The folder of the model in a run of ours, whose name says what it is."""

USED = re.compile(r"; ([\d,]+) of these tokens to fit to, ([\d,]+) to measure on$")


def estimate(found: Estimate) -> dict[str, Any]:
    """An estimate as values of JSON, which has no infinity."""
    return {name: None if abs(value) == float("inf") else value for name, value in asdict(found).items()}


def of_json(kept: dict[str, Any]) -> Estimate:
    """The way back."""
    ends = {"low": -float("inf"), "high": float("inf")}
    return Estimate(**{name: ends.get(name) if value is None else value for name, value in kept.items()})


def read(folder: Path) -> tuple[str, str, dict[str, Any]]:
    """The kind of a run, its model and layer, and what is shown of it."""
    asked = files.read_json(folder / "settings.json")
    model = Path(asked["model"])
    title = model.parent.name if model.name == OURS else model.stem
    if asked["command"] == "read":
        return (
            "readings",
            title,
            {"text": asked["text"], "layers": {str(k): reading(folder, k) for k in asked["layers"]}},
        )
    if asked["command"] == "demo-lm":
        part = f"; {asked['fit']} of these rows to fit on, {asked['held_out']} to measure on"
        return (
            "readings",
            title,
            {
                "text": asked["text"] + part,
                "layers": {str(asked["layer"]): reading(folder / demo_lm.READING, asked["layer"])},
            },
        )
    title += f", layer {asked['layer']}"
    text = {"text": asked["text"], "used": list(USED.search(asked["text"]).groups())}  # type: ignore[union-attr]
    summary = files.read_json(folder / "summary.json")
    if asked["command"] == "rewrite":
        return (
            "rewritings",
            title,
            {**text, "parts": summary["parts"], "own": summary["own"], "coders": summary["coders"]},
        )
    if asked["command"] != "audit":
        raise BilensError(f"a run of bilens {asked['command']} in {folder}", "one of bilens read, audit or rewrite")
    names = [(surrogate, one["set"], one["order"]) for surrogate, some in summary["audits"].items() for one in some]
    audits = [
        {"surrogate": surrogate, "set": name, "order": order}
        | numbers(store.read_record(folder, f"audits/{surrogate}-{name}-{order}", Audit))
        for surrogate, name, order in names
    ]
    return "audits", title, {**text, "fvu": summary["fvu"], "coders": summary["coders"], "audits": audits}


def reading(folder: Path, layer: int) -> dict[str, Any]:
    """What the layer's surrogate costs beside both nulls, and the correlations of tokens and of random directions."""
    costs = store.read_record(folder, f"layer-{layer:03d}/costs", Costs)
    assert costs is not None
    found: dict[str, Any] = {"fit": costs.fit, "costs": [asdict(one) for one in costs.measured], "sets": {}}
    for name in ("tokens", RANDOM):
        seen = store.read_record(folder, f"layer-{layer:03d}/{name}/seen", Seen)
        assert seen is not None
        columns = {str(k): column for k, column in zip(KS, seen.correlations.abs().T, strict=False)}
        columns["0"] = seen.full.abs()
        found["sets"][name] = {
            "features": len(seen),
            "medians": {k: estimate(median(column.tolist())) for k, column in columns.items()},
            "shares": {k: estimate(share(int((column > LEVEL).sum()), len(column))) for k, column in columns.items()},
        }
    return found


def reading_lines(title: str, run: dict[str, Any]) -> list[str]:
    """The tables of layers that were read."""
    cost = next(iter(run["layers"].values()))["costs"][0]
    found = [
        f"### {title}, read",
        "",
        f"{run['text']}; {cost['tokens']:,} held-out tokens of {cost['texts']} texts for ΔCE.",
        "",
        "| layer | variance lost, held out | on fitted tokens | ΔCE, nats | *null: mean* | *null: random layer* |",
        "|---|---|---|---|---|---|",
    ]
    for layer, one in run["layers"].items():
        costs = [f"{each['delta_ce']:+.3f} ± {each['error']:.3f}" for each in one["costs"]]
        found.append(f"| {layer} | {one['costs'][0]['fvu']:.3f} | {one['fit']:.3f} | {' | '.join(costs)} |")
    found += [
        "",
        "± is one standard error over texts. Medians over directions of abs(correlation) of the first k pairs, in the "
        "order of the data, with the true value of the original layer on held-out tokens; the share above "
        f"{LEVEL} has its 95 % interval over them.",
        "",
    ]
    ks = [k for k in next(iter(run["layers"].values()))["sets"][RANDOM]["medians"] if k != "0"]
    found += [
        f"| layer, directions | {' | '.join(f'k = {k}' for k in ks)} | all pairs | above {LEVEL} at 2 | at 16 |",
        "|---" * (len(ks) + 4) + "|",
    ]
    for layer, one in run["layers"].items():
        for name, some in one["sets"].items():
            said = f"*null: {some['features']} random directions*" if name == RANDOM else f"{some['features']} tokens"
            cells = [f"{of_json(some['medians'][k]).value:.2f}" for k in (*ks, "0")]
            cells += [of_json(some["shares"][k]).text(".0%") for k in ("2", "16")]
            found.append(f"| {layer}, {said} | {' | '.join(cells)} |")
    return [*found, ""]


def numbers(one: Audit | None) -> dict[str, Any]:
    """What is shown of the audit of one set of directions: over all tokens, and over active ones where that differs."""
    assert one is not None
    firings = one.firings.sort().values.tolist()
    found: dict[str, Any] = {"firings": [firings[0], firings[len(firings) // 2], firings[-1]], "tokens": one.tokens}
    for name in ("all", "active"):
        active = name == "active"
        if one.known(active=active) and not (active and firings[0] == one.tokens):
            ks = [k for k in SHOWN if k == 0 or k in one.ks]
            found[name] = {
                "features": one.known(active=active),
                "medians": {str(k): estimate(one.median(k, active=active)) for k in ks},
                "shares": {str(k): estimate(one.share(k, above=LEVEL, active=active)) for k in ks if k},
            }
    return found


def audit_lines(title: str, run: dict[str, Any]) -> list[str]:
    """The tables of one audit, and what they say in a sentence for each coder."""
    fitted, measured = run["used"]
    found = [
        f"### {title}",
        "",
        f"{fitted} tokens to fit to, {measured} of other documents to measure on (`bilens audit`). Medians over "
        f"features of abs(correlation) with the true value; the share above {LEVEL} has its 95 % interval over them.",
    ]
    for surrogate, fvu in run["fvu"].items():
        found += ["", f"{standing(surrogate, fvu)}:", ""]
        head = ["directions", "order", "features", "active on", "all pairs", *(f"k = {k}" for k in SHOWN[1:])]
        head += [f"above {LEVEL} at 2"]
        found += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        for part in ("all", "active"):
            for one in run["audits"]:
                if one["surrogate"] == surrogate and part in one:
                    found.append(row(one, part))
    found += ["", *(f"- {said}" for said in (*coders(run), *verdicts(run))), ""]
    return found


def standing(surrogate: str, fvu: float) -> str:
    """What stands for the layer, and how far it is from it."""
    if surrogate == EXACT:
        return f"The layer's own tensor, which is the layer up to {fvu:.0e} of its variance"
    return f"{surrogate.replace('_', ' ').capitalize()} surrogate, variance lost {fvu:.3f}"


def named(one: dict[str, Any]) -> str:
    """A set of directions in words."""
    if one["set"] == RANDOM:
        return "*null: random directions*"
    steps = re.fullmatch(r"coder-(\d+)", one["set"])
    return f"features of a coder, {int(steps[1]):,} steps" if steps else one["set"]


def row(one: dict[str, Any], part: str) -> str:
    """One row of the table."""
    few, middle, many = one["firings"]
    on = "all" if few == one["tokens"] else f"{middle:,} ({few:,} … {many:,})"
    medians = [of_json(one[part]["medians"][str(k)]) if str(k) in one[part]["medians"] else None for k in SHOWN]
    cells = [named(one) + (", active tokens" if part == "active" else ""), ORDERS[one["order"]]]
    cells += [str(one[part]["features"]), on, *("–" if each is None else f"{each.value:.2f}" for each in medians)]
    return f"| {' | '.join([*cells, of_json(one[part]['shares']['2']).text('.0%')])} |"


def coders(run: dict[str, Any]) -> list[str]:
    """What each coder is worth."""
    return [
        f"Coder of {name.removeprefix('coder-')} steps, {one['title']}: loses {one['fvu']:.2f} of the variance with "
        f"{one['l0']:.0f} active, {one['dead']:.0%} of its features dead on held-out tokens; at its site "
        + ", ".join(f"{cost['by']} {cost['delta_ce']:+.3f} ± {cost['error']:.3f}" for cost in one["costs"])
        + " nats per token."
        for name, one in run["coders"].items()
    ]


def verdicts(run: dict[str, Any]) -> list[str]:
    """Each set of features against random directions, at 2 and at 16 pairs: of lower rank only where intervals part."""
    said = []
    first = next(iter(run["fvu"]))
    weighted = [one for one in run["audits"] if one["surrogate"] == first and one["order"] == "weighted"]
    null = next(one for one in weighted if one["set"] == RANDOM)
    for one in weighted:
        if one is null:
            continue
        words = []
        for k in ("2", "16"):
            ours, theirs = of_json(one["all"]["medians"][k]), of_json(null["all"]["medians"][k])
            apart = (
                "more is explained"
                if ours.low > theirs.high
                else "less is explained"
                if ours.high < theirs.low
                else "no difference is shown"
            )
            form = ".3f" if f"{ours.value:.2f}" == f"{theirs.value:.2f}" else ".2f"
            words.append(f"with {k} pairs {ours.text(form)} against {theirs.text(form)}, {apart}")
        said.append(f"**{named(one).capitalize()}** against random directions: {'; '.join(words)}.")
    return said


def rewriting_lines(title: str, run: dict[str, Any]) -> list[str]:
    """The table of one rewriting."""
    cost = run["parts"][0]["cost"]
    found = [
        f"### {title} by its interactions",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---" * len(COLUMNS) + "|",
        f"| the layer itself | {run['own']:,} | 0 | 0 | 100% |",
    ]
    for part in run["parts"]:
        each = part["cost"]
        recovered = 1 - each["delta_ce"] / each["mean_delta_ce"]
        is_null = part["title"] == "mean" or "never trained" in part["title"]
        name = f"*null: {part['title']}*" if is_null else part["title"]
        stored = f"{part['numbers']:,}" if part["numbers"] else "–"
        found.append(
            f"| {name} | {stored} | {each['fvu']:.3f} | {each['delta_ce']:+.3f} ± {each['error']:.3f} "
            f"| {recovered:.0%} |"
        )
    coder = "; ".join(
        f"{one['title']} loses {one['fvu']:.2f} of the variance with {one['l0']:.0f} active"
        for one in run["coders"].values()
    )
    return [
        *found,
        "",
        f"± is one standard error over {cost['texts']} texts, {cost['tokens']:,} tokens that nothing was fitted to; "
        f"{run['used'][0]} tokens to fit to (`bilens rewrite`). {coder[0].upper() + coder[1:]}.",
        "",
    ]


def lines(kept: dict[str, Any], kind: str) -> list[str]:
    """What stands between the marks of a kind."""
    of = {"readings": reading_lines, "audits": audit_lines, "rewritings": rewriting_lines}[kind]
    return [line for title, run in sorted(kept.get(kind, {}).items(), reverse=True) for line in of(title, run)]


def main() -> None:
    """Take in the runs that are named, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="*", help="folders of bilens read, demo-lm, audit and rewrite")
    kept = files.read_json(KEPT) if KEPT.exists() else {}
    for folder in parser.parse_args().runs:
        kind, title, found = read(folder)
        kept.setdefault(kind, {})[title] = found
    files.write_json(KEPT, kept)
    page = PAGE.read_text(encoding="utf-8")
    for kind, (start, end) in MARKS.items():
        before, rest = page.split(start)
        page = "\n".join([before + start, "", *lines(kept, kind), end + rest.split(end)[1]])
    files.write_text(PAGE, page)


if __name__ == "__main__":
    main()
