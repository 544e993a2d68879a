"""A sparse coder measured over every pair of a layer, from codes that are already there."""

from __future__ import annotations

import torch

from bilens import pairs
from bilens.errors import ShapeError
from bilens.pairs import PairCodes
from bilens.sae import Coder, Evaluation
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
