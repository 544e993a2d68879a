"""Writing bytes, JSON and safetensors, each file replaced in one step."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from bilens._internal.files._read import checksum, file_checksum
from bilens._internal.files._replace import beside, replacing, replacing_all, usual_permissions
from bilens.errors import StoreError


def create_json(path: str | Path, content: Any) -> bool:
    """Write a JSON file that does not exist yet. Of several processes that try at once, exactly one gets True.

    Raises:
        StoreError: the folder cannot be made or written, or the disk is full.
    """
    path = Path(path)
    with beside(path) as (temporary,):
        temporary.write_text(as_json(content), "utf-8")
        usual_permissions(temporary)
        # A second name for a whole file: nobody sees a part of it, and only the first to ask gets the name.
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            try:
                with path.open("x", encoding="utf-8") as file:
                    file.write(as_json(content))
            except FileExistsError:
                return False
        return True


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write bytes atomically. Raises StoreError when that cannot be done."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, content: str) -> None:
    """Write UTF-8 text atomically. Raises StoreError when that cannot be done."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON atomically. Raises StoreError when that cannot be done, ValueError for NaN or infinity."""
    write_text(path, as_json(content))


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors as one safetensors file, atomically. Raises StoreError when that cannot be done."""
    with replacing(path) as temporary:
        _write_tensors(temporary, tensors, metadata)


def write_sealed(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object with its own checksum as the entry "sha256", so that `read_sealed` notices a change.

    Raises:
        StoreError: it cannot be written. ValueError: NaN or infinity.
    """
    write_json(path, sealed(content))


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with its own checksum as the entry "sha256"."""
    return {**content, "sha256": checksum(content)}


def write_together(
    weights: str | Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None,
    description: str | Path,
    describe: Callable[[str], Mapping[str, Any]],
) -> None:
    """Write a safetensors file and the JSON file that describes it in one step, see `replacing_all`.

    Args:
        weights: the safetensors file, with its tensors and metadata.
        description: the JSON file; describe: gives its content from the SHA-256 of the safetensors file.

    Raises:
        StoreError: they cannot be written; what was there before is then still there.
    """
    with replacing_all(weights, description) as (first, last):
        _write_tensors(first, tensors, metadata)
        last.write_text(as_json(describe(file_checksum(first))), "utf-8")


def as_json(content: Any) -> str:
    """JSON as it is written: indented, UTF-8, and neither NaN nor infinity (ValueError)."""
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> None:
    for name, value in tensors.items():
        if value.layout != torch.strided:
            raise StoreError(f"{name} with layout {value.layout}", "a dense tensor", "call .to_dense()")
    contiguous = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    safetensors.torch.save_file(contiguous, str(path), dict(metadata) if metadata else None)
