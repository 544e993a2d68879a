"""Surrogates of gated layers: their formulas against quadrature and sampling, and the theorem that none does better."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import replace
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bilens import BilensError, ShapeError
from bilens.models.gated import Gate, GatedMLP, Norm
from bilens.models.surrogate import (
    Moments,
    Surrogate,
    gaussian,
    hermite,
    least_squares,
    weights_only,
    with_bypass,
    with_down,
)

GATES = [
    Gate("silu"),
    Gate("silu", slope=1.702),
    Gate("gelu"),
    Gate("gelu_tanh"),
    Gate("relu"),
    Gate("relu2"),
    Gate("identity"),
]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(
    gate: Gate, d: int = 5, h: int = 4, *, bias: bool = True, norm: Norm | None = None, seed: int = 0
) -> GatedMLP:
    given = {f"{name}_bias": drawn(d if name == "down" else h, seed=seed + 7) for name in ("gate", "up", "down")}
    weights = (drawn(h, d, seed=seed + 1), drawn(h, d, seed=seed + 2), drawn(d, h, seed=seed + 3))
    return GatedMLP(*weights, gate, norm or Norm("none"), **(given if bias else {}))


def he(order: int, t: Any) -> Any:
    return (1, t, (t * t - 1) / 2, (t * t - 3) * t / 6)[order]


PLAIN = {
    "silu": lambda z: z / (1 + mpmath.exp(-z)),
    "gelu": lambda z: z * (1 + mpmath.erf(z / mpmath.sqrt(2))) / 2,
    "gelu_tanh": lambda z: z * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (z + mpmath.mpf("0.044715") * z**3))) / 2,
    "relu": lambda z: max(z, mpmath.mpf(0)),
    "relu2": lambda z: max(z, mpmath.mpf(0)) ** 2,
    "identity": lambda z: z,
}


PLACES = [(0.0, 1.0), (-0.4, 0.7), (3.0, 0.1), (-2.0, 30.0), (50.0, 2.0), (-60.0, 2.0), (1.0, 1e-3), (1.0, 1e3)]
EVERYWHERE = [
    # every gate at some places and every place for some gates; the slow tier has them all
    pytest.param(name, *place, marks=() if (one + place_of) % 3 == 0 else pytest.mark.slow)
    for one, name in enumerate(PLAIN)
    for place_of, place in enumerate(PLACES)
]


@pytest.mark.parametrize(("name", "mean", "deviation"), EVERYWHERE)
def test_coefficients_against_a_quadrature_of_many_digits(name: str, mean: float, deviation: float) -> None:
    mu, s = mpmath.mpf(mean), mpmath.mpf(deviation)
    # where z is 0, and some places to either side of it
    ends = sorted({-12, 12, *(end for z in (-30, -8, -3, -1, 0, 1, 3, 8, 30) if -12 < (end := (z - mu) / s) < 12)})
    exact, ours = [], []

    @functools.cache  # all orders are integrated over the same nodes
    def weighted(t: Any) -> Any:
        return mpmath.npdf(t) * PLAIN[name](mu + s * t)

    for order in range(4):

        def integrand(t: Any, order: int = order) -> Any:
            return he(order, t) * weighted(t)

        exact.append(float(mpmath.quad(integrand, ends)))
        at = torch.tensor([mean, deviation], dtype=torch.float64)
        ours.append(float(hermite(Gate(name), at[:1], at[1:], order)))
    share = 1e-6 if deviation > 100 else 1e-11
    assert max(abs(a - b) for a, b in zip(exact, ours, strict=True)) <= share * max(map(abs, exact)) + 1e-20


@pytest.mark.parametrize("gate", GATES[:4], ids=lambda gate: gate.title)
def test_coefficients_of_smooth_gates_against_gauss_hermite(gate: Gate) -> None:
    nodes, shares = np.polynomial.hermite_e.hermegauss(120)
    t, w = torch.from_numpy(nodes), torch.from_numpy(shares / shares.sum())
    mean, deviation = torch.tensor([-0.4, 0.0, 1.0]).double(), torch.tensor([0.5, 1.0, 0.9]).double()
    for order in range(4):
        expected = (w * he(order, t) * gate.activate(mean[:, None] + deviation[:, None] * t)).sum(dim=1)
        torch.testing.assert_close(hermite(gate, mean, deviation, order), expected, rtol=0, atol=1e-9)


def gaussian_inputs(n: int, d: int, seed: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Rows whose mean and covariance are just these: drawn, then whitened."""
    mean, root = 0.5 * drawn(d, seed=seed), drawn(d, d, seed=seed + 1) / math.sqrt(d)
    x = drawn(n, d, seed=seed + 2)
    x = x - x.mean(dim=0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / n)).T
    return mean + x @ root.T, mean, root @ root.T


@pytest.mark.parametrize("gate", GATES, ids=lambda gate: gate.title)
def test_no_quadratic_does_better_on_gaussian_inputs(gate: Gate) -> None:
    mlp = layer(gate, d=4, h=3)
    n, mean, covariance = gaussian_inputs(60_000, 4)
    y = mlp(n)
    pairs = itertools.combinations_with_replacement(range(4), 2)
    monomials = torch.stack([torch.ones(len(n)).double(), *n.T, *(n[:, i] * n[:, j] for i, j in pairs)], dim=1)
    best = monomials @ torch.linalg.lstsq(monomials, y).solution
    whole = (y - y.mean(dim=0)).square().sum()
    least = float((y - best).square().sum() / whole)
    ours = gaussian(mlp, Moments.of_inputs(mlp, mean, covariance)).fvu(n)
    assert least - 1e-12 <= ours <= least + 2e-3
    assert ours <= 1e-12 if gate.bilinear else ours > 1e-3
    fitted = least_squares(mlp, n).fvu(n)
    assert least - 1e-12 <= fitted <= ours + 1e-12


@given(st.integers(1, 5), st.integers(1, 4), st.booleans(), st.sampled_from(GATES), st.integers(0, 99))
def test_the_tensor_is_the_surrogate(d: int, h: int, bias: bool, gate: Gate, seed: int) -> None:
    norm = Norm("rms", drawn(d, seed=seed), eps=1e-6) if bias else Norm("layer", None, drawn(d, seed=seed), 1e-5)
    mlp = layer(gate, d, h, bias=bias, norm=norm, seed=seed)
    x = 2 * drawn(20, d, seed=seed + 5)
    for surrogate in (
        weights_only(mlp),
        gaussian(mlp, Moments.of_samples(mlp, x)),
        least_squares(mlp, x),
        with_bypass(weights_only(mlp), x),
        replace(weights_only(mlp), down=drawn(d, h, seed=seed + 6)),
    ):
        tensor = surrogate.tensor()
        expected = surrogate(x)
        scale = 1 + float(tensor.left.abs().max() * tensor.right.abs().max() * tensor.down.abs().max()) * h
        torch.testing.assert_close(tensor(norm.normalize(x)), expected, rtol=1e-9, atol=1e-10 * scale)
        assert tensor.hidden == h + d + 1


def test_least_squares_is_numpys_with_and_without_weights() -> None:
    mlp = layer(Gate("silu"), d=3, h=2)
    x, weights = drawn(50, 3, seed=4) + 1, drawn(50, seed=5).abs()
    z, v = mlp.units(x)
    for given_weights in (None, weights):
        found = least_squares(mlp, x, given_weights)
        root = np.ones(50) if given_weights is None else np.sqrt(weights.numpy())
        for unit in range(2):
            p, q = z[:, unit].numpy(), v[:, unit].numpy()
            terms = np.stack([p * q, p * p, p, q, np.ones_like(p)], axis=1)
            target = p / (1 + np.exp(-p)) * q
            expected = np.linalg.lstsq(terms * root[:, None], target * root, rcond=None)[0]
            ours = [
                float(part[unit]) for part in (found.product, found.square, found.gate, found.value, found.constant)
            ]
            np.testing.assert_allclose(ours, expected, rtol=1e-7, atol=1e-9)


def test_moments_of_samples_are_those_of_inputs() -> None:
    mlp = layer(Gate("silu"))
    n, mean, covariance = gaussian_inputs(500, 5)
    one, other = Moments.of_samples(mlp, n), Moments.of_inputs(mlp, mean, covariance)
    for name in ("mean_z", "mean_v", "var_z", "cov"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-9, atol=1e-9)
    twice = Moments.of_samples(mlp, torch.cat([n, n[:9]]))
    weighed = Moments.of_samples(mlp, n, torch.cat([torch.full((9,), 2.0), torch.ones(491)]).double())
    torch.testing.assert_close(twice.cov, weighed.cov, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("gate", GATES[:4], ids=lambda gate: gate.title)
@pytest.mark.parametrize(
    ("mean_z", "mean_v", "var_z", "cov"), [(0, 0, 1, 0), (-0.4, 0.3, 0.7, 0.5), (0.6, -1, 1.3, -0.8)]
)
def test_the_five_numbers_are_the_projection(
    gate: Gate, mean_z: float, mean_v: float, var_z: float, cov: float
) -> None:
    """Least squares under the Gaussian itself, by a product of two Gauss–Hermite rules."""
    (p, share_p), (q, share_q) = (np.polynomial.hermite_e.hermegauss(count) for count in (100, 6))
    z = (mean_z + math.sqrt(var_z) * p)[:, None] + 0 * q
    v = mean_v + cov / var_z * (z - mean_z) + 0.9 * q
    root = np.sqrt(share_p[:, None] * share_q).reshape(-1, 1)
    z, v = z.reshape(-1), v.reshape(-1)
    terms = np.stack([z * v, z * z, z, v, np.ones_like(z)], axis=1)
    aim = gate.activate(torch.from_numpy(z)).numpy() * v
    expected = np.linalg.lstsq(root * terms, root[:, 0] * aim, rcond=None)[0]
    mlp = GatedMLP(drawn(1, 2), drawn(1, 2), drawn(2, 1), gate, Norm("none"))
    moments = Moments(*(torch.tensor([part], dtype=torch.float64) for part in (mean_z, mean_v, var_z, cov)))
    found = gaussian(mlp, moments)
    ours = [float(part) for part in (found.product, found.square, found.gate, found.value, found.constant)]
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-7)


def test_weights_only_has_half_the_product_for_silu() -> None:
    """E[Z σ'(Z)] = 0 for the logistic σ and mean 0, so that the slope is a half whatever the width."""
    mlp = layer(Gate("silu"), bias=False, norm=Norm("rms", drawn(5, seed=9)))
    torch.testing.assert_close(weights_only(mlp).product, torch.full((4,), 0.5).double(), rtol=0, atol=1e-10)


def test_a_gate_that_never_varies() -> None:
    zero = torch.zeros(4, 5).double()
    mlp = GatedMLP(zero, drawn(4, 5), drawn(5, 4), Gate("silu"), Norm("none"), gate_bias=torch.ones(4).double())
    x = drawn(30, 5, seed=3)
    for surrogate in (weights_only(mlp), gaussian(mlp, Moments.of_samples(mlp, x)), least_squares(mlp, x)):
        torch.testing.assert_close(surrogate(x), mlp(x), rtol=0, atol=1e-9)


def test_a_shift_of_the_value() -> None:
    plain, shifted = layer(Gate("silu")), layer(Gate("silu", shift=1.0))
    moved = GatedMLP(
        plain.gate, plain.up, plain.down, Gate("silu"), plain.norm,
        plain.gate_bias, plain.up_bias + 1, plain.down_bias,
    )  # fmt: skip
    x = drawn(40, 5, seed=3)
    for method in (
        weights_only,
        lambda mlp: gaussian(mlp, Moments.of_samples(mlp, x)),
        lambda mlp: least_squares(mlp, x),
    ):
        torch.testing.assert_close(method(shifted)(x), method(moved)(x), rtol=1e-8, atol=1e-8)


def test_the_mean_has_an_fvu_of_one_and_the_layer_itself_of_zero() -> None:
    mlp = layer(Gate("identity"))
    x = drawn(40, 5, seed=3)
    assert least_squares(mlp, x).fvu(x) < 1e-20
    z, v = mlp.units(x)
    zero = torch.zeros(4).double()
    mean = Surrogate(mlp, "least_squares", zero, zero, zero, zero, (z * v).mean(dim=0))
    assert mean.fvu(x) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_bypass_is_the_ridge_of_what_is_left(weighted: bool) -> None:
    mlp = layer(Gate("silu"), norm=Norm("rms", drawn(5, seed=8), eps=1e-6))
    x = drawn(60, 5, seed=3) + 1
    weights = drawn(60, seed=4).abs() if weighted else None
    plain = weights_only(mlp)
    found = with_bypass(plain, x, weights, ridge=0.2)
    n, rest = mlp.norm(x).numpy(), (mlp(x) - plain(x)).numpy()
    share = np.full(60, 1 / 60) if weights is None else (weights / weights.sum()).numpy()
    covariance = np.cov(n.T, aweights=share, ddof=0)
    # the same as plain least squares with one more row for each input
    root, more = np.sqrt(share)[:, None], np.sqrt(0.2 * np.diag(covariance).mean())
    centred = root * (n - share @ n)
    tall = np.concatenate([centred, more * np.eye(5)])
    aim = np.concatenate([root * (rest - share @ rest), np.zeros((5, 5))])
    expected = np.linalg.lstsq(tall, aim, rcond=None)[0].T
    np.testing.assert_allclose(found.bypass.numpy(), expected, rtol=1e-8, atol=1e-10)
    constant = with_bypass(plain, x[:1].expand(4, 5))  # rows that do not vary say the offset alone
    assert float(constant.bypass.abs().max()) < 1e-12
    torch.testing.assert_close(constant(x[:1]), mlp(x[:1]), rtol=0, atol=1e-9)
    # what is left has mean 0
    np.testing.assert_allclose(share @ (mlp(x) - found(x)).numpy(), 0, atol=1e-10)
    assert found.fvu(x, weights) < plain.fvu(x, weights)


@pytest.mark.bad_input
def test_bad_input_is_refused_in_one_line() -> None:
    mlp = layer(Gate("silu"))
    x = drawn(9, 5)
    moments = Moments.of_samples(mlp, x)
    limited = layer(Gate("silu", limit=7.0))
    cases = [
        (lambda: weights_only(limited), BilensError, "a surrogate of layer 0, whose gate is silu .limit 7."),
        (lambda: least_squares(limited, x), BilensError, "a gate without a limit"),
        (lambda: gaussian(layer(Gate("silu"), h=3), moments), ShapeError, "moments of 4 units for layer 0; expected 3"),
        (lambda: gaussian(mlp, None), BilensError, "moments of type NoneType"),
        (lambda: least_squares(mlp, x[:1]), ShapeError, r"\(1, 5\); expected \(rows, 5\), at least two"),
        (lambda: least_squares(mlp, x[:, :3]), ShapeError, r"vectors of shape \(9, 3\)"),
        (lambda: least_squares(mlp, x, torch.ones(3).double()), ShapeError, r"weights of shape \(3,\)"),
        (lambda: least_squares(mlp, x, -torch.ones(9).double()), BilensError, "weights below 0"),
        (lambda: Moments.of_inputs(mlp, x[0, :3], torch.eye(5)), ShapeError, r"mean of shape \(3,\); expected \(5,\)"),
        (lambda: Moments.of_inputs(mlp, x[0], torch.eye(4)), ShapeError, r"covariance of shape \(4, 4\)"),
        (lambda: Moments(*[-torch.ones(2)] * 4), BilensError, "a variance of -1"),
        (lambda: Surrogate(mlp, "magic", *[torch.ones(4)] * 5), BilensError, "method = 'magic'"),
        (
            lambda: Surrogate(mlp, "gaussian", *[torch.ones(3)] * 5),
            ShapeError,
            r"product of shape \(3,\); expected \(4,\)",
        ),
        (lambda: with_bypass(with_bypass(weights_only(mlp), x), x), BilensError, "a surrogate with a bypass"),
        (lambda: with_bypass(weights_only(mlp), x, ridge=-1), BilensError, "ridge = -1"),
        (lambda: least_squares(mlp, x).fvu(x[:1].expand(4, 5)), BilensError, "that do not vary"),
    ]
    for make, kind, message in cases:
        with pytest.raises(kind, match=message) as refused:
            make()
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("bypass", [False, True])
def test_another_d_is_numpys_ridge_towards_the_one_that_was(bypass: bool) -> None:
    mlp = layer(Gate("silu"), d=3, h=2, norm=Norm("rms", eps=1e-6))
    x, weights = drawn(20_000, 3, seed=4) + 1, drawn(20_000, seed=5).abs()
    start = weights_only(mlp)
    start = with_bypass(start, x, weights) if bypass else start
    found = with_down(start, x, weights, ridge=0.2)
    share = (weights / weights.sum()).numpy()[:, None]
    units, rest = start.units(x).numpy(), (mlp(x) - start(x)).numpy()
    off, aim = units - (share * units).sum(axis=0), rest - (share * rest).sum(axis=0)
    scale = np.sqrt((share * off**2).sum(axis=0))
    rows = np.concatenate([np.sqrt(share) * off, math.sqrt(0.2) * np.diag(scale)])
    aims = np.concatenate([np.sqrt(share) * aim, np.zeros((2, 3))])
    change = np.linalg.lstsq(rows, aims, rcond=None)[0].T
    np.testing.assert_allclose((found.down - mlp.down).numpy(), change, rtol=1e-6, atol=1e-9)
    left = share * (mlp(x) - found(x)).numpy()
    np.testing.assert_allclose(left.sum(axis=0), 0, atol=1e-9)
    assert found.fvu(x, weights) < start.fvu(x, weights)


@pytest.mark.bad_input
def test_too_few_rows_for_another_d_are_refused() -> None:
    mlp = layer(Gate("silu"))
    x = drawn(20_000, 5)
    cases = [
        (lambda: with_down(weights_only(mlp), x[:19_999]), "got 19,999 rows to fit D to; expected at least 20,000"),
        (lambda: with_down(with_down(weights_only(mlp), x), x), "a surrogate with a D of its own"),
        (lambda: with_down(weights_only(mlp), x, ridge=-1.0), "ridge"),
        (lambda: with_down("none", x), "surrogate of type str"),
    ]
    for make, message in cases:
        with pytest.raises(BilensError, match=message):
            make()
