"""Saves and loads any record: a safetensors file for its tensors, a JSON file for the rest, nothing pickled."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from bilens import checks, files
from bilens.checks import instance
from bilens.decompose import CP, Extrema, Spectra, Spectrum, Squares, TensorSVD, WeightedSpectrum
from bilens.dictionary import Dictionary
from bilens.errors import BilensError, StoreError
from bilens.faithfulness import Curve, Row, Score
from bilens.history import History
from bilens.measurement import Measurement
from bilens.pairs import PairCodes
from bilens.progress import bar
from bilens.sae import Evaluation
from bilens.space import Space
from bilens.tensor import BilinearTensor, Kernel
from bilens.views import CodeComparison, Detail, Explanation, Samples, View

FORMAT = 1
"""Version of the layout; a file of another version is refused."""

RECORDS: dict[str, type] = {
    record.__name__: record
    for record in (
        CP,
        BilinearTensor,
        CodeComparison,
        Curve,
        Detail,
        Dictionary,
        Evaluation,
        Explanation,
        Extrema,
        History,
        Kernel,
        Measurement,
        PairCodes,
        Row,
        Samples,
        Score,
        Space,
        Spectra,
        Spectrum,
        Squares,
        TensorSVD,
        View,
        WeightedSpectrum,
    )
}
"""Every record that can be stored, by name. A new record is one more line here."""

_AGAIN = "delete it and run the same command again"

R = TypeVar("R")


def save(record: Any, path: str | Path) -> None:
    """Write a record as `path`.json and `path`.safetensors (no file of tensors when it holds none).

    The tensors are written first and the JSON, which carries their checksum and its own, last, each atomically: a
    reader finds a whole record or is told that it is damaged. The JSON's own checksum is the SHA-256 of everything else
    in it, as JSON with sorted keys and without spaces.

    Args:
        record: a record of bilens, or a tuple of records.
        path: where, without an ending.

    Raises:
        StoreError: it is no record of bilens, holds a number that JSON cannot, or the folder cannot be written.
        BilensError: a path that is none.
    """
    _save(record, path)


def _save(record: Any, path: str | Path, batch: int | None = None) -> None:
    """As `save`; a batch carries its number."""
    source = _beside(path, ".json")
    tensors: dict[str, Tensor] = {}
    content = _encode(record, "record", tensors)
    header: dict[str, Any] = {"format": FORMAT, "record": content}
    if batch is not None:
        header["batch"] = batch
    if tensors:
        file = _beside(path, ".safetensors")
        files.write_tensors(file, tensors)
        header["tensors"] = {"file": file.name, "sha256": _checksum(file)}
    header["sha256"] = _own_checksum(header)
    files.write_json(source, header)


def load(path: str | Path, kind: type[R]) -> R:
    """Read a record that `save` wrote.

    Args:
        path: where, without an ending; kind: the record that is expected, `tuple` for several.

    Raises:
        StoreError: a file is missing, damaged or altered, of another version, or holds another record.
        BilensError: a path that is none.
    """
    return _load(path, kind)


def _load(path: str | Path, kind: type[R], batch: int | None = None) -> R:
    """As `load`; a batch with another number than this is refused."""
    instance("kind", kind, type, "a class of records", "pass one, such as decompose.Spectra")
    source = _beside(path, ".json")
    header = files.read_json(source)
    if header.get("format") != FORMAT:
        raise StoreError(
            f"{source} of format {header.get('format')!r}", f"format {FORMAT}", "write it again with this version"
        )
    tensors: dict[str, Tensor] = {}
    try:
        # Files written before there was a checksum of the JSON, or a number of the batch, have none.
        if "sha256" in header and header["sha256"] != _own_checksum(header):
            raise StoreError(f"{source} with another checksum than it states", "the file as written", _AGAIN)
        if batch is not None and header.get("batch", batch) != batch:
            raise StoreError(f"{source} with batch {header['batch']!r}", f"batch {batch}", _AGAIN)
        if "tensors" in header:
            file = _beside(path, ".safetensors")
            if _checksum(file) != header["tensors"]["sha256"]:
                raise StoreError(f"{file} with another checksum than {source} states", "the file as written", _AGAIN)
            tensors, _ = files.read_tensors(file)
        record = _decode(header.get("record"), tensors)
    except StoreError:
        raise
    except BilensError as error:
        raise StoreError(f"{source} with a record that is not valid ({error})", "a whole record", _AGAIN) from error
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise StoreError(f"{source} with a damaged record ({error})", "a whole record", _AGAIN) from error
    stored = RECORDS.get(type(record).__name__) is type(record) or (isinstance(record, tuple) and record)
    if not isinstance(record, kind) or (batch is not None and not stored):
        raise StoreError(f"{source} with a {type(record).__name__}", f"a {kind.__name__}")
    return record


def exists(path: str | Path) -> bool:
    """Whether a record was written there. Raises BilensError for a path that is none."""
    return _beside(path, ".json").exists()


class Folder:
    """The records of one run, each computed once: asking again reads it from the folder.

    A folder belongs to one set of settings, kept in `settings.json`, so that results of different runs never mix.

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

    def _claim(self, settings: dict[str, Any]) -> None:
        """Write the settings into a new folder, or check that they are those of an old one."""
        known = self.path / "settings.json"
        if known.exists():
            settings = json.loads(json.dumps(settings))
            theirs = _settings(self.path)
            if theirs != settings:
                names = sorted(n for n in theirs.keys() | settings.keys() if theirs.get(n) != settings.get(n))
                listed = ", ".join(f"{n} = {theirs.get(n)!r} and not {settings.get(n)!r}" for n in names)
                raise StoreError(
                    f"folder {self.path} of a run with other settings ({listed})",
                    "a new folder, or one of a run with these settings",
                    "name another --out, or delete the folder",
                )
            return
        if self.path.exists() and not self.path.is_dir():
            raise StoreError(f"{self.path}, which is a file", "a folder", "name another --out")
        if self.path.is_dir() and any(self.path.iterdir()):
            raise StoreError(
                f"folder {self.path} with files of something else", "an empty or new folder", "name another --out"
            )
        files.write_json(known, settings)

    def record(self, name: str, kind: type[R], compute: Callable[[], R]) -> R:
        """The record of this name: read when it is there, else computed and written."""
        path = self.path / "records" / name
        if exists(path):
            return load(path, kind)
        started = time.monotonic()
        record = compute()
        save(record, path)
        self.clock(name, time.monotonic() - started)
        return record

    def has(self, name: str) -> bool:
        """Whether the record of this name is there."""
        return exists(self.path / "records" / name)

    def clock(self, name: str, seconds: float) -> None:
        """Add the seconds that a step took to those it took before, in `timings.json`."""
        known = self.timings
        files.write_json(self.path / "timings.json", known | {name: round(known.get(name, 0.0) + seconds, 2)})

    @property
    def timings(self) -> dict[str, float]:
        """Seconds that each step took, whenever it was computed."""
        path = self.path / "timings.json"
        return files.read_json(path) if path.exists() else {}


class DamagedBatchWarning(UserWarning):
    """A batch that was written is no longer whole, and is computed again."""


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
    """Compute and write one record after another, for results larger than memory; those that are there are kept.

    A run that was stopped, by Ctrl-C or by a kill, goes on with the batch it was at when it is started again. What it
    had written is read first, and a batch that is cut short or altered is computed again, with a `DamagedBatchWarning`.

    Args:
        batches: what to compute; path: a folder for these settings alone; progress: whether to show a bar.

    Cost: what is there is read once, a batch at a time, for its checksums.

    Raises:
        StoreError: the folder belongs to other settings, holds other files, or cannot be written. BilensError: what
            is no stream of records.
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
        record = folder.path / "records" / _batch(n)
        if not exists(record):
            missing.append(n)
        elif found := _damage(record, n):
            missing.append(n)
            damaged.append(found)
    if damaged:
        warnings.warn(
            f"{path}: batches that are damaged, and computed again: {len(damaged)}; the first: {damaged[0]}",
            DamagedBatchWarning,
            stacklevel=2,
        )
    with bar(f"writing {Path(path).name}", len(batches), done=len(batches) - len(missing), show=progress) as step:
        for n in missing:
            _save(batches.batch(n), folder.path / "records" / _batch(n), n)
            step(1)


def load_batches(path: str | Path, kind: type[R]) -> Iterator[R]:
    """The records that `save_batches` wrote, one at a time, in order.

    Args:
        path: the folder; kind: of the records.

    Raises:
        StoreError: no such folder, one that is not finished, or a damaged record.
    """
    path = checks.path("path", path)
    settings = _settings(path)
    count = settings.get("batches")
    if type(count) is not int:
        raise StoreError(f"{path}, which holds no batches", "a folder of save_batches", "name another folder")
    missing = [n for n in range(count) if not _whole(path / "records" / _batch(n))]
    if missing:
        raise StoreError(
            f"{path} with {count - len(missing)} of {count} batches", "all of them", "run save_batches to its end"
        )
    return (_load(path / "records" / _batch(n), kind, n) for n in range(count))


def _settings(folder: Path) -> dict[str, Any]:
    """What the folder says that its run was asked for."""
    known = folder / "settings.json"
    try:
        return files.read_json(known)
    except StoreError as error:
        if isinstance(error.__cause__, OSError):
            raise
        raise StoreError(
            f"{known}, which is damaged, beside records that may well be whole",
            "the settings that they were computed with, as JSON",
            "write that file alone again, by bilens.files.write_json(file, settings) with the settings of the run or "
            "of the stream (stream.settings), and go on: each record is checked when it is read",
        ) from error


def _whole(path: Path) -> bool:
    """Whether both files of a record with tensors are there."""
    return exists(path) and _beside(path, ".safetensors").exists()


def _damage(path: Path, batch: int) -> str:
    """Why a batch cannot be read; empty when it can."""
    try:
        _load(path, object, batch)
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
    if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise StoreError(f"{name} as {type(value).__name__} {value!r:.40}", "a record, tensor, text or number")


def _decode(content: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(content, list):
        return tuple(_decode(item, tensors) for item in content)
    if isinstance(content, dict):
        if "tensor" in content:
            return tensors[content["tensor"]]
        fields = {name: _decode(value, tensors) for name, value in content["fields"].items()}
        return RECORDS[content["kind"]](**fields)
    return content


def _beside(path: str | Path, ending: str) -> Path:
    path = checks.path("path", path)
    if not path.name:
        raise BilensError(f"path {str(path)!r}, which names no file", "a name without an ending")
    return path.with_name(path.name + ending)


def _own_checksum(header: dict[str, Any]) -> str:
    """Of a header but for its checksum: of its values, whatever the order and the spaces they are written in."""
    rest = {name: value for name, value in header.items() if name != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _checksum(path: Path) -> str:
    return hashlib.sha256(files.read_bytes(path)).hexdigest()


__all__ = [
    "FORMAT",
    "RECORDS",
    "Batches",
    "DamagedBatchWarning",
    "Folder",
    "exists",
    "load",
    "load_batches",
    "save",
    "save_batches",
]
