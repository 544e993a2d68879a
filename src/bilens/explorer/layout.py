"""The data of the page as typed dictionaries, with what `docs/explorer-format.md` says of them.

`python docs/explorer_schema.py` writes the JSON schema and the types of the page's script from them; a dictionary in an
annotation is added to the schema as it stands.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypedDict

from bilens._internal.encoding import Array
from bilens.faithfulness import Kind

FORMAT = 5
"""Version of the layout; the page refuses another one."""


class Axis(TypedDict):
    """A space: its name, what `one` coordinate is called, its size, a label for each coordinate, the image's height and
    width, and whether 1 is appended.
    """

    name: str
    one: str
    size: int
    labels: list[str] | None
    image: list[int] | None
    constant: bool


class Model(TypedDict):
    """Input → outputs as factors: y_o = Σ_h down_oh (left_h·x')(right_h·x')."""

    left: Array
    right: Array
    down: Array


class SampleSet(TypedDict):
    """Inputs, their numbers in the set that they come from, the library's outputs, true classes where known."""

    inputs: Array
    numbers: list[int]
    outputs: Array
    labels: list[int] | None


class Pair(TypedDict):
    """An input pair i ≤ j and what it adds to the feature where both are 1."""

    i: int
    j: int
    strength: float


class Seen(TypedDict):
    """A sample, by its place in the sample set, −1 where it is not there, its number, and the feature's value on it."""

    sample: int
    number: int
    value: float


class Feature(TypedDict):
    """One feature: xᵀQx = Σ λ (v·x')².

    `eigenvalues` has all λ, or the first ones and then `discarded` > 0, the largest |λ| of the others; `vectors` the
    first eigenvectors, one per row; `energy` is ‖Q‖², `residual` the largest ‖Qv − λv‖ / |λ₁| of the vectors. `errors`
    has the largest error of the first k = 1 … pairs over the `examined` samples, whose largest norm is `norm`.
    """

    label: str
    importance: float
    effects: list[float]
    speaks: str
    raises: list[str]
    lowers: list[str]
    eigenvalues: Array
    vectors: Array
    energy: float
    discarded: float
    residual: float
    pairs: list[Pair]
    largest: list[Seen]
    smallest: list[Seen]
    errors: Array | None


class Fact(TypedDict):
    """A name and what is said of it."""

    name: str
    value: str | float


class Lines(TypedDict):
    """A figure of a set: lines, of which the first `drawn` are drawn and all are in its table; `rows` begin with x."""

    kind: Literal["lines"]
    name: str
    title: str
    note: str
    drawn: int
    log: bool
    level: float | None
    level_name: str
    columns: list[str]
    rows: list[list[float]]


class Cells(TypedDict):
    """A figure of a set: points counted in bins × bins cells, x first, with the line on which both are equal."""

    kind: Literal["cells"]
    name: str
    title: str
    note: str
    x: str
    y: str
    low: list[float]
    high: list[float]
    bins: int
    counts: list[list[int]]


class Features(TypedDict):
    """A set of features, most important first; `total` is of how many `among`, where known.

    `feature` is what one of them is called, before its label; `figures` are those of the set as a whole, and `words`
    are explained in the page's glossary.
    """

    name: str
    title: str
    tab: str
    feature: str
    among: str
    text: str
    measure: str
    norm: float | None
    examined: int
    total: int | None
    input: Axis
    features: list[Feature]
    figures: list[Lines | Cells]
    words: list[Fact]


class Root(TypedDict):
    """λ q² of an output, q = Σ μ (w·x')²: λ, its `share` of ‖T‖², and `held`, the share of its energy in its leaves.

    `leaves` has the μ; `quantiles` those of q on the samples of each class, at the percentiles of `Trees`, and `means`
    the mean of λ q² on them, None without labelled samples.
    """

    value: float
    share: float
    held: float
    leaves: list[float]
    quantiles: list[list[float]] | None
    means: list[float] | None


class Tree(TypedDict):
    """One output as roots; `error` is the relative error of those and the leaves left out.

    `readers` has the w and `patterns` the pictures of all leaves, root after root, one per row.
    """

    label: str
    error: float
    roots: list[Root]
    readers: Array
    patterns: Array


class Trees(TypedDict):
    """The outputs of a network of two layers as trees of templates, in their order; `metric` is what they are found in.

    `samples` is on how many samples q was looked at.
    """

    title: str
    text: str
    metric: str
    samples: int
    percentiles: list[int]
    trees: list[Tree]
    words: list[Fact]


class Line(TypedDict):
    """Scores against components kept: means over seeds with half-widths of 95 % intervals, None for one seed.

    `samples` is how many samples each point was measured on, and `numbers` how many numbers it stores, None where that
    is not known; `beside` names the line that this one, a null or a rival, is to be compared with.
    """

    name: str
    beside: str | None
    seeds: int
    samples: int | None
    kept: list[int]
    numbers: list[int] | None
    accuracy: list[float]
    cross_entropy: list[float]
    recovered: list[float] | None
    accuracy_half: list[float] | None
    cross_entropy_half: list[float] | None
    recovered_half: list[float] | None
    error: list[float] | None
    bound: list[float] | None


class ScoreRow(TypedDict):
    """A line of the table of faithfulness: shares from 0 to 1, cross-entropy in nats.

    A null or a rival comes after the line that it is `beside`.
    """

    name: str
    kind: Kind
    beside: str | None
    samples: int | None
    numbers: int | None
    accuracy: float
    cross_entropy: float
    recovered: float | None


class Table(TypedDict):
    """Columns by name against a first one."""

    columns: list[str]
    rows: list[list[float]]


class Run(TypedDict):
    """Everything about one run.

    `logits` says whether the outputs are the logits of classes; `outputs_set` names the set whose features are the
    model's outputs. `model` is one layer and `levels` are several, each from all coordinates below, the constant one
    included, to all above; one of them is empty.
    """

    name: str
    title: str
    facts: list[Fact]
    input: Axis | None
    output: Axis | None
    logits: bool
    model: Model | None
    levels: list[Model]
    trees: Trees | None
    samples: SampleSet | None
    outputs_set: str | None
    sets: list[Features]
    scores: list[ScoreRow]
    curves: list[Line]
    training: Table | None
    notes: list[str]


class Document(TypedDict):
    """The whole page: one run, or two to compare; `palette` is the diverging scale, from −1 to 1, of "#rrggbb"."""

    format: Annotated[int, {"const": FORMAT}]
    palette: list[Annotated[str, {"pattern": "^#[0-9a-f]{6}$"}]]
    runs: Annotated[list[Run], {"minItems": 1, "maxItems": 2}]
