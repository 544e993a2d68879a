"""Balanced truncation (ODT) of a deep network: `decompose.odt` on the factors, against explicit m × m × m cores.

All bonds but the input's, whose eigenproblem is the same on every side, and once the input's too, on one thread. The
few lines of torch use the same two recursions; the explicit cores are orthogonalised by QR and contracted, as the
published reduction does.

Run: python benchmarks/odt.py [--small] [--device cpu|cuda] [--json FILE]
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import torch
from measuring import RUNS, Line, Peer, Point, compare, median, options, peak_memory, rates, report
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


def plain(deep: DeepTensor, *, leaves: bool = False) -> list[Tensor]:
    """Grams upward, environments downward, one eigenproblem of each per bond: the same recursions in few lines."""
    grams = [torch.eye(deep.input.dim, dtype=torch.float64, device=deep.layers[0].left.device)]
    for layer in deep.layers:
        left, right, gram = layer.left, layer.right, grams[-1]
        one, two = left @ gram, right @ gram
        crossed = one @ right.T
        hidden = ((one @ left.T) * (two @ right.T) + crossed * crossed.T) / 2
        grams.append(layer.down @ hidden @ layer.down.T)
    found, above = [], torch.eye(OUTPUTS, dtype=torch.float64, device=grams[0].device)
    for place in range(deep.depth, -1 if leaves else 0, -1):
        values, vectors = torch.linalg.eigh(grams[place])
        root = vectors * values.clamp(min=0).sqrt()
        squares, turn = torch.linalg.eigh(root.T @ above @ root)
        found.append(squares.flip(0).clamp(min=0).sqrt())
        _ = root @ turn  # the directions
        if place == (0 if leaves else 1):
            break
        layer, gram = deep.layers[place - 1], grams[place - 1]
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
    values = ours.values[-len(theirs) :]
    return max(float((a[: len(b)] - b[: len(a)]).abs().max() / a[0]) for a, b in zip(values, theirs, strict=True))


def reduced(matrix: Any) -> Any:
    """LAPACK's reduction of a symmetric matrix to tridiagonal form."""
    return dsytrd(matrix, lower=1, lwork=64 * len(matrix))


def main() -> None:
    asked = options(__doc__)
    device, limits = asked.device, rates(asked.device, small=asked.small)
    settings = [(128, 128, 2, False)] if asked.small else [(256, 256, 2, False), (784, 256, 3, False)]
    settings.append((784, 256, 3, True))
    lines, threads = [], torch.get_num_threads()
    for d, h, depth, leaves in settings:
        torch.set_num_threads(1 if leaves else threads)
        deep = network(d, h, depth, device)
        ours = decompose.odt(deep, leaves=leaves)
        published = None
        if d == h and not leaves:
            found: list[list[Tensor]] = []
            published = Peer(
                "explicit cores, QR and contractions",
                median(partial(cores, deep), runs=RUNS, device=device),
                peak_memory(lambda deep=deep, found=found: found.append(cores(deep)), device=device),
                f"σ within {apart(ours, found[0]):.0e} σ₁",
            )
        odt = partial(decompose.odt, deep, leaves=leaves)
        few = partial(plain, deep, leaves=leaves)
        seconds = compare(odt, few, device=device)
        operations = sum(
            2 * layer.hidden * m * (3 * layer.hidden + (leaves or place > 0) * (4 * m + 3 * layer.hidden))
            for place, layer in enumerate(deep.layers)
            for m in [layer.input.dim]
        )
        matrices = [deep.gram(1)] * (depth - 1) + [deep.environment(0)] * leaves
        reductions = sum(median(partial(reduced, matrix.cpu().numpy()), runs=RUNS) for matrix in matrices)
        one = rates(device, small=asked.small) if leaves else limits
        bonds = "all bonds, one thread" if leaves else "hidden and output bonds"
        lines.append(
            Line(
                work=f"ODT, {bonds}, d={d}, h={h}, {depth} layers",
                ours=seconds.ours,
                memory=peak_memory(odt, device=device),
                plain=Peer(
                    "the two recursions and two eigh per bond in torch",
                    seconds.plain,
                    peak_memory(few, device=device),
                    f"σ within {apart(ours, few()):.0e} σ₁",
                ),
                published=published,
                limit=operations / one.float64 + reductions,
                limited_by=(
                    f"the products of both recursions, {operations / 1e9:.1f} Gflop in float64 at "
                    f"{one.float64 / 1e9:.0f} Gflop/s, and LAPACK's reduction of a matrix of each of these bonds but "
                    f"the last to tridiagonal form, {reductions:.2g} s"
                ),
                reach=None,
                brief=f"ODT of {depth} layers, d = {d}, h = {h}" + (", with the input" if leaves else ""),
                spread=seconds.spread,
                runs=RUNS,
                device=device,
            )
        )
    torch.set_num_threads(threads)
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
