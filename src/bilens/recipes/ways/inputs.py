"""An SAE on every input pair of the layer: features from the weights alone, and the layer replaced by them."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from bilens import decompose, pairs, sae
from bilens.checkpoint import discard
from bilens.decompose import Spectrum
from bilens.faithfulness import Curve, Row, Score
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
from bilens.recipes.ways.details import detail
from bilens.recipes.ways.subject import MEASURE, Subject
from bilens.sae import Evaluation, TopKSAE
from bilens.store import Folder
from bilens.tensor import Kernel
from bilens.views import Detail, View

PAIRS = "SAE on input pairs, all features"
"""The row of the pair features in the table of scores."""
OUTPUT_SAMPLES = 2000
"""Test images on which whole layer outputs are compared; logits, which are fewer, are compared on all of them."""
COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
"""Numbers of features at which the model is scored, before all of them."""


@dataclass(frozen=True, eq=False)
class PairFeatures:
    """What the SAE on input pairs gave: its features as explicit kernels, and the layer replaced by them.

    Args:
        view: the features; detail: more of each; evaluation: of the coder over all pairs i ≤ j.
        output_nmse: Σ‖g − ĝ‖² / Σ‖g‖² of the layer's outputs on `OUTPUT_SAMPLES` test images; None without images.
        curve: scores against features kept, all of them last, on all test images; None without images.
        nulls: rows of atoms that were never trained, as many and with as many codes per pair; none without images.
    """

    view: View
    detail: Detail
    evaluation: Evaluation
    output_nmse: float | None
    curve: Curve | None
    nulls: tuple[Row, ...]

    @property
    def score(self) -> Score | None:
        """The model with its layer replaced by all features, on all test images: where the curve ends."""
        return None if self.curve is None else self.curve.at(int(self.curve.kept[-1]))


def pair_features(subject: Subject, run: Folder) -> PairFeatures:
    """A TopK SAE on every pair vector r_ij of the layer, from the weights alone; each feature k is a kernel Φ_k."""
    tensor, budget = subject.hidden, subject.budget
    stream = pairs.stream(tensor, batch_size=1024, seed=subject.seed)
    folder = run.path / "sae_pairs"

    def train() -> History:
        width = min(budget.pair_features, max(stream.rows // 4, 1))
        coder = TopKSAE(stream.width, width, min(budget.pair_k, width), seed=subject.seed)
        checkpoint = run.path / "sae_pairs.part"
        history = sae.train(coder, stream, steps=budget.pair_steps, checkpoint=checkpoint, title="SAE on input pairs")
        coder.cpu().save_pretrained(folder)
        return history

    run.record("sae_pairs_history", History, train)
    discard(run.path / "sae_pairs.part")
    coder = TopKSAE.from_pretrained(folder)
    atoms, bias = coder.W_dec.detach(), coder.b_dec.detach()
    effects = atoms @ subject.readout.T

    @functools.cache
    def codes() -> PairCodes:
        with torch.no_grad(), bar("codes of all pairs", stream.rows) as step:
            vectors = pairs.stream(tensor, shuffle=False)
            return PairCodes.of(vectors, lambda rows: coder.sparse(rows)[1:], width=coder.d_sae, step=step)

    @functools.cache
    def importance() -> Tensor:
        moment = torch.eye(tensor.input.dim) if subject.dataset is None else subject.second_moment
        found: Tensor = codes().expectation(moment).to(effects) * effects.norm(dim=1)
        return found

    @functools.cache
    def decomposed() -> tuple[tuple[Kernel, Spectrum], ...]:
        best = importance().argsort(descending=True)[: budget.count]
        kernels = [codes().kernel(int(f), str(int(f))) for f in best]
        return tuple((kernel, decompose.eigh(kernel)) for kernel in kernels)

    def view() -> View:
        best = importance().argsort(descending=True)[: budget.count]
        measure = "Σ_i f(r_ii) × ‖effect‖" if subject.dataset is None else MEASURE
        spectra = tuple(subject.spectrum(spectrum) for _, spectrum in decomposed())
        return View("pairs", spectra, importance()[best], measure, effects[best], subject.logits.output)

    def curve() -> Curve:
        order = importance().argsort(descending=True)
        counts = [k for k in COUNTS if k < len(order)] + [len(order)]
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order))
        kept_atoms = torch.cat([effects * (rank < k).to(effects)[:, None] for k in counts], dim=1)
        inputs = tensor.input.lift(subject.data.test.images)
        shift = (subject.readout @ bias).repeat(len(counts))
        # All numbers of features in one pass over the pairs: each is a block of columns.
        logits = codes().rebuild(inputs, kept_atoms, bias=shift).reshape(len(inputs), len(counts), -1) + offset
        scores = [subject.score(logits[:, place]) for place in range(len(counts))]
        used = torch.bincount(codes().features, minlength=len(order))[order].cumsum(0)
        numbers = [codes_stored(effects.shape[1], k, int(used[k - 1])) for k in counts]
        return Curve.of("features of the SAE on input pairs", counts, scores, numbers=numbers)

    def nulls() -> tuple[Row, ...]:
        mean = mean_pair(tensor)
        count = coder.d_sae
        untrained = {
            f"{count:,} pair vectors drawn at random": drawn_pairs(tensor, count, subject.seed, mean),
            f"{count:,} random unit vectors": random_directions(coder.d_in, count, subject.seed),
        }
        with bar("codes in atoms never trained", stream.rows) as step:
            dictionaries = [(rows, mean) for rows in untrained.values()]
            found, _ = coded(tensor, dictionaries, [[coder.k]] * len(untrained), step=step)
        shift, classes = subject.readout @ mean, len(subject.readout)
        values = [part.values(part.atoms @ subject.readout.T, shift) for (part,) in found]
        values.append(shift.expand(stream.rows, classes))
        stored = [codes_stored(classes, count, part.codes.numel()) for (part,) in found] + [classes]
        inputs = tensor.input.lift(subject.data.test.images)
        logits = torch.split(through(inputs, torch.cat(values, dim=1)), classes, dim=1)
        names = [f"{name}, never trained" for name in untrained] + ["the mean pair vector alone"]
        return tuple(
            Row(name, subject.score(some + offset), numbers, "null", PAIRS)
            for name, some, numbers in zip(names, logits, stored, strict=True)
        )

    def compared() -> tuple[float, ...]:
        inputs = tensor.input.lift(subject.data.test.images[:OUTPUT_SAMPLES])
        rebuilt = codes().rebuild(inputs, atoms, bias=bias)
        return (float(sae.nmse(subject.test_outputs[: len(inputs)], rebuilt)),)

    readout_bias = subject.model.readout.bias
    offset = 0 if readout_bias is None else (readout_bias - readout_bias.mean()).detach()
    return PairFeatures(
        run.record("pairs_view", View, view),
        run.record("pairs_detail", Detail, lambda: detail(decomposed(), subject.examined)),
        run.record("pairs_evaluation", Evaluation, lambda: evaluate_pairs(tensor, codes(), coder)),
        None if subject.dataset is None else run.record("pairs_output_nmse", tuple, compared)[0],
        None if subject.dataset is None else run.record("pairs_curve", Curve, curve),
        () if subject.dataset is None else run.record("pairs_nulls", tuple, nulls),
    )
