"""A small run of the main job for language models on a model, text and tokens of choice, and what it is held to."""

from __future__ import annotations

import base64
import functools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tiny_models
from bilens.analyses import _language_read as language_read
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


def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few features for `bilens read`, too: what it reads by default takes seconds."""
    monkeypatch.setattr(language_read, "Plan", functools.partial(Plan, tokens=8, controls=4, pairs=5, interactions=6))


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


def decoded(array: dict[str, Any]) -> np.ndarray:
    """Numbers of a page that are written in 16 bits, a scale per row."""
    whole = np.frombuffer(base64.b64decode(array["data"]), "<i2").reshape(array["shape"])
    numbers: np.ndarray = whole * np.array(array["scale"])[:, None]
    return numbers


def exact(path: Path, model: Path, layer: int) -> None:
    """A page says that its layer is exactly bilinear, and its quadratic forms are what the layer itself gives.

    Args:
        path: of the page; model: the folder of the model; layer: its number.
    """
    document = page(path)
    assert (document["method"], document["layer"], document["costs"]) == ("exact", layer, [])
    assert document["apart"] < 1e-4
    found, split = document["sets"][0], document["text"]
    assert split["held_out"] > 0
    whole, true = (decoded(found[name]) for name in ("whole", "true"))
    assert whole.shape[0] == len(found["features"]) > 0
    np.testing.assert_allclose(whole, true, atol=2e-3 * np.abs(true).max())  # of 16 bits
    assert np.abs(true).max() > 0
    assert json.loads((model / "config.json").read_text())["hidden_act"] == "linear"


__all__ = ["LAYER", "PLAN", "directions", "exact", "in_transformers", "little", "page", "read", "subject"]
