"""The top singular values of a layer's tensor: `decompose.svd` on the factors against tensorly's partial SVD.

tensorly's randomised SVD takes the dense o × d² matrix, held in float32 before the clock starts. Its SVD by a Gram
matrix makes one of d² × d², and is left out. Weights are random, of the shape of an MNIST layer before its read-out.

Run: python benchmarks/partial_svd.py [--small] [--device cpu|cuda] [--json FILE]
"""

from __future__ import annotations

import torch
from measuring import RUNS, Line, Point, alternate, median, options, peak_memory, rates, report

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
    device, measured = chosen.device, rates(chosen.device)
    hidden = 100 if chosen.small else 300
    tensor = layer(hidden, PIXELS, device=device)
    flat = tensor.to_dense().flatten(1)
    ours = decompose.svd(tensor, KEPT).values

    def run() -> decompose.TensorSVD:
        return decompose.svd(tensor, KEPT)

    lines = []
    for name, peer in (("randomized_svd, 2 power iterations", lambda: randomized_svd(flat, KEPT, random_state=0)),):
        theirs = peer()[1][:KEPT]
        found = alternate(run, peer, device=device)
        lines.append(
            Line(
                work=f"top {KEPT} of the SVD of B, o = h = {hidden}, d = {PIXELS}",
                peer=f"tensorly {tl.__version__} {name}, dense ({hidden}, {PIXELS**2:,}) in float32",
                ours=found[0],
                theirs=found[1],
                ours_memory=peak_memory(run, device=device),
                theirs_memory=peak_memory(peer, device=device),
                limit=6 * hidden**2 * PIXELS / measured.float64,
                limited_by="three products of the hidden Gram in float64 at the rate of products",
                agreement=f"values differ by at most {float((theirs / ours - 1).abs().max()):.0e} of themselves",
                at_least=None,
                runs=RUNS,
                device=device,
            )
        )
    found = []
    for h in (100, 300) if chosen.small else (100, 300, 1000, 3000):
        other = layer(h, PIXELS, device=device)
        seconds = median(lambda other=other: decompose.svd(other, KEPT), runs=3, device=device)
        found.append(Point(f"SVD of B, top {KEPT}, o = h", "h", h, seconds))
    report(lines, found, measured, chosen.json)


def layer(h: int, d: int, *, device: str) -> BilinearTensor:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(h, d, generator=generator).to(device) / d**0.5 for _ in range(2))
    return BilinearTensor.from_layer(left, right, input=Space("pixels", d), output=Space("hidden", h))


if __name__ == "__main__":
    main()
