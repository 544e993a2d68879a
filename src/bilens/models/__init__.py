"""Models whose layers are bilinear, and the ones they are compared with; `.tensor()` is the bridge to the algebra."""

from bilens.models.classifier import ImageClassifier, matched_width
from bilens.models.layers import Bilinear, Dense, Gated, swish
from bilens.models.train import Augmentation, accuracy, check_settings, schedule_factor, train

__all__ = [
    "Augmentation",
    "Bilinear",
    "Dense",
    "Gated",
    "ImageClassifier",
    "accuracy",
    "check_settings",
    "matched_width",
    "schedule_factor",
    "swish",
    "train",
]
