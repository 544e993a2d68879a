"""Pair vectors of a prepared layer."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bilens import pairs
from bilens._internal.checks import trusted
from bilens.dictionary import Dictionary
from bilens.errors import BilensError, ShapeError, SpaceError
from bilens.pairs import Kind, PairResponses
from bilens.space import Space
from bilens.tensor import BilinearTensor
from few_pairs import NAMES, every_pair, random_tensor
from messages import refuses
from oracle import near
from strategies import layers

KINDS = get_args(Kind)


@given(layers(read_out=False, bias=False), layers(read_out=True))
def test_an_identity_read_out_is_not_multiplied(plain, read):
    assert PairResponses.of(plain.tensor()).down is None
    assert PairResponses.of(plain.tensor()).width == plain.output.size
    tensor = read.tensor()
    is_identity = tensor.down.shape == (tensor.hidden, tensor.hidden) and bool(
        (tensor.down == torch.eye(tensor.hidden)).all()
    )
    assert (PairResponses.of(tensor).down is None) == is_identity
    assert PairResponses.of(tensor).width == tensor.output.dim


@given(layers(max_d=4), st.data())
def test_gradients_reach_the_factors_and_are_those_of_the_formula(layer, data):
    """Where they are asked for, vectors come by another way: the same ones, and with the same gradients as autograd."""
    plain = layer.tensor()
    kind = data.draw(st.sampled_from(KINDS))
    i, j = (torch.tensor(side) for side in zip(*every_pair(plain.input.dim), strict=True))
    names = NAMES[:2] if PairResponses.of(plain).down is None else NAMES  # an identity is not multiplied
    factors = [getattr(plain, name).clone().requires_grad_() for name in names]
    parts = {name: getattr(plain, name) for name in NAMES} | dict(zip(names, factors, strict=True))
    followed = trusted(BilinearTensor, *parts.values(), plain.input, plain.output)
    atoms = torch.eye(plain.input.dim, dtype=torch.float64)
    if kind == "two_hot":
        g = _polar(followed, atoms[i] + atoms[j], atoms[i] + atoms[j])
    else:
        g = _polar(followed, atoms[i], atoms[j]) * (
            pairs.multiplicity(i, j).sqrt()[:, None] if kind == "symmetric" else 1
        )
    scale = 1 + float(torch.cat([getattr(plain, name).flatten() for name in NAMES]).abs().sum()) ** 3
    expected = torch.autograd.grad(g.square().sum(), factors)
    for vectors in (PairResponses.of(followed).at(kind, i, j), PairResponses.of(followed).span(kind, 0, len(i))):
        near(vectors, PairResponses.of(plain).at(kind, i, j), scale)
        for found, right in zip(torch.autograd.grad(vectors.square().sum(), factors), expected, strict=True):
            near(found, right, scale**2)
    with torch.no_grad():
        near(PairResponses.of(followed).at(kind, i, j), PairResponses.of(plain).at(kind, i, j), scale)


def _polar(tensor: BilinearTensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    left, right = tensor.left, tensor.right
    return ((x @ left.T) * (y @ right.T) + (x @ right.T) * (y @ left.T)) @ tensor.down.T / 2


def test_vectors_are_written_where_they_are_asked_for():
    features, i = PairResponses.of(random_tensor()), torch.tensor([0, 3, 5])
    for kind in KINDS:
        for write, numbers in ((features.at, (i, i)), (features.span, (4, 7))):
            rows = torch.full((5, 3), 7.0, dtype=torch.float64)
            written = write(kind, *numbers, out=rows)
            assert written.data_ptr() == rows.data_ptr()
            torch.testing.assert_close(rows[:3], write(kind, *numbers), rtol=0, atol=0)
            assert bool((rows[3:] == 7).all())


@pytest.mark.bad_input
def test_refuses_an_out_that_does_not_fit():
    stream = pairs.stream(random_tensor(), batch_size=4)
    for shape, dtype in (
        ((3, 3), torch.float64),
        ((4, 2), torch.float64),
        ((4, 3), torch.float32),
        ((4,), torch.float64),
    ):
        for features in (stream, pairs.stream(random_tensor(), batch_size=4, shuffle=False)):
            with refuses(BilensError, f"out of shape {shape}, {dtype} on cpu", "at least 4 rows of 3, torch.float64"):
                features.batch(0, out=torch.zeros(shape, dtype=dtype))


def test_pair_vectors_do_not_change_the_layer():
    tensor = random_tensor()
    before = [getattr(tensor, name).clone() for name in NAMES]
    i = torch.tensor([0, 0, 1])
    features = PairResponses.of(tensor)
    left = features.left.clone()
    features.polarized(i, i), features.two_hot(i, i), features.symmetric(i, i)
    features.span("symmetric", 0, 9), pairs.contract(tensor, torch.ones(2, 6, dtype=torch.float64))
    torch.testing.assert_close(features.left, left, rtol=0, atol=0)
    for name, value in zip(NAMES, before, strict=True):
        torch.testing.assert_close(getattr(tensor, name), value, rtol=0, atol=0)


@pytest.mark.bad_input
def test_refuses_prepared_layers_that_do_not_fit():
    left, space = torch.zeros(6, 4), Space("x", 6)
    with refuses(ShapeError, "right of shape (6, 3)", "(6, 4)"):
        PairResponses(left, left[:, :3], None, space)
    with refuses(ShapeError, "left of shape (4,)", "(6, h)"):
        PairResponses(left[0], left[0], None, space)
    with refuses(ShapeError, "down of shape (4, 6)", "(o, 4)"):
        PairResponses(left, left, left.T, space)
    with refuses(ShapeError, "left of shape (6, 4)", "(5, h)"):
        PairResponses(left, left, None, Space("x", 5))


def test_refuses_a_dictionary_of_another_space():
    dictionary = Dictionary.identity(Space("z", 6), dtype=torch.float64)
    numbers = torch.tensor([0])
    for call in (
        lambda: pairs.stream(random_tensor(), dictionary),
        lambda: pairs.stream(random_tensor(), kind="two_hot", dictionary=dictionary),
        lambda: pairs.polarized(random_tensor(), numbers, numbers, dictionary),
        lambda: pairs.contract(random_tensor(), torch.zeros(1, 6, dtype=torch.float64), None, dictionary),
        lambda: pairs.stream(random_tensor(), kind="symmetric", dictionary=dictionary),
        lambda: pairs.symmetric(random_tensor(), numbers, numbers, dictionary),
        lambda: pairs.sampled(random_tensor(), torch.ones(21), dictionary),
        lambda: pairs.norms(random_tensor(), dictionary),
    ):
        with refuses(SpaceError, "a dictionary over space 'z' (6)", "'x' (6)", "differ in name"):
            call()


@pytest.mark.parametrize("call", [pairs.polarized, pairs.two_hot, pairs.symmetric])
@pytest.mark.bad_input
def test_refuses_numbers_of_no_feature(call):
    good = torch.tensor([0, 5])
    for bad, seen in ((torch.tensor([0, 6]), "from 0 to 6"), (torch.tensor([-1, 2]), "from -1 to 2")):
        with refuses(BilensError, f"i {seen}", "whole numbers from 0 to 5"):
            call(random_tensor(), bad, good)
        with refuses(BilensError, f"j {seen}", "whole numbers from 0 to 5"):
            call(random_tensor(), good, bad)
    for one, two in ((good, good[:1]), (good[0], good[0]), (good[None], good[None])):
        with refuses(ShapeError, f"i of shape {tuple(one.shape)} and j of {tuple(two.shape)}", "(pairs,) twice"):
            call(random_tensor(), one, two)
    assert call(random_tensor(), good[:0], good[:0]).shape == (0, 3)
