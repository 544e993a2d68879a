"""The front on small digits: what is stored, what is recovered and the nulls, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from bilens import data, pairs
from bilens.faithfulness import Curve, Score
from bilens.pair_coding import Coded
from bilens.store import Folder
from reproduction.lab import Lab
from reproduction.measurement import Measurement
from reproduction.recipes import front as recipe
from reproduction.recipes import front_coders, front_measure, front_read
from reproduction.recipes.front_coders import Plan
from reproduction.recipes.front_figure import Point, draw, front, nines, points

pytestmark = pytest.mark.slow

SIZES = {1000: 12, 10: 4}


class TinyLab(Lab):
    """Everything as small as it can be."""

    def size(self, full: int, quick: int) -> int:
        return SIZES[full]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return TinyLab(Folder(tmp_path_factory.mktemp("front"), {}), True, {"small_mnist": data.load("digits")})


@pytest.fixture(scope="module")
def seeds(lab: Lab) -> list[Measurement]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(front_coders, "OUTPUTS", (front_coders.MAIN, Plan(600, 4, 400)))
        patch.setattr(front_coders, "LOGITS", (Plan(600, 1, 600), Plan(700, 2, 600)))
        return [lab.run.record(f"front/{s}", Measurement, lambda s=s: front_measure.measure(lab, s)) for s in (0, 1)]


@pytest.fixture(scope="module")
def read(lab: Lab) -> front_read.Read:
    return front_read.Read.of(lab, 0)


def dense(read: front_read.Read) -> np.ndarray:
    """The centred tensor (classes, d, d) of the model, by hand."""
    w, v = (part.weight.detach().double().numpy() for part in (read.model.layer.left, read.model.layer.right))
    d = read.model.readout.weight.detach().double().numpy()
    half = np.einsum("oh,hi,hj->oij", d - d.mean(axis=0), w, v)
    return (half + half.transpose(0, 2, 1)) / 2


def recovered(read: front_read.Read, logits: np.ndarray) -> float:
    def loss(values: np.ndarray) -> float:
        shifted = values - values.max(axis=1, keepdims=True)
        return float(np.mean(np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(shifted)), read.labels]))

    own = np.einsum("ni,oij,nj->no", read.images.double(), dense(read), read.images.double())
    return (np.log(10) - loss(logits)) / (np.log(10) - loss(own))


def at(seed: Measurement, name: str, k: int) -> tuple[float, int]:
    curve = seed.curve(name)
    place = curve.kept.tolist().index(k)
    assert curve.recovered is not None
    assert curve.numbers is not None
    assert curve.samples == 355
    return float(curve.recovered[place]), int(curve.numbers[place])


def test_eigenvectors_and_what_they_store(seeds, read) -> None:
    tensor, x = dense(read), read.images.double().numpy()
    values, vectors = np.linalg.eigh(tensor)
    order = np.argsort(-abs(values), axis=1)
    for shift, name in ((0, front_read.EIGENVECTORS), (1, front_read.NEXT_DIGIT)):
        logits = []
        for digit in range(10):
            other = (digit + shift) % 10
            v = vectors[other][:, order[other][:5]]
            squares = np.stack([np.outer(column, column).ravel() for column in v.T], axis=1)
            weights, *_ = np.linalg.lstsq(squares, tensor[digit].ravel(), rcond=None)
            logits.append((x @ v) ** 2 @ weights)
        score, stored = at(seeds[0], name, 5)
        assert score == pytest.approx(recovered(read, np.stack(logits, axis=1)), abs=1e-4)
        assert stored == 10 * 5 * (64 + 1)
        assert seeds[0].curve(name).beside == (front_read.EIGENVECTORS if shift else None)


def test_shared_directions_and_what_they_store(seeds, read) -> None:
    tensor, x = dense(read), read.images.double().numpy()
    basis = np.linalg.svd(tensor.transpose(1, 0, 2).reshape(64, -1))[0][:, :10]
    core = np.einsum("ia,oij,jb->oab", basis, tensor, basis)
    score, stored = at(seeds[0], front_read.SHARED, 10)
    codes = x @ basis
    assert score == pytest.approx(recovered(read, np.einsum("na,oab,nb->no", codes, core, codes)), abs=1e-4)
    assert stored == 10 * 64 + 10 * 55  # ten directions, and ten numbers for each of their 55 pairs


def test_components_and_what_they_store(seeds, read) -> None:
    tensor = read.hidden.to(torch.float64)
    outputs = tensor(read.images.double()).numpy()
    w, v = (part.weight.detach().double().numpy() for part in (read.model.layer.left, read.model.layer.right))
    half = np.einsum("hi,hj->hij", w, v)
    layer = (half + half.transpose(0, 2, 1)) / 2
    rows = np.linalg.svd(layer.reshape(12, -1))[0].T
    effects = rows @ read.readout.detach().double().numpy().T
    score, stored = at(seeds[0], front_read.COMPONENTS, 5)
    assert score == pytest.approx(recovered(read, outputs @ rows[:5].T @ effects[:5]), abs=1e-4)
    assert stored == 2 * 12 * 64 + 5 * (12 + 10)
    logits = 0
    for row, effect in zip(rows[:5], effects[:5], strict=True):
        values, vectors = np.linalg.eigh(np.einsum("h,hij->ij", row, layer))
        best = np.argsort(-abs(values))[:2]
        term = (read.images.double().numpy() @ vectors[:, best]) ** 2 @ values[best]
        logits = logits + term[:, None] * effect
    score, stored = at(seeds[0], f"{front_read.TRUNCATED}, 2 eigenpairs", 5)
    assert score == pytest.approx(recovered(read, logits), abs=1e-4)
    assert stored == 5 * (2 * 65 + 10)


def test_entries_and_units_and_what_they_store(seeds, read) -> None:
    tensor, x = dense(read), read.images.double().numpy()
    i, j = np.triu_indices(64)
    weight = abs(tensor[:, i, j]) * np.where(i < j, np.sqrt(2), 1)
    kept = np.where(weight >= np.sort(weight.ravel())[-3000], tensor[:, i, j], 0)
    part = np.zeros_like(tensor)
    part[:, i, j], part[:, j, i] = kept, kept
    score, stored = at(seeds[0], front_read.ENTRIES, 3000)
    assert score == pytest.approx(recovered(read, np.einsum("ni,oij,nj->no", x, part, x)), abs=1e-4)
    assert stored == 6000
    assert front_read.entries_stored(read, 20_000) == 10 * 2080  # all of them in order need no places
    w, v = (part.weight.detach().double().numpy() for part in (read.model.layer.left, read.model.layer.right))
    d = read.readout.detach().double().numpy()
    best = np.argsort(-np.linalg.norm(w, axis=1) * np.linalg.norm(v, axis=1) * np.linalg.norm(d, axis=0))[:10]
    score, stored = at(seeds[0], front_read.UNITS, 10)
    assert score == pytest.approx(recovered(read, (x @ w[best].T) * (x @ v[best].T) @ d[:, best].T), abs=1e-4)
    assert stored == 10 * (2 * 64 + 10)
    assert seeds[0]["numbers of the layer"] == 2 * 12 * 64 + 10 * 12


def test_codes_are_kept_by_what_they_do() -> None:
    generator = torch.Generator().manual_seed(0)
    atoms, effects = torch.randn(6, 4, generator=generator), torch.randn(6, 3, generator=generator)
    shift, codes = torch.randn(3, generator=generator), torch.randn(10, 2, generator=generator)  # pairs of 4 inputs
    chosen = torch.randint(0, 6, (10, 2), generator=generator)
    some, whole = front_measure.kept_values(Coded(atoms, torch.zeros(4), chosen, codes, 0.0), effects, shift, [7, 20])
    i, j = np.triu_indices(4)
    size = abs(codes.numpy()) * np.linalg.norm(effects.numpy(), axis=1)[chosen] * np.where(i < j, 2**0.5, 1)[:, None]
    for kept, count in ((some, 7), (whole, 20)):
        there = np.where(size >= np.sort(size.ravel())[-count], codes.numpy(), 0)
        expected = np.einsum("pk,pkc->pc", there, effects.numpy()[chosen]) + shift.numpy()
        np.testing.assert_allclose(kept, expected, atol=1e-5)


def test_the_pair_sae_stands_beside_its_nulls(seeds, read) -> None:
    first = seeds[0]
    for row in front_read.PAIR_ROWS[:-1]:
        assert first[f"L0, {row}"] <= 5
        assert first[f"numbers stored, {row}"] == (100 + 1) * 10 + 2 * first[f"L0, {row}"] * pairs.count(64)
    i, j = np.triu_indices(64)
    mean = dense(read)[:, i, j].mean(axis=1)
    logits = read.images.double().numpy().sum(axis=1, keepdims=True) ** 2 * mean
    assert first[f"recovered, {front_read.NULL_MEAN}"] == pytest.approx(recovered(read, logits), abs=1e-4)
    assert first[f"numbers stored, {front_read.NULL_MEAN}"] == 10
    assert first[f"NMSE on pairs, {front_read.REFIT}"] <= first[f"NMSE on pairs, {front_read.NULL_MEAN}"]
    name = front_read.config(front_read.OUTPUTS, front_read.DRAWN, 100, 5)
    assert first.curve(name).beside == front_read.config(front_read.OUTPUTS, front_read.TRAINED, 100, 5)
    score, stored = at(first, name, 5 * 2080)
    assert score == pytest.approx(first[f"recovered, {front_read.NULL_PAIRS}"], abs=1e-5)
    assert stored == first[f"numbers stored, {front_read.NULL_PAIRS}"]


def test_a_front_has_what_no_smaller_one_beats() -> None:
    some = [Point(10, (0.5, 0.7)), Point(5, (0.2, 0.2)), Point(7, (0.1, 0.1)), Point(10, (0.3, 0.3)), Point(20, (0.6,))]
    best = front(some)
    assert [(point.numbers, point.mean) for point in best] == [(5, 0.2), (10, 0.6)]
    assert recipe.needed(best, 0.2) == 5
    assert recipe.needed(best, 0.21) == 10
    assert recipe.needed(best, 0.7) is None
    assert recipe.within(best, 9).numbers == 5
    assert recipe.within(best, 4) is None
    np.testing.assert_allclose(nines(np.array([-3, 0, 0.9, 0.99, 2])), [0, 0, 1, 2, 4])


def test_points_are_those_of_every_seed() -> None:
    def seed(value: float) -> Measurement:
        scores = [Score(0.5, 1.0, value, 9), Score(0.6, 0.9, value + 0.1, 9)]
        return Measurement.of(
            {}, [Curve.of("some, b", [1, 2], scores, numbers=[30, 60]), Curve.of("other", [1, 2], scores)]
        )

    found = points([seed(0.1), seed(0.3)], "some,")
    assert [(point.numbers, point.recovered) for point in found] == [(30, (0.1, 0.3)), (60, (0.2, 0.4))]


def test_tables_say_what_each_way_recovers_and_needs(seeds) -> None:
    found = recipe.tables(seeds)
    assert set(found) == {"best", "budgets", "needed"}
    assert all(name in (*recipe.WAYS, "pair features") for name in found["best"].split(", ") if name in recipe.WAYS)
    assert "| … its null |" in found["needed"]
    assert front_read.EIGENVECTORS in found["needed"]
    assert len(found["budgets"].splitlines()) == 2 + len(recipe.BUDGETS) + 1
    assert isinstance(recipe.figure(seeds, {"one": Point(1000, (0.9, 0.8))}), Figure)
    assert isinstance(draw({"a": {"b": ([Point(5, (0.2,))], [])}}, 100.0, {}), Figure)
