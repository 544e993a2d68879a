"""The two ends of a language model, from its weights: what a token is at the start, what each output stands for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bilens._internal import checks
from bilens.errors import ShapeError, StoreError
from bilens.models.gated import Checkpoint

EMBEDDINGS = ("embed_tokens.weight", "token_embd.weight", "wte.weight", "embed.weight")
"""How names of the matrix end that has a row per token."""

HEADS = ("lm_head.weight", "output.weight", "unembed.weight")
"""The same of the matrix that gives logits; a model without one has the embeddings there."""

NORMS = ("model.norm.weight", "output_norm.weight", "norm.weight")
"""The same of the gain of the norm before the logits."""


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """A row per token at both ends of a model.

    Args:
        embedding: what the residual stream is at the start, (v, d).
        unembedding: u_t of each token, (v, d): the logit of t less the mean over all tokens is u_t · x / scale, with x
            the residual stream after the last layer and its scale that of the last norm, which is the same for all t.

    Raises:
        ShapeError: rows of two lengths.
    """

    embedding: Float[Tensor, "v d"]
    unembedding: Float[Tensor, "v d"]

    def __post_init__(self) -> None:
        checks.shapes(self)

    def __len__(self) -> int:
        return len(self.embedding)


def vocabulary(checkpoint: Checkpoint) -> Vocabulary:
    """The two ends of a model; nothing else of it is read.

    Raises:
        StoreError: it has no matrix of embeddings, or one that does not fit its layers.
    """
    source = checkpoint.source
    embedding = _read(checkpoint, EMBEDDINGS)
    if embedding is None:
        raise StoreError(f"{source.title} without {EMBEDDINGS[0]}", "a language model with its embeddings")
    head = _read(checkpoint, HEADS)
    head = embedding if head is None else head
    norm = _read(checkpoint, NORMS)
    if norm is not None:
        if norm.ndim != 1 or len(norm) != head.shape[-1]:
            raise ShapeError(f"a last norm of shape {tuple(norm.shape)}", f"({head.shape[-1]},)")
        one = not source.gguf and any(layout.gain == "1+w" for layout in checkpoint.family.layouts)
        head = head * (norm + 1 if one else norm)
    return Vocabulary(embedding, head - head.mean(dim=0))


def _read(checkpoint: Checkpoint, ends: tuple[str, ...]) -> Tensor | None:
    names = checkpoint.source.names()
    for end in ends:
        for name in names:
            if (name == end or name.endswith(f".{end}")) and not any(part.isdigit() for part in name.split(".")):
                return checks.owned(checkpoint.source.read(name)).to(torch.float32)
    return None


__all__ = ["Vocabulary", "vocabulary"]
