"""An SAE on every input pair of the layer: features from the weights alone, and the model run through them."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

from bilens import decompose, pairs, sae
from bilens.faithfulness import Score
from bilens.history import History
from bilens.pairs import PairCodes
from bilens.progress import bar
from bilens.recipes.pair_coder import evaluate_pairs
from bilens.recipes.ways.subject import MEASURE, Subject
from bilens.sae import Evaluation, TopKSAE
from bilens.store import Folder
from bilens.views import View

OUTPUT_SAMPLES = 2000
"""Test images on which whole layer outputs are compared; logits are compared on all of them."""


@dataclass(frozen=True, eq=False)
class PairFeatures:
    """What the SAE on input pairs gave: its features as explicit kernels, and the model run through them.

    Args:
        view: the features; evaluation: of the coder over all pairs i ≤ j.
        score: of the model run through the features, on all test images; None without images.
        output_nmse: Σ‖g − ĝ‖² / Σ‖g‖² of the layer's outputs on `OUTPUT_SAMPLES` test images; None without images.
    """

    view: View
    evaluation: Evaluation
    score: Score | None
    output_nmse: float | None


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
    (run.path / "sae_pairs.part").unlink(missing_ok=True)
    coder = TopKSAE.from_pretrained(folder)
    atoms, bias = coder.W_dec.detach(), coder.b_dec.detach()
    effects = atoms @ subject.readout.T

    @functools.cache
    def codes() -> PairCodes:
        with torch.no_grad(), bar("codes of all pairs", stream.rows) as step:
            vectors = pairs.stream(tensor, shuffle=False)
            return PairCodes.of(vectors, lambda rows: coder.sparse(rows)[1:], width=coder.d_sae, step=step)

    def view() -> View:
        if subject.dataset is None:
            means = codes().expectation(torch.eye(tensor.input.dim))
            measure = "Σ_i f(r_ii) × ‖effect‖"
        else:
            means = codes().expectation(subject.second_moment)
            measure = MEASURE
        importance = means.to(effects) * effects.norm(dim=1)
        best = importance.argsort(descending=True)[: budget.count]
        spectra = tuple(subject.spectrum(decompose.eigh(codes().kernel(int(f), str(int(f))))) for f in best)
        return View("pairs", spectra, importance[best], measure, effects[best], subject.logits.output)

    def score() -> Score:
        inputs = tensor.input.lift(subject.data.test.images)
        logits = codes().rebuild(inputs, atoms @ subject.readout.T, bias=subject.readout @ bias)
        return subject.score(logits + offset)

    def compared() -> tuple[float, ...]:
        inputs = tensor.input.lift(subject.data.test.images[:OUTPUT_SAMPLES])
        through = codes().rebuild(inputs, atoms, bias=bias)
        return (float(sae.nmse(subject.test_outputs[: len(inputs)], through)),)

    readout_bias = subject.model.readout.bias
    offset = 0 if readout_bias is None else (readout_bias - readout_bias.mean()).detach()
    return PairFeatures(
        run.record("pairs_view", View, view),
        run.record("pairs_evaluation", Evaluation, lambda: evaluate_pairs(tensor, codes(), coder)),
        None if subject.dataset is None else run.record("pairs_score", Score, score),
        None if subject.dataset is None else run.record("pairs_output_nmse", tuple, compared)[0],
    )
