"""What analyses need of a model, each thing computed once: a layer, its read-out, inputs, and a way to evaluate it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens import decompose, faithfulness
from bilens._internal.shown import line
from bilens.analyses.settings import Budget
from bilens.data import Dataset
from bilens.errors import BilensError, ShapeError
from bilens.faithfulness import Curve, Row, Score
from bilens.models import ImageClassifier
from bilens.space import Space
from bilens.tensor import BilinearTensor

EXAMINED = 2000
"""Inputs on which single features are looked at. Scores and curves are measured on all inputs."""

MEASURE = "mean code × ‖effect‖"
"""How much a feature moves the centred outputs on average."""

MEASURED = {
    "Mean code × ‖effect‖": "How large the feature is on average over the training inputs, times the length of its row "
    "of logit weights: how much it moves the logits."
}
"""The same for the page's glossary."""

_KEPT = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 75, 100, 150, 200, 300, 500)

R = TypeVar("R")


@runtime_checkable
class Run(Protocol):
    """Where what was computed is kept: a `store.Folder`, or `Unsaved`."""

    @property
    def path(self) -> Path | None:
        """The folder, None where nothing is written."""

    def record(self, name: str, kind: type[R], compute: Callable[[], R], /) -> R:
        """The record of this name: read when it is there, else computed and kept."""


class Unsaved:
    """A run that writes nothing."""

    path = None

    def record(self, name: str, kind: type[R], compute: Callable[[], R], /) -> R:
        """What is computed."""
        return compute()


@dataclass(frozen=True, eq=False, repr=False)
class Subject:
    """What analyses need of a model with one bilinear layer: input → the layer's outputs → what a read-out makes of it.

    The outputs may be the logits of a classifier, or, with no read-out, what a layer adds to the residual stream of a
    language model: `evaluate` alone knows what the rest of the model does with them.

    Args:
        hidden: input → the layer's outputs, which the read-out reads.
        weight: (o, h), the read-out, the identity when None; bias: (o,), what it adds.
        output: the space of the outputs, the layer's own when None.
        inputs: (m, d), which the model was not trained on, to measure with; None to use the weights alone.
        labels: (m,), the true class of each input, where the outputs are logits. What no prediction depends on, their
            mean, is then taken off.
        evaluate: how well the model does on the inputs when the outputs there are these, (m, o); from the labels when
            None and there are labels, and else nothing is scored.
        training: (n, d), to train SAEs on; the inputs when None.
        layer: the layer's outputs as the model itself computes them; by its tensor when None.
        logits: whether the outputs are logits though there are no labels.
        numbers: how many numbers the layer and the read-out store; those of the tensor when None.
        budget: of the analyses; seed: of everything random.

    Raises:
        ShapeError: inputs of another size, another number of labels, or a read-out that does not fit. BilensError:
            labels and a way to evaluate, or either without inputs.
    """

    hidden: BilinearTensor
    weight: Float[Tensor, "o h"] | None = None
    bias: Float[Tensor, " o"] | None = None
    output: Space | None = None
    inputs: Float[Tensor, "m d"] | None = None
    labels: Int[Tensor, " m"] | None = None
    evaluate: Callable[[Tensor], Score] | None = None
    training: Float[Tensor, "n d"] | None = None
    layer: Callable[[Tensor], Tensor] | None = None
    logits: bool = False
    numbers: int | None = None
    budget: Budget = field(default_factory=Budget)
    seed: int = 0

    __repr__ = line

    def __post_init__(self) -> None:
        size = self.hidden.input.size
        for name, value in (("inputs", self.inputs), ("training inputs", self.training)):
            if value is not None and (value.ndim != 2 or value.shape[1] != size or not len(value)):
                raise ShapeError(f"{name} of shape {tuple(value.shape)}", f"(samples, {size})", "pass one per row")
        if self.inputs is None and (self.labels is not None or self.evaluate is not None):
            raise BilensError("labels or a way to evaluate without inputs", "the inputs that they belong to")
        if self.labels is not None and self.evaluate is not None:
            raise BilensError("labels and a way to evaluate", "one of them")
        if self.labels is not None and self.labels.shape != (len(self.given),):
            raise ShapeError(f"labels of shape {tuple(self.labels.shape)}", f"({len(self.given)},)")
        if self.weight is not None and self.output is None:
            raise BilensError("a read-out without the space of its outputs", "output=Space(…)")

    @property
    def given(self) -> Float[Tensor, "m d"]:
        """The inputs. Raises BilensError when the subject has none."""
        if self.inputs is None:
            raise BilensError("no inputs", "some to measure with", "name a data set, or pass samples")
        return self.inputs

    @property
    def examined(self) -> Float[Tensor, "m d"] | None:
        """The inputs on which single features are looked at; None without inputs."""
        return None if self.inputs is None else self.inputs[:EXAMINED]

    @functools.cached_property
    def outputs(self) -> BilinearTensor:
        """Input → outputs, less what no prediction depends on."""
        tensor = self.hidden
        if self.weight is not None and self.output is not None:
            tensor = tensor.then(self.weight, self.output)
        if self.bias is not None:
            tensor = tensor.shift(self.bias)
        return tensor.centered() if self._logits else tensor

    @functools.cached_property
    def readout(self) -> Float[Tensor, "o h"]:
        """The effects of the layer's outputs: the read-out less what no prediction depends on."""
        weight = torch.eye(self.hidden.output.size).to(self.hidden.down) if self.weight is None else self.weight
        return self._centred(weight)

    @property
    def reach(self) -> Float[Tensor, ""]:
        """The largest norm of a row of the read-out: how far an error of the layer goes."""
        return self.readout.new_ones(()) if self.weight is None else self.weight.norm(dim=1).max()

    @property
    def offset(self) -> Float[Tensor, " o"] | float:
        """What the read-out adds, less what no prediction depends on."""
        return 0.0 if self.bias is None else self._centred(self.bias)

    @property
    def output_effects(self) -> Float[Tensor, "o o"]:
        """What one unit of each output adds to all of them, less what no prediction depends on."""
        return self._centred(torch.eye(self.outputs.output.size))

    @functools.cached_property
    def test_outputs(self) -> Float[Tensor, "m h"]:
        """The layer's outputs on the inputs."""
        return self._layer(self.given)

    @functools.cached_property
    def train_outputs(self) -> Float[Tensor, "n h"]:
        """The layer's outputs on the training inputs."""
        return self._layer(self._training)

    @functools.cached_property
    def second_moment(self) -> Float[Tensor, "i i"]:
        """E[x'x'ᵀ] of the training inputs."""
        return decompose.second_moment(self._training, self.hidden.input)

    @functools.cached_property
    def input_components(self) -> Float[Tensor, "d d"]:
        """Principal components of the training inputs, about 0 as the layer is: eigenvectors of E[x xᵀ], in float64."""
        size = self.hidden.input.size
        return _components(self.second_moment[:size, :size])

    @functools.cached_property
    def output_components(self) -> tuple[Float[Tensor, " h"], Float[Tensor, "h h"]]:
        """The mean of the layer's outputs over the training inputs, and their principal components about it."""
        space, outputs = self.hidden.output.without_constant(), self.train_outputs
        mean = outputs.double().mean(dim=0).to(outputs)
        return mean, _components(decompose.second_moment(outputs - mean, space)).to(outputs)

    @functools.cached_property
    def original(self) -> Score | None:
        """The score of the model itself; None where nothing can be scored."""
        if self.evaluate is not None:
            return self.evaluate(self.read(self.test_outputs))
        return None if self.labels is None else faithfulness.whole(self.read(self.test_outputs), self.labels)

    @property
    def row(self) -> Row | None:
        """The model itself in a table of faithfulness."""
        numbers = self.hidden.numel if self.numbers is None else self.numbers
        return None if self.original is None else Row("the model itself", self.original, numbers, "model")

    def read(self, outputs: Float[Tensor, "n h"]) -> Float[Tensor, "n o"]:
        """What the read-out makes of the layer's outputs, or of what a view makes of them."""
        if self.weight is None:
            return outputs if self.bias is None else outputs + self.bias
        return torch.nn.functional.linear(outputs, self.weight, self.bias)

    def score(self, outputs: Float[Tensor, "m o"]) -> Score:
        """How well the model does on its inputs when its outputs there are these.

        Raises:
            BilensError: there are neither labels nor a way to evaluate.
        """
        if self.evaluate is not None:
            return self.evaluate(outputs)
        if self.labels is None or self.original is None:
            raise BilensError("no labels", "the class of each input, or a way to evaluate", "pass one of them")
        return faithfulness.score(outputs, self.labels, self.original)

    @property
    def _logits(self) -> bool:
        return self.logits or self.labels is not None

    @property
    def _training(self) -> Tensor:
        return self.given if self.training is None else self.training

    def _centred(self, rows: Tensor) -> Tensor:
        return rows - rows.mean(dim=0) if self._logits else rows

    def _layer(self, inputs: Tensor) -> Tensor:
        layer = self.hidden if self.layer is None else self.layer
        with torch.no_grad():
            return torch.cat([layer(part) for part in torch.split(inputs, 4096)])


def of_classifier(model: ImageClassifier, dataset: Dataset | None, budget: Budget, seed: int = 0) -> Subject:
    """An image classifier with one bilinear layer.

    Args:
        model: the classifier; dataset: its images, or None to use the weights alone.
        budget: of the analyses; seed: of everything random.
    """
    bias = model.readout.bias
    return Subject(
        model.hidden_tensor(),
        model.readout.weight.detach(),
        None if bias is None else bias.detach(),
        model.output,
        inputs=None if dataset is None else dataset.test.images,
        labels=None if dataset is None else dataset.test.labels,
        training=None if dataset is None else dataset.train.images,
        layer=model.hidden_outputs,
        logits=True,
        numbers=sum(value.numel() for value in model.parameters()),
        budget=budget,
        seed=seed,
    )


def _components(moment: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """Eigenvectors of a second moment, one per row, largest first."""
    vectors: Tensor = torch.linalg.eigh(moment.double()).eigenvectors.T.flip(0).contiguous()
    return vectors


def kept(most: int) -> list[int]:
    """The points of a curve: the usual numbers of components below `most`, and `most` itself."""
    return [k for k in _KEPT if k < most] + [most]


def scored(curve: Curve, counts: tuple[int, ...]) -> tuple[tuple[Row, int], ...]:
    """The rows of a table at these points of a curve, with the points; of a small model, which has none of them, at its
    first ones."""
    measured = [k for k in counts if k in curve.kept.tolist()] or curve.kept.tolist()[:2]
    return tuple((curve.row(k), k) for k in measured)
