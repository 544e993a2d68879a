"""One self-contained page about a model's features: records in, a single HTML file out, which opens offline."""

from bilens.explorer.document import Document, document
from bilens.explorer.page import page, render, write
from bilens.explorer.report import WAYS, Report

__all__ = ["WAYS", "Document", "Report", "document", "page", "render", "write"]
