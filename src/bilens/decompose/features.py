"""Spectra of a kernel in the features of a dictionary, without a matrix of features × features."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.checks import instance, whole
from bilens.decompose import symmetric
from bilens.decompose.eigen import Spectrum
from bilens.decompose.sign import signed
from bilens.dictionary import Dictionary
from bilens.errors import BilensError
from bilens.products import product
from bilens.scale import near_one
from bilens.space import Space
from bilens.tensor import BilinearTensor, Kernel

WELL_CONDITIONED = {torch.float32: 1e-3, torch.float64: 1e-6}
"""Least over largest squared diagonal entry of the Cholesky factor of FᵀF from which on it is used; below, F is
factorised by QR, which costs more."""

GRAM_BLOCK = 128
"""Columns of F at a time in FᵀF, of which only the blocks on and above the diagonal are computed."""

ROWS = 2**22
"""Bytes of atoms to convert to float64 at a time, few enough to stay in a cache."""


def eigh_pullback(kernel: Kernel, d: Dictionary, k: int | None = None) -> Spectrum:
    """The k eigenpairs largest in |λ| of F Q Fᵀ, the kernel as a function of codes, a ↦ Q(Fᵀa): (m, m), never built.

    With the Gram matrix of the atoms and its Cholesky factor, K = FᵀF = RᵀR (i, i), the eigenvalues that are not 0 are
    those of R Q Rᵀ, and a vector w there is F R⁻¹ w among the codes. Where atoms are nearly dependent, R is that of a
    QR factorisation F = P R. An affine dictionary adds the atom [b; 1].

    Args:
        kernel: Q; d: atoms F, (m, i); k: how many pairs, 1 … min(m, i), all of these when None. The other eigenvalues,
            m − i of them at least, are 0.

    Returns:
        A `Spectrum` over the codes, in the kernel's type. For a kernel in float64, or all pairs, everything is computed
        in float64. For at most i/8 pairs of a kernel in float32, K and R Q Rᵀ are in float32, and the pairs are then
        refined in float64 (Rayleigh and Ritz, with F itself), so that they are as right; `discarded` and `energy` are
        right to about 1e-6 of the largest |λ|, and of its square times i.

    Cost: m i² operations for K, h i² and i³ for the rest, and O(m i k) for the vectors, against O(m² i + m³). Floor: λ
    is right to about 1e-16 · ‖F‖²‖Q‖, spectral norms, which is far above the largest |λ| where Q lies along directions
    in which the atoms are weak.

    Raises:
        SpaceError: the dictionary is over another space than the kernel. BilensError: k out of range, or eigenvalues
            that do not fit the kernel's type.

    Source: `docs/theory.md`, "Features of the input".
    """
    return _eigh(kernel, d, k, duals=False)


def eigh_coordinates(kernel: Kernel, d: Dictionary, k: int | None = None) -> Spectrum:
    """The k eigenpairs largest in |λ| of the least-norm coordinates C of the kernel, with Σ_ab C_ab f_a f_bᵀ = Q.

    C = F⁺ᵀ Q F⁺, with the duals in place of the atoms of `eigh_pullback`. Not the pullback: see there and
    `BilinearTensor.coordinates`.

    Args, Returns, Cost and Raises: as `eigh_pullback`.
    """
    return _eigh(kernel, d, k, duals=True)


def eigvalsh_pullback(kernel: Kernel, d: Dictionary) -> Float[Tensor, " n"]:
    """The min(m, i) eigenvalues of F Q Fᵀ that are not 0 by its rank, largest |λ| first, without vectors.

    Args:
        kernel, d: as `eigh_pullback`.

    Returns:
        λ in the kernel's type, computed in it: right to about ε · ‖F‖²‖Q‖, ε = 1e-7 for float32, which is far above the
        largest |λ| where Q lies along directions in which the atoms are weak.

    Cost: as `eigh_pullback` without vectors.

    Raises:
        SpaceError: the dictionary is over another space than the kernel. BilensError: eigenvalues that do not fit the
            kernel's type.

    Source: `docs/theory.md`, "Features of the input".
    """
    q, rows, _, power = _over(kernel, d, duals=False)
    values: Tensor = symmetric.eigvalsh(_Small(q, rows, _by_gram(rows)).matrix)
    return _fitting(values[values.abs().argsort(descending=True, stable=True)].double() * power, kernel.left)


def _over(kernel: Kernel, d: Dictionary, *, duals: bool) -> tuple[Kernel, Tensor, Space, Tensor]:
    """The kernel and the atoms or duals (m, i) over the same input, folded when either needs it; space of the codes.

    Both near 1, and the power of two that eigenvalues must be multiplied with for it.
    """
    instance("kernel", kernel, Kernel)
    instance("dictionary", d, Dictionary)
    single = BilinearTensor(kernel.left, kernel.right, kernel.weights[None], kernel.input, Space("kernel", 1))
    tensor, d = single.match(d)
    work = tensor.left.dtype if tensor.left.dtype in WELL_CONDITIONED else torch.float32
    rows = (d.duals if duals else d.atoms).to(tensor.left.device, work)
    rows, a = near_one(rows)
    left, b = near_one(tensor.left.to(work))
    right, c = near_one(tensor.right.to(work))
    weights, e = near_one(tensor.down[0].to(work))
    return Kernel(left, right, weights, tensor.input), rows, d.features, a.square() * b * c * e


def _fitting(values: Tensor, like: Tensor) -> Tensor:
    """Values in the type of another tensor, if they fit in it."""
    fitted = values.to(like)
    if not bool(torch.isfinite(fitted).all()):
        raise BilensError(
            f"eigenvalues beyond {torch.finfo(like.dtype).max:.2g}", "numbers that fit", "call .to(torch.float64)"
        )
    return fitted


class _Small:
    """X Q Xᵀ for rows X (m, i) as a matrix (r, r) with the same eigenvalues but zeros, r = min(m, i), in Q's type.

    Args:
        q: Q; rows: X, of its type; found: what `_by_gram` says of X.
    """

    def __init__(self, q: Kernel, rows: Tensor, found: tuple[Tensor, Tensor] | None) -> None:
        self.q, self.rows = q, rows
        self.gram = rows.new_empty(0, 0)  # XᵀX, where R is its Cholesky factor
        self._basis: Tensor | None = None
        self.root = rows
        if found is not None:
            self.gram, self.root = found
        elif len(rows) > rows.shape[1]:
            self._basis, self.root = torch.linalg.qr(rows)
        small = product(product(self.root, q.dense()), self.root)
        self.matrix = (small + small.T) / 2

    @property
    def by_gram(self) -> bool:
        """Whether R is the Cholesky factor of XᵀX."""
        return bool(len(self.gram))

    def coefficients(self, vectors: Tensor) -> Tensor:
        """c (k, i) with X c the vectors among the rows, where R is the Cholesky factor."""
        # It is the Cholesky factor that is inverted: the triangle of a QR may be singular.
        columns: Tensor = torch.linalg.solve_triangular(self.root.to(vectors), vectors.T, upper=True)
        return columns.T

    def among_rows(self, vectors: Tensor) -> Tensor:
        """Vectors (k, r) of the matrix as vectors (k, m), orthonormal like them."""
        if self.by_gram:
            return self.coefficients(vectors) @ self.rows.T
        return vectors if self._basis is None else vectors @ self._basis.T


def _by_gram(rows: Tensor) -> tuple[Tensor, Tensor] | None:
    """XᵀX and its Cholesky factor R; None where rows are few, or so nearly dependent that R is that of a QR."""
    if len(rows) <= rows.shape[1]:
        return None
    gram = _gram(rows)
    root, failed = torch.linalg.cholesky_ex(gram, upper=True)
    sizes = root.diagonal().square()
    well = not int(failed) and bool(sizes.min() > WELL_CONDITIONED[rows.dtype] * sizes.max())
    return (gram, root) if well else None


def _gram(rows: Tensor) -> Tensor:
    """XᵀX, of whose blocks those below the diagonal are copied."""
    columns = rows.T.contiguous()
    dim = len(columns)
    gram = rows.new_empty(dim, dim)
    for start in range(0, dim, GRAM_BLOCK):
        block = slice(start, start + GRAM_BLOCK)
        gram[block, start:] = product(columns[block], columns[start:])
        gram[start + GRAM_BLOCK :, block] = gram[block, start + GRAM_BLOCK :].T
    return gram


def _eigh(kernel: Kernel, d: Dictionary, k: int | None, *, duals: bool) -> Spectrum:
    q, rows, codes, power = _over(kernel, d, duals=duals)
    most = min(rows.shape)
    k = None if k is None else whole("k", k, 1, most, hint="choose k in that range, or leave it out for all")
    few = q.left.dtype == torch.float32 and k is not None and 8 * k <= most
    found = _by_gram(rows) if few else None
    single = found is not None
    if not single:
        q, rows = _double(q), rows.double()
        found = _by_gram(rows)
    small = _Small(q, rows, found)
    values, turn = symmetric.eigh(small.matrix)
    order = values.abs().argsort(descending=True, stable=True)
    values, turn = values[order].double(), turn.T[order[:k]].double()
    if single:
        kept, vectors, residuals = _refined(small, turn)
    else:
        kept, vectors = values[:k], small.among_rows(turn)
        image = small.q.matvec(vectors @ small.rows) @ small.rows.T
        residuals = torch.linalg.vector_norm(image - kept[:, None] * vectors, dim=1)
    like = kernel.left
    # What is said must hold for what is returned, which is rounded.
    rounding = torch.finfo(like.dtype).eps * values[0].abs()
    return Spectrum(
        _fitting(kept * power, like),
        signed(vectors).to(like),
        _fitting((residuals + rounding) * power, like),
        _fitting((values[len(kept)].abs() if len(kept) < len(values) else values.new_zeros(())) * power, like),
        _fitting(values.square().sum() * power.square(), like),
        codes,
        kernel.label,
    )


def _double(q: Kernel) -> Kernel:
    return Kernel(q.left.double(), q.right.double(), q.weights.double(), q.input)


def _refined(small: _Small, turn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rayleigh and Ritz in float64 on vectors F c found in float32: λ (k,), vectors (k, m), residuals (k,).

    With x = FᵀF c, the products of the vectors with one another are cᵀx, and those through the kernel xᵀQx. What is
    left of a pair is F e with e = Q x − λ c, whose length needs no more of FᵀF than its float32 form.
    """
    c = small.coefficients(turn)
    vectors, x = c.new_empty(len(c), len(small.rows)), torch.zeros_like(c)
    some = max(1, ROWS // (8 * small.rows.shape[1]))
    for start in range(0, len(small.rows), some):
        atoms = small.rows[start : start + some].double()
        part = c @ atoms.T
        vectors[:, start : start + some] = part
        x += part @ atoms
    image = _double(small.q).matvec(x)
    triangle = torch.linalg.cholesky(c @ x.T)  # vectors = triangle · orthonormal ones
    half = torch.linalg.solve_triangular(triangle, x @ image.T, upper=False)
    values, columns = symmetric.eigh(torch.linalg.solve_triangular(triangle, half.T, upper=False))
    order = values.abs().argsort(descending=True, stable=True)
    values, to = values[order], torch.linalg.solve_triangular(triangle.T, columns[:, order], upper=True).T
    left = to @ image - values[:, None] * (to @ c)
    residuals = (left * (left @ small.gram.double())).sum(dim=1).clamp(min=0).sqrt()
    return values, to @ vectors, residuals
