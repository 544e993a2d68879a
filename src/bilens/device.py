"""Which device to compute on."""

from __future__ import annotations

import torch

from bilens.errors import BilensError


def choose(name: str | None = None) -> torch.device:
    """The named device, or CUDA where there is one, then Apple's MPS, then the CPU.

    Raises:
        BilensError: the named device is unknown or not on this machine.
    """
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, TypeError) as error:
        raise BilensError(f"device {name!r}", "a device of this machine", "use cpu, or leave it out") from error
