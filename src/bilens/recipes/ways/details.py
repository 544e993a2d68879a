"""What the explorer shows of each feature: all its eigenvalues, its strongest input pairs, and samples to see it on."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.decompose import Spectrum
from bilens.recipes.ways.subject import EXAMINED, Subject
from bilens.store import Folder
from bilens.tensor import BilinearTensor, Kernel
from bilens.views import Detail, Samples

EXTREMES = 6
"""Samples kept for each feature on which it is largest, and as many on which it is smallest."""
PAIRS = 24
"""Input pairs kept for each feature."""
FIRST = 100
"""Test images kept to choose from, whatever they are."""
WRONG = 20
"""Test images kept that the model gets wrong."""


def detail(features: Iterable[tuple[Kernel, Spectrum]], inputs: Float[Tensor, "m d"] | None) -> Detail:
    """The record of some features, given each kernel with all of its eigenpairs.

    Args:
        features: kernels and whole spectra, one at a time, so that their vectors need not be held together.
        inputs: samples to look at, or None.

    Cost: O(m i²) a feature. Floor: errors are those of the inputs' type.
    """
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    measured: list[tuple[Tensor, Tensor, Tensor]] = []
    norm = None
    for kernel, spectrum in features:
        rows.append((spectrum.values, *_pairs(kernel)))
        if inputs is None:
            continue
        terms = spectrum.terms(inputs)
        sums = terms.cumsum(dim=1)
        response = sums[:, -1]
        errors = (sums - response[:, None]).abs().amax(dim=0)
        few = min(EXTREMES, len(inputs))
        order = response.argsort(descending=True, stable=True)
        chosen = torch.cat([order[:few], order.flip(0)[:few]])
        measured.append((chosen, response[chosen], errors))
        if norm is None:
            norm = float(spectrum.input.lift(inputs).norm(dim=1).max())
    values, pairs, strengths = (torch.stack(column) for column in zip(*rows, strict=True))
    if inputs is None:
        return Detail(values, pairs, strengths)
    samples, responses, errors = (torch.stack(column) for column in zip(*measured, strict=True))
    return Detail(values, pairs, strengths, samples, responses, errors, norm, len(inputs))


def samples(subject: Subject, run: Folder, details: Iterable[Detail]) -> Samples:
    """The test images that the features are shown on, some others, and some that the model gets wrong."""

    def chosen() -> Samples:
        images, labels = subject.data.test.images[:EXAMINED], subject.data.test.labels[:EXAMINED]
        logits = subject.logits(images)
        wrong = (logits.argmax(dim=1) != labels).nonzero()[:WRONG, 0]
        first = torch.arange(min(FIRST, len(images)))
        extremes = [found.samples.flatten() for found in details if found.samples is not None]
        numbers = torch.unique(torch.cat([first, wrong, *extremes]))
        return Samples(
            images[numbers], numbers, logits[numbers], labels[numbers], subject.logits.input.without_constant(),
            subject.logits.output,
        )  # fmt: skip

    return run.record("samples", Samples, chosen)


def factors(subject: Subject, run: Folder) -> BilinearTensor:
    """Input → centred logits as factors: what the explorer computes with."""
    return run.record("logits", BilinearTensor, lambda: subject.logits)


def _pairs(kernel: Kernel) -> tuple[Tensor, Tensor]:
    """The strongest input pairs i ≤ j, and what each adds where both are 1."""
    size = kernel.input.size
    dense = kernel.dense()[:size, :size]
    i, j = torch.triu_indices(size, size)
    strengths = dense[i, j] * (1 + (i < j).to(dense))
    best = strengths.abs().argsort(descending=True, stable=True)[:PAIRS]
    return torch.stack([i[best], j[best]], dim=1), strengths[best]
