"""Files that are replaced in one step, several at once: all of them are new, or all are as they were."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import safetensors

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
    with beside(*targets) as temporaries:
        yield tuple(temporaries)
        for temporary in temporaries:
            usual_permissions(temporary)
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
def beside(*paths: Path) -> Iterator[list[Path]]:
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


def usual_permissions(path: Path) -> None:
    """Give a temporary file the permissions that a new file has."""
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
        StoreError: a symbolic link on the way leads nowhere, or a file stands there. OSError: it cannot be made.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        refuse_below_file(path)
        raise


def refuse_below_file(path: Path) -> None:
    """Refuse a folder on whose way a symbolic link leads nowhere or a file stands. Raises StoreError."""
    for part in (path, *path.parents):
        if part.is_symlink() and not part.exists():
            raise dangling(part)
        if part.exists() and not part.is_dir():
            where = f"{path}, which is a file" if part == path else f"{path}, which lies below the file {part}"
            raise StoreError(where, "a folder", "name another one")


def dangling(link: Path) -> StoreError:
    """The error for a symbolic link to something that does not exist."""
    return StoreError(
        f"{link}, a symbolic link to {os.readlink(link)}, which does not exist",
        "a link to something that exists, or no link",
        "make what it leads to, or delete the link",
    )
