"""Products of matrices by oneDNN and without it, against NumPy's in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bilens import products
from oracle import near


@pytest.fixture(params=[True, False], ids=["oneDNN", "plain"])
def onednn(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr(products, "_has_onednn", lambda: False)


@pytest.mark.usefixtures("onednn")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 33), (7, 33), (64, 33), (2, 3, 33), (33,), (0, 33), (5, 0)], ids=str)
def test_products_are_those_of_the_matrix(shape, dtype):
    generator = torch.Generator().manual_seed(len(shape))
    wide = torch.randn(100, 2 * shape[-1], generator=generator).to(dtype)
    held = wide[::2, : shape[-1]].contiguous()
    x = torch.randn(*shape, generator=generator).to(dtype)
    expected = np.einsum("...i,ji->...j", x.double().numpy(), held.double().numpy())
    rtol = {torch.float32: 1e-5, torch.float64: 1e-14, torch.bfloat16: 0.1}[dtype]
    views = (held, held.T.contiguous().T, wide[::2, : shape[-1]])  # in either order in memory, and with gaps
    for matrix in views:
        near(products.product(x, matrix), expected, 1.0, rtol=rtol)
        if len(shape) == 2 and all(shape):
            near(products.product(x.T.contiguous().T, matrix), expected, 1.0, rtol=rtol)
            near(products.Packed(matrix, 16)(x), expected, 1.0, rtol=rtol)


@pytest.mark.usefixtures("onednn")
def test_gradients_go_through_products():
    x, matrix = torch.ones(2, 3, requires_grad=True), torch.arange(6.0).view(2, 3)
    products.product(x, matrix).sum().backward()
    assert torch.equal(x.grad, torch.tensor([[3.0, 5.0, 7.0]] * 2))


def test_a_torch_without_the_operations_is_told_apart(monkeypatch):
    products._has_onednn.cache_clear()
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda *_: torch.zeros(2, 4), raising=False)
    assert not products._has_onednn()
    products._has_onednn.cache_clear()
