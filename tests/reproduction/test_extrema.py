"""Local extrema: closed forms, brute force over vertices and grids, and first- and second-order conditions."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given
from hypothesis import strategies as st

import oracle
from bilens.errors import BilensError, ShapeError
from bilens.kernel import Kernel
from bilens.space import Space
from bilens.tensor import BilinearTensor
from messages import refuses
from oracle import array, near
from reproduction.methods import extrema
from reproduction.methods.extrema import Extrema
from strategies import SEEDS, kernels, layers


def kernel_of(matrix: list[list[float]] | torch.Tensor, *, constant: bool = False) -> Kernel:
    matrix = torch.as_tensor(matrix, dtype=torch.float64)
    return Kernel.from_matrix(matrix, Space("x", len(matrix) - constant, constant=constant), "q")


def matrix_of(kernel: Kernel) -> oracle.Array:
    return oracle.dense(kernel.left, kernel.right, kernel.weights[None])[0]


def size_of(kernel: Kernel) -> float:
    """Sum of the entries of the kernel with every term replaced by its absolute value."""
    return float(oracle.dense(kernel.left.abs(), kernel.right.abs(), kernel.weights.abs()[None]).sum())


def function(kernel: Kernel, x: oracle.Array) -> oracle.Array:
    lifted = oracle.with_one(x) if kernel.input.constant else x
    return np.einsum("...i,ij,...j->...", lifted, matrix_of(kernel), lifted)


# The sphere


@given(kernels(max_d=6))
def test_on_the_sphere_every_start_reaches_the_largest_eigenvalue(kernel):
    found = extrema.sphere(kernel, 8, steps=100_000, tolerance=1e-6)
    levels = np.linalg.eigvalsh(matrix_of(kernel))
    scale = abs(levels).max()
    assert found.starts == 8
    if bool(found.converged.all()):  # two nearly equal eigenvalues may take longer
        near(found.values, np.full(len(found), levels[-1]), max(scale, 1e-12), rtol=1e-5)
    near(function(kernel_of(matrix_of(kernel)), array(found.vectors)), found.values, max(scale, 1e-12))
    near(found.vectors.norm(dim=1), np.ones(len(found)))


def test_a_simple_largest_eigenvalue_is_one_place_and_a_repeated_one_many() -> None:
    one = extrema.sphere(kernel_of(torch.diag(torch.tensor([2.0, 1.0, -3.0]))), 20)
    assert (len(one), one.counts.tolist(), one.converged.all().item()) == (1, [20], True)
    near(one.vectors, [[1, 0, 0]], rtol=1e-6)
    many = extrema.sphere(kernel_of(torch.diag(torch.tensor([2.0, 2.0, 1.0]))), 20)
    assert len(many) > 1
    near(many.values, [2.0] * len(many), rtol=1e-6)
    near(many.vectors[:, 2], [0.0] * len(many), rtol=1e-6)


# The box


@given(kernels(max_d=4), SEEDS, st.sampled_from([(0.0, 1.0), (-1.0, 2.0), (-3.0, -1.0)]))
def test_ends_in_a_box_are_points_of_karush_kuhn_and_tucker(kernel, seed, bounds):
    low, high = bounds
    found = extrema.box(kernel, low, high, 6, seed=seed)
    x, matrix = array(found.vectors), matrix_of(kernel)
    assert (low <= x).all()
    assert (x <= high).all()
    near(found.values, function(kernel, x), max(size_of(kernel) * max(abs(low), high, 1) ** 2, 1e-12))
    if not bool(found.converged.all()):
        return
    lifted = oracle.with_one(x) if kernel.input.constant else x
    slope = 2 * (lifted @ matrix)[:, : kernel.input.size]
    levels = np.linalg.eigvalsh(matrix[: kernel.input.size, : kernel.input.size])
    bend = max(-levels[0], levels[-1] / 10, abs(slope).max())
    small = 1e-5 * (high - low) * bend
    assert (slope[x < high - 1e-5 * (high - low)] <= small).all()  # it cannot rise upwards …
    assert (slope[x > low + 1e-5 * (high - low)] >= -small).all()  # … nor downwards


@given(SEEDS, st.integers(1, 3), st.booleans())
def test_the_highest_end_is_the_maximum_over_the_box(seed, d, constant):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(d + constant, d + constant, generator=generator, dtype=torch.float64)
    kernel = kernel_of((matrix + matrix.T) / 2, constant=constant)
    found = extrema.box(kernel, starts=60, seed=seed)
    axes = np.linspace(0, 1, 41 if d == 3 else 201)
    grid = np.stack([axis.ravel() for axis in np.meshgrid(*[axes] * d, indexing="ij")], axis=1)
    start = grid[function(kernel, grid).argmax()]
    fine = scipy.optimize.minimize(lambda x: -function(kernel, x), start, bounds=[(0, 1)] * d, tol=1e-12)
    near(found.values[0], -fine.fun, 1.0, rtol=1e-6)


@given(st.lists(st.sampled_from([-2.0, -0.5, 0.5, 3.0]), min_size=1, max_size=5), SEEDS)
def test_a_diagonal_kernel_in_a_box_has_a_closed_form(values, seed):
    """Over −1 … 2 each coordinate on its own: λ > 0 has maxima at both ends, λ < 0 one at 0."""
    found = extrema.box(kernel_of(torch.diag(torch.tensor(values))), -1.0, 2.0, 100, seed=seed)
    assert bool(found.converged.all())
    ends = [(-1.0, 2.0) if value > 0 else (0.0,) for value in values]
    expected = {tuple(point): float(np.dot(values, np.square(point))) for point in itertools.product(*ends)}
    reached = dict(zip(map(tuple, (found.vectors.round() + 0.0).tolist()), found.values.tolist(), strict=True))
    near(found.vectors, found.vectors.round(), 1.0, rtol=1e-5)
    assert len(reached) == len(found)
    assert set(reached) <= set(expected)
    highest = max(expected.values())
    near(found.values[0], highest, max(abs(highest), 1.0), rtol=1e-6)
    for point, value in reached.items():
        near(value, expected[point], 12.0 * len(values), rtol=1e-5)
    if sum(value > 0 for value in values) <= 2:  # each of at most four maxima has a ninth of the box or more
        assert set(reached) == set(expected)


def test_the_constant_coordinate_stays_one() -> None:
    """f = 3 − (x − ¼)², and f = 3 + (x − ¼)², whose minimum is no maximum."""
    hill = kernel_of([[-1.0, 0.25], [0.25, 3 - 1 / 16]], constant=True)
    found = extrema.box(hill, starts=5)
    near(found.vectors, [[0.25]], rtol=1e-5)
    near(found.values, [3.0], rtol=1e-6)
    valley = kernel_of([[1.0, -0.25], [-0.25, 3 + 1 / 16]], constant=True)
    found = extrema.box(valley, starts=40)
    near(found.vectors, [[1.0], [0.0]], rtol=1e-9)
    near(found.values, [3 + 9 / 16, 3 + 1 / 16], rtol=1e-9)
    assert found.counts.min() >= 5
    linear = extrema.box(kernel_of([[0.0, 0.5], [0.5, 0.0]], constant=True), starts=3)
    near(linear.vectors, [[1.0]])


def test_a_leap_solves_the_free_coordinates_and_stops_at_the_first_bound() -> None:
    quadratic = -torch.tensor([[2.0, 1.9], [1.9, 2.0]]).double()
    target = torch.tensor([0.3, 0.6], dtype=torch.float64)
    linear = -2 * quadratic @ target
    x = torch.tensor([0.9, 0.1], dtype=torch.float64)
    near(extrema._leap(x, quadratic, linear, 0.0, 1.0), target)
    linear = -2 * quadratic @ torch.tensor([0.5, 3.0]).double()
    moved = extrema._leap(x, quadratic, linear, 0.0, 1.0)
    near(moved[1], 1.0)
    near((moved - x)[0] / (moved - x)[1], (0.5 - 0.9) / (3.0 - 0.1))
    for high in np.linspace(0.91, 0.99, 50).tolist():
        assert float(extrema._leap(x, quadratic, linear, 0.0, high)[1]) == high  # on the bound, not beside it
    near(extrema._leap(x, -quadratic, linear, 0.0, 1.0), x)  # no maximum to go to
    corner = torch.tensor([1.0, 0.0]).double()
    near(extrema._leap(corner, quadratic, linear, 0.0, 1.0), corner)


def test_a_leap_on_a_singular_block_stays_where_it_is() -> None:
    ridge = torch.tensor([[-0.1206, 0.1349]], dtype=torch.float64)
    kernel = Kernel(ridge, ridge, torch.tensor([0.5018]).double(), Space("x", 2))
    for sign in (1.0, -1.0):  # flat along a line, whatever rounding makes of its eigenvalue 0
        x = torch.tensor([0.4, 0.6], dtype=torch.float64)
        near(extrema._leap(x, sign * kernel.dense(), x.new_zeros(2), 0.0, 1.0), x)
    near(extrema.box(Kernel(ridge, ridge, -kernel.weights, kernel.input), 0, 1, 6).values[0], 0.0)


def test_no_step_in_a_box_goes_down() -> None:
    generator = torch.Generator().manual_seed(3)
    matrix = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    kernel = kernel_of((matrix + matrix.T) / 2 - torch.eye(12), constant=True)
    before = None
    for steps in range(1, 60):
        values = extrema.box(kernel, starts=1, steps=steps, seed=1, tolerance=1e-14).values
        assert before is None or float(values) >= float(before) - 1e-12
        before = values


# The order-4 form


def form(tensor: BilinearTensor, x: oracle.Array) -> oracle.Array:
    dense = oracle.dense(tensor.left, tensor.right, tensor.down)
    return (oracle.evaluate(dense, x) ** 2).sum(axis=1)


@given(layers(max_d=4, max_hidden=4, max_o=3), st.booleans(), SEEDS)
def test_ends_are_fixed_points_eigenvectors_of_their_own_kernel(layer, fixed, seed):
    tensor = layer.tensor()
    shift = extrema.sufficient_shift(tensor) if fixed else None
    found = extrema.sshopm(tensor, 5, shift=shift, seed=seed, steps=3000, tolerance=1e-7)
    dense = oracle.dense(tensor.left, tensor.right, tensor.down)
    scale = float(oracle.svd(dense)[1][0]) ** 2
    x = array(found.vectors)
    near(found.values, form(tensor, x), max(scale, 1e-12), rtol=1e-7)
    near(np.linalg.norm(x, axis=1), np.ones(len(x)))
    near(extrema.sufficient_shift(tensor), scale, max(scale, 1e-12), rtol=1e-7)
    for row, value, done in zip(x, array(found.values), found.converged.tolist(), strict=True):
        own = oracle.kernel(dense, oracle.evaluate(dense, row[None])[0])
        if done:  # ∇f = 4 f x
            near(own @ row, value * row, max(scale, 1e-12), rtol=1e-6)
    if bool(found.converged.all()):
        tangent = 1e-3 * np.random.default_rng(seed).standard_normal((50, x.shape[1]))
        for row, value in zip(x, array(found.values), strict=True):
            nearby = row + tangent
            nearby /= np.linalg.norm(nearby, axis=1, keepdims=True)
            assert (form(tensor, nearby) <= value + 1e-4 * max(scale, 1e-12)).all()


@given(layers(max_d=5, max_hidden=5, max_o=4), SEEDS, st.booleans())
def test_no_step_goes_down_with_the_sufficient_shift_or_one_that_adapts(layer, seed, fixed):
    tensor = layer.tensor()
    shift = extrema.sufficient_shift(tensor) if fixed else None
    scale, before = max(extrema.sufficient_shift(tensor), 1e-12), -1.0
    for steps in (1, 2, 3, 4, 5, 7, 10, 15):
        value = float(extrema.sshopm(tensor, 1, shift=shift, seed=seed, steps=steps, tolerance=1e-15).values)
        assert value >= before - 1e-12 * scale
        before = value


def test_without_a_shift_the_power_method_may_go_down() -> None:
    generator = torch.Generator().manual_seed(23)
    left, right = torch.randn(2, 3, 2, generator=generator, dtype=torch.float64)
    down = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    tensor = BilinearTensor(left, right, down, Space("x", 2), Space("y", 2))

    def falls(shift: float | None) -> bool:
        for seed in range(6):
            values = [
                float(extrema.sshopm(tensor, 1, shift=shift, seed=seed, steps=steps, tolerance=1e-15).values)
                for steps in range(1, 8)
            ]
            if any(later < earlier - 1e-9 for earlier, later in itertools.pairwise(values)):
                return True
        return False

    assert falls(0.0)
    assert not falls(None)
    assert not falls(extrema.sufficient_shift(tensor))


@given(SEEDS, st.integers(1, 3))
def test_the_highest_end_is_the_maximum_over_the_circle(seed, o):
    generator = torch.Generator().manual_seed(seed)
    left, right = torch.randn(2, 3, 2, generator=generator, dtype=torch.float64)
    down = torch.randn(o, 3, generator=generator, dtype=torch.float64)
    tensor = BilinearTensor(left, right, down, Space("x", 2), Space("y", o))
    angles = np.linspace(0, np.pi, 20_001)
    values = form(tensor, np.stack([np.cos(angles), np.sin(angles)], axis=1))[:-1]
    found = extrema.sshopm(tensor, 40, seed=seed, steps=1000)
    near(found.values[0], values.max(), max(values.max(), 1e-12), rtol=1e-5)
    peaks = int(((values >= np.roll(values, 1)) & (values > np.roll(values, -1))).sum())
    if bool(found.converged.all()):
        assert len(found) <= peaks


def test_orthogonal_squares_have_their_axes_as_maxima() -> None:
    """g(x) = (3x², 2y², z²): f = 9x⁴ + 4y⁴ + z⁴ has exactly the three axes as local maxima on the sphere."""
    tensor = BilinearTensor(
        torch.eye(3).double(), torch.diag(torch.tensor([3.0, 2.0, 1.0])).double(), torch.eye(3).double(),
        Space("x", 3), Space("y", 3),
    )  # fmt: skip
    found = extrema.sshopm(tensor, 60)
    assert bool(found.converged.all())
    near(found.values, [9.0, 4.0, 1.0], rtol=1e-7)
    near(found.vectors, np.eye(3), rtol=1e-3)
    assert found.counts.min() >= 2


# What all have in common


def test_answers_depend_on_the_seed_alone_and_say_what_did_not_converge() -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(8, 8, generator=generator, dtype=torch.float64)
    kernel = kernel_of(matrix + matrix.T)
    for run in (extrema.sphere, extrema.box):
        torch.testing.assert_close(run(kernel, seed=1).vectors, run(kernel, seed=1).vectors, rtol=0, atol=0)
        short = run(kernel, seed=1, steps=1)
        assert not bool(short.converged.any())
        assert float(short.residuals.max()) > 1e-3
        assert short.starts == 64
    assert extrema.box(kernel, starts=3, seed=1, steps=1).vectors.tolist() != extrema.box(
        kernel, starts=3, seed=2, steps=1
    ).vectors.tolist()  # fmt: skip


def test_the_type_of_the_weights_is_kept() -> None:
    kernel = kernel_of([[1.0, 0.0], [0.0, 2.0]]).to(torch.float32)
    for found in (extrema.sphere(kernel, 4), extrema.box(kernel, starts=4)):
        assert found.vectors.dtype == found.values.dtype == found.residuals.dtype == torch.float32
        assert found.label == "q"


def test_ends_are_grouped_and_the_chance_of_a_new_place_is_estimated() -> None:
    found = Extrema(
        torch.tensor([2.0, 1.0, 0.5]), torch.eye(3), torch.zeros(3), torch.tensor([6, 1, 1]),
        torch.ones(3, dtype=torch.bool), Space("x", 3),
    )  # fmt: skip
    assert (len(found), found.starts, found.seen) == (3, 8, 0.75)
    valley = extrema.box(kernel_of(torch.eye(2)), -1.0, 1.0, 300)
    assert len(valley) == 4
    assert valley.counts.sum() == 300
    assert valley.counts.min() > 40  # a quarter each


@pytest.mark.bad_input
def test_what_makes_no_sense_is_refused() -> None:
    kernel = kernel_of([[1.0]])
    with refuses(BilensError, "starts = 0"):
        extrema.sphere(kernel, 0)
    with refuses(BilensError, "tolerance = nan"):
        extrema.box(kernel, tolerance=torch.nan)
    with refuses(BilensError, "a box from 1.0 to 1.0"):
        extrema.box(kernel, 1.0, 1.0)
    tensor = BilinearTensor(torch.ones(1, 1), torch.ones(1, 1), torch.ones(1, 1), Space("x", 1), Space("y", 1))
    with refuses(BilensError, "shift = -1"):
        extrema.sshopm(tensor, shift=-1.0)
    found = extrema.sphere(kernel, 1)
    with refuses(ShapeError, "counts of shape"):
        replace(found, counts=torch.ones(2, dtype=torch.int64))
    with refuses(ShapeError, "vectors of shape"):
        replace(found, vectors=torch.ones(1, 3))
