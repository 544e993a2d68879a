"""Distillation end to end: all bilinear MLPs of a converted model at once, towards the original's next-token odds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from bilens._internal import checkpoint, ranks
from bilens._internal.checks import whole
from bilens._internal.seeds import derived
from bilens.models import gated
from bilens.models.gated.original import owner
from bilens.progress import bar

TEXTS = 4
"""Texts of a step, in all processes together, or one for each process where these are more."""

RATE = 8e-4
"""AdamW's rate at its highest, as a share of the root mean square of each matrix."""

SECONDS = 120.0
"""Between two checkpoints."""


def distilled(
    student: nn.Module,
    teacher: nn.Module,
    fit: Int[Tensor, "n t"],
    check: Int[Tensor, "k t"],
    *,
    steps: int,
    seed: int = 0,
    kept: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> tuple[float, float]:
    """Train a converted model's MLPs on KL(teacher ‖ student) of the next token; the student is changed in place.

    It ends as it was where the divergence on the texts that are set aside did not fall. In several processes torch's
    DistributedDataParallel averages the gradients; each has its share of a step's texts.

    Args:
        student: of transformers, as `assembled` makes it; teacher: the original.
        fit: texts to train on, one per row; check: texts that are set aside.
        steps: of AdamW; seed: of the order of texts.
        kept: file of a checkpoint, from which a run that was stopped goes on; settings: what it must have been asked
            for.
        progress: whether to show a bar.

    Returns:
        (KL on the texts that are set aside before, and after), in nats per token.

    Raises:
        StoreError: the checkpoint is damaged, or of a run with other settings.
    """
    steps = whole("steps", steps, 1)
    mlps = _mlps(student)
    start = [value.detach().clone() for value in mlps.parameters()]
    before = divergence(student, teacher, check)
    needed = [value.requires_grad for value in student.parameters()]
    for value in student.parameters():
        value.requires_grad_(False)
    groups = []
    for value in mlps.parameters():
        value.requires_grad_()
        rate = RATE * max(float(value.detach().square().mean().sqrt()), 1e-3)
        groups.append({"params": [value], "lr": rate, "initial_lr": rate})
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0, fused=True)
    done = 0
    if kept is not None:
        done, _ = checkpoint.load(kept, mlps, optimizer, settings=settings or {})
    model = student if ranks.size() == 1 else DistributedDataParallel(student)
    each = max(1, TEXTS // ranks.size())
    pace = checkpoint.Pace()
    with bar("distillation", steps, done=done, show=progress and ranks.lead()) as step:
        for number in range(done, steps):
            texts = _texts(len(fit), number, each * ranks.size(), seed)[ranks.rank() :: ranks.size()]
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * (1 + math.cos(math.pi * number / steps)) / 2
            optimizer.zero_grad()
            tokens = fit[texts].to(next(mlps.parameters()).device)
            with torch.no_grad():
                aim = _logs(teacher, tokens)
            loss = functional.kl_div(_logs(model, tokens), aim, reduction="batchmean", log_target=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step(1, kl=float(loss.detach()))
            if kept is not None and ranks.agreed(pace.due(SECONDS)):
                _save(pace, kept, mlps, optimizer, done=number + 1, settings=settings or {})
    for value, need in zip(student.parameters(), needed, strict=True):
        value.requires_grad_(need)
    after = divergence(student, teacher, check)
    if not after < before:
        with torch.no_grad():
            for value, old in zip(mlps.parameters(), start, strict=True):
                value.copy_(old)
        return before, before
    return before, after


def divergence(student: nn.Module, teacher: nn.Module, tokens: Int[Tensor, "n t"]) -> float:
    """The mean KL(teacher ‖ student) per token, over all processes' shares of some texts."""
    sums = torch.zeros(2, dtype=torch.float64)
    where = next(student.parameters()).device
    with torch.no_grad():
        for text in tokens[ranks.rank() :: ranks.size()]:
            given = text[None].to(where)
            aim = _logs(teacher, given)
            part = functional.kl_div(_logs(student, given), aim, reduction="sum", log_target=True)
            sums += torch.tensor([float(part), len(aim)], dtype=torch.float64)
    ranks.add([sums])
    return float(sums[0] / sums[1])


def _logs(model: nn.Module, tokens: Tensor) -> Tensor:
    """The logarithms of the odds of each next token, one row per token."""
    logits: Tensor = model(input_ids=tokens, use_cache=False).logits
    return logits[:, :-1].float().log_softmax(dim=-1).flatten(0, 1)


def _mlps(model: nn.Module) -> nn.ModuleList:
    """The bilinear MLPs of a model, in the order of layers."""
    live = gated.load(model)
    found = [
        model.get_submodule(owner(place.name(place.layout.gate), place.name(place.layout.down)))
        for entry, place in zip(live.entries(), live.places.values(), strict=True)
        if entry.bilinear
    ]
    return nn.ModuleList(found)


def _texts(count: int, step: int, size: int, seed: int) -> Tensor:
    """The numbers of a step's texts: of an endless row of orders of all texts, each drawn from the seed."""
    places = [step * size + place for place in range(size)]
    orders = {
        turn: torch.randperm(count, generator=torch.Generator().manual_seed(derived(seed, turn)))
        for turn in {place // count for place in places}
    }
    return torch.stack([orders[place // count][place % count] for place in places])


def _save(
    pace: checkpoint.Pace,
    kept: str | Path,
    mlps: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    done: int,
    settings: Mapping[str, Any],
) -> None:
    if ranks.lead():
        pace.write(lambda: checkpoint.save(kept, mlps, optimizer, done=done, settings=settings))


__all__ = ["RATE", "TEXTS", "distilled", "divergence"]
