"""What tensors and kernels do with their factors: inner products, conversions, checks, and how they are written."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from bilens._internal import checks
from bilens._internal.checks import instance
from bilens._internal.scale import NONE, Units, fitted, times_two_to, tracked
from bilens.errors import BilensError, ShapeError
from bilens.space import Space

GRAM_ROWS = 256
"""Rows of one layer's hidden Gram at a time: fewer save more of the half above the diagonal, more are faster."""


F = TypeVar("F", bound="Factored")


class Factored(ABC):
    """What tensors and kernels have in common: their Frobenius inner products, from the factors."""

    left: Float[Tensor, "h i"]

    @property
    @abstractmethod
    def _units(self) -> Units:
        """The factors near one, and the power of two that is out of the way."""

    @abstractmethod
    def _require(self: F, other: F) -> None:
        """Raise SpaceError where the other is over other spaces."""

    def inner(self: F, other: F) -> Float[Tensor, ""]:
        """Frobenius inner product ⟨B₁, B₂⟩ = Σ (D₁ᵀD₂) ∘ G₁₂, from the factors, in float64 inside; for a kernel D = wᵀ.

        G₁₂ = ½[(L₁L₂ᵀ)∘(R₁R₂ᵀ) + (L₁R₂ᵀ)∘(R₁L₂ᵀ)]. This is a metric of weights; the inner product of the functions
        under a Gaussian input is another: 2⟨B₁, B₂⟩ + tr B₁ · tr B₂.

        Raises:
            SpaceError: they are over other spaces. BilensError: a product beyond the range of the type.
        """
        self._require(other)
        check_together_on(self.left, other.left)
        work = torch.promote_types(self.left.dtype, other.left.dtype)
        return fitted(*inner(self._units, other._units), work, "an inner product")

    def norm(self) -> Float[Tensor, ""]:
        """Frobenius norm √⟨B, B⟩, in float64 inside, at any scale that the type holds.

        Raises:
            BilensError: a norm beyond the range of the type.
        """
        own = self._units
        square, exponent = inner(own, own)  # an even exponent: twice that of the largest output
        return fitted(_root(square), exponent // 2, self.left.dtype, "a norm")

    def cosine(self: F, other: F) -> Float[Tensor, ""]:
        """Cosine ⟨B₁, B₂⟩ / (‖B₁‖ ‖B₂‖) between −1 and 1, at any scale; exactly 1 for B₁ = B₂, 0 when one is zero.

        Examples:
            >>> from bilens import BilinearTensor
            >>> W, x, y = torch.eye(2), Space("x", 2), Space("y", 2)
            >>> B = BilinearTensor.from_layer(W, W, input=x, output=y)  # x₁², x₂²
            >>> C = BilinearTensor.from_layer(W, W, torch.diag(torch.tensor([1.0, 0.0])), input=x, output=y)  # x₁², 0
            >>> round(float(B.cosine(C)), 4), float(B.cosine(2 * B))
            (0.7071, 1.0)
        """
        self._require(other)
        check_together_on(self.left, other.left)
        a = self._units
        b = a if other is self else other._units
        (product, both), (first, one), (second, another) = inner(a, b), inner(a, a), inner(b, b)
        positive = (first > 0) & (second > 0)
        norms = torch.where(positive, first * second, 1).sqrt()
        product = times_two_to(product, both - (one + another) // 2)
        work = torch.promote_types(self.left.dtype, other.left.dtype)
        return torch.where(positive, (product / norms).clamp(-1, 1), 0).to(work)


def hidden_gram(
    left1: Float[Tensor, "h i"], right1: Float[Tensor, "h i"], left2: Float[Tensor, "g i"], right2: Float[Tensor, "g i"]
) -> Float[Tensor, "h g"]:
    """Inner products of the rank-one kernels sym(l rᵀ) of two layers, in float64.

    G = ½[(L₁L₂ᵀ)∘(R₁R₂ᵀ) + (L₁R₂ᵀ)∘(R₁L₂ᵀ)]; cost: four products of (h, i) and (i, g), a little over two for one layer.
    """
    l1, r1, l2, r2 = (factor.double() for factor in (left1, right1, left2, right2))
    crossed = l1 @ r2.T
    if not (left1 is left2 and right1 is right2):
        return (l1 @ l2.T).mul_(r1 @ r2.T).addcmul_(crossed, r1 @ l2.T).div_(2)
    gram = torch.empty_like(crossed)
    for start in range(0, len(gram), GRAM_ROWS):  # up to the diagonal: the rest is the same mirrored
        rows, until = slice(start, start + GRAM_ROWS), slice(0, start + GRAM_ROWS)
        lower = (l1[rows] @ l1[until].T).mul_(r1[rows] @ r1[until].T)
        gram[rows, until] = lower.addcmul_(crossed[rows, until], crossed[until, rows].T).div_(2)
        gram[:start, rows] = gram[rows, :start].T
    return gram


def inner(a: Units, b: Units) -> tuple[Tensor, Tensor]:
    """⟨A, B⟩ as a number near 1 and the power of two that it is multiplied by."""
    exponents = a.exponents + b.exponents
    if not tracked(a.down, b.down):
        nothing = (a.down == 0).all(dim=1) | (b.down == 0).all(dim=1)
        exponents = exponents.masked_fill(nothing, NONE)
    most = exponents.max()
    most = torch.where(most > NONE, most, 0)
    gram = hidden_gram(a.left, a.right, b.left, b.right)
    down = times_two_to(a.down, (exponents - most)[:, None]).T @ b.down
    return (down * gram).sum(), most


def _root(square: Tensor) -> Tensor:
    """Its square root, with 0 for what rounding made negative, and gradient 0 at 0."""
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1).sqrt(), 0)


def checksum(*factors: Tensor) -> str:
    """SHA-256 of their types, shapes and bytes."""
    digest = hashlib.sha256()
    for factor in factors:
        digest.update(str((factor.dtype, tuple(factor.shape))).encode())
        digest.update(factor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def own(record: object, *names: str) -> None:
    """Replace the record's tensors by copies that nothing else shares or trains."""
    for name in names:
        object.__setattr__(record, name, checks.owned(getattr(record, name)))


def settle(record: Any, *names: str, **sizes: int) -> None:
    """Check the tensors of a record that is being built, and let it own them; those that are None are left out.

    Raises:
        ShapeError: shapes that are not those of the annotations, with these sizes. BilensError: NaN or infinity, no
            dense floating-point tensor, or another type or device than the first one's.
    """
    values = {name: value for name in names if (value := getattr(record, name)) is not None}
    for name, value in values.items():
        checks.floating(name, value)
    checks.shapes(record, **sizes)
    for name, value in values.items():
        checks.finite(name, value)
    check_alike(**values)
    own(record, *values)


def given(value: Tensor, like: Tensor, detach: bool) -> Tensor:
    """An argument in the type and on the device of a record, without its graph unless that is asked for."""
    if not like.is_meta:
        checks.in_memory("weights", value)
    return (value.detach() if checks.flag("detach", detach) else value).to(like)


def moved(name: str, target: torch.dtype | torch.device | str, *factors: Tensor) -> list[Tensor]:
    """Factors in another type or on another device."""
    target = _target(target)
    if isinstance(target, torch.device) and target.type != "meta":
        checks.in_memory(name, *factors)
    moved = [factor.to(target) for factor in factors]
    for before, after in zip(factors, moved, strict=True):
        if after.dtype == torch.float32 and before.dtype == torch.float64:
            check_range(name, after)
            if checks.holds(before.detach().any() & ~after.detach().any(), False):  # all of it rounds to 0
                check_range(name, torch.full_like(after.detach(), torch.inf))
    return moved


def _target(value: torch.dtype | torch.device | str) -> torch.dtype | torch.device:
    """A type that a record can have, float32 or float64, or a device of this machine.

    Records hold no half precision: rounding to 8 or 11 bits would break what is said of norms, kernels and spectra.

    Raises:
        BilensError: neither of them.
    """
    if isinstance(value, torch.dtype) and value in (torch.float32, torch.float64):
        return value
    try:
        if not isinstance(value, str | torch.device):
            raise TypeError
        return torch.empty(0, device=value).device
    except (TypeError, RuntimeError, AssertionError) as error:
        raise BilensError(
            f"target = {value}" if isinstance(value, torch.dtype) else checks.got("target", value),
            "torch.float32, torch.float64 or a device of this machine",
            "pass torch.float64, or 'cpu' for example",
        ) from error


def check_range(name: str, *values: Tensor) -> None:
    """Refuse what was computed from finite numbers and left the range of its type."""
    for value in values:
        if checks.holds(torch.isfinite(value.detach().sum()), True) or bool(torch.isfinite(value).all()):
            continue
        limits = torch.finfo(value.dtype)
        raise BilensError(
            f"{name} with numbers beyond {str(value.dtype).removeprefix('torch.')}",
            f"sizes from {limits.tiny:.2g} to {limits.max:.2g}",
            "call .to(torch.float64)" if value.dtype != torch.float64 else "scale the weights",
        )


def check_together(x: Tensor, y: Tensor) -> None:
    """Two sets of vectors, as many of both."""
    try:
        torch.broadcast_shapes(x.shape, y.shape)  # type: ignore[no-untyped-call]
    except RuntimeError:
        raise ShapeError(
            f"x and y with {tuple(x.shape[:-1])} and {tuple(y.shape[:-1])} vectors", "as many of both"
        ) from None


def check_together_on(first: Tensor, second: Tensor) -> None:
    """Two records on one device."""
    if first.device != second.device:
        raise BilensError(f"one on {first.device} and one on {second.device}", "both on one device", "call .to(device)")


def counted(hidden: int) -> str:
    """Hidden units and how many, for a line."""
    return f"{hidden} hidden unit{'' if hidden == 1 else 's'}"


def check_factor(name: str, value: Tensor, shape: tuple[int, ...], meaning: str) -> None:
    """A dense and finite matrix or vector of this shape."""
    checks.floating(name, value)
    if tuple(value.shape) != shape:
        raise ShapeError(f"{name} of shape {tuple(value.shape)}", f"{shape} ({meaning})", "check which axis is which")
    checks.finite(name, value)


def check_factors(left: Tensor, right: Tensor, input: Space) -> None:
    """L and R of one layer over an input space."""
    checks.floating("left", left)
    instance("input", input, Space)
    if left.ndim != 2 or len(left) < 1:
        raise ShapeError(f"left of shape {tuple(left.shape)}", f"(hidden, {input.dim})")
    for name, value in (("left", left), ("right", right)):
        check_factor(name, value, (len(left), input.dim), f"hidden × input {input.title}")


def check_alike(**values: Tensor) -> None:
    """One type and device for all of them, those of the first."""
    first, like = next(iter(values.items()))
    for name, value in values.items():
        if value.dtype != like.dtype or value.device != like.device:
            raise BilensError(
                f"{name} as {value.dtype} on {value.device}",
                f"{like.dtype} on {like.device} like {first}",
                "convert one of them with .to(...)",
            )


def check_tensor(left: Tensor, right: Tensor, down: Tensor, input: Space, output: Space) -> None:
    """L, R and D of one layer and its spaces."""
    check_factors(left, right, input)
    instance("output", output, Space)
    check_factor("down", down, (output.dim, len(left)), f"output {output.title} × hidden")
    check_alike(left=left, right=right, down=down)
    check_output(output)


def check_output(output: Space) -> None:
    """A space of outputs has no constant coordinate."""
    if output.constant:
        raise BilensError(
            f"output space {output.title} with a constant coordinate", "one without", "use without_constant()"
        )


def check_matrix(name: str, value: Tensor, shape: str) -> None:
    """A matrix, of whatever size."""
    checks.floating(name, value)
    if value.ndim != 2:
        raise ShapeError(f"{name} of shape {tuple(value.shape)}", shape)


def with_column(name: str, matrix: Tensor, bias: Tensor | None, detach: bool = True) -> Tensor:
    """[matrix, bias], the bias in the type of the matrix, with zeros where there is none."""
    if bias is None:
        return torch.cat([matrix, matrix.new_zeros(len(matrix), 1)], dim=1)
    check_factor(name, bias, (len(matrix),), "hidden")
    bias = given(bias, matrix, detach)
    check_range(name, bias)
    return torch.cat([matrix, bias[:, None]], dim=1)
