"""Checkpoints in MXFP4 and FP8 against number formats written out by hand, GGUF on a hub, and gains shifted twice."""

from __future__ import annotations

import importlib
import json
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

from bilens.errors import StoreError
from bilens.models import gated
from bilens.models.gated import ShiftWarning
from bilens.models.gated import _stored as stored
from bilens.models.gated._quantised import dequantised
from bilens.models.gated._stored import folder

EXPERTS, D, H = 2, 64, 32
FUSED = "model.layers.0.mlp.experts.gate_up_proj"
DOWN = "model.layers.0.mlp.experts.down_proj"


def fp4(code: int) -> float:
    """An E2M1 number from its four bits: sign, two of exponent with bias 1, one of mantissa."""
    exponent, mantissa = code >> 1 & 3, code & 1
    size = mantissa / 2 if exponent == 0 else (1 + mantissa / 2) * 2.0 ** (exponent - 1)
    return -size if code & 8 else size


def unpacked(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """(experts, rows, columns), number by number."""
    experts, rows, groups, half = blocks.shape
    found = np.zeros((experts, rows, groups * half * 2))
    for e in range(experts):
        for r in range(rows):
            for g in range(groups):
                for b in range(half):
                    for n, code in enumerate((int(blocks[e, r, g, b]) & 15, int(blocks[e, r, g, b]) >> 4)):
                        found[e, r, g * half * 2 + 2 * b + n] = fp4(code) * 2.0 ** (int(scales[e, r, g]) - 127)
    return found


def gpt_oss(path: Path, seed: int = 0) -> dict[str, Tensor]:
    """A checkpoint of one layer as gpt-oss is published: packed experts, everything else in bfloat16."""
    generator = torch.Generator().manual_seed(seed)

    def whole(*shape: int, low: int = 0, high: int = 256) -> Tensor:
        return torch.randint(low, high, shape, generator=generator, dtype=torch.uint8)

    tensors = {
        f"{FUSED}_blocks": whole(EXPERTS, 2 * H, D // 32, 16),
        f"{FUSED}_scales": whole(EXPERTS, 2 * H, D // 32, low=120, high=126),
        f"{DOWN}_blocks": whole(EXPERTS, D, H // 32, 16),
        f"{DOWN}_scales": whole(EXPERTS, D, H // 32, low=120, high=126),
        f"{FUSED}_bias": torch.randn(EXPERTS, 2 * H, generator=generator).bfloat16(),
        f"{DOWN}_bias": torch.randn(EXPERTS, D, generator=generator).bfloat16(),
        "model.layers.0.post_attention_layernorm.weight": torch.randn(D, generator=generator).bfloat16(),
    }
    sizes = {"hidden_size": D, "intermediate_size": H, "num_hidden_layers": 1, "num_local_experts": EXPERTS}
    more = {"model_type": "gpt_oss", "rms_norm_eps": 1e-5, "hidden_act": "silu", "swiglu_limit": 7.0}
    how = {"quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}}
    (path / "config.json").write_text(json.dumps({**sizes, **more, **how}))
    save_file(tensors, path / "model.safetensors")
    return tensors


def test_gpt_oss_as_published_is_read_exactly(tmp_path: Path) -> None:
    tensors = gpt_oss(tmp_path)
    fused = unpacked(*(tensors[f"{FUSED}_{part}"].numpy() for part in ("blocks", "scales")))
    down = unpacked(*(tensors[f"{DOWN}_{part}"].numpy() for part in ("blocks", "scales")))
    checkpoint = gated.load(tmp_path)
    (entry,) = checkpoint.entries()
    assert (entry.part, entry.count, entry.inputs, entry.units, entry.outputs) == ("experts", EXPERTS, D, H, D)
    assert entry.dtype == "MXFP4"
    for e in range(EXPERTS):
        mlp = checkpoint.expert(0, e)
        assert np.array_equal(mlp.gate.numpy(), fused[e, 0::2])
        assert np.array_equal(mlp.up.numpy(), fused[e, 1::2])
        assert np.array_equal(mlp.down.numpy(), down[e])
        assert mlp.gate.dtype == torch.float32
        assert mlp.up_bias is not None
        assert torch.equal(mlp.up_bias, tensors[f"{FUSED}_bias"][e, 1::2].float())


def test_mxfp4_is_what_transformers_makes_of_it(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="pip install 'bilens[lm]'")
    theirs = importlib.import_module("transformers.integrations.mxfp4")
    tensors = gpt_oss(tmp_path, seed=1)
    source = dequantised(folder(tmp_path))
    for name in (FUSED, DOWN):
        expected = theirs.convert_moe_packed_tensors(
            tensors[f"{name}_blocks"], tensors[f"{name}_scales"], dtype=torch.float32
        )
        assert torch.equal(source.read(name), expected)
        assert torch.equal(source.read(name, 1), expected[1])
        assert source.describe(name).shape == tuple(expected.shape)


def test_every_code_and_scale_of_mxfp4_is_the_number_that_it_stands_for(tmp_path: Path) -> None:
    codes = torch.arange(16, dtype=torch.uint8)
    blocks = (codes | (15 - codes) << 4).expand(1, 4, 1, 16).contiguous()
    scales = torch.tensor([0, 127, 252, 255], dtype=torch.uint8).view(1, 4, 1)
    save_file({"x_blocks": blocks, "x_scales": scales}, tmp_path / "model.safetensors")
    found = dequantised(folder(tmp_path)).read("x")[0].T
    expected = [fp4(code) for pair in zip(range(16), reversed(range(16)), strict=True) for code in pair]
    for row, scale in enumerate((2.0**-127, 1.0, 2.0**125)):
        assert found[row].tolist() == [number * scale for number in expected]
    assert bool(found[3].isnan().all())


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        (
            {f"{FUSED}_scales": torch.zeros(EXPERTS, 2 * H, 3, dtype=torch.uint8)},
            r"gate_up_proj_scales \(2, 64, 3\) U8",
        ),
        ({f"{FUSED}_blocks": torch.zeros(EXPERTS, 2 * H, 2, 16)}, r"gate_up_proj_blocks \(2, 64, 2, 16\) float32"),
        ({f"{FUSED}_blocks": torch.zeros(EXPERTS, 2 * H, 2, 8, dtype=torch.uint8)}, r"gate_up_proj_blocks"),
        ({f"{FUSED}_blocks": torch.zeros(EXPERTS, 2 * H, 1, 16, dtype=torch.uint8)}, r"gate_up_proj_blocks"),
        ({f"{DOWN}_scales": torch.full((EXPERTS, D, 1), 255, dtype=torch.uint8)}, "NaN or infinity"),
    ],
)
def test_packed_weights_that_do_not_fit_are_refused(wrong: dict[str, Tensor], line: str, tmp_path: Path) -> None:
    tensors = gpt_oss(tmp_path)
    save_file({**tensors, **wrong}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=line) as found:
        gated.load(tmp_path).expert(0, 0)
    assert "\n" not in str(found.value)


def test_packed_weights_without_scales_are_refused_as_before(tmp_path: Path) -> None:
    tensors = gpt_oss(tmp_path)
    save_file({name: value for name, value in tensors.items() if "scales" not in name}, tmp_path / "model.safetensors")
    with pytest.raises(StoreError, match="quantised by 'mxfp4'"):
        gated.load(tmp_path)


# FP8


def fp8_llama(path: Path, scale: str, shape: Any, block: Any = ..., d: int = 5, h: int = 7) -> dict[str, np.ndarray]:
    """A Llama of one layer with FP8 weights and scales of a shape; gives the numbers that they stand for."""
    generator = torch.Generator().manual_seed(0)
    tensors = {"model.layers.0.post_attention_layernorm.weight": torch.ones(d)}
    numbers = {}
    for what, (rows, columns) in {"gate": (h, d), "up": (h, d), "down": (d, h)}.items():
        name = f"model.layers.0.mlp.{what}_proj"
        stored = (4 * torch.randn(rows, columns, generator=generator)).to(torch.float8_e4m3fn)
        size = shape(rows, columns)
        scales = 0.01 + torch.rand(size, generator=generator)
        tensors |= {f"{name}.weight": stored, f"{name}.{scale}": scales}
        value = stored.float().numpy().astype(np.float64)
        for r in range(rows):
            for c in range(columns):
                if scale.endswith("_inv"):
                    value[r, c] *= float(scales[r // block[0], c // block[1]])
                else:
                    value[r, c] *= float(scales.flatten()[r if scales.numel() > 1 else 0])
        numbers[what] = value
    sizes = {"hidden_size": d, "intermediate_size": h, "num_hidden_layers": 1}
    how: dict[str, Any] = {"quant_method": "fp8"}
    if block is not ...:
        how["weight_block_size"] = block
    more = {"model_type": "llama", "rms_norm_eps": 1e-5, "hidden_act": "silu", "quantization_config": how}
    (path / "config.json").write_text(json.dumps({**sizes, **more}))
    save_file(tensors, path / "model.safetensors")
    return numbers


@pytest.mark.parametrize(
    ("scale", "shape", "block"),
    [
        ("weight_scale_inv", lambda rows, columns: (-(-rows // 2), -(-columns // 3)), [2, 3]),
        ("weight_scale_inv", lambda rows, columns: (1, 1), [128, 128]),
        ("weight_scale", lambda rows, columns: (rows, 1), ...),
        ("weight_scale", lambda rows, columns: (rows,), ...),
        ("weight_scale", lambda rows, columns: (1,), ...),
        ("weight_scale", lambda rows, columns: (), ...),
    ],
)
def test_fp8_is_read_by_its_scales(scale: str, shape: Any, block: Any, tmp_path: Path) -> None:
    numbers = fp8_llama(tmp_path, scale, shape, block)
    checkpoint = gated.load(tmp_path)
    assert checkpoint.entries()[0].dtype == "FP8"
    mlp = checkpoint.mlp(0)
    for what, value in numbers.items():
        assert_close(getattr(mlp, what).double(), torch.from_numpy(value), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("scale", "shape", "block", "line"),
    [
        ("weight_scale_inv", lambda rows, columns: (9, 9), ..., "with weight_block_size = None"),
        (
            "weight_scale_inv",
            lambda rows, columns: (9, 9),
            [2, 3],
            r"weight_scale_inv of shape \(9, 9\) beside a weight",
        ),
        ("weight_scale", lambda rows, columns: (rows, 2), ..., r"weight_scale of shape \(7, 2\) beside a weight"),
    ],
)
def test_scales_of_fp8_that_do_not_fit_are_refused(
    scale: str, shape: Any, block: Any, line: str, tmp_path: Path
) -> None:
    fp8_llama(tmp_path, scale, shape, [2, 3] if block is ... else block)
    if block is ...:
        config = json.loads((tmp_path / "config.json").read_text())
        del config["quantization_config"]["weight_block_size"]
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(StoreError, match=line):
        gated.load(tmp_path).mlp(0)


def test_fp8_without_scales_is_refused_as_before(tmp_path: Path) -> None:
    fp8_llama(tmp_path, "weight_scale", lambda rows, columns: (1,))
    tensors = {name: value for name, value in load_file(tmp_path / "model.safetensors").items() if "scale" not in name}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(StoreError, match=r"of type F8_E4M3, quantised by 'fp8',; expected one of float16"):
        gated.load(tmp_path).entries()


# GGUF


def gemma(path: Path, gains: np.ndarray) -> Path:
    """A GGUF file of Gemma with two layers and these gains, half in each."""
    gguf = pytest.importorskip("gguf", reason="pip install 'bilens[lm]'")
    d = len(gains) // 2
    writer = gguf.GGUFWriter(path, "gemma")
    writer.add_embedding_length(d)
    writer.add_block_count(2)
    writer.add_feed_forward_length(3)
    writer.add_layer_norm_rms_eps(1e-6)
    rng = np.random.default_rng(0)
    for k in range(2):
        for name, shape in {"ffn_gate": (3, d), "ffn_up": (3, d), "ffn_down": (d, 3)}.items():
            writer.add_tensor(f"blk.{k}.{name}.weight", rng.normal(size=shape).astype(np.float32))
        writer.add_tensor(f"blk.{k}.ffn_norm.weight", gains[k * d : (k + 1) * d].astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


STORED = np.random.default_rng(0).normal(0.3, 0.6, size=400)
"""w, with which Gemma multiplies by 1 + w."""


@pytest.mark.parametrize(
    ("gains", "seems"),
    [
        (STORED + 1, ""),
        (STORED + 2, "to have the 1 of 1 + w twice"),
        (STORED, "not to have the 1 of 1 + w"),
        (np.ones(20), ""),  # as a model begins
        (np.full(20, 2.0), "to have the 1 of 1 + w twice"),
        (np.zeros(20), "not to have the 1 of 1 + w"),
        (5 * np.abs(STORED) + 0.3, ""),  # large, and some below 1
    ],
)
def test_gains_of_gemma_that_were_shifted_twice_or_never_warn(gains: np.ndarray, seems: str, tmp_path: Path) -> None:
    gains = np.clip(gains, 1, None) if seems.endswith("twice") else gains
    path = gemma(tmp_path / "model.gguf", gains)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gated.load(path)
    said = [str(one.message) for one in caught if one.category is ShiftWarning]
    assert len(said) == len(caught) == bool(seems)
    if seems:
        assert f"the gains of its norms seem {seems} (median" in said[0]
        assert said[0].startswith(str(path))


class Hub:
    """What of huggingface_hub is used, over a folder."""

    def __init__(self, held: Path) -> None:
        self.held = held
        self.errors = self.constants = self
        self.HF_HUB_OFFLINE, self.ENDPOINT = False, "http://127.0.0.1"

        class EntryNotFoundError(Exception):
            pass

        class LocalEntryNotFoundError(EntryNotFoundError):
            pass

        self.EntryNotFoundError, self.LocalEntryNotFoundError = EntryNotFoundError, LocalEntryNotFoundError

    def hf_hub_download(self, name: str, file: str) -> str:
        if not (self.held / file).exists():
            raise self.EntryNotFoundError(file)
        return str(self.held / file)

    def list_repo_files(self, name: str) -> list[str]:
        if name == "shy/model":
            raise RuntimeError("no list\nof files")
        return [path.relative_to(self.held).as_posix() for path in self.held.rglob("*") if path.is_file()]


def test_a_gguf_file_on_the_hub_is_found_or_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(tmp_path)
    monkeypatch.setattr(stored, "reachable", lambda _: True)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", hub)  # type: ignore[arg-type]
    with pytest.raises(StoreError, match=r"some/model without model\.safetensors"):
        gated.load("some/model")
    first = gemma(tmp_path / "model-Q8.gguf", np.ones(8))
    with pytest.raises(StoreError, match=r"shy/model without model\.safetensors"):
        gated.load("shy/model")
    whole = gated.load("some/model")
    assert torch.equal(whole.mlp(1).gate, gated.load(first).mlp(1).gate)
    (tmp_path / "small").mkdir()
    second = gemma(tmp_path / "small" / "model-Q4.gguf", np.full(8, 1.5))
    with pytest.raises(StoreError, match=re.escape("some/model with 2 GGUF files, model-Q8.gguf, small/model-Q4.gguf")):
        gated.load("some/model")
    named = gated.load("some/model/small/model-Q4.gguf")
    assert named.source.title == str(second)
    with pytest.raises(StoreError, match=r"some/model without other\.gguf on the hub"):
        gated.load("some/model/other.gguf")
