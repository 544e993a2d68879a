"""Nulls of single results on small digits, by numpy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reports import check_report

from bilens import data, pairs, sae
from bilens.faithfulness import Curve, Score
from bilens.models import ImageClassifier
from bilens.sae import StandardSAE, TopKSAE
from bilens.statistics import interval
from bilens.store import Folder
from reproduction import headline, reproduce, results
from reproduction.lab import Lab
from reproduction.measurement import Measurement
from reproduction.recipes import (
    atoms,
    front,
    front_coders,
    front_read,
    full_decompile,
    masks,
    nulls,
    nulls_measure,
    output_sae,
    rivals_measure,
)
from reproduction.recipes.front_figure import Point
from reproduction.recipes.nulls_measure import SPAN_AXES, SPAN_DRAWN, SPAN_SAE

pytestmark = pytest.mark.slow

PUBLISHED = Path(__file__).parents[2] / "docs" / "results" / "results.json"

SIZES = {1000: 20, 300: 12, 10: 4, 128: 24, 3000: 100, 5000: 60}


class TinyLab(Lab):
    """Everything as small as it can be, but that the attacked model reads each digit."""

    def size(self, full: int, quick: int) -> int:
        return SIZES.get(full, quick)

    def classifier(self, seed: int, *, epochs: int, embedding: int | None = None, **settings: Any) -> ImageClassifier:
        return super().classifier(seed, epochs=16 if embedding else epochs, embedding=embedding, **settings)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return TinyLab(Folder(tmp_path_factory.mktemp("nulls"), {}), True, {"small_mnist": data.load("digits")})


@pytest.fixture(scope="module")
def read(lab: Lab) -> front_read.Read:
    return front_read.Read.of(lab, 0)


@pytest.fixture(scope="module")
def seeds(lab: Lab) -> list[Measurement]:
    """Both seeds, with five random atoms in place of an SAE."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output_sae, "coder", lambda lab, seed, regime, train: StandardSAE(train.shape[1], 5, seed=seed))
        return [nulls_measure.measure(lab, seed) for seed in (0, 1)]


@pytest.fixture(scope="module")
def apart(lab: Lab) -> list[Measurement]:
    return [atoms.measure(lab, seed) for seed in (0, 1)]


def kernels(model: ImageClassifier) -> np.ndarray:
    """The centred tensor (classes, d, d) of a model, by hand."""
    w, v = (part.weight.detach().double().numpy() for part in (model.layer.left, model.layer.right))
    d = model.readout.weight.detach().double().numpy()
    half = np.einsum("oh,hi,hj->oij", d - d.mean(axis=0), w, v)
    return (half + half.transpose(0, 2, 1)) / 2


def answers(tensor: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.einsum("ni,oij,nj->no", x, tensor, x)


def loss(logits: np.ndarray, labels: np.ndarray) -> float:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return float(np.mean(np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(shifted)), labels]))


def recovered(model: ImageClassifier, logits: np.ndarray, x: np.ndarray, labels: np.ndarray) -> float:
    own = loss(answers(kernels(model), x), labels)
    return (np.log(10) - loss(logits, labels)) / (np.log(10) - own)


def outputs(model: ImageClassifier, images: torch.Tensor) -> np.ndarray:
    w, v = (part.weight.detach().double().numpy() for part in (model.layer.left, model.layer.right))
    x = images.double().numpy()
    return (x @ w.T) * (x @ v.T)


# What stands beside the SAE on outputs


def test_outputs_are_projected_on_drawn_ones_and_on_their_principal_components(lab, seeds, read) -> None:
    images, labels = lab.dataset(), lab.dataset().test.labels.numpy()
    train, test = (outputs(read.model, part.images) for part in (images.train, images.test))
    mean = train.mean(axis=0)
    places = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:5].numpy()
    own = StandardSAE(20, 5, seed=0).W_dec.detach().double().numpy()
    w = read.readout.detach().double().numpy()
    x = images.test.images.double().numpy()
    for name, rows, offset in (
        (SPAN_SAE, own, np.zeros(20)),
        (SPAN_DRAWN, train[places] - mean, mean),
        (SPAN_AXES, np.linalg.svd(train - mean, full_matrices=False)[2][:5], mean),
    ):
        codes = np.linalg.lstsq(rows.T, (test - offset).T, rcond=None)[0]
        logits = (rows.T @ codes).T @ w.T + offset @ w.T
        assert seeds[0][f"recovered, {name}"] == pytest.approx(recovered(read.model, logits, x, labels), abs=1e-4)
        right = (logits.argmax(axis=1) == labels).mean()
        assert seeds[0]["accuracy"] - seeds[0][f"accuracy lost, {name}"] == pytest.approx(right, abs=2 / len(labels))
        assert seeds[0][f"rank, {name}"] == 5
        assert seeds[0][f"numbers stored, {name}"] == 2 * 20 * 64 + 5 * (20 + 10) + 10
    assert seeds[0]["active atoms"] == 5
    curve = seeds[0].curve(nulls_measure.AXES)
    assert curve.kept.tolist() == [10, 20]
    rows = np.linalg.svd(train - mean, full_matrices=False)[2][:10]
    logits = ((test - mean) @ rows.T @ rows + mean) @ w.T
    assert float(curve.recovered[0]) == pytest.approx(recovered(read.model, logits, x, labels), abs=1e-4)
    assert float(curve.recovered[1]) == pytest.approx(1, abs=1e-5)  # all 20 of them
    assert curve.numbers.tolist() == [2 * 20 * 64 + k * (20 + 10) + 10 for k in (10, 20)]


# Principal components of the images


def test_the_same_layer_between_principal_components_of_the_images(lab, seeds, read) -> None:
    axes = np.linalg.svd(lab.dataset().train.images.double().numpy(), full_matrices=False)[2][:15]
    x, labels = read.images.double().numpy(), read.labels.numpy()
    logits = answers(kernels(read.model), x @ axes.T @ axes)
    curve = seeds[0].curve(rivals_measure.PRINCIPAL)
    place = curve.kept.tolist().index(15)
    assert float(curve.recovered[place]) == pytest.approx(recovered(read.model, logits, x, labels), abs=1e-4)
    assert int(curve.numbers[place]) == 15 * 64 + 10 * 120
    assert curve.beside == front_read.SHARED
    assert seeds[0].curve(front_read.SHARED).kept.tolist() == curve.kept.tolist()


# One sample, by hidden units


def test_a_margin_is_also_the_sum_of_what_hidden_units_add(seeds, read) -> None:
    labels = read.labels.numpy()
    logits = answers(kernels(read.model), read.images.double().numpy())
    best = np.argsort(-logits, axis=1)[:, :2]
    w = read.readout.detach().double().numpy()
    counts, sizes = [], []
    for (a, b), row in zip(best, outputs(read.model, read.images), strict=True):
        terms = row * (w[a] - w[b])
        sums = np.cumsum(terms[np.argsort(-abs(terms), kind="stable")])
        outside = np.abs(sums - terms.sum()) > 0.1 * abs(terms.sum())
        counts.append(np.flatnonzero(outside).max(initial=-1) + 2)
        sizes.append(abs(terms).sum() / terms.sum())
    right = best[:, 0] == labels
    for group, members in (("right", right), ("wrong", ~right)):
        middle = (members.sum() - 1) // 2  # as torch takes the median
        number = seeds[0][f"terms, hidden units, {group}"]
        assert number == pytest.approx(np.sort(np.array(counts)[members])[middle], abs=1)
        found = seeds[0][f"terms over margin, hidden units, {group}"]
        assert found == pytest.approx(np.sort(np.array(sizes)[members])[middle], rel=1e-3)


# Interactions by class


def test_interactions_by_class_in_bases_that_know_nothing_of_the_layer(lab, seeds) -> None:
    model, images = lab.classifier(0, hidden=12, epochs=4), lab.dataset()
    tensor = kernels(model)
    axes = np.linalg.svd(images.train.images.double().numpy(), full_matrices=False)[2]
    w, v = (part.weight.detach().double().numpy() for part in (model.layer.left, model.layer.right))
    half = np.einsum("hi,hj->ihj", w, v)  # the basis is that of the layer before its read-out
    layer = half + np.einsum("hi,hj->jhi", w, v)
    basis = np.linalg.svd(layer.reshape(64, -1))[0].T
    few, x = images.train.images[:60].double().numpy(), images.test.images[:100].double().numpy()
    labels = images.test.labels[:100].numpy()
    for name, every in (("principal components", axes), ("HOSVD basis", basis)):
        rank = np.linalg.matrix_rank(tensor.transpose(1, 0, 2).reshape(64, -1))
        rows = every[:rank]
        core = np.einsum("ai,oij,bj->oab", rows, tensor, rows)
        codes, seen = x @ rows.T, few @ rows.T
        off = 1 - np.eye(len(rows))
        score = abs(core) * np.sqrt((seen[:, :, None] ** 2 * seen[:, None] ** 2).mean(axis=0)) * (1 + off)
        upper = np.triu(np.ones_like(off)) > 0
        order = np.sort(score[:, upper].ravel())[::-1]
        ceiling = recovered(model, answers(core, codes), x, labels)
        found = []
        for count in full_decompile.COUNTS:
            mask = (score >= order[min(count, len(order)) - 1]) & upper
            kept = np.where(mask | mask.transpose(0, 2, 1), core, 0)
            found.append(recovered(model, answers(kept, codes), x, labels))
        expected = min(len(order), full_decompile.needed(full_decompile.COUNTS, found, 0.99 * ceiling))
        number = seeds[0][f"needed for 99 % by importance, {name} × classes"]
        assert number == pytest.approx(expected, rel=0.02)
    assert seeds[0]["needed for 99 % by importance, HOSVD basis, rotated × classes"] > number


# Masks from images


def test_a_mask_from_images_is_the_difference_of_two_means(lab) -> None:
    images = lab.dataset()
    model = lab.classifier(0, hidden=12, epochs=4, embedding=24)
    test, train = images.test, images.train
    right = model(test.images).argmax(dim=1) == test.labels
    norm = float(test.images.norm(dim=1).mean())
    found = masks.by_means(masks.Attack.on(model), images)
    shares = {}
    for source in (0, 1, 2, 4, 6, 7, 8, 9):
        for target in (0, 1, 2, 4, 6, 7, 8, 9):
            if source == target:
                continue
            mask = train.images[train.labels == target].mean(dim=0) - train.images[train.labels == source].mean(dim=0)
            x = test.images[right & (test.labels == source)]
            taken = model(x + 0.3 * norm * mask / mask.norm()).argmax(dim=1)
            shares[source, target] = [
                float((taken != source).double().mean()),
                float((taken == target).double().mean()),
            ]
    for place, what in enumerate(("left", "reached")):
        name = f"{what}, {masks.MEANS}, 30 %"
        assert found[f"{name}, held-out pair"] == pytest.approx(shares[4, 9][place], abs=1e-3)
        mean = np.mean([share[place] for share in shares.values()])
        assert found[f"{name}, all held-out pairs"] == pytest.approx(mean, abs=1e-3)


def test_masks_from_images_in_a_model_without_an_embedding(lab) -> None:
    images = lab.dataset()
    model = lab.classifier(0, hidden=12, epochs=4)
    x, labels = images.test.images, images.test.labels
    right = model(x).argmax(dim=1) == labels
    norm = float(x.norm(dim=1).mean())
    lost = count = 0
    for image, label in zip(x[right], labels[right].tolist(), strict=True):
        for target in (c for c in range(10) if c != label):
            first, second = (images.train.images[images.train.labels == c].mean(dim=0) for c in (target, label))
            mask = (first - second) / (first - second).norm()
            lost += int(model((image + 0.3 * norm * mask)[None]).argmax()) != label
            count += 1
    found = masks.misled_by_means(model.tensor().centered(), images)
    assert found == pytest.approx(lost / count, abs=1e-3)


# Sums of few terms


def test_random_products_are_sent_where_least_squares_sends_them(lab) -> None:
    tensor = lab.classifier(0, hidden=12, epochs=4).tensor()
    found = nulls_measure.random_terms(tensor, 7, 3)
    a, b = (part.double().numpy() for part in (found.left, found.right))
    half = np.einsum("ri,rj->rij", a, b)
    products = (half + half.transpose(0, 2, 1)) / 2
    w, v, d = (part.double().numpy() for part in (tensor.left, tensor.right, tensor.down))
    whole = np.einsum("oh,hi,hj->oij", d, w, v)
    whole = (whole + whole.transpose(0, 2, 1)) / 2
    expected = np.linalg.lstsq(products.reshape(7, -1).T, whole.reshape(10, -1).T, rcond=None)[0].T
    np.testing.assert_allclose(found.down, expected, atol=1e-5)
    other = nulls_measure.random_terms(tensor, 7, 4)
    assert not torch.equal(other.left, found.left)


def test_layers_of_few_terms_stand_beside_the_fitted_one(seeds) -> None:
    for seed in seeds:
        values = {name: seed[f"accuracy of digits, {name}"] for name in nulls_measure.SMALL}
        assert values[nulls_measure.WHOLE] > values[nulls_measure.DRAWN]
        assert values[nulls_measure.FITTED] > values[nulls_measure.LARGEST]
        assert values[nulls_measure.FITTED] > values[nulls_measure.DRAWN]


def test_the_report_is_whole(seeds) -> None:
    check_report(nulls.RECIPE, seeds)


# Atoms and encoder apart


def start(seed: int = 0) -> tuple[TopKSAE, torch.Tensor]:
    """An SAE with atoms of its own, a bias and vectors."""
    generator = torch.Generator().manual_seed(seed)
    coder = TopKSAE(12, 40, 4, seed=seed)
    with torch.no_grad():
        coder.b_dec.copy_(torch.randn(12, generator=generator))
    return coder, torch.randn(64, 12, generator=generator) * 3 + 1


def test_the_first_step_of_an_encoder_is_that_of_a_whole_sae() -> None:
    """Before the first step nothing differs, and so neither do the gradients of what both train."""
    (alone, vectors), (whole, _) = start(), start()
    stream = sae.TensorStream(vectors, batch_size=64, seed=0)
    before = alone.W_dec.detach().clone()
    atoms.train_encoder(alone, stream, 1, title="one step")
    sae.train(whole, stream, steps=1, progress=False, device="cpu")
    assert torch.equal(alone.W_dec, before)
    assert not torch.equal(whole.W_dec, before)
    for name in ("W_enc", "b_enc", "b_dec"):
        ours, theirs = (getattr(made, name).detach() for made in (alone, whole))
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
        assert not torch.equal(ours, getattr(start()[0], name))


def test_an_encoder_is_trained_by_adam_on_the_error_of_the_sae() -> None:
    (alone, vectors), (plain, _) = start(), start()
    stream = sae.TensorStream(vectors, batch_size=16, seed=0)
    history = atoms.train_encoder(alone, stream, 8, title="eight steps")
    scale = float((12 / stream.batch(0).square().sum(dim=1).mean()).sqrt())
    plain.rescale(scale)
    optimizer = torch.optim.Adam([plain.W_enc, plain.b_enc, plain.b_dec])
    losses = []
    for step in range(8):
        optimizer.param_groups[0]["lr"] = 3e-3 * min(1, (step + 1) / 0.4, (8 - step) / 4)
        x = stream.batch(step) * scale
        loss_here = (x - plain(x)).square().sum(dim=1).mean()
        optimizer.zero_grad()
        loss_here.backward()
        optimizer.step()
        losses.append(float(loss_here.detach()))
    plain.rescale(1 / scale)
    np.testing.assert_allclose(history["loss"], losses, rtol=1e-4)
    for name in ("W_enc", "b_enc", "b_dec", "W_dec"):
        torch.testing.assert_close(getattr(alone, name).detach(), getattr(plain, name).detach(), atol=1e-5, rtol=1e-4)


def test_drawn_atoms_keep_to_pair_vectors_and_are_scored_as_the_pair_sae_is(lab, apart, read) -> None:
    plan = front_coders.MAIN.size(lab)
    coder = atoms.frozen(lab, read.hidden, plan, 0)
    stream = pairs.stream(read.hidden, shuffle=False)
    vectors = torch.cat([stream.batch(n) for n in range(len(stream))]).double().numpy()
    centred = vectors - vectors.mean(axis=0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    rows = coder.W_dec.double().numpy()
    assert np.abs(rows @ unit.T).max(axis=1) == pytest.approx(np.ones(plan.atoms), abs=1e-4)  # one pair vector each
    assert not torch.equal(coder.W_enc, coder.W_dec.T)
    rebuilt = coder(torch.from_numpy(vectors).float()).double().numpy()
    found = np.square(vectors - rebuilt).sum() / np.square(vectors).sum()
    assert apart[0][f"NMSE on pairs, {atoms.FROZEN}"] == pytest.approx(found, rel=1e-4)
    i, j = np.triu_indices(64)
    x = read.images.double().numpy()
    logits = (x[:, i] * x[:, j] * np.where(i < j, 2, 1)) @ rebuilt @ read.readout.detach().double().numpy().T
    score = recovered(read.model, logits, x, read.labels.numpy())
    assert apart[0][f"recovered, {atoms.FROZEN}"] == pytest.approx(score, abs=1e-4)
    assert apart[0][f"L0, {atoms.FROZEN}"] <= plan.k
    assert apart[0]["atoms"] == plan.atoms


def test_atoms_never_trained_are_coded_by_least_squares(lab, apart) -> None:
    read, plan = front_read.Read.of(lab, 0, 12), front_coders.MAIN.size(lab)
    stream = pairs.stream(read.hidden, shuffle=False)
    vectors = torch.cat([stream.batch(n) for n in range(len(stream))])
    mean = vectors.double().mean(dim=0).float()
    moments = pairs.second_moments(lab.dataset().train.images)
    for name, rows in (
        ("uniform", pairs.stream(read.hidden, batch_size=plan.atoms, seed=0).batch(0) - mean),
        ("second moment", pairs.sampled(read.hidden, moments, batch_size=plan.atoms, seed=0).batch(0) - mean),
    ):
        unit = (rows / rows.norm(dim=1, keepdim=True)).double().numpy()
        error = 0.0
        for vector in (vectors - mean).double().numpy()[::5]:
            best = np.argsort(-abs(unit @ vector))[: plan.k]
            codes = np.linalg.lstsq(unit[best].T, vector, rcond=1e-8)[0]
            error += np.square(vector - codes @ unit[best]).sum()
        energy = np.square(vectors.double().numpy()[::5]).sum()
        assert apart[0][f"NMSE on pairs, r_ij, drawn, {name}"] == pytest.approx(error / energy, rel=0.15)
    i, j = np.triu_indices(64)
    seen = lab.dataset().train.images.double().numpy()
    often = ((seen[:, i] * seen[:, j]) ** 2).mean(axis=0) * np.where(i < j, 4, 1)
    some = pairs.sampled(read.hidden, moments, batch_size=400, seed=0).pairs(0)
    drawn = np.array([often[(i == a) & (j == b)][0] for a, b in zip(*(part.tolist() for part in some), strict=True)])
    assert drawn.mean() > 2 * often.mean()


def test_the_report_on_atoms_is_whole(apart) -> None:
    check_report(atoms.RECIPE, apart)


# Where they stand in the headline


def row(name: str, recovered: float, error: float = 0.1) -> dict[str, float]:
    return {f"numbers stored, {name}": 70.0, f"accuracy lost, {name}": 0.01, f"recovered, {name}": recovered,
            f"NMSE on outputs, {name}": error, f"NMSE on pairs, {name}": error}  # fmt: skip


def test_nulls_stand_beside_the_lines_that_they_are_of() -> None:
    spans = {"accuracy": 0.9} | {key: value for name in nulls_measure.SPANS for key, value in row(name, 0.7).items()}
    found = headline.entries({"nulls": [Measurement.of(spans, CURVES)]})
    assert [(entry.name, entry.kind) for entry in found] == [
        ("the same layer between 50 principal components of the images", "rival"),
        ("50 principal components of the outputs", "rival"),
        (SPAN_DRAWN, "null"),
        (SPAN_AXES, "rival"),
    ]
    assert found[0].lost == pytest.approx((0.1,))
    assert found[2].recovered == (0.7,)
    none = {"accuracy": 0.9, "active atoms": 0.0}
    assert len(headline.entries({"nulls": [Measurement.of(none, CURVES)]})) == 2


def curve(name: str) -> Curve:
    return Curve.of(name, [50], [Score(0.8, 1.0, 0.5, 7)], numbers=[99])


CURVES = [curve(rivals_measure.PRINCIPAL), curve(nulls_measure.AXES)]


def test_a_line_with_fewer_seeds_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = headline.Entry("whole", (7.0,) * 5, (0.1,) * 5, (0.9,) * 5)
    some = headline.Entry("some", (7.0,) * 3, (0.1,) * 3, (0.9,) * 3, "null")
    monkeypatch.setattr(headline, "entries", lambda measured: [whole, some])
    assert [line.split(" | ")[0] for line in headline.table({})[2:]] == ["| whole", "| *null: some (3 seeds)*"]


def test_what_atoms_and_encoder_add_to_each_other_is_taken_seed_by_seed() -> None:
    own, drawn = front_read.OWN, front_read.NULL_PAIRS
    front = [Measurement.of(row(own, kept, 0.02) | row(drawn, 0.7, 0.2)) for kept in (0.9, 0.95, 0.1)]
    more = [Measurement.of(row(atoms.FROZEN, kept, 0.1)) for kept in (0.75, 0.65)]
    found = {name: values for name, (_, _, values) in headline.apart({"front": front, "atoms": more}).items()}
    assert found["encoder_less"] == pytest.approx([-0.05, 0.05])
    assert found["atoms_gain"] == pytest.approx([0.15, 0.3])
    assert found["atoms_error"] == pytest.approx([5, 5])
    assert headline.apart({"front": front}) == {}
    assert headline.said({"front": front[:2], "atoms": more})["beside.frozen"].startswith("70.00 ± ")


def test_the_table_of_budgets_has_intervals_and_what_training_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    best, mine, null = Point(10, (0.9, 0.8)), Point(10, (0.5, 0.7)), Point(10, (0.25, 0.25))
    ways = {"a": ([best], []), "pair features": ([mine], [null])}
    monkeypatch.setattr(front, "fronts", lambda seeds, given: ways)
    seeds: Sequence[Measurement] = [Measurement.of({"numbers of the layer": 50.0})]
    lines = front.budgets(seeds)
    half = [12.706 * np.std(values, ddof=1) / 2**0.5 for values in ((90, 80), (50, 70), (25, 25))]
    cells = [cell.strip() for cell in lines[2].split("|")]
    assert cells[3:6] == [f"85.00 ± {half[0]:.2f}", f"60.00 ± {half[1]:.2f}", "25.00 ± 0.00"]
    assert cells[6] == f"35.00 ± {half[1]:.2f}"
    assert len(lines) == 2 + len(front.BUDGETS) + 1


# What the prose says of two recipes


@pytest.fixture(scope="module")
def published() -> dict[str, Sequence[Measurement]]:
    content = json.loads(PUBLISHED.read_text("utf-8"))
    return {result.recipe.name: result.seeds for result in results.decode(content, reproduce.RECIPES)}


def test_the_published_nulls_read_the_models_of_the_other_recipes(published) -> None:
    main = output_sae.MAIN
    for ours, sparse, sample, wide in zip(
        published["nulls"], published["outputs"], published["sample"], published["front"], strict=True
    ):
        assert ours["accuracy"] == pytest.approx(wide["accuracy"], abs=5e-4)
        assert ours["active atoms"] == pytest.approx(sparse[f"active, {main}"], abs=2)
        kept = sparse[f"pseudoinverse recovered from ln 10, {main}"]
        assert ours[f"recovered, {SPAN_SAE}"] == pytest.approx(kept, abs=3e-4)
        assert ours["terms, eigenvectors, right"] == pytest.approx(sample["terms, right"], abs=0.5)
    for ours, theirs in zip(published["nulls"], published["decompile"], strict=True):
        name = "needed for 99 % by importance, HOSVD basis × classes"
        assert ours[name] == pytest.approx(theirs[name], rel=0.02)


def test_training_is_shown_to_add_to_pair_features_at_the_layers_own_size_alone(published) -> None:
    lines = front.budgets(published["front"])[2:]
    gaps = [line.split("|")[6].split("±") for line in lines]
    assert [float(mean) > float(half) for mean, half in gaps] == [False] * len(front.BUDGETS) + [True]


def test_the_page_on_decompositions_cites_what_was_measured(published) -> None:
    page = (PUBLISHED.parents[1] / "decompositions.md").read_text("utf-8")
    for name in nulls_measure.SMALL:
        found = interval([seed[f"accuracy of digits, {name}"] for seed in published["nulls"]])
        assert f"{found.text('.1f', 100)} %" in page, name


def test_what_the_prose_says_of_atoms_and_encoder_holds(published) -> None:
    found = headline.apart(published)
    for name in ("encoder_less", "atoms_gain"):
        gap = interval(found[name][2])
        assert gap.mean > gap.half
    assert len(published["atoms"]) >= 3
