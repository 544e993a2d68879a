"""Images turned, moved and blurred: against numpy and scipy, and training with them."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import given
from hypothesis import strategies as st

from bilens.errors import BilensError, ShapeError
from bilens.models import Augmentation
from reproduction.methods.distortion import Distortion, blur, rotate, shift
from strategies import SEEDS

SHAPES = st.tuples(st.integers(1, 7), st.integers(1, 7))


def pictures(n: int, shape: tuple[int, int], seed: int) -> torch.Tensor:
    return torch.rand(n, shape[0] * shape[1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(SHAPES, SEEDS, st.integers(1, 4))
def test_nothing_is_changed_by_zero(shape: tuple[int, int], seed: int, n: int) -> None:
    images, zero = pictures(n, shape, seed), torch.zeros(n)
    torch.testing.assert_close(rotate(images, shape, zero), images)
    torch.testing.assert_close(shift(images, shape, zero.long(), zero.long()), images, rtol=0, atol=0)
    torch.testing.assert_close(blur(images, shape, zero), images)
    assert Distortion()(images, shape, torch.Generator()) is images


@given(SHAPES, SEEDS, st.integers(-9, 9), st.integers(-9, 9))
def test_a_shift_is_a_roll_that_lets_nothing_in(shape: tuple[int, int], seed: int, down: int, right: int) -> None:
    images = pictures(2, shape, seed)
    padded = np.pad(images.reshape(2, *shape).numpy(), ((0, 0), (9, 9), (9, 9)))
    expected = np.roll(padded, (down, right), axis=(1, 2))[:, 9 : 9 + shape[0], 9 : 9 + shape[1]]
    moved = shift(images, shape, torch.tensor([0, down]), torch.tensor([0, right]))
    np.testing.assert_array_equal(moved[1].reshape(shape), expected[1])
    torch.testing.assert_close(moved[0], images[0], rtol=0, atol=0)  # each image by its own numbers


@given(st.integers(1, 7), SEEDS, st.integers(-3, 3))
def test_quarter_turns_are_exact_and_counter_clockwise(side: int, seed: int, quarters: int) -> None:
    images = pictures(1, (side, side), seed)
    turned = rotate(images, (side, side), torch.tensor([90.0 * quarters]))
    expected = np.rot90(images[0].reshape(side, side).numpy(), quarters)
    np.testing.assert_allclose(turned[0].reshape(side, side), expected, atol=1e-6)


@given(SHAPES, SEEDS, st.floats(-180, 180))
def test_a_turn_is_bilinear_interpolation(shape: tuple[int, int], seed: int, degrees: float) -> None:
    images = pictures(2, shape, seed)
    turned = rotate(images, shape, torch.tensor([0.0, degrees], dtype=torch.float64))[1].reshape(shape)
    angle, (height, width) = np.deg2rad(degrees), shape
    centre = np.array([(height - 1) / 2, (width - 1) / 2])
    matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])  # over (row, column)
    padded = np.pad(images[1].reshape(shape).numpy(), 2)  # scipy's own border does not interpolate with 0
    expected = scipy.ndimage.affine_transform(padded, matrix, offset=centre + 2 - matrix @ (centre + 2), order=1)
    np.testing.assert_allclose(turned, expected[2:-2, 2:-2], atol=1e-6)


@given(SHAPES, SEEDS, st.lists(st.floats(0, 2.5), min_size=1, max_size=4))
def test_a_blur_is_scipys_gaussian_filter(shape: tuple[int, int], seed: int, widths: list[float]) -> None:
    images = pictures(len(widths), shape, seed)
    spread = blur(images, shape, torch.tensor(widths, dtype=torch.float64))
    for image, found, sigma in zip(images, spread, widths, strict=True):
        picture = image.reshape(shape).numpy()
        expected = scipy.ndimage.gaussian_filter(picture, sigma, mode="constant") if sigma > 1e-3 else picture
        np.testing.assert_allclose(found.reshape(shape), expected, atol=1e-9)


@given(SEEDS, st.floats(0.2, 1.0))
def test_a_blur_keeps_ink_and_constant_surroundings(seed: int, sigma: float) -> None:
    inner = np.pad(pictures(1, (3, 3), seed)[0].reshape(3, 3).numpy(), 4)
    ink = blur(torch.from_numpy(inner).reshape(1, -1), (11, 11), torch.tensor([sigma], dtype=torch.float64))
    assert float(ink.sum()) == pytest.approx(inner.sum())
    flat = blur(torch.ones(1, 121, dtype=torch.float64), (11, 11), torch.tensor([sigma])).reshape(11, 11)
    torch.testing.assert_close(flat[4:7, 4:7], torch.ones(3, 3, dtype=torch.float64))


def test_amounts_are_uniform_within_their_limits_and_of_the_generator() -> None:
    dot = torch.zeros(4000, 81)
    dot[:, 40] = 1
    moved = Distortion(shift=2)(dot, (9, 9), torch.Generator().manual_seed(0)).argmax(dim=1)
    counts = torch.bincount(9 * (moved // 9 - 4) + moved % 9 - 4 + 20, minlength=41)
    rows, columns = moved // 9 - 4, moved % 9 - 4
    assert sorted(set(rows.tolist())) == sorted(set(columns.tolist())) == [-2, -1, 0, 1, 2]
    assert int((counts > 0).sum()) == 25
    assert int(counts[counts > 0].min()) > 100
    line = torch.zeros(4000, 81)
    line[:, 36:45] = 1
    turned = Distortion(rotation=30.0)(line, (9, 9), torch.Generator().manual_seed(0)).reshape(-1, 9, 9)
    right = turned[:, :, 7].argmax(dim=1) - 4  # where the line ends up, three columns right of the centre
    assert (int(right.min()), int(right.max())) == (-2, 2)  # 3 tan 30° = 1.7
    assert abs(float(right.double().mean())) < 0.1
    wide = Distortion(blur=1.0)(dot, (9, 9), torch.Generator().manual_seed(0))[:, 40]
    assert float(wide.max()) == pytest.approx(1)
    assert float(wide.min()) == pytest.approx(1 / (2 * np.pi), rel=0.01)  # the height of a Gaussian of σ = 1
    every = Distortion(10.0, 1, 0.5)
    first, again, other = (every(dot, (9, 9), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.equal(first, other)


def test_what_cannot_be_changed_is_refused() -> None:
    for amounts in ({"rotation": -1.0}, {"blur": float("nan")}, {"shift": 1.5}):
        with pytest.raises(BilensError, match=next(iter(amounts))):
            Distortion(**amounts)
    with pytest.raises(BilensError, match="whole pixels"):
        shift(torch.zeros(1, 4), (2, 2), torch.zeros(1), torch.zeros(1))


@pytest.mark.bad_input
def test_images_of_another_size_are_refused() -> None:
    for change in (
        lambda: rotate(torch.zeros(1, 5), (2, 2), torch.zeros(1)),
        lambda: blur(torch.zeros(2, 4), (2, 2), torch.zeros(1)),
        lambda: shift(torch.zeros(2, 4), (2, 2), torch.zeros(1).long(), torch.zeros(2).long()),
    ):
        with pytest.raises(ShapeError):
            change()


def test_amounts_are_pythons_own_and_what_a_checkpoint_knows() -> None:
    changed = Distortion(np.float32(2), np.int64(1), 1)
    assert [type(value) for value in (changed.rotation, changed.shift, changed.blur)] == [float, int, float]
    assert changed.settings == {"rotation": 2.0, "shift": 1, "blur": 1.0}
    assert isinstance(changed, Augmentation)
    for amounts in ({"rotation": "a"}, {"blur": float("inf")}):
        with pytest.raises(BilensError, match=next(iter(amounts))):
            Distortion(**amounts)
