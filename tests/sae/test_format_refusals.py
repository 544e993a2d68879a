"""What is not read of other people's folders: each answered in one line, and nothing in them run."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_folders import FOLDERS, change_trainer, old, refused, scope

from bilens import cli, sae
from goldens import change, copied


@pytest.mark.parametrize(
    ("name", "config", "line"),
    [
        ("saelens_standard", {"architecture": "temporal"}, "with architecture 'temporal', which is not supported"),
        ("saelens_standard", {"architecture": "batchtopk"}, "with architecture 'batchtopk', which is not supported"),
        ("saelens_standard", {"normalize_activations": "covariance_whitening"}, "covariance_whitening', which is not"),
        ("saelens_transcoder", {"apply_b_dec_to_input": True}, "with apply_b_dec_to_input = True"),
        ("saelens_transcoder", {"d_out": ...}, "without d_out"),
        ("saelens_transcoder", {"d_out": 6}, "of shape (20, 7)"),
        ("saelens_transcoder", {"normalize_activations": "expected_average_only_in"}, "an autoencoder and its factor"),
        ("saelens_transcoder", {"architecture": "skip_transcoder"}, "without W_skip"),
        ("saelens_skip_transcoder", {"architecture": "transcoder"}, "with W_skip"),
        ("saelens_matching_pursuit", {"residual_threshold": -1}, "with residual_threshold = -1"),
        ("saelens_matching_pursuit", {"max_iterations": 0}, "with max_iterations = 0"),
        ("saelens_abstopk", {"k": 21}, "with k = 21; expected at most 20"),
        ("sparsify_topk", {"activation": "jumprelu"}, "with activation = 'jumprelu', which is not supported"),
        ("sparsify_topk", {"surprise": 1}, "with the unknown setting surprise"),
        ("sparsify_topk", {"num_latents": 21}, "of shape (20, 6)"),
        ("sparsify_topk", {"num_latents": 0}, "of shape (20, 6)"),
        ("sparsify_topk", {"k": 21}, "with k = 21; expected at most 20"),
        ("sparsify_topk", {"d_in": ...}, "without d_in"),
        ("sparsify_topk", {"transcode": "no"}, "with transcode = 'no'"),
        ("sparsify_topk", {"skip_connection": True}, "without W_skip"),
        ("sparsify_skip_transcoder", {"skip_connection": False}, "with W_skip"),
        ("sparsify_groupmax", {"k": 7}, "with 24 features in k = 7 groups"),
        ("sparsify_groupmax", {"signed": True}, "with activation = 'groupmax' and signed = True"),
    ],
)
def test_settings_that_are_not_understood_are_refused(
    name: str, config: dict[str, Any], line: str, tmp_path: Path
) -> None:
    folder = copied(name, tmp_path)
    change(folder / "cfg.json", **config)
    assert line in refused(folder)


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({"activation_fn_str": "tanh-relu"}, "with activation_fn_str = 'tanh-relu'"),
        ({"architecture": "gated", "activation_fn_str": "topk"}, "activation_fn_str = 'topk' and architecture 'gated'"),
        ({"activation_fn_str": "topk", "activation_fn_kwargs": {}}, "with k = None"),
        (
            {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3, "postact_fn": "x"}},
            "unknown setting postact_fn",
        ),
        ({"normalize_activations": "batch"}, "with normalize_activations = 'batch'"),
        ({"sae_lens_version": "new"}, "with sae_lens_version = 'new'"),
        ({"dtype": "int4"}, "with dtype = 'int4'"),
        ({"d_in": ...}, "without d_in"),
        ({"architecture": "jumprelu"}, "without threshold"),
    ],
)
def test_older_settings_that_shape_codes_otherwise_are_refused(
    config: dict[str, Any], line: str, tmp_path: Path
) -> None:
    old(tmp_path, **config)
    assert line in refused(tmp_path)


@pytest.mark.parametrize(
    ("name", "trainer", "weights", "line"),
    [
        ("topk", {"dict_class": "CrossCoder"}, {}, "with dict_class = 'CrossCoder', which is not supported"),
        ("topk", {"dict_class": "GatedAutoEncoder"}, {}, "expected the weights of GatedAutoEncoder"),
        ("topk", {"dict_class": 3}, {}, "with dict_class = 3"),
        ("topk", {"k": 5}, {}, "with k = 5 beside ae.pt with k = 4; expected the files of one coder"),
        ("topk", {"layer": "3"}, {}, "with layer = '3'"),
        ("topk", {}, {"k": torch.tensor(21)}, "with k = 21; expected 1 to 20"),
        ("topk", {}, {"k": torch.tensor(4.0)}, "with k of shape () and torch.float32"),
        ("topk", {}, {"b_dec": torch.zeros(7)}, "with b_dec of shape (7,)"),
        ("topk", {}, {"b_dec": torch.full((6,), torch.inf)}, "with NaN or infinity in b_dec"),
        ("topk", {}, {"encoder.weight": torch.zeros(20)}, "with encoder.weight of shape (20,)"),
        ("topk", {}, {"decoder.weight": ...}, "expected the weights of AutoEncoderTopK"),
        ("standard", {}, {"surprise": torch.zeros(1)}, "surprise"),
        ("batchtopk", {}, {"threshold": ...}, "expected the weights of BatchTopKSAE"),
        ("batchtopk", {}, {"threshold": torch.zeros(20)}, "with threshold of shape (20,)"),
        ("jumprelu", {}, {"threshold": torch.zeros(())}, "with threshold of shape ()"),
    ],
)
def test_dictionary_learning_that_does_not_fit_is_refused(
    name: str, trainer: dict[str, Any], weights: dict[str, Any], line: str, tmp_path: Path
) -> None:
    folder = copied(f"dictionary_learning_{name}", tmp_path)
    change_trainer(folder, **trainer)
    held = torch.load(folder / "ae.pt", weights_only=True) | weights
    torch.save({key: value for key, value in held.items() if value is not ...}, folder / "ae.pt")
    assert line in refused(folder)


def test_a_pickle_of_code_is_named_and_not_run(tmp_path: Path) -> None:
    folder = copied("dictionary_learning_topk", tmp_path)
    ran = tmp_path / "ran"

    class Code:
        def __reduce__(self) -> tuple[Any, ...]:
            return (ran.touch, ())

    torch.save({"encoder.weight": Code()}, folder / "ae.pt")
    assert "which would run code" in refused(folder)
    assert not ran.exists()


@pytest.mark.parametrize("name", FOLDERS)
def test_truncated_missing_and_foreign_files_give_one_line(name: str, tmp_path: Path) -> None:
    folder = copied(name, tmp_path / "coder")
    (folder / "io.safetensors").unlink()
    for file in sorted(folder.iterdir()):
        whole = file.read_bytes()
        for damage in (whole[:-1], whole[: len(whole) // 2], b"", b"{" + whole, b"\x80\x04" + whole, b"PK\x03\x04"):
            file.write_bytes(damage)
            refused(folder)
        file.write_bytes(whole)
        moved = file.rename(file.with_name("other.bin"))
        if not (name.startswith("dictionary_learning") and file.name == "config.json"):
            refused(folder)  # without its config, that of dictionary_learning can be told by its weights
        moved.rename(file)
    sae.load(folder)


def test_a_folder_with_several_coders_says_so(tmp_path: Path) -> None:
    for layer in (0, 1):
        copied("sparsify_topk", tmp_path / f"layers.{layer}.mlp")
    assert "several coders, layers.0.mlp, layers.1.mlp, each in a folder of its own" in refused(tmp_path)


def test_what_is_no_folder_of_a_coder_says_what_it_is(tmp_path: Path) -> None:
    assert "nothing in it" in refused(tmp_path)
    (tmp_path / "model.bin").write_bytes(b"")
    assert "with only model.bin; expected the folder of one coder: dictionary_learning's" in refused(tmp_path)
    assert "which is a file" in refused(tmp_path / "model.bin")
    assert "which does not exist" in refused(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "d_model": 3}))
    assert "config.json of a model, ['LlamaForCausalLM']; expected that of a coder" in refused(tmp_path)


def test_npz_files_that_are_damaged_or_hold_pickles_are_refused(tmp_path: Path) -> None:
    weights = scope(tmp_path)
    file = tmp_path / "params.npz"
    whole = file.read_bytes()
    for damage in (whole[:-30], whole[:200], b"", b"PK\x03\x04 and no more", whole.replace(b"NUMPY", b"LUMPY")):
        file.write_bytes(damage)
        assert "params.npz, which" in refused(tmp_path)
    file.write_bytes(pickle.dumps({"W_enc": 1}))
    assert "which is no npz file" in refused(tmp_path)
    np.savez(file, **{**weights, "b_enc": np.array([{}], dtype=object)})
    assert "Object arrays cannot be loaded" in refused(tmp_path)
    np.savez(file, **{name: value for name, value in weights.items() if name != "threshold"})
    assert "params.npz without threshold" in refused(tmp_path)
    np.savez(file, **{**weights, "W_enc": weights["W_enc"].T})
    assert "of shape" in refused(tmp_path)
    np.savez(file, **{**weights, "W_enc": np.zeros(3, dtype=np.float32)})
    assert "with W_enc of shape (3,)" in refused(tmp_path)
    np.savez(file, **{**weights, "b_enc": np.full(20, np.nan, dtype=np.float32)})
    assert "with NaN or infinity in b_enc" in refused(tmp_path)


# The command


@pytest.mark.parametrize("damage", ["truncated", "misnamed", "foreign", "absent"])
@pytest.mark.parametrize("name", ["saelens_topk", "sparsify_topk", "dictionary_learning_topk", "gemma_scope"])
def test_the_command_answers_a_wrong_folder_in_one_line_with_status_2(
    name: str, damage: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "coder"
    if name == "gemma_scope":
        scope(folder)
    else:
        copied(name, folder)
        (folder / "io.safetensors").unlink()
    file = max(folder.iterdir(), key=lambda path: path.suffix != ".json")
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-40])
    elif damage == "misnamed":
        file.rename(folder / f"copy of {file.name}")
    elif damage == "foreign":
        file.write_bytes(b"another file")
    else:
        folder = tmp_path / "nowhere"
    assert cli.main(["coder", str(folder)]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert len(told.err.strip().splitlines()) == 1
    assert told.err.startswith("bilens: got ")
