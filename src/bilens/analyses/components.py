"""SVD of the layer's tensor before the read-out: features ordered by what the weights alone call large."""

from __future__ import annotations

from dataclasses import replace

import torch

from bilens import decompose
from bilens.analyses import _nulls as nulls
from bilens.analyses.subject import Run, Subject, kept, scored
from bilens.decompose import TensorSVD
from bilens.errors import BilensError
from bilens.faithfulness import Curve, Row
from bilens.features import Chart, FeatureSet, detail, stored
from bilens.progress import bar

TEXT = (
    "The layer is a tensor with one output axis and two input axes, and as a matrix of outputs × input pairs "
    "it has a singular value decomposition, found from the weights alone. Each component is a direction of "
    "the outputs with one kernel over the inputs, and the first K of them are the best summary of the weights"
    " of rank K."
)
SCORED = (20, 50)
"""Numbers of components in the table of scores."""


@bar("components, and the model on them")
def singular_values(subject: Subject, run: Run) -> FeatureSet:
    """The layer's SVD before the read-out, its right kernels' eigenvectors, and scores against components kept."""
    tensor = subject.hidden
    found = run.record("svd", TensorSVD, lambda: decompose.svd(tensor))
    solid = int((found.values > found.floor).sum())
    if not solid:
        raise BilensError("a layer whose tensor is 0", "weights that are not all 0", "train the model first")
    count = min(subject.budget.count, solid)
    kernels = [found.kernel(s) for s in range(count)]
    spectra = [decompose.eigh(kernel) for kernel in kernels]
    curves = () if subject.original is None else _curves(subject, found)
    return FeatureSet(
        "svd",
        tuple(replace(stored(spectrum), label=str(s)) for s, spectrum in enumerate(spectra, 1)),
        found.values[:count],
        "singular value, σ",
        found.outputs[:count] @ subject.readout.T,
        subject.outputs.output,
        title="SVD of the tensor",
        text=TEXT,
        tab="SVD",
        feature="Component",
        among="components",
        total=solid,
        detail=detail(zip(kernels, spectra, strict=True), subject.examined),
        curves=curves,
        scores=_rows(*curves) if curves else (),
        numbers={"singular_values": found.values[:50].tolist(), "floor": float(found.floor)},
        charts={"singular-values": _chart(found)},
    )


def _curves(subject: Subject, found: TensorSVD) -> tuple[Curve, Curve, Curve]:
    """Components, random output directions, and principal components of the outputs."""
    tensor, outputs, inputs = subject.hidden, subject.test_outputs, subject.given
    whole, norms = subject.read(outputs), tensor.input.fold(inputs).norm(dim=1)
    counts = kept(len(found))
    scores, errors, bounds = [], [], []
    for k in counts:
        directions = found.outputs[:k]
        read = subject.read((outputs @ directions.T) @ directions)
        scores.append(subject.score(read))
        errors.append(float((read - whole).abs().max()))
        bounds.append(float((subject.reach * found.bound(k, norms)).max()))
    # The factors stay, with an output direction and its effects for each component.
    factors, each = tensor.left.numel() + tensor.right.numel(), tensor.output.size + subject.outputs.output.size
    numbers = [factors + k * each for k in counts]
    ours = Curve.of("SVD components kept", counts, scores, error=errors, bound=bounds, numbers=numbers)
    offset = subject.outputs.output.size  # the mean of the outputs, as effects

    def stored(k: int) -> int:
        return factors + k * each + offset

    return (
        ours,
        nulls.random_outputs(subject, counts, ours),
        nulls.output_components(subject, kept(tensor.output.size), stored, ours),
    )


def _rows(ours: Curve, random: Curve, principal: Curve) -> tuple[Row, ...]:
    """Each number of components beside as many random directions and as many principal components."""
    rows: list[Row] = []
    for row, k in scored(ours, SCORED):
        rows += [row, nulls.row(random, k, "null", row)]
        if k in principal.kept.tolist():
            rows.append(nulls.row(principal, k, "rival", row))
    return tuple(rows)


def _chart(found: TensorSVD) -> Chart:
    values = found.values.double()
    energy = float(found.energy) or 1.0
    return Chart(
        "Singular values of the layer",
        "component",
        torch.arange(1, len(values) + 1).double(),
        ("σ", "share of ‖B‖² so far"),
        torch.stack([values, values.square().cumsum(dim=0) / energy], dim=1),
        note="Of the tensor before the read-out, largest first.",
        level=float(found.floor),
        level_name="noise below",
        log=bool(values.max() > 50 * values.min()),
    )
