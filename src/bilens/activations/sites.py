"""The sites around a gated MLP, read while a model of transformers runs, or given other vectors there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bilens._internal import checks
from bilens._internal.checks import instance, whole
from bilens.errors import BilensError, ShapeError
from bilens.models import gated
from bilens.models.gated.original import owner

SITES = ("mlp_in", "mlp_out", "residual_before", "residual_after")
"""n = norm(x), which the MLP reads; y, which it gives; x before its norm; and x + y, which the block gives."""

Key = tuple[int, str]
"""A layer's number and a site."""


class _Reached(Exception):
    """Everything that was asked for is there: the rest of the model need not run."""


class Sites:
    """Sites of a model by layer and name, with the modules whose hooks read and change them.

    Args:
        model: of transformers, in memory; keys: layers and sites.

    Raises:
        BilensError: no such layer or site, or a layer with experts.
    """

    def __init__(self, model: nn.Module, keys: Sequence[Key]) -> None:
        instance("model", model, nn.Module, "a model of transformers in memory")
        self.model, live = model, gated.load(model)
        self.sizes: dict[Key, int] = {}
        self._modules: dict[int, tuple[nn.Module, nn.Module, nn.Module]] = {}
        entries = {entry.layer: entry for entry in live.entries() if entry.part == "mlp"}
        for layer, site in keys:
            checks.choice("site", site, SITES)
            last = max(each for each, _ in live.places)
            number = whole("layer", layer, 0, last)
            if number not in entries:
                raise BilensError(f"layer {number}, which has experts", "a layer with an MLP of its own")
            place = live.places[number, "mlp"]
            layout = place.layout
            mlp = model.get_submodule(owner(place.name(layout.gate), place.name(layout.down)))
            norm = model.get_submodule(place.name(layout.norm).removesuffix(".weight")) if layout.norm else mlp
            before, _, _ = layout.gate.partition("{layer}")
            block = model.get_submodule(place.name(f"{before}{{layer}}"))
            self._modules[number] = norm, mlp, block
            entry = entries[number]
            self.sizes[number, site] = entry.outputs if site == "mlp_out" else entry.inputs

    @contextmanager
    def reading(self, *, only: bool = False) -> Iterator[Callable[[Tensor], dict[Key, Tensor]]]:
        """A function that runs the model on rows of tokens and gives the vectors (b, t, width) of every site.

        Args:
            only: stop each run where the last of the sites is reached.
        """
        found: dict[Key, Tensor] = {}

        def keep(key: Key, value: Any) -> None:
            found[key] = _tensor(value).detach()
            if only and len(found) == len(self.sizes):
                raise _Reached

        hooks = [self.hook(key, keep) for key in self.sizes]

        def run(tokens: Tensor) -> dict[Key, Tensor]:
            found.clear()
            try:
                with torch.no_grad():
                    self.model(tokens)
            except _Reached:
                pass
            missing = [f"{site} of layer {layer}" for layer, site in self.sizes if (layer, site) not in found]
            if missing:
                raise BilensError(f"a model that does not run {missing[0]}", "one that runs each MLP once")
            return {key: value.reshape(*tokens.shape, -1) for key, value in found.items()}

        try:
            yield run
        finally:
            for hook in hooks:
                hook.remove()

    def hook(self, key: Key, keep: Callable[[Key, Any], None]) -> Any:
        """Have a site's vectors handed over whenever the model reaches it, until the hook that is given is removed."""
        norm, mlp, block = self._modules[key[0]]
        if key[1] == "residual_before":
            return norm.register_forward_pre_hook(lambda _, given: keep(key, given[0]))
        if key[1] == "mlp_in":
            return mlp.register_forward_pre_hook(lambda _, given: keep(key, given[0]))
        module = mlp if key[1] == "mlp_out" else block
        return module.register_forward_hook(lambda _, __, output: keep(key, output))

    @contextmanager
    def replacing(self, key: Key, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """While this lasts, the vectors of a site are what `change` makes of them, and the model goes on with these.

        Instead of x before the norm the block then has x′ + MLP(x′): what the MLP reads and what passes it by.
        """
        norm, mlp, block = self._modules[key[0]]
        moved: list[Tensor] = []

        def before(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
            x = change(given[0])
            moved[:] = [x - given[0]]
            return (x, *given[1:])

        def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
            return _with(output, _tensor(output) + moved[0].reshape(_tensor(output).shape))

        def instead(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
            return _with(output, change(_tensor(output)))

        def reads(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
            return (change(given[0]), *given[1:])

        if key[1] == "residual_before":
            hooks = [norm.register_forward_pre_hook(before), block.register_forward_hook(after)]
        elif key[1] == "mlp_in":
            hooks = [mlp.register_forward_pre_hook(reads)]
        else:
            hooks = [(mlp if key[1] == "mlp_out" else block).register_forward_hook(instead)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def rows_of(name: str, text: Int[Tensor, "n t"], prefix: int) -> Int[Tensor, "n t"]:
    """Check rows of tokens of which the first few are left out.

    Raises:
        ShapeError: no rows of whole numbers longer than the prefix.
    """
    instance(name, text, Tensor, "rows of tokens", "pass split.fit or split.held_out")
    if text.ndim != 2 or not len(text) or text.shape[1] <= prefix or text.is_floating_point():
        raise ShapeError(
            f"{name} of shape {tuple(text.shape)} and type {text.dtype}", f"rows of more than {prefix} whole numbers"
        )
    return text


def several(site: str | Sequence[str]) -> tuple[str, ...]:
    """One site or several, as a tuple."""
    names = (site,) if isinstance(site, str) else tuple(checks.several("site", site, f"one of {', '.join(SITES)}", ""))
    for name in names:
        checks.choice("site", name, SITES)
    if not names or len(set(names)) < len(names):
        raise BilensError(f"sites {', '.join(names) or 'of no name'}", "different ones, one at least")
    return names


def joined(
    found: dict[Key, Float[Tensor, "_ _ _"]], layer: int, sites: Sequence[str], prefix: int
) -> Float[Tensor, "n w"]:
    """The vectors of several sites side by side, one row per token that is not left out."""
    return torch.cat([found[layer, site][:, prefix:].flatten(0, 1) for site in sites], dim=1)


def _tensor(value: Any) -> Tensor:
    found: Tensor = value[0] if isinstance(value, tuple) else value
    return found


def _with(output: Any, value: Tensor) -> Any:
    return (value, *output[1:]) if isinstance(output, tuple) else value


__all__ = ["SITES", "Key", "Sites", "joined", "rows_of", "several"]
