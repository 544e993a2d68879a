"""Every figure of a run, from its sets of features alone: what is drawn follows from what they hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal

from matplotlib.figure import Figure

from bilens.features import FeatureSet
from bilens.history import History
from bilens.plots.charts import chart
from bilens.plots.features import effects, gallery, spectrum, view
from bilens.plots.scores import certificate, codes, curves, history


def report(sets: Sequence[FeatureSet], training: History | None = None) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """The figures of some sets of features, each by the name of its file, drawn when it is called.

    Every set has its features; outputs have a figure for each of them and a gallery, others their effects. Curves are
    drawn together, against the numbers that they store where all say so, and those with a certificate with it.

    Args:
        sets: in their order; training: how the model was trained.
    """
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
        for curve in found.curves[:1]:
            if curve.error is not None and curve.bound is not None:
                yield f"{found.name}-certificate", partial(certificate, curve)
    measured = [curve for found in sets for curve in found.curves]
    if measured and len({curve.samples for curve in measured}) == 1:
        axis: Literal["kept", "numbers"] = "kept" if any(curve.numbers is None for curve in measured) else "numbers"
        yield "accuracy", partial(curves, measured, against=axis)
        if all(curve.recovered is not None for curve in measured):
            yield "recovered", partial(curves, measured, "recovered", against=axis)
    if training is not None:
        yield "training", partial(history, training)
