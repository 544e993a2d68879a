"""Gated MLPs as records, and checkpoints in the ways they are stored; the oracle is the formula in plain float64."""

from __future__ import annotations

import functools
import json
import math
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bilens import BilensError, ShapeError, Space, StoreError
from bilens.models import gated
from bilens.models.gated import Gate, GatedMLP, Layout, Norm
from bilens.models.gated import _stored as stored
from bilens.models.gated._stored import listed_on_hub, reachable
from goldens import answers, copied


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def llama(
    folder: Path, *, d: int = 5, h: int = 3, layers: int = 2, dtype: torch.dtype = torch.float32, **more: Any
) -> dict[str, Tensor]:
    """A folder in Llama's layout; its tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"model.embed_tokens.weight": drawn(7, d)}
    for k in range(layers):
        place = f"model.layers.{k}."
        tensors |= {
            f"{place}mlp.gate_proj.weight": drawn(h, d, seed=10 * k + 1),
            f"{place}mlp.up_proj.weight": drawn(h, d, seed=10 * k + 2),
            f"{place}mlp.down_proj.weight": drawn(d, h, seed=10 * k + 3),
            f"{place}post_attention_layernorm.weight": drawn(d, seed=10 * k + 4),
        }
    tensors = {name: value.to(dtype) for name, value in tensors.items()}
    config = {
        "model_type": "llama",
        "hidden_size": d,
        "intermediate_size": h,
        "num_hidden_layers": layers,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "vocab_size": 7,
        **more,
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    return tensors


def formula(tensors: dict[str, Tensor], k: int, x: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
    t = {name.removeprefix(f"model.layers.{k}."): value.double() for name, value in tensors.items()}
    n = x / (x.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt() * t["post_attention_layernorm.weight"]
    unit = act(n @ t["mlp.gate_proj.weight"].T) * (n @ t["mlp.up_proj.weight"].T)
    return unit @ t["mlp.down_proj.weight"].T


def edit(path: Path, **entries: Any) -> None:
    config = json.loads(path.read_text()) | entries
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not ...}))


ACTS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": lambda z: z / (1 + torch.exp(-z)),
    "gelu": lambda z: z * (1 + torch.erf(z / math.sqrt(2))) / 2,
    "gelu_pytorch_tanh": lambda z: z * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))) / 2,
    "relu": lambda z: z.clamp(min=0),
    "relu2": lambda z: z.clamp(min=0) ** 2,
    "quick_gelu": lambda z: z / (1 + torch.exp(-1.702 * z)),
    "linear": lambda z: z,
}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize(("d", "h"), [(5, 3), (4, 4), (3, 8), (1, 1)])
def test_every_activation_against_its_formula(act: str, d: int, h: int, tmp_path: Path) -> None:
    tensors = llama(tmp_path, d=d, h=h, hidden_act=act, dtype=torch.float64)
    x = 3 * drawn(6, d, seed=9)
    for k in range(2):
        torch.testing.assert_close(gated.load(tmp_path).mlp(k)(x), formula(tensors, k, x, ACTS[act]), rtol=0, atol=1e-9)


@pytest.mark.parametrize("biases", [(), ("gate",), ("up",), ("down",), ("gate", "up", "down")])
@pytest.mark.parametrize("kind", ["rms", "layer", "none"])
def test_the_tensor_of_a_linear_gate_is_exact(kind: str, biases: tuple[str, ...]) -> None:
    gain, offset = drawn(4, seed=5), drawn(4, seed=6)
    norm = Norm(kind, gain, offset if kind == "layer" else None, 1e-5)
    given = {f"{name}_bias": drawn(4 if name == "down" else 3, seed=7) for name in biases}
    mlp = GatedMLP(drawn(3, 4, seed=1), drawn(3, 4, seed=2), drawn(4, 3, seed=3), Gate("identity"), norm, **given)
    x = 2 * drawn(5, 4, seed=8) + 1
    assert mlp.bilinear
    tensor = mlp.tensor()
    torch.testing.assert_close(tensor(norm.normalize(x)), mlp(x), rtol=0, atol=1e-9)
    assert (tensor.input.name, tensor.output.name) == ("normalised input of layer 0", "residual")
    named = mlp.tensor(input=Space("n", 4), output=Space("y", 4))
    assert (named.input.name, named.output.name) == ("n", "y")


def test_a_shifted_value_joins_the_tensor() -> None:
    mlp = GatedMLP(drawn(3, 4), drawn(3, 4, seed=2), drawn(4, 3), Gate("identity", shift=1.0), Norm("none"))
    x = drawn(5, 4, seed=8)
    expected = ((x @ mlp.gate.T) * (x @ mlp.up.T + 1)) @ mlp.down.T
    torch.testing.assert_close(mlp(x), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(mlp.tensor()(x), expected, rtol=0, atol=1e-12)


def test_a_gate_that_is_not_linear_has_no_tensor() -> None:
    mlp = GatedMLP(drawn(3, 4), drawn(3, 4), drawn(4, 3), Gate("silu"), Norm("rms"), layer=2, part="expert 1")
    assert not mlp.bilinear
    with pytest.raises(
        BilensError, match=r"layer 2, expert 1, whose gate is silu; .* gaussian, weights_only or least_"
    ):
        mlp.tensor()
    assert repr(mlp) == "GatedMLP(layer 2, expert 1, 4 → 3 → 4, silu, rms norm, float64)"
    clamped = Gate("identity", limit=3.0)
    assert not clamped.bilinear


def test_a_record_is_a_copy() -> None:
    gate = drawn(3, 4).half()
    mlp = GatedMLP(gate, drawn(3, 4).half(), drawn(4, 3).half(), Gate("silu"), Norm("none"))
    before = mlp.gate.clone()
    gate.zero_()
    assert torch.equal(mlp.gate, before)
    assert mlp.gate.dtype == torch.float32


BAD_RECORDS: dict[str, tuple[dict[str, Any], type[BilensError], str]] = {
    "transposed": ({"down": drawn(3, 4)}, ShapeError, r"down of shape \(3, 4\)"),
    "bias": ({"up_bias": drawn(2)}, ShapeError, r"up_bias of shape \(2,\)"),
    "gain": ({"norm": Norm("rms", drawn(3))}, ShapeError, "gain of the norm of 3 numbers"),
    "type": ({"up": drawn(3, 4).float()}, BilensError, "up as torch.float32"),
    "NaN": ({"gate": drawn(3, 4) * math.nan}, BilensError, "gate of layer 0 with NaN or infinity"),
    "no matrix": ({"gate": drawn(3)}, ShapeError, r"gate of shape \(3,\)"),
    "space": ({"input": Space("x", 3)}, ShapeError, r"space 'x' \(3\) for layer 0"),
    "activation": ({"activation": "silu"}, BilensError, "activation of type str"),
}


@pytest.mark.bad_input
@pytest.mark.parametrize("name", BAD_RECORDS)
def test_a_bad_record_is_refused(name: str) -> None:
    change, kind, message = BAD_RECORDS[name]
    fields = {
        "gate": drawn(3, 4),
        "up": drawn(3, 4),
        "down": drawn(4, 3),
        "activation": Gate("silu"),
        "norm": Norm("rms"),
    }
    with pytest.raises(kind, match=message):
        GatedMLP(**{**fields, **change})


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gate("tanh"), "gate = 'tanh'; expected one of identity"),
        (lambda: Gate("relu", slope=2.0), "slope = 2 for gate 'relu'"),
        (lambda: Gate("silu", limit=0.0), "limit"),
        (lambda: Norm("batch"), "norm = 'batch'"),
        (lambda: Norm("rms", drawn(2, 2)), r"gain of shape \(2, 2\)"),
        (lambda: Norm("layer", drawn(2), drawn(3)), r"bias of shape \(3,\); expected \(2,\)"),
        (lambda: Norm("rms", drawn(2), eps=-1), "eps"),
        (lambda: Layout("a.weight", "b.{layer}", "c.{layer}"), r"gate = 'a.weight' in a layout"),
        (lambda: Layout("a.{layer}", "a.{layer}", "c.{layer}"), "rows = 'apart' with gate"),
        (lambda: Layout("a.{layer}", "b.{layer}", "c.{layer}", rows="thirds"), "rows = 'thirds'"),
        (lambda: Layout("a.{layer}", "b.{layer}", "c.{layer}", activation="tanh"), "activation = 'tanh'"),
        (lambda: Layout("a.{layer}", "b.{layer}", "c.{layer}", transposed=1), "transposed = 1"),
    ],
)
def test_bad_parts_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(BilensError, match=message):
        make()


# Checkpoints


def test_a_layer_of_experts_or_not_says_so(tmp_path: Path) -> None:
    llama(tmp_path)
    checkpoint = gated.load(tmp_path)
    assert repr(checkpoint) == f"Checkpoint({tmp_path}, llama, 2 layers)"
    for call in (lambda: checkpoint.expert(0, 1), lambda: checkpoint.shared_expert(0)):
        with pytest.raises(BilensError, match=r"got layer 0 of .*, which has mlp; expected a layer with .* Call \.mlp"):
            call()
    with pytest.raises(BilensError, match="got layer = 2; expected a whole number, 0 ≤ layer ≤ 1"):
        checkpoint.mlp(2)


def test_entries_are_what_the_headers_say(tmp_path: Path) -> None:
    llama(tmp_path, dtype=torch.bfloat16, hidden_act="linear")
    (first, _) = gated.load(tmp_path).entries()
    assert (first.inputs, first.units, first.outputs) == (5, 3, 5)
    assert (first.dtype, first.norm, first.biases, first.part, first.count) == ("bfloat16", "rms", (), "mlp", 1)
    assert first.bilinear


@pytest.mark.parametrize("scheme", ["w", "1+w", "none"])
def test_what_is_added_to_a_gain(scheme: str, tmp_path: Path) -> None:
    tensors = llama(tmp_path)
    layout = Layout(
        gate="model.layers.{layer}.mlp.gate_proj.weight",
        up="model.layers.{layer}.mlp.up_proj.weight",
        down="model.layers.{layer}.mlp.down_proj.weight",
        norm="model.layers.{layer}.post_attention_layernorm.weight",
        gain=scheme,
    )
    gain = gated.load(tmp_path, layout=layout).mlp(1).norm.gain
    stored = tensors["model.layers.1.post_attention_layernorm.weight"]
    if scheme == "none":
        assert gain is None
    else:
        torch.testing.assert_close(gain, stored + 1 if scheme == "1+w" else stored)


def other_names(folder: Path, **more: Any) -> dict[str, Tensor]:
    """The same model under names of nobody's, and a config that says nothing."""
    tensors = llama(folder)
    changes = (
        ("model.layers.", "blocks."),
        ("mlp.gate_proj", "ffn.w1"),
        ("mlp.up_proj", "ffn.w3"),
        ("mlp.down_proj", "ffn.w2"),
        ("post_attention_layernorm", "norm2"),
    )
    renamed = {}
    for name, value in tensors.items():
        renamed[functools.reduce(lambda text, change: text.replace(*change), changes, name)] = value
    save_file(renamed, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(more))
    return tensors


def test_an_unknown_layout_lists_what_was_found_and_takes_a_mapping(tmp_path: Path) -> None:
    tensors = other_names(tmp_path, model_type="novel")
    with pytest.raises(StoreError) as refused:
        gated.load(tmp_path)
    line = str(refused.value)
    assert "of the unknown kind 'novel', with blocks.N.ffn.w1.weight (3, 5), " in line
    assert "expected one of llama, mistral" in line
    (tmp_path / "layout.json").write_text(json.dumps({**gated.EXAMPLE}))
    x = drawn(4, 5, seed=9)
    mlp = gated.load(tmp_path, layout=gated.read_layout(tmp_path / "layout.json")).mlp(1)
    torch.testing.assert_close(mlp(x).double(), formula(tensors, 1, x, ACTS["silu"]), rtol=1e-4, atol=1e-4)


def test_a_model_like_one_of_a_family(tmp_path: Path) -> None:
    tensors = llama(tmp_path, model_type="novel")
    x = drawn(4, 5, seed=9)
    mlp = gated.load(tmp_path, layout="llama").mlp(0)
    torch.testing.assert_close(mlp(x).double(), formula(tensors, 0, x, ACTS["silu"]), rtol=1e-4, atol=1e-4)
    with pytest.raises(BilensError, match="layout = 'lama'"):
        gated.load(tmp_path, layout="lama")


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"gate": "a.{layer}"}, "without down, up"),
        ({**gated.EXAMPLE, "gates": 1}, "with gates"),
        ({**gated.EXAMPLE, "gate": 1}, "which is no layout .*gate of type int|which is no layout .*gate = 1"),
    ],
)
def test_a_bad_layout_file_is_refused(content: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "layout.json").write_text(json.dumps(content))
    with pytest.raises(StoreError, match=message):
        gated.read_layout(tmp_path / "layout.json")


@pytest.mark.parametrize("rows", ["halves", "interleaved"])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("d", "h"), [(5, 3), (4, 2), (4, 4)])
def test_rows_of_one_matrix_are_told_by_the_layout(rows: str, transposed: bool, d: int, h: int, tmp_path: Path) -> None:
    gate, up, down = torch.arange(0.0, h), torch.arange(100.0, 100 + h), drawn(d, h).float()
    both = torch.stack([gate, up], dim=1).flatten() if rows == "interleaved" else torch.cat([gate, up])
    fused = both[:, None].expand(2 * h, d)  # each row is its own number
    flip = (lambda value: value.T.contiguous()) if transposed else (lambda value: value.contiguous())
    save_file({"b.0.wv.weight": flip(fused), "b.0.d.weight": flip(down)}, tmp_path / "model.safetensors")
    layout = Layout(
        "b.{layer}.wv.weight",
        "b.{layer}.wv.weight",
        "b.{layer}.d.weight",
        rows=rows,
        transposed=transposed,
        activation="relu",
    )
    mlp = gated.load(tmp_path, layout=layout).mlp(0)
    assert mlp.gate[:, 0].tolist() == gate.tolist()
    assert mlp.up[:, 0].tolist() == up.tolist()
    torch.testing.assert_close(mlp.down, down)


# Files that are wrong


def parted(folder: Path) -> None:
    """The model in two parts, with an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    files = {name: f"model-0000{1 + ('layers.1' in name)}-of-00002.safetensors" for name in tensors}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in files if files[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


def without_part(folder: Path) -> None:
    parted(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def without_index_and_part(folder: Path) -> None:
    without_part(folder)
    (folder / "model.safetensors.index.json").unlink()


def wrong_index(folder: Path) -> None:
    parted(folder)
    path = folder / "model.safetensors.index.json"
    files = json.loads(path.read_text())["weight_map"]
    files["model.layers.1.mlp.up_proj.weight"] = "model-00001-of-00002.safetensors"
    path.write_text(json.dumps({"weight_map": files}))


def index_outside(folder: Path) -> None:
    parted(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../model.safetensors"}}))


def drop(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        del tensors[name]
        save_file(tensors, folder / "model.safetensors")

    return change


def put(name: str, value: Tensor) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        save_file({**load_file(folder / "model.safetensors"), name: value}, folder / "model.safetensors")

    return change


def config(**entries: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "config.json", **entries)


def as_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def cut(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) - 8])


UP = "model.layers.1.mlp.up_proj.weight"
BAD_FOLDERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (shutil.rmtree, "which is not there"),
    "nothing in it": (lambda f: (f / "model.safetensors").unlink(), "without model.safetensors; expected"),
    "a pickle": (as_pickle, "pytorch_model.bin, which is a pickle; .* bilens import"),
    "cut short": (cut, "which cannot be read"),
    "a part is missing": (without_part, "names model-00002-of-00002.safetensors, a file that is not there"),
    "part and index missing": (without_index_and_part, "without model-00002-of-00002.safetensors"),
    "a wrong index": (wrong_index, "model-00001-of-00002.safetensors lacks model.layers.1.mlp.up_proj.weight"),
    "an index outside": (index_outside, "without a map of tensors to files"),
    "two files": (
        lambda f: (
            [shutil.copy(f / "model.safetensors", f / f"{n}.safetensors") for n in "ab"]
            and (f / "model.safetensors").unlink()
        ),
        "a.safetensors, b.safetensors and no model",
    ),
    "no kind": (config(model_type=...), "whose config does not say its kind, with model.embed_tokens.weight"),
    "another kind": (config(model_type="gpt2"), "kind 'gpt2', which is not gated: it has GPT-2's plain MLP"),
    "an activation": (config(hidden_act="tanh"), "the activation 'tanh', which is not supported; expected one of"),
    "no activation": (config(hidden_act=...), "a config without hidden_act"),
    "no epsilon": (config(rms_norm_eps=...), "without rms_norm_eps"),
    "a bad epsilon": (config(rms_norm_eps="x"), "rms_norm_eps = 'x'"),
    "another width": (
        config(intermediate_size=4),
        r"gate_proj.weight of shape \(3, 5\); expected \(4, 5\), as hidden_size",
    ),
    "another size": (config(hidden_size=3), r"gate_proj.weight of shape \(3, 5\); expected \(3, 3\)"),
    "a width that is none": (
        config(intermediate_size={}),
        "with intermediate_size = {} in its config; expected a number",
    ),
    "more layers": (config(num_hidden_layers=3), "without the MLP of layer 2"),
    "fewer layers": (config(num_hidden_layers=1), "with 2 layers; expected the 1 layers"),
    "no up": (drop(UP), f"without {UP}"),
    "no gain": (
        drop("model.layers.1.post_attention_layernorm.weight"),
        "without model.layers.1.post_attention_layernorm",
    ),
    "whole numbers": (put(UP, torch.zeros(3, 5, dtype=torch.int8)), f"{UP} of type I8; expected one of float16"),
    "quantised": (
        lambda f: (
            put(UP, torch.zeros(3, 5, dtype=torch.int8))(f),
            config(quantization_config={"quant_method": "q"})(f),
        ),
        "of type I8, quantised by 'q',; expected .* Load it dequantised with transformers",
    ),
    "packed": (
        lambda f: (
            save_file({"model.layers.0.mlp.gate_up_proj_blocks": torch.zeros(2)}, f / "model.safetensors"),
            config(quantization_config={"quant_method": "q"})(f),
        ),
        r"quantised by 'q', without .*; it has model.layers.N.mlp.gate_up_proj_blocks \(2,\).* Load it dequantised",
    ),
    "no matrix": (put(UP, torch.zeros(15)), r"up_proj.weight of shape \(15,\); expected a matrix"),
    "NaN": (put(UP, torch.full((3, 5), math.nan)), "up of layer 1 with NaN or infinity"),
    "a bias too many": (
        lambda f: (config(mlp_bias=False)(f), put(f"{UP[:-7]}.bias", torch.zeros(3))(f)),
        "with model.layers.1.mlp.up_proj.bias, but mlp_bias = False",
    ),
    "a bias too few": (config(mlp_bias=True), "without model.layers.1.mlp.gate_proj.bias, but mlp_bias = True"),
    "two models": (put(f"language_model.{UP.replace('up', 'gate')}", torch.zeros(3, 5)), "with two layers 1"),
}


@pytest.mark.parametrize("name", BAD_FOLDERS)
def test_a_bad_folder_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    spoil, message = BAD_FOLDERS[name]
    folder = tmp_path / "model"
    llama(folder)
    spoil(folder)
    with pytest.raises(BilensError, match=message) as refused:
        gated.load(folder).mlp(1)
    assert "\n" not in str(refused.value)


@pytest.mark.bad_input
def test_other_paths_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"PK")
    with pytest.raises(StoreError, match=r"which is a pickle by its name; .* bilens import"):
        gated.load(tmp_path / "model.pt")
    with pytest.raises(BilensError, match="model = 3"):
        gated.load(3)  # type: ignore[arg-type]
    llama(tmp_path / "a")
    one = gated.load(tmp_path / "a" / "model.safetensors")  # with the config beside it
    assert len(one) == 2
    assert len(gated.load(str(tmp_path / "a"))) == 2


def test_experts_that_are_missing(tmp_path: Path) -> None:
    tensors = {}
    for e in (0, 2):
        place = f"model.layers.0.block_sparse_moe.experts.{e}."
        tensors |= {
            f"{place}w1.weight": drawn(3, 5),
            f"{place}w3.weight": drawn(3, 5),
            f"{place}w2.weight": drawn(5, 3),
        }
    tensors["model.layers.0.post_attention_layernorm.weight"] = drawn(5)
    save_file(tensors, tmp_path / "model.safetensors")
    settings = {
        "model_type": "mixtral",
        "hidden_size": 5,
        "intermediate_size": 3,
        "num_hidden_layers": 1,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
    }
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(StoreError, match="without expert 1 of layer 0"):
        gated.load(tmp_path)
    save_file(
        {name.replace("experts.2", "experts.1"): value for name, value in tensors.items()},
        tmp_path / "model.safetensors",
    )
    edit(tmp_path / "config.json", num_local_experts=8)
    with pytest.raises(StoreError, match="with 2 experts in layer 0; expected 8"):
        gated.load(tmp_path)
    edit(tmp_path / "config.json", num_local_experts=2)
    checkpoint = gated.load(tmp_path)
    assert checkpoint.expert(0, 1).title == "layer 0, expert 1"
    with pytest.raises(BilensError, match="got expert = 2"):
        checkpoint.expert(0, 2)
    with pytest.raises(BilensError, match=r"which has experts; .* Call \.expert\(layer, number\)"):
        checkpoint.mlp(0)


def test_a_model_in_memory_without_numbers_is_refused() -> None:
    with pytest.raises(BilensError, match="weights on the meta device"):
        gated.load(torch.nn.Linear(2, 2, device="meta"))


class _Hub:
    """What of huggingface_hub is used, over a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, []

        class EntryNotFoundError(Exception):
            pass

        class LocalEntryNotFoundError(EntryNotFoundError):
            pass

        self.EntryNotFoundError, self.LocalEntryNotFoundError = EntryNotFoundError, LocalEntryNotFoundError
        self.errors = self.constants = self
        self.HF_HUB_OFFLINE, self.ENDPOINT = False, ""

    def hf_hub_download(self, name: str, file: str) -> str:
        self.asked.append(file)
        if name == "no/network":
            raise self.LocalEntryNotFoundError(file)
        if name == "behind/proxy":
            raise RuntimeError("403 Forbidden,\nsays a proxy")
        if name != "some/model":
            raise OSError("401 Client Error.\nRepository Not Found")
        if not (self.folder / file).exists():
            raise self.EntryNotFoundError(file)
        return str(self.folder / file)


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a port on this machine that takes connections and never answers; no proxy."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_name_on_the_hub_downloads_what_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    tensors = llama(tmp_path)
    parted(tmp_path)
    hub = _Hub(tmp_path)
    hub.ENDPOINT = endpoint
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", hub)  # type: ignore[arg-type]
    mlp = gated.load("some/model").mlp(1)
    x = drawn(4, 5)
    torch.testing.assert_close(mlp(x).double(), formula(tensors, 1, x, ACTS["silu"]), rtol=1e-4, atol=1e-4)
    assert "model-00001-of-00002.safetensors" not in hub.asked
    assert len(hub.asked) == len(set(hub.asked))
    with pytest.raises(StoreError, match="'other/model', which the hub does not give"):
        gated.load("other/model")
    with pytest.raises(StoreError, match=r"no answer from the hub for config.json of no/network"):
        gated.load("no/network")
    with pytest.raises(
        StoreError, match=r"'behind/proxy', which the hub does not give \(403 Forbidden, says a proxy\)"
    ):
        gated.load("behind/proxy")


@pytest.fixture
def unreachable(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """huggingface_hub with a hub at a port that refuses, and an empty cache; asking it for a download is an error."""
    library = pytest.importorskip("huggingface_hub", reason="pip install 'bilens[lm]'")
    pytest.importorskip("huggingface_hub.constants")
    free = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setattr(library.constants, "ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
    free.close()
    monkeypatch.setattr(library.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(library.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for name in ("hf_hub_download", "list_repo_files"):
        monkeypatch.setattr(library, name, lambda *_: pytest.fail("asked where there is no network"))
    return tmp_path / "cache"


def test_a_name_on_the_hub_without_a_network_is_refused_before_anything_is_asked(unreachable: Path) -> None:
    with pytest.raises(StoreError, match=r"^got no answer from the hub for config.json of some/model; expected a netw"):
        gated.load("some/model")
    assert listed_on_hub("some/model") == ()


def test_a_model_that_was_downloaded_opens_without_a_network(unreachable: Path) -> None:
    """In parts: of model.safetensors the cache says that the hub has none."""
    commit, model = "c" * 40, unreachable / "models--some--model"
    tensors = llama(model / "snapshots" / commit)
    parted(model / "snapshots" / commit)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(commit)
    (model / ".no_exist" / commit).mkdir(parents=True)
    (model / ".no_exist" / commit / "model.safetensors").touch()
    x = drawn(4, 5)
    found = gated.load("some/model").mlp(1)(x).double()
    torch.testing.assert_close(found, formula(tensors, 1, x, ACTS["silu"]), rtol=1e-4, atol=1e-4)
    (model / "snapshots" / commit / "config.json").unlink()
    with pytest.raises(StoreError, match=r"no answer from the hub for config\.json"):
        gated.load("some/model")


def test_a_hub_is_reached_through_the_proxy_that_is_named(
    endpoint: str, unreachable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not reachable("some/model")
    monkeypatch.setenv("http_proxy", endpoint)
    assert reachable("some/model")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert not reachable("some/model")
    monkeypatch.delenv("no_proxy")
    monkeypatch.delenv("http_proxy")
    monkeypatch.setenv("all_proxy", endpoint.removeprefix("http://"))
    assert reachable("some/model")
    monkeypatch.setattr(sys.modules["huggingface_hub"].constants, "HF_HUB_OFFLINE", True)
    assert not reachable("some/model")


def test_a_name_that_nobody_looks_up_is_not_waited_for(unreachable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, ended = Event(), Event()

    def never(*_: Any, **__: Any) -> list[Any]:
        waiting.wait(20)
        ended.set()
        return []

    monkeypatch.setattr(stored, "PATIENCE", 0.01)
    monkeypatch.setattr(socket, "getaddrinfo", never)
    assert not reachable("some/model")
    assert not ended.is_set()
    waiting.set()
    assert ended.wait(20)


@pytest.mark.parametrize("package", ["huggingface_hub", "gguf"])
def test_packages_that_are_not_installed_have_their_install_line(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # type: ignore[arg-type]
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(BilensError, match=r"pip install 'bilens\[lm\]'"):
        gated.load("some/model" if package == "huggingface_hub" else tmp_path / "model.gguf")


def test_a_check_without_transformers_has_its_install_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)  # type: ignore[arg-type]
    llama(tmp_path)
    with pytest.raises(BilensError, match=r"pip install 'bilens\[lm\]'"):
        gated.check(gated.load(tmp_path))


# The authors' layout


def transformer(config: dict[str, Any], tensors: dict[str, Tensor], mlps: list[GatedMLP], ids: Tensor) -> Tensor:
    """Logits of the authors' language model, with its attention written out and its MLPs as they were read."""

    def rms(x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + 1e-8)

    def rotate(x: Tensor) -> Tensor:
        t, size = x.shape[-2:]
        angles = torch.outer(torch.arange(t), 10000.0 ** (-torch.arange(0, size, 2) / size)).repeat(1, 2)
        half = torch.cat([-x[..., size // 2 :], x[..., : size // 2]], dim=-1)
        return x * angles.cos() + half * angles.sin()

    x = tensors["transformer.wte.weight"][ids]
    (n, t, d), heads = x.shape, config["n_head"]
    for k, mlp in enumerate(mlps):
        qkv = rms(x) @ tensors[f"transformer.h.{k}.attn.qkv.weight"].T
        q, k_, v = (part.view(n, t, heads, -1).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
        y = torch.nn.functional.scaled_dot_product_attention(rotate(q), rotate(k_), v, is_causal=True)
        y = y.transpose(1, 2).reshape(n, t, d) @ tensors[f"transformer.h.{k}.attn.o.weight"].T
        x = x + y / math.sqrt(2 * config["n_layer"])
        x = x + mlp(x)
    return rms(x) @ tensors["lm_head.weight"].T


@pytest.mark.parametrize("name", ["transformer", "transformer_swiglu"])
def test_logits_of_the_authors_language_model(name: str, tmp_path: Path) -> None:
    copied(name, tmp_path)
    checkpoint = gated.load(tmp_path)
    mlps = [checkpoint.mlp(k) for k in range(2)]
    config = json.loads((tmp_path / "config.json").read_text())
    io = answers(name)
    logits = transformer(config, load_file(tmp_path / "model.safetensors"), mlps, io["input_ids"])
    torch.testing.assert_close(logits, io["logits"], rtol=0, atol=1e-5)
    assert [mlp.bilinear for mlp in mlps] == [name == "transformer"] * 2


@pytest.mark.parametrize(("change", "message"), [({"bilinear": False}, "which is not gated"), ({"gate": "x"}, "'x'")])
def test_the_authors_other_models_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    copied("transformer", tmp_path)
    edit(tmp_path / "config.json", **change)
    with pytest.raises(StoreError, match=message):
        gated.load(tmp_path)


def test_a_model_without_normalisation(tmp_path: Path) -> None:
    copied("transformer", tmp_path)
    edit(tmp_path / "config.json", normalization=False)
    mlp = gated.load(tmp_path).mlp(0)
    x = drawn(4, 16)
    torch.testing.assert_close(mlp.norm(x), x)


def test_a_model_of_products_has_a_gain_and_no_normalisation(tmp_path: Path) -> None:
    parts = {"w_m": drawn(6, 4, seed=1), "w_n": drawn(6, 4, seed=2), "w_proj": drawn(4, 6, seed=3)}
    tensors = {f"blocks.0.mlp.{name}.weight": value for name, value in parts.items()}
    scale = drawn(4, seed=4)
    save_file({**tensors, "blocks.0.norm_mlp.scale": scale}, tmp_path / "model.safetensors")
    settings = {"d_model": 4, "d_mlp": 6, "n_layers": 1, "norm_type": "channel"}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    mlp = gated.load(tmp_path).mlp(0)
    x = drawn(5, 4, seed=9)
    z = x * scale
    expected = ((z @ parts["w_m"].T) * (z @ parts["w_n"].T)) @ parts["w_proj"].T
    torch.testing.assert_close(mlp(x), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(mlp.tensor()(x), expected, rtol=0, atol=1e-12)


# What a layer costs


def test_only_the_bytes_of_the_layer_are_read(tmp_path: Path) -> None:
    """Peak memory of a process of its own: with 12 layers in the file, one costs less than three times itself."""
    tensors = llama(tmp_path, d=256, h=2048, layers=1, dtype=torch.bfloat16, num_hidden_layers=12)
    layer = {name: value for name, value in tensors.items() if "layers.0" in name}
    many = {name.replace("layers.0", f"layers.{k}"): value.clone() for k in range(12) for name, value in layer.items()}
    save_file(many, tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").stat().st_size > 35e6
    script = """
import sys
import torch
from bilens.models import gated
def memory(entry):
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(entry))
gated.load(sys.argv[2]).mlp(0)  # whatever the first of its kind costs
open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
before = memory("VmRSS")
mlp = gated.load(sys.argv[1]).mlp(7)
stored = 2 * (mlp.gate.numel() + mlp.up.numel() + mlp.down.numel())
print((memory("VmHWM") - before) / stored)
if "transformers" in sys.modules:
    sys.exit("a layer was read with transformers")
"""
    llama(tmp_path / "small")
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), str(tmp_path / "small")],
        capture_output=True,
        text=True,
        check=False,
    )
    if "/proc/self" in run.stderr:
        pytest.skip("no /proc here")
    assert run.returncode == 0, run.stderr
    assert 2 < float(run.stdout) < 3  # twice itself in float32, and a part of it as it is stored
