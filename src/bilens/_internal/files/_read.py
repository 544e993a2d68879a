"""Reading bytes, JSON and safetensors, with their checksums: one clear line for a file that is wrong."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
from torch import Tensor

from bilens.errors import StoreError


def checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON object but for its entry "sha256": of its values, whatever their order and layout.

    Raises:
        ValueError: NaN, infinity, or text that UTF-8 cannot hold.
    """
    rest = {name: value for name, value in content.items() if name != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def file_checksum(path: str | Path) -> str:
    """SHA-256 of a whole file. Raises StoreError when it is missing or cannot be read."""
    digest = hashlib.sha256()
    path = Path(path)
    try:
        with path.open("rb") as file:
            while part := file.read(1 << 20):
                digest.update(part)
    except OSError as error:
        raise StoreError(f"'{error.strerror}' on reading {path}", "a file that can be read") from error
    return digest.hexdigest()


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


def read_sealed(path: str | Path) -> dict[str, Any]:
    """A JSON object that `write_sealed` wrote, without its checksum.

    Raises:
        StoreError: the file is missing, is no JSON, has no checksum, or another one than its content.
    """
    return unsealed(path, read_json(path))


def unsealed(path: str | Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a file that `sealed` made, without its checksum.

    Args:
        path: of the file, for the message.

    Raises:
        StoreError: it has no checksum, or another one than its content.
    """
    rest = {name: value for name, value in content.items() if name != "sha256"}
    try:
        fits = content.get("sha256") == checksum(rest)
    except (ValueError, RecursionError):
        fits = False
    if not fits:
        raise StoreError(
            f"{path} with another checksum than it states"
            if "sha256" in content
            else f"{path} without a checksum: of an older version, or altered",
            "the file as this version wrote it",
            "delete it and run the same command again",
        )
    return rest


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
