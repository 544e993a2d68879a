"""What stands beside digits, SVD and the SAE on outputs, against NumPy: every output scored, and its numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from bilens import BilinearTensor, Space
from bilens.analyses import _nulls as nulls
from bilens.analyses.components import singular_values
from bilens.analyses.digits import output_directions
from bilens.analyses.inputs import pair_features
from bilens.analyses.outputs import output_features
from bilens.analyses.settings import Budget
from bilens.analyses.subject import Subject, Unsaved
from bilens.faithfulness import Curve, Row, Score
from bilens.features import FeatureSet, table

D, H, CLASSES, N = 5, 6, 3, 40
Array = NDArray[np.float64]


class Recorded:
    """A subject whose evaluation keeps what it is given."""

    def __init__(self, *, bias: bool = True) -> None:
        generator = torch.Generator().manual_seed(3)

        def drawn(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.x, self.train = drawn(N, D), drawn(90, D) * torch.tensor([3.0, 2.0, 1.0, 0.5, 0.1], dtype=torch.float64)
        left_bias, right_bias = (drawn(H), drawn(H)) if bias else (None, None)
        hidden = BilinearTensor.from_layer(
            drawn(H, D),
            drawn(H, D),
            input=Space("x", D),
            output=Space("h", H),
            left_bias=left_bias,
            right_bias=right_bias,
        )
        self.weight, self.bias = drawn(CLASSES, H), drawn(CLASSES) if bias else None
        self.said: list[Array] = []
        self.subject = Subject(
            hidden,
            self.weight,
            self.bias,
            Space("classes", CLASSES),
            inputs=self.x,
            evaluate=self.evaluate,
            training=self.train,
            budget=Budget(count=3, sae_features=12, sae_steps=15, pair_features=5, pair_steps=9),
        )
        self.outputs = hidden(self.x).numpy()
        self.training = hidden(self.train).numpy()

    def evaluate(self, outputs: Tensor) -> Score:
        """A score that tells which outputs it is of."""
        self.said.append(outputs.double().numpy())
        return Score(0.5, float(len(self.said)), 0.5, N)

    def of(self, score: Score) -> Array:
        """The outputs that were scored so."""
        return self.said[round(score.cross_entropy) - 1]

    def read(self, outputs: Array) -> Array:
        """Logits of the layer's outputs."""
        read: Array = outputs @ self.weight.numpy().T + (0 if self.bias is None else self.bias.numpy())
        return read


def curves(found: FeatureSet) -> dict[str, Curve]:
    return {curve.name: curve for curve in found.curves}


def components(x: Array) -> Array:
    """Principal components by SVD."""
    found: Array = np.linalg.svd(x, full_matrices=False)[2]
    return found


@pytest.mark.parametrize("bias", [True, False])
def test_beside_eigenvectors(bias: bool) -> None:
    recorded = Recorded(bias=bias)
    subject, size = recorded.subject, D + bias
    found = curves(output_directions(subject, Unsaved()))
    ours = found["eigenvectors kept for each output"]
    random, principal = found[nulls.RANDOM_VECTORS], found[nulls.COMPONENTS_OF_INPUTS]
    assert random.beside == principal.beside == ours.name
    assert random.numbers is not None
    assert principal.numbers is not None
    assert random.numbers.tolist() == [CLASSES * k * (size + 1) for k in random.kept.tolist()]
    folded = np.concatenate([recorded.x.numpy(), np.ones((N, 1))], axis=1)[:, :size]
    # At any k the fit is the nearest matrix in the span of the v vᵀ; what it leaves is orthogonal to that span.
    for place, k in enumerate(random.kept.tolist()):
        outputs = recorded.of(random.at(k))
        for o in range(CLASSES):
            rows = nulls._orthonormal(size, size, subject.seed + o).numpy()[:k]
            np.testing.assert_allclose(rows @ rows.T, np.eye(k), atol=1e-12)
            matrices = np.stack([np.outer(v, v).ravel() for v in rows], axis=1)
            dense = subject.outputs.kernel(o).dense().numpy().ravel()
            weights = np.linalg.lstsq(matrices, dense, rcond=None)[0]
            np.testing.assert_allclose(outputs[:, o], (folded @ rows.T) ** 2 @ weights, atol=1e-9)
        assert place + 1 == k
    rows = components(recorded.train.numpy())
    for place, k in enumerate(principal.kept.tolist()):
        between = torch.from_numpy(recorded.x.numpy() @ rows[:k].T @ rows[:k])
        expected = recorded.read(subject.hidden(between).numpy())
        np.testing.assert_allclose(recorded.of(principal.at(k)), expected, atol=1e-9)
        assert principal.numbers[place] == k * D + CLASSES * (k + bias) * (k + bias + 1) // 2


def test_beside_svd_components() -> None:
    recorded = Recorded()
    subject = recorded.subject
    found = curves(singular_values(subject, Unsaved()))
    ours, random, principal = (
        found["SVD components kept"],
        found[nulls.RANDOM_OUTPUTS],
        found["principal components of the outputs"],
    )
    assert random.beside == principal.beside == ours.name
    mean = recorded.training.mean(axis=0)
    rows = components(recorded.training - mean)
    factors = 2 * H * (D + 1)
    assert ours.numbers is not None
    assert principal.numbers is not None
    for place, k in enumerate(principal.kept.tolist()):
        projected = (recorded.outputs - mean) @ rows[:k].T @ rows[:k] + mean
        np.testing.assert_allclose(recorded.of(principal.at(k)), recorded.read(projected), atol=1e-9)
        assert principal.numbers[place] == ours.numbers[place] + CLASSES == factors + k * (H + CLASSES) + CLASSES
    # A projection on k of the layer's H output directions, the same ones and more at the next k.
    whole = recorded.read(recorded.outputs)
    ranks = [
        np.linalg.matrix_rank(recorded.of(random.at(k)) - recorded.read(np.zeros((1, H)))) for k in random.kept.tolist()
    ]
    assert ranks == [min(k, CLASSES) for k in random.kept.tolist()]
    np.testing.assert_allclose(recorded.of(random.at(H)), whole, atol=1e-9)
    assert np.abs(recorded.of(random.at(2)) - recorded.of(ours.at(2))).max() > 0.1


def test_beside_the_sae_on_outputs() -> None:
    recorded = Recorded()
    subject = recorded.subject
    found = output_features(subject, Unsaved())
    rows = {row.name: row for row in found.scores}
    trained = rows["SAE on outputs, ReLU codes"]
    (inverse,) = (row for row in found.scores if "pseudoinverse" in row.name)
    mean = recorded.training.mean(axis=0)
    k = max(round(found.numbers["l0"]), 1)
    principal = components(recorded.training - mean)
    codes = (recorded.outputs - mean) @ principal.T
    sparse = np.zeros_like(codes)
    for sample in range(N):
        for place in sorted(range(H), key=lambda p: -abs(codes[sample, p]))[:k]:
            sparse[sample, place] = codes[sample, place]
    (rival,) = (row for row in found.scores if row.beside == trained.name and row.kind == "rival")
    np.testing.assert_allclose(recorded.of(rival.score), recorded.read(sparse @ principal + mean), atol=1e-9)
    (null,) = (row for row in found.scores if row.beside == trained.name and row.kind == "null")
    assert null.numbers == rival.numbers == 2 * H * (D + 1) + H * (H + 1 + CLASSES) + CLASSES

    drawn = curves(found)[nulls.DRAWN]
    chosen = torch.randperm(90, generator=torch.Generator().manual_seed(subject.seed))
    for count in drawn.kept.tolist():
        atoms = recorded.training[chosen[:count].numpy()] - mean
        fit = np.linalg.lstsq(atoms.T, (recorded.outputs - mean).T, rcond=None)[0]
        expected = recorded.read((atoms.T @ fit).T + mean)
        np.testing.assert_allclose(recorded.of(drawn.at(count)), expected, atol=1e-6)
    beside = {row.name: row.numbers for row in found.scores if row.beside == inverse.name}
    active = found.total
    assert active is not None
    assert beside["as many outputs drawn at random, never trained"] == inverse.numbers
    assert (
        beside["as many principal components of the outputs"]
        == 2 * H * (D + 1) + min(active, H) * (H + 1 + CLASSES) + CLASSES
    )


def test_a_rival_never_stores_more_than_what_it_is_beside() -> None:
    recorded = Recorded()
    found = table([output_directions(recorded.subject, Unsaved()), singular_values(recorded.subject, Unsaved())], None)
    named = {row.name: row for row in found}

    def stored(row: Row) -> int:
        assert row.numbers is not None
        return row.numbers

    rivals = [row for row in found if row.beside is not None and "of the inputs" in row.name]
    assert rivals
    for row in rivals:
        assert stored(row) <= stored(named[row.beside or ""])
    score = Score(0.5, 1.0, 0.5, N)
    curve = Curve.of("of anything", [1, 2, 3], [score] * 3, numbers=[10, 20, 30])
    assert [nulls.affordable(curve, numbers) for numbers in (9, 10, 29, 30, 99)] == [None, 1, 2, 3, 3]


def test_more_features_than_training_inputs_draw_each_output_once() -> None:
    recorded = Recorded()
    beside = Curve.of("of anything", [1], [Score(0.5, 1.0, 0.5, N)], numbers=[1])
    curve = nulls.drawn_outputs(recorded.subject, [1, 50, 200], lambda k: k, beside)
    assert curve.kept.tolist() == [1, 50, 90]


def test_pairs_are_read_in_double_precision_too() -> None:
    recorded = Recorded()
    found = pair_features(recorded.subject, Unsaved())
    assert found.effects.dtype == torch.float64
    assert {row.kind for row in found.scores} == {"view", "null"}
