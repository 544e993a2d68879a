"""A look at the gains of Gemma's norms: whether their 1 was added once, twice or never."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import torch

from bilens.models.gated._stored import Source


class ShiftWarning(UserWarning):
    """The gains of a model's norms look as if the 1 of Gemma's 1 + w had been added twice, or not at all."""


def look(source: Source, names: Iterable[str]) -> None:
    """Warn where the gains of a GGUF file of Gemma, which should have their 1 already, seem to have two or none.

    Gemma stores w and multiplies by 1 + w; converters add the 1, and some do it twice. A gain is hardly ever negative,
    while w often is: more than a quarter of negative numbers, or a median below a quarter, look like w itself. And some
    w are negative in every model that was trained: gains that are all at least 1, half of them above 1.7, look like
    2 + w. Both are signs, and no proof.

    Args:
        source: of the gains; names: of those of all layers, as far as they are there.
    """
    there = set(source.names())
    gains = [source.read(name).flatten() for name in names if name in there]
    if not gains:
        return
    found = torch.cat(gains).double()
    negative, middle, least = float((found < 0).double().mean()), float(found.median()), float(found.min())
    if negative > 0.25 or abs(middle) < 0.25:
        seems, hint = "not to have the 1 of 1 + w", "convert it again with a converter that adds it"
    elif least >= 1 and middle > 1.7:
        seems, hint = "to have the 1 of 1 + w twice", "convert it again from the original, or take another file"
    else:
        return
    warnings.warn(
        f"{source.title}: the gains of its norms seem {seems} (median {middle:.3g}, least {least:.3g}, {negative:.0%} "
        f"negative), so that its MLPs would be read wrong: {hint}",
        ShiftWarning,
        stacklevel=3,
    )


__all__ = ["ShiftWarning", "look"]
