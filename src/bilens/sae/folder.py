"""Folders of weights: SAELens' (`cfg.json`, `sae_weights.safetensors`) and the ICLR 2025 authors' top-k.

Reading gives plain settings and weights; every setting is understood or refused, none is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bilens._internal import checks
from bilens._internal.shown import line
from bilens.errors import StoreError
from bilens.files import read_json, read_pair, write_pair

SAE_LENS_VERSION = "6.54.12"
"""The SAELens whose folders are written; SAELens reads folders from 6 on as they are and converts older ones."""

_VECTORS = {
    "standard": ("b_enc",),
    "topk": ("b_enc",),
    "jumprelu": ("b_enc", "threshold"),
    "gated": ("b_gate", "b_mag", "r_mag"),
}
"""Weights of size d_sae of each architecture that is read."""

_DTYPES = {"float32": torch.float32, "float64": torch.float64, "float16": torch.float16, "bfloat16": torch.bfloat16}

SUPPORTED = (
    "a SAELens folder of version 6 or later (cfg.json, sae_weights.safetensors; standard, topk, jumprelu or gated) or "
    "the top-k folder of the authors of bilinear MLPs (config.json, model.safetensors)"
)
"""The formats that are read, for messages."""

_KNOWN = {"architecture", "d_in", "d_sae", "dtype", "device", "metadata", "apply_b_dec_to_input"}
_ONLY = {"normalize_activations": "none", "reshape_activations": "none"}
_WHY = {
    "normalize_activations": "its codes belong to vectors that are scaled first",
    "reshape_activations": "its vectors are those of all heads side by side",
}

_AUTHORS_ONLY: dict[str, Any] = {
    "target": None,
    "normalize": None,
    "bilinear_encoder": False,
    "encoder_bias": False,
    "token_lookup": False,
    "kwargs": {},
}
"""What the authors' settings must be: each other value is another architecture."""
_AUTHORS_TRAINING = {
    "point",
    "lr",
    "in_batch",
    "out_batch",
    "n_buffers",
    "n_batches",
    "n_ctx",
    "val_steps",
    "dead_thresh",
    "init_scale",
    "decoder_decay",
    "normalize_decoder",
    "tag",
}
"""What the authors' settings say about training alone."""


@dataclass(frozen=True, eq=False, repr=False)
class Content:
    """What a folder holds, checked.

    Args:
        architecture: SAELens' name.
        settings: what the class needs beside the sizes, for example k.
        weights: by SAELens' names, of one type and of shapes that fit.
    """

    architecture: str
    settings: dict[str, Any]
    weights: dict[str, Tensor]

    __repr__ = line


def read(folder: str | Path) -> Content:
    """Read a SAELens folder or the authors' top-k folder, whichever it is.

    Raises:
        StoreError: a file is missing or damaged, the format or a setting is not supported, or the weights do not fit.
    """
    folder = checks.path("folder", folder)
    if foreign := _foreign(folder):
        raise StoreError(f"{folder}, {foreign}", SUPPORTED)
    if (folder / "cfg.json").exists():
        return _read_saelens(folder)
    if (folder / "config.json").exists():
        return _read_authors(folder)
    raise StoreError(f"{folder} with neither cfg.json nor config.json", SUPPORTED)


def _foreign(folder: Path) -> str:
    """What a folder is when it is an SAE of a format that is known and not supported; empty otherwise."""
    for name in ("cfg.json", "config.json"):
        if not (folder / name).is_file():
            continue
        config = read_json(folder / name)
        if isinstance(trainer := config.get("trainer"), dict) and "dict_class" in trainer:
            return f"an SAE of dictionary_learning ({str(trainer['dict_class'])[:40]}), whose format is not supported"
        if "num_latents" in config and ("expansion_factor" in config or "transcode" in config):
            return "an SAE of sparsify, whose format is not supported"
        architecture = config.get("architecture")
        if name == "cfg.json" and architecture is None and ("activation_fn_str" in config or "hook_name" in config):
            return "an SAE that SAELens wrote before its version 6, whose layout is not supported"
        if isinstance(architecture, str) and "transcoder" in architecture:
            return (
                f"a {architecture.replace('_', ' ')}, which maps one activation to another: only autoencoders are read"
            )
    return ""


def write(folder: str | Path, architecture: str, settings: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Write a SAELens folder in one step. Each file has a checksum of the other, which SAELens ignores.

    Raises:
        StoreError: SAELens has no such SAE, a weight is not finite, or the folder cannot be written; an SAE that was
            there before is then still there.
    """
    folder, settings = checks.path("folder", folder), dict(settings)
    if architecture == "topk":
        if not settings.pop("rectify"):
            raise StoreError(
                "a top-k SAE without ReLU",
                "one with ReLU, the only one that SAELens has",
                "store its weights otherwise",
            )
        settings["rescale_acts_by_decoder_norm"] = False
    _check_finite(folder, weights)
    d_sae, d_in = weights["W_dec"].shape
    config = {
        "architecture": architecture,
        "d_in": d_in,
        "d_sae": d_sae,
        "dtype": str(weights["W_dec"].dtype).removeprefix("torch."),
        "device": "cpu",
        **_ONLY,
        **settings,
        "metadata": {"sae_lens_version": SAE_LENS_VERSION, "sae_lens_training_version": None},
    }
    write_pair(folder / "cfg.json", config, folder / "sae_weights.safetensors", weights)


def _saelens(path: Path, config: Mapping[str, Any]) -> tuple[str, torch.dtype]:
    """The architecture and type of a SAELens config, every setting of which is understood or refused."""
    architecture: str = _setting(path, config, "architecture", str)
    if architecture not in _VECTORS:
        raise StoreError(
            f"{path} with architecture {architecture!r}, which is not supported", f"one of {', '.join(_VECTORS)}"
        )
    metadata = config.get("metadata")
    version = metadata.get("sae_lens_version") if isinstance(metadata, dict) else None
    if not isinstance(version, str) or not version.split(".")[0].isdecimal() or int(version.split(".")[0]) < 6:
        raise StoreError(
            f"{path} with metadata.sae_lens_version = {version!r}, whose layout is not supported", "6 or later"
        )
    known = _KNOWN | _ONLY.keys() | ({"k", "rescale_acts_by_decoder_norm"} if architecture == "topk" else set())
    _refuse_unknown(path, config, known)
    for name, value in _ONLY.items():
        if config.get(name, value) != value:
            raise StoreError(
                f"{path} with {name} = {config[name]!r}, which is not supported: {_WHY[name]}", f"{name} = {value!r}"
            )
    dtype = _DTYPES.get(str(config.get("dtype", "float32")).removeprefix("torch."))
    if dtype is None:
        raise StoreError(f"{path} with dtype = {config['dtype']!r}", f"one of {', '.join(_DTYPES)}")
    return architecture, dtype


def _read_saelens(folder: Path) -> Content:
    path = folder / "cfg.json"
    _saelens(path, read_json(path))  # before weights are looked for: those of what is not supported do not matter
    config, tensors = read_pair(path, folder / "sae_weights.safetensors")
    architecture, dtype = _saelens(path, config)
    d_in, d_sae = _setting(path, config, "d_in", int), _setting(path, config, "d_sae", int)
    settings: dict[str, Any] = {"apply_b_dec_to_input": True}
    if "apply_b_dec_to_input" in config:
        settings["apply_b_dec_to_input"] = _setting(path, config, "apply_b_dec_to_input", bool)
    shapes = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    shapes |= dict.fromkeys(_VECTORS[architecture], (d_sae,))
    weights = _weights(folder / "sae_weights.safetensors", tensors, shapes, dtype)
    if architecture == "topk":
        settings["k"] = _k(path, config, d_sae)
        if "rescale_acts_by_decoder_norm" in config and _setting(path, config, "rescale_acts_by_decoder_norm", bool):
            # SAELens takes the codes as p·n and decodes them by W_dec/n, with n the norms of the decoder's rows.
            norm = weights["W_dec"].norm(dim=1)
            weights["W_enc"] = weights["W_enc"] * norm
            weights["b_enc"] = weights["b_enc"] * norm
            weights["W_dec"] = weights["W_dec"] / torch.where(norm > 0, norm, 1)[:, None]
    return Content(architecture, settings, weights)


def _authors(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse a config of the authors with a setting that is not understood."""
    _refuse_unknown(path, config, {"k", "d_model", "expansion"} | _AUTHORS_ONLY.keys() | _AUTHORS_TRAINING)
    for name, value in _AUTHORS_ONLY.items():
        if config.get(name, value) != value:
            raise StoreError(
                f"{path} with {name} = {config[name]!r}", f"{name} = {value!r}", "use an SAE of the plain top-k kind"
            )


def _read_authors(folder: Path) -> Content:
    path = folder / "config.json"
    _authors(path, read_json(path))
    config, tensors = read_pair(path, folder / "model.safetensors")
    _authors(path, config)
    d_in = _setting(path, config, "d_model", int)
    d_sae = d_in * _setting(path, config, "expansion", int)
    shapes = {"w_enc.weight": (d_sae, d_in), "w_dec.weight": (d_in, d_sae), "b_dec": (d_in,)}
    theirs = _weights(folder / "model.safetensors", tensors, shapes, None)
    weights = {
        "W_enc": theirs["w_enc.weight"].T,
        "W_dec": theirs["w_dec.weight"].T,
        "b_dec": theirs["b_dec"],
        "b_enc": theirs["b_dec"].new_zeros(d_sae),
    }
    return Content("topk", {"k": _k(path, config, d_sae), "rectify": False}, weights)


def _setting(path: Path, config: Mapping[str, Any], name: str, kind: type) -> Any:
    """A setting that must be there, a text, a count of at least 1, or true or false."""
    value = config.get(name)
    good = type(value) is kind and (type(value) is not int or value >= 1)
    if not good:
        kinds = {str: "a text", int: "a number of at least 1", bool: "true or false"}
        raise StoreError(
            f"{path} with {name} = {value!r}" if name in config else f"{path} without {name}",
            f"{name} as {kinds[kind]}",
            "write it again",
        )
    return value


def _k(path: Path, config: Mapping[str, Any], d_sae: int) -> int:
    k: int = _setting(path, config, "k", int)
    if k > d_sae:
        raise StoreError(f"{path} with k = {k}", f"at most {d_sae}, the number of features", "write it again")
    return k


def _refuse_unknown(path: Path, config: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(config.keys() - known - {"sha256"})  # the checksum that `write_pair` adds
    if unknown:
        raise StoreError(
            f"{path} with the unknown setting{'s' if len(unknown) > 1 else ''} {', '.join(unknown)}",
            f"only {', '.join(sorted(known))}",
            "a setting that does not change the codes can be removed; another is not supported",
        )


def _weights(
    path: Path, tensors: dict[str, Tensor], shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """The weights of a file in one type (that of the file when None), checked against their names and shapes."""
    if tensors.keys() != shapes.keys():
        missing, unknown = sorted(shapes.keys() - tensors.keys()), sorted(tensors.keys() - shapes.keys())
        parts = [f"{word} {', '.join(names)}" for word, names in (("without", missing), ("with", unknown)) if names]
        raise StoreError(f"{path} {' and '.join(parts)}", f"exactly {', '.join(sorted(shapes))}", "write it again")
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape or tensors[name].dtype not in _DTYPES.values():
            raise StoreError(
                f"{path} with {name} of shape {tuple(tensors[name].shape)} and {tensors[name].dtype}",
                f"{shape} of floating-point numbers, as the settings say",
                "use the weights and the settings of one SAE",
            )
    dtype = next(iter(tensors.values())).dtype if dtype is None else dtype
    tensors = {name: value.to(dtype) for name, value in tensors.items()}
    _check_finite(path, tensors)
    return tensors


def _check_finite(path: Path, weights: Mapping[str, Tensor]) -> None:
    for name, value in weights.items():
        if not bool(torch.isfinite(value).all()):
            raise StoreError(f"{path} with NaN or infinity in {name}", "finite weights", "train the SAE again")
