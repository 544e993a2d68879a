"""The samples that a page shows features on."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from bilens.analyses._deep_subject import DeepSubject
from bilens.analyses.subject import EXAMINED, Subject
from bilens.features import FeatureSet, Samples

FIRST = 100
"""Samples kept to choose from, whatever they are."""
WRONG = 20
"""Samples kept that the model gets wrong."""


def shown(subject: Subject | DeepSubject, sets: Iterable[FeatureSet]) -> Samples:
    """The inputs that features are largest and smallest on, some others, and some that the model gets wrong."""
    inputs = subject.given[:EXAMINED]
    outputs, labels = subject.outputs(inputs), None if subject.labels is None else subject.labels[:EXAMINED]
    chosen = [torch.arange(min(FIRST, len(inputs)))]
    if labels is not None:
        chosen.append((outputs.argmax(dim=1) != labels).nonzero()[:WRONG, 0])
    details = [found.detail for found in sets if found.detail is not None]
    chosen += [detail.samples.flatten() for detail in details if detail.samples is not None]
    numbers = torch.unique(torch.cat(chosen))
    return Samples(
        inputs[numbers],
        numbers,
        outputs[numbers],
        None if labels is None else labels[numbers],
        subject.outputs.input.without_constant(),
        subject.outputs.output,
    )
