"""Training a sparse autoencoder on any stream of vectors: Adam, unit decoder rows, checkpoints, and exact resume."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bilens import checkpoint as checkpoints
from bilens import device as devices
from bilens.errors import BilensError, ShapeError
from bilens.history import History
from bilens.progress import bar
from bilens.sae.coder import Coder, StandardSAE, TopKSAE
from bilens.sae.metrics import decoder_similarity
from bilens.sae.streams import Stream, as_stream

SECONDS_BETWEEN_CHECKPOINTS = 5.0
"""How much work a killed run loses at most, where a checkpoint is written in a twentieth of it."""

_SECONDS_BETWEEN_REPORTS = 0.5
"""How often the numbers beside the progress bar are read from the device; no step waits for it otherwise."""

_POINTS = 100
"""Rows of the history at most, plus one."""


def train(
    coder: Coder,
    stream: Stream | Iterable[Any],
    *,
    steps: int,
    lr: float = 3e-3,
    l1: float = 0.0,
    similarity: float = 0.0,
    warmup: float = 0.05,
    decay: float = 0.5,
    normalize: bool = True,
    checkpoint: str | Path | None = None,
    progress: bool = True,
    title: str = "training",
    device: str | None = None,
) -> History:
    """Train a coder in place on a stream of vectors, and leave it on the device.

    The loss is the mean over a batch of ‖s x − x̂‖² + l1 Σ_k |a_k|, plus similarity · (Σ_{i≠j} |cos_ij|^10)^{1/10} over
    the decoder. With `normalize`, s makes the mean of ‖s x‖² over the first batch equal to d_in, so that `lr`, `l1` and
    `similarity` mean the same whatever the units of x; s is folded into the biases when training ends, and the coder
    acts on x itself. Without it, s = 1.

    The rows of the decoder have norm 1 throughout: the part of the gradient along each row is removed, and the rows are
    scaled back after each step. A coder whose b_dec is 0 is new: b_dec begins as the mean of the first batch.

    Batches depend on the step alone, so that a run that was killed and started again with the same arguments ends with
    the same weights as one that was not: bit for bit on a CPU, with as many threads, when the stream gives the same
    batches.

    Args:
        coder: a StandardSAE or a TopKSAE, with its own seed for the first weights.
        stream: activations (`TensorStream`), pair vectors (`bilens.pairs.stream`), any object with `width`, `rows`,
            `len` and `batch(n)`, or batches that can be iterated again, such as a DataLoader.
        steps: updates; one batch each.
        lr: Adam's learning rate at its highest.
        l1: weight of the L1 penalty on the codes; similarity: weight of the p = 10 penalty on the decoder's cosines.
        warmup, decay: fractions of the steps in which lr rises linearly from 0 and falls linearly to 0.
        normalize: whether to scale the stream while training.
        checkpoint: a file to continue from when it exists and to write to: every few seconds, at the end, on Ctrl-C.
            It stays when training is done, and then gives the trained weights and the history at once; delete it when
            they are saved. A checkpoint of other arguments, or of a stream of other sizes or scale, is refused.
        progress: whether to show a bar with loss, NMSE, L0 and time left.
        title: of the bar.
        device: a torch device, or None for CUDA, then MPS, then the CPU.

    Returns:
        At most about 100 rows, each over the steps since the row before: "loss", "nmse" and "l0" are means over
        batches; "dead" is the fraction of the features that were 0 on every vector seen in them.

    Raises:
        ShapeError: a stream of another width. StoreError: a checkpoint of another run, or damaged.
        BilensError: an architecture that is not trained here, a number out of range, vectors that are all 0 or not
            finite, or a loss that is no longer finite.

    Source: founding draft, "MNIST SAE features"; the norm's scale as in SAELens.
    """
    _check_settings(steps=steps, lr=lr, l1=l1, similarity=similarity, warmup=warmup, decay=decay)
    if not isinstance(coder, (StandardSAE, TopKSAE)):
        raise BilensError(f"a {type(coder).__name__}", "a StandardSAE or a TopKSAE", "train one of these")
    stream = as_stream(stream)
    if stream.width != coder.d_in:
        raise ShapeError(
            f"a stream of vectors of {stream.width} coordinates",
            f"{coder.d_in}, the coder's d_in",
            "change one of them",
        )
    where = devices.choose(device)
    coder.to(where)
    dtype = coder.W_dec.dtype
    first = stream.batch(0).to(where, dtype)
    power = float(first.square().sum(dim=1).mean())
    if not (power > 0 and math.isfinite(power)):
        raise BilensError(
            f"a first batch with a mean squared norm of {power}",
            "finite vectors that are not all 0",
            "check the stream",
        )
    scale = math.sqrt(coder.d_in / power) if normalize else 1.0

    optimizer = torch.optim.Adam(coder.parameters(), lr=lr, fused=where.type in ("cpu", "cuda"))
    names = ("loss", "nmse", "l0", "dead")
    every = max(1, steps // _POINTS)
    settings: dict[str, Any] = {}
    done, extra = 0, dict[str, Tensor]()
    if checkpoint is not None:
        settings = {
            "architecture": coder.architecture,
            "coder": {"d_in": coder.d_in, "d_sae": coder.d_sae, **coder.settings},
            "stream": {"width": stream.width, "batches": len(stream), "first batch": f"{power:.4g}"},
            "steps": steps,
            "lr": lr,
            "l1": l1,
            "similarity": similarity,
            "warmup": warmup,
            "decay": decay,
            "normalize": normalize,
        }
        done, extra = checkpoints.load(checkpoint, coder, optimizer, settings=settings)
        _lay_out_like_parameters(optimizer)
    if done == 0:
        _unit_rows(coder)
        with torch.no_grad():
            if not bool(coder.b_dec.any()):
                coder.b_dec.copy_(first.mean(dim=0))
            coder.rescale(scale)
    steps_logged = extra.get("steps", torch.zeros(0, dtype=torch.int64)).tolist()
    rows = list(extra.get("rows", torch.zeros(0, len(names))).to(where))
    sums = extra.get("sums", torch.zeros(3)).to(where)  # of loss, NMSE and L0 since the last row
    fired = extra.get("fired", torch.zeros(coder.d_sae)).to(where)  # how often each feature was not 0 since then

    def save() -> None:
        if checkpoint is not None:
            kept = {
                "steps": torch.tensor(steps_logged, dtype=torch.int64),
                "rows": torch.stack(rows) if rows else torch.zeros(0, len(names)),
                "sums": sums,
                "fired": fired,
            }
            checkpoints.save(checkpoint, coder, optimizer, done=done, settings=settings, extra=kept)

    between_updates = True
    try:
        with torch.enable_grad(), bar(title, steps, done=done, show=progress) as step:
            pace, reported = checkpoints.Pace(), time.monotonic()
            reported_at = done
            while done < steps:
                x = stream.batch(done).to(where, dtype) * scale
                for group in optimizer.param_groups:
                    group["lr"] = lr * _factor(done, steps, warmup, decay)
                codes = coder.sparse(x)
                error = (x - codes.x_hat).square().sum()
                loss = error / len(x)
                if l1 > 0:
                    loss = loss + l1 * codes.values.abs().sum() / len(x)
                if similarity > 0:
                    loss = loss + similarity * decoder_similarity(coder.W_dec)
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(loss)
                with torch.no_grad():
                    features, uses = codes.uses()
                    now = torch.stack([loss, error / x.square().sum(), uses.sum() / len(x)])
                    between_updates = False
                    _step(optimizer, coder.W_dec)
                    sums += now
                    fired.index_add_(0, features, uses.to(fired))
                done += 1
                if done % every == 0 or done == steps:
                    window = done - (steps_logged[-1] if steps_logged else 0)
                    steps_logged.append(done)
                    rows.append(torch.cat([sums / window, (fired == 0).float().mean()[None]]))
                    sums.zero_()
                    fired.zero_()
                between_updates = True
                clock = time.monotonic()
                if clock - reported >= _SECONDS_BETWEEN_REPORTS or done == steps:
                    numbers = now.tolist()
                    if not all(math.isfinite(number) for number in numbers):
                        raise BilensError(
                            f"a loss of {numbers[0]} at step {done} of {steps}",
                            "a finite loss",
                            f"use a learning rate below {lr:g}, or check the vectors",
                        )
                    step(done - reported_at, loss=numbers[0], nmse=numbers[1], l0=numbers[2])
                    reported, reported_at = clock, done
                    if done == steps or pace.due(SECONDS_BETWEEN_CHECKPOINTS):
                        pace.write(save)
    except KeyboardInterrupt:
        if between_updates:
            save()
        raise
    finally:
        coder.rescale(1 / scale)
    values = torch.stack(rows).cpu().double() if rows else torch.zeros(0, len(names), dtype=torch.float64)
    return History(names, torch.tensor(steps_logged), values)


@torch.no_grad()
def _step(optimizer: torch.optim.Optimizer, rows: Tensor) -> None:
    """One update that keeps the rows of the decoder at norm 1."""
    if rows.grad is not None:
        along = torch.linalg.vecdot(rows.grad, rows)[:, None]
        rows.grad.addcmul_(along, rows, value=-1)
    optimizer.step()
    rows.div_(torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min_(torch.finfo(rows.dtype).tiny))


@torch.no_grad()
def _unit_rows(coder: StandardSAE | TopKSAE) -> None:
    """Decoder rows of norm 1, the norms moved into the encoder: x̂ stays where the same features are chosen."""
    norm = coder.W_dec.norm(dim=1)
    norm = torch.where(norm > 0, norm, 1)
    coder.W_dec.div_(norm[:, None])
    coder.W_enc.mul_(norm)
    coder.b_enc.mul_(norm)


def _lay_out_like_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Give the moments that were read from a file the memory layout of their parameters, as the fused Adam expects."""
    for parameter, entry in optimizer.state.items():
        for name, value in entry.items():
            if value.shape == parameter.shape:
                entry[name] = torch.empty_like(parameter).copy_(value)


def _factor(step: int, steps: int, warmup: float, decay: float) -> float:
    rise = (step + 1) / (warmup * steps) if warmup > 0 else 1.0
    fall = (steps - step) / (decay * steps) if decay > 0 else 1.0
    return min(rise, fall, 1.0)


def _check_settings(*, steps: int, lr: float, l1: float, similarity: float, warmup: float, decay: float) -> None:
    if steps < 1:
        raise BilensError(f"steps = {steps}", "at least 1", "choose how many updates to make")
    if not (lr > 0 and math.isfinite(lr)):
        raise BilensError(f"lr = {lr:g}", "a learning rate above 0", "try 0.003")
    for name, value in (("l1", l1), ("similarity", similarity)):
        if not (value >= 0 and math.isfinite(value)):
            raise BilensError(f"{name} = {value:g}", "0 or more", "choose another number")
    for name, value in (("warmup", warmup), ("decay", decay)):
        if not 0 <= value <= 1:
            raise BilensError(f"{name} = {value:g}", "a fraction of the steps from 0 to 1", "choose another number")
