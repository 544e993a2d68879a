"""A training step of a sparse autoencoder: `sae.train` against SAELens' `SAETrainer`, same losses after the same steps.

Both sides start from the same weights and get the same batches, loss, optimiser and learning rate: the L1 penalty is
weighed by the decoder's norms, rows are free, gradients are clipped to a norm of 1, as SAELens always does. Its window
of dead features is not reached, so that its top-k has no second loss; that coder decodes its codes as they are
(`rescale_acts_by_decoder_norm=False`), as a bilens coder does.

Needs an environment that has both: bilens and sae-lens.
Run: python benchmarks/sae_step.py [--small] [--device cpu|cuda] [--json FILE]
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

import torch
from measuring import RUNS, Line, Point, alternate, median, options, peak_memory, rates, report
from sae_lens import SAETrainer, StandardTrainingSAE, StandardTrainingSAEConfig, TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from torch import Tensor
from torch.nn import functional

from bilens import sae

D_IN, D_SAE, BATCH, K = 300, 4096, 4096, 32
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


def our_coder(kind: str, stream: sae.TensorStream, d_sae: int, device: str) -> sae.Coder:
    coder = sae.StandardSAE(D_IN, d_sae) if kind == "relu" else sae.TopKSAE(D_IN, d_sae, K)
    with torch.no_grad():
        coder.b_dec.copy_(stream.batch(0).mean(dim=0))
    return coder.to(device)


def our_run(coder: sae.Coder, stream: sae.TensorStream, kind: str, steps: int, device: str) -> Tensor:
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
        progress=False,
        device=device,
    )
    return history["loss"]


def their_trainer(
    coder: sae.Coder, stream: sae.TensorStream, kind: str, steps: int, device: str, *, sparse: bool = False
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


def agreement(stream: sae.TensorStream, kind: str, steps: int, device: str) -> str:
    ours = our_coder(kind, stream, D_SAE, device)
    trainer = their_trainer(ours, stream, kind, steps, device)
    mine = our_run(ours, stream, kind, steps, device)
    theirs = torch.tensor([float(trainer.step(stream.batch(n)).loss.detach()) for n in range(steps)]).double()
    apart = float(((mine - theirs).abs() / theirs).max())
    weights = max(
        float((value - getattr(trainer.sae, name)).detach().norm() / value.detach().norm())
        for name, value in ours.named_parameters()
    )
    return (
        f"losses of {steps} steps (from {theirs[0]:.4g} to {theirs[-1]:.4g}) at most {apart:.1e} apart, relatively; "
        f"weights after them {weights:.1e}"
    )


def main() -> None:
    asked = options(__doc__)
    device, small = asked.device, asked.small
    steps, compared = (1, 3) if small else (5, 20)
    measured = rates(device)
    stream = sae.TensorStream(vectors(BATCHES * BATCH, device), BATCH)
    product = 2 * BATCH * D_IN * D_SAE / measured.float32
    codes = 2 * BATCH * D_SAE * 4 / measured.copy
    limits = {
        "relu": (5 * product, "five products of 2 · batch · d_in · d_sae operations"),
        "topk": (
            product + codes,
            "one product of 2 · batch · d_in · d_sae operations, its result written and read once",
        ),
    }
    names = {"relu": "ReLU", "topk": f"TopK, k = {K}"}
    asked_for = {"relu": 1.2, "topk": 1.5}
    lines = []
    for kind, sparse in (("relu", False), ("topk", False), ("topk", True)):
        if sparse and small:
            continue
        coder = our_coder(kind, stream, D_SAE, device)
        trainer = their_trainer(coder, stream, kind, steps, device, sparse=sparse)

        def ours(coder: sae.Coder = coder, kind: str = kind) -> None:
            our_run(coder, stream, kind, steps, device)

        def theirs(trainer: SAETrainer = trainer) -> None:
            trainer.n_training_samples = 0
            fit(trainer)

        seconds = alternate(ours, theirs, device=device)
        limit, why = limits[kind]
        lines.append(
            Line(
                work=f"SAE step, {names[kind]}: d_in = {D_IN}, d_sae = {D_SAE}, batch {BATCH}",
                peer=f"SAELens' SAETrainer{', its sparse activations on' if sparse else ''}",
                ours=seconds[0] / steps,
                theirs=seconds[1] / steps,
                ours_memory=peak_memory(ours, device=device),
                theirs_memory=peak_memory(theirs, device=device),
                limit=limit,
                limited_by=why,
                agreement=agreement(stream, kind, compared, device),
                at_least=None if sparse else asked_for[kind],
                runs=RUNS,
                device=device,
            )
        )
    axes = (
        {"d_sae": (1024, 2048), "batch": ()}
        if small
        else {"d_sae": (1024, 2048, 4096, 8192, 16384), "batch": (256, 1024, 4096)}
    )
    points = []
    for kind in ("relu", "topk"):
        for axis, sizes in axes.items():
            for size in sizes:
                d_sae, batch = (size, 1024) if axis == "d_sae" else (2048, size)
                part = sae.TensorStream(stream.vectors[: 4 * batch], batch)
                coder = our_coder(kind, part, d_sae, device)
                seconds = median(lambda: our_run(coder, part, kind, 2, device), runs=3, device=device) / 2  # noqa: B023
                points.append(Point(f"SAE step, {names[kind]}", axis, size, seconds))
    report(lines, points, measured, asked.json)


if __name__ == "__main__":
    main()
