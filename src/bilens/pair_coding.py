"""Sparse codes of every pair of a layer, by a trained SAE or by least squares in any atoms, and what they rebuild."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from bilens import pairs
from bilens._internal.shown import line
from bilens._internal.sums import top_k
from bilens.errors import ShapeError
from bilens.pairs import PairCodes
from bilens.pairs.order import first
from bilens.sae import SAE, Evaluation
from bilens.tensor import BilinearTensor


@torch.no_grad()
def evaluate_pairs(tensor: BilinearTensor, codes: PairCodes, sae: SAE, *, two_hot: bool = False) -> Evaluation:
    """Measure an SAE over every pair i ≤ j of a layer, alike, from the codes that were already taken of them.

    Args:
        tensor: the layer; codes: of all of its pairs, by the SAE's encoder; sae: that decodes them.
        two_hot: whether the codes are of the two-hot vectors u_ij and not of the polarised r_ij.

    Raises:
        ShapeError: codes of another number of features than the SAE's.
    """
    if codes.width != sae.d_sae:
        raise ShapeError(f"codes of {codes.width} features", f"{sae.d_sae}, the SAE's", "encode with this SAE")
    kind: pairs.Kind = "two_hot" if two_hot else "polarized"
    stream = pairs.stream(tensor, kind=kind, batch_size=8192, shuffle=False)
    rows, uses = stream.rows, torch.bincount(codes.features, minlength=codes.width)
    error = energy = 0.0
    mean = torch.zeros(stream.width, dtype=torch.float64)
    for n in range(len(stream)):
        x = stream.batch(n)
        start = n * stream.batch_size
        rebuilt = codes.decode(start, start + len(x), sae.W_dec) + sae.b_dec
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


RIDGE = 1e-7
"""Added to the Gram matrices of unit atoms, so that atoms that depend on each other have finite codes."""


@torch.no_grad()
def nearest(
    vectors: Float[Tensor, "n o"], atoms: Float[Tensor, "m o"], k: int
) -> tuple[Int[Tensor, "n k"], Float[Tensor, "n k"]]:
    """The k atoms of largest |cos| with each vector, nearest first, and their products A x with it.

    One rule for trained and untrained atoms, so that what is compared is the atoms and not how they are encoded.

    Args:
        vectors: one per row; atoms: rows of unit norm; k: how many, all atoms where there are fewer.
    """
    products = vectors @ atoms.T
    chosen = top_k(products.abs(), min(k, len(atoms)))[1]
    picked = products.gather(1, chosen)
    order = picked.abs().argsort(dim=1, descending=True, stable=True)
    return chosen.gather(1, order), picked.gather(1, order)


@torch.no_grad()
def refit(
    gram: Float[Tensor, "m m"], chosen: Int[Tensor, "n k"], products: Float[Tensor, "n k"]
) -> tuple[Float[Tensor, "n k"], Float[Tensor, " n"]]:
    """Least-squares codes of each vector over its own k atoms, argmin_a ‖x − Σ_s a_s A_s‖², and Aᵀa's gain over 0.

    (G + ε) a = A x by Cholesky factors in float64, with ε = `RIDGE`. The gain is ‖x‖² − ‖x − Aᵀa‖².

    Args:
        gram: G = A Aᵀ of all unit atoms, float64; chosen: atoms of each vector; products: A x of these.

    Cost: O(n k³). `Dictionary.encode_among` is the same without the ridge, for few vectors.
    """
    among = gram[chosen[:, :, None], chosen[:, None, :]]
    among.diagonal(dim1=1, dim2=2).add_(RIDGE)
    right = products.double()[:, :, None]
    codes = torch.cholesky_solve(right, torch.linalg.cholesky(among))
    gain = (codes * (right + RIDGE * codes)).sum(dim=(1, 2))
    return codes[:, :, 0].to(products.dtype), gain


@dataclass(frozen=True, eq=False, repr=False)
class Coded:
    """Codes of all pairs in some atoms.

    Args:
        atoms: (m, o), unit rows; offset: (o,); chosen: (pairs, k); codes: (pairs, k); error: Σ‖r − r̂‖² over all pairs.
    """

    atoms: Float[Tensor, "m o"]
    offset: Float[Tensor, " o"]
    chosen: Int[Tensor, "pairs k"]
    codes: Float[Tensor, "pairs k"]
    error: float

    __repr__ = line

    def values(self, effects: Float[Tensor, "m p"], shift: Float[Tensor, " p"]) -> Float[Tensor, "pairs p"]:
        """What each pair adds, given a map of the atoms and of the offset, for example through the read-out."""
        rows = functional.embedding_bag(self.chosen.long(), effects, per_sample_weights=self.codes, mode="sum")
        return rows + shift


@torch.no_grad()
def coded(
    tensor: BilinearTensor,
    dictionaries: Sequence[tuple[Tensor, Tensor]],
    ks: Sequence[Sequence[int]],
    *,
    step: Callable[[int], object] | None = None,
) -> tuple[list[list[Coded]], float]:
    """Codes of every pair in several dictionaries (atoms, offset), each with several k, in one pass; and Σ‖r‖².

    Each pair takes the k atoms of largest |cos| and least squares over them. `step` is called with the number of pairs
    after each batch.
    """
    stream = pairs.stream(tensor, batch_size=4096, shuffle=False)
    grams = [atoms.double() @ atoms.double().T for atoms, _ in dictionaries]
    # Made at once: many small ones that outlive the batches' own would leave memory in pieces that nothing fits into.
    found = [
        [
            (torch.empty(stream.rows, size, dtype=torch.int32), torch.empty(stream.rows, size, dtype=atoms.dtype))
            for size in (min(k, len(atoms)) for k in each)
        ]
        for (atoms, _), each in zip(dictionaries, ks, strict=True)
    ]
    errors = [[0.0 for _ in each] for each in ks]
    energy, start = 0.0, 0
    for n in range(len(stream)):
        vectors = stream.batch(n)
        rows = slice(start, start + len(vectors))
        start += len(vectors)
        energy += float(vectors.double().square().sum())
        for place, ((atoms, offset), gram) in enumerate(zip(dictionaries, grams, strict=True)):
            centred = vectors - offset
            chosen, products = nearest(centred, atoms, max(ks[place]))
            left = float(centred.double().square().sum())
            for at, k in enumerate(ks[place]):
                codes, gain = refit(gram, chosen[:, :k], products[:, :k])
                found[place][at][0][rows], found[place][at][1][rows] = chosen[:, :k], codes
                errors[place][at] += left - float(gain.sum())
        if step is not None:
            step(len(vectors))
    return [
        [Coded(atoms, offset, *part, error) for part, error in zip(found[place], errors[place], strict=True)]
        for place, (atoms, offset) in enumerate(dictionaries)
    ], energy


def codes_stored(classes: int, atoms: int, codes: int) -> int:
    """Numbers stored by pair features: effects of atoms and offset on each logit, and each code with its place."""
    return (atoms + 1) * classes + 2 * codes


def drawn_pairs(tensor: BilinearTensor, count: int, seed: int, offset: Float[Tensor, " o"]) -> Float[Tensor, "m o"]:
    """A null for trained atoms: pair vectors drawn at random, all different, less an offset and scaled to norm 1."""
    drawn = pairs.stream(tensor, batch_size=count, seed=seed).batch(0)
    return functional.normalize(drawn - offset, dim=1)


def random_directions(size: int, count: int, seed: int) -> Float[Tensor, "m o"]:
    """A null that knows nothing of the layer: unit vectors drawn uniformly."""
    rows = torch.randn(count, size, generator=torch.Generator().manual_seed(seed))
    return functional.normalize(rows, dim=1)


@torch.no_grad()
def mean_pair(tensor: BilinearTensor) -> Float[Tensor, " o"]:
    """The mean of all pair vectors i ≤ j."""
    stream = pairs.stream(tensor, batch_size=8192, shuffle=False)
    total = sum((stream.batch(n).double().sum(dim=0) for n in range(len(stream))), torch.zeros(()).double())
    return (total / stream.rows).to(tensor.left.dtype)


@torch.no_grad()
def through(inputs: Float[Tensor, "n m"], values: Float[Tensor, "pairs p"]) -> Float[Tensor, "n p"]:
    """Σ_ij x_i x_j f_ij over all i and j, given f_ij of the pairs i ≤ j in the order of `pairs.unrank`.

    Several readings of a layer are scored at once as columns of f. A pixel costs nothing on images where it is 0.
    """
    m = inputs.shape[1]
    total = inputs.new_zeros(len(inputs), values.shape[1])
    for i in range(m):
        there = inputs[:, i].nonzero()[:, 0]
        if not len(there):
            continue
        row = inputs[there, i:]
        weights = row * 2
        weights[:, 0] = row[:, 0]
        block = values[first(i, m) : first(i + 1, m)]
        total.index_add_(0, there, (weights @ block) * row[:, :1])
    return total
