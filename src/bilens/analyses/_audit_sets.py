"""Sets of directions that are audited, with their true values on held-out tokens: a coder's features, and others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bilens import activations, decompose, directions
from bilens._internal.shown import line
from bilens.decompose import Audit, Metric
from bilens.decompose.audit import LEAST
from bilens.directions import Directions
from bilens.errors import BilensError
from bilens.models.gated import GatedMLP
from bilens.sae import SAE
from bilens.store import Folder
from bilens.tensor import BilinearTensor

OTHERS = frozenset(activations.SITES) - {"mlp_out"}
"""Sites whose coders say nothing of what a layer's MLP gives."""


@dataclass(frozen=True, eq=False, repr=False)
class Asked:
    """A set of directions with their true values on held-out tokens.

    Args:
        directions: the set; values: u·y of the layer itself, (m, n); active: where each is active, None for everywhere.
    """

    directions: Directions
    values: Float[Tensor, "m n"]
    active: Bool[Tensor, "m n"] | None = None

    __repr__ = line


def asked(named: Directions, y: Float[Tensor, "m o"], active: Bool[Tensor, "m n"] | None = None) -> Asked:
    """A set with its values where the layer gives y."""
    return Asked(named, y.double() @ named.matrix.to(y.device).double().T, active)


def of_coders(
    mlp: GatedMLP, coders: dict[str, SAE], x: Float[Tensor, "m d"], y: Float[Tensor, "m o"], most: int
) -> Iterator[Asked]:
    """The features of each coder that are active often enough; of one whose features are all dead there are none.

    Args:
        mlp: the layer; coders: of what it gives, or transcoders, by name; x: held-out rows of the residual stream.
        y: what the layer gives there; most: features of each at most.

    Raises:
        BilensError: a coder of vectors of another size, or of another site.
    """
    for name, coder in coders.items():
        sizes = coder.d_out == mlp.output.size and coder.d_in in (mlp.output.size, mlp.input.size)
        elsewhere = coder.site is not None and coder.site.hook in OTHERS and not coder.transcodes
        if not sizes or elsewhere:
            what = f" of {coder.site}" if sizes else ""
            raise BilensError(
                f"coder {name!r}{what} of {coder.d_in} → {coder.d_out} numbers", f"one of the output of {mlp!r}"
            )
        with torch.no_grad():
            read = mlp.norm(x.to(mlp.gate)) if coder.transcodes else y
            active = torch.cat([coder.encode(part) != 0 for part in torch.split(read, 1024)])
        chosen = (active.sum(dim=0) >= LEAST).nonzero()[:most, 0]
        if len(chosen):
            which: Literal["duals", "encoder"] = "duals" if coder.transcodes else "encoder"
            yield asked(directions.coder(coder, which, active=chosen, name=name), y, active[:, chosen])


def audited(
    run: Folder,
    name: str,
    tensor: BilinearTensor,
    part: Asked,
    *,
    normal: Float[Tensor, "m d"],
    metric: Metric | Float[Tensor, "i i"] | None,
) -> Audit:
    """The audit of a set, kept in a run's folder.

    Args:
        run: the folder; name: of the record; tensor: the layer, or its surrogate; part: the set.
        normal: what the tensor takes, on the tokens of the set's values; metric: as of `decompose.audit`.
    """
    return run.record(
        name,
        Audit,
        lambda: decompose.audit(
            tensor,
            part.directions.matrix.to(tensor.down),
            normal,
            part.values,
            metric=metric,
            active=part.active,
            labels=part.directions.labels,
            name=part.directions.name,
        ),
    )


__all__ = ["Asked", "asked", "audited", "of_coders"]
