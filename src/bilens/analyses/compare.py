"""The command that compares two networks as tensors: how far apart they are, in which outputs and which inputs."""

from __future__ import annotations

import math
import webbrowser
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from bilens import data as datasets
from bilens import decompose, explorer, faithfulness
from bilens._internal.checks import number
from bilens.analyses import _given as given
from bilens.analyses import _language_compare as language
from bilens.analyses._page import PAGE
from bilens.analyses.read import DataName, fingerprint, refuse
from bilens.data import Dataset
from bilens.deep import DeepTensor, full_cosine, ridged
from bilens.errors import BilensError
from bilens.explorer import Exploration
from bilens.features import FeatureSet, Samples, detail, stored
from bilens.kernel import Kernel
from bilens.models import ImageClassifier
from bilens.progress import bar
from bilens.space import Space
from bilens.store import Folder

SHOWN = 100
"""Images on the page: the first ones, and as many on which the two differ most."""
RIDGE = 0.01
"""Share of white noise in a second moment of images, where nothing else is said."""
FULL = 2
"""Layers up to which the fully symmetrised tensors come apart into matrices."""
OUTPUTS = (
    "The outputs by how much of ‖A − B‖² is theirs. The pictures of each are eigenvectors of its leaf environment: the "
    "input directions that one copy of the input is listened to in by the difference of the two networks, when its "
    "other copies are {metric}. What only one of them knows shows here, whatever it does to accuracy."
)
WHOLE = (
    "The same for all outputs together: of the difference, and of each network alone beside it. A direction that is "
    "large in both networks and small in the difference is one that they share."
)
WORDS = {
    "Tree cosine": "⟨A, B⟩ / (‖A‖ ‖B‖) of the tensors that are symmetric under what exchanges the inputs of a layer. "
    "It depends on the functions and on how they are computed: 1 proves that the functions agree, 0 proves nothing.",
    "Full cosine": "The same of the fully symmetrised tensors, which depend on the functions alone.",
    "√(1 − c²)": "The relative difference that a cosine c leaves. A cosine near 1 hides much.",
    "Leaf environment": "How one copy of the input is listened to by all that is above and beside it: a matrix over "
    "the input, whose trace with the metric is ‖T‖².",
}


def compare(
    a: Path,
    b: Path,
    /,
    out: Path = Path("runs/compare"),
    *,
    metric: DataName | None = None,
    ridge: float = RIDGE,
    layers: str | None = None,
    open: bool = False,
) -> dict[str, Any]:
    """Compare two classifiers of bilinear layers, or two layers of language models that were read, by their weights.

    Example: bilens compare runs/a runs/b --metric mnist
    Example: bilens compare runs/smol runs/exact --layers 12

    Args:
        a: folder of a trained model, or of a run of bilens demo or bilens read.
        b: another one with as many layers; of language models another run of bilens read, or the same one.
        out: folder for the page and the numbers.
        metric: images whose second moment weighs the inputs, and on which accuracy and agreement are measured; without
            them all directions of the input count alike.
        ridge: share of white noise in that second moment, without which directions where no image goes would not count.
        layers: of language models: 12, or 5:12 for layer 5 of the first run and 12 of the second (default: the one
            that each has).
        open: show the page in the browser.
    """
    ridge = number("ridge", ridge, 0, 1)
    if any(map(language.languages, (a, b))):
        given_too = {"--metric": metric is not None, "--ridge": ridge != RIDGE}
        refuse({name: True for name, asked in given_too.items() if asked}, "an image classifier")
        strange = [run for run in (a, b) if not language.languages(run)]
        if strange:
            raise BilensError(f"{strange[0]}, which is no run of a language model", "two runs of bilens read MODEL")
        return language.compare(a, b, out, layers=layers, open=open)
    refuse({} if layers is None else {"--layers": layers}, "a language model")
    dataset = None if metric is None else datasets.load(metric)
    models = [given.read(_model(path), dataset, mean=None, std=None)[0].eval().requires_grad_(False) for path in (a, b)]
    models[1] = models[1].over(models[0].input, models[0].output)
    nets = [model.double().deep().centered() for model in models]
    nets[0].inner(nets[1])  # networks of other depths are refused before anything is written
    settings = {"command": "compare", "weights": [fingerprint(model) for model in models]}
    run = Folder(out, settings | {"metric": metric, "ridge": ridge, "folders": [str(a), str(b)]})
    with bar("comparing"):
        weights = None
        if dataset is not None:
            lifted = nets[0].input if nets[0].input.constant else nets[1].input
            weights = ridged(decompose.second_moment(dataset.train.images, lifted), lifted, ridge)
        summary = numbers(nets[0], nets[1], weights, dataset) | {"weights": weight_cosine(models[0], models[1])}
        away = nets[0] - nets[1]
        words = "drawn from white noise" if dataset is None else f"drawn from the images of {dataset.name}"
        sets = (by_output(away, weights, dataset, words), together(away, nets, weights, dataset))
        run.write("summary.json", summary)
        page = Exploration(
            title="Two networks, and where they differ",
            run=f"{a} − {b}",
            facts=_facts(summary),
            model=away.to(torch.float32),
            features=sets,
            samples=None if dataset is None else _samples(away, dataset),
            notes=_notes(summary, dataset, ridge),
        )
        explorer.write([page], run.path / PAGE)
    _print(summary, run)
    if open:
        webbrowser.open((run.path / PAGE).resolve().as_uri())
    return summary


def numbers(
    a: DeepTensor, b: DeepTensor, metric: Float[Tensor, "i i"] | None, dataset: Dataset | None
) -> dict[str, Any]:
    """How far apart two networks are: cosines with √(1 − c²), shares of the outputs, and how they do on images.

    Args:
        a, b: over one input and output, of one depth; metric: M, None for the identity alone; dataset: images.
    """
    away = a - b
    metrics: dict[str, Tensor | None] = {"identity": None}
    if metric is not None:
        metrics["data"] = metric
    found: dict[str, Any] = {"layers": a.depth, "tree": {}, "full": {}, "relative_difference": {}, "outputs": {}}
    for name, weights in metrics.items():
        found["tree"][name] = _cosine(a.cosine(b, metric=weights))
        if a.depth <= FULL:
            found["full"][name] = _cosine(full_cosine(a, b, metric=weights))
        norm = float(a.norm(metric=weights))
        found["relative_difference"][name] = float(away.norm(metric=weights)) / norm if norm > 0 else 0.0
        shares = _shares(away, weights)
        found["outputs"][name] = {a.output.label(o): float(share) for o, share in enumerate(shares)}
    if dataset is not None:
        images, labels = dataset.test.images.double(), dataset.test.labels
        said = [net(images) for net in (a, b)]
        found["data"] = {
            "name": dataset.name,
            "samples": len(labels),
            "accuracy": [faithfulness.accuracy(logits, labels) for logits in said],
            "agreement": float((said[0].argmax(dim=1) == said[1].argmax(dim=1)).double().mean()),
        }
    return found


def weight_cosine(a: ImageClassifier, b: ImageClassifier) -> float | None:
    """The cosine of all weights as one vector, which knows no symmetry; None for other shapes."""
    ours, theirs = a.state_dict(), b.state_dict()
    if {name: value.shape for name, value in ours.items()} != {name: value.shape for name, value in theirs.items()}:
        return None
    x, y = (torch.cat([state[name].double().flatten() for name in ours]) for state in (ours, theirs))
    return float(torch.nn.functional.cosine_similarity(x, y, dim=0))


def environment(deep: DeepTensor, metric: Float[Tensor, "i i"] | None, label: str) -> tuple[Kernel, decompose.Spectrum]:
    """The leaf environment of a network as a form of the input, and all of its eigenpairs."""
    kernel = Kernel.from_matrix(deep.environment(0, metric=metric).float(), deep.input, label)
    return kernel, decompose.eigh(kernel)


def by_output(away: DeepTensor, metric: Float[Tensor, "i i"] | None, dataset: Dataset | None, words: str) -> FeatureSet:
    """The outputs by their share of ‖A − B‖², each with the input directions of its difference."""
    shares = _shares(away, metric)
    order = shares.argsort(descending=True, stable=True)
    found = []
    for o in order.tolist():
        row = torch.zeros_like(away.layers[-1].down[:, 0])
        row[o] = 1
        label = away.output.label(o)
        found.append(environment(away.then(row[None], Space(label, 1)), metric, label))
    effects = torch.eye(away.output.dim)[order]
    return FeatureSet(
        "outputs",
        tuple(stored(spectrum) for _, spectrum in found),
        shares[order].float(),
        "share of ‖A − B‖²",
        effects,
        away.output,
        title="Where the outputs differ",
        tab="Outputs",
        feature="Output",
        among="outputs",
        text=OUTPUTS.format(metric=words),
        detail=detail(found, _examined(dataset)),
        words=WORDS,
        order=0,
    )


def together(
    away: DeepTensor, nets: list[DeepTensor], metric: Float[Tensor, "i i"] | None, dataset: Dataset | None
) -> FeatureSet:
    """The input directions of the difference of all outputs, and of each network alone."""
    names = ("A − B", "A alone", "B alone")
    lifted = [net if net.input == away.input else _lifted(net, away) for net in nets]
    found = [environment(net, metric, name) for name, net in zip(names, (away, *lifted), strict=True)]
    energies = [net.norm(metric=metric).square() for net in (away, *lifted)]
    shares = [_shares(net, metric) for net in (away, *lifted)]
    return FeatureSet(
        "inputs",
        tuple(stored(spectrum) for _, spectrum in found),
        torch.stack(energies).float(),
        "‖T‖²",
        torch.stack(shares).float(),
        away.output,
        title="The inputs in which they differ",
        tab="Inputs",
        feature="Inputs of",
        among="networks",
        text=WHOLE,
        detail=detail(found, _examined(dataset)),
        order=1,
    )


def _lifted(net: DeepTensor, other: DeepTensor) -> DeepTensor:
    """The network over an input with the constant coordinate, where another one needs it."""
    return DeepTensor.from_levels(net.levels(lift=True), other.input, net.output, "lifted")


def _shares(deep: DeepTensor, metric: Float[Tensor, "i i"] | None) -> Float[Tensor, " o"]:
    """The share of each output of ‖T‖²."""
    squares = deep.gram(deep.depth, metric=metric).diagonal().clamp(min=0)
    return squares / squares.sum().clamp(min=torch.finfo(squares.dtype).tiny)


def _cosine(value: Tensor) -> dict[str, float]:
    cosine = float(value)
    return {"cosine": cosine, "difference": math.sqrt(max(0.0, 1 - cosine**2))}


def _examined(dataset: Dataset | None) -> Tensor | None:
    return None if dataset is None else dataset.test.images[:2000]


def _samples(away: DeepTensor, dataset: Dataset) -> Samples:
    """The first images, and those on which the outputs of the two differ most."""
    outputs = away(dataset.test.images.double()).float()
    farthest = outputs.norm(dim=1).argsort(descending=True, stable=True)[:SHOWN]
    numbers = torch.unique(torch.cat([farthest, torch.arange(min(SHOWN, len(outputs)))]))
    images, labels = dataset.test.images[numbers], dataset.test.labels[numbers]
    return Samples(images, numbers, outputs[numbers], labels, away.input.without_constant(), away.output)


def _model(path: Path) -> Path:
    """The folder of a model, or that in the folder of a run."""
    inside = path / "model"
    return inside if not (path / "config.json").exists() and (inside / "config.json").exists() else path


def _facts(summary: dict[str, Any]) -> dict[str, str | int | float]:
    words = {"identity": "white inputs", "data": f"second moment of {summary.get('data', {}).get('name', 'data')}"}
    facts: dict[str, str | int | float] = {}
    for kind in ("tree", "full"):
        for name, found in summary[kind].items():
            facts[f"{kind} cosine, {words[name]}"] = f"{found['cosine']:.4f}, √(1 − c²) = {found['difference']:.3f}"
    if summary["weights"] is not None:
        facts["cosine of the weights"] = f"{summary['weights']:.4f}"
    if "data" in summary:
        data = summary["data"]
        facts["test accuracy"] = " and ".join(f"{value:.2%}" for value in data["accuracy"])
        facts["same prediction"] = f"{data['agreement']:.2%} of {data['samples']:,} images"
    return facts


def _notes(summary: dict[str, Any], dataset: Dataset | None, ridge: float) -> tuple[str, ...]:
    notes = [
        "A cosine of two networks means little alone: compare it with that of two networks of which one is known to be "
        "harmless, for example the same training with another seed, or a second fine-tuning on clean data."
    ]
    if dataset is not None:
        notes.append(
            f"The metric is the second moment of the {len(dataset.train.labels):,} training images of {dataset.name}, "
            f"of which a share of {ridge:g} is replaced by white noise."
        )
    if not summary["full"]:
        notes.append(
            f"The full cosine comes apart into matrices at one and two layers; these have {summary['layers']}."
        )
    return tuple(notes)


def _print(summary: dict[str, Any], run: Folder) -> None:
    console = Console(markup=False, highlight=False, soft_wrap=True)
    console.print(f"{'cosine':>9} {'√(1 − c²)':>10}")
    for kind in ("tree", "full"):
        for name, found in summary[kind].items():
            console.print(f"{found['cosine']:>9.4f} {found['difference']:>10.4f}  {kind}, metric: {name}")
    if summary["weights"] is not None:
        console.print(f"{summary['weights']:>9.4f} {'':>10}  weights as one vector")
    last = list(summary["outputs"])[-1]
    first = sorted(summary["outputs"][last].items(), key=lambda item: -item[1])[:3]
    console.print(f"‖A − B‖² is of {', '.join(f'output {label} to {share:.0%}' for label, share in first)}")
    if "data" in summary:
        data = summary["data"]
        console.print(f"same prediction for {data['agreement']:.2%} of {data['samples']:,} images of {data['name']}")
    console.print(f"numbers: {run.path / 'summary.json'}")
    console.print(f"page:    {run.path / PAGE}")
