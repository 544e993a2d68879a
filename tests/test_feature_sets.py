"""What the explorer shows of each feature, against the dense kernel."""

from __future__ import annotations

import numpy as np
import torch

import oracle
from bilens import decompose
from bilens.analyses import components
from bilens.analyses.subject import Subject, Unsaved
from bilens.errors import BilensError
from bilens.features import detail
from bilens.kernel import Kernel
from bilens.space import Space
from bilens.tensor import BilinearTensor
from messages import refuses
from oracle import near
from strategies import filled


def test_strongest_pairs_count_both_orders_of_two_inputs() -> None:
    """A pair i < j adds 2 Q_ij where both inputs are 1, and an input by itself Q_ii."""
    left, right, weights = filled("normal", 7, 6, 0), filled("normal", 7, 6, 1), filled("normal", 1, 7, 2)
    kernel = Kernel(left, right, weights[0], Space("x", 5, constant=True))
    found = detail([(kernel, decompose.eigh(kernel))], None)
    dense = oracle.dense(left, right, weights)[0][:5, :5]
    i, j = found.pairs[0].numpy().T
    assert (i <= j).all()
    near(found.strengths[0], np.where(i < j, 2.0, 1.0) * dense[i, j])
    near(
        np.sort(abs(found.strengths[0].numpy())),
        np.sort(abs(np.triu(2 * dense - np.diag(np.diag(dense)))[np.triu_indices(5)])),
    )


def test_samples_of_a_feature_are_those_of_its_largest_and_of_its_smallest_values() -> None:
    left, right, weights = filled("normal", 7, 6, 0), filled("normal", 7, 6, 1), filled("normal", 1, 7, 2)
    kernel = Kernel(left, right, weights[0], Space("x", 5, constant=True))
    x = filled("normal", 40, 5, 3)
    found = detail([(kernel, decompose.eigh(kernel))], x)
    values = oracle.evaluate(oracle.dense(left, right, weights), oracle.with_one(x))[:, 0]
    order = np.argsort(-values)
    assert found.samples is not None
    assert found.samples[0].tolist() == [*order[:6], *order[::-1][:6]]
    near(found.responses[0], values[found.samples[0].numpy()], abs(values).max())


def test_a_layer_of_zeros_has_no_components() -> None:
    zeros = BilinearTensor(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 2), Space("x", 3), Space("hidden", 2))
    with refuses(BilensError, "a layer whose tensor is 0", "not all 0"):
        components.singular_values(Subject(zeros), Unsaved())
