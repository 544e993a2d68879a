"""The command that puts a layer's strongest interactions in its place: what is kept of the model, by numbers stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bilens import activations, directions, store
from bilens import decompose as decompositions
from bilens._internal import files
from bilens._internal.checks import whole
from bilens.activations import SiteCost
from bilens.analyses._announced import announce, of_rewrite
from bilens.analyses._layer_text import PREFIX, SURROGATE, fitted, rows_of, split_of
from bilens.analyses.site_coders import CoderReport, CoderSettings, site_coder
from bilens.analyses.text_statistics import checksum
from bilens.decompose import Decompiled
from bilens.models import gated
from bilens.models.gated import GatedMLP
from bilens.models.gated.original import original
from bilens.progress import Steps
from bilens.sae import SAE
from bilens.store import Folder
from bilens.tensor import BilinearTensor

SAMPLE = 4096
"""Tokens whose codes rank the interactions."""


@store.register
@dataclass(frozen=True)
class Rewritten:
    """What stands for a layer, and what it costs.

    Args:
        title: in words; interactions: how many it has, 0 where it has none to count.
        numbers: how many it stores, what encodes its input included; 0 where that is no fair count.
        cost: in the layer's place, on held-out text.
    """

    title: str
    interactions: int
    numbers: int
    cost: SiteCost


@store.register
@dataclass(frozen=True)
class Rewriting:
    """Everything that was put in a layer's place.

    Args:
        parts: one for each; own: how many numbers the layer itself has.
    """

    parts: tuple[Rewritten, ...]
    own: int


def rewrite(
    model: str,
    /,
    *,
    out: Path,
    layer: int | None = None,
    keep: tuple[int, ...] = (1000, 10000, 100000),
    kind: Literal["topk", "relu"] = "topk",
    features: int = 2048,
    k: int = 32,
    l1: float = 5.0,
    steps: int = 432,
    batch: int = 1024,
    top: int = 100,
    text: tuple[Path, ...] = (),
    length: int = 256,
    fit: int = 90,
    held_out: int = 12,
    seed: int = 0,
) -> Rewriting:
    """Replace a layer by its strongest interactions between features, and measure how much of the model is left.

    Beside each number of interactions stands a transcoder that stores as many numbers, trained for as long, and the
    same list of interactions between features that were never trained.
    Example: bilens rewrite runs/smollm2 --layer 12 --out runs/rewritten

    Args:
        model: a folder, a GGUF file or the name of a model on Hugging Face's hub.
        out: folder for the results; the same command run again continues there.
        layer: which layer (default: the middle one).
        keep: how many interactions, one result for each number.
        kind: rule for codes of the SAEs of the MLP's input and of its output.
        features: features of each.
        k: active features of each, for topk.
        l1: penalty of relu.
        steps: updates of each SAE and transcoder.
        batch: vectors in an update, a multiple of 8.
        top: strongest interactions of every output feature among which the others are chosen.
        text: files and folders of text; by default what is found without a network (docs/text.md).
        length: tokens in a row of text.
        fit: rows to fit to.
        held_out: rows to measure on, of other documents.
        seed: of the order of the text and of all coders.
    """
    counts = sorted({whole("keep", count, 1) for count in keep})
    settings = CoderSettings(kind, features, k, l1, steps, batch, seed=seed)
    job = Steps(6 + len(counts))
    job.begin("opening the model")
    checkpoint = gated.load(model)
    layer = len(checkpoint) // 2 if layer is None else layer
    mlp = checkpoint.mlp(layer)
    job.begin("reading the text")
    split = split_of(
        checkpoint, text, length=length, fit=whole("fit", fit, 8), held_out=whole("held_out", held_out, 2), seed=seed
    )
    live = original(checkpoint)
    weights = checksum(*live.state_dict().values())  # the text goes through all of the model
    asked = {"model": model, "layer": layer, "weights": weights, "text": split.described}
    announce(of_rewrite(mlp, settings, counts), out)
    run = Folder(out, {"command": "rewrite", **asked, "keep": counts, "coders": asdict(settings), "top": top})
    console = Console(markup=False, highlight=False, soft_wrap=True, width=140)
    console.print(f"{mlp!r} of {model}")
    console.print(f"text: {split.described}")
    coders = dict[str, tuple[SAE, CoderReport]]()
    how: dict[str, Any] = {"fit": split.fit, "held_out": split.held_out, "prefix": PREFIX}
    for site in ("mlp_in", "mlp_out"):
        job.begin(f"an SAE of {site}")
        coders[site] = site_coder(run, site, live, layer, site, settings=settings, **how)
    job.begin("interactions")
    read, written = coders["mlp_in"][0], coders["mlp_out"][0]
    x, y = rows_of(live, mlp, split.fit[:SURROGATE])
    tensor = mlp.tensor() if mlp.bilinear else fitted(mlp, x).tensor()
    some = _spread(x, SAMPLE)
    n, mean = mlp.norm(x[some].to(mlp.gate)), y[some].mean(dim=0)
    data: dict[str, Any] = {"n": n, "mean": mean, "keep": counts[-1], "top": top}
    found = run.record("decompiled", Decompiled, lambda: _decompiled(tensor, mlp, read, written, **data))
    untrained, other = _untrained(read, settings, n, 1), _untrained(written, settings, y[some], 2)
    null = run.record("never_trained", Decompiled, lambda: _decompiled(tensor, mlp, untrained, other, **data))
    stand_ins: dict[str, tuple[int, int, Callable[[Tensor], Tensor]]] = {}
    for count in counts:
        for title, coder, short in (
            (f"{count:,} interactions", read, found),
            (f"{count:,} interactions, features never trained", untrained, null),
        ):
            part = short.keep(min(count, len(short)))
            stand_ins[title] = (len(part), _numbers(part, mlp), _stand_in(coder, part))
        job.begin(f"a transcoder as large as {count:,} interactions")
        numbers = stand_ins[f"{count:,} interactions"][1]
        width = max(1, round((numbers - mlp.output.size) / (mlp.input.size + mlp.output.size + 1)))
        made = replace(settings, features=width, k=min(k, width))
        transcoder, _ = site_coder(run, f"transcoder-{width}", live, layer, ("mlp_in", "mlp_out"), settings=made, **how)
        stored = width * (mlp.input.size + mlp.output.size + 1) + mlp.output.size
        stand_ins[f"transcoder of {width:,} features"] = (0, stored, transcoder)
    stand_ins["all interactions of these features"] = (0, 0, _all(tensor, mlp, read, written))
    job.begin("each in the layer's place")

    def measure() -> Rewriting:
        costs = activations.replaced(
            live,
            layer,
            "mlp_out",
            split.held_out,
            {title: stand_in for title, (_, _, stand_in) in stand_ins.items()},
            reads="mlp_in",
            prefix=PREFIX,
            progress=True,
        )
        parts = [Rewritten(cost.by, *stand_ins.get(cost.by, (0, mlp.output.size))[:2], cost) for cost in costs]
        return Rewriting(tuple(parts), mlp.gate.numel() + mlp.up.numel() + mlp.down.numel())

    result = run.record("rewriting", Rewriting, measure)
    console.print(_table(result), soft_wrap=False)
    files.write_text(run.path / "report.md", _report(f"{mlp.title} of {model}", split.described, result, coders))
    run.write(
        "summary.json", {**asdict(result), "coders": {site: asdict(report) for site, (_, report) in coders.items()}}
    )
    console.print(f"report: {run.path / 'report.md'}")
    return result


def _spread(x: Tensor, count: int) -> Tensor:
    """Places of some rows, spread over all."""
    return torch.arange(0, len(x), max(1, len(x) // count))[:count]


@torch.no_grad()
def _codes(coder: SAE, n: Tensor) -> Tensor:
    return torch.cat([coder.encode(part) for part in torch.split(n, 1024)])


def _decompiled(
    tensor: BilinearTensor, mlp: GatedMLP, read: SAE, written: SAE, *, n: Tensor, mean: Tensor, keep: int, top: int
) -> Decompiled:
    inputs, outputs = directions.input_dictionary(read, mlp), written.dictionary(tensor.output)
    return decompositions.decompile(
        tensor, inputs, outputs, keep=keep, codes=_codes(read, n), mean=mean, top=top, progress=True
    )


def _untrained(coder: SAE, settings: CoderSettings, vectors: Tensor, more: int) -> SAE:
    """A coder of the same size before its first step: random atoms around the mean, of the one scale that fits best."""
    other = settings.coder(coder.d_in, seed=settings.seed + more).to(coder.W_dec)
    with torch.no_grad():
        other.b_dec.copy_(vectors.mean(dim=0))
        off, given = vectors - other.b_dec, other(vectors) - other.b_dec
        other.W_dec.mul_((off * given).sum() / given.square().sum().clamp(min=torch.finfo(off.dtype).tiny))
    return other


def _numbers(part: Decompiled, mlp: GatedMLP) -> int:
    """What is stored: the interactions, the output atoms, and of each input feature that is used a row and a bias."""
    return part.numbers + len(part.read) * (mlp.input.size + 1)


def _stand_in(coder: SAE, part: Decompiled) -> Callable[[Tensor], Tensor]:
    return lambda n: part(_codes(coder, n))


def _all(tensor: BilinearTensor, mlp: GatedMLP, read: SAE, written: SAE) -> Callable[[Tensor], Tensor]:
    """The layer on what the codes rebuild of its input, projected on the output atoms: what a longer list tends to."""
    inputs, outputs = directions.input_dictionary(read, mlp), written.dictionary(tensor.output)
    return lambda n: outputs.project(tensor(inputs.decode(_codes(read, n))))


COLUMNS = ("in the layer's place", "numbers stored", "variance lost", "nats per token more", "cross-entropy recovered")


def _lines(result: Rewriting) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("the layer itself", f"{result.own:,}", "0.000", "0.0000", "100.0%")]
    for part in result.parts:
        cost = part.cost
        numbers = f"{part.numbers:,}" if part.numbers else "–"
        costs = f"{cost.delta_ce:+.4f} ± {cost.error:.4f}"
        rows.append((part.title, numbers, f"{cost.fvu:.3f}", costs, f"{cost.recovered:.1%}"))
    return rows


def _table(result: Rewriting) -> Table:
    shown = Table(box=None, pad_edge=False)
    for name in COLUMNS:
        shown.add_column(name, justify="left" if name == COLUMNS[0] else "right")
    for cells in _lines(result):
        shown.add_row(*cells)
    return shown


def _report(title: str, text: str, result: Rewriting, coders: dict[str, tuple[SAE, CoderReport]]) -> str:
    one = result.parts[0].cost
    table = "\n".join(f"| {' | '.join(row)} |" for row in (COLUMNS, ("---",) * len(COLUMNS), *_lines(result)))
    said = [
        f"{report.title}: loses {report.fvu:.3f} of the variance with {report.l0:.1f} active features."
        for _, report in coders.values()
    ]
    return (
        "\n\n".join(
            (
                f"# {title} by its interactions",
                table,
                f"± is one standard error over {one.texts} rows, {one.tokens:,} tokens that nothing was fitted to. "
                "100% is the model as it is, 0% the layer's mean output in its place.",
                *said,
                f"Text: {text}.",
            )
        )
        + "\n"
    )


__all__ = ["Rewriting", "Rewritten", "rewrite"]
