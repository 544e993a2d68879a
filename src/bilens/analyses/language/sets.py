"""Sets of output directions that are read, the random ones beside them, and sets of input features they are made of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from bilens import sae
from bilens.analyses.language.layer import Layer
from bilens.analyses.language.subject import Subject, frequent, labels
from bilens.dictionary import Dictionary
from bilens.errors import BilensError
from bilens.sae import SAE
from bilens.space import Space

TOKENS, RANDOM = "tokens", "random"
"""Names of the sets that need no coder."""


@dataclass(frozen=True, eq=False)
class Outputs:
    """Directions u of the residual stream, each of which is a feature u·y of what a layer writes.

    Args:
        name: of the set, for tables; title: for people; feature: what one is called; about: one or two sentences.
        directions: u, one per row, (n, o); labels: their names, all different.
        writes: what one unit of each feature adds to the residual stream, (n, o).
        control: whether they are a null to compare with.
        tokens: the token of each, where they are tokens.
    """

    name: str
    title: str
    feature: str
    about: str
    directions: Float[Tensor, "n o"]
    labels: tuple[str, ...]
    writes: Float[Tensor, "n o"]
    control: bool = False
    tokens: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def space(self) -> Space:
        """The space of the features."""
        return Space(self.name, len(self), self.labels)

    def of(self, layer: Layer) -> Float[Tensor, "n o"]:
        """The directions as they read what the layer's MLP gives, before a norm that follows it."""
        return self.directions if layer.scale is None else self.directions * layer.scale.to(self.directions)


@dataclass(frozen=True, eq=False)
class Inputs:
    """Features that the layer's input is made of.

    Args:
        name, title, about: as of `Outputs`.
        dictionary: their atoms over x̂.
        codes: of x̂ on held-out text, (tokens, m), None where there are none.
    """

    name: str
    title: str
    about: str
    dictionary: Dictionary
    codes: Float[Tensor, "n m"] | None = None


def outputs(
    subject: Subject, layer: Layer, asked: Sequence[str], *, count: int, controls: int, seed: int
) -> list[Outputs]:
    """The sets that were asked for, "tokens" or folders of coders, and random directions after them.

    Raises:
        BilensError: a coder of another size, or neither. StoreError: a folder that cannot be read.
    """
    found = [tokens(subject, count) if each == TOKENS else of_coder(Path(each), layer) for each in asked]
    names = [each.name for each in found]
    if len(set(names)) != len(names):
        raise BilensError(f"--directions {' '.join(asked)}, two of one name", "folders of different names")
    return [*found, random(layer, controls, seed)]


def tokens(subject: Subject, count: int) -> Outputs:
    """Directions by token: the rows of the unembedding less their mean, the last norm's gain folded in."""
    chosen = frequent(subject, count)
    rows = subject.vocabulary.unembedding[chosen]
    where = "most frequent in the text" if subject.split is not None else "first words of the vocabulary"
    return Outputs(
        TOKENS,
        "Tokens",
        "Token",
        f"What the layer adds to the logit of each of these {len(chosen)} tokens, the {where}, less the mean over all "
        "tokens and before the scale of the last norm.",
        rows,
        tuple(labels(subject, chosen)),
        rows / rows.square().sum(dim=1, keepdim=True),
        tokens=tuple(chosen),
    )


def of_coder(folder: Path, layer: Layer) -> Outputs:
    """The features of a coder of what the layer's MLP gives: read by its duals, written by its atoms."""
    coder = sae.load(folder)
    if coder.d_out != layer.tensor.output.dim:
        raise BilensError(
            f"{folder} of vectors of size {coder.d_out}", f"{layer.tensor.output.dim}, as the layer gives"
        )
    dictionary = coder.dictionary(layer.tensor.output)
    name = _name(folder)
    return Outputs(
        name,
        f"Coder {folder.name}",
        "Feature",
        f"The {coder.d_sae:,} features of the coder in {folder.name}, made for {coder.site or 'any vectors'}: each is read "
        "by its dual, the row of the decoder's pseudoinverse.",
        dictionary.duals,
        tuple(str(number) for number in range(coder.d_sae)),
        dictionary.atoms,
    )


def random(layer: Layer, count: int, seed: int) -> Outputs:
    """Random directions of length 1: what any direction gives."""
    drawn = torch.randn(count, layer.tensor.output.dim, generator=torch.Generator().manual_seed(seed))
    rows = drawn / drawn.norm(dim=1, keepdim=True)
    return Outputs(
        RANDOM,
        "Random directions",
        "Random direction",
        f"{count} directions drawn at random. Nothing about them is meant: they show what every number here is for a "
        "direction that stands for nothing.",
        rows,
        tuple(str(number) for number in range(count)),
        rows,
        control=True,
    )


def input_features(subject: Subject, layer: Layer, folder: Path | None, *, count: int) -> Inputs:
    """The features of the input: a coder's atoms, or without one the embeddings of tokens.

    Raises:
        BilensError: a coder of another size. StoreError: a folder that cannot be read.
    """
    if folder is not None:
        return _coder_inputs(folder, layer)
    chosen = frequent(subject, count)
    atoms = layer.normalised(subject.vocabulary.embedding[chosen])
    space = layer.tensor.input.without_constant()
    return Inputs(
        "embeddings",
        "token embeddings",
        f"Input features are the embeddings of {len(chosen)} tokens, normalised as the layer's input is: what the residual "
        "stream holds of a token before any layer. They say most about the first layers, and less the deeper a layer is.",
        Dictionary.from_atoms(atoms, space, name="embeddings", labels=labels(subject, chosen)),
    )


def _coder_inputs(folder: Path, layer: Layer) -> Inputs:
    """A coder of n, what the MLP takes: its atoms over x̂ = (n − β)/γ, and its codes on held-out text."""
    coder, norm = sae.load(folder), layer.mlp.norm
    if coder.d_in != layer.tensor.input.size:
        raise BilensError(f"{folder} of vectors of size {coder.d_in}", f"{layer.tensor.input.size}, as the layer takes")
    rows, offset = _sides(coder)
    if norm.bias is not None:
        offset = (torch.zeros_like(rows[0]) if offset is None else offset) - norm.bias.to(rows)
    if norm.gain is not None:
        rows = rows / norm.gain.to(rows)
        offset = None if offset is None else offset / norm.gain.to(rows)
    space = layer.tensor.input.without_constant()
    if not layer.tensor.input.constant:
        offset = None
    with torch.no_grad():
        codes = None if layer.held_out is None else coder.encode(norm(layer.held_out)).detach()
    return Inputs(
        _name(folder),
        f"features of the coder {folder.name}",
        f"Input features are the {coder.d_sae:,} atoms of the coder in {folder.name}, made for {coder.site or 'any vectors'}.",
        Dictionary.from_atoms(rows, space, offset=offset, name=_name(folder)),
        codes,
    )


def _sides(coder: SAE) -> tuple[Tensor, Tensor | None]:
    """The atoms of what a coder encodes: its decoder's, or for a transcoder, whose decoder is elsewhere, its encoder's."""
    if coder.transcodes:
        return coder.W_enc.detach().T.float(), None
    return coder.W_dec.detach().float(), coder.b_dec.detach().float()


def _name(folder: Path) -> str:
    """The name of a folder as one of a set in tables."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", folder.resolve().name).strip("-._")[:60] or "coder"
    return f"coder-{plain}" if plain in (TOKENS, RANDOM) else plain


__all__ = ["RANDOM", "TOKENS", "Inputs", "Outputs", "input_features", "of_coder", "outputs", "random", "tokens"]
