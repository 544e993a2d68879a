"""Hypothesis strategies for layers, tensors, kernels, dictionaries and samples; small, and as degenerate as they come.

Numbers are not drawn one by one: a strategy draws sizes, a way to fill and a seed, so that examples are fast and shrink
to few coordinates. `whole` fills with small integers, on which sums and products are exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from bilens.dictionary import Dictionary
from bilens.kernel import Kernel
from bilens.space import Space
from bilens.tensor import BilinearTensor

FILLS = ("normal", "whole", "repeated", "gaps", "zero", "parallel", "large")
"""How a matrix may be filled: the last five have equal rows, rows of zeros, only zeros, rank one, entries near 1000."""

ATOMS = ("orthonormal", "scaled", "whole", "repeated", "gaps", "flat", "zero")
"""How the atoms of a dictionary may be filled; the last four have equal atoms, zero atoms, zero columns, only zeros."""

SEEDS = st.integers(0, 2**20)


def filled(fill: str, rows: int, columns: int, seed: int) -> Tensor:
    """A (rows, columns) matrix in float64."""
    generator = torch.Generator().manual_seed(seed)
    if fill == "zero":
        return torch.zeros(rows, columns, dtype=torch.float64)
    if fill == "whole":
        return torch.randint(-3, 4, (rows, columns), generator=generator).double()
    if fill == "parallel":
        column = torch.randint(-2, 3, (rows, 1), generator=generator).double()
        return column * torch.randint(-2, 3, (1, columns), generator=generator).double()
    matrix = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    if fill == "repeated":
        return matrix[torch.randint(0, (rows + 1) // 2, (rows,), generator=generator)]
    if fill == "gaps":
        return matrix * (torch.rand(rows, 1, generator=generator) < 0.5)
    return matrix * 1000 if fill == "large" else matrix


@st.composite
def matrices(draw: st.DrawFn, rows: int, columns: int) -> Tensor:
    """A (rows, columns) matrix in float64, filled in one of the ways of `FILLS`."""
    return filled(draw(st.sampled_from(FILLS)), rows, columns, draw(SEEDS))


def vectors(size: int) -> st.SearchStrategy[Tensor]:
    """A vector of this size."""
    return matrices(1, size).map(lambda matrix: matrix[0])


@dataclass(frozen=True)
class Layer:
    """y = D[(W x + b) ⊙ (V x + c)] + e with its parts as a model holds them, before anything is folded."""

    w: Tensor
    v: Tensor
    d: Tensor | None
    b: Tensor | None
    c: Tensor | None
    e: Tensor | None
    input: Space
    output: Space

    @property
    def biased(self) -> bool:
        """Whether folding needs the constant coordinate."""
        return any(bias is not None for bias in (self.b, self.c, self.e))

    def tensor(self) -> BilinearTensor:
        """The layer as bilens holds it."""
        return BilinearTensor.from_layer(
            self.w,
            self.v,
            self.d,
            left_bias=self.b,
            right_bias=self.c,
            down_bias=self.e,
            input=self.input,
            output=self.output,
        )


@st.composite
def layers(
    draw: st.DrawFn,
    *,
    d: int | None = None,
    o: int | None = None,
    max_d: int = 6,
    max_hidden: int = 7,
    max_o: int = 5,
    bias: bool | None = None,
    read_out: bool | None = None,
) -> Layer:
    """A layer: sizes from 1, any of its three biases on or off, with or without a read-out.

    Args:
        d, o: sizes to hold; bias: True for at least one bias, False for none, None for either.
        read_out: whether there is a D; without one o is the hidden size.
    """
    d = draw(st.integers(1, max_d)) if d is None else d
    has_down = draw(st.booleans()) if read_out is None else read_out
    if has_down:
        hidden = draw(st.integers(1, max_hidden))
        o = draw(st.integers(1, max_o)) if o is None else o
    else:
        hidden = o = draw(st.integers(1, max_o)) if o is None else o
    w = draw(matrices(hidden, d))
    v = w if draw(st.integers(0, 4)) == 0 else draw(matrices(hidden, d))
    down = draw(matrices(o, hidden)) if has_down else None
    which = (False,) * 3 if bias is False else draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
    if bias is True and not any(which):
        which = (True, False, False)
    b, c, e = (draw(vectors(size)) if given else None for given, size in zip(which, (hidden, hidden, o), strict=True))
    return Layer(w, v, down, b, c, e, Space("input", d), Space("output", o))


@st.composite
def samples(draw: st.DrawFn, size: int, n: int | None = None) -> Tensor:
    """A few vectors of this size, one a row, none larger than a few units."""
    rows = draw(st.integers(1, 4)) if n is None else n
    return filled(draw(st.sampled_from(("normal", "whole", "zero"))), rows, size, draw(SEEDS))


@st.composite
def kernels(draw: st.DrawFn, *, max_d: int = 7, max_hidden: int = 5) -> Kernel:
    """A kernel with zero and repeated weights, often with equal, opposite or zero eigenvalues."""
    d, constant = draw(st.integers(1, max_d)), draw(st.booleans())
    space = Space("input", d, constant=constant)
    kind = draw(st.sampled_from(("factors", "factors", "equal", "opposite", "clustered")))
    if kind == "factors":
        hidden = draw(st.integers(1, max_hidden))
        left, right = draw(matrices(hidden, space.dim)), draw(matrices(hidden, space.dim))
        return Kernel(left, right, draw(vectors(hidden)), space, "u")
    basis = orthogonal(space.dim, draw(SEEDS))
    values = {
        "equal": torch.ones(space.dim),
        "opposite": torch.tensor([(-1.0) ** i * (1 + i // 2) for i in range(space.dim)]),
        "clustered": torch.tensor([1 + 1e-13 * (i % 2) - 3 * (i % 3 == 2) for i in range(space.dim)]),
    }[kind].double()
    return Kernel(basis, basis, values, space, "u")


@st.composite
def dictionaries(
    draw: st.DrawFn,
    space: Space,
    *,
    max_atoms: int = 8,
    offset: bool | None = None,
    spans: bool | None = None,
    name: str | None = None,
) -> Dictionary:
    """A dictionary over a space: complete, overcomplete or too small, often rank-deficient, affine or not.

    Args:
        space: of the atoms; offset: whether it is affine; spans: True when the atoms must span the space.
    """
    affine = (draw(st.booleans()) if offset is None else offset) and not space.constant
    least = space.dim if spans else 1
    m = draw(st.integers(least, max(max_atoms, least)))
    if spans:
        atoms = orthogonal(space.dim, draw(SEEDS))
        extra = filled(draw(st.sampled_from(("normal", "whole", "repeated"))), m, space.dim, draw(SEEDS))
        atoms = torch.cat([atoms * (1 + draw(st.integers(0, 3))), extra])[:m]
    else:
        atoms = atoms_of(draw(st.sampled_from(ATOMS)), m, space.dim, draw(SEEDS))
    shift = draw(samples(space.dim, 1))[0] if affine else None
    return Dictionary.from_atoms(atoms, space, offset=shift, name=name)


def orthogonal(size: int, seed: int) -> Tensor:
    """An orthogonal matrix."""
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]


def atoms_of(kind: str, m: int, n: int, seed: int) -> Tensor:
    """Atoms (m, n) of one of the `ATOMS`; where they are rank-deficient they are so exactly, not up to rounding."""
    if kind in ("whole", "zero"):
        return filled(kind, m, n, seed)
    generator = torch.Generator().manual_seed(seed)
    tall = torch.linalg.qr(torch.randn(max(m, n), min(m, n), generator=generator, dtype=torch.float64))[0]
    atoms = tall if m >= n else tall.T
    if kind == "scaled":
        return atoms * torch.linspace(1, 3, m, dtype=torch.float64)[:, None]
    if kind == "repeated":
        return atoms[torch.randint(0, (m + 1) // 2, (m,), generator=generator)]
    if kind == "gaps":
        return atoms * (torch.rand(m, 1, generator=generator) < 0.5)
    if kind == "flat":
        return atoms * (torch.rand(n, generator=generator) < 0.5)
    return atoms
