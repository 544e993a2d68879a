"""Which device to compute on, and in which type its products are."""

from __future__ import annotations

import contextlib
import warnings

import torch

from bilens._internal import checks
from bilens.errors import BilensError, SinglePrecisionWarning


def choose(name: str | None = None) -> torch.device:
    """The named device; without a name CUDA where there is one, else the CPU.

    Apple's MPS has no float64, in which sums and decompositions are taken: it is never chosen, only named, and then
    with a `SinglePrecisionWarning`.

    Raises:
        BilensError: the named device is unknown or not on this machine.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        raise BilensError(f"device {name!r}", "a device of this machine", "use cpu, or leave it out") from error
    if device.type == "mps":
        warnings.warn(
            "device mps has no float64: evaluating an SAE and decomposing a tensor, which sum in float64, are not "
            "possible there; move models, SAEs and tensors to the CPU for them, with .cpu()",
            SinglePrecisionWarning,
            stacklevel=2,
        )
    return device


def product_type(precision: str | None, where: torch.device) -> torch.dtype | None:
    """The type that the factors of products are rounded to, on a device that has it; None for none.

    Raises:
        BilensError: no such precision, or not on this device.
    """
    if precision is None:
        return None
    checks.choice("precision", precision, ("bfloat16",), "'bfloat16' or None")
    # A CPU computes it everywhere, fast where it has the instructions, and so it can be tried on any machine.
    has = where.type == "cpu" or (where.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False))
    if not has:
        raise BilensError(
            "precision = 'bfloat16' on a device without it",
            "a CPU, or a GPU that computes in it",
            "leave precision out",
        )
    return torch.bfloat16


def rounded_products(precision: str | None, where: torch.device) -> contextlib.AbstractContextManager[object]:
    """A block in which torch rounds the factors of matrix products so, and keeps weights and sums as they are.

    Raises:
        BilensError: as `product_type`.
    """
    products = product_type(precision, where)
    return contextlib.nullcontext() if products is None else torch.autocast(where.type, dtype=products)
