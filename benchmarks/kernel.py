"""The kernel of one output of a large layer and its product Q v, against that product from the factors alone.

Published code forms the matrix of the kernel by einsum, symmetrises it and multiplies.

A kernel shares its tensor's factors and is valid because they are, so that making one reads a row of the read-out and
nothing else. The limit asked for: kernel and product together take at most 1.5 times the product.

Run: python benchmarks/kernel.py [--small] [--device cpu|cuda] [--json FILE]
"""

from __future__ import annotations

import torch
from measuring import RUNS, Line, Peer, compare, options, peak_memory, rates, report
from torch import Tensor

from bilens.space import Space
from bilens.tensor import BilinearTensor

MOST = 1.5


def plain(tensor: BilinearTensor, v: Tensor) -> Tensor:
    """Q_0 v = ½[Lᵀ(w ∘ R v) + Rᵀ(w ∘ L v)], w the first row of D."""
    left, right, weights = tensor.left, tensor.right, tensor.down[0]
    return (((v @ right.T) * weights) @ left + ((v @ left.T) * weights) @ right) / 2


def formed(tensor: BilinearTensor, v: Tensor) -> Tensor:
    """Q_0 v through the d × d matrix of the kernel."""
    kernel = torch.einsum("h,hi,hj->ij", tensor.down[0], tensor.left, tensor.right)
    return v @ ((kernel + kernel.T) / 2)


def main() -> None:
    asked = options(__doc__)
    device, limits = asked.device, rates(asked.device, small=asked.small)
    h, d, o, count = (1024, 256, 64, 8) if asked.small else (8192, 2048, 2048, 1)
    generator = torch.Generator().manual_seed(0)
    left, right, down, v = (
        torch.randn(size, generator=generator).to(device) for size in ((h, d), (h, d), (o, h), (count, d))
    )
    tensor = BilinearTensor.from_layer(left, right, down, input=Space("input", d), output=Space("output", o))
    seconds = compare(
        lambda: tensor.kernel(0).matvec(v),
        lambda: plain(tensor, v),
        lambda: formed(tensor, v),
        runs=4 * RUNS,
        device=device,
    )
    theirs = plain(tensor, v)
    off = float((tensor.kernel(0).matvec(v) - theirs).norm() / theirs.norm())
    read = 4 * tensor.left.numel() * tensor.left.element_size()
    line = Line(
        work=f"one kernel and its product Q v, h={h}, d={d}",
        ours=seconds.ours,
        memory=peak_memory(lambda: tensor.kernel(0).matvec(v), device=device),
        plain=Peer(
            "the product from the factors, without a kernel",
            seconds.plain,
            peak_memory(lambda: plain(tensor, v), device=device),
            f"within {off:.0e} of its norm",
        ),
        published=Peer(
            "einsum of its matrix, symmetrised, and the product",
            seconds.published,
            peak_memory(lambda: formed(tensor, v), device=device),
            f"within {float((formed(tensor, v) - theirs).norm() / theirs.norm()):.0e} of its norm",
        ),
        limit=read / limits.copy,
        limited_by=f"reading both factors twice, {read / 1e6:.0f} MB",
        reach=round(1 / MOST, 2),
        spread=seconds.spread,
        runs=4 * RUNS,
        device=device,
    )
    report([line], [], limits, asked.json)


if __name__ == "__main__":
    main()
