"""How much of a disk the commands about one layer will take, said before they begin."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bilens.analyses.site_coders import CoderSettings
from bilens.models.gated import GatedMLP
from bilens.tables import Sizes

NUMBER, PLACE = 4, 8
"""Bytes of a float32, and of a whole number."""

KS = 8
"""Numbers of pairs that an audit asks at, all of them included."""

ROW, FIGURE = 12, 120_000
"""Bytes of a row of the table `audit`, and of a figure."""

NAME = 10
"""Bytes of a feature's name in a record."""


def announce(sizes: Sizes, out: Path) -> None:
    """Print them in one line.

    Raises:
        StoreError: the disk has less room.
    """
    Console(markup=False, highlight=False, soft_wrap=True).print(str(sizes))
    sizes.require(out)


def of_audit(mlp: GatedMLP, trained: Sequence[CoderSettings], features: Sequence[int]) -> Sizes:
    """What `bilens audit` writes.

    Args:
        mlp: the layer; trained: settings of the SAEs that are trained; features: of each set, at most.
    """
    surrogates, o = 1 if mlp.bilinear else 2, mlp.output.size
    records = sum(features) * (2 * KS * NUMBER + PLACE + NAME)
    others = {
        "coders": sum(_coder(one.features, o, o) for one in trained),
        "audits": 2 * surrogates * records,
        "table": sum(features) * KS * ROW,
        "figures": surrogates * FIGURE,
    }
    return Sizes(others=others)


def of_rewrite(mlp: GatedMLP, settings: CoderSettings, keep: Sequence[int]) -> Sizes:
    """What `bilens rewrite` writes; a transcoder is at most as large as interactions of features that all differ.

    Args:
        mlp: the layer; settings: of the SAEs of what it takes and gives; keep: numbers of interactions.
    """
    i, o, features = mlp.input.size, mlp.output.size, settings.features
    transcoders = sum(3 * count + min(features, count) * o + min(features, 2 * count) * (i + 1) for count in keep)
    interactions = max(keep) * (3 * PLACE + 2 * NUMBER) + features * (o * NUMBER + NAME)
    others = {
        "coders": _coder(features, i, i) + _coder(features, o, o),
        "transcoders": transcoders * NUMBER,
        "interactions": 2 * interactions,
    }
    return Sizes(others=others)


def _coder(features: int, d_in: int, d_out: int) -> int:
    return (features * (d_in + d_out + 1) + d_out) * NUMBER


__all__ = ["announce", "of_audit", "of_rewrite"]
