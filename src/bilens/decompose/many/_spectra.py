"""Top eigenpairs of many kernels: the record, each kernel with its residuals and bounds on what was left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bilens._internal import checks
from bilens._internal.checks import instance, reals
from bilens._internal.shown import line
from bilens.decompose.eigen import Spectrum
from bilens.decompose.linalg import detach, folded, largest_square, upward
from bilens.decompose.many._solve import Which
from bilens.decompose.weighted import WeightedSpectrum
from bilens.errors import BilensError, ShapeError
from bilens.space import Space


@dataclass(frozen=True, eq=False, repr=False)
class Spectra:
    """Some eigenpairs of n kernels: u_n·y ≈ Σ_k λ_nk (v_nk·x')².

    In the metric of data with second moment Σ (`metric` is not empty) they are the pairs of Σ^½ Q Σ^½ as
    `eigh_weighted` has them: x' = Σ^½ z, λ and residuals are those in z, and the vectors are the readers
    v = (Σ^½)⁺ w of its eigenvectors w, so that each (v·x')² has mean 1 over the data.

    Args:
        values: λ, (n, k), in the order that `which` names; (n, 2k) for "both".
        vectors: v, (n, k, i), orthonormal rows over the folded input, V Vᵀ = 1; in a metric V Σ Vᵀ = 1. Each one's
            largest entry is positive.
        residuals: ‖Q v − λ v‖, (n, k), measured with the factors in float64; in a metric ‖Σ^½ Q Σ^½ w − λ w‖ at most,
            for w = Σ^½ v of the vectors as they are returned.
        bounds: (n, 2), every eigenvalue that was left out lies between them: certain where a kernel was solved in full,
            otherwise an estimate, wrong with the small chance that `eigh_many` states, and for copies of a multiple
            eigenvalue that a second search did not show. `certified` makes them certain, and wider.
        exact: (n,), whether all residuals met the tolerance and nothing that was wanted was seen to be missing, as
            certain as the bounds are.
        tol: the tolerance, relative to the largest |λ| of each kernel; which: the pairs that were asked for.
        input: the space of x; features: the space whose coordinates the kernels belong to.
        metric: the checksum of the `Metric` that the pairs are in; empty for none.

    Raises:
        ShapeError: the shapes do not fit together.
    """

    values: Float[Tensor, "n k"]
    vectors: Float[Tensor, "n k i"]
    residuals: Float[Tensor, "n k"]
    bounds: Float[Tensor, "n 2"]
    exact: Bool[Tensor, " n"]
    tol: float
    which: Which
    input: Space
    features: Space
    metric: str = ""

    __repr__ = line

    def __post_init__(self) -> None:
        checks.fields(self)
        detach(self)
        checks.shapes(self, i=self.input.dim)
        if self.features.dim != len(self.values):
            raise ShapeError(f"{len(self.values)} kernels", f"{self.features.dim} of space {self.features.title}")

    def __len__(self) -> int:
        return len(self.values)

    @property
    def discarded(self) -> Float[Tensor, " n"]:
        """The largest |λ| that can have been left out of each kernel."""
        return self.bounds.abs().amax(dim=1)

    @torch.no_grad()
    def certified(self, energies: Float[Tensor, " n"]) -> Spectra:
        """The same pairs with bounds ±c that are certain, c² = ‖Q‖² − Σ λ² rounded up.

        ‖Q − Σ λ v vᵀ‖² = ‖Q‖² − Σ λ² in Frobenius norm: no eigenvalue that is left out is larger, nor is what a
        truncation changes per ‖x'‖²; residuals are included.

        Args:
            energies: ‖Q‖² of every kernel, from `decompose.squared_norms`.

        Raises:
            BilensError: energies that are not finite or below 0. ShapeError: not one per kernel.
        """
        checks.floating("energies", energies)
        checks.finite("energies", energies)
        if not checks.holds((energies >= 0).all(), True):
            raise BilensError("an energy below 0", "‖Q‖² of every kernel", "pass decompose.squared_norms")
        if energies.shape != self.exact.shape:
            raise ShapeError(f"energies of shape {tuple(energies.shape)}", f"({len(self)},)")
        energy, unit = energies.to(self.values.device, torch.float64), torch.finfo(self.values.dtype).eps
        left = energy - self.values.double().square().sum(dim=1)
        slack = 16 * (self.values.shape[1] + 1) * unit * energy  # of values, vectors and energies, as they are stored
        most = upward((left.clamp(min=0) + slack).sqrt(), self.values.dtype)
        return replace(self, bounds=torch.stack([-most, most], dim=1))

    @torch.no_grad()
    def bound(self, x_norm: Float[Tensor, "*m"] | float) -> Float[Tensor, "*m n"]:
        """|u_n·y − Σ_k λ_nk (v_nk·x')²| ≤ (`discarded`_n + 2 ‖residuals_n‖ + rounding) · ‖x'‖², rounded up.

        In a metric ‖x'‖ is `Metric.norm` of the input, and the bound holds in the range of Σ. A certificate where
        `bounds` are certain. Rounding, of vectors that are orthonormal to the precision of their
        type, is 4 √k units of the largest |λ|.
        """
        values, residuals = self.values.double(), self.residuals.double()
        rounding = 4 * self.values.shape[1] ** 0.5 * torch.finfo(self.values.dtype).eps * values.abs().amax(dim=1)
        off = self.discarded.double() + 2.1 * residuals.norm(dim=1) + rounding
        return upward(largest_square(x_norm, self.input.dim, values)[..., None] * off, self.values.dtype)

    def reconstruct(self, x: Float[Tensor, "*m d"]) -> Float[Tensor, "*m n"]:
        """Σ_k λ_nk (v_nk·x')² for each sample and kernel. Types and errors: as `Spectrum.terms`."""
        n, k = self.values.shape
        overlaps = folded(self.input, x, self.vectors) @ self.vectors.reshape(n * k, -1).T.double()
        terms = (overlaps.square() * self.values.reshape(-1).double()).reshape(*x.shape[:-1], n, k)
        return terms.sum(dim=-1).to(self.values.dtype)

    @torch.no_grad()
    def spectrum(self, feature: str | int, energy: Float[Tensor, ""] | float) -> Spectrum:
        """One kernel's pairs as a `Spectrum`, largest |λ| first.

        Args:
            feature: its label or number; energy: ‖Q‖² = Σ λ² over all its pairs, of `energies`.

        Raises:
            SpaceError: no such feature. BilensError: an energy that is no number, or pairs in a metric.
        """
        if self.metric:
            raise BilensError("pairs in the metric of data", "pairs without one", "call weighted(feature, energy)")
        n = self.features.index(feature)
        energy = reals("energy", energy, self.values)
        checks.finite("energy", energy)
        order = self.values[n].abs().argsort(descending=True, stable=True)
        return Spectrum(
            self.values[n][order],
            self.vectors[n][order],
            self.residuals[n][order],
            self.discarded[n],
            energy,
            self.input,
            self.features.label(n),
        )

    @torch.no_grad()
    def mean_error(self, energies: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """E|u_n·y − reconstruct(x)_n| over the data of the metric, at most, rounded up.

        With c² = ‖Σ^½ Q Σ^½‖² − Σ λ² it is √i (c + 2.1 ‖residuals‖): the sum of |eigenvalues| of what is left is at
        most √i times their norm. `eigh_weighted`, which knows all of them, has the sum itself.

        Args:
            energies: ‖Σ^½ Q Σ^½‖² of every kernel, from `decompose.squared_norms(…, metric=…)`.

        Raises:
            BilensError: pairs without a metric, or energies of another type. ShapeError: not one per kernel.
        """
        if not self.metric:
            raise BilensError("pairs without a metric", "pairs in the metric of data", "pass metric= to eigh_many")
        left = self.certified(energies).discarded.double() + 2.1 * self.residuals.double().norm(dim=1)
        return upward(left * self.input.dim**0.5 * (1 + 1e-12), self.values.dtype)

    @torch.no_grad()
    def weighted(self, feature: str | int, energy: Float[Tensor, ""] | float) -> WeightedSpectrum:
        """One kernel's pairs in the metric as a `WeightedSpectrum`, largest |λ| first.

        Args:
            feature: its label or number; energy: ‖Σ^½ Q Σ^½‖², of `squared_norms` in the same metric.

        Raises:
            SpaceError: no such feature. BilensError: an energy that is no number, or pairs without a metric.
        """
        n = self.features.index(feature)
        energies = torch.zeros(len(self), dtype=torch.float64, device=self.values.device)
        energies[n] = reals("energy", energy, energies)
        order = self.values[n].abs().argsort(descending=True, stable=True)
        return WeightedSpectrum(
            self.values[n][order],
            self.vectors[n][order],
            self.mean_error(energies)[n],
            self.input,
            self.features.label(n),
        )

    @classmethod
    def join(cls, parts: Sequence[Spectra], features: Space) -> Spectra:
        """The kernels of several records, one after another.

        Args:
            parts: at least one, of one layer, `which`, tolerance, k and metric; features: the space of all of them.

        Raises:
            BilensError: no parts, or parts that were asked for differently.
        """
        parts = checks.several("parts", parts, "a list of Spectra", "pass [spectra]")
        instance("features", features, Space)
        for part in parts:
            instance("a part", part, Spectra)
        if not parts:
            raise BilensError("no parts", "at least one")
        kinds = len({(part.which, part.tol, part.values.shape[1], part.input, part.metric) for part in parts})
        if kinds > 1:
            raise BilensError(
                f"parts of {kinds} kinds", "the same which, tol, k, input and metric in each", "join those alike"
            )
        names = ("values", "vectors", "residuals", "bounds", "exact")
        joined: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
        return replace(parts[0], **joined, features=features)
