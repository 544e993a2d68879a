"""Where the vectors of a coder come from: the hook point, the layer and the model that its folder names."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bilens._internal.checks import instance, whole
from bilens.errors import BilensError


class SiteWarning(UserWarning):
    """A coder explains less of some vectors than their mean does: it was probably made for another site."""


@dataclass(frozen=True)
class Site:
    """The place in a model whose vectors a coder was trained on, as far as its folder says.

    Examples:
        >>> str(Site("blocks.8.hook_resid_pre", layer=8, model="gpt2-small"))
        'blocks.8.hook_resid_pre of gpt2-small'
        >>> str(Site("mlp_out", layer=3))
        'mlp_out of layer 3'
        >>> str(Site())
        'a site that its folder does not name'

    Args:
        hook: name of the hook point or module; empty where it is not known.
        layer: number of the layer, from 0.
        model: name of the model.
        output: where the vectors are that a transcoder predicts; empty for an autoencoder, which predicts its inputs.
        head: number of the one attention head whose vectors these are; None for all.

    Raises:
        BilensError: names that are no texts that can be shown, or numbers that are not whole or below 0.
    """

    hook: str = ""
    layer: int | None = None
    model: str = ""
    output: str = ""
    head: int | None = None

    def __post_init__(self) -> None:
        for name in ("hook", "model", "output"):
            instance(name, getattr(self, name), str)
            if not getattr(self, name).isprintable():
                raise BilensError(
                    f"{name} = {getattr(self, name)!r:.60} of a site", "a name that can be shown in a line"
                )
        for name in ("layer", "head"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, whole(name, getattr(self, name), 0))

    def __str__(self) -> str:
        where = self.hook and (f"{self.hook} → {self.output}" if self.output else self.hook)
        named = self.layer is None or (self.hook and layer_of(self.hook) == self.layer)
        head = "" if self.head is None else f"head {self.head}"
        layer = "" if named else f"layer {self.layer}"
        parts = [part for part in (head, where, layer, self.model) if part]
        return " of ".join(parts) or "a site that its folder does not name"


def layer_of(name: str) -> int | None:
    """The one number of a layer in the name of a hook point or module: 8 in "blocks.8.hook_resid_pre", else None."""
    numbers = re.findall(r"(?<![^./_])\d+(?![^./_])", name)
    return int(numbers[0]) if len(numbers) == 1 and len(numbers[0]) < 6 else None
