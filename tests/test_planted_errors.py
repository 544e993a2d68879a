"""The tests can fail: each mistake, planted into the library, breaks the test that is there for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

import test_traps as traps
from bilens import pairs
from bilens._internal import factors
from bilens.dictionary import Dictionary
from bilens.kernel import Kernel
from bilens.pairs import PairCodes, PairResponses
from bilens.space import Space
from bilens.tensor import BilinearTensor


@dataclass(frozen=True)
class Planted:
    """A mistake: what it is put in place of, and the test that must break.

    Args:
        places: modules or classes and the name in them; wrong: what stands there instead.
        breaks: the test.
    """

    places: tuple[tuple[Any, str], ...]
    wrong: Any
    breaks: Callable[[], None]


def one_triangle(kernel: Kernel) -> torch.Tensor:
    """Q without its other half: L_hᵀ w R_h."""
    return kernel.left.T @ (kernel.weights[:, None] * kernel.right)


def one_order(features: PairResponses, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
    """r_ij without its other half: (L v_i) ⊙ (R v_j)."""
    rows = features.left[i] * features.right[j]
    return rows if features.down is None else rows @ features.down.T


def first_term(left: Any, right: Any, other_left: Any, other_right: Any) -> torch.Tensor:
    """The hidden Gram without (L Rᵀ)∘(R Lᵀ)."""
    return (left @ other_left.T).double() * (right @ other_right.T).double()


def without_bias(name: str, matrix: torch.Tensor, bias: torch.Tensor | None, *_: object) -> torch.Tensor:
    """The folded column left at 0."""
    return torch.cat([matrix, matrix.new_zeros(len(matrix), 1)], dim=1)


def bias_in_the_codes_alone() -> None:
    """g through an exact SAE with a bias: Aᵀ(Σ a_i a_j f_ij) + (Σ a)² b_dec, with the bias term left to `rebuild`."""
    left, right, x = traps.draws((3, 4), (3, 4), (5, 4))
    tensor = BilinearTensor.from_layer(left, right, input=Space("x", 4), output=Space("y", 3))
    bias = torch.full((3,), 0.5, dtype=torch.float64)
    codes = PairCodes.of(pairs.stream(tensor, shuffle=False), lambda r: r - bias)  # atoms are the coordinates
    traps.near(codes.rebuild(x, torch.eye(3, dtype=torch.float64), bias=bias), tensor(x), 100)


_folded = Dictionary.fold

PLANTED = {
    "a kernel that is not symmetrised": Planted(
        ((Kernel, "dense"),), one_triangle, traps.test_an_unsymmetrised_kernel_has_another_spectrum
    ),
    "√2 left out of pairs that are taken once": Planted(
        ((pairs, "multiplicity"),),
        lambda i, j: torch.ones_like(i),
        traps.test_pairs_taken_once_have_not_the_singular_values_of_the_tensor,
    ),
    "pairs of one order alone": Planted(
        ((PairResponses, "polarized"),),
        one_order,
        traps.test_pairs_taken_once_have_not_the_singular_values_of_the_tensor,
    ),
    "a hidden Gram of its first term": Planted(
        ((factors, "hidden_gram"),),
        first_term,
        traps.test_pairs_taken_once_have_not_the_singular_values_of_the_tensor,
    ),
    "biases dropped when they are folded": Planted(
        ((factors, "with_column"),), without_bias, traps.test_biases_are_part_of_every_answer
    ),
    "an offset dropped by a dictionary": Planted(
        ((Dictionary, "fold"),),
        lambda d: _folded(d if d.offset is None else replace(d, offset=torch.zeros_like(d.offset))),
        traps.test_the_offset_of_an_affine_decoder_is_not_dropped,
    ),
    "atoms that are read as duals": Planted(
        ((BilinearTensor, "read"),),
        lambda tensor, d: tensor.then(d.atoms, Space("codes", len(d.atoms))),
        traps.test_atoms_are_no_duals,
    ),
    "a read-out that is not centred": Planted(
        ((BilinearTensor, "centered"),),
        lambda tensor: tensor,
        traps.test_kernels_of_classes_mean_something_only_once_they_are_centred,
    ),
    "the term (Σ a)² b_dec left out": Planted(
        ((PairCodes, "rebuild"),), lambda codes, a, atoms, bias: codes.contract(a, atoms), bias_in_the_codes_alone
    ),
}


@pytest.mark.parametrize("planted", PLANTED.values(), ids=list(PLANTED))
def test_a_planted_error_breaks_its_test(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    planted.breaks()
    for place, name in planted.places:
        monkeypatch.setattr(place, name, planted.wrong)
    with pytest.raises(AssertionError):
        planted.breaks()
