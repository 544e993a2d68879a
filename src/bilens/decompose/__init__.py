"""Decompositions of kernels and tensors: functions that return frozen records, one method a file."""

from bilens.decompose.cluster import agreement, block_vectors, clusters, inside
from bilens.decompose.cp import CP, cp, cp_symmetric
from bilens.decompose.eigen import Spectrum, WeightedSpectrum, eigh, eigh_weighted, second_moment
from bilens.decompose.extrema import Extrema, box, sphere, sshopm, sufficient_shift
from bilens.decompose.features import eigh_coordinates, eigh_pullback, eigvalsh_pullback
from bilens.decompose.hosvd import InputBasis, input_basis
from bilens.decompose.interactions import (
    Interaction,
    Interactions,
    TopInteractions,
    effective_number,
    holding,
    interactions,
)
from bilens.decompose.many import Spectra, SpectraStream, eigh_many, energies, spectra_stream
from bilens.decompose.sparse import hoyer, sparse_eigh
from bilens.decompose.squares import Squares, pursuit, span_residual, squares
from bilens.decompose.svd import TensorSVD, svd, svd_accurate

__all__ = [
    "CP",
    "Extrema",
    "InputBasis",
    "Interaction",
    "Interactions",
    "Spectra",
    "SpectraStream",
    "Spectrum",
    "Squares",
    "TensorSVD",
    "TopInteractions",
    "WeightedSpectrum",
    "agreement",
    "block_vectors",
    "box",
    "clusters",
    "cp",
    "cp_symmetric",
    "effective_number",
    "eigh",
    "eigh_coordinates",
    "eigh_many",
    "eigh_pullback",
    "eigh_weighted",
    "eigvalsh_pullback",
    "energies",
    "holding",
    "hoyer",
    "input_basis",
    "inside",
    "interactions",
    "pursuit",
    "second_moment",
    "span_residual",
    "sparse_eigh",
    "spectra_stream",
    "sphere",
    "squares",
    "sshopm",
    "sufficient_shift",
    "svd",
    "svd_accurate",
]
