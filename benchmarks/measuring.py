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
from typing import Any, NamedTuple

import torch

from bilens.decompose.many._solve import Packed

RUNS = 5


@dataclass(frozen=True)
class Peer:
    """Who does the same work, its median seconds, its peak bytes above the inputs, how its results compare with ours.

    `memory` is None where it works in processes of its own.
    """

    name: str
    seconds: float
    memory: int | None
    agreement: str


@dataclass(frozen=True)
class Line:
    """One line of the table: the same work by this project and by its peers, in the same run on the same machine.

    `plain` is the same identity in the fewest lines of torch or scipy, equal in accuracy and in what it returns, on as
    many threads; `published` is what published code or a library does, None where nothing does this work. `ours` is
    the median in seconds, `memory` the peak in bytes above the inputs. `limit` is the least time that the machine's own
    rate of products, or of memory, allows for `ours`, and `limited_by` says how that was reckoned. `reach` is the ratio
    to `plain` that is asked for, None where none is; `spread` is the lowest and the highest ratio to it of one turn.
    `brief` names the work in README; where it is "", `work` does.
    """

    work: str
    ours: float
    memory: int
    plain: Peer
    published: Peer | None
    limit: float
    limited_by: str
    runs: int
    reach: float | None = None
    spread: tuple[float, float] | None = None
    brief: str = ""
    device: str = "cpu"


def saves(line: dict[str, Any]) -> str:
    """What saves most of the time: the identity, as the few lines show, or the engineering beyond it.

    "neither" where ours and what is published are less than 5 % away from the few lines, or slower; where single turns
    of ours were slower than the few lines and others faster, ours counts as no faster.
    """
    engineering = line["plain"]["seconds"] / line["ours"]
    if line.get("spread") and line["spread"][0] < 1 < line["spread"][1]:
        engineering = 1.0
    identity = line["published"]["seconds"] / line["plain"]["seconds"] if line["published"] else 1.0
    if max(engineering, identity) <= 1.05:
        return "neither"
    return "identity" if identity >= engineering else "engineering"


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


SLOW = 2.0
"""Seconds from which on a published peer is run once, or its single run would be most of a benchmark."""


class Times(NamedTuple):
    """Median seconds of the three sides, and the lowest and the highest ratio of the few lines to ours in one turn."""

    ours: float
    plain: float
    published: float | None
    spread: tuple[float, float]


def compare(
    ours: Callable[[], Any],
    plain: Callable[[], Any],
    published: Callable[[], Any] | None = None,
    *,
    runs: int = RUNS,
    device: str = "cpu",
) -> Times:
    """Seconds of all sides, run in turn so that whatever else the machine does falls on all alike.

    One run of each comes first and does not count, as it loads libraries and fills caches; only a published peer that
    took `SLOW` seconds in it is not run again.
    """
    sides = [ours, plain] if published is None else [ours, plain, published]
    first = [once(side, device=device) for side in sides]
    again = [side for side, seconds in zip(sides, first, strict=True) if side is not published or seconds < SLOW]
    times = [[once(side, device=device) for side in again] for _ in range(runs)]
    medians = [statistics.median(column) for column in zip(*times, strict=True)] + first[len(again) :]
    ratios = [turn[1] / turn[0] for turn in times]
    return Times(medians[0], medians[1], medians[2] if published else None, (min(ratios), max(ratios)))


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


class Single(NamedTuple):
    """What one run gave, its seconds, and its peak in bytes above what was held before."""

    result: Any
    seconds: float
    memory: int


def single(work: Callable[[], Any], *, device: str = "cpu") -> Single:
    """One run for everything, where a run takes a minute."""
    results: list[Any] = []
    seconds: list[float] = []
    memory = peak_memory(
        lambda: seconds.append(once(lambda: results.append(work()), device=device)),
        device=device,
    )
    return Single(results[0], seconds[0], memory)


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


def product_rate(dtype: torch.dtype, device: str = "cpu", *, small: bool = False) -> float:
    """Operations a second of a product of large matrices, by whichever of torch's two on a CPU is faster."""
    n = 8192 if device != "cpu" else 1000 if small else 2000
    a = torch.rand(n, n, device=device).to(dtype)
    packed = Packed(a)
    return (
        2 * n**3 / min(median(lambda: a @ a, runs=3, device=device), median(lambda: packed(a), runs=3, device=device))
    )


def rates(device: str = "cpu", *, small: bool = False) -> Rates:
    """Measure the limits of the machine now, in this process; `small` ones are rougher, and take a second."""
    source, target = (torch.rand(2**24 if small else 2**26, device=device) for _ in range(2))
    copied = 2 * source.numel() * 4 / median(lambda: target.copy_(source), runs=3, device=device)
    filled = target.numel() * 4 / median(lambda: target.fill_(1.0), runs=3, device=device)
    products = (product_rate(dtype, device, small=small) for dtype in (torch.float32, torch.float64))
    return Rates(*products, copied, filled)


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
        asked = "" if line.reach is None else f" (asked: {line.reach:g}×)"
        print(f"{line.work}: {line.ours:.4g} s, {line.memory / 1e6:,.0f} MB, {line.runs} runs")
        for peer in (line.plain, line.published):
            if peer is not None:
                spread = "" if line.spread is None else f" ({line.spread[0]:.3g} to {line.spread[1]:.3g})"
                ratio = f"{peer.seconds / line.ours:.3g}×{spread + asked if peer is line.plain else ''}"
                memory = "" if peer.memory is None else f", {peer.memory / 1e6:,.0f} MB"
                print(f"  {ratio} against {peer.name}: {peer.seconds:.4g} s{memory}; {peer.agreement}")
        print(f"  {saves(asdict(line))}; limit {line.limit:.4g} s: {line.limited_by}")
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
