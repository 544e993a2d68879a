"""sparsify, before it `sae`: `cfg.json` and `sae.safetensors` in a folder that is named after its hook point.

W_dec is (d_sae, d_in) as it stands, whatever the shape; b_dec is subtracted unless `transcode` says otherwise.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from bilens._internal.files import read_json, read_tensors, write_pair
from bilens.errors import StoreError
from bilens.sae._formats.content import (
    Content,
    Format,
    check_finite,
    k_of,
    only_without_factor,
    refuse_unknown,
    setting,
    weights,
)
from bilens.sae.site import Site, layer_of

_SHAPES_CODES = {"activation", "expansion_factor", "num_latents", "k", "signed", "skip_connection", "transcode", "d_in"}
_TRAINING = {"normalize_decoder", "multi_topk"}


def _found(folder: Path) -> bool:
    if (folder / "sae.safetensors").is_file():
        return True
    if not (folder / "cfg.json").is_file():
        return False
    config = read_json(folder / "cfg.json")
    return "num_latents" in config and ("expansion_factor" in config or "transcode" in config)


def _read(folder: Path, scale: float | None) -> Content:
    path = folder / "cfg.json"
    config = read_json(path)
    refuse_unknown(path, config, _SHAPES_CODES | _TRAINING)
    only_without_factor(path, scale)
    d_in = setting(path, config, "d_in", int)
    d_sae = (
        d_in * setting(path, config, "expansion_factor", int)
        if not config.get("num_latents")
        else setting(path, config, "num_latents", int)
    )
    transcode, skip = (setting(path, config, name, bool, False) for name in ("transcode", "skip_connection"))
    rule = _rule(path, config)
    k = k_of(path, config, d_sae)
    if rule == "groupmax" and d_sae % k:
        raise StoreError(f"{path} with {d_sae} features in k = {k} groups", "groups of one size")
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.weight": (d_sae, d_in),
        "encoder.bias": (d_sae,),
        "W_dec": (d_sae, d_in),
        "b_dec": (d_in,),
    }
    if skip:
        shapes["W_skip"] = (d_in, d_in)
    tensors, _ = read_tensors(folder / "sae.safetensors")
    theirs = weights(folder / "sae.safetensors", tensors, shapes)
    held = {"W_enc": theirs.pop("encoder.weight").T, "b_enc": theirs.pop("encoder.bias"), **theirs}
    site = _site(folder, transcode or skip)
    return Content(rule, {"apply_b_dec_to_input": not transcode, "k": k}, held, "none", transcode or skip, site)


def write(folder: Path, k: int, tensors: Mapping[str, Tensor]) -> None:
    """Write a transcoder of the k largest, in one step. Each file has a checksum of the other, which sparsify ignores.

    Raises:
        StoreError: a weight is not finite, or the folder cannot be written.
    """
    check_finite(folder, tensors)
    d_in, d_sae = tensors["W_enc"].shape
    config = {
        "activation": "topk",
        "expansion_factor": max(1, d_sae // d_in),
        "normalize_decoder": True,
        "num_latents": d_sae,
        "k": k,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": True,
        "d_in": d_in,
    }
    theirs = {
        "encoder.weight": tensors["W_enc"].T.contiguous(),
        "encoder.bias": tensors["b_enc"],
        "W_dec": tensors["W_dec"],
        "b_dec": tensors["b_dec"],
    }
    write_pair(folder / "cfg.json", config, folder / "sae.safetensors", theirs)


def _rule(path: Path, config: Mapping[str, Any]) -> str:
    """The rule for codes: the k largest, the largest of each of k groups, or in older folders the k of largest size."""
    activation: str = setting(path, config, "activation", str, "topk")
    if activation not in ("topk", "groupmax"):
        raise StoreError(f"{path} with activation = {activation!r:.60}, which is not supported", "topk or groupmax")
    if not setting(path, config, "signed", bool, False):
        return activation
    if activation == "groupmax":
        raise StoreError(f"{path} with activation = 'groupmax' and signed = True", "one of them")
    return "abstopk"


def _site(folder: Path, transcodes: bool) -> Site:
    """The hook point by the folder's name, and the model by the run's config beside it."""
    name = folder.resolve().name
    layer = layer_of(name)
    hook = name if layer is not None or name.startswith("embed") else ""
    model = None
    with contextlib.suppress(StoreError):  # that of the run, where it was saved or downloaded with the coder
        model = read_json(folder.resolve().parent / "config.json").get("model") if hook else None
    ends = (f"input of {hook}", f"output of {hook}") if hook and transcodes else (hook, "")
    return Site(ends[0], layer, model if isinstance(model, str) else "", ends[1])


FORMAT = Format("sparsify's cfg.json and sae.safetensors", _found, _read)
