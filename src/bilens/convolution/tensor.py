"""A bilinear convolution as a tensor: one patch tensor, put at every position of an image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bilens._internal import factors
from bilens._internal.checks import instance, trusted
from bilens._internal.scale import fitted, near_one, times_two_to
from bilens.convolution import _gram
from bilens.convolution.geometry import Geometry
from bilens.convolution.kernel import ConvKernel, placed, same_geometry, unfolded
from bilens.errors import BilensError, ShapeError
from bilens.space import Space
from bilens.tensor import DENSE_LIMIT, BilinearTensor


@dataclass(frozen=True, eq=False, repr=False)
class ConvTensor:
    """y_op = B_o(S_p x, S_p x): a tensor over patches, B, at every position p; with a read-out, y = M [y_op].

    g_o(p) = Σ_h D_oh (W_h ∗ x)(p) · (V_h ∗ x)(p), with what the biases of the patch tensor add. The unfolded layer, of
    h·p units over all pixels, is never made: kernels multiply by convolutions, and inner products are sums over the
    offsets at which two filters overlap, the rim of the padding included.

    Args:
        patch: B, over `geometry.patch()`, with its constant coordinate where there are biases.
        geometry: where the filters are put.
        readout: M, (r, o·p), channel by channel; None for the maps themselves.
        classes: space of the rows of M; with `readout` alone.

    Raises:
        ShapeError: the parts do not fit together. SpaceError: a tensor over another space than the patch.
        BilensError: NaN or infinity, types that differ, or a read-out without its space.
    """

    patch: BilinearTensor
    geometry: Geometry
    readout: Float[Tensor, "r m"] | None = None
    classes: Space | None = None

    def __post_init__(self) -> None:
        instance("patch", self.patch, BilinearTensor)
        instance("geometry", self.geometry, Geometry)
        if self.patch.input.size != self.geometry.taps:
            raise ShapeError(f"a tensor over {self.patch.input.title}", f"the {self.geometry.taps} taps of a filter")
        if self.readout is None and self.classes is None:
            return
        if self.readout is None or self.classes is None:
            missing = "a read-out" if self.readout is None else "the space of its rows"
            raise BilensError(f"a convolution without {missing}", "both or neither", "call then(matrix, output)")
        instance("classes", self.classes, Space)
        factors.check_output(self.classes)
        shape = (self.classes.dim, self.maps.dim)
        factors.check_factor("readout", self.readout, shape, f"{self.classes.title} × {self.maps.title}")
        factors.check_alike(patch=self.patch.left, readout=self.readout)
        factors.own(self, "readout")

    @classmethod
    def from_filters(
        cls,
        left: Float[Tensor, "h c a b"],
        right: Float[Tensor, "h c a b"],
        down: Float[Tensor, "o h"] | None = None,
        *,
        image: tuple[int, int],
        stride: tuple[int, int] | int = 1,
        padding: tuple[int, int] | int = 0,
        left_bias: Float[Tensor, " h"] | None = None,
        right_bias: Float[Tensor, " h"] | None = None,
    ) -> ConvTensor:
        """The tensor of (W ∗ x + b) ⊙ (V ∗ x + c), the channels mixed by D, from weights as `nn.Conv2d` has them.

        Examples:
            >>> W = torch.ones(1, 1, 1, 2)  # the sum of two neighbours, squared
            >>> conv = ConvTensor.from_filters(W, W, image=(1, 3))
            >>> conv(torch.tensor([1.0, 2.0, 3.0]))
            tensor([ 9., 25.])

        Args:
            left: W, (h, channels, height, width); right: V, likewise; down: D, (o, h), the identity when None.
            image: (height, width) of the images; stride, padding: as `Geometry`, zeros outside the image.
            left_bias, right_bias: b and c, (h,).

        Raises: as the class.
        """
        for name, value in (("left", left), ("right", right)):
            instance(name, value, Tensor)
            if value.ndim != 4:
                raise ShapeError(f"{name} of shape {tuple(value.shape)}", "(filters, channels, height, width)")
        geometry = Geometry(image, (left.shape[2], left.shape[3]), left.shape[1], stride, padding)
        outputs = len(left) if down is None else len(down)
        patch = BilinearTensor.from_layer(
            left.flatten(1),
            right.flatten(1),
            down,
            left_bias=left_bias,
            right_bias=right_bias,
            input=geometry.patch(),
            output=Space("channels", outputs),
        )
        return cls(patch, geometry)

    def __repr__(self) -> str:
        """For example "ConvTensor('pixels' (784) → 'digits' (10), 16 filters of 5×5 at 144 positions, float32)"."""
        return f"ConvTensor({self.input.title} → {self.output.title}, {placed(self.geometry, self.patch.left)})"

    @property
    def input(self) -> Space:
        """The space of the pixels."""
        return self.geometry.space(constant=self.patch.input.constant)

    @property
    def maps(self) -> Space:
        """The space of the maps, y_op, channel by channel."""
        return Space(f"{self.patch.output.name} map", self.patch.output.size * self.geometry.positions)

    @property
    def output(self) -> Space:
        """The space of what the tensor gives: the classes of the read-out, or the maps."""
        return self.classes or self.maps

    def __call__(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n o"]:
        """The outputs for images, one per row, without the constant coordinate.

        Raises:
            ShapeError: the last axis is not `input.size`. BilensError: no floating-point numbers.
        """
        x = self.input.fold(x, self.patch.left)
        flat = x.reshape(-1, x.shape[-1])
        hidden = self.geometry.filtered(flat, self.patch.left) * self.geometry.filtered(flat, self.patch.right)
        maps = torch.einsum("oh,nhp->nop", self.patch.down, hidden.flatten(2)).flatten(1)
        found = maps if self.readout is None else maps @ self.readout.T
        return found.reshape(*x.shape[:-1], -1)

    def then(self, matrix: Float[Tensor, "r m"], output: Space) -> ConvTensor:
        """The tensor of M y: a linear read-out of the maps, or of the classes. Raises as the class."""
        instance("output", output, Space)
        shape = (output.dim, self.output.dim)
        factors.check_factor("matrix", matrix, shape, f"{output.title} × {self.output.title}")
        matrix = factors.given(matrix, self.patch.left, True)
        return ConvTensor(self.patch, self.geometry, matrix if self.readout is None else matrix @ self.readout, output)

    def kernel(self, u: Float[Tensor, " o"] | str | int) -> ConvKernel:
        """Q_u = Σ_p S_pᵀ B_{u(p)} S_p, so that u·y = x'ᵀ Q_u x'.

        Args:
            u: a direction of the output space, or the label or number of one output.

        Raises:
            SpaceError: an unknown label. ShapeError: a direction of another size. BilensError: NaN or infinity.
        """
        label = ""
        if not isinstance(u, Tensor):
            index = self.output.index(u)
            label, u = self.output.label(index), torch.zeros(self.output.dim)
            u[index] = 1
        factors.check_factor("direction", u, (self.output.dim,), f"output {self.output.title}")
        maps = factors.given(u, self.patch.left, True)[None]
        weights = self._weights(maps)[0].flatten(1)
        factors.check_range("a kernel", weights)
        return trusted(ConvKernel, self.patch.left, self.patch.right, weights, self.geometry, self.input, label)

    def _weights(self, directions: Tensor) -> Tensor:
        """w of each direction, (n, h, height, width)."""
        maps = directions if self.readout is None else directions @ self.readout
        channels = maps.reshape(len(maps), self.patch.output.dim, *self.geometry.map)
        return torch.einsum("oh,noab->nhab", self.patch.down, channels)

    def gram(self) -> Float[Tensor, "o o"]:
        """⟨Q_o, Q_p⟩ for every pair of outputs, in float64: the root of its largest eigenvalue is the first of the SVD.

        Cost: for each offset at which filters overlap, O(h² o p + h o² p).
        """
        one, down, power = self._near()
        eye = torch.eye(self.output.dim, dtype=torch.float64, device=down.device)
        weights = self._channels(eye, down)
        gram = _gram.summed(self.geometry, one, one, weights, weights)
        gram = (gram + gram.T) / 2
        fitted(gram.diagonal(), torch.tensor(2 * power), torch.float64, "a squared norm")
        return times_two_to(gram, 2 * power)

    def inner(self, other: ConvTensor) -> Float[Tensor, ""]:
        """Frobenius inner product Σ_o ⟨Q_o, Q'_o⟩, from autocorrelations of the filters, in float64 inside.

        Of two convolutions without a read-out only the offset 0 takes part, since every position is an output of its
        own.

        Raises:
            SpaceError: over other spaces. BilensError: another geometry, or a product beyond the range of the type.
        """
        instance("the other one", other, ConvTensor)
        self.input.require(other.input, "a convolution")
        self.output.require(other.output, "a convolution to output")
        same_geometry(self.geometry, other.geometry)
        factors.check_together_on(self.patch.left, other.patch.left)
        (one, down, power), (two, more, power2) = self._near(), other._near()
        if self.readout is None and other.readout is None:
            found = _gram.square(self.geometry, one, two, down.T @ more)
        else:
            eye = torch.eye(self.output.dim, dtype=torch.float64, device=down.device)
            u, v = self._channels(eye, down), other._channels(eye, more)
            found = _gram.summed(self.geometry, one, two, u, v).trace()
        work = torch.promote_types(self.patch.left.dtype, other.patch.left.dtype)
        return fitted(found, torch.tensor(power + power2), work, "an inner product")

    def norm(self) -> Float[Tensor, ""]:
        """Frobenius norm, exact; raises BilensError when it is beyond the range of the type."""
        square = self._double().inner(self._double())
        return fitted(square.clamp(min=0).sqrt(), torch.tensor(0), self.patch.left.dtype, "a norm")

    def cosine(self, other: ConvTensor) -> Float[Tensor, ""]:
        """⟨A, B⟩ / (‖A‖ ‖B‖), between −1 and 1; 0 when one of them is 0. Raises as the inner product."""
        instance("the other one", other, ConvTensor)
        one, two = self._double(), other._double()
        norms = one.norm() * two.norm()
        found = (one.inner(two) / norms).clamp(-1, 1) if bool(norms > 0) else norms
        return found.to(torch.promote_types(self.patch.left.dtype, other.patch.left.dtype))

    def unfolded(self, limit: int = DENSE_LIMIT) -> BilinearTensor:
        """The layer with one hidden unit for each filter and position: for tests, and for small images.

        Raises:
            BilensError: its factors would be larger than `limit` bytes.
        """
        left, right = unfolded(self.geometry, self.input, self.patch.left, self.patch.right, limit)
        eye = torch.eye(self.output.dim, dtype=left.dtype, device=left.device)
        return BilinearTensor(left, right, self._weights(eye).flatten(1), self.input, self.output)

    def _double(self) -> ConvTensor:
        readout = None if self.readout is None else self.readout.double()
        return ConvTensor(self.patch.to(torch.float64), self.geometry, readout, self.classes)

    def _near(self) -> tuple[_gram.Filters, Tensor, int]:
        """Filters and D in float64 near 1, and the power of two that was taken out of them."""
        near = [near_one(part.double()) for part in (self.patch.left, self.patch.right, self.patch.down)]
        power = sum(int(torch.frexp(size).exponent) - 1 for _, size in near)
        return _gram.Filters(near[0][0], near[1][0]), near[2][0], power

    def _channels(self, directions: Tensor, down: Tensor) -> Tensor:
        maps = directions if self.readout is None else directions @ self.readout.double()
        return torch.einsum("oh,noab->nhab", down, maps.reshape(len(maps), len(down), *self.geometry.map))
