"""Alternatives to eigendecomposition: clusters, sparse PCA, extrema of the logits and of their square norm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from matplotlib.figure import Figure
from torch import Tensor

from bilens import decompose, faithfulness, matching
from bilens.data import Split
from bilens.faithfulness import Curve
from bilens.models import ImageClassifier
from bilens.space import Space
from bilens.tensor import BilinearTensor, Kernel
from reproduction import charts
from reproduction.lab import Claim, Lab, Recipe
from reproduction.measurement import Measurement
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

QUICK_LIT = 0.1
"""Share of the training images that must light a pixel in a quick programme, where fewer pixels save time."""

PICTURED = 3
"""The digit whose directions are shown."""

RANDOM = 1000
"""Random images that logits of extrema are compared with."""

OTHERS = ("another seed", "an untrained model")

PARTICULAR = {
    "sphere, most places": "most places that ascents on the sphere end in, of all kernels and signs",
    "sphere, largest distance from λ": "largest distance of their values from λ_max, in parts of it",
    "box, places": "extrema found per kernel and sign in the box",
    "box, most places": "most places of a kernel and sign",
    "box, cosine of places with one another": "cosine of places of one kernel and sign with one another",
    "box, places, untrained": "places found per kernel and sign in an untrained model",
    "box, chance that a start ends in a place seen": "estimated chance that one more start ends in a place seen",
    "box, converged": "starts in the box that converged",
    "box, pixels on a bound": "pixels of the extrema that are black or white",
    "box, pixels lit": "brightness of the highest maxima, mean over pixels",
    "box, pixels lit in test images": "the same in test images",
    "box, highest logit": "logit at the highest maximum, mean over digits",
    "box, highest logit of a test image": "highest logit of a test image, mean over digits",
    "box, highest logit of a random image": f"highest logit of {RANDOM:,} random images, mean over digits",
    "box, read as its digit": "highest maxima read as their digit",
    "box, cosine with the nearest test image": "cosine of the highest maxima with the nearest test image",
    "box, cosine of random images with the nearest": "the same of random images as bright",
    "box, cosine of test images with the nearest": "the same of test images with other test images",
    "box, nearest test image is of its digit": "maxima whose nearest test image is of their digit",
    "order 4, places": "local maxima of ‖g(x)‖² on the sphere",
    "order 4, places, untrained": "the same in an untrained model",
    "order 4, chance that a start ends in a place seen": "estimated chance that one more start finds none that is new",
    "order 4, converged": "maxima of ‖g(x)‖² that converged",
    "order 4, largest ‖g‖ over σ": "largest ‖g(x)‖ over σ₁",
    "order 4, cosine with HOSVD directions": "|cos| of the maxima with 20 HOSVD directions",
    "order 4, cosine with HOSVD directions, untrained": "the same of an untrained model's maxima",
    "order 4, cosine with digit eigenvectors": "|cos| of the maxima with two eigenvectors of each digit",
    "order 4, cosine with digit eigenvectors, untrained": "the same of maxima of an untrained model",
    "order 4, cosine of outputs with SVD directions": "|cos| of the outputs at the maxima with SVD directions",
    "order 4, cosine of outputs with SVD directions, untrained": "the same of outputs of an untrained model",
    "clusters, share inside": f"share of ‖Q‖² inside {GROUPS} clusters of pixels",
    "clusters, share by size": "share that clusters of these sizes would hold of a kernel without blocks",
    "clusters, agreement with another seed": "adjusted Rand index with the clusters of another seed",
    "clusters, agreement with an untrained model": "the same with those of an untrained model",
}
"""Numbers of single methods, with what the table says of them."""

PERCENT = {
    "box, converged", "box, pixels on a bound", "box, pixels lit", "box, pixels lit in test images",
    "box, read as its digit", "box, nearest test image is of its digit", "order 4, converged",
    "clusters, share inside", "clusters, share by size",
}  # fmt: skip


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


def lit(lab: Lab) -> Bool[Tensor, " d"]:
    """The pixels that some training image lights; in a quick programme those that `QUICK_LIT` of the images do."""
    share = (lab.dataset().train.images > 0).double().mean(dim=0)
    return share > (QUICK_LIT if lab.quick else 0.0)


def over(tensor: BilinearTensor, mask: Bool[Tensor, " d"]) -> BilinearTensor:
    """The tensor over these pixels alone: the same outputs for images that light no other."""
    space = Space("lit pixels", int(mask.sum()))
    return BilinearTensor(tensor.left[:, mask], tensor.right[:, mask], tensor.down, space, tensor.output)


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
    numbers = [decompose.effective_number(row) for row in rows]
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


def measure(lab: Lab, seed: int) -> Measurement:
    """Directions by every method in this seed's model, another's and an untrained one, and how they compare."""
    hidden, mask, test = lab.size(300, 40), lit(lab), lab.dataset().test
    model, other = (lab.classifier(s, hidden=hidden, epochs=lab.size(10, 6)) for s in (seed, seed + 1000))
    blank = ImageClassifier(model.input, model.output, hidden, seed=seed + 1000).requires_grad_(False)
    tensor, *rest = (over(made.tensor().centered(), mask) for made in (model, other, blank))
    test = Split(test.images[:, mask], test.labels)
    starts = {"box_starts": lab.size(32, 2), "form_starts": lab.size(64, 4)}
    found = find(tensor, KEPT[-1], **starts, seed=seed)
    fewer = {name: max(1, count // 2) for name, count in starts.items()}
    others = [find(part, COMPARED, **fewer, seed=seed + 1) for part in rest]
    own = tensor(test.images)
    numbers = {"accuracy": faithfulness.accuracy(own, test.labels)}
    curves = []
    for method in METHODS:
        directions = found.directions[method]
        curve, residuals, spans = fidelity(tensor, directions, test, method)
        curves.append(curve)
        for place, k in enumerate(KEPT):
            numbers[f"{method}, accuracy at {k}"] = float(curve.accuracy[place])
            numbers[f"{method}, residual at {k}"] = residuals[place]
            numbers[f"{method}, residual of the span at {k}"] = spans[place]
            if curve.recovered is not None:
                numbers[f"{method}, recovered at {k}"] = float(curve.recovered[place])
        numbers[f"{method}, directions"] = sum(map(len, directions)) / len(directions)
        numbers[f"{method}, sparsity"], numbers[f"{method}, pixels"] = sparsity(directions)
        compared = stability(directions, [theirs.directions[method] for theirs in others])
        for name, (cosine, angle) in zip(OTHERS, compared, strict=True):
            numbers[f"{method}, cosine with {name}"] = cosine
            numbers[f"{method}, angles with {name}"] = angle
    numbers |= sphere_numbers(tensor, starts["box_starts"], seed)
    numbers |= box_numbers(tensor, found, test, seed)
    numbers |= form_numbers(tensor, found, others[1], rest[1])
    numbers |= cluster_numbers(tensor, found, others)
    numbers["box, places, untrained"] = sum(len(e) for both in others[1].box for e in both) / (2 * len(others[1].box))
    numbers["order 4, places, untrained"] = float(len(others[1].form))
    numbers |= {f"starts, {name}": float(count) for name, count in starts.items()}
    shown = [_restored(found.directions[method][PICTURED], mask, model.input) for method in METHODS]
    return Measurement.of(numbers, curves, shown)


def claims(measured: Measurement) -> Sequence[Claim]:
    """Each method's fidelity, sparsity and stability, then what is particular to each."""
    table = [
        Claim(
            "test accuracy of the model over the pixels that training images light", "accuracy", "–", ".2f", 100, " %"
        )
    ]
    for method in METHODS:
        for k in (COMPARED, KEPT[-1]):
            text = f"at most {k} directions per digit, {method}"
            table.append(Claim(f"accuracy with {text}", f"{method}, accuracy at {k}", "–", ".2f", 100, " %"))
            table.append(
                Claim(f"cross-entropy recovered with {text}", f"{method}, recovered at {k}", "–", ".1f", 100, " %")
            )
            table.append(Claim(f"‖Q − Σ c v vᵀ‖ / ‖Q‖ with {text}", f"{method}, residual at {k}"))
            table.append(Claim(f"‖Q − PQP‖ / ‖Q‖ with {text}", f"{method}, residual of the span at {k}"))
        table += [
            Claim(f"directions found per digit, {method}", f"{method}, directions", "–", ".1f"),
            Claim(f"Hoyer sparsity, {method}", f"{method}, sparsity"),
            Claim(f"effective number of pixels, {method}", f"{method}, pixels", "–", ".0f"),
        ]
        for name in OTHERS:
            table.append(Claim(f"|cos| with the match in {name}, {method}", f"{method}, cosine with {name}"))
            table.append(Claim(f"cosines of angles between spans, {name}, {method}", f"{method}, angles with {name}"))
    for number, text in PARTICULAR.items():
        percent = number in PERCENT
        form = ".0e" if number.startswith("sphere, largest") else ".1f" if percent or "places" in number else ".2f"
        table.append(Claim(text, number, "–", form, 100.0 if percent else 1.0, " %" if percent else ""))
    return [claim for claim in table if claim.number in measured.names]


def figures(seeds: Sequence[Measurement]) -> Mapping[str, tuple[Figure, str]]:
    """Accuracy by method, fidelity beside sparsity and stability, and one digit's directions."""
    panels = {
        f"accuracy, {COMPARED} a digit": f"accuracy at {COMPARED}",
        "Hoyer sparsity": "sparsity",
        "|cos|, another seed": f"cosine with {OTHERS[0]}",
        "|cos|, untrained model": f"cosine with {OTHERS[1]}",
    }
    groups = {
        title: {method: [seed[f"{method}, {what}"] for seed in seeds] for method in METHODS}
        for title, what in panels.items()
    }
    band = "mean and 95 % interval over seeds"
    return {
        "alternatives-accuracy": (
            charts.bands({method: [seed.curve(method) for seed in seeds] for method in METHODS}),
            "Accuracy when each logit is the best weighted sum of squares of so many directions of its digit, by the "
            f"method that found them: {band}.",
        ),
        "alternatives-compared": (
            charts.dots(groups, "from 0 to 1"),
            f"Fidelity, sparsity and stability of the first {COMPARED} directions of each digit: {band}. |cos| is by "
            f"optimal assignment to the directions of the same digit in another model.",
        ),
        "alternatives-directions": (
            charts.directions(dict(zip(METHODS, seeds[0].records, strict=True))),
            f"The first directions of one digit's kernel, {PICTURED}, by each method, first seed.",
        ),
    }


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


def _restored(found: Squares, mask: Bool[Tensor, " d"], pixels: Space) -> Squares:
    """The first directions over all pixels, 0 where no image is lit."""
    vectors = found.vectors.new_zeros(min(6, len(found)), len(mask))
    vectors[:, mask] = found.vectors[:6]
    return Squares(found.values[:6], vectors, found.residual, pixels, found.label)


RECIPE = Recipe(
    "alternatives",
    "Alternatives to eigendecomposition",
    lambda lab: (
        f"h = {lab.size(300, 40)}, {lab.size(10, 6)} epochs, AdamW, lr 1e-3, weight decay 1, no noise; kernels of the "
        f"centred read-out over the {int(lit(lab).sum())} pixels that training images light; {lab.size(32, 2)} starts "
        f"per kernel and sign, {lab.size(64, 4)} for the order-4 form, half as many in the models compared with."
    ),
    measure,
    claims,
    figures,
)
