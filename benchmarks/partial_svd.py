"""The top singular values of a layer's tensor: `decompose.svd` on the factors against tensorly's partial SVD.

tensorly takes the dense o × d² matrix, held in float32 before the clock starts, and finds a basis of its range at
random (`randomized_svd`, two power iterations); its `truncated_svd` makes a full one, `symeig_svd` the d² × d² Gram.
Weights are random, of the shape of an MNIST layer before its read-out.

Run: python benchmarks/partial_svd.py [--small] [--device cpu|cuda] [--json FILE]
"""

from __future__ import annotations

import torch
from measuring import RUNS, Line, Peer, Point, compare, median, options, peak_memory, rates, report
from svd import plain

from bilens import BilinearTensor, Space, decompose

PIXELS, KEPT = 784, 20


def main() -> None:
    try:
        import tensorly as tl
        from tensorly.tenalg.svd import randomized_svd
    except ImportError as error:
        raise SystemExit("this benchmark needs its peer: pip install tensorly") from error
    tl.set_backend("pytorch")
    chosen = options(__doc__)
    device, measured = chosen.device, rates(chosen.device, small=chosen.small)
    hidden = 100 if chosen.small else 300
    tensor = layer(hidden, PIXELS, device=device)
    flat = tensor.to_dense().flatten(1)
    ours = decompose.svd(tensor, KEPT).values

    def run() -> decompose.TensorSVD:
        return decompose.svd(tensor, KEPT)

    def peer() -> object:
        return randomized_svd(flat, KEPT, random_state=0)

    theirs = randomized_svd(flat, KEPT, random_state=0)[1]
    values = plain(tensor, KEPT)[0]
    seconds = compare(run, lambda: plain(tensor, KEPT), peer, device=device)
    line = Line(
        work=f"top {KEPT} of the SVD of B, o = h = {hidden}, d = {PIXELS}",
        ours=seconds.ours,
        memory=peak_memory(run, device=device),
        plain=Peer(
            "torch.linalg.eigh of the hidden Gram",
            seconds.plain,
            peak_memory(lambda: plain(tensor, KEPT), device=device),
            f"values differ by at most {float((values / ours - 1).abs().max()):.0e} of themselves",
        ),
        published=Peer(
            f"tensorly {tl.__version__} randomized_svd of the dense ({hidden}, {PIXELS**2:,}) in float32",
            seconds.published,
            peak_memory(peer, device=device),
            f"values differ by at most {float((theirs / ours - 1).abs().max()):.0e} of themselves",
        ),
        limit=4 * hidden**2 * PIXELS / measured.float64,
        limited_by="two products of the hidden Gram in float64 at the rate of products",
        brief=f"top {KEPT} of the SVD, h = {hidden}, d = {PIXELS}",
        spread=seconds.spread,
        runs=RUNS,
        device=device,
    )
    found = []
    for h in (100, 300) if chosen.small else (100, 300, 1000, 3000):
        other = layer(h, PIXELS, device=device)
        took = median(lambda other=other: decompose.svd(other, KEPT), runs=3, device=device)
        found.append(Point(f"SVD of B, top {KEPT}, o = h", "h", h, took))
    report([line], found, measured, chosen.json)


def layer(h: int, d: int, *, device: str) -> BilinearTensor:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(h, d, generator=generator).to(device) / d**0.5 for _ in range(2))
    return BilinearTensor.from_layer(left, right, input=Space("pixels", d), output=Space("hidden", h))


if __name__ == "__main__":
    main()
