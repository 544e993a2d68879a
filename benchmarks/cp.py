"""Fitting a canonical polyadic decomposition: a step of `decompose.cp` against the same steps in a few lines of torch.

Both take L-BFGS steps on inner products of the factors of ½‖B − B̂‖², B̂ = Σ_r c_r ⊗ sym(a_r ⊗ b_r), by automatic
differentiation in float32, from the same start, ‖B‖ included; each side is divided by the steps that it took. Ours
also looks at the error, keeps the terms in order and certifies them in float64. What is published holds B (o, d, d) in
memory and goes back through an einsum. Weights are random, of the shapes of an MNIST layer with its biases folded.

Run: python benchmarks/cp.py [--small] [--device cpu|cuda] [--json FILE]
"""

from __future__ import annotations

import torch
from measuring import Line, Peer, Point, Rates, compare, median, once, options, peak_memory, rates, report
from torch import Tensor

from bilens import BilinearTensor, Space, decompose

RANK, PIXELS, STEPS, RUNS = 64, 785, 20, 3
SHARED = 24
READ_OUT, HIDDEN, SMALL_HIDDEN = (10, 1000), (300, 300), (100, 100)


def main() -> None:
    chosen = options(__doc__)
    device, measured = chosen.device, rates(chosen.device, small=chosen.small)
    hidden = SMALL_HIDDEN if chosen.small else HIDDEN
    lines = [
        steps("read-out tensor", *READ_OUT, device=device, measured=measured),
        steps("hidden tensor", *hidden, device=device, measured=measured),
    ]
    report(lines, points(chosen.small, device=device), measured, chosen.json)


def layer(o: int, h: int, d: int, *, device: str) -> BilinearTensor:
    """L, R and D; D is the identity where there are as many outputs as hidden units.

    Rows of L and R lie near a few directions, as those of a trained layer do; without that nothing can be fitted.
    """
    generator = torch.Generator().manual_seed(0)

    def rows() -> Tensor:
        shared = torch.randn(h, SHARED, generator=generator) @ torch.randn(SHARED, d, generator=generator)
        return (shared / SHARED**0.5 + 0.1 * torch.randn(h, d, generator=generator)) / d**0.5

    left, right = rows(), rows()
    down = torch.eye(h) if o == h else torch.randn(o, h, generator=generator)
    return BilinearTensor(*(f.to(device) for f in (left, right, down)), Space("pixels", d), Space("outputs", o))


def factored(tensor: BilinearTensor, energy: float, terms: list[Tensor]) -> Tensor:
    """½‖B − B̂‖² from inner products."""
    (left, right, down), (a, b, c) = (tensor.left, tensor.right, tensor.down), terms
    met = ((left @ a.T) * (right @ b.T) + (left @ b.T) * (right @ a.T)) / 2
    own = ((a @ a.T) * (b @ b.T) + (a @ b.T) * (b @ a.T)) / 2
    return (energy + ((c @ c.T) * own).sum()) / 2 - ((down @ met) * c.T).sum()


def plain(tensor: BilinearTensor, start: decompose.CP, count: int) -> tuple[float, int]:
    """The error after as many steps, and how many were taken."""
    left, right, down = (f.double() for f in (tensor.left, tensor.right, tensor.down))
    gram = ((left @ left.T) * (right @ right.T) + (left @ right.T) * (right @ left.T)) / 2
    energy = float(((down.T @ down) * gram).sum())
    size = start.values[:, None] ** (1 / 3)
    terms = [(rows * size).requires_grad_() for rows in (start.left, start.right, start.outputs)]
    optimizer = torch.optim.LBFGS(
        terms, max_iter=count, history_size=20, line_search_fn="strong_wolfe", tolerance_grad=0, tolerance_change=0
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = factored(tensor, energy, terms)
        value.backward()
        return value

    optimizer.step(closure)
    taken: int = optimizer.state[terms[0]]["n_iter"]
    return (2 * float(closure().detach()) / energy) ** 0.5, taken


def dense_step(tensor: BilinearTensor, dense: Tensor, start: decompose.CP) -> Tensor:
    """One value and its derivatives through the dense tensor."""
    size = start.values[:, None] ** (1 / 3)
    a, b, c = ((rows * size).requires_grad_() for rows in (start.left, start.right, start.outputs))
    half = torch.einsum("ro,ri,rj->oij", c, a, b)
    value = (dense - (half + half.transpose(1, 2)) / 2).square().sum() / 2
    value.backward()
    return value.detach()


def steps(name: str, o: int, h: int, *, device: str, measured: Rates) -> Line:
    tensor = layer(o, h, PIXELS, device=device)
    start = decompose.cp(tensor, RANK, starts=0, steps=0, progress=False)
    dense = tensor.to_dense(limit=2**40)

    def ours() -> decompose.CP:
        return decompose.cp(tensor, RANK, starts=0, steps=STEPS, tol=0.0, progress=False)

    def few() -> tuple[float, int]:
        return plain(tensor, start, STEPS)

    taken: list[float] = []
    memory = peak_memory(
        lambda: taken.append(once(lambda: dense_step(tensor, dense, start), device=device)), device=device
    )
    norm = float(tensor.norm()) ** 2
    first = (2 * float(dense_step(tensor, dense, start)) / norm) ** 0.5
    seconds = compare(ours, few, runs=RUNS, device=device)
    found, (error, count) = ours(), few()
    own = 10 * (len(found.history) - 1)  # the error is looked at every ten steps
    operations = 24 * h * PIXELS * RANK + 6 * o * h * RANK
    return Line(
        work=f"CP step, {name}, o = {o}, h = {h}, d = {PIXELS}, rank {RANK}, of {STEPS} from one start",
        ours=seconds.ours / own,
        memory=peak_memory(ours, device=device),
        plain=Peer(
            "the factored loss, autograd and torch.optim.LBFGS",
            seconds.plain / count,
            peak_memory(few, device=device),
            f"errors {float(found.error):.5f} after {own} steps and {error:.5f} after {count}",
        ),
        published=Peer(
            f"one value and its derivatives through the dense ({o}, {PIXELS}, {PIXELS}) in float32, once",
            taken[0],
            memory,
            f"error at the start {float(start.error):.5f} and {first:.5f}",
        ),
        limit=operations / measured.float32,
        limited_by=f"{operations / 1e9:.2f} Gflop of one value and its derivatives at the rate of products in float32; "
        "ours is the few lines with a certificate, and no faster",
        reach=1.3,
        brief=f"a step of a CP fit, {name}, o = {o}, h = {h:,}",
        spread=(seconds.spread[0] * own / count, seconds.spread[1] * own / count),
        runs=RUNS,
        device=device,
    )


def points(small: bool, *, device: str) -> list[Point]:
    """How a fit of 20 steps grows with R, h and d, around rank 64, h = 1000 and d = 785."""
    axes = {"R": (16, 64, 256), "h": (250, 500, 1000, 2000), "d": (196, 392, 785, 1568)}
    if small:
        axes = {"R": (16, 64), "h": (250, 1000), "d": (196, 785)}
    found = []
    for axis, values in axes.items():
        for value in values:
            size = {"R": RANK, "h": READ_OUT[1], "d": PIXELS} | {axis: value}
            tensor = layer(READ_OUT[0], size["h"], size["d"], device=device)
            taken = median(
                lambda tensor=tensor, rank=size["R"]: decompose.cp(
                    tensor, rank, starts=0, steps=STEPS, tol=0.0, progress=False
                ),
                runs=1,
                device=device,
            )
            found.append(Point("CP, 20 steps", axis, value, taken))
    return found


if __name__ == "__main__":
    main()
