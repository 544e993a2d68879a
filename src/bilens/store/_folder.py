"""The folder of one run: its settings, and its records, each computed once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from bilens._internal import checks, files
from bilens.errors import StoreError
from bilens.store._records import AGAIN, exists, read, write

SETTINGS = "settings.json"
"""The file in a run's folder that says what the run was asked for."""

_UNIMPORTANT = {".DS_Store", ".directory", ".gitignore", ".gitkeep", "Thumbs.db", "desktop.ini"}
"""Files that make a folder no less empty."""

R = TypeVar("R")


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
        checks.instance("settings", settings, dict, "a mapping of texts to JSON values")
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
        theirs = settings_of(self.path)
        if theirs != settings:
            listed = ", ".join(_differences(theirs, settings))
            raise StoreError(
                f"folder {self.path} of a run with other settings ({listed})",
                "a new folder, or one of a run with these settings",
                "name another --out, or delete the folder",
            )

    def record(self, name: str, kind: type[R], compute: Callable[[], R]) -> R:
        """The record of this name: read when it is there, else computed and written."""
        path, place = self.path / "records" / _named(name), {"run": self._run, "name": name}
        if exists(path):
            return read(path, kind, place)
        started = time.monotonic()
        record = compute()
        write(record, path, place)
        self.clock(name, time.monotonic() - started)
        return record

    def has(self, name: str) -> bool:
        """Whether the record of this name is there."""
        return exists(self.path / "records" / _named(name))

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file with the run's checksum, its records' names and its own checksum, for `read_summary`."""
        names = sorted(_names(self.path))
        files.write_sealed(self.path / name, {**content, "run": self._run, "records": names})

    def clock(self, name: str, seconds: float) -> None:
        """Add the seconds that a step took to those it took before, in `timings.json`."""
        name, seconds = _named(name), checks.number("seconds", seconds, 0)
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


def _named(name: str) -> str:
    checks.instance("name", name, str, "a text")
    return name


def read_record(run: Path, name: str, kind: type[R]) -> R | None:
    """The record of this name in the folder of a run; None where the run has not computed it.

    Raises:
        StoreError: the record or the settings are damaged or altered, or the record is of another run.
    """
    run = checks.path("run", run)
    path = run / "records" / _named(name)
    if not exists(path):
        return None
    return read(path, kind, {"run": checksum(run), "name": name})


def read_records(run: Path, folder: str, kind: type[R]) -> tuple[R, ...]:
    """All records of a run whose names begin with `folder/`, by name.

    Raises:
        StoreError: as `read_record`.
    """
    names = sorted(name for name in _names(run) if name.startswith(f"{folder}/"))
    found = (read_record(run, name, kind) for name in names)
    return tuple(record for record in found if record is not None)


def verify(run: Path) -> None:
    """Check that the JSON of every record of a run is as it was written, those included that nobody is going to read.

    Raises:
        StoreError: one has no checksum, or another one than its content.
    """
    for name in sorted(_names(run)):
        files.settled(run / "records" / f"{name}.json", files.read_sealed)


def read_summary(run: Path, name: str) -> dict[str, Any]:
    """A JSON file that `Folder.write` wrote, without what it says of the folder; empty where there is none.

    Raises:
        StoreError: it is damaged or altered, of another run, or of records that are no longer there.
    """
    path = run / name
    if not path.exists():
        return {}
    content = files.read_sealed(path)
    if content.pop("run", None) != checksum(run):
        raise StoreError(f"{path} of another run", "that of the run that settings.json describes", AGAIN)
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


def checksum(run: Path) -> str:
    """Of the settings of a run."""
    try:
        return files.checksum(settings_of(run))
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


def settings_of(folder: Path) -> dict[str, Any]:
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
