"""Statistics of all layers of a language model over a text, kept in a folder: a pass that was stopped goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor, nn

from bilens import store
from bilens._internal import ranks
from bilens.errors import StoreError
from bilens.models.token_statistics import LayerStatistics, TokenStatistics, token_statistics
from bilens.store import Folder

for record in (LayerStatistics, TokenStatistics):
    store.register(record)

NAME = "statistics"
"""The record's name in the folder."""

EVERY = 32
"""Texts between two times that the sums so far are kept."""


def text_statistics(
    model: nn.Module,
    tokens: Int[Tensor, "n t"],
    out: str | Path,
    *,
    layers: Iterable[int] | None = None,
    prefix: int = 1,
    progress: bool = True,
) -> TokenStatistics:
    """`token_statistics`, kept in a folder. Under torchrun the folder is on a disk that all processes see.

    Args:
        model: of transformers, in memory; tokens: texts, one per row.
        out: folder for these texts, this model and these settings alone.
        layers: their numbers, None for all; prefix: tokens left out at the start of each text; progress: whether to
            show a bar.

    Raises:
        StoreError: the folder is of another text or model, or cannot be written. Others as `token_statistics`.
    """
    numbers = None if layers is None else [int(layer) for layer in layers]
    settings = {
        "command": "text_statistics",
        "text_checksum": checksum(tokens),
        "weights": checksum(*model.state_dict().values()),
        "layers": numbers,
        "prefix": prefix,
    }
    folder = Folder(out, settings) if ranks.lead() else None
    if ranks.agreed(folder is not None and folder.has(NAME)):
        return _read(Path(out) / "records" / NAME)
    part = Path(out) / f"part-{ranks.rank()}-of-{ranks.size()}"
    known = store.load(part, TokenStatistics) if store.exists(part) else None
    found = token_statistics(
        model,
        tokens,
        layers=numbers,
        prefix=prefix,
        known=known,
        keep=lambda sums: store.save(sums, part),
        every=EVERY,
        progress=progress,
    )
    if folder is not None:
        folder.record(NAME, TokenStatistics, lambda: found)
    for ending in (".json", ".safetensors"):
        part.with_name(part.name + ending).unlink(missing_ok=True)
    return found


def _read(path: Path) -> TokenStatistics:
    """What the leader wrote, whose folder this process may not have claimed."""
    if not store.exists(path):
        raise StoreError(f"no {path} in process {ranks.rank()}", "a folder that all processes see", "name another")
    found: TokenStatistics = store.load(path, TokenStatistics)
    return found


def checksum(*tensors: Tensor) -> str:
    """The SHA-256 of the types, shapes and numbers of tensors."""
    digest = hashlib.sha256()
    for value in tensors:
        digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


__all__ = ["EVERY", "NAME", "checksum", "text_statistics"]
