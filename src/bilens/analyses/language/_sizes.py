"""How much of a disk the reading of layers will take, before it begins."""

from __future__ import annotations

from dataclasses import replace

from bilens import tables
from bilens.analyses.language import _budget as budget
from bilens.analyses.language import _made as made
from bilens.analyses.language import _pages as pages
from bilens.analyses.language import _typed as typed
from bilens.analyses.language import input_coder, inputs, seen
from bilens.analyses.language.layer import Layer
from bilens.analyses.language.subject import PREFIX, Subject
from bilens.explorer.lm_layout import ONE_BY_ONE

NUMBER, PLACE = 4, 8
"""Bytes of a float32, and of the number of a token or of a feature."""

SHELL, FEATURE, LINK, TOKEN = 160_000, 4000, 105, 12
"""Bytes of a page without data, and in it of a feature, of an interaction and of a token of a context."""

TEXT = 8 / 3
"""Bytes of a page for a number of two bytes."""


def sizes(
    subject: Subject,
    layer: Layer,
    layers: int,
    features: tuple[int, int],
    *,
    pairs: int,
    interactions: int,
    tokens: int,
    inputs_of: str,
) -> tables.Sizes:
    """About how many bytes a run will hold.

    Args:
        subject: the model; layer: one of its layers; layers: how many are read.
        features: of each layer those that are no null, and random directions.
        pairs, interactions: of each feature; tokens: of a context.
        inputs_of: what the layer takes, as `Plan` has it.
    """
    text, count, o = subject.split is not None, sum(features), layer.tensor.output.dim
    contexts = len(seen.KINDS) * seen.EACH if text else 0
    kept = _kept(subject)
    i = layer.tensor.input.dim
    coder = bool(inputs_of)
    found = tables.estimate(
        layers=layers,
        features=count,
        pairs=pairs,
        dim=i,
        interactions=interactions,
        codes=coder and text,
        examples=contexts,
        tokens=tokens,
    )
    shown = min(features[0], pages.FEATURES) + min(features[1], pages.CONTROLS)
    named = NUMBER + PLACE
    eigenvectors = min(made.EIGENVECTORS, pairs) * 2 * made.SHOWN * named * (2 if coder and text else 1)
    square = made.SQUARE * (PLACE + made.SQUARE * NUMBER)
    records = count * (eigenvectors + 4 * made.SHOWN * named + square)
    if text:
        records += count * ((pairs + 2) * kept * NUMBER + contexts * (2 * PLACE + 3 * NUMBER))
    records += shown * (o * NUMBER + shown * PLACE)
    page = SHELL + shown * (FEATURE + min(interactions, pages.INTERACTIONS) * LINK + contexts * tokens * TOKEN)
    terms = min(pairs, ONE_BY_ONE) + sum(ONE_BY_ONE < k <= pairs for k in seen.KS)
    page += round(TEXT * shown * ((terms + 2) * kept * text + shown))
    width = typed.size(subject.checkpoint.source.config, layer.number)
    if width <= typed.LARGEST:
        page += round(TEXT * (2 * (width + shown * o) + shown * min(pairs, ONE_BY_ONE) * i))
    trained = input_coder.FEATURES * (2 * layer.mlp.input.size + 1) * NUMBER if inputs_of == input_coder.TRAIN else 0
    others = {
        "activations": inputs.size(subject, layers),
        "coders": layers * trained,
        "records": layers * records,
        "pages": layers * min(page, budget.MOST),
    }
    return replace(found, others=others)


def _kept(subject: Subject) -> int:
    """Tokens of the stretches of held-out text whose terms are kept."""
    if subject.split is None:
        return 0
    rows, length = subject.split.held_out.shape
    return min(rows, seen.SENTENCES) * min(seen.SPAN, length - PREFIX)


__all__ = ["sizes"]
