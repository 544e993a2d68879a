"""What the programme's own methods take, how they name what they cannot take, and that no result carries a graph."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
import torch

from bilens.errors import BilensError
from bilens.kernel import Kernel
from bilens.space import Space
from bilens.tensor import BilinearTensor
from messages import refuses
from oracle import array, near
from reproduction.methods import cluster, extrema, patterns, sparse, squares, transcoder
from strategies import filled

X, Y = Space("x", 4), Space("y", 3)
B = BilinearTensor(filled("normal", 6, 4, 0), filled("normal", 6, 4, 1), filled("normal", 3, 6, 2), X, Y)
Q = B.kernel(0)
ROWS = filled("normal", 5, 4, 3)
MATRIX = np.eye(4)
LABELS = torch.tensor([0, 0, 1, 1])
INPUTS = filled("normal", 20, 4, 0).float()
MADE = transcoder.Transcoder(4, 3, 6, 2)


def transcode(**settings: Any) -> transcoder.Transcoder:
    made = transcoder.Transcoder(4, 4, 6, 2)
    transcoder.transcode(made, INPUTS, INPUTS, **({"steps": 2, "batch_size": 5, "progress": False} | settings))
    return made


REFUSED = {
    "tensor of type Kernel": [
        lambda: extrema.sshopm(Q),
        lambda: extrema.sufficient_shift(Q),
        lambda: patterns.masked(Q, X, X, X),
    ],
    "kernel of type BilinearTensor": [
        lambda: extrema.sphere(B),
        lambda: extrema.box(B),
        lambda: cluster.clusters(B, 2),
        lambda: cluster.inside(B, LABELS),
        lambda: cluster.block_vectors(B, LABELS, 1),
        lambda: sparse.sparse_eigh(B, 1, 1),
        lambda: squares.squares(B, ROWS),
        lambda: squares.pursuit(B, ROWS, 1),
        lambda: squares.span_residual(B, ROWS),
    ],
    "directions of type ndarray": [lambda: squares.squares(Q, MATRIX)],
    "labels of type list": [lambda: cluster.inside(Q, [0, 0, 1, 1]), lambda: cluster.agreement([0], [0])],
    "vectors of type ndarray": [lambda: sparse.hoyer(MATRIX), lambda: MADE(MATRIX)],
    "patterns of type ndarray": [
        lambda: patterns.roughness(MATRIX, (2, 2)),
        lambda: patterns.likeness(MATRIX, torch.eye(4)),
    ],
    "pattern of type ndarray": [lambda: patterns.permuted(MATRIX, LABELS, torch.Generator())],
    "transcoder of type int": [lambda: transcoder.transcode(3, INPUTS, INPUTS, steps=1)],
    "inputs of type ndarray": [lambda: transcoder.transcode(MADE, MATRIX, INPUTS, steps=1)],
    "d_in = 'a'": [lambda: transcoder.Transcoder("a", 4, 6, 2)],
    "d_sae = 2.5": [lambda: transcoder.Transcoder(4, 4, 2.5, 2)],
    "k = 1.5": [
        lambda: cluster.block_vectors(Q, LABELS, 1.5),
        lambda: sparse.sparse_eigh(Q, 1.5, 1),
        lambda: squares.pursuit(Q, ROWS, 1.5),
        lambda: transcoder.Transcoder(4, 4, 6, 1.5),
    ],
    "starts = 1.5": [
        lambda: extrema.sphere(Q, 1.5),
        lambda: extrema.box(Q, starts=1.5),
        lambda: extrema.sshopm(B, 1.5),
    ],
    "starts = 0": [lambda: extrema.sphere(Q, 0), lambda: extrema.box(Q, starts=0), lambda: extrema.sshopm(B, 0)],
    "steps = 'a'": [lambda: extrema.sphere(Q, steps="a"), lambda: sparse.sparse_eigh(Q, 1, 1, steps="a")],
    "steps = 1.5": [lambda: transcode(steps=1.5)],
    "lr = 'a'": [lambda: transcode(lr="a")],
    "warmup = 'a'": [lambda: transcode(warmup="a")],
    "decay = 2": [lambda: transcode(decay=2)],
    "batch_size = 2.5": [lambda: transcode(batch_size=2.5)],
    "seed = 'a'": [lambda: transcoder.Transcoder(4, 4, 6, 2, seed="a"), lambda: transcode(seed="a")],
    "count = 2.5": [lambda: cluster.clusters(Q, 2.5)],
    "nonzero = 1.5": [lambda: sparse.sparse_eigh(Q, 1, 1.5)],
    "seed = 1.5": [
        lambda: extrema.sphere(Q, seed=1.5),
        lambda: extrema.box(Q, seed=1.5),
        lambda: extrema.sshopm(B, seed=1.5),
        lambda: cluster.clusters(Q, 2, seed=1.5),
    ],
    "tolerance = 'x'": [lambda: extrema.sphere(Q, tolerance="x")],
    "low = 'a'": [lambda: extrema.box(Q, "a")],
    "high = inf": [lambda: extrema.box(Q, 0, float("inf"))],
    "shift = 'a'": [lambda: extrema.sshopm(B, shift="a")],
}


@pytest.mark.bad_input
@pytest.mark.parametrize(("said", "call"), [(said, call) for said, calls in REFUSED.items() for call in calls])
def test_what_cannot_be_taken_is_named(said: str, call: Any) -> None:
    with refuses(BilensError, said):
        call()


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "call",
    [
        lambda k: extrema.sphere(Q, k, seed=k, steps=k, tolerance=k),
        lambda k: extrema.box(Q, -k, k, k, seed=k, steps=k, tolerance=k),
        lambda k: extrema.sshopm(B, k, shift=k, seed=k, steps=k, tolerance=k),
        lambda k: sparse.sparse_eigh(Q, k, k, steps=k),
        lambda k: squares.pursuit(Q, ROWS, k),
    ],
)
def test_numpys_numbers_mean_what_pythons_do(call: Any) -> None:
    ours, theirs = call(2), call(np.int64(2))
    assert torch.equal(ours.values, theirs.values)
    assert torch.equal(ours.vectors, theirs.vectors)


@pytest.mark.bad_input
@pytest.mark.skipif(importlib.util.find_spec("sklearn") is None, reason="clusters need scikit-learn")
def test_clusters_take_numpys_numbers() -> None:
    assert torch.equal(cluster.clusters(Q, np.int64(2), seed=np.int64(0)), cluster.clusters(Q, 2))


@pytest.mark.bad_input
def test_a_transcoder_takes_numpys_numbers_and_inputs_of_any_floating_type() -> None:
    again = transcode(steps=np.int64(2), batch_size=np.int8(5), seed=np.int64(0), lr=np.float64(2e-3))
    assert torch.equal(transcode().W_dec, again.W_dec)
    near(array(MADE(INPUTS.double())), array(MADE(INPUTS)))
    with refuses(BilensError, "torch.int64", "floating-point numbers"):
        MADE(torch.ones(2, 4, dtype=torch.int64))


def asking(rows: int, columns: int, seed: int) -> torch.Tensor:
    return filled("normal", rows, columns, seed).requires_grad_()


GRAPH = Kernel(asking(6, 4, 3), asking(6, 4, 4), asking(1, 6, 5)[0], X)
LAYER = BilinearTensor(asking(6, 4, 0), asking(6, 4, 1), asking(3, 6, 2), X, Y)


@pytest.mark.parametrize(
    "call",
    [
        lambda: extrema.box(GRAPH, starts=3, steps=40),
        lambda: extrema.sphere(GRAPH, 3, steps=20),
        lambda: extrema.sshopm(LAYER, 3, steps=20),
        lambda: squares.pursuit(GRAPH, asking(5, 4, 6), 2),
        lambda: squares.squares(GRAPH, asking(5, 4, 6)),
        lambda: sparse.sparse_eigh(GRAPH, 2, 2),
    ],
)
def test_no_record_carries_a_graph(call: Any) -> None:
    for value in vars(call()).values():
        if isinstance(value, torch.Tensor):
            assert not value.requires_grad


def test_no_array_carries_a_graph() -> None:
    assert not sparse.hoyer(asking(5, 4, 6)).requires_grad
    assert not cluster.block_vectors(GRAPH, LABELS, 3).requires_grad
    for number in (
        squares.span_residual(GRAPH, asking(2, 4, 6)),
        extrema.sufficient_shift(LAYER),
        cluster.inside(GRAPH, LABELS),
    ):
        assert isinstance(number, float)


@pytest.mark.parametrize("name", ["terms", "reconstruct"])
def test_what_is_evaluated_at_inputs_has_their_gradient(name: str) -> None:
    call = getattr(squares.squares(GRAPH, asking(5, 4, 6)[:2]), name)
    assert torch.autograd.gradcheck(call, filled("normal", 2, 4, 10).requires_grad_())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_answered_in_single(dtype: torch.dtype) -> None:
    factors = (filled("normal", *shape).to(dtype) for shape in ((40, 64, 0), (40, 64, 1), (3, 40, 2)))
    tensor = BilinearTensor(*factors, Space("x", 64), Space("y", 3))
    kernel = tensor.kernel(0)
    for record in (
        squares.squares(kernel, torch.eye(64)[:3]),
        extrema.sphere(kernel, 2, steps=3),
        extrema.box(kernel, starts=2, steps=3),
        extrema.sshopm(tensor, 2, steps=3),
    ):
        for value in vars(record).values():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                assert value.dtype in (torch.float32, torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize(
    "call",
    [
        lambda kernel: extrema.sphere(kernel, 2),
        lambda kernel: extrema.box(kernel, starts=2),
        lambda kernel: squares.squares(kernel, torch.eye(4)),
        lambda kernel: sparse.sparse_eigh(kernel, 1, 2),
        lambda kernel: extrema.sshopm(
            BilinearTensor(kernel.left, kernel.right, kernel.weights[None], kernel.input, Space("y", 1)), 2
        ),
    ],
)
@pytest.mark.parametrize(("scale", "words"), [(1e-30, "not 0 but below"), (1e30, "beyond")])
def test_what_leaves_the_range_of_the_type_is_refused(call: Any, scale: float, words: str) -> None:
    left, right = (filled("normal", 3, 4, seed).float() for seed in (0, 1))
    weights = filled("normal", 1, 3, 2)[0].float()
    with refuses(BilensError, words, "in float32", "numbers that fit"):
        call(Kernel(left * scale, right * scale, weights * scale, X))
