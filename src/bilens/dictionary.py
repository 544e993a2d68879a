"""A dictionary: atoms that build vectors of a space, and the duals that read the codes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bilens._internal import checks, factors, shown
from bilens._internal.checks import instance, number, trusted
from bilens._internal.scale import fitted, near_one, tracked
from bilens.errors import BilensError, ShapeError
from bilens.space import Space


@dataclass(frozen=True, eq=False, repr=False)
class Dictionary:
    """Atoms A (one per row), an optional offset b, and duals: y ≈ Aᵀa + b with the codes a = duals (y − b).

    Build one with `Dictionary.from_atoms`, which takes the pseudoinverse as duals.

    The numbers are copied and detached, so that training on does not change the dictionary; those of half precision
    become float32. `from_atoms(…, detach=False)` keeps the graph of the atoms and the offset, and gradients then flow
    through `encode`, `decode`, `project`, `restrict` and `fold`, and through `read`, `pullback` and `coordinates` of a
    tensor.

    Args:
        atoms: (m, n), row k is the direction that feature k adds; n is `space.dim`.
        duals: (m, n), row k reads the code of feature k.
        space: the space that the vectors y live in.
        features: the space of the codes; m is `features.dim`.
        rank: rank of the atoms; the codes rebuild every y exactly when it is n.
        offset: (n,) or None for 0, the bias of an affine decoder.

    Raises:
        ShapeError: the shapes do not fit together. BilensError: a rank out of range, NaN or infinity, types or devices
            that differ, or numbers that are not in a dense floating-point tensor in memory.

    Source: founding draft, "Pseudoinverse trick to project onto a feature basis".
    """

    atoms: Float[Tensor, "m n"]
    duals: Float[Tensor, "m n"]
    space: Space
    features: Space
    rank: int
    offset: Float[Tensor, " n"] | None = None

    def __post_init__(self) -> None:
        for axis, space in (("space", self.space), ("features", self.features)):
            instance(axis, space, Space)
        m, n = self.features.dim, self.space.dim
        object.__setattr__(self, "rank", checks.whole("rank", self.rank, 0, min(m, n)))
        factors.settle(self, "atoms", "duals", "offset", m=m, n=n)
        if self.offset is not None:
            _check_no_constant(self.space)

    @classmethod
    def from_atoms(
        cls,
        atoms: Float[Tensor, "m n"],
        space: Space,
        *,
        offset: Float[Tensor, " n"] | None = None,
        name: str | None = None,
        labels: Sequence[str] | None = None,
        rtol: float | None = None,
        detach: bool = True,
    ) -> Dictionary:
        """The dictionary with these atoms and the rows of (Aᵀ)⁺ as duals: least squares, then least norm.

        Examples:
            >>> d = Dictionary.from_atoms(torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), Space("y", 2))
            >>> d.encode(torch.tensor([4.0, 3.0])).round(decimals=3)  # the last two atoms share the 3
            tensor([2.0000, 1.5000, 1.5000])

        Args:
            atoms: (m, n), one atom per row.
            space: the space of the atoms.
            offset: (n,), bias of an affine decoder, converted to the type of the atoms.
            name: name of the space of codes; "features of …" by default.
            labels: one string per atom; their numbers by default.
            rtol: singular values of the atoms below rtol · the largest count as zero; by default max(m, n) · machine
                epsilon of the atoms' own type, float32 at least.
            detach: False keeps the graph of the atoms and the offset.

        Cost: one SVD of the atoms in float64, O(m n min(m, n)).

        Raises: as the class. BilensError: duals beyond the range of the type, because atoms are too small or large.
        """
        checks.floating("atoms", atoms)
        instance("space", space, Space)
        if name is not None:
            instance("name", name, str, "a text")
        if labels is not None:
            labels = checks.several("labels", labels, "one text per atom", "leave it out for numbers")
        rtol = None if rtol is None else number("rtol", rtol, 0)
        detach = checks.flag("detach", detach)
        if atoms.ndim != 2 or atoms.shape[1] != space.dim or atoms.shape[0] < 1:
            raise ShapeError(
                f"atoms of shape {tuple(atoms.shape)}",
                f"(number of atoms, {space.dim}) for space {space.title}",
                "pass one atom per row",
            )
        checks.weights("atoms", atoms)
        atoms = checks.owned(atoms, detach=detach)
        if offset is not None:
            checks.floating("offset", offset)
            if tuple(offset.shape) != (space.dim,):
                raise ShapeError(f"offset of shape {tuple(offset.shape)}", f"{(space.dim,)}: space {space.title}")
            _check_no_constant(space)
            checks.weights("offset", offset)
            offset = checks.owned(offset, detach=detach).to(atoms)
            checks.finite("offset in the type of the atoms", offset)
        duals, rank = pseudoinverse_duals(atoms, rtol)
        features = Space(name or f"features of {space.name}", atoms.shape[0], None if labels is None else tuple(labels))
        return trusted(cls, atoms, duals, space, features, rank, offset)

    @classmethod
    def identity(cls, space: Space, *, dtype: torch.dtype, device: torch.device | None = None) -> Dictionary:
        """The coordinates of a space as its own dictionary: atoms = duals = I."""
        instance("space", space, Space)
        checks.float_type("dtype", dtype)
        eye = torch.eye(space.dim, dtype=dtype, device=device)
        return cls(eye, eye, space, space, space.dim)

    def __repr__(self) -> str:
        """For example "Dictionary('features of hidden' (40) over 'hidden' (20), rank 20, float32)"."""
        offset = "" if self.offset is None else ", with an offset"
        spaces = f"{self.features.title} over {self.space.title}"
        return f"Dictionary({spaces}, rank {self.rank}{offset}, {shown.numbers(self.atoms)})"

    def encode(self, y: Float[Tensor, "*k n"]) -> Float[Tensor, "*k m"]:
        """Pseudoinverse codes a = duals (y − b), one vector per row.

        Examples:
            >>> d = Dictionary.from_atoms(torch.tensor([[2.0, 0.0]]), Space("y", 2), offset=torch.tensor([0.0, 7.0]))
            >>> d.encode(torch.tensor([6.0, 9.0]))
            tensor([3.])

        Args:
            y: of any floating-point type; converted to the dictionary's, which is that of the codes.

        Raises:
            ShapeError: the last axis is not `space.dim`. BilensError: whole, complex or 8-bit numbers, sparse vectors,
                or vectors on another device.
        """
        return (checks.vectors("vectors", y, self.atoms, self.space.dim) - self._offset) @ self.duals.T

    @torch.no_grad()
    def encode_among(self, y: Float[Tensor, "k n"], active: Bool[Tensor, "k m"]) -> Float[Tensor, "k m"]:
        """Least-squares codes of each vector over its own active atoms alone; the other codes are 0. No gradients.

        For the set S of a row, a_S = (A_Sᵀ)⁺ (y − b), by the normal equations G_SS a_S = A_S (y − b) in float64.

        Args:
            y: one vector per row, as for `encode`; active: which atoms each row may use, for example those that a
                trained encoder activated.

        Cost: one product with the atoms and one pseudoinverse of the size of the largest set per row.

        Raises: as `encode`. ShapeError: a mask of another shape. BilensError: a mask that is not of bools.
        """
        y = checks.vectors("vectors", y, self.atoms, self.space.dim)
        checks.dense("active", active)
        if active.dtype != torch.bool:
            raise BilensError(f"active of type {active.dtype}", "a mask of torch.bool", "pass codes != 0")
        checks.on_device("active", active, self.atoms)
        if y.ndim != 2:
            raise ShapeError(f"vectors of shape {tuple(y.shape)}", f"(vectors, {self.space.dim})")
        if tuple(active.shape) != (len(y), self.features.dim):
            raise ShapeError(f"active of shape {tuple(active.shape)}", f"({len(y)}, {self.features.dim})")
        checks.in_memory("atoms", self.atoms)
        atoms, size_of_atoms = near_one(self.atoms.double())
        gram, right = atoms @ atoms.T, (y - self._offset).double() @ atoms.T
        codes = torch.zeros_like(right)
        sizes = active.sum(dim=1)
        for size in set(sizes.tolist()):  # rows with as many atoms are solved together
            rows = (sizes == size).nonzero()[:, 0]
            if size == 0:
                continue
            for part in torch.split(rows, max(1, 2**22 // size**2)):
                chosen = active[part].nonzero()[:, 1].reshape(len(part), size)
                inverse = torch.linalg.pinv(gram[chosen[:, :, None], chosen[:, None, :]], hermitian=True, rtol=1e-10)
                solved = (inverse @ right[part[:, None], chosen][:, :, None])[:, :, 0]
                codes[part[:, None], chosen] = solved
        return (codes / size_of_atoms).to(self.atoms.dtype)

    def decode(self, codes: Float[Tensor, "*k m"]) -> Float[Tensor, "*k n"]:
        """Vectors Aᵀa + b, one per row, in the dictionary's type.

        Examples:
            >>> d = Dictionary.from_atoms(torch.tensor([[2.0, 0.0]]), Space("y", 2), offset=torch.tensor([0.0, 7.0]))
            >>> d.decode(torch.tensor([3.0]))
            tensor([6., 7.])

        Args and Raises: as `encode`, with `features.dim`.
        """
        return checks.vectors("codes", codes, self.atoms, self.features.dim) @ self.atoms + self._offset

    def project(self, y: Float[Tensor, "*k n"]) -> Float[Tensor, "*k n"]:
        """The nearest vector that the atoms can build: decode(encode(y)), a projection of rank `rank`.

        Examples:
            >>> Dictionary.from_atoms(torch.tensor([[1.0, 0.0]]), Space("y", 2)).project(torch.tensor([3.0, 4.0]))
            tensor([3., 0.])
        """
        return self.decode(self.encode(y))

    def restrict(self, indices: Sequence[int] | Tensor) -> Dictionary:
        """The dictionary of some of the atoms, with their own pseudoinverse; labels keep the old numbers.

        Examples:
            >>> d = Dictionary.from_atoms(torch.eye(3), Space("y", 3))
            >>> d.restrict([2, 0]).features.labels
            ('2', '0')

        The constant atom of a folded dictionary stays the constant coordinate of the codes. A graph of the atoms and
        the offset is kept, as by `fold`: gradients flow from the new dictionary to what this one was built from with
        `detach=False`. One that was built without has none to keep.

        Args:
            indices: which atoms, as numbers or as a mask of length m; the constant atom, if it is one of them, last.

        Raises:
            BilensError: no atom is named, or one outside 0 … m−1, or the constant atom is not last.
            SpaceError: an atom is named twice. ShapeError: a mask of another length.
        """
        checks.in_memory("atoms", self.atoms)
        index = checks.places("atoms", indices, self.features.dim, self.atoms.device)
        numbers = index.tolist()
        constant = self.features.constant and numbers[-1] == self.features.size
        names = numbers[:-1] if constant else numbers
        if self.features.constant and self.features.size in names:
            raise BilensError(f"the constant atom, {self.features.size}, before others", "the constant atom last")
        labels = tuple(self.features.label(i) for i in names)
        features = Space(self.features.name, len(names), labels, constant=constant)
        atoms = self.atoms[index]
        duals, rank = pseudoinverse_duals(atoms)
        return trusted(Dictionary, atoms, duals, self.space, features, rank, self.offset)

    def fold(self) -> Dictionary:
        """The affine dictionary as a linear one on the folded space, with one more atom: [b; 1], last.

        Examples:
            >>> d = Dictionary.from_atoms(torch.eye(2), Space("y", 2), offset=torch.tensor([5.0, 7.0]))
            >>> d.fold().atoms[-1]
            tensor([5., 7., 1.])

        [y; 1] = [[A, 0], [b, 1]]ᵀ [a; 1]. The duals are the pseudoinverse of the folded atoms. A dictionary whose space
        has the constant coordinate already is returned as it is.
        """
        if self.space.constant:
            return self
        atoms = torch.cat([self.atoms, self.atoms.new_zeros(len(self.atoms), 1)], dim=1)
        last = torch.cat([self._offset.expand(self.space.dim), self.atoms.new_ones(1)])
        atoms = torch.cat([atoms, last[None]])
        duals, rank = pseudoinverse_duals(atoms)
        return trusted(Dictionary, atoms, duals, self.space.with_constant(), self.features.with_constant(), rank, None)

    @property
    def _offset(self) -> Tensor:
        return self.atoms.new_zeros(1) if self.offset is None else self.offset


def pseudoinverse_duals(atoms: Float[Tensor, "m n"], rtol: float | None = None) -> tuple[Float[Tensor, "m n"], int]:
    """Rows of (Aᵀ)⁺ and the rank of A, from the SVD A = U S Vᵀ: (Aᵀ)⁺ = U S⁺ Vᵀ, computed in float64.

    Half precision counts as float32: the numbers are exact in it, and against its own epsilon a few hundred atoms of
    half precision would all count as zero.

    Raises:
        BilensError: duals beyond the range of the type.
    """
    checks.in_memory("atoms", atoms)
    work = torch.promote_types(atoms.dtype, torch.float32)
    rtol = max(atoms.shape) * torch.finfo(work).eps if rtol is None else rtol
    scaled, size = near_one(atoms.double())
    u, s, vt = torch.linalg.svd(scaled.detach(), full_matrices=False)
    kept = s > rtol * s[0]
    if tracked(atoms):  # a gradient that is finite where singular values are equal
        inverse = torch.linalg.pinv(scaled, rtol=rtol).T
    else:
        inverse = (u * torch.where(kept, 1 / torch.where(kept, s, 1), 0)) @ vt
    largest = inverse.detach().abs().amax()
    fitted(largest, 1 - torch.frexp(size).exponent, work, "duals")  # beside large ones, small duals may round to 0
    return (inverse / size).to(work), int(kept.sum())


def _check_no_constant(space: Space) -> None:
    if space.constant:
        raise BilensError(
            f"an offset over space {space.title}, which has a constant coordinate",
            "the offset as the atom [offset; 1]",
            "pass no offset, or use a space without the constant and `fold()`",
        )
