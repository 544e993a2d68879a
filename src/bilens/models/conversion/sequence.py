"""The conversion of one layer after another, each on the activations of the model converted so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Int
from torch import Tensor

from bilens._internal.checks import instance, number, seed, whole
from bilens._internal.device import product_type
from bilens.errors import BilensError, ShapeError
from bilens.faithfulness import TextScore
from bilens.models.conversion._closed_form import closed_form
from bilens.models.conversion._descent import descended
from bilens.models.conversion.layer import ConvertedMLP
from bilens.models.conversion.measure import Evaluation, scored
from bilens.models.conversion.stack import Stack
from bilens.models.conversion.streams import Streams, added
from bilens.progress import Step

TEXTS = 4
"""Texts of a part that the model converted so far is run on after each layer."""


@dataclass(frozen=True, eq=False, repr=False)
class ConvertedLayer:
    """A layer's conversion, and how far the model is from its original with the layers up to this one converted.

    Errors are means over tokens of ‖error‖² / ‖t‖², of the residual stream after the layer.

    Args:
        mlp: the conversion.
        ridge: what was chosen for D and the linear map; refitted: whether D was fitted anew.
        steps: of Adam that were kept, 0 where they did not help.
        closed: error of the closed form on tokens that were set aside; checked: of the conversion there.
        fitted, held_out: its error on the tokens it was fitted to, and on those that nothing was fitted to.
        fit_score, score: the model converted so far, on texts it was fitted to, and on held-out ones.
        null: the same with the mean of this layer's output instead of its conversion, on held-out texts.
        deltas: ΔCE of each text that `score` is of; None in records of before they were kept.

    Raises:
        BilensError: numbers that are not finite, or negative errors. ShapeError: another number of deltas than texts.
    """

    mlp: ConvertedMLP
    ridge: float
    refitted: bool
    steps: int
    closed: float
    checked: float
    fitted: float
    held_out: float
    fit_score: TextScore
    score: TextScore
    null: TextScore
    deltas: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        instance("mlp", self.mlp, ConvertedMLP)
        for name in ("ridge", "closed", "checked", "fitted", "held_out"):
            object.__setattr__(self, name, number(name, getattr(self, name), 0))
        object.__setattr__(self, "steps", whole("steps", self.steps, 0))
        if self.deltas is not None:
            object.__setattr__(self, "deltas", tuple(number("one of the deltas", value) for value in self.deltas))
            if len(self.deltas) != self.score.texts:
                raise ShapeError(f"{len(self.deltas)} deltas of {self.score.texts} texts", "one for each text")

    def __repr__(self) -> str:
        """For example "ConvertedLayer(layer 3, error 0.034, 0.061 held out, ΔCE +0.0821 ± 0.0120)"."""
        return (
            f"ConvertedLayer(layer {self.mlp.layer}, error {self.fitted:.3g}, {self.held_out:.3g} held out, "
            f"ΔCE {self.score.delta_ce:+.4f} ± {self.score.delta_ce_error:.4f})"
        )


class Sequence:
    """A model that is converted layer by layer, from the first on.

    Args:
        stack: the model; fit: texts to fit to, one per row; held_out: texts to measure on.
        steps: of Adam per layer, 0 for the closed form alone; random: seed of the order of tokens.
        precision: "bfloat16" rounds the factors of the steps' products to it.
        texts: how many texts of a part the model is run on after each layer.

    Attributes:
        streams: the texts at the layer that comes next; next: its number.

    Raises:
        ShapeError: as `Streams`. BilensError: a number below 0, or a model whose layers do not add their MLP's output.
    """

    def __init__(
        self,
        stack: Stack,
        fit: Int[Tensor, "n t"],
        held_out: Int[Tensor, "k t"],
        *,
        steps: int = 0,
        random: int = 0,
        precision: Literal["bfloat16"] | None = None,
        texts: int = TEXTS,
    ) -> None:
        self.stack, self.steps, self.random = stack, whole("steps", steps, 0), seed(random)
        product_type(precision, stack.device)
        self.precision = precision
        self.streams, self.next = Streams(stack, fit, held_out), 0
        stack.check(fit[:1].to(stack.device))
        self.streams.begin()
        texts = whole("texts", texts, 2)
        self._fit, self._held_out = (Evaluation(stack, self.streams, name, texts) for name in ("fit", "held_out"))

    def skip(self, converted: ConvertedMLP | None) -> None:
        """Go past the next layer: with a conversion that is there already, or with the model's own MLP."""
        layer = self.next
        if converted is not None and converted.layer != layer:
            raise BilensError(f"the conversion of layer {converted.layer}", f"that of layer {layer}")
        self.streams.enter(layer)
        self.streams.leave(self.stack.mlp(layer), converted)
        self.next += 1

    def convert(self, step: Step | None = None) -> ConvertedLayer:
        """Convert the next layer.

        Args:
            step: is called after each step of Adam.
        """
        layer, streams = self.next, self.streams
        mlp = self.stack.mlp(layer)
        streams.enter(layer)
        closed = closed_form(mlp, streams)
        found, checked, before, steps = descended(
            closed, mlp, streams, steps=self.steps, seed=self.random, precision=self.precision, step=step
        )
        null = self._held_out.score(self._with_mean(closed.mean, len(self._held_out.tokens)), layer + 1)
        streams.leave(mlp, found)
        self.next += 1
        values = self._held_out.per_text(streams.parts["held_out"].ours, layer + 1)
        return ConvertedLayer(
            mlp=found,
            ridge=closed.ridge,
            refitted=closed.refitted,
            steps=steps,
            closed=before,
            checked=checked,
            fitted=streams.error("fit"),
            held_out=streams.error("held_out"),
            fit_score=self._fit.score(streams.parts["fit"].ours, layer + 1),
            score=scored(values, self._held_out.tokens.shape[1]),
            null=null,
            deltas=tuple((values[:, 1] - values[:, 0]).tolist()),
        )

    def _with_mean(self, mean: Tensor, count: int) -> Tensor:
        """The first held-out texts after the next layer, if its MLP gave its mean everywhere but at a first token."""
        part, mlp = self.streams.parts["held_out"], self.stack.mlp(self.next)
        x, prefix = part.ours[:count], self.streams.prefix
        after = x + (mean if mlp.post_norm is None else mlp.post_norm(mean))
        after[:, :prefix] = added(mlp, None, x[:, :prefix])
        return after


__all__ = ["TEXTS", "ConvertedLayer", "Sequence"]
