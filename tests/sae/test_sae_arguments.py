"""What coders and their training take as numbers, and how they name what they cannot take."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from bilens import sae
from bilens.errors import BilensError, ShapeError
from bilens.space import Space
from bilens.tensor import BilinearTensor
from messages import refuses

pytestmark = pytest.mark.bad_input

X = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
MATRIX = np.ones((2, 4))
STREAM = sae.TensorStream(X, 5)
CODER = sae.TopKSAE(4, 8, 2)
LAYER = BilinearTensor(torch.eye(4), torch.eye(4), torch.eye(4), Space("x", 4), Space("y", 4))


def train(**settings: Any) -> sae.StandardSAE:
    coder = sae.StandardSAE(4, 8)
    sae.train(coder, STREAM, **({"steps": 2, "progress": False, "device": "cpu"} | settings))
    return coder


def transcode(**settings: Any) -> sae.Transcoder:
    made = sae.Transcoder(4, 4, 6, 2)
    sae.transcode(made, X, X, **({"steps": 2, "batch_size": 5, "progress": False} | settings))
    return made


REFUSED = {
    "coders of type StandardSAE": [lambda: sae.train_many(sae.StandardSAE(4, 8), STREAM, steps=1)],
    "a BilinearTensor; expected a StandardSAE": [lambda: sae.train(LAYER, STREAM, steps=1)],
    "the stream of type int": [lambda: sae.train(CODER, 5, steps=1), lambda: sae.evaluate(CODER, 5)],
    "the stream of type NoneType": [lambda: sae.IterableStream(None)],
    "coder of type BilinearTensor": [lambda: sae.evaluate(LAYER, X)],
    "processes of type int": [lambda: train(processes=3)],
    "device 2.5": [lambda: train(device=2.5)],
    "steps = 1.5": [lambda: train(steps=1.5), lambda: transcode(steps=1.5)],
    "lr = 'a'": [lambda: train(lr="a"), lambda: train(lr=["a"]), lambda: transcode(lr="a")],
    "l1 = None": [lambda: train(l1=None)],
    "similarity = inf": [lambda: train(similarity=float("inf"))],
    "warmup = 'a'": [lambda: train(warmup="a"), lambda: transcode(warmup="a")],
    "decay = 2": [lambda: train(decay=2), lambda: transcode(decay=2)],
    "clip = 'a'": [lambda: train(clip="a")],
    "batch_size = 2.5": [lambda: sae.TensorStream(X, 2.5), lambda: transcode(batch_size=2.5)],
    "seed = 'a'": [
        lambda: sae.TensorStream(X, 2, "a"),
        lambda: sae.StandardSAE(4, 8, seed="a"),
        lambda: sae.Transcoder(4, 4, 6, 2, seed="a"),
        lambda: transcode(seed="a"),
    ],
    "batch = -1": [
        lambda: STREAM.batch(-1),
        lambda: STREAM.size(-1),
        lambda: STREAM.part(-1, 0, 1),
        lambda: sae.IterableStream([X]).batch(-1),
    ],
    "batch = 1.5": [lambda: STREAM.batch(1.5), lambda: sae.IterableStream([X]).batch(1.5)],
    "d_in = 'a'": [lambda: sae.GatedSAE("a", 3), lambda: sae.Transcoder("a", 4, 6, 2)],
    "d_sae = 2.5": [lambda: sae.JumpReLUSAE(4, 2.5), lambda: sae.Transcoder(4, 4, 2.5, 2)],
    "k = 1.5": [lambda: sae.TopKSAE(4, 8, 1.5), lambda: sae.Transcoder(4, 4, 6, 1.5)],
    "p = 'a'": [lambda: sae.decoder_similarity(X, "a")],
    "vectors of type ndarray": [
        lambda: sae.TensorStream(MATRIX),
        lambda: CODER.encode(MATRIX),
        lambda: CODER(MATRIX),
        lambda: sae.Transcoder(4, 4, 6, 2)(MATRIX),
    ],
    "codes of type ndarray": [
        lambda: CODER.decode(MATRIX),
        lambda: sae.l0(MATRIX),
        lambda: sae.dead_fraction(MATRIX),
    ],
    "x_hat of type ndarray": [lambda: sae.nmse(X, MATRIX), lambda: sae.explained_variance(X, MATRIX)],
    "W_dec of type ndarray": [lambda: sae.decoder_similarity(MATRIX)],
    "space of type int": [lambda: CODER.dictionary(4)],
    "features 'a'": [lambda: CODER.dictionary(LAYER.input, "a")],
    "features [0.5]": [lambda: CODER.dictionary(LAYER.input, [0.5])],
    "transcoder of type TopKSAE": [lambda: sae.transcode(CODER, X, X, steps=1)],
    "inputs of type ndarray": [lambda: sae.transcode(sae.Transcoder(4, 4, 6, 2), X.numpy(), X, steps=1)],
}


@pytest.mark.parametrize(("said", "call"), [(said, call) for said, calls in REFUSED.items() for call in calls])
def test_what_cannot_be_taken_is_named(said: str, call: Any) -> None:
    with refuses(BilensError, said):
        call()


def test_rows_of_a_tensor_are_no_batches() -> None:
    with refuses(ShapeError, "a batch that is a tensor of shape (4,)"):
        sae.train(CODER, X, steps=1)


def test_numpys_numbers_train_as_pythons_do(tmp_path: Any) -> None:
    ours: dict[str, Any] = {
        "steps": 3,
        "lr": 0.5,
        "l1": 2.0,
        "similarity": 1.0,
        "warmup": 0.5,
        "decay": 0.5,
        "clip": 1.0,
    }
    theirs = {name: np.int64(value) if name == "steps" else np.float32(value) for name, value in ours.items()}
    first = train(**ours, checkpoint=tmp_path / "c")
    second = train(**theirs)
    again = train(**theirs, checkpoint=tmp_path / "c")  # which gives the weights at once, if the settings are equal
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
        assert torch.equal(value, again.state_dict()[name])


def test_sizes_and_seeds_may_be_numpys(tmp_path: Any) -> None:
    ours, theirs = sae.TopKSAE(4, 8, 2, seed=3), sae.TopKSAE(np.int64(4), np.int32(8), np.int8(2), seed=np.int64(3))
    assert torch.equal(ours.W_dec, theirs.W_dec)
    theirs.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "cfg.json").read_text("utf-8"))["k"] == 2
    first, second = (
        transcode(),
        transcode(steps=np.int64(2), batch_size=np.int8(5), seed=np.int64(0), lr=np.float64(2e-3)),
    )
    assert torch.equal(first.W_dec, second.W_dec)
    stream = sae.TensorStream(X, np.int64(5), np.int64(0))
    assert torch.equal(stream.batch(np.int64(6)), STREAM.batch(6))


def test_any_collection_of_coders_is_trained() -> None:
    def made() -> sae.StandardSAE:
        return sae.StandardSAE(4, 8)

    coders = [made(), made(), made()]
    settings: dict[str, Any] = {"steps": 2, "progress": False, "device": "cpu"}
    for collection in (coders[:1], tuple(coders[1:2]), torch.nn.ModuleList(coders[2:])):
        sae.train_many(collection, STREAM, **settings)
    assert all(torch.equal(coder.W_dec, train().W_dec) for coder in coders)
