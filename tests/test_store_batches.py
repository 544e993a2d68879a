"""Spectra larger than memory, written batch by batch: what is read again, and what a kill leaves."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bilens import decompose, store
from bilens._internal import files
from bilens.decompose import Spectra
from bilens.errors import BilensError, StoreError
from bilens.space import Space
from bilens.tensor import BilinearTensor
from messages import refuses
from oracle import near
from strategies import filled


def stream(seed: int = 0) -> decompose.SpectraStream:
    tensor = BilinearTensor(
        filled("normal", 30, 20, seed),
        filled("normal", 30, 20, 1),
        filled("normal", 9, 30, 2),
        Space("x", 20),
        Space("y", 9),
    )
    return decompose.spectra_stream(tensor, None, 3, batch_size=2)


def test_what_is_written_is_what_was_computed(tmp_path):
    store.save_batches(stream(), tmp_path / "spectra", progress=False)
    parts = list(store.load_batches(tmp_path / "spectra", Spectra))
    whole = decompose.eigh_many(stream().tensor, None, 3)
    joined = Spectra.join(parts, whole.features)
    assert len(parts) == 5
    near(joined.values, whole.values, 100)
    assert bool(joined.exact.all())
    assert (joined.which, joined.tol, joined.input) == (whole.which, whole.tol, whole.input)


def test_what_is_there_is_not_computed_again(tmp_path):
    store.save_batches(stream(), tmp_path, progress=False)
    record = tmp_path / "records" / "batch-000001.safetensors"
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "records").iterdir()}
    record.with_suffix(".json").unlink()
    with refuses(StoreError, "4 of 5 batches", "Run save_batches"):
        store.load_batches(tmp_path, Spectra)
    store.save_batches(stream(), tmp_path, progress=False)
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "records").iterdir()}
    assert {name for name in after if after[name] != before[name]} == {record.name, record.with_suffix(".json").name}
    assert len(list(store.load_batches(tmp_path, Spectra))) == 5


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text("utf-8")
    assert old in text
    file.write_text(text.replace(old, new), "utf-8")


def replace(file: Path, record: object) -> None:
    header = json.loads(file.read_text("utf-8"))
    files.write_sealed(file, {"format": 3, "record": record, "place": header["place"]})


def copy(file: Path, other: Path) -> None:
    for ending in (".json", ".safetensors"):
        file.with_suffix(ending).write_bytes(other.with_suffix(ending).read_bytes())


@pytest.mark.parametrize(
    ("harm", "ending", "said"),
    [
        (cut, ".safetensors", "another checksum"),
        (flip, ".safetensors", "another checksum"),
        (Path.unlink, ".safetensors", "'No such file or directory' on reading"),
        (cut, ".json", "which is no JSON"),
        (lambda file: file.write_text("{}"), ".json", "of format None"),
        (lambda file: edit(file, '"tol": 1e-10', '"tol": 3e-10'), ".json", "another checksum than it states"),
        (lambda file: edit(file, '"which": "magnitude"', '"which": "negative"'), ".json", "another checksum"),
        (lambda file: edit(file, '"name": "batch-000003"', '"name": "batch-000004"'), ".json", "another checksum"),
        (lambda file: replace(file, None), ".json", "with a NoneType"),
        (lambda file: replace(file, 3), ".json", "with a int"),
        (lambda file: replace(file, []), ".json", "with a tuple"),
        (lambda file: copy(file, file.with_name("batch-000001.json")), ".json", "with the record 'batch-000001'"),
    ],
)
def test_a_batch_that_was_harmed_is_computed_again_and_no_other(tmp_path, harm, ending, said):
    store.save_batches(stream(), tmp_path, progress=False)
    written_files = {path: path.read_bytes() for path in sorted((tmp_path / "records").iterdir())}
    before = {path: path.stat().st_mtime_ns for path in written_files}
    record = tmp_path / "records" / "batch-000003"
    harm(record.with_suffix(ending))
    with pytest.warns(store.DamagedBatchWarning, match=f"computed again: 1; the first: .*{said}"):
        store.save_batches(stream(), tmp_path, progress=False)
    assert {path: path.read_bytes() for path in sorted((tmp_path / "records").iterdir())} == written_files
    written = {path.name for path in written_files if path.stat().st_mtime_ns != before[path]}
    assert written == {record.name + ".json", record.name + ".safetensors"}
    store.save_batches(stream(), tmp_path, progress=False)  # and without a warning


def test_a_batch_in_the_place_of_another_is_not_read(tmp_path):
    store.save_batches(stream(), tmp_path, progress=False)
    copy(tmp_path / "records" / "batch-000002.json", tmp_path / "records" / "batch-000001.json")
    parts = store.load_batches(tmp_path, Spectra)
    assert len(next(parts)) == len(next(parts)) == 2
    with refuses(StoreError, "batch-000002.json with the record 'batch-000001'; expected the record 'batch-000002'"):
        next(parts)


def test_a_batch_of_other_settings_is_computed_again(tmp_path):
    store.save_batches(stream(), tmp_path / "a", progress=False)
    store.save_batches(stream(5), tmp_path / "b", progress=False)
    whole = (tmp_path / "a" / "records" / "batch-000001.safetensors").read_bytes()
    copy(tmp_path / "a" / "records" / "batch-000001.json", tmp_path / "b" / "records" / "batch-000001.json")
    with refuses(StoreError, "batch-000001.json with a record of another run"):
        list(store.load_batches(tmp_path / "a", Spectra))
    with pytest.warns(store.DamagedBatchWarning, match="batch-000001.json with a record of another run"):
        store.save_batches(stream(), tmp_path / "a", progress=False)
    assert (tmp_path / "a" / "records" / "batch-000001.safetensors").read_bytes() == whole


def test_settings_that_are_cut_short_are_named_and_can_be_written_again(tmp_path, monkeypatch):
    store.save_batches(stream(), tmp_path, progress=False)
    made, known = stream(), tmp_path / "settings.json"
    written = known.read_bytes()
    cut(known)
    for call in (
        lambda: store.save_batches(made, tmp_path, progress=False),
        lambda: store.load_batches(tmp_path, Spectra),
    ):
        with refuses(StoreError, f"{known}, which is damaged", "bilens.files.write_json(file, settings)"):
            call()
    files.write_json(known, made.settings)
    assert known.read_bytes() == written
    monkeypatch.setattr(decompose.SpectraStream, "batch", lambda *_: pytest.fail("a whole batch was computed again"))
    store.save_batches(made, tmp_path, progress=False)


@pytest.mark.bad_input
@pytest.mark.parametrize("path", [3, None])
def test_what_is_no_path_is_named(path):
    with refuses(BilensError, f"path = {path}; expected a path"):
        store.save_batches(stream(), path, progress=False)


def test_a_finished_folder_computes_nothing(tmp_path, monkeypatch):
    store.save_batches(stream(), tmp_path, progress=False)
    made = stream()
    monkeypatch.setattr(decompose.SpectraStream, "batch", lambda *_: pytest.fail("a whole batch was computed again"))
    store.save_batches(made, tmp_path, progress=False)


@pytest.mark.bad_input
def test_what_has_no_settings_is_refused(tmp_path):
    with pytest.raises(BilensError, match="a list, which has no numbered batches and settings"):
        store.save_batches([1, 2], tmp_path / "some")
    assert not (tmp_path / "some").exists()


def test_other_weights_and_other_folders_are_refused(tmp_path):
    store.save_batches(stream(), tmp_path / "a", progress=False)
    with refuses(StoreError, "other settings", "weights"):
        store.save_batches(stream(5), tmp_path / "a", progress=False)
    with refuses(StoreError, "other settings", "k: 3 → 4"):
        store.save_batches(dataclasses.replace(stream(), k=4), tmp_path / "a", progress=False)
    with refuses(StoreError, "on reading"):
        store.load_batches(tmp_path / "b", Spectra)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "settings.json").write_text("{}")
    with refuses(StoreError, "holds no batches"):
        store.load_batches(tmp_path / "c", Spectra)


SCRIPT = """
import sys, time
sys.path[:0] = {path!r}
from bilens import decompose, store
from test_store_batches import stream

class Slow:
    settings = stream().settings
    __len__ = lambda self: len(stream())
    def batch(self, n):
        time.sleep(0.15)
        return stream().batch(n)

store.save_batches(Slow(), sys.argv[1], progress=False)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_goes_on_where_it_was(tmp_path, how):
    folder = tmp_path / "spectra"
    script = SCRIPT.format(path=[str(Path(__file__).parent)])
    run = subprocess.Popen([sys.executable, "-c", script, str(folder)], stderr=subprocess.DEVNULL)
    for _ in range(2400):
        if (folder / "records" / "batch-000001.json").exists():
            break
        time.sleep(0.05)
    run.send_signal(how)
    assert run.wait() != 0
    done = {path: path.stat().st_mtime_ns for path in (folder / "records").glob("*.json")}
    assert 2 <= len(done) < 5
    store.save_batches(stream(), folder, progress=False)
    assert all(path.stat().st_mtime_ns == at for path, at in done.items())
    joined = Spectra.join(list(store.load_batches(folder, Spectra)), Space("y", 9))
    straight = Spectra.join(list(stream()), Space("y", 9))
    assert torch.equal(joined.vectors, straight.vectors)
    assert torch.equal(joined.values, straight.values)
