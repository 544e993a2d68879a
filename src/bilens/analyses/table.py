"""The analyses, in the order in which they are run and shown. A new one is a file beside these and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from bilens.analyses.components import singular_values
from bilens.analyses.digits import output_directions
from bilens.analyses.inputs import pair_features
from bilens.analyses.outputs import output_features
from bilens.analyses.subject import Run, Subject
from bilens.errors import BilensError
from bilens.features import FeatureSet
from bilens.progress import Steps


@dataclass(frozen=True)
class Analysis:
    """One way of reading features.

    Args:
        read: gives what it found. It keeps what is expensive in the run, by `run.record`.
        step: what it does, for the line that announces it.
        trains: whether it trains an SAE; needs_inputs: whether it can do nothing without inputs.
    """

    read: Callable[[Subject, Run], FeatureSet]
    step: str
    trains: bool = False
    needs_inputs: bool = False


ANALYSES: dict[str, Analysis] = {
    "digits": Analysis(output_directions, "kernels of the outputs and their eigenvectors"),
    "svd": Analysis(singular_values, "singular value decomposition of the layer"),
    "sae": Analysis(output_features, "sparse autoencoder on the layer's outputs", trains=True, needs_inputs=True),
    "pairs": Analysis(pair_features, "sparse autoencoder on input pairs", trains=True),
}
"""Every analysis, by the name of the set of features that it finds."""


def possible(inputs: bool) -> dict[str, Analysis]:
    """The analyses that can be run, with inputs or without."""
    return {name: analysis for name, analysis in ANALYSES.items() if inputs or not analysis.needs_inputs}


def chosen(names: Sequence[str]) -> dict[str, Analysis]:
    """The analyses of these names, in the order of the table.

    Raises:
        BilensError: a name that is not in the table.
    """
    for name in names:
        if name not in ANALYSES:
            raise BilensError(f"analysis {name!r}", f"one of {', '.join(ANALYSES)}")
    return {name: analysis for name, analysis in ANALYSES.items() if name in names}


def read(
    subject: Subject, run: Run, analyses: Mapping[str, Analysis], steps: Steps | None = None
) -> tuple[FeatureSet, ...]:
    """What analyses find, each set kept as one record of the run.

    Args:
        subject: what is read; run: where it is kept; analyses: which, by name; steps: to announce each with.
    """
    found = []
    for name, analysis in analyses.items():
        if steps is not None:
            steps.begin(analysis.step)
        order = list(ANALYSES).index(name)

        def compute(analysis: Analysis = analysis, name: str = name, order: int = order) -> FeatureSet:
            return replace(analysis.read(subject, run), name=name, order=order)

        found.append(run.record(f"features/{name}", FeatureSet, compute))
    return tuple(found)
