"""Alternatives to eigendecomposition: clusters, sparse PCA, extrema of the logits and of their square norm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jaxtyping import Bool
from matplotlib.figure import Figure
from torch import Tensor

from bilens import faithfulness
from bilens.data import Split
from bilens.models import ImageClassifier
from bilens.space import Space
from bilens.tensor import BilinearTensor
from reproduction import charts
from reproduction.lab import Claim, Lab, Recipe
from reproduction.measurement import Measurement
from reproduction.methods.squares import Squares
from reproduction.recipes.alternative_methods import (
    COMPARED,
    GROUPS,
    KEPT,
    METHODS,
    OTHERS,
    RANDOM,
    box_numbers,
    cluster_numbers,
    fidelity,
    find,
    form_numbers,
    sparsity,
    sphere_numbers,
    stability,
)

QUICK_LIT = 0.1
"""Share of the training images that must light a pixel in a quick programme, where fewer pixels save time."""

PICTURED = 3
"""The digit whose directions are shown."""

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


def lit(lab: Lab) -> Bool[Tensor, " d"]:
    """The pixels that some training image lights; in a quick programme those that `QUICK_LIT` of the images do."""
    share = (lab.dataset().train.images > 0).double().mean(dim=0)
    return share > (QUICK_LIT if lab.quick else 0.0)


def over(tensor: BilinearTensor, mask: Bool[Tensor, " d"]) -> BilinearTensor:
    """The tensor over these pixels alone: the same outputs for images that light no other."""
    space = Space("lit pixels", int(mask.sum()))
    return BilinearTensor(tensor.left[:, mask], tensor.right[:, mask], tensor.down, space, tensor.output)


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
