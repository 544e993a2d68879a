"""Models whose layers are bilinear, and the ones they are compared with; `.tensor()` is the bridge to the algebra."""

from bilens.models.classifier import ImageClassifier
from bilens.models.layers import Bilinear, Dense, Gated, matched_width, swish
from bilens.models.train import Augmentation, train

__all__ = [
    "Augmentation",
    "Bilinear",
    "Dense",
    "Gated",
    "ImageClassifier",
    "matched_width",
    "swish",
    "train",
]
