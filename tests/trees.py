"""Dense trees of small networks in NumPy, entry by entry, and networks to make them of."""

from __future__ import annotations

from itertools import pairwise, permutations
from typing import Any

import numpy as np
import torch

from bilens import BilinearTensor, Space
from bilens.deep import DeepTensor
from oracle import Array, array
from strategies import filled


def sized(deep: DeepTensor) -> float:
    """A bound of ‖T‖ by the norms of the factors: what rounding is relative to where terms cancel or are not read."""
    found = 1.0
    for one in deep.layers:
        found = found**2 * float(one.left.norm() * one.right.norm() * one.down.norm())
    return max(found, 1.0)


def network(
    seed: int,
    sizes: tuple[int, ...] = (2, 3, 2),
    hidden: int = 4,
    *,
    bias: bool = False,
    residual: bool = False,
    fill: str = "normal",
    dtype: torch.dtype = torch.float64,
) -> DeepTensor:
    """A random network with these sizes of bonds."""
    layers = []
    for place, (below, above) in enumerate(pairwise(sizes)):
        draw = [
            filled(fill, rows, columns, 100 * seed + 10 * place + n)
            for n, (rows, columns) in enumerate(
                ((hidden, below), (hidden, below), (above, hidden), (1, hidden), (1, above))
            )
        ]
        w, v, d = (part.to(dtype) for part in draw[:3])
        shift = {"left_bias": draw[3][0].to(dtype), "down_bias": draw[4][0].to(dtype)} if bias else {}
        layers.append(
            BilinearTensor.from_layer(
                w, v, d, **shift, input=Space(f"bond {place}", below), output=Space(f"bond {place + 1}", above)
            )
        )
    return DeepTensor.chain(*layers, residual=residual)


def forward(deep: DeepTensor, x: Any) -> Array:
    """The network as it is written, one layer after the other."""
    y = array(x)
    for layer, skip in zip(deep.layers, deep.skips, strict=True):
        ones = [np.ones((len(y), 1))] if layer.input.constant else []
        reads = np.concatenate([y, *ones], axis=1)
        y = ((reads @ array(layer.left).T) * (reads @ array(layer.right).T)) @ array(layer.down).T
        if skip is not None:
            y = y + reads @ array(skip).T
    return y


def outer(a: Array, b: Array) -> Array:
    return np.multiply.outer(a, b).ravel()


def product(a: Array, b: Array) -> Array:
    """sym(a ⊗ b)."""
    return (outer(a, b) + outer(b, a)) / 2


def trees(deep: DeepTensor, kind: Any = np.float64) -> list[Array]:
    """For every bond the tree-symmetrised tensor of each coordinate, flat, over x' with the constant, the last one."""
    here = np.eye(deep.layers[0].input.size + 1, dtype=kind)
    found = [here]
    for layer, skip in zip(deep.layers, deep.skips, strict=True):
        one = here[-1]
        reads = here if layer.input.constant else here[:-1]
        left, right, down = (array(part).astype(kind) for part in (layer.left, layer.right, layer.down))
        hidden = np.stack([product(u, v) for u, v in zip(left @ reads, right @ reads, strict=True)])
        y = down @ hidden
        if skip is not None:
            y = y + np.stack([product(u, one) for u in array(skip).astype(kind) @ reads])
        here = np.vstack([y, outer(one, one)])
        found.append(here)
    return found


def lifted(metric: Array | None, size: int) -> Array:
    """A metric over x' with the constant: as it is, or that of x with 1 for the constant."""
    if metric is None:
        return np.eye(size + 1)
    if len(metric) == size + 1:
        return metric
    whole = np.eye(size + 1)
    whole[:-1, :-1] = metric
    return whole


def weighted(rows: Array, metric: Array) -> Array:
    """Every leg of flat tensors times M^½, so that plain inner products are those in M."""
    values, vectors = np.linalg.eigh(metric)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    size, legs = len(metric), round(np.log(rows.shape[1]) / np.log(len(metric)))
    out = rows.reshape(len(rows), *(size,) * legs)
    for leg in range(legs):
        out = np.moveaxis(np.tensordot(out, root, axes=(leg + 1, 0)), -1, leg + 1)
    return out.reshape(len(rows), -1)


def output_tree(deep: DeepTensor, metric: Array | None = None) -> Array:
    """T, (o, i^N), with every leg times M^½."""
    return weighted(trees(deep)[-1][:-1], lifted(metric, deep.layers[0].input.size))


def symmetrised(rows: Array, legs: int) -> Array:
    """The mean over all permutations of the legs."""
    size = round(rows.shape[1] ** (1 / legs))
    whole = rows.reshape(len(rows), *(size,) * legs)
    orders = list(permutations(range(1, legs + 1)))
    return (sum(whole.transpose(0, *order) for order in orders) / len(orders)).reshape(len(rows), -1)


def singular_values(deep: DeepTensor, bond: int, metric: Array | None = None) -> Array:
    """Of one copy of a bond: the first 2^bond legs against all others and the outputs."""
    tree, size = output_tree(deep, metric), deep.layers[0].input.size + 1
    if bond == deep.depth:
        return np.linalg.svd(tree, compute_uv=False)
    legs = size ** (2**bond)
    return np.linalg.svd(tree.reshape(len(tree), legs, -1).swapaxes(0, 1).reshape(legs, -1), compute_uv=False)


def environment(deep: DeepTensor, bond: int, metric: Array | None = None) -> Array:
    """E of the first copy of a bond, over its coordinates and the constant: that copy replaced by a leg of its own."""
    matrix = lifted(metric, deep.layers[0].input.size)
    plain = [weighted(rows, matrix) for rows in trees(deep)]
    marked = np.eye(len(plain[bond]))
    for place in range(bond, deep.depth):
        layer, skip, beside = deep.layers[place], deep.skips[place], plain[place]
        until = None if layer.input.constant else -1
        left, right, down = (array(part) for part in (layer.left, layer.right, layer.down))
        pairs = [(left @ marked[:until], right @ beside[:until]), (right @ marked[:until], left @ beside[:until])]
        hidden = sum(np.stack([outer(u, v) for u, v in zip(*pair, strict=True)]) for pair in pairs) / 2
        y = down @ hidden
        if skip is not None:
            s = array(skip)
            y = (
                y
                + (
                    np.stack([outer(u, beside[-1]) for u in s @ marked[:until]])
                    + np.stack([outer(marked[-1], v) for v in s @ beside[:until]])
                )
                / 2
            )
        marked = np.vstack([y, outer(marked[-1], beside[-1])])
    parts = marked[:-1].reshape(len(marked) - 1, len(plain[bond]), -1)
    return np.einsum("opr,oqr->pq", parts, parts)


def moment(seed: int, size: int, *, constant: bool) -> Array:
    """A second moment E[x'x'ᵀ] of a distribution that is not centred."""
    rows = np.random.default_rng(seed).normal(size=(3 * size + 4, size)) * np.linspace(1, 2, size) + 0.7
    if constant:
        rows = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
    return rows.T @ rows / len(rows)


def quadrature(mean: Array, covariance: Array, nodes: int) -> tuple[Array, Array]:
    """Points and weights for which means of polynomials of degree below 2 · nodes are those of the Gaussian."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    grid = np.stack(np.meshgrid(*[points] * len(mean), indexing="ij"), axis=-1).reshape(-1, len(mean))
    products = np.stack(np.meshgrid(*[weights] * len(mean), indexing="ij"), axis=-1).reshape(-1, len(mean)).prod(axis=1)
    values, vectors = np.linalg.eigh(covariance)
    return mean + (grid * np.sqrt(values.clip(min=0))) @ vectors.T, products / products.sum()
