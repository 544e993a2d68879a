"""A save over a folder that holds another program's model, or a person's files: refused in one line, nothing lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bilens import sae, store
from bilens._internal import files
from bilens.errors import StoreError
from bilens.models import ImageClassifier
from bilens.models.conversion.checkpoint import save as save_converted
from bilens.models.decoder import BilinearDecoder
from bilens.models.imported import Imported
from bilens.models.language import save as save_language
from bilens.sae._formats import saelens, sparsify
from bilens.space import Space
from messages import refuses


class Theirs(nn.Module):
    """What a model of transformers does when it is saved."""

    def save_pretrained(self, folder: str) -> None:
        Path(folder, "config.json").write_text('{"model_type": "ours"}')
        save_file({"w": torch.ones(2)}, str(Path(folder, "model.safetensors")), {"format": "pt"})


CLASSIFIER = ImageClassifier(Space("pixels", 4, image=(2, 2)), Space("digits", 2), hidden=3)
WEIGHTS = {name: value.detach() for name, value in sae.StandardSAE(4, 5).named_parameters()}
SAVES: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "a classifier": (CLASSIFIER.save_pretrained, ("config.json", "model.safetensors")),
    "a decoder": (BilinearDecoder(5, width=4, head=2, mlp=3).save_pretrained, ("config.json", "model.safetensors")),
    "an SAE": (sae.StandardSAE(4, 5).save_pretrained, ("cfg.json", "sae_weights.safetensors")),
    "a transcoder": (
        lambda folder: saelens.write(folder, "transcoder", {"d_out": 4}, WEIGHTS, None),
        ("cfg.json", "sae_weights.safetensors"),
    ),
    "sparsify's": (lambda folder: sparsify.write(folder, 2, WEIGHTS), ("cfg.json", "sae.safetensors")),
    "an import": (
        Imported("a model", {"model_type": "gpt2"}, {"w": torch.ones(2)}).save,
        ("config.json", "model.safetensors"),
    ),
    "a language model": (
        lambda folder: save_language(Theirs(), Theirs(), folder),
        ("config.json", "model.safetensors"),
    ),
    "a conversion": (lambda folder: save_converted(Theirs(), None, folder), ("config.json", "model.safetensors")),
    "a record": (lambda folder: store.save(CLASSIFIER.tensor(), folder / "kept"), ("kept.json", "kept.safetensors")),
}


def foreign(folder: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    """A checkpoint as other programs write one, with a tokenizer and somebody's notes; its files and their bytes."""
    folder.mkdir()
    for name in names:
        if name.endswith(".json"):
            (folder / name).write_text(json.dumps({"model_type": "llama", "hidden_size": 4}))
        else:
            save_file({"weight": torch.zeros(3)}, str(folder / name), {"format": "pt"})
    (folder / "tokenizer.json").write_text("{}")
    (folder / "notes.txt").write_text("three weeks of work")
    return content(folder)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("which", ["both", "settings", "weights"])
@pytest.mark.parametrize("name", SAVES)
def test_a_save_over_the_model_of_another_program_is_refused(name: str, which: str, tmp_path: Path) -> None:
    save, names = SAVES[name]
    before = foreign(tmp_path / "m", {"both": names, "settings": names[:1], "weights": names[1:]}[which])
    with refuses(StoreError, str(tmp_path / "m"), "bilens", "Name another"):
        save(tmp_path / "m")
    assert content(tmp_path / "m") == before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("name", SAVES)
def test_a_save_over_ones_own_replaces_it(name: str, tmp_path: Path) -> None:
    save, names = SAVES[name]
    save(tmp_path / "m")
    if name == "an import":  # whose files are those of another program: it goes to a new folder
        with refuses(StoreError, "did not write"):
            save(tmp_path / "m")
        return
    first = content(tmp_path / "m")
    altered = json.dumps({**json.loads(first[names[0]]), "more": 1})
    (tmp_path / "m" / names[0]).write_text(altered)
    save(tmp_path / "m")
    assert content(tmp_path / "m").keys() == first.keys()
    assert "more" not in json.loads((tmp_path / "m" / names[0]).read_text())


def test_what_lies_beside_ones_own_model_is_kept(tmp_path: Path) -> None:
    for name in ("a classifier", "an SAE", "a language model", "a record"):
        save, _ = SAVES[name]
        folder = tmp_path / name
        folder.mkdir()
        (folder / "notes.txt").write_text("mine")
        save(folder)
        save(folder)
        assert (folder / "notes.txt").read_text() == "mine"


def test_a_folder_with_a_converted_model_and_notes_is_not_deleted(tmp_path: Path) -> None:
    save, _ = SAVES["a conversion"]
    save(tmp_path / "m")
    (tmp_path / "m" / "notes.txt").write_text("mine")
    before = content(tmp_path / "m")
    with refuses(StoreError, "notes.txt", "did not write"):
        save(tmp_path / "m")
    assert content(tmp_path / "m") == before


def test_a_save_that_was_killed_between_its_files_can_be_made_again(tmp_path: Path) -> None:
    for name in ("a classifier", "a record"):
        save, (settings, _) = SAVES[name]
        folder = tmp_path / name
        save(folder)
        (folder / settings).rename(folder / f".{settings}.abc.part")
        save(folder)
        assert (folder / settings).exists()


def test_the_list_of_what_was_saved_grows_and_survives_damage(tmp_path: Path) -> None:
    files.list_ours(tmp_path, ["a"])
    files.list_ours(tmp_path, ["b"])
    for name in "abc":
        (tmp_path / name).write_text("")
    files.require_listed(tmp_path, ["a", "b", "not there"])
    with refuses(StoreError, str(tmp_path / "c"), "did not write"):
        files.require_listed(tmp_path, ["a", "c"])
    (tmp_path / "bilens.json").write_text('{"files": 3}')
    with refuses(StoreError, str(tmp_path / "a"), "did not write"):
        files.require_listed(tmp_path, ["a"])
