"""Kernels as sums of squares of given directions: least squares, the greedy choice, and spans."""

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
from reproduction.methods import squares
from reproduction.methods.squares import Squares
from strategies import SEEDS, filled, kernels, samples


def matrix_of(kernel: Kernel) -> oracle.Array:
    return oracle.dense(kernel.left, kernel.right, kernel.weights[None])[0]


def best(matrix: oracle.Array, rows: oracle.Array) -> float:
    """Least residual of all weights, by least squares on the entries of the matrix."""
    columns = np.stack([np.outer(v, v).ravel() for v in rows], axis=1) if len(rows) else np.zeros((matrix.size, 0))
    weights = np.linalg.lstsq(columns, matrix.ravel(), rcond=None)[0]
    return float(np.linalg.norm(matrix.ravel() - columns @ weights))


@given(st.data(), kernels(), st.integers(1, 6), SEEDS)
def test_weights_are_those_of_least_squares_on_the_entries(data, kernel, k, seed):
    rows = filled(data.draw(st.sampled_from(("normal", "repeated"))), k, kernel.input.dim, seed)
    found = squares.squares(kernel, rows)
    matrix = matrix_of(kernel)
    rebuilt = sum(float(c) * np.outer(v, v) for c, v in zip(found.values, oracle.array(found.vectors), strict=True))
    norm = float(np.linalg.norm(matrix))
    natural = float(np.linalg.norm(oracle.dense(kernel.left.abs(), kernel.right.abs(), kernel.weights.abs()[None])))
    oracle.near(np.linalg.norm(matrix - rebuilt), best(matrix, oracle.array(rows)), natural, rtol=1e-6)
    if norm > 1e-6 * natural:
        oracle.near(found.residual * norm, np.linalg.norm(matrix - rebuilt), natural, rtol=1e-6)
    oracle.near(found.vectors.norm(dim=1), np.ones(k))
    x = data.draw(samples(kernel.input.size))
    lifted = oracle.array(kernel.input.fold(x))
    scale = max(natural, float(found.values.abs().sum())) * max(float((lifted**2).sum(axis=1).max()), 1.0)
    oracle.near(found.reconstruct(x), np.einsum("ni,ij,nj->n", lifted, rebuilt, lifted), scale)
    oracle.near(found.terms(x).sum(dim=1), found.reconstruct(x), scale)


@given(kernels(), st.data())
def test_eigenvectors_get_their_eigenvalues_and_are_chosen_in_their_order(kernel, data):
    k = data.draw(st.integers(1, kernel.input.dim))
    whole = decompose.eigh(kernel)
    scale = max(float(whole.values.abs().max()), 1e-3)
    fitted = squares.squares(kernel, whole.vectors[:k])
    oracle.near(fitted.values, whole.values[:k], scale, rtol=1e-8)
    shuffled = whole.vectors[torch.randperm(len(whole), generator=torch.Generator().manual_seed(k))]
    chosen = squares.pursuit(kernel, shuffled, k)
    sizes = whole.values.abs()[: len(chosen)]
    oracle.near(chosen.values.abs(), sizes, scale, rtol=1e-8)
    left = whole.values[len(chosen) :].abs().max() if len(chosen) < len(whole) else torch.tensor(0.0)
    assert len(chosen) == k or float(left) < 1e-8 * scale


@given(kernels(max_d=5), st.integers(2, 6), st.integers(1, 4), SEEDS)
def test_each_choice_is_the_one_that_lowers_the_residual_most(kernel, n, k, seed):
    rows = filled("normal", n, kernel.input.dim, seed)
    matrix, scale = matrix_of(kernel), max(float(np.linalg.norm(matrix_of(kernel))), 1e-3)
    found = squares.pursuit(kernel, rows, min(k, n))
    for count in range(1, len(found) + 1):
        before = oracle.array(found.vectors[: count - 1])
        choices = [best(matrix, np.concatenate([before, row[None]])) for row in oracle.array(rows)]
        assert best(matrix, oracle.array(found.vectors[:count])) <= min(choices) + 1e-6 * scale


def test_a_greedy_choice_is_not_always_the_best_set_and_copies_are_left_out() -> None:
    kernel = Kernel.from_matrix(torch.diag(torch.tensor([1.0, 1.0])).double(), Space("x", 2))
    one, two = torch.eye(2).double()
    slanted = torch.tensor([1.0, 1.0]).double()
    found = squares.pursuit(kernel, torch.stack([one, 2 * one, -one, two, slanted]), 5)
    assert len(found) == 2 or float(found.residual) < 1e-7
    pairs = itertools.combinations(found.vectors, 2)
    assert all(abs(float(a @ b)) < 1 - 1e-9 for a, b in pairs)
    assert float(found.residual) < 1e-7


@given(kernels(), st.integers(1, 5), SEEDS)
def test_the_span_holds_at_least_what_squares_hold(kernel, k, seed):
    matrix = matrix_of(kernel)
    norm = float(np.linalg.norm(matrix))
    rows = filled("normal", k, kernel.input.dim, seed)
    projector = oracle.projector(rows)
    found = squares.span_residual(kernel, rows)
    if norm > 1e-9:
        oracle.near(found, np.linalg.norm(matrix - projector @ matrix @ projector) / norm, rtol=1e-6)
    assert found <= float(squares.squares(kernel, rows).residual) + 1e-6


def test_no_direction_leaves_everything_and_a_zero_kernel_nothing() -> None:
    space = Space("x", 3)
    kernel = Kernel.from_matrix(torch.eye(3).double(), space)
    assert float(squares.squares(kernel, torch.zeros(0, 3).double()).residual) == 1
    zero = Kernel.from_matrix(torch.zeros(3, 3).double(), space)
    assert float(squares.squares(zero, torch.eye(3).double()).residual) == 0
    assert squares.span_residual(zero, torch.eye(3).double()) == 0
    assert len(squares.pursuit(zero, torch.eye(3).double(), 2)) == 0


def test_the_type_of_the_kernel_is_kept() -> None:
    kernel = Kernel.from_matrix(torch.eye(3), Space("x", 3), "q")
    found = squares.squares(kernel, torch.eye(3).double())
    assert found.values.dtype == found.vectors.dtype == found.residual.dtype == torch.float32
    assert (found.label, len(found)) == ("q", 3)


@pytest.mark.bad_input
def test_directions_that_are_none_are_refused() -> None:
    kernel = Kernel.from_matrix(torch.eye(3), Space("x", 3))
    with refuses(ShapeError, "directions of shape (2, 4)"):
        squares.squares(kernel, torch.ones(2, 4))
    for wrong in (0.0, torch.inf, torch.nan):
        with refuses(BilensError, "directions that are 0"):
            squares.pursuit(kernel, torch.full((1, 3), wrong), 1)
    with refuses(BilensError, "k = 0"):
        squares.pursuit(kernel, torch.eye(3), 0)
    with refuses(ShapeError, "residual"):
        Squares(torch.ones(1), torch.eye(3)[:1], torch.ones(1), Space("x", 3))
