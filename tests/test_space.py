"""Spaces: names, labels, image shapes and the constant coordinate."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bilens.errors import BilensError, ShapeError, SpaceError
from bilens.space import Space
from messages import refuses
from oracle import near, with_one
from strategies import samples

DIGITS = Space("digits", 3, labels=("zero", "one", "two"))


@given(st.data(), st.integers(1, 6), st.booleans())
def test_lift_appends_a_one_where_the_space_has_it(data, size, constant):
    space, x = Space("x", size, constant=constant), data.draw(samples(size))
    near(space.fold(x), with_one(x) if constant else x, 0)
    near(space.fold(x[0]), with_one(x[0]) if constant else x[0], 0)
    near(space.fold(x[None]), with_one(x[None]) if constant else x[None], 0)
    assert space.fold(x).shape[-1] == space.dim == size + constant
    assert space.fold(x.float()).dtype == torch.float32


def test_constant_on_and_off():
    assert DIGITS.with_constant() == dataclasses.replace(DIGITS, constant=True)
    assert DIGITS.with_constant().without_constant() == DIGITS
    assert DIGITS.with_constant().with_constant() == DIGITS.with_constant()
    assert (DIGITS.dim, DIGITS.with_constant().dim, DIGITS.with_constant().size) == (3, 4, 3)
    assert (DIGITS.title, DIGITS.with_constant().title) == ("'digits' (3)", "'digits' (3+1)")


def test_labels_and_numbers_name_coordinates():
    assert [DIGITS.with_constant().label(i) for i in range(4)] == ["zero", "one", "two", "1"]
    assert [Space("x", 2, constant=True).label(i) for i in range(3)] == ["0", "1", "1"]
    assert (DIGITS.index("two"), DIGITS.index(1), Space("x", 12).index("11"), Space("x", 12).index(0)) == (2, 1, 11, 0)
    numbers = Space("odd", 3, labels=("1", "3", "5"))
    assert (numbers.index("3"), numbers.index(2)) == (1, 2)  # a text is a label, a number a position


@given(st.integers(1, 30), st.data())
def test_index_undoes_label(size, data):
    i = data.draw(st.integers(0, size - 1))
    for labels in (None, tuple(f"feature {n}" for n in range(size))):
        space = Space("x", size, labels=labels)
        assert space.index(space.label(i)) == i


def test_spaces_are_frozen_hashable_and_compared_by_everything():
    assert len({DIGITS, Space("digits", 3, labels=("zero", "one", "two")), Space("digits", 3)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        DIGITS.size = 4  # type: ignore[misc]


@pytest.mark.parametrize("size", [0, -1])
def test_refuses_a_size_below_one(size):
    with refuses(BilensError, f"size of space 'pixels' = {size}", "at least 1"):
        Space("pixels", size)


@pytest.mark.parametrize("labels", [("a",), ("a", "b", "c"), ()])
def test_refuses_labels_that_do_not_fit(labels):
    with refuses(ShapeError, f"{len(labels)} labels", "'pair'", "2 labels"):
        Space("pair", 2, labels=labels)


def test_refuses_a_label_twice():
    with refuses(SpaceError, "'b'", "more than once"):
        Space("letters", 3, labels=("a", "b", "b"))


def test_refuses_an_image_of_another_size():
    assert Space("pixels", 6, image=(2, 3)).image == (2, 3)
    with refuses(ShapeError, "(2, 2)", "'pixels'", "height × width = 6"):
        Space("pixels", 6, image=(2, 2))


@pytest.mark.parametrize("shape", [(), (2,), (3, 4), (4, 0)])
@pytest.mark.bad_input
def test_lift_refuses_other_sizes(shape):
    with refuses(ShapeError, str(shape), "'digits' (3+1)", "3 coordinates"):
        DIGITS.with_constant().fold(torch.zeros(shape))


@pytest.mark.parametrize(
    ("space", "label", "known"),
    [
        (DIGITS, "three", "one of zero, one, two"),
        (DIGITS, "0", "one of zero, one, two"),
        (DIGITS, 3, "a number from 0 to 2"),
        (DIGITS, -1, "a number from 0 to 2"),
        (DIGITS.with_constant(), 3, "a number from 0 to 2"),
        (Space("x", 5), "5", "a number from 0 to 4"),
        (Space("x", 5), "-1", "a number from 0 to 4"),
        (Space("x", 5), "", "a number from 0 to 4"),
        (Space("x", 5), "one", "a number from 0 to 4"),
        (Space("x", 20, labels=tuple("abcdefghijklmnopqrst")), "z", "k, l, …"),
    ],
)
def test_refuses_an_unknown_label(space, label, known):
    with refuses(SpaceError, repr(label), space.title, known):
        space.index(label)


@pytest.mark.parametrize(
    ("other", "differs"),
    [
        (Space("letters", 3, labels=("zero", "one", "two")), "name"),
        (Space("digits", 4), "size, labels"),
        (Space("digits", 3, labels=("0", "1", "2")), "labels"),
        (Space("digits", 3, labels=("zero", "one", "two"), image=(1, 3)), "image"),
        (DIGITS.with_constant(), "constant"),
    ],
)
def test_require_refuses_another_space_and_says_what_differs(other, differs):
    DIGITS.require(Space("digits", 3, labels=("zero", "one", "two")), "a dictionary")
    with refuses(SpaceError, "a dictionary", other.title, DIGITS.title, f"differ in {differs})"):
        DIGITS.require(other, "a dictionary")


@pytest.mark.parametrize(
    "space",
    [
        DIGITS,
        DIGITS.with_constant(),
        Space("pixels", 6, image=(2, 3)),
        Space("a\u2028b", 1, labels=("é",), image=(1, 1)),
    ],
)
def test_a_space_is_the_same_after_json(space):
    assert Space.from_json(json.loads(json.dumps(space.to_json()))) == space


def test_an_entry_without_the_constant_has_none():
    entry = DIGITS.to_json()
    del entry["constant"]
    assert Space.from_json(entry) == DIGITS


@pytest.mark.parametrize(
    "change",
    [
        {"size": 2**31},
        {"size": True},
        {"size": "3"},
        {"size": 0},
        {"labels": "abc"},
        {"labels": ["a", "b"]},
        {"labels": ["a", "b", 3]},
        {"labels": []},
        {"image": [1]},
        {"image": [1, 2]},
        {"image": "13"},
        {"name": None},
        {"constant": 1},
        {"more": 1},
    ],
)
@pytest.mark.bad_input
def test_an_entry_that_is_no_space_is_refused(change):
    with pytest.raises(BilensError, match=r"^got .*; expected "):
        Space.from_json(DIGITS.to_json() | change)
    with refuses(BilensError, "space None"):
        Space.from_json(None)


def test_a_space_is_one_line_whatever_its_labels():
    assert repr(Space("pixels", 6, image=(2, 3)).with_constant()) == "Space('pixels', 6, image 2×3, constant)"
    assert repr(Space("words", 3, labels=("a", "b", "c"))) == "Space('words', 3, labels 'a' … 'c')"
    assert "\n" not in repr(Space("n", 2, labels=("a\nb", "c")))
