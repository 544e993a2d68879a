"""Modular addition: how alike two trainings are as tensors while they generalise, and what is equivariant in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from torch import Tensor, nn

from bilens.progress import bar
from bilens.space import Space
from bilens.tensor import BilinearTensor
from reproduction import charts
from reproduction.lab import Claim, Lab, Recipe
from reproduction.measurement import Measurement

SHARE = 0.6
"""Of all pairs that is trained on."""

STEPS = (100, 200, 300, 500, 700, 1000, 1500, 2000, 3000, 4500, 6000)
"""Steps at which a training is looked at."""


class Snapshot(NamedTuple):
    """A training at one step: its factors, and how it does on the pairs it saw and on the others."""

    left: Tensor
    right: Tensor
    down: Tensor
    train: float
    test: float


def pairs(p: int) -> tuple[Float[Tensor, "n i"], Int[Tensor, " n"]]:
    """All pairs (a, b) as two one-hot vectors side by side, and (a + b) mod p."""
    a, b = (index.flatten() for index in torch.meshgrid(torch.arange(p), torch.arange(p), indexing="ij"))
    eye = torch.eye(p)
    return torch.cat([eye[a], eye[b]], dim=1), (a + b) % p


def trained(p: int, hidden: int, steps: Sequence[int], *, split: int, seed: int) -> list[Snapshot]:
    """One bilinear layer y = D[(W x) ⊙ (V x)] at each of these steps: AdamW on all training pairs, weight decay 1.

    Args:
        p: the modulus; hidden: units; steps: in order; split: seed of the pairs that are trained on; seed: of weights.
    """
    x, y = pairs(p)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(split))
    seen, unseen = order[: round(SHARE * len(x))], order[round(SHARE * len(x)) :]
    generator = torch.Generator().manual_seed(seed)
    start = [torch.randn(rows, columns, generator=generator) / columns**0.5
             for rows, columns in ((hidden, 2 * p), (hidden, 2 * p), (p, hidden))]  # fmt: skip
    left, right, down = (part.requires_grad_(True) for part in start)
    optimiser = torch.optim.AdamW([left, right, down], lr=3e-3, weight_decay=1.0)
    found = []
    given, sums = x[seen], y[seen]
    with torch.enable_grad(), bar(f"modular addition, seed {seed}", steps[-1]) as advance:
        for step in range(1, steps[-1] + 1):
            loss = nn.functional.cross_entropy(((given @ left.T) * (given @ right.T)) @ down.T, sums)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            if step in steps:
                with torch.no_grad():
                    right_ones = (((x @ left.T) * (x @ right.T)) @ down.T).argmax(dim=1) == y
                parts = (part.detach().clone() for part in (left, right, down))
                rates = (float(right_ones[rows].double().mean()) for rows in (seen, unseen))
                found.append(Snapshot(*parts, *rates))
            advance(1)
    return found


def tensor(found: Snapshot, p: int) -> BilinearTensor:
    """Its tensor in float64, the softmax gauge centred."""
    parts = (part.double() for part in (found.left, found.right, found.down))
    return BilinearTensor.from_layer(*parts, input=Space("a and b", 2 * p), output=Space("sum", p)).centered()


def equivariant(found: BilinearTensor, p: int) -> float:
    """The share of the a–b block's energy that depends on c − a − b alone: on nothing but the rule's symmetry.

    The block T[c, a, b] is averaged over all (c, a, b) with one c − a − b; a random block has a share of 1/p².
    """
    dense = found.to_dense()[:, :p, p:]
    c, a, b = torch.meshgrid(*(torch.arange(p),) * 3, indexing="ij")
    key = ((c - a - b) % p).flatten()
    sums = torch.zeros(p, dtype=dense.dtype).index_add(0, key, dense.flatten())
    energy = dense.square().sum()
    return float(sums.square().sum() / p**2 / energy) if energy > 0 else 0.0


def off(found: BilinearTensor, p: int) -> float:
    """The share of ‖T‖² on pairs of two coordinates of a, or of b, that no pair of one-hot vectors reaches.

    The diagonal is reached: a coordinate's own square is 1 with it.
    """
    dense = found.to_dense()
    away = ~torch.eye(p, dtype=torch.bool)
    inside = dense[:, :p, :p][:, away].square().sum() + dense[:, p:, p:][:, away].square().sum()
    return float(inside / dense.square().sum())


def measure(lab: Lab, seed: int) -> Measurement:
    """Two trainings on the same pairs from different weights, compared at every step."""
    p, hidden = lab.size(37, 7), lab.size(96, 16)
    steps = [step // lab.size(1, 10) for step in STEPS]
    one, two = (trained(p, hidden, steps, split=seed, seed=2 * seed + n) for n in (0, 1))
    last = tensor(one[-1], p)
    numbers: dict[str, float] = {}
    for at, first, second in zip(STEPS, one, two, strict=True):
        ours, theirs = tensor(first, p), tensor(second, p)
        numbers |= {
            f"train accuracy, {at}": first.train,
            f"test accuracy, {at}": first.test,
            f"cosine to the end, {at}": float(ours.cosine(last)),
            f"cosine of two seeds, {at}": float(ours.cosine(theirs)),
            f"weight cosine to the end, {at}": _weights(first, one[-1]),
            f"weight cosine of two seeds, {at}": _weights(first, second),
            f"equivariant share, {at}": equivariant(ours, p),
            f"share off the data, {at}": off(ours, p),
        }
    return Measurement.of(numbers | {"equivariant share of chance": 1 / p**2})


def _weights(a: Snapshot, b: Snapshot) -> float:
    x, y = (torch.cat([part.flatten().double() for part in one[:3]]) for one in (a, b))
    return float(nn.functional.cosine_similarity(x, y, dim=0))


def claims(measured: Measurement) -> Sequence[Claim]:
    """Every number at every step."""
    table = [Claim("equivariant share of a random block", "equivariant share of chance", form=".4f")]
    for at in STEPS:
        for name in ("train accuracy", "test accuracy"):
            table.append(Claim(f"{name} after {at:,} steps, %", f"{name}, {at}", form=".1f", scale=100))
        for name in ("equivariant share", "cosine of two seeds", "weight cosine of two seeds", "cosine to the end",
                     "weight cosine to the end", "share off the data"):  # fmt: skip
            table.append(Claim(f"{name} after {at:,} steps", f"{name}, {at}"))
    return table


def figures(seeds: Sequence[Measurement]) -> Mapping[str, tuple[Figure, str]]:
    """Accuracy, equivariant share and cosines against steps."""
    names = ("test accuracy", "equivariant share", "cosine of two seeds", "weight cosine of two seeds")
    groups = {name: {at: [seed[f"{name}, {at}"] for seed in seeds] for at in STEPS} for name in names}
    return {
        "grokking-steps": (
            charts.intervals(groups, "Modular addition", "steps", "share or cosine"),
            "Accuracy on pairs that were not trained on jumps; the equivariant share of one checkpoint and the cosine "
            "of two trainings' tensors rise smoothly, and that of their weights stays near 0: mean and 95 % interval.",
        )
    }


RECIPE = Recipe(
    "grokking",
    "Modular addition as a tensor",
    lambda lab: (
        f"(a + b) mod {lab.size(37, 7)} from two one-hot vectors, {SHARE:.0%} of the pairs, one bilinear layer of "
        f"{lab.size(96, 16)} hidden units, AdamW on all of them at once, lr 3e-3, weight decay 1; per seed two "
        "trainings from different weights on the same pairs."
    ),
    measure,
    claims,
    figures,
)
