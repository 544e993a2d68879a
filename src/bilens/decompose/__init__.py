"""Decompositions of kernels and tensors: functions that return frozen records, one method a file."""

from bilens.decompose.eigen import Spectrum, WeightedSpectrum, eigh, eigh_weighted, second_moment
from bilens.decompose.hosvd import InputBasis, input_basis
from bilens.decompose.interactions import Interactions, effective_number, holding, interactions
from bilens.decompose.svd import TensorSVD, svd, svd_accurate

__all__ = [
    "InputBasis",
    "Interactions",
    "Spectrum",
    "TensorSVD",
    "WeightedSpectrum",
    "effective_number",
    "eigh",
    "eigh_weighted",
    "holding",
    "input_basis",
    "interactions",
    "second_moment",
    "svd",
    "svd_accurate",
]
