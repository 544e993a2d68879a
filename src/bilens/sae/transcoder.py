"""Training transcoders: coders that predict other vectors than those they encode, such as an MLP's output."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bilens._internal import checkpoint as checkpoints
from bilens._internal import checks
from bilens._internal.checks import flag, instance, number, whole
from bilens.errors import BilensError, ShapeError
from bilens.history import History
from bilens.progress import bar
from bilens.sae._processes import Processes
from bilens.sae._run import lay_out_like_parameters
from bilens.sae.coder import Coder
from bilens.sae.streams import Stream, as_stream, plain
from bilens.schedules import trapezoid

KINDS = ("standard", "topk")
"""Rules for codes of the transcoders that are trained here."""

_NAMES, _POINTS = ("loss", "nmse", "l0", "dead"), 100


def train_transcoder(
    coder: Coder,
    stream: Stream | Iterable[Any],
    *,
    steps: int,
    lr: float = 3e-3,
    l1: float = 0.0,
    warmup: float = 0.05,
    decay: float = 0.5,
    checkpoint: str | Path | None = None,
    processes: Processes | None = None,
    progress: bool = True,
    title: str = "training",
    device: str | None = None,
) -> History:
    """Train a transcoder in place on rows [x, y], side by side, and leave it on the device.

    Examples:
        >>> from bilens import sae
        >>> x = torch.randn(1000, 8, generator=torch.Generator().manual_seed(0))
        >>> rows = torch.cat([x, x.square()[:, :4]], dim=1)
        >>> transcoder = sae.Coder(8, 32, "standard", d_out=4, transcodes=True)
        >>> history = sae.train_transcoder(
        ...     transcoder, sae.TensorStream(rows, 100), steps=300, progress=False, device="cpu"
        ... )
        >>> bool(sae.nmse(x.square()[:, :4], transcoder(x)) < 0.5)
        True

    The loss is the mean over a batch of ‖t y − ŷ‖² + l1 Σ_k |a_k| ‖w_k‖, with ŷ the prediction for s x; s and t make
    the mean of ‖s x‖² and of ‖t y‖² over the first batch equal to d_in and d_out, and are folded into the weights at
    the end. The rows of the decoder have norm 1 throughout, as in `train`; a transcoder whose b_dec is 0 is new, and
    its b_dec begins as the mean of the first batch's y.

    Batches depend on the step alone: a run that was killed and started again with the same arguments ends with the same
    weights as one that was not, bit for bit on a CPU with as many threads.

    Args:
        coder: a `Coder` of the rule "standard" (ReLU) or "topk" that transcodes, without normalisation or skip.
        stream: rows of d_in + d_out numbers, as `activations.stream` gives for ("mlp_in", "mlp_out").
        steps, lr, l1, warmup, decay, checkpoint, processes, progress, title, device: as `train`.

    Returns:
        As `train`; "nmse" is Σ‖y − ŷ‖² / Σ‖y‖².

    Raises:
        BilensError: another coder, a number out of range, vectors that are all 0 or not finite, or a loss that is no
            longer finite. ShapeError: rows of another width. StoreError: a checkpoint of another run.

    Source: Dunefsky, Chlenski and Nanda, arXiv 2406.11944.
    """
    _check(coder)
    steps, lr, l1 = whole("steps", steps, 1), number("lr", lr, above=0), number("l1", l1, 0)
    warmup, decay = number("warmup", warmup, 0, 1), number("decay", decay, 0, 1)
    progress, stream = flag("progress", progress), as_stream(stream)
    if stream.width != coder.d_in + coder.d_out:
        raise ShapeError(
            f"a stream of rows of {stream.width} numbers", f"{coder.d_in} + {coder.d_out}, what is read and predicted"
        )
    processes = Processes() if processes is None else processes
    instance("processes", processes, Processes, "sae.distributed.Ranks() or None", "leave it out for one process")
    where = processes.device(device)
    coder.to(where)
    first = plain(stream.batch(0)).to(where, coder.W_dec.dtype)
    powers = [float(part.square().sum(dim=1).mean()) for part in torch.split(first, [coder.d_in, coder.d_out], dim=1)]
    if not all(power > 0 and math.isfinite(power) for power in powers):
        raise BilensError(f"a first batch with mean squared norms of {powers}", "finite vectors that are not all 0")
    s, t = (math.sqrt(size / power) for size, power in zip((coder.d_in, coder.d_out), powers, strict=True))
    optimizer = torch.optim.Adam(coder.parameters(), fused=where.type in ("cpu", "cuda"))
    settings = {
        "coder": {"d_in": coder.d_in, "d_sae": coder.d_sae, "seed": coder.seed, **coder.settings},
        "stream": {"width": stream.width, "batches": len(stream), "first batch": [f"{power:.4g}" for power in powers]},
        "steps": steps,
        "lr": lr,
        "l1": l1,
        "warmup": warmup,
        "decay": decay,
    }
    every = max(1, steps // _POINTS)
    sums = torch.zeros(5, dtype=torch.float64, device=where)  # loss, error, power, active codes, vectors
    fired = torch.zeros(coder.d_sae, dtype=torch.float64, device=where)
    rows, logged, done = list[Tensor](), list[int](), 0
    if checkpoint is not None:
        checkpoint = checks.path("checkpoint", checkpoint)
        done, extra = processes.load(checkpoint, coder, optimizer, settings=settings)
        lay_out_like_parameters(optimizer)
        if done:
            logged, rows = extra["logged"].tolist(), list(extra["rows"].to(where))
            if processes.lead:  # one process alone keeps the sums over all
                sums, fired = extra["sums"].to(where), extra["fired"].to(where)
    if done == 0:
        _begin(coder, first[:, coder.d_in :] * t)
        processes.equal([value.detach() for value in coder.parameters()])

    def save() -> None:
        if checkpoint is None:
            return
        now = [sums.clone(), fired.clone()]
        processes.add(now)
        extra = {"logged": torch.tensor(logged, dtype=torch.int64), "sums": now[0], "fired": now[1]}
        extra["rows"] = torch.stack(rows) if rows else torch.zeros(0, len(_NAMES), dtype=torch.float64)
        processes.save(checkpoint, coder, optimizer, done=done, settings=settings, extra=extra)

    between = True
    try:
        with bar(title, steps, done=done, show=progress and processes.lead) as step:
            pace = checkpoints.Pace()
            while done < steps:
                for group in optimizer.param_groups:
                    group["lr"] = lr * trapezoid(done, steps, warmup, decay)
                found, size = processes.share(stream, done)
                x, y = torch.split(plain(found).to(where, first.dtype), [coder.d_in, coder.d_out], dim=1)
                numbers, active = _backward(coder, x * s, y * t, l1, size)
                processes.add([value.grad for value in coder.parameters() if value.grad is not None])
                between = False
                _step(coder, optimizer)
                sums, fired = sums + numbers, fired + active
                done += 1
                if done % every == 0 or done == steps:
                    logged.append(done)
                    processes.add([sums, fired])
                    loss, error, power, codes, vectors = sums
                    dead = (fired == 0).double().mean()
                    rows.append(torch.stack([loss / vectors, error / power, codes / vectors, dead]))
                    if not math.isfinite(float(loss)):
                        raise BilensError(
                            f"a loss of {float(loss)} at step {done}", "a finite loss", f"use lr below {lr:g}"
                        )
                    sums, fired = torch.zeros_like(sums), torch.zeros_like(fired)
                    latest = dict(zip(_NAMES, rows[-1].tolist(), strict=True))
                    step(0, **{name: latest[name] for name in _NAMES[:3]})
                between = True
                step(1)
                (write,) = processes.agree([int(done == steps or pace.due(checkpoints.SECONDS_BETWEEN_CHECKPOINTS))])
                if write:
                    pace.write(save)
    except KeyboardInterrupt:
        if between and processes.size == 1:
            save()
        raise
    finally:
        _end(coder, s, t)
    return History(_NAMES, torch.tensor(logged), torch.stack(rows).cpu() if rows else torch.zeros(0, 4).double())


def _check(coder: Coder) -> None:
    instance("coder", coder, Coder, "a Coder that transcodes", "make one with sae.Coder(…, transcodes=True)")
    plain = coder.normalization == "none" and coder.W_skip is None and not coder.apply_b_dec_to_input
    if not coder.transcodes or coder.architecture not in KINDS or not plain:
        raise BilensError(
            f"a coder of the kind {coder.architecture!r}" + ("" if coder.transcodes else " that does not transcode"),
            f"a plain transcoder of the kind {' or '.join(KINDS)}",
        )
    checks.weights("W_dec", coder.W_dec)


@torch.no_grad()
def _begin(coder: Coder, y: Tensor) -> None:
    norms = coder.W_dec.norm(dim=1, keepdim=True)
    coder.W_dec.div_(torch.where(norms > 0, norms, 1))
    if not bool(coder.b_dec.any()):
        coder.b_dec.copy_(y.mean(dim=0))


def _backward(coder: Coder, x: Tensor, y: Tensor, l1: float, size: int) -> tuple[Tensor, Tensor]:
    """Gradients of this process's share of the loss, left where Adam looks for them; its sums, and uses of codes."""
    with torch.enable_grad():
        coder.zero_grad(set_to_none=False)
        acts = coder.encode(x)
        error = (acts @ coder.W_dec + coder.b_dec - y).square().sum()
        penalty = (acts.abs() * coder.W_dec.norm(dim=1)).sum() if l1 > 0 else error.new_zeros(())
        loss = error + l1 * penalty
        torch.autograd.backward(loss / size)
    with torch.no_grad():
        on = (acts != 0).double().sum(dim=0)
        counts = on.new_tensor(float(len(x)))
        numbers = torch.stack([loss.double(), error.double(), y.double().square().sum(), on.sum(), counts])
    return numbers.detach(), on


@torch.no_grad()
def _step(coder: Coder, optimizer: torch.optim.Optimizer) -> None:
    rows = coder.W_dec
    if rows.grad is not None:
        rows.grad.addcmul_((rows.grad * rows).sum(dim=1, keepdim=True), rows, value=-1)
    optimizer.step()
    rows.div_(rows.norm(dim=1, keepdim=True).clamp_min_(torch.finfo(rows.dtype).tiny))


@torch.no_grad()
def _end(coder: Coder, s: float, t: float) -> None:
    """Fold the scales: ŷ of s x over t is that of x with other encoders and biases, because codes grow with both."""
    coder.W_enc.mul_(s / t)
    coder.b_enc.div_(t)
    coder.b_dec.div_(t)
    for value in coder.parameters():
        value.grad = None


__all__ = ["KINDS", "train_transcoder"]
