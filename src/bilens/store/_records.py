"""One record as a JSON file and a safetensors file, every field checked against its annotation when it is read."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from jaxtyping import AbstractArray, jaxtyped
from torch import Tensor

from bilens._internal import checks, files
from bilens._internal.checks import instance
from bilens.decompose import (
    CP,
    ODT,
    Audit,
    Coactivation,
    Decompiled,
    KernelTree,
    ScoreSVD,
    Spectra,
    Spectrum,
    StrongestInteractions,
    TensorSVD,
    WeightedSpectrum,
)
from bilens.deep import DeepTensor, Paths
from bilens.dictionary import Dictionary
from bilens.errors import BilensError, StoreError
from bilens.faithfulness import Curve, Row, Score
from bilens.features import Chart, CodeComparison, Detail, Explanation, FeatureSet, OutputTree, Samples, TreeSet
from bilens.history import History
from bilens.kernel import Kernel
from bilens.pairs import PairCodes
from bilens.sae import Evaluation
from bilens.space import Space
from bilens.tensor import BilinearTensor

FORMAT = 3
"""Version of the layout; a file of another version is refused."""

RECORDS: dict[str, type] = {
    record.__name__: record
    for record in (
        CP,
        Audit,
        ODT,
        BilinearTensor,
        Chart,
        Coactivation,
        CodeComparison,
        Curve,
        Decompiled,
        DeepTensor,
        Detail,
        Dictionary,
        Evaluation,
        Explanation,
        FeatureSet,
        History,
        Kernel,
        KernelTree,
        OutputTree,
        PairCodes,
        Paths,
        Row,
        Samples,
        Score,
        ScoreSVD,
        Space,
        Spectra,
        Spectrum,
        StrongestInteractions,
        TensorSVD,
        TreeSet,
        WeightedSpectrum,
    )
}
"""Every record that can be stored, by name. A new record of bilens is one more line here; others are registered."""

LATER = {"Spectra": {"metric"}, "ConvertedLayer": {"deltas"}}
"""Fields that came after records of their kind were stored first: one that lacks them has their defaults."""

AGAIN = "delete it and run the same command again"

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

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(Space("pixels", 4, image=(2, 2)), f"{folder}/space")
        ...     load(f"{folder}/space", Space)
        Space('pixels', 4, image 2×2)

    The JSON carries the checksum of the tensors and its own, the SHA-256 of everything else in it as JSON with sorted
    keys and without spaces: a reader gets the old record or the new one, or an error when a file was altered.

    Args:
        record: a record of bilens or of a registered kind, or a tuple of records.
        path: where, without an ending.

    Raises:
        StoreError: it is not a record of bilens, holds a number that JSON cannot, the folder cannot be written, or
            there is a file of that name that is no record. BilensError: `path` is not a path.
    """
    _require_record(path)
    write(record, path)


def _require_record(path: str | Path) -> None:
    """Refuse to replace files that no save of a record wrote, for example notes or the weights of a model."""
    source, tensors = beside(path, ".json"), beside(path, ".safetensors")
    there = [file for file in (source, tensors) if file.is_file()]

    def read(file: Path) -> None:
        if not {"format", "record", "sha256"} <= files.read_json(file).keys():
            raise StoreError(f"{file}", "a record")

    try:
        if there:
            files.settled(source, read)  # a save that was killed may have left its JSON under another name
    except StoreError:
        raise StoreError(
            f"{there[0]}, which is no record of bilens", "a new name, or that of a record", "name another path"
        ) from None


def write(record: Any, path: str | Path, place: Mapping[str, str] | None = None) -> None:
    """As `save`; a record of a run also carries its place: the run's checksum and the record's name."""
    source = beside(path, ".json")
    tensors: dict[str, Tensor] = {}
    content = _encode(record, "record", tensors)
    header: dict[str, Any] = {"format": FORMAT, "record": content}
    if place is not None:
        header["place"] = dict(place)
    if not tensors:
        files.write_sealed(source, header)
        return
    file = beside(path, ".safetensors")

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
    return read(path, kind)


def read(path: str | Path, kind: type[R], place: Mapping[str, str] | None = None) -> R:
    """As `load`; a record of another place than this is refused."""
    instance("kind", kind, type, "a class of records", "pass one, such as decompose.Spectra")
    file = beside(path, ".safetensors")
    return files.settled(beside(path, ".json"), lambda source: _parsed(source, file, kind, place))


def _parsed(source: Path, file: Path, kind: type[R], place: Mapping[str, str] | None) -> R:
    header = files.read_json(source)
    if type(header.get("format")) is not int or header["format"] != FORMAT:
        raise StoreError(
            f"{source} of format {header.get('format')!r:.40}", f"format {FORMAT}, as this version writes it", AGAIN
        )
    header = files.unsealed(source, header)
    if place is not None and (theirs := header.get("place")) != place:
        own = theirs if isinstance(theirs, dict) else {}
        other = own.get("run") == place["run"] and isinstance(own.get("name"), str)
        raise StoreError(
            f"{source} with the record {own['name']!r:.80}" if other else f"{source} with a record of another run",
            f"the record {place['name']!r} of the run that settings.json describes",
            f"put the file of this run back, or {AGAIN}",
        )
    tensors: dict[str, Tensor] = {}
    try:
        if "tensors" in header:
            if files.file_checksum(file) != header["tensors"]["sha256"]:
                raise StoreError(f"{file} with another checksum than {source} states", "the file as written", AGAIN)
            tensors, _ = files.read_tensors(file)
        record = _decode(header["record"], Any, tensors)
    except StoreError:
        raise
    except BilensError as error:
        raise StoreError(f"{source} with a record that is not valid ({error})", "a whole record", AGAIN) from error
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise StoreError(f"{source} with a damaged record ({error!s:.200})", "a whole record", AGAIN) from error
    stored = RECORDS.get(type(record).__name__) is type(record) or (isinstance(record, tuple) and record)
    if not isinstance(record, kind) or not stored:
        raise StoreError(f"{source} with a {type(record).__name__}", f"a {kind.__name__}")
    return record


def exists(path: str | Path) -> bool:
    """Whether a record was written there. Raises BilensError for what is not a path."""
    return beside(path, ".json").exists()


def _encode(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        checks.in_memory(name, value)
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
    if stated != expected and stated != expected - LATER.get(record.__name__, set()):
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


def beside(path: str | Path, ending: str) -> Path:
    """The file of a record with this ending. Raises BilensError for what is not a path of a file."""
    path = checks.path("path", path)
    if not path.name:
        raise BilensError(f"path {str(path)!r}, which names no file", "a name without an ending")
    return path.with_name(path.name + ending)
