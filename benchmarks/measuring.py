"""What every benchmark shares: alternating timings, peak memory, the machine's own limits, and the line it reports."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bilens.products import Packed

RUNS = 5


@dataclass(frozen=True)
class Line:
    """One line of the table: the same work by this project and by a named peer, in the same run on the same machine.

    `ours` and `theirs` are medians in seconds, `ours_memory` and `theirs_memory` peaks in bytes above what the inputs
    hold. `limit` is what `ours` would take were the machine's own rate of products, or of copies, all that counted, and
    `limited_by` says how that was reckoned. `agreement` says how the two results were compared. `at_least` is the ratio
    that is asked for, None where none is.
    """

    work: str
    peer: str
    ours: float
    theirs: float
    ours_memory: int
    theirs_memory: int
    limit: float
    limited_by: str
    agreement: str
    at_least: float | None
    runs: int
    device: str = "cpu"

    @property
    def ratio(self) -> float:
        return self.theirs / self.ours


@dataclass(frozen=True)
class Point:
    """One measured point of a scaling figure: seconds of `work` where `axis` (d, h, o, k, …) has this value."""

    work: str
    axis: str
    value: int
    seconds: float


@dataclass(frozen=True)
class Rates:
    """What this machine does at best: products in flop/s, copies in bytes/s (read and written), fills in bytes/s.

    Products in float32 by whichever of torch's two is faster, plain or packed.
    """

    float32: float
    float64: float
    copy: float
    fill: float


def alternate(
    ours: Callable[[], Any], theirs: Callable[[], Any], *, runs: int = RUNS, device: str = "cpu"
) -> tuple[float, float]:
    """Median seconds of both sides, run in turn so that whatever else the machine does falls on both alike.

    One run of each comes first and does not count: it loads libraries and fills caches.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(runs + 1):
        for side, times_of_side in zip((ours, theirs), times, strict=True):
            seconds = once(side, device=device)
            if turn:
                times_of_side.append(seconds)
    return statistics.median(times[0]), statistics.median(times[1])


def once(work: Callable[[], Any], *, device: str = "cpu") -> float:
    """Seconds of one run, its result thrown away."""
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def median(work: Callable[[], Any], *, runs: int = RUNS, device: str = "cpu") -> float:
    """Median seconds of some runs, after one that does not count."""
    once(work, device=device)
    return statistics.median(once(work, device=device) for _ in range(runs))


def peak_memory(work: Callable[[], Any], *, device: str = "cpu") -> int:
    """Bytes that one run takes at its peak, above what was held before it."""
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # what glibc keeps of freed memory would be taken again without being seen
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # where the system allows it, the peak counts from here on
    before = resident_peak()
    work()
    return max(resident_peak() - before, 0)


def resident_peak() -> int:
    """Largest resident size of this process, in bytes."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


def product_rate(dtype: torch.dtype, device: str = "cpu") -> float:
    """Operations a second of a product of large matrices, by whichever of torch's two on a CPU is faster."""
    n = 2000 if device == "cpu" else 8192
    a = torch.rand(n, n, device=device).to(dtype)
    packed = Packed(a, n)
    return (
        2 * n**3 / min(median(lambda: a @ a, runs=3, device=device), median(lambda: packed(a), runs=3, device=device))
    )


def rates(device: str = "cpu") -> Rates:
    """Measure the limits of the machine now, in this process."""
    source, target = torch.rand(2**26, device=device), torch.empty(2**26, device=device)
    copied = 2 * source.numel() * 4 / median(lambda: target.copy_(source), runs=3, device=device)
    filled = target.numel() * 4 / median(lambda: target.fill_(1.0), runs=3, device=device)
    return Rates(product_rate(torch.float32, device), product_rate(torch.float64, device), copied, filled)


def options(description: str) -> argparse.Namespace:
    """The command line of every benchmark: `--small` for the setting of `make bench`, `--device`, `--json`."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="the setting that `make bench` runs")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path, help="a file to write the lines to, for the page of results")
    return parser.parse_args()


def report(lines: list[Line], points: list[Point], measured: Rates, json_path: Path | None) -> None:
    """Print what was measured and, when asked, write it for the page of results."""
    for line in lines:
        asked = "" if line.at_least is None else f" (asked: {line.at_least:g}×)"
        print(f"{line.work}\n  against {line.peer}")
        print(f"  {line.ours:.4g} s against {line.theirs:.4g} s: {line.ratio:.3g}×{asked}, {line.runs} runs a side")
        print(f"  memory {line.ours_memory / 1e6:,.0f} MB against {line.theirs_memory / 1e6:,.0f} MB")
        print(f"  limit {line.limit:.4g} s: {line.limited_by}\n  agreement: {line.agreement}")
    for point in points:
        print(f"{point.work}: {point.axis} = {point.value}: {point.seconds:.4g} s")
    if json_path is not None:
        content = {
            "lines": [asdict(line) for line in lines],
            "points": [asdict(point) for point in points],
            "rates": asdict(measured),
            "machine": machine(),
        }
        json_path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    name = platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    found = {"processor": name, "threads": torch.get_num_threads(), "python": platform.python_version()}
    if torch.cuda.is_available():
        found["accelerator"] = torch.cuda.get_device_name()
    return found
