"""Mean and second moment of the vectors of many sites, in one pass over a text: sums that add up over texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bilens._internal import checks, ranks, shown
from bilens._internal.checks import whole
from bilens.activations.sites import SITES, Sites, rows_of, several
from bilens.errors import BilensError
from bilens.models import gated
from bilens.progress import bar


@dataclass(frozen=True, eq=False, repr=False)
class SiteMoments:
    """Sums over the tokens of one site, in float64.

    Args:
        layer, site: where; sums: Σ x̃ x̃ᵀ with x̃ = (x, 1).

    Raises:
        ShapeError: no square matrix. BilensError: NaN or infinity.
    """

    layer: int
    site: str
    sums: Float[Tensor, "m m"]

    def __post_init__(self) -> None:
        object.__setattr__(self, "layer", whole("layer", self.layer, 0))
        checks.choice("site", self.site, SITES)
        checks.shapes(self)
        checks.weights("sums", self.sums)
        object.__setattr__(self, "sums", checks.owned(self.sums).double())

    def __repr__(self) -> str:
        """For example "SiteMoments(layer 3, site 'mlp_out', sums (577, 577), float64)"."""
        return shown.line(self)

    @property
    def tokens(self) -> float:
        """How many tokens were summed."""
        return float(self.sums[-1, -1])

    @property
    def mean(self) -> Float[Tensor, " d"]:
        """E x."""
        return self.sums[-1, :-1] / self.tokens

    @property
    def second_moment(self) -> Float[Tensor, "d d"]:
        """E x xᵀ."""
        return self.sums[:-1, :-1] / self.tokens

    @property
    def folded(self) -> Float[Tensor, "m m"]:
        """E x̃ x̃ᵀ, the second moment over a space with its constant coordinate, as `decompose.Metric` takes it."""
        return self.sums / self.tokens

    @property
    def covariance(self) -> Float[Tensor, "d d"]:
        """E (x − E x)(x − E x)ᵀ."""
        return self.second_moment - torch.outer(self.mean, self.mean)


@dataclass(frozen=True, eq=False, repr=False)
class Moments:
    """Sums over texts of many sites, which add up: of two halves of a text, or of what two processes saw.

    Args:
        sites: one record for each; texts: how many were summed; prefix: tokens left out at the start of each.

    Raises:
        BilensError: no site.
    """

    sites: tuple[SiteMoments, ...]
    texts: int
    prefix: int

    def __post_init__(self) -> None:
        if not self.sites:
            raise BilensError("moments of no site", "one at least")
        object.__setattr__(self, "texts", whole("texts", self.texts, 0))
        object.__setattr__(self, "prefix", whole("prefix", self.prefix, 0))

    def __repr__(self) -> str:
        """For example "Moments(120 sites, 24 texts, 6120 tokens)"."""
        return f"Moments({len(self.sites)} sites, {self.texts} texts, {self.sites[0].tokens:.0f} tokens)"

    def at(self, layer: int, site: str) -> SiteMoments:
        """Those of one site.

        Raises:
            BilensError: not among them.
        """
        for one in self.sites:
            if (one.layer, one.site) == (layer, site):
                return one
        there = ", ".join(f"{one.site} of layer {one.layer}" for one in self.sites[:8])
        raise BilensError(f"{site} of layer {layer}", f"one of {there}{' …' if len(self.sites) > 8 else ''}")


def moments(
    model: nn.Module,
    text: Int[Tensor, "n t"],
    *,
    layers: Iterable[int] | None = None,
    sites: str | Sequence[str] = SITES,
    prefix: int = 1,
    known: Moments | None = None,
    keep: Callable[[Moments], None] | None = None,
    every: int = 16,
    progress: bool = True,
) -> Moments:
    """Mean and second moment of sites of all layers in one pass. Under `torch.distributed` processes share the texts.

    With `keep` and `known` a pass that was stopped goes on: the sums so far are handed to `keep` now and then, and
    begin from `known`; in several processes each keeps, and knows, its own.

    Args:
        model: of transformers, in memory; text: rows of tokens.
        layers: their numbers, None for all; sites: some of `SITES`; prefix: tokens left out at the start of a text.
        known: what an earlier pass over the same text kept; keep: is given what was summed; every: after how many
            texts.
        progress: whether to show a bar.

    Memory per site, in float64: (d + 1)².

    Returns:
        The sums over all texts, of all processes.

    Raises:
        BilensError: no such layer or site, or `known` of others. ShapeError: texts no longer than the prefix.
    """
    prefix, every = whole("prefix", prefix, 0), whole("every", every, 1)
    rows, names = rows_of("text", text, prefix), several(sites)
    if layers is None:
        layers = sorted({layer for layer, part in gated.load(model).places if part == "mlp"})
    taps = Sites(model, [(layer, site) for layer in layers for site in names])
    where = next(model.parameters()).device
    own = rows[ranks.rank() :: ranks.size()]
    if known is None:
        sums = {
            key: torch.zeros(size + 1, size + 1, dtype=torch.float64, device=where) for key, size in taps.sizes.items()
        }
        done = 0
    else:
        same = [(one.layer, one.site) for one in known.sites] == list(taps.sizes)
        if not same or known.prefix != prefix or known.texts > len(own):
            raise BilensError(f"{known!r} to go on from", f"those of the same {len(taps.sizes)} sites of these texts")
        sums, done = {(one.layer, one.site): one.sums.to(where, copy=True) for one in known.sites}, known.texts
    with taps.reading(only=True) as run, bar("moments", len(own), done=done, show=progress and ranks.lead()) as step:
        for place in range(done, len(own)):
            for key, value in run(own[place : place + 1].to(where)).items():
                x = value[0, prefix:].double()
                lifted = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
                sums[key].addmm_(lifted.T, lifted)
            if keep is not None and (place + 1 - done) % every == 0:
                keep(_record(sums, place + 1, prefix))
            step(1)
    ranks.add(list(sums.values()))
    return _record(sums, len(rows), prefix)


def _record(sums: dict[tuple[int, str], Tensor], texts: int, prefix: int) -> Moments:
    return Moments(tuple(SiteMoments(*key, total) for key, total in sums.items()), texts, prefix)


__all__ = ["Moments", "SiteMoments", "moments"]
