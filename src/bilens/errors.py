"""The errors that bilens raises: each says what it got, what it expected and what to do."""

from __future__ import annotations


class BilensError(ValueError):
    """Bad input, told in one line: *got … ; expected … ; do …*.

    Raised itself for arguments of a wrong type, numbers out of range and values that are not finite; its subclasses
    name the other cases.
    The command line prints the line and exits with status 2.
    """

    def __init__(self, got: str, expected: str, do: str) -> None:
        line = f"got {got}; expected {expected}; do {do}"
        super().__init__(" ".join("".join(c if c.isprintable() else " " for c in line).split()))


class ShapeError(BilensError):
    """A tensor has the wrong number of axes, or an axis the wrong size."""


class SpaceError(BilensError):
    """An axis belongs to another space, or a label is not in its space."""


class StoreError(BilensError):
    """A file or folder is missing, damaged, of another format, or cannot be written."""
