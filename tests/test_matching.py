"""Matching features: the best assignment of all, cosines of kernels against dense ones, and angles between spans."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import oracle
import strategies
from bilens import matching
from bilens.errors import BilensError, ShapeError, SpaceError
from bilens.space import Space
from bilens.tensor import BilinearTensor
from messages import refuses


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@st.composite
def similarities(draw: st.DrawFn) -> Tensor:
    n = draw(st.integers(1, 4))
    return draw(strategies.matrices(n, draw(st.integers(n, 5))))


@given(similarities())
def test_no_assignment_is_better(similarity: Tensor) -> None:
    n, m = similarity.shape
    found = matching.assign(similarity)
    best = max(
        sum(float(similarity[i, j]) for i, j in enumerate(chosen)) for chosen in itertools.permutations(range(m), n)
    )
    partners = found.partner.tolist()
    assert len(set(partners)) == n
    assert found.similarity.tolist() == [float(similarity[i, j]) for i, j in enumerate(partners)]
    oracle.near(found.similarity.sum(), best, scale=similarity.abs().sum())


def test_an_assignment_is_neither_greedy_nor_best_for_each() -> None:
    # The best match of both rows is column 0, and greedily 0.9 + 0.1 < 0.8 + 0.7.
    found = matching.assign(torch.tensor([[0.9, 0.8], [0.7, 0.1]]))
    assert found.partner.tolist() == [1, 0]
    torch.testing.assert_close(found.similarity, torch.tensor([0.8, 0.7]))


@given(st.permutations(range(5)))
def test_a_permuted_set_is_matched_whole(order: list[int]) -> None:
    features = normal(5, 7)
    features = features / features.norm(dim=1, keepdim=True)
    found = matching.assign(features @ features[order].T)
    assert [order[partner] for partner in found.partner.tolist()] == list(range(5))
    oracle.near(found.similarity, np.ones(5))


@pytest.mark.bad_input
@pytest.mark.parametrize("shape", [(3, 2), (0, 2), (3,), (1, 1, 1)])
def test_similarities_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with refuses(ShapeError, "similarities of shape", "smaller set first"):
        matching.assign(torch.zeros(shape))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_similarities_that_are_not_finite_are_refused(value: float) -> None:
    with refuses(BilensError, "NaN or infinity"):
        matching.assign(torch.tensor([[0.0, value]]))


@st.composite
def two_tensors(draw: st.DrawFn) -> list[BilinearTensor]:
    """Two tensors over one input, with outputs and hidden units of their own."""
    space = Space("pixels", draw(st.integers(1, 4)), constant=draw(st.booleans()))
    made = []
    for name in ("ours", "theirs"):
        hidden, outputs = draw(st.integers(1, 4)), draw(st.integers(1, 3))
        left, right = (draw(strategies.matrices(hidden, space.dim)) for _ in range(2))
        made.append(
            BilinearTensor(left, right, draw(strategies.matrices(outputs, hidden)), space, Space(name, outputs))
        )
    return made


@given(two_tensors())
def test_cosines_of_kernels_are_those_of_the_dense_ones(tensors: list[BilinearTensor]) -> None:
    one, two = (oracle.dense(tensor.left, tensor.right, tensor.down) for tensor in tensors)
    sizes = [
        np.sqrt(np.einsum("oij,oij->o", *[oracle.dense(*map(abs, (t.left, t.right, t.down)))] * 2)) for t in tensors
    ]
    inner, norms = np.einsum("oij,pij->op", one, two), [np.sqrt(np.einsum("oij,oij->o", b, b)) for b in (one, two)]
    found = oracle.array(matching.kernel_cosines(*tensors))
    assert found.shape == inner.shape
    for o, p in np.ndindex(*inner.shape):
        # A kernel whose terms cancel has a norm of rounding errors, and no cosine that means anything.
        if all(norm[k] > 1e-4 * size[k] for norm, size, k in zip(norms, sizes, (o, p), strict=True)):
            oracle.near(found[o, p], inner[o, p] / (norms[0][o] * norms[1][p]), rtol=1e-6)
        if 0 in (sizes[0][o], sizes[1][p]):
            assert found[o, p] == 0


def test_a_kernel_has_cosine_one_with_itself_however_it_is_factored() -> None:
    space, out = Space("pixels", 5), Space("out", 2)
    left, right, down = normal(4, 5), normal(4, 5, seed=1), normal(2, 4, seed=2)
    ours = BilinearTensor(left, right, down, space, out)
    swapped = BilinearTensor(-3 * right, left, down, space, Space("other", 2))  # left and right, sign and scale
    oracle.near(matching.kernel_cosines(ours, ours).diagonal(), np.ones(2))
    oracle.near(matching.kernel_cosines(ours, swapped).diagonal(), -np.ones(2))


def test_kernels_over_other_inputs_are_not_compared() -> None:
    tensors = [
        BilinearTensor(normal(2, 3), normal(2, 3), normal(1, 2), Space(name, 3), Space("out", 1)) for name in ("a", "b")
    ]
    with refuses(SpaceError, "'b'"):
        matching.kernel_cosines(*tensors)


@given(strategies.SEEDS, st.integers(1, 4), st.integers(1, 4))
def test_cosines_of_subspaces_are_those_of_scipy(seed: int, n: int, m: int) -> None:
    one, two = normal(n, 5, seed=seed), normal(m, 5, seed=seed + 1)
    expected = np.sort(np.cos(scipy.linalg.subspace_angles(one.numpy().T, two.numpy().T)))[::-1]
    oracle.near(matching.subspace_cosines(one, two), expected, rtol=1e-7)


def test_cosines_of_subspaces_are_known_for_a_known_angle() -> None:
    angle = 0.3
    one = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.float64)
    two = torch.tensor([[1.0, 0, 0, 0], [0, np.cos(angle), np.sin(angle), 0]], dtype=torch.float64)
    oracle.near(matching.subspace_cosines(one, two), [1, np.cos(angle)])
    oracle.near(matching.subspace_cosines(one[:1], one[1:]), [0])


@given(strategies.SEEDS)
def test_cosines_of_subspaces_depend_on_the_spans_alone(seed: int) -> None:
    one, two = normal(3, 6, seed=seed), normal(2, 6, seed=seed + 1)
    before = matching.subspace_cosines(one, two)
    rotation = torch.linalg.qr(normal(6, 6, seed=seed + 2)).Q
    mixed, _ = torch.linalg.qr(normal(3, 3, seed=seed + 3))
    for ours, theirs in (
        (one @ rotation, two @ rotation),
        (mixed @ one, two),  # another basis of the same span, as in a degenerate eigenspace
        (-one.flip(0), 1e-3 * two),
        (torch.cat([one, one[:1] - 2 * one[1:2], 0 * one[:1]]), two),  # more vectors, the same span
    ):
        oracle.near(matching.subspace_cosines(ours, theirs), before, rtol=1e-8)
    oracle.near(matching.subspace_cosines(two, one), before, rtol=1e-8)


def test_the_span_of_nothing_has_no_angle() -> None:
    assert matching.subspace_cosines(torch.zeros(2, 3), torch.eye(3)).shape == (0,)


@pytest.mark.bad_input
@pytest.mark.parametrize("shapes", [((2, 3), (2, 4)), ((3,), (2, 3)), ((2, 3), (1, 2, 3))])
def test_vectors_of_other_spaces_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with refuses(ShapeError, "(n, d) and (m, d)"):
        matching.subspace_cosines(*(torch.ones(shape) for shape in shapes))


def test_random_directions_have_the_second_moment_that_is_asked_for() -> None:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(3, 5, generator=generator, dtype=torch.float64) * torch.tensor([[3.0], [1.0], [0.2]])
    moment = root.T @ root  # of rank 3
    drawn = matching.random_directions(moment, 40_000, seed=1)
    assert drawn.shape == (40_000, 5)
    found = drawn.T @ drawn / len(drawn)
    spread = (moment.diagonal()[:, None] * moment.diagonal() + moment.square()).sqrt() / 200  # of each entry
    assert bool(((found - moment).abs() < 5 * spread).all())
    assert int(torch.linalg.matrix_rank(drawn, rtol=1e-6)) == 3
    torch.testing.assert_close(drawn, matching.random_directions(moment, 40_000, seed=1))
    assert not torch.equal(drawn, matching.random_directions(moment, 40_000, seed=2))
    with pytest.raises(ShapeError, match="second moment of shape"):
        matching.random_directions(torch.ones(2, 3), 4)
    with pytest.raises(BilensError, match="count = 0"):
        matching.random_directions(moment, 0)
