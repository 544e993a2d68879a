"""Training an SAE for an analysis: once for a run, with a checkpoint, kept as a folder that SAELens opens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from bilens._internal.checkpoint import discard
from bilens.analyses.subject import Run
from bilens.history import History
from bilens.sae import StandardSAE, TopKSAE

C = TypeVar("C", StandardSAE, TopKSAE)


def trained(run: Run, name: str, sae: C, train: Callable[[C, Path | None], History]) -> C:
    """The run's SAE of this name: read from its folder when the run has trained it, else trained and kept there.

    Args:
        run: what it belongs to; name: of its folder, `name` in the run's.
        sae: untrained; train: trains it in place, with a checkpoint at a path, and gives what was logged.
    """
    if run.path is None:
        train(sae, None)
        return sae.cpu()
    folder, checkpoint, done = run.path / name, run.path / f"{name}.part", False

    def history() -> History:
        nonlocal done
        logged = train(sae, checkpoint)
        sae.cpu().save_pretrained(folder)
        done = True
        return logged

    run.record(f"{name}_history", History, history)
    discard(checkpoint)
    return sae if done else type(sae).from_pretrained(folder)
