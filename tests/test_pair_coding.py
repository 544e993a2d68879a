"""Codes of all pairs, by an SAE and by least squares, are those of the vectors one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from bilens import pairs, sae
from bilens.errors import ShapeError
from bilens.pair_coding import (
    coded,
    codes_stored,
    drawn_pairs,
    evaluate_pairs,
    mean_pair,
    nearest,
    random_directions,
    refit,
    through,
)
from bilens.pairs import PairCodes
from bilens.space import Space
from bilens.tensor import BilinearTensor


@pytest.mark.parametrize("two_hot", [False, True])
def test_from_codes_is_over_every_pair_vector(two_hot: bool) -> None:
    generator = torch.Generator().manual_seed(4)
    left, right = (torch.randn(7, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    tensor = BilinearTensor.from_layer(left, right, input=Space("x", 6), output=Space("y", 7))
    coder = sae.TopKSAE(7, 12, 3, seed=1).double()
    with torch.no_grad():
        coder.b_dec.copy_(torch.randn(7, generator=generator))
        coder.b_enc.sub_(0.5)
    stream = pairs.stream(tensor, kind="two_hot" if two_hot else "polarized", shuffle=False)
    codes = PairCodes.of(stream, lambda r: coder.encode(r).detach())
    i, j = torch.triu_indices(6, 6)
    vectors = (pairs.two_hot if two_hot else pairs.polarized)(tensor, i, j)
    got, expected = evaluate_pairs(tensor, codes, coder, two_hot=two_hot), sae.evaluate(coder, vectors)
    assert got.rows == 21
    for name in ("l0", "nmse", "explained_variance", "dead_fraction"):
        assert_close(getattr(got, name), getattr(expected, name))
    assert_close(got.frequency.double(), expected.frequency)
    assert_close(got.mean_activation.double(), expected.mean_activation.double(), rtol=1e-6, atol=1e-7)
    with pytest.raises(ShapeError, match="codes of 12 features"):
        evaluate_pairs(tensor, codes, sae.TopKSAE(7, 11, 3), two_hot=two_hot)


def unit(rows: int, size: int, seed: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(rows, size))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def test_the_nearest_atoms_with_least_squares_are_numpys() -> None:
    atoms, vectors = unit(40, 8, 0), np.random.default_rng(1).normal(size=(25, 8))
    chosen, products = nearest(torch.tensor(vectors), torch.tensor(atoms), 5)
    codes, gain = refit(torch.tensor(atoms @ atoms.T), chosen, products)
    cosines = np.abs(vectors @ atoms.T)
    for row, vector in enumerate(vectors):
        expected = np.argsort(-cosines[row])[:5]
        assert chosen[row].tolist() == expected.tolist()
        solution, *_ = np.linalg.lstsq(atoms[expected].T, vector, rcond=None)
        np.testing.assert_allclose(codes[row], solution, rtol=1e-4, atol=1e-5)
        left = np.sum((vector - atoms[expected].T @ solution) ** 2)
        assert float(gain[row]) == pytest.approx(vector @ vector - left, rel=1e-6)


def test_atoms_that_depend_on_each_other_rebuild_as_well_as_numpys() -> None:
    atoms = unit(3, 6, 2)
    atoms = np.concatenate([atoms, atoms[:2], np.zeros((1, 6))])  # twice the same, and one that is nothing
    vectors = np.random.default_rng(3).normal(size=(10, 6))
    chosen, products = nearest(torch.tensor(vectors), torch.tensor(atoms), 6)
    codes, gain = refit(torch.tensor(atoms @ atoms.T), chosen, products)
    rebuilt = np.einsum("nk,nki->ni", codes.numpy(), atoms[chosen.numpy()])
    expected = vectors @ np.linalg.pinv(atoms) @ atoms
    np.testing.assert_allclose(rebuilt, expected, atol=1e-5)
    np.testing.assert_allclose(gain, (vectors**2).sum(axis=1) - ((vectors - rebuilt) ** 2).sum(axis=1), atol=1e-5)


@pytest.fixture
def layer() -> BilinearTensor:
    generator = torch.Generator().manual_seed(5)
    left, right = (torch.randn(9, 7, generator=generator) for _ in range(2))
    return BilinearTensor.from_layer(left, right, input=Space("x", 7), output=Space("y", 9))


def test_all_pairs_are_coded_in_several_dictionaries_at_once(layer: BilinearTensor) -> None:
    i, j = torch.triu_indices(7, 7)
    vectors = pairs.polarized(layer, i, j).double().numpy()
    offset = vectors.mean(axis=0)
    np.testing.assert_allclose(mean_pair(layer), offset, atol=1e-6)
    drawn, random = drawn_pairs(layer, 12, 3, torch.tensor(offset).float()), random_directions(9, 12, 3)
    found, energy = coded(layer, [(drawn, torch.tensor(offset).float()), (random, torch.zeros(9))], [[1, 4], [3]])
    assert energy == pytest.approx((vectors**2).sum(), rel=1e-5)
    assert [[part.codes.shape[1] for part in each] for each in found] == [[1, 4], [3]]
    for each, shift in zip(found, (offset, np.zeros(9)), strict=True):
        for part in each:
            atoms, error = part.atoms.double().numpy(), 0.0
            for row, vector in enumerate(vectors - shift):
                some = atoms[part.chosen[row].numpy()].T
                error += np.linalg.lstsq(some, vector, rcond=None)[1].sum() if some.shape[1] < 9 else 0.0
            assert part.error == pytest.approx(error, rel=1e-3)
            rebuilt = part.values(part.atoms, part.offset).double().numpy()
            assert ((vectors - rebuilt) ** 2).sum() == pytest.approx(error, rel=1e-3)


def test_drawn_pairs_are_pairs_of_the_layer(layer: BilinearTensor) -> None:
    i, j = torch.triu_indices(7, 7)
    vectors = torch.nn.functional.normalize(pairs.polarized(layer, i, j) - 0.5, dim=1)
    drawn = drawn_pairs(layer, 28, 1, torch.full((9,), 0.5))
    cosines = drawn @ vectors.T
    assert_close(cosines.amax(dim=1), torch.ones(28))
    assert len(set(cosines.argmax(dim=1).tolist())) == 28  # every pair once
    assert not torch.equal(drawn, drawn_pairs(layer, 28, 2, torch.full((9,), 0.5)))


def test_values_of_pairs_are_summed_over_both_orders() -> None:
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    x[:, 2] = 0
    x[0] = 0
    values = torch.randn(10, 3, generator=torch.Generator().manual_seed(1))
    full = torch.zeros(4, 4, 3)
    i, j = torch.triu_indices(4, 4)
    full[i, j], full[j, i] = values, values
    assert_close(through(x, values), torch.einsum("ni,nj,ijp->np", x, x, full))


def test_a_code_is_stored_with_its_place_and_an_atom_by_its_effects() -> None:
    assert codes_stored(10, 5000, 30 * 307_720) == 5001 * 10 + 2 * 30 * 307_720
