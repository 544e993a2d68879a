"""Reading and writing files: safetensors and JSON, replaced in one step; one clear line for a file that is wrong."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
from torch import Tensor

from bilens.errors import StoreError

T = TypeVar("T")


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary file beside `path` that replaces it when the block ends without an error, and is deleted otherwise.

    A reader sees the old file or the new one, never a part of either.

    Raises:
        StoreError: the folder cannot be made or written, or the disk is full.
    """
    with replacing_all(path) as (temporary,):
        yield temporary


@contextlib.contextmanager
def replacing_all(*paths: str | Path) -> Iterator[tuple[Path, ...]]:
    """Temporary files beside several `paths` that replace them, in this order, once all of them are written.

    An error leaves every old file as it was. A kill between the first and the last replacement leaves the last files
    under their temporary names, where `settled` finds them: name the file that has the checksums of the others last.

    Raises:
        StoreError: a folder cannot be made or written, or the disk is full.
    """
    targets = [Path(path) for path in paths]
    with _beside(*targets) as temporaries:
        yield tuple(temporaries)
        for temporary in temporaries:
            _usual_permissions(temporary)
        older = [temporary.with_suffix(".old") for temporary in temporaries[:-1]]
        try:
            for path, old in zip(targets, older, strict=False):
                _keep(path, old)
            for path, temporary in zip(targets, temporaries, strict=True):
                os.replace(temporary, path)
        except BaseException:
            done = not any(temporary.exists() for temporary in temporaries)  # Ctrl-C came after the last replacement
            for path, temporary, old in zip(targets, temporaries, older, strict=False):
                if done or temporary.exists():  # not replaced yet
                    continue
                if old.exists():
                    os.replace(old, path)
                else:
                    path.unlink()
            raise
        finally:
            for old in older:
                with contextlib.suppress(OSError):
                    old.unlink(missing_ok=True)


@contextlib.contextmanager
def _beside(*paths: Path) -> Iterator[list[Path]]:
    """An empty temporary file beside each path; what is left of them when the block ends is deleted."""
    temporaries: list[Path] = []
    try:
        for path in paths:
            make_folder(path.parent)
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
            os.close(handle)
            temporaries.append(Path(name))
        yield temporaries
    except (OSError, safetensors.SafetensorError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error).rpartition("I/O error: ")[2]
        raise StoreError(
            f"'{reason}' on writing {paths[0] if len(paths) == 1 else paths[0].parent}",
            "a folder with room that can be written",
            "free space or name another folder",
        ) from error
    finally:
        for left in temporaries:
            with contextlib.suppress(OSError):
                left.unlink(missing_ok=True)


def _usual_permissions(path: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


def _keep(path: Path, old: Path) -> None:
    """Give a file, where there is one, a second name; a copy where the file system has no links."""
    if not path.is_file():
        return
    try:
        os.link(path, old)
    except OSError:
        shutil.copyfile(path, old)


def settled(path: Path, read: Callable[[Path], T]) -> T:
    """What `read` makes of a file, or of the version of it that a killed save left beside it.

    Args:
        path: the file that was named last in `replacing_all`; read: raises StoreError unless all files fit together.
    """
    try:
        return read(path)
    except StoreError:
        with contextlib.suppress(OSError):
            for left in sorted(path.parent.glob(f".{glob.escape(path.name)}.*.part")):
                with contextlib.suppress(StoreError):
                    return read(left)
        raise


def make_folder(path: str | Path) -> None:
    """Make a folder and those that it lies in.

    Raises:
        StoreError: a symbolic link on the way leads nowhere. OSError: it cannot be made.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        for link in (path, *path.parents):
            if link.is_symlink() and not link.exists():
                raise dangling(link) from None
        raise


def dangling(link: Path) -> StoreError:
    """The error for a symbolic link to something that does not exist."""
    return StoreError(
        f"{link}, a symbolic link to {os.readlink(link)}, which does not exist",
        "a link to something that exists, or no link",
        "make what it leads to, or delete the link",
    )


def create_json(path: str | Path, content: Any) -> bool:
    """Write a JSON file that does not exist yet. Of several processes that try at once, exactly one gets True.

    Raises:
        StoreError: the folder cannot be made or written, or the disk is full.
    """
    path = Path(path)
    with _beside(path) as (temporary,):
        temporary.write_text(_json(content), "utf-8")
        _usual_permissions(temporary)
        # A second name for a whole file: nobody sees a part of it, and only the first to ask gets the name.
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            try:
                with path.open("x", encoding="utf-8") as file:
                    file.write(_json(content))
            except FileExistsError:
                return False
        return True


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write bytes atomically. Raises StoreError when that cannot be done."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, content: str) -> None:
    """Write UTF-8 text atomically. Raises StoreError when that cannot be done."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON atomically. Raises StoreError when that cannot be done, ValueError for NaN or infinity."""
    write_text(path, _json(content))


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors as one safetensors file, atomically. Raises StoreError when that cannot be done."""
    with replacing(path) as temporary:
        _write_tensors(temporary, tensors, metadata)


def write_sealed(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object with its own checksum as the entry "sha256", so that `read_sealed` notices a change.

    Raises:
        StoreError: it cannot be written. ValueError: NaN or infinity.
    """
    write_json(path, sealed(content))


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with its own checksum as the entry "sha256"."""
    return {**content, "sha256": checksum(content)}


def write_pair(
    settings: str | Path, content: Mapping[str, Any], weights: str | Path, tensors: Mapping[str, Tensor]
) -> None:
    """Write a folder's JSON and safetensors file in one step, each with a checksum of the other.

    The JSON gets the entry "sha256", the checksum of the whole safetensors file; the header of that file gets the entry
    "bilens", the checksum of everything else in the JSON. Other programs ignore both.

    Raises:
        StoreError: they cannot be written; what was there before is then still there.
    """
    header = {"format": "pt", "bilens": checksum(content)}
    write_together(weights, tensors, header, settings, lambda sha256: {**content, "sha256": sha256})


def write_together(
    weights: str | Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None,
    description: str | Path,
    describe: Callable[[str], Mapping[str, Any]],
) -> None:
    """Write a safetensors file and the JSON file that describes it in one step, see `replacing_all`.

    Args:
        weights: the safetensors file, with its tensors and metadata.
        description: the JSON file; describe: gives its content from the SHA-256 of the safetensors file.

    Raises:
        StoreError: they cannot be written; what was there before is then still there.
    """
    with replacing_all(weights, description) as (first, last):
        _write_tensors(first, tensors, metadata)
        last.write_text(_json(describe(file_checksum(first))), "utf-8")


def read_pair(settings: str | Path, weights: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The JSON, without its checksum, and the tensors of a folder that `write_pair` or another program wrote.

    A folder without checksums is another program's and is read as it is; one with a single checksum, or with one that
    does not fit, is a mix or was altered.

    Raises:
        StoreError: a file is missing, damaged, a pickle, or not the one that was written with the other.
    """
    settings, weights = Path(settings), Path(weights)

    def read(source: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
        content = read_json(source)
        tensors, metadata = read_tensors(weights)
        stated, marked = content.pop("sha256", None), metadata.get("bilens")
        if source == settings and stated is None and marked is None:
            return content, tensors
        try:
            fits = stated == file_checksum(weights) and marked == checksum(content)
        except (ValueError, RecursionError):
            fits = False
        if not fits:
            raise StoreError(
                f"{settings} and {weights.name}, which were not written together or were altered since",
                "the two files of one save",
                "copy or save both again",
            )
        return content, tensors

    return settled(settings, read)


def checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON object but for its entry "sha256": of its values, whatever their order and layout.

    Raises:
        ValueError: NaN, infinity, or text that UTF-8 cannot hold.
    """
    rest = {name: value for name, value in content.items() if name != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def file_checksum(path: str | Path) -> str:
    """SHA-256 of a whole file. Raises StoreError when it is missing or cannot be read."""
    digest = hashlib.sha256()
    path = Path(path)
    try:
        with path.open("rb") as file:
            while part := file.read(1 << 20):
                digest.update(part)
    except OSError as error:
        raise StoreError(f"'{error.strerror}' on reading {path}", "a file that can be read") from error
    return digest.hexdigest()


def _json(content: Any) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> None:
    contiguous = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    safetensors.torch.save_file(contiguous, str(path), dict(metadata) if metadata else None)


def read_bytes(path: str | Path, count: int = -1) -> bytes:
    """The first bytes of a file, or all of them. Raises StoreError when it is missing or cannot be read."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as error:
        raise StoreError(f"'{error.strerror}' on reading {path}", "a file that can be read") from error


def read_json(path: str | Path) -> dict[str, Any]:
    """A JSON object. Raises StoreError when the file is missing, is no JSON or holds no object."""
    read = read_bytes(path)
    try:
        content = json.loads(read.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path}, which is no JSON", "a JSON file", "write it again") from error
    if not isinstance(content, dict):
        raise StoreError(f"{path} with a JSON {type(content).__name__}", "a JSON object", "write it again")
    return content


def read_sealed(path: str | Path) -> dict[str, Any]:
    """A JSON object that `write_sealed` wrote, without its checksum.

    Raises:
        StoreError: the file is missing, is no JSON, has no checksum, or another one than its content.
    """
    return unsealed(path, read_json(path))


def unsealed(path: str | Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a file that `sealed` made, without its checksum.

    Args:
        path: of the file, for the message.

    Raises:
        StoreError: it has no checksum, or another one than its content.
    """
    rest = {name: value for name, value in content.items() if name != "sha256"}
    try:
        fits = content.get("sha256") == checksum(rest)
    except (ValueError, RecursionError):
        fits = False
    if not fits:
        raise StoreError(
            f"{path} with another checksum than it states"
            if "sha256" in content
            else f"{path} without a checksum: of an older version, or altered",
            "the file as this version wrote it",
            "delete it and run the same command again",
        )
    return rest


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file. Nothing is ever unpickled.

    Raises:
        StoreError: the file is missing, damaged, or a pickle (as `torch.save` writes).
    """
    path = Path(path)
    start = read_bytes(path, 2)
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            metadata = dict(file.metadata() or {})
            # Copies: a mapped file that is overwritten later would change the tensors, or end the process.
            return {name: file.get_tensor(name).clone() for name in file.keys()}, metadata  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        # Only now: a safetensors file begins with the length of its header, which may be any of these bytes.
        if start in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
            raise StoreError(
                f"{path}, which looks like a pickle (torch.save)",
                "a safetensors file, because unpickling runs code from the file",
                "save the weights with safetensors.torch.save_file",
            ) from error
        reason = str(error).removeprefix("Error while deserializing header: ")
        raise StoreError(
            f"{path}, which cannot be read ({reason})", "a whole safetensors file", "copy or download it again"
        ) from error
