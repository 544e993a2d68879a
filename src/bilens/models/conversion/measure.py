"""How far a conversion is from its model: cross-entropy, KL and agreement of the next token, on the same texts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens._internal import ranks
from bilens.errors import BilensError
from bilens.faithfulness import TextScore
from bilens.models.conversion.stack import Stack
from bilens.models.conversion.streams import Part, Streams

TOGETHER = 2
"""Texts whose logits are in memory at a time."""


def compared(
    theirs: Float[Tensor, "n t v"], ours: Float[Tensor, "n t v"], tokens: Int[Tensor, "n t"]
) -> Float[Tensor, "n 4"]:
    """(cross-entropy of theirs, of ours, KL(theirs ‖ ours), agreement): of each text, over its tokens but the first.

    Args:
        theirs, ours: logits; tokens: the texts.
    """
    ours_log, theirs_log = ours[:, :-1].log_softmax(dim=-1), theirs[:, :-1].log_softmax(dim=-1)
    aims = tokens[:, 1:, None]
    losses = [-logs.gather(2, aims)[..., 0].mean(dim=1) for logs in (theirs_log, ours_log)]
    kl = (theirs_log.exp() * (theirs_log - ours_log)).sum(dim=-1).mean(dim=1)
    same = (theirs_log.argmax(dim=-1) == ours_log.argmax(dim=-1)).double().mean(dim=1)
    return torch.stack([*losses, kl, same], dim=1).double()


def measured(
    theirs: Callable[[slice], Tensor],
    ours: Callable[[slice], Tensor],
    tokens: Int[Tensor, "n t"],
    *,
    total: int,
    places: Int[Tensor, " n"],
) -> TextScore:
    """The score over the texts of all processes. Arguments and errors are those of `per_text`."""
    return scored(per_text(theirs, ours, tokens, total=total, places=places), tokens.shape[1])


def scored(values: Float[Tensor, "n 4"], length: int) -> TextScore:
    """The score of texts that were `compared`, each of so many tokens."""
    return TextScore.of_texts(values, len(values) * (length - 1))


def per_text(
    theirs: Callable[[slice], Tensor],
    ours: Callable[[slice], Tensor],
    tokens: Int[Tensor, "n t"],
    *,
    total: int,
    places: Int[Tensor, " n"],
) -> Float[Tensor, "m 4"]:
    """What `compared` gives of each text of all processes.

    Args:
        theirs, ours: give the logits of some of this process's texts; tokens: these texts.
        total: how many texts all processes have together; places: the numbers of these among them.

    Raises:
        BilensError: fewer than two texts in all.
    """
    if total < 2:
        raise BilensError(f"{total} texts to measure on", "at least two, for an interval")
    values = torch.zeros(total, 4, dtype=torch.float64, device=tokens.device)
    with torch.no_grad():
        for start in range(0, len(tokens), TOGETHER):
            some = slice(start, start + TOGETHER)
            values[places[some].to(values.device)] = compared(theirs(some), ours(some), tokens[some])
    ranks.add([values])
    return values.cpu()


class Evaluation:
    """Some texts of a part, with what the model makes of them in the end.

    Args:
        stack: the model; streams: of all texts; name: of the part; count: how many texts of it.
    """

    def __init__(self, stack: Stack, streams: Streams, name: Part, count: int) -> None:
        part = streams.parts[name]
        self.stack, self.total = stack, min(count, part.total)
        mine = part.places < self.total
        self.places, self.tokens = part.places[mine], part.tokens[: int(mine.sum())]
        self.final = stack.embedded(self.tokens) if len(self.tokens) else torch.empty(0)
        for layer in range(len(stack) if len(self.tokens) else 0):
            self.final = stack.through(self.tokens, self.final, layer)

    def score(self, x: Float[Tensor, "n t d"], first: int) -> TextScore:
        """The score of the model from layer `first` on, begun with these residual streams of the first texts."""
        return scored(self.per_text(x, first), self.tokens.shape[1])

    def per_text(self, x: Float[Tensor, "n t d"], first: int) -> Float[Tensor, "m 4"]:
        """What `compared` gives of each text; arguments are those of `score`."""
        end = len(self.stack)
        return per_text(
            lambda some: self.stack.logits(self.tokens[some], self.final[some], end),
            lambda some: self.stack.logits(self.tokens[some], x[: len(self.tokens)][some], first),
            self.tokens,
            total=self.total,
            places=self.places,
        )


__all__ = ["TOGETHER", "Evaluation", "compared", "measured", "per_text", "scored"]
