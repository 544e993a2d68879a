"""How records show themselves: one line, and in a notebook a picture of bars, as plain text without matplotlib."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import fields
from html import escape
from typing import Any

from torch import Tensor

from bilens.space import Space

POSITIVE, NEGATIVE, RULE = "#2166ac", "#b2182b", "#8a929e"
"""The page's colours of numbers above and below 0, and of the line between them."""

ROWS = 16
"""Bars that a picture has at most."""

_LABEL, _BARS, _WIDTH, _ROW, _HEAD = 190, 240, 640, 20, 26


def numbers(value: Tensor) -> str:
    """Type, device and graph of a record's numbers."""
    where = "" if value.device.type == "cpu" else f" on {value.device}"
    return f"{str(value.dtype).removeprefix('torch.')}{where}{', with a graph' if value.requires_grad else ''}"


def line(record: Any) -> str:
    """A record in one line: shapes, spaces, numbers and names, then type and device; what is empty is left out."""
    parts = []
    for field in fields(record):
        value = getattr(record, field.name)
        if value is None or (isinstance(value, str | tuple | list | Mapping) and not len(value)):
            continue
        if isinstance(value, Tensor):
            said = str(tuple(value.shape))
        elif isinstance(value, Space):
            said = value.title
        elif isinstance(value, str):
            said = repr(_short(value, 40))
        elif isinstance(value, float):
            said = f"{value:.4g}"
        elif isinstance(value, tuple | list | Mapping):
            said = f"× {len(value)}"
        else:
            said = repr(value)
            if "\n" in said or len(said) > 120:
                said = type(value).__name__
        parts.append(f"{field.name} {said}")
    tensors = [value for field in fields(record) if isinstance(value := getattr(record, field.name), Tensor)]
    kinds = sorted(tensors, key=lambda value: not value.is_floating_point())
    return f"{type(record).__name__}({', '.join([*parts, *map(numbers, kinds[:1])])})"


def bars(title: str, rows: Iterable[tuple[str, float, str]], total: int, note: str = "") -> str:
    """A picture of signed bars from a common 0, as SVG that stands by itself.

    Args:
        title: above the bars.
        rows: a label, a number and a text for each bar, at most `ROWS`; total: how many there are in all.
        note: below the bars.
    """
    shown = list(rows)
    notes = [text for text in (f"and {total - len(shown)} more" if total > len(shown) else "", note) if text]
    height = _HEAD + _ROW * (len(shown) + bool(notes)) + 6
    values = [value if math.isfinite(value) else 0.0 for _, value, _ in shown]
    below, above = max([0.0, *(-value for value in values)]), max([0.0, *values])
    span = below + above or 1.0
    zero = _LABEL + _BARS * below / span
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'role="img" font-family="system-ui, sans-serif" font-size="12" fill="currentColor">',
        f"<title>{_text(title)}</title>",
        f'<text x="4" y="16" font-weight="600">{_text(_short(title, 92))}</text>',
    ]
    for place, ((label, value, text), size) in enumerate(zip(shown, values, strict=True)):
        top, width = _HEAD + _ROW * place, _BARS * abs(size) / span
        left, color = (zero, POSITIVE) if size >= 0 else (zero - width, NEGATIVE)
        parts += [
            f"<g><title>{_text(label)}: {value:.6g}{'' if not text else ', '}{_text(text)}</title>",
            f'<text x="{_LABEL - 8}" y="{top + 14}" text-anchor="end">{_text(_short(label, 28))}</text>',
            f'<rect x="{left:.2f}" y="{top + 3}" width="{width:.2f}" height="{_ROW - 6}" fill="{color}"/>',
            f'<text x="{_LABEL + _BARS + 8}" y="{top + 14}">{_text(_short(text or f"{value:.4g}", 32))}</text></g>',
        ]
    until = _HEAD + _ROW * len(shown)
    parts.append(f'<path d="M{zero:.2f} {_HEAD}V{until}" stroke="{RULE}" fill="none"/>')
    if notes:
        parts.append(f'<text x="4" y="{until + 15}" opacity="0.75">{_text(_short("; ".join(notes), 100))}</text>')
    return "".join([*parts, "</svg>"])


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _text(text: str) -> str:
    """Text from data for XML: escaped, and without characters that XML does not have."""
    kept = (c if unicodedata.category(c) not in ("Cc", "Cs", "Cn") else "\N{REPLACEMENT CHARACTER}" for c in text)
    return escape("".join(kept))
