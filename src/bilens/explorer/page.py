"""From the plain data of a page to one HTML file that opens offline: no script, no reference to anything outside."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import jinja2

from bilens import plots
from bilens.explorer.document import Document, document
from bilens.explorer.report import Report
from bilens.files import write_text


def write(report: Report, path: str | Path) -> None:
    """Write the page of a report, whole or not at all.

    Raises:
        BilensError: NaN or infinity in the report. StoreError: the file cannot be written.
    """
    write_text(path, page(report))


def page(report: Report) -> str:
    """The page of a report as one HTML text.

    Raises:
        BilensError: NaN or infinity in the report.
    """
    return render(document(report))


def render(content: Document) -> str:
    """The page of a document. Every text in it is escaped, and nothing but data URIs is allowed to load."""
    return _environment().get_template("report.html").render(content)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _cell
    environment.filters["signed"] = plots.signed
    environment.filters["percent"] = _percent
    return environment


def _printable(value: object) -> object:
    """Text of the data without control characters; everything else, and what is markup already, as it is."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) == "Cc" else c for c in value)


def _cell(value: float | int | str | None) -> str:
    """A number as tables show it: counts with thousands apart, others with three digits, "–" where there is none."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e15 else plots.number(value)


def _percent(value: float | int, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f}\u202f%".replace("-", "−")
