"""How much of a feature its first eigenpairs explain: the correlation of its true value with their sum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bilens._internal import checks
from bilens._internal.checks import flag, instance, number, whole
from bilens._internal.shown import line
from bilens.decompose.linalg import folded
from bilens.decompose.many import Spectra, eigh_many
from bilens.decompose.metric import Metric
from bilens.errors import BilensError, ShapeError
from bilens.progress import bar
from bilens.statistics import Estimate, median, share
from bilens.tensor import BilinearTensor

KS = (1, 2, 4, 8, 16, 32, 64)
"""Numbers of eigenpairs that are asked about."""

LEAST = 15
"""Tokens on which a feature must be active before a correlation over these alone is given."""

NUMBERS = 2**22
"""Terms that are held at a time."""


@dataclass(frozen=True, eq=False, repr=False)
class Audit:
    """Correlations of n features' true values with the sums of their first k eigenpairs, over tokens.

    Args:
        name: of the set of features; labels: of the features; order: how pairs were ordered, "weighted" or "magnitude".
        ks: numbers of pairs.
        correlations: (n, k), over all tokens; NaN where the value, or the sum, does not vary.
        active: (n, k), over the tokens where the feature is active; NaN where these are fewer than `least`.
        full, full_active: (n,), the same of the whole quadratic form.
        firings: (n,), on how many tokens each is active, all of them where nothing was said of it.
        tokens: how many; least: as above.

    Raises:
        ShapeError: the shapes do not fit together.
    """

    name: str
    labels: tuple[str, ...]
    order: str
    ks: tuple[int, ...]
    correlations: Float[Tensor, "n k"]
    active: Float[Tensor, "n k"]
    full: Float[Tensor, " n"]
    full_active: Float[Tensor, " n"]
    firings: Int[Tensor, " n"]
    tokens: int
    least: int

    __repr__ = line

    def __post_init__(self) -> None:
        checks.choice("order", self.order, ("weighted", "magnitude"))
        labels = checks.several("labels", self.labels, "a name for each feature", "pass (name,)")
        checks.shapes(self, n=len(labels), k=len(checks.several("ks", self.ks, "numbers of pairs", "pass (k,)")))

    def __len__(self) -> int:
        """How many features."""
        return len(self.labels)

    def at(self, k: int, *, active: bool = False) -> Float[Tensor, " n"]:
        """|correlation| of every feature with its first k pairs, or with the whole quadratic form for k = 0.

        Raises:
            BilensError: another k than was asked about.
        """
        active = flag("active", active)
        k = whole("k", k, 0)
        if k == 0:
            return (self.full_active if active else self.full).abs()
        if k not in self.ks:
            raise BilensError(f"k = {k}", f"one of {', '.join(map(str, self.ks))}, or 0 for all pairs")
        return (self.active if active else self.correlations)[:, self.ks.index(k)].abs()

    def median(self, k: int, *, active: bool = False) -> Estimate:
        """The median over features of |correlation|, with an interval. Raises as `at`; where none is known.

        Raises:
            BilensError: no feature whose correlation is known.
        """
        return median(self._known(k, active))

    def share(self, k: int = 2, *, above: float = 0.75, active: bool = False) -> Estimate:
        """The share of features whose |correlation| is above a level, with Wilson's interval. Raises as `median`."""
        known, above = self._known(k, active), number("above", above)
        return share(sum(value > above for value in known), len(known))

    def known(self, *, active: bool = False) -> int:
        """How many features have a correlation with the whole form."""
        return int(torch.isfinite(self.at(0, active=active)).sum())

    def _known(self, k: int, active: bool) -> list[float]:
        found = self.at(k, active=active)
        known: list[float] = found[torch.isfinite(found)].tolist()
        if not known:
            raise BilensError(f"no feature of {self.name!r} with a correlation", "one at least, active often enough")
        return known


@torch.no_grad()
def audit(
    tensor: BilinearTensor,
    directions: Float[Tensor, "n o"],
    x: Float[Tensor, "m d"],
    values: Float[Tensor, "m n"],
    *,
    ks: Sequence[int] = KS,
    metric: Metric | Float[Tensor, "i i"] | None = None,
    active: Bool[Tensor, "m n"] | None = None,
    spectra: Spectra | None = None,
    labels: Sequence[str] | None = None,
    name: str = "",
    least: int = LEAST,
    progress: bool = False,
) -> Audit:
    """For each direction u the correlation of its true value with Σ_{j≤k} λ_j (v_j·x')² of the k first eigenpairs.

    Examples:
        >>> x = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
        >>> layer = BilinearTensor(torch.eye(2), torch.eye(2), torch.tensor([[3.0, 1.0]]), Space("x", 2), Space("y", 1))
        >>> found = audit(layer, torch.ones(1, 1), x, layer(x), ks=(1, 2))  # of 3x₁² + x₂²
        >>> found.correlations.round(decimals=2)
        tensor([[0.9300, 1.0000]])

    The values are those of the layer itself; the tensor may be a surrogate of it. The value of a correlation does not
    see a wrong scale or a wrong mean. Beside it belong the same of random directions and of the whole form, which
    is in the record: a feature is explained by few pairs where it is by fewer than a random direction takes.

    Args:
        tensor: the layer, or its surrogate; directions: (n, o), one per row.
        x: inputs of the tensor, without the constant coordinate, tokens that nothing was fitted on.
        values: u·y of the layer on these tokens.
        ks: numbers of pairs; the default ones as far as there are so many.
        metric: a `Metric` or a second moment over the folded input, for pairs in the order of what they add on average;
            None for the order by |λ|.
        active: where each feature counts as active, for example where a coder's code is not 0; everywhere when None.
        spectra: the eigenpairs of these directions where they are at hand, in the same metric.
        labels: of the directions, their numbers when None; name: of the set; least: tokens on which a feature must be
            active; progress: whether to show a bar.

    Cost: that of `eigh_many` for the largest k, and 2·m·i operations per pair.

    Raises:
        ShapeError: values, masks or spectra of other sizes. BilensError: fewer than two tokens, or k out of range.
            Others as `eigh_many`.
    """
    instance("tensor", tensor, BilinearTensor)
    checks.weights("directions", directions)
    checks.floating("values", values)
    least = whole("least", least, 2)
    if active is not None:
        instance("active", active, Tensor, "a mask of torch.bool", "pass codes != 0")
    if directions.ndim != 2:
        raise ShapeError(f"directions of shape {tuple(directions.shape)}", f"(n, {tensor.output.dim}), one per row")
    x = checks.vectors("x", x, tensor.left, tensor.input.size)
    n, m = len(directions), len(x)
    if x.ndim != 2 or m < 2:
        raise ShapeError(f"x of shape {tuple(x.shape)}", f"(tokens, {tensor.input.size}), two tokens at least")
    for what, given in (("values", values), ("active", active)):
        if given is not None and tuple(given.shape) != (m, n):
            raise ShapeError(f"{what} of shape {tuple(given.shape)}", f"({m}, {n}): each direction on each token")
    if active is not None and active.dtype != torch.bool:
        raise BilensError(f"active of type {active.dtype}", "a mask of torch.bool", "pass codes != 0")
    named = (
        tuple(map(str, range(n)))
        if labels is None
        else tuple(checks.several("labels", labels, "a name for each", "pass [name]"))
    )
    if len(named) != n:
        raise ShapeError(f"{len(named)} labels", f"{n}, one for each direction")
    weighing = Metric.from_moment(metric, tensor.input) if isinstance(metric, Tensor) else metric
    if weighing is not None:
        instance("metric", weighing, Metric, "a Metric or a second moment")
    ks = tuple(whole("k", k, 1) for k in checks.several("ks", ks, "numbers of pairs", "pass [k]"))
    most = tensor.input.dim if weighing is None else weighing.rank
    if spectra is not None:
        most = _checked(spectra, n, weighing)
    wanted = tuple(k for k in KS if k <= most) if ks == KS else tuple(whole("k", k, most=most) for k in ks)
    if not wanted or any(b <= a for a, b in pairwise(wanted)):
        raise BilensError(f"ks = {list(wanted)}", "numbers that rise")
    if spectra is None:
        spectra = eigh_many(tensor, directions, wanted[-1], metric=weighing, progress=progress)
    places = torch.tensor(wanted, device=x.device) - 1
    lifted, true = folded(tensor.input, x, tensor.left), values.double()
    whole_form = (tensor(x).double() @ directions.double().T)[:, :, None]
    everywhere = torch.ones(m, 1, dtype=torch.float64, device=x.device)
    mask = None if active is None else active.double()
    rows = max(1, NUMBERS // (m * wanted[-1]))
    parts = []
    with bar("correlations", n, show=flag("progress", progress)) as step:
        for start in range(0, n, rows):
            some = slice(start, start + rows)
            vectors, levels = spectra.vectors[some, : wanted[-1]], spectra.values[some, : wanted[-1]]
            overlaps = lifted @ vectors.double().flatten(0, 1).T
            sums = (overlaps.square() * levels.double().flatten()).view(m, len(levels), -1).cumsum(dim=2)
            both = torch.cat([sums[:, :, places], whole_form[:, some]], dim=2)
            over_all = _correlation(true[:, some], both, everywhere)
            over_active = over_all if mask is None else _correlation(true[:, some], both, mask[:, some])
            parts.append(torch.stack([over_all, over_active]))
            step(len(levels))
    over_all, over_active = torch.cat(parts, dim=1).to(spectra.values.dtype)
    firings = torch.full((n,), m) if active is None else active.sum(dim=0)
    over_active = torch.where((firings >= least).to(over_active.device)[:, None], over_active, math.nan)
    return Audit(
        name,
        named,
        "magnitude" if weighing is None else "weighted",
        wanted,
        over_all[:, :-1],
        over_active[:, :-1],
        over_all[:, -1],
        over_active[:, -1],
        firings,
        m,
        least,
    )


def _checked(spectra: Spectra, n: int, metric: Metric | None) -> int:
    """How many pairs the spectra have, when they are those of these directions in this metric."""
    instance("spectra", spectra, Spectra)
    if len(spectra) != n:
        raise ShapeError(f"spectra of {len(spectra)} kernels", f"{n}, one for each direction")
    if spectra.metric != ("" if metric is None else metric.checksum) or spectra.which != "magnitude":
        raise BilensError("spectra in another order", "those of largest |λ| in the same metric")
    return spectra.values.shape[1]


def _correlation(true: Tensor, sums: Tensor, weights: Tensor) -> Tensor:
    """Of true values (m, n) with each of k sums (m, n, k), over tokens weighted by 0 or 1, (m, n) or (m, 1)."""
    total = weights.sum(dim=0)
    w = weights[:, :, None]
    off_true = (true - (weights * true).sum(dim=0) / total)[:, :, None]
    off = sums - (w * sums).sum(dim=0) / total[:, None]
    together = (w * off_true * off).sum(dim=0)
    size = (w * off_true.square()).sum(dim=0) * (w * off.square()).sum(dim=0)
    return together / torch.where(size > 0, size, math.nan).sqrt()


__all__ = ["KS", "LEAST", "Audit", "audit"]
