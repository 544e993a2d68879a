"""The kernel of each output of the model and its eigenvectors over the inputs: for digits, their directions."""

from __future__ import annotations

from functools import cache

import torch

from bilens import decompose
from bilens.analyses import _nulls as nulls
from bilens.analyses.subject import Run, Subject, kept, scored
from bilens.decompose import Spectrum
from bilens.faithfulness import Curve, Row
from bilens.features import FeatureSet, detail, singular, stored
from bilens.progress import bar

TEXT = (
    "Each {one} is a quadratic form xᵀQx of the input, and these are the eigenvectors of its Q: nothing but the "
    "weights was used. The output is the sum of the input's squared overlaps with them, each times its eigenvalue, so "
    "those with λ > 0 raise the {one} and those with λ < 0 lower it."
)
SCORED = (10, 20)
"""Numbers of eigenvectors in the table of scores."""


@bar("eigenvectors, and the model on them")
def output_directions(subject: Subject, run: Run) -> FeatureSet:
    """The kernel of each (centred) output and its eigenvectors; scores against eigenvectors kept for each output."""
    tensor = subject.outputs
    kernels = [tensor.kernel(o) for o in range(tensor.output.size)]

    @cache
    def spectra() -> tuple[Spectrum, ...]:
        return tuple(decompose.eigh(kernel) for kernel in kernels)

    def curve() -> Curve:
        inputs = subject.given
        whole, norms = tensor(inputs), tensor.input.fold(inputs).norm(dim=1)
        counts = kept(tensor.input.dim)
        terms = [spectrum.terms(inputs).cumsum(dim=1) for spectrum in spectra()]
        scores, errors, bounds = [], [], []
        for k in counts:
            outputs = torch.stack([sums[:, k - 1] for sums in terms], dim=1)
            scores.append(subject.score(outputs))
            errors.append(float((outputs - whole).abs().max()))
            bounds.append(max(float(s.keep(k).bound(norms).max()) for s in spectra()))
        numbers = [len(kernels) * k * (tensor.input.dim + 1) for k in counts]  # k vectors with their values per output
        name = "eigenvectors kept for each output"
        return Curve.of(name, counts, scores, error=errors, bound=bounds, numbers=numbers)

    norms = torch.stack([spectrum.energy.sqrt() for spectrum in spectra()])
    curves: tuple[Curve, ...] = ()
    scores: tuple[Row, ...] = ()
    if subject.original is not None:
        ours = curve()
        random = nulls.random_vectors(subject, kernels, ours.kept.tolist(), ours)
        principal = nulls.input_components(subject, ours)
        curves, scores = (ours, random, principal), _rows(ours, random, principal)
    many, one = tensor.output.name, singular(tensor.output.name)
    return FeatureSet(
        "digits",
        tuple(stored(spectrum) for spectrum in spectra()),
        norms,
        "norm of the kernel, ‖Q‖",
        subject.output_effects.to(norms),
        tensor.output,
        title=f"{_capital(one)} directions",
        text=TEXT.format(one=one),
        tab=_capital(many),
        feature=_capital(one),
        among=many,
        are_outputs=True,
        detail=detail(zip(kernels, spectra(), strict=True), subject.examined),
        curves=curves,
        scores=scores,
        numbers={"norms": dict(zip([spectrum.label for spectrum in spectra()], norms.tolist(), strict=True))},
    )


def _rows(ours: Curve, random: Curve, principal: Curve) -> tuple[Row, ...]:
    """Each number of eigenvectors beside as many random directions, and beside components that store no more."""
    rows: list[Row] = []
    for row, k in scored(ours, SCORED):
        rows += [row, nulls.row(random, k, "null", row)]
        count = None if row.numbers is None else nulls.affordable(principal, row.numbers)
        if count is not None:
            rows.append(nulls.row(principal, count, "rival", row))
    return tuple(rows)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
