"""Digit directions and explained samples, on small digits, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from bilens import data, decompose, plots
from bilens.errors import BilensError
from bilens.store import Folder
from reproduction.lab import Lab
from reproduction.measurement import Measurement
from reproduction.recipes import digit_directions as digits
from reproduction.recipes import one_sample as sample

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A quick programme on digits of 64 pixels."""
    return Lab(
        Folder(tmp_path_factory.mktemp("programme"), {"quick": True}), True, {"small_mnist": data.load("digits")}
    )


@pytest.fixture(scope="module")
def subject(lab: Lab):
    """The centred tensor of a trained model in float64, its kernels built by numpy, and the images."""
    model = lab.classifier(0, hidden=10, epochs=6)
    left, right = (weight.detach().double().numpy() for weight in (model.layer.left.weight, model.layer.right.weight))
    down = model.readout.weight.double().numpy()
    down = down - down.mean(axis=0)
    kernels = np.stack([(left.T * row) @ right for row in down])
    kernels = (kernels + kernels.transpose(0, 2, 1)) / 2
    return model.tensor().to(torch.float64).centered(), kernels, lab.dataset()


def logits_of(kernels: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.einsum("ni,oij,nj->no", x, kernels, x)


def test_sums_by_eigenvalue_are_those_of_numpy_and_end_at_the_model(subject) -> None:
    tensor, kernels, images = subject
    x = images.test.images.double()
    sums = digits.by_eigenvalue(digits.spectra_of(tensor)).sums(x).numpy()
    assert sums.shape == (10, len(x), 20)  # two eigenvalues a hidden unit, and no more
    for digit, kernel in enumerate(kernels):
        values, columns = np.linalg.eigh(kernel)
        order = np.argsort(-np.abs(values))
        terms = (x.numpy() @ columns[:, order]) ** 2 * values[order]
        np.testing.assert_allclose(sums[digit], np.cumsum(terms, axis=1)[:, :20], atol=1e-9)
    np.testing.assert_allclose(sums[:, :, -1].T, logits_of(kernels, x.numpy()), atol=1e-9)


def test_mean_activation_orders_the_same_pairs(subject) -> None:
    tensor, _, images = subject
    x = images.train.images.double()
    spectra = digits.spectra_of(tensor)
    plain = digits.by_eigenvalue(spectra)
    ranked = digits.by_activation(spectra, decompose.second_moment(images.train.images, tensor.input))
    moved = 0
    for digit in range(10):
        responses = (x @ ranked.readers[digit].T).square().mean(dim=0)
        means = ranked.values[digit].abs() * responses
        assert bool((means[1:] <= means[:-1] * (1 + 1e-9)).all())
        places = [plain.values[digit].tolist().index(value) for value in ranked.values[digit].tolist()]
        assert sorted(places) == list(range(20))
        torch.testing.assert_close(ranked.readers[digit], plain.readers[digit][places], rtol=0, atol=0)
        moved += places != list(range(20))
    assert moved > 0
    torch.testing.assert_close(ranked.sums(x)[:, :, -1].T, tensor(x))


def test_the_certificate_of_an_order_is_the_largest_eigenvalue_left_out(subject) -> None:
    tensor, _, images = subject
    x = images.test.images.double()
    spectra = digits.spectra_of(tensor)
    moment = decompose.second_moment(images.train.images, tensor.input)
    for ranked in (digits.by_eigenvalue(spectra), digits.by_activation(spectra, moment)):
        left_out = ranked.discarded()
        for k in (1, 7, 20):
            expected = [max((abs(v) for v in row[k:]), default=0.0) for row in ranked.values.tolist()]
            assert left_out[:, k - 1].tolist() == expected
        error = (ranked.sums(x) - tensor(x).T[:, :, None]).abs()
        assert bool((error <= left_out[:, None] * x.square().sum(dim=1)[:, None] + 1e-9).all())


def test_the_data_weighted_pairs_are_those_of_the_whitened_kernel_and_their_bound_holds(subject) -> None:
    tensor, kernels, images = subject
    x, unseen = images.train.images.double(), images.test.images.double()
    moment = decompose.second_moment(images.train.images, tensor.input)
    ranked = digits.by_data(tensor, moment)
    root = scipy.linalg.sqrtm(moment.numpy() + digits.RIDGE * np.trace(moment.numpy()) / 64 * np.eye(64)).real
    for digit, kernel in enumerate(kernels):
        values = np.linalg.eigvalsh(root @ kernel @ root)
        expected = values[np.argsort(-np.abs(values))][:20]
        np.testing.assert_allclose(ranked.values[digit].numpy(), expected, atol=1e-9)
    torch.testing.assert_close(ranked.sums(unseen)[:, :, -1].T, tensor(unseen))
    mean = (ranked.sums(x) - tensor(x).T[:, :, None]).abs().mean(dim=1)
    total = ranked.values.abs().sum(dim=1, keepdim=True)
    assert bool((mean <= total - ranked.values.abs().cumsum(dim=1) + 1e-9).all())
    found = digits.mean_errors(tensor, ranked, x)
    assert set(found) == {f"{name}, k = {k}" for name in ("mean error", "its bound") for k in (5, 10)}
    for k in (5, 10):
        assert found[f"mean error, k = {k}"] == pytest.approx(float(mean[:, k - 1].mean()))
        assert found[f"its bound, k = {k}"] == pytest.approx(float(ranked.values[:, k:].abs().sum(dim=1).mean()))


def test_activations_are_terms_on_the_digits_own_images(subject) -> None:
    tensor, kernels, images = subject
    x, labels = images.test.images.double().numpy(), images.test.labels.numpy()
    split = data.Split(images.test.images.double(), images.test.labels)
    raising, either, relative = 0, 0, 0
    for digit, kernel in enumerate(kernels):
        values, columns = np.linalg.eigh(kernel)
        means = ((x[labels == digit] @ columns) ** 2 * values).mean(axis=0)
        raising, either = raising + (means > 0.1).sum(), either + (abs(means) > 0.1).sum()
        relative += (means > 0.1 * means.max()).sum()
    found = digits.activations(digits.spectra_of(tensor), split)
    counts = {"raising": raising, "either sign": either, "relative": relative}
    assert found == {f"active, {name}": count / 10 for name, count in counts.items()}
    assert 0 < raising < either
    assert relative != raising


def test_needed_counts_from_where_the_accuracy_stays() -> None:
    accuracies = torch.tensor([0.5, 0.895, 0.7, 0.893, 0.9, 0.9])
    assert digits.needed(accuracies, 0.9) == 4
    assert digits.needed(accuracies[3:], 0.9) == 1


def test_the_recipe_of_digit_directions(lab: Lab, subject) -> None:
    _, kernels, _ = subject
    test = lab.dataset().test
    first = lab.run.record("digits/0", Measurement, lambda: digits.measure(lab, 0))
    seeds = [lab.run.record("digits/0", Measurement, lambda: pytest.fail("measured again")), digits.measure(lab, 1)]
    values = np.linalg.eigvalsh(kernels)
    ranks = np.abs(values).sum(axis=1) ** 2 / (values**2).sum(axis=1)
    assert first["effective rank, h = 10"] == pytest.approx(ranks.mean(), rel=1e-4)
    for hidden in digits.QUICK_WIDTHS:
        model = lab.classifier(0, hidden=hidden, epochs=6)
        own = float((model(test.images).argmax(dim=1) == test.labels).double().mean())
        assert first[f"accuracy, h = {hidden}"] == pytest.approx(own)
        for order in digits.ORDERS:
            curve = seeds[0].curve(f"{order}, h = {hidden}")
            assert curve.accuracy[-1] == pytest.approx(own, abs=2 / len(test))
            assert curve.recovered[-1] == pytest.approx(1, abs=1e-4)
            assert curve.error[-1] < 1e-4
            if order != "data-weighted":
                assert bool((curve.error <= curve.bound + 1e-4).all())
            enough = first[f"needed by {order}, h = {hidden}"]
            assert bool((curve.accuracy[curve.kept >= enough] > own - 0.01).all())
    said = digits.claims(first)
    assert {claim.draft for claim in said} >= {"3–5", "≈ 8"}
    assert all(claim.number in seed.names for claim in said for seed in seeds)
    for figure, caption in digits.figures(seeds).values():
        assert plots.svg(figure)
        assert caption.endswith(".")


def test_covering_counts_until_the_sum_stays_near_the_whole() -> None:
    terms = torch.tensor([[10.0, 0.1, -0.2], [4.0, -4.0, 1.0], [0.5, 3.0, 5.0], [-1.0, 10.0, 0.0]])
    # sums, largest first: 10 of 9.9; 4, 0, 1 of 1; 5, 8, 8.5 of 8.5; 10, 9 of 9
    assert sample.covering(terms).tolist() == [1, 3, 2, 2]
    assert sample.covering(-terms).tolist() == [1, 3, 2, 2]


def test_a_margin_is_the_sum_of_the_terms_of_one_spectrum(subject) -> None:
    tensor, kernels, images = subject
    x = images.test.images.double()
    logits = logits_of(kernels, x.numpy())
    chosen = np.argsort(-logits, axis=1)[:, :2]
    margins, counts, weights = sample.margin_terms(tensor, x, torch.from_numpy(chosen.copy()))
    rows = np.arange(len(x))
    np.testing.assert_allclose(margins.numpy(), logits[rows, chosen[:, 0]] - logits[rows, chosen[:, 1]], atol=1e-9)
    for row in (0, 17, 123):
        a, b = chosen[row]
        values, columns = np.linalg.eigh(kernels[a] - kernels[b])
        terms = (x[row].numpy() @ columns) ** 2 * values
        terms = terms[np.argsort(-np.abs(terms))]
        near = np.abs(np.cumsum(terms) - terms.sum()) <= 0.1 * terms.sum()
        assert counts[row] == next(k for k in range(1, 65) if near[k - 1 :].all())
        assert float(weights[row]) == pytest.approx(np.abs(terms).sum())


def test_an_explanation_shows_the_largest_terms_and_states_the_rest(subject) -> None:
    tensor, kernels, images = subject
    x = images.test.images[5].double()
    told = sample.explain(tensor, x, torch.tensor(3), torch.tensor([8, 3]))
    values, columns = np.linalg.eigh(kernels[8] - kernels[3])
    terms = (x.numpy() @ columns) ** 2 * values
    assert told.title == "A 3, wrongly read as 8: logit of 8 less that of 3"
    assert told.total == pytest.approx(terms.sum())
    largest = np.argsort(-np.abs(terms))[: sample.SHOWN]
    np.testing.assert_allclose(sorted(told.terms.tolist()), sorted(terms[largest]), atol=1e-9)
    assert told.rest == pytest.approx(terms.sum() - terms[largest].sum())
    others = np.delete(np.abs(values), largest)
    assert float(told.spectrum.discarded) == pytest.approx(others.max())


def test_examples_are_of_median_margin_and_partners_of_nearest() -> None:
    margins = torch.tensor([5.0, 1.0, 2.0, 1.1, 9.0, 0.2, 6.0])
    right = torch.tensor([True, True, True, False, True, False, False])
    assert sample.alike(margins, right).tolist() == [1, 1, 0]
    assert sample.typical(margins, right) == 2
    assert sample.typical(margins, ~right) == 3


def test_the_recipe_of_one_sample(lab: Lab) -> None:
    seeds = [
        lab.run.record(f"sample/{seed}", Measurement, lambda seed=seed: sample.measure(lab, seed)) for seed in (0, 1)
    ]
    model, test = lab.classifier(0, hidden=60, epochs=6), lab.dataset().test
    logits = model(test.images)
    right = logits.argmax(dim=1) == test.labels
    best = logits.topk(2, dim=1).values
    for group, members in (("right", right), ("wrong", ~right)):
        median = float((best[:, 0] - best[:, 1])[members].median())
        assert seeds[0][f"margin, {group}"] == pytest.approx(median, abs=1e-3)
    assert seeds[0]["error of a logit"] < 1e-10
    assert seeds[0]["error of a margin"] < 1e-10
    assert 0 < seeds[0]["error of a logit, as the model computes"] < 1e-3
    explained = seeds[0].records
    assert ["rightly" in told.title for told in explained] == [True, False]
    assert [told.total for told in explained] == pytest.approx([seeds[0]["margin, right"], seeds[0]["margin, wrong"]])
    assert all(claim.number in seed.names for claim in sample.claims(seeds[0]) for seed in seeds)
    figures = sample.figures(seeds)
    assert list(figures) == ["sample-right", "sample-wrong"]
    assert all(plots.svg(figure) for figure, _ in figures.values())


def test_a_model_that_is_always_right_cannot_be_compared(lab: Lab) -> None:
    model = lab.classifier(0, hidden=60, epochs=6)
    test = lab.dataset().test
    right = model(test.images).argmax(dim=1) == test.labels
    images = lab.dataset()
    easy = data.Split(test.images[right], test.labels[right])
    only = data.Dataset(images.name, images.train, easy, images.input, images.output, images.source)
    with pytest.raises(BilensError, match="without a wrong prediction"):
        sample.measure(Lab(lab.run, True, {"small_mnist": only}), 0)
