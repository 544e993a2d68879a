"""bilens audit of a layer that is bilinear: its whole form is its value, and its first pairs are those of numpy."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reading_job import in_transformers

import tiny_models
from bilens import directions, sae
from bilens.analyses import _audit_sets as audit_sets
from bilens.analyses import audit
from bilens.analyses._layer_text import split_of
from bilens.decompose import Audit
from bilens.errors import BilensError
from bilens.models import gated
from bilens.sae import Site, TopKSAE
from messages import refuses

transformers = pytest.importorskip("transformers", reason="pip install 'bilens[lm]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # of a library that is not ours
LAYER = 1
TEXT: dict[str, Any] = {"length": 32, "fit": 8, "held_out": 6}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bilinear model with biases, as a conversion writes them."""
    return tiny_models.folder(tmp_path_factory.mktemp("given") / "all", hidden_act="linear", mlp_bias=True)


@pytest.fixture(scope="module")
def audited(given: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, audit.Result]:
    out = tmp_path_factory.mktemp("audited") / "run"
    asked = {"steps": (5,), "features": 24, "k": 5, "batch": 32, "tokens": 6, "random": 5, "text": (given / "text",)}
    return out, audit.audit(str(given / "model"), out=out, layer=LAYER, **asked, **TEXT)  # type: ignore[arg-type]


def lifted(model: Any, tokens: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """x̂ with a 1, and y, of the layer in transformers, a row per token after each row's first."""
    x, y = in_transformers(model, tokens)
    x = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + model.config.rms_norm_eps)
    return np.concatenate([x, np.ones((len(x), 1))], axis=1), y


class Dense:
    """The layer as numpy has it: its kernels, its metric and its values."""

    def __init__(self, given: Path) -> None:
        self.model = transformers.AutoModelForCausalLM.from_pretrained(given / "model", dtype=torch.float32)
        split = split_of(gated.load(given / "model"), (given / "text",), seed=0, **TEXT)
        fit, _ = lifted(self.model, split.fit)
        self.x, self.y = lifted(self.model, split.held_out)
        levels, axes = np.linalg.eigh(fit.T @ fit / len(fit))
        self.root = (axes * np.sqrt(levels)) @ axes.T
        block = self.model.model.layers[LAYER]
        gain = block.post_attention_layernorm.weight.detach().double().numpy()
        parts = {
            name: [value.detach().double().numpy() for value in (module.weight, module.bias)]
            for name in ("gate", "up", "down")
            for module in (getattr(block.mlp, f"{name}_proj"),)
        }
        w, v = (np.concatenate([parts[name][0] * gain, parts[name][1][:, None]], axis=1) for name in ("gate", "up"))
        self.tensor = np.einsum("oh,hi,hj->oij", parts["down"][0], w, v)
        self.tensor[:, -1, -1] += parts["down"][1]

    def correlations(self, u: np.ndarray, order: str, k: int, rows: np.ndarray | slice = slice(None)) -> float:
        """Of u·y with the first k pairs of its kernel, over some tokens."""
        kernel = np.einsum("o,oij->ij", u, self.tensor)
        root = self.root if order == "weighted" else np.eye(len(kernel))
        values, vectors = np.linalg.eigh(root @ (kernel + kernel.T) / 2 @ root)
        first = np.argsort(-np.abs(values))[:k]
        sums = ((self.x @ np.linalg.inv(root) @ vectors[:, first]) ** 2) @ values[first]
        return float(np.corrcoef((self.y @ u)[rows], sums[rows])[0, 1])


def test_the_whole_form_of_a_bilinear_layer_is_its_value(audited: tuple[Path, audit.Result]) -> None:
    out, result = audited
    assert set(result.audits) == {audit.EXACT}
    assert [(one.name, one.order) for one in result.audits[audit.EXACT]] == [
        (name, order) for name in ("tokens", "coder-5", "random") for order in ("weighted", "magnitude")
    ]
    for one in result.audits[audit.EXACT]:
        torch.testing.assert_close(one.full, torch.ones_like(one.full), rtol=0, atol=1e-5)
        known = one.full_active[one.full_active.isfinite()]
        assert len(known) == len(one)
        torch.testing.assert_close(known, torch.ones_like(known), rtol=0, atol=1e-4)
        assert float(one.at(1).min()) < 0.99  # which says something only where fewer pairs do less
    assert 0 < result.fvu[audit.EXACT] < 1e-10
    report, rounding = (out / "report.md").read_text("utf-8"), f"{result.fvu[audit.EXACT]:.0e}"
    assert f"## exact, the layer's own tensor, FVU {rounding}" in report
    assert f"its tensor is the layer itself, and the order of pairs is that of {8 * 31} other tokens" in report
    assert "urrogate" not in report
    assert json.loads((out / "summary.json").read_text("utf-8"))["fvu"] == result.fvu


@pytest.mark.parametrize("order", ["weighted", "magnitude"])
def test_pairs_of_a_bilinear_layer_are_those_of_numpy(
    order: str, given: Path, audited: tuple[Path, audit.Result]
) -> None:
    out, result = audited
    dense = Dense(given)
    found: dict[str, Audit] = {one.name: one for one in result.audits[audit.EXACT] if one.order == order}
    for n, u in enumerate(directions.random(5, dense.y.shape[1], seed=0).matrix.double().numpy()):
        for place, k in enumerate(found["random"].ks):
            expected = dense.correlations(u, order, k)
            assert float(found["random"].correlations[n, place]) == pytest.approx(expected, abs=1e-3), (n, k)
    coder = sae.load(out / "coders" / "coder-5")
    with torch.no_grad():
        fires = (coder.encode(torch.from_numpy(dense.y).float()) != 0).numpy()
    assert found["coder-5"].firings.tolist() == [fires[:, int(label)].sum() for label in found["coder-5"].labels]
    for n, label in enumerate(found["coder-5"].labels[:4]):
        u, rows = coder.W_enc[:, int(label)].detach().double().numpy(), fires[:, int(label)]
        for place, k in enumerate(found["coder-5"].ks):
            expected = dense.correlations(u, order, k, rows)
            assert float(found["coder-5"].active[n, place]) == pytest.approx(expected, abs=2e-3), (n, k)


def test_results_of_a_bilinear_layer_name_no_surrogate(
    audited: tuple[Path, audit.Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "docs"))
    results = importlib.import_module("language_results")
    kind, title, run = results.read(audited[0])
    assert (kind, title) == ("audits", f"all, layer {LAYER}")
    said = "\n".join(results.audit_lines(title, run))
    assert "The layer's own tensor, which is the layer up to" in said
    assert "urrogate" not in said
    assert "*null: random directions*" in said


def test_a_coder_of_what_a_layer_takes_is_not_one_of_what_it_gives() -> None:
    mlp = gated.load(tiny_models.made()).mlp(LAYER)
    x = torch.randn(40, mlp.input.size, generator=torch.Generator().manual_seed(0))
    coder = TopKSAE(mlp.output.size, 8, 4)
    coder.site = Site("mlp_in", LAYER)
    with refuses(BilensError, "coder 'ours' of mlp_in of layer 1 of 16 → 16 numbers", "one of the output of"):
        list(audit_sets.of_coders(mlp, {"ours": coder}, x, mlp(x), 8))
    coder.site = Site("mlp_out", LAYER)
    (part,) = audit_sets.of_coders(mlp, {"ours": coder}, x, mlp(x), 3)
    assert part.directions.name == "ours"
    assert len(part.directions) <= 3
