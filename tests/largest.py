"""How large the tensors are that an operation makes on its way."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class Largest(TorchDispatchMode):
    """While it is entered, `numel` is the number of entries of the largest tensor that any operation has made."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in tree_iter(out):
            if isinstance(value, torch.Tensor):
                self.numel = max(self.numel, value.numel())
        return out
