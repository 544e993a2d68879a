"""The quadratic form of one output of a bilinear convolution: filters and a weight for each unit and position."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bilens._internal import checks, factors, shown
from bilens._internal.checks import instance, whole
from bilens._internal.scale import fitted, near_one
from bilens.convolution import _gram
from bilens.convolution.geometry import Geometry
from bilens.errors import BilensError, ShapeError
from bilens.kernel import Kernel
from bilens.space import Space
from bilens.tensor import DENSE_LIMIT


@dataclass(frozen=True, eq=False, repr=False)
class ConvKernel:
    """Q = Σ_hp w_hp sym((S_pᵀL_h)(S_pᵀR_h)ᵀ), where S_p takes the patch at position p: u·y = x'ᵀ Q x'.

    Held as h·(2 taps + positions) numbers. A product with a vector is two convolutions and two transposed ones, so that
    Lanczos works; inner products are sums over the offsets at which two filters overlap.

    Args:
        left, right: filters L and R, (h, t), their biases in the last column where the input has its constant.
        weights: w, (h, p), by position.
        geometry: where the filters are put; input: space of the pixels.
        label: what the direction stands for, for titles; may be empty.

    Raises:
        ShapeError: the parts do not fit together. BilensError: NaN or infinity, or types or devices that differ.
    """

    left: Float[Tensor, "h t"]
    right: Float[Tensor, "h t"]
    weights: Float[Tensor, "h p"]
    geometry: Geometry
    input: Space
    label: str = ""

    def __post_init__(self) -> None:
        instance("geometry", self.geometry, Geometry)
        instance("input", self.input, Space)
        instance("label", self.label, str, "a string", "write it as one, str(label)")
        if self.input.size != self.geometry.pixels:
            raise ShapeError(f"input space {self.input.title}", f"the {self.geometry.pixels} pixels of the images")
        taps = self.geometry.taps + int(self.input.constant)
        factors.settle(self, "left", "right", "weights", t=taps, p=self.geometry.positions)

    def __repr__(self) -> str:
        """For example "ConvKernel('3' over 'pixels' (784), 16 filters of 5×5 at 144 positions, float32)"."""
        label = f"{self.label!r} over " if self.label else "over "
        return f"ConvKernel({label}{self.input.title}, {placed(self.geometry, self.left)})"

    @property
    def _maps(self) -> Tensor:
        return self.weights.reshape(-1, *self.geometry.map)

    def __call__(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n"]:
        """x'ᵀ Q x'; the constant coordinate is added here. Raises as the tensor's."""
        x = self.input.fold(x, self.left)
        flat = x.reshape(-1, x.shape[-1])
        hidden = self.geometry.filtered(flat, self.left) * self.geometry.filtered(flat, self.right)
        return (hidden * self._maps).sum(dim=(1, 2, 3)).reshape(x.shape[:-1])

    def matvec(self, v: Float[Tensor, "*n i"]) -> Float[Tensor, "*n i"]:
        """Q v for each row v of the folded space: two convolutions, two transposed ones.

        Examples:
            >>> from bilens.convolution import Geometry
            >>> geometry = Geometry((1, 3), (1, 1))  # one filter of one pixel at three positions: Q = diag(w)
            >>> w = torch.tensor([[1.0, 2.0, 3.0]])
            >>> ConvKernel(torch.ones(1, 1), torch.ones(1, 1), w, geometry, geometry.space()).matvec(torch.ones(3))
            tensor([1., 2., 3.])
        """
        v = checks.vectors("vectors", v, self.left, self.input.dim, hint="fold them first, space.fold(x)")
        flat, maps, place = v.reshape(-1, v.shape[-1]), self._maps, self.geometry
        one = place.spread(place.filtered(flat, self.right) * maps, self.left)
        two = place.spread(place.filtered(flat, self.left) * maps, self.right)
        return ((one + two) / 2).reshape(v.shape)

    def inner(self, other: ConvKernel) -> Float[Tensor, ""]:
        """Frobenius inner product ⟨Q, Q'⟩, from autocorrelations of the filters, in float64 inside.

        Raises:
            SpaceError: over another space. BilensError: another geometry, or a product beyond the range of the type.
        """
        instance("the other one", other, ConvKernel)
        self.input.require(other.input, "a kernel")
        same_geometry(self.geometry, other.geometry)
        factors.check_together_on(self.left, other.left)
        (one, u, power), (two, v, more) = self._near(), other._near()
        found = _gram.summed(self.geometry, one, two, u[None], v[None])[0, 0]
        work = torch.promote_types(self.left.dtype, other.left.dtype)
        return fitted(found, torch.tensor(power + more), work, "an inner product")

    def norm(self) -> Float[Tensor, ""]:
        """Frobenius norm ‖Q‖; raises BilensError when it is beyond the range of the type."""
        one, u, power = self._near()
        found = _gram.summed(self.geometry, one, one, u[None], u[None])[0, 0]
        return fitted(found.clamp(min=0).sqrt(), torch.tensor(power), self.left.dtype, "a norm")

    def cosine(self, other: ConvKernel) -> Float[Tensor, ""]:
        """⟨Q, Q'⟩ / (‖Q‖ ‖Q'‖), between −1 and 1; 0 when one of them is 0."""
        instance("other", other, ConvKernel)
        one, two = self.to(torch.float64), other.to(torch.float64)
        norms = one.norm() * two.norm()
        found = (one.inner(two) / norms).clamp(-1, 1) if bool(norms > 0) else norms
        return found.to(torch.promote_types(self.left.dtype, other.left.dtype))

    def _near(self) -> tuple[_gram.Filters, Tensor, int]:
        """Filters and weights in float64 near 1, and the power of two that was taken out of them."""
        near = [near_one(part.double()) for part in (self.left, self.right, self._maps.flatten(1))]
        power = sum(int(torch.frexp(size).exponent) - 1 for _, size in near)
        return _gram.Filters(near[0][0], near[1][0]), near[2][0].reshape(self._maps.shape), power

    def dense(self, limit: int = DENSE_LIMIT) -> Float[Tensor, "i i"]:
        """Q as a symmetric matrix, by products with the unit vectors.

        Raises:
            BilensError: it would be larger than `limit` bytes.
        """
        size = self.input.dim**2 * self.left.element_size()
        if size > whole("limit", limit, 0):
            raise BilensError(f"a dense kernel of {size:,} bytes", f"at most {limit:,} bytes", "use matvec")
        eye = torch.eye(self.input.dim, dtype=self.left.dtype, device=self.left.device)
        dense = torch.cat([self.matvec(eye[n : n + 256]) for n in range(0, len(eye), 256)])
        return (dense + dense.T) / 2

    def unfolded(self, limit: int = DENSE_LIMIT) -> Kernel:
        """The kernel with one hidden unit for each filter and position: for tests, and for small images.

        Raises:
            BilensError: its factors would be larger than `limit` bytes.
        """
        left, right = unfolded(self.geometry, self.input, self.left, self.right, limit)
        return Kernel(left, right, self.weights.flatten(), self.input, self.label)

    def to(self, target: torch.dtype | torch.device | str) -> ConvKernel:
        """The same kernel in float32 or float64, or on another device; raises BilensError for another target."""
        left, right, weights = factors.moved("a kernel", target, self.left, self.right, self.weights)
        return ConvKernel(left, right, weights, self.geometry, self.input, self.label)


def same_geometry(one: Geometry, two: Geometry) -> None:
    """Refuse two convolutions that put their filters elsewhere."""
    if one != two:
        raise BilensError(f"a convolution of {two}", f"{one}")


def placed(geometry: Geometry, left: Tensor) -> str:
    """Filters and positions, for a line."""
    count = f"{len(left)} filter{'' if len(left) == 1 else 's'}"
    return (
        f"{count} of {geometry.filter[0]}×{geometry.filter[1]} at {geometry.positions} positions, {shown.numbers(left)}"
    )


def unfolded(
    geometry: Geometry, input: Space, left: Tensor, right: Tensor, limit: int
) -> tuple[Float[Tensor, "q i"], Float[Tensor, "q i"]]:
    """S_pᵀL_h and S_pᵀR_h as rows, filter by filter and position by position."""
    size = 2 * len(left) * geometry.positions * input.dim * left.element_size()
    if size > whole("limit", limit, 0):
        raise BilensError(f"an unfolded layer of {size:,} bytes", f"at most {limit:,} bytes", "work on the filters")
    eye = torch.eye(input.dim, dtype=left.dtype, device=left.device)
    rows = [geometry.filtered(eye, filters).flatten(1).T for filters in (left, right)]
    return rows[0], rows[1]
