"""What a layer's page says of the layer in words: facts in a few, and what to keep in mind."""

from __future__ import annotations

from collections.abc import Sequence

from bilens.analyses.language.layer import Layer
from bilens.analyses.language.sets import Outputs
from bilens.analyses.language.subject import Subject
from bilens.explorer.layout import Fact


def facts(subject: Subject, layer: Layer) -> list[Fact]:
    """What is said of the layer in a few words."""
    mlp = layer.mlp
    split = subject.split
    found: list[Fact] = [
        {"name": "layer", "value": f"{mlp.input.size:,} → {len(mlp.gate):,} → {mlp.output.size:,}"},
        {"name": "gate", "value": mlp.activation.title if layer.surrogate is not None else "linear: exactly bilinear"},
        {"name": "input", "value": f"normalised ({mlp.norm.kind}); {layer.tensor.input.dim:,} coordinates"},
    ]
    if split is not None and layer.fit is not None and layer.held_out is not None:
        found.append(
            {"name": "text", "value": f"{len(layer.fit):,} tokens fitted to, {len(layer.held_out):,} held out"}
        )
    return found


def notes(layer: Layer, sets: Sequence[Outputs], subject: Subject) -> list[str]:
    """What to keep in mind of a page like this."""
    said = [
        "Sizes can be compared within one feature. Across features they cannot: a large eigenvalue may belong to a "
        "direction that is long, and a strong interaction to tokens that never meet.",
    ]
    if layer.metric is None:
        said.append(
            "No text was read: pairs are in the order of |λ|, in which the mean input and the constant, often "
            "delimiters, come first. With --text they are in the order of what they add on average."
        )
    else:
        said.append(
            "Pairs are in the order of what they add on average over the text, in the metric of its second moment. The "
            "first is often the mean input, which holds most of ‖Q‖² and is the same at every token: each pair says "
            "how much of it that is."
        )
    if any(found.control for found in sets):
        said.append(
            "Random directions stand beside everything. Where few pairs predict a feature no better than they predict "
            "those, its eigenvectors say no more of it than of any other direction."
        )
    if layer.mlp.post_norm is not None:
        said.append("A norm follows this MLP: its gain is part of every direction, its scale, one per token, is not.")
    if not subject.named_tokens:
        said.append("No tokenizer was found: tokens are numbers.")
    return said


__all__ = ["facts", "notes"]
