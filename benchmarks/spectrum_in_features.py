"""Spectrum of F Q Fᵀ, a kernel as a function of m codes: from the factors, against the same identity and the matrix.

The eigenvalues of F Q Fᵀ that are not 0 are those of C Q Cᵀ with C the Cholesky factor of FᵀF. The few lines use that;
for a few pairs there are two such peers: all of C Q Cᵀ, and scipy's eigsh, which multiplies with F, Q and Fᵀ and makes
no matrix. What is published makes the m × m matrix and asks for its eigenvalues, and is run once.

Run: python benchmarks/spectrum_in_features.py [--small] [--device cpu|cuda] [--json FILE]
"""

from __future__ import annotations

import numpy as np
import scipy.sparse.linalg
import torch
from measuring import RUNS, Line, Peer, Point, compare, median, once, options, peak_memory, rates, report
from numpy.typing import NDArray
from torch import Tensor

from bilens import decompose
from bilens.decompose import features
from bilens.dictionary import Dictionary
from bilens.kernel import Kernel
from bilens.space import Space

K = 8


def problem(m: int, d: int, h: int, device: str) -> tuple[Kernel, Dictionary]:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(h, d, generator=generator).to(device) for _ in range(2))
    kernel = Kernel(left, right, torch.randn(h, generator=generator).to(device), Space("input", d))
    atoms = torch.nn.functional.normalize(torch.randn(m, d, generator=generator), dim=1).to(device)
    return kernel, Dictionary(atoms, atoms, kernel.input, Space("features", m), d)  # the duals are not used


def plain_values(kernel: Kernel, dictionary: Dictionary) -> Tensor:
    half = (kernel.left * kernel.weights[:, None]).T @ kernel.right
    root = torch.linalg.cholesky(dictionary.atoms.T @ dictionary.atoms, upper=True)
    return torch.linalg.eigvalsh(root @ (half + half.T) @ root.T / 2)


def plain_pairs(kernel: Kernel, dictionary: Dictionary) -> tuple[Tensor, Tensor, Tensor]:
    """In float64, as right as ours: values, vectors among the codes, residuals."""
    atoms = dictionary.atoms.double()
    half = (kernel.left * kernel.weights[:, None]).double().T @ kernel.right.double()
    root = torch.linalg.cholesky(atoms.T @ atoms, upper=True)
    small = root @ (half + half.T) @ root.T / 2
    values, turn = torch.linalg.eigh(small)
    order = values.abs().argsort(descending=True)[:K]
    values, turn = values[order], turn[:, order]
    vectors = atoms @ torch.linalg.solve_triangular(root, turn, upper=True)
    return values, vectors.T, (small @ turn - turn * values).norm(dim=0)


def few_pairs(kernel: Kernel, dictionary: Dictionary) -> tuple[Tensor, Tensor, Tensor]:
    """What `plain_pairs` gives, from scipy's eigsh on x ↦ F (Q (Fᵀ x)) in float64: nothing is formed."""
    atoms, left, right, weights = (
        part.double() for part in (dictionary.atoms, kernel.left, kernel.right, kernel.weights)
    )

    def times(x: NDArray[np.float64]) -> NDArray[np.float64]:
        given = atoms.T @ torch.from_numpy(x.reshape(len(atoms), -1)).to(atoms.device)
        both = left.T @ (weights[:, None] * (right @ given)) + right.T @ (weights[:, None] * (left @ given))
        return (atoms @ both / 2).cpu().numpy().reshape(x.shape)

    m = len(atoms)
    start = np.random.default_rng(0).standard_normal(m)
    found = scipy.sparse.linalg.LinearOperator((m, m), matvec=times, matmat=times, dtype=np.float64)
    values, vectors = scipy.sparse.linalg.eigsh(found, K, which="LM", v0=start)
    order = np.abs(values).argsort()[::-1]
    values, vectors = values[order], np.ascontiguousarray(vectors[:, order])
    off = np.linalg.norm(times(vectors) - vectors * values, axis=0)
    values, vectors, off = (torch.from_numpy(part).to(atoms.device) for part in (values, vectors, off))
    return values, vectors.T, off


def dense(kernel: Kernel, dictionary: Dictionary) -> Tensor:
    half = (kernel.left * kernel.weights[:, None]).T @ kernel.right
    return torch.linalg.eigvalsh(dictionary.atoms @ ((half + half.T) / 2) @ dictionary.atoms.T)


def main() -> None:
    asked = options(__doc__)
    limits = rates(asked.device, small=asked.small)
    m, d, h = (2048, 256, 512) if asked.small else (8192, 512, 1536)
    kernel, dictionary = problem(m, d, h, asked.device)
    found: list[Tensor] = []
    taken: list[float] = []

    def their_run() -> None:
        taken.append(once(lambda: found.append(dense(kernel, dictionary)), device=asked.device))

    theirs_memory = peak_memory(their_run, device=asked.device)
    size = found[0].abs().sort(descending=True).values
    gram, rest = m * d * (d + features.GRAM_BLOCK), 2 * h * d * d + 4 * d**3
    lines = []
    whole = "of C Q Cᵀ, C = cholesky(FᵀF)"

    def pairs() -> Tensor:
        return decompose.eigh_pullback(kernel, dictionary, K).values

    sides = (
        (
            "eigenvalues",
            "",
            lambda: decompose.eigvalsh_pullback(kernel, dictionary),
            plain_values,
            f"torch.linalg.eigvalsh {whole}",
        ),
        (f"{K} eigenpairs", "", pairs, plain_pairs, f"torch.linalg.eigh {whole}, in float64"),
        (f"{K} eigenpairs", ", beside ARPACK", pairs, few_pairs, "scipy's eigsh on x ↦ F (Q (Fᵀ x)), in float64"),
    )
    for name, beside, ours, plain, few_lines in sides:
        values, few = ours().abs(), plain(kernel, dictionary)
        few = (few if isinstance(few, Tensor) else few[0]).abs().sort(descending=True).values
        apart = [float((values - other[: len(values)]).abs().max() / size[0]) for other in (few, size)]
        seconds = compare(ours, lambda plain=plain: plain(kernel, dictionary), device=asked.device)
        lines.append(
            Line(
                work=f"{name} of F Q Fᵀ, m={m}, d={d}, h={h}, one direction{beside}",
                ours=seconds.ours,
                memory=peak_memory(ours, device=asked.device),
                plain=Peer(
                    few_lines,
                    seconds.plain,
                    peak_memory(lambda plain=plain: plain(kernel, dictionary), device=asked.device),
                    f"{len(values)} of |λ| within {apart[0]:.1e} of the largest",
                ),
                published=Peer(
                    "forming it and torch.linalg.eigvalsh, once",
                    taken[0],
                    theirs_memory,
                    f"{len(values)} of |λ| within {apart[1]:.1e} of the largest",
                ),
                limit=(gram + rest) / limits.float32,
                limited_by=f"products of {(gram + rest) / 1e9:.1f} Gflop at {limits.float32 / 1e9:.0f} Gflop/s; the "
                "rest is a d × d eigenproblem and, for pairs, their refinement",
                brief=f"{name} of a kernel in {m:,} features, d = {d}{beside}",
                spread=seconds.spread,
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
