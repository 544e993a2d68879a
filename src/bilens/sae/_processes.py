"""Training by one process, or by several that each take a share of every batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bilens._internal import checkpoint as checkpoints
from bilens._internal import device as devices
from bilens.sae.streams import Divisible, Stream


class Processes:
    """One process alone, whose checkpoints are files. `sae.distributed.Ranks` is the same for several.

    Args:
        rank: which of them this is; 0 leads: it shows progress and decides when to save. size: how many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def lead(self) -> bool:
        """Whether this is the process that shows progress and decides when to save."""
        return self.rank == 0

    def share(self, stream: Stream, n: int) -> tuple[Tensor, int]:
        """This process's rows of the n-th batch, and how many the whole batch has.

        Row r of b belongs to process p when ⌊p b / size⌋ ≤ r < ⌊(p + 1) b / size⌋. A stream that is `Divisible` makes
        no others; of another, the whole batch is made and the rest dropped.
        """
        if self.size > 1 and isinstance(stream, Divisible):
            b = stream.size(n)
            return stream.part(n, *self._bounds(b)), b
        batch = stream.batch(n)
        return batch[slice(*self._bounds(len(batch)))], len(batch)

    def _bounds(self, b: int) -> tuple[int, int]:
        return self.rank * b // self.size, (self.rank + 1) * b // self.size

    def device(self, name: str | None) -> torch.device:
        """The device of this process: the named one, or the best there is."""
        return devices.choose(name)

    def equal(self, tensors: Sequence[Tensor]) -> None:
        """Give every process the leader's numbers, in place."""

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Give every process the sums over all processes, in place."""

    def agree(self, numbers: Sequence[int]) -> list[int]:
        """The leader's numbers."""
        return list(numbers)

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
        """Write a checkpoint, as `checkpoint.save` does; what is given must be equal in every process."""
        checkpoints.save(path, module, optimizer, done=done, settings=settings, extra=extra)

    def load(
        self, path: str | Path, module: nn.Module, optimizer: torch.optim.Optimizer, *, settings: Mapping[str, Any]
    ) -> tuple[int, dict[str, Tensor]]:
        """Continue from a checkpoint, as `checkpoint.load` does."""
        return checkpoints.load(path, module, optimizer, settings=settings)
