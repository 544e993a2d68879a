"""How pairs are counted, and the seeded order of a stream."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bilens import pairs
from bilens.pairs.order import first, segments
from few_pairs import every_pair, random_tensor
from oracle import array
from strategies import SEEDS

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


@given(st.integers(1, 12), st.data())
def test_segments_walk_the_pairs_row_by_row(m, data):
    start = data.draw(st.integers(0, pairs.count(m)))
    stop = data.draw(st.integers(start, pairs.count(m)))
    walked = [(i, j) for i, begin, end in segments(start, stop, m) for j in range(begin, end)]
    assert walked == every_pair(m)[start:stop]
    assert all(begin < end for _, begin, end in segments(start, stop, m))


@given(st.integers(1, 10**9), st.data())
def test_segments_start_in_the_right_row_of_very_many_features(m, data):
    row = data.draw(st.integers(0, m - 1))
    for start in (first(row, m), first(row + 1, m) - 1):
        assert list(segments(start, start + 1, m)) == [
            (row, row + start - first(row, m), row + start - first(row, m) + 1)
        ]
    assert first(m, m) == pairs.count(m)


# The order


def feistel(place: int, size: int, seed: int) -> int:
    """Decision 0004 in whole numbers of any length, one place at a time."""
    bits = 1
    while 4**bits < size:
        bits += 1
    low_bits = 2**31 - 1

    def mixed(value: int, key: int) -> int:
        key = (key * 0x9E3779B97F4A7C15 + 0x7F4A7C15) & low_bits
        value = ((value ^ key) * 0x45D9F3B) & low_bits
        value = ((value ^ (value >> 15)) * 0x2C1B3C6D + key) & low_bits
        return value ^ (value >> 13)

    while True:
        high, low = divmod(place, 2**bits)
        for turn in range(4):
            high, low = low, high ^ mixed(low, 4 * seed + turn) % 2**bits
        place = high * 2**bits + low
        if place < size:
            return place


@given(st.integers(1, 10**6) | st.integers(1, 2**61), SEEDS | st.integers(0, 2**70), st.data())
def test_permuted_is_the_network_of_four_rounds(size, seed, data):
    """In 32-bit numbers as in whole ones: a run that was begun goes on in the same order."""
    places = data.draw(st.lists(st.integers(0, size - 1), max_size=6))
    found = pairs.permuted(torch.tensor(places, dtype=torch.int64), size, seed)
    assert found.tolist() == [feistel(place, size, seed) for place in places]


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
