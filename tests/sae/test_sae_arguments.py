"""What SAEs and their training take as numbers, and how they name what they cannot take."""

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


REFUSED = {
    "SAEs of type StandardSAE": [lambda: sae.train_many(sae.StandardSAE(4, 8), STREAM, steps=1)],
    "a BilinearTensor; expected a StandardSAE": [lambda: sae.train(LAYER, STREAM, steps=1)],
    "the stream of type int": [lambda: sae.train(CODER, 5, steps=1), lambda: sae.evaluate(CODER, 5)],
    "the stream of type Tensor": [lambda: sae.train(CODER, torch.tensor(2.0), steps=1)],
    "the stream of type float64": [
        lambda: sae.train(CODER, np.float64(2), steps=1),
        lambda: sae.evaluate(CODER, np.float64(2)),
        lambda: sae.IterableStream(np.float64(2)),
    ],
    "the stream of type ndarray": [lambda: sae.evaluate(CODER, np.array(2.0))],
    "SAEs of type Tensor": [lambda: sae.train_many(torch.tensor(2.0), STREAM, steps=1)],
    "a stream without vectors": [
        lambda: sae.evaluate(CODER, []),
        lambda: sae.evaluate(CODER, {}),
        lambda: sae.evaluate(CODER, [torch.zeros(0, 4)]),
    ],
    "factor = nan; expected a finite number above 0": [
        lambda: CODER.rescale(float("nan")),
        lambda: CODER.rescale(torch.tensor(torch.nan)),
    ],
    "factor = 0": [lambda: CODER.rescale(0)],
    "factor = -1": [lambda: CODER.rescale(-1)],
    "factor = '3'": [lambda: CODER.rescale("3")],
    "start = -1": [lambda: STREAM.part(0, -1, 2)],
    "stop = '2'": [lambda: STREAM.part(0, 0, "2")],
    "W_dec of type torch.int64": [lambda: sae.decoder_similarity(torch.ones(2, 3, dtype=torch.int64))],
    "vectors of type NoneType": [
        lambda: sae.StandardSAE(4, 8).sparse(None),
        lambda: sae.JumpReLUSAE(4, 8).sparse(None),
        lambda: CODER.sparse(None),
    ],
    "unit_rows = 'no'; expected True or False": [lambda: train(unit_rows="no")],
    "normalize = 'no'": [lambda: train(normalize="no")],
    "progress = 1": [lambda: train(progress=1)],
    "rectify = 'False'": [lambda: sae.TopKSAE(4, 8, 2, rectify="False")],
    "apply_b_dec_to_input = 'no'": [
        lambda: sae.TopKSAE(4, 8, 2, apply_b_dec_to_input="no"),
        lambda: sae.StandardSAE(4, 8, apply_b_dec_to_input="no"),
        lambda: sae.GatedSAE(4, 8, apply_b_dec_to_input="no"),
    ],
    "shuffle = '3'": [lambda: sae.TensorStream(X, shuffle="3")],
    "precision of type ndarray; expected 'bfloat16' or None": [lambda: train(precision=np.array([1, 2]))],
    "checkpoint = 3": [lambda: train(checkpoint=3)],
    "folder = None": [lambda: CODER.save_pretrained(None), lambda: sae.SAE.from_pretrained(None)],
    "folder = 3": [lambda: CODER.save_pretrained(3), lambda: sae.StandardSAE.from_pretrained(3)],
    "the stream of type NoneType": [lambda: sae.IterableStream(None)],
    "SAE of type BilinearTensor": [lambda: sae.evaluate(LAYER, X)],
    "processes of type int": [lambda: train(processes=3)],
    "device 2.5": [lambda: train(device=2.5)],
    "steps = 1.5": [lambda: train(steps=1.5)],
    "lr = 'a'": [lambda: train(lr="a"), lambda: train(lr=["a"])],
    "l1 = None": [lambda: train(l1=None)],
    "similarity = inf": [lambda: train(similarity=float("inf"))],
    "warmup = 'a'": [lambda: train(warmup="a")],
    "decay = 2": [lambda: train(decay=2)],
    "clip = 'a'": [lambda: train(clip="a")],
    "batch_size = 2.5": [lambda: sae.TensorStream(X, 2.5)],
    "seed = 'a'": [
        lambda: sae.TensorStream(X, 2, "a"),
        lambda: sae.StandardSAE(4, 8, seed="a"),
    ],
    "batch = -1": [
        lambda: STREAM.batch(-1),
        lambda: STREAM.size(-1),
        lambda: STREAM.part(-1, 0, 1),
        lambda: sae.IterableStream([X]).batch(-1),
    ],
    "batch = 1.5": [lambda: STREAM.batch(1.5), lambda: sae.IterableStream([X]).batch(1.5)],
    "d_in = 'a'": [lambda: sae.GatedSAE("a", 3)],
    "d_sae = 2.5": [lambda: sae.JumpReLUSAE(4, 2.5)],
    "k = 1.5": [lambda: sae.TopKSAE(4, 8, 1.5)],
    "p = 'a'": [lambda: sae.decoder_similarity(X, "a")],
    "vectors of type ndarray": [
        lambda: sae.TensorStream(MATRIX),
        lambda: CODER.encode(MATRIX),
        lambda: CODER(MATRIX),
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
}


@pytest.mark.parametrize(("said", "call"), [(said, call) for said, calls in REFUSED.items() for call in calls])
def test_what_cannot_be_taken_is_named(said: str, call: Any) -> None:
    with refuses(BilensError, said):
        call()


def test_rows_of_a_tensor_are_no_batches() -> None:
    with refuses(ShapeError, "a tensor of shape (20, 4) as the stream", "Pass sae.TensorStream(vectors)"):
        sae.train(CODER, X, steps=1)
    with refuses(ShapeError, "a batch that is a tensor of shape (4,)"):
        sae.train(CODER, list(X), steps=1)


def test_single_numbers_are_no_codes_and_no_decoder() -> None:
    for call in (sae.dead_fraction, sae.l0):
        with refuses(ShapeError, "codes of shape ()"):
            call(torch.tensor(2.0))
    for W_dec in (torch.tensor(2.0), torch.ones(3)):
        with refuses(ShapeError, f"W_dec of shape {tuple(W_dec.shape)}"):
            sae.decoder_similarity(W_dec)
    with refuses(ShapeError, "factor of shape (2,)"):
        CODER.rescale(torch.ones(2))
    assert float(sae.dead_fraction(torch.tensor([0.0, 1.0]))) == 0.5


def test_empty_batches_between_others_count_for_nothing() -> None:
    alone, between = sae.evaluate(CODER, [X]), sae.evaluate(CODER, [X[:0], X, X[:0]])
    assert (between.l0, between.nmse, between.rows) == (alone.l0, alone.nmse, alone.rows)


def test_a_coder_is_rescaled_by_a_number_or_a_tensor() -> None:
    coders = [sae.StandardSAE(4, 8) for _ in range(2)]
    for coder, factor in zip(coders, (2.5, torch.tensor(2.5)), strict=True):
        torch.nn.init.ones_(coder.b_dec)
        coder.rescale(factor)
        assert torch.equal(coder.b_dec, torch.full((4,), 2.5))


def test_numpys_flags_train_and_are_saved_as_pythons_do(tmp_path: Any) -> None:
    ours = train(unit_rows=False, normalize=False, checkpoint=tmp_path / "c")
    theirs = train(unit_rows=np.False_, normalize=np.False_, checkpoint=tmp_path / "c")  # at once: settings are equal
    assert torch.equal(ours.W_dec, theirs.W_dec)
    assert not torch.equal(ours.W_dec, train().W_dec)
    sae.StandardSAE(4, 8, apply_b_dec_to_input=np.False_).save_pretrained(tmp_path)
    assert sae.StandardSAE.from_pretrained(tmp_path).apply_b_dec_to_input is False


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
