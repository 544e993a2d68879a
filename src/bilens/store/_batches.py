"""Records that are computed and written one after another, for results larger than memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from bilens._internal import checks
from bilens._internal.checks import whole
from bilens.errors import BilensError, StoreError
from bilens.progress import bar
from bilens.store._folder import Folder, checksum, read_record, settings_of
from bilens.store._records import beside, exists, read, write

R = TypeVar("R")


class DamagedBatchWarning(UserWarning):
    """A batch that was written is damaged or altered, and is computed again."""


@runtime_checkable
class Batches(Protocol):
    """Records that are computed one after another and can be asked for by number, for example a `SpectraStream`."""

    @property
    def settings(self) -> dict[str, Any]:
        """What they depend on, as JSON values."""

    def __len__(self) -> int:
        """How many there are."""

    def batch(self, n: int) -> Any:
        """The n-th."""


def save_batches(batches: Batches, path: str | Path, *, rank: int = 0, size: int = 1, progress: bool = True) -> None:
    """Compute and write records one after another, for results larger than memory; existing ones are kept.

    A run that was stopped, by Ctrl-C or by a kill, continues with the batch it was at when it is started again. Batches
    that exist are read first; one that is cut short or altered is computed again, with a `DamagedBatchWarning`.

    Several processes share the work in one folder: each takes the batches n with n mod size = rank, for example of
    RANK and WORLD_SIZE of `torchrun`, and none waits for another.

    Args:
        batches: what to compute; path: a folder for these settings alone; progress: whether to show a bar.
        rank: which of the processes this is; size: how many there are.

    Cost: existing batches are read once, one at a time, to verify their checksums.

    Raises:
        StoreError: the folder belongs to other settings, holds other files, or cannot be written. BilensError:
            `batches` is not a stream of records, or rank or size out of range.
    """
    # Of the type: asking the object itself would compute its settings once more.
    if not all(hasattr(type(batches), name) for name in ("settings", "batch", "__len__")):
        raise BilensError(
            f"a {type(batches).__name__}, which has no numbered batches and settings",
            "a stream of records",
            "make one with spectra_stream",
        )
    progress = checks.flag("progress", progress)
    size = whole("size", size, 1)
    rank = whole("rank", rank, 0, size - 1)
    folder = Folder(path, batches.settings)
    missing, damaged = [], []
    for n in range(rank, len(batches), size):
        if not folder.has(_batch(n)):
            missing.append(n)
        elif found := _damage(folder.path, n):
            missing.append(n)
            damaged.append(found)
    if damaged:
        warnings.warn(
            f"{path}: damaged batches that are computed again: {len(damaged)}; the first: {damaged[0]}",
            DamagedBatchWarning,
            stacklevel=2,
        )
    run = checksum(folder.path)
    total = len(range(rank, len(batches), size))
    with bar(f"writing {Path(path).name}", total, done=total - len(missing), show=progress) as step:
        for n in missing:
            write(batches.batch(n), folder.path / "records" / _batch(n), {"run": run, "name": _batch(n)})
            step(1)


def load_batches(path: str | Path, kind: type[R]) -> Iterator[R]:
    """The records that `save_batches` wrote, one at a time, in order.

    Args:
        path: the folder; kind: of the records.

    Raises:
        StoreError: the folder does not exist or is not finished, or a record is damaged or altered.
    """
    path = checks.path("path", path)
    settings = settings_of(path)
    count = settings.get("batches")
    if type(count) is not int or not 0 <= count < 10**9:
        raise StoreError(f"{path}, which holds no batches", "a folder of save_batches", "name another folder")
    missing = [n for n in range(count) if not _whole(path / "records" / _batch(n))]
    if missing:
        raise StoreError(
            f"{path} with {count - len(missing)} of {count} batches", "all of them", "run save_batches to its end"
        )
    run = checksum(path)
    return (read(path / "records" / _batch(n), kind, {"run": run, "name": _batch(n)}) for n in range(count))


def _whole(path: Path) -> bool:
    """Whether both files of a record with tensors are there."""
    return exists(path) and beside(path, ".safetensors").exists()


def _damage(folder: Path, n: int) -> str:
    """Why a batch cannot be read; empty when it can."""
    try:
        read_record(folder, _batch(n), object)
    except StoreError as error:
        return str(error).partition("; expected ")[0].removeprefix("got ")
    return ""


def _batch(n: int) -> str:
    return f"batch-{n:06d}"
