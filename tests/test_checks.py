"""Checks of arguments: what counts as a number, and how the others are refused; then the core's own functions."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens import faithfulness, matching, statistics, store
from bilens._internal import checks, device
from bilens.dictionary import Dictionary
from bilens.errors import BilensError, ShapeError, SpaceError
from bilens.kernel import Kernel
from bilens.space import Space
from bilens.tensor import BilinearTensor
from messages import refuses

pytestmark = pytest.mark.bad_input


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3)])
def test_whole_numbers_of_any_type_become_pythons_own(value: Any) -> None:
    found = checks.whole("k", value, 3, 3)
    assert (found, type(found)) == (3, int)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (2, "k = 2;"),
        (5, "k = 5;"),
        (np.int64(-1), "k = -1;"),
        (3.0, "k = 3.0;"),
        (np.float32(3), "k = 3.0;"),
        (True, "k = True;"),
        (np.bool_(True), "k of type bool"),
        (torch.tensor(True), "k of type Tensor;"),
        (torch.tensor([3, 3]), "k of type Tensor;"),
        ("3", "k = '3';"),
        (None, "k = None;"),
        ([3], "k of type list;"),
    ],
)
def test_what_is_no_whole_number_in_bounds_is_refused(value: Any, shown: str) -> None:
    with refuses(BilensError, shown, "expected a whole number, 3 ≤ k ≤ 4"):
        checks.whole("k", value, 3, 4)


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), np.float64(0.5), Fraction(1, 2)])
def test_real_numbers_of_any_type_become_pythons_own(value: Any) -> None:
    found = checks.number("x", value, 0.5, 0.5)
    assert (found, type(found)) == (0.5, float)
    assert type(checks.number("x", np.int8(2))) is float


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400, True, 1j, "1", None, torch.tensor(1.0)])
def test_what_is_no_finite_number_is_refused(value: Any) -> None:
    with refuses(BilensError, "got x ", "expected a finite number"):
        checks.number("x", value)


@pytest.mark.parametrize(
    ("bounds", "out", "inside", "said"),
    [
        ({"least": 0}, -1e-9, 0, "a finite number of at least 0"),
        ({"most": 1}, 1.5, 1, "a finite number of at most 1"),
        ({"above": 0}, 0, 1e-9, "a finite number above 0"),
        ({"below": 1}, 1, 0.5, "a finite number below 1"),
        ({"least": 0, "most": 1}, 2, 1, "a finite number, 0 ≤ x ≤ 1"),
        ({"above": 0, "most": 1}, 0, 1, "a finite number, 0 < x ≤ 1"),
        ({"above": 0, "below": 1}, 1, 0.5, "a finite number, 0 < x < 1"),
    ],
)
def test_bounds_are_open_or_closed(bounds: dict[str, float], out: float, inside: float, said: str) -> None:
    assert checks.number("x", inside, **bounds) == inside
    with refuses(BilensError, f"x = {out}", said):
        checks.number("x", out, **bounds)


def test_seeds_are_what_a_generator_takes() -> None:
    for value in (-(2**63), 2**63 - 1):
        torch.Generator().manual_seed(checks.seed(value))
    for value, least in ((-(2**63) - 1, -(2**63)), (2**63, 0), (-1, 0), (1.5, 0), ("a", 0)):
        with refuses(BilensError, "seed = ", "2⁶³ − 1"):
            checks.seed(value, least)


@pytest.mark.parametrize("value", [True, False, np.True_, np.False_])
def test_flags_of_either_kind_become_pythons_own(value: Any) -> None:
    found = checks.flag("f", value)
    assert (found, type(found)) == (bool(value), bool)


@pytest.mark.parametrize("value", ["no", "False", "", 0, 1, None, [], np.int64(1), torch.tensor(True)])
def test_what_is_no_flag_is_refused(value: Any) -> None:
    with refuses(BilensError, "got f ", "expected True or False"):
        checks.flag("f", value)


def test_numbers_that_are_too_long_to_write_are_still_named() -> None:
    for value in (10**5000, -(10**5000), Fraction(10**5000, 3)):
        for check in (checks.whole, checks.number):
            with refuses(BilensError, "got k of more than a thousand digits; expected "):
                check("k", value, 1, 3)


@pytest.mark.parametrize("value", [None, 3, b"a", np.array(["a"]), "d", "a\n"])
def test_what_is_none_of_the_names_is_refused(value: Any) -> None:
    checks.choice("way", "a", ("a", "b"))
    with refuses(BilensError, "got way ", "expected one of a, b"):
        checks.choice("way", value, ("a", "b"))


def test_paths_are_texts_or_paths() -> None:
    assert checks.path("path", "a/b") == checks.path("path", Path("a/b")) == Path("a/b")
    for value in (3, None, b"a", "a\0", [Path("a")]):
        with refuses(BilensError, "got path ", "expected a path, as a text or a pathlib.Path"):
            checks.path("path", value)


def test_lists_are_made_of_what_can_be_iterated() -> None:
    assert checks.several("parts", iter((1, 2)), "a list", "pass one") == [1, 2]
    for value in (3, None, torch.tensor(1.0), np.array(1.0), np.float64(1)):
        with refuses(BilensError, f"got parts of type {type(value).__name__}; expected a list. Pass one"):
            checks.several("parts", value, "a list", "pass one")


def test_a_type_is_named_with_what_came() -> None:
    checks.instance("kernel", 3, int)
    with refuses(BilensError, "got kernel of type int; expected a Kernel. Take one with tensor.kernel(output)"):
        checks.instance("kernel", 3, Kernel)
    with refuses(BilensError, "expected an Extra"):
        checks.instance("it", None, type("Extra", (), {}))


X, Y = Space("x", 4), Space("y", 3)
B = BilinearTensor(torch.ones(2, 4), torch.ones(2, 4), torch.ones(3, 2), X, Y)
Q = B.kernel(0)
ATOMS = Dictionary.from_atoms(torch.eye(4), X)
MATRIX, LABELS = np.eye(4), torch.tensor([0, 1])

REFUSED = {
    "vectors of type ndarray": [
        lambda: B(MATRIX),
        lambda: Q.matvec(MATRIX),
        lambda: ATOMS.encode(MATRIX),
        lambda: matching.subspace_cosines(MATRIX, MATRIX),
    ],
    "atoms of type ndarray": [lambda: Dictionary.from_atoms(MATRIX, X)],
    "offset of type list": [lambda: Dictionary.from_atoms(torch.eye(4), X, offset=[0, 0, 0, 0])],
    "rtol = 'a'": [lambda: Dictionary.from_atoms(torch.eye(4), X, rtol="a")],
    "atoms 'a'": [lambda: ATOMS.restrict("a")],
    "active of type ndarray": [lambda: ATOMS.encode_among(torch.eye(4), MATRIX)],
    "space of type int": [
        lambda: Dictionary.from_atoms(torch.eye(4), 4),
        lambda: Dictionary.identity(4, dtype=torch.float32),
    ],
    "dictionary of type Tensor": [
        lambda: B.read(torch.eye(3)),
        lambda: B.pullback(torch.eye(4)),
        lambda: B.coordinates(torch.eye(4)),
    ],
    "the other one of type int": [lambda: B + 3, lambda: B.cosine(3), lambda: Q.inner(3)],
    "the other one of type Kernel": [lambda: B.inner(Q)],
    "left of type ndarray": [
        lambda: BilinearTensor(MATRIX, MATRIX, MATRIX, X, Y),
        lambda: BilinearTensor.from_layer(MATRIX, MATRIX, input=X, output=X),
    ],
    "input of type int": [
        lambda: BilinearTensor.from_layer(torch.eye(4), torch.eye(4), input=4, output=X),
        lambda: BilinearTensor.from_linear(torch.eye(4), input=4, output=X),
        lambda: Kernel.from_matrix(torch.eye(4), 4),
    ],
    "output of type int": [
        lambda: BilinearTensor(torch.ones(2, 4), torch.ones(2, 4), torch.ones(3, 2), X, 3),
        lambda: B.then(torch.ones(2, 3), 2),
    ],
    "matrix of type ndarray": [
        lambda: B.then(np.ones((3, 3)), Y),
        lambda: Kernel.from_matrix(MATRIX, X),
    ],
    "target = '3'": [lambda: B.to("3"), lambda: Q.to("3")],
    "target = None": [lambda: B.to(None), lambda: Q.to(None)],
    "target = 2.5": [lambda: B.to(2.5), lambda: Q.to(2.5)],
    "shift of type list": [lambda: B.shift([1, 2, 3])],
    "name of type int": [lambda: Space(3, 4)],
    "size of space 'x' = 2.5": [lambda: Space("x", 2.5)],
    "label 1 of type int": [lambda: Space("x", 2, labels=(1, 2))],
    "image width = 2.0": [lambda: Space("x", 4, image=(2, 2.0))],
    "logits of type ndarray": [lambda: faithfulness.accuracy(MATRIX, LABELS)],
    "labels of type list": [lambda: faithfulness.accuracy(torch.eye(2), [0, 1])],
    "labels of type torch.float32": [lambda: faithfulness.cross_entropy(torch.eye(2), LABELS.float())],
    "labels from 0 to 1": [lambda: faithfulness.cross_entropy(torch.ones(2, 1), LABELS)],
    "original of type str": [
        lambda: faithfulness.score(torch.eye(2), LABELS, "a"),
        lambda: faithfulness.ce_loss_score(1.0, "a", 2.0),
    ],
    "similarities of type ndarray": [lambda: matching.assign(MATRIX)],
    "tensor of type Kernel": [lambda: matching.kernel_cosines(B, Q)],
    "second moment of type ndarray": [lambda: matching.random_directions(MATRIX, 2)],
    "count = 1.5": [lambda: matching.random_directions(torch.eye(2), 1.5)],
    "seed = 'a'": [lambda: matching.random_directions(torch.eye(2), 1, "a")],
    "level = 'a'": [lambda: statistics.interval([1.0, 2.0], "a")],
    "device 2.5": [lambda: device.choose(2.5)],
    "kind of type str": [lambda: store.load("nowhere", "Spectra")],
}


@pytest.mark.parametrize(("said", "call"), [(said, call) for said, calls in REFUSED.items() for call in calls])
def test_the_core_names_what_it_cannot_take(said: str, call: Any) -> None:
    with refuses(BilensError, said):
        call()


def test_spaces_take_numpys_numbers_and_keep_pythons_own() -> None:
    space = Space("x", np.int64(4), labels=list("abcd"), image=(np.int64(2), 2))
    assert space == Space("x", 4, labels=tuple("abcd"), image=(2, 2))
    assert (type(space.size), type(space.labels), [type(side) for side in space.image or ()]) == (int, tuple, [int] * 2)
    assert space.index(np.int64(2)) == 2
    for label in (True, 1.5, None, MATRIX[0]):
        with refuses(SpaceError, f"of type {type(label).__name__}", "a text or a whole number"):
            space.index(label)


def test_labels_of_any_whole_type_are_scored() -> None:
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    for dtype in (torch.int32, torch.uint8, torch.int64):
        assert faithfulness.cross_entropy(logits, LABELS.to(dtype)) == pytest.approx(math.log(1 + math.exp(-1)))


@dataclasses.dataclass(frozen=True)
class Shaped:
    """A record for `checks.shapes`: two sizes by name, one by number, and a field that may be None."""

    rows: Float[Tensor, "n d"]
    pairs: Int[Tensor, "n 2"]
    total: Float[Tensor, ""]
    more: Float[Tensor, " d"] | None = None
    name: str = ""


def shaped(rows=(4, 3), pairs=(4, 2), total=(), more=(3,)) -> Shaped:
    return Shaped(
        torch.zeros(rows), torch.zeros(pairs), torch.zeros(total), None if more is None else torch.zeros(more)
    )


def test_shapes_that_fit_the_annotations_pass() -> None:
    checks.shapes(shaped())
    checks.shapes(shaped(more=None), d=3)


@pytest.mark.parametrize(
    ("wrong", "sizes", "got", "expected"),
    [
        ({"pairs": (5, 2)}, {}, "pairs of shape (5, 2)", "(4, 2)"),
        ({"pairs": (4, 3)}, {}, "pairs of shape (4, 3)", "(4, 2)"),
        ({"total": (1,)}, {}, "total of shape (1,)", "()"),
        ({"more": (4,)}, {}, "more of shape (4,)", "(3,)"),
        ({"rows": (4,)}, {}, "rows of shape (4,)", "(n, d)"),
        ({}, {"d": 7}, "rows of shape (4, 3)", "(n, 7)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_by_name(wrong, sizes, got, expected) -> None:
    with refuses(ShapeError, f"got {got}; expected {expected}"):
        checks.shapes(shaped(**wrong), **sizes)


def test_a_field_that_is_no_tensor_is_refused() -> None:
    with refuses(BilensError, "rows of type list; expected a torch.Tensor"):
        checks.shapes(dataclasses.replace(shaped(), rows=[[1.0]]))
