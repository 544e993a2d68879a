"""Networks of several layers against their dense trees."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bilens import BilensError, BilinearTensor, ShapeError, Space, SpaceError
from bilens.deep import DeepTensor, ridged
from messages import refuses
from oracle import array, near
from strategies import FILLS, filled, orthogonal
from trees import environment, forward, lifted, moment, network, output_tree, trees, weighted

KINDS = [
    {"sizes": (2, 3)},
    {"sizes": (2, 3, 2)},
    {"sizes": (3, 2, 2), "bias": True},
    {"sizes": (2, 2, 2), "residual": True},
    {"sizes": (2, 2, 2), "residual": True, "bias": True},
    {"sizes": (2, 3, 2, 2)},
    {"sizes": (2, 2, 3, 1), "bias": True},
    {"sizes": (2, 2, 2, 2), "residual": True, "bias": True},
]


def scale(deep: DeepTensor, metric=None) -> float:
    return float(np.square(output_tree(deep, metric)).sum())


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_outputs_inner_products_and_norms_are_those_of_the_dense_tree(kind) -> None:
    a, b = network(1, **kind), network(2, **kind)
    x = filled("normal", 5, a.input.size, 3)
    near(a(x), forward(a, x), abs(forward(a, x)).max())
    powers = np.concatenate([array(x), np.ones((5, 1))], axis=1)
    legs = powers
    for _ in range(a.depth):
        legs = np.stack([np.multiply.outer(row, row).ravel() for row in legs])
    near(legs @ trees(a)[-1][:-1].T, forward(a, x), abs(forward(a, x)).max())
    for metric in (None, moment(4, a.input.size, constant=a.input.constant)):
        given_metric = None if metric is None else torch.tensor(metric)
        one, two = output_tree(a, metric), output_tree(b, metric)
        size = np.linalg.norm(one) * np.linalg.norm(two)
        near(a.inner(b, metric=given_metric), (one * two).sum(), size, rtol=1e-13)
        near(a.norm(metric=given_metric), np.linalg.norm(one), np.linalg.norm(one), rtol=1e-13)
        near(a.cosine(b, metric=given_metric), (one * two).sum() / size, rtol=1e-13)
        assert float(a.cosine(a, metric=given_metric)) == 1


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_grams_and_environments_are_the_dense_ones(kind) -> None:
    deep = network(5, **kind)
    for metric in (None, moment(6, deep.input.size, constant=deep.input.constant)):
        given_metric = None if metric is None else torch.tensor(metric)
        whole = lifted(metric, deep.input.size)
        for bond, rows in enumerate(trees(deep)):
            size = deep.bond(bond).dim
            inside = weighted(rows, whole)
            gram, down = array(deep.gram(bond, metric=given_metric)), array(deep.environment(bond, metric=given_metric))
            near(gram, (inside @ inside.T)[:size, :size], abs(gram).max(), rtol=1e-12)
            if bond < deep.depth:
                near(down, environment(deep, bond, metric)[:size, :size], abs(down).max(), rtol=1e-12)
            near((gram * down).sum(), scale(deep, metric), scale(deep, metric), rtol=1e-12)


@given(st.sampled_from(FILLS), st.sampled_from(FILLS), st.integers(0, 50), st.booleans(), st.integers(1, 3))
def test_any_networks(one: str, other: str, seed: int, bias: bool, depth: int) -> None:
    sizes = (2, 3, 1, 2)[: depth + 1]
    a, b = network(seed, sizes, 3, bias=bias, fill=one), network(seed + 1, sizes, 2, fill=other)
    left, right = output_tree(a), output_tree(b)
    near(a.inner(b), (left * right).sum(), np.linalg.norm(left) * np.linalg.norm(right), rtol=1e-11)
    apart = a - b
    near(apart.norm(), np.linalg.norm(left - right), np.linalg.norm(left) + np.linalg.norm(right))
    x = filled("normal", 3, 2, seed)
    near(apart(x), forward(a, x) - forward(b, x), abs(forward(a, x)).max() + abs(forward(b, x)).max() + 1e-300)
    assert float((a - a).norm()) == 0
    assert bool((apart.inner(apart) >= 0).all())


@given(st.integers(0, 50), st.booleans(), st.sampled_from(FILLS))
def test_one_layer_is_its_tensor(seed: int, bias: bool, fill: str) -> None:
    a, b = (network(seed + n, (3, 2), 4, bias=bias, fill=fill) for n in range(2))
    size = float(a.norm() * b.norm())
    near(a.inner(b), a.layers[0].inner(b.layers[0]), size)
    near(a.norm(), a.layers[0].norm(), float(a.norm()))
    near(a.cosine(b), a.layers[0].cosine(b.layers[0]))
    near(a.gram(1), a.layers[0].gram(), float(a.norm()) ** 2)


def test_two_ways_to_compute_one_function_may_have_orthogonal_trees() -> None:
    x, pair, y, e = Space("x", 2), Space("pair", 2), Space("y", 1), torch.eye(2, dtype=torch.float64)
    squares = BilinearTensor(e, e, e, x, pair)
    mixed = BilinearTensor(e[:1], e[1:], e[:, :1], x, pair)
    times = BilinearTensor(e[:1], e[1:], e[:1, :1], pair, y)
    square = BilinearTensor(e[:1], e[:1], e[:1, :1], pair, y)
    one, other = DeepTensor.chain(squares, times), DeepTensor.chain(mixed, square)
    rows = filled("normal", 5, 2, 0)
    assert torch.equal(one(rows).float(), other(rows).float())
    assert float(one.cosine(other)) == 0
    assert float(one.inner(one)) == 0.5
    assert float(other.inner(other)) == 0.25


def moved(deep: DeepTensor, gauge: str) -> DeepTensor:
    """The same function in other factors: units scaled, swapped, in another order or split, or the bond turned."""
    lower, upper = deep.layers[0], deep.layers[1]
    left, right, down = lower.left, lower.right, lower.down
    inverse = torch.eye(upper.input.dim, dtype=torch.float64)
    if gauge in ("scaled", "all"):
        rescaled = torch.tensor([2.0, -0.5, 4.0, 1.0, -1.0], dtype=torch.float64)[: lower.hidden, None]
        left, down = left * rescaled, down / rescaled.T
    if gauge in ("swapped", "all"):
        left, right = right, left
    if gauge in ("in another order", "all"):
        order = torch.randperm(lower.hidden, generator=torch.Generator().manual_seed(0))
        left, right, down = left[order], right[order], down[:, order]
    if gauge in ("split", "all"):
        left, right = torch.cat([left, left[:1]]), torch.cat([right, right[:1]])
        down = torch.cat([0.75 * down[:, :1], down[:, 1:], 0.25 * down[:, :1]], dim=1)
    if gauge in ("turned", "all"):
        turn = orthogonal(3, 1) * torch.tensor([3.0, 0.5, 1.0], dtype=torch.float64)
        down = turn @ down
        inverse[:3, :3] = torch.linalg.inv(turn)
    first = BilinearTensor(left, right, down, lower.input, lower.output)
    second = BilinearTensor(upper.left @ inverse, upper.right @ inverse, upper.down, upper.input, upper.output)
    return DeepTensor.chain(first, second, *deep.layers[2:])


@pytest.mark.parametrize("gauge", ["scaled", "swapped", "in another order", "split", "turned", "all"])
@pytest.mark.parametrize("kind", [{"sizes": (2, 3, 2)}, {"sizes": (2, 3, 3, 2), "bias": True}], ids=str)
def test_gauges_change_nothing(kind, gauge: str) -> None:
    deep = network(7, **kind)
    same = moved(deep, gauge)
    for metric in (None, torch.tensor(moment(4, deep.input.size, constant=deep.input.constant))):
        size = float(deep.norm(metric=metric)) ** 2
        near(same.inner(deep, metric=metric), size, size, rtol=1e-13)
        near(same.norm(metric=metric) ** 2, size, size, rtol=1e-13)
        near((same - deep).norm(metric=metric), 0, size**0.5, rtol=1e-7)


def exact_difference(a: DeepTensor, b: DeepTensor) -> float:
    """‖T_a − T_b‖ in extended precision."""
    apart = trees(a, np.longdouble)[-1] - trees(b, np.longdouble)[-1]
    return float(np.sqrt(np.square(apart).sum()))


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize(("step", "rtol"), [(2.0**-10, 1e-12), (2.0**-30, 1e-8), (2.0**-45, 1e-4)])
def test_the_norm_of_a_small_difference_is_right_to_its_own_size(place: int, step: float, rtol: float) -> None:
    """To what the difference of dense trees is in extended precision, which is 1e-19 of the trees."""
    a = network(8, (2, 3, 3, 2), bias=True)
    layers = list(a.layers)
    changed = layers[place].left.clone()
    changed[0, 1] *= 1 + step
    layers[place] = BilinearTensor(
        changed, *(getattr(layers[place], name) for name in ("right", "down", "input", "output"))
    )
    b = DeepTensor.chain(*layers)
    expected = exact_difference(a, b)
    assert expected < 100 * step * float(a.norm())
    near((a - b).norm(), expected, expected, rtol=rtol)
    assert float((a - a).norm()) == 0


def test_networks_of_other_widths_have_a_difference() -> None:
    a, b = network(1, (2, 3, 2), 4, bias=True), network(2, (2, 2, 2), 6, residual=True)
    b = DeepTensor(
        tuple(
            BilinearTensor(
                layer.left,
                layer.right,
                layer.down,
                Space(f"bond {n}", 2, constant=layer.input.constant),
                Space(f"bond {n + 1}", 2),
            )
            for n, layer in enumerate(b.layers)
        ),
        b.skips,
    )
    x = filled("normal", 4, 2, 0)
    near((a - b)(x), forward(a, x) - forward(b, x), 100)
    near((a - b).norm(), np.linalg.norm(output_tree(a) - output_tree(b)), float(a.norm() + b.norm()))


def test_sixty_four_leaves() -> None:
    """y_p = c_p y_p² six times over: T is a sum of orthogonal powers, in closed form; and the energy of every bond."""
    weights = torch.tensor([0.9, -0.5], dtype=torch.float64)
    eye, space = torch.eye(2, dtype=torch.float64), Space("x", 2)
    layer = BilinearTensor(eye, eye, torch.diag(weights), space, space)
    deep = DeepTensor.chain(*[layer] * 6)
    near(deep.norm(), (weights.abs() ** 63).square().sum().sqrt(), float(deep.norm()), rtol=1e-12)
    wide = network(9, (3, 4, 4, 4, 4, 4, 2), 6, residual=False, bias=True)
    energy = float(wide.norm()) ** 2
    for bond in range(7):
        near((wide.gram(bond) * wide.environment(bond)).sum(), energy, energy, rtol=1e-12)


def test_any_scale_and_where_it_ends() -> None:
    deep = network(10, (2, 2, 2), bias=True)
    first, last = deep.layers
    large, small = 2.0**300, 2.0**-300
    moved = DeepTensor.chain(
        BilinearTensor(first.left * large, first.right, first.down * large, first.input, first.output),
        BilinearTensor(
            torch.cat([last.left[:, :2] * small**2, last.left[:, 2:]], dim=1),
            torch.cat([last.right[:, :2] * small**2, last.right[:, 2:]], dim=1),
            last.down,
            last.input,
            last.output,
        ),
    )
    near(moved.norm(), deep.norm(), float(deep.norm()), rtol=1e-13)
    near(moved.cosine(deep), 1, rtol=1e-13)
    near((1e300 * deep).cosine(deep), 1, rtol=1e-13)
    with refuses(BilensError, "an inner product of about 1e+60", "Scale the weights"):
        huge = 1e300 * deep
        huge.inner(huge)
    with refuses(BilensError, "a norm of about"):
        single = network(10, (2, 2, 2, 2), dtype=torch.float32)
        DeepTensor.chain(*(1e12 * layer for layer in single.layers)).norm()


def test_a_network_is_centred_moved_and_followed_like_a_layer() -> None:
    deep = network(11, (2, 3, 3), residual=False, bias=True)
    x = filled("normal", 4, 2, 1)
    out = forward(deep, x)
    size = abs(out).max() * 10
    near(deep.centered()(x), out - out.mean(axis=1, keepdims=True), size)
    matrix, shift = filled("normal", 2, 3, 2), filled("normal", 1, 2, 3)[0]
    near(deep.then(matrix, Space("z", 2)).shift(shift)(x), out @ array(matrix).T + array(shift), size)
    embedding, pixels = filled("normal", 2, 5, 4), Space("pixels", 5, image=(1, 5))
    wide = filled("normal", 4, 5, 5)
    after = deep.after(embedding, pixels)
    near(after(wide), forward(deep, array(wide) @ array(embedding).T), 100 * size)
    assert after.input == pixels.with_constant()
    near((-deep)(x), -out, size)
    near((2 * deep)(x), 2 * out, size)
    assert deep.to(torch.float32)(x).dtype == torch.float32
    around = network(12, (2, 2, 2), residual=True)
    near(
        around.then(matrix[:, :2], Space("z", 2)).shift(shift)(x),
        forward(around, x) @ array(matrix[:, :2]).T + array(shift),
        100,
    )
    near(around.centered()(x), forward(around, x) - forward(around, x).mean(axis=1, keepdims=True), 100)
    near(around.after(embedding, pixels)(wide), forward(around, array(wide) @ array(embedding).T), 1000)


def test_a_line_says_what_a_network_is() -> None:
    assert repr(network(0, (2, 3, 1), bias=True)) == (
        "DeepTensor('bond 0' (2+1) → 'bond 1' (3) → 'bond 2' (1), 2 layers, float64)"
    )
    assert (
        repr(network(0, (2, 2), residual=True))
        == "DeepTensor('bond 0' (2+1) → 'bond 1' (2), 1 layer, with skips, float64)"
    )
    deep = network(0, (2, 3, 1), bias=True)
    assert [deep.bond(n).title for n in range(3)] == ["'bond 0' (2+1)", "'bond 1' (3+1)", "'bond 2' (1)"]


def test_a_networks_norm_trains_its_layers() -> None:
    weights = [torch.nn.Parameter(filled("normal", 3, 2, n)) for n in range(3)]
    x = Space("x", 2)

    def build() -> DeepTensor:
        first = BilinearTensor.from_layer(weights[0], weights[1], weights[2].T, input=x, output=x, detach=False)
        return DeepTensor.chain(first, first, residual=True)

    build().norm().backward()
    found = weights[0].grad[0, 0].clone()
    with torch.no_grad():
        step = 1e-5
        ends = []
        for sign in (1, -1):
            weights[0][0, 0] += sign * step
            ends.append(float(build().norm()))
            weights[0][0, 0] -= sign * step
    near(found, (ends[0] - ends[1]) / (2 * step), ends[0], rtol=1e-6)


def test_white_noise_in_a_metric() -> None:
    space = Space("x", 2, constant=True)
    matrix = torch.tensor([[4.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 1.0]])
    near(ridged(matrix, space, 0.5), [[3, 0, 0.5], [0, 1, 0], [0.5, 0, 1]])
    near(ridged(matrix, space, 0), matrix)
    near(ridged(matrix, space), 0.99 * array(matrix) + 0.01 * np.diag([2, 2, 1]))


@pytest.mark.bad_input
def test_what_is_refused() -> None:
    deep, space = network(1, (2, 3, 2), bias=True), Space("bond 0", 2)
    layer = deep.layers[0]
    with refuses(BilensError, "no layer; expected at least one"):
        DeepTensor.chain()
    with refuses(BilensError, "layer 1 of type int; expected a BilinearTensor"):
        DeepTensor.chain(layer, 3)
    with refuses(SpaceError, "layer 0 to output", "bond 1"):
        DeepTensor.chain(layer, layer)
    with refuses(ShapeError, "a residual layer 'bond 0' (2+1) → 'bond 1' (3); expected as many outputs as inputs"):
        DeepTensor.chain(layer, residual=True)
    with refuses(BilensError, "1 skips for 2 layers"):
        DeepTensor(deep.layers, (None,))
    with refuses(ShapeError, "skip 1 of shape (2, 2); expected (2, 4)"):
        DeepTensor(deep.layers, (None, torch.eye(2, dtype=torch.float64)))
    with refuses(BilensError, "float32"):
        DeepTensor((deep.layers[0], deep.layers[1].to(torch.float32)), (None, None))
    with refuses(BilensError, "networks of 2 and 1 layers; expected as many layers in both"):
        single = BilinearTensor(
            *(filled("normal", *shape, 0) for shape in ((3, 2), (3, 2), (2, 3))), space, Space("bond 2", 2)
        )
        deep.inner(DeepTensor.chain(single))
    with refuses(SpaceError, "a network over space"):
        deep.inner(network(1, (3, 3, 2)))
    with refuses(SpaceError, "a network to output"):
        deep.inner(network(1, (2, 3, 1)))
    with refuses(BilensError, "the other one of type int; expected a DeepTensor"):
        deep.cosine(3)
    with refuses(ShapeError, "metric of shape (2, 2); expected (3, 3)"):
        deep.norm(metric=torch.eye(2))
    with refuses(BilensError, "a metric that is not symmetric"):
        deep.norm(metric=torch.tensor([[1.0, 1, 0], [0, 1, 0], [0, 0, 1]]))
    with refuses(BilensError, "a metric with a negative eigenvalue"):
        deep.norm(metric=torch.diag(torch.tensor([1.0, -1, 1])))
    with refuses(BilensError, "metric with NaN or infinity"):
        deep.norm(metric=torch.full((3, 3), torch.nan))
    with refuses(BilensError, "bond = 3; expected a whole number"):
        deep.gram(3)
    with refuses(ShapeError, "matrix of shape (3, 5)"):
        deep.after(filled("normal", 3, 5, 0), Space("pixels", 5))
    with refuses(BilensError, "ridge = 2"):
        ridged(torch.eye(2), space, 2)
    with refuses(BilensError, "moment of type NoneType"):
        ridged(None, space)
    meta = BilinearTensor(*(torch.zeros(2, 2, device="meta"),) * 3, space, Space("y", 2))
    with refuses(BilensError, "a network on the meta device"):
        DeepTensor.chain(meta).norm()
