"""The 100 strongest interactions of every output: `decompose.strongest`, a few lines of torch, all of them formed.

Random unit atoms as features of the input of a layer of SmolLM2's size, and random directions in its output. The few
lines form C = F Q Fᵀ of one output at a time and take `topk` of the half above the diagonal; they give the norm of C
too. Forming everything is one einsum over all outputs, m² numbers each, which the full setting does for a part of them.
All 1,000 outputs are run once on either side, after that part has loaded and warmed what there is.

Run: python benchmarks/interactions.py [--small] [--device cpu|cuda] [--json FILE]
"""

from __future__ import annotations

import torch
from measuring import (
    RUNS,
    Line,
    Peer,
    Point,
    Rates,
    Times,
    compare,
    median,
    options,
    peak_memory,
    rates,
    report,
    single,
)
from torch import Tensor

from bilens import decompose
from bilens.dictionary import Dictionary
from bilens.space import Space
from bilens.tensor import BilinearTensor

TOP = 100

ASKED = "asked: 60 s on two cores, and less than 1,000 MB"
"""Of all 1,000 outputs in 1,000 features."""


def layer(d: int, h: int, m: int, n: int, device: str) -> tuple[BilinearTensor, Dictionary]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((h, d), (h, d), (n, h), (m, d))
    left, right, down, atoms = (torch.randn(*shape, generator=generator).to(device) for shape in shapes)
    tensor = BilinearTensor(left, right, down, Space("input", d), Space("output", n))
    return tensor, Dictionary.from_atoms(atoms / atoms.norm(dim=1, keepdim=True), tensor.input)


def plain(tensor: BilinearTensor, inputs: Dictionary) -> tuple[Tensor, Tensor, Tensor]:
    """Sizes √w |C_ab|, the places of the largest and ‖C‖², a few lines of torch for each output."""
    atoms, found = inputs.atoms, []
    for w in tensor.down:
        half = (tensor.left * w[:, None]).T @ tensor.right
        matrix = atoms @ ((half + half.T) / 2) @ atoms.T
        sizes = matrix.abs().triu_() * 2**0.5
        sizes.diagonal().div_(2**0.5)
        best = sizes.flatten().topk(TOP)
        found.append((best.values, best.indices, matrix.square().sum()))
    return tuple(torch.stack(part) for part in zip(*found, strict=True))


def everything(tensor: BilinearTensor, inputs: Dictionary) -> tuple[Tensor, Tensor]:
    """C of all outputs at once."""
    left, right = tensor.left @ inputs.atoms.T, tensor.right @ inputs.atoms.T
    matrices = torch.einsum("oh,ha,hb->oab", tensor.down, left, right)
    sizes = ((matrices + matrices.mT) / 2).abs().triu_() * 2**0.5
    sizes.diagonal(dim1=1, dim2=2).div_(2**0.5)
    best = sizes.flatten(1).topk(TOP)
    return best.values, best.indices


def line(
    d: int,
    h: int,
    m: int,
    n: int,
    *,
    limits: Rates,
    device: str,
    runs: int,
    formed: bool,
    brief: str = "",
    asked: str = "",
) -> Line:
    tensor, inputs = layer(d, h, m, n, device)
    first = single(lambda: decompose.strongest(tensor, inputs, top=TOP), device=device)
    few = single(lambda: plain(tensor, inputs), device=device)
    ours, theirs = first.result, few.result
    twice = torch.where(ours.first == ours.second, 1.0, 2.0).to(device)
    apart = float(((ours.coefficients.abs() / twice.sqrt() - theirs[0]).abs() / theirs[0]).max())
    same = float(((ours.first * m + ours.second) == theirs[1]).double().mean())
    off = float(((ours.energies - theirs[2]).abs() / theirs[2]).max())
    if runs == 1:
        ratio = few.seconds / first.seconds
        seconds = Times(first.seconds, few.seconds, None, (ratio, ratio))
    else:
        all_of_them = (lambda: everything(tensor, inputs)) if formed else None
        seconds = compare(
            lambda: decompose.strongest(tensor, inputs, top=TOP), lambda: plain(tensor, inputs), all_of_them,
            runs=runs, device=device,
        )  # fmt: skip
    operations = n * (2 * h * d**2 + 2 * m * d**2 + m**2 * d)
    published = None
    if formed and seconds.published is not None:
        formed_sizes = everything(tensor, inputs)[0]
        published = Peer(
            "einsum of all outputs, formed at once",
            seconds.published,
            peak_memory(lambda: everything(tensor, inputs), device=device),
            f"sizes within {float(((formed_sizes - theirs[0]).abs() / theirs[0]).max()):.0e} of the few lines'",
        )
    return Line(
        work=f"top {TOP} interactions of {n:,} outputs in {m:,} input features, d={d}, h={h}",
        ours=seconds.ours,
        memory=first.memory,
        plain=Peer(
            "Q, then F Q Fᵀ and topk, one output at a time",
            seconds.plain,
            few.memory,
            f"sizes within {apart:.0e} of each, {same:.2%} of places the same in order, ‖C‖² within {off:.0e}; float32 "
            "throughout, without a bound on what is left",
        ),
        published=published,
        limit=operations / limits.float32,
        limited_by=f"{operations / 1e9:.0f} Gflop, Q and F Q whole, F Q Fᵀ above the diagonal, in float32 at "
        f"{limits.float32 / 1e9:.0f} Gflop/s{asked and f'; {asked}'}",
        brief=brief,
        spread=seconds.spread if runs > 1 else None,
        runs=runs,
        device=device,
    )


def points(small: bool, device: str) -> list[Point]:
    """How the time grows with the features of the input, m, and with the outputs, o."""
    base = {"m": 250, "n": 8} if small else {"m": 500, "n": 32}
    found = []
    for axis, scales in {"m": (1, 2, 4), "n": (1, 2, 4)}.items():
        for scale in scales:
            at = base | {axis: base[axis] * scale}
            tensor, inputs = layer(576, 1536, at["m"], at["n"], device)
            seconds = median(
                lambda tensor=tensor, inputs=inputs: decompose.strongest(tensor, inputs, top=TOP), runs=3, device=device
            )
            found.append(Point("decompose.strongest", "o" if axis == "n" else axis, at[axis], seconds))
    return found


def main() -> None:
    asked = options(__doc__)
    limits, device = rates(asked.device, small=asked.small), asked.device
    size = (576, 1536)
    shared = {"limits": limits, "device": device}
    if asked.small:
        lines = [line(*size, 300, 16, formed=True, runs=3, **shared)]
    else:
        brief = f"top {TOP} interactions, 1,000 outputs in 1,000 features, d = 576, h = 1,536"
        lines = [
            line(*size, 1000, 128, formed=True, runs=RUNS, **shared),
            line(*size, 1000, 1000, formed=False, runs=1, brief=brief, asked=ASKED, **shared),
        ]
    report(lines, points(asked.small, device), limits, asked.json)


if __name__ == "__main__":
    main()
