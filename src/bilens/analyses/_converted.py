"""What a conversion leaves in its folder: numbers, figures, and a page of text from both models side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from operator import sub
from pathlib import Path
from statistics import stdev
from typing import Any, NamedTuple

import torch
from rich.table import Table
from torch import Tensor, nn

from bilens import plots, text
from bilens._internal import ranks
from bilens._internal.files import make_folder, write_text
from bilens.analyses import _side_by_side as side_by_side
from bilens.faithfulness import TextScore
from bilens.models import conversion, gated
from bilens.models.conversion import ConvertedLayer, ConvertedModule, Stack
from bilens.models.gated.original import library

SUMMARY, SAMPLES = "conversion.json", "samples.html"
"""Names of the files in the folder."""

TEXTS = 64
"""Texts of a part that the whole model is measured on, at most."""

LEFT = (0, 1, 2, 3, 4, 6, 8, 12, 16)
"""How many of the costliest layers are left as they were in the measured curve."""

Left = tuple[int, TextScore]
"""How many layers are converted, and the score."""


def scores(stack: Stack, student: nn.Module, split: text.Split) -> dict[str, TextScore]:
    """The converted model beside its original, on texts that it was fitted to and on held-out ones."""
    called: Any = student
    parts = {"fit": conversion.Streams.divided(split.fit)[0], "held_out": split.held_out}
    return {
        name: score(stack, lambda tokens: called(input_ids=tokens, use_cache=False).logits.float(), tokens)
        for name, tokens in parts.items()
    }


def score(stack: Stack, ours: Any, tokens: Tensor) -> TextScore:
    """The score of what gives logits of tokens, on the first texts; each process takes its share of them."""
    some = tokens[:TEXTS]
    places = torch.arange(len(some))[ranks.rank() :: ranks.size()]
    mine = some[places].to(stack.device)
    theirs: Any = stack.model
    return conversion.measured(
        lambda part: theirs(input_ids=mine[part], use_cache=False).logits.float(),
        lambda part: ours(mine[part]),
        mine,
        total=len(some),
        places=places,
    )


class Added(NamedTuple):
    """What a layer's conversion added to the held-out cross-entropy.

    Attributes:
        layer: its number; delta_ce: what it added, in nats per token.
        error: ±, the standard error over texts of the difference within each; None where a record has no texts.
    """

    layer: int
    delta_ce: float
    error: float | None

    @property
    def told(self) -> str:
        """The number, with ± where that is known."""
        return f"{self.delta_ce:+.3f}" if self.error is None else f"{self.delta_ce:+.3f} ± {self.error:.3f}"


def added(found: Sequence[ConvertedLayer]) -> list[Added]:
    """What each layer added to those before it, in the order in which they were converted."""
    entries: list[Added] = []
    total, before = 0.0, (0.0,) * found[0].score.texts if found else None
    for one in found:
        error = None
        if one.deltas is not None and before is not None:
            error = stdev(map(sub, one.deltas, before)) / math.sqrt(len(before))
        entries.append(Added(one.mlp.layer, one.score.delta_ce - total, error))
        total, before = one.score.delta_ce, one.deltas
    return entries


def costliest(found: Sequence[ConvertedLayer]) -> list[tuple[int, float]]:
    """(layer, what it added to the held-out cross-entropy), the costliest first."""
    return sorted(((one.layer, one.delta_ce) for one in added(found)), key=lambda pair: (-pair[1], pair[0]))


def estimated(found: Sequence[ConvertedLayer]) -> list[tuple[int, float]]:
    """(layers converted, ΔCE) with the costliest layers left as they were, if what each adds adds up."""
    points, left = [], found[-1].score.delta_ce
    for place, (_, more) in enumerate([*costliest(found), (0, 0.0)]):
        points.append((len(found) - place, left))
        left -= more
    return points


def curve(stack: Stack, found: Sequence[ConvertedLayer], split: text.Split) -> tuple[Left, ...]:
    """The same, measured on held-out texts, for some numbers of layers. Each keeps the conversion that it has."""
    order = torch.tensor([layer for layer, _ in costliest(found)])
    ranks.equal([order])  # a process that was told of finished layers does not know their scores
    mlps = {one.mlp.layer: ConvertedModule(one.mlp.to(stack.device)) for one in found}
    theirs: Any = stack.model
    points = []
    for count in [count for count in LEFT if count < len(found)]:
        modules = {layer: module for layer, module in mlps.items() if layer not in order[:count].tolist()}

        def ours(tokens: Tensor, modules: Mapping[int, nn.Module] = modules) -> Tensor:
            with stack.with_mlps(modules):
                logits: Tensor = theirs(input_ids=tokens, use_cache=False).logits
            return logits.float()

        points.append((len(modules), score(stack, ours, split.held_out[: conversion.TEXTS])))
    return tuple(points)


def reopened(
    stack: Stack,
    found: Sequence[ConvertedLayer],
    student: nn.Module,
    folder: Path,
    split: text.Split,
    *,
    trained: bool,
) -> dict[str, float | None]:
    """How far the logits of the folder, as transformers opens it, are from ours, as shares of the largest logit.

    Returns:
        "written": from the model that was written; "layers": that model from the original with its layers replaced,
        None where they were `trained` together afterwards.
    """
    called: Any = student
    kind: str = called.config.model_type
    if kind.startswith(gated.BILINEAR):
        conversion.register(kind.removeprefix(gated.BILINEAR))
    opened = library("a converted model").AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = split.held_out[:1].to(stack.device)
    with torch.no_grad():
        theirs: Any = opened.to(stack.device).eval()
        again = theirs(input_ids=tokens, use_cache=False).logits
        ours = called(input_ids=tokens, use_cache=False).logits
        modules = {one.mlp.layer: ConvertedModule(one.mlp.to(stack.device)) for one in found}
        original: Any = stack.model
        with stack.with_mlps(modules):
            replaced = original(input_ids=tokens, use_cache=False).logits
    largest = ours.abs().max()
    return {
        "written": float((again - ours).abs().max() / largest),
        "layers": None if trained else float((ours - replaced).abs().max() / largest),
    }


def summary(
    checkpoint: gated.Checkpoint,
    split: text.Split,
    found: Sequence[ConvertedLayer],
    scores: Mapping[str, TextScore],
    *,
    distilled: Mapping[str, Any] | None,
    measured: Sequence[Left],
    difference: Mapping[str, float | None],
    tokens: Mapping[str, int],
) -> dict[str, Any]:
    """All numbers of a conversion, as JSON values."""
    return {
        "model": checkpoint.source.title,
        "family": checkpoint.family.name,
        "text": split.described,
        "tokens": dict(tokens),
        "whole": {name: asdict(score) for name, score in scores.items()},
        "layers": [_entry(one, more) for one, more in zip(found, added(found), strict=True)],
        "left_gated": {
            "costliest": [layer for layer, _ in costliest(found)],
            "estimated": [{"converted": count, "delta_ce": value} for count, value in estimated(found)],
            "measured": [{"converted": count, **asdict(value)} for count, value in measured],
        },
        "end_to_end": None if distilled is None else dict(distilled),
        "logits": dict(difference),
    }


def _entry(one: ConvertedLayer, more: Added) -> dict[str, Any]:
    return {
        "layer": one.mlp.layer,
        "relative_error": {
            "closed_form": one.closed,
            "set_aside": one.checked,
            "fit": one.fitted,
            "held_out": one.held_out,
        },
        "ridge": one.ridge,
        "down_refitted": one.refitted,
        "steps_kept": one.steps,
        "added_delta_ce": more.delta_ce,
        "added_delta_ce_error": more.error,
        "so_far": {"fit": asdict(one.fit_score), "held_out": asdict(one.score)},
        "mean_instead": asdict(one.null),
    }


def drawn(out: Path, found: Sequence[ConvertedLayer], measured: Sequence[Left]) -> None:
    """The figures of a conversion: layer by layer, and against the number of layers converted."""
    make_folder(out / "figures")
    layers = [one.mlp.layer for one in found]
    parts = {"held out": [one.score for one in found], "fitted to": [one.fit_score for one in found]}
    each = [(more.delta_ce, more.error) for more in added(found)]
    plots.save(plots.conversion(layers, parts, each), out / "figures" / "conversion.svg")
    plots.save(plots.left_gated(estimated(found), measured), out / "figures" / "left_gated.svg")


def samples(
    out: Path, models: tuple[nn.Module, nn.Module], tokenizer: Any, tokens: Tensor, scores: Mapping[str, TextScore]
) -> None:
    """The page of held-out texts that both models, the original and its conversion, go on with."""
    length = min(side_by_side.LENGTH, tokens.shape[1])
    texts = side_by_side.continued(*models, tokenizer, tokens, length=length)
    facts = [f"{_PARTS[name]}: {told(score)}" for name, score in scores.items()]
    write_text(out / SAMPLES, side_by_side.page(texts, title="A model and its bilinear conversion", facts=facts))


_PARTS = {"fit": "on text that was fitted to", "held_out": "on held-out text"}


def told(score: TextScore) -> str:
    """A score in words."""
    return (
        f"cross-entropy {score.original:.3f} {score.delta_ce:+.3f} ± {score.delta_ce_error:.3f}, "
        f"KL {score.kl:.3f} ± {score.kl_error:.3f}, "
        f"same likeliest token {score.agreement:.1%} ± {score.agreement_error:.1%} "
        f"({score.texts} texts, {score.tokens:,} tokens)"
    )


def table(found: Sequence[ConvertedLayer]) -> Table:
    """One row per layer: relative errors, what it added, and the model converted so far."""
    shown = Table(box=None, pad_edge=False)
    for name in (
        *("layer", "error", "held out", "steps", "ΔCE added", "ΔCE so far", "ΔCE fitted", "KL", "agreement"),
        "mean instead",
    ):
        shown.add_column(name, justify="right")
    for one, more in zip(found, added(found), strict=True):
        shown.add_row(
            str(one.mlp.layer),
            f"{one.fitted:.4f}",
            f"{one.held_out:.4f}",
            str(one.steps),
            more.told,
            f"{one.score.delta_ce:+.3f} ± {one.score.delta_ce_error:.3f}",
            f"{one.fit_score.delta_ce:+.3f} ± {one.fit_score.delta_ce_error:.3f}",
            f"{one.score.kl:.3f}",
            f"{one.score.agreement:.1%}",
            f"{one.null.delta_ce:+.3f} ± {one.null.delta_ce_error:.3f}",
        )
    return shown


def lines(scores: Mapping[str, TextScore], out: Path, summary: Mapping[str, Any]) -> list[str]:
    """What the command says in the end."""
    distilled = summary["end_to_end"] or {"before": {}}
    return [
        summary["text"],
        *(
            f"before end-to-end distillation, {_PARTS[name]}: {told(TextScore(**one))}"
            for name, one in distilled["before"].items()
        ),
        *(f"{_PARTS[name]}: {told(score)}" for name, score in scores.items()),
        f"model: {out / 'model'}; as transformers opens it, its logits are ours to {summary['logits']['written']:.0e}",
        f"numbers: {out / SUMMARY}; texts of both: {out / SAMPLES}; figures: {out / 'figures'}",
    ]


__all__ = [
    "SAMPLES",
    "SUMMARY",
    "Added",
    "added",
    "costliest",
    "curve",
    "drawn",
    "estimated",
    "lines",
    "reopened",
    "samples",
    "score",
    "scores",
    "summary",
    "table",
    "told",
]
