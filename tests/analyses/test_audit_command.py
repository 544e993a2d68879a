"""bilens audit and bilens rewrite on the tiny model: what they leave, what they measure, and the same when killed."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from bilens import activations, cli, decompose, directions, sae, store, tables
from bilens.analyses import _announced as announced
from bilens.analyses.audit import audit
from bilens.analyses.rewrite import Rewriting
from bilens.analyses.site_coders import CoderSettings
from bilens.models import gated
from bilens.models.gated.original import original
from bilens.models.language import TINY

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(1200)]
PLAYS = TINY.parents[1] / "text" / "plays.jsonl.gz"
COMMON = ["--layer", "1", "--features", "64", "--k", "6", "--batch", "128", "--length", "48", "--text", str(PLAYS)]
AUDIT = [*COMMON, "--steps", "10", "30", "--fit", "16", "--held-out", "6", "--tokens", "8", "--random", "8"]
REWRITE = [*COMMON, "--steps", "30", "--fit", "16", "--held-out", "6", "--keep", "50", "400", "--top", "20"]


def ran(command: str, out: Path, options: list[str]) -> None:
    assert cli.main([command, str(TINY), "--out", str(out), *options]) == 0


def numbers(folder: Path) -> dict[str, object]:
    content = json.loads((folder / "summary.json").read_text())
    return {name: value for name, value in content.items() if name not in ("run", "sha256")}


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("audit") / "run"
    ran("audit", out, AUDIT)
    return out


def test_an_audit_is_of_the_layer_as_it_is_beside_random_directions(audited: Path) -> None:
    content = numbers(audited)
    sets = [(one["set"], one["order"]) for one in content["audits"]["fitted"]]  # type: ignore[index]
    names = ("tokens", "coder-10", "coder-30", "random")
    assert sets == [(name, order) for name in names for order in ("weighted", "magnitude")]
    assert set(content["audits"]) == {"fitted", "weights_only"}  # type: ignore[arg-type]
    found = store.read_record(audited, "audits/fitted-coder-30-weighted", decompose.Audit)
    assert found is not None
    coder = sae.load(audited / "coders" / "coder-30")
    assert found.order == "weighted"
    assert found.tokens == 6 * 47
    fitted = next(one for one in content["audits"]["fitted"] if one["set"] == "coder-30")  # type: ignore[index]
    assert fitted["all"]["medians"]["2"]["value"] == pytest.approx(found.median(2).value)
    table = tables.open(audited).query("SELECT count(*) AS n FROM audit WHERE \"set\" = 'coder-30'")
    assert table.to_pylist() == [{"n": len(found) * (len(found.ks) + 1)}]
    assert coder.d_sae == 64
    ordered = sorted(found.firings.tolist())
    assert fitted["firings"] == {"fewest": ordered[0], "middle": ordered[len(ordered) // 2], "most": ordered[-1]}
    assert fitted["firings"]["fewest"] >= found.least
    report = (audited / "report.md").read_text()
    assert "random" in report
    rows = [row.replace("\\|", "") for row in report.splitlines() if row.startswith("|")]
    assert {row.count("|") for row in rows} == {6 + len(found.ks) + 1}, "a bar ends no cell early"
    assert "weights_only, FVU" in report
    assert {path.name for path in (audited / "figures").iterdir()} == {"fitted.svg", "weights_only.svg"}


def test_its_true_values_are_those_of_the_original(audited: Path) -> None:
    """The whole form of the random directions by another way: tensor and activations put together here."""
    settings = json.loads((audited / "settings.json").read_text())
    found = store.read_record(audited, "audits/weights_only-random-weighted", decompose.Audit)
    assert found is not None
    assert settings["random"] == 8
    from bilens.analyses._layer_text import split_of
    from bilens.models.surrogate import weights_only

    split = split_of(gated.load(TINY), (PLAYS,), length=48, fit=16, held_out=6, seed=0)
    live, mlp = original(gated.load(TINY)), gated.load(TINY).mlp(1)
    x, y = (activations.collect(live, 1, site, split.held_out) for site in ("residual_before", "mlp_out"))
    u = directions.random(8, mlp.output.size, seed=0).matrix
    approximate = weights_only(mlp)(x) @ u.T
    for n in range(8):
        both = torch.stack([(y @ u.T)[:, n], approximate[:, n]])
        assert float(found.full[n]) == pytest.approx(float(torch.corrcoef(both)[0, 1]), abs=1e-3)


def test_a_coder_that_is_given_is_audited(audited: Path, tmp_path: Path) -> None:
    result = audit(
        str(TINY),
        out=tmp_path / "run",
        layer=1,
        coder=(audited / "coders" / "coder-30",),
        text=(PLAYS,),
        length=48,
        fit=16,
        held_out=6,
        tokens=0,
        random=8,
    )
    assert [one.name for one in result.audits["fitted"]] == ["coder-30"] * 2 + ["random"] * 2
    theirs = store.read_record(audited, "audits/fitted-coder-30-weighted", decompose.Audit)
    assert theirs is not None
    torch.testing.assert_close(result.audits["fitted"][0].correlations, theirs.correlations, rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def rewritten(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rewrite") / "run"
    ran("rewrite", out, REWRITE)
    return out


def test_a_rewritten_layer_stands_beside_transcoders_of_its_size(rewritten: Path) -> None:
    found = store.read_record(rewritten, "rewriting", Rewriting)
    assert found is not None
    parts = {part.title: part for part in found.parts}
    for count in (50, 400):
        own = parts[f"{count} interactions"]
        assert own.interactions == count
        null = parts[f"{count} interactions, features never trained"]
        assert null.interactions == count
        near = [part for part in found.parts if part.title.startswith("transcoder")]
        assert min(abs(part.numbers - own.numbers) for part in near) <= 2 * 96 + 1
    short = store.read_record(rewritten, "decompiled", decompose.Decompiled)
    assert short is not None
    assert parts["400 interactions"].numbers == short.numbers + len(short.read) * 97
    assert parts["mean"].cost.recovered == 0
    assert parts["all interactions of these features"].cost.fvu < parts["50 interactions"].cost.fvu
    assert found.own == 3 * 96 * 256
    assert "transcoder of" in (rewritten / "report.md").read_text()


def test_what_is_announced_is_what_is_written(audited: Path, rewritten: Path) -> None:
    """Within a factor of two, and 2 kB for what a file has of its own."""
    mlp, settings = gated.load(TINY).mlp(1), CoderSettings(features=64, k=6, batch=128)
    sizes = {
        audited: announced.of_audit(mlp, [settings, settings], [8, 64, 64, 8]),
        rewritten: announced.of_rewrite(mlp, settings, [50, 400]),
    }
    for run, told in sizes.items():
        found = [path.stat().st_size for path in run.rglob("*") if path.is_file()]
        assert told.total / 2 < sum(found) < 2 * told.total + 2000 * len(found), (told.total, sum(found))


@pytest.mark.parametrize(("command", "options"), [("audit", AUDIT), ("rewrite", REWRITE)])
def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    command: str,
    options: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    assert cli.main([command, str(TINY), "--out", str(tmp_path / "out"), *options]) == 2
    shown = capsys.readouterr()
    assert re.search(r"kB on disk: .*coders ", shown.out)
    assert "bilens: got 1.0 kB free at" in shown.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("command", "options"), [("audit", AUDIT), ("rewrite", REWRITE)])
def test_a_run_that_was_stopped_anywhere_ends_like_a_straight_one(
    command: str, options: list[str], audited: Path, rewritten: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, out = (audited if command == "audit" else rewritten), tmp_path / "run"
    plain = store.Folder.record
    for wanted in sorted(random.Random(0).sample(range(8), 3)):  # records that are finished before it stops

        def record(self: store.Folder, name: str, kind: Any, compute: Any, wanted: int = wanted) -> Any:
            if len(list(out.rglob("records/**/*.json"))) >= wanted and not self.has(name):
                raise KeyboardInterrupt
            return plain(self, name, kind, compute)

        monkeypatch.setattr(store.Folder, "record", record)
        assert cli.main([command, str(TINY), "--out", str(out), *options]) == 130
    monkeypatch.setattr(store.Folder, "record", plain)
    ran(command, out, options)
    same(out, straight)


def test_a_run_that_was_killed_and_started_again_ends_like_a_straight_one(audited: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "bilens", "audit", str(TINY), "--out", str(out), *AUDIT]
    child = subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while child.poll() is None and len(list(out.rglob("records/**/*.json"))) < 3:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    ran("audit", out, AUDIT)
    same(out, audited)


def same(one: Path, other: Path) -> None:
    """Every number, and the report."""
    assert numbers(one) == numbers(other)
    assert (one / "report.md").read_text() == (other / "report.md").read_text()
