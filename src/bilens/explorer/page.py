"""From the plain data of a page to one HTML file: scripts, style and data inside it, and nothing outside it."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bilens._internal import checks
from bilens._internal.files import dangling, read_bytes, refuse_below_file, write_text
from bilens.errors import StoreError
from bilens.explorer.document import document
from bilens.explorer.exploration import Exploration
from bilens.explorer.layout import Document

APP = Path(__file__).parent / "app"
_OURS = b'<meta name="generator" content="bilens">'
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./([a-z_]+)\.js";\n', flags=re.MULTILINE)


def write(runs: Sequence[Exploration], path: str | Path) -> None:
    """Write the page of a run, or of two to compare, whole or not at all: a new file, or over an older page.

    Raises:
        BilensError: NaN or infinity in a run, or not one or two runs. StoreError: the file cannot be written, or exists
            and is not such a page.
    """
    path = checks.path("path", path)
    refuse_others(path)
    write_text(path, page(runs))


def refuse_others(path: Path) -> None:
    """Refuse to replace what is not a page of ours, which states so in its head."""
    if path.is_symlink() and not path.exists():
        raise dangling(path)
    if not path.exists():
        refuse_below_file(path)
    if path.is_dir():
        raise StoreError(
            f"{path}, which is a folder", "a file for the page", f"name one in it, such as {path / 'page.html'}"
        )
    if path.exists() and _OURS not in read_bytes(path, 4096):
        raise StoreError(
            f"{path}, which exists and is not a page of bilens", "a new file, or an older page", "name another --out"
        )


def page(runs: Sequence[Exploration]) -> str:
    """The page of a run, or of two to compare, as one HTML text.

    Raises:
        BilensError: NaN or infinity in a run, or not one or two runs.
    """
    return render(document(runs))


def render(content: Document) -> str:
    """The page of a document.

    The data stand in the page as JSON in which no `<`, `>` or `&` is left, so that no text of theirs can end the block
    that holds them, and the script only ever puts them into the page as text. The page's policy lets nothing run but
    the script whose hash it states, and nothing load but data URIs.
    """
    return html_of(content, title=content["runs"][0]["title"], script=source(), styles=("style.css",))


def html_of(content: Mapping[str, Any], *, title: str, script: str, styles: Sequence[str]) -> str:
    """One HTML text of a page's data, its title, its script, and its style sheets in `app/`."""
    style = "".join((APP / name).read_text("utf-8") for name in styles)
    data = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        data = data.replace(character, f"\\u{ord(character):04x}")
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src '{hashed(script)}'",
            f"style-src '{hashed(style)}'",
            "img-src data: blob:",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )
    template = string.Template((APP / "page.html").read_text("utf-8"))
    return template.substitute(policy=policy, title=html.escape(title), style=style, script=script, data=data)


def source(entry: str = "main") -> str:
    """The script of a page: `app/main.js`, or another entry, and what it imports, in that order, joined into one.

    Each file is a JavaScript module that editors and browsers read as it is. Joined, they share one scope: `import`
    lines and the word `export` go, names stay. A test holds the files to what this can join.
    """
    joined: list[str] = []
    done: set[str] = set()

    def add(name: str) -> None:
        if name in done:
            return
        done.add(name)
        text = (APP / f"{name}.js").read_text("utf-8")
        for needed in _IMPORT.findall(text):
            add(needed)
        joined.append(re.sub(r"^export ", "", _IMPORT.sub("", text), flags=re.MULTILINE))

    add(entry)
    return "\n".join(joined)


def hashed(text: str) -> str:
    """How a policy names a script or style by its checksum."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
