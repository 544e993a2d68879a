"""Directions of a layer's output whose kernels are read: tokens, features of coders, one's own, random ones."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bilens import decompose, text
from bilens._internal import checks
from bilens._internal.checks import flag, instance, whole
from bilens.dictionary import Dictionary
from bilens.errors import BilensError, ShapeError
from bilens.models import gated
from bilens.models.gated import GatedMLP
from bilens.models.unembedding import unembedding
from bilens.sae import SAE
from bilens.space import Space
from bilens.tensor import BilinearTensor

KINDS = ("tokens", "encoder", "decoder", "duals", "svd", "given", "random")
"""Where directions can come from."""


@dataclass(frozen=True, eq=False, repr=False)
class Directions:
    """Some directions u of a layer's output, one per row: each has a kernel, u·y = x'ᵀ Q_u x'.

    Args:
        name: of the set, as tables and pages show it.
        kind: one of `KINDS`.
        matrix: (n, d).
        labels: of the directions, all different.
        control: whether they are a null to compare with.

    Raises:
        BilensError: no such kind, NaN or infinity, a direction that is 0. ShapeError: another number of labels.
            SpaceError: a label twice.
    """

    name: str
    kind: str
    matrix: Float[Tensor, "n d"]
    labels: tuple[str, ...]
    control: bool = False

    def __post_init__(self) -> None:
        checks.choice("kind", self.kind, KINDS)
        object.__setattr__(self, "control", flag("control", self.control))
        checks.shapes(self)
        checks.weights("directions", self.matrix)
        object.__setattr__(self, "matrix", checks.owned(self.matrix))
        zero = (self.matrix == 0).all(dim=1).nonzero()[:, 0].tolist()
        if zero:
            raise BilensError(
                f"direction {zero[0]} of {self.name!r}, which is 0", "directions that are not", "leave it out"
            )
        _ = self.space  # which checks the labels

    def __repr__(self) -> str:
        """For example "Directions('tokens', 40 of kind tokens, 576 numbers)"."""
        null = ", a null" if self.control else ""
        return f"Directions({self.name!r}, {len(self)} of kind {self.kind}, {self.matrix.shape[1]} numbers{null})"

    def __len__(self) -> int:
        """How many."""
        return len(self.matrix)

    @property
    def space(self) -> Space:
        """The space whose coordinates are u·y."""
        return Space(self.name, len(self.matrix), self.labels)

    def read(self, tensor: BilinearTensor) -> BilinearTensor:
        """The tensor whose outputs are u·y.

        Raises:
            ShapeError: directions of another size than the layer's output.
        """
        return tensor.then(self.matrix.to(tensor.down), self.space)

    def take(self, indices: Sequence[int] | Tensor) -> Directions:
        """Some of them, by their numbers or a mask.

        Raises:
            BilensError: none, or one out of range.
        """
        index = checks.places("directions", indices, len(self), self.matrix.device)
        labels = tuple(self.labels[place] for place in index.tolist())
        return Directions(self.name, self.kind, self.matrix[index], labels, self.control)

    def null(self, count: int | None = None, seed: int = 0) -> Directions:
        """Random directions of the same size, as many as these unless a number is given."""
        return random(len(self) if count is None else count, self.matrix.shape[1], seed=seed)


def tokens(
    model: str | os.PathLike[str] | nn.Module,
    names: Sequence[str | int],
    *,
    tokenizer: Any = None,
    mlp: GatedMLP | None = None,
) -> Directions:
    """What speaks for a token: its row of the unembedding, less the mean row, times the gain of the final norm.

    Examples:
        >>> from bilens.models.language import TINY
        >>> tokens(TINY, [" the", " king", 300])
        Directions('tokens', 3 of kind tokens, 96 numbers)

    Args:
        model: as `gated.load` takes it; nothing but the unembedding and the norm is read.
        names: texts of one token each, with their leading space, or numbers of tokens.
        tokenizer: the model's own, found beside it when None.
        mlp: the layer whose output is read. Where a norm follows it, as in Gemma 2, the gain of that norm is taken
            along: u·y is then what the token gains from the layer, but for the scale that this norm divides by.

    Raises:
        BilensError: a text of several tokens, a number outside the vocabulary, or no tokenizer for a model in memory.
            StoreError: no unembedding.
    """
    asked = checks.several("names", names, "a list of texts or numbers of tokens", "pass [name]")
    if mlp is not None:
        instance("mlp", mlp, GatedMLP)
    if not (tokenizer is None or callable(tokenizer)):
        raise BilensError(f"tokenizer of type {type(tokenizer).__name__}", "one of transformers, or None")
    found = unembedding(gated.load(model))
    if tokenizer is None and not isinstance(model, nn.Module):
        tokenizer = text.tokenizer(model)
    numbers = [_number(name, tokenizer) for name in asked]
    shown = [str(number) if tokenizer is None else str(tokenizer.decode([number])) for number in numbers]
    labels = tuple(
        label if label and shown.count(label) == 1 else f"{label} #{number}".strip()
        for label, number in zip(shown, numbers, strict=True)
    )
    rows = found.directions(numbers)
    if mlp is not None and mlp.post_norm is not None and mlp.post_norm.gain is not None:
        rows = rows * mlp.post_norm.gain.to(rows)
    return Directions("tokens", "tokens", rows, labels)


def _number(name: str | int, tokenizer: Any) -> int:
    if not isinstance(name, str):
        return whole("token", name, 0)
    if tokenizer is None:
        raise BilensError(f"token {name!r:.40} of a model in memory", "its number", "pass tokenizer=, the model's own")
    pieces = tokenizer([name], add_special_tokens=False)["input_ids"][0]
    if len(pieces) != 1:
        apart = " + ".join(repr(tokenizer.decode([piece])) for piece in pieces[:6])
        raise BilensError(f"{name!r:.40}, which is {len(pieces)} tokens ({apart})", "a text of one token")
    return int(pieces[0])


def coder(
    coder: SAE,
    which: Literal["encoder", "decoder", "duals"] = "encoder",
    *,
    active: Sequence[int] | Sequence[bool] | Tensor | None = None,
    name: str = "coder",
) -> Directions:
    """The features of a coder of the layer's output.

    "encoder" are the rows that read a feature, W_encᵀ: u·y is its pre-activation, but for a constant. "decoder" are its
    atoms. "duals" read the least-squares codes of the atoms, by the pseudoinverse. Of a transcoder, whose encoder reads
    the layer's input, atoms and duals are directions of the output.

    Args:
        coder: any of `bilens.sae`; which: as above; active: the features to take, as numbers or a mask, all when None.
        name: of the set.

    Raises:
        BilensError: the encoder of a transcoder, or a feature out of range.
    """
    instance("coder", coder, SAE)
    checks.choice("which", which, ("encoder", "decoder", "duals"))
    if which == "encoder" and coder.transcodes:
        raise BilensError("the encoder of a transcoder, which reads the layer's input", "its decoder or duals")
    index = checks.places(
        "features", torch.arange(coder.d_sae) if active is None else active, coder.d_sae, coder.W_dec.device
    )
    if which == "duals":
        rows = coder.dictionary(Space("output", coder.d_out), index).duals
    else:
        rows = (coder.W_enc.T if which == "encoder" else coder.W_dec).detach()[index]
    return Directions(name, which, rows, tuple(str(place) for place in index.tolist()))


def svd(tensor: BilinearTensor, k: int) -> Directions:
    """The layer's own: its k output directions of largest singular value, from the weights alone, labelled from 1.

    Raises: as `decompose.svd`.
    """
    found = decompose.svd(tensor, k).outputs
    return Directions("svd", "svd", found, tuple(f"component {number}" for number in range(1, len(found) + 1)))


def given(matrix: Float[Tensor, "n d"], labels: Sequence[str] | None = None, *, name: str = "given") -> Directions:
    """A person's own directions, one per row, named by their numbers unless they have labels.

    Raises: as `Directions`.
    """
    checks.floating("directions", matrix)
    if matrix.ndim != 2 or not len(matrix):
        raise ShapeError(f"directions of shape {tuple(matrix.shape)}", "(n, d), one per row")
    named = [str(place) for place in range(len(matrix))] if labels is None else list(labels)
    if len(named) != len(matrix):
        raise ShapeError(f"{len(named)} labels", f"{len(matrix)}, one for each direction")
    return Directions(name, "given", matrix, tuple(named))


def random(n: int, size: int, *, seed: int = 0, name: str = "random") -> Directions:
    """Directions drawn uniformly from the sphere: the null beside which others are shown.

    Args:
        n: how many; size: d; seed: of the drawing; name: of the set.

    Raises:
        BilensError: a number out of range.
    """
    n, size = whole("n", n, 1), whole("size", size, 1)
    drawn = torch.randn(n, size, generator=torch.Generator().manual_seed(checks.seed(seed)))
    return Directions(
        name, "random", torch.nn.functional.normalize(drawn, dim=1), tuple(map(str, range(n))), control=True
    )


def input_dictionary(
    coder: SAE, mlp: GatedMLP, active: Sequence[int] | Sequence[bool] | Tensor | None = None
) -> Dictionary:
    """The atoms of an SAE of what an MLP reads, over the space of x̂ that its tensor takes.

    The SAE has n = γ ⊙ x̂ + β ≈ Σ_k a_k f_k + b, so that x̂ ≈ Σ_k a_k f_k / γ + (b − β) / γ with the same codes,
    a = coder.encode(n). Where γ is 0 the layer sees nothing of x̂, and 0 stands there.

    Args:
        coder: an autoencoder of n; mlp: the layer; active: the features to keep, all when None.

    Raises:
        BilensError: a transcoder, whose atoms are outputs. ShapeError: a coder of another size.
    """
    instance("coder", coder, SAE)
    instance("mlp", mlp, GatedMLP)
    if coder.transcodes:
        raise BilensError("a transcoder, whose atoms build outputs", "an autoencoder of what the MLP reads")
    if coder.d_in != mlp.input.size:
        raise ShapeError(f"a coder of vectors of {coder.d_in} numbers", f"{mlp.input.size}, as {mlp.title} reads")
    every = torch.arange(coder.d_sae) if active is None else active
    index = checks.places("features", every, coder.d_sae, coder.W_dec.device)
    atoms, offset = coder.W_dec.detach()[index].double(), coder.b_dec.detach().double()
    if mlp.norm.bias is not None:
        offset = offset - mlp.norm.bias.double()
    if mlp.norm.gain is not None:
        gain = mlp.norm.gain.double()
        inverse = torch.where(gain == 0, 0.0, 1 / torch.where(gain == 0, 1.0, gain))
        atoms, offset = atoms * inverse, offset * inverse
    return Dictionary.from_atoms(
        atoms.to(mlp.gate.dtype),
        mlp.input,
        offset=offset.to(mlp.gate.dtype),
        name="input features",
        labels=[str(place) for place in index.tolist()],
    )


__all__ = ["KINDS", "Directions", "coder", "given", "input_dictionary", "random", "svd", "tokens"]
