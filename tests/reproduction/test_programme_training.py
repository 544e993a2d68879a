"""What training does to features, on small digits, against numpy."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch

from bilens import data
from bilens.errors import BilensError
from bilens.models import ImageClassifier
from bilens.store import Folder
from reproduction.lab import Lab
from reproduction.measurement import Measurement
from reproduction.recipes import masks, training
from reproduction.recipes.masks import CHOICES, MASKS, Attack, Choice

pytestmark = pytest.mark.slow

PIXELS, EMBEDDING = MASKS[0], MASKS[1]


class ShortLab(Lab):
    """A quick programme that trains only the attacked models long enough to read each digit."""

    def classifier(self, seed: int, *, epochs: int, embedding: int | None = None, **settings: Any) -> ImageClassifier:
        return super().classifier(seed, epochs=16 if embedding else 4, embedding=embedding, **settings)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """On digits of 64 pixels."""
    return ShortLab(
        Folder(tmp_path_factory.mktemp("programme"), {"quick": True}), True, {"small_mnist": data.load("digits")}
    )


@pytest.fixture(scope="module")
def subject(lab: Lab):
    """A model with an embedding, and the kernels of its centred read-out over the embedding, by numpy."""
    model = lab.classifier(0, hidden=12, epochs=4, embedding=24)
    left, right = (weight.detach().double().numpy() for weight in (model.layer.left.weight, model.layer.right.weight))
    down = model.readout.weight.double().numpy()
    down = down - down.mean(axis=0)
    kernels = np.stack([(left.T * row) @ right for row in down])
    return model, model.embedding.weight.double().numpy(), (kernels + kernels.transpose(0, 2, 1)) / 2


def top(kernel: np.ndarray, k: int) -> np.ndarray:
    values, columns = np.linalg.eigh(kernel)
    return columns[:, ::-1][:, :k].T[values[::-1][:k] > 0]


@pytest.mark.parametrize("choice", [choice for choice in CHOICES if choice.ink > 0], ids=str)
def test_a_mask_is_the_smallest_that_moves_the_first_eigenvector_alone(subject, choice: Choice) -> None:
    model, embedding, kernels = subject
    source, target = pair = (4, 9)
    attack = Attack.on(copy.deepcopy(model).double())
    for name, inner in ((PIXELS, embedding.T @ kernels @ embedding), (EMBEDDING, kernels)):
        others = {
            "target": [],
            "difference": [],
            "pair": [inner[source]],
            "all": [inner[c] for c in range(10) if c != target],
        }[choice.readers]
        first = inner[target] - inner[source] if choice.readers == "difference" else inner[target]
        rows = np.concatenate([top(kernel, choice.kept) for kernel in (first, *others)])
        dual = np.linalg.pinv(rows, rcond=1e-10)[:, 0]
        expected = dual if name == PIXELS else dual @ embedding
        expected = expected / np.linalg.norm(expected) * np.sign(expected.sum())
        found = attack.mask(name, pair, choice).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-6)
        np.testing.assert_allclose(attack.mask(name, pair, Choice(choice.readers, choice.kept, -1)), -found)
        if name == PIXELS and len(rows) <= len(embedding):
            responses = rows @ found
            np.testing.assert_allclose(responses[1:], 0, atol=1e-6 * abs(responses[0]) + 1e-9)
            assert abs(responses[0]) > 0


def test_shares_and_purity_are_those_of_images_with_the_mask(subject, lab: Lab) -> None:
    model, embedding, kernels = subject
    test = lab.dataset().test
    attack = Attack.on(model)
    right = model(test.images).argmax(dim=1) == test.labels
    x = test.images[right & (test.labels == 4)]
    mask = attack.mask(PIXELS, (4, 9), Choice("difference", 1, 1))
    norms = torch.tensor([0.0, 1.0, 2.5, 4.0])
    shares = attack.left(x, mask, (4, 9), norms)
    for row, norm in zip(shares.tolist(), norms.tolist(), strict=True):
        read = model(x + norm * mask).argmax(dim=1)
        assert row == pytest.approx([float((read != 4).double().mean()), float((read == 9).double().mean())])
    assert shares[0].tolist() == [0, 0]
    assert 0 < shares[-1, 1] <= shares[-1, 0]
    responses = np.stack([top(embedding.T @ kernel @ embedding, 1)[0] for kernel in kernels]) @ mask.double().numpy()
    assert attack.purity(mask, 9) == pytest.approx(abs(responses[9]) / np.linalg.norm(responses), rel=1e-4)


def test_the_choice_is_the_best_on_the_tuned_pair(subject, lab: Lab) -> None:
    model, _, _ = subject
    train = lab.dataset().train
    attack = Attack.on(model)
    x = train.images[(train.labels == 3) & (model(train.images).argmax(dim=1) == 3)]
    norm = float(lab.dataset().test.images.norm(dim=1).mean())
    for name in (PIXELS, "isolating, embedding space"):
        tried = [choice for choice in CHOICES if choice.readers == "all" or name == PIXELS]
        taken = [
            sum(
                float((model(x + t * norm * attack.mask(name, (3, 5), choice)).argmax(dim=1) != 3).double().mean())
                for t in (0.2, 0.4)
            )
            / 2
            for choice in tried
        ]
        assert len(set(taken)) > 2
        chosen = masks.choose(attack, name, x, norm * torch.tensor([0.2, 0.4]))
        assert taken[tried.index(chosen)] == pytest.approx(max(taken), abs=1.5 / len(x))


def test_what_is_read_of_a_model(lab: Lab) -> None:
    images = lab.dataset()
    model = lab.classifier(0, hidden=30, epochs=4)
    tensor = model.tensor().centered()
    spectra = masks.spectra_of(tensor)
    found = training.read(tensor, spectra, images, 300)
    vectors, ranks = [], []
    left, right = tensor.left.double().numpy(), tensor.right.double().numpy()
    for row in tensor.down.double().numpy():
        kernel = (left.T * row) @ right
        values, columns = np.linalg.eigh((kernel + kernel.T) / 2)
        vectors.append(columns[:, np.argsort(-np.abs(values))[:20]].T)
        ranks.append(np.abs(values).sum() ** 2 / (values**2).sum())
    leading = np.concatenate(vectors)
    assert found["effective rank"] == pytest.approx(np.mean(ranks), rel=1e-4)
    unit = images.train.images.double().numpy()
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    near, far = (np.abs(leading @ part.T).max(axis=1) for part in (unit[:300], unit[300:600]))
    assert found["nearer"] == pytest.approx((near > far).mean(), abs=0.011)
    steps = [np.diff(leading.reshape(-1, 8, 8), axis=axis) for axis in (1, 2)]
    rough = sum((step**2).sum(axis=(1, 2)) for step in steps) / (2 * 112 / 64)
    assert found["roughness"] == pytest.approx(rough.mean(), rel=1e-4)
    for name, part in (("accuracy", images.test), ("accuracy on few", images.train)):
        x, labels = (part.images, part.labels) if name == "accuracy" else (part.images[:300], part.labels[:300])
        assert found[name] == pytest.approx(float((model(x).argmax(dim=1) == labels).double().mean()))


def test_misled_images_are_those_that_another_digits_eigenvector_takes(lab: Lab) -> None:
    images = lab.dataset()
    model = lab.classifier(0, hidden=30, epochs=4)
    tensor = model.tensor().centered()
    spectra = masks.spectra_of(tensor)
    x, labels = images.test.images, images.test.labels
    norm = 0.3 * float(x.norm(dim=1).mean())
    right = model(x).argmax(dim=1) == labels
    lost, count = 0, 0
    for target, spectrum in enumerate(spectra):
        mask = spectrum.vectors[int(spectrum.values.argmax())]
        mask = mask * mask.sum().sign()
        these = right & (labels != target)
        lost += int((model(x[these] + norm * mask).argmax(dim=1) != labels[these]).sum())
        count += int(these.sum())
    found = masks.misled(tensor, spectra, images, 0)
    assert found["misled"] == pytest.approx(lost / count, abs=2 / count)
    assert 0 < found["misled, permuted"] < found["misled"]


def test_the_recipe_of_training(lab: Lab) -> None:
    first = lab.run.record("training/0", Measurement, lambda: training.measure(lab, 0))
    again = lab.run.record("training/0", Measurement, lambda: pytest.fail("measured again"))
    seeds = [first, again]
    names = [folder.name for folder in (lab.run.path / "models").iterdir()]
    assert {name.split("step-0-")[1] for name in names if "step-0-" in name} >= {
        "embedding-24", "rotation-15", "shift-2", "blur-1",
    }  # fmt: skip
    assert sum(name.startswith("digits-300-") for name in names) == 4
    model = lab.classifier(0, hidden=30, epochs=4, embedding=24)
    test = lab.dataset().test
    norm = float(test.images.norm(dim=1).mean())
    for place, name in ((0, PIXELS), (1, EMBEDDING)):
        mask = first.records[-2].spectra[place].vectors[0]
        x = test.images[(test.labels == 4) & (model(test.images).argmax(dim=1) == 4)]
        read = model(x + 0.3 * norm * mask).argmax(dim=1)
        assert first[f"left, {name}, 30 %, held-out pair"] == pytest.approx(
            float((read != 4).double().mean()), abs=1.5 / len(x)
        )
    assert first["purity, isolating, pixel space"] > first["purity, permuted pixels"]
    claims = training.claims(first)
    assert {claim.draft for claim in claims} >= {"97.5 %", "38.5", "82", "15.5", "26"}
    assert all(math.isfinite(first[claim.number]) for claim in claims)
    assert len({claim.text for claim in claims}) == len(claims)
    with pytest.raises(BilensError, match=r"that reads no \d rightly"):
        masks.attacked(Attack.on(ImageClassifier(model.input, model.output, 2, embedding=2)), lab.dataset(), 0)
    figures = training.figures(seeds)
    assert [len(figures[name][0].axes) for name in ("training-map", "training-few-map", "training-mask-images")] == [
        100, 64, 12,
    ]  # fmt: skip
    for figure, caption in figures.values():
        assert figure.axes
        assert caption.endswith(".")
