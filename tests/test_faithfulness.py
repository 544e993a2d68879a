"""Faithfulness: the formulas against numpy, and the cases that have no answer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bilens import faithfulness
from bilens.errors import BilensError, ShapeError
from bilens.faithfulness import Curve, Score


@given(st.integers(1, 20), st.integers(2, 6), st.integers(0, 10**6))
def test_accuracy_and_cross_entropy_are_the_textbook_ones(n: int, classes: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    logits, labels = random.normal(size=(n, classes)) * 3, random.integers(0, classes, n)
    losses, right = [], []
    for row, label in zip(logits, labels, strict=True):
        losses.append(math.log(sum(math.exp(value) for value in row)) - row[label])
        right.append(max(range(classes), key=lambda c: row[c]) == label)
    given_logits, given_labels = torch.tensor(logits), torch.tensor(labels)
    assert faithfulness.cross_entropy(given_logits, given_labels) == pytest.approx(sum(losses) / n, abs=1e-12)
    assert faithfulness.accuracy(given_logits, given_labels) == pytest.approx(sum(right) / n)


@given(st.floats(0.01, 2), st.floats(0.01, 5))
def test_recovered_is_1_for_the_model_and_0_for_the_baseline(original: float, gap: float) -> None:
    baseline = original + gap
    assert faithfulness.ce_loss_score(original, original, baseline) == pytest.approx(1)
    assert faithfulness.ce_loss_score(baseline, original, baseline) == pytest.approx(0)
    assert faithfulness.ce_loss_score(original + gap / 4, original, baseline) == pytest.approx(0.75)


def test_a_uniform_guess_recovers_nothing() -> None:
    score = faithfulness.score(torch.zeros(4, 10), torch.arange(4), 0.1)
    assert score.recovered == pytest.approx(0, abs=1e-12)
    assert score.cross_entropy == pytest.approx(math.log(10))


def test_one_shift_of_all_logits_changes_no_score() -> None:
    logits = torch.randn(9, 5, generator=torch.Generator().manual_seed(0)).double()
    labels = torch.arange(9) % 5
    shift = torch.arange(9.0).double()[:, None]
    before, after = (faithfulness.score(value, labels, 0.1) for value in (logits, logits + shift))
    assert before.accuracy == after.accuracy
    assert before.cross_entropy == pytest.approx(after.cross_entropy, abs=1e-12)


@pytest.mark.bad_input
def test_bad_input_is_told() -> None:
    with pytest.raises(ShapeError, match=r"got logits of shape \(3, 2\) and labels of \(2,\); expected .*"):
        faithfulness.accuracy(torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ShapeError, match="got logits"):
        faithfulness.cross_entropy(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(BilensError, match=r"got a model with cross-entropy 3 and a baseline of 2; expected .*"):
        faithfulness.ce_loss_score(1.0, 3.0, 2.0)
    with pytest.raises(ShapeError, match=r"got error of shape \(1,\); expected \(2,\)"):
        Curve.of("kept", [1, 2], [Score(0.1, 1.0, 0.5)] * 2, error=[1.0])
