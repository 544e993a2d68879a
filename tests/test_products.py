"""Products of matrices by oneDNN and without it, against NumPy's in float64; and where it must stay out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad

from bilens import products, sae
from oracle import near


@pytest.fixture(params=[True, False], ids=["oneDNN", "plain"])
def onednn(request, monkeypatch):
    monkeypatch.setattr(products, "LEAST", 1)
    if not request.param:
        monkeypatch.setattr(products, "_has_onednn", lambda: False)


@pytest.fixture
def asked(monkeypatch):
    """The shapes of the products that oneDNN is asked for."""
    by_onednn, shapes = products._by_onednn, []

    def watched(x, matrix):
        shapes.append((tuple(x.shape), tuple(matrix.shape)))
        return by_onednn(x, matrix)

    monkeypatch.setattr(products, "_by_onednn", watched)
    return shapes


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


needs_onednn = pytest.mark.skipif(not products._has_onednn(), reason="this torch has no oneDNN")


@needs_onednn
def test_large_products_of_numbers_alone_are_made_by_onednn(asked):
    x, matrix = torch.ones(200, 200), torch.ones(200, 200)
    near(products.product(x, matrix), np.full((200, 200), 200.0))
    near(products.product(x[:, :150], matrix[:, 50:]), np.full((200, 200), 150.0))
    assert len(asked) == 2
    products.product(x[:10], matrix[:10])
    products.product(x.double(), matrix.double())
    assert len(asked) == 2


def frozen() -> sae.StandardSAE:
    """A coder whose products are large enough for oneDNN, and whose weights ask for no gradient."""
    coder = sae.StandardSAE(128, 256, seed=1).requires_grad_(False)
    coder.b_enc.add_(0.1)
    return coder


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # of torch, within itself
def test_gradients_of_either_mode_go_through(asked):
    coder, x = frozen(), torch.randn(100, 128, generator=torch.Generator().manual_seed(0))
    along = torch.ones_like(x)
    coder(x)
    assert len(asked) == (2 if products._has_onednn() else 0)
    asked.clear()
    double = frozen().double()
    expected = torch.func.jvp(double, (x.double(),), (along.double(),))[1]
    size = float(expected.abs().max())
    near(torch.func.jvp(coder, (x,), (along,))[1], expected, size, rtol=1e-5)
    with torch.no_grad(), forward_ad.dual_level():
        dual = coder(forward_ad.make_dual(x, along))
        near(forward_ad.unpack_dual(dual).tangent, expected, size, rtol=1e-5)
    leaf = x.clone().requires_grad_()
    coder(leaf).sum().backward()
    other = x.double().requires_grad_()
    double(other).sum().backward()
    near(leaf.grad, other.grad, float(other.grad.abs().max()), rtol=1e-5)
    assert asked == []


def test_what_traces_compiles_or_casts_sees_plain_products(asked):
    coder, x = frozen(), torch.randn(100, 128, generator=torch.Generator().manual_seed(0))
    expected = frozen().double()(x.double())
    asked.clear()
    size = float(expected.abs().max())
    near(torch.compile(coder, fullgraph=True, backend="eager")(x), expected, size, rtol=1e-5)
    exported = torch.export.export(coder, (x,))
    assert "mkldnn" not in str(exported.graph)
    near(torch.vmap(coder)(x.view(2, 50, 128)).view(100, 128), expected, size, rtol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert products.product(x, coder.W_enc.T).dtype == torch.bfloat16
    assert products.product(x.to("meta"), coder.W_enc.T.to("meta")).shape == (100, 256)
    near(products.product(x.to_sparse(), coder.W_enc.T), x.double() @ coder.W_enc.double(), 10.0, rtol=1e-5)
    assert asked == []


def test_shapes_that_do_not_fit_are_told_by_torch():
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        products.product(torch.ones(200, 200), torch.ones(200, 201))


def test_a_torch_without_the_operations_is_told_apart(monkeypatch):
    products._has_onednn.cache_clear()
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda *_: torch.zeros(2, 4), raising=False)
    assert not products._has_onednn()
    products._has_onednn.cache_clear()
