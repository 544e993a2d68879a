"""The command that writes a state dict which torch saved as a folder of safetensors with a config."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from bilens._internal import files
from bilens.errors import BilensError, StoreError
from bilens.models import imported
from bilens.models.imported import Imported
from bilens.state_dicts import state_dict


def import_file(
    file: Path, /, *, out: Path, config: Path | None = None, key: str | None = None, yes: bool = False
) -> None:
    """Write weights that torch saved as a folder of safetensors; nothing that the file holds is run.

    The config is taken from the file, from --config, or from the names and shapes of the tensors. What none of them
    says is assumed and shown, and is written with --yes alone. Example: bilens import model.pt --out model --yes

    Args:
        file: a .pt, .pth or .bin file with a state dict.
        out: the folder, new or empty.
        config: a JSON file with the entries of the config, or some of them.
        key: where in the file the state dict is, if it has several.
        yes: write the config as it is shown, with what is assumed.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StoreError(f"{out}, which is there already", "a new or empty folder")
    tensors, rest = state_dict(file, key)
    given = {**_inside(rest), **({} if config is None else files.read_json(config))}
    found = imported.recognise(tensors, given, title=str(file))
    console = Console(markup=False, highlight=False, soft_wrap=True)
    console.print(f"{file}: {found.kind}, {len(found.tensors)} tensors")
    console.print(json.dumps(found.config, indent=1, ensure_ascii=False))
    if found.assumed:
        console.print(f"assumed, because nothing in the file says it: {_assumed(found)}")
    if found.assumed and not yes:
        raise BilensError(
            f"a config with {_assumed(found)} assumed",
            "--yes, or a --config that says it",
        )
    found.save(out)
    console.print(f"model: {out}")


def _assumed(found: Imported) -> str:
    return ", ".join(f"{name} = {json.dumps(found.config[name])}" for name in found.assumed)


def _inside(rest: Mapping[str, Any]) -> dict[str, Any]:
    """The config that a file has beside its state dict: plain values under "config" or the like."""
    for name in ("config", "cfg", "hparams", "hyper_parameters", "args"):
        value = rest.get(name)
        if isinstance(value, Mapping):
            return {
                str(entry): content
                for entry, content in value.items()
                if content is None or isinstance(content, str | int | float | bool)
            }
    return {}


__all__ = ["import_file"]
