"""The image classifier: an optional embedding, bilinear (or other) layers, and a linear read-out."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bilens._internal import checks
from bilens._internal.checks import choice, instance, number, whole
from bilens._internal.files import read_pair, write_pair
from bilens.deep import DeepTensor
from bilens.errors import BilensError, ShapeError, StoreError
from bilens.models import _authors as authors
from bilens.models import _config
from bilens.models.layers import ACTIVATIONS, GATES, Bilinear, Dense, Gated, factored, linear, matched_width, no_tensor
from bilens.space import Space
from bilens.tensor import BilinearTensor


class ImageClassifier(nn.Module):
    """logits = D h_L + e, with h_0 = E x (or x) and h_k = layer_k(h_{k−1}), plus h_{k−1} in a residual model.

    A model with one bilinear layer is a quadratic function of its pixels, and `tensor()` is that function.

    Args:
        input: space of the pixels; output: space of the classes.
        hidden: width h of a layer of the *bilinear* model. Gated layers take the same width, which gives as many
            parameters; ungated ones ("relu", "gelu") the width whose parameters come nearest, see `matched_width`.
        layers: how many layers there are.
        embedding: width of the linear map E before the first layer; None for no such map.
        bias: whether the layers have biases; readout_bias: whether the read-out has one, e.
        residual: whether each layer is added to what it reads; needs `hidden` = `embedding`, or = the number of pixels.
        activation: "bilinear", "relu", "gelu", "reglu" or "swiglu".
        seed: of the first weights.

    Attributes:
        embedding: E as nn.Linear without bias, or None; layers: nn.ModuleList; readout: D and e as nn.Linear.
        input, output: the spaces; config: the arguments as JSON values.

    Raises:
        BilensError: an unknown activation, a number out of range, or residual with an ungated layer, whose width cannot
            be matched. ShapeError: residual where the widths differ.

    Source: arXiv 2410.08417, section 4.
    """

    def __init__(
        self,
        input: Space,
        output: Space,
        hidden: int,
        *,
        layers: int = 1,
        embedding: int | None = None,
        bias: bool = False,
        readout_bias: bool = False,
        residual: bool = False,
        activation: str = "bilinear",
        seed: int = 0,
    ) -> None:
        super().__init__()
        known = ("bilinear", *ACTIVATIONS, *GATES)
        choice("activation", activation, known)
        instance("input", input, Space)
        instance("output", output, Space)
        hidden, layers = (whole(name, size, 1, 2**31 - 1) for name, size in (("hidden", hidden), ("layers", layers)))
        embedding = None if embedding is None else whole("embedding", embedding, 1, 2**31 - 1)
        switches = (("bias", bias), ("readout_bias", readout_bias), ("residual", residual))
        bias, readout_bias, residual = (checks.flag(name, switch) for name, switch in switches)
        seed = checks.seed(seed, 0)
        self.input, self.output = input.without_constant(), output.without_constant()
        first = embedding or input.size
        if residual and activation in ACTIVATIONS:
            raise BilensError(
                f"residual with activation {activation!r}",
                "a gated or bilinear layer, whose width may equal its input's at the same number of parameters",
                "leave out residual, or choose bilinear, reglu or swiglu",
            )
        if residual and first != hidden:
            raise ShapeError(
                f"residual with hidden = {hidden} and {first} {'inputs' if embedding is None else 'embedding units'}",
                "widths that are equal, so that a layer can be added to what it reads",
                f"use embedding={hidden}",
            )
        self.config: dict[str, Any] = {
            "format": _config.FORMAT,
            "input": self.input.to_json(),
            "output": self.output.to_json(),
            "hidden": hidden,
            "layers": layers,
            "embedding": embedding,
            "bias": bias,
            "readout_bias": readout_bias,
            "residual": residual,
            "activation": activation,
            "seed": seed,
        }
        self.residual, self.activation = residual, activation
        width = hidden
        if activation in ACTIVATIONS:
            width = matched_width(hidden, d_in=first, d_out=output.size, layers=layers, bias=bias)
        generator = torch.Generator(device="cpu").manual_seed(seed)
        self.embedding: nn.Linear | None = None
        space = self.input
        if embedding is not None:
            self.embedding = linear(input.size, embedding, bias=False, generator=generator)
            space = Space("embedding", embedding)
        self.layers = nn.ModuleList()
        for k in range(layers):
            after = Space("hidden" if layers == 1 else f"hidden {k}", width)
            self.layers.append(_layer(activation, bias, space, after, generator))
            space = after
        self.readout = linear(width, output.size, bias=readout_bias, generator=generator)

    @property
    def layer(self) -> Bilinear | Gated | Dense:
        """The only layer.

        Raises:
            BilensError: there are several.
        """
        if len(self.layers) > 1:
            raise BilensError(
                f"a model with {len(self.layers)} layers",
                "a model with one layer",
                "use model.layers[k], one at a time",
            )
        layer: Bilinear | Gated | Dense = self.layers[0]  # type: ignore[assignment]
        return layer

    def hidden_outputs(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n h"]:
        """What the read-out reads: the embedding, the layers and the residual path applied.

        Raises:
            ShapeError: the last axis of x is not `input.size`.
        """
        x = self.input.fold(x, like=self.readout.weight)
        if self.embedding is not None:
            x = self.embedding(x)
        for layer in self.layers:
            x = x + layer(x) if self.residual else layer(x)
        return x

    def forward(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n o"]:
        """Logits, one row per image."""
        logits: Tensor = self.readout(self.hidden_outputs(x))
        return logits

    def hidden_tensor(self, *, detach: bool = True) -> BilinearTensor:
        """The tensor from the pixels to what the read-out reads: embedding composed, residual path and biases folded.

        Examples:
            >>> model = ImageClassifier(Space("pixels", 4), Space("digits", 3), hidden=5, bias=True)
            >>> B, x = model.hidden_tensor(), torch.rand(2, 4)
            >>> B.output.size, bool(torch.allclose(model.readout(B(x)), model(x), atol=1e-6))
            (5, True)

        The factors are W E and V E, so that eigenvectors are orthonormal among pixels and not among embedding units.
        The residual path h = E x + … joins as (e_const · x')(E_h · x') through the constant coordinate.

        Raises:
            BilensError: the model has several layers, or a layer that is not bilinear.
        """
        if len(self.layers) > 1:
            raise BilensError(
                f".tensor() of a model with {len(self.layers)} layers",
                "a model with one layer: more are no quadratic function of the pixels",
                "use model.deep() for all layers, or model.layers[k].tensor() for one",
            )
        layer = self.layer
        if not isinstance(layer, Bilinear):
            raise no_tensor(self.activation)
        tensor = factored(layer.left, layer.right, self.embedding, input=self.input, output=layer.output, detach=detach)
        if self.residual:
            embed = torch.eye(self.input.size).to(tensor.left) if self.embedding is None else self.embedding.weight
            path = BilinearTensor.from_linear(embed, input=self.input, output=tensor.output, detach=detach)
            tensor = tensor + path
        return tensor

    def tensor(self, *, detach: bool = True) -> BilinearTensor:
        """The tensor from the pixels to the logits: `tensor()(x)` = `model(x)`.

        The embedding is composed, the residual path and all biases are folded; the input space has the constant
        coordinate where one of them needs it.

        Args:
            detach: False keeps the graph, so that a loss of the tensor trains the model.

        Raises:
            BilensError: the model has several layers, or a layer that is not bilinear.
        """
        weight, bias = self.readout.weight, self.readout.bias
        tensor = self.hidden_tensor(detach=detach).then(weight, self.output, detach=detach)
        return tensor if bias is None else tensor.shift(bias, detach=detach)

    def deep(self, *, detach: bool = True) -> DeepTensor:
        """All layers as one object, from the pixels to the logits: `deep()(x)` = `model(x)`, for any number of layers.

        The embedding is folded into the first layer, the read-out and its bias into the last one, and the residual path
        runs as a skip. Take its `centered()` before it is compared or decomposed.

        Args:
            detach: False keeps the graph, so that a loss of the network's norm or inner products trains the model.

        Raises:
            BilensError: a layer that is not bilinear.
        """
        tensors = []
        for place, layer in enumerate(self.layers):
            if not isinstance(layer, Bilinear):
                raise no_tensor(self.activation)
            first = self.input if place == 0 and self.embedding is None else None
            tensors.append(layer.tensor(first, detach=detach))
        deep = DeepTensor.chain(*tensors, residual=self.residual)
        if self.embedding is not None:
            deep = deep.after(self.embedding.weight, self.input, detach=detach)
        deep = deep.then(self.readout.weight, self.output, detach=detach)
        return deep if self.readout.bias is None else deep.shift(self.readout.bias, detach=detach)

    def over(self, input: Space, output: Space) -> ImageClassifier:
        """A copy with these spaces instead of its own, for example with the labels and image shape of a data set.

        Raises:
            ShapeError: a space of another size.
        """
        instance("input", input, Space)
        instance("output", output, Space)
        for ours, theirs in ((self.input, input), (self.output, output)):
            if ours.size != theirs.size:
                raise ShapeError(
                    f"space {theirs.title} for a model's {ours.title}",
                    f"{ours.size} coordinates",
                    "name the data that the model was trained on",
                )
        other = copy.deepcopy(self)
        other.input, other.output = input.without_constant(), output.without_constant()
        other.config = self.config | {"input": other.input.to_json(), "output": other.output.to_json()}
        return other

    def standardized(self, mean: float, std: float) -> ImageClassifier:
        """The same function as one of raw images, for a model that was trained on standardised ones, (x − mean) / std.

        The logits of the result at x are those of this model at x̂ = (x − mean) / std. With E x̂ = E' x + c, where
        E' = E / std and c = −(mean / std) Σ_i E_·i, the embedding becomes E' and W c joins the biases of the first
        layer; without an embedding, E = I and W becomes W / std. In a residual model c runs beside the layers, so that
        it joins the biases of each of them and of the read-out, and E' = I / std is a new embedding where there was
        none. Computed in float64, and rounded once to the type of the weights.

        Args:
            mean, std: of the images, one number each, in the units of raw images; MNIST's are 0.1307 and 0.3081.

        Raises:
            BilensError: a number that is not finite, a std that is not above 0, numbers at which a weight overflows, or
                an ungated layer without biases, whose width would no longer be that of its config.
        """
        mean, std = number("mean", mean), number("std", std, above=0)
        if self.activation in ACTIVATIONS and not self.config["bias"]:
            raise BilensError(
                f"a model with activation {self.activation!r} and no biases",
                "layers with biases, which the mean can join",
                "standardise the images instead",
            )
        other = copy.deepcopy(self).cpu().double()
        size = self.input.size
        if self.residual and other.embedding is None:
            other.embedding = nn.Linear(size, size, bias=False, dtype=torch.float64)
            other.embedding.weight = nn.Parameter(torch.eye(size, dtype=torch.float64))
            other.layers[0].input = Space("embedding", size)  # type: ignore[assignment]
        embedding = other.embedding
        first, *later = ([part for part in layer.children() if isinstance(part, nn.Linear)] for layer in other.layers)
        rest = [part for parts in later for part in parts]
        with torch.no_grad():
            sums = torch.ones(size, dtype=torch.float64) if embedding is None else embedding.weight.sum(dim=1)
            offset = -(mean / std) * sums
            for part in [*first, *rest, *([other.readout] if self.residual else [])]:
                reads = offset if self.residual or part in first else torch.zeros(part.in_features, dtype=torch.float64)
                shift = part.weight @ reads
                part.bias = nn.Parameter(shift if part.bias is None else part.bias + shift)
            for part in first if embedding is None else [embedding]:
                part.weight /= std
        other.config = self.config | {
            "bias": True,
            "readout_bias": other.readout.bias is not None,
            "embedding": None if embedding is None else embedding.out_features,
        }
        other.to(self.readout.weight)
        if not all(bool(torch.isfinite(value).all()) for value in other.parameters()):
            raise BilensError(
                f"mean = {mean:g} and std = {std:g}",
                f"numbers at which weights stay finite in {self.readout.weight.dtype}",
            )
        return other

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors` into a folder in one step, each with a checksum of the other.

        Raises:
            StoreError: the folder cannot be written, or holds a model that bilens did not save; what was there before
                is then still there.
        """
        folder = checks.path("folder", folder)
        write_pair(folder / "config.json", self.config, folder / "model.safetensors", self.state_dict())

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> ImageClassifier:
        """Read a folder that `save_pretrained` wrote, or one in the authors' layout, which its tensors' names show.

        Examples:
            >>> import tempfile
            >>> model = ImageClassifier(Space("pixels", 4), Space("digits", 3), hidden=5)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     model.save_pretrained(folder)
            ...     again = ImageClassifier.from_pretrained(folder)
            >>> torch.equal(again(torch.ones(4)), model(torch.ones(4)))
            True

        Weights keep the type that they have in the file. In the authors' layout the input is "pixels", a square image
        when their number is a square, and the output "classes".

        Raises:
            StoreError: a file is missing, damaged, altered, a pickle, of another save than the other file, or holds
                tensors of other names, shapes or types than the config says, or NaN or infinity.
        """
        folder = checks.path("folder", folder)
        path, weights = folder / "config.json", folder / "model.safetensors"
        pickle = folder / "pytorch_model.bin"
        if pickle.exists() and not weights.exists():
            raise StoreError(
                f"{pickle}, which is a pickle",
                "model.safetensors beside it, because unpickling runs code from the file",
                "save the weights with safetensors.torch.save_file",
            )
        config, tensors = read_pair(path, weights)
        if authors.recognised(tensors):
            settings, tensors = authors.convert(path, config, tensors)
        else:
            settings = _config.settings(path, config)
        if type(settings["layers"]) is int and settings["layers"] > len(tensors):
            raise StoreError(
                f"{path} with {settings['layers']} layers, but {len(tensors)} tensors in {weights.name}",
                "a config and weights of one model",
                "copy or download both again",
            )
        try:
            with torch.device("meta"):
                model = cls(**settings)
        except BilensError as error:
            raise StoreError(
                f"{path}, which describes no model ({error})",
                "the config of an image classifier",
            ) from error
        _config.check(weights, tensors, {name: tuple(value.shape) for name, value in model.state_dict().items()})
        model.load_state_dict({name: value.clone() for name, value in tensors.items()}, assign=True)
        return model.requires_grad_(True)


def _layer(
    activation: str, bias: bool, input: Space, output: Space, generator: torch.Generator
) -> Bilinear | Gated | Dense:
    sizes = (input.size, output.size)
    if activation == "bilinear":
        return Bilinear(*sizes, bias, input=input, output=output, generator=generator)
    kind = Gated if activation in GATES else Dense
    return kind(*sizes, activation, bias, input=input, output=output, generator=generator)
