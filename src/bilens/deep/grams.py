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
from bilens._internal.scale import times_two_to
from bilens.deep.levels import Level
from bilens.errors import BilensError
from bilens.space import Space


class Scaled(NamedTuple):
    """2^power · matrix, the matrix near 1: Grams of l levels have the 2^(l+1)-th power of the factors."""

    matrix: Float[Tensor, "m n"]
    power: int

    def times(self, exponent: int) -> Float[Tensor, "m n"]:
        """The matrix itself, times 2^exponent."""
        return times_two_to(self.matrix, self.power + exponent)


def upward(
    ours: Sequence[Level], theirs: Sequence[Level], metric: Float[Tensor, "i i"] | None = None
) -> tuple[Scaled, ...]:
    """G_l[p, q] = ⟨T_p, T'_q⟩ of the tree-symmetrised tensors of two networks' bond coordinates, for every bond.

    G_0 = the metric, or I; G_l = D H D'ᵀ with H = ½[(L G L'ᵀ)∘(R G R'ᵀ) + (L G R'ᵀ)∘(R G L'ᵀ)], G = G_{l−1}.

    Args:
        ours, theirs: levels near 1, equally many; metric: G_0.

    Cost: for each level two products (h, m)·(m, m') and four (h, m')·(m', h').
    """
    start = torch.eye(ours[0].left.shape[1], dtype=torch.float64, device=ours[0].left.device)
    found = [near(start if metric is None else metric.double())]
    for number, (one, two) in enumerate(zip(ours, theirs, strict=True)):
        gram = found[-1].matrix
        left, right = (one.left, one.right) if number == 0 and metric is None else (one.left @ gram, one.right @ gram)
        if one is two:  # a symmetric middle: R G Lᵀ is the transpose of L G Rᵀ
            crossed = left @ one.right.T
            hidden = (left @ one.left.T).mul_(right @ one.right.T).addcmul_(crossed, crossed.T).div_(2)
        else:
            hidden = hidden_gram(left, right, two.left, two.right)
        product = one.down @ hidden @ two.down.T
        if one is two:
            product = (product + product.T) / 2
        step = near(product)
        found.append(Scaled(step.matrix, 2 * found[-1].power + step.power))
    return tuple(found)


def downward(levels: Sequence[Level], grams: Sequence[Scaled], lowest: int = 0) -> tuple[Scaled, ...]:
    """E_l, what one copy of bond l is listened to with, from the lowest bond asked for: tr(E_l G_l) = ‖T‖² at each.

    E_n = I, and with P = Dᵀ E_l D and G = G_{l−1} on the leg beside,

        E_{l−1} = ¼[Lᵀ(P∘R G Rᵀ)L + Lᵀ(P∘R G Lᵀ)R + Rᵀ(P∘L G Rᵀ)L + Rᵀ(P∘L G Lᵀ)R].

    All 2^(n−l) copies of a bond have the same environment, because automorphisms of the tree move any to any other.

    Args:
        levels: near 1; grams: `upward(levels, levels, metric)`; lowest: the bond to stop at, 0 for the input.

    Returns:
        E_lowest … E_n. At the input a level costs most: its bond is the widest.
    """
    outputs = len(levels[-1].down)
    found = [Scaled(torch.eye(outputs, dtype=torch.float64, device=levels[-1].down.device), 0)]
    for level, gram in zip(reversed(levels[lowest:]), reversed(grams[lowest:-1]), strict=True):
        left, right = level.left, level.right
        outer = level.down.T @ found[-1].matrix @ level.down
        through, beside = right @ gram.matrix, left @ gram.matrix
        crossed = outer * (through @ left.T)  # its transpose is the other one
        one = left.T @ ((outer * (through @ right.T)) @ left + crossed @ right)
        two = right.T @ (crossed.T @ left + (outer * (beside @ left.T)) @ right)
        both = one + two
        step = near((both + both.T) / 8)
        found.append(Scaled(step.matrix, found[-1].power + gram.power + step.power))
    return tuple(reversed(found))


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
    whatever the weights do where no data goes, for example to a trigger in a corner that is always dark; the default
    of 0.01 makes it visible and changes what is seen elsewhere by about a hundredth.

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
