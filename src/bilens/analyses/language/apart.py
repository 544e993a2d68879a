"""Two layers that were read, side by side: how far apart the kernels of their features are, and one page of both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bilens import explorer, statistics, store
from bilens._internal import files
from bilens._internal.shown import line
from bilens.analyses.language import _alike as alike
from bilens.analyses.language import inputs
from bilens.analyses.language._alike import Shown, shown_name
from bilens.analyses.language._budget import address
from bilens.analyses.language.layer import Layer, fitted, from_weights
from bilens.decompose import Metric, second_moment, squared_norms
from bilens.errors import BilensError, ShapeError, StoreError
from bilens.explorer.lm_layout import Feature, Features, Reading
from bilens.models import gated
from bilens.space import Space
from bilens.statistics import Estimate
from bilens.tensor import BilinearTensor

AGAIN = "run the same bilens read command again"

CLOSE = 1e-3
"""Relative difference up to which norms of kernels count as those that were read: rounding, and nothing else."""

MOST = 0.95
"""Share of random pairs that are less alike than the number beside their median."""


@dataclass(frozen=True, eq=False, repr=False)
class Side:
    """One of the two.

    Args:
        run: its folder; layer: as it was read; shown: the features on its page; content: that page.
    """

    run: Path
    layer: Layer
    shown: Shown
    content: Reading

    __repr__ = line

    @property
    def kernels(self) -> BilinearTensor:
        """The features that its page shows as functions of x̂ and the constant coordinate."""
        tensor = self.layer.tensor.fold()
        return tensor.then(self.shown.directions.to(tensor.down), Space("shown", len(self.shown.directions)))

    @property
    def moment(self) -> Tensor | None:
        """The second moment of x̂ and the constant coordinate on its text; None without text."""
        fit = self.layer.fit
        return None if fit is None else second_moment(self.layer.normalised(fit), self.layer.tensor.fold().input)


@dataclass(frozen=True, eq=False, repr=False)
class Apart:
    """How far the n features of one side are from the m of another.

    Args:
        cosines: of their kernels, (n, m); own, other: norms, (n,) and (m,); metric: that they are in, in words.
    """

    cosines: Float[Tensor, "n m"]
    own: Float[Tensor, " n"]
    other: Float[Tensor, " m"]
    metric: str

    __repr__ = line

    def distance(self, first: int, second: int) -> float:
        """‖Q − Q'‖ / ‖Q‖ of two features."""
        a, b, c = (float(each) for each in (self.own[first], self.other[second], self.cosines[first, second]))
        return max(0.0, a * a + b * b - 2 * a * b * c) ** 0.5 / a if a else 0.0


@dataclass(frozen=True)
class Apartness:
    """The features of one set that both sides have, by their labels.

    Args:
        name: of the set; control: whether it is a null.
        cosine, distance: medians over the features of the kernels' cosines and of ‖Q − Q'‖ / ‖Q‖.
        nearest: the share of features to which no other feature of the set on the second side is nearer.
        random, most: of |cosine| of a feature with every other one on the second side the median, and what `MOST` of
            these are below; pairs: how many there are.
    """

    name: str
    control: bool
    cosine: Estimate
    distance: Estimate
    nearest: Estimate
    random: float | None
    most: float | None
    pairs: int


def languages(run: Path) -> bool:
    """Whether a folder is that of a run that read layers of a language model."""
    known = run / store.SETTINGS
    return known.is_file() and files.read_json(known).get("kind") == "language"


def numbers(asked: str | None, both: tuple[Path, Path]) -> tuple[int, int]:
    """The layer of each run: "12" in both, "5:12", or None for the only one that each has.

    Raises:
        BilensError: no such layers.
    """
    there = [files.read_json(run / store.SETTINGS).get("layers", []) for run in both]
    if asked is None:
        several = next((len(layers) for layers in there if len(layers) != 1), 1)
        if several != 1:
            raise BilensError(f"a run of {several} layers without --layers", "--layers 12, or 5:12 for different ones")
        return there[0][0], there[1][0]
    parts = asked.split(":")
    if len(parts) > 2 or not all(part.strip().isdecimal() for part in parts):
        raise BilensError(f"--layers {asked}", "one number, or two such as 5:12")
    first, second = int(parts[0]), int(parts[-1])
    for run, layers, number in zip(both, there, (first, second), strict=True):
        if number not in layers:
            raise BilensError(f"--layers {asked}", f"of {run} one of {', '.join(map(str, layers))}")
    return first, second


@torch.no_grad()
def opened(run: Path, number: int) -> Side:
    """A layer as a run read it: its page, and its tensor from the model's weights and what the run keeps of the text.

    Raises:
        StoreError: the run is not finished, or damaged, or cannot be read. BilensError: the model is another one now.
    """
    asked = files.read_json(run / store.SETTINGS)
    content = explorer.reading_of(run / address(number))
    shown = store.read_record(run, shown_name(number), Shown)
    if shown is None or sum(shown.counts) != sum(len(found["features"]) for found in content["sets"]):
        raise StoreError(f"{run}, where layer {number} was read by another version", "a finished run", AGAIN)
    mlp = gated.load(asked["model"]).mlp(number)
    fit = inputs.kept(run, number, inputs.PARTS[0])
    if asked.get("text") is not None and fit is None:
        raise StoreError(f"{run} without activations of layer {number}", "all files of the run", AGAIN)
    layer = from_weights(mlp) if fit is None else fitted(mlp, fit)
    side = Side(run, layer, shown, content)
    named = layer.tensor.then(shown.directions.to(layer.tensor.down), side.kernels.output)
    norms, then = squared_norms(named, metric=layer.metric).double(), shown.inner.diagonal()
    if not torch.allclose(norms, then, rtol=CLOSE, atol=CLOSE * float(then.max())):
        raise BilensError(f"{asked['model']} with other weights than when {run} was read", "the same model", AGAIN)
    return side


@torch.no_grad()
def apart(first: Side, second: Side) -> Apart:
    """Exact cosines of all kernels of one side with all of the other, in the mean of their second moments.

    Raises:
        ShapeError: inputs or outputs of different sizes.
    """
    ours, theirs = first.kernels, second.kernels
    sizes = [(side.layer.tensor.fold().input.dim, side.layer.tensor.output.dim) for side in (first, second)]
    if sizes[0] != sizes[1]:
        raise ShapeError(f"layers of width {sizes[0][1]} and {sizes[1][1]}", "layers of one width")
    moments = [moment for side in (first, second) if (moment := side.moment) is not None]
    root, words = None, "weights alone"
    if moments:
        root = Metric.from_moment(sum(moments[1:], moments[0]) / len(moments), ours.input).root
        words = "the mean of both layers’ second moments on text" if len(moments) == 2 else alike.METRIC
    own, other = (alike.inner_products(each, each, root).diagonal() for each in (ours, theirs))
    found = alike.cosines(alike.inner_products(ours, theirs, root), own, other)
    return Apart(found, own.clamp(min=0).sqrt(), other.clamp(min=0).sqrt(), words)


def shared(first: Reading, second: Reading) -> Iterator[tuple[Features, list[tuple[int, int]], range]]:
    """Of each set that both have: places of the features with one label, and those of the set on the second side."""
    starts, start = dict[str, tuple[int, Features]](), 0
    for theirs in second["sets"]:
        starts[theirs["name"]] = (start, theirs)
        start += len(theirs["features"])
    start = 0
    for ours in first["sets"]:
        there, other = starts.get(ours["name"], (0, None))
        if other is not None:
            places = {feature["label"]: there + place for place, feature in enumerate(other["features"])}
            pairs = [
                (start + place, places[feature["label"]])
                for place, feature in enumerate(ours["features"])
                if feature["label"] in places
            ]
            if pairs:
                yield ours, pairs, range(there, there + len(other["features"]))
        start += len(ours["features"])


def apartness(found: Apart, first: Reading, second: Reading) -> list[Apartness]:
    """Of each set: how far apart features of one label are, beside features of different labels."""
    said = []
    for ours, pairs, columns in shared(first, second):
        rows = torch.tensor([row for row, _ in pairs])
        all_of_them = found.cosines[rows][:, columns.start : columns.stop]
        own = torch.tensor([column - columns.start for _, column in pairs])
        others = torch.ones_like(all_of_them, dtype=torch.bool)
        others[torch.arange(len(pairs)), own] = False
        null = all_of_them[others].abs()
        same = all_of_them[torch.arange(len(pairs)), own]
        nearest = int((all_of_them <= same[:, None]).all(dim=1).sum())
        said.append(
            Apartness(
                ours["name"],
                ours["control"],
                statistics.median(same.tolist()),
                statistics.median([found.distance(*pair) for pair in pairs]),
                statistics.share(nearest, len(pairs)),
                float(null.median()) if len(null) else None,
                float(null.quantile(MOST)) if len(null) else None,
                len(null),
            )
        )
    return said


def page(found: Apart, first: Side, second: Side) -> Reading:
    """The page of the first side with the second beside it."""
    content = dict(first.content)
    content["title"] = f"{first.content['title']} beside {second.content['title']}"
    content["others"] = []  # their pages are in another folder
    own, other = found.own.square(), found.other.square()
    inner = found.cosines * found.own[:, None] * found.other
    content["beside"] = {"reading": less(second.content), "alike": alike.of(inner, own, other, found.metric)}
    return content  # type: ignore[return-value]


def less(content: Reading) -> Reading:
    """A page without what only a feature's own view shows."""
    sets = [
        {**found, "terms": None, "whole": None, "features": [_less(feature) for feature in found["features"]]}
        for found in content["sets"]
    ]
    return {**content, "sets": sets, "others": [], "notes": [], "beside": None, "typed": None}  # type: ignore[typeddict-item]


def _less(feature: Feature) -> Feature:
    none: Any = {name: [] for name in feature["interactions"]}
    square: Any = {"inputs": [], "values": []}
    return {**feature, "parts": [], "smallest": [], "failed": [], "interactions": none, "square": square}


def settings(first: tuple[Path, int], second: tuple[Path, int]) -> dict[str, Any]:
    """What a comparison was asked for: its folder belongs to these."""
    return {
        "command": "compare",
        "kind": "language",
        "folders": [str(run) for run, _ in (first, second)],
        "layers": [number for _, number in (first, second)],
        "runs": [files.checksum(files.read_json(run / store.SETTINGS)) for run, _ in (first, second)],
    }


__all__ = [
    "Apart",
    "Apartness",
    "Side",
    "apart",
    "apartness",
    "languages",
    "numbers",
    "opened",
    "page",
    "settings",
    "shared",
]
