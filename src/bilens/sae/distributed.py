"""Training on several processes, started by `torchrun`: data parallel, with checkpoints that any number of them reads.

Not loaded by `bilens.sae`: `torch.distributed.checkpoint` takes as long to import as half of torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from bilens._internal import checkpoint as checkpoints
from bilens._internal import device as devices
from bilens.errors import BilensError, StoreError
from bilens.files import read_json, write_json
from bilens.sae.processes import POINTER, Processes


@final
class Ranks(Processes):
    """All processes of a process group, each with a contiguous share of every batch.

    Gradients are sums over a share divided by the size of the whole batch, and their sums over all ranks are what one
    process would have found, to the rounding of another order of summation. Every rank makes the same update; losses
    and counts are added up when they are logged.

    A checkpoint is a folder on a disk that all ranks see, written by `torch.distributed.checkpoint` in its safetensors
    format: each rank writes a part, any number of ranks reads it. Ctrl-C writes none; the last one stands.

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
        """Write a folder beside the last, then name it in `checkpoint.json`: an interruption leaves the one before.

        Raises:
            StoreError: the folder cannot be written.
        """
        root = Path(path)
        name = f"step-{done}"
        if self.lead:
            shutil.rmtree(root / name, ignore_errors=True)
        tensors = checkpoints.collect(module, optimizer, extra)
        state = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        self.agree([done])  # nobody writes before what was left there is gone
        writer = HuggingFaceStorageWriter(str(root / name), save_distributed=True)
        try:
            save(state, storage_writer=writer, process_group=self.group)
        except (OSError, CheckpointException) as error:
            raise StoreError(
                f"'{_reason(error)}' on writing {root / name}",
                "a folder that every rank can write",
                "free space or name another folder",
            ) from error
        if self.lead:
            content = {"folder": name, "done": done, "settings": dict(settings), "tensors": sorted(state)}
            write_json(root / POINTER, content)
            for old in root.glob("step-*"):
                if old.name != name:
                    shutil.rmtree(old, ignore_errors=True)

    def load(
        self, path: str | Path, module: nn.Module, optimizer: torch.optim.Optimizer, *, settings: Mapping[str, Any]
    ) -> tuple[int, dict[str, Tensor]]:
        """Read the folder that `checkpoint.json` names, when there is one, whatever the number of ranks that wrote it.

        Raises:
            StoreError: the checkpoint is damaged, or of another run.
        """
        root = Path(path)
        # Rank 0 says whether there is one: the others may see the disk later.
        if not self.agree([int((root / POINTER).exists())])[0]:
            if root.is_file():
                raise StoreError(f"{root}, which is a file", "a folder, or nothing yet", "name another folder")
            return 0, {}
        pointer = read_json(root / POINTER)
        checkpoints.check(root, json.dumps(pointer.get("settings"), sort_keys=True), settings)
        folder = root / str(pointer.get("folder"))
        reader = HuggingFaceStorageReader(str(folder))
        try:
            known = reader.read_metadata().state_dict_metadata
            state = {
                name: torch.empty(entry.size, dtype=entry.properties.dtype)
                for name, entry in known.items()
                if isinstance(entry, TensorStorageMetadata)
            }
            if sorted(state) != pointer.get("tensors"):
                raise StoreError(f"checkpoint {folder} with files missing", "what was written there", "delete it")
            load(state, storage_reader=reader, process_group=self.group)
        except (OSError, CheckpointException, SafetensorError) as error:
            raise StoreError(f"'{_reason(error)}' on reading {folder}", "a whole checkpoint", "delete it") from error
        return checkpoints.steps(root, pointer.get("done")), checkpoints.restore(root, state, module, optimizer)


def _reason(error: BaseException) -> str:
    """The first line that says what went wrong in any of the ranks."""
    if isinstance(error, CheckpointException):
        for failure in error.failures.values():
            with contextlib.suppress(IndexError):
                return str(failure[0])
    return str(error)
