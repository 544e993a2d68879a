"""Errors: one line in English, with a hint or without, and ValueErrors all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bilens.errors import BilensError, ShapeError, SpaceError, StoreError


@pytest.mark.parametrize("kind", [BilensError, ShapeError, SpaceError, StoreError])
def test_every_error_is_a_value_error_that_says_what_and_what_to_do(kind):
    error = kind("7 pixels", "784", "pass the image whole")
    assert isinstance(error, ValueError)
    assert isinstance(error, BilensError)
    assert str(error) == "got 7 pixels; expected 784. Pass the image whole."
    assert str(kind("7 pixels", "784")) == "got 7 pixels; expected 784"


# Any character, the odd ones often. Hypothesis's own text() takes seconds to sort all characters by their category.
ODD = "ab \t\n\v\f\r\x1b\x1c\x85\xa0\xad\u2028\u2029\u202e\ufeff"
CHARACTERS = st.sampled_from(ODD) | st.integers(0, 0x10FFFF).map(chr)
TEXTS = st.lists(CHARACTERS).map("".join)


@given(TEXTS, TEXTS, TEXTS)
def test_the_line_is_one_line_whatever_is_in_it(got, expected, hint):
    line = str(BilensError(got, expected, hint))
    assert line.isprintable()
    assert len(line.splitlines()) == 1
    assert "  " not in line


def test_control_characters_of_a_label_do_not_reach_the_terminal():
    assert str(BilensError("label '\x1b[31m\n3'", "one", "choose")) == ("got label ' [31m 3'; expected one. Choose.")


@pytest.mark.parametrize(
    ("hint", "said"),
    [
        ("convert it with .float()", "Convert it with .float()."),
        ("call it; what then?", "Call it; what then?"),
        ("model.tensor() has it", "model.tensor() has it."),
        ("pip: install it", "Pip: install it."),
        ("", ""),
        ("  ", ""),
    ],
)
def test_a_hint_is_a_sentence_and_code_keeps_its_letters(hint, said):
    assert str(BilensError("a", "b", hint)) == f"got a; expected b. {said}".removesuffix(". ")
