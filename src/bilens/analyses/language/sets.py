"""Sets of output directions that are read, the random ones beside them, and sets of input features they are made of."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from bilens import directions, sae
from bilens._internal.shown import line
from bilens.analyses.language.layer import Layer
from bilens.analyses.language.subject import Subject, frequent, labels
from bilens.dictionary import Dictionary
from bilens.errors import BilensError
from bilens.space import Space

TOKENS, RANDOM, EMBEDDINGS = "tokens", "random", "embeddings"
"""Names of the sets that need no coder."""


class Asked(Protocol):
    """What sets are asked for; `Plan` says what each means."""

    @property
    def directions(self) -> tuple[str, ...]:
        """Tokens, or folders."""

    @property
    def tokens(self) -> int:
        """How many tokens."""

    @property
    def controls(self) -> int:
        """How many random directions."""

    @property
    def seed(self) -> int:
        """Of these."""


@dataclass(frozen=True, eq=False, repr=False)
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

    __repr__ = line

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def space(self) -> Space:
        """The space of the features."""
        return Space(self.name, len(self), self.labels)

    def of(self, layer: Layer) -> Float[Tensor, "n o"]:
        """The directions as they read what the layer's MLP gives, before a norm that follows it."""
        return self.directions if layer.scale is None else self.directions * layer.scale.to(self.directions)


@dataclass(frozen=True, eq=False, repr=False)
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

    __repr__ = line


def outputs(subject: Subject, layer: Layer, asked: Asked) -> list[Outputs]:
    """The sets that were asked for, "tokens" or folders of coders, and random directions after them.

    Raises:
        BilensError: a coder of another size, or two of one name. StoreError: a folder that cannot be read.
    """
    found = [
        tokens(subject, asked.tokens) if each == TOKENS else of_coder(Path(each), layer) for each in asked.directions
    ]
    names = [each.name for each in found]
    if len(set(names)) != len(names):
        raise BilensError(f"--directions {' '.join(asked.directions)}, two of one name", "folders of different names")
    return [*found, random(layer, asked.controls, asked.seed)]


def tokens(subject: Subject, count: int) -> Outputs:
    """Directions by token: the rows of the unembedding less their mean, the last norm's gain folded in."""
    chosen = frequent(subject, count)
    rows = subject.unembedding[chosen]
    where = "most frequent in the text" if subject.split is not None else "first words of the vocabulary"
    return Outputs(
        TOKENS,
        "Tokens",
        "Token",
        f"What the layer adds to the logit of each of these {len(chosen)} tokens, the {where}, less the mean over all "
        "tokens and before the scale of the last norm.",
        rows,
        tuple(labels(subject, chosen)),
        rows / rows.square().sum(dim=1, keepdim=True).clamp(min=1e-30),
        tokens=tuple(chosen),
    )


def of_coder(folder: Path, layer: Layer) -> Outputs:
    """The features of a coder of what the layer's MLP gives, written by its atoms.

    They are read by the encoder's rows, or for a transcoder, whose encoder is elsewhere, by the duals of its atoms. A
    coder that was made for another layer, or explains less of the held-out text than the mean does, gets a
    `SiteWarning`.
    """
    coder = sae.load(folder)
    if coder.d_out != layer.tensor.output.dim:
        raise BilensError(
            f"{folder} of vectors of size {coder.d_out}", f"{layer.tensor.output.dim}, as the layer gives"
        )
    if layer.held_out is None:
        _of_this_layer(coder, layer, folder)
    else:
        n, y = layer.mlp.norm(layer.held_out), layer.mlp(layer.held_out)
        _of_this_layer(coder, layer, folder, *((n, y) if coder.transcodes else (y,)))
    read = directions.coder(coder, "duals" if coder.transcodes else "encoder")
    by = "its dual, the row of the decoder's pseudoinverse" if coder.transcodes else "the row of the encoder"
    return Outputs(
        name_of(folder),
        f"Coder {folder.name}",
        "Feature",
        f"The {coder.d_sae:,} features of the coder in {folder.name}, made for {coder.site or 'any vectors'}; each is "
        f"read by {by}.",
        read.matrix,
        read.labels,
        coder.W_dec.detach().float(),
    )


def random(layer: Layer, count: int, seed: int) -> Outputs:
    """Random directions of length 1: what any direction gives."""
    drawn = directions.random(count, layer.tensor.output.dim, seed=seed, name=RANDOM)
    return Outputs(
        RANDOM,
        "Random directions",
        "Random direction",
        f"{count} directions drawn at random. Nothing about them is meant: they show what every number here is for a "
        "direction that stands for nothing.",
        drawn.matrix,
        drawn.labels,
        drawn.matrix,
        control=True,
    )


def input_features(subject: Subject, layer: Layer, folder: Path | None, *, count: int) -> Inputs:
    """The features of the input: the atoms of an SAE of what the MLP takes, or without one the embeddings of tokens.

    Raises:
        BilensError: a transcoder, or a coder of another size. StoreError: a folder that cannot be read.
    """
    if folder is not None:
        return _coder_inputs(folder, layer)
    chosen = frequent(subject, count)
    atoms = layer.normalised(subject.embedding[chosen])
    return Inputs(
        EMBEDDINGS,
        "token embeddings",
        f"Input features are the embeddings of {len(chosen)} tokens, normalised as the layer's input is: what the "
        "residual stream holds of a token before any layer. They say most about the first layers, and less about "
        "deeper ones.",
        Dictionary.from_atoms(atoms, layer.mlp.input, name=EMBEDDINGS, labels=labels(subject, chosen)),
    )


@torch.no_grad()
def _coder_inputs(folder: Path, layer: Layer) -> Inputs:
    coder, name = sae.load(folder), name_of(folder)
    n = None if layer.held_out is None else layer.mlp.norm(layer.held_out)
    atoms = directions.input_dictionary(coder, layer.mlp)
    _of_this_layer(coder, layer, folder, *(() if n is None else (n,)))
    return Inputs(
        name,
        f"features of the SAE {folder.name}",
        f"Input features are the {coder.d_sae:,} atoms of the SAE in {folder.name}, made for "
        f"{coder.site or 'any vectors'}.",
        atoms,
        None if n is None else coder.encode(n),
    )


def _of_this_layer(coder: sae.SAE, layer: Layer, folder: Path, *vectors: Tensor) -> None:
    """Warn where a coder's folder names another layer, or the coder does worse than the mean on this one's vectors."""
    named = None if coder.site is None else coder.site.layer
    if named is not None and named != layer.number:
        warnings.warn(
            f"{folder} was made for {coder.site}, and is used on layer {layer.number}", sae.SiteWarning, stacklevel=2
        )
    elif vectors and vectors[0].shape[1] == coder.d_in:
        sae.evaluate(coder, *(each.to(coder.W_dec) for each in vectors))


def name_of(folder: Path) -> str:
    """The name of a folder as one of a set in tables."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", folder.resolve().name).strip("-._")[:60] or "coder"
    return f"coder-{plain}" if plain in (TOKENS, RANDOM, EMBEDDINGS) else plain


__all__ = [
    "EMBEDDINGS",
    "RANDOM",
    "TOKENS",
    "Asked",
    "Inputs",
    "Outputs",
    "input_features",
    "name_of",
    "of_coder",
    "outputs",
    "random",
    "tokens",
]
