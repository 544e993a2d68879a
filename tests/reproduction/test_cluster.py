"""Clusters of coordinates: planted blocks, the decomposition into blocks, and agreement by its definition."""

from __future__ import annotations

import itertools
import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import oracle
from bilens.errors import BilensError, ShapeError
from bilens.kernel import Kernel
from bilens.space import Space
from messages import refuses
from oracle import array, near
from reproduction.methods import cluster
from strategies import SEEDS, kernels


def planted(sizes: tuple[int, ...], seed: int, noise: float) -> tuple[Kernel, torch.Tensor]:
    """Interactions of either sign within blocks whose coordinates are shuffled, and noise everywhere."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    matrix = torch.randn(len(labels), len(labels), generator=generator, dtype=torch.float64)
    matrix = matrix.sign() * (0.5 + matrix.abs()) * (labels[:, None] == labels)
    matrix += noise * torch.randn(len(labels), len(labels), generator=generator, dtype=torch.float64)
    return Kernel.from_matrix(matrix, Space("x", len(labels)), "q"), labels


@given(st.sampled_from([(12, 12), (15, 10, 12), (10, 10, 10, 14)]), SEEDS)
def test_planted_blocks_are_found_whatever_the_signs(sizes, seed):
    kernel, labels = planted(sizes, seed, 0.05)
    found = cluster.clusters(kernel, len(sizes), seed=seed % 100)
    assert cluster.agreement(found, labels) == 1
    seen = list(dict.fromkeys(found.tolist()))
    assert seen == list(range(len(sizes)))  # numbered by the first coordinate in them
    assert cluster.inside(kernel, found) > 0.98


def test_a_coordinate_without_interactions_is_put_somewhere_and_two_pieces_are_no_warning() -> None:
    kernel, labels = planted((8, 8), 0, 0.0)
    matrix = torch.zeros(17, 17).double()
    matrix[:16, :16] = kernel.dense()
    found = cluster.clusters(Kernel.from_matrix(matrix, Space("x", 17)), 2)
    assert cluster.agreement(found[:16], labels) == 1
    assert set(found.tolist()) == {0, 1}


@given(kernels(), st.data())
def test_the_share_inside_is_that_of_the_entries(kernel, data):
    labels = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=kernel.input.dim, max_size=kernel.input.dim)))
    matrix = array(kernel.dense()) ** 2
    if matrix.sum() == 0:
        with refuses(BilensError, "a kernel that is 0"):
            cluster.inside(kernel, labels)
        return
    pairs = itertools.product(range(len(labels)), repeat=2)
    held = sum(matrix[i, j] for i, j in pairs if labels[i] == labels[j])
    near(cluster.inside(kernel, labels), held / matrix.sum())


@given(kernels(), st.data())
def test_all_vectors_of_all_blocks_rebuild_the_kernel_and_the_first_are_the_largest(kernel, data):
    dim = kernel.input.dim
    labels = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=dim, max_size=dim)))
    vectors = array(cluster.block_vectors(kernel, labels, 10_000))
    matrix = array(kernel.dense())
    near(np.linalg.norm(vectors, axis=1), np.ones(len(vectors)), rtol=1e-8)
    rebuilt, sizes = np.zeros_like(matrix), []
    for vector in vectors:
        groups = [labels.numpy() == label for label in sorted({int(labels[i]) for i in np.flatnonzero(vector)})]
        assert len(groups) <= 2  # at most two clusters
        assert all(abs((vector[g] ** 2).sum() - 1 / len(groups)) < 1e-8 for g in groups)
        block = np.zeros_like(matrix)
        if len(groups) == 2:
            block[np.ix_(groups[0], groups[1])] = matrix[np.ix_(groups[0], groups[1])]
            block += block.T
        else:
            block[np.ix_(groups[0], groups[0])] = matrix[np.ix_(groups[0], groups[0])]
        value = vector @ block @ vector
        near(block @ vector, value * vector, abs(matrix).sum(), rtol=1e-7)  # an eigenvector of its block
        rebuilt += value * np.outer(vector, vector)
        sizes.append(abs(value))
    near(rebuilt, matrix, max(abs(matrix).sum(), 1e-12), rtol=1e-7)
    assert all(a >= b - 1e-7 * max(sizes[0], 1e-12) for a, b in itertools.pairwise(sizes))
    few = cluster.block_vectors(kernel, labels, 2)
    torch.testing.assert_close(few, torch.as_tensor(vectors[:2]), rtol=0, atol=0)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=12))
def test_agreement_is_the_rand_index_adjusted_for_chance(pairs):
    first, second = (torch.tensor(labels) for labels in zip(*pairs, strict=True))
    both = ones = twos = 0
    for i, j in itertools.combinations(range(len(pairs)), 2):
        one, two = bool(first[i] == first[j]), bool(second[i] == second[j])
        both, ones, twos = both + (one and two), ones + one, twos + two
    expected = ones * twos / math.comb(len(pairs), 2)
    most = (ones + twos) / 2
    oracle.near(cluster.agreement(first, second), 1.0 if most == expected else (both - expected) / (most - expected))


@pytest.mark.bad_input
def test_what_cannot_be_clustered_is_refused(monkeypatch) -> None:
    kernel, labels = planted((3, 3), 0, 0.1)
    for count in (1, 6):
        with refuses(BilensError, f"count = {count}"):
            cluster.clusters(kernel, count)
    with refuses(BilensError, "a kernel that is 0"):
        cluster.clusters(Kernel.from_matrix(torch.zeros(4, 4), Space("x", 4)), 2)
    with refuses(ShapeError, "labels of shape (3,)", "(6,)"):
        cluster.block_vectors(kernel, labels[:3], 1)
    with refuses(BilensError, "k = 0"):
        cluster.block_vectors(kernel, labels, 0)
    with refuses(ShapeError, "one length"):
        cluster.agreement(labels, labels[:2])
    for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with refuses(BilensError, "pip install scikit-learn"):
        cluster.clusters(kernel, 2)
    with refuses(BilensError, "pip install scikit-learn"):
        cluster.agreement(labels, labels)
