"""A coder measured from its codes is the coder measured on the vectors."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from bilens import pairs, sae
from bilens.errors import ShapeError
from bilens.pairs import PairCodes
from bilens.recipes.pair_coder import evaluate_pairs
from bilens.space import Space
from bilens.tensor import BilinearTensor


@pytest.mark.parametrize("two_hot", [False, True])
def test_from_codes_is_over_every_pair_vector(two_hot: bool) -> None:
    generator = torch.Generator().manual_seed(4)
    left, right = (torch.randn(7, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    tensor = BilinearTensor.from_layer(left, right, input=Space("x", 6), output=Space("y", 7))
    coder = sae.TopKSAE(7, 12, 3, seed=1).double()
    with torch.no_grad():
        coder.b_dec.copy_(torch.randn(7, generator=generator))
        coder.b_enc.sub_(0.5)
    stream = (pairs.two_hot_stream if two_hot else pairs.stream)(tensor, shuffle=False)
    codes = PairCodes.of(stream, lambda r: coder.encode(r).detach())
    i, j = torch.triu_indices(6, 6)
    vectors = (pairs.two_hot if two_hot else pairs.polarized)(tensor, i, j)
    got, expected = evaluate_pairs(tensor, codes, coder, two_hot=two_hot), sae.evaluate(coder, vectors)
    assert got.rows == 21
    for name in ("l0", "nmse", "explained_variance", "dead_fraction"):
        assert_close(getattr(got, name), getattr(expected, name))
    assert_close(got.frequency.double(), expected.frequency)
    assert_close(got.mean_activation.double(), expected.mean_activation.double(), rtol=1e-6, atol=1e-7)
    with pytest.raises(ShapeError, match="codes of 12 features"):
        evaluate_pairs(tensor, codes, sae.TopKSAE(7, 11, 3), two_hot=two_hot)
