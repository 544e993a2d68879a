"""Trees of templates: an output of two layers as a sum of squares of sums of squares, in which energies add up."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bilens._internal import checks
from bilens._internal.checks import instance, whole
from bilens._internal.factors import check_factor, check_range
from bilens._internal.grams import upward as grams_of
from bilens._internal.levels import diagonal
from bilens._internal.scale import times_two_to
from bilens._internal.shown import line
from bilens.decompose import linalg
from bilens.decompose.eigen import eigh
from bilens.decompose.linalg import folded, largest_square, symmetric, upward
from bilens.decompose.odt import roots as roots_of
from bilens.deep import DeepTensor
from bilens.errors import BilensError
from bilens.kernel import Kernel
from bilens.space import Space
from bilens.tensor import BilinearTensor


@dataclass(frozen=True, eq=False, repr=False)
class KernelTree:
    """u·y = Σ_k λ_k q_k², q_k = Σ_j μ_kj (w_kj·x')²: roots, each the square of a form, and their leaves, templates.

    The forms q_k are orthonormal as tensors in the metric, and T_u is tree-symmetrised (`DeepTensor`), so that ‖T_u‖² =
    Σ λ² and Σ_j μ_kj² = 1 over all roots and all leaves. A root does not know the sign of its q, which is fixed here so
    that the largest leaf counts for it: it fires on −q as on q. All numbers are in float64.

    Args:
        values: λ, (k,), largest |λ| first; leaf_values: μ, (k, j), largest |μ| first, the first above 0.
        readers: w, (k, j, i), over the folded input; patterns: M w, (k, j, i), what to draw: the inputs that go with w
            (w itself where the metric is I).
        energy: ‖T_u‖² = Σ λ² over all roots; discarded: Σ λ² of those left out.
        leaf_discarded: (k,), Σ μ² of the leaves left out of each root, of 1.
        next_root: |λ| of the largest root left out; next_leaves: (k,), |μ| of the largest leaf left out of each.
        deep: u·y, a network with one output; metric: M, None for I.

    Raises:
        ShapeError: the shapes do not fit together.
    """

    values: Float[Tensor, " k"]
    leaf_values: Float[Tensor, "k j"]
    readers: Float[Tensor, "k j i"]
    patterns: Float[Tensor, "k j i"]
    energy: Float[Tensor, ""]
    discarded: Float[Tensor, ""]
    leaf_discarded: Float[Tensor, " k"]
    next_root: Float[Tensor, ""]
    next_leaves: Float[Tensor, " k"]
    deep: DeepTensor
    metric: Float[Tensor, "i i"] | None

    __repr__ = line

    def __post_init__(self) -> None:
        checks.fields(self)
        checks.shapes(self, i=self.deep.input.dim)

    def __len__(self) -> int:
        return len(self.values)

    def leaf_terms(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n k j"]:
        """μ_kj (w_kj·x')² of each sample, root and leaf, in float64; their sums over leaves are q_k."""
        reads = torch.einsum("...i,kji->...kj", folded(self.deep.input, x, self.readers), self.readers)
        return reads.square() * self.leaf_values

    def forms(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n k"]:
        """q_k of each sample, before it is squared: its sign is what a root does not see."""
        return self.leaf_terms(x).sum(dim=-1)

    def contributions(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n k"]:
        """λ_k q_k² of each sample and root: votes (λ > 0) and vetoes (λ < 0), which with `rest` sum to the output."""
        return self.forms(x).square() * self.values

    def __call__(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n"]:
        """Σ_k λ_k q_k²: the output that the kept roots and leaves make."""
        return self.contributions(x).sum(dim=-1)

    def rest(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n"]:
        """u·y − Σ_k λ_k q_k²: what the roots and leaves left out add to the output of each sample."""
        whole_output: Tensor = self.deep.to(torch.float64)(x)[..., 0]
        return whole_output - self(x)

    @torch.no_grad()
    def network(self) -> DeepTensor:
        """The tree as a network: a layer of the leaves' squares, then one of the roots'; in float64."""
        count, leaves = self.leaf_values.shape
        flat = self.readers.reshape(count * leaves, -1)
        down = diagonal(*self.leaf_values)
        between, eye = Space("roots", count), torch.eye(count, dtype=flat.dtype, device=flat.device)
        first = BilinearTensor(flat, flat, down, self.deep.input, between)
        return DeepTensor.chain(first, BilinearTensor(eye, eye, self.values[None], between, self.deep.output))

    @torch.no_grad()
    def error(self) -> Float[Tensor, ""]:
        """‖T_u − T̂‖ of the tree-symmetrised tensors in the metric, exactly to 3e-8 ‖T_u‖: cut roots and cut leaves."""
        return (self.deep.to(torch.float64) - self.network()).norm(metric=self.metric)

    @torch.no_grad()
    def bound(self, x_norm: Float[Tensor, "*n"] | float) -> Float[Tensor, "*n"]:
        """|u·y − Σ_k λ_k q_k²| ≤ ‖x'‖⁴ (max |λ left out| + 2 Σ_k |λ_k| ‖K_k‖₂ max |μ_k left out|), for every input.

        Valid in exact arithmetic, and usually 10² to 10³ times too large: it is no measure of faithfulness.

        Args:
            x_norm: ‖x'‖ of the folded input; with a metric √(x'ᵀM⁺x'), for x' in M's range.
        """
        off = self.next_root + 2 * (self.values.abs() * self.leaf_values[:, 0].abs() * self.next_leaves).sum()
        return upward(off * largest_square(x_norm, self.deep.input.dim, self.values).square(), torch.float64)


@torch.no_grad()
def kernel_tree(
    deep: DeepTensor,
    u: Float[Tensor, " o"] | str | int,
    *,
    roots: int,
    leaves: int,
    metric: Float[Tensor, "i i"] | None = None,
) -> KernelTree:
    """An output of a two-layer network as Σ_k λ_k (Σ_j μ_kj (w_kj·x')²)², its largest roots and their largest leaves.

    Examples:
        >>> x, y, e = Space("x", 2), Space("y", 1), torch.eye(2)
        >>> forms = BilinearTensor(e, e, torch.tensor([[0.6, -0.8]]), x, y)  # 0.6 x₀² − 0.8 x₁²
        >>> one = torch.ones(1, 1)
        >>> tree = kernel_tree(DeepTensor.chain(forms, BilinearTensor(one, one, 2 * one, y, y)), 0, roots=1, leaves=2)
        >>> tree.values.round(decimals=3), tree.leaf_values.round(decimals=3)
        (tensor([2.], dtype=torch.float64), tensor([[ 0.8000, -0.6000]], dtype=torch.float64))

    Of the tree-symmetrised tensor T_u (`DeepTensor`), whose order of squares the layers fix: λ are the eigenvalues of
    SᵀQ_uS, where Q_u is the form of u on the bond and G_1 = SSᵀ the bond's Gram; with its
    eigenvectors a_k and v_k = S⁺ᵀa_k the forms q_k have kernels K_k = Σ_p v_kp B_p with ⟨K_k, K_l⟩ = δ_kl. μ and w are
    eigenpairs of each K_k in the metric. In hidden coordinates, without S, roots would not be orthogonal, and their
    order would depend on the scale of hidden units.

    Args:
        deep: a network of two layers, usually `centered()`.
        u: a direction of the output space, or the label or number of one output.
        roots: how many, at most the rank of the bond; leaves: how many of each root. Fewer where there are no more.
        metric: M = E[x'x'ᵀ], which makes leaves templates of the data; I when None.

    Returns:
        A `KernelTree`. No gradients.

    Cost: one eigenproblem of the size of the bond and one of the size of the input for each root, of which `leaves`
    pairs are found.

    Raises:
        BilensError: another depth than 2, or numbers out of range. SpaceError: an unknown label.
    """
    instance("deep", deep, DeepTensor, hint="make one with DeepTensor.chain")
    if deep.depth != 2:
        raise BilensError(
            f"a network of {deep.depth} layer{'' if deep.depth == 1 else 's'}",
            "one of two layers",
            "use eigh of its kernel" if deep.depth == 1 else "use odt, at any depth",
        )
    count, wanted = whole("roots", roots, 1), whole("leaves", leaves, 1)
    one = _output(deep, u)
    chain, _, metric = one.over_one_input(one, metric)
    grams = grams_of(chain.levels, chain.levels, metric)
    first, last = chain.levels
    root, dual = roots_of(grams[1].matrix)
    if not root.shape[1]:
        raise BilensError("an output that is 0 for every input", "one with something to read")
    half = (last.left * last.down[0][:, None]).T @ last.right
    values, vectors = linalg.eigh(symmetric(root.T @ symmetric(half) @ root))
    order = values.abs().argsort(descending=True, stable=True)
    values, vectors = times_two_to(values[order], grams[1].power + chain.power), vectors[:, order]
    check_range("roots", values)
    count = min(count, len(values))
    weights = times_two_to((dual @ vectors[:, :count]).T @ first.down, -(grams[1].power // 2))
    stretch, readers = (None, None) if metric is None else roots_of(metric)
    left, right = (first.left, first.right) if stretch is None else (first.left @ stretch, first.right @ stretch)
    space = Space("metric", left.shape[1])
    kept = min(wanted, space.size)
    found = [eigh(Kernel(left, right, one_root, space), min(kept + 1, space.size)) for one_root in weights]
    signs = torch.stack([spectrum.values[0].sign() for spectrum in found])
    signs = torch.where(signs == 0, 1, signs)
    leaf_values = torch.stack([spectrum.values[:kept] for spectrum in found]) * signs[:, None]
    axes = torch.stack([spectrum.vectors[:kept] for spectrum in found])
    beyond = [spectrum.values[kept].abs() if len(spectrum) > kept else values.new_zeros(()) for spectrum in found]
    energy = values.square().sum()
    return KernelTree(
        values[:count],
        leaf_values,
        axes if readers is None else axes @ readers.T,
        axes if stretch is None else axes @ stretch.T,
        energy,
        values[count:].square().sum(),
        (1 - leaf_values.square().sum(dim=1)).clamp(min=0),
        values[count].abs() if count < len(values) else values.new_zeros(()),
        torch.stack(beyond),
        one,
        metric,
    )


def _output(deep: DeepTensor, u: Tensor | str | int) -> DeepTensor:
    """u·y as a network with one output."""
    like = deep.layers[-1].down
    if isinstance(u, Tensor):
        check_factor("direction", u, (deep.output.dim,), f"output {deep.output.title}")
        return deep.then(u.to(like)[None], Space("u", 1))
    index = deep.output.index(u)
    row = torch.zeros_like(like[:, 0])
    row[index] = 1
    return deep.then(row[None], Space(deep.output.label(index), 1))
