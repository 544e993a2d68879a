"""A language model that is to be read: its layers, its tokens, the text that it is shown, and its running original."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bilens._internal.shown import line
from bilens.analyses._layer_text import longest
from bilens.errors import BilensError
from bilens.models import gated
from bilens.models.gated import Checkpoint
from bilens.models.gated.original import original
from bilens.models.unembedding import embedding, unembedding
from bilens.text import Split, corpus, pieces, tokenizer
from bilens.text.split import READ

PREFIX = 1
"""Tokens at the start of a row that nothing is fitted to or measured on: many models keep a huge output there."""

HELD_OUT = 0.4
"""Share of the text that nothing is fitted to."""

LENGTH = 256
"""Tokens in a row of text, at most what the model takes."""


@dataclass(frozen=True, eq=False, repr=False)
class Subject:
    """A language model and what it is shown.

    Args:
        named: the model, as it was named; checkpoint: its layers.
        embedding: what the residual stream is at the start, a row per token; unembedding: the direction that speaks for
            each token at the end, less the mean, the last norm's gain folded in; pieces: the text of each token.
        split: rows of text, None to look at weights alone.
        live: gives the model as transformers runs it, loaded when it is first asked for.
        named_tokens: whether the texts of tokens are known; without a tokenizer they are numbers.
    """

    named: str
    checkpoint: Checkpoint
    embedding: Float[Tensor, "v d"]
    unembedding: Float[Tensor, "v d"]
    pieces: tuple[str, ...]
    split: Split | None
    live: Callable[[], nn.Module]
    named_tokens: bool = True

    __repr__ = line

    @property
    def title(self) -> str:
        """The model's name without the folder that it is in."""
        name = Path(self.named).name.removesuffix(".gguf")
        return Path(self.named).resolve().parent.name if name == "model" else name


def subject(named: str, text: Sequence[Path], *, tokens: int, seed: int) -> Subject:
    """Open a model, and read the text that it is to be shown.

    Args:
        named: a folder, a GGUF file or a name on the hub; text: files and folders, none for weights alone.
        tokens: how many to read at most; seed: of the order of the text.

    Raises:
        StoreError, BilensError: as `gated.load`, `unembedding`, `text.tokenizer` and `text.corpus`.
    """
    checkpoint = gated.load(named)
    if not text:
        return of_checkpoint(named, checkpoint, None, None)
    found = corpus(text, hold_out=HELD_OUT, seed=seed, characters=READ * tokens)
    known = tokenizer(named)
    return of_checkpoint(
        named, checkpoint, known, found.tokens(known, length=min(LENGTH, longest(checkpoint)), tokens=tokens)
    )


def of_checkpoint(
    named: str, checkpoint: Checkpoint, known: Any, split: Split | None, live: Callable[[], nn.Module] | None = None
) -> Subject:
    """The subject of what is open already.

    Args:
        known: the model's tokenizer; None looks for it, and does without where there is none and no text.
        live: as of `Subject`; loads the model by default.
    """
    start, end = embedding(checkpoint), unembedding(checkpoint)
    texts: tuple[str, ...] | None = None
    try:
        texts = pieces(tokenizer(named) if known is None else known, len(start))
    except BilensError:
        if split is not None:
            raise
    return Subject(
        named,
        checkpoint,
        start,
        end.directions(range(len(end.weight))),
        texts or tuple(f"[{number}]" for number in range(len(start))),
        split,
        live or functools.cache(functools.partial(original, checkpoint)),
        texts is not None,
    )


def frequent(found: Subject, count: int) -> list[int]:
    """The tokens that the text has most, most frequent first; without text, the first words of the vocabulary.

    Vocabularies made by merging begin with what is frequent, which is why the first are taken.
    """
    if found.split is not None:
        tokens, counts = found.split.fit[:, PREFIX:].unique(return_counts=True)  # type: ignore[no-untyped-call]
        order = torch.argsort(counts, descending=True, stable=True)[:count]
        return [int(token) for token in tokens[order] if int(token) < len(found.pieces)]
    words = [number for number, text in enumerate(found.pieces) if text[:1] == " " and text[1:].isalpha()]
    return (words or list(range(len(found.pieces))))[:count]


def labels(found: Subject, tokens: Sequence[int]) -> list[str]:
    """The texts of tokens, all different: with the number behind those that read alike."""
    texts = [found.pieces[token] for token in tokens]
    counts, taken, named = Counter(texts), set(texts), list[str]()
    for text, token in zip(texts, tokens, strict=True):
        label = text
        while counts[text] > 1 and label in taken:
            label = f"{label} #{token}"
        taken.add(label)
        named.append(label)
    return named


def rows(split: Tensor) -> Tensor:
    """The tokens of rows without their prefix, one after another."""
    return split[:, PREFIX:].flatten()


__all__ = [
    "HELD_OUT",
    "LENGTH",
    "PREFIX",
    "Subject",
    "frequent",
    "labels",
    "of_checkpoint",
    "rows",
    "subject",
]
