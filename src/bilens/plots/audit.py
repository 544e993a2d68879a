"""How much of features their first eigenpairs explain: medians by the number of pairs, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from bilens.decompose import Audit
from bilens.errors import BilensError
from bilens.plots.style import LINES, MARKERS, MUTED, short, styled


@styled
def audit(audits: Sequence[Audit], *, active: bool = False, title: str = "") -> Figure:
    """Median |correlation| of each set against the number of eigenpairs; bands are 95 % intervals over features.

    The whole quadratic form stands at the right. Pairs ordered by |λ| are dashed, in the colour of the same set in the
    metric of the data.

    Args:
        audits: of sets of features, those of one name in several orders; active: over active tokens alone.
        title: of the figure.

    Raises:
        BilensError: nothing to draw.
    """
    shown = [one for one in audits if one.known(active=active)]
    if not shown:
        raise BilensError("no audit with a correlation", "one at least")
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes: Any = figure.add_subplot()
    names = list(dict.fromkeys(one.name for one in shown))
    last = max(one.ks[-1] for one in shown)
    for one in shown:
        place = names.index(one.name)
        found = [one.median(k, active=active) for k in (*one.ks, 0)]
        at = np.array([*one.ks, 2.5 * last], dtype=float)
        low, high = (np.clip([getattr(each, side) for each in found], 0, 1) for side in ("low", "high"))
        plain = one.order == "magnitude"
        style: dict[str, Any] = {"color": LINES[place % len(LINES)], "marker": MARKERS[place % len(MARKERS)]}
        style |= {"markersize": 4, "linestyle": (0, (4, 3)) if plain else "-"}
        label = f"{short(one.name, 30)}, {len(one)} features" + (", by |λ|" if plain else "")
        axes.plot(at[:-1], [each.value for each in found[:-1]], label=label, **style)
        axes.plot(at[-1:], [found[-1].value], **{**style, "linestyle": "none"})
        axes.fill_between(at[:-1], low[:-1], high[:-1], color=style["color"], alpha=0.15, linewidth=0)
    axes.axhline(0.75, color=MUTED, linewidth=0.8, linestyle=(0, (1, 3)))
    axes.set_xscale("log", base=2)
    ticks = [*max(shown, key=lambda one: one.ks[-1]).ks, 2.5 * last]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda k, _: "all" if k > last else f"{k:.0f}"))
    axes.set_ylim(0, 1)
    axes.grid(axis="y")
    axes.set_title(short(title or "What the first eigenpairs explain of a feature's true value", 80))
    axes.set_xlabel("eigenpairs")
    axes.set_ylabel("median |correlation|" + (", active tokens" if active else ""))
    axes.legend(loc="lower right", handlelength=3.5)
    return figure


__all__ = ["audit"]
