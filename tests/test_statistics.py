"""Intervals of a mean: the closed form, an independent one, and how often they cover the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bilens.errors import BilensError
from bilens.statistics import Interval, interval, median, share
from messages import refuses


@given(
    st.lists(st.floats(-1e3, 1e3, allow_subnormal=False), min_size=2, max_size=12),
    st.sampled_from([0.5, 0.9, 0.95, 0.99]),
)
def test_an_interval_is_students(samples: list[float], level: float) -> None:
    import scipy.stats  # whose import takes a second, and which bilens does without

    found = interval(samples, level)
    error = np.std(samples, ddof=1) / math.sqrt(len(samples))
    assert found.mean == pytest.approx(np.mean(samples), abs=1e-9)
    assert found.half == pytest.approx(scipy.stats.t(len(samples) - 1).isf((1 - level) / 2) * error, abs=1e-9)
    assert (found.count, found.level) == (len(samples), level)


def test_two_and_three_samples_have_closed_forms() -> None:
    # With one degree of freedom t is Cauchy, tan(π p/2); with two, t = p √(2/(1 − p²)); p is the level.
    for level in (0.5, 0.8, 0.95):
        assert interval([1.0, 3.0], level).half == pytest.approx(math.tan(math.pi * level / 2))
        three = level * math.sqrt(2 / (1 - level**2)) * 1 / math.sqrt(3)
        assert interval([1.0, 2.0, 3.0], level).half == pytest.approx(three)
    assert interval([1.0, 3.0]).mean == 2


@pytest.mark.parametrize(("n", "level"), [(3, 0.95), (5, 0.95), (5, 0.5)])
def test_an_interval_covers_the_true_mean_as_often_as_it_says(n: int, level: float) -> None:
    trials, true = 2000, 4.2
    drawn = np.random.default_rng(0).normal(true, 3.0, (trials, n))
    covered = sum(abs(found.mean - true) <= found.half for found in (interval(row.tolist(), level) for row in drawn))
    import scipy.stats

    low, high = scipy.stats.binom(trials, level).interval(0.9999)
    assert low <= covered <= high


def test_equal_samples_have_no_width_and_one_sample_no_interval() -> None:
    assert interval([0.5] * 4) == Interval(0.5, 0.0, 4, 0.95)
    assert interval([0.5]) == Interval(0.5, math.inf, 1, 0.95)


def test_the_text_is_scaled_and_one_sample_stands_alone() -> None:
    assert Interval(0.97812, 0.00124, 5, 0.95).text(".2f", 100) == "97.81 ± 0.12"
    assert Interval(0.97812, 0.00124, 5, 0.95).text() == "0.978 ± 0.001"
    assert interval([0.25]).text(".1f", 100) == "25.0"


@pytest.mark.parametrize("samples", [[], [1.0, math.nan], [math.inf, 1.0], ["a"]])
def test_samples_that_have_no_mean_are_refused(samples: list[float]) -> None:
    with refuses(BilensError, "sample", "finite"):
        interval(samples)


@pytest.mark.parametrize("level", [0.0, 1.0, -0.5, 95.0, math.nan])
def test_a_level_that_is_no_probability_is_refused(level: float) -> None:
    with refuses(BilensError, "level", "0 < level < 1"):
        interval([1.0, 2.0], level)


def test_a_rounded_zero_has_no_sign_and_large_numbers_may_have_commas() -> None:
    assert interval([-0.001]).text(".2f") == "0.00"
    assert interval([-0.001]).text(".3f") == "-0.001"
    assert interval([-909_897.4]).text(",.0f") == "-909,897"
    assert interval([-1e-9, 1e-10]).text(".1e").startswith("-4.5e-10 ± ")


@pytest.mark.parametrize(("hits", "count"), [(0, 20), (3, 7), (50, 50), (1, 2)])
def test_the_interval_of_a_share_is_wilsons(hits: int, count: int) -> None:
    z, p = 1.959963984540054, hits / count
    middle = (p + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(p * (1 - p) / count + z**2 / (4 * count**2))
    found = share(hits, count)
    assert (found.value, found.count, found.level) == (p, count, 0.95)
    assert (found.low, found.high) == (pytest.approx(middle - half, abs=1e-9), pytest.approx(middle + half, abs=1e-9))


@given(st.integers(1, 60), st.data(), st.floats(0.01, 0.99))
def test_intervals_of_shares_and_medians_are_those_of_scipy(count: int, data: st.DataObject, level: float) -> None:
    import scipy.stats

    hits = data.draw(st.integers(0, count))
    expected = scipy.stats.binomtest(hits, count).proportion_ci(level, method="wilson")
    found = share(hits, count, level)
    assert (found.low, found.high) == (pytest.approx(expected.low, abs=1e-12), pytest.approx(expected.high, abs=1e-12))
    middle = median([float(value) for value in range(1, count + 1)], level)
    place = 0 if math.isinf(middle.low) else int(middle.low)  # the last that is sure enough
    assert 2 * scipy.stats.binom.cdf(place - 1, count, 0.5) <= 1 - level + 1e-12
    assert 2 * scipy.stats.binom.cdf(place, count, 0.5) > 1 - level - 1e-12


@pytest.mark.parametrize("count", [1, 5, 6, 7, 8, 20, 101])
def test_the_interval_of_a_median_holds_it_as_often_as_coins_say(count: int) -> None:
    samples = [float(value) for value in range(1, count + 1)]
    found = median(samples[::-1])
    assert found.value == (count + 1) / 2

    def missed(place: int) -> float:
        """How often fewer than `place` of so many coins fall on the side below the median, or on that above."""
        return 2 * sum(math.comb(count, heads) for heads in range(place)) / 2**count

    place = 0 if math.isinf(found.low) else int(found.low)
    assert found.high == (math.inf if place == 0 else count + 1 - place)
    assert missed(place) <= 0.05 < missed(place + 1)


def test_estimates_show_their_interval_where_there_is_one() -> None:
    assert median([3.0, 1.0]).text() == "2.00"
    assert share(1, 4).text(".0%") == "25% (5% … 70%)"


def test_shares_and_medians_of_nothing_are_refused() -> None:
    with refuses(BilensError, "no samples", "at least one"):
        median([])
    with refuses(BilensError, "count = 0", "at least 1"):
        share(0, 0)
    with refuses(BilensError, "hits = 3", "hits ≤ 2"):
        share(3, 2)
    with refuses(BilensError, "level", "0 < level < 1"):
        median([1.0], 1.5)
