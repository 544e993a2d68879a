"""A small SAE of what a layer's MLP takes, trained on the rows that a run has collected, once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from bilens import sae, store
from bilens._internal.checkpoint import discard
from bilens.analyses.language import inputs
from bilens.analyses.language.subject import Subject
from bilens.history import History
from bilens.sae import Site, TensorStream, TopKSAE
from bilens.store import Folder

TRAIN = "train"
"""What `--inputs` is for an SAE that is to be trained."""

FEATURES, CODES, STEPS, BATCH = 1024, 32, 600, 512
"""Features of the SAE, how many are active on a vector, updates, and vectors in each."""

store.register(History)


def trained(out: Path, layer: int) -> Path:
    """Where the SAE of a layer is."""
    return out / "coders" / f"mlp-in-{layer:03d}"


@torch.no_grad()
def train(subject: Subject, run: Folder, layer: int, *, seed: int) -> None:
    """Train the SAE of a layer where the run has none; a run that was stopped goes on where it was.

    Args:
        subject: with text, whose rows are collected already; run: its folder; layer: its number; seed: of the SAE.
    """
    name, folder, size = f"layer-{layer:03d}/coder", trained(run.path, layer), (FEATURES, STEPS)

    def rows() -> Tensor:
        return subject.checkpoint.mlp(layer).norm(inputs.collected(subject, run.path, layer, "fit"))

    train_on(rows, run, name, Site("mlp_in", layer), folder=folder, size=size, seed=seed)


@torch.no_grad()
def train_on(
    rows: Callable[[], Float[Tensor, "n d"]],
    run: Folder,
    name: str,
    site: Site,
    *,
    folder: Path,
    size: tuple[int, int],
    seed: int,
) -> None:
    """Train an SAE of some rows where the run has none; a run that was stopped goes on where it was.

    Args:
        rows: gives what it is trained on; run: the folder; name: of the record; site: where the rows are in the model.
        folder: for the SAE; size: features and updates; seed: of the SAE and the order of the rows.
    """
    features, steps = size
    part = run.path / f"{folder.name}.part"

    def once() -> History:
        given = rows()
        coder = TopKSAE(given.shape[1], features, min(CODES, features), seed=seed)
        coder.site = site
        stream, title = TensorStream(given, BATCH, seed), f"SAE of {site}"
        history = sae.train(coder, stream, steps=steps, checkpoint=part, device="cpu", title=title)
        coder.save_pretrained(folder)
        return history

    run.record(name, History, once)
    discard(part)  # of a run that was killed after the record, too


__all__ = ["BATCH", "CODES", "FEATURES", "STEPS", "TRAIN", "train", "train_on", "trained"]
