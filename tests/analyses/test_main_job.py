"""The main job on the 8×8 digits, small enough to run whole: what it writes, what it states, and how it continues."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors.numpy import load_file
from small_job import BUDGET, FLAGS
from small_job import undrawn as blank_figures

from bilens import data, sae, store
from bilens.cli import main
from bilens.features import FeatureSet
from bilens.models import ImageClassifier
from goldens import copied


def job(out: Path, *more: str) -> int:
    return main(["demo", "--out", str(out), *FLAGS, *more])


@pytest.fixture
def undrawn() -> Iterator[None]:
    """Blank figures, where the test is about something else."""
    with blank_figures():
        yield


@pytest.fixture(scope="module")
def summary(run: Path) -> dict:
    return json.loads((run / "summary.json").read_text())


def weights(run: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Left, right and read-out weights, in float64."""
    tensors = load_file(run / "model" / "model.safetensors")
    names = ("layers.0.left.weight", "layers.0.right.weight", "readout.weight")
    return tuple(tensors[name].astype(np.float64) for name in names)


def test_pair_features_stand_beside_atoms_never_trained(run: Path, summary: dict) -> None:
    beside = {
        name: row
        for name, row in summary["faithfulness"].items()
        if row.get("beside") == "SAE on input pairs, all features"
    }
    assert [(name, row["kind"]) for name, row in beside.items()] == [
        ("64 pair vectors drawn at random, never trained", "null"),
        ("64 random unit vectors, never trained", "null"),
        ("the mean pair vector alone", "null"),
    ]
    drawn, random, mean = beside.values()
    assert drawn["numbers"] == random["numbers"] == 65 * 10 + 2 * 30 * 2080  # 30 codes with their places per pair
    assert mean["numbers"] == 10
    left, right, readout = weights(run)
    i, j = np.triu_indices(64)
    vectors = (left[:, i] * right[:, j] + right[:, i] * left[:, j]).T / 2
    test = data.load("digits").test
    logits = test.images.double().numpy().sum(axis=1, keepdims=True) ** 2 * (vectors.mean(axis=0) @ readout.T)
    right_ones = (logits.argmax(axis=1) == test.labels.numpy()).mean()
    assert mean["accuracy"] == pytest.approx(right_ones, abs=0.01)
    assert mean["samples"] == len(test.labels)
    assert mean["recovered"] < drawn["recovered"]


def test_everything_is_written(run: Path) -> None:
    written = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    expected = {"summary.json", "report.html", "settings.json", "model/config.json", "model/model.safetensors"}
    expected |= {
        f"sae_{which}/{name}" for which in ("outputs", "pairs") for name in ("cfg.json", "sae_weights.safetensors")
    }
    expected |= {f"records/features/{name}.json" for name in ("digits", "svd", "sae", "pairs")}
    expected |= {f"records/{name}.json" for name in ("svd", "pairs_nulls", "samples", "logits", "training")}
    expected |= {f"figures/{name}.svg" for name in ("digits", "sae", "svd", "pairs", "sae-codes", "accuracy")}
    expected |= {
        f"figures/{name}.svg" for name in ("digits-gallery", "digits-9", "svd-certificate", "svd-singular-values")
    }
    assert expected <= written
    assert not [name for name in written if name.endswith(".part")]


def test_the_accuracy_is_the_accuracy_of_the_weights(run: Path, summary: dict) -> None:
    left, right, readout = weights(run)
    test = data.digits().test
    images = test.images.double().numpy()
    logits = ((images @ left.T) * (images @ right.T)) @ readout.T
    accuracy = (logits.argmax(axis=1) == test.labels.numpy()).mean()
    assert summary["model"]["test_accuracy"] == pytest.approx(accuracy)
    assert summary["data"]["test"] == len(images)
    assert accuracy > 0.8


def test_the_singular_values_are_those_of_the_dense_tensor(run: Path, summary: dict) -> None:
    left, right, _ = weights(run)
    dense = np.einsum("hi,hj->hij", left, right)
    dense = (dense + dense.transpose(0, 2, 1)) / 2
    values = np.linalg.svd(dense.reshape(len(left), -1), compute_uv=False)
    np.testing.assert_allclose(summary["svd"]["singular_values"], values, rtol=1e-5)


def test_curves_end_at_the_model_and_stay_below_their_bounds(summary: dict) -> None:
    for name in ("digits", "svd"):
        curve = summary[name]["curve"]
        assert curve["accuracy"][-1] == pytest.approx(summary["model"]["test_accuracy"])
        assert curve["recovered"][-1] == pytest.approx(1, abs=1e-4)
        assert curve["error"][-1] < 1e-3
        for error, bound in zip(curve["error"], curve["bound"], strict=True):
            assert error <= bound + 1e-3


def test_the_model_run_through_pair_features_is_identity_11(run: Path, summary: dict) -> None:
    left, right, readout = weights(run)
    coder = sae.TopKSAE.from_pretrained(run / "sae_pairs").double()
    test = data.digits().test
    x = test.images.double()
    m = x.shape[1]
    i, j = (index.reshape(-1) for index in torch.meshgrid(torch.arange(m), torch.arange(m), indexing="ij"))
    wide, tall = torch.tensor(left).T, torch.tensor(right).T
    vectors = (wide[i] * tall[j] + wide[j] * tall[i]) / 2
    with torch.no_grad():
        rebuilt = torch.einsum("ni,nj,ijh->nh", x, x, coder(vectors).reshape(m, m, -1))
    logits = rebuilt @ torch.tensor(readout).T
    accuracy = float((logits.argmax(dim=1) == test.labels).double().mean())
    told = summary["faithfulness"]["SAE on input pairs, all features"]
    assert told["accuracy"] == pytest.approx(accuracy, abs=0.004)
    loss = float(torch.nn.functional.cross_entropy(logits, test.labels))
    assert told["cross_entropy"] == pytest.approx(loss, rel=1e-3)
    whole = (x @ wide) * (x @ tall)
    nmse = float((rebuilt - whole).square().sum() / whole.square().sum())
    assert summary["pairs"]["output_nmse"] == pytest.approx(nmse, rel=1e-3)
    upper = i <= j
    with torch.no_grad():
        error = (coder(vectors) - vectors)[upper].square().sum() / vectors[upper].square().sum()
    assert summary["pairs"]["nmse"] == pytest.approx(float(error), rel=1e-3)


def test_pseudoinverse_codes_are_the_least_squares_projection(run: Path, summary: dict) -> None:
    left, right, readout = weights(run)
    dataset = data.digits()
    train, test = (
        (split.images.double().numpy() @ left.T) * (split.images.double().numpy() @ right.T)
        for split in (dataset.train, dataset.test)
    )
    coder = sae.StandardSAE.from_pretrained(run / "sae_outputs").double()
    with torch.no_grad():
        frequency = (coder.encode(torch.tensor(train)) > 0).double().mean(dim=0).numpy()
    atoms = coder.W_dec.detach().numpy()[frequency > summary["sae"]["active_threshold"]]
    bias = coder.b_dec.detach().numpy()
    codes = np.linalg.lstsq(atoms.T, (test - bias).T, rcond=1e-6)[0].T
    logits = (codes @ atoms + bias) @ readout.T
    accuracy = (logits.argmax(axis=1) == dataset.test.labels.numpy()).mean()
    assert summary["sae"]["active"] == pytest.approx(len(atoms), abs=2)
    told = next(score for name, score in summary["faithfulness"].items() if "pseudoinverse" in name)
    assert told["accuracy"] == pytest.approx(accuracy, abs=0.004)


def test_the_sets_hold_what_the_page_shows(run: Path) -> None:
    for name, count in (("digits", 10), ("svd", 3), ("sae", 3), ("pairs", 3)):
        view = store.load(run / "records" / "features" / name, FeatureSet)
        assert view.name == name
        assert len(view) == count
        assert view.output.labels == tuple("0123456789")
        assert bool((view.importance[:-1] >= view.importance[1:]).all()) or name == "digits"


def test_the_page_stands_alone(run: Path) -> None:
    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list) -> None:
            assert not [value for name, value in attributes if name in ("src", "href")]

    text = (run / "report.html").read_text()
    Reader().feed(text)
    assert not re.search(r"url\(|@import", text)
    assert len(text) < 8_000_000


def test_the_job_ends_with_the_page_its_settings_and_what_they_compare_with(run: Path, undrawn, capsys) -> None:
    assert job(run) == 0
    told = capsys.readouterr()
    page, settings, compare = told.out.splitlines()[-3:]
    assert page == f"page:    {run / 'report.html'}"
    assert settings.startswith(
        "settings: 24 hidden units, noise 0.1, 12 epochs over 1,442 training images of digits, seed 0;"
    )
    assert "1,000 hidden units, no noise, all 60,000 training images of MNIST, and means over five seeds" in compare
    assert "What to expect" in compare
    assert "## What to expect" in (Path(__file__).parents[2] / "docs" / "command-line.md").read_text("utf-8")
    steps = [line for line in told.err.splitlines() if line.startswith("step ")]
    assert [line.partition(" ·")[0] for line in steps] == [f"step {n} of 6" for n in range(1, 7)]
    assert "took" in steps[1]


@pytest.mark.slow
def test_running_again_computes_nothing_again_and_draws_every_figure(run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (run / "records").rglob("*.json")}
    assert job(run) == 0
    assert {path: path.stat().st_mtime_ns for path in (run / "records").rglob("*.json")} == before
    for figure in (run / "figures").iterdir():
        assert figure.read_text("utf-8").count("<path ") > 3, figure.name


def test_other_settings_in_the_same_folder_are_refused(run: Path, capsys) -> None:
    before = (run / "summary.json").read_bytes()
    assert job(run, "--seed", "7") == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert "seed: 0 → 7" in told[0]
    assert (run / "summary.json").read_bytes() == before


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_finished_and_the_next_run_continues(run: Path, summary: dict, tmp_path, undrawn) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "bilens.cli", "demo", "--out", str(out), *FLAGS]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while (
        not (out / "records" / "features" / "digits.json").exists()
        and process.poll() is None
        and time.monotonic() < deadline
    ):
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    if process.returncode == 130:
        assert "Traceback" not in told
        assert "continues" in told
    else:
        assert process.returncode == 0  # it was done before the signal came
    kept = (out / "records" / "features" / "digits.safetensors").read_bytes()
    assert job(out) == 0
    assert (out / "records" / "features" / "digits.safetensors").read_bytes() == kept
    again = json.loads((out / "summary.json").read_text())
    assert again["model"] == summary["model"]


@pytest.mark.slow
def test_read_takes_the_checkpoint_of_the_run(run: Path, summary: dict, tmp_path, undrawn) -> None:
    assert main(["read", str(run / "model"), "--out", str(tmp_path / "again"), "--data", "digits", *BUDGET]) == 0
    again = json.loads((tmp_path / "again" / "summary.json").read_text())
    assert again["model"] == summary["model"]
    assert again["faithfulness"] == summary["faithfulness"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["image_plain", "image_residual"])
def test_read_takes_the_authors_layout_without_images(name: str, tmp_path, undrawn) -> None:
    folder = copied(name, tmp_path / "theirs")
    flags = ["--count", "3", "--pair-features", "16", "--pair-steps", "20"]
    assert main(["read", str(folder), "--out", str(tmp_path / "out"), *flags]) == 0
    assert "faithfulness" not in json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.slow
def test_a_given_model_is_read_and_not_trained(run: Path, summary: dict, tmp_path, undrawn) -> None:
    out = tmp_path / "given"
    assert main(["demo", "--model", str(run / "model"), "--data", "digits", *BUDGET, "--out", str(out)]) == 0
    assert json.loads((out / "summary.json").read_text())["model"] == summary["model"]
    # The tensors, not the bytes: the format puts its metadata in any order.
    ours, theirs = (safetensors.torch.load_file(folder / "model" / "model.safetensors") for folder in (out, run))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not (out / "records" / "training.json").exists()
    ImageClassifier.from_pretrained(out / "model")
