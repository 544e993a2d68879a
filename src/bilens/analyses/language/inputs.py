"""What goes into layers on a text, kept in the run's folder a few rows at a time: one pass for all layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from bilens._internal import files, ranks
from bilens.analyses.language.subject import PREFIX, Subject
from bilens.errors import BilensError
from bilens.models import gated
from bilens.models.gated.original import Trace
from bilens.progress import bar
from bilens.text import Split

ROWS = 8
"""Rows of text in a file."""

PARTS = ("fit", "held_out")
"""Parts of a text."""


def missing(subject: Subject, out: Path, layers: Sequence[int]) -> list[tuple[str, int]]:
    """The parts and first rows of what `collect` has still to write; nothing without text."""
    split = subject.split
    if split is None:
        return []
    return [
        (part, start)
        for part, start in everything(split)
        if not all(_file(out, layer, part, start).exists() for layer in layers)
    ]


def everything(split: Split) -> list[tuple[str, int]]:
    """The parts and first rows of all files of a layer."""
    return [(part, start) for part in PARTS for start in range(0, len(getattr(split, part)), ROWS)]


def collect(subject: Subject, out: Path, layers: Sequence[int]) -> None:
    """Run the model on what is not there yet, and write x, the residual stream before each layer's MLP.

    Several processes share the files; each returns when its own are there.

    Raises:
        BilensError: a layer with experts. StoreError: it cannot be written.
    """
    split, size, rank = subject.split, ranks.size(), ranks.rank()
    if split is None:
        return
    own = [place for n, place in enumerate(everything(split)) if n % size == rank]
    places = [place for place in own if place in missing(subject, out, layers)]
    if not places:
        return
    model = subject.live()
    live = gated.load(model)
    strange = [layer for layer in layers if (layer, "mlp") not in live.places]
    if strange:
        raise BilensError(f"layer {strange[0]}, which has experts", "a layer with an MLP of its own", "name another")
    traces = {layer: Trace(model, live.places[layer, "mlp"]) for layer in layers}
    total = sum(len(getattr(split, part)[start : start + ROWS]) for part, start in own)
    left = sum(len(getattr(split, part)[start : start + ROWS]) for part, start in places)
    try:
        with torch.no_grad(), bar("rows of text", total, done=total - left, show=ranks.lead()) as step:
            for part, start in places:
                found: dict[int, list[Tensor]] = {layer: [] for layer in layers}
                for row in getattr(split, part)[start : start + ROWS]:
                    model(row[None])
                    for layer, trace in traces.items():
                        if trace.input is None:
                            raise BilensError(f"a model that does not run layer {layer}", "one that runs each MLP")
                        found[layer].append(trace.input[PREFIX:].float())
                    step(1)
                for layer, several in found.items():
                    files.write_tensors(_file(out, layer, part, start), {"x": torch.stack(several)})
    finally:
        for trace in traces.values():
            trace.stop()


def collected(subject: Subject, out: Path, layer: int, part: str) -> Float[Tensor, "n d"]:
    """x of one layer on one part of the text, a row per token after the prefix, row of text after row of text."""
    split = subject.split
    if split is None:
        raise BilensError("no text", "a subject with text")
    starts = range(0, len(getattr(split, part)), ROWS)
    found = [files.read_tensors(_file(out, layer, part, start))[0]["x"] for start in starts]
    return torch.cat(found).flatten(0, 1)


def kept(out: Path, layer: int, part: str) -> Float[Tensor, "n d"] | None:
    """What `collected` gives of a run that is finished, whatever its text was; None for a run without text.

    Raises:
        StoreError: a file is damaged.
    """
    paths = sorted((out / "activations").glob(f"{layer:03d}-{part}-*.safetensors"))
    found = [files.read_tensors(path)[0]["x"] for path in paths]
    return torch.cat(found).flatten(0, 1) if found else None


def size(subject: Subject, layers: int) -> int:
    """Bytes that `collect` writes."""
    split = subject.split
    if split is None:
        return 0
    tokens = sum(len(part) * (part.shape[1] - PREFIX) for part in (split.fit, split.held_out))
    return 4 * layers * tokens * subject.embedding.shape[1]


def _file(out: Path, layer: int, part: str, start: int) -> Path:
    return out / "activations" / f"{layer:03d}-{part}-{start:06d}.safetensors"


__all__ = ["PARTS", "ROWS", "collect", "collected", "kept", "missing", "size"]
