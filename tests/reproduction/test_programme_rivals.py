"""What stands beside the front on small digits: layers from scratch, principal components and no training, by numpy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from reports import check_report

from bilens import data, pairs
from bilens.models import ImageClassifier
from bilens.store import Folder
from reproduction import headline
from reproduction.lab import Lab
from reproduction.measurement import Measurement
from reproduction.recipes import front_coders, front_read, pair_rivals, rivals, rivals_measure
from reproduction.recipes.front_coders import Plan
from reproduction.recipes.rivals_measure import DECAYS, FITTED, PRINCIPAL, SHUFFLED, UNTRAINED, scratch

PUBLISHED = Path(__file__).parents[2] / "docs" / "results" / "results.json"

SIZES = {1000: 40, 300: 12, 239: 20, 10: 3, 5000: 60, 30: 4, 8: 3, 64: 8, 3000: 300}


class TinyLab(Lab):
    """Everything as small as it can be."""

    def size(self, full: int, quick: int) -> int:
        return SIZES.get(full, quick)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return TinyLab(Folder(tmp_path_factory.mktemp("rivals"), {}), True, {"small_mnist": data.load("digits")})


@pytest.fixture(scope="module")
def seeds(lab: Lab) -> list[Measurement]:
    return [rivals_measure.measure(lab, seed) for seed in (0, 1)]


@pytest.fixture(scope="module")
def untrained(lab: Lab) -> list[Measurement]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pair_rivals, "SWEPT", {space: (Plan(600, 2, 200),) for space in front_read.SPACES})
        return [pair_rivals.measure(lab, seed) for seed in (0, 1)]


@pytest.fixture(scope="module")
def read(lab: Lab) -> front_read.Read:
    return front_read.Read.of(lab, 0)


def kernels(model: ImageClassifier) -> np.ndarray:
    """The centred tensor (classes, d, d) of a model, by hand."""
    w, v = (part.weight.detach().double().numpy() for part in (model.layer.left, model.layer.right))
    d = model.readout.weight.detach().double().numpy()
    half = np.einsum("oh,hi,hj->oij", d - d.mean(axis=0), w, v)
    return (half + half.transpose(0, 2, 1)) / 2


def loss(logits: np.ndarray, labels: np.ndarray) -> float:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return float(np.mean(np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(shifted)), labels]))


def answers(tensor: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.einsum("ni,oij,nj->no", x, tensor, x)


def recovered(read: front_read.Read, logits: np.ndarray) -> float:
    labels, x = read.labels.numpy(), read.images.double().numpy()
    own = loss(answers(kernels(read.model), x), labels)
    return (np.log(10) - loss(logits, labels)) / (np.log(10) - own)


def at(seed: Measurement, name: str, k: int) -> tuple[float, int]:
    curve = seed.curve(name)
    place = curve.kept.tolist().index(k)
    assert curve.recovered is not None
    assert curve.numbers is not None
    return float(curve.recovered[place]), int(curve.numbers[place])


def axes_of(images: torch.Tensor, k: int) -> np.ndarray:
    """The first right singular vectors of the images, which are not centred."""
    return np.linalg.svd(images.double().numpy(), full_matrices=False)[2][:k]


def test_the_layer_between_principal_components_of_the_images(lab, seeds, read) -> None:
    rows = axes_of(lab.dataset().train.images, 10)
    x = read.images.double().numpy() @ rows.T @ rows
    score, stored = at(seeds[0], PRINCIPAL, 10)
    assert score == pytest.approx(recovered(read, answers(kernels(read.model), x)), abs=1e-4)
    assert stored == 10 * 64 + 10 * 55
    assert at(seeds[0], front_read.SHARED, 10)[1] == stored
    assert seeds[0].curve(PRINCIPAL).beside == front_read.SHARED


def test_layers_from_scratch_store_no_more_than_the_directions_beside_them(lab, seeds, read) -> None:
    x = read.images.double().numpy()
    for decay in DECAYS:
        assert seeds[0].curve(scratch(decay)).kept.tolist() == [8, 24]  # 1,190 and 3,380 numbers, 138 for a unit
        for k, h in ((10, 8), (20, 24)):
            model = lab.classifier(0, hidden=h, epochs=3, weight_decay=decay)
            score, stored = at(seeds[0], scratch(decay), h)
            assert score == pytest.approx(recovered(read, answers(kernels(model), x)), abs=1e-4)
            assert seeds[0][f"recovered, {h} hidden units from scratch, weight decay {decay:g}"] == pytest.approx(score)
            assert stored == h * (64 + 64 + 10)
            room = at(seeds[0], front_read.SHARED, k)[1]
            assert stored <= room < stored + 138
            assert seeds[0][f"directions beside {h}"] == k


def test_layers_on_principal_components_see_nothing_else(lab, seeds, read) -> None:
    rows = axes_of(lab.dataset().train.images, 20)
    for decay in DECAYS:
        model = ImageClassifier.from_pretrained(lab.run.path / "models" / f"principal-20-{decay:g}-0")
        assert model.input.size == 20
        x = read.images.double().numpy() @ rows.T
        tensor = kernels(model)
        score, stored = at(seeds[0], f"{FITTED}, weight decay {decay:g}", 20)
        signs = np.sign(rows @ rivals_measure.principal(lab, 20).double().numpy().T).diagonal()
        assert score == pytest.approx(recovered(read, answers(tensor, x * signs)), abs=1e-4)
        assert stored == 20 * 64 + 10 * 210


def test_every_number_of_components_is_scored(seeds, read) -> None:
    w, v = (part.weight.detach().double().numpy() for part in (read.model.layer.left, read.model.layer.right))
    half = np.einsum("hi,hj->hij", w, v)
    layer = (half + half.transpose(0, 2, 1)) / 2
    rows = np.linalg.svd(layer.reshape(len(layer), -1))[0].T
    x = read.images.double().numpy()
    outputs = (x @ w.T) * (x @ v.T)
    curve = seeds[0].curve(front_read.COMPONENTS)
    assert curve.kept.tolist() == list(range(1, 41))
    through = outputs @ rows[:7].T @ rows[:7] @ read.readout.detach().double().numpy().T
    assert at(seeds[0], front_read.COMPONENTS, 7)[0] == pytest.approx(recovered(read, through), abs=1e-4)


def test_active_eigenvectors_of_models_without_training_or_sense(lab, seeds) -> None:
    images = lab.dataset()
    x, labels = images.test.images.double().numpy(), images.test.labels.numpy()
    models = {
        UNTRAINED: ImageClassifier(images.input, images.output, 12, seed=0),
        SHUFFLED: ImageClassifier.from_pretrained(lab.run.path / "models" / "shuffled-12-0"),
    }
    for subject, model in models.items():
        ranks, relative = [], 0
        for digit, kernel in enumerate(kernels(model)):
            values, vectors = np.linalg.eigh(kernel)
            means = values * ((x[labels == digit] @ vectors) ** 2).mean(axis=0)
            relative += int((means > 0.1 * max(0, means.max())).sum())
            ranks.append(abs(values).sum() ** 2 / (values**2).sum())
        assert seeds[0][f"active, relative, {subject}"] == pytest.approx(relative / 10)
        assert seeds[0][f"effective rank, {subject}"] == pytest.approx(np.mean(ranks), rel=1e-4)
    shuffled = models[SHUFFLED](images.test.images).argmax(dim=1)
    assert float((shuffled == images.test.labels).double().mean()) < 0.5  # its labels had nothing to do with digits


def test_an_untrained_margin_is_the_sum_of_its_terms(lab, seeds) -> None:
    images = lab.dataset()
    tensor = kernels(ImageClassifier(images.input, images.output, 40, seed=0))
    counts = []
    for x in images.test.images.double().numpy():
        a, b = np.argsort(-answers(tensor, x[None])[0])[:2]
        values, vectors = np.linalg.eigh(tensor[a] - tensor[b])
        terms = values * (x @ vectors) ** 2
        sums = np.cumsum(terms[np.argsort(-abs(terms))])
        outside = np.abs(sums - terms.sum()) > 0.1 * abs(terms.sum())
        counts.append(np.flatnonzero(outside).max(initial=-1) + 2)
    assert seeds[0]["terms, untrained"] == pytest.approx(np.sort(counts)[(len(counts) - 1) // 2], abs=1)


def test_functions_are_read_from_an_untrained_layer_by_chance_alone(seeds) -> None:
    chances = [value for name, value in zip(seeds[0].names, seeds[0].values.tolist(), strict=True)
               if name.startswith("recovered, ") and name.endswith(UNTRAINED)]  # fmt: skip
    assert len(chances) == 4
    assert max(chances) < 0.5


def test_atoms_never_trained_are_pair_vectors_drawn_by_their_weights(lab) -> None:
    tensor = lab.classifier(0, hidden=12, epochs=3).hidden_tensor()
    for make in (pairs.stream, pairs.two_hot_stream):
        stream = make(tensor, batch_size=300, shuffle=False)
        every = torch.cat([stream.batch(n) for n in range(len(stream))]).double().numpy()
        weights = torch.zeros(len(every))
        weights[100:200] = torch.linspace(1, 3, 100)
        atoms, offset = pair_rivals.drawn(stream, weights, 200, 0)
        np.testing.assert_allclose(offset, weights.numpy() / weights.sum().item() @ every, rtol=1e-4, atol=1e-6)
        assert len(atoms) == 100  # all that have a weight, each once
        rows = every[100:200] - offset.double().numpy()
        cosines = atoms.double().numpy() @ (rows / np.linalg.norm(rows, axis=1, keepdims=True)).T
        assert sorted(cosines.argmax(axis=1)) == list(range(100))
        assert cosines.max(axis=1).min() > 1 - 1e-5


@pytest.mark.parametrize("null", pair_rivals.NULLS.values(), ids=list(pair_rivals.NULLS))
def test_codes_of_untrained_atoms_are_least_squares(lab, null) -> None:
    tensor = lab.classifier(0, hidden=12, epochs=3).hidden_tensor()
    with torch.no_grad():
        coder, codes = pair_rivals.untrained(lab, tensor, null, 0)
    make = pairs.two_hot_stream if null.two_hot else pairs.stream
    vectors = make(tensor, batch_size=2080, shuffle=False).batch(0).double().numpy()
    atoms, offset = coder.W_dec.detach().double().numpy(), coder.b_dec.detach().double().numpy()
    for place in (0, 700, 2079):
        ours = slice(int(codes.starts[place]), int(codes.starts[place + 1]))
        chosen = codes.features[ours].long().numpy()
        x = vectors[place] - offset
        assert set(chosen) == set(np.argsort(-abs(atoms @ x))[:4])
        best, *_ = np.linalg.lstsq(atoms[chosen].T, x, rcond=None)
        np.testing.assert_allclose(codes.values[ours], best, rtol=1e-2, atol=1e-3 * np.abs(x).max())


def test_coders_are_trained_for_longer_and_swept_as_in_the_front(lab, untrained) -> None:
    names = {front_read.config(space, front_read.LONG, 12, 2) for space in front_read.SPACES}
    assert {curve.name for curve in untrained[0].curves} == names
    folders = {path.name for path in (lab.run.path / "models").glob("longer-*") if path.is_dir()}
    assert {f"longer-{size}-0-600-2-{200 * front_coders.LONGER}" for size in (10, 40)} <= folders
    curve = untrained[0].curve(front_read.config(front_read.LOGITS, front_read.LONG, 12, 2))
    assert curve.numbers is not None
    assert curve.numbers.tolist()[-1] == 13 * 10 + 2 * 2 * 2080


def test_reports_are_whole(seeds, untrained) -> None:
    check_report(rivals.RECIPE, seeds)
    check_report(pair_rivals.RECIPE, untrained)
    lines = rivals.contest(seeds)
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| 10", "| 20"]
    assert lines[2].split(" | ")[4] == "–"  # no layer was trained on ten components


def test_the_headline_shows_rivals_at_equal_numbers_and_the_better_weight_decay() -> None:
    def curve(name: str, kept: list[int], value: float) -> front_read.faithfulness.Curve:
        score = front_read.Score(0.9, 0.3, value, 7)
        return front_read.faithfulness.Curve.of(name, kept, [score] * len(kept), numbers=[9 * k for k in kept])

    curves = [curve(PRINCIPAL, [50], 0.7), curve(front_read.COMPONENTS, [1, 2, 3], 0.8)]
    for decay, value in zip(DECAYS, (0.4, 0.6), strict=True):
        curves += [curve(scratch(decay), [17, 32], value), curve(f"{FITTED}, weight decay {decay:g}", [50], 1 - value)]
    made = Measurement.of({"accuracy": 0.98, "directions beside 17": 30.0, "directions beside 32": 50.0}, curves)
    found = {entry.name: entry for entry in headline.entries({"rivals": [made]})}
    assert {name: entry.recovered[0] for name, entry in found.items()} == pytest.approx(
        {
            "50 principal components of the images": 0.7,
            "a layer trained on 50 principal components": 0.6,
            "a layer of 32 hidden units trained from scratch": 0.6,
        }
    )
    assert found["a layer of 32 hidden units trained from scratch"].stored == (9 * 32,)
    assert headline.table({"rivals": [made]})[2].startswith("| *rival: 50 principal components of the images* | 450 |")
    numbers = {f"active, {headline.output_sae.MAIN}": 2.0, "accuracy of the model": 0.98}
    both = headline.entries({"rivals": [made], "outputs": [Measurement.of(numbers)]})
    assert both[-1].name == "as many SVD components as active features"
    assert both[-1].stored == (18,)


@pytest.fixture(scope="module")
def published() -> dict[str, dict[str, dict[str, list[float]]]]:
    return json.loads(PUBLISHED.read_text("utf-8"))["recipes"]


def test_the_published_rivals_stand_beside_the_models_of_the_front(published) -> None:
    ours, theirs = published["rivals"]["numbers"], published["front"]["numbers"]
    np.testing.assert_allclose(ours["accuracy"], theirs["accuracy"], atol=2e-3)
    np.testing.assert_allclose(ours["cross-entropy"], theirs["cross-entropy"], rtol=2e-2)
