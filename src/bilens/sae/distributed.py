"""Data-parallel training on several processes, started by `torchrun`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn
from torch import distributed as dist

from bilens._internal import device as devices
from bilens.errors import BilensError, StoreError
from bilens.sae._processes import Processes


@final
class Ranks(Processes):
    """All processes of a process group, each with a contiguous share of every batch.

    Gradients are sums over a share divided by the size of the whole batch, and their sums over all ranks are what one
    process would have found, to the rounding of another order of summation. Every rank makes the same update; losses
    and counts are added up when they are logged.

    Weights and Adam's state are equal in all ranks, so that a checkpoint is the file that one process would write: rank
    0 writes it, and any number of ranks, or one process alone, reads it from a disk that all see. Ctrl-C writes none;
    the last one stands.

    Args:
        group: of `torch.distributed`, gloo for CPUs or NCCL for GPUs; the default group when None.

    Raises:
        BilensError: there is no process group.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            raise BilensError(
                "no process group",
                "torch.distributed.init_process_group(…) before",
                "call it, and start the script with torchrun",
            )
        self.group = dist.group.WORLD if group is None else group
        super().__init__(dist.get_rank(self.group), dist.get_world_size(self.group))

    def device(self, name: str | None) -> torch.device:
        """The named device; without a name a GPU of this process's own where the group is NCCL's, else the CPU.

        Raises:
            BilensError: the device is unknown, or the group cannot reduce tensors that lie there.
        """
        backend = dist.get_backend(self.group)
        if name is None:
            local = os.environ.get("LOCAL_RANK", str(self.rank % max(1, torch.cuda.device_count())))
            name = f"cuda:{local}" if backend == "nccl" else "cpu"
        where = devices.choose(name)
        if backend == "nccl" and where.type != "cuda":
            raise BilensError(
                f"device {name!r} with a process group of NCCL", "a GPU", "name one, or make the group with gloo"
            )
        return where

    def equal(self, tensors: Sequence[Tensor]) -> None:
        """Give every rank rank 0's numbers, in place."""
        for tensor in tensors:
            whole = tensor.contiguous()
            dist.broadcast(whole, group_src=0, group=self.group)
            tensor.copy_(whole)

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Give every rank the sums over all ranks, in place; they are under way together."""
        # A matrix that is stored by columns travels as its transpose; anything else that has gaps, as a copy.
        whole = [tensor.mT if tensor.ndim == 2 and tensor.mT.is_contiguous() else tensor for tensor in tensors]
        whole = [tensor.contiguous() for tensor in whole]
        for work in [dist.all_reduce(tensor, group=self.group, async_op=True) for tensor in whole]:
            if work is not None:
                work.wait()
        for tensor, summed in zip(tensors, whole, strict=True):
            if summed.data_ptr() != tensor.data_ptr():
                tensor.copy_(summed)

    def agree(self, numbers: Sequence[int]) -> list[int]:
        """Rank 0's numbers."""
        where = "cuda" if dist.get_backend(self.group) == "nccl" else "cpu"
        agreed = torch.tensor(numbers, dtype=torch.int64, device=where)
        dist.broadcast(agreed, group_src=0, group=self.group)
        return [int(number) for number in agreed.tolist()]

    def save(
        self,
        path: str | Path,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        done: int,
        settings: Mapping[str, Any],
        extra: Mapping[str, Tensor],
    ) -> None:
        """Rank 0 writes the file that one process would; all ranks go on, or all stop.

        Raises:
            StoreError: rank 0 cannot write it.
        """
        failed: StoreError | None = None
        if self.lead:
            try:
                super().save(path, module, optimizer, done=done, settings=settings, extra=extra)
            except StoreError as error:
                failed = error
        if self.agree([int(failed is not None)])[0]:
            raise failed or StoreError(f"a checkpoint {path} that rank 0 could not write", "a file that it can write")

    def load(
        self, path: str | Path, module: nn.Module, optimizer: torch.optim.Optimizer, *, settings: Mapping[str, Any]
    ) -> tuple[int, dict[str, Tensor]]:
        """Every rank reads the file, if rank 0 sees one.

        Raises:
            StoreError: as `checkpoint.load`, or a rank does not see what rank 0 sees.
        """
        if not self.agree([int(Path(path).exists())])[0]:
            return 0, {}
        if not Path(path).exists():
            raise StoreError(f"no {path} on rank {self.rank}", "the file that rank 0 sees", "name one on a shared disk")
        return super().load(path, module, optimizer, settings=settings)
