"""The golden files, which other programs wrote: where they are, copies to alter, and what their programs gave."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"


def copied(name: str, folder: Path) -> Path:
    """A copy of a golden in a folder: of a folder its files, of the authors' files those of a checkpoint."""
    if (GOLDEN / name).is_dir():
        shutil.copytree(GOLDEN / name, folder, dirs_exist_ok=True)
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for file in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / f"{name}.{file}", folder / file)
    return folder


def answers(name: str) -> dict[str, Tensor]:
    """What the program that wrote a golden took and gave."""
    path = GOLDEN / name
    return load_file(path / "io.safetensors" if path.is_dir() else GOLDEN / f"{name}.io.safetensors")


def change(path: Path, **settings: Any) -> None:
    """Set keys of a JSON file; `...` takes one away."""
    config = json.loads(path.read_text()) | settings
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not ...}))


def change_weights(path: Path, **weights: Any) -> None:
    """Set tensors of a safetensors file; `...` takes one away."""
    tensors = load_file(path) | weights
    save_file({name: value.contiguous() for name, value in tensors.items() if value is not ...}, path)
