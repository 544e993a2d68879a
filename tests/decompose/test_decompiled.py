"""A layer by its interactions: expanded by hand, and exact where every pair is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import oracle
from bilens import decompose, store
from bilens.dictionary import Dictionary
from bilens.errors import BilensError, ShapeError
from bilens.space import Space
from bilens.tensor import BilinearTensor
from messages import refuses


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LAYER = BilinearTensor.from_layer(
    drawn(12, 5, seed=1),
    drawn(12, 5, seed=2),
    drawn(4, 12, seed=3),
    left_bias=drawn(12, seed=4),
    right_bias=drawn(12, seed=5),
    input=Space("x", 5),
    output=Space("y", 4),
)
INPUTS = Dictionary.from_atoms(drawn(7, 5, seed=6), LAYER.input.without_constant(), offset=drawn(5, seed=7))
OUTPUTS = Dictionary.from_atoms(drawn(6, 4, seed=8), LAYER.output, offset=drawn(4, seed=9))
CODES = torch.relu(drawn(40, 7, seed=10))
EVERY = 8 * 9 // 2


def test_with_every_pair_it_is_the_layer_on_what_the_codes_rebuild() -> None:
    found = decompose.decompile(LAYER, INPUTS, OUTPUTS, keep=10**6, top=100)
    assert len(found) == 6 * EVERY
    expected = LAYER(INPUTS.decode(CODES))  # the six atoms span the output
    assert_close(found(CODES), expected, rtol=1e-8, atol=1e-8)


def test_the_kept_are_the_largest_of_all_expanded_by_hand() -> None:
    keep = 9
    found = decompose.decompile(LAYER, INPUTS, OUTPUTS, keep=keep, codes=CODES)
    z = np.concatenate([CODES.numpy(), np.ones((40, 1))], axis=1)
    atoms = np.concatenate([INPUTS.atoms.numpy(), INPUTS._offset[None].numpy()])
    lifted = np.concatenate([atoms, np.zeros((8, 1))], axis=1)
    lifted[-1, -1] = 1
    duals, offset = OUTPUTS.duals.numpy(), OUTPUTS._offset.numpy()
    dense = oracle.dense(LAYER.left, LAYER.right, LAYER.down)
    terms = []
    for o in range(6):
        matrix = lifted @ np.einsum("p,pij->ij", duals[o], dense) @ lifted.T
        matrix[-1, -1] -= duals[o] @ offset  # the codes are of y − offset
        for a in range(8):
            for b in range(a, 8):
                c = matrix[a, b] * (1 if a == b else 2)
                part = c * z[:, a] * z[:, b]
                size = (part**2).mean() * (OUTPUTS.atoms[o].numpy() ** 2).sum()
                terms.append((size, part[:, None] * OUTPUTS.atoms[o].numpy(), (a, b, o), c))
    terms.sort(key=lambda term: -term[0])
    places = zip(found.first.tolist(), found.second.tolist(), found.output.tolist(), strict=True)
    assert list(places) == [term[2] for term in terms[:keep]]
    np.testing.assert_allclose(found.coefficients, [term[3] for term in terms[:keep]], rtol=1e-8)
    expected = offset + sum(term[1] for term in terms[:keep])
    np.testing.assert_allclose(found(CODES), expected, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(found.keep(4)(CODES), offset + sum(term[1] for term in terms[:4]), atol=1e-8)
    assert found.numbers == 3 * keep + 4 * len({term[2][2] for term in terms[:keep]}) + 4
    used = {place for term in terms[:keep] for place in term[2][:2]} - {7}
    assert found.read.tolist() == sorted(used)


def test_the_mean_is_the_layers_however_many_are_kept() -> None:
    mean = drawn(4, seed=11)
    found = decompose.decompile(LAYER, INPUTS, OUTPUTS, keep=20, codes=CODES, mean=mean)
    for k in (0, 1, 20):
        assert_close(found.keep(k)(CODES).mean(dim=0), mean)
    plain = decompose.decompile(LAYER, INPUTS, OUTPUTS, keep=20, codes=CODES)
    a, b = found(CODES), plain(CODES)
    assert_close(a - a.mean(dim=0), b - b.mean(dim=0))


def test_it_is_stored(tmp_path: Path) -> None:
    found = decompose.decompile(LAYER, INPUTS, OUTPUTS, keep=5, codes=CODES, mean=drawn(4))
    store.save(found, tmp_path / "short")
    assert_close(store.load(tmp_path / "short", decompose.Decompiled)(CODES), found(CODES))


@pytest.mark.parametrize(
    ("call", "kind", "line"),
    [
        (lambda: decompose.decompile(LAYER, INPUTS, OUTPUTS, keep=0), BilensError, "keep = 0"),
        (
            lambda: decompose.decompile(LAYER, INPUTS, OUTPUTS, keep=3, mean=drawn(4)),
            BilensError,
            "a mean without codes",
        ),
        (
            lambda: decompose.decompile(LAYER, INPUTS, OUTPUTS, keep=3, codes=CODES, mean=drawn(5)),
            ShapeError,
            "a mean of shape (5,)",
        ),
        (lambda: decompose.decompile(LAYER, INPUTS, OUTPUTS, keep=3).keep(4), BilensError, "k = 4"),
        (lambda: decompose.decompile(LAYER, INPUTS, OUTPUTS, keep=3)(CODES[:, :3]), ShapeError, "(40, 3)"),
    ],
)
@pytest.mark.bad_input
def test_bad_input_is_refused(call: Callable[[], Any], kind: type[Exception], line: str) -> None:
    with refuses(kind, line):
        call()
