"""Singular values of attention scores, formed and by Lanczos, against the dense matrix between pairs of coordinates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bilens import decompose
from bilens.decompose import scores as module
from bilens.errors import BilensError, ShapeError
from bilens.score import ScoreTensor
from bilens.space import Space
from messages import refuses
from oracle import array, near
from strategies import SEEDS, matrices


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_score(a: int, d: int, e: int, seed: int = 0) -> ScoreTensor:
    parts = [drawn(a, size, seed=seed + n) for n, size in enumerate((d, d, e, e))]
    return ScoreTensor(*parts, Space("x", d), Space("y", e), 0.5)


def dense(score: ScoreTensor) -> np.ndarray:
    """T as an i² × j² matrix, symmetrised on both sides."""
    q1, q2, k1, k2 = (array(part) for part in (score.query1, score.query2, score.key1, score.key2))
    raw = score.scale * np.einsum("ai,bj,ak,bl->ijkl", q1, q2, k1, k2)
    raw = (raw + raw.transpose(1, 0, 2, 3)) / 2
    raw = (raw + raw.transpose(0, 1, 3, 2)) / 2
    return raw.reshape(q1.shape[1] ** 2, -1)


def small(a: int, d: int, e: int) -> st.SearchStrategy[ScoreTensor]:
    parts = st.tuples(matrices(a, d), matrices(a, d), matrices(a, e), matrices(a, e))
    return parts.map(lambda four: ScoreTensor(*four, Space("x", d), Space("y", e), -0.5))


def check(score: ScoreTensor, found: decompose.ScoreSVD, x: torch.Tensor, y: torch.Tensor) -> None:
    """Values, orthonormal forms, exact terms and the certificate, all against the dense matrix."""
    matrix = dense(score)
    sigma = np.linalg.svd(matrix, compute_uv=False)
    parts = (score.query1, score.query2, score.key1, score.key2)
    whole = dense(ScoreTensor(*(part.abs() for part in parts), score.queries, score.keys, abs(score.scale)))
    top = np.linalg.norm(matrix) + 1e-3 * np.linalg.norm(whole) + 1e-300  # where terms cancel, rounding is told by them
    k = len(found)
    assert np.abs(array(found.values) - np.pad(sigma, (0, k))[:k]).max() <= 1e-12 * top
    near(found.energy, (matrix**2).sum(), top**2)
    assert float(found.discarded) >= (sigma[k] if k < len(sigma) else 0) - 1e-14 * top
    queries = np.stack([array(found.query(s).dense()).ravel() for s in range(k)])
    keys = np.stack([array(found.key(s).dense()).ravel() for s in range(k)])
    for forms in (queries, keys):
        assert np.abs(forms @ forms.T - np.eye(k)).max() < 1e-12
    near((queries @ matrix * keys).sum(axis=1), array(found.values), top)
    size = float((x.norm(dim=1) * y.norm(dim=1)).square().max())
    near(found.terms(x, y).sum(dim=1), array(found.reconstruct(x, y)), size * top * k)
    near(found.terms(x, y), array(found.query_values(x) * found.key_values(y) * found.values), size * top)
    for kept in range(k + 1):
        part = found.keep(kept)
        error = np.abs(array(score(x, y)) - array(part.reconstruct(x, y)))
        bound = array(part.bound(x.norm(dim=1), y.norm(dim=1)))
        assert (error <= bound + 1e-13 * top * size).all()  # the score is itself rounded
        if kept == 0:
            assert (bound >= sigma[0] * (1 - 1e-12) * array((x.norm(dim=1) * y.norm(dim=1)).square())).all()


@given(st.data(), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
def test_the_formed_svd_is_that_of_the_dense_matrix(data, a, d, e):
    score = data.draw(small(a, d, e))
    most = min(a * a, d * (d + 1) // 2, e * (e + 1) // 2)
    k = data.draw(st.none() | st.integers(1, most))
    found = decompose.score_svd(score, k)
    assert len(found) == (most if k is None else k)
    seed = data.draw(SEEDS)
    check(score, found, drawn(6, d, seed=seed), drawn(6, e, seed=seed + 1))


@given(SEEDS, st.integers(1, 3))
def test_lanczos_finds_the_same_without_forming_anything(seed, k):
    score = random_score(6, 5, 7, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FORMED", 4)
        patch.setattr(module, "FEW", 2)
        patch.setattr(module._Reduced, "formed", None)
        found = decompose.score_svd(score, k)
    assert len(found) == k
    check(score, found, drawn(6, 5, seed=seed), drawn(6, 7, seed=seed + 1))
    left = np.sqrt(max(0, float(found.energy) - float(found.values.square().sum())))
    near(found.discarded, left, float(found.energy) ** 0.5, rtol=1e-6)


def test_a_head_of_more_pairs_than_are_formed_is_decomposed_as_a_formed_one():
    score = random_score(18, 20, 20, 0)  # 324 pairs of units
    every = decompose.score_svd(score)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module._Reduced, "formed", None)
        few = decompose.score_svd(score, 3)
    near(few.values, array(every.values[:3]), float(every.values[0]), rtol=1e-10)
    x, y = drawn(6, 20, seed=1), drawn(6, 20, seed=2)
    size = float(score.table(x, y).abs().max())
    near(few.reconstruct(x, y), array(every.keep(3).reconstruct(x, y)), size, rtol=1e-8)


def test_a_score_with_fewer_components_than_asked_for_is_formed_after_all():
    score = random_score(6, 5, 7)
    one = ScoreTensor(*(part[:1].repeat(6, 1) for part in parts(score)), score.queries, score.keys)
    nothing = ScoreTensor(*(0 * part for part in parts(score)), score.queries, score.keys)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FORMED", 4)
        patch.setattr(module, "FEW", 2)
        for degenerate in (one, nothing):
            check(degenerate, decompose.score_svd(degenerate, 4), drawn(6, 5), drawn(6, 7))


def parts(score: ScoreTensor) -> tuple[torch.Tensor, ...]:
    return score.query1, score.query2, score.key1, score.key2


def test_known_values():
    x = Space("x", 2)
    eye = torch.eye(2, dtype=torch.float64)
    found = decompose.score_svd(ScoreTensor(torch.diag(torch.tensor([2.0, 1.0]).double()), eye, eye, eye, x, x))
    near(found.values, [2.0, 1.5, 1.0])
    near(found.query(0).dense(), [[1, 0], [0, 0]])
    near(found.key(1).dense(), [[0, 0.5**0.5], [0.5**0.5, 0]])


def test_a_wide_model_costs_what_its_heads_do():
    """Through an orthonormal map into many more coordinates nothing changes."""
    score = random_score(2, 4, 4)
    wide = torch.linalg.qr(drawn(40, 4, seed=7))[0]
    inside = [part @ wide.T for part in parts(score)]
    found = decompose.score_svd(ScoreTensor(*inside, Space("x", 40), Space("y", 40), 0.5))
    near(found.values, array(decompose.score_svd(score).values))
    assert tuple(found.query_basis.shape) == (4, 40)
    x, y = drawn(3, 4, seed=8), drawn(3, 4, seed=9)
    near(found.reconstruct(x @ wide.T, y @ wide.T), array(score(x, y)), 100)


def test_single_precision_and_scales():
    score = random_score(3, 4, 4)
    single = decompose.score_svd(score.to(torch.float32))
    assert single.values.dtype == single.query_forms.dtype == torch.float32
    near(single.values, array(decompose.score_svd(score).values), float(score.norm()), rtol=1e-6)
    x, y = drawn(9, 4, seed=3), drawn(9, 4, seed=4)
    exact = score.to(torch.float32).to(torch.float64)
    for k in range(len(single) + 1):
        part = single.keep(k)
        error = (exact(x, y) - part.reconstruct(x, y).double()).abs()
        assert bool((error <= part.bound(x.norm(dim=1), y.norm(dim=1)).double()).all())
    large = ScoreTensor(*(part * 1e30 for part in parts(score)), score.queries, score.keys, 0.5)
    near(decompose.score_svd(large).values / 1e120, array(decompose.score_svd(score).values))
    with refuses(BilensError, "singular values beyond", "Call .to(torch.float64)"):
        decompose.score_svd(ScoreTensor(*(part.float() * 1e20 for part in parts(score)), *spaces(4)))
    assert "ScoreSVD(values (9,)" in repr(decompose.score_svd(score))


def spaces(size: int) -> tuple[Space, Space]:
    return Space("x", size), Space("y", size)


@pytest.mark.bad_input
def test_what_is_refused():
    score = random_score(2, 3, 3)
    with refuses(BilensError, "score of type str", "a ScoreTensor"):
        decompose.score_svd("score")
    for k in (0, 5):
        with refuses(BilensError, f"k = {k}", "1 ≤ k ≤ 4"):
            decompose.score_svd(score, k)
    found = decompose.score_svd(score)
    with refuses(BilensError, "component = 4"):
        found.query(4)
    with refuses(BilensError, "k = 5"):
        found.keep(5)
    with refuses(ShapeError, "query_forms of shape (4, 3, 2)", "square forms"):
        decompose.ScoreSVD(
            found.values, found.query_forms[:, :, :2], found.key_forms, found.query_basis[:2], found.key_basis,
            found.residual, found.discarded, found.energy, found.queries, found.keys,
        )  # fmt: skip
    with refuses(ShapeError, "3 coordinates of space"):
        found.terms(drawn(2, 4), drawn(2, 3))
