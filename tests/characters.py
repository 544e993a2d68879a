"""A tokenizer that anybody can check: a token for each character, its code point."""

from __future__ import annotations


class Characters:
    def __init__(self, first: int | None = 1) -> None:
        self.bos_token_id = first

    def __call__(self, text: list[str], *, add_special_tokens: bool, verbose: bool) -> dict[str, list[list[int]]]:
        assert not add_special_tokens
        assert not verbose
        return {"input_ids": [[ord(c) for c in each] for each in text]}


def written(rows) -> list[str]:
    """Rows of tokens as text again."""
    return ["".join(chr(token) for token in row) for row in rows.tolist()]
