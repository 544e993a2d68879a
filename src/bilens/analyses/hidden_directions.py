"""The hidden directions of a network of several layers: what is said and what is listened to are large in them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bilens import decompose
from bilens.analyses._deep_subject import DeepSubject, after
from bilens.analyses.subject import kept
from bilens.decompose import ODT
from bilens.dictionary import Dictionary
from bilens.faithfulness import Curve, Row
from bilens.features import FeatureSet, detail, stored
from bilens.kernel import Kernel
from bilens.progress import bar

COUNTED = 10_000
"""Training images that principal components are taken from."""
TEXT = (
    "Between the first and the second layer stand {size} numbers; these are their directions in balanced "
    "coordinates, in which what the layer below can say is the identity and what the layers above listen to is "
    "diagonal (in {metric}). Each direction is a quadratic form of the input. Effects are what the outputs are "
    "when it is 1 and all other directions are 0."
)
NAMES = (
    "hidden directions kept",
    "hidden directions kept, by the weights alone",
    "principal components of the hidden layer",
)


@bar("hidden directions, and the model on them")
def hidden_directions(subject: DeepSubject) -> FeatureSet:
    """Balanced directions of the first hidden bond as quadratic forms, and scores against how many bonds keep."""
    deep, first = subject.outputs, subject.levels[0]
    found = decompose.odt(deep, metric=subject.metric, leaves=False)
    (basis, *_), values = _kept(found), found.values[1]
    count = min(subject.budget.count, len(values))
    weights = (basis.duals[:count].to(first.down) @ first.down).detach()
    kernels = [Kernel(first.left, first.right, row, deep.input, str(place + 1)) for place, row in enumerate(weights)]
    spectra = [decompose.eigh(kernel) for kernel in kernels]
    alone = basis.atoms[:count].to(first.down)
    for level in subject.levels[1:]:
        alone = after(level, alone)
    curves = () if subject.dataset is None else faithful(subject, found, subject.dataset.train.images)
    top = [k for k in (10, 20) if curves and k in curves[0].kept.tolist()] or (
        [] if not curves else [int(curves[0].kept[-1])]
    )
    scores = [row for k in top for row in _rows(curves, k)]
    return FeatureSet(
        "directions",
        tuple(stored(spectrum) for spectrum in spectra),
        values[:count].to(alone),
        "σ, the direction's singular value",
        alone,
        subject.output,
        title="Hidden directions",
        text=TEXT.format(size=deep.bond(1).size, metric=subject.measured_in),
        tab="Hidden directions",
        feature="Direction",
        among="directions",
        total=len(values),
        detail=detail(zip(kernels, spectra, strict=True), subject.examined),
        curves=curves,
        scores=tuple(scores),
        numbers={
            "metric": subject.measured_in,
            "singular_values": [each.tolist() for each in found.values[1:]],
        },
        words={
            "σ of a direction": "The singular value of one copy of the bond between two layers, balanced: "
            "the squares of all of them add up to ‖T‖² of the network."
        },
    )


def faithful(subject: DeepSubject, found: ODT, training: Float[Tensor, "n d"]) -> tuple[Curve, ...]:
    """The model with as many directions kept at every hidden bond: balanced ones, those of the weights, components.

    Args:
        subject: what is read; found: its balanced directions; training: images that components are taken from.
    """
    plain = decompose.odt(subject.outputs, leaves=False)
    size = max(len(values) for values in found.values[1:-1])
    counts = kept(size)
    bonds = subject.bonds(training[:COUNTED])[1:-1]
    said = subject.bonds(subject.given)[1]
    principal = [_components(bond) for bond in bonds]
    columns: list[list[Tensor]] = [[], [], []]
    for k in counts:
        for column, bases in zip(columns, (_bases(found), _bases(plain), principal), strict=True):
            y = said
            for place, (mean, read, write) in enumerate(bases):
                y = mean + ((y - mean) @ read[:k].T) @ write[:k]
                y = after(subject.levels[place + 1], y)
            column.append(y)
    lines = [[subject.score(outputs) for outputs in column] for column in columns]
    ours = Curve.of(NAMES[0], counts, lines[0])
    return (
        ours,
        *(Curve.of(name, counts, line, beside=ours.name) for name, line in zip(NAMES[1:], lines[1:], strict=True)),
    )


def _bases(found: ODT) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(0, duals, atoms) of every hidden bond, in the network's type."""
    like = found.deep.layers[0].left
    return [(like.new_zeros(()), basis.duals.to(like), basis.atoms.to(like)) for basis in _kept(found)]


def _kept(found: ODT) -> list[Dictionary]:
    """The bases of the hidden bonds."""
    return [basis for basis in found.dictionaries[1:-1] if basis is not None]


def _components(said: Float[Tensor, "n m"]) -> tuple[Tensor, Tensor, Tensor]:
    """(mean, components, components) of what a bond says on the training images."""
    mean = said.mean(dim=0)
    away = (said - mean).double()
    vectors = torch.linalg.eigh(away.T @ away)[1].flip(1).T.to(said)
    return mean, vectors, vectors


def _rows(curves: tuple[Curve, ...], k: int) -> list[Row]:
    ours, *others = curves
    row = ours.row(k)
    return [row, *(Row(f"{k:,} {other.name}", other.at(k), None, "rival", row.name) for other in others)]
