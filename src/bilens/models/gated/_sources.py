"""Which source a model is: a folder, a file, a name on a hub, or a model in memory."""

from __future__ import annotations

import os
import re
from pathlib import Path

from torch import nn

from bilens._internal import checks
from bilens.errors import StoreError
from bilens.models.gated._ggufs import GGUFFile
from bilens.models.gated._quantised import dequantised
from bilens.models.gated._stored import InMemory, NothingStored, Source, downloaded, folder, hub, listed_on_hub, single

_NAME = r"[\w-][\w.-]*/[\w-][\w.-]*"


def opened(model: str | os.PathLike[str] | nn.Module) -> Source:
    """Where a model's tensors lie, quantised ones as numbers.

    Raises:
        StoreError: nothing there, or several GGUF files. BilensError: neither a path nor a model.
    """
    if isinstance(model, nn.Module):
        return InMemory(model)
    path = checks.path("model", model)
    if path.is_dir():
        files = sorted(path.glob("*.gguf"))
        if files and not any(path.glob("*.safetensors")):
            if len(files) > 1:
                raise StoreError(f"{path} with {len(files)} GGUF files", "one of them", f"name it, as {files[0]}")
            return GGUFFile(files[0])
        return dequantised(folder(path))
    if path.is_file():
        if path.suffix == ".gguf":
            return GGUFFile(path)
        if path.suffix in (".pt", ".pth", ".bin", ".ckpt"):
            raise StoreError(
                f"{path}, which is a pickle by its name", "safetensors or GGUF", f"write it with bilens import {path}"
            )
        return dequantised(single(path))
    if isinstance(model, str) and re.fullmatch(_NAME, model):
        return _on_hub(model)
    if isinstance(model, str) and (match := re.fullmatch(rf"({_NAME})/([\w./-]+\.gguf)", model)):
        return GGUFFile(_downloaded(match[1], match[2]))
    raise StoreError(
        f"{path}, which is not there",
        "a folder, a file, or the name of a model on the hub (of a GGUF file, OWNER/NAME/FILE)",
    )


def _on_hub(name: str) -> Source:
    """The safetensors of a model on a hub; where it has none, its one GGUF file."""
    try:
        return dequantised(hub(name))
    except NothingStored:
        files = [file for file in listed_on_hub(name) if file.endswith(".gguf")]
        if not files:
            raise
    if len(files) > 1:
        raise StoreError(
            f"{name} with {len(files)} GGUF files, {', '.join(files[:4])}{' …' if len(files) > 4 else ''}",
            "one of them",
            f"name it, as {name}/{files[0]}",
        )
    return GGUFFile(_downloaded(name, files[0]))


def _downloaded(name: str, file: str) -> Path:
    path = downloaded(name, file)
    if path is None:
        raise StoreError(f"{name} without {file} on the hub", "a file that is there")
    return path


__all__ = ["opened"]
