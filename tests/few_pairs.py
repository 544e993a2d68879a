"""Small layers for the tests of pairs, and their pairs counted by hand."""

from __future__ import annotations

import itertools

import numpy as np
import torch

import oracle
from bilens.dictionary import Dictionary
from bilens.space import Space
from bilens.tensor import BilinearTensor
from oracle import Array, array
from strategies import Layer

NAMES = ("left", "right", "down")


def random_tensor(d: int = 6, o: int = 3, h: int = 4, *, constant: bool = False, seed: int = 0) -> BilinearTensor:
    """A layer with normal factors in float64."""
    generator = torch.Generator().manual_seed(seed)
    space = Space("x", d, constant=constant)
    left, right, down = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((h, space.dim), (h, space.dim), (o, h))
    )
    return BilinearTensor(left, right, down, space, Space("y", o))


def every_pair(m: int) -> list[tuple[int, int]]:
    """All pairs i ≤ j, row by row."""
    return list(itertools.combinations_with_replacement(range(m), 2))


def answers(layer: Layer, dictionary: Dictionary | None = None) -> tuple[Array, Array]:
    """r_ij for every i and j, (m, m, o), from the layer's values alone, and the natural scale of each."""
    tensor = layer.tensor()
    constant = tensor.input.constant or (dictionary is not None and dictionary.offset is not None)
    if dictionary is None:
        atoms = np.eye(tensor.input.dim)
    else:
        atoms = array(dictionary.fold().atoms if constant else dictionary.atoms)
    lifted = tensor.fold() if constant else tensor
    absolute = oracle.dense(*(getattr(lifted, name).abs() for name in NAMES))
    return (
        oracle.pair_vectors(oracle.tensor(layer, constant=constant), atoms),
        oracle.pair_vectors(absolute, abs(atoms)),
    )


def of_kind(kind: str, r: Array) -> Array:
    """The vectors of every i and j of another kind, from r_ij."""
    own = r[np.arange(len(r)), np.arange(len(r))]
    if kind == "two_hot":
        return own[:, None] + own[None] + 2 * r
    if kind == "symmetric":
        return r * np.where(np.eye(len(r)), 1, np.sqrt(2))[:, :, None]
    return r
