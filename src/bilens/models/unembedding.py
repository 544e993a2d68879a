"""The two ends of a model that is not built: what a token is at the start, and what reads the next one at the end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bilens._internal import checks, shown
from bilens._internal.checks import instance
from bilens.errors import ShapeError, StoreError
from bilens.models.gated import Checkpoint, Norm
from bilens.models.gated.families import ROOTS, Layout, bias_name

HEADS = ("lm_head.weight", "output.weight")
"""Names of the unembedding, in safetensors and in GGUF."""

EMBEDDINGS = ("embed_tokens.weight", "token_embd.weight", "wte.weight")
"""Names of the embedding, which is the unembedding where a model has no other."""

NORMS = ("norm.weight", "output_norm.weight", "final_layernorm.weight")
"""Names of the gain of the norm before it."""

_ROOTS = (*ROOTS, "transformer.")


@dataclass(frozen=True, eq=False, repr=False)
class Unembedding:
    """Logits = U norm(x).

    Args:
        weight: U, (v, d), one row per token; norm: with its gain, and ε of the layers' norms.

    Raises:
        ShapeError: a gain of another size. BilensError: NaN or infinity.
    """

    weight: Float[Tensor, "v d"]
    norm: Norm

    def __post_init__(self) -> None:
        instance("norm", self.norm, Norm)
        checks.shapes(self)
        checks.weights("unembedding", self.weight)
        if self.norm.gain is not None and len(self.norm.gain) != self.weight.shape[1]:
            raise ShapeError(f"a gain of {len(self.norm.gain)} numbers", f"{self.weight.shape[1]}, as the unembedding")

    def __repr__(self) -> str:
        """For example "Unembedding(weight (49152, 576), norm …)"."""
        return shown.line(self)

    def directions(self, tokens: Iterable[int]) -> Float[Tensor, "n d"]:
        """γ ⊙ (U_t − mean over the vocabulary): the direction of the residual stream that speaks for each token.

        What is common to all rows changes no prediction. Where the norm takes the mean of x away, the part of a
        direction along (1, …, 1) does nothing, and is left out.

        Raises:
            BilensError: no token, or one outside the vocabulary.
        """
        asked = checks.several("tokens", tokens, "a list of numbers of tokens", "pass [token]")
        index = checks.places("tokens", asked, len(self.weight), self.weight.device)
        rows = self.weight[index].double() - self.weight.double().mean(dim=0)
        if self.norm.gain is not None:
            rows = rows * self.norm.gain.double()
        if self.norm.kind == "layer":
            rows = rows - rows.mean(dim=1, keepdim=True)
        return rows.to(torch.promote_types(self.weight.dtype, torch.float32))


def unembedding(checkpoint: Checkpoint) -> Unembedding:
    """Of a model that was opened; only these tensors are read.

    Raises:
        StoreError: none of the known names is there.
    """
    instance("checkpoint", checkpoint, Checkpoint)
    source, layout = checkpoint.source, next(iter(checkpoint.places.values())).layout
    names = set(source.names())
    head = _first(names, HEADS) or _first(names, EMBEDDINGS)
    if head is None:
        raise StoreError(f"{source.title} without {HEADS[0]} or {EMBEDDINGS[0]}", "a model with its unembedding")
    weight = source.read(head)
    weight = checks.owned(weight)
    gain = bias = None
    if layout.gain != "none":
        name = _first(names, NORMS)
        if name is None:
            raise StoreError(f"{source.title} without {NORMS[0]}", "a model with the norm before its unembedding")
        gain = checks.owned(source.read(name))
        gain = gain + 1 if layout.gain == "1+w" else gain
        bias = checks.owned(source.read(bias_name(name))) if bias_name(name) in names else None
    return Unembedding(weight, Norm(layout.norm_kind, gain, bias, _eps(checkpoint, layout)))


def embedding(checkpoint: Checkpoint) -> Float[Tensor, "v d"]:
    """What the residual stream is at the start, one row per token; nothing else of the model is read.

    Raises:
        StoreError: none of the known names is there.
    """
    instance("checkpoint", checkpoint, Checkpoint)
    name = _first(set(checkpoint.source.names()), EMBEDDINGS)
    if name is None:
        raise StoreError(f"{checkpoint.source.title} without {EMBEDDINGS[0]}", "a model with its embedding")
    return checks.owned(checkpoint.source.read(name))


def _eps(checkpoint: Checkpoint, layout: Layout) -> float:
    eps = checkpoint.family.eps if layout.eps is None else layout.eps
    return 0.0 if eps is None else eps


def _first(names: set[str], endings: Iterable[str]) -> str | None:
    """The first of some names that is there, whatever comes before it."""
    return next((name for ending in endings for root in _ROOTS if (name := f"{root}{ending}") in names), None)


__all__ = ["EMBEDDINGS", "HEADS", "NORMS", "Unembedding", "embedding", "unembedding"]
