"""The command line: its help, and bad input answered in one line with status 2, nothing written and nothing lost."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from safetensors.torch import load_file, save_file

from bilens import Dictionary, ImageClassifier, Space, SpaceError, cli, decompose
from bilens.errors import BilensError

PIXELS, DIGITS = Space("pixels", 64, image=(8, 8)), Space("digits", 10, tuple("0123456789"))
SMALL = ["--count", "2", "--pair-features", "16", "--pair-steps", "5"]


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    ImageClassifier(PIXELS, DIGITS, 6).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def refused(capsys, *arguments: object) -> str:
    """The one line that a command answers with."""
    assert cli.main([str(argument) for argument in arguments]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    lines = told.err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("bilens: got ")
    assert "; expected " in lines[0]
    assert "" in lines[0]
    return lines[0]


def weights(checkpoint: Path, change: Callable[[dict], object]) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    change(tensors)
    save_file(tensors, checkpoint / "model.safetensors")


def poison(value: float) -> Callable[[Path], object]:
    return lambda folder: weights(folder, lambda tensors: tensors["readout.weight"].__setitem__((0, 0), value))


def drop(name: str) -> Callable[[Path], object]:
    return lambda folder: weights(folder, lambda tensors: tensors.pop(name))


def narrow(folder: Path) -> None:
    weights(folder, lambda tensors: tensors.update({"readout.weight": torch.zeros(10, 5)}))


def pickled(folder: Path) -> None:
    torch.save({"readout.weight": torch.zeros(10, 6)}, folder / "model.safetensors")


def cut(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def cast(dtype: torch.dtype) -> Callable[[Path], object]:
    return lambda folder: weights(folder, lambda tensors: tensors.update({k: v.to(dtype) for k, v in tensors.items()}))


def config(space: str, name: str, value: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        content[space][name] = value
        (folder / "config.json").write_text(json.dumps(content))

    return change


def other(**settings: object) -> Callable[[Path], object]:
    return lambda folder: ImageClassifier(PIXELS, DIGITS, 6, **settings).save_pretrained(folder)


BAD_CHECKPOINTS = {
    "missing": (shutil.rmtree, "config.json"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
    "cut short": (cut, "safetensors"),
    "noise": (lambda folder: (folder / "model.safetensors").write_bytes(b"\x00" * 64), "safetensors"),
    "a pickle": (pickled, "pickle"),
    "config that is no JSON": (lambda folder: (folder / "config.json").write_text("{"), "JSON"),
    "config of something else": (lambda folder: (folder / "config.json").write_text("{}"), "config.json"),
    "wrong shape": (narrow, "(10, 5)"),
    "missing tensor": (drop("readout.weight"), "readout.weight"),
    "NaN": (poison(float("nan")), "NaN"),
    "infinity": (poison(float("inf")), "infinity"),
    "whole numbers": (cast(torch.int32), "int32"),
    "eight bits": (cast(torch.float8_e4m3fn), "float8"),
    "a label that is no text": (config("output", "labels", ["\ud800", *"123456789"]), "config.json"),
    "an image of negative size": (config("input", "image", [-8, -8]), "config.json"),
    "a number of 6,000 digits": (
        lambda folder: (folder / "config.json").write_text('{"hidden": ' + "9" * 6000 + "}"),
        "JSON",
    ),
    "not bilinear": (other(activation="relu"), "relu"),
    "gated": (other(activation="swiglu"), "swiglu"),
    "two layers": (other(layers=2), "2 layers"),
}


@pytest.mark.parametrize("command", ["decompile", "mnist"])
@pytest.mark.parametrize("name", BAD_CHECKPOINTS)
def test_a_bad_checkpoint_is_refused_before_anything_is_written(name, command, checkpoint, tmp_path, capsys) -> None:
    spoil, told = BAD_CHECKPOINTS[name]
    spoil(checkpoint)
    out = tmp_path / "out"
    if command == "decompile":
        line = refused(capsys, "decompile", checkpoint, "--out", out)
    else:
        line = refused(capsys, "mnist", "--model", checkpoint, "--data", "digits", "--out", out)
    assert told in line
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nonsense"], "nonsense"),
        (["mnist", "--hiden", "3"], "--hiden"),
        (["mnist", "--hidden", "many"], "many"),
        (["mnist", "--data", "cifar"], "cifar"),
        (["decompile"], "PATH"),
        (["mnist", "--data", "digits", "--count", "0"], "count = 0"),
        (["mnist", "--data", "digits", "--pair-steps", "0"], "pair_steps = 0"),
        (["mnist", "--data", "digits", "--epochs", "0"], "epochs = 0"),
        (["mnist", "--data", "digits", "--hidden", "0"], "hidden = 0"),
        (["mnist", "--data", "digits", "--noise", "-1"], "noise"),
        (["mnist", "--data", "digits", "--weight-decay", "nan"], "weight_decay"),
        (["mnist", "--data", "digits", "--seed", "-1"], "seed"),
        (["mnist", "--data", "digits", "--sae-l1", "-1"], "l1"),
    ],
)
def test_bad_arguments_are_told(arguments: list[str], told: str, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert told in refused(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_images_of_another_size_are_refused(checkpoint, tmp_path, capsys) -> None:
    line = refused(capsys, "decompile", checkpoint, "--data", "small_mnist", "--out", tmp_path / "out")
    assert "784" in line
    assert not (tmp_path / "out").exists()


def test_a_label_that_is_not_there_is_told(checkpoint) -> None:
    tensor = ImageClassifier.from_pretrained(checkpoint).tensor()
    with pytest.raises(SpaceError, match=r"^got label 'cat' for space 'digits' \(10\); expected one of 0, 1, .*"):
        tensor.kernel("cat")


@pytest.mark.parametrize("k", [0, -1, 65])
def test_k_out_of_range_is_told(k: int, checkpoint) -> None:
    tensor = ImageClassifier.from_pretrained(checkpoint).tensor()
    with pytest.raises(BilensError, match=rf"^got k = {k}; expected a whole number, 1 ≤ k ≤ 64"):
        decompose.eigh(tensor.kernel("3"), k)
    with pytest.raises(BilensError, match=rf"^got k = {k}; expected a whole number, 1 ≤ k ≤ 10"):
        decompose.svd(tensor, k)


@pytest.mark.parametrize("use", ["read", "pullback", "coordinates"])
def test_a_dictionary_of_another_space_is_told(use: str, checkpoint) -> None:
    tensor = ImageClassifier.from_pretrained(checkpoint).tensor()
    stranger = Dictionary.from_atoms(torch.eye(64), Space("tokens", 64))
    with pytest.raises(SpaceError, match=r"^got a dictionary over space 'tokens' \(64\); expected .*"):
        getattr(tensor, use)(stranger)


def test_a_name_that_no_file_system_takes_is_told(checkpoint, tmp_path, capsys) -> None:
    assert "too long" in refused(capsys, "decompile", checkpoint, "--out", tmp_path / ("x" * 300))


def test_a_given_model_and_training_together_are_refused(checkpoint, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    for flag in ("--hidden", "--epochs", "--weight-decay", "--noise"):
        line = refused(capsys, "mnist", "--model", checkpoint, "--data", "digits", flag, "1", "--out", out)
        assert flag in line
    assert not out.exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_weights_of_other_types_are_read(dtype: torch.dtype, checkpoint, tmp_path) -> None:
    cast(dtype)(checkpoint)
    flags = ["--data", "digits", "--sae-steps", "10", "--sae-l1", "0.1", *SMALL]
    assert cli.main(["decompile", str(checkpoint), "--out", str(tmp_path / "out"), *flags]) == 0


def test_a_model_worse_than_a_guess_is_read_all_the_same(checkpoint, tmp_path, capsys) -> None:
    weights(checkpoint, lambda tensors: tensors["readout.weight"].mul_(1e5))
    flags = ["--data", "digits", "--sae-steps", "10", "--sae-l1", "0.1", *SMALL]
    assert cli.main(["decompile", str(checkpoint), "--out", str(tmp_path / "out"), *flags]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["faithfulness"]["the model itself"]["recovered"] is None
    assert 0 <= summary["model"]["test_accuracy"] <= 1
    assert (tmp_path / "out" / "report.html").exists()


def test_a_layer_with_one_input_is_read(tmp_path) -> None:
    ImageClassifier(Space("in", 1), Space("out", 3), 4).save_pretrained(tmp_path / "model")
    assert cli.main(["decompile", str(tmp_path / "model"), "--out", str(tmp_path / "out"), *SMALL]) == 0


def test_labels_are_text_and_never_markup(tmp_path) -> None:
    labels = ("</script><img src=x onerror=alert(1)>", "\x1b[31mred\x00", "[red]rich[/red]", "two\nlines", "$x^2$")
    ImageClassifier(PIXELS, Space("out", 5, labels), 4).save_pretrained(tmp_path / "model")
    assert cli.main(["decompile", str(tmp_path / "model"), "--out", str(tmp_path / "out"), *SMALL]) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<img src=x" not in page
    assert not any(character in page for character in "\x1b\x00")
    for figure in (tmp_path / "out" / "figures").glob("*.svg"):
        ElementTree.parse(figure)


def test_an_output_folder_that_cannot_be_made_is_told(checkpoint, tmp_path, capsys) -> None:
    (tmp_path / "file").write_text("precious")
    for out in (tmp_path / "file", tmp_path / "file" / "deeper"):
        assert "file" in refused(capsys, "decompile", checkpoint, "--out", out)
    assert (tmp_path / "file").read_text() == "precious"


def test_a_folder_of_something_else_is_left_alone(checkpoint, tmp_path, capsys) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("precious")
    assert "something else" in refused(capsys, "decompile", checkpoint, "--out", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_a_full_disk_is_told_and_the_run_continues_when_there_is_room(checkpoint, tmp_path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "bilens.cli", "decompile", str(checkpoint), "--out", str(out), *SMALL]

    def nearly_full() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    full = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=nearly_full)
    assert full.returncode == 2
    lines = full.stderr.strip().splitlines()
    assert lines[-1].startswith("bilens: got ")
    assert "File too large" in lines[-1]
    assert str(out) in lines[-1]
    assert "Traceback" not in full.stderr
    assert not list(out.rglob("*.part*"))
    kept = {path: path.read_bytes() for path in (out / "records").rglob("*") if path.is_file()}
    assert cli.main(["decompile", str(checkpoint), "--out", str(out), *SMALL]) == 0
    assert json.loads((out / "summary.json").read_text())["pairs"]["pairs"] == 64 * 65 // 2
    assert all(path.read_bytes() == content for path, content in kept.items())


def test_help_names_every_command_with_an_example(capsys) -> None:
    assert cli.main(["--help"]) == 0
    told = capsys.readouterr().out
    for name, command in cli.COMMANDS.items():
        assert name in told
        assert command.example.startswith(f"bilens {name} ")
        assert command.example in told


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_the_help_of_a_command_has_an_example_and_every_option(name: str, capsys) -> None:
    assert cli.main([name, "--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert f"Example: bilens {name} " in told
    options = {
        "reproduce": ("--out", "--seeds", "--quick"),
        "explore": ("--out", "--compare", "--open", "--serve", "--port"),
    }
    for option in options.get(name, ("--out", "--seed", "--count", "--pair-steps")):
        assert option in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["reproduce", "nonsense"], "nonsense"),
        (["reproduce", "svd", "--seeds", "0"], "seeds = 0"),
    ],
)
def test_a_programme_that_cannot_be_run_is_refused(arguments: list[str], told: str, tmp_path, capsys) -> None:
    assert told in refused(capsys, *arguments, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_version_is_told(capsys) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("bilens 0.")
