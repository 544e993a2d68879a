"""Tokenizers: the model's own, or one trained on documents."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from bilens._internal import checks
from bilens._internal.checks import whole
from bilens.errors import BilensError, StoreError
from bilens.text.sources import END, Document


@runtime_checkable
class Tokenizer(Protocol):
    """What is asked of a tokenizer; those of transformers have it."""

    bos_token_id: int | None

    def __call__(self, text: list[str], /, *, add_special_tokens: bool, verbose: bool) -> Any:
        """A mapping whose "input_ids" are the tokens of each text."""


def tokenizer(model: str | os.PathLike[str]) -> Any:
    """The model's own tokenizer, as transformers loads it.

    Args:
        model: a folder, a GGUF file or a folder with one, or the name of a model on Hugging Face's hub.

    Raises:
        BilensError: transformers is not installed. StoreError: it finds no tokenizer there.
    """
    path = checks.path("model", model)
    try:
        import transformers
    except ImportError as error:
        raise BilensError(
            f"the tokenizer of {path}", "transformers, which loads it", "install it: pip install 'bilens[lm]'"
        ) from error
    where, file = str(model), None
    if path.is_dir() and not any(path.glob("*.safetensors")):
        path = next(iter(sorted(path.glob("*.gguf"))), path)
    if path.is_file():
        where, file = str(path.parent), path.name if path.suffix == ".gguf" else None
    try:
        return transformers.AutoTokenizer.from_pretrained(where, **({"gguf_file": file} if file else {}))
    except Exception as error:  # transformers raises whatever the file makes it stumble over
        reason = " ".join(str(error).split())[:160]
        raise StoreError(
            f"{model} without a tokenizer that transformers loads ({reason})", "a model with one"
        ) from error


def trained(documents: Iterable[Document], size: int = 1024) -> Any:
    """A byte-level BPE tokenizer of transformers, trained on documents; every text can be written in its tokens.

    Its beginning of text is `<|endoftext|>`, number 0.

    Args:
        documents: what it is trained on; size: how many tokens, at least 257.

    Raises:
        BilensError: tokenizers or transformers is not installed, or no room for all bytes.
    """
    size = whole("size", size, 257)
    try:
        import tokenizers
        import transformers
    except ImportError as error:
        raise BilensError(
            "a tokenizer to train",
            "the packages tokenizers and transformers",
            "install them: pip install 'bilens[lm]'",
        ) from error
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator((document.text for document in documents), trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=model, bos_token=END, eos_token=END)


def encoded(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Tensor]:
    """The tokens of each text, without any that the tokenizer would put before or after it.

    Raises:
        BilensError: no tokenizer of transformers.
    """
    if not callable(tokenizer) or not hasattr(tokenizer, "bos_token_id"):
        raise BilensError(
            f"tokenizer of type {type(tokenizer).__name__}",
            "one of transformers",
            "take the model's own with bilens.text.tokenizer",
        )
    found = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return [torch.tensor(tokens, dtype=torch.int64) for tokens in found]


__all__ = ["Tokenizer", "encoded", "tokenizer", "trained"]
