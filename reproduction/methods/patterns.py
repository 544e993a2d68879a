"""Patterns over pixels: how rough they are, which images they resemble, and what adding one does to a model."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bilens.errors import BilensError, ShapeError
from bilens.tensor import BilinearTensor
from reproduction.checking import instance


def roughness(vectors: Float[Tensor, "n d"], image: tuple[int, int]) -> Float[Tensor, " n"]:
    """Squared steps between neighbouring pixels, Σ_{p~q}(v_p − v_q)² / Σ v², in units of white noise.

    p ~ q are pixels beside or below one another, e pairs in all. White noise has 2e/d on average, so that the quotient
    divided by 2e/d is 0 for a constant image, near 1 for white noise, and below 2.1 for a chessboard. It does not
    depend on sign or scale; a vector that is 0 has roughness 0.

    Args:
        vectors: (n, d), one pattern a row; image: (height, width), more than one pixel.

    Raises:
        ShapeError: patterns of another size. BilensError: an image of one pixel.
    """
    instance("patterns", vectors, Tensor)
    height, width = image
    if vectors.ndim != 2 or vectors.shape[1] != height * width:
        raise ShapeError(f"patterns of shape {tuple(vectors.shape)}", f"(n, {height} · {width})")
    pairs = height * (width - 1) + width * (height - 1)
    if pairs == 0:
        raise BilensError("an image of one pixel", "neighbouring pixels")
    pixels = vectors.double().reshape(-1, height, width)
    steps = pixels.diff(dim=1).square().sum(dim=(1, 2)) + pixels.diff(dim=2).square().sum(dim=(1, 2))
    energy = pixels.square().sum(dim=(1, 2))
    quotient = torch.where(energy > 0, steps / torch.where(energy > 0, energy, 1), 0)
    return (quotient * height * width / (2 * pairs)).to(vectors)


def likeness(vectors: Float[Tensor, "n d"], images: Float[Tensor, "m d"]) -> Float[Tensor, " n"]:
    """max_x |v·x| / (‖v‖ ‖x‖): how like the most similar of some images each pattern is, 0 … 1, sign aside.

    The largest of more images is larger: compare with as many others. What is 0 resembles nothing.

    Raises:
        ShapeError: patterns and images of different sizes, or no image.
    """
    instance("patterns", vectors, Tensor)
    instance("images", images, Tensor)
    if vectors.ndim != 2 or images.ndim != 2 or vectors.shape[1] != images.shape[1] or len(images) < 1:
        raise ShapeError(
            f"patterns of shape {tuple(vectors.shape)} and images of {tuple(images.shape)}",
            "(n, d) and (m, d) with m ≥ 1",
        )
    tiny = torch.finfo(vectors.dtype).tiny
    cosines = (vectors / vectors.norm(dim=1, keepdim=True).clamp(min=tiny)) @ (
        images.to(vectors) / images.to(vectors).norm(dim=1, keepdim=True).clamp(min=tiny)
    ).T
    largest: Tensor = cosines.abs().amax(dim=1)
    return largest


def permuted(
    pattern: Float[Tensor, " d"], among: Bool[Tensor, " d"], generator: torch.Generator
) -> Float[Tensor, " d"]:
    """A pattern with its values at some pixels in random order and a random sign: a baseline of the same norm.

    Args:
        pattern: (d,); among: (d,), the pixels whose values change places; generator: of the CPU.

    Raises:
        ShapeError: a choice of pixels of another size.
    """
    instance("pattern", pattern, Tensor)
    instance("pixels", among, Tensor)
    if pattern.ndim != 1 or among.shape != pattern.shape:
        raise ShapeError(f"a pattern of shape {tuple(pattern.shape)} and pixels of {tuple(among.shape)}", "(d,) twice")
    places = among.nonzero()[:, 0]
    mixed = pattern.clone()
    mixed[places] = pattern[places[torch.randperm(len(places), generator=generator).to(places.device)]]
    return mixed if int(torch.randint(2, (), generator=generator)) else -mixed


def masked(
    tensor: BilinearTensor, x: Float[Tensor, "n d"], mask: Float[Tensor, " d"], strengths: Float[Tensor, " s"]
) -> Float[Tensor, "s n o"]:
    """The outputs for x + t·mask at each strength t, exactly: y(x) + 2t B(x', m') + t² B(m', m') with m' = [mask; 0].

    Args:
        tensor: of the model, its biases folded; x: (n, d), one sample a row; mask: (d,); strengths: t.

    Cost: O(n·d·(h + o)) for all strengths together.

    Raises:
        ShapeError: a mask or strengths of another shape.
    """
    instance("tensor", tensor, BilinearTensor)
    instance("mask", mask, Tensor)
    instance("strengths", strengths, Tensor)
    if tuple(mask.shape) != (tensor.input.size,) or strengths.ndim != 1:
        raise ShapeError(
            f"a mask of shape {tuple(mask.shape)} and strengths of {tuple(strengths.shape)}",
            f"({tensor.input.size},) and (s,)",
        )
    m, t = mask.to(tensor.left), strengths.to(tensor.left)[:, None, None]
    left, right = tensor.left[:, : len(m)] @ m, tensor.right[:, : len(m)] @ m
    linear = (tensor.down * left) @ tensor.right + (tensor.down * right) @ tensor.left  # 2 Q_o m', one row an output
    return tensor(x) + t * (tensor.input.fold(x) @ linear.T) + t.square() * (tensor.down @ (left * right))
