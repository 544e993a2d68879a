"""A layer as a short list of interactions: two features in, one out, one number each, and what is lost by the rest."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens import pairs
from bilens._internal import checks
from bilens._internal.checks import instance, whole
from bilens._internal.shown import line
from bilens.decompose.coactivation import coactivation
from bilens.decompose.linalg import detach, folded_rows
from bilens.decompose.strongest import strongest
from bilens.dictionary import Dictionary
from bilens.errors import BilensError, ShapeError
from bilens.space import Space
from bilens.tensor import BilinearTensor

TERMS = 2**24
"""Products of codes that are held at a time."""


@dataclass(frozen=True, eq=False, repr=False)
class Decompiled:
    """y ≈ base + Σ_s c_s z_a(s) z_b(s) · atom_o(s), over a list of interactions s, most important first.

    Args:
        first, second: numbers of the input features a ≤ b, (k,); the constant coordinate is the last one.
        output: numbers of the output features o, (k,); coefficients: c, (k,).
        atoms: of the output features, (n, o).
        base: (o,), what is there without any interaction: the dictionary's offset, or, where the layer's mean output is
            known, that mean.
        products: E z_a z_b over data, (k,): what each interaction adds on average, which is taken off the base where
            the base is the mean; None without data.
        input: space of the codes z; features: of the output features.

    Raises:
        ShapeError: the shapes do not fit together.
    """

    first: Int[Tensor, " k"]
    second: Int[Tensor, " k"]
    output: Int[Tensor, " k"]
    coefficients: Float[Tensor, " k"]
    atoms: Float[Tensor, "n o"]
    base: Float[Tensor, " o"]
    products: Float[Tensor, " k"] | None
    input: Space
    features: Space

    __repr__ = line

    def __post_init__(self) -> None:
        checks.fields(self)
        detach(self)
        checks.shapes(self, n=self.features.dim)

    def __len__(self) -> int:
        """How many interactions."""
        return len(self.coefficients)

    @property
    def numbers(self) -> int:
        """How many numbers it stores: three per interaction, the output atoms that it uses, and the base."""
        used = len(set(self.output.tolist()))
        return 3 * len(self) + used * self.atoms.shape[1] + len(self.base)

    @property
    def read(self) -> Int[Tensor, " u"]:
        """The input features that it uses, the constant one left out."""
        used = torch.zeros(self.input.dim, dtype=torch.bool, device=self.first.device)
        used[self.first] = used[self.second] = True
        return used[: self.input.size].nonzero()[:, 0]

    def keep(self, k: int) -> Decompiled:
        """The first k interactions.

        Raises:
            BilensError: k out of range.
        """
        k = whole("k", k, 0, len(self))
        products = None if self.products is None else self.products[:k]
        return replace(
            self,
            first=self.first[:k],
            second=self.second[:k],
            output=self.output[:k],
            coefficients=self.coefficients[:k],
            products=products,
        )

    @torch.no_grad()
    def __call__(self, codes: Float[Tensor, "m size"]) -> Float[Tensor, "m o"]:
        """y for each row of codes, without the constant coordinate.

        Raises:
            ShapeError: codes of another size. BilensError: codes that are not floating-point numbers.
        """
        z = folded_rows(self.input, codes, self.coefficients)
        found = z.new_zeros(len(z), self.features.dim)
        for some in torch.split(torch.arange(len(self), device=z.device), max(1, TERMS // max(1, len(z)))):
            terms = z[:, self.first[some]] * z[:, self.second[some]]
            found.index_add_(1, self.output[some], terms * self.coefficients[some].double())
        y = found @ self.atoms.double() + self._base()
        return y.to(self.coefficients.dtype)

    def _base(self) -> Tensor:
        base = self.base.double()
        if self.products is None:
            return base
        added = base.new_zeros(self.features.dim)
        added.index_add_(0, self.output, self.coefficients.double() * self.products.double())
        return base - added @ self.atoms.double()


@torch.no_grad()
def decompile(
    tensor: BilinearTensor,
    inputs: Dictionary,
    outputs: Dictionary,
    *,
    keep: int,
    codes: Float[Tensor, "m size"] | None = None,
    mean: Float[Tensor, " o"] | None = None,
    top: int = 100,
    progress: bool = False,
) -> Decompiled:
    """The layer by the interactions that matter most between features of its input and features of its output.

    Examples:
        >>> W, V = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 3.0], [0.0, 0.1]])
        >>> layer = BilinearTensor.from_layer(W, V, input=Space("x", 2), output=Space("y", 2))  # 3 x₁x₂ and x₂² / 10
        >>> own = [Dictionary.identity(space, dtype=torch.float32) for space in (layer.input, layer.output)]
        >>> decompile(layer, *own, keep=1)(torch.tensor([[1.0, 2.0]]))
        tensor([[6., 0.]])

    Of every output feature the `top` strongest pairs are found, exactly, and of all of them together the `keep` with
    the largest part in ‖y‖²: c² ‖atom_o‖² E[z_a² z_b²] with codes, else c² ‖atom_o‖² over the multiplicity of the pair.
    Interactions are chosen one by one: what two of them do together is not seen.

    With all pairs of all features it is the layer on what the codes rebuild of x, projected on the output atoms.

    Args:
        tensor: the layer, or its surrogate.
        inputs: features of its input, whose codes are multiplied; outputs: of its output, whose duals read y.
        keep: how many interactions, or as many as there are.
        codes: of data, without the constant coordinate, which rank the pairs; mean: of the layer's output on these
            data, which the result then has too.
        top: pairs per output feature; progress: whether to show a bar.

    Cost: that of `strongest`, and of `coactivation` with codes.

    Raises:
        BilensError: a number out of range, or a mean without codes. ShapeError: codes or a mean of another size.
            SpaceError: a dictionary of another space.
    """
    instance("outputs", outputs, Dictionary)
    keep = whole("keep", keep, 1)
    if mean is not None and codes is None:
        raise BilensError("a mean without codes", "the codes of the same data")
    if mean is not None and tuple(mean.shape) != (outputs.space.dim,):
        raise ShapeError(f"a mean of shape {tuple(mean.shape)}", f"({outputs.space.dim},)")
    found = strongest(tensor, inputs, outputs, top, progress=progress)
    sizes = outputs.atoms.double().square().sum(dim=1)[:, None]
    mass = found.coefficients.double().square() * sizes
    products = None
    if codes is None:
        mass = mass / pairs.multiplicity(found.first, found.second)
    else:
        seen = coactivation(found, codes)
        mass, products = mass * seen.square.double(), seen.product.flatten()
    order = mass.flatten().argsort(descending=True, stable=True)[:keep]
    order = order[found.coefficients.flatten()[order] != 0]
    count = found.first.shape[1]
    base = outputs.offset if mean is None else mean.to(outputs.atoms)
    return Decompiled(
        found.first.flatten()[order],
        found.second.flatten()[order],
        order // count,
        found.coefficients.flatten()[order],
        outputs.atoms,
        outputs.atoms.new_zeros(outputs.space.dim) if base is None else base,
        products[order] if products is not None and mean is not None else None,
        found.input,
        outputs.features,
    )


__all__ = ["Decompiled", "decompile"]
