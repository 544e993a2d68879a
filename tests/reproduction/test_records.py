"""Records of the programme are stored as those of bilens are."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from bilens import decompose, store
from bilens.errors import BilensError
from bilens.faithfulness import Curve, Score
from bilens.kernel import Kernel
from bilens.space import Space
from reproduction.measurement import Measurement
from reproduction.methods import extrema, squares
from strategies import filled

KERNEL = Kernel(filled("normal", 6, 4, 0), filled("normal", 6, 4, 1), filled("normal", 1, 6, 2)[0], Space("x", 4))


def same(a: object, b: object) -> None:
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    elif dataclasses.is_dataclass(a):
        for field in dataclasses.fields(a):
            same(getattr(a, field.name), getattr(b, field.name))
    elif isinstance(a, tuple):
        for one, other in zip(a, b, strict=True):  # type: ignore[call-overload]
            same(one, other)
    else:
        assert a == b


@pytest.mark.parametrize(
    "record",
    [
        Measurement.of(
            {"a": 0.5, "b": 2.0}, [Curve.of("kept", [1], [Score(0.1, 2.0, 0.3)])], [decompose.eigh(KERNEL, 2)]
        ),
        extrema.box(KERNEL, starts=3),
        squares.squares(KERNEL, torch.eye(4)[:2].double()),
    ],
    ids=lambda record: type(record).__name__,
)
def test_every_record_comes_back_as_it_was(record: object, tmp_path: Path) -> None:
    store.save(record, tmp_path / "one")
    same(record, store.load(tmp_path / "one", type(record)))


def test_another_class_of_the_name_is_refused() -> None:
    with pytest.raises(BilensError, match="a second kind of record named Measurement"):
        store.register(dataclasses.make_dataclass("Measurement", ["a"], frozen=True))
