"""Records of decompositions carry no graph, whatever factors they were computed from.

The functions of `decompose` run under `torch.no_grad`. What evaluates a record at inputs, such as `Spectrum.terms`, can
be differentiated with respect to the inputs.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from torch import Tensor


def detach(record: Any) -> None:
    """Replace each tensor of a frozen record that requires a gradient by its values; for `__post_init__`."""
    for field in fields(record):
        value = getattr(record, field.name)
        if isinstance(value, Tensor) and value.requires_grad:
            object.__setattr__(record, field.name, value.detach())
