"""Sparse autoencoders on any stream of vectors: architectures, training, metrics, and other people's folders."""

from bilens.sae.architectures import GatedSAE, JumpReLUSAE, StandardSAE, TopKSAE
from bilens.sae.base import SAE, Sparse, load
from bilens.sae.coder import Coder  # after the plain classes, which are asked before it what a folder holds
from bilens.sae.metrics import (
    Evaluation,
    dead_fraction,
    decoder_similarity,
    evaluate,
    explained_variance,
    l0,
    nmse,
)
from bilens.sae.site import Site, SiteWarning
from bilens.sae.streams import Divisible, IterableStream, Stream, TensorStream, as_stream
from bilens.sae.train import train, train_many
from bilens.sae.transcoder import train_transcoder

from_pretrained = SAE.from_pretrained
"""`load` without a scale, by the name that the field knows."""

__all__ = [
    "SAE",
    "Coder",
    "Divisible",
    "Evaluation",
    "GatedSAE",
    "IterableStream",
    "JumpReLUSAE",
    "Site",
    "SiteWarning",
    "Sparse",
    "StandardSAE",
    "Stream",
    "TensorStream",
    "TopKSAE",
    "as_stream",
    "dead_fraction",
    "decoder_similarity",
    "evaluate",
    "explained_variance",
    "from_pretrained",
    "l0",
    "load",
    "nmse",
    "train",
    "train_many",
    "train_transcoder",
]
