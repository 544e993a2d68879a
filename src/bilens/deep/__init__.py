"""Networks of several bilinear layers as one exact object: inner products, differences and paths from their factors."""

from bilens._internal.grams import ridged
from bilens._internal.levels import Level
from bilens.deep.network import DeepTensor
from bilens.deep.paths import PathAccuracies, Paths, Shares, degrees, gaussian_like, paths
from bilens.deep.symmetric import full_cosine, full_inner, gaussian_cosine, gaussian_inner

__all__ = [
    "DeepTensor",
    "Level",
    "PathAccuracies",
    "Paths",
    "Shares",
    "degrees",
    "full_cosine",
    "full_inner",
    "gaussian_cosine",
    "gaussian_inner",
    "gaussian_like",
    "paths",
    "ridged",
]
