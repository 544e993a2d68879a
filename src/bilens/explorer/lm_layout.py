"""The data of the page of one layer of a language model as typed dictionaries, as `layout` has them for images."""

from __future__ import annotations

from typing import Annotated, Literal, TypedDict

from bilens._internal.encoding import Array
from bilens.explorer.layout import Fact

FORMAT = 3
"""Version of the layout; the page refuses another one."""

ONE_BY_ONE = 8
"""Pairs of a feature that a sum shows one by one."""


class Tokens(TypedDict):
    """Tokens, by their places among the page's, each with a number; the largest first."""

    tokens: list[int]
    values: list[float]


class Named(TypedDict):
    """Input features, by their places among the set's, each with a number."""

    inputs: list[int]
    values: list[float]


class Part(TypedDict):
    """What one eigenvector reads: tokens and input features on its two sides, which side is which means nothing.

    `constant` is what the mean input, or the constant coordinate, holds of it.
    """

    constant: float
    one: Tokens
    other: Tokens
    inputs_one: Named | None
    inputs_other: Named | None


class Example(TypedDict):
    """A stretch of text around a token, `focus`, with the feature's value at each.

    `predicted` is what all stored pairs say there, `two` what the first two say, each with the mean of the rest.
    """

    focus: int
    tokens: list[int]
    values: list[float]
    value: float
    predicted: float
    two: float


class Interactions(TypedDict):
    """Pairs of input features whose products add to the feature, and what share of all interactions each holds.

    `together` and `expected` say in how many samples both are active, and would be by chance; `change` is what taking
    the pair away changes in the mean.
    """

    first: list[int]
    second: list[int]
    coefficient: list[float]
    share: list[float]
    together: list[int | None]
    expected: list[float | None]
    change: list[float | None]


class Square(TypedDict):
    """Coefficients among some input features."""

    inputs: list[int]
    values: list[list[float]]


class Feature(TypedDict):
    """One feature u·y ≈ Σ λ (v·x')², and what else there is.

    `values` are λ, `shares` λ² / ‖Q‖²; `correlations` those of the first k pairs at the set's numbers, `full` that of
    all pairs; `reads` and `writes` have two sides, the largest and the smallest. `place` is its row in the set's terms.
    `left` bounds what all interactions left out add, per ‖z‖².
    """

    number: int
    label: str
    token: int | None
    energy: float
    held: float
    values: list[float]
    shares: list[float]
    residual: float
    exact: bool
    mean: float | None
    deviation: float | None
    rest: list[float] | None
    correlations: list[float] | None
    full: float | None
    reads: list[Tokens]
    writes: list[Tokens]
    parts: list[Part]
    largest: list[Example]
    smallest: list[Example]
    failed: list[Example]
    interactions: Interactions
    left: float
    square: Square


class Features(TypedDict):
    """A set of features. `total` is how many the run has; `terms` λ (v·x')² at the stretches' tokens, (n · r, s):
    of each feature the pairs that are shown one by one, then sums of the others, one for each further number of `at`.
    `whole` is the full quadratic form, `true` what the original layer gives, (n, s), all in the order of `features`.
    """

    name: str
    title: str
    feature: str
    about: str
    control: bool
    total: int
    features: list[Feature]
    terms: Array | None
    whole: Array | None
    true: Array | None


class Spread(TypedDict):
    """Over all features of a set, at each number of pairs: the median and the quartiles."""

    name: str
    control: bool
    at: list[int]
    median: list[float]
    low: list[float]
    high: list[float]
    full: float | None


class Cost(TypedDict):
    """What stands in the layer's place: share of variance lost, cross-entropy more in nats and its standard error."""

    name: str
    kind: Literal["surrogate", "null"]
    fvu: float
    delta_ce: float
    error: float


class InputSet(TypedDict):
    """The input features that are named anywhere on the page; `tokens` says what each of a coder's is active at."""

    title: str
    about: str
    kind: Literal["tokens", "coder"]
    labels: list[str]
    tokens: list[list[int]]


class Text(TypedDict):
    """What text was seen: tokens that were fitted to, tokens that were held out; stretches of the latter."""

    described: str
    fit: int
    held_out: int
    measured: int
    stretches: list[list[int]]


class Alike(TypedDict):
    """Exact cosines ⟨Q, Q'⟩ / ‖Q‖ ‖Q'‖ of kernels, (n, m), and their norms, in a metric that is said in words.

    The n features are those of this page, all sets in order; the m are the same, or those of the layer beside it.
    """

    metric: str
    cosines: Array
    first: list[float]
    second: list[float]


class Block(TypedDict):
    """The weights of one block of a small model, each matrix (out, in), for a page that runs the model."""

    norm: Array
    query: Array
    key: Array
    value: Array
    output: Array
    mlp_norm: Array
    gate: Array
    up: Array
    down: Array


class Typed(TypedDict):
    """A small model up to the layer, with which the page computes what a sentence is that a person types.

    `names` are its tokens as its tokenizer has them, bytes as characters, `merges` pairs of them in order, `texts` what
    they read as, and `special` those that are no text; `first` is the token that every text begins with. `surrogate`
    has a, b, c, e and f of z (a v + b z + c) + e v + f for each unit, (5, h), null for the layer itself. `directions`
    are those of all features of the page, (n, o), `vectors` their first `pairs` eigenvectors, (n · pairs, i).
    """

    names: list[str]
    texts: list[str]
    merges: list[str]
    special: list[str]
    first: int | None
    longest: int
    heads: int
    groups: int
    theta: float
    eps: float
    gate: Literal["silu", "identity"]
    embedding: Array
    blocks: list[Block]
    surrogate: Array | None
    directions: Array
    vectors: Array
    pairs: int


class Beside(TypedDict):
    """Another layer, to compare with: what its page has, without what only a feature's own view shows."""

    reading: Reading
    alike: Alike


class Reading(TypedDict):
    """The whole page; `tokens` are the texts of all tokens on it, `order` is that of the pairs.

    `readings` are tokens of text that `reads` is an average over, 0 for embeddings; `at` the numbers of pairs that
    predictions are measured at; `apart` how far the tensor is from what it stands for; `others` further layers;
    `limit` the bytes for which features, or the small model, were left out, null where nothing was.
    """

    format: Annotated[int, {"const": FORMAT}]
    title: str
    run: str
    layer: int
    layers: int
    others: list[int]
    method: Literal["exact", "least_squares", "weights_only", "gaussian"]
    order: Literal["data", "plain"]
    named: bool
    apart: float | None
    facts: list[Fact]
    costs: list[Cost]
    tokens: list[str]
    text: Text | None
    at: list[int]
    inputs: InputSet
    readings: int
    shares: list[Spread]
    correlations: list[Spread]
    sets: list[Features]
    alike: Alike
    beside: Beside | None
    typed: Typed | None
    limit: int | None
    notes: list[str]
