"""A small run of the main job for language models on a model, text and tokens of choice, and what it is held to."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import tiny_models
from bilens.analyses.language.job import Plan, read_layers
from bilens.analyses.language.subject import Subject
from bilens.models import gated
from bilens.models.unembedding import embedding, unembedding
from bilens.text import Split

PLAN = Plan(tokens=10, controls=4, input_tokens=12, pairs=5, interactions=6)
LAYER = 1


def subject(
    model: nn.Module,
    *,
    text: bool = True,
    pieces: Sequence[str] | None = None,
    rows: Tensor | None = None,
    fit: int = 8,
) -> Subject:
    """A model in memory with random text, or the given rows, so many of which are fitted to.

    Its tokens read as " 0", " 1", … unless they are given.
    """
    checkpoint = gated.load(model)
    rows = tiny_models.texts(fit + 4, 24) if rows is None else rows
    ends = unembedding(checkpoint)
    size = len(ends.weight)
    return Subject(
        "memory/tiny",
        checkpoint,
        embedding(checkpoint),
        ends.directions(range(size)),
        tuple(pieces or (f" {number}" for number in range(size))),
        Split(rows[:fit], rows[fit:], "random tokens") if text else None,
        lambda: model,
    )


def read(out: Path, found: Subject, layers: Sequence[int] = (1,), **more: Any) -> list[Path]:
    """Run the job."""
    return read_layers(found, layers, out, Plan(**{**PLAN.__dict__, **more}))


def in_transformers(model: Any, tokens: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(x, y): what goes into the layer's norm and what its MLP gives, a row per token after each row's first."""
    found: dict[str, Tensor] = {}
    block = model.model.layers[LAYER]
    hooks = [
        block.post_attention_layernorm.register_forward_pre_hook(lambda _, x: found.update(x=x[0])),
        block.mlp.register_forward_hook(lambda _, __, y: found.update(y=y)),
    ]
    with torch.no_grad():
        model(tokens)
    for hook in hooks:
        hook.remove()
    x, y = (found[name][:, 1:].flatten(0, 1).double().numpy() for name in ("x", "y"))
    return x, y


def directions(model: Any, tokens: list[int]) -> np.ndarray:
    """Centred rows of the unembedding with the last norm's gain."""
    head = model.lm_head.weight.detach().double().numpy()
    return ((head - head.mean(axis=0)) * model.model.norm.weight.detach().double().numpy())[tokens]


def page(path: Path) -> dict[str, Any]:
    """The document that a page carries."""
    text = path.read_text("utf-8")
    found = re.search(r'id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    document: dict[str, Any] = json.loads(found[1])
    return document


__all__ = ["LAYER", "PLAN", "directions", "in_transformers", "page", "read", "subject"]
