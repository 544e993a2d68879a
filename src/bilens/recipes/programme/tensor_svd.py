"""SVD of the layer's tensor: accuracy through its top components, and whether seeds agree on them (N1, N2, N3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure

from bilens import decompose, faithfulness, matching, plots
from bilens.decompose import TensorSVD
from bilens.faithfulness import Curve
from bilens.measurement import Measurement
from bilens.models import ImageClassifier
from bilens.recipes.programme.lab import Claim, Lab, Recipe
from bilens.statistics import interval
from bilens.tensor import BilinearTensor

KEPT = (1, 2, 3, 5, 8, 10, 15, 20, 30, 40, 50, 75, 100, 150, 200)

COMPARED = 20
"""Components that are compared between seeds."""

REGIMES = {"batch 100, step": (100, "step"), "batch 512, step": (512, "step"), "batch 512, cosine": (512, "cosine")}
"""Batch size and schedule, to find which of them the drop depends on."""


def _classifier(lab: Lab, seed: int, batch_size: int, schedule: str) -> ImageClassifier:
    return lab.classifier(
        seed, hidden=lab.size(1000, 60), epochs=lab.size(10, 6), batch_size=batch_size, schedule=schedule
    )


def _curve(lab: Lab, name: str, model: ImageClassifier, svd: TensorSVD) -> tuple[Curve, float]:
    """The scores of the first K components on the test images, and the model's own accuracy."""
    test = lab.dataset().test
    with torch.no_grad():
        outputs = model.hidden_outputs(test.images)
        own = model.readout(outputs)
        loss = faithfulness.cross_entropy(own, test.labels)
        kept = [k for k in KEPT if k <= len(svd)]
        scores = []
        for k in kept:
            directions = svd.outputs[:k]
            scores.append(faithfulness.score(model.readout((outputs @ directions.T) @ directions), test.labels, loss))
    return Curve.of(name, kept, scores), faithfulness.accuracy(own, test.labels)


def _components(lab: Lab, tensor: BilinearTensor, svd: TensorSVD, *, lit: bool) -> BilinearTensor:
    """The tensor read in its top components, over all pixels or over those that are ever lit in the training images."""
    if lit:
        dark = (lab.dataset().train.images == 0).all(dim=0)
        left, right = tensor.left.clone(), tensor.right.clone()
        left[:, : len(dark)][:, dark] = 0
        right[:, : len(dark)][:, dark] = 0
        tensor = BilinearTensor(left, right, tensor.down, tensor.input, tensor.output)
        svd = decompose.svd(tensor, COMPARED)
    count = min(COMPARED, len(svd))
    return tensor.then(svd.outputs[:count], type(tensor.output)("components", count))


def measure(lab: Lab, seed: int) -> Measurement:
    """Accuracy through K components in each regime, and the cosines of the components with those of the next seed."""
    numbers: dict[str, float] = {}
    curves = []
    for regime, (batch_size, schedule) in REGIMES.items():
        model = _classifier(lab, seed, batch_size, schedule)
        tensor = model.hidden_tensor()
        svd = decompose.svd(tensor)
        curve, accuracy = _curve(lab, regime, model, svd)
        curves.append(curve)
        numbers[f"accuracy, {regime}"] = accuracy
        for k, reached in zip(curve.kept.tolist(), curve.accuracy.tolist(), strict=True):
            numbers[f"drop at {k}, {regime}"] = accuracy - reached
        if regime == "batch 100, step":
            energy = svd.values.double().square().cumsum(0) / svd.energy.double()
            numbers["energy of the first 20"] = float(energy[min(20, len(energy)) - 1])
            other = _classifier(lab, seed + 1000, batch_size, schedule).hidden_tensor()
            blank = ImageClassifier(model.input, model.output, model.config["hidden"], seed=seed).hidden_tensor()
            for which, lit in (("all pixels", False), ("lit pixels", True)):
                ours = _components(lab, tensor, svd, lit=lit)
                for name, theirs in (("another seed", other), ("an untrained model", blank)):
                    read = _components(lab, theirs, decompose.svd(theirs, min(COMPARED, theirs.output.size)), lit=lit)
                    cosines = matching.kernel_cosines(ours, read).abs()
                    matched = matching.assign(cosines).similarity.tolist()
                    for place, value in enumerate(matched):
                        numbers[f"component {place} with {name}, {which}"] = value
    return Measurement.of(numbers, curves)


def claims(measured: Measurement) -> Sequence[Claim]:
    """N1, N2 and N3, and the regimes beside each other."""
    draft = {10: "≈ 13", 20: "≈ 1.3", 30: "≈ 0.4", 50: "≤ 0.1"}
    table = [
        Claim("test accuracy of the bilinear layer (N1)", "accuracy, batch 100, step", "97.8", ".2f", 100, " %"),
        *(
            Claim(
                f"accuracy lost with {k} SVD components (N2)", f"drop at {k}, batch 100, step", said, ".2f", 100, " pts"
            )
            for k, said in draft.items()
        ),
    ]
    for regime in list(REGIMES)[1:]:
        for k in (20, 50):
            text = f"accuracy lost with {k} SVD components, {regime}"
            table.append(Claim(text, f"drop at {k}, {regime}", "–", ".2f", 100, " pts"))
    said = (".93", ".85", ".84", ".81", ".81", ".68")
    for place in range(6):
        text = f"component {place + 1}, cosine with its match in another seed"
        for which in ("all pixels", "lit pixels"):
            number = f"component {place} with another seed, {which}"
            table.append(Claim(f"{text}, {which} (N3)", number, said[place] if which == "all pixels" else "–"))
    number = "component 0 with an untrained model, all pixels"
    table.append(Claim("the same for component 1 against an untrained model", number, "–"))
    return [claim for claim in table if claim.number in measured.names]


def figures(seeds: Sequence[Measurement]) -> Mapping[str, tuple[Figure, str]]:
    """Accuracy against K in each regime."""
    groups = {regime: [seed.curve(regime) for seed in seeds] for regime in REGIMES}
    caption = "Accuracy of the model run on the first K components of its SVD: mean and 95 % interval over seeds."
    return {"svd-accuracy": (plots.bands(groups), caption)}


def findings(seeds: Sequence[Measurement]) -> str:
    """What the settings of training do to the drop."""
    said = []
    for regime in REGIMES:
        drop = interval([seed[f"drop at 20, {regime}"] for seed in seeds])
        said.append(f"{drop.text('.2f', 100)} points with {regime}")
    matched = interval([seed["component 0 with another seed, all pixels"] for seed in seeds])
    null = interval([seed["component 0 with an untrained model, all pixels"] for seed in seeds])
    return (
        f"Keeping 20 components costs {'; '.join(said)}. The first component's match in another seed has cosine "
        f"{matched.text('.2f')}, against {null.text('.2f')} for an untrained model. Matches are by optimal one-to-one "
        f"assignment of the first {COMPARED} components, so that no component serves twice."
    )


RECIPE = Recipe(
    "svd",
    "Singular value decomposition of the tensor",
    lambda lab: (
        f"h = {lab.size(1000, 60)}, {lab.size(10, 6)} epochs, AdamW, lr 1e-3, weight decay 1, no noise, "
        f"{len(lab.dataset().train.labels):,} training images."
    ),
    measure,
    claims,
    figures,
    findings,
)
