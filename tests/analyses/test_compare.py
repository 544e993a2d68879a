"""`bilens compare`: cosines against dense trees, the outputs and inputs that differ, its page, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bilens import data, decompose
from bilens.analyses.compare import compare, numbers
from bilens.cli import main
from bilens.deep import DeepTensor, ridged
from bilens.models import ImageClassifier
from bilens.space import Space
from oracle import array
from trees import network, output_tree, symmetrised

PIXELS, DIGITS = Space("pixels", 64, image=(8, 8)), Space("digits", 10)


def planted(tmp_path: Path, pixel: int, target: int) -> tuple[Path, Path]:
    """A random network, and the same with one hidden unit more that hears a pixel and speaks for one output."""
    torch.manual_seed(0)
    paths = []
    for name in ("plain", "planted"):
        torch.manual_seed(1)
        model = ImageClassifier(PIXELS, DIGITS, 6, layers=2, seed=3)
        if name == "planted":
            first, second = (layer.state_dict() for layer in model.layers)
            for side in ("left.weight", "right.weight"):
                first[side][0] = 0
                first[side][0, pixel] = 2
                second[side][0] = 0
                second[side][0, 0] = 1
            with torch.no_grad():
                model.readout.weight[:, 0] = 0
                model.readout.weight[target, 0] = 4
        else:
            with torch.no_grad():
                model.readout.weight[:, 0] = 0
        model.save_pretrained(tmp_path / name)
        paths.append(tmp_path / name)
    return paths[0], paths[1]


def test_cosines_and_shares_are_those_of_dense_trees() -> None:
    a, b = (network(seed, (2, 3, 2)) for seed in (1, 2))
    root = torch.tensor([[1.0, 0.5], [0.0, 2.0]], dtype=torch.float64)
    metric = root @ root.T
    found = numbers(a, b, metric, None)
    for name, weights in (("identity", None), ("data", array(metric))):
        size = 3  # of the oracle's x', whose constant nothing here reads
        x, y = (output_tree(net, weights) for net in (a, b))
        cosine = (x * y).sum() / np.sqrt((x**2).sum() * (y**2).sum())
        assert found["tree"][name]["cosine"] == pytest.approx(cosine, abs=1e-12)
        assert found["tree"][name]["difference"] == pytest.approx(np.sqrt(1 - cosine**2), abs=1e-12)
        squares = ((x - y) ** 2).sum(axis=1)
        told = list(found["outputs"][name].values())
        np.testing.assert_allclose(told, squares / squares.sum(), rtol=1e-9)
        assert found["relative_difference"][name] == pytest.approx(np.sqrt(squares.sum() / (x**2).sum()))
        s, t = symmetrised(x, 4), symmetrised(y, 4)
        full = (s * t).sum() / np.sqrt((s**2).sum() * (t**2).sum())
        assert found["full"][name]["cosine"] == pytest.approx(full, abs=1e-10)
        assert x.shape[1] == size**4


def test_it_names_the_pixel_and_the_output_that_were_planted(tmp_path: Path) -> None:
    a, b = planted(tmp_path, pixel=19, target=7)
    out = tmp_path / "out"
    assert main(["compare", str(a), str(b), "--out", str(out), "--metric", "digits"]) == 0
    summary = json.loads((out / "summary.json").read_text("utf-8"))
    assert max(summary["outputs"]["data"], key=summary["outputs"]["data"].get) == "7"
    page = (out / "report.html").read_text("utf-8")
    assert "Where the outputs differ" in page
    deep = [ImageClassifier.from_pretrained(path).double().deep().centered() for path in (a, b)]
    away = deep[0] - deep[1]
    digits = data.digits()
    metric = ridged(decompose.second_moment(digits.train.images, away.input), away.input)
    vectors = torch.linalg.eigh(away.environment(0, metric=metric))[1]
    assert int(vectors[:, -1].abs().argmax()) == 19
    right = [(net(digits.test.images.double()).argmax(dim=1) == digits.test.labels).double().mean() for net in deep]
    np.testing.assert_allclose(summary["data"]["accuracy"], right)


def test_a_network_and_itself_differ_in_nothing_without_images(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    a, _ = planted(tmp_path, 1, 1)
    summary = compare(a, a, tmp_path / "out")
    assert summary["tree"] == {"identity": {"cosine": pytest.approx(1), "difference": pytest.approx(0, abs=1e-6)}}
    assert summary["relative_difference"]["identity"] == 0
    assert "data" not in summary
    assert "1.0000     0.0000  tree, metric: identity" in capsys.readouterr().out


def test_three_layers_have_no_full_cosine_and_one_layer_has(tmp_path: Path) -> None:
    for layers in (1, 3):
        for seed in (0, 1):
            model = ImageClassifier(
                Space("pixels", 4), Space("digits", 3), 5, layers=layers, bias=bool(seed), seed=seed
            )
            model.save_pretrained(tmp_path / f"{layers}{seed}")
        summary = compare(tmp_path / f"{layers}0", tmp_path / f"{layers}1", tmp_path / f"out {layers}")
        assert bool(summary["full"]) is (layers == 1)
        assert summary["weights"] is None  # one of them has biases
    one, two = (ImageClassifier.from_pretrained(tmp_path / f"1{seed}").tensor().centered() for seed in (0, 1))
    told = compare(tmp_path / "10", tmp_path / "11", tmp_path / "again")["tree"]["identity"]["cosine"]
    lifted = DeepTensor.chain(one), DeepTensor.chain(two)
    assert told == pytest.approx(float(lifted[0].cosine(lifted[1])), abs=1e-6)


def test_a_run_is_read_as_its_model_and_other_depths_or_inputs_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    a, _ = planted(tmp_path, 1, 1)
    run = tmp_path / "run"
    ImageClassifier(PIXELS, DIGITS, 6, seed=0).save_pretrained(run / "model")
    ImageClassifier(Space("pixels", 9), DIGITS, 6, layers=2, seed=0).save_pretrained(tmp_path / "small")
    for other, told in ((run, "2 and 1 layers"), (tmp_path / "small", "9 coordinates")):
        assert main(["compare", str(a), str(other), "--out", str(tmp_path / "refused")]) == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1
        assert told in said[0]
    assert not (tmp_path / "refused").exists()
