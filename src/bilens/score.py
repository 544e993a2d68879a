"""Bilinear attention without a softmax: scores and heads as exact forms in the query's and the key's vector."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens._internal import checks, factors, shown
from bilens._internal.checks import instance, number, whole
from bilens._internal.factors import check_together
from bilens._internal.scale import fitted, near_one
from bilens.errors import BilensError, ShapeError
from bilens.space import Space
from bilens.tensor import DENSE_LIMIT, BilinearTensor

BASE = 10_000.0
"""The usual base of rotary angles."""

F = TypeVar("F", bound="_Form")


def rotate(x: Float[Tensor, "*n a"], positions: Int[Tensor, "..."] | int, base: float = BASE) -> Float[Tensor, "*n a"]:
    """Rotary position: R_p x turns each pair (x_k, x_{k+a/2}) by the angle p · base^(−2k/a), the halves split.

    Examples:
        >>> rotate(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), 1)  # by one radian, from coordinate 0 to 2
        tensor([[0.5403, 0.0000, 0.8415, 0.0000]])

    R_p is orthogonal and R_pᵀ R_q = R_{q−p}, so that the product of a query at n with a key at m depends on n − m
    alone. Angles are computed in float64. Weights for neighbouring pairs (x_2k, x_2k+1) become those for split halves
    when their rows are sorted: the even ones first, then the odd ones.

    Args:
        x: (…, a) with a even; positions: whole numbers that broadcast to the axes before the last; base: above 0.

    Raises:
        ShapeError: an odd number of coordinates. BilensError: numbers that are not floating-point, or no positions.
    """
    checks.floating("vectors", x)
    base = number("base", base, above=0)
    size = x.shape[-1] if x.ndim else 1
    if size % 2:
        raise ShapeError(f"vectors of shape {tuple(x.shape)}", "an even number of coordinates, to be turned in pairs")
    if not isinstance(positions, Tensor):
        positions = torch.tensor(whole("positions", positions))
    positions = checks.integers("positions", positions)
    check_together(positions[..., None], x)
    half = size // 2
    turns = base ** (-torch.arange(half, dtype=torch.float64, device=x.device) / half)
    angles = positions.to(x.device).double()[..., None] * turns
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class _Form(ABC):
    """What scores and heads have in common: the norm and the cosine of their inner product."""

    @abstractmethod
    def _product(self: F, other: F) -> tuple[Tensor, int, torch.dtype]:
        """⟨self, other⟩ as a number, the power of two that it is multiplied by, and the type of the result."""

    def inner(self: F, other: F) -> Float[Tensor, ""]:
        """The inner product of the two forms, symmetrised; from the factors, in float64 inside.

        It depends on the functions alone, not on how they are factored; see the class for what is symmetrised.

        Raises:
            SpaceError: they are over other spaces. BilensError: a product beyond the range of the type.
        """
        value, power, work = self._product(other)
        return fitted(value, torch.tensor(power), work, "an inner product")

    def norm(self: F) -> Float[Tensor, ""]:
        """√⟨T, T⟩; raises BilensError when it is beyond the range of the type."""
        value, power, work = self._product(self)
        return fitted(value.clamp(min=0).sqrt(), torch.tensor(power // 2), work, "a norm")  # the power is even

    def cosine(self: F, other: F) -> Float[Tensor, ""]:
        """⟨T, T'⟩ / (‖T‖ ‖T'‖), between −1 and 1; 0 when one of them is 0."""
        value, _, work = self._product(other)  # the powers cancel
        one, two = self._product(self)[0], other._product(other)[0]
        if not bool((one > 0) & (two > 0)):
            return value.new_zeros(()).to(work)
        return (value / (one * two).sqrt()).clamp(-1, 1).to(work)


@dataclass(frozen=True, eq=False, repr=False)
class ScoreTensor(_Form):
    """s(x, y) = c (Q₁x'·K₁y')(Q₂x'·K₂y'): how much the token with vector x attends to the one with vector y.

    It is the inner product of two bilinear layers, c φ(x)·ψ(y) with φ_ab = (Q₁_a·x')(Q₂_b·x') and
    ψ_ab = (K₁_a·y')(K₂_b·y'): a form of degree 2 in x and of degree 2 in y. As a tensor,

        T = c Σ_ab sym(Q₁_a ⊗ Q₂_b) ⊗ sym(K₁_a ⊗ K₂_b),

    symmetrised in its two query legs and in its two key legs, so that it depends on the function alone. Held as the
    four matrices; nothing of size a·b is made unless `query_layer` or `key_layer` is called. The matrices are copied
    and detached; those of half precision become float32.

    Args:
        query1, query2: Q₁, (a, i), and Q₂, (b, i), with i = `queries.dim`.
        key1, key2: K₁, (a, j), and K₂, (b, j), with j = `keys.dim`.
        queries, keys: the spaces of x and y, often one.
        scale: c.

    Raises:
        ShapeError: the matrices do not fit together. BilensError: NaN or infinity, or types or devices that differ.

    Source: `docs/attention.md`; the attention is that of arXiv 2410.08417's authors, without a softmax.
    """

    query1: Float[Tensor, "a i"]
    query2: Float[Tensor, "b i"]
    key1: Float[Tensor, "a j"]
    key2: Float[Tensor, "b j"]
    queries: Space
    keys: Space
    scale: float = 1.0

    def __post_init__(self) -> None:
        instance("queries", self.queries, Space)
        instance("keys", self.keys, Space)
        object.__setattr__(self, "scale", number("scale", self.scale))
        factors.settle(self, "query1", "query2", "key1", "key2", i=self.queries.dim, j=self.keys.dim)

    @classmethod
    def from_heads(
        cls,
        Q1: Float[Tensor, "a i"],
        Q2: Float[Tensor, "a i"],
        K1: Float[Tensor, "a j"],
        K2: Float[Tensor, "a j"],
        offset: int | None = None,
        *,
        queries: Space,
        keys: Space | None = None,
        scale: float | None = None,
        base: float = BASE,
    ) -> ScoreTensor:
        """The score of a head whose key stands `offset` positions before its query, rotary position folded exactly.

        Examples:
            >>> eye, x = torch.eye(2), Space("x", 2)
            >>> score = ScoreTensor.from_heads(eye, eye, eye, eye, queries=x, scale=1.0)
            >>> score(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 0.0]))  # (1·3 + 2·0)²
            tensor(9.)

        (R_n q)·(R_m k) = (R_{n−m} q)·k, so that turning Q₁ and Q₂ by the offset n − m is all that positions do.

        Args:
            Q1, Q2, K1, K2: rows as in `nn.Linear.weight`, (d_head, d); over the folded space where it has a constant
                coordinate, the biases then in the last column.
            offset: n − m for a query at n and a key at m; None for a model without rotary position.
            queries: space of x; keys: space of y, the same when None.
            scale: c, 1/d_head² when None; some models have 1/d_head.
            base: of the rotary angles, see `rotate`.

        Raises: as the class; ShapeError: rotary position with an odd d_head.
        """
        instance("queries", queries, Space)
        for name, value in (("Q1", Q1), ("Q2", Q2), ("K1", K1), ("K2", K2)):
            factors.check_matrix(name, value, "(d_head, d)")
        if offset is not None:
            offset = whole("offset", offset)
            Q1, Q2 = (rotate(matrix.detach().double().T, offset, base).T.to(matrix.dtype) for matrix in (Q1, Q2))
        return cls(Q1, Q2, K1, K2, queries, keys or queries, 1 / len(Q1) ** 2 if scale is None else scale)

    def __repr__(self) -> str:
        """For example "ScoreTensor('residual' (64) × 'residual' (64), d_head 32, float32)"."""
        heads = "×".join(map(str, sorted({len(self.query1), len(self.query2)})))
        return f"ScoreTensor({self.queries.title} × {self.keys.title}, d_head {heads}, {shown.numbers(self.query1)})"

    def __call__(self, x: Float[Tensor, "*n d"], y: Float[Tensor, "*n e"]) -> Float[Tensor, "*n"]:
        """s(x, y) for each row of x with the same row of y; the constant coordinates are added here.

        Raises:
            ShapeError: vectors of another size, or x and y that do not go together. BilensError: no floating-point
                numbers.
        """
        x, y = self.queries.fold(x, self.query1), self.keys.fold(y, self.key1)
        factors.check_together(x[..., :1], y[..., :1])
        one = ((x @ self.query1.T) * (y @ self.key1.T)).sum(dim=-1)
        two = ((x @ self.query2.T) * (y @ self.key2.T)).sum(dim=-1)
        return self.scale * one * two

    def table(self, x: Float[Tensor, "n d"], y: Float[Tensor, "m e"]) -> Float[Tensor, "n m"]:
        """s(x, y) of every row of x with every row of y.

        Examples:
            >>> eye, x = torch.eye(2), Space("x", 2)
            >>> ScoreTensor(eye, eye, eye, eye, x, x).table(eye, eye)
            tensor([[1., 0.],
                    [0., 1.]])
        """
        x, y = self.queries.fold(x, self.query1), self.keys.fold(y, self.key1)
        one = (x @ self.query1.T) @ (y @ self.key1.T).T
        return self.scale * one * ((x @ self.query2.T) @ (y @ self.key2.T).T)

    def query_layer(self, limit: int = DENSE_LIMIT) -> BilinearTensor:
        """φ, with c: the bilinear layer on the query's side, φ_ab = c (Q₁_a·x')(Q₂_b·x'), a·b outputs.

        Raises:
            BilensError: its factors would be larger than `limit` bytes.
        """
        return self._layer(self.query1, self.query2, self.queries, self.scale, limit)

    def key_layer(self, limit: int = DENSE_LIMIT) -> BilinearTensor:
        """ψ, the bilinear layer on the key's side: s(x, y) = φ(x)·ψ(y). Raises as `query_layer`."""
        return self._layer(self.key1, self.key2, self.keys, 1.0, limit)

    def _layer(self, one: Tensor, two: Tensor, input: Space, scale: float, limit: int) -> BilinearTensor:
        a, b = len(one), len(two)
        size = (2 * a * b * one.shape[1] + (a * b) ** 2) * one.element_size()
        if size > limit:
            raise BilensError(
                f"a layer of {a * b:,} outputs with {size:,} bytes",
                f"at most {limit:,} bytes",
                "call decompose.score_svd",
            )
        left, right = one.repeat_interleave(b, dim=0), two.repeat(a, 1)
        return BilinearTensor.from_layer(scale * left, right, input=input, output=Space("pairs of head units", a * b))

    def to(self, target: torch.dtype | torch.device | str) -> ScoreTensor:
        """The same score in float32 or float64, or on another device; raises BilensError for another target."""
        q1, q2, k1, k2 = factors.moved("a score", target, self.query1, self.query2, self.key1, self.key2)
        return ScoreTensor(q1, q2, k1, k2, self.queries, self.keys, self.scale)

    def with_query(self, matrix: Float[Tensor, "i p"], queries: Space) -> ScoreTensor:
        """The score of x = M u as one of u, for example of a token through an embedding. Raises as the class."""
        factors.check_matrix("matrix", matrix, f"({self.queries.dim}, {queries.dim})")
        matrix = factors.given(matrix, self.query1, True)
        return replace(self, query1=self.query1 @ matrix, query2=self.query2 @ matrix, queries=queries)

    def with_key(self, matrix: Float[Tensor, "j p"], keys: Space) -> ScoreTensor:
        """The score of y = M u as one of u. Raises as the class."""
        factors.check_matrix("matrix", matrix, f"({self.keys.dim}, {keys.dim})")
        matrix = factors.given(matrix, self.key1, True)
        return replace(self, key1=self.key1 @ matrix, key2=self.key2 @ matrix, keys=keys)

    def _require(self, other: ScoreTensor) -> None:
        instance("the other one", other, ScoreTensor)
        self.queries.require(other.queries, "a score of queries")
        self.keys.require(other.keys, "a score of keys")
        factors.check_together_on(self.query1, other.query1)

    def _product(self, other: ScoreTensor) -> tuple[Tensor, int, torch.dtype]:
        """¼ c c' of four sums: both sides straight, both crossed, and one of each, a trace of four matrices."""
        self._require(other)
        (q1, q2, k1, k2), power, scale = _near(self)
        (p1, p2, l1, l2), power2, scale2 = _near(other)
        queries, keys = (
            _Legs(q1 @ p1.T, q2 @ p2.T, q1 @ p2.T, q2 @ p1.T),
            _Legs(k1 @ l1.T, k2 @ l2.T, k1 @ l2.T, k2 @ l1.T),
        )
        value = queries.straight(keys.one, keys.two) + queries.crossed(keys.over, keys.back)
        work = torch.promote_types(self.query1.dtype, other.query1.dtype)
        return scale * scale2 * value / 4, power + power2, work


@dataclass(frozen=True, eq=False, repr=False)
class HeadTensor(_Form):
    """h(x, y) = s(x, y) V y': what a head adds for the query x when it reads the key y; degree 2 in x, 3 in y.

    As a tensor it has two query legs and three key legs for each output,

        T_o = c Σ_ab sym(Q₁_a ⊗ Q₂_b) ⊗ sym(K₁_a ⊗ K₂_b ⊗ V_o),

    symmetrised over the 2! orders of the first and the 3! of the second, so that it depends on the function alone. Of
    several heads that are added, the inner product is the sum over pairs of heads.

    Args:
        score: s; value: V, (o, j), for example W_O W_V with the scales of the model folded; output: space of the rows.

    Raises:
        ShapeError: V does not fit. BilensError: NaN or infinity, or another type or device than the score.
    """

    score: ScoreTensor
    value: Float[Tensor, "o j"]
    output: Space

    def __post_init__(self) -> None:
        instance("score", self.score, ScoreTensor)
        instance("output", self.output, Space)
        factors.settle(self, "value", o=self.output.dim, j=self.score.keys.dim)
        factors.check_alike(score=self.score.query1, value=self.value)
        factors.check_output(self.output)

    def __repr__(self) -> str:
        """For example "HeadTensor('residual' (64) × 'residual' (64) → 'residual' (64), d_head 32, float32)"."""
        inside = repr(self.score).removeprefix("ScoreTensor(")
        where, rest = inside.split(", ", 1)
        return f"HeadTensor({where} → {self.output.title}, {rest}"

    def __call__(self, x: Float[Tensor, "*n d"], y: Float[Tensor, "*n e"]) -> Float[Tensor, "*n o"]:
        """s(x, y) V y' for each row of x with the same row of y. Raises as the score's."""
        return self.score(x, y)[..., None] * (self.score.keys.fold(y, self.value) @ self.value.T)

    def _product(self, other: HeadTensor) -> tuple[Tensor, int, torch.dtype]:
        """1/12 of twelve sums, which pair up as those of scores: V takes part in four of the six orders of key legs."""
        instance("the other one", other, HeadTensor)
        self.score._require(other.score)
        self.output.require(other.output, "a head to output")
        (q1, q2, k1, k2), power, scale = _near(self.score)
        (p1, p2, l1, l2), power2, scale2 = _near(other.score)
        (v, a), (w, b) = near_one(self.value.double()), near_one(other.value.double())
        queries = _Legs(q1 @ p1.T, q2 @ p2.T, q1 @ p2.T, q2 @ p1.T)
        c11, c22, c12, c21 = k1 @ l1.T, k2 @ l2.T, k1 @ l2.T, k2 @ l1.T
        # K_i V'ᵀ V K'_jᵀ: leg K_i on V' and V on K'_j, summed over the outputs
        (k1w, k2w), (vl1, vl2) = (k1 @ w.T, k2 @ w.T), (v @ l1.T, v @ l2.T)
        z11, z22, z12, z21 = k1w @ vl1, k2w @ vl2, k1w @ vl2, k2w @ vl1
        both = (v * w).sum()
        value = queries.straight(both * c11 + z11, c22) + queries.straight(c11, z22)
        value = value + queries.crossed(both * c12 + z12, c21) + queries.crossed(c12, z21)
        power += power2 + sum(int(torch.frexp(part).exponent) - 1 for part in (a, b))
        work = torch.promote_types(self.value.dtype, other.value.dtype)
        return scale * scale2 * value / 12, power, work


@dataclass(frozen=True, eq=False, repr=False)
class _Legs:
    """Products of two sets of query legs: A₁₁ = `one`, A₂₂ = `two`, A₁₂ = `over`, A₂₁ = `back`."""

    one: Tensor
    two: Tensor
    over: Tensor
    back: Tensor

    def straight(self, x: Tensor, y: Tensor) -> Tensor:
        """Σ (A₁₁[a,a'] A₂₂[b,b'] + A₁₂[a,b'] A₂₁[b,a']) X[a,a'] Y[b,b']."""
        return (self.one * x).sum() * (self.two * y).sum() + ((self.over @ y.T) * (x @ self.back.T)).sum()

    def crossed(self, x: Tensor, y: Tensor) -> Tensor:
        """Σ (A₁₁[a,a'] A₂₂[b,b'] + A₁₂[a,b'] A₂₁[b,a']) X[a,b'] Y[b,a']."""
        return (self.over * x).sum() * (self.back * y).sum() + ((self.one @ y.T) * (x @ self.two.T)).sum()


def _near(score: ScoreTensor) -> tuple[list[Tensor], int, float]:
    """The four matrices in float64 near 1, the power of two that was taken out of them and the scale, and the rest."""
    near = [near_one(matrix.double()) for matrix in (score.query1, score.query2, score.key1, score.key2)]
    rest, power = math.frexp(score.scale)
    return [part for part, _ in near], power + sum(int(torch.frexp(part).exponent) - 1 for _, part in near), rest
