"""Attention scores and heads as forms: against dense tensors that are symmetrised over every order of their legs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bilens.errors import BilensError, ShapeError, SpaceError
from bilens.score import HeadTensor, ScoreTensor, rotate
from bilens.space import Space
from messages import refuses
from oracle import array, near
from strategies import SEEDS, matrices, samples


def dense_score(score: ScoreTensor) -> np.ndarray:
    """c Σ_ab Q1_a Q2_b K1_a K2_b, symmetrised over both orders on either side: (i, i, j, j)."""
    q1, q2, k1, k2 = (array(part) for part in (score.query1, score.query2, score.key1, score.key2))
    raw = score.scale * np.einsum("ai,bj,ak,bl->ijkl", q1, q2, k1, k2)
    return sum(raw.transpose(*q, *k) for q in ((0, 1), (1, 0)) for k in ((2, 3), (3, 2))) / 4


def dense_head(head: HeadTensor) -> np.ndarray:
    """The same with the value as a third key leg, over 2! · 3! orders: (o, i, i, j, j, j)."""
    score = head.score
    q1, q2, k1, k2 = (array(part) for part in (score.query1, score.query2, score.key1, score.key2))
    raw = score.scale * np.einsum("ai,bj,ak,bl,om->oijklm", q1, q2, k1, k2, array(head.value))
    orders = list(itertools.product(itertools.permutations((1, 2)), itertools.permutations((3, 4, 5))))
    return sum(raw.transpose(0, *q, *k) for q, k in orders) / len(orders)


@st.composite
def scores(draw: st.DrawFn, i: int, j: int) -> ScoreTensor:
    a, b = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    parts = [draw(matrices(rows, size)) for rows, size in ((a, i), (b, i), (a, j), (b, j))]
    return ScoreTensor(*parts, Space("x", i), Space("y", j), draw(st.sampled_from((1.0, -0.25, 3.0, 0.0))))


@st.composite
def heads(draw: st.DrawFn, i: int, j: int, o: int) -> HeadTensor:
    return HeadTensor(draw(scores(i, j)), draw(matrices(o, j)), Space("z", o))


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_score(a: int = 3, d: int = 5, e: int = 4, seed: int = 0) -> ScoreTensor:
    parts = [drawn(a, size, seed=seed + n) for n, size in enumerate((d, d, e, e))]
    return ScoreTensor(*parts, Space("x", d), Space("y", e), 0.5)


def complex_turned(x: np.ndarray, position: int, base: float) -> np.ndarray:
    """Rotary position by complex numbers, x_k + i x_{k+a/2}."""
    half = x.shape[-1] // 2
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * position * base ** (-np.arange(half) / half))
    return np.concatenate([turned.real, turned.imag], axis=-1)


@given(st.data(), st.integers(1, 3), st.integers(1, 3))
def test_a_score_is_the_product_of_two_layers(data, i, j):
    score = data.draw(scores(i, j))
    x, y = data.draw(samples(i)), data.draw(samples(j))
    q1, q2, k1, k2 = (array(part) for part in (score.query1, score.query2, score.key1, score.key2))
    one, two = (array(x) @ q.T @ (array(y) @ k.T).T for q, k in ((q1, k1), (q2, k2)))
    sizes = np.abs(array(x)) @ np.abs(q1).T @ np.abs(k1) @ np.abs(array(y)).T
    sizes = sizes * (np.abs(array(x)) @ np.abs(q2).T @ np.abs(k2) @ np.abs(array(y)).T)
    table = score.table(x, y)
    near(table, score.scale * one * two, sizes.max() + 1e-300)
    near(score.query_layer()(x) @ score.key_layer()(y).T, array(table), sizes.max() + 1e-300)
    rows = min(len(x), len(y))
    near(score(x[:rows], y[:rows]), array(table)[range(rows), range(rows)], sizes.max() + 1e-300)


@given(st.data(), st.integers(1, 3), st.integers(1, 3))
def test_inner_products_of_scores_are_those_of_their_symmetrised_tensors(data, i, j):
    a, b = data.draw(scores(i, j)), data.draw(scores(i, j))
    first, second = dense_score(a), dense_score(b)
    scale = natural(a) * natural(b)
    near(a.inner(b), (first * second).sum(), scale)
    near(a.norm() ** 2, (first**2).sum(), natural(a) ** 2)
    both = np.linalg.norm(first) * np.linalg.norm(second)
    if both > 1e-6 * scale:
        near(a.cosine(b), (first * second).sum() / both, scale / both)


@given(st.data(), st.integers(1, 3), st.integers(1, 3), st.integers(1, 2))
def test_inner_products_of_heads_are_those_over_twelve_orders_of_legs(data, i, j, o):
    a, b = data.draw(heads(i, j, o)), data.draw(heads(i, j, o))
    first, second = dense_head(a), dense_head(b)
    sizes = [natural(head.score) * float(head.value.norm()) for head in (a, b)]
    near(a.inner(b), (first * second).sum(), sizes[0] * sizes[1])
    near(a.norm() ** 2, (first**2).sum(), sizes[0] ** 2)
    both = np.linalg.norm(first) * np.linalg.norm(second)
    if both > 1e-6 * sizes[0] * sizes[1]:
        near(a.cosine(b), (first * second).sum() / both, sizes[0] * sizes[1] / both)


def test_inner_products_of_heads_are_exact_to_thirteen_digits():
    a, b = (HeadTensor(random_score(seed=seed), drawn(2, 4, seed=seed), Space("z", 2)) for seed in (1, 20))
    first, second = dense_head(a), dense_head(b)
    scale = np.linalg.norm(first) * np.linalg.norm(second)
    near(a.inner(b), (first * second).sum(), scale, rtol=1e-13)
    near(a.norm(), np.linalg.norm(first), np.linalg.norm(first), rtol=1e-13)
    near(a.score.inner(b.score), (dense_score(a.score) * dense_score(b.score)).sum(), scale, rtol=1e-13)


def natural(score: ScoreTensor) -> float:
    parts = (score.query1, score.query2, score.key1, score.key2)
    return abs(score.scale) * float(np.prod([float(part.norm()) for part in parts])) + 1e-300


@given(st.data())
def test_a_head_is_its_score_times_a_linear_map(data):
    head = data.draw(heads(3, 2, 2))
    x, y = data.draw(samples(3, 4)), data.draw(samples(2, 4))
    tensor = dense_head(head)
    expected = np.einsum("oijklm,ni,nj,nk,nl,nm->no", tensor, array(x), array(x), array(y), array(y), array(y))
    scale = natural(head.score) * float(head.value.norm() * (1 + x.norm()) ** 2 * (1 + y.norm()) ** 3)
    near(head(x, y), expected, scale)


def test_the_order_of_the_factors_does_not_matter():
    score = random_score()
    q1, q2, k1, k2 = score.query1, score.query2, score.key1, score.key2
    swapped = ScoreTensor(q2, q1, k2, k1, score.queries, score.keys, score.scale)
    near(score.cosine(swapped), 1.0)
    scaled = ScoreTensor(3 * q1, q2 / 2, k1, k2, score.queries, score.keys, score.scale * 2 / 3)
    near((score.inner(scaled) / score.inner(score)), 1.0)
    mixed = drawn(3, 3, seed=9) + 3 * torch.eye(3, dtype=torch.float64)
    other = ScoreTensor(mixed @ q1, q2, torch.linalg.inv(mixed).T @ k1, k2, score.queries, score.keys, score.scale)
    near(score.cosine(other), 1.0)


@given(SEEDS, st.integers(-40, 40), st.sampled_from((100.0, 10_000.0)))
def test_rotary_position_is_that_of_complex_numbers(seed, position, base):
    x = drawn(3, 6, seed=seed)
    near(rotate(x, position, base), complex_turned(array(x), position, base))
    near(rotate(x, torch.tensor([position, 0, 2]), base)[1], array(x)[1])


@given(SEEDS, st.integers(0, 60), st.integers(0, 60))
def test_an_offset_is_folded_exactly(seed, query, key):
    parts = [drawn(4, size, seed=seed + n) for n, size in enumerate((5, 5, 5, 5))]
    score = ScoreTensor.from_heads(*parts, query - key, queries=Space("x", 5))
    x, y = drawn(7, 5, seed=seed + 5), drawn(7, 5, seed=seed + 6)
    one, two = (
        (complex_turned(array(x @ q.T), query, 1e4) * complex_turned(array(y @ k.T), key, 1e4)).sum(axis=1)
        for q, k in ((parts[0], parts[2]), (parts[1], parts[3]))
    )
    worst = float((x.norm(dim=1) * y.norm(dim=1)).square().max()) * natural(score)
    assert np.abs(array(score(x, y)) - one * two / 16).max() <= 1e-12 * worst


def test_without_an_offset_nothing_turns_and_the_scale_is_that_of_the_heads():
    parts = [drawn(3, 5, seed=n) for n in range(4)]
    score = ScoreTensor.from_heads(*parts, queries=Space("x", 5))
    assert score.scale == 1 / 9
    near(score.query1, array(parts[0]), 0)
    assert ScoreTensor.from_heads(*parts, queries=Space("x", 5), scale=1 / 3).scale == 1 / 3
    assert score.keys == score.queries


def test_biases_are_a_constant_coordinate():
    x, y = Space("x", 2, constant=True), Space("y", 2, constant=True)
    parts = [drawn(3, 3, seed=n) for n in range(4)]
    score = ScoreTensor.from_heads(*parts, queries=x, keys=y)
    u, v = drawn(5, 2, seed=8), drawn(5, 2, seed=9)
    lifted = [np.concatenate([array(part), np.ones((5, 1))], axis=1) for part in (u, v)]
    one, two = (
        ((lifted[0] @ array(q).T) * (lifted[1] @ array(k).T)).sum(axis=1)
        for q, k in ((parts[0], parts[2]), (parts[1], parts[3]))
    )
    near(score(u, v), one * two / 9)


def test_vectors_that_come_through_an_embedding():
    score, embedding = random_score(), drawn(5, 6, seed=3)
    tokens = score.with_query(embedding, Space("tokens", 6)).with_key(embedding[:4], Space("tokens", 6))
    eye = torch.eye(6, dtype=torch.float64)
    near(tokens.table(eye, eye), array(score.table(embedding.T, embedding[:4].T)))


def test_scales_that_leave_every_type():
    score = random_score()
    parts = (score.query1, score.query2, score.key1, score.key2)
    large = ScoreTensor(*(part * 1e60 for part in parts), score.queries, score.keys, 1e-30)
    near(large.cosine(score), 1.0)
    near(large.norm() / 1e210 / (score.norm() * 2), 1.0)
    with refuses(BilensError, "an inner product of about 1e+4", "Scale the weights"):
        large.inner(large)
    head = HeadTensor(large, drawn(2, 4) * 1e-100, Space("z", 2))
    near(head.norm() / 1e110 / (HeadTensor(score, drawn(2, 4), Space("z", 2)).norm() * 2), 1.0)
    with refuses(BilensError, "a norm of", "Call .to(torch.float64)"):
        ScoreTensor(*(part.float() * 1e10 for part in parts), score.queries, score.keys).norm()


def test_types_names_and_zeros():
    score = random_score()
    assert repr(score) == "ScoreTensor('x' (5) × 'y' (4), d_head 3, float64)"
    head = HeadTensor(score, drawn(2, 4), Space("z", 2))
    assert repr(head) == "HeadTensor('x' (5) × 'y' (4) → 'z' (2), d_head 3, float64)"
    assert score.to(torch.float32).query1.dtype == torch.float32
    assert random_score().query1.data_ptr() != score.query1.data_ptr()
    trained = drawn(3, 5).requires_grad_()
    assert (
        not ScoreTensor(trained, drawn(3, 5), drawn(3, 4), drawn(3, 4), score.queries, score.keys).norm().requires_grad
    )
    nothing = ScoreTensor(*(0 * part for part in (score.query1, score.query2, score.key1, score.key2)), *spaces())
    assert float(nothing.norm()) == float(nothing.cosine(score)) == float(score.cosine(nothing)) == 0
    half = ScoreTensor(*(part.half() for part in (score.query1, score.query2, score.key1, score.key2)), *spaces())
    assert half.query1.dtype == torch.float32


def spaces() -> tuple[Space, Space]:
    return Space("x", 5), Space("y", 4)


@pytest.mark.bad_input
def test_what_does_not_fit_is_refused():
    score = random_score()
    q1, q2, k1, k2 = score.query1, score.query2, score.key1, score.key2
    with refuses(ShapeError, "key1 of shape (2, 4)", "(3, 4)"):
        ScoreTensor(q1, q2, k1[:2], k2, *spaces())
    with refuses(ShapeError, "query2 of shape (3, 4)", "(b, 5)"):
        ScoreTensor(q1, q2[:, :4], k1, k2, *spaces())
    with refuses(BilensError, "key2 with NaN or infinity"):
        ScoreTensor(q1, q2, k1, k2 / 0, *spaces())
    with refuses(BilensError, "query2 as torch.float32"):
        ScoreTensor(q1, q2.float(), k1, k2, *spaces())
    with refuses(BilensError, "scale"):
        ScoreTensor(q1, q2, k1, k2, *spaces(), scale=float("nan"))
    with refuses(BilensError, "queries of type str"):
        ScoreTensor(q1, q2, k1, k2, "x", Space("y", 4))
    with refuses(ShapeError, "an even number of coordinates"):
        ScoreTensor.from_heads(q1, q2, k1, k2, 3, queries=spaces()[0], keys=spaces()[1])
    with refuses(BilensError, "offset = 0.5"):
        ScoreTensor.from_heads(q1, q2, k1, k2, 0.5, queries=spaces()[0], keys=spaces()[1])
    with refuses(BilensError, "positions of type torch.float64", "whole numbers"):
        rotate(drawn(2, 4), drawn(2))
    with refuses(BilensError, "a layer of 9 outputs", "Call decompose.score_svd"):
        score.query_layer(limit=100)
    with refuses(SpaceError, "a score of keys"):
        score.inner(ScoreTensor(q1, q2, k1, k2, Space("x", 5), Space("other", 4)))
    with refuses(BilensError, "the other one of type"):
        score.inner(HeadTensor(score, drawn(2, 4), Space("z", 2)))
    with refuses(ShapeError, "value of shape (2, 5)", "(2, 4)"):
        HeadTensor(score, drawn(2, 5), Space("z", 2))
    with refuses(ShapeError, "5 coordinates of space"):
        score(drawn(2, 4), drawn(2, 4))
    with refuses(ShapeError, "x and y with"):
        score(drawn(2, 5), drawn(3, 4))
