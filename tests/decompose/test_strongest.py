"""The strongest interactions of every output: against all of them, formed; and what the codes of data say of them."""

from __future__ import annotations

import dataclasses
import importlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import oracle
from bilens import decompose, store
from bilens.decompose import StrongestInteractions, _strongest
from bilens.dictionary import Dictionary
from bilens.errors import BilensError, ShapeError, SpaceError, StoreError
from bilens.space import Space
from bilens.tensor import BilinearTensor
from largest import Largest
from messages import refuses
from oracle import array, near
from strategies import SEEDS, dictionaries, filled, layers


def formed(tensor: BilinearTensor, inputs: Dictionary | None) -> np.ndarray:
    """C_o of all outputs, dense."""
    if inputs is not None:
        tensor, inputs = tensor.match(inputs)
    matrices = oracle.dense(tensor.left, tensor.right, tensor.down)
    return (
        matrices if inputs is None else np.einsum("oij,ai,bj->oab", matrices, array(inputs.atoms), array(inputs.atoms))
    )


def check(found: StrongestInteractions, matrices: np.ndarray, scale: float, rtol: float = 1e-9) -> None:
    """The listed are pairs a ≤ b, each once, with their entries; none left out is larger; shares and what is left."""
    k = found.first.shape[1]
    for n, matrix in enumerate(matrices):
        first, second = found.first[n].numpy(), found.second[n].numpy()
        assert (first <= second).all()
        assert len(set(zip(first.tolist(), second.tolist(), strict=True))) == k
        twice = np.where(first == second, 1, 2)
        near(found.coefficients[n], twice * matrix[first, second], scale, rtol=rtol)
        upper = np.triu(np.abs(matrix)) * np.where(np.eye(len(matrix)), 1, 2**0.5)
        near(
            np.abs(matrix[first, second]) * twice**0.5,
            np.sort(upper[np.triu_indices(len(matrix))])[::-1][:k],
            scale,
            rtol=rtol,
        )
        energy = (matrix**2).sum()
        near(found.energies[n], energy, scale**2, rtol=rtol)
        rest = matrix.copy()
        rest[first, second] = rest[second, first] = 0
        left = np.linalg.norm(rest)
        assert left <= float(found.left[n]) * (1 + 1e-12)
        assert float(found.left[n]) <= left + max(rtol**0.5, 1e-4) * scale
        if energy > 1e-6 * scale**2:
            near(found.held[n], 1 - left**2 / energy, rtol=max(1e-6, rtol))
            near(found.shares[n], twice * matrix[first, second] ** 2 / energy, rtol=max(1e-6, rtol))


@given(st.data(), layers())
def test_of_any_layer_and_dictionary_they_are_those_of_all(data, layer):
    tensor = layer.tensor()
    inputs = data.draw(st.none() | dictionaries(tensor.input))
    top = data.draw(st.integers(1, 12))
    found = decompose.strongest(tensor, inputs, None, top)
    matrices = formed(tensor, inputs)
    sizes = np.abs(
        formed(
            dataclasses.replace(tensor, left=tensor.left.abs(), right=tensor.right.abs(), down=tensor.down.abs()), None
        )
    )
    atoms = 1.0 if inputs is None else float(tensor.match(inputs)[1].atoms.norm()) ** 2
    scale = max(float(np.linalg.norm(sizes, axis=(1, 2)).max()) * max(atoms, 1.0), 1e-300)
    m = matrices.shape[1]
    assert found.first.shape[1] == min(top, m * (m + 1) // 2)
    check(found, matrices, scale)


def example(dtype: torch.dtype = torch.float32, m: int = 70, d: int = 24, h: int = 40, o: int = 6):
    tensor = BilinearTensor(
        filled("normal", h, d + 1, 0), filled("normal", h, d + 1, 1), filled("normal", o, h, 2),
        Space("x", d, constant=True), Space("y", o),
    ).to(dtype)  # fmt: skip
    atoms = filled("normal", m, d, 3).to(dtype)
    return tensor, Dictionary.from_atoms(
        atoms, tensor.input.without_constant(), offset=torch.full((d,), 0.1, dtype=dtype)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("hidden", [4, 60])  # by the hidden units, and by Q first
def test_both_ways_and_both_types_give_them_in_blocks_too(dtype, hidden, monkeypatch):
    tensor, inputs = example(dtype, h=hidden)
    matrices = formed(tensor, inputs)
    scale = float(np.abs(matrices).max())
    assert _strongest.Matrices(*tensor.match(inputs)).by_units == (hidden == 4)
    found = decompose.strongest(tensor, inputs, None, 20)
    check(found, matrices, scale * 10, rtol=1e-9 if dtype == torch.float64 else 1e-6)
    monkeypatch.setattr(_strongest, "ROWS", 7)
    monkeypatch.setattr(_strongest, "HELD", 0)
    again = decompose.strongest(tensor, inputs, None, 20)
    assert torch.equal(again.first, found.first)
    assert torch.equal(again.second, found.second)


def test_float32_searches_and_float64_decides():
    """The listed values are those of float64 arithmetic on the weights, to the rounding of their type."""
    tensor, inputs = example()
    found = decompose.strongest(tensor, inputs, None, 10)
    double = decompose.strongest(
        tensor.to(torch.float64),
        Dictionary.from_atoms(inputs.atoms.double(), inputs.space, offset=inputs.offset.double()),
        None,
        10,
    )
    assert torch.equal(found.first, double.first)
    near(found.coefficients / double.coefficients, np.ones((6, 10)), rtol=1.2e-7)


def test_where_float32_cannot_tell_the_last_pair_float64_does(monkeypatch):
    """Many copies of one atom: pairs of equal size on both sides of the cut."""
    tensor, _ = example()
    atoms = filled("normal", 3, 24, 5).repeat(20, 1).float()
    atoms[::2] += 1e-7 * atoms[::2].abs()
    inputs = Dictionary.from_atoms(atoms, tensor.input.without_constant(), offset=torch.zeros(24))
    types = []
    search = _strongest.Matrices._candidates
    monkeypatch.setattr(
        _strongest.Matrices, "_candidates", lambda self, w, k, t: types.append(t) or search(self, w, k, t)
    )
    found = decompose.strongest(tensor, inputs, None, 25)
    assert torch.float64 in types
    matrices = formed(tensor, inputs)
    check(found, matrices, float(np.abs(matrices).max()) * 10, rtol=3e-7)


@given(SEEDS, st.integers(1, 40), st.sampled_from(["normal", "whole", "zero"]))
def test_the_sampled_threshold_finds_the_largest(seed, count, fill):
    values = filled(fill, 1, 5000, seed)[0].abs()
    best, places = _strongest._largest(values, count, None)
    near(best, values.sort(descending=True).values[:count], 10)
    near(values[places], best)
    floor = float(best[-1])
    above, _ = _strongest._largest(values, count, floor)
    near(above, best[best > floor], 10)


def test_pairs_of_all_outputs_are_never_held():
    tensor, inputs = example(o=40)
    with Largest() as largest:
        decompose.strongest(tensor, inputs, None, 5)
    assert largest.numel <= 71 * 71 * 2


def test_outputs_are_directions_dictionaries_or_all():
    tensor, inputs = example(torch.float64)
    directions = filled("normal", 2, 6, 4)
    check(
        decompose.strongest(tensor, inputs, directions, 5), formed(tensor.then(directions, Space("u", 2)), inputs), 1e3
    )
    d = Dictionary.from_atoms(filled("normal", 3, 6, 5), tensor.output)
    found = decompose.strongest(tensor, inputs, d, 5)
    assert found.output == d.features
    check(found, formed(tensor.read(d), inputs), 1e3)


def test_they_agree_with_the_list_of_all_interactions():
    tensor, inputs = example(torch.float64, m=6, o=2)
    found = decompose.strongest(tensor, inputs, None, 8)
    everything = decompose.interactions(tensor.pullback(inputs))
    for o in range(2):
        only = torch.zeros_like(everything.coefficients)
        only[:, o] = everything.magnitude(torch.ones(2))[:, o]
        listed, ours = everything.top(8, by=only), found.top(o)
        assert [each[:3] for each in listed] == [each[:3] for each in ours]
        near([each.coefficient for each in listed], [each.coefficient for each in ours], 1e3)
        near([each.share for each in listed], [each.share for each in ours])
    codes = filled("normal", 9, 6, 8)
    kept = everything.keep(0, by=everything.coefficients)
    assert kept.coefficients.shape == everything.coefficients.shape
    lost = (everything(codes) - found(codes)).abs()
    norm = torch.cat([codes, torch.ones(9, 1).double()], dim=1).norm(dim=1)
    assert bool((lost <= found.bound(norm) * (1 + 1e-9)).all())
    assert "constant" in str(decompose.strongest(tensor, inputs, None, 28).top(0))


def test_outputs_of_very_different_sizes_lose_nothing():
    tensor, inputs = example(m=8, d=5, h=7, o=3)
    down = tensor.down * torch.tensor([[1e-30], [1.0], [0.0]])
    small = dataclasses.replace(tensor, down=down)
    found, plain = decompose.strongest(small, inputs, None, 4), decompose.strongest(tensor, inputs, None, 4)
    assert torch.equal(found.first[:2], plain.first[:2])
    near(found.coefficients[0] * 1e30, plain.coefficients[0], 100, rtol=1e-6)
    near(found.shares[0], plain.shares[0], rtol=1e-5)
    assert not bool(found.coefficients[2].any() | found.shares[2].any())
    assert found.top(2) == ()


def test_they_are_written_in_batches_and_resumed(tmp_path):
    tensor, inputs = example()
    stream = decompose.strongest_stream(tensor, inputs, None, 5, batch_size=4)
    assert len(stream) == 2
    store.save_batches(stream, tmp_path, progress=False)
    (tmp_path / "records" / "batch-000001.json").unlink()
    store.save_batches(stream, tmp_path, progress=False)
    joined = StrongestInteractions.join(list(store.load_batches(tmp_path, StrongestInteractions)), tensor.output)
    whole = decompose.strongest(tensor, inputs, None, 5)
    assert torch.equal(joined.first, whole.first)
    assert torch.equal(joined.coefficients, whole.coefficients)
    for other in (decompose.strongest_stream(tensor, None, None, 5, batch_size=4), dataclasses.replace(stream, top=4)):
        with refuses(StoreError, "other settings"):
            store.save_batches(other, tmp_path, progress=False)


@pytest.mark.bad_input
def test_what_does_not_fit_is_refused():
    tensor, inputs = example()
    with refuses(BilensError, "top = 0"):
        decompose.strongest(tensor, inputs, None, 0)
    with refuses(SpaceError, "a dictionary over space"):
        decompose.strongest(tensor, Dictionary.from_atoms(torch.eye(3), Space("z", 3)))
    with refuses(ShapeError, "directions of shape (2, 3)"):
        decompose.strongest(tensor, None, torch.ones(2, 3))
    with refuses(SpaceError, "label 9"):
        decompose.strongest(tensor, inputs, None, 2).top(9)
    one, two = decompose.strongest(tensor, inputs, None, 2), decompose.strongest(tensor, inputs, None, 3)
    for parts in ([], [one, two]):
        with refuses(BilensError, "parts"):
            StrongestInteractions.join(parts, Space("y", 12))
    with refuses(BilensError, "batch = 1"):
        decompose.strongest_stream(tensor, inputs).batch(1)


# What the codes of data say of them


@pytest.mark.parametrize("split", [None, 7])
def test_coactivation_counts_what_a_loop_counts(split, monkeypatch):
    module = importlib.import_module("bilens.decompose.coactivation")
    monkeypatch.setattr(module, "ROWS", 5)
    monkeypatch.setattr(module, "SAMPLES", 11)
    tensor, inputs = example(torch.float64, m=12)
    found = decompose.strongest(tensor, inputs, None, 30)
    codes = torch.relu(filled("normal", 50, 12, 6) - 0.4)
    seen = decompose.coactivation(found, codes if split is None else codes.split(split))
    z = oracle.with_one(codes)
    for n in range(len(found)):
        for k in range(30):
            a, b = int(found.first[n, k]), int(found.second[n, k])
            assert int(seen.together[n, k]) == sum((z[:, a] != 0) & (z[:, b] != 0))
            independent = (z[:, a] != 0).mean() * ((z[:, b] != 0).mean() if a != b else 1)
            near(seen.expected[n, k], 50 * independent, 50)
            near(seen.product[n, k], (z[:, a] * z[:, b]).mean(), 10)
            near(seen.square[n, k], (z[:, a] ** 2 * z[:, b] ** 2).mean(), 100)
    assert seen.samples == 50
    mean, size = seen.ablated(found)
    pair = found.coefficients[0, 0] * codes_of(z, found, 0, 0)
    near(mean[0, 0], -array(pair).mean(), 1e3)
    near(size[0, 0], (array(pair) ** 2).mean() ** 0.5, 1e3)


def codes_of(z: np.ndarray, found: StrongestInteractions, n: int, k: int) -> torch.Tensor:
    return torch.from_numpy(z[:, int(found.first[n, k])] * z[:, int(found.second[n, k])])


@pytest.mark.bad_input
def test_codes_that_do_not_fit_are_refused():
    tensor, inputs = example(m=12)
    found = decompose.strongest(tensor, inputs, None, 3)
    with refuses(ShapeError, "12 coordinates"):
        decompose.coactivation(found, torch.ones(3, 5))
    for none in (torch.ones(0, 12), []):
        with refuses(BilensError, "codes of no samples"):
            decompose.coactivation(found, none)
    seen = decompose.coactivation(found, torch.ones(3, 12))
    with refuses(ShapeError, "interactions of shape (6, 2)"):
        seen.ablated(decompose.strongest(tensor, inputs, None, 2))
