"""What surrogates need to know of a text, for all layers of a model in one pass: sums that add up over texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bilens._internal import checks, ranks, shown
from bilens._internal.checks import instance, number, whole
from bilens.errors import BilensError, ShapeError
from bilens.models import gated
from bilens.models._moments import Moments
from bilens.models._unit_sums import SUMS, fitted, unit_sums
from bilens.models.gated import GatedMLP
from bilens.models.gated.original import Trace
from bilens.models.surrogate import Surrogate
from bilens.progress import bar


@dataclass(frozen=True, eq=False, repr=False)
class LayerStatistics:
    """Sums over tokens of one layer, in float64; with n the MLP's input after its norm and ñ = (n, 1).

    Args:
        layer: its number.
        inputs: Σ ñ ñᵀ; outputs: Σ ñ yᵀ, with y what the MLP gives.
        products, squares: Σ ñ (zv)ᵀ and Σ ñ (z²)ᵀ over the units.
        units: the sums of `unit_sums`.

    Raises:
        ShapeError: shapes that do not fit together. BilensError: NaN or infinity.
    """

    layer: int
    inputs: Float[Tensor, "m m"]
    outputs: Float[Tensor, "m o"]
    products: Float[Tensor, "m h"]
    squares: Float[Tensor, "m h"]
    units: Float[Tensor, "s h"]

    def __post_init__(self) -> None:
        object.__setattr__(self, "layer", whole("layer", self.layer, 0))
        checks.shapes(self, s=SUMS)
        for name in _SUMS:
            value = getattr(self, name)
            checks.weights(name, value)
            object.__setattr__(self, name, checks.owned(value).double())

    def __repr__(self) -> str:
        """For example "LayerStatistics(layer 3, inputs (577, 577), …)"."""
        return shown.line(self)

    @property
    def tokens(self) -> float:
        """How many tokens were summed."""
        return float(self.inputs[-1, -1])

    def mean(self) -> Float[Tensor, " d"]:
        """The mean of n."""
        return self.inputs[-1, :-1] / self.tokens

    def covariance(self) -> Float[Tensor, "d d"]:
        """The covariance of n."""
        mean = self.mean()
        return self.inputs[:-1, :-1] / self.tokens - torch.outer(mean, mean)

    def moments(self, mlp: GatedMLP) -> Moments:
        """What `gaussian` needs, exact: mean and covariance of (z, v) follow from those of n.

        Raises:
            BilensError: another layer's. ShapeError: of another size.
        """
        self._of(mlp)
        return Moments.of_inputs(mlp, self.mean(), self.covariance())

    def least_squares(self, mlp: GatedMLP) -> Surrogate:
        """What `surrogate.least_squares` fits to the same tokens. Raises as `moments`."""
        self._of(mlp)
        return Surrogate(mlp, "least_squares", *fitted(self.units))

    def with_bypass(self, surrogate: Surrogate, *, ridge: float = 0.3) -> Surrogate:
        """What `surrogate.with_bypass` fits to the same tokens.

        Args:
            surrogate: of this layer, without a bypass; ridge: ρ, a share of the mean variance of n.

        Raises:
            BilensError: another layer's, or a surrogate with a bypass already. ShapeError: of another size.
        """
        instance("surrogate", surrogate, Surrogate)
        mlp, ridge = surrogate.mlp, number("ridge", ridge, above=0)
        self._of(mlp)
        if surrogate.bypass is not None or surrogate.offset is not None or surrogate.down is not None:
            raise BilensError("a surrogate with a bypass or a D of its own", "one without")
        w, v, down = mlp.gate.double(), mlp.up.double(), mlp.down.double()
        zeros = torch.zeros_like(surrogate.product)
        b = zeros if mlp.gate_bias is None else mlp.gate_bias.double()
        c = zeros if mlp.up_bias is None else mlp.up_bias.double()
        straight = torch.cat(  # C z + E v + F as a function of ñ
            [
                surrogate.gate[:, None] * w + surrogate.value[:, None] * v,
                (surrogate.gate * b + surrogate.value * c + surrogate.constant)[:, None],
            ],
            dim=1,
        )
        curved = self.products * surrogate.product + self.squares * surrogate.square
        given = (curved + self.inputs @ straight.T) @ down.T  # Σ ñ ŷᵀ, without D's bias
        if mlp.down_bias is not None:
            given = given + torch.outer(self.inputs[:, -1], mlp.down_bias.double())
        rest = (self.outputs - given) / self.tokens
        mean_n, mean, spread = self.mean(), rest[-1], self.covariance()
        level = spread.diagonal().mean()
        damped = spread + (ridge * level if level > 0 else 1.0) * torch.eye(len(spread)).to(spread)
        bypass = torch.linalg.solve(damped, rest[:-1] - torch.outer(mean_n, mean)).T
        return replace(surrogate, bypass=bypass, offset=mean - bypass @ mean_n)

    def _of(self, mlp: GatedMLP) -> None:
        instance("mlp", mlp, GatedMLP)
        if mlp.layer != self.layer or mlp.part != "mlp":
            raise BilensError(f"statistics of layer {self.layer} for {mlp.title}", "those of the same layer")
        sizes, ours = (mlp.input.size, len(mlp.gate)), (len(self.inputs) - 1, self.units.shape[1])
        if sizes != ours:
            raise ShapeError(f"statistics of {ours} inputs and units for {mlp!r}", str(sizes))


_SUMS = ("inputs", "outputs", "products", "squares", "units")


@dataclass(frozen=True, eq=False, repr=False)
class TokenStatistics:
    """Sums over texts of all layers, which add up: of two halves of a text, or of what two processes saw.

    Args:
        layers: one record for each; texts: how many were summed; prefix: tokens left out at the start of each.

    Raises:
        BilensError: no layer.
    """

    layers: tuple[LayerStatistics, ...]
    texts: int
    prefix: int

    def __post_init__(self) -> None:
        if not self.layers:
            raise BilensError("statistics of no layer", "at least one")
        object.__setattr__(self, "texts", whole("texts", self.texts, 0))
        object.__setattr__(self, "prefix", whole("prefix", self.prefix, 0))

    def __repr__(self) -> str:
        """For example "TokenStatistics(30 layers, 24 texts, 6120 tokens)"."""
        return f"TokenStatistics({len(self.layers)} layers, {self.texts} texts, {self.layers[0].tokens:.0f} tokens)"

    def layer(self, number: int) -> LayerStatistics:
        """Those of one layer.

        Raises:
            BilensError: no such layer.
        """
        for one in self.layers:
            if one.layer == number:
                return one
        raise BilensError(f"layer {number}", f"one of {', '.join(str(one.layer) for one in self.layers)}")


def token_statistics(
    model: nn.Module,
    tokens: Int[Tensor, "n t"],
    *,
    layers: Iterable[int] | None = None,
    prefix: int = 1,
    known: TokenStatistics | None = None,
    keep: Callable[[TokenStatistics], None] | None = None,
    every: int = 16,
    progress: bool = True,
) -> TokenStatistics:
    """One pass over texts for all layers. Where `torch.distributed` runs, each process takes its share of the texts.

    The sums are of float64. With `keep` and `known` a pass that was stopped goes on: the sums so far are handed to
    `keep` now and then, and begin from `known`; in several processes each keeps, and knows, its own.

    Args:
        model: of transformers, in memory; tokens: texts, one per row.
        layers: their numbers; None for all.
        prefix: tokens at the start of a text that are left out, as in `replaced`.
        known: what an earlier pass over the same texts kept; keep: is given what was summed; every: after how many
            texts.
        progress: whether to show a bar.

    Memory per layer, in float64: (d + 1)² + (d + 1)(o + 2h) + 17h.

    Returns:
        The sums over all texts, of all processes.

    Raises:
        BilensError: a model without gated MLPs, or with experts; `known` of other layers, or of more texts. ShapeError:
            texts no longer than the prefix.
    """
    live = gated.load(model)
    prefix, every = whole("prefix", prefix, 0), whole("every", every, 1)
    instance("tokens", tokens, Tensor)
    if tokens.ndim != 2 or tokens.shape[1] <= prefix or tokens.is_floating_point():
        raise ShapeError(
            f"tokens of shape {tuple(tokens.shape)} and type {tokens.dtype}",
            f"rows of more than {prefix} whole numbers",
        )
    numbers = tuple(range(len(live))) if layers is None else tuple(whole("layer", one, 0) for one in layers)
    mlps = {one: live.mlp(one) for one in numbers}
    shards = tokens[ranks.rank() :: ranks.size()]
    if known is None:
        sums, done = {one: _nothing(mlp) for one, mlp in mlps.items()}, 0
    else:
        if tuple(one.layer for one in known.layers) != numbers or known.prefix != prefix or known.texts > len(shards):
            raise BilensError(
                f"{known!r} to go on from", f"one of layers {', '.join(map(str, numbers))} of these texts"
            )
        sums, done = {one.layer: [getattr(one, name).clone() for name in _SUMS] for one in known.layers}, known.texts
    traces = {one: Trace(model, live.places[one, "mlp"]) for one in numbers}
    try:
        with torch.no_grad(), bar("statistics", len(shards), done=done, show=progress and ranks.lead()) as step:
            for place in range(done, len(shards)):
                model(shards[place : place + 1])
                for one, trace in traces.items():
                    if trace.input is None or trace.output is None:
                        raise BilensError(f"a model that does not run layer {one}", "one that runs each MLP once")
                    for total, part in zip(sums[one], _sums(mlps[one], trace, prefix), strict=True):
                        total.add_(part)
                if keep is not None and (place + 1 - done) % every == 0:
                    keep(_record(sums, place + 1, prefix))
                step(1)
    finally:
        for trace in traces.values():
            trace.stop()
    for parts in sums.values():
        ranks.add(parts)
    return _record(sums, len(tokens), prefix)


def _record(sums: dict[int, list[Tensor]], texts: int, prefix: int) -> TokenStatistics:
    return TokenStatistics(tuple(LayerStatistics(one, *parts) for one, parts in sums.items()), texts, prefix)


def _nothing(mlp: GatedMLP) -> list[Tensor]:
    m, h, o = mlp.input.size + 1, len(mlp.gate), mlp.output.size
    shapes = ((m, m), (m, o), (m, h), (m, h), (SUMS, h))
    return [torch.zeros(shape, dtype=torch.float64, device=mlp.gate.device) for shape in shapes]


def _sums(mlp: GatedMLP, trace: Trace, prefix: int) -> tuple[Tensor, ...]:
    """The sums over one text."""
    x, y = (part[prefix:] for part in (trace.input, trace.output) if part is not None)
    z, v = mlp.units(x)
    n = mlp.norm(x.to(mlp.gate))
    n = torch.cat([n, torch.ones_like(n[:, :1])], dim=1).double()
    zs, vs = z.double(), v.double()
    ones = torch.ones(len(z), dtype=torch.float64, device=z.device)
    return n.T @ n, n.T @ y.double(), n.T @ (zs * vs), n.T @ zs.square(), unit_sums(z, v, mlp.activation(z, v), ones)


__all__ = ["LayerStatistics", "TokenStatistics", "token_statistics"]
