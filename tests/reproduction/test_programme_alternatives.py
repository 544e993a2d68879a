"""Alternatives to eigendecomposition at a size of 8×8 pixels: each number against its definition."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import oracle
from bilens import data, decompose, store
from bilens.data import Dataset, Split
from bilens.kernel import Kernel
from bilens.models import ImageClassifier
from bilens.space import Space
from bilens.store import Folder
from bilens.tensor import BilinearTensor
from reproduction.lab import Lab
from reproduction.measurement import Measurement
from reproduction.methods import extrema
from reproduction.methods.squares import Squares
from reproduction.recipes import alternative_methods, alternatives
from reproduction.recipes.alternative_methods import BOX, EIGENVECTORS, KEPT, METHODS, ORDER4, SPARSE

pytestmark = pytest.mark.slow


class TinyLab(Lab):
    """A lab that trains for one pass over a few 8×8 digits, with narrow layers and few starts."""

    def dataset(self, name: str = "mnist") -> Dataset:
        images = data.digits()
        return replace(images, name=name, train=Split(images.train.images[:300], images.train.labels[:300]))

    def size(self, full: int, quick: int) -> int:
        return {10: 2, 300: 12, 32: 2, 64: 4}[full]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Lab:
    return TinyLab(Folder(tmp_path_factory.mktemp("alternatives"), {}), quick=True)


@pytest.fixture(scope="module")
def seeds(made: Lab) -> list[Measurement]:
    return [alternatives.measure(made, seed) for seed in (0, 1)]


@pytest.fixture(scope="module")
def tensor(made: Lab) -> BilinearTensor:
    lit = alternatives.lit(made)
    return alternatives.over(made.classifier(0, hidden=12, epochs=2).tensor().centered(), lit)


def squares_of(*rows: list[float]) -> Squares:
    vectors = torch.nn.functional.normalize(torch.tensor(rows), dim=1)
    return Squares(torch.ones(len(rows)), vectors, torch.tensor(0.0), Space("x", len(rows[0])))


def test_the_tensor_over_lit_pixels_is_the_model_on_images_that_light_no_other(made, tensor) -> None:
    train = made.dataset().train.images
    lit = alternatives.lit(made)
    counts = (train > 0).sum(dim=0)
    assert lit.tolist() == (counts > alternatives.QUICK_LIT * len(train)).tolist()
    assert alternatives.lit(replace(made, quick=False)).tolist() == (counts > 0).tolist()
    assert 0 < int(lit.sum()) < int((counts > 0).sum()) < len(lit)
    train = train * lit
    own = made.classifier(0, hidden=12, epochs=2)(train)
    oracle.near(tensor(train[:, lit]), own - own.mean(dim=1, keepdim=True), 10.0, rtol=1e-6)


def test_logits_are_rebuilt_from_the_first_directions_by_least_squares_on_the_weights(made, tensor, seeds) -> None:
    test = made.dataset().test
    lit = alternatives.lit(made)
    x, labels = oracle.array(test.images[:, lit]), oracle.array(test.labels)
    dense = oracle.dense(tensor.left, tensor.right, tensor.down)
    for k in (1, 5, KEPT[-1]):
        logits, left = [], []
        for matrix in dense:
            values, columns = np.linalg.eigh(matrix)
            first = np.argsort(-abs(values))[:k]
            logits.append(((x @ columns[:, first]) ** 2) @ values[first])
            left.append(np.linalg.norm(np.delete(values, first)) / np.linalg.norm(values))
        right = (np.stack(logits, axis=1).argmax(axis=1) == labels).mean()
        assert abs(seeds[0][f"{EIGENVECTORS}, accuracy at {k}"] - right) < 2 / len(labels)
        oracle.near(seeds[0][f"{EIGENVECTORS}, residual at {k}"], np.mean(left), rtol=1e-4)
        oracle.near(seeds[0][f"{EIGENVECTORS}, residual of the span at {k}"], np.mean(left), rtol=1e-4)
    assert abs(seeds[0][f"{EIGENVECTORS}, accuracy at {KEPT[-1]}"] - seeds[0]["accuracy"]) < 0.05
    for method in METHODS:
        for seed in seeds:
            left = [seed[f"{method}, residual at {k}"] for k in KEPT]
            assert all(a >= b - 1e-6 for a, b in itertools.pairwise(left))
            assert all(
                seed[f"{method}, residual at {k}"] >= seed[f"{EIGENVECTORS}, residual at {k}"] - 1e-6 for k in KEPT
            )
            assert all(seed[f"{method}, residual of the span at {k}"] <= seed[f"{method}, residual at {k}"] + 1e-6
                       for k in KEPT)  # fmt: skip


def test_sparsity_is_of_the_first_directions(seeds) -> None:
    found = [squares_of(*[[1.0, 0, 0, 0]] * 5, [1.0, 1, 1, 1]), squares_of([1.0, 1, 0, 0])]
    hoyer, pixels = alternative_methods.sparsity(found)
    oracle.near(hoyer, (5 * 1 + (2 - math.sqrt(2))) / 6, rtol=1e-6)
    oracle.near(pixels, (5 * 1 + 2) / 6, rtol=1e-6)
    for seed in seeds:
        assert seed[f"{SPARSE}, sparsity"] > seed[f"{EIGENVECTORS}, sparsity"]
        assert seed[f"{SPARSE}, pixels"] <= 6


def test_directions_are_matched_digit_by_digit_whatever_their_order_and_sign() -> None:
    one, two, three = [1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0]
    ours = [squares_of(one, two), squares_of(one, two, three)]
    same = [squares_of(two, [-1.0, 0, 0, 0]), squares_of(two, three, one)]
    less = [squares_of([1.0, 0, 0, 1.0]), squares_of([0, 0, 0, 1.0], two, one)]
    (cosine, angle), (null, other) = alternative_methods.stability(ours, [same, less])
    oracle.near(cosine, (1 * 0 + 1) / 2, rtol=1e-6)  # one direction of the first digit, for the third model has one
    oracle.near(angle, 0.5, rtol=1e-6)
    oracle.near(null, (math.sqrt(0.5) + 2 / 3) / 2, rtol=1e-6)
    oracle.near(other, (math.sqrt(0.5) + (1 + 1 + 0) / 3) / 2, rtol=1e-6)
    assert alternative_methods.stability(ours, [same]) == [pytest.approx((1.0, 1.0))]


def test_seeds_are_compared_with_other_models(made, tensor, seeds) -> None:
    lit = alternatives.lit(made)
    other = made.classifier(1000, hidden=12, epochs=2)
    blank = ImageClassifier(other.input, other.output, 12, seed=1000)

    def spans(part: BilinearTensor) -> list[oracle.Array]:
        return [oracle.array(decompose.eigh(part.kernel(o), 5).vectors) for o in range(10)]

    for name, model in (("another seed", other), ("an untrained model", blank)):
        theirs = spans(alternatives.over(model.tensor().centered(), lit))
        angles = [np.linalg.svd(a @ b.T, compute_uv=False).mean() for a, b in zip(spans(tensor), theirs, strict=True)]
        oracle.near(seeds[0][f"{EIGENVECTORS}, angles with {name}"], np.mean(angles), rtol=1e-4)
        assert np.mean(angles) < 0.99


def test_extrema_are_what_they_are_called(made, tensor) -> None:
    found = alternative_methods.find(tensor, 5, box_starts=4, form_starts=8, seed=0)
    for o, (maxima, minima) in enumerate(found.box):
        matrix = oracle.dense(tensor.left, tensor.right, tensor.down)[o]
        for ends, sign in ((maxima, 1), (minima, -1)):
            x = oracle.array(ends.vectors)
            oracle.near(ends.values, sign * np.einsum("ni,ij,nj->n", x, matrix, x), abs(matrix).sum(), rtol=1e-6)
        corners = (torch.rand(2000, tensor.input.size, generator=torch.Generator().manual_seed(o)) < 0.5).float()
        assert float(tensor.kernel(o)(corners).max()) < float(maxima.values[0])
        assert float(-tensor.kernel(o)(corners).min()) < float(minima.values[0])
    assert len(found.directions[ORDER4]) == 10
    assert all(len(whole) <= len(found.form) for whole in found.directions[ORDER4])
    numbers = alternative_methods.sphere_numbers(tensor, 4, 0)
    assert numbers["sphere, most places"] == 1
    assert numbers["sphere, largest distance from λ"] < 1e-5


def test_places_are_alike_by_their_cosines_and_images_have_a_nearest() -> None:
    kernel = Kernel.from_matrix(torch.eye(2).double(), Space("x", 2))
    valley = extrema.box(kernel, -1.0, 1.0, 50)
    assert len(valley) == 4
    oracle.near(alternative_methods._alike([valley]), (4 * 0 + 2 * -1) / 6)
    assert alternative_methods._alike([extrema.sphere(Kernel.from_matrix(torch.ones(2, 2), Space("x", 2)), 3)]) == 1
    images = Split(torch.tensor([[0.2, 0.0], [0.0, 0.3]]), torch.tensor([7, 8]))
    cosines, labels = alternative_methods._nearest(torch.tensor([[0.6, 0.8], [5.0, 0.0]]), images)
    oracle.near(cosines, [0.8, 1.0], rtol=1e-6)
    assert labels.tolist() == [8, 7]


def test_numbers_of_the_box_are_shares_and_means(seeds) -> None:
    for seed in seeds:
        for name in alternatives.PERCENT:
            assert 0 <= seed[name] <= 1
        assert seed["box, converged"] == 1
        assert seed["box, highest logit"] > seed["box, highest logit of a test image"]
        assert seed["box, highest logit"] > seed["box, highest logit of a random image"]
        assert seed["clusters, share inside"] > seed["clusters, share by size"]


def test_the_report_is_whole_and_its_measurement_can_be_kept(seeds, tmp_path) -> None:
    recipe = alternatives.RECIPE
    store.save(seeds[0], tmp_path / "one")
    kept = store.load(tmp_path / "one", Measurement)
    for measured in (seeds, [kept]):
        drawn = recipe.figures(measured)
        assert len(drawn) == 3
        for figure, caption in drawn.values():
            assert isinstance(figure, Figure)
            assert caption.endswith(".")
    table = recipe.claims(seeds[0])
    for claim in table:
        for seed in seeds:
            assert math.isfinite(seed[claim.number])
            format(claim.scale * seed[claim.number], claim.form)
    assert len({claim.text for claim in table}) == len(table)
    assert set(alternatives.PARTICULAR) <= {claim.number for claim in table}
    assert not alternatives.PERCENT - set(alternatives.PARTICULAR)


def test_settings_are_said_and_the_record_names_its_own_pixels(made, seeds) -> None:
    said = alternatives.RECIPE.settings(made)
    assert "h = 12" in said
    assert "2 starts" in said
    for whole in seeds[0].records:
        assert whole.input.image == (8, 8)
        assert len(whole) <= 6
    assert BOX in METHODS
