"""Bilinear convolutions against the layer unfolded by hand: strides, padding, channels, biases and read-outs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import bilens
from bilens.convolution import ConvKernel, ConvTensor, Geometry
from bilens.errors import BilensError, ShapeError, SpaceError
from bilens.space import Space
from bilens.tensor import BilinearTensor
from messages import refuses
from oracle import array, near
from strategies import SEEDS, filled, matrices, samples, vectors


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    image = draw(st.tuples(st.integers(1, 5), st.integers(1, 4)))
    padding = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    taps = tuple(
        draw(st.integers(1, min(3, size + 2 * rim))) for size, rim in zip(image, padding, strict=True)
    )  # larger than the image itself where the padding allows it
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    return Geometry(image, taps, draw(st.integers(1, 2)), stride, padding)


@st.composite
def convolutions(draw: st.DrawFn, geometry: Geometry, *, constant: bool, readout: int | None) -> ConvTensor:
    hidden, channels = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    space = geometry.patch(constant=constant)
    left, right = draw(matrices(hidden, space.dim)), draw(matrices(hidden, space.dim))
    patch = BilinearTensor(left, right, draw(matrices(channels, hidden)), space, Space("channels", channels))
    conv = ConvTensor(patch, geometry)
    if readout is None:
        return conv
    return conv.then(draw(matrices(readout, channels * geometry.positions)), Space("classes", readout))


@st.composite
def several(draw: st.DrawFn, count: int) -> list[ConvTensor]:
    geometry, constant = draw(geometries()), draw(st.booleans())
    readout = draw(st.none() | st.integers(1, 3))
    found = [draw(convolutions(geometry, constant=constant, readout=readout)) for _ in range(count)]
    assume = {conv.output for conv in found}
    return found if len(assume) == 1 else [found[0]] * count


def patches(geometry: Geometry, image: np.ndarray) -> np.ndarray:
    """The patch at every position of one image, cut out of it by loops, (positions, taps)."""
    (height, width), (a, b), (s, t), (p, q) = geometry.image, geometry.filter, geometry.step, geometry.rim
    padded = np.pad(image.reshape(geometry.channels, height, width), ((0, 0), (p, p), (q, q)))
    rows = range(0, height + 2 * p - a + 1, s)
    columns = range(0, width + 2 * q - b + 1, t)
    return np.stack([padded[:, y : y + a, x : x + b].ravel() for y in rows for x in columns])


def dense(conv: ConvTensor) -> np.ndarray:
    """B_oij with o over the outputs: every position's patch as a matrix, applied by hand."""
    geometry, patch = conv.geometry, conv.patch
    units = [patches(geometry, row) for row in np.eye(geometry.pixels)]  # pixel → (positions, taps)
    cut = np.stack(units, axis=-1)  # positions × taps × pixels
    if conv.input.constant:
        cut = np.pad(cut, ((0, 0), (0, 1), (0, 1)))
        cut[:, -1, -1] = 1
    left, right = (np.einsum("ht,pti->hpi", array(part), cut) for part in (patch.left, patch.right))
    rows = np.einsum("oh,hpi,hpj->opij", array(patch.down), left, right)
    rows = ((rows + rows.transpose(0, 1, 3, 2)) / 2).reshape(-1, *rows.shape[2:])
    return rows if conv.readout is None else np.einsum("ro,oij->rij", array(conv.readout), rows)


def natural(conv: ConvTensor) -> float:
    """At least the norm of the tensor with every term replaced by its absolute value."""
    sizes = [float(part.norm()) for part in (conv.patch.left, conv.patch.right, conv.patch.down)]
    sizes.append(1.0 if conv.readout is None else float(conv.readout.norm()))
    return float(np.prod(sizes)) * conv.geometry.positions + 1e-300


@given(geometries())
def test_sizes_are_those_of_the_patches(geometry):
    cut = patches(geometry, np.zeros(geometry.pixels))
    assert cut.shape == (geometry.positions, geometry.taps)
    assert geometry.map[0] * geometry.map[1] == geometry.positions


@given(st.data(), several(1))
def test_outputs_are_those_of_every_patch(data, convs):
    (conv,) = convs
    x = data.draw(samples(conv.geometry.pixels))
    lifted = np.concatenate([array(x), np.ones((len(x), 1))], axis=1) if conv.input.constant else array(x)
    expected = np.einsum("oij,ni,nj->no", dense(conv), lifted, lifted)
    scale = natural(conv) * (np.linalg.norm(lifted, axis=1) ** 2).max()
    near(conv(x), expected, scale)
    near(conv(x[0]), expected[0], scale)
    near(conv.unfolded()(x), expected, scale)


@given(st.data(), several(1))
def test_a_kernel_is_the_matrix_of_its_direction(data, convs):
    (conv,) = convs
    tensor = dense(conv)
    u = data.draw(vectors(conv.output.dim))
    kernel = conv.kernel(u)
    expected = np.einsum("o,oij->ij", array(u), tensor)
    scale = natural(conv) * (1e-300 + float(u.norm()))
    near(kernel.dense(), expected, scale)
    near(kernel.unfolded().dense(), expected, scale)
    v = data.draw(samples(conv.input.dim))
    near(kernel.matvec(v), array(v) @ expected, scale * (1 + float(v.norm())))
    near(kernel.matvec(v[0]), array(v[0]) @ expected, scale * (1 + float(v.norm())))
    x = data.draw(samples(conv.geometry.pixels))
    near(kernel(x), array(conv(x)) @ array(u), scale * (1 + float(x.norm())) ** 2)
    near(conv.kernel(0).dense(), tensor[0], natural(conv))


@given(several(2))
def test_inner_products_are_those_of_the_unfolded_layers(convs):
    one, two = convs
    first, second = dense(one), dense(two)
    scale = natural(one) * natural(two)
    near(one.inner(two), (first * second).sum(), scale)
    near(one.norm() ** 2, (first**2).sum(), natural(one) ** 2)
    both = np.linalg.norm(first) * np.linalg.norm(second)
    if both > 1e-6 * scale:
        near(one.cosine(two), (first * second).sum() / both, scale / both)
    near(one.gram(), np.einsum("oij,pij->op", first, first), natural(one) ** 2)


@given(st.data(), several(2))
def test_inner_products_of_kernels(data, convs):
    one, two = convs
    u, v = data.draw(vectors(one.output.dim)), data.draw(vectors(two.output.dim))
    first, second = one.kernel(u), two.kernel(v)
    a, b = (np.einsum("o,oij->ij", array(w), dense(conv)) for w, conv in ((u, one), (v, two)))
    scale = natural(one) * natural(two) * (1 + float(u.norm())) * (1 + float(v.norm()))
    near(first.inner(second), (a * b).sum(), scale)
    near(first.norm() ** 2, (a**2).sum(), (natural(one) * (1 + float(u.norm()))) ** 2)
    if np.linalg.norm(a) * np.linalg.norm(b) > 1e-6 * scale:
        both = np.linalg.norm(a) * np.linalg.norm(b)
        near(first.cosine(second), (a * b).sum() / both, scale / both)


@given(SEEDS)
def test_filters_as_torch_has_them(seed):
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.randn(3, 2, 2, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    b, c = (torch.randn(3, generator=generator, dtype=torch.float64) for _ in range(2))
    down = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    images = torch.randn(4, 2, 5, 6, generator=generator, dtype=torch.float64)
    conv = ConvTensor.from_filters(left, right, down, image=(5, 6), stride=(2, 1), padding=1, left_bias=b, right_bias=c)
    hidden = torch.nn.functional.conv2d(images, left, b, (2, 1), 1)
    hidden = hidden * torch.nn.functional.conv2d(images, right, c, (2, 1), 1)
    near(conv(images.flatten(1)), array(torch.einsum("oh,nhab->noab", down, hidden).flatten(1)), 100)
    assert conv.input.constant
    assert conv.output.size == 2 * conv.geometry.positions


def test_the_rim_of_the_padding_is_not_the_inside():
    """A filter of two taps over three pixels and a rim: the sum of squares by hand, 1 + 2·… at the rim."""
    W = torch.ones(1, 1, 1, 2, dtype=torch.float64)
    conv = ConvTensor.from_filters(W, W, image=(1, 3), padding=(0, 1))
    near(conv.norm() ** 2, 2 * 1.0 + 2 * 4.0)  # ‖(1 pixel)²‖² twice, ‖(two pixels)²‖² twice
    summed = conv.then(torch.ones(1, 4, dtype=torch.float64), Space("sum", 1))
    expected = np.array([[2, 1, 0], [1, 2, 1], [0, 1, 2]])
    near(summed.kernel(0).dense(), expected)
    near(summed.norm() ** 2, (expected**2).sum())


def test_a_readout_of_a_readout_names_scales_and_types():
    W = torch.ones(2, 1, 2, 2)
    conv = ConvTensor.from_filters(W, W, image=(3, 3))
    assert repr(conv) == "ConvTensor('pixels' (9) → 'channels map' (8), 2 filters of 2×2 at 4 positions, float32)"
    classes = conv.then(torch.ones(3, 8), Space("digits", 3, ("a", "b", "c")))
    assert repr(classes.kernel("b")) == "ConvKernel('b' over 'pixels' (9), 2 filters of 2×2 at 4 positions, float32)"
    both = classes.then(torch.tensor([[1.0, 0.0, -1.0]]), Space("difference", 1))
    near(both(torch.ones(9)), [0.0])
    near(classes(torch.ones(9)), [128.0] * 3)
    double = classes.kernel("b").to(torch.float64)
    assert double.left.dtype == torch.float64
    large = ConvTensor.from_filters(W * 1e20, W * 1e-25, image=(3, 3))
    near(large.norm() * 1e5, float(conv.norm()), 1.0, rtol=1e-5)
    with refuses(BilensError, "a norm of about 1e+41", "Call .to(torch.float64)"):
        ConvTensor.from_filters(W * 1e20, W * 1e20, image=(3, 3)).norm()
    nothing = ConvTensor.from_filters(0 * W, W, image=(3, 3))
    assert float(nothing.norm()) == float(nothing.cosine(conv)) == 0
    assert float(nothing.kernel(0).cosine(conv.kernel(0))) == 0


@pytest.mark.bad_input
def test_what_does_not_fit_is_refused():
    W = torch.ones(2, 1, 2, 2)
    conv = ConvTensor.from_filters(W, W, image=(3, 3))
    with refuses(BilensError, "a filter of 5 pixels", "at most 4"):
        Geometry((2, 2), (5, 2), padding=1)
    with refuses(BilensError, "stride = 0"):
        Geometry((2, 2), (1, 1), stride=0)
    with refuses(ShapeError, "image of 3 numbers", "two, or one for both"):
        Geometry((2, 2, 2), (1, 1))
    with refuses(ShapeError, "left of shape (2, 4)", "(filters, channels, height, width)"):
        ConvTensor.from_filters(W.flatten(1), W, image=(3, 3))
    with refuses(ShapeError, "a tensor over 'patch' (4)", "the 9 taps"):
        ConvTensor(conv.patch, Geometry((3, 3), (3, 3)))
    with refuses(BilensError, "without the space of its rows", "Call then(matrix, output)"):
        ConvTensor(conv.patch, conv.geometry, torch.ones(3, 8))
    with refuses(ShapeError, "matrix of shape (3, 7)", "(3, 8)"):
        conv.then(torch.ones(3, 7), Space("y", 3))
    with refuses(ShapeError, "direction of shape (3,)", "(8,)"):
        conv.kernel(torch.ones(3))
    with refuses(SpaceError, "label 9"):
        conv.kernel(9)
    with refuses(ShapeError, "9 coordinates of space"):
        conv(torch.ones(8))
    other = ConvTensor.from_filters(torch.ones(2, 1, 1, 1), torch.ones(2, 1, 1, 1), image=(3, 3), stride=2)
    with refuses(BilensError, "a convolution of Geometry"):
        conv.inner(ConvTensor(other.patch, other.geometry))
    with refuses(BilensError, "a convolution of Geometry"):
        conv.kernel(0).inner(other.kernel(0))
    with refuses(BilensError, "an unfolded layer of", "Work on the filters"):
        conv.unfolded(limit=10)
    with refuses(BilensError, "a dense kernel of", "Use matvec"):
        conv.kernel(0).dense(limit=10)
    with refuses(ShapeError, "weights of shape (2, 3)", "(2, 4)"):
        ConvKernel(conv.patch.left, conv.patch.right, torch.ones(2, 3), conv.geometry, conv.input)
    with refuses(ShapeError, "input space 'x' (4)", "the 9 pixels"):
        ConvKernel(conv.patch.left, conv.patch.right, torch.ones(2, 4), conv.geometry, Space("x", 4))


def test_a_convolution_with_its_read_out_has_a_page_of_its_own() -> None:
    """The page's model is the unfolded layer less the mean over classes, and everything kept is the model itself."""
    maps = ConvTensor.from_filters(filled("normal", 3, 4, 1).reshape(3, 1, 2, 2),
                                   filled("normal", 3, 4, 2).reshape(3, 1, 2, 2), image=(5, 5))  # fmt: skip
    conv = maps.then(filled("normal", 3, 48, 3), Space("classes", 3))
    x = filled("normal", 30, 25, 4)
    found = bilens.explore(conv, x, conv(x).argmax(dim=1), out=None)
    assert found.model is not None
    near(found.model(x), array(conv(x) - conv(x).mean(dim=1, keepdim=True)))
    assert found.model.input.image == (5, 5)
    ends = {curve.name: float(curve.accuracy[-1]) for curve in found.all_curves if "random" not in curve.name}
    assert ends
    assert set(ends.values()) == {1.0}
