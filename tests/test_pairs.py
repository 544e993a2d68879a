"""Pair vectors, the stream of all pairs, and codes over pairs."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import oracle
from bilens import pairs
from bilens.dictionary import Dictionary
from bilens.errors import BilensError, ShapeError, SpaceError
from bilens.pairs import Features, PairCodes, PairStream, SampledStream
from bilens.space import Space
from bilens.tensor import BilinearTensor
from largest import Largest
from messages import refuses
from oracle import array, near
from strategies import SEEDS, dictionaries, layers, samples


def random_tensor(d: int = 6, o: int = 3, h: int = 4, *, constant: bool = False, seed: int = 0) -> BilinearTensor:
    generator = torch.Generator().manual_seed(seed)
    space = Space("x", d, constant=constant)
    left, right, down = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((h, space.dim), (h, space.dim), (o, h))
    )
    return BilinearTensor(left, right, down, space, Space("y", o))


def every_pair(m: int) -> list[tuple[int, int]]:
    return list(itertools.combinations_with_replacement(range(m), 2))


# Counting pairs


@pytest.mark.parametrize("m", [*range(1, 12), 40, 63, 64, 65])
def test_unrank_counts_pairs_row_by_row(m):
    i, j = pairs.unrank(torch.arange(pairs.count(m)), m)
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == every_pair(m)
    assert pairs.count(m) == len(every_pair(m))


@given(st.integers(1, 10**9), st.data())
def test_unrank_is_exact_for_very_many_features(m, data):
    row = data.draw(st.integers(0, m - 1))
    start = row * m - row * (row - 1) // 2
    places = [start, start + m - 1 - row, 0, pairs.count(m) - 1]  # first and last of a row, of all
    i, j = pairs.unrank(torch.tensor(places), m)
    assert i.tolist() == [row, row, 0, m - 1]
    assert j.tolist() == [row, m - 1, 0, m - 1]
    later = data.draw(st.integers(0, pairs.count(m) - 1))
    i, j = (int(part) for part in pairs.unrank(torch.tensor([later]), m))
    assert 0 <= i <= j < m
    assert i * m - i * (i - 1) // 2 + j - i == later


def test_multiplicity_is_one_on_the_diagonal_and_two_off_it():
    assert pairs.multiplicity(torch.tensor([0, 0, 3]), torch.tensor([0, 1, 3])).tolist() == [1, 2, 1]


# The order


@given(st.integers(1, 300), st.integers(0, 2**40))
def test_permuted_is_a_permutation(size, seed):
    assert sorted(pairs.permuted(torch.arange(size), size, seed).tolist()) == list(range(size))


@given(st.integers(1, 10**12), SEEDS, st.data())
def test_permuted_puts_each_place_alone(size, seed, data):
    places = torch.tensor(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=8, unique=True)))
    together = pairs.permuted(places, size, seed)
    alone = torch.cat([pairs.permuted(place[None], size, seed) for place in places])
    torch.testing.assert_close(together, alone, rtol=0, atol=0)
    assert len(set(together.tolist())) == len(places)
    assert 0 <= int(together.min()) <= int(together.max()) < size


def test_orders_of_other_seeds_differ_and_are_no_shifts():
    orders = [tuple(pairs.permuted(torch.arange(55), 55, seed).tolist()) for seed in range(300)]
    assert len(set(orders)) == 300
    differences = {tuple(np.diff(order) % 55) for order in orders}
    assert len(differences) == 300


def test_every_pair_comes_early_for_some_seed():
    counts = torch.zeros(28)
    for seed in range(400):
        counts[pairs.permuted(torch.arange(7), 28, seed)] += 1  # the first quarter of the places
    # 100 ± 8.7 for a uniform order; six standard deviations either way
    assert float(counts.min()) >= 48
    assert float(counts.max()) <= 152


def test_the_order_mixes_the_rows():
    """A batch holds pairs from everywhere: its first features spread as those of all pairs do."""
    stream = pairs.stream(random_tensor(60), batch_size=183)
    whole = np.array(every_pair(60))[:, 0]
    for n in range(len(stream)):
        i = array(stream.pairs(n)[0])
        assert abs(i.mean() - whole.mean()) < 5 * whole.std() / np.sqrt(len(i))
        assert 0.7 < i.std() / whole.std() < 1.3


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
    constant = tensor.input.constant or (dictionary is not None and dictionary.offset is not None)
    if dictionary is None:
        atoms = np.eye(tensor.input.dim)
    else:
        atoms = array(dictionary.folded().atoms if constant else dictionary.atoms)
    dense = oracle.tensor(layer, constant=constant)
    natural = oracle.pair_vectors(
        oracle.dense(*(getattr(_lifted(tensor, constant), n).abs() for n in NAMES)), abs(atoms)
    )
    r = oracle.pair_vectors(dense, atoms)
    size = data.draw(st.integers(1, 9))
    for make in (pairs.stream, pairs.two_hot_stream):
        stream = make(tensor, dictionary, batch_size=size, seed=2)
        assert stream.width == tensor.output.dim
        n = data.draw(st.integers(0, 2 * len(stream)))
        i, j = (part.numpy() for part in stream.pairs(n))
        expected = r[i, j] if make is pairs.stream else r[i, i] + r[j, j] + 2 * r[i, j]
        near(stream.batch(n), expected, 4 * natural)
        direct = pairs.polarized if make is pairs.stream else pairs.two_hot
        near(stream.batch(n), direct(tensor, torch.tensor(i), torch.tensor(j), dictionary), 4 * natural)


NAMES = ("left", "right", "down")


def _lifted(tensor: BilinearTensor, constant: bool) -> BilinearTensor:
    return tensor.lift() if constant else tensor


def test_the_same_seed_is_the_same_order_and_another_seed_another():
    tensor = random_tensor(9)
    first, again, other = (pairs.stream(tensor, batch_size=8, seed=seed) for seed in (5, 5, 6))
    for n in (0, 3, len(first), 10 * len(first) + 1):
        torch.testing.assert_close(first.batch(n), again.batch(n), rtol=0, atol=0)
        assert first.pairs(n)[0].tolist() != other.pairs(n)[0].tolist()
    torch.testing.assert_close(first.pairs(0), pairs.two_hot_stream(tensor, batch_size=8, seed=5).pairs(0))


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


def test_streaming_holds_one_batch_whatever_the_number_of_pairs():
    stream = pairs.stream(random_tensor(2000, o=5, h=7), batch_size=64, seed=0)
    assert stream.rows == 2_001_000
    with Largest() as largest:
        for n in (0, 1, len(stream) // 2, len(stream) - 1, 5 * len(stream)):
            stream.batch(n)
    assert largest.numel == 64 * 7


def test_a_stream_stays_in_its_precision():
    stream = pairs.stream(random_tensor().to(torch.float32), batch_size=4)
    assert stream.batch(0).dtype == torch.float32


# Pairs by weight


def weighted(tensor: BilinearTensor, *, seed: int = 0, **settings: Any) -> tuple[np.ndarray, SampledStream]:
    """A stream by random weights, every third of them 0, and the chances they stand for."""
    generator = torch.Generator().manual_seed(seed + 1)
    weights = torch.rand(pairs.count(tensor.input.dim), generator=generator, dtype=torch.float64)
    weights[::3] = 0
    return array(weights / weights.sum()), pairs.sampled(tensor, weights, seed=seed, **settings)


@pytest.mark.parametrize("kind", ["polarized", "two_hot"])
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
    direct = {"polarized": pairs.polarized, "two_hot": pairs.two_hot}[kind](tensor, i, j)
    near(stream.batch(3), array(direct))


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


@given(layers(max_d=4), st.data())
def test_norms_are_those_of_the_pair_vectors(layer, data):
    tensor = layer.tensor()
    block = data.draw(st.integers(1, 12))
    dense = oracle.tensor(layer, constant=tensor.input.constant)
    vectors = oracle.pair_vectors(dense, np.eye(tensor.input.dim))
    natural = oracle.pair_vectors(oracle.dense(*(getattr(tensor, n).abs() for n in NAMES)), np.eye(tensor.input.dim))
    expected = [np.linalg.norm(vectors[i, j]) for i, j in every_pair(tensor.input.dim)]
    scale = [4 * np.linalg.norm(natural[i, j]) for i, j in every_pair(tensor.input.dim)]
    near(pairs.norms(tensor, block=block), np.array(expected), np.array(scale))


def test_second_moments_are_the_mean_squared_output_of_orthonormal_pair_vectors():
    """With r_ij orthonormal, E‖g(x)‖² = Σ_{i≤j} E[(c_ij a_i a_j)²]: each term on its own, by leaving out the others."""
    m = 5
    i, j = pairs.unrank(torch.arange(pairs.count(m)), m)
    eye = torch.eye(m, dtype=torch.float64)
    generator = torch.Generator().manual_seed(3)
    codes = torch.randn(40, m, generator=generator, dtype=torch.float64)
    found = pairs.second_moments(codes)
    space = Space("x", m)
    for t in range(len(i)):
        down = torch.zeros(len(i), len(i), dtype=torch.float64)
        down[t, t] = 1 if i[t] == j[t] else 2
        tensor = BilinearTensor(eye[i], eye[j], down, space, Space("y", len(i)))
        near(pairs.polarized(tensor, i[t, None], j[t, None])[0, t], np.array(1.0))
        near(found[t], array(tensor(codes).square().sum(dim=1).mean()))


@pytest.mark.parametrize(
    ("weights", "settings", "said"),
    [
        (torch.ones(20), {}, "weights of shape (20,)"),
        (torch.full((21,), -1.0), {}, "negative, not finite or all 0"),
        (torch.full((21,), float("nan")), {}, "negative, not finite or all 0"),
        (torch.zeros(21), {}, "negative, not finite or all 0"),
        (torch.ones(21), {"batch_size": 0}, "batch_size = 0"),
        (torch.ones(21), {"kind": "squared"}, "kind 'squared'"),
    ],
)
@pytest.mark.bad_input
def test_refuses_weights_that_are_no_chances(weights, settings, said):
    with pytest.raises((BilensError, ShapeError), match=re.escape(said)):
        pairs.sampled(random_tensor(), weights, **settings)


@pytest.mark.bad_input
def test_refuses_second_moments_of_nothing():
    for codes in (torch.ones(3), torch.ones(0, 4)):
        with pytest.raises(ShapeError, match=r"\(samples, features\)"):
            pairs.second_moments(codes)


# Prepared layers


@given(layers(read_out=False, bias=False), layers(read_out=True))
def test_an_identity_read_out_is_not_multiplied(plain, read):
    assert Features.of(plain.tensor()).down is None
    assert Features.of(plain.tensor()).width == plain.output.size
    tensor = read.tensor()
    is_identity = tensor.down.shape == (tensor.hidden, tensor.hidden) and bool(
        (tensor.down == torch.eye(tensor.hidden)).all()
    )
    assert (Features.of(tensor).down is None) == is_identity
    assert Features.of(tensor).width == tensor.output.dim


def test_pair_vectors_do_not_change_the_layer():
    tensor = random_tensor()
    before = [getattr(tensor, name).clone() for name in NAMES]
    i = torch.tensor([0, 0, 1])
    features = Features.of(tensor)
    left = features.left.clone()
    features.polarized(i, i), features.two_hot(i, i), pairs.contract(tensor, torch.ones(2, 6, dtype=torch.float64))
    torch.testing.assert_close(features.left, left, rtol=0, atol=0)
    for name, value in zip(NAMES, before, strict=True):
        torch.testing.assert_close(getattr(tensor, name), value, rtol=0, atol=0)


# Contraction and codes


@given(st.data(), layers(max_d=4))
def test_contraction_without_codes_or_samples(data, layer):
    tensor = layer.tensor()
    m, o = tensor.input.dim, tensor.output.dim
    near(pairs.contract(tensor, torch.zeros(3, m, dtype=torch.float64)), np.zeros((3, o)), 0)
    assert pairs.contract(tensor, torch.zeros(0, m, dtype=torch.float64)).shape == (0, o)
    wide = pairs.contract(tensor, torch.zeros(2, m, dtype=torch.float64), lambda rows: rows.repeat(1, 3))
    near(wide, np.zeros((2, 3 * o)), 0)


def test_contraction_passes_over_features_that_are_off():
    seen = []
    codes = torch.zeros(2, 6, dtype=torch.float64)
    codes[0, 1], codes[1, 4] = 2.0, 3.0

    def count_rows(rows: torch.Tensor) -> torch.Tensor:
        seen.append(len(rows))
        return rows

    tensor = random_tensor()
    near(pairs.contract(tensor, codes, count_rows), tensor(codes), 100)
    assert sorted(seen)[-2:] == [2, 5]  # the rows of features 4 and 1; no others but one to learn the width
    assert sum(seen) <= 8


@given(st.data(), layers(max_d=4), SEEDS)
def test_codes_of_either_kind_of_pair_vector_rebuild_the_layer(data, layer, seed):
    """A coder that loses nothing, r = Aᵀ f + b, rebuilds g(x); two-hot vectors only through polarisation."""
    tensor, o = layer.tensor(), layer.tensor().output.dim
    generator = torch.Generator().manual_seed(seed)
    bias = torch.randn(o, generator=generator, dtype=torch.float64)
    atoms = torch.eye(o, dtype=torch.float64) * 2
    x = data.draw(samples(layer.input.size))
    a = tensor.input.lift(x)
    scale = (1 + a.abs().sum(1, keepdim=True)) ** 2 * (1 + tensor.left.abs().sum() * tensor.right.abs().sum())
    scale = array(scale * (1 + tensor.down.abs().sum() + bias.abs().max()))
    expected = oracle.forward(layer, x)
    for make, rebuild in ((PairCodes.of, "rebuild"), (PairCodes.of_two_hot, "rebuild_two_hot")):
        codes = make(tensor, lambda r: (r - bias) / 2)
        near(getattr(codes, rebuild)(a, atoms, bias=bias), expected, scale)
        near(
            codes.contract(a, atoms) + a.sum(dim=1, keepdim=True) ** 2 * bias, codes.rebuild(a, atoms, bias=bias), scale
        )


def test_two_hot_codes_taken_as_polarised_do_not_rebuild_the_layer():
    tensor = random_tensor()
    a = torch.rand(3, tensor.input.dim, dtype=torch.float64)
    eye, zero = torch.eye(tensor.output.dim, dtype=torch.float64), torch.zeros(tensor.output.dim, dtype=torch.float64)
    wrong = PairCodes.of_two_hot(tensor, lambda u: u).rebuild(a, eye, bias=zero)
    assert float((wrong - tensor(a)).norm() / tensor(a).norm()) > 0.1


@given(st.data(), layers(max_d=4), st.integers(1, 5), st.integers(1, 30), SEEDS)
def test_pair_codes_are_what_the_encoder_says(data, layer, width, block, seed):
    tensor = layer.tensor()
    dictionary = data.draw(dictionaries(layer.input, max_atoms=4, offset=False) | st.none())
    generator = torch.Generator().manual_seed(seed)
    weights, atoms = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in
                      ((tensor.output.dim, width), (width, 3)))  # fmt: skip
    steps: list[int] = []
    codes = PairCodes.of(tensor, lambda r: torch.relu(r @ weights), dictionary, block=block, step=steps.append)
    space = tensor.input if dictionary is None else tensor.pullback(dictionary).input
    features = np.eye(space.dim) if dictionary is None else array(
        dictionary.folded().atoms if layer.biased else dictionary.atoms
    )  # fmt: skip
    dense = oracle.tensor(layer, constant=layer.biased)
    phi = np.maximum(oracle.pair_vectors(dense, features) @ array(weights), 0)
    natural = oracle.pair_vectors(oracle.dense(*(getattr(tensor, name).abs() for name in NAMES)), abs(features)) @ abs(
        array(weights)
    )
    m = space.dim
    assert codes.space == space
    assert codes.width == width
    assert sum(steps) == pairs.count(m) == len(codes.starts) - 1
    assert bool((codes.values != 0).all())
    for k in range(width):
        near(codes.kernel(k).dense(), phi[:, :, k], natural)
    assert codes.kernel(0, "stroke").label == "stroke"
    assert codes.kernel(0).input == space
    a = data.draw(samples(m))
    active = np.einsum("na,nb,abk->nk", array(a), array(a), phi)
    scale = np.einsum("na,nb,abk->nk", abs(array(a)), abs(array(a)), natural)
    near(codes.contract(a, atoms), active @ array(atoms), scale @ abs(array(atoms)))
    near(codes.contract(a, torch.eye(width, dtype=torch.float64)), active, scale)
    moment = a.T @ a / len(a)
    near(codes.expectation(moment), active.mean(0), scale)
    i, j = (np.array(side) for side in zip(*every_pair(m), strict=True))
    first = data.draw(st.integers(0, len(i) - 1))
    last = data.draw(st.integers(first + 1, len(i)))
    near(
        codes.decode(first, last, atoms),
        (phi[i, j] @ array(atoms))[first:last],
        natural.max() * abs(array(atoms)).sum(),
    )


# What is refused


@pytest.mark.parametrize("of", [PairCodes.of, PairCodes.of_two_hot])
def test_codes_may_come_as_values_and_features(of):
    tensor = random_tensor(6)
    matrix = torch.randn(3, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def few(vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values, features = (vectors @ matrix - 6).topk(3, dim=1, sorted=False)
        return values.relu(), features

    def dense(vectors: torch.Tensor) -> torch.Tensor:
        values, features = few(vectors)
        return values.new_zeros(len(vectors), 8).scatter(1, features, values)

    ours, theirs = of(tensor, few, width=8, block=4), of(tensor, dense, block=5)
    assert ours.width == theirs.width == 8
    assert ours.starts.tolist() == theirs.starts.tolist()
    assert len(ours.values) < 3 * 21  # those that ReLU made 0 are not kept
    for k in range(8):
        near(ours.kernel(k).dense(), array(theirs.kernel(k).dense()))
    with refuses(BilensError, "without a width", "d_sae"):
        of(tensor, few)


def test_refuses_a_batch_size_below_one():
    for make in (pairs.stream, pairs.two_hot_stream):
        with refuses(BilensError, "batch_size = 0", "at least 1"):
            make(random_tensor(), batch_size=0)
    with refuses(BilensError, "batch_size = -1", "at least 1"):
        PairStream(Features.of(random_tensor()), "polarized", -1, 0)


@pytest.mark.bad_input
def test_refuses_prepared_layers_that_do_not_fit():
    left = torch.zeros(6, 4)
    with refuses(ShapeError, "left of shape (6, 4) and right of (6, 3)", "(features, hidden)"):
        Features(left, left[:, :3], None)
    with refuses(ShapeError, "left of shape (4,) and right of (4,)", "(features, hidden)"):
        Features(left[0], left[0], None)
    with refuses(ShapeError, "down of shape (4, 6)", "(outputs, 4)"):
        Features(left, left, left.T)


def test_refuses_a_dictionary_of_another_space():
    dictionary = Dictionary.identity(Space("z", 6), dtype=torch.float64)
    numbers = torch.tensor([0])
    for call in (
        lambda: pairs.stream(random_tensor(), dictionary),
        lambda: pairs.two_hot_stream(random_tensor(), dictionary),
        lambda: pairs.polarized(random_tensor(), numbers, numbers, dictionary),
        lambda: pairs.contract(random_tensor(), torch.zeros(1, 6, dtype=torch.float64), None, dictionary),
        lambda: PairCodes.of(random_tensor(), torch.relu, dictionary),
    ):
        with refuses(SpaceError, "a dictionary over space 'z' (6)", "'x' (6)", "differ in name"):
            call()


@pytest.mark.parametrize("call", [pairs.polarized, pairs.two_hot])
@pytest.mark.bad_input
def test_refuses_numbers_of_no_feature(call):
    good = torch.tensor([0, 5])
    for bad, seen in ((torch.tensor([0, 6]), "from 0 to 6"), (torch.tensor([-1, 2]), "from -1 to 2")):
        with refuses(BilensError, f"i {seen}", "0 … 5"):
            call(random_tensor(), bad, good)
        with refuses(BilensError, f"j {seen}", "0 … 5"):
            call(random_tensor(), good, bad)
    for one, two in ((good, good[:1]), (good[0], good[0]), (good[None], good[None])):
        with refuses(ShapeError, f"i of shape {tuple(one.shape)} and j of {tuple(two.shape)}", "two lists"):
            call(random_tensor(), one, two)
    assert call(random_tensor(), good[:0], good[:0]).shape == (0, 3)


@pytest.mark.parametrize("shape", [(2, 5), (2, 7), (6,), (1, 2, 6)])
@pytest.mark.bad_input
def test_refuses_codes_of_another_width(shape):
    for call in (
        lambda codes: pairs.contract(random_tensor(), codes),
        lambda codes: PairCodes.of(random_tensor(), torch.relu).contract(codes, torch.eye(3, dtype=torch.float64)),
    ):
        with refuses(ShapeError, f"codes of shape {shape}", "(samples, 6)", "lift the inputs first"):
            call(torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize("feature", [-1, 3])
def test_refuses_a_feature_that_is_not_there(feature):
    with refuses(BilensError, f"feature {feature}", "0 … 2"):
        PairCodes.of(random_tensor(), torch.relu).kernel(feature)


@pytest.mark.bad_input
def test_refuses_codes_that_do_not_fit():
    codes = PairCodes.of(random_tensor(), torch.relu)
    for starts, values in ((codes.starts[1:], codes.values), (codes.starts, codes.values[1:])):
        with refuses(ShapeError, "codes of", "21 pairs of 'x' (6)", "once"):
            PairCodes(starts, codes.features, values, codes.width, codes.space)
