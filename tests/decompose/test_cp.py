"""The canonical polyadic decomposition, against dense automatic differentiation, planted terms and closed forms."""

from __future__ import annotations

import dataclasses
import importlib
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import oracle
from bilens import decompose, matching
from bilens.errors import BilensError, ShapeError
from bilens.space import Space
from bilens.tensor import BilinearTensor
from largest import Largest
from messages import refuses
from oracle import array, near, with_one
from strategies import SEEDS, filled, layers, orthogonal, samples

cp_module = importlib.import_module("bilens.decompose._cp_fit")
SLOW_PRODUCTS, SLOW_SQUARES = (
    [pytest.param(*sizes, marks=pytest.mark.slow) for sizes in some]
    for some in ([(3, 3, 6), (6, 5, 10), (12, 6, 30)], [(6, 8, 12), (9, 12, 10), (12, 6, 30)])
)
BOTH = pytest.mark.parametrize("method", [decompose.cp, decompose.cp_symmetric])


def tensor_of(left: Tensor, right: Tensor, down: Tensor) -> BilinearTensor:
    return BilinearTensor(left, right, down, Space("x", left.shape[1]), Space("y", len(down)))


def normal(rows: int, columns: int, seed: int) -> Tensor:
    return filled("normal", rows, columns, seed)


def split(a: Tensor, b: Tensor, c: Tensor) -> BilinearTensor:
    """Σ_r c_r ⊗ sym(a_r ⊗ b_r) with other hidden units: the two squares of each, so that no unit is a term."""
    rows = torch.cat([a + b, a - b])
    return tensor_of(rows, rows, torch.cat([c, -c]).T / 4)


def mixed(a: Tensor, c: Tensor) -> BilinearTensor:
    """Σ_r c_r ⊗ a_r ⊗ a_r with products as hidden units: a aᵀ = sym((a + z)(a − z)ᵀ) + z zᵀ."""
    z = normal(1, a.shape[1], 99)
    left = torch.cat([a + z, z])
    return tensor_of(left, torch.cat([a - z, z]), torch.cat([c, c.sum(dim=0, keepdim=True)]).T)


@BOTH
@given(data=st.data(), layer=layers(max_d=4, max_hidden=5, max_o=4), rank=st.integers(1, 4))
def test_the_error_is_the_dense_one_and_the_certificate_holds(method, data, layer, rank) -> None:
    tensor = layer.tensor()
    found = method(tensor, rank, steps=15, seed=data.draw(SEEDS), progress=False)
    dense = oracle.tensor(layer, constant=layer.biased)
    left, right = array(found.left), array(found.right)
    fitted = oracle.dense(left, right, (array(found.values)[:, None] * array(found.outputs)).T)
    natural = np.linalg.norm(oracle.dense(tensor.left.abs(), tensor.right.abs(), tensor.down.abs()))
    norm = np.linalg.norm(dense)
    near(found.energy, norm**2, natural**2)
    if norm > 1e-6 * natural:
        near(found.error * norm, np.linalg.norm(dense - fitted), natural, rtol=1e-9 * (1 + found.cancellation() ** 0.5))
    else:
        assert float(found.error) == 0
    near(found.tensor().to_dense(), fitted, fitted)
    x = data.draw(samples(layer.input.size))
    lifted = with_one(x) if layer.biased else array(x)
    norms = np.linalg.norm(lifted, axis=1)
    off = np.linalg.norm(oracle.forward(layer, x) - array(found.codes(x) @ found.outputs), axis=1)
    assert (off <= array(found.bound(torch.tensor(norms))) + 1e-9 * natural * norms**2).all()
    if method is decompose.cp_symmetric:
        assert torch.equal(found.left, found.right)


@BOTH
@given(layer=layers())
def test_terms_are_unit_signed_and_in_order(method, layer) -> None:
    found = method(layer.tensor(), 3, steps=5, progress=False)
    some = array(found.values) > 0
    for rows in (found.outputs, found.left, found.right):
        near(np.linalg.norm(array(rows), axis=1), some.astype(float))
    assert (np.diff(array(found.norms())) <= 1e-9 * array(found.norms()).max(initial=0)).all()
    for left, right in zip(array(found.left)[some], array(found.right)[some], strict=True):
        assert left[abs(left).argmax()] > 0
        assert right[abs(right).argmax()] > 0
        assert abs(left).max() >= abs(right).max()
    for norm, value, left, right in zip(
        array(found.norms()), array(found.values), array(found.left), array(found.right), strict=True
    ):
        near(norm, value * np.linalg.norm(np.outer(left, right) + np.outer(right, left)) / 2, value)


@given(layer=layers(), extra=st.integers(0, 2))
def test_as_many_terms_as_hidden_units_are_exact(layer, extra) -> None:
    tensor = layer.tensor()
    natural = float(np.linalg.norm(oracle.dense(tensor.left.abs(), tensor.right.abs(), tensor.down.abs())))
    for method, least in ((decompose.cp, tensor.hidden), (decompose.cp_symmetric, 2 * tensor.hidden)):
        found = method(tensor, least + extra, progress=False)
        assert found.converged
        fitted = found.tensor()
        near(oracle.dense(fitted.left, fitted.right, fitted.down), oracle.tensor(layer, constant=layer.biased), natural)


def similarity(first: BilinearTensor, second: BilinearTensor) -> np.ndarray:
    """The best one-to-one match of terms, by the cosine of their kernels times that of their outputs."""
    kernels, outputs = [], []
    for tensor in (first, second):
        terms, eye = Space("terms", tensor.hidden), torch.eye(tensor.hidden, dtype=torch.float64)
        kernels.append(BilinearTensor(tensor.left, tensor.right, eye, tensor.input, terms))
        outputs.append(tensor.down / tensor.down.norm(dim=0))
    return array(matching.assign(matching.kernel_cosines(*kernels) * (outputs[0].T @ outputs[1])).similarity)


@pytest.mark.parametrize(("o", "r", "d"), [(1, 1, 1), (2, 1, 4), (5, 3, 12), *SLOW_PRODUCTS])
def test_planted_products_are_found_up_to_order_and_scale(o, r, d) -> None:
    a, b, c = normal(r, d, 1), normal(r, d, 2), normal(r, o, 3)
    found = decompose.cp(split(a, b, c), r, starts=6, tol=1e-7, progress=False)
    assert found.converged
    assert float(found.error) < 1e-5
    near(similarity(found.tensor(), tensor_of(a, b, c.T)), np.ones(r), rtol=1e-8)


@pytest.mark.parametrize(("o", "r", "d"), [(1, 1, 1), (2, 1, 4), (3, 4, 6), *SLOW_SQUARES])
def test_planted_squares_are_found_up_to_order_and_scale(o, r, d) -> None:
    a, c = normal(r, d, 4), normal(r, o, 5)
    found = decompose.cp_symmetric(mixed(a, c), r, starts=6, tol=1e-7, progress=False)
    assert found.converged
    assert float(found.error) < 1e-5
    near(similarity(found.tensor(), tensor_of(a, a, c.T)), np.ones(r), rtol=1e-8)


@given(st.integers(2, 6), st.integers(1, 4), SEEDS)
@settings(max_examples=5)
def test_one_output_has_its_leading_eigenvectors(d, rank, seed) -> None:
    """Eckart and Young: for a single kernel the best sum of R squares leaves all eigenvalues but the R largest."""
    basis, generator = orthogonal(d, seed), torch.Generator().manual_seed(seed)
    values = torch.arange(1, d + 1, dtype=torch.float64) * (2 * torch.randint(0, 2, (d,), generator=generator) - 1)
    tensor = tensor_of(basis, basis * values[:, None], torch.ones(1, d, dtype=torch.float64))
    found = decompose.cp_symmetric(tensor, rank, tol=1e-10, progress=False)
    near(found.error**2, values.abs().sort().values[: max(d - rank, 0)].square().sum() / values.square().sum(), 1)


@BOTH
def test_more_terms_than_are_needed_are_as_exact(method) -> None:
    a, c = normal(2, 7, 1), normal(2, 4, 2)
    twice = mixed(a, c) if method is decompose.cp_symmetric else split(a, normal(2, 7, 3), c)
    whole = twice + twice.then(torch.eye(4, dtype=torch.float64) / 2, twice.output)
    found = method(whole, 4, tol=1e-7, progress=False)
    assert found.converged
    assert float(found.error) < 1e-5


@BOTH
def test_a_tensor_that_is_zero_or_cancels_has_no_terms(method) -> None:
    a, b = normal(4, 5, 1), normal(4, 5, 2)
    zero = tensor_of(a, b, torch.zeros(3, 4, dtype=torch.float64))
    gone = tensor_of(torch.cat([a, a]), torch.cat([b, -b]), torch.ones(3, 8, dtype=torch.float64))
    for tensor in (zero, gone):
        found = method(tensor, 2, progress=False)
        assert found.converged
        assert float(found.error) == 0
        assert not found.values.any()
        assert not found.left.any()
        near(found.bound(1.0), 0.0, float(oracle.dense(a.abs(), b.abs(), 2 * torch.ones(3, 4)).sum()), rtol=1e-7)


def test_a_tensor_of_which_most_cancels_is_certified_all_the_same() -> None:
    a, b = normal(6, 5, 1), normal(6, 5, 2)
    small = 1e-9 * normal(6, 5, 3)
    ones = torch.ones(1, 6, dtype=torch.float64)
    tensor = tensor_of(torch.cat([a, a + small]), torch.cat([b, -b]), torch.cat([ones, ones], dim=1))
    found = decompose.cp(tensor, 2, progress=False)
    off = np.linalg.norm(oracle.dense(tensor.left, tensor.right, tensor.down) - array(found.tensor().to_dense()))
    assert float(found.bound(1.0)) >= off


@BOTH
def test_single_precision_is_answered_in_kind(method) -> None:
    tensor = tensor_of(normal(9, 6, 1), normal(9, 6, 2), normal(4, 9, 3))
    single, double = (
        method(tensor.to(kind), 3, steps=8, starts=0, progress=False) for kind in (torch.float32, torch.float64)
    )
    for field in ("values", "outputs", "left", "right", "error", "floor", "energy"):
        assert getattr(single, field).dtype == torch.float32, field
    assert single.history.dtype == torch.float64
    near(single.error, double.error, 1, rtol=1e-5)
    dense = oracle.dense(tensor.left, tensor.right, tensor.down)
    assert float(single.bound(1.0)) >= np.linalg.norm(dense - array(single.tensor().to_dense())) * (1 - 1e-6)


@BOTH
def test_what_was_fitted_is_a_point_where_no_small_change_helps(method) -> None:
    a, c = normal(2, 6, 1), normal(2, 4, 2)
    clean = mixed(a, c) if method is decompose.cp_symmetric else split(a, normal(2, 6, 6), c)
    tensor = clean + tensor_of(normal(12, 6, 3), normal(12, 6, 4), normal(4, 12, 5) / 100)
    found = method(tensor, 2, tol=1e-10, progress=False)
    assert found.converged
    dense, generator = tensor.to_dense(), torch.Generator().manual_seed(0)
    for _ in range(20):
        moved = dataclasses.replace(
            found,
            left=found.left + 1e-3 * torch.randn(found.left.shape, generator=generator, dtype=torch.float64),
            outputs=found.outputs + 1e-3 * torch.randn(found.outputs.shape, generator=generator, dtype=torch.float64),
        )
        if method is decompose.cp_symmetric:
            moved = dataclasses.replace(moved, right=moved.left)
        assert (dense - moved.tensor().to_dense()).norm() > found.error * dense.norm()


@BOTH
def test_a_ridge_keeps_terms_from_growing_against_one_another(method) -> None:
    """d/dt of (a + t z)(a + t z)ᵀ is a limit of two terms that grow without end: the error has no minimum."""
    a, z = normal(1, 5, 1), normal(1, 5, 2)
    c = normal(1, 4, 3)
    e = normal(1, 4, 4)
    tensor = tensor_of(torch.cat([a, a]), torch.cat([z, a]), torch.cat([c, e]).T)
    if method is decompose.cp:
        y = normal(1, 5, 5)
        down = torch.cat([c, c, e, normal(1, 4, 6)])
        tensor = tensor_of(torch.cat([a, y, a, z]), torch.cat([z, a, y, y]), down.T)
    free = method(tensor, 2, steps=30, progress=False)
    held = method(tensor, 2, steps=30, ridge=1e-2, progress=False)
    assert held.cancellation() < 10
    assert held.cancellation() <= free.cancellation() * (1 + 1e-6)
    assert float(held.error) < 1


def test_seeds_decide_and_more_starts_are_never_worse() -> None:
    tensor = tensor_of(normal(20, 7, 1), normal(20, 7, 2), normal(3, 20, 3))
    errors = []
    for starts in (0, 1, 3):
        found = decompose.cp(tensor, 4, starts=starts, steps=12, seed=7, progress=False)
        again = decompose.cp(tensor, 4, starts=starts, steps=12, seed=7, progress=False)
        # To rounding, which depends on where the numbers lie in memory, and which unconverged steps enlarge.
        near(found.error, again.error, rtol=1e-3)
        errors.append(float(found.error))
    assert all(later <= earlier + 1e-6 for earlier, later in itertools.pairwise(errors))  # but for that rounding


@BOTH
def test_an_interruption_keeps_the_best_so_far(method, monkeypatch) -> None:
    tensor = tensor_of(normal(40, 12, 1), normal(40, 12, 2), normal(6, 40, 3))
    loss, calls = cp_module.Target.loss, []

    def interrupted(self, factors, ridge=0.0):
        calls.append(1)
        if len(calls) == 40:
            raise KeyboardInterrupt
        return loss(self, factors, ridge)

    monkeypatch.setattr(cp_module.Target, "loss", interrupted)
    found = method(tensor, 5, tol=1e-12, progress=False)
    assert not found.converged
    assert len(found.history) > 2
    near(found.history[-1], found.error)


def test_it_says_when_it_did_not_reach_the_tolerance() -> None:
    tensor = tensor_of(normal(40, 12, 1), normal(40, 12, 2), normal(6, 40, 3))
    assert not decompose.cp(tensor, 5, steps=2, progress=False).converged
    assert decompose.cp(tensor, 40, progress=False).converged


def test_nothing_of_the_size_of_the_dense_tensor_is_made() -> None:
    o, h, d, r = 20, 24, 40, 4
    tensor = tensor_of(normal(h, d, 1), normal(h, d, 2), normal(o, h, 3))
    with Largest() as size:
        decompose.cp(tensor, r, steps=3, progress=False)
        decompose.cp_symmetric(tensor, r, steps=3, progress=False)
    assert size.numel <= max(2 * h * d, 4 * h * h, d * d) < o * d * d


def test_a_bar_shows_the_error(capsys) -> None:
    decompose.cp(tensor_of(normal(9, 6, 1), normal(9, 6, 2), normal(4, 9, 3)), 2, steps=5)
    assert "fitting 2 terms" in capsys.readouterr().err


@pytest.mark.bad_input
@BOTH
def test_what_does_not_fit_is_refused(method) -> None:
    tensor = tensor_of(normal(9, 6, 1), normal(9, 6, 2), normal(4, 9, 3))
    for name, value in (("rank", 0), ("rank", 1.5), ("rank", True), ("starts", -1), ("steps", -1)):
        options = {"rank": 2} | {name: value}
        with refuses(BilensError, f"{name} = {value}", "≤ rank ≤" if name == "rank" else "at least"):
            method(tensor, progress=False, **options)
    for name, value in (("tol", -1.0), ("tol", float("nan")), ("ridge", -0.1), ("ridge", float("inf"))):
        with refuses(BilensError, f"{name} = {value}", "at least 0"):
            method(tensor, 2, progress=False, **{name: value})
    found = method(tensor, 2, steps=1, progress=False)
    with refuses(ShapeError, "left of shape (1, 6)", "(2, 6)"):
        dataclasses.replace(found, left=found.left[:1])


@BOTH
@pytest.mark.parametrize(("power", "dtype"), [(40, torch.float32), (-40, torch.float32), (150, torch.float64)])
def test_the_scale_of_the_factors_changes_the_values_alone(method, power, dtype) -> None:
    """Their sixth power, which a Gram has, is beyond every type."""
    tensor = tensor_of(normal(9, 6, 1), normal(9, 6, 2), normal(4, 9, 3)).to(dtype)
    size = 2.0**power
    scaled = dataclasses.replace(tensor, left=tensor.left * size, right=tensor.right / size, down=tensor.down * size)
    plain, found = (method(each, 3, steps=20, starts=0, progress=False) for each in (tensor, scaled))
    near(found.error, plain.error, 1, rtol=1e-6)
    near(found.values.double() / size, plain.values, float(plain.values.max()), rtol=1e-5)
    near(found.energy.double().sqrt() / size, plain.energy.sqrt(), 1, rtol=1e-5)


def test_terms_beyond_the_type_are_refused() -> None:
    tensor = tensor_of(normal(5, 4, 1) * 1e12, normal(5, 4, 2) * 1e12, normal(3, 5, 3)).to(torch.float32)
    with refuses(BilensError, "float32", "whose square fits"):
        decompose.cp(tensor, 3, steps=5, progress=False)
    assert 0 < float(decompose.cp(tensor.to(torch.float64), 3, steps=5, progress=False).error) < 1


@BOTH
def test_factors_that_ask_for_gradients_are_fitted_without(method) -> None:
    tensor = tensor_of(normal(9, 6, 1), normal(9, 6, 2), normal(4, 9, 3))
    asking = tensor_of(*(f.clone().requires_grad_() for f in (tensor.left, tensor.right, tensor.down)))
    found = method(asking, 2, steps=5, progress=False)
    assert not any(getattr(found, name).requires_grad for name in ("values", "left", "outputs", "error", "energy"))
    near(found.error, method(tensor, 2, steps=5, progress=False).error)


@BOTH
def test_half_precision_is_answered_in_single(method) -> None:
    tensor = tensor_of(*(f.bfloat16() for f in (normal(9, 6, 1), normal(9, 6, 2), normal(4, 9, 3))))
    found = method(tensor, 3, steps=20, progress=False)
    assert found.values.dtype == found.left.dtype == found.error.dtype == torch.float32
    dense = oracle.dense(tensor.left.double(), tensor.right.double(), tensor.down.double())
    off = np.linalg.norm(dense - array(found.tensor().to_dense().double()))
    assert off <= float(found.bound(1.0))
