"""The full decompile on small digits, against dense einsums and sums done by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bilens import data, plots
from bilens.data import Split
from bilens.decompose import Interactions
from bilens.dictionary import Dictionary
from bilens.errors import BilensError
from bilens.space import Space
from bilens.store import Folder
from bilens.tensor import BilinearTensor
from reproduction.lab import Lab
from reproduction.measurement import Measurement
from reproduction.recipes import decompile_features
from reproduction.recipes import full_decompile as recipe

pytestmark = pytest.mark.slow

SIZES = {
    300: 12,
    10: 4,
    decompile_features.SCORED: 100,
    decompile_features.WEIGHED: 60,
    500: 40,
    400: 12,
    600: 30,
    250: 12,
    1000: 12,
    80: 6,
    50: 5,
}


class TinyLab(Lab):
    """Everything as small as it can be, whatever is asked for."""

    def size(self, full: int, quick: int) -> int:
        return SIZES[full]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    folder = Folder(tmp_path_factory.mktemp("decompile"), {})
    return TinyLab(folder, True, {"small_mnist": data.load("digits")})


@pytest.fixture(scope="module")
def seeds(lab: Lab) -> list[Measurement]:
    measured = [
        lab.run.record(f"decompile/{seed}", Measurement, lambda s=seed: recipe.measure(lab, s)) for seed in (0, 1)
    ]
    return [*measured[:1], lab.run.record("decompile/1", Measurement, lambda: pytest.fail("measured again"))]


def dense(model) -> tuple[np.ndarray, np.ndarray]:
    """The layer's symmetric tensor (h, d, d) and the centred read-out."""
    w, v = (part.weight.detach().double().numpy() for part in (model.layer.left, model.layer.right))
    half = np.einsum("hi,hj->hij", w, v)
    readout = model.readout.weight.detach().double().numpy()
    return (half + half.transpose(0, 2, 1)) / 2, readout - readout.mean(axis=0)


def test_keeping_interactions_by_magnitude_is_done_as_by_hand(lab: Lab) -> None:
    model = lab.classifier(0, hidden=12, epochs=4)
    tensor, readout = dense(model)
    images = lab.dataset().test
    test = Split(images.images[:40].double(), images.labels[:40])
    rng = np.random.default_rng(0)
    atoms, read = (np.linalg.qr(rng.normal(size=(n, n)))[0][:k] for n, k in ((64, 6), (12, 4)))
    layer = model.hidden_tensor().to(torch.float64)
    mixed, given = (
        Dictionary.from_atoms(torch.tensor(rows), space) for rows, space in ((atoms, layer.input), (read, layer.output))
    )
    inputs = decompile_features.Inputs("a", mixed, mixed.encode(test.images), mixed.encode(test.images), each=64)
    outputs = decompile_features.Outputs(
        "b", layer.read(given), torch.tensor(read @ readout.T), torch.zeros(10).double(), each=12, all=120
    )
    numbers, curves = recipe.decompiled(inputs, outputs, test, own=0.5, orders=(recipe.MAGNITUDE, recipe.IMPORTANCE))
    c = np.einsum("oh,hij,ai,bj->oab", read, tensor, atoms, atoms)
    codes, effects = test.images.numpy() @ atoms.T, np.linalg.norm(read @ readout.T, axis=1)
    whole = np.einsum("oab,na,nb->no", c, codes, codes) @ read @ readout.T
    products = np.sqrt((codes[:, :, None] ** 2 * codes[:, None] ** 2).mean(axis=0))
    off = 1 - np.eye(6)
    scores = {
        recipe.MAGNITUDE: abs(c) * effects[:, None, None] * np.sqrt(1 + off),
        recipe.IMPORTANCE: abs(c) * effects[:, None, None] * products * (1 + off),
    }
    upper = np.triu(np.ones((6, 6))) > 0
    for place, (order, score) in enumerate(scores.items()):
        curve, stored = curves[2 * place], curves[2 * place + 1]
        assert curve.kept.tolist() == list(recipe.COUNTS)
        for point, k in enumerate((10, 30)):
            chosen = sorted(score[:, upper].ravel())[-k]
            mask = (score >= chosen) & upper
            kept = np.where(mask | mask.transpose(0, 2, 1), c, 0)
            logits = np.einsum("oab,na,nb->no", kept, codes, codes) @ read @ readout.T
            assert float(curve.error[point]) == pytest.approx(abs(logits - whole).max(), rel=1e-9)
            rest = np.linalg.norm(np.einsum("oab,op->pab", c - kept, read @ readout.T), axis=(1, 2))
            assert float(curve.bound[point]) == pytest.approx(rest.max() * (codes**2).sum(axis=1).max(), rel=1e-9)
            right = logits.argmax(axis=1) == test.labels.numpy()
            assert float(curve.accuracy[point]) == pytest.approx(right.mean())
            named = (kept != 0).any(axis=(0, 1)).sum(), (kept != 0).any(axis=(1, 2)).sum()
            assert int(stored.kept[point]) == k + 64 * named[0] + 12 * named[1] + 120
        assert bool((curve.error <= curve.bound).all())
        assert curve.accuracy[-1] == pytest.approx((whole.argmax(axis=1) == test.labels.numpy()).mean())
        squares = np.sort((score[:, upper] ** 2).ravel())[::-1]
        effective = squares.sum() ** 2 / (squares**2).sum()
        assert numbers[f"effective number by {order}"] == pytest.approx(effective, rel=1e-9)
        held = (squares.cumsum() < 0.9 * squares.sum()).sum() + 1
        assert numbers[f"holding 90 % by {order}"] == held
    assert numbers["interactions"] == 4 * 21


def test_how_many_scores_hold_a_share() -> None:
    scores = torch.tensor([[3.0, -1.0], [1.0, 1.0]])  # squares 9, 1, 1, 1
    assert [recipe.holding(scores, share) for share in (0.5, 0.75, 0.76, 11 / 12, 1.0)] == [1, 1, 2, 3, 4]


def test_needed_is_where_the_score_stays() -> None:
    counts = [10, 100, 1000, 10000]
    assert recipe.needed(counts, [0.5, 0.96, 0.9, 1.0], 0.95) == round(10**3.5)
    assert recipe.needed(counts, [0.96, 0.97, 0.98, 1.0], 0.95) == 10
    assert recipe.needed(counts, [0.1, 0.2, 0.3, 0.4], 0.95) == 10000
    assert recipe.needed(counts, [-1.0, 0.0, 0.9, 1.0], 0.9) == 1000


def test_a_rotation_leaves_what_codes_build_and_the_directions_beyond_it() -> None:
    rows = torch.randn(5, 7, generator=torch.Generator().manual_seed(1)).double()
    space = Space("x", 7)
    given = Dictionary.from_atoms(rows, space, offset=torch.ones(7).double())
    x = torch.randn(3, 7, generator=torch.Generator().manual_seed(2)).double()
    for first in (None, 2):
        turned, rotation = decompile_features.rotated(given, 0, first)
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(5).double())
        torch.testing.assert_close(turned.encode(x), given.encode(x) @ rotation.T)
        torch.testing.assert_close(turned.decode(turned.encode(x)), given.project(x))
        torch.testing.assert_close(turned.duals, Dictionary.from_atoms(turned.atoms, space).duals)
        assert float((turned.atoms[:2] - given.atoms[:2]).abs().min()) > 1e-3
        assert torch.equal(turned.atoms[2:], given.atoms[2:]) == (first == 2)


def test_transcoders_are_as_large_as_is_asked_for() -> None:
    for share in recipe.SIZES:
        features, kept = recipe.transcoder_size(share, 32, 784, 300)
        assert abs(features * (784 + 300 + 1) - share * 2 * 300 * 784) <= (784 + 300 + 1) / 2
        assert kept == 32
        assert recipe.transcoder_size(share, None, 784, 300) == (features, features)
    assert recipe.transcoder_size(1e-9, 32, 4, 3) == (1, 1)


def test_numbers_stored_count_what_is_named() -> None:
    coefficients = torch.zeros(6, 3)
    coefficients[2, 1] = 1.0  # feature 0 with the constant
    kept = Interactions(coefficients, Space("codes", 2, constant=True), Space("y", 3))
    nothing = torch.zeros(1, 2)
    inputs = decompile_features.Inputs("a", None, nothing, nothing, each=100, all=1000)
    outputs = decompile_features.Outputs("b", None, torch.zeros(3, 10), torch.zeros(10), each=10, all=10000)  # type: ignore[arg-type]
    assert recipe.numbers_stored(kept, inputs, outputs) == 1 + 100 + 1000 + 10 + 10000


def test_exact_features_run_the_model_itself(seeds: list[Measurement], lab: Lab) -> None:
    for number, measured in enumerate(seeds):
        model, test = lab.classifier(number, hidden=12, epochs=4), lab.dataset().test
        own = float((model(test.images[:100]).argmax(dim=1) == test.labels[:100]).double().mean())
        assert measured["accuracy"] == pytest.approx(own)
        pair = f"{decompile_features.BASIS} × {decompile_features.CLASSES}"
        assert measured[f"ceiling, {pair}"] == pytest.approx(1, abs=1e-4)
        assert measured[f"interactions, {pair}"] == 24 * 25 / 2 * 10  # twice the hidden units are directions
        assert measured[f"ceiling accuracy, {pair}"] == pytest.approx(own)
        assert measured[f"interactions, {decompile_features.PIXELS} × {decompile_features.SVD}"] == 64 * 65 / 2 * 5
        same = {
            measured[f"ceiling, {name} × {decompile_features.SVD}"]
            for name in (decompile_features.PIXELS, decompile_features.BASIS, decompile_features.TURNED)
        }
        assert max(same) - min(same) < 1e-4
        turned = [
            measured[f"ceiling, {name} × {decompile_features.SVD}"]
            for name in (decompile_features.CODES, decompile_features.CODES_ROTATED)
        ]
        assert turned[0] == pytest.approx(turned[1], abs=1e-3)
        assert measured["numbers of the layer"] == 2 * 12 * 64 + 120
        for curve in measured.curves:
            if curve.error is not None:
                assert bool((curve.error <= curve.bound + 1e-3).all())
                assert curve.error[-1] == 0


def test_the_report_is_whole(seeds: list[Measurement], lab: Lab) -> None:
    said = recipe.claims(seeds[0])
    assert len({claim.text for claim in said}) == len(said)
    for claim in said:
        assert all(math.isfinite(seed[claim.number]) for seed in seeds)
        format(claim.scale * seeds[0][claim.number], claim.form)
    for measured in (seeds, seeds[:1]):
        table = recipe.tables(measured)["contest"]
        assert f"| {measured[0]['numbers, MLP with ReLU, 1 of the layer']:,.0f} |" in table
        assert len(table.splitlines()) == 2 + len(recipe.SIZES)
        assert all(caption.endswith(".") for _, caption in recipe.figures(measured).values())
    assert plots.svg(recipe.figures(seeds)["decompile-stored"][0])
    assert "h = 12" in recipe.RECIPE.settings(lab)


def test_a_model_no_better_than_a_guess_is_refused() -> None:
    images = Split(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]))
    empty = decompile_features.Inputs("a", None, images.images, images.images)
    from_layer = torch.ones(3, 2)
    tensor = BilinearTensor(from_layer, from_layer, torch.ones(2, 3), Space("x", 2), Space("y", 2))
    with pytest.raises(BilensError, match="no better than a guess"):
        recipe.decompiled(
            empty, decompile_features.Outputs("b", tensor, torch.eye(2), torch.zeros(2)), images, own=1.0, orders=()
        )
