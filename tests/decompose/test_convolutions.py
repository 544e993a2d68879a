"""Eigenvectors and singular values of convolutions against the dense matrix of the unfolded layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bilens import decompose
from bilens.convolution import ConvTensor
from bilens.decompose import convolutions as module
from bilens.errors import BilensError
from bilens.space import Space
from messages import refuses
from oracle import array, near
from strategies import SEEDS


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def classifier(seed: int = 0, *, bias: bool = True) -> ConvTensor:
    """Four filters of 3×3 over 10×9 pixels, every other one, with a rim, and three classes."""
    left, right = drawn(4, 1, 3, 3, seed=seed), drawn(4, 1, 3, 3, seed=seed + 1)
    biases = {"left_bias": drawn(4, seed=seed + 2), "right_bias": drawn(4, seed=seed + 3)} if bias else {}
    conv = ConvTensor.from_filters(left, right, image=(10, 9), stride=2, padding=1, **biases)
    return conv.then(drawn(3, conv.output.dim, seed=seed + 4), Space("classes", 3))


@given(SEEDS, st.sampled_from((1, 4, 20)), st.booleans())
def test_lanczos_finds_the_pairs_of_the_unfolded_kernel(seed, k, bias):
    kernel = classifier(seed, bias=bias).kernel(1)
    matrix = array(kernel.unfolded().dense())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "eigh", None)  # nothing is formed
        found = decompose.eigh_conv(kernel, k)
    exact = np.linalg.eigvalsh(matrix)
    exact = exact[np.argsort(-np.abs(exact))]
    top = np.abs(exact[0])
    assert np.abs(np.sort(array(found.values)) - np.sort(exact[:k])).max() < 1e-11 * top
    vectors = array(found.vectors)
    assert np.abs(vectors @ vectors.T - np.eye(k)).max() < 1e-12
    assert np.linalg.norm(matrix @ vectors.T - vectors.T * array(found.values)) < 1e-11 * top
    assert (array(found.residuals) < 1e-9 * top).all()
    near(found.energy, (matrix**2).sum(), (matrix**2).sum())
    near(found.discarded, np.sqrt((exact[k:] ** 2).sum()), np.linalg.norm(matrix), rtol=1e-6)
    assert float(found.discarded) >= np.abs(exact[k])


@given(SEEDS, st.none() | st.integers(1, 91))
def test_the_certificate_holds_and_all_pairs_are_the_kernel(seed, k):
    kernel = classifier(seed).kernel(drawn(3, seed=seed + 9))
    found = decompose.eigh_conv(kernel, k)
    x = drawn(20, 90, seed=seed + 5)
    norms = kernel.input.fold(x).norm(dim=1)
    error = (kernel(x) - found.reconstruct(x)).abs()
    assert bool((error <= found.bound(norms) + 1e-12 * float(kernel.norm()) * norms**2).all())
    if k is None or k == 91:
        assert float(found.bound(1.0)) < 1e-9 * float(kernel.norm())


def test_in_single_precision_the_answers_are_rounded_and_no_more():
    kernel = classifier().kernel(0)
    double, single = decompose.eigh_conv(kernel, 5), decompose.eigh_conv(kernel.to(torch.float32), 5)
    assert single.values.dtype == torch.float32
    near(single.values, array(double.values), float(kernel.norm()), rtol=1e-5)
    assert float(single.discarded) >= float(double.discarded) * (1 - 1e-5)
    nothing = classifier().kernel(torch.zeros(3, dtype=torch.float64))
    near(decompose.eigh_conv(nothing, 5).values, np.zeros(5))


@given(SEEDS)
def test_singular_values_of_the_outputs(seed):
    conv = classifier(seed)
    matrix = np.stack([array(conv.kernel(o).unfolded().dense()).ravel() for o in range(3)])
    values, directions = decompose.svd_conv(conv)
    sigma = np.linalg.svd(matrix, compute_uv=False)
    near(values, sigma, sigma[0], rtol=1e-7)
    near(np.linalg.norm(array(directions) @ matrix, axis=1), array(values), sigma[0], rtol=1e-7)
    near(float(conv.kernel(directions[0]).norm()), float(values[0]), sigma[0], rtol=1e-7)


@pytest.mark.bad_input
def test_what_is_refused():
    kernel = classifier().kernel(0)
    with refuses(BilensError, "kernel of type str"):
        decompose.eigh_conv("kernel")
    with refuses(BilensError, "k = 92", "1 ≤ k ≤ 91"):
        decompose.eigh_conv(kernel, 92)
    with refuses(BilensError, "tensor of type ConvKernel", "a ConvTensor"):
        decompose.svd_conv(kernel)
