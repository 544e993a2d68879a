"""Tiny models of transformers, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bilens import text
from bilens.text import Document

VOCABULARY = 40
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "pad_token_id": 0,
    "max_position_embeddings": 64,
}


def made(kind: str = "llama", seed: int = 0, **more: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers", reason="pip install 'bilens[lm]'")
    config = transformers.AutoConfig.for_model(kind, **{**SIZES, **more})
    with torch.random.fork_rng():
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.1 * drawn if "norm" in name and "gemma" not in kind else 0.3 * drawn)
    return model


def texts(count: int, length: int = 12, *, first: int | None = 1, seed: int = 1) -> Tensor:
    """Random tokens, each text beginning with the same one unless that is None."""
    tokens = torch.randint(2, VOCABULARY, (count, length), generator=torch.Generator().manual_seed(seed))
    if first is not None:
        tokens[:, 0] = first
    return tokens


WORDS = ["the", "a", "cat", "dog", "<b>", "king", "&", "sees", "hears", "of", "old", "and", "young", "sleeps", "by"]


def folder(place: Path, **more: Any) -> Path:
    """A model with its tokenizer in model/ of a folder, and four documents of random words in text/."""
    (place / "text").mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    documents = []
    for number in range(4):
        words = " ".join(WORDS[k] for k in torch.randint(len(WORDS), (400,), generator=generator).tolist())
        (place / "text" / f"{number}.txt").write_text(words)
        documents.append(Document(str(number), words))
    tokenizer = text.trained(documents, 320)
    tokenizer.save_pretrained(place / "model")
    sizes = {"vocab_size": len(tokenizer), "num_hidden_layers": 2, "bos_token_id": 0, "pad_token_id": None}
    made(**{**sizes, **more}).save_pretrained(place / "model")
    return place
