"""Formulas between lines of $$ become MathML when the pages are built, so that a page loads nothing for them."""

from __future__ import annotations

import re

from latex2mathml.converter import convert

FORMULA = re.compile(r"^\$\$\n(.*?)\n\$\$$", re.DOTALL | re.MULTILINE)


def on_page_markdown(markdown: str, **_: object) -> str:
    """MkDocs calls this for each page before it is made."""
    return FORMULA.sub(lambda found: f'<div class="formula">{convert(found[1], display="block")}</div>', markdown)
