"""Paths and degrees: sums, the polarised forms themselves, polynomials in a scale, shares and accuracies."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bilens import BilensError, ShapeError
from bilens.deep import DeepTensor, Paths, degrees, gaussian_like, paths
from messages import refuses
from oracle import array, near
from strategies import filled
from trees import forward, network

SMALL = filled("normal", 6, 2, 9) / 2


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", [{}, {"bias": True}, {"residual": True}, {"residual": True, "bias": True}], ids=str)
def test_paths_and_degrees_sum_to_the_network(depth: int, kind) -> None:
    deep = network(1, (2,) * (depth + 1), 3, **kind)
    out = forward(deep, SMALL)
    for found in (paths(deep, SMALL), degrees(deep, SMALL)):
        near(found.total(), out, float(found.outputs.abs().sum(dim=0).max()), rtol=1e-12)
    if kind.get("residual"):
        assert len(paths(deep, SMALL)) == {1: 2, 2: 5, 3: 20, 4: 2**4 + (1 if kind.get("bias") else 0)}[depth]


def test_each_path_is_its_polarised_form() -> None:
    deep = network(2, (2, 2, 2), residual=True)
    one, two = deep.layers
    plain = DeepTensor(deep.layers, (None, None))
    first = one(SMALL)
    expected = {
        "x": SMALL,
        "B1(x, x)": first,
        "B2(x, x)": two(SMALL),
        "B2(x, B1(x, x))": 2 * two(SMALL, first),
        "B2(B1(x, x), B1(x, x))": plain(SMALL),
    }
    found = paths(deep, SMALL)
    assert found.names == tuple(expected)
    for name, value in expected.items():
        near(found.alone(name), value, 10)
        near(found.without(name), deep(SMALL) - value, 100)


def test_a_bias_runs_with_the_input_and_alone_where_nothing_runs_around() -> None:
    deep = network(3, (2, 2, 2), bias=True)
    found = paths(deep, SMALL)
    assert found.names == ("B2(x, x)", "B2(x, B1(x, x))", "B2(B1(x, x), B1(x, x))")
    near(found.alone("B2(x, x)"), deep.layers[1](torch.zeros(6, 2)), 10)  # the constant alone


@pytest.mark.parametrize("kind", [{"bias": True}, {"residual": True}], ids=str)
def test_degrees_are_those_of_the_polynomial_in_a_scale(kind) -> None:
    deep = network(4, (2, 2, 2, 2), 3, **kind)
    scales = np.cos(np.pi * (np.arange(9) + 0.5) / 9)
    values = np.stack([forward(deep, array(SMALL) * t) for t in scales])
    coefficients = np.linalg.solve(np.vander(scales, 9, increasing=True), values.reshape(9, -1)).reshape(values.shape)
    found = degrees(deep, SMALL)
    for degree, value in enumerate(coefficients):
        name = f"degree {degree}"
        expected = found.alone(name) if name in found.names else np.zeros_like(value)
        near(expected, value, abs(values).max())
    assert ("degree 0" in found.names) == bool(kind.get("bias"))


def test_shares_sum_to_one_and_have_errors() -> None:
    deep = network(5, (2, 2, 2), residual=True)
    x = filled("normal", 400, 2, 1)
    found = paths(deep, x).shares()
    outputs = array(paths(deep, x).outputs)
    whole = outputs.sum(axis=0)
    near(found.values, (outputs * whole).sum(axis=(1, 2)) / (whole**2).sum(), rtol=1e-12)
    near(found.values.sum(), 1, rtol=1e-12)
    assert found.samples == 400
    again = torch.stack([paths(deep, filled("normal", 400, 2, seed)).shares().values for seed in range(2, 60)])
    spread = again.std(dim=0)
    assert bool((found.errors < 3 * spread).all() & (found.errors > spread / 3).all())


def test_accuracies_count_the_largest_output() -> None:
    outputs = torch.tensor([[[2.0, 0.0], [0.0, 1.0], [0.0, 1.0]], [[0.0, 1.0], [3.0, 0.0], [0.0, 0.5]]])
    found = Paths(("a", "b"), outputs).accuracies(torch.tensor([0, 1, 0]))
    assert found.whole == pytest.approx(1 / 3)  # 2 1, 3 1, 0 1.5
    near(found.alone, [2 / 3, 0])
    near(found.without, [0, 2 / 3])
    assert (found.names, found.samples) == (("a", "b"), 3)


def test_samples_with_the_moments_of_the_data() -> None:
    x = filled("normal", 50, 3, 2) @ filled("normal", 3, 3, 3) + 2
    found = gaussian_like(x, 200_000, seed=1)
    near(found.mean(dim=0), x.mean(dim=0), 5, rtol=0.01)
    near(torch.cov(found.T), torch.cov(x.T, correction=0), 10, rtol=0.01)
    assert torch.equal(found, gaussian_like(x, 200_000, seed=1))
    assert gaussian_like(x.float(), 3).dtype == torch.float32


@pytest.mark.bad_input
def test_what_is_refused() -> None:
    deep = network(1, (2, 2, 2), residual=True)
    found = paths(deep, SMALL)
    with refuses(BilensError, "deep of type int; expected a DeepTensor"):
        paths(3, SMALL)
    with refuses(ShapeError, "x of shape (2,); expected (n, 2) with at least one row"):
        paths(deep, SMALL[0])
    with refuses(ShapeError, "2 coordinates of space 'bond 0' (2)"):
        degrees(deep, filled("normal", 2, 3, 0))
    with refuses(BilensError, "path = 'B3'; expected one of x, B1(x, x)"):
        found.alone("B3")
    with refuses(ShapeError, "labels of shape (2,); expected (6,)"):
        found.accuracies(torch.tensor([0, 1]))
    with refuses(BilensError, "expected whole numbers from 0 to 1"):
        found.accuracies(torch.full((6,), 2))
    with refuses(BilensError, "1 sample; expected at least two"):
        paths(deep, SMALL[:1]).shares()
    with refuses(BilensError, "outputs that are all 0"):
        paths(deep, 0 * SMALL).shares()
    with refuses(ShapeError, "outputs of shape (2, 3, 2); expected (1, n, o)"):
        Paths(("a",), torch.zeros(2, 3, 2))
    with refuses(ShapeError, "x of shape (1, 2); expected (n, d) with at least two rows"):
        gaussian_like(SMALL[:1], 3)
    with refuses(BilensError, "count = 0"):
        gaussian_like(SMALL, 0)
