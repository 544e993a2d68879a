"""Features of the input and of the output that the layer is read in, with random rotations as their nulls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bilens import decompose, sae
from bilens.dictionary import Dictionary
from bilens.models import ImageClassifier
from bilens.sae import StandardSAE, TensorStream, TopKSAE
from bilens.space import Space
from bilens.tensor import BilinearTensor
from reproduction.lab import Lab

COMPONENTS = 50
"""SVD components that the outputs are read in; a random rotation stays in their span."""

ENERGY = 0.99
"""The first directions of the HOSVD basis, those that are also rotated alone, hold this share of ‖B‖²."""

OUTPUT_FEATURES = 80
"""Features of the SAE on the outputs that are read: those that do most to the logits, mean code times effect."""

K = 32
"""Codes kept by the SAE on the images and by the sparse transcoders."""

SCORED, WEIGHED = 3000, 5000
"""Test images that are scored; training images that importances are measured on."""

PIXELS, BASIS, ROTATED, TURNED, COMPONENT, CODES, CODES_ROTATED = (
    "pixels",
    "HOSVD basis",
    "HOSVD basis, rotated",
    "HOSVD basis, first rotated",
    "principal components",
    "SAE on images",
    "SAE on images, rotated",
)
INPUTS = (PIXELS, BASIS, ROTATED, TURNED, COMPONENT, CODES, CODES_ROTATED)
"""Input features, all with the SVD on the outputs."""

SVD, SVD_ROTATED, OUTPUT_SAE, CLASSES = "SVD", "SVD, rotated", "SAE on outputs", "classes"
OUTPUTS = (SVD, SVD_ROTATED, OUTPUT_SAE, CLASSES)
"""Output features, all with the HOSVD basis on the inputs."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """Input features with the codes of images, and how many numbers a machine needs to have them.

    Args:
        name: of the features; dictionary: their atoms, or None for the pixels themselves.
        train: codes of the images that importances are measured on; test: of those that are scored.
        each: numbers stored for each feature that an interaction names; all: numbers stored whichever are named.
    """

    name: str
    dictionary: Dictionary | None
    train: Float[Tensor, "w m"]
    test: Float[Tensor, "n m"]
    each: int = 0
    all: int = 0


@dataclass(frozen=True, eq=False)
class Outputs:
    """Output features: how they are read from the layer and what they do to the centred logits.

    Args:
        name: of the features; tensor: the layer with them as outputs.
        effects: (o, classes), what one unit of each adds to the logits; shift: (classes,), what is always added.
        each: numbers stored for each feature that an interaction names; all: numbers stored whichever are named.
    """

    name: str
    tensor: BilinearTensor
    effects: Float[Tensor, "o classes"]
    shift: Float[Tensor, " classes"]
    each: int = 0
    all: int = 0


def rotated(dictionary: Dictionary, seed: int, first: int | None = None) -> tuple[Dictionary, Float[Tensor, "m m"]]:
    """The same span in random coordinates, codes a ↦ R a and atoms F ↦ R F with R orthogonal, and R.

    Args:
        dictionary: the features; seed: of R; first: how many features are turned, the others stay; all when None.
    """
    m = dictionary.features.size
    size = m if first is None else first
    noise = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    block, triangle = torch.linalg.qr(noise)
    rotation = torch.eye(m, dtype=torch.float64)
    rotation[:size, :size] = block * triangle.diagonal().sign()
    rotation = rotation.to(dictionary.atoms)
    turned = Dictionary(
        rotation @ dictionary.atoms,
        rotation @ dictionary.duals,
        dictionary.space,
        Space(f"rotated {dictionary.features.name}", m),
        dictionary.rank,
        dictionary.offset,
    )
    return turned, rotation


def bases_of(lab: Lab, seed: int, layer: BilinearTensor, numbers: dict[str, float]) -> Iterator[Inputs]:
    """Orthonormal input features one after the other; how many hold `ENERGY` goes into `numbers`."""
    train, test = lab.dataset().train.images, lab.dataset().test.images[: lab.size(SCORED, 500)]
    few, d = train[: lab.size(WEIGHED, 1000)], layer.input.size
    basis = decompose.input_basis(layer)
    rank = max(1, int((basis.values > basis.floor).sum()))
    own = decompose.input_basis(layer, rank).dictionary()
    energy = basis.values.double().square().cumsum(0) / basis.energy.double()
    first = min(rank, int((energy < ENERGY).sum()) + 1)
    numbers["directions with 99 % of the energy"] = float(first)
    everything, leading = rotated(own, seed)[0], rotated(own, seed, first)[0]
    moment = decompose.second_moment(train, layer.input)
    axes = torch.linalg.eigh(moment).eigenvectors.T.flip(0)[:rank].to(layer.left).contiguous()
    principal = Dictionary(axes, axes, layer.input, Space("principal components", rank), rank)
    for name, dictionary in ((BASIS, own), (ROTATED, everything), (TURNED, leading), (COMPONENT, principal)):
        yield Inputs(name, dictionary, dictionary.encode(few), dictionary.encode(test), each=d)


def inputs_of(lab: Lab, seed: int, layer: BilinearTensor, numbers: dict[str, float]) -> Iterator[Inputs]:
    """Input features one after the other; the SAE's own measures go into `numbers`."""
    train, test = lab.dataset().train.images, lab.dataset().test.images[: lab.size(SCORED, 500)]
    few, d = train[: lab.size(WEIGHED, 1000)], layer.input.size
    yield Inputs(PIXELS, None, few, test)
    yield from bases_of(lab, seed, layer, numbers)
    coder = TopKSAE(d, lab.size(500, 100), K, seed=seed)
    stream = TensorStream(train, batch_size=512, seed=seed)
    sae.train(coder, stream, steps=lab.size(400, 60), title=f"SAE on images, seed {seed}", device="cpu")
    found = sae.evaluate(coder, test)
    numbers |= {"L0 of the SAE on images": found.l0, "NMSE of the SAE on images": found.nmse}
    dictionary = coder.dictionary(layer.input)
    turned, rotation = rotated(dictionary, seed)
    with torch.no_grad():
        codes, scored = coder.encode(few), coder.encode(test)
    stored = coder.W_enc.numel() + coder.b_enc.numel() + coder.b_dec.numel()
    yield Inputs(CODES, dictionary, codes, scored, all=stored)
    yield Inputs(CODES_ROTATED, turned, codes @ rotation.T, scored @ rotation.T, all=stored + rotation.numel())


def outputs_of(lab: Lab, seed: int, model: ImageClassifier, read: Tensor) -> Iterator[Outputs]:
    """Output features one after the other."""
    layer = model.hidden_tensor()
    weight = model.readout.weight - model.readout.weight.mean(dim=0)
    h = layer.output.size
    svd = decompose.svd(layer, min(lab.size(COMPONENTS, 12), h))
    own = Dictionary(svd.outputs, svd.outputs, layer.output, Space("components", len(svd)), len(svd))
    coder = StandardSAE(h, lab.size(600, 80), seed=seed)
    sae.train(
        coder, TensorStream(read, batch_size=1024, seed=seed), steps=lab.size(250, 60), l1=4.5, similarity=10.0,
        title=f"SAE on outputs, seed {seed}", device="cpu",
    )  # fmt: skip
    found = sae.evaluate(coder, read)
    does = found.mean_activation * (coder.W_dec.detach() @ weight.T).norm(dim=1).double()
    most = does.topk(min(lab.size(OUTPUT_FEATURES, 20), coder.d_sae)).indices.sort().values
    learned = coder.dictionary(layer.output, most)
    for name, dictionary in ((SVD, own), (SVD_ROTATED, rotated(own, seed)[0]), (OUTPUT_SAE, learned)):
        offset = weight.new_zeros(h) if dictionary.offset is None else dictionary.offset
        yield Outputs(
            name, layer.read(dictionary), dictionary.atoms @ weight.T, weight @ offset, each=h, all=weight.numel()
        )
    yield by_class(model)


def by_class(model: ImageClassifier) -> Outputs:
    """The centred logits themselves as output features."""
    size = model.output.size
    eye, nothing = torch.eye(size), model.readout.weight.new_zeros(size)
    return Outputs(CLASSES, model.tensor().centered(), eye - eye.mean(dim=0), nothing)
