"""The formulas of the algebra, dense and obviously right, in NumPy and float64; nothing here comes from bilens.

`near` is how every test compares: |actual − expected| ≤ 1e-9 · scale, where scale is the natural scale of the quantity:
the same formula with every term replaced by its absolute value, which is what rounding errors are proportional to (or,
where a test says so, a norm that bounds it). So a sum that cancels is held to the size of its terms, not of its result.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float64]


class LayerLike(Protocol):
    """y = D[(W x + b) ⊙ (V x + c)] + e; D, b, c and e may be None."""

    w: Any
    v: Any
    d: Any
    b: Any
    c: Any
    e: Any


def array(value: Any) -> Array:
    """Any tensor or list as a NumPy array in float64."""
    plain = value.detach().cpu().double().numpy() if isinstance(value, torch.Tensor) else value
    return np.array(plain, dtype=np.float64, order="C")


def near(actual: Any, expected: Any, scale: Any = 1.0, *, rtol: float = 1e-9) -> None:
    """Raise unless actual and expected have one shape and differ by at most rtol · max(scale) everywhere."""
    atol = rtol * float(np.max(np.abs(array(scale)), initial=0.0))
    torch.testing.assert_close(torch.tensor(array(actual)), torch.tensor(array(expected)), rtol=0.0, atol=atol)


def with_one(x: Any) -> Array:
    """[x; 1], one vector a row."""
    x = array(x)
    return np.concatenate([x, np.ones((*x.shape[:-1], 1))], axis=-1)


def forward(layer: LayerLike, x: Any) -> Array:
    """The layer as it is written, biases and all, one sample at a time."""
    out = []
    for row in array(x):
        left = array(layer.w) @ row + (0 if layer.b is None else array(layer.b))
        right = array(layer.v) @ row + (0 if layer.c is None else array(layer.c))
        y = left * right if layer.d is None else array(layer.d) @ (left * right)
        out.append(y + (0 if layer.e is None else array(layer.e)))
    return np.stack(out)


def size(layer: LayerLike, x: Any) -> Array:
    """Natural scale of the outputs: the layer with every number replaced by its absolute value."""
    absolute = {name: None if (value := getattr(layer, name)) is None else abs(array(value)) for name in "wvdbce"}
    return forward(_Parts(**absolute), abs(array(x)))


class _Parts:
    def __init__(self, w: Any, v: Any, d: Any, b: Any, c: Any, e: Any) -> None:
        self.w, self.v, self.d, self.b, self.c, self.e = w, v, d, b, c, e


def dense(left: Any, right: Any, down: Any) -> Array:
    """B_oij = ½ Σ_h D_oh (L_hi R_hj + R_hi L_hj), term by term."""
    left, right, down = array(left), array(right), array(down)
    one = np.einsum("oh,hi,hj->oij", down, left, right)
    two = np.einsum("oh,hi,hj->oij", down, right, left)
    return 0.5 * one + 0.5 * two


def tensor(layer: LayerLike, *, constant: bool) -> Array:
    """The layer's symmetric tensor from nothing but its values, by polarising and then differencing in the bias.

    Over x' = [x; z], homogeneous of degree two: g(x, z) = D[(W x + b z) ⊙ (V x + c z)] + e z².
    """
    w, v = array(layer.w), array(layer.v)
    hidden, d = w.shape
    down = np.eye(hidden) if layer.d is None else array(layer.d)
    b = np.zeros(hidden) if layer.b is None else array(layer.b)
    c = np.zeros(hidden) if layer.c is None else array(layer.c)
    e = np.zeros(len(down)) if layer.e is None else array(layer.e)

    def g(x: Array, z: float) -> Array:
        return down @ ((w @ x + b * z) * (v @ x + c * z)) + e * z * z

    points = [(row, 0.0) for row in np.eye(d)] + ([(np.zeros(d), 1.0)] if constant else [])
    n = len(points)
    out = np.zeros((len(down), n, n))
    for i, (xi, zi) in enumerate(points):
        for j, (xj, zj) in enumerate(points):
            out[:, i, j] = (g(xi + xj, zi + zj) - g(xi, zi) - g(xj, zj)) / 2
    return out


def evaluate(b: Array, x: Array, y: Array | None = None) -> Array:
    """B(x, y) for each row of x and y (already folded); B(x, x) without y."""
    return np.einsum("oij,ni,nj->no", b, x, x if y is None else y)


def kernel(b: Array, u: Any) -> Array:
    """Q_u = Σ_o u_o B_o."""
    return np.einsum("o,oij->ij", array(u), b)


def inner(a: Array, b: Array) -> float:
    """Frobenius inner product of two dense tensors."""
    return float((a * b).sum())


def gram(a: Array) -> Array:
    """⟨B_o, B_p⟩ for every two outputs."""
    return np.einsum("oij,pij->op", a, a)


def svd(b: Array) -> tuple[Array, Array, Array]:
    """Left vectors (a column each), singular values and right vectors (a row each) of B as an o × i² matrix."""
    u, s, vt = np.linalg.svd(b.reshape(len(b), -1), full_matrices=False)
    return u, s, vt


def pinv(a: Any) -> Array:
    """Moore–Penrose inverse; singular values below 1e-10 of the largest count as zero, far from what the tests draw."""
    return np.linalg.pinv(array(a), rcond=1e-10)


def rank(a: Any) -> int:
    """Rank, with a tolerance far above rounding and far below what the tests draw."""
    a = array(a)
    return int(np.linalg.matrix_rank(a, tol=1e-8 * max(abs(a).max(initial=0.0), 1e-300)))


def projector(vectors: Any) -> Array:
    """The orthogonal projector on the span of these rows."""
    rows = array(vectors)
    return pinv(rows) @ rows


def pair_vectors(b: Array, atoms: Any) -> Array:
    """r_ij = B(v_i, v_j) for every i and j, (m, m, o)."""
    atoms = array(atoms)
    return np.einsum("oij,ai,bj->abo", b, atoms, atoms)


def softmax(logits: Any) -> Array:
    """Probabilities along the last axis."""
    logits = array(logits)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)
