"""Metrics: closed forms, the difference between NMSE and explained variance, and merging batches."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from bilens import sae
from bilens.errors import BilensError, ShapeError
from strategies import matrices


@given(st.data(), st.integers(2, 8), st.integers(1, 5), st.floats(-1, 2))
def test_explained_variance_is_0_at_the_mean_1_at_perfection_and_quadratic_between(
    data: st.DataObject, n: int, d: int, share: float
) -> None:
    x = data.draw(matrices(n, d))
    mean = x.mean(dim=0).expand_as(x)
    if float((x - mean).square().sum()) < 1e-12:
        return
    assert_close(sae.explained_variance(x, x), torch.tensor(1.0).double())
    assert_close(sae.explained_variance(x, mean), torch.tensor(0.0).double())
    between = share * x + (1 - share) * mean
    assert_close(sae.explained_variance(x, between), torch.tensor(1 - (1 - share) ** 2).double())


@given(st.data(), st.integers(1, 8), st.integers(1, 5), st.floats(-1, 2))
def test_nmse_is_1_at_zero_0_at_perfection_and_quadratic_between(
    data: st.DataObject, n: int, d: int, share: float
) -> None:
    x = data.draw(matrices(n, d))
    if not x.any():
        assert math.isnan(sae.nmse(x, x))
        return
    assert_close(sae.nmse(x, share * x), torch.tensor((1 - share) ** 2).double())


def test_explained_variance_is_taken_about_the_mean_and_not_about_zero() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 10, generator=generator) + 3.1623  # mean of the squares: 1 + 10
    x_hat = x + 0.469 * torch.randn(2000, 10, generator=generator)  # 0.22 of the variance is lost
    assert abs(float(1 - sae.nmse(x, x_hat)) - 0.98) < 0.005
    assert abs(float(sae.explained_variance(x, x_hat)) - 0.78) < 0.01


def test_equal_vectors_have_no_variance_to_explain() -> None:
    x = torch.ones(3, 2)
    assert math.isnan(sae.explained_variance(x, x))
    assert sae.explained_variance(x, x + 1) == -math.inf


def test_float32_vectors_far_from_zero_lose_nothing() -> None:
    x = (torch.randint(0, 2, (1000, 3), generator=torch.Generator().manual_seed(0)) + 1e6).float()
    assert_close(sae.explained_variance(x, x.mean(dim=0, dtype=torch.float64).expand_as(x)), torch.zeros(()).double())


def test_l0_and_dead_fraction_count() -> None:
    acts = torch.tensor([[0.0, 2.0, -1.0, 0.0], [0.0, 0.0, 3.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert_close(sae.l0(acts), torch.tensor(1.0).double())
    assert_close(sae.dead_fraction(acts), torch.tensor(0.5).double())
    assert sae.dead_fraction(acts[:1, None, None]) == 0.5


def looped_similarity(rows: Tensor, p: float) -> float:
    total = 0.0
    for i, a in enumerate(rows.tolist()):
        for j, b in enumerate(rows.tolist()):
            size = math.hypot(*a) * math.hypot(*b)
            if i != j and size > 0:
                total += abs(sum(s * t for s, t in zip(a, b, strict=True)) / size) ** p
    return total ** (1 / p)


@given(st.data(), st.integers(1, 6), st.integers(1, 5), st.sampled_from([1.0, 2.0, 2.5, 10.0]))
def test_similarity_is_the_norm_of_the_cosines_and_its_gradient_is_finite(
    data: st.DataObject, m: int, d: int, p: float
) -> None:
    rows = data.draw(matrices(m, d)).requires_grad_()
    value = sae.decoder_similarity(rows, p)
    assert_close(float(value.detach()), looped_similarity(rows.detach(), p), rtol=1e-7, atol=1e-7)
    (gradient,) = torch.autograd.grad(value, rows)
    assert torch.isfinite(gradient).all()
    # Rows matter by their directions alone.
    assert_close((gradient * rows.detach()).sum(dim=1), torch.zeros(m).double(), rtol=0, atol=1e-6)


def test_similarity_has_the_gradient_of_finite_differences() -> None:
    rows = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    for p in (1.5, 2.0, 4.0, 10.0, 11.0):
        assert torch.autograd.gradcheck(lambda r, p=p: sae.decoder_similarity(r, p), rows)


def test_similarity_at_the_edges() -> None:
    assert sae.decoder_similarity(torch.eye(4)) == 0
    assert sae.decoder_similarity(torch.ones(1, 3)) == 0
    assert_close(sae.decoder_similarity(torch.ones(2, 3)), torch.tensor(2**0.1))
    assert_close(sae.decoder_similarity(torch.tensor([[1.0, 1e-5], [0.0, 1.0]])), torch.tensor(1e-5 * 2**0.1))
    with pytest.raises(BilensError, match=r"p = 0\.5"):
        sae.decoder_similarity(torch.eye(2), 0.5)


@given(st.data(), st.integers(1, 9), st.integers(1, 4), st.sampled_from([True, False]), st.booleans())
def test_evaluate_is_the_formulas_over_all_rows(
    data: st.DataObject, n: int, batch: int, rectify: bool, shifted: bool
) -> None:
    x = data.draw(matrices(n, 3)) + (1000.0 if shifted else 0.0)
    coder = sae.TopKSAE(3, 5, 2, rectify=rectify).double()
    with torch.no_grad():
        coder.b_dec.copy_(x.mean(dim=0))
        coder.W_enc.mul_(0.7)
    got = sae.evaluate(coder, sae.TensorStream(x, batch_size=batch))
    acts, x_hat = coder.encode(x).detach(), coder(x).detach()
    assert got.rows == n
    assert_close(got.l0, float(sae.l0(acts)))
    assert_close(got.dead_fraction, float(sae.dead_fraction(acts)))
    assert_close(got.nmse, float(sae.nmse(x, x_hat)), equal_nan=True)
    if float((x - x.mean(dim=0)).square().sum()) > 1e-9:
        assert_close(got.explained_variance, float(sae.explained_variance(x, x_hat)), rtol=1e-7, atol=1e-7)
    assert_close(got.frequency, (acts != 0).double().mean(dim=0))
    assert_close(got.mean_activation, acts.mean(dim=0))
    assert torch.equal(got.active, (acts != 0).any(dim=0))


def test_evaluate_takes_tensors_and_iterables_and_reads_one_epoch() -> None:
    coder, x = sae.StandardSAE(3, 6), torch.randn(10, 3)
    over_tensor = sae.evaluate(coder, x)
    over_list = sae.evaluate(coder, [x[:4], x[4:]])
    assert over_tensor.rows == over_list.rows == 10
    assert_close(over_tensor.nmse, over_list.nmse)
    assert_close(over_tensor.frequency, over_list.frequency)
    assert not over_tensor.mean_activation.requires_grad
    with pytest.raises(FrozenInstanceError):
        over_tensor.l0 = 0.0  # type: ignore[misc]


@pytest.mark.bad_input
def test_shapes_that_do_not_fit_are_refused() -> None:
    for metric in (sae.nmse, sae.explained_variance):
        for x, x_hat in ((torch.zeros(3, 2), torch.zeros(2)), (torch.zeros(3), torch.zeros(3))):
            with pytest.raises(ShapeError, match="x of shape"):
                metric(x, x_hat)
    with pytest.raises(ShapeError, match="vectors of shape"):
        sae.evaluate(sae.StandardSAE(3, 6), torch.zeros(4, 2))
    with pytest.raises(ShapeError, match=r"mean_activation of shape \(2,\); expected \(3,\)"):
        sae.Evaluation(1.0, 0.5, 0.5, 0.0, torch.zeros(3), torch.zeros(2), 10)
