"""The texts of tokens, of vocabularies that can be written down by hand."""

from __future__ import annotations

import pytest

from bilens.text._pieces import pieces


class Vocabulary:
    def __init__(self, names: list[str | None], special: dict[int, str] | None = None) -> None:
        self.names, self.added_tokens_decoder = names, special or {}

    def __len__(self) -> int:
        return len(self.names)

    def convert_ids_to_tokens(self, numbers: list[int]) -> list[str | None]:
        return [self.names[number] for number in numbers]


def test_bytes_are_texts_and_those_that_are_none_are_written() -> None:
    found = pieces(Vocabulary(["Ġthe", "Ċ", "âĤ¬", "âĤ", "é", "ĠĠ", "<|end|>", "漢"], {6: "<|end|>"}))
    assert found == (" the", "\n", "€", "\\xe2\\x82", "\\xe9", "  ", "<|end|>", "漢")


def test_sentencepiece_writes_spaces_and_single_bytes() -> None:
    assert pieces(Vocabulary(["▁the", "<0x0A>", "<0xE2>", "▁▁", "<s>"])) == (" the", "\n", "\\xe2", "  ", "<s>")


def test_every_byte_has_one_character() -> None:
    from bilens.text._pieces import _BYTES

    assert sorted(_BYTES.values()) == list(range(256))
    assert {"Ġ": 32, "Ċ": 10, "ĉ": 9, "!": 33, "Ń": 173}.items() <= _BYTES.items()


def test_a_model_may_have_more_tokens_or_fewer_than_its_tokenizer() -> None:
    vocabulary = Vocabulary(["a", None, "b"])
    assert pieces(vocabulary, 5) == ("a", "[1]", "b", "[3]", "[4]")
    assert pieces(vocabulary, 2) == ("a", "[1]")
    assert pieces(vocabulary) == ("a", "[1]", "b")


@pytest.mark.filterwarnings("ignore")
def test_the_tiny_models_own_texts_join_to_what_was_encoded() -> None:
    pytest.importorskip("transformers", reason="pip install 'bilens[lm]'")
    from bilens.models.language import TINY
    from bilens.text import tokenizer

    known = tokenizer(TINY)
    text = "But soft,\n\twhat light — “through” yonder…  window"
    ids = known(text, add_special_tokens=False)["input_ids"]
    joined = "".join(pieces(known)[number] for number in ids)
    assert joined.encode().decode("unicode_escape").encode("latin-1").decode() == text
