"""A training step of a sparse autoencoder: `sae.train` against 20 lines of torch and against SAELens' `SAETrainer`.

All sides start from the same weights and get the same batches, loss, optimiser and learning rate: the L1 penalty is
weighed by the decoder's norms, rows are free, gradients are clipped to a norm of 1, as SAELens always does. The few
lines go back through the loss by automatic differentiation and use torch's fused Adam, as ours does. SAELens' window of
dead features is not reached, so that its top-k has no second loss; that SAE decodes its codes as they are
(`rescale_acts_by_decoder_norm=False`), as a bilens SAE does.

Needs an environment that has both: bilens and sae-lens.
Run: python benchmarks/sae_step.py [--small] [--device cpu|cuda] [--json FILE]
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

import torch
from measuring import RUNS, Line, Peer, Point, compare, median, options, peak_memory, product_rate, rates, report
from sae_lens import SAETrainer, StandardTrainingSAE, StandardTrainingSAEConfig, TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from torch import Tensor
from torch.nn import functional

from bilens import sae

D_IN, K = 300, 32
FULL, SMALL = 4096, 2048  # atoms, and samples in a batch
L1, LR, CLIP = 0.05, 1e-3, 1.0
BATCHES = 4


def vectors(rows: int, device: str) -> Tensor:
    """Sums of 8 of 2,000 unit vectors and a little noise, with a mean squared norm of about D_IN."""
    generator = torch.Generator().manual_seed(0)
    atoms = functional.normalize(torch.randn(2000, D_IN, generator=generator), dim=1)
    chosen = torch.randint(0, 2000, (rows, 8), generator=generator)
    weights = torch.rand(rows, 8, generator=generator)
    x = functional.embedding_bag(chosen, atoms, per_sample_weights=weights, mode="sum")
    x += 0.05 * torch.randn(rows, D_IN, generator=generator) + 0.02
    return (x * (D_IN / x.square().sum(dim=1).mean()).sqrt()).to(device)


def our_coder(kind: str, stream: sae.TensorStream, d_sae: int, device: str) -> sae.SAE:
    coder = sae.StandardSAE(D_IN, d_sae) if kind == "relu" else sae.TopKSAE(D_IN, d_sae, K)
    with torch.no_grad():
        coder.b_dec.copy_(stream.batch(0).mean(dim=0))
    return coder.to(device)


def our_run(
    coder: sae.SAE, stream: sae.TensorStream, kind: str, steps: int, device: str, *, half: bool = False
) -> Tensor:
    history = sae.train(
        coder,
        stream,
        steps=steps,
        lr=LR,
        l1=L1 if kind == "relu" else 0.0,
        warmup=0.0,
        decay=0.0,
        clip=CLIP,
        normalize=False,
        unit_rows=False,
        precision="bfloat16" if half else None,
        progress=False,
        device=device,
    )
    return history["loss"]


def their_trainer(
    coder: sae.SAE,
    stream: sae.TensorStream,
    kind: str,
    steps: int,
    device: str,
    *,
    sparse: bool = False,
    half: bool = False,
) -> SAETrainer:
    shared = {"d_in": D_IN, "d_sae": coder.d_sae, "device": device, "decoder_init_norm": None}
    if kind == "relu":
        theirs = StandardTrainingSAE(StandardTrainingSAEConfig(l1_coefficient=L1, **shared))
    else:
        config = TopKTrainingSAEConfig(k=K, rescale_acts_by_decoder_norm=False, use_sparse_activations=sparse, **shared)
        theirs = TopKTrainingSAE(config)
    theirs.load_state_dict({name: value.detach().clone() for name, value in coder.state_dict().items()})
    config = SAETrainerConfig(
        total_training_samples=steps * stream.batch_size,
        train_batch_size_samples=stream.batch_size,
        lr=LR,
        lr_end=LR,
        autocast=half,  # to bfloat16
        device=device,
    )
    return SAETrainer(config, theirs, batches(stream))


def batches(stream: sae.TensorStream) -> Iterator[Tensor]:
    n = 0
    while True:
        yield stream.batch(n)
        n += 1


def fit(trainer: SAETrainer) -> None:
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
        trainer.fit()


class Plain:
    """The few lines."""

    def __init__(self, coder: sae.SAE, stream: sae.TensorStream, kind: str, *, half: bool) -> None:
        values = {name: value.detach().clone().requires_grad_() for name, value in coder.named_parameters()}
        self.W_enc, self.b_enc, self.W_dec, self.b_dec = (values[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec"))
        self.stream, self.kind, self.half, self.values = stream, kind, half, values
        self.optimizer = torch.optim.Adam(values.values(), lr=LR, fused=True)

    def loss(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.half):
            before = (x - self.b_dec) @ self.W_enc + self.b_enc
            if self.kind == "relu":
                acts = before.relu()
            else:
                kept, places = before.topk(K, sorted=False)
                acts = torch.zeros_like(before).scatter(1, places, kept.relu())
            error = (acts @ self.W_dec + self.b_dec - x).float().square().sum(dim=1).mean()
        if self.kind != "relu":
            return error
        return error + L1 * (acts.float() @ self.W_dec.norm(dim=1)).mean()

    def run(self, steps: int) -> list[float]:
        losses = []
        for n in range(steps):
            self.optimizer.zero_grad(set_to_none=True)
            loss = self.loss(self.stream.batch(n))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.values.values(), CLIP)
            self.optimizer.step()
            losses.append(loss.detach())
        return [float(loss) for loss in losses]


def has_half(device: str) -> bool:
    """Whether the device has instructions for bfloat16."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    has = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def agreement(
    stream: sae.TensorStream, kind: str, d_sae: int, steps: int, device: str, *, half: bool
) -> tuple[str, str]:
    """How far the few lines and SAELens are from ours after some steps."""
    ours = our_coder(kind, stream, d_sae, device)
    trainer = their_trainer(ours, stream, kind, steps, device, half=half)
    few = Plain(ours, stream, kind, half=half)
    mine = our_run(ours, stream, kind, steps, device, half=half)
    losses = few.run(steps), [float(trainer.step(stream.batch(n)).loss.detach()) for n in range(steps)]
    said = []
    for theirs, weights in zip(losses, (few.values, dict(trainer.sae.named_parameters())), strict=True):
        apart = float(((mine - torch.tensor(theirs).double()).abs() / torch.tensor(theirs).double()).max())
        off = max(
            float((value - weights[name]).detach().norm() / value.detach().norm())
            for name, value in ours.named_parameters()
        )
        said.append(f"losses of {steps} steps at most {apart:.0e} apart, relatively; weights after them {off:.0e}")
    return said[0], said[1]


def main() -> None:
    asked = options(__doc__)
    device, small = asked.device, asked.small
    steps, compared = (1, 3) if small else (5, 20)
    d_sae = batch = SMALL if small else FULL
    measured = rates(device, small=asked.small)
    stream = sae.TensorStream(vectors(BATCHES * batch, device), batch)
    operations = 2 * batch * D_IN * d_sae
    codes = 2 * batch * d_sae * 4 / measured.copy
    names = {"relu": "ReLU", "topk": f"TopK, k = {K}"}
    asked_for = {"relu": 1.5, "topk": 4.0}
    lines = []
    variants = [("relu", False, False), ("topk", False, False)]
    if not small:
        variants.append(("topk", True, False))
    if not small and has_half(device):
        variants += [("relu", False, True), ("topk", False, True)]
    for kind, sparse, half in variants:
        coder = our_coder(kind, stream, d_sae, device)
        trainer = their_trainer(coder, stream, kind, steps, device, sparse=sparse, half=half)

        def ours(coder: sae.SAE = coder, kind: str = kind, half: bool = half) -> None:
            our_run(coder, stream, kind, steps, device, half=half)

        def theirs(trainer: SAETrainer = trainer) -> None:
            trainer.n_training_samples = 0
            fit(trainer)

        few = Plain(coder, stream, kind, half=half)
        seconds = compare(ours, lambda few=few: few.run(steps), theirs, device=device)
        rate = product_rate(torch.bfloat16, device) if half else measured.float32
        limit, why = {
            "relu": (5 * operations / rate, "five products of 2 · batch · d_in · d_sae operations"),
            "topk": (
                operations / rate + codes,
                "one product of 2 · batch · d_in · d_sae operations, its result written and read once",
            ),
        }[kind]
        close = agreement(stream, kind, d_sae, compared, device, half=half)
        lines.append(
            Line(
                work=f"SAE step, {names[kind]}: d_in = {D_IN}, d_sae = {d_sae}, batch {batch}"
                + (", bfloat16 products" if half else ""),
                ours=seconds.ours / steps,
                memory=peak_memory(ours, device=device),
                plain=Peer(
                    "20 lines of torch, autograd, fused Adam" + (", autocast to bfloat16" if half else ""),
                    seconds.plain / steps,
                    peak_memory(lambda few=few: few.run(steps), device=device),
                    close[0],
                ),
                published=Peer(
                    "SAELens' SAETrainer"
                    + (", its sparse activations on" if sparse else "")
                    + (", autocast to bfloat16" if half else ""),
                    seconds.published / steps,
                    peak_memory(theirs, device=device),
                    close[1],
                ),
                limit=limit,
                limited_by=f"{why}, at {rate / 1e9:.0f} Gflop/s",
                reach=None if small or sparse or half else asked_for[kind],
                brief="" if sparse or half else f"a step of a {names[kind].split(',')[0]} SAE, {D_IN} → {d_sae:,}",
                spread=seconds.spread,
                runs=RUNS,
                device=device,
            )
        )
    axes = (
        {"d_sae": (512, 1024), "batch": ()}
        if small
        else {"d_sae": (1024, 2048, 4096, 8192, 16384), "batch": (256, 1024, 4096)}
    )
    points = []
    for kind in ("relu", "topk"):
        for axis, sizes in axes.items():
            for size in sizes:
                atoms, samples = (size, 1024) if axis == "d_sae" else (2048, size)
                part = sae.TensorStream(stream.vectors[: 4 * samples], samples)
                coder = our_coder(kind, part, atoms, device)
                seconds = median(lambda: our_run(coder, part, kind, 2, device), runs=3, device=device) / 2  # noqa: B023
                points.append(Point(f"SAE step, {names[kind]}", axis, size, seconds))
    report(lines, points, measured, asked.json)


if __name__ == "__main__":
    main()
