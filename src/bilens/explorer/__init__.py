"""One self-contained page in which a person reads a bilinear network: records in, a single HTML file out, offline."""

from bilens.explorer.document import Document, document
from bilens.explorer.exploration import WAYS, Exploration, Words
from bilens.explorer.page import page, render, write
from bilens.explorer.server import PageServer

__all__ = ["WAYS", "Document", "Exploration", "PageServer", "Words", "document", "page", "render", "write"]
