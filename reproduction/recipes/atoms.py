"""The pair SAE's atoms and its encoder apart: atoms that are never trained with an encoder that is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional

from bilens import pair_coding, pairs
from bilens.history import History
from bilens.progress import bar
from bilens.sae import Stream, TopKSAE
from bilens.schedules import trapezoid
from bilens.tensor import BilinearTensor
from reproduction.lab import Claim, Lab, Recipe
from reproduction.measurement import Measurement
from reproduction.recipes import front_measure, pair_sae
from reproduction.recipes.front_coders import MAIN, Plan
from reproduction.recipes.front_read import Read

FROZEN = "pair vectors drawn at random, their encoder trained"
"""Atoms that are never trained, coded by an encoder with as many updates as the pair SAE has."""

LR, WARMUP, DECAY = 3e-3, 0.05, 0.5
"""Those of `sae.train`."""

SMALL = "r_ij, TopK, uniform"
"""The variant of the pair SAE at h = 300 that drawn atoms stand beside."""

DRAWN = ("uniform", "second moment")
"""How often a pair is drawn as an atom."""


@torch.no_grad()
def measure(lab: Lab, seed: int) -> Measurement:
    """Drawn atoms with a trained encoder at h = 1000, and with codes by least squares at h = 300."""
    read, plan = Read.of(lab, seed), MAIN.size(lab)
    coder = frozen(lab, read.hidden, plan, seed)
    energy = float(pairs.norms(read.hidden).double().square().sum())
    found = front_measure.replaced(read, front_measure.encoded(read.hidden, coder), energy)
    numbers: dict[str, float] = {"accuracy": read.own.accuracy, "atoms": float(plan.atoms)}
    numbers |= {f"{what}, {FROZEN}": value for what, value in found.items()}
    return Measurement.of(numbers | never_trained(lab, seed))


def frozen(lab: Lab, tensor: BilinearTensor, plan: Plan, seed: int) -> TopKSAE:
    """An SAE of drawn pair vectors whose encoder and biases are trained: read from the folder, or made."""
    folder = lab.run.path / "models" / f"frozen-pairs-{seed}-{plan.atoms}-{plan.k}-{plan.steps}"
    if not (folder / "cfg.json").exists():
        mean = pair_coding.mean_pair(tensor)
        coder = TopKSAE(tensor.output.size, plan.atoms, plan.k, seed=seed)
        coder.W_dec.copy_(pair_coding.drawn_pairs(tensor, plan.atoms, seed, mean))
        coder.W_enc.copy_(coder.W_dec.T)
        coder.b_dec.copy_(mean)
        stream = pairs.stream(tensor, batch_size=1024, seed=seed)
        train_encoder(coder, stream, plan.steps, title=f"encoder of drawn atoms, seed {seed}")
        coder.save_pretrained(folder)
    return TopKSAE.from_pretrained(folder).requires_grad_(False)


def train_encoder(coder: TopKSAE, stream: Stream, steps: int, *, title: str) -> History:
    """Train an SAE as `sae.train` does, all of it but its atoms: the same batches, scale, loss and learning rates.

    Returns:
        The loss of every step, in the units of the scaled vectors.
    """
    power = float(stream.batch(0).square().sum(dim=1).mean())
    scale = math.sqrt(coder.d_in / power)
    coder.rescale(scale)
    coder.W_dec.requires_grad_(False)
    trained = [coder.W_enc.requires_grad_(True), coder.b_enc.requires_grad_(True), coder.b_dec.requires_grad_(True)]
    optimizer = torch.optim.Adam(trained, lr=LR, fused=True)
    losses = []
    with torch.enable_grad(), bar(title, steps) as step:
        for n in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = LR * trapezoid(n, steps, WARMUP, DECAY)
            x = stream.batch(n) * scale
            # (x − b_dec) W_enc without a gradient of x − b_dec, which would cost as much as that of W_enc.
            before = x @ coder.W_enc + (coder.b_enc - coder.b_dec @ coder.W_enc)
            values, chosen = before.topk(coder.k, dim=1, sorted=False)
            built = functional.embedding_bag(chosen, coder.W_dec, per_sample_weights=values.relu(), mode="sum")
            loss = (x - built - coder.b_dec).square().sum(dim=1).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(float(loss.detach()))
            step(1, loss=losses[-1])
    coder.rescale(1 / scale)
    values = torch.tensor(losses, dtype=torch.float64)[:, None]
    return History(("loss",), torch.arange(1, steps + 1), values)


def never_trained(lab: Lab, seed: int) -> dict[str, float]:
    """Drawn atoms with codes by least squares at h = 300, beside the variants of the pair SAE."""
    variant = pair_sae.VARIANTS[SMALL]
    read = Read.of(lab, seed, lab.size(variant.hidden, 40))
    tensor, count = read.hidden, MAIN.size(lab).atoms
    mean = pair_coding.mean_pair(tensor)
    atoms = {
        "uniform": pair_coding.drawn_pairs(tensor, count, seed, mean),
        "second moment": drawn_by(tensor, pairs.second_moments(tensor.input.fold(lab.dataset().train.images)),
                                  count, seed, mean),
    }  # fmt: skip
    found, energy = pair_coding.coded(
        tensor, [(rows, mean) for rows in atoms.values()], [[MAIN.size(lab).k]] * len(atoms)
    )
    numbers: dict[str, float] = {}
    for name, (part,) in zip(atoms, found, strict=True):
        scores = front_measure.replaced(read, part, energy)
        numbers |= {f"{what}, r_ij, drawn, {name}": value for what, value in scores.items()}
    return numbers


def drawn_by(
    tensor: BilinearTensor, weights: Float[Tensor, " pairs"], count: int, seed: int, offset: Float[Tensor, " o"]
) -> Float[Tensor, "m o"]:
    """Pair vectors drawn with chances in proportion to weights, less an offset and scaled to norm 1."""
    rows = pairs.sampled(tensor, weights, batch_size=count, seed=seed).batch(0)
    return functional.normalize(rows - offset, dim=1)


def claims(measured: Measurement) -> Sequence[Claim]:
    """Drawn atoms at both widths."""
    forms = {
        "L0": ("L0", ".1f", 1.0, ""),
        "numbers stored": ("numbers stored", ",.0f", 1.0, ""),
        "NMSE on pairs": ("NMSE on pairs", ".3f", 1.0, ""),
        "NMSE on outputs": ("NMSE on outputs", ".4f", 1.0, ""),
        "accuracy lost": ("accuracy lost", ".2f", 100.0, " pts"),
        "cross-entropy recovered": ("recovered", ".2f", 100.0, " %"),
    }
    subjects = {
        FROZEN: f"{FROZEN}, h = 1000",
        **{f"r_ij, drawn, {name}": f"r_ij drawn by {name} weights, least squares, h = 300" for name in DRAWN},
    }
    return [
        Claim(f"{text}: {what}", f"{number}, {name}", "–", form, scale, unit)
        for name, text in subjects.items()
        for what, (number, form, scale, unit) in forms.items()
    ]


def figures(seeds: Sequence[Measurement]) -> Mapping[str, tuple[Figure, str]]:
    """None of its own: its rows stand in the headline."""
    return {}


RECIPE = Recipe(
    "atoms",
    "The pair SAE's atoms and its encoder, apart",
    lambda lab: (
        f"h = {lab.size(1000, 40)} with the encoder trained, h = {lab.size(300, 40)} by least squares; "
        f"{MAIN.size(lab).atoms:,} atoms, TopK {MAIN.size(lab).k}, {MAIN.size(lab).steps:,} updates of 1,024 pairs."
    ),
    measure,
    claims,
    figures,
)
