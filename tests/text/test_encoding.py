"""Tokenizers of transformers: a model's own, and one that is trained."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from bilens.errors import BilensError, StoreError
from bilens.models.language import TINY
from bilens.text import Corpus, Document, tokenizer, trained
from bilens.text.encoding import encoded

transformers = pytest.importorskip("transformers", reason="pip install 'bilens[lm]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # of a library that is not ours

TEXT = "the cat sat on the mat, the cat sat on the hat. " * 30


def test_a_trained_tokenizer_writes_every_text(tmp_path: Path) -> None:
    made = trained([Document("a", TEXT)], 268)
    assert len(made) == 268
    assert made.bos_token_id == 0
    for text in (TEXT, "naïve ☃ 中文\n\ttabs", "unseen words"):
        (tokens,) = encoded(made, [text])
        assert tokens.dtype == torch.int64
        assert made.decode(tokens.tolist()) == text
    assert len(encoded(made, [TEXT])[0]) < len(TEXT) / 2
    made.save_pretrained(tmp_path)
    again = tokenizer(tmp_path)
    assert again(TEXT)["input_ids"] == made(TEXT)["input_ids"]
    assert again.bos_token_id == 0


def test_a_model_of_one_kind_of_text_reads_its_own_tokens() -> None:
    own = tokenizer(TINY)
    split = Corpus((Document("a", TEXT),), (Document("b", TEXT),), "here").tokens(own, length=16)
    assert (split.fit[:, 0] == own.bos_token_id).all()
    assert not (split.fit[:, 1:] == own.bos_token_id).any()
    assert sorted(own.decode(row) for row in split.fit[:, 1:].tolist())[0] in f"{TEXT}\n\n"


def test_gguf_files_have_their_tokenizer(tmp_path: Path) -> None:
    """The arguments that transformers gets; real files are read by `make demo-lm`."""
    asked = []

    def from_pretrained(*where: str, **how: str) -> None:
        asked.append((*where, how))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformers.AutoTokenizer, "from_pretrained", from_pretrained)
        (tmp_path / "m.gguf").write_bytes(b"GGUF")
        tokenizer(tmp_path)
        tokenizer(tmp_path / "m.gguf")
        tokenizer("owner/name")
    assert asked == [(str(tmp_path), {"gguf_file": "m.gguf"})] * 2 + [("owner/name", {})]


@pytest.mark.bad_input
def test_bad_input_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match="without a tokenizer that transformers loads") as caught:
        tokenizer(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(BilensError, match="size = 100"):
        trained([Document("a", TEXT)], 100)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(BilensError, match=r"Install it: pip install 'bilens\[lm\]'"):
        tokenizer(tmp_path)
    with pytest.raises(BilensError, match=r"Install them: pip install 'bilens\[lm\]'"):
        trained([Document("a", TEXT)], 300)
