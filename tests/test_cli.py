"""The command line: its help, and bad input answered in one line with status 2, nothing written and nothing lost."""

from __future__ import annotations

import gc
import importlib
import inspect
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from safetensors.torch import load_file, save_file

from bilens import BilinearTensor, Dictionary, ImageClassifier, Space, SpaceError, cli, data, decompose, store
from bilens.analyses import _given as given
from bilens.analyses import settings
from bilens.analyses._given import AccuracyWarning, Standardization
from bilens.analyses.settings import FEW, FEW_EPOCHS, Budget, Training
from bilens.data import Dataset, SmallSetWarning, Split
from bilens.errors import BilensError, StoreError
from bilens.progress import Steps

PIXELS, DIGITS = Space("pixels", 64, image=(8, 8)), Space("digits", 10, tuple("0123456789"))
UNTRAINED = pytest.mark.filterwarnings("default::bilens.analyses._given.AccuracyWarning")
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
    return lines[0]


def weights(checkpoint: Path, change: Callable[[dict], object]) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    change(tensors)
    save_file(tensors, checkpoint / "model.safetensors")
    config = json.loads((checkpoint / "config.json").read_text())
    config.pop("sha256")  # as another program writes it
    (checkpoint / "config.json").write_text(json.dumps(config))


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
    "two layers that are not bilinear": (other(layers=2, activation="relu"), "relu"),
}


@pytest.mark.parametrize("command", ["read", "demo"])
@pytest.mark.parametrize("name", BAD_CHECKPOINTS)
def test_a_bad_checkpoint_is_refused_before_anything_is_written(name, command, checkpoint, tmp_path, capsys) -> None:
    spoil, told = BAD_CHECKPOINTS[name]
    spoil(checkpoint)
    out = tmp_path / "out"
    if command == "read":
        line = refused(capsys, "read", checkpoint, "--out", out)
    else:
        line = refused(capsys, "demo", "--model", checkpoint, "--data", "digits", "--out", out)
    assert told in line
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nonsense"], "nonsense"),
        (["demo", "--hiden", "3"], "--hiden"),
        (["demo", "--hidden", "many"], "many"),
        (["demo", "--data", "cifar"], "cifar"),
        (["read"], "PATH"),
        (["demo", "--data", "digits", "--count", "0"], "count = 0"),
        (["demo", "--data", "digits", "--pair-steps", "0"], "pair_steps = 0"),
        (["demo", "--data", "digits", "--epochs", "0"], "epochs = 0"),
        (["demo", "--data", "digits", "--hidden", "0"], "hidden = 0"),
        (["demo", "--data", "digits", "--noise", "-1"], "noise"),
        (["demo", "--data", "digits", "--weight-decay", "nan"], "weight_decay"),
        (["demo", "--data", "digits", "--seed", "-1"], "seed"),
        (["demo", "--data", "digits", "--sae-l1", "-1"], "l1"),
    ],
)
def test_bad_arguments_are_told(arguments: list[str], told: str, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert told in refused(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_images_of_another_size_are_refused(checkpoint, tmp_path, monkeypatch, capsys) -> None:
    larger = Space("pixels", 784, image=(28, 28))
    split = Split(torch.zeros(3, 784), torch.arange(3))
    monkeypatch.setattr(data, "load", lambda name: Dataset(name, split, split, larger, DIGITS, "nowhere"))
    line = refused(capsys, "read", checkpoint, "--data", "small_mnist", "--out", tmp_path / "out")
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
    assert "too long" in refused(capsys, "read", checkpoint, "--out", tmp_path / ("x" * 300))


def test_a_given_model_and_training_together_are_refused(checkpoint, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    for flag in ("--hidden", "--epochs", "--weight-decay", "--noise"):
        line = refused(capsys, "demo", "--model", checkpoint, "--data", "digits", flag, "1", "--out", out)
        assert flag in line
    assert not out.exists()


@pytest.mark.slow
@UNTRAINED
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_weights_of_other_types_are_read(dtype: torch.dtype, checkpoint, tmp_path) -> None:
    cast(dtype)(checkpoint)
    flags = ["--data", "digits", "--sae-steps", "10", "--sae-l1", "0.1", *SMALL]
    assert cli.main(["read", str(checkpoint), "--out", str(tmp_path / "out"), *flags]) == 0


@pytest.mark.slow
@UNTRAINED
def test_a_model_worse_than_a_guess_is_read_all_the_same(checkpoint, tmp_path, capsys) -> None:
    weights(checkpoint, lambda tensors: tensors["readout.weight"].mul_(1e5))
    flags = ["--data", "digits", "--sae-steps", "10", "--sae-l1", "0.1", *SMALL]
    assert cli.main(["read", str(checkpoint), "--out", str(tmp_path / "out"), *flags]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["faithfulness"]["the model itself"]["recovered"] is None
    assert 0 <= summary["model"]["test_accuracy"] <= 1
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.slow
def test_a_layer_with_one_input_is_read(tmp_path) -> None:
    ImageClassifier(Space("in", 1), Space("out", 3), 4).save_pretrained(tmp_path / "model")
    assert cli.main(["read", str(tmp_path / "model"), "--out", str(tmp_path / "out"), *SMALL]) == 0


@pytest.mark.slow
def test_labels_are_text_and_never_markup(tmp_path) -> None:
    labels = ("</script><img src=x onerror=alert(1)>", "\x1b[31mred\x00", "[red]rich[/red]", "two\nlines", "$x^2$")
    ImageClassifier(PIXELS, Space("out", 5, labels), 4).save_pretrained(tmp_path / "model")
    assert cli.main(["read", str(tmp_path / "model"), "--out", str(tmp_path / "out"), *SMALL]) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<img src=x" not in page
    assert not any(character in page for character in "\x1b\x00")
    for figure in (tmp_path / "out" / "figures").glob("*.svg"):
        ElementTree.parse(figure)


def test_an_output_folder_that_cannot_be_made_is_told(checkpoint, tmp_path, capsys) -> None:
    (tmp_path / "file").write_text("precious")
    for out in (tmp_path / "file", tmp_path / "file" / "deeper"):
        assert "file" in refused(capsys, "read", checkpoint, "--out", out)
    assert (tmp_path / "file").read_text() == "precious"


def test_a_folder_of_something_else_is_left_alone(checkpoint, tmp_path, capsys) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("precious")
    assert "something else" in refused(capsys, "read", checkpoint, "--out", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


@pytest.mark.slow
def test_a_full_disk_is_told_and_the_run_continues_when_there_is_room(checkpoint, tmp_path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "bilens.cli", "read", str(checkpoint), "--out", str(out), *SMALL]

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
    assert cli.main(["read", str(checkpoint), "--out", str(out), *SMALL]) == 0
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
        "explore": ("--out", "--compare", "--seeds", "--open"),
        "compare": ("--out", "--metric", "--ridge", "--open"),
        "layers": ("--check", "--layout"),
        "coder": ("--scale",),
        "demo-lm": ("--model", "--text", "--out", "--layer", "--seed"),
        "train-lm": ("--text", "--out", "--seed"),
        "convert": ("--out", "--text", "--tokens", "--distill", "--end-to-end", "--layers", "--curve", "--seed"),
        "audit": ("--out", "--layer", "--coder", "--steps", "--random", "--text", "--seed"),
        "rewrite": ("--out", "--layer", "--keep", "--steps", "--text", "--seed"),
        "query": ("--rows", "--csv"),
        "import": ("--out", "--config", "--key", "--yes"),
    }
    for option in options.get(name, ("--out", "--seed", "--count", "--pair-steps")):
        assert option in told


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_the_help_of_a_command_is_plain_text_as_wide_as_the_terminal(
    name: str, width: int, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert cli.main([name, "--help"]) == 0
    told = capsys.readouterr().out
    assert told.isascii() or not set(told) & set("│╭╰─╮╯\x1b")
    lines = told.splitlines()
    assert max(map(len, lines)) <= width
    assert lines[0].startswith(f"usage: bilens {name} ")
    assert "options:" in lines
    assert lines[-1].strip()
    module, recipe = cli.COMMANDS[name].recipe.split(":")
    settings = inspect.signature(getattr(importlib.import_module(module), recipe)).parameters.values()
    named = [f"--{one.name.replace('_', '-')}" for one in settings if one.kind is not one.POSITIONAL_ONLY]
    for option in named:
        (line,) = [line for line in lines if re.search(rf"(^  |, ){option}( |,|$)", line)]
        if width == 80:  # what it takes, whole and beside it
            assert line.count("{") == line.count("}")


@pytest.mark.parametrize(
    ("name", "now"),
    [
        ("mnist", "bilens demo"),
        ("decompile", "bilens read"),
        ("reproduce", "python -m reproduction. Run that in a clone of the repository."),
    ],
)
def test_an_earlier_name_of_a_command_says_the_new_one(name: str, now: str, capsys) -> None:
    assert cli.main([name, "--out", "somewhere"]) == 2
    assert capsys.readouterr().err == f"bilens: got bilens {name}, an earlier name; expected {now}\n"


def test_the_version_is_told(capsys) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("bilens 0.")


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-m", "bilens", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.startswith("bilens 0.")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("demo --hiden 300", "got option --hiden; expected an option of bilens demo. Did you mean --hidden?"),
        ("demo --zzzz", "got option --zzzz; expected an option of bilens demo. Run bilens demo --help."),
        ("demo --hidden many", "got --hidden many; expected a whole number. Run bilens demo --help."),
        ("demo --hidden=many", "got --hidden many; expected a whole number. Run bilens demo --help."),
        ("demo --sae_l1 much", "got --sae-l1 much; expected a number. Run bilens demo --help."),
        ("demo --hidden", "got --hidden without a value; expected a whole number. Run bilens demo --help."),
        ("demo more", "got argument more; expected the arguments of bilens demo. Run bilens demo --help."),
        ("dmeo", f"got command 'dmeo'; expected one of {', '.join(cli.COMMANDS)}. Did you mean demo?"),
        (
            "demo --data cifar",
            "got --data cifar; expected one of mnist, small_mnist, fashion_mnist, digits. Run bilens demo --help.",
        ),
        (
            "explore",
            "got bilens explore alone; expected PATH: folder that bilens demo or bilens read wrote. "
            "For example: bilens explore runs/mnist --open.",
        ),
    ],
)
def test_a_mistake_in_a_terminal_is_one_plain_line(arguments: str, line: str, monkeypatch) -> None:
    for command in cli.COMMANDS.values():  # what is loaded already shows no bar of its loading
        importlib.import_module(command.recipe.partition(":")[0])
    main, screen = os.openpty()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "60")
    with os.fdopen(screen, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        monkeypatch.setattr(sys, "stderr", terminal)
        assert sys.stdout.isatty()
        assert cli.main(arguments.split()) == 2
        terminal.flush()
        shown = os.read(main, 65536).decode()
    os.close(main)
    assert shown == f"bilens: {line}\r\n"


class Watched:
    """An object whose weak reference calls back when it goes."""


def swallowed_by_a_callback() -> None:
    watched = Watched()
    reference = weakref.ref(watched, lambda _: signal.raise_signal(signal.SIGINT))
    del watched
    gc.collect()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        time.sleep(0.005)
    raise AssertionError(f"Ctrl-C was lost in the callback of {reference}")


def test_ctrl_c_in_a_callback_stops_the_command(monkeypatch, capsys) -> None:
    before = signal.getsignal(signal.SIGINT), sys.unraisablehook
    monkeypatch.setattr(cli, "_parse", lambda *_: swallowed_by_a_callback)
    assert cli.main(["demo"]) == 130
    assert "continues" in capsys.readouterr().err
    assert (signal.getsignal(signal.SIGINT), sys.unraisablehook) == before


def test_ctrl_c_that_a_library_swallows_stops_the_command_at_the_next_step(monkeypatch, capsys) -> None:
    def job() -> None:
        steps = Steps(2)
        steps.begin("one")
        try:
            signal.raise_signal(signal.SIGINT)
        except BaseException:  # as a library may do
            gc.collect()
        steps.begin("two")

    monkeypatch.setattr(cli, "_parse", lambda *_: job)
    assert cli.main(["demo"]) == 130
    assert "step 2" not in capsys.readouterr().err


def test_warnings_are_one_line_and_matplotlibs_of_its_layout_none(monkeypatch, capsys) -> None:
    def warn() -> None:
        warnings.warn("one\nline", SmallSetWarning, stacklevel=1)
        warnings.warn("constrained_layout not applied because axes sizes collapsed to zero.", UserWarning, stacklevel=1)

    monkeypatch.setattr(cli, "_parse", lambda *_: warn)
    shown = warnings.showwarning
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert cli.main(["demo"]) == 0
    assert capsys.readouterr().err == "bilens: one line\n"
    assert warnings.showwarning is shown


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-20, 1e15])
def test_a_model_whose_outputs_vanish_or_overflow_is_refused(scale: float, checkpoint, tmp_path, capsys) -> None:
    weights(checkpoint, lambda tensors: [value.mul_(scale) for value in tensors.values()])
    line = refused(capsys, "read", checkpoint, "--out", tmp_path / "out")
    assert ("hidden are 0 for every input" if scale == 0 else "tensor has norm") in line
    assert not (tmp_path / "out").exists()


def test_a_layer_that_gives_the_same_for_every_image_is_refused(tmp_path, capsys) -> None:
    model = ImageClassifier(PIXELS, DIGITS, 6, bias=True)
    with torch.no_grad():
        model.layers[0].left.weight.zero_()
        model.layers[0].right.weight.zero_()
    model.save_pretrained(tmp_path / "model")
    line = refused(capsys, "read", tmp_path / "model", "--data", "digits", "--out", tmp_path / "out")
    assert "the same outputs for each image of digits" in line
    assert not (tmp_path / "out").exists()


def test_a_file_in_place_of_a_folder_is_answered_by_what_can_be_done(tmp_path, capsys) -> None:
    torch.save({"W": torch.zeros(2)}, tmp_path / "model.pt")
    line = refused(capsys, "read", tmp_path / "model.pt", "--out", tmp_path / "out")
    assert "which is a file; expected a folder with config.json and model.safetensors" in line
    assert "Your own model" in line
    assert "## Your own model" in (Path(__file__).parents[1] / "docs" / "data.md").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("stated", [False, True])
def test_a_model_of_standardised_images_is_read_as_one_of_raw_images(stated: bool, checkpoint, tmp_path) -> None:
    flags = ["--mean", "0.1307", "--std", "0.3081"]
    if stated:
        (checkpoint / "preprocessor_config.json").write_text('{"image_mean": [0.1307], "image_std": [0.3081]}')
        flags = []
    out = tmp_path / "out"
    assert cli.main(["read", str(checkpoint), "--out", str(out), *flags, *SMALL]) == 0
    model = ImageClassifier.from_pretrained(checkpoint).double()
    x = torch.rand(9, 64, dtype=torch.float64)
    z = (x - 0.1307) / 0.3081
    left, right, readout = (
        p.detach() for p in (model.layer.left.weight, model.layer.right.weight, model.readout.weight)
    )
    expected = ((z @ left.T) * (z @ right.T)) @ readout.T
    logits = store.load(out / "records" / "logits", BilinearTensor).to(torch.float64)
    torch.testing.assert_close(logits(x), expected - expected.mean(dim=1, keepdim=True), rtol=1e-5, atol=1e-5)
    assert json.loads((out / "settings.json").read_text())["images"] == {"mean": 0.1307, "std": 0.3081}


def test_what_a_config_says_of_its_images_is_read_or_refused(tmp_path) -> None:
    path = tmp_path / "config.json"
    for content, expected in (
        ({}, None),
        ({"image_mean": 0.5, "image_std": [2]}, Standardization(0.5, 2.0)),
        ({"image_mean": 0.5, "image_std": 2, "do_normalize": False}, None),
    ):
        path.write_text(json.dumps(content))
        assert given._stated(tmp_path) == expected
    for content in ({"image_mean": 0.5}, {"image_mean": [1, 2, 3], "image_std": 1}, {"image_mean": 0, "image_std": 0}):
        path.write_text(json.dumps(content))
        with pytest.raises(
            StoreError, match=r"^got .*config.json with image_mean.*; expected image_mean and image_std"
        ):
            given._stated(tmp_path)


def test_a_mean_and_a_std_that_make_no_sense_are_refused(checkpoint, tmp_path, capsys) -> None:
    out = ["--out", tmp_path / "out"]
    assert "--mean or --std alone" in refused(capsys, "read", checkpoint, "--mean", "0.1", *out)
    assert "--std = 0" in refused(capsys, "read", checkpoint, "--mean", "0.1", "--std", "0", *out)
    assert "--mean without --model" in refused(capsys, "demo", "--data", "digits", "--mean", "0.1", *out)
    assert not (tmp_path / "out").exists()


def judged(tmp_path: Path, right: int, stated: float | None, images: Standardization | None = None) -> list[str]:
    """What is said of a model that is right about so many of 1,000 images of 10 classes."""
    labels = torch.arange(1000) % 10
    seen = torch.where(torch.arange(1000) < right, labels, (labels + 1) % 10)
    split = Split(torch.eye(10)[seen], labels)
    dataset = Dataset("mnist", split, split, Space("pixels", 10), DIGITS, "here")
    model = ImageClassifier(dataset.input, DIGITS, 10)
    with torch.no_grad():
        for part in (model.layer.left, model.layer.right, model.readout):
            part.weight.copy_(torch.eye(10))
    (tmp_path / "config.json").write_text(json.dumps({} if stated is None else {"test_accuracy": stated}))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        given.look(model, tmp_path, dataset, images)
    assert all(one.category is AccuracyWarning for one in caught)
    return [str(one.message) for one in caught]


def test_an_accuracy_near_chance_or_below_what_is_stated_is_warned_of(tmp_path) -> None:
    for right, stated in ((980, 0.98), (975, None), (950, 0.98), (300, None), (900, 0.1)):
        assert judged(tmp_path, right, stated) == []
    (line,) = judged(tmp_path, 112, None)
    assert "right about 11.20% of 1,000 test images" in line
    assert "95 % interval 9.39% to 13.31%" in line  # Wilson's, by hand
    assert "most frequent class gives 10.00%" in line
    assert "--mean and --std" in line
    (line,) = judged(tmp_path, 600, 97.9)
    assert "states 97.90%" in line
    (line,) = judged(tmp_path, 600, 0.979, Standardization(0.5, 2))
    assert "mean 0.5 and std 2" in line


def test_the_help_shows_defaults_and_no_none(capsys) -> None:
    assert cli.main(["demo", "--help"]) == 0
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "(default: 300, and 128 where there are several layers)" in told
    assert "None" not in told


def test_help_shows_the_defaults_that_the_settings_have(capsys) -> None:
    assert cli.main(["demo", "--help"]) == 0
    text = " ".join(re.sub(r"[│╭╰─╮╯]", " ", capsys.readouterr().out).split())
    for option, default in {
        "--hidden": f"{Training.hidden}, and {settings.DEEP['hidden']} where there are several layers",
        "--epochs": f"{Training.epochs}, or {FEW_EPOCHS} over fewer than {FEW:,} images",
        "--noise": f"{Training.noise:g}",
        "--sae-features": f"{Budget.sae_features}",
        "--pair-steps": f"{Budget.pair_steps}, with --small {settings.SMALL.pair_steps}",
        "--sae-l1": f"{Budget.sae_l1}",
    }.items():
        described = text.partition(f" {option} ")[2]
        assert described[described.index("(default: ") :].startswith(f"(default: {default})"), option
    assert "None" not in text


@pytest.mark.parametrize("policy", [None, "ACTIVE"])
def test_threads_wait_without_spinning_unless_told_otherwise(policy, monkeypatch, capsys) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    if policy is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")

    def recipe() -> Callable[[], None]:
        seen.append(os.environ["OMP_WAIT_POLICY"])  # before the recipe, and torch with it, is imported

        def nothing() -> None:
            """Do nothing."""

        return nothing

    seen: list[str] = []
    assert cli.run(recipe, [], program="it", example="it") == 0
    assert seen == [policy or "PASSIVE"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["convert", "MODEL", "--out", "OUT", "--text"], "got --text without a value; expected texts"),
        (
            ["convert", "MODEL", "--out", "OUT", "--layers", "--curve"],
            "got --layers without a value; expected whole numb",
        ),
        (["convert", "MODEL", "--out", "OUT", "--layers", "all"], "got --layers all; expected whole numbers. "),
        (["convert", "MODEL", "--out", "OUT", "--text", ""], "got an empty argument; expected a value in it. "),
        (["convert", "MODEL", "--out="], "got an empty argument; expected a value in it. "),
        (["convert", "MODEL", "--out", "OUT", "--precision", "float16"], "expected bfloat16. "),
        (["layers", ""], "got an empty argument; expected a value in it. "),
    ],
)
def test_what_a_shell_left_empty_is_refused(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    assert line in capsys.readouterr().err
