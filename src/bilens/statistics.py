"""Uncertainty of what was measured on several samples: of a mean, of a share, of a median."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import scipy.stats

from bilens._internal.checks import number, several, whole
from bilens.errors import BilensError


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval, mean ± half.

    Args:
        mean: of the samples; half: half the width of the interval, infinite for a single sample.
        count: how many samples; level: of confidence, 0 … 1.
    """

    mean: float
    half: float
    count: int
    level: float

    def text(self, form: str = ".3f", scale: float = 1.0) -> str:
        """ "mean ± half" in a number format, both times `scale`; the mean alone for a single sample; 0 has no sign."""
        mean = format(self.mean * scale, form)
        if not any(digit in mean for digit in "123456789"):
            mean = mean.replace("-", "")
        return mean if math.isinf(self.half) else f"{mean} ± {format(self.half * scale, form)}"


def interval(samples: Sequence[float], level: float = 0.95) -> Interval:
    """Student's interval of the mean: x̄ ± t_{(1+level)/2, n−1} · s/√n, s² the unbiased variance.

    Examples:
        >>> interval([1.0, 2.0, 3.0]).text()
        '2.000 ± 2.484'

    Args:
        samples: independent measurements, for example one per seed; level: of confidence.

    Raises:
        BilensError: no sample, one that is not finite, or a level outside 0 … 1.

    Source: Student, "The probable error of a mean" (1908).
    """
    samples = [number("one of the samples", value) for value in several("samples", samples, "a list of numbers", "")]
    if not samples:
        raise BilensError("no samples", "at least one, all finite")
    level = number("level", level, above=0, below=1)
    n, mean = len(samples), math.fsum(samples) / len(samples)
    if n == 1:
        return Interval(mean, math.inf, 1, level)
    variance = math.fsum((value - mean) ** 2 for value in samples) / (n - 1)
    half = float(scipy.stats.t.ppf((1 + level) / 2, n - 1)) * math.sqrt(variance / n)
    return Interval(mean, half, n, level)


@dataclass(frozen=True)
class Estimate:
    """A number with an interval that need not be symmetric about it.

    Args:
        value: the number; low, high: the interval, infinite where there are too few samples for one.
        count: how many samples; level: of confidence, 0 … 1.
    """

    value: float
    low: float
    high: float
    count: int
    level: float

    def text(self, form: str = ".2f") -> str:
        """For example "0.51 (0.48 … 0.55)"; the number alone where there is no interval."""
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            return format(self.value, form)
        return f"{self.value:{form}} ({self.low:{form}} … {self.high:{form}})"


def share(hits: int, count: int, level: float = 0.95) -> Estimate:
    """A share of independent samples with Wilson's interval, which is right at 0 and 1 too.

    Examples:
        >>> share(0, 20).text()
        '0.00 (0.00 … 0.16)'

    Args:
        hits: how many of the samples count; count: how many there are; level: of confidence.

    Raises:
        BilensError: no samples, more hits than samples, or a level outside 0 … 1.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference" (1927).
    """
    count, level = whole("count", count, 1), number("level", level, above=0, below=1)
    hits = whole("hits", hits, 0, count)
    found = scipy.stats.binomtest(hits, count).proportion_ci(level, method="wilson")
    return Estimate(hits / count, float(found.low), float(found.high), count, level)


def median(samples: Sequence[float], level: float = 0.95) -> Estimate:
    """The median, with the narrowest pair of samples, as far from both ends, that holds it with this confidence.

    P(x₍ₗ₎ ≤ m ≤ x₍ₙ₊₁₋ₗ₎) = 1 − 2 P(B < l), B binomial of n and ½, whatever the distribution; below six samples no
    pair is sure enough for 95 %.

    Examples:
        >>> median([float(value) for value in range(1, 12)]).text(".0f")
        '6 (2 … 10)'

    Args:
        samples: independent measurements; level: of confidence.

    Raises:
        BilensError: no sample, one that is not finite, or a level outside 0 … 1.

    Source: Thompson, "On confidence ranges for the median" (1936).
    """
    ordered = sorted(number("one of the samples", value) for value in samples)
    if not ordered:
        raise BilensError("no samples", "at least one, all finite")
    level, n = number("level", level, above=0, below=1), len(ordered)
    middle = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    place = int(scipy.stats.binom.ppf((1 - level) / 2, n, 0.5))  # the first with P(B ≤ place) at or above it
    if float(scipy.stats.binom.cdf(place, n, 0.5)) <= (1 - level) / 2:
        place += 1
    if place == 0:
        return Estimate(middle, -math.inf, math.inf, n, level)
    return Estimate(middle, ordered[place - 1], ordered[n - place], n, level)
