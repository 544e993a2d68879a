"""The house style: colours, type and axes that every figure shares, put on for each call and taken off again."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import matplotlib
import numpy as np
from matplotlib.colors import ListedColormap, to_hex
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray
from torch import Tensor

from bilens._internal import checks
from bilens.errors import BilensError

__all__ = [
    "BOTH",
    "DIVERGING",
    "INK",
    "LINES",
    "MARKERS",
    "MUTED",
    "NEGATIVE",
    "ONE",
    "OTHER",
    "PATTERN",
    "POSITIVE",
    "RULE",
    "empty",
    "log_axis",
    "number",
    "numbers",
    "reach",
    "short",
    "signed",
    "styled",
]

INK = "#1b1f24"
"""Colour of text."""
MUTED = "#667080"
"""Colour of what stands back: axes, ticks, captions."""
RULE = "#d5d9df"
"""Colour of grid lines and frames."""
POSITIVE = "#2166ac"
"""Colour of a positive number."""
NEGATIVE = "#b2182b"
"""Colour of a negative number."""
ONE, OTHER = "#1b7837", "#762a83"
"""Colours of the two sides of an eigenvector. v and −v are the same, so that neither may look like "raises"."""
BOTH = "#757d88"
"""Colour of text that is read on white and on dark paper."""
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Colours of lines, in order (Okabe and Ito's palette)."""
_BLUES = [to_hex(color) for color in matplotlib.colormaps["Blues"](np.linspace(0.25, 1, 12))]
ON_DARK = {
    INK: "#e8eaed",
    MUTED: "#9aa4b1",
    RULE: "#3a414b",
    POSITIVE: "#5aa2e6",
    NEGATIVE: "#f0776b",
    LINES[0]: "#4aa8e0",
    ONE: "#5fbd74",
    OTHER: "#c493d6",
    **dict(zip(_BLUES, reversed(_BLUES), strict=True)),
}
LEVELS = 127
TABLE = matplotlib.colormaps["RdBu"].resampled(LEVELS)(np.arange(LEVELS), bytes=True)[:, :3]
DIVERGING = tuple(f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in TABLE.tolist())
"""The colours of maps of what is added, from −scale to +scale in 127 steps, pale at 0."""
DIVERGING_MAP = ListedColormap(TABLE / 255.0)
PATTERN_TABLE = matplotlib.colormaps["PRGn"].resampled(LEVELS)(np.arange(LEVELS), bytes=True)[:, :3]
PATTERN = tuple(f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in PATTERN_TABLE.tolist())
"""The colours of every picture of an eigenvector, from −scale to +scale in 127 steps, pale at 0; the explorer's too."""
PATTERN_MAP = ListedColormap(PATTERN_TABLE / 255.0)
COUNTS_MAP = ListedColormap(_BLUES)
MARKERS = "osD^vP"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_FONTS = ["system-ui", "Segoe UI", "Helvetica Neue", "Arial"]
_STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", *_FONTS],
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,
    "axes.facecolor": "none",
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9,
    "axes.titlesize": 10,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.formatter.use_mathtext": False,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": RULE,
    "xtick.labelcolor": MUTED,
    "xtick.labelsize": 8,
    "ytick.color": RULE,
    "ytick.labelcolor": MUTED,
    "ytick.labelsize": 8,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "white",
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "svg.fonttype": "none",
    "svg.hashsalt": "bilens",
}
_P = ParamSpec("_P")
_T = TypeVar("_T")
Numbers = NDArray[np.float64]


def styled(draw: Callable[_P, _T]) -> Callable[_P, _T]:
    """The function under the house style; matplotlib's own settings are put back when it ends."""

    @functools.wraps(draw)
    def styled(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        with matplotlib.rc_context(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the reader's own font is used
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(_STYLE)
            return draw(*args, **kwargs)

    return styled


def number(value: float) -> str:
    """A number as figures and pages write it: three digits, a true minus, powers of ten far from 1."""
    value = checks.number("value", value)
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e6:
        mantissa, exponent = f"{value:.1e}".split("e")
        power = str(int(exponent)).translate(_SUPERSCRIPTS)
        return (f"10{power}" if mantissa == "1.0" else f"{mantissa}·10{power}").replace("-", "−")
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}".replace("-", "−")


def signed(value: float) -> str:
    """The same with its sign in front, plus included."""
    written = number(value)
    return f"+{written}" if value > 0 else written


def reach(values: Numbers) -> tuple[float, float]:
    """From the least to the largest value, 0 included, with a little room on both sides."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    room = 0.03 * (high - low) if high > low else 1.0
    return low - room, high + room


def empty(axes: Any, text: str) -> None:
    """Axes without anything but a grey text in their middle."""
    axes.set_axis_off()
    if text:
        axes.text(0.5, 0.5, text, transform=axes.transAxes, size=7.5, color=MUTED, ha="center", va="center")


def numbers(what: str, value: Tensor) -> Numbers:
    """A tensor as float64 numbers.

    Raises:
        BilensError: NaN or infinity.
    """
    numbers: Numbers = value.detach().cpu().double().numpy()
    if not np.isfinite(numbers).all():
        raise BilensError(f"{what} with NaN or infinity", "finite numbers")
    return numbers


def short(text: str, limit: int) -> str:
    """Text on one line, at most `limit` characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def log_axis(axis: Any, values: Numbers) -> None:
    """Ticks of a logarithmic axis as plain numbers: 1, 2 and 5 of each decade over few decades, else whole decades."""
    low, high = float(values.min()), float(values.max())
    subs = (1.0,) if high / low > 50 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=subs, numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if 1e-3 <= value < 1e4 else number(value)))
    axis.set_minor_locator(NullLocator())
