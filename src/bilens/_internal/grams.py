"""The two recursions of depth: Grams of bonds upward, what the layers below can say, and environments downward."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bilens._internal import checks
from bilens._internal.factors import check_factor, hidden_gram
from bilens._internal.levels import Level
from bilens._internal.scale import times_two_to
from bilens.errors import BilensError
from bilens.space import Space


class Scaled(NamedTuple):
    """2^power · matrix, the matrix near 1: Grams of l levels have the 2^(l+1)-th power of the factors."""

    matrix: Float[Tensor, "m n"]
    power: int

    def times(self, exponent: int) -> Float[Tensor, "m n"]:
        """The matrix itself, times 2^exponent."""
        return times_two_to(self.matrix, self.power + exponent)


class Products(NamedTuple):
    """L G Lᵀ, R G Rᵀ and L G Rᵀ of one level with the Gram G of the bond below: what both recursions are made of."""

    left: Float[Tensor, "h h"]
    right: Float[Tensor, "h h"]
    crossed: Float[Tensor, "h h"]


def upward(
    ours: Sequence[Level], theirs: Sequence[Level], metric: Float[Tensor, "i i"] | None = None
) -> tuple[Scaled, ...]:
    """G_l[p, q] = ⟨T_p, T'_q⟩ of the tree-symmetrised tensors of two networks' bond coordinates, for every bond.

    G_0 = the metric, or I; G_l = D H D'ᵀ with H = ½[(L G L'ᵀ)∘(R G R'ᵀ) + (L G R'ᵀ)∘(R G L'ᵀ)], G = G_{l−1}.

    Args:
        ours, theirs: levels near 1, equally many; metric: G_0.

    Cost: for each level two products (h, m)·(m, m') and four (h, m')·(m', h').
    """
    if ours is theirs:
        return _own(ours, metric)[0]
    found = [_start(ours[0], metric)]
    for number, (one, two) in enumerate(zip(ours, theirs, strict=True)):
        gram = found[-1].matrix
        left, right = (one.left, one.right) if number == 0 and metric is None else (one.left @ gram, one.right @ gram)
        hidden = hidden_gram(left, right, two.left, two.right)
        step = near(one.down @ hidden @ two.down.T)
        found.append(Scaled(step.matrix, 2 * found[-1].power + step.power))
    return tuple(found)


def both(
    levels: Sequence[Level], metric: Float[Tensor, "i i"] | None = None, lowest: int = 0
) -> tuple[tuple[Scaled, ...], tuple[Scaled, ...]]:
    """The Grams of one network, for every bond, and its environments, from the lowest bond asked for.

    G as in `upward`. E_l is what one copy of bond l is listened to with, and tr(E_l G_l) = ‖T‖² at each bond. E_n = I,
    and with P = Dᵀ E_l D and G = G_{l−1} on the leg beside,

        E_{l−1} = ¼[Lᵀ(P∘R G Rᵀ)L + Lᵀ(P∘R G Lᵀ)R + Rᵀ(P∘L G Rᵀ)L + Rᵀ(P∘L G Lᵀ)R].

    All 2^(n−l) copies of a bond have the same environment, because automorphisms of the tree move any to any other.

    Args:
        levels: near 1; metric: G_0, or I; lowest: the bond to stop at, 0 for the input.

    Returns:
        G_0 … G_n and E_lowest … E_n. At the input a level costs most: its bond is the widest.
    """
    grams, products = _own(levels, metric)
    last = levels[-1].down
    found = [Scaled(torch.eye(len(last), dtype=torch.float64, device=last.device), 0)]
    down = zip(reversed(levels[lowest:]), reversed(products[lowest:]), reversed(grams[lowest:-1]), strict=True)
    for level, made, gram in down:
        left, right = level.left, level.right
        outer = _through(level.down.T, found[-1].matrix)
        crossed = (outer * made.crossed).T @ right  # the second term and, transposed, the third
        half = left.T @ ((outer * made.right) @ left / 2 + crossed) + right.T @ ((outer * made.left) @ right / 2)
        step = near((half + half.T) / 4)
        found.append(Scaled(step.matrix, found[-1].power + gram.power + step.power))
    return grams, tuple(reversed(found))


def _own(levels: Sequence[Level], metric: Tensor | None) -> tuple[tuple[Scaled, ...], list[Products]]:
    """The Grams of a network with itself, of half as many products, and these products."""
    found, products = [_start(levels[0], metric)], []
    for number, level in enumerate(levels):
        gram = found[-1].matrix
        plain = number == 0 and metric is None
        left, right = (level.left, level.right) if plain else (level.left @ gram, level.right @ gram)
        made = Products(left @ level.left.T, right @ level.right.T, left @ level.right.T)
        # R G Lᵀ is the transpose of L G Rᵀ
        product = _through(level.down, (made.left * made.right + made.crossed * made.crossed.T) / 2)
        step = near((product + product.T) / 2)
        found.append(Scaled(step.matrix, 2 * found[-1].power + step.power))
        products.append(made)
    return tuple(found), products


def _start(level: Level, metric: Tensor | None) -> Scaled:
    """G_0."""
    eye = torch.eye(level.left.shape[1], dtype=torch.float64, device=level.left.device)
    return near(eye if metric is None else metric.double())


def _through(matrix: Float[Tensor, "n h"], middle: Float[Tensor, "h h"]) -> Float[Tensor, "n n"]:
    """A M Aᵀ; by numbers where A is diagonal, as that of a layer whose units are its outputs."""
    numbers = matrix.diagonal()
    if matrix.shape[0] == matrix.shape[1] and torch.count_nonzero(matrix) == torch.count_nonzero(numbers):
        return numbers[:, None] * middle * numbers
    return matrix @ middle @ matrix.T


def near(matrix: Float[Tensor, "m n"]) -> Scaled:
    """The matrix over the even power of two that brings its largest entry to between 1 and 4."""
    largest = float(torch.linalg.vector_norm(matrix.detach(), ord=torch.inf))
    if not math.isfinite(largest):
        raise BilensError("a network whose Grams leave the range of float64", "numbers in range", "scale its weights")
    half = (math.frexp(largest)[1] - 1) // 2 if largest > 0 else 0
    return Scaled(times_two_to(matrix, -2 * half), 2 * half)


def checked_metric(metric: Float[Tensor, "i i"] | None, input: Space) -> Float[Tensor, "i i"] | None:
    """A metric of the input in float64, symmetric; None stays None, the identity. Raises as `second_moment`."""
    return None if metric is None else second_moment("metric", metric, input)


def second_moment(name: str, value: Float[Tensor, "i i"], input: Space) -> Float[Tensor, "i i"]:
    """A matrix that can be E[x' x'ᵀ] over the folded input, in float64 and exactly symmetric.

    Raises:
        BilensError: NaN, infinity, a matrix that is not symmetric or has a clearly negative eigenvalue.
        ShapeError: another shape than (i, i) with the constant coordinate of the input.
    """
    checks.weights(name, value)
    check_factor(name, value, (input.dim, input.dim), f"input {input.title} twice")
    matrix = value.detach().double()
    scale = matrix.abs().max()
    if bool((matrix - matrix.T).abs().max() > 1e-5 * scale):
        raise BilensError(f"a {name} that is not symmetric", "a second moment E[x' x'ᵀ]")
    matrix = (matrix + matrix.T) / 2
    raised = matrix + 1e-7 * scale * torch.eye(len(matrix), dtype=torch.float64, device=matrix.device)
    if bool(scale > 0) and int(torch.linalg.cholesky_ex(raised).info):
        raise BilensError(
            f"a {name} with a negative eigenvalue", "a second moment E[x' x'ᵀ], whose eigenvalues are at least 0"
        )
    return matrix


def ridged(moment: Float[Tensor, "i i"], input: Space, ridge: float = 0.01) -> Float[Tensor, "i i"]:
    """(1 − t) M + t M_white: the second moment of data of which a share t is replaced by white noise as strong.

    Examples:
        >>> moment = torch.tensor([[4.0, 0.0], [0.0, 0.0]])  # the second pixel is never on
        >>> ridged(moment, Space("pixels", 2), 0.5)
        tensor([[3., 0.],
                [0., 1.]], dtype=torch.float64)

    M_white has the mean of M's diagonal for each coordinate and 1 for the constant one. With t = 0 a metric is blind to
    whatever the weights do where no data goes, for example to a trigger in a corner that is always dark; the default of
    0.01 makes it visible and changes what is seen elsewhere by about a hundredth. The mean shrinks with the rest, by 1
    − t, as it does when samples are replaced; to add white noise to the covariance alone, add t·I to M's square block.

    Args:
        moment: M = E[x' x'ᵀ], (i, i), for example `decompose.second_moment`; input: its space; ridge: t, from 0 to 1.

    Raises:
        BilensError, ShapeError: a matrix that is no second moment over the input, or t out of range.
    """
    checks.instance("input", input, Space)
    share = checks.number("ridge", ridge, 0, 1)
    value = second_moment("moment", moment, input)
    white = torch.eye(input.dim, dtype=torch.float64, device=value.device)
    white[: input.size] *= value.diagonal()[: input.size].mean()
    return (1 - share) * value + share * white
