"""Which method `decompose.eigh_many` chooses: its time beside that of each method, asked for by name.

The choice is made from sizes alone (`solver.costs`), so that the same call gives the same numbers everywhere. Here it
is held against the clock on layers of many shapes: the peer is, for each, the fastest of the three.

Run: python benchmarks/methods.py [--small] [--device cpu|cuda] [--json FILE]
"""

from __future__ import annotations

import functools
import statistics
from typing import get_args

import torch
from eigh_many import layer
from measuring import RUNS, Line, Peer, once, options, peak_memory, rates, report

from bilens import decompose
from bilens.decompose.solver import Method
from bilens.tensor import BilinearTensor

SMALL = [  # d, h, directions, k
    (64, 256, 64, 8),
    (256, 768, 64, 8),
    (256, 768, 1, 8),
    (512, 32, 64, 8),
    (785, 300, 10, 8),
]
FULL = [
    *SMALL,
    (128, 512, 64, 8),
    (256, 4096, 16, 8),
    (256, 768, 64, 1),
    (128, 8192, 64, 8),
    (64, 4096, 256, 4),
    (576, 1536, 1, 8),
    (576, 1536, 8, 8),
    (576, 1536, 128, 8),
    (576, 1536, 32, 32),
    (576, 1536, 32, 96),
    (785, 1000, 10, 20),
    (1024, 4096, 4, 8),
]


def seconds(tensor: BilinearTensor, k: int, device: str) -> tuple[float, ...]:
    """Median seconds of the chosen method and of each by name, in turn, after one run of each that does not count."""
    ways = [lambda way=way: decompose.eigh_many(tensor, k=k, method=way) for way in (None, *get_args(Method))]
    taken = [[once(way, device=device) for way in ways] for _ in range(RUNS + 1)]
    return tuple(map(statistics.median, zip(*taken[1:], strict=True)))


def main() -> None:
    asked = options(__doc__)
    device, limits = asked.device, rates(asked.device)
    shapes = [(shape, torch.float32) for shape in (SMALL if asked.small else FULL)]
    shapes += [] if asked.small else [(shape, torch.float64) for shape in SMALL]
    chosen, fastest, ratios = 0.0, 0.0, {}
    memory, theirs_memory = 0, 0
    for (d, h, n, k), dtype in shapes:
        tensor = layer(d, h, n, dtype, device)
        own, *others = seconds(tensor, k, device)
        ours = functools.partial(decompose.eigh_many, tensor, k=k)
        theirs = functools.partial(ours, method=get_args(Method)[others.index(min(others))])
        memory = max(memory, peak_memory(ours, device=device))
        theirs_memory = max(theirs_memory, peak_memory(theirs, device=device))
        named = f"d={d}, h={h}, {n} directions, k={k}, {str(dtype).removeprefix('torch.')}"
        times = ", ".join(
            f"{way} {s:.4f}" for way, s in zip(("chosen", *get_args(Method)), (own, *others), strict=True)
        )
        print(f"{named}, in seconds: {times}")
        chosen, fastest = chosen + own, fastest + min(others)
        ratios[named] = own / min(others)
    worst = max(ratios, key=lambda name: ratios[name])
    line = Line(
        work=f"choice of a method, {len(shapes)} layers from d=64 to d={max(shape[0] for shape, _ in shapes)}",
        ours=chosen,
        memory=memory,
        plain=Peer(
            "on each the fastest of full, formed and factors",
            fastest,
            theirs_memory,
            f"at worst {ratios[worst]:.2f} times the time of the fastest: {worst}",
        ),
        published=None,
        limit=fastest,
        limited_by="what the fastest method takes",
        runs=RUNS,
        device=device,
    )
    report([line], [], limits, asked.json)


if __name__ == "__main__":
    main()
