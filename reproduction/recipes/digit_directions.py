"""Digit directions: the kernels of the centred read-out, and how few of their eigenvectors are enough (N1, N4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from bilens import decompose, faithfulness, plots
from bilens.data import Split
from bilens.decompose import Spectrum
from bilens.faithfulness import Curve
from bilens.features import FeatureSet
from bilens.kernel import Kernel
from bilens.space import Space
from bilens.tensor import BilinearTensor
from reproduction import charts
from reproduction.lab import Claim, Lab, Recipe
from reproduction.measurement import Measurement

WIDTHS, QUICK_WIDTHS = (30, 100, 300, 1000), (10, 30)

KEPT = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 17, 20, 25, 30, 40, 50, 75, 100, 150, 200, 300, 500)
"""Eigenvectors kept for each digit, at the points of a curve; the last point keeps all."""

CERTIFIED = (5, 10, 20, 50)
"""Eigenvectors kept where the measured error stands beside its certificate in the table."""

ORDERS = ("|λ|", "mean activation", "data-weighted")

THRESHOLD = 0.1
"""Mean activation above which the founding draft counts an eigenvector."""

DROP = 0.01
"""Accuracy that may be lost where the number of eigenvectors needed is counted."""

RIDGE = 1e-6
"""Added to Σ, times its mean variance, so that it has no null space."""

PICTURED = 8
"""Eigenpairs of each digit that are kept for pictures."""


@dataclass(frozen=True, eq=False)
class Ranked:
    """The pairs of all kernels, each kernel's in one order: logit_o = Σ_k values_ok (readers_ok · x')².

    Args:
        name: of the order; values: λ or μ, (o, k); readers: v or p, (o, k, i); input: the space of x.
    """

    name: str
    values: Float[Tensor, "o k"]
    readers: Float[Tensor, "o k i"]
    input: Space

    def sums(self, x: Float[Tensor, "n d"], most: int | None = None) -> Float[Tensor, "o n k"]:
        """Each logit from the first pair, the first two, and so on, up to `most` of them."""
        lifted, values, readers = self.input.fold(x), self.values[:, :most], self.readers[:, :most]
        sums = lifted.new_empty(len(values), len(lifted), values.shape[1])
        for logit, weights, rows in zip(sums, values, readers, strict=True):
            torch.matmul(lifted, rows.T, out=logit)
            logit.square_().mul_(weights).cumsum_(dim=1)
        return sums

    def discarded(self) -> Float[Tensor, "o k"]:
        """Largest |value| of the pairs that are left out when the first 1, 2, … are kept; 0 at the end."""
        largest = self.values.abs().flip(1).cummax(dim=1).values.flip(1)
        return torch.cat([largest[:, 1:], largest.new_zeros(len(largest), 1)], dim=1)


def by_eigenvalue(spectra: Sequence[Spectrum]) -> Ranked:
    """Largest |λ| first."""
    values, readers = torch.stack([s.values for s in spectra]), torch.stack([s.vectors for s in spectra])
    return Ranked(ORDERS[0], values, readers, spectra[0].input)


def by_activation(spectra: Sequence[Spectrum], second_moment: Float[Tensor, "i i"]) -> Ranked:
    """The same pairs, largest |λ| E(v·x')² = |λ| vᵀΣv first."""
    plain = by_eigenvalue(spectra)
    means = ((plain.readers @ second_moment.to(plain.readers)) * plain.readers).sum(dim=2)
    order = (plain.values.abs() * means).argsort(dim=1, descending=True, stable=True)
    readers = torch.stack([rows[places] for rows, places in zip(plain.readers, order, strict=True)])
    return Ranked(ORDERS[1], plain.values.gather(1, order), readers, plain.input)


def by_data(tensor: BilinearTensor, second_moment: Float[Tensor, "i i"]) -> Ranked:
    """Pairs of Σ^½ Q Σ^½, largest |μ| first, Σ with a small ridge.

    The ridge makes the sum of all pairs exact for every input, lit pixels that no training image lights included, and
    leaves the bound on the mean error valid: E(p·x')² = pᵀΣp ≤ pᵀ(Σ + εI)p = 1.
    """
    ridge = RIDGE * second_moment.diagonal().mean() * torch.eye(len(second_moment)).to(second_moment)
    most = min(tensor.input.dim, 2 * tensor.hidden)
    found = [decompose.eigh_weighted(kernel, second_moment + ridge, most) for kernel in _kernels(tensor)]
    values, readers = torch.stack([s.values for s in found]), torch.stack([s.readers for s in found])
    return Ranked(ORDERS[2], values, readers, tensor.input)


def spectra_of(tensor: BilinearTensor) -> list[Spectrum]:
    """All eigenpairs of every output's kernel that can have λ ≠ 0: at most two for each hidden unit."""
    most = min(tensor.input.dim, 2 * tensor.hidden)
    return [decompose.eigh(kernel, most) for kernel in _kernels(tensor)]


def needed(accuracies: Float[Tensor, " k"], own: float) -> int:
    """How many pairs must be kept so that the accuracy lost stays below `DROP`, with so many and with any more."""
    lost = (own - accuracies >= DROP).nonzero()
    return 1 if not len(lost) else int(lost[-1]) + 2


def measure(lab: Lab, seed: int) -> Measurement:
    """Spectra, activations and truncation curves at each width; pictures of the widest model's directions."""
    numbers: dict[str, float] = {}
    curves: list[Curve] = []
    train, test = lab.dataset().train, lab.dataset().test
    moment = decompose.second_moment(train.images, lab.dataset().input)
    for hidden in QUICK_WIDTHS if lab.quick else WIDTHS:
        tensor = lab.classifier(seed, hidden=hidden, epochs=lab.size(10, 6)).tensor().centered()
        spectra, weighted = spectra_of(tensor), by_data(tensor, moment)
        found = {
            "accuracy": faithfulness.accuracy(tensor(test.images), test.labels),
            "effective rank": sum(spectrum.participation_ratio() for spectrum in spectra) / len(spectra),
            **activations(spectra, test),
            **mean_errors(tensor, weighted, train.images),
        }
        for ranked in (by_eigenvalue(spectra), by_activation(spectra, moment), weighted):
            curve, enough = truncation(tensor, ranked, test, f"{ranked.name}, h = {hidden}")
            curves.append(curve)
            found[f"needed by {ranked.name}"] = enough
            if curve.error is not None and curve.bound is not None:
                for k, error, bound in zip(
                    curve.kept.tolist(), curve.error.tolist(), curve.bound.tolist(), strict=True
                ):
                    if k in CERTIFIED:
                        found |= {f"largest error by {ranked.name}, k = {k}": error}
                        found |= {f"its bound by {ranked.name}, k = {k}": bound}
        numbers |= {f"{name}, h = {hidden}": value for name, value in found.items()}
    return Measurement.of(numbers, curves, (_view(tensor, spectra),))


def activations(spectra: Sequence[Spectrum], images: Split) -> dict[str, float]:
    """Eigenvectors per digit whose mean activation on the digit's own images is above `THRESHOLD`, mean over digits.

    The activation of eigenvector k of a digit's kernel by an image is its term of the logit, λ_k (v_k·x')². Counted
    for the terms that raise the logit, for all by size, and for those that raise it in units of the digit's largest.
    """
    raising, either, relative = 0, 0, 0
    for digit, spectrum in enumerate(spectra):
        means = spectrum.terms(images.images[images.labels == digit]).mean(dim=0)
        raising += int((means > THRESHOLD).sum())
        either += int((means.abs() > THRESHOLD).sum())
        relative += int((means > THRESHOLD * means.max().clamp(min=0)).sum())
    counts = {"raising": raising, "either sign": either, "relative": relative}
    return {f"active, {name}": count / len(spectra) for name, count in counts.items()}


def truncation(tensor: BilinearTensor, ranked: Ranked, images: Split, name: str) -> tuple[Curve, int]:
    """Scores with the first pairs of every digit, and how many are needed; both orders of λ with their certificate."""
    whole, labels = tensor(images.images), images.labels
    own, loss = faithfulness.accuracy(whole, labels), faithfulness.cross_entropy(whole, labels)
    sums = ranked.sums(images.images)
    enough = needed((sums.argmax(dim=0) == labels[:, None]).double().mean(dim=0), own)
    kept = [k for k in KEPT if k < sums.shape[2]] + [sums.shape[2]]
    logits = [sums[:, :, k - 1].T for k in kept]
    scores = [faithfulness.score(part, labels, loss) for part in logits]
    error, bound = [float((part - whole).abs().max()) for part in logits], None
    if ranked.name != ORDERS[2]:  # its readers are not orthonormal: its bound is on the mean error
        longest = float(tensor.input.fold(images.images).square().sum(dim=1).max())
        discarded = ranked.discarded().max(dim=0).values * longest
        bound = [float(discarded[k - 1]) for k in kept]
    return Curve.of(name, kept, scores, error=error, bound=bound), enough


def mean_errors(tensor: BilinearTensor, weighted: Ranked, x: Float[Tensor, "n d"]) -> dict[str, float]:
    """E|logit − its reconstruction| over the images that Σ was taken from, and the bound on it, means over digits."""
    kept = [k for k in CERTIFIED if k < weighted.values.shape[1]]
    total = torch.zeros(len(kept), dtype=torch.float64)
    for part in torch.split(x, 8192):
        whole, sums = tensor(part).T, weighted.sums(part, max(kept, default=1))
        total += torch.stack([(whole - sums[:, :, k - 1]).abs().double().mean(dim=0).sum() for k in kept])
    rest = weighted.values.abs().double().mean(dim=0).flip(0).cumsum(0).flip(0)
    found = {f"mean error, k = {k}": float(value) / len(x) for k, value in zip(kept, total, strict=True)}
    return found | {f"its bound, k = {k}": float(rest[k]) for k in kept}


def claims(measured: Measurement) -> Sequence[Claim]:
    """N4, the later results on width, the orders beside each other, and errors beside certificates."""
    widths = _widths(measured)
    last = f"h = {widths[-1]}"
    raising = f"eigenvectors per digit whose mean term on the digit's own images is above {THRESHOLD:g}"
    drop = f"eigenvectors per digit for less than {100 * DROP:g} point of accuracy lost"
    later = {30: "≈ 8", 1000: "≈ 17"}  # of later work
    table = [
        Claim(f"{raising}, {last} (N4)", f"active, raising, {last}", "3–5", ".1f"),
        Claim(
            f"the same, above {THRESHOLD:g} of the digit's largest, {last}", f"active, relative, {last}", "3–5", ".1f"
        ),
        Claim(f"the same, terms that lower the logit counted too, {last}", f"active, either sign, {last}", "–", ".1f"),
    ]
    for hidden in widths:
        at = f"h = {hidden}"
        table.append(Claim(f"test accuracy, {at}", f"accuracy, {at}", "–", ".2f", 100, " %"))
        table.append(
            Claim(f"effective rank (Σ|λ| / ‖λ‖)², mean over digits, {at}", f"effective rank, {at}", "–", ".1f")
        )
        for order in ORDERS:
            said = later.get(hidden, "–") if order == ORDERS[0] else "–"
            table.append(Claim(f"{drop}, by {order}, {at}", f"needed by {order}, {at}", said, ".1f"))
    for k in CERTIFIED:
        text = f"with {k} eigenvectors per digit, {last}"
        for order in ORDERS[:2]:
            table.append(Claim(f"largest |logit error| on test images {text}, by {order}",
                               f"largest error by {order}, k = {k}, {last}"))  # fmt: skip
            table.append(Claim("its certificate max|λ| ‖x‖²", f"its bound by {order}, k = {k}, {last}"))
        table.append(
            Claim(f"mean |logit error| on training images {text}, {ORDERS[2]}", f"mean error, k = {k}, {last}")
        )
        table.append(Claim("its certificate Σ|μ|", f"its bound, k = {k}, {last}"))
    return [claim for claim in table if claim.number in measured.names]


def figures(seeds: Sequence[Measurement]) -> Mapping[str, tuple[Figure, str]]:
    """The directions, accuracy by order and by width, eigenvectors needed against width, and a certificate."""
    widths = _widths(seeds[0])
    last = widths[-1]
    orders = {order: [seed.curve(f"{order}, h = {last}") for seed in seeds] for order in ORDERS}
    sizes = {f"h = {hidden}": [seed.curve(f"{ORDERS[0]}, h = {hidden}") for seed in seeds] for hidden in widths}
    counts = {
        order: {hidden: [seed[f"needed by {order}, h = {hidden}"] for seed in seeds] for hidden in widths}
        for order in ORDERS
    }
    ranks = {hidden: [seed[f"effective rank, h = {hidden}"] for seed in seeds] for hidden in widths}
    band = "mean and 95 % interval over seeds"
    return {
        "digits-directions": (
            plots.gallery(seeds[0].records[0]),
            f"Top positive and top negative eigenvector of each digit's kernel in pixel space, h = {last}, first seed.",
        ),
        "digits-orders": (
            charts.bands(orders),
            f"Accuracy with the first eigenvectors of each digit's kernel in three orders, h = {last}: {band}.",
        ),
        "digits-widths": (
            charts.bands(sizes),
            f"Accuracy with the eigenvectors of largest |λ| of each digit's kernel, at each width: {band}.",
        ),
        "digits-needed": (
            charts.intervals(
                counts | {"effective rank": ranks}, f"Eigenvectors per digit: less than {100 * DROP:g} point lost",
                "hidden units h", "eigenvectors per digit",
            ),
            f"Eigenvectors per digit from which on less than {100 * DROP:g} point of accuracy is lost, and the "
            f"effective rank, against width: {band}.",
        ),
        "digits-certificate": (
            plots.certificate(orders[ORDERS[0]][0]),
            f"Largest error of a logit over the test images and its certificate, h = {last}, first seed.",
        ),
    }  # fmt: skip


def _kernels(tensor: BilinearTensor) -> list[Kernel]:
    return [tensor.kernel(o) for o in range(tensor.output.size)]


def _view(tensor: BilinearTensor, spectra: Sequence[Spectrum]) -> FeatureSet:
    count = len(spectra)
    norms = torch.stack([spectrum.energy.sqrt() for spectrum in spectra])
    shown = tuple(spectrum.keep(min(PICTURED, len(spectrum))) for spectrum in spectra)
    effects = torch.eye(count).to(norms) - 1 / count
    return FeatureSet("digits", shown, norms, "norm of the kernel, ‖Q‖", effects, tensor.output)


def _widths(measured: Measurement) -> list[int]:
    return sorted(h for h in {*WIDTHS, *QUICK_WIDTHS} if f"accuracy, h = {h}" in measured.names)


RECIPE = Recipe(
    "digits",
    "Digit directions",
    lambda lab: (
        f"h = {', '.join(str(h) for h in (QUICK_WIDTHS if lab.quick else WIDTHS))}, {lab.size(10, 6)} epochs, AdamW, "
        f"lr 1e-3, weight decay 1, no noise, {len(lab.dataset().train.labels):,} training images."
    ),
    measure,
    claims,
    figures,
)
