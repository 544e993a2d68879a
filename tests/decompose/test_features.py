"""Spectra in feature coordinates, against the dense m × m matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import oracle
from bilens import decompose
from bilens.dictionary import Dictionary
from bilens.errors import BilensError, SpaceError
from bilens.kernel import Kernel
from bilens.space import Space
from largest import Largest
from messages import refuses
from oracle import array, near
from strategies import SEEDS, dictionaries, filled, kernels


def folded(kernel: Kernel, d: Dictionary, rows: torch.Tensor) -> tuple[oracle.Array, oracle.Array]:
    """The dense kernel and the rows of the dictionary, both over the folded space when one of them needs it."""
    q, x = oracle.dense(kernel.left, kernel.right, kernel.weights[None])[0], array(rows)
    if not (kernel.input.constant or d.offset is not None):
        return q, x
    if not kernel.input.constant:
        q = np.pad(q, ((0, 1), (0, 1)))
    return q, x


def dense(kernel: Kernel, d: Dictionary, *, duals: bool) -> oracle.Array:
    """F Q Fᵀ from the definition, the affine atom [b; 1] last."""
    atoms = array(d.atoms)
    if kernel.input.constant or d.offset is not None:
        offset = np.zeros(d.space.dim) if d.offset is None else array(d.offset)
        atoms = np.block([[atoms, np.zeros((len(atoms), 1))], [offset[None], np.ones((1, 1))]])
    q, x = folded(kernel, d, atoms)
    if duals:
        x = oracle.pinv(x).T
    return x @ q @ x.T


def natural(kernel: Kernel, rows: oracle.Array) -> float:
    q = np.linalg.norm(oracle.dense(kernel.left.abs(), kernel.right.abs(), kernel.weights.abs()[None]))
    return float(q * max(np.linalg.norm(rows) ** 2, 1))


@given(st.data(), kernels(), st.booleans())
def test_spectrum_in_features_is_that_of_the_dense_matrix(data, kernel, duals):
    d = data.draw(dictionaries(kernel.input.without_constant(), max_atoms=12))
    expected = dense(kernel, d, duals=duals)
    most = min(len(expected), kernel.input.dim + (not kernel.input.constant and d.offset is not None))
    k = data.draw(st.none() | st.integers(1, most))
    find = decompose.eigh_coordinates if duals else decompose.eigh_pullback
    spectrum = find(kernel, d, k)
    values, vectors = array(spectrum.values), array(spectrum.vectors)
    scale = natural(kernel, array(d.duals if duals else d.atoms)) + 1
    size = np.sort(abs(np.linalg.eigvalsh(expected)))[::-1]
    assert len(values) == (most if k is None else k)
    assert spectrum.input.dim == len(expected)
    near(abs(values), size[: len(values)], scale, rtol=1e-8)
    near(vectors @ vectors.T, np.eye(len(values)), rtol=1e-8)
    near(vectors @ expected, values[:, None] * vectors, scale, rtol=1e-8)
    near(spectrum.residuals, np.zeros(len(values)), scale, rtol=1e-8)
    near(spectrum.energy, (expected**2).sum(), scale**2, rtol=1e-8)
    near(spectrum.discarded, size[len(values)] if len(values) < len(size) else 0, scale, rtol=1e-8)


@pytest.mark.parametrize("small", [1e-1, 1e-5, 1e-12, 0.0])
def test_nearly_dependent_atoms_keep_vectors_orthonormal(small):
    atoms = filled("normal", 40, 6, 3)
    atoms[:, -1] = atoms[:, 0] + small * atoms[:, -1]
    kernel = Kernel(filled("normal", 9, 6, 0), filled("normal", 9, 6, 1), filled("normal", 1, 9, 2)[0], Space("x", 6))
    spectrum = decompose.eigh_pullback(kernel, Dictionary.from_atoms(atoms, kernel.input))
    expected = dense(kernel, Dictionary.from_atoms(atoms, kernel.input), duals=False)
    near(spectrum.vectors @ spectrum.vectors.T, np.eye(6))
    near(array(spectrum.vectors) @ expected, array(spectrum.values)[:, None] * array(spectrum.vectors), 1e4)


def test_nothing_of_the_size_of_features_squared_is_made():
    m, i = 3000, 20
    kernel = Kernel(filled("normal", 30, i, 0), filled("normal", 30, i, 1), torch.ones(30).double(), Space("x", i))
    atoms = filled("normal", m, i, 2)
    d = Dictionary(atoms, atoms, kernel.input, Space("f", m), i)
    with Largest() as largest:
        decompose.eigh_pullback(kernel, d, 4)
    assert largest.numel <= m * i


@given(SEEDS)
def test_an_answer_comes_in_the_type_of_the_kernel(seed):
    kernel = Kernel(*(filled("normal", 5, 4, seed + n).float() for n in (0, 1)), torch.ones(5), Space("x", 4))
    spectrum = decompose.eigh_pullback(
        kernel, Dictionary.from_atoms(filled("normal", 9, 4, seed).float(), kernel.input)
    )
    assert {spectrum.values.dtype, spectrum.vectors.dtype, spectrum.residuals.dtype} == {torch.float32}


@pytest.mark.parametrize("of", ["atoms", "affine atoms", "duals"])
@pytest.mark.parametrize("small", [1.0, 1e-3, 0.0])
def test_a_few_pairs_of_a_kernel_in_float32_are_as_right_as_in_float64(small, of):
    """At `small` 0 the atoms do not span the space and go through QR; before, through Cholesky in either type."""
    i, m = 40, 300
    atoms = filled("normal", m, i, 3)
    atoms[:, -1] = atoms[:, 0] + small * atoms[:, -1]
    left, right = (filled("normal", 50, i, n).float() for n in (0, 1))
    kernel = Kernel(left, right, filled("normal", 1, 50, 2)[0].float(), Space("x", i))
    offset = filled("normal", 1, i, 4)[0].float() if of == "affine atoms" else None
    d = Dictionary.from_atoms(atoms.float(), kernel.input, offset=offset)
    if of == "duals":
        spectrum = decompose.eigh_coordinates(kernel, d, 4)
        expected = array(d.duals) @ oracle.dense(left, right, kernel.weights[None])[0] @ array(d.duals).T
    else:
        spectrum, expected = decompose.eigh_pullback(kernel, d, 4), dense(kernel, d, duals=False)
    size = np.sort(abs(np.linalg.eigvalsh(expected)))[::-1]
    values, vectors = array(spectrum.values), array(spectrum.vectors)
    near(abs(values), size[:4], size[0], rtol=3e-7)  # that much is the type of the answer
    near(vectors @ vectors.T, np.eye(4), rtol=1e-6)
    near(vectors @ expected, values[:, None] * vectors, size[0], rtol=1e-5)
    far = np.linalg.norm(vectors @ expected - values[:, None] * vectors, axis=1)
    near(spectrum.residuals, far, size[0], rtol=1e-6)
    assert bool((array(spectrum.residuals) >= far - 1e-7 * size[0]).all())
    near(spectrum.discarded, size[4], size[0], rtol=2e-5)
    assert float(spectrum.discarded) >= size[4]
    near(spectrum.energy, (size**2).sum(), size[0] ** 2, rtol=1e-4)


def test_factors_of_any_size_as_long_as_the_answer_fits():
    left, right, atoms = filled("normal", 30, 20, 0), filled("normal", 30, 20, 1), filled("normal", 200, 20, 2)
    weights = filled("normal", 1, 30, 3)[0]
    plain = Kernel(left.float(), right.float(), weights.float(), Space("x", 20))
    d = Dictionary(atoms.float(), atoms.float(), plain.input, Space("f", 200), 20)
    large = Kernel(plain.left, plain.right, plain.weights * 2.0**120, plain.input)
    small = Dictionary(d.atoms * 2.0**-60, d.duals, d.space, d.features, d.rank)
    for find in (lambda q, f: decompose.eigh_pullback(q, f, 2).values, decompose.eigvalsh_pullback):
        near(find(large, small), find(plain, d), 1e4, rtol=1e-6)
        with refuses(BilensError, "eigenvalues beyond", "float64"):
            find(large, Dictionary(d.atoms * 2.0**20, d.duals, d.space, d.features, d.rank))


@given(st.data(), kernels())
def test_eigenvalues_alone_are_those_of_the_dense_matrix(data, kernel):
    d = data.draw(dictionaries(kernel.input.without_constant(), max_atoms=12))
    levels = np.linalg.eigvalsh(dense(kernel, d, duals=False))
    values = array(decompose.eigvalsh_pullback(kernel, d))
    scale = natural(kernel, array(d.atoms)) + 1
    expected = np.sort(levels[np.argsort(-abs(levels), kind="stable")][: len(values)])
    near(np.sort(values), expected, scale, rtol=1e-8)
    assert bool((np.diff(abs(values)) <= 0).all())
    single = Kernel(kernel.left.float(), kernel.right.float(), kernel.weights.float(), kernel.input)
    near(np.sort(array(decompose.eigvalsh_pullback(single, d))), expected, scale, rtol=1e-4)


def test_nearly_dependent_atoms_are_factorised_once_and_in_float64(monkeypatch):
    atoms = torch.cat([filled("normal", 16, 40, 0).T, filled("normal", 16, 40, 0).T], dim=1).float()
    atoms[:, 16:] += 1e-4 * filled("normal", 40, 16, 1).float()
    kernel = Kernel.from_matrix(filled("normal", 32, 32, 2).float(), Space("x", 32))
    factorised, qr = [], torch.linalg.qr
    monkeypatch.setattr(torch.linalg, "qr", lambda rows: factorised.append(rows.dtype) or qr(rows))
    found = decompose.eigh_pullback(kernel, Dictionary.from_atoms(atoms, kernel.input), 2)
    assert factorised == [torch.float64]
    dense = atoms.double() @ kernel.dense().double() @ atoms.double().T
    levels = np.linalg.eigvalsh(array(dense))
    near(np.sort(abs(array(found.values))), np.sort(abs(levels))[-2:], abs(levels).max(), rtol=1e-6)


def test_refuses_another_space_and_pairs_that_are_not_there():
    kernel = Kernel.from_matrix(torch.eye(3).double(), Space("x", 3))
    d = Dictionary.from_atoms(filled("normal", 5, 3, 0), kernel.input)
    for find in (decompose.eigh_pullback, decompose.eigh_coordinates):
        for k in (0, 4):
            with refuses(BilensError, f"k = {k}", "1 ≤ k ≤ 3"):
                find(kernel, d, k)
        with refuses(SpaceError, "a dictionary over space 'z'"):
            find(kernel, Dictionary.from_atoms(filled("normal", 5, 3, 0), Space("z", 3)))
