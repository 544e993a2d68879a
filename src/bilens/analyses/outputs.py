"""An SAE on the layer's outputs over the training inputs, its features read as kernels through the pseudoinverse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from bilens import decompose, sae
from bilens.analyses import _nulls as nulls
from bilens.analyses._saes import trained
from bilens.analyses.subject import MEASURE, MEASURED, Run, Subject, kept
from bilens.dictionary import Dictionary
from bilens.errors import BilensError
from bilens.faithfulness import Curve, Row
from bilens.features import CodeComparison, FeatureSet, detail, stored
from bilens.history import History
from bilens.progress import bar
from bilens.sae import Evaluation, StandardSAE

ACTIVE = 1e-3
"""A feature counts as active when its code is not 0 on more than this share of the training inputs."""
TEXT = (
    "A sparse autoencoder learned, from data, a dictionary of directions in which each output of the layer "
    "can be written with few entries. Its codes are read with the pseudoinverse instead of the trained "
    "encoder, which keeps each code a quadratic form of the input, so that every feature has an exact kernel and "
    "eigenvectors of its own."
)


def output_features(subject: Subject, run: Run) -> FeatureSet:
    """A ReLU SAE on the layer's outputs over the training inputs; its active features as kernels, by pseudoinverse."""
    tensor, budget = subject.hidden, subject.budget

    def train(coder: StandardSAE, checkpoint: Path | None) -> History:
        return sae.train(
            coder,
            sae.TensorStream(subject.train_outputs, batch_size=1024, seed=subject.seed),
            steps=budget.sae_steps,
            l1=budget.sae_l1,
            similarity=budget.sae_similarity,
            checkpoint=checkpoint,
            title="SAE on outputs",
        )

    coder = trained(run, "sae_outputs", StandardSAE(tensor.output.size, budget.sae_features, seed=subject.seed), train)
    return _read(subject, coder.to(tensor.down.dtype))


@bar("features, and the model on them")
def _read(subject: Subject, coder: StandardSAE) -> FeatureSet:
    """The features of a trained SAE."""
    tensor, budget = subject.hidden, subject.budget
    evaluation = sae.evaluate(coder, subject.train_outputs)
    active = (evaluation.frequency > ACTIVE).nonzero()[:, 0]
    if not len(active):
        raise BilensError(
            "an SAE on outputs with no active feature", "some that are active", "lower its L1 penalty (--sae-l1)"
        )
    dictionary = coder.dictionary(tensor.output, active)
    effects = dictionary.atoms @ subject.readout.T
    importance = evaluation.mean_activation[active].to(effects) * effects.norm(dim=1)
    order = importance.argsort(descending=True)
    best = order[: budget.count]
    features = tensor.read(dictionary)
    kernels = [features.kernel(int(f)) for f in best]
    spectra = [decompose.eigh(kernel) for kernel in kernels]
    found = FeatureSet(
        "sae",
        tuple(stored(spectrum) for spectrum in spectra),
        importance[best],
        MEASURE,
        effects[best],
        subject.outputs.output,
        title="Features of the layer's outputs",
        text=TEXT,
        tab="SAE on outputs",
        feature="SAE feature",
        among="active features",
        total=len(active),
        detail=detail(zip(kernels, spectra, strict=True), subject.examined),
        numbers=_numbers(evaluation, dictionary),
        notes=(
            f"SAE on outputs: {len(evaluation.frequency):,} features, L0 {evaluation.l0:.2f}, NMSE "
            f"{evaluation.nmse:.3f}, {len(active)} features active on more than {ACTIVE:.1%} of the training samples.",
        ),
        words=MEASURED,
    )
    if subject.inputs is None:
        return found
    codes = _compared(subject, coder, dictionary, active)
    measured = {"code_correlation": codes.correlation, "code_samples": codes.samples}
    found = replace(found, codes={"codes": codes}, numbers={**found.numbers, **measured})
    return found if subject.original is None else _scored(subject, found, coder, dictionary, order)


def _numbers(evaluation: Evaluation, dictionary: Dictionary) -> dict[str, float]:
    return {
        "features": len(evaluation.frequency),
        "l0": evaluation.l0,
        "samples": evaluation.rows,
        "nmse": evaluation.nmse,
        "explained_variance": evaluation.explained_variance,
        "dead_fraction": evaluation.dead_fraction,
        "active": len(dictionary.atoms),
        "active_threshold": ACTIVE,
        "active_rank": dictionary.rank,
    }


def _compared(
    subject: Subject, coder: StandardSAE, dictionary: Dictionary, active: Int[Tensor, " m"]
) -> CodeComparison:
    """Codes as trained and through the pseudoinverse."""
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


def _scored(
    subject: Subject, found: FeatureSet, coder: StandardSAE, dictionary: Dictionary, order: Int[Tensor, " m"]
) -> FeatureSet:
    """The set with its scores: ReLU codes, pseudoinverse codes, these against features kept, and what stands beside."""
    outputs, size, classes = subject.test_outputs, subject.hidden.output.size, subject.outputs.output.size
    codes = dictionary.encode(outputs)
    counts, scores = kept(len(order)), []
    for k in counts:
        some = torch.zeros_like(codes)
        some[:, order[:k]] = codes[:, order[:k]]
        scores.append(subject.score(subject.read(dictionary.decode(some))))
    # The factors stay, with a dual, what it gives of the offset, and its effects for each feature.
    factors = subject.hidden.left.numel() + subject.hidden.right.numel()

    def stored(k: int) -> int:
        return factors + k * (size + 1 + classes) + classes

    curve = Curve.of("features of the SAE on outputs", counts, scores, numbers=[stored(k) for k in counts])
    with torch.no_grad():
        relu = subject.score(subject.read(coder(outputs)))
    # ReLU codes take the factors, all rows of the encoder with their biases, and the effects of features and offset.
    trained = Row("SAE on outputs, ReLU codes", relu, factors + coder.d_sae * (coder.d_in + 1 + classes) + classes)
    features = "feature" if len(order) == 1 else "features"
    inverse = replace(
        curve.row(len(order)),
        name=f"SAE on outputs, pseudoinverse codes of {len(order)} active {features} (rank {dictionary.rank})",
        score=subject.score(subject.read(dictionary.project(outputs))),
    )
    drawn = nulls.drawn_outputs(subject, counts, stored, curve)
    principal = nulls.output_components(subject, kept(min(len(order), size)), stored, curve)
    rows = (
        trained,
        *nulls.largest_codes(subject, max(round(found.numbers["l0"]), 1), stored(size), trained),
        inverse,
        replace(nulls.row(drawn, int(drawn.kept[-1]), "null", inverse), name=f"as many {drawn.name}"),
        replace(nulls.row(principal, int(principal.kept[-1]), "rival", inverse), name=f"as many {principal.name}"),
    )
    return replace(found, curves=(curve, drawn, principal), scores=rows)
