"""Balanced truncation against the dense higher-order singular value decomposition of the tree."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bilens import BilensError, BilinearTensor, Space, decompose
from bilens.deep import DeepTensor
from messages import refuses
from oracle import array, near
from strategies import FILLS, filled, orthogonal
from trees import forward, moment, network, output_tree, singular_values, trees

KINDS = [
    {"sizes": (3, 2)},
    {"sizes": (2, 3, 2)},
    {"sizes": (3, 2, 2), "bias": True},
    {"sizes": (2, 2, 2), "residual": True},
    {"sizes": (2, 3, 2, 2)},
    {"sizes": (2, 2, 3, 1), "bias": True},
    {"sizes": (2, 2, 2, 2), "residual": True, "bias": True},
]


def metrics(deep: DeepTensor):
    return (None, moment(4, deep.input.size, constant=deep.input.constant))


def tensor_of(metric):
    return None if metric is None else torch.tensor(metric)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_singular_values_are_those_of_the_dense_tree_at_every_bond(kind) -> None:
    deep = network(1, **kind)
    for metric in metrics(deep):
        found = decompose.odt(deep, metric=tensor_of(metric))
        energy = np.square(output_tree(deep, metric)).sum()
        near(found.energy, energy, energy, rtol=1e-12)
        for bond, values in enumerate(found.values):
            expected = singular_values(deep, bond, metric)[: len(values)]
            near(values, expected, expected[0], rtol=1e-12)
            near(values.square().sum(), energy, energy, rtol=1e-12)
        assert not found.constants.any()


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_directions_are_balanced(kind) -> None:
    """The tensors of a bond's codes are orthonormal, what listens to them is diagonal, and codes rebuild the bond."""
    deep = network(2, **kind)
    found = decompose.odt(deep)
    for bond, dictionary in enumerate(found.dictionaries):
        gram, down = deep.gram(bond), deep.environment(bond)
        assert dictionary.space == deep.bond(bond)
        duals, atoms, values = dictionary.duals, dictionary.atoms, found.values[bond]
        near(duals @ gram @ duals.T, np.eye(len(duals)), rtol=1e-8)
        near(atoms @ down @ atoms.T, np.diag(array(values) ** 2), float(values[0]) ** 2, rtol=1e-8)
        near(duals @ atoms.T, np.eye(len(duals)), rtol=1e-8)
        near(atoms.T @ duals @ gram, gram, float(gram.abs().max()))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_nothing_is_lost_at_full_rank_and_errors_are_exact(kind) -> None:
    deep = network(3, **kind)
    x = filled("normal", 5, deep.input.size, 3)
    for metric in metrics(deep):
        found = decompose.odt(deep, metric=tensor_of(metric))
        full = [len(values) for values in found.values]
        size = np.linalg.norm(output_tree(deep, metric))
        kept = found.truncate(full)
        near(kept(x), forward(deep, x), abs(forward(deep, x)).max(), rtol=1e-11)
        near(output_tree(kept, metric), output_tree(deep, metric), size, rtol=1e-12)
        assert float(found.error(full)) < 1e-12 * size
        assert float(found.bound(full)) == 0
        for bond, most in enumerate(full):
            for rank in range(1, most):
                ranks = [None] * len(full)
                ranks[bond] = rank
                cut = found.truncate(ranks)
                expected = np.linalg.norm(output_tree(deep, metric) - output_tree(cut, metric))
                near(found.error(ranks), expected, size, rtol=1e-12)
                near((deep - cut).norm(metric=tensor_of(metric)), expected, size, rtol=1e-7)
                assert float(found.error(ranks)) <= float(found.bound(ranks)) + 1e-12 * size
        ranks = [max(1, most - 1) for most in full]
        expected = np.linalg.norm(output_tree(deep, metric) - output_tree(found.truncate(ranks), metric))
        near(found.error(ranks), expected, size, rtol=1e-12)
        assert expected <= float(found.bound(ranks)) + 1e-12 * size


def test_one_copy_of_a_bond_is_cut_as_the_singular_values_say() -> None:
    """One layer: its outputs and inputs are cut as by the dense tensor's own decompositions."""
    deep = network(4, (4, 3))
    found = decompose.odt(deep)
    dense = deep.layers[0].to_dense().numpy()
    near(found.values[1], np.linalg.svd(dense.reshape(3, -1), compute_uv=False))
    near(found.values[0], np.linalg.svd(dense.transpose(1, 0, 2).reshape(4, -1), compute_uv=False))
    near(found.values[0], decompose.input_basis(deep.layers[0]).values)
    near(found.values[1], decompose.svd(deep.layers[0]).values)
    near(found.error([None, 1]) ** 2, array(found.values[1])[1:] @ array(found.values[1])[1:], float(found.energy))


def counterexample() -> DeepTensor:
    """z = (x₀², x₁²), y = (z₀², √0.03 z₁²): σ² of the hidden bond are 1 and 0.03."""
    x, z, y, e = Space("x", 2), Space("z", 2), Space("y", 2), torch.eye(2, dtype=torch.float64)
    scaled = torch.diag(torch.tensor([1.0, 0.03**0.5], dtype=torch.float64))
    return DeepTensor.chain(BilinearTensor(e, e, e, x, z), BilinearTensor(e, e, scaled, z, y))


def test_the_printed_stopping_rule_is_no_certificate_and_ours_is() -> None:
    """It compares Σ λ² of the eigenvalues λ = σ², fourth powers, with ε²/3: at ε = 0.1 it cuts what costs 0.17."""
    found = decompose.odt(counterexample())
    squares = array(found.values[1]) ** 2
    near(squares, [1, 0.03], rtol=1e-12)
    assert (squares[1:] ** 2).sum() / (squares**2).sum() < 0.1**2 / 3  # the rule is satisfied
    relative = float(found.error([None, 1, None]) / found.energy.sqrt())
    assert relative == pytest.approx((0.03 / 1.03) ** 0.5)
    assert 0.17 < relative < 0.171
    assert found.ranks(0.1) == (None, 2, None)
    assert found.ranks(0.2) == (None, 2, None)  # two copies: the certificate is √0.06 / √1.03
    assert found.ranks(0.25) == (None, 1, None)
    assert float(found.bound([None, 1, None])) == pytest.approx(0.06**0.5)


def test_a_local_decomposition_does_not_see_the_composition_and_ours_does() -> None:
    """What the first layer makes large and the second hardly reads: diag(100, 0.01), then diag(1e-4, 100)."""
    x, z, y, e = Space("x", 2), Space("z", 2), Space("y", 2), torch.eye(2, dtype=torch.float64)
    first = BilinearTensor(e, e, torch.diag(torch.tensor([100.0, 0.01], dtype=torch.float64)), x, z)
    second = BilinearTensor(e, e, torch.diag(torch.tensor([1e-8, 1e4], dtype=torch.float64)), z, y)
    found = decompose.odt(DeepTensor.chain(first, second))
    near(found.values[1], [1.0, 1e-4], rtol=1e-10)
    atom = array(found.dictionaries[1].atoms[0])
    assert abs(atom[1]) > 1e-9
    near(found.error([None, 1, None]), 1e-4, rtol=1e-8)
    assert decompose.svd(first).values[0] > 1e3 * decompose.svd(first).values[1]


def planted(rank: int, width: int = 4) -> DeepTensor:
    """A network whose hidden bond of `width` carries `rank` directions."""
    deep = network(5, (3, width, 2), 6)
    lower, upper = deep.layers
    onto = orthogonal(width, 1)[:, :rank] @ orthogonal(width, 1)[:, :rank].T
    first = BilinearTensor(lower.left, lower.right, onto @ lower.down, lower.input, lower.output)
    return DeepTensor.chain(first, upper)


def test_layers_of_low_rank_show_it() -> None:
    found = decompose.odt(planted(2))
    assert len(found.values[1]) == 2  # below it nothing can say more
    near(found.values[1], singular_values(planted(2), 1)[:2], float(found.values[1][0]))
    assert found.ranks(1e-6)[1] == 2
    twice = network(6, (3, 2, 2), 6)  # two equal hidden units: one unit of the bond is a copy of the other
    lower = twice.layers[0]
    same = BilinearTensor(lower.left, lower.right, lower.down[:1].expand(2, -1), lower.input, lower.output)
    assert len(decompose.odt(DeepTensor.chain(same, twice.layers[1])).values[1]) == 1
    deaf = network(7, (3, 3, 2), 6)  # a unit of the bond that nothing above reads
    upper = deaf.layers[1]
    muted = torch.diag(torch.tensor([1.0, 1, 0], dtype=torch.float64))
    above = BilinearTensor(upper.left @ muted, upper.right @ muted, upper.down, upper.input, upper.output)
    found = decompose.odt(DeepTensor.chain(deaf.layers[0], above))
    assert found.values[1][2] <= found.floor
    assert float(found.error([None, 2, None])) < 1e-7 * float(found.energy.sqrt())


def test_equal_singular_values_have_one_subspace() -> None:
    eye, space = torch.eye(3, dtype=torch.float64), Space("x", 3)
    layer = BilinearTensor(eye, eye, torch.diag(torch.tensor([1.0, 1.0, 0.5], dtype=torch.float64)), space, space)
    found = decompose.odt(DeepTensor.chain(layer, layer))
    near(found.values[1], [1, 1, 0.125])
    kept = found.dictionaries[1].atoms[:2]
    near(kept.T @ found.dictionaries[1].duals[:2], np.diag([1, 1, 0]))
    near(found.error([None, 2, None]), 0.125, rtol=1e-12)


def test_one_output_has_one_singular_value_at_the_top() -> None:
    deep = network(8, (3, 3, 1), bias=True)
    found = decompose.odt(deep)
    assert len(found.values[2]) == 1
    near(found.values[2][0], deep.norm(), float(deep.norm()))
    near(
        found.error([None, 1, None]),
        np.linalg.norm(output_tree(deep) - output_tree(found.truncate([None, 1, None]))),
        float(deep.norm()),
    )


def test_a_network_that_is_zero() -> None:
    deep = 0 * network(9, (2, 3, 2))
    found = decompose.odt(deep)
    assert [values.tolist() for values in found.values] == [[0, 0], [0, 0, 0], [0]]
    assert float(found.truncate([1, 1, 1])(torch.ones(1, 2)).abs().max()) == 0
    assert float(found.error([1, 1, 1])) == 0
    nothing = DeepTensor.chain(0 * network(9, (2, 3, 2)).layers[0], network(9, (2, 3, 2)).layers[1])
    assert [values.tolist() for values in decompose.odt(nothing).values] == [[0, 0], [0], [0]]


def test_six_layers() -> None:
    """64 leaves: the energy of every bond, nothing lost, and the certificate against the exact error."""
    for kind in ({"residual": False}, {"residual": True}):
        deep = DeepTensor.chain(*(0.1 * layer for layer in network(10, (3,) * 7, 4, bias=True).layers), **kind)
        found = decompose.odt(deep)
        energy = float(deep.norm()) ** 2
        for values in found.values:
            near(values.square().sum(), energy, energy, rtol=1e-12)
        full = [len(values) for values in found.values]
        x = filled("normal", 4, 3, 1) / 2
        near(found.truncate(full)(x), forward(deep, x), abs(forward(deep, x)).max(), rtol=1e-9)
        assert float(found.error(full)) < 1e-11 * energy**0.5
        for cut in range(1, 6):
            ranks = [None] * 7
            ranks[cut] = full[cut] - 1
            assert float(found.error(ranks)) <= float(found.bound(ranks)) + 1e-11 * energy**0.5


def test_the_constant_may_stay_a_direction_of_its_own() -> None:
    for kind in ({"bias": True}, {"residual": True, "bias": True}):
        deep = network(11, (3, 3, 3), **kind)
        mixed, apart = decompose.odt(deep), decompose.odt(deep, constant_apart=True)
        energy = float(deep.norm()) ** 2
        for bond in (0, 1):
            total = apart.values[bond].square().sum() + apart.constants[bond] ** 2
            near(total, energy, energy, rtol=1e-12)
            constant = np.zeros(4)
            constant[-1] = 1
            codes = array(apart.dictionaries[bond].duals) @ constant
            rows = trees(deep)[bond]
            unit = abs(
                array(apart.dictionaries[bond].duals) @ rows @ rows[-1]
            )  # inner products with the constant's tensor
            near(unit / np.linalg.norm(rows[-1]), np.eye(len(codes))[0], rtol=1e-8)
            assert len(apart.values[bond]) == len(mixed.values[bond]) - 1
        assert float(apart.constants[2]) == 0
        assert not mixed.constants.any()
        ranks = [2, 1, None]
        cut = apart.truncate(ranks)
        assert [layer.input.dim for layer in cut.layers] == [4, 2]  # the constant and one more
        expected = np.linalg.norm(output_tree(deep) - output_tree(cut))
        near(apart.error(ranks), expected, energy**0.5, rtol=1e-12)
        assert expected <= float(apart.bound(ranks))
        gone = apart.truncate([None, 1, None])
        near(gone.layers[0](torch.zeros(1, 3))[0, :0], [])  # the network is one, whatever its directions
        near(forward(gone, np.zeros((1, 3))).shape, (1, 3))


def test_a_network_in_single_precision_keeps_its_type() -> None:
    deep = network(12, (3, 3, 2), bias=True, dtype=torch.float32)
    found = decompose.odt(deep)
    assert found.values[0].dtype == torch.float64
    cut = found.truncate([None, 2, None])
    assert cut.layers[0].left.dtype == torch.float32
    double = decompose.odt(deep.to(torch.float64))
    near(found.values[1], double.values[1], float(double.values[1][0]), rtol=1e-12)
    x = filled("normal", 3, 3, 1)
    near(cut(x), double.truncate([None, 2, None])(x), abs(forward(deep, x)).max(), rtol=1e-5)


def test_leaves_may_be_left_out() -> None:
    deep = network(13, (3, 3, 2))
    whole, some = decompose.odt(deep), decompose.odt(deep, leaves=False)
    assert len(some.values[0]) == 0
    assert some.dictionaries[0] is None
    near(some.values[1], whole.values[1], float(whole.values[1][0]))
    near(some.error([None, 1, None]), whole.error([None, 1, None]), float(deep.norm()))
    with refuses(BilensError, "a rank for bond 0, which was left out", "Call odt with leaves=True."):
        some.truncate([1, None, None])


def test_ranks_for_an_error_are_certified_and_no_smaller_ones_are() -> None:
    deep = network(14, (4, 4, 4, 3), 6)
    found = decompose.odt(deep)
    size = float(deep.norm())
    for error in (0.0, 0.05, 0.3, 0.9):
        for bonds in (None, [0, 1, 2, 3]):
            ranks = found.ranks(error, bonds)
            assert float(found.error(ranks)) <= float(found.bound(ranks)) + 1e-12 * size
            assert float(found.bound(ranks)) <= error * size
            for bond, rank in enumerate(ranks):
                if rank is not None and rank > 1:
                    fewer = [*ranks]
                    fewer[bond] = rank - 1
                    assert float(found.bound(fewer)) > error * size


@given(st.sampled_from(FILLS), st.integers(0, 1000), st.sampled_from(KINDS))
def test_no_certificate_is_violated(fill: str, seed: int, kind) -> None:
    violated(fill, seed, kind)


@pytest.mark.slow
def test_no_certificate_is_violated_in_a_thousand_networks() -> None:
    for seed in range(1000):
        violated(FILLS[seed % len(FILLS)], seed, KINDS[seed % len(KINDS)])


def violated(fill: str, seed: int, kind) -> None:
    deep = network(seed, fill=fill, hidden=3, **kind)
    metric = metrics(deep)[seed % 2]
    found = decompose.odt(deep, metric=tensor_of(metric), constant_apart=bool(seed % 3 == 0))
    generator = np.random.default_rng(seed)
    ranks = [
        int(generator.integers(1, max(len(values), 1) + 1)) if generator.random() < 0.7 else None
        for values in found.values
    ]
    size = np.linalg.norm(output_tree(absolute(deep), metric))  # a tree that cancels has the rounding of its terms
    expected = np.linalg.norm(output_tree(deep, metric) - output_tree(found.truncate(ranks), metric))
    near(found.error(ranks), expected, size, rtol=1e-7)
    assert expected <= float(found.bound(ranks)) + 1e-11 * size


def absolute(deep: DeepTensor) -> DeepTensor:
    """The network with every number replaced by its absolute value."""
    layers = (
        BilinearTensor(layer.left.abs(), layer.right.abs(), layer.down.abs(), layer.input, layer.output)
        for layer in deep.layers
    )
    return DeepTensor(tuple(layers), tuple(None if skip is None else skip.abs() for skip in deep.skips))


@pytest.mark.bad_input
def test_what_is_refused() -> None:
    deep = network(1, (2, 3, 2))
    found = decompose.odt(deep)
    with refuses(BilensError, "deep of type BilinearTensor; expected a DeepTensor", "DeepTensor.chain"):
        decompose.odt(deep.layers[0])
    with refuses(BilensError, "leaves = 'no'"):
        decompose.odt(deep, leaves="no")
    with refuses(BilensError, "rtol = 1"):
        decompose.odt(deep, rtol=1)
    with refuses(BilensError, "2 ranks; expected 3, one for each bond"):
        found.truncate([1, 1])
    with refuses(BilensError, "rank of bond 1 = 4; expected a whole number, 1 ≤ rank of bond 1 ≤ 3"):
        found.error([None, 4, None])
    with refuses(BilensError, "rank of bond 1 = 0"):
        found.bound([None, 0, None])
    with refuses(BilensError, "error = 2"):
        found.ranks(2)
    with refuses(BilensError, "a bond = 3"):
        found.ranks(0.1, [3])
    with refuses(BilensError, "expected a second moment"):
        decompose.odt(deep, metric=-torch.eye(2))
