"""Activations as a stream to train on: made on the fly, shuffled in a buffer, any batch again by its number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bilens._internal import checks
from bilens._internal.checks import whole
from bilens._internal.seeds import derived
from bilens.activations.sites import Sites, joined, rows_of, several
from bilens.errors import BilensError
from bilens.progress import bar

AT_ONCE = 8
"""Texts that the model runs on at a time."""


@dataclass(frozen=True, eq=False, repr=False)
class ActivationStream:
    """The vectors of a site of a language model, each token once per epoch. `stream` makes one for `sae.train`.

    The texts are dealt to `lanes` in an order drawn by the seed. A batch has as many rows of every lane, lane after
    lane, so that a process makes its part of a batch from the texts of its own lanes, and a batch is the same however
    many processes share it. Of each lane some texts at a time are in the buffer, their vectors shuffled; where all
    texts fit, they stay there, and the model runs on each text once.

    Batches depend on the arguments and their number alone: a stream has no state to keep, and a run that was stopped
    goes on at any batch.

    Args:
        model, layer, batch_size, buffer, seed, prefix, lanes: as `stream`; sites: one or several; text: rows of tokens.
    """

    model: nn.Module
    layer: int
    sites: tuple[str, ...]
    text: Int[Tensor, "n t"]
    batch_size: int
    buffer: int
    seed: int
    prefix: int
    lanes: int

    def __repr__(self) -> str:
        """For example "ActivationStream(mlp_out of layer 12, 576 numbers, 22,950 rows in batches of 1,024)"."""
        return (
            f"ActivationStream({' + '.join(self.sites)} of layer {self.layer}, {self.width} numbers, "
            f"{self.rows:,} rows in batches of {self.batch_size:,})"
        )

    @cached_property
    def _sites(self) -> Sites:
        return Sites(self.model, [(self.layer, site) for site in self.sites])

    @property
    def widths(self) -> tuple[int, ...]:
        """Sizes of the sites' vectors, which lie side by side in a row."""
        return tuple(self._sites.sizes[self.layer, site] for site in self.sites)

    @property
    def width(self) -> int:
        """Size of a row."""
        return sum(self.widths)

    @property
    def rows(self) -> int:
        """Vectors per epoch: one for each token after the prefix. Texts beyond a multiple of `lanes` are left out."""
        return self.lanes * self._of_lane

    @property
    def _own(self) -> int:
        """Tokens of a text that count."""
        return self.text.shape[1] - self.prefix

    @property
    def _texts(self) -> int:
        """Texts of a lane."""
        return len(self.text) // self.lanes

    @property
    def _of_lane(self) -> int:
        return self._texts * self._own

    @property
    def _share(self) -> int:
        """Rows of a lane in a whole batch."""
        return self.batch_size // self.lanes

    @property
    def _held(self) -> int:
        """Texts of a lane that are in the buffer at a time."""
        return max(1, min(self._texts, self.buffer // (self.lanes * self._own)))

    def __len__(self) -> int:
        """Batches per epoch."""
        return math.ceil(self._of_lane / self._share)

    def size(self, n: int) -> int:
        """Rows of the n-th batch: `batch_size`, or what is left at the end of an epoch."""
        position = whole("batch", n, 0) % len(self)
        return self.lanes * min(self._share, self._of_lane - position * self._share)

    def batch(self, n: int) -> Float[Tensor, "b width"]:
        """The n-th batch, counted from the first epoch on."""
        return self.part(n, 0, self.size(n))

    def part(self, n: int, start: int, stop: int) -> Float[Tensor, "b width"]:
        """Rows start … stop − 1 of the n-th batch, as far as it has them."""
        size, start, stop = self.size(n), whole("start", start, 0), whole("stop", stop, 0)
        epoch, position = divmod(n, len(self))
        share, first = size // self.lanes, position * self._share
        found = []
        for lane in range(self.lanes):
            low, high = (min(max(end - lane * share, 0), share) for end in (start, min(stop, size)))
            if low < high:
                found += self._rows(epoch, lane, first + low, first + high)
        return torch.cat(found) if found else self._rows(epoch, 0, first, first + 1)[0][:0]

    def _rows(self, epoch: int, lane: int, first: int, last: int) -> list[Tensor]:
        """Rows of a lane's epoch, in the order in which its buffers give them."""
        found, capacity = list[Tensor](), self._held * self._own
        while first < last:
            number, place = divmod(first, capacity)
            vectors, order = self._buffered(epoch, lane, number)
            some = order[place : place + last - first]
            found.append(vectors[some])
            first += len(some)
        return found

    def _buffered(self, epoch: int, lane: int, number: int) -> tuple[Tensor, Tensor]:
        """The vectors in a lane's buffer and the order in which they are given; the last of each lane is kept."""
        key = (epoch, number)
        known = self._kept.get(lane)
        if known is not None and known[0] == key:
            return known[1], known[2]
        everything = self._held == self._texts
        if known is not None and everything:
            vectors = known[1]
        else:
            self._kept.pop(lane, None)  # before as much again is made
            texts = self._dealt[lane]
            if not everything:
                order = torch.randperm(len(texts), generator=self._drawn(epoch, lane, 0))
                texts = texts[order[number * self._held : (number + 1) * self._held]]
            vectors = _run(self._sites, self.layer, self.sites, self.text[texts], self.prefix)
        order = torch.randperm(len(vectors), generator=self._drawn(epoch, lane, number + 1)).to(vectors.device)
        self._kept[lane] = (key, vectors, order)
        return vectors, order

    def _drawn(self, epoch: int, lane: int, part: int) -> torch.Generator:
        return torch.Generator().manual_seed(derived(derived(derived(self.seed, epoch), lane), part))

    @cached_property
    def _dealt(self) -> Tensor:
        """The texts of every lane, (lanes, texts)."""
        order = torch.randperm(len(self.text), generator=torch.Generator().manual_seed(derived(self.seed, -1)))
        return order[: self.lanes * self._texts].reshape(self.lanes, -1)

    @cached_property
    def _kept(self) -> dict[int, tuple[tuple[int, int], Tensor, Tensor]]:
        return {}


def stream(
    model: nn.Module,
    layer: int,
    site: str | Sequence[str],
    text: Int[Tensor, "n t"],
    *,
    batch_size: int = 1024,
    buffer: int = 65536,
    seed: int = 0,
    prefix: int = 1,
    lanes: int = 8,
) -> ActivationStream:
    """The vectors of a site as a stream that `sae.train` takes.

    Examples:
        >>> from bilens import sae, text
        >>> from bilens.models import gated, language
        >>> from bilens.models.gated.original import original
        >>> model = original(gated.load(language.TINY))
        >>> rows = torch.randint(0, 512, (16, 33), generator=torch.Generator().manual_seed(0))
        >>> vectors = stream(model, 1, "mlp_out", rows, batch_size=64)
        >>> vectors
        ActivationStream(mlp_out of layer 1, 96 numbers, 512 rows in batches of 64)
        >>> history = sae.train(sae.TopKSAE(96, 128, k=8), vectors, steps=3, progress=False, device="cpu")

    Args:
        model: of transformers, in memory and in evaluation.
        layer: its number; site: one of `SITES`, or several, whose vectors then lie side by side in a row:
            ("mlp_in", "mlp_out") is what `sae.train_transcoder` takes.
        text: rows of tokens.
        batch_size: rows of a batch, a multiple of `lanes`.
        buffer: how many vectors are held at a time and shuffled; at least those of one text for each lane.
        seed: of the order.
        prefix: tokens at the start of a text that are left out: many models keep a vector hundreds of times larger
            there.
        lanes: into how many independent parts the texts are dealt: as many processes at most share the work.

    Memory: `buffer` rows. Cost: a run of the model up to the site per text and epoch, or once where the buffer holds
    all.

    Raises:
        BilensError: no such layer or site, a model without gated MLPs, fewer texts than lanes, or a batch size that is
            no multiple. ShapeError: texts no longer than the prefix.
    """
    prefix, lanes = whole("prefix", prefix, 0), whole("lanes", lanes, 1)
    rows = rows_of("text", text, prefix)
    size = whole("batch_size", batch_size, 1)
    if size % lanes:
        raise BilensError(f"batch_size = {size}", f"a multiple of lanes = {lanes}")
    if len(rows) < lanes:
        raise BilensError(f"{len(rows)} texts for {lanes} lanes", "a text for each at least", "pass lanes=1")
    made = ActivationStream(
        model, layer, several(site), rows, size, whole("buffer", buffer, 1), checks.seed(seed), prefix, lanes
    )
    _ = made.width  # which finds the sites
    return made


def collect(
    model: nn.Module,
    layer: int,
    site: str | Sequence[str],
    text: Int[Tensor, "n t"],
    *,
    prefix: int = 1,
    at_once: int = AT_ONCE,
    progress: bool = False,
) -> Float[Tensor, "rows w"]:
    """The vectors of a site in the order of the text: of text i and position p in row i·(t − prefix) + p − prefix.

    Args:
        model, layer, site, text, prefix: as `stream`; at_once: texts that the model runs on at a time; progress:
            whether to show a bar.

    Raises: as `stream`.
    """
    prefix, at_once = whole("prefix", prefix, 0), whole("at_once", at_once, 1)
    rows, names = rows_of("text", text, prefix), several(site)
    sites = Sites(model, [(layer, name) for name in names])
    return _run(sites, layer, names, rows, prefix, at_once=at_once, progress=progress)


def _run(
    sites: Sites,
    layer: int,
    names: Sequence[str],
    text: Tensor,
    prefix: int,
    *,
    at_once: int = AT_ONCE,
    progress: bool = False,
) -> Tensor:
    found = []
    where = next(sites.model.parameters()).device
    with sites.reading(only=True) as run, bar("rows of text", len(text), show=progress) as step:
        for some in torch.split(text, at_once):
            found.append(joined(run(some.to(where)), layer, names, prefix))
            step(len(some))
    return torch.cat(found)


__all__ = ["AT_ONCE", "ActivationStream", "collect", "stream"]
