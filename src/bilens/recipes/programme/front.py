"""What each way of reading features recovers against the numbers that it must store, each beside its null."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional

from bilens import decompose, faithfulness, matching, pair_coding, pairs, sae
from bilens.faithfulness import Curve, Score
from bilens.measurement import Measurement
from bilens.models import ImageClassifier
from bilens.pair_coding import Coded, coded, drawn_pairs, mean_pair, random_directions, through
from bilens.pairs import PairCodes
from bilens.recipes.programme import front_coders
from bilens.recipes.programme.front_coders import MAIN, Plan
from bilens.recipes.programme.front_figure import Point, draw, front, points
from bilens.recipes.programme.lab import Claim, Lab, Recipe
from bilens.sae import TopKSAE
from bilens.statistics import interval
from bilens.tensor import BilinearTensor

EIGENVECTORS = "eigenvectors of each digit"
NEXT_DIGIT = "eigenvectors of the next digit, refitted"
RANDOM_VECTORS = "random directions, refitted"
SHARED = "directions shared by all digits"
SHARED_NULL = "shared directions, random"
COMPONENTS = "SVD components, whole"
TRUNCATED = "SVD components, truncated"
COMPONENTS_NULL = "random output directions, whole"
TRUNCATED_NULL = "random output directions, truncated"
ENTRIES = "largest entries of the tensor"
ENTRIES_NULL = "random entries of the tensor"
UNITS = "hidden units of largest norm"
UNITS_NULL = "random hidden units"

CLASSES = 10
"""Logits of every data set of the programme."""

TRAINED, BRIEF, DRAWN, RANDOM = SOURCES = ("trained", "trained briefly", "pairs drawn at random", "random directions")
"""Where the atoms of pair features come from; the last two are never trained."""

OUTPUTS, LOGITS = SPACES = ("outputs", "logits")
"""The pair vectors that are coded: of the layer's hidden outputs, as the draft does, or of the centred logits."""

VECTORS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50)
"""Eigenvectors of each digit."""

DIRECTIONS = (5, 10, 15, 20, 25, 30, 40, 50, 60, 80, 100, 150)
"""Directions that all digits share: the first of the HOSVD basis of the input."""

KEPT_COMPONENTS, KEPT_PAIRS = (5, 10, 20), (2, 5, 10, 20, 50)
"""SVD components, and eigenpairs kept of each."""

WHOLE_COMPONENTS = (2, 5, 10, 20, 30, 50)

KEPT_ENTRIES = (1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
KEPT_UNITS = (10, 20, 50, 100, 200, 300, 500)
KEPT_CODES = (10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000)

FEWER = 4
"""Codes per pair that atoms trained for more are coded with as well."""

OUTPUT_SAMPLES = 2000
"""Test images on which the layer's hidden outputs are compared; logits are compared on all of them."""

OWN, REFIT, NULL_PAIRS, NULL_RANDOM, NULL_MEAN = PAIR_ROWS = (
    "SAE on input pairs, no data seen",
    "its atoms, codes by least squares",
    "pair vectors drawn at random, never trained",
    "random unit vectors",
    "the mean pair vector alone",
)
"""The pair SAE and what a sceptic would compare it with, all with as many atoms and codes."""


def config(space: str, source: str, atoms: int, k: int) -> str:
    """The name of a curve of the sweep over pair features."""
    return f"pair features of {space}, {source}, {atoms:,} atoms, {k} per pair"


@dataclass(frozen=True, eq=False)
class Read:
    """A trained model, its layer, and the images that every reading of it is scored on.

    Args:
        model: the classifier; hidden: its layer before the read-out; logits: its layer with the centred read-out.
        images, labels: the test set; own: the model's score on it; answers: its centred logits.
    """

    model: ImageClassifier
    hidden: BilinearTensor
    logits: BilinearTensor
    images: Float[Tensor, "n d"]
    labels: Int[Tensor, " n"]
    own: Score
    answers: Float[Tensor, "n classes"]

    @classmethod
    def of(cls, lab: Lab, seed: int) -> Read:
        """The model of a seed, trained or read from the folder."""
        model = lab.classifier(seed, hidden=lab.size(1000, 40), epochs=lab.size(10, 6))
        test = lab.dataset().test
        logits = model.tensor().centered()
        answers = logits(test.images)
        own = faithfulness.whole(answers, test.labels)
        return cls(model, model.hidden_tensor(), logits, test.images, test.labels, own, answers)

    @property
    def classes(self) -> int:
        """How many logits there are."""
        return self.logits.output.size

    @property
    def readout(self) -> Float[Tensor, "classes h"]:
        """The centred read-out."""
        weight = self.model.readout.weight
        return weight - weight.mean(dim=0)

    @property
    def numbers(self) -> int:
        """Numbers that the layer itself stores: 2·h·d, and o·h of the read-out."""
        return self.hidden.left.numel() + self.hidden.right.numel() + self.model.readout.weight.numel()

    def score(self, logits: Float[Tensor, "n classes"]) -> Score:
        """How well these logits do on all test images."""
        return faithfulness.score(logits, self.labels, self.own)

    def score_pairs(self, readings: Sequence[Float[Tensor, "pairs classes"]]) -> list[Score]:
        """Scores of several readings, each given as what a pair of inputs adds to the logits."""
        found: list[Score] = []
        for start in range(0, len(readings), 16):
            some = readings[start : start + 16]
            logits = through(self.images, torch.cat(list(some), dim=1))
            found += map(self.score, torch.split(logits, self.classes, dim=1))
        return found


# What must be stored. One rule: a number kept is one, and the place of a number that is kept among many is one more.


def vectors_stored(read: Read, k: int) -> int:
    """k eigenvectors of each digit with their eigenvalues."""
    return read.classes * k * (read.logits.input.dim + 1)


def shared_stored(read: Read, k: int) -> int:
    """k directions, and what each of their pairs adds to each logit."""
    return k * read.logits.input.dim + read.classes * pairs.count(k)


def components_stored(read: Read, k: int, eigenpairs: int | None = None) -> int:
    """k components with their effects and some eigenpairs of each; whole ones are read off the layer, which stays."""
    effects = k * read.classes
    if eigenpairs is None:
        return read.hidden.left.numel() + read.hidden.right.numel() + k * read.hidden.output.size + effects
    return k * eigenpairs * (read.logits.input.dim + 1) + effects


def codes_stored(read: Read, atoms: int, codes: int) -> int:
    """Effects of the atoms and of the offset on the logits, and each code with its place."""
    return pair_coding.codes_stored(read.classes, atoms, codes)


def entries_stored(read: Read, entries: int) -> int:
    """Each entry with its place; or, where that is less, all of them in order."""
    return min(2 * entries, read.classes * pairs.count(read.logits.input.dim))


def units_stored(read: Read, units: int) -> int:
    """Both vectors and the effects of each hidden unit."""
    return units * (2 * read.hidden.input.dim + read.classes)


@torch.no_grad()
def measure(lab: Lab, seed: int) -> Measurement:
    """Every way of reading one seed's model at many sizes, with its null, and the pair SAE beside its own."""
    read = Read.of(lab, seed)
    numbers: dict[str, float] = {
        "accuracy": read.own.accuracy,
        "cross-entropy": read.own.cross_entropy,
        "numbers of the layer": float(read.numbers),
        "hidden units": float(read.hidden.output.size),
    }
    curves = [*_by_vectors(read, seed), *_by_shared(read, seed), *_by_components(read, seed)]
    curves += [*_by_entries(read, seed), *_by_units(read, seed)]
    with torch.enable_grad():
        coders = front_coders.of_outputs(lab, read.hidden, seed)
        small = {
            TRAINED: front_coders.of_logits(lab, read.logits, seed, briefly=False),
            BRIEF: front_coders.of_logits(lab, read.logits, seed, briefly=True),
        }
    found, more = _by_outputs(lab, read, coders, seed)
    return Measurement.of(numbers | found, [*curves, *more, *_by_logits(lab, read, small, seed)])


def _by_vectors(read: Read, seed: int) -> Iterator[Curve]:
    """Eigenvectors of each digit; those of the next digit, and random ones, with weights by least squares."""
    kernels = [read.logits.kernel(o) for o in range(read.classes)]
    kept = [k for k in VECTORS if k <= read.logits.input.dim]
    spectra = [decompose.eigh(kernel, kept[-1]) for kernel in kernels]
    terms = [spectrum.terms(read.images).cumsum(dim=1) for spectrum in spectra]
    stored = [vectors_stored(read, k) for k in kept]
    scores = [read.score(torch.stack([sums[:, k - 1] for sums in terms], dim=1)) for k in kept]
    yield Curve.of(EIGENVECTORS, kept, scores, numbers=stored)
    others = [spectra[(o + 1) % read.classes].vectors for o in range(read.classes)]
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(read.classes, read.logits.input.dim, kept[-1], generator=generator)
    random = list(torch.linalg.qr(noise)[0].mT)
    for name, rows in ((NEXT_DIGIT, others), (RANDOM_VECTORS, random)):
        powers = [(read.images @ vectors.T).square() for vectors in rows]
        scores = []
        for k in kept:
            fits = [decompose.squares(kernel, v[:k]) for kernel, v in zip(kernels, rows, strict=True)]
            scores.append(
                read.score(torch.stack([p[:, :k] @ fit.values for p, fit in zip(powers, fits, strict=True)], dim=1))
            )
        yield Curve.of(name, kept, scores, numbers=stored, beside=EIGENVECTORS)


def _by_shared(read: Read, seed: int) -> Iterator[Curve]:
    """The layer between the first directions of its HOSVD input basis, and between random ones."""
    size = read.logits.input.dim
    kept = [k for k in DIRECTIONS if k <= size]
    basis = decompose.input_basis(read.logits, kept[-1]).vectors
    noise = torch.randn(size, kept[-1], generator=torch.Generator().manual_seed(seed))
    for name, rows in ((SHARED, basis), (SHARED_NULL, torch.linalg.qr(noise)[0].T)):
        codes = read.images @ rows.T
        # On the span of the rows the layer is itself, so that projected images are all that is needed.
        scores = [read.score(read.logits(codes[:, :k] @ rows[:k])) for k in kept]
        beside = None if name == SHARED else SHARED
        yield Curve.of(name, kept, scores, numbers=[shared_stored(read, k) for k in kept], beside=beside)


def _by_components(read: Read, seed: int) -> Iterator[Curve]:
    """SVD components, whole and by their first eigenpairs; the same of random output directions as strong as the layer.

    Components are orthonormal; random directions are made so, which leaves the span of the first k as it is.
    """
    most = min(WHOLE_COMPONENTS[-1], read.hidden.output.size)
    svd = decompose.svd(read.hidden, most)
    random = matching.random_directions(read.hidden.gram(), most, seed)
    outputs = read.hidden(read.images)
    for rows, whole, cut in (
        (svd.outputs, COMPONENTS, TRUNCATED),
        (torch.linalg.qr(random.T)[0].T.to(svd.outputs), COMPONENTS_NULL, TRUNCATED_NULL),
    ):
        beside = (None, None) if whole == COMPONENTS else (COMPONENTS, TRUNCATED)
        effects, codes = rows @ read.readout.T, outputs @ rows.T
        kept = [k for k in WHOLE_COMPONENTS if k <= most]
        scores = [read.score(codes[:, :k] @ effects[:k]) for k in kept]
        stored = [components_stored(read, k) for k in kept]
        yield Curve.of(whole, kept, scores, numbers=stored, beside=beside[0])
        components = [k for k in KEPT_COMPONENTS if k <= most]
        spectra = [decompose.eigh(read.hidden.kernel(u), KEPT_PAIRS[-1]) for u in rows[: components[-1]]]
        terms = [spectrum.terms(read.images).cumsum(dim=1) for spectrum in spectra]
        for r in KEPT_PAIRS:
            parts = torch.stack([sums[:, min(r, sums.shape[1]) - 1] for sums in terms], dim=1)
            scores = [read.score(parts[:, :k] @ effects[:k]) for k in components]
            stored = [components_stored(read, k, r) for k in components]
            yield Curve.of(f"{cut}, {r} eigenpairs", components, scores, numbers=stored, beside=_cut(beside[1], r))


def _cut(name: str | None, r: int) -> str | None:
    return None if name is None else f"{name}, {r} eigenpairs"


def _by_entries(read: Read, seed: int) -> Iterator[Curve]:
    """Entries of the centred tensor, i ≤ j, largest first, and in random order; √2 off the diagonal."""
    entries = _pair_values(read.logits)
    kept = [n for n in KEPT_ENTRIES if n < entries.numel()]
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(entries.numel(), generator=generator)
    largest = (entries.abs() * _weights(read.logits.input.dim)[:, None]).flatten().argsort(descending=True)
    for name, order in ((ENTRIES, largest), (ENTRIES_NULL, shuffled)):
        readings = []
        for n in kept:
            part = torch.zeros(entries.numel())
            part[order[:n]] = entries.flatten()[order[:n]]
            readings.append(part.view_as(entries))
        stored = [entries_stored(read, n) for n in kept]
        beside = None if name == ENTRIES else ENTRIES
        yield Curve.of(name, kept, read.score_pairs(readings), numbers=stored, beside=beside)


def _by_units(read: Read, seed: int) -> Iterator[Curve]:
    """Hidden units by ‖w‖‖v‖‖d‖, their share of the tensor, and in random order."""
    norms = read.hidden.left.norm(dim=1) * read.hidden.right.norm(dim=1) * read.readout.norm(dim=0)
    outputs = read.hidden(read.images)
    kept = [n for n in KEPT_UNITS if n <= len(norms)]
    shuffled = torch.randperm(len(norms), generator=torch.Generator().manual_seed(seed))
    for name, order in ((UNITS, norms.argsort(descending=True)), (UNITS_NULL, shuffled)):
        scores = [read.score(outputs[:, order[:n]] @ read.readout[:, order[:n]].T) for n in kept]
        beside = None if name == UNITS else UNITS
        yield Curve.of(name, kept, scores, numbers=[units_stored(read, n) for n in kept], beside=beside)


def _pair_values(tensor: BilinearTensor) -> Float[Tensor, "pairs o"]:
    """Every pair vector of a tensor with few outputs, in order."""
    stream = pairs.stream(tensor, batch_size=16384, shuffle=False)
    return torch.cat([stream.batch(n) for n in range(len(stream))])


def _weights(size: int) -> Float[Tensor, " pairs"]:
    """√2 for i < j and 1 for i = j: what an entry with i ≤ j counts for in ‖B‖."""
    i, j = torch.triu_indices(size, size)
    return pairs.multiplicity(i, j).float().sqrt()


def kept_values(
    coded: Coded, effects: Float[Tensor, "m p"], shift: Float[Tensor, " p"], counts: Sequence[int]
) -> list[Float[Tensor, "pairs p"]]:
    """What each pair adds to the logits with the codes of largest |code| · ‖effect‖ · √2 off the diagonal alone.

    Args:
        coded: the codes; effects: atoms through the read-out; shift: the offset through it; counts: codes kept.
    """
    size = round((math.sqrt(8 * len(coded.codes) + 1) - 1) / 2)
    chosen = coded.chosen.long()
    weight = coded.codes.abs() * effects.norm(dim=1)[chosen] * _weights(size)[:, None]
    order = weight.flatten().argsort(descending=True)
    readings = []
    for count in counts:
        values = torch.zeros(coded.codes.numel())
        values[order[:count]] = coded.codes.flatten()[order[:count]]
        readings.append(functional.embedding_bag(
            chosen, effects, per_sample_weights=values.view_as(coded.codes), mode="sum") + shift)  # fmt: skip
    return readings


def _swept(read: Read, name: str, coded: Coded, readout: Float[Tensor, "classes o"], beside: str | None) -> Curve:
    """The model replaced by its pair codes, pruned to ever fewer; all of them last."""
    total = coded.codes.numel()
    counts = [n for n in KEPT_CODES if n < total] + [total]
    readings = kept_values(coded, coded.atoms @ readout.T, readout @ coded.offset, counts)
    stored = [codes_stored(read, len(coded.atoms), n) for n in counts]
    return Curve.of(name, counts, read.score_pairs(readings), numbers=stored, beside=beside)


def _by_outputs(
    lab: Lab, read: Read, coders: Mapping[Plan, TopKSAE], seed: int
) -> tuple[dict[str, float], list[Curve]]:
    """Pair features of the hidden outputs, the draft's: the trained SAE beside its nulls, and the sweep."""
    mean, size = mean_pair(read.hidden), read.hidden.output.size
    sources: list[tuple[str, Plan, Tensor, Tensor]] = []
    for plan, coder in coders.items():
        here = plan.size(lab)
        sources.append((TRAINED, here, functional.normalize(coder.W_dec, dim=1), coder.b_dec))
        sources.append((DRAWN, here, drawn_pairs(read.hidden, here.atoms, seed, mean), mean))
        sources.append((RANDOM, here, random_directions(size, here.atoms, seed), mean))
    ks = [(1, FEWER, here.k) if here.k > FEWER else (1, here.k) for _, here, _, _ in sources]
    found, energy = coded(read.hidden, [(atoms, offset) for _, _, atoms, offset in sources], ks)
    curves = []
    main = MAIN.size(lab)
    rows: dict[str, Coded] = {}
    for (source, here, _, _), each, parts in zip(sources, ks, found, strict=True):
        for k, part in zip(each, parts, strict=True):
            beside = None if source == TRAINED else config(OUTPUTS, TRAINED, here.atoms, k)
            curves.append(_swept(read, config(OUTPUTS, source, here.atoms, k), part, read.readout, beside))
            if (here.atoms, k) == (main.atoms, main.k):
                rows[{TRAINED: REFIT, DRAWN: NULL_PAIRS, RANDOM: NULL_RANDOM}[source]] = part
    rows[OWN] = _encoded(read.hidden, coders[MAIN])
    none = torch.zeros(pairs.count(read.hidden.input.dim), 1)
    rows[NULL_MEAN] = Coded(mean[None], mean, none.int(), none, _mean_error(energy, mean, len(none)))
    numbers: dict[str, float] = {}
    for name in PAIR_ROWS:
        numbers |= {f"{what}, {name}": value for what, value in _row(read, rows[name], energy).items()}
    numbers[f"numbers stored, {NULL_MEAN}"] = float(read.classes)
    return numbers, curves


def _encoded(tensor: BilinearTensor, coder: TopKSAE) -> Coded:
    """All pairs by the coder's own encoder."""
    stream = pairs.stream(tensor, batch_size=4096, shuffle=False)
    chosen, codes, error = [], [], 0.0
    for n in range(len(stream)):
        vectors = stream.batch(n)
        rebuilt, values, features = coder.sparse(vectors)
        error += float((vectors - rebuilt).double().square().sum())
        chosen.append(features.to(torch.int32))
        codes.append(values)
    return Coded(coder.W_dec.detach(), coder.b_dec.detach(), torch.cat(chosen), torch.cat(codes), error)


def _mean_error(energy: float, mean: Tensor, count: int) -> float:
    return energy - count * float(mean.double().square().sum())


def _row(read: Read, coded: Coded, energy: float) -> dict[str, float]:
    """What the model loses when it is replaced by these codes of all pairs."""
    effects, shift = coded.atoms @ read.readout.T, read.readout @ coded.offset
    (values,) = kept_values(coded, effects, shift, [coded.codes.numel()])
    logits = through(read.images, values)
    score = read.score(logits)
    some = read.images[:OUTPUT_SAMPLES]
    starts = torch.arange(len(coded.codes) + 1) * coded.codes.shape[1]
    codes = PairCodes(starts, coded.chosen.flatten(), coded.codes.flatten(), len(coded.atoms), read.hidden.input)
    rebuilt = codes.rebuild(some, coded.atoms, bias=coded.offset)
    return {
        "accuracy lost": read.own.accuracy - score.accuracy,
        "recovered": recovered(score),
        "NMSE on pairs": coded.error / energy,
        "NMSE on outputs": float(sae.nmse(read.hidden(some), rebuilt)),
        "NMSE on logits": float(sae.nmse(read.answers, logits)),
        "L0": float((coded.codes != 0).sum()) / len(coded.codes),
        "numbers stored": float(codes_stored(read, len(coded.atoms), int((coded.codes != 0).sum()))),
    }


def recovered(score: Score) -> float:
    """Cross-entropy recovered; NaN where the model is no better than a guess."""
    return math.nan if score.recovered is None else score.recovered


def _by_logits(lab: Lab, read: Read, coders: Mapping[str, Mapping[Plan, TopKSAE]], seed: int) -> Iterator[Curve]:
    """Pair features of the centred logits: what the layer's outputs hold beyond them is not coded."""
    mean = _pair_values(read.logits).double().mean(dim=0).to(read.images)
    identity = torch.eye(read.classes)
    for plan in front_coders.LOGITS:
        here = plan.size(lab)
        noise = random_directions(read.classes, here.atoms, seed)
        null = functional.normalize(noise - noise.mean(dim=1, keepdim=True), dim=1)
        sources = {
            **{
                name: (functional.normalize(made[plan].W_dec, dim=1), made[plan].b_dec) for name, made in coders.items()
            },
            DRAWN: (drawn_pairs(read.logits, here.atoms, seed, mean), mean),
            RANDOM: (null, mean),
        }
        found, _ = coded(read.logits, list(sources.values()), [[here.k]] * len(sources))
        for source, (part,) in zip(sources, found, strict=True):
            beside = None if source == TRAINED else config(LOGITS, TRAINED, here.atoms, here.k)
            yield _swept(read, config(LOGITS, source, here.atoms, here.k), part, identity, beside)


def _features(space: str, *sources: str) -> tuple[str, ...]:
    return tuple(f"pair features of {space}, {source}," for source in sources)


WAYS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    SHARED: ((SHARED,), (SHARED_NULL,)),
    EIGENVECTORS: ((EIGENVECTORS,), (NEXT_DIGIT, RANDOM_VECTORS)),
    TRUNCATED: ((TRUNCATED,), (TRUNCATED_NULL,)),
    UNITS: ((UNITS,), (UNITS_NULL,)),
    ENTRIES: ((ENTRIES,), (ENTRIES_NULL,)),
    "pair features": (
        (*_features(OUTPUTS, TRAINED), *_features(LOGITS, TRAINED, BRIEF)),
        (*_features(OUTPUTS, DRAWN, RANDOM), *_features(LOGITS, DRAWN, RANDOM)),
    ),
}
"""Ways of reading: the curves that belong to each, and those of its null, by how their names begin."""

PAIR_WAYS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "of outputs, trained": (_features(OUTPUTS, TRAINED), ()),
    "of outputs, pairs drawn": (_features(OUTPUTS, DRAWN), ()),
    "of outputs, random directions": (_features(OUTPUTS, RANDOM), ()),
    "of logits, trained": (_features(LOGITS, TRAINED, BRIEF), ()),
    "of logits, pairs drawn": (_features(LOGITS, DRAWN), ()),
    "of logits, random directions": (_features(LOGITS, RANDOM), ()),
}

TARGETS = (0.9, 0.99, 0.999)
"""Shares of the cross-entropy that sizes are compared at."""

BUDGETS = (30_000, 100_000, 300_000, 1_000_000)
"""Numbers stored that ways are compared at; the layer's own besides."""


def fronts(
    seeds: Sequence[Measurement], ways: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]
) -> dict[str, tuple[list[Point], list[Point]]]:
    """The front of each way and of its null."""

    def best(prefixes: Sequence[str]) -> list[Point]:
        return front([point for prefix in prefixes for point in points(seeds, prefix)])

    return {name: (best(curves), best(nulls)) for name, (curves, nulls) in ways.items()}


def needed(found: Sequence[Point], target: float) -> float | None:
    """The fewest numbers with which the mean over seeds reaches a share; None where no point does."""
    return next((point.numbers for point in found if point.mean >= target), None)


def within(found: Sequence[Point], budget: float) -> Point | None:
    """The best point that stores no more than a budget."""
    return next((point for point in reversed(found) if point.numbers <= budget), None)


def claims(measured: Measurement) -> Sequence[Claim]:
    """The pair SAE beside its nulls, all at the same number of atoms and codes."""
    table = [
        Claim("test accuracy of the model", "accuracy", "–", ".2f", 100, " %"),
        Claim("numbers of the layer and its read-out", "numbers of the layer", "–", ",.0f"),
    ]
    for row in PAIR_ROWS:
        table += [
            Claim(f"{row}: numbers stored", f"numbers stored, {row}", "–", ",.0f"),
            Claim(f"{row}: accuracy lost", f"accuracy lost, {row}", "–", ".2f", 100, " pts"),
            Claim(f"{row}: cross-entropy recovered", f"recovered, {row}", "–", ".2f", 100, " %"),
            Claim(f"{row}: NMSE on pairs", f"NMSE on pairs, {row}", "–", ".3f"),
            Claim(
                f"{row}: NMSE on the layer's outputs, {OUTPUT_SAMPLES:,} test images",
                f"NMSE on outputs, {row}", "–", ".4f",
            ),
            Claim(f"{row}: NMSE on the logits", f"NMSE on logits, {row}", "–", ".4f"),
        ]  # fmt: skip
    return table


def figure(seeds: Sequence[Measurement], marks: Mapping[str, Point]) -> Figure:
    """Every way of reading with its null, and pair features by where their atoms come from."""
    panels = {
        "Ways of reading; their nulls dashed": fronts(seeds, WAYS),
        "Pair features, by their atoms": fronts(seeds, PAIR_WAYS),
    }
    return draw(panels, seeds[0]["numbers of the layer"], marks)


CAPTION = (
    "Cross-entropy recovered on the 10,000 test images against the numbers that each way of reading stores, 1,000 "
    "hidden units: mean over five seeds, its 95 % interval as a band, the best setting of each way at each size; each "
    "nine of the vertical axis has equal room. Dashed: the null of the same colour. Upright: the layer itself."
)


def figures(seeds: Sequence[Measurement]) -> Mapping[str, tuple[Figure, str]]:
    """None of its own: the headline is this recipe's figure."""
    return {}


def trains(seeds: Sequence[Measurement]) -> str:
    """What training the pair SAE adds over atoms drawn at random, and what it does not."""

    def said(what: str, row: str, form: str, scale: float = 1.0) -> str:
        return interval([seed[f"{what}, {row}"] for seed in seeds]).text(form, scale)

    def times(row: str) -> float:
        return interval(
            [seed[f"NMSE on outputs, {NULL_PAIRS}"] / seed[f"NMSE on outputs, {row}"] for seed in seeds]
        ).mean

    points = interval([seed[f"accuracy lost, {NULL_PAIRS}"] - seed[f"accuracy lost, {OWN}"] for seed in seeds])
    seen = "" if points.mean > points.half else ", no more than the seeds differ,"
    together, alone = times(OWN), times(REFIT)
    error = f"falls {together:.1f} times" if together > 1 else f"grows {1 / together:.1f} times"
    atoms = (
        f"better by themselves, too: that error is {alone:.1f} times smaller"
        if alone > 1
        else f"not better by themselves: that error is {1 / alone:.1f} times larger"
    )
    return (
        f"**What training adds.** The null has as many atoms and codes as the pair SAE: pair vectors drawn at random, "
        f"coded by least squares. Training adds {points.text('.2f', 100)} points of accuracy{seen} and takes the "
        f"cross-entropy recovered from {said('recovered', NULL_PAIRS, '.2f', 100)} to "
        f"{said('recovered', OWN, '.2f', 100)} %. The error on the layer's outputs {error}, from an NMSE of "
        f"{said('NMSE on outputs', NULL_PAIRS, '.4f')} to {said('NMSE on outputs', OWN, '.4f')}. The trained atoms are "
        f"{atoms} than the null's when both are coded alike."
    )


def size(seeds: Sequence[Measurement]) -> str:
    """How much the pair SAE stores, in layers."""
    times = [seed[f"numbers stored, {OWN}"] / seed["numbers of the layer"] for seed in seeds]
    return f"{interval(times).mean:.0f} times as many"


def verdict(seeds: Sequence[Measurement]) -> str:
    """Which way recovers most at the budgets, up to the layer's own size, and how often pair features do."""
    winners = {best for _, best, _ in _reached(seeds)}
    if len(winners) > 1:
        return f"At the sizes compared the best are {', '.join(sorted(winners))}."
    (best,) = winners
    never = "" if best == "pair features" else ", and pair features never reach them"
    return f"At every size up to the layer's own, {best} recover most{never}."


def budgets(seeds: Sequence[Measurement]) -> list[str]:
    """What the best way, pair features and their null recover at each budget, as a Markdown table."""
    lines = [
        "| numbers stored | best way | it recovers | pair features | never trained | pair features recover more than |",
        "|---|---|---|---|---|---|",
    ]
    for budget, best, reached in _reached(seeds):
        mine, null = reached.get("pair features"), within(fronts(seeds, WAYS)["pair features"][1], budget)
        cells = ["–" if point is None else f"{100 * point.mean:.2f} %" for point in (reached[best], mine, null)]
        below = [] if mine is None else [name for name, point in reached.items() if _more(mine, point)]
        lines.append(f"| {budget:,.0f} | {best} | {' | '.join(cells)} | {', '.join(below) or 'none'} |")
    return lines


def _reached(seeds: Sequence[Measurement]) -> list[tuple[float, str, dict[str, Point]]]:
    """For each budget the best way, and where every way comes to."""
    found, said = fronts(seeds, WAYS), []
    for budget in (*BUDGETS, seeds[0]["numbers of the layer"]):
        reached = {name: point for name, (way, _) in found.items() if (point := within(way, budget)) is not None}
        said.append((budget, max(reached, key=lambda name: reached[name].mean), reached))
    return said


def _more(mine: Point, other: Point) -> bool:
    """Whether one recovers more than another, by an interval over seeds that leaves out 0."""
    more = interval([a - b for a, b in zip(mine.recovered, other.recovered, strict=True)])
    return more.mean > (more.half if more.count > 1 else 0)


def findings(seeds: Sequence[Measurement]) -> str:
    """What each way needs, what training adds to pair features, and where they stand."""
    lines = [
        "One rule counts what is stored: a number that is kept is one, and the place of a number that is kept among "
        "many is one more. Eigenvectors store k(d + 1) numbers for each digit; shared directions, the first of the "
        "HOSVD basis of the input, d each and what each of their pairs adds to each logit; truncated SVD components "
        "their eigenpairs and their effects on the logits; whole ones are read off the layer, which stays; entries of "
        "the tensor and codes of pairs two each; atoms and offset their effects on the logits, since nothing else is "
        "needed to run the model. Everything is chosen from weights alone; nothing was fitted to images. Each way is "
        "shown at its best setting for each size, chosen on the mean of the same test scores, its null likewise. The "
        "fronts of pair features are of codes by least squares over the atoms of largest |cos|, whatever found the "
        "atoms, and of the largest codes by what they do to the logits; the trained SAE with its own encoder is a "
        "point.",
        "",
        f"{verdict(seeds)} What training adds to pair features is said at the head of this page. An interval over "
        "seeds that leaves out 0 decides the last column.",
        "",
        *budgets(seeds),
        "",
        "The fewest numbers with which the mean over seeds reaches a share of the cross-entropy (–: never):",
        "",
        f"| way of reading | {' | '.join(f'{100 * target:g} %' for target in TARGETS)} |",
        f"|---|{'---|' * len(TARGETS)}",
    ]

    def cell(found: Sequence[Point], target: float) -> str:
        count = needed(found, target)
        return "–" if count is None else f"{count:,.0f}"

    for name, (way, null) in (fronts(seeds, WAYS) | fronts(seeds, PAIR_WAYS)).items():
        title = name if name in WAYS else f"pair features {name}"
        lines.append(f"| {title} | {' | '.join(cell(way, target) for target in TARGETS)} |")
        if null:
            lines.append(f"| … its null | {' | '.join(cell(null, target) for target in TARGETS)} |")
    return "\n".join(lines)


RECIPE = Recipe(
    "front",
    "What is recovered, and what must be stored",
    lambda lab: (
        f"h = {lab.size(1000, 40)}, {lab.size(10, 6)} epochs, AdamW, lr 1e-3, weight decay 1, no noise; pair SAE: "
        f"{MAIN.size(lab).atoms:,} atoms, TopK {MAIN.size(lab).k}, {MAIN.size(lab).steps:,} updates of 1,024 pairs; "
        f"{len(lab.dataset().test.labels):,} test images."
    ),
    measure,
    claims,
    figures,
    findings,
)
