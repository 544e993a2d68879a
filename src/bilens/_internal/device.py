"""Which device to compute on."""

from __future__ import annotations

import warnings

import torch

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
