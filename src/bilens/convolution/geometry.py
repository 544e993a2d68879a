"""Where a convolution puts its filters: image, filter, stride and padding, and the sizes that follow from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bilens._internal import checks
from bilens._internal.checks import whole
from bilens.errors import BilensError, ShapeError
from bilens.space import Space


@dataclass(frozen=True)
class Geometry:
    """Filters of `filter` pixels, every `stride` pixels over an image with a rim of `padding` zeros.

    Pixels are counted in row-major order, channel by channel, and so are the taps of a filter and the positions.

    Args:
        image: (height, width); filter: (height, width) of a filter, at most that of the padded image.
        channels: of the image; stride, padding: (down, right); a single number for both.

    Raises:
        BilensError: a size below 1, a padding below 0, or a filter larger than the padded image.
    """

    image: tuple[int, int]
    filter: tuple[int, int]
    channels: int = 1
    stride: tuple[int, int] | int = (1, 1)
    padding: tuple[int, int] | int = (0, 0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", whole("channels", self.channels, 1))
        for name, least in (("image", 1), ("filter", 1), ("stride", 1), ("padding", 0)):
            object.__setattr__(self, name, _two(name, getattr(self, name), least))
        for size, taps, rim in zip(self.image, self.filter, self.rim, strict=True):
            if taps > size + 2 * rim:
                raise BilensError(f"a filter of {taps} pixels", f"at most {size + 2 * rim}, those of the padded image")

    @property
    def step(self) -> tuple[int, int]:
        """The stride, down and right."""
        return self.stride  # type: ignore[return-value]

    @property
    def rim(self) -> tuple[int, int]:
        """The padding, down and right."""
        return self.padding  # type: ignore[return-value]

    @property
    def map(self) -> tuple[int, int]:
        """(height, width) of the map of positions."""
        (a, b), (s, t), (p, q) = self.filter, self.step, self.rim
        return (self.image[0] + 2 * p - a) // s + 1, (self.image[1] + 2 * q - b) // t + 1

    @property
    def positions(self) -> int:
        """How many positions a filter is put at."""
        return self.map[0] * self.map[1]

    @property
    def pixels(self) -> int:
        """Numbers in an image, all channels together."""
        return self.channels * self.image[0] * self.image[1]

    @property
    def taps(self) -> int:
        """Numbers in a filter, all channels together."""
        return self.channels * self.filter[0] * self.filter[1]

    def patch(self, *, constant: bool = False) -> Space:
        """The space of one patch, for the tensor of a filter."""
        return Space("patch", self.taps, image=self.filter if self.channels == 1 else None, constant=constant)

    def space(self, *, constant: bool = False) -> Space:
        """The space of the image's pixels."""
        return Space("pixels", self.pixels, image=self.image if self.channels == 1 else None, constant=constant)

    def filtered(self, images: Float[Tensor, "n i"], filters: Float[Tensor, "h t"]) -> Float[Tensor, "n h *p"]:
        """Every filter at every position of folded images, biases in the last column of both: (n, h, height, width).

        Raises:
            BilensError: tensors of numbers that are not floating-point. ShapeError: another number of pixels or taps.
        """
        self._check("filters", filters, self.taps, 1)
        self._check("images", images, self.pixels, filters.shape[1] - self.taps)
        constant = filters.shape[1] - self.taps
        shown = images[:, : self.pixels].reshape(-1, self.channels, *self.image)
        weights = filters[:, : self.taps].reshape(-1, self.channels, *self.filter)
        found = torch.nn.functional.conv2d(shown, weights, stride=self.step, padding=self.rim)
        if constant:
            found = found + (images[:, -1:] * filters[:, -1])[:, :, None, None]
        return found

    def spread(self, maps: Float[Tensor, "n h *p"], filters: Float[Tensor, "h t"]) -> Float[Tensor, "n i"]:
        """The transposed map of `filtered`: what each pixel, and the constant coordinate, gets from every position.

        Raises:
            BilensError: tensors of numbers that are not floating-point. ShapeError: maps or filters of another shape.
        """
        self._check("filters", filters, self.taps, 1)
        checks.floating("maps", maps)
        if maps.shape[1:] != (len(filters), *self.map):
            raise ShapeError(f"maps of shape {tuple(maps.shape)}", f"(n, {len(filters)}, {self.map[0]}, {self.map[1]})")
        constant = filters.shape[1] - self.taps
        weights = filters[:, : self.taps].reshape(-1, self.channels, *self.filter)
        left = [
            size + 2 * rim - taps - (count - 1) * step
            for size, rim, taps, count, step in zip(self.image, self.rim, self.filter, self.map, self.step, strict=True)
        ]
        found = torch.nn.functional.conv_transpose2d(
            maps, weights, stride=self.step, padding=self.rim, output_padding=left
        ).flatten(1)
        if constant:
            found = torch.cat([found, (maps.sum(dim=(2, 3)) @ filters[:, -1])[:, None]], dim=1)
        return found

    def _check(self, name: str, value: Tensor, size: int, more: int) -> None:
        checks.floating(name, value)
        if value.ndim != 2 or not size <= value.shape[1] <= size + more:
            beside = f" or {size + 1} with the constant coordinate" if more else ""
            raise ShapeError(f"{name} of shape {tuple(value.shape)}", f"(n, {size}): {size} numbers{beside} per row")

    def overlaps(self) -> Iterator[tuple[Overlap, Overlap]]:
        """Pairs of positions whose filters share pixels of the image, by what they share: (down, right)."""
        down, right = (list(_overlaps(*sizes)) for sizes in zip(
            self.image, self.filter, self.step, self.rim, self.map, strict=True
        ))  # fmt: skip
        for one in down:
            for two in right:
                yield one, two


class Overlap(NamedTuple):
    """Positions along one axis whose filters share the same taps with those `offset` positions further on.

    Args:
        offset: in positions; low, high: the taps of the first filter that lie in the image and under the second one;
            shift: tap t of the first lies on tap t − shift of the second; places: the positions, one after another.
    """

    offset: int
    low: int
    high: int
    shift: int
    places: slice

    @property
    def others(self) -> slice:
        """The positions of the second filters."""
        return slice(self.places.start + self.offset, self.places.stop + self.offset)


def _overlaps(size: int, taps: int, step: int, rim: int, count: int) -> Iterator[Overlap]:
    reach = (taps - 1) // step
    for offset in range(-reach, reach + 1):
        shift = offset * step
        shared: dict[tuple[int, int], list[int]] = {}
        for place in range(max(0, -offset), min(count, count - offset)):
            start = place * step - rim
            low, high = max(0, shift, -start), min(taps, taps + shift, size - start)
            if low < high:
                shared.setdefault((low, high), []).append(place)
        for (low, high), places in shared.items():
            # Positions of one kind follow one another: the rim clips the first few, the last few, and no other.
            yield Overlap(offset, low, high, shift, slice(places[0], places[-1] + 1))


def _two(name: str, value: tuple[int, int] | int, least: int) -> tuple[int, int]:
    given = list(value) if isinstance(value, tuple | list) else [value, value]
    if len(given) != 2:
        raise ShapeError(f"{name} of {len(given)} numbers", "two, or one for both")
    return whole(name, given[0], least), whole(name, given[1], least)
