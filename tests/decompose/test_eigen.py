"""Eigenvectors of kernels, plain and weighted by data."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import oracle
from bilens import decompose
from bilens.decompose import Spectrum, WeightedSpectrum
from bilens.errors import BilensError, ShapeError
from bilens.kernel import Kernel
from bilens.space import Space
from messages import refuses
from oracle import array, near, with_one
from strategies import SEEDS, filled, kernels, orthogonal, samples


def matrix_of(kernel: Kernel) -> oracle.Array:
    return oracle.dense(kernel.left, kernel.right, kernel.weights[None])[0]


def natural(kernel: Kernel) -> float:
    """Natural scale of the eigenvalues: the norm of the kernel with every term replaced by its absolute value."""
    return float(np.linalg.norm(oracle.dense(kernel.left.abs(), kernel.right.abs(), kernel.weights.abs()[None])))


def diagonal(*values: float, constant: bool = False) -> Kernel:
    space = Space("x", len(values) - constant, constant=constant)
    return Kernel.from_matrix(torch.diag(torch.tensor(values, dtype=torch.float64)), space, "d")


def check_pairs(kernel: Kernel, spectrum: Spectrum, k: int) -> None:
    """The k eigenpairs largest in |λ|, orthonormal, whatever basis a repeated eigenvalue got."""
    dense, scale = matrix_of(kernel), natural(kernel)
    expected = np.linalg.eigvalsh(dense)
    size = np.sort(abs(expected))[::-1]
    values, vectors = array(spectrum.values), array(spectrum.vectors)
    near(abs(values), size[:k], scale)
    near(vectors @ vectors.T, np.eye(k))
    near(vectors @ dense, values[:, None] * vectors, scale)
    near(spectrum.residuals, np.linalg.norm(vectors @ dense - values[:, None] * vectors, axis=1), scale)
    near(spectrum.discarded, size[k] if k < len(size) else 0.0, scale)
    near(spectrum.energy, (dense**2).sum(), scale**2)
    assert (spectrum.input, spectrum.label) == (kernel.input, kernel.label)


@given(st.data(), kernels())
def test_eigenpairs_of_any_kernel(data, kernel):
    k = data.draw(st.none() | st.integers(1, kernel.input.dim))
    spectrum = decompose.eigh(kernel, k)
    assert len(spectrum) == (k or kernel.input.dim)
    check_pairs(kernel, spectrum, len(spectrum))


@given(
    st.data(), st.integers(5, 14), st.integers(1, 3), st.sampled_from(("normal", "repeated", "parallel", "gaps")), SEEDS
)
def test_a_kernel_of_few_hidden_units_is_reduced_to_their_span(data, d, hidden, fill, seed):
    left, right = filled(fill, hidden, d, seed), filled(fill, hidden, d, seed + 1)
    weights = filled("normal", 1, hidden + 2, seed)[0]
    weights[-2:] = 0  # two units that this kernel does not use
    more = filled("normal", 2, d, seed)
    kernel = Kernel(torch.cat([left, more]), torch.cat([right, more]), weights, Space("x", d))
    k = data.draw(st.integers(1, d))
    check_pairs(kernel, decompose.eigh(kernel, k), k)


@given(st.data(), kernels())
def test_keeping_fewer_is_computing_fewer(data, kernel):
    k = data.draw(st.integers(1, kernel.input.dim))
    kept, computed = decompose.eigh(kernel).keep(k), decompose.eigh(kernel, k)
    near(kept.values.abs(), computed.values.abs(), natural(kernel))
    near(kept.discarded, computed.discarded, natural(kernel))
    near(kept.energy, computed.energy, natural(kernel) ** 2)
    near(computed.keep(k).discarded, computed.discarded, 0)
    for less in range(k + 1):
        near(computed.keep(less).discarded, decompose.eigh(kernel).keep(less).discarded, natural(kernel))
    none = kept.keep(0)
    x = torch.ones(2, kernel.input.size, dtype=torch.float64)
    near(none.reconstruct(x), [0, 0], 0)
    near(none.discarded, kept.values.abs().max(), natural(kernel))
    assert float(none.discarded) >= float(kept.values.abs().max())


@given(st.data(), kernels())
def test_terms_take_an_output_apart(data, kernel):
    x = data.draw(samples(kernel.input.size))
    spectrum = decompose.eigh(kernel)
    lifted = with_one(x) if kernel.input.constant else array(x)
    expected = array(spectrum.values) * (lifted @ array(spectrum.vectors).T) ** 2
    scale = natural(kernel) * (lifted**2).sum()
    near(spectrum.terms(x), expected, scale)
    near(spectrum.reconstruct(x), expected.sum(1), scale)
    near(spectrum.terms(x[0]), expected[0], scale)


def test_the_largest_eigenvalue_by_size_comes_first_whatever_its_sign():
    spectrum = decompose.eigh(diagonal(1.0, -5.0, 0.0, 3.0), 3)
    near(spectrum.values, [-5.0, 3.0, 1.0])
    near(spectrum.vectors, [[0, 1, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0]])
    near(spectrum.discarded, 0.0)
    near(decompose.eigh(diagonal(1.0, -5.0, 0.0, 3.0), 1).discarded, 3.0)


@given(SEEDS, st.integers(1, 6))
def test_signs_are_fixed_by_the_largest_entry(seed, d):
    basis = orthogonal(d, seed)
    kernel = Kernel(basis, basis, torch.arange(1.0, d + 1, dtype=torch.float64), Space("x", d))
    for vector in array(decompose.eigh(kernel).vectors):
        assert vector[abs(vector).argmax()] > 0


def test_the_zero_kernel_has_a_spectrum_of_zeros():
    kernel = Kernel(torch.zeros(1, 3), torch.zeros(1, 3), torch.zeros(1), Space("x", 3))
    for k in (None, 1, 3):
        spectrum = decompose.eigh(kernel, k)
        assert float(spectrum.values.abs().max()) == float(spectrum.energy) == float(spectrum.discarded) == 0
        near(spectrum.vectors @ spectrum.vectors.T, np.eye(k or 3), rtol=1e-6)
    assert decompose.eigh(kernel).participation_ratio() == 0


def test_single_precision_is_answered_in_kind_and_computed_in_double():
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(4, 30, generator=generator) for _ in range(2))
    kernel = Kernel(left, right, torch.ones(4), Space("x", 30))
    for k in (None, 3):
        spectrum = decompose.eigh(kernel, k)
        for field in ("values", "vectors", "residuals", "discarded"):
            assert getattr(spectrum, field).dtype == torch.float32
        assert spectrum.energy.dtype == torch.float64  # of a square, which float32 may not hold
        assert float(spectrum.residuals.max()) < 3e-7 * float(spectrum.values.abs().max())
        near(
            abs(array(spectrum.values)),
            np.sort(abs(np.linalg.eigvalsh(matrix_of(kernel))))[::-1][: len(spectrum)],
            50,
            rtol=1e-6,
        )
    weighted = decompose.eigh_weighted(kernel, torch.eye(30, dtype=torch.float64), 3)
    assert weighted.values.dtype == weighted.readers.dtype == torch.float32


def test_bound_takes_a_number_or_one_norm_a_sample():
    spectrum = decompose.eigh(diagonal(4.0, 2.0, -1.0), 1)
    near(spectrum.bound(3.0), 18.0)
    near(spectrum.bound(torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)), [0.0, 2.0, 8.0])
    for dtype in (torch.float32, torch.bfloat16):  # what such a norm may have lost is allowed for
        near(spectrum.bound(torch.tensor([1.0], dtype=dtype)), [2.0], rtol=40 * torch.finfo(dtype).eps)
        assert float(spectrum.bound(torch.tensor([1.0], dtype=dtype))) > 2 + torch.finfo(dtype).eps


@given(st.integers(1, 6), st.sampled_from([1.0, -1.0]))
def test_effective_rank_counts_equal_eigenvalues(d, sign):
    assert decompose.eigh(diagonal(*[sign * 2.0] * d)).participation_ratio() == pytest.approx(d)
    assert decompose.eigh(diagonal(*[2.0 * (-1) ** i for i in range(d)])).participation_ratio() == pytest.approx(d)


def test_effective_rank_of_unequal_eigenvalues():
    assert decompose.eigh(diagonal(3.0, -1.0)).participation_ratio() == pytest.approx(16 / 10)
    with refuses(BilensError, "1 pairs, not all", "every eigenpair", "without k"):
        decompose.eigh(diagonal(3.0, -1.0), 1).participation_ratio()
    assert decompose.eigh(diagonal(3.0, 0.0), 1).participation_ratio() == pytest.approx(1)


# Weighted by data


@given(st.data(), kernels())
def test_weighted_readers_have_mean_square_one_and_rebuild_the_data(data, kernel):
    x = data.draw(samples(kernel.input.size, data.draw(st.integers(1, 12))))
    moment = decompose.second_moment(x, kernel.input)
    spectrum = decompose.eigh_weighted(kernel, moment)
    lifted, dense = with_one(x) if kernel.input.constant else array(x), matrix_of(kernel)
    scale = natural(kernel) * (lifted**2).sum()
    near(spectrum.reconstruct(x), np.einsum("ni,ij,nj->n", lifted, dense, lifted), scale)
    covariance = array(spectrum.readers) @ array(moment) @ array(spectrum.readers).T
    near(covariance @ covariance, covariance, 1, rtol=1e-7)  # the identity on the range of the data
    near(np.trace(covariance), oracle.rank(lifted), 1, rtol=1e-7)
    near(spectrum.discarded, 0.0, scale, rtol=1e-6)  # where Σ is singular, to the root of its rounding
    near(spectrum.terms(x).sum(-1), spectrum.reconstruct(x), scale)


def test_data_decide_which_pairs_matter():
    kernel = diagonal(5.0, 1.0)
    rare_and_common = torch.diag(torch.tensor([0.01, 4.0], dtype=torch.float64))
    weighted = decompose.eigh_weighted(kernel, rare_and_common, 1)
    near(weighted.values, [4.0])
    near(weighted.discarded, 0.05)
    near(weighted.readers, [[0.0, 0.5]])  # reads x₂ in units of its root mean square, 2
    near(decompose.eigh(kernel, 1).values, [5.0])


def test_no_data_no_features():
    weighted = decompose.eigh_weighted(diagonal(5.0, 1.0), torch.zeros(2, 2, dtype=torch.float64))
    assert float(weighted.values.abs().max()) == float(weighted.readers.abs().max()) == 0


def test_second_moment_is_summed_in_batches_in_double_precision():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, 2, generator=generator) + 100
    moment = decompose.second_moment(x, Space("x", 2, constant=True))
    lifted = with_one(x)
    near(moment, lifted.T @ lifted / len(lifted), 1e4, rtol=1e-13)
    assert moment.dtype == torch.float64
    near(decompose.second_moment(x[:0], Space("x", 2)), np.zeros((2, 2)), 0)


# What is refused


@pytest.mark.parametrize("k", [0, -1, 4])
def test_refuses_more_pairs_than_there_are(k):
    kernel = diagonal(1.0, 2.0, 3.0, constant=True)
    for call in (
        lambda: decompose.eigh(kernel, k),
        lambda: decompose.eigh_weighted(kernel, torch.eye(3, dtype=torch.float64), k),
    ):
        with refuses(BilensError, f"k = {k}", "1 ≤ k ≤ 3"):
            call()


@pytest.mark.parametrize("k", [-1, 3])
def test_refuses_to_keep_more_than_was_computed(k):
    with refuses(BilensError, f"k = {k}", "0 ≤ k ≤ 2", "compute more"):
        decompose.eigh(diagonal(1.0, 2.0, 3.0), 2).keep(k)


@pytest.mark.parametrize("shape", [(2, 2), (3, 2), (3,)])
@pytest.mark.bad_input
def test_refuses_a_second_moment_of_another_size(shape):
    with refuses(ShapeError, f"a second moment of shape {shape}", "(3, 3)", "folded"):
        decompose.eigh_weighted(diagonal(1.0, 2.0, 3.0, constant=True), torch.ones(shape))


def test_refuses_a_matrix_that_is_no_second_moment():
    with refuses(BilensError, "eigenvalue -1", "none below 0"):
        decompose.eigh_weighted(diagonal(1.0, 2.0), torch.diag(torch.tensor([1.0, -1.0])))


@pytest.mark.parametrize("field", ["values", "vectors", "residuals", "discarded", "energy"])
@pytest.mark.bad_input
def test_refuses_a_spectrum_that_does_not_fit(field):
    spectrum = decompose.eigh(diagonal(1.0, 2.0))
    wrong = {"values": torch.zeros(2, 2), "discarded": torch.zeros(1), "energy": torch.zeros(1)}
    with refuses(ShapeError, f"{field} of shape", "expected ("):
        dataclasses.replace(spectrum, **{field: wrong.get(field, torch.zeros(1))})


@pytest.mark.parametrize("field", ["readers", "discarded"])
@pytest.mark.bad_input
def test_refuses_a_weighted_spectrum_that_does_not_fit(field):
    spectrum = decompose.eigh_weighted(diagonal(1.0, 2.0), torch.eye(2, dtype=torch.float64))
    assert isinstance(spectrum, WeightedSpectrum)
    with refuses(ShapeError, f"{field} of shape (1,)", "expected ("):
        dataclasses.replace(spectrum, **{field: torch.zeros(1)})


@given(st.data(), kernels())
def test_selected_pairs_are_those_and_the_bound_holds(data, kernel) -> None:
    spectrum, x = decompose.eigh(kernel), data.draw(samples(kernel.input.size))
    places = data.draw(st.lists(st.integers(0, len(spectrum) - 1), unique=True))
    some = spectrum.select(places)
    assert torch.equal(some.values, spectrum.values[places])
    assert torch.equal(some.vectors, spectrum.vectors[places])
    lifted = with_one(x) if kernel.input.constant else array(x)
    exact = np.einsum("ni,ij,nj->n", lifted, matrix_of(kernel), lifted)
    norms = np.linalg.norm(lifted, axis=1)
    error = abs(array(some.reconstruct(x)) - exact)
    assert (error <= array(some.bound(torch.tensor(norms))) + 1e-9 * natural(kernel) * norms**2).all()
    left = [float(v) for n, v in enumerate(spectrum.values) if n not in places]
    near(float(some.discarded), max(map(abs, left), default=0.0), natural(kernel))


@pytest.mark.bad_input
def test_selects_by_a_tensor_of_places_and_refuses_others() -> None:
    spectrum = decompose.eigh(diagonal(3.0, -2.0, 1.0))
    assert spectrum.select(torch.tensor([2, 0])).values.tolist() == [1.0, 3.0]
    with refuses(BilensError, "a place"):
        spectrum.select([3])
    with refuses(BilensError, "places [1, 1]", "each once"):
        spectrum.select([1, 1])
    with refuses(BilensError, "places of type int", "a list of places"):
        spectrum.select(1)
