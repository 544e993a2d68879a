"""Directions of a kernel by every method that is compared, and what each of them is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens import decompose, faithfulness, matching
from bilens.data import Split
from bilens.faithfulness import Curve
from bilens.kernel import Kernel
from bilens.tensor import BilinearTensor
from reproduction.methods import cluster, extrema, sparse, squares
from reproduction.methods.extrema import Extrema
from reproduction.methods.squares import Squares

EIGENVECTORS, CLUSTERS, SPARSE, BOX, ORDER4 = METHODS = (
    "eigenvectors",
    "clusters",
    "sparse PCA",
    "extrema in the box",
    "order-4 maxima",
)

KEPT = (1, 2, 3, 5, 10, 20)
"""Directions of each digit at the points of a curve; all there are where a method found fewer."""

COMPARED = 5
"""Directions of each digit whose sparsity is measured, and that are compared between models."""

GROUPS = 8
"""Clusters of pixels."""

CANDIDATES = 100
"""Eigenvectors of the blocks, largest |λ| first, among which the directions of the clusters are chosen."""

SHARE = 0.1
"""Of the pixels that a sparse direction may use."""

RANDOM = 1000
"""Random images that logits of extrema are compared with."""

OTHERS = ("another seed", "an untrained model")


@dataclass(frozen=True, eq=False)
class Found:
    """What every method found in one model.

    Args:
        directions: of each digit's kernel, by method, in the order in which they lower its residual.
        labels: the cluster of each pixel, by digit; box: maxima, then minima, of each digit's logit; form: maxima of
            the order-4 form.
    """

    directions: Mapping[str, Sequence[Squares]]
    labels: Sequence[Int[Tensor, " i"]]
    box: Sequence[tuple[Extrema, Extrema]]
    form: Extrema


def negative(kernel: Kernel) -> Kernel:
    """−Q, whose maxima are the minima of Q."""
    return replace(kernel, weights=-kernel.weights)


def find(tensor: BilinearTensor, most: int, *, box_starts: int, form_starts: int, seed: int) -> Found:
    """At most this many directions of each kernel by each method.

    Every method gives candidates, and `squares.pursuit` puts them in order: the next is the one that lowers
    ‖Q − Σ c v vᵀ‖ most. The maxima of the order-4 form belong to all outputs, so each kernel chooses among the same.
    """
    kernels = [tensor.kernel(o) for o in range(tensor.output.size)]
    size = tensor.input.size
    labels = [cluster.clusters(kernel, GROUPS, seed=seed) for kernel in kernels]
    box = [
        (
            extrema.box(kernel, starts=box_starts, seed=seed),
            extrema.box(negative(kernel), starts=box_starts, seed=seed),
        )
        for kernel in kernels
    ]
    form = extrema.sshopm(tensor, form_starts, seed=seed)
    candidates = {
        EIGENVECTORS: [decompose.eigh(kernel, most).vectors for kernel in kernels],
        CLUSTERS: [cluster.block_vectors(k, part, CANDIDATES) for k, part in zip(kernels, labels, strict=True)],
        SPARSE: [sparse.sparse_eigh(kernel, most, max(1, round(SHARE * size))).vectors for kernel in kernels],
        BOX: [torch.cat([ends.vectors for ends in both]) for both in box],
        ORDER4: [form.vectors for _ in kernels],
    }
    directions = {
        method: [
            squares.pursuit(kernel, rows[rows.norm(dim=1) > 0], most)
            for kernel, rows in zip(kernels, found, strict=True)
        ]
        for method, found in candidates.items()
    }
    return Found(directions, labels, box, form)


def fidelity(
    tensor: BilinearTensor, found: Sequence[Squares], images: Split, name: str
) -> tuple[Curve, list[float], list[float]]:
    """Scores when each logit is the best weighted sum of squares of its first k directions, for each k of `KEPT`.

    Returns:
        The curve, and two residuals at each of its points, means over digits: ‖Q − Σ c v vᵀ‖ / ‖Q‖, and ‖Q − PQP‖ / ‖Q‖
        with P the projector on the same directions.
    """
    loss = faithfulness.cross_entropy(tensor(images.images), images.labels)
    powers = [(images.images @ whole.vectors.T).square() for whole in found]
    scores, residuals, spans = [], [], []
    for k in KEPT:
        fits = [squares.squares(tensor.kernel(o), whole.vectors[:k]) for o, whole in enumerate(found)]
        logits = torch.stack([power[:, :k] @ fit.values for power, fit in zip(powers, fits, strict=True)], dim=1)
        scores.append(faithfulness.score(logits, images.labels, loss))
        residuals.append(sum(float(fit.residual) for fit in fits) / len(fits))
        out = [squares.span_residual(tensor.kernel(o), fit.vectors) for o, fit in enumerate(fits)]
        spans.append(sum(out) / len(out))
    return Curve.of(name, list(KEPT), scores), residuals, spans


def sparsity(found: Sequence[Squares]) -> tuple[float, float]:
    """Hoyer's sparsity and the effective number of pixels of the first `COMPARED` directions, means over digits."""
    rows = torch.cat([whole.vectors[:COMPARED] for whole in found])
    numbers = [decompose.participation_ratio(row) for row in rows]
    return float(sparse.hoyer(rows).mean()), sum(numbers) / len(numbers)


def stability(ours: Sequence[Squares], others: Sequence[Sequence[Squares]]) -> list[tuple[float, float]]:
    """How like the first directions of each digit are to those of the same digit in each of several other models.

    As many of each digit's as all models have, `COMPARED` at most, so that the models can be compared.

    Returns:
        For each other model: |cos| by optimal assignment, and cosines of the angles between spans, means over digits.
    """
    sums = [[0.0, 0.0] for _ in others]
    for digit, whole in enumerate(ours):
        count = min(COMPARED, len(whole), *(len(other[digit]) for other in others))
        for place, other in enumerate(others):
            mine, theirs = whole.vectors[:count], other[digit].vectors[:count]
            sums[place][0] += float(matching.assign((mine @ theirs.T).abs()).similarity.mean()) / len(ours)
            sums[place][1] += float(matching.subspace_cosines(mine, theirs).mean()) / len(ours)
    return [(one, two) for one, two in sums]


def sphere_numbers(tensor: BilinearTensor, starts: int, seed: int) -> dict[str, float]:
    """In how many places ascents on the sphere end, and how far from λ_max their values are, for all kernels and −Q."""
    places, away = [], 0.0
    for o in range(tensor.output.size):
        for kernel in (tensor.kernel(o), negative(tensor.kernel(o))):
            ends = extrema.sphere(kernel, starts, seed=seed, tolerance=1e-6)
            highest = torch.linalg.eigvalsh(kernel.dense().double())[-1]
            places.append(len(ends))
            away = max(away, float((ends.values.double() / highest - 1).abs().max()))
    return {"sphere, most places": max(places), "sphere, largest distance from λ": away}


def box_numbers(tensor: BilinearTensor, found: Found, images: Split, seed: int) -> dict[str, float]:
    """What the extrema of the logits in the box are like, beside test images and random ones; means over digits."""
    ends = [extrema for both in found.box for extrema in both]
    points = torch.cat([extrema.vectors for extrema in ends])
    best = torch.stack([maxima.vectors[0] for maxima, _ in found.box])
    random = torch.rand(RANDOM, points.shape[1], generator=torch.Generator().manual_seed(seed))
    masks = (random < best.mean()).to(best)
    own = torch.stack([images.images[images.labels == o].mean(dim=0) for o in range(len(best))])
    logits = tensor(images.images)
    digits = torch.arange(len(best))
    nearest, label = _nearest(best, images)
    half = len(images.labels) // 2
    rest = Split(images.images[half:], images.labels[half:])
    return {
        "box, places": sum(map(len, ends)) / len(ends),
        "box, most places": max(map(len, ends)),
        "box, cosine of places with one another": _alike(ends),
        "box, chance that a start ends in a place seen": sum(extrema.seen for extrema in ends) / len(ends),
        "box, converged": sum(int(extrema.counts[extrema.converged].sum()) for extrema in ends)
        / sum(extrema.starts for extrema in ends),
        "box, pixels on a bound": float(((points == 0) | (points == 1)).double().mean()),
        "box, pixels lit": float(best.mean()),
        "box, pixels lit in test images": float(own.mean()),
        "box, highest logit": sum(float(maxima.values[0]) for maxima, _ in found.box) / len(best),
        "box, highest logit of a test image": float(logits.amax(dim=0).mean()),
        "box, highest logit of a random image": float(tensor(random).amax(dim=0).mean()),
        "box, read as its digit": float((tensor(best).argmax(dim=1) == digits).double().mean()),
        "box, cosine with the nearest test image": float(nearest.mean()),
        "box, nearest test image is of its digit": float((label == digits).double().mean()),
        "box, cosine of random images with the nearest": float(_nearest(masks[:100], images)[0].mean()),
        "box, cosine of test images with the nearest": float(_nearest(images.images[:half][:100], rest)[0].mean()),
    }


def form_numbers(tensor: BilinearTensor, found: Found, blank: Found, blank_tensor: BilinearTensor) -> dict[str, float]:
    """The maxima of ‖g(x)‖² beside SVD, HOSVD and the digits' eigenvectors, with those of an untrained model."""
    svd = decompose.svd(tensor)
    basis = decompose.input_basis(tensor, min(20, tensor.input.size)).vectors
    digits = torch.cat([whole.vectors[:2] for whole in found.directions[EIGENVECTORS]])
    numbers = {
        "order 4, places": float(len(found.form)),
        "order 4, chance that a start ends in a place seen": found.form.seen,
        "order 4, converged": float(found.form.converged.double().mean()),
        "order 4, largest ‖g‖ over σ": float(found.form.values[0].sqrt() / svd.values[0]),
    }
    for name, form, reads in (("", found.form, tensor), (", untrained", blank.form, blank_tensor)):
        rows = form.vectors[: min(len(found.form), len(blank.form), len(basis), len(digits))]
        outputs = torch.nn.functional.normalize(reads(rows), dim=1)[: len(svd)]
        numbers |= {
            f"order 4, cosine with HOSVD directions{name}": _matched(rows, basis),
            f"order 4, cosine with digit eigenvectors{name}": _matched(rows, digits),
            f"order 4, cosine of outputs with SVD directions{name}": _matched(outputs, svd.outputs),
        }
    return numbers


def cluster_numbers(tensor: BilinearTensor, found: Found, others: Sequence[Found]) -> dict[str, float]:
    """Share of ‖Q‖² inside clusters, beside what their sizes alone would hold, and agreement between models."""
    count = len(found.labels)
    sizes = [part.bincount().double() / len(part) for part in found.labels]
    numbers = {
        "clusters, share inside": sum(cluster.inside(tensor.kernel(o), part) for o, part in enumerate(found.labels))
        / count,
        "clusters, share by size": sum(float(part.square().sum()) for part in sizes) / count,
    }
    for name, other in zip(OTHERS, others, strict=True):
        pairs = zip(found.labels, other.labels, strict=True)
        numbers[f"clusters, agreement with {name}"] = sum(cluster.agreement(a, b) for a, b in pairs) / count
    return numbers


def _matched(rows: Float[Tensor, "n d"], others: Float[Tensor, "m d"]) -> float:
    few, many = sorted((rows, others), key=len)
    return float(matching.assign((few @ many.T).abs()).similarity.mean())


def _alike(found: Sequence[Extrema]) -> float:
    """Mean cosine of every two places of one kernel and sign; 1 where each has a single place."""
    cosines = []
    for places in found:
        rows = torch.nn.functional.normalize(places.vectors, dim=1)
        cosines += (rows @ rows.T)[torch.triu(torch.ones(len(rows), len(rows)), 1) > 0].tolist()
    return sum(cosines) / len(cosines) if cosines else 1.0


def _nearest(x: Float[Tensor, "n d"], images: Split) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """Cosine of each with the nearest image, and that image's label."""
    unit = torch.nn.functional.normalize
    cosines, places = (unit(x, dim=1) @ unit(images.images, dim=1).T).max(dim=1)
    return cosines, images.labels[places]
