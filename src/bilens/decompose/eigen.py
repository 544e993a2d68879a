"""Eigenvectors of a kernel: the linear kernels that a feature's quadratic kernel is made of."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.checks import instance, reals, whole
from bilens.decompose import symmetric
from bilens.decompose.sign import signed
from bilens.errors import BilensError, ShapeError
from bilens.space import Space
from bilens.tensor import Kernel


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenpairs of a kernel, largest |λ| first: u·y = Σ_k λ_k (v_k·x')², exact when all are kept.

    Args:
        values: λ, (k,); vectors: v, (k, i), orthonormal rows over the folded input.
        residuals: ‖Q v_k − λ_k v_k‖, (k,), measured with the factors.
        discarded: max |λ| of the pairs that were not kept, a number; 0 when all are.
        energy: ‖Q‖² = Σ λ² over all pairs, a number.
        input: the space of x; label: what the kernel's direction stands for.

    Raises:
        ShapeError: the shapes do not fit together.

    Source: founding draft, "Eigenvectors of the quadratic kernel"; arXiv 2410.08417, section 3.2.
    """

    values: Float[Tensor, " k"]
    vectors: Float[Tensor, "k i"]
    residuals: Float[Tensor, " k"]
    discarded: Float[Tensor, ""]
    energy: Float[Tensor, ""]
    input: Space
    label: str = ""

    def __post_init__(self) -> None:
        k = len(self.values)
        for name, value, shape in (
            ("values", self.values, (k,)),
            ("vectors", self.vectors, (k, self.input.dim)),
            ("residuals", self.residuals, (k,)),
            ("discarded", self.discarded, ()),
            ("energy", self.energy, ()),
        ):
            if tuple(value.shape) != shape:
                raise ShapeError(f"{name} of shape {tuple(value.shape)}", f"{shape}")

    def __len__(self) -> int:
        return len(self.values)

    def keep(self, k: int) -> Spectrum:
        """The first k pairs; the certificate accounts for the ones left out.

        Raises:
            BilensError: k outside 0 … the number of pairs.
        """
        k = whole("k", k, 0, len(self), hint="choose fewer pairs, or compute more")
        discarded = self.values[k].abs().maximum(self.discarded) if k < len(self) else self.discarded
        return replace(
            self, values=self.values[:k], vectors=self.vectors[:k], residuals=self.residuals[:k], discarded=discarded
        )

    def terms(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n k"]:
        """λ_k (v_k·x')² for each sample and pair: an output taken apart; the constant coordinate is added here."""
        return (self.input.lift(x) @ self.vectors.T.to(x)).square() * self.values.to(x)

    def reconstruct(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n"]:
        """Σ_k λ_k (v_k·x')² over the kept pairs."""
        return self.terms(x).sum(dim=-1)

    def bound(self, x_norm: Float[Tensor, "*n"] | float) -> Float[Tensor, "*n"]:
        """The truncation certificate: |u·y − reconstruct(x)| ≤ max |λ discarded| · ‖x'‖².

        Args:
            x_norm: ‖x'‖, the norm of the folded input, `input.lift(x).norm(dim=-1)`.
        """
        return self.discarded * reals("x_norm", x_norm, self.discarded).square()

    def effective_rank(self) -> float:
        """(Σ|λ| / ‖λ‖₂)²: how many eigenvalues of equal size would spread as widely.

        Raises:
            BilensError: pairs with λ ≠ 0 were left out, so that the sum is not known.
        """
        if float(self.discarded) > 0:
            raise BilensError(f"{len(self)} pairs, not all", "every eigenpair", "call eigh without k")
        values = self.values.double()
        return float(values.abs().sum() ** 2 / values.square().sum().clamp(min=torch.finfo(values.dtype).tiny))


def eigh(kernel: Kernel, k: int | None = None) -> Spectrum:
    """The k eigenpairs of Q largest in |λ|, or all of them.

    A kernel of few hidden units is reduced to their span first: with r weights that are not zero, Q lives in the 2r
    dimensions spanned by their rows of L and R.

    Args:
        kernel: Q; k: how many pairs, from 1 to `input.dim`; all when None.

    Returns:
        A `Spectrum` in the kernel's type; float64 inside. Each vector's largest entry is positive.

    Cost: O(i²·(h + i)) when formed, O(i·r² + r³) when reduced. Floor: |λ| is exact to about 2e-16 · max |λ| · i.

    Raises:
        BilensError: k out of range.

    Source: founding draft; arXiv 2410.08417, section 3.2.
    """
    k = _check_k(kernel, k)
    dim = kernel.input.dim
    used = (kernel.weights != 0).nonzero()[:, 0]
    double = Kernel(
        kernel.left[used].double() if len(used) else kernel.left[:1].double(),
        kernel.right[used].double() if len(used) else kernel.right[:1].double(),
        kernel.weights[used].double() if len(used) else kernel.weights[:1].double(),
        kernel.input,
        kernel.label,
    )
    if 2 * len(used) < dim and k is not None and k <= 2 * len(used):
        basis = torch.linalg.qr(torch.cat([double.left, double.right]).T)[0].T
        values, coefficients = symmetric.eigh(_symmetric(double.matvec(basis) @ basis.T))
        vectors = coefficients.T @ basis
    else:
        values, columns = symmetric.eigh(double.dense())
        vectors = columns.T
    order = values.abs().argsort(descending=True, stable=True)
    discarded = values[order[k]].abs() if k is not None and k < len(order) else values.new_zeros(())
    kept = order[:k]
    values, vectors, energy = values[kept], signed(vectors[kept]), values.square().sum()
    residuals = (double.matvec(vectors) - values[:, None] * vectors).norm(dim=1)
    like = kernel.left
    return Spectrum(
        values.to(like),
        vectors.to(like),
        residuals.to(like),
        discarded.to(like),
        energy.to(like),
        kernel.input,
        kernel.label,
    )


@dataclass(frozen=True, eq=False)
class WeightedSpectrum:
    """Eigenpairs in the metric of the data: u·y = Σ_k μ_k (p_k·x')², each (p_k·x')² of mean 1 over the data.

    The mean error of keeping some pairs is at most the sum of the other |μ|, because E(p_k·x')² = 1.

    Args:
        values: μ, (k,), largest |μ| first; readers: p, (k, i), with P Σ Pᵀ = I.
        discarded: Σ|μ| of the pairs left out, a number: the bound on E|error|.
        input: the space of x; label: what the kernel's direction stands for.

    Raises:
        ShapeError: the shapes do not fit together.
    """

    values: Float[Tensor, " k"]
    readers: Float[Tensor, "k i"]
    discarded: Float[Tensor, ""]
    input: Space
    label: str = ""

    def __post_init__(self) -> None:
        k = len(self.values)
        for name, value, shape in (
            ("values", self.values, (k,)),
            ("readers", self.readers, (k, self.input.dim)),
            ("discarded", self.discarded, ()),
        ):
            if tuple(value.shape) != shape:
                raise ShapeError(f"{name} of shape {tuple(value.shape)}", f"{shape}")

    def terms(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n k"]:
        """μ_k (p_k·x')² for each sample and pair."""
        return (self.input.lift(x) @ self.readers.T.to(x)).square() * self.values.to(x)

    def reconstruct(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n"]:
        """Σ_k μ_k (p_k·x')² over the kept pairs."""
        return self.terms(x).sum(dim=-1)


def second_moment(x: Float[Tensor, "n d"], input: Space) -> Float[Tensor, "i i"]:
    """Σ = E[x' x'ᵀ] of samples, one a row, over the folded input, in float64; batch by batch."""
    instance("x", x, Tensor)
    instance("input", input, Space)
    total = torch.zeros(input.dim, input.dim, dtype=torch.float64, device=x.device)
    for start in range(0, len(x), 8192):
        lifted = input.lift(x[start : start + 8192]).double()
        total += lifted.T @ lifted
    return total / max(len(x), 1)


def eigh_weighted(kernel: Kernel, second_moment: Float[Tensor, "i i"], k: int | None = None) -> WeightedSpectrum:
    """The k pairs that matter most on average: eigenpairs of Σ^½ Q Σ^½, read back into the input space.

    With x' = Σ^½ z and E[z zᵀ] = I, u·y = zᵀ(Σ^½ Q Σ^½)z = Σ μ_k (w_k·z)²; the readers are p_k = (Σ^½)⁺ w_k, exact for
    every x' in the range of Σ, where all of the data lies.

    Args:
        kernel: Q; second_moment: Σ = E[x' x'ᵀ] over the folded input, (i, i); k: how many pairs, all when None.

    Raises:
        BilensError: k out of range, or Σ has a clearly negative eigenvalue. ShapeError: Σ of another size.

    Source: `docs/theory.md`, "The truncation certificate".
    """
    k = _check_k(kernel, k)
    dim = kernel.input.dim
    instance("second moment", second_moment, Tensor, hint="compute it with decompose.second_moment")
    if tuple(second_moment.shape) != (dim, dim):
        raise ShapeError(
            f"a second moment of shape {tuple(second_moment.shape)}", f"({dim}, {dim})", "compute it on folded inputs"
        )
    variances, axes = symmetric.eigh(_symmetric(second_moment.double()))
    top = variances.abs().max()
    if bool(variances.min() < -1e-9 * top):
        raise BilensError(
            f"a second moment with eigenvalue {float(variances.min()):.3g}", "none below 0", "pass E[x x'], not more"
        )
    kept_axes = variances > dim * torch.finfo(torch.float64).eps * top
    root = torch.where(kept_axes, variances.clamp(min=0).sqrt(), 0)
    inverse = torch.where(kept_axes, 1 / torch.where(kept_axes, root, 1), 0)
    scaled = axes * root  # Σ^½ up to a rotation, which the eigenvectors of the product absorb
    double = kernel.to(torch.float64)
    values, columns = symmetric.eigh(_symmetric(scaled.T @ double.matvec(scaled.T).T))
    order = values.abs().argsort(descending=True, stable=True)
    kept = order[:k]
    readers = signed(((axes * inverse) @ columns[:, kept]).T)
    like = kernel.left
    discarded = values[order[len(kept) :]].abs().sum()
    return WeightedSpectrum(values[kept].to(like), readers.to(like), discarded.to(like), kernel.input, kernel.label)


def _check_k(kernel: Kernel, k: int | None) -> int | None:
    instance("kernel", kernel, Kernel)
    if k is None:
        return None
    return whole("k", k, 1, kernel.input.dim, hint="choose k in that range, or leave it out for all")


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.T) / 2
