"""The proof that a model was read right: its original, run by transformers, gives what each MLP of ours gives."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from bilens._internal import checks
from bilens._internal.checks import instance, whole
from bilens.errors import BilensError, StoreError
from bilens.models.gated._transformers import library, register
from bilens.models.gated.checkpoint import Checkpoint, Place, load
from bilens.models.gated.families import BILINEAR
from bilens.models.gated.mlp import GatedMLP

AGREE = 1e-4
"""Largest relative error at which an MLP counts as read right, in float32."""


@dataclass(frozen=True)
class Comparison:
    """One MLP beside the original's.

    Args:
        layer: its number; part: "mlp", "expert 3" or "shared expert".
        error: max |ours − theirs| / max |theirs| over all tokens and outputs, also after the norm that follows, if any.
        tokens: how many tokens that is.
    """

    layer: int
    part: str
    error: float
    tokens: int

    @property
    def agrees(self) -> bool:
        """Whether the error is at most `AGREE`."""
        return self.error <= AGREE


def original(checkpoint: Checkpoint) -> nn.Module:
    """The model as transformers loads it, in float32 on the CPU.

    Raises:
        BilensError: transformers is not installed, or does not have this model.
    """
    transformers = library(f"a check of {checkpoint.source.title}")
    where, file = _where(checkpoint)
    kind = str(checkpoint.source.config.get("model_type", ""))
    if kind.startswith(BILINEAR):
        register(kind.removeprefix(BILINEAR))
    try:
        model: nn.Module = transformers.AutoModelForCausalLM.from_pretrained(where, gguf_file=file, dtype=torch.float32)
    except (ValueError, OSError, KeyError, RuntimeError, ImportError) as error:
        raise StoreError(
            f"{checkpoint.source.title}, which transformers does not load ({_reason(error)})",
            "a model of transformers",
            "bilens layers without --check shows its layers",
        ) from error
    return model.eval()


def _where(checkpoint: Checkpoint) -> tuple[str, str | None]:
    """The folder or name of a model, and its file where it is GGUF."""
    name = checkpoint.source.title
    if not Path(name).is_file():
        return name, None
    if not checkpoint.source.gguf and Path(name).name != "model.safetensors":
        raise BilensError(f"a check of {name} alone", "the whole model", "name its folder")
    return str(Path(name).parent), Path(name).name if checkpoint.source.gguf else None


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


def check(
    checkpoint: Checkpoint,
    model: nn.Module | None = None,
    *,
    tokens: Int[Tensor, "n t"] | None = None,
    count: int = 8,
    seed: int = 0,
) -> tuple[Comparison, ...]:
    """Run the original on a few tokens and compare every MLP's output, each expert's on every token.

    Ours sees the residual stream that the original has before the norm, so that the norm is compared too.

    Args:
        checkpoint: what was read; model: its original in transformers, loaded when None.
        tokens: numbers of tokens, one row a text; by default `count` drawn at random with `seed`.

    Raises:
        BilensError: the original cannot be loaded, or is another model. StoreError: as `Checkpoint.mlp`.
    """
    instance("checkpoint", checkpoint, Checkpoint)
    model = original(checkpoint) if model is None else model
    live = load(model)
    if live.places.keys() != checkpoint.places.keys():
        raise BilensError(f"an original with the MLPs of {live!r}", f"those of {checkpoint!r}")
    if tokens is None:
        generator = torch.Generator().manual_seed(checks.seed(seed))
        size = live.source.config.get("vocab_size") or live.family.config["vocab_size"]
        tokens = torch.randint(size, (1, whole("count", count, 1)), generator=generator)
    compared = []
    with torch.no_grad(), _plain_experts(model):
        traces = {key: Trace(model, place) for key, place in live.places.items()}
        try:
            model(tokens)
        finally:
            for trace in traces.values():
                trace.stop()
        for (layer, part), trace in traces.items():
            if part != "experts":
                ours = checkpoint.mlp(layer) if part == "mlp" else checkpoint.shared_expert(layer)
                compared.append(_compared(trace, ours, trace.output, part))
                continue
            for number in range(trace.place.count):
                ours, theirs = checkpoint.expert(layer, number), trace.expert(number)
                compared.append(_compared(trace, ours, theirs, f"expert {number}"))
    return tuple(compared)


@contextlib.contextmanager
def _plain_experts(model: Any) -> Iterator[None]:
    """Experts one after another for a while: the products of all at once are not made for every size."""
    if not hasattr(model, "get_experts_implementation"):
        yield
        return
    before = model.get_experts_implementation()
    model.set_experts_implementation("eager")
    try:
        yield
    finally:
        model.set_experts_implementation(before)


def _compared(trace: Trace, ours: GatedMLP, theirs: Tensor | None, part: str) -> Comparison:
    if trace.input is None or theirs is None:
        raise BilensError(f"layer {trace.place.layer}, whose {part} was not run", "a model that runs each MLP once")
    y = ours(trace.input)
    error = _error(y, theirs.to(y))
    if trace.after is not None and ours.post_norm is not None:
        error = max(error, _error(ours.post_norm(y), trace.after.to(y)))
    return Comparison(trace.place.layer, part, error, len(trace.input))


def _error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=torch.finfo(theirs.dtype).tiny))


class Trace:
    """What goes into one layer's MLP in the original, and what comes out, one row per token, until `stop`.

    Args:
        model: the original, which is then run; place: the layer's names in it.
        instead: gives other outputs from `input` and `output`, which the original then goes on with.

    Attributes:
        input: rows of the residual stream before the norm; output: of the MLP; after: of the norm that follows.
        module: the original's MLP.
    """

    def __init__(
        self, model: nn.Module, place: Place, instead: Callable[[Tensor, Tensor], Tensor] | None = None
    ) -> None:
        self.place, self._instead = place, instead
        self.input: Tensor | None = None
        self.output: Tensor | None = None
        self.after: Tensor | None = None
        layout = place.layout
        self._normed: Tensor | None = None
        self.module = model.get_submodule(owner(place.name(layout.gate), place.name(layout.down)))
        reads = model.get_submodule(place.name(layout.norm).removesuffix(".weight")) if layout.norm else self.module
        self._hooks: list[Any] = [
            reads.register_forward_pre_hook(self._before),
            self.module.register_forward_hook(self._ran),
        ]
        if layout.post_norm:
            post = model.get_submodule(place.name(layout.post_norm).removesuffix(".weight"))
            self._hooks.append(post.register_forward_hook(self._normalised))

    def _before(self, _: nn.Module, arguments: tuple[Any, ...]) -> None:
        self.input = _rows(arguments[0])

    def _ran(self, _: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
        self._normed = _rows(arguments[0])
        self.output = _rows(output[0] if isinstance(output, tuple) else output)
        if self._instead is None or self.input is None:
            return None
        return self._instead(self.input, self.output).reshape(output.shape)

    def _normalised(self, _: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
        self.after = _rows(output)

    def expert(self, number: int) -> Tensor | None:
        """What one expert of the original gives for every token: the experts' own code, told to use this one alone."""
        n = self._normed
        if n is None:
            return None
        chosen = torch.full((len(n), 1), number, dtype=torch.int64, device=n.device)
        output: Tensor = self.module(n, chosen, torch.ones_like(chosen, dtype=n.dtype))
        return output

    def stop(self) -> None:
        """Take the hooks out again."""
        for hook in self._hooks:
            hook.remove()


def owner(gate: str, down: str) -> str:
    """The module that two tensors share: "model.layers.0.mlp" for its gate_proj.weight and down_proj.weight."""
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(gate.split("."), down.split("."), strict=False))
    return ".".join(part for part, _ in same)


def _rows(value: Tensor) -> Tensor:
    return value.detach().reshape(-1, value.shape[-1])


__all__ = ["AGREE", "Comparison", "Trace", "check", "library", "original", "owner", "register"]
