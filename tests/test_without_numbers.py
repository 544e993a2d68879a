"""Records where no number can be looked at: on the meta device, under `torch.func.vmap` and in `torch.compile`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import oracle
from bilens import BilensError, BilinearTensor, Dictionary, Kernel, Space, decompose, pairs, store
from bilens.pairs import PairResponses
from messages import refuses

X, Y = Space("x", 3), Space("y", 2)


def draws(*shapes: tuple[int, ...], device: str = "cpu") -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(device) for shape in shapes]


def made(left: Tensor, right: Tensor, down: Tensor, bias: Tensor) -> BilinearTensor:
    return BilinearTensor.from_layer(left, right, down, left_bias=bias, down_bias=down[:, 0], input=X, output=Y)


def values(left: Tensor, right: Tensor, down: Tensor, bias: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    """What a layer says, through most of what makes a record."""
    tensor = made(left, right, down, bias)
    kernel = tensor.kernel(tensor.down[:, 0])
    plain = BilinearTensor(tensor.left, tensor.right, tensor.down, tensor.input, tensor.output)
    return (
        plain(x),
        kernel.dense(),
        (kernel + 2 * tensor.kernel("1"))(x),
        tensor.centered().then(tensor.down[:, :2], Y).to_dense(),
        Kernel.from_matrix(kernel.dense(), tensor.input).matvec(tensor.input.fold(x)),
    )


def expected(left: Tensor, right: Tensor, down: Tensor, bias: Tensor, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Outputs and the kernel of the first hidden unit's column, from NumPy alone."""
    w, v, d, b, rows = (part.numpy() for part in (left, right, down, bias, x))
    y = ((rows @ w.T + b) * (rows @ v.T)) @ d.T + d[:, 0]
    lifted = np.concatenate([w, b[:, None]], axis=1), np.concatenate([v, np.zeros((len(v), 1))], axis=1)
    dense = np.einsum("h,hi,hj->ij", d[:, 0] @ d, *lifted)
    dense[-1, -1] += d[:, 0] @ d[:, 0]
    return y, (dense + dense.T) / 2


SHAPES = ((4, 3), (4, 3), (2, 4), (4,), (5, 3))


def test_a_batch_of_layers_by_vmap() -> None:
    layers = draws(*((6, *shape) for shape in SHAPES[:4]))
    (x,) = draws(SHAPES[4])
    together = torch.func.vmap(values, in_dims=(0, 0, 0, 0, None))(*layers, x)
    for n in range(6):
        one = [part[n] for part in layers]
        outputs, dense = expected(*one, x)
        oracle.near(together[0][n], outputs, 10)
        oracle.near(together[1][n], dense, 10)
        for found, alone in zip(together, values(*one, x), strict=True):
            torch.testing.assert_close(found[n], alone)


def test_a_batch_of_directions_by_vmap() -> None:
    tensor = made(*draws(*SHAPES[:4]))
    (directions,) = draws((7, 2))
    dense = torch.func.vmap(lambda u: tensor.kernel(u).dense())(directions)
    oracle.near(dense, np.einsum("no,oij->nij", directions.numpy(), tensor.to_dense().numpy()), 10)
    with refuses(BilensError, "direction with NaN"):
        tensor.kernel(directions[0] * torch.nan)


def test_layers_of_shapes_alone_on_the_meta_device() -> None:
    factors = draws(*SHAPES, device="meta")
    for found, shape in zip(values(*factors), ((5, 2), (4, 4), (5,), (2, 4, 4), (5, 4)), strict=True):
        assert found.is_meta
        assert tuple(found.shape) == shape
    tensor = made(*factors[:4])
    assert "float64 on meta" in repr(tensor)
    assert tensor.to(torch.float32).left.dtype == torch.float32
    assert tensor.kernel(0).rank_bound == 4
    assert tensor.norm().is_meta
    eye = torch.eye(2, dtype=torch.float64, device="meta")
    assert tensor.read(Dictionary(eye, eye, Y, Y, 2)).down.is_meta
    assert PairResponses.of(tensor).at("polarized", *(torch.zeros(3, dtype=torch.int64, device="meta"),) * 2).is_meta


@pytest.mark.parametrize(
    "read",
    [
        lambda tensor: decompose.eigh(tensor.kernel(0)),
        decompose.svd,
        decompose.svd_accurate,
        decompose.input_basis,
        decompose.interactions,
        lambda tensor: decompose.eigh_pullback(tensor.kernel(0), Dictionary.identity(X, dtype=torch.float64)),
        lambda tensor: tensor.to("cpu"),
        lambda tensor: decompose.eigh_many(tensor, k=2),
        decompose.squared_norms,
        lambda tensor: decompose.cp(tensor, 2, progress=False),
        lambda tensor: decompose.cp_symmetric(tensor, 2, progress=False),
        pairs.norms,
        lambda tensor: pairs.PairCodes.of(pairs.stream(tensor, shuffle=False), torch.relu),
        lambda tensor: pairs.contract(tensor, tensor.left),
        lambda tensor: Dictionary.identity(X, dtype=torch.float64, device=torch.device("meta")).restrict([0]),
        lambda tensor: store.save(tensor, "nowhere"),
    ],
)
def test_what_needs_numbers_says_so(read) -> None:
    tensor = made(*draws(*SHAPES[:4], device="meta"))
    with refuses(BilensError, "on the meta device", "Load the weights first."):
        read(tensor)


def test_a_dictionary_without_numbers_reads_no_tensor_with_them() -> None:
    tensor, eye = made(*draws(*SHAPES[:4])), torch.eye(2, dtype=torch.float64, device="meta")
    with refuses(BilensError, "on the meta device"):
        tensor.read(Dictionary(eye, eye, Y, Y, 2))
    with refuses(BilensError, "on the meta device"):
        tensor.then(eye, Y)


def test_two_records_on_two_devices_have_no_product() -> None:
    here, nowhere = (made(*draws(*SHAPES[:4], device=device)) for device in ("cpu", "meta"))
    for call in (here.inner, here.cosine):
        with refuses(BilensError, "one on cpu and one on meta", "both on one device"):
            call(nowhere)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's own, of what it imports to compile
def test_a_compiled_function_may_make_records(request: pytest.FixtureRequest) -> None:
    """In one graph: nothing that a record checks makes torch leave it."""
    if request.config.getoption("--typecheck"):
        pytest.skip("what checks annotations at run time is not made for graphs")
    inputs = draws(*SHAPES)
    compiled = torch.compile(values, fullgraph=True, backend="eager")
    for found, plain in zip(compiled(*inputs), values(*inputs), strict=True):
        torch.testing.assert_close(found, plain)
