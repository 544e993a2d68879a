"""Sparse autoencoders on any stream of vectors: architectures, training, metrics, and SAELens folders."""

from bilens.sae.architectures import SAE, GatedSAE, JumpReLUSAE, Sparse, StandardSAE, TopKSAE
from bilens.sae.metrics import (
    Evaluation,
    dead_fraction,
    decoder_similarity,
    evaluate,
    explained_variance,
    l0,
    nmse,
)
from bilens.sae.streams import Divisible, IterableStream, Stream, TensorStream, as_stream
from bilens.sae.train import train, train_many

from_pretrained = SAE.from_pretrained
"""Read a SAELens or an authors' folder as whichever SAE it holds."""

__all__ = [
    "SAE",
    "Divisible",
    "Evaluation",
    "GatedSAE",
    "IterableStream",
    "JumpReLUSAE",
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
    "nmse",
    "train",
    "train_many",
]
