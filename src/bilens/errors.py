"""The errors that bilens raises: each says in one line what it got, what it expected and, where it helps, a hint."""

from __future__ import annotations


class BilensError(ValueError):
    """Invalid input, reported in one line: *got …; expected …*, then a hint as a sentence of its own where it helps.

    Raised itself for arguments of a wrong type, numbers out of range and values that are not finite; its subclasses
    name the other cases.
    The command line prints the line and exits with status 2.

    Args:
        got: what was passed, with its name; expected: what is valid.
        hint: a short imperative such as "convert it with .float()", only where got and expected do not imply it.
    """

    def __init__(self, got: str, expected: str, hint: str = "") -> None:
        line = f"got {got}; expected {expected}"
        if hint.strip():
            line += f". {_sentence(hint)}"
        super().__init__(" ".join("".join(c if c.isprintable() else " " for c in line).split()))


class ShapeError(BilensError):
    """A tensor has the wrong number of axes, or an axis the wrong size."""


class SpaceError(BilensError):
    """An axis belongs to another space, or a label is not in its space."""


class StoreError(BilensError):
    """A file or folder is missing, damaged, of another format, or cannot be written."""


class SinglePrecisionWarning(UserWarning):
    """The device has no float64, so that part of what bilens computes cannot run on it."""


def _sentence(hint: str) -> str:
    """The hint with a capital letter and a full stop; a hint that begins with code keeps its first letter."""
    first = hint.split(maxsplit=1)[0].rstrip(",:;")
    start = hint[0].upper() + hint[1:] if first.isalpha() else hint
    return start if start.endswith((".", "!", "?")) else f"{start}."
