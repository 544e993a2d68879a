"""All pair vectors of a layer with 784 inputs and 1,000 hidden units, batch by batch: the stream against its peers.

The few lines are, for shuffled pairs, `index_select` into memory that is kept and one fused product, and in order, one
row of L and R against a block of them. What is published gathers columns of W and V by index, multiplies them by
`einsum` and symmetrises. Both are given their pairs, ours computes them. Every batch of ours and of the few lines is
written to the same memory. The limit is writing as many bytes. The norms of all pairs are three products of Grams;
what is published takes them from the pair vectors.

Run: python benchmarks/pair_stream.py [--small] [--device cpu|cuda] [--json FILE]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import measuring
import torch
from torch import Tensor

from bilens import pairs
from bilens.pairs import PairStream
from bilens.space import Space
from bilens.tensor import BilinearTensor

FEATURES, SMALL, HIDDEN, BATCH = 784, 256, 1000, 4096


def main() -> None:
    asked = measuring.options(__doc__ or "")
    device = asked.device
    rates = measuring.rates(device, small=asked.small)
    tensor = layer(SMALL if asked.small else FEATURES, HIDDEN, device)
    shuffled, ordered = (pairs.stream(tensor, batch_size=BATCH, seed=1, shuffle=shuffle) for shuffle in (True, False))
    size = f"{shuffled.rows:,} × {HIDDEN}"
    written = shuffled.rows * HIDDEN * 4

    room = torch.empty(BATCH, HIDDEN, device=device)
    bound = {
        "limit": written / rates.fill,
        "limited_by": f"{written / 1e9:.2f} GB written at {rates.fill / 1e9:.1f} GB/s, fills of memory in use",
        "runs": measuring.RUNS,
        "device": device,
    }
    lines = []
    for name, stream, few, fewest in (
        ("shuffled", shuffled, gathering(tensor, shuffled), "index_select into kept memory and one fused product"),
        ("row by row", ordered, row_by_row(tensor), "a row of L and R against the rows from it on, into kept memory"),
    ):
        order = torch.cat([torch.stack(stream.pairs(n)) for n in range(len(stream))], dim=1)
        place, close = 0, 0.0
        for batch in few():
            i, j = order[:, place : place + len(batch)]
            close, place = max(close, apart(batch, gathered(tensor, i, j))), place + len(batch)
        sides = (lambda stream=stream: through(stream, room), lambda few=few: last(few()), notebook(tensor, stream))
        seconds = measuring.compare(*sides, device=device)
        memory = [measuring.peak_memory(side, device=device) for side in sides]
        reached = f"largest difference of an entry {compared(tensor, stream):.0e} of the largest entry, over all pairs"
        lines.append(
            measuring.Line(
                work=f"pair stream, {name}, {size}",
                ours=seconds.ours,
                memory=memory[0],
                plain=measuring.Peer(fewest, seconds.plain, memory[1], f"largest difference of an entry {close:.0e}"),
                published=measuring.Peer(
                    "gathering columns by index and einsum", seconds.published, memory[2], reached
                ),
                reach=None if asked.small else 1.2,
                spread=seconds.spread,
                brief=f"all {shuffled.rows:,} pair vectors of a layer, h = {HIDDEN:,}, {name}",
                **bound,
            )
        )
    from_vectors = gathered_norms(tensor, ordered)
    seconds = measuring.compare(
        lambda: pairs.norms(tensor), lambda: exact_norms(tensor), lambda: from_vectors(), device=device
    )
    operations = 3 * 2 * tensor.input.dim**2 * HIDDEN
    lines.append(
        measuring.Line(
            work=f"norms of all pair vectors, {size}",
            ours=seconds.ours,
            memory=measuring.peak_memory(lambda: pairs.norms(tensor), device=device),
            plain=measuring.Peer(
                "three products of Grams in float64",
                seconds.plain,
                measuring.peak_memory(lambda: exact_norms(tensor), device=device),
                f"largest difference {apart(pairs.norms(tensor), exact_norms(tensor)):.0e} of the largest",
            ),
            published=measuring.Peer(
                "gathering columns by index, einsum and the norm of each vector",
                seconds.published,
                measuring.peak_memory(from_vectors, device=device),
                f"largest difference {apart(from_vectors(), exact_norms(tensor)):.0e} of the largest",
            ),
            **bound
            | {
                "limit": operations / rates.float64,
                "limited_by": f"three products of Grams, {operations / 1e9:.1f} Gflop in float64 at "
                f"{rates.float64 / 1e9:.0f} Gflop/s",
                "spread": seconds.spread,
            },
        )
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


def gathering(tensor: BilinearTensor, stream: PairStream) -> Callable[[], Iterator[Tensor]]:
    """The few lines: r_ij = ½[L_i ∘ R_j + R_i ∘ L_j], over pairs that it is given, each batch into the same memory."""
    left, half = tensor.left.T.contiguous(), tensor.right.T.contiguous() / 2
    order = [tuple(side.clone() for side in stream.pairs(n)) for n in range(len(stream))]
    a, b, c, d = (left.new_empty(BATCH, HIDDEN) for _ in range(4))

    def work() -> Iterator[Tensor]:
        for i, j in order:
            one, two, three, four = (part[: len(i)] for part in (a, b, c, d))
            torch.index_select(left, 0, i, out=one)
            torch.index_select(half, 0, j, out=two)
            torch.index_select(half, 0, i, out=three)
            torch.index_select(left, 0, j, out=four)
            yield one.mul_(two).addcmul_(three, four)

    return work


def row_by_row(tensor: BilinearTensor) -> Callable[[], Iterator[Tensor]]:
    """The few lines for pairs in order: row i against the rows j ≥ i, until a batch is full, into the same memory."""
    left, half = tensor.left.T.contiguous(), tensor.right.T.contiguous() / 2
    room = left.new_empty(BATCH + len(left), HIDDEN)

    def work() -> Iterator[Tensor]:
        place = 0
        for i in range(len(left)):
            rows = room[place : place + len(left) - i]
            torch.mul(half[i:], left[i], out=rows).addcmul_(left[i:], half[i])
            place += len(rows)
            if place >= BATCH or i + 1 == len(left):
                yield room[:place]
                place = 0

    return work


def last(batches: Iterator[Tensor]) -> None:
    """All batches, each let go."""
    for _ in batches:
        pass


def gathered(tensor: BilinearTensor, i: Tensor, j: Tensor) -> Tensor:
    """Pair vectors as a notebook makes them, one per row."""
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


def gathered_norms(tensor: BilinearTensor, stream: PairStream) -> Callable[[], Tensor]:
    """The published way to all norms: every pair vector, and its norm."""
    order = [tuple(side.clone() for side in stream.pairs(n)) for n in range(len(stream))]
    return lambda: torch.cat([gathered(tensor, i, j).norm(dim=1) for i, j in order])


def compared(tensor: BilinearTensor, stream: PairStream) -> float:
    """How far ours and the notebook are apart, over every batch."""
    return max(apart(stream.batch(n), gathered(tensor, *stream.pairs(n))) for n in range(len(stream)))


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
    sizes = [("m", m, m, 256) for m in ((128, 256) if small else (128, 256, 512, 1024, 2048))]
    sizes += [("h", h, 256, h) for h in ((256, 512) if small else (256, 512, 1024, 2048, 4096))]
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
