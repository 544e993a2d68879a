"""The recipe of convolutions on a few 8×8 digits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from reports import check_report

from bilens import data
from bilens.data import Dataset, Split
from bilens.store import Folder
from oracle import array, near
from reproduction import reproduce, text
from reproduction.lab import Lab
from reproduction.recipes import convolution

pytestmark = pytest.mark.slow


class TinyLab(Lab):
    """A lab with a few 8×8 digits and its smallest models."""

    def dataset(self, name: str = "mnist") -> Dataset:
        images = data.digits()
        few = Split(images.train.images[:400], images.train.labels[:400])
        return replace(images, train=few)


def test_the_recipe_measures_what_it_says(tmp_path: Path) -> None:
    lab = TinyLab(Folder(tmp_path, {}), quick=True)
    seeds = [convolution.measure(lab, seed) for seed in (0, 1)]
    check_report(convolution.RECIPE, seeds)
    assert convolution.RECIPE.name in reproduce.APART
    prose = text.templates(text.FOLDER / "apart")
    drawn = {f"figure:{key}": caption for key, (_, caption) in convolution.RECIPE.figures(seeds).items()}
    filled = text.fill(
        prose["convolution"], {"convolution": seeds}, {"settings": "s", "table": "t", **drawn}, prose, {}
    )
    assert "{{" not in filled
    model, digits = convolution.trained(lab, 1), lab.dataset()
    assert len(list((tmp_path / "models").iterdir())) == 2  # trained once each
    x = digits.test.images
    left, right = (torch.nn.functional.conv2d(x.reshape(-1, 1, 8, 8), part.weight, part.bias, 2)
                   for part in (model.left, model.right))  # fmt: skip
    logits = (left * right).flatten(1) @ model.readout.weight.T
    near(model.tensor(digits)(x), array(logits - logits.mean(dim=1, keepdim=True)), logits.abs().max(), rtol=1e-5)
    for seed in seeds:
        assert seed["error of the first eigenvalue"] < 1e-10
        assert seed["error of the norm"] < 1e-12
        assert all(seed[name] == 0 for name in seed.names if name.startswith("certificates violated"))
        assert seed["accuracy, 40 eigenvectors"] >= seed["accuracy, 1 eigenvectors"]
    own = (logits.argmax(dim=1) == digits.test.labels).double().mean()
    assert abs(seeds[1]["accuracy"] - float(own)) < 2 / len(x)
