"""SVD of B as an o × d² matrix: `decompose.svd` on the factors, against `eigh` of the hidden Gram and the dense SVD.

All components, and the top 50 alone; values, output directions and residuals. The dense side of the full setting takes
minutes and 8 GB and is run once.

Run: python benchmarks/svd.py [--small] [--device cpu|cuda] [--json FILE]
"""

from __future__ import annotations

import torch
from measuring import RUNS, Line, Peer, Point, compare, median, once, options, peak_memory, rates, report
from scipy.linalg.lapack import dsytrd
from torch import Tensor

from bilens import decompose
from bilens.space import Space
from bilens.tensor import BilinearTensor

COMPARED, FEW = 200, 50


def layer(h: int, d: int, device: str) -> BilinearTensor:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(h, d, generator=generator).to(device) for _ in range(2))
    return BilinearTensor.from_layer(left, right, input=Space("input", d), output=Space("hidden", h))


def plain(tensor: BilinearTensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The identity B Bᵀ = ½[(LLᵀ)∘(RRᵀ) + (LRᵀ)∘(RLᵀ)], where D = I, in a few lines."""
    left, right = tensor.left.double(), tensor.right.double()
    crossed = left @ right.T
    gram = ((left @ left.T) * (right @ right.T) + crossed * crossed.T) / 2
    squares, vectors = torch.linalg.eigh(gram)
    squares, vectors = squares.flip(0)[:k], vectors.flip(1)[:, :k]
    return squares.sqrt(), vectors.T, (gram @ vectors - vectors * squares).norm(dim=0)


def dense(tensor: BilinearTensor) -> Tensor:
    o, d = tensor.output.dim, tensor.input.dim
    return torch.linalg.svd(tensor.to_dense(limit=2**40).reshape(o, d * d), full_matrices=False).S


def main() -> None:
    asked = options(__doc__)
    device, limits = asked.device, rates(asked.device, small=asked.small)
    h, d = (200, 256) if asked.small else (1000, 784)
    tensor = layer(h, d, device)
    found: list[Tensor] = []
    taken: list[float] = []
    # Once for its time and its memory together.
    memory = peak_memory(lambda: taken.append(once(lambda: found.append(dense(tensor)), device=device)), device=device)
    published = Peer("dense torch.linalg.svd, once", taken[0], memory, "")
    products = 2 * 2 * h * h * d  # LRᵀ, and half each of LLᵀ and RRᵀ
    gram = tensor.gram().double().cpu().numpy()
    reduction = median(lambda: dsytrd(gram, lower=1, lwork=64 * h), runs=RUNS)
    lines = []
    for k, reach in ((h, None), (FEW if not asked.small else h // 20, None if asked.small else 2.0)):
        seconds = compare(lambda k=k: decompose.svd(tensor, k), lambda k=k: plain(tensor, k), device=device)
        ours, theirs = decompose.svd(tensor, k), plain(tensor, k)
        some = min(k, COMPARED)
        apart = float(((ours.values - theirs[0]).abs() / theirs[0])[:some].max())
        rest = [float(r.max()) / float(theirs[0][0]) ** 2 for r in (ours.residuals, theirs[2])]
        off = float(((ours.values - found[0][:k]).abs() / found[0][:k])[:some].max())
        lines.append(
            Line(
                work=f"SVD of B before the read-out, h={h}, d={d}, {'all' if k == h else f'top {k}'} components",
                ours=seconds.ours,
                memory=peak_memory(lambda k=k: decompose.svd(tensor, k), device=device),
                plain=Peer(
                    "torch.linalg.eigh of the hidden Gram",
                    seconds.plain,
                    peak_memory(lambda k=k: plain(tensor, k), device=device),
                    f"top {some} values within {apart:.0e} of each; residuals {rest[0]:.0e} (of the float32 returned) "
                    f"and {rest[1]:.0e} of σ₁²",
                ),
                published=Peer(
                    published.name, published.seconds, published.memory, f"top {some} values within {off:.0e} of each"
                ),
                limit=products / limits.float64 + reduction,
                limited_by=f"two products of (h, d) factors, {products / 1e9:.1f} Gflop in float64 at "
                f"{limits.float64 / 1e9:.0f} Gflop/s, and LAPACK's reduction of {h} × {h} numbers to tridiagonal form, "
                f"{reduction:.2g} s, which every solver of all or some eigenpairs without gaps begins with",
                reach=reach,
                brief=f"SVD of a hidden layer, h = {h:,}, d = {d}, {'all' if k == h else f'top {k}'}",
                spread=seconds.spread,
                runs=RUNS,
                device=device,
            )
        )
    points = []
    for axis, sizes in (("h", (125, 250, 500, 1000)), ("d", (196, 392, 784, 1568))):
        for value in sizes:
            at = {"h": 500, "d": 392} | {axis: value}
            scaled = layer(at["h"], at["d"], device)
            seconds_at = median(lambda scaled=scaled: decompose.svd(scaled), runs=3, device=device)
            points.append(Point("decompose.svd", axis, value, seconds_at))
    report(lines, points, limits, asked.json)


if __name__ == "__main__":
    main()
