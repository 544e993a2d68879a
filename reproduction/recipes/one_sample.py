"""One sample explained: its logits, and the margin of its prediction, as exact sums of eigenvector terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from matplotlib.figure import Figure
from torch import Tensor

from bilens import decompose, plots
from bilens.decompose import Spectrum
from bilens.errors import BilensError
from bilens.features import Explanation
from bilens.kernel import Kernel
from bilens.tensor import BilinearTensor
from reproduction.lab import Claim, Lab, Recipe
from reproduction.measurement import Measurement

SHARE = 0.9
"""Part of the margin that the terms must cover."""

SHOWN = 10
"""Terms of an explained image."""

GROUPS = ("right", "right, margin alike", "wrong")
"""Right predictions; for each wrong one the right one of nearest margin; and wrong predictions."""


def measure(lab: Lab, seed: int) -> Measurement:
    """Exactness of the sums, terms that cover the margin of each test image, and two images explained."""
    model = lab.classifier(seed, hidden=lab.size(1000, 60), epochs=lab.size(10, 6))
    tensor = model.tensor().to(torch.float64).centered()
    test = lab.dataset().test
    images = test.images.double()
    logits = tensor(images)
    own = model(test.images).double()
    sums = torch.stack([_spectrum(tensor, tensor.kernel(o)).reconstruct(images) for o in range(logits.shape[1])], dim=1)
    chosen = logits.topk(2, dim=1).indices
    right = chosen[:, 0] == test.labels
    if bool(right.all()):
        raise BilensError("a model without a wrong prediction", "at least one wrong", "explain a smaller model")
    margins, terms, weights = margin_terms(tensor, images, chosen)
    direct = (logits.gather(1, chosen[:, :1]) - logits.gather(1, chosen[:, 1:]))[:, 0]
    numbers = {
        "accuracy": float(right.double().mean()),
        "error of a logit": float((sums - logits).abs().max()),
        "error of a logit, as the model computes": float((sums - own + own.mean(dim=1, keepdim=True)).abs().max()),
        "error of a margin": float((margins - direct).abs().max()),
        "largest logit": float(logits.abs().max()),
    }
    for group, members in zip(GROUPS, (right, alike(direct, right), ~right), strict=True):
        numbers |= {
            f"margin, {group}": float(direct[members].median()),
            f"terms, {group}": float(terms[members].double().median()),
            f"terms over margin, {group}": float((weights / direct)[members].median()),
        }
    explained = [
        explain(tensor, images[at], test.labels[at], chosen[at])
        for at in (typical(direct, right), typical(direct, ~right))
    ]
    return Measurement.of(numbers, records=explained)


def margin_terms(
    tensor: BilinearTensor, images: Float[Tensor, "n d"], chosen: Int[Tensor, "n 2"]
) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"], Float[Tensor, " n"]]:
    """The margin y_a − y_b of each image as a sum of eigenvector terms of Q_a − Q_b, one spectrum for each pair.

    Args:
        tensor: images to logits; chosen: a and b of each image, the predicted class and the runner-up.

    Returns:
        The sum of all terms; how many cover `SHARE` of it, see `covering`; Σ|term|.
    """
    margins, weights = images.new_empty(len(images)), images.new_empty(len(images))
    counts = torch.empty(len(images), dtype=torch.int64)
    low, high = chosen.min(dim=1).values, chosen.max(dim=1).values
    for a, b in sorted(set(zip(low.tolist(), high.tolist(), strict=True))):
        there = ((low == a) & (high == b)).nonzero()[:, 0]
        terms = difference(tensor, a, b).terms(images[there])
        terms = torch.where((chosen[there, 0] == a)[:, None], terms, -terms)
        margins[there], weights[there] = terms.sum(dim=1), terms.abs().sum(dim=1)
        counts[there] = covering(terms)
    return margins, counts, weights


def difference(tensor: BilinearTensor, a: int, b: int) -> Spectrum:
    """Eigenpairs of Q_a − Q_b, whose terms sum to the margin y_a − y_b."""
    direction = torch.zeros(tensor.output.size).to(tensor.down)
    direction[a], direction[b] = 1, -1
    return _spectrum(tensor, tensor.kernel(direction))


def covering(terms: Float[Tensor, "n k"]) -> Int[Tensor, " n"]:
    """How many terms, largest |term| first, until their sum stays within 1 − `SHARE` of the sum of all.

    Terms have both signs, so that a sum may pass the margin and leave it again: only where it stays counts.
    """
    order = terms.abs().argsort(dim=1, descending=True, stable=True)
    sums = terms.gather(1, order).cumsum(dim=1)
    whole = sums[:, -1:]
    outside = (sums - whole).abs() > (1 - SHARE) * whole.abs()
    places = torch.arange(1, terms.shape[1] + 1)
    return (outside * places).max(dim=1).values + 1


def alike(margins: Float[Tensor, " n"], right: Bool[Tensor, " n"]) -> Int[Tensor, " w"]:
    """For each wrong prediction the right one of nearest margin, so that they differ in little but being wrong."""
    places = right.nonzero()[:, 0]
    return places[(margins[~right][:, None] - margins[places]).abs().argmin(dim=1)]


def typical(margins: Float[Tensor, " n"], members: Bool[Tensor, " n"]) -> int:
    """The member with the median margin: an example that nobody chose."""
    places = members.nonzero()[:, 0]
    return int(places[margins[places].argsort(stable=True)[(len(places) - 1) // 2]])


def explain(tensor: BilinearTensor, x: Float[Tensor, " d"], label: Tensor, chosen: Int[Tensor, " 2"]) -> Explanation:
    """The margin of one image with its `SHOWN` largest terms."""
    a, b = chosen.tolist()
    names = tensor.output.label
    spectrum = difference(tensor, a, b)
    terms = spectrum.terms(x)
    largest = torch.zeros(len(spectrum), dtype=torch.bool)
    largest[terms.abs().argsort(descending=True, stable=True)[:SHOWN]] = True
    shown = replace(
        spectrum,
        values=spectrum.values[largest],
        vectors=spectrum.vectors[largest],
        residuals=spectrum.residuals[largest],
        discarded=torch.where(largest, 0, spectrum.values.abs()).max(),
    )
    verdict = "rightly" if a == int(label) else "wrongly"
    title = f"A {names(int(label))}, {verdict} read as {names(a)}: logit of {names(a)} less that of {names(b)}"
    return Explanation(title, x, shown, float(terms.sum()))


def claims(measured: Measurement) -> Sequence[Claim]:
    """Exactness, and how many terms it takes."""
    table = [
        Claim("largest |sum of terms − logit| over all test images, float64", "error of a logit", "–", ".1e"),
        Claim("the same against the model's own float32 logits", "error of a logit, as the model computes", "–", ".1e"),
        Claim("largest |sum of terms − margin|, float64", "error of a margin", "–", ".1e"),
        Claim("largest |logit|, for comparison", "largest logit", "–", ".1f"),
    ]
    for group in GROUPS:
        table += [
            Claim(f"median margin between the predicted class and the runner-up, {group}", f"margin, {group}"),
            Claim(f"terms that cover {100 * SHARE:g} % of the margin, median, {group}", f"terms, {group}", "–", ".1f"),
            Claim(f"Σ|term| over the margin, median, {group}", f"terms over margin, {group}", "–", ".1f"),
        ]
    return table


def figures(seeds: Sequence[Measurement]) -> Mapping[str, tuple[Figure, str]]:
    """One right and one wrong prediction."""
    caption = (
        f"The margin of one test image of the first seed as a sum of eigenvector terms of the difference kernel: the "
        f"{SHOWN} largest, then all others together. The image is the {{}} prediction with the median margin."
    )
    return {
        f"sample-{name}": (plots.terms(explanation), caption.format(name))
        for name, explanation in zip(("right", "wrong"), seeds[0].records, strict=True)
    }


def _spectrum(tensor: BilinearTensor, kernel: Kernel) -> Spectrum:
    return decompose.eigh(kernel, min(tensor.input.dim, 2 * tensor.hidden))


RECIPE = Recipe(
    "sample",
    "One sample explained",
    lambda lab: (
        f"h = {lab.size(1000, 60)}, {lab.size(10, 6)} epochs, AdamW, lr 1e-3, weight decay 1, no noise; "
        f"{len(lab.dataset().test.labels):,} test images."
    ),
    measure,
    claims,
    figures,
)
