"""A bilinear layer that stands in for a gated one: products of linear functions, and a linear map around them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from bilens._internal import checks, shown
from bilens._internal.checks import whole
from bilens.models._unit_sums import fitted
from bilens.models.gated import Gate, GatedMLP

MATRICES = ("left", "left_bias", "right", "right_bias", "down", "bypass", "down_bias")
"""The fields that are weights."""


@dataclass(frozen=True, eq=False, repr=False)
class ConvertedMLP:
    """y = D[(L n + b) ⊙ (R n + c)] + M n + e, with n the MLP's input after its norm, in float32.

    Args:
        layer: its number; left, left_bias: L and b; right, right_bias: R and c; down: D; bypass: M; down_bias: e.

    Raises:
        ShapeError: weights that do not fit together. BilensError: NaN or infinity.
    """

    layer: int
    left: Float[Tensor, "h d"]
    left_bias: Float[Tensor, " h"]
    right: Float[Tensor, "h d"]
    right_bias: Float[Tensor, " h"]
    down: Float[Tensor, "o h"]
    bypass: Float[Tensor, "o d"]
    down_bias: Float[Tensor, " o"]

    def __post_init__(self) -> None:
        object.__setattr__(self, "layer", whole("layer", self.layer, 0))
        checks.shapes(self)
        for name in MATRICES:
            value = getattr(self, name)
            checks.weights(name, value)
            object.__setattr__(self, name, checks.owned(value).float())

    def __repr__(self) -> str:
        """For example "ConvertedMLP(layer 3, left (1536, 576), …)"."""
        return shown.line(self)

    @classmethod
    def of_sums(cls, mlp: GatedMLP, sums: Float[Tensor, "s h"]) -> ConvertedMLP:
        """The five numbers of each unit by least squares: L = W, R = A V + B W, and all that is linear in M and e.

        Args:
            mlp: the gated layer; sums: over tokens, from `unit_sums`.
        """
        a, b, c, e, f = fitted(sums)
        w, v, down = mlp.gate.double(), mlp.up.double(), mlp.down.double()
        zeros = torch.zeros_like(a)
        w_bias = zeros if mlp.gate_bias is None else mlp.gate_bias.double()
        v_bias = zeros if mlp.up_bias is None else mlp.up_bias.double()
        constant = down @ (c * w_bias + e * v_bias + f)
        return cls(
            mlp.layer,
            w,
            w_bias,
            a[:, None] * v + b[:, None] * w,
            a * v_bias + b * w_bias,
            down,
            down @ (c[:, None] * w + e[:, None] * v),
            constant if mlp.down_bias is None else constant + mlp.down_bias.double(),
        )

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All weights, in the order of `MATRICES`."""
        return tuple(getattr(self, name) for name in MATRICES)

    def to(self, device: torch.device) -> ConvertedMLP:
        """The same on a device."""
        return ConvertedMLP(self.layer, *(value.to(device) for value in self.tensors))

    def units(self, n: Float[Tensor, "*n d"]) -> Float[Tensor, "*n h"]:
        """(L n + b) ⊙ (R n + c)."""
        left = functional.linear(n, self.left, self.left_bias)
        return left.mul_(functional.linear(n, self.right, self.right_bias))

    def __call__(self, n: Float[Tensor, "*n d"]) -> Float[Tensor, "*n o"]:
        """y for each n."""
        straight = functional.linear(n, self.bypass, self.down_bias)
        return straight.add_(functional.linear(self.units(n), self.down))

    def gated(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """W, b, V, c, D and e of the same layer as h + o units (W n + b) ⊙ (V n + c), nothing around them.

        Output i's row of M is the gate of one more unit, whose value is the constant 1 and which only output i reads:
        exact, and without cancellation.
        """
        o, d = self.bypass.shape
        ones, zeros = self.left.new_ones(o), self.left.new_zeros(o, d)
        return (
            torch.cat([self.left, self.bypass]),
            torch.cat([self.left_bias, self.left.new_zeros(o)]),
            torch.cat([self.right, zeros]),
            torch.cat([self.right_bias, ones]),
            torch.cat([self.down, torch.eye(o).to(self.down)], dim=1),
            self.down_bias,
        )

    def mlp(self, original: GatedMLP) -> GatedMLP:
        """The same layer as a gated MLP whose gate is linear, with the norm of the original."""
        w, b, v, c, down, e = self.gated()
        return GatedMLP(
            w,
            v,
            down,
            Gate("identity"),
            original.norm,
            gate_bias=b,
            up_bias=c,
            down_bias=e,
            post_norm=original.post_norm,
            layer=self.layer,
        )


class ConvertedModule(nn.Module):
    """A `ConvertedMLP` in a model's place for one of its own MLPs, given n."""

    def __init__(self, mlp: ConvertedMLP) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, n: Tensor) -> Tensor:
        """y."""
        return self.mlp(n)


__all__ = ["MATRICES", "ConvertedMLP", "ConvertedModule"]
