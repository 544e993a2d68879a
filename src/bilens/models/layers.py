"""Layers: the bilinear one, and the gated and dense ones that it is compared with."""

from __future__ import annotations

from math import sqrt

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bilens._internal import checks
from bilens._internal.checks import choice, flag, instance, number, whole
from bilens.errors import BilensError, ShapeError
from bilens.space import Space
from bilens.tensor import BilinearTensor

GATES = ("reglu", "swiglu")
"""What a `Gated` layer may be gated with."""

ACTIVATIONS = ("relu", "gelu")
"""What a `Dense` layer may be activated with."""


def swish(x: Float[Tensor, "*n"], beta: float = 1.0) -> Float[Tensor, "*n"]:
    """x · sigmoid(βx): the SiLU at β = 1, the ReLU as β grows, and x/2 (not x) at β = 0."""
    return x * torch.sigmoid(beta * x)


class Bilinear(nn.Module):
    """g(x) = (W x + b) ⊙ (V x + c), before any read-out.

    Args:
        d_in: size of x; d_hidden: number of hidden units.
        bias: whether there are b and c.
        input: what x is, by default a space "input"; output: what g(x) is, by default a space "hidden".
        generator: draws the first weights, uniform in ±1/√d_in; torch's own generator when None.

    Attributes:
        left: W and b; right: V and c.

    Raises:
        BilensError: a size below 1. ShapeError: a space of another size.
    """

    def __init__(
        self,
        d_in: int,
        d_hidden: int,
        bias: bool = False,
        *,
        input: Space | None = None,
        output: Space | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.input, self.output = _spaces(d_in, d_hidden, input, output)
        self.left = linear(self.input.size, self.output.size, bias=bias, generator=generator)
        self.right = linear(self.input.size, self.output.size, bias=bias, generator=generator)

    def forward(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_hidden"]:
        """(W x + b) ⊙ (V x + c), in the weights' type.

        Raises:
            BilensError: x is not a dense floating-point tensor. ShapeError: its last axis is not `input.size`.
        """
        x = checks.vectors("x", x, self.left.weight, self.input.size)
        y: Tensor = self.left(x) * self.right(x)
        return y

    def tensor(self, input: Space | None = None, output: Space | None = None, *, detach: bool = True) -> BilinearTensor:
        """The tensor of g before any read-out (D = I), its biases folded.

        Args:
            input: space of x, output: space of g(x); by default the layer's own.
            detach: False keeps the graph, so that a loss of the tensor trains the layer.
        """
        return factored(self.left, self.right, input=input or self.input, output=output or self.output, detach=detach)


class Gated(nn.Module):
    """σ(W x + b) ⊙ (V x + c), with σ the ReLU ("reglu") or the swish of slope β ("swiglu").

    It has as many parameters as a `Bilinear` of the same width.

    Args:
        d_in: size of x; d_hidden: number of hidden units.
        activation: "reglu" or "swiglu".
        bias: whether there are b and c.
        beta: slope of the swish; at β = 0 it is x/2, so that the layer is half a bilinear one.
        input, output, generator: as for `Bilinear`.

    Attributes:
        left: the gate, W and b; right: V and c.

    Raises:
        BilensError: a size below 1 or an unknown activation. ShapeError: a space of another size.
    """

    def __init__(
        self,
        d_in: int,
        d_hidden: int,
        activation: str,
        bias: bool = False,
        *,
        beta: float = 1.0,
        input: Space | None = None,
        output: Space | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.activation, self.beta = _known(activation, GATES), number("beta", beta)
        self.input, self.output = _spaces(d_in, d_hidden, input, output)
        self.left = linear(self.input.size, self.output.size, bias=bias, generator=generator)
        self.right = linear(self.input.size, self.output.size, bias=bias, generator=generator)

    def forward(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_hidden"]:
        """σ(W x + b) ⊙ (V x + c)."""
        gate = self.left(x)
        gate = torch.relu(gate) if self.activation == "reglu" else swish(gate, self.beta)
        y: Tensor = gate * self.right(x)
        return y

    def tensor(self, input: Space | None = None, output: Space | None = None, *, detach: bool = True) -> BilinearTensor:
        """The tensor of ½ (W x + b) ⊙ (V x + c), for "swiglu" at β = 0.

        Raises:
            BilensError: any other gate, because the layer is not a quadratic function of x.
        """
        if self.activation != "swiglu" or self.beta != 0:
            raise no_tensor(self.activation)
        whole = factored(self.left, self.right, input=input or self.input, output=output or self.output, detach=detach)
        return whole.then(torch.eye(whole.hidden).to(whole.down) / 2, whole.output)


class Dense(nn.Module):
    """σ(W x + b), with σ the ReLU or the GELU: a layer without a gate.

    Args:
        d_in: size of x; d_hidden: number of hidden units.
        activation: "relu" or "gelu".
        bias: whether there is b.
        input, output, generator: as for `Bilinear`.

    Attributes:
        linear: W and b.

    Raises:
        BilensError: a size below 1 or an unknown activation. ShapeError: a space of another size.
    """

    def __init__(
        self,
        d_in: int,
        d_hidden: int,
        activation: str,
        bias: bool = False,
        *,
        input: Space | None = None,
        output: Space | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.activation = _known(activation, ACTIVATIONS)
        self.input, self.output = _spaces(d_in, d_hidden, input, output)
        self.linear = linear(self.input.size, self.output.size, bias=bias, generator=generator)

    def forward(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_hidden"]:
        """σ(W x + b)."""
        y: Tensor = self.linear(x)
        return torch.relu(y) if self.activation == "relu" else nn.functional.gelu(y)

    def tensor(self, input: Space | None = None, output: Space | None = None, *, detach: bool = True) -> BilinearTensor:
        """A dense layer has no tensor.

        Raises:
            BilensError: always, because the layer is not a quadratic function of x.
        """
        raise no_tensor(self.activation)


def matched_width(hidden: int, *, d_in: int, d_out: int, layers: int = 1, bias: bool = False) -> int:
    """The width w of ungated layers whose parameters come nearest to those of bilinear layers of width `hidden`.

    With β = 1 for biases, else 0, the layers and the read-out's matrix have

    - bilinear: P = 2h(d_in + β) + (L−1)·2h(h + β) + h·d_out parameters,
    - ungated: w(d_in + β) + (L−1)·w(w + β) + w·d_out,

    so that w is the root of (L−1)w² + (d_in + Lβ + d_out)w = P, rounded to whichever neighbour comes nearer. The
    embedding and the read-out's bias are the same in both. For one layer and d_out ≪ d_in it is just below 2h.
    """
    sizes = (("hidden", hidden), ("d_in", d_in), ("d_out", d_out), ("layers", layers))
    hidden, d_in, d_out, layers = (whole(name, size, 1) for name, size in sizes)
    more, b = layers - 1, int(bias)
    target = 2 * hidden * (d_in + b) + 2 * more * hidden * (hidden + b) + hidden * d_out
    linear_part = d_in + layers * b + d_out
    root = 2 * target / (linear_part + sqrt(linear_part**2 + 4 * more * target))
    return min(
        (max(1, int(root)), int(root) + 1), key=lambda width: abs(more * width**2 + linear_part * width - target)
    )


def no_tensor(activation: str) -> BilensError:
    """The error of a layer or model that is not a quadratic function of its input."""
    return BilensError(
        f".tensor() of a layer with activation {activation!r}",
        "a bilinear layer, which is a quadratic function of its input",
        "train one with activation='bilinear'",
    )


def linear(d_in: int, d_out: int, *, bias: bool, generator: torch.Generator | None) -> nn.Linear:
    """A linear map with weights and bias uniform in ±1/√d_in, as torch draws them, but from this generator.

    Under `torch.device("meta")` it has shapes and no numbers.
    """
    bias = flag("bias", bias)
    if generator is not None:
        instance("generator", generator, torch.Generator)
    meta = torch.get_default_device().type == "meta"
    module = nn.Linear(d_in, d_out, bias=bias, device="meta")
    if not meta:
        module.to_empty(device="cpu")
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.uniform_(-(d_in**-0.5), d_in**-0.5, generator=generator)
    return module


def factored(
    left: nn.Linear,
    right: nn.Linear,
    embedding: nn.Linear | None = None,
    *,
    input: Space,
    output: Space,
    detach: bool,
) -> BilinearTensor:
    """The tensor of (W E x + b) ⊙ (V E x + c), with E = I when there is no embedding.

    Its factors are copies, so that training on does not change them, in float32 at least.
    """
    weights = []
    for name, weight in (("left", left.weight), ("right", right.weight)):
        if embedding is None:
            weights.append(weight)
            continue
        for which, value in ((name, weight), ("embedding", embedding.weight)):
            checks.weights(which, value)
        weights.append(checks.owned(weight, detach=detach) @ checks.owned(embedding.weight, detach=detach))
    return BilinearTensor.from_layer(
        weights[0],
        weights[1],
        left_bias=left.bias,
        right_bias=right.bias,
        input=input,
        output=output,
        detach=detach,
    )


def _known(activation: str, among: tuple[str, ...]) -> str:
    choice("activation", activation, among)
    return activation


def _spaces(d_in: int, d_hidden: int, input: Space | None, output: Space | None) -> tuple[Space, Space]:
    d_in, d_hidden = whole("d_in", d_in, 1), whole("d_hidden", d_hidden, 1)
    input = Space("input", d_in) if input is None else input
    output = Space("hidden", d_hidden) if output is None else output
    for space, size in ((input, d_in), (output, d_hidden)):
        instance("space", space, Space)
        if space.size != size:
            raise ShapeError(f"space {space.title}", f"one of size {size}, like the layer")
    return input, output
