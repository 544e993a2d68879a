"""Clustering of a kernel: groups of coordinates that interact with one another, and the kernel block by block."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens.decompose import linalg
from bilens.decompose.linalg import at_least_single, kernel_near_one
from bilens.errors import BilensError, ShapeError
from bilens.kernel import Kernel
from reproduction.checking import instance, whole


@torch.no_grad()
def clusters(kernel: Kernel, count: int, *, seed: int = 0) -> Int[Tensor, " i"]:
    """A cluster for each coordinate of the folded input, 0 … count − 1: spectral clustering with affinity |Q|.

    A coordinate that interacts with none is put anywhere. Clusters are numbered by the first coordinate in them.

    Args:
        kernel: Q; count: how many clusters; seed: of the eigenvector solver.

    Raises:
        BilensError: scikit-learn is not installed, a kernel that is 0, or a count outside 2 … `input.dim` − 1.

    Source: von Luxburg, "A tutorial on spectral clustering" (2007); Damle, Minden and Ying, "Simple, direct and
    efficient multi-way spectral clustering" (2019), as in scikit-learn.
    """
    instance("kernel", kernel, Kernel)
    count = whole("count", count, 2, kernel.input.dim - 1)
    seed = whole("seed", seed, 0, 2**32 - 1)
    affinity = kernel_near_one(kernel)[0].dense().abs()
    top = affinity.max()
    if not bool(top > 0):
        raise BilensError("a kernel that is 0", "one with interactions", "cluster another output's kernel")
    affinity = affinity / top + 1e-9  # every two coordinates are joined, so that the graph has one piece
    method = _cluster().SpectralClustering(count, affinity="precomputed", assign_labels="cluster_qr", random_state=seed)
    labels = torch.as_tensor(method.fit_predict(affinity.cpu().numpy()), dtype=torch.int64)
    firsts: dict[int, int] = {}
    numbers = [firsts.setdefault(int(label), len(firsts)) for label in labels]
    return torch.tensor(numbers, dtype=torch.int64, device=kernel.left.device)


@torch.no_grad()
def inside(kernel: Kernel, labels: Int[Tensor, " i"]) -> float:
    """Share of ‖Q‖² whose two coordinates are in one cluster, 0 … 1; Σ_c (n_c/i)² where Q has no blocks.

    Raises:
        ShapeError: other than one label per coordinate. BilensError: a kernel that is 0.
    """
    _check(kernel, labels)
    energy = kernel_near_one(kernel)[0].dense().square()
    if not bool(energy.sum() > 0):
        raise BilensError("a kernel that is 0", "one with interactions", "cluster another output's kernel")
    return float((energy * (labels[:, None] == labels)).sum() / energy.sum())


@torch.no_grad()
def block_vectors(kernel: Kernel, labels: Int[Tensor, " i"], k: int) -> Float[Tensor, "k i"]:
    """The k eigenvectors largest in |λ| among all blocks of Q, the interactions within and between clusters.

    Q = Σ_{a ≤ b} Q_ab, where Q_ab holds the products of a coordinate in cluster a with one in b. Each block has its own
    eigenpairs, supported on its one or two clusters; a block between two has them in pairs ±σ with vectors
    (u, ±v)/√2 from its singular vectors. All of all blocks rebuild Q exactly.

    Args:
        kernel: Q; labels: the cluster of each coordinate; k: how many, or fewer where there are fewer.

    Raises:
        ShapeError: other than one label per coordinate. BilensError: k below 1.
    """
    _check(kernel, labels)
    k = whole("k", k, 1)
    dense = kernel_near_one(kernel)[0].dense()
    groups = [(labels == label).nonzero()[:, 0] for label in sorted(set(labels.tolist()))]
    sizes, vectors = [], []
    for place, rows in enumerate(groups):
        levels, columns = linalg.eigh(dense[rows][:, rows])
        sizes.append(levels.abs())
        vectors.append(_embedded(columns.T, rows, len(dense)))
        for other in groups[place + 1 :]:
            left, levels, right = torch.linalg.svd(dense[rows][:, other], full_matrices=False)
            one = _embedded(left.T, rows, len(dense)) / 2**0.5
            two = _embedded(right, other, len(dense)) / 2**0.5
            sizes += [levels, levels]
            vectors += [one + two, one - two]
    largest = torch.cat(sizes).argsort(descending=True, stable=True)[:k]
    return torch.cat(vectors)[largest].to(at_least_single(kernel.left.dtype))


def agreement(first: Int[Tensor, " i"], second: Int[Tensor, " i"]) -> float:
    """Adjusted Rand index of two clusterings of the same coordinates: 1 for the same, 0 on average for random ones.

    Raises:
        ShapeError: clusterings of different sizes. BilensError: scikit-learn is not installed.

    Source: Hubert and Arabie, "Comparing partitions" (1985), as in scikit-learn.
    """
    instance("labels", first, Tensor)
    instance("labels", second, Tensor)
    if first.ndim != 1 or first.shape != second.shape:
        raise ShapeError(f"labels of shape {tuple(first.shape)} and {tuple(second.shape)}", "one length")
    return float(_metrics().adjusted_rand_score(first.cpu().numpy(), second.cpu().numpy()))


def _embedded(rows: Tensor, places: Tensor, size: int) -> Tensor:
    whole = rows.new_zeros(len(rows), size)
    whole[:, places] = rows
    return whole


def _check(kernel: Kernel, labels: Tensor) -> None:
    instance("kernel", kernel, Kernel)
    instance("labels", labels, Tensor)
    if tuple(labels.shape) != (kernel.input.dim,):
        raise ShapeError(f"labels of shape {tuple(labels.shape)}", f"({kernel.input.dim},)")


def _cluster() -> Any:
    try:
        from sklearn import cluster
    except ImportError as error:
        raise BilensError(
            "no package scikit-learn", "scikit-learn installed", "install it: pip install scikit-learn"
        ) from error
    return cluster


def _metrics() -> Any:
    try:
        from sklearn import metrics
    except ImportError as error:
        raise BilensError(
            "no package scikit-learn", "scikit-learn installed", "install it: pip install scikit-learn"
        ) from error
    return metrics
