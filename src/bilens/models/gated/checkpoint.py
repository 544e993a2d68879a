"""A model's gated MLPs, opened from wherever they are stored; a layer is read when it is asked for, and alone."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from bilens._internal import checks
from bilens._internal.checks import whole
from bilens.errors import BilensError, ShapeError, StoreError
from bilens.models.gated import gains
from bilens.models.gated._quantised import FP8, MXFP4
from bilens.models.gated._sources import opened
from bilens.models.gated._stored import READABLE, Source
from bilens.models.gated.families import FAMILIES, GGUF_FAMILIES, Family, Layout, bias_name, recognised
from bilens.models.gated.layouts import EXAMPLE
from bilens.models.gated.mlp import Gate, GatedMLP, Norm

DEQUANTISED = "load it dequantised with transformers, and pass the model"
"""What to do with weights of a type that is not read."""


@dataclass(frozen=True)
class Entry:
    """One MLP of a layer, or all of its experts, as it is before anything is read.

    Args:
        layer: its number; part: "mlp", "experts" or "shared expert"; count: how many, 1 but for experts.
        inputs, units, outputs: sizes, d → h → o.
        activation: σ; norm: kind of the norm before it; post_norm: whether another one follows.
        biases: which of gate, up and down have one.
        dtype: how the weights are stored.
    """

    layer: int
    part: str
    count: int
    inputs: int
    units: int
    outputs: int
    activation: Gate
    norm: str
    post_norm: bool
    biases: tuple[str, ...]
    dtype: str

    @property
    def bilinear(self) -> bool:
        """Whether it is exactly a quadratic function of the normalised residual stream."""
        return self.activation.bilinear


@dataclass(frozen=True)
class Place:
    """The names of one layer's tensors.

    Args:
        layout: how they lie; root: what precedes the layer's name; layer: its number; count: of experts, 1 otherwise.
    """

    layout: Layout
    root: str
    layer: int
    count: int

    def name(self, pattern: str, expert: int | None = None) -> str:
        """A name of the layout with root, layer and expert filled in."""
        for word, value in (("root", self.root), ("layer", self.layer), ("expert", expert)):
            pattern = pattern.replace(f"{{{word}}}", str(value))
        return pattern


class Checkpoint:
    """The gated MLPs of a model. `load` opens one.

    Attributes:
        source: where its tensors lie; family: what its config says; places: where each MLP is, by layer and part.
    """

    def __init__(self, source: Source, family: Family, places: Mapping[tuple[int, str], Place]) -> None:
        self.source, self.family, self.places = source, family, dict(places)
        self._names = frozenset(source.names())

    def __repr__(self) -> str:
        """For example "Checkpoint(model, llama, 30 layers)"."""
        return f"Checkpoint({self.source.title}, {self.family.name}, {len(self)} layers)"

    def __len__(self) -> int:
        """How many layers have a gated MLP."""
        return len({layer for layer, _ in self.places})

    def entries(self) -> tuple[Entry, ...]:
        """What each layer has, from the headers of the files alone.

        Raises:
            StoreError: a tensor is missing, or of a type that is not read.
        """
        return tuple(self._entry(place) for place in self.places.values())

    def mlp(self, layer: int) -> GatedMLP:
        """The MLP of a layer; only its tensors are read.

        Raises:
            BilensError: no such layer, or one of experts. StoreError: its tensors are missing, damaged, or do not fit
                the config.
        """
        return self._read(self._place(layer, "mlp"))

    def expert(self, layer: int, expert: int) -> GatedMLP:
        """One expert of a layer; only its numbers are read. Raises as `mlp`."""
        place = self._place(layer, "experts")
        return self._read(place, whole("expert", expert, 0, place.count - 1))

    def shared_expert(self, layer: int) -> GatedMLP:
        """The expert of a layer that reads every token, before it is weighted. Raises as `mlp`."""
        return self._read(self._place(layer, "shared expert"))

    def _place(self, layer: int, part: str) -> Place:
        last = max(layer for layer, _ in self.places)
        layer = whole("layer", layer, 0, last)
        if (layer, part) not in self.places:
            there = [kind for number, kind in self.places if number == layer]
            asked = {"mlp": "an MLP of its own", "experts": "experts", "shared expert": "a shared expert"}[part]
            raise BilensError(
                f"layer {layer} of {self.source.title}, which has {' and '.join(there)}",
                f"a layer with {asked}",
                "call .expert(layer, number)" if "experts" in there else "call .mlp(layer)",
            )
        return self.places[layer, part]

    def _entry(self, place: Place) -> Entry:
        layout = place.layout
        expert = 0 if layout.part == "experts" and not layout.stacked else None
        shapes = {what: self._shape(place, what, expert) for what in ("gate", "up", "down")}
        return Entry(
            layer=place.layer,
            part=layout.part,
            count=place.count,
            inputs=shapes["gate"][1],
            units=shapes["gate"][0],
            outputs=shapes["down"][0],
            activation=self.family.activation(layout),
            norm=layout.norm_kind if layout.norm else "none",
            post_norm=bool(layout.post_norm),
            biases=tuple(
                what for what in shapes if bias_name(place.name(getattr(layout, what), expert)) in self._names
            ),
            dtype=self.source.describe(place.name(layout.gate, expert)).dtype,
        )

    def _shape(self, place: Place, what: str, expert: int | None) -> tuple[int, int]:
        """(out, in) of W, V or D, which must be what the config says where it says it."""
        layout, config = place.layout, self.family.config
        name = place.name(getattr(layout, what), expert)
        if name not in self._names:
            raise StoreError(f"{self.source.title} without {name}", "every weight of its layers", "download it again")
        stored = self.source.describe(name)
        shape = stored.shape[1:] if layout.stacked else stored.shape
        if len(shape) != 2:
            expected = "(experts, …, …)" if layout.stacked else "a matrix"
            raise StoreError(f"{self.source.title} with {name} of shape {stored.shape}", expected, "check the layout")
        if self.source.gguf is False and stored.dtype not in (*READABLE, MXFP4, FP8):
            raise StoreError(
                f"{self.source.title} with {name} of type {stored.dtype}{_quantised(config)}",
                f"one of {', '.join(READABLE)}",
                DEQUANTISED,
            )
        rows, columns = (shape[1], shape[0]) if layout.transposed else shape
        for size in ("hidden_size", layout.width):
            if type(config.get(size, 1)) is not int and config[size] is not None:
                raise StoreError(f"{self.source.title} with {size} = {config[size]!r:.40} in its config", "a number")
        d, h = config.get("hidden_size"), config.get(layout.width)
        fused = 1 if layout.rows == "apart" or what == "down" else 2
        wanted = (d, h) if what == "down" else (None if h is None else fused * h, d)
        if any(type(size) is int and size != got for size, got in zip(wanted, (rows, columns), strict=True)):
            out_in = " as (in, out)" if layout.transposed else ""
            raise StoreError(
                f"{self.source.title} with {name} of shape {shape}{out_in}",
                f"{wanted[::-1] if layout.transposed else wanted}, as hidden_size and {layout.width} of its config say",
                "use the config and the weights of one model",
            )
        if rows % fused:
            raise StoreError(f"{self.source.title} with {name} of {rows} rows", "an even number, W's and V's")
        return rows // fused, columns

    def _read(self, place: Place, expert: int | None = None) -> GatedMLP:
        layout = place.layout
        numbered = None if layout.stacked else expert
        row = expert if layout.stacked else None
        for what in ("gate", "up", "down"):
            self._shape(place, what, numbered)
        part = layout.part if expert is None else f"expert {expert}"
        weights = {what: self._weight(place, what, numbered, row) for what in ("gate", "up", "down")}
        biases = {f"{what}_bias": self._bias(place, what, numbered, row) for what in ("gate", "up", "down")}
        norm = self._norm(place, layout.norm) if layout.norm else Norm("none")
        post = self._norm(place, layout.post_norm) if layout.post_norm else None
        try:
            return GatedMLP._taken(
                **weights,
                **biases,
                activation=self.family.activation(layout),
                norm=norm,
                post_norm=post,
                layer=place.layer,
                part=part,
            )
        except BilensError as error:
            if isinstance(error, ShapeError | StoreError):
                raise StoreError(f"{self.source.title}, whose layer is not whole ({error})", "a whole layer") from error
            raise

    def _weight(self, place: Place, what: str, expert: int | None, row: int | None) -> Tensor:
        """W, V or D as (out, in), in float32 at least and in memory of its own."""
        value = self.source.read(place.name(getattr(place.layout, what), expert), row)
        value = value.mT if place.layout.transposed else value
        return _own(_half(value, place.layout, what))

    def _bias(self, place: Place, what: str, expert: int | None, row: int | None) -> Tensor | None:
        name = bias_name(place.name(getattr(place.layout, what), expert))
        stated, there = self.family.config.get("mlp_bias"), name in self._names
        if type(stated) is bool and stated != there:
            raise StoreError(
                f"{self.source.title} with{'' if there else 'out'} {name}, but mlp_bias = {stated} in its config",
                "the config and the weights of one model",
            )
        return _own(_half(self.source.read(name, row), place.layout, what)) if there else None

    def _norm(self, place: Place, pattern: str) -> Norm:
        layout = place.layout
        eps = self.family.eps if layout.eps is None else layout.eps
        if eps is None:
            raise StoreError(f"{self.source.title} without rms_norm_eps in its config", "the ε of its norms")
        if layout.gain == "none":
            return Norm(layout.norm_kind, eps=eps)
        name = place.name(pattern)
        if name not in self._names:
            raise StoreError(f"{self.source.title} without {name}", "the gain of every norm", "download it again")
        gain = _own(self.source.read(name))
        bias = bias_name(name) if layout.norm_kind == "layer" else ""
        offset = _own(self.source.read(bias)) if bias in self._names else None
        return Norm(layout.norm_kind, gain + 1 if layout.gain == "1+w" else gain, offset, eps)


def _quantised(config: Mapping[str, Any]) -> str:
    """How a config says that its weights were quantised; empty where it does not."""
    method = config.get("quantization_config")
    return f", quantised by {method.get('quant_method')!r}," if isinstance(method, Mapping) else ""


def _half(value: Tensor, layout: Layout, what: str) -> Tensor:
    """The rows of W or of V where both lie in one matrix (or their biases in one vector)."""
    if layout.rows == "apart" or what == "down":
        return value
    if layout.rows == "interleaved":
        return value[0::2] if what == "gate" else value[1::2]
    middle = len(value) // 2
    return value[:middle] if what == "gate" else value[middle:]


def _own(value: Tensor) -> Tensor:
    return checks.owned(value).contiguous()


def load(model: str | os.PathLike[str] | nn.Module, *, layout: Layout | str | None = None) -> Checkpoint:
    """Open a model's gated MLPs, without reading any.

    Args:
        model: a folder or file of safetensors, a GGUF file, the name of a model on Hugging Face's hub (of one GGUF file
            of several, OWNER/NAME/FILE), or a model of transformers in memory. Weights in MXFP4 or FP8 are read as the
            numbers that they stand for.
        layout: where the MLPs are, for a model of no known family; or the name of the family whose layout it has.

    Raises:
        StoreError: nothing there, a file of the model is missing or damaged, a family that is not known (the message
            lists what was found), or a model without gates. BilensError: neither a path nor a model.
    """
    source = opened(model)
    names = source.names()
    family = recognised(source.config, title=source.title, gguf=source.gguf, layout=layout)
    if family is None:
        table = GGUF_FAMILIES if source.gguf else FAMILIES
        kind = source.config.get("model_type")
        what = f"of the unknown kind {kind!r}" if kind else "whose config does not say its kind"
        raise StoreError(
            f"{source.title} {what}, with {_listed(source)}",
            f"one of {', '.join(table)}, or a layout that says which tensors are gate, up and down",
            f"give one like {EXAMPLE}, or the name of a family with the same layout",
        )
    places = _places(source, family, names)
    if source.gguf and family.name.startswith("gemma"):
        norms = ((place, norm) for place in places.values() for norm in (place.layout.norm, place.layout.post_norm))
        gains.look(source, [place.name(norm) for place, norm in norms if norm])
    return Checkpoint(source, family, places)


def _places(source: Source, family: Family, names: tuple[str, ...]) -> dict[tuple[int, str], Place]:
    """Where each layer's MLPs are, in the order of layers.

    Raises:
        StoreError: none of the layouts' tensors, layers or experts missing, or two models in one file.
    """
    places: dict[tuple[int, str], Place] = {}
    for layout in family.layouts:
        pattern = layout.pattern()
        experts: dict[int, set[int]] = {}
        roots: dict[int, str] = {}
        for name in names:
            if (match := pattern.fullmatch(name)) is None:
                continue
            groups = match.groupdict()
            layer, root = int(groups["layer"]), groups.get("root", "")
            if roots.setdefault(layer, root) != root:
                raise StoreError(
                    f"{source.title} with two layers {layer}, {roots[layer]!r} and {root!r}", "one model in a file"
                )
            experts.setdefault(layer, set()).add(int(groups.get("expert", 0)))
        for layer, found in experts.items():
            place = Place(layout, roots[layer], layer, len(found))
            if found != set(range(len(found))):
                raise StoreError(
                    f"{source.title} without expert {min(set(range(max(found))) - found)} of layer {layer}",
                    "all of them",
                    "copy or download it again",
                )
            if layout.stacked:
                place = Place(layout, roots[layer], layer, source.describe(place.name(layout.gate)).shape[0])
            stated = family.config.get("num_local_experts", family.config.get("num_experts"))
            if layout.part == "experts" and type(stated) is int and stated != place.count:
                raise StoreError(
                    f"{source.title} with {place.count} experts in layer {layer}", f"{stated}, as its config says"
                )
            places.setdefault((layer, layout.part), place)
    if not places:
        raise StoreError(
            f"{source.title}{_quantised(family.config)} without {family.layouts[0].gate}; it has {_listed(source)}",
            f"the tensors of a model like {family.name}",
            DEQUANTISED if _quantised(family.config) else "give the layout that it has",
        )
    stated = family.config.get("num_hidden_layers")
    present = {layer for layer, _ in places}
    total = stated if type(stated) is int else max(present) + 1
    first = next(layer for layer in itertools.count() if layer not in present)
    if first != total or first != len(present):
        lacks = first < max(total, len(present))
        what = f"without the MLP of layer {first}" if lacks else f"with {len(present)} layers"
        raise StoreError(f"{source.title} {what}", f"the {total} layers of its config", "copy or download it again")
    return dict(sorted(places.items()))


def _listed(source: Source) -> str:
    """What a source has, its numbered layers taken together: names with N for a number, and the shape of the first."""
    kinds: dict[str, str] = {}
    for name in source.names():
        kinds.setdefault(re.sub(r"\b\d+\b", "N", name), name)
    if not kinds:
        return "no tensors"
    shown = [f"{kind} {source.describe(name).shape}" for kind, name in list(kinds.items())[:12]]
    return ", ".join(shown) + (f" and {len(kinds) - 12} more kinds" if len(kinds) > 12 else "")


__all__ = ["Checkpoint", "Entry", "Place", "load"]
