"""A converted model as an ordinary checkpoint of transformers, in its own family's config where that can say it."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bilens._internal.files import list_ours, require_listed
from bilens.errors import BilensError, StoreError
from bilens.models.conversion.layer import ConvertedMLP
from bilens.models.conversion.stack import Stack
from bilens.models.gated.families import bias_name
from bilens.models.gated.original import register

_NAMES = ("gate", "up", "down")


def assembled(stack: Stack, converted: Mapping[int, ConvertedMLP]) -> nn.Module:
    """The model with some layers converted, as a model of transformers.

    With all layers converted, and a config that has `hidden_act` and `mlp_bias`, it is one of its own family: Llama's
    with "linear" and true, and as many units more as there are outputs, which carry the linear map. Otherwise it is the
    `Bilinear…` class that `register` makes.

    Args:
        stack: the original, which stays as it is; converted: at least one layer, by its number.

    Raises:
        BilensError: no layer, layers of different sizes, or a family that transformers does not have.
    """
    if not converted:
        raise BilensError("a model without converted layers", "at least one")
    sizes = {tuple(len(part) for part in (mlp.left, mlp.bypass)) for mlp in converted.values()}
    if len(sizes) > 1:
        raise BilensError("converted layers of different sizes", "layers of one size")
    (units,) = {sum(size) for size in sizes}
    original: Any = stack.model
    config = copy.deepcopy(original.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    whole = len(converted) == len(stack) and hasattr(config, "mlp_bias") and hasattr(config, "hidden_act")
    if whole:
        kind = type(original)
        config.hidden_act, config.mlp_bias, config.intermediate_size = "linear", True, units
    else:
        config_kind, kind = register(config.model_type)
        entries = {name: value for name, value in config.to_dict().items() if name not in ("model_type", "dtype")}
        config = config_kind(**entries, bilinear_layers=sorted(converted), bilinear_units=units)
    with torch.random.fork_rng(devices=[]):  # new weights are drawn before they are filled in
        model: nn.Module = kind(config).to(torch.float32)
    model.load_state_dict(_state(stack, converted, whole))
    if getattr(original, "generation_config", None) is not None:
        model.generation_config = copy.deepcopy(original.generation_config)
    return model.eval()


def _state(stack: Stack, converted: Mapping[int, ConvertedMLP], whole: bool) -> dict[str, Tensor]:
    """The weights of the original by their names, those of converted MLPs replaced."""
    state = dict(stack.model.state_dict())
    for layer, mlp in converted.items():
        place = stack.places[layer]
        names = [place.name(getattr(place.layout, name)) for name in _NAMES]
        for name in names:
            state.pop(name, None)
            state.pop(bias_name(name), None)
        if not whole:
            owner, _, _ = names[0].rpartition("mlp.")
            names = [f"{owner}mlp.{name}.weight" for name in ("left", "right", "down")]
        weights = mlp.gated()
        for name, weight, bias in zip(names, weights[0::2], weights[1::2], strict=True):
            state[name], state[bias_name(name)] = weight, bias
    return state


def save(model: nn.Module, tokenizer: Any, path: str | Path) -> None:
    """Write a model of transformers with its tokenizer as a folder, whole or not at all.

    Args:
        model: as `assembled` gives it; tokenizer: of transformers, None for none; path: a folder; one that this
            function wrote before is replaced.

    Raises:
        StoreError: it cannot be written, or holds something that bilens did not write.
    """
    path = Path(path)
    if path.is_dir():
        require_listed(path, [entry.name for entry in path.iterdir()])
    part, old = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.old")
    try:
        for left in (part, old):
            if left.exists():
                shutil.rmtree(left)
        part.mkdir(parents=True)
        theirs: Any = model
        theirs.save_pretrained(part)
        if tokenizer is not None:
            tokenizer.save_pretrained(part)
        list_ours(part, [entry.name for entry in part.iterdir()])
        if path.exists():
            path.rename(old)
        part.rename(path)
        if old.exists():
            shutil.rmtree(old)
    except OSError as error:
        raise StoreError(f"'{error.strerror}' on writing {path}", "a folder that can be written") from error


__all__ = ["assembled", "register", "save"]
