"""Layers against their formulas, and their tensors against the layers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bilens.errors import BilensError, ShapeError
from bilens.models import Bilinear, Dense, Gated, ImageClassifier, swish
from bilens.space import Space
from oracle import array, dense, evaluate, near, with_one

SIZES = st.integers(1, 5)


def rows(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(d=SIZES, h=SIZES, bias=st.booleans())
def test_bilinear_and_its_tensor_are_the_formula(d: int, h: int, bias: bool) -> None:
    layer, x = Bilinear(d, h, bias, generator=generator()).double(), rows(4, d)
    w, v = array(layer.left.weight), array(layer.right.weight)
    b, c = (array(layer.left.bias), array(layer.right.bias)) if bias else (np.zeros(h), np.zeros(h))
    expected = (array(x) @ w.T + b) * (array(x) @ v.T + c)
    near(layer(x), expected, 10)
    tensor = layer.tensor()
    near(tensor(x), expected, 10)
    assert tensor.input.constant == bias
    if bias:
        w, v = np.column_stack([w, b]), np.column_stack([v, c])
    near(tensor.to_dense(), dense(w, v, np.eye(h)), 1)


def test_spaces_of_the_tensor() -> None:
    pixels, units = Space("pixels", 4, image=(2, 2)), Space("units", 3)
    layer = Bilinear(4, 3, True, input=pixels, output=units)
    assert layer.tensor().input == pixels.with_constant()
    assert layer.tensor().output == units
    other = layer.tensor(Space("stream", 4), Space("mlp", 3))
    assert (other.input.name, other.output.name) == ("stream", "mlp")


def test_a_tensor_is_a_copy_unless_it_keeps_the_graph() -> None:
    layer = Bilinear(3, 2, generator=generator())
    tensor, before = layer.tensor(), layer.left.weight.detach().clone()
    assert not tensor.left.requires_grad
    with torch.no_grad():
        layer.left.weight.zero_()
    torch.testing.assert_close(tensor.left, before)
    layer.tensor(detach=False).norm().backward()
    assert layer.right.weight.grad is not None
    with torch.no_grad():
        layer.tensor(detach=False).left.add_(1)
    assert bool((layer.left.weight == 0).all())


def test_swish_is_half_of_x_at_slope_zero() -> None:
    x = rows(5, 3)
    torch.testing.assert_close(swish(x, 0.0), x / 2)
    torch.testing.assert_close(swish(x), torch.nn.functional.silu(x))
    torch.testing.assert_close(swish(x, 1e4), x.relu(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("bias", [False, True])
def test_gated_layers(bias: bool) -> None:
    x = rows(6, 4)
    for name, gate in (("reglu", lambda z: np.maximum(z, 0)), ("swiglu", lambda z: z / (1 + np.exp(-z)))):
        layer = Gated(4, 3, name, bias, generator=generator()).double()
        b, c = (array(layer.left.bias), array(layer.right.bias)) if bias else (0, 0)
        expected = gate(array(x) @ array(layer.left.weight).T + b) * (array(x) @ array(layer.right.weight).T + c)
        near(layer(x), expected, 10)


@pytest.mark.parametrize("bias", [False, True])
def test_swiglu_at_slope_zero_has_a_tensor_with_the_factor_one_half(bias: bool) -> None:
    layer, x = Gated(4, 3, "swiglu", bias, beta=0.0, generator=generator()).double(), rows(5, 4)
    tensor = layer.tensor()
    near(tensor(x), layer(x), 10)
    w, v = array(layer.left.weight), array(layer.right.weight)
    if bias:
        w, v = np.column_stack([w, array(layer.left.bias)]), np.column_stack([v, array(layer.right.bias)])
    folded = with_one(x) if bias else array(x)
    near(tensor(x), evaluate(dense(w, v, np.eye(3) / 2), folded), 10)


@pytest.mark.parametrize("bias", [False, True])
def test_dense_layers(bias: bool) -> None:
    x = rows(6, 4)
    relu, gelu = Dense(4, 3, "relu", bias, generator=generator()), Dense(4, 3, "gelu", bias, generator=generator())
    z = array(x) @ array(relu.linear.weight).T + (array(relu.linear.bias) if bias else 0)
    near(relu.double()(x), np.maximum(z, 0), 10)
    erf = np.vectorize(math.erf)
    near(gelu.double()(x), z * (1 + erf(z / np.sqrt(2))) / 2, 10)


@pytest.mark.parametrize(
    "layer", [Gated(3, 2, "reglu"), Gated(3, 2, "swiglu"), Dense(3, 2, "relu"), Dense(3, 2, "gelu")]
)
def test_other_layers_have_no_tensor(layer: Gated | Dense) -> None:
    with pytest.raises(BilensError, match=r"got \.tensor\(\) of .*; expected a bilinear layer.*. Train one with"):
        layer.tensor()


def test_first_weights_come_from_the_generator_and_fill_their_range() -> None:
    before = torch.get_rng_state()
    one, two = (Bilinear(16, 400, True, generator=generator(3)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name])
        assert float(value.abs().max()) <= 0.25
        assert float(value.max()) > 0.24
        assert float(value.min()) < -0.24
    assert not torch.equal(one.left.weight, one.right.weight)


@pytest.mark.bad_input
def test_bad_arguments_are_named() -> None:
    with pytest.raises(BilensError, match=r"got d_in = 0; expected a whole number of at least 1"):
        Bilinear(0, 3)
    with pytest.raises(BilensError, match=r"got d_hidden = -1; expected a whole number of at least 1"):
        Dense(2, -1, "relu")
    with pytest.raises(BilensError, match=r"got activation = 'tanh'; expected one of relu, gelu"):
        Dense(2, 3, "tanh")
    with pytest.raises(BilensError, match=r"got activation = 'relu'; expected one of reglu, swiglu"):
        Gated(2, 3, "relu")
    with pytest.raises(ShapeError, match=r"got space 'pixels' \(9\); expected one of size 4, like the layer"):
        Bilinear(4, 3, input=Space("pixels", 9))


def test_vectors_of_other_types_are_converted_or_refused_by_a_layer_and_by_a_model() -> None:
    layer, model = Bilinear(4, 3), ImageClassifier(Space("p", 4), Space("c", 2), hidden=3)
    x = torch.randn(5, 4)
    for module in (layer, model):
        assert torch.equal(module(x.double()), module(x))
        with pytest.raises(BilensError, match="floating-point"):
            module(x.long())
