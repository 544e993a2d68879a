"""How faithful a view of a model is: accuracy and cross-entropy with the layer replaced by it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from numbers import Real
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens._internal import checks
from bilens._internal.checks import instance, number
from bilens._internal.checks import whole as whole_number
from bilens._internal.shown import line
from bilens.errors import BilensError, ShapeError

_PLURAL = re.compile(r"(?<=[a-z]{2})(?<![suia])(?<!sse)(?<!xe)s\b")
"""The s that makes a word a plural, but for words such as "bias" and "class"."""


@dataclass(frozen=True)
class Score:
    """How well logits predict labels, beside what the whole model does.

    Args:
        accuracy: share of samples whose largest logit is their label, 0 … 1.
        cross_entropy: mean −log softmax(logits)[label], in nats.
        recovered: `ce_loss_score`, 1 for the model itself and 0 for the baseline; None where the model is no better
            than the baseline, so that there is nothing to recover.
        samples: how many samples it was measured on; None where that is not known.

    Raises:
        BilensError: numbers that are not finite or out of range, or a number of samples below 1.
    """

    accuracy: float
    cross_entropy: float
    recovered: float | None
    samples: int | None = None

    def __post_init__(self) -> None:
        number("accuracy", self.accuracy, 0, 1)
        number("cross-entropy", self.cross_entropy, 0)
        if self.recovered is not None:
            number("recovered", self.recovered)
        if self.samples is not None:
            object.__setattr__(self, "samples", whole_number("samples", self.samples, 1))


@dataclass(frozen=True)
class TextScore:
    """How far a language model is from its original, on the same texts; each ± is a standard error over texts.

    Args:
        original: cross-entropy of the original, in nats per token.
        delta_ce: how much more the model's is; delta_ce_error: ±.
        kl: mean KL divergence from the original's distribution of the next token to the model's, in nats; kl_error: ±.
        agreement: share of tokens at which both find the same next token likeliest; agreement_error: ±.
        texts, tokens: how many it was measured on.

    Raises:
        BilensError: numbers that are not finite, or no text.
    """

    original: float
    delta_ce: float
    delta_ce_error: float
    kl: float
    kl_error: float
    agreement: float
    agreement_error: float
    texts: int
    tokens: int

    def __post_init__(self) -> None:
        for name in ("original", "delta_ce", "delta_ce_error", "kl", "kl_error", "agreement", "agreement_error"):
            object.__setattr__(self, name, number(name, getattr(self, name)))
        for name in ("texts", "tokens"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), 1))

    @classmethod
    def of_texts(cls, values: Float[Tensor, "n 4"], tokens: int) -> TextScore:
        """From (cross-entropy of the original, of the model, KL, agreement) of each text, at least two.

        Args:
            values: means over the tokens of a text, one row per text; tokens: of all texts together.
        """
        original, ours, kl, agreement = values.double().T
        pairs = [(part.mean(), part.std() / math.sqrt(len(part))) for part in (ours - original, kl, agreement)]
        (more, more_error), (far, far_error), (same, same_error) = (map(float, pair) for pair in pairs)
        whole = float(original.mean())
        return cls(whole, more, more_error, far, far_error, same, same_error, len(values), tokens)


Kind = Literal["model", "view", "null", "rival"]
"""The model itself; a view of it; what the same procedure gives without its content; another way at the same cost."""


@dataclass(frozen=True)
class Row:
    """One line of a table of faithfulness.

    Args:
        name: what the model was replaced by; score: how it does then.
        numbers: how many numbers must be stored for it, the place of one among many counting as one more; None where
            that is not known.
        kind: the model itself, a view of it, a null (the same procedure without its content, for example an untrained
            dictionary), or a rival (another way to the same end).
        beside: the name of the row that a null or a rival is to be compared with; None for the others.

    Raises:
        BilensError: no name, a negative count, an unknown kind, a null or a rival beside nothing, or the model or a
            view beside something.
    """

    name: str
    score: Score
    numbers: int | None = None
    kind: Kind = "view"
    beside: str | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise BilensError("a row without a name", "what the model was replaced by")
        instance("score", self.score, Score)
        if self.numbers is not None:
            object.__setattr__(self, "numbers", whole_number("numbers", self.numbers, 0))
        if self.kind not in get_args(Kind):
            raise BilensError(f"a row of kind {self.kind!r}", f"one of {', '.join(get_args(Kind))}")
        if (self.beside is not None) != (self.kind in ("null", "rival")):
            raise BilensError(
                f"{self.name!r}, a {self.kind}, beside {self.beside!r}",
                "a null or a rival beside the row that it is compared with, and others beside none",
            )


@dataclass(frozen=True, eq=False, repr=False)
class Curve:
    """Scores against how many components a view keeps, with the certificate beside the measured error where one exists.

    Args:
        name: what is kept; kept: (n,), how many.
        accuracy: (n,), 0 … 1; cross_entropy: (n,), nats; recovered: (n,), 1 for the whole model, or
            None where the model is no better than the baseline.
        error: (n,), largest measured |logit − its reconstruction| over the samples, or None.
        bound: (n,), the certificate for the same samples, or None.
        samples: how many samples every point was measured on; None where that is not known.
        numbers: (n,), how many numbers must be stored for each point, the place of one among many counting as one more;
            None where that is not known.
        beside: the name of the curve that this one, a null or a rival, is to be compared with; None for the others.

    Raises:
        ShapeError: columns of different lengths. BilensError: a number of samples below 1.
    """

    name: str
    kept: Int[Tensor, " n"]
    accuracy: Float[Tensor, " n"]
    cross_entropy: Float[Tensor, " n"]
    recovered: Float[Tensor, " n"] | None
    error: Float[Tensor, " n"] | None = None
    bound: Float[Tensor, " n"] | None = None
    samples: int | None = None
    numbers: Int[Tensor, " n"] | None = None
    beside: str | None = None

    __repr__ = line

    def __post_init__(self) -> None:
        checks.shapes(self)
        if self.samples is not None:
            object.__setattr__(self, "samples", whole_number("samples", self.samples, 1))

    @classmethod
    def of(
        cls,
        name: str,
        kept: list[int],
        scores: list[Score],
        *,
        error: list[float] | None = None,
        bound: list[float] | None = None,
        numbers: list[int] | None = None,
        beside: str | None = None,
    ) -> Curve:
        """The curve of these scores, one for each number of kept components, all measured on as many samples.

        Raises:
            BilensError: scores that were measured on different numbers of samples. ShapeError: see the class.
        """
        samples = {score.samples for score in scores}
        if len(samples) > 1:
            listed = ", ".join(sorted("unknown" if count is None else f"{count:,}" for count in samples))
            raise BilensError(
                f"scores of {name!r} on different numbers of samples ({listed})",
                "one number of samples for a curve",
                "measure all points on the same samples",
            )
        recovered = [score.recovered for score in scores]
        return cls(
            name,
            torch.tensor(kept, dtype=torch.int64),
            torch.tensor([score.accuracy for score in scores], dtype=torch.float64),
            torch.tensor([score.cross_entropy for score in scores], dtype=torch.float64),
            None if None in recovered else torch.tensor(recovered, dtype=torch.float64),
            None if error is None else torch.tensor(error, dtype=torch.float64),
            None if bound is None else torch.tensor(bound, dtype=torch.float64),
            samples.pop() if samples else None,
            None if numbers is None else torch.tensor(numbers, dtype=torch.int64),
            beside,
        )

    def at(self, k: int) -> Score:
        """The score at k components.

        Raises:
            BilensError: the curve was not measured there.
        """
        if k not in self.kept.tolist():
            raise BilensError(f"{k} of {self.name!r}", f"one of {', '.join(map(str, self.kept.tolist()))}")
        place = self.kept.tolist().index(k)
        recovered = None if self.recovered is None else float(self.recovered[place])
        return Score(float(self.accuracy[place]), float(self.cross_entropy[place]), recovered, self.samples)

    def row(self, k: int) -> Row:
        """The row of a table at k components, under the name "k name", its first plural made singular for k = 1.

        Raises:
            BilensError: the curve was not measured there, or is a null or a rival, whose kind it does not say.
        """
        score = self.at(k)
        numbers = None if self.numbers is None else int(self.numbers[self.kept.tolist().index(k)])
        name = _PLURAL.sub("", self.name, count=1) if k == 1 else self.name
        return Row(f"{k:,} {name}", score, numbers)


def accuracy(logits: Float[Tensor, "n classes"], labels: Int[Tensor, " n"]) -> float:
    """Share of samples whose largest logit is their label, 0 … 1.

    Examples:
        >>> accuracy(torch.tensor([[2.0, 1.0], [3.0, 5.0]]), torch.tensor([0, 0]))
        0.5
    """
    _check(logits, labels)
    return float((logits.argmax(dim=1) == labels).double().mean())


def cross_entropy(logits: Float[Tensor, "n classes"], labels: Int[Tensor, " n"]) -> float:
    """Mean −log softmax(logits)[label], in nats; float64 inside.

    Examples:
        >>> round(cross_entropy(torch.zeros(3, 2), torch.tensor([0, 1, 1])), 4)  # a guess among two: ln 2
        0.6931
    """
    _check(logits, labels)
    return float(torch.nn.functional.cross_entropy(logits.double(), labels.long()))


def ce_loss_score(loss: float, original: float, baseline: float) -> float:
    """Cross-entropy recovered: (baseline − loss) / (baseline − original), 1 for the model itself, 0 for the baseline.

    Args:
        loss: cross-entropy through the view; original: of the model itself; baseline: of knowing nothing, for example
            ln(classes) for a uniform guess. Name the baseline wherever the number is shown.

    Raises:
        BilensError: a number below 0 or not finite, or a model that is not better than the baseline, so that there is
            nothing to recover.

    Source: SAELens, `ce_loss_score`; founding draft, baseline ln 10.
    """
    for name, value in (("loss", loss), ("original", original), ("baseline", baseline)):
        instance(name, value, Real, "a number", "pass nats")
        number(name, value, 0)
    if not baseline > original:
        raise BilensError(
            f"a model with cross-entropy {original:.4g} and a baseline of {baseline:.4g}",
            "a model better than its baseline",
            "train the model, or choose another baseline",
        )
    return (baseline - loss) / (baseline - original)


def whole(logits: Float[Tensor, "n classes"], labels: Int[Tensor, " n"]) -> Score:
    """The score of the model itself, given its own logits: cross-entropy recovered is 1 by definition.

    Raises:
        ShapeError, BilensError: as `score`.
    """
    loss, baseline = cross_entropy(logits, labels), math.log(logits.shape[1])
    return Score(accuracy(logits, labels), loss, 1.0 if loss < baseline else None, len(labels))


def score(logits: Float[Tensor, "n classes"], labels: Int[Tensor, " n"], original: Score | float) -> Score:
    """Accuracy, cross-entropy, and cross-entropy recovered against the uniform guess ln(classes).

    Examples:
        >>> labels, logits = torch.tensor([0, 1]), torch.tensor([[4.0, 0.0], [0.0, 4.0]])
        >>> half = score(logits / 2, labels, whole(logits, labels))  # every logit at half its size
        >>> half.accuracy, round(half.cross_entropy, 3), round(half.recovered, 3), half.samples
        (1.0, 0.127, 0.839, 2)

    Args:
        logits: through the view; labels: true classes.
        original: the model's own score on the same samples, `whole(model(x), labels)`, or its cross-entropy, nats. A
            model that is no better than the guess has nothing to recover, whatever its accuracy: None.

    Raises:
        ShapeError: logits and labels that do not fit together. BilensError: NaN or infinity, labels that are no
            classes, a negative cross-entropy, or a score of the model on another number of samples.
    """
    loss, baseline = cross_entropy(logits, labels), math.log(logits.shape[1])
    if isinstance(original, Score):
        if original.samples not in (None, len(labels)):
            raise BilensError(
                f"a model scored on {original.samples:,} samples and a view on {len(labels):,}",
                "both scored on the same samples",
            )
        original = original.cross_entropy
    instance("original", original, Real, "a score or a number", "pass whole(model(x), labels)")
    own = number("original", original, 0)
    recovered = ce_loss_score(loss, own, baseline) if own < baseline else None
    return Score(accuracy(logits, labels), loss, recovered, len(labels))


def _check(logits: Tensor, labels: Tensor) -> None:
    checks.floating("logits", logits)
    checks.in_memory("logits", logits)
    instance("labels", labels, Tensor)
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or len(labels) == 0:
        raise ShapeError(
            f"logits of shape {tuple(logits.shape)} and labels of {tuple(labels.shape)}",
            "(n, classes) and (n,) with n ≥ 1",
        )
    if not bool(torch.isfinite(logits).all()):
        raise BilensError("logits with NaN or infinity", "finite numbers")
    checks.integers("labels", labels, 0, logits.shape[1] - 1, hint="number the classes from 0")
    checks.on_device("labels", labels, logits)
