"""The authors' layout against the numbers that their own code gave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bilens.errors import BilensError, StoreError
from bilens.models import ImageClassifier
from bilens.space import Space
from goldens import answers, change, copied

NAMES = ["image_plain", "image_residual", "image_bias_2layer"]


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_the_authors(tmp_path: Path, name: str) -> None:
    model, io = ImageClassifier.from_pretrained(copied(name, tmp_path)), answers(name)
    torch.testing.assert_close(model(io["x"]).detach(), io["logits"], rtol=0, atol=1e-5)
    assert (model.input.name, model.input.size, model.output.size) == ("pixels", 12, 5)


@pytest.mark.parametrize("name", ["image_plain", "image_residual"])
def test_the_tensor_gives_the_authors_logits(tmp_path: Path, name: str) -> None:
    model, io = ImageClassifier.from_pretrained(copied(name, tmp_path)), answers(name)
    tensor = model.tensor()
    assert tensor.input.constant == (name == "image_residual")
    torch.testing.assert_close(tensor(io["x"]), io["logits"], rtol=0, atol=1e-5)
    x = io["x"].double()
    torch.testing.assert_close(model.double().tensor()(x), model(x).detach(), rtol=0, atol=1e-9)


def test_two_layers_have_no_tensor_but_each_layer_has(tmp_path: Path) -> None:
    model = ImageClassifier.from_pretrained(copied("image_bias_2layer", tmp_path))
    io = answers("image_bias_2layer")
    for refused in (model.tensor, model.hidden_tensor):
        with pytest.raises(BilensError, match=r"got .* of a model with 2 layers; expected .*. Use model\.deep\(\)"):
            refused()
    h = io["x"] @ model.embedding.weight.detach().T
    for layer in model.layers:
        h = layer.tensor()(h)
    torch.testing.assert_close(h @ model.readout.weight.detach().T, io["logits"], rtol=0, atol=1e-5)


def test_a_residual_flag_changes_the_logits(tmp_path: Path) -> None:
    path = copied("image_residual", tmp_path)
    change(path / "config.json", residual=False)
    io = answers("image_residual")
    assert float((ImageClassifier.from_pretrained(path)(io["x"]) - io["logits"]).detach().abs().max()) > 0.01


def test_saved_again_it_is_the_same_model_in_our_layout(tmp_path: Path) -> None:
    model = ImageClassifier.from_pretrained(copied("image_bias_2layer", tmp_path))
    model.save_pretrained(tmp_path / "ours")
    again, io = (
        ImageClassifier.from_pretrained(tmp_path / "ours"),
        answers("image_bias_2layer"),
    )
    assert again.config == model.config
    assert torch.equal(again(io["x"]), model(io["x"]))


def test_a_square_number_of_pixels_is_an_image(tmp_path: Path) -> None:
    path = copied("image_plain", tmp_path)
    tensors = load_file(path / "model.safetensors")
    tensors["embed.weight"] = torch.randn(8, 9)
    save_file(tensors, path / "model.safetensors")
    change(path / "config.json", d_input=9)
    assert ImageClassifier.from_pretrained(path).input == Space("pixels", 9, image=(3, 3))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"n_layer": ...}, r"got .*config\.json without n_layer; expected a number of at least 1"),
        ({"d_hidden": 0}, r"got .*config\.json with d_hidden = 0; expected a number of at least 1"),
        ({"d_hidden": "8"}, r"got .*config\.json with d_hidden = '8'; expected a number of at least 1"),
        ({"bias": None}, r"got .*config\.json with bias = None; expected true or false"),
        ({"residual": ...}, r"got .*config\.json without residual; expected true or false"),
        ({"n_layer": 2}, r"got .*model\.safetensors without layers\.1\.left\.weight; expected .*"),
        (
            {"n_layer": 10**9},
            r"got .*config\.json with 1000000000 layers, but 4 tensors in model.safetensors; expected ",
        ),
        ({"d_input": 13}, r"got .*embedding\.weight of shape \(8, 12\); expected \(8, 13\). Check the config"),
        (
            {"d_hidden": 7},
            r"got .*model\.safetensors with blocks\.0\.weight of shape \(16, 8\); expected only the tensors",
        ),
        ({"bias": True}, r"got .*model\.safetensors without layers\.0\.left\.bias; expected .*"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(tmp_path: Path, entries: dict[str, Any], message: str) -> None:
    path = copied("image_plain", tmp_path)
    change(path / "config.json", **entries)
    with pytest.raises(StoreError, match=message):
        ImageClassifier.from_pretrained(path)
