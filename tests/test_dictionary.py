"""Dictionaries: duals, codes, restriction, folding and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import oracle
from bilens.dictionary import Dictionary, pseudoinverse_duals
from bilens.errors import BilensError, ShapeError, SpaceError
from bilens.space import Space
from messages import refuses
from oracle import array, near
from strategies import ATOMS, SEEDS, atoms_of, dictionaries, samples

SPACE = Space("y", 3)
EYE = torch.eye(3, dtype=torch.float64)


@given(st.sampled_from(ATOMS), st.integers(1, 8), st.integers(1, 6), SEEDS)
def test_duals_are_the_moore_penrose_inverse(kind, m, n, seed):
    atoms = atoms_of(kind, m, n, seed)
    duals, rank = pseudoinverse_duals(atoms)
    a, p = array(atoms), array(duals).T  # p = A⁺, (n, m)
    assert rank == oracle.rank(atoms)
    size = 1 + np.linalg.norm(a) * np.linalg.norm(p)
    near(a @ p @ a, a, size**2 * np.linalg.norm(a))
    near(p @ a @ p, p, size**2 * np.linalg.norm(p))
    near(a @ p, (a @ p).T, size**2)
    near(p @ a, (p @ a).T, size**2)
    near(p, oracle.pinv(a), size**2 * np.linalg.norm(p))


@given(st.data(), st.integers(1, 5))
def test_codes_are_the_least_norm_least_squares_ones(data, size):
    space = Space("y", size)
    dictionary = data.draw(dictionaries(space))
    y = data.draw(samples(size))
    a, b = array(dictionary.atoms), 0.0 if dictionary.offset is None else array(dictionary.offset)
    expected = np.stack([np.linalg.lstsq(a.T, row, rcond=1e-10)[0] for row in array(y) - b])
    inverse = 1 + np.linalg.norm(oracle.pinv(a))
    scale = inverse**2 * (1 + np.linalg.norm(a)) * (abs(array(y)).max() + np.abs(b).max())
    near(dictionary.encode(y), expected, scale)
    near(dictionary.encode(y[0]), expected[0], scale)
    near(dictionary.decode(dictionary.encode(y)), expected @ a + b, scale * inverse)
    near(dictionary.project(y), (array(y) - b) @ oracle.projector(a) + b, scale * inverse)
    near(dictionary.project(dictionary.project(y)), dictionary.project(y), scale * inverse)


@given(SEEDS, st.integers(1, 6), st.integers(1, 5), st.booleans())
@example(0, 3, 5, True)
def test_codes_among_active_atoms_are_least_squares_on_those_alone(seed, m, n, offset):
    generator = torch.Generator().manual_seed(seed)
    atoms, y = (torch.randn(rows, n, generator=generator, dtype=torch.float64) for rows in (m, 4))
    b = torch.randn(n, generator=generator, dtype=torch.float64) if offset else None
    active = torch.rand(4, m, generator=generator) < 0.5
    codes = array(Dictionary.from_atoms(atoms, Space("y", n), offset=b).encode_among(y, active))
    for row in range(4):
        chosen = active.numpy()[row].nonzero()[0]
        assert not codes[row][~active.numpy()[row]].any()
        shifted = array(y)[row] - (0 if b is None else array(b))
        solved = np.linalg.lstsq(array(atoms)[chosen].T, shifted, rcond=None)[0] if len(chosen) else np.zeros(0)
        near(codes[row][chosen] @ array(atoms)[chosen], solved @ array(atoms)[chosen], 1e3 * np.linalg.norm(shifted))


@pytest.mark.bad_input
def test_refuses_a_mask_that_does_not_fit_the_vectors():
    dictionary = Dictionary.from_atoms(torch.eye(3), Space("y", 3))
    with refuses(ShapeError, "active of shape (2, 2)", "(2, 3)"):
        dictionary.encode_among(torch.zeros(2, 3), torch.ones(2, 2, dtype=torch.bool))


@given(st.data(), st.integers(1, 5))
def test_decode_is_a_sum_of_atoms(data, size):
    dictionary = data.draw(dictionaries(Space("y", size)))
    codes = data.draw(samples(dictionary.features.dim))
    expected = np.zeros((len(codes), size)) if dictionary.offset is None else array(dictionary.offset)
    for k, atom in enumerate(array(dictionary.atoms)):
        expected = expected + array(codes)[:, k : k + 1] * atom
    near(dictionary.decode(codes), expected, abs(array(codes)) @ abs(array(dictionary.atoms)) + abs(expected))


@given(st.sampled_from(ATOMS), st.integers(1, 6), st.integers(1, 5), SEEDS)
def test_single_precision_is_kept_and_decided_in_its_own_precision(kind, m, n, seed):
    atoms = atoms_of(kind, m, n, seed)
    single = Dictionary.from_atoms(atoms.float(), Space("y", n), offset=torch.ones(n))
    assert single.atoms.dtype == single.duals.dtype == single.fold().duals.dtype == torch.float32
    assert single.rank == oracle.rank(atoms)
    size = 1 + np.linalg.norm(array(atoms)) * np.linalg.norm(array(single.duals))
    near(single.duals.T, oracle.pinv(atoms), size**2 * np.linalg.norm(array(single.duals)), rtol=1e-5)


def test_rounding_in_single_precision_is_not_a_direction():
    atoms = torch.tensor([[1.0, 1.0], [1.0, 1.0 + 2e-7]])  # equal but for the last bit
    assert Dictionary.from_atoms(atoms, Space("y", 2)).rank == 1
    assert Dictionary.from_atoms(atoms.double(), Space("y", 2)).rank == 2
    assert Dictionary.from_atoms(atoms.double(), Space("y", 2), rtol=1e-6).rank == 1


def test_identity_is_its_own_dual():
    for space in (SPACE, SPACE.with_constant()):
        same = Dictionary.identity(space, dtype=torch.float64)
        assert (same.rank, same.features, same.space) == (space.dim, space, space)
        y = torch.arange(float(space.dim), dtype=torch.float64)
        near(same.encode(y), y, 0)
        near(same.decode(y), y, 0)


def test_features_are_named_and_labelled():
    plain = Dictionary.from_atoms(EYE[:2], SPACE)
    assert plain.features == Space("features of y", 2)
    named = Dictionary.from_atoms(EYE[:2], SPACE, name="strokes", labels=["up", "down"])
    assert named.features == Space("strokes", 2, labels=("up", "down"))


# Restriction


@given(st.data(), st.integers(1, 5))
def test_restriction_has_its_own_pseudoinverse(data, size):
    whole = data.draw(dictionaries(Space("y", size)))
    m = len(whole.atoms)
    kept = data.draw(st.lists(st.integers(0, m - 1), min_size=1, max_size=m, unique=True))
    mask = torch.zeros(m, dtype=torch.bool)
    mask[kept] = True
    for part, order in (
        (whole.restrict(kept), kept),
        (whole.restrict(torch.tensor(kept)), kept),
        (whole.restrict(mask), sorted(kept)),
    ):
        atoms = array(whole.atoms)[order]
        near(part.atoms, atoms, 0)
        norm = np.linalg.norm(oracle.pinv(atoms))
        near(part.duals.T, oracle.pinv(atoms), norm * (1 + norm * np.linalg.norm(atoms)) ** 2)
        assert part.rank == oracle.rank(atoms)
        assert part.features.labels == tuple(str(k) for k in order)
        assert part.features.name == whole.features.name
        assert (part.offset is None) == (whole.offset is None)


def test_restricting_twice_keeps_the_first_names():
    once = Dictionary.from_atoms(EYE, SPACE).restrict([2, 0])
    assert once.restrict([1]).features.labels == ("0",)
    named = Dictionary.from_atoms(EYE, SPACE, labels=["a", "b", "c"])
    assert named.restrict([2, 0]).features.labels == ("c", "a")


def test_the_constant_atom_of_a_folded_dictionary_stays_constant():
    # atom 1 is labelled "1", and so is the constant coordinate
    folded = Dictionary.from_atoms(EYE, SPACE, offset=torch.ones(3, dtype=torch.float64)).fold()
    whole = folded.restrict([1, 3])
    assert whole.features == Space("features of y", 1, labels=("1",), constant=True)
    near(whole.atoms, [[0, 1, 0, 0], [1, 1, 1, 1]], 0)
    assert folded.restrict(torch.ones(4, dtype=torch.bool)).features.constant
    assert folded.restrict([0, 2]).features == Space("features of y", 2, labels=("0", "2"))
    with refuses(BilensError, "the constant atom, 3, before others", "last"):
        folded.restrict([3, 0])
    with refuses(BilensError, "size of space 'features of y' = 0", "at least 1"):
        folded.restrict([3])


@pytest.mark.parametrize("indices", [[], [3], [-1], [0, 7], torch.tensor([], dtype=torch.int64), torch.tensor(1)])
@pytest.mark.bad_input
def test_refuses_to_restrict_to_other_atoms(indices):
    with refuses(BilensError, "atoms", "from 0 to 2"):
        Dictionary.from_atoms(EYE, SPACE).restrict(indices)


def test_refuses_long_lists_of_atoms_in_one_short_line():
    with refuses(BilensError, "got 500 atoms;", "from 0 to 2"):
        Dictionary.from_atoms(EYE, SPACE).restrict(range(500))


def test_refuses_a_mask_of_another_length_and_an_empty_one():
    with refuses(ShapeError, "a mask of shape (2,)", "(3,)"):
        Dictionary.from_atoms(EYE, SPACE).restrict(torch.tensor([True, False]))
    with refuses(BilensError, "atoms []"):
        Dictionary.from_atoms(EYE, SPACE).restrict(torch.zeros(3, dtype=torch.bool))


@pytest.mark.parametrize("indices", [[0.5, 1.0], torch.tensor([0.0, 1.0])])
@pytest.mark.bad_input
def test_refuses_numbers_that_are_not_whole(indices):
    with refuses(BilensError, "atoms", "from 0 to 2"):
        Dictionary.from_atoms(EYE, SPACE).restrict(indices)


def test_a_restricted_dictionary_keeps_the_graph_that_there_is():
    atoms = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0], [3.0, 0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    offset = torch.ones(3, dtype=torch.float64, requires_grad=True)

    def projected(atoms, offset):
        dictionary = Dictionary.from_atoms(atoms, SPACE, offset=offset, detach=False).restrict([2, 0])
        assert dictionary.atoms.requires_grad
        assert dictionary.duals.requires_grad
        return dictionary.project(EYE)

    assert torch.autograd.gradcheck(projected, (atoms, offset))
    found = torch.autograd.grad(projected(atoms, offset).square().sum(), (atoms, offset))
    assert (found[0][1] == 0).all()  # the atom that was left out
    assert all(bool(grad.any()) for grad in found)
    plain = Dictionary.from_atoms(atoms, SPACE, offset=offset).restrict([2, 0])
    assert not any(part.requires_grad for part in (plain.atoms, plain.duals, plain.offset))


def test_refuses_an_atom_twice():
    with refuses(SpaceError, "label '1' more than once"):
        Dictionary.from_atoms(EYE, SPACE).restrict([1, 1])


# Folding


def test_folding_a_folded_dictionary_changes_nothing():
    folded = Dictionary.from_atoms(EYE, SPACE, offset=torch.ones(3, dtype=torch.float64)).fold()
    assert folded.fold() is folded
    over = Dictionary.from_atoms(torch.ones(2, 4, dtype=torch.float64), SPACE.with_constant())
    assert over.fold() is over


@given(st.data(), st.integers(1, 5))
def test_folded_duals_are_those_of_the_folded_atoms(data, size):
    folded = data.draw(dictionaries(Space("y", size))).fold()
    inverse = oracle.pinv(folded.atoms)
    norm = np.linalg.norm(inverse)
    near(folded.duals.T, inverse, norm * (1 + norm * np.linalg.norm(array(folded.atoms))) ** 2)
    assert folded.rank == oracle.rank(folded.atoms)
    assert folded.space == Space("y", size, constant=True)
    assert folded.features.constant
    assert folded.features.dim == len(folded.atoms)


# What is refused


@pytest.mark.parametrize("shape", [(3,), (2, 4), (0, 3), (1, 2, 3), ()])
@pytest.mark.bad_input
def test_refuses_atoms_of_another_shape(shape):
    with refuses(ShapeError, f"atoms of shape {shape}", "(number of atoms, 3)", "'y' (3)", "one atom per row"):
        Dictionary.from_atoms(torch.zeros(shape), SPACE)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_refuses_atoms_that_are_not_finite(bad):
    atoms = EYE.clone()
    atoms[1, 1] = bad
    with refuses(BilensError, "atoms with NaN or infinity", "finite"):
        Dictionary.from_atoms(atoms, SPACE)
    with refuses(BilensError, "offset with NaN or infinity", "finite"):
        Dictionary.from_atoms(EYE, SPACE, offset=atoms[1])
    with refuses(BilensError, "duals with NaN or infinity", "finite"):
        Dictionary(EYE, atoms, SPACE, Space("features", 3), 3)


@pytest.mark.bad_input
def test_refuses_atoms_that_are_whole_numbers():
    with refuses(BilensError, "atoms of type torch.int64", "floating-point", ".float()"):
        Dictionary.from_atoms(torch.eye(3, dtype=torch.int64), SPACE)


@pytest.mark.bad_input
def test_refuses_parts_that_do_not_fit():
    features = Space("features", 2)
    with refuses(ShapeError, "atoms of shape (3, 3)", "(2, 3)"):
        Dictionary(EYE, EYE, SPACE, features, 2)
    with refuses(BilensError, "rank = 3", "0 ≤ rank ≤ 2"):
        Dictionary(EYE[:2], EYE[:2], SPACE, features, 3)
    with refuses(ShapeError, "duals of shape (3, 3)", "(2, 3)"):
        Dictionary(EYE[:2], EYE, SPACE, features, 2)
    with refuses(ShapeError, "offset of shape (2,)", "(3,)"):
        Dictionary.from_atoms(EYE, SPACE, offset=EYE[0, :2])
    with refuses(ShapeError, "2 labels", "3 labels"):
        Dictionary.from_atoms(EYE, SPACE, labels=["a", "b"])


def test_refuses_types_that_differ():
    with refuses(BilensError, "duals as torch.float32 on cpu", "torch.float64 on cpu like atoms"):
        Dictionary(EYE, EYE.float(), SPACE, Space("features", 3), 3)
    with refuses(BilensError, "offset as torch.float32", "torch.float64"):
        Dictionary(EYE, EYE, SPACE, Space("features", 3), 3, torch.ones(3))


def test_refuses_an_offset_over_a_folded_space():
    with refuses(BilensError, "offset", "'y' (3+1)", "[offset; 1]", "fold()"):
        Dictionary.from_atoms(torch.eye(4), SPACE.with_constant(), offset=torch.ones(4))


@pytest.mark.parametrize("shape", [(), (2,), (2, 4)])
@pytest.mark.bad_input
def test_refuses_vectors_and_codes_of_another_size(shape):
    dictionary = Dictionary.from_atoms(EYE, SPACE)
    for name, call in (
        ("vectors", dictionary.encode),
        ("codes", dictionary.decode),
        ("vectors", dictionary.project),
    ):
        with refuses(ShapeError, f"{name} of shape {shape}", "3 coordinates on the last axis", "one vector per row"):
            call(torch.zeros(shape, dtype=torch.float64))
