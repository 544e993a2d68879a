"""Saves and loads records: a safetensors file for the tensors, a JSON file for the rest, nothing pickled."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints, runtime_checkable

from jaxtyping import AbstractArray, jaxtyped
from torch import Tensor

from bilens import files
from bilens._internal import checks
from bilens._internal.checks import instance
from bilens.decompose import CP, Spectra, Spectrum, TensorSVD, WeightedSpectrum
from bilens.dictionary import Dictionary
from bilens.errors import BilensError, StoreError
from bilens.faithfulness import Curve, Row, Score
from bilens.features import Chart, CodeComparison, Detail, Explanation, FeatureSet, Samples
from bilens.history import History
from bilens.kernel import Kernel
from bilens.pairs import PairCodes
from bilens.progress import bar
from bilens.sae import Evaluation
from bilens.space import Space
from bilens.tensor import BilinearTensor

FORMAT = 3
"""Version of the layout; a file of another version is refused."""

RECORDS: dict[str, type] = {
    record.__name__: record
    for record in (
        CP,
        BilinearTensor,
        Chart,
        CodeComparison,
        Curve,
        Detail,
        Dictionary,
        Evaluation,
        Explanation,
        FeatureSet,
        History,
        Kernel,
        PairCodes,
        Row,
        Samples,
        Score,
        Space,
        Spectra,
        Spectrum,
        TensorSVD,
        WeightedSpectrum,
    )
}
"""Every record that can be stored, by name. A new record of bilens is one more line here; others are registered."""

SETTINGS = "settings.json"
"""The file in a run's folder that says what the run was asked for."""

_UNIMPORTANT = {".DS_Store", ".directory", ".gitignore", ".gitkeep", "Thumbs.db", "desktop.ini"}
"""Files that make a folder no less empty."""

_AGAIN = "delete it and run the same command again"

R = TypeVar("R")


def register(kind: type[R]) -> type[R]:
    """Let records of another package be stored: a decorator of a frozen dataclass, or a call.

    Its fields are annotated as those of bilens are: tensors by shape, texts, numbers, records and tuples of these.
    Records are stored under the name of their class, which is why two classes of one name cannot both be.

    Args:
        kind: the class. Registering it again changes nothing.

    Returns:
        The class as it is.

    Raises:
        StoreError: it is not a frozen dataclass, or another class of its name can be stored.
    """
    instance("kind", kind, type, "a class of records", "pass a frozen dataclass")
    parameters = getattr(kind, "__dataclass_params__", None)
    if parameters is None or not parameters.frozen:
        raise StoreError(f"{kind.__name__}, which is not a frozen dataclass", "a class of records that never change")
    if RECORDS.setdefault(kind.__name__, kind) is not kind:
        raise StoreError(
            f"a second kind of record named {kind.__name__}", "one class of each name", "give it another name"
        )
    return kind


def save(record: Any, path: str | Path) -> None:
    """Write a record as `path`.json and `path`.safetensors (no file of tensors when it holds none), in one step.

    The JSON carries the checksum of the tensors and its own, the SHA-256 of everything else in it as JSON with sorted
    keys and without spaces: a reader gets the old record or the new one, or an error when a file was altered.

    Args:
        record: a record of bilens or of a registered kind, or a tuple of records.
        path: where, without an ending.

    Raises:
        StoreError: it is not a record of bilens, holds a number that JSON cannot, or the folder cannot be written.
        BilensError: `path` is not a path.
    """
    _save(record, path)


def _save(record: Any, path: str | Path, place: Mapping[str, str] | None = None) -> None:
    """As `save`; a record of a run also carries its place: the run's checksum and the record's name."""
    source = _beside(path, ".json")
    tensors: dict[str, Tensor] = {}
    content = _encode(record, "record", tensors)
    header: dict[str, Any] = {"format": FORMAT, "record": content}
    if place is not None:
        header["place"] = dict(place)
    if not tensors:
        files.write_sealed(source, header)
        return
    file = _beside(path, ".safetensors")

    def describe(sha256: str) -> dict[str, Any]:
        return files.sealed(header | {"tensors": {"file": file.name, "sha256": sha256}})

    files.write_together(file, tensors, None, source, describe)


def load(path: str | Path, kind: type[R]) -> R:
    """Read a record that `save` wrote. Every field is checked against its annotation.

    Args:
        path: where, without an ending; kind: the record that is expected, `tuple` for several.

    Raises:
        StoreError: a file is missing, damaged or altered, of another version, or holds another record.
        BilensError: `path` is not a path.
    """
    return _load(path, kind)


def _load(path: str | Path, kind: type[R], place: Mapping[str, str] | None = None) -> R:
    """As `load`; a record of another place than this is refused."""
    instance("kind", kind, type, "a class of records", "pass one, such as decompose.Spectra")
    return files.settled(
        _beside(path, ".json"), lambda source: _read(source, _beside(path, ".safetensors"), kind, place)
    )


def _read(source: Path, file: Path, kind: type[R], place: Mapping[str, str] | None) -> R:
    header = files.read_json(source)
    if type(header.get("format")) is not int or header["format"] != FORMAT:
        raise StoreError(
            f"{source} of format {header.get('format')!r:.40}", f"format {FORMAT}, as this version writes it", _AGAIN
        )
    header = files.unsealed(source, header)
    if place is not None and (theirs := header.get("place")) != place:
        own = theirs if isinstance(theirs, dict) else {}
        other = own.get("run") == place["run"] and isinstance(own.get("name"), str)
        raise StoreError(
            f"{source} with the record {own['name']!r:.80}" if other else f"{source} with a record of another run",
            f"the record {place['name']!r} of the run that settings.json describes",
            "put the file of this run back, or delete it and run the same command again",
        )
    tensors: dict[str, Tensor] = {}
    try:
        if "tensors" in header:
            if files.file_checksum(file) != header["tensors"]["sha256"]:
                raise StoreError(f"{file} with another checksum than {source} states", "the file as written", _AGAIN)
            tensors, _ = files.read_tensors(file)
        record = _decode(header["record"], Any, tensors)
    except StoreError:
        raise
    except BilensError as error:
        raise StoreError(f"{source} with a record that is not valid ({error})", "a whole record", _AGAIN) from error
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise StoreError(f"{source} with a damaged record ({error!s:.200})", "a whole record", _AGAIN) from error
    stored = RECORDS.get(type(record).__name__) is type(record) or (isinstance(record, tuple) and record)
    if not isinstance(record, kind) or not stored:
        raise StoreError(f"{source} with a {type(record).__name__}", f"a {kind.__name__}")
    return record


def exists(path: str | Path) -> bool:
    """Whether a record was written there. Raises BilensError for what is not a path."""
    return _beside(path, ".json").exists()


class Folder:
    """The records of one run, each computed once: asking again reads it from the folder.

    A folder belongs to one set of settings, kept in `settings.json`, so that results of different runs never mix: of
    several processes that begin at once, those with the settings of the first get the folder, the others an error. Each
    record carries the checksum of the settings and its name, so that one of another run or place is refused.

    Args:
        path: the folder, made when it does not exist.
        settings: what the run was asked for, JSON values.

    Raises:
        StoreError: the folder belongs to other settings, holds other files, or cannot be written.
    """

    def __init__(self, path: str | Path, settings: dict[str, Any]) -> None:
        self.path = checks.path("path", path)
        try:
            self._claim(settings)
        except OSError as error:
            raise StoreError(
                f"'{error.strerror}' on opening {self.path}",
                "a folder that can be read and written",
                "name another --out",
            ) from error
        self._run = files.checksum(json.loads(json.dumps(settings)))

    def _claim(self, settings: dict[str, Any]) -> None:
        """Write the settings into a new folder, or check that they are those of an old one."""
        known = self.path / SETTINGS
        if not known.exists():
            if self.path.is_symlink() and not self.path.exists():
                raise files.dangling(self.path)
            if self.path.exists() and not self.path.is_dir():
                raise StoreError(f"{self.path}, which is a file", "a folder", "name another --out")
            others = [entry for entry in _entries(self.path) if entry.name != SETTINGS]
            # Another process may have begun, and written, since the first look.
            if others and not known.exists():
                raise StoreError(
                    f"folder {self.path} with files of something else, such as {others[0].name}",
                    "an empty or new folder",
                    "name another --out",
                )
            if files.create_json(known, settings):
                return
        settings = json.loads(json.dumps(settings))
        theirs = _settings(self.path)
        if theirs != settings:
            listed = ", ".join(_differences(theirs, settings))
            raise StoreError(
                f"folder {self.path} of a run with other settings ({listed})",
                "a new folder, or one of a run with these settings",
                "name another --out, or delete the folder",
            )

    def record(self, name: str, kind: type[R], compute: Callable[[], R]) -> R:
        """The record of this name: read when it is there, else computed and written."""
        path, place = self.path / "records" / name, {"run": self._run, "name": name}
        if exists(path):
            return _load(path, kind, place)
        started = time.monotonic()
        record = compute()
        _save(record, path, place)
        self.clock(name, time.monotonic() - started)
        return record

    def has(self, name: str) -> bool:
        """Whether the record of this name is there."""
        return exists(self.path / "records" / name)

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file with the run's checksum, its records' names and its own checksum, for `read_summary`."""
        names = sorted(_names(self.path))
        files.write_sealed(self.path / name, {**content, "run": self._run, "records": names})

    def clock(self, name: str, seconds: float) -> None:
        """Add the seconds that a step took to those it took before, in `timings.json`."""
        known = self.timings
        files.write_sealed(self.path / "timings.json", known | {name: round(known.get(name, 0.0) + seconds, 2)})

    @property
    def timings(self) -> dict[str, float]:
        """Seconds that each step took, whenever it was computed.

        Raises:
            StoreError: the file is damaged.
        """
        path = self.path / "timings.json"
        return files.read_sealed(path) if path.exists() else {}


def read_record(run: Path, name: str, kind: type[R]) -> R | None:
    """The record of this name in the folder of a run; None where the run has not computed it.

    Raises:
        StoreError: the record or the settings are damaged or altered, or the record is of another run.
    """
    path = run / "records" / name
    if not exists(path):
        return None
    return _load(path, kind, {"run": _checksum(run), "name": name})


def read_records(run: Path, folder: str, kind: type[R]) -> tuple[R, ...]:
    """All records of a run whose names begin with `folder/`, by name.

    Raises:
        StoreError: as `read_record`.
    """
    names = sorted(name for name in _names(run) if name.startswith(f"{folder}/"))
    found = (read_record(run, name, kind) for name in names)
    return tuple(record for record in found if record is not None)


def read_summary(run: Path, name: str) -> dict[str, Any]:
    """A JSON file that `Folder.write` wrote, without what it says of the folder; empty where there is none.

    Raises:
        StoreError: it is damaged or altered, of another run, or of records that are no longer there.
    """
    path = run / name
    if not path.exists():
        return {}
    content = files.read_sealed(path)
    if content.pop("run", None) != _checksum(run):
        raise StoreError(f"{path} of another run", "that of the run that settings.json describes", _AGAIN)
    there = _names(run)
    missing = [record for record in content.pop("records", ()) if record not in there]
    if missing:
        raise StoreError(
            f"{run} without the record {missing[0]!r}, which {name} is of",
            f"all records of {name}",
            "put it back, or run the same command again",
        )
    return content


def _names(run: Path) -> set[str]:
    """The names of a run's records."""
    root = run / "records"
    return {path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("[!.]*.json")}


def _checksum(run: Path) -> str:
    """Of the settings of a run."""
    try:
        return files.checksum(_settings(run))
    except (ValueError, RecursionError) as error:
        if isinstance(error, StoreError):
            raise
        raise _damaged(run / SETTINGS) from error


def _entries(folder: Path) -> list[Path]:
    """What is in a folder, but for what file managers and git leave there and what a run that was killed left."""
    if not folder.is_dir():
        return []
    return [
        entry
        for entry in sorted(folder.iterdir())
        if entry.name not in _UNIMPORTANT
        and not (entry.name.startswith(f".{SETTINGS}.") and entry.name.endswith(".part"))
    ]


class DamagedBatchWarning(UserWarning):
    """A batch that was written is damaged or altered, and is computed again."""


@runtime_checkable
class Batches(Protocol):
    """Records that are computed one after another and can be asked for by number, for example a `SpectraStream`."""

    @property
    def settings(self) -> dict[str, Any]:
        """What they depend on, as JSON values."""

    def __len__(self) -> int:
        """How many there are."""

    def batch(self, n: int) -> Any:
        """The n-th."""


def save_batches(batches: Batches, path: str | Path, *, progress: bool = True) -> None:
    """Compute and write records one after another, for results larger than memory; existing ones are kept.

    A run that was stopped, by Ctrl-C or by a kill, continues with the batch it was at when it is started again. Batches
    that exist are read first; one that is cut short or altered is computed again, with a `DamagedBatchWarning`.

    Args:
        batches: what to compute; path: a folder for these settings alone; progress: whether to show a bar.

    Cost: existing batches are read once, one at a time, to verify their checksums.

    Raises:
        StoreError: the folder belongs to other settings, holds other files, or cannot be written. BilensError:
            `batches` is not a stream of records.
    """
    # Of the type: asking the object itself would compute its settings once more.
    if not all(hasattr(type(batches), name) for name in ("settings", "batch", "__len__")):
        raise BilensError(
            f"a {type(batches).__name__}, which has no numbered batches and settings",
            "a stream of records",
            "make one with spectra_stream",
        )
    folder = Folder(path, batches.settings)
    missing, damaged = [], []
    for n in range(len(batches)):
        if not folder.has(_batch(n)):
            missing.append(n)
        elif found := _damage(folder.path, n):
            missing.append(n)
            damaged.append(found)
    if damaged:
        warnings.warn(
            f"{path}: damaged batches that are computed again: {len(damaged)}; the first: {damaged[0]}",
            DamagedBatchWarning,
            stacklevel=2,
        )
    run = _checksum(folder.path)
    with bar(f"writing {Path(path).name}", len(batches), done=len(batches) - len(missing), show=progress) as step:
        for n in missing:
            _save(batches.batch(n), folder.path / "records" / _batch(n), {"run": run, "name": _batch(n)})
            step(1)


def load_batches(path: str | Path, kind: type[R]) -> Iterator[R]:
    """The records that `save_batches` wrote, one at a time, in order.

    Args:
        path: the folder; kind: of the records.

    Raises:
        StoreError: the folder does not exist or is not finished, or a record is damaged or altered.
    """
    path = checks.path("path", path)
    settings = _settings(path)
    count = settings.get("batches")
    if type(count) is not int or not 0 <= count < 10**9:
        raise StoreError(f"{path}, which holds no batches", "a folder of save_batches", "name another folder")
    missing = [n for n in range(count) if not _whole(path / "records" / _batch(n))]
    if missing:
        raise StoreError(
            f"{path} with {count - len(missing)} of {count} batches", "all of them", "run save_batches to its end"
        )
    run = _checksum(path)
    return (_load(path / "records" / _batch(n), kind, {"run": run, "name": _batch(n)}) for n in range(count))


def _settings(folder: Path) -> dict[str, Any]:
    """What the folder says that its run was asked for."""
    known = folder / SETTINGS
    try:
        return files.read_json(known)
    except StoreError as error:
        if isinstance(error.__cause__, OSError):
            raise
        raise _damaged(known) from error


def _damaged(known: Path) -> StoreError:
    return StoreError(
        f"{known}, which is damaged, beside records that may well be whole",
        "the settings that they were computed with, as JSON",
        "write that file alone again, by bilens.files.write_json(file, settings) with the settings of the run or of "
        "the stream (stream.settings), and continue: each record is checked when it is read",
    )


def _differences(theirs: Any, ours: Any, name: str = "") -> Iterator[str]:
    """The settings that differ, "name: old → new" for each, with the path of one inside another: "model.hidden"."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted(theirs.keys() | ours.keys()):
            yield from _differences(theirs.get(key), ours.get(key), f"{name}.{key}".lstrip("."))
    elif theirs != ours:
        old, new = ("none" if value is None else json.dumps(value, ensure_ascii=False) for value in (theirs, ours))
        yield f"{name}: {old} → {new}"


def _whole(path: Path) -> bool:
    """Whether both files of a record with tensors are there."""
    return exists(path) and _beside(path, ".safetensors").exists()


def _damage(folder: Path, n: int) -> str:
    """Why a batch cannot be read; empty when it can."""
    try:
        read_record(folder, _batch(n), object)
    except StoreError as error:
        return str(error).partition("; expected ")[0].removeprefix("got ")
    return ""


def _batch(n: int) -> str:
    return f"batch-{n:06d}"


def _encode(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if dataclasses.is_dataclass(value) and RECORDS.get(type(value).__name__) is type(value):
        fields = {
            field.name: _encode(getattr(value, field.name), f"{name}.{field.name}", tensors)
            for field in dataclasses.fields(value)
        }
        return {"kind": type(value).__name__, "fields": fields}
    if isinstance(value, tuple | list):
        return [_encode(item, f"{name}.{i}", tensors) for i, item in enumerate(value)]
    if isinstance(value, Mapping) and "." in name and all(isinstance(key, str) for key in value):  # inside a record
        return {"mapping": {key: _encode(item, f"{name}.{key}", tensors) for key, item in value.items()}}
    if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise StoreError(f"{name} as {type(value).__name__} {value!r:.40}", "a record, tensor, text or number")


def _decode(content: Any, kind: Any, tensors: Mapping[str, Tensor], name: str = "record") -> Any:
    """The value that a part of a record's JSON stands for, checked against the annotation of its field.

    Raises:
        ValueError: it does not fit the annotation. KeyError: no such tensor, record or field.
    """
    choices = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        if content is None and NoneType in choices:
            return None
        (kind,) = (choice for choice in choices if choice is not NoneType)
        choices = get_args(kind)
    if isinstance(content, list):
        if kind is Any:
            choices = (Any, ...)
        elif get_origin(kind) is not tuple:
            raise ValueError(f"{name} is a list")
        kinds = [choices[0]] * len(content) if choices[1:] == (...,) else list(choices)
        if len(kinds) != len(content):
            raise ValueError(f"{name} has {len(content)} entries and not {len(kinds)}")
        return tuple(
            _decode(item, k, tensors, f"{name}.{i}") for i, (item, k) in enumerate(zip(content, kinds, strict=True))
        )
    if isinstance(content, dict) and "mapping" in content:
        if kind is not Any and get_origin(kind) is not Mapping:
            raise ValueError(f"{name} is a mapping and not {_title(kind)}")
        inside = choices[1] if choices else Any
        return {key: _decode(item, inside, tensors, f"{name}.{key}") for key, item in content["mapping"].items()}
    if isinstance(content, dict):
        return (
            _decode_tensor(content, kind, tensors, name)
            if "tensor" in content
            else _decode_record(content, kind, tensors, name)
        )
    if get_origin(kind) is Literal:
        good = type(content) is str and content in choices
    elif kind is float:
        good = type(content) in (int, float) and math.isfinite(content)
    else:
        good = kind is Any or (kind in (bool, int, str) and type(content) is kind)
    if not good:
        raise ValueError(f"{name} = {content!r:.40}, which is not {_title(kind)}")
    return content


def _decode_tensor(content: dict[str, Any], kind: Any, tensors: Mapping[str, Tensor], name: str) -> Tensor:
    tensor = tensors[content["tensor"]]
    if kind is not Any and not (isinstance(kind, type) and issubclass(kind, AbstractArray)):
        raise ValueError(f"{name} is a tensor and not {_title(kind)}")
    return tensor


def _decode_record(content: dict[str, Any], kind: Any, tensors: Mapping[str, Tensor], name: str) -> Any:
    record = RECORDS.get(content["kind"])
    if record is None:
        raise ValueError(
            f"{name} of the kind {content['kind']!r:.40}, which no package that is imported has registered"
        )
    if kind is not Any and kind is not record:
        raise ValueError(f"{name} is a {record.__name__} and not {_title(kind)}")
    kinds = _annotations(record)
    stated, expected = set(content["fields"]), {field.name for field in dataclasses.fields(record)}
    if stated != expected:
        raise ValueError(f"{name} lacks or adds {', '.join(sorted(stated ^ expected)):.80}")
    fields = {
        field: _decode(value, kinds[field], tensors, f"{name}.{field}") for field, value in content["fields"].items()
    }
    with jaxtyped("context"):  # one letter is one size in all fields
        for field, value in fields.items():
            if isinstance(value, Tensor) and not isinstance(value, kinds[field]):
                raise TypeError(
                    f"{name}.{field} of {value.dtype} and shape {tuple(value.shape)}, not {_title(kinds[field])}"
                )
    return record(**fields)


@functools.cache
def _annotations(record: type) -> dict[str, Any]:
    """The types of a record's fields; they are written as texts, and reading those takes longer than a record."""
    return get_type_hints(record)


def _title(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind)


def _beside(path: str | Path, ending: str) -> Path:
    path = checks.path("path", path)
    if not path.name:
        raise BilensError(f"path {str(path)!r}, which names no file", "a name without an ending")
    return path.with_name(path.name + ending)


__all__ = [
    "FORMAT",
    "RECORDS",
    "SETTINGS",
    "Batches",
    "DamagedBatchWarning",
    "Folder",
    "exists",
    "load",
    "load_batches",
    "read_record",
    "read_records",
    "read_summary",
    "register",
    "save",
    "save_batches",
]
