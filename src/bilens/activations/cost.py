"""What it costs a language model when something else stands at a site: variance and cross-entropy, beside the mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn

from bilens._internal.checks import instance, whole
from bilens.activations.sites import Key, Sites, rows_of
from bilens.activations.stream import collect
from bilens.errors import BilensError, ShapeError
from bilens.progress import bar

MEAN = "mean"
"""The null that is always measured: the site's mean vector, the same for every token."""


@dataclass(frozen=True)
class SiteCost:
    """The cost of what stands at a site.

    Args:
        layer, site: where; by: what stands there.
        fvu: share of the variance of the site's vectors that is lost.
        delta_ce: cross-entropy more than the original's, in nats per token; error: standard error of that difference,
            from those of the texts.
        mean_delta_ce: the same of the mean vector, the null.
        texts, tokens: how many it was measured on.
    """

    layer: int
    site: str
    by: str
    fvu: float
    delta_ce: float
    error: float
    mean_delta_ce: float
    texts: int
    tokens: int

    @property
    def recovered(self) -> float:
        """Share of the cross-entropy that the mean loses and this one does not: 1 for the original, 0 for the mean."""
        return 1 - self.delta_ce / self.mean_delta_ce if self.mean_delta_ce else math.nan


def replaced(
    model: nn.Module,
    layer: int,
    site: str,
    text: Int[Tensor, "n t"],
    stand_ins: Mapping[str, Callable[[Tensor], Tensor]],
    *,
    reads: str | None = None,
    prefix: int = 1,
    progress: bool = False,
) -> tuple[SiteCost, ...]:
    """What stand-ins for the vectors of a site cost, each in its place, and last the site's mean there.

    Args:
        model: of transformers, in memory and in evaluation; layer, site: where.
        text: rows that nothing was fitted on, two at least.
        stand_ins: by name, functions of rows that give the rows which then stand at the site, for example a coder.
        reads: the site whose rows they are given, None for the site itself: "mlp_in" for a transcoder instead of
            "mlp_out".
        prefix: tokens at the start of a text whose vectors stay the original's.
        progress: whether to show a bar.

    Returns:
        One for each, in their order, and one by "mean".

    Cost: a run of the model on the text as it is, and one for each of these.

    Raises:
        BilensError: no such layer or site, a stand-in named as the null, or one that gives other rows; a site that is
            read after the one that is replaced. ShapeError: fewer than two texts, or too short ones.
    """
    prefix = whole("prefix", prefix, 0)
    rows, reads = rows_of("text", text, prefix + 1), site if reads is None else reads
    instance("stand_ins", stand_ins, Mapping, "functions by name")
    if len(rows) < 2:
        raise ShapeError(f"{len(rows)} text", "two texts at least, for the standard error")
    if MEAN in stand_ins:
        raise BilensError(f"a stand-in named {MEAN!r}", "another name: that is the null's")
    keys: list[Key] = [(layer, site)] + ([] if reads == site else [(layer, reads)])
    sites = Sites(model, keys)
    names = tuple(dict.fromkeys((reads, site)))
    vectors = collect(model, layer, names, rows, prefix=prefix)
    read, there = vectors[:, : sites.sizes[layer, reads]], vectors[:, vectors.shape[1] - sites.sizes[layer, site] :]
    mean = there.double().mean(dim=0)
    spread = (there.double() - mean).square().sum()
    every = {**stand_ins, MEAN: lambda given: mean.to(given).expand(len(given), -1)}
    with bar("runs of the model", (1 + len(every)) * len(rows), show=progress) as step:
        own = _losses(sites, None, rows, step)
        found = []
        for by, stand_in in every.items():
            with torch.no_grad():
                parts = [_given(stand_in, some, there.shape[1], by).double() for some in torch.split(read, 4096)]
            lost = float((torch.cat(parts) - there).square().sum() / spread)
            run = _losses(sites, _change(stand_in, sites, (layer, site), (layer, reads), prefix), rows, step)
            more = (run - own).mean(dim=1).double()
            found.append((by, lost, float(more.mean()), float(more.std() / math.sqrt(len(more)))))
    null = found[-1][2]
    return tuple(SiteCost(layer, site, *numbers, null, len(rows), own.numel()) for numbers in found)


Change = Callable[[nn.Module, Tensor], Tensor]
"""Runs the model on some rows of tokens with something else at a site, and gives its logits."""


def _losses(sites: Sites, change: Change | None, rows: Tensor, step: Callable[..., None]) -> Tensor:
    """Cross-entropy of each token after a text's first, (n, t − 1)."""
    found, where = [], next(sites.model.parameters()).device
    with torch.no_grad():
        for text in rows.to(where):
            logits = sites.model(text[None]).logits if change is None else change(sites.model, text[None])
            losses = nn.functional.cross_entropy(logits[0, :-1].float(), text[1:], reduction="none")
            found.append(losses.cpu())
            step(1)
    return torch.stack(found)


def _change(stand_in: Callable[[Tensor], Tensor], sites: Sites, key: Key, reads: Key, prefix: int) -> Change:
    """A run in which the stand-in's rows stand at the site."""
    seen: dict[Key, Tensor] = {}

    def instead(value: Tensor) -> Tensor:
        if key != reads and reads not in seen:
            raise BilensError(f"{reads[1]}, which comes after {key[1]}", "a site that the model reaches before")
        given = (value if key == reads else seen[reads]).reshape(*value.shape[:-1], -1)
        flat = given[:, prefix:].flatten(0, -2)
        new = _given(stand_in, flat, value.shape[-1], "a stand-in").to(value)
        return torch.cat([value[:, :prefix], new.reshape(len(value), -1, value.shape[-1])], dim=1)

    def run(model: nn.Module, tokens: Tensor) -> Tensor:
        seen.clear()
        hook = None if key == reads else sites.hook(reads, lambda at, value: seen.update({at: value}))
        try:
            with sites.replacing(key, instead):
                logits: Tensor = model(tokens).logits
        finally:
            if hook is not None:
                hook.remove()
        return logits

    return run


def _given(stand_in: Callable[[Tensor], Tensor], rows: Tensor, width: int, by: str) -> Tensor:
    found = stand_in(rows)
    if not isinstance(found, Tensor) or tuple(found.shape) != (len(rows), width):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise BilensError(f"{shape} from {by}", f"({len(rows)}, {width}), a row for each token")
    return found.detach()


__all__ = ["MEAN", "SiteCost", "replaced"]
