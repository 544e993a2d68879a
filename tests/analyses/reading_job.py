"""A small run of the main job for language models, whose model, text and tokens a test chooses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import tiny_models
from bilens.analyses.language.job import Plan, read_layers
from bilens.analyses.language.subject import Subject
from bilens.models import gated
from bilens.models.unembedding import embedding, unembedding
from bilens.text import Split

PLAN = Plan(tokens=10, controls=4, input_tokens=12, pairs=5, interactions=6)


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


__all__ = ["PLAN", "read", "subject"]
