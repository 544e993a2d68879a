"""Tensors that torch saved (.pt, .pth, .bin), read without running anything that the file holds.

This is the only place where a pickle is read, by torch's restricted reader, which makes tensors, numbers, texts, lists
and dictionaries, and nothing else.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from bilens._internal.files import read_bytes
from bilens.errors import StoreError

WRAPPERS = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before every name."""


def read_saved(path: str | Path) -> Any:
    """What `torch.save` wrote into a file, on the CPU, when it is made of tensors, numbers, texts, lists and dicts.

    Raises:
        StoreError: the file is missing, damaged, or holds anything else: the message names the class, which is not
            made, and none of its code is run.
    """
    path = Path(path)
    read_bytes(path, 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of formats that torch will drop one day
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise StoreError(
            f"{path} with {found[1]}, which would run code"
            if found
            else f"{path}, which is no whole file of torch.save",
            "tensors, numbers, texts, lists and dictionaries alone",
            "save its state dict and nothing else, torch.save(model.state_dict(), …)" if found else "copy it again",
        ) from error
    except Exception as error:  # a damaged file makes the reader raise anything, AssertionError and KeyError included
        reason = " ".join(str(error).split())[:120]
        raise StoreError(
            f"{path}, which cannot be read ({reason})", "a whole file of torch.save", "copy it again"
        ) from error


def state_dict(path: str | Path, key: str | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The one state dict in a file, and what else the file holds at its top, for example a config.

    Names lose what DistributedDataParallel and torch.compile put before all of them.

    Args:
        path: of the file; key: where the state dict is, for a file that has several.

    Raises:
        StoreError: as `read_saved`; no state dict, or several.
    """
    content = read_saved(path)
    if not isinstance(content, Mapping):
        raise StoreError(f"{path} with a {type(content).__name__}", "a state dict: names and tensors")
    rest: dict[str, Any] = {}
    if key is None and not _tensors(content):
        inside = [str(name) for name, value in content.items() if _tensors(value)]
        if len(inside) != 1:
            entries = ", ".join(str(name) for name in list(content)[:8]) or "nothing"
            raise StoreError(
                f"{path} with {'no state dict' if not inside else 'the state dicts ' + ', '.join(inside)} in {entries}",
                "one state dict: names and tensors",
                "say which with --key" if inside else "save model.state_dict()",
            )
        key = inside[0]
    if key is not None:
        if not _tensors(content.get(key)):
            entries = ", ".join(str(name) for name in list(content)[:8])
            raise StoreError(f"{path} without a state dict {key!r}; it has {entries}", "a name that is there")
        rest = {str(name): value for name, value in content.items() if name != key}
        content = content[key]
    tensors = {str(name): value.detach() for name, value in content.items() if isinstance(value, Tensor)}
    for wrapper in WRAPPERS:
        if all(name.startswith(wrapper) for name in tensors):
            tensors = {name.removeprefix(wrapper): value for name, value in tensors.items()}
    return tensors, rest


def _tensors(value: Any) -> bool:
    """Whether a value is a state dict: names and tensors, at least one."""
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(name, str) and isinstance(entry, Tensor) for name, entry in value.items())
    )


__all__ = ["WRAPPERS", "read_saved", "state_dict"]
