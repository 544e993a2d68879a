"""Gradient steps on one layer's conversion, from its closed form: kept only where they do better on other tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from bilens._internal import ranks
from bilens._internal.device import rounded_products
from bilens._internal.seeds import derived
from bilens.models.conversion._closed_form import Closed, exact_at_first
from bilens.models.conversion.layer import ConvertedMLP
from bilens.models.conversion.streams import Streams, relative_error, weight
from bilens.models.gated import GatedMLP
from bilens.progress import Step

BATCH = 1024
"""Tokens of a step, in all processes together."""

RATE = 0.02
"""Adam's rate at its highest, as a share of each matrix's `usual_size`."""

LOOKS = 4
"""How often on the way the error on other tokens is looked at."""

FIRST = 0.01
"""What the first token of every text counts, as a share of a batch."""


def descended(
    closed: Closed,
    mlp: GatedMLP,
    streams: Streams,
    *,
    steps: int,
    seed: int,
    precision: Literal["bfloat16"] | None = None,
    step: Step | None = None,
) -> tuple[ConvertedMLP, float, float, int]:
    """Adam on all weights of a layer's conversion, with t the residual stream after the layer.

    The loss is the mean over tokens of log(1 + ‖error‖² / ‖t‖²), and candidates are compared by it, too. A closed form
    can miss a few tokens thousands of times as far as the others, and these alone would set the direction of each step.

    Tokens come in an order drawn from the seed, each once before any comes again; the rate falls to 0 along a cosine.
    In several processes each sums the gradients of its own tokens, so that all together take one process's steps.

    Args:
        closed: where to begin; mlp: the gated layer; streams: which have entered it.
        steps: of Adam; seed: of the order; step: is called after each.
        precision: "bfloat16" rounds the factors of the steps' products to it; weights and errors stay float32.

    Returns:
        The best one on the tokens that are set aside, of the closed form and `LOOKS` points on the way; its loss
        there; that of the closed form; and the steps it took, 0 for the closed form.
    """
    before = relative_error(streams, mlp, closed.mlp, "check", torch.log1p)
    if not steps:
        return closed.mlp, before, before, 0
    best, least, kept = closed.mlp, before, 0
    order = derived(seed, mlp.layer)
    for done, found in _steps(closed.mlp, mlp, streams, steps=steps, seed=order, precision=precision, step=step):
        if not all(bool(value.isfinite().all()) for value in found):
            break
        candidate = exact_at_first(ConvertedMLP(mlp.layer, *found), mlp, streams, closed.damped)
        error = relative_error(streams, mlp, candidate, "check", torch.log1p)
        if error < least:
            best, least, kept = candidate, error, done
    return best, least, before, kept


def _steps(
    start: ConvertedMLP,
    mlp: GatedMLP,
    streams: Streams,
    *,
    steps: int,
    seed: int,
    precision: Literal["bfloat16"] | None,
    step: Step | None,
) -> Iterator[tuple[int, list[Tensor]]]:
    """(steps done, weights then), a few times on the way and at the end."""
    fit, prefix, first = streams.parts["fit"], streams.prefix, streams.first()
    length = fit.tokens.shape[1]
    scored = length - prefix
    ours, theirs = (value.view(-1, value.shape[-1]) for value in (fit.ours, fit.theirs))
    weights = [value.clone().requires_grad_() for value in start.tensors]
    rates = [RATE * usual_size(value) for value in weights]
    largest = max(rates)
    optimizer = torch.optim.Adam(
        # A bias that is 0 so far has no size of its own: it moves as its layer's matrices do, by a little.
        [{"params": [w], "lr": rate or 0.01 * largest} for w, rate in zip(weights, rates, strict=True)],
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda at: (1 + math.cos(math.pi * at / steps)) / 2)
    generator, count = torch.Generator().manual_seed(seed), fit.total * scored
    order, used = torch.randperm(count, generator=generator), 0
    for number in range(1, steps + 1):
        size = min(BATCH, count)
        if used + size > count:
            order, used = torch.randperm(count, generator=generator), 0
        texts, places = order[used : used + size] // scored, order[used : used + size] % scored
        used += size
        mine = texts % ranks.size() == ranks.rank()
        rows = (texts[mine] // ranks.size() * length + prefix + places[mine]).to(ours.device)
        optimizer.zero_grad()
        x, t = ours[rows], theirs[rows]
        with rounded_products(precision, x.device):
            loss = _loss(weights, mlp, x, t) / size
            if first is not None and ranks.lead():
                loss = loss + FIRST * _loss(weights, mlp, first[0][None], first[1][None])
        loss.backward()  # type: ignore[no-untyped-call]
        ranks.add([w.grad for w in weights if w.grad is not None])
        optimizer.step()
        schedule.step()
        if step is not None:
            step(1)
        if number * LOOKS // steps > (number - 1) * LOOKS // steps:
            found = [w.detach().clone() for w in weights]
            ranks.equal(found)
            yield number, found


def usual_size(weight: Tensor) -> float:
    """The root mean square of a matrix's columns, the median of all: few of M's can be thousands of times the others,
    where a coordinate of n is nearly 0. Of a vector, the median of its absolute values."""
    columns = weight.detach().view(-1, weight.shape[-1]).square().mean(dim=0).sqrt()
    return float(columns.median())


def _loss(weights: list[Tensor], mlp: GatedMLP, x: Tensor, t: Tensor) -> Tensor:
    """Σ log(1 + ‖error‖² / ‖t‖²) over some tokens."""
    left, left_bias, right, right_bias, down, bypass, down_bias = weights
    n = mlp.norm(x)
    units = functional.linear(n, left, left_bias) * functional.linear(n, right, right_bias)
    y = functional.linear(units, down, down_bias) + functional.linear(n, bypass)
    more = y if mlp.post_norm is None else mlp.post_norm(y)
    return (weight(t) * (x + more - t).square().mean(dim=-1)).log1p().sum()


__all__ = ["BATCH", "FIRST", "LOOKS", "RATE", "descended", "usual_size"]
