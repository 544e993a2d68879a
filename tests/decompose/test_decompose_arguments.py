"""What decompositions take as numbers, and how they name what they cannot take."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bilens import decompose
from bilens.dictionary import Dictionary
from bilens.errors import BilensError
from bilens.space import Space
from bilens.tensor import BilinearTensor
from messages import refuses
from strategies import filled

pytestmark = pytest.mark.bad_input

X, Y = Space("x", 4), Space("y", 3)
B = BilinearTensor(filled("normal", 6, 4, 0), filled("normal", 6, 4, 1), filled("normal", 3, 6, 2), X, Y)
Q = B.kernel(0)
ATOMS = Dictionary.from_atoms(filled("normal", 5, 4, 3), X)
ROWS = filled("normal", 5, 4, 3)
MATRIX = np.eye(4)
SVD, BASIS, SPECTRUM = decompose.svd(B), decompose.input_basis(B), decompose.eigh(Q)
SPECTRA, TERMS = decompose.eigh_many(B, None, 2), decompose.interactions(B)

REFUSED = {
    "tensor of type Kernel": [
        lambda: decompose.svd(Q),
        lambda: decompose.svd_accurate(Q),
        lambda: decompose.cp(Q, 2),
        lambda: decompose.cp_symmetric(Q, 2),
        lambda: decompose.input_basis(Q),
        lambda: decompose.eigh_many(Q),
        lambda: decompose.spectra_stream(Q),
        lambda: decompose.squared_norms(Q),
        lambda: decompose.interactions(Q),
    ],
    "kernel of type BilinearTensor": [
        lambda: decompose.eigh(B),
        lambda: decompose.eigh_weighted(B, torch.eye(4)),
        lambda: decompose.eigh_pullback(B, ATOMS),
        lambda: decompose.eigh_coordinates(B, ATOMS),
        lambda: decompose.eigvalsh_pullback(B, ATOMS),
    ],
    "dictionary of type Tensor": [
        lambda: decompose.eigh_pullback(Q, ROWS),
        lambda: decompose.eigh_coordinates(Q, ROWS),
        lambda: decompose.eigvalsh_pullback(Q, ROWS),
    ],
    "directions of type ndarray": [lambda: decompose.eigh_many(B, MATRIX)],
    "second moment of type ndarray": [lambda: decompose.eigh_weighted(Q, MATRIX)],
    "x of type ndarray": [lambda: decompose.second_moment(MATRIX, X)],
    "input of type int": [lambda: decompose.second_moment(ROWS, 4)],
    "scores of type list": [lambda: decompose.participation_ratio([1.0])],
    "scores of type int": [lambda: TERMS.keep(1, 3)],
    "codes of type ndarray": [lambda: TERMS(MATRIX)],
    "matrix of type ndarray": [lambda: TERMS.then(MATRIX, Y)],
    "interactions of type int": [lambda: TERMS.without(3)],
    "effects of type list": [lambda: TERMS.magnitude([1, 2, 3])],
    "a part of type int": [lambda: decompose.Spectra.join([3], Y)],
    "parts of type Tensor": [lambda: decompose.Spectra.join(torch.tensor(2.0), Y)],
    "features of type str": [lambda: decompose.Spectra.join([SPECTRA], "x")],
    "energy = 'x'": [lambda: SPECTRA.spectrum(0, "x")],
    "x_norm = None; expected a number": [lambda: SPECTRUM.bound(None), lambda: SPECTRA.bound(None)],
    "x_norm = '3'": [lambda: SPECTRUM.bound("3"), lambda: SPECTRA.bound("3")],
    "x_norm = 1j": [lambda: SPECTRUM.bound(1j), lambda: SPECTRA.bound(1j)],
    "x_norm of type torch.complex64": [
        lambda: SPECTRUM.bound(torch.ones(2, dtype=torch.complex64)),
        lambda: SPECTRA.bound(torch.ones(2, dtype=torch.complex64)),
    ],
    "which of type ndarray; expected one of magnitude": [lambda: decompose.eigh_many(B, which=np.array([1, 2]))],
    "method of type ndarray; expected one of full": [lambda: decompose.eigh_many(B, method=np.array([1, 2]))],
    "progress = 'no'": [lambda: decompose.eigh_many(B, progress="no"), lambda: decompose.cp(B, 2, progress="no")],
    "k of more than a thousand digits": [lambda: decompose.eigh(Q, 10**5000), lambda: decompose.svd(B, 10**5000)],
    "rank = 1000000000000000000000000000000;": [
        lambda: decompose.cp(B, 10**30),
        lambda: decompose.cp_symmetric(B, 10**30),
    ],
    "k = 1.5; expected a whole number": [
        lambda: decompose.svd(B, 1.5),
        lambda: decompose.svd_accurate(B, 1.5),
        lambda: decompose.input_basis(B, 1.5),
        lambda: decompose.eigh(Q, 1.5),
        lambda: decompose.eigh_weighted(Q, torch.eye(4), 1.5),
        lambda: decompose.eigh_pullback(Q, ATOMS, 1.5),
        lambda: decompose.eigh_many(B, None, 1.5),
        lambda: SVD.truncate(1.5),
        lambda: SVD.bound(1.5, 1.0),
        lambda: BASIS.bound(1.5, 1.0),
        lambda: SPECTRUM.keep(1.5),
        lambda: TERMS.keep(1.5, TERMS.coefficients),
    ],
    "component = 1.5": [lambda: SVD.kernel(1.5)],
    "batch = 0.5": [lambda: decompose.spectra_stream(B, None, 2).batch(0.5)],
    "batch_size = 2.5": [lambda: decompose.spectra_stream(B, None, 2, batch_size=2.5)],
    "block = 1.5": [lambda: decompose.squared_norms(B, block=1.5), lambda: decompose.svd_accurate(B, block=1.5)],
    "rank = 2.0": [lambda: decompose.cp(B, 2.0)],
    "starts = 1.5": [
        lambda: decompose.cp(B, 2, starts=1.5),
    ],
    "steps = 'a'": [
        lambda: decompose.cp(B, 2, steps="a"),
    ],
    "seed = 1.5": [
        lambda: decompose.eigh_many(B, None, 2, seed=1.5),
        lambda: decompose.cp(B, 2, seed=1.5),
    ],
    "tol = 'x'": [lambda: decompose.eigh_many(B, None, 2, tol="x"), lambda: decompose.cp(B, 2, tol="x")],
    "ridge = None": [lambda: decompose.cp_symmetric(B, 2, ridge=None)],
}


@pytest.mark.parametrize(("said", "call"), [(said, call) for said, calls in REFUSED.items() for call in calls])
def test_what_cannot_be_taken_is_named(said: str, call: Any) -> None:
    with refuses(BilensError, said):
        call()


TAKEN = [
    (lambda k: decompose.svd(B, k), ("values", "outputs")),
    (lambda k: decompose.svd_accurate(B, k, block=k), ("values", "outputs")),
    (lambda k: decompose.input_basis(B, k), ("values", "vectors")),
    (lambda k: decompose.eigh(Q, k), ("values", "vectors")),
    (lambda k: decompose.eigh_weighted(Q, torch.eye(4), k), ("values", "readers")),
    (lambda k: decompose.eigh_pullback(Q, ATOMS, k), ("values", "vectors")),
    (lambda k: decompose.eigh_many(B, None, k, seed=k, tol=k / 1e6), ("values", "vectors")),
    (lambda k: decompose.cp(B, k, starts=k, seed=k, steps=k, tol=k, ridge=k, progress=False), ("values", "left")),
    (lambda k: SPECTRUM.keep(k), ("values", "vectors")),
    (lambda k: SVD.truncate(k), ("left", "down")),
    (lambda k: TERMS.keep(k, TERMS.coefficients), ("coefficients",)),
]


@pytest.mark.parametrize(("call", "fields"), TAKEN)
def test_numpys_numbers_mean_what_pythons_do(call: Any, fields: tuple[str, ...]) -> None:
    ours, theirs = call(2), call(np.int64(2))
    for field in fields:
        assert torch.equal(getattr(ours, field), getattr(theirs, field))


def test_an_energy_and_a_norm_may_be_pythons_numbers() -> None:
    energy = decompose.squared_norms(B)[0]
    ours, theirs = SPECTRA.spectrum(0, energy), SPECTRA.spectrum(0, float(energy))
    assert torch.equal(ours.energy, theirs.energy)
    assert torch.equal(SPECTRA.bound(0.1), SPECTRA.bound(torch.tensor(0.1, dtype=torch.float64)))
    assert torch.equal(SPECTRUM.bound(0.1), SPECTRUM.bound(torch.tensor(0.1, dtype=torch.float64)))


def test_the_settings_of_a_stream_are_pythons_own() -> None:
    stream = decompose.spectra_stream(
        B, None, np.int64(2), tol=np.float32(0.5), batch_size=np.int32(2), seed=np.int8(1)
    )
    kinds = {name: type(stream.settings[name]) for name in ("k", "tol", "batch_size", "seed")}
    assert kinds == {"k": int, "tol": float, "batch_size": int, "seed": int}
