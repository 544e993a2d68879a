"""Checkpoints that others saved as state dicts: what each is taken for, and the folder that it becomes.

A layout is recognised by the names of its tensors; sizes follow from their shapes. What nothing in the file says is
assumed, and named, so that whoever imports it can confirm it or say otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bilens._internal.files import require_ours, write_together
from bilens._internal.shown import line
from bilens.errors import StoreError
from bilens.models.classifier import ImageClassifier
from bilens.models.gated import FAMILIES
from bilens.space import Space


@dataclass(frozen=True, eq=False, repr=False)
class Imported:
    """A checkpoint as it will be written.

    Args:
        kind: what it was taken for, in words.
        config: of config.json; tensors: of model.safetensors.
        assumed: entries of the config that neither the file nor the caller says.
    """

    kind: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    assumed: tuple[str, ...] = ()

    __repr__ = line

    def save(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors into a folder, in one step.

        Raises:
            StoreError: it cannot be written, or the folder holds a model already; what was there is then still there.
        """
        folder = Path(folder)
        require_ours(folder / "config.json", folder / "model.safetensors")
        write_together(
            folder / "model.safetensors", self.tensors, {"format": "pt"}, folder / "config.json", lambda _: self.config
        )


def recognise(tensors: Mapping[str, Tensor], given: Mapping[str, Any], *, title: str) -> Imported:
    """What a state dict is, with its config.

    Args:
        tensors: the state dict; given: entries of a config, from the file or the caller, which are not assumed.
        title: of the file, for messages.

    Raises:
        StoreError: no layout that is known, a shape that does not fit, or an entry of the config that the tensors
            contradict.
    """
    for name, value in tensors.items():
        if not value.is_floating_point() or value.layout != torch.strided:
            continue
        if not bool(torch.isfinite(value).all()):
            raise StoreError(f"{title} with NaN or infinity in {name}", "finite weights")
    if given.get("model_type") in FAMILIES:
        kind = str(given["model_type"])
        layouts = FAMILIES[kind]
        if not any(layout.pattern().fullmatch(name) for layout in layouts for name in tensors):
            raise StoreError(
                f"{title} of kind {kind!r} without {layouts[0].gate}; it has {_listed(tensors)}", f"a model like {kind}"
            )
        return Imported(f"a language model of kind {kind}", dict(given), dict(tensors))
    for layout in LAYOUTS:
        if any(re.fullmatch(layout.mark, name) for name in tensors):
            return layout.read(_File(title, tensors, given, layout.title))
    hint = "give its config.json with --config" if _like_transformers(tensors) else "copy it into a model by hand"
    known = "; ".join(f"{layout.title} ({layout.example})" for layout in LAYOUTS)
    raise StoreError(f"{title} with {_listed(tensors)}", f"one of these layouts: {known}", hint)


def _like_transformers(tensors: Mapping[str, Tensor]) -> bool:
    return any(layout.pattern().fullmatch(name) for rows in FAMILIES.values() for layout in rows for name in tensors)


@dataclass(frozen=True, repr=False)
class _File:
    """A state dict while its layout is read: tensors by name, and errors for those that do not fit."""

    title: str
    tensors: Mapping[str, Tensor]
    given: Mapping[str, Any]
    kind: str
    assumed: list[str] = field(default_factory=list)

    def matrix(self, name: str, rows: int | None = None, columns: int | None = None) -> Tensor:
        """A matrix (out, in), its sizes checked where they are known."""
        value = self.tensors.get(name)
        if value is None:
            raise StoreError(f"{self.title} without {name}", f"every weight of {self.kind}")
        wanted = (rows, columns)
        if value.ndim != 2 or any(size not in (None, got) for size, got in zip(wanted, value.shape, strict=True)):
            shape = ", ".join("…" if size is None else str(size) for size in wanted)
            raise StoreError(f"{self.title} with {name} of shape {tuple(value.shape)}", f"({shape})")
        return value

    def vector(self, name: str, size: int) -> Tensor | None:
        """A bias, or None where there is none."""
        value = self.tensors.get(name)
        if value is not None and tuple(value.shape) != (size,):
            raise StoreError(f"{self.title} with {name} of shape {tuple(value.shape)}", f"({size})")
        return value

    def count(self, pattern: str) -> int:
        """How many layers there are: names of the pattern with 0, 1, … in it."""
        found = {int(match[1]) for name in self.tensors if (match := re.fullmatch(pattern, name))}
        if not found or found != set(range(len(found))):
            raise StoreError(f"{self.title} with layers {sorted(found)}", "layers 0, 1, …")
        return len(found)

    def stated(self, name: str, value: Any) -> Any:
        """An entry that the tensors say; what was given must be the same."""
        if self.given.get(name, value) != value:
            raise StoreError(
                f"{self.title} with {name} = {self.given[name]!r:.40} in its config",
                f"{value}, as its tensors say",
                "use the config and the weights of one model",
            )
        return value

    def assume(self, name: str, value: Any) -> Any:
        """An entry that the tensors do not say: as given, or else assumed."""
        if name in self.given:
            return self.given[name]
        self.assumed.append(name)
        return value

    def result(self, config: dict[str, Any], tensors: Mapping[str, Tensor]) -> Imported:
        """The checkpoint, its tensors of one floating-point type; entries given and not used are kept."""
        first = next(iter(tensors.values())).dtype
        for name, value in tensors.items():
            if not value.is_floating_point() or value.dtype != first:
                raise StoreError(f"{self.title} with {name} of type {value.dtype}", "one floating-point type")
        extra = {name: value for name, value in self.given.items() if name not in config}
        return Imported(self.kind, {**extra, **config}, dict(tensors), tuple(self.assumed))

    def only(self, names: set[str]) -> None:
        """Refuse tensors that the layout does not have."""
        if more := sorted(self.tensors.keys() - names):
            raise StoreError(f"{self.title} with {', '.join(more[:4])}", f"only the tensors of {self.kind}")


def _authors_image(file: _File) -> Imported:
    """`embed.weight` (d, i), `blocks.N.weight` (2d, d), left over right, `blocks.N.bias`, `head.weight` (o, d)."""
    hidden, width = file.matrix("embed.weight").shape
    layers = file.count(r"blocks\.(\d+)\.weight")
    biases = [file.vector(f"blocks.{k}.bias", 2 * hidden) is not None for k in range(layers)]
    for k in range(layers):
        file.matrix(f"blocks.{k}.weight", 2 * hidden, hidden)
    outputs = len(file.matrix("head.weight", None, hidden))
    if any(biases) != all(biases):
        raise StoreError(f"{file.title} with biases in some layers", "biases in all layers or in none")
    names = {f"blocks.{k}.{what}" for k in range(layers) for what in (("weight", "bias") if biases[0] else ("weight",))}
    file.only({"embed.weight", "head.weight"} | names)
    config = {
        "d_input": file.stated("d_input", width),
        "d_hidden": file.stated("d_hidden", hidden),
        "n_layer": file.stated("n_layer", layers),
        "d_output": file.stated("d_output", outputs),
        "bias": file.stated("bias", biases[0]),
        "residual": file.assume("residual", False),
    }
    return file.result(config, file.tensors)


def _body_image(file: _File) -> Imported:
    """`embed`, one layer `body.left`, `body.right`, `body.down`, and `head`, each with or without a bias.

    logits = H(D((W h + b) ⊙ (V h + c)) + e) + f with h = E x + a. D joins H, and the biases join those of the layer
    and of the read-out: W a + b, V a + c, H e + f.
    """
    body = "body.0" if any(name.startswith("body.0.") for name in file.tensors) else "body"
    short = f"{body}.l.weight" in file.tensors
    parts = ("l", "r", "d") if short else ("left", "right", "down")
    left, right, down = (f"{body}.{part}" for part in parts)
    embed = file.matrix("embed.weight")
    inner, width = embed.shape
    w = file.matrix(f"{left}.weight", None, inner)
    hidden = len(w)
    v = file.matrix(f"{right}.weight", hidden, inner)
    d = file.matrix(f"{down}.weight", None, hidden)
    head = file.matrix("head.weight", None, len(d))
    sizes = {"embed": inner, left: hidden, right: hidden, down: len(d), "head": len(head)}
    given = {name: file.vector(f"{name}.bias", size) for name, size in sizes.items()}
    file.only({f"{name}.{what}" for name in sizes for what in ("weight", "bias")})
    if file.assume("residual", False) is not False:
        raise StoreError(
            f"{file.title} with residual = {file.given['residual']!r:.40}",
            "a model without a residual path, which alone is written",
            "copy its matrices into an ImageClassifier",
        )
    wide = {name: None if value is None else value.double() for name, value in given.items()}
    a = wide["embed"]
    b, c = (_sum(None if a is None else weight.double() @ a, wide[name]) for name, weight in ((left, w), (right, v)))
    e = wide[down]
    f = _sum(None if e is None else head.double() @ e, wide["head"])
    bias = b is not None or c is not None
    model = ImageClassifier(
        _pixels(width), Space("classes", len(head)), hidden, embedding=inner, bias=bias, readout_bias=f is not None
    )
    zeros = torch.zeros(hidden, dtype=torch.float64)
    tensors = {
        "embedding.weight": embed,
        "layers.0.left.weight": w,
        "layers.0.right.weight": v,
        "readout.weight": (head.double() @ d.double()).to(head.dtype),
        **({"layers.0.left.bias": _typed(b, zeros, w), "layers.0.right.bias": _typed(c, zeros, w)} if bias else {}),
        **({} if f is None else {"readout.bias": f.to(head.dtype)}),
    }
    result = file.result(dict(model.config), tensors)
    config = {name: value for name, value in result.config.items() if name in model.config or name in _ABOUT}
    return Imported(result.kind, config, result.tensors, result.assumed)


def _own_image(file: _File) -> Imported:
    """The state dict of an `ImageClassifier`."""
    layers = file.count(r"layers\.(\d+)\.left\.weight")
    hidden, first = file.matrix("layers.0.left.weight").shape
    embedding = len(file.matrix("embedding.weight", first)) if "embedding.weight" in file.tensors else None
    width = first if embedding is None else file.matrix("embedding.weight").shape[1]
    model = ImageClassifier(
        _pixels(width),
        Space("classes", len(file.matrix("readout.weight", None, hidden))),
        file.stated("hidden", hidden),
        layers=file.stated("layers", layers),
        embedding=file.stated("embedding", embedding),
        bias=file.stated("bias", "layers.0.left.bias" in file.tensors),
        readout_bias=file.stated("readout_bias", "readout.bias" in file.tensors),
        residual=file.assume("residual", False),
        activation=file.assume("activation", "bilinear"),
    )
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    file.only(set(shapes))
    for name, shape in shapes.items():
        if name not in file.tensors or tuple(file.tensors[name].shape) != shape:
            there = tuple(file.tensors[name].shape) if name in file.tensors else "nothing"
            raise StoreError(f"{file.title} with {there} as {name}", f"{shape}")
    result = file.result(dict(model.config), file.tensors)
    config = {name: value for name, value in result.config.items() if name in model.config or name in _ABOUT}
    return Imported(result.kind, config, result.tensors, result.assumed)


def _authors_text(file: _File) -> Imported:
    """`transformer.wte.weight`, `transformer.h.N.mlp.w.weight` (2h, d), `transformer.h.N.mlp.p.weight`, `lm_head`."""
    layers = file.count(r"transformer\.h\.(\d+)\.mlp\.w\.weight")
    vocabulary, d = file.matrix("transformer.wte.weight").shape
    hidden = file.matrix("transformer.h.0.mlp.p.weight", d).shape[1]
    for k in range(layers):
        file.matrix(f"transformer.h.{k}.mlp.w.weight", 2 * hidden, d)
        file.matrix(f"transformer.h.{k}.mlp.p.weight", d, hidden)
    config = {
        "n_layer": file.stated("n_layer", layers),
        "d_model": file.stated("d_model", d),
        "d_hidden": file.stated("d_hidden", hidden),
        "vocab_size": file.stated("vocab_size", vocabulary),
        "bias": file.stated("bias", "transformer.h.0.mlp.w.bias" in file.tensors),
        "bilinear": file.assume("bilinear", True),
        "gate": file.assume("gate", None),
        "normalization": file.assume("normalization", True),
    }
    return file.result(config, file.tensors)


def _rules_text(file: _File) -> Imported:
    """`embed.weight`, `blocks.N.mlp.{w_m,w_n,w_proj}.weight`, `blocks.N.norm_mlp.scale`, `unembed.weight`."""
    layers = file.count(r"blocks\.(\d+)\.mlp\.w_m\.weight")
    vocabulary, d = file.matrix("embed.weight").shape
    hidden = len(file.matrix("blocks.0.mlp.w_m.weight", None, d))
    for k in range(layers):
        file.matrix(f"blocks.{k}.mlp.w_m.weight", hidden, d)
        file.matrix(f"blocks.{k}.mlp.w_n.weight", hidden, d)
        file.matrix(f"blocks.{k}.mlp.w_proj.weight", d, hidden)
        if file.vector(f"blocks.{k}.norm_mlp.scale", d) is None:
            raise StoreError(f"{file.title} without blocks.{k}.norm_mlp.scale", f"every weight of {file.kind}")
    config = {
        "vocab_size": file.stated("vocab_size", vocabulary),
        "d_model": file.stated("d_model", d),
        "d_head": file.stated("d_head", len(file.matrix("blocks.0.attn.q1_proj.weight", None, d))),
        "d_mlp": file.stated("d_mlp", hidden),
        "n_layers": file.stated("n_layers", layers),
        "seq_len": file.assume("seq_len", None),
        "rope_base": file.assume("rope_base", 10000.0),
        "norm_type": file.assume("norm_type", "channel"),
    }
    return file.result(config, file.tensors)


@dataclass(frozen=True)
class _Layout:
    """A layout: the name that shows it, what it is in words, and how it is read."""

    mark: str
    title: str
    example: str
    read: Callable[[_File], Imported]


LAYOUTS = (
    _Layout(
        r"blocks\.\d+\.mlp\.w_m\.weight",
        "a language model of products alone",
        "embed.weight, blocks.0.mlp.w_m.weight, …",
        _rules_text,
    ),
    _Layout(
        r"transformer\.h\.\d+\.mlp\.w\.weight",
        "a language model of the authors of bilinear MLPs",
        "transformer.wte.weight, transformer.h.0.mlp.w.weight, …",
        _authors_text,
    ),
    _Layout(
        r"blocks\.\d+\.weight",
        "an image classifier of the authors of bilinear MLPs",
        "embed.weight, blocks.0.weight, head.weight",
        _authors_image,
    ),
    _Layout(
        r"body(\.\d+)?\.(left|l)\.weight",
        "an image classifier with a layer of three matrices",
        "embed.weight, body.left.weight, body.right.weight, body.down.weight, head.weight",
        _body_image,
    ),
    _Layout(
        r"layers\.\d+\.left\.weight",
        "an image classifier of bilens",
        "layers.0.left.weight, layers.0.right.weight, readout.weight",
        _own_image,
    ),
)
"""Every layout that is recognised, in the order in which they are tried."""

_ABOUT = ("image_mean", "image_std", "test_accuracy")
"""Entries that say what a classifier's images were, and that its own config may have too."""


def _pixels(width: int) -> Space:
    side = round(width**0.5)
    return Space("pixels", width, image=(side, side) if side * side == width and side > 1 else None)


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def _typed(value: Tensor | None, zeros: Tensor, like: Tensor) -> Tensor:
    return (zeros if value is None else value).to(like.dtype)


def _listed(tensors: Mapping[str, Tensor]) -> str:
    kinds: dict[str, Tensor] = {}
    for name, value in tensors.items():
        kinds.setdefault(re.sub(r"\b\d+\b", "N", name), value)
    shown = ", ".join(f"{kind} {tuple(value.shape)}" for kind, value in list(kinds.items())[:12])
    return shown + (f" and {len(kinds) - 12} more kinds" if len(kinds) > 12 else "")


__all__ = ["LAYOUTS", "Imported", "recognise"]
