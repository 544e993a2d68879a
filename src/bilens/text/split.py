"""Documents as rows of tokens: some to fit on and some held out, split by document, packed and shuffled."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from bilens._internal import checks
from bilens._internal.checks import instance, number, whole
from bilens._internal.shown import line
from bilens.errors import BilensError
from bilens.progress import bar
from bilens.text.encoding import Tokenizer, encoded
from bilens.text.sources import Document, documents, ordered

READ = 256
"""Characters that are read for each token that is asked for: many times what they fill, so that few tokens, too, are
rows of many documents. Of few documents, what is fitted does not carry over to others."""

_AT_ONCE = 16
"""Documents whose tokens are found at once."""

_LONG = 2_000_000
"""Characters from which on progress is shown."""


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Rows of tokens to fit on, and others that were held out.

    Each row begins with the tokenizer's beginning-of-text token, if it has one. The same sources, tokenizer and
    settings give the same rows in the same order, and `rows` reads them from any place on: a job that was stopped
    after k rows goes on with `rows(k, …)`. That is all that resumable means here: nothing else is kept.

    Args:
        fit: (n, t), int64; held_out: (m, t), of other documents.
        described: what they are, in one line.
        held_out_names: of the documents that were held out.
        seed: of all orders.
        paths: files and folders that `described` names, as it names them.

    Raises:
        ShapeError: rows of two lengths. BilensError: no whole numbers of 64 bits.
    """

    fit: Int[Tensor, "n t"]
    held_out: Int[Tensor, "m t"]
    described: str
    held_out_names: tuple[str, ...] = ()
    seed: int = 0
    paths: tuple[str, ...] = ()

    __repr__ = line

    def __post_init__(self) -> None:
        checks.shapes(self)
        for name in ("fit", "held_out"):
            if getattr(self, name).dtype != torch.int64:
                raise BilensError(f"{name} of type {getattr(self, name).dtype}", "tokens of type torch.int64")

    @property
    def named(self) -> str:
        """`described` with the names of files alone: a page that is sent to others does not say where they were.

        Examples:
            >>> rows = torch.zeros(1, 2, dtype=torch.int64)
            >>> Split(rows, rows, "2 tokens; /home/me/texts/essays.txt", paths=("/home/me/texts/essays.txt",)).named
            '2 tokens; essays.txt'
        """
        found = self.described
        for path in sorted(self.paths, key=len, reverse=True):
            found = found.replace(path, Path(path).expanduser().resolve().name or path)
        return found

    def rows(self, start: int, count: int) -> Int[Tensor, "count t"]:
        """Rows `start` … `start + count − 1` of an endless stream of those to fit on.

        The stream is `fit`, and then `fit` again and again, each time in another order drawn by the seed.

        Examples:
            >>> split = Split(torch.arange(6).reshape(3, 2), torch.zeros(0, 2, dtype=torch.int64), "six numbers")
            >>> split.rows(0, 3).tolist()
            [[0, 1], [2, 3], [4, 5]]
            >>> torch.equal(split.rows(0, 9)[4:], split.rows(4, 5))
            True

        Raises:
            BilensError: a number below 0, or nothing to fit on.
        """
        start, count, n = whole("start", start, 0), whole("count", count, 0), len(self.fit)
        if n == 0:
            raise BilensError("a split with no row to fit on", "one row at least")
        found = []
        for epoch in range(start // n, (start + count - 1) // n + 1):
            order = torch.arange(n) if epoch == 0 else torch.tensor(ordered(n, _mixed(self.seed, epoch)))
            found.append(order[max(0, start - epoch * n) : start + count - epoch * n])
        return self.fit[torch.cat(found)] if found else self.fit[:0]


@dataclass(frozen=True, eq=False, repr=False)
class Corpus:
    """Documents to fit on, and others that were held out. `corpus` makes one.

    Args:
        fit, held_out: the documents, both in an order drawn by the seed.
        described: where they are from, in a few words; seed: of all orders.
        paths: files and folders that `described` names, as it names them.
    """

    fit: tuple[Document, ...]
    held_out: tuple[Document, ...]
    described: str
    seed: int = 0
    paths: tuple[str, ...] = ()

    __repr__ = line

    def tokens(self, tokenizer: Tokenizer, *, length: int = 256, tokens: int | None = None) -> Split:
        """The documents as rows of `length` tokens.

        The documents of a part follow one another, with a blank line between them; what does not fill a row at the end
        is dropped. The rows are then shuffled.

        Args:
            tokenizer: the model's own; length: of a row, its beginning-of-text token included.
            tokens: how many to keep at most, of both parts together; all when None.

        Raises:
            BilensError: too little text for one row of each part, or no tokenizer of transformers.
        """
        length = whole("length", length, 2)
        if tokens is not None and whole("tokens", tokens, 1) < length:
            raise BilensError(
                f"{tokens} tokens in rows of {length:,}", "a row at least", "more tokens, or a smaller length"
            )
        wanted = None if tokens is None else tokens // length
        size = sum(len(document.text) for part in (self.fit, self.held_out) for document in part)
        parts = []
        with bar("tokens", len(self.fit) + len(self.held_out), show=size >= _LONG) as step:
            for name, part in (("to fit on", self.fit), ("to hold out", self.held_out)):
                found = [torch.zeros(0, dtype=torch.int64)]
                for start in range(0, len(part), _AT_ONCE):
                    some = part[start : start + _AT_ONCE]
                    found += encoded(tokenizer, [f"{document.text}\n\n" for document in some])
                    step(len(some))
                parts.append(self._packed(torch.cat(found), tokenizer.bos_token_id, length))
                if part and not len(parts[-1]):
                    count = sum(map(len, found))
                    raise BilensError(
                        f"{count:,} tokens {name} from {self.described}",
                        f"enough for a row of {length}",
                        "give more text, or a smaller length",
                    )
        fit, held_out = parts
        every = len(fit) + len(held_out)
        if wanted is not None and wanted < every:
            share = len(held_out) / every
            held = min(len(held_out), max(round(share * wanted), 1 if len(held_out) else 0))
            fit, held_out = fit[: max(1, wanted - held)], held_out[:held]
        few = "" if wanted is None or wanted <= every else f", fewer than the {tokens:,} asked for"
        return Split(
            fit,
            held_out,
            f"{fit.numel():,} tokens to fit on, from {_count(len(self.fit))}, and {held_out.numel():,} held out, "
            f"from {_count(len(self.held_out))}{few}, in rows of {length}, seed {self.seed}; {self.described}",
            tuple(document.name for document in self.held_out),
            self.seed,
            self.paths,
        )

    def _packed(self, tokens: Tensor, first: int | None, length: int) -> Tensor:
        """Tokens as shuffled rows."""
        own = length if first is None else length - 1
        count = len(tokens) // own
        rows = tokens[: count * own].reshape(count, own)
        if first is not None:
            rows = torch.cat([torch.full((len(rows), 1), first), rows], dim=1)
        return rows[torch.tensor(ordered(count, self.seed), dtype=torch.int64)]


def read(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    tokenizer: Tokenizer,
    *,
    length: int = 256,
    tokens: int | None = None,
    hold_out: float = 0.1,
    seed: int = 0,
    field: str = "text",
) -> Split:
    """Rows of tokens of texts, to fit on and held out: `corpus` and `Corpus.tokens` in one call.

    Args:
        sources: files, folders or names of data sets, as `documents` takes them.
        tokenizer: the model's own; length: tokens in a row, its beginning-of-text token included.
        tokens: how many to keep at most, of both parts together. No more than `READ` characters for each are then read.
        hold_out: share of the text that is held out; seed: of all orders; field: the text's name in tables.

    Raises: as `documents`, `corpus` and `Corpus.tokens`.
    """
    characters = None if tokens is None else READ * whole("tokens", tokens, 1)
    found = corpus(sources, hold_out=hold_out, seed=seed, field=field, characters=characters)
    return found.tokens(tokenizer, length=length, tokens=tokens)


def corpus(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    hold_out: float = 0.1,
    seed: int = 0,
    field: str = "text",
    characters: int | None = None,
) -> Corpus:
    """The documents of texts, split into those to fit on and those held out, see `divided`.

    Args:
        sources: files, folders or names of data sets, as `documents` takes them.
        hold_out: share of the text that is held out, from 0 on and below 1; seed: of all orders.
        field: the text's name in tables; characters: after how many to stop reading.

    Raises:
        BilensError: nothing to read, or as `documents`.
    """
    several = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
    named = ", ".join(map(str, several[:3])) + (f" and {len(several) - 3} more" if len(several) > 3 else "")
    found = divided(
        documents(several, field=field, seed=seed), named, hold_out=hold_out, seed=seed, characters=characters
    )
    return replace(found, paths=tuple(path for path in map(str, several[:3]) if Path(path).exists()))


def divided(
    found: Iterable[Document], named: str, *, hold_out: float = 0.1, seed: int = 0, characters: int | None = None
) -> Corpus:
    """Documents to fit on and documents to hold out; no document is in both.

    In an order drawn by the seed, a document is held out where the held-out ones then are no more than the share of
    all characters that is asked for; where none is so short, the shortest is. Of a single document the end is held
    out, from a blank line or a new line on, and `described` says so: such text is nearer to what is fitted on.

    Args:
        found: the documents; named: where they are from.
        hold_out: the share; seed: of the order; characters: after how many to stop reading.

    Raises:
        BilensError: no document, or a share outside 0 … 1.
    """
    hold_out, seed = number("hold_out", hold_out, 0, below=1), checks.seed(seed)
    read, size = list[Document](), 0
    for document in found:
        instance("a document", document, Document)
        read.append(document)
        size += len(document.text)
        if characters is not None and size >= characters:
            break
    if not read:
        raise BilensError(f"no text in {named}", "one document at least")
    if len(read) == 1 and hold_out > 0:
        first, last = _cut(read[0], hold_out)
        return Corpus((first,), (last,), f"{named} (the end of its one document is held out)", seed)
    held, kept, taken = list[Document](), list[Document](), 0
    for place in ordered(len(read), seed):
        document = read[place]
        if taken + len(document.text) <= hold_out * size:
            held.append(document)
            taken += len(document.text)
        else:
            kept.append(document)
    if hold_out > 0 and not held:
        shortest = min(range(len(kept)), key=lambda place: len(kept[place].text))
        held.append(kept.pop(shortest))
    return Corpus(tuple(kept), tuple(held), named, seed)


def _cut(document: Document, hold_out: float) -> tuple[Document, Document]:
    """A document in two, at the first blank line, new line or space soon after the share that is fitted on."""
    text, at = document.text, round(len(document.text) * (1 - hold_out))
    for gap in (r"\n\s*\n", r"\n", r"\s"):
        found = re.search(gap, text[at:])
        if found is not None and 2 * found.end() <= len(text) - at:
            at += found.end()
            break
    return Document(f"{document.name}, its beginning", text[:at]), Document(f"{document.name}, its end", text[at:])


def _mixed(seed: int, epoch: int) -> int:
    return (seed * 1_000_003 + epoch) % 2**63


def _count(documents: int) -> str:
    return f"{documents:,} document{'' if documents == 1 else 's'}"


__all__ = ["READ", "Corpus", "Split", "corpus", "divided", "read"]
