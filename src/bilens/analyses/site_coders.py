"""Coders of a language model's activations: trained once for a run, measured beside a null that was never trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn

from bilens import activations, sae, store
from bilens._internal.checkpoint import discard
from bilens._internal.checks import choice, number, whole
from bilens.activations import ActivationStream, SiteCost
from bilens.errors import BilensError
from bilens.history import History
from bilens.sae import SAE, Coder, Site, StandardSAE, Stream, TopKSAE
from bilens.store import Folder

store.register(SiteCost)


@dataclass(frozen=True)
class CoderSettings:
    """What a coder of activations is, and how it is trained.

    Args:
        kind: "topk" or "relu"; features: how many; k: codes kept by "topk"; l1: penalty of "relu".
        steps: updates; batch: vectors in each, a multiple of 8; lr: the highest learning rate; seed: of weights and
            order.

    Raises:
        BilensError: another kind, or a number out of range.
    """

    kind: Literal["topk", "relu"] = "topk"
    features: int = 2048
    k: int = 32
    l1: float = 5.0
    steps: int = 431
    batch: int = 1024
    lr: float = 3e-3
    seed: int = 0

    def __post_init__(self) -> None:
        choice("kind", self.kind, ("topk", "relu"))
        for name in ("features", "k", "steps", "batch"):
            object.__setattr__(self, name, whole(name, getattr(self, name), 1))
        if self.kind == "topk" and self.k > self.features:
            raise BilensError(f"k = {self.k} of {self.features} features", "no more than there are")
        object.__setattr__(self, "l1", number("l1", self.l1, 0))
        object.__setattr__(self, "lr", number("lr", self.lr, above=0))

    def coder(self, d_in: int, d_out: int | None = None, *, seed: int | None = None) -> SAE:
        """An untrained coder of these settings: an autoencoder, or with a d_out a transcoder."""
        seed = self.seed if seed is None else seed
        k = self.k if self.kind == "topk" else None
        if d_out is not None:
            rule = "topk" if self.kind == "topk" else "standard"
            return Coder(d_in, self.features, rule, k=k, d_out=d_out, transcodes=True, seed=seed)
        if k is not None:
            return TopKSAE(d_in, self.features, k, seed=seed)
        return StandardSAE(d_in, self.features, seed=seed)


@store.register
@dataclass(frozen=True)
class CoderReport:
    """A coder on held-out text.

    Args:
        title: what it is, in words; vectors: how many training saw, counted as often as they were seen.
        fvu: share of the variance that it loses; l0: active features per vector; dead: share of its features that are
            active on none of the held-out vectors.
        costs: ΔCE with it at its site, with a coder never trained there, and with the mean.
        tokens: held-out vectors.
    """

    title: str
    vectors: int
    fvu: float
    l0: float
    dead: float
    costs: tuple[SiteCost, ...]
    tokens: int


UNTRAINED = "never trained"
"""What the null of a coder is called: random atoms, as many active at once, their one scale and mean fitted."""


def site_coder(
    run: Folder,
    name: str,
    model: nn.Module,
    layer: int,
    site: str | tuple[str, str],
    *,
    fit: Int[Tensor, "n t"],
    held_out: Int[Tensor, "m t"],
    settings: CoderSettings,
    prefix: int = 1,
    stream: ActivationStream | None = None,
    texts: int = 12,
    progress: bool = True,
) -> tuple[SAE, CoderReport]:
    """A coder of a site, trained when the run has none of this name, and what it costs the model at its site.

    It is kept as the folder `coders/NAME` of the run. A run that was stopped goes on where it was.

    Args:
        run: the folder; name: of the coder in it.
        model: of transformers, in memory; layer: its number.
        site: of an autoencoder; or of a transcoder what it reads and what it predicts, ("mlp_in", "mlp_out").
        fit: rows of tokens to train on; held_out: rows to measure on, of other documents.
        settings: of the coder; prefix: tokens left out at the start of a row.
        stream: of this site and text with the settings' batch, where several coders share one; made here when None.
        texts: held-out rows on which ΔCE is measured at most, four times each; progress: whether to show bars.

    Raises: as `activations.stream`, `sae.train` and `sae.train_transcoder`.
    """
    sites = (site,) if isinstance(site, str) else site
    if stream is None:
        stream = activations.stream(
            model, layer, sites, fit, batch_size=settings.batch, seed=settings.seed, prefix=prefix
        )
    vectors: Stream = stream
    coder, where = settings.coder(*stream.widths), next(model.parameters()).device
    coder.site = Site(sites[0], layer, output=sites[1] if len(sites) > 1 else "")
    folder, checkpoint = run.path / "coders" / name, run.path / f"{name}.part"

    def train() -> History:
        how: dict[str, Any] = {"steps": settings.steps, "lr": settings.lr, "title": name}
        how |= {"l1": settings.l1 if settings.kind == "relu" else 0.0, "checkpoint": checkpoint}
        how |= {"progress": progress, "device": str(where)}
        if isinstance(coder, Coder):
            history = sae.train_transcoder(coder, vectors, **how)
        else:
            history = sae.train(coder, vectors, **how)
        coder.cpu().save_pretrained(folder)
        return history

    run.record(f"coders/{name}_history", History, train)
    discard(checkpoint)
    found = sae.load(folder).to(where)
    report = run.record(
        f"coders/{name}",
        CoderReport,
        lambda: measured(
            found,
            model,
            layer,
            sites,
            held_out=held_out,
            settings=settings,
            prefix=prefix,
            texts=texts,
            progress=progress,
        ),
    )
    return found, report


def measured(
    coder: SAE,
    model: nn.Module,
    layer: int,
    sites: tuple[str, ...],
    *,
    held_out: Int[Tensor, "m t"],
    settings: CoderSettings,
    prefix: int = 1,
    texts: int = 12,
    progress: bool = True,
) -> CoderReport:
    """What a coder is worth at its site, on text that it did not see. Args and Raises: as `site_coder`."""
    rows = activations.collect(model, layer, sites, held_out, prefix=prefix)
    x, y = rows[:, : coder.d_in], rows[:, rows.shape[1] - coder.d_out :]
    worth = sae.evaluate(coder, x, y if coder.transcodes else None)
    beside = null(coder, x, y, replace(settings, k=max(1, round(worth.l0)), kind="topk"))
    costs = activations.replaced(
        model,
        layer,
        sites[-1],
        held_out[:texts],
        {"coder": coder, UNTRAINED: beside},
        reads=sites[0],
        prefix=prefix,
        progress=progress,
    )
    where = " → ".join(sites)
    kind = f"{'transcoder' if coder.transcodes else 'autoencoder'} of {where} of layer {layer}"
    return CoderReport(
        f"{settings.kind} {kind}, {settings.features:,} features",
        settings.steps * settings.batch,
        1 - worth.explained_variance,
        worth.l0,
        worth.dead_fraction,
        costs,
        worth.rows,
    )


@torch.no_grad()
def null(coder: SAE, x: Tensor, y: Tensor, settings: CoderSettings) -> Callable[[Tensor], Tensor]:
    """A coder that was never trained, with as many features and active ones; its scale and mean are fitted."""
    settings = replace(settings, features=coder.d_sae, k=min(settings.k, coder.d_sae))
    other = settings.coder(coder.d_in, coder.d_out if coder.transcodes else None, seed=settings.seed + 1).to(x)
    mean = x.mean(dim=0)
    given = other(x - mean) if isinstance(other, Coder) else other.decode(other.encode(x - mean))
    aim, shift = y.mean(dim=0), given.mean(dim=0)
    spread = (given - shift).square().sum()
    scale = ((given - shift) * (y - aim)).sum() / torch.where(spread > 0, spread, 1)
    return lambda rows: aim + scale * (other(rows - mean) - shift)


__all__ = ["UNTRAINED", "CoderReport", "CoderSettings", "measured", "null", "site_coder"]
