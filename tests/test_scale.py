"""Norms, inner products, cosines and duals at every scale that a type holds, or one line."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import oracle
from bilens import matching, pairs
from bilens._internal.scale import near_one, times_two_to, units
from bilens.dictionary import Dictionary, pseudoinverse_duals
from bilens.errors import BilensError
from bilens.space import Space
from bilens.tensor import BilinearTensor
from messages import refuses
from oracle import array, near
from strategies import SEEDS, matrices

X, Y = Space("x", 4), Space("y", 3)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


L, R, D = normal(5, 4), normal(5, 4, seed=1), normal(3, 5, seed=2)
TENSOR, OTHER = BilinearTensor(L, R, D, X, Y), BilinearTensor(R, D.T @ normal(3, 4), L[:, :3].T, X, Y)
DENSE, SECOND = oracle.dense(L, R, D), oracle.dense(R, OTHER.right, OTHER.down)


@pytest.mark.parametrize("scale", [2.0**-500, 2.0**-100, 1.0, 2.0**300, 2.0**500])
def test_norms_and_angles_at_any_scale(scale: float) -> None:
    tensor, other = BilinearTensor(L * scale, R * scale, D, X, Y), BilinearTensor(OTHER.left / scale, OTHER.right,
                                                                                  OTHER.down, X, Y)  # fmt: skip
    norm, inner = np.linalg.norm(DENSE), oracle.inner(DENSE, SECOND)
    assert float(tensor.cosine(tensor)) == 1
    near(tensor.cosine(other), inner / norm / np.linalg.norm(SECOND))
    near(float(tensor.norm() / scale) / scale, norm, norm)
    near(float(tensor.inner(other)) / scale, inner, norm * np.linalg.norm(SECOND))
    kernel, second = tensor.kernel(1), other.kernel(2)
    near(float(kernel.norm() / scale) / scale, np.linalg.norm(DENSE[1]), norm)
    near(float(kernel.inner(second)) / scale, oracle.inner(DENSE[1], SECOND[2]), norm * np.linalg.norm(SECOND))
    cosines = np.einsum("oij,pij->op", DENSE, SECOND) / np.linalg.norm(DENSE, axis=(1, 2))[:, None]
    near(matching.kernel_cosines(tensor, other), cosines / np.linalg.norm(SECOND, axis=(1, 2)))
    if 1e-60 < scale < 1e60:
        near(tensor.gram() / scale**4, oracle.gram(DENSE), norm**2)


def test_hidden_units_and_outputs_of_unlike_scales() -> None:
    """Large in L and small in R, or the other way round: every unit counts, and no output hides another."""
    turns = 2.0 ** torch.linspace(-700, 700, 5, dtype=torch.float64).round()[:, None]
    tensor = BilinearTensor(L * turns, R / turns, D, X, Y)
    assert float(tensor.cosine(TENSOR)) == float(TENSOR.cosine(TENSOR)) == 1
    assert torch.equal(tensor.norm(), TENSOR.norm())
    assert torch.equal(tensor.gram(), TENSOR.gram())
    assert torch.equal(tensor.kernel(0).norm(), TENSOR.kernel(0).norm())
    rows = 2.0 ** torch.tensor([[-700.0], [0.0], [700.0]], dtype=torch.float64)
    large, small = BilinearTensor(L, R, D * rows, X, Y), BilinearTensor(L, R, D / rows, X, Y)
    near(large.inner(small), np.linalg.norm(DENSE) ** 2, 1e2)
    near(large.cosine(small), 0.0)  # each is one output, and not the same one
    near(matching.kernel_cosines(large, small).diagonal(), np.ones(3))
    left, right = torch.cat([L, L[:1] * 0]), torch.cat([R, R[:1]])  # the last unit counts for nothing
    dead = BilinearTensor(left, right, torch.cat([D * 1e-300, D[:, :1] * 1e300], 1), X, Y)
    near(dead.cosine(TENSOR), 1)


def test_what_a_type_does_not_hold_is_refused() -> None:
    for scale, dtype, said in (
        (1e200, torch.float64, "a norm of about 1e+401"),
        (1e-200, torch.float64, "a norm of about 1e-399"),
        (1e25, torch.float32, "a norm of about 1e+51"),
        (1e-25, torch.float32, "a norm of about 1e-49"),
    ):
        tensor = BilinearTensor(L * scale, R * scale, D, X, Y).to(dtype)
        assert float(tensor.cosine(tensor)) == 1
        name = str(dtype).removeprefix("torch.")
        for record in (tensor, tensor.kernel(0)):
            with refuses(BilensError, "a norm of about 1e", f"a number that {name} holds", "Scale" if dtype ==
                         torch.float64 else "Call .to(torch.float64)"):  # fmt: skip
                record.norm()
            with refuses(BilensError, "an inner product of about"):
                record.inner(record)
        with refuses(BilensError, said):
            tensor.norm()
        if dtype == torch.float64:
            with refuses(BilensError, "a squared norm of about"):
                tensor.gram()
        else:
            assert bool(torch.isfinite(tensor.gram()).all())
    huge = BilinearTensor(L * 1e200, R * 1e200, D, X, Y)
    with refuses(BilensError, "a dense kernel with numbers beyond float64", "Scale the weights"):
        huge.kernel(0).dense()
    with refuses(BilensError, "a tensor with numbers beyond float32", "Call .to(torch.float64)"):
        huge.to(torch.float32)
    with refuses(BilensError, "a kernel with numbers beyond float32"):
        BilinearTensor(L * 1e-60, R, D, X, Y).kernel(0).to(torch.float32)  # all of it would be 0
    with refuses(BilensError, "a layer with its read-out with numbers beyond float64"):
        BilinearTensor(L, R, D * 1e200, X, Y).then(normal(2, 3) * 1e200, Space("z", 2))
    with refuses(BilensError, "a kernel with numbers beyond float64"):
        BilinearTensor(L, R, D * 1e200, X, Y).kernel(normal(3) * 1e200)
    wide = Dictionary.from_atoms(normal(6, 4) * 1e200, X)
    with refuses(BilensError, "a layer of features with numbers beyond float64"):
        BilinearTensor(L * 1e200, R, D, X, Y).pullback(wide)


@pytest.mark.parametrize("scale", [2.0**-900, 2.0**-300, 2.0**300, 2.0**900])
def test_duals_and_ranks_at_any_scale(scale: float) -> None:
    atoms = torch.cat([normal(5, 4), normal(1, 4, seed=1).expand(2, 4)])[:, :3]
    found, plain = Dictionary.from_atoms(atoms * scale, Space("y", 3)), Dictionary.from_atoms(atoms, Space("y", 3))
    assert found.rank == plain.rank == 3
    near(found.duals * scale, oracle.pinv(atoms).T)
    assert Dictionary.from_atoms(atoms[:2] * scale, Space("y", 3)).rank == 2
    y, active = normal(4, 3), torch.rand(4, 7, generator=torch.Generator().manual_seed(1)) < 0.5
    near(found.encode_among(y, active) * scale, plain.encode_among(y, active))
    near(matching.subspace_cosines(atoms[:2] * scale, atoms[1:3]), matching.subspace_cosines(atoms[:2], atoms[1:3]))
    moment = atoms.T @ atoms
    drawn = matching.random_directions(moment * scale, 5)
    near(drawn / scale**0.5, matching.random_directions(moment, 5))


def test_duals_that_a_type_does_not_hold_are_refused() -> None:
    with refuses(BilensError, "duals of about 1e+40", "float32 holds", "Call .to(torch.float64)"):
        Dictionary.from_atoms(torch.eye(3) * 1e-40, Space("y", 3))
    with refuses(BilensError, "duals of about 1e-308", "Scale the weights"):
        pseudoinverse_duals(torch.eye(2, dtype=torch.float64) * 1e308)


@pytest.mark.parametrize("scale", [2.0**-90, 2.0**-40, 2.0**30, 2.0**60])
def test_norms_of_pair_vectors_at_any_scale(scale: float) -> None:
    down = torch.cat([D, D[:1]]).float()
    down[:, 0] *= 2.0**-30  # beside the others
    plain = BilinearTensor(L.float(), R.float(), down, X, Space("y", 4))
    tensor = BilinearTensor(plain.left * scale, plain.right, plain.down, X, plain.output)
    i, j = torch.triu_indices(4, 4)
    expected = array(pairs.polarized(plain, i, j))
    near(pairs.norms(tensor) / scale, np.linalg.norm(expected, axis=1), 1, rtol=1e-5)
    codes = normal(6, 4).float()
    near(pairs.second_moments(codes * 2.0**25) / 2.0**100, pairs.second_moments(codes), 10, rtol=1e-6)
    with refuses(BilensError, "second moments of about 1e+", "float32 holds"):
        pairs.second_moments(codes * 1e20)


@given(st.data(), SEEDS)
def test_powers_of_two_change_no_tensor(data: st.DataObject, seed: int) -> None:
    left, right, down = data.draw(matrices(3, 4)), data.draw(matrices(3, 4)), data.draw(matrices(2, 3))
    powers = torch.randint(-200, 200, (3, 1), generator=torch.Generator().manual_seed(seed)).double()
    found = units(left * 2.0**powers, right, down)
    assert float(found.left.abs().max()) < 2
    assert float(found.right.abs().max()) < 2
    assert float(found.down.abs().max()) < 2
    scaled = oracle.dense(found.left, found.right, found.down) * 2.0 ** array(found.exponents)[:, None, None]
    expected = oracle.dense(left * 2.0**powers, right, down)
    assert (abs(scaled - expected) <= 1e-12 * abs(expected).max(axis=(1, 2), keepdims=True)).all()


def test_powers_of_two_have_their_gradient() -> None:
    x = torch.tensor([1.5, -3.0], dtype=torch.float64, requires_grad=True)
    for power in (-30, -1, 0, 7, 1000, -1000):
        (gradient,) = torch.autograd.grad(times_two_to(x, torch.tensor(power)).sum(), x)
        assert gradient.tolist() == [2.0**power] * 2
    single = torch.tensor([1.5], dtype=torch.float32)
    assert float(times_two_to(single * 2.0**-140, torch.tensor(160))) == 1.5 * 2.0**20
    scaled, power = near_one(torch.tensor([[3e38, 1.0]]))
    assert (scaled.dtype, float(scaled[0, 0] * power)) == (torch.float32, float(torch.tensor(3e38)))
