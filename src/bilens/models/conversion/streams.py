"""Texts on their way through a model and its conversion: of each, the residual stream at one layer, in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens._internal import ranks
from bilens._internal.checks import instance
from bilens.errors import BilensError, ShapeError
from bilens.models.conversion.layer import ConvertedMLP
from bilens.models.conversion.stack import Stack
from bilens.models.gated import GatedMLP

Part = Literal["fit", "check", "held_out"]
"""What is fitted to; what settings are chosen on; what nothing is fitted to or chosen on."""

CHECK = 10
"""One in so many of the texts that are there to fit is set aside to choose settings on."""

TOKENS = 4096
"""Tokens that are worked on at a time."""


class Stream:
    """Texts of one part, this process's share of them.

    Attributes:
        tokens: (n, t); places: (n,), the texts' numbers in the whole part; total: how many the whole part has.
        theirs, ours: (n, t, d), the residual stream of the model, and of its conversion; float32.
    """

    def __init__(self, tokens: Int[Tensor, "n t"], device: torch.device) -> None:
        self.total = len(tokens)
        self.places = torch.arange(self.total)[ranks.rank() :: ranks.size()]
        self.tokens = tokens[self.places].to(device)
        self.theirs = self.ours = torch.empty(0)

    def batches(self) -> Iterator[slice]:
        """Texts that are worked on together."""
        count = max(1, TOKENS // self.tokens.shape[1])
        for start in range(0, len(self.tokens), count):
            yield slice(start, start + count)


class Streams:
    """The three parts of the texts at one layer of a model and of its conversion.

    The first token of a text counts apart where it is the same in all of them: what the model makes of it is a constant
    of the model, often hundreds of times larger than at any other token, and the conversion keeps it.

    Args:
        stack: the model; fit: texts to fit to, one per row, of which every tenth is set aside to choose settings on;
            held_out: texts to measure on.

    Attributes:
        parts: by name; prefix: 1 where the first token of all texts is the same, else 0.

    Raises:
        ShapeError: fewer than three texts to fit to or two to measure on, or lengths that differ or are below 3.
    """

    def __init__(self, stack: Stack, fit: Int[Tensor, "n t"], held_out: Int[Tensor, "k t"]) -> None:
        for name, tokens, least in (("fit", fit, 3), ("held_out", held_out, 2)):
            instance(name, tokens, Tensor)
            if tokens.ndim != 2 or len(tokens) < least or tokens.shape[1] < 3 or tokens.is_floating_point():
                raise ShapeError(
                    f"{name} of shape {tuple(tokens.shape)} and type {tokens.dtype}",
                    f"whole numbers, at least {least} texts of 3 tokens",
                )
        if fit.shape[1] != held_out.shape[1]:
            raise ShapeError(f"texts of {fit.shape[1]} and of {held_out.shape[1]} tokens", "one length")
        first = torch.cat([fit[:, 0], held_out[:, 0]])
        self.stack = stack
        self.prefix = int(bool((first == first[0]).all()))
        fitted, checked = self.divided(fit)
        given: dict[Part, Tensor] = {"fit": fitted, "check": checked, "held_out": held_out}
        self.parts = {name: Stream(tokens, stack.device) for name, tokens in given.items()}
        if ranks.size() > min(part.total for part in self.parts.values()):
            raise BilensError(
                f"{ranks.size()} processes for {min(part.total for part in self.parts.values())} texts of a part",
                "a text for each",
                "give more text",
            )

    @staticmethod
    def divided(fit: Int[Tensor, "n t"]) -> tuple[Int[Tensor, "a t"], Int[Tensor, "b t"]]:
        """(texts that are fitted to, every tenth text, which is set aside)."""
        checked = torch.arange(len(fit)) % CHECK == min(CHECK, len(fit)) - 1
        return fit[~checked], fit[checked]

    @property
    def tokens(self) -> int:
        """How many tokens are fitted to, in all processes."""
        fit = self.parts["fit"]
        return fit.total * (fit.tokens.shape[1] - self.prefix)

    def begin(self) -> None:
        """Before the first layer."""
        for part in self.parts.values():
            part.theirs = torch.cat([self.stack.embedded(part.tokens[some]) for some in part.batches()])
            part.ours = part.theirs.clone()

    def enter(self, layer: int) -> None:
        """`theirs` goes to the end of a layer; `ours` up to what the layer's MLP reads."""
        for part in self.parts.values():
            for some in part.batches():
                tokens = part.tokens[some]
                part.theirs[some] = self.stack.through(tokens, part.theirs[some], layer)
                part.ours[some] = self.stack.before_mlp(tokens, part.ours[some], layer)

    def leave(self, mlp: GatedMLP, converted: ConvertedMLP | None) -> None:
        """`ours` goes to the end of the layer, too; its MLP is the model's own where it is not converted."""
        for part in self.parts.values():
            for some in part.batches():
                part.ours[some] = added(mlp, converted, part.ours[some])

    def error(self, name: Part) -> float:
        """The mean over tokens of ‖ours − theirs‖² / ‖theirs‖², where both are after a layer."""
        part = self.parts[name]
        sums = torch.zeros(2, dtype=torch.float64, device=self.stack.device)
        for some in part.batches():
            ours, theirs = part.ours[some, self.prefix :], part.theirs[some, self.prefix :]
            share = weight(theirs) * (ours - theirs).square().mean(dim=-1)
            sums[0] += share.double().sum()
            sums[1] += share.numel()
        ranks.add([sums])
        return float(sums[0] / sums[1])

    def rows(self, name: Part) -> Iterator[tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]]:
        """(what the MLP reads in the conversion, what the model has after the layer), some tokens at a time."""
        part = self.parts[name]
        for some in part.batches():
            x, t = part.ours[some, self.prefix :], part.theirs[some, self.prefix :]
            yield x.reshape(-1, x.shape[-1]), t.reshape(-1, t.shape[-1])

    def first(self) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]] | None:
        """The same two for the first token of every text; None where it differs from text to text."""
        if not self.prefix:
            return None
        fit = self.parts["fit"]
        both = (fit.ours[0, 0].clone(), fit.theirs[0, 0].clone())
        ranks.equal(both)
        return both


def added(mlp: GatedMLP, converted: ConvertedMLP | None, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
    """x and what the layer's MLP adds to it: the model's own, or its conversion."""
    y = mlp(x) if converted is None else converted(mlp.norm(x))
    return x + (y if mlp.post_norm is None else mlp.post_norm(y))


def weight(t: Float[Tensor, "*n d"]) -> Float[Tensor, "*n"]:
    """What a token's squared error counts: 1 / mean t², as for the norm that reads t next."""
    return 1 / t.square().mean(dim=-1).clamp(min=torch.finfo(t.dtype).tiny)


def relative_error(
    streams: Streams,
    mlp: GatedMLP,
    converted: ConvertedMLP | None,
    name: Part,
    measure: Callable[[Tensor], Tensor] = torch.positive,
) -> float:
    """The mean over tokens of measure(‖error‖² / ‖t‖²), with t the model's residual stream after the layer.

    Where the measure gives what it gets, that is `Streams.error` as it will be once the streams leave the layer so.
    """
    sums = torch.zeros(2, dtype=torch.float64, device=streams.stack.device)
    with torch.no_grad():
        for x, t in streams.rows(name):
            error = (added(mlp, converted, x) - t).square().mean(dim=-1)
            sums[0] += measure(weight(t) * error).double().sum()
            sums[1] += len(t)
    ranks.add([sums])
    return float(sums[0] / sums[1])


__all__ = ["CHECK", "TOKENS", "Part", "Stream", "Streams", "added", "relative_error", "weight"]
