"""A measurement: numbers and curves by name."""

from __future__ import annotations

import pytest
import torch

from bilens.errors import BilensError, ShapeError
from bilens.faithfulness import Curve, Score
from messages import refuses
from reproduction.measurement import Measurement

CURVE = Curve.of("svd", [1, 2], [Score(0.1, 2.0, 0.3), Score(0.2, 1.0, 0.6)])


def test_numbers_and_curves_are_found_by_their_names() -> None:
    third = 1 / 3
    measured = Measurement.of({"a": third, "b": -2, "c, with a comma": 0.0}, [CURVE])
    assert measured.names == ("a", "b", "c, with a comma")
    assert measured.values.dtype == torch.float64
    assert [measured[name] for name in measured.names] == [third, -2.0, 0.0]  # not rounded to float32
    assert measured.curve("svd") is CURVE


def test_a_measurement_may_be_empty() -> None:
    measured = Measurement.of({})
    assert measured.names == ()
    assert measured.values.shape == (0,)
    with refuses(BilensError, "number 'a'"):
        measured["a"]


def test_what_was_not_measured_is_refused() -> None:
    measured = Measurement.of({"accuracy": 0.5, "loss": 1.0}, [CURVE])
    with refuses(BilensError, "number 'acuracy'", "one of the 2", "such as 'accuracy'"):
        measured["acuracy"]
    with refuses(BilensError, "curve 'hosvd'", "svd"):
        measured.curve("hosvd")
    with refuses(BilensError, "curve 'svd'", "none"):
        Measurement.of({"accuracy": 0.5}).curve("svd")


def test_a_name_that_occurs_twice_is_refused() -> None:
    with refuses(BilensError, "'a' twice"):
        Measurement(("a", "b", "a"), torch.zeros(3, dtype=torch.float64))


@pytest.mark.bad_input
@pytest.mark.parametrize("values", [torch.zeros(1), torch.zeros(3), torch.zeros(2, 1), torch.zeros(())])
def test_values_that_do_not_fit_the_names_are_refused(values: torch.Tensor) -> None:
    with refuses(ShapeError, "values of shape", "(2,)"):
        Measurement(("a", "b"), values)
