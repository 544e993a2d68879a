"""SAELens: `cfg.json` and `sae_weights.safetensors`, of version 6 and of those before, and the folders we write.

Every setting of version 6 is understood or refused. Of the versions before, the settings that shape codes are known and
closed, and are understood or refused; those folders also hold all settings of a training run, which are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bilens._internal.files import read_json, read_pair, write_pair
from bilens.errors import StoreError
from bilens.sae._formats.content import (
    DTYPES,
    NORMALIZATIONS,
    VECTORS,
    Content,
    Format,
    check_finite,
    k_of,
    matrix,
    only_without_factor,
    place,
    refuse_unknown,
    setting,
    weights,
    wide,
)
from bilens.sae.site import Site, layer_of

VERSION = "6.54.12"
"""The SAELens whose folders are written; SAELens reads folders from 6 on as they are and converts older ones."""

_ARCHITECTURES = {
    **{name: name for name in ("standard", "topk", "jumprelu", "gated", "abstopk", "matching_pursuit")},
    **dict.fromkeys(("transcoder", "skip_transcoder"), "standard"),
    **dict.fromkeys(("jumprelu_transcoder", "jumprelu_skip_transcoder"), "jumprelu"),
}
"""SAELens' architectures that are read, and the rule for the codes of each."""

_KNOWN = {"architecture", "d_in", "d_sae", "dtype", "device", "metadata", "apply_b_dec_to_input"}
_KNOWN |= {"normalize_activations", "reshape_activations"}
_RULES = {
    "topk": {"k", "rescale_acts_by_decoder_norm"},
    "abstopk": {"k", "rescale_acts_by_decoder_norm"},
    "matching_pursuit": {"residual_threshold", "max_iterations", "stop_on_duplicate_support"},
}
_FACTOR = "expected_average_only_in"


def write(
    folder: Path, architecture: str, settings: Mapping[str, Any], tensors: Mapping[str, Tensor], site: Site | None
) -> None:
    """Write a folder in one step. Each file has a checksum of the other, which SAELens ignores.

    Raises:
        StoreError: SAELens has no such SAE, a weight is not finite, or the folder cannot be written; an SAE that was
            there before is then still there.
    """
    settings = dict(settings)
    if architecture == "topk":
        if not settings.pop("rectify"):
            raise StoreError(
                "a top-k SAE without ReLU",
                "one with ReLU, the only one that SAELens has",
                "store its weights otherwise",
            )
        settings["rescale_acts_by_decoder_norm"] = False
    check_finite(folder, tensors)
    d_in, d_sae = tensors["W_enc"].shape
    metadata: dict[str, Any] = {"sae_lens_version": VERSION, "sae_lens_training_version": None}
    if site is not None:
        names = {
            "hook_name": site.hook,
            "hook_name_out": site.output,
            "hook_layer": site.layer,
            "model_name": site.model,
            "hook_head_index": site.head,
        }
        metadata |= {name: value for name, value in names.items() if value not in (None, "")}
    config = {
        "architecture": architecture,
        "d_in": d_in,
        "d_sae": d_sae,
        "dtype": str(tensors["W_dec"].dtype).removeprefix("torch."),
        "device": "cpu",
        "normalize_activations": "none",
        "reshape_activations": "none",
        **settings,
        "metadata": metadata,
    }
    write_pair(folder / "cfg.json", config, folder / "sae_weights.safetensors", tensors)


def _found(folder: Path) -> bool:
    return (folder / "cfg.json").is_file() or (folder / "sae_weights.safetensors").is_file()


def _read(folder: Path, scale: float | None) -> Content:
    path = folder / "cfg.json"
    stated = read_json(path)
    _settings(path, stated)  # before weights are looked for: those of what is not supported do not matter
    config, tensors = read_pair(path, folder / "sae_weights.safetensors")
    config = _settings(path, config)
    name, file = config["architecture"], folder / "sae_weights.safetensors"
    rule, transcodes = _ARCHITECTURES[name], "transcoder" in name
    d_in, d_sae = setting(path, config, "d_in", int), setting(path, config, "d_sae", int)
    d_out = setting(path, config, "d_out", int) if transcodes else d_in
    subtract = setting(path, config, "apply_b_dec_to_input", bool, not transcodes)
    if transcodes and subtract:
        raise StoreError(f"{path} with apply_b_dec_to_input = True", "false for a transcoder, as SAELens has it")
    shapes: dict[str, tuple[int, ...]] = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_out), "b_dec": (d_out,)}
    shapes |= dict.fromkeys(VECTORS[rule], (d_sae,))
    if "skip" in name:
        shapes["W_skip"] = (d_out, d_in)
    if rule == "matching_pursuit":
        matrix(file, tensors, "W_dec")
        tensors.setdefault("W_enc", tensors["W_dec"].T)  # it encodes by its decoder, and stores it alone
    if "scaling_factor" in tensors:
        shapes["scaling_factor"] = (d_sae,)
    held = weights(file, tensors, shapes, _dtype(path, config))
    if "scaling_factor" in held:
        held = _fold_scale(path, config, held)
    settings: dict[str, Any] = {"apply_b_dec_to_input": subtract}
    if rule in ("topk", "abstopk"):
        settings["k"] = k_of(path, config, d_sae)
        if setting(path, config, "rescale_acts_by_decoder_norm", bool, False):
            held = _fold_norms(held)
    if rule == "matching_pursuit":
        settings |= _pursuit(path, config, held, d_in)
        held["b_dec"] = held["b_dec"] * subtract  # pursuit adds what it took off, and nothing else
    normalization = config["normalize_activations"]
    if normalization == _FACTOR:
        held = _fold_factor(path, held, scale, transcodes)
        normalization = "none"
    else:
        only_without_factor(path, scale)
    site = _site(path, config, transcodes)
    ours = "sha256" in stated  # a folder of ours without a site: an SAE trained on vectors from anywhere
    return Content(rule, settings, held, normalization, transcodes, None if ours and site == Site() else site)


def _settings(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """A config in the names of version 6, every setting of which that shapes codes is understood or refused."""
    metadata = config.get("metadata")
    version = config.get("sae_lens_version", metadata.get("sae_lens_version") if isinstance(metadata, dict) else None)
    if version is not None and not (isinstance(version, str) and re.match(r"\d{1,4}(\.|$)", version)):
        raise StoreError(f"{path} with sae_lens_version = {version!r:.60}", 'a version such as "6.54.12"')
    if version is None or int(version.split(".")[0]) < 6:
        config = _before_6(path, config)
    architecture: str = setting(path, config, "architecture", str)
    if architecture not in _ARCHITECTURES:
        raise StoreError(
            f"{path} with architecture {architecture!r:.60}, which is not supported",
            f"one of {', '.join(_ARCHITECTURES)}",
        )
    known = _KNOWN | _RULES.get(architecture, set()) | ({"d_out"} if "transcoder" in architecture else set())
    refuse_unknown(path, config, known)
    found = {**config, "normalize_activations": config.get("normalize_activations", "none")}
    _check(path, found, "normalize_activations", (*NORMALIZATIONS, _FACTOR), "its vectors are changed in another way")
    # "hook_z" says that the heads of a vector lie side by side, as they do in a vector of d_in coordinates.
    _check(path, {"reshape_activations": "none", **found}, "reshape_activations", ("none", "hook_z"), "")
    _dtype(path, found)
    return found


def _before_6(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a version before 6 in the names of version 6."""
    names = {"hook_point": "hook_name", "hook_point_layer": "hook_layer", "hook_point_head_index": "hook_head_index"}
    names["activation_fn"] = "activation_fn_str"
    old = {names.get(name, name): value for name, value in config.items()}
    architecture = setting(path, old, "architecture", str, "standard")
    activation = setting(path, old, "activation_fn_str", str, "topk" if architecture == "topk" else "relu")
    given: dict[str, Any] = setting(path, old, "activation_fn_kwargs", dict, {})
    new: dict[str, Any] = {"architecture": architecture, "dtype": old.get("dtype", "float32")}
    if activation == "topk" and architecture in ("standard", "topk"):
        refuse_unknown(path, given, {"k"})
        new |= {"architecture": "topk", "k": given.get("k", old.get("k"))}
    elif activation != "relu" or architecture == "topk":
        raise StoreError(
            f"{path} with activation_fn_str = {activation!r:.60} and architecture {architecture!r:.60}",
            "relu, or topk with the architecture standard or topk",
        )
    new |= {name: old[name] for name in ("d_in", "d_sae", "apply_b_dec_to_input", "reshape_activations") if name in old}
    if new.get("d_sae") is None and "expansion_factor" in old:
        new["d_sae"] = setting(path, old, "d_in", int) * setting(path, old, "expansion_factor", int)
    normalized = old.get("normalize_activations")
    if normalized is None or isinstance(normalized, bool):
        normalized = _FACTOR if normalized else "none"
    new["normalize_activations"] = normalized
    keep = ("model_name", "hook_name", "hook_layer", "hook_head_index", "finetuning_scaling_factor")
    metadata = config.get("metadata")
    new["metadata"] = {**(metadata if isinstance(metadata, dict) else {}), **{n: old[n] for n in keep if n in old}}
    return new


def _check(path: Path, config: Mapping[str, Any], name: str, known: tuple[str, ...], why: str) -> None:
    if config[name] not in known:
        raise StoreError(
            f"{path} with {name} = {config[name]!r:.60}, which is not supported{why and ': '}{why}",
            f"{name} = {' or '.join(map(repr, known))}",
        )


def _dtype(path: Path, config: Mapping[str, Any]) -> torch.dtype:
    dtype = DTYPES.get(str(config.get("dtype", "float32")).removeprefix("torch."))
    if dtype is None:
        raise StoreError(f"{path} with dtype = {config['dtype']!r:.60}", f"one of {', '.join(DTYPES)}")
    return dtype


def _site(path: Path, config: Mapping[str, Any], transcodes: bool) -> Site:
    stated = setting(path, config, "metadata", dict, {})
    hook, model, output = (setting(path, stated, n, str, "") for n in ("hook_name", "model_name", "hook_name_out"))
    layer = place(path, stated, "hook_layer")
    head = place(path, stated, "hook_head_index")
    return Site(hook, layer_of(hook) if layer is None else layer, model, output if transcodes else "", head)


def _fold_scale(path: Path, config: Mapping[str, Any], held: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights without the `scaling_factor` of a version before 6, which multiplied codes before the decoder."""
    factor = held.pop("scaling_factor")
    if bool((factor == 1).all()):
        return held
    stated = setting(path, config, "metadata", dict, {}).get("finetuning_scaling_factor")
    if stated is not True:
        raise StoreError(
            f"{path} with finetuning_scaling_factor = {stated!r:.60} beside weights scaling_factor that are not 1",
            "both, or neither",
        )
    held = wide(held)
    return {**held, "W_dec": held["W_dec"] * factor[:, None]}


def _fold_norms(held: dict[str, Tensor]) -> dict[str, Tensor]:
    """SAELens takes codes as p·n and decodes them by W_dec/n, with n the norms of the decoder's rows."""
    held = wide(held)
    norm = held["W_dec"].norm(dim=1)
    rows = held["W_dec"] / torch.where(norm > 0, norm, 1)[:, None]
    return {**held, "W_enc": held["W_enc"] * norm, "b_enc": held["b_enc"] * norm, "W_dec": rows}


def _fold_factor(path: Path, held: dict[str, Tensor], scale: float | None, transcodes: bool) -> dict[str, Tensor]:
    """Make weights for vectors that were multiplied by a factor act on the vectors as they are, with the same codes."""
    if scale is None or transcodes:
        raise StoreError(
            f"{path} with normalize_activations = {_FACTOR!r}: training multiplied its vectors by a factor that the "
            "folder does not hold",
            "an autoencoder and its factor, √d_in over the mean norm of its training vectors",
            "pass it as scale, or have SAELens fold it into the weights" if not transcodes else "",
        )
    held = wide(held)
    outer = {name: held[name] / scale for name in ("W_dec", "b_dec")}
    return {**held, "W_enc": held["W_enc"] * scale, **outer}


def _pursuit(path: Path, config: Mapping[str, Any], held: dict[str, Tensor], d_in: int) -> dict[str, Any]:
    """The settings of matching pursuit, which are when it stops."""
    threshold = config.get("residual_threshold", 1e-2)
    if type(threshold) not in (int, float) or not 0 <= threshold < float("inf"):
        raise StoreError(f"{path} with residual_threshold = {threshold!r:.60}", "a number of at least 0")
    if not torch.equal(held["W_enc"], held["W_dec"].T):
        raise StoreError(
            f"{path} beside a W_enc that is not the transpose of W_dec", "one matrix: pursuit has no other"
        )
    return {
        "residual_threshold": float(threshold),
        "max_iterations": setting(path, config, "max_iterations", int, d_in),
        "stop_on_duplicate_support": setting(path, config, "stop_on_duplicate_support", bool, True),
    }


FORMAT = Format("SAELens' cfg.json and sae_weights.safetensors, which bilens writes too", _found, _read)
