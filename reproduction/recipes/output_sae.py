"""An SAE on the layer's outputs, its own codes against pseudoinverse codes (N5, N6, N8)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor

from bilens import faithfulness, plots, sae
from bilens.features import CodeComparison
from bilens.models import ImageClassifier
from bilens.sae import StandardSAE
from bilens.statistics import interval
from reproduction import charts
from reproduction.lab import Claim, Lab, Recipe
from reproduction.measurement import Measurement

ACTIVE = 1e-3
"""A feature counts as active when its code is not 0 on more than this share of the training images."""


@dataclass(frozen=True)
class Regime:
    """Penalties, for vectors scaled to a mean squared norm of d_in; the draft's own units are not known."""

    l1: float
    similarity: float = 10.0


REGIMES: Mapping[str, Regime] = {
    "L1 8, similarity 10": Regime(8),
    "L1 11, similarity 10": Regime(11),
    "L1 15, similarity 10": Regime(15),
    "L1 11, similarity 0": Regime(11, 0),
    "L1 11, similarity 40": Regime(11, 40),
}

MAIN = "L1 11, similarity 10"
"""The regime nearest to the draft's sparsity."""

PLAIN = "L1 11, similarity 0"
"""The same without the draft's penalty on the decoder's cosines."""

CODES = ("ReLU", "ReLU of the active", "pseudoinverse", "per sample")
"""Codes that replace the layer's outputs, in the order of the figure."""

BASELINES = ("ln 10", "mean output", "another image's output")
"""Cross-entropies that count as 0 % recovered."""

COMPARED = 20_000
"""Codes kept for the picture of one code against the other."""


def outputs(lab: Lab, seed: int) -> tuple[ImageClassifier, Tensor, Tensor]:
    """The model, and its layer's outputs on the training and the test images."""
    dataset = lab.dataset()
    model = lab.classifier(seed, hidden=lab.size(1000, 40), epochs=lab.size(10, 6))
    with torch.no_grad():
        train = torch.cat([model.hidden_outputs(part) for part in torch.split(dataset.train.images, 4096)])
        return model, train, model.hidden_outputs(dataset.test.images)


def coder(lab: Lab, seed: int, regime: str, train: Tensor) -> StandardSAE:
    """The SAE of a regime: that of the main one is kept in the folder, for recipes that compare with its features."""
    folder = lab.run.path / "models" / f"output-sae-{seed}"
    if regime == MAIN and (folder / "cfg.json").exists():
        return StandardSAE.from_pretrained(folder)
    made = StandardSAE(train.shape[1], lab.size(2000, 200), seed=seed)
    checkpoint = folder.with_name(f"{folder.name}-{list(REGIMES).index(regime)}.part")
    sae.train(
        made,
        sae.TensorStream(train, batch_size=1024, seed=seed),
        steps=lab.size(300, 100),
        l1=REGIMES[regime].l1,
        similarity=REGIMES[regime].similarity,
        checkpoint=checkpoint,
        title=f"SAE on outputs, seed {seed}, {regime}",
    )
    if regime == MAIN:
        made.cpu().save_pretrained(folder)
    checkpoint.unlink(missing_ok=True)
    return made.cpu()


def measure(lab: Lab, seed: int) -> Measurement:
    """Sparsity, error and cross-entropy recovered of every regime."""
    labels = lab.dataset().test.labels
    model, train, test = outputs(lab, seed)
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        own = faithfulness.cross_entropy(model.readout(test), labels)
        mean = model.readout(train.mean(dim=0).expand_as(test))
        others = model.readout(test[order])
    losses = (math.log(model.output.size), *(faithfulness.cross_entropy(logits, labels) for logits in (mean, others)))
    baselines = dict(zip(BASELINES, losses, strict=True))
    numbers = {"cross-entropy of the model": own, "accuracy of the model": faithfulness.accuracy(
        model.readout(test).detach(), labels)}  # fmt: skip
    numbers |= {f"cross-entropy of {name}": value for name, value in baselines.items()}
    records = []
    for regime in REGIMES:
        made = coder(lab, seed, regime, train)
        evaluation = sae.evaluate(made, train)
        active = evaluation.frequency > ACTIVE
        found = {"L0": evaluation.l0, "NMSE": evaluation.nmse, "dead": evaluation.dead_fraction}
        found |= {"ever active": float(evaluation.active.sum()), "active": float(active.sum()), "rank": 0.0}
        if bool(active.any()):
            dictionary = made.dictionary(model.hidden_tensor().output, active)
            found["rank"] = float(dictionary.rank)
            with torch.no_grad():
                codes = made.encode(test)[:, active]
                inverse = dictionary.encode(test)
                among = dictionary.encode_among(test, codes > 0)
                through = (made(test), *(dictionary.decode(part) for part in (codes, inverse, among)))
                for name, rebuilt in zip(CODES, through, strict=True):
                    found |= _scores(name, model.readout(rebuilt), labels, own, baselines)
            both = torch.stack([codes.flatten(), inverse.flatten()]).double()
            found["correlation"] = float(torch.corrcoef(both)[0, 1])
            if regime == MAIN:
                drawn = torch.randperm(codes.numel(), generator=torch.Generator().manual_seed(seed))[:COMPARED]
                pair = (both[0, drawn].float(), both[1, drawn].float())
                records.append(CodeComparison(*pair, found["correlation"], int(active.sum()), ACTIVE, dictionary.rank))
        numbers |= {f"{name}, {regime}": value for name, value in found.items()}
    return Measurement.of(numbers, (), records)


def _scores(name: str, logits: Tensor, labels: Tensor, own: float, baselines: Mapping[str, float]) -> dict[str, float]:
    loss = faithfulness.cross_entropy(logits, labels)
    recovered = {
        f"{name} recovered from {b}": faithfulness.ce_loss_score(loss, own, low) for b, low in baselines.items()
    }
    return recovered | {f"{name} accuracy": faithfulness.accuracy(logits, labels)}


def claims(measured: Measurement) -> Sequence[Claim]:
    """N5 and N6 in the regime nearest to the draft's sparsity, then the sweep."""
    active = f"features active on more than {ACTIVE:.1%} of training images"
    table = [
        Claim("SAE on outputs: L0 (N5)", f"L0, {MAIN}", "5.2"),
        Claim("SAE on outputs: MSE/‖·‖² (N5)", f"NMSE, {MAIN}", "0.28", ".3f"),
        Claim(f"{active} (N5)", f"active, {MAIN}", "87", ".0f"),
        Claim("rank of their atoms", f"rank, {MAIN}", "–", ".0f"),
        Claim("features active on any training image", f"ever active, {MAIN}", "–", ".0f"),
        Claim("cross-entropy recovered, ReLU codes (N6)", _recovered("ReLU", MAIN), "87.1", ".1f", 100, " %"),
        Claim(
            "cross-entropy recovered, ReLU codes of the active features alone",
            _recovered(CODES[1], MAIN),
            "–",
            ".1f",
            100,
            " %",
        ),
        Claim(
            "cross-entropy recovered, pseudoinverse codes of the active features (N6)",
            _recovered(CODES[2], MAIN),
            "98.1",
            ".1f",
            100,
            " %",
        ),
        Claim(
            "recovered, pseudoinverse codes of each sample's own", _recovered("per sample", MAIN), "–", ".1f", 100, " %"
        ),
        *(
            Claim(
                f"cross-entropy recovered, {name} codes, without the penalty on decoder |cos| (N8)",
                _recovered(name, PLAIN),
                "–",
                ".1f",
                100,
                " %",
            )
            for name in ("ReLU", "pseudoinverse")
        ),
        *(
            Claim(
                f"cross-entropy recovered, {name} codes, baseline {baseline}",
                f"{name} recovered from {baseline}, {MAIN}",
                "–",
                ".1f",
                100,
                " %",
            )
            for baseline in BASELINES[1:]
            for name in ("ReLU", "pseudoinverse")
        ),
        *(
            Claim(f"test accuracy, {name} codes", f"{name} accuracy, {MAIN}", "–", ".2f", 100, " %")
            for name in ("ReLU", "pseudoinverse", "per sample")
        ),
        Claim("correlation of ReLU and pseudoinverse codes", f"correlation, {MAIN}"),
        *(Claim(f"cross-entropy of {name}, nats", f"cross-entropy of {name}") for name in ("the model", *BASELINES)),
    ]
    for regime in REGIMES:
        if regime != MAIN:
            table.append(Claim(f"L0, {regime}", f"L0, {regime}"))
            table.append(Claim(f"MSE/‖·‖², {regime}", f"NMSE, {regime}", form=".3f"))
            table.append(Claim(f"{active}, {regime}", f"active, {regime}", form=".0f"))
            for name in ("ReLU", "pseudoinverse", "per sample"):
                text = f"recovered, {name} codes, {regime}"
                table.append(Claim(text, _recovered(name, regime), "–", ".1f", 100, " %"))
    return [claim for claim in table if claim.number in measured.names]


def _recovered(name: str, regime: str) -> str:
    return f"{name} recovered from ln 10, {regime}"


def figures(seeds: Sequence[Measurement]) -> Mapping[str, tuple[Figure, str]]:
    """Cross-entropy recovered by each kind of code in each regime, and one code against the other."""
    shown = [regime for regime in REGIMES if all(_recovered(CODES[0], regime) in seed.names for seed in seeds)]
    found: dict[str, tuple[Figure, str]] = {}
    if shown:
        rows = {
            regime: f"{regime}: L0 {interval([seed[f'L0, {regime}'] for seed in seeds]).mean:.1f}" for regime in shown
        }
        panels = {
            f"{name} codes": {
                rows[regime]: [100 * seed[_recovered(name, regime)] for seed in seeds] for regime in shown
            }
            for name in CODES
            if name != CODES[1]
        }
        found["outputs-recovered"] = (
            charts.dots(panels, "cross-entropy recovered, %, baseline ln 10"),
            "Cross-entropy recovered when the layer's outputs are replaced by the SAE's own codes, by pseudoinverse "
            "codes of "
            "the features that are active anywhere, and of those that the encoder activates on each sample: each seed, "
            "mean and 95 % interval.",
        )
    if seeds[0].records:
        found["outputs-codes"] = (
            plots.codes(seeds[0].records[0]),
            f"Codes of the active features as trained and through the pseudoinverse, {MAIN}, test images, first seed.",
        )
    return found


RECIPE = Recipe(
    "outputs",
    "SAE on the layer's outputs, and the pseudoinverse trick",
    lambda lab: (
        f"h = {lab.size(1000, 40)}, {lab.size(2000, 200):,} features, ReLU, both biases, unit decoder rows, L1 and the "
        f"p = 10 similarity penalty, {lab.size(300, 100)} updates of 1,024 outputs."
    ),
    measure,
    claims,
    figures,
)
