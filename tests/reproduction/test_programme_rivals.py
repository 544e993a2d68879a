"""What stands beside the front on small digits: layers from scratch, principal components and no training, by numpy."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from reports import check_report

from bilens import data
from bilens.faithfulness import Curve, Score
from bilens.models import ImageClassifier
from bilens.statistics import interval
from bilens.store import Folder
from reproduction import headline, reproduce, results
from reproduction.lab import Lab
from reproduction.measurement import Measurement
from reproduction.recipes import boolean, front_coders, front_read, pair_sae, rivals, rivals_measure
from reproduction.recipes.rivals_measure import FITTED, NEXT, PERMUTED, PRINCIPAL, SCRATCH, UNTRAINED

pytestmark = pytest.mark.slow

PUBLISHED = Path(__file__).parents[2] / "docs" / "results" / "results.json"

SIZES = {1000: 40, 300: 12, 239: 20, 10: 3, 30: 4, 8: 3, 64: 8, 3000: 300}


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
def read(lab: Lab) -> front_read.Read:
    return front_read.Read.of(lab, 0, 12)


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
    curve = seeds[0].curve(SCRATCH)
    assert curve.kept.tolist() == [24]  # 20 directions store 3,380 numbers, a unit 138
    for k, h in ((20, 24),):
        model = lab.classifier(0, hidden=h, epochs=3, weight_decay=0.0)
        score, stored = at(seeds[0], SCRATCH, h)
        assert score == pytest.approx(recovered(read, answers(kernels(model), x)), abs=1e-4)
        assert stored == h * (64 + 64 + 10)
        room = at(seeds[0], front_read.SHARED, k)[1]
        assert stored <= room < stored + 138
        assert seeds[0][f"directions beside {h}"] == k


def test_a_layer_on_principal_components_sees_nothing_else(lab, seeds, read) -> None:
    rows = axes_of(lab.dataset().train.images, 20)
    model = ImageClassifier.from_pretrained(lab.run.path / "models" / "principal-20-0-0")
    assert model.input.size == 20
    signs = np.sign(rows @ rivals_measure.principal(lab, 20).double().numpy().T).diagonal()
    x = read.images.double().numpy() @ rows.T * signs
    score, stored = at(seeds[0], FITTED, 20)
    assert score == pytest.approx(recovered(read, answers(kernels(model), x)), abs=1e-4)
    assert stored == 20 * 64 + 10 * 210


def test_active_eigenvectors_on_images_without_sense_and_without_training(lab, seeds, read) -> None:
    images = lab.dataset()
    x, labels = images.test.images.double().numpy(), images.test.labels.numpy()
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0)).numpy()
    new = ImageClassifier(images.input, images.output, 12, seed=0)
    for subject, model, shown, shift in (
        (NEXT, read.model, x, 1),
        (PERMUTED, read.model, x[:, order], 0),
        (UNTRAINED, new, x, 0),
    ):
        ranks, relative = [], 0
        for digit, kernel in enumerate(kernels(model)):
            values, vectors = np.linalg.eigh(kernel)
            means = values * ((shown[labels == (digit + shift) % 10] @ vectors) ** 2).mean(axis=0)
            relative += int((means > 0.1 * max(0, means.max())).sum())
            ranks.append(abs(values).sum() ** 2 / (values**2).sum())
        assert seeds[0][f"active, relative, {subject}"] == pytest.approx(relative / 10)
        assert seeds[0][f"effective rank, {subject}"] == pytest.approx(np.mean(ranks), rel=1e-4)


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


def test_directions_that_all_pairs_share_are_those_of_least_squares(lab, seeds, read) -> None:
    i, j = np.triu_indices(64)
    w, v = (part.weight.detach().double().numpy() for part in (read.model.layer.left, read.model.layer.right))
    half = np.einsum("hi,hj->ijh", w, v)
    layer = (half + half.transpose(1, 0, 2)) / 2
    hot = layer[i, i] + layer[j, j] + 2 * layer[i, j]
    x = read.images.double().numpy()
    outputs = (x @ w.T) * (x @ v.T)
    train = lab.dataset().train.images.double().numpy()
    seen = ((train[:, i] * train[:, j]) ** 2).mean(axis=0) * np.where(i < j, 4, 1)  # 2 x_i x_j r_ij off the diagonal
    chances = {"uniform": np.ones(len(i)), "second moment": seen}
    for vector, vectors in (("r_ij", layer[i, j]), ("u_ij", hot)):
        for name in ("uniform", "second moment"):
            rows = np.linalg.svd(np.sqrt(chances[name])[:, None] * vectors, full_matrices=False)[2][:4]
            left = np.square(vectors - vectors @ rows.T @ rows).sum() / np.square(vectors).sum()
            assert seeds[0][f"NMSE on pairs, {vector}, {name}"] == pytest.approx(left, rel=1e-3)
            left = np.square(outputs - outputs @ rows.T @ rows).sum() / np.square(outputs).sum()
            assert seeds[0][f"NMSE on outputs, {vector}, {name}"] == pytest.approx(left, rel=1e-3)


def test_the_report_is_whole(seeds) -> None:
    check_report(rivals.RECIPE, seeds)
    lines = rivals.tables(seeds)["contest"].splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| 20"]
    assert [line.split(" | ")[4] for line in lines[2:]] == ["24"]


def curve(name: str, kept: list[int], loss: float) -> Curve:
    return Curve.of(name, kept, [Score(0.9, loss, 0.5, 7)] * len(kept), numbers=[9 * k for k in kept])


def rival(loss: float) -> Measurement:
    curves = [curve(SCRATCH, [17, 32], loss), curve(FITTED, [50], loss / 2)]
    return Measurement.of({"accuracy": 0.7, "directions beside 17": 30.0, "directions beside 32": 50.0}, curves)


def model(loss: float) -> Measurement:
    curves = [curve(name, [10, 20, 30, 50], 1.0) for name in (
        front_read.EIGENVECTORS, front_read.NEXT_DIGIT, front_read.SHARED, front_read.SHARED_NULL,
        front_read.COMPONENTS, front_read.COMPONENTS_NULL)]  # fmt: skip
    rows = {f"{what}, {row}": 0.5 for row in front_read.PAIR_ROWS for what in (
        "numbers stored", "accuracy lost", "recovered")}  # fmt: skip
    return Measurement.of({"accuracy": 0.98, "cross-entropy": loss, "numbers of the layer": 9000.0, **rows}, curves)


def test_what_is_trained_anew_stands_beside_the_models_of_the_front() -> None:
    measured = {"front": [model(0.1), model(0.2)], "rivals": [rival(0.3), rival(0.4)]}
    found = {entry.name: entry for entry in headline.entries(measured) if entry.kind == "rival"}
    assert list(found) == [
        "a layer of 32 hidden units, trained from scratch", "a layer trained on 50 principal components",
    ]  # fmt: skip
    layer, fitted = found.values()
    ln = np.log(10)
    assert layer.recovered == pytest.approx(((ln - 0.3) / (ln - 0.1), (ln - 0.4) / (ln - 0.2)))
    assert fitted.recovered == pytest.approx(((ln - 0.15) / (ln - 0.1), (ln - 0.2) / (ln - 0.2)))
    assert layer.lost == pytest.approx((0.08, 0.08))
    assert (layer.stored, fitted.stored) == ((288, 288), (450, 450))
    lines = headline.contest(measured)
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| 30", "| 50"]
    more = [0.5 - value for value in layer.recovered]
    assert f"| {100 * np.mean(more):.2f} ± " in lines[3]
    assert headline.contest({"rivals": measured["rivals"]}) == []
    assert isinstance(headline.figure(measured), Figure)


def test_the_pair_sae_trained_for_longer_stores_as_many_codes_as_it_has() -> None:
    plan, row, main = front_coders.MAIN, front_read.OWN, pair_sae.MAIN
    effects = (plan.atoms + 1) * 10
    numbers = {f"numbers stored, {row}": effects + 2.0 * 30 * 1000, f"L0, {row}": 30.0}
    name = front_read.config(front_read.OUTPUTS, front_read.TRAINED, plan.atoms, plan.k)
    front = Measurement.of(numbers, [curve(name, [5], 1.0)])
    more = {f"L0, {main}": 24.0, f"accuracy lost, {main}": 0.01, f"recovered, {main}": 0.99}
    (entry,) = headline.longer([Measurement.of(more)], [front])
    assert entry.stored == pytest.approx((effects + 2 * 24 * 1000,))
    assert (entry.name, entry.recovered) == ("SAE on input pairs, 4 times the updates", (0.99,))


@pytest.fixture(scope="module")
def published() -> dict[str, Sequence[Measurement]]:
    content = json.loads(PUBLISHED.read_text("utf-8"))
    return {result.recipe.name: result.seeds for result in results.decode(content, reproduce.RECIPES)}


def test_the_published_rivals_read_the_models_of_the_other_recipes(published) -> None:
    for ours, theirs in zip(published["rivals"], published["digits"], strict=True):
        assert ours["accuracy"] == pytest.approx(theirs["accuracy, h = 300"], abs=2e-3)
        for name in ("active, raising", "active, relative", "effective rank"):
            assert ours[f"{name}, trained"] == pytest.approx(theirs[f"{name}, h = 300"], abs=0.3)


def test_what_the_prose_says_of_rivals_holds(published) -> None:
    """The page's own statements are about one recipe; these are about two, at the top of the page and in the README."""
    layers = headline.besides(published, SCRATCH)
    assert list(layers) == [11, 17, 32, 60]
    assert layers[11].more.mean < -layers[11].more.half
    for h in (17, 32, 60):
        assert layers[h].more.mean > layers[h].more.half
        assert layers[h].anew.numbers <= layers[h].shared.numbers
    strongest = headline.besides(published, FITTED)[50]
    assert strongest.more.mean < -strongest.more.half
    assert strongest.anew.numbers == strongest.shared.numbers
    for seed in published["rivals"]:  # "none in 4 dimensions or more"
        for d, share in itertools.product(range(4, 9), boolean.SHARES):
            assert seed[f"recovered, {d}, {share}, {UNTRAINED}"] == 0
    wide = interval(
        [
            other["accuracy, weight decay 0, noise 0"] - own["accuracy"]
            for other, own in zip(published["training"], published["front"], strict=True)
        ]
    )
    assert wide.mean > wide.half
