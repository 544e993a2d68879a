"""The strongest entries of one output's matrix of interactions, a few rows at a time; for `decompose.strongest`."""

from __future__ import annotations

import functools
from typing import cast

import torch
from torch import Tensor

from bilens import pairs
from bilens._internal.checks import trusted
from bilens._internal.scale import near_one
from bilens.decompose.linalg import at_least_single, gamma, tensor_near_one
from bilens.decompose.many import squared_norms
from bilens.dictionary import Dictionary
from bilens.space import Space
from bilens.tensor import BilinearTensor

ROWS, BLOCK = 256, 2**24
"""Rows of C_o at a time, and how many numbers they may be: all of the half above the diagonal is never held."""

HELD = 2**28
"""Bytes of L Fᵀ and R Fᵀ in float64 that are kept; where there are more they are computed for the pairs in question."""

SPARE = 1.25
"""How many times as many candidates are taken in float32 as pairs are asked for, and 16 more."""

ROUNDING = 8.0
"""A pair that was left out may be this many times as wrong in float32 as the candidates were seen to be."""


class Matrices:
    """C_o of one output at a time, over 2^power: formed a few rows at a time, with the cheaper of two products.

    C_o = F Q_o Fᵀ takes 2hi² + 2mi² + m²i operations by Q_o and 2hm² by the hidden units; above the diagonal alone.
    """

    def __init__(self, tensor: BilinearTensor, inputs: Dictionary | None) -> None:
        near, self.power = tensor_near_one(tensor)
        self.work = at_least_single(tensor.left.dtype)
        self.left, self.right, self.down = near.left, near.right, near.down
        hidden, dim = near.left.shape
        self.atoms = None
        if inputs is not None:
            self.atoms, size = near_one(inputs.atoms.double())
            self.power += 2 * (int(torch.frexp(size).exponent) - 1)
        self.size = dim if self.atoms is None else len(self.atoms)
        by_kernel = 2 * hidden * dim**2 + 2 * self.size * dim**2 + self.size**2 * dim
        self.by_units = self.atoms is not None and 2 * hidden * self.size**2 < by_kernel
        self.coded = None
        if self.atoms is None:
            self.coded = self.left.T.contiguous(), self.right.T.contiguous()
        elif self.by_units or 16 * hidden * self.size <= HELD:
            self.coded = self.atoms @ self.left.T, self.atoms @ self.right.T
        self._single: dict[torch.dtype, tuple[Tensor, ...]] = {}

    def _factors(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Left, right and atoms (or, by units, the coded factors) in a type, converted once."""
        if dtype not in self._single:
            given = self.coded if self.by_units and self.coded else (self.left, self.right)
            atoms = () if self.by_units or self.atoms is None else (self.atoms,)
            self._single[dtype] = tuple(part.to(dtype) for part in (*given, *atoms))
        return self._single[dtype]

    @functools.cached_property
    def _reduced(self) -> BilinearTensor:
        """A layer of the same ‖C_o‖: with F = U T, U orthonormal, ‖F Q Fᵀ‖ = ‖T Q Tᵀ‖."""
        left, right = self.left, self.right
        if self.atoms is not None:
            triangle = torch.linalg.qr(self.atoms, mode="r")[1]
            left, right = left @ triangle.T, right @ triangle.T
        spaces = Space("z", left.shape[1]), Space("y", len(self.down))
        return trusted(BilinearTensor, left, right, self.down, *spaces)

    @functools.cached_property
    def energies(self) -> Tensor:
        """‖C_o‖² of every output over 2^(2 power), in float64."""
        return squared_norms(self._reduced)

    def slack(self, k: int) -> Tensor:
        """By how much ‖C_o‖² less what k listed pairs hold can be too small, by rounding in float64, (o,)."""
        made, (hidden, dim) = self._reduced, self.left.shape
        sizes = self.down.abs() @ (made.left.norm(dim=1) * made.right.norm(dim=1))
        steps = gamma(2 * hidden + 16 * (self.size + dim)) + 3 * k**0.5 * gamma(hidden + 2 * dim + 8)
        found: Tensor = steps * sizes.square()
        return found

    def strongest(self, output: int, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """First, second and coefficient of the k strongest pairs, in float64, strongest first."""
        weights, size = near_one(self.down[output][None], by_row=True)
        weights = weights[0]
        count = min(int(SPARE * k) + 16, pairs.count(self.size)) if self.work != torch.float64 else k
        sizes, first, second = self._candidates(weights, count, self.work)
        exact = self._entries(weights, first, second)
        order = exact.abs().mul(_weight(first, second)).argsort(descending=True, stable=True)[:k]
        if self.work != torch.float64 and count < pairs.count(self.size):
            refined = exact.abs() * _weight(first, second)
            seen = (refined - sizes.double()).abs().max()
            if bool(refined[order[-1]] - sizes.min() < ROUNDING * seen):  # float32 does not tell which is the k-th
                _, first, second = self._candidates(weights, k, torch.float64)
                exact = self._entries(weights, first, second)
                order = exact.abs().mul(_weight(first, second)).argsort(descending=True, stable=True)
        first, second, exact = first[order], second[order], exact[order]
        return first, second, exact * pairs.multiplicity(first, second) * size

    def _candidates(self, weights: Tensor, count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """√w |C_ab| of the `count` largest pairs a ≤ b as products in a type have them, and a and b."""
        parts, w = self._factors(dtype), weights.to(dtype)
        kernel = None
        if not self.by_units:
            kernel = (parts[0] * w[:, None]).T @ parts[1]
            kernel = (kernel + kernel.T) / 2
            kernel = kernel if self.atoms is None else parts[2] @ kernel
        rows = max(1, min(ROWS, BLOCK // self.size))
        best = w.new_empty(0)
        places = torch.empty(0, dtype=torch.int64, device=w.device)
        for start in range(0, self.size, rows):
            stop = min(start + rows, self.size)
            if kernel is None:
                block = (parts[0][start:stop] * w) @ parts[1][start:].T
                block = block.addmm_(parts[1][start:stop] * w, parts[0][start:].T).div_(2)
            elif self.atoms is None:
                block = kernel[start:stop, start:].clone()
            else:
                block = kernel[start:stop] @ parts[2][start:].T
            block = block.abs_().mul_(2**0.5)
            block.diagonal().div_(2**0.5)
            square = block[:, : stop - start]
            square.masked_fill_(torch.ones_like(square, dtype=torch.bool).tril_(-1), -1)
            floor = float(best[-1]) if len(best) == count else None
            values, found = _largest(block.flatten(), count, floor)
            width = self.size - start
            found = (found // width + start) * self.size + found % width + start
            best, places = torch.cat([best, values]), torch.cat([places, found])
            best, order = best.sort(descending=True, stable=True)
            best, places = best[:count], places[order][:count]
        return best, places // self.size, places % self.size

    def _entries(self, weights: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """C_ab = ½ Σ_h w_h (L_ha R_hb + R_ha L_hb) of these pairs, in float64."""
        left_a, right_a = self._coded(first)
        left_b, right_b = self._coded(second)
        return ((left_a * right_b + right_a * left_b) @ weights) / 2

    def _coded(self, places: Tensor) -> tuple[Tensor, Tensor]:
        if self.coded is not None:
            return self.coded[0][places], self.coded[1][places]
        rows, back = places.unique(return_inverse=True)  # type: ignore[no-untyped-call]
        atoms = cast(Tensor, self.atoms)[rows]  # without atoms the factors are held
        return (atoms @ self.left.T)[back], (atoms @ self.right.T)[back]


def _weight(first: Tensor, second: Tensor) -> Tensor:
    return pairs.multiplicity(first, second).double().sqrt()


def _largest(values: Tensor, count: int, floor: float | None) -> tuple[Tensor, Tensor]:
    """The `count` largest of some values and their places, or all above a floor; those below 0 are no values.

    A sample says above which number a few times as many as wanted lie, so that few are put in order: twice as fast as
    `topk` of all, and as exact, since all of them lie below what it leaves out.
    """
    if floor is None and len(values) > 64 * count:
        step = len(values) // (16 * count)
        sample = values[::step]
        wanted = max(8, 4 * count // step)
        if wanted < len(sample):
            guess = float(sample.topk(wanted).values[-1])
            if guess > 0 and int((values > guess).sum()) >= count:
                floor = guess
    if floor is not None:
        places = (values > floor).nonzero()[:, 0]
        best, order = values[places].topk(min(count, len(places)))
        return best, places[order]
    best, places = values.topk(min(count, len(values)))
    return best[best >= 0], places[best >= 0]
