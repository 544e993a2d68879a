"""What the first eigenpairs explain of a feature: numpy's correlations of what numpy's eigenpairs add up to."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import oracle
from bilens import decompose, store
from bilens.decompose import Metric
from bilens.errors import BilensError, ShapeError
from bilens.space import Space
from bilens.statistics import median, share
from bilens.tensor import BilinearTensor
from messages import refuses


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LAYER = BilinearTensor.from_layer(
    drawn(20, 6, seed=1),
    drawn(20, 6, seed=2),
    drawn(5, 20, seed=3),
    left_bias=drawn(20, seed=4),
    right_bias=drawn(20, seed=5),
    input=Space("x", 6),
    output=Space("y", 5),
)
X = drawn(60, 6, seed=6) @ drawn(6, 6, seed=7) + 0.5
DIRECTIONS = drawn(4, 5, seed=8)
TRUE = LAYER(X) @ DIRECTIONS.T + 3 * drawn(60, 4, seed=9)
ACTIVE = drawn(60, 4, seed=10) > 0.3


def correlations(order: str, k: int, mask: np.ndarray | None = None) -> list[float]:
    """By the dense kernels: eigenpairs of Q, or of Σ^½ Q Σ^½ with the symmetric root."""
    dense = oracle.dense(LAYER.left, LAYER.right, LAYER.down)
    x = np.concatenate([X.numpy(), np.ones((60, 1))], axis=1)
    moment = x.T @ x / 60
    levels, axes = np.linalg.eigh(moment)
    root = (axes * np.sqrt(levels)) @ axes.T if order == "weighted" else np.eye(7)
    found = []
    for n, u in enumerate(DIRECTIONS.numpy()):
        kernel = np.einsum("o,oij->ij", u, dense)
        values, vectors = np.linalg.eigh(root @ kernel @ root)
        largest = np.argsort(-np.abs(values))[:k]
        z = x @ np.linalg.inv(root)
        predicted = ((z @ vectors[:, largest]) ** 2) @ values[largest]
        rows = slice(None) if mask is None else mask[:, n]
        found.append(float(np.corrcoef(TRUE.numpy()[rows, n], predicted[rows])[0, 1]))
    return found


@pytest.mark.parametrize("order", ["weighted", "magnitude"])
def test_correlations_are_numpys(order: str) -> None:
    moment = decompose.second_moment(X, LAYER.input) if order == "weighted" else None
    found = decompose.audit(LAYER, DIRECTIONS, X, TRUE, metric=moment, active=ACTIVE, ks=(1, 3, 7), name="four")
    assert (found.order, found.ks, found.tokens, len(found), found.name) == (order, (1, 3, 7), 60, 4, "four")
    assert found.firings.tolist() == ACTIVE.sum(dim=0).tolist()
    for place, k in enumerate(found.ks):
        np.testing.assert_allclose(found.correlations[:, place], correlations(order, k), atol=1e-6)
        np.testing.assert_allclose(found.active[:, place], correlations(order, k, ACTIVE.numpy()), atol=1e-6)
    np.testing.assert_allclose(found.full, correlations(order, 7), atol=1e-6)
    np.testing.assert_allclose(found.full_active, correlations(order, 7, ACTIVE.numpy()), atol=1e-6)


def test_spectra_that_are_at_hand_are_used() -> None:
    moment = decompose.second_moment(X, LAYER.input)
    metric = Metric.from_moment(moment, LAYER.input)
    spectra = decompose.eigh_many(LAYER, DIRECTIONS, 4, metric=metric)
    found = decompose.audit(LAYER, DIRECTIONS, X, TRUE, metric=metric, spectra=spectra)
    assert found.ks == (1, 2, 4)
    other = decompose.audit(LAYER, DIRECTIONS, X, TRUE, metric=moment, ks=(1, 2, 4))
    torch.testing.assert_close(found.correlations, other.correlations)
    with refuses(BilensError, "spectra in another order", "in the same metric"):
        decompose.audit(LAYER, DIRECTIONS, X, TRUE, spectra=spectra)
    with refuses(ShapeError, "spectra of 4 kernels", "2, one for each"):
        decompose.audit(LAYER, DIRECTIONS[:2], X, TRUE[:, :2], metric=metric, spectra=spectra)


def test_features_that_fire_too_seldom_are_not_counted() -> None:
    active = ACTIVE.clone()
    active[:, 1] = False
    active[:9, 1] = True
    found = decompose.audit(LAYER, DIRECTIONS, X, TRUE, active=active, least=10)
    assert torch.isnan(found.active[1]).all()
    assert math.isnan(float(found.full_active[1]))
    assert found.known() == 4
    assert found.known(active=True) == 3
    assert found.median(2, active=True).count == 3
    constant = TRUE.clone()
    constant[:, 0] = 1
    assert torch.isnan(decompose.audit(LAYER, DIRECTIONS, X, constant).correlations[0]).all()


def test_medians_and_shares_are_over_features() -> None:
    found = decompose.audit(LAYER, DIRECTIONS, X, TRUE, ks=(1, 2))
    sizes = found.correlations[:, 1].abs().tolist()
    assert found.median(2) == median(sizes)
    assert found.median(0) == median(found.full.abs().tolist())
    level = sorted(sizes)[1]
    assert found.share(2, above=level) == share(2, 4)


def test_an_audit_is_stored(tmp_path: Path) -> None:
    found = decompose.audit(LAYER, DIRECTIONS, X, TRUE, active=ACTIVE, least=30)
    store.save(found, tmp_path / "audit")
    again = store.load(tmp_path / "audit", decompose.Audit)
    assert (again.ks, again.labels, again.least) == (found.ks, ("0", "1", "2", "3"), 30)
    torch.testing.assert_close(again.active, found.active, equal_nan=True)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "kind", "line"),
    [
        (lambda: decompose.audit(LAYER, DIRECTIONS, X, TRUE[:5]), ShapeError, "values of shape (5, 4)"),
        (lambda: decompose.audit(LAYER, DIRECTIONS, X[:1], TRUE[:1]), ShapeError, "x of shape (1, 6)"),
        (
            lambda: decompose.audit(LAYER, DIRECTIONS, X, TRUE, active=ACTIVE.long()),
            BilensError,
            "active of type torch.int64",
        ),
        (lambda: decompose.audit(LAYER, DIRECTIONS, X, TRUE, ks=(4, 2)), BilensError, "ks = [4, 2]"),
        (lambda: decompose.audit(LAYER, DIRECTIONS, X, TRUE, ks=(1, 8)), BilensError, "k = 8"),
        (lambda: decompose.audit(LAYER, DIRECTIONS, X, TRUE, labels=["a"]), ShapeError, "1 labels"),
        (lambda: decompose.audit(LAYER, DIRECTIONS, X, TRUE).at(3), BilensError, "k = 3"),
        (
            lambda: decompose.audit(LAYER, DIRECTIONS[:1], X, torch.ones(60, 1)).median(1),
            BilensError,
            "no feature of '' with a correlation",
        ),
    ],
)
def test_bad_input_is_refused(call: Callable[[], Any], kind: type[Exception], line: str) -> None:
    with refuses(kind, line):
        call()
