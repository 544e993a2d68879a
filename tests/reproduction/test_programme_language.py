"""The recipe of language models, in a tiny setting: the same text in the same order, and differences that add up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bilens.errors import BilensError
from bilens.models import language
from bilens.store import Folder
from bilens.text import found
from reproduction import reproduce
from reproduction.lab import Lab
from reproduction.recipes import language as recipe

pytest.importorskip("transformers", reason="pip install 'bilens[lm]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # of a library that is not ours


def test_kinds_are_compared_on_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILENS_TEXT", str(found.PLAYS))
    # SwiGLU's steps take twice as long as the others': these then have twice as many in equal time
    monkeypatch.setattr(recipe, "_seconds", lambda *_: {"bilinear": 0.5, "swiglu": 1.0, "reglu": 0.5})
    runs, train = [], language.train

    def spied(model, split, *, steps, batch, progress):
        runs.append((model.config.hidden_act, steps, split.rows(0, steps * batch).tolist()))
        return train(model, split, steps=steps, batch=batch, progress=progress)

    monkeypatch.setattr(language, "train", spied)
    read = recipe._read

    def few(lab, seed):
        split, vocabulary = read(lab, seed)
        return replace(split, held_out=split.held_out[:8]), vocabulary

    monkeypatch.setattr(recipe, "_read", few)
    lab = Lab(Folder(tmp_path / "run", {"quick": True}), True)
    measured = recipe.measure(lab, 1)
    assert [(kind, steps) for kind, steps, _ in runs] == [
        ("linear", 3),
        ("linear", 6),
        ("silu", 3),
        ("relu", 3),
        ("relu", 6),
    ]
    at_equal_steps = [rows for _, steps, rows in runs if steps == 3]
    assert at_equal_steps[0] == at_equal_steps[1] == at_equal_steps[2]
    assert len({measured[f"parameters, {gate}"] for gate in recipe.GATES}) == 1
    for name in ("steps", "time"):
        ours, theirs = (measured[f"{name}, {gate}"] for gate in ("bilinear", "swiglu"))
        assert measured[f"{name}, bilinear less swiglu"] == pytest.approx(ours - theirs)
    assert measured["steps, swiglu"] == measured["time, swiglu"]
    names = {claim.number for claim in recipe.claims(measured)}
    assert names <= set(measured.names)
    assert set(recipe.figures([measured, measured])) == {"language-difference"}
    assert "nine plays" not in recipe.settings(lab)
    assert str(found.PLAYS) in recipe.settings(lab)


def test_time_of_a_step_is_measured_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILENS_TEXT", str(found.PLAYS))
    lab = Lab(Folder(tmp_path / "run", {"quick": True}), True)
    split, vocabulary = recipe._read(lab, 0)
    seconds = recipe._seconds(lab, split, vocabulary)
    assert set(seconds) == set(recipe.GATES)
    assert all(value > 0 for value in seconds.values())


def test_seeds_differ_in_order_and_not_in_what_is_held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILENS_TEXT", str(found.PLAYS))
    lab = Lab(Folder(tmp_path / "run", {"quick": True}), True)
    (first, _), (second, _) = recipe._read(lab, 0), recipe._read(lab, 1)
    assert first.held_out_names == second.held_out_names
    assert first.fit.tolist() != second.fit.tolist()
    assert sorted(first.fit.tolist()) == sorted(second.fit.tolist())


def test_it_runs_only_when_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert recipe.RECIPE.name in reproduce.APART
    assert recipe.RECIPE.name not in reproduce.RECIPES
    ran = []
    monkeypatch.setattr(reproduce, "measured", lambda lab, one, seed: ran.append(one.name))
    monkeypatch.setattr(reproduce, "report", lambda lab, docs: {})
    reproduce.reproduce(("language",), seeds=1, out=tmp_path / "one", quick=True)
    reproduce.reproduce((), seeds=1, out=tmp_path / "all", quick=True)
    assert ran == ["language", *(name for name, one in reproduce.RECIPES.items() if one.complete)]
    with pytest.raises(BilensError, match=r"recipe 'nonsense'; expected one of front, .*, language"):
        reproduce.reproduce(("nonsense",), out=tmp_path / "none")
