"""docs/walked_feature.py: what it takes out of a layer's output is out, and its numbers are those of the run."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reading_job
import torch

import tiny_models
from bilens.analyses.language import sets
from bilens.analyses.language.subject import subject
from bilens.errors import BilensError
from messages import refuses

transformers = pytest.importorskip("transformers", reason="pip install 'bilens[lm]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # of a library that is not ours
LAST = 1


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "docs"))
    return importlib.import_module("walked_feature")


def test_what_is_taken_out_of_the_last_layer_is_out_of_the_logits(
    walked: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the last layer there are a norm and the unembedding, and no other position: numpy has both."""
    place = tiny_models.folder(tmp_path / "given")
    found = subject(str(place / "model"), (place / "text",), tokens=800, seed=0)
    reading_job.read(tmp_path / "run", found, (LAST,), tokens=6, controls=3)
    model = transformers.AutoModelForCausalLM.from_pretrained(place / "model", dtype=torch.float32)
    held_out = found.split.held_out  # type: ignore[union-attr]
    seen: dict[str, torch.Tensor] = {}
    model.model.norm.register_forward_pre_hook(lambda _, x: seen.update(x=x[0]))
    model.model.layers[LAST].mlp.register_forward_hook(lambda _, __, y: seen.update(y=y))
    with torch.no_grad():
        model(held_out)
    x, y = (seen[name][:, 1:].flatten(0, 1).double().numpy() for name in ("x", "y"))
    head, gain = (each.detach().double().numpy() for each in (model.lm_head.weight, model.model.norm.weight))

    def logits(residual: np.ndarray) -> np.ndarray:
        size = np.sqrt((residual**2).mean(axis=-1, keepdims=True) + model.config.rms_norm_eps)
        return (residual / size * gain) @ head.T

    monkeypatch.setattr(walked, "POSITIONS", 7)
    run, again = walked.of_run(tmp_path / "run", [place / "text"], 800)
    label = sets.tokens(found, 6).labels[2]
    said = walked.measured(run, again, LAST, label)

    token = sets.tokens(found, 6).tokens[2]  # type: ignore[index]
    u = (head[token] - head.mean(axis=0)) * gain
    values = y @ u
    largest = np.argsort(-values)[:7]
    assert said["positions"] == 7
    whole = said["parts"][2]
    assert whole["name"] == "all of the feature"
    assert whole["amount"] == pytest.approx(values[largest].mean(), rel=1e-4)
    before, after = logits(x[largest]), logits(x[largest] - values[largest][:, None] * u / (u @ u))
    change = [each[:, token] - each.mean(axis=1) for each in (before, after)]
    sure = [each[:, token] - np.log(np.exp(each).sum(axis=1)) for each in (before, after)]
    for name, (one, other) in (("logit", change), ("log_p", sure)):
        away = other - one
        expected = [away.mean(), away.std(ddof=1) / np.sqrt(7)]
        np.testing.assert_allclose(whole[name], expected, rtol=1e-3, atol=1e-4)
    assert [part["name"] for part in said["parts"]][-1] == walked.NULL

    assert said["held_out"] == len(values)
    shown = "\n".join(walked.lines(said, "feature taken out"))
    assert f"at the 7 held-out positions where the feature is largest ({whole['amount']:.1f} on average)" in shown
    assert shown.count("\n| ") == 5
    with refuses(BilensError, "that of the run"):
        walked.of_run(tmp_path / "run", [place / "text"], 300)
    with refuses(BilensError, "no token 'nothing'"):
        walked.measured(run, again, LAST, "nothing")
