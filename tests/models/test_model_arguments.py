"""What models and their training take as numbers, and how they name what they cannot take."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from bilens import models
from bilens.errors import BilensError
from bilens.space import Space
from bilens.tensor import BilinearTensor
from messages import refuses

pytestmark = pytest.mark.bad_input

IN, OUT = Space("x", 4), Space("y", 3)
IMAGES, LABELS = torch.rand(12, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3
LAYER = BilinearTensor(torch.eye(4), torch.eye(4), torch.eye(4), IN, Space("y", 4))


def build(**settings: Any) -> models.ImageClassifier:
    return models.ImageClassifier(IN, OUT, **({"hidden": 5} | settings))


def train(**settings: Any) -> models.ImageClassifier:
    model = build()
    models.train(
        model, IMAGES, LABELS, **({"epochs": 2, "batch_size": 5, "progress": False, "device": "cpu"} | settings)
    )
    return model


REFUSED = {
    "input of type int": [lambda: models.ImageClassifier(4, OUT, 5), lambda: build().over(4, OUT)],
    "output of type int": [lambda: models.ImageClassifier(IN, 3, 5)],
    "space of type int": [lambda: models.Bilinear(2, 3, input=2)],
    "hidden = 2.5": [lambda: build(hidden=2.5), lambda: models.matched_width(2.5, d_in=3, d_out=4)],
    "layers = 'a'": [lambda: build(layers="a")],
    "embedding = 1.5": [lambda: build(embedding=1.5)],
    "seed = 1.5": [lambda: build(seed=1.5), lambda: train(seed=1.5)],
    "d_in = 2.5": [
        lambda: models.Bilinear(2.5, 3),
        lambda: models.Gated(2.5, 3, "reglu"),
        lambda: models.Dense(2.5, 3, "relu"),
    ],
    "beta = 'a'": [lambda: models.Gated(2, 3, "swiglu", beta="a")],
    "checkpoint = 3": [lambda: train(checkpoint=3)],
    "folder = None": [lambda: build().save_pretrained(None), lambda: models.ImageClassifier.from_pretrained(None)],
    "epochs = 1.5": [lambda: train(epochs=1.5)],
    "batch_size = 2.5": [lambda: train(batch_size=2.5)],
    "lr = 'a'": [lambda: train(lr="a")],
    "weight_decay = None": [lambda: train(weight_decay=None)],
    "noise = 'a'": [lambda: train(noise="a")],
    "augmentation of type int": [lambda: train(augmentation=3)],
    "model of type BilinearTensor": [
        lambda: models.train(LAYER, IMAGES, LABELS),
    ],
    "images of type ndarray": [lambda: models.train(build(), IMAGES.numpy(), LABELS)],
    "labels of type list": [lambda: models.train(build(), IMAGES, LABELS.tolist())],
    "vectors of type ndarray": [lambda: build()(IMAGES.numpy())],
}


@pytest.mark.parametrize(("said", "call"), [(said, call) for said, calls in REFUSED.items() for call in calls])
def test_what_cannot_be_taken_is_named(said: str, call: Any) -> None:
    with refuses(BilensError, said):
        call()


def test_numpys_numbers_train_as_pythons_do(tmp_path: Any) -> None:
    ours: dict[str, Any] = {"epochs": 2, "batch_size": 4, "seed": 3, "lr": 0.5, "weight_decay": 1.0, "noise": 0.25}
    theirs = {name: np.int64(value) if isinstance(value, int) else np.float32(value) for name, value in ours.items()}
    first = train(**ours, checkpoint=tmp_path / "c")
    for second in (train(**theirs), train(**theirs, checkpoint=tmp_path / "c")):
        assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


def test_the_config_of_a_model_is_pythons_own(tmp_path: Any) -> None:
    model = build(hidden=np.int64(5), layers=np.int8(2), embedding=np.int64(6), seed=np.int64(1))
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    assert [config[name] for name in ("hidden", "layers", "embedding", "seed")] == [5, 2, 6, 1]
