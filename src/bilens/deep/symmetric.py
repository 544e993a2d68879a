"""Inner products of the functions of one or two layers, not of their trees: fully symmetrised and Gaussian."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bilens._internal import checks
from bilens._internal.factors import hidden_gram
from bilens._internal.grams import upward
from bilens._internal.levels import Balanced
from bilens._internal.scale import fitted
from bilens.deep.network import DeepTensor
from bilens.errors import BilensError


@torch.no_grad()
def full_inner(a: DeepTensor, b: DeepTensor, *, metric: Float[Tensor, "i i"] | None = None) -> Float[Tensor, ""]:
    """⟨S, S'⟩ of the *fully* symmetrised tensors, which depend on the functions alone; one or two layers.

    Examples:
        >>> from bilens import BilinearTensor
        >>> x, y, e = Space("x", 2), Space("y", 2), torch.eye(2)
        >>> z = Space("z", 1)
        >>> squares, product = BilinearTensor(e, e, e, x, y), BilinearTensor(e[:1], e[1:], e[:, :1], x, y)
        >>> times = BilinearTensor(e[:1], e[1:], e[:1, :1], y, z)
        >>> square = BilinearTensor(e[:1], e[:1], e[:1, :1], y, z)
        >>> one, other = DeepTensor.chain(squares, times), DeepTensor.chain(product, square)  # x₀²x₁², in two ways
        >>> one.inner(other), full_inner(one, other)
        (tensor(0.), tensor(0.1667))

    At one layer it is `DeepTensor.inner`. At two, with X_o = D₁ᵀ sym(L₂ᵀ diag(D₂,o) R₂) D₁, so that the output is
    Σ_ac X_o[a, c] q_a q_c of the hidden forms q_a = x'ᵀS_a x',

        ⟨S, S'⟩ = ⅓⟨T, T'⟩ + ⅔ Σ_o Σ_acbd X_o[a, c] X'_o[b, d] tr(S_a M S'_b M S_c M S'_d M).

    Args:
        a, b: networks of as many layers over the same input and output; metric: M, I by default.

    Returns:
        A number in the wider of their types. No gradients.

    Cost: O(o·m·h³) with m the size of the bond between the layers, on top of that of `inner`.

    Raises:
        SpaceError: other spaces. BilensError: more than two layers, where the sum has pairings that do not come apart
            (315 at three layers), or as `inner`.
    """
    ours, theirs, metric = _pair(a, b, metric, "fully symmetrised")
    value = _full(ours, theirs, metric)
    return _fitted(value, ours, theirs, a, b)


@torch.no_grad()
def full_cosine(a: DeepTensor, b: DeepTensor, *, metric: Float[Tensor, "i i"] | None = None) -> Float[Tensor, ""]:
    """⟨S, S'⟩ / (‖S‖ ‖S'‖) of the fully symmetrised tensors: 1 for two networks of one function (`full_inner`)."""
    ours, theirs, metric = _pair(a, b, metric, "fully symmetrised")
    found = _cosine(_full(ours, theirs, metric), _full(ours, ours, metric), _full(theirs, theirs, metric))
    return found.to(_work(a, b))


@torch.no_grad()
def gaussian_inner(a: DeepTensor, b: DeepTensor, *, metric: Float[Tensor, "i i"] | None = None) -> Float[Tensor, ""]:
    """E[y·y'] for Gaussian inputs, exactly, from the factors: one or two layers, with or without biases.

    Examples:
        >>> from bilens import BilinearTensor
        >>> x, y = Space("x", 1), Space("y", 1)
        >>> square = DeepTensor.chain(BilinearTensor(*(torch.ones(1, 1),) * 3, x, y))
        >>> gaussian_inner(square, square)  # E x⁴ for a standard normal x
        tensor(3.)

    The Gaussian is the one with E[x'x'ᵀ] = M. Where the input has the constant coordinate, M holds the mean μ in its
    last column and the covariance is Σ = M − μ'μ'ᵀ, that of the constant being 0; where it has none, the mean is 0.
    With I, the default, x is standard normal either way. With h_c the Hermite part of order c,
    E[y·y'] = Σ_c c! ⟨h_c, h'_c⟩_Σ. At one layer, y = x'ᵀQx', centred or not,

        E[y y'] = 2 tr(QΣQ'Σ) + 4 μ'ᵀQΣQ'μ' + (μ'ᵀQμ' + tr QΣ)(μ'ᵀQ'μ' + tr Q'Σ);

    at two, `docs/theory.md`, "Gaussian inputs".

    Args:
        a, b: networks of as many layers over the same input and output; metric: M, for example
            `decompose.second_moment(x, a.input)`, or `ridged` of it.

    Returns:
        A number in the wider of their types. No gradients.

    Cost: at one layer that of `inner`; at two that of `full_inner` twice, and six (i, i)·(i, i) products per output.

    Raises:
        SpaceError: other spaces. BilensError: more than two layers, or a metric that gives the constant coordinate
            another second moment than 1.
    """
    ours, theirs, metric = _pair(a, b, metric, "Gaussian")
    return _fitted(_gaussian(ours, theirs, _Normal.of(metric, a, b)), ours, theirs, a, b)


@torch.no_grad()
def gaussian_cosine(a: DeepTensor, b: DeepTensor, *, metric: Float[Tensor, "i i"] | None = None) -> Float[Tensor, ""]:
    """E[y·y'] / √(E[y·y] E[y'·y']) for Gaussian inputs (`gaussian_inner`)."""
    ours, theirs, metric = _pair(a, b, metric, "Gaussian")
    normal = _Normal.of(metric, a, b)
    found = _cosine(*(_gaussian(*pair, normal) for pair in ((ours, theirs), (ours, ours), (theirs, theirs))))
    return found.to(_work(a, b))


class _Normal(NamedTuple):
    """x' ~ N(μ', Σ) over the folded input: M = Σ + μ'μ'ᵀ."""

    moment: Tensor
    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, metric: Tensor | None, a: DeepTensor, b: DeepTensor) -> _Normal:
        input = a.input if a.input.constant else b.input
        moment = torch.eye(input.dim, dtype=torch.float64) if metric is None else metric
        moment = moment.to(a.layers[0].left.device)
        if not input.constant:
            return cls(moment, torch.zeros_like(moment[0]), moment)
        if not bool((moment[-1, -1] - 1).abs() < 1e-6):
            raise BilensError(
                f"a metric with {float(moment[-1, -1]):.4g} for the constant coordinate", "1, the second moment of 1"
            )
        mean = moment[:, -1].clone()
        mean[-1] = 1
        covariance = moment - mean[:, None] * mean
        covariance[-1], covariance[:, -1] = 0, 0
        return cls(moment, mean, covariance)


def _full(a: Balanced, b: Balanced, metric: Tensor | None) -> Tensor:
    """⟨S, S'⟩ of balanced chains, without their powers of two."""
    gram = upward(a.levels, b.levels, metric)[-1]
    tree: Tensor = gram.times(0).trace()
    if len(a.levels) == 1:
        return tree
    first, other = a.levels[0], b.levels[0]
    left, right = (first.left, first.right) if metric is None else (first.left @ metric, first.right @ metric)
    # rows of the other network's units, columns of this one's
    one, two, three, four = other.left @ left.T, other.left @ right.T, other.right @ left.T, other.right @ right.T
    crossed = tree.new_zeros(())
    for form, beside in zip(_forms(a), _forms(b), strict=True):
        values, vectors = torch.linalg.eigh(form)
        hidden = other.down.T @ beside @ other.down
        for value, weights in zip(values, vectors.T @ first.down, strict=True):
            if not bool(value != 0):
                continue
            mixed = ((one * weights) @ four.T + (two * weights) @ three.T) / 2
            lefts, rights = (one * weights) @ two.T, (three * weights) @ four.T
            both = mixed * mixed.T + (lefts + lefts.T) * (rights + rights.T) / 4
            crossed = crossed + value * (hidden * both).sum() / 2
    return tree / 3 + 2 * crossed / 3


def _forms(chain: Balanced) -> Iterator[Tensor]:
    """For every output the symmetric form of the bond below it, sym(Lᵀ diag(D_o) R) of the last layer."""
    last = chain.levels[-1]
    for weights in last.down:
        half = (last.left * weights[:, None]).T @ last.right
        yield (half + half.T) / 2


def _gaussian(a: Balanced, b: Balanced, normal: _Normal) -> Tensor:
    """E[y·y'] of balanced chains, without their powers of two."""
    if len(a.levels) == 1:
        return _gaussian_one(a, b, normal)
    mean, covariance = normal.mean, normal.covariance
    lone = _full(a, b, covariance)
    total = 24 * lone
    central = not bool(mean.any())
    between = lone.new_zeros(()) if central else _full(a, b, normal.moment) - lone
    for (squares, traces), (other, others) in zip(_contracted(a, normal), _contracted(b, normal), strict=True):
        # h₂ = 6 S·M, h₁ = 4 Sμ³ + 12 tr(S)μ, h₀ = Sμ⁴ + 6 μᵀtr(S)μ + 3 tr² S, with tr over Σ
        quadratic, theirs = squares + traces, other + others
        total = total + 72 * ((quadratic @ covariance) * (theirs @ covariance).T).sum()
        linear, beside = (4 * (one @ mean) + 12 * (two @ mean) for one, two in ((squares, traces), (other, others)))
        total = total + linear @ covariance @ beside
        total = total + _level(squares, traces, normal) * _level(other, others, normal)
        if not central:  # what ⟨S, S'⟩_M has beyond its third-order part 4⟨Sμ, S'μ⟩
            between = between - 6 * ((squares @ covariance) * (other @ covariance).T).sum()
            between = between - 4 * (squares @ mean) @ covariance @ (other @ mean)
            between = between - (mean @ squares @ mean) * (mean @ other @ mean)
    return total + 24 * between  # 3! · 16 ⟨Sμ, S'μ⟩, and `between` is four of them


def _level(squares: Tensor, traces: Tensor, normal: _Normal) -> Tensor:
    """E y, the Hermite part of order 0."""
    mean = normal.mean
    return mean @ squares @ mean + 6 * (mean @ traces @ mean) + 3 * (traces * normal.covariance).sum()


def _contracted(chain: Balanced, normal: _Normal) -> Iterator[tuple[Tensor, Tensor]]:
    """For every output S with two legs contracted, (i, i): with μμᵀ and with Σ.

    tr_N S = ⅓ Σ_ac X[a, c] (tr(S_a N) S_c + 2 S_a N S_c), for any symmetric N.
    """
    first = chain.levels[0]
    left, right = first.left, first.right
    through = [left @ normal.covariance, right @ normal.covariance]
    ends = left @ normal.mean, right @ normal.mean
    for form in _forms(chain):
        hidden = first.down.T @ form @ first.down
        pairs = []
        for rr, rl, ll in (
            (ends[1][:, None] * ends[1], ends[1][:, None] * ends[0], ends[0][:, None] * ends[0]),
            (through[1] @ right.T, through[1] @ left.T, through[0] @ left.T),
        ):
            weights = hidden @ rl.diagonal()
            half = (left * weights[:, None]).T @ right
            crossed = left.T @ ((hidden * rl) @ right)
            squares = left.T @ ((hidden * rr) @ left) + right.T @ ((hidden * ll) @ right)
            pairs.append((half + half.T + squares + crossed + crossed.T) / 6)
        yield pairs[0], pairs[1]


def _gaussian_one(a: Balanced, b: Balanced, normal: _Normal) -> Tensor:
    one, two = a.levels[0], b.levels[0]
    mean, covariance = normal.mean, normal.covariance
    left, right = one.left @ covariance, one.right @ covariance
    down = one.down.T @ two.down
    ll, lr, rl, rr = left @ two.left.T, left @ two.right.T, right @ two.left.T, right @ two.right.T
    l, r, p, q = one.left @ mean, one.right @ mean, two.left @ mean, two.right @ mean  # noqa: E741
    quadratic = 2 * hidden_gram(left, right, two.left, two.right)
    linear = r[:, None] * q * ll + r[:, None] * p * lr + l[:, None] * q * rl + l[:, None] * p * rr
    levels = [
        chain.down @ ((part.left @ covariance * part.right).sum(dim=1) + (part.left @ mean) * (part.right @ mean))
        for chain, part in ((one, one), (two, two))
    ]
    return (down * (quadratic + linear)).sum() + levels[0] @ levels[1]


def _pair(a: DeepTensor, b: DeepTensor, metric: Tensor | None, what: str) -> tuple[Balanced, Balanced, Tensor | None]:
    for name, network in (("a", a), ("b", b)):
        checks.instance(name, network, DeepTensor, hint="make one with DeepTensor.chain")
    if a.depth > 2:
        raise BilensError(
            f"a {what} inner product at {a.depth} layers",
            "one or two layers, at which it comes apart into matrices",
            "use `inner`, of the trees, or sample inputs",
        )
    return a.over_one_input(b, metric)


def _fitted(value: Tensor, one: Balanced, two: Balanced, a: DeepTensor, b: DeepTensor) -> Tensor:
    power = torch.tensor(one.power + two.power, device=value.device)
    return fitted(value, power, _work(a, b), "an inner product")


def _cosine(both: Tensor, one: Tensor, two: Tensor) -> Tensor:
    positive = (one > 0) & (two > 0)
    found = both / torch.where(positive, one * two, 1).sqrt()
    return torch.where(positive, found.clamp(-1, 1), 0)


def _work(a: DeepTensor, b: DeepTensor) -> torch.dtype:
    return torch.promote_types(a.layers[0].left.dtype, b.layers[0].left.dtype)
