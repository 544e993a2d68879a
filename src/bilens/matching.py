"""Which features of two sets are the same: optimal one-to-one assignment, and angles between subspaces."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from bilens._internal import checks
from bilens._internal.checks import instance, whole
from bilens._internal.factors import hidden_gram
from bilens._internal.scale import near_one, units
from bilens._internal.shown import line
from bilens.errors import BilensError, ShapeError
from bilens.tensor import BilinearTensor


@dataclass(frozen=True, eq=False, repr=False)
class Matching:
    """A one-to-one assignment of the features of one set to those of another.

    Args:
        similarity: (n,), of each feature of the first set and its partner, in the order of the first set.
        partner: (n,), the partner's number in the second set.
    """

    similarity: Float[Tensor, " n"]
    partner: Int[Tensor, " n"]

    __repr__ = line


def assign(similarity: Float[Tensor, "n m"]) -> Matching:
    """The one-to-one assignment with the largest sum of similarities, n ≤ m. No gradients.

    Examples:
        >>> assign(torch.tensor([[0.9, 0.8], [0.7, 0.1]])).partner  # 0.8 + 0.7, not the best of each row
        tensor([1, 0])

    A best match for each feature on its own would let one feature serve many, and pairing by rank breaks where two
    eigenvalues are nearly equal.

    Raises:
        ShapeError: more features in the first set than in the second. BilensError: NaN or infinity.

    Source: Kuhn (1955), as in scipy.optimize.linear_sum_assignment.
    """
    checks.floating("similarities", similarity)
    if similarity.ndim != 2 or similarity.shape[0] > similarity.shape[1] or similarity.shape[0] < 1:
        raise ShapeError(
            f"similarities of shape {tuple(similarity.shape)}", "(n, m) with 1 ≤ n ≤ m", "pass the smaller set first"
        )
    if similarity.is_meta or not bool(torch.isfinite(similarity).all()):
        what = "on the meta device" if similarity.is_meta else "with NaN or infinity"
        raise BilensError(f"similarities {what}", "finite numbers", "drop features that are 0")
    similarity = similarity.detach()
    _, partner = linear_sum_assignment(similarity.double().cpu().numpy(), maximize=True)
    chosen = torch.as_tensor(partner, dtype=torch.int64, device=similarity.device)
    return Matching(similarity.gather(1, chosen[:, None])[:, 0], chosen)


@torch.no_grad()
def kernel_cosines(first: BilinearTensor, second: BilinearTensor) -> Float[Tensor, "o p"]:
    """Frobenius cosines ⟨Q_o, P_p⟩ / (‖Q_o‖ ‖P_p‖) of the kernels of two tensors' outputs, from their factors.

    One Gram of the two hidden layers serves all of them: ⟨Q_o, P_p⟩ = (D₁ G₁₂ D₂ᵀ)_op. A kernel that is 0 has cosine 0.
    Read the tensors in the outputs to be compared first, for example `tensor.then(svd.outputs, …)`. In float64, at any
    scale of the weights; no gradients.

    Raises:
        SpaceError: tensors over other inputs.
    """
    for tensor in (first, second):
        instance("tensor", tensor, BilinearTensor)
    first.input.require(second.input, "a tensor")
    parts = [units(tensor.left, tensor.right, tensor.down) for tensor in (first, second)]
    a, b = parts
    inner = a.down @ hidden_gram(a.left, a.right, b.left, b.right) @ b.down.T
    squares = [
        ((part.down @ hidden_gram(part.left, part.right, part.left, part.right)) * part.down).sum(dim=1)
        for part in parts
    ]
    product = squares[0].clamp(min=0)[:, None] * squares[1].clamp(min=0)
    return torch.where(product > 0, inner / torch.where(product > 0, product, 1).sqrt(), 0).clamp(-1, 1)


@torch.no_grad()
def subspace_cosines(first: Float[Tensor, "n d"], second: Float[Tensor, "m d"]) -> Float[Tensor, " k"]:
    """Cosines of the principal angles between the spans of two sets of rows, largest first, k = min(rank, rank).

    Examples:
        >>> subspace_cosines(torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 3.0]]))
        tensor([1.], dtype=torch.float64)

    They do not depend on signs, order or scale of the vectors, nor on the choice of basis in a degenerate eigenspace.
    In float64; no gradients.

    Raises:
        ShapeError: vectors of different sizes. BilensError: NaN or infinity, or vectors that are not dense
            floating-point tensors in memory.

    Source: Björck and Golub, "Numerical methods for computing angles between linear subspaces" (1973).
    """
    for vectors in (first, second):
        checks.weights("vectors", vectors)
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ShapeError(f"vectors of shape {tuple(first.shape)} and {tuple(second.shape)}", "(n, d) and (m, d)")
    bases = [_basis(vectors.double()) for vectors in (first, second)]
    cosines: Tensor = torch.linalg.svdvals(bases[0] @ bases[1].T).clamp(max=1)
    return cosines


@torch.no_grad()
def random_directions(second_moment: Float[Tensor, "d d"], count: int, seed: int = 0) -> Float[Tensor, "n d"]:
    """A null for features: directions drawn from a Gaussian with this second moment, z = S^½ n, in float64.

    What many features find by chance grows with how many there are, and with how much of the layer lies in few
    directions. As many random directions, spread as the layer's own vectors are, have both.

    Args:
        second_moment: S, (d, d), symmetric; for pair vectors `tensor.gram()`, up to a factor. Negative eigenvalues
            that rounding leaves count as 0.
        count: how many; seed: of the draw.

    Raises:
        ShapeError: not a square matrix. BilensError: a count below 1, NaN or infinity.
    """
    checks.weights("second moment", second_moment)
    if second_moment.ndim != 2 or second_moment.shape[0] != second_moment.shape[1]:
        raise ShapeError(f"a second moment of shape {tuple(second_moment.shape)}", "(d, d)", "pass E[v vᵀ]")
    count, seed = whole("count", count, 1), checks.seed(seed)
    scaled, size = near_one(second_moment.double())
    values, vectors = torch.linalg.eigh(scaled)
    drawn = torch.randn(count, len(values), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    directions: Tensor = (drawn.to(values.device) * values.clamp(min=0).sqrt()) @ vectors.T
    return directions * size.sqrt()


def _basis(vectors: Tensor) -> Tensor:
    vectors, _ = near_one(vectors)
    _, values, rows = torch.linalg.svd(vectors, full_matrices=False)
    basis: Tensor = rows[values > max(vectors.shape) * torch.finfo(vectors.dtype).eps * values[0]]
    return basis
