"""The certificate of balanced truncation in a thousand random networks of one to six layers, by exact decimals."""

from __future__ import annotations

from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest
import torch

from bilens import BilinearTensor, Space, decompose
from bilens.deep import DeepTensor
from strategies import orthogonal
from trees import moment

NETWORKS = 1000
DIGITS = 60
TYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
DEPTHS = pytest.mark.parametrize("depth", [1, 2, 3, 4, 5, 6])


def drawn(seed: int) -> DeepTensor:
    """1 to 6 layers over bonds of 1 to 5: biases, residual connections, layers of low rank, equal singular values."""
    generator = np.random.default_rng(seed)
    depth = 1 + seed % 6
    residual, bias = generator.random() < 0.3, generator.random() < 0.5
    sizes = generator.integers(1, 6, depth + 1)
    sizes = np.full_like(sizes, sizes[0]) if residual else sizes
    spaces = [Space(f"bond {place}", int(size)) for place, size in enumerate(sizes)]
    layers = []
    for place in range(depth):
        below, above, hidden = spaces[place].size, spaces[place + 1].size, int(generator.integers(1, 7))
        left, right, down = (
            torch.tensor(generator.normal(size=shape) / shape[1] ** 0.5)
            for shape in ((hidden, below), (hidden, below), (above, hidden))
        )
        kind = generator.choice(["normal", "low rank", "ties"])
        if kind == "low rank":  # outputs along one direction, and inputs that are not read
            down = down[:, :1] @ torch.tensor(generator.integers(-2, 3, (1, hidden))).double()
            left = left * torch.tensor(generator.random((1, below)) < 0.6)
        elif kind == "ties":  # squares of orthonormal forms, all with one weight
            hidden = min(below, above)
            left = right = orthogonal(below, seed)[:hidden]
            down = orthogonal(above, seed + 1)[:, :hidden]
        down = down * (0.5 if residual else float(generator.choice([0.3, 1.0, 3.0])))
        shifts = [torch.tensor(generator.normal(size=size)) for size in (hidden, above)] if bias else [None, None]
        layers.append(
            BilinearTensor.from_layer(
                left, right, down, left_bias=shifts[0], down_bias=shifts[1], input=spaces[place],
                output=spaces[place + 1],
            )
        )  # fmt: skip
    return DeepTensor.chain(*layers, residual=residual)


def decimals(values: Any) -> Any:
    """A matrix of exact decimals; products of such matrices are rounded to the digits of the context."""
    rows = np.array(values, dtype=np.float64)
    found = np.empty(rows.shape, dtype=object)
    for place, value in np.ndenumerate(rows):
        found[place] = Decimal(float(value))
    return found


def closed(deep: DeepTensor) -> list[tuple[Any, Any, Any]]:
    """Every layer between bonds that carry the constant last, what runs around it included."""
    found = []
    for layer, skip in zip(deep.layers, deep.skips, strict=True):
        size = layer.input.dim + (not layer.input.constant)
        one = np.eye(size)[-1:]
        read = [np.pad(part.double().numpy(), ((0, 0), (0, size - layer.input.dim))) for part in
                (layer.left, layer.right, *([] if skip is None else [skip]))]  # fmt: skip
        down = layer.down.double().numpy()
        above = len(down)
        around = [] if skip is None else [np.repeat(one, above, axis=0)]
        left, right = np.concatenate([read[0], one, *around]), np.concatenate([read[1], one, *read[2:]])
        rows = np.zeros((above + 1, len(left)))
        rows[:above, : down.shape[1]], rows[above, down.shape[1]] = down, 1
        rows[:above, down.shape[1] + 1 :] = np.eye(above)[:, : len(left) - down.shape[1] - 1]
        found.append((decimals(left), decimals(right), decimals(rows)))
    return found


def inner(one: list[tuple[Any, Any, Any]], two: list[tuple[Any, Any, Any]], metric: Any) -> Decimal:
    """⟨T, T'⟩ of the tree-symmetrised tensors by the recursion of Grams, the constant of the outputs left out."""
    gram = metric
    for (left, right, down), (other, beside, rows) in zip(one, two, strict=True):
        straight = (left @ gram @ other.T) * (right @ gram @ beside.T)
        crossed = (left @ gram @ beside.T) * (right @ gram @ other.T)
        gram = down @ ((straight + crossed) / 2) @ rows.T
    return sum(np.diagonal(gram)[:-1], Decimal(0))


def violated(seed: int, dtype: torch.dtype) -> str:
    """What is wrong with a random truncation of a random network, or "".

    The error of the network that `truncate` returns, as exact numbers, is within the certificate; in float32, and where
    nothing is cut and the certificate is 0, up to the rounding of its factors to its type, of which a term of the
    tensor has 3 (2ⁿ − 1).
    """
    with localcontext() as context:
        context.prec = DIGITS
        deep = drawn(seed).to(dtype)
        generator = np.random.default_rng(seed + NETWORKS)
        size, constant = deep.input.size, deep.input.constant
        given = moment(seed, size, constant=constant) if seed % 2 else np.eye(deep.input.dim)
        metric = np.eye(size + 1)
        metric[: len(given), : len(given)] = given
        metric = decimals(metric)
        apart = bool(seed % 3 == 0)
        found = decompose.odt(deep, metric=torch.tensor(given) if seed % 2 else None, constant_apart=apart)
        ranks = [int(generator.integers(1, max(len(values), 1) + 1)) if generator.random() < 0.7 else None
                 for values in found.values]  # fmt: skip
        whole, cut = closed(deep), closed(found.truncate(ranks))
        norm = inner(whole, whole, metric)
        squared = norm - 2 * inner(whole, cut, metric) + inner(cut, cut, metric)
        error, bound = max(squared, Decimal(0)).sqrt(), Decimal(float(found.bound(ranks)))
        exact = bound > 0 and dtype == torch.float64
        slack = 0 if exact else Decimal(32 * 2**deep.depth * torch.finfo(dtype).eps) * norm.sqrt()
        told = f"{deep}: ranks {ranks}, error {error:.6e}, certificate {bound:.6e}, rounding {slack:.1e}"
        return "" if error <= bound + slack else told


@TYPES
@DEPTHS
def test_no_certificate_is_violated(depth: int, dtype: torch.dtype) -> None:
    assert not violated(depth + 17, dtype)


@pytest.mark.slow
@TYPES
@DEPTHS
def test_no_certificate_is_violated_in_a_thousand_networks(depth: int, dtype: torch.dtype) -> None:
    assert [told for seed in range(depth - 1, NETWORKS, 6) if (told := violated(seed, dtype))] == []
