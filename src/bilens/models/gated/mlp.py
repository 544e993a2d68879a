"""One gated MLP of a language model as a record: y = D[σ(W n + b) ⊙ (V n + c)] + e with n = norm(x)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from bilens._internal import checks, shown
from bilens._internal.checks import choice, instance, number, whole
from bilens.errors import BilensError, ShapeError
from bilens.space import Space
from bilens.tensor import BilinearTensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda z: z,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": functools.partial(functional.gelu, approximate="tanh"),
    "relu": torch.relu,
    "relu2": lambda z: torch.relu(z).square(),
}
"""Every σ that is read, by its name."""


@dataclass(frozen=True)
class Gate:
    """How a unit joins its gate z and its value v: σ(z)·(v + shift), both clamped first where there is a limit.

    Args:
        name: of σ, one of `ACTIVATIONS`.
        slope: s in z·sigmoid(s z), for "silu" alone.
        limit: L, with z replaced by min(z, L) and v by its value clamped to ±L; None for none.
        shift: added to v after the clamp.

    Raises:
        BilensError: an unknown σ, a slope for another σ than "silu", or a number that is not finite.
    """

    name: str
    slope: float = 1.0
    limit: float | None = None
    shift: float = 0.0

    def __post_init__(self) -> None:
        choice("gate", self.name, tuple(ACTIVATIONS))
        object.__setattr__(self, "slope", number("slope", self.slope, above=0))
        object.__setattr__(self, "shift", number("shift", self.shift))
        if self.limit is not None:
            object.__setattr__(self, "limit", number("limit", self.limit, above=0))
        if self.slope != 1 and self.name != "silu":
            raise BilensError(f"slope = {self.slope:g} for gate {self.name!r}", "a slope for 'silu' alone")

    @property
    def bilinear(self) -> bool:
        """Whether the unit is a product of two linear functions: σ is the identity and nothing is clamped."""
        return self.name == "identity" and self.limit is None

    @property
    def title(self) -> str:
        """For example "silu", or "silu (slope 1.702, limit 7, shift 1)"."""
        more = [f"slope {self.slope:g}"] if self.slope != 1 else []
        more += [] if self.limit is None else [f"limit {self.limit:g}"]
        more += [f"shift {self.shift:g}"] if self.shift else []
        return f"{self.name} ({', '.join(more)})" if more else self.name

    def activate(self, z: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """σ(z), z clamped first where there is a limit."""
        if self.limit is not None:
            z = z.clamp(max=self.limit)
        if self.slope != 1:
            return z * torch.sigmoid(self.slope * z)
        return ACTIVATIONS[self.name](z)

    def __call__(self, z: Float[Tensor, "*n"], v: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """σ(z)·(v + shift)."""
        if self.limit is not None:
            v = v.clamp(-self.limit, self.limit)
        return self.activate(z) * (v + self.shift if self.shift else v)


@dataclass(frozen=True, eq=False, repr=False)
class Norm:
    """What stands before (or after) an MLP: γ ⊙ normalize(x) + β.

    Args:
        kind: "rms" for x / √(mean x² + ε), "layer" for (x − mean x) / √(var x + ε), "none" for x itself.
        gain: γ, (d,), with everything that a format adds to what it stores, for example Gemma's 1 + w; None for 1.
        bias: β, (d,); None for 0.
        eps: ε.

    Raises:
        BilensError: another kind, a negative ε, NaN or infinity. ShapeError: gain and bias of different sizes.
    """

    kind: Literal["rms", "layer", "none"]
    gain: Float[Tensor, " d"] | None = None
    bias: Float[Tensor, " d"] | None = None
    eps: float = 0.0

    def __post_init__(self) -> None:
        choice("norm", self.kind, ("rms", "layer", "none"))
        object.__setattr__(self, "eps", number("eps", self.eps, 0))
        checks.shapes(self)
        for name in ("gain", "bias"):
            value = getattr(self, name)
            if value is not None:
                checks.weights(name, value)
                object.__setattr__(self, name, checks.owned(value))

    def __repr__(self) -> str:
        """For example "Norm(kind 'rms', gain (576,), eps 1e-05, float32)"."""
        return shown.line(self)

    def normalize(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """x divided by its scale, before gain and bias."""
        if self.kind == "none":
            return x
        if self.kind == "layer":
            x = x - x.mean(dim=-1, keepdim=True)
        return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + self.eps)

    def __call__(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """γ ⊙ normalize(x) + β."""
        n = self.normalize(x)
        n = n if self.gain is None else n * self.gain.to(n)
        return n if self.bias is None else n + self.bias.to(n)


@dataclass(frozen=True, eq=False, repr=False)
class GatedMLP:
    """y = D[σ(W n + b) ⊙ (V n + c)] + e with n = norm(x): a layer's MLP, or one of its experts.

    Its weights are copies, in float32 at least. x is the residual stream before the norm, and y what the MLP gives;
    `post_norm`, where there is one, is applied to y before it joins the residual stream.

    Args:
        gate: W, (h, d); up: V, (h, d); down: D, (o, h).
        activation: σ and how it is applied.
        norm: what stands before the MLP.
        gate_bias, up_bias: b and c, (h,); down_bias: e, (o,); None for 0.
        post_norm: what stands after it, None for nothing.
        layer: its number, from 0.
        part: which of the layer's MLPs it is: "mlp" where there is one, else for example "expert 3".
        input: space of the normalised x; output: space of y. By default "normalised input of layer k" and "residual",
            or "output of layer k" with a norm after it.

    Raises:
        ShapeError: weights that do not fit together or do not fit the spaces. BilensError: NaN or infinity, types or
            devices that differ, or weights that are not dense floating-point tensors.
    """

    gate: Float[Tensor, "h d"]
    up: Float[Tensor, "h d"]
    down: Float[Tensor, "o h"]
    activation: Gate
    norm: Norm
    gate_bias: Float[Tensor, " h"] | None = None
    up_bias: Float[Tensor, " h"] | None = None
    down_bias: Float[Tensor, " o"] | None = None
    post_norm: Norm | None = None
    layer: int = 0
    part: str = "mlp"
    input: Space = field(default=None)  # type: ignore[assignment]
    output: Space = field(default=None)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self._complete()
        for name in _TENSORS:
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, checks.owned(value))

    @classmethod
    def _taken(cls, **values: object) -> GatedMLP:
        """The record of weights that nobody else holds, which are checked and not copied."""
        mlp: GatedMLP = object.__new__(cls)
        for entry in fields(cls):
            object.__setattr__(mlp, entry.name, values.pop(entry.name, entry.default))
        mlp._complete()
        return mlp

    def _complete(self) -> None:
        """Check all fields and fill in the spaces."""
        instance("activation", self.activation, Gate)
        instance("norm", self.norm, Norm)
        if self.post_norm is not None:
            instance("post_norm", self.post_norm, Norm)
        object.__setattr__(self, "layer", whole("layer", self.layer, 0))
        instance("part", self.part, str, "a text")
        checks.shapes(self)
        d, o = self.gate.shape[1], len(self.down)
        if self.input is None:
            object.__setattr__(self, "input", Space(f"normalised input of layer {self.layer}", d))
        if self.output is None:
            name = "residual" if self.post_norm is None else f"output of layer {self.layer}"
            object.__setattr__(self, "output", Space(name, o))
        for name in _TENSORS:
            value = getattr(self, name)
            if value is None:
                continue
            checks.weights(f"{name} of {self.title}", value)
            if value.dtype != self.gate.dtype or value.device != self.gate.device:
                raise BilensError(
                    f"{name} as {value.dtype} on {value.device}", f"{self.gate.dtype} on {self.gate.device} like gate"
                )
        for name, norm, size in (("norm", self.norm, d), ("post_norm", self.post_norm, o)):
            for what in ("gain", "bias"):
                value = None if norm is None else getattr(norm, what)
                if value is not None and len(value) != size:
                    raise ShapeError(f"{what} of the {name} of {len(value)} numbers in {self.title}", f"{size} numbers")
        for space, size in ((self.input, d), (self.output, o)):
            instance("space", space, Space)
            if space.size != size:
                raise ShapeError(f"space {space.title} for {self.title}", f"one of size {size}")

    def __repr__(self) -> str:
        """For example "GatedMLP(layer 3, 576 → 1536 → 576, silu, rms norm, float32)"."""
        dtype = str(self.gate.dtype).removeprefix("torch.")
        sizes = f"{self.input.size} → {len(self.gate)} → {self.output.size}"
        return f"GatedMLP({self.title}, {sizes}, {self.activation.title}, {self.norm.kind} norm, {dtype})"

    @property
    def title(self) -> str:
        """For example "layer 3", or "layer 3, expert 5"."""
        return f"layer {self.layer}" if self.part == "mlp" else f"layer {self.layer}, {self.part}"

    @property
    def bilinear(self) -> bool:
        """Whether it is exactly a quadratic function of the normalised x."""
        return self.activation.bilinear

    def units(self, x: Float[Tensor, "*n d"]) -> tuple[Float[Tensor, "*n h"], Float[Tensor, "*n h"]]:
        """(z, v) = (W n + b, V n + c) for each x of the residual stream.

        Args:
            x: vectors of any floating-point type, one per row; they are converted to the type of the weights.

        Raises:
            ShapeError: the last axis is not d. BilensError: no floating-point vectors, or on another device.
        """
        n = self.norm(checks.vectors("vectors", x, self.gate, self.input.size, hint="pass the residual stream"))
        return functional.linear(n, self.gate, self.gate_bias), functional.linear(n, self.up, self.up_bias)

    def __call__(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n o"]:
        """y for each x of the residual stream, before `post_norm`. Raises as `units`."""
        z, v = self.units(x)
        return functional.linear(self.activation(z, v), self.down, self.down_bias)

    def tensor(self, *, input: Space | None = None, output: Space | None = None) -> BilinearTensor:
        """The tensor of y as a function of x̂ = `norm.normalize(x)`, where σ is the identity: exact.

        The norm's gain is folded into both factors, left = W diag(γ) and right = V diag(γ), its bias and the layer's
        join through the constant coordinate. The scale of each token stays outside: `tensor()(norm.normalize(x))` = y.

        Args:
            input: space of x̂; output: space of y; by default the record's.

        Raises:
            BilensError: another σ, because y is then no quadratic function.
        """
        if not self.bilinear:
            raise BilensError(
                f".tensor() of {self.title}, whose gate is {self.activation.title}",
                "a layer whose gate is linear, which is a quadratic function",
                "take a surrogate: gaussian, weights_only or least_squares of bilens.models.surrogate",
            )
        left, right = self.gate, self.up
        left_bias, right_bias = self.gate_bias, self.up_bias
        if self.norm.bias is not None:
            beta = self.norm.bias.to(left)
            left_bias = left @ beta if left_bias is None else left @ beta + left_bias
            right_bias = right @ beta if right_bias is None else right @ beta + right_bias
        if self.activation.shift:
            right_bias = (right.new_zeros(len(right)) if right_bias is None else right_bias) + self.activation.shift
        if self.norm.gain is not None:
            left, right = left * self.norm.gain.to(left), right * self.norm.gain.to(right)
        return BilinearTensor.from_layer(
            left,
            right,
            self.down,
            left_bias=left_bias,
            right_bias=right_bias,
            down_bias=self.down_bias,
            input=input or self.input,
            output=output or self.output,
        )


_TENSORS = ("gate", "up", "down", "gate_bias", "up_bias", "down_bias")
"""The fields that are weights."""


__all__ = ["ACTIVATIONS", "Gate", "GatedMLP", "Norm"]
