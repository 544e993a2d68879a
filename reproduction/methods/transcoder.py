"""A sparse stand-in for a layer, fitted to its inputs and outputs: the TopK transcoder."""

from __future__ import annotations

import math
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from bilens.errors import BilensError, ShapeError
from bilens.history import History
from bilens.progress import bar
from bilens.sae.streams import TensorStream
from bilens.schedules import trapezoid
from reproduction import checking
from reproduction.checking import instance, number, whole


@final
class Transcoder(nn.Module):
    """ŷ = a W_dec + b_dec with a = TopK(ReLU(x W_enc + b_enc)): a layer's output from sparse features of its input.

    Args:
        d_in, d_out: sizes of the layer's vectors. d_sae: number of features.
        k: codes kept per vector, 1 … d_sae; the others, and those that are negative, are 0. With k = d_sae it is a
            plain MLP with ReLU.
        seed: of the encoder's unit columns; W_dec and the biases begin as 0, so that ŷ begins as b_dec.

    Raises:
        BilensError: a size below 1, or k outside 1 … d_sae.

    Source: arXiv 2406.11944; TopK as in arXiv 2406.04093.
    """

    def __init__(self, d_in: int, d_out: int, d_sae: int, k: int, *, seed: int = 0) -> None:
        super().__init__()
        sizes = (("d_in", d_in), ("d_out", d_out), ("d_sae", d_sae))
        d_in, d_out, d_sae = (whole(name, size, 1) for name, size in sizes)
        k = whole("k", k, 1, d_sae)
        rows = torch.randn(d_sae, d_in, generator=torch.Generator().manual_seed(checking.seed(seed)))
        self.W_enc = nn.Parameter(functional.normalize(rows, dim=1).T.contiguous())
        self.b_enc = nn.Parameter(torch.zeros(d_sae))
        self.W_dec = nn.Parameter(torch.zeros(d_sae, d_out))
        self.b_dec = nn.Parameter(torch.zeros(d_out))
        self.k = k

    @property
    def numel(self) -> int:
        """How many numbers it holds: d_sae (d_in + d_out + 1) + d_out."""
        return sum(parameter.numel() for parameter in self.parameters())

    def encode(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_sae"]:
        """Codes a, one vector per row, in the type of the weights.

        Raises:
            ShapeError: x is not (n, d_in). BilensError: whole, complex or 8-bit numbers, sparse vectors, or vectors on
                another device.
        """
        if x.ndim != 2 or x.shape[1] != len(self.W_enc):
            raise ShapeError(f"vectors of shape {tuple(x.shape)}", f"(n, {len(self.W_enc)})")
        x = checking.rows("vectors", x, self.W_enc, len(self.W_enc))
        before = torch.addmm(self.b_enc, x, self.W_enc)
        if self.k == before.shape[1]:
            return before.relu()
        values, features = before.topk(self.k, dim=1, sorted=False)
        return torch.zeros_like(before).scatter(1, features, values.relu())

    def forward(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_out"]:
        """ŷ, one vector per row."""
        return torch.addmm(self.b_dec, self.encode(x), self.W_dec)


def transcode(
    transcoder: Transcoder,
    inputs: Float[Tensor, "rows d_in"],
    outputs: Float[Tensor, "rows d_out"],
    *,
    steps: int,
    batch_size: int = 512,
    lr: float = 2e-3,
    warmup: float = 0.05,
    decay: float = 0.5,
    seed: int = 0,
    progress: bool = True,
    title: str = "transcoder",
) -> History:
    """Fit a transcoder in place to what a layer reads and writes: Adam on the mean of ‖y − ŷ‖² / E‖y − ȳ‖².

    b_dec begins as the mean output ȳ. An epoch uses each row once, in an order drawn from the seed; the learning rate
    rises and falls as in `train`.

    Args:
        transcoder: on the device of the vectors.
        inputs, outputs: what the layer read and wrote, one sample per row of both, of any floating-point type.
        steps: updates; batch_size: samples in each; lr: Adam's learning rate at its highest.
        warmup, decay: fractions of the steps in which lr rises linearly from 0 and falls linearly to 0.
        seed: of the order; progress: whether to show a bar; title: of the bar.

    Returns:
        "loss", the share of the outputs' variance that is not explained, and "l0", at most about 100 rows.

    Raises:
        ShapeError: vectors of other sizes, or unlike numbers of rows. BilensError: a number out of range, outputs that
            do not differ, or a loss that is no longer finite.
    """
    instance("transcoder", transcoder, Transcoder)
    for name, vectors in (("inputs", inputs), ("outputs", outputs)):
        instance(name, vectors, Tensor)
        if not bool(torch.isfinite(vectors).all()):
            raise BilensError(f"{name} with NaN or infinity", "finite numbers")
    d_in, d_out = len(transcoder.W_enc), len(transcoder.b_dec)
    if inputs.ndim != 2 or tuple(outputs.shape) != (len(inputs), d_out) or inputs.shape[1] != d_in:
        raise ShapeError(
            f"inputs of shape {tuple(inputs.shape)} and outputs of {tuple(outputs.shape)}",
            f"(rows, {d_in}) and (rows, {d_out})",
            "pass one sample per row of both",
        )
    like = transcoder.W_enc
    inputs = checking.rows("inputs", inputs, like, d_in).detach()
    outputs = checking.rows("outputs", outputs, like, d_out).detach()
    steps, lr = whole("steps", steps, 1), number("lr", lr, above=0)
    warmup, decay = number("warmup", warmup, 0, 1), number("decay", decay, 0, 1)
    order = TensorStream(torch.arange(len(inputs), device=inputs.device).double()[:, None], batch_size, seed)
    mean = outputs.mean(dim=0)
    variance = float((outputs - mean).square().sum(dim=1).mean())
    if not (variance > 0 and math.isfinite(variance)):
        raise BilensError(f"outputs with a variance of {variance}", "finite ones that differ")
    with torch.no_grad():
        transcoder.b_dec.copy_(mean)
    optimizer = torch.optim.Adam(transcoder.parameters(), lr=lr, fused=inputs.device.type in ("cpu", "cuda"))
    every = max(1, steps // 100)
    logged: list[int] = []
    rows: list[Tensor] = []
    with torch.enable_grad(), bar(title, steps, show=progress) as step:
        for done in range(steps):
            chosen = order.batch(done)[:, 0].long()
            codes = transcoder.encode(inputs[chosen])
            predicted = torch.addmm(transcoder.b_dec, codes, transcoder.W_dec)
            loss = (predicted - outputs[chosen]).square().sum() / (len(chosen) * variance)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            for group in optimizer.param_groups:
                group["lr"] = lr * trapezoid(done, steps, warmup, decay)
            optimizer.step()
            if (done + 1) % every == 0 or done + 1 == steps:
                now = torch.stack([loss.detach(), (codes.detach() != 0).sum() / len(chosen)])
                if not bool(torch.isfinite(now).all()):
                    raise BilensError(
                        f"a loss of {float(now[0])} at step {done + 1} of {steps}",
                        "a finite loss",
                        f"use a learning rate below {lr:g}",
                    )
                logged.append(done + 1)
                rows.append(now)
                step(every, loss=float(now[0]), l0=float(now[1]))
    return History(("loss", "l0"), torch.tensor(logged), torch.stack(rows).cpu().double())
