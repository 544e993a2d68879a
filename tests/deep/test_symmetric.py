"""Inner products of functions: all permutations of the legs, and Gaussian quadrature."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bilens import BilensError, BilinearTensor, Space
from bilens.deep import DeepTensor, full_cosine, full_inner, gaussian_cosine, gaussian_inner, ridged
from messages import refuses
from oracle import array, near
from strategies import FILLS, orthogonal
from trees import forward, lifted, moment, network, quadrature, sized, symmetrised, trees, weighted

KINDS = [
    {"sizes": (3, 2)},
    {"sizes": (2, 2), "bias": True},
    {"sizes": (2, 3, 2)},
    {"sizes": (3, 2, 1), "bias": True},
    {"sizes": (2, 2, 2), "residual": True},
    {"sizes": (2, 2, 2), "residual": True, "bias": True},
]


def full(deep: DeepTensor, metric=None):
    rows = symmetrised(trees(deep)[-1][:-1], 2**deep.depth)
    return weighted(rows, lifted(metric, deep.input.size))


def means(a: DeepTensor, b: DeepTensor, metric) -> tuple[float, float]:
    """E[y·y'] and √(E|y|² E|y'|²) by quadrature that is exact for these degrees."""
    d = a.input.size
    if metric is None:
        mean, covariance = np.zeros(d), np.eye(d)
    elif a.input.constant:
        mean = metric[:-1, -1]
        covariance = metric[:-1, :-1] - np.outer(mean, mean)
    else:
        mean, covariance = np.zeros(d), metric
    x, weights = quadrature(mean, covariance, 2**a.depth + 1)
    y, z = forward(a, x), forward(b, x)
    products = [float(weights @ (p * q).sum(axis=1)) for p, q in ((y, z), (y, y), (z, z))]
    return products[0], (products[1] * products[2]) ** 0.5


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_full_and_gaussian_inner_products(kind) -> None:
    a, b = network(1, **kind), network(2, **kind)
    data = moment(4, a.input.size, constant=a.input.constant)
    for metric in (None, data, ridged(torch.tensor(data), a.input, 0.1).numpy()):
        given_metric = None if metric is None else torch.tensor(metric)
        one, two = full(a, metric), full(b, metric)
        size = np.linalg.norm(one) * np.linalg.norm(two)
        near(full_inner(a, b, metric=given_metric), (one * two).sum(), size, rtol=1e-13)
        near(full_cosine(a, b, metric=given_metric), (one * two).sum() / size, rtol=1e-13)
        expected, size = means(a, b, metric)
        near(gaussian_inner(a, b, metric=given_metric), expected, size, rtol=1e-13)
        near(gaussian_cosine(a, b, metric=given_metric), expected / size, rtol=1e-13)


@given(st.sampled_from(FILLS), st.integers(0, 50), st.booleans(), st.integers(1, 2))
def test_of_any_networks(fill: str, seed: int, bias: bool, depth: int) -> None:
    a = network(seed, (2, 2, 1)[: depth + 1], 3, bias=bias, fill=fill)
    b = network(seed + 1, (2, 2, 1)[: depth + 1], 2, bias=bias)
    one, two = full(a), full(b)
    around = 1e-3 * sized(a) * sized(b)  # rounding counts where terms cancel, or what a layer gives is not read
    near(full_inner(a, b), (one * two).sum(), float(a.norm() * b.norm()) + around, rtol=1e-12)
    expected, size = means(a, b, None)
    near(gaussian_inner(a, b), expected, size + around)
    assert float(full_inner(a, a)) <= float(a.inner(a)) * (1 + 1e-12) + 1e-15 * sized(a) ** 2


def test_two_ways_to_compute_one_function_are_one_function() -> None:
    x, pair, y, e = Space("x", 2), Space("pair", 2), Space("y", 1), torch.eye(2, dtype=torch.float64)
    squares, mixed = BilinearTensor(e, e, e, x, pair), BilinearTensor(e[:1], e[1:], e[:, :1], x, pair)
    times = BilinearTensor(e[:1], e[1:], e[:1, :1], pair, y)
    square = BilinearTensor(e[:1], e[:1], e[:1, :1], pair, y)
    one, other = DeepTensor.chain(squares, times), DeepTensor.chain(mixed, square)
    assert float(one.cosine(other)) == 0
    near(full_cosine(one, other), 1, rtol=1e-14)
    near(full_inner(one, other), 1 / 6, rtol=1e-14)
    near(full_inner(one, one), 1 / 6, rtol=1e-14)
    near(gaussian_inner(one, other), 9, rtol=1e-14)  # E x₀⁴ x₁⁴
    near(gaussian_cosine(one, other), 1, rtol=1e-14)
    near((one - other).norm() ** 2, 0.75, rtol=1e-14)
    assert float(full_inner(one - other, one - other)) == pytest.approx(0, abs=1e-15)


def test_the_gaussian_and_the_frobenius_cosine_of_one_layer_differ() -> None:
    """Σ x_i² and x₀²: 1/√2 as tensors, 4/√24 as functions."""
    x, y, e = Space("x", 2), Space("y", 1), torch.eye(2, dtype=torch.float64)
    ball = DeepTensor.chain(BilinearTensor(e, e, e.sum(dim=0)[None], x, y))
    first = DeepTensor.chain(BilinearTensor(e[:1], e[:1], e[:1, :1], x, y))
    near(ball.cosine(first), 2**-0.5)
    near(gaussian_cosine(ball, first), 4 / 24**0.5)


def test_what_a_change_of_hidden_coordinates_changes() -> None:
    """Nothing; and a rotation of hidden units that is no gauge changes the function."""
    deep = network(3, (3, 3, 2))
    lower, upper = deep.layers
    turn = orthogonal(3, 2)
    same = DeepTensor.chain(
        BilinearTensor(lower.left, lower.right, turn @ lower.down, lower.input, lower.output),
        BilinearTensor(upper.left @ turn.T, upper.right @ turn.T, upper.down, upper.input, upper.output),
    )
    near(full_cosine(same, deep), 1, rtol=1e-13)
    near(gaussian_cosine(same, deep), 1, rtol=1e-13)
    units = orthogonal(4, 2)
    other = DeepTensor.chain(
        BilinearTensor(units @ lower.left, units @ lower.right, lower.down, lower.input, lower.output), upper
    )
    assert float(full_cosine(other, deep)) < 0.99


def test_a_large_function_has_an_inner_product_in_its_type() -> None:
    deep = network(4, (2, 2, 2))
    near(gaussian_cosine(1e200 * deep, deep), 1, rtol=1e-13)
    near(array(gaussian_inner(1e50 * deep, deep)) / 1e50, gaussian_inner(deep, deep), float(gaussian_inner(deep, deep)))
    with refuses(BilensError, "an inner product of about"):
        gaussian_inner(1e200 * deep, 1e200 * deep)


@pytest.mark.bad_input
def test_what_is_refused() -> None:
    deep = network(1, (2, 2, 2, 2))
    for call, what in (
        (full_inner, "fully symmetrised"),
        (full_cosine, "fully"),
        (gaussian_inner, "Gaussian"),
        (gaussian_cosine, "Gaussian"),
    ):
        with refuses(BilensError, what, "inner product at 3 layers; expected one or two layers"):
            call(deep, deep)
        with refuses(BilensError, "b of type int; expected a DeepTensor"):
            call(network(1, (2, 2)), 3)
    biased = network(1, (2, 2), bias=True)
    with refuses(BilensError, "a metric with 2 for the constant coordinate; expected 1"):
        gaussian_inner(biased, biased, metric=2 * torch.eye(3))
