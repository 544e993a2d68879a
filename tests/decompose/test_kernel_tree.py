"""Trees of templates against dense trees: energies that add up, errors, terms of a sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bilens import BilensError, BilinearTensor, SpaceError, decompose
from bilens.deep import DeepTensor
from messages import refuses
from oracle import array, near
from strategies import FILLS, filled
from trees import forward, lifted, moment, network, output_tree, weighted

KINDS = [
    {"sizes": (3, 4, 2)},
    {"sizes": (3, 3, 2), "bias": True},
    {"sizes": (3, 3, 2), "residual": False, "bias": True},
    {"sizes": (3, 3, 3), "residual": True},
]
ALL = 100


def metrics(deep: DeepTensor):
    return (None, moment(4, deep.input.size, constant=deep.input.constant))


def tensor_of(metric):
    return None if metric is None else torch.tensor(metric)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_all_roots_and_leaves_are_the_output_and_energies_add_up(kind) -> None:
    deep = network(1, **kind)
    x = filled("normal", 6, deep.input.size, 2)
    for metric in metrics(deep):
        tree = decompose.kernel_tree(deep, 1, roots=ALL, leaves=ALL, metric=tensor_of(metric))
        out = forward(deep, x)[:, 1]
        near(tree(x), out, float(tree.contributions(x).abs().sum(dim=1).max()))
        energy = np.square(output_tree(deep, metric)[1]).sum()
        near(tree.values.square().sum(), energy, energy, rtol=1e-12)
        near(tree.energy, energy, energy, rtol=1e-12)
        near(tree.leaf_values.square().sum(dim=1), np.ones(len(tree)), rtol=1e-12)
        near(tree.rest(x), np.zeros(6), float(tree.contributions(x).abs().sum(dim=1).max()))
        assert bool((tree.leaf_values[:, 0] > 0).all())
        assert float(tree.discarded) == 0
        assert float(tree.error()) < 1e-7 * energy**0.5
        assert float(tree.bound(1.0)) < 1e-6 * energy**0.5


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_roots_are_orthonormal_forms_and_leaves_their_eigenvectors(kind) -> None:
    deep = network(2, **kind)
    size = deep.input.dim
    for metric in metrics(deep):
        tree = decompose.kernel_tree(deep, 0, roots=3, leaves=ALL, metric=tensor_of(metric))
        readers, patterns = array(tree.readers), array(tree.patterns)
        matrix = np.eye(size) if metric is None else metric
        forms = np.einsum("kj,kji,kjl->kil", array(tree.leaf_values), readers, readers)
        near(np.einsum("kij,jl,mlp,pi->km", forms, matrix, forms, matrix), np.eye(3), rtol=1e-9)
        for root in range(3):
            near(readers[root] @ matrix @ readers[root].T, np.eye(len(readers[root])), rtol=1e-9)
        near(patterns, readers @ matrix, abs(patterns).max())
        assert bool((tree.values.abs().diff() <= 0).all())
        assert bool((tree.leaf_values.abs().diff(dim=1) <= 1e-12).all())


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_error_of_cutting_roots_and_leaves_is_exact(kind) -> None:
    deep = network(3, **kind)
    x = filled("normal", 6, deep.input.size, 2)
    for metric in metrics(deep):
        size = np.linalg.norm(output_tree(deep, metric)[0])
        for roots, leaves in ((1, 1), (2, 2), (2, ALL), (ALL, 1)):
            tree = decompose.kernel_tree(deep, "0", roots=roots, leaves=leaves, metric=tensor_of(metric))
            dense = np.einsum(
                "k,kj,kl,kja,kjb,klc,kld->abcd",
                *(array(part) for part in (tree.values, tree.leaf_values, tree.leaf_values)),
                *(array(tree.readers),) * 4,
                optimize=True,
            ).reshape(1, -1)
            near(tree.network()(x)[:, 0], tree(x), float(tree.contributions(x).abs().sum(dim=1).max()))
            cut = weighted(dense, np.eye(deep.input.dim) if metric is None else metric)
            whole = whole_of(deep, metric)
            near(tree.error(), np.linalg.norm(whole - cut), size, rtol=1e-7)
            if leaves == ALL:  # roots alone: the energy of those left out
                near(tree.error() ** 2, tree.discarded, size**2, rtol=1e-12)
                near(tree.discarded, tree.energy - tree.values.square().sum(), size**2, rtol=1e-12)
            near(tree.leaf_discarded, 1 - array(tree.leaf_values.square().sum(dim=1)))


def whole_of(deep: DeepTensor, metric):
    """The output's tree over the input as the network has it, with the constant where that has one."""
    size = deep.input.size + 1
    dense = output_tree(deep)[0].reshape((size,) * 4)
    kept = slice(None) if deep.input.constant else slice(0, -1)
    dense = dense[kept, kept, kept, kept].reshape(1, -1)
    return weighted(dense, np.eye(deep.input.dim) if metric is None else metric)


def test_a_sample_is_an_exact_sum_of_votes_vetoes_and_the_rest() -> None:
    deep = network(4, (3, 3, 2), bias=True)
    x = filled("normal", 6, 3, 2)
    tree = decompose.kernel_tree(deep, "1", roots=2, leaves=2)
    forms = np.einsum("nkj->nk", array(tree.leaf_terms(x)))
    near(tree.forms(x), forms)
    folded = np.concatenate([array(x), np.ones((6, 1))], axis=1)
    near(tree.leaf_terms(x), (np.einsum("ni,kji->nkj", folded, array(tree.readers)) ** 2) * array(tree.leaf_values))
    near(tree.contributions(x), array(tree.values) * forms**2)
    near(tree.contributions(x).sum(dim=1) + tree.rest(x), forward(deep, x)[:, 1], 10)
    assert float(tree.rest(x).abs().max()) > 1e-3


@given(st.sampled_from(FILLS), st.integers(0, 200), st.booleans(), st.integers(1, 3), st.integers(1, 3))
def test_the_bound_holds_for_every_input(fill: str, seed: int, bias: bool, roots: int, leaves: int) -> None:
    deep = network(seed, (2, 2, 1), 3, bias=bias, fill=fill)
    if float(deep.norm()) == 0:
        return
    tree = decompose.kernel_tree(deep, 0, roots=roots, leaves=leaves)
    x = filled("normal", 8, 2, seed)
    lengths = tree.deep.input.fold(x).norm(dim=1)
    slack = 1e-9 * float(deep.norm()) * array(lengths) ** 4
    assert (abs(array(tree.rest(x))) <= array(tree.bound(lengths)) + slack).all()


def test_the_order_of_roots_does_not_depend_on_the_scale_of_hidden_units() -> None:
    deep = network(5, (3, 3, 2))
    lower, upper = deep.layers
    scale = torch.tensor([1e3, 1.0, 1e-3], dtype=torch.float64)
    same = DeepTensor.chain(
        BilinearTensor(lower.left, lower.right, scale[:, None] * lower.down, lower.input, lower.output),
        BilinearTensor(upper.left / scale, upper.right / scale, upper.down, upper.input, upper.output),
    )
    one, two = (decompose.kernel_tree(each, 0, roots=3, leaves=3) for each in (deep, same))
    near(one.values, two.values, float(one.values[0].abs()))
    near(one.leaf_values, two.leaf_values)


def test_a_direction_instead_of_an_output() -> None:
    deep = network(6, (3, 3, 2))
    u = torch.tensor([0.5, -2.0], dtype=torch.float64)
    tree = decompose.kernel_tree(deep, u, roots=ALL, leaves=ALL)
    x = filled("normal", 5, 3, 1)
    near(tree(x), forward(deep, x) @ array(u), 10)


def test_a_metric_in_which_the_data_has_fewer_directions() -> None:
    """A pixel that is always 0: templates do not use it, and the tree is the output on the data."""
    deep = network(7, (3, 3, 2))
    x = filled("normal", 40, 3, 1)
    x[:, 2] = 0
    metric = (x.T @ x) / len(x)
    tree = decompose.kernel_tree(deep, 0, roots=ALL, leaves=ALL, metric=metric)
    assert tree.readers.shape[1:] == (2, 3)
    near(tree.readers[..., 2], np.zeros(tree.readers.shape[:2]))
    near(tree(x), forward(deep, x)[:, 0], abs(forward(deep, x)).max() * 10)
    near(tree.energy, np.square(weighted(output_tree(deep)[:1], lifted(array(metric), 3))).sum(), float(tree.energy))


@pytest.mark.bad_input
def test_what_is_refused() -> None:
    deep = network(1, (2, 3, 2))
    with refuses(BilensError, "deep of type int; expected a DeepTensor"):
        decompose.kernel_tree(3, 0, roots=1, leaves=1)
    with refuses(BilensError, "a network of 1 layer; expected one of two layers", "Use eigh of its kernel."):
        decompose.kernel_tree(network(1, (2, 2)), 0, roots=1, leaves=1)
    with refuses(BilensError, "a network of 3 layers; expected one of two layers", "Use odt, at any depth."):
        decompose.kernel_tree(network(1, (2, 2, 2, 2)), 0, roots=1, leaves=1)
    with refuses(SpaceError, "label 5 for space 'bond 2' (2)"):
        decompose.kernel_tree(deep, 5, roots=1, leaves=1)
    with refuses(BilensError, "roots = 0"):
        decompose.kernel_tree(deep, 0, roots=0, leaves=1)
    with refuses(BilensError, "leaves = 1.5"):
        decompose.kernel_tree(deep, 0, roots=1, leaves=1.5)
    with refuses(BilensError, "an output that is 0 for every input"):
        zero = 0 * deep.layers[0]
        decompose.kernel_tree(DeepTensor.chain(zero, deep.layers[1]), 0, roots=1, leaves=1)
