"""bilens demo-lm and bilens train-lm on the model and the text that bilens carries."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reading_job
import torch

from bilens import cli, directions, sae
from bilens.analyses import demo_lm
from bilens.analyses.language import input_coder, inputs, job, output_coder
from bilens.decompose.audit import LEAST
from bilens.models import gated, language
from bilens.models.gated.original import original
from bilens.models.replaced import replaced
from bilens.models.surrogate import least_squares, weights_only
from bilens.text import found, read, tokenizer

pytest.importorskip("transformers", reason="pip install 'bilens[lm]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # of a library that is not ours


@pytest.fixture
def plays(monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BILENS_TEXT", str(found.PLAYS))
    monkeypatch.setattr(language, "found", lambda: str(language.TINY))
    return found.PLAYS


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[str, str]:
    status = cli.main([str(argument) for argument in arguments])
    text = capsys.readouterr()
    assert status == 0, text.err
    return text.out, text.err


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few features of the page and of its coder: what the demo reads by default takes half a minute."""
    plan = functools.partial(job.Plan, tokens=24, controls=8, pairs=6, interactions=8)
    monkeypatch.setattr(demo_lm, "Plan", plan)
    for name, value in {"FEATURES": 64, "CODES": 8, "STEPS": 30, "BATCH": 64}.items():
        monkeypatch.setattr(input_coder, name, value)
    for name, value in {"FEATURES": 32, "STEPS": 20, "MOST": 10, "NULLS": 6}.items():
        monkeypatch.setattr(output_coder, name, value)


def test_the_demo_ends_with_a_report(
    plays: Path, little: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("demo-lm", "--out", tmp_path / "lm", "--fit", 8, "--held-out", 3, "--length", 64, "--layer", 1)
    out, err = told(capsys, *command)
    assert f"model: {language.TINY}" in out
    assert re.search(r"text: [\d,]+ tokens to fit on, .*BILENS_TEXT=.*8 of these rows to fit on, 3 to measure on", out)
    assert "step 1 of 9" in err
    report = (tmp_path / "lm" / "report.md").read_text()
    first, audited = report.split("## What the first eigenpairs explain")
    rows = [line for line in first.splitlines() if line.startswith("|")]
    assert len(rows) == 7
    costs = {cells[1].strip(): cells for cells in (row.split("|") for row in rows[2:])}
    assert list(costs) == [title for title, _, _ in demo_lm.WAYS.values()] + ["null: mean", "null: random layer"]
    lost = {name: float(cells[3]) for name, cells in costs.items()}
    assert lost["least squares"] < lost["null: random layer"] < lost["null: mean"] == 1
    assert re.search(r"gives the same to \de-0[5-9]", report)

    split = read(plays, tokenizer(language.TINY), length=64, hold_out=0.2)
    checkpoint = gated.load(language.TINY)
    expected, _, _ = replaced(weights_only(checkpoint.mlp(1)), original(checkpoint), split.held_out[:3])
    cells = costs["a surrogate of the weights alone"]
    assert cells[4].strip() == f"{expected.delta_ce:+.4f} ± {expected.error:.4f}"
    assert cells[3].strip() == f"{expected.fvu:.3f}"

    page = tmp_path / "lm" / "read" / "layer-001.html"
    assert f"page: {page}" in out
    document = json.loads(re.findall(r'id="data">(.*?)</script>', page.read_text("utf-8"), re.DOTALL)[0])
    assert document["inputs"]["kind"] == "coder"
    assert document["costs"][0]["fvu"] == pytest.approx(lost["least squares"], abs=6e-4)
    assert document["text"]["fit"] == 8 * 63

    same_audit(tmp_path / "lm" / "read", audited, document)
    assert "coder, active tokens" in out

    again, _ = told(capsys, *command)  # from its records
    assert [line for line in again.splitlines() if "±" in line] == [line for line in out.splitlines() if "±" in line]


def same_audit(run: Path, report: str, page: dict[str, Any]) -> None:
    """What the demo says of its coder's features, beside numpy on what its run keeps."""
    mlp = gated.load(language.TINY).mlp(1)
    fit, x = (inputs.kept(run, 1, part) for part in inputs.PARTS)
    assert fit is not None
    assert x is not None
    surrogate, coder = least_squares(mlp, fit), sae.load(output_coder.coder_folder(run, 1))
    assert coder.site.hook == "mlp_out"
    y = mlp(x)
    with torch.no_grad():
        fires = (coder.encode(y) != 0).numpy()
    chosen = np.flatnonzero(fires.sum(axis=0) >= LEAST)[:10]
    dense = surrogate.tensor().fold().to_dense().double().numpy()
    lifted = [
        np.concatenate([mlp.norm.normalize(each).double().numpy(), np.ones((len(each), 1))], 1) for each in (fit, x)
    ]
    levels, axes = np.linalg.eigh(lifted[0].T @ lifted[0] / len(fit))
    root, inverse = (axes * np.sqrt(levels)) @ axes.T, (axes / np.sqrt(levels)) @ axes.T

    def explained(u: np.ndarray, rows: np.ndarray | slice) -> list[float]:
        """Of one direction, for 0 (all pairs), 1, 2, 4 … 64 pairs."""
        kernel = np.einsum("o,oij->ij", u, dense)
        values, vectors = np.linalg.eigh(root @ (kernel + kernel.T) / 2 @ root)
        order, z = np.argsort(-np.abs(values)), lifted[1] @ inverse
        sums = np.cumsum((z @ vectors[:, order]) ** 2 * values[order], axis=1)
        true = y.double().numpy() @ u
        return [np.corrcoef(true[rows], sums[rows, k - 1])[0, 1] for k in (0, 1, 2, 4, 8, 16, 32, 64)]

    encoder, null = (
        coder.W_enc.detach().double().numpy().T[chosen],
        directions.random(6, 96, seed=0).matrix.double().numpy(),
    )
    expected = {
        "coder": np.array([explained(u, slice(None)) for u in encoder]),
        "random": np.array([explained(u, slice(None)) for u in null]),
        "coder, active tokens": np.array([explained(u, fires[:, n]) for u, n in zip(encoder, chosen, strict=True)]),
    }
    shown = [
        [cell.strip() for cell in row.split("|")[1:-1]]
        for row in report.replace("\\|", "").splitlines()
        if "%" in row and row[0] == "|"
    ]
    assert [cells[0] for cells in shown] == list(expected)
    for cells in shown:
        mine = np.abs(expected[cells[0]])
        np.testing.assert_allclose([float(cell) for cell in cells[4:12]], np.median(mine, axis=0), atol=0.011)
        share = (mine[:, 2] > 0.75).mean()
        assert cells[12].startswith(f"{share:.0%} (")
    firings = np.sort(fires[:, chosen].sum(axis=0))
    assert shown[0][3] == f"{firings[len(firings) // 2]:,} ({firings[0]:,} … {firings[-1]:,})"

    spreads = {each["name"]: each for each in page["correlations"]}
    assert list(spreads)[-2:] == ["Coder of its output", "Coder of its output, active tokens"]
    for name, each in (("", "coder"), (", active tokens", "coder, active tokens")):
        spread = spreads[f"Coder of its output{name}"]
        assert spread["at"] == page["at"] == [1, 2, 4]
        np.testing.assert_allclose(spread["median"], np.median(expected[each][:, 1:4], axis=0), atol=5e-3)
        assert spread["full"] == pytest.approx(np.median(expected[each][:, 0]), abs=5e-3)
    assert f"are active on {firings[0]:,} to {firings[-1]:,} of {len(x):,} held-out tokens" in page["notes"][-1]
    assert f"{(np.abs(expected['random'][:, 2]) > 0.75).mean():.0%} (" in page["notes"][-1]


def test_a_small_model_is_trained_and_read(
    plays: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jsonl").write_text(
        "\n".join(json.dumps({"text": f"the cat number {k} sat on the mat " * 20}) for k in range(20))
    )
    small = ("--layers", 1, "--width", 32, "--units", 16, "--vocabulary", 280, "--length", 16, "--steps", 4)
    command = ("train-lm", "--text", tmp_path / "a.jsonl", "--out", tmp_path / "lm", *small, "--batch", 4)
    out, _ = told(capsys, *command)
    loss = re.search(r"held out: ([\d.]+ ± [\d.]+) nats per token, on \d+ rows of 16 tokens; .* alone: ([\d.]+)", out)
    assert loss is not None
    shown, _ = told(capsys, "layers", tmp_path / "lm" / "model", "--check")
    assert "every layer is exactly bilinear" in shown
    again, _ = told(capsys, *command)
    assert again == out
    model = original(gated.load(tmp_path / "lm" / "model"))
    split = read(tmp_path / "a.jsonl", tokenizer(tmp_path / "lm" / "model"), length=16)
    mean = float(language.cross_entropy(model, split.held_out).mean())
    assert mean == pytest.approx(float(loss[1].split()[0]), abs=6e-4)
    assert torch.isfinite(torch.tensor(mean))
    reading_job.little(monkeypatch)
    asked = ("--text", tmp_path / "a.jsonl", "--tokens", 400, "--out", tmp_path / "read")
    out, _ = told(capsys, "read", tmp_path / "lm" / "model", *asked)
    assert f"page: {tmp_path / 'read' / 'layer-000.html'}" in out
    reading_job.exact(tmp_path / "read" / "layer-000.html", tmp_path / "lm" / "model", 0)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("demo-lm", "--layer", "5"), "got layer = 5; expected"),
        (("demo-lm", "--held-out", "1"), "got held_out = 1; expected"),
        (("demo-lm", "--model", "absent.gguf"), "got absent.gguf, which is not there"),
        (("demo-lm", "--text", "absent"), "got absent, which is not there"),
        (("train-lm", "--width", "33"), "got width = 33; expected a multiple of 32"),
        (("train-lm", "--length", "1"), "got length = 1; expected"),
        (("train-lm", "--vocabulary", "5"), "got size = 5; expected"),
        (("train-lm", "--gate", "gelu"), "got --gate gelu; expected one of bilinear, swiglu, reglu"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    arguments: tuple[str, ...], message: str, plays: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*arguments, "--out", str(tmp_path / "out")]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("step ")]
    assert len(lines) == 1
    assert lines[0].startswith(f"bilens: {message}")
    assert not (tmp_path / "out").exists()
