"""What eigenvectors are made of, and what features read and write, as tokens and input features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens import store
from bilens._internal.shown import line
from bilens.analyses.language.layer import Layer
from bilens.analyses.language.sets import Inputs, Outputs
from bilens.analyses.language.subject import Subject, rows
from bilens.tensor import BilinearTensor

SHOWN = 8
"""Tokens, or input features, that are named on each side."""

EIGENVECTORS = 6
"""Eigenvectors of a feature that are taken apart."""

OFTEN = 3
"""Times that a token must occur in the text to be named."""

SQUARE = 8
"""Input features of a feature's small matrix."""

AT_ONCE = 4096
"""Tokens at a time."""


@store.register
@dataclass(frozen=True, eq=False, repr=False)
class Made:
    """Of n features: names and numbers, r on each side, the largest first; tokens and inputs are numbers.

    Args:
        eigen_tokens, eigen_values: what each eigenvector's reader gives at tokens, (n, e, 2, r): largest, smallest.
        eigen_inputs, eigen_input_values: the same for input features, (n, e, 2, q); q = 0 where they are tokens too.
        constant: what the mean input, or without text the constant coordinate, holds of each eigenvector, (n, e).
        reads, read_values: tokens where the feature is largest and smallest, (n, 2, r).
        writes, write_values: tokens whose logits one unit raises and lowers most, (n, 2, r).
        square: input features, (n, q), square_values: their coefficients, (n, q, q).
        tokens: how many tokens of text the first and third are averages over; 0 for embeddings.
    """

    eigen_tokens: Int[Tensor, "n e 2 r"]
    eigen_values: Float[Tensor, "n e 2 r"]
    eigen_inputs: Int[Tensor, "n e 2 q"]
    eigen_input_values: Float[Tensor, "n e 2 q"]
    constant: Float[Tensor, "n e"]
    reads: Int[Tensor, "n 2 r"]
    read_values: Float[Tensor, "n 2 r"]
    writes: Int[Tensor, "n 2 r"]
    write_values: Float[Tensor, "n 2 r"]
    square: Int[Tensor, "n s"]
    square_values: Float[Tensor, "n s s"]
    tokens: int

    __repr__ = line


@dataclass(frozen=True, eq=False, repr=False)
class Readings:
    """What a layer's input is at tokens.

    Args:
        numbers: the tokens, (v,); inputs: x' of each less the middle, (v, i); middle: x' in the mean, (i,).
        y: what the original layer gives at each, (v, o), the mean over the text, or at the embedding.
        tokens: of text that these are averages over, 0 for embeddings.
    """

    numbers: Int[Tensor, " v"]
    inputs: Float[Tensor, "v i"]
    middle: Float[Tensor, " i"]
    y: Float[Tensor, "v o"]
    tokens: int

    __repr__ = line


@torch.no_grad()
def readings(subject: Subject, layer: Layer) -> Readings:
    """What the input is at each token: the mean over the text that was fitted to, without text its embedding."""
    if layer.fit is None or subject.split is None:
        return _embedded(subject, layer)
    tokens, x, y = rows(subject.split.fit), layer.folded(layer.fit), layer.mlp(layer.fit)
    numbers, place, counts = tokens.unique(return_inverse=True, return_counts=True)  # type: ignore[no-untyped-call]
    sums = [torch.zeros(len(numbers), part.shape[1]).index_add_(0, place, part) / counts[:, None] for part in (x, y)]
    often = (counts >= OFTEN) & (numbers < len(subject.pieces))
    often = often if bool(often.any()) else counts > 0
    middle = x.mean(dim=0)
    return Readings(numbers[often], sums[0][often] - middle, middle, sums[1][often], len(tokens))


def _embedded(subject: Subject, layer: Layer) -> Readings:
    x, found = subject.embedding, []
    for start in range(0, len(x), AT_ONCE):
        found.append(layer.tensor(layer.normalised(x[start : start + AT_ONCE])))
    inputs = layer.folded(x)
    middle = torch.zeros_like(inputs[0])
    middle[-1] = float(layer.tensor.input.constant)
    return Readings(torch.arange(len(x)), inputs - inputs.mean(dim=0), middle, torch.cat(found), 0)


@dataclass(frozen=True, eq=False, repr=False)
class Basis:
    """What features are said in.

    Args:
        readings: the layer's input at tokens; unembedding: the direction of each token; inputs: the input features.
    """

    readings: Readings
    unembedding: Float[Tensor, "t o"]
    inputs: Inputs

    __repr__ = line


@torch.no_grad()
def made(
    layer: Layer, found: Outputs, vectors: Float[Tensor, "n k i"], basis: Basis, held: Float[Tensor, "n m"]
) -> Made:
    """Take a set apart.

    Args:
        layer: the layer; found: the set; vectors: of its eigenpairs; basis: what it is said in.
        held: what the interactions of each of the basis's input features hold of each feature's.
    """
    read, inputs, unembedding = basis.readings, basis.inputs, basis.unembedding
    v = vectors[:, :EIGENVECTORS].to(read.inputs)
    tokens, values = _sides(v @ read.inputs.T, SHOWN)
    by_inputs = v.new_zeros(*v.shape[:2], 0)
    tensor, dictionary = layer.tensor.match(inputs.dictionary)
    if inputs.codes is not None:
        strength = inputs.codes.square().mean(dim=0).sqrt()  # what a code is where it matters
        # `match` may have added the constant, last, where eigenvectors of a layer without biases are 0
        atoms = dictionary.atoms[: inputs.codes.shape[1], : v.shape[2]].to(v)
        by_inputs = v @ (atoms * strength[:, None]).T
    places, numbers = _sides(by_inputs, min(SHOWN, by_inputs.shape[-1]))
    directions = found.of(layer).to(read.y)
    reads, read_values = _sides(directions @ (read.y - read.y.mean(dim=0)).T, SHOWN)
    writes, write_values = _sides(found.writes.to(unembedding) @ unembedding.T, SHOWN)
    lengths = v.square().sum(dim=2) if not read.tokens else torch.ones(v.shape[:2])
    square, square_values = _square(tensor.then(directions, found.space), dictionary.atoms.to(v), held)
    return Made(
        read.numbers[tokens],
        values,
        places,
        numbers,
        ((v @ read.middle).square() / lengths.clamp(min=1e-30)).clamp(max=1),
        read.numbers[reads],
        read_values,
        writes,
        write_values,
        square,
        square_values,
        read.tokens,
    )


def _sides(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Places and values of the largest and the smallest along the last axis, (…, 2, count)."""
    count = min(count, scores.shape[-1])
    top, low = scores.topk(count, dim=-1), (-scores).topk(count, dim=-1)
    return torch.stack([top.indices, low.indices], dim=-2), torch.stack([top.values, -low.values], dim=-2)


def _square(tensor: BilinearTensor, atoms: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
    """The input features that the strongest interactions hold most of, and all coefficients among them."""
    chosen = held.topk(min(SQUARE, held.shape[1]), dim=1).indices
    left, right = atoms @ tensor.left.to(atoms).T, atoms @ tensor.right.to(atoms).T
    found = []
    for some, weights in zip(chosen, tensor.down.to(atoms), strict=True):
        half = (left[some] * weights) @ right[some].T
        both = half + half.T
        found.append(both - torch.diag(both.diagonal() / 2))
    return chosen, torch.stack(found)


__all__ = ["EIGENVECTORS", "OFTEN", "SHOWN", "SQUARE", "Basis", "Made", "Readings", "made", "readings"]
