"""The higher-order singular value decomposition's basis of the input mode, from the factors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bilens._internal import checks
from bilens._internal.checks import instance, whole
from bilens._internal.scale import times_two_to
from bilens._internal.shown import line
from bilens.decompose import linalg
from bilens.decompose.linalg import (
    EPSILON,
    UNIT,
    at_least_single,
    detach,
    fitting,
    gamma,
    largest_square,
    signed,
    symmetric,
    tensor_near_one,
    upward,
)
from bilens.dictionary import Dictionary
from bilens.space import Space
from bilens.tensor import BilinearTensor


@dataclass(frozen=True, eq=False, repr=False)
class InputBasis:
    """Orthonormal directions of the input, in the order of how much of the tensor they carry.

    Args:
        values: σ, (k,), largest first: singular values of B unfolded as an i × (o i) matrix, σ_l² = Σ_o ‖B_o v_l‖².
        vectors: v, (k, i), orthonormal rows.
        energy: ‖B‖² = Σ σ² over all directions, a number, in float64 (a square may leave the range of float32).
        floor: singular values at or below it are noise, a number.
        beyond: at least Σ σ² over the directions that were not computed, with all that rounding of the Gram matrix can
            hide in the others, a number, in float64.
        input: space of x.

    Raises:
        ShapeError: the shapes do not fit together.

    Source: De Lathauwer, De Moor and Vandewalle, "A multilinear singular value decomposition" (2000).
    """

    values: Float[Tensor, " k"]
    vectors: Float[Tensor, "k i"]
    energy: Float[Tensor, ""]
    floor: Float[Tensor, ""]
    beyond: Float[Tensor, ""]
    input: Space

    __repr__ = line

    def __post_init__(self) -> None:
        checks.fields(self)
        detach(self)
        checks.shapes(self, i=self.input.dim)

    def __len__(self) -> int:
        return len(self.values)

    def dictionary(self) -> Dictionary:
        """The directions as input features: orthonormal atoms, which are their own duals."""
        features = Space(f"basis of {self.input.name}", len(self))
        return Dictionary(self.vectors, self.vectors, self.input, features, len(self))

    @torch.no_grad()
    def bound(self, k: int, x_norm: Float[Tensor, "*n"] | float) -> Float[Tensor, "*n"]:
        """The truncation certificate: ‖B(x, x) − B(Px, Px)‖ ≤ (√(2 Σ_{l>k} σ_l²) + rounding) · ‖x'‖².

        P = Σ_{l≤k} v_l v_lᵀ of the vectors as they stand, which `dictionary()` encodes and decodes with; B evaluated
        exactly on the weights as stored; rounded up. The two modes are the same one, so that dropping directions from
        both drops at most twice their energy. Rounding is up to about 1e-5 ‖B‖ for hundreds of hidden units, because a
        Gram matrix squares the condition number, and 1e-6 ‖B‖ (float32) when all directions are kept.

        Args:
            k: directions kept; x_norm: ‖x'‖, the norm of the folded input.

        Raises:
            BilensError: k outside 0 … the number of directions.
        """
        k = whole("k", k, 0, len(self), hint="keep fewer directions, or compute more")
        vectors, values = self.vectors.double(), self.values.double() * (1 + torch.finfo(self.values.dtype).eps)
        gram = vectors[:k] @ vectors[:k].T
        gram.diagonal().sub_(1)
        skew = gram.norm() + gamma(self.input.dim + 3) * k
        rest = values[k:].square().sum() + self.beyond if k < self.input.dim else torch.zeros_like(skew)
        largest = (values[:1].square().sum() + self.beyond).sqrt()
        off = (2 * rest).sqrt() + 1.01 * largest * skew * (2 + skew)
        return upward(off * largest_square(x_norm, self.input.dim, values) * (1 + 16 * UNIT), self.values.dtype)


@torch.no_grad()
def input_basis(tensor: BilinearTensor, k: int | None = None) -> InputBasis:
    """The top k eigenvectors of the input mode's Gram M_ij = Σ_o (B_o B_o)_ij, without building B.

    Examples:
        >>> W, x = torch.diag(torch.tensor([2.0, 1.0])), Space("x", 2)
        >>> tensor = BilinearTensor.from_layer(W, torch.eye(2), input=x, output=Space("y", 2))
        >>> input_basis(tensor).values.round(decimals=3)
        tensor([2., 1.])

    From B_o = ½ Σ_h D_oh (L_h R_hᵀ + R_h L_hᵀ), with P = DᵀD,
    M = ¼ [Lᵀ(P∘RRᵀ)L + Lᵀ(P∘RLᵀ)R + Rᵀ(P∘LRᵀ)L + Rᵀ(P∘LLᵀ)R]. Biases are part of it: a folded input has
    its constant coordinate in the basis.

    Args:
        tensor: B; k: how many directions, from 1 to `input.dim`; all when None. At most 2h have σ > 0.

    Returns:
        An `InputBasis` in the tensor's type, in float32 for bfloat16 and float16; each direction's largest entry is
        positive. No gradients.

    Cost: O(h²(i + o) + h i² + i³) in float64, memory O(h² + i²). Floor: a Gram squares the condition number, so σ below
    √(max(i, h)·ε)·σ₁ is noise, about 1e-8·√max(i, h)·σ₁ (`floor`).

    Raises:
        BilensError: k out of range, or singular values or their squares outside the range of the type.

    Source: De Lathauwer, De Moor and Vandewalle, "A multilinear singular value decomposition" (2000).
    """
    instance("tensor", tensor, BilinearTensor)
    dim = tensor.input.dim
    k = linalg.some(k, dim)
    near, power = tensor_near_one(tensor)
    left, right, down = near.left, near.right, near.down
    outer = down.T @ down
    crossed = outer * (right @ left.T)  # its transpose is the other one
    one = left.T @ ((outer * (right @ right.T)) @ left + crossed @ right)
    two = right.T @ (crossed.T @ left + (outer * (left @ left.T)) @ right)
    gram = symmetric(one + two) / 4
    squares, columns = linalg.eigh(gram)
    squares, vectors = squares.flip(0), signed(columns.T.flip(0))
    sigma = squares.clamp(min=0).sqrt()
    count, dtype = dim if k is None else k, at_least_single(tensor.left.dtype)
    noise = float(sigma[0]) * (max(dim, tensor.hidden) * EPSILON) ** 0.5
    kept = vectors[:count].to(dtype)
    beyond = _beyond(near, gram, squares, vectors, kept.double())
    return InputBasis(
        fitting(sigma[:count], power, dtype, "singular values", 1e-7 * float(_sizes(near).norm())),
        kept,
        fitting(squares.clamp(min=0).sum(), 2 * power, torch.float64, "squares of singular values"),
        times_two_to(sigma.new_tensor(noise), power).to(dtype),
        upward(times_two_to(beyond, 2 * power), torch.float64),
        tensor.input,
    )


def _beyond(near: BilinearTensor, gram: Tensor, squares: Tensor, vectors: Tensor, kept: Tensor) -> Tensor:
    """Σ σ² outside the span of the vectors kept, less that of the first ones that are not, at most.

    With M the Gram matrix and Π the projector on the complement of the vectors as rounded, tr ΠM, term by term of
    M = Σ σ² v vᵀ + what that leaves, whose trace under Π is at most √i times its norm.
    """
    k, dim = len(kept), len(gram)
    sizes = _sizes(near)
    left = (gram - (vectors.T * squares) @ vectors).norm() + gamma(dim + 5) * (gram.norm() + squares.abs().sum())
    left = left + gamma(dim + 2 * near.hidden + len(sizes) + 10) * sizes.square().sum()
    skew = vectors @ vectors.T
    skew.diagonal().sub_(1)
    rest, moved = squares[k:].abs().sum(), (squares[:k].abs() * (vectors[:k] - kept).square().sum(dim=1)).sum()
    total = squares.abs().sum() * (skew.norm() + gamma(dim + 3) * dim)
    trace: Tensor = rest + moved + total + dim**0.5 * left
    return trace


def _sizes(near: BilinearTensor) -> Tensor:
    """Σ_h |D_oh| ‖L_h‖ ‖R_h‖ of every output: at least the norm of its kernel, with every term's absolute value."""
    sizes: Tensor = near.down.abs() @ (near.left.norm(dim=1) * near.right.norm(dim=1))
    return sizes
