"""What functions of pairs take as numbers, and how they name what they cannot take."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bilens import pairs, sae
from bilens.errors import BilensError, ShapeError
from bilens.space import Space
from bilens.tensor import BilinearTensor
from messages import refuses
from strategies import filled

pytestmark = pytest.mark.bad_input

B = BilinearTensor(
    filled("normal", 6, 4, 0), filled("normal", 6, 4, 1), filled("normal", 3, 6, 2), Space("x", 4), Space("y", 3)
)
Q = B.kernel(0)
MATRIX = np.eye(4)
WEIGHTS = torch.ones(10, dtype=torch.float64)
CODES = pairs.PairCodes.of(pairs.stream(B, shuffle=False), torch.relu)

ROWS = [
    lambda **settings: pairs.stream(B, **settings),
    lambda **settings: pairs.stream(B, **settings, shuffle=False),
    lambda **settings: pairs.stream(B, kind="two_hot", **settings),
    lambda **settings: pairs.stream(B, kind="symmetric", **settings),
    lambda **settings: pairs.sampled(B, WEIGHTS, **settings),
]

REFUSED = {
    "tensor of type Kernel": [
        lambda: pairs.stream(Q),
        lambda: pairs.sampled(Q, WEIGHTS),
        lambda: pairs.norms(Q),
        lambda: pairs.contract(Q, torch.eye(4)),
        lambda: pairs.polarized(Q, torch.tensor([0]), torch.tensor([1])),
    ],
    "dictionary of type Tensor": [lambda: pairs.stream(B, torch.eye(4)), lambda: pairs.norms(B, torch.eye(4))],
    "moments of type ndarray": [lambda: pairs.moment_weights(MATRIX)],
    "codes of type ndarray": [
        lambda: pairs.second_moments(MATRIX),
        lambda: pairs.contract(B, MATRIX),
        lambda: CODES.contract(MATRIX, torch.eye(3)),
    ],
    "weights of type list": [lambda: pairs.sampled(B, [1] * 10)],
    "i of type list": [lambda: pairs.two_hot(B, [0], [1]), lambda: pairs.multiplicity([0], [1])],
    "i of type torch.float32": [lambda: pairs.symmetric(B, torch.tensor([0.5]), torch.tensor([1.0]))],
    "stream of type TensorStream": [lambda: pairs.PairCodes.of(sae.TensorStream(torch.eye(3)), torch.relu)],
    "width = 1.5": [lambda: pairs.PairCodes.of(pairs.stream(B, shuffle=False), torch.relu, width=1.5)],
    "feature = 1.5": [lambda: CODES.kernel(1.5)],
    "start = 3; expected a whole number, 0 ≤ start ≤ 2": [lambda: CODES.decode(3, 2, torch.eye(3))],
    "stop = 11": [lambda: CODES.decode(0, 11, torch.eye(3))],
    "block = 1.5": [lambda: pairs.norms(B, block=1.5)],
    "m = 2.5": [lambda: pairs.count(2.5), lambda: pairs.unrank(torch.arange(3), 2.5)],
    "places of type int": [lambda: pairs.unrank(3, 4), lambda: pairs.permuted(3, 4, 0)],
    "places from 100 to 100; expected whole numbers from 0 to 14": [lambda: pairs.unrank(torch.tensor([100]), 5)],
    "places from -1 to 3": [
        lambda: pairs.unrank(torch.tensor([3, -1]), 5),
        lambda: pairs.permuted(torch.tensor([3, -1]), 5, 0),
    ],
    "places from 15 to 15": [lambda: pairs.unrank(torch.tensor([15]), 5)],
    "places from 5 to 5; expected whole numbers from 0 to 4": [lambda: pairs.permuted(torch.tensor([5]), 5, 0)],
    "places of type torch.float32": [
        lambda: pairs.unrank(torch.tensor([1.5]), 5),
        lambda: pairs.permuted(torch.tensor(2.0), 5, 0),
    ],
    "kind of type ndarray; expected 'polarized' or": [
        lambda: pairs.norms(B, kind=np.array([1, 2])),
        lambda: pairs.sampled(B, WEIGHTS, kind=np.array([1, 2])),
    ],
    "shuffle = '3'; expected True or False": [
        lambda: pairs.stream(B, shuffle="3"),
        lambda: pairs.stream(B, kind="two_hot", shuffle="3"),
        lambda: pairs.stream(B, kind="symmetric", shuffle="3"),
    ],
    "start = '0'": [lambda: pairs.stream(B).part(0, "0", 2), lambda: pairs.sampled(B, WEIGHTS).part(0, "0", 2)],
    "start = -1": [lambda: pairs.stream(B).part(0, -1, 2)],
    "stop = 1.5": [lambda: pairs.stream(B).part(0, 0, 1.5)],
    "features of type BilinearTensor": [lambda: pairs.PairStream(B, "polarized", 4, 0)],
}


@pytest.mark.parametrize(("said", "call"), [(said, call) for said, calls in REFUSED.items() for call in calls])
def test_what_cannot_be_taken_is_named(said: str, call: Any) -> None:
    with refuses(BilensError, said):
        call()


def test_a_place_alone_is_no_list_to_permute() -> None:
    with refuses(ShapeError, "places of shape ()", "one-dimensional"):
        pairs.permuted(torch.tensor(2), 5, 0)


def test_places_of_small_types_are_counted_whole() -> None:
    places = torch.tensor([0, 100, 200], dtype=torch.uint8)
    for ours, theirs in zip(pairs.unrank(places, 30), pairs.unrank(places.long(), 30), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("make", ROWS)
def test_streams_name_numbers_that_they_cannot_take(make: Any) -> None:
    for settings, said in (({"batch_size": 2.5}, "batch_size = 2.5"), ({"seed": 1.5}, "seed = 1.5")):
        with refuses(BilensError, said, "a whole number"):
            make(**settings)
    stream = make(batch_size=4)
    asked = ("batch", "pairs", "size", "importance", "weighted")
    for ask in [getattr(stream, name) for name in asked if hasattr(stream, name)]:
        for n in (-1, 1.5, "a"):
            with refuses(BilensError, f"batch = {n!r}", "a whole number of at least 0"):
                ask(n)


@pytest.mark.parametrize("make", ROWS)
def test_streams_take_numpys_numbers(make: Any) -> None:
    ours, theirs = make(batch_size=4, seed=3), make(batch_size=np.int64(4), seed=np.int64(3))
    assert torch.equal(ours.batch(5), theirs.batch(np.int64(5)))
    assert (type(theirs.batch_size), type(theirs.seed)) == (int, int)
