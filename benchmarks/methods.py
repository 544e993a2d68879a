"""Which method `decompose.eigh_many` chooses: its time beside that of each method, asked for by name.

The choice is made from sizes alone, so that the same call gives the same numbers everywhere. Here it is held against
the clock on layers of many shapes: the peer is, for each, the faster of the two. Published
code forms all kernels and solves them by batched `torch.linalg.eigh`.

Run: python benchmarks/methods.py [--small] [--device cpu|cuda] [--json FILE]
"""

from __future__ import annotations

import functools
import statistics

import torch
from eigh_many import layer, published
from measuring import Line, Peer, once, options, peak_memory, rates, report

from bilens import decompose

WAYS = ("full", "factors")
RUNS = 3
SMALL = [  # d, h, directions, k, dtype: small, of few hidden units, of an image
    (64, 256, 64, 8, torch.float32),
    (512, 32, 16, 8, torch.float32),
    (785, 300, 4, 8, torch.float32),
]
FULL = [  # small, of a language model, of few hidden units, of an image, one direction, many of all, float64
    (64, 256, 64, 8, torch.float32),
    (256, 768, 64, 8, torch.float32),
    (512, 32, 64, 8, torch.float32),
    (785, 300, 10, 8, torch.float32),
    (256, 768, 1, 8, torch.float32),
    (128, 8192, 64, 8, torch.float32),
    (64, 4096, 256, 4, torch.float32),
    (576, 1536, 8, 8, torch.float32),
    (576, 1536, 32, 96, torch.float32),
    (256, 768, 64, 8, torch.float64),
]


def main() -> None:
    asked = options(__doc__)
    device, limits, shapes = asked.device, rates(asked.device, small=asked.small), SMALL if asked.small else FULL
    chosen, fastest, formed, memory, theirs_memory, formed_memory, ratios = 0.0, 0.0, 0.0, 0, 0, 0, {}
    for d, h, n, k, dtype in shapes:
        tensor = layer(d, h, n, dtype, device)
        ours, dense = functools.partial(decompose.eigh_many, tensor, k=k), functools.partial(published, tensor, k)
        ways = [*(functools.partial(ours, method=way) for way in (None, *WAYS)), dense]
        taken = [[once(way, device=device) for way in ways] for _ in range(RUNS + 1)]  # the first does not count
        own, *others, theirs = map(statistics.median, zip(*taken[1:], strict=True))
        named = f"d={d}, h={h}, {n} directions, k={k}, {str(dtype).removeprefix('torch.')}"
        print(f"{named}: chosen {own:.4f} s, " + ", ".join(f"{w} {s:.4f} s" for w, s in zip(WAYS, others, strict=True)))
        memory = max(memory, peak_memory(ours, device=device))
        theirs_memory = max(theirs_memory, peak_memory(ways[1 + others.index(min(others))], device=device))
        formed, formed_memory = formed + theirs, max(formed_memory, peak_memory(dense, device=device))
        chosen, fastest, ratios[named] = chosen + own, fastest + min(others), own / min(others)
    worst = max(ratios, key=lambda name: ratios[name])
    line = Line(
        work=f"choice of a method, {len(shapes)} layers from d=64 to d={max(shape[0] for shape in shapes)}",
        ours=chosen,
        memory=memory,
        plain=Peer(
            "on each the faster of full and factors",
            fastest,
            theirs_memory,
            f"at worst {ratios[worst]:.2f} times the time of the faster: {worst}",
        ),
        published=Peer(
            "einsum and full batched torch.linalg.eigh",
            formed,
            formed_memory,
            "all eigenpairs, the k of largest |λ| kept; how the results agree is measured by eigh_many.py",
        ),
        limit=fastest,
        limited_by="what the faster method takes",
        runs=RUNS,
        device=device,
    )
    report([line], [], limits, asked.json)


if __name__ == "__main__":
    main()
