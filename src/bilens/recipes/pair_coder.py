"""A sparse coder measured over every pair of a layer, from codes that are already there."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens import pairs
from bilens.errors import ShapeError
from bilens.pairs import PairCodes
from bilens.products import product
from bilens.sae import Coder, Evaluation
from bilens.sae.coder import top_k
from bilens.tensor import BilinearTensor


@torch.no_grad()
def evaluate_pairs(tensor: BilinearTensor, codes: PairCodes, coder: Coder, *, two_hot: bool = False) -> Evaluation:
    """Measure a coder over every pair i ≤ j of a layer, alike, from the codes that were already taken of them.

    Args:
        tensor: the layer; codes: of all of its pairs, by the coder's encoder; coder: that decodes them.
        two_hot: whether the codes are of the two-hot vectors u_ij and not of the polarised r_ij.

    Raises:
        ShapeError: codes of another number of features than the coder's.
    """
    if codes.width != coder.d_sae:
        raise ShapeError(f"codes of {codes.width} features", f"{coder.d_sae}, the coder's", "encode with this coder")
    make = pairs.two_hot_stream if two_hot else pairs.stream
    stream = make(tensor, batch_size=8192, shuffle=False)
    rows, uses = stream.rows, torch.bincount(codes.features, minlength=codes.width)
    error = energy = 0.0
    mean = torch.zeros(stream.width, dtype=torch.float64)
    for n in range(len(stream)):
        x = stream.batch(n)
        start = n * stream.batch_size
        rebuilt = codes.decode(start, start + len(x), coder.W_dec) + coder.b_dec
        error += float((x - rebuilt).double().square().sum())
        energy += float(x.double().square().sum())
        mean += x.double().sum(dim=0) / rows
    variance = energy - rows * float(mean.square().sum())
    total = torch.zeros(codes.width, dtype=torch.float64).index_add_(0, codes.features, codes.values.double())
    return Evaluation(
        l0=len(codes.values) / rows,
        explained_variance=1 - error / variance if variance > 0 else 0.0,  # of one pair there is no variance to explain
        nmse=error / energy,
        dead_fraction=float((uses == 0).double().mean()),
        frequency=uses / rows,
        mean_activation=(total / rows).float(),
        rows=rows,
    )


@torch.no_grad()
def nearest(vectors: Float[Tensor, "n o"], atoms: Float[Tensor, "m o"], k: int) -> Int[Tensor, "n k"]:
    """The k atoms of largest |cos| with each vector, nearest first; atoms are unit rows, or 0.

    A trained encoder and an untrained dictionary are compared by this one rule, so that what differs is the atoms.
    """
    scores = product(vectors, atoms).abs_()
    k = min(k, len(atoms))
    chosen = top_k(scores, k)[1]
    order = scores.gather(1, chosen).argsort(dim=1, descending=True, stable=True)
    return chosen.gather(1, order)


@torch.no_grad()
def refit(
    vectors: Float[Tensor, "n o"],
    atoms: Float[Tensor, "m o"],
    chosen: Int[Tensor, "n k"],
    gram: Float[Tensor, "m m"] | None = None,
) -> Float[Tensor, "n k"]:
    """Least-squares codes of each vector over its own k atoms: argmin_a ‖x − Σ_s a_s A_chosen(s)‖.

    By Cholesky factors of the k × k Gram matrices in float64; where atoms are dependent, by their pseudoinverse, so
    that the codes of least norm are taken. The same as `Dictionary.encode_among`, for many vectors with few atoms each.

    Args:
        vectors: one per row; atoms: one per row; chosen: atoms of each vector; gram: A Aᵀ in float64, to save it where
            many batches are coded.
    """
    gram = atoms.double() @ atoms.double().T if gram is None else gram
    among = gram[chosen[:, :, None], chosen[:, None, :]]
    right = torch.stack([(atoms[column] * vectors).sum(dim=1) for column in chosen.T], dim=1).double()[:, :, None]
    factors, failed = torch.linalg.cholesky_ex(among)
    pivots = factors.diagonal(dim1=1, dim2=2)
    failed = (failed > 0) | (pivots.amin(dim=1) < _DEPENDENT * pivots.amax(dim=1))
    codes = torch.cholesky_solve(right, torch.where(failed[:, None, None], torch.eye(chosen.shape[1]).double(), factors))
    rows = failed.nonzero()[:, 0]
    if len(rows):
        codes[rows] = torch.linalg.pinv(among[rows], hermitian=True, rtol=1e-10) @ right[rows]
    return codes[:, :, 0].to(vectors.dtype)


_DEPENDENT = 1e-5
"""Ratio of Cholesky pivots below which atoms count as dependent."""
