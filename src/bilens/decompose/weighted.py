"""Eigenvectors of a kernel in the metric of the data: the pairs that matter most on average."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bilens._internal import checks
from bilens._internal.checks import instance
from bilens._internal.scale import times_two_to
from bilens._internal.shown import line
from bilens.decompose import linalg, metric
from bilens.decompose.linalg import at_least_single, detach, fitting, folded, gamma, kernel_near_one, signed, symmetric
from bilens.kernel import Kernel
from bilens.space import Space


@dataclass(frozen=True, eq=False, repr=False)
class WeightedSpectrum:
    """Eigenpairs in the metric of the data: u·y = Σ_k μ_k (p_k·x')², each (p_k·x')² of mean 1 over the data.

    The mean error of keeping some pairs is at most the sum of the other |μ|, because E(p_k·x')² = 1.

    Args:
        values: μ, (k,), largest |μ| first; readers: p, (k, i), with P Σ Pᵀ = I.
        discarded: the bound on E|u·y − reconstruct(x)| over data of that Σ, a number: Σ|μ| of the pairs left out, and
            what rounding of the values and readers as they stand, of Σ's roots and of `reconstruct` adds, rounded up.
        input: the space of x; label: what the kernel's direction stands for.

    Raises:
        ShapeError: the shapes do not fit together.
    """

    values: Float[Tensor, " k"]
    readers: Float[Tensor, "k i"]
    discarded: Float[Tensor, ""]
    input: Space
    label: str = ""

    __repr__ = line

    def __post_init__(self) -> None:
        checks.fields(self)
        detach(self)
        checks.shapes(self, i=self.input.dim)

    def __len__(self) -> int:
        return len(self.values)

    def terms(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n k"]:
        """μ_k (p_k·x')² for each sample and pair. Types, gradient and errors: as `Spectrum.terms`."""
        return self._terms(x).to(self.values.dtype)

    def reconstruct(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n"]:
        """Σ_k μ_k (p_k·x')² over the kept pairs, summed in float64. Types and errors: as `terms`."""
        return self._terms(x).sum(dim=-1).to(self.values.dtype)

    def _terms(self, x: Tensor) -> Tensor:
        return (folded(self.input, x, self.readers) @ self.readers.double().T).square() * self.values.double()


@torch.no_grad()
def second_moment(x: Float[Tensor, "n d"], input: Space) -> Float[Tensor, "i i"]:
    """Σ = E[x' x'ᵀ] of samples, one per row, over the folded input, in float64; batch by batch. No gradients.

    Raises:
        BilensError: x is no tensor of finite floating-point numbers. ShapeError: it is not (n, `input.size`).
    """
    instance("input", input, Space)
    checks.samples("x", x, input.size)
    total = torch.zeros(input.dim, input.dim, dtype=torch.float64, device=x.device)
    for start in range(0, max(len(x), 1), 8192):
        rows = folded(input, x[start : start + 8192], x)
        total += rows.T @ rows
    return total / max(len(x), 1)


@torch.no_grad()
def eigh_weighted(kernel: Kernel, second_moment: Float[Tensor, "i i"], k: int | None = None) -> WeightedSpectrum:
    """The k pairs that matter most on average: eigenpairs of Σ^½ Q Σ^½, read back into the input space.

    With x' = Σ^½ z and E[z zᵀ] = I, u·y = zᵀ(Σ^½ Q Σ^½)z = Σ μ_k (w_k·z)²; the readers are p_k = (Σ^½)⁺ w_k, exact for
    every x' in the range of Σ, where all of the data lies.

    The bound on the mean error, `discarded`, is measured on what is returned: E|x'ᵀΔx'| is at most the sum of
    |eigenvalues| of Σ^½ Δ Σ^½ with Δ = Q − Σ_k μ_k p_k p_kᵀ. What rounding adds is about 1e-7 of ‖Q‖ tr Σ in float32,
    1e-11 in float64, and 1e-7 where Σ is singular: from Σ in float64, whether data lie in its range
    is known to √1e-16 only. Coordinates that are 0 in all of Σ are exempt.

    Args:
        kernel: Q; second_moment: Σ = E[x' x'ᵀ] over the folded input, (i, i); k: how many pairs, all when None.

    Returns:
        A `WeightedSpectrum` in the kernel's type, in float32 for bfloat16 and float16; float64 inside. No gradients.

    Raises:
        BilensError: k out of range, Σ has a clearly negative eigenvalue, or numbers outside the range of the type.
        ShapeError: Σ of another size.

    Source: `docs/theory.md`, "The truncation certificate".
    """
    instance("kernel", kernel, Kernel)
    k = linalg.some(k, kernel.input.dim)
    dim = kernel.input.dim
    moment, variances, axes, held, alive, half = metric.roots(second_moment, dim)
    double, power = kernel_near_one(kernel)
    roots, columns = variances[held].sqrt(), axes[:, held]
    scaled = columns * roots  # Σ^½ up to a rotation, which the eigenvectors of the product absorb
    matrix = double.dense()[alive][:, alive]
    values, turn = linalg.eigh(symmetric(scaled.T @ (matrix @ scaled))) if len(roots) else (roots, scaled[:0])
    order = values.abs().argsort(descending=True, stable=True)[:k]
    count = dim if k is None else k
    mu, readers = values.new_zeros(count), values.new_zeros(count, dim)
    mu[: len(order)] = values[order]
    readers[: len(order), alive] = signed(((columns / roots) @ turn[:, order]).T)
    dtype, noise = at_least_single(kernel.left.dtype), 1e-12 * float(linalg.size(double))
    mu = fitting(mu, power + 2 * half, dtype, noise=noise)
    readers = fitting(readers, -half, dtype, "readers")
    mean = _mean_error(
        double,
        matrix,
        (times_two_to(mu.double(), -power - 2 * half), times_two_to(readers.double(), half)[:, alive]),
        torch.finfo(dtype).eps,
        (moment, variances, axes),
    )
    discarded = linalg.fitting_upward(mean, power + 2 * half, dtype)
    return WeightedSpectrum(mu, readers, discarded, kernel.input, kernel.label)


def _mean_error(
    kernel: Kernel, matrix: Tensor, returned: tuple[Tensor, Tensor], unit: float, data: tuple[Tensor, Tensor, Tensor]
) -> Tensor:
    """E|x'ᵀQx' − Σ_k μ_k (p_k·x')²|, at most, over data of a second moment Σ, with all rounding.

    −Σ ≤ E[s x'x'ᵀ] ≤ Σ for the sign s of the error, so that it is at most Σ|eigenvalues of Aᵀ Δ A| for any A with
    A Aᵀ ≥ Σ.

    Args:
        kernel: near 1; matrix: Q as formed from it, over the coordinates that count.
        returned: μ and the readers as they are returned; unit: the rounding of their type.
        data: Σ, its eigenvalues and its eigenvectors, one per column.
    """
    (mu, readers), (moment, variances, axes) = returned, data
    n, size = len(matrix), linalg.size(kernel)
    if not n:
        return size.new_zeros(())
    off = linalg.misfit(moment, variances, axes.T, 0, size)  # by which Σ may exceed what its eigenpairs make
    above = axes * (variances.clamp(min=0) + 1.01 * off).sqrt()
    trace = above.square().sum()
    delta = matrix - (readers.T * mu) @ readers
    sizes, lengths = mu.abs(), readers.norm(dim=1)
    formed = gamma(len(kernel.left) + 4) * size + gamma(len(mu) + 4) * (sizes * lengths.square()).sum()
    product = symmetric(above.T @ (delta @ above))
    # The eigenvalues are right to n roundings of the norm, as LAPACK's are.
    wrong = gamma(2 * n + 6) * n**0.5 * trace * delta.norm() + gamma(n) * n * product.norm()
    squares = (readers @ above).norm(dim=1).square().amax() * (1 + gamma(n + 4)) if len(mu) else trace * 0
    evaluated = 2 * gamma(n + 2) * (trace * squares).sqrt() * (sizes * lengths).sum()
    summed = (gamma(len(mu) + 3) + unit) * sizes.sum() * squares
    mean: Tensor = linalg.eigvalsh(product).abs().sum() + formed * trace + wrong + evaluated + summed
    return mean
