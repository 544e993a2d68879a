"""A small coder of what a layer's MLP takes, trained on the rows that a run has collected, once."""

from __future__ import annotations

from pathlib import Path

import torch

from bilens import sae, store
from bilens.analyses.language import inputs
from bilens.analyses.language.subject import Subject
from bilens.history import History
from bilens.sae import Site, TensorStream, TopKSAE
from bilens.store import Folder

TRAIN = "train"
"""What `--inputs` is for a coder that is to be trained."""

FEATURES, CODES, STEPS, BATCH = 1024, 32, 600, 512
"""Features of the coder, how many are active on a vector, updates, and vectors in each."""

store.register(History)


def trained(out: Path, layer: int) -> Path:
    """Where the coder of a layer is."""
    return out / "coders" / f"mlp-in-{layer:03d}"


@torch.no_grad()
def train(subject: Subject, run: Folder, layer: int, *, seed: int) -> None:
    """Train the coder of a layer where the run has none; a run that was stopped goes on where it was.

    Args:
        subject: with text, whose rows are collected already; run: its folder; layer: its number; seed: of the coder.
    """
    name = f"layer-{layer:03d}/coder"
    if run.has(name):
        return
    mlp = subject.checkpoint.mlp(layer)
    rows = mlp.norm(inputs.collected(subject, run.path, layer, "fit"))
    coder = TopKSAE(rows.shape[1], FEATURES, min(CODES, FEATURES), seed=seed)
    coder.site = Site("mlp_in", layer)
    part = run.path / f"coder-{layer:03d}.part"

    def once() -> History:
        stream = TensorStream(rows, BATCH, seed)
        history = sae.train(coder, stream, steps=STEPS, checkpoint=part, device="cpu", title=f"coder of layer {layer}")
        coder.save_pretrained(trained(run.path, layer))
        return history

    run.record(name, History, once)
    part.unlink(missing_ok=True)


__all__ = ["BATCH", "CODES", "FEATURES", "STEPS", "TRAIN", "train", "trained"]
