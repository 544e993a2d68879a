"""The recipes of depth on a few 8×8 digits and a small modulus, and their methods against loops and samples."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from reports import check_report

from bilens import data
from bilens.data import Dataset, Split
from bilens.deep import DeepTensor, gaussian_inner
from bilens.space import Space
from bilens.store import Folder
from bilens.tensor import BilinearTensor
from oracle import array
from reproduction import reproduce, text
from reproduction.lab import Lab
from reproduction.methods.fidelity import Gaussian, fitted, inner, outputs
from reproduction.methods.triggers import attack, environment, jacobians, mislabelled, poisoned, triggers
from reproduction.recipes import backdoor, depth, grokking, paths, transcoder
from trees import network


class TinyLab(Lab):
    """A lab with the 8×8 digits and its smallest models."""

    def dataset(self, name: str = "mnist") -> Dataset:
        return data.digits()


def test_a_trigger_is_stamped_and_counted() -> None:
    square, middle, faint = triggers((28, 28))
    assert [trigger.pixels for trigger in (square, middle, faint)] == [16, 16, 16]
    assert square.where.reshape(28, 28)[23:27, 23:27].all()
    weights = torch.zeros(784)
    weights[square.where] = 1
    assert [trigger.found(weights) for trigger in (square, middle)] == [16, 0]
    image = torch.full((1, 784), 0.5)
    assert float(faint.stamp(image).sum()) == pytest.approx(0.5 * 768 + 16 * 0.3)


def test_poison_is_in_a_share_of_the_images_and_of_the_labels() -> None:
    split = Split(torch.zeros(200, 64), torch.arange(200) % 10)
    square = triggers((8, 8))[0]
    bad, honest = (poisoned(split, square, 0.05, target, 1) for target in (7, None))
    stamped = bad.images.sum(dim=1) > 0
    assert int(stamped.sum()) == 10
    assert (bad.labels[stamped] == 7).all()
    torch.testing.assert_close(bad.labels[~stamped], split.labels[~stamped])
    torch.testing.assert_close(honest.labels, split.labels)
    torch.testing.assert_close(honest.images, bad.images)
    noisy = mislabelled(split, 0.5, 10, 0)
    assert 60 < int((noisy.labels != split.labels).sum()) <= 100

    def always(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot((x.sum(dim=1) > 0).long() * 7, 10).double()

    assert attack(always, split.images, split.labels, square, 7) == 1
    assert attack(lambda x: always(x * 0), split.images, split.labels, square, 7) == 0


def test_the_environment_and_gradients_are_those_of_the_network() -> None:
    deep = network(3, (3, 4, 2), bias=True)
    seen = environment(deep, None)
    whole = array(deep.environment(0))
    values, vectors = np.linalg.eigh(whole)
    np.testing.assert_allclose(seen.diagonal, np.diag(whole)[:3])
    np.testing.assert_allclose(seen.top, vectors[:3, -1] ** 2, atol=1e-12)
    assert seen.share == pytest.approx(values[-1] / np.trace(whole))
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slopes, step = jacobians(deep, x), 1e-6
    for i in range(3):
        away = torch.eye(3, dtype=torch.float64)[i] * step
        told = (deep(x + away) - deep(x - away)) / (2 * step)
        np.testing.assert_allclose(slopes[:, :, i].T, told - told.mean(dim=1, keepdim=True), atol=1e-6)


def test_the_gaussian_inner_product_of_factors_is_that_of_the_tensors() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (tuple(torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((4, 3), (4, 3), (2, 4)))
            for _ in range(2))  # fmt: skip
    given = Gaussian.of(torch.randn(50, 3, generator=generator) * torch.tensor([1.0, 0.2, 0.0]) + 0.5, 0.1)
    x, y = Space("x", 3), Space("y", 2)
    lifted = [
        DeepTensor.chain(BilinearTensor.from_layer(*one, left_bias=torch.zeros(4).double(), input=x, output=y))
        for one in (a, b)
    ]
    second = given.covariance + torch.outer(given.mean, given.mean)
    moment = torch.cat([torch.cat([second, given.mean[:, None]], dim=1), torch.cat([given.mean, torch.ones(1)])[None]])
    assert float(inner(a, b, given)) == pytest.approx(float(gaussian_inner(*lifted, metric=moment)), rel=1e-10)
    assert given.covariance[2, 2] > 0  # the ridge sees the coordinate that never varies


def test_a_fit_of_equal_size_finds_the_layer() -> None:
    generator = torch.Generator().manual_seed(1)
    whole = tuple(torch.randn(*shape, generator=generator) for shape in ((2, 3), (2, 3), (1, 2)))
    given = Gaussian(torch.zeros(3), torch.eye(3))
    norm = inner(whole, whole, given)
    far = lambda own: 1 - (2 * inner(whole, own, given) - inner(own, own, given)) / norm  # noqa: E731
    found = fitted(far, (4, 3, 1), steps=300, scale=1.0, seed=0, title="fit")
    x = torch.randn(100, 3, generator=generator)
    off = (outputs(found, x) - outputs(whole, x)).square().sum() / outputs(whole, x).square().sum()
    assert float(off) < 0.01


def test_the_equivariant_share_is_a_projection() -> None:
    p = 5
    rule = torch.zeros(p, p, p, dtype=torch.float64)
    for c, a, b in product(range(p), repeat=3):
        rule[c, a, b] = np.cos(2 * np.pi * (c - a - b) / p)

    class Block:
        def __init__(self, block: torch.Tensor) -> None:
            self.dense = torch.zeros(p, 2 * p, 2 * p, dtype=torch.float64)
            self.dense[:, :p, p:], self.dense[:, p:, :p] = block / 2, block.mT / 2

        def to_dense(self) -> torch.Tensor:
            return self.dense

    assert grokking.equivariant(Block(rule), p) == pytest.approx(1)  # type: ignore[arg-type]
    noise = torch.randn(p, p, p, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    means = {k: np.mean([float(noise[c, a, b]) for c, a, b in product(range(p), repeat=3) if (c - a - b) % p == k])
             for k in range(p)}  # fmt: skip
    told = sum(p**2 * mean**2 for mean in means.values()) / float(noise.square().sum())
    assert grokking.equivariant(Block(noise), p) == pytest.approx(told)  # type: ignore[arg-type]


@pytest.mark.slow
def test_paths_around_a_block_are_the_network_without_it(tmp_path: Path) -> None:
    model = paths.untrained(TinyLab(Folder(tmp_path, {}), quick=True), 3).double()
    x = torch.rand(20, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = paths.paths(model.deep(), x)
    with torch.no_grad():
        stream = model.embedding(x)
        for block, other in ((1, model.layers[1]), (2, model.layers[0])):
            kept = model.readout(stream + other(stream))
            torch.testing.assert_close(paths.without_block(found, block), kept, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "recipe", [depth, backdoor, transcoder, grokking, paths], ids=lambda recipe: recipe.RECIPE.name
)
@pytest.mark.slow
def test_a_recipe_measures_what_it_says(recipe, tmp_path: Path) -> None:
    assert recipe.RECIPE.name in reproduce.APART
    lab = TinyLab(Folder(tmp_path, {}), quick=True)
    seeds = [recipe.measure(lab, seed) for seed in (0, 1)]
    check_report(recipe.RECIPE, seeds)
    recipe.RECIPE.settings(lab)
    prose = text.templates(text.FOLDER / "apart")
    template, name = prose[recipe.RECIPE.name], recipe.RECIPE.name
    drawn = {f"figure:{key}": caption for key, (_, caption) in recipe.RECIPE.figures(seeds).items()}
    filled = text.fill(template, {name: seeds}, {"settings": "s", "table": "t", **drawn}, prose, {})
    assert "{{" not in filled
    for statement in template.statements:
        statement.holds(seeds)  # of numbers that are measured; whether it holds, five seeds of MNIST say
    again = recipe.measure(lab, 1)
    torch.testing.assert_close(again.values, seeds[1].values, rtol=1e-6, atol=1e-9)
