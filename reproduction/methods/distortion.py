"""Images turned, moved and blurred a little at random, so that a model sees more than its training images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bilens.errors import BilensError, ShapeError
from reproduction.checking import instance, number, whole


def rotate(images: Float[Tensor, "n d"], image: tuple[int, int], degrees: Float[Tensor, " n"]) -> Float[Tensor, "n d"]:
    """Each image turned counter-clockwise about its centre: bilinear interpolation, 0 where nothing was.

    Args:
        images: (n, d), flattened; image: (height, width); degrees: one angle per image.

    Raises:
        ShapeError: images of another size, or not one angle per image.
    """
    pixels = _pixels(images, image, degrees=degrees)
    height, width = image
    angle = degrees.to(images).deg2rad()[:, None, None]
    y = torch.arange(height).to(images)[:, None] - (height - 1) / 2
    x = torch.arange(width).to(images)[None, :] - (width - 1) / 2
    from_x, from_y = x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()
    grid = torch.stack([2 * from_x / width, 2 * from_y / height], dim=3)
    turned = nn.functional.grid_sample(pixels[:, None], grid, padding_mode="zeros", align_corners=False)
    return turned.reshape(images.shape)


def shift(
    images: Float[Tensor, "n d"], image: tuple[int, int], down: Int[Tensor, " n"], right: Int[Tensor, " n"]
) -> Float[Tensor, "n d"]:
    """Each image moved by whole pixels, exactly: down and to the right where positive, 0 where nothing was.

    Args:
        images: (n, d), flattened; image: (height, width); down, right: pixels, one number per image.

    Raises:
        ShapeError: images of another size, or not one number per image. BilensError: numbers that are not whole.
    """
    moved = _pixels(images, image, down=down, right=right)
    for name, by, axis in (("down", down, 1), ("right", right, 2)):
        if by.is_floating_point():
            raise BilensError(f"{name} of type {by.dtype}", "whole pixels")
        source = torch.arange(image[axis - 1], device=images.device) - by.to(images.device)[:, None]
        there = (source >= 0) & (source < image[axis - 1])
        index = source.clamp(0, image[axis - 1] - 1)
        index, there = (index[:, :, None], there[:, :, None]) if axis == 1 else (index[:, None], there[:, None])
        moved = moved.gather(axis, index.expand_as(moved)) * there
    return moved.reshape(images.shape)


def blur(images: Float[Tensor, "n d"], image: tuple[int, int], sigma: Float[Tensor, " n"]) -> Float[Tensor, "n d"]:
    """Each image under a Gaussian of its own width: weights ∝ exp(−Δ²/2σ²) up to 4σ, with sum 1; 0 beyond the edges.

    σ = 0 leaves an image as it is. Ink more than 4σ from the edges is spread and kept.

    Args:
        images: (n, d), flattened; image: (height, width); sigma: σ in pixels, one number per image.

    Raises:
        ShapeError: images of another size, or not one σ per image.

    Source: as `scipy.ndimage.gaussian_filter` with mode "constant".
    """
    pixels = _pixels(images, image, sigma=sigma)
    width = sigma.to(images)[:, None, None]
    radius = (4 * width + 0.5).floor()
    most = int(radius.max()) if len(images) else 0
    offsets = torch.arange(-most, most + 1).to(images)
    weights = torch.where(offsets.abs() <= radius, torch.exp(-((offsets / width.clamp(min=1e-6)) ** 2) / 2), 0)
    weights = weights / weights.sum(dim=2, keepdim=True)
    spread = []
    for side in image:
        apart = torch.arange(side)[:, None] - torch.arange(side)
        inside = (apart.abs() <= most).to(images)
        spread.append(weights[:, 0, (apart + most).clamp(0, 2 * most).to(images.device)] * inside)
    return (spread[0] @ pixels @ spread[1].transpose(1, 2)).reshape(images.shape)


@dataclass(frozen=True)
class Distortion:
    """Random changes of images: turned, then moved, then blurred, each image by its own amounts.

    Args:
        rotation: angles uniform in ±rotation degrees.
        shift: whole pixels uniform in −shift … shift, down and to the right.
        blur: Gaussian widths uniform in 0 … blur pixels.

    Raises:
        BilensError: an amount below 0 or not finite, or a shift that is no whole number.
    """

    rotation: float = 0.0
    shift: int = 0
    blur: float = 0.0

    def __post_init__(self) -> None:
        for name in ("rotation", "blur"):
            object.__setattr__(self, name, number(name, getattr(self, name), 0))
        object.__setattr__(self, "shift", whole("shift", self.shift, 0))

    @property
    def settings(self) -> Mapping[str, Any]:
        """The amounts by name, for the checkpoint of a training."""
        return asdict(self)

    def __call__(
        self, images: Float[Tensor, "n d"], image: tuple[int, int], generator: torch.Generator
    ) -> Float[Tensor, "n d"]:
        """The images changed; the amounts are drawn from a generator of the CPU, whatever the images' device.

        Args:
            images: (n, d), flattened; image: (height, width); generator: draws the amounts.
        """
        if self.rotation > 0:
            images = rotate(images, image, self.rotation * (2 * torch.rand(len(images), generator=generator) - 1))
        if self.shift > 0:
            moves = torch.randint(-self.shift, self.shift + 1, (2, len(images)), generator=generator)
            images = shift(images, image, moves[0], moves[1])
        if self.blur > 0:
            images = blur(images, image, self.blur * torch.rand(len(images), generator=generator))
        return images


def _pixels(images: Tensor, image: tuple[int, int], **amounts: Tensor) -> Tensor:
    for name, value in (("images", images), *amounts.items()):
        instance(name, value, Tensor)
    if images.ndim != 2 or images.shape[1] != image[0] * image[1]:
        raise ShapeError(
            f"images of shape {tuple(images.shape)}",
            f"(n, {image[0]} · {image[1]})",
            "pass one flattened image per row",
        )
    for name, amount in amounts.items():
        if tuple(amount.shape) != (len(images),):
            raise ShapeError(f"{name} of shape {tuple(amount.shape)}", f"({len(images)},)")
    return images.reshape(-1, *image)
