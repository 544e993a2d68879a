"""Errors: three parts, one line, and ValueErrors all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bilens.errors import BilensError, ShapeError, SpaceError, StoreError


@pytest.mark.parametrize("kind", [BilensError, ShapeError, SpaceError, StoreError])
def test_every_error_is_a_value_error_of_three_parts(kind):
    error = kind("7 pixels", "784", "pass the image whole")
    assert isinstance(error, ValueError)
    assert isinstance(error, BilensError)
    assert str(error) == "got 7 pixels; expected 784. Pass the image whole"


@given(st.text(), st.text(), st.text())
def test_the_line_is_one_line_whatever_is_in_it(got, expected, do):
    line = str(BilensError(got, expected, do))
    assert line.isprintable()
    assert len(line.splitlines()) == 1
    assert "  " not in line


def test_control_characters_of_a_label_do_not_reach_the_terminal():
    assert str(BilensError("label '\x1b[31m\n3'", "one", "choose")) == "got label ' [31m 3'; expected one. Choose"
