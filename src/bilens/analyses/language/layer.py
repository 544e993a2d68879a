"""One layer as a tensor: exact where it is bilinear, else its surrogate, with what that costs and the data's metric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from bilens import store
from bilens._internal.shown import line
from bilens.analyses.language import inputs
from bilens.analyses.language.subject import PREFIX, Subject
from bilens.decompose import Metric, second_moment
from bilens.errors import BilensError
from bilens.models.gated import GatedMLP
from bilens.models.replaced import Replaced, replaced
from bilens.models.surrogate import Surrogate, least_squares, weights_only
from bilens.progress import bar
from bilens.store import Folder
from bilens.tensor import BilinearTensor

TEXTS = 12
"""Rows of held-out text that the whole model is run on with the surrogate in the layer's place, at most."""

store.register(Replaced)


@store.register
@dataclass(frozen=True)
class Costs:
    """What stands in for a layer, and what that loses on held-out text; none for a layer that is exactly bilinear.

    Args:
        measured: the surrogate, then the layer's mean and a random layer; see `models.replaced`.
        fit: share of variance lost on the tokens that it was fitted to.
    """

    measured: tuple[Replaced, ...]
    fit: float


@dataclass(frozen=True, eq=False, repr=False)
class Layer:
    """One layer, ready to be read.

    Args:
        mlp: as it is; tensor: as a function of x̂, its normalised input; surrogate: None where the tensor is exact.
        metric: of x̂ on the text that was fitted to, None without text.
        fit, held_out: rows of x, the residual stream before the layer's norm; None without text.
    """

    mlp: GatedMLP
    tensor: BilinearTensor
    surrogate: Surrogate | None
    metric: Metric | None = None
    fit: Float[Tensor, "n d"] | None = None
    held_out: Float[Tensor, "m d"] | None = None

    __repr__ = line

    @property
    def number(self) -> int:
        """Of the layer."""
        return self.mlp.layer

    def normalised(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """x̂, which the tensor takes."""
        return self.mlp.norm.normalize(x)

    def folded(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n i"]:
        """x̂ with its constant coordinate."""
        return self.tensor.input.fold(self.normalised(x))

    @property
    def scale(self) -> Tensor | None:
        """The gain of a norm after the MLP, by which directions are multiplied; None for none."""
        post = self.mlp.post_norm
        return None if post is None else post.gain


@torch.no_grad()
def opened(subject: Subject, out: Path, number: int) -> Layer:
    """A layer with its tensor and what the text says of its input; only its own weights are read.

    Raises:
        BilensError: no such layer, or one of experts. StoreError: it cannot be read.
    """
    if subject.split is None:
        return from_weights(subject.checkpoint.mlp(number))
    fit, held_out = (inputs.collected(subject, out, number, part) for part in inputs.PARTS)
    return fitted(subject.checkpoint.mlp(number), fit, held_out)


def fitted(mlp: GatedMLP, fit: Float[Tensor, "n d"], held_out: Float[Tensor, "m d"] | None = None) -> Layer:
    """A layer as it is read where there is text; `fit` and `held_out` as of `Layer`."""
    surrogate = None if mlp.bilinear else least_squares(mlp, fit)
    tensor = (mlp if surrogate is None else surrogate).tensor()
    metric = Metric.from_moment(second_moment(mlp.norm.normalize(fit), tensor.input), tensor.input)
    return Layer(mlp, tensor, surrogate, metric, fit, held_out)


def from_weights(mlp: GatedMLP) -> Layer:
    """A layer as its weights alone have it."""
    surrogate = None if mlp.bilinear else weights_only(mlp)
    return Layer(mlp, (mlp if surrogate is None else surrogate).tensor(), surrogate)


def costs(layer: Layer, subject: Subject, run: Folder, *, seed: int) -> Costs | None:
    """What the surrogate costs, kept in the run's folder; None where there is none, or no text."""
    surrogate, split, fit = layer.surrogate, subject.split, layer.fit
    if surrogate is None or split is None or fit is None:
        return None
    if len(split.held_out) < 2:
        raise BilensError(f"{len(split.held_out)} row of held-out text", "two at least", "give more text")

    def measure() -> Costs:
        few, model = split.held_out[:TEXTS], subject.live()
        with bar("runs of the model", 4 * len(few)) as step:
            hook = model.register_forward_hook(lambda *_: step(1))
            try:
                found = replaced(surrogate, model, few, prefix=PREFIX, seed=seed)
            finally:
                hook.remove()
        return Costs(found, surrogate.fvu(fit))

    return run.record(cost_name(layer.number), Costs, measure)


def cost_name(layer: int) -> str:
    """The name of the record of a layer's costs."""
    return f"layer-{layer:03d}/costs"


@torch.no_grad()
def difference(layer: Layer, x: Float[Tensor, "n d"]) -> float:
    """How far the tensor is from what it stands for, as a share of the largest output: rounding, and nothing else."""
    whole: Callable[[Tensor], Tensor] = layer.mlp if layer.surrogate is None else layer.surrogate
    y = whole(x)
    return float((layer.tensor(layer.normalised(x)) - y).abs().max() / y.abs().max())


__all__ = ["TEXTS", "Costs", "Layer", "cost_name", "costs", "difference", "fitted", "from_weights", "opened"]
