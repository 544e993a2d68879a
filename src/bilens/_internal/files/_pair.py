"""A folder of one model: a JSON file and a safetensors file of one save, which replaces nothing but another of ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
from torch import Tensor

from bilens._internal.files._read import checksum, file_checksum, read_json, read_tensors
from bilens._internal.files._replace import settled
from bilens._internal.files._write import write_together
from bilens.errors import StoreError


def write_pair(
    settings: str | Path, content: Mapping[str, Any], weights: str | Path, tensors: Mapping[str, Tensor]
) -> None:
    """Write a folder's JSON and safetensors file in one step, each with a checksum of the other.

    The JSON gets the entry "sha256", the checksum of the whole safetensors file; the header of that file gets the entry
    "bilens", the checksum of everything else in the JSON. Other programs ignore both.

    Raises:
        StoreError: they cannot be written, or there is a file of that name that bilens did not write; what was there
            before is then still there.
    """
    require_ours(settings, weights)
    header = {"format": "pt", "bilens": checksum(content)}
    write_together(weights, tensors, header, settings, lambda sha256: {**content, "sha256": sha256})


def read_pair(settings: str | Path, weights: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The JSON, without its checksum, and the tensors of a folder that `write_pair` or another program wrote.

    A folder without checksums is another program's and is read as it is; one with a single checksum, or with one that
    does not fit, is a mix or was altered.

    Raises:
        StoreError: a file is missing, damaged, a pickle, or not the one that was written with the other.
    """
    settings, weights = Path(settings), Path(weights)

    def read(source: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
        content = read_json(source)
        tensors, metadata = read_tensors(weights)
        stated, marked = content.pop("sha256", None), metadata.get("bilens")
        if source == settings and stated is None and marked is None:
            return content, tensors
        try:
            fits = stated == file_checksum(weights) and marked == checksum(content)
        except (ValueError, RecursionError):
            fits = False
        if not fits:
            raise StoreError(
                f"{settings} and {weights.name}, which were not written together or were altered since",
                "the two files of one save",
                "copy or save both again",
            )
        return content, tensors

    return settled(settings, read)


def require_ours(settings: str | Path, weights: str | Path) -> None:
    """Refuse to replace a model that another program wrote: a save goes to new files, or over one of `write_pair`.

    Raises:
        StoreError: one of the files exists, and neither has the checksum of the other.
    """
    there = [path for path in (Path(settings), Path(weights)) if path.is_file()]
    if there and not _ours(Path(settings), Path(weights)):
        raise StoreError(
            f"{there[0]}, which bilens did not write",
            "a new folder, or one of a model or coder that bilens saved",
            "name another folder, so that nothing is lost",
        )


def _ours(settings: Path, weights: Path) -> bool:
    try:
        if "sha256" in read_json(settings):
            return True
    except StoreError:  # missing or damaged: the other file may still say it
        pass
    try:
        with safetensors.safe_open(str(weights), framework="pt") as file:
            return "bilens" in (file.metadata() or {})
    except (OSError, safetensors.SafetensorError):
        return False
