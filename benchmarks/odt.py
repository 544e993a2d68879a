"""Balanced truncation (ODT) of a deep network: `decompose.odt` on the factors, against explicit m × m × m cores.

All bonds but the input's, whose eigenproblem is the same on every side. The few lines of torch use the same two
recursions; the explicit cores are orthogonalised by QR and contracted, as the published reduction does, once.

Run: python benchmarks/odt.py [--small] [--device cpu|cuda] [--json FILE]
"""

from __future__ import annotations

from itertools import pairwise

import torch
from measuring import RUNS, Line, Peer, Point, compare, median, once, options, peak_memory, rates, report
from scipy.linalg.lapack import dsytrd
from torch import Tensor

from bilens import decompose
from bilens.deep import DeepTensor
from bilens.space import Space
from bilens.tensor import BilinearTensor

OUTPUTS = 10


def network(d: int, h: int, depth: int, device: str) -> DeepTensor:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return (torch.randn(*shape, generator=generator, dtype=torch.float64) / shape[1] ** 0.5).to(device)

    layers, sizes = [], [d, *[h] * (depth - 1), OUTPUTS]
    for n, (below, above) in enumerate(pairwise(sizes)):
        down = torch.eye(h, dtype=torch.float64, device=device) if above == h else random(above, h)
        layers.append(
            BilinearTensor(
                random(h, below), random(h, below), down, Space(f"bond {n}", below), Space(f"bond {n + 1}", above)
            )
        )
    return DeepTensor.chain(*layers)


def plain(deep: DeepTensor) -> list[Tensor]:
    """Grams upward, environments downward, one eigenproblem of each per bond: the same recursions in few lines."""
    grams = [torch.eye(deep.input.dim, dtype=torch.float64, device=deep.layers[0].left.device)]
    for layer in deep.layers:
        left, right, gram = layer.left, layer.right, grams[-1]
        one, two = left @ gram, right @ gram
        crossed = one @ right.T
        hidden = ((one @ left.T) * (two @ right.T) + crossed * crossed.T) / 2
        grams.append(layer.down @ hidden @ layer.down.T)
    found, above = [], torch.eye(OUTPUTS, dtype=torch.float64, device=grams[0].device)
    for place in range(deep.depth, 0, -1):
        values, vectors = torch.linalg.eigh(grams[place])
        root = vectors * values.clamp(min=0).sqrt()
        squares, turn = torch.linalg.eigh(root.T @ above @ root)
        found.append(squares.flip(0).clamp(min=0).sqrt())
        _ = root @ turn  # the directions
        layer, gram = deep.layers[place - 1], grams[place - 1]
        if place == 1:
            break
        left, right, outer = layer.left, layer.right, layer.down.T @ above @ layer.down
        one, two = left @ gram, right @ gram
        crossed = outer * (two @ left.T)
        above = left.T @ ((outer * (two @ right.T)) @ left + crossed @ right)
        above = (above + right.T @ (crossed.T @ left + (outer * (one @ left.T)) @ right)) / 4
    return found[::-1]


def cores(deep: DeepTensor) -> list[Tensor]:
    """Explicit cores (m', m, m): orthogonalised upward by QR, environments contracted downward."""
    factor, orthogonal = None, []
    for layer in deep.layers:
        half = torch.einsum("oh,hi,hj->oij", layer.down, layer.left, layer.right)
        core = (half + half.transpose(1, 2)) / 2
        if factor is not None:
            core = torch.einsum("oij,ia,jb->oab", core, factor, factor)
        rows, size = core.shape[0], core.shape[1]
        basis, triangle = torch.linalg.qr(core.reshape(rows, -1).T)
        orthogonal.append(basis.T.reshape(-1, size, size))
        factor = triangle.T
    above, found = factor.T @ factor, []
    for core in reversed(orthogonal):
        found.append(torch.linalg.eigvalsh(above).flip(0).clamp(min=0).sqrt())
        if core is not orthogonal[0]:
            above = torch.einsum("oab,op,pcb->ac", core, above, core)
    return found[::-1]


def apart(ours: decompose.ODT, theirs: list[Tensor]) -> float:
    """The largest difference of singular values, over σ₁ of the bond."""
    return max(
        float((a[: len(b)] - b[: len(a)]).abs().max() / a[0]) for a, b in zip(ours.values[1:], theirs, strict=True)
    )


def main() -> None:
    asked = options(__doc__)
    device, limits = asked.device, rates(asked.device, small=asked.small)
    settings = [(128, 128, 2)] if asked.small else [(256, 256, 2), (784, 256, 3)]
    lines = []
    for d, h, depth in settings:
        deep = network(d, h, depth, device)
        ours = decompose.odt(deep, leaves=False)
        published = None
        if d == h:
            found: list[list[Tensor]] = []
            taken: list[float] = []
            memory = peak_memory(
                lambda deep=deep, found=found, taken=taken: taken.append(
                    once(lambda: found.append(cores(deep)), device=device)
                ),
                device=device,
            )
            published = Peer(
                "explicit cores, QR and contractions, once",
                taken[0],
                memory,
                f"σ within {apart(ours, found[0]):.0e} σ₁",
            )
        seconds = compare(
            lambda deep=deep: decompose.odt(deep, leaves=False), lambda deep=deep: plain(deep), device=device
        )
        operations = sum(
            2 * layer.hidden * m * (3 * layer.hidden + (place > 0) * (4 * m + 3 * layer.hidden))
            for place, layer in enumerate(deep.layers)
            for m in [layer.input.dim]
        )
        gram = deep.gram(1).cpu().numpy()
        reduction = median(lambda gram=gram: dsytrd(gram, lower=1, lwork=64 * len(gram)), runs=RUNS)
        reductions = (depth - 1) * reduction
        lines.append(
            Line(
                work=f"ODT, hidden and output bonds, d={d}, h={h}, {depth} layers",
                ours=seconds.ours,
                memory=peak_memory(lambda deep=deep: decompose.odt(deep, leaves=False), device=device),
                plain=Peer(
                    "the two recursions and two eigh per bond in torch",
                    seconds.plain,
                    peak_memory(lambda deep=deep: plain(deep), device=device),
                    f"σ within {apart(ours, plain(deep)):.0e} σ₁",
                ),
                published=published,
                limit=operations / limits.float64 + reductions,
                limited_by=(
                    f"the products of both recursions, {operations / 1e9:.1f} Gflop in float64 at "
                    f"{limits.float64 / 1e9:.0f} Gflop/s, and LAPACK's reduction of a matrix of each hidden bond to "
                    f"tridiagonal form, {reductions:.2g} s"
                ),
                reach=None,
                brief=f"ODT of {depth} layers, d = {d}, h = {h}",
                spread=seconds.spread,
                runs=RUNS,
                device=device,
            )
        )
    points = []
    for axis, sizes in (("h", (32, 64, 128, 256)), ("depth", (2, 3, 4, 6))):
        for value in sizes if not asked.small else sizes[:2]:
            at = {"h": 128, "depth": 2} | {axis: value}
            scaled = network(256, at["h"], at["depth"], device)
            points.append(
                Point(
                    "decompose.odt",
                    axis,
                    value,
                    median(lambda s=scaled: decompose.odt(s, leaves=False), runs=3, device=device),
                )
            )
    report(lines, points, limits, asked.json)


if __name__ == "__main__":
    main()
