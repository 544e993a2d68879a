"""Checkpoints of a training run: weights, optimiser state and steps done in one safetensors file, nothing pickled."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bilens._internal.files import read_tensors, write_tensors
from bilens.errors import StoreError

SECONDS_BETWEEN_CHECKPOINTS = 5.0
"""How much work a killed run loses at most, where a checkpoint is written in a twentieth of it."""

_AGAIN = "delete it to start again"


class Pace:
    """When to write a checkpoint: every few seconds; on a slow disk less often, in a twentieth of the time."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._took = 0.0

    def due(self, seconds: float) -> bool:
        """Whether this many seconds have passed since the last one, and twenty times as long as it took to write."""
        return time.monotonic() - self._last >= max(seconds, 20 * self._took)

    def write(self, save: Callable[[], None]) -> None:
        """Write one, and note how long it took."""
        started = time.monotonic()
        save()
        self._last = time.monotonic()
        self._took = self._last - started


def save(
    path: str | Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    done: int,
    settings: Mapping[str, Any],
    extra: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a checkpoint atomically: an interruption leaves the one before.

    Args:
        path: the file.
        module: whose parameters and buffers to keep; optimizer: whose state to keep.
        done: steps finished.
        settings: the arguments of the run, as JSON values; a checkpoint continues only a run with equal settings.
        extra: further tensors, for example a history of losses.
    """
    tensors = {f"module.{name}": value for name, value in module.state_dict().items()}
    for number, entry in optimizer.state_dict()["state"].items():
        for name, value in entry.items():
            tensors[f"optimizer.{number}.{name}"] = torch.as_tensor(value)
    tensors |= {f"extra.{name}": value for name, value in (extra or {}).items()}
    metadata = {"done": str(done), "settings": _text(settings)}
    write_tensors(path, tensors, metadata | {"sha256": _checksum(tensors, metadata)})


def load(
    path: str | Path, module: nn.Module, optimizer: torch.optim.Optimizer, *, settings: Mapping[str, Any]
) -> tuple[int, dict[str, Tensor]]:
    """Continue from a checkpoint: fills the module and the optimiser and returns the steps done and the extra tensors.

    A file that does not exist is a run that has not begun: (0, {}), and nothing is filled.

    Raises:
        StoreError: the file is damaged, altered or a folder, or of a run with other settings or another model.
    """
    if Path(path).is_dir():
        raise StoreError(f"{path}, which is a folder", "the file of a checkpoint, or a new name", "name a file in it")
    if not Path(path).exists():
        return 0, {}
    tensors, metadata = read_tensors(path)
    differ = _differences(metadata.get("settings", ""), _text(settings))
    if differ:
        raise StoreError(
            f"checkpoint {path} of a run with other settings ({differ})",
            "one of this run",
            "repeat the run with its settings, or delete the checkpoint to start again",
        )
    if metadata.pop("sha256", None) != _checksum(tensors, metadata):
        raise StoreError(
            f"checkpoint {path} without its checksum: of an older version, or altered",
            "the file as it was written",
            _AGAIN,
        )
    done = metadata.get("done", "")
    if not done.isdecimal() or len(done) > 18:
        raise StoreError(f"checkpoint {path} with {done!r:.40} steps done", "a number of steps", _AGAIN)
    return int(done), _restore(path, tensors, module, optimizer)


def discard(path: str | Path) -> None:
    """Delete the checkpoint of a finished run, if it is there and can be deleted; one that stays does no harm."""
    with contextlib.suppress(OSError):
        Path(path).unlink(missing_ok=True)


def _restore(
    path: str | Path, tensors: Mapping[str, Tensor], module: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Fill the module and the optimiser with what `save` wrote, and return the extra tensors."""
    weights = _under(tensors, "module.")
    shapes = {name: value.shape for name, value in module.state_dict().items()}
    if {name: value.shape for name, value in weights.items()} != shapes:
        raise StoreError(f"checkpoint {path} with weights of another model", "weights that fit this model", _AGAIN)
    parameters = [value for group in optimizer.param_groups for value in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in _under(tensors, "optimizer.").items():
        number, _, key = name.partition(".")
        place = int(number) if number.isdecimal() and len(number) < 10 else len(parameters)
        if place >= len(parameters) or value.shape not in (parameters[place].shape, torch.Size(())):
            raise StoreError(
                f"checkpoint {path} with optimizer.{name} of shape {tuple(value.shape)}",
                "the state of an optimiser of these weights",
                _AGAIN,
            )
        state.setdefault(place, {})[key] = value
    module.load_state_dict(weights)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return _under(tensors, "extra.")


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of every name, type, shape and number, and of the metadata but for the checksum itself."""
    digest = hashlib.sha256(_text(metadata).encode())
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _text(settings: Mapping[str, Any]) -> str:
    return json.dumps(dict(settings), sort_keys=True)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _differences(theirs: str, ours: str) -> str:
    """The settings that differ between two texts of JSON; 1 and 1.0 are one number."""
    try:
        a, b = json.loads(theirs), json.loads(ours)
    except (ValueError, RecursionError):
        return "none are recorded"
    if not isinstance(a, dict):
        return "none are recorded"
    names = sorted(name for name in a.keys() | b.keys() if name not in a or name not in b or a[name] != b[name])
    return ", ".join(f"{name} = {_shown(a, name)} and not {_shown(b, name)}" for name in names)


def _shown(settings: dict[str, Any], name: str) -> str:
    return repr(settings[name]) if name in settings else "nothing"
