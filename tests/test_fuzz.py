"""A small count of the fuzz: altered folders are refused in one line, and neither believed nor lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import fuzz
from bilens.models import ImageClassifier

QUICK = (
    "sparsify's SAE",
    "dictionary_learning's SAE",
    "model",
    "coder",
    "records",
    "batches",
    "checkpoint",
    "data",
    "save",
    "language model",
    "saved weights",
)


def test_altered_folders_are_refused_and_nothing_is_lost() -> None:
    told: list[str] = []
    found = fuzz.fuzz(70, 7, only=QUICK, say=told.append)
    assert told == []
    assert sum(found.values()) == 70


def test_what_must_not_happen_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(folder: Path) -> str:
        (folder / "model.safetensors").unlink(missing_ok=True)
        return json.loads((folder / "config.json").read_text())["seed"]

    for name in ("a", "b"):
        ImageClassifier.save_pretrained(fuzz.model(0), tmp_path / name)
    found = set()
    kind = fuzz.Kind(tmp_path / "a", tmp_path / "b", careless)
    for n in range(60):
        found.add(fuzz.examine(kind, fuzz.random.Random(n))[0])
    assert {"traceback", "lost"} <= found
    kind = fuzz.Kind(tmp_path / "a", tmp_path / "b", lambda folder: fuzz.digest(fuzz.snapshot(folder)))
    assert fuzz.examine(kind, fuzz.random.Random(1))[0] == "believed"


def test_the_same_case_is_altered_in_the_same_way(tmp_path: Path) -> None:
    for name in ("a", "b"):
        fuzz.model(0).save_pretrained(tmp_path / name)
    kind = fuzz.Kind(tmp_path / "a", tmp_path / "b", fuzz.read_model)
    for n in range(5):
        first, second = (fuzz.examine(kind, fuzz.random.Random(f"0 {n}")) for _ in range(2))
        assert first == second
