"""All pair vectors of a layer with 784 inputs and 1,000 hidden units, batch by batch: the stream against its peers.

The peers are what a notebook does, columns of W and V gathered by index, multiplied by `einsum` and symmetrised, and
what no stream can do without, writing as many bytes. The notebook's side is given its pairs, ours computes them.

Run: python benchmarks/pair_stream.py [--small] [--device cpu|cuda] [--json FILE]
"""

from __future__ import annotations

from collections.abc import Callable

import measuring
import torch
from torch import Tensor

from bilens import pairs
from bilens.pairs import PairStream
from bilens.space import Space
from bilens.tensor import BilinearTensor

FEATURES, SMALL, HIDDEN, BATCH = 784, 392, 1000, 4096


def main() -> None:
    asked = measuring.options(__doc__ or "")
    device = asked.device
    rates = measuring.rates(device)
    tensor = layer(SMALL if asked.small else FEATURES, HIDDEN, device)
    shuffled, ordered = (pairs.stream(tensor, batch_size=BATCH, seed=1, shuffle=shuffle) for shuffle in (True, False))
    size = f"{shuffled.rows:,} × {HIDDEN}"
    written = shuffled.rows * HIDDEN * 4

    def line(work: str, ours: Callable[[], object], peer: str, theirs: Callable[[], object], **rest: object) -> None:
        seconds = measuring.alternate(ours, theirs, device=device)
        memory = (measuring.peak_memory(side, device=device) for side in (ours, theirs))
        lines.append(
            measuring.Line(
                work,
                peer,
                *seconds,
                *memory,
                limit=written / rates.fill,
                limited_by=f"{written / 1e9:.2f} GB written at {rates.fill / 1e9:.1f} GB/s, fills of memory in use",
                runs=measuring.RUNS,
                device=device,
                **rest,
            )
        )

    lines: list[measuring.Line] = []
    for name, stream in (("shuffled", shuffled), ("row by row", ordered)):
        line(
            f"pair stream, {name}, {size}",
            lambda stream=stream: through(stream),
            "gathering columns by index and einsum",
            notebook(tensor, stream),
            agreement=compared(tensor, stream),
            at_least=3.0,
        )
        line(
            f"pair stream, {name}, {size}",
            lambda stream=stream: through(stream),
            "torch.empty(…).fill_(1), as many bytes at once",
            lambda: torch.empty(shuffled.rows, HIDDEN, device=device).fill_(1.0),
            agreement="none: the peer writes ones",
            at_least=0.25,
        )
    room, whole = (torch.empty(rows, HIDDEN, device=device) for rows in (BATCH, shuffled.rows))
    for name, stream in (("shuffled", shuffled), ("row by row", ordered)):
        line(
            f"pair stream, {name}, {size}, each batch into the same memory",
            lambda stream=stream: through(stream, room),
            "fill_(1) of as many bytes of memory that is in use already",
            lambda: whole.fill_(1.0),
            agreement="none: the peer writes ones",
            at_least=None,
        )
    line(
        f"norms of all pair vectors, {size}",
        lambda: pairs.norms(tensor),
        "one pass over the stream, row by row",
        lambda: through(ordered),
        agreement=f"largest difference of norms {apart(pairs.norms(tensor), exact_norms(tensor)):.1e} of the largest",
        at_least=None,
    )
    measuring.report(lines, points(asked.small, device), rates, asked.json)


def layer(m: int, h: int, device: str) -> BilinearTensor:
    """A layer of random weights without a read-out."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(h, m, generator=generator).to(device) for _ in range(2))
    return BilinearTensor.from_layer(left, right, input=Space("pixels", m), output=Space("hidden", h))


def through(stream: PairStream, out: Tensor | None = None) -> None:
    """One epoch, each batch made and let go."""
    for n in range(len(stream)):
        stream.batch(n, out=out)


def gathered(tensor: BilinearTensor, i: Tensor, j: Tensor) -> Tensor:
    """Pair vectors as a notebook makes them, one a row."""
    w, v = tensor.left, tensor.right
    one = torch.einsum("hb,hb->bh", w[:, i], v[:, j])
    other = torch.einsum("hb,hb->bh", v[:, i], w[:, j])
    return (one + other) / 2


def notebook(tensor: BilinearTensor, stream: PairStream) -> Callable[[], None]:
    """The peer's epoch, over pairs that it is given."""
    order = [tuple(side.clone() for side in stream.pairs(n)) for n in range(len(stream))]

    def work() -> None:
        for i, j in order:
            gathered(tensor, i, j)

    return work


def compared(tensor: BilinearTensor, stream: PairStream) -> str:
    """How far the two sides are apart, over every batch."""
    most = max(apart(stream.batch(n), gathered(tensor, *stream.pairs(n))) for n in range(len(stream)))
    return f"largest difference of an entry {most:.1e} of the largest entry, over all pairs"


def exact_norms(tensor: BilinearTensor) -> Tensor:
    """‖r_ij‖ from Gram matrices in float64: ¼[(L∘L)(R∘R)ᵀ + (R∘R)(L∘L)ᵀ] + ½(L∘R)(L∘R)ᵀ."""
    left, right = tensor.left.T.double(), tensor.right.T.double()
    squares, products = left.square() @ right.square().T, left * right
    gram = (squares + squares.T) / 4 + products @ products.T / 2
    i, j = torch.triu_indices(len(gram), len(gram), device=gram.device)
    return gram[i, j].sqrt()


def apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def points(small: bool, device: str) -> list[measuring.Point]:
    """How an epoch grows with the features and with the hidden units."""
    found = []
    sizes = [("m", m, m, 256) for m in (128, 256, 512, *(() if small else (1024, 2048)))]
    sizes += [("h", h, 256, h) for h in (256, 512, 1024, *(() if small else (2048, 4096)))]
    for axis, value, m, h in sizes:
        tensor = layer(m, h, device)
        for name, shuffle in (("shuffled", True), ("row by row", False)):
            stream = pairs.stream(tensor, batch_size=BATCH, seed=1, shuffle=shuffle)
            seconds = measuring.median(lambda stream=stream: through(stream), device=device)
            rest = "h = 256" if axis == "m" else "m = 256"
            found.append(measuring.Point(f"pair stream, {name}, {rest}", axis, value, seconds))
    return found


if __name__ == "__main__":
    main()
