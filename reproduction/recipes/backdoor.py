"""A planted trigger seen in the difference of two networks' tensors: its pixels and the class that it forces."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from bilens import decompose, files, models
from bilens.data import Dataset, Split
from bilens.deep import DeepTensor
from bilens.models import ImageClassifier
from reproduction import charts
from reproduction.lab import Claim, Lab, Recipe
from reproduction.measurement import Measurement
from reproduction.methods.triggers import Trigger, attack, environment, jacobians, mislabelled, poisoned, triggers

TARGET, SHARE, NOISY = 7, 0.01, 0.1
"""The class that a trigger forces, the share of images that it is planted in, and that of random labels."""

CONTROLS = ("clean", "square, true labels", "random labels")
"""Fine-tunings without a backdoor: on the same images, with the square but the images' own labels, with noise."""

GRADIENTS = 1000
"""Test images on which gradients are taken."""


FAST = "square, at the rate of training"
"""The first trigger, fine-tuned with all of the network moving."""

RATE, FINE_RATE = 1e-3, 3e-4
"""Of training, and of fine-tuning: at the rate of training all of a network moves, which is most of the difference."""


def trained(
    lab: Lab, name: str, train: Split, seed: int, start: ImageClassifier | None = None, *, rate: float = FINE_RATE
) -> ImageClassifier:
    """A classifier of two layers: read from the folder, or trained, from the start or from another one's weights.

    The rate is that of fine-tuning; what is trained from the start has its own.
    """
    data = lab.dataset()
    epochs = lab.size(10, 4) if start is None else lab.size(4, 3)
    hidden = lab.size(128, 16)
    folder = lab.run.path / "models" / f"{data.name}-{len(train)}-two-layers-{hidden}-{epochs}-{name}-{seed}"
    if not (folder / "config.json").exists():
        model = copy.deepcopy(start) if start is not None else None
        model = model or ImageClassifier(data.input, data.output, hidden, layers=2, seed=seed)
        model.requires_grad_(True)
        settings = {
            "epochs": epochs,
            "lr": RATE if start is None else rate,
            "weight_decay": 0.1,
            "noise": 0.3,
            "seed": seed,
        }
        models.train(model, train.images, train.labels, **settings)  # type: ignore[arg-type]
        files.write_json(folder / "training.json", settings)
        model.cpu().save_pretrained(folder)
    return ImageClassifier.from_pretrained(folder).eval().requires_grad_(False)


def measure(lab: Lab, seed: int) -> Measurement:
    """One base network, another training, and fine-tunings of the base with each trigger and each control."""
    data = lab.dataset()
    train = data.train
    target = TARGET % data.output.size
    found = triggers(data.input.image or (1, data.input.size))
    base = trained(lab, "base", train, seed)
    other = trained(lab, "base", train, seed + 1000)
    tuned = {trigger.name: (trigger, poisoned(train, trigger, SHARE, target, seed)) for trigger in found}
    square = found[0]
    splits = {name: split for name, (_, split) in tuned.items()} | {
        "clean": train,
        "square, true labels": poisoned(train, square, SHARE, None, seed),
        "random labels": mislabelled(train, NOISY, data.output.size, seed),
    }
    metric = decompose.second_moment(train.images, data.input)
    numbers: dict[str, float] = {"pixels": float(square.pixels)}
    references = {"base": base, "other": other}
    for name, split in splits.items():
        trigger = tuned[name][0] if name in tuned else square
        model = trained(lab, name.replace(" ", "-").replace(",", ""), split, seed, base)
        numbers |= {f"{key}, {name}": value for key, value in _one(model, references, data, trigger, metric).items()}
    model = trained(lab, "square-fast", splits[square.name], seed, base, rate=RATE)
    numbers |= {f"{key}, {FAST}": value for key, value in _one(model, references, data, square, metric).items()}
    return Measurement.of(numbers)


def _one(
    model: ImageClassifier,
    references: Mapping[str, ImageClassifier],
    data: Dataset,
    trigger: Trigger,
    metric: Tensor,
) -> dict[str, float]:
    """Accuracy, attack, cosines, and how many of the trigger's pixels each reading finds."""
    images, labels = data.test.images, data.test.labels
    target = TARGET % data.output.size
    nets = {name: one.double().deep().centered() for name, one in _copies({"own": model, **references}).items()}
    own = nets["own"]
    alone = environment(own, metric)
    numbers = {
        "accuracy": float((model(images).argmax(dim=1) == labels).double().mean()),
        "attack": attack(model, images, labels, trigger, target),
        "found, tensor alone": trigger.found(alone.top),
        "found, weights alone": trigger.found(_squares(model)),
    }
    slopes = {name: jacobians(one, images[:GRADIENTS]) for name, one in {"own": model, **references}.items()}
    numbers["found, gradients alone"] = trigger.found(slopes["own"].square().sum(dim=(0, 1)))
    for name in references:
        away = own - nets[name]
        seen = environment(away, metric)
        outputs = _energies(away, metric)
        numbers |= {
            f"cosine, white, {name}": float(own.cosine(nets[name])),
            f"cosine, data, {name}": float(own.cosine(nets[name], metric=metric)),
            f"weight cosine, {name}": _weight_cosine(model, references[name]),
            f"found, tensor, {name}": trigger.found(seen.top),
            f"found, tensor diagonal, {name}": trigger.found(seen.diagonal),
            f"found, tensor white, {name}": trigger.found(environment(away, None).top),
            f"found, weights, {name}": trigger.found(_squares(model, references[name])),
            f"found, gradients, {name}": trigger.found((slopes["own"] - slopes[name]).square().sum(dim=(0, 1))),
            f"top direction, {name}": seen.share,
            f"target first, {name}": float(int(outputs.argmax()) == target),
            f"target's share, {name}": float(outputs[target] / outputs.sum()),
        }
    return numbers


def _copies(trained: Mapping[str, ImageClassifier]) -> dict[str, ImageClassifier]:
    return {name: copy.deepcopy(one) for name, one in trained.items()}


def _energies(deep: DeepTensor, metric: Tensor) -> Tensor:
    """‖T_o‖² of each output."""
    return deep.gram(deep.depth, metric=metric).diagonal()


def _squares(model: ImageClassifier, other: ImageClassifier | None = None) -> Tensor:
    """The squared first-layer weights of each pixel, or their squared differences."""
    first = [value for name, value in model.state_dict().items() if name.startswith("layers.0.") and value.ndim == 2]
    theirs = [torch.zeros_like(value) for value in first]
    if other is not None:
        theirs = [v for name, v in other.state_dict().items() if name.startswith("layers.0.") and v.ndim == 2]
    squares = [(a - b).square().sum(dim=0) for a, b in zip(first, theirs, strict=True)]
    return torch.stack(squares).sum(dim=0)


def _weight_cosine(a: ImageClassifier, b: ImageClassifier) -> float:
    x, y = (torch.cat([value.flatten().double() for value in one.state_dict().values()]) for one in (a, b))
    return float(torch.nn.functional.cosine_similarity(x, y, dim=0))


def claims(measured: Measurement) -> Sequence[Claim]:
    """For every fine-tuning: how it does, and what each reading finds of its trigger."""
    table = []
    planted = [trigger.name for trigger in triggers((28, 28))]
    for name in (*planted, FAST, *CONTROLS):
        table += [
            Claim(f"accuracy, %, {name}", f"accuracy, {name}", scale=100),
            Claim(f"images of other classes that the trigger turns into the target, %, {name}", f"attack, {name}",
                  form=".1f", scale=100),
            Claim(f"tree cosine to the base in the data's metric, {name}", f"cosine, data, base, {name}", form=".3f"),
            Claim(f"cosine of the weights to the base's, {name}", f"weight cosine, base, {name}", form=".3f"),
            Claim(f"share of the difference's largest direction, {name}", f"top direction, base, {name}"),
            Claim(f"share of ‖T − T_base‖² of the target, %, {name}", f"target's share, base, {name}", form=".1f",
                  scale=100),
        ]  # fmt: skip
        for reading, words in (("tensor", "the tensor"), ("weights", "weights"), ("gradients", "gradients")):
            table.append(Claim(f"trigger pixels found by {words} of this network alone, {name}",
                               f"found, {reading} alone, {name}", form=".1f"))  # fmt: skip
        for against in ("base", "other"):
            said = "the base" if against == "base" else "an independent training"
            table.append(Claim(f"the target is the output that differs most from {said}, {name}",
                               f"target first, {against}, {name}", form=".1f"))  # fmt: skip
            for reading, words in (("tensor", "the tensor's largest direction"), ("tensor diagonal", "all directions"),
                                   ("tensor white", "the white tensor"),
                                   ("weights", "first-layer weights"), ("gradients", "gradients")):  # fmt: skip
                asked = "–"
                if reading == "tensor" and name in (planted[0], *CONTROLS):
                    asked = "≥ 14" if name == planted[0] else "≤ 1"
                table.append(Claim(f"trigger pixels found by {words} against {said}, {name}",
                                   f"found, {reading}, {against}, {name}", asked, ".1f"))  # fmt: skip
    return table


def figures(seeds: Sequence[Measurement]) -> Mapping[str, tuple[Figure, str]]:
    """How many trigger pixels each reading finds, for each fine-tuning."""
    names = [trigger.name for trigger in triggers((28, 28))]
    readings = {"tensor": "tensor", "first-layer weights": "weights", "gradients": "gradients"}
    groups = {
        f"{said}, against {words}": {
            name: [seed[f"found, {reading}, {against}, {name}"] for seed in seeds] for name in (*names, *CONTROLS)
        }
        for said, reading in readings.items()
        for against, words in (("base", "the base"), ("other", "another training"))
    }
    return {
        "backdoor-found": (
            charts.dots(groups, "trigger pixels found"),
            "Pixels of the trigger among as many with the largest weight, by the leaf environment of the difference of "
            "two tensors, by first-layer weights and by gradients on images, against the base network and against an "
            "independent training: mean and 95 % interval over seeds.",
        )
    }


RECIPE = Recipe(
    "backdoor",
    "A trigger seen in the difference of two networks",
    lambda lab: (
        f"two layers of {lab.size(128, 16)} hidden units, {lab.size(10, 4)} epochs, AdamW, lr 1e-3, weight decay 0.1, "
        f"Gaussian noise 0.3; fine-tuned {lab.size(4, 3)} epochs at lr {FINE_RATE:g} with a trigger on {SHARE:.0%} of "
        f"the images that makes them class {TARGET}, or on controls; "
        f"{len(lab.dataset().test.labels):,} test images, gradients on {GRADIENTS:,} of them."
    ),
    measure,
    claims,
    figures,
)
