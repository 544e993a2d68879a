"""`bilens read` of a language model: recognised by its files, and read layer by layer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from bilens._internal import files, ranks
from bilens._internal.checks import whole
from bilens.analyses.language import job
from bilens.analyses.language.job import Plan
from bilens.analyses.language.sets import TOKENS
from bilens.analyses.language.subject import subject
from bilens.errors import BilensError
from bilens.progress import Steps

SEEN = 20_000
"""Tokens of text that are read at most, where nothing else is said."""

_CONFIG = ("model_type", "num_hidden_layers", "n_ctx", "architectures")
"""Entries that the config of a language model has, and that of an image classifier has not."""


def is_language(model: Path) -> bool:
    """Whether a file, a folder or a name is that of a language model, by its name or its config."""
    if model.is_dir():
        config = model / "config.json"
        if not config.exists():
            return any(model.glob("*.gguf"))
        try:
            return any(entry in files.read_json(config) for entry in _CONFIG)
        except BilensError:
            return False
    if model.is_file():
        return model.suffix == ".gguf"
    return bool(re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*(/[\w./-]+\.gguf)?", str(model))) and not model.parent.exists()


def read(
    model: str,
    out: Path,
    *,
    layers: str | None,
    directions: Sequence[str],
    inputs: str | None,
    text: Sequence[Path],
    tokens: int | None,
    seed: int,
) -> dict[str, Any]:
    """Read layers of a language model; see `bilens read`.

    Returns:
        Where the pages are, by the numbers of the layers' files; of several processes the first one knows.
    """
    count = SEEN if tokens is None else whole("--tokens", tokens, 2)
    if tokens is not None and not text:
        raise BilensError("--tokens without --text", "text to read")
    with ranks.joined():
        steps = Steps(1)
        if ranks.lead():
            steps.begin("opening the model" + (" and its text" if text else ""))
        found = subject(model, text, tokens=count, seed=seed)
        numbers = job.numbers(layers, len(found.checkpoint))
        plan = Plan(directions=tuple(directions) or (TOKENS,), inputs=inputs or "", seed=seed)
        steps.total += job.count_steps(found, numbers, out, plan)
        written = job.read_layers(found, numbers, out, plan, steps)
        if not ranks.lead():
            return {"pages": []}
    console = Console(markup=False, highlight=False, soft_wrap=True)
    for path in written[:1] if len(written) > 1 else written:
        console.print(f"page: {path}")
    console.print(f'ask its tables: bilens query {out} "SELECT label, held FROM features ORDER BY held DESC LIMIT 5"')
    return {"pages": [str(path) for path in written]}


__all__ = ["SEEN", "is_language", "read"]
