"""Every figure of a run, from nothing but its sets of features: what is drawn follows from what they hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal

from matplotlib.figure import Figure

from bilens._internal.checks import instance, several
from bilens.faithfulness import Curve
from bilens.features import FeatureSet
from bilens.history import History
from bilens.plots.charts import chart
from bilens.plots.features import effects, gallery, spectrum, view
from bilens.plots.scores import certificate, codes, curves, history


def report(sets: Sequence[FeatureSet], training: History | None = None) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """The figures of some sets of features, each by the name of its file, drawn when it is called.

    Every set has its features; outputs have a figure for each of them and a gallery, others their effects. The curves
    of a set are drawn against what it counts, and those of all sets, which count unlike things, against the numbers
    that they store.

    Args:
        sets: in their order; training: how the model was trained.
    """
    sets = several("sets", sets, "a list of sets of features", "pass [found]")
    for found in sets:
        instance("a set", found, FeatureSet)
    for found in (found for found in sets if len(found)):
        yield found.name, partial(view, found)
        if found.are_outputs:
            yield f"{found.name}-gallery", partial(gallery, found)
            for place, each in enumerate(found.spectra):
                yield f"{found.name}-{place}", partial(spectrum, each)
        else:
            yield f"{found.name}-effects", partial(effects, found)
        for name, lines in found.charts.items():
            yield f"{found.name}-{name}", partial(chart, lines)
        for name, compared in found.codes.items():
            yield f"{found.name}-{name}", partial(codes, compared)
        yield from _scores(f"{found.name}-", found.curves, "kept")
        for curve in found.curves[:1]:
            if curve.error is not None and curve.bound is not None:
                yield f"{found.name}-certificate", partial(certificate, curve)
    stored = [curve for found in sets for curve in found.curves if curve.numbers is not None]
    yield from _scores("", stored, "numbers")
    if training is not None:
        yield "training", partial(history, training)


def _scores(
    name: str, lines: Sequence[Curve], against: Literal["kept", "numbers"]
) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """Curves together, where all were measured on the same number of samples."""
    if lines and len({line.samples for line in lines}) == 1:
        yield f"{name}accuracy", partial(curves, lines, against=against)
        if all(line.recovered is not None for line in lines):
            yield f"{name}recovered", partial(curves, lines, "recovered", against=against)
