"""The streams: every pair once, shuffled or row by row, and pairs drawn by weight."""

from __future__ import annotations

import functools
import re
from typing import Any, get_args
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import oracle
from bilens import pairs, sae
from bilens.dictionary import Dictionary
from bilens.errors import BilensError, ShapeError
from bilens.pairs import PairResponses, PairStream, SampledStream
from bilens.space import Space
from bilens.tensor import BilinearTensor
from few_pairs import NAMES, answers, every_pair, of_kind, random_tensor
from largest import Largest
from messages import refuses
from oracle import array, near
from strategies import dictionaries, layers

STREAMS = {kind: functools.partial(pairs.stream, kind=kind) for kind in get_args(pairs.Kind)}
DIRECT = {"polarized": pairs.polarized, "two_hot": pairs.two_hot, "symmetric": pairs.symmetric}


# The stream


@pytest.mark.parametrize("batch_size", [1, 3, 7, 28, 29, 1000])
@pytest.mark.parametrize("with_dictionary", [False, True])
def test_every_pair_once_an_epoch(batch_size, with_dictionary):
    tensor = random_tensor(6, constant=not with_dictionary)
    generator = torch.Generator().manual_seed(1)
    atoms = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    dictionary = Dictionary.from_atoms(atoms, tensor.input, offset=atoms[0]) if with_dictionary else None
    stream = pairs.stream(tensor, dictionary, batch_size=batch_size, seed=3)
    assert stream.rows == 28  # seven features, the constant one included
    assert len(stream) == -(-28 // batch_size)
    orders = []
    for epoch in range(3):
        seen = []
        for n in range(epoch * len(stream), (epoch + 1) * len(stream)):
            i, j = stream.pairs(n)
            assert len(i) == min(batch_size, 28 - batch_size * (n % len(stream)))
            seen += zip(i.tolist(), j.tolist(), strict=True)
        assert sorted(seen) == every_pair(7)
        orders.append(seen)
    assert orders[0] != orders[1] != orders[2] != orders[0]


@given(layers(max_d=4), st.data())
def test_a_batch_holds_the_vectors_of_its_pairs(layer, data):
    tensor = layer.tensor()
    dictionary = data.draw(dictionaries(layer.input, max_atoms=4) | st.none())
    r, natural = answers(layer, dictionary)
    size, shuffle = data.draw(st.integers(1, 9)), data.draw(st.booleans())
    block, span = data.draw(st.sampled_from((1, 100, 2**20))), data.draw(st.integers(1, 30))
    with mock.patch("bilens.pairs.vectors._CACHED", block), mock.patch("bilens.pairs.streams._SPAN", span):
        for kind, make in STREAMS.items():
            stream = make(tensor, dictionary, batch_size=size, seed=2, shuffle=shuffle)
            assert stream.width == tensor.output.dim
            n = data.draw(st.integers(0, 2 * len(stream)))
            i, j = stream.pairs(n)
            near(stream.batch(n), of_kind(kind, r)[i.numpy(), j.numpy()], 4 * natural)
            near(stream.batch(n), DIRECT[kind](tensor, i, j, dictionary), 4 * natural)
            rows = torch.full((size, stream.width), float("nan"), dtype=torch.float64)
            written = stream.batch(n, out=rows)
            assert written.data_ptr() == rows.data_ptr()
            torch.testing.assert_close(written, stream.batch(n), rtol=0, atol=0)


@given(layers(max_d=4), st.data())
def test_symmetric_rows_have_the_singular_values_and_the_energy_of_the_tensor(layer, data):
    tensor = layer.tensor()
    stream = pairs.stream(
        tensor, kind="symmetric", batch_size=data.draw(st.integers(1, 9)), seed=1, shuffle=data.draw(st.booleans())
    )
    rows = array(torch.cat([stream.batch(n) for n in range(len(stream))]))
    dense = oracle.tensor(layer, constant=tensor.input.constant)
    matrix = dense.reshape(len(dense), -1)
    scale = np.linalg.norm(oracle.dense(*(getattr(tensor, name).abs() for name in NAMES)))
    found, expected = (np.linalg.svd(a, compute_uv=False) for a in (rows, matrix.T))
    longest = max(len(found), len(expected))  # the i² × o matrix may have more values, zeros
    near(*(np.pad(values, (0, longest - len(values))) for values in (found, expected)), scale)
    near((rows**2).sum(), (dense**2).sum(), scale**2)


def test_a_stream_row_by_row_is_in_the_order_of_unrank_every_epoch():
    tensor = random_tensor(9)
    stream = pairs.stream(tensor, batch_size=7, seed=4, shuffle=False)
    for epoch in range(2):
        seen = [torch.stack(stream.pairs(n)) for n in range(epoch * len(stream), (epoch + 1) * len(stream))]
        assert [tuple(pair) for pair in torch.cat(seen, dim=1).T.tolist()] == every_pair(9)


@pytest.mark.parametrize("span", [1, 8, 17, 45, 2**16])
def test_the_order_does_not_depend_on_how_many_batches_are_worked_out_together(span, monkeypatch):
    tensor = random_tensor(9)
    whole = [torch.stack(pairs.stream(tensor, batch_size=8, seed=3).pairs(n)).tolist() for n in range(12)]
    monkeypatch.setattr("bilens.pairs.streams._SPAN", span)
    stream = pairs.stream(tensor, batch_size=8, seed=3)
    for n in (*range(12), 11, 5, 0, 7):
        assert torch.stack(stream.pairs(n)).tolist() == whole[n]


def test_the_same_seed_is_the_same_order_and_another_seed_another():
    tensor = random_tensor(9)
    first, again, other = (pairs.stream(tensor, batch_size=8, seed=seed) for seed in (5, 5, 6))
    for n in (0, 3, len(first), 10 * len(first) + 1):
        torch.testing.assert_close(first.batch(n), again.batch(n), rtol=0, atol=0)
        assert first.pairs(n)[0].tolist() != other.pairs(n)[0].tolist()
    torch.testing.assert_close(first.pairs(0), pairs.stream(tensor, kind="two_hot", batch_size=8, seed=5).pairs(0))


def test_any_batch_can_be_asked_for_in_any_order():
    stream = pairs.stream(random_tensor(9), batch_size=4, seed=1)
    inorder = [stream.batch(n) for n in range(2 * len(stream))]
    for n in reversed(range(2 * len(stream))):
        torch.testing.assert_close(stream.batch(n), inorder[n], rtol=0, atol=0)


def test_the_order_does_not_depend_on_the_batch_size():
    tensor = random_tensor(9)
    orders = []
    for size in (1, 4, 45):
        stream = pairs.stream(tensor, batch_size=size, seed=1)
        batches = [torch.stack(stream.pairs(n)) for n in range(len(stream))]
        orders.append(torch.cat(batches, dim=1).tolist())
    assert orders[0] == orders[1] == orders[2]


@pytest.mark.parametrize("make", STREAMS.values())
@pytest.mark.parametrize("shuffle", [True, False])
def test_streaming_holds_one_batch_whatever_the_number_of_pairs(make, shuffle, monkeypatch):
    monkeypatch.setattr("bilens.pairs.streams._SPAN", 256)
    stream = make(random_tensor(2000, o=5, h=7), batch_size=64, seed=0, shuffle=shuffle)
    assert stream.rows == 2_001_000
    stream.batch(0)  # half of R is made once
    with Largest() as largest:
        for n in (0, 1, len(stream) // 2, len(stream) - 1, 5 * len(stream)):
            stream.batch(n)
    assert largest.numel == 64 * 7


def test_the_hidden_rows_of_a_batch_are_not_all_held(monkeypatch):
    monkeypatch.setattr("bilens.pairs.vectors._CACHED", 10 * 50 * 8)
    stream = pairs.stream(random_tensor(100, o=2, h=50), batch_size=400, seed=0)
    stream.batch(0)
    with Largest() as largest:
        stream.batch(1)
    assert largest.numel == 400 * 2  # ten hidden rows of 50 at a time


@pytest.mark.parametrize("make", STREAMS.values())
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("read_out", [True, False])
def test_a_stream_stays_in_its_precision(make, shuffle, read_out):
    tensor = random_tensor(40, o=5, h=5)
    if not read_out:
        tensor = BilinearTensor.from_layer(tensor.left, tensor.right, input=Space("x", 40), output=Space("y", 5))
    exact = make(tensor, batch_size=300, shuffle=shuffle).batch(1)
    stream = make(tensor.to(torch.float32), batch_size=300, shuffle=shuffle)
    assert stream.batch(1).dtype == torch.float32
    near(stream.batch(1), exact, 40, rtol=1e-6)


# Pairs by weight


def weighted(tensor: BilinearTensor, *, seed: int = 0, **settings: Any) -> tuple[np.ndarray, SampledStream]:
    """A stream by random weights, every third of them 0, and the chances they stand for."""
    generator = torch.Generator().manual_seed(seed + 1)
    weights = torch.rand(pairs.count(tensor.input.dim), generator=generator, dtype=torch.float64)
    weights[::3] = 0
    return array(weights / weights.sum()), pairs.sampled(tensor, weights, seed=seed, **settings)


@pytest.mark.parametrize("kind", ["polarized", "two_hot", "symmetric"])
def test_pairs_are_drawn_by_their_chances_and_importance_undoes_them(kind):
    tensor = random_tensor(7, constant=True)
    chances, stream = weighted(tensor, kind=kind, batch_size=50_000)
    i, j = stream.pairs(3)
    place = {pair: t for t, pair in enumerate(every_pair(8))}
    drawn = np.array([place[pair] for pair in zip(i.tolist(), j.tolist(), strict=True)])
    counts = np.bincount(drawn, minlength=36)
    assert (counts[chances == 0] == 0).all()
    assert (abs(counts - 50_000 * chances) <= 5 * np.sqrt(50_000 * chances * (1 - chances))).all()
    near(stream.importance(3), 1 / (36 * chances[drawn]))
    near(stream.batch(3), array(DIRECT[kind](tensor, i, j)))
    rows = torch.empty(50_000, 3, dtype=torch.float64)
    for drawn_vectors, importance in (stream.weighted(3), stream.weighted(3, out=rows)):
        torch.testing.assert_close(drawn_vectors, stream.batch(3), rtol=0, atol=0)
        torch.testing.assert_close(importance, stream.importance(3), rtol=0, atol=0)
    assert drawn_vectors.data_ptr() == rows.data_ptr()


def test_the_mean_by_importance_is_that_over_all_pairs():
    tensor = random_tensor(7)
    i, j = pairs.unrank(torch.arange(pairs.count(7)), 7)
    every = array(pairs.polarized(tensor, i, j))
    weights = pairs.norms(tensor) ** 3
    chances = array(weights / weights.sum())[:, None]
    stream = pairs.sampled(tensor, weights, batch_size=20_000, seed=2)
    drawn = array(stream.batch(0))
    mean = (array(stream.importance(0))[:, None] * drawn).mean(axis=0)
    deviation = np.sqrt(((every / len(every)) ** 2 / chances).sum(axis=0) / 20_000)
    assert (abs(mean - every.mean(axis=0)) < 5 * deviation).all()
    assert np.abs(drawn.mean(axis=0) - every.mean(axis=0)).max() > 0.1


@pytest.mark.parametrize("by", ["norm", "moment", "some left out"])
def test_energy_by_importance_is_that_of_the_tensor(by):
    """Symmetric rows drawn by weight: N times the weighted mean of ‖s‖² is unbiased for ‖B‖², batch by batch."""
    tensor = random_tensor(7, constant=True)
    dense = oracle.dense(tensor.left, tensor.right, tensor.down)
    energy = array(torch.cat([pairs.stream(tensor, kind="symmetric", batch_size=36, shuffle=False).batch(0)])) ** 2
    energy = energy.sum(axis=1)
    if by == "moment":
        weights = pairs.second_moments(torch.rand(50, 8, generator=torch.Generator().manual_seed(1)))
    else:
        weights = pairs.norms(tensor, kind="symmetric") ** 0.5
        weights[::5] = 0 if by == "some left out" else weights[::5]
    chances = array(weights.double() / weights.double().sum())
    kept = chances > 0
    exact = (dense**2).sum() if kept.all() else energy[kept].sum()
    deviation = np.sqrt((energy[kept] ** 2 / chances[kept]).sum() - energy[kept].sum() ** 2)
    stream = pairs.sampled(tensor, weights, kind="symmetric", batch_size=500, seed=9)
    means = []
    for n in range(60):
        vectors, importance = stream.weighted(n)
        means.append(36 * float((importance * vectors.square().sum(dim=1)).mean()))
    assert abs(np.mean(means) - exact) < 4 * deviation / np.sqrt(60 * 500)
    # and each batch is one draw of its own: their spread is that of 500 draws
    assert 0.6 < np.std(means) / (deviation / np.sqrt(500)) < 1.4


def test_a_number_drawn_on_an_end_falls_to_a_pair_that_has_a_chance():
    """Pairs of weights 0, 1, 0, 2, 1, 0: 0 falls to the second, ¼ to the fourth, ¾ to the fifth."""
    tensor = random_tensor(3)
    stream = pairs.sampled(tensor, torch.tensor([0.0, 1, 0, 2, 1, 0]), batch_size=4)
    drawn = torch.tensor([0, 0.25, 0.75, 1 - 2**-53], dtype=torch.float64)
    with mock.patch("torch.rand", return_value=drawn):
        i, j = stream.pairs(0)
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == [every_pair(3)[t] for t in (1, 3, 4, 4)]


def test_weights_of_any_size_are_chances():
    tensor = random_tensor(7)
    weights = torch.rand(28, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1
    plain = pairs.sampled(tensor, weights, batch_size=64)
    for factor in (2.0**-900, 2.0**1020):
        stream = pairs.sampled(tensor, weights * factor, batch_size=64)
        assert stream.pairs(0)[0].tolist() == plain.pairs(0)[0].tolist()
        near(stream.importance(0), plain.importance(0))


def test_a_batch_by_weight_depends_on_seed_and_number_alone():
    tensor = random_tensor(9)
    streams = [weighted(tensor, batch_size=16, seed=seed)[1] for seed in (5, 5, 6)]
    first, again, other = streams
    assert (first.rows, len(first), first.width) == (45, 3, 3)
    for n in (7, 0, 3):
        torch.testing.assert_close(first.batch(n), again.batch(n), rtol=0, atol=0)
        assert first.pairs(n)[0].tolist() != other.pairs(n)[0].tolist()
    assert first.pairs(0)[0].tolist() != first.pairs(1)[0].tolist()


def test_a_single_pair_with_a_weight_is_the_only_one_drawn():
    for place in (0, 10, 20):
        weights = torch.zeros(21)
        weights[place] = 1e-30
        i, j = pairs.sampled(random_tensor(), weights, batch_size=500).pairs(0)
        assert {*zip(i.tolist(), j.tolist(), strict=True)} == {every_pair(6)[place]}


@pytest.mark.parametrize(
    ("weights", "settings", "said"),
    [
        (torch.ones(20), {}, "weights of shape (20,)"),
        (torch.full((21,), -1.0), {}, "negative, not finite or all 0"),
        (torch.full((21,), float("nan")), {}, "negative, not finite or all 0"),
        (torch.zeros(21), {}, "negative, not finite or all 0"),
        (torch.ones(21), {"batch_size": 0}, "batch_size = 0"),
        (torch.ones(21), {"kind": "squared"}, "kind = 'squared'"),
    ],
)
@pytest.mark.bad_input
def test_refuses_weights_that_are_no_chances(weights, settings, said):
    with pytest.raises((BilensError, ShapeError), match=re.escape(said)):
        pairs.sampled(random_tensor(), weights, **settings)


def test_refuses_a_batch_size_below_one():
    for make in STREAMS.values():
        with refuses(BilensError, "batch_size = 0", "at least 1"):
            make(random_tensor(), batch_size=0)
    with refuses(BilensError, "batch_size = -1", "at least 1"):
        PairStream(PairResponses.of(random_tensor()), "polarized", -1, 0)


@pytest.mark.parametrize("make", [pairs.stream, STREAMS["two_hot"], "in order", "sampled"])
def test_parts_of_a_batch_are_its_rows(make):
    tensor = random_tensor()
    if make == "sampled":
        made = pairs.sampled(tensor, pairs.norms(tensor), batch_size=8)
    elif make == "in order":
        made = pairs.stream(tensor, batch_size=8, shuffle=False)
    else:
        made = make(tensor, batch_size=8)
    assert isinstance(made, sae.Divisible)
    for n in range(len(made) + 1):  # the last batch of an epoch is smaller
        whole = made.batch(n)
        assert made.size(n) == len(whole)
        for start, stop in ((0, 3), (3, 8), (2, 2)):
            near(made.part(n, start, stop), whole[start:stop], float(whole.abs().max()))


@pytest.mark.bad_input
def test_refuses_what_is_no_tensor():
    tensor = random_tensor()
    with refuses(BilensError, "weights of type ndarray", "a torch.Tensor"):
        pairs.sampled(tensor, np.ones(pairs.count(tensor.input.dim)))
    with refuses(BilensError, "out of type list", "a torch.Tensor"):
        pairs.stream(tensor).batch(0, out=[1])


@pytest.mark.bad_input
def test_refuses_what_is_no_kind_of_pair_vector():
    with refuses(BilensError, "kind = 'hot'", "'polarized' or 'two_hot' or 'symmetric'"):
        PairStream(PairResponses.of(random_tensor()), "hot", 1, 0)
    with refuses(ShapeError, "chances of shape (3,)", "(21,)"):
        SampledStream(PairResponses.of(random_tensor()), "polarized", 1, 0, torch.ones(3))


def test_the_first_pair_weighs_like_the_others():
    """Nothing comes before pair 0, whose chance is its own end: its importance is 1/(N p), and above 0."""
    tensor = random_tensor(3)
    weights = torch.tensor([4.0, 1.0, 1.0, 1.0, 1.0, 2.0], dtype=torch.float64)
    stream = pairs.sampled(tensor, weights, batch_size=2000, seed=1)
    i, j = stream.pairs(0)
    importance = array(stream.importance(0))
    for place, pair in enumerate(every_pair(3)):
        drawn = ((i == pair[0]) & (j == pair[1])).numpy()
        assert drawn.any()
        near(importance[drawn], np.full(drawn.sum(), 10 / (6 * float(weights[place]))))
