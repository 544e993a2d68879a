"""The higher-order singular value decomposition's basis of the input mode, from the factors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.checks import instance, whole
from bilens.decompose import symmetric
from bilens.decompose.sign import signed
from bilens.dictionary import Dictionary
from bilens.errors import ShapeError
from bilens.space import Space
from bilens.tensor import BilinearTensor

EPSILON = torch.finfo(torch.float64).eps


@dataclass(frozen=True, eq=False)
class InputBasis:
    """Orthonormal directions of the input, in the order of how much of the tensor they carry.

    Args:
        values: σ, (k,), largest first: singular values of B unfolded as an i × (o i) matrix, σ_l² = Σ_o ‖B_o v_l‖².
        vectors: v, (k, i), orthonormal rows.
        energy: ‖B‖² = Σ σ² over all directions, a number.
        floor: singular values at or below it are noise, a number.
        input: space of x.

    Raises:
        ShapeError: the shapes do not fit together.

    Source: De Lathauwer, De Moor and Vandewalle, "A multilinear singular value decomposition" (2000).
    """

    values: Float[Tensor, " k"]
    vectors: Float[Tensor, "k i"]
    energy: Float[Tensor, ""]
    floor: Float[Tensor, ""]
    input: Space

    def __post_init__(self) -> None:
        if tuple(self.vectors.shape) != (len(self.values), self.input.dim):
            raise ShapeError(
                f"vectors of shape {tuple(self.vectors.shape)}",
                f"({len(self.values)}, {self.input.dim})",
            )

    def __len__(self) -> int:
        return len(self.values)

    def dictionary(self) -> Dictionary:
        """The directions as input features: orthonormal atoms, which are their own duals."""
        features = Space(f"basis of {self.input.name}", len(self))
        return Dictionary(self.vectors, self.vectors, self.input, features, len(self))

    def bound(self, k: int, x_norm: Float[Tensor, "*n"] | float) -> Float[Tensor, "*n"]:
        """The truncation certificate: ‖B(x, x) − B(Px, Px)‖ ≤ √(2 Σ_{l>k} σ_l²) · ‖x'‖².

        P projects on the first k directions. The two modes are the same one, so that dropping directions from both
        drops at most twice their energy.

        Args:
            k: directions kept; x_norm: ‖x'‖, the norm of the folded input.

        Raises:
            BilensError: k outside 0 … the number of directions.
        """
        k = whole("k", k, 0, len(self), hint="keep fewer directions, or compute more")
        rest = self.values[k:].double().square().sum()
        if len(self) < self.input.dim:  # what was not computed, rounded up by what the subtraction may have lost
            beyond = self.energy.double() - self.values.double().square().sum()
            rest = rest + beyond.clamp(min=0) + 2 * torch.finfo(self.values.dtype).eps * self.energy.double()
        norm = torch.as_tensor(x_norm, dtype=rest.dtype, device=rest.device)
        return ((2 * rest).sqrt() * norm.square()).to(self.values)


def input_basis(tensor: BilinearTensor, k: int | None = None) -> InputBasis:
    """The top k eigenvectors of the input mode's Gram M_ij = Σ_o (B_o B_o)_ij, without building B.

    From B_o = ½ Σ_h D_oh (L_h R_hᵀ + R_h L_hᵀ), with P = DᵀD,
    M = ¼ [Lᵀ(P∘RRᵀ)L + Lᵀ(P∘RLᵀ)R + Rᵀ(P∘LRᵀ)L + Rᵀ(P∘LLᵀ)R]. Biases are part of it: a folded input has
    its constant coordinate in the basis.

    Args:
        tensor: B; k: how many directions, from 1 to `input.dim`; all when None. At most 2h have σ > 0.

    Returns:
        An `InputBasis` in the tensor's type; each direction's largest entry is positive.

    Cost: O(h²(i + o) + h i² + i³) in float64, memory O(h² + i²). Floor: a Gram squares the condition number, so σ below
    √(max(i, h)·ε)·σ₁ is noise, about 1e-8·√max(i, h)·σ₁ (`floor`).

    Raises:
        BilensError: k out of range.

    Source: De Lathauwer, De Moor and Vandewalle, "A multilinear singular value decomposition" (2000).
    """
    instance("tensor", tensor, BilinearTensor)
    dim = tensor.input.dim
    k = None if k is None else whole("k", k, 1, dim, hint="choose k in that range, or leave it out for all")
    left, right, down = tensor.left.double(), tensor.right.double(), tensor.down.double()
    outer = down.T @ down
    crossed = outer * (right @ left.T)  # its transpose is the other one
    one = left.T @ ((outer * (right @ right.T)) @ left + crossed @ right)
    two = right.T @ (crossed.T @ left + (outer * (left @ left.T)) @ right)
    gram = (one + two) / 4
    values, columns = symmetric.eigh((gram + gram.T) / 2)
    sigma, vectors = values.flip(0).clamp(min=0).sqrt(), signed(columns.T.flip(0))
    floor = sigma[0] * (max(dim, tensor.hidden) * EPSILON) ** 0.5
    like = tensor.left
    return InputBasis(
        sigma[:k].to(like), vectors[:k].to(like), sigma.square().sum().to(like), floor.to(like), tensor.input
    )
