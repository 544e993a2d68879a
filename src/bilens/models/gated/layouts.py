"""A layout that somebody wrote down in a file, for a model of no known family."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

from bilens._internal.files import read_json
from bilens.errors import BilensError, StoreError
from bilens.models.gated.families import Layout

EXAMPLE = {
    "gate": "blocks.{layer}.ffn.w1.weight",
    "up": "blocks.{layer}.ffn.w3.weight",
    "down": "blocks.{layer}.ffn.w2.weight",
    "norm": "blocks.{layer}.norm2.weight",
    "eps": 1e-6,
    "activation": "silu",
}
"""A layout as a file holds it, for messages."""


def read_layout(path: str | Path) -> Layout:
    """A layout from a JSON file with its entries.

    Raises:
        StoreError: no JSON, or entries that a layout does not have or cannot have.
    """
    content = read_json(path)
    known = {entry.name for entry in fields(Layout)}
    if unknown := sorted(content.keys() - known):
        raise StoreError(f"{path} with {', '.join(unknown)}", f"only {', '.join(sorted(known))}")
    if missing := sorted({"gate", "up", "down"} - content.keys()):
        raise StoreError(f"{path} without {', '.join(missing)}", "gate, up and down, names with {layer} in them")
    try:
        return Layout(**content)
    except BilensError as error:
        raise StoreError(f"{path}, which is no layout ({error})", json.dumps(EXAMPLE)) from error


__all__ = ["EXAMPLE", "read_layout"]
