"""Where the tensors of a model lie, and how one of them is read: safetensors in a folder or on a hub, or in memory.

Nothing is read until it is asked for, and then that tensor alone.
"""

from __future__ import annotations

import contextlib
import functools
import re
import socket
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple, Protocol, runtime_checkable
from urllib.parse import urlsplit

import safetensors
from torch import Tensor, nn

from bilens._internal.files import read_json
from bilens.errors import BilensError, StoreError

READABLE = ("float16", "bfloat16", "float32", "float64")
"""Types of weights that are read."""

PATIENCE = 4.0
"""Seconds within which a hub, or the proxy before it, takes a connection where there is a network. How long it then
takes to answer is not limited here."""

_PORTS = {"http": 80, "https": 443}
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")


class NothingStored(StoreError):
    """A folder or model on a hub without any safetensors."""


class Stored(NamedTuple):
    """What is known of a tensor before it is read: its shape and type."""

    shape: tuple[int, ...]
    dtype: str


@runtime_checkable
class Source(Protocol):
    """Where the tensors of one model lie.

    Attributes:
        title: of the model, for messages; config: what is known of it; gguf: whether names are those of GGUF files.
    """

    @property
    def title(self) -> str:
        """Of the model, for messages."""

    @property
    def config(self) -> Mapping[str, Any]:
        """What is known of the model, with the names of its format."""

    @property
    def gguf(self) -> bool:
        """Whether the names are those of GGUF files."""

    def names(self) -> tuple[str, ...]:
        """The names of all tensors, in their order."""

    def describe(self, name: str) -> Stored:
        """Shape and type of one tensor, without reading it."""

    def read(self, name: str, row: int | None = None) -> Tensor:
        """One tensor; with a number, that row of its first axis alone. It may share memory with the source."""


class SafetensorsFiles:
    """Tensors of safetensors files, one or several with an index.

    Args:
        title: of the model; locate: the path of a file by its name, or None where there is none.
        listed: names of all safetensors files, where a folder can be listed.

    Raises:
        StoreError: there is none, one that the index names is missing, or a file is damaged.
    """

    gguf = False

    def __init__(self, title: str, locate: Callable[[str], Path | None], listed: tuple[str, ...] = ()) -> None:
        self.title = title
        self._locate = locate
        found = locate("config.json")
        self.config: Mapping[str, Any] = {} if found is None else read_json(found)
        self._headers: dict[str, dict[str, Stored]] = {}
        self._files = self._find(listed)

    def _find(self, listed: tuple[str, ...]) -> dict[str, str]:
        """Name of a tensor → name of its file."""
        if self._locate(_WEIGHTS) is not None:
            return dict.fromkeys(self._header(_WEIGHTS), _WEIGHTS)
        index = self._locate(_INDEX)
        if index is not None:
            return self._indexed(index, listed)
        if shards := [match for name in listed if (match := _SHARD.fullmatch(name))]:
            total = int(shards[0][3])
            present = {int(match[2]) for match in shards}
            if missing := sorted(set(range(1, total + 1)) - present):
                name = f"{shards[0][1]}-{missing[0]:05}-of-{total:05}.safetensors"
                raise StoreError(
                    f"{self.title} without {name}", f"all {total} parts of the model", "copy or download it again"
                )
            return {name: shard[0] for shard in shards for name in self._header(shard[0])}
        if len(listed) == 1:
            return dict.fromkeys(self._header(listed[0]), listed[0])
        raise self._nothing(listed)

    def _nothing(self, listed: tuple[str, ...]) -> StoreError:
        if listed:
            return StoreError(
                f"{self.title} with {', '.join(listed[:4])}{', …' if len(listed) > 4 else ''} and no {_INDEX}",
                f"{_WEIGHTS}, or parts with an index",
                "name one of the files",
            )
        for pickle in ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "model.pth"):
            if self._locate(pickle) is not None:
                return StoreError(
                    f"{self.title} with {pickle}, which is a pickle",
                    f"{_WEIGHTS}, because unpickling runs code from the file",
                    "write it with bilens import, which runs none",
                )
        return NothingStored(f"{self.title} without {_WEIGHTS}", f"{_WEIGHTS}, {_INDEX} or a .gguf file")

    def _indexed(self, index: Path, listed: tuple[str, ...]) -> dict[str, str]:
        stated = read_json(index).get("weight_map")
        files: dict[str, str] = stated if isinstance(stated, dict) else {}
        if not files or not all(
            isinstance(file, str) and Path(file).name == file and file.endswith(".safetensors")
            for file in files.values()
        ):
            raise StoreError(f"{index} without a map of tensors to files", "weight_map", "copy or download it again")
        for file in sorted(set(files.values())) if listed else []:
            if file not in listed:
                raise StoreError(
                    f"{index}, which names {file}, a file that is not there",
                    f"all {len(set(files.values()))} files of the model",
                    "copy or download it again",
                )
        return files

    def names(self) -> tuple[str, ...]:
        """The names of all tensors."""
        return tuple(self._files)

    def describe(self, name: str) -> Stored:
        """Shape and type, from the header of its file."""
        file = self._files[name]
        header = self._header(file)
        if name not in header:
            raise StoreError(
                f"{self.title}, whose {file} lacks {name}, which the index has there", "an index and files of one model"
            )
        return header[name]

    def _header(self, file: str) -> dict[str, Stored]:
        if file not in self._headers:
            with self._open(file) as opened:
                slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
                self._headers[file] = {
                    name: Stored(tuple(part.get_shape()), _DTYPES.get(part.get_dtype(), part.get_dtype()))
                    for name, part in slices.items()
                }
        return self._headers[file]

    @contextlib.contextmanager
    def _open(self, file: str) -> Iterator[Any]:
        path = self._locate(file)
        if path is None:
            raise StoreError(f"{self.title} without {file}", "every file of the model", "copy or download it again")
        try:
            with safetensors.safe_open(str(path), framework="pt") as opened:
                yield opened
        except (safetensors.SafetensorError, OSError) as error:
            reason = str(error).removeprefix("Error while deserializing header: ")
            raise StoreError(
                f"{path}, which cannot be read ({reason})", "a whole safetensors file", "copy or download it again"
            ) from error

    def read(self, name: str, row: int | None = None) -> Tensor:
        """One tensor. Its file is opened for it alone, so that its bytes leave memory when the tensor does."""
        self.describe(name)
        with self._open(self._files[name]) as opened:
            value: Tensor = opened.get_tensor(name) if row is None else opened.get_slice(name)[row]
            return value


class InMemory:
    """Tensors of a model that is loaded already, of transformers or with the names of a layout that is given.

    Raises:
        BilensError: its weights are not in memory.
    """

    gguf = False

    def __init__(self, model: nn.Module) -> None:
        self.title = f"a {type(model).__name__} in memory"
        config: Any = getattr(model, "config", None)
        self.config: Mapping[str, Any] = config.to_dict() if hasattr(config, "to_dict") else {}
        self._tensors: dict[str, Tensor] = dict(model.state_dict())
        if any(value.is_meta for value in self._tensors.values()):
            raise BilensError(f"{self.title} with weights on the meta device", "weights in memory", "load them first")

    def names(self) -> tuple[str, ...]:
        """The names of all tensors."""
        return tuple(self._tensors)

    def describe(self, name: str) -> Stored:
        """Shape and type."""
        value = self._tensors[name]
        return Stored(tuple(value.shape), str(value.dtype).removeprefix("torch."))

    def read(self, name: str, row: int | None = None) -> Tensor:
        """One tensor: the model's own."""
        value = self._tensors[name].detach()
        return value if row is None else value[row]


def folder(path: Path) -> SafetensorsFiles:
    """The safetensors files of a folder."""

    def locate(name: str) -> Path | None:
        found = path / name
        return found if found.exists() else None

    return SafetensorsFiles(str(path), locate, tuple(sorted(part.name for part in path.glob("*.safetensors"))))


def single(path: Path) -> SafetensorsFiles:
    """One safetensors file, with the config that lies beside it."""

    def locate(name: str) -> Path | None:
        found = path if name == path.name else path.parent / name if name == "config.json" else None
        return found if found is not None and found.exists() else None

    return SafetensorsFiles(str(path), locate, (path.name,))


def hub(name: str) -> SafetensorsFiles:
    """The safetensors files of a model on Hugging Face's hub; each is downloaded when it is first read, and kept.

    Without a network a model that was downloaded before opens from what is kept.

    Raises:
        StoreError: no such model, or no network. BilensError: huggingface_hub is not installed.
    """
    there = reachable(name)
    return SafetensorsFiles(name, functools.cache(lambda file: downloaded(name, file, there)))


def downloaded(name: str, file: str, there: bool | None = None) -> Path | None:
    """The path of a file of a model on the hub, downloaded where it is not there yet; None where it has no such file.

    Args:
        name: of the model; file: of the file; there: whether the hub is `reachable`, where that is known.

    Raises: as `hub`.
    """
    huggingface_hub, errors, _ = _huggingface_hub(name)
    try:
        if reachable(name) if there is None else there:
            return Path(huggingface_hub.hf_hub_download(name, file))
        kept = huggingface_hub.try_to_load_from_cache(name, file)
        if kept is None:
            raise errors.LocalEntryNotFoundError(file)
        return Path(kept) if isinstance(kept, str) else None  # else the hub once said that it has no such file
    except (errors.EntryNotFoundError, errors.LocalEntryNotFoundError) as error:
        if isinstance(error, errors.LocalEntryNotFoundError):
            raise StoreError(
                f"no answer from the hub for {file} of {name}", "a network, or a folder", "download it, and name it"
            ) from error
        return None
    except Exception as error:  # whatever the HTTP library below it raises, of a proxy for example
        reason = " ".join(str(error).split())[:160]
        raise StoreError(f"{name!r}, which the hub does not give ({reason})", "a folder, or a model's name") from error


def listed_on_hub(name: str) -> tuple[str, ...]:
    """The names of all files of a model on the hub; none where it does not answer."""
    huggingface_hub, _, _ = _huggingface_hub(name)
    if not reachable(name):
        return ()
    try:
        return tuple(sorted(huggingface_hub.list_repo_files(name)))
    except Exception:  # whatever the HTTP library below it raises; who asked says what was not found
        return ()


def reachable(name: str) -> bool:
    """Whether the hub, or the proxy before it, takes a connection. Where there is no network huggingface_hub asks again
    and again, for half a minute or for several, before it says so.

    Args:
        name: of the model, for messages.
    """
    _, _, constants = _huggingface_hub(name)
    if constants.HF_HUB_OFFLINE:
        return False
    taken = []

    def connect() -> None:
        with contextlib.suppress(OSError, ValueError, OverflowError):  # the last two of addresses that are none
            address, proxies = urlsplit(constants.ENDPOINT), urllib.request.getproxies()
            proxy = proxies.get(address.scheme, proxies.get("all"))
            if proxy and not urllib.request.proxy_bypass(address.netloc):
                address = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
            place = (address.hostname or "", address.port or _PORTS.get(address.scheme, 1080))
            # A name may stand for two addresses, of which the first one leads nowhere.
            with socket.create_connection(place, timeout=PATIENCE / 2):
                taken.append(True)

    thread = Thread(target=connect, daemon=True)  # looking up a name has no limit of its own
    thread.start()
    thread.join(PATIENCE)
    return bool(taken)


def _huggingface_hub(name: str) -> tuple[Any, Any, Any]:
    try:
        import huggingface_hub
        from huggingface_hub import constants, errors
    except ImportError as error:
        raise BilensError(
            f"{name!r}, which is no file or folder, as the name of a model on a hub",
            "huggingface_hub, which downloads it",
            "install it: pip install 'bilens[lm]'",
        ) from error
    return huggingface_hub, errors, constants


__all__ = [
    "READABLE",
    "InMemory",
    "NothingStored",
    "SafetensorsFiles",
    "Source",
    "Stored",
    "downloaded",
    "folder",
    "hub",
    "listed_on_hub",
    "reachable",
    "single",
]
