"""Learning-rate schedules: the share of the highest rate at a step of several, counted from 0."""

from __future__ import annotations

import math


def trapezoid(step: int, steps: int, warmup: float, decay: float) -> float:
    """min(1, (t + 1)/(warmup · T), (T − t)/(decay · T)): rises over the first steps, falls over the last.

    Args:
        step: t; steps: T; warmup, decay: fractions of the steps, 0 … 1; 0 for none.
    """
    rise = (step + 1) / (warmup * steps) if warmup > 0 else 1.0
    fall = (steps - step) / (decay * steps) if decay > 0 else 1.0
    return min(rise, fall, 1.0)


def cosine(step: int, steps: int) -> float:
    """½(1 + cos(π t/T))."""
    return (1 + math.cos(math.pi * step / steps)) / 2


def drops(step: int, steps: int) -> float:
    """1, then 0.1 from 60 % of the steps on, and 0.01 from 85 %."""
    return 1.0 if 100 * step < 60 * steps else 0.1 if 100 * step < 85 * steps else 0.01
