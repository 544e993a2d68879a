"""Patterns over pixels, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import oracle
from bilens.errors import BilensError, ShapeError
from reproduction.methods.patterns import likeness, masked, permuted, roughness
from strategies import FILLS, SEEDS, filled, layers


@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from(FILLS), SEEDS)
def test_roughness_is_a_quotient_of_the_laplacian(height: int, width: int, fill: str, seed: int) -> None:
    if height * width == 1:
        return
    vectors = filled(fill, 3, height * width, seed)

    def path(n: int) -> np.ndarray:
        steps = np.diff(np.eye(n), axis=0)
        return steps.T @ steps

    laplacian = np.kron(path(height), np.eye(width)) + np.kron(np.eye(height), path(width))
    noise = np.trace(laplacian) / (height * width)
    for vector, found in zip(vectors.numpy(), roughness(vectors, (height, width)).tolist(), strict=True):
        expected = vector @ laplacian @ vector / (vector @ vector) / noise if vector.any() else 0
        assert found == pytest.approx(expected, abs=1e-9)


def test_roughness_is_one_for_noise_zero_for_a_constant_and_largest_for_a_chessboard() -> None:
    noise = torch.randn(400, 784, generator=torch.Generator().manual_seed(0))
    assert float(roughness(noise, (28, 28)).mean()) == pytest.approx(1, abs=0.01)
    chess = (torch.arange(28)[:, None] + torch.arange(28)).remainder(2).mul(2).sub(1).reshape(1, -1).double()
    flat = torch.ones(1, 784)
    assert roughness(flat, (28, 28)).tolist() == [0]
    assert roughness(chess, (28, 28)).tolist() == [pytest.approx(2)]
    torch.testing.assert_close(roughness(-3 * noise, (28, 28)), roughness(noise, (28, 28)))


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6), st.sampled_from(FILLS), SEEDS)
def test_likeness_is_the_largest_cosine(n: int, m: int, d: int, fill: str, seed: int) -> None:
    vectors, images = filled(fill, n, d, seed), filled("gaps", m, d, seed + 1)
    found = likeness(vectors, images)
    for vector, value in zip(vectors.numpy(), found.tolist(), strict=True):
        norms = np.linalg.norm(vector) * np.linalg.norm(images.numpy(), axis=1)
        cosines = [abs(x @ vector) / norm if norm else 0 for x, norm in zip(images.numpy(), norms, strict=True)]
        assert value == pytest.approx(max(cosines), abs=1e-9)
    assert float(likeness(-2 * images[:1], images)[0]) == pytest.approx(float(images[0].any()))


@given(st.integers(1, 30), SEEDS)
def test_a_permuted_pattern_has_the_same_values_and_moves_no_others(d: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    pattern, among = torch.arange(1.0, d + 1), torch.rand(d, generator=generator) < 0.5
    mixed = permuted(pattern, among, generator)
    sign = mixed[~among].sign().mean() if bool((~among).any()) else mixed.sign().mean()
    torch.testing.assert_close((sign * mixed)[~among], pattern[~among])
    torch.testing.assert_close((sign * mixed)[among].sort().values, pattern[among])
    assert abs(float(sign)) == 1


def test_orders_and_signs_are_random() -> None:
    generator = torch.Generator().manual_seed(0)
    pattern = torch.tensor([1.0, 2.0, 3.0, 9.0])
    found = [tuple(permuted(pattern, pattern < 9, generator).tolist()) for _ in range(600)]
    counts = {order: found.count(order) for order in set(found)}
    assert len(counts) == 12  # 3! orders, two signs
    assert min(counts.values()) > 20


@given(layers(), SEEDS, st.lists(st.floats(-3, 3), max_size=3))
def test_masked_outputs_are_those_of_masked_samples(layer, seed: int, strengths: list[float]) -> None:
    tensor = layer.tensor()
    samples = filled("normal", 3, tensor.input.size, seed)
    mask, x = samples[0], samples[1:]
    found = masked(tensor, x, mask, torch.tensor(strengths, dtype=torch.float64))
    assert found.shape == (len(strengths), 2, tensor.output.dim)
    for outputs, t in zip(found, strengths, strict=True):
        oracle.near(outputs, oracle.forward(layer, x + t * mask), oracle.size(layer, x.abs() + abs(t) * mask.abs()))


@pytest.mark.bad_input
def test_patterns_of_another_size_are_refused() -> None:
    with pytest.raises(ShapeError):
        roughness(torch.zeros(1, 5), (2, 2))
    with pytest.raises(BilensError, match="one pixel"):
        roughness(torch.zeros(1, 1), (1, 1))
    with pytest.raises(ShapeError):
        likeness(torch.zeros(1, 5), torch.zeros(1, 4))
    with pytest.raises(ShapeError):
        permuted(torch.zeros(3), torch.ones(2, dtype=torch.bool), torch.Generator())
