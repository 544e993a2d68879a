"""SVD of B as an o × d² matrix: `decompose.svd` on the factors against `torch.linalg.svd` of the dense matrix.

All singular values and output directions, and the right singular vectors as kernels. The dense side of the full setting
takes minutes and 8 GB, and is run once, beside the factored side before and after it.

Run: python benchmarks/svd.py [--small] [--device cpu|cuda] [--json FILE]
"""

from __future__ import annotations

import statistics

import torch
from measuring import RUNS, Line, Point, median, once, options, peak_memory, rates, report
from torch import Tensor

from bilens import decompose
from bilens.space import Space
from bilens.tensor import BilinearTensor

COMPARED = 200


def layer(h: int, d: int, device: str) -> BilinearTensor:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(h, d, generator=generator).to(device) for _ in range(2))
    return BilinearTensor.from_layer(left, right, input=Space("input", d), output=Space("hidden", h))


def peer(tensor: BilinearTensor) -> Tensor:
    o, d = tensor.output.dim, tensor.input.dim
    return torch.linalg.svd(tensor.to_dense(limit=2**40).reshape(o, d * d), full_matrices=False).S


def main() -> None:
    asked = options(__doc__)
    limits = rates(asked.device)
    h, d = (200, 256) if asked.small else (1000, 784)
    tensor = layer(h, d, asked.device)
    before = median(lambda: decompose.svd(tensor), runs=RUNS, device=asked.device)
    values: list[Tensor] = []
    taken: list[float] = []

    def theirs() -> None:
        taken.append(once(lambda: values.append(peer(tensor)), device=asked.device))

    theirs_memory = peak_memory(theirs, device=asked.device)
    after = median(lambda: decompose.svd(tensor), runs=RUNS, device=asked.device)
    ours = decompose.svd(tensor).values[:COMPARED]
    apart = float(((ours - values[0][:COMPARED]).abs() / values[0][:COMPARED]).max())
    work = 2 * 2 * h * h * d  # LRᵀ, and half each of LLᵀ and RRᵀ
    gram = tensor.gram()
    eigenproblem = median(lambda: torch.linalg.eigh(gram), runs=RUNS, device=asked.device)
    line = Line(
        work=f"SVD of B before the read-out, h={h}, d={d}",
        peer="dense torch.linalg.svd, once",
        ours=statistics.mean((before, after)),
        theirs=taken[0],
        ours_memory=peak_memory(lambda: decompose.svd(tensor), device=asked.device),
        theirs_memory=theirs_memory,
        limit=work / limits.float64 + eigenproblem,
        limited_by=f"two products at {limits.float64 / 1e9:.0f} Gflop/s, {work / limits.float64:.2g} s, and one h × h"
        f" eigenproblem in float64, measured on its own, {eigenproblem:.2g} s",
        agreement=f"top {COMPARED} singular values within {apart:.1e} of each",
        at_least=None if asked.small else 1000.0,
        runs=2 * RUNS,
        device=asked.device,
    )
    points = []
    for axis, sizes in (("h", (125, 250, 500, 1000)), ("d", (196, 392, 784, 1568))):
        for value in sizes:
            at = {"h": 500, "d": 392} | {axis: value}
            scaled = layer(at["h"], at["d"], asked.device)
            seconds = median(lambda scaled=scaled: decompose.svd(scaled), runs=3, device=asked.device)
            points.append(Point("decompose.svd", axis, value, seconds))
    report([line], points, limits, asked.json)


if __name__ == "__main__":
    main()
