"""Decompositions of kernels and tensors: functions that return frozen records, one method a file."""

from bilens.decompose.eigen import Spectrum, WeightedSpectrum, eigh, eigh_weighted, second_moment
from bilens.decompose.svd import TensorSVD, svd, svd_accurate

__all__ = [
    "Spectrum",
    "TensorSVD",
    "WeightedSpectrum",
    "eigh",
    "eigh_weighted",
    "second_moment",
    "svd",
    "svd_accurate",
]
