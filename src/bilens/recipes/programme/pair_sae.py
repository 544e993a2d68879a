"""An SAE over the pair vectors of the layer, and the model run through its features (N7)."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure

from bilens import faithfulness, pairs, sae
from bilens.measurement import Measurement
from bilens.pairs import PairCodes
from bilens.recipes.programme.lab import Claim, Lab, Recipe
from bilens.sae import Coder, StandardSAE, TopKSAE
from bilens.statistics import interval

VARIANTS = ("r_ij, TopK, h = 1000", "r_ij, TopK, h = 300", "u_ij, TopK, h = 300", "r_ij, ReLU and L1, h = 300")

L1 = 6.0
"""L1 penalty of the ReLU coder, for vectors scaled to a mean squared norm of d_in."""

OUTPUT_SAMPLES = 2000
"""Test images on which whole layer outputs are compared; logits are compared on all of them."""


def measure(lab: Lab, seed: int) -> Measurement:
    """Sparsity and error on pairs, and the model through the features, for every variant."""
    numbers: dict[str, float] = {}
    for variant in VARIANTS:
        found = _variant(lab, seed, variant)
        numbers |= {f"{name}, {variant}": value for name, value in found.items()}
    return Measurement.of(numbers)


def _variant(lab: Lab, seed: int, variant: str) -> dict[str, float]:
    test = lab.dataset().test
    hidden = lab.size(1000, 60) if "1000" in variant else lab.size(300, 40)
    model = lab.classifier(seed, hidden=hidden, epochs=lab.size(10, 6))
    tensor = model.hidden_tensor()
    two_hot = variant.startswith("u_ij")
    stream = (pairs.two_hot_stream if two_hot else pairs.stream)(tensor, batch_size=1024, seed=seed)
    features = lab.size(5000, 500)
    coder: Coder = (
        TopKSAE(stream.width, features, 30, seed=seed)
        if "TopK" in variant
        else StandardSAE(stream.width, features, seed=seed)
    )
    checkpoint = lab.run.path / "models" / f"pair-sae-{seed}-{VARIANTS.index(variant)}.part"
    sae.train(
        coder,
        stream,
        steps=lab.size(1100, 60),
        l1=0.0 if "TopK" in variant else L1,
        checkpoint=checkpoint,
        title=f"SAE on pairs, seed {seed}, {variant}",
    )
    coder.cpu()
    evaluation = sae.evaluate(coder, stream)
    found = {
        "L0": evaluation.l0,
        "NMSE on pairs": evaluation.nmse,
        "explained variance on pairs": evaluation.explained_variance,
        "dead": evaluation.dead_fraction,
    }
    atoms, bias = coder.W_dec.detach(), coder.b_dec.detach()
    weight = model.readout.weight
    with torch.no_grad():
        encode = functools.partial(PairCodes.of_two_hot if two_hot else PairCodes.of, tensor, coder.encode)
        codes = encode()
        inputs = tensor.input.lift(test.images)
        run = functools.partial(codes.rebuild_two_hot if two_hot else codes.rebuild, bias=bias)
        logits = run(inputs, atoms @ weight.T, bias=bias @ weight.T)
        some = inputs[:OUTPUT_SAMPLES]
        outputs = model.hidden_outputs(test.images[:OUTPUT_SAMPLES])
        found["NMSE on outputs"] = float(sae.nmse(outputs, run(some, atoms)))
        found["NMSE on outputs without the bias term"] = float(sae.nmse(outputs, run(some, atoms, bias=0 * bias)))
        own = model.readout(model.hidden_outputs(test.images))
    loss, through = (faithfulness.cross_entropy(value, test.labels) for value in (own, logits))
    accuracy, kept = (faithfulness.accuracy(value, test.labels) for value in (own, logits))
    checkpoint.unlink(missing_ok=True)
    return found | {
        "accuracy of the model": accuracy,
        "accuracy": kept,
        "accuracy lost": accuracy - kept,
        "recovered": faithfulness.ce_loss_score(through, loss, math.log(model.output.size)),
    }


def claims(measured: Measurement) -> Sequence[Claim]:
    """N7 at the draft's size, then every variant side by side."""
    main = VARIANTS[0]
    table = [
        Claim("SAE over pairs: L0 (N7)", f"L0, {main}", "30.4", ".1f"),
        Claim("SAE over pairs: MSE/‖·‖² on pairs (N7)", f"NMSE on pairs, {main}", "0.29", ".3f"),
        Claim("SAE over pairs: features that are 0 on every pair (N7)", f"dead, {main}", "29", ".1f", 100, " %"),
        Claim("the model through the pair features: accuracy lost", f"accuracy lost, {main}", "–", ".2f", 100, " pts"),
        Claim("… cross-entropy recovered", f"recovered, {main}", "–", ".2f", 100, " %"),
        Claim("… NMSE on the layer's outputs", f"NMSE on outputs, {main}", "–", ".4f"),
        Claim("… without (Σx)² b_dec", f"NMSE on outputs without the bias term, {main}", "–", ".2f"),
    ]
    for variant in VARIANTS[1:]:
        table += [
            Claim(f"L0, {variant}", f"L0, {variant}", "–", ".1f"),
            Claim(f"NMSE on pairs, {variant}", f"NMSE on pairs, {variant}", "–", ".3f"),
            Claim(f"NMSE on outputs, {variant}", f"NMSE on outputs, {variant}", "–", ".4f"),
            Claim(f"accuracy lost, {variant}", f"accuracy lost, {variant}", "–", ".2f", 100, " pts"),
            Claim(f"cross-entropy recovered, {variant}", f"recovered, {variant}", "–", ".2f", 100, " %"),
        ]
    return table


def figures(seeds: Sequence[Measurement]) -> Mapping[str, tuple[Figure, str]]:
    """None: the table says it all."""
    return {}


def findings(seeds: Sequence[Measurement]) -> str:
    """Whether features that saw no data carry the model."""
    main = VARIANTS[0]

    def text(number: str, form: str, scale: float = 1.0) -> str:
        return interval([seed[f"{number}, {main}"] for seed in seeds]).text(form, scale)

    return (
        "Run through the pair features, which saw no image, the model loses "
        f"{text('accuracy lost', '.2f', 100)} points of accuracy and keeps {text('recovered', '.2f', 100)} % of its "
        f"cross-entropy, with L0 {text('L0', '.1f')} and NMSE {text('NMSE on pairs', '.3f')} on pairs but "
        f"{text('NMSE on outputs', '.4f')} on outputs: errors on single pairs average out in a sum over many. "
        "The bias term (Σx)² b_dec is needed: without it the NMSE on outputs is "
        f"{text('NMSE on outputs without the bias term', '.2f')}. The draft's two-hot vectors u_ij rebuild g only "
        "after polarisation, r_ij = ½(u_ij − ¼u_ii − ¼u_jj), which is how they are scored here."
    )


RECIPE = Recipe(
    "pairs",
    "SAE over input pairs, and the model run through it",
    lambda lab: (
        f"{lab.size(5000, 500):,} features, TopK 30 or ReLU with L1 {L1:g}, {lab.size(1100, 60):,} updates of 1,024 "
        "pairs, drawn uniformly from i ≤ j."
    ),
    measure,
    claims,
    figures,
    findings,
)
