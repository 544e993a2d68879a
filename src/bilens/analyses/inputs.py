"""An SAE on the layer's input pairs, from the weights alone; each of its features is a kernel over the inputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from bilens import decompose, pairs, sae
from bilens.analyses._saes import trained
from bilens.analyses.subject import MEASURE, MEASURED, Run, Subject
from bilens.faithfulness import Curve, Row
from bilens.features import FeatureSet, detail, stored
from bilens.history import History
from bilens.pair_coding import (
    coded,
    codes_stored,
    drawn_pairs,
    evaluate_pairs,
    mean_pair,
    random_directions,
    through,
)
from bilens.pairs import PairCodes
from bilens.progress import bar
from bilens.sae import Evaluation, TopKSAE

ALL = "SAE on input pairs, all features"
"""The row of the pair features in the table of scores."""
OUTPUT_SAMPLES = 2000
"""Inputs on which whole layer outputs are compared; scores, which need less memory, are measured on all of them."""
COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
"""Numbers of features at which the model is scored, before all of them."""
TEXT = (
    "The layer answers every two inputs i and j with a vector r_ij, which is what the pair brings about "
    "together, and a sparse autoencoder over all these vectors, again from the weights alone, finds "
    "directions that few pairs share. How strongly each pair takes part in a feature is itself a kernel over "
    "the inputs, drawn here."
)


def pair_features(subject: Subject, run: Run) -> FeatureSet:
    """A TopK SAE on every pair vector r_ij of the layer, from the weights alone; each feature k is a kernel Φ_k."""
    tensor, budget = subject.hidden, subject.budget
    stream = pairs.stream(tensor, batch_size=1024, seed=subject.seed)
    width = min(budget.pair_features, max(stream.rows // 4, 1))

    def train(coder: TopKSAE, checkpoint: Path | None) -> History:
        title = "SAE on input pairs"
        return sae.train(coder, stream, steps=budget.pair_steps, checkpoint=checkpoint, title=title)

    untrained = TopKSAE(stream.width, width, min(budget.pair_k, width), seed=subject.seed)
    coder = trained(run, "sae_pairs", untrained, train).to(tensor.down.dtype)
    with torch.no_grad(), bar("codes of all pairs", stream.rows) as step:
        vectors = pairs.stream(tensor, shuffle=False)
        codes = PairCodes.of(vectors, lambda rows: coder.sparse(rows)[1:], width=coder.d_sae, step=step)
    nulls: tuple[Row, ...] = ()
    if subject.original is not None:
        nulls = run.record("pairs_nulls", tuple, lambda: _nulls(subject, coder))
    return _read(subject, coder, codes, nulls)


@bar("features, and the model on them")
def _read(subject: Subject, coder: TopKSAE, codes: PairCodes, nulls: tuple[Row, ...]) -> FeatureSet:
    """The features of a trained SAE, whose codes of all pairs and whose nulls are known."""
    tensor, budget = subject.hidden, subject.budget
    effects = coder.W_dec.detach() @ subject.readout.T
    moment = torch.eye(tensor.input.dim) if subject.inputs is None else subject.second_moment
    importance = codes.expectation(moment).to(effects) * effects.norm(dim=1)
    order = importance.argsort(descending=True)
    best = order[: budget.count]
    kernels = [codes.kernel(int(f), str(int(f))) for f in best]
    spectra = [decompose.eigh(kernel) for kernel in kernels]
    evaluation = evaluate_pairs(tensor, codes, coder)
    found = FeatureSet(
        "pairs",
        tuple(stored(spectrum) for spectrum in spectra),
        importance[best],
        "Σ_i f(r_ii) × ‖effect‖" if subject.inputs is None else MEASURE,
        effects[best],
        subject.outputs.output,
        title="Features of input pairs",
        text=TEXT,
        tab="SAE on pairs",
        feature="Pair feature",
        total=len(evaluation.frequency),
        detail=detail(zip(kernels, spectra, strict=True), subject.examined),
        numbers=_numbers(evaluation),
        words={} if subject.inputs is None else MEASURED,
    )
    note = (
        f"SAE on input pairs: {evaluation.rows:,} pair vectors, {len(evaluation.frequency):,} features, L0 "
        f"{evaluation.l0:.1f}, NMSE {evaluation.nmse:.3f}, {evaluation.dead_fraction:.0%} of the features never active."
    )
    if subject.inputs is not None:
        inputs = tensor.input.fold(subject.given[:OUTPUT_SAMPLES])
        rebuilt = codes.rebuild(inputs, coder.W_dec.detach(), bias=coder.b_dec.detach())
        error = float(sae.nmse(subject.test_outputs[: len(inputs)], rebuilt))
        measured = {"output_nmse": error, "output_nmse_samples": len(inputs)}
        found = replace(found, numbers={**found.numbers, **measured})
        note += f" Its reconstruction of the layer's outputs on {len(inputs)} test samples: NMSE {error:.3f}."
    found = replace(found, notes=(note,))
    if subject.original is None:
        return found
    curve = _curve(subject, coder, codes, order)
    whole = replace(curve.row(len(order)), name=ALL)
    rivals = {"svd": subject.budget.pair_k}  # as many components as a pair may have codes
    return replace(found, curves=(curve,), scores=(whole, *nulls), rivals=rivals)


def _numbers(evaluation: Evaluation) -> dict[str, float]:
    return {
        "pairs": evaluation.rows,
        "features": len(evaluation.frequency),
        "l0": evaluation.l0,
        "nmse": evaluation.nmse,
        "explained_variance": evaluation.explained_variance,
        "dead_fraction": evaluation.dead_fraction,
    }


def _curve(subject: Subject, coder: TopKSAE, codes: PairCodes, order: Tensor) -> Curve:
    """Scores against features kept, all of them last."""
    effects = coder.W_dec.detach() @ subject.readout.T
    counts = [k for k in COUNTS if k < len(order)] + [len(order)]
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    kept_atoms = torch.cat([effects * (rank < k).to(effects)[:, None] for k in counts], dim=1)
    inputs = subject.hidden.input.fold(subject.given)
    shift = (subject.readout @ coder.b_dec.detach()).repeat(len(counts))
    # All numbers of features in one pass over the pairs: each is a block of columns.
    outputs = codes.rebuild(inputs, kept_atoms, bias=shift).reshape(len(inputs), len(counts), -1) + subject.offset
    scores = [subject.score(outputs[:, place]) for place in range(len(counts))]
    used = torch.bincount(codes.features, minlength=len(order))[order].cumsum(0)
    numbers = [codes_stored(effects.shape[1], k, int(used[k - 1])) for k in counts]
    return Curve.of("features of the SAE on input pairs", counts, scores, numbers=numbers)


def _nulls(subject: Subject, coder: TopKSAE) -> tuple[Row, ...]:
    """Rows of atoms that were never trained, as many and with as many codes per pair."""
    tensor, count = subject.hidden, coder.d_sae
    mean = mean_pair(tensor)
    untrained: dict[str, Float[Tensor, "m h"]] = {
        f"{count:,} pair vectors drawn at random": drawn_pairs(tensor, count, subject.seed, mean),
        f"{count:,} random unit vectors": random_directions(coder.d_in, count, subject.seed).to(mean),
    }
    rows = pairs.stream(tensor, shuffle=False).rows
    with bar("codes in atoms never trained", rows) as step:
        dictionaries = [(atoms, mean) for atoms in untrained.values()]
        found, _ = coded(tensor, dictionaries, [[coder.k]] * len(untrained), step=step)
    shift, classes = subject.readout @ mean, len(subject.readout)
    values = [part.values(part.atoms @ subject.readout.T, shift) for (part,) in found]
    values.append(shift.expand(rows, classes))
    stored_each = [codes_stored(classes, count, part.codes.numel()) for (part,) in found] + [classes]
    inputs = tensor.input.fold(subject.given)
    outputs = torch.split(through(inputs, torch.cat(values, dim=1)), classes, dim=1)
    names = [f"{name}, never trained" for name in untrained] + ["the mean pair vector alone"]
    return tuple(
        Row(name, subject.score(some + subject.offset), numbers, "null", ALL)
        for name, some, numbers in zip(names, outputs, stored_each, strict=True)
    )


__all__ = ["ALL", "OUTPUT_SAMPLES", "pair_features"]
