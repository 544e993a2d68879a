"""The command that turns a language model with gated MLPs into one whose MLPs are bilinear."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from torch import distributed as dist
from torch import nn

from bilens import store, text
from bilens._internal import device as devices
from bilens._internal import ranks
from bilens._internal.checkpoint import discard
from bilens._internal.checks import whole
from bilens.analyses import _converted as converted
from bilens.analyses.layers import layout_of
from bilens.analyses.text_statistics import checksum
from bilens.errors import BilensError
from bilens.faithfulness import TextScore
from bilens.models import conversion, gated
from bilens.models.conversion import ConvertedLayer, ConvertedMLP, Sequence, Stack
from bilens.models.gated import original
from bilens.progress import Steps, bar
from bilens.store import Folder

for record in (ConvertedLayer, ConvertedMLP, TextScore):
    store.register(record)

CLOSED = 100
"""What the closed form of a layer counts in steps of Adam, for the time left."""

MODEL, PART = "model", "distillation.part"
"""Names in the folder: the converted model; the checkpoint of a distillation that is not finished."""


def convert(
    model: str,
    /,
    *,
    out: Path,
    text: tuple[str, ...] = (),
    tokens: int = 80_000,
    length: int = 256,
    distill: int = 0,
    end_to_end: int = 0,
    layers: tuple[int, ...] = (),
    curve: bool = False,
    precision: Literal["bfloat16"] | None = None,
    seed: int = 0,
    device: str | None = None,
    layout: str | None = None,
) -> dict[str, Any]:
    """Turn a language model into one whose MLPs are bilinear, layer by layer, and measure what that costs.

    Stopped or killed, the same command goes on with the next layer. Under torchrun each process takes its share of the
    text. Example: bilens convert runs/smollm2 --out runs/bilinear --distill 300

    Args:
        model: a folder of safetensors, a GGUF file, or the name of a model on Hugging Face's hub.
        out: folder for the results; the model itself is in out/model, which transformers opens.
        text: files, folders or data sets to fit to (without any, English text that is found on this machine).
        tokens: of the text, a tenth of them held out.
        length: of a text, in tokens.
        distill: steps of Adam per layer, kept only where they help on tokens that are set aside.
        end_to_end: steps of distillation of the whole model afterwards, kept only where they help.
        layers: numbers of those to convert (all when none is named).
        curve: also measure the model with the costliest layers left as they are.
        precision: bfloat16 rounds the factors of the steps' products to it, which is many times as fast on GPUs and on
            CPUs with matrix units; weights, and all that is measured, stay float32.
        seed: of the choice of held-out text and the order of tokens.
        device: to compute on (CUDA where there is one, else the CPU, when not named).
        layout: for a model of no known family, as in bilens layers.
    """
    started = time.monotonic()
    checkpoint = gated.load(model, layout=layout_of(layout))
    counts = {"tokens": tokens, "length": length, "distill": distill, "end_to_end": end_to_end}
    for name, value in counts.items():
        whole(name.replace("_", "-"), value, 3 if name in ("tokens", "length") else 0)
    wanted = _wanted(layers, len(checkpoint))
    with _processes(device) as where:
        steps = Steps(4 + bool(end_to_end))
        _begin(steps, "reading the model and the text")
        tokenizer = _tokenizer(model)
        split = _split(text, tokenizer, length=length, tokens=tokens, seed=seed)
        stack = Stack(original.original(checkpoint).to(where))
        settings = _settings(checkpoint, stack, split) | {"distill": distill, "layers": list(wanted), "seed": seed}
        if precision is not None:
            settings["precision"] = precision
        run = Folder(out, settings) if ranks.lead() else None
        _begin(steps, f"converting {len(wanted)} of {len(stack)} layers")
        found = _layers(stack, split, run, wanted, steps=distill, seed=seed, precision=precision)
        student = conversion.assembled(stack, {one.mlp.layer: one.mlp for one in found}).to(where)
        distilled: dict[str, Any] | None = None
        if end_to_end:
            _begin(steps, "distillation of the whole model")
            begun, by_layers = time.monotonic(), converted.scores(stack, student, split)
            distilled = _distilled(student, stack, split, out, steps=end_to_end, seed=seed, precision=precision)
            distilled |= {
                "seconds": round(time.monotonic() - begun, 1),
                "before": {name: asdict(score) for name, score in by_layers.items()},
            }
        _begin(steps, "writing the model, and measuring it as transformers opens it")
        if run is not None:
            conversion.save(student, tokenizer, out / MODEL)
        scores = converted.scores(stack, student, split)
        measured = converted.curve(stack, found, split) if curve else ()
        _begin(steps, "numbers, figures and a page of samples")
        if run is None:
            return {}
        summary = converted.summary(
            checkpoint,
            split,
            found,
            scores,
            distilled=distilled,
            measured=measured,
            difference=converted.reopened(
                stack, found, student, out / MODEL, split, trained=bool(distilled and distilled["steps"])
            ),
            tokens=_counts(split),
        )
        run.write(converted.SUMMARY, summary | {"seconds": round(time.monotonic() - started, 1)})
        converted.drawn(out, found, measured)
        converted.samples(out, (stack.model, student), tokenizer, split.held_out, scores)
        discard(out / PART)
        console = Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 200)
        console.print(converted.table(found))
        for line in converted.lines(scores, out, summary):
            console.print(line, soft_wrap=True)
        return summary


def _begin(steps: Steps, title: str) -> None:
    if ranks.lead():
        steps.begin(title)


def _wanted(layers: tuple[int, ...], count: int) -> tuple[int, ...]:
    """The layers to convert, in order, each once."""
    for layer in layers:
        if not 0 <= layer < count:
            raise BilensError(f"--layers {layer}", f"numbers from 0 to {count - 1}")
    return tuple(sorted(set(layers))) or tuple(range(count))


def _tokenizer(model: str) -> Any:
    return text.tokenizer(model)


def _split(sources: tuple[str, ...], tokenizer: Any, *, length: int, tokens: int, seed: int) -> text.Split:
    if sources:
        return text.read(sources, tokenizer, length=length, tokens=tokens, seed=seed)
    return text.default(tokenizer, length=length, tokens=tokens, seed=seed)


@contextlib.contextmanager
def _processes(name: str | None) -> Iterator[torch.device]:
    """The device of this process; under torchrun all of its processes are joined for as long as the block runs."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or not dist.is_available() or dist.is_initialized():
        yield devices.choose(name)
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    cuda = torch.cuda.is_available() and (name is None or name.startswith("cuda"))
    where = torch.device("cuda", local) if cuda else devices.choose(name or "cpu")
    dist.init_process_group("nccl" if cuda else "gloo", device_id=where if cuda else None)
    try:
        yield where
    finally:
        dist.destroy_process_group()


def _settings(checkpoint: gated.Checkpoint, stack: Stack, split: text.Split) -> dict[str, Any]:
    """What the records of a run depend on: all weights of the model and the tokens, by their checksums."""
    return {
        "command": "convert",
        "model": checkpoint.source.title,
        "weights": checksum(*stack.model.state_dict().values()),
        "text": split.described,
        "text_checksum": checksum(split.fit, split.held_out),
    }


def _counts(split: text.Split) -> dict[str, int]:
    return {"fit": split.fit.numel(), "held_out": split.held_out.numel()}


def _layers(
    stack: Stack,
    split: text.Split,
    run: Folder | None,
    wanted: tuple[int, ...],
    *,
    steps: int,
    seed: int,
    precision: Literal["bfloat16"] | None,
) -> list[ConvertedLayer]:
    """Every layer's conversion: read where it is there, else computed and kept, one record for each."""
    there = {layer for layer in wanted if ranks.agreed(run is not None and run.has(_name(layer)))}
    found: list[ConvertedLayer] = []
    sequence = None
    total = len(wanted) * (CLOSED + steps)
    done = len(there) * (CLOSED + steps)
    with bar("converting layers", total, done=done, show=ranks.lead()) as step:
        for layer in range(max(wanted) + 1 if len(there) < len(wanted) else 0):
            if sequence is None:
                sequence = Sequence(stack, split.fit, split.held_out, steps=steps, random=seed, precision=precision)
            if layer not in wanted:
                sequence.skip(None)
            elif layer in there:
                record = _shared(stack, run, layer)
                found.append(record)
                sequence.skip(record.mlp.to(stack.device))
            else:
                record = _computed(run, layer, sequence, step)
                found.append(record)
                step(CLOSED, layer=layer, delta_ce=record.score.delta_ce)
    if not found:
        found = [_shared(stack, run, layer) for layer in wanted]
    return found


def _computed(run: Folder | None, layer: int, sequence: Sequence, step: Any) -> ConvertedLayer:
    if run is None:
        return sequence.convert(step)
    return run.record(_name(layer), ConvertedLayer, lambda: sequence.convert(step))


def _shared(stack: Stack, run: Folder | None, layer: int) -> ConvertedLayer:
    """A record that is there, in all processes: the leader reads it, the others are told its weights."""
    nothing = TextScore(0, 0, 0, 0, 0, 0, 0, 1, 1)
    if run is not None:
        record = run.record(_name(layer), ConvertedLayer, _missing)
        mlp = record.mlp.to(stack.device)
    else:
        theirs = stack.mlp(layer)
        h, o, d = len(theirs.gate), theirs.output.size, theirs.input.size
        shapes = ((h, d), (h,), (h, d), (h,), (o, h), (o, d), (o,))
        mlp = ConvertedMLP(layer, *(torch.zeros(shape, device=stack.device) for shape in shapes))
        record = ConvertedLayer(mlp, 0, False, 0, 0, 0, 0, 0, nothing, nothing, nothing)
    ranks.equal(mlp.tensors)
    return record


def _missing() -> ConvertedLayer:
    raise BilensError("a record that is gone", "the folder as it was", "run the same command again")


def _name(layer: int) -> str:
    return f"layers/{layer:03d}"


def _distilled(
    student: nn.Module,
    stack: Stack,
    split: text.Split,
    out: Path,
    *,
    steps: int,
    seed: int,
    precision: Literal["bfloat16"] | None,
) -> dict[str, Any]:
    fit, check = conversion.Streams.divided(split.fit)
    asked = {"steps": steps, "seed": seed, "text_checksum": checksum(split.fit), "processes": ranks.size()}
    if precision is not None:
        asked["precision"] = precision
    before, after = conversion.distilled(
        student,
        stack.model,
        fit,
        check,
        steps=steps,
        seed=seed,
        precision=precision,
        kept=out / PART,
        settings=asked,
    )
    return {"steps": steps if after < before else 0, "asked": steps, "kl_before": before, "kl_after": after}


__all__ = ["convert"]
