"""Folders of coders as other programs write them, for the tests that read and refuse them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bilens import sae
from bilens.errors import StoreError
from goldens import GOLDEN, change

FOLDERS = sorted(
    path.name for kind in ("saelens", "sparsify", "dictionary_learning") for path in GOLDEN.glob(f"{kind}_*")
)
X = np.random.default_rng(1).normal(size=(7, 6)).astype(np.float32)


def change_trainer(folder: Path, **settings: Any) -> None:
    change(folder / "config.json", trainer=json.loads((folder / "config.json").read_text())["trainer"] | settings)


def refused(folder: Path, **how: Any) -> str:
    """The one line that a folder is refused with."""
    with pytest.raises(StoreError) as found:
        sae.load(folder, **how)
    line = str(found.value)
    assert "\n" not in line
    assert line.startswith("got ")
    assert "; expected " in line
    return line


def old(folder: Path, seed: int = 0, **config: Any) -> dict[str, np.ndarray]:
    """A folder as SAELens wrote it before version 6, and its weights."""
    rng = np.random.default_rng(seed)
    weights = {
        "W_enc": rng.normal(size=(6, 20)).astype(np.float32),
        "b_enc": rng.normal(size=20).astype(np.float32),
        "W_dec": rng.normal(size=(20, 6)).astype(np.float32),
        "b_dec": rng.normal(size=6).astype(np.float32),
    }
    written = {
        "d_in": 6,
        "d_sae": 20,
        "dtype": "torch.float32",
        "device": "mps",
        "model_name": "gpt2-small",
        "hook_name": "blocks.8.hook_resid_pre",
        "hook_layer": 8,
        "hook_head_index": None,
        "activation_fn_str": "relu",
        "activation_fn_kwargs": {},
        "apply_b_dec_to_input": True,
        "finetuning_scaling_factor": False,
        "sae_lens_training_version": "3.22.2",
        "prepend_bos": True,
        "dataset_path": "someone/text",
        "context_size": 128,
        "normalize_activations": "none",
        "model_from_pretrained_kwargs": {"center_writing_weights": False},
        **config,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps({key: value for key, value in written.items() if value is not ...}))
    save_file({key: torch.from_numpy(value) for key, value in weights.items()}, folder / "sae_weights.safetensors")
    return weights


def scope(folder: Path, second: bool = False, skip: bool = False, d_out: int = 6) -> dict[str, np.ndarray]:
    """Weights as Gemma Scope publishes them, the first in capitals."""
    rng = np.random.default_rng(0)
    weights = {
        "W_enc": rng.normal(size=(6, 20)),
        "W_dec": rng.normal(size=(20, d_out)),
        "b_enc": rng.normal(size=20),
        "b_dec": rng.normal(size=d_out),
        "threshold": rng.uniform(0.1, 2, size=20),
    }
    weights = {name: value.astype(np.float32) for name, value in weights.items()}
    if skip:
        weights["affine_skip_connection"] = rng.normal(size=(6, d_out)).astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    if second:
        small = {name.replace("W_", "w_"): torch.from_numpy(value) for name, value in weights.items()}
        save_file(small, folder / "params.safetensors")
    else:
        np.savez(folder / "params.npz", **weights)
    return weights
