"""Samples through functions of all pairs, and codes of all pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import oracle
from bilens import pairs
from bilens.errors import BilensError, ShapeError
from bilens.pairs import PairCodes
from few_pairs import NAMES, every_pair, random_tensor
from messages import refuses
from oracle import array, near
from strategies import SEEDS, dictionaries, layers, samples


def relu_codes() -> PairCodes:
    return PairCodes.of(pairs.stream(random_tensor(), shuffle=False), torch.relu)


# Contraction and codes


@given(st.data(), layers(max_d=4))
def test_contraction_without_codes_or_samples(data, layer):
    tensor = layer.tensor()
    m, o = tensor.input.dim, tensor.output.dim
    near(pairs.contract(tensor, torch.zeros(3, m, dtype=torch.float64)), np.zeros((3, o)), 0)
    assert pairs.contract(tensor, torch.zeros(0, m, dtype=torch.float64)).shape == (0, o)
    wide = pairs.contract(tensor, torch.zeros(2, m, dtype=torch.float64), lambda rows: rows.repeat(1, 3))
    near(wide, np.zeros((2, 3 * o)), 0)


def test_contraction_of_samples_in_which_few_features_are_active():
    layer = random_tensor()
    generator = torch.Generator().manual_seed(5)
    codes = torch.randn(9, layer.input.dim, generator=generator).double()
    codes[torch.rand(codes.shape, generator=generator) < 0.7] = 0
    shares = (codes != 0).double().mean(dim=0)
    assert (shares < 0.5).any()
    codes[:, 0] = 1.0  # one that is active everywhere
    transform = torch.relu
    expected = np.zeros((9, layer.output.dim))
    left, right, down = (array(part) for part in (layer.left, layer.right, layer.down))
    for i in range(codes.shape[1]):
        for j in range(codes.shape[1]):
            vector = down @ (left[:, i] * right[:, j] + left[:, j] * right[:, i]) / 2
            expected += array(codes[:, i] * codes[:, j])[:, None] * np.maximum(vector, 0)
    near(pairs.contract(layer, codes, transform), expected, abs(expected).max())


def test_contraction_passes_over_features_that_are_off():
    seen = []
    codes = torch.zeros(2, 6, dtype=torch.float64)
    codes[0, 1], codes[1, 4] = 2.0, 3.0

    def count_rows(rows: torch.Tensor) -> torch.Tensor:
        seen.append(len(rows))
        return rows

    tensor = random_tensor()
    near(pairs.contract(tensor, codes, count_rows), tensor(codes), 100)
    assert sorted(seen)[-2:] == [2, 5]  # the rows of features 4 and 1; no others but one to learn the width
    assert sum(seen) <= 8


@given(st.data(), layers(max_d=4), SEEDS)
def test_codes_of_either_kind_of_pair_vector_rebuild_the_layer(data, layer, seed):
    """An SAE that loses nothing, r = Aᵀ f + b, rebuilds g(x); two-hot vectors only through polarisation."""
    tensor, o = layer.tensor(), layer.tensor().output.dim
    generator = torch.Generator().manual_seed(seed)
    bias = torch.randn(o, generator=generator, dtype=torch.float64)
    atoms = torch.eye(o, dtype=torch.float64) * 2
    x = data.draw(samples(layer.input.size))
    a = tensor.input.fold(x)
    scale = (1 + a.abs().sum(1, keepdim=True)) ** 2 * (1 + tensor.left.abs().sum() * tensor.right.abs().sum())
    scale = array(scale * (1 + tensor.down.abs().sum() + bias.abs().max()))
    expected = oracle.forward(layer, x)
    for kind, rebuild in (("polarized", "rebuild"), ("two_hot", "rebuild_two_hot")):
        codes = PairCodes.of(pairs.stream(tensor, kind=kind, shuffle=False), lambda r: (r - bias) / 2)
        near(getattr(codes, rebuild)(a, atoms, bias=bias), expected, scale)
        near(
            codes.contract(a, atoms) + a.sum(dim=1, keepdim=True) ** 2 * bias, codes.rebuild(a, atoms, bias=bias), scale
        )


def test_two_hot_codes_taken_as_polarised_do_not_rebuild_the_layer():
    tensor = random_tensor()
    a = torch.rand(3, tensor.input.dim, dtype=torch.float64)
    eye, zero = torch.eye(tensor.output.dim, dtype=torch.float64), torch.zeros(tensor.output.dim, dtype=torch.float64)
    wrong = PairCodes.of(pairs.stream(tensor, kind="two_hot", shuffle=False), lambda u: u).rebuild(a, eye, bias=zero)
    assert float((wrong - tensor(a)).norm() / tensor(a).norm()) > 0.1


@given(st.data(), layers(max_d=4), st.integers(1, 5), st.integers(1, 30), SEEDS)
def test_pair_codes_are_what_the_encoder_says(data, layer, width, block, seed):
    tensor = layer.tensor()
    dictionary = data.draw(dictionaries(layer.input, max_atoms=4, offset=False) | st.none())
    generator = torch.Generator().manual_seed(seed)
    weights, atoms = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in
                      ((tensor.output.dim, width), (width, 3)))  # fmt: skip
    steps: list[int] = []
    stream = pairs.stream(tensor, dictionary, batch_size=block, shuffle=False)
    codes = PairCodes.of(stream, lambda r: torch.relu(r @ weights), step=steps.append)
    space = tensor.input if dictionary is None else tensor.pullback(dictionary).input
    features = np.eye(space.dim) if dictionary is None else array(
        dictionary.fold().atoms if layer.biased else dictionary.atoms
    )  # fmt: skip
    dense = oracle.tensor(layer, constant=layer.biased)
    phi = np.maximum(oracle.pair_vectors(dense, features) @ array(weights), 0)
    natural = oracle.pair_vectors(oracle.dense(*(getattr(tensor, name).abs() for name in NAMES)), abs(features)) @ abs(
        array(weights)
    )
    m = space.dim
    assert codes.space == space
    assert codes.width == width
    assert sum(steps) == pairs.count(m) == len(codes.starts) - 1
    assert bool((codes.values != 0).all())
    for k in range(width):
        near(codes.kernel(k).dense(), phi[:, :, k], natural)
    assert codes.kernel(0, "stroke").label == "stroke"
    assert codes.kernel(0).input == space
    a = data.draw(samples(m))
    active = np.einsum("na,nb,abk->nk", array(a), array(a), phi)
    scale = np.einsum("na,nb,abk->nk", abs(array(a)), abs(array(a)), natural)
    near(codes.contract(a, atoms), active @ array(atoms), scale @ abs(array(atoms)))
    near(codes.contract(a, torch.eye(width, dtype=torch.float64)), active, scale)
    moment = a.T @ a / len(a)
    near(codes.expectation(moment), active.mean(0), scale)
    i, j = (np.array(side) for side in zip(*every_pair(m), strict=True))
    first = data.draw(st.integers(0, len(i) - 1))
    last = data.draw(st.integers(first + 1, len(i)))
    near(
        codes.decode(first, last, atoms),
        (phi[i, j] @ array(atoms))[first:last],
        natural.max() * abs(array(atoms)).sum(),
    )


# What is refused


@pytest.mark.parametrize("kind", ["polarized", "two_hot"])
def test_codes_may_come_as_values_and_features(kind):
    tensor = random_tensor(6)
    matrix = torch.randn(3, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def few(vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values, features = (vectors @ matrix - 6).topk(3, dim=1, sorted=False)
        return values.relu(), features

    def dense(vectors: torch.Tensor) -> torch.Tensor:
        values, features = few(vectors)
        return values.new_zeros(len(vectors), 8).scatter(1, features, values)

    ours = PairCodes.of(pairs.stream(tensor, kind=kind, batch_size=4, shuffle=False), few, width=8)
    theirs = PairCodes.of(pairs.stream(tensor, kind=kind, batch_size=5, shuffle=False), dense)
    assert ours.width == theirs.width == 8
    assert ours.starts.tolist() == theirs.starts.tolist()
    assert len(ours.values) < 3 * 21  # those that ReLU made 0 are not kept
    for k in range(8):
        near(ours.kernel(k).dense(), array(theirs.kernel(k).dense()))
    with refuses(BilensError, "without a width", "d_sae"):
        PairCodes.of(pairs.stream(tensor, kind=kind, shuffle=False), few)


def test_refuses_to_encode_what_would_not_rebuild_the_layer():
    with refuses(BilensError, "a shuffled stream", "row by row", "shuffle=False"):
        PairCodes.of(pairs.stream(random_tensor()), torch.relu)
    with refuses(BilensError, "symmetric vectors", "polarised or two-hot"):
        PairCodes.of(pairs.stream(random_tensor(), kind="symmetric", shuffle=False), torch.relu)


@pytest.mark.parametrize("shape", [(2, 5), (2, 7), (6,), (1, 2, 6)])
@pytest.mark.bad_input
def test_refuses_codes_of_another_width(shape):
    for call in (
        lambda codes: pairs.contract(random_tensor(), codes),
        lambda codes: relu_codes().contract(codes, torch.eye(3, dtype=torch.float64)),
    ):
        with refuses(ShapeError, f"codes of shape {shape}", "(samples, 6)", "Fold the inputs first"):
            call(torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize("feature", [-1, 3])
def test_refuses_a_feature_that_is_not_there(feature):
    with refuses(BilensError, f"feature = {feature}", "0 ≤ feature ≤ 2"):
        relu_codes().kernel(feature)


@pytest.mark.bad_input
def test_refuses_codes_that_do_not_fit():
    codes = relu_codes()
    for starts, values in ((codes.starts[1:], codes.values), (codes.starts, codes.values[1:])):
        with refuses(ShapeError, "codes of", "21 pairs of 'x' (6)", "once"):
            PairCodes(starts, codes.features, values, codes.width, codes.space)
