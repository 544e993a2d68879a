"""The recipe of all layers of a language model, in a tiny setting: what it says of a layer is what `replaced` says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bilens.models import gated
from bilens.models.gated.original import original
from bilens.models.replaced import replaced
from bilens.models.surrogate import Moments, gaussian, weights_only
from bilens.store import Folder
from bilens.text import found
from reproduction.lab import Lab
from reproduction.recipes import surrogates as recipe

pytest.importorskip("transformers", reason="pip install 'bilens[lm]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # of a library that is not ours


def test_every_layer_is_replaced_alone_by_every_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILENS_TEXT", str(found.PLAYS))
    lab = Lab(Folder(tmp_path / "run", {"quick": True}), True)
    measured = recipe.measure(lab, 0)
    checkpoint, split = gated.load(recipe._model(lab)), recipe._read(lab, 0)
    live, mlp = original(checkpoint), checkpoint.mlp(1)
    rows = []
    norm = live.model.layers[1].post_attention_layernorm
    hook = norm.register_forward_pre_hook(lambda _, given: rows.append(given[0][0, 1:].detach()))
    for text in split.fit:
        live(text[None])
    hook.remove()
    x = torch.cat(rows)
    for surrogate in (weights_only(mlp), gaussian(mlp, Moments.of_samples(mlp, x))):
        ours, mean, random = replaced(surrogate, live, split.held_out, seed=0)
        for one in (ours, mean, random):
            assert measured[f"cross-entropy more, {one.by}, layer 1"] == pytest.approx(one.delta_ce, abs=1e-5)
            assert measured[f"variance lost, {one.by}, layer 1"] == pytest.approx(one.fvu, rel=1e-3)
    for by in recipe.WAYS:
        costs = [measured[f"cross-entropy more, {by}, layer {layer}"] for layer in range(2)]
        assert measured[f"mean, {by}"] == pytest.approx(sum(costs) / 2)
        assert measured[f"most, {by}"] == max(costs)
        assert measured[f"layers within, {by}"] == sum(cost <= 0.05 for cost in costs)
    assert {claim.number for claim in recipe.claims(measured)} <= set(measured.names)
    drawn = recipe.figures([measured, measured])
    assert [len(figure.axes[0].containers) for figure, _ in drawn.values()] == [len(recipe.WAYS)] * 2
    assert "tokens to fit on" in recipe.settings(lab)
