"""What the commands about one layer begin with: the text, the layer's vectors on it, and its best surrogate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from bilens import activations
from bilens.errors import BilensError
from bilens.models.gated import Checkpoint, GatedMLP
from bilens.models.surrogate import ROWS_FOR_DOWN, Surrogate, least_squares, with_bypass, with_down
from bilens.text import Split, corpus, english, tokenizer

PREFIX = 1
"""Tokens at the start of a row that are left out."""

READ, LEAST_READ = 32, 1_000_000
"""Characters of text that are read for each token, and at least: a split by document wants several."""

SURROGATE = 128
"""Rows of text that surrogates are fitted to at most: their vectors are in memory."""


def longest(checkpoint: Checkpoint) -> int:
    """The longest text that the model takes, as its config says; GGUF calls it otherwise."""
    config = checkpoint.source.config
    longest = config.get("max_position_embeddings") or config.get("context_length")
    return longest if isinstance(longest, int) else 2**31


def split_of(
    checkpoint: Checkpoint, text: tuple[Path, ...], *, length: int, fit: int, held_out: int, seed: int
) -> Split:
    """As many rows as are asked for, of those that there are, no longer than the model takes.

    Args:
        checkpoint: the model; text: files and folders, what is found without a network when there are none.
        length: tokens in a row; fit, held_out: rows; seed: of the order.

    Raises:
        BilensError: fewer than eight rows to fit to, or two to measure on. Others as `bilens.text`.
    """
    length = min(length, longest(checkpoint))
    characters = max(LEAST_READ, READ * length * (fit + held_out))
    share = held_out / (fit + held_out)
    found = (
        corpus(text, hold_out=share, seed=seed, characters=characters)
        if text
        else english(hold_out=share, seed=seed, characters=characters)
    )
    split = found.tokens(tokenizer(checkpoint.source.title), length=length)
    few = replace(split, fit=split.fit[:fit], held_out=split.held_out[:held_out])
    if len(few.fit) < 8 or len(few.held_out) < 2:
        raise BilensError(
            f"{len(few.fit)} rows of text to fit on and {len(few.held_out)} to measure on",
            "eight and two",
            "give more text",
        )
    said = f"{few.fit.numel():,} of these tokens to fit to, {few.held_out.numel():,} to measure on"
    return replace(few, described=f"{split.described}; {said}")


def rows_of(live: nn.Module, mlp: GatedMLP, text: Tensor) -> tuple[Tensor, Tensor]:
    """x before the norm and y of the layer as it is, for every token that is not left out."""
    both = activations.collect(live, mlp.layer, ("residual_before", "mlp_out"), text, prefix=PREFIX, progress=True)
    return both[:, : mlp.input.size], both[:, mlp.input.size :]


def fitted(mlp: GatedMLP, x: Tensor) -> Surrogate:
    """Least squares for each unit, a linear map around them, and from enough rows on a D of its own.

    Args:
        mlp: the layer; x: rows of the residual stream before its norm.
    """
    found = with_bypass(least_squares(mlp, x), x)
    return with_down(found, x) if len(x) >= ROWS_FOR_DOWN else found


__all__ = ["PREFIX", "SURROGATE", "fitted", "longest", "rows_of", "split_of"]
