"""Every family of gated models: tiny random ones that transformers makes, whose own modules say what is right."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bilens.errors import BilensError, StoreError
from bilens.models import gated

transformers = pytest.importorskip("transformers", reason="pip install 'bilens[lm]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # of a library that is not ours

SIZES: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 8,
    "intermediate_size": 6,  # fewer units than inputs: shapes would mislead
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
HEADS = {"head_dim": 4}
EXPERTS = {"num_local_experts": 3, "num_experts_per_tok": 2}
QWEN = {
    "num_experts": 3,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 5,
    "decoder_sparse_step": 2,  # layer 0 has an MLP, layer 1 experts
}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, square": ("llama", {"intermediate_size": 8}),
    "llama, wide": ("llama", {"intermediate_size": 21}),
    "llama, biases": ("llama", {"mlp_bias": True}),
    "llama, bilinear": ("llama", {"mlp_bias": True, "hidden_act": "linear"}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "mistral": ("mistral", HEADS),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", HEADS),
    "smollm3": ("smollm3", {}),
    "olmo": ("olmo", {}),
    "olmo2": ("olmo2", {}),
    "olmo3": ("olmo3", {}),
    "phi3": ("phi3", {}),
    "phi3, square": ("phi3", {"intermediate_size": 8}),
    "gemma": ("gemma", HEADS),
    "gemma2": ("gemma2", {**HEADS, "query_pre_attn_scalar": 4}),
    "gemma3": ("gemma3_text", {**HEADS, "query_pre_attn_scalar": 4}),
    "mixtral": ("mixtral", EXPERTS),
    "mixtral, square": ("mixtral", {**EXPERTS, "intermediate_size": 8}),
    "qwen2_moe": ("qwen2_moe", {**QWEN, "shared_expert_intermediate_size": 7}),
    "qwen3_moe": ("qwen3_moe", {**QWEN, **HEADS}),
    "gpt_oss": ("gpt_oss", {**HEADS, **EXPERTS, "sliding_window": 8}),
    "gpt_oss, square": ("gpt_oss", {**HEADS, **EXPERTS, "intermediate_size": 8, "sliding_window": 8}),
}
PRE_NORM = {"gemma2": "pre_feedforward_layernorm", "gemma3_text": "pre_feedforward_layernorm", "olmo2": "", "olmo3": ""}
POST_NORM = {"gemma2", "gemma3_text", "olmo2", "olmo3"}


def made(kind: str, seed: int = 0, **more: Any) -> nn.Module:
    """A tiny model with every number drawn at random: gains, biases and what is usually 0 or 1 too."""
    name, settings = KINDS[kind]
    config = transformers.AutoConfig.for_model(name, **{**SIZES, **settings, **more})
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    model.set_experts_implementation("eager")  # the fast one is not made for every size
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.7)
    return model


def ran(model: nn.Module) -> list[dict[str, Any]]:
    """What the model's own modules read and give on a few tokens, by layer."""
    kind = model.config.model_type
    seen: list[dict[str, Any]] = []
    hooks = []
    for layer in model.model.layers:
        found: dict[str, Any] = {}
        seen.append(found)

        def read(_: nn.Module, arguments: tuple[Any, ...], found: dict[str, Any] = found) -> None:
            found["x"] = arguments[0].detach().reshape(-1, arguments[0].shape[-1])

        def gave(name: str, found: dict[str, Any] = found) -> Any:
            def hook(_: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
                output = output[0] if isinstance(output, tuple) else output
                found[name] = output.detach().reshape(-1, output.shape[-1])
                found[f"{name} of"] = arguments

            return hook

        norm = PRE_NORM.get(kind, "post_attention_layernorm")
        hooks.append((getattr(layer, norm) if norm else layer.mlp).register_forward_pre_hook(read))
        hooks.append(layer.mlp.register_forward_hook(gave("mlp")))
        if kind in POST_NORM:
            hooks.append(layer.post_feedforward_layernorm.register_forward_hook(gave("after")))
        for part in ("experts", "shared_expert"):
            if hasattr(layer.mlp, part):
                hooks.append(getattr(layer.mlp, part).register_forward_hook(gave(part)))
    with torch.no_grad():
        model(torch.tensor([[5, 17, 3, 29, 11, 8, 20, 9]]))
    for hook in hooks:
        hook.remove()
    return seen


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs.to(ours), rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))


def compare(checkpoint: gated.Checkpoint, model: nn.Module) -> None:
    for k, theirs in enumerate(ran(model)):
        x = theirs["x"]
        if "experts" not in theirs:
            mlp = checkpoint.mlp(k)
            close(mlp(x), theirs["mlp"])
            assert (mlp.post_norm is not None) == ("after" in theirs)
            if mlp.post_norm is not None:
                close(mlp.post_norm(mlp(x)), theirs["after"])
            continue
        _, chosen, weights = theirs["experts of"]
        ours = torch.zeros_like(theirs["experts"])
        for e in range(3):
            ours += checkpoint.expert(k, e)(x) * (weights * (chosen == e)).sum(dim=1, keepdim=True)
        assert set(chosen.flatten().tolist()) == {0, 1, 2}
        close(ours, theirs["experts"])
        if "shared_expert" in theirs:
            close(checkpoint.shared_expert(k)(x), theirs["shared_expert"])


def reassembled(model: nn.Module, checkpoint: gated.Checkpoint) -> None:
    """Put what was read in the place of every MLP of the model, and of every expert."""
    for k, layer in enumerate(model.model.layers):
        norm = PRE_NORM.get(model.config.model_type, "post_attention_layernorm")
        found: dict[str, Tensor] = {}

        def read(_: nn.Module, arguments: tuple[Any, ...], found: dict[str, Tensor] = found) -> None:
            found["x"] = arguments[0]

        (getattr(layer, norm) if norm else layer.mlp).register_forward_pre_hook(read)

        def dense(n: Tensor, mlp: gated.GatedMLP, found: dict[str, Tensor] = found) -> Tensor:
            return mlp(found["x"]).reshape(n.shape)

        def routed(n: Tensor, chosen: Tensor, weights: Tensor, k: int = k, found: dict[str, Tensor] = found) -> Tensor:
            outputs = [checkpoint.expert(k, e)(found["x"]).reshape(n.shape) for e in range(3)]
            shares = [(weights * (chosen == e)).sum(dim=1, keepdim=True) for e in range(3)]
            return sum(share * output for share, output in zip(shares, outputs, strict=True))  # type: ignore[return-value]

        if not hasattr(layer.mlp, "experts"):
            layer.mlp.forward = functools.partial(dense, mlp=checkpoint.mlp(k))
            continue
        layer.mlp.experts.forward = routed
        if hasattr(layer.mlp, "shared_expert"):
            layer.mlp.shared_expert.forward = functools.partial(dense, mlp=checkpoint.shared_expert(k))


@pytest.mark.parametrize("kind", KINDS)
def test_every_mlp_gives_what_the_original_gives(kind: str, tmp_path: Path) -> None:
    model = made(kind)
    model.save_pretrained(tmp_path)
    for checkpoint in (gated.load(tmp_path), gated.load(model)):
        compare(checkpoint, model)
        assert len(checkpoint) == 2
        for one in gated.check(checkpoint, model):
            assert one.agrees, one
    tokens = torch.tensor([[5, 17, 3, 29, 11, 8, 20, 9]])
    with torch.no_grad():
        logits = model(tokens).logits
        reassembled(model, gated.load(tmp_path))
        torch.testing.assert_close(model(tokens).logits, logits, rtol=1e-4, atol=1e-4)


def test_a_bilinear_llama_has_an_exact_tensor(tmp_path: Path) -> None:
    model = made("llama, bilinear")
    model.save_pretrained(tmp_path)
    checkpoint = gated.load(tmp_path)
    assert all(entry.bilinear for entry in checkpoint.entries())
    for k, theirs in enumerate(ran(model)):
        mlp = checkpoint.mlp(k)
        close(mlp.tensor()(mlp.norm.normalize(theirs["x"])), theirs["mlp"])


def test_parts_with_an_index(tmp_path: Path) -> None:
    model = made("llama, tied")
    model.save_pretrained(tmp_path, max_shard_size="1KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    compare(gated.load(tmp_path), model)
    (tmp_path / "model.safetensors.index.json").unlink()
    compare(gated.load(tmp_path), model)  # all parts, by their names


def test_bfloat16(tmp_path: Path) -> None:
    model = made("qwen3").bfloat16()
    model.save_pretrained(tmp_path)
    checkpoint = gated.load(tmp_path)
    assert {entry.dtype for entry in checkpoint.entries()} == {"bfloat16"}
    assert checkpoint.mlp(0).gate.dtype == torch.float32
    compare(checkpoint, model.float())


@pytest.mark.parametrize("act", ["silu", "linear"])
def test_swapped_gate_and_up_are_seen_where_the_gate_is_not_linear(act: str, tmp_path: Path) -> None:
    model = made("llama", hidden_act=act)
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    swap = {"gate_proj": "up_proj", "up_proj": "gate_proj"}
    tensors = {re.sub("gate_proj|up_proj", lambda m: swap[m[0]], name): value for name, value in tensors.items()}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    errors = [one.error for one in gated.check(gated.load(tmp_path), model)]
    assert min(errors) > 0.1 if act == "silu" else max(errors) < 1e-5


def test_the_check_loads_the_original_itself(tmp_path: Path) -> None:
    made("qwen2_moe").save_pretrained(tmp_path)
    compared = gated.check(gated.load(tmp_path), count=5)
    assert [(one.layer, one.part) for one in compared] == [
        (0, "mlp"),
        *((1, f"expert {e}") for e in range(3)),
        (1, "shared expert"),
    ]
    assert all(one.agrees and one.tokens == 5 for one in compared)


def test_a_picture_models_text_part(tmp_path: Path) -> None:
    """Gemma 3 with pictures has the text's sizes in text_config, and other names before its layers."""
    model = made("gemma3")
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    whole = {"model_type": "gemma3", "text_config": config, "vision_config": {"hidden_size": 3}}
    tensors = load_file(tmp_path / "model.safetensors")
    for before in ("language_model.model.", "model.language_model."):
        (tmp_path / "config.json").write_text(json.dumps(whole))
        renamed = {name.replace("model.", before, 1): value for name, value in tensors.items()}
        renamed["vision_tower.encoder.layers.0.mlp.gate_proj.weight"] = torch.zeros(2, 2)
        save_file(renamed, tmp_path / "model.safetensors")
        compare(gated.load(tmp_path), model)


@pytest.mark.parametrize(
    ("kind", "released"),
    [
        ("gemma", {"hidden_act": "gelu", "hidden_activation": None}),
        ("gemma", {"hidden_act": None, "rms_norm_eps": None}),
        ("gemma2", {"hidden_act": "gelu", "hidden_activation": None}),
        ("gemma3", {"hidden_activation": None, "rms_norm_eps": None}),
    ],
)
def test_configs_as_gemma_is_released(kind: str, released: dict[str, Any], tmp_path: Path) -> None:
    """They name the exact GELU and mean tanh's, or leave σ and ε to transformers' own values."""
    model = made(kind)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | released
    config = {name: value for name, value in config.items() if value is not None or name == "hidden_activation"}
    if kind == "gemma3":
        whole = {name: value for name, value in config.items() if value is not None}
        config = {"model_type": "gemma3", "text_config": whole}
    (tmp_path / "config.json").write_text(json.dumps(config))
    compare(gated.load(tmp_path), model)


def test_ungated_models_are_refused(tmp_path: Path) -> None:
    config = transformers.AutoConfig.for_model("gpt2", n_embd=8, n_layer=1, n_head=2, vocab_size=32)
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path)
    for place in (tmp_path, model):
        with pytest.raises(StoreError, match="kind 'gpt2', which is not gated"):
            gated.load(place)


def test_another_original_is_refused(tmp_path: Path) -> None:
    made("llama").save_pretrained(tmp_path)
    with pytest.raises(BilensError, match=r"got an original with the MLPs of .* expected those of"):
        gated.check(gated.load(tmp_path), made("mixtral"))


def gguf_file(path: Path, model: nn.Module, arch: str, names: dict[str, str], **more: Any) -> Path:
    """A GGUF file as converters write it: their names, and Gemma's gains with the 1 added."""
    gguf = pytest.importorskip("gguf", reason="pip install 'bilens[lm]'")
    writer = gguf.GGUFWriter(path, arch)
    config = model.config
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    for name, value in more.items():
        writer.add_uint32(f"{arch}.{name}", value)
    state = model.state_dict()
    for k in range(config.num_hidden_layers):
        for theirs, ours in names.items():
            value = state[f"model.layers.{k}.{ours}"].float()
            if arch.startswith("gemma") and "norm" in theirs:
                value = value + 1
            kind = "weight" if theirs.count(".") == 0 else theirs.split(".")[1]
            writer.add_tensor(f"blk.{k}.{theirs.split('.')[0]}.{kind}", value.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


PLAIN = {
    "ffn_gate": "mlp.gate_proj.weight",
    "ffn_up": "mlp.up_proj.weight",
    "ffn_down": "mlp.down_proj.weight",
    "ffn_norm": "post_attention_layernorm.weight",
}
GEMMA = {
    **PLAIN,
    "ffn_norm": "pre_feedforward_layernorm.weight",
    "post_ffw_norm": "post_feedforward_layernorm.weight",
}


@pytest.mark.parametrize(
    ("kind", "arch", "names"),
    [
        ("llama", "llama", PLAIN),
        ("gemma", "gemma", PLAIN),
        ("gemma2", "gemma2", GEMMA),
        (
            "phi3",
            "phi3",
            {"ffn_up": "mlp.gate_up_proj.weight", **{k: v for k, v in PLAIN.items() if "_d" in k or "_n" in k}},
        ),
    ],
)
def test_gguf_files(kind: str, arch: str, names: dict[str, str], tmp_path: Path) -> None:
    model = made(kind)
    path = gguf_file(tmp_path / "model.gguf", model, arch, names, feed_forward_length=6)
    for place in (path, tmp_path):
        compare(gated.load(place), model)


def test_experts_of_a_gguf_file(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="pip install 'bilens[lm]'")
    model = made("gpt_oss")
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "gpt-oss")
    writer.add_embedding_length(8)
    writer.add_block_count(2)
    writer.add_expert_count(3)
    writer.add_expert_feed_forward_length(6)
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    for k, layer in enumerate(model.model.layers):
        experts = layer.mlp.experts
        fused, bias = experts.gate_up_proj.detach().mT, experts.gate_up_proj_bias.detach()
        parts = {
            "ffn_gate_exps.weight": fused[:, 0::2],
            "ffn_gate_exps.bias": bias[:, 0::2],
            "ffn_up_exps.weight": fused[:, 1::2],
            "ffn_up_exps.bias": bias[:, 1::2],
            "ffn_down_exps.weight": experts.down_proj.detach().mT,
            "ffn_down_exps.bias": experts.down_proj_bias.detach(),
            "post_attention_norm.weight": layer.post_attention_layernorm.weight.detach(),
        }
        for name, value in parts.items():
            writer.add_tensor(f"blk.{k}.{name}", value.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    compare(gated.load(tmp_path), model)


def test_a_quantised_gguf_file_is_dequantised(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="pip install 'bilens[lm]'")
    model = made("llama", hidden_size=32, intermediate_size=64)
    names = [f"blk.{k}.{name}.weight" for k in range(2) for name in PLAIN]
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    state, rounded = model.state_dict(), {}
    for name in names:
        ours = f"model.layers.{name.split('.')[1]}.{PLAIN[name.split('.')[2]]}"
        value = state[ours].numpy()
        if value.ndim == 1:
            writer.add_tensor(name, value)
            continue
        packed = gguf.quantize(value, gguf.GGMLQuantizationType.Q8_0)
        rounded[ours] = torch.from_numpy(gguf.dequantize(packed, gguf.GGMLQuantizationType.Q8_0).copy())
        writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    checkpoint = gated.load(tmp_path)
    assert {entry.dtype for entry in checkpoint.entries()} == {"Q8_0"}
    model.load_state_dict(rounded, strict=False)
    compare(checkpoint, model)
