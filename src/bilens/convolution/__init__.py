"""Bilinear convolutions as tensors: two filters and where they are put, never the layer unfolded over the image."""

from bilens.convolution.geometry import Geometry
from bilens.convolution.kernel import ConvKernel
from bilens.convolution.tensor import ConvTensor

__all__ = ["ConvKernel", "ConvTensor", "Geometry"]
