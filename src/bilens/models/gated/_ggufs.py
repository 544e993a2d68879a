"""GGUF files: their metadata by names that the table of families knows, their tensors dequantised one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bilens._internal.files import read_bytes
from bilens.errors import BilensError, StoreError
from bilens.models.gated._stored import Stored

_NAMES = {
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "expert_count": "num_experts",
}
"""GGUF's names of what transformers' configs name otherwise; all others stay."""


class GGUFFile:
    """Tensors of a GGUF file, read through the package `gguf`.

    Norms are as the file has them: the gain of Gemma's carries its 1 already.

    Raises:
        StoreError: the file is missing or damaged. BilensError: the package is not installed.
    """

    gguf = True

    def __init__(self, path: Path) -> None:
        self.title = str(path)
        try:
            import gguf
        except ImportError as error:
            raise BilensError(
                f"{path}, a GGUF file", "the package gguf, which reads it", "install it: pip install 'bilens[lm]'"
            ) from error
        if read_bytes(path, 4) != b"GGUF":
            raise StoreError(f"{path}, which is no GGUF file", "a file that begins with GGUF", "download it again")
        self._dequantize = gguf.dequantize
        try:
            reader = gguf.GGUFReader(path)
        except (ValueError, KeyError, IndexError, OSError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())[:120]
            raise StoreError(
                f"{path}, which cannot be read ({reason})", "a whole GGUF file", "download it again"
            ) from error
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        self.config: Mapping[str, Any] = _config(reader)

    def names(self) -> tuple[str, ...]:
        """The names of all tensors."""
        return tuple(self._tensors)

    def describe(self, name: str) -> Stored:
        """Shape in rows and columns, and the file's type, for example Q4_1."""
        tensor = self._tensors[name]
        kind = tensor.tensor_type.name
        named = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
        return Stored(tuple(int(size) for size in reversed(tensor.shape)), named.get(kind, kind))

    def read(self, name: str, row: int | None = None) -> Tensor:
        """One tensor, in float32."""
        tensor = self._tensors[name]
        data = tensor.data if row is None else tensor.data[row]
        try:
            return torch.from_numpy(self._dequantize(data, tensor.tensor_type).copy())
        except NotImplementedError as error:
            raise StoreError(
                f"{self.title} with {name} of type {tensor.tensor_type.name}", "a type that the package gguf reads"
            ) from error


def _config(reader: Any) -> dict[str, Any]:
    """Numbers and texts of the metadata, without the architecture's name before theirs; lists (the tokens) are left."""
    found: dict[str, Any] = {}
    architecture = None
    if (field := reader.get_field("general.architecture")) is not None:
        architecture = field.contents()
    for name, field in reader.fields.items():
        if architecture is not None and name.startswith(f"{architecture}.") and field.types and len(field.types) == 1:
            short = name.removeprefix(f"{architecture}.")
            found[_NAMES.get(short, short)] = field.contents()
    return {**found, "model_type": architecture}


__all__ = ["GGUFFile"]
