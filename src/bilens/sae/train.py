"""Training sparse autoencoders on any stream of vectors: Adam, unit decoder rows, checkpoints, and exact resume."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from bilens._internal import checkpoint as checkpoints
from bilens._internal import checks
from bilens._internal.checks import instance, whole
from bilens._internal.device import product_type
from bilens.errors import BilensError, ShapeError
from bilens.history import History
from bilens.progress import bar
from bilens.sae._processes import Processes
from bilens.sae._run import Run, lay_out_like_parameters
from bilens.sae.architectures import StandardSAE, TopKSAE
from bilens.sae.base import SAE
from bilens.sae.streams import Stream, as_stream, plain
from bilens.schedules import trapezoid

_SECONDS_BETWEEN_REPORTS = 0.5
"""How often the numbers beside the progress bar are read from the device; no step waits for it otherwise."""

_POINTS = 100
"""Rows of the history at most, plus one."""


def train(
    sae: SAE,
    stream: Stream | Iterable[Any],
    *,
    steps: int,
    lr: float = 3e-3,
    l1: float = 0.0,
    similarity: float = 0.0,
    warmup: float = 0.05,
    decay: float = 0.5,
    clip: float | None = None,
    normalize: bool = True,
    unit_rows: bool = True,
    precision: Literal["bfloat16"] | None = None,
    checkpoint: str | Path | None = None,
    processes: Processes | None = None,
    progress: bool = True,
    title: str = "training",
    device: str | None = None,
) -> History:
    """Train an SAE in place on a stream of vectors, and leave it on the device.

    Examples:
        >>> from bilens import sae
        >>> vectors = torch.randn(1000, 8, generator=torch.Generator().manual_seed(0))
        >>> autoencoder = sae.TopKSAE(8, 32, k=4)
        >>> history = sae.train(autoencoder, sae.TensorStream(vectors, 100), steps=300, progress=False, device="cpu")
        >>> bool(sae.nmse(vectors, autoencoder(vectors)) < 0.2)
        True

    The loss is the mean over a batch of ‖s x − x̂‖² + l1 Σ_k |a_k| ‖w_k‖, w_k the rows of the decoder, plus
    similarity · (Σ_{i≠j} |cos_ij|^10)^{1/10} over them. With `normalize`, s makes the mean of ‖s x‖² over the first
    batch equal to d_in, so that `lr`, `l1` and `similarity` mean the same whatever the units of x; s is folded into the
    biases when training ends, and the SAE acts on x itself. Without it, s = 1.

    The rows of the decoder have norm 1 throughout: the part of the gradient along each row is removed, and the rows are
    scaled back after each step. With `unit_rows=False` they are free. An SAE whose b_dec is 0 is new: b_dec begins as
    the mean of the first batch.

    Batches depend on the step alone, so that a run that was killed and started again with the same arguments ends with
    the same weights as one that was not: bit for bit on a CPU, with as many threads, when the stream gives the same
    batches.

    Args:
        sae: a StandardSAE or a TopKSAE, with its own seed for the first weights.
        stream: activations (`TensorStream`), pair vectors (`bilens.pairs.stream`), any object with `width`, `rows`,
            `len` and `batch(n)`, or batches that can be iterated again, such as a DataLoader.
        steps: updates; one batch each.
        lr: Adam's learning rate at its highest.
        l1: weight of the L1 penalty on the codes; similarity: weight of the p = 10 penalty on the decoder's cosines.
        warmup, decay: fractions of the steps in which lr rises linearly from 0 and falls linearly to 0.
        clip: the norm of all gradients together above which they are scaled down to it; never when None.
        normalize: whether to scale the stream while training.
        unit_rows: whether the rows of the decoder keep norm 1. Free rows need `l1` to see their norms, as it does.
        precision: "bfloat16" rounds the factors of dense products to it; weights, Adam's state, sums and losses keep
            the type of the weights. None rounds nothing.
        checkpoint: a file to continue from when it exists and to write to: every few seconds, at the end, on Ctrl-C.
            It stays when training is done, and then gives the trained weights and the history at once; delete it when
            they are saved. A checkpoint of other arguments, or of a stream of other sizes or scale, is refused.
        processes: `sae.distributed.Ranks()` in each of the processes that `torchrun` started; None trains in this one.
        progress: whether to show a bar with loss, NMSE, L0 and time left.
        title: of the bar.
        device: a torch device, or None for CUDA, then MPS, then the CPU.

    Returns:
        At most about 100 rows, each over the steps since the row before: "loss" is the mean over batches; "nmse" is
        Σ‖x − x̂‖² / Σ‖x‖² and "l0" the mean number of active features, over all of their vectors; "dead" is the fraction
        of the features that were 0 on every vector seen in them.

    Raises:
        ShapeError: a stream of another width. StoreError: a checkpoint of another run, or damaged.
        BilensError: an architecture that is not trained here, a number out of range, a precision that the device does
            not have, vectors that are all 0, not finite or not dense floating-point tensors in memory, or a loss that
            is no longer finite.

    Source: founding draft, "MNIST SAE features"; the norm's scale and free rows as in SAELens.
    """
    return train_many(
        [sae],
        stream,
        steps=steps,
        lr=lr,
        l1=l1,
        similarity=similarity,
        warmup=warmup,
        decay=decay,
        clip=clip,
        normalize=normalize,
        unit_rows=unit_rows,
        precision=precision,
        checkpoint=checkpoint,
        processes=processes,
        progress=progress,
        title=title,
        device=device,
    )[0]


def train_many(
    saes: Sequence[SAE],
    stream: Stream | Iterable[Any],
    *,
    steps: int,
    lr: float | Sequence[float] = 3e-3,
    l1: float | Sequence[float] = 0.0,
    similarity: float | Sequence[float] = 0.0,
    warmup: float = 0.05,
    decay: float = 0.5,
    clip: float | None = None,
    normalize: bool = True,
    unit_rows: bool = True,
    precision: Literal["bfloat16"] | None = None,
    checkpoint: str | Path | None = None,
    processes: Processes | None = None,
    progress: bool = True,
    title: str = "training",
    device: str | None = None,
) -> list[History]:
    """Train several SAEs on one stream, each exactly as `train` does it alone, making each batch once.

    Useful when batches are expensive to produce: pair vectors, activations of a model, files. SAEs may differ in
    architecture, d_sae, k, seed, and in `lr`, `l1` and `similarity`, which are one number for all or one per SAE. The
    numbers beside the bar are the first SAE's.

    Args, Returns and Raises: as `train`; one checkpoint holds all SAEs, and one history per SAE is returned.

    Raises:
        BilensError: no SAE, one given twice, SAEs of several types, or not one number per SAE.
    """
    saes = checks.several("SAEs", saes, "a list of SAEs", "pass [sae], or use train")
    if not saes or len({id(sae) for sae in saes}) < len(saes):
        raise BilensError(f"{len(saes)} SAEs, one of them twice" if saes else "no SAE", "different SAEs")
    for sae in saes:
        if not isinstance(sae, (StandardSAE, TopKSAE)):
            raise BilensError(f"a {type(sae).__name__}", "a StandardSAE or a TopKSAE", "train one of these")
    dtypes = sorted({str(sae.W_dec.dtype).removeprefix("torch.") for sae in saes})
    if len(dtypes) > 1:
        raise BilensError(f"SAEs of types {' and '.join(dtypes)}", "one type")
    rates, penalties, similarities = (
        _one_each(name, value, len(saes)) for name, value in (("lr", lr), ("l1", l1), ("similarity", similarity))
    )
    steps = whole("steps", steps, 1)
    warmup, decay = (checks.number(name, share, 0, 1) for name, share in (("warmup", warmup), ("decay", decay)))
    clip = None if clip is None else checks.number("clip", clip, above=0)
    normalize, unit_rows, progress = (
        checks.flag(name, value)
        for name, value in (("normalize", normalize), ("unit_rows", unit_rows), ("progress", progress))
    )
    checkpoint = None if checkpoint is None else checks.path("checkpoint", checkpoint)
    stream = as_stream(stream)
    for sae in saes:
        if stream.width != sae.d_in:
            raise ShapeError(
                f"a stream of vectors of {stream.width} coordinates",
                f"{sae.d_in}, the SAE's d_in",
            )
    processes = Processes() if processes is None else processes
    instance("processes", processes, Processes, "sae.distributed.Ranks() or None", "leave it out for one process")
    where = processes.device(device)
    products = product_type(precision, where)
    for sae in saes:
        checks.weights("W_dec", sae.W_dec)
        sae.to(where)
    with torch.no_grad():
        first = plain(stream.batch(0)).to(where, saes[0].W_dec.dtype)
        power = float(first.square().sum(dim=1).mean())
    if not (power > 0 and math.isfinite(power)):
        raise BilensError(
            f"a first batch with a mean squared norm of {power}",
            "finite vectors that are not all 0",
        )
    scale = math.sqrt(saes[0].d_in / power) if normalize else 1.0
    every = max(1, steps // _POINTS)
    runs = [
        Run(sae, lr=rate, l1=penalty, similarity=cosines, every=every, where=where)
        for sae, rate, penalty, cosines in zip(saes, rates, penalties, similarities, strict=True)
        if isinstance(sae, (StandardSAE, TopKSAE))
    ]
    optimizer = torch.optim.Adam(
        [{"params": list(run.sae.parameters())} for run in runs], fused=where.type in ("cpu", "cuda")
    )
    module = nn.ModuleList(saes)
    settings: dict[str, Any] = {
        "architecture": [sae.architecture for sae in saes],
        "sae": [{"d_in": sae.d_in, "d_sae": sae.d_sae, "seed": sae.seed, **sae.settings} for sae in saes],
        "lr": rates,
        "l1": penalties,
        "similarity": similarities,
    }
    if len(saes) == 1:
        settings = {name: values[0] for name, values in settings.items()}
    settings |= {
        "stream": {"width": stream.width, "batches": len(stream), "first batch": f"{power:.4g}"},
        "steps": steps,
        "warmup": warmup,
        "decay": decay,
        "clip": clip,
        "normalize": normalize,
        "unit_rows": unit_rows,
        "precision": precision,
    }
    done, logged = 0, list[int]()
    if checkpoint is not None:
        done, extra = processes.load(checkpoint, module, optimizer, settings=settings)
        lay_out_like_parameters(optimizer)
        if done:
            logged = extra["logged"].tolist()
            for number, run in enumerate(runs):
                run.restore(extra, number, keep_sums=processes.lead)
    if done == 0:
        for run in runs:
            run.begin(first, scale, unit_rows)
        processes.equal([value.detach() for value in module.parameters()])

    def save() -> None:
        if checkpoint is not None:
            extra = {"logged": torch.tensor(logged, dtype=torch.int64)}
            for number, run in enumerate(runs):
                extra |= run.collect(number, processes)
            processes.save(checkpoint, module, optimizer, done=done, settings=settings, extra=extra)

    between_updates = True
    try:
        with torch.no_grad(), bar(title, steps, done=done, show=progress and processes.lead) as step:
            pace, reported, reported_at, ahead = checkpoints.Pace(), time.monotonic(), done, 1
            while done < steps:
                factor = trapezoid(done, steps, warmup, decay)
                for group, run in zip(optimizer.param_groups, runs, strict=True):
                    group["lr"] = run.lr * factor
                rows, size = processes.share(stream, done)
                rows = plain(rows)
                if size < 1 or rows.ndim != 2 or rows.shape[1] != stream.width:
                    raise ShapeError(
                        f"batch {done}, of which this process has {tuple(rows.shape)}",
                        f"(vectors, {stream.width}), at least one vector",
                    )
                x = rows.to(where, first.dtype, non_blocking=True) * scale
                power_here = x.square().sum()
                filled = done - (logged[-1] if logged else 0)
                found = [run.gradients(x, size, products) for run in runs]
                processes.add([gradient for run in runs for gradient in run.given()])
                between_updates = False
                for run in runs:
                    run.regularise(clip, unit_rows, processes.lead)
                optimizer.step()
                for run, sums in zip(runs, found, strict=True):
                    if unit_rows:
                        run.scale_back()
                    run.note(filled, sums, power_here, len(x))
                done += 1
                if done % every == 0 or done == steps:
                    logged.append(done)
                    for run in runs:
                        run.log(filled + 1, processes)
                between_updates = True
                if done - reported_at < ahead and done < steps:
                    continue
                numbers = [run.latest(filled, processes).tolist() for run in runs]
                clock = time.monotonic()
                for loss, *_ in numbers:
                    if not math.isfinite(loss):
                        raise BilensError(
                            f"a loss of {loss} at step {done} of {steps}",
                            "a finite loss",
                            f"use a learning rate below {max(rates):g}, or check the vectors",
                        )
                step(done - reported_at, loss=numbers[0][0], nmse=numbers[0][1], l0=numbers[0][2])
                save_now = done == steps or pace.due(checkpoints.SECONDS_BETWEEN_CHECKPOINTS)
                in_time = (done - reported_at) * _SECONDS_BETWEEN_REPORTS / max(clock - reported, 1e-9)
                ahead, write = processes.agree([max(1, int(min(in_time, 2.0 * ahead))), int(save_now)])
                reported, reported_at = clock, done
                if write:
                    pace.write(save)
    except KeyboardInterrupt:
        if between_updates and processes.size == 1:  # several would not stop at the same step
            save()
        raise
    finally:
        for run in runs:
            run.end(scale)
    return [run.history(logged) for run in runs]


def _one_each(name: str, value: float | Sequence[float], count: int) -> list[float]:
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value] * count
    if len(values) != count:
        raise BilensError(f"{len(values)} values of {name}", f"one, or {count}: one per SAE")
    if name == "lr":
        return [checks.number(name, each, above=0) for each in values]
    return [checks.number(name, each, 0) for each in values]
