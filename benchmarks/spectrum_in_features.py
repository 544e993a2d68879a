"""Spectrum of F Q Fᵀ, a kernel as a function of m codes: from the factors, against forming it and `eigvalsh`.

The peer makes the m × m matrix and asks for its eigenvalues alone. `decompose.eigvalsh_pullback` gives all that are not
0; `decompose.eigh_pullback` 8 of them with their vectors, refined in float64. The peer is run once.

Run: python benchmarks/spectrum_in_features.py [--small] [--device cpu|cuda] [--json FILE]
"""

from __future__ import annotations

import torch
from measuring import RUNS, Line, Point, median, once, options, peak_memory, rates, report
from torch import Tensor

from bilens import decompose
from bilens.decompose import features
from bilens.dictionary import Dictionary
from bilens.space import Space
from bilens.tensor import Kernel

K = 8


def problem(m: int, d: int, h: int, device: str) -> tuple[Kernel, Dictionary]:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(h, d, generator=generator).to(device) for _ in range(2))
    kernel = Kernel(left, right, torch.randn(h, generator=generator).to(device), Space("input", d))
    atoms = torch.nn.functional.normalize(torch.randn(m, d, generator=generator), dim=1).to(device)
    return kernel, Dictionary(atoms, atoms, kernel.input, Space("features", m), d)  # the duals are not used


def peer(kernel: Kernel, dictionary: Dictionary) -> Tensor:
    half = (kernel.left * kernel.weights[:, None]).T @ kernel.right
    return torch.linalg.eigvalsh(dictionary.atoms @ ((half + half.T) / 2) @ dictionary.atoms.T)


def main() -> None:
    asked = options(__doc__)
    limits = rates(asked.device)
    m, d, h = (2048, 256, 512) if asked.small else (8192, 512, 1536)
    kernel, dictionary = problem(m, d, h, asked.device)
    found: list[Tensor] = []
    taken: list[float] = []

    def their_run() -> None:
        taken.append(once(lambda: found.append(peer(kernel, dictionary)), device=asked.device))

    theirs_memory = peak_memory(their_run, device=asked.device)
    size = found[0].abs().sort(descending=True).values
    gram, rest = m * d * (d + features.GRAM_BLOCK), 2 * h * d * d + 4 * d**3
    lines = []
    for name, work, at_least, ours in (
        ("eigenvalues", gram + rest, 200.0, lambda: decompose.eigvalsh_pullback(kernel, dictionary)),
        (f"{K} eigenpairs", gram + rest, None, lambda: decompose.eigh_pullback(kernel, dictionary, K).values),
    ):
        values = ours().abs()
        apart = float((values - size[: len(values)]).abs().max() / size[0])
        lines.append(
            Line(
                work=f"{name} of F Q Fᵀ, m={m}, d={d}, h={h}, one direction",
                peer="forming it and torch.linalg.eigvalsh, once",
                ours=median(ours, runs=RUNS, device=asked.device),
                theirs=taken[0],
                ours_memory=peak_memory(ours, device=asked.device),
                theirs_memory=theirs_memory,
                limit=work / limits.float32,
                limited_by=f"products of {work / 1e9:.1f} Gflop at {limits.float32 / 1e9:.0f} Gflop/s; the rest is a"
                " d × d eigenproblem and, for pairs, their refinement",
                agreement=f"{len(values)} of |λ| within {apart:.1e} of the largest",
                at_least=None if asked.small else at_least,
                runs=RUNS,
                device=asked.device,
            )
        )
    points = []
    for size_of, values in (("m", (1024, 4096, 16384)), ("d", (128, 256, 512))):
        for value in values:
            at = problem(**({"m": 4096, "d": 256, "h": 512} | {size_of: value}), device=asked.device)
            seconds = median(lambda at=at: decompose.eigvalsh_pullback(*at), runs=3, device=asked.device)
            points.append(Point("decompose.eigvalsh_pullback", size_of, value, seconds))
    report(lines, points, limits, asked.json)


if __name__ == "__main__":
    main()
