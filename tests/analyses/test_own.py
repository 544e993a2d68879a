"""The page of a model of one's own in one call, and the other kinds of model that analyses can read."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bilens
from bilens import BilensError, BilinearTensor, ShapeError, Space, StoreError
from bilens.analyses import table
from bilens.analyses.own import subject_of
from bilens.analyses.settings import Budget
from bilens.analyses.subject import Subject, Unsaved
from bilens.faithfulness import Score
from bilens.models import Bilinear
from messages import refuses

NAMES = ("width", "height", "age", "dose")
SMALL = Budget(count=3, sae_features=12, sae_steps=15, pair_features=6, pair_steps=15)


def net() -> tuple[nn.Linear, nn.Linear, nn.Linear]:
    torch.manual_seed(0)
    return nn.Linear(4, 9), nn.Linear(4, 9), nn.Linear(9, 3)


def samples(count: int = 40) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(count, 4, generator=generator)
    left, right, head = net()
    return x, head(left(x) * right(x)).argmax(dim=1)


def test_the_model_is_the_network_less_the_mean_over_outputs() -> None:
    x, y = samples()
    left, right, head = net()
    found = bilens.explore((left, right, head), x, y, out=None, inputs=NAMES, outputs=("a", "b", "c"))
    logits = head(left(x) * right(x)).detach()
    assert found.model is not None
    torch.testing.assert_close(found.model(x), logits - logits.mean(dim=1, keepdim=True), atol=1e-5, rtol=1e-5)
    assert found.model.input.labels == NAMES
    own = found.all_scores[0]
    assert (own.name, own.score.accuracy, own.score.samples) == ("the model itself", 1.0, 40)
    assert [each.name for each in found.features] == ["digits", "svd"]
    assert found.outputs is found.features[0]
    assert (found.features[0].heading, found.features[0].spectra[1].label) == ("Output directions", "b")
    assert all(each.detail is not None and each.detail.examined == 40 for each in found.features)
    ends = {curve.name: float(curve.accuracy[-1]) for curve in found.all_curves if "random" not in curve.name}
    assert list(ends.values()) == [1] * 4, ends  # with everything kept, the model is whole
    assert {curve.samples for curve in found.all_curves} == {40}
    assert found.samples is not None
    assert found.samples.labels is not None


def test_a_page_is_written_over_a_page_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    for _ in range(2):
        bilens.explore(net(), out=page, title="Mine")
        assert "<title>Mine</title>" in page.read_text("utf-8")
    page.write_text("my notes")
    with refuses(StoreError, "not a page of bilens"):
        bilens.explore(net(), out=page)


def test_the_layer_may_be_a_pair_a_module_or_a_tensor() -> None:
    left, right, _ = net()
    layer = Bilinear(4, 9, bias=True)
    with torch.no_grad():
        for part, other in ((layer.left, left), (layer.right, right)):
            part.weight.copy_(other.weight)
            part.bias.copy_(other.bias)
    x = samples()[0]
    expected = (left(x) * right(x)).detach()
    for model in ((left, right), [left, right], layer, layer.tensor(), layer.double()):
        subject = subject_of(model, x)
        torch.testing.assert_close(subject.outputs(subject.given).float(), expected, atol=1e-5, rtol=1e-5)
        assert subject.row is None  # there is nothing to score with
    found = bilens.explore((left, right), out=None)
    assert found.samples is None
    assert found.notes == ()


def test_coders_are_trained_when_they_are_asked_for(capsys) -> None:
    x, y = samples()
    found = bilens.explore(net(), x, y, out=None, analyses=("pairs", "sae"), budget=SMALL)
    assert [each.name for each in found.features] == ["sae", "pairs"]
    assert all(row.score.samples == 40 for row in found.all_scores)
    nulls = {row.beside for row in found.all_scores if row.kind == "null"}
    assert nulls == {row.name for row in found.all_scores[1:] if row.kind == "view"}  # each view has one


@pytest.mark.bad_input
def test_what_does_not_fit_is_refused() -> None:
    x, y = samples()
    with refuses(BilensError, "a model of type Linear", "nn.Linear parts"):
        bilens.explore(nn.Linear(2, 2), out=None)
    with refuses(ShapeError, "names of 3 coordinates of 'inputs'", "4, as the layer has"):
        bilens.explore(net(), out=None, inputs=("a", "b", "c"))
    with refuses(ShapeError, "inputs of shape (40, 3)", "(samples, 4)"):
        bilens.explore(net(), x[:, :3], y, out=None)
    with refuses(ShapeError, "labels of shape (39,)", "(40,)"):
        bilens.explore(net(), x, y[1:], out=None)
    with refuses(BilensError, "labels or a way to evaluate without inputs"):
        bilens.explore(net(), None, y, out=None)
    with refuses(BilensError, "labels and a way to evaluate", "one of them"):
        Subject(subject_of(net()).hidden, inputs=x, labels=y, evaluate=lambda outputs: Score(0, 1, None))
    with refuses(BilensError, "a read-out without the space of its outputs"):
        Subject(subject_of(net()).hidden, torch.eye(9))
    with refuses(BilensError, "no labels", "a way to evaluate"):
        subject_of(net(), x).score(x)
    with refuses(BilensError, "no inputs"):
        _ = subject_of(net()).given


def language_layer() -> tuple[Subject, BilinearTensor, Tensor]:
    """A layer in the residual stream of a toy language model: `evaluate` runs the rest of it."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    gain, unembed = 1 + draw(6) / 10, draw(11, 6)
    stream, tokens = Space("residual", 6), torch.randint(0, 11, (50,), generator=generator)
    residual = draw(50, 6)
    normed = residual / residual.square().mean(dim=1, keepdim=True).sqrt()
    layer = BilinearTensor.from_layer(draw(8, 6) * gain, draw(8, 6) * gain, draw(6, 8) / 8, input=stream, output=stream)

    def evaluate(outputs: Tensor) -> Score:
        after = residual + outputs
        logits = (after / after.square().mean(dim=1, keepdim=True).sqrt()) @ unembed.T
        loss = float(nn.functional.cross_entropy(logits, tokens))
        return Score(float((logits.argmax(dim=1) == tokens).double().mean()), loss, math.log(11) - loss, 50)

    return Subject(layer, inputs=normed, evaluate=evaluate, budget=SMALL), layer, normed


def test_a_layer_of_a_language_model_is_read_by_every_analysis(capsys) -> None:
    subject, layer, normed = language_layer()
    torch.testing.assert_close(subject.outputs(normed), layer(normed))  # no logits: no mean is taken off
    assert torch.equal(subject.readout, torch.eye(6))
    sets = table.read(subject, Unsaved(), table.possible(inputs=True))
    assert [found.name for found in sets] == ["digits", "svd", "sae", "pairs"]
    assert sets[0].heading == "Residual directions"
    own = subject.original
    assert own is not None
    for found in sets[:2]:  # everything kept: the model itself
        assert float(found.curves[0].cross_entropy[-1]) == pytest.approx(own.cross_entropy, rel=1e-4)
    dense = layer.to_dense().double().numpy()
    for found, q in ((sets[0].spectra[2], dense[2]), (sets[1].spectra[0], None)):
        if q is not None:
            np.testing.assert_allclose(np.sort(found.values), np.sort(np.linalg.eigvalsh(q)), atol=1e-5)
        else:
            top = np.linalg.svd(dense.reshape(6, -1), compute_uv=False)[0]
            assert float(sets[1].importance[0]) == pytest.approx(top, rel=1e-5)
