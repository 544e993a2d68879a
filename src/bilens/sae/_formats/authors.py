"""The authors of arXiv 2410.08417: `config.json` and `model.safetensors` of a top-k SAE without ReLU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bilens._internal.files import read_json, read_pair
from bilens.errors import StoreError
from bilens.sae._formats.content import Content, Format, k_of, only_without_factor, refuse_unknown, setting, weights
from bilens.sae.site import Site

_ONLY: dict[str, Any] = {
    "target": None,
    "normalize": None,
    "bilinear_encoder": False,
    "encoder_bias": False,
    "token_lookup": False,
    "kwargs": {},
}
"""What settings must be: each other value is another architecture."""
_TRAINING = {
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
"""What settings say about training alone, and the site, in `point`."""


def _found(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def _check(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse a config with a setting that is not understood."""
    architecture = config.get("architectures", config.get("model_type"))
    if "k" not in config and architecture is not None:
        raise StoreError(f"{path} of a model, {str(architecture)[:60]}", "that of a coder")
    refuse_unknown(path, config, {"k", "d_model", "expansion"} | _ONLY.keys() | _TRAINING)
    for name, value in _ONLY.items():
        if config.get(name, value) != value:
            raise StoreError(
                f"{path} with {name} = {config[name]!r:.60}",
                f"{name} = {value!r}",
                "use an SAE of the plain top-k kind",
            )


def _read(folder: Path, scale: float | None) -> Content:
    path = folder / "config.json"
    _check(path, read_json(path))  # before weights are looked for: those of what is not supported do not matter
    config, tensors = read_pair(path, folder / "model.safetensors")
    _check(path, config)
    only_without_factor(path, scale)
    d_in = setting(path, config, "d_model", int)
    d_sae = d_in * setting(path, config, "expansion", int)
    shapes = {"w_enc.weight": (d_sae, d_in), "w_dec.weight": (d_in, d_sae), "b_dec": (d_in,)}
    theirs = weights(folder / "model.safetensors", tensors, shapes)
    held = {
        "W_enc": theirs["w_enc.weight"].T,
        "W_dec": theirs["w_dec.weight"].T,
        "b_dec": theirs["b_dec"],
        "b_enc": theirs["b_dec"].new_zeros(d_sae),
    }
    settings = {"k": k_of(path, config, d_sae), "rectify": False}
    return Content("topk", settings, held, site=_site(config.get("point")))


def _site(point: Any) -> Site:
    """The site that a pair such as ["mlp-out", 4] names; anything else is training's own business."""
    if isinstance(point, list) and len(point) == 2 and isinstance(point[0], str) and type(point[1]) is int:
        return Site(point[0], point[1] if point[1] >= 0 else None)
    return Site(point if isinstance(point, str) else "")


FORMAT = Format("the config.json and model.safetensors of the authors of bilinear MLPs", _found, _read)
