"""Folders in the layout of another program: a list of what bilens wrote there says what a later save may replace."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bilens._internal.files._read import read_json
from bilens._internal.files._write import write_json
from bilens.errors import StoreError

MARK = "bilens.json"
"""The file with the list; other programs ignore it."""


def list_ours(folder: str | Path, names: Iterable[str]) -> None:
    """Add entries of a folder to the list of those that a save of bilens made. Raises StoreError."""
    known = _listed(Path(folder)) | set(names)
    write_json(Path(folder) / MARK, {"saved by": "bilens", "files": sorted(known)})


def require_listed(folder: str | Path, names: Iterable[str]) -> None:
    """Refuse to replace or delete entries of a folder that `list_ours` does not name.

    Args:
        folder: it need not exist; names: of the entries, those that are not there count for nothing.

    Raises:
        StoreError: one of them is not ours.
    """
    folder = Path(folder)
    strange = sorted(name for name in set(names) - _listed(folder) - {MARK} if (folder / name).exists())
    if strange:
        raise StoreError(
            f"{folder / strange[0]}, which bilens did not write",
            "a new folder, or one with nothing but a model that bilens saved",
            "name another folder, so that nothing is lost",
        )


def _listed(folder: Path) -> set[str]:
    if not (folder / MARK).is_file():
        return set()
    found = read_json(folder / MARK).get("files")
    return {name for name in found if isinstance(name, str)} if isinstance(found, list) else set()
