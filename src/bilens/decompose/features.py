"""Spectra of a kernel in the features of a dictionary, without a matrix of features × features."""

from __future__ import annotations

import torch
from torch import Tensor

from bilens.decompose.eigen import Spectrum
from bilens.dictionary import Dictionary
from bilens.errors import BilensError
from bilens.space import Space
from bilens.tensor import BilinearTensor, Kernel

WELL_CONDITIONED = 1e-6
"""Least over largest eigenvalue of FᵀF from which on it is used; below, F is factorised by QR, which costs more."""


def eigh_pullback(kernel: Kernel, d: Dictionary, k: int | None = None) -> Spectrum:
    """The k eigenpairs largest in |λ| of F Q Fᵀ, the kernel as a function of codes, a ↦ Q(Fᵀa): (m, m), never built.

    With the Gram matrix of the atoms K = FᵀF = U S Uᵀ (i, i), the eigenvalues that are not 0 are those of
    S^½ Uᵀ Q U S^½, and a vector w there is F U S^-½ w among the codes. Atoms that are nearly dependent are factorised
    as F = P R in place of this, with the eigenvalues of R Q Rᵀ. An affine dictionary adds the atom [b; 1].

    Args:
        kernel: Q; d: atoms F, (m, i); k: how many pairs, 1 … min(m, i), all of these when None. The other eigenvalues,
            m − i of them at least, are 0.

    Returns:
        A `Spectrum` over the codes, in the kernel's type; float64 inside.

    Cost: O(m i² + h i² + i³) and O(m i k) for the vectors, against O(m² i + m³). Floor: λ is right to about 1e-16 · i
    of the largest |λ|.

    Raises:
        SpaceError: the dictionary is over another space than the kernel. BilensError: k out of range.

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


def _eigh(kernel: Kernel, d: Dictionary, k: int | None, *, duals: bool) -> Spectrum:
    single = BilinearTensor(kernel.left, kernel.right, kernel.weights[None], kernel.input, Space("kernel", 1))
    tensor, d = single.match(d)
    rows = (d.duals if duals else d.atoms).to(tensor.left.device, torch.float64)
    q = Kernel(tensor.left.double(), tensor.right.double(), tensor.down[0].double(), tensor.input)
    most = min(rows.shape)
    if k is not None and not (type(k) is int and 1 <= k <= most):
        raise BilensError(f"k = {k}", f"1 ≤ k ≤ {most}", "choose k in that range, or leave it out for all")
    root, back = _root(rows)
    small = root @ q.matvec(root).T
    values, turn = torch.linalg.eigh((small + small.T) / 2)
    order = values.abs().argsort(descending=True, stable=True)
    values, turn = values[order], turn.T[order]
    vectors = turn[:k] @ back
    kept = len(vectors)
    residuals = torch.linalg.vector_norm(q.matvec(vectors @ rows) @ rows.T - values[:kept, None] * vectors, dim=1)
    peak = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
    like = kernel.left
    discarded = values[kept].abs() if kept < len(values) else values.new_zeros(())
    return Spectrum(
        values[:kept].to(like),
        torch.where(peak < 0, -vectors, vectors).to(like),
        residuals.to(like),
        discarded.to(like),
        values.square().sum().to(like),
        d.features,
        kernel.label,
    )


def _root(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows X (m, i) as Pᵀ R: R (r, i), and P (r, m) with orthonormal rows."""
    if len(rows) <= rows.shape[1]:
        return rows, torch.eye(len(rows), dtype=rows.dtype, device=rows.device)
    squares, axes = torch.linalg.eigh(rows.T @ rows)
    if bool(squares[0] > WELL_CONDITIONED * squares[-1]):
        root = squares.sqrt()
        return root[:, None] * axes.T, (rows @ (axes / root)).T
    basis, triangle = torch.linalg.qr(rows)
    return triangle, basis.T
