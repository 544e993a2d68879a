"""Fix the arbitrary sign of eigenvectors."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, where


def signed(vectors: Float[Tensor, "*n i"]) -> Float[Tensor, "*n i"]:
    """Each vector with its largest entry positive, so that pictures do not depend on the solver."""
    if not vectors.numel():
        return vectors
    peak = vectors.gather(-1, vectors.abs().argmax(dim=-1, keepdim=True))
    return where(peak < 0, -vectors, vectors)
