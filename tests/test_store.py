"""The store: every record comes back as it was, and nothing that was altered is used."""

from __future__ import annotations

import dataclasses
import errno
import functools
import hashlib
import json
import multiprocessing
import os
import queue
import subprocess
import sys
import threading

import pytest
import torch

from bilens import decompose, pairs, store
from bilens._internal import files
from bilens.deep import DeepTensor, paths
from bilens.dictionary import Dictionary
from bilens.errors import BilensError, StoreError
from bilens.faithfulness import Curve, Row, Score
from bilens.features import Chart, CodeComparison, Detail, Explanation, FeatureSet, OutputTree, Samples, TreeSet
from bilens.history import History
from bilens.pairs import PairCodes
from bilens.sae import Evaluation
from bilens.score import ScoreTensor
from bilens.space import Space
from bilens.store import _records
from bilens.store._records import LATER
from bilens.tensor import BilinearTensor
from messages import refuses


def layer() -> BilinearTensor:
    generator = torch.Generator().manual_seed(0)
    left, right, down = (torch.randn(*shape, generator=generator) for shape in ((4, 6), (4, 6), (3, 4)))
    space = Space("pixels", 6, image=(2, 3))
    return BilinearTensor.from_layer(
        left, right, down, left_bias=torch.ones(4), input=space, output=Space("digits", 3, ("a", "</b>", "ü"))
    )


def layer_of(space: Space, outputs: int = 2) -> BilinearTensor:
    generator = torch.Generator().manual_seed(1)
    left, right, down = (torch.randn(*shape, generator=generator) for shape in ((4, 3), (4, 3), (outputs, 4)))
    output = Space("next", outputs)
    return BilinearTensor.from_layer(left, right, down, left_bias=torch.ones(4), input=space, output=output)


COUNT = 36
"""Of `records`, which are made when the first test asks for them."""


@functools.cache
def records() -> list:
    tensor = layer()
    spectrum = decompose.eigh(tensor.kernel("a"), 2)
    moment = decompose.second_moment(torch.eye(6), tensor.input)
    space = tensor.input.without_constant()
    deep = DeepTensor.chain(tensor, layer_of(tensor.output))
    tree = decompose.kernel_tree(deep, 0, roots=2, leaves=2, metric=moment)
    shown = tuple(OutputTree.of(tree, label) for label in ("0", "1"))
    residual = DeepTensor.chain(layer_of(tensor.output, 3), residual=True)
    seen = torch.randn(20, 6, generator=torch.Generator().manual_seed(2))
    inputs = Dictionary.from_atoms(torch.eye(6), space)
    return [
        tensor,
        tensor.kernel("ü"),
        tensor.input,
        spectrum,
        decompose.eigh_many(tensor, None, 2),
        decompose.cp(tensor, 2, starts=0, progress=False),
        decompose.svd(tensor, 2),
        decompose.score_svd(ScoreTensor(*(tensor.left[:2],) * 4, tensor.input, tensor.input), 2),
        decompose.strongest(tensor, None, None, 2),
        decompose.coactivation(decompose.strongest(tensor, None, None, 2), torch.eye(6)),
        decompose.eigh_weighted(tensor.kernel(0), moment, 3),
        decompose.cp(tensor, 2, steps=3, progress=False),
        decompose.audit(tensor, torch.eye(3), seen, tensor(seen), ks=(1, 2), metric=moment),
        decompose.decompile(tensor, inputs, Dictionary.from_atoms(torch.eye(3), tensor.output), keep=4),
        Dictionary.from_atoms(torch.eye(3)[:2], tensor.output, offset=torch.ones(3), labels=["x", "y"]),
        Score(0.5, 1.25, -0.25),
        Row("untrained", Score(0.5, 1.25, None, 10), 20, "null", beside="SAE"),
        Curve.of("kept", [1, 2], [Score(0.1, 2.0, 0.3), Score(0.2, 1.0, 0.6)], error=[1.0, 0.5], bound=[2.0, 1.0]),
        History(("loss",), torch.tensor([1, 2]), torch.tensor([[0.5], [0.25]])),
        Evaluation(1.0, 0.5, 0.25, 0.0, torch.ones(3), torch.zeros(3), 7),
        FeatureSet("svd", (spectrum, spectrum), torch.ones(2), "σ", torch.ones(2, 3), tensor.output),
        FeatureSet(
            "mine",
            (spectrum,),
            torch.ones(1),
            "σ",
            torch.ones(1, 3),
            tensor.output,
            title="Mine",
            scores=(Row("mine", Score(0.5, 1.25, None, 10)),),
            rivals={"svd": 3},
            numbers={"values": (1.5, 2), "by name": {"a.b/c": 0.25, "text": "x"}, "none": None, "yes": True},
            notes=("a", "b"),
            charts={"a chart": Chart("σ", "rank", torch.ones(2), ("σ",), torch.ones(2, 1), level=0.5)},
            codes={"codes": CodeComparison(torch.ones(3), torch.zeros(3), 0.5, 2, 1e-3, 2)},
            words={"σ": "a number"},
        ),
        Chart("σ", "rank", torch.ones(2), ("σ", "share"), torch.ones(2, 2), log=True),
        CodeComparison(torch.ones(3), torch.zeros(3), 0.5, 2, 1e-3, 2),
        PairCodes.of(pairs.stream(tensor, shuffle=False), torch.relu),
        Detail(torch.rand(2, 7), torch.zeros(2, 3, 2, dtype=torch.int64), torch.rand(2, 3)),
        Detail(
            torch.rand(2, 7),
            torch.zeros(2, 3, 2, dtype=torch.int64),
            torch.rand(2, 3),
            torch.ones(2, 4, dtype=torch.int64),
            torch.rand(2, 4),
            torch.rand(2, 7),
            1.5,
            9,
        ),
        Samples(torch.rand(2, 6), torch.arange(2), torch.rand(2, 3), None, space, tensor.output),
        Explanation("a less b", torch.rand(6, generator=torch.Generator().manual_seed(1)), spectrum, 1.5),
        deep,
        residual,
        decompose.odt(deep, metric=moment, leaves=False),
        tree,
        shown[0],
        TreeSet(shown, deep.input, deep.output, "the identity", numbers={"roots": 2}),
        paths(residual, torch.rand(2, 3)),
    ]


def same(a: object, b: object) -> None:
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    elif dataclasses.is_dataclass(a):
        for field in dataclasses.fields(a):
            same(getattr(a, field.name), getattr(b, field.name))
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, tuple):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            same(one, other)
    else:
        assert a == b


@pytest.mark.parametrize("number", range(COUNT))
def test_every_record_comes_back_as_it_was(number: int, tmp_path) -> None:
    record = records()[number]
    store.save(record, tmp_path / "one")
    same(record, store.load(tmp_path / "one", type(record)))


def test_every_record_that_can_be_stored_is_tested() -> None:
    """Those that `store` knows by itself; an analysis that registers one of its own tests it with itself."""
    ours = {name for name, kind in store.RECORDS.items() if getattr(_records, name, None) is kind}
    assert {type(record).__name__ for record in records()} == ours
    assert len(records()) == COUNT


def test_a_tuple_of_records_comes_back(tmp_path) -> None:
    store.save((Score(0.5, 1.0, 0.5), Space("x", 2)), tmp_path / "two")
    assert store.load(tmp_path / "two", tuple) == (Score(0.5, 1.0, 0.5), Space("x", 2))


def message(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert text.startswith("got ")
    assert "; expected " in text
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("alter", "told"),
    [
        (lambda folder: (folder / "one.safetensors").write_bytes(b"x" * 400), "checksum"),
        (lambda folder: (folder / "one.safetensors").unlink(), "one.safetensors"),
        (lambda folder: (folder / "one.json").unlink(), "one.json"),
        (lambda folder: (folder / "one.json").write_text("{"), "no JSON"),
        (lambda folder: (folder / "one.json").write_text("[]"), "list"),
        (lambda folder: edit(folder, "format", 99), "format 99"),
        (lambda folder: edit(folder, "record", {"kind": "os.system", "fields": {}}), "damaged"),
        (lambda folder: edit(folder, "record", {"kind": "Spectrum", "fields": {"nothing": 1}}), "damaged"),
        (lambda folder: edit(folder, "record", "text"), "str"),
        (lambda folder: edit(folder, "record", None), "NoneType"),
        (lambda folder: edit(folder, "record", {"tensor": "no such"}), "damaged"),
        (lambda folder: edit(folder, "tensors", "text"), "damaged"),
    ],
)
def test_an_altered_record_is_refused(alter, told: str, tmp_path) -> None:
    store.save(records()[3], tmp_path / "one")
    alter(tmp_path)
    with pytest.raises(StoreError) as error:
        store.load(tmp_path / "one", decompose.Spectrum)
    assert told in message(error)


def sealed(header: dict) -> str:
    """A header with the checksum that belongs to it."""
    header = {name: value for name, value in header.items() if name != "sha256"}
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return json.dumps(header | {"sha256": hashlib.sha256(text.encode("utf-8")).hexdigest()})


def edit(folder, name: str, value: object) -> None:
    header = json.loads((folder / "one.json").read_text())
    (folder / "one.json").write_text(sealed(header | {name: value}))


@pytest.mark.parametrize(
    ("old", "new"),
    [('"tol": 1e-05', '"tol": 2e-05'), ('"which": "magnitude"', '"which": "positive"'), ('"tol": 1e-05', '"tol": NaN')],
)
def test_a_number_or_a_word_that_was_edited_is_noticed(old: str, new: str, tmp_path) -> None:
    store.save(decompose.eigh_many(layer(), None, 2), tmp_path / "one")
    file = tmp_path / "one.json"
    text = file.read_text("utf-8")
    assert old in text
    file.write_text(text.replace(old, new), "utf-8")
    with refuses(StoreError, "one.json with "):
        store.load(tmp_path / "one", decompose.Spectra)


def test_the_checksum_is_of_the_values_and_not_of_how_they_are_written(tmp_path) -> None:
    store.save(records()[1], tmp_path / "one")
    header = json.loads((tmp_path / "one.json").read_text("utf-8"))
    (tmp_path / "one.json").write_text(json.dumps(dict(reversed(header.items())), indent=4), "utf-8")
    same(records()[1], store.load(tmp_path / "one", type(records()[1])))
    stated = header.pop("sha256")
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert stated == hashlib.sha256(text.encode("utf-8")).hexdigest()


def test_a_record_without_a_checksum_is_refused_and_so_is_one_of_an_older_version(tmp_path) -> None:
    store.save(records()[3], tmp_path / "one")
    whole = json.loads((tmp_path / "one.json").read_text("utf-8"))
    (tmp_path / "one.json").write_text(json.dumps({n: value for n, value in whole.items() if n != "sha256"}))
    with refuses(StoreError, "one.json without a checksum: of an older version, or altered", "run the same command"):
        store.load(tmp_path / "one", decompose.Spectrum)
    for other in (1, 2, 3.0, True, "3", None):
        edit(tmp_path, "format", other)
        with refuses(StoreError, f"one.json of format {other!r}; expected format 3", "run the same command"):
            store.load(tmp_path / "one", decompose.Spectrum)


def spoil(whole: str, change, folder) -> None:
    """Change the JSON of a record that was stored, and give it the checksum that belongs to the change."""
    header = json.loads(whole)
    change(header["record"]["fields"])
    (folder / "one.json").write_text(sealed(header))


WRONG = {
    str: [7, ["x"], {"kind": "os.system", "fields": {}}],
    bool: [1, "True", None],
    int: ["7", 1.5, True],
    float: ["1.5", True, {"kind": "Score", "fields": {}}],
    list: ["text", {}, [[[1]]]],
    dict: ["text", [1], {"tensor": ["x"]}, {"kind": ["x"]}, {"kind": "Space", "fields": 3}],
}


@pytest.mark.bad_input
@pytest.mark.parametrize("number", range(COUNT))
def test_a_field_that_does_not_fit_its_annotation_is_refused(number: int, tmp_path) -> None:
    record = records()[number]
    store.save(record, tmp_path / "one")
    whole = (tmp_path / "one.json").read_text("utf-8")
    for name, value in json.loads(whole)["record"]["fields"].items():
        optional = "None" in str(type(record).__annotations__[name])
        whatever = "Any" in str(type(record).__annotations__[name])  # any record is right here
        for wrong in WRONG.get(type(value), []):
            if (wrong is None and optional) or (whatever and wrong in ([1], [[[1]]])):
                continue
            spoil(whole, lambda content, n=name, w=wrong: content.update({n: w}), tmp_path)
            with pytest.raises(StoreError) as error:
                store.load(tmp_path / "one", type(record))
            assert "one.json with a " in message(error), (name, wrong)
        spoil(whole, lambda content, n=name: content.pop(n), tmp_path)
        if name in LATER.get(type(record).__name__, set()):  # an older version wrote it
            assert getattr(store.load(tmp_path / "one", type(record)), name) == ""
            continue
        with refuses(StoreError, f"one.json with a damaged record (record lacks or adds {name})"):
            store.load(tmp_path / "one", type(record))
    spoil(whole, lambda content: content.update(one_more=1), tmp_path)
    with refuses(StoreError, "one.json with a damaged record (record lacks or adds one_more)"):
        store.load(tmp_path / "one", type(record))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("dtype", "shape"),
    [(torch.int64, None), (torch.bool, None), (torch.complex64, None), (None, (1, 1, 1)), (None, ())],
)
def test_a_tensor_of_another_type_or_shape_is_refused(dtype, shape, tmp_path) -> None:
    for record in records():
        store.save(record, tmp_path / "one")
        header = json.loads((tmp_path / "one.json").read_text("utf-8"))
        tensors = files.read_tensors(tmp_path / "one.safetensors")[0]
        for field in dataclasses.fields(record):
            value = getattr(record, field.name)
            annotation = str(type(record).__annotations__[field.name])
            if not isinstance(value, torch.Tensor) or (shape is not None and value.ndim == len(shape)):
                continue
            if {torch.int64: "Int[", torch.bool: "Bool["}.get(dtype, "none") in annotation:
                continue
            changed = torch.zeros(value.shape if shape is None else shape, dtype=dtype or value.dtype)
            files.write_tensors(tmp_path / "one.safetensors", tensors | {f"record.{field.name}": changed})
            header["tensors"]["sha256"] = files.file_checksum(tmp_path / "one.safetensors")
            (tmp_path / "one.json").write_text(sealed(header))
            with refuses(StoreError, "one.json with a ", f"record.{field.name} of torch."):
                store.load(tmp_path / "one", type(record))


@pytest.mark.parametrize(
    "text", ['{"format": 3, "record": ' + "[" * 900 + "]" * 900 + "}", '{"format": 3, "x": "\\ud800"}']
)
def test_json_that_no_checksum_can_be_taken_of_is_refused(text: str, tmp_path) -> None:
    (tmp_path / "one.json").write_text(text)
    with refuses(StoreError, "one.json with"):
        store.load(tmp_path / "one", Score)


@pytest.mark.bad_input
@pytest.mark.parametrize("path", [3, None, b"one", "a\0b"])
def test_what_is_no_path_is_named(path: object) -> None:
    for call in (
        lambda: store.save(Score(0.5, 1.0, 0.5), path),
        lambda: store.load(path, Score),
        lambda: store.exists(path),
        lambda: store.load_batches(path, Score),
        lambda: store.Folder(path, {}),
    ):
        with refuses(BilensError, f"path = {path!r}", "a path, as a text or a pathlib.Path"):
            call()


def test_a_record_needs_a_name() -> None:
    with refuses(BilensError, "path '.', which names no file"):
        store.save(Score(0.5, 1.0, 0.5), "")


@pytest.mark.bad_input
def test_shapes_that_do_not_fit_are_refused_on_reading(tmp_path) -> None:
    store.save(records()[3], tmp_path / "one")
    header = json.loads((tmp_path / "one.json").read_text())
    header["record"]["fields"]["values"] = header["record"]["fields"]["vectors"]
    (tmp_path / "one.json").write_text(sealed(header))
    with pytest.raises(StoreError, match=r"record\.values of torch\.float32 and shape \(2, 7\), not Float"):
        store.load(tmp_path / "one", decompose.Spectrum)


def test_a_record_of_another_kind_is_refused(tmp_path) -> None:
    store.save(Score(0.5, 1.0, 0.5), tmp_path / "one")
    with pytest.raises(StoreError) as error:
        store.load(tmp_path / "one", FeatureSet)
    assert "a Score" in message(error)


@pytest.mark.parametrize("thing", [object(), {"a": 1}, float("nan"), torch.nn.Linear(1, 1), lambda: 0])
def test_what_is_no_record_is_refused_and_nothing_is_written(thing: object, tmp_path) -> None:
    with pytest.raises(StoreError):
        store.save(thing, tmp_path / "one")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_computes_each_record_once(tmp_path) -> None:
    calls = []

    def compute() -> Score:
        calls.append(1)
        return Score(0.5, 1.0, 0.5)

    for _ in range(2):
        run = store.Folder(tmp_path / "run", {"seed": 1, "sizes": (1, 2)})
        assert run.record("score", Score, compute) == Score(0.5, 1.0, 0.5)
    assert calls == [1]
    assert set(run.timings) == {"score"}


def test_a_folder_knows_which_records_it_has(tmp_path) -> None:
    run = store.Folder(tmp_path / "run", {})
    assert not run.has("a/0")
    run.record("a/0", Score, lambda: Score(0.5, 1.0, 0.5))
    assert run.has("a/0")
    assert not run.has("a/1")


def test_a_folder_of_other_settings_is_refused_and_left_as_it_is(tmp_path) -> None:
    store.Folder(tmp_path / "run", {"seed": 1})
    before = (tmp_path / "run" / "settings.json").read_bytes()
    with pytest.raises(StoreError) as error:
        store.Folder(tmp_path / "run", {"seed": 2})
    assert "seed: 1 → 2" in message(error)
    assert (tmp_path / "run" / "settings.json").read_bytes() == before


def test_a_folder_with_other_files_is_refused_and_left_as_it_is(tmp_path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreError) as error:
        store.Folder(tmp_path, {"seed": 2})
    assert "something else" in message(error)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path) -> None:
    (tmp_path / "run").write_text("text")
    with pytest.raises(StoreError) as error:
        store.Folder(tmp_path / "run", {"seed": 2})
    assert "a file" in message(error)
    with pytest.raises(StoreError):
        store.Folder(tmp_path / "run" / "deeper", {"seed": 2})


def claim(path: str, seed: int, barrier, answers) -> None:
    barrier.wait()
    try:
        store.Folder(path, {"seed": seed})
        answers.put(True)
    except StoreError:
        answers.put(False)


def test_of_runs_that_begin_at_once_one_gets_the_folder(tmp_path) -> None:
    """In threads, so that many tries are quick; the claim is the file system's, whoever asks."""
    for n in range(60):
        barrier, answers = threading.Barrier(3), queue.SimpleQueue()
        runs = [threading.Thread(target=claim, args=(tmp_path / str(n), k, barrier, answers)) for k in range(3)]
        for run in runs:
            run.start()
        for run in runs:
            run.join()
        assert sorted(answers.get() for _ in runs) == [False, False, True]
        assert [path.name for path in (tmp_path / str(n)).iterdir()] == ["settings.json"]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("rounds", [2, pytest.param(30, marks=pytest.mark.slow)])
def test_of_processes_that_begin_at_once_one_gets_the_folder(rounds: int, tmp_path) -> None:
    context = multiprocessing.get_context("fork")
    for n in range(rounds):
        barrier, answers = context.Barrier(2), context.SimpleQueue()
        runs = [context.Process(target=claim, args=(tmp_path / str(n), k, barrier, answers)) for k in range(2)]
        for run in runs:
            run.start()
        assert sorted(answers.get() for _ in runs) == [False, True]
        for run in runs:
            run.join()


def test_who_comes_second_by_a_moment_is_refused_and_the_first_keeps_the_folder(tmp_path, monkeypatch) -> None:
    link = os.link

    def late(*names) -> None:
        monkeypatch.setattr(os, "link", link)
        store.Folder(tmp_path / "run", {"seed": 1})
        link(*names)

    monkeypatch.setattr(os, "link", late)
    with refuses(StoreError, "other settings (seed: 1 → 2)"):
        store.Folder(tmp_path / "run", {"seed": 2})
    assert json.loads((tmp_path / "run" / "settings.json").read_text()) == {"seed": 1}


def test_a_file_system_without_links_has_one_owner_too(tmp_path, monkeypatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", none)
    store.Folder(tmp_path / "run", {"seed": 1})
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["settings.json"]
    store.Folder(tmp_path / "run", {"seed": 1})
    with refuses(StoreError, "seed: 1 → 2"):
        store.Folder(tmp_path / "run", {"seed": 2})
    store.save(Score(0.5, 1.0, 0.5), tmp_path / "one")
    store.save(records()[1], tmp_path / "one")
    store.save(records()[1], tmp_path / "one")
    same(records()[1], store.load(tmp_path / "one", type(records()[1])))


@pytest.mark.slow
def test_a_run_that_was_killed_in_its_first_write_continues(tmp_path) -> None:
    script = "import os, sys; from bilens import store; os.link = lambda *_: os._exit(9); store.Folder(sys.argv[1], {})"
    assert subprocess.run([sys.executable, "-c", script, tmp_path / "run"], check=False).returncode == 9
    (left,) = (tmp_path / "run").iterdir()
    assert left.name.startswith(".settings.json.")
    store.Folder(tmp_path / "run", {})
    assert (tmp_path / "run" / "settings.json").exists()


@pytest.mark.parametrize("name", [".DS_Store", ".gitkeep", "Thumbs.db"])
def test_what_file_managers_leave_is_nothing(name: str, tmp_path) -> None:
    (tmp_path / name).write_text("")
    store.Folder(tmp_path, {"seed": 2})
    assert (tmp_path / name).exists()


def test_a_link_that_leads_nowhere_is_named(tmp_path) -> None:
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    for path in (tmp_path / "run", tmp_path / "run" / "deeper"):
        with refuses(StoreError, f"{tmp_path / 'run'}, a symbolic link to {tmp_path / 'disk'}, which does not exist"):
            store.Folder(path, {})
    (tmp_path / "disk").mkdir()
    store.Folder(tmp_path / "run", {})
    assert (tmp_path / "disk" / "settings.json").exists()


def test_timings_that_are_damaged_are_named(tmp_path) -> None:
    run = store.Folder(tmp_path / "run", {})
    run.clock("svd", 1.5)
    for text in ("{", '{"svd": "long"}', '{"svd": 1.5, "sha256": "0"}'):
        (tmp_path / "run" / "timings.json").write_text(text)
        with refuses(StoreError, "timings.json"):
            run.clock("svd", 1.0)


def test_a_record_saved_over_an_older_one_is_the_old_one_or_the_new_one(tmp_path, monkeypatch) -> None:
    old, new = records()[1], records()[0]
    store.save(old, tmp_path / "one")
    replace = os.replace

    def full(source, target) -> None:
        if str(target).endswith(".json"):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with refuses(StoreError, "No space left on device"):
        store.save(new, tmp_path / "one")
    monkeypatch.undo()
    same(old, store.load(tmp_path / "one", type(old)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.json", "one.safetensors"]


def test_a_record_of_another_package_is_stored_once_it_is_registered(tmp_path, monkeypatch) -> None:
    monkeypatch.delitem(store.RECORDS, "Pair", raising=False)  # and after the test again
    pair = dataclasses.make_dataclass("Pair", [("left", int), ("right", Space)], frozen=True)
    with pytest.raises(StoreError, match="Pair"):
        store.save(pair(1, Space("x", 2)), tmp_path / "one")
    assert store.register(pair) is store.register(pair) is pair
    store.save(pair(1, Space("x", 2)), tmp_path / "one")
    assert store.load(tmp_path / "one", pair) == pair(1, Space("x", 2))
    del store.RECORDS["Pair"]
    with pytest.raises(StoreError, match="'Pair', which no package that is imported has registered"):
        store.load(tmp_path / "one", pair)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (dataclasses.make_dataclass("Space", ["name"], frozen=True), "a second kind of record named Space"),
        (dataclasses.make_dataclass("Loose", ["name"]), "Loose, which is not a frozen dataclass"),
        (int, "int, which is not a frozen dataclass"),
        ("Pair", "kind of type str"),
    ],
)
def test_what_cannot_be_registered_is_refused(kind: object, told: str) -> None:
    known = dict(store.RECORDS)
    with pytest.raises(BilensError, match=told):
        store.register(kind)  # type: ignore[type-var]
    assert known == store.RECORDS
