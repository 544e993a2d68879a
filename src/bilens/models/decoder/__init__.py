"""Bilinear decoders: language models of products alone, attention included, and their logits as sums over paths."""

from bilens.models.decoder.model import BilinearDecoder
from bilens.models.decoder.paths import Effect, effect, paths

__all__ = ["BilinearDecoder", "Effect", "effect", "paths"]
