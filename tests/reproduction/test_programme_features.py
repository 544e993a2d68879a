"""SVD, SAE on outputs and SAE on pairs at a size of seconds: their numbers against dense NumPy."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from reports import check_report

from bilens import data, decompose, pairs
from bilens.data import Dataset
from bilens.models import ImageClassifier
from bilens.pairs import PairCodes
from bilens.sae import StandardSAE
from bilens.space import Space
from bilens.store import Folder
from bilens.tensor import BilinearTensor
from oracle import array
from reproduction.lab import Lab
from reproduction.measurement import Measurement
from reproduction.recipes import output_sae, pair_sae, tensor_svd

pytestmark = pytest.mark.slow


class TinyLab(Lab):
    """A lab that trains for two passes over a few 8×8 digits, with narrow layers, whatever is asked for."""

    def dataset(self, name: str = "mnist") -> Dataset:
        images = data.digits()
        few = data.Split(images.train.images[:400], images.train.labels[:400])
        return replace(images, name=name, train=few)

    def size(self, full: int, quick: int) -> int:
        return {10: 2, 1000: 24, 300: 16, 2000: 40, 5000: 60, 30: 4}.get(full, 12)


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Lab:
    return TinyLab(Folder(tmp_path_factory.mktemp("features"), {}), quick=True)


@pytest.fixture(scope="module")
def svds(lab) -> list[Measurement]:
    return [tensor_svd.measure(lab, seed) for seed in (0, 1)]


@pytest.fixture(scope="module")
def outputs(lab) -> list[Measurement]:
    return [output_sae.measure(lab, seed) for seed in (0, 1)]


@pytest.fixture(scope="module")
def paired(lab) -> list[Measurement]:
    return [pair_sae.measure(lab, seed) for seed in (0, 1)]


def weights(model: ImageClassifier) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return tuple(
        array(w).astype(float) for w in (model.layer.left.weight, model.layer.right.weight, model.readout.weight)
    )


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    logits = logits - logits.max(axis=1, keepdims=True)
    return float((np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]).mean())


# SVD


def test_drops_are_those_of_a_dense_svd(lab, svds) -> None:
    for seed, regime in ((0, tensor_svd.FOUNDING), (1, "batch 512, step, lr 0.005")):
        left, right, read = weights(tensor_svd.REGIMES[regime].classifier(lab, seed))
        dense = (np.einsum("hi,hj->hij", left, right) + np.einsum("hi,hj->hij", right, left)) / 2
        directions = np.linalg.svd(dense.reshape(len(dense), -1), full_matrices=False)[0].T
        images, labels = array(lab.dataset().test.images).astype(float), array(lab.dataset().test.labels)
        g = (images @ left.T) * (images @ right.T)
        own = ((g @ read.T).argmax(axis=1) == labels).mean()
        for k in (1, 5, 10):
            through = (g @ directions[:k].T @ directions[:k]) @ read.T
            drop = own - (through.argmax(axis=1) == labels).mean()
            assert svds[seed][f"drop at {k}, {regime}"] == pytest.approx(drop, abs=2.1 / len(labels))
        assert svds[seed][f"accuracy, {regime}"] == pytest.approx(own, abs=1.1 / len(labels))


def test_sums_of_learning_rates_are_those_of_the_schedule(lab, svds) -> None:
    """400 images: 4 batches of 100 or 1 of 512 an epoch, 2 epochs (or 1 where a fifth is asked for)."""
    step, cosine = 1 + 1 + 1 + 1 + 1 + 0.1 + 0.1 + 0.01, 1 + 0.5
    for regime, expected in {
        tensor_svd.FOUNDING: step,
        "batch 512, step": 1 + 1,
        "batch 512, cosine": cosine,
        "batch 512, step, lr 0.005": 5 * 2,
        "batch 100, step, 2 epochs": 1 + 1 + 1 + 0.1,
    }.items():
        assert svds[0][f"travel, {regime}"] == pytest.approx(1e-3 * expected)


def test_components_agree_with_themselves_in_any_mixture_as_spans(lab) -> None:
    tensor = lab.classifier(0, hidden=24, epochs=2).hidden_tensor().to(torch.float64)
    svd = decompose.svd(tensor, 20)
    space = Space("components", 20)
    ours = tensor.then(svd.outputs, space)
    scale = (svd.values[:5].square().mean() / svd.values[:5].square()).sqrt()[:, None]
    mixed = svd.outputs.clone()
    turned = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    mixed[:5] = turned @ (scale * svd.outputs[:5])  # an orthonormal mixture of the first five kernels
    same, other = (tensor_svd.agreement(ours, tensor.then(d, space)) for d in (svd.outputs, mixed))
    assert all(value == pytest.approx(1, abs=1e-6) for value in same.values())
    assert other["span of 5"] == pytest.approx(1, abs=1e-6)
    assert other["component 0"] < 0.95
    assert other["component 10"] == pytest.approx(1, abs=1e-6)
    assert all(other[f"best of component {place}"] >= other[f"component {place}"] - 1e-9 for place in range(20))


def test_pixels_that_are_never_lit_count_in_one_comparison_alone(lab) -> None:
    tensor = lab.classifier(0, hidden=24, epochs=2).hidden_tensor()
    dark = (lab.dataset().train.images == 0).all(dim=0)
    assert bool(dark.any())
    left, right = tensor.left.clone(), tensor.right.clone()
    left[:, dark] += 1
    right[:, dark] -= 1
    other = BilinearTensor(left, right, tensor.down, tensor.input, tensor.output)
    found = {}
    for lit in (False, True):
        read = [tensor_svd._components(lab, t, decompose.svd(t, 20), lit=lit) for t in (tensor, other)]
        found[lit] = tensor_svd.agreement(*read)["span of 20"]
    assert found[True] == pytest.approx(1, abs=1e-5)
    assert found[False] < 0.99


def test_the_report_on_the_svd_is_whole(svds) -> None:
    check_report(tensor_svd.RECIPE, svds)


# SAE on outputs


def test_scores_of_all_codes_are_those_of_dense_numpy(lab, outputs) -> None:
    labels = array(lab.dataset().test.labels).astype(int)
    for seed in (0, 1):
        model, train, test = output_sae.outputs(lab, seed)
        left, right, read = weights(model)
        images = array(lab.dataset().test.images).astype(float)
        g = (images @ left.T) * (images @ right.T)
        np.testing.assert_allclose(array(test), g, atol=1e-4)
        coder = StandardSAE.from_pretrained(lab.run.path / "models" / f"output-sae-{seed}")
        encoder, decoder, b_enc, b_dec = (
            array(w).astype(float) for w in (coder.W_enc, coder.W_dec, coder.b_enc, coder.b_dec)
        )
        over_train = np.maximum((array(train).astype(float) - b_dec) @ encoder + b_enc, 0)
        active = (over_train > 0).mean(axis=0) > 0.001
        codes = np.maximum((g - b_dec) @ encoder + b_enc, 0)
        atoms = decoder[active]
        per_sample = np.tile(b_dec, (len(g), 1))
        for place, lit in enumerate(active & (codes > 0)):
            if lit.any():
                per_sample[place] += (g[place] - b_dec) @ np.linalg.pinv(decoder[lit]) @ decoder[lit]
        through = {
            "ReLU": codes @ decoder + b_dec,
            "ReLU of the active": codes[:, active] @ atoms + b_dec,
            "pseudoinverse": (g - b_dec) @ np.linalg.pinv(atoms) @ atoms + b_dec,
            "per sample": per_sample,
        }
        own = cross_entropy(g @ read.T, labels)
        baselines = {
            "ln 10": math.log(10),
            "mean output": cross_entropy(
                np.repeat(array(train).astype(float).mean(axis=0)[None], len(g), 0) @ read.T, labels
            ),
        }
        main = output_sae.MAIN
        assert outputs[seed][f"active, {main}"] == active.sum()
        assert outputs[seed][f"L0, {main}"] == pytest.approx((over_train > 0).sum(axis=1).mean(), rel=1e-3)
        for name, rebuilt in through.items():
            loss = cross_entropy(rebuilt @ read.T, labels)
            for baseline, low in baselines.items():
                expected = (low - loss) / (low - own)
                assert outputs[seed][f"{name} recovered from {baseline}, {main}"] == pytest.approx(expected, abs=2e-3)


def test_the_report_on_outputs_is_whole(outputs) -> None:
    check_report(output_sae.RECIPE, outputs)


# SAE on pairs


def exact(width: int, bias: float = 0.0) -> StandardSAE:
    """An SAE that rebuilds every vector: each coordinate once with each sign."""
    coder = StandardSAE(width, 2 * width)
    eye = torch.eye(width)
    with torch.no_grad():
        coder.W_enc.copy_(torch.cat([eye, -eye], dim=1))
        coder.W_dec.copy_(torch.cat([eye, -eye]))
        coder.b_dec.fill_(bias)
    return coder


@pytest.mark.parametrize("two_hot", [False, True])
def test_a_coder_without_error_leaves_the_model_as_it_is(lab, two_hot) -> None:
    model = lab.classifier(0, hidden=24, epochs=2)
    tensor, coder = model.hidden_tensor(), exact(24, 0.05)
    with torch.no_grad():
        stream = pairs.stream(tensor, kind="two_hot" if two_hot else "polarized", shuffle=False)
        codes = PairCodes.of(stream, coder.encode)
    found = pair_sae.scores(lab, model, tensor, coder, codes, two_hot)
    assert found["NMSE on pairs"] < 1e-9
    assert found["NMSE on outputs"] < 1e-7
    assert found["accuracy lost"] == pytest.approx(0, abs=1.1 / len(lab.dataset().test.labels))
    assert found["recovered"] == pytest.approx(1, abs=1e-4)
    assert found["L0"] > 0
    if not two_hot:
        images = array(lab.dataset().test.images).astype(float)
        g = array(model.hidden_outputs(lab.dataset().test.images)).astype(float)
        missing = (images.sum(axis=1, keepdims=True) ** 2 * 0.05) ** 2 * 24
        expected = missing.sum() / (g**2).sum()
        assert found["NMSE on outputs without the bias term"] == pytest.approx(expected, rel=1e-4)


def test_features_that_are_there_are_matched_and_random_ones_are_not(lab, outputs) -> None:
    model = lab.classifier(1, hidden=24, epochs=2)
    tensor = model.hidden_tensor()
    directions = decompose.svd(tensor).outputs
    generator = torch.Generator().manual_seed(0)
    ours = torch.cat([torch.randn(40, 24, generator=generator), directions.flip(0)])
    found = pair_sae.matches(lab, 1, model, ours)
    assert found["matched with SVD components"] == pytest.approx(1, abs=1e-5)
    assert 0 < found["null with SVD components"] < 0.97
    assert 0 < found["matched with digit directions"] < 1


def test_pairs_are_weighed_as_the_variant_says(lab) -> None:
    tensor = lab.classifier(0, hidden=16, epochs=2).hidden_tensor()
    images = array(lab.dataset().train.images).astype(float)
    dark = (images == 0).all(axis=0)
    for name, variant in pair_sae.VARIANTS.items():
        stream = pair_sae._stream(lab, tensor, variant, 0)
        i, j = (array(part).astype(int) for part in stream.pairs(0))
        if variant.weights == "second moment":
            assert not (dark[i] | dark[j]).any(), name
        else:
            assert dark[i].any(), name
        vector = stream.batch(0)[0]
        left, right, _ = weights(lab.classifier(0, hidden=16, epochs=2))
        a, b = (left[:, k] * right[:, m] for k, m in ((i[0], j[0]), (j[0], i[0])))
        expected = (a + b) / 2
        if variant.two_hot:
            expected = (left[:, i[0]] + left[:, j[0]]) * (right[:, i[0]] + right[:, j[0]])
        np.testing.assert_allclose(array(vector), expected, atol=1e-6)


def test_the_report_on_pairs_is_whole(paired) -> None:
    check_report(pair_sae.RECIPE, paired)


def test_accuracies_of_pairs_belong_to_one_model(lab, paired) -> None:
    test = lab.dataset().test
    for seed, measured in enumerate(paired):
        left, right, read = weights(lab.classifier(seed, hidden=24, epochs=2))
        images = array(test.images).astype(float)
        own = ((((images @ left.T) * (images @ right.T)) @ read.T).argmax(axis=1) == array(test.labels)).mean()
        main = pair_sae.MAIN
        assert measured[f"accuracy of the model, {main}"] == pytest.approx(own, abs=1.1 / len(test.labels))
        lost = measured[f"accuracy of the model, {main}"] - measured[f"accuracy, {main}"]
        assert measured[f"accuracy lost, {main}"] == pytest.approx(lost)
