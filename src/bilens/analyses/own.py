"""The page of a model of one's own, in one call: a tensor or a layer, samples, labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bilens import explorer
from bilens.analyses import _samples as samples
from bilens.analyses import table
from bilens.analyses.settings import Budget
from bilens.analyses.subject import Subject, Unsaved
from bilens.convolution import ConvTensor
from bilens.errors import BilensError, ShapeError
from bilens.explorer import Exploration
from bilens.space import Space
from bilens.tensor import BilinearTensor


def explore(
    model: Any,
    x: Float[Tensor, "m d"] | None = None,
    y: Int[Tensor, " m"] | None = None,
    *,
    out: str | Path | None = "page.html",
    inputs: Space | Sequence[str] | None = None,
    outputs: Space | Sequence[str] | None = None,
    title: str = "A bilinear layer, read from its weights",
    analyses: Sequence[str] | None = None,
    budget: Budget | None = None,
    seed: int = 0,
) -> Exploration:
    """Read a bilinear layer with every analysis that trains nothing, and write its page.

    Examples:
        >>> W = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
        >>> outputs = Space("outputs", 2, ("square of the sum", "square of the difference"))
        >>> layer = BilinearTensor.from_layer(W, W, input=Space("x", 2), output=outputs)
        >>> found = explore(layer, out=None)  # out="page.html" writes the page
        >>> [(each.heading, len(each)) for each in found.features]
        [('Output directions', 2), ('SVD of the tensor', 2)]

    Args:
        model: a `BilinearTensor`, or a `ConvTensor` of a small image, which is unfolded; a module with `.tensor()`; or
            two `nn.Linear` as a pair (left, right), or three with the read-out: (W x + b) ⊙ (V x + c), then D and its
            bias.
        x: (m, d), samples to see the features on, that the model was not trained on; None to use the weights alone.
        y: (m,), the class of each. The outputs are then logits: the mean over them is taken off, which changes no
            prediction, and what is kept of the model is scored.
        out: the page to write, a new file or over an older page; None to write none.
        inputs, outputs: the spaces of both, or their names, instead of the tensor's own.
        title: of the page.
        analyses: which, by the names of `table.ANALYSES`; those that train nothing when None.
        budget: how many features are kept, and the work of SAEs; seed: of everything random.

    Returns:
        What the page shows, for `plots` and `explorer`.

    Raises:
        BilensError, ShapeError: what is no layer, or names and samples that do not fit it. StoreError: as
            `explorer.write`.
    """
    subject = subject_of(model, x, y, inputs=inputs, outputs=outputs, budget=budget, seed=seed)
    names = [name for name, analysis in table.ANALYSES.items() if not analysis.trains] if analyses is None else analyses
    sets = table.read(subject, Unsaved(), table.chosen(names))
    found = Exploration(
        title,
        facts=_facts(subject),
        model=subject.outputs,
        logits=subject.logits or subject.labels is not None,
        features=sets,
        samples=None if subject.inputs is None else samples.shown(subject, sets),
        scores=() if subject.row is None else (subject.row,),
        notes=_notes(subject),
    )
    if out is not None:
        explorer.write([found], out)
    return found


def subject_of(
    model: Any,
    x: Float[Tensor, "m d"] | None = None,
    y: Int[Tensor, " m"] | None = None,
    *,
    inputs: Space | Sequence[str] | None = None,
    outputs: Space | Sequence[str] | None = None,
    budget: Budget | None = None,
    seed: int = 0,
) -> Subject:
    """What analyses read of a layer that is given in one way or another; arguments and errors as of `explore`."""
    weight, bias, output = None, None, None
    if isinstance(model, Sequence) and len(model) in (2, 3) and all(isinstance(part, nn.Linear) for part in model):
        left, right, *rest = model
        hidden = BilinearTensor.from_layer(
            left.weight.float(),
            right.weight.float(),
            left_bias=left.bias,
            right_bias=right.bias,
            input=Space("inputs", left.in_features),
            output=Space("hidden", left.out_features),
        )
        for down in rest:
            weight = down.weight.detach().cpu().float()
            bias = None if down.bias is None else down.bias.detach().cpu().float()
            output = _named(Space("outputs", down.out_features), outputs)
    else:
        hidden = model.tensor() if callable(getattr(model, "tensor", None)) else model
        if isinstance(hidden, ConvTensor):
            hidden = hidden.unfolded()
        if not isinstance(hidden, BilinearTensor):
            raise BilensError(
                f"a model of type {type(model).__name__}",
                "a BilinearTensor, a module with .tensor(), or its nn.Linear parts, (left, right[, read-out])",
            )
    own = hidden.output if output is not None else _named(hidden.output, outputs)
    hidden = replace(hidden.to("cpu"), input=_named(hidden.input, inputs), output=own)
    x, y = (None if value is None else torch.as_tensor(value).detach().cpu() for value in (x, y))
    return Subject(
        hidden,
        weight,
        bias,
        output,
        inputs=None if x is None else x.to(hidden.left.dtype),
        labels=y,
        budget=budget or Budget(),
        seed=seed,
    )


def _named(own: Space, other: Space | Sequence[str] | None) -> Space:
    """Another space of the same size, or the same one with these labels.

    Raises:
        ShapeError: another size. BilensError: names that cannot be, as of `Space`.
    """
    if other is None:
        return own
    space = other if isinstance(other, Space) else Space(own.name, len(tuple(other)), tuple(other))
    if space.size != own.size:
        raise ShapeError(f"names of {space.size} coordinates of {own.name!r}", f"{own.size}, as the layer has")
    return replace(space, constant=own.constant)


def _facts(subject: Subject) -> dict[str, str | int | float]:
    tensor, original = subject.hidden, subject.original
    facts: dict[str, str | int | float] = {
        "layer": f"{tensor.input.size:,} inputs → {tensor.hidden:,} hidden → {subject.outputs.output.size:,} outputs",
        "numbers": f"{tensor.numel:,} as factors, {tensor.dense_numel:,} as a tensor, which is never built",
    }
    if original is not None:
        facts["accuracy"] = f"{original.accuracy:.2%} of {original.samples:,} samples"
    return facts


def _notes(subject: Subject) -> tuple[str, ...]:
    if subject.original is None:
        return ()
    return (
        f"Scores and curves are measured on all {len(subject.given):,} samples. Cross-entropy recovered is 1 for the "
        f"model itself and 0 for a uniform guess over the {subject.outputs.output.size} outputs.",
    )
