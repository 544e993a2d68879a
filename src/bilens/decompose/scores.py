"""Singular values of an attention score: pairs of a query kernel and a key kernel that its table is made of."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import scipy.sparse.linalg
import torch
from jaxtyping import Float
from torch import Tensor

from bilens._internal import checks
from bilens._internal.checks import instance, trusted, whole
from bilens._internal.factors import check_together
from bilens._internal.scale import near_one, times_two_to
from bilens._internal.shown import line
from bilens.decompose import linalg
from bilens.decompose.linalg import detach, folded, gamma, largest_square, symmetric, upward
from bilens.errors import ShapeError
from bilens.kernel import Kernel
from bilens.score import ScoreTensor
from bilens.space import Space

FORMED = 256
"""Units φ_ab up to which the small matrix of a score is formed even where few components are asked for."""

FEW = 8
"""One component in so many, at most, is found without forming the matrix."""


@dataclass(frozen=True, eq=False, repr=False)
class ScoreSVD:
    """s(x, y) = Σ_s σ_s (x'ᵀ F_s x') (y'ᵀ G_s y'): what a query asks for and what a key offers, in orthonormal pairs.

    Args:
        values: σ, (k,), largest first.
        query_forms: F_s = Wᵀ f_s W in the coordinates of `query_basis`, (k, r, r), symmetric, ⟨F_s, F_t⟩ = δ_st.
        key_forms: G_s likewise, (k, t, t), in those of `key_basis`.
        query_basis: W, (r, i), orthonormal rows; key_basis: (t, j).
        residual: how far the numbers returned may be from singular components, a number of the size of rounding.
        discarded: at least the largest singular value that was not kept, a number; 0 when all are kept.
        energy: ‖T‖² = Σ σ² over all components, a number, in float64.
        queries, keys: the spaces of x and y.

    Raises:
        ShapeError: the shapes do not fit together.

    Source: `docs/attention.md`.
    """

    values: Float[Tensor, " k"]
    query_forms: Float[Tensor, "k r r"]
    key_forms: Float[Tensor, "k t t"]
    query_basis: Float[Tensor, "r i"]
    key_basis: Float[Tensor, "t j"]
    residual: Float[Tensor, ""]
    discarded: Float[Tensor, ""]
    energy: Float[Tensor, ""]
    queries: Space
    keys: Space

    __repr__ = line

    def __post_init__(self) -> None:
        checks.fields(self)
        detach(self)
        checks.shapes(self, i=self.queries.dim, j=self.keys.dim)
        for name in ("query_forms", "key_forms"):
            shape = tuple(getattr(self, name).shape)
            if shape[1] != shape[2]:
                raise ShapeError(f"{name} of shape {shape}", "square forms")

    def __len__(self) -> int:
        return len(self.values)

    def query(self, s: int) -> Kernel:
        """F_s, of norm 1: the kernel that says what queries component s is about. Raises BilensError for no such s."""
        return self._kernel(s, self.query_forms, self.query_basis, self.queries)

    def key(self, s: int) -> Kernel:
        """G_s, of norm 1: the kernel that says which keys it finds. Raises BilensError for no such s."""
        return self._kernel(s, self.key_forms, self.key_basis, self.keys)

    def _kernel(self, s: int, forms: Tensor, basis: Tensor, space: Space) -> Kernel:
        s = whole("component", s, 0, len(self) - 1, hint="compute more components")
        return trusted(Kernel, basis, forms[s] @ basis, basis.new_ones(len(basis)), space, str(s))

    def query_values(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n k"]:
        """x'ᵀ F_s x' of each vector and component, in the type of the values."""
        return _forms(self.query_forms, self.query_basis, self.queries, x).to(self.values.dtype)

    def key_values(self, y: Float[Tensor, "*n e"]) -> Float[Tensor, "*n k"]:
        """y'ᵀ G_s y' of each vector and component, in the type of the values."""
        return _forms(self.key_forms, self.key_basis, self.keys, y).to(self.values.dtype)

    def terms(self, x: Float[Tensor, "*n d"], y: Float[Tensor, "*n e"]) -> Float[Tensor, "*n k"]:
        """σ_s (x'ᵀF_s x')(y'ᵀG_s y'): a score taken apart, for each row of x with the same row of y.

        Computed in float64, whatever floating types x and y have, and returned in the type of the values.
        """
        return self._terms(x, y).to(self.values.dtype)

    def reconstruct(self, x: Float[Tensor, "*n d"], y: Float[Tensor, "*n e"]) -> Float[Tensor, "*n"]:
        """The sum of the terms of the components that are kept."""
        return self._terms(x, y).sum(dim=-1).to(self.values.dtype)

    def _terms(self, x: Tensor, y: Tensor) -> Tensor:
        queries = _forms(self.query_forms, self.query_basis, self.queries, x)
        keys = _forms(self.key_forms, self.key_basis, self.keys, y)
        check_together(queries, keys)
        return queries * keys * self.values.double()

    @torch.no_grad()
    def keep(self, k: int) -> ScoreSVD:
        """The first k components; `discarded` accounts for the ones left out.

        Raises:
            BilensError: k outside 0 … the number of components.
        """
        k = whole("k", k, 0, len(self), hint="choose fewer components, or compute more")
        discarded = self.discarded
        if k < len(self):
            left = self.values[k].double().maximum(discarded.double()) + self.residual.double()
            discarded = upward(left, discarded.dtype)
        return replace(
            self,
            values=self.values[:k],
            query_forms=self.query_forms[:k],
            key_forms=self.key_forms[:k],
            discarded=discarded,
        )

    @torch.no_grad()
    def bound(self, x_norm: Float[Tensor, "*n"] | float, y_norm: Float[Tensor, "*n"] | float) -> Float[Tensor, "*n"]:
        """The truncation certificate: |s(x, y) − reconstruct(x, y)| ≤ (σ discarded + rounding) · ‖x'‖² ‖y'‖².

        Args:
            x_norm, y_norm: norms of the folded vectors, `space.fold(x).norm(dim=-1)`.

        Raises:
            BilensError: a norm that is no number.
        """
        squares = largest_square(x_norm, self.queries.dim, self.values)
        beside = largest_square(y_norm, self.keys.dim, self.values, "y_norm")
        check_together(squares[..., None], beside[..., None])
        squares = squares * beside
        sizes = len(self.query_basis) + len(self.key_basis) + len(self) + self.queries.dim + self.keys.dim
        arithmetic = (2 * gamma(sizes + 8) + torch.finfo(self.values.dtype).eps) * self.values.double().sum()
        off = self.discarded.double() + self.residual.double() + arithmetic
        return upward(off * squares * (1 + 1e-14), self.values.dtype)


@torch.no_grad()
def score_svd(score: ScoreTensor, k: int | None = None) -> ScoreSVD:
    """The k largest singular values of a score, as a map from key kernels to query kernels, or all of them.

    Examples:
        >>> eye, x = torch.eye(2), Space("x", 2)
        >>> found = score_svd(ScoreTensor(torch.diag(torch.tensor([2.0, 1.0])), eye, eye, eye, x, x))
        >>> found.values.round(decimals=3)  # (2 x₀y₀ + x₁y₁)(x₀y₀ + x₁y₁): x₀²y₀², x₁²y₁², and the product of both
        tensor([2.0000, 1.5000, 1.0000])

    T Y = c sym(Q₁ᵀ K₁ Y K₂ᵀ Q₂) for a symmetric matrix Y over the keys. Queries matter through the span of the rows
    of Q₁ and Q₂ alone, of at most a + b directions, and keys likewise, so that T is a matrix of at most r(r+1)/2
    columns, and of rank at most a·b, whatever the width of the model. With few units φ_ab, or where more than one
    component in eight is asked for, its triangles are formed (QR of both layers) and decomposed. With more, Lanczos
    finds the k largest from products alone, and neither the layers nor their Grams are made. Then `discarded` is the
    root of the energy that is left, which is a bound whether or not Lanczos has found every component, and more than
    the next value.

    Args:
        score: s; k: how many components, from 1; all when None, those that are 0 included.

    Cost: O(r² (a·b)) for the layers and O((a·b)³) for the triangles; of Lanczos, O(r² a) per product.
    Floor: values are exact to about 1e-15 · σ₁ · a·b.

    Returns:
        A `ScoreSVD` in the score's type; float64 inside. In each pair the largest entry of the query form is positive.
        No gradients.

    Raises:
        BilensError: k out of range, or values or their squares outside the range of the type.

    Source: `docs/attention.md`.
    """
    instance("score", score, ScoreTensor)
    checks.in_memory("a score", score.query1)
    small = _reduced(score)
    most = min(small.units, _pairs(len(small.query_basis)), _pairs(len(small.key_basis)))
    k = linalg.some(k, most)
    few = k is not None and small.units > FORMED and FEW * k <= most
    found = small.lanczos(k) if few and k is not None else None
    if found is None:
        left, sigma, right, following = small.formed(most if k is None else k)
    else:
        (left, sigma, right), following = found, None
    dtype = score.query1.dtype
    sign = torch.where(left.gather(1, left.abs().argmax(dim=1, keepdim=True)) < 0, -1.0, 1.0)
    power, energy = small.power, small.energy()
    values = linalg.fitting(sigma, power, dtype, "singular values", 1e-13 * float(energy.sqrt()))
    forms = [_matrices(part * sign, len(basis)).to(dtype) for part, basis in small.sides(left, right)]
    # Measured on what is returned, rounded: ‖T G − F Σ‖ and how far the forms are from orthonormal.
    rounded = [_coordinates(part.double()) for part in forms]
    off = (small.forward(rounded[1]) - times_two_to(values.double(), -power)[:, None] * rounded[0]).norm()
    skew = (rounded[1] @ rounded[1].T - torch.eye(len(values), dtype=torch.float64, device=off.device)).norm()
    bases = [basis.to(dtype) for basis in (small.query_basis, small.key_basis)]
    tilt = sum((a - b.double()).norm() for a, b in zip((small.query_basis, small.key_basis), bases, strict=True))
    rounding = gamma(8 * (small.units + score.queries.dim + score.keys.dim)) + 2 * tilt
    residual = off * (1 + skew) + (skew + rounding) * energy.sqrt()
    left_out = (energy * (1 + rounding) - sigma.square().sum()).clamp(min=0) + gamma(8 * small.units) * energy
    discarded = left_out.sqrt() if following is None else following
    return ScoreSVD(
        values,
        forms[0],
        forms[1],
        bases[0],
        bases[1],
        linalg.fitting_upward(residual, power, dtype),
        linalg.fitting_upward(discarded, power, dtype) if len(values) < most else values.new_zeros(()),
        linalg.fitting(energy, 2 * power, torch.float64, "squares of singular values"),
        score.queries,
        score.keys,
    )


@dataclass(frozen=True, eq=False, repr=False)
class _Reduced:
    """A score over orthonormal bases of the spans of its rows, in float64, over a power of two."""

    q1: Tensor
    q2: Tensor
    k1: Tensor
    k2: Tensor
    query_basis: Tensor
    key_basis: Tensor
    power: int

    @property
    def units(self) -> int:
        return len(self.q1) * len(self.q2)

    def sides(self, left: Tensor, right: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        return (left, self.query_basis), (right, self.key_basis)

    def energy(self) -> Tensor:
        spaces = Space("queries", len(self.query_basis)), Space("keys", len(self.key_basis))
        return ScoreTensor(self.q1, self.q2, self.k1, self.k2, *spaces).norm().square()

    def forward(self, keys: Tensor) -> Tensor:
        """T on each row of coordinates of a key form, as coordinates of query forms."""
        return _applied(keys, self.k1, self.k2, self.q1, self.q2)

    def backward(self, queries: Tensor) -> Tensor:
        """Tᵀ on each row of coordinates of a query form."""
        return _applied(queries, self.q1, self.q2, self.k1, self.k2)

    def formed(self, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Left and right vectors as rows, their values, and the next value where there is one."""
        (one, first), (two, second) = _triangle(self.q1, self.q2), _triangle(self.k1, self.k2)
        u, sigma, v = torch.linalg.svd(first @ second.T, full_matrices=False)
        left, right = u.T[:k], v[:k]
        left = left if one is None else left @ one.T
        right = right if two is None else right @ two.T
        return left, sigma[:k], right, sigma[k] * (1 + 1e-12) if k < len(sigma) else None

    def lanczos(self, k: int) -> tuple[Tensor, Tensor, Tensor] | None:
        """The k largest from products with vectors; None where there are not k clear of 0."""
        n, m = _pairs(len(self.query_basis)), _pairs(len(self.key_basis))
        device = self.q1.device

        def both(vector: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            given = torch.from_numpy(np.ascontiguousarray(vector.reshape(-1))).to(device)
            parts = self.forward(given[None, n:])[0], self.backward(given[None, :n])[0]
            found: npt.NDArray[np.float64] = torch.cat(parts).cpu().numpy()
            return found

        operator = scipy.sparse.linalg.LinearOperator((n + m, n + m), matvec=both, dtype=np.float64)
        start = np.random.default_rng(0).standard_normal(n + m)
        try:
            vectors = scipy.sparse.linalg.eigsh(operator, k, which="LA", v0=start, tol=0)[1]
        except scipy.sparse.linalg.ArpackError:  # it did not converge, as in a score that is 0
            return None
        right = torch.linalg.qr(torch.from_numpy(vectors[n:].copy()).to(device))[0].T
        # The best within the span that was found, with both sides orthonormal (Rayleigh and Ritz).
        u, sigma, v = torch.linalg.svd(self.forward(right).T, full_matrices=False)
        if not bool(sigma[-1] > 1e-9 * sigma[0]):
            return None
        return u.T, sigma, v @ right


def _reduced(score: ScoreTensor) -> _Reduced:
    parts, power = [], 0
    for matrix in (score.query1, score.query2, score.key1, score.key2):
        near, size = near_one(matrix.detach().double())
        parts.append(near)
        power += int(torch.frexp(size).exponent) - 1
    q1, q2, k1, k2 = parts
    rows, columns = (torch.linalg.qr(torch.cat(pair).T)[0].T for pair in ((q1, q2), (k1, k2)))
    scale, more = np.frexp(score.scale)
    q1 = q1 * float(scale)
    return _Reduced(q1 @ rows.T, q2 @ rows.T, k1 @ columns.T, k2 @ columns.T, rows, columns, power + int(more))


def _pairs(r: int) -> int:
    return r * (r + 1) // 2


def _coordinates(forms: Tensor) -> Tensor:
    """Symmetric matrices (k, r, r) as vectors of the same norm: the entries with i ≤ j, those off the diagonal × √2."""
    rows, columns = torch.triu_indices(forms.shape[-1], forms.shape[-1], device=forms.device)
    entries = symmetric(forms)[..., rows, columns]
    return torch.where(rows == columns, entries, entries * 2**0.5)


def _matrices(coordinates: Tensor, r: int) -> Tensor:
    """The symmetric matrices of `_coordinates`."""
    rows, columns = torch.triu_indices(r, r, device=coordinates.device)
    matrices = coordinates.new_zeros(*coordinates.shape[:-1], r, r)
    matrices[..., rows, columns] = torch.where(rows == columns, coordinates / 2, coordinates * 0.5**0.5)
    return matrices + matrices.mT


def _applied(coordinates: Tensor, in1: Tensor, in2: Tensor, out1: Tensor, out2: Tensor) -> Tensor:
    """sym(out₁ᵀ in₁ Y in₂ᵀ out₂) of each symmetric Y."""
    inside = in1 @ _matrices(coordinates, in1.shape[1]) @ in2.T
    return _coordinates(out1.T @ inside @ out2)


def _triangle(one: Tensor, two: Tensor) -> tuple[Tensor | None, Tensor]:
    """The layer φ_ab over pairs of coordinates, as (orthonormal columns) · (small matrix); None for the identity."""
    r = one.shape[1]
    rows, columns = torch.triu_indices(r, r, device=one.device)
    layer = one[:, None, rows] * two[None, :, columns] + one[:, None, columns] * two[None, :, rows]
    layer = torch.where(rows == columns, layer / 2, layer * 0.5**0.5).flatten(0, 1).T  # pairs × units
    if layer.shape[1] >= layer.shape[0]:
        return None, layer
    basis, triangle = torch.linalg.qr(layer)
    return basis, triangle


def _forms(forms: Tensor, basis: Tensor, space: Space, x: Tensor) -> Tensor:
    inside = folded(space, x, basis) @ basis.double().T
    return torch.einsum("...a,kab,...b->...k", inside, forms.double(), inside)
