"""An SAE on the layer's outputs over the training images, its features read as kernels through the pseudoinverse."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

from bilens import decompose, sae
from bilens.checkpoint import discard
from bilens.decompose import Spectrum
from bilens.errors import BilensError
from bilens.faithfulness import Curve, Score
from bilens.history import History
from bilens.recipes.ways.details import detail
from bilens.recipes.ways.subject import MEASURE, Subject, kept
from bilens.sae import Evaluation, StandardSAE
from bilens.store import Folder
from bilens.tensor import Kernel
from bilens.views import CodeComparison, Detail, View

ACTIVE = 1e-3
"""A feature counts as active when its code is not 0 on more than this share of the training images."""


@dataclass(frozen=True, eq=False)
class OutputFeatures:
    """What the SAE on the layer's outputs gave: features through the pseudoinverse, and how faithful its codes are.

    `stored` is how many numbers its ReLU codes take: the factors, every encoder's row with its bias, and the effects of
    every feature and of the offset.
    """

    view: View
    detail: Detail
    evaluation: Evaluation
    comparison: CodeComparison
    trained: Score
    pseudoinverse: Score
    curve: Curve
    stored: int


def output_features(subject: Subject, run: Folder) -> OutputFeatures:
    """A ReLU SAE on the layer's outputs over the training images; its active features as kernels, by pseudoinverse."""
    tensor, budget = subject.hidden, subject.budget
    folder = run.path / "sae_outputs"

    def train() -> History:
        coder = StandardSAE(tensor.output.size, budget.sae_features, seed=subject.seed)
        history = sae.train(
            coder,
            sae.TensorStream(subject.train_outputs, batch_size=1024, seed=subject.seed),
            steps=budget.sae_steps,
            l1=budget.sae_l1,
            similarity=budget.sae_similarity,
            checkpoint=run.path / "sae_outputs.part",
            title="SAE on outputs",
        )
        coder.cpu().save_pretrained(folder)
        return history

    run.record("sae_outputs_history", History, train)
    discard(run.path / "sae_outputs.part")
    coder = StandardSAE.from_pretrained(folder)
    evaluation = run.record("sae_evaluation", Evaluation, lambda: sae.evaluate(coder, subject.train_outputs))
    active = (evaluation.frequency > ACTIVE).nonzero()[:, 0]
    if not len(active):
        raise BilensError(
            "an SAE on outputs with no active feature", "some that are active", "lower its L1 penalty (--sae-l1)"
        )
    dictionary = coder.dictionary(tensor.output, active)
    effects = dictionary.atoms @ subject.readout.T

    classes = len(subject.readout)
    importance = evaluation.mean_activation[active].to(effects) * effects.norm(dim=1)
    order = importance.argsort(descending=True)
    best = order[: budget.count]

    @functools.cache
    def decomposed() -> tuple[tuple[Kernel, Spectrum], ...]:
        features = tensor.read(dictionary)
        kernels = [features.kernel(int(f)) for f in best]
        return tuple((kernel, decompose.eigh(kernel)) for kernel in kernels)

    def view() -> View:
        spectra = tuple(subject.spectrum(spectrum) for _, spectrum in decomposed())
        return View("sae", spectra, importance[best], MEASURE, effects[best], subject.logits.output)

    def curve() -> Curve:
        codes = dictionary.encode(subject.test_outputs)
        counts, scores = kept(len(order)), []
        for k in counts:
            some = torch.zeros_like(codes)
            some[:, order[:k]] = codes[:, order[:k]]
            scores.append(subject.score(subject.read(dictionary.decode(some))))
        # The factors stay, with a dual, what it gives of the offset, and its effects for each feature.
        factors = tensor.left.numel() + tensor.right.numel()
        numbers = [factors + k * (tensor.output.size + 1 + classes) + classes for k in counts]
        return Curve.of("features of the SAE on outputs", counts, scores, numbers=numbers)

    def comparison() -> CodeComparison:
        with torch.no_grad():
            trained = coder.encode(subject.test_outputs)[:, active]
        inverse = dictionary.encode(subject.test_outputs)
        both = torch.stack([trained.flatten(), inverse.flatten()]).double()
        correlation = float(torch.corrcoef(both)[0, 1])
        generator = torch.Generator().manual_seed(subject.seed)
        drawn = torch.randperm(trained.numel(), generator=generator)[:20000]
        return CodeComparison(
            both[0, drawn].float(),
            both[1, drawn].float(),
            correlation,
            len(active),
            ACTIVE,
            dictionary.rank,
            len(subject.test_outputs),
        )

    def trained() -> Score:
        with torch.no_grad():
            return subject.score(subject.read(coder(subject.test_outputs)))

    return OutputFeatures(
        run.record("sae_view", View, view),
        run.record("sae_detail", Detail, lambda: detail(decomposed(), subject.examined)),
        evaluation,
        run.record("sae_codes", CodeComparison, comparison),
        run.record("sae_score", Score, trained),
        run.record(
            "sae_pseudoinverse_score",
            Score,
            lambda: subject.score(subject.read(dictionary.project(subject.test_outputs))),
        ),
        run.record("sae_curve", Curve, curve),
        tensor.left.numel() + tensor.right.numel() + coder.d_sae * (coder.d_in + 1 + classes) + classes,
    )
