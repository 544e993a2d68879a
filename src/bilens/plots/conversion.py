"""What the conversion of a language model costs: layer by layer, and against the number of layers converted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from bilens.errors import BilensError
from bilens.faithfulness import TextScore
from bilens.plots.style import LINES, MUTED, styled


@styled
def conversion(
    layers: Sequence[int],
    parts: Mapping[str, Sequence[TextScore]],
    added: Sequence[tuple[float, float | None]] = (),
) -> Figure:
    """Rise of cross-entropy and agreement of a model whose layers up to each one are converted; bars are ± one s.e.

    Args:
        layers: their numbers; parts: by name, for example "held out", a score for each layer.
        added: what each layer added to the first part's cross-entropy, and ±, None where that is not known.

    Raises:
        BilensError: no layer, or another number of scores or of what was added.
    """
    if not layers or not parts or any(len(scores) != len(layers) for scores in parts.values()):
        raise BilensError(
            f"scores of {[len(scores) for scores in parts.values()]} layers", f"{len(layers)}, at least 1"
        )
    if added and len(added) != len(layers):
        raise BilensError(f"what {len(added)} layers added", f"what each of {len(layers)} did")
    count = 3 if added else 2
    figure = Figure(figsize=(4.5 * count, 3.4), layout="constrained")
    axes: Any = figure.subplots(1, count)
    for place, (name, scores) in enumerate(parts.items()):
        color = LINES[place % len(LINES)]
        style: dict[str, Any] = {"color": color, "label": name, "capsize": 2, "marker": "o", "markersize": 3}
        deltas, errors = [one.delta_ce for one in scores], [one.delta_ce_error for one in scores]
        axes[0].errorbar(layers, deltas, errors, **style)
        axes[1].errorbar(layers, [one.agreement for one in scores], [one.agreement_error for one in scores], **style)
    axes[0].axhline(0, color=MUTED, linewidth=0.8)
    axes[0].set_title("Cross-entropy more than the original's")
    axes[0].set_ylabel("nats per token")
    axes[1].set_title("Same likeliest next token")
    axes[1].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    if added:
        axes[2].bar(layers, [more for more, _ in added], color=LINES[0])
        known = [(layer, *one) for layer, one in zip(layers, added, strict=True) if one[1] is not None]
        axes[2].errorbar(
            *([column[place] for column in known] for place in range(3)), color=MUTED, fmt="none", capsize=2
        )
        axes[2].axhline(0, color=MUTED, linewidth=0.8)
        axes[2].set_title(f"What each layer added, {next(iter(parts))}")
        axes[2].set_ylabel("nats per token")
    for place, one in enumerate(axes):
        one.grid(axis="y")
        one.set_xlabel("layer" if place == 2 else "converted up to layer")
    axes[0].legend(loc="best")
    return figure


@styled
def left_gated(estimated: Sequence[tuple[int, float]], measured: Sequence[tuple[int, TextScore]] = ()) -> Figure:
    """Rise of cross-entropy against the number of layers converted, the costliest left as they are.

    Args:
        estimated: (layers converted, ΔCE) from what each layer added; measured: the same from the model itself.

    Raises:
        BilensError: nothing to draw.
    """
    if not estimated:
        raise BilensError("no number of layers", "at least one")
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.add_subplot()
    counts, deltas = zip(*estimated, strict=True)
    axes.plot(counts, deltas, color=LINES[0], label="sum of what each layer added")
    if measured:
        places = [count for count, _ in measured]
        heights, errors = [one.delta_ce for _, one in measured], [one.delta_ce_error for _, one in measured]
        style: dict[str, Any] = {"color": LINES[1], "capsize": 2, "marker": "s", "linestyle": "none"}
        axes.errorbar(places, heights, errors, label="measured", **style)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.grid(axis="y")
    axes.set_title("Layers converted, the costliest left gated")
    axes.set_xlabel("layers converted")
    axes.set_ylabel("nats per token more")
    axes.legend(loc="best")
    return figure


__all__ = ["conversion", "left_gated"]
