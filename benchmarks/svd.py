"""SVD of the tensor of an MNIST layer: `decompose.svd` on the factors against `torch.linalg.svd` of the dense tensor.

Each side runs in a process of its own on the same weights, so that its peak memory is its own; the factored side runs
before and after the dense one. The dense side needs about 8 GB and some minutes at 1,000 hidden units.

Run: python benchmarks/svd.py [--hidden 1000] [--write benchmarks/results.md]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from bilens import data, decompose, files, models
from bilens.space import Space
from bilens.tensor import BilinearTensor

COMPARED = 200
RUNS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, default=1000)
    parser.add_argument("--write", type=Path, help="a Markdown file to write the table to")
    parser.add_argument("--side", choices=("factored", "dense"), help=argparse.SUPPRESS)
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measure(options.side, options.weights)))
        return
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.safetensors"
        source = train(options.hidden, weights)
        rate, copy = limits()
        before, dense, after = (run(side, weights) for side in ("factored", "dense", "factored"))
    ours = before | {"seconds": statistics.median(before["times"] + after["times"])}
    apart = max(abs(a - b) / b for a, b in zip(ours["values"], dense["values"], strict=True))
    flops = 3 * 2 * options.hidden**2 * 784
    rows = [
        ("`bilens.decompose.svd` on the factors, median of " + str(2 * RUNS), ours),
        (f"`torch.linalg.svd` of the dense {options.hidden} × {784**2:,}, once", dense),
    ]
    lines = [
        "# SVD of the tensor of a layer",
        "",
        f"{options.hidden} hidden units × 784 pixels, trained on {source}.",
        f"Measured on {date.today()}: {torch.get_num_threads()} threads, {platform.machine()},",
        f"torch {torch.__version__}, float64 products at {rate / 1e9:.0f} Gflop/s, copies at {copy / 1e9:.1f} GB/s.",
        "",
        "| | seconds | extra memory |",
        "|---|---|---|",
        *(f"| {name} | {side['seconds']:.3f} | {side['memory'] / 1e6:,.0f} MB |" for name, side in rows),
        f"| ratio | {dense['seconds'] / ours['seconds']:.0f}× | {dense['memory'] / max(ours['memory'], 1e6):.0f}× |",
        "",
        f"Largest relative difference of the top {len(ours['values'])} singular values: {apart:.1e}.",
        f"The three products of the Gram matrix take {flops / rate:.3f} s at that rate; the rest is its eigenproblem.",
        "",
    ]
    table = "\n".join(lines)
    print(table)
    if options.write:
        files.write_text(options.write, table)


def train(hidden: int, weights: Path) -> str:
    digits = data.mnist()
    model = models.ImageClassifier(digits.input, digits.output, hidden)
    models.train(model, digits.train.images, digits.train.labels, epochs=2)
    tensor = model.hidden_tensor()
    save_file({"left": tensor.left.cpu().contiguous(), "right": tensor.right.cpu().contiguous()}, weights)
    return f"{len(digits.train.labels):,} images of {digits.name}"


def run(side: str, weights: Path) -> dict:
    print(f"measuring the {side} side …", file=sys.stderr)
    command = [sys.executable, __file__, "--side", side, "--weights", str(weights)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(side: str, weights: Path) -> dict:
    factors = load_file(weights)
    hidden, pixels = factors["left"].shape
    tensor = BilinearTensor.from_layer(
        factors["left"], factors["right"], input=Space("pixels", pixels), output=Space("hidden", hidden)
    )
    compared = min(COMPARED, hidden)
    torch.linalg.eigh(torch.eye(8))  # the linear-algebra library is loaded before anything is measured
    before = reset_peak()
    if side == "factored":
        times = []
        for _ in range(RUNS):
            start = time.perf_counter()
            values = decompose.svd(tensor).values
            times.append(time.perf_counter() - start)
    else:
        start = time.perf_counter()
        dense = tensor.to_dense(limit=2**40).reshape(hidden, pixels**2)
        values = torch.linalg.svd(dense, full_matrices=False).S
        times = [time.perf_counter() - start]
    return {
        "times": times,
        "seconds": statistics.median(times),
        "memory": peak() - before,
        "values": values[:compared].tolist(),
    }


def reset_peak() -> int:
    """Resident size now, in bytes; where the system allows it, `peak` counts from here on."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    """Largest resident size of this process, in bytes."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


def limits() -> tuple[float, float]:
    """What this machine does at best: float64 product in flop/s, copy in bytes/s (read and written)."""
    a = torch.randn(1500, 1500, dtype=torch.float64)
    products, copies = [], []
    source, target = torch.randn(2**26), torch.empty(2**26)
    for _ in range(5):
        start = time.perf_counter()
        a @ a
        products.append(2 * 1500**3 / (time.perf_counter() - start))
        start = time.perf_counter()
        target.copy_(source)
        copies.append(2 * source.numel() * 4 / (time.perf_counter() - start))
    return statistics.median(products), statistics.median(copies)


if __name__ == "__main__":
    main()
