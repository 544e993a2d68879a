"""Folders of coders, other people's and ours: one format a file, and the table that tells them by their files."""

from __future__ import annotations

from pathlib import Path

from bilens._internal import checks
from bilens.errors import StoreError
from bilens.sae._formats import authors, dictionary_learning, gemma_scope, saelens, sparsify
from bilens.sae._formats.content import Content, Format

FORMATS: tuple[Format, ...] = (
    dictionary_learning.FORMAT,
    gemma_scope.FORMAT,
    sparsify.FORMAT,
    saelens.FORMAT,
    authors.FORMAT,
)
"""Every format that is read; the first that finds its files reads the folder."""

SUPPORTED = f"the folder of one coder: {'; '.join(form.title for form in FORMATS)}"
"""The formats that are read, for messages."""


def read(folder: str | Path, scale: float | None = None) -> Content:
    """What a folder holds, of whichever format it is.

    Raises:
        StoreError: a file is missing or damaged, the format or a setting is not supported, or the weights do not fit.
    """
    folder = checks.path("folder", folder)
    if folder.is_file():
        raise StoreError(f"{folder}, which is a file", SUPPORTED, "name the folder that it is in")
    for form in FORMATS:
        if form.found(folder):
            return form.read(folder, scale)
    if not folder.is_dir():
        raise StoreError(f"{folder}, which does not exist", SUPPORTED)
    raise StoreError(f"{folder} with {_held(folder)}", SUPPORTED)


def _held(folder: Path) -> str:
    """What is in a folder that is of no format: the folders of coders in it, else the names of its files."""
    inside = sorted(folder.iterdir())
    coders = [path.name for path in inside if path.is_dir() and _any(path)]
    if coders:
        return f"several coders, {', '.join(coders[:4])}{' …' if len(coders) > 4 else ''}, each in a folder of its own"
    names = [path.name for path in inside]
    return f"only {', '.join(names[:6])}{' …' if len(names) > 6 else ''}" if names else "nothing in it"


def _any(folder: Path) -> bool:
    try:
        return any(form.found(folder) for form in FORMATS)
    except StoreError:
        return False


__all__ = ["FORMATS", "SUPPORTED", "Content", "Format", "read"]
