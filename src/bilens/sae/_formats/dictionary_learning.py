"""dictionary_learning: `config.json` and `ae.pt`, a state dict in a pickle, which only the restricted reader opens.

The names of the weights tell the class, but for the two kinds of top-k, of which one keeps the k largest codes of each
vector and the other, trained over batches, those above a threshold: `dict_class` in config.json says which. Decoders
are taken as they are: theirs are not all of norm 1, and rescaling them would change the codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bilens._internal.files import read_json
from bilens.errors import StoreError
from bilens.sae._formats.content import Content, Format, matrix, only_without_factor, place, setting, weights
from bilens.sae.site import Site
from bilens.state_dicts import state_dict

_LINEAR = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "decoder.weight": "W_dec"}
_OWN = {name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
_GATES = {"decoder_bias": "b_dec", "gate_bias": "b_gate", "mag_bias": "b_mag", "r_mag": "r_mag"}


@dataclass(frozen=True)
class _Kind:
    """A class of theirs.

    Args:
        rule: for its codes; names: of its weights, and what they are here. Matrices of an `nn.Linear` lie transposed.
        subtract: whether b_dec is subtracted from a vector first; beside: what the file holds beside weights.
        alias: what a trainer may record in its place; the one of April 2024 names the class before it.
    """

    rule: str
    names: Mapping[str, str]
    subtract: bool = True
    beside: frozenset[str] = frozenset()
    alias: str = ""

    def fits(self, names: Set[str]) -> bool:
        """Whether a file with these names holds it; older files of top-k lack the threshold, which is not used."""
        whole = self.names.keys() | self.beside
        return names == whole or (self.rule == "topk" and names == whole - {"threshold"})


_TOP_K = _LINEAR | {"b_dec": "b_dec"}
_COUNTED = frozenset({"k", "threshold"})
_KINDS = {
    "AutoEncoder": _Kind("standard", _LINEAR | {"bias": "b_dec"}),
    "AutoEncoderNew": _Kind("standard", _LINEAR | {"decoder.bias": "b_dec"}, subtract=False, alias="AutoEncoder"),
    "GatedAutoEncoder": _Kind("gated", {n: _LINEAR[n] for n in ("encoder.weight", "decoder.weight")} | _GATES),
    "JumpReluAutoEncoder": _Kind("jumprelu", _OWN | {"threshold": "threshold"}, subtract=False),
    "AutoEncoderTopK": _Kind("topk", _TOP_K, beside=_COUNTED),
    "BatchTopKSAE": _Kind("jumprelu", _TOP_K, beside=_COUNTED),
    "MatryoshkaBatchTopKSAE": _Kind("jumprelu", _OWN, beside=_COUNTED | {"group_sizes"}),
}


def _found(folder: Path) -> bool:
    if (folder / "ae.pt").is_file():
        return True
    if not (folder / "config.json").is_file():
        return False
    trainer = read_json(folder / "config.json").get("trainer")
    return isinstance(trainer, dict) and "dict_class" in trainer


def _read(folder: Path, scale: float | None) -> Content:
    path, file = folder / "config.json", folder / "ae.pt"
    trainer: dict[str, Any] = setting(path, read_json(path), "trainer", dict, {}) if path.is_file() else {}
    stated: str = setting(path, trainer, "dict_class", str, "")
    if stated and stated not in _KINDS:
        raise StoreError(
            f"{path} with dict_class = {stated!r:.60}, which is not supported", f"one of {', '.join(_KINDS)}"
        )
    only_without_factor(path, scale)
    tensors, _ = state_dict(file)
    kind = _kind(file, tensors, stated)
    beside = {name: tensors.pop(name) for name in kind.beside if name in tensors}
    names = dict(kind.names)
    linear = "encoder.weight" in names
    d_in, d_sae = matrix(file, tensors, "encoder.weight" if linear else "W_enc")[:: -1 if linear else 1]
    if kind.rule == "jumprelu" and beside:
        names["threshold"], tensors["threshold"] = "threshold", _spread(file, beside["threshold"], d_sae)
    sizes: dict[str, tuple[int, ...]] = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    shapes = {name: sizes.get(ours, (d_sae,))[:: -1 if linear else 1] for name, ours in names.items()}
    theirs = weights(file, tensors, shapes)
    held = {names[name]: value.T if linear and value.ndim == 2 else value for name, value in theirs.items()}
    settings: dict[str, Any] = {"apply_b_dec_to_input": kind.subtract}
    if "k" in beside:
        k = _k(path, file, beside["k"], trainer, d_sae)
        settings |= {"k": k} if kind.rule == "topk" else {}
    hook = setting(path, trainer, "submodule_name", str, "")
    site = Site(hook, place(path, trainer, "layer"), setting(path, trainer, "lm_name", str, ""))
    return Content(kind.rule, settings, held, site=site)


def _kind(file: Path, tensors: Mapping[str, Tensor], stated: str) -> _Kind:
    """The class by the names of its weights, and by what the config states where these do not tell."""
    fitting = {name: kind for name, kind in _KINDS.items() if kind.fits(tensors.keys())}
    chosen = [kind for name, kind in fitting.items() if stated in (name, "") or stated == kind.alias]
    if len(chosen) == 1:
        return chosen[0]
    if chosen:
        raise StoreError(
            f"{file} without a config.json that names its dict_class", f"dict_class = {' or '.join(fitting)}"
        )
    raise StoreError(
        f"{file} with {', '.join(sorted(tensors)[:8]) or 'no weights'}",
        f"the weights of {stated}, {', '.join(_KINDS[stated].names)}" if stated else f"those of {', '.join(_KINDS)}",
    )


def _spread(file: Path, value: Tensor, d_sae: int) -> Tensor:
    """The one threshold of a coder that was trained over batches, for each of its features."""
    if value.numel() != 1 or not value.is_floating_point():
        raise StoreError(
            f"{file} with threshold of shape {tuple(value.shape)} and {value.dtype}",
            "one number, which takes the place of the k largest codes of a batch",
        )
    return value.reshape(1).expand(d_sae)


def _k(path: Path, file: Path, value: Tensor, trainer: Mapping[str, Any], d_sae: int) -> int:
    """The number k of the weights, which the config must not contradict."""
    if value.numel() != 1 or value.dtype not in (torch.int32, torch.int64):
        raise StoreError(f"{file} with k of shape {tuple(value.shape)} and {value.dtype}", "one whole number")
    k = int(value)
    if not 1 <= k <= d_sae:
        raise StoreError(f"{file} with k = {k}", f"1 to {d_sae}, the number of features")
    if setting(path, trainer, "k", int, k) != k:
        raise StoreError(f"{path} with k = {trainer['k']} beside {file.name} with k = {k}", "the files of one coder")
    return k


FORMAT = Format("dictionary_learning's ae.pt and config.json", _found, _read)
