"""Decompositions of kernels and tensors: functions that return frozen records, one method a file."""

from bilens.decompose.audit import Audit, audit
from bilens.decompose.coactivation import Coactivation, coactivation
from bilens.decompose.convolutions import eigh_conv, svd_conv
from bilens.decompose.cp import CP, cp, cp_symmetric
from bilens.decompose.decompiled import Decompiled, decompile
from bilens.decompose.eigen import Spectrum, eigh
from bilens.decompose.features import eigh_coordinates, eigh_pullback, eigvalsh_pullback
from bilens.decompose.hosvd import InputBasis, input_basis
from bilens.decompose.interactions import (
    Interaction,
    Interactions,
    TopInteractions,
    interactions,
    participation_ratio,
)
from bilens.decompose.kernel_tree import KernelTree, kernel_tree
from bilens.decompose.many import Spectra, SpectraStream, eigh_many, spectra_stream, squared_norms
from bilens.decompose.metric import Metric
from bilens.decompose.odt import ODT, odt
from bilens.decompose.scores import ScoreSVD, score_svd
from bilens.decompose.strongest import StrongestInteractions, StrongestStream, strongest, strongest_stream
from bilens.decompose.svd import TensorSVD, svd, svd_accurate
from bilens.decompose.weighted import WeightedSpectrum, eigh_weighted, second_moment

__all__ = [
    "CP",
    "ODT",
    "Audit",
    "Coactivation",
    "Decompiled",
    "InputBasis",
    "Interaction",
    "Interactions",
    "KernelTree",
    "Metric",
    "ScoreSVD",
    "Spectra",
    "SpectraStream",
    "Spectrum",
    "StrongestInteractions",
    "StrongestStream",
    "TensorSVD",
    "TopInteractions",
    "WeightedSpectrum",
    "audit",
    "coactivation",
    "cp",
    "cp_symmetric",
    "decompile",
    "eigh",
    "eigh_conv",
    "eigh_coordinates",
    "eigh_many",
    "eigh_pullback",
    "eigh_weighted",
    "eigvalsh_pullback",
    "input_basis",
    "interactions",
    "kernel_tree",
    "odt",
    "participation_ratio",
    "score_svd",
    "second_moment",
    "spectra_stream",
    "squared_norms",
    "strongest",
    "strongest_stream",
    "svd",
    "svd_accurate",
    "svd_conv",
]
