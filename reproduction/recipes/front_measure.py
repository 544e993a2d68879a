"""Every way of reading one model at many sizes, each beside its null."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from bilens import decompose, matching, pairs, sae
from bilens.faithfulness import Curve, Score
from bilens.pair_coding import Coded, coded, drawn_pairs, mean_pair, random_directions, through
from bilens.pairs import PairCodes
from bilens.sae import TopKSAE
from bilens.tensor import BilinearTensor
from reproduction.lab import Lab
from reproduction.measurement import Measurement
from reproduction.methods import squares
from reproduction.recipes import front_coders
from reproduction.recipes.front_coders import MAIN, Plan
from reproduction.recipes.front_read import (
    BRIEF,
    COMPONENTS,
    COMPONENTS_NULL,
    DRAWN,
    EIGENVECTORS,
    ENTRIES,
    ENTRIES_NULL,
    LOGITS,
    NEXT_DIGIT,
    NULL_MEAN,
    NULL_PAIRS,
    NULL_RANDOM,
    OUTPUT_SAMPLES,
    OUTPUTS,
    OWN,
    PAIR_ROWS,
    RANDOM,
    RANDOM_VECTORS,
    REFIT,
    SHARED,
    SHARED_NULL,
    TRAINED,
    TRUNCATED,
    TRUNCATED_NULL,
    UNITS,
    UNITS_NULL,
    Read,
    codes_stored,
    components_stored,
    config,
    entries_stored,
    shared_stored,
    units_stored,
    vectors_stored,
)

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
            fits = [squares.squares(kernel, v[:k]) for kernel, v in zip(kernels, rows, strict=True)]
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
        beside = None if name == SHARED else SHARED
        yield among(read, name, rows, kept, beside)


def among(read: Read, name: str, rows: Float[Tensor, "m d"], kept: list[int], beside: str | None = None) -> Curve:
    """The layer between the first k of some orthonormal directions, for each k."""
    codes = read.images @ rows.T
    # On the span of the rows the layer is itself, so that projected images are all that is needed.
    scores = [read.score(read.logits(codes[:, :k] @ rows[:k])) for k in kept]
    return Curve.of(name, kept, scores, numbers=[shared_stored(read, k) for k in kept], beside=beside)


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
    rows[OWN] = encoded(read.hidden, coders[MAIN])
    none = torch.zeros(pairs.count(read.hidden.input.dim), 1)
    rows[NULL_MEAN] = Coded(mean[None], mean, none.int(), none, _mean_error(energy, mean, len(none)))
    numbers: dict[str, float] = {}
    for name in PAIR_ROWS:
        numbers |= {f"{what}, {name}": value for what, value in replaced(read, rows[name], energy).items()}
    numbers[f"numbers stored, {NULL_MEAN}"] = float(read.classes)
    return numbers, curves


def encoded(tensor: BilinearTensor, coder: TopKSAE) -> Coded:
    """All pairs by the SAE's own encoder."""
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


def replaced(read: Read, coded: Coded, energy: float) -> dict[str, float]:
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
