"""Tensors that hold no numbers to compute with, at every door: one line of ours, never torch's own error."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bilens import decompose, faithfulness, matching, pairs, sae
from bilens._internal import checks
from bilens.data import Split
from bilens.decompose.metric import Metric
from bilens.dictionary import Dictionary
from bilens.errors import BilensError, ShapeError
from bilens.score import ScoreTensor, rotate
from bilens.space import Space
from bilens.statistics import interval
from bilens.tensor import BilinearTensor
from messages import refuses

pytestmark = [pytest.mark.bad_input, pytest.mark.filterwarnings("ignore:.*quantiz")]

X, Y = Space("x", 4), Space("y", 3)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


B = BilinearTensor.from_layer(normal(5, 4), normal(5, 4, seed=1), normal(3, 5), input=X, output=Y)
ROWS, EFFECTS, LABELS = normal(6, 4), normal(3).abs(), torch.tensor([0, 1, 2, 0, 1, 2])
MOMENT = decompose.second_moment(ROWS, X)
KERNEL, ATOMS = B.kernel(0), Dictionary.from_atoms(normal(6, 4), X)
EIGEN, SVD, SPECTRA = decompose.eigh(KERNEL, 2), decompose.svd(B), decompose.eigh_many(B, k=2)
ALL, STRONG = decompose.interactions(B), decompose.strongest(B, top=3)
SCORE = ScoreTensor.from_heads(*(normal(2, 4, seed=n) for n in range(4)), queries=X)
SCORES = decompose.score_svd(SCORE)
PLACES, MASK = torch.tensor([0, 2]), torch.ones(6, 6, dtype=torch.bool)

FLOATS: dict[str, tuple[Tensor, Callable[[Tensor], Any]]] = {
    "a moment of eigh_weighted": (MOMENT, lambda t: decompose.eigh_weighted(KERNEL, t)),
    "a moment of a metric": (MOMENT, lambda t: Metric.from_moment(t, X)),
    "a factor of a metric": (ROWS, lambda t: Metric.from_factor(t, X)),
    "samples of a moment": (ROWS, lambda t: decompose.second_moment(t, X)),
    "a moment of random directions": (MOMENT, lambda t: matching.random_directions(t, 2)),
    "Spectrum.bound": (torch.ones(6), EIGEN.bound),
    "TensorSVD.bound": (torch.ones(6), lambda t: SVD.bound(1, t)),
    "Spectra.bound": (torch.ones(6), SPECTRA.bound),
    "Interactions.bound": (torch.ones(6), ALL.bound),
    "StrongestInteractions.bound": (torch.ones(6), STRONG.bound),
    "InputBasis.bound": (torch.ones(6), lambda t: decompose.input_basis(B, 2).bound(2, t)),
    "ScoreSVD.bound, queries": (torch.ones(6), lambda t: SCORES.bound(t, 1.0)),
    "ScoreSVD.bound, keys": (torch.ones(6), lambda t: SCORES.bound(1.0, t)),
    "Spectrum.terms": (ROWS, EIGEN.terms),
    "Spectra.reconstruct": (ROWS, SPECTRA.reconstruct),
    "ScoreSVD.reconstruct": (ROWS, lambda t: SCORES.reconstruct(ROWS, t)),
    "StrongestInteractions": (ROWS, STRONG),
    "Interactions": (ROWS, ALL),
    "Interactions.importance, codes": (ROWS, lambda t: ALL.importance(EFFECTS, t)),
    "Interactions.importance, effects": (EFFECTS, lambda t: ALL.importance(t, ROWS)),
    "Interactions.magnitude": (EFFECTS, ALL.magnitude),
    "Interactions.active": (ROWS, ALL.active),
    "Interactions.then": (normal(2, 3), lambda t: ALL.then(t, Space("z", 2))),
    "Interactions.top": (ALL.coefficients, lambda t: ALL.top(2, t)),
    "Interactions.keep": (ALL.coefficients, lambda t: ALL.keep(2, t)),
    "an energy": (torch.tensor(1.0), lambda t: SPECTRA.spectrum(0, t)),
    "participation_ratio": (EFFECTS, decompose.participation_ratio),
    "accuracy": (normal(6, 3), lambda t: faithfulness.accuracy(t, LABELS)),
    "cross_entropy": (normal(6, 3), lambda t: faithfulness.cross_entropy(t, LABELS)),
    "whole": (normal(6, 3), lambda t: faithfulness.whole(t, LABELS)),
    "score": (normal(6, 3), lambda t: faithfulness.score(t, LABELS, 0.1)),
    "nmse": (ROWS, lambda t: sae.nmse(ROWS, t)),
    "images of a split": (ROWS.sigmoid(), lambda t: Split(t, LABELS)),
    "encode_among": (ROWS, lambda t: ATOMS.encode_among(t, MASK)),
}

WHOLE: dict[str, tuple[Tensor, Callable[[Tensor], Any]]] = {
    "labels of a score": (LABELS, lambda t: faithfulness.whole(normal(6, 3), t)),
    "labels of a split": (LABELS, lambda t: Split(ROWS.sigmoid(), t)),
    "pairs": (PLACES, lambda t: pairs.polarized(B, t, PLACES)),
    "pairs, the second": (PLACES, lambda t: pairs.symmetric(B, PLACES, t)),
    "multiplicity": (PLACES, lambda t: pairs.multiplicity(t, PLACES)),
    "unrank": (PLACES, lambda t: pairs.unrank(t, 4)),
    "permuted": (PLACES, lambda t: pairs.permuted(t, 4, 0)),
    "rotate": (torch.arange(6), lambda t: rotate(ROWS, t)),
    "Spectrum.select": (torch.tensor([0]), EIGEN.select),
    "Dictionary.restrict": (PLACES, ATOMS.restrict),
}

BAD: dict[str, Callable[[Tensor], Tensor]] = {
    "sparse": lambda t: t.to_sparse(),
    "on the meta device": lambda t: t.to("meta"),
    "complex": lambda t: t.to(torch.complex64),
    "bool": lambda t: t.bool(),
}
BAD_FLOATS = BAD | {
    "float8": lambda t: t.to(torch.float8_e4m3fn),
    "quantised": lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8),
}


@pytest.mark.parametrize("kind", BAD_FLOATS)
@pytest.mark.parametrize("name", FLOATS)
def test_what_is_no_tensor_of_numbers_is_refused(name: str, kind: str) -> None:
    value, call = FLOATS[name]
    call(value)
    with pytest.raises(BilensError) as caught:
        call(BAD_FLOATS[kind](value))
    line = str(caught.value)
    assert type(caught.value) is BilensError, line
    said = {"sparse": "layout", "on the meta device": "meta", "complex": "complex", "bool": "bool"}
    assert said.get(kind, "of type torch.") in line
    assert "; expected " in line


@pytest.mark.parametrize("kind", [*BAD, "of floats"])
@pytest.mark.parametrize("name", WHOLE)
def test_what_is_no_tensor_of_whole_numbers_is_refused(name: str, kind: str) -> None:
    value, call = WHOLE[name]
    call(value)
    if kind == "bool" and name == "Dictionary.restrict":
        kind = "complex"  # instead of a mask, which it takes
    with pytest.raises(BilensError, match=r"got .*; expected .*"):
        call(value.float() if kind == "of floats" else BAD[kind](value))


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", [name for name in FLOATS if name.endswith(".bound") or ".bound," in name])
def test_a_norm_that_no_vector_has_is_refused(name: str, value: float) -> None:
    _, call = FLOATS[name]
    for given in (value, torch.tensor([0.5, value])):
        with refuses(BilensError, f"norm = {value:.4g}", "finite numbers of at least 0"):
            call(given)  # type: ignore[arg-type]
    for given in (None, "a", True, [[1.0], [1.0, 2.0]]):
        with refuses(BilensError, "norm", "a number, or a tensor of numbers"):
            call(given)  # type: ignore[arg-type]


def test_the_second_norm_is_named_and_both_must_go_together() -> None:
    with refuses(BilensError, "got y_norm = -1;"):
        SCORES.bound(1.0, -1.0)
    with refuses(ShapeError, "(2,) and (3,)", "as many of both"):
        SCORES.bound(torch.ones(2), torch.ones(3))
    with refuses(ShapeError, "(2,) and (3,)", "as many of both"):
        SCORES.reconstruct(ROWS[:2], ROWS[:3])
    with refuses(ShapeError, "(2,) and (3,)", "as many of both"):
        rotate(ROWS[:3], torch.arange(2))


def test_a_bound_at_good_norms_is_what_it_was() -> None:
    norms = torch.tensor([0.0, 1.0, 2.0])
    bounds = EIGEN.bound(norms)
    assert bounds[0] == 0
    torch.testing.assert_close(bounds[2], 4 * bounds[1])
    torch.testing.assert_close(EIGEN.bound(2), bounds[2])


@pytest.mark.parametrize("shape", [(4,), (1, 6, 4)])
def test_codes_that_are_no_matrix_are_refused(shape: tuple[int, ...]) -> None:
    for call in (ALL, STRONG, ALL.active, lambda t: ALL.importance(EFFECTS, t)):
        with refuses(ShapeError, f"vectors of shape {shape}", "(n, 4)"):
            call(torch.ones(shape))
    for call in (ALL.active, lambda t: ALL.importance(EFFECTS, t)):
        with refuses(ShapeError, "vectors of shape (0, 4)", "n ≥ 1"):
            call(torch.ones(0, 4))


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (None, "active of type NoneType"),
        (torch.ones(6, 6), "active of type torch.float32"),
        (torch.full((6, 6), math.nan), "active of type torch.float32"),
        (torch.ones(6, 6, dtype=torch.int64), "active of type torch.int64"),
        (MASK.to("meta"), "active on meta"),
        (MASK.to_sparse(), "active with layout"),
        (MASK[:, :5], "active of shape (6, 5)"),
        (MASK[0], "active of shape (6,)"),
        (MASK.numpy(), "active of type ndarray"),
    ],
)
def test_a_mask_of_atoms_that_is_none_is_refused(mask: Any, words: str) -> None:
    with refuses(ShapeError if "shape" in words else BilensError, words):
        ATOMS.encode_among(ROWS, mask)


@pytest.mark.parametrize("limit", [None, -1, 1.5, "a", torch.ones(2), np.arange(3), True])
def test_a_limit_that_is_no_number_of_bytes_is_refused(limit: Any) -> None:
    for call in (B.to_dense, lambda limit: decompose.interactions(B, limit)):
        with refuses(BilensError, "limit", "a whole number of at least 0"):
            call(limit)


def test_spaces_and_dictionaries_take_texts_and_flags() -> None:
    for labels in (5, True, 1.5, object(), np.array(1.0)):
        with refuses(BilensError, f"labels of type {type(labels).__name__}", "one text per coordinate"):
            Space("x", 4, labels)  # type: ignore[arg-type]
        with refuses(BilensError, f"labels of type {type(labels).__name__}", "one text per atom"):
            Dictionary.from_atoms(normal(6, 4), X, labels=labels)  # type: ignore[arg-type]
    for constant in (math.nan, 1, torch.tensor(1.0), None):
        with refuses(BilensError, "constant", "True or False"):
            Space("x", 4, constant=constant)  # type: ignore[arg-type]
    for name in (np.arange(3), torch.ones(0), 3):
        with refuses(BilensError, "name of type", "a text"):
            Dictionary.from_atoms(normal(6, 4), X, name=name)  # type: ignore[arg-type]
    for dtype in (torch.int64, torch.float8_e4m3fn, bool, None, np.arange(3)):
        with refuses(BilensError, "dtype", "a floating-point type of torch"):
            Dictionary.identity(X, dtype=dtype)  # type: ignore[arg-type]
    for other in (None, 3, "x"):
        with refuses(BilensError, "a vector of type", "a Space"):
            X.require(other, "a vector")  # type: ignore[arg-type]
    with refuses(BilensError, "target of type ndarray"):
        B.to(np.arange(3))  # type: ignore[arg-type]
    with refuses(BilensError, "samples of type int", "a list of numbers"):
        interval(3)  # type: ignore[arg-type]


def test_whole_numbers_of_every_type_are_taken_within_their_bounds() -> None:
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64):
        found = checks.integers("places", torch.tensor([0, 3], dtype=dtype), 0, 3)
        assert found.dtype == torch.int64
        assert found.tolist() == [0, 3]
    assert checks.integers("places", torch.zeros(0, dtype=torch.int32), 0, 3).numel() == 0
    with refuses(BilensError, "places from -1 to 3", "whole numbers from 0 to 3", "Count from 0."):
        checks.integers("places", torch.tensor([3, -1]), 0, 3, hint="count from 0")
    with refuses(BilensError, "places from 0 to 4", "from 0 to 3"):
        checks.integers("places", torch.tensor([4, 0]), 0, 3)
    with refuses(BilensError, "places from -1 to -1", "whole numbers of at least 0"):
        checks.integers("places", torch.tensor([-1]), 0)
