"""Kernels and tensors over a power of two, and their results back in a type that holds them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.errors import BilensError
from bilens.tensor import BilinearTensor, Kernel


def times_power(values: Tensor, exponent: Tensor | int) -> Tensor:
    """values · 2^exponent for any exponent: in steps, since 2^exponent alone may leave the range of the type."""
    exponent = torch.as_tensor(exponent, device=values.device)
    for _ in range(4):
        part = exponent.clamp(-900, 900)
        values, exponent = values * torch.exp2(part.double()), exponent - part
    return values


def kernel_near_one(kernel: Kernel) -> tuple[Kernel, int]:
    """The kernel in float64 over a power of two, each unit's rows and the largest weight between ½ and 1; its exponent.

    Each hidden unit is rescaled by itself, so that a large row beside a small one loses nothing. Units that add nothing
    are left out; a kernel without any other keeps one unit of zeros. Detached.
    """
    left, right, weights = (factor.detach().double() for factor in (kernel.left, kernel.right, kernel.weights))
    used = (weights != 0) & (left != 0).any(dim=1) & (right != 0).any(dim=1)
    if not bool(used.any()):
        zero = left.new_zeros(1, left.shape[1])
        return Kernel(zero, zero, weights.new_zeros(1), kernel.input, kernel.label), 0
    if not bool(used.all()):
        left, right, weights = left[used], right[used], weights[used]
    (left, a), (right, b) = _rows_near_one(left), _rows_near_one(right)
    mantissa, c = torch.frexp(weights)
    exponents = a + b + c
    top = exponents.max()
    return Kernel(left, right, times_power(mantissa, exponents - top), kernel.input, kernel.label), int(top)


def tensor_near_one(tensor: BilinearTensor) -> tuple[BilinearTensor, int]:
    """The tensor in float64 over a power of two, as `kernel_near_one`; all of its units are kept."""
    left, a = _rows_near_one(tensor.left.detach().double())
    right, b = _rows_near_one(tensor.right.detach().double())
    down, c = _rows_near_one(tensor.down.detach().double().T)
    exponents = torch.where(
        (down != 0).any(dim=1) & (left != 0).any(dim=1) & (right != 0).any(dim=1), a + b + c, -(2**20)
    )
    top = exponents.max() if bool(exponents.max() > -(2**20)) else exponents.new_zeros(())
    down = times_power(down, (exponents - top)[:, None])
    return BilinearTensor(left, right, down.T.contiguous(), tensor.input, tensor.output), int(top)


def fitting(
    values: Float[Tensor, "*n"], exponent: int, dtype: torch.dtype, what: str = "eigenvalues", noise: float = 0.0
) -> Float[Tensor, "*n"]:
    """values · 2^exponent in a type that holds them.

    Args:
        values: in float64; what: they are, for the message.
        noise: the size up to which they may all be rounding of 0, and may become 0.

    Raises:
        BilensError: the largest leaves the type's range, at either end.
    """
    fitted = times_power(values, exponent).to(dtype)
    name, limits = str(dtype).removeprefix("torch."), torch.finfo(dtype)
    hint = "scale the layer" if dtype == torch.float64 else "call .to(torch.float64)"
    if not bool(torch.isfinite(fitted).all()):
        raise BilensError(f"{what} beyond {limits.max:.2g} in {name}", "numbers that fit", hint)
    if values.numel() and bool(values.abs().max() > noise) and bool(fitted.abs().max() < limits.tiny):
        raise BilensError(f"{what} that are not 0 but below {limits.tiny:.2g} in {name}", "numbers that fit", hint)
    return fitted


def _rows_near_one(rows: Tensor) -> tuple[Tensor, Tensor]:
    exponents = torch.frexp(rows.abs().amax(dim=1)).exponent
    return times_power(rows, -exponents[:, None]), exponents
