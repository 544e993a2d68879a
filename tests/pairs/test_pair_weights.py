"""Weights of pairs: norms of their vectors, and their use in data."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bilens import pairs
from bilens._internal.checks import trusted
from bilens.errors import BilensError, ShapeError
from bilens.pairs import Kind, weights
from bilens.space import Space
from bilens.tensor import BilinearTensor
from few_pairs import answers, every_pair, of_kind, random_tensor
from messages import refuses
from oracle import array, near
from strategies import dictionaries, layers, samples


@given(layers(max_d=4), st.data())
def test_norms_are_those_of_the_pair_vectors(layer, data):
    tensor = layer.tensor()
    dictionary = data.draw(dictionaries(layer.input, max_atoms=4) | st.none())
    kind = data.draw(st.sampled_from(get_args(Kind)))
    r, natural = answers(layer, dictionary)
    i, j = np.array(every_pair(len(r))).T
    expected = np.linalg.norm(of_kind(kind, r)[i, j], axis=1)
    found = pairs.norms(tensor, dictionary, kind=kind, block=data.draw(st.integers(1, 12)))
    near(found, expected, 4 * np.linalg.norm(natural[i, j], axis=1))
    left = tensor.left.clone().requires_grad_()
    trained = trusted(BilinearTensor, left, tensor.right, tensor.down, tensor.input, tensor.output)
    assert not pairs.norms(trained, dictionary, kind=kind).requires_grad


@pytest.mark.parametrize("kind", ["polarized", "symmetric"])
@pytest.mark.parametrize("size", [1.0, 1e-15, 1e18])
def test_norms_before_the_read_out_are_those_of_the_vectors_in_float64(kind, size, monkeypatch):
    """A few rows of the Grams at a time, at any scale; l_0 ∘ r_1 + r_0 ∘ l_1 nearly cancels."""
    monkeypatch.setattr(weights, "_NUMBERS", 14)
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(7, 5, generator=generator) for _ in range(2))
    left[:, 1], right[:, 1] = left[:, 0], -right[:, 0] * (1 + 1e-4)
    tensor = BilinearTensor.from_layer(left * size, right * size, input=Space("x", 5), output=Space("h", 7))
    i, j = np.array(every_pair(5)).T
    rows_l, rows_r = array(tensor.left).T.astype(np.float64), array(tensor.right).T.astype(np.float64)
    vectors = (rows_l[i] * rows_r[j] + rows_r[i] * rows_l[j]) / 2
    expected = np.linalg.norm(vectors, axis=1) * (np.where(i == j, 1, 2) ** 0.5 if kind == "symmetric" else 1)
    found = pairs.norms(tensor, kind=kind)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(array(found), expected, rtol=1e-6)


def test_second_moments_are_the_mean_squared_output_of_orthonormal_pair_vectors():
    """With r_ij orthonormal, E‖g(x)‖² = Σ_{i≤j} E[(c_ij a_i a_j)²]: each term on its own, by leaving out the others."""
    m = 5
    i, j = pairs.unrank(torch.arange(pairs.count(m)), m)
    eye = torch.eye(m, dtype=torch.float64)
    generator = torch.Generator().manual_seed(3)
    codes = torch.randn(40, m, generator=generator, dtype=torch.float64)
    found = pairs.second_moments(codes)
    space = Space("x", m)
    for t in range(len(i)):
        down = torch.zeros(len(i), len(i), dtype=torch.float64)
        down[t, t] = 1 if i[t] == j[t] else 2
        tensor = BilinearTensor(eye[i], eye[j], down, space, Space("y", len(i)))
        near(pairs.polarized(tensor, i[t, None], j[t, None])[0, t], np.array(1.0))
        near(found[t], array(tensor(codes).square().sum(dim=1).mean()))


@pytest.mark.bad_input
def test_refuses_second_moments_of_nothing():
    for codes in (torch.ones(3), torch.ones(0, 4)):
        with pytest.raises(ShapeError, match=r"\(samples, features\)"):
            pairs.second_moments(codes)


@given(samples(4))
def test_moments_that_are_given_weigh_as_those_of_samples(codes):
    squares = array(codes) ** 2
    given = torch.tensor(np.einsum("na,nb->ab", squares, squares) / len(squares))
    i, j = np.array(every_pair(4)).T
    mean = (np.where(i == j, 1, 2) * array(codes)[:, i] * array(codes)[:, j]) ** 2
    for found in (pairs.moment_weights(given), pairs.second_moments(codes)):
        near(found, mean.mean(axis=0), 1 + mean.max())


@pytest.mark.bad_input
def test_refuses_what_is_no_moment_and_no_block():
    for moments in (torch.ones(3), torch.ones(2, 3), torch.ones(0, 0)):
        with refuses(ShapeError, f"moments of shape {tuple(moments.shape)}", "(features, features)"):
            pairs.moment_weights(moments)
    with refuses(BilensError, "codes of type torch.int64", "floating-point"):
        pairs.second_moments(torch.ones(2, 3, dtype=torch.int64))
    with refuses(BilensError, "block = 0", "at least 1"):
        pairs.norms(random_tensor(), block=0)
    with refuses(BilensError, "kind = 'squared'", "'two_hot'"):
        pairs.norms(random_tensor(), kind="squared")
