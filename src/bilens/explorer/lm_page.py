"""The page of one layer of a language model as one HTML file, with the policy and the escaping of every page."""

from __future__ import annotations

import html
import json
import re
import string
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from bilens._internal import checks
from bilens._internal.files import read_bytes, write_text
from bilens.errors import StoreError
from bilens.explorer.lm_layout import FORMAT, Reading
from bilens.explorer.page import APP, hashed, html_of, refuse_others, source

STYLES = ("style.css", "lm.css")
"""Its style sheets, in `app/`."""

_DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


def reading(content: Reading) -> str:
    """The page of a layer as one HTML text."""
    return html_of(content, title=content["title"], script=source("lm_main"), styles=STYLES)


def write_reading(content: Reading, path: str | Path) -> None:
    """Write the page of a layer, whole or not at all: a new file, or over an older page.

    Raises:
        StoreError: the file cannot be written, or exists and is not such a page.
    """
    path = checks.path("path", path)
    refuse_others(path)
    write_text(path, reading(content))


def reading_of(path: str | Path) -> Reading:
    """The data of the page of a layer, from its file.

    Raises:
        StoreError: no such file, not the page of a layer, or one of another version.
    """
    path = checks.path("path", path)
    again = "run the same bilens read command again"
    found = _DATA.search(read_bytes(path).decode("utf-8", "replace"))
    try:
        content = json.loads(found[1]) if found else None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or "layer" not in content:
        raise StoreError(f"{path}, which is not the page of a layer", "one that bilens read wrote", again)
    if content.get("format") != FORMAT:
        raise StoreError(f"{path} of format {content.get('format')!r:.20}", f"format {FORMAT}", again)
    return cast("Reading", content)


def index(title: str, columns: Sequence[str], rows: Sequence[Sequence[tuple[str, str]]], lead: str) -> str:
    """A page of one table without any script.

    Args:
        title: of the page; columns: their names; rows: cells, a text and the address that it leads to, empty for none.
        lead: what stands above the table.
    """
    style = "".join((APP / name).read_text("utf-8") for name in STYLES)

    def cell(place: int, text: str, to: str) -> str:
        shown = f'<a href="{html.escape(to)}">{html.escape(text)}</a>' if to else html.escape(text)
        return f'<th scope="row">{shown}</th>' if place == 0 else f"<td>{shown}</td>"

    return string.Template((APP / "index.html").read_text("utf-8")).substitute(
        policy=f"default-src 'none'; style-src '{hashed(style)}'; base-uri 'none'; form-action 'none'",
        title=html.escape(title),
        style=style,
        lead=html.escape(lead),
        columns="".join(f'<th scope="col">{html.escape(name)}</th>' for name in columns),
        rows="\n".join(f"<tr>{''.join(cell(place, *one) for place, one in enumerate(cells))}</tr>" for cells in rows),
    )


def write_index(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[tuple[str, str]]], lead: str, path: str | Path
) -> None:
    """Write `index`, whole or not at all. Raises as `write_reading`."""
    path = checks.path("path", path)
    refuse_others(path)
    write_text(path, index(title, columns, rows, lead))


__all__ = ["STYLES", "index", "reading", "reading_of", "write_index", "write_reading"]
