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
from bilens.pairs import Kind
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
