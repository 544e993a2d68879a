"""Reading and writing files: atomic writes, safetensors and JSON, and one clear line when a file is not right."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from bilens.errors import StoreError


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place when the block ends well, and goes away when it does not.

    A reader sees the old file or the new one, never a part of either.

    Raises:
        StoreError: the folder cannot be made or written, or the disk is full.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    except (OSError, safetensors.SafetensorError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error).rpartition("I/O error: ")[2]
        raise StoreError(
            f"'{reason}' on writing {path}",
            "a folder with room that can be written",
            "free space or name another folder",
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write bytes atomically. Raises StoreError when that cannot be done."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, content: str) -> None:
    """Write UTF-8 text atomically. Raises StoreError when that cannot be done."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON atomically. Raises StoreError when that cannot be done, ValueError for NaN or infinity."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors as one safetensors file, atomically. Raises StoreError when that cannot be done."""
    contiguous = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    with replacing(path) as temporary:
        safetensors.torch.save_file(contiguous, str(temporary), dict(metadata) if metadata else None)


def read_bytes(path: str | Path, count: int = -1) -> bytes:
    """The first bytes of a file, or all of them. Raises StoreError when it is missing or cannot be read."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as error:
        raise StoreError(f"'{error.strerror}' on reading {path}", "a file that can be read") from error


def read_json(path: str | Path) -> dict[str, Any]:
    """A JSON object. Raises StoreError when the file is missing, is no JSON or holds no object."""
    read = read_bytes(path)
    try:
        content = json.loads(read.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path}, which is no JSON", "a JSON file", "write it again") from error
    if not isinstance(content, dict):
        raise StoreError(f"{path} with a JSON {type(content).__name__}", "a JSON object", "write it again")
    return content


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file. Nothing is ever unpickled.

    Raises:
        StoreError: the file is missing, damaged, or a pickle (as `torch.save` writes).
    """
    path = Path(path)
    start = read_bytes(path, 2)
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            metadata = dict(file.metadata() or {})
            # Copies: a mapped file that is overwritten later would change the tensors, or end the process.
            return {name: file.get_tensor(name).clone() for name in file.keys()}, metadata  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        # Only now: a safetensors file begins with the length of its header, which may be any of these bytes.
        if start in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
            raise StoreError(
                f"{path}, which looks like a pickle (torch.save)",
                "a safetensors file, because unpickling runs code from the file",
                "save the weights with safetensors.torch.save_file",
            ) from error
        reason = str(error).removeprefix("Error while deserializing header: ")
        raise StoreError(
            f"{path}, which cannot be read ({reason})", "a whole safetensors file", "copy or download it again"
        ) from error
