"""A language model run a few layers at a time, by its own code: other layers are stand-ins that cost nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bilens.errors import BilensError
from bilens.models import gated
from bilens.models.gated import GatedMLP
from bilens.models.gated.original import owner

ADDS = 1e-3
"""Largest error, as a share of the residual stream, at which a layer counts as x + MLP(x)."""


class _Given(nn.Module):
    """A layer that gives what it is told, whatever comes in."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        return self.value


class _Passing(nn.Module):
    """A layer that changes nothing."""

    def forward(self, hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        return hidden


class _Silent(nn.Module):
    """An MLP that gives 0, at no cost."""

    def forward(self, n: Tensor, *_: Any, **__: Any) -> Tensor:
        return torch.zeros_like(n)


class Stack:
    """A causal language model of transformers as a stack of layers, each x + attention, then x + MLP.

    Args:
        model: in memory, in float32.

    Attributes:
        model: as given, in its evaluation mode; layers: its decoder layers; places: where each MLP's tensors are.

    Raises:
        BilensError: no gated MLPs, or MLPs of experts.
    """

    def __init__(self, model: nn.Module) -> None:
        self._live = gated.load(model)
        parts = sorted({part for _, part in self._live.places if part != "mlp"})
        if parts:
            raise BilensError(f"{self._live!r} with {' and '.join(parts)}", "a model with one gated MLP in each layer")
        self.model = model.eval()
        self.places = [self._live.places[k, "mlp"] for k in range(len(self._live))]
        names = [place.name(place.layout.gate) for place in self.places]
        before, _, _ = names[0].partition(".0.")
        self._body_name, _, self._list = before.rpartition(".")
        self._body = cast(Any, model.get_submodule(self._body_name))
        self.layers: list[nn.Module] = list(getattr(self._body, self._list))
        self._owners = [
            owner(name, place.name(place.layout.down)) for name, place in zip(names, self.places, strict=True)
        ]

    def __len__(self) -> int:
        """How many layers it has."""
        return len(self.places)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.model.parameters()).device

    def mlp(self, layer: int) -> GatedMLP:
        """The gated MLP of a layer. Raises as `Checkpoint.mlp`."""
        return self._live.mlp(layer)

    def module(self, layer: int) -> nn.Module:
        """The model's own module of a layer's MLP."""
        return self.model.get_submodule(self._owners[layer])

    @contextlib.contextmanager
    def with_mlps(self, modules: Mapping[int, nn.Module]) -> Iterator[None]:
        """Other MLPs for a while, by layer: each is given n, the MLP's input after its norm."""
        kept = {layer: self.module(layer) for layer in modules}
        try:
            for layer, module in modules.items():
                self._put(layer, module)
            yield
        finally:
            for layer, module in kept.items():
                self._put(layer, module)

    def _put(self, layer: int, module: nn.Module) -> None:
        parent, _, name = self._owners[layer].rpartition(".")
        setattr(self.model.get_submodule(parent), name, module)

    @contextlib.contextmanager
    def _only(self, layers: list[nn.Module]) -> Iterator[None]:
        """Other layers for a while."""
        whole = getattr(self._body, self._list)
        setattr(self._body, self._list, nn.ModuleList(layers))
        try:
            yield
        finally:
            setattr(self._body, self._list, whole)

    def embedded(self, tokens: Int[Tensor, "n t"]) -> Float[Tensor, "n t d"]:
        """The residual stream before the first layer."""
        caught: list[Tensor] = []
        first = _Passing()
        first.register_forward_hook(lambda _, __, output: caught.append(output))
        with torch.no_grad(), self._only([first, *(_Passing() for _ in self.layers[1:])]):
            self._body(input_ids=tokens, use_cache=False)
        return caught[0]

    def through(self, tokens: Int[Tensor, "n t"], x: Float[Tensor, "n t d"], layer: int) -> Float[Tensor, "n t d"]:
        """The residual stream after a layer, from the one before it."""
        caught: list[Any] = []
        real = self.layers[layer]
        hook = real.register_forward_hook(lambda _, __, output: caught.append(output))
        try:
            with (
                torch.no_grad(),
                self._only([self.layers[layer] if k == layer else _Given(x) for k in range(len(self))]),
            ):
                self._body(input_ids=tokens, use_cache=False)
        finally:
            hook.remove()
        if not isinstance(caught[0], Tensor):
            raise BilensError(f"a layer that gives a {type(caught[0]).__name__}", "a model of transformers 5 or later")
        return caught[0]

    def before_mlp(self, tokens: Int[Tensor, "n t"], x: Float[Tensor, "n t d"], layer: int) -> Float[Tensor, "n t d"]:
        """The residual stream in a layer after its attention, which its MLP reads, from the one before the layer."""
        caught: list[Tensor] = []
        place, silent = self.places[layer], _Silent()
        reads = silent
        if place.layout.norm:
            reads = cast(Any, self.model.get_submodule(place.name(place.layout.norm).removesuffix(".weight")))
        hook = reads.register_forward_pre_hook(lambda _, arguments: caught.append(arguments[0]))
        try:
            with self.with_mlps({layer: silent}):
                self.through(tokens, x, layer)
        finally:
            hook.remove()
        return caught[0]

    def logits(self, tokens: Int[Tensor, "n t"], x: Float[Tensor, "n t d"], first: int) -> Float[Tensor, "n t v"]:
        """The logits, from the residual stream before layer `first`; those before it are left out."""
        given = [_Given(x) if k < first else self.layers[k] for k in range(len(self))]
        with torch.no_grad(), self._only(given) if first else contextlib.nullcontext():
            logits: Tensor = self.model(input_ids=tokens, use_cache=False).logits
        return logits.float()

    def check(self, tokens: Int[Tensor, "n t"]) -> None:
        """That every layer adds its MLP's output to what the MLP reads, on a few tokens.

        Raises:
            BilensError: one does something else.
        """
        x = self.embedded(tokens)
        for layer in range(len(self)):
            middle, mlp = self.before_mlp(tokens, x, layer), self.mlp(layer)
            x = self.through(tokens, x, layer)
            y = mlp(middle)
            added = middle + (y if mlp.post_norm is None else mlp.post_norm(y))
            error = float((added - x).norm() / x.norm())
            if not error <= ADDS:
                raise BilensError(
                    f"a layer {layer} that differs from x + MLP(x) by {error:.1e} of its output",
                    "layers that add their MLP's output to the residual stream",
                )


__all__ = ["ADDS", "Stack"]
