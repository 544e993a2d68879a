"""Gated MLPs of language models, y = D(σ(W n) ⊙ V n), read from their checkpoints one layer at a time."""

from bilens.models.gated.checkpoint import Checkpoint, Entry, Place, load
from bilens.models.gated.families import BILINEAR, FAMILIES, GGUF_FAMILIES, Layout
from bilens.models.gated.gains import ShiftWarning
from bilens.models.gated.layouts import EXAMPLE, read_layout
from bilens.models.gated.mlp import Gate, GatedMLP, Norm
from bilens.models.gated.original import AGREE, Comparison, check

__all__ = [
    "AGREE",
    "BILINEAR",
    "EXAMPLE",
    "FAMILIES",
    "GGUF_FAMILIES",
    "Checkpoint",
    "Comparison",
    "Entry",
    "Gate",
    "GatedMLP",
    "Layout",
    "Norm",
    "Place",
    "ShiftWarning",
    "check",
    "load",
    "read_layout",
]
