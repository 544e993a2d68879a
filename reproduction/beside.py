"""What stands beside the results of each recipe: nulls and rivals, and results that have none yet."""

from __future__ import annotations

from collections.abc import Mapping

BESIDE: Mapping[str, tuple[str, str]] = {
    "front": (
        "for every way its null: directions, components, entries and hidden units drawn at random, the next digit's "
        "eigenvectors, atoms never trained; the other ways, and the layer itself, on the axis of numbers stored",
        "a smaller layer trained at each size; principal components of the images instead of shared directions (at "
        "h = 300: see decompile)",
    ),
    "parameters": (
        "ReLU, GELU, ReGLU and SwiGLU at equal parameters, seed by seed",
        "tuned learning rates for each activation",
    ),
    "digits": (
        "two other orders of the eigenvectors; at h = 1000 other eigenvectors and other ways: see front",
        "the count of active eigenvectors (N4) in an untrained model or with permuted pixels",
    ),
    "svd": (
        "an untrained model, for what seeds agree on; seven settings of training, for the accuracy lost; random output "
        "directions and other ways at equal numbers stored: see front",
        "none",
    ),
    "outputs": (
        "ReLU codes, and least squares on each sample's own features; three baselines of the cross-entropy; SVD "
        "components and random output directions, 50 of each: see front",
        "exactly as many directions as there are active atoms",
    ),
    "pairs": (
        "random directions, for what pair features match; atoms never trained, the mean alone and numbers stored: see "
        "front",
        "atoms never trained at h = 300, for the comparison of vectors and weights",
    ),
    "decompile": (
        "rotated bases, principal components, magnitude instead of importance, transcoders at equal numbers stored",
        "a layer of equal size trained from scratch",
    ),
    "boolean": ("the truth tables themselves", "an untrained layer, for the coefficients read in superposition"),
    "alternatives": ("an untrained model and another seed, random images, sizes of clusters", "none"),
    "training": (
        "permuted pixels, for masks; models with all images, for few; as many unseen images, for memory",
        "why accuracy and effective rank differ from the published ones",
    ),
    "sample": ("right predictions with a margin alike, for wrong ones", "the number of terms in an untrained model"),
}
"""By recipe: what its results are compared with, and what a sceptic would still ask for."""
