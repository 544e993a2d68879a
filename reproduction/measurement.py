"""What one run of an experiment measured: named numbers, curves, and records to draw."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bilens import store
from bilens.errors import BilensError, ShapeError
from bilens.faithfulness import Curve


@store.register
@dataclass(frozen=True, eq=False)
class Measurement:
    """Numbers, curves and other records of one run, for example of one seed.

    Args:
        names: of the numbers, all different; values: (n,), float64.
        curves: scores against how much is kept; records: others that figures draw, for example a `FeatureSet`.

    Raises:
        ShapeError: names and values do not fit together. BilensError: a name that occurs twice.
    """

    names: tuple[str, ...]
    values: Float[Tensor, " n"]
    curves: tuple[Curve, ...] = ()
    records: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        if tuple(self.values.shape) != (len(self.names),):
            raise ShapeError(f"values of shape {tuple(self.values.shape)}", f"({len(self.names)},)")
        if len(set(self.names)) < len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise BilensError(f"number {twice!r} twice", "names that differ", "rename one of them")

    @classmethod
    def of(cls, numbers: Mapping[str, float], curves: Sequence[Curve] = (), records: Sequence[Any] = ()) -> Measurement:
        """The measurement with these numbers, by name."""
        values = torch.tensor(list(numbers.values()), dtype=torch.float64)
        return cls(tuple(numbers), values, tuple(curves), tuple(records))

    def __getitem__(self, name: str) -> float:
        """One number. Raises BilensError when it was not measured."""
        if name not in self.names:
            near = difflib.get_close_matches(name, self.names, 3) or self.names[:3]
            raise BilensError(
                f"number {name!r}",
                f"one of the {len(self.names)} that were measured, such as {', '.join(map(repr, near))}",
            )
        return float(self.values[self.names.index(name)])

    def curve(self, name: str) -> Curve:
        """One curve by its name. Raises BilensError when it was not measured."""
        for curve in self.curves:
            if curve.name == name:
                return curve
        known = ", ".join(curve.name for curve in self.curves) or "none"
        raise BilensError(f"curve {name!r}", f"one of: {known}")
