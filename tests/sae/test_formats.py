"""Other people's folders: every golden's codes and reconstructions, their sites, and what the command shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_folders import FOLDERS, X, change_trainer, old, refused, scope
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from bilens import cli, sae
from bilens.errors import BilensError
from bilens.sae import Site
from bilens.sae import _formats as formats
from goldens import GOLDEN, answers, change, change_weights, copied

PLAIN = {
    "saelens_standard": sae.StandardSAE,
    "saelens_standard_no_b_dec": sae.StandardSAE,
    "saelens_topk": sae.TopKSAE,
    "saelens_topk_rescaled": sae.TopKSAE,
    "saelens_jumprelu": sae.JumpReLUSAE,
    "saelens_gated": sae.GatedSAE,
    "sparsify_expansion": sae.TopKSAE,
    "sparsify_square": sae.TopKSAE,
    "sparsify_topk": sae.TopKSAE,
    "sparsify_topk_bf16": sae.TopKSAE,
    "dictionary_learning_april_standard": sae.StandardSAE,
    "dictionary_learning_batchtopk": sae.JumpReLUSAE,
    "dictionary_learning_gated": sae.GatedSAE,
    "dictionary_learning_jumprelu": sae.JumpReLUSAE,
    "dictionary_learning_matryoshka": sae.JumpReLUSAE,
    "dictionary_learning_standard": sae.StandardSAE,
    "dictionary_learning_topk": sae.TopKSAE,
}
"""The goldens that are one of the classes that the library itself makes; every other one is a `Coder`."""


# What is read


@pytest.mark.parametrize("name", FOLDERS)
def test_every_golden_gives_the_codes_and_reconstructions_of_its_own_program(name: str) -> None:
    coder, golden = sae.load(GOLDEN / name), answers(name)
    assert type(coder) is PLAIN.get(name, sae.Coder)
    x, acts, x_hat = golden["x"], golden["acts"], golden["x_hat"]
    with torch.no_grad():
        assert_close(coder.encode(x).float(), acts, rtol=1e-5, atol=1e-5)
        assert_close(coder(x).float(), x_hat, rtol=1e-5, atol=1e-5)
        assert_close(coder.sparse(x).x_hat.float(), x_hat, rtol=1e-5, atol=1e-5)
        assert_close(coder(x[None, :, None])[0, :, 0].float(), x_hat, rtol=1e-5, atol=1e-5)
        if "skip" not in name and "norm" not in name:
            assert_close(coder.decode(acts).float(), x_hat, rtol=1e-5, atol=1e-5)
        if isinstance(coder, sae.Coder):
            assert_close(coder.restore(acts, x), x_hat, rtol=1e-5, atol=1e-5)
    assert (coder.d_in, coder.d_out) == (x.shape[1], x_hat.shape[1])
    assert coder.d_sae == acts.shape[1]
    assert coder.transcodes == ("transcoder" in name)
    stored = torch.bfloat16 if name.endswith("bf16") else torch.float32
    assert all(value.dtype == stored for value in coder.parameters())


def test_there_is_a_golden_of_every_format_and_rule() -> None:
    assert len(FOLDERS) == 28
    assert {sae.load(GOLDEN / name).architecture for name in FOLDERS} == set(formats.content.VECTORS)


def test_a_coder_in_half_precision_can_be_computed_in_float32() -> None:
    folder = GOLDEN / "sparsify_topk_bf16"
    held = {name: value.double().numpy() for name, value in load_file(folder / "sae.safetensors").items()}
    x = load_file(folder / "io.safetensors")["x"]
    pre = (x.double().numpy() - held["b_dec"]) @ held["encoder.weight"].T + held["encoder.bias"]
    acts = np.where(pre >= np.sort(pre, axis=1)[:, -4:-3], np.maximum(pre, 0), 0)
    coder = sae.load(folder)
    assert coder.encode(x).dtype == torch.bfloat16
    with torch.no_grad():
        assert_close(coder.float().encode(x), torch.from_numpy(acts).float(), rtol=1e-5, atol=1e-5)


def test_sparsify_of_before_is_read_with_signs_and_without_transcode(tmp_path: Path) -> None:
    folder = copied("sparsify_skip_transcoder", tmp_path)
    change(folder / "cfg.json", signed=True, transcode=..., activation=..., multi_topk=...)
    held = {name: value.numpy() for name, value in load_file(folder / "sae.safetensors").items()}
    x = load_file(folder / "io.safetensors")["x"].numpy()
    pre = (x - held["b_dec"]) @ held["encoder.weight"].T + held["encoder.bias"]
    kept = np.abs(pre) >= np.sort(np.abs(pre), axis=1)[:, -4:-3]
    acts = np.where(kept, pre, 0)
    x_hat = acts @ held["W_dec"] + held["b_dec"] + x @ held["W_skip"].T
    assert (acts < 0).any()
    coder = sae.load(folder)
    assert coder.architecture == "abstopk"
    assert coder.transcodes
    with torch.no_grad():
        assert_close(coder.encode(torch.from_numpy(x)), torch.from_numpy(acts), rtol=1e-5, atol=1e-5)
        assert_close(coder(torch.from_numpy(x)), torch.from_numpy(x_hat), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "subtract"),
    [
        ({}, True),
        ({"architecture": "standard", "sae_lens_version": "5.11.0", "seqpos_slice": [None]}, True),
        ({"apply_b_dec_to_input": False}, False),
        ({"apply_b_dec_to_input": ..., "normalize_activations": False, "activation_fn_str": ...}, True),
        # Version 1 named hook points otherwise, and wrote the settings of its whole run.
        (
            {"hook_name": ..., "hook_point": "blocks.8.hook_resid_pre", "hook_layer": ..., "hook_point_layer": 8}
            | {"activation_fn_str": ..., "normalize_activations": ..., "l1_coefficient": 8e-5}
            | {"use_ghost_grads": True, "b_dec_init_method": "geometric_median", "metadata": ...},
            True,
        ),
    ],
)
def test_older_saelens_folders_are_read(config: dict[str, Any], subtract: bool, tmp_path: Path) -> None:
    held = old(tmp_path, **config)
    acts = np.maximum((X - held["b_dec"] * subtract) @ held["W_enc"] + held["b_enc"], 0)
    coder = sae.load(tmp_path)
    assert isinstance(coder, sae.StandardSAE)
    assert coder.site == Site("blocks.8.hook_resid_pre", 8, "gpt2-small")
    with torch.no_grad():
        assert_close(coder.encode(torch.from_numpy(X)), torch.from_numpy(acts), rtol=1e-5, atol=1e-5)
        assert_close(coder(torch.from_numpy(X)), torch.from_numpy(acts @ held["W_dec"] + held["b_dec"]))


@pytest.mark.parametrize(
    "config",
    [
        {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}},
        {"architecture": "topk", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}},
        {"activation_fn_str": ..., "activation_fn": "topk", "activation_fn_kwargs": {"k": 3}},
    ],
)
def test_older_top_k_folders_are_read(config: dict[str, Any], tmp_path: Path) -> None:
    held = old(tmp_path, **config)
    pre = (X - held["b_dec"]) @ held["W_enc"] + held["b_enc"]
    acts = np.where(pre >= np.sort(pre, axis=1)[:, -3:-2], np.maximum(pre, 0), 0)
    coder = sae.load(tmp_path)
    assert isinstance(coder, sae.TopKSAE)
    with torch.no_grad():
        assert_close(coder.encode(torch.from_numpy(X)), torch.from_numpy(acts), rtol=1e-5, atol=1e-5)


def test_older_sizes_are_taken_from_the_expansion(tmp_path: Path) -> None:
    sae.StandardSAE(6, 18).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "sae_weights.safetensors")
    save_file(tensors, tmp_path / "sae_weights.safetensors")
    (tmp_path / "cfg.json").write_text(json.dumps({"d_in": 6, "d_sae": None, "expansion_factor": 3}))
    assert sae.load(tmp_path).d_sae == 18


def test_a_finetuning_scale_is_folded_into_the_decoder(tmp_path: Path) -> None:
    held = old(tmp_path, finetuning_scaling_factor=True)
    factor = torch.linspace(0.5, 2, 20)
    change_weights(tmp_path / "sae_weights.safetensors", scaling_factor=factor)
    acts = np.maximum((X - held["b_dec"]) @ held["W_enc"] + held["b_enc"], 0)
    coder = sae.load(tmp_path)
    with torch.no_grad():
        assert_close(coder.encode(torch.from_numpy(X)), torch.from_numpy(acts), rtol=1e-5, atol=1e-5)
        x_hat = (acts * factor.numpy()) @ held["W_dec"] + held["b_dec"]
        assert_close(coder(torch.from_numpy(X)), torch.from_numpy(x_hat), rtol=1e-5, atol=1e-5)
    change(tmp_path / "cfg.json", finetuning_scaling_factor=False)
    assert "finetuning_scaling_factor = False beside weights scaling_factor that are not 1" in refused(tmp_path)
    change_weights(tmp_path / "sae_weights.safetensors", scaling_factor=torch.ones(20))
    with torch.no_grad():
        assert_close(sae.load(tmp_path)(torch.from_numpy(X)), torch.from_numpy(acts @ held["W_dec"] + held["b_dec"]))
    change_weights(tmp_path / "sae_weights.safetensors", scaling_factor=torch.ones(3))
    assert "with scaling_factor of shape (3,)" in refused(tmp_path)


@pytest.mark.parametrize("stated", ["expected_average_only_in", True])
def test_a_factor_of_the_vectors_is_asked_for_and_folded_bias_included(stated: Any, tmp_path: Path) -> None:
    held = old(tmp_path, normalize_activations=stated)
    acts = np.maximum((3 * X - held["b_dec"]) @ held["W_enc"] + held["b_enc"], 0)
    x_hat = (acts @ held["W_dec"] + held["b_dec"]) / 3
    coder = sae.load(tmp_path, scale=3)
    with torch.no_grad():
        assert_close(coder.encode(torch.from_numpy(X)), torch.from_numpy(acts), rtol=1e-5, atol=1e-4)
        assert_close(coder(torch.from_numpy(X)), torch.from_numpy(x_hat), rtol=1e-5, atol=1e-4)
    line = refused(tmp_path)
    assert "training multiplied its vectors by a factor that the folder does not hold" in line
    assert line.endswith("Pass it as scale, or have SAELens fold it into the weights.")
    with pytest.raises(BilensError, match="scale"):
        sae.load(tmp_path, scale=-1)


@pytest.mark.parametrize("name", ["saelens_topk", "sparsify_topk", "dictionary_learning_topk"])
def test_a_factor_that_a_folder_does_not_ask_for_is_refused(name: str) -> None:
    assert "scale = 3 for" in refused(GOLDEN / name, scale=3)


def test_pursuit_without_b_dec_neither_takes_off_nor_adds_it(tmp_path: Path) -> None:
    folder = copied("saelens_matching_pursuit", tmp_path)
    change(folder / "cfg.json", apply_b_dec_to_input=False)
    golden = load_file(folder / "io.safetensors")
    b_dec = load_file(folder / "sae_weights.safetensors")["b_dec"]
    with torch.no_grad():
        coder = sae.load(folder)
        assert_close(coder.encode(golden["x"] - b_dec), golden["acts"], rtol=1e-5, atol=1e-5)
        assert_close(coder(golden["x"] - b_dec), golden["x_hat"] - b_dec, rtol=1e-5, atol=1e-5)


# Gemma Scope


def jump(held: dict[str, np.ndarray]) -> np.ndarray:
    pre = X @ held["W_enc"] + held["b_enc"]
    return np.where(pre > held["threshold"], np.maximum(pre, 0), 0)


@pytest.mark.parametrize(
    ("place", "site"),
    [
        (
            "models--google--gemma-scope-2b-pt-res/snapshots/1a2/layer_20/width_16k/average_l0_71",
            Site("residual stream", 20, "gemma-2-2b"),
        ),
        ("gemma-scope-9b-it-mlp/layer_3/width_16k/canonical", Site("MLP output", 3, "gemma-2-9b-it")),
        (
            "gemma-scope-2b-pt-transcoders/layer_4/width_16k/average_l0_6",
            Site("MLP input", 4, "gemma-2-2b", "MLP output"),
        ),
        ("gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6", Site("embeddings", None, "gemma-2-2b")),
        ("downloads", Site()),
    ],
)
def test_gemma_scope_is_read_and_its_path_names_the_site(place: str, site: Site, tmp_path: Path) -> None:
    held = scope(tmp_path / place)
    coder = sae.load(tmp_path / place)
    assert isinstance(coder, sae.Coder if site.output else sae.JumpReLUSAE)
    assert coder.transcodes == bool(site.output)
    assert coder.site == site
    with torch.no_grad():
        assert_close(coder.encode(torch.from_numpy(X)), torch.from_numpy(jump(held)), rtol=1e-5, atol=1e-5)
        x_hat = jump(held) @ held["W_dec"] + held["b_dec"]
        assert_close(coder(torch.from_numpy(X)), torch.from_numpy(x_hat), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("skip", [True, False])
def test_the_second_gemma_scope_is_read_with_its_affine_skip(skip: bool, tmp_path: Path) -> None:
    place = tmp_path / "transcoder" / "layer_7_width_16k_l0_small"
    held = scope(place, second=True, skip=skip, d_out=5)
    config = {"architecture": "jump_relu", "model_name": "gemma-v3-1b-pt", "hf_hook_point_in": "in", "width": 20}
    (place / "config.json").write_text(json.dumps(config | {"hf_hook_point_out": "out"}))
    coder = sae.load(place)
    assert coder.site == Site("in", 7, "gemma-v3-1b-pt", "out")
    x_hat = jump(held) @ held["W_dec"] + held["b_dec"] + (X @ held["affine_skip_connection"] if skip else 0)
    with torch.no_grad():
        assert_close(coder(torch.from_numpy(X)), torch.from_numpy(x_hat), rtol=1e-5, atol=1e-5)
    if not skip:
        change(place / "config.json", hf_hook_point_out="in")  # an autoencoder, whose sizes are equal
        assert "W_dec of shape (20, 5)" in refused(place)
    change(place / "config.json", architecture="relu")
    assert "with architecture 'relu', which is not supported" in refused(place)
    (place / "config.json").unlink()
    change_weights(place / "params.safetensors", w_dec=torch.zeros(20, 3, 5))
    assert "of a transcoder across layers" in refused(place)


# Sites


@pytest.mark.parametrize(
    ("place", "name", "site"),
    [
        ("model/layers.5.mlp", "sparsify_topk", Site("layers.5.mlp", 5, "someone/model")),
        (
            "model/layers.5.mlp",
            "sparsify_skip_transcoder",
            Site("input of layers.5.mlp", 5, "someone/model", "output of layers.5.mlp"),
        ),
        ("model/h.11", "sparsify_topk", Site("h.11", 11, "someone/model")),
        ("model/embed_tokens", "sparsify_topk", Site("embed_tokens", None, "someone/model")),
        ("model/mine", "sparsify_topk", Site()),
        ("any", "dictionary_learning_topk", Site("mlp_out", 3, "example/model")),
    ],
)
def test_a_coder_carries_the_site_that_its_folder_names(place: str, name: str, site: Site, tmp_path: Path) -> None:
    folder = copied(name, tmp_path / place)
    if name.startswith("sparsify"):
        (folder.parent / "config.json").write_text(
            json.dumps({"model": "someone/model", "hookpoints": ["layers.5.mlp"]})
        )
    assert sae.load(folder).site == site


def test_saelens_sites_are_read_and_written_again(tmp_path: Path) -> None:
    folder = copied("saelens_topk", tmp_path / "theirs")
    named = {"hook_name": "blocks.3.attn.hook_z", "model_name": "gelu-2l", "hook_head_index": 2}
    change(folder / "cfg.json", metadata={"sae_lens_version": "6.54.12", **named}, reshape_activations="hook_z")
    coder = sae.load(folder)
    assert coder.site == Site("blocks.3.attn.hook_z", 3, "gelu-2l", head=2)
    assert str(coder.site) == "head 2 of blocks.3.attn.hook_z of gelu-2l"
    coder.save_pretrained(tmp_path / "ours")
    assert sae.load(tmp_path / "ours").site == coder.site
    change(folder / "cfg.json", metadata={"sae_lens_version": "6.54.12", "hook_layer": "3"})
    assert "with hook_layer = '3'; expected hook_layer as a whole number" in refused(folder)
    transcoder = copied("saelens_transcoder", tmp_path / "transcoder")
    ends = {"hook_name": "blocks.3.hook_mlp_in", "hook_name_out": "blocks.3.hook_mlp_out"}
    change(transcoder / "cfg.json", metadata={"sae_lens_version": "6.54.12", **ends})
    assert str(sae.load(transcoder).site) == "blocks.3.hook_mlp_in → blocks.3.hook_mlp_out"


def test_a_coder_of_ours_has_no_site(tmp_path: Path) -> None:
    sae.StandardSAE(3, 5).save_pretrained(tmp_path)
    assert sae.load(tmp_path).site is None
    assert sae.load(GOLDEN / "saelens_standard").site == Site()


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"layer": -1}, "layer"),
        ({"layer": "3"}, "layer"),
        ({"hook": None}, "hook"),
        ({"head": 1.5}, "head"),
        ({"model": "a\nb"}, "model"),
    ],
)
def test_sites_check_themselves(wrong: dict[str, Any], line: str) -> None:
    with pytest.raises(BilensError, match=line):
        Site(**wrong)


# dictionary_learning


def test_weights_tell_the_class_without_a_config_but_for_the_two_kinds_of_top_k(tmp_path: Path) -> None:
    for name in ("standard", "april_standard", "gated", "jumprelu", "matryoshka"):
        folder = copied(f"dictionary_learning_{name}", tmp_path / name)
        (folder / "config.json").unlink()
        golden = load_file(folder / "io.safetensors")
        with torch.no_grad():
            assert_close(sae.load(folder)(golden["x"]), golden["x_hat"], rtol=1e-5, atol=1e-5)
    folder = copied("dictionary_learning_topk", tmp_path / "topk")
    (folder / "config.json").unlink()
    assert "without a config.json that names its dict_class; expected dict_class = AutoEncoderTopK or" in refused(
        folder
    )


def test_the_trainer_of_april_may_name_the_class_before_it(tmp_path: Path) -> None:
    folder = copied("dictionary_learning_april_standard", tmp_path)
    change_trainer(folder, dict_class="AutoEncoder")
    assert not sae.load(folder).apply_b_dec_to_input


def test_top_k_of_before_has_no_threshold(tmp_path: Path) -> None:
    folder = copied("dictionary_learning_topk", tmp_path)
    held = torch.load(folder / "ae.pt", weights_only=True)
    torch.save({key: value for key, value in held.items() if key != "threshold"}, folder / "ae.pt")
    golden = load_file(folder / "io.safetensors")
    with torch.no_grad():
        assert_close(sae.load(folder).encode(golden["x"]), golden["acts"], rtol=1e-5, atol=1e-5)


def test_every_format_is_one_row_with_a_golden_or_an_oracle() -> None:
    folder = Path(formats.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", "content"}
    assert {form.read.__module__.rpartition(".")[2] for form in formats.FORMATS} == files


# The command


def test_the_command_shows_a_coder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = copied("sparsify_skip_transcoder", tmp_path / "layers.5.mlp")
    assert cli.main(["coder", str(folder)]) == 0
    shown = capsys.readouterr().out
    for said in ("transcoder", "topk, k = 4", "6 inputs, 20 features, 6 outputs", "skip", "input of layers.5.mlp"):
        assert said in shown
    assert cli.main(["coder", str(GOLDEN / "saelens_standard_layer_norm")]) == 0
    shown = capsys.readouterr().out
    for said in ("autoencoder", "standard", "layer_norm", "a site that its folder does not name"):
        assert said in shown
