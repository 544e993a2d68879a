"""Several processes that work on one thing, started by `torchrun`; without a process group, one alone."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as dist

PATIENCE = timedelta(days=7)
"""How long a process waits for the others: one of them may train meanwhile."""


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """The processes that torchrun started, together for as long as the block runs, on CPUs; nothing for one alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or not dist.is_available() or dist.is_initialized():
        yield
        return
    dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def wait() -> None:
    """Until every process is here."""
    if size() > 1:
        dist.barrier()


def size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is; 0 leads."""
    return dist.get_rank() if size() > 1 else 0


def lead() -> bool:
    """Whether this is the process that writes and shows progress."""
    return rank() == 0


def add(tensors: Sequence[Tensor]) -> None:
    """Give every process the sums over all of them, in place."""
    if size() == 1:
        return
    for tensor in tensors:
        whole = _travelling(tensor)
        dist.all_reduce(whole)
        _arrived(tensor, whole)


def equal(tensors: Sequence[Tensor]) -> None:
    """Give every process the leader's numbers, in place."""
    if size() == 1:
        return
    for tensor in tensors:
        whole = _travelling(tensor)
        dist.broadcast(whole, 0)
        _arrived(tensor, whole)


def agreed(number: float) -> float:
    """The leader's number."""
    if size() == 1:
        return number
    told = torch.tensor([number], dtype=torch.float64, device=_device())
    dist.broadcast(told, 0)
    return float(told)


def _device() -> str:
    return "cuda" if dist.get_backend() == "nccl" else "cpu"


def _travelling(tensor: Tensor) -> Tensor:
    """What can be sent: without gaps, and where the processes' messages lie."""
    return tensor.to(_device()).contiguous()


def _arrived(tensor: Tensor, whole: Tensor) -> None:
    if whole.data_ptr() != tensor.data_ptr():
        tensor.copy_(whole)
