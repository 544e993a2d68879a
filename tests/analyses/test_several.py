"""The main job with several layers, small: what it writes, what its page says, and what it refuses."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from bilens import data, plots, store
from bilens.analyses import _several as several
from bilens.cli import main
from bilens.features import FeatureSet, TreeSet
from bilens.models import ImageClassifier
from bilens.space import Space
from oracle import Array

FLAGS = ["--data", "digits", "--hidden", "12", "--epochs", "3", "--noise", "0.1", "--count", "2"]


def undrawn(patch: pytest.MonkeyPatch) -> None:
    """No figures: `plots` has tests of its own, and drawing takes longer than all else here."""
    for name in ("kernel_tree", "save"):
        patch.setattr(plots, name, lambda *_: None)
    patch.setattr(plots, "report", lambda *_: [])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("deep") / "run"
    with pytest.MonkeyPatch.context() as patch:
        undrawn(patch)
        assert main(["demo", "--layers", "2", "--out", str(out), *FLAGS]) == 0
    return out


def page(run: Path) -> dict:
    text = (run / "report.html").read_text("utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])["runs"][0]


def decode(array: dict) -> Array:
    """By numpy, as docs/explorer-format.md says."""
    kinds = {"f4": "<f4", "i2": "<i2", "u1": "u1"}
    values = np.frombuffer(base64.b64decode(array["data"]), kinds[array["type"]]).reshape(array["shape"])
    return values * np.array(array.get("scale", 1.0)).reshape(-1, *[1] * (values.ndim - 1))


def logits(run: Path, x: Array) -> Array:
    """Of the model's file, centred."""
    w = {name: value.astype(np.float64) for name, value in load_file(run / "model" / "model.safetensors").items()}
    for layer in (0, 1):
        x = (x @ w[f"layers.{layer}.left.weight"].T) * (x @ w[f"layers.{layer}.right.weight"].T)
    y = x @ w["readout.weight"].T
    return y - y.mean(axis=1, keepdims=True)


def test_the_page_computes_the_model_and_takes_it_apart_exactly(run: Path) -> None:
    shown, x = page(run), data.digits().test.images[:20].double().numpy()
    assert (shown["model"], shown["outputs_set"], len(shown["levels"])) == (None, None, 2)
    y = x
    for level in shown["levels"]:
        y = ((y @ decode(level["left"]).T) * (y @ decode(level["right"]).T)) @ decode(level["down"]).T
    np.testing.assert_allclose(y, logits(run, x), rtol=1e-4, atol=1e-4)
    trees = store.load(run / "records" / "trees", TreeSet)
    for place, tree in enumerate(shown["trees"]["trees"]):
        mu = np.array([root["leaves"] for root in tree["roots"]])
        reads = (x @ decode(tree["readers"]).T).reshape(len(x), *mu.shape)
        forms = (reads**2 * mu).sum(axis=2)
        votes = forms**2 * np.array([root["value"] for root in tree["roots"]])
        left = logits(run, x)[:, place] - votes.sum(axis=1)
        scale = np.abs(logits(run, x)[:, place]).max()
        assert np.abs(left).max() < 0.25 * scale  # what is in the page is most of the logit
        assert tree["error"] == pytest.approx(trees.trees[place].error, rel=1e-5)


def test_a_root_is_drawn_with_what_it_is_on_the_images_of_each_class(run: Path) -> None:
    shown, test = page(run)["trees"], data.digits().test
    x, labels = test.images.double().numpy(), test.labels.numpy()
    tree = shown["trees"][3]
    root, count = tree["roots"][0], len(tree["roots"][0]["leaves"])
    forms = ((x @ decode(tree["readers"])[:count].T) ** 2) @ np.array(root["leaves"])
    for one in range(10):
        told = np.percentile(forms[labels == one], shown["percentiles"])
        np.testing.assert_allclose(root["quantiles"][one], told, rtol=1e-3, atol=1e-3 * np.abs(forms).max())
        mean = (root["value"] * forms[labels == one] ** 2).mean()
        assert root["means"][one] == pytest.approx(mean, rel=1e-3, abs=1e-4)
    assert shown["samples"] == len(labels)


def test_the_energies_and_scores_in_the_summary_are_those_of_the_weights(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text("utf-8"))
    test = data.digits().test
    right = (logits(run, test.images.double().numpy()).argmax(axis=1) == test.labels.numpy()).mean()
    assert summary["model"]["test_accuracy"] == pytest.approx(right)
    rows = summary["faithfulness"]
    kinds = [(row["kind"], row.get("beside")) for row in rows.values()][:4]
    ours = list(rows)[1]
    assert kinds == [("model", None), ("view", None), ("null", ours), ("rival", ours)]
    curve = summary["directions"]["curve"]
    assert curve["kept"][-1] == 12
    assert curve["accuracy"][-1] == pytest.approx(right, abs=0.006)  # all directions are the model
    squares = [sum(value**2 for value in bond) for bond in summary["directions"]["singular_values"]]
    assert squares[0] == pytest.approx(squares[1], rel=1e-9)  # ‖T‖² at every bond


def test_the_samples_of_a_hidden_direction_are_those_of_its_eigenvectors(run: Path) -> None:
    found = store.load(run / "records" / "features" / "directions", FeatureSet)
    assert found.detail is not None
    assert found.detail.samples is not None
    assert found.detail.responses is not None
    for spectrum, numbers, responses in zip(found.spectra, found.detail.samples, found.detail.responses, strict=True):
        images = data.digits().test.images[numbers].double()
        np.testing.assert_allclose(
            (images @ spectrum.vectors.double().T).square() @ spectrum.values.double(), responses.double(),
            rtol=0.02, atol=0.02 * float(responses.abs().max()),
        )  # fmt: skip


def test_the_same_command_goes_on_and_explore_writes_the_same_page(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undrawn(monkeypatch)
    for name in ("templates", "hidden_directions"):
        monkeypatch.setattr(several, name, lambda *_: pytest.fail("computed again"))
    before = (run / "report.html").read_bytes()
    assert main(["demo", "--layers", "2", "--out", str(run), *FLAGS]) == 0
    assert (run / "report.html").read_bytes() == before
    assert main(["explore", str(run), "--out", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").read_bytes() == before


@pytest.mark.parametrize(("layers", "trees"), [(2, True), (3, False)])
def test_a_given_model_of_several_layers_is_read_without_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layers: int, trees: bool
) -> None:
    undrawn(monkeypatch)
    space = Space("pixels", 4, image=(2, 2))
    model = ImageClassifier(space, Space("digits", 3), 5, layers=layers, embedding=5, bias=True, residual=True, seed=1)
    model.save_pretrained(tmp_path / "model")
    assert main(["read", str(tmp_path / "model"), "--out", str(tmp_path / "run"), "--count", "2"]) == 0
    shown = page(tmp_path / "run")
    assert (shown["trees"] is not None, len(shown["levels"]), shown["scores"]) == (trees, layers, [])
    assert (f"an output of {layers} layers" in " ".join(shown["notes"])) is not trees
    x = np.random.default_rng(0).random((6, 4))
    y = np.concatenate([x, np.ones((6, 1))], axis=1)
    for level in shown["levels"]:
        y = ((y @ decode(level["left"]).T) * (y @ decode(level["right"]).T)) @ decode(level["down"]).T
    told = model(torch.tensor(x, dtype=torch.float32)).detach().double().numpy()
    np.testing.assert_allclose(y, told - told.mean(axis=1, keepdims=True), atol=1e-4)
    if trees:
        assert shown["trees"]["trees"][0]["roots"][0]["quantiles"] is None


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--layers", "0"], "got layers = 0; expected"),
        (["--layers", "2", "--sae-steps", "5"], "got --layers 2 with --sae-steps; expected one layer"),
        (["--layers", "2", "--model", "somewhere"], "got --model with --layers 2; expected one of them"),
    ],
)
def test_what_does_not_go_together_is_refused(
    flags: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--data", "digits", "--out", str(tmp_path / "run"), *flags]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert told in said[0]
    assert not (tmp_path / "run").exists()
