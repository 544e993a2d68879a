"""What a page says that features are made of, read and write, and what ablating a pair does, beside the layer alone.

The layer is exactly bilinear: numpy has its quadratic forms from runs of the layer in transformers, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reading_job
import torch
from reading_job import LAYER, directions, in_transformers, page
from torch import nn

import tiny_models
from bilens.analyses.language import job
from bilens.analyses.language.layer import from_weights
from bilens.errors import StoreError
from bilens.sae import SAE, Site, TopKSAE
from messages import refuses

pytest.importorskip("duckdb", reason="pip install 'bilens[tables]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # of a library that is not ours

WIDTH, CODES = 16, 4


def coder(folder: Path, site: str, features: int, seed: int) -> SAE:
    """A coder that was never trained, saved in a folder."""
    made = TopKSAE(WIDTH, features, CODES, seed=seed)
    made.site = Site(site, LAYER)
    with torch.no_grad():
        for name in ("b_enc", "b_dec"):
            drawn = torch.randn(getattr(made, name).shape, generator=torch.Generator().manual_seed(seed + len(name)))
            getattr(made, name).copy_(0.2 * drawn)
    made.save_pretrained(folder)
    return made


class Example:
    """A model, the coders that its layer was read with, and the page."""

    def __init__(self, model: Any, path: Path, read: SAE | None = None, write: SAE | None = None) -> None:
        self.model, self.read, self.write, self.document = model, read, write, page(path)
        self.folder = path.parent
        self.text = reading_job.subject(model).split if self.document["text"] else None

    @cached_property
    def fit(self) -> tuple[np.ndarray, np.ndarray]:
        """(x', y) of the fitted tokens."""
        assert self.text is not None
        x, y = in_transformers(self.model, self.text.fit)
        return lifted(self.unit(x), 1), y

    @cached_property
    def root(self) -> np.ndarray:
        """M^½ of the fitted tokens, the identity without any."""
        if self.text is None:
            return np.eye(WIDTH + 1)
        x, _ = self.fit
        values, vectors = np.linalg.eigh(x.T @ x / len(x))
        return vectors * np.sqrt(values) @ vectors.T

    @property
    def gain(self) -> np.ndarray:
        """Of the norm before the MLP."""
        gain: np.ndarray = self.model.model.layers[LAYER].post_attention_layernorm.weight.detach().double().numpy()
        return gain

    def unit(self, x: np.ndarray) -> np.ndarray:
        """x̂."""
        unit: np.ndarray = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + self.model.config.rms_norm_eps)
        return unit

    def layer(self, unit: np.ndarray) -> np.ndarray:
        """What the MLP in transformers gives at x̂."""
        mlp = self.model.model.layers[LAYER].mlp
        with torch.no_grad():
            given: np.ndarray = mlp.double()(torch.from_numpy(unit * self.gain)).numpy()
            mlp.float()
        return given

    def token(self, place: int) -> int:
        """The number of a token of the page."""
        return int(self.document["tokens"][place])

    def features(self) -> list[tuple[dict[str, Any], np.ndarray]]:
        """Features of the page with their directions."""
        found = []
        for each in self.document["sets"]:
            for feature in each["features"]:
                if each["name"] == "tokens":
                    found.append((feature, directions(self.model, [int(feature["label"])])[0]))
                elif self.write is not None and each["name"] == "write":
                    row = self.write.W_enc[:, feature["number"]]
                    found.append((feature, row.detach().double().numpy()))
        return found

    @cached_property
    def codes(self) -> np.ndarray:
        """z, of the input on held-out text, by the coder's formula."""
        assert self.read is not None
        assert self.text is not None
        n = self.unit(in_transformers(self.model, self.text.held_out)[0]) * self.gain
        named = {name: value.detach().double().numpy() for name, value in self.read.named_parameters()}
        scores = (n - named["b_dec"]) @ named["W_enc"] + named["b_enc"]
        least = np.sort(scores, axis=1)[:, -CODES, None]
        codes: np.ndarray = np.where(scores >= least, np.maximum(scores, 0), 0)
        return codes

    def atoms(self) -> tuple[np.ndarray, np.ndarray]:
        """What one unit of each code adds to x̂, and what is there without any."""
        assert self.read is not None
        return tuple(part.detach().double().numpy() / self.gain for part in (self.read.W_dec, self.read.b_dec))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return tiny_models.made("llama", hidden_act="linear", mlp_bias=True)


def asked(base: Path) -> dict[str, Any]:
    """What a run with coders is asked for."""
    return {"inputs": str(base / "read"), "directions": ("tokens", str(base / "write"))}


@pytest.fixture(scope="module")
def seen(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Example:
    """Read with text and coders."""
    base = tmp_path_factory.mktemp("made")
    read, write = coder(base / "read", "mlp_in", 20, 1), coder(base / "write", "mlp_out", 12, 2)
    (path,) = reading_job.read(base / "run", reading_job.subject(model), **asked(base))
    return Example(model, path, read, write)


@pytest.fixture(scope="module")
def alone(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Example:
    """Read from its weights."""
    out = tmp_path_factory.mktemp("made") / "run"
    (path,) = reading_job.read(out, reading_job.subject(model, text=False))
    return Example(model, path)


@pytest.fixture(params=["seen", "alone"])
def example(request: pytest.FixtureRequest) -> Example:
    found: Example = request.getfixturevalue(request.param)
    return found


def by_token(example: Example) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(numbers, x', y, mean x'): the tokens with x' and y less their means, and what the mean input is.

    With text x' and y are averages over it, of the tokens that occur three times; without, those of the embeddings.
    """
    if example.text is None:
        numbers = np.arange(tiny_models.VOCABULARY)
        unit = example.unit(example.model.model.embed_tokens.weight.detach().double().numpy())
        y, middle = example.layer(unit), np.eye(WIDTH + 1)[WIDTH]
        return numbers, lifted(unit - unit.mean(axis=0), 0), y - y.mean(axis=0), middle
    tokens, (unit, y) = example.text.fit[:, 1:].flatten().numpy(), example.fit
    numbers = np.array([token for token in np.unique(tokens) if (tokens == token).sum() >= 3])
    assert 20 < len(numbers) < len(np.unique(tokens))
    means = [np.array([part[tokens == token].mean(axis=0) for token in numbers]) for part in (unit, y)]
    return numbers, means[0] - unit.mean(axis=0), means[1] - means[1].mean(axis=0), unit.mean(axis=0)


def lifted(unit: np.ndarray, constant: float) -> np.ndarray:
    """With the constant coordinate."""
    return np.concatenate([unit, np.full((len(unit), 1), constant)], axis=1)


def quadratic(example: Example, u: np.ndarray) -> np.ndarray:
    """Q of u·y = x'ᵀ Q x', from the layer at 0, at ± each coordinate and at sums of two."""
    eye, nothing = np.eye(WIDTH), float(example.layer(np.zeros((1, WIDTH)))[0] @ u)
    up, down = example.layer(eye) @ u, example.layer(-eye) @ u
    both = example.layer((eye[:, None] + eye[None]).reshape(-1, WIDTH)).reshape(WIDTH, WIDTH, -1) @ u
    q = np.zeros((WIDTH + 1, WIDTH + 1))
    q[:WIDTH, :WIDTH] = (both - up[:, None] - up[None] + nothing) / 2
    q[:WIDTH, WIDTH] = q[WIDTH, :WIDTH] = (up - down) / 4
    q[WIDTH, WIDTH] = nothing
    return q


def eigenvectors(example: Example, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(values, vectors), one per row: in the metric of the fitted tokens where there are any."""
    values, vectors = np.linalg.eigh(example.root @ quadratic(example, u) @ example.root)
    order = np.argsort(-np.abs(values))
    return values[order], np.linalg.solve(example.root, vectors[:, order]).T


def ends(scores: np.ndarray, count: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """The largest scores and the smallest, outermost first."""
    ordered = np.sort(scores)
    return ordered[::-1][:count], ordered[:count]


def same(shown: list[dict[str, Any]], scores: np.ndarray, number: Callable[[int], int], kind: str) -> None:
    """Both sides of a list hold the outermost scores, each under its own name.

    Args:
        scores: by number; number: of what the page names; kind: "tokens" or "inputs".
    """
    scale = np.abs(scores[np.isfinite(scores)]).max()
    for side, expected in zip(shown, ends(scores[np.isfinite(scores)], len(shown[0]["values"])), strict=True):
        np.testing.assert_allclose(side["values"], expected, rtol=6e-3, atol=1e-4 * scale)
        named = [scores[number(place)] for place in side[kind]]
        np.testing.assert_allclose(side["values"], named, rtol=6e-3, atol=1e-4 * scale)
        assert len(set(side[kind])) == len(side[kind]) > 0


def scattered(numbers: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Scores by the numbers of all tokens; NaN where a token has none."""
    every = np.full(tiny_models.VOCABULARY, np.nan)
    every[numbers] = scores
    return every


def turned(part: dict[str, Any], scores: np.ndarray, token: Callable[[int], int]) -> int:
    """1 or -1: the way round in which the page has an eigenvector."""
    return 1 if part["one"]["values"][0] * scores[token(part["one"]["tokens"][0])] > 0 else -1


def test_eigenvectors_are_made_of_the_tokens_that_numpy_finds(example: Example) -> None:
    numbers, inputs, _, middle = by_token(example)
    features = example.features()
    assert len(features) == (10 if example.write is None else 22)
    for feature, u in features:
        values, vectors = eigenvectors(example, u)
        np.testing.assert_allclose(feature["values"], values[: len(feature["values"])], rtol=1e-3)
        assert len(feature["parts"]) == 5
        for part, v in zip(feature["parts"], vectors, strict=False):
            scores = scattered(numbers, inputs @ v)
            sign = turned(part, scores, example.token)
            same([part["one"], part["other"]], sign * scores, example.token, "tokens")
            length = (v**2).sum() if example.text is None else 1
            assert part["constant"] == pytest.approx(min(1, (v @ middle) ** 2 / length), rel=6e-3, abs=1e-4)


def test_eigenvectors_are_made_of_the_input_features_that_numpy_finds(seen: Example) -> None:
    atoms, _ = seen.atoms()
    strength = np.sqrt((seen.codes**2).mean(axis=0))
    numbers, inputs, *_ = by_token(seen)
    labels = seen.document["inputs"]["labels"]
    for feature, u in seen.features():
        _, vectors = eigenvectors(seen, u)
        for part, v in zip(feature["parts"], vectors, strict=False):
            sign = turned(part, scattered(numbers, inputs @ v), seen.token)
            scores = sign * (atoms * strength[:, None]) @ v[:WIDTH]
            same([part["inputs_one"], part["inputs_other"]], scores, lambda place: int(labels[place]), "inputs")


def test_features_read_and_write_the_tokens_that_numpy_finds(example: Example) -> None:
    numbers, _, y, _ = by_token(example)
    every = directions(example.model, list(range(tiny_models.VOCABULARY)))
    for feature, u in example.features():
        same(feature["reads"], scattered(numbers, y @ u), example.token, "tokens")
        written = u / (u @ u)
        if feature["token"] is None:
            assert example.write is not None
            written = example.write.W_dec[feature["number"]].detach().double().numpy()
        same(feature["writes"], every @ written, example.token, "tokens")


def without(example: Example, u: np.ndarray, pair: tuple[str, str]) -> Callable[[np.ndarray], np.ndarray]:
    """From codes to the term of a pair in u·y: what the layer's runs with and without the two features leave of it.

    A quadratic form f has c z_a z_b = f(all) − f(without a) − f(without b) + f(without both).
    """
    atoms, offset = example.atoms()

    def run(x: np.ndarray) -> np.ndarray:
        given: np.ndarray = example.layer(x) @ u
        return given

    def term(codes: np.ndarray) -> np.ndarray:
        a, b = (None if name == "constant" else int(name) for name in pair)
        if a is None:
            return run(np.broadcast_to(offset, (len(codes), WIDTH)))
        one = codes[:, a, None] * atoms[a]
        if b is None:  # what is odd in the feature is its product with the constant
            return (run(offset + one) - run(offset - one)) / 2
        if a == b:
            return (run(offset + one) + run(offset - one)) / 2 - run(np.broadcast_to(offset, one.shape))
        whole, other = offset + codes @ atoms, codes[:, b, None] * atoms[b]
        return run(whole) - run(whole - one) - run(whole - other) + run(whole - one - other)

    return term


def test_what_ablating_a_pair_does_is_the_layer_without_its_term(seen: Example) -> None:
    codes, labels = seen.codes, seen.document["inputs"]["labels"]
    kinds, changed = set(), 0
    for feature, u in seen.features():
        columns = feature["interactions"]
        assert {len(column) for column in columns.values()} == {6}
        for shown in (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)):
            pair = (labels[shown["first"]], labels[shown["second"]])
            change = -without(seen, u, pair)(codes).mean()
            size = abs(shown["coefficient"]) * (codes**2).max()
            assert shown["change"] == pytest.approx(change, rel=6e-3, abs=1e-5 * size)
            active = [codes[:, int(name)] != 0 if name != "constant" else np.ones(len(codes), bool) for name in pair]
            assert shown["together"] == (active[0] & active[1]).sum()
            kinds.add(tuple(name == "constant" for name in pair) if pair[0] != pair[1] else "square")
            changed += change != 0
    assert changed > 50
    assert {"square", (False, False)} <= kinds


def test_the_small_matrix_has_what_two_features_alone_add_to_the_layer(seen: Example) -> None:
    labels, checked = seen.document["inputs"]["labels"], 0
    for feature, u in seen.features()[:4]:
        named = [labels[place] for place in feature["square"]["inputs"]]
        for row, (first, values) in enumerate(zip(named, feature["square"]["values"], strict=True)):
            for second, shown in list(zip(named, values, strict=True))[row:]:
                pair = (second, first) if first == "constant" else (first, second)
                codes = np.zeros((1, 20))
                codes[0, [int(name) for name in pair if name != "constant"]] = 1
                expected = without(seen, u, pair)(codes)[0]
                assert shown == pytest.approx(expected, rel=6e-3, abs=1e-3)
                checked += 1
    assert checked > 100


PLACES = {
    "vectors": "vectors",
    "activations": "activations",
    "coders": "coders",
    "records": "records",
    "pages": "*.html",
    **{name: f"tables/{name}" for name in ("features", "eigenpairs", "interactions", "examples")},
}
"""Where each announced part is."""


def held(folder: Path, pattern: str) -> tuple[int, int]:
    """Bytes and number of the files there."""
    found = [path for each in folder.glob(pattern) for path in (each, *each.rglob("*")) if path.is_file()]
    return sum(path.stat().st_size for path in found), len(found)


def test_each_part_is_as_large_as_was_announced(example: Example) -> None:
    """Between a third and twice of it, and 6 kB more for what a file has of its own."""
    subject = reading_job.subject(example.model, text=example.text is not None)
    more = {} if example.read is None else asked(example.folder.parent)
    plan = job.Plan(**{**reading_job.PLAN.__dict__, **more})
    told = job.announced(subject, from_weights(subject.checkpoint.mlp(LAYER)), [LAYER], plan, example.folder).parts
    assert told.keys() == PLACES.keys()
    for name, pattern in PLACES.items():
        written, files = held(example.folder, pattern)
        assert told[name] / 3 <= written <= 2 * told[name] + 6000 * files, (name, told[name], written)
        assert bool(told[name]) == bool(written), name


def test_a_disk_without_room_for_activations_is_refused_and_what_is_there_counts_as_room(
    seen: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, plan = reading_job.subject(seen.model), job.Plan(**{**reading_job.PLAN.__dict__, "inputs": "train"})
    layer = from_weights(subject.checkpoint.mlp(LAYER))
    total = job.announced(subject, layer, [LAYER], plan, tmp_path).total
    assert total > sum(part.numel() * 4 * WIDTH for part in (subject.split.fit, subject.split.held_out))  # type: ignore[union-attr]
    free = [total]
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": free[0]}))
    job.announced(subject, layer, [LAYER], plan, tmp_path)
    free[0] -= 1
    with refuses(StoreError, "free at", "free space or name another folder".capitalize()):
        job.announced(subject, layer, [LAYER], plan, tmp_path)
    job.announced(subject, layer, [LAYER], plan, seen.folder)  # of which much is written
