"""Uncertainty of a mean over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import scipy.stats

from bilens._internal.checks import number
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
    samples = [number("one of the samples", value) for value in samples]
    if not samples:
        raise BilensError("no samples", "at least one, all finite")
    level = number("level", level, above=0, below=1)
    n, mean = len(samples), math.fsum(samples) / len(samples)
    if n == 1:
        return Interval(mean, math.inf, 1, level)
    variance = math.fsum((value - mean) ** 2 for value in samples) / (n - 1)
    half = float(scipy.stats.t.ppf((1 + level) / 2, n - 1)) * math.sqrt(variance / n)
    return Interval(mean, half, n, level)
