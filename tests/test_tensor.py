"""Tensors and kernels: how they are built, joined and moved, what they keep, and what they refuse."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import oracle
from bilens import decompose, pairs
from bilens._internal.factors import hidden_gram
from bilens.dictionary import Dictionary
from bilens.errors import BilensError, ShapeError, SpaceError
from bilens.kernel import Kernel
from bilens.space import Space
from bilens.tensor import BilinearTensor
from largest import Largest
from messages import refuses
from oracle import array, near, with_one
from strategies import SEEDS, filled, kernels, layers, matrices, samples, vectors

X, Y = Space("x", 3), Space("y", 2, labels=("cat", "dog"))


def factors(h: int = 4, i: int = 3, o: int = 2, seed: int = 0, dtype: torch.dtype = torch.float64):
    """L, R and D, drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator, dtype=dtype) for shape in ((h, i), (h, i), (o, h))]


def random_tensor(seed: int = 0, *, input: Space = X, output: Space = Y, h: int = 4, dtype=torch.float64):
    return BilinearTensor(*factors(h, input.dim, output.dim, seed, dtype), input, output)


def test_the_bound_of_the_rank_is_attained_by_products_of_different_directions():
    e = torch.eye(4, dtype=torch.float64)
    for weights, rank in (([0.0, 0.0], 0), ([1.0, 0.0], 2), ([1.0, -3.0], 4)):
        kernel = Kernel(e[:2], e[2:], torch.tensor(weights).double(), Space("x", 4))
        assert kernel.rank_bound == rank == np.linalg.matrix_rank(array(kernel.dense()))


def test_codes_are_those_of_outputs_less_the_offset():
    atoms, offset = filled("normal", 5, 2, 3), torch.tensor([2.0, -7.0]).double()
    tensor, x = random_tensor(), filled("normal", 6, 3, 4)
    expected = (oracle.evaluate(oracle.dense(tensor.left, tensor.right, tensor.down), array(x)) - array(offset)) @ (
        np.linalg.pinv(array(atoms))
    )
    near(tensor.read(Dictionary.from_atoms(atoms, Y, offset=offset))(x), expected, 10)


# How tensors are built


@given(st.data(), layers())
def test_any_batch_of_inputs(data, layer):
    tensor, x = layer.tensor(), data.draw(samples(layer.input.size, 4))
    expected, size = oracle.forward(layer, x), oracle.size(layer, x)
    near(tensor(x[0]), expected[0], size)
    near(tensor(x.reshape(2, 2, -1)), expected.reshape(2, 2, -1), size)
    assert tensor(x[:0]).shape == (0, layer.output.size)


@given(st.data(), st.integers(1, 4), st.integers(1, 5))
def test_a_linear_map_is_a_tensor(data, o, d):
    matrix, x = data.draw(matrices(o, d)), data.draw(samples(d))
    tensor = BilinearTensor.from_linear(matrix, input=Space("x", d), output=Space("y", o))
    near(tensor(x), array(x) @ array(matrix).T, abs(array(x)) @ abs(array(matrix)).T)
    dense = array(tensor.to_dense())
    near(dense[:, :d, :d], np.zeros((o, d, d)), 0)
    near(2 * dense[:, :d, d], matrix, abs(array(matrix)))
    near(dense[:, d, d], np.zeros(o), 0)


@given(st.data(), layers())
def test_a_linear_map_after_the_layer(data, layer):
    out = data.draw(st.integers(1, 4))
    matrix, x = data.draw(matrices(out, layer.output.size)), data.draw(samples(layer.input.size))
    tensor = layer.tensor().then(matrix, Space("z", out))
    assert tensor.output == Space("z", out)
    near(tensor(x), oracle.forward(layer, x) @ array(matrix).T, oracle.size(layer, x) @ abs(array(matrix)).T)


@given(st.data(), layers())
def test_two_layers_side_by_side(data, layer):
    other = data.draw(layers(d=layer.input.size, o=layer.output.size))
    x = data.draw(samples(layer.input.size))
    both = layer.tensor() + other.tensor()
    assert both.input.constant == (layer.biased or other.biased)
    near(both(x), oracle.forward(layer, x) + oracle.forward(other, x), oracle.size(layer, x) + oracle.size(other, x))


@given(st.data(), layers())
def test_shift_and_lift(data, layer):
    tensor, x = layer.tensor(), data.draw(samples(layer.input.size))
    e = data.draw(vectors(layer.output.size))
    size = oracle.size(layer, x)
    near(tensor.shift(e)(x), oracle.forward(layer, x) + array(e), size + abs(array(e)))
    assert tensor.shift(e).hidden == tensor.hidden + 1
    near(tensor.fold()(x), oracle.forward(layer, x), size)
    assert tensor.fold().input.constant
    lifted = tensor.fold()
    assert lifted.fold() is lifted


def test_a_space_that_has_its_constant_keeps_it():
    left, right, down = factors()
    tensor = BilinearTensor.from_layer(left, right, down, input=X.with_constant(), output=Y)
    assert tensor.input == X.with_constant()
    near(tensor.left[:, -1], np.zeros(4), 0)
    assert BilinearTensor.from_layer(left, right, down, input=X, output=Y).input == X


def test_without_a_read_out_the_outputs_are_the_hidden_units():
    left, right, _ = factors()
    tensor = BilinearTensor.from_layer(left, right, input=X, output=Space("hidden", 4))
    near(tensor.down, np.eye(4), 0)


def test_a_label_a_number_and_a_direction_are_one_kernel():
    tensor = random_tensor()
    by_label, by_number = tensor.kernel("dog"), tensor.kernel(1)
    by_direction = tensor.kernel(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert (by_label.label, by_number.label, by_direction.label) == ("dog", "dog", "")
    for kernel in (by_label, by_number, by_direction):
        near(kernel.dense(), oracle.dense(tensor.left, tensor.right, tensor.down)[1], 10)


def test_a_matrix_becomes_its_symmetric_part():
    matrix = torch.tensor([[1.0, 4.0], [0.0, 2.0]], dtype=torch.float64)
    kernel = Kernel.from_matrix(matrix, Space("x", 2), "triangle")
    near(kernel.dense(), [[1.0, 2.0], [2.0, 2.0]], 0)
    assert kernel.label == "triangle"
    near(kernel(torch.tensor([[1.0, 3.0]], dtype=torch.float64)), [1 + 12 + 18])


@given(st.data(), kernels())
def test_kernels_of_two_vectors(data, kernel):
    x = data.draw(samples(kernel.input.size))
    y = data.draw(samples(kernel.input.size, len(x)))
    dense = oracle.dense(kernel.left, kernel.right, kernel.weights[None])[0]
    lx, ly = (with_one(v) if kernel.input.constant else array(v) for v in (x, y))
    scale = np.linalg.norm(oracle.dense(kernel.left.abs(), kernel.right.abs(), kernel.weights.abs()[None])) * (
        (lx**2).sum() + (ly**2).sum()
    )
    near(kernel(x, y), np.einsum("ni,ij,nj->n", lx, dense, ly), scale)
    near(kernel(x), np.einsum("ni,ij,nj->n", lx, dense, lx), scale)
    near(kernel(x[0]), np.einsum("i,ij,j->", lx[0], dense, lx[0]), scale)


# Single precision, devices and gradients


@given(st.data(), layers())
def test_single_precision_in_single_precision_out(data, layer):
    single, x = layer.tensor().to(torch.float32), data.draw(samples(layer.input.size)).float()
    size = oracle.size(layer, x)
    near(single(x), oracle.forward(layer, x), size, rtol=1e-5)
    kernel = single.kernel(0)
    assert {value.dtype for value in (single(x), kernel(x), kernel.dense(), single.norm(), kernel.norm())} == {
        torch.float32
    }
    assert single.gram().dtype == torch.float64
    double = single.to(torch.float64)
    # inside they work in double precision: only the factors and the answer are rounded
    near(single.norm(), double.norm(), float(double.norm()), rtol=1e-6)
    near(single.inner(single), double.inner(double), float(double.inner(double)), rtol=1e-6)


def test_gram_products_are_computed_in_double_precision():
    generator = torch.Generator().manual_seed(1)
    left, right = (torch.randn(3, 400, generator=generator) for _ in range(2))
    expected = np.einsum("hij,gij->hg", *[oracle.dense(left, right, np.eye(3))] * 2)
    near(hidden_gram(left, right, left, right), expected, 1e6, rtol=1e-12)


@pytest.mark.parametrize("rows", [1, 3, 7, 8])
def test_the_gram_of_one_layer_is_made_of_some_rows_at_a_time(rows, monkeypatch):
    monkeypatch.setattr("bilens._internal.factors.GRAM_ROWS", rows)
    generator = torch.Generator().manual_seed(1)
    left, right = (torch.randn(7, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    left.requires_grad_()
    expected = np.einsum("hij,gij->hg", *[oracle.dense(left.detach(), right, np.eye(7))] * 2)
    near(hidden_gram(left, right, left, right).detach(), expected, 1e3, rtol=1e-14)
    assert torch.autograd.gradcheck(lambda left: hidden_gram(left, right, left, right), left)


def test_moving_a_kernel_and_a_tensor():
    tensor = random_tensor()
    assert tensor.to("cpu").left.device == torch.device("cpu")
    assert tensor.kernel(0).to(torch.float32).weights.dtype == torch.float32
    assert tensor.kernel("cat").to(torch.float32).label == "cat"


def test_gradients_reach_the_weights():
    left, right, down = (factor.requires_grad_() for factor in factors())
    tensor = BilinearTensor.from_layer(left, right, down, input=X, output=Y, detach=False)
    x = torch.ones(2, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda *f: BilinearTensor.from_layer(*f, input=X, output=Y, detach=False)(x).square().sum(),
        (left, right, down),
        raise_exception=True,
    )
    tensor.norm().backward()
    # the gradient of ‖B‖ in D is (D G)/‖B‖
    gram = oracle.gram(oracle.dense(left, right, np.eye(4)))
    near(down.grad, array(down) @ gram / array(tensor.norm()), 10)


# Norms and angles


@given(layers(), st.sampled_from([2.0, -3.0, 1e-3]))
def test_cosine_is_one_minus_one_or_zero(layer, scale):
    tensor = layer.tensor()
    scaled = dataclasses.replace(tensor, down=tensor.down * scale)
    dense = oracle.tensor(layer, constant=layer.biased)
    natural = oracle.dense(tensor.left.abs(), tensor.right.abs(), tensor.down.abs())
    if np.linalg.norm(dense) > 1e-3 * np.linalg.norm(natural):
        near(tensor.cosine(scaled), np.sign(scale))
    zero = dataclasses.replace(tensor, down=tensor.down * 0)
    assert float(tensor.cosine(zero)) == float(zero.cosine(zero)) == float(zero.norm()) == 0


@given(layers(bias=True, read_out=True), SEEDS)
def test_no_rotation_of_hidden_units_changes_a_tensor(layer, seed):
    """The same tensor from other factors: units swapped, left and right exchanged, scales moved."""
    tensor = layer.tensor()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(tensor.hidden, generator=generator)
    scale = torch.rand(tensor.hidden, 1, generator=generator, dtype=torch.float64) + 0.5
    other = BilinearTensor(
        (tensor.right * scale)[order],
        (tensor.left * 2)[order],
        (tensor.down / scale.T / 2)[:, order],
        tensor.input,
        tensor.output,
    )
    natural = oracle.dense(tensor.left.abs(), tensor.right.abs(), tensor.down.abs())
    near(other.to_dense(), tensor.to_dense(), natural)
    near(tensor.inner(other), tensor.norm() ** 2, np.linalg.norm(natural) ** 2)


# Nothing builds the dense tensor


def test_nothing_builds_the_dense_tensor(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("to_dense was called")

    monkeypatch.setattr(BilinearTensor, "to_dense", refuse)
    o, d, h = 40, 60, 30
    generator = torch.Generator().manual_seed(0)
    left, right, down, more = (
        torch.randn(*shape, generator=generator) for shape in ((h, d), (h, d), (o, h), (2 * d, d))
    )
    space, output = Space("x", d), Space("y", o)
    inputs = Dictionary.from_atoms(more, space, offset=more[0])
    outputs = Dictionary.from_atoms(torch.randn(25, o, generator=generator), output)
    with Largest() as largest:
        tensor = BilinearTensor.from_layer(
            left, right, down, left_bias=left[:, 0], right_bias=right[:, 0], down_bias=down[:, 0],
            input=space, output=output,
        )  # fmt: skip
        tensor(more), tensor(more, more), tensor.norm(), tensor.cosine(tensor), tensor.gram(), tensor.centered()
        tensor.read(outputs)(more)
        tensor.pullback(inputs).kernel(0), tensor.coordinates(inputs).norm(), tensor + tensor
        kernel = tensor.kernel(3)
        kernel(more), kernel.parts(), kernel.norm()
        decompose.eigh(kernel, 4), decompose.eigh(kernel)
        decompose.eigh_weighted(kernel, decompose.second_moment(more, kernel.input), 4)
        decompose.svd(tensor, 5).truncate(2), decompose.svd(tensor).kernel(0)
        decompose.svd_accurate(tensor, 5, block=64)
        i = torch.arange(20)
        pairs.polarized(tensor, i, i, inputs), pairs.two_hot(tensor, i, i)
        pairs.contract(tensor, tensor.input.fold(more))
        for n in range(3):
            pairs.stream(tensor, inputs, batch_size=32).batch(n)
    assert largest.numel <= 4 * (2 * d + 1) ** 2 < tensor.dense_numel / 2


def test_dense_is_refused_above_a_limit():
    tensor = random_tensor()
    assert tensor.to_dense(limit=2 * 3 * 3 * 8).shape == (2, 3, 3)
    with refuses(BilensError, "2×3×3 = 144 bytes", "at most 143 bytes", "larger limit"):
        tensor.to_dense(limit=143)
    big = BilinearTensor(*[torch.zeros(1, 20_000)] * 2, torch.zeros(2, 1), Space("x", 20_000), Y)
    with refuses(BilensError, "3,200,000,000 bytes", "1,073,741,824 bytes"):
        big.to_dense()


# What is refused


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("left", (4, 4), "(4, 3)"),
        ("left", (0, 3), "(hidden, 3)"),
        ("left", (3,), "(hidden, 3)"),
        ("right", (4, 2), "(4, 3)"),
        ("right", (5, 3), "(4, 3)"),
        ("right", (3,), "(4, 3)"),
        ("down", (3, 4), "(2, 4)"),
        ("down", (2, 5), "(2, 4)"),
        ("down", (4,), "(2, 4)"),
    ],
)
@pytest.mark.bad_input
def test_refuses_factors_that_do_not_fit(name, shape, expected):
    parts = dict(zip(("left", "right", "down"), factors(), strict=True)) | {name: torch.zeros(shape).double()}
    with refuses(ShapeError, f"{name} of shape {shape}", expected):
        BilinearTensor(**parts, input=X, output=Y)
    if name != "down":
        with refuses(ShapeError, f"{name} of shape {shape}", expected):
            Kernel(parts["left"], parts["right"], torch.zeros(4).double(), X)


@pytest.mark.parametrize("name", ["left", "right", "down"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_refuses_numbers_that_are_not_finite(name, bad):
    parts = dict(zip(("left", "right", "down"), factors(), strict=True))
    parts[name][0, 0] = bad
    with refuses(BilensError, f"{name} with NaN or infinity", "finite", "trained or saved"):
        BilinearTensor(**parts, input=X, output=Y)


@pytest.mark.parametrize("name", ["left", "right", "down"])
def test_refuses_whole_numbers_and_other_types(name):
    parts = dict(zip(("left", "right", "down"), factors(), strict=True))
    with refuses(BilensError, "as torch.float", "like left", ".to("):
        BilinearTensor(**parts | {name: parts[name].float()}, input=X, output=Y)


@pytest.mark.parametrize("name", ["left", "right", "down"])
@pytest.mark.bad_input
def test_refuses_whole_numbers(name):
    parts = dict(zip(("left", "right", "down"), factors(), strict=True))
    with refuses(BilensError, f"{name} of type torch.int64", "floating-point", ".float()"):
        BilinearTensor(**parts | {name: parts[name].long()}, input=X, output=Y)


def test_refuses_an_output_with_a_constant():
    with refuses(BilensError, "output space 'y' (2+1)", "without_constant()"):
        BilinearTensor(*factors(o=3), X, Y.with_constant())


@pytest.mark.bad_input
def test_refuses_layers_that_do_not_fit():
    left, right, down = factors()
    build = BilinearTensor.from_layer
    with refuses(ShapeError, "left of shape (3,)", "(hidden, input)"):
        build(left[0], right, down, input=X, output=Y)
    with refuses(ShapeError, "left of shape (4, 3)", "'x' (2)"):
        build(left, right, down, input=Space("x", 2), output=Y)
    with refuses(ShapeError, "left_bias of shape (3,)", "(4,)"):
        build(left, right, down, left_bias=left[0], input=X, output=Y)
    with refuses(ShapeError, "right_bias of shape (1,)", "(4,)"):
        build(left, right, down, right_bias=left[0, :1], input=X, output=Y)
    with refuses(ShapeError, "down_bias of shape (4,)", "(2,)"):
        build(left, right, down, down_bias=left[:, 0], input=X, output=Y)
    with refuses(ShapeError, "right of shape (4,)"):
        build(left, right[:, 0], down, left_bias=left[:, 0], input=X, output=Y)
    with refuses(ShapeError, "down of shape (4, 4)", "(2, 4)"):
        build(left, right, input=X, output=Y)
    with refuses(BilensError, "left_bias with NaN"):
        build(left, right, down, left_bias=left[:, 0] * float("nan"), input=X, output=Y)
    with refuses(BilensError, "right as torch.float32", "torch.float64"):
        build(left, right.float(), down, left_bias=left[:, 0], input=X, output=Y)
    with refuses(ShapeError, "matrix of shape (3,)"):
        BilinearTensor.from_linear(left[0], input=X, output=Y)
    with refuses(ShapeError, "matrix of shape (4, 3)", "(2, 3)", "'y' (2) × 'x' (3)"):
        BilinearTensor.from_linear(left, input=X, output=Y)


@pytest.mark.bad_input
def test_refuses_directions_and_maps_that_do_not_fit():
    tensor = random_tensor()
    with refuses(ShapeError, "direction of shape (3,)", "(2,)", "'y' (2)"):
        tensor.kernel(torch.zeros(3))
    with refuses(BilensError, "direction with NaN"):
        tensor.kernel(torch.tensor([0.0, float("nan")]))
    with refuses(BilensError, "direction of type torch.int64", "floating-point"):
        tensor.kernel(torch.tensor([0, 1]))
    with refuses(SpaceError, "label 'bird'", "'y' (2)", "one of cat, dog"):
        tensor.kernel("bird")
    with refuses(SpaceError, "label 2", "a number from 0 to 1"):
        tensor.kernel(2)
    with refuses(ShapeError, "matrix of shape (3, 3)", "(3, 2)", "'z' (3) × 'y' (2)"):
        tensor.then(torch.zeros(3, 3), Space("z", 3))
    with refuses(ShapeError, "shift of shape (3,)", "(2,)"):
        tensor.shift(torch.zeros(3))
    with refuses(ShapeError, "matrix of shape (3, 2)", "(3, 3)", "'x' (3) twice"):
        Kernel.from_matrix(torch.zeros(3, 2), X)
    with refuses(ShapeError, "weights of shape (3,)", "(4,)"):
        Kernel(*factors()[:2], torch.zeros(3).double(), X)
    with refuses(BilensError, "weights as torch.float32", "torch.float64"):
        Kernel(*factors()[:2], torch.zeros(4), X)


@pytest.mark.parametrize("shape", [(), (4,), (2, 2), (2, 4)])
@pytest.mark.bad_input
def test_refuses_inputs_of_another_size(shape):
    """The folded size (4) too: the constant coordinate is added inside."""
    tensor = random_tensor(input=X.with_constant())
    good, bad = torch.zeros(3).double(), torch.zeros(shape).double()
    for call in (
        lambda: tensor(bad),
        lambda: tensor(good, bad),
        lambda: tensor.kernel(0)(bad),
        lambda: tensor.kernel(0)(good, bad),
    ):
        with refuses(ShapeError, f"vectors of shape {shape}", "3 coordinates", "'x' (3+1)", "without the constant"):
            call()
    with refuses(ShapeError, "vectors of shape (3,)", "4 coordinates on the last axis", "Fold them first"):
        tensor.kernel(0).matvec(good)


def test_refuses_dictionaries_and_tensors_of_other_spaces():
    tensor = random_tensor()
    other = Dictionary.identity(Space("elsewhere", 2), dtype=torch.float64)
    for call, ours in ((tensor.read, "'y' (2)"), (tensor.pullback, "'x' (3)"), (tensor.coordinates, "'x' (3)")):
        with refuses(SpaceError, "a dictionary over space 'elsewhere' (2)", ours, "differ in name"):
            call(other)
    for pair in (random_tensor(input=Space("z", 3)), random_tensor(output=Space("z", 2))):
        for call in (tensor.inner, tensor.cosine, tensor.__add__):
            with refuses(SpaceError, "a tensor", "over space 'z'", "differ in name"):
                call(pair)
    # the same outputs without their labels are another space too
    with refuses(SpaceError, "differ in labels"):
        tensor.read(Dictionary.identity(Space("y", 2), dtype=torch.float64))
    with refuses(SpaceError, "a tensor", "differ in constant"):
        tensor.inner(random_tensor(input=X.with_constant()))
    with refuses(SpaceError, "a kernel", "differ in name"):
        tensor.kernel(0).inner(random_tensor(input=Space("z", 3)).kernel(0))


# Arithmetic


@given(st.data(), layers(), st.floats(-3, 3, allow_nan=False))
def test_differences_and_multiples_are_those_of_what_the_layers_say(data, layer, factor):
    tensor, x = layer.tensor(), data.draw(samples(layer.input.size))
    y, size = oracle.forward(layer, x), oracle.size(layer, x)
    near((-tensor)(x), -y, size)
    near((factor * tensor)(x), factor * y, abs(factor) * size)
    near((tensor * factor)(x), factor * y, abs(factor) * size)
    near((tensor - 3 * tensor)(x), -2 * y, 4 * size)
    u, w = data.draw(vectors(layer.output.size)), data.draw(vectors(layer.output.size))
    q, p, scale = tensor.kernel(u), tensor.kernel(w), size @ (abs(array(u)) + abs(array(w)))
    near((q + p)(x), y @ (array(u) + array(w)), scale)
    near((q - p)(x), y @ (array(u) - array(w)), scale)
    near((-q)(x), -(y @ array(u)), scale)
    near((factor * q)(x), factor * (y @ array(u)), abs(factor) * scale)
    dense = array(q.dense())
    near((q * factor).dense(), factor * dense, abs(factor) * (scale.max(initial=1) + abs(dense).max()))


def test_a_difference_of_kernels_is_named_after_both():
    tensor = random_tensor()
    cat, dog = tensor.kernel("cat"), tensor.kernel("dog")
    assert (cat - dog).label == "cat − dog"
    assert (cat + dog).label == "cat + dog"
    assert (-cat).label == "−cat"
    assert (2 * cat).label == "cat"
    assert (cat - tensor.kernel(torch.ones(2, dtype=torch.float64))).label == ""
    single = cat.to(torch.float32)
    assert (cat - single).left.dtype == torch.float64


@pytest.mark.bad_input
def test_refuses_what_cannot_be_added_or_multiplied():
    tensor = random_tensor()
    kernel, other = tensor.kernel(0), random_tensor(input=Space("z", 3))
    for call in (lambda: tensor - other, lambda: kernel - other.kernel(0), lambda: kernel + other.kernel(0)):
        with refuses(SpaceError, "over space 'z'", "differ in name"):
            call()
    for call in (lambda: tensor - 1, lambda: kernel + 1, lambda: kernel - tensor):
        with refuses(BilensError, "the other one of type"):
            call()
    for thing in (tensor, kernel):
        with refuses(BilensError, "a factor"):
            thing * "2"
        with refuses(BilensError, "a factor"):
            float("nan") * thing
        with refuses(BilensError, "times a number"):
            thing.to(torch.float32) * 1e300


def test_cosines_of_kernels():
    first, second = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    a, b = (Kernel.from_matrix(matrix, Space("x", 4)) for matrix in (first, second))
    dense = [array(matrix + matrix.T).ravel() for matrix in (first, second)]
    near(a.cosine(b), dense[0] @ dense[1] / np.prod([np.linalg.norm(part) for part in dense]), 1)
    assert float(a.cosine(a)) == 1
    assert float(a.cosine(-a)) == -1
    assert float(a.cosine(0 * b)) == 0
    with refuses(SpaceError, "a kernel"):
        a.cosine(Kernel.from_matrix(second, Space("z", 4)))


def test_a_kernel_times_vectors_is_its_matrix_times_them():
    kernel = random_tensor().kernel("cat")
    v = torch.randn(5, kernel.input.dim, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    near(kernel.matvec(v), array(v) @ array(kernel.dense()), 10.0)
