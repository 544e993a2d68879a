"""Interactions against dense einsums: values, the order in which they are kept, and the residual-mass bound."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import oracle
from bilens import decompose
from bilens.decompose import Interactions
from bilens.errors import BilensError, ShapeError, SpaceError
from bilens.space import Space
from bilens.tensor import BilinearTensor
from messages import refuses
from oracle import array, near, with_one
from strategies import SEEDS, dictionaries, filled, layers, samples


def natural(tensor: BilinearTensor) -> float:
    return float(oracle.dense(tensor.left.abs(), tensor.right.abs(), tensor.down.abs()).max(initial=0))


def lifted(layer, x) -> np.ndarray:
    return with_one(x) if layer.biased else array(x)


@given(st.data(), layers())
def test_they_are_the_layer_and_each_pair_stands_once(data, layer) -> None:
    tensor, x = layer.tensor(), data.draw(samples(layer.input.size))
    found, dense = decompose.interactions(tensor), oracle.tensor(layer, constant=layer.biased)
    near(found.dense(), dense, natural(tensor))
    near(found(x), oracle.forward(layer, x), oracle.size(layer, x))
    m = dense.shape[1]
    rows = [(1 + (a != b)) * dense[:, a, b] for a in range(m) for b in range(a, m)]
    near(found.coefficients, np.stack(rows), natural(tensor))
    assert len(found) == int((found.coefficients != 0).sum())


@given(st.data(), layers())
def test_in_other_coordinates_they_run_the_layer_through_both_dictionaries(data, layer) -> None:
    tensor = layer.tensor()
    inputs = data.draw(dictionaries(layer.input, max_atoms=5))
    outputs = data.draw(dictionaries(layer.output, max_atoms=4))
    codes = data.draw(samples(inputs.features.size))
    found = decompose.interactions(tensor.pullback(inputs).read(outputs))
    shift = 0 if inputs.offset is None else array(inputs.offset)
    x = array(codes) @ array(inputs.atoms) + shift
    y = oracle.forward(layer, x) - (0 if outputs.offset is None else array(outputs.offset))
    expected = y @ oracle.pinv(outputs.atoms)
    size = oracle.size(layer, abs(array(codes)) @ abs(array(inputs.atoms)) + abs(shift))
    near(found(codes), expected, 1 + size.max(initial=0) * abs(array(outputs.duals)).sum(), rtol=1e-8)


@given(st.data(), layers())
def test_a_map_of_the_outputs_joins_them(data, layer) -> None:
    tensor, x = layer.tensor(), data.draw(samples(layer.input.size))
    matrix = filled("whole", 3, layer.output.size, data.draw(SEEDS))
    found = decompose.interactions(tensor).then(matrix, Space("z", 3))
    near(found(x), oracle.forward(layer, x) @ array(matrix).T, 10 * oracle.size(layer, x).sum())


@given(st.data(), layers())
def test_magnitude_is_a_part_of_the_norm_and_importance_a_root_mean_square(data, layer) -> None:
    tensor, x = layer.tensor(), data.draw(samples(layer.input.size))
    effects = filled("normal", 1, layer.output.size, 3)[0].abs()
    found, dense = decompose.interactions(tensor), oracle.tensor(layer, constant=layer.biased)
    mass = (dense**2 * array(effects)[:, None, None] ** 2).sum()
    near(
        (found.magnitude(effects).double() ** 2).sum(),
        mass,
        natural(tensor) ** 2 * dense.size * array(effects).max() ** 2,
    )
    z, m = lifted(layer, x), dense.shape[1]
    pairs = [(a, b) for a in range(m) for b in range(a, m)]
    terms = np.stack([(1 + (a != b)) * dense[:, a, b] * (z[:, a] * z[:, b])[:, None] for a, b in pairs])
    expected = np.sqrt((terms**2).mean(axis=1)) * array(effects)
    scale = natural(tensor) * max(1.0, abs(z).max(initial=0)) ** 2 * max(1.0, array(effects).max())
    near(found.importance(effects, x), expected, scale, rtol=1e-8)


@given(st.data(), layers())
def test_the_largest_are_kept_as_they_are(data, layer) -> None:
    found = decompose.interactions(layer.tensor())
    scores = found.magnitude(torch.ones(layer.output.size).double())
    counts = data.draw(st.lists(st.integers(0, scores.numel()), min_size=1, max_size=4))
    for k, kept in zip(counts, found.truncations(counts, scores), strict=True):
        there = kept.coefficients != 0
        assert torch.equal(kept.coefficients[there], found.coefficients[there])
        near(
            scores[there].sort().values,
            scores.flatten().sort().values[-k:][-int(there.sum()) :] if there.any() else [],
            0,
        )
        assert int(there.sum()) == min(k, int((scores > 0).sum()))
        left = scores[~there & (scores > 0)]
        if len(left) and there.any():
            assert float(left.max()) <= float(scores[there].min())
        assert (
            torch.equal(found.keep(k, scores).coefficients, kept.coefficients) or len(scores.unique()) < scores.numel()
        )


@given(st.data(), layers())
def test_the_residual_mass_bounds_the_error_of_what_was_dropped(data, layer) -> None:
    tensor, x = layer.tensor(), data.draw(samples(layer.input.size))
    found, matrix = decompose.interactions(tensor), filled("normal", 2, layer.output.size, data.draw(SEEDS))
    kept = found.keep(
        data.draw(st.integers(0, found.coefficients.numel())), found.magnitude(torch.ones(layer.output.size))
    )
    norms = torch.tensor(np.linalg.norm(lifted(layer, x), axis=1))
    size = natural(tensor) * found.coefficients.numel() * float(norms.max()) ** 2
    dropped = found.without(kept)
    assert ((found(x) - kept(x)).abs() <= dropped.bound(norms) + 1e-9 * size).all()
    joined = dropped.then(matrix, Space("z", 2))
    whole = (found.then(matrix, Space("z", 2))(x) - kept.then(matrix, Space("z", 2))(x)).abs()
    assert (whole <= joined.bound(norms) + 1e-9 * size * float(matrix.abs().sum() + 1)).all()
    # what cancels between outputs makes it no looser than the bounds of the outputs, added
    assert (joined.bound(norms) <= dropped.bound(norms) @ matrix.abs().T + 1e-9 * (size + 1)).all()


@given(st.integers(1, 6), SEEDS)
def test_the_bound_is_attained_along_a_kernel_of_rank_one(d, seed) -> None:
    v = filled("normal", 1, d, seed)
    tensor = BilinearTensor(v, v, torch.tensor([[2.0]]).double(), Space("x", d), Space("y", 1))
    found = decompose.interactions(tensor)
    near(found.bound(3 * v.norm()), found(3 * v)[0], float(v.norm()) ** 4 * 18)
    near(found.bound(1.0), [2 * float(v.norm()) ** 2], float(v.norm()) ** 2)


def test_magnitude_leaves_the_least_mass_behind() -> None:
    tensor = BilinearTensor(
        *(filled("normal", 5, 4, n) for n in (0, 1)), filled("normal", 3, 5, 2), Space("x", 4), Space("y", 3)
    )
    found, ones = decompose.interactions(tensor), torch.ones(3)
    whole = found.bound(1.0).square().sum()
    for k in (1, 5, 17):
        best = found.without(found.keep(k, found.magnitude(ones))).bound(1.0).square().sum()
        assert 0 < best < whole
        for seed in range(20):
            other = found.keep(k, filled("normal", 10, 3, seed))
            assert best <= found.without(other).bound(1.0).square().sum() + 1e-12


def test_what_is_used_and_lit_is_counted() -> None:
    coefficients = torch.zeros(6, 2)
    coefficients[1, 0], coefficients[5, 0] = 2.0, -1.0  # features 0 and 1; the constant with itself
    found = Interactions(coefficients, Space("codes", 2, constant=True), Space("y", 2))
    inputs, outputs = found.used()
    assert (inputs.tolist(), outputs.tolist()) == ([True, True, True], [True, False])
    assert len(found) == 2
    codes = torch.tensor([[1.0, 0.0], [2.0, 3.0], [0.0, 1.0], [0.0, 0.0]])
    assert found.active(codes) == 1 + 1 / 4
    near(found(codes)[:, 0], [-1, 11, -1, -1])
    assert found.keep(1, coefficients.abs()).used()[0].tolist() == [True, True, False]


def test_participation_ratios() -> None:
    assert decompose.participation_ratio(torch.tensor([2.0, -2.0, 2.0, 0.0])) == pytest.approx(3)
    assert decompose.participation_ratio(torch.tensor([1e-30, 0.0])) == pytest.approx(1)
    assert decompose.participation_ratio(torch.tensor([2.0, 1.0])) == pytest.approx(25 / 17)
    with refuses(BilensError, "scores that are all 0"):
        decompose.participation_ratio(torch.zeros(3))


@pytest.mark.bad_input
def test_what_does_not_fit_is_refused() -> None:
    x, y = Space("x", 2), Space("y", 1)
    found = Interactions(torch.ones(3, 1), x, y)
    with refuses(ShapeError, "coefficients of shape (2, 1)", "(3, 1)"):
        Interactions(torch.ones(2, 1), x, y)
    with refuses(BilensError, "NaN"):
        Interactions(torch.full((3, 1), torch.nan), x, y)
    with refuses(ShapeError, "matrix of shape (2, 2)", "(2, 1)"):
        found.then(torch.ones(2, 2), Space("z", 2))
    with refuses(ShapeError, "scores of shape (3,)", "(3, 1)"):
        found.keep(1, torch.ones(3))
    for k in (-1, 4):
        with refuses(BilensError, f"k = {k}"):
            found.keep(k, torch.ones(3, 1))
    with refuses(ShapeError, "effects of shape (2,)"):
        found.magnitude(torch.ones(2))
    with refuses(SpaceError, "interactions over space 'z'"):
        found.without(Interactions(torch.ones(3, 1), Space("z", 2), y))
    with refuses(SpaceError, "interactions to output over space 'z'"):
        found.without(Interactions(torch.ones(3, 1), x, Space("z", 1)))
    tensor = BilinearTensor(torch.eye(2), torch.eye(2), torch.eye(2), x, Space("y", 2))
    with refuses(BilensError, "3 pairs × 2 outputs = 24 bytes", "at most 23 bytes"):
        decompose.interactions(tensor, limit=23)


@given(st.data(), layers())
def test_the_top_ones_are_the_largest_entries_with_their_labels(data, layer) -> None:
    tensor = layer.tensor()
    found, dense = decompose.interactions(tensor), oracle.tensor(layer, constant=layer.biased)
    top = found.top(5)
    names = [str(n) for n in range(layer.input.size)] + ["constant"] * layer.biased
    mass = {
        (names[a], names[b], found.output.label(o)): (
            (1 + (a != b)) * dense[o, a, b] ** 2,
            (1 + (a != b)) * dense[o, a, b],
            np.square(dense[o]).sum(),
        )
        for o in range(dense.shape[0])
        for a in range(dense.shape[1])
        for b in range(a, dense.shape[1])
    }
    scale = natural(tensor)
    for each in top:
        square, coefficient, all_of_it = mass[each.first, each.second, each.output]
        near(each.coefficient, coefficient, scale)
        near(each.share * all_of_it, square, scale**2)
    sizes = sorted((square for square, *_ in mass.values()), reverse=True)[: len(top)]
    near(np.sqrt([mass[each[:3]][0] for each in top]), np.sqrt(sizes), scale)


def test_a_table_of_the_top_ones() -> None:
    space = Space("x", 2, labels=("age", "dose"))
    tensor = BilinearTensor.from_layer(
        torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 3.0], [0.0, 1.0]]),
        input=space, output=Space("y", 2, labels=("risk", "cost")),
    )  # fmt: skip
    found = decompose.interactions(tensor)
    top = found.top()
    assert [each[:4] for each in top] == [("age", "dose", "risk", 3.0), ("dose", "dose", "cost", 1.0)]
    assert [each.share for each in top] == [1.0, 1.0]
    lines = str(top).splitlines()
    assert lines[0].split() == ["first", "second", "output", "coefficient", "share"]
    assert lines[1].split() == ["1", "age", "dose", "risk", "+3", "100.00%"]
    by_codes = found.importance(torch.ones(2), torch.tensor([[0.01, 1.0]]))
    assert found.top(1, by_codes)[0].output == "cost"
    with refuses(BilensError, "k = 0"):
        found.top(0)
    with refuses(ShapeError, "scores of shape"):
        found.top(1, torch.ones(2, 2))
