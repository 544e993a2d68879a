"""Eigenvectors of a convolution's kernel and the singular values of its tensor: Lanczos, never unfolded."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse.linalg
import torch
from torch import Tensor

from bilens._internal.checks import instance
from bilens._internal.scale import near_one, times_two_to
from bilens.convolution import ConvKernel, ConvTensor
from bilens.decompose import linalg
from bilens.decompose.eigen import Spectrum, eigh
from bilens.decompose.linalg import gamma, signed
from bilens.kernel import Kernel

SMALL = 64
"""Size of a kernel up to which it is formed: a matrix so small costs no more than its products."""


@torch.no_grad()
def eigh_conv(kernel: ConvKernel, k: int | None = None) -> Spectrum:
    """The k eigenpairs of a convolution's kernel largest in |λ|, by Lanczos on convolutions, or all of them.

    Examples:
        >>> from bilens.convolution import ConvTensor
        >>> W = torch.ones(1, 1, 1, 2)  # (x₀ + x₁)² at one position, (x₁ + x₂)² at the other
        >>> eigh_conv(ConvTensor.from_filters(W, W, image=(1, 3)).kernel(torch.ones(2)), 2).values
        tensor([3., 1.])

    With more than a quarter of the pairs asked for, or few pixels, the i × i matrix is made from products and solved
    whole, and the layer of h·p units still is not.

    Args:
        kernel: Q; k: how many pairs, from 1 to `input.dim`; all when None.

    Returns:
        A `Spectrum`, as `eigh` gives; its `discarded` is the root of the energy that is left where Lanczos was used:
        more than the next |λ|, and a bound whether or not Lanczos has found every pair.

    Cost: per product four convolutions; about 2 k to 10 k products. Floor: |λ| is exact to about 2e-16 · max |λ| · i,
    and `discarded` not below 1e-7 ‖Q‖, where squares cancel.

    Raises:
        BilensError: k out of range, or eigenvalues or their squares outside the range of the type.
    """
    instance("kernel", kernel, ConvKernel)
    dim = kernel.input.dim
    k = linalg.some(k, dim)
    double, power = _near_one(kernel)
    found = None if k is None or dim <= SMALL or 4 * k > dim else _lanczos(double, k)
    if found is None:
        whole = eigh(Kernel.from_matrix(double.dense(), kernel.input, kernel.label), k)
        values, vectors, discarded = whole.values, whole.vectors, whole.discarded
    else:
        values, vectors = found
        discarded = None
    dtype, energy = kernel.left.dtype, double.norm().square()
    size = _size(double)
    noise = gamma(2 * double.geometry.taps + dim) * float(size)
    rounded = linalg.fitting(values, power, dtype, noise=noise), vectors.to(dtype)
    v = rounded[1].double()
    given = times_two_to(rounded[0].double(), -power)
    lost = gamma(4 * double.geometry.taps + 2 * len(double.left) + dim) * size
    residuals = (double.matvec(v) - given[:, None] * v).norm(dim=1) + lost * v.norm(dim=1)
    if discarded is None:
        # On the complement of the vectors Q has what is left of its energy, and what rounding hid of either sum.
        left = (energy - given.square().sum()).clamp(min=0)
        discarded = (left + (gamma(8 * dim) + 4 * torch.finfo(dtype).eps) * energy).sqrt() + residuals.norm() + lost
    else:
        discarded = discarded + 2 * lost if len(values) < dim else discarded
    return Spectrum(
        *rounded,
        linalg.fitting_upward(residuals, power, dtype),
        linalg.fitting_upward(discarded, power, dtype),
        linalg.fitting(energy, 2 * power, torch.float64, "squares of eigenvalues", noise**2),
        kernel.input,
        kernel.label,
    )


@torch.no_grad()
def svd_conv(tensor: ConvTensor) -> tuple[Tensor, Tensor]:
    """Singular values and output directions of a convolution with a read-out, as an o × i² matrix.

    The o × o Gram of its kernels, from autocorrelations, has their squares as eigenvalues. `tensor.kernel(direction)`
    over σ_s is the s-th right singular kernel.

    Examples:
        >>> from bilens.convolution import ConvTensor
        >>> W = torch.ones(1, 1, 1, 1)
        >>> svd_conv(ConvTensor.from_filters(W, W, image=(1, 2)))[0]  # x₀² and x₁²
        tensor([1., 1.])

    Returns:
        σ, (o,), largest first, and directions, (o, o), one per row, in the tensor's type. Floor: as `svd`, a Gram
        squares the condition number, so that σ below 1e-8 · √o · σ₁ is noise.

    Raises:
        BilensError: a squared norm beyond the range of float64.
    """
    instance("tensor", tensor, ConvTensor)
    values, vectors = linalg.eigh(tensor.gram())
    dtype = tensor.patch.left.dtype
    return values.flip(0).clamp(min=0).sqrt().to(dtype), signed(vectors.flip(1).T).to(dtype)


def _near_one(kernel: ConvKernel) -> tuple[ConvKernel, int]:
    """The kernel in float64 over a power of two."""
    near = [near_one(part.double()) for part in (kernel.left, kernel.right, kernel.weights)]
    power = sum(int(torch.frexp(size).exponent) - 1 for _, size in near)
    return ConvKernel(near[0][0], near[1][0], near[2][0], kernel.geometry, kernel.input, kernel.label), power


def _size(kernel: ConvKernel) -> Tensor:
    """Σ_hp |w_hp| ‖L_h‖ ‖R_h‖: at least the norm of Q with every term replaced by its absolute value."""
    norms = kernel.left.norm(dim=1) * kernel.right.norm(dim=1)
    size: Tensor = (kernel.weights.abs().sum(dim=1) * norms).sum()
    return size


def _lanczos(kernel: ConvKernel, k: int) -> tuple[Tensor, Tensor] | None:
    """The k pairs largest in |λ|, from products with vectors; None where Lanczos does not end."""
    dim, device = kernel.input.dim, kernel.left.device

    def product(vector: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        given = torch.from_numpy(np.ascontiguousarray(vector.reshape(-1))).to(device)
        found: npt.NDArray[np.float64] = kernel.matvec(given).cpu().numpy()
        return found

    operator = scipy.sparse.linalg.LinearOperator((dim, dim), matvec=product, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(dim)
    try:
        vectors = scipy.sparse.linalg.eigsh(operator, k, which="LM", v0=start, tol=0)[1]
    except scipy.sparse.linalg.ArpackError:
        return None
    rows = torch.linalg.qr(torch.from_numpy(vectors.copy()).to(device))[0].T
    # The best within the span that was found (Rayleigh and Ritz).
    values, columns = linalg.eigh(linalg.symmetric(kernel.matvec(rows) @ rows.T))
    rows = columns.T @ rows
    order = values.abs().argsort(descending=True, stable=True)
    return values[order], signed(rows[order])
