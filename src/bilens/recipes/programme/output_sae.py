"""An SAE on the layer's outputs, its own codes against pseudoinverse codes (N5, N6, N8)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from bilens import faithfulness, sae
from bilens.measurement import Measurement
from bilens.recipes.programme.lab import Claim, Lab, Recipe
from bilens.sae import StandardSAE
from bilens.statistics import interval

ACTIVE = 1e-3
"""A feature counts as active when its code is not 0 on more than this share of the training images."""

REGIMES: Mapping[str, tuple[float, float]] = {
    "L1 3, similarity 10": (3.0, 10.0),
    "L1 4.5, similarity 10": (4.5, 10.0),
    "L1 7, similarity 10": (7.0, 10.0),
    "L1 4.5, no similarity": (4.5, 0.0),
}
"""Penalties, for vectors scaled to a mean squared norm of d_in; the draft's own units are not known."""

MAIN = "L1 4.5, similarity 10"


def measure(lab: Lab, seed: int) -> Measurement:
    """Sparsity, error and cross-entropy recovered of every regime."""
    dataset = lab.dataset()
    model = lab.classifier(seed, hidden=lab.size(1000, 60), epochs=lab.size(10, 6))
    tensor, labels = model.hidden_tensor(), dataset.test.labels
    with torch.no_grad():
        train = torch.cat([model.hidden_outputs(part) for part in torch.split(dataset.train.images, 4096)])
        test = model.hidden_outputs(dataset.test.images)
        own = faithfulness.cross_entropy(model.readout(test), labels)
        mean = faithfulness.cross_entropy(model.readout(train.mean(dim=0).expand_as(test)), labels)
    baselines = {"ln 10": math.log(model.output.size), "mean output": mean}
    numbers = {"cross-entropy of the model": own, "cross-entropy of the mean output": mean}
    for regime, (l1, similarity) in REGIMES.items():
        coder = StandardSAE(tensor.output.size, lab.size(2000, 200), seed=seed)
        checkpoint = lab.run.path / "models" / f"output-sae-{seed}-{l1:g}-{similarity:g}.part"
        sae.train(
            coder,
            sae.TensorStream(train, batch_size=1024, seed=seed),
            steps=lab.size(500, 100),
            l1=l1,
            similarity=similarity,
            checkpoint=checkpoint,
            title=f"SAE on outputs, seed {seed}, {regime}",
        )
        coder.cpu()
        evaluation = sae.evaluate(coder, train)
        active = evaluation.frequency > ACTIVE
        found = {"L0": evaluation.l0, "NMSE": evaluation.nmse, "dead": evaluation.dead_fraction}
        found |= {"active": float(active.sum()), "rank": 0.0}
        if bool(active.any()):
            dictionary = coder.dictionary(tensor.output, active)
            found["rank"] = float(dictionary.rank)
            with torch.no_grad():
                codes = coder.encode(test)[:, active]
                inverse = dictionary.encode(test)
                among = dictionary.encode_among(test, codes > 0)
                runs = {
                    "ReLU": coder(test),
                    "ReLU of the active": dictionary.decode(codes),
                    "pseudoinverse": dictionary.decode(inverse),
                    "per sample": dictionary.decode(among),
                }
                for name, outputs in runs.items():
                    found |= _scores(name, model.readout(outputs), labels, own, baselines)
            found["correlation"] = float(
                torch.corrcoef(torch.stack([codes.flatten(), inverse.flatten()]).double())[0, 1]
            )
        numbers |= {f"{name}, {regime}": value for name, value in found.items()}
        checkpoint.unlink(missing_ok=True)
    return Measurement.of(numbers)


def _scores(name: str, logits: Tensor, labels: Tensor, own: float, baselines: Mapping[str, float]) -> dict[str, float]:
    loss = faithfulness.cross_entropy(logits, labels)
    recovered = {
        f"{name} recovered from {b}": faithfulness.ce_loss_score(loss, own, low) for b, low in baselines.items()
    }
    return recovered | {f"{name} accuracy": faithfulness.accuracy(logits, labels)}


def claims(measured: Measurement) -> Sequence[Claim]:
    """N5 and N6 in the regime nearest to the draft's sparsity, then the sweep."""
    table = [
        Claim("SAE on outputs: L0 (N5)", f"L0, {MAIN}", "5.2"),
        Claim("SAE on outputs: MSE/‖·‖² (N5)", f"NMSE, {MAIN}", "0.28", ".3f"),
        Claim(f"features active on more than {ACTIVE:.1%} of images (N5)", f"active, {MAIN}", "87 of 2,000", ".0f"),
        Claim("rank of their atoms", f"rank, {MAIN}", "–", ".0f"),
        Claim("cross-entropy recovered, ReLU codes (N6)", _recovered("ReLU", MAIN), "87.1", ".1f", 100, " %"),
        Claim(
            "… pseudoinverse codes of the active features (N6)",
            _recovered("pseudoinverse", MAIN),
            "98.1",
            ".1f",
            100,
            " %",
        ),
        Claim("… pseudoinverse codes of each sample's own", _recovered("per sample", MAIN), "–", ".1f", 100, " %"),
        Claim("correlation of ReLU and pseudoinverse codes", f"correlation, {MAIN}"),
    ]
    for regime in REGIMES:
        if regime != MAIN:
            table.append(Claim(f"L0, {regime}", f"L0, {regime}"))
            for name in ("ReLU", "pseudoinverse", "per sample"):
                text = f"recovered, {name} codes, {regime}"
                table.append(Claim(text, _recovered(name, regime), "–", ".1f", 100, " %"))
    return [claim for claim in table if claim.number in measured.names]


def _recovered(name: str, regime: str) -> str:
    return f"{name} recovered from ln 10, {regime}"


def figures(seeds: Sequence[Measurement]) -> Mapping[str, tuple[Figure, str]]:
    """None: the table says it all."""
    return {}


def findings(seeds: Sequence[Measurement]) -> str:
    """How much of what the ReLU codes lose the pseudoinverse codes of the same features recover."""
    if not all(_recovered("pseudoinverse", MAIN) in seed.names for seed in seeds):
        return f"With {MAIN} no feature is active on more than {ACTIVE:.1%} of the images in some seed."
    said = {
        name: interval([seed[_recovered(name, MAIN)] for seed in seeds]).text(".1f", 100)
        for name in ("ReLU", "ReLU of the active", "pseudoinverse", "per sample")
    }
    mean = interval([seed[f"pseudoinverse recovered from mean output, {MAIN}"] for seed in seeds]).text(".1f", 100)
    return (
        f"With {MAIN}, ReLU codes recover {said['ReLU']} % of the cross-entropy (baseline ln 10; "
        f"{said['ReLU of the active']} % by the active features alone), and pseudoinverse codes of the same active "
        f"features {said['pseudoinverse']} % ({mean} % from the baseline of the mean output). Restricted to the "
        f"features that the encoder lights on each sample, least squares recovers {said['per sample']} %: the "
        "rest of the gain is from codes that the encoder sets to 0. Atoms of that rank give a projection of the "
        "outputs, so the pseudoinverse measures what the atoms span, not how sparse the codes are."
    )


RECIPE = Recipe(
    "outputs",
    "SAE on the layer's outputs, and the pseudoinverse trick",
    lambda lab: (
        f"h = {lab.size(1000, 60)}, {lab.size(2000, 200):,} features, ReLU, both biases, unit decoder rows, L1 and the "
        f"p = 10 similarity penalty, {lab.size(500, 100)} updates of 1,024 outputs."
    ),
    measure,
    claims,
    figures,
    findings,
)
