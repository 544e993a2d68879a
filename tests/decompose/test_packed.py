"""Products by a packed matrix against plain ones, with oneDNN's layout and without."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bilens.decompose import packed
from oracle import near


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layout", [True, False])
@pytest.mark.parametrize("rows", [1, 7, 64])
def test_products_are_those_of_the_matrix(layout, rows, dtype, monkeypatch):
    if not layout:
        monkeypatch.setattr(packed, "_has_packed_products", lambda: False)
    generator = torch.Generator().manual_seed(rows)
    matrix = torch.randn(50, 33, generator=generator).to(dtype)
    x = torch.randn(rows, 33, generator=generator).to(dtype)
    expected = np.einsum("ni,ji->nj", x.double().numpy(), matrix.double().numpy())
    for held in (matrix, matrix.T.contiguous().T):  # in either order in memory
        near(packed.Packed(held, 16)(x), expected, rtol=1e-5 if dtype == torch.float32 else 1e-14)


def test_a_torch_without_the_layout_is_told_apart(monkeypatch):
    packed._has_packed_products.cache_clear()
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda *_: torch.zeros(2, 4), raising=False)
    assert not packed._has_packed_products()
    packed._has_packed_products.cache_clear()
