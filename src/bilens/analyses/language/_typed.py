"""What a page needs to run a small model up to its layer, so that a sentence that a person types is an exact sum."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bilens._internal.encoding import floats, shorts
from bilens.analyses.language._alike import Shown
from bilens.analyses.language.layer import Layer
from bilens.analyses.language.subject import Subject
from bilens.errors import BilensError
from bilens.explorer.lm_layout import Block, Typed
from bilens.text import tokenizer

LARGEST = 600_000
"""Numbers of a model, up to the layer, that a page carries at most."""

LONGEST = 64
"""Tokens of a sentence at most."""

_MATRICES = {
    "norm": "input_layernorm",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "output": "self_attn.o_proj",
    "mlp_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


@torch.no_grad()
def typed(subject: Subject, layer: Layer, shown: Shown, vectors: Tensor) -> Typed | None:
    """The model up to a layer; None where it is too large, or of a kind that the page's script does not know.

    Args:
        subject: the model; layer: the layer; shown: the features of its page; vectors: their first eigenvectors,
            (n, pairs, i).
    """
    config, surrogate = subject.checkpoint.source.config, layer.surrogate
    if config.get("model_type") != "llama" or size(config, layer.number) > LARGEST:
        return None
    if surrogate is not None and not (surrogate.bypass is surrogate.offset is surrogate.down is None):
        return None
    if not Path(subject.named).exists():  # a model in memory: no network is asked for a tokenizer
        return None
    try:
        words = _words(tokenizer(subject.named))
    except BilensError:
        return None
    model = subject.live()
    gate = _gate(model, layer)
    if words is None or gate is None:
        return None
    weights, config_ = model.state_dict(), _config(model)
    blocks = [_block(weights, number) for number in range(layer.number + 1)]
    parts = () if surrogate is None else tuple(
        getattr(surrogate, name) for name in ("product", "square", "gate", "value", "constant")
    )  # fmt: skip
    return {
        "names": words["names"],
        "texts": list(subject.pieces[: len(words["names"])]),
        "merges": words["merges"],
        "special": words["special"],
        "first": words["first"],
        "longest": min(LONGEST, config_.max_position_embeddings),
        "heads": config_.num_attention_heads,
        "groups": config_.num_key_value_heads,
        "theta": float(config_.rope_parameters["rope_theta"]),
        "eps": float(config_.rms_norm_eps),
        "gate": gate,
        "embedding": floats("embedding", weights["model.embed_tokens.weight"]),
        "blocks": blocks,
        "surrogate": floats("surrogate", torch.stack(parts)) if parts else None,
        "directions": floats("directions", shown.directions),
        "vectors": shorts("vectors", vectors.flatten(0, 1)),
        "pairs": vectors.shape[1],
    }


def size(config: Mapping[str, Any], layer: int) -> int:
    """How many numbers a model of the family has up to a layer and with it, as its config says."""
    names = ("hidden_size", "intermediate_size", "vocab_size")
    if not all(isinstance(config.get(name), int) for name in names):
        return 2**62
    d, h, v = (config[name] for name in names)
    return int(v * d + (layer + 1) * (4 * d * d + 3 * d * h))


def _config(model: nn.Module) -> Any:
    return model.config


def _gate(model: nn.Module, layer: Layer) -> Literal["silu", "identity"] | None:
    """What the units' gates are, where the page's script computes what the model does."""
    config, weights = _config(model), model.state_dict()
    rope = getattr(config, "rope_parameters", None) or {}
    plain = (
        type(model).__name__ == "LlamaForCausalLM"
        and rope.get("rope_type") == "default"
        and config.hidden_size == config.num_attention_heads * config.head_dim
        and layer.scale is None
        and not any(name.endswith(".bias") for name in weights)
    )
    name = layer.mlp.activation.name
    if not plain or name not in ("silu", "identity") or layer.mlp.activation.slope != 1:
        return None
    return "silu" if name == "silu" else "identity"


def _block(weights: dict[str, Tensor], number: int) -> Block:
    found: Any = {
        name: floats(name, weights[f"model.layers.{number}.{matrix}.weight"]) for name, matrix in _MATRICES.items()
    }
    return found  # type: ignore[no-any-return]


def _words(known: Any) -> dict[str, Any] | None:
    """A tokenizer of bytes with GPT-2's words, as the page's script runs it; None for another kind."""
    backend = getattr(known, "backend_tokenizer", None)
    if backend is None:
        return None
    content = json.loads(backend.to_str())
    model, before = content["model"], content["pre_tokenizer"] or {}
    plain = (
        content["normalizer"] is None
        and (before.get("type"), before.get("use_regex"), before.get("add_prefix_space")) == ("ByteLevel", True, False)
        and model["type"] == "BPE"
        and not any(model.get(name) for name in ("dropout", "byte_fallback", "ignore_merges", "unk_token"))
        and not any(token[name] for token in content["added_tokens"] for name in ("single_word", "lstrip", "rstrip"))
    )
    if not plain:
        return None
    merges = [each if isinstance(each, str) else " ".join(each) for each in model["merges"]]
    special = [token["content"] for token in content["added_tokens"]]
    return {
        "names": known.convert_ids_to_tokens(list(range(len(known)))),
        "merges": merges,
        "special": special,
        "first": known.bos_token_id,
    }


__all__ = ["LARGEST", "LONGEST", "size", "typed"]
