"""Balanced truncation of a deep network: orthogonalise, diagonalise, truncate (ODT), on the factors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bilens._internal import checks
from bilens._internal.checks import instance, number
from bilens._internal.factors import check_range
from bilens._internal.grams import Scaled, both
from bilens._internal.levels import Level, difference
from bilens._internal.scale import times_two_to
from bilens._internal.shown import line
from bilens.decompose import linalg
from bilens.decompose.linalg import EPSILON, symmetric
from bilens.deep import DeepTensor
from bilens.dictionary import Dictionary
from bilens.errors import BilensError, ShapeError
from bilens.space import Space

RTOL = 1e-13
"""Directions of a bond whose Gram, scaled to a diagonal of ones, is below this share of its largest are dropped."""

FAR = 1e8
"""Condition number of a scaled Gram below which no direction of it is near to being dropped."""


@dataclass(frozen=True, eq=False, repr=False)
class ODT:
    """Every bond of a network in balanced coordinates: what is said and what is listened to are diagonal at once.

    σ, energies and errors are those of the tree-symmetrised tensor, which depends on how the layers compute a function
    and not on the function alone (`DeepTensor`). Bonds are numbered from 0, the input, to n, the outputs; `ranks`
    arguments have one entry per bond, a number of directions to keep, or None for all of a bond left as it is.

    Args:
        deep: the network; metric: of the input, None for I.
        values: for each bond σ, (r,), largest first: the singular values of one copy of the bond, whose squares add up
            to ‖T‖²; empty where the bond was left out.
        dictionaries: for each bond y ≈ Aᵀz, z = duals·y, over its space with the constant coordinate, in the order of
            the values (after the constant direction, where that is set apart); None where the bond was left out. In
            float64.
        constants: (n + 1,), σ of the direction of the constant coordinate where it is set apart, else 0.
        energy: ‖T‖², a number; all numbers in float64.
    """

    deep: DeepTensor
    metric: Float[Tensor, "i i"] | None
    values: tuple[Float[Tensor, " _"], ...]
    dictionaries: tuple[Dictionary | None, ...]
    constants: Float[Tensor, " b"]
    energy: Float[Tensor, ""]

    __repr__ = line

    def __post_init__(self) -> None:
        checks.fields(self)
        checks.shapes(self, b=self.deep.depth + 1, i=self.deep.input.dim)
        for name in ("values", "dictionaries"):
            if len(checks.several(name, getattr(self, name), "a tuple, one for each bond", "")) != self.deep.depth + 1:
                raise ShapeError(f"{len(getattr(self, name))} {name}", f"{self.deep.depth + 1}, one for each bond")

    def __len__(self) -> int:
        return len(self.values)

    @property
    def floor(self) -> Float[Tensor, ""]:
        """Singular values at or below it are noise: a Gram squares the condition number, as for `svd`."""
        size = max([1, *(len(values) for values in self.values)])
        return (size * EPSILON * self.energy).sqrt()

    @torch.no_grad()
    def truncate(self, ranks: Sequence[int | None]) -> DeepTensor:
        """The network with these many directions kept at each bond; skips and biases are part of its layers then.

        A hidden bond becomes a space of that size. At the input and the outputs, whose spaces stay what they are, the
        kept directions are projected on.

        Args:
            ranks: n + 1 entries, of 1 … the number of values, or None to leave a bond as it is.

        Returns:
            A network in the type of this one.

        Raises:
            BilensError: other ranks, or one for a bond that was left out.
        """
        kept = self._kept(ranks)
        levels = self._levels(kept, kept)
        lifted = self.deep.bond(0)
        dtype = self.deep.layers[0].left.dtype
        found = [Level(*(factor.to(dtype) for factor in level)) for level in levels]
        return DeepTensor.from_levels(found, lifted, self.deep.output, "basis")

    @torch.no_grad()
    def error(self, ranks: Sequence[int | None]) -> Float[Tensor, ""]:
        """‖T − T̂‖ of a truncation, of the tree-symmetrised tensors in the metric, exactly, in float64.

        From the difference of the two networks in balanced coordinates, where what is kept cancels exactly: no floor of
        3e-8 ‖T‖ as from inner products, but what the change of coordinates rounds, about 1e-13 ‖T‖.

        Cost: that of `norm` at three times the hidden units.
        """
        kept = self._kept(ranks)
        full = [None if k is None else self._size(bond) for bond, k in enumerate(kept)]
        whole_levels, cut = self._levels(full, full), self._levels(full, kept)
        apart = difference(whole_levels, cut)
        network = DeepTensor.from_levels(apart, self.deep.bond(0), self.deep.output, "difference")
        return network.norm(metric=self.metric)

    @torch.no_grad()
    def bound(self, ranks: Sequence[int | None]) -> Float[Tensor, ""]:
        """The certificate: ‖T − T̂‖ ≤ √(Σ_l 2^(n−l) Σ_{s>r_l} σ_{l,s}²), for all bonds at once.

        ‖T − T̂‖ is of the tree-symmetrised tensors, and at least that of the fully symmetrised ones. Each of the
        2^(n−l) copies of bond l is projected orthogonally, and the squared errors of orthogonal projections add up at
        most. At bonds that lose a direction two things are added: what `odt` dropped as nothing the layers below can
        say, ‖T‖² − Σ σ², and what rounding of a squared singular value may hide, m·ε·‖T‖². The printed rule of the
        reduction compares fourth powers and certifies nothing (`docs/depth.md`). In exact arithmetic: a network that is
        returned in float32 has rounded factors, about 2ⁿ · 1e-7 ‖T‖ more.
        """
        kept = self._kept(ranks)
        total = torch.zeros_like(self.energy)
        for bond, k in enumerate(kept):
            if k is None:
                continue
            atoms = self._require(bond).atoms
            dropped = len(atoms) < atoms.shape[1]
            if k < self._size(bond) or (dropped and 0 < bond < self.deep.depth):
                known = self.values[bond].square()
                lost = known[k - self._apart(bond) :].sum() + len(atoms.T) * EPSILON * self.energy
                if dropped:
                    lost = lost + (self.energy - known.sum() - self.constants[bond].square()).clamp(min=0)
                total = total + 2.0 ** (self.deep.depth - bond) * lost
        return total.sqrt()

    @torch.no_grad()
    def ranks(self, error: float, bonds: Sequence[int] | None = None) -> tuple[int | None, ...]:
        """The smallest ranks whose certificate is at most `error`·‖T‖: the cheapest directions of all bonds go first.

        Args:
            error: relative, of the tensors in the metric, from 0 to 1; not one of the accuracy.
            bonds: which may be cut, all hidden ones when None.

        Raises:
            BilensError: an error out of range, or a bond outside 0 … n or left out.
        """
        asked = number("error", error, 0, 1)
        depth = self.deep.depth
        chosen = range(1, depth) if bonds is None else checks.several("bonds", bonds, "a list of bonds", "pass [1]")
        wanted = sorted({checks.whole("a bond", bond, 0, depth) for bond in chosen})
        ranks: list[int | None] = [None] * (depth + 1)
        entries: list[tuple[float, int]] = []
        for bond in wanted:
            self._require(bond)
            ranks[bond] = len(self.values[bond])
            entries += [(2.0 ** (depth - bond) * float(s) ** 2, bond) for s in self.values[bond]]
        for _, bond in sorted(entries):
            held = ranks[bond]
            if held is None or held == 1:
                continue
            ranks[bond] = held - 1
            if bool(self.bound(ranks) > asked * self.energy.sqrt()):
                ranks[bond] = held
                break
        return tuple(ranks)

    def _apart(self, bond: int) -> int:
        """1 where the constant direction is set apart at a bond, as the first atom of its dictionary."""
        dictionary = self.dictionaries[bond]
        return 0 if dictionary is None else dictionary.features.dim - len(self.values[bond])

    def _size(self, bond: int) -> int:
        return len(self.values[bond]) + self._apart(bond)

    def _require(self, bond: int) -> Dictionary:
        dictionary = self.dictionaries[bond]
        if dictionary is None:
            raise BilensError(f"a rank for bond {bond}, which was left out", "None", "call odt with leaves=True")
        return dictionary

    def _kept(self, ranks: Sequence[int | None]) -> list[int | None]:
        """Atoms kept at each bond, the constant direction included."""
        given = checks.several("ranks", ranks, "a list of ranks", "pass one for each bond, or None")
        if len(given) != len(self):
            raise BilensError(f"{len(given)} ranks", f"{len(self)}, one for each bond from the input to the outputs")
        kept: list[int | None] = []
        for bond, rank in enumerate(given):
            if rank is None:
                kept.append(None)
                continue
            self._require(bond)
            held = len(self.values[bond])
            kept.append(min(checks.whole(f"rank of bond {bond}", rank, 1, max(held, 1)), held) + self._apart(bond))
        return kept

    def _levels(self, sizes: Sequence[int | None], kept: Sequence[int | None]) -> list[Level]:
        """The levels in balanced coordinates: `sizes` of them at each bond, all but `kept` of which are set to 0."""
        found = []
        depth = self.deep.depth
        for place, level in enumerate(self.deep.levels()):
            left, right, down = (factor.double() for factor in level)
            size, some = sizes[place], kept[place]
            if size is not None and some is not None:
                dictionary = self._require(place)
                atoms = dictionary.atoms[:size]
                if place == 0:
                    if some < self._size(0):
                        onto = dictionary.atoms[:some].T @ dictionary.duals[:some]
                        left, right = left @ onto, right @ onto
                else:
                    left, right = left @ atoms.T, right @ atoms.T
                    left[:, some:], right[:, some:] = 0, 0
            above, some = sizes[place + 1], kept[place + 1]
            if above is not None and some is not None:
                dictionary = self._require(place + 1)
                if place + 1 < depth:
                    down = dictionary.duals[:above] @ down
                    down[some:] = 0
                elif some < self._size(depth):
                    down = dictionary.atoms[:some].T @ (dictionary.duals[:some] @ down)
            found.append(Level(left, right, down))
        return found


@torch.no_grad()
def odt(
    deep: DeepTensor,
    *,
    metric: Float[Tensor, "i i"] | None = None,
    leaves: bool = True,
    constant_apart: bool = False,
    rtol: float = RTOL,
) -> ODT:
    """Singular values and balanced directions of every bond of the tree-symmetrised tensor, without any core.

    Examples:
        >>> from bilens import BilinearTensor
        >>> x, e = Space("x", 2), torch.eye(2)
        >>> layer = BilinearTensor(e, e, torch.diag(torch.tensor([1.0, 0.5])), x, x)
        >>> found = odt(DeepTensor.chain(layer, layer))
        >>> [values.tolist() for values in found.values]
        [[1.0, 0.125], [1.0, 0.125], [1.0, 0.125]]
        >>> found.ranks(0.2), float(found.error([None, 1, None]))
        ((None, 1, None), 0.125)

    With G_l what the layers below bond l can say and E_l what the layers above listen to (`DeepTensor.gram`,
    `.environment`), σ² are the eigenvalues of SᵀE_lS with G_l = SSᵀ. With V its eigenvectors, atoms = (SV)ᵀ and
    duals = (S⁺ᵀV)ᵀ: in these coordinates the tensors of a bond are orthonormal and what listens to them is orthogonal,
    in the order of σ. Take the network's `centered()` first.

    Args:
        deep: the network, of any depth.
        metric: M = E[x'x'ᵀ] over its input, (i, i), or I. The data's keeps fewer directions for the same accuracy; with
            a share of white noise (`bilens.deep.ridged`) it also sees what weights do where no data goes.
        leaves: whether bond 0 is decomposed too, which costs an eigenproblem of the size of the input.
        constant_apart: whether the constant coordinate of a bond stays a direction of its own, which is always kept and
            whose σ is in `constants`, and the others are orthogonal to it. Otherwise it is mixed into all of them, and
            usually most of the first.
        rtol: directions of a bond with eigenvalues of G (scaled to a diagonal of ones) at or below rtol times the
            largest are dropped: nothing below can say them.

    Returns:
        An `ODT`. No gradients.

    Cost: O(h²m) per layer and one or two m × m eigenproblems per bond, in float64; the published reduction, on explicit
    cores, is O(m⁴). Floor: as for `svd`, σ below √(m·ε)·‖T‖ is noise (`floor`).

    Raises:
        BilensError: no network, a metric that is none, or numbers out of range.

    Source: arXiv 2504.02667 (orthogonalisation, diagonalisation, truncation), on bond Grams and with a certificate;
    Grasedyck, "Hierarchical singular value decomposition of tensors" (2010), for the bound.
    """
    instance("deep", deep, DeepTensor, hint="make one with DeepTensor.chain")
    leaves, apart = checks.flag("leaves", leaves), checks.flag("constant_apart", constant_apart)
    rtol = number("rtol", rtol, 0, below=1)
    chain, _, metric = deep.over_one_input(deep, metric)
    grams, environments = both(chain.levels, metric, 0 if leaves else 1)
    known = grams if leaves else grams[1:]
    values, dictionaries = [], list[Dictionary | None]()
    constants = torch.zeros(deep.depth + 1, dtype=torch.float64, device=chain.levels[0].left.device)
    if not leaves:
        values.append(grams[0].matrix.new_zeros(0))
        dictionaries.append(None)
    for bond, (gram, environment) in enumerate(zip(known, environments, strict=True), start=len(values)):
        space = deep.bond(bond)
        basis = _basis(gram, environment, apart=apart and space.constant, rtol=rtol)
        power = (gram.power + environment.power) // 2 + chain.power  # both are even
        sigma = times_two_to(basis.squares.clamp(min=0).sqrt(), power)
        constants[bond] = times_two_to(basis.constant.clamp(min=0).sqrt(), power)
        exponents = gram.power // 2 + chain.bonds[bond]
        atoms, duals = times_two_to(basis.atoms, exponents), times_two_to(basis.duals, -exponents)
        for what, numbers in (("directions of a bond", atoms), ("duals of a bond", duals), ("singular values", sigma)):
            check_range(what, numbers)
        values.append(sigma)
        features = Space(f"basis {bond}", len(atoms))
        dictionaries.append(Dictionary(atoms, duals, space, features, min(basis.rank, len(atoms))))
    gram = grams[-1]
    energy = times_two_to(gram.matrix.trace(), gram.power + 2 * chain.power)
    check_range("a squared norm", energy)
    return ODT(deep, metric, tuple(values), tuple(dictionaries), constants, energy)


class Basis(NamedTuple):
    """Balanced directions of one bond: σ² without the constant direction's, that one's, atoms, duals and their rank."""

    squares: Float[Tensor, " r"]
    constant: Float[Tensor, ""]
    atoms: Float[Tensor, "r m"]
    duals: Float[Tensor, "r m"]
    rank: int


def roots(gram: Float[Tensor, "m m"], rtol: float = RTOL) -> tuple[Float[Tensor, "m r"], Float[Tensor, "m r"]]:
    """S and S⁺ᵀ with G = S Sᵀ: G is scaled to a diagonal of ones, and directions at or below rtol are dropped.

    The scaling keeps small coordinates beside large ones: the condition number of G is a 2^l-th power.
    """
    sizes = gram.diagonal().clamp(min=0).sqrt()
    alive = sizes > 0
    if not bool(alive.any()):
        return gram.new_zeros(len(gram), 0), gram.new_zeros(len(gram), 0)
    every = bool(alive.all())
    scale = sizes[alive][:, None]
    values, vectors = linalg.eigh(symmetric((gram if every else gram[alive][:, alive]) / scale / scale.T))
    first = int((values <= rtol * values[-1]).sum())  # they ascend
    vectors, lengths = vectors[:, first:], values[first:].sqrt()
    found = scale * vectors * lengths, vectors / lengths / scale
    if every:
        return found
    root, dual = (gram.new_zeros(len(gram), len(lengths)) for _ in range(2))
    root[alive], dual[alive] = found
    return root, dual


def _triangle(gram: Float[Tensor, "m m"]) -> tuple[Float[Tensor, "m m"], Float[Tensor, "m m"]] | None:
    """`roots` of a Gram that is far from singular, by Cholesky, which costs a tenth; None of any other.

    Scaled to a diagonal of ones, λ_max ≤ m and 1 / λ_min ≤ ‖S⁻¹‖².
    """
    sizes = gram.diagonal().clamp(min=0).sqrt()[:, None]
    if not bool((sizes > 0).all()):
        return None
    factor, failed = torch.linalg.cholesky_ex(symmetric(gram / sizes / sizes.T))
    if int(failed):
        return None
    inverse = torch.linalg.solve_triangular(factor, torch.eye(len(gram)).to(gram), upper=False)
    if not bool(len(gram) * inverse.square().sum() < FAR):
        return None
    return sizes * factor, inverse.T / sizes


def _basis(gram: Scaled, environment: Scaled, *, apart: bool, rtol: float) -> Basis:
    root, dual = _triangle(gram.matrix) or roots(gram.matrix, rtol)
    zero = root.new_zeros(())
    if not root.shape[1]:  # a bond that says nothing: one direction of zeros
        nothing = root.new_zeros(1, len(root))
        return Basis(root.new_zeros(1), zero, nothing, nothing, 0)
    middle = symmetric(root.T @ environment.matrix @ root)
    constant = zero
    if apart:  # the constant coordinate's own tensor, then an orthonormal basis of what is orthogonal to it
        turn = torch.linalg.qr(root[-1][:, None], mode="complete")[0]
        constant, rest = turn[:, 0] @ middle @ turn[:, 0], turn[:, 1:]
        squares, vectors = root.new_zeros(0), rest
        if rest.shape[1]:
            squares, vectors = linalg.eigh(symmetric(rest.T @ middle @ rest))
            vectors = rest @ vectors.flip(1)
        vectors = torch.cat([turn[:, :1], vectors], dim=1)
    else:
        squares, vectors = linalg.eigh(middle)
        vectors = vectors.flip(1)
    atoms, duals = (root @ vectors).T, (dual @ vectors).T
    peaks = atoms.gather(1, atoms.abs().argmax(dim=1, keepdim=True))
    signs = torch.where(peaks < 0, -1.0, 1.0)  # the largest entry of each atom is positive
    return Basis(squares.flip(0), constant, atoms * signs, duals * signs, len(atoms))
