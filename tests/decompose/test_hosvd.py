"""The input mode's basis, against a dense singular value decomposition of the unfolded tensor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import oracle
from bilens import decompose
from bilens.decompose import InputBasis
from bilens.errors import BilensError, ShapeError
from bilens.space import Space
from bilens.tensor import BilinearTensor
from messages import refuses
from oracle import array, near, with_one
from strategies import SEEDS, filled, layers, orthogonal, samples


def unfolded(dense: np.ndarray) -> np.ndarray:
    """B as an i × (o i) matrix."""
    return dense.transpose(1, 0, 2).reshape(dense.shape[1], -1)


def natural(tensor: BilinearTensor) -> float:
    return float(np.linalg.norm(oracle.dense(tensor.left.abs(), tensor.right.abs(), tensor.down.abs())))


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@given(layer=layers())
def test_squared_values_and_subspaces_are_those_of_the_dense_mode_gram(layer, dtype, rtol) -> None:
    tensor = layer.tensor().to(dtype)
    dense = oracle.dense(tensor.left, tensor.right, tensor.down)
    gram, scale = np.einsum("oij,ojk->ik", dense, dense), natural(tensor) ** 2
    found = decompose.input_basis(tensor)
    assert found.values.dtype == found.vectors.dtype == dtype
    vectors, values = array(found.vectors), array(found.values)
    near(vectors @ vectors.T, np.eye(len(gram)), rtol=rtol)
    near(vectors @ gram @ vectors.T, np.diag(values**2), scale, rtol=rtol)
    near(values**2, np.linalg.eigvalsh(gram)[::-1], scale, rtol=rtol)
    near(found.energy, (dense**2).sum(), scale, rtol=rtol)
    assert (np.diff(values) <= 0).all()


@given(layer=layers(bias=True))
def test_biases_are_part_of_the_basis(layer) -> None:
    tensor, dense = layer.tensor(), oracle.tensor(layer, constant=True)
    found = decompose.input_basis(tensor)
    assert found.input.constant
    assert found.vectors.shape[1] == layer.input.size + 1
    singular = np.linalg.svd(unfolded(dense), compute_uv=False)
    near(array(found.values) ** 2, np.pad(singular, (0, len(found)))[: len(found)] ** 2, natural(tensor) ** 2)
    x = with_one(filled("normal", 3, layer.input.size, 1))
    codes = found.dictionary().encode(torch.tensor(x))
    pulled = tensor.pullback(found.dictionary())
    near(pulled(codes), oracle.evaluate(dense, x), oracle.size(layer, x[:, :-1]))


@given(st.integers(2, 5), st.integers(1, 2), SEEDS)
def test_a_rank_deficient_tensor_has_its_rank_above_the_floor(d, rank, seed) -> None:
    basis = orthogonal(d + 3, seed)[:rank]
    left, right = (filled("normal", 6, rank, seed + n) @ basis for n in (1, 2))
    tensor = BilinearTensor(left, right, filled("normal", 4, 6, seed), Space("x", d + 3), Space("y", 4))
    found = decompose.input_basis(tensor)
    assert int((found.values > found.floor).sum()) == rank
    near(oracle.projector(found.vectors[:rank]), oracle.projector(basis), rtol=1e-6)


def test_equal_values_are_a_subspace_and_known_ones_are_found() -> None:
    basis = orthogonal(4, 5)
    weights = torch.tensor([3.0, 3.0, 1.0, 0.0], dtype=torch.float64)
    tensor = BilinearTensor(basis, basis, torch.diag(weights), Space("x", 4), Space("y", 4))
    found = decompose.input_basis(tensor)
    near(found.values, weights, rtol=1e-7)
    near(oracle.projector(found.vectors[:2]), oracle.projector(basis[:2]))
    for vector in array(found.vectors):
        assert vector[abs(vector).argmax()] > 0


@given(st.data(), layers())
def test_the_certificate_of_a_truncation_holds(data, layer) -> None:
    tensor, x = layer.tensor(), data.draw(samples(layer.input.size))
    computed = data.draw(st.integers(1, tensor.input.dim))
    found = decompose.input_basis(tensor, computed)
    assert torch.equal(found.vectors, decompose.input_basis(tensor).vectors[:computed])
    dense = oracle.tensor(layer, constant=layer.biased)
    lifted = with_one(x) if layer.biased else array(x)
    norms = np.linalg.norm(lifted, axis=1)
    for k in range(computed + 1):
        seen = lifted @ oracle.projector(found.vectors[:k]) if k else 0 * lifted
        error = np.linalg.norm(oracle.evaluate(dense, lifted) - oracle.evaluate(dense, seen), axis=1)
        assert (error <= array(found.bound(k, torch.tensor(norms))) + 1e-12 * natural(tensor) * norms**2).all()


def test_the_certificate_adds_what_was_not_computed() -> None:
    weights = torch.tensor([3.0, 2.0, 1.0, 0.5], dtype=torch.float64)
    tensor = BilinearTensor(
        torch.eye(4).double(), torch.eye(4).double(), torch.diag(weights), Space("x", 4), Space("y", 4)
    )
    near(decompose.input_basis(tensor).bound(2, 1.0), np.sqrt(2 * 1.25), rtol=1e-7)
    near(decompose.input_basis(tensor, 3).bound(2, 2.0), 4 * np.sqrt(2 * 1.25), rtol=1e-7)
    assert float(decompose.input_basis(tensor).bound(4, 1.0)) < 1e-12


@pytest.mark.bad_input
def test_what_does_not_fit_is_refused() -> None:
    tensor = BilinearTensor(torch.eye(2), torch.eye(2), torch.eye(2), Space("x", 2), Space("y", 2))
    for k in (0, 3, True):
        with refuses(BilensError, f"k = {k}", "1 ≤ k ≤ 2"):
            decompose.input_basis(tensor, k)
    found = decompose.input_basis(tensor, 1)
    with refuses(BilensError, "k = 2", "0 ≤ k ≤ 1"):
        found.bound(2, 1.0)
    with refuses(ShapeError, "vectors of shape (1, 3)", "(1, 2)"):
        InputBasis(found.values, torch.ones(1, 3), found.energy, found.floor, found.beyond, found.input)
