"""Files: atomic, never a pickle, and one clear line when something is wrong."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from bilens._internal import files
from bilens.errors import StoreError
from bilens.explorer.page import refuse_others
from bilens.store import Folder
from messages import refuses

WEIGHTS = {"w": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2], dtype=torch.int64)}


FORK = multiprocessing.get_context("fork") if sys.platform != "win32" else None
FORKED = pytest.mark.skipif(FORK is None, reason="needs processes that are forked")


def ended(work: Callable[[], None]) -> int | None:
    """How a process that does some work ends: a fork of this one, which has everything imported."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # of forks beside threads, of which these have none to wait for
        process = FORK.Process(target=work)
        process.start()
    process.join()
    return process.exitcode


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_tensors_and_metadata_come_back(tmp_path):
    path = tmp_path / "new" / "folder" / "weights.safetensors"
    files.write_tensors(path, WEIGHTS | {"none": torch.zeros(0, 3), "one": torch.tensor(2.5)}, {"kind": "test"})
    tensors, metadata = files.read_tensors(path)
    assert metadata == {"kind": "test"}
    assert set(tensors) == {"w", "b", "none", "one"}
    for name, value in WEIGHTS.items():
        torch.testing.assert_close(tensors[name], value, rtol=0, atol=0)
    assert tensors["none"].shape == (0, 3)
    assert names(path.parent) == ["weights.safetensors"]


def test_views_shared_and_trained_tensors_are_written_whole(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    parts = {"t": whole.T, "row": whole[1], "same": whole, "again": whole, "trained": torch.nn.Parameter(whole[:2])}
    files.write_tensors(tmp_path / "w", parts)
    read = files.read_tensors(tmp_path / "w")[0]
    for name, value in parts.items():
        torch.testing.assert_close(read[name], value.detach(), rtol=0, atol=0)


def test_what_was_read_does_not_change_with_the_file(tmp_path):
    path = tmp_path / "w.safetensors"
    files.write_tensors(path, {"w": torch.ones(1000)})
    read = files.read_tensors(path)[0]["w"]
    path.write_bytes(b"\0" * path.stat().st_size)
    assert bool((read == 1).all())


@given(st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | st.text(), lambda c: st.lists(c, max_size=3)))
def test_json_comes_back(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "value.json"
    files.write_json(path, {"value": value})
    assert files.read_json(path) == {"value": value}


def test_text_is_utf8_and_the_permissions_are_the_usual_ones(tmp_path):
    before = os.umask(0o022)
    try:
        files.write_text(tmp_path / "a", "½ Σ λ")
    finally:
        os.umask(before)
    assert (tmp_path / "a").read_bytes() == "½ Σ λ".encode()
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_json_refuses_what_json_cannot_say(tmp_path, number):
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "a.json", {"loss": number})
    assert names(tmp_path) == []


# A reader sees the old file or the new one


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("interruption", [Interrupted, KeyboardInterrupt])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, interruption):
    path = tmp_path / "weights"
    files.write_text(path, "old")

    def write():
        with files.replacing(path) as temporary:
            temporary.write_text("half of the n")
            assert path.read_text() == "old"
            assert temporary.parent == path.parent
            raise interruption

    with pytest.raises(interruption):
        write()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["weights"]


def test_a_write_takes_the_place_of_the_old_file_at_once(tmp_path):
    path = tmp_path / "weights"
    files.write_text(path, "old")
    with path.open() as reader:
        files.write_text(path, "new")
        assert reader.read() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["weights"]


@FORKED
def test_a_full_disk_is_told_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "weights"
    files.write_tensors(path, WEIGHTS)
    before = path.read_bytes()
    answers = FORK.SimpleQueue()

    def full() -> None:
        resource = importlib.import_module("resource")  # which Windows lacks
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        for write in (
            lambda: files.write_bytes(path, bytes(300_000)),
            lambda: files.write_tensors(path, {"w": torch.zeros(300_000)}),
        ):
            try:
                write()
            except StoreError as error:
                answers.put(str(error))

    assert ended(full) == 0
    lines = []
    while not answers.empty():
        lines.append(answers.get())
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("got '")
        assert f"on writing {path}; expected a folder with room" in line
        assert ". Free space" in line
    assert path.read_bytes() == before
    assert names(tmp_path) == ["weights"]


# What cannot be written


def test_refuses_to_write_under_a_file(tmp_path):
    (tmp_path / "file").write_text("I am no folder")
    for path in (tmp_path / "file" / "weights", tmp_path / "file" / "deeper" / "weights"):
        with refuses(StoreError, str(path.parent), f"{tmp_path / 'file'}", "file", "expected a folder"):
            files.write_tensors(path, WEIGHTS)
        with refuses(StoreError, str(path.parent), "file", "expected a folder"):
            files.write_json(path, {})
    assert (tmp_path / "file").read_text() == "I am no folder"


def test_refuses_to_write_over_a_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    with refuses(StoreError, "on writing", str(tmp_path / "folder")):
        files.write_text(tmp_path / "folder", "text")
    assert names(tmp_path) == ["folder"]


def test_refuses_a_name_that_is_too_long(tmp_path):
    with refuses(StoreError, "on writing", "too long"):
        files.write_text(tmp_path / ("a" * 300), "text")


# What cannot be read


@pytest.mark.parametrize("read", [files.read_bytes, files.read_json, files.read_tensors])
def test_refuses_a_missing_file_and_a_folder(tmp_path, read):
    with refuses(StoreError, "on reading", str(tmp_path / "absent"), "can be read"):
        read(tmp_path / "absent")
    with refuses(StoreError, "on reading", str(tmp_path), "can be read"):
        read(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"{'a': 1}", b'{"a": 1} x'])
def test_refuses_what_is_no_json(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with refuses(StoreError, str(tmp_path / "a.json"), "no JSON", "a JSON file"):
        files.read_json(tmp_path / "a.json")


@pytest.mark.parametrize(("content", "kind"), [("[1]", "list"), ("3", "int"), ("null", "NoneType"), ('"a"', "str")])
def test_refuses_json_that_is_no_object(tmp_path, content, kind):
    (tmp_path / "a.json").write_text(content)
    with refuses(StoreError, "a.json", f"a JSON {kind}", "a JSON object"):
        files.read_json(tmp_path / "a.json")


class Bomb:
    """What a hostile pickle would do: run code when it is read."""

    fired = False

    def __reduce__(self):
        return (setattr, (Bomb, "fired", True))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_refused_and_never_opened(tmp_path, zipped):
    path = tmp_path / "model.pt"
    torch.save({"w": torch.ones(3), "bomb": Bomb()}, path, _use_new_zipfile_serialization=zipped)
    with refuses(StoreError, str(path), "pickle", "runs code", "safetensors.torch.save_file"):
        files.read_tensors(path)
    assert not Bomb.fired


@pytest.mark.parametrize("keep", [0, 4, 8, 40, -1])
def test_a_truncated_file_is_refused(tmp_path, keep):
    path = tmp_path / "w.safetensors"
    files.write_tensors(path, WEIGHTS)
    path.write_bytes(path.read_bytes()[:keep])
    with refuses(StoreError, str(path), "cannot be read", "a whole safetensors file", "again"):
        files.read_tensors(path)


@pytest.mark.parametrize("content", [b"\x00" * 64, b"hello, this is text and no tensor", b"\xff" * 20])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "w").write_bytes(content)
    with refuses(StoreError, str(tmp_path / "w"), "cannot be read"):
        files.read_tensors(tmp_path / "w")


@pytest.mark.parametrize("length", [640, 896, 1152, 1408, 0x4B50])
def test_a_header_length_that_begins_like_a_pickle_is_no_pickle(tmp_path, length):
    # a safetensors file begins with the length of its header: 640 is b"\x80\x02", how pickles of protocol 2 begin
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file({"w": torch.ones(2)}, path, {"note": ""})
    short = int.from_bytes(path.read_bytes()[:8], "little")
    safetensors.torch.save_file({"w": torch.ones(2)}, path, {"note": "n" * (length - short)})
    assert path.read_bytes()[:8] == length.to_bytes(8, "little")
    tensors, _ = files.read_tensors(path)
    np.testing.assert_array_equal(tensors["w"].numpy(), [1, 1])


def test_a_damaged_header_is_refused(tmp_path):
    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 99]}}).encode()
    (tmp_path / "w").write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    with refuses(StoreError, "cannot be read"):
        files.read_tensors(tmp_path / "w")


# Two files that are one


def pair(folder, number: float):
    return (
        folder / "config.json",
        {"number": number, "text": "ü"},
        folder / "w.safetensors",
        {"w": torch.ones(2) * number},
    )


def read_number(folder) -> float:
    content, tensors = files.read_pair(folder / "config.json", folder / "w.safetensors")
    assert float(tensors["w"][0]) == content["number"], "a mix"
    assert content["text"] == "ü"
    return content["number"]


@FORKED
@pytest.mark.parametrize(("after", "number"), [(0, 1.0), (1, 2.0)])
def test_a_save_that_is_killed_between_its_files_leaves_the_old_or_the_new(tmp_path, after, number):
    files.write_pair(*pair(tmp_path, 1.0))
    replace, left = os.replace, iter(range(after))

    def killed() -> None:
        def step(*names: object) -> None:
            if next(left, None) is None:
                os._exit(9)
            replace(*names)

        os.replace = step
        files.write_pair(*pair(tmp_path, 2.0))

    assert ended(killed) == 9
    assert read_number(tmp_path) == number
    files.write_pair(*pair(tmp_path, 3.0))
    assert read_number(tmp_path) == 3


@pytest.mark.parametrize("name", ["config.json", "w.safetensors"])
@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_save_that_fails_leaves_what_was_there(tmp_path, monkeypatch, name, old, error):
    if old:
        files.write_pair(*pair(tmp_path, 1.0))
    replace = os.replace

    def full(source, target):
        if str(target).endswith(name) and str(source).endswith(".part"):
            raise error
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises((StoreError, KeyboardInterrupt)):
        files.write_pair(*pair(tmp_path, 2.0))
    assert names(tmp_path) == (["config.json", "w.safetensors"] if old else [])
    if old:
        assert read_number(tmp_path) == 1


def test_files_of_two_saves_and_altered_ones_are_refused(tmp_path):
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        files.write_pair(*pair(tmp_path / str(number), float(number)))
    one, two = tmp_path / "1", tmp_path / "2"
    whole = {name: (one / name).read_bytes() for name in ("config.json", "w.safetensors")}
    flipped = bytearray(whole["w.safetensors"])
    flipped[-2] ^= 1
    stripped = json.loads(whole["config.json"])
    del stripped["sha256"]
    tensors, _ = files.read_tensors(one / "w.safetensors")
    for name, content in (
        ("config.json", (two / "config.json").read_bytes()),
        ("w.safetensors", (two / "w.safetensors").read_bytes()),
        ("w.safetensors", bytes(flipped)),
        ("w.safetensors", safetensors.torch.save(tensors)),
        ("config.json", whole["config.json"].replace(b"1.0", b"4.0")),
        ("config.json", whole["config.json"].replace(b"1.0", b"1e999")),
        ("config.json", json.dumps(stripped).encode()),
    ):
        (one / name).write_bytes(content)
        with refuses(StoreError, "config.json and w.safetensors, which were not written together or were altered"):
            read_number(one)
        (one / name).write_bytes(whole[name])
        assert read_number(one) == 1


def test_a_folder_of_another_program_has_no_checksums_and_is_read(tmp_path):
    (tmp_path / "config.json").write_text('{"number": 1.0, "text": "ü"}')
    safetensors.torch.save_file({"w": torch.ones(2)}, tmp_path / "w.safetensors", {"format": "pt"})
    assert read_number(tmp_path) == 1


@pytest.mark.parametrize("renamed", [1, 2])
def test_ctrl_c_after_a_rename_leaves_the_old_files_or_the_new_ones(renamed, tmp_path, monkeypatch) -> None:
    first, second = tmp_path / "weights", tmp_path / "config"
    for path in (first, second):
        path.write_text("old")
    replace, count = os.replace, [0]

    def stopped(source: Path, target: Path) -> None:
        replace(source, target)
        count[0] += 1
        if count[0] == renamed:
            raise KeyboardInterrupt

    def save() -> None:
        with files.replacing_all(first, second) as temporaries:
            for temporary in temporaries:
                temporary.write_text("new")

    monkeypatch.setattr(os, "replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        save()
    expected = "old" if renamed == 1 else "new"
    assert [first.read_text(), second.read_text()] == [expected] * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config", "weights"]


@pytest.mark.parametrize("below", ["x", "x/y"])
def test_a_path_below_a_file_is_refused_with_the_name_of_the_file(below: str, tmp_path: Path) -> None:
    (tmp_path / "n.md").write_text("notes")
    path = tmp_path / "n.md" / below
    run, page = (lambda: Folder(path, {"a": 1})), (lambda: refuse_others(path))
    for write in (lambda: files.make_folder(path), lambda: files.write_text(path / "z", ""), run, page):
        with refuses(StoreError, f", which lies below the file {tmp_path / 'n.md'}; expected a folder"):
            write()
    with refuses(StoreError, f"{tmp_path / 'n.md'}, which is a file", "a folder"):
        files.make_folder(tmp_path / "n.md")
    assert (tmp_path / "n.md").read_text() == "notes"
