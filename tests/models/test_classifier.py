"""The image classifier: logits, tensors, matched sizes, and its folder on disk."""

from __future__ import annotations

import json
import math
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save_file

from bilens.errors import BilensError, ShapeError, StoreError
from bilens.models import ImageClassifier, matched_width
from bilens.space import Space
from oracle import array, dense, near

PIXELS = Space("pixels", 6, image=(2, 3))
CLASSES = Space("digits", 3, labels=("a", "b", "c"))


def rows(n: int, d: int = 6) -> torch.Tensor:
    return torch.rand(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def build(**arguments: Any) -> ImageClassifier:
    return ImageClassifier(PIXELS, CLASSES, **({"hidden": 4} | arguments)).double()


def weight(linear: Any) -> np.ndarray:
    return array(linear.weight)


def bias(linear: Any) -> np.ndarray | float:
    return 0.0 if linear.bias is None else array(linear.bias)


def written_out(model: ImageClassifier, x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """What the read-out of a bilinear model reads, and the logits, in NumPy."""
    h = array(x)
    if model.embedding is not None:
        h = h @ weight(model.embedding).T
    for layer in model.layers:
        g = (h @ weight(layer.left).T + bias(layer.left)) * (h @ weight(layer.right).T + bias(layer.right))
        h = h + g if model.residual else g
    return h, h @ weight(model.readout).T + bias(model.readout)


@given(
    embedding=st.sampled_from([None, 4, 5]),
    biased=st.booleans(),
    readout_bias=st.booleans(),
    residual=st.booleans(),
    layers=st.integers(1, 3),
    seed=st.integers(0, 3),
)
def test_logits_and_tensors(
    embedding: int | None, biased: bool, readout_bias: bool, residual: bool, layers: int, seed: int
) -> None:
    hidden = (embedding or 6) if residual else 4
    model = build(
        hidden=hidden,
        embedding=embedding,
        bias=biased,
        readout_bias=readout_bias,
        residual=residual,
        layers=layers,
        seed=seed,
    )
    x = rows(5)
    h, logits = written_out(model, x)
    near(model.hidden_outputs(x), h, 10)
    near(model(x), logits, 10)
    deep = model.deep()
    near(deep(x), logits, 10)
    assert (deep.depth, deep.input.without_constant(), deep.output) == (layers, PIXELS, CLASSES)
    assert deep.input.constant == (biased or residual or readout_bias)
    assert not deep.layers[0].left.requires_grad
    if layers > 1:
        for refused in (model.tensor, model.hidden_tensor):
            with pytest.raises(BilensError, match=f"a model with {layers} layers; expected .*. Use model.deep"):
                refused()
        return
    tensor, inner = model.tensor(), model.hidden_tensor()
    near(inner(x), h, 10)
    near(tensor(x), logits, 10)
    near(deep.norm(), tensor.norm(), float(tensor.norm()))
    near(deep.inner(deep), tensor.inner(tensor), float(tensor.norm()) ** 2)
    assert inner.input.constant == (biased or residual)
    assert tensor.input.constant == (biased or residual or readout_bias)
    assert tensor.input.without_constant() == PIXELS
    assert tensor.output == CLASSES
    assert inner.output == model.layer.output
    with_readout = inner.then(model.readout.weight.detach(), CLASSES)
    if readout_bias:
        with_readout = with_readout.shift(model.readout.bias.detach())
    near(tensor.to_dense(), with_readout.to_dense(), 1)
    single = model.float()
    torch.testing.assert_close(single.tensor()(x.float()), single(x.float()).detach(), rtol=0, atol=1e-5)


def test_the_embedding_is_composed_before_anything_else() -> None:
    model = build(embedding=2)
    embed = weight(model.embedding)
    full = dense(weight(model.layer.left) @ embed, weight(model.layer.right) @ embed, weight(model.readout))
    near(model.tensor().to_dense(), full, 1)
    assert np.linalg.matrix_rank(full[0]) <= 2


def test_gradients_flow_through_the_tensor_when_asked() -> None:
    model = build(embedding=6, hidden=6, bias=True, readout_bias=True, residual=True)
    assert not model.tensor().left.requires_grad
    model.tensor(detach=False)(rows(4)).square().sum().backward()
    through_tensor = {name: value.grad.clone() for name, value in model.named_parameters()}
    model.zero_grad()
    model(rows(4)).square().sum().backward()
    for name, value in model.named_parameters():
        near(through_tensor[name], value.grad, 10)


def test_gradients_flow_through_all_layers_when_asked() -> None:
    model = build(embedding=6, hidden=6, bias=True, readout_bias=True, residual=True, layers=2)
    model.deep(detach=False)(rows(4)).square().sum().backward()
    through = {name: value.grad.clone() for name, value in model.named_parameters()}
    model.zero_grad()
    model(rows(4)).square().sum().backward()
    for name, value in model.named_parameters():
        near(through[name], value.grad, 100)


@pytest.mark.parametrize("activation", ["relu", "gelu", "reglu", "swiglu"])
def test_other_models_have_no_tensor(activation: str) -> None:
    model = build(activation=activation)
    assert model(rows(2)).shape == (2, 3)
    for refused in (model.tensor, model.hidden_tensor, model.deep):
        with pytest.raises(BilensError, match=f"activation '{activation}'; expected a bilinear layer.*. Train one"):
            refused()


def count(model: ImageClassifier) -> int:
    return sum(value.numel() for value in model.parameters())


@given(
    hidden=st.integers(1, 40),
    d_in=st.integers(1, 30),
    d_out=st.integers(1, 12),
    layers=st.integers(1, 3),
    biased=st.booleans(),
    embedding=st.sampled_from([None, 3, 9]),
)
def test_parameters_are_matched(
    hidden: int, d_in: int, d_out: int, layers: int, biased: bool, embedding: int | None
) -> None:
    spaces = (Space("pixels", d_in), Space("classes", d_out))
    settings: dict[str, Any] = {"layers": layers, "bias": biased, "embedding": embedding, "readout_bias": True}
    with torch.device("meta"):
        models = {name: ImageClassifier(*spaces, hidden, activation=name, **settings) for name in
                  ("bilinear", "reglu", "swiglu", "relu", "gelu")}  # fmt: skip
    target = count(models["bilinear"])
    assert count(models["reglu"]) == count(models["swiglu"]) == target
    assert count(models["relu"]) == count(models["gelu"])
    first = embedding or d_in

    def ungated(width: int) -> int:
        total = 0 if embedding is None else d_in * embedding
        for size in [first] + [width] * (layers - 1):
            total += width * size + (width if biased else 0)
        return total + width * d_out + d_out

    width = models["relu"].readout.in_features
    assert count(models["relu"]) == ungated(width)
    assert width == matched_width(hidden, d_in=first, d_out=d_out, layers=layers, bias=biased)
    best = min(abs(ungated(w) - target) for w in range(1, 200))
    assert abs(ungated(width) - target) == best


def test_the_seed_alone_sets_the_first_weights() -> None:
    before = torch.get_rng_state()
    one, two, other = build(), build(), build(seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.layer.left.weight, two.layer.left.weight)
    assert not torch.equal(one.layer.left.weight, other.layer.left.weight)
    assert float(one.readout.weight.detach().abs().max()) <= 1 / math.sqrt(4)


def test_the_only_layer() -> None:
    model = build()
    assert model.layer is model.layers[0]
    with pytest.raises(BilensError, match=r"got a model with 2 layers; expected a model with one layer. Use"):
        _ = build(layers=2).layer


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activation": "tanh"}, r"got activation = 'tanh'; expected one of bilinear, relu, gelu, reglu, swiglu"),
        ({"hidden": 0}, r"got hidden = 0; expected a whole number, 1 ≤ .*"),
        ({"layers": 0}, r"got layers = 0; expected a whole number, 1 ≤ .*"),
        ({"embedding": -3}, r"got embedding = -3; expected a whole number, 1 ≤ .*"),
        ({"embedding": 0}, r"got embedding = 0; expected a whole number, 1 ≤ .*"),
        ({"bias": "yes"}, r"got bias = 'yes'; expected True or False"),
        ({"seed": -1}, r"got seed = -1; expected a whole number from 0 .*"),
        ({"residual": True, "activation": "relu"}, r"got residual with activation 'relu'; expected .*. Leave out"),
        ({"residual": True}, r"got residual with hidden = 4 and 6 inputs; expected .*. Use embedding=4"),
        ({"residual": True, "embedding": 5}, r"got residual with hidden = 4 and 5 embedding units; expected .*"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(BilensError, match=message):
        build(**arguments)


@pytest.mark.bad_input
def test_images_of_another_width_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"got vectors of shape \(2, 7\); expected 6 coordinates of space 'pixels'"):
        build()(rows(2, 7))


@pytest.mark.parametrize("activation", ["bilinear", "gelu", "swiglu"])
def test_saved_and_read_again_it_is_the_same(tmp_path: Path, activation: str) -> None:
    model = build(activation=activation, layers=2, bias=True, readout_bias=True, embedding=5, seed=7)
    model.save_pretrained(tmp_path / "new" / "folder")
    before = torch.get_rng_state()
    again = ImageClassifier.from_pretrained(tmp_path / "new" / "folder")
    assert torch.equal(torch.get_rng_state(), before)
    assert (again.input, again.output, again.config) == (PIXELS, CLASSES, model.config)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
        assert value.dtype == again.state_dict()[name].dtype == torch.float64
    assert torch.equal(again(rows(3)), model(rows(3)))
    assert all(value.requires_grad for value in again.parameters())
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == ["config.json", "model.safetensors"]


def damaged(tmp_path: Path, how: str) -> Path:
    """A saved model with one thing wrong."""
    build(bias=True).save_pretrained(tmp_path)
    config, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    entries, tensors = json.loads(config.read_text()), load(weights.read_bytes())
    # Without the checksums of either file, as another program writes them: what is wrong is told by its content.
    del entries["sha256"]
    if how == "empty folder":
        config.unlink()
        weights.unlink()
    elif how == "no weights":
        weights.unlink()
    elif how == "weights cut short":
        weights.write_bytes(weights.read_bytes()[:-8])
    elif how == "pickle alone":
        weights.unlink()
        torch.save(tensors, tmp_path / "pytorch_model.bin")
    elif how == "pickle as safetensors":
        torch.save(tensors, weights)
    elif how == "old pickle as safetensors":
        weights.write_bytes(pickle.dumps({"layers.0.left.weight": [1.0]}))
    elif how == "no json":
        config.write_text("{")
    elif how == "json list":
        config.write_text("[]")
    elif how in ("nan", "infinity"):
        tensors["readout.weight"][0, 0] = float(how)
    elif how == "wrong shape":
        tensors["readout.weight"] = tensors["readout.weight"][:, :3].clone()
    elif how == "missing tensor":
        del tensors["layers.0.right.bias"]
    elif how == "spare tensor":
        tensors["layers.1.left.weight"] = torch.zeros(2, 2, dtype=torch.float64)
    elif how == "whole numbers":
        tensors["readout.weight"] = tensors["readout.weight"].to(torch.int64)
    elif how == "mixed types":
        tensors["readout.weight"] = tensors["readout.weight"].float()
    elif how == "other format":
        entries["format"] = "else"
    elif how == "unknown activation":
        entries["activation"] = "tanh"
    elif how == "lacks hidden":
        del entries["hidden"]
    elif how == "adds an entry":
        entries["dropout"] = 0.1
    elif how == "text for a number":
        entries["hidden"] = "4"
    elif how == "huge":
        entries["hidden"] = 10**30
    elif how == "many layers":
        entries["layers"] = 10**9
    elif how == "bad space":
        entries["input"] = {"name": "pixels"}
    elif how == "bad labels":
        entries["output"]["labels"] = ["a", "b"]
    elif how == "bad image":
        entries["input"]["image"] = [2, "3"]
    elif how == "huge space":
        entries["input"] |= {"size": 10**30, "image": None}
    if "alone" not in how and config.exists() and "json" not in how:
        config.write_text(json.dumps(entries))
    if weights.exists() and "safetensors" not in how and "cut" not in how:
        save_file(tensors, weights)
    return tmp_path


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("empty folder", r"got 'No such file or directory' on reading .*config\.json; expected .*"),
        ("no weights", r"got 'No such file or directory' on reading .*model\.safetensors; expected .*"),
        (
            "weights cut short",
            r"got .*model\.safetensors, which cannot be read .*; expected a whole safetensors file",
        ),
        ("pickle alone", r"got .*pytorch_model\.bin, which is a pickle; expected model\.safetensors .*. Save"),
        ("pickle as safetensors", r"got .*model\.safetensors, which looks like a pickle .*; expected .*. Save"),
        ("old pickle as safetensors", r"got .*model\.safetensors, which looks like a pickle .*; expected .*. Save"),
        ("no json", r"got .*config\.json, which is no JSON; expected a JSON file"),
        ("json list", r"got .*config\.json with a JSON list; expected a JSON object"),
        ("nan", r"got .*safetensors with NaN or infinity in readout\.weight; expected finite numbers"),
        ("infinity", r"got .*safetensors with NaN or infinity in readout\.weight; expected finite numbers"),
        ("wrong shape", r"got .*safetensors with readout\.weight of shape \(3, 3\); expected \(3, 4\). Check"),
        ("missing tensor", r"got .*safetensors without layers\.0\.right\.bias; expected .* of shape \(4,\)"),
        ("spare tensor", r"got .*safetensors with layers\.1\.left\.weight of shape \(2, 2\); expected only .*"),
        ("whole numbers", r"got .*safetensors with readout\.weight of type torch\.int64; expected one floating.*"),
        ("mixed types", r"got .*safetensors with readout\.weight of type torch\.float32; expected one floating.*"),
        ("other format", r"got .*config\.json of format 'else'; expected 'bilens image classifier 1', or .*"),
        (
            "unknown activation",
            r"got .*config\.json, which describes no model \(got activation = 'tanh'.*\); expected .*",
        ),
        ("lacks hidden", r"got .*config\.json, which lacks or adds hidden; expected the entries .*. Write it again"),
        (
            "adds an entry",
            r"got .*config\.json, which lacks or adds dropout; expected the entries .*. Write it again",
        ),
        ("text for a number", r"got .*config\.json, which describes no model \(got hidden = '4'.*\); expected .*"),
        ("huge", r"got .*config\.json, which describes no model \(got hidden = 1000000.*\); expected .*"),
        ("many layers", r"got .*config\.json with 1000000000 layers, but 5 tensors in .*; expected .*"),
        ("bad space", r"got .*config\.json with the input space \{'name': 'pixels'\}; expected its name, .*"),
        ("huge space", r"got .*config\.json with the input space .*; expected its name, .*"),
        ("bad labels", r"got .*config\.json with the output space .*; expected its name, .*"),
        ("bad image", r"got .*config\.json with the input space .*; expected its name, .*"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(tmp_path: Path, how: str, message: str) -> None:
    path = damaged(tmp_path, how)
    with pytest.raises(StoreError, match=message) as caught:
        ImageClassifier.from_pretrained(path)
    assert "\n" not in str(caught.value)


@given(
    embedding=st.sampled_from([None, 4, 5]),
    biased=st.booleans(),
    readout_bias=st.booleans(),
    residual=st.booleans(),
    layers=st.integers(1, 3),
    mean=st.sampled_from([0.0, 0.1307, -2.0]),
    std=st.sampled_from([1.0, 0.3081, 25.0]),
)
def test_a_model_of_standardised_images_becomes_one_of_raw_images(
    embedding: int | None, biased: bool, readout_bias: bool, residual: bool, layers: int, mean: float, std: float
) -> None:
    width = (embedding or 6) if residual else 4
    arguments = {"embedding": embedding, "bias": biased, "readout_bias": readout_bias, "residual": residual}
    given = build(hidden=width, layers=layers, seed=2, **arguments)
    before = {name: value.clone() for name, value in given.state_dict().items()}
    folded, x = given.standardized(mean, std), rows(7)
    _, expected = written_out(given, (x - mean) / std)
    near(folded(x), expected)
    if layers == 1:
        near(folded.tensor()(x), expected)
    assert all(torch.equal(value, before[name]) for name, value in given.state_dict().items())
    again = ImageClassifier(PIXELS, CLASSES, **{k: v for k, v in folded.config.items() if k in FOLDED}).double()
    again.load_state_dict(folded.state_dict())  # the config describes the weights
    near(again(x), expected)


FOLDED = ("hidden", "layers", "embedding", "bias", "readout_bias", "residual", "activation")


@pytest.mark.parametrize("activation", ["relu", "gelu", "reglu", "swiglu"])
def test_other_models_of_standardised_images_become_ones_of_raw_images(activation: str) -> None:
    given, x = build(activation=activation, bias=True, layers=2), rows(7)
    near(given.standardized(0.2, 0.5)(x), given((x - 0.2) / 0.5))


def test_a_standardised_model_keeps_its_type_and_is_saved_and_read(tmp_path: Path) -> None:
    given = ImageClassifier(PIXELS, CLASSES, 4)
    folded = given.standardized(0.1307, 0.3081)
    assert {value.dtype for value in folded.state_dict().values()} == {torch.float32}
    folded.save_pretrained(tmp_path)
    x = rows(7).float()
    torch.testing.assert_close(ImageClassifier.from_pretrained(tmp_path)(x), given((x - 0.1307) / 0.3081))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("arguments", "mean", "std", "message"),
    [
        ({}, 0.0, 0.0, r"got std = 0\.0; expected a finite number above 0"),
        ({}, 0.0, -1.0, r"got std = -1\.0; expected a finite number above 0"),
        ({}, math.nan, 1.0, r"got mean = nan; expected a finite number.*"),
        (
            {},
            0.0,
            1e-320,
            r"got mean = 0 and std = .*; expected numbers at which weights stay finite in torch\.float64",
        ),
        (
            {"activation": "relu"},
            0.0,
            1.0,
            r"got a model with activation 'relu' and no biases; expected layers with .*",
        ),
    ],
)
def test_numbers_that_cannot_be_folded_are_refused(arguments: Any, mean: float, std: float, message: str) -> None:
    with pytest.raises(BilensError, match=message):
        build(**arguments).standardized(mean, std)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_save_over_an_older_model_that_fails_leaves_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    old, new = build(activation="relu"), build(activation="gelu", seed=1)
    old.save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("a model card")
    replace = os.replace

    def full(source: str, target: str) -> None:
        if str(target).endswith(name) and str(source).endswith(".part"):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StoreError, match="No space left on device"):
        new.save_pretrained(tmp_path)
    monkeypatch.undo()
    again = ImageClassifier.from_pretrained(tmp_path)
    assert again.activation == "relu"
    assert torch.equal(again(rows(3)), old(rows(3)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_the_config_of_one_model_and_the_weights_of_another_are_refused(tmp_path: Path) -> None:
    for seed in (0, 1):
        build(seed=seed).save_pretrained(tmp_path / str(seed))
    shutil.copy(tmp_path / "1" / "model.safetensors", tmp_path / "0")
    with pytest.raises(StoreError, match=r"config\.json and model\.safetensors, which were not written together"):
        ImageClassifier.from_pretrained(tmp_path / "0")
