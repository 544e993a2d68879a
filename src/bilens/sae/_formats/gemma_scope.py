"""Gemma Scope: `params.npz` of the first, read without pickles, and `params.safetensors` with a config of the second.

All are JumpReLU. The first names neither model nor layer in its files, and its transcoders have the weights of an
autoencoder: what it says stands in the path, as it was published.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bilens._internal.files import read_bytes, read_json, read_tensors
from bilens.errors import StoreError
from bilens.sae._formats.content import Content, Format, matrix, only_without_factor, setting, weights
from bilens.sae.site import Site

_HOOKS = {"res": "residual stream", "att": "attention heads' outputs, side by side", "mlp": "MLP output"}
"""What the first's repositories are named after, and the vectors that it means."""


def _found(folder: Path) -> bool:
    return (folder / "params.npz").is_file() or (folder / "params.safetensors").is_file()


def _read(folder: Path, scale: float | None) -> Content:
    first = (folder / "params.npz").is_file()
    file = folder / ("params.npz" if first else "params.safetensors")
    only_without_factor(file, scale)
    tensors = _arrays(file) if first else read_tensors(file)[0]
    tensors = {f"W{name[1:]}" if name in ("w_enc", "w_dec") else name: value for name, value in tensors.items()}
    site, transcodes = (_path_site if first else _config_site)(folder.resolve())
    transcodes |= "affine_skip_connection" in tensors
    d_in, d_sae = matrix(file, tensors, "W_enc")
    if (decoder := tensors.get("W_dec")) is not None and decoder.ndim == 3:
        raise StoreError(
            f"{file} of a transcoder across layers, with W_dec of shape {tuple(decoder.shape)}",
            "a coder of one layer, which has one decoder",
        )
    d_out = matrix(file, tensors, "W_dec")[1] if transcodes else d_in
    shapes: dict[str, tuple[int, ...]] = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_out), "b_dec": (d_out,)}
    shapes |= dict.fromkeys(("b_enc", "threshold"), (d_sae,))
    if "affine_skip_connection" in tensors:
        shapes["affine_skip_connection"] = (d_in, d_out)
    held = weights(file, tensors, shapes)
    if "affine_skip_connection" in held:
        held["W_skip"] = held.pop("affine_skip_connection").T
    return Content("jumprelu", {"apply_b_dec_to_input": False}, held, transcodes=transcodes, site=site)


def _arrays(file: Path) -> dict[str, Tensor]:
    """The arrays of an npz file as tensors; an array of objects, which would be a pickle, is refused."""
    if read_bytes(file, 4) != b"PK\x03\x04":
        raise StoreError(
            f"{file}, which is no npz file", "a zip file of arrays, as numpy.savez writes it", "copy it again"
        )
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as held:
            arrays = {name: held[name] for name in held.files}
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    except Exception as error:  # damage makes numpy and zlib raise anything, SyntaxError and MemoryError included
        damaged = isinstance(error, zipfile.BadZipFile | EOFError)
        reason = "a damaged zip file" if damaged else " ".join(str(error).split())[:120] or type(error).__name__
        raise StoreError(
            f"{file}, which cannot be read ({reason})", "an npz file of arrays of numbers", "copy it again"
        ) from error


def _path_site(folder: Path) -> tuple[Site, bool]:
    """What a path such as gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71 says, and if it is a transcoder's."""
    path = folder.as_posix()
    named = re.search(r"gemma-scope-(\d+b)-(pt|it)-(res|att|mlp|transcoders)", path)
    layer = re.search(r"/layer_(\d+)(?:/|$)", path)
    transcodes = named is not None and named[3] == "transcoders"
    model = "" if named is None else f"gemma-2-{named[1]}{'-it' if named[2] == 'it' else ''}"
    hook, output = ("MLP input", "MLP output") if transcodes else ("" if named is None else _HOOKS[named[3]], "")
    if re.search(r"/embedding(?:/|$)", path):
        hook = "embeddings"
    return Site(hook, None if layer is None else int(layer[1]), model, output), transcodes


def _config_site(folder: Path) -> tuple[Site, bool]:
    """What the second's config.json says; without one, only that it is an autoencoder of vectors from somewhere."""
    path = folder / "config.json"
    config: dict[str, Any] = read_json(path) if path.is_file() else {}
    architecture = setting(path, config, "architecture", str, "jump_relu")
    if architecture != "jump_relu":
        raise StoreError(f"{path} with architecture {architecture!r:.60}, which is not supported", "jump_relu")
    names = ("hf_hook_point_in", "hf_hook_point_out", "model_name")
    hook, output, model = (setting(path, config, name, str, "") for name in names)
    layer = re.search(r"/layer_(\d+)(?:_|/|$)", folder.as_posix())
    transcodes = bool(output) and output != hook
    return Site(hook, None if layer is None else int(layer[1]), model, output if transcodes else ""), transcodes


FORMAT = Format("Gemma Scope's params.npz, or params.safetensors with config.json", _found, _read)
