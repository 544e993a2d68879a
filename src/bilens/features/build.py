"""Making the records: more of each feature, and the table of faithfulness of several sets."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from bilens._internal import checks
from bilens._internal.checks import instance
from bilens.decompose import Spectrum
from bilens.errors import BilensError
from bilens.faithfulness import Row
from bilens.features.records import Detail, FeatureSet
from bilens.kernel import Kernel

STORED = 32
"""Eigenpairs kept for each feature of a set."""
EXTREMES = 6
"""Samples kept for each feature on which it is largest, and as many on which it is smallest."""
PAIRS = 24
"""Input pairs kept for each feature."""

_UNCHANGED = re.compile(r"(ss|species|series)$", re.IGNORECASE)


def singular(name: str) -> str:
    """What one coordinate of a space is called: "digit" for digits, "class" for classes."""
    instance("name", name, str, "a text")
    if re.search(r"(ss|x|ch|sh)es$", name, re.IGNORECASE):
        return name[:-2]
    return name[:-1] if name.endswith("s") and not _UNCHANGED.search(name) else name


def stored(spectrum: Spectrum) -> Spectrum:
    """A spectrum as a set keeps it: the first `STORED` pairs."""
    instance("spectrum", spectrum, Spectrum)
    return spectrum.keep(min(STORED, len(spectrum)))


def detail(features: Iterable[tuple[Kernel, Spectrum]], inputs: Float[Tensor, "m d"] | None) -> Detail:
    """More of some features, given each kernel with all of its eigenpairs.

    Args:
        features: kernels and whole spectra, one at a time, so that their vectors need not be held together.
        inputs: samples to look at, or None.

    Cost: O(m i²) a feature. Floor: errors are those of the inputs' type.

    Raises:
        BilensError: no features, or something else than pairs of a kernel and its spectrum. Others as `Spectrum.terms`.
    """
    if not isinstance(features, Iterable) or isinstance(features, Tensor):
        raise BilensError(checks.got("features", features), "pairs of a kernel and its spectrum")
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    measured: list[tuple[Tensor, Tensor, Tensor]] = []
    norm = None
    for each in features:
        if not isinstance(each, tuple) or len(each) != 2:
            raise BilensError(checks.got("a feature", each), "a pair of a kernel and its spectrum")
        kernel, spectrum = each
        instance("a spectrum", spectrum, Spectrum)
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
            norm = float(spectrum.input.fold(inputs).norm(dim=1).max())
    if not rows:
        raise BilensError("no features", "one at least")
    values, pairs, strengths = (torch.stack(column) for column in zip(*rows, strict=True))
    if inputs is None:
        return Detail(values, pairs, strengths)
    samples, responses, errors = (torch.stack(column) for column in zip(*measured, strict=True))
    return Detail(values, pairs, strengths, samples, responses, errors, norm, len(inputs))


def table(sets: Iterable[FeatureSet], model: Row | None) -> tuple[Row, ...]:
    """The table of faithfulness of a run: the model itself, the scores of every set, and the rivals beside them.

    Args:
        sets: in their order; model: the model's own row, None where nothing was measured.
    """
    sets = tuple(checks.several("sets", sets, "a list of sets of features", "pass [found]"))
    for found in sets:
        instance("a set", found, FeatureSet)
    if model is not None:
        instance("model", model, Row)
    rows = [] if model is None else [model]
    rows += [row for found in sets for row in found.scores]
    curves = {found.name: found.curves[0] for found in sets if found.curves}
    for found in sets:
        for name, count in found.rivals.items() if found.scores else ():
            if name in curves and count in curves[name].kept.tolist():
                rows.append(replace(curves[name].row(count), kind="rival", beside=found.scores[0].name))
    return tuple({row.name: row for row in rows}.values())


def _pairs(kernel: Kernel) -> tuple[Tensor, Tensor]:
    """The strongest input pairs i ≤ j, and what each adds where both are 1."""
    size = kernel.input.size
    dense = kernel.dense()[:size, :size]
    i, j = torch.triu_indices(size, size)
    strengths = dense[i, j] * (1 + (i < j).to(dense))
    best = strengths.abs().argsort(descending=True, stable=True)[:PAIRS]
    return torch.stack([i[best], j[best]], dim=1), strengths[best]
