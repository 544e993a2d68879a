"""What bilens audit and bilens rewrite keep belongs to one model: all of it, and not the layer that is read alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bilens.analyses import audit, rewrite
from bilens.models import gated
from bilens.models.language import TINY

pytest.importorskip("transformers", reason="pip install 'bilens[lm]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # of a library that is not ours
LAYER, ELSEWHERE = 1, "model.layers.0.self_attn.o_proj.weight"


class Asked(Exception):
    """Ends a command where it opens its folder."""


@pytest.mark.parametrize(("module", "command"), [(audit, audit.audit), (rewrite, rewrite.rewrite)])
def test_models_that_differ_in_another_layer_share_no_records(
    module: Any, command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, text = tmp_path / "model", tmp_path / "text.txt"
    shutil.copytree(TINY, model)
    text.write_text("The king is dead, my lord, and all the court is in the garden.\n\n" * 12)

    def asked() -> dict[str, Any]:
        def opened(_: Path, settings: dict[str, Any]) -> None:
            raise Asked(settings)

        monkeypatch.setattr(module, "Folder", opened)
        with pytest.raises(Asked) as stopped:
            command(str(model), out=tmp_path / "out", layer=LAYER, text=(text,), length=8, fit=8, held_out=2)
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
