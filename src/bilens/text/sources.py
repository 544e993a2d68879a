"""Documents from wherever text lies: files, folders, lines of JSON, Parquet, or a data set of Hugging Face's hub."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import torch

from bilens._internal import checks
from bilens._internal.files import read_bytes
from bilens.errors import BilensError, StoreError

END = "<|endoftext|>"
"""What stands between the documents of a plain file that has several."""


@dataclass(frozen=True)
class Document:
    """One text.

    Args:
        name: where it is from, for example "essays/first.txt" or "pages.jsonl, line 3"; text: not empty.
    """

    name: str
    text: str


def documents(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], *, field: str = "text", seed: int = 0
) -> Iterator[Document]:
    """The documents of one or more sources, read while they are asked for; the sources take turns.

    A source is one of:

    - a plain file (.txt, .md), one document, or several with a line `<|endoftext|>` between them;
    - an HTML file (.html, .htm), whose tags, scripts and styles are left out;
    - lines of JSON (.jsonl, .ndjson), each an object with a text;
    - a Parquet file (.parquet) with a column of texts, through the package `pyarrow`;
    - a folder with such files, at any depth, in an order drawn by the seed; other files in it are passed over;
    - the name of a data set on the hub, "owner/name" or "owner/name:configuration", through the package `datasets`:
      its rows of "train", one after another.

    All but Parquet may be compressed (.gz). A document that has come before is left out, and so is an empty one.

    Args:
        sources: a path or a name, or several; field: the name of the text in JSON, Parquet and data sets.
        seed: of the order of a folder's files.

    Raises:
        BilensError: no source, or a package that is not installed. StoreError: nothing there, a file that is damaged,
            is not UTF-8, or has no such field.
    """
    several = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
    if not several:
        raise BilensError("no source of text", "a file, a folder, or the name of a data set")
    checks.instance("field", field, str, "a text")
    return _once(turns([_source(one, field, checks.seed(seed)) for one in several]))


def turns(streams: Sequence[Iterable[Document]]) -> Iterator[Document]:
    """A document of each stream, then the next of each, until all are at their end."""
    running = [iter(stream) for stream in streams]
    while running:
        for stream in list(running):
            document = next(stream, None)
            if document is None:
                running.remove(stream)
            else:
                yield document


def ordered(count: int, seed: int) -> list[int]:
    """The numbers from 0 to count − 1 in an order drawn by the seed."""
    order: list[int] = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return order


def plain(html: str) -> str:
    """The text of a page of HTML: a blank line between blocks, and no tags, scripts, styles or title.

    Examples:
        >>> plain("<title>no</title><p>One &amp; <b>two</b>.<p>Three<script>no()</script>.")
        'One & two.\\n\\nThree.'
    """
    page = _Page()
    page.feed(html)
    page.close()
    text = re.sub(r"[^\S\n]*\n[^\S\n]*", "\n", "".join(page.parts))
    return re.sub(r"\n{3,}", "\n\n", text).strip()


_BLOCKS = re.compile(
    "address|article|aside|blockquote|body|center|d[dlt]|div|fieldset|figcaption|figure|footer|form|h[1-6r]|header|li|"
    "main|[ou]l|p|pre|section|table|tr"
)
_SILENT = frozenset(("script", "style", "title", "template"))


class _Page(HTMLParser):
    """Collects the text of a page in `parts`."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._silent = 0
        self._preformatted = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._silent += tag in _SILENT
        self._preformatted += tag == "pre"
        self._space(tag)

    def handle_endtag(self, tag: str) -> None:
        self._silent = max(0, self._silent - (tag in _SILENT))
        self._preformatted = max(0, self._preformatted - (tag == "pre"))
        if tag in ("td", "th"):
            self.parts.append(" ")
        self._space(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._space(tag)  # <script/> opens nothing

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.parts.append(data if self._preformatted else re.sub(r"\s+", " ", data))

    def _space(self, tag: str) -> None:
        if _BLOCKS.fullmatch(tag):
            self.parts.append("\n\n")
        elif tag == "br":
            self.parts.append("\n")


def _source(source: str | os.PathLike[str], field: str, seed: int) -> Iterator[Document]:
    path = checks.path("a source of text", source)
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if _reader(file) is not None and file.is_file()]
        if not files:
            raise StoreError(
                f"{path} without a text", f"files that end in {', '.join(_READERS)}, or in .gz after these"
            )
        return (document for number in ordered(len(files), seed) for document in _file(files[number], field))
    if path.is_file():
        return _file(path, field)
    if isinstance(source, str) and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*(:[\w.-]+)?", source):
        return _dataset(source, field)
    raise StoreError(f"{path}, which is not there", "a file, a folder, or a data set's name like owner/name")


def _file(path: Path, field: str) -> Iterator[Document]:
    """A file's documents; one of no known kind is taken for plain text, which it has to be."""
    return (_READERS[_reader(path) or ".txt"])(path, field)


def _reader(path: Path) -> str | None:
    """The ending that says how a file is read, without .gz; None where it says nothing."""
    ending = Path(path.stem).suffix if path.suffix.lower() == ".gz" else path.suffix
    ending = ending.lower()
    return ending if ending in _READERS and not (ending == ".parquet" and path.suffix != ending) else None


def _plain_file(path: Path, field: str) -> Iterator[Document]:
    parts = _whole(path).split(END)
    for number, text in enumerate(parts, 1):
        yield Document(str(path) if len(parts) == 1 else f"{path}, part {number}", text.strip())


def _page_file(path: Path, field: str) -> Iterator[Document]:
    yield Document(str(path), plain(_whole(path)))


def _lines(path: Path, field: str) -> Iterator[Document]:
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _row(_json(line, path, number), field, f"{path}, line {number}")
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, error) from error


def _json(line: bytes, path: Path, number: int) -> object:
    try:
        content: object = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path} with line {number}, which is no JSON", "a JSON object on every line") from error
    return content


def _parquet(path: Path, field: str) -> Iterator[Document]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise BilensError(
            f"{path}, a Parquet file", "the package pyarrow", "install it: pip install pyarrow"
        ) from error
    try:
        file = pyarrow.parquet.ParquetFile(path)
        if field not in file.schema_arrow.names:
            raise _no_field(str(path), field, file.schema_arrow.names)
        number = 0
        for batch in file.iter_batches(batch_size=256, columns=[field]):
            for text in batch.column(0).to_pylist():
                number += 1
                yield _row({field: text}, field, f"{path}, row {number}")
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _dataset(name: str, field: str) -> Iterator[Document]:
    try:
        import datasets
    except ImportError as error:
        raise BilensError(
            f"{name}, which is no file or folder",
            "one, or the package datasets, which loads it by name",
            "install it: pip install datasets",
        ) from error
    repository, _, configuration = name.partition(":")
    try:
        rows = datasets.load_dataset(repository, configuration or None, split="train", streaming=True)
        for number, row in enumerate(rows, 1):
            yield _row(row, field, f"{name}, row {number}")
    except BilensError:
        raise
    except Exception as error:  # whatever datasets and its network libraries raise
        reason = " ".join(str(error).split())[:160]
        raise StoreError(
            f"{name}, which is no file or folder, and which datasets does not load ({reason})", "a source that is there"
        ) from error


_READERS: dict[str, Callable[[Path, str], Iterator[Document]]] = {
    **dict.fromkeys((".txt", ".md"), _plain_file),
    **dict.fromkeys((".html", ".htm"), _page_file),
    **dict.fromkeys((".jsonl", ".ndjson"), _lines),
    ".parquet": _parquet,
}
"""How a file is read, by its ending."""


def _row(content: object, field: str, name: str) -> Document:
    """One row of a table. A text that is missing there is an empty one."""
    if not isinstance(content, dict):
        raise StoreError(f"{name} with a JSON {type(content).__name__}", "a JSON object on every line")
    if field not in content:
        raise _no_field(name, field, [str(key) for key in content])
    text = content[field]
    if text is not None and not isinstance(text, str):
        raise StoreError(f"{name} with {field!r} of type {type(text).__name__}", "a text")
    return Document(name, (text or "").strip())


def _no_field(name: str, field: str, there: Sequence[str]) -> StoreError:
    listed = ", ".join(there[:8]) or "nothing"
    return StoreError(f"{name} without {field!r}", f"a field of that name; it has {listed}", "name another field")


def _whole(path: Path) -> str:
    content = read_bytes(path)
    if path.suffix.lower() == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise _damaged(path, error) from error
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise StoreError(
            f"{path}, which is not UTF-8 at byte {error.start}", "a text in UTF-8", "convert it, or leave it out"
        ) from error


def _damaged(path: Path, error: Exception) -> StoreError:
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    return StoreError(f"{path}, which cannot be read ({reason})", "a whole file", "copy or download it again")


def _once(found: Iterable[Document]) -> Iterator[Document]:
    seen: set[bytes] = set()
    for document in found:
        mark = hashlib.blake2b(document.text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if document.text and mark not in seen:
            seen.add(mark)
            yield document


__all__ = ["END", "Document", "documents", "ordered", "plain", "turns"]
