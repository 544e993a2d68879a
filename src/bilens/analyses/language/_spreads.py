"""How numbers of a page are spread over the features of a set: medians and quartiles, to three digits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from bilens._internal.encoding import number
from bilens.explorer.lm_layout import Spread


def spread(
    title: str, at: Sequence[int], values: Float[Tensor, "n c"], full: float | None = None, *, control: bool = False
) -> Spread:
    """Quartiles over n features at c numbers of pairs.

    Args:
        title: of the set; at: the numbers of pairs; values: one for each feature and number; full: the median with all
            pairs; control: whether the set is a null.
    """
    low, median, high = (torch.quantile(values.double(), q, dim=0) for q in (0.25, 0.5, 0.75))
    return {
        "name": title,
        "control": control,
        "at": list(at),
        "median": three(median),
        "low": three(low),
        "high": three(high),
        "full": None if full is None else number(full, 3),
    }


def three(values: Tensor) -> list[float]:
    """Numbers to three digits."""
    return [number(value, 3) for value in values.double().tolist()]


__all__ = ["spread", "three"]
