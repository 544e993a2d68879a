"""Weights by which pairs are drawn: the norms of their vectors, from the layer, and their use, from data."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bilens._internal import checks
from bilens._internal.checks import whole
from bilens._internal.scale import fitted, near_one, times_two_to
from bilens.dictionary import Dictionary
from bilens.errors import ShapeError
from bilens.pairs.streams import PairStream
from bilens.pairs.vectors import Kind, PairResponses
from bilens.tensor import BilinearTensor

_NUMBERS = 2**22
"""Numbers of a Gram at a time."""


@torch.no_grad()
def norms(
    tensor: BilinearTensor, dictionary: Dictionary | None = None, *, kind: Kind = "polarized", block: int = 1024
) -> Float[Tensor, " pairs"]:
    """‖r_ij‖ of every pair i ≤ j, or that of another kind of pair vector, in the order of `unrank`. No gradients.

    Args:
        tensor: the layer; dictionary: the features, the input's coordinates when None; kind: which pair vector.
        block: pairs at a time, at least 1.

    Raises:
        BilensError: a block without pairs, an unknown kind, or vectors or norms beyond the range of the tensor's type.
            SpaceError: a dictionary of another space.

    Cost: before a read-out, in float32 or less, three products of Grams in float64, which cancellation leaves at least
    as accurate as the vectors themselves; otherwise one pass over the pair vectors, which never leave the cache.
    """
    features, block = PairResponses.of(tensor, dictionary), whole("block", block, 1)
    checks.in_memory("a layer", features.left)
    stream = PairStream(features, kind, block, seed=0, shuffle=False)
    if features.down is None and kind != "two_hot" and features.left.dtype != torch.float64:
        return _gram_norms(features, kind)
    rows = features.left.new_empty(min(block, stream.rows), stream.width)
    return torch.cat([_norms(stream.batch(n, out=rows)) for n in range(len(stream))])


def _gram_norms(features: PairResponses, kind: Kind) -> Tensor:
    """The root of ‖r_ij‖² = ¼[(L∘L)(R∘R)ᵀ + (R∘R)(L∘L)ᵀ]_ij + ½[(L∘R)(L∘R)ᵀ]_ij, row i of L being L v_i.

    For s_ij it is twice that off i = j. In float64 the squares of float32's range neither overflow nor vanish.
    """
    dtype, m = features.left.dtype, len(features)
    left, right = features.left.double(), features.right.double()
    one, other, both = left.square(), right.square(), left * right
    found, step = [], max(1, _NUMBERS // m)
    for start in range(0, m, step):
        stop = min(start + step, m)
        square = one[start:stop] @ other[start:].T + other[start:stop] @ one[start:].T
        square = square.addmm_(both[start:stop], both[start:].T, beta=0.25, alpha=0.5)
        if kind == "symmetric":
            square.mul_(2).diagonal().div_(2)
        row, column = torch.triu_indices(stop - start, m - start, device=square.device)
        found.append(square[row, column])
    none = torch.zeros((), dtype=torch.int64, device=left.device)
    return fitted(torch.cat(found).clamp_(min=0).sqrt_(), none, dtype, "norms of pair vectors")


def _norms(rows: Tensor) -> Tensor:
    """Norms of rows of any size; squares of large or small numbers leave the range of a type before the norms do."""
    found: Tensor = rows.norm(dim=1)
    limits = torch.finfo(rows.dtype)
    least, most = limits.tiny**0.5 / limits.eps, limits.max**0.5 / rows.shape[1]
    wrong = ~((found > least) & (found < most))
    if bool(wrong.any()):
        checks.finite("pair vectors", rows)
        scaled, size = near_one(rows[wrong].double(), by_row=True)
        found[wrong] = fitted(scaled.norm(dim=1), torch.frexp(size).exponent - 1, rows.dtype, "norms of pair vectors")
    return found


def second_moments(codes: Float[Tensor, "n m"]) -> Float[Tensor, " pairs"]:
    """E[(c_ij a_i a_j)²] of every pair i ≤ j, in the order of `unrank`; c is 1 on i = j and 2 off it.

    g(Σ a_i v_i) is Σ_{i≤j} c_ij a_i a_j r_ij, so that pair errors e_ij that are uncorrelated with one another make a
    mean squared error of the output of Σ_{i≤j} E[(c_ij a_i a_j)²] ‖e_ij‖².

    Args:
        codes: (n, m), one sample per row, over the (folded) features: fold inputs first, `tensor.input.fold(x)`.

    Returns:
        In the type of the codes, float32 at least, without a graph.

    Raises:
        ShapeError: not a matrix with at least one row. BilensError: codes that are not finite numbers in a dense
            floating-point tensor, or moments beyond the range of their type.
    """
    checks.floating("codes", codes)
    if codes.ndim != 2 or 0 in codes.shape:
        raise ShapeError(f"codes of shape {tuple(codes.shape)}", "(samples, features)", "pass one sample per row")
    checks.weights("codes", codes)
    scaled, size = near_one(checks.owned(codes))
    squares = scaled.square()
    found = moment_weights((squares.T @ squares).div_(len(codes)))
    if float(size) == 1:
        return found
    power = 4 * (torch.frexp(size).exponent - 1)
    fitted(found.max().double(), power, found.dtype, "second moments")
    return times_two_to(found, power)


def moment_weights(moments: Float[Tensor, "m m"]) -> Float[Tensor, " pairs"]:
    """E[(c_ij a_i a_j)²] of every pair i ≤ j, as `second_moments`, from the matrix E[a_i² a_j²] itself.

    For moments that are known without samples, or were summed over more samples than fit into memory.

    Args:
        moments: (m, m), symmetric; its upper triangle is what is read.

    Raises:
        ShapeError: not a square matrix. BilensError: moments that are not finite numbers in a dense floating-point
            tensor.
    """
    checks.floating("moments", moments)
    if moments.ndim != 2 or moments.shape[0] != moments.shape[1] or not len(moments):
        raise ShapeError(f"moments of shape {tuple(moments.shape)}", "(features, features)", "pass E[a_i² a_j²]")
    checks.weights("moments", moments)
    moments = checks.owned(moments)
    i, j = torch.triu_indices(len(moments), len(moments), device=moments.device)
    return moments[i, j] * torch.where(i == j, 1, 4).to(moments)
