"""Numbers logged while something was trained."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from bilens._internal import checks
from bilens._internal.shown import line


@dataclass(frozen=True, eq=False, repr=False)
class History:
    """What a training run logged: one row per log point, one column per number.

    Args:
        names: of the numbers, for example ("loss", "accuracy").
        steps: (n,), optimiser steps done at each log point.
        values: (n, number of names).

    Raises:
        ShapeError: the shapes do not fit together.
    """

    names: tuple[str, ...]
    steps: Int[Tensor, " n"]
    values: Float[Tensor, "n names"]

    __repr__ = line

    def __post_init__(self) -> None:
        checks.shapes(self, names=len(self.names))

    def __getitem__(self, name: str) -> Float[Tensor, " n"]:
        """The column of one number."""
        return self.values[:, self.names.index(name)]
