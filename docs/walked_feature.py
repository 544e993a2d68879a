"""One feature of a language model's layer, and what taking parts of it away does: the numbers in language-models.md.

    bilens read src/bilens/models/tiny --layers 0 --inputs train --text src/bilens/text/plays.jsonl.gz --tokens 6000 \
        --out runs/tiny
    python docs/walked_feature.py runs/tiny --text src/bilens/text/plays.jsonl.gz --tokens 6000 --feature .

A run of `make demo-lm` is named by its folder alone, runs/lm: its text is found as the demo finds it. The feature is
one of the set "tokens", by its label. At the held-out positions where it is largest, a part of it is taken out of what
the layer writes, in the original model, one position at a time, along what one unit of the feature writes: u/‖u‖² for u
the token's centred row of the unembedding with the last norm's gain. Null: as much along random directions of that
length. Without a run the page is written again from docs/results/walked-feature.json.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bilens import files, store
from bilens.analyses import demo_lm
from bilens.analyses.language import job, sets
from bilens.analyses.language.layer import Costs, Layer, cost_name, opened
from bilens.analyses.language.seen import Eigenpairs, Seen
from bilens.analyses.language.subject import PREFIX, Subject, of_checkpoint, subject
from bilens.errors import BilensError
from bilens.models import gated
from bilens.models.gated.original import Trace
from bilens.text import tokenizer

FOLDER = Path(__file__).parent
KEPT, PAGE = FOLDER / "results" / "walked-feature.json", FOLDER / "language-models.md"
MARKS = {
    kind: (f"<!-- {kind}: written by docs/walked_feature.py -->", f"<!-- end of {kind} -->")
    for kind in ("feature", "feature taken out")
}
POSITIONS, RANDOM, NULL = 60, 4, "null"
"""Positions at which parts are taken out, random directions at each, and what these are called."""

CLEARLY = 0.1
"""How much more two pairs must predict than those of random directions to be said to say more."""


def of_run(run: Path, text: list[Path], tokens: int) -> tuple[Path, Subject]:
    """The folder that was read, and the model with the text of the run, read again.

    Raises:
        BilensError: another text than the run's.
    """
    asked = files.read_json(run / store.SETTINGS)
    if asked["command"] == "demo-lm":
        checkpoint, known = gated.load(asked["model"]), tokenizer(asked["model"])
        split = demo_lm.rows(known, checkpoint, tuple(text), seed=asked["seed"])
        held_out = split.held_out[: max(asked["held_out"], demo_lm.SHOWN)]
        shown = replace(split, fit=split.fit[: asked["fit"]], held_out=held_out)
        run, found = run / demo_lm.READING, of_checkpoint(asked["model"], checkpoint, known, shown)
    else:
        found = subject(asked["model"], text, tokens=tokens, seed=asked["seed"])
    described = None if found.split is None else found.split.described
    if described is None or described != files.read_json(run / store.SETTINGS)["text"]:
        raise BilensError(
            f"text for {run}: {described}", "that of the run", "pass the --text and --tokens of its command"
        )
    return run, found


@torch.no_grad()
def taken_out(
    live: nn.Module, layer: Layer, row: Int[Tensor, " t"], away: Float[Tensor, "n d"]
) -> Float[Tensor, "n v"]:
    """The logits at the last token of a text with each of n vectors taken out of what the layer writes there.

    Args:
        live: the original; layer: whose output it is; row: the tokens; away: the vectors.
    """

    def instead(_: Tensor, y: Tensor) -> Tensor:
        found = y.view(len(away), len(row), -1).clone()
        found[:, -1] -= away.to(found)
        return found

    trace = Trace(live, gated.load(live).places[layer.number, "mlp"], instead)
    try:
        logits: Tensor = live(row.expand(len(away), -1)).logits[:, -1]
    finally:
        trace.stop()
    return logits.double()


def measured(run: Path, found: Subject, number: int, label: str, *, seed: int = 0) -> dict[str, Any]:
    """Everything that the page says of the feature in numbers."""
    layer, split = opened(found, run, number), found.split
    x = layer.held_out
    if split is None or x is None or layer.scale is not None:
        raise BilensError(f"layer {number} of {run}", "one that was read with text, without a norm after its MLP")
    plan = files.read_json(run / store.SETTINGS)
    chosen = sets.tokens(found, plan["tokens"])
    if label not in chosen.labels:
        raise BilensError(f"no token {label!r} in {run}", "a label of the set tokens", "name one with --feature")
    place = chosen.labels.index(label)
    token = chosen.tokens[place]  # type: ignore[index]
    u, write = (each[place].double() for each in (chosen.of(layer), chosen.writes))
    pairs: Eigenpairs = job.saved(run, number, chosen.name)
    y, folded = layer.mlp(x).double(), layer.folded(x).double()
    values = y @ u
    terms = (folded @ pairs.vectors[place].double().T).square() * pairs.values[place].double()
    seen = store.read_record(run, f"layer-{number:03d}/{chosen.name}/seen", Seen)
    null = store.read_record(run, f"layer-{number:03d}/{sets.RANDOM}/seen", Seen)
    costs = store.read_record(run, cost_name(number), Costs)
    assert seen is not None
    assert null is not None
    largest = values.argsort(descending=True, stable=True)[:POSITIONS]
    length = split.held_out.shape[1] - PREFIX
    generator = torch.Generator().manual_seed(seed)
    parts: dict[str, tuple[list[float], list[float], list[float]]] = {}
    live = found.live()
    for at in largest.tolist():
        row = split.held_out[at // length, : at % length + PREFIX + 1]
        first, two, whole = (float(each) for each in (terms[at, 0], terms[at, :2].sum(), values[at]))
        drawn = torch.randn(RANDOM, len(u), generator=generator, dtype=torch.float64)
        drawn *= write.norm() / drawn.norm(dim=1, keepdim=True)
        amounts = {"the first pair's term": first, "the first two pairs'": two, "all of the feature": whole}
        away = torch.stack([0 * write, *(amount * write for amount in amounts.values()), *(two * drawn)])
        logits = taken_out(live, layer, row, away)
        above = logits[:, token] - logits.mean(dim=1)
        log_p = logits.log_softmax(dim=1)[:, token]
        above, log_p = above - above[0], log_p - log_p[0]
        n = len(amounts)
        for place_of, (name, amount) in enumerate(amounts.items(), start=1):
            _add(parts, name, amount, float(above[place_of]), float(log_p[place_of]))
        _add(parts, NULL, two, float(above[n + 1 :].mean()), float(log_p[n + 1 :].mean()))
    return {
        "model": Path(plan["model"]).stem,
        "layer": number,
        "label": label,
        "fit": 0 if layer.fit is None else len(layer.fit),
        "held_out": len(x),
        "costs": [] if costs is None else [
            {"by": each.by, "fvu": each.fvu, "delta_ce": each.delta_ce, "error": each.error, "tokens": each.tokens}
            for each in costs.measured
        ],
        "correlations": [float(each) for each in seen.correlations[place]],
        "random": [float(each) for each in null.correlations.median(dim=0).values],
        "ks": [k for k in job.KS if k <= pairs.values.shape[1]],
        "positions": len(largest),
        "parts": [
            {"name": name, "amount": statistics.fmean(amount), "logit": _mean(logit), "log_p": _mean(log_p)}
            for name, (amount, logit, log_p) in parts.items()
        ],
    }  # fmt: skip


def _add(parts: dict[str, tuple[list[float], list[float], list[float]]], name: str, *numbers: float) -> None:
    for several, value in zip(parts.setdefault(name, ([], [], [])), numbers, strict=True):
        several.append(value)


def _mean(samples: list[float]) -> list[float]:
    """The mean over positions, and its standard error."""
    return [statistics.fmean(samples), statistics.stdev(samples) / len(samples) ** 0.5]


def lines(kept: dict[str, Any], kind: str) -> list[str]:
    """What stands between the marks of a kind."""
    return numbers(kept) if kind == "feature" else table(kept)


def numbers(kept: dict[str, Any]) -> list[str]:
    """How well the layer and the feature are stood for."""
    label, k = kept["label"], kept["ks"][-1]
    r, random = (dict(zip(kept["ks"], kept[name], strict=True)) for name in ("correlations", "random"))
    stands = "the layer itself, which is bilinear."
    if kept["costs"]:
        own, mean = kept["costs"][:2]
        stands = (
            f"least squares on {kept['fit']:,} tokens. On {own['tokens']:,} held-out tokens it loses {own['fvu']:.1%} "
            f"of the layer's variance, and the model {own['delta_ce']:.3f} ± {own['error']:.3f} nats; with the layer's "
            f"mean in its place it would lose {mean['delta_ce']:.2f} ± {mean['error']:.2f}."
        )
    more = "more" if r[2] - random[2] >= CLEARLY else "hardly more"
    return [
        f"- **What stands for the layer**: {stands}",
        f'- **The token "{label}"**: what this layer adds to its logit. Two pairs predict that with r = {r[2]:.2f} on '
        f"{kept['held_out']:,} held-out tokens, {k} pairs with {r[k]:.2f}. For random directions the median of two "
        f'pairs is {random[2]:.2f}: *two pairs say {more} of "{label}" than of anything else*. What makes the feature '
        "this one's is what the pairs are made of.",
    ]


def table(kept: dict[str, Any]) -> list[str]:
    """What taking parts of the feature out does."""
    label = kept["label"]
    said = [
        f"What was checked: at the {kept['positions']} held-out positions where the feature is largest "
        f"({kept['parts'][2]['amount']:.1f} on average), a part of it was taken out of the layer's output, in the "
        "original model, one position at a time, along what one unit of the feature writes "
        "(`docs/walked_feature.py`).",
        "",
        f'| taken out | logit of "{label}", less the mean | log probability of "{label}" |',
        "|---|---|---|",
    ]
    for part in kept["parts"]:
        null = f"*null: as much as two pairs, along random directions of that length, {RANDOM} at each position*"
        name = null if part["name"] == NULL else f"{part['name']}, {part['amount']:.1f} on average"
        cells = [f"{mean:+.2f} ± {error:.2f}".replace("-", "−") for mean, error in (part["logit"], part["log_p"])]
        said.append(f"| {name} | {' | '.join(cells)} |")
    return [*said, "", "± is one standard error over positions."]


def main() -> None:
    """Measure where a run is named, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?", help="folder of bilens read with text, or of make demo-lm")
    parser.add_argument("--layer", type=int, help="which of its layers (default: the first)")
    parser.add_argument("--feature", default=".", help="label of a token (default: .)")
    parser.add_argument("--text", type=Path, nargs="*", default=[], help="as in the run's command")
    parser.add_argument("--tokens", type=int, default=20_000, help="as in the run's command")
    parser.add_argument("--show", action="store_true", help="print the lines and write nothing")
    asked = parser.parse_args()
    kept = None if asked.run is None else walked(asked.run, asked.layer, asked.feature, asked.text, asked.tokens)
    if asked.show:
        shown = kept or files.read_json(KEPT)
        print("\n".join([*numbers(shown), "", *table(shown)]))
        return
    if kept is not None:
        files.write_json(KEPT, kept)
    kept, page = files.read_json(KEPT), PAGE.read_text(encoding="utf-8")
    for kind, (start, end) in MARKS.items():
        before, rest = page.split(start)
        page = "\n".join([before + start, "", *lines(kept, kind), "", end + rest.split(end)[1]])
    files.write_text(PAGE, page)


def walked(run: Path, layer: int | None, label: str, text: list[Path], tokens: int) -> dict[str, Any]:
    """A feature of a run's folder."""
    folder, found = of_run(run, text, tokens)
    layers = files.read_json(folder / store.SETTINGS)["layers"]
    return measured(folder, found, layers[0] if layer is None else layer, label)


if __name__ == "__main__":
    main()
