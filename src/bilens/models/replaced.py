"""What it costs to replace one layer of a language model: variance and cross-entropy, beside two nulls."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn

from bilens._internal import checks
from bilens._internal.checks import instance, whole
from bilens.errors import BilensError, ShapeError
from bilens.models import gated
from bilens.models.gated.original import Trace
from bilens.models.surrogate import Surrogate


@dataclass(frozen=True)
class Replaced:
    """The cost of what stands in for one layer's MLP.

    Args:
        layer: its number; by: what stands there: a method of surrogates, "mean" or "random layer".
        fvu: share of the variance of the layer's output that is lost, on the same tokens.
        delta_ce: cross-entropy more than the original's, in nats per token.
        error: standard error of that difference, from the differences of the texts; texts, tokens: how many.
    """

    layer: int
    by: str
    fvu: float
    delta_ce: float
    error: float
    texts: int
    tokens: int


def replaced(
    surrogates: Surrogate | Sequence[Surrogate],
    model: nn.Module,
    tokens: Int[Tensor, "n t"],
    *,
    prefix: int = 1,
    seed: int = 0,
) -> tuple[Replaced, ...]:
    """What surrogates of a layer cost, each in its place, then the mean of its output and a random layer there.

    The random layer is bilinear, of the same width: rows of W and V of the same lengths in random directions, the same
    D, its one scale and its mean fitted to the layer's on these very tokens. Neither null knows the weights.

    Args:
        surrogates: one, or several of the same layer of the model; model: of transformers, in memory.
        tokens: texts that nothing was fitted on, one per row, at least two.
        prefix: tokens at the start of a text whose output stays the original's: many models keep an output hundreds of
            times larger than all others there, which is the same in every text.
        seed: of the random layer.

    Returns:
        One for each surrogate, in their order, then one for the mean and one for the random layer.

    Cost: a run of the model on the texts as it is, and one for each of these.

    Raises:
        BilensError: no surrogate, or those of several layers; a model without such an MLP, or one of another size.
            ShapeError: fewer than two texts, or texts no longer than the prefix.
    """
    several = (
        [surrogates]
        if isinstance(surrogates, Surrogate)
        else checks.several("surrogates", surrogates, "a surrogate, or a list of them", "pass surrogates of one layer")
    )
    for surrogate in several:
        instance("surrogate", surrogate, Surrogate)
    numbers = sorted({surrogate.mlp.layer for surrogate in several})
    if len(numbers) != 1:
        raise BilensError(f"surrogates of layers {numbers}", "one layer's", "call it once for each layer")
    mlp = several[0].mlp
    layer = mlp.layer
    live = gated.load(model)
    if (layer, "mlp") not in live.places:
        raise BilensError(f"{live!r} without an MLP in layer {layer}", f"the model of {several[0]!r}")
    instance("tokens", tokens, Tensor)
    prefix = whole("prefix", prefix, 0)
    if tokens.ndim != 2 or len(tokens) < 2 or tokens.shape[1] < prefix + 2 or tokens.is_floating_point():
        raise ShapeError(
            f"tokens of shape {tuple(tokens.shape)} and type {tokens.dtype}",
            f"whole numbers, two rows at least, each longer than {prefix + 1}",
        )
    place = live.places[layer, "mlp"]
    with torch.no_grad():
        losses, x, y = _run(model, place, tokens, prefix)
        mean = y.mean(dim=0)
        stand_ins: list[tuple[str, Callable[[Tensor], Tensor]]] = [
            (f"{surrogate.method}{' + bypass' if surrogate.bypass is not None else ''}", surrogate)
            for surrogate in several
        ]
        stand_ins += [("mean", lambda rows: mean.expand(len(rows), -1))]
        stand_ins += [("random layer", _random(mlp, x, y, checks.seed(seed)))]
        found = []
        for by, stand_in in stand_ins:
            more = (_run(model, place, tokens, prefix, stand_in)[0] - losses).mean(dim=1).double()
            lost = float((y - stand_in(x)).square().sum() / (y - mean).square().sum())
            error = float(more.std() / math.sqrt(len(more)))
            found.append(Replaced(layer, by, lost, float(more.mean()), error, len(tokens), losses.numel()))
    return tuple(found)


def _run(
    model: nn.Module,
    place: gated.Place,
    tokens: Tensor,
    prefix: int,
    stand_in: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """(cross-entropy of each token after a text's first, (n, t − 1); rows of the residual stream; of the output)."""

    def instead(x: Tensor, y: Tensor) -> Tensor:
        return y if stand_in is None else torch.cat([y[:prefix], stand_in(x[prefix:]).to(y)])

    losses, inputs, outputs = [], [], []
    trace = Trace(model, place, instead)
    try:
        for text in tokens:
            logits = model(text[None]).logits[0, :-1].float()
            losses.append(nn.functional.cross_entropy(logits, text[1:], reduction="none"))
            if trace.input is None or trace.output is None:
                raise BilensError(f"a model that does not run layer {place.layer}", "one that runs each MLP once")
            inputs.append(trace.input[prefix:])
            outputs.append(trace.output[prefix:])
    finally:
        trace.stop()
    return torch.stack(losses), torch.cat(inputs), torch.cat(outputs)


def _random(mlp: gated.GatedMLP, x: Tensor, y: Tensor, seed: int) -> Callable[[Tensor], Tensor]:
    """A bilinear layer that knows nothing of the weights but the lengths of their rows, its scale and mean fitted."""
    generator = torch.Generator().manual_seed(seed)
    w, v = (_turned(weight, generator) for weight in (mlp.gate, mlp.up))

    def plain(rows: Tensor) -> Tensor:
        n = mlp.norm(rows.to(w))
        return ((n @ w.T) * (n @ v.T)) @ mlp.down.T

    given = plain(x)
    shift, aim = given.mean(dim=0), y.mean(dim=0)
    scale = ((given - shift) * (y - aim)).sum() / (given - shift).square().sum()
    return lambda rows: aim + scale * (plain(rows) - shift)


def _turned(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Rows of the same lengths in random directions."""
    drawn = torch.randn(weight.shape, generator=generator).to(weight)
    turned: Tensor = drawn * (weight.norm(dim=1) / drawn.norm(dim=1))[:, None]
    return turned


__all__ = ["Replaced", "replaced"]
