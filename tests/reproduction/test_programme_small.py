"""Recipes of the programme at a size that shows whether they measure what they say, in seconds."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from reports import check_report

import oracle
from bilens import data
from bilens.data import Dataset
from bilens.errors import BilensError, StoreError
from bilens.kernel import Kernel, KernelParts
from bilens.space import Space
from bilens.store import Folder
from reproduction.lab import Lab
from reproduction.measurement import Measurement
from reproduction.recipes import boolean, equal_parameters
from reproduction.recipes.boolean import Task

pytestmark = pytest.mark.slow


class TinyLab(Lab):
    """A lab that trains for one pass over a few 8×8 digits, with narrow layers, whatever is asked for."""

    def dataset(self, name: str = "mnist") -> Dataset:
        images = data.digits()
        few = data.Split(images.train.images[:300], images.train.labels[:300])
        return replace(images, name=name, train=few)

    def size(self, full: int, quick: int) -> int:
        return {10: 2, 300: 12, 8: 3, 64: 12, 1000: 300}[full]


class WithoutFashion(TinyLab):
    """A machine that has MNIST and no Fashion-MNIST."""

    def dataset(self, name: str = "mnist") -> Dataset:
        if name == "fashion_mnist":
            raise StoreError("no Fashion-MNIST", "its files", "install them")
        return super().dataset(name)


def lab(folder: Path, kind: type[Lab] = TinyLab) -> Lab:
    return kind(Folder(folder, {}), quick=True)


@pytest.fixture(scope="module")
def parameters(tmp_path_factory) -> tuple[Lab, list[Measurement]]:
    made = lab(tmp_path_factory.mktemp("parameters"))
    return made, [equal_parameters.measure(made, seed) for seed in (0, 1)]


@pytest.fixture(scope="module")
def toys(tmp_path_factory) -> list[Measurement]:
    made = lab(tmp_path_factory.mktemp("boolean"))
    return [boolean.measure(made, seed) for seed in (0, 1)]


# Equal parameters


def test_counts_of_parameters_match(parameters) -> None:
    made, seeds = parameters
    for name in ("mnist", "fashion_mnist"):
        counts = {kind: seeds[0][f"parameters, {kind}, {name}"] for kind in equal_parameters.ACTIVATIONS}
        assert counts["bilinear"] == 12 * (64 + 64 + 10)
        assert counts["reglu"] == counts["swiglu"] == counts["bilinear"]
        for kind in ("relu", "gelu"):
            assert counts[kind] % (64 + 10) == 0
            assert abs(counts[kind] - counts["bilinear"]) <= (64 + 10) / 2
    assert len(list((made.run.path / "models").glob("*/config.json"))) == 2 * 2 * 5  # trained once each


def test_accuracies_are_those_of_the_models_and_differences_are_by_seed(parameters) -> None:
    made, seeds = parameters
    model = made.classifier(1, hidden=12, activation="swiglu", epochs=2)
    test = made.dataset().test
    left, right, read = (
        oracle.array(weight) for weight in (model.layer.left.weight, model.layer.right.weight, model.readout.weight)
    )
    gate = oracle.array(test.images) @ left.T
    logits = (gate / (1 + np.exp(-gate)) * (oracle.array(test.images) @ right.T)) @ read.T
    right_ones = (logits.argmax(axis=1) == oracle.array(test.labels)).mean()
    assert abs(seeds[1]["accuracy, swiglu, mnist"] - right_ones) < 2 / len(test.labels)  # but for ties in float32
    for seed in seeds:
        difference = seed["accuracy, swiglu, mnist"] - seed["accuracy, bilinear, mnist"]
        assert seed["accuracy less bilinear, swiglu, mnist"] == difference
    assert seeds[0] is not seeds[1]
    assert seeds[0].values.tolist() != seeds[1].values.tolist()


def test_the_report_on_equal_parameters_is_whole(parameters) -> None:
    _, seeds = parameters
    check_report(equal_parameters.RECIPE, seeds)


def test_a_machine_without_fashion_mnist_measures_mnist_and_says_so(parameters) -> None:
    made, seeds = parameters
    alone = [equal_parameters.measure(lab(made.run.path, WithoutFashion), seed) for seed in (0, 1)]
    for one, whole in zip(alone, seeds, strict=True):
        assert one.names == tuple(name for name in whole.names if name.endswith(" mnist"))
        assert all(one[name] == whole[name] for name in one.names)
    assert not [claim for claim in equal_parameters.claims(alone[0]) if "Fashion" in claim.text]
    check_report(equal_parameters.RECIPE, alone)
    check_report(equal_parameters.RECIPE, [alone[0], seeds[1]])  # found since the first seed


def test_no_other_error_is_taken_for_missing_data(tmp_path) -> None:
    class Broken(TinyLab):
        def dataset(self, name: str = "mnist") -> Dataset:
            raise BilensError("pixels from 0 to 255", "pixels from 0 to 1", "divide them")

    with pytest.raises(BilensError, match="pixels"):
        equal_parameters.measure(lab(tmp_path, Broken), 0)


# Boolean functions


def by_hand(function: str, a: float, b: float) -> bool:
    x, y = bool(a), bool(b)
    return {"AND": x and y, "OR": x or y, "XOR": x != y, "XNOR": x == y}[function]


def exact(task: Task, diagonal: float = 0.0) -> list[KernelParts]:
    """The kernels of a perfect layer, with this much of each linear coefficient moved to the diagonal."""
    found = []
    coefficients = {"AND": (0, 0, 1), "OR": (0, 1, -1), "XOR": (0, 1, -2), "XNOR": (1, -1, 2)}
    for label, (i, j) in zip(task.output.labels or (), task.pairs, strict=True):
        constant, linear, product = coefficients[label.split()[0]]
        n = task.inputs.shape[1]
        q, line = torch.zeros(n, n).double(), torch.zeros(n).double()
        q[i, j] = q[j, i] = product / 2
        line[[i, j]] = linear
        moved = diagonal * torch.arange(1, n + 1).double()
        found.append(KernelParts(q + moved.diag(), line - moved, torch.tensor(float(constant)).double()))
    return found


def test_a_task_has_every_function_of_every_pair() -> None:
    task = Task.of(4)
    assert task.inputs.shape == (16, 4)
    assert len({tuple(row) for row in task.inputs.tolist()}) == 16
    assert sorted(set(task.pairs)) == list(itertools.combinations(range(4), 2))
    for number, label in enumerate(task.output.labels or ()):
        function, i, j = label.replace(" of ", " ").replace(" and ", " ").split()
        expected = [by_hand(function, row[int(i)], row[int(j)]) for row in task.inputs.tolist()]
        assert task.targets[:, number].tolist() == expected
        assert task.pairs[number] == (int(i), int(j))
    chances = task.chances(0.125)
    oracle.near(chances.sum(), 1.0)
    oracle.near(chances @ task.inputs, [0.125] * 4)


def test_folding_the_diagonal_changes_no_boolean_output_and_makes_coefficients_unique() -> None:
    task = Task.of(4)
    generator = torch.Generator().manual_seed(0)
    space = Space("inputs", 4, constant=True)
    kernel = Kernel.from_matrix(torch.randn(5, 5, generator=generator, dtype=torch.float64), space)
    folded = boolean.multilinear(kernel.parts())
    assert not folded.quadratic.diagonal().any()
    matrix = torch.zeros(5, 5).double()
    matrix[:4, :4], matrix[:4, 4], matrix[4, 4] = folded
    again = Kernel.from_matrix(matrix, space)
    oracle.near(again(task.inputs), kernel(task.inputs), scale=10)
    assert float((again(task.inputs / 2) - kernel(task.inputs / 2)).abs().max()) > 0.1
    for one, other in zip(exact(task), exact(task, diagonal=0.7), strict=True):
        assert not torch.equal(one.linear, other.linear)
        for ours, theirs in zip(boolean.multilinear(one), boolean.multilinear(other), strict=True):
            oracle.near(ours, theirs)


def test_the_folded_form_at_the_mean_is_the_mean_output() -> None:
    task, share = Task.of(4), 0.3
    (split,) = exact(task, diagonal=0.5)[2:3]
    split = KernelParts(split.quadratic + 0.1, split.linear, split.constant)  # noise from every other pair and input
    values = torch.einsum("si,ij,sj->s", task.inputs, split.quadratic, task.inputs)
    values = values + task.inputs @ split.linear + split.constant
    chances = task.chances(share)
    means = []
    for a, b in itertools.product((0, 1), repeat=2):
        here = chances * ((task.inputs[:, 1] == a) & (task.inputs[:, 3] == b))
        means.append(float(here @ values / here.sum()))
    oracle.near(boolean.truth_table(boolean.multilinear(split), (1, 3), share), means)


def test_recovery_counts_what_is_right() -> None:
    task = Task.of(3)
    perfect = exact(task)
    assert boolean.recovered(task, perfect, 0.0)[0] == 1
    assert [boolean.strongest_pair(split) for split in perfect] == list(task.pairs)
    wrong = list(perfect)
    wrong[0] = perfect[2]  # XOR in place of AND, of the same pair: wrong at 01, 10 and 11
    wrong[1] = KernelParts(
        perfect[1].quadratic.roll((1, 1), (0, 1)), perfect[1].linear, perfect[1].constant
    )  # another pair
    whole, entries = boolean.recovered(task, wrong, 0.0)
    assert whole == 10 / 12
    oracle.near(entries, [1, 11 / 12, 11 / 12, 11 / 12])
    moved = exact(task, diagonal=0.7)
    assert boolean.recovered(task, [boolean.multilinear(split) for split in moved], 0.0)[0] == 1
    left_out = [KernelParts(split.quadratic - split.quadratic.diagonal().diag(), *split[1:]) for split in moved]
    assert boolean.recovered(task, left_out, 0.0)[0] < 1


def test_least_squares_is_exact_where_the_inputs_are_not_compressed_and_no_layer_beats_it_elsewhere() -> None:
    task = Task.of(4)
    generator = torch.Generator().manual_seed(0)
    for d, exactly in ((4, True), (2, False)):
        embedding = torch.randn(4, d, generator=generator, dtype=torch.float64)
        chances = task.chances(0.25)

        def loss(value: torch.Tensor, chances: torch.Tensor = chances) -> float:
            return float(chances @ (value - task.targets).square().mean(dim=1))

        splits = boolean.best(task, embedding, 0.25)
        values = torch.stack(
            [(task.inputs @ s.quadratic * task.inputs).sum(1) + task.inputs @ s.linear for s in splits], 1
        )
        least = loss(values + torch.stack([s.constant for s in splits]))
        trained = loss(boolean.train(task, embedding, 0.25, hidden=16, steps=400, seed=0)(task.inputs))
        assert least <= trained + 1e-12
        assert (least < 1e-20) == exactly
        assert trained < max(1e-3, 1.1 * least)


def test_truth_tables_are_recovered_from_the_weights(toys) -> None:
    for seed in toys:
        assert seed["inputs"] == 3
        assert seed["largest error of an output"] < 1e-2
        assert seed["recovered"] == 1
        for name in boolean.SHARES:
            assert seed[f"recovered, 3, {name}, trained"] == 1
            assert seed[f"recovered, 3, {name}, least squares"] == 1
        assert seed["error of the linear part, folded"] < 1e-2 < seed["error of the linear part, as trained"]
        assert seed["cosine with another seed, folded"] > 0.999 > seed["cosine with another seed, as trained"]
        assert seed["change on Boolean inputs"] < 1e-9 < 1e-2 < seed["change at ½"]
        for name, value in {"AND, xy": 1, "OR, x": 1, "XOR, xy": -2, "XNOR, 1": 1, "XNOR, x": -1}.items():
            assert seed[f"{name}, folded"] == pytest.approx(value, abs=1e-2)
        assert seed["XOR, x, as trained"] + seed["XOR, x², as trained"] == pytest.approx(1, abs=1e-2)


def test_the_report_on_boolean_functions_is_whole(toys) -> None:
    check_report(boolean.RECIPE, toys)


def test_settings_are_said(tmp_path) -> None:
    made = lab(tmp_path)
    assert "h = 12" in equal_parameters.RECIPE.settings(made)
    assert "300 training images" in equal_parameters.RECIPE.settings(made)
    assert "3 inputs" in boolean.RECIPE.settings(made)
