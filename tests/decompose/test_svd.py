"""The singular value decomposition of a tensor, from its factors."""

from __future__ import annotations

import dataclasses

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import oracle
from bilens import decompose
from bilens.errors import BilensError, ShapeError
from bilens.space import Space
from bilens.tensor import BilinearTensor
from messages import refuses
from oracle import array, near, with_one
from strategies import SEEDS, layers, samples

BOTH = pytest.mark.parametrize("method", [decompose.svd, decompose.svd_accurate])


def random_tensor(o: int, h: int, d: int, *, rank: int | None = None, seed: int = 0) -> BilinearTensor:
    """A tensor whose read-out has this rank, full when None."""
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.randn(h, d, generator=generator, dtype=torch.float64) for _ in range(2))
    down = torch.randn(o, h, generator=generator, dtype=torch.float64)
    if rank is not None:
        down = torch.randn(o, rank, generator=generator, dtype=torch.float64) @ down[:rank]
    return BilinearTensor(left, right, down, Space("x", d), Space("y", o))


def known(sigma: list[float], seed: int = 0) -> BilinearTensor:
    """A tensor with these singular values: orthonormal kernels e_s e_sᵀ and a rotated read-out."""
    n = len(sigma)
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))[0]
    eye = torch.eye(n, dtype=torch.float64)
    return BilinearTensor(eye, eye, rotation * torch.tensor(sigma, dtype=torch.float64), Space("x", n), Space("y", n))


@BOTH
@given(st.data(), layers())
def test_fewer_components_are_the_first_ones(method, data, layer):
    tensor = layer.tensor()
    k = data.draw(st.integers(1, layer.output.size))
    whole, part = method(tensor), method(tensor, k)
    assert (len(whole), len(part)) == (layer.output.size, k)
    near(part.values, whole.values[:k], 0)
    near(part.outputs, whole.outputs[:k], 0)
    near(part.energy, whole.energy, 0)
    assert list(array(whole.values)) == sorted(array(whole.values), reverse=True)
    assert part.tensor is tensor


@BOTH
@given(st.data(), layers())
def test_the_certificate_of_a_truncation_holds(method, data, layer):
    x = data.draw(samples(layer.input.size))
    tensor = layer.tensor()
    computed = data.draw(st.none() | st.integers(1, layer.output.size))
    found = method(tensor, computed)
    lifted = with_one(x) if layer.biased else array(x)
    norms = np.linalg.norm(lifted, axis=1)
    natural = np.linalg.norm(oracle.dense(tensor.left.abs(), tensor.right.abs(), tensor.down.abs()))
    for k in range(len(found) + 1):
        error = np.linalg.norm(oracle.forward(layer, x) - array(found.truncate(k)(x)), axis=1)
        certificate = array(found.bound(k, torch.tensor(norms)))
        assert (error <= certificate + 1e-12 * natural * norms**2).all()  # that is evaluated, not exact
        if k < len(found):  # a Gram's singular values are only known to 1e-8 of the largest
            near(certificate, float(found.values[k]) * norms**2, natural * (norms**2).sum(), rtol=1e-7)


def test_a_certificate_without_the_next_value_uses_the_energy_that_is_left():
    sigma = [3.0, 2.0, 1.0, 0.5]
    found = decompose.svd(known(sigma), 2)
    near(found.bound(1, 1.0), 2.0)
    near(found.bound(2, 1.0), np.sqrt(1.25), rtol=1e-6)
    near(found.bound(2, torch.tensor([0.0, 2.0]).double()), [0.0, 4 * np.sqrt(1.25)], rtol=1e-6)
    assert float(decompose.svd(known(sigma)).bound(4, 1.0)) < 1e-13


@BOTH
def test_truncation_is_the_best_of_its_rank(method):
    tensor = random_tensor(6, 9, 5)
    best = method(tensor).truncate(2)
    assert best.output == tensor.output
    error = (tensor.to_dense() - best.to_dense()).norm()
    generator = torch.Generator().manual_seed(3)
    for _ in range(50):
        basis = torch.linalg.qr(torch.randn(6, 2, generator=generator, dtype=torch.float64))[0]
        other = tensor.then(basis @ basis.T, tensor.output)
        assert (tensor.to_dense() - other.to_dense()).norm() >= error
    near(method(tensor).truncate(0).norm(), 0.0, 0)


@BOTH
def test_equal_singular_values_are_compared_as_a_subspace(method):
    tensor = known([2.0, 2.0, 1.0])
    found = method(tensor)
    near(found.values, [2, 2, 1])
    directions = array(tensor.down)[:, :2]  # the first two columns span the directions of σ = 2
    near(oracle.projector(found.outputs[:2]), oracle.projector(directions.T))
    near(abs(array(found.outputs[2]) @ array(tensor.down)[:, 2]), 1.0)


@BOTH
def test_signs_are_fixed_by_the_largest_entry(method):
    for seed in range(5):
        for direction in array(method(random_tensor(4, 5, 3, seed=seed)).outputs):
            assert direction[abs(direction).argmax()] > 0


@BOTH
def test_more_outputs_than_pairs_have_zeros_at_the_end(method):
    found = method(random_tensor(5, 4, 1))  # one input: one pair, so rank one
    assert len(found.values) == 5
    near(found.values[1:], np.zeros(4), float(found.values[0]), rtol=1e-7)


@given(st.integers(2, 40), st.integers(1, 3), st.integers(3, 30), st.integers(3, 12), SEEDS)
def test_what_is_noise_lies_below_the_floor(o, rank, h, d, seed):
    tensor = random_tensor(o, h, d, rank=min(rank, o), seed=seed)
    for found in (decompose.svd(tensor), decompose.svd_accurate(tensor)):
        noise = array(found.values)[min(rank, o) :]
        assert (noise <= float(found.floor)).all()
        assert float(found.floor) < 1e-6 * float(found.values[0])


def exact(tensor: BilinearTensor) -> list[float]:
    """Singular values of B from its factors as they are in memory, in 60 digits."""
    with mpmath.workdps(60):
        left, right, down = (mpmath.matrix(array(part).tolist()) for part in (tensor.left, tensor.right, tensor.down))
        o, h, d = down.rows, left.rows, left.cols
        flat = mpmath.matrix(o, d * d)
        for i in range(d):
            for j in range(d):
                units = mpmath.matrix([(left[n, i] * right[n, j] + left[n, j] * right[n, i]) / 2 for n in range(h)])
                flat[:, i * d + j] = down * units
        return [float(value) for value in mpmath.svd_r(flat, compute_uv=False)]


@pytest.mark.parametrize(("o", "h", "d"), [(6, 6, 6), (5, 9, 4), (4, 4, 11), (7, 4, 5), (7, 3, 9)])
def test_the_accurate_tail_is_right_to_the_last_digits(o, h, d):
    """A spectrum from 1 down to 1e-14, also over fewer hidden units than outputs, and fewer factors than inputs."""
    tensor = random_tensor(o, h, d, seed=3)
    rank = min(o, h)
    turned, _, basis = torch.linalg.svd(tensor.down, full_matrices=False)
    spread = torch.logspace(0, -14, rank, dtype=torch.float64)
    tensor = dataclasses.replace(tensor, down=turned * spread @ basis)
    expected = sorted(exact(tensor), reverse=True)[:o]
    expected += [0.0] * (o - len(expected))
    assert 1e-15 < expected[rank - 1] / expected[0] < 1e-12
    found = decompose.svd_accurate(tensor, block=7)
    near(found.values, expected, 4e-15 * expected[0], rtol=1)
    near(found.values[rank - 1], expected[rank - 1], expected[rank - 1], rtol=0.3)
    near(array(found.outputs) @ array(found.outputs).T, np.eye(o), rtol=1e-13)
    dense = oracle.dense(tensor.left, tensor.right, tensor.down).reshape(o, -1)
    sizes = np.linalg.norm(array(found.outputs) @ dense, axis=1)
    near(sizes, found.values, 1e-14 * expected[0], rtol=1)
    gram = array(decompose.svd(tensor).values)  # the other path cannot
    assert abs(gram[rank - 1] - expected[rank - 1]) > 0.3 * expected[rank - 1]


def test_the_accurate_path_reads_any_block_size():
    tensor = random_tensor(4, 5, 6)
    expected = oracle.svd(oracle.dense(tensor.left, tensor.right, tensor.down))[1]
    for block in (1, 2, 20, 21, 22, 10_000):
        near(decompose.svd_accurate(tensor, block=block).values, expected, rtol=1e-13)


@BOTH
def test_single_precision_is_answered_in_kind(method):
    tensor = random_tensor(4, 5, 6)
    single = method(tensor.to(torch.float32))
    for field in ("values", "outputs", "energy", "floor"):
        assert getattr(single, field).dtype == torch.float32
    near(single.values, method(tensor).values, float(single.values[0]), rtol=1e-6)
    assert single.kernel(0).weights.dtype == torch.float32


def test_right_kernels_stay_factored_and_have_norm_one():
    tensor = random_tensor(4, 5, 6)
    found = decompose.svd(tensor)
    for s in range(4):
        kernel = found.kernel(s)
        assert kernel.left is tensor.left
        assert kernel.input is tensor.input
        assert kernel.label == str(s)
        near(kernel.norm(), 1.0)


# What is refused


@BOTH
@pytest.mark.parametrize("k", [0, -2, 5])
def test_refuses_more_components_than_outputs(method, k):
    with refuses(BilensError, f"k = {k}", "1 ≤ k ≤ 4"):
        method(random_tensor(4, 5, 6), k)


def test_refuses_a_block_without_pairs():
    with refuses(BilensError, "block = 0", "at least 1"):
        decompose.svd_accurate(random_tensor(4, 5, 6), block=0)


@pytest.mark.parametrize("s", [-1, 2])
def test_refuses_a_component_that_was_not_computed(s):
    with refuses(BilensError, f"component = {s}", "0 ≤ component ≤ 1", "more components"):
        decompose.svd(random_tensor(4, 5, 6), 2).kernel(s)


def test_refuses_the_kernel_of_noise():
    found = decompose.svd(random_tensor(4, 5, 6, rank=2))
    with refuses(BilensError, "component 2 with σ = ", "above the floor", "svd_accurate"):
        found.kernel(2)
    zero = random_tensor(4, 5, 6)
    zero = dataclasses.replace(zero, down=zero.down * 0)
    for method in (decompose.svd, decompose.svd_accurate):
        with refuses(BilensError, "component 0 with σ = 0", "floor 0"):
            method(zero).kernel(0)


@pytest.mark.parametrize("k", [-1, 3])
def test_refuses_to_keep_more_than_was_computed(k):
    found = decompose.svd(random_tensor(4, 5, 6), 2)
    for call in (lambda: found.truncate(k), lambda: found.bound(k, 1.0)):
        with refuses(BilensError, f"k = {k}", "0 ≤ k ≤ 2", "compute more"):
            call()


@pytest.mark.bad_input
def test_refuses_a_record_that_does_not_fit():
    found = decompose.svd(random_tensor(4, 5, 6))
    with refuses(ShapeError, "outputs of shape (4, 3)", "(4, 4)"):
        dataclasses.replace(found, outputs=found.outputs[:, :3])


@pytest.mark.parametrize("power", [-150, -40, 40, 150])
def test_the_scale_of_the_factors_is_nothing_but_a_factor(power):
    tensor, size = random_tensor(3, 6, 5), 2.0**power
    scaled = BilinearTensor(tensor.left * size, tensor.right * size, tensor.down * size, tensor.input, tensor.output)
    dense = oracle.dense(tensor.left, tensor.right, tensor.down).reshape(3, 25)
    expected = np.linalg.svd(dense, compute_uv=False)
    near(decompose.svd(scaled).values / size**3, expected, expected.max(), rtol=1e-12)
    near(decompose.squared_norms(scaled).sqrt() / size**3, np.linalg.norm(dense, axis=1), expected.max(), rtol=1e-12)


@BOTH
def test_singular_values_whose_squares_do_not_fit_are_told(method):
    big = torch.full((4, 5), 1e8)
    tensor = BilinearTensor(big, big, torch.full((3, 4), 1e8), Space("x", 5), Space("y", 3))
    with refuses(BilensError, "float32", "whose square fits"):
        method(tensor)
    near(method(tensor.to(torch.float64)).values[0], 4 * 5 * 1e24 * 3**0.5, 1e26, rtol=1e-12)


def test_energies_that_do_not_fit_are_told():
    big = torch.full((4, 5), 1e8)
    tensor = BilinearTensor(big, big, torch.full((3, 4), 1e8), Space("x", 5), Space("y", 3))
    with refuses(BilensError, "squared norm beyond 3.4e+38"):
        decompose.squared_norms(tensor)
    near(decompose.squared_norms(tensor.to(torch.float64)), [(4 * 5 * 1e24) ** 2] * 3, 1e50, rtol=1e-12)


def test_a_few_of_many_components_are_solved_for_alone(monkeypatch):
    """Against NumPy, with equal singular values at the cut, and where the partial solver gives up."""
    tensor = random_tensor(160, 150, 12)
    twice = dataclasses.replace(tensor, down=torch.cat([tensor.down[:80], tensor.down[:80]]))
    for each in (tensor, twice):
        dense = oracle.dense(each.left, each.right, each.down).reshape(160, -1)
        expected = np.linalg.svd(dense, compute_uv=False)
        found = decompose.svd(each, 9)
        near(found.values, expected[:9], expected[0], rtol=1e-8)
        near(found.energy, (dense**2).sum(), (dense**2).sum(), rtol=1e-12)
        near(found.outputs @ found.outputs.T, np.eye(9), rtol=1e-12)
        near(np.linalg.norm(array(found.outputs) @ dense, axis=1), expected[:9], expected[0], rtol=1e-8)

    def fails(*_, **__):
        raise np.linalg.LinAlgError

    def wrong(matrix, **_):
        return np.ones(9), np.eye(160)[:, :9]

    for solver in (fails, wrong):
        monkeypatch.setattr("scipy.linalg.eigh", solver)
        near(decompose.svd(tensor, 9).values, decompose.svd(tensor).values[:9], 1e3, rtol=1e-12)


@BOTH
@given(layers(), st.sampled_from([torch.float64, torch.float32]))
def test_residuals_hold_for_what_is_returned(method, layer, dtype):
    tensor = layer.tensor().to(dtype)
    found = method(tensor)
    dense = oracle.dense(*(array(f.double()) for f in (tensor.left, tensor.right, tensor.down)))
    dense = dense.reshape(len(dense), -1)
    rows, squares = array(found.outputs.double()), array(found.values.double())[:, None] ** 2
    off = np.linalg.norm(rows @ dense @ dense.T - squares * rows, axis=1)
    assert (off <= array(found.residuals.double()) + 1e-14 * (dense**2).sum()).all()
    assert (array(found.residuals) <= 1e-6 * (dense**2).sum() + 1e-30).all()
