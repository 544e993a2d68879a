"""The command that trains a small language model from scratch: a tokenizer, the model, and how good it is."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rich.console import Console

from bilens._internal.checkpoint import discard
from bilens.errors import BilensError
from bilens.history import History
from bilens.models import gated, language
from bilens.models.gated.original import original
from bilens.progress import Steps
from bilens.statistics import Interval, interval
from bilens.store import Folder
from bilens.text import corpus, english, trained


def train_lm(
    *,
    out: Path,
    text: tuple[Path, ...] = (),
    gate: Literal["bilinear", "swiglu", "reglu"] = "bilinear",
    layers: int = 2,
    width: int = 128,
    units: int = 384,
    vocabulary: int = 1024,
    length: int = 128,
    steps: int = 1000,
    batch: int = 24,
    lr: float = 2e-3,
    seed: int = 0,
) -> Interval:
    """Train a small language model from scratch, by default one whose every MLP is bilinear.

    What it writes is an ordinary model of transformers. Example: bilens train-lm --text essays --out runs/small

    Args:
        out: folder for the model and its tokenizer; the same command run again continues there.
        text: files and folders of text; by default what is found without a network (docs/text.md).
        gate: kind of the MLPs.
        layers: how many.
        width: of the residual stream, a multiple of 32.
        units: of each MLP.
        vocabulary: tokens of the tokenizer, which is trained on the text to fit on.
        length: tokens in a row of text.
        steps: updates.
        batch: rows of text in an update.
        lr: the highest learning rate.
        seed: of the weights and of the order of the text.
    """
    if length < 2:
        raise BilensError(f"length = {length}", "a whole number of at least 2")
    job = Steps(3)
    job.begin("reading the text")
    found = corpus(text, seed=seed) if text else english(seed=seed)
    tokenizer = trained(found.fit, vocabulary)
    split = found.tokens(tokenizer, length=length)
    sizes = {"gate": gate, "layers": layers, "width": width, "units": units, "length": length, "seed": seed}
    model = language.small(len(tokenizer), gate=gate, layers=layers, width=width, units=units, length=length, seed=seed)
    asked = {"tokens": len(tokenizer), "steps": steps, "batch": batch, "lr": lr, "text": split.described}
    run = Folder(out, {"command": "train-lm", **sizes, **asked})
    console = Console(markup=False, highlight=False, soft_wrap=True)
    console.print(f"text: {split.described}")

    def compute() -> History:
        checkpoint = run.path / "training.part"
        history = language.train(model, split, steps=steps, batch=batch, lr=lr, checkpoint=checkpoint)
        language.save(model, tokenizer, run.path / "model")
        return history

    job.begin(f"training a {gate} model of {sum(weight.numel() for weight in model.parameters()):,} parameters")
    known = run.has("training")
    run.record("training", History, compute)
    discard(run.path / "training.part")
    job.begin("measuring it")
    if known:
        model = original(gated.load(run.path / "model"))
    loss = interval(language.cross_entropy(model, split.held_out).tolist())
    null = interval(language.unigram(split, len(tokenizer)).tolist())
    console.print(
        f"held out: {loss.text()} nats per token, on {len(split.held_out)} rows of {length} tokens; token frequencies "
        f"alone: {null.text()}"
    )
    console.print(f"model: {run.path / 'model'}")
    return loss


__all__ = ["train_lm"]
