"""Singular value decomposition of a bilinear tensor, as an o × i² matrix, from its factors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bilens import pairs
from bilens._internal import checks
from bilens._internal.checks import instance, trusted, whole
from bilens._internal.scale import near_one
from bilens._internal.shown import line
from bilens.decompose import linalg
from bilens.decompose.linalg import EPSILON, at_least_single, detach, gamma, largest_square, signed, upward
from bilens.errors import BilensError
from bilens.kernel import Kernel
from bilens.space import Space
from bilens.tensor import BilinearTensor


@dataclass(frozen=True, eq=False, repr=False)
class TensorSVD:
    """B_o(x, x) = Σ_s σ_s R_so K_s(x, x): singular values, output directions, and right kernels that stay factored.

    Args:
        values: σ, (k,), largest first; outputs: R, (k, o), orthonormal rows.
        tensor: the tensor that was decomposed.
        residuals: ‖B Bᵀ R_s − σ_s² R_s‖, (k,), of the numbers returned and rounded up: σ_s² is at most that far from
            the square of a singular value.
        energy: ‖B‖² = Σ σ² over all components, a number.
        floor: singular values at or below it are noise, a number.

    Raises:
        ShapeError: the shapes do not fit together.

    Source: founding draft, "MNIST SVD".
    """

    values: Float[Tensor, " k"]
    outputs: Float[Tensor, "k o"]
    tensor: BilinearTensor
    residuals: Float[Tensor, " k"]
    energy: Float[Tensor, ""]
    floor: Float[Tensor, ""]

    __repr__ = line

    def __post_init__(self) -> None:
        checks.fields(self)
        detach(self)
        checks.shapes(self, o=self.tensor.output.dim)

    def __len__(self) -> int:
        return len(self.values)

    @torch.no_grad()
    def kernel(self, s: int) -> Kernel:
        """The s-th right singular "vector": the kernel Q_{R_s} / σ_s, of norm 1.

        Raises:
            BilensError: s out of range, or σ_s at or below the floor, where the quotient is noise.
        """
        s = whole("component", s, 0, len(self) - 1, hint="compute more components")
        if not bool(self.values[s] > self.floor):
            raise BilensError(
                f"component {s} with σ = {float(self.values[s]):.3g}",
                f"σ above the floor {float(self.floor):.3g}",
                "use svd_accurate for the tail",
            )
        direction = self.tensor.kernel(self.outputs[s])
        weights = direction.weights / self.values[s]
        return trusted(Kernel, direction.left, direction.right, weights, direction.input, str(s))

    @torch.no_grad()
    def bound(self, k: int, x_norm: Float[Tensor, "*n"] | float) -> Float[Tensor, "*n"]:
        """The truncation certificate: ‖y − y_k‖ ≤ (σ_{k+1} + rounding) · ‖x'‖², with y_k the output of `truncate(k)`.

        Examples:
            >>> W, x = torch.diag(torch.tensor([2.0, 1.0])), Space("x", 2)
            >>> found = svd(BilinearTensor.from_layer(W, torch.eye(2), input=x, output=Space("y", 2)))
            >>> found.bound(1, 5.0).round(decimals=3)  # σ₂ = 1 and ‖x‖² = 25, beside an error of 16 at x = (3, 4)
            tensor(25.)

        The discarded part is Σ_{s>k} σ_s K_s(x, x) R_s with the K_s orthonormal, so that its norm is at most σ_{k+1}
        times that of x'x'ᵀ. Where σ_{k+1} was not computed, the energy that is left bounds it, rounded up by what the
        subtraction may have lost. Both sides evaluated exactly on their factors as stored; rounding is the floor, which
        is added to σ_{k+1} in squares, and that of the outputs and of `truncate` in their type, about 1e-6 ‖B‖ in
        float32.

        Args:
            k: components kept; x_norm: ‖x'‖, the norm of the folded input.
        """
        k = _check_kept(self, k)
        tensor, unit = self.tensor, torch.finfo(self.values.dtype).eps
        floor, energy = self.floor.double(), self.energy.double()
        if k == tensor.output.dim:
            first, floor = torch.zeros_like(floor), torch.zeros_like(floor)
        elif k < len(self):
            first = self.values[k].double()
        else:
            left = energy - self.values.double().square().sum()
            first = (left.clamp(min=0) + 2 * unit * energy).sqrt()
        sizes = [part.detach().double() for part in (tensor.left, tensor.right, tensor.down.T)]
        terms = (sizes[0].norm(dim=1) * sizes[1].norm(dim=1) * sizes[2].norm(dim=1)).sum()
        off = (first.square() + floor.square()).sqrt() + unit * (terms + 4 * (k + 1) ** 0.5 * energy.sqrt())
        return upward(off * largest_square(x_norm, tensor.input.dim, self.values), self.values.dtype)

    @torch.no_grad()
    def truncate(self, k: int) -> BilinearTensor:
        """The tensor with its top k components: the outputs projected on their directions, down' = R_kᵀ R_k D.

        Examples:
            >>> W, x = torch.diag(torch.tensor([2.0, 1.0])), Space("x", 2)
            >>> found = svd(BilinearTensor.from_layer(W, torch.eye(2), input=x, output=Space("y", 2)))
            >>> found.truncate(1)(torch.tensor([3.0, 4.0]))  # of 18 and 16
            tensor([18.,  0.])

        In the type of the values; the product is in float64. No gradients.

        Raises:
            BilensError: k outside 0 … the number of components.
        """
        k = _check_kept(self, k)
        outputs, tensor = self.outputs[:k].double(), self.tensor.to(self.values.dtype)
        down = outputs.T @ (outputs @ tensor.down.double())
        down = down.to(self.values.dtype)
        return trusted(BilinearTensor, tensor.left, tensor.right, down, tensor.input, tensor.output)


@torch.no_grad()
def svd(tensor: BilinearTensor, k: int | None = None) -> TensorSVD:
    """The top k singular values, output directions and (factored) right kernels of B as an o × i² matrix.

    Examples:
        >>> W, x = torch.diag(torch.tensor([2.0, 1.0])), Space("x", 2)
        >>> svd(BilinearTensor.from_layer(W, torch.eye(2), input=x, output=Space("y", 2))).values.round(decimals=3)
        tensor([2., 1.])

    B Bᵀ = D G Dᵀ with the hidden Gram G = ½[(LLᵀ)∘(RRᵀ) + (LRᵀ)∘(RLᵀ)], so σ² and R are its eigenpairs.

    Args:
        tensor: B; k: how many components, from 1 to `output.dim`; all when None.

    Cost: two and a half (h, i)·(i, h) products, two (o, h)·(h, ·) products (none before the read-out, where D is the
    identity) and one o × o eigenproblem, of which at most o/8 pairs are solved for alone, all in float64; memory
    O(h² + o²). Floor: a Gram squares the condition number, so σ below √(max(o, h)·ε)·σ₁ is noise, about
    1e-8·√max(o, h)·σ₁ (`floor`);
    `svd_accurate` gives the tail.

    Returns:
        A `TensorSVD` in the tensor's type, in float32 for bfloat16 and float16. No gradients.

    Raises:
        BilensError: k out of range, or Σ σ² outside the range of the type.
    """
    k = _check_k(tensor, k)
    # Rescale by powers of two: the Gram has the sixth power of the factors, which leaves the range of any type.
    left, a = near_one(tensor.left)
    right, b = near_one(tensor.right)
    down, c = near_one(tensor.down)
    gram = trusted(BilinearTensor, left, right, down, tensor.input, tensor.output).gram()
    values, vectors = linalg.largest(gram, tensor.output.dim if k is None else k)
    return _record(
        tensor,
        values.clamp(min=0).sqrt(),
        vectors.T,
        energy=gram.trace(),
        square=lambda rows: rows @ gram,
        size=a * b * c,
        floor=(max(tensor.output.dim, tensor.hidden) * EPSILON) ** 0.5,
    )


@torch.no_grad()
def svd_accurate(tensor: BilinearTensor, k: int | None = None, *, block: int = 4096) -> TensorSVD:
    """As `svd`, with singular values right to about 1e-15·σ₁: no Gram, an orthogonal factorisation of the pair stream.

    The rows √(1 or 2)·r_ij over i ≤ j have B's singular values. They are streamed in blocks through a QR factorisation
    that keeps only the triangle T, Bᵀ = (orthonormal) T, and the SVD of Tᵀ gives R and σ. Where 2h < i the pairs are
    those of an orthonormal basis of the factors' span, and where h < o those before D's own triangle.

    Args:
        tensor: B; k: how many components, all when None; block: pair vectors at a time.

    Cost: n² m² operations, n = min(i, 2h) and m = min(o, h), at the rate of a QR factorisation, about half of that of
    products, against O(h² i) for `svd`; memory (block + m)·m numbers.

    Raises:
        BilensError: k out of range, or a block without pairs.

    Source: identity of `pairs` with √2; Golub and Van Loan, "Matrix Computations", sequential QR.
    """
    k = _check_k(tensor, k)
    block = whole("block", block, 1)
    left, right, down = tensor.left.double(), tensor.right.double(), tensor.down.double()
    hidden, outputs = tensor.hidden, tensor.output.dim
    basis = None
    if 2 * hidden < tensor.input.dim:
        triangle = torch.linalg.qr(torch.cat([left, right]).T, mode="r")[1]
        left, right = triangle.T[:hidden], triangle.T[hidden:]
    if hidden < outputs:
        basis, triangle = torch.linalg.qr(down, mode="complete")
        down = triangle[:hidden]
    reduced = BilinearTensor(left, right, down, Space("span", left.shape[1]), Space("rows", len(down)))
    stream = pairs.stream(reduced, kind="symmetric", batch_size=block, shuffle=False)
    triangle = down.new_zeros(0, len(down))
    for n in range(len(stream)):
        triangle = torch.linalg.qr(torch.cat([triangle, stream.batch(n)]), mode="r")[1]
    vectors, sigma, _ = torch.linalg.svd(triangle.T)
    if basis is not None:
        vectors = torch.cat([basis[:, :hidden] @ vectors, basis[:, hidden:]], dim=1)
    sigma = torch.cat([sigma, sigma.new_zeros(len(vectors) - len(sigma))])
    span = triangle if basis is None else triangle @ basis[:, :hidden].T
    return _record(
        tensor,
        sigma[:k],
        vectors.T[:k],
        energy=sigma.square().sum(),
        square=lambda rows: rows @ span.T @ span,
        size=torch.ones_like(sigma[0]),
        floor=outputs * EPSILON,
    )


def _record(
    tensor: BilinearTensor,
    sigma: Tensor,
    outputs: Tensor,
    *,
    energy: Tensor,
    square: Callable[[Tensor], Tensor],
    size: Tensor,
    floor: float,
) -> TensorSVD:
    """The record of σ and R in float64, of B over a power of two `size`; square: R (k, o) ↦ R B Bᵀ."""
    dtype, energy = at_least_single(tensor.left.dtype), energy * size.square()
    fitted = energy.to(dtype)
    if not bool(torch.isfinite(fitted)) or bool((energy > 0) & (fitted < torch.finfo(dtype).tiny)):
        raise BilensError(
            f"a tensor of norm {float(energy.sqrt()):.2g} in {str(dtype).removeprefix('torch.')}",
            "one whose square fits",
            "scale it, or call .to(torch.float64)",
        )
    if any(factor.requires_grad for factor in (tensor.left, tensor.right, tensor.down)):
        factors = (factor.detach() for factor in (tensor.left, tensor.right, tensor.down))
        tensor = trusted(BilinearTensor, *factors, tensor.input, tensor.output)
    values, rows = (sigma * size).to(dtype), signed(outputs).to(dtype)
    # What is returned is measured: rounded, and with what rounding may hide of the measurement itself.
    kept, one = (values.double() / size).square()[:, None], rows.double()
    residuals = torch.linalg.vector_norm(square(one) - kept * one, dim=1)
    residuals = residuals + gamma(4 * len(outputs.T) + 4 * tensor.hidden) * (energy / size.square())
    return TensorSVD(
        values, rows, tensor, upward(residuals * size.square(), dtype), fitted, (sigma[0] * size * floor).to(dtype)
    )


def _check_kept(svd: TensorSVD, k: int) -> int:
    return whole("k", k, 0, len(svd), hint="choose fewer components, or compute more")


def _check_k(tensor: BilinearTensor, k: int | None) -> int | None:
    instance("tensor", tensor, BilinearTensor)
    checks.in_memory("a tensor", tensor.left)
    return linalg.some(k, tensor.output.dim)
