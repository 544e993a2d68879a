"""A dictionary: atoms that build vectors of a space, and the duals that read the codes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bilens.checks import instance, number
from bilens.errors import BilensError, ShapeError
from bilens.space import Space


@dataclass(frozen=True, eq=False)
class Dictionary:
    """Atoms A (one a row), an optional offset b, and duals: y ≈ Aᵀa + b with the codes a = duals (y − b).

    Build one with `Dictionary.from_atoms`, which takes the pseudoinverse as duals.

    Args:
        atoms: (m, n), row k is the direction that feature k adds; n is `space.dim`.
        duals: (m, n), row k reads the code of feature k.
        space: the space that the vectors y live in.
        features: the space of the codes; m is `features.dim`.
        rank: rank of the atoms; the codes rebuild every y exactly when it is n.
        offset: (n,) or None for 0, the bias of an affine decoder.

    Raises:
        ShapeError: the shapes do not fit together. BilensError: a value is NaN or infinite, or types differ.

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
        shape = (self.features.dim, self.space.dim)
        for name, value, expected in (
            ("atoms", self.atoms, shape),
            ("duals", self.duals, shape),
            ("offset", self.offset, (self.space.dim,)),
        ):
            if value is None:
                continue
            instance(name, value, Tensor)
            if tuple(value.shape) != expected:
                raise ShapeError(
                    f"{name} of shape {tuple(value.shape)}",
                    f"{expected}: features {self.features.title} × space {self.space.title}",
                )
            _check_numbers(name, value)
            if value.dtype != self.atoms.dtype or value.device != self.atoms.device:
                raise BilensError(
                    f"{name} as {value.dtype} on {value.device}",
                    f"{self.atoms.dtype} on {self.atoms.device} like the atoms",
                    "convert one of them",
                )
        if self.offset is not None and self.space.constant:
            raise BilensError(
                f"an offset over space {self.space.title}, which has a constant coordinate",
                "the offset as the atom [offset; 1]",
                "pass no offset, or use a space without the constant and `folded()`",
            )

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
    ) -> Dictionary:
        """The dictionary with these atoms and the rows of (Aᵀ)⁺ as duals: least squares, then least norm.

        Args:
            atoms: (m, n), one atom a row.
            space: the space of the atoms.
            offset: (n,), bias of an affine decoder.
            name: name of the space of codes; "features of …" when it is not given.
            labels: one text for each atom; their numbers when not given.
            rtol: singular values of the atoms below rtol · the largest count as zero; max(m, n) · machine epsilon of
                the atoms' own type when not given.

        Cost: one SVD of the atoms in float64, O(m n min(m, n)).
        """
        instance("atoms", atoms, Tensor)
        instance("space", space, Space)
        rtol = None if rtol is None else number("rtol", rtol, 0)
        if atoms.ndim != 2 or atoms.shape[1] != space.dim or atoms.shape[0] < 1:
            raise ShapeError(
                f"atoms of shape {tuple(atoms.shape)}",
                f"(number of atoms, {space.dim}) for space {space.title}",
            )
        _check_numbers("atoms", atoms)
        duals, rank = pseudoinverse_duals(atoms, rtol)
        features = Space(
            name or f"features of {space.name}", atoms.shape[0], tuple(labels) if labels is not None else None
        )
        return cls(atoms, duals, space, features, rank, offset)

    @classmethod
    def identity(cls, space: Space, *, dtype: torch.dtype, device: torch.device | None = None) -> Dictionary:
        """The coordinates of a space as its own dictionary: atoms = duals = I."""
        instance("space", space, Space)
        eye = torch.eye(space.dim, dtype=dtype, device=device)
        return cls(eye, eye, space, space, space.dim)

    def encode(self, y: Float[Tensor, "*k n"]) -> Float[Tensor, "*k m"]:
        """Pseudoinverse codes a = duals (y − b), one vector a row."""
        return (self._require(y, self.space.dim) - self._offset) @ self.duals.T

    def encode_among(self, y: Float[Tensor, "k n"], active: Bool[Tensor, "k m"]) -> Float[Tensor, "k m"]:
        """Least-squares codes of each vector over its own active atoms alone; the other codes are 0.

        For the set S of a row, a_S = (A_Sᵀ)⁺ (y − b), by the normal equations G_SS a_S = A_S (y − b) in float64.

        Args:
            y: one vector a row; active: which atoms each row may use, for example those that a trained encoder lit.

        Cost: one product with the atoms and one pseudoinverse of the size of the largest set for each row.
        """
        self._require(y, self.space.dim)
        instance("active", active, Tensor)
        if tuple(active.shape) != (len(y), self.features.dim):
            raise ShapeError(f"active of shape {tuple(active.shape)}", f"({len(y)}, {self.features.dim})")
        atoms = self.atoms.double()
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
        return codes.to(y.dtype)

    def decode(self, codes: Float[Tensor, "*k m"]) -> Float[Tensor, "*k n"]:
        """Vectors Aᵀa + b, one a row."""
        return self._require(codes, self.features.dim) @ self.atoms + self._offset

    def project(self, y: Float[Tensor, "*k n"]) -> Float[Tensor, "*k n"]:
        """The nearest vector that the atoms can build: decode(encode(y)), a projection of rank `rank`."""
        return self.decode(self.encode(y))

    def restrict(self, indices: Sequence[int] | Tensor) -> Dictionary:
        """The dictionary of some of the atoms, with their own pseudoinverse; labels keep the old numbers.

        The constant atom of a folded dictionary stays the constant coordinate of the codes.

        Args:
            indices: which atoms, as numbers or as a mask of length m; the constant atom, if it is one of them, last.

        Raises:
            BilensError: no atom is named, or one outside 0 … m−1, or the constant atom is not last.
            SpaceError: an atom is named twice. ShapeError: a mask of another length.
        """
        try:
            index = torch.as_tensor(indices, device=self.atoms.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise BilensError(f"atoms {indices!r:.40}", "numbers, or a mask") from error
        if index.dtype == torch.bool:
            if tuple(index.shape) != (self.features.dim,):
                raise ShapeError(f"a mask of shape {tuple(index.shape)}", f"({self.features.dim},)")
            index = index.nonzero()[:, 0]
        wrong = index.is_floating_point() or index.ndim != 1 or len(index) == 0
        if wrong or int(index.min()) < 0 or int(index.max()) >= self.features.dim:
            raise BilensError(
                f"atoms {index.tolist()}" if index.numel() < 8 else f"{index.numel()} atoms",
                f"at least one number from 0 to {self.features.dim - 1}",
            )
        numbers = index.tolist()
        constant = self.features.constant and numbers[-1] == self.features.size
        names = numbers[:-1] if constant else numbers
        if self.features.constant and self.features.size in names:
            raise BilensError(f"the constant atom, {self.features.size}, before others", "it last")
        atoms = self.atoms[index.to(torch.int64)]
        duals, rank = pseudoinverse_duals(atoms)
        labels = tuple(self.features.label(i) for i in names)
        features = Space(self.features.name, len(names), labels, constant=constant)
        return Dictionary(atoms, duals, self.space, features, rank, self.offset)

    def folded(self) -> Dictionary:
        """The affine dictionary as a linear one on the folded space, with one more atom: [b; 1], last.

        [y; 1] = [[A, 0], [b, 1]]ᵀ [a; 1]. The duals are the pseudoinverse of the folded atoms. A dictionary whose space
        has the constant coordinate already is returned as it is.
        """
        if self.space.constant:
            return self
        atoms = torch.cat([self.atoms, self.atoms.new_zeros(len(self.atoms), 1)], dim=1)
        last = torch.cat([self._offset.expand(self.space.dim), self.atoms.new_ones(1)])
        atoms = torch.cat([atoms, last[None]])
        duals, rank = pseudoinverse_duals(atoms)
        return Dictionary(atoms, duals, self.space.with_constant(), self.features.with_constant(), rank)

    @property
    def _offset(self) -> Tensor:
        return self.atoms.new_zeros(1) if self.offset is None else self.offset

    @staticmethod
    def _require(x: Tensor, size: int) -> Tensor:
        instance("vectors", x, Tensor)
        if x.ndim == 0 or x.shape[-1] != size:
            raise ShapeError(
                f"vectors of shape {tuple(x.shape)}", f"{size} coordinates on the last axis", "pass one vector per row"
            )
        return x


def pseudoinverse_duals(atoms: Float[Tensor, "m n"], rtol: float | None = None) -> tuple[Float[Tensor, "m n"], int]:
    """Rows of (Aᵀ)⁺ and the rank of A, from the SVD A = U S Vᵀ: (Aᵀ)⁺ = U S⁺ Vᵀ, computed in float64."""
    rtol = max(atoms.shape) * torch.finfo(atoms.dtype).eps if rtol is None else rtol
    u, s, vt = torch.linalg.svd(atoms.double(), full_matrices=False)
    kept = s > rtol * s[0]
    inverse = torch.where(kept, 1 / torch.where(kept, s, torch.ones_like(s)), torch.zeros_like(s))
    return ((u * inverse) @ vt).to(atoms.dtype), int(kept.sum())


def _check_numbers(name: str, value: Tensor) -> None:
    if not value.is_floating_point():
        raise BilensError(f"{name} of type {value.dtype}", "floating-point numbers", "convert it with .float()")
    if not bool(torch.isfinite(value).all()):
        raise BilensError(f"{name} with NaN or infinity", "finite numbers", "check how they were trained")
