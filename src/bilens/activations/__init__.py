"""Activations of language models: streams to train on, moments of all layers, and what it costs to replace a site."""

from bilens.activations.cost import SiteCost, replaced
from bilens.activations.moments import Moments, SiteMoments, moments
from bilens.activations.sites import SITES
from bilens.activations.stream import ActivationStream, collect, stream

__all__ = [
    "SITES",
    "ActivationStream",
    "Moments",
    "SiteCost",
    "SiteMoments",
    "collect",
    "moments",
    "replaced",
    "stream",
]
