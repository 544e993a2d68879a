"""Sparse directions: against every support by brute force; Hoyer's measure by its closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import oracle
from bilens import decompose
from bilens.errors import BilensError, ShapeError
from bilens.kernel import Kernel
from bilens.space import Space
from messages import refuses
from oracle import array, near
from reproduction.methods import sparse, squares
from strategies import SEEDS, kernels


def kernel_of(matrix: torch.Tensor) -> Kernel:
    return Kernel.from_matrix((matrix + matrix.T) / 2, Space("x", len(matrix)), "q")


def random_kernel(size: int, seed: int) -> Kernel:
    generator = torch.Generator().manual_seed(seed)
    return kernel_of(torch.randn(size, size, generator=generator, dtype=torch.float64))


# Hoyer


@given(st.integers(2, 30), st.integers(1, 30), st.floats(0.01, 100.0), SEEDS)
def test_entries_of_one_size_have_a_closed_form(n, m, scale, seed):
    m = min(m, n)
    generator = torch.Generator().manual_seed(seed)
    vector = torch.zeros(n, dtype=torch.float64)
    vector[torch.randperm(n, generator=generator)[:m]] = scale
    vector *= (torch.rand(n, generator=generator) < 0.5) * 2.0 - 1.0
    near(sparse.hoyer(vector), (np.sqrt(n) - np.sqrt(m)) / (np.sqrt(n) - 1))
    near(sparse.hoyer(torch.stack([vector, 2 * vector])), [sparse.hoyer(vector)] * 2)


@given(st.integers(2, 30), SEEDS)
def test_moving_weight_from_a_small_entry_to_a_large_one_is_sparser(n, seed):
    vector = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
    vector = vector.sort().values
    moved = vector.clone()
    moved[0] -= 0.05
    moved[-1] += 0.05
    assert 0 <= float(sparse.hoyer(vector)) < float(sparse.hoyer(moved)) <= 1


@pytest.mark.bad_input
def test_a_vector_without_sparsity_is_refused() -> None:
    for wrong in (torch.zeros(3), torch.full((3,), torch.nan)):
        with refuses(BilensError, "vectors that are 0"):
            sparse.hoyer(wrong)
    with refuses(ShapeError, "at least 2 entries"):
        sparse.hoyer(torch.ones(4, 1))


# Sparse directions


@given(kernels(), st.data())
def test_directions_have_so_many_coordinates_and_each_lowers_the_residual(kernel, data):
    nonzero = data.draw(st.integers(1, kernel.input.dim))
    found = sparse.sparse_eigh(kernel, 4, nonzero)
    assert len(found) <= 4
    assert ((found.vectors != 0).sum(dim=1) <= nonzero).all()
    matrix = oracle.dense(kernel.left, kernel.right, kernel.weights[None])[0]
    before = float(np.linalg.norm(matrix))
    if before == 0:
        assert len(found) == 0
    for k in range(1, len(found) + 1):
        fitted = squares.squares(kernel, found.vectors[:k])
        vectors = array(fitted.vectors)
        after = float(np.linalg.norm(matrix - vectors.T @ np.diag(array(fitted.values)) @ vectors))
        assert after <= before * (1 + 1e-7)
        before = after


@given(st.integers(2, 6), SEEDS, st.data())
def test_a_direction_is_the_best_of_its_support_and_none_is_better_than_brute_force(size, seed, data):
    nonzero = data.draw(st.integers(1, size))
    kernel = random_kernel(size, seed)
    matrix = array(kernel.dense())
    found = array(sparse.sparse_eigh(kernel, 1, nonzero).vectors)[0]
    value = found @ matrix @ found
    places = np.flatnonzero(found)
    levels = np.linalg.eigvalsh(matrix[np.ix_(places, places)])
    near(value, levels[-1] if value > 0 else levels[0], abs(matrix).sum(), rtol=1e-6)
    supports = itertools.combinations(range(size), nonzero)
    most = max(abs(np.linalg.eigvalsh(matrix[np.ix_(s, s)])).max() for s in supports)
    assert abs(value) <= most * (1 + 1e-9)


def test_brute_force_is_mostly_reached() -> None:
    ratios = []
    for seed in range(40):
        kernel = random_kernel(7, seed)
        matrix = array(kernel.dense())
        found = array(sparse.sparse_eigh(kernel, 1, 3).vectors)[0]
        most = max(
            abs(np.linalg.eigvalsh(matrix[np.ix_(s, s)])).max() for s in itertools.combinations(range(7), 3)
        )  # fmt: skip
        ratios.append(abs(found @ matrix @ found) / most)
    assert np.median(ratios) > 0.99
    assert min(ratios) > 0.7


def test_with_all_coordinates_they_are_the_eigenvectors() -> None:
    for size in (8, 80):
        kernel = random_kernel(size, 0)
        spectrum = decompose.eigh(kernel, 3)
        found = sparse.sparse_eigh(kernel, 3, size)
        near(found.values, spectrum.values, float(spectrum.values[0].abs()), rtol=1e-6)
        near((found.vectors * spectrum.vectors).sum(dim=1).abs(), np.ones(3), rtol=1e-4)


def test_disjoint_sparse_directions_are_found_and_nothing_more() -> None:
    one, two = torch.zeros(2, 9).double()
    one[[0, 1, 2]] = torch.tensor([2.0, -1.0, 2.0]).double() / 3
    two[[5, 6, 8]] = torch.tensor([1.0, 2.0, 2.0]).double() / 3
    kernel = kernel_of(3 * torch.outer(one, one) - 2 * torch.outer(two, two))
    found = sparse.sparse_eigh(kernel, 5, 3)
    near(found.values, [3.0, -2.0])
    near(found.vectors, torch.stack([one, two]), rtol=1e-8)
    assert float(found.residual) < 1e-7


@given(st.integers(2, 12), SEEDS, st.data())
def test_no_step_of_the_truncated_power_method_goes_down(size, seed, data):
    nonzero = data.draw(st.integers(1, size))
    matrix = random_kernel(size, seed).dense()
    start = torch.randn(size, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    (least, _), _ = sparse._ends(matrix)
    before = -float("inf")
    for steps in range(1, 8):
        x = sparse._ascend(matrix, start, -least, nonzero, steps)
        value = float(x @ matrix @ x)
        assert value >= before - 1e-12
        before = value


def test_the_end_of_an_ascent_would_choose_its_own_coordinates_again() -> None:
    for seed in range(30):
        matrix = random_kernel(12, seed).dense()
        (least, _), (_, highest) = sparse._ends(matrix)
        x = array(sparse._ascend(matrix, highest, -least, 4, 100))
        pushed = abs(array(matrix) @ x - least * x)
        assert set(np.argsort(pushed)[-4:]) == set(np.flatnonzero(x))


def test_outer_eigenvalues_are_bounded_whichever_solver_finds_them() -> None:
    for size in (5, 64, 65, 120):
        matrix = random_kernel(size, size).dense()
        levels = np.linalg.eigvalsh(array(matrix))
        (least, most), (lowest, highest) = sparse._ends(matrix)
        spread = abs(levels).max()
        assert levels[0] - 0.03 * spread < least < levels[0]
        assert levels[-1] < most < levels[-1] + 0.03 * spread
        near(lowest @ matrix @ lowest, levels[0], spread, rtol=1e-2)
        near(highest @ matrix @ highest, levels[-1], spread, rtol=1e-2)


@pytest.mark.bad_input
def test_numbers_that_make_no_sense_are_refused() -> None:
    kernel = random_kernel(3, 0)
    for nonzero in (0, 4):
        with refuses(BilensError, f"nonzero = {nonzero}", "1 ≤ nonzero ≤ 3"):
            sparse.sparse_eigh(kernel, 1, nonzero)
    with refuses(BilensError, "k = 0"):
        sparse.sparse_eigh(kernel, 0, 1)
