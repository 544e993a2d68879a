"""How faithful a view of a model is: accuracy and cross-entropy when the model runs through it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens.checks import instance
from bilens.errors import BilensError, ShapeError


@dataclass(frozen=True)
class Score:
    """How well logits predict labels, beside what the whole model does.

    Args:
        accuracy: share of samples whose largest logit is their label, 0 … 1.
        cross_entropy: mean −log softmax(logits)[label], in nats.
        recovered: `ce_loss_score`, 1 for the model itself and 0 for the baseline; None where the model is no better
            than the baseline, so that there is nothing to recover.
    """

    accuracy: float
    cross_entropy: float
    recovered: float | None


@dataclass(frozen=True, eq=False)
class Curve:
    """Scores against how many components a view keeps, with the certificate beside the measured error where one exists.

    Args:
        name: what is kept; kept: (n,), how many.
        accuracy: (n,), 0 … 1; cross_entropy: (n,), nats; recovered: (n,), 1 for the whole model, or
            None where the model is no better than the baseline.
        error: (n,), largest measured |logit − its reconstruction| over the samples, or None.
        bound: (n,), the certificate for the same samples, or None.

    Raises:
        ShapeError: columns of different lengths.
    """

    name: str
    kept: Int[Tensor, " n"]
    accuracy: Float[Tensor, " n"]
    cross_entropy: Float[Tensor, " n"]
    recovered: Float[Tensor, " n"] | None
    error: Float[Tensor, " n"] | None = None
    bound: Float[Tensor, " n"] | None = None

    def __post_init__(self) -> None:
        for name in ("accuracy", "cross_entropy", "recovered", "error", "bound"):
            column = getattr(self, name)
            if column is not None and column.shape != self.kept.shape:
                raise ShapeError(f"{name} of shape {tuple(column.shape)}", f"({len(self.kept)},)")

    @classmethod
    def of(
        cls,
        name: str,
        kept: list[int],
        scores: list[Score],
        *,
        error: list[float] | None = None,
        bound: list[float] | None = None,
    ) -> Curve:
        """The curve of these scores, one for each number of kept components."""
        recovered = [score.recovered for score in scores]
        return cls(
            name,
            torch.tensor(kept, dtype=torch.int64),
            torch.tensor([score.accuracy for score in scores], dtype=torch.float64),
            torch.tensor([score.cross_entropy for score in scores], dtype=torch.float64),
            None if None in recovered else torch.tensor(recovered, dtype=torch.float64),
            None if error is None else torch.tensor(error, dtype=torch.float64),
            None if bound is None else torch.tensor(bound, dtype=torch.float64),
        )


def accuracy(logits: Float[Tensor, "n classes"], labels: Int[Tensor, " n"]) -> float:
    """Share of samples whose largest logit is their label, 0 … 1."""
    _check(logits, labels)
    return float((logits.argmax(dim=1) == labels).double().mean())


def cross_entropy(logits: Float[Tensor, "n classes"], labels: Int[Tensor, " n"]) -> float:
    """Mean −log softmax(logits)[label], in nats; float64 inside."""
    _check(logits, labels)
    return float(torch.nn.functional.cross_entropy(logits.double(), labels.long()))


def ce_loss_score(loss: float, original: float, baseline: float) -> float:
    """Cross-entropy recovered: (baseline − loss) / (baseline − original), 1 for the model itself, 0 for the baseline.

    Args:
        loss: cross-entropy through the view; original: of the model itself; baseline: of knowing nothing, for example
            ln(classes) for a uniform guess. Name the baseline wherever the number is shown.

    Raises:
        BilensError: the model is not better than the baseline, so that there is nothing to recover.

    Source: SAELens, `ce_loss_score`; founding draft, baseline ln 10.
    """
    for name, value in (("loss", loss), ("original", original), ("baseline", baseline)):
        instance(name, value, Real, "a number", "pass nats")
    if not baseline > original:
        raise BilensError(
            f"a model with cross-entropy {original:.4g} and a baseline of {baseline:.4g}",
            "a model better than its baseline",
            "train the model, or choose another baseline",
        )
    return (baseline - loss) / (baseline - original)


def score(logits: Float[Tensor, "n classes"], labels: Int[Tensor, " n"], original: float) -> Score:
    """Accuracy, cross-entropy, and cross-entropy recovered against the uniform guess ln(classes).

    Args:
        logits: through the view; labels: true classes; original: the model's own cross-entropy, nats. A model
            that is no better than the guess has nothing to recover, whatever its accuracy: None.
    """
    instance("original", original, Real, "a number", "pass the model's own cross-entropy")
    loss, baseline = cross_entropy(logits, labels), math.log(logits.shape[1])
    recovered = ce_loss_score(loss, original, baseline) if original < baseline else None
    return Score(accuracy(logits, labels), loss, recovered)


def _check(logits: Tensor, labels: Tensor) -> None:
    instance("logits", logits, Tensor)
    instance("labels", labels, Tensor)
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or len(labels) == 0:
        raise ShapeError(
            f"logits of shape {tuple(logits.shape)} and labels of {tuple(labels.shape)}",
            "(n, classes) and (n,) with n ≥ 1",
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise BilensError(f"labels of type {labels.dtype}", "whole numbers", "convert them with .long()")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= logits.shape[1]:
        raise BilensError(f"labels from {low} to {high}", f"0 to {logits.shape[1] - 1}, one a class")
