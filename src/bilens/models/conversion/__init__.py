"""A language model whose gated MLPs become bilinear, layer by layer, and which stays a model of transformers."""

from bilens.models.conversion.checkpoint import assembled, register, save
from bilens.models.conversion.distil import distilled, divergence
from bilens.models.conversion.layer import ConvertedMLP, ConvertedModule
from bilens.models.conversion.measure import compared, measured
from bilens.models.conversion.sequence import TEXTS, ConvertedLayer, Sequence
from bilens.models.conversion.stack import Stack
from bilens.models.conversion.streams import Streams

__all__ = [
    "TEXTS",
    "ConvertedLayer",
    "ConvertedMLP",
    "ConvertedModule",
    "Sequence",
    "Stack",
    "Streams",
    "assembled",
    "compared",
    "distilled",
    "divergence",
    "measured",
    "register",
    "save",
]
