"""Pictures of records: every function takes a record and gives a matplotlib `Figure`; `save` writes SVG, PNG, HTML.

One house style, colours that colour-blind readers can tell apart, and nothing global: no pyplot, and matplotlib's
settings are put back after each call. What is added is blue and what is taken off red, everywhere; the two sides of an
eigenvector, whose sign means nothing alone, are green and purple. Labels come from data and are
drawn as they are: a dollar sign starts no formula.
"""

from matplotlib.figure import Figure

from bilens.plots.audit import audit
from bilens.plots.charts import chart
from bilens.plots.conversion import conversion, left_gated
from bilens.plots.features import effects, gallery, spectrum, terms, view
from bilens.plots.kernels import LinearKernel, linear_kernels, shared_scale
from bilens.plots.output import html, on_dark, png, save, svg
from bilens.plots.report import report
from bilens.plots.scores import certificate, codes, curves, history, singular_values
from bilens.plots.style import (
    BOTH,
    DIVERGING,
    INK,
    LINES,
    MUTED,
    NEGATIVE,
    ONE,
    OTHER,
    PATTERN,
    POSITIVE,
    RULE,
    number,
    signed,
)
from bilens.plots.trees import kernel_tree

__all__ = [
    "BOTH",
    "DIVERGING",
    "INK",
    "LINES",
    "MUTED",
    "NEGATIVE",
    "ONE",
    "OTHER",
    "PATTERN",
    "POSITIVE",
    "RULE",
    "Figure",
    "LinearKernel",
    "audit",
    "certificate",
    "chart",
    "codes",
    "conversion",
    "curves",
    "effects",
    "gallery",
    "history",
    "html",
    "kernel_tree",
    "left_gated",
    "linear_kernels",
    "number",
    "on_dark",
    "png",
    "report",
    "save",
    "shared_scale",
    "signed",
    "singular_values",
    "spectrum",
    "svg",
    "terms",
    "view",
]
