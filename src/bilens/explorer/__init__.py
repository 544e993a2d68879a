"""One self-contained page in which a person reads a bilinear network: records in, a single HTML file out, offline."""

from bilens.explorer.document import document
from bilens.explorer.exploration import Exploration
from bilens.explorer.layout import Document
from bilens.explorer.lm_layout import Reading
from bilens.explorer.lm_page import reading, reading_of, write_index, write_reading
from bilens.explorer.page import page, render, write

__all__ = [
    "Document",
    "Exploration",
    "Reading",
    "document",
    "page",
    "reading",
    "reading_of",
    "render",
    "write",
    "write_index",
    "write_reading",
]
