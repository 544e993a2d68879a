"""Spectra of a kernel in the features of a dictionary, without a matrix of features × features."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bilens._internal.checks import instance, trusted
from bilens._internal.scale import NEAR, times_two_to
from bilens.decompose import linalg
from bilens.decompose.eigen import Spectrum
from bilens.decompose.linalg import at_least_single, fitting, gamma, kernel_near_one, signed, upward
from bilens.dictionary import Dictionary
from bilens.kernel import Kernel
from bilens.space import Space
from bilens.tensor import BilinearTensor

WELL_CONDITIONED = {torch.float32: 1e-3, torch.float64: 1e-6}
"""Least over largest squared diagonal entry of the Cholesky factor of FᵀF from which on it is used; below, F is
factorised by QR, which costs more."""

GRAM_BLOCK = 128
"""Columns of F at a time in FᵀF, of which only the blocks on and above the diagonal are computed."""

ROWS = 2**22
"""Bytes of atoms to convert to float64 at a time, few enough to stay in a cache."""

ALLOWANCE = {torch.float32: 1e-5, torch.float64: 1e-9}
"""Share of the largest |λ| by which `discarded` is raised where K and R Q Rᵀ are in either type: far more than was ever
measured, but no proof."""


@torch.no_grad()
def eigh_pullback(kernel: Kernel, d: Dictionary, k: int | None = None) -> Spectrum:
    """The k eigenpairs largest in |λ| of F Q Fᵀ, the kernel as a function of codes, a ↦ Q(Fᵀa): (m, m), never built.

    Examples:
        >>> Q = Kernel.from_matrix(torch.eye(2), Space("x", 2))
        >>> atoms = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 0.0]])
        >>> eigh_pullback(Q, Dictionary.from_atoms(atoms, Space("x", 2))).values  # of F Fᵀ, its 0 left out
        tensor([4., 2.])

    With the Gram matrix of the atoms and its Cholesky factor, K = FᵀF = RᵀR (i, i), the eigenvalues that are not 0 are
    those of R Q Rᵀ, and a vector w there is F R⁻¹ w among the codes. Where atoms are nearly dependent, R is that of a
    QR factorisation F = P R. An affine dictionary adds the atom [b; 1].

    Args:
        kernel: Q; d: atoms F, (m, i); k: how many pairs, 1 … min(m, i), all of these when None. The other eigenvalues,
            m − i of them at least, are 0.

    Returns:
        A `Spectrum` over the codes, in the kernel's type, in float32 for bfloat16 and float16. No gradients. For a
        kernel in float64, or all pairs, everything is computed in float64. For at most i/8 pairs of other kernels, K
        and R Q Rᵀ are in float32, and the pairs are then refined in float64 (Rayleigh and Ritz, with F itself), so that
        they are as right; `discarded` and `energy` are right to about 1e-6 of the largest |λ|, and of its square
        times i. `discarded` is raised by 1e-9 of the largest |λ|, or by 1e-5 where the products were in float32;
        `residuals` are those of the rounded pairs, with the worst case of float64, 1e-16 (m + h + 2i) ‖F‖² Σ|w|‖L‖‖R‖.

    Cost: m i² operations for K, h i² and i³ for the rest, and O(m i k) for the vectors, against O(m² i + m³). Floor: λ
    is right to about 1e-16 · ‖F‖²‖Q‖, spectral norms, which is far above the largest |λ| where Q lies along directions
    in which the atoms are weak.

    Raises:
        SpaceError: the dictionary is over another space than the kernel. BilensError: k out of range, or eigenvalues
            or their squares outside the range of the type.

    Source: `docs/theory.md`, "Features of the input".
    """
    return _eigh(kernel, d, k, duals=False)


@torch.no_grad()
def eigh_coordinates(kernel: Kernel, d: Dictionary, k: int | None = None) -> Spectrum:
    """The k eigenpairs largest in |λ| of the least-norm coordinates C of the kernel, with Σ_ab C_ab f_a f_bᵀ = Q.

    C = F⁺ᵀ Q F⁺, with the duals instead of the atoms of `eigh_pullback`. This is not the pullback: see there
    and `BilinearTensor.coordinates`.

    Args, Returns, Cost and Raises: as `eigh_pullback`.
    """
    return _eigh(kernel, d, k, duals=True)


@torch.no_grad()
def eigvalsh_pullback(kernel: Kernel, d: Dictionary) -> Float[Tensor, " n"]:
    """The min(m, i) eigenvalues of F Q Fᵀ that are not 0 by its rank, largest |λ| first, without vectors.

    Args:
        kernel, d: as `eigh_pullback`.

    Returns:
        λ in the kernel's type, computed in it, in float32 for bfloat16 and float16: right to about ε · ‖F‖²‖Q‖,
        ε = 1e-7 for float32, which is far above the largest |λ| where Q lies along directions in which the atoms are
        weak. No gradients.

    Cost: as `eigh_pullback` without vectors.

    Raises:
        SpaceError: the dictionary is over another space than the kernel. BilensError: eigenvalues outside the range of
            the type.

    Source: `docs/theory.md`, "Features of the input".
    """
    q, rows, _, power = _over(kernel, d, duals=False)
    work = at_least_single(kernel.left.dtype)
    q, rows = _in(q, work), rows.to(work)
    values: Tensor = linalg.eigvalsh(_Small(q, rows, _by_gram(rows)).matrix).double()
    noise = torch.finfo(rows.dtype).eps * float(_size(q, rows))
    return fitting(values[values.abs().argsort(descending=True, stable=True)], power, rows.dtype, noise=noise)


def _over(kernel: Kernel, d: Dictionary, *, duals: bool) -> tuple[Kernel, Tensor, Space, int]:
    """The kernel and the atoms or duals (m, i) over the same input, folded when either needs it; space of the codes.

    Both near 1, the kernel in float64 and the rows in a type that holds them, and the exponent of the power of two by
    which eigenvalues are too small.
    """
    instance("kernel", kernel, Kernel)
    instance("dictionary", d, Dictionary)
    output = Space("kernel", 1)
    single = trusted(BilinearTensor, kernel.left, kernel.right, kernel.weights[None], kernel.input, output)
    tensor, d = single.match(d)
    near, power = kernel_near_one(trusted(Kernel, tensor.left, tensor.right, tensor.down[0], tensor.input, ""))
    rows = (d.duals if duals else d.atoms).detach().to(tensor.left.device)
    rows = rows.to(at_least_single(rows.dtype))
    exponent = int(torch.frexp(rows.abs().max()).exponent)
    if abs(exponent) < NEAR:  # as good as near 1, and no copy
        return near, rows, d.features, power
    return near, times_two_to(rows.double(), -exponent).to(rows.dtype), d.features, power + 2 * exponent


def _size(q: Kernel, rows: Tensor) -> Tensor:
    """‖F‖² Σ_h |w_h| ‖L_h‖ ‖R_h‖, Frobenius: at least ‖F Q Fᵀ‖ with every term replaced by its absolute value."""
    size: Tensor = linalg.size(q).double() * rows.norm().double().square()
    return size


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
        small = self.root @ q.dense() @ self.root.T
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
        gram[block, start:] = columns[block] @ columns[start:].T
        gram[start + GRAM_BLOCK :, block] = gram[block, start + GRAM_BLOCK :].T
    return gram


def _eigh(kernel: Kernel, d: Dictionary, k: int | None, *, duals: bool) -> Spectrum:
    q, rows, codes, power = _over(kernel, d, duals=duals)
    most = min(rows.shape)
    k = linalg.some(k, most)
    both = at_least_single(kernel.left.dtype) == rows.dtype == torch.float32
    found = _by_gram(rows) if both and k is not None and 8 * k <= most else None
    single = found is not None
    if single:
        q = _in(q, torch.float32)
    else:
        rows = rows.double()
        found = _by_gram(rows)
    small = _Small(q, rows, found)
    values, turn = linalg.eigh(small.matrix)
    order = values.abs().argsort(descending=True, stable=True)
    values, turn = values[order].double(), turn.T[order[:k]].double()
    if single:
        kept, vectors, residuals = _refined(small, turn)
    else:
        kept, vectors = values[:k], small.among_rows(turn)
        image = small.q.matvec(vectors @ small.rows) @ small.rows.T
        residuals = torch.linalg.vector_norm(image - kept[:, None] * vectors, dim=1)
    dtype, size = at_least_single(kernel.left.dtype), _size(q, rows)
    steps = len(rows) + len(q.left) + 2 * rows.shape[1] + 10
    noise = 2 * torch.finfo(torch.float32 if single else torch.float64).eps * float(size)
    vectors = signed(vectors)
    # What is stated must hold for the rounded pairs returned: C moves a vector by at most |λ₁| times its length.
    rounded, v = fitting(kept, power, dtype, noise=noise), vectors.to(dtype)
    largest, moved = values[0].abs(), torch.linalg.vector_norm(v.double() - vectors, dim=1)
    off = (times_two_to(rounded.double(), -power) - kept).abs()
    residuals = (1.01 if single else 1) * residuals + 1.01 * (largest + kept.abs()) * moved + off + gamma(steps) * size
    rest = values[len(kept)].abs() if len(kept) < len(values) else values.new_zeros(())
    discarded = rest + ALLOWANCE[torch.float32 if single else torch.float64] * largest + gamma(steps) * size
    if len(kept) == codes.dim:
        discarded = torch.zeros_like(rest)
    return Spectrum(
        rounded,
        v,
        upward(times_two_to(residuals, power), dtype),
        upward(times_two_to(discarded, power), dtype),
        fitting(values.square().sum(), 2 * power, torch.float64, "squares of eigenvalues", noise**2),
        codes,
        kernel.label,
    )


def _in(q: Kernel, dtype: torch.dtype) -> Kernel:
    return trusted(Kernel, q.left.to(dtype), q.right.to(dtype), q.weights.to(dtype), q.input, q.label)


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
    image = _in(small.q, torch.float64).matvec(x)
    triangle = torch.linalg.cholesky(c @ x.T)  # vectors = triangle · orthonormal ones
    half = torch.linalg.solve_triangular(triangle, x @ image.T, upper=False)
    values, columns = linalg.eigh(torch.linalg.solve_triangular(triangle, half.T, upper=False))
    order = values.abs().argsort(descending=True, stable=True)
    values, to = values[order], torch.linalg.solve_triangular(triangle.T, columns[:, order], upper=True).T
    left = to @ image - values[:, None] * (to @ c)
    residuals = (left * (left @ small.gram.double())).sum(dim=1).clamp(min=0).sqrt()
    return values, to @ vectors, residuals
