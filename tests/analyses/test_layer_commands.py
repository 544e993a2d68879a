"""What bilens audit and bilens rewrite settle before they begin: whose records they are, and how large they will be."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bilens.analyses import audit, rewrite
from bilens.analyses.site_coders import CoderSettings
from bilens.errors import StoreError
from bilens.models import gated
from bilens.models.language import TINY

pytest.importorskip("transformers", reason="pip install 'bilens[lm]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # of a library that is not ours
LAYER, ELSEWHERE = 1, "model.layers.0.self_attn.o_proj.weight"


class Asked(Exception):
    """Ends a command where it opens its folder."""


COMMANDS = [(audit, audit.audit), (rewrite, rewrite.rewrite)]
SMALL: dict[str, Any] = {"layer": LAYER, "length": 8, "fit": 8, "held_out": 2}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("The king is dead, my lord, and all the court is in the garden.\n\n" * 12)
    return path


@pytest.mark.parametrize(("module", "command"), COMMANDS)
def test_models_that_differ_in_another_layer_share_no_records(
    module: Any, command: Callable[..., Any], tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    shutil.copytree(TINY, model)

    def asked() -> dict[str, Any]:
        def opened(_: Path, settings: dict[str, Any]) -> None:
            raise Asked(settings)

        monkeypatch.setattr(module, "Folder", opened)
        with pytest.raises(Asked) as stopped:
            command(str(model), out=tmp_path / "out", text=(text,), **SMALL)
        settings: dict[str, Any] = stopped.value.args[0]
        return settings

    before, mlp = asked(), gated.load(str(model)).mlp(LAYER)
    assert asked() == before
    weights = load_file(model / "model.safetensors")
    save_file({**weights, ELSEWHERE: weights[ELSEWHERE] * 2}, model / "model.safetensors", {"format": "pt"})
    other = gated.load(str(model)).mlp(LAYER)
    assert all(torch.equal(getattr(mlp, name), getattr(other, name)) for name in ("gate", "up", "down"))
    after = asked()
    assert {name for name in before if before[name] != after[name]} == {"weights"}


@pytest.mark.parametrize(("command", "steps"), [(audit.audit, (1, 2)), (rewrite.rewrite, 1)])
def test_sizes_are_told_and_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    command: Callable[..., Any],
    steps: Any,
    tmp_path: Path,
    text: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(StoreError, match=r"1\.0 kB free"):
        command(str(TINY), out=tmp_path / "out", text=(text,), features=64, k=6, steps=steps, **SMALL)
    assert not (tmp_path / "out").exists()
    told = re.search(r" on disk: .*coders ([\d.]+) kB", capsys.readouterr().out)
    assert told is not None
    CoderSettings(features=64, k=6).coder(gated.load(str(TINY)).mlp(LAYER).output.size).save_pretrained(
        tmp_path / "coder"
    )
    written = sum(path.stat().st_size for path in (tmp_path / "coder").iterdir())
    assert 1000 * float(told[1]) == pytest.approx(2 * written, rel=0.05)  # either command trains two
