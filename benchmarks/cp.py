"""Fitting a canonical polyadic decomposition: steps on the factors of a layer against steps on its dense tensor.

A gradient step is the value ½‖B − B̂‖², its derivatives by all factors of B̂ = Σ_r c_r ⊗ sym(a_r ⊗ b_r), and one step of
Adam. Ours takes inner products of factors, in float32 like the dense side (as the first steps of `decompose.cp` do),
and for the read-out in float64 too; the dense side holds B (o, d, d) in float32, makes B̂ by einsum, and goes back
through it by automatic differentiation. Both start from the same factors; values and derivatives are compared. Weights
are random, of the shapes of an MNIST layer with its biases folded (d = 785).

Then whole fits: ours, until it has the error that tensorly's `parafac` has after some sweeps over the dense tensor with
as many terms, and the one that as many dense Adam steps reach as are named.

Run: python benchmarks/cp.py [--small] [--device cpu|cuda] [--json FILE]
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from measuring import RUNS, Line, Point, Rates, alternate, median, once, options, peak_memory, rates, report
from torch import Tensor

from bilens import BilinearTensor, Space, decompose
from bilens.decompose.gauss_newton import Descent, Pairs, Target
from bilens.decompose.gauss_newton import Point as Place

RANK, PIXELS = 64, 785
READ_OUT, HIDDEN, SMALL_HIDDEN = (10, 1000), (300, 300), (100, 100)
SWEEPS, ADAM = 30, 100


def main() -> None:
    chosen = options(__doc__)
    device, measured = chosen.device, rates(chosen.device)
    hidden = SMALL_HIDDEN if chosen.small else HIDDEN
    lines = [
        *steps("read-out tensor", *READ_OUT, at_least=5, device=device, measured=measured),
        *steps("hidden tensor", *hidden, at_least=50, device=device, measured=measured),
        *fits(chosen.small, device=device, measured=measured),
    ]
    report(lines, points(chosen.small, device=device), measured, chosen.json)


def layer(o: int, h: int, d: int, *, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Random L, R and D; D is the identity where there are as many outputs as hidden units."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(h, d, generator=generator, dtype=torch.float64) / d**0.5 for _ in range(2))
    down = torch.eye(h, dtype=torch.float64) if o == h else torch.randn(o, h, generator=generator, dtype=torch.float64)
    return left.to(device), right.to(device), down.to(device)


def start(o: int, d: int, rank: int, *, device: str) -> tuple[Tensor, Tensor]:
    """Rows a then b, and coefficients c."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(2 * rank, d, generator=generator, dtype=torch.float64) / d**0.5
    return rows.to(device), torch.randn(rank, o, generator=generator, dtype=torch.float64).to(device)


class Dense:
    """The dense side: B in float32, and Adam on a, b and c."""

    def __init__(self, factors: tuple[Tensor, Tensor, Tensor], rows: Tensor, c: Tensor, rate: float = 1e-3) -> None:
        left, right, down = (factor.float() for factor in factors)
        self.tensor = left.new_empty(len(down), left.shape[1], left.shape[1])
        for o, weights in enumerate(down):
            half = (left * weights[:, None]).T @ right
            self.tensor[o] = (half + half.T) / 2
        self.a, self.b = (part.float().clone().requires_grad_() for part in rows.chunk(2))
        self.c = c.float().clone().requires_grad_()
        self.optimizer = torch.optim.Adam([self.a, self.b, self.c], lr=rate)

    def value(self) -> Tensor:
        """½‖B − B̂‖²."""
        half = torch.einsum("ro,ri,rj->oij", self.c, self.a, self.b)
        return (self.tensor - (half + half.transpose(1, 2)) / 2).square().sum() / 2

    def step(self) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        value = self.value()
        value.backward()
        self.optimizer.step()
        return value


class Ours:
    """The same step from factors, its products in float32 or float64."""

    def __init__(self, target: Target, rows: Tensor, c: Tensor, rate: float = 1e-3) -> None:
        self.target = target
        self.rows, self.c = rows.clone().requires_grad_(), c.clone().requires_grad_()
        self.optimizer = torch.optim.Adam([self.rows, self.c], lr=rate)

    def step(self) -> float:
        place = Place(self.target, Pairs(self.rows.detach(), self.c.detach()))
        self.rows.grad, self.c.grad = place.gradient()
        self.optimizer.step()
        return place.value()


def steps(name: str, o: int, h: int, *, at_least: float, device: str, measured: Rates) -> list[Line]:
    """A gradient step against a gradient step, in both precisions, and our whole Gauss–Newton step against the same."""
    factors, (rows, c) = layer(o, h, PIXELS, device=device), start(o, PIXELS, RANK, device=device)
    whole, theirs = Target(*factors), Dense(factors, rows, c)
    value = theirs.value()
    value.backward()
    exact = [torch.cat([theirs.a.grad, theirs.b.grad]), theirs.c.grad]
    theirs_memory = peak_memory(theirs.step, device=device)
    operations = 16 * h * PIXELS * RANK + 4 * o * h * RANK + 16 * RANK**2 * PIXELS
    shape = f"{name}, o = {o}, h = {h}, d = {PIXELS}, rank {RANK}"
    sides: list[tuple[str, Any, str, float, float | None]] = []
    kinds = (("float32", whole.rough(), measured.float32), ("float64", whole, measured.float64))
    for kind, target, rate in kinds if o < h else kinds[:1]:
        place = Place(target, Pairs(rows, c))
        apart = max(
            float((one - other).norm() / other.norm()) for one, other in zip(exact, place.gradient(), strict=True)
        )
        agreement = (
            f"values differ by {abs(value.item() / place.value() - 1):.0e}, derivatives by {apart:.0e} of their norm"
        )
        asked = at_least if kind == "float32" else None
        sides.append((f"gradient step, {kind} products", Ours(target, rows, c), agreement, rate, asked))
    newton = Newton(whole.rough(), rows, c)
    sides.append(("Gauss–Newton step, float32 products", newton, "another step: not compared", measured.float32, None))
    lines = []
    for work, ours, agreement, rate, asked in sides:
        found = alternate(ours.step, theirs.step, device=device)
        lines.append(
            Line(
                work=f"CP {work}, {shape}",
                peer=f"dense autograd step in float32: B ({o}, {PIXELS}, {PIXELS}) in memory, einsum, backward, Adam",
                ours=found[0],
                theirs=found[1],
                ours_memory=peak_memory(ours.step, device=device),
                theirs_memory=theirs_memory,
                limit=operations / rate,
                limited_by=f"{operations / 1e9:.2f} Gflop of the derivatives at the rate of products",
                agreement=agreement,
                at_least=asked,
                runs=RUNS,
                device=device,
            )
        )
    return lines


class Newton:
    """One Levenberg–Marquardt step after another."""

    def __init__(self, target: Target, rows: Tensor, c: Tensor) -> None:
        self.descent = Descent(target, Pairs(rows, c))

    def step(self) -> None:
        self.descent.run(0.0, 1, 0.0, lambda count=1, /, **numbers: None)


def fits(small: bool, *, device: str, measured: Rates) -> list[Line]:
    """Time until an error is reached: that of `parafac`, and that of dense Adam steps."""
    o, h = READ_OUT
    rank, sweeps, adam = (16, 10, 30) if small else (RANK, SWEEPS, ADAM)
    factors, (rows, c) = layer(o, h, PIXELS, device=device), start(o, PIXELS, rank, device=device)
    tensor = BilinearTensor(*factors, Space("pixels", PIXELS), Space("digits", o))
    dense = Dense(factors, rows, c, 1e-2)
    norm = float(dense.tensor.square().sum())

    def descend() -> float:
        for _ in range(adam):
            value = dense.step()
        return (2 * value.item() / norm) ** 0.5

    peers: list[tuple[str, Callable[[], float]]] = [(f"{adam} dense autograd steps of Adam at rate 0.01", descend)]
    try:
        import tensorly as tl
        from tensorly.decomposition import parafac
    except ImportError:
        print("tensorly is not installed here: no line for its parafac")
    else:
        tl.set_backend("pytorch")

        def sweep() -> float:
            found: Any = parafac(
                dense.tensor, rank, n_iter_max=sweeps, init="random", tol=0, random_state=0, return_errors=True
            )
            return float(found[1][-1])

        peers.append((f"tensorly {tl.__version__} parafac, {sweeps} sweeps over the dense tensor in float32", sweep))
    lines = []
    for peer, run in peers:
        started = time.perf_counter()
        reached = run()
        theirs = time.perf_counter() - started

        def ours(reached: float = reached) -> decompose.CP:
            return decompose.cp(tensor, rank, starts=0, tol=reached, progress=False)

        found = ours()
        lines.append(
            Line(
                work=f"CP fit to an error of {reached:.3f}, read-out tensor, o = {o}, h = {h}, rank {rank}",
                peer=peer,
                ours=median(ours, runs=3, device=device),
                theirs=theirs,
                ours_memory=peak_memory(ours, device=device),
                theirs_memory=peak_memory(run, device=device),
                limit=2 * 2 * h * h * PIXELS / measured.float64,
                limited_by="the products of the hidden Gram, which ‖B‖ takes, at the rate of products in float64",
                agreement=f"ours reached {float(found.error):.4f} after {len(found.history) - 1} steps; "
                "parafac's terms are not symmetric, as many numbers",
                at_least=None,
                runs=3,
                device=device,
            )
        )
    return lines


def points(small: bool, *, device: str) -> list[Point]:
    """How a gradient step (float32 products) grows with R, h and d, around rank 64, h = 1000 and d = 785."""
    axes = {
        "R": (16, 64, 256) if small else (16, 32, 64, 128, 256),
        "h": (250, 1000, 4000) if small else (250, 500, 1000, 2000, 4000),
        "d": (196, 785, 3136) if small else (196, 392, 785, 1568, 3136),
    }
    found = []
    for axis, values in axes.items():
        for value in values:
            size = {"R": RANK, "h": READ_OUT[1], "d": PIXELS} | {axis: value}
            factors = layer(READ_OUT[0], size["h"], size["d"], device=device)
            ours = Ours(Target(*factors).rough(), *start(READ_OUT[0], size["d"], size["R"], device=device))
            once(ours.step, device=device)
            found.append(Point("CP gradient step", axis, value, median(ours.step, runs=3, device=device)))
    return found


if __name__ == "__main__":
    main()
