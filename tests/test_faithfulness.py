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
from bilens.faithfulness import Curve, Row, Score


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


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_the_baseline_is_a_uniform_guess_among_the_classes_there_are(classes: int) -> None:
    logits = torch.randn(12, classes, generator=torch.Generator().manual_seed(classes)).double()
    labels = torch.arange(12) % classes
    own = 0.5 * math.log(classes)
    found = faithfulness.score(logits, labels, own)
    losses = [math.log(sum(math.exp(v) for v in row)) - row[y] for row, y in zip(logits.tolist(), labels, strict=True)]
    assert found.recovered == pytest.approx((math.log(classes) - sum(losses) / 12) / (0.5 * math.log(classes)))


def test_the_model_itself_needs_no_cross_entropy_of_its_own() -> None:
    labels = torch.arange(9) % 3
    logits = torch.eye(3)[labels] * 4
    own = faithfulness.whole(logits, labels)
    assert (own.accuracy, own.recovered, own.samples) == (1.0, 1.0, 9)
    assert own.cross_entropy == pytest.approx(math.log(1 + 2 * math.exp(-4)))
    half = faithfulness.score(logits / 2, labels, own)
    assert half == faithfulness.score(logits / 2, labels, own.cross_entropy)
    assert half.recovered == pytest.approx(
        (math.log(3) - math.log(1 + 2 * math.exp(-2))) / (math.log(3) - own.cross_entropy)
    )
    assert faithfulness.whole(-logits, labels).recovered is None  # worse than a guess: nothing to recover


def test_scores_and_curves_carry_their_number_of_samples() -> None:
    labels = torch.arange(6) % 3
    scores = [faithfulness.score(torch.randn(6, 3), labels, 0.1) for _ in range(2)]
    curve = Curve.of("eigenvectors", [1, 2000], scores, numbers=[38, 76])
    assert [score.samples for score in scores] == [6, 6]
    assert curve.samples == 6
    assert curve.at(2000) == scores[1]
    assert curve.row(2000) == Row("2,000 eigenvectors", scores[1], 76)
    for many, one in (
        ("eigenvectors kept for each output", "eigenvector kept for each output"),
        ("SVD components kept", "SVD component kept"),
        ("features of the SAE on outputs", "feature of the SAE on outputs"),
        ("bias classes axes units", "bias classes axes unit"),
        ("x² kept", "x² kept"),
    ):
        assert Curve.of(many, [1, 2], scores).row(1).name == f"1 {one}"
        assert Curve.of(many, [1, 2], scores).row(2).name == f"2 {many}"
    with pytest.raises(BilensError, match=r"got scores of 'mixed' on different numbers of samples \(6, unknown\)"):
        Curve.of("mixed", [1, 2], [scores[0], Score(0.5, 1.0, 0.5)])
    with pytest.raises(BilensError, match=r"got 3 of 'eigenvectors'; expected one of 1, 2000"):
        curve.at(3)
    with pytest.raises(BilensError, match=r"got a model scored on 6 samples and a view on 3; expected both"):
        faithfulness.score(torch.eye(3), torch.arange(3), faithfulness.whole(5 * torch.eye(3)[labels], labels))


def test_a_null_stands_beside_the_row_that_it_is_compared_with() -> None:
    score = Score(0.5, 1.0, 0.5, 10)
    null = Row("never trained", score, 20, "null", beside="SAE")
    assert (null.numbers, null.kind, null.beside) == (20, "null", "SAE")
    for wrong, words in (
        (lambda: Row("", score), "got a row without a name"),
        (lambda: Row("a", 0.5), "got score of type float"),
        (lambda: Row("a", score, -1), "got numbers = -1"),
        (lambda: Row("a", score, 1, "other"), "got a row of kind 'other'; expected one of model, view, null, rival"),
        (lambda: Row("a", score, 1, "null"), "got 'a', a null, beside None"),
        (lambda: Row("a", score, 1, "view", "b"), "got 'a', a view, beside 'b'"),
        (lambda: Score(0.5, 1.0, 0.5, 0), "got samples = 0"),
    ):
        with pytest.raises(BilensError, match=words):
            wrong()


@pytest.mark.bad_input
def test_what_is_no_number_has_no_score() -> None:
    labels = torch.tensor([0, 1])
    for value in (math.nan, math.inf, -math.inf):
        logits = torch.tensor([[1.0, 0.0], [0.0, value]])
        for measure in (
            faithfulness.accuracy,
            faithfulness.cross_entropy,
            faithfulness.whole,
            lambda logits, labels: faithfulness.score(logits, labels, 0.1),
        ):
            with pytest.raises(BilensError, match="got logits with NaN or infinity; expected finite numbers"):
                measure(logits, labels)
    for original, words in ((-0.1, "-0.1"), (math.nan, "nan"), (True, "True")):
        with pytest.raises(BilensError, match=f"got original.*{words}"):
            faithfulness.score(torch.eye(2), labels, original)


@pytest.mark.bad_input
def test_bad_input_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"got logits of shape \(3, 2\) and labels of \(2,\); expected .*"):
        faithfulness.accuracy(torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ShapeError, match="got logits"):
        faithfulness.cross_entropy(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(BilensError, match=r"got a model with cross-entropy 3 and a baseline of 2; expected .*"):
        faithfulness.ce_loss_score(1.0, 3.0, 2.0)
    with pytest.raises(ShapeError, match=r"got error of shape \(1,\); expected \(2,\)"):
        Curve.of("kept", [1, 2], [Score(0.1, 1.0, 0.5)] * 2, error=[1.0])


@pytest.mark.parametrize(
    "numbers", [(math.nan, 0.1, 2.3), (0.5, 0.1, math.inf), (0.5, -1.0, 2.3), (-0.5, 0.1, 2.3), (0.5, math.nan, 2.3)]
)
def test_a_cross_entropy_that_is_none_is_refused(numbers) -> None:
    with pytest.raises(BilensError, match="finite number"):
        faithfulness.ce_loss_score(*numbers)


@pytest.mark.parametrize("values", [(math.nan, 0.3, 0.9), (1.2, 0.3, 0.9), (0.5, -3.0, 0.9), (0.5, 0.3, math.inf)])
def test_a_score_of_numbers_that_are_none_is_refused(values) -> None:
    with pytest.raises(BilensError, match="finite number"):
        faithfulness.Score(*values, 3)
