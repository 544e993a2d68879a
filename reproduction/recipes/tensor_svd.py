"""SVD of the layer's tensor: accuracy through its top components, and whether seeds agree on them (N1, N2, N3)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from matplotlib.figure import Figure

from bilens import decompose, faithfulness, matching, schedules
from bilens.decompose import TensorSVD
from bilens.faithfulness import Curve
from bilens.models import ImageClassifier
from bilens.tensor import BilinearTensor
from reproduction import charts
from reproduction.lab import Claim, Lab, Recipe
from reproduction.measurement import Measurement

KEPT = (1, 2, 3, 5, 8, 10, 15, 20, 30, 40, 50, 75, 100, 150, 200)

COMPARED = 20
"""Components that are compared between seeds."""

SPANS = (5, 10, 20)
"""How many of the first components span the subspaces that are compared."""


@dataclass(frozen=True)
class Regime:
    """Settings of training: what the drop may depend on; epochs are a share of the full number."""

    batch_size: int = 100
    schedule: Literal["step", "cosine"] = "step"
    weight_decay: float = 1.0
    lr: float = 1e-3
    share: float = 1.0

    def epochs(self, lab: Lab) -> int:
        """Passes over the images."""
        return max(1, round(self.share * lab.size(10, 6)))

    def classifier(self, lab: Lab, seed: int) -> ImageClassifier:
        """A model trained so."""
        return lab.classifier(
            seed,
            hidden=lab.size(1000, 60),
            epochs=self.epochs(lab),
            batch_size=self.batch_size,
            schedule=self.schedule,
            weight_decay=self.weight_decay,
            lr=self.lr,
        )

    def travel(self, lab: Lab) -> float:
        """Σ lr over all updates: about how far Adam can carry a weight, since it moves by about lr an update."""
        steps = self.epochs(lab) * math.ceil(len(lab.dataset().train.labels) / self.batch_size)
        share = schedules.cosine if self.schedule == "cosine" else schedules.drops
        return self.lr * sum(share(step, steps) for step in range(steps))


FOUNDING = "batch 100, step"

REGIMES = {
    FOUNDING: Regime(),
    "batch 512, step": Regime(512),
    "batch 512, cosine": Regime(512, "cosine"),
    "batch 512, step, lr 0.005": Regime(512, lr=5e-3),
    "batch 512, cosine, decay 6.4": Regime(512, "cosine", 6.4),
    "batch 100, step, 2 epochs": Regime(share=0.2),
    "batch 100, step, decay 0": Regime(weight_decay=0.0),
}
"""lr is 0.001, weight decay 1 and epochs 10 where no others are named.

lr 0.005 gives batch 512 the Σ lr of the founding setting, and 2 epochs give batch 100 that of batch 512. Decay 6.4
gives batch 512 with a cosine the Σ lr · decay of the founding setting without its Σ lr."""

CONTRASTS = {
    "2 epochs, not 10, batch 100": (FOUNDING, "batch 100, step, 2 epochs"),
    "batch 512, not 100, as many updates": ("batch 100, step, 2 epochs", "batch 512, step"),
    "lr 0.005, not 0.001, batch 512": ("batch 512, step", "batch 512, step, lr 0.005"),
    "cosine, not steps, batch 512": ("batch 512, step", "batch 512, cosine"),
    "weight decay 0, not 1, batch 100": (FOUNDING, "batch 100, step, decay 0"),
    "weight decay 6.4, not 1, batch 512": ("batch 512, cosine", "batch 512, cosine, decay 6.4"),
}
"""Pairs of regimes that differ in one thing; 2 epochs of batches of 100 are as many updates as 10 of batches of 512."""

DRAWN = (FOUNDING, "batch 100, step, 2 epochs", "batch 512, step", "batch 512, cosine, decay 6.4")
"""Regimes whose curves are drawn."""

PLACES = (0, 1, 2, 3, 4, 5, 7, 9, 13, 19)
"""Components whose agreement between seeds is drawn."""


PIXELS = ("all pixels", "lit pixels")
OTHERS = ("another seed", "an untrained model")


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
    """The tensor read in its top components, over all pixels or over those that some training image lights."""
    if lit:
        dark = (lab.dataset().train.images == 0).all(dim=0)
        left, right = tensor.left.clone(), tensor.right.clone()
        left[:, : len(dark)][:, dark] = 0
        right[:, : len(dark)][:, dark] = 0
        tensor = BilinearTensor(left, right, tensor.down, tensor.input, tensor.output)
        svd = decompose.svd(tensor, COMPARED)
    count = min(COMPARED, len(svd))
    return tensor.then(svd.outputs[:count], type(tensor.output)("components", count))


def agreement(ours: BilinearTensor, theirs: BilinearTensor) -> dict[str, float]:
    """How alike the first components of two SVDs are: cosines with their partners, the largest, and angles of spans.

    Components are orthonormal kernels, so that the singular values of the cosines between the first n of each are the
    cosines of the principal angles between their spans.
    """
    cosines = matching.kernel_cosines(ours, theirs)
    found = {
        f"component {place}": value for place, value in enumerate(matching.assign(cosines.abs()).similarity.tolist())
    }
    found |= {f"best of component {place}": value for place, value in enumerate(cosines.abs().amax(dim=1).tolist())}
    for n in SPANS:
        found[f"span of {n}"] = float(torch.linalg.svdvals(cosines[:n, :n]).mean())
    return found


def measure(lab: Lab, seed: int) -> Measurement:
    """Accuracy through K components in each regime, and the cosines of the components with those of the next seed."""
    numbers: dict[str, float] = {}
    curves = []
    for regime, settings in REGIMES.items():
        model = settings.classifier(lab, seed)
        tensor = model.hidden_tensor()
        svd = decompose.svd(tensor)
        curve, accuracy = _curve(lab, regime, model, svd)
        curves.append(curve)
        numbers[f"accuracy, {regime}"] = accuracy
        numbers[f"travel, {regime}"] = settings.travel(lab)
        numbers[f"decay, {regime}"] = settings.travel(lab) * settings.weight_decay
        numbers[f"effective rank, {regime}"] = float(svd.values.sum().square() / svd.energy)
        for k, reached in zip(curve.kept.tolist(), curve.accuracy.tolist(), strict=True):
            numbers[f"drop at {k}, {regime}"] = accuracy - reached
        if regime == FOUNDING:
            energy = svd.values.double().square().cumsum(0) / svd.energy.double()
            numbers["energy of the first 20"] = float(energy[min(20, len(energy)) - 1])
            other = settings.classifier(lab, seed + 1000).hidden_tensor()
            blank = ImageClassifier(model.input, model.output, model.config["hidden"], seed=seed + 1000).hidden_tensor()
            for which, lit in zip(PIXELS, (False, True), strict=True):
                ours = _components(lab, tensor, svd, lit=lit)
                for name, theirs in zip(OTHERS, (other, blank), strict=True):
                    read = _components(lab, theirs, decompose.svd(theirs, min(COMPARED, theirs.output.size)), lit=lit)
                    numbers |= {f"{key} with {name}, {which}": value for key, value in agreement(ours, read).items()}
    return Measurement.of(numbers, curves)


def _contrast(seeds: Sequence[Measurement], name: str) -> list[float]:
    """The change of the drop at 20, seed by seed."""
    before, after = CONTRASTS[name]
    return [seed[f"drop at 20, {after}"] - seed[f"drop at 20, {before}"] for seed in seeds]


def claims(measured: Measurement) -> Sequence[Claim]:
    """N1, N2 and N3, and the regimes beside each other."""
    draft = {10: "≈ 13", 20: "≈ 1.3", 30: "≈ 0.4", 50: "≤ 0.1"}
    table = [
        Claim("test accuracy of the bilinear layer (N1)", f"accuracy, {FOUNDING}", "97.8", ".2f", 100, " %"),
        *(
            Claim(f"accuracy lost with {k} SVD components (N2)", f"drop at {k}, {FOUNDING}", said, ".2f", 100, " pts")
            for k, said in draft.items()
        ),
    ]
    for regime in REGIMES:
        table.append(Claim(f"Σ lr over all updates, {regime}", f"travel, {regime}"))
        if regime != FOUNDING:
            table.append(Claim(f"test accuracy, {regime}", f"accuracy, {regime}", "–", ".2f", 100, " %"))
            for k in (20, 50):
                text = f"accuracy lost with {k} SVD components, {regime}"
                table.append(Claim(text, f"drop at {k}, {regime}", "–", ".2f", 100, " pts"))
        table.append(Claim(f"effective rank (Σσ)² / Σσ², {regime}", f"effective rank, {regime}", "–", ".0f"))
    said = {0: ".93", 1: ".85", 2: ".84", 3: ".81", 4: ".81", 5: ".68", 19: ".30"}
    for place in (*range(6), 9, 19):
        text = f"component {place + 1}, largest cosine with a component of another seed, all pixels (N3)"
        number = f"best of component {place} with {OTHERS[0]}, {PIXELS[0]}"
        table.append(Claim(text, number, said.get(place, "–")))
        for which in PIXELS:
            text = f"… with its one-to-one match, {which}"
            table.append(Claim(f"{text}, component {place + 1}", f"component {place} with {OTHERS[0]}, {which}"))
    for which in PIXELS:
        for n in SPANS:
            for name in OTHERS:
                text = f"mean cosine of the angles between the spans of the first {n} and those of {name}, {which}"
                table.append(Claim(text, f"span of {n} with {name}, {which}"))
    text = "component 1, cosine with its match in an untrained model, all pixels"
    table.append(Claim(text, f"component 0 with {OTHERS[1]}, {PIXELS[0]}"))
    return [claim for claim in table if claim.number in measured.names]


def figures(seeds: Sequence[Measurement]) -> Mapping[str, tuple[Figure, str]]:
    """Accuracy against K in each regime, the drop in the order of Σ lr, and the agreement of seeds."""
    groups = {regime: [seed.curve(regime) for seed in seeds] for regime in DRAWN}
    drops = {regime: [100 * seed[f"drop at 20, {regime}"] for seed in seeds] for regime in REGIMES}
    changes = {name: [100 * value for value in _contrast(seeds, name)] for name in CONTRASTS}
    places = [place for place in PLACES if f"component {place} with {OTHERS[0]}, {PIXELS[0]}" in seeds[0].names]
    agreed = {
        f"{name}, {which}": {
            place + 1: [seed[f"component {place} with {name}, {which}"] for seed in seeds] for place in places
        }
        for name in OTHERS
        for which in PIXELS
    }
    return {
        "svd-accuracy": (
            charts.bands(groups),
            "Accuracy of the model run on the first K components of its SVD, in four training regimes: mean and 95 % "
            "interval over seeds.",
        ),
        "svd-regimes": (
            charts.dots({"20 SVD components": drops}, "accuracy lost, points", line=0),
            "Accuracy lost with 20 components in each training regime: each seed, mean and 95 % interval.",
        ),
        "svd-contrasts": (
            charts.dots(
                {"one thing changed": changes}, "change of the accuracy lost with 20 components, points", line=0
            ),
            "The effect of each training setting on the accuracy lost with 20 components, one at a time, seed by "
            "seed: each seed, mean and 95 % interval.",
        ),
        "svd-seeds": (
            charts.intervals(agreed, "SVD components matched one to one", "component", "|cosine| with its match"),
            "Cosine of each component's kernel with its partner in another seed and in an untrained model, over all "
            "pixels and over those that some training image lights: mean and 95 % interval.",
        ),
    }


RECIPE = Recipe(
    "svd",
    "Singular value decomposition of the tensor",
    lambda lab: (
        f"h = {lab.size(1000, 60)}, {lab.size(10, 6)} epochs, AdamW, lr 1e-3, weight decay 1, no noise, "
        f"{len(lab.dataset().train.labels):,} training images; seeds are compared on the first {COMPARED} components "
        f"of "
        "each, so that the last of them may have their like beyond."
    ),
    measure,
    claims,
    figures,
)
