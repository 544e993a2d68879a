"""Our own folders, which are SAELens', and the authors': writing, reading, and every way in which one can be wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_coder import build
from torch import Tensor
from torch.testing import assert_close

from bilens import sae
from bilens.errors import StoreError

GOLDEN = Path(__file__).parents[1] / "golden"
SAELENS = ("standard", "topk", "jumprelu", "gated")
CLASSES = {"standard": sae.StandardSAE, "topk": sae.TopKSAE, "jumprelu": sae.JumpReLUSAE, "gated": sae.GatedSAE}


def copied(architecture: str, folder: Path) -> Path:
    shutil.copytree(GOLDEN / f"saelens_{architecture}", folder, dirs_exist_ok=True)
    return folder


def authors(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(GOLDEN / "sae_author.config.json", folder / "config.json")
    shutil.copy(GOLDEN / "sae_author.model.safetensors", folder / "model.safetensors")
    return folder


def change(path: Path, **settings: Any) -> None:
    """Set keys of a JSON file; `...` takes one away."""
    config = json.loads(path.read_text()) | settings
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not ...}))


def change_weights(path: Path, **weights: Any) -> None:
    tensors = load_file(path) | weights
    save_file({name: value.contiguous() for name, value in tensors.items() if value is not ...}, path)


def compare(coder: sae.SAE, golden: dict[str, Tensor]) -> None:
    with torch.no_grad():
        assert_close(coder.encode(golden["x"]), golden["acts"], rtol=1e-5, atol=1e-5)
        assert_close(coder(golden["x"]), golden["x_hat"], rtol=1e-5, atol=1e-5)
        assert_close(coder.decode(golden["acts"]), golden["x_hat"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", SAELENS)
def test_saelens_goldens_give_the_same_codes(architecture: str) -> None:
    folder = GOLDEN / f"saelens_{architecture}"
    coder = sae.from_pretrained(folder)
    assert type(coder) is CLASSES[architecture]
    compare(coder, load_file(folder / "io.safetensors"))


def test_the_authors_golden_gives_the_same_codes(tmp_path: Path) -> None:
    coder = sae.from_pretrained(authors(tmp_path))
    golden = load_file(GOLDEN / "sae_author.io.safetensors")
    assert isinstance(coder, sae.TopKSAE)
    assert not coder.rectify
    compare(coder, golden)


@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize("architecture", SAELENS)
def test_a_folder_written_and_read_is_the_same_coder(architecture: str, subtract: bool, tmp_path: Path) -> None:
    coder = build(architecture, subtract=subtract)
    coder.save_pretrained(tmp_path / "a" / "folder")
    again = sae.from_pretrained(tmp_path / "a" / "folder")
    assert type(again) is type(coder)
    assert again.settings == coder.settings
    for (name, a), (other, b) in zip(coder.named_parameters(), again.named_parameters(), strict=True):
        assert name == other
        assert torch.equal(a, b)
        assert a.dtype == b.dtype


@pytest.mark.parametrize("architecture", SAELENS)
def test_written_folders_have_the_settings_and_weights_of_saelens_own(architecture: str, tmp_path: Path) -> None:
    theirs = GOLDEN / f"saelens_{architecture}"
    sae.from_pretrained(theirs).save_pretrained(tmp_path)
    ours, golden = (json.loads((folder / "cfg.json").read_text()) for folder in (tmp_path, theirs))
    assert len(ours.pop("sha256")) == 64  # SAELens reads the settings that it knows, and passes over the rest
    assert int(ours.pop("metadata")["sae_lens_version"].split(".")[0]) >= 6
    golden.pop("metadata")
    assert ours == golden
    a, b = (load_file(folder / "sae_weights.safetensors") for folder in (tmp_path, theirs))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("architecture", SAELENS)
def test_apply_b_dec_to_input_is_honoured(architecture: str, tmp_path: Path) -> None:
    folder = copied(architecture, tmp_path)
    change(folder / "cfg.json", apply_b_dec_to_input=False)
    golden = load_file(folder / "io.safetensors")
    plain, shifted = sae.from_pretrained(GOLDEN / f"saelens_{architecture}"), sae.from_pretrained(folder)
    assert plain.b_dec.abs().max() > 0.1
    with torch.no_grad():
        assert_close(shifted.encode(golden["x"] - shifted.b_dec), golden["acts"], rtol=1e-5, atol=1e-5)
        assert not torch.allclose(shifted.encode(golden["x"]), golden["acts"], atol=1e-3)


def test_acts_rescaled_by_the_decoder_norm_are_folded_into_the_weights(tmp_path: Path) -> None:
    folder = copied("topk", tmp_path)
    change(folder / "cfg.json", rescale_acts_by_decoder_norm=True)
    weights = load_file(folder / "sae_weights.safetensors")
    weights["W_dec"] *= torch.linspace(0.3, 3, 48)[:, None]
    weights["W_dec"][7] = 0
    change_weights(folder / "sae_weights.safetensors", W_dec=weights["W_dec"])
    x = load_file(folder / "io.safetensors")["x"]
    norm = weights["W_dec"].norm(dim=1)
    pre = ((x - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]) * norm
    kept = torch.relu(pre * (pre >= pre.sort(dim=1, descending=True).values[:, 4:5]))
    coder = sae.from_pretrained(folder)
    with torch.no_grad():
        assert_close(coder.encode(x), kept)
        assert_close(coder(x), kept @ (weights["W_dec"] / norm.clamp_min(1e-30)[:, None]) + weights["b_dec"])


def test_what_is_folded_into_half_precision_is_held_in_float32(tmp_path: Path) -> None:
    folder = copied("topk", tmp_path)
    half = {name: value.bfloat16() for name, value in load_file(folder / "sae_weights.safetensors").items()}
    save_file(half, folder / "sae_weights.safetensors")
    change(folder / "cfg.json", rescale_acts_by_decoder_norm=True, dtype="bfloat16")
    coder = sae.from_pretrained(folder)
    assert_close(coder.W_enc.detach(), half["W_enc"].float() * half["W_dec"].float().norm(dim=1), rtol=1e-6, atol=0)


def test_k_comes_from_each_folder_itself(tmp_path: Path) -> None:
    folders = {k: tmp_path / str(k) for k in (2, 7)}
    for k, folder in folders.items():
        sae.TopKSAE(4, 9, k).save_pretrained(folder)
    change(authors(tmp_path / "authors") / "config.json", k=3)
    for k, folder in (*folders.items(), (3, tmp_path / "authors")):
        coder = sae.from_pretrained(folder)
        assert isinstance(coder, sae.TopKSAE)
        assert coder.k == k
        x = torch.randn(20, coder.d_in)
        assert int((coder.encode(x) != 0).sum(dim=1).max()) <= k
    change_weights(folders[2] / "sae_weights.safetensors")  # as another program writes them, without a checksum
    for wrong in (..., 0, 10, 2.0, True, None, "3"):
        change(folders[2] / "cfg.json", k=wrong, sha256=...)
        with pytest.raises(StoreError, match=r"cfg\.json with(out)? k"):
            sae.from_pretrained(folders[2])


def test_a_class_reads_its_own_architecture() -> None:
    folder = GOLDEN / "saelens_topk"
    assert sae.TopKSAE.from_pretrained(folder).k == 5
    assert isinstance(sae.SAE.from_pretrained(folder), sae.TopKSAE)
    assert sae.Coder.from_pretrained(GOLDEN / "saelens_abstopk").k == 4
    with pytest.raises(StoreError, match=r"expected a Coder\. Read it with TopKSAE\.from_pretrained"):
        sae.Coder.from_pretrained(folder)
    with pytest.raises(StoreError, match=r"Read it with TopKSAE\.from_pretrained"):
        sae.StandardSAE.from_pretrained(folder)


def test_top_k_without_relu_has_no_saelens_folder(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="a top-k SAE without ReLU"):
        sae.TopKSAE(3, 5, 2, rectify=False).save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"normalize_activations": "expected_average_only_in"},
            "with normalize_activations = 'expected_average_only_in'",
        ),
        ({"reshape_activations": "heads"}, "with reshape_activations = 'heads'"),
        ({"architecture": "jumprelu_transcoder"}, "without d_out"),
        ({"architecture": "matryoshka"}, "with architecture 'matryoshka'"),
        ({"architecture": ...}, "without architecture"),
        ({"metadata": {"sae_lens_version": "new"}}, "with sae_lens_version = 'new'"),
        ({"metadata": {"sae_lens_version": 6}}, "with sae_lens_version = 6"),
        ({"finetuning_scaling_factor": True}, "with the unknown setting finetuning_scaling_factor"),
        ({"a": 1, "b": 2}, "with the unknown settings a, b"),
        ({"k": 3}, "with the unknown setting k"),
        ({"dtype": "int8"}, "with dtype = 'int8'"),
        ({"apply_b_dec_to_input": "yes"}, "with apply_b_dec_to_input = 'yes'"),
        ({"d_in": -16}, "with d_in = -16"),
        ({"d_sae": ...}, "without d_sae"),
        ({"d_in": 17}, r"of shape .* expected \(.*17"),
    ],
)
def test_settings_that_are_not_understood_are_refused(settings: dict[str, Any], line: str, tmp_path: Path) -> None:
    folder = copied("standard", tmp_path)
    change(folder / "cfg.json", **settings)
    with pytest.raises(StoreError, match=line):
        sae.from_pretrained(folder)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"target": ["mlp-out", 1]}, "with target ="),
        ({"normalize": 1.0}, "with normalize = 1.0"),
        ({"bilinear_encoder": True}, "with bilinear_encoder = True"),
        ({"encoder_bias": True}, "with encoder_bias = True"),
        ({"kwargs": {"a": 1}}, "with kwargs ="),
        ({"surprise": 1}, "with the unknown setting surprise"),
        ({"expansion": 3}, "of shape"),
        ({"k": 33}, "with k = 33; expected at most 32"),
    ],
)
def test_the_authors_settings_that_are_not_understood_are_refused(
    settings: dict[str, Any], line: str, tmp_path: Path
) -> None:
    folder = authors(tmp_path)
    change(folder / "config.json", **settings)
    with pytest.raises(StoreError, match=line):
        sae.from_pretrained(folder)


@pytest.mark.parametrize(
    ("weights", "line"),
    [
        ({"W_enc": ...}, "without W_enc"),
        ({"b_enc": ..., "b_mag": torch.zeros(48)}, "without b_enc and with b_mag"),
        ({"scaling_factor": torch.full((48,), 2.0)}, "beside weights scaling_factor that are not 1"),
        ({"b_dec": torch.full((16,), torch.nan)}, "with NaN or infinity in b_dec"),
        ({"W_dec": torch.full((48, 16), torch.inf)}, "with NaN or infinity in W_dec"),
        ({"W_dec": torch.zeros(16, 48)}, r"with W_dec of shape \(16, 48\)"),
        ({"b_enc": torch.zeros(48, dtype=torch.int64)}, "b_enc of shape .* torch.int64"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights: dict[str, Any], line: str, tmp_path: Path) -> None:
    folder = copied("standard", tmp_path)
    change_weights(folder / "sae_weights.safetensors", **weights)
    with pytest.raises(StoreError, match=line):
        sae.from_pretrained(folder)


def test_what_is_not_supported_is_said_before_weights_are_missed(tmp_path: Path) -> None:
    saelens, theirs = copied("standard", tmp_path / "saelens"), authors(tmp_path / "authors")
    (saelens / "sae_weights.safetensors").unlink()
    (theirs / "model.safetensors").unlink()
    for folder in (saelens, theirs):
        with pytest.raises(StoreError, match="on reading"):
            sae.from_pretrained(folder)
    change(saelens / "cfg.json", architecture="matryoshka")
    change(theirs / "config.json", encoder_bias=True)
    for folder, said in ((saelens, "with architecture 'matryoshka'"), (theirs, "with encoder_bias = True")):
        with pytest.raises(StoreError, match=said):
            sae.from_pretrained(folder)


def test_missing_damaged_and_pickled_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="which does not exist"):
        sae.from_pretrained(tmp_path / "nothing")
    folder = copied("standard", tmp_path)
    path = folder / "sae_weights.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(StoreError, match="which cannot be read"):
        sae.from_pretrained(folder)
    path.write_bytes(b"PK\x03\x04" + whole)
    with pytest.raises(StoreError, match="looks like a pickle"):
        sae.from_pretrained(folder)
    path.unlink()
    with pytest.raises(StoreError, match="on reading"):
        sae.from_pretrained(folder)
    (folder / "cfg.json").write_text("{")
    with pytest.raises(StoreError, match="which is no JSON"):
        sae.from_pretrained(folder)


def test_weights_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    coder = sae.StandardSAE(3, 5)
    with torch.no_grad():
        coder.b_enc[2] = torch.nan
    with pytest.raises(StoreError, match="with NaN or infinity in b_enc"):
        coder.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_are_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    sae.StandardSAE(3, 5).to(dtype).save_pretrained(tmp_path)
    coder = sae.from_pretrained(tmp_path)
    assert coder.W_enc.dtype == dtype
    assert coder(torch.zeros(2, 3)).dtype == dtype


def test_a_save_over_an_older_coder_that_fails_leaves_the_older_one(tmp_path: Path, monkeypatch) -> None:
    sae.StandardSAE(3, 5).save_pretrained(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(StoreError, match="No space left on device"):
        sae.StandardSAE(3, 7).save_pretrained(tmp_path)
    monkeypatch.undo()
    assert sae.from_pretrained(tmp_path).d_sae == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cfg.json", "sae_weights.safetensors"]


def test_files_of_two_coders_are_refused(tmp_path: Path) -> None:
    for seed in (0, 1):
        sae.StandardSAE(3, 5, seed=seed).save_pretrained(tmp_path / str(seed))
    shutil.copy(tmp_path / "1" / "sae_weights.safetensors", tmp_path / "0")
    with pytest.raises(StoreError, match=r"cfg\.json and sae_weights\.safetensors, which were not written together"):
        sae.from_pretrained(tmp_path / "0")
