"""Fitting a small layer to a large one by their weights: the relative error E‖y − y'‖² / E‖y‖² over a Gaussian."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.progress import bar
from bilens.tensor import BilinearTensor


@dataclass(frozen=True, eq=False)
class Gaussian:
    """x ~ N(μ, Σ), without the constant coordinate.

    Args:
        mean: μ, (d,); covariance: Σ, (d, d).
    """

    mean: Float[Tensor, " d"]
    covariance: Float[Tensor, "d d"]

    @classmethod
    def of(cls, images: Float[Tensor, "n d"], ridge: float) -> Gaussian:
        """The images' mean and (1 − t) covariance + t (its trace / d) I: the share t is white noise as strong.

        Args:
            images: one per row; ridge: t, from 0 to 1. At t = 0 a fit is blind wherever no image ever varies.
        """
        images = images.double()
        mean = images.mean(dim=0)
        away = images - mean
        covariance = away.T @ away / len(images)
        white = covariance.diagonal().mean() * torch.eye(len(mean), dtype=covariance.dtype)
        return cls(mean, (1 - ridge) * covariance + ridge * white)

    def to(self, like: Tensor) -> Gaussian:
        """In the type of a tensor."""
        return Gaussian(self.mean.to(like), self.covariance.to(like))


Factors = tuple[Tensor, Tensor, Tensor]
"""Left and right factors (h, d) and read-out (o, h) of a layer without biases."""


@dataclass(frozen=True, eq=False)
class Seen:
    """A layer over a Gaussian: what products with Σ and μ are needed of its factors, each computed once.

    Args:
        factors: of the layer; left, right: L Σ and R Σ; left_mean, right_mean: L μ and R μ; own: E[(l·x)(r·x)] of each
            unit, (h,).
    """

    factors: Factors
    left: Float[Tensor, "h d"]
    right: Float[Tensor, "h d"]
    left_mean: Float[Tensor, " h"]
    right_mean: Float[Tensor, " h"]
    own: Float[Tensor, " h"]

    @classmethod
    def of(cls, factors: Factors, given: Gaussian) -> Seen:
        """The layer over x ~ N(μ, Σ)."""
        (left, right, _), mean = factors, given.mean
        ls, rs, lm, rm = left @ given.covariance, right @ given.covariance, left @ mean, right @ mean
        return cls(factors, ls, rs, lm, rm, (ls * right).sum(dim=1) + lm * rm)

    def inner(self, other: Seen) -> Float[Tensor, ""]:
        """E[y·y'] of two layers, with gradients.

        With u = l·x and so on, E[u v u' v'] is the sum over pairings of four numbers of known means and covariances.
        """
        (p, q, e), pm, qm = other.factors, other.left_mean, other.right_mean
        km, rm = self.left_mean[:, None], self.right_mean[:, None]
        kp, kq, rp, rq = (of @ by.T for of in (self.left, self.right) for by in (p, q))
        pairs = kp * rq + kq * rp + rm * (qm * kp + pm * kq) + km * (qm * rp + pm * rq)
        return ((self.factors[2].T @ e) * (pairs + self.own[:, None] * other.own)).sum()


def inner(a: Factors, b: Factors, given: Gaussian) -> Float[Tensor, ""]:
    """E[y·y'] of two layers y = D[(L x) ⊙ (R x)] for x ~ N(μ, Σ), from the factors, with gradients."""
    return Seen.of(a, given).inner(Seen.of(b, given))


def fitted(
    loss: Callable[[Factors], Tensor], shape: tuple[int, int, int], *, steps: int, scale: float, seed: int, title: str
) -> Factors:
    """The factors (h, d, o) that make a loss small: Adam from random ones, the rate falling to 0.

    Args:
        loss: of the factors; shape: hidden units, inputs and outputs; steps: of Adam, at most 1e-2.
        scale: of a logit to begin with; seed: of the start; title: of the bar.
    """
    hidden, size, outputs = shape
    generator = torch.Generator().manual_seed(seed)
    start = [
        torch.randn(rows, columns, generator=generator) / columns**0.5
        for rows, columns in ((hidden, size), (hidden, size), (outputs, hidden))
    ]
    start[2] *= scale
    factors = [factor.requires_grad_(True) for factor in start]
    optimiser = torch.optim.Adam(factors, lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    with torch.enable_grad(), bar(title, steps) as step:
        for _ in range(steps):
            optimiser.zero_grad()
            value = loss((factors[0], factors[1], factors[2]))
            torch.autograd.backward(value)
            optimiser.step()
            schedule.step()
            step(1)
    left, right, down = (factor.detach() for factor in factors)
    return left, right, down


def factors(tensor: BilinearTensor) -> Factors:
    """The factors of a layer without biases, in float32."""
    return tensor.left.float(), tensor.right.float(), tensor.down.float()


def outputs(of: Factors, x: Float[Tensor, "n d"]) -> Float[Tensor, "n o"]:
    """D[(L x) ⊙ (R x)] of each row."""
    left, right, down = of
    y: Tensor = ((x @ left.T) * (x @ right.T)) @ down.T
    return y
