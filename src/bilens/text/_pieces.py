"""The text of every token of a tokenizer, whatever it is: special, half a character, or a control code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

SPACE, WORD = "\u0120", "\u2581"
"""What stands for a space in vocabularies of bytes (Ġ) and in those of SentencePiece (▁)."""


def pieces(tokenizer: Any, size: int | None = None) -> tuple[str, ...]:
    r"""The texts of tokens 0 … size − 1, as they stand in a text: a space is a space.

    Bytes that are no text on their own are written as `\xe2`. A token that the tokenizer does not know is `[number]`.

    Args:
        tokenizer: of transformers; size: how many tokens the model has, which may be more or fewer than it knows.
    """
    known = len(tokenizer)
    names = list(tokenizer.convert_ids_to_tokens(list(range(known if size is None else min(known, size)))))
    special = {number: str(token) for number, token in getattr(tokenizer, "added_tokens_decoder", {}).items()}
    plain = [name for number, name in enumerate(names) if number not in special and isinstance(name, str)]
    text = _reader(plain)
    found = [
        special[number] if number in special else text(name) if isinstance(name, str) else f"[{number}]"
        for number, name in enumerate(names)
    ]
    return (*found, *(f"[{number}]" for number in range(len(found), len(found) if size is None else size)))


def _reader(names: list[str]) -> Callable[[str], str]:
    """How a vocabulary writes texts, told by what its tokens look like."""
    if any(name.startswith(SPACE) for name in names):
        return _of_bytes
    if any(name.startswith(WORD) for name in names):
        return _of_sentencepiece
    return lambda name: name


def _of_bytes(name: str) -> str:
    """A token of bytes, each written as a character of its own."""
    if any(character not in _BYTES for character in name):
        return name
    return bytes(_BYTES[character] for character in name).decode("utf-8", "backslashreplace")


def _of_sentencepiece(name: str) -> str:
    if len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
        return bytes.fromhex(name[3:5]).decode("utf-8", "backslashreplace")
    return name.replace(WORD, " ")


def _bytes() -> dict[str, int]:
    """The byte of each character of GPT-2's alphabet: printable Latin-1 is itself, the rest follows from 256 on."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in own]
    return {chr(byte): byte for byte in own} | {chr(256 + place): byte for place, byte in enumerate(rest)}


_BYTES = _bytes()

__all__ = ["pieces"]
