"""How large the tables of a job will be, before it starts."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bilens import store
from bilens._internal import checks
from bilens._internal.checks import whole
from bilens.errors import StoreError

ROW = {"features": 60, "eigenpairs": 30, "interactions": 20, "examples": 60}
"""Bytes of a row in compressed Parquet, measured on random weights; those of examples without their tokens."""

TOKEN, SEEN = 6, 12
"""Bytes of one token of an example with its value; and of an interaction's numbers from codes of data."""


@dataclass(frozen=True)
class Sizes:
    """Bytes of each table, of the vectors and of what else a job writes; printed, one line.

    Args:
        features, eigenpairs, interactions, examples: of the tables; vectors: of the safetensors files.
        others: what is in no table, by its name: activations, coders, pages.
    """

    features: int = 0
    eigenpairs: int = 0
    interactions: int = 0
    examples: int = 0
    vectors: int = 0
    others: Mapping[str, int] = field(default_factory=dict)

    @property
    def parts(self) -> dict[str, int]:
        """Bytes by name."""
        named = ("features", "eigenpairs", "interactions", "examples", "vectors")
        return {name: getattr(self, name) for name in named} | dict(self.others)

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.parts.values())

    def __str__(self) -> str:
        listed = ", ".join(f"{name} {_written(size)}" for name, size in self.parts.items() if size)
        return f"about {_written(self.total)} on disk: {listed}"

    def require(self, path: str | Path) -> None:
        """Refuse to begin where the disk has less room; what a run that goes on has written counts as room.

        Args:
            path: the run's folder, which need not exist yet.

        Raises:
            StoreError: less is free.
        """
        folder = checks.path("path", path).absolute()
        missing = max(0, self.total - _held(folder))
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        free = shutil.disk_usage(folder).free
        if free < missing:
            raise StoreError(
                f"{_written(free)} free at {folder}", f"{_written(missing)}", "free space or name another folder"
            )


def _held(run: Path) -> int:
    """Bytes of the files in the folder of a run; 0 for a folder of something else, which may be large."""
    if not (run / store.SETTINGS).is_file():
        return 0
    return sum(path.lstat().st_size for path in run.rglob("*") if path.is_file())


def estimate(
    *,
    layers: int = 1,
    features: int,
    pairs: int = 0,
    dim: int = 0,
    interactions: int = 0,
    codes: bool = False,
    examples: int = 0,
    tokens: int = 32,
    itemsize: int = 4,
) -> Sizes:
    """About how many bytes a job will write, to be shown before it starts.

    Examples:
        >>> print(estimate(layers=30, features=512, pairs=8, dim=577, interactions=100))
        about 318.9 MB on disk: features 921.6 kB, eigenpairs 3.7 MB, interactions 30.7 MB, vectors 283.6 MB

    Args:
        layers: how many; features: output features per layer; pairs: eigenpairs per feature, with vectors of `dim`
            numbers of `itemsize` bytes; interactions, examples: per feature; tokens: per example.
        codes: whether interactions also have what codes of data say.

    Raises:
        BilensError: a number below 0 or no whole number.
    """
    given = {"layers": layers, "features": features, "pairs": pairs, "dim": dim, "interactions": interactions}
    given |= {"examples": examples, "tokens": tokens, "itemsize": itemsize}
    n = {name: whole(name, value, 0) for name, value in given.items()}
    each = n["layers"] * n["features"]
    return Sizes(
        each * ROW["features"],
        each * n["pairs"] * ROW["eigenpairs"],
        each * n["interactions"] * (ROW["interactions"] + SEEN * checks.flag("codes", codes)),
        each * n["examples"] * (ROW["examples"] + n["tokens"] * TOKEN),
        each * n["pairs"] * n["dim"] * n["itemsize"],
    )


def _written(size: int) -> str:
    number = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
