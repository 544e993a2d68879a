"""bilens compare of two layers that were read: cosines of kernels beside dense matrices in numpy, and their null."""

from __future__ import annotations

import base64
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import reading_job
import torch
from torch import nn

import tiny_models
from bilens import cli, explorer
from bilens.errors import StoreError
from messages import refuses

pytest.importorskip("duckdb", reason="pip install 'bilens[tables]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # of a library that is not ours
SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "explorer-lm-schema.json").read_text("utf-8"))
TOKENS, CONTROLS = 10, 4


def read(out: Path, model: nn.Module, layers: tuple[int, ...], *, text: bool = True) -> Path:
    """A run of a model that lies beside it, so that another process could open it."""
    folder = out.with_name(f"{out.name}-model")
    model.save_pretrained(folder)
    found = replace(reading_job.subject(model, text=text), named=str(folder))
    reading_job.read(out, found, layers, tokens=TOKENS, controls=CONTROLS)
    return out


@pytest.fixture(scope="module")
def models() -> list[Any]:
    return [tiny_models.made("llama", seed=seed, hidden_act="linear") for seed in (0, 1)]


@pytest.fixture(scope="module")
def runs(models: list[Any], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place = tmp_path_factory.mktemp("compared")
    return [read(place / "a", models[0], (0, 2)), read(place / "b", models[1], (2,))]


def data(path: Path) -> dict[str, Any]:
    found = re.search(r'id="data">(.*?)</script>', path.read_text("utf-8"), re.DOTALL)
    assert found
    content = json.loads(found[1])
    jsonschema.validate(content, SCHEMA)
    return content


def array(content: dict[str, Any]) -> np.ndarray:
    kinds = {"f4": "<f4", "i2": "<i2"}
    values = np.frombuffer(base64.b64decode(content["data"]), kinds[content["type"]]).reshape(content["shape"])
    return values * np.array(content.get("scale", [1.0] * len(values)))[:, None]


def kernels(model: Any, layer: int, labels: list[str]) -> np.ndarray:
    """Q of tokens' directions and of the random ones, dense, with a constant coordinate that nothing reads."""
    block = model.model.layers[layer]
    gain = block.post_attention_layernorm.weight.detach().double().numpy()
    w, v, d = (
        getattr(block.mlp, name).weight.detach().double().numpy() for name in ("gate_proj", "up_proj", "down_proj")
    )
    w, v = w * gain, v * gain
    head = model.lm_head.weight.detach().double().numpy()
    rows = (head - head.mean(axis=0)) * model.model.norm.weight.detach().double().numpy()
    found = np.einsum("no,oh,hi,hj->nij", rows[[int(label) for label in labels]], d, w, v)
    return (found + found.transpose(0, 2, 1)) / 2


def moment(model: Any, layer: int) -> np.ndarray:
    """E[x̂ x̂ᵀ] over the text that was fitted to, by a hook in transformers."""
    split, found = reading_job.subject(model).split, {}
    block = model.model.layers[layer]
    hook = block.post_attention_layernorm.register_forward_pre_hook(lambda _, x: found.update(x=x[0]))
    assert split is not None
    with torch.no_grad():
        model(split.fit)
    hook.remove()
    x = found["x"][:, 1:].flatten(0, 1).double().numpy()
    x = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + model.config.rms_norm_eps)
    return x.T @ x / len(x)


def inner(a: np.ndarray, b: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    return np.einsum("nij,jk,mkl,li->nm", a, sigma, b, sigma, optimize=True)


def cosines(a: np.ndarray, b: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    norms = [np.sqrt(np.diag(inner(each, each, sigma))) for each in (a, b)]
    return inner(a, b, sigma) / np.outer(*norms)


def compare(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    status = cli.main(["compare", *map(str, arguments)])
    text = capsys.readouterr()
    assert status == 0, text.err
    return text.out


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert cli.main(["compare", *map(str, arguments)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("bilens: ")]
    return line


def named(content: dict[str, Any]) -> list[str]:
    return [feature["label"] for feature in content["sets"][0]["features"]]


def test_the_page_of_a_layer_has_the_cosines_of_all_its_kernels(models: list[Any], runs: list[Path]) -> None:
    content = data(runs[0] / "layer-002.html")
    assert content["beside"] is None
    q, sigma = kernels(models[0], 2, named(content)), moment(models[0], 2)
    found = array(content["alike"]["cosines"])
    assert found.shape == (TOKENS + CONTROLS, TOKENS + CONTROLS)
    np.testing.assert_allclose(found[:TOKENS, :TOKENS], cosines(q, q, sigma), atol=1e-4)
    np.testing.assert_allclose(content["alike"]["first"][:TOKENS], np.sqrt(np.diag(inner(q, q, sigma))), rtol=1e-4)


def test_two_models_are_compared_in_the_mean_of_their_moments(
    models: list[Any], runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = compare(capsys, *runs, "--layers", 2, "--out", tmp_path / "out")
    content = data(tmp_path / "out" / "report.html")
    beside = content["beside"]
    assert (content["layer"], beside["reading"]["layer"]) == (2, 2)
    assert "both layers’ second moments" in beside["alike"]["metric"]
    labels = [named(content), named(beside["reading"])]
    qs = [kernels(model, 2, each) for model, each in zip(models, labels, strict=True)]
    sigma = (moment(models[0], 2) + moment(models[1], 2)) / 2
    expected = cosines(*qs, sigma)
    np.testing.assert_allclose(array(beside["alike"]["cosines"])[:TOKENS, :TOKENS], expected, atol=1e-5)

    both = [(i, labels[1].index(label)) for i, label in enumerate(labels[0]) if label in labels[1]]
    same = [expected[pair] for pair in both]
    squares = [np.diag(inner(q, q, sigma)) for q in qs]
    distances = [
        np.sqrt(squares[0][i] + squares[1][j] - 2 * expected[i, j] * np.sqrt(squares[0][i] * squares[1][j]))
        / np.sqrt(squares[0][i])
        for i, j in both
    ]
    null = [abs(expected[i, k]) for i, j in both for k in range(TOKENS) if k != j]
    said = json.loads((tmp_path / "out" / "summary.json").read_text("utf-8"))["sets"]["tokens"]
    assert (said["cosine"]["count"], said["pairs"]) == (len(both), len(null))
    assert said["cosine"]["value"] == pytest.approx(np.median(same), abs=1e-6)
    assert said["distance"]["value"] == pytest.approx(np.median(distances), rel=1e-6)
    assert said["random"] == pytest.approx(np.median(null), rel=0.1)  # torch takes the lower of two in the middle
    assert said["most"] == pytest.approx(np.quantile(null, 0.95), abs=1e-6)
    nearest = sum(expected[i].max() <= expected[i, j] for i, j in both)
    assert said["nearest"]["value"] == pytest.approx(nearest / len(both))
    assert re.search(r"tokens +\d+  ", out)
    assert re.search(r"random +4  ", out)


def test_two_layers_of_one_run_are_compared_and_a_page_holds_no_more_of_the_second_than_it_shows(
    models: list[Any], runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare(capsys, runs[0], runs[0], "--layers", "0:2", "--out", tmp_path / "out")
    content = data(tmp_path / "out" / "report.html")
    assert content["title"] == "Layer 0 of a-model beside Layer 2 of a-model"
    q = [kernels(models[0], layer, named(content)) for layer in (0, 2)]
    sigma = (moment(models[0], 0) + moment(models[0], 2)) / 2
    found = array(content["beside"]["alike"]["cosines"])[:TOKENS, :TOKENS]
    np.testing.assert_allclose(found, cosines(*q, sigma), atol=1e-5)
    one = content["beside"]["reading"]["sets"][0]
    assert one["terms"] is None
    assert one["true"] is not None
    assert all(feature["largest"] and not feature["parts"] for feature in one["features"])


@pytest.mark.slow
def test_a_layer_beside_itself_is_the_same_in_every_feature(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_models.made("llama")  # with a surrogate, which is fitted anew to what each run keeps
    runs = [read(tmp_path / name, model, (1,)) for name in "ab"]
    compare(capsys, *runs, "--out", tmp_path / "out")
    for each in json.loads((tmp_path / "out" / "summary.json").read_text("utf-8"))["sets"].values():
        assert each["cosine"]["value"] == pytest.approx(1, abs=1e-9)
        assert each["distance"]["value"] == pytest.approx(0, abs=1e-4)
        assert each["nearest"]["value"] == 1
        assert each["random"] < 0.999
    assert "random pair, |cosine|" in compare(capsys, *runs, "--out", tmp_path / "out")  # again, into the same folder


@pytest.mark.slow
def test_runs_without_text_are_compared_by_their_weights(
    models: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = read(tmp_path / "weights", models[0], (0, 1), text=False)
    out = compare(capsys, run, run, "--layers", "0:1", "--out", tmp_path / "out")
    assert "in weights alone" in out
    content = data(tmp_path / "out" / "report.html")
    q = [kernels(models[0], layer, named(content)) for layer in (0, 1)]
    found = array(content["beside"]["alike"]["cosines"])[:TOKENS, :TOKENS]
    np.testing.assert_allclose(found, cosines(*q, np.eye(16)), atol=1e-5)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", "b"), "got a run of 2 layers without --layers; expected --layers 12, or 5:12"),
        (("a", "b", "--layers", "0"), "got --layers 0; expected of"),
        (("a", "b", "--layers", "0:1:2"), "got --layers 0:1:2; expected one number, or two"),
        (("a", "b", "--layers", "x"), "got --layers x; expected one number, or two"),
        (("a", "a", "--layers", "2"), "twice; expected two layers, or two runs"),
        (("a", "b", "--layers", "2", "--metric", "mnist"), "got --metric for another kind of model"),
        (("a", "b", "--layers", "2", "--ridge", "0.5"), "got --ridge for another kind of model"),
        (("a", "a-model", "--layers", "2"), "a-model, which is no run of a language model"),
        (("a-model", "a-model", "--layers", "2"), "got --layers for another kind of model"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    arguments: tuple[str, ...],
    message: str,
    runs: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(runs[0].parent)
    assert message in refused(capsys, *arguments, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_model_in_the_place_of_the_one_that_was_read_is_noticed(
    models: list[Any], runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = runs[0].with_name("a-model")
    shutil.copytree(place, tmp_path / "kept")
    try:
        models[1].save_pretrained(place)
        line = refused(capsys, *runs, "--layers", 2, "--out", tmp_path / "out")
    finally:
        shutil.rmtree(place)
        shutil.copytree(tmp_path / "kept", place)
    assert "with other weights than when" in line
    assert not (tmp_path / "out").exists()


def test_what_is_not_the_page_of_a_layer_is_refused(runs: list[Path], tmp_path: Path) -> None:
    path = runs[0] / "layer-002.html"
    assert explorer.reading_of(path)["layer"] == 2
    text = path.read_text("utf-8")
    for changed, told in (
        (text[: len(text) // 2], "which is not the page of a layer"),
        (text.replace('"format":', '"format":9'), "of format 9"),
        ("<html>", "which is not the page of a layer"),
    ):
        (tmp_path / "page.html").write_text(changed, "utf-8")
        with refuses(StoreError, told):
            explorer.reading_of(tmp_path / "page.html")
