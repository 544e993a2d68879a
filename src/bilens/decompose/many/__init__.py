"""Top eigenpairs of many kernels of one layer at once, from its factors; README.md tells how."""

from bilens.decompose.many._spectra import Spectra
from bilens.decompose.many._stream import SpectraStream, eigh_many, spectra_stream, squared_norms

__all__ = ["Spectra", "SpectraStream", "eigh_many", "spectra_stream", "squared_norms"]
