"""A small SAE of what a layer writes, and how much of its features the first eigenpairs explain."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from bilens import directions, sae, store
from bilens.analyses._audit_sets import asked, audited, of_coders
from bilens.analyses.audit_table import LEVEL, firings
from bilens.analyses.language._spreads import spread
from bilens.analyses.language.input_coder import train_on
from bilens.analyses.language.layer import Layer
from bilens.decompose import Audit
from bilens.errors import BilensError
from bilens.explorer.lm_layout import Spread
from bilens.sae import Site
from bilens.store import Folder

NAME, RANDOM = "coder", "random"
"""Names of the two sets."""

TITLE = "Coder of its output"
"""What the coder's features are called in a figure."""

FEATURES, STEPS = 512, 200
"""Features of the coder, and updates: what a demo has time for."""

MOST, NULLS = 128, 64
"""Features of the coder that are audited at most, and random directions."""


def coder_folder(out: Path, layer: int) -> Path:
    """Where the coder of what a layer writes is."""
    return out / "coders" / f"mlp-out-{layer:03d}"


@torch.no_grad()
def audit_coder(layer: Layer, run: Folder, *, seed: int) -> tuple[Audit, ...]:
    """Audit the features of an SAE of what the layer writes, trained where the run has none, and random directions.

    Pairs are in the metric of the data, true values those of the layer as it is on held-out tokens. A coder whose
    features are active too seldom is left out, and random directions stand alone.

    Args:
        layer: opened with text; run: the folder of the reading; seed: of the coder and the random directions.

    Raises:
        BilensError: no text.
    """
    mlp, x = layer.mlp, layer.held_out
    if layer.fit is None or x is None:
        raise BilensError(f"layer {layer.number} without text", "a layer that was opened with text")
    folder, place = coder_folder(run.path, layer.number), f"layer-{layer.number:03d}"
    fit, site, size = layer.fit, Site("mlp_out", layer.number), (FEATURES, STEPS)
    train_on(lambda: mlp(fit), run, f"{place}/coder-out", site, folder=folder, size=size, seed=seed)
    y, normal = mlp(x), layer.normalised(x)
    sets = list(of_coders(mlp, {NAME: sae.load(folder)}, x, y, MOST))
    sets.append(asked(directions.random(NULLS, mlp.output.size, seed=seed, name=RANDOM), y))
    return tuple(
        audited(
            run, _record(layer.number, part.directions.name), layer.tensor, part, normal=normal, metric=layer.metric
        )
        for part in sets
    )


def audits(out: Path, layer: int) -> tuple[Audit, ...]:
    """The audits that a run has of the coder of what a layer writes and of random directions; none, or both."""
    found = (store.read_record(out, _record(layer, name), Audit) for name in (NAME, RANDOM))
    both = tuple(one for one in found if one is not None)
    return both if len(both) == 2 else ()


def _record(layer: int, name: str) -> str:
    return f"layer-{layer:03d}/audit-{name}"


def spreads(found: tuple[Audit, ...], at: Sequence[int]) -> list[Spread]:
    """The coder's features for a page's figure, over all tokens and over active ones, at numbers of pairs."""
    if not found or not set(at) <= set(found[0].ks):
        return []
    coder, shown = found[0], []
    for title, active in ((TITLE, False), (f"{TITLE}, active tokens", True)):
        values, full = (coder.active, coder.full_active) if active else (coder.correlations, coder.full)
        values = values[:, [coder.ks.index(k) for k in at]]
        known = torch.isfinite(values).all(dim=1) & torch.isfinite(full)
        if known.any():
            shown.append(spread(title, at, values[known], float(full[known].double().quantile(0.5))))
    return shown


def said(found: tuple[Audit, ...]) -> str:
    """What an audit of both sets found, in a few sentences."""
    coder, null = found
    fewest, middle, most = firings(coder)
    last = coder.ks[-1]

    def medians(one: Audit, *, active: bool = False) -> str:
        return ", ".join(
            f"{one.median(k, active=active).value:.2f} with {words}"
            for k, words in ((2, "two pairs"), (last, f"{last}"), (0, "the whole form"))
        )

    on_active = f"; on active tokens {medians(coder, active=True)}" if coder.known(active=True) else ""
    return (
        f"Of an SAE of what this layer writes, {len(coder)} features are active on {fewest:,} to {most:,} of "
        f"{coder.tokens:,} held-out tokens, half of them on {middle:,} or more. Correlation with their true value, "
        f"medians: {medians(coder)}{on_active}. Random directions: {medians(null)}. Above {LEVEL} with two pairs: "
        f"{coder.share(2, above=LEVEL).text('.0%')} of the features, {null.share(2, above=LEVEL).text('.0%')} of the "
        "random directions (95 % intervals)."
    )


__all__ = ["FEATURES", "STEPS", "audit_coder", "audits", "coder_folder", "said", "spreads"]
