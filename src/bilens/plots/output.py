"""Figures as files: SVG, PNG, or an HTML page that holds the figure in light and dark."""

from __future__ import annotations

import base64
import io
import re
from html import escape
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bilens._internal import checks
from bilens._internal.checks import flag, instance
from bilens._internal.files import write_bytes
from bilens.errors import StoreError
from bilens.plots.style import ON_DARK, styled


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as SVG, PNG or HTML, by the path's ending; whole or not at all, and the same bytes each time.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from bilens import decompose, plots
        >>> spectrum = decompose.eigh(Kernel.from_matrix(torch.diag(torch.tensor([3.0, -5.0])), Space("x", 2)))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     plots.save(plots.spectrum(spectrum), Path(folder, "kernel.svg"))
        ...     Path(folder, "kernel.svg").read_text("utf-8")[:5]
        '<?xml'

    Raises:
        StoreError: another ending, or the file cannot be written.
    """
    path = checks.path("path", path)
    if path.suffix == ".svg":
        write_bytes(path, svg(figure))
    elif path.suffix == ".png":
        write_bytes(path, png(figure))
    elif path.suffix == ".html":
        write_bytes(path, html(figure))
    else:
        raise StoreError(
            f"a figure to be written as {path.name!r}", "a name that ends in .svg, .png or .html", "rename it"
        )


@styled
def png(figure: Figure) -> bytes:
    """A figure as PNG, 200 pixels an inch; the same bytes each time."""
    instance("figure", figure, Figure, "a figure of matplotlib", "draw one with the functions here")
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(buffer, format="png", dpi=200, facecolor="auto", metadata={"Software": None})
    return buffer.getvalue()


@styled
def svg(figure: Figure, *, background: bool = True) -> bytes:
    """A figure as SVG; the same bytes each time.

    Text stays text: it is measured with the font that matplotlib carries, and shown in the reader's own.

    Args:
        figure: as the functions here draw it; background: whether it has its own, or shows the page behind it.
    """
    instance("figure", figure, Figure, "a figure of matplotlib", "draw one with the functions here")
    background = flag("background", background)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(
        buffer, format="svg", facecolor="auto" if background else "none", metadata={"Date": None, "Creator": None}
    )
    return buffer.getvalue().replace(b"'DejaVu Sans', ", b"")


def on_dark(svg: bytes) -> bytes:
    """An SVG without background, as `svg` writes it, in colours for a dark page behind it."""
    instance("svg", svg, bytes, "bytes", "make them with svg(figure, background=False)")
    return re.sub("|".join(ON_DARK), lambda match: ON_DARK[match[0]], svg.decode()).encode()


def html(figure: Figure, title: str = "Figure") -> bytes:
    """A figure as an HTML page of its own, for light and dark screens; it runs no script and loads nothing.

    Args:
        figure: as the functions here draw it; title: of the page, plain text.
    """
    light = svg(figure, background=False)
    pictures = [base64.b64encode(picture).decode() for picture in (light, on_dark(light))]
    name = escape(title)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{name}</title>
<style>
body {{ margin: 1.5rem; background: #fff }} img {{ max-width: 100%; height: auto }}
@media (prefers-color-scheme: dark) {{ body {{ background: #121519 }} }}
</style>
</head>
<body>
<picture>
<source media="(prefers-color-scheme: dark)" srcset="data:image/svg+xml;base64,{pictures[1]}">
<img alt="{name}" src="data:image/svg+xml;base64,{pictures[0]}">
</picture>
</body>
</html>
""".encode()
